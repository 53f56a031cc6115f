//! `trainer pretrain`: self-supervised training of an encoder on the pictures of a store.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use tch::{Tensor, nn};

use crate::augment::{AugmentConfig, augment};
use crate::checkpoint::{self, Checkpoint, FILE_NAME, Meta, model_tensors};
use crate::data::{Batch, epoch_order, mix, normalise, prefetch, training_device};
use crate::method::{Method, Projection, SimClr};
use crate::nets::{Backbone, Precision};
use crate::optim::{Adam, CosineSchedule, named_parameters};
use crate::store::{Split, Store};
use crate::{config, progress};

/// Everything that decides a run. The defaults are SSLFER's (section 4.1), the backbone and its input side aside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PretrainConfig {
    /// The method.
    pub method: Method,
    /// The encoder.
    pub backbone: Backbone,
    /// Side of the encoder's input in pixels.
    pub side_px: u32,
    /// Passes over the training pictures.
    pub epochs: i64,
    /// Pictures a batch (each gives two views).
    pub batch: usize,
    /// Adam's learning rate.
    pub lr: f64,
    /// L2 regularisation.
    pub weight_decay: f64,
    /// The learning rate is constant before this epoch, then falls to 0 along a cosine.
    pub cosine_from_epoch: i64,
    /// Decides the first weights, the order of the data and every augmentation.
    pub seed: u64,
    /// A checkpoint is written after every so many epochs, and at the end.
    pub checkpoint_epochs: i64,
    /// A checkpoint is written after every so many steps, too; 0 for not.
    pub checkpoint_steps: i64,
    /// Number format of the convolutions.
    pub precision: Precision,
    /// Channel means that pictures in `[0,1]` are normalised with.
    pub mean: [f32; 3],
    /// Channel deviations that pictures in `[0,1]` are normalised with.
    pub std: [f32; 3],
    /// Projection head and loss.
    pub projection: Projection,
    /// The views.
    pub augment: AugmentConfig,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            method: Method::SimClr,
            backbone: Backbone::Edge,
            side_px: 64,
            epochs: 100,
            batch: 256,
            lr: 3e-4,
            weight_decay: 1e-4,
            cosine_from_epoch: 10,
            seed: 0,
            checkpoint_epochs: 5,
            checkpoint_steps: 0,
            precision: Precision::Auto,
            mean: [0.5; 3],
            std: [0.25; 3],
            projection: Projection::default(),
            augment: AugmentConfig::default(),
        }
    }
}

impl PretrainConfig {
    /// # Errors
    /// Names the first setting that makes no sense.
    fn check(&self) -> anyhow::Result<()> {
        ensure!((16..=512).contains(&self.side_px), "side_px = {} is outside 16 to 512", self.side_px);
        ensure!(self.epochs > 0, "epochs = {} is not above 0", self.epochs);
        ensure!(self.batch >= 2, "batch = {}: contrast needs at least 2 pictures", self.batch);
        ensure!(self.lr.is_finite() && self.lr > 0.0, "lr = {} is not above 0", self.lr);
        ensure!(self.weight_decay >= 0.0, "weight_decay = {} is below 0", self.weight_decay);
        ensure!(
            self.projection.temperature > 0.0,
            "temperature = {} is not above 0",
            self.projection.temperature
        );
        ensure!(self.projection.out > 0, "projection.out = {} is not above 0", self.projection.out);
        ensure!(self.checkpoint_epochs > 0, "checkpoint_epochs = {} is not above 0", self.checkpoint_epochs);
        ensure!(self.std.iter().all(|s| *s > 0.0), "std = {:?} is not above 0", self.std);
        match self.augment.problem() {
            Some(problem) => bail!("augment: {problem}"),
            None => Ok(()),
        }
    }

    /// Side that pictures are brought to before views are drawn: SSLFER's 128 for an input of 112.
    fn load_side_px(&self) -> u32 {
        (self.side_px * 128).div_ceil(112)
    }
}

/// Options of `trainer pretrain`. A flag wins over the environment, and that over the configuration file.
#[derive(Clone, Debug, Args, Serialize)]
pub struct PretrainArgs {
    /// Folder of the store with the pictures
    #[arg(long)]
    #[serde(skip)]
    pub data: PathBuf,

    /// Folder of the run: checkpoint.safetensors, metrics.jsonl, config.toml
    #[arg(long)]
    #[serde(skip)]
    pub out: PathBuf,

    /// TOML file with any of the settings
    #[arg(long)]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Continue the run in --out from its last checkpoint
    #[arg(long)]
    #[serde(skip)]
    pub resume: bool,

    /// Pretraining method [default: simclr]
    #[arg(long, env = "SEMBLANCE_METHOD")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,

    /// Encoder [default: edge]
    #[arg(long, env = "SEMBLANCE_BACKBONE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backbone: Option<Backbone>,

