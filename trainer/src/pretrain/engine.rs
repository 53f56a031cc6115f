//! One training step: views, loss, gradient, and everything that moves after it.

use std::path::Path;

use anyhow::{Context, bail};
use tch::{Device, Kind, Tensor, nn, no_grad};

use super::config::PretrainConfig;
use crate::augment::augment;
use crate::checkpoint::{self, Checkpoint, StoreMark, average_tensors, model_tensors};
use crate::config;
use crate::data::{PairBatch, mix, normalise};
use crate::distributed::Group;
use crate::eval::InputSpec;
use crate::method::{self, Objective, Views};
use crate::nets::Encoder;
use crate::ntxent::Contrast;
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
    group: Group,
}

/// What a step measured, still on the device: reading it waits for the step to end.
#[derive(Debug)]
pub struct Outcome {
    /// `[3]`: loss, top-1 accuracy, and how many processes want to stop.
    values: Tensor,
    /// The learning rate.
    pub lr: f64,
}

/// What a step measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// The loss.
    pub loss: f64,
    /// Share of anchors whose positive is nearer than every negative.
    pub top1: f64,
    /// Whether some process was asked to stop.
    pub stop: bool,
}

impl Outcome {
    /// Waits for the step to end, and reads what it measured.
    ///
    /// # Errors
    /// Those of the device.
    pub fn read(&self) -> anyhow::Result<Measured> {
        let values = Vec::<f32>::try_from(self.values.to_device(Device::Cpu))?;
        Ok(Measured { loss: values[0].into(), top1: values[1].into(), stop: values[2] > 0.0 })
    }
}

const ENCODER: &str = "encoder.";

