//! Reads faces from a source in real time and publishes predictions.
//!
//! [`source`] gives frames, [`pipeline`] turns each into [`prediction`]s, [`sink`] hands them on, [`run`] joins the
//! three and keeps [`stats`].

pub mod bench;
pub mod pipeline;
pub mod prediction;
pub mod run;
pub mod sink;
pub mod source;
pub mod stats;
