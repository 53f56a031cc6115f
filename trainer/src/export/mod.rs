//! Export of an encoder as ONNX.

mod graph;

pub use graph::{GraphWriter, INPUT, OUTPUT, Value};
