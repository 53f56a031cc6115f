//! What `/v1/state` and `/healthz` tell: counts, rates and latencies, and what is wrong.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use semblance_face::url;
use serde::Serialize;

use crate::bench::Stages;
use crate::governor::Pressure;
use crate::memory::status_kib;
use crate::prediction::FrameReport;
use crate::prediction::Labels;
use crate::run::Shared;
use crate::stats::Stats;
use crate::telemetry::{SourceState, process_started};
use crate::users::InForce;

/// What a run is, as far as it does not change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    /// The program's version.
    pub version: String,
    /// The source as it was asked for.
    pub source: String,
    /// What predictions can hold, and the bundle's name; what the heads tell is taken from those in force.
    pub labels: Labels,
}

/// Rates are taken over so many samples, one a second.
const SAMPLES: usize = 5;

/// Counts at one time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    frames: u64,
    captured: u64,
}

/// Latencies are told of the last one to two of these.
const WINDOW: Duration = Duration::from_secs(30);

/// The counts at the start of the window that is told of, and at the start of the one that will be.
#[derive(Debug)]
struct Window {
    told: Stats,
    next: Stats,
    next_began: Instant,
}

/// Watches a run.
#[derive(Debug)]
pub(super) struct Monitor {
    shared: Arc<Shared>,
    about: About,
    in_force: Arc<InForce>,
    samples: Mutex<VecDeque<Sample>>,
    window: Mutex<Window>,
    /// Width and height of the latest frame, in one word; 0 before there is one.
    size: AtomicU64,
}

#[derive(Debug, Serialize)]
pub(super) struct State<'a> {
    version: &'a str,
    uptime_s: f64,
    bundle: &'a str,
    labels: Labels,
    user: Option<Arc<str>>,
    adapted: bool,
    source: Source,
    frames: u64,
    faces: u64,
    pub(super) fps: f64,
    pub(super) capture_fps: f64,
    latency_ms: serde_json::Value,
    pressure: Pressure,
    outputs: Vec<Output>,
    failed_outputs: Vec<FailedOutput>,
    memory_rss_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Source {
    spec: String,
    state: SourceState,
    detail: String,
    size: Option<[u32; 2]>,
    captured: u64,
    missed: u64,
    damaged: u64,
    replaced: u64,
    reopened: u64,
}

#[derive(Debug, Serialize)]
struct Output {
    name: String,
    delivered: u64,
    dropped: u64,
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct FailedOutput {
    name: String,
    reason: String,
}

impl Monitor {
    pub(super) fn new(shared: Arc<Shared>, about: About, in_force: Arc<InForce>) -> Self {
        let window = Window { told: Stats::default(), next: Stats::default(), next_began: Instant::now() };
        let (samples, size) = (Mutex::default(), AtomicU64::new(0));
        Self { shared, about, in_force, samples, window: window.into(), size }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn about(&self) -> &About {
        &self.about
    }

    /// Notes the counts, for rates and latencies of late. To be called once a second.
    pub(super) fn sample(&self) {
        let sample = self.now();
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if sample.at.duration_since(window.next_began) >= WINDOW {
            let now = self.shared.telemetry.stats().clone();
            window.told = std::mem::replace(&mut window.next, now);
            window.next_began = sample.at;
        }
    }

    /// Notes what a frame tells beyond its faces.
    pub(super) fn saw(&self, report: &FrameReport) {
        let [width, height] = report.size;
        self.size.store(u64::from(width) << 32 | u64::from(height), Ordering::Relaxed);
    }

    /// Frames a second of late: processed, and captured.
    pub(super) fn rates(&self) -> [f64; 2] {
        let oldest = self.samples.lock().unwrap_or_else(PoisonError::into_inner).front().copied();
        let now = self.now();
        oldest.map_or([0.0; 2], |oldest| {
            let seconds = now.at.duration_since(oldest.at).as_secs_f64().max(1e-3);
            [now.frames - oldest.frames, now.captured - oldest.captured]
                .map(|frames| (frames as f64 / seconds * 100.0).round() / 100.0)
        })
    }

    fn now(&self) -> Sample {
        let telemetry = &self.shared.telemetry;
        let frames = telemetry.stats().frames;
        Sample { at: Instant::now(), frames, captured: telemetry.source.captured() }
    }

    pub(super) fn state(&self) -> State<'_> {
        let (telemetry, about) = (&self.shared.telemetry, &self.about);
        let [fps, capture_fps] = self.rates();
        let stats = telemetry.stats().clone();
        let recent = stats.since(&self.window.lock().unwrap_or_else(PoisonError::into_inner).told);
        let latency_ms = serde_json::to_value(Stages(&recent)).unwrap_or_default();
        let (state, detail) = telemetry.source.state();
        let size = self.size.load(Ordering::Relaxed);
        let reading = self.in_force.now();
        let mut labels = about.labels.clone();
        labels.take_from(&reading.heads);
        State {
            version: &about.version,
            uptime_s: process_started().elapsed().as_millis() as f64 / 1000.0,
            bundle: &about.labels.bundle,
            labels,
            user: reading.user.clone(),
            adapted: reading.adapted,
            source: Source {
                spec: about.source.clone(),
                state,
                detail: told(&detail, telemetry.source.undecodable()),
                size: (size > 0).then_some([(size >> 32) as u32, size as u32]),
                captured: telemetry.source.captured(),
                missed: telemetry.source.missed(),
                damaged: telemetry.source.damaged(),
                replaced: telemetry.replaced(),
                reopened: telemetry.source.reopened(),
            },
            frames: stats.frames,
            faces: stats.faces,
            fps,
            capture_fps,
            latency_ms,
            pressure: telemetry.pressure(),
            outputs: self.outputs().collect(),
            failed_outputs: telemetry
                .failed_sinks()
                .into_iter()
                .map(|(name, reason)| FailedOutput {
                    name: url::public(&name),
                    reason: url::public_in(&reason),
                })
                .collect(),
            memory_rss_bytes: rss_bytes(),
        }
    }

