//! JSON lines: one object a face a frame.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::{File, Sink, SinkError};
use crate::prediction::FrameReport;

/// Writes one JSON object a line.
pub struct JsonlSink {
    name: String,
    out: BufWriter<Box<dyn Write + Send>>,
}

impl std::fmt::Debug for JsonlSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("JsonlSink").field(&self.name).finish()
    }
}

impl JsonlSink {
    /// Opens the file, or standard output; a file that is there is replaced, or continued where `append` is set.
    ///
    /// # Errors
    /// [`SinkError::Io`] where the file cannot be created.
    pub fn open(file: Option<&Path>, append: bool) -> Result<Self, SinkError> {
        let File { name, out, .. } = File::open(file, append)?;
        Ok(Self { name, out: BufWriter::new(out) })
    }
}

impl Sink for JsonlSink {
    fn write(&mut self, report: &FrameReport) -> Result<(), SinkError> {
        for prediction in &report.faces {
            serde_json::to_writer(&mut self.out, prediction)
                .map_err(io::Error::from)
                .and_then(|()| self.out.write_all(b"\n"))
                .map_err(|e| SinkError::writing(&self.name, e))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.out.flush().map_err(|e| SinkError::writing(&self.name, e))
    }
}
