//! Clip store, self-supervised pretraining, evaluation and export of face encoders.

pub mod allocator;
pub mod augment;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod eval;
pub mod export;
pub mod facecheck;
pub mod facenet;
pub mod faces;
pub mod finder;
pub mod inspect;
pub mod landmarks;
pub mod make;
pub mod method;
pub mod nets;
pub mod ntxent;
pub mod optim;
pub mod prepare;
pub mod pretrain;
pub mod progress;
pub mod store;
pub mod synth;