impl Engine {
    /// Fresh networks for a run with so many steps an epoch.
    ///
    /// # Errors
    /// Names the file of weights that cannot be read.
    pub fn new(
        config: &PretrainConfig,
        device: Device,
        steps_an_epoch: i64,
        group: Group,
    ) -> anyhow::Result<Self> {
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
        Ok(Self { config: config.clone(), vs, objective, optimizer, schedule, average, group })
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

    /// How its encoder wants its input.
    pub fn input(&self) -> InputSpec {
        let PretrainConfig { side_px, mean, std, .. } = self.config;
        InputSpec { side_px, mean, std }
    }

    /// The variables, by name.
    #[cfg(test)]
    pub(super) fn variables(&self) -> std::collections::HashMap<String, Tensor> {
        self.vs.variables()
    }

    /// The encoder that is trained.
    pub fn encoder(&self) -> &Encoder {
        self.objective.encoder()
    }

    /// The encoder whose weights are the moving average, with its variables, where the run keeps one: what a checkpoint
    /// is evaluated and exported as.
    pub fn averaged(&self) -> Option<(nn::VarStore, Encoder)> {
        if self.average.is_empty() {
            return None;
        }
        let vs = nn::VarStore::new(self.device());
        let encoder = self.config.backbone.build(&(vs.root() / "encoder"));
        let variables = vs.variables();
        no_grad(|| {
            for (name, average) in &self.average {
                if let Some(variable) = variables.get(name.as_str()) {
                    variable.shallow_clone().copy_(average);
                }
            }
        });
        Some((vs, encoder))
    }

    /// The step of this number, counted from 0. The batch must be kept until the outcome was read; `stop` tells all
    /// processes that this one was asked to stop.
    ///
    /// # Errors
    /// Another process that died.
    pub fn step(&mut self, batch: &PairBatch, step: i64, stop: bool) -> anyhow::Result<Outcome> {
        let pictures = batch.to_unit(self.device());
        self.learn(step, stop, |engine, part| engine.views(batch, &pictures, step, part))
    }

    /// Learns from the views of each part of a step's batch.
    pub(crate) fn learn(
        &mut self,
        step: i64,
        stop: bool,
        views: impl Fn(&Self, usize) -> Views,
    ) -> anyhow::Result<Outcome> {
        self.optimizer.zero_grad();
        let parts = self.config.accumulate as f64;
        let world = self.group.world() as f64;
        let mut sums = [0.0, 0.0, f64::from(u8::from(stop)) * world * parts].map(Tensor::from);
        for part in 0..self.config.accumulate {
            let Contrast { loss, top1 } = self.objective.contrast(&views(self, part), &self.group)?;
            let shares = if self.objective.joins_batches() { parts } else { parts * world };
            self.group.backward(&(&loss / shares))?;
            sums[0] = &sums[0] + loss.detach();
            sums[1] = &sums[1] + top1;
        }
        let sums = sums.map(|sum| sum.to_kind(Kind::Float).to_device(self.device()));
        let values = Tensor::stack(&sums, 0) / (parts * world);
        let mut exchanged = self.optimizer.gradients();
        exchanged.push(values.shallow_clone());
        self.group.all_reduce_sum(&mut exchanged)?;
        let lr = self.schedule.lr_at(step);
        let undecayed = self.schedule.undecayed_lr_at(step);
        let constant = self.config.constant_rate();
        self.optimizer.step_each(|name| match constant {
            Some(part) if name.starts_with(part) => undecayed,
            _ => lr,
        });
        self.objective.after_step((step + 1) as f64 / self.total_steps() as f64);
        self.follow();
        Ok(Outcome { values, lr })
    }

    /// Makes every process's state that of the first.
    ///
    /// # Errors
    /// Another process that died.
    pub fn share(&self) -> anyhow::Result<()> {
        let mut named = model_tensors(&self.vs);
        named.extend(self.optimizer.state());
        named.extend(average_tensors(&self.average));
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let mut tensors: Vec<Tensor> = named.into_iter().map(|(_, tensor)| tensor).collect();
        Ok(self.group.broadcast(&mut tensors, 0)?)
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
        let seed = mix(self.config.seed, step as u64);
        let numbers = batch.pairs.iter().skip(part).step_by(parts).map(|pair| pair.number as u64);
        let seeds: Vec<u64> = (0..2)
            .flat_map(|which| numbers.clone().map(move |number| mix(mix(seed, number), which)))
            .collect();
        let side = i64::from(self.config.side_px);
        let views = augment(&pictures, &landmarks, &self.config.augment, side, &seeds);
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

    /// Writes a checkpoint after `step` steps on the pictures of these stores.
    ///
    /// # Errors
    /// Names the file that the disk does not take; one that was there stays.
    pub fn save(&self, path: &Path, step: i64, data: &[StoreMark]) -> anyhow::Result<()> {
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
            data: data.to_vec(),
        };
        let mut tensors = model_tensors(&self.vs);
        tensors.extend(self.optimizer.state());
        tensors.extend(average_tensors(&self.average));
        Ok(checkpoint::save(path, &meta, tensors)?)
    }

    /// Puts everything back as the checkpoint in the folder `run` has it, which is to go on with `data`; gives the steps
    /// that were done.
    ///
    /// # Errors
    /// Names the file, the setting that the run had otherwise, or the store that is not the one it had.
    pub fn restore(&mut self, run: &Path, data: &[StoreMark]) -> anyhow::Result<i64> {
        let file = run.join(checkpoint::FILE_NAME);
        let saved: Checkpoint = Checkpoint::load(&file).context("there is nothing to resume")?;
        if let Some(conflict) = self.config.conflict(saved.meta.config.clone())? {
            bail!("{}: {conflict}", run.display());
        }
        if let Some(other) = other_data(&saved.meta.data, data) {
            bail!("{}: {other}: resume it with the data that it had", run.display());
        }
        if saved.meta.data.is_empty() && self.group.rank() == 0 {
            eprintln!(
                "{}: an earlier build wrote it: whether it had the same data is not checked",
                file.display()
            );
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

/// In what the stores of a run differ from those it had, in words. Checkpoints of earlier builds do not tell.
fn other_data(was: &[StoreMark], now: &[StoreMark]) -> Option<String> {
    if was.is_empty() {
        return None;
    }
    let names = |marks: &[StoreMark]| marks.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ");
    if was.len() != now.len() {
        return Some(format!(
            "the run had {} stores ({}), not {} ({})",
            was.len(),
            names(was),
            now.len(),
            names(now)
        ));
    }
    let (was, now) = was.iter().zip(now).find(|(a, b)| (a.frames, a.checksum) != (b.frames, b.checksum))?;
    let print = |mark: &StoreMark| format!("{} frames, index {:08x}", mark.frames, mark.checksum);
    Some(format!(
        "store {} is not the one that the run had ({}; it had {}, {})",
        now.name,
        print(now),
        was.name,
        print(was)
    ))
}

/// Copies of the encoder's variables, in the order of their names.
fn copies(vs: &nn::VarStore) -> Vec<(String, Tensor)> {
    let variables = vs.variables().into_iter().filter(|(name, _)| name.starts_with(ENCODER));
    let mut copies: Vec<_> = variables.map(|(name, tensor)| (name, tensor.detach().copy())).collect();
    copies.sort_by(|a, b| a.0.cmp(&b.0));
    copies
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::method::{ByolConfig, Method, MocoConfig, SimSiamConfig};
    use crate::optim::Rule;

    /// Ten steps of SGD on small views.
    fn small() -> PretrainConfig {
        PretrainConfig {
            side_px: 32,
            batch: 8,
            optimizer: Rule::Sgd,
            lr: 0.01,
            precision: crate::nets::Precision::F32,
            ..PretrainConfig::default()
        }
    }

    fn build(config: &PretrainConfig) -> Engine {
        Engine::new(config, Device::Cpu, 10, Group::single()).unwrap()
    }

    fn engine(accumulate: usize) -> Engine {
        build(&PretrainConfig { accumulate, ema: 0.9, ..small() })
    }

    fn views() -> Views {
        let view = || Tensor::randn([4, 3, 32, 32], (Kind::Float, Device::Cpu));
        let quadruples = Tensor::arange(4, (Kind::Int64, Device::Cpu));
        Views { first: view(), second: view(), quadruples, pictures: view(), landmarks: Vec::new() }
    }

    #[test]
    fn parts_of_a_batch_that_are_alike_count_as_one() {
        let (mut once, mut twice) = (engine(1), engine(2));
        twice.vs.copy(&once.vs).unwrap();
        twice.average = copies(&once.vs);
        let before = once.vs.variables()["encoder.stem.conv.weight"].detach().copy();
        let views = views();
        let a = once.learn(0, false, |_, _| views.shallow_clone()).unwrap().read().unwrap();
        let b = twice.learn(0, true, |_, _| views.shallow_clone()).unwrap().read().unwrap();
        assert!((a.loss - b.loss).abs() < 1e-5 && a.top1 == b.top1, "{a:?} {b:?}");
        assert_eq!((a.stop, b.stop), (false, true));
        for (name, weight) in named_parameters(&once.vs) {
            let other = twice.vs.variables()[&name].shallow_clone();
            assert!((weight - other).abs().max().double_value(&[]) < 1e-6, "{name}");
        }
        let after = once.vs.variables()["encoder.stem.conv.weight"].detach();
        assert!((&after - &before).abs().max().double_value(&[]) > 1e-6, "the step moves weights");
        let average = once.average.iter().find(|(name, _)| name == "encoder.stem.conv.weight").unwrap();
        let expected = before * 0.9 + after * 0.1;
        assert!((&average.1 - expected).abs().max().double_value(&[]) < 1e-6);
    }

    /// The copy's weight after a step is that before, drawn towards the new one by as much as the schedule says.
    fn assert_follows(engine: &Engine, before: &Tensor, copy: &str, momentum: f64) {
        let now = |name: &str| engine.vs.variables()[name].detach();
        let expected = before * momentum + now("encoder.stem.conv.weight") * (1.0 - momentum);
        let copy = now(copy);
        assert!((&copy - &expected).abs().max().double_value(&[]) < 1e-6);
        assert!((&copy - before).abs().max().double_value(&[]) > 1e-7, "it follows");
    }

    fn engine_of(method: Method) -> Engine {
        build(&PretrainConfig {
            method,
            batch: 4,
            epochs: 1,
            lr: 0.5,
            moco: MocoConfig { queue: 6, momentum: 0.9 },
            byol: ByolConfig { momentum: 0.9, ..ByolConfig::default() },
            ..small()
        })
    }

    #[test]
    fn a_step_moves_byols_target_by_its_schedule() {
        let mut engine = engine_of(Method::Byol);
        for step in [0, 4] {
            let before = engine.vs.variables()["target.encoder.stem.conv.weight"].detach().copy();
            let views = views();
            let _ = engine.learn(step, false, |_, _| views.shallow_clone()).unwrap();
            // Grill et al. 2020, section 3.1, with K = 10 steps in all.
            let progress = (step + 1) as f64 / 10.0;
            let momentum = 1.0 - 0.1 * ((std::f64::consts::PI * progress).cos() + 1.0) / 2.0;
            assert_follows(&engine, &before, "target.encoder.stem.conv.weight", momentum);
        }
    }

    #[test]
    fn a_step_moves_mocos_keys_and_queues_them() {
        let mut engine = engine_of(Method::Moco);
        let name = "key.encoder.stem.conv.weight";
        let queue = |engine: &Engine| engine.vs.variables()["queue"].detach().copy();
        for turn in 0..2 {
            let (before, old) = (engine.vs.variables()[name].detach().copy(), queue(&engine));
            let views = views();
            let _ = engine.learn(turn, false, |_, _| views.shallow_clone()).unwrap();
            assert_follows(&engine, &before, name, 0.9);
            // Four keys a step in a queue of six.
            let changed: Vec<bool> = Vec::try_from(
                (queue(&engine) - old).abs().sum_dim_intlist([1].as_slice(), false, None).gt(0.0),
            )
            .unwrap();
            let expected = if turn == 0 {
                [true, true, true, true, false, false]
            } else {
                [true, true, false, false, true, true]
            };
            assert_eq!(changed, expected);
        }
    }

    #[test]
    fn the_predictors_rate_of_simsiam_does_not_fall() {
        let moved = |constant_predictor_lr| {
            let simsiam = SimSiamConfig { out: 16, bottleneck: 8, constant_predictor_lr };
            let mut engine = build(&PretrainConfig {
                method: Method::SimSiam,
                epochs: 1,
                cosine_from_epoch: 0,
                weight_decay: 0.1,
                simsiam,
                ..small()
            });
            let names = ["predictor.second.weight", "projection.second.weight"];
            let before = names.map(|name| engine.vs.variables()[name].detach().copy());
            let views = views();
            // The last step but one: the cosine is at (1 + cos(0.8 pi)) / 2 = 0.095.
            let _ = engine.learn(8, false, |_, _| views.shallow_clone()).unwrap();
            std::array::from_fn(|i| {
                let gradient = engine.vs.variables()[names[i]].grad() + &before[i] * 0.1;
                let moved = &before[i] - engine.vs.variables()[names[i]].detach();
                (moved.norm() / gradient.norm()).double_value(&[])
            })
        };
        let ([predictor, projection], [falling, _]): ([f64; 2], [f64; 2]) = (moved(true), moved(false));
        assert!((predictor - 0.01).abs() < 1e-5, "{predictor}");
        for rate in [projection, falling] {
            assert!((rate - 0.01 * 0.0954915).abs() < 1e-6, "{rate}");
        }
    }

    #[test]
    fn a_run_goes_on_with_the_stores_that_it_had() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(checkpoint::FILE_NAME);
        let mark = |name: &str, frames, checksum| StoreMark { name: name.to_owned(), frames, checksum };
        let data = [mark("a", 10, 1), mark("b", 20, 0xBEEF)];
        let mut engine = engine(1);
        engine.save(&file, 3, &data).unwrap();
        assert_eq!(engine.restore(dir.path(), &data).unwrap(), 3);
        let moved = [mark("elsewhere", 10, 1), mark("b", 20, 0xBEEF)];
        assert_eq!(engine.restore(dir.path(), &moved).unwrap(), 3, "a store may lie elsewhere");
        let mut fail = |data: &[StoreMark]| engine.restore(dir.path(), data).unwrap_err().to_string();
        let grown = fail(&[mark("a", 10, 1), mark("b", 21, 0xF00D)]);
        assert!(grown.contains("store b") && grown.contains("21 frames, index 0000f00d"), "{grown}");
        assert!(grown.contains("20 frames, index 0000beef"), "{grown}");
        assert!(fail(&data[..1]).contains("2 stores (a, b), not 1 (a)"));
        // A checkpoint of an earlier build does not tell.
        let saved: Checkpoint = Checkpoint::load(&file).unwrap();
        let mut meta = serde_json::to_value(&saved.meta).unwrap();
        assert!(meta.as_object_mut().unwrap().remove("data").is_some());
        let mut tensors = model_tensors(&engine.vs);
        tensors.extend(engine.optimizer.state());
        tensors.extend(average_tensors(&engine.average));
        checkpoint::save(&file, &meta, tensors).unwrap();
        assert_eq!(engine.restore(dir.path(), &data).unwrap(), 3);
    }
}
