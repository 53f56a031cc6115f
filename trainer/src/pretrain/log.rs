//! What a run tells of itself: `metrics.jsonl`, `online.jsonl`, TensorBoard events, and warnings.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::online::Scores;
use crate::method::Method;
use crate::tensorboard::EventWriter;

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps before this one.
    pub step: i64,
    /// Epoch, from 0.
    pub epoch: i64,
    /// The loss.
    pub loss: f64,
    /// Share of anchors whose positive is nearer than every negative, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// Terms of the loss and what else the method tells, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, f64>,
    /// Learning rate.
    pub lr: f64,
    /// Memory that the process occupied, in MB; 0 where the system does not tell.
    #[serde(default)]
    pub memory_mb: f64,
    /// Share of positives that FaceSwap or CutMix changed; of several processes, the first one's.
    #[serde(default)]
    pub pasted_share: f64,
}

/// One line of `online.jsonl`: how the frozen encoder did on labelled pictures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OnlineScores {
    /// Steps that were done.
    pub step: i64,
    /// Mean top-1 accuracy of the epoch that ended, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// The accuracies.
    #[serde(flatten)]
    pub scores: Scores,
}

/// A line that belongs to a step.
trait Line: Serialize + DeserializeOwned {
    /// Steps that must have been done for the line to stand.
    fn steps_done(&self) -> i64;
}

impl Line for StepMetrics {
    fn steps_done(&self) -> i64 {
        self.step + 1
    }
}

impl Line for OnlineScores {
    fn steps_done(&self) -> i64 {
        self.step
    }
}

/// A run's records, in its folder.
#[derive(Debug)]
pub(super) struct RunLog {
    metrics: File,
    online: File,
    events: EventWriter,
    epoch: EpochMean,
    watch: Watch,
}

const METRICS: &str = "metrics.jsonl";
const ONLINE: &str = "online.jsonl";
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
        self.top1 += line.top1.unwrap_or(f64::NAN);
        self.steps += 1;
    }

    fn top1(&self) -> Option<f64> {
        let mean = self.top1 / self.steps.max(1) as f64;
        (!mean.is_nan()).then_some(mean)
    }
}

impl RunLog {
    /// Opens the records of the run in `out`, which goes on with `step`: lines of steps that a crash undid are dropped,
    /// and what is left tells what was warned of already. With `probed`, an online probe is what warnings go by.
    ///
    /// # Errors
    /// Names the file.
    pub(super) fn open(
        out: &Path,
        step: i64,
        steps_an_epoch: i64,
        method: Method,
        probed: bool,
    ) -> anyhow::Result<Self> {
        let (metrics, steps) = reopen::<StepMetrics>(&out.join(METRICS), step)?;
        let (online, scores) = reopen::<OnlineScores>(&out.join(ONLINE), step)?;
        let mut epoch = EpochMean::default();
        let mut watch = Watch::new(method, probed);
        for line in &steps {
            epoch.add(line);
            if line.steps_done() % steps_an_epoch == 0 {
                let _ = watch.top1(epoch.top1());
            }
        }
        for line in &scores {
            let _ = watch.probe(line.top1, line.scores.linear);
        }
        Ok(Self { metrics, online, events: EventWriter::create(out, step)?, epoch, watch })
    }

