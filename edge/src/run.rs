//! Joins source, pipeline and sinks: one thread captures, the caller's thread computes, each sink has its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use thiserror::Error;

use crate::governor::{Governor, Pressure};
use crate::hub::{Hub, ReportPool};
use crate::mailbox::{Empty, Inlet, Outlet, mailbox};
use crate::pipeline::{Pipeline, PipelineError};
use crate::preview::Preview;
use crate::source::{Capture, Decoder, Next, Pace, Source, SourceError};
use crate::stats::FrameTimes;
use crate::telemetry::{Beat, SourceState, Telemetry};

/// Why a run ended early.
#[derive(Debug, Error)]
pub enum RunError {
    /// The source failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The pipeline failed.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What the threads of a run share with each other and with those who watch.
#[derive(Debug, Default)]
pub struct Shared {
    /// Where predictions are handed to sinks.
    pub hub: Hub,
    /// Where pictures are left for those who look.
    pub preview: Preview,
    /// What the run tells of itself.
    pub telemetry: Arc<Telemetry>,
}

/// How a run goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunOptions {
    /// Ends after so many frames.
    pub max_frames: Option<u64>,
    /// Frames from one run of the finder to the next, where nothing presses.
    pub find_every: u32,
    /// Frames a second, at most.
    pub max_fps: Option<f64>,
}

/// Captures in flight: one that is filled, one in the mailbox, one that is computed on.
const CAPTURES: usize = 3;
/// How long anybody waits before looking whether the run is over.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a run that is over waits for its source to answer.
const PARTING: Duration = Duration::from_millis(500);

/// Processes the frames of `source` until it ends, `max_frames` are done, `stop` is set, or no sink is left that reads.
/// Of a recording every frame is processed, of a live source always the newest. The hub is closed then. A source that hangs, as
/// drivers do, is left to its thread, which is given back: it keeps neither the predictions so far nor the end of the run
/// waiting.
///
/// # Errors
/// [`RunError`].
pub fn run(
    source: Box<dyn Source>,
    pipeline: &mut Pipeline,
    shared: &Shared,
    options: &RunOptions,
    stop: &AtomicBool,
) -> Result<Option<Straggler>, RunError> {
    let mut governor = Governor::new(source.pace() == Pace::Live, options.find_every, options.max_fps);
    let (inlet, outlet) = mailbox();
    let (give_back, spare) = bounded(CAPTURES);
    for _ in 0..CAPTURES {
        if let Ok(capture) = Capture::new() {
            let _ = give_back.try_send(capture);
        }
    }
    let over = Arc::new(AtomicBool::new(false));
    let (telemetry, is_over) = (Arc::clone(&shared.telemetry), Arc::clone(&over));
    let spares = Spares { spare, give_back: give_back.clone() };
    let (gone, is_gone) = bounded::<()>(0);
    let capturing = std::thread::Builder::new().name("capture".to_owned()).spawn(move || {
        let _gone = gone;
        capture(source, spares, inlet, &telemetry, &is_over)
    })?;
    let ending = SetOnDrop(&over);
    shared.telemetry.set_running(true);
    let computed = compute(&outlet, pipeline, shared, options, &mut governor, stop, |done| {
        let _ = give_back.try_send(done);
    });
    shared.telemetry.set_running(false);
    shared.hub.close();
    drop((ending, outlet));
    let straggler = Straggler { is_gone, thread: capturing };
    let captured = match straggler.wait(PARTING) {
        Ok(captured) => captured,
        Err(straggler) => {
            log::warn!("the source does not answer: it is left behind");
            computed?;
            return Ok(Some(straggler));
        }
    };
    computed?;
    captured?;
    Ok(None)
}

/// A source that had not answered when its run was over; it may hold its device.
#[derive(Debug)]
pub struct Straggler {
    is_gone: Receiver<()>,
    thread: JoinHandle<Result<(), SourceError>>,
}

impl Straggler {
    /// Waits for it to answer: what became of it, or else itself.
    ///
    /// # Errors
    /// The straggler, where `patience` has passed.
    ///
    /// # Panics
    /// Where its thread has.
    pub fn wait(self, patience: Duration) -> Result<Result<(), SourceError>, Self> {
        match self.is_gone.recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => Err(self),
            _ => Ok(self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))),
        }
    }
}

