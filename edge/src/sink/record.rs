//! Recordings: predictions with the embeddings that they were made of, from which heads can be fitted later.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use super::{File, Sink, SinkError};
use crate::prediction::{FrameReport, Prediction};

/// Writes one JSON object a face a frame: the prediction and its `embedding`. No picture can be had from it, but it tells
/// people apart: on Unix only its owner may read the file.
pub struct RecordSink {
    name: String,
    out: BufWriter<Box<dyn Write + Send>>,
}

impl std::fmt::Debug for RecordSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RecordSink").field(&self.name).finish()
    }
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    prediction: &'a Prediction,
    embedding: &'a [f32],
}

impl RecordSink {
    /// Opens the file; one that is there is replaced, or continued where `append` is set.
    ///
    /// # Errors
    /// [`SinkError::Io`] where it cannot be created or be made the owner's alone.
    pub fn open(file: &Path, append: bool) -> Result<Self, SinkError> {
        let File { name, out, .. } = File::open(Some(file), append)?;
        #[cfg(unix)]
        if file.is_file() {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))
                .map_err(|source| SinkError::Io { to: name.clone(), source })?;
        }
        Ok(Self { name, out: BufWriter::new(out) })
    }
}

impl Sink for RecordSink {
    fn write(&mut self, report: &FrameReport) -> Result<(), SinkError> {
        let values = report.embeddings.len() / report.faces.len().max(1);
        for (prediction, embedding) in report.faces.iter().zip(report.embeddings.chunks(values.max(1))) {
            serde_json::to_writer(&mut self.out, &Row { prediction, embedding })
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
