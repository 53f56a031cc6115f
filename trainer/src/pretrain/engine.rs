//! One training step: views, loss, gradient, and everything that moves after it.

use anyhow::Context;
use tch::{Device, Kind, Tensor, nn, no_grad};

use super::config::PretrainConfig;
use crate::augment::augment;
use crate::checkpoint::{self, Checkpoint, average_tensors, model_tensors};
use crate::config;
use crate::data::{PairBatch, mix, normalise};
use crate::method::{self, Objective, Views};
use crate::optim::{Optimizer, Schedule, named_parameters};

/// A run's networks and their training state.
#[derive(Debug)]
pub struct Engine {
    config: PretrainConfig,
    vs: nn::VarStore,
    objective: Box<dyn Objective>,
    optimizer: Optimizer,
    schedule: Schedule,
    /// Moving averages of the encoder's variables, by name.
    average: Vec<(String, Tensor)>,
}

/// What a step measured, still on the device: reading it waits for the step to end.
#[derive(Debug)]
pub struct Outcome {
    /// `[2]`: loss and top-1 accuracy.
    values: Tensor,
    /// The learning rate.
    pub lr: f64,
}

impl Outcome {
    /// The loss and the share of anchors whose positive is nearer than every negative.
    pub fn read(&self) -> (f64, f64) {
        (self.values.double_value(&[0]), self.values.double_value(&[1]))
    }
}

const ENCODER: &str = "encoder.";

impl Engine {
    /// Fresh networks for a run of so many steps.
    ///
    /// # Errors
    /// Names the file of weights that cannot be read.
    pub fn new(config: &PretrainConfig, device: Device, steps_an_epoch: i64) -> anyhow::Result<Self> {
        tch::manual_seed(config.seed as i64);
        let vs = nn::VarStore::new(device);
        let objective = method::build(config, &vs)?;
        let optimizer = Optimizer::new(config.optimizer, named_parameters(&vs), config.weight_decay);
        let schedule = Schedule {
            lr: config.lr,
            warmup_steps: steps_an_epoch * config.warmup_epochs,
            constant_steps: steps_an_epoch * config.cosine_from_epoch.min(config.epochs),
            total_steps: steps_an_epoch * config.epochs,
        };
        let average = if config.ema > 0.0 { copies(&vs) } else { Vec::new() };
        Ok(Self { config: config.clone(), vs, objective, optimizer, schedule, average })
    }

    /// Steps of the whole run.
    pub fn total_steps(&self) -> i64 {
        self.schedule.total_steps
    }

    /// The device that it trains on.
    pub fn device(&self) -> Device {
        self.vs.device()
    }

    /// The settings.
    pub fn config(&self) -> &PretrainConfig {
        &self.config
    }

    /// The encoder that is trained.
    pub fn encoder(&self) -> &crate::nets::Encoder {
        self.objective.encoder()
    }

    /// The step of this number, counted from 0. The batch must be kept until the outcome was read.
    pub fn step(&mut self, batch: &PairBatch, step: i64) -> Outcome {
        let pictures = batch.to_unit(self.device());
        self.learn(step, |engine, part| engine.views(batch, &pictures, step, part))
    }

    /// Learns from the views of each part of a step's batch.
    pub(crate) fn learn(&mut self, step: i64, views: impl Fn(&Self, usize) -> Views) -> Outcome {
        self.optimizer.zero_grad();
        let parts = self.config.accumulate;
        let mut values = Tensor::zeros([2], (Kind::Float, self.device()));
        for part in 0..parts {
            let contrast = self.objective.contrast(&views(self, part));
            let loss = contrast.loss / parts as f64;
            loss.backward();
            values += Tensor::stack(&[loss.detach(), contrast.top1 / parts as f64], 0).to_kind(Kind::Float);
        }
        let lr = self.schedule.lr_at(step);
        self.optimizer.step(lr);
        self.objective.after_step((step + 1) as f64 / self.total_steps() as f64);
        self.follow();
        Outcome { values, lr }
    }

