//! A source that may block for long, read by a thread of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::reconnect::PATIENCE;
use super::{Capture, Next, SourceError};
use crate::telemetry::{SourceState, Telemetry};

/// Hands over what a thread reads. The thread waits while nobody takes it, and ends when this is dropped and what it waits
/// for comes, or is ended by other means.
#[derive(Debug)]
pub(super) struct Reader {
    events: Receiver<Event>,
    spare: Sender<Capture>,
}

#[derive(Debug)]
enum Event {
    Frame(Capture),
    Skipped(String),
    Failed(SourceError),
}

/// One that is filled while the other is handed over.
const CAPTURES: usize = 2;

impl Reader {
    /// Calls what `make` makes, which may block, over and over on a thread of this name.
    pub(super) fn start<R>(name: &str, make: impl FnOnce() -> R + Send + 'static) -> Result<Self, SourceError>
    where
        R: FnMut(&mut Capture) -> Result<Next, SourceError>,
    {
        let (sender, events) = bounded(1);
        let (spare, spares) = bounded(CAPTURES);
        for _ in 0..CAPTURES {
            if let Ok(capture) = Capture::new() {
                let _ = spare.try_send(capture);
            }
        }
        let work = move || {
            let mut read = make();
            while let Ok(mut capture) = spares.recv() {
                let event = loop {
                    match read(&mut capture) {
                        Ok(Next::Frame) => break Event::Frame(capture),
                        Ok(Next::Idle) => {}
                        Ok(Next::Skipped(what)) => {
                            if sender.send(Event::Skipped(what)).is_err() {
                                return;
                            }
                        }
                        Ok(Next::End) => return,
                        Err(error) => break Event::Failed(error),
                    }
                };
                let failed = matches!(event, Event::Failed(_));
                if sender.send(event).is_err() || failed {
                    return;
                }
            }
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(SourceError::Thread)?;
        Ok(Self { events, spare })
    }

    /// What was read next; [`Next::Idle`] where nothing came within [`PATIENCE`].
    pub(super) fn next(&self, capture: &mut Capture) -> Result<Next, SourceError> {
        match self.events.recv_timeout(PATIENCE) {
            Ok(Event::Frame(mut read)) => {
                std::mem::swap(capture, &mut read);
                let _ = self.spare.try_send(read);
                Ok(Next::Frame)
            }
            Ok(Event::Skipped(what)) => Ok(Next::Skipped(what)),
            Ok(Event::Failed(error)) => Err(error),
            Err(RecvTimeoutError::Timeout) => Ok(Next::Idle),
            Err(RecvTimeoutError::Disconnected) => Ok(Next::End),
        }
    }
}

/// A reader of a live source: tells when frames come, and when none have for a while.
#[derive(Debug)]
pub(super) struct Watched {
    reader: Reader,
    /// The source, for people.
    what: String,
    telemetry: Arc<Telemetry>,
    last_frame: Instant,
    is_live: bool,
}

/// A source without frames for this long is frozen.
const FROZEN: Duration = Duration::from_secs(2);

impl Watched {
    /// Watches what `reader` reads of `what`.
    pub(super) fn new(reader: Reader, what: String, telemetry: &Arc<Telemetry>) -> Self {
        Self { reader, what, telemetry: Arc::clone(telemetry), last_frame: Instant::now(), is_live: false }
    }

    /// As [`Reader::next`].
    pub(super) fn next(&mut self, capture: &mut Capture) -> Result<Next, SourceError> {
        let next = self.reader.next(capture)?;
        let source = &self.telemetry.source;
        match next {
            Next::Frame => {
                self.last_frame = Instant::now();
                if !std::mem::replace(&mut self.is_live, true) {
                    source.set(SourceState::Live, &self.what);
                }
            }
            // Whoever reads may know better: that it is gone.
            Next::Idle if source.state().0 == SourceState::Gone => self.is_live = false,
            Next::Idle if self.is_live && self.last_frame.elapsed() >= FROZEN => {
                self.is_live = false;
                source
                    .set(SourceState::Frozen, &format!("{}: no frame for {} s", self.what, FROZEN.as_secs()));
            }
            _ => {}
        }
        Ok(next)
    }
}
