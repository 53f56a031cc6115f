//! One training step: views, loss, gradient, and everything that moves after it.

use std::path::Path;

use anyhow::{Context, bail};
use tch::{Device, Kind, Tensor, nn, no_grad};

use super::config::PretrainConfig;
use crate::checkpoint::{self, Checkpoint, StoreMark, average_tensors, model_tensors};
use crate::config;
use crate::data::{TupleBatch, mix};
use crate::distributed::Group;
use crate::eval::InputSpec;
use crate::method::{self, Done, Loss, Objective, ViewSettings, Views};
use crate::nets::Encoder;
use crate::optim::{Optimizer, Schedule, named_parameters};

/// A run's networks and their training state.
#[derive(Debug)]
pub struct Engine {
    config: PretrainConfig,
    vs: nn::VarStore,
    objective: Box<dyn Objective>,
    optimizer: Optimizer,
    schedule: Schedule,
    steps_an_epoch: i64,
    /// Moving averages of the encoder's variables, by name.
    average: Vec<(String, Tensor)>,
    group: Group,
}

/// What a step measured, still on the device: reading it waits for the step to end.
#[derive(Debug)]
pub struct Outcome {
    /// How many processes want to stop, the loss, top-1 accuracy where there is one (else NaN), then the parts.
    values: Tensor,
    /// The learning rate.
    pub lr: f64,
}

/// What a step measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The loss, summed over a step's passes.
    pub loss: f64,
    /// Share of anchors whose positive is nearer than every negative, where there are any.
    pub top1: Option<f64>,
    /// What [`Engine::part_names`] names.
    pub parts: Vec<f64>,
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
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        Ok(Measured {
            stop: values[STOP] > 0.0,
            loss: values[LOSS],
            top1: Some(values[TOP1]).filter(|top1| !top1.is_nan()),
            parts: values[PARTS..].to_vec(),
        })
    }
}

const ENCODER: &str = "encoder.";

/// Keeps what a method draws by itself apart from the draws of views.
const OWN_DRAWS: u64 = 0x4F57_4E44;