/// Says so when the run is over, a panic included: else the thread that captures would go on.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Captures that are free to be filled, and where they come back to.
struct Spares {
    spare: Receiver<Capture>,
    give_back: crossbeam::channel::Sender<Capture>,
}

/// Reads the source until it ends or the run is over.
fn capture(
    mut source: Box<dyn Source>,
    spares: Spares,
    inlet: Inlet<Capture>,
    telemetry: &Telemetry,
    over: &AtomicBool,
) -> Result<(), SourceError> {
    let is_over = || over.load(Ordering::Relaxed);
    while !is_over() {
        telemetry.beat(Beat::Capture);
        let Ok(mut capture) = spares.spare.recv_timeout(PATIENCE) else { continue };
        let next = loop {
            telemetry.beat(Beat::Capture);
            match source.next(&mut capture)? {
                Next::Skipped(what) => {
                    log::warn!("skipped {what}");
                    telemetry.stats().dropped += 1;
                }
                Next::Idle if !is_over() => {}
                next => break next,
            }
        };
        if next != Next::Frame {
            break;
        }
        telemetry.source.count_captured();
        match source.pace() {
            Pace::Live => {
                if let Some(unread) = inlet.replace(capture) {
                    telemetry.count_replaced();
                    let _ = spares.give_back.try_send(unread);
                }
            }
            Pace::Recorded => {
                let mut waiting = Some(capture);
                while let Some(capture) = waiting.take().filter(|_| !is_over()) {
                    telemetry.beat(Beat::Capture);
                    waiting = inlet.offer(capture, PATIENCE).err().map(|closed| closed.0);
                }
            }
        }
    }
    if !is_over() {
        let (_, what) = telemetry.source.state();
        telemetry.source.set(SourceState::Ended, &what);
    }
    Ok(())
}

/// Computes on what the mailbox holds, as often as it may.
fn compute(
    outlet: &Outlet<Capture>,
    pipeline: &mut Pipeline,
    shared: &Shared,
    options: &RunOptions,
    governor: &mut Governor,
    stop: &AtomicBool,
    give_back: impl Fn(Capture),
) -> Result<(), RunError> {
    let telemetry = &shared.telemetry;
    let (mut pool, mut times) = (ReportPool::default(), FrameTimes::default());
    let mut decoder = Decoder::default();
    let mut left = options.max_frames.unwrap_or(u64::MAX);
    let mut next_start = Instant::now();
    while left > 0 && !stop.load(Ordering::Relaxed) && !shared.hub.is_deserted() {
        telemetry.beat(Beat::Pipeline);
        let early = next_start.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            std::thread::sleep(early.min(PATIENCE));
            continue;
        }
        let mut capture = match outlet.take(PATIENCE) {
            Ok(capture) => capture,
            Err(Empty::Yet) => {
                if let Some(pressure) = governor.look(Instant::now()) {
                    tell_pressure(telemetry, pressure);
                }
                continue;
            }
            Err(Empty::ForGood) => break,
        };
        let begun = Instant::now();
        let wait = begun.duration_since(capture.taken);
        match decoder.decode(&mut capture, &telemetry.source) {
            Ok(()) => {
                let spent = [wait, capture.read + begun.elapsed()];
                let report = pool.fill(|report| pipeline.process(&capture, spent, &mut times, report))?;
                shared.hub.publish(&report, &|| {
                    telemetry.beat(Beat::Pipeline);
                    !stop.load(Ordering::Relaxed)
                });
                shared.preview.offer(&capture);
                telemetry.stats().count_frame(report.faces.len(), &times);
                left -= 1;
            }
            Err(error) => log::debug!("frame {}: {error}", capture.frame.index),
        }
        give_back(capture);
        if let Some(pressure) = governor.count(begun.elapsed(), Instant::now()) {
            tell_pressure(telemetry, pressure);
        }
        let decision = governor.decision();
        pipeline.set_find_every(decision.find_every);
        next_start = begun + decision.interval;
    }
    Ok(())
}

/// Publishes what slows the run down; a change is logged.
fn tell_pressure(telemetry: &Telemetry, pressure: Pressure) {
    if telemetry.pressure().reason != pressure.reason {
        match pressure.reason.as_str() {
            "" => log::info!("no pressure any more"),
            reason => log::warn!("{reason}"),
        }
    }
    telemetry.set_pressure(pressure);
}