    /// Side of the encoder's input in pixels [default: 64]
    #[arg(long, env = "SEMBLANCE_SIDE_PX")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side_px: Option<u32>,

    /// Passes over the pictures [default: 100]
    #[arg(long, env = "SEMBLANCE_EPOCHS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<i64>,

    /// Pictures a batch; each gives two views [default: 256]
    #[arg(long, env = "SEMBLANCE_BATCH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,

    /// Learning rate [default: 0.0003]
    #[arg(long, env = "SEMBLANCE_LR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,

    /// Seed of weights, order and augmentation [default: 0]
    #[arg(long, env = "SEMBLANCE_SEED")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,

    /// Number format of convolutions [default: auto, bf16 where the hardware has it]
    #[arg(long, env = "SEMBLANCE_PRECISION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,

    /// Write a checkpoint every so many steps, besides those after epochs [default: 0, not]
    #[arg(long, env = "SEMBLANCE_CHECKPOINT_STEPS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_steps: Option<i64>,
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps before this one.
    pub step: i64,
    /// Epoch, from 0.
    pub epoch: i64,
    /// The loss.
    pub loss: f64,
    /// Share of views whose positive is nearer than every negative.
    pub top1: f64,
    /// Learning rate.
    pub lr: f64,
}

/// Runs `trainer pretrain`.
///
/// # Errors
/// Names the file, folder or setting that stands in the way; what was saved stays.
pub fn run(args: &PretrainArgs) -> anyhow::Result<()> {
    let config: PretrainConfig = config::layered(args.config.as_deref(), config::table_of(args)?)?;
    let store = Store::open(&args.data)?;
    let stop = stop_flag()?;
    pretrain(&config, &store, &args.out, args.resume, stop)
}

static STOP: AtomicBool = AtomicBool::new(false);

/// A flag that Ctrl-C sets.
fn stop_flag() -> anyhow::Result<&'static AtomicBool> {
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed)).context("cannot handle Ctrl-C")?;
    Ok(&STOP)
}

/// Trains until the last epoch, or until `stop` is set (with a checkpoint either way).
///
/// # Errors
/// As [`run`].
pub fn pretrain(
    config: &PretrainConfig,
    store: &Store,
    out: &Path,
    resume: bool,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    config.check()?;
    let indices = store.split(Split::Train);
    let steps_an_epoch = (indices.len() / config.batch) as i64;
    ensure!(
        steps_an_epoch > 0,
        "{}: {} training pictures do not fill a batch of {}: lower --batch",
        store.dir().display(),
        indices.len(),
        config.batch
    );
    let device = training_device();
    tch::manual_seed(config.seed as i64);
    let vs = nn::VarStore::new(device);
    let model = SimClr::new(&vs.root(), config.backbone, config.projection, config.precision);
    let mut optimiser = Adam::new(named_parameters(&vs), config.weight_decay);
    let total_steps = steps_an_epoch * config.epochs;
    let schedule = CosineSchedule {
        lr: config.lr,
        constant_steps: steps_an_epoch * config.cosine_from_epoch.min(config.epochs),
        total_steps,
    };
    let mut step = if resume { restore(config, out, &vs, &mut optimiser)? } else { start_run(config, out)? };
    let mut metrics = open_metrics(&out.join(METRICS), step)?;
    let save = |step: i64, optimiser: &Adam| save(config, out, step, &vs, optimiser);

    let first = step;
    let batches = (first..total_steps).scan((-1, Vec::new()), |(epoch, order), step| {
        if *epoch != step / steps_an_epoch {
            *epoch = step / steps_an_epoch;
            *order = epoch_order(&indices, config.seed, *epoch);
        }
        let start = (step % steps_an_epoch) as usize * config.batch;
        Some(order[start..start + config.batch].to_vec())
    });
    let bar = progress::bar(total_steps as u64, config.method.name());
    bar.set_position(first as u64);
    bar.reset_eta();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for batch in prefetch(scope, store, batches, config.load_side_px()) {
            let (views_a, views_b) = views(config, &batch?, step, device);
            let contrast = model.contrast(&views_a, &views_b);
            optimiser.zero_grad();
            contrast.loss.backward();
            let lr = schedule.lr_at(step);
            optimiser.step(lr);
            let epoch = step / steps_an_epoch;
            let line = StepMetrics {
                step,
                epoch,
                loss: contrast.loss.double_value(&[]),
                top1: contrast.top1.double_value(&[]),
                lr,
            };
            ensure!(line.loss.is_finite(), "the loss is {} at step {step}: lower --lr", line.loss);
            write_line(&mut metrics, &line).with_context(|| out.join(METRICS).display().to_string())?;
            step += 1;
            let rate = (step - first) as f64 * config.batch as f64 / started.elapsed().as_secs_f64();
            bar.set_message(format!(
                "loss {:.3} top-1 {:.1} % {rate:.0} images/s",
                line.loss,
                100.0 * line.top1
            ));
            bar.inc(1);
            let epoch_done =
                step % steps_an_epoch == 0 && (step / steps_an_epoch) % config.checkpoint_epochs == 0;
            let steps_done = config.checkpoint_steps > 0 && step % config.checkpoint_steps == 0;
            let stopped = stop.load(Ordering::Relaxed);
            if epoch_done || steps_done || stopped || step == total_steps {
                save(step, &optimiser)?;
            }
            if stopped && step < total_steps {
                bar.abandon();
                eprintln!("stopped after step {step} of {total_steps}; --resume continues");
                return Ok(());
            }
        }
        bar.finish();
        let rate = (step - first) as f64 * config.batch as f64 / started.elapsed().as_secs_f64();
        eprintln!("{}: {step} steps, {rate:.0} images/s", out.join(FILE_NAME).display());
        Ok(())
    })
}