    fn outputs(&self) -> impl Iterator<Item = Output> {
        self.shared.hub.stats().into_iter().map(|stats| Output {
            name: url::public(&stats.name),
            delivered: stats.delivered(),
            dropped: stats.dropped(),
            problem: stats.problem().map(|problem| url::public_in(&problem)),
        })
    }

    /// What is wrong, in words; empty where nothing is.
    pub(super) fn ailments(&self) -> Vec<String> {
        let telemetry = &self.shared.telemetry;
        let (state, detail) = telemetry.source.state();
        let mut ailments = Vec::new();
        match state {
            SourceState::Live | SourceState::Ended => {}
            state => ailments.push(format!("source {}: {}", state.name(), url::public_in(&detail))),
        }
        for (name, reason) in telemetry.failed_sinks() {
            ailments.push(url::public_in(&format!("output {name} failed: {reason}")));
        }
        for output in self.outputs() {
            if let Some(problem) = output.problem {
                ailments.push(format!("output {}: {problem}", output.name));
            }
        }
        if let Some(undecodable) = telemetry.source.undecodable() {
            ailments.push(format!("source: {undecodable}"));
        }
        if let Some((who, silent)) = telemetry.hanging() {
            ailments.push(format!("{} has been stuck for {} s", who.name(), silent.as_secs()));
        }
        ailments
    }
}

/// What a source is or what is wrong with it, and why nothing of it can be decoded.
fn told(detail: &str, undecodable: Option<String>) -> String {
    let detail = url::public_in(detail);
    match undecodable {
        Some(undecodable) => format!("{detail}: {undecodable}"),
        None => detail,
    }
}

/// Resident memory of this process, where the system tells.
pub(super) fn rss_bytes() -> Option<u64> {
    status_kib("VmRSS").map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn monitor(shared: &Arc<Shared>) -> Monitor {
        let heads = semblance_calib::Heads::new(1, []).unwrap();
        Monitor::new(Arc::clone(shared), About::default(), Arc::new(InForce::new(heads)))
    }

    #[test]
    fn a_run_is_ill_while_its_source_or_an_output_is() {
        let shared = Arc::new(Shared::default());
        let monitor = monitor(&shared);
        let source = &shared.telemetry.source;
        assert!(monitor.ailments()[0].contains("starting"));
        source.set(SourceState::Live, "demo");
        assert_eq!(monitor.ailments(), [""; 0]);
        source.set(SourceState::Gone, "/dev/video0 was unplugged");
        assert_eq!(monitor.ailments(), ["source gone: /dev/video0 was unplugged"]);
        source.set(SourceState::Ended, "demo");
        let mqtt = shared.hub.subscribe("mqtt", 1, crate::hub::Overflow::DropOldest);
        assert_eq!(monitor.ailments(), [""; 0]);
        mqtt.stats().set_problem(Some("no broker at h".to_owned()));
        shared.telemetry.sink_failed("jsonl:x", "disk full");
        assert_eq!(monitor.ailments(), ["output jsonl:x failed: disk full", "output mqtt: no broker at h"]);
    }

    #[test]
    fn rates_are_those_of_late() {
        let shared = Arc::new(Shared::default());
        let monitor = monitor(&shared);
        assert_eq!(monitor.rates(), [0.0; 2]);
        monitor.sample();
        shared.telemetry.stats().frames += 50;
        shared.telemetry.source.count_captured();
        std::thread::sleep(std::time::Duration::from_millis(100));
        let [fps, captured] = monitor.rates();
        assert!(fps > 50.0 && fps <= 500.0 && captured > 1.0 && captured <= 10.0, "{fps} {captured}");
    }
}
