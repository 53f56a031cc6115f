//! Linear heads over embeddings, and the metrics that judge them.
//!
//! The encoder is frozen on a device; what is read from its embedding, and what adapts, is linear. This crate knows
//! nothing of pictures: it works on embeddings and labels alone.

pub mod adapt;
pub mod bundle;
pub mod candidate;
pub mod dataset;
pub mod fit;
pub mod heads;
pub mod labelled;
mod linalg;
pub mod metrics;
pub mod profile;
pub mod recording;
pub mod session;
pub mod temporal;
mod validate;

pub use dataset::{Dataset, DatasetError, Label, Moment};
pub use heads::{HeadKind, Heads, HeadsError, LinearHead, MAX_LABELS, argmax, sigmoid, softmax_in_place};
