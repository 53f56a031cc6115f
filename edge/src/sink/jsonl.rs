//! JSON lines: one object a face a frame.

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use super::{File, Sink, SinkError};
use crate::prediction::FrameReport;

/// JSON objects, one a line, on their way to a file or to standard output.
pub(super) struct Lines {
    name: String,
    out: BufWriter<Box<dyn Write + Send>>,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lines").field(&self.name).finish()
    }
}

impl Lines {
    pub(super) fn open(file: Option<&Path>, append: bool) -> Result<Self, SinkError> {
        let File { name, out, .. } = File::open(file, append)?;
        Ok(Self { name, out: BufWriter::new(out) })
    }

    pub(super) fn write(&mut self, object: &impl Serialize) -> Result<(), SinkError> {
        serde_json::to_writer(&mut self.out, object)
            .map_err(io::Error::from)
            .and_then(|()| self.out.write_all(b"\n"))
            .map_err(|e| SinkError::writing(&self.name, e))
    }

    pub(super) fn flush(&mut self) -> Result<(), SinkError> {
        self.out.flush().map_err(|e| SinkError::writing(&self.name, e))
    }
}

/// Writes one prediction a line.
#[derive(Debug)]
pub struct JsonlSink(Lines);

impl JsonlSink {
    /// Opens the file, or standard output; a file that is there is replaced, or continued where `append` is set.
    ///
    /// # Errors
    /// [`SinkError::Io`] where the file cannot be created.
    pub fn open(file: Option<&Path>, append: bool) -> Result<Self, SinkError> {
        Ok(Self(Lines::open(file, append)?))
    }
}

impl Sink for JsonlSink {
    fn write(&mut self, report: &FrameReport) -> Result<(), SinkError> {
        report.faces.iter().try_for_each(|prediction| self.0.write(prediction))
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.0.flush()
    }
}
