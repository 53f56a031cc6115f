//! Recordings: predictions with the embeddings that they were made of, from which heads can be fitted later.

use std::path::Path;

use serde::Serialize;

use super::jsonl::Lines;
use super::{Sink, SinkError};
use crate::prediction::{FrameReport, Prediction};

/// Writes one JSON object a face a frame: the prediction and its `embedding`. No picture can be had from it, but it tells
/// people apart: on Unix only its owner may read the file.
#[derive(Debug)]
pub struct RecordSink(Lines);

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
        let lines = Lines::open(Some(file), append)?;
        #[cfg(unix)]
        if file.is_file() {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))
                .map_err(|source| SinkError::Io { to: file.display().to_string(), source })?;
        }
        Ok(Self(lines))
    }
}

impl Sink for RecordSink {
    fn write(&mut self, report: &FrameReport) -> Result<(), SinkError> {
        let values = report.embeddings.len() / report.faces.len().max(1);
        let mut rows = report.faces.iter().zip(report.embeddings.chunks(values.max(1)));
        rows.try_for_each(|(prediction, embedding)| self.0.write(&Row { prediction, embedding }))
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.0.flush()
    }
}
