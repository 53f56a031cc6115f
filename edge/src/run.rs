//! Joins source, pipeline and sinks: one thread captures, the caller's thread computes, each sink has its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, bounded};
use thiserror::Error;

use crate::governor::{Governor, Pressure};
use crate::hub::{Hub, ReportPool};
use crate::mailbox::{Empty, Inlet, Outlet, mailbox};
use crate::pipeline::{Pipeline, PipelineError};
use crate::preview::Preview;
use crate::source::{Capture, Next, Pace, Source, SourceError};
use crate::stats::FrameTimes;
use crate::telemetry::{SourceState, Telemetry};

/// Why a run ended early.
#[derive(Debug, Error)]
pub enum RunError {
    /// The source failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The pipeline failed.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
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

/// Processes the frames of `source` until it ends, `max_frames` are done, `stop` is set, or no sink is left that reads.
/// Of a recording every frame is processed, of a live source always the newest. The hub is left open.
///
/// # Errors
/// [`RunError`].
pub fn run(
    source: Box<dyn Source>,
    pipeline: &mut Pipeline,
    shared: &Shared,
    options: &RunOptions,
    stop: &AtomicBool,
) -> Result<(), RunError> {
    let mut governor = Governor::new(source.pace() == Pace::Live, options.find_every, options.max_fps);
    let (inlet, outlet) = mailbox();
    let (give_back, spare) = bounded(CAPTURES);
    for _ in 0..CAPTURES {
        if let Ok(capture) = Capture::new() {
            let _ = give_back.try_send(capture);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let telemetry = &*shared.telemetry;
        let capturing = scope.spawn(|| {
            capture(source, Spares { spare, give_back: give_back.clone() }, inlet, telemetry, &over)
        });
        let ending = SetOnDrop(&over);
        let computed = compute(&outlet, pipeline, shared, options, &mut governor, stop, |done| {
            let _ = give_back.try_send(done);
        });
        drop(ending);
        drop(outlet);
        let captured = capturing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        computed?;
        Ok(captured?)
    })
}

/// Says so when the run is over, a panic included: else the thread that captures would be waited for without end.
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
        let Ok(mut capture) = spares.spare.recv_timeout(PATIENCE) else { continue };
        let next = loop {
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
    let mut left = options.max_frames.unwrap_or(u64::MAX);
    let mut next_start = Instant::now();
    while left > 0 && !stop.load(Ordering::Relaxed) && !shared.hub.is_deserted() {
        telemetry.beat();
        let early = next_start.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            std::thread::sleep(early.min(PATIENCE));
            continue;
        }
        let mut capture = match outlet.take(PATIENCE) {
            Ok(capture) => capture,
            Err(Empty::Yet) => {
                if let Some(pressure) = governor.look(Instant::now()) {
                    tell(telemetry, pressure);
                }
                continue;
            }
            Err(Empty::ForGood) => break,
        };
        let begun = Instant::now();
        let wait = begun.duration_since(capture.taken);
        match capture.decode() {
            Ok(()) => {
                let spent = [wait, capture.read + begun.elapsed()];
                let report = pool.fill(|report| pipeline.process(&capture, spent, &mut times, report))?;
                shared.hub.publish(&report, stop);
                shared.preview.offer(&capture);
                telemetry.stats().count_frame(report.faces.len(), &times);
                left -= 1;
            }
            Err(error) => {
                log::debug!("frame {}: {error}", capture.frame.index);
                telemetry.source.count_damaged();
            }
        }
        give_back(capture);
        if let Some(pressure) = governor.count(begun.elapsed(), Instant::now()) {
            tell(telemetry, pressure);
        }
        let decision = governor.decision();
        pipeline.set_find_every(decision.find_every);
        next_start = begun + decision.interval;
    }
    Ok(())
}

/// Publishes what slows the run down; a change is logged.
fn tell(telemetry: &Telemetry, pressure: Pressure) {
    if telemetry.pressure().reason != pressure.reason {
        match pressure.reason.as_str() {
            "" => log::info!("no pressure any more"),
            reason => log::warn!("{reason}"),
        }
    }
    telemetry.set_pressure(pressure);
}