    /// Records a step.
    ///
    /// # Errors
    /// Where the disk does not take it.
    pub(super) fn step(&mut self, line: &StepMetrics) -> anyhow::Result<()> {
        append(&mut self.metrics, line).context(METRICS)?;
        self.epoch.add(line);
        if line.step % EVENT_STEPS == 0 {
            let scalars = [
                ("train/loss", Some(line.loss)),
                ("train/top1", line.top1),
                ("train/lr", Some(line.lr)),
                ("train/memory_mb", Some(line.memory_mb)),
                ("data/pasted_share", Some(line.pasted_share)),
            ];
            for (tag, value) in scalars {
                if let Some(value) = value {
                    self.events.scalar(tag, line.step, value)?;
                }
            }
            for (name, value) in &line.parts {
                self.events.scalar(&format!("method/{name}"), line.step, *value)?;
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

    /// Records how the frozen encoder does on labelled pictures after `step` steps, and gives a warning where that is
    /// reason to one. The tags say `online`, so that nobody takes them for what is trained.
    ///
    /// # Errors
    /// Where the disk does not take it.
    pub(super) fn online(&mut self, step: i64, scores: &Scores) -> anyhow::Result<Option<String>> {
        self.events.scalar("online/knn_accuracy", step, scores.knn)?;
        self.events.scalar("online/linear_probe_accuracy", step, scores.linear)?;
        self.events.flush()?;
        let top1 = self.epoch.top1();
        append(&mut self.online, &OnlineScores { step, top1, scores: *scores }).context(ONLINE)?;
        Ok(self.watch.probe(top1, scores.linear))
    }

    /// Mean top-1 accuracy of the present epoch so far, where there is one.
    pub(super) fn epoch_top1(&self) -> Option<f64> {
        self.epoch.top1()
    }

    /// A warning where the end of an epoch gives reason to one and there is nothing but top-1 to go by.
    pub(super) fn warning(&mut self) -> Option<String> {
        self.watch.top1(self.epoch.top1())
    }
}

/// Opens a file of lines to append to, with those that stand after `step` steps and no others. It is written beside its
/// place and renamed, so that a crash loses nothing.
fn reopen<L: Line>(path: &Path, step: i64) -> anyhow::Result<(File, Vec<L>)> {
    let at = || path.display().to_string();
    let kept = if path.exists() { lines_until(path, step)? } else { Vec::new() };
    let beside = path.with_extension("jsonl.new");
    let mut file = BufWriter::new(File::create(&beside).with_context(at)?);
    for line in &kept {
        append(&mut file, line).with_context(at)?;
    }
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all().with_context(at)?;
    fs::rename(&beside, path).with_context(at)?;
    Ok((OpenOptions::new().append(true).open(path).with_context(at)?, kept))
}

fn append(file: &mut impl Write, line: &impl Line) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    Ok(file.write_all(text.as_bytes())?)
}

fn lines_until<L: Line>(path: &Path, step: i64) -> anyhow::Result<Vec<L>> {
    let at = || path.display().to_string();
    let mut kept = Vec::new();
    for line in BufReader::new(File::open(path).with_context(at)?).lines() {
        // A line that was cut off by the crash is dropped with the rest.
        match serde_json::from_str::<L>(&line.with_context(at)?) {
            Ok(line) if line.steps_done() <= step => kept.push(line),
            _ => break,
        }
    }
    Ok(kept)
}

/// Watches for instance discrimination that is learnt at the cost of expression. An online probe sees it, and where
/// there is one it alone is gone by; else top-1 is compared with where SSLFER's table 3 has expression fall. Each speaks
/// once.
#[derive(Clone, Copy, Debug)]
struct Watch {
    probed: bool,
    overfit_top1: Option<f64>,
    best: f64,
    told: bool,
}

/// A fall of the online probe below its best that is more than its noise.
const FALL: f64 = 0.02;

/// The top-1 accuracy beyond which table 3 of SSLFER has expression fall: SimCLR is at its best at 97.1 % and falls by
/// 99.0 %, SSLFER's own is at its best from 75.6 to 85.1 % and falls by 90.0 %. The table has no other method; of the others, those
/// are told of that contrast views of one picture, as SimCLR does.
const fn overfit_top1(method: Method) -> Option<f64> {
    match method {
        Method::Sslfer => Some(0.87),
        Method::SimClr | Method::Moco | Method::Byol | Method::SimSiam | Method::Pcl => Some(0.97),
        _ => None,
    }
}

impl Watch {
    const fn new(method: Method, probed: bool) -> Self {
        Self { probed, overfit_top1: overfit_top1(method), best: 0.0, told: false }
    }

    /// What to tell after the online probe's linear accuracy became known.
    fn probe(&mut self, top1: Option<f64>, accuracy: f64) -> Option<String> {
        let best = self.best;
        self.best = best.max(accuracy);
        self.tell(self.probed && accuracy < best - FALL).then(|| {
            let beside = top1.map_or_else(String::new, |top1| {
                format!(" while top-1 is {top1:.3}: the encoder is learning who instead of what")
            });
            format!(
                "the online probe has fallen from {best:.3} to {accuracy:.3}{beside}; earlier checkpoints may be better"
            )
        })
    }

    /// What to tell after an epoch of this mean top-1, with no probe to go by.
    fn top1(&mut self, top1: Option<f64>) -> Option<String> {
        let (top1, overfit) = (top1?, self.overfit_top1?);
        self.tell(!self.probed && top1 > overfit).then(|| {
            format!(
                "top-1 is {top1:.3}: in SSLFER's table 3 expression accuracy falls from about {overfit} on; --probe-data \
                 shows whether it does here"
            )
        })
    }

    /// Whether there is reason to speak for the first time.
    fn tell(&mut self, reason: bool) -> bool {
        let first = reason && !self.told;
        self.told |= reason;
        first
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_fall_of_the_probe_is_told_once_whatever_top1_was() {
        let mut watch = Watch::new(Method::SimClr, true);
        assert_eq!(watch.top1(Some(0.98)), None, "the probe decides");
        assert_eq!(watch.probe(Some(0.98), 0.4), None);
        assert_eq!(watch.probe(Some(0.98), 0.39), None);
        let warning = watch.probe(Some(0.8), 0.37).unwrap();
        assert!(warning.contains("0.400 to 0.370") && warning.contains("0.800"), "{warning}");
        assert_eq!(watch.probe(Some(0.9), 0.3), None);
    }

    #[test]
    fn without_a_probe_table_3_decides_by_method() {
        let mut watch = Watch::new(Method::SimClr, false);
        assert_eq!(watch.top1(Some(0.96)), None);
        assert!(watch.top1(Some(0.98)).is_some_and(|w| w.contains("table 3") && w.contains("0.97")));
        assert_eq!(watch.top1(Some(0.99)), None);
        let mut watch = Watch::new(Method::Sslfer, false);
        assert_eq!(watch.top1(Some(0.851)), None);
        assert!(watch.top1(Some(0.90)).is_some());
    }

    const STEPS_AN_EPOCH: i64 = 2;

    fn open(out: &Path, step: i64, probed: bool) -> RunLog {
        RunLog::open(out, step, STEPS_AN_EPOCH, Method::SimClr, probed).unwrap()
    }

    fn epoch(log: &mut RunLog, epoch: i64, top1: f64) {
        for step in STEPS_AN_EPOCH * epoch..STEPS_AN_EPOCH * (epoch + 1) {
            let line = StepMetrics {
                step,
                epoch,
                loss: 1.0,
                top1: Some(top1),
                parts: BTreeMap::new(),
                lr: 0.1,
                memory_mb: 0.0,
                pasted_share: 0.0,
            };
            log.step(&line).unwrap();
        }
    }

    fn scores(linear: f64) -> Scores {
        Scores { knn: 0.2, linear }
    }

    #[test]
    fn a_resumed_run_remembers_the_probes_best_and_what_it_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), 0, true);
        epoch(&mut log, 0, 0.98);
        assert_eq!(log.warning(), None);
        assert_eq!(log.online(2, &scores(0.5)).unwrap(), None);
        epoch(&mut log, 1, 0.98);
        assert_eq!(log.online(4, &scores(0.7)).unwrap(), None);
        // The second epoch is undone, and with it the best that it had.
        let mut log = open(dir.path(), 2, true);
        epoch(&mut log, 1, 0.98);
        let warning = log.online(4, &scores(0.4)).unwrap().unwrap();
        assert!(warning.contains("0.500 to 0.400"), "{warning}");
        let mut log = open(dir.path(), 4, true);
        epoch(&mut log, 2, 0.98);
        assert_eq!(log.online(6, &scores(0.3)).unwrap(), None, "it was told before");
        // Without a probe, what top-1 gave reason to is not told again either.
        let mut log = open(dir.path(), 4, false);
        epoch(&mut log, 2, 0.99);
        assert_eq!(log.warning(), None);
    }

    #[test]
    fn records_are_cut_to_the_steps_that_stand_without_a_moment_without_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS);
        let mut log = open(dir.path(), 0, false);
        epoch(&mut log, 0, 0.5);
        epoch(&mut log, 1, 0.5);
        // What is open is the file as it was: a reader that is cut off by the crash of a resume still has every line.
        let before = File::open(&path).unwrap();
        drop(open(dir.path(), 3, false));
        assert_eq!(BufReader::new(before).lines().count(), 4);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
        assert!(!path.with_extension("jsonl.new").exists());
        // A fresh run begins with none.
        drop(open(dir.path(), 0, false));
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }
}
