//! `/metrics`: counts and latencies in Prometheus's text format.

use std::fmt::{self, Display, Write};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use semblance_face::url;

use super::Context;
use super::state::rss_bytes;
use crate::stats::{Stage, Stats};
use crate::telemetry::{SourceState, process_started};

/// Upper bounds of the histograms' buckets in seconds: from a workstation's head to a small board's whole frame.
const BOUNDS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

pub(super) async fn metrics(State(context): State<Arc<Context>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render(&context)).into_response()
}

/// A text in the making. Writing to it cannot fail.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: fmt::Arguments<'_>) {
        let _ = self.0.write_fmt(line);
        self.0.push('\n');
    }

    /// Begins a metric.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP semblance_{name} {help}"));
        self.line(format_args!("# TYPE semblance_{name} {kind}"));
    }

    /// A metric of one value.
    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.line(format_args!("semblance_{name} {value}"));
    }

    /// One value of a metric for each of several labels.
    fn labelled(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (String, u64)>,
    ) {
        self.family(name, kind, help);
        for (of, value) in values {
            self.line(format_args!("semblance_{name}{{{label}=\"{}\"}} {value}", escaped(&of)));
        }
    }

    /// The durations of a stage; `labels` is empty or ends with a comma.
    fn histogram(&mut self, name: &str, labels: &str, stats: &Stats, stage: Stage) {
        let histogram = stats.histogram(stage);
        for bound in BOUNDS {
            let count = histogram.count_between(0, (bound * 1e6) as u64);
            self.line(format_args!("semblance_{name}_bucket{{{labels}le=\"{bound}\"}} {count}"));
        }
        let (count, sum) = (histogram.len(), histogram.mean() * histogram.len() as f64 / 1e6);
        let only = labels.trim_end_matches(',');
        let braced = if only.is_empty() { String::new() } else { format!("{{{only}}}") };
        self.line(format_args!("semblance_{name}_bucket{{{labels}le=\"+Inf\"}} {count}"));
        self.line(format_args!("semblance_{name}_sum{braced} {sum}"));
        self.line(format_args!("semblance_{name}_count{braced} {count}"));
    }
}

fn render(context: &Context) -> String {
    let monitor = &context.monitor;
    let (shared, about) = (monitor.shared(), monitor.about());
    let telemetry = &shared.telemetry;
    let source = &telemetry.source;
    let stats = telemetry.stats().clone();
    let [fps, capture_fps] = monitor.rates();
    let mut text = Text::default();

    text.family("build_info", "gauge", "Version and bundle, as labels; always 1.");
    text.line(format_args!(
        "semblance_build_info{{version=\"{}\",bundle=\"{}\"}} 1",
        escaped(&about.version),
        escaped(&about.labels.bundle)
    ));
    let uptime = process_started().elapsed().as_secs_f64();
    text.single("uptime_seconds", "gauge", "Time since the program started.", uptime);
    text.single("fps", "gauge", "Frames processed a second, over the last seconds.", fps);
    text.single("capture_fps", "gauge", "Frames captured a second, over the last seconds.", capture_fps);
    text.single("frames_total", "counter", "Frames processed.", stats.frames);
    text.single(
        "frames_with_face_total",
        "counter",
        "Frames in which a face was shown.",
        stats.frames_with_face,
    );
    text.single("faces_total", "counter", "Predictions made, one a face a frame.", stats.faces);
    text.single("frames_captured_total", "counter", "Frames that the source gave.", source.captured());
    let skipped = [
        ("damaged", source.damaged()),
        ("missed", source.missed()),
        ("replaced", telemetry.replaced()),
        ("unreadable", stats.dropped),
    ];
    text.labelled(
        "frames_skipped_total",
        "counter",
        "Frames without predictions: came damaged, lost before we got them, replaced by newer ones, unreadable.",
        "reason",
        skipped.map(|(reason, frames)| (reason.to_owned(), frames)),
    );
    let (state, _) = source.state();
    text.single(
        "source_up",
        "gauge",
        "Whether the source gives frames that can be decoded.",
        u8::from(state == SourceState::Live && source.undecodable().is_none()),
    );
    text.single(
        "source_reopened_total",
        "counter",
        "Times that the source was opened again.",
        source.reopened(),
    );
    text.family("inference_seconds", "histogram", "Everything but waiting and decoding, of a frame.");
    text.histogram("inference_seconds", "", &stats, Stage::Total);
    text.family("stage_seconds", "histogram", "Time of each stage of a frame's way.");
    for stage in Stage::ALL {
        text.histogram("stage_seconds", &format!("stage=\"{}\",", stage.name()), &stats, stage);
    }
    let pressure = telemetry.pressure();
    if let Some(celsius) = pressure.temperature_c {
        text.single("temperature_celsius", "gauge", "Temperature of the hottest thermal zone.", celsius);
    }
    text.single(
        "busy_ratio",
        "gauge",
        "Share of the time that the pipeline was busy of late.",
        pressure.busy,
    );
    let held = u8::from(!pressure.reason.is_empty());
    text.single("pressure", "gauge", "Whether heat or load holds the rate or the finder back.", held);
    let outputs = shared.hub.stats();
    let named = |stats: &Arc<crate::hub::QueueStats>| url::public(&stats.name);
    text.labelled(
        "output_delivered_total",
        "counter",
        "Reports queued for an output.",
        "output",
        outputs.iter().map(|stats| (named(stats), stats.delivered())),
    );
    text.labelled(
        "output_dropped_total",
        "counter",
        "Reports dropped because an output was too slow.",
        "output",
        outputs.iter().map(|stats| (named(stats), stats.dropped())),
    );
    let up = outputs.iter().map(|stats| (named(stats), u64::from(stats.problem().is_none())));
    let failed = telemetry.failed_sinks().into_iter().map(|(name, _)| (url::public(&name), 0));
    text.labelled("output_up", "gauge", "Whether an output works.", "output", up.chain(failed));
    text.single("http_connections", "gauge", "Connections to this server.", context.guard.connections());
    text.single(
        "http_preview_clients",
        "gauge",
        "Clients that look at the preview.",
        context.preview.viewers(),
    );
    text.single("http_stream_clients", "gauge", "Clients that read events.", context.events.clients());
    if let Some(bytes) = rss_bytes() {
        text.single("resident_memory_bytes", "gauge", "Resident memory of the process.", bytes);
    }
    text.0
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn buckets_count_what_is_below_their_bound() {
        let mut stats = Stats::default();
        for ms in [2, 4, 9, 30, 5000] {
            stats.record(Stage::Find, Duration::from_millis(ms));
        }
        let mut text = Text::default();
        text.histogram("x", "stage=\"find\",", &stats, Stage::Find);
        for line in [
            "semblance_x_bucket{stage=\"find\",le=\"0.001\"} 0",
            "semblance_x_bucket{stage=\"find\",le=\"0.0025\"} 1",
            "semblance_x_bucket{stage=\"find\",le=\"0.01\"} 3",
            "semblance_x_bucket{stage=\"find\",le=\"2.5\"} 4",
            "semblance_x_bucket{stage=\"find\",le=\"+Inf\"} 5",
            "semblance_x_count{stage=\"find\"} 5",
        ] {
            assert!(text.0.lines().any(|l| l == line), "{line} is not in\n{}", text.0);
        }
        let sum = text.0.lines().find_map(|l| l.strip_prefix("semblance_x_sum{stage=\"find\"} ")).unwrap();
        assert!((sum.parse::<f64>().unwrap() - 5.045).abs() < 0.05, "{sum}");
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
