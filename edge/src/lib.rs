//! Reads faces from a source in real time and publishes predictions.
//!
//! [`source`] gives frames, [`pipeline`] turns each into [`prediction`]s, the [`hub`] hands them to every [`sink`], [`run`]
//! joins them and keeps [`stats`] and [`telemetry`], which [`http`] shows.

pub mod bench;
pub mod cameras;
pub mod check;
pub mod governor;
pub mod http;
pub mod hub;
pub mod learn;
pub mod logging;
pub mod mailbox;
mod memory;
pub mod pipeline;
pub mod prediction;
pub mod preview;
pub mod run;
pub mod service;
pub mod settings;
pub mod sink;
pub mod smooth;
pub mod source;
pub mod stats;
pub mod telemetry;
pub mod users;