/// Places in [`Outcome::values`].
const STOP: usize = 0;
const LOSS: usize = 1;
const TOP1: usize = 2;
const PARTS: usize = 3;

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
        let optimizer = Optimizer::new(config.optimizer, named_parameters(&vs), config.weight_decay)
            .with_beta1(config.beta1);
        let schedule = Schedule {
            lr: config.lr,
            warmup_steps: steps_an_epoch * config.warmup_epochs,
            constant_steps: steps_an_epoch * config.cosine_from_epoch.min(config.epochs),
            total_steps: steps_an_epoch * config.epochs,
        };
        let average = if config.ema > 0.0 { copies(&vs) } else { Vec::new() };
        Ok(Self {
            config: config.clone(),
            vs,
            objective,
            optimizer,
            schedule,
            steps_an_epoch,
            average,
            group,
        })
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
        let encoder = self.config.architecture().build(&(vs.root() / "encoder"));
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
    pub fn step(&mut self, batch: &TupleBatch, step: i64, stop: bool) -> anyhow::Result<Outcome> {
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
        let parts = self.config.accumulate;
        let views: Vec<Views> = (0..parts).map(|part| views(self, part)).collect();
        let world = self.group.world() as f64;
        let stop = Tensor::from(f64::from(u8::from(stop)) * world);
        let (mut losses, mut top1, mut told) = (Vec::new(), Tensor::from(f64::NAN), Vec::new());
        let passes = self.objective.passes();
        let lr = self.schedule.lr_at(step) * self.objective.lr_factor();
        for pass in 0..passes {
            let part_loss = self.pass(pass, &views)?;
            losses.push(part_loss.total);
            top1 = part_loss.top1.unwrap_or(top1);
            told.extend(part_loss.parts);
            let mut exchanged = self.optimizer.gradients();
            if pass + 1 == passes {
                let loss = Tensor::stack(&losses, 0).sum(None::<Kind>);
                let scalars: Vec<Tensor> = [&stop, &loss, &top1]
                    .into_iter()
                    .chain(&told)
                    .map(|scalar| scalar.detach().to_kind(Kind::Float).to_device(self.device()))
                    .collect();
                exchanged.push(Tensor::stack(&scalars, 0) / world);
            }
            self.group.all_reduce_sum(&mut exchanged)?;
            let undecayed = self.schedule.undecayed_lr_at(step);
            let constant = self.config.constant_rate();
            let objective = &self.objective;
            self.optimizer.step_each(|name| {
                objective.moves(pass, name).then(|| match constant {
                    Some(part) if name.starts_with(part) => undecayed,
                    _ => lr,
                })
            });
            if pass + 1 == passes {
                let values = exchanged.pop().context("a step measured nothing")?;
                self.after_step(step, &values.narrow(0, PARTS as i64, values.size()[0] - PARTS as i64));
                return Ok(Outcome { values, lr });
            }
        }
        bail!("{} has no pass", self.config.method.name())
    }

    /// Gradients of a pass over all parts of a batch, and the mean of what it tells.
    fn pass(&mut self, pass: usize, views: &[Views]) -> anyhow::Result<Loss> {
        self.optimizer.zero_grad();
        let parts = views.len() as f64;
        let joined = self.objective.joins_batches(pass);
        let shares = if joined { parts } else { parts * self.group.world() as f64 };
        let mut sum: Option<Loss> = None;
        for views in views {
            let Loss { total, top1, parts: told } = self.objective.loss(pass, views, &self.group)?;
            self.group.backward(&(&total / shares))?;
            let part = |x: &Tensor| x.detach() / parts;
            let (total, top1) = (part(&total), top1.as_ref().map(part));
            let told: Vec<Tensor> = told.iter().map(part).collect();
            sum = Some(match sum {
                None => Loss { total, top1, parts: told },
                Some(sum) => Loss {
                    total: sum.total + total,
                    top1: sum.top1.zip(top1).map(|(a, b)| a + b),
                    parts: sum.parts.iter().zip(told).map(|(a, b)| a + b).collect(),
                },
            });
        }
        sum.context("a batch has no parts")
    }

    fn after_step(&mut self, step: i64, parts: &Tensor) {
        let progress = (step + 1) as f64 / self.total_steps() as f64;
        let epoch_done = (step + 1) % self.steps_an_epoch == 0;
        self.objective.after_step(&Done { progress, epoch_done, parts });
        self.follow();
    }

    /// Names of what a step tells beside its loss and top-1.
    pub fn part_names(&self) -> Vec<&'static str> {
        method::part_names(self.objective.as_ref())
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

    /// The views that the method wants of one part of a batch, whose `pictures` are on the device: every so-many-th tuple,
    /// so that hard negatives stay together.
    pub(crate) fn views(&self, batch: &TupleBatch, pictures: &Tensor, step: i64, part: usize) -> Views {
        let (parts, tuples) = (self.config.accumulate, batch.tuples.len());
        let mut quadruples = batch.quadruples(self.device());
        let mut pictures = pictures.shallow_clone();
        let mut landmarks = batch.landmarks.clone();
        if parts > 1 {
            let of_part = (part..tuples).step_by(parts);
            let rows: Vec<i64> = (0..batch.frames())
                .flat_map(|frame| of_part.clone().map(move |i| (frame * tuples + i) as i64))
                .collect();
            landmarks = rows.iter().map(|&i| batch.landmarks[i as usize]).collect();
            let rows = Tensor::from_slice(&rows).to_device(self.device());
            pictures = pictures.index_select(0, &rows);
            quadruples = quadruples.index_select(0, &rows.narrow(0, 0, (tuples / parts) as i64));
        }
        let seed = mix(self.config.seed, step as u64);
        let numbers = batch.tuples.iter().skip(part).step_by(parts).map(|tuple| tuple.number as u64);
        let seeds: Vec<u64> = numbers.map(|number| mix(seed, number)).collect();
        let settings = ViewSettings {
            augment: &self.config.augment,
            side_px: self.config.side_px,
            normalisation: (self.config.mean, self.config.std),
        };
        let views = settings.draw(&self.objective.plan(), &pictures, &landmarks, &seeds);
        Views { views, quadruples, pictures, landmarks, seed: mix(seed ^ OWN_DRAWS, part as u64), seeds }
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
            heads: Default::default(),
            step,
            config: config::table_of(config)?,
            scores: toml::Table::new(),
            data: data.to_vec(),
            origins: None,
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
        self.objective.restored();
        let (objective, step) = (&self.objective, saved.meta.step);
        let moved = |name: &str| (0..objective.passes()).filter(|pass| objective.moves(*pass, name)).count();
        self.optimizer.restore(|name| step * moved(name) as i64, |name| saved.tensor(name))?;
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
        Views {
            views: vec![view(), view()],
            quadruples,
            pictures: view(),
            landmarks: Vec::new(),
            seed: 0,
            seeds: vec![0; 4],
        }
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
