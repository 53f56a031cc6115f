//! What a run tells of itself: counts, latencies, the state of its source. Read by the dashboard, `/metrics`, `/healthz`
//! and systemd's watchdog; written by the threads of the run.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::governor::Pressure;
use crate::stats::Stats;

/// A thread of a run that has not looked for work for so long hangs: systemd is no longer told that all is well.
pub const HANGS_AFTER: Duration = Duration::from_secs(10);

/// When the program started: a run that starts again with other settings does not change it.
pub fn process_started() -> Instant {
    static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
    *STARTED
}

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
    /// That what comes cannot be decoded, and why, while it cannot.
    undecodable: Mutex<Option<String>>,
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
        if matches!(state, SourceState::Frozen | SourceState::Gone) {
            *lock(&self.undecodable) = None;
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

    /// Says why nothing of what comes can be decoded, or that it can. A change is logged.
    pub fn set_undecodable(&self, reason: Option<String>) {
        let told = reason.map(|reason| format!("no frame can be decoded: {reason}"));
        let mut now = lock(&self.undecodable);
        match (&*now, &told) {
            (None, Some(told)) => log::warn!("{told}"),
            (Some(_), None) => log::info!("frames can be decoded again"),
            _ => {}
        }
        *now = told;
    }

    /// That nothing of what comes can be decoded, and why, in words; none where it can.
    pub fn undecodable(&self) -> Option<String> {
        lock(&self.undecodable).clone()
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

/// A thread of a run that tells that it is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The one that reads the source.
    Capture,
    /// The one that computes.
    Pipeline,
}

impl Beat {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Capture, Self::Pipeline];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Pipeline => "pipeline",
        }
    }
}

/// What a run tells of itself.
#[derive(Debug)]
pub struct Telemetry {
    /// When the run started.
    started: Instant,
    /// The source.
    pub source: SourceMonitor,
    stats: Mutex<Stats>,
    replaced: AtomicU64,
    /// When each thread last looked for work, in milliseconds since `started`.
    beats_ms: [AtomicU64; Beat::ALL.len()],
    /// Whether threads are to tell that they are alive.
    is_running: AtomicBool,
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
            beats_ms: Default::default(),
            is_running: AtomicBool::new(false),
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

    /// A thread is alive.
    pub fn beat(&self, who: Beat) {
        self.beats_ms[who as usize].store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Says that the run begins, or is over: only in between threads are to tell that they are alive.
    pub fn set_running(&self, is_running: bool) {
        Beat::ALL.into_iter().for_each(|who| self.beat(who));
        self.is_running.store(is_running, Ordering::Relaxed);
    }

    /// A thread that has not been alive for [`HANGS_AFTER`], and for how long; none where the run or its source is over.
    pub fn hanging(&self) -> Option<(Beat, Duration)> {
        if !self.is_running.load(Ordering::Relaxed) || self.source.state().0 == SourceState::Ended {
            return None;
        }
        Beat::ALL.into_iter().find_map(|who| {
            let beat = Duration::from_millis(self.beats_ms[who as usize].load(Ordering::Relaxed));
            let silent = self.started.elapsed().saturating_sub(beat);
            (silent > HANGS_AFTER).then_some((who, silent))
        })
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
