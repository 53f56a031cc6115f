//! What a run tells of itself: `metrics.jsonl`, TensorBoard events, the progress bar, and warnings.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::online::Scores;
use crate::tensorboard::EventWriter;

/// One line of `metrics.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps before this one.
    pub step: i64,
    /// Epoch, from 0.
    pub epoch: i64,
    /// The loss.
    pub loss: f64,
    /// Share of anchors whose positive is nearer than every negative.
    pub top1: f64,
    /// Learning rate.
    pub lr: f64,
    /// Memory that the process occupied, in MB; 0 where the system does not tell.
    #[serde(default)]
    pub memory_mb: f64,
}

/// A run's records, in its folder.
#[derive(Debug)]
pub(super) struct RunLog {
    metrics: File,
    events: EventWriter,
    epoch: EpochMean,
    watch: Watch,
}

const METRICS: &str = "metrics.jsonl";
/// Steps between two points of a TensorBoard curve.
const EVENT_STEPS: i64 = 10;

#[derive(Clone, Copy, Debug, Default)]
struct EpochMean {
    epoch: i64,
    top1: f64,
    steps: i64,
}

impl EpochMean {
    fn add(&mut self, line: &StepMetrics) {
        if line.epoch != self.epoch {
            *self = Self { epoch: line.epoch, ..Self::default() };
        }
        self.top1 += line.top1;
        self.steps += 1;
    }

    fn top1(&self) -> f64 {
        self.top1 / self.steps.max(1) as f64
    }
}

impl RunLog {
    /// Opens the records of the run in `out`, which goes on with `step`: lines of steps that a crash undid are dropped.
    ///
    /// # Errors
    /// Names the file.
    pub(super) fn open(out: &Path, step: i64) -> anyhow::Result<Self> {
        let path = out.join(METRICS);
        let at = || path.display().to_string();
        let kept = if step > 0 && path.exists() { lines_before(&path, step)? } else { Vec::new() };
        let mut epoch = EpochMean::default();
        let mut text = String::new();
        for line in &kept {
            epoch.add(line);
            text += &serde_json::to_string(line)?;
            text.push('\n');
        }
        fs::write(&path, text).with_context(at)?;
        let metrics = OpenOptions::new().append(true).open(&path).with_context(at)?;
        let events = EventWriter::create(out, step)?;
        Ok(Self { metrics, events, epoch, watch: Watch::default() })
    }

    /// Records a step.
    ///
    /// # Errors
    /// Where the disk does not take it.
    pub(super) fn step(&mut self, line: &StepMetrics) -> anyhow::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.metrics.write_all(text.as_bytes()).context(METRICS)?;
        self.epoch.add(line);
        if line.step % EVENT_STEPS == 0 {
            let scalars = [
                ("train/loss", line.loss),
                ("train/top1", line.top1),
                ("train/lr", line.lr),
                ("train/memory_mb", line.memory_mb),
            ];
            for (tag, value) in scalars {
                self.events.scalar(tag, line.step, value)?;
            }
        }
        Ok(())
    }

    /// Records how fast it goes, and the share of the time that the device waited for data.
    ///
    /// # Errors
    /// Where the disk does not take it.
    pub(super) fn speed(&mut self, step: i64, images_per_sec: f64, wait_share: f64) -> anyhow::Result<()> {
        self.events.scalar("speed/images_per_sec", step, images_per_sec)?;
        self.events.scalar("speed/data_wait_share", step, wait_share)?;
        Ok(self.events.flush()?)
    }

    /// Records how the frozen encoder does on labelled pictures. The tags say `online`, so that nobody takes them for
    /// what is trained.
    ///
    /// # Errors
    /// Where the disk does not take it.
    pub(super) fn online(&mut self, step: i64, scores: &Scores) -> anyhow::Result<Option<String>> {
        self.events.scalar("online/knn_accuracy", step, scores.knn)?;
        self.events.scalar("online/linear_probe_accuracy", step, scores.linear)?;
        self.events.flush()?;
        Ok(self.watch.judge(self.epoch.top1(), Some(scores.linear)))
    }

    /// Mean top-1 accuracy of the present epoch so far.
    pub(super) fn epoch_top1(&self) -> f64 {
        self.epoch.top1()
    }

    /// A warning where the end of an epoch gives reason to one, with nothing but top-1 to go by.
    pub(super) fn warning(&mut self) -> Option<String> {
        self.watch.judge(self.epoch.top1(), None)
    }
}

fn lines_before(path: &Path, step: i64) -> anyhow::Result<Vec<StepMetrics>> {
    let at = || path.display().to_string();
    let mut kept = Vec::new();
    for line in BufReader::new(File::open(path).with_context(at)?).lines() {
        // A line that was cut off by the crash is dropped with the rest.
        match serde_json::from_str::<StepMetrics>(&line.with_context(at)?) {
            Ok(metrics) if metrics.step < step => kept.push(metrics),
            _ => break,
        }
    }
    Ok(kept)
}

/// Watches for instance discrimination that is learnt at the cost of expression (SSLFER, table 3: accuracy on
/// expressions falls when top-1 rises beyond 85 % with its pairs, and beyond 97 % with SimCLR's).
#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    best: f64,
    warned: bool,
}

/// Where both of the table's methods are past their best.
const OVERFIT_TOP1: f64 = 0.97;
/// A fall of the online probe below its best that is more than its noise.
const FALL: f64 = 0.02;

impl Watch {
    /// What to tell, once, after an epoch of this mean top-1 and maybe an online probe's accuracy.
    fn judge(&mut self, top1: f64, probe: Option<f64>) -> Option<String> {
        let warning = match probe {
            Some(accuracy) if accuracy < self.best - FALL => Some(format!(
                "the online probe has fallen from {:.3} to {accuracy:.3} while top-1 is {top1:.3}: the encoder is \
                 learning who instead of what; earlier checkpoints may be better",
                self.best
            )),
            _ if top1 > OVERFIT_TOP1 => Some(format!(
                "top-1 is {top1:.3}: in SSLFER's table 3 expression accuracy falls from there on; --probe-data shows \
                 whether it does here"
            )),
            _ => None,
        };
        self.best = self.best.max(probe.unwrap_or(0.0));
        let fresh = !self.warned;
        self.warned |= warning.is_some();
        warning.filter(|_| fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watch_speaks_once_and_for_a_reason() {
        let mut watch = Watch::default();
        assert_eq!(watch.judge(0.5, Some(0.4)), None);
        assert_eq!(watch.judge(0.7, Some(0.39)), None);
        let warning = watch.judge(0.8, Some(0.37)).unwrap_or_default();
        assert!(warning.contains("0.400 to 0.370"), "{warning}");
        assert_eq!(watch.judge(0.9, Some(0.3)), None);

        let mut watch = Watch::default();
        assert_eq!(watch.judge(0.96, None), None);
        assert!(watch.judge(0.98, None).is_some_and(|w| w.contains("table 3")));
        assert_eq!(watch.judge(0.99, None), None);
    }
}
