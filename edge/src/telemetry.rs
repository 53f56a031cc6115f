//! What a run tells of itself: counts, latencies, the state of its source. Read by the dashboard, `/metrics`, `/healthz`
//! and systemd's watchdog; written by the threads of the run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::governor::Pressure;
use crate::stats::Stats;

/// How the source is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// It was not opened yet.
    #[default]
    Starting,
    /// It gives frames.
    Live,
    /// It is there, but gives none.
    Frozen,
    /// It is gone; it is looked for.
    Gone,
    /// It has given everything.
    Ended,
}

impl SourceState {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Live => "live",
            Self::Frozen => "frozen",
            Self::Gone => "gone",
            Self::Ended => "ended",
        }
    }
}

/// What a source tells while it runs.
#[derive(Debug, Default)]
pub struct SourceMonitor {
    state: Mutex<(SourceState, String)>,
    captured: AtomicU64,
    missed: AtomicU64,
    damaged: AtomicU64,
    reopened: AtomicU64,
}

impl SourceMonitor {
    /// Says how the source is and, for people, what it is or what is wrong with it. A change is logged: bad news as a
    /// warning.
    pub fn set(&self, state: SourceState, detail: &str) {
        let mut now = lock(&self.state);
        if *now != (state, detail.to_owned()) {
            match state {
                SourceState::Frozen | SourceState::Gone => log::warn!("source {}: {detail}", state.name()),
                _ => log::info!("source {}: {detail}", state.name()),
            }
            *now = (state, detail.to_owned());
        }
    }

    /// How the source is, and what it is or what is wrong with it.
    pub fn state(&self) -> (SourceState, String) {
        lock(&self.state).clone()
    }

    /// Counts a frame that the source gave.
    pub fn count_captured(&self) {
        self.captured.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts frames that the device took and we never got (gaps in its sequence numbers).
    pub fn count_missed(&self, frames: u64) {
        self.missed.fetch_add(frames, Ordering::Relaxed);
    }

    /// Counts a frame that came damaged.
    pub fn count_damaged(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts that the source was opened again.
    pub fn count_reopened(&self) {
        self.reopened.fetch_add(1, Ordering::Relaxed);
    }

    /// Frames that the source gave.
    pub fn captured(&self) -> u64 {
        self.captured.load(Ordering::Relaxed)
    }

    /// Frames that the device took and we never got.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Frames that came damaged.
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Times that the source was opened again.
    pub fn reopened(&self) -> u64 {
        self.reopened.load(Ordering::Relaxed)
    }

    /// Its counts in one line, for people.
    pub fn summary(&self) -> String {
        let (captured, missed, damaged) = (self.captured(), self.missed(), self.damaged());
        format!(
            "source: {captured} captured, {missed} missed, {damaged} damaged, reopened {} times",
            self.reopened()
        )
    }
}

/// What a run tells of itself.
#[derive(Debug)]
pub struct Telemetry {
    /// When the program started.
    pub started: Instant,
    /// The source.
    pub source: SourceMonitor,
    stats: Mutex<Stats>,
    replaced: AtomicU64,
    /// When the pipeline last looked for work, in milliseconds since `started`.
    beat_ms: AtomicU64,
    pressure: Mutex<Pressure>,
    failed_sinks: Mutex<Vec<(String, String)>>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            source: SourceMonitor::default(),
            stats: Mutex::default(),
            replaced: AtomicU64::new(0),
            beat_ms: AtomicU64::new(0),
            pressure: Mutex::default(),
            failed_sinks: Mutex::default(),
        }
    }
}

impl Telemetry {
    /// Counts and latencies, to be read or added to. Hold it briefly: the pipeline waits.
    pub fn stats(&self) -> MutexGuard<'_, Stats> {
        lock(&self.stats)
    }

    /// Counts a frame that was replaced by a newer one before anybody read it.
    pub fn count_replaced(&self) {
        self.replaced.fetch_add(1, Ordering::Relaxed);
    }

    /// Frames that were replaced by newer ones before anybody read them.
    pub fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    /// The pipeline is alive.
    pub fn beat(&self) {
        self.beat_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Time since the pipeline was last alive.
    pub fn since_beat(&self) -> Duration {
        let beat = Duration::from_millis(self.beat_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(beat)
    }

    /// Says that an output is not written to any more, and why.
    pub fn sink_failed(&self, name: &str, reason: &str) {
        lock(&self.failed_sinks).push((name.to_owned(), reason.to_owned()));
    }

    /// Outputs that are not written to any more, each with the reason.
    pub fn failed_sinks(&self) -> Vec<(String, String)> {
        lock(&self.failed_sinks).clone()
    }

    /// What slows the run down, and what is done about it.
    pub fn pressure(&self) -> Pressure {
        lock(&self.pressure).clone()
    }

    /// Says what slows the run down.
    pub fn set_pressure(&self, pressure: Pressure) {
        *lock(&self.pressure) = pressure;
    }
}

/// A panic elsewhere leaves counts behind that are still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
