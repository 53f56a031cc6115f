//! The training loop of the finder and of the landmark network: batches drawn ahead, checkpoints, resuming.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::Args;
use crossbeam::channel::bounded;
use serde::{Deserialize, Serialize};
use tch::{Tensor, nn};

use crate::checkpoint::{self, Checkpoint, FILE_NAME, model_tensors};
use crate::config;
use crate::nets::Precision;
use crate::optim::{self, Optimizer, Rule, named_parameters};
use crate::{interrupt, progress};

/// How long and how fast to train.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Batches to train on
    #[arg(long, default_value_t = 20_000)]
    pub steps: i64,

    /// Pictures a batch
    #[arg(long, default_value_t = 64)]
    pub batch: usize,

    /// Learning rate after 500 steps of warm-up; it falls to 0 along a cosine
    #[arg(long, default_value_t = 2e-3)]
    pub lr: f64,

    /// Decay of the weights
    #[arg(long, default_value_t = 1e-5)]
    pub weight_decay: f64,

    /// The rule by which gradients move weights
    #[arg(long, default_value = "adam")]
    #[serde(default, skip_serializing_if = "Rule::is_adam")]
    pub optimizer: Rule,

    /// Seed of weights, synthetic people and batches
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Number format of convolutions: auto is bf16 where the hardware has it
    #[arg(long, default_value = "auto")]
    pub precision: Precision,
}

/// What a checkpoint of these networks is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaceNetMeta {
    /// Format version, [`checkpoint::FORMAT`].
    pub format: u32,
    /// `finder` or `landmarks`.
    pub kind: String,
    /// Steps done.
    pub step: i64,
    /// How it was trained, and on what.
    pub config: toml::Table,
}

const WARM_UP_STEPS: i64 = 500;
const CHECKPOINT_STEPS: i64 = 1000;
const AHEAD: usize = 3;

/// What a run is, where it lies, and whether it goes on.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Its name in checkpoints and on the progress bar.
    pub kind: &'static str,
    /// How long and how fast.
    pub schedule: &'a Schedule,
    /// All its settings; a run goes on only with the same.
    pub config: &'a toml::Table,
    /// Its folder.
    pub out: &'a Path,
    /// Whether it goes on from its checkpoint.
    pub resume: bool,
}

/// Trains the variables of `vs` and leaves a checkpoint of `kind` in `run.out`; with `run.resume`, goes on from the one
/// there. `draw` gives the batch of a step, which depends on the step alone and holds no tensor: it is drawn on another
/// thread (see [`crate::data::Batch`]). `loss` gives what is to be minimised, and its parts for people.
///
/// Ctrl-C writes a checkpoint and gives `false`.
///
/// # Errors
/// Names the file or setting that stands in the way; what was saved stays.
pub fn train<B: Send>(
    run: &Run<'_>,
    vs: &nn::VarStore,
    draw: impl Fn(i64) -> B + Send,
    loss: impl Fn(&B) -> (Tensor, String),
) -> anyhow::Result<bool> {
    let Run { kind, schedule, config, out, resume } = *run;
    ensure!(schedule.steps > 0 && schedule.batch > 1, "--steps and --batch: there is nothing to train on");
    ensure!(schedule.lr.is_finite() && schedule.lr > 0.0, "--lr {} is not above 0", schedule.lr);
    let stop = interrupt::flag()?;
    let file = out.join(FILE_NAME);
    let mut optimiser = Optimizer::new(schedule.optimizer, named_parameters(vs), schedule.weight_decay);
    let first = if resume {
        let saved = load(kind, out).context("there is nothing to resume")?;
        if saved.meta.config != *config {
            bail!("{}: the run has other settings: resume it with those it had", file.display());
        }
        saved.restore(vs)?;
        optimiser.restore(|_| saved.meta.step, |name| saved.tensor(name))?;
        saved.meta.step
    } else {
        ensure!(
            !file.exists(),
            "{}: there is a run here already: --resume continues it, another --out keeps it",
            out.display()
        );
        std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
        0
    };
    let rate = optim::Schedule {
        warmup_steps: WARM_UP_STEPS,
        ..optim::Schedule::cosine(schedule.lr, schedule.steps)
    };
    let save = |step: i64, optimiser: &Optimizer| {
        let meta =
            FaceNetMeta { format: checkpoint::FORMAT, kind: kind.to_owned(), step, config: config.clone() };
        let mut tensors = model_tensors(vs);
        tensors.extend(optimiser.state());
        checkpoint::save(&file, &meta, tensors)
    };
    let bar = progress::bar(schedule.steps as u64, kind);
    bar.set_position(first as u64);
    bar.reset_eta();
    let started = Instant::now();
    std::thread::scope(|scope| {
        let (sender, batches) = bounded(AHEAD);
        scope.spawn(move || {
            for step in first..schedule.steps {
                if sender.send(draw(step)).is_err() {
                    break;
                }
            }
        });
        // Owned here, so that the drawing thread sees the channel close when this ends.
        let batches = batches;
        for step in first..schedule.steps {
            let batch = batches.recv().context("the thread that draws batches is gone")?;
            let (loss, parts) = loss(&batch);
            optimiser.zero_grad();
            loss.backward();
            optimiser.step(rate.lr_at(step));
            let value = loss.double_value(&[]);
            ensure!(value.is_finite(), "the loss is {value} at step {step}: lower --lr");
            let done = step + 1;
            let pictures_a_second =
                (done - first) as f64 * schedule.batch as f64 / started.elapsed().as_secs_f64();
            let message = format!("loss {value:.3} ({parts}) {pictures_a_second:.0} pictures/s");
            bar.set_message(message.clone());
            bar.inc(1);
            let stopped = stop.load(Ordering::Relaxed);
            if done % CHECKPOINT_STEPS == 0 || done == schedule.steps || stopped {
                save(done, &optimiser)?;
                log::info!("step {done} of {}: {message}", schedule.steps);
            }
            if stopped && done < schedule.steps {
                bar.abandon();
                eprintln!("stopped after step {done} of {}; --resume continues", schedule.steps);
                return Ok(false);
            }
        }
        bar.finish();
        Ok(true)
    })
}

/// The checkpoint of a run of this kind.
///
/// # Errors
/// Names the file; it may be of something else.
pub fn load(kind: &str, run: &Path) -> anyhow::Result<Checkpoint<FaceNetMeta>> {
    let saved = Checkpoint::<FaceNetMeta>::load(run)?;
    let path: PathBuf = run.to_owned();
    ensure!(
        saved.meta.kind == kind,
        "{}: a checkpoint of {}, not of {kind}",
        path.display(),
        saved.meta.kind
    );
    Ok(saved)
}

/// The settings of a run as its checkpoint states them.
///
/// # Errors
/// Where a value cannot stand in TOML.
pub fn settings(value: &impl Serialize) -> anyhow::Result<toml::Table> {
    config::table_of(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Runs of before the option was there go on: their settings are those that are written today.
    #[test]
    fn settings_name_an_optimiser_only_where_it_is_not_adam() {
        let schedule = |optimizer| Schedule {
            steps: 10,
            batch: 4,
            lr: 2e-3,
            weight_decay: 1e-5,
            optimizer,
            seed: 0,
            precision: Precision::Auto,
        };
        assert!(!settings(&schedule(Rule::Adam)).unwrap().contains_key("optimizer"));
        assert_eq!(settings(&schedule(Rule::Muon)).unwrap()["optimizer"].as_str(), Some("muon"));
    }
}
