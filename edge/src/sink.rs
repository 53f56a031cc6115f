//! Where predictions go.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

use crate::prediction::Prediction;

/// A destination as it stands on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkSpec {
    /// `jsonl`: JSON lines on standard output.
    JsonlStdout,
    /// `jsonl:FILE`.
    JsonlFile(PathBuf),
}

impl FromStr for SinkSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "jsonl" => Ok(Self::JsonlStdout),
            Some(("jsonl", file)) if !file.is_empty() => Ok(Self::JsonlFile(file.into())),
            _ => Err(format!("'{text}' is no output: give jsonl or jsonl:FILE")),
        }
    }
}

/// Why a prediction could not be handed on.
#[derive(Debug, Error)]
pub enum SinkError {
    /// The reader has gone (a closed pipe): nobody wants more.
    #[error("the reader of {0} has gone")]
    Closed(String),
    /// Writing failed.
    #[error("{to}: {source}")]
    Io {
        /// Where to.
        to: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A sink that writes one JSON object a line.
pub struct JsonlSink {
    name: String,
    out: BufWriter<Box<dyn Write>>,
}

impl std::fmt::Debug for JsonlSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("JsonlSink").field(&self.name).finish()
    }
}

impl JsonlSink {
    /// Opens the destination; a file that is there is replaced.
    ///
    /// # Errors
    /// [`SinkError::Io`] where the file cannot be created.
    pub fn open(spec: &SinkSpec) -> Result<Self, SinkError> {
        let (name, out): (String, Box<dyn Write>) = match spec {
            SinkSpec::JsonlStdout => ("standard output".to_owned(), Box::new(io::stdout())),
            SinkSpec::JsonlFile(path) => {
                let to = path.display().to_string();
                match File::create(path) {
                    Ok(file) => (to, Box::new(file)),
                    Err(source) => return Err(SinkError::Io { to, source }),
                }
            }
        };
        Ok(Self { name, out: BufWriter::new(out) })
    }

    /// Writes one prediction.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn write(&mut self, prediction: &Prediction<'_>) -> Result<(), SinkError> {
        serde_json::to_writer(&mut self.out, prediction)
            .map_err(io::Error::from)
            .and_then(|()| self.out.write_all(b"\n"))
            .map_err(|e| self.error(e))
    }

    /// Hands on what is buffered; called after every frame, so that a reader sees it at once.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn flush(&mut self) -> Result<(), SinkError> {
        self.out.flush().map_err(|e| self.error(e))
    }

    fn error(&self, source: io::Error) -> SinkError {
        match source.kind() {
            io::ErrorKind::BrokenPipe => SinkError::Closed(self.name.clone()),
            _ => SinkError::Io { to: self.name.clone(), source },
        }
    }
}
