//! Before and after, as text and as SVG, from a fit's report in JSON.

use std::fmt::Write;

use semblance_calib::fit::Verdict;
use serde::Deserialize;
use serde_json::Value;

/// What is drawn of one metric: values in `[0, 1]`, as `(value, low, high)`.
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    pub(crate) before: [f64; 3],
    pub(crate) after: [f64; 3],
    /// Positive is better.
    pub(crate) gain: [f64; 3],
}

pub(crate) fn lines(head: &Value) -> Vec<Line<'_>> {
    let estimate = |metric: &Value, when: &str| {
        ["value", "low", "high"].map(|part| metric[when][part].as_f64().unwrap_or(f64::NAN))
    };
    let metrics = head["metrics"].as_array().map_or(&[][..], Vec::as_slice);
    let line = |metric: &'_ Value| -> Option<([f64; 3], [f64; 3])> {
        let (before, after) = (estimate(metric, "before"), estimate(metric, "after"));
        (before[0].is_finite() && after[0].is_finite()).then_some((before, after))
    };
    metrics
        .iter()
        .filter_map(|metric| {
            let (before, after) = line(metric)?;
            let (name, gain) = (metric["name"].as_str().unwrap_or_default(), estimate(metric, "gain"));
            Some(Line { name, before, after, gain })
        })
        .collect()
}

/// The heads with their verdict, in words.
pub(crate) fn heads(report: &Value) -> impl Iterator<Item = (&Value, String)> {
    report["heads"].as_array().into_iter().flatten().map(|head| {
        let name = match head["head"].as_str().unwrap_or_default() {
            "rest" => "expression relative to the face at rest",
            name => name,
        };
        let verdict = Verdict::deserialize(head).unwrap_or(Verdict::Unnamed);
        (head, format!("{name}: {verdict}"))
    })
}

const WIDTH: usize = 24;

fn bar(value: f64) -> String {
    let full = (value.clamp(0.0, 1.0) * WIDTH as f64).round() as usize;
    "█".repeat(full) + &"·".repeat(WIDTH - full)
}

/// Bars of before and after, a head after the other.
pub(crate) fn text(report: &Value) -> String {
    let mut out = String::new();
    for (head, title) in heads(report) {
        let _ = writeln!(out, "{title}");
        for Line { name, before, after, .. } in lines(head) {
            for (name, when, [value, low, high]) in [(name, "before", before), ("", "after", after)] {
                let bar = bar(value);
                let _ = writeln!(out, "  {name:<16} {when:<6} {bar} {value:>6.3}  [{low:.3}, {high:.3}]");
            }
        }
    }
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The same as a picture: grey before, blue after, with intervals.
pub(crate) fn svg(report: &Value, title: &str) -> String {
    const LEFT: f64 = 190.0;
    const SCALE: f64 = 400.0;
    let mut body = String::new();
    let mut y = 30.0;
    let _ = writeln!(body, "<text x=\"12\" y=\"{y}\" font-size=\"16\">{}</text>", escaped(title));
    for (head, title) in heads(report) {
        y += 34.0;
        let _ = writeln!(body, "<text x=\"12\" y=\"{y}\" font-weight=\"bold\">{}</text>", escaped(&title));
        for Line { name, before, after, .. } in lines(head) {
            y += 30.0;
            let _ = writeln!(body, "<text x=\"12\" y=\"{y}\">{}</text>", escaped(name));
            for ([value, low, high], colour, top) in
                [(before, "#9aa0a6", y - 16.0), (after, "#1a73e8", y - 5.0)]
            {
                let at = |v: f64| LEFT + SCALE * v.clamp(0.0, 1.0);
                let (width, middle) = (at(value) - LEFT, top + 4.5);
                let _ = writeln!(
                    body,
                    "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.1}\" height=\"9\" fill=\"{colour}\"/>\
                     <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"#202124\"/>\
                     <text x=\"{:.1}\" y=\"{}\" font-size=\"10\">{value:.3}</text>",
                    at(low),
                    at(high),
                    LEFT + SCALE + 8.0,
                    top + 8.5
                );
            }
        }
    }
    let height = y + 30.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"680\" height=\"{height}\" viewBox=\"0 0 680 {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bars_are_as_long_as_values_and_names_are_escaped() {
        let estimate = |value: f64| json!({ "value": value, "low": value - 0.1, "high": value + 0.1 });
        let metric = json!({ "name": "recall_<b>", "before": estimate(0.25), "after": estimate(1.0) });
        let report = json!({ "heads": [
            { "head": "expression", "verdict": "accepted", "metrics": [metric] },
            { "head": "va", "verdict": "too_few_labels", "labels": 3, "needed": 12, "metrics": [] },
        ] });
        let text = text(&report);
        let bars: Vec<usize> = text.lines().map(|line| line.matches('█').count()).collect();
        assert_eq!(bars, [0, WIDTH / 4, WIDTH, 0], "{text}");
        assert!(text.contains("va: kept as it was: 3 labels, 12 are needed"), "{text}");
        let svg = svg(&report, "a & b");
        assert!(svg.contains("width=\"100.0\"") && svg.contains("width=\"400.0\""), "{svg}");
        assert!(svg.contains("recall_&lt;b&gt;") && svg.contains("a &amp; b"), "{svg}");
    }
}
