//! `edge bench`: what each stage of a frame costs on this machine.

use std::time::Duration;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::memory::status_kib;
use crate::stats::{Stage, Stats};

/// Latencies of a run in milliseconds, its rate and its memory. Written as JSON it is the contract of `edge bench --json`.
#[derive(Debug, Serialize)]
pub struct BenchReport<'a> {
    /// Percentiles a stage, `total` without decoding.
    pub stages: Stages<'a>,
    /// Frames a second of wall-clock time, decoding included.
    pub fps: f64,
    /// Most memory the process has held, in MiB; absent where the system does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_rss_mb: Option<f64>,
    /// Frames processed.
    pub frames: u64,
    /// Faces predicted on.
    pub faces: u64,
}

impl<'a> BenchReport<'a> {
    /// The report of a run that took `wall`.
    pub fn of(stats: &'a Stats, wall: Duration) -> Self {
        Self {
            stages: Stages(stats),
            fps: stats.frames as f64 / wall.as_secs_f64().max(1e-9),
            peak_rss_mb: status_kib("VmHWM").map(|kib| kib as f64 / 1024.0),
            frames: stats.frames,
            faces: stats.faces,
        }
    }
}

/// Percentiles of every stage that ran.
#[derive(Debug)]
pub struct Stages<'a>(pub(crate) &'a Stats);

impl Serialize for Stages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Percentiles {
            p50: f64,
            p95: f64,
            p99: f64,
            n: u64,
        }
        let mut map = serializer.serialize_map(None)?;
        for stage in Stage::ALL.into_iter().filter(|&stage| self.0.samples(stage) > 0) {
            let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|q| self.0.quantile_ms(stage, q));
            map.serialize_entry(stage.name(), &Percentiles { p50, p95, p99, n: self.0.samples(stage) })?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_report_holds_the_stages_that_ran() {
        let mut stats = Stats::default();
        stats.frames = 30;
        stats.record(Stage::Find, Duration::from_millis(4));
        stats.record(Stage::Total, Duration::from_millis(9));
        let report = serde_json::to_value(BenchReport::of(&stats, Duration::from_secs(2))).unwrap();
        let stages = report["stages"].as_object().unwrap();
        assert_eq!(stages.keys().collect::<Vec<_>>(), ["find", "total"]);
        assert!((stages["find"]["p99"].as_f64().unwrap() - 4.0).abs() < 0.1);
        assert_eq!(report["fps"], 15.0);
    }
}
