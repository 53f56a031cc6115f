//! Latencies of the stages in fixed memory, and the summary of a run.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// The stages of a frame's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From when a frame was taken to when it was begun with.
    Wait,
    /// Decoding of a frame.
    Decode,
    /// The finder, in a frame in which it ran.
    Find,
    /// The landmark network, for all faces of a frame.
    Landmarks,
    /// Cutting the aligned crop of a face.
    Align,
    /// Embedding of a face.
    Embed,
    /// Heads of a face.
    Heads,
    /// Everything but waiting and decoding, of a frame.
    Total,
    /// From when a frame was taken to when its predictions were written.
    Latency,
}

impl Stage {
    /// In the order of their work.
    pub const ALL: [Self; 9] = [
        Self::Wait,
        Self::Decode,
        Self::Find,
        Self::Landmarks,
        Self::Align,
        Self::Embed,
        Self::Heads,
        Self::Total,
        Self::Latency,
    ];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Decode => "decode",
            Self::Find => "find",
            Self::Landmarks => "landmarks",
            Self::Align => "align",
            Self::Embed => "embed",
            Self::Heads => "heads",
            Self::Total => "total",
            Self::Latency => "latency",
        }
    }
}

/// Longest time that is told apart from longer ones, in microseconds.
const MAX_MICROS: u64 = 60_000_000;
const SIGNIFICANT_DIGITS: u8 = 2;

/// What one frame took, to be added to [`Stats`] in one go.
#[derive(Clone, Debug, Default)]
pub struct FrameTimes(Vec<(Stage, Duration)>);

impl FrameTimes {
    /// Forgets the frame before.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Notes one duration.
    pub fn record(&mut self, stage: Stage, duration: Duration) {
        self.0.push((stage, duration));
    }
}

/// Counts and latencies of a run.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Frames processed.
    pub frames: u64,
    /// Predictions made.
    pub faces: u64,
    /// Frames in which a face was shown.
    pub frames_with_face: u64,
    /// Frames (or files) of the source that could not be used.
    pub dropped: u64,
    stages: Vec<Histogram<u64>>,
}

impl Default for Stats {
    fn default() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, MAX_MICROS, SIGNIFICANT_DIGITS)
                .expect("1 to 60,000,000 with 2 digits are bounds that the histogram takes")
        };
        Self {
            frames: 0,
            faces: 0,
            frames_with_face: 0,
            dropped: 0,
            stages: Stage::ALL.iter().map(|_| histogram()).collect(),
        }
    }
}

impl Stats {
    /// Counts a frame in which so many faces were predicted on.
    pub fn count_frame(&mut self, faces: usize, times: &FrameTimes) {
        self.frames += 1;
        self.faces += faces as u64;
        self.frames_with_face += u64::from(faces > 0);
        for (stage, duration) in &times.0 {
            self.record(*stage, *duration);
        }
    }

    /// Counts one duration.
    pub fn record(&mut self, stage: Stage, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(MAX_MICROS);
        self.stages[stage as usize].saturating_record(micros.max(1));
    }

    /// The latency in milliseconds below which the share `quantile` of the durations lies; 0 without any.
    pub fn quantile_ms(&self, stage: Stage, quantile: f64) -> f64 {
        self.stages[stage as usize].value_at_quantile(quantile) as f64 / 1000.0
    }

    /// The durations of a stage in microseconds.
    pub fn histogram(&self, stage: Stage) -> &Histogram<u64> {
        &self.stages[stage as usize]
    }

    /// Durations counted of a stage.
    pub fn samples(&self, stage: Stage) -> u64 {
        self.stages[stage as usize].len()
    }

    /// What was counted since `earlier`, an earlier state of the same counts.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        for (stage, before) in since.stages.iter_mut().zip(&earlier.stages) {
            // It fails where `before` holds more than `stage`, which nothing that only counts up does.
            let _ = stage.subtract(before);
        }
        since.frames = self.frames.saturating_sub(earlier.frames);
        since.faces = self.faces.saturating_sub(earlier.faces);
        since.frames_with_face = self.frames_with_face.saturating_sub(earlier.frames_with_face);
        since.dropped = self.dropped.saturating_sub(earlier.dropped);
        since
    }

    /// The summary over a run of `wall`, for people.
    pub fn summary(&self, wall: Duration) -> Summary<'_> {
        Summary { stats: self, wall }
    }
}

/// Displays a run's counts and latencies on several lines.
#[derive(Debug)]
pub struct Summary<'a> {
    stats: &'a Stats,
    wall: Duration,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats;
        let fps = stats.frames as f64 / self.wall.as_secs_f64().max(1e-9);
        let share = 100.0 * stats.frames_with_face as f64 / stats.frames.max(1) as f64;
        writeln!(
            f,
            "{} frames ({share:.1} % with a face), {} faces, {} dropped, {fps:.1} fps",
            stats.frames, stats.faces, stats.dropped
        )?;
        write!(f, "{:>9} {:>9} {:>9} {:>9} {:>9}", "ms", "p50", "p95", "p99", "max")?;
        for stage in Stage::ALL.into_iter().filter(|&stage| stats.samples(stage) > 0) {
            let [p50, p95, p99, max] = [0.5, 0.95, 0.99, 1.0].map(|q| stats.quantile_ms(stage, q));
            write!(f, "\n{:>9} {p50:>9.2} {p95:>9.2} {p99:>9.2} {max:>9.2}", stage.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_since_is_told_apart_from_what_was_before() {
        let mut stats = Stats::default();
        stats.record(Stage::Find, Duration::from_secs(9));
        stats.frames = 7;
        let before = stats.clone();
        stats.record(Stage::Find, Duration::from_millis(3));
        stats.frames += 2;
        let since = stats.since(&before);
        assert_eq!((since.frames, since.samples(Stage::Find), since.samples(Stage::Total)), (2, 1, 0));
        assert!((since.quantile_ms(Stage::Find, 1.0) - 3.0).abs() < 0.1);
    }

    #[test]
    fn quantiles_of_a_known_sequence() {
        let mut stats = Stats::default();
        for ms in 1..=100 {
            stats.record(Stage::Find, Duration::from_millis(ms));
        }
        for (quantile, expected) in [(0.5, 50.0), (0.95, 95.0), (1.0, 100.0)] {
            let got = stats.quantile_ms(Stage::Find, quantile);
            assert!((got - expected).abs() <= expected * 0.01, "{quantile}: {got}");
        }
        assert_eq!(stats.quantile_ms(Stage::Heads, 0.5), 0.0);
        stats.record(Stage::Heads, Duration::from_secs(1 << 30));
        assert!(stats.quantile_ms(Stage::Heads, 1.0) >= 60_000.0);
    }
}