    /// Augmented views of one part of a batch, whose `pictures` are on the device: every so-many-th pair, so that hard
    /// negatives stay together.
    pub(crate) fn views(&self, batch: &PairBatch, pictures: &Tensor, step: i64, part: usize) -> Views {
        let (parts, pairs) = (self.config.accumulate, batch.pairs.len());
        let mut quadruples = batch.quadruples(self.device());
        let mut pictures = pictures.shallow_clone();
        let mut landmarks = batch.landmarks.clone();
        if parts > 1 {
            let firsts = (part..pairs).step_by(parts);
            let rows: Vec<i64> = firsts.clone().chain(firsts.map(|i| pairs + i)).map(|i| i as i64).collect();
            landmarks = rows.iter().map(|&i| batch.landmarks[i as usize]).collect();
            let rows = Tensor::from_slice(&rows).to_device(self.device());
            pictures = pictures.index_select(0, &rows);
            quadruples = quadruples.index_select(0, &rows.narrow(0, 0, (pairs / parts) as i64));
        }
        let seed = mix(mix(self.config.seed, step as u64), part as u64);
        let side = i64::from(self.config.side_px);
        let views = augment(&pictures, &landmarks, &self.config.augment, side, seed);
        let views = normalise(&views, self.config.mean, self.config.std);
        let half = views.size()[0] / 2;
        let (first, second) = (views.narrow(0, 0, half), views.narrow(0, half, half));
        Views { first, second, quadruples, pictures, landmarks }
    }

    /// Moves the averages of the encoder's variables; statistics of batch normalisation are averaged with the weights.
    fn follow(&mut self) {
        if self.average.is_empty() {
            return;
        }
        let variables = self.vs.variables();
        no_grad(|| {
            for (name, average) in &mut self.average {
                if let Some(variable) = variables.get(name.as_str()) {
                    let _ = average.lerp_(variable, 1.0 - self.config.ema);
                }
            }
        });
    }

    /// Writes a checkpoint after `step` steps.
    ///
    /// # Errors
    /// Names the file that the disk does not take; one that was there stays.
    pub fn save(&self, path: &std::path::Path, step: i64) -> anyhow::Result<()> {
        let config = &self.config;
        let meta = checkpoint::Meta {
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
        let mut tensors = model_tensors(&self.vs);
        tensors.extend(self.optimizer.state());
        tensors.extend(average_tensors(&self.average));
        Ok(checkpoint::save(path, &meta, tensors)?)
    }

    /// Puts everything back as the checkpoint in the folder `run` has it; gives the steps that were done.
    ///
    /// # Errors
    /// Names the file, or the setting that the run had otherwise.
    pub fn restore(&mut self, run: &std::path::Path) -> anyhow::Result<i64> {
        let file = run.join(checkpoint::FILE_NAME);
        let saved: Checkpoint = Checkpoint::load(&file).context("there is nothing to resume")?;
        if let Some(conflict) = self.config.conflict(&saved.meta.config)? {
            anyhow::bail!("{}: {conflict}", run.display());
        }
        saved.restore(&self.vs)?;
        self.optimizer.restore(saved.meta.step, |name| saved.tensor(name))?;
        for (name, average) in &mut self.average {
            let was = saved.average(name)?;
            no_grad(|| average.copy_(&was));
        }
        Ok(saved.meta.step)
    }
}

/// Copies of the encoder's variables, in the order of their names.
fn copies(vs: &nn::VarStore) -> Vec<(String, Tensor)> {
    let variables = vs.variables().into_iter().filter(|(name, _)| name.starts_with(ENCODER));
    let mut copies: Vec<_> = variables.map(|(name, tensor)| (name, tensor.detach().copy())).collect();
    copies.sort_by(|a, b| a.0.cmp(&b.0));
    copies
}
