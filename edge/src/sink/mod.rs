//! Where predictions go. Each sink has a thread and a bounded queue of its own.

mod jsonl;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, bounded};
use thiserror::Error;

use crate::hub::Subscription;
use crate::prediction::FrameReport;
use crate::stats::Stage;
use crate::telemetry::Telemetry;

pub use jsonl::JsonlSink;

/// Something that predictions are handed to.
pub trait Sink: Send {
    /// Hands on the predictions of a frame, of which there may be none.
    ///
    /// # Errors
    /// [`SinkError`]; the sink is not used any more.
    fn write(&mut self, report: &FrameReport) -> Result<(), SinkError>;

    /// Sees to it that all that was written is on its way; called whenever nothing more is queued, and at the end.
    ///
    /// # Errors
    /// As [`Sink::write`].
    fn flush(&mut self) -> Result<(), SinkError>;
}

/// A destination as it stands on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkSpec {
    /// `jsonl` for standard output, or `jsonl:FILE`.
    Jsonl(Option<PathBuf>),
}

impl FromStr for SinkSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "jsonl" => Ok(Self::Jsonl(None)),
            Some(("jsonl", file)) if !file.is_empty() => Ok(Self::Jsonl(Some(file.into()))),
            _ => Err(format!("'{text}' is no output: give jsonl or jsonl:FILE")),
        }
    }
}

impl std::fmt::Display for SinkSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Jsonl(None) => f.write_str("jsonl"),
            Self::Jsonl(Some(path)) => write!(f, "jsonl:{}", path.display()),
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

impl SinkError {
    /// What an error of writing to `to` means.
    pub fn writing(to: &str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed(to.to_owned()),
            _ => Self::Io { to: to.to_owned(), source },
        }
    }
}

/// Opens a destination. A file that is there is replaced, or continued where `append` is set.
///
/// # Errors
/// [`SinkError::Io`] where a file cannot be created.
pub fn open(spec: &SinkSpec, append: bool) -> Result<Box<dyn Sink>, SinkError> {
    match spec {
        SinkSpec::Jsonl(file) => Ok(Box::new(JsonlSink::open(file.as_deref(), append)?)),
    }
}

/// Creates a file for a sink, or continues it where `append` is set.
fn open_file(path: &Path, append: bool) -> Result<File, SinkError> {
    let file = File::options().create(true).write(true).append(append).truncate(!append).open(path);
    file.map_err(|source| SinkError::Io { to: path.display().to_string(), source })
}

/// A sink at work on a thread of its own.
#[derive(Debug)]
pub struct Running {
    name: String,
    done: Receiver<Result<(), SinkError>>,
}

/// Starts a thread that hands what `subscription` gets to `sink`, until there is no more or the sink fails.
///
/// # Errors
/// Where the system gives no thread.
pub fn start(
    mut sink: Box<dyn Sink>,
    subscription: Subscription,
    telemetry: Arc<Telemetry>,
) -> io::Result<Running> {
    let name = subscription.stats().name.clone();
    let (finished, done) = bounded(1);
    // Not joined: a sink that is stuck in a full pipe would keep the program from ending.
    std::thread::Builder::new().name(format!("sink {name}")).spawn(move || {
        let result = drain(sink.as_mut(), &subscription, &telemetry);
        if let Err(error @ SinkError::Io { .. }) = &result {
            log::error!("output {}: {error}: nothing more is written there", subscription.stats().name);
            telemetry.sink_failed(&subscription.stats().name, &error.to_string());
        }
        drop(subscription);
        let _ = finished.send(result);
    })?;
    Ok(Running { name, done })
}

fn drain(sink: &mut dyn Sink, subscription: &Subscription, telemetry: &Telemetry) -> Result<(), SinkError> {
    while let Some(report) = subscription.recv() {
        sink.write(&report)?;
        if subscription.receiver().is_empty() {
            sink.flush()?;
        }
        telemetry.stats().record(Stage::Latency, report.taken.elapsed());
    }
    sink.flush()
}

/// Waits until every sink has written what was queued, or `patience` is over. The hub must be closed.
///
/// # Errors
/// The first failure of a sink; that its reader has gone is none.
pub fn finish(sinks: Vec<Running>, patience: Duration) -> Result<(), SinkError> {
    let deadline = Instant::now() + patience;
    let mut failure = None;
    for Running { name, done } in sinks {
        match done.recv_deadline(deadline) {
            Ok(Err(error @ SinkError::Io { .. })) => failure = failure.or(Some(error)),
            Ok(_) => {}
            Err(_) => log::warn!("output {name}: not read in time: what was queued is lost"),
        }
    }
    failure.map_or(Ok(()), Err)
}