/// Two views of every picture of the batch, normalised.
fn views(config: &PretrainConfig, batch: &Batch, step: i64, device: tch::Device) -> (Tensor, Tensor) {
    let pictures = batch.to_unit(device);
    let seed = mix(config.seed, step as u64);
    let view = |which| {
        let view = augment(
            &pictures,
            &batch.landmarks,
            &config.augment,
            i64::from(config.side_px),
            mix(seed, which),
        );
        normalise(&view, config.mean, config.std)
    };
    (view(0), view(1))
}

const METRICS: &str = "metrics.jsonl";
const CONFIG: &str = "config.toml";

/// A fresh run's folder; the first step is 0.
fn start_run(config: &PretrainConfig, out: &Path) -> anyhow::Result<i64> {
    ensure!(
        !out.join(FILE_NAME).exists(),
        "{}: there is a run here already: --resume continues it, another --out keeps it",
        out.display()
    );
    let at = || out.display().to_string();
    fs::create_dir_all(out).with_context(at)?;
    fs::write(out.join(CONFIG), toml::to_string(config).context("configuration")?).with_context(at)?;
    Ok(0)
}

/// Puts weights and optimiser back as the last checkpoint has them; returns its step.
fn restore(
    config: &PretrainConfig,
    out: &Path,
    vs: &nn::VarStore,
    optimiser: &mut Adam,
) -> anyhow::Result<i64> {
    let saved: Checkpoint = Checkpoint::load(&out.join(FILE_NAME)).context("there is nothing to resume")?;
    let ours = config::table_of(config)?;
    for (key, value) in &ours {
        let was = saved.meta.config.get(key);
        // Checkpoints may be written more or less often without changing what is computed.
        if was != Some(value) && !key.starts_with("checkpoint") {
            let was = was.map_or_else(|| "nothing".to_owned(), toml::Value::to_string);
            bail!(
                "{}: the run has {key} = {was}, not {value}: resume it with the settings it had",
                out.display()
            );
        }
    }
    saved.restore(vs)?;
    optimiser.restore(saved.meta.step, |name| saved.tensor(name))?;
    Ok(saved.meta.step)
}

fn save(
    config: &PretrainConfig,
    out: &Path,
    step: i64,
    vs: &nn::VarStore,
    optimiser: &Adam,
) -> anyhow::Result<()> {
    let meta = Meta {
        format: checkpoint::FORMAT,
        backbone: config.backbone,
        side_px: config.side_px,
        mean: config.mean,
        std: config.std,
        method: config.method.name().to_owned(),
        labels: Vec::new(),
        step,
        config: config::table_of(config)?,
        scores: toml::Table::new(),
    };
    let mut tensors = model_tensors(vs);
    tensors.extend(optimiser.state());
    Ok(checkpoint::save(&out.join(FILE_NAME), &meta, tensors)?)
}

/// The metrics file with the lines before `step`: those of steps that a crash undid are dropped.
fn open_metrics(path: &Path, step: i64) -> anyhow::Result<File> {
    let at = || path.display().to_string();
    let mut kept = Vec::new();
    if step > 0 && path.exists() {
        for line in BufReader::new(File::open(path).with_context(at)?).lines() {
            let line = line.with_context(at)?;
            // A line that was cut off by the crash is dropped with the rest.
            match serde_json::from_str::<StepMetrics>(&line) {
                Ok(metrics) if metrics.step < step => kept.push(line),
                _ => break,
            }
        }
    }
    let text: String = kept.into_iter().map(|line| line + "\n").collect();
    fs::write(path, text).with_context(at)?;
    OpenOptions::new().append(true).open(path).with_context(at)
}

fn write_line(file: &mut File, line: &StepMetrics) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    Ok(file.write_all(text.as_bytes())?)
}
