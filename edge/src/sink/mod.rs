//! Where predictions go. Each sink has a thread and a bounded queue of its own.

mod csv;
mod jsonl;
mod mqtt;
mod record;

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use thiserror::Error;

use crate::hub::{QueueStats, Subscription};
use crate::prediction::{FrameReport, Labels};
use crate::stats::Stage;
use crate::telemetry::Telemetry;

pub use csv::{CsvSink, openface_pose};
pub use jsonl::JsonlSink;
pub use mqtt::{MqttSink, MqttSpec};
pub use record::RecordSink;

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

    /// Takes leave; called once, after the last report.
    ///
    /// # Errors
    /// As [`Sink::write`].
    fn finish(&mut self) -> Result<(), SinkError> {
        self.flush()
    }
}

/// A destination as it stands on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkSpec {
    /// `jsonl` for standard output, or `jsonl:FILE`.
    Jsonl(Option<PathBuf>),
    /// `csv` for standard output, or `csv:FILE`: see [`CsvSink`].
    Csv(Option<PathBuf>),
    /// `mqtt://[USER[:PASSWORD]@]HOST[:PORT]/PREFIX`: see [`MqttSpec`].
    Mqtt(MqttSpec),
}

impl SinkSpec {
    /// The file that is written to, where it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Jsonl(file) | Self::Csv(file) => file.as_deref(),
            Self::Mqtt(_) => None,
        }
    }
}

impl FromStr for SinkSpec {
    type Err = String;

    /// The error does not repeat the text: there may be a password in it.
    fn from_str(text: &str) -> Result<Self, String> {
        let file = |file: &str| Some(PathBuf::from(file));
        match text.split_once(':') {
            None if text == "jsonl" => Ok(Self::Jsonl(None)),
            None if text == "csv" => Ok(Self::Csv(None)),
            Some(("jsonl", name)) if !name.is_empty() => Ok(Self::Jsonl(file(name))),
            Some(("csv", name)) if !name.is_empty() => Ok(Self::Csv(file(name))),
            Some(("mqtt", _)) => text.parse().map(Self::Mqtt),
            Some(("mqtts", _)) => {
                Err("MQTT over TLS is not built in: give mqtt://, over a network that you \
                 trust or to a broker on this machine that bridges with TLS"
                    .to_owned())
            }
            _ => Err("give jsonl, jsonl:FILE, csv, csv:FILE or mqtt://HOST/PREFIX".to_owned()),
        }
    }
}

/// Passwords are not shown.
impl std::fmt::Display for SinkSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Jsonl(None) => f.write_str("jsonl"),
            Self::Jsonl(Some(path)) => write!(f, "jsonl:{}", path.display()),
            Self::Csv(None) => f.write_str("csv"),
            Self::Csv(Some(path)) => write!(f, "csv:{}", path.display()),
            Self::Mqtt(spec) => spec.fmt(f),
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

/// Opens a destination for predictions with these labels. `stats` are its queue's, where it tells what is wrong with it. A
/// file that is there is replaced, or continued where `append` is set.
///
/// # Errors
/// [`SinkError::Io`] where a file cannot be created or the system gives no thread.
pub fn open(
    spec: &SinkSpec,
    labels: &Labels,
    stats: &Arc<QueueStats>,
    append: bool,
) -> Result<Box<dyn Sink>, SinkError> {
    Ok(match spec {
        SinkSpec::Jsonl(file) => Box::new(JsonlSink::open(file.as_deref(), append)?),
        SinkSpec::Csv(file) => Box::new(CsvSink::open(file.as_deref(), labels, append)?),
        SinkSpec::Mqtt(spec) => Box::new(MqttSink::open(spec, labels, Arc::clone(stats))?),
    })
}

/// A file to write to, or standard output.
struct File {
    /// What it is called.
    name: String,
    out: Box<dyn Write + Send>,
    /// Of a file that is continued and in which something stands.
    first_line: Option<String>,
}

impl File {
    fn open(path: Option<&Path>, append: bool) -> Result<Self, SinkError> {
        let Some(path) = path else {
            let name = "standard output".to_owned();
            return Ok(Self { name, out: Box::new(io::stdout()), first_line: None });
        };
        let name = path.display().to_string();
        let failed = |source| SinkError::Io { to: path.display().to_string(), source };
        let file = fs::File::options().create(true).write(true).append(append).truncate(!append).open(path);
        let file = file.map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let mut first_line = None;
        // A pipe or a device has nothing to be read back.
        if append && metadata.is_file() && metadata.len() > 0 {
            let mut line = String::new();
            BufReader::new(fs::File::open(path).map_err(failed)?).read_line(&mut line).map_err(failed)?;
            first_line = Some(line.trim_end().to_owned());
        }
        Ok(Self { name, out: Box::new(file), first_line })
    }
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
        if let Err(error) = &result {
            let name = &subscription.stats().name;
            match error {
                SinkError::Io { .. } => log::error!("output {name}: {error}: nothing more is written there"),
                SinkError::Closed(_) => log::info!("output {name}: {error}"),
            }
            telemetry.sink_failed(name, &error.to_string());
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
    sink.finish()
}

/// Waits until every sink has written what was queued. The hub must be closed. A sink is waited for as long as `may_wait`
/// says so, and then for `patience` together with the others: what it has not written by then is lost, and that is told.
///
/// # Errors
/// The first failure of a sink; that its reader has gone is none.
pub fn finish(sinks: Vec<Running>, patience: Duration, may_wait: impl Fn() -> bool) -> Result<(), SinkError> {
    let mut deadline = Instant::now() + patience;
    let mut failure = None;
    for Running { name, done } in sinks {
        let result = loop {
            if may_wait() {
                deadline = Instant::now() + patience;
            }
            match done.recv_deadline(deadline.min(Instant::now() + LOOK)) {
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                result => break result,
            }
        };
        match result {
            Ok(Err(error @ SinkError::Io { .. })) => failure = failure.or(Some(error)),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => {
                log::warn!("output {name}: not read in time: what was queued is lost");
            }
            Err(RecvTimeoutError::Disconnected) => {
                let source = io::Error::other("its thread ended unexpectedly");
                failure = failure.or(Some(SinkError::Io { to: name, source }));
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

/// From one look at `may_wait` to the next.
const LOOK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_given_is_what_is_shown() {
        for text in ["jsonl", "jsonl:a.jsonl", "csv", "csv:C:/x.csv", "mqtt://broker/home/desk?rate=2"] {
            assert_eq!(text.parse::<SinkSpec>().unwrap().to_string(), text);
        }
        for (text, hint) in [("xml", "csv:FILE"), ("csv:", "csv:FILE"), ("mqtts://broker/home", "TLS")] {
            let error = text.parse::<SinkSpec>().unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
