//! Fine-tuning: encoder and head trained together, the epoch chosen on validation.

use std::path::Path;

use anyhow::{bail, ensure};
use serde::{Deserialize, Serialize};
use tch::{Tensor, nn, nn::Module, no_grad};

use super::expression::Expressions;
use super::goal::{Goal, Side, Stores, TO_CHOOSE, TO_FIT, TO_SCORE, finite};
use super::labels::Label;
use super::{Loaded, Protocol, Report};
use crate::augment::{AugmentConfig, augment};
use crate::checkpoint::{self, FILE_NAME, Meta, model_tensors};
use crate::data::{epoch_order, mix, normalise, prefetch};
use crate::nets::{Phase, Precision};
use crate::optim::{Optimizer, Rule, Schedule, named_parameters};
use crate::store::{Split, Store};
use crate::{command, config, progress};

/// The head on top of the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// One linear layer: what a bundle's heads are.
    Linear,
    /// SSLFER's (section 4.1): three layers, the hidden ones as wide as the embedding. It cannot be exported.
    Mlp3,
}

/// Settings of fine-tuning. The defaults are SSLFER's for AffectNet (section 4.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FinetuneConfig {
    /// The head.
    pub head: Head,
    /// Passes over the training split (SSLFER: 20 for AffectNet, 300 for FER2013).
    pub epochs: i64,
    /// Pictures a batch.
    pub batch: usize,
    /// Adam's learning rate at the start of the cosine.
    pub lr: f64,
    /// L2 regularisation.
    pub weight_decay: f64,
    /// Whether the encoder stays as it is and the head alone is trained: the other half of SSLFER's table 1.
    pub freeze: bool,
    /// Balanced softmax (Ren et al. 2020): logits are shifted by the classes' log frequencies while training; of expressions.
    pub balanced: bool,
    /// Share of a label that is spread over all classes; of expressions.
    pub label_smoothing: f64,
    /// Number format of the convolutions.
    pub precision: Precision,
    /// Seed of the head, of the order of the data and of the augmentation.
    pub seed: u64,
    /// The views that are trained on.
    pub augment: AugmentConfig,
}

impl Default for FinetuneConfig {
    fn default() -> Self {
        Self {
            head: Head::Mlp3,
            epochs: 20,
            batch: 64,
            lr: 1e-4,
            weight_decay: 5e-4,
            freeze: false,
            balanced: true,
            label_smoothing: 0.0,
            precision: Precision::Auto,
            seed: 0,
            augment: AugmentConfig::default(),
        }
    }
}

impl FinetuneConfig {
    fn check(&self, side_px: u32) -> anyhow::Result<()> {
        ensure!(self.epochs > 0, "epochs = {} is not above 0", self.epochs);
        ensure!(self.batch > 1, "batch = {} is not above 1", self.batch);
        ensure!(self.lr.is_finite() && self.lr > 0.0, "lr = {} is not above 0", self.lr);
        ensure!(
            (0.0..1.0).contains(&self.label_smoothing),
            "label_smoothing = {} is outside [0, 1)",
            self.label_smoothing
        );
        match self.augment.problem(side_px) {
            Some(problem) => bail!("augment: {problem}"),
            None => Ok(()),
        }
    }

    fn build_head(&self, path: nn::Path<'_>, dim: i64, outputs: i64) -> nn::Sequential {
        let linear = |path: nn::Path<'_>, out| nn::linear(path, dim, out, Default::default());
        match self.head {
            Head::Linear => nn::seq().add(linear(path, outputs)),
            Head::Mlp3 => nn::seq()
                .add(linear(&path / "first", dim))
                .add_fn(Tensor::relu)
                .add(linear(&path / "second", dim))
                .add_fn(Tensor::relu)
                .add(linear(&path / "third", outputs)),
        }
    }
}

/// Fine-tunes for expressions: trains on the training split and reports on `split`, with the weights of the epoch that is
/// best on validation. Where `out` is given, those weights are written there as a run.
///
/// # Errors
/// Names the setting, file or picture that stands in the way.
pub fn finetune(
    config: &FinetuneConfig,
    loaded: Loaded,
    store: &Store,
    split: Split,
    out: Option<&Path>,
) -> anyhow::Result<Report> {
    let mut expressions = Expressions::fine_tuned(store, config.balanced, config.label_smoothing)?;
    tune(config, &mut expressions, loaded, Stores::one(store), split, out)
}

/// As [`finetune`], for any goal.
///
/// # Errors
/// As [`finetune`].
pub(super) fn tune<G: Goal>(
    config: &FinetuneConfig,
    goal: &mut G,
    mut loaded: Loaded,
    stores: Stores<'_>,
    split: Split,
    out: Option<&Path>,
) -> anyhow::Result<G::Report> {
    config.check(loaded.side_px)?;
    let views = goal.views(&config.augment)?;
    let store = stores.fitted;
    let train = Side::of(goal, store, Split::Train, TO_FIT)?;
    let val = Side::of(goal, store, Split::Val, TO_CHOOSE)?;
    let scored = Side::of(goal, stores.scored, split, TO_SCORE)?;
    goal.weigh(&train.targets);
    let indices = &train.frames;
    let steps_an_epoch = (indices.len() / config.batch) as i64;
    ensure!(
        steps_an_epoch > 0,
        "{} training pictures do not fill a batch of {}",
        indices.len(),
        config.batch
    );
    tch::manual_seed(config.seed as i64);
    let encoder_parameters = named_parameters(&loaded.vs);
    let dim = loaded.encoder.embedding_size();
    let head = config.build_head(loaded.vs.root() / "head", dim, goal.outputs());
    let device = loaded.vs.device();
    let mut parameters = named_parameters(&loaded.vs);
    if config.freeze {
        parameters.retain(|(name, _)| encoder_parameters.iter().all(|(encoder, _)| encoder != name));
    }
    let mut optimiser = Optimizer::new(Rule::Adam, parameters, config.weight_decay);
    let total_steps = steps_an_epoch * config.epochs;
    let schedule = Schedule::cosine(config.lr, total_steps);
    let bar = progress::bar(total_steps as u64, "finetune");
    let mut step = 0;
    let mut best: Option<BestEpoch> = None;
    let measure = goal.measure();
    for epoch in 0..config.epochs {
        let order = epoch_order(indices, config.seed, epoch);
        let batches = order.chunks_exact(config.batch).map(<[usize]>::to_vec);
        std::thread::scope(|scope| {
            for batch in prefetch(scope, store, batches, load_side_px(loaded.side_px, &views)) {
                let batch = batch?;
                let seed = mix(config.seed, step as u64);
                let seeds: Vec<u64> = (0..config.batch as u64).map(|i| mix(seed, i)).collect();
                let view = augment(
                    &batch.to_unit(device),
                    &batch.landmarks,
                    &views,
                    i64::from(loaded.side_px),
                    &seeds,
                );
                let crops = normalise(&view, loaded.mean, loaded.std);
                let embed = |phase| loaded.encoder.forward(&crops, phase, config.precision);
                let embeddings =
                    if config.freeze { no_grad(|| embed(Phase::Eval)) } else { embed(Phase::ALONE) };
                let targets = goal.targets(store, &batch.indices).to_device(device);
                let loss = goal.loss(&head.forward(&embeddings), &targets);
                optimiser.zero_grad();
                loss.backward();
                optimiser.step(schedule.lr_at(step));
                step += 1;
                bar.set_message(format!("loss {:.3}", loss.double_value(&[])));
                bar.inc(1);
            }
            anyhow::Ok(())
        })?;
        let score = goal.score(&judge(goal, &loaded, &head, &val)?);
        bar.println(format!("epoch {:>3}  validation {measure} {score:.4}", epoch + 1));
        log::info!("epoch {}: validation {measure} {score:.4}", epoch + 1);
        if best.as_ref().is_none_or(|best| score > best.score) {
            let weights = loaded.vs.variables().into_iter().map(|(n, v)| (n, v.detach().copy())).collect();
            best = Some(BestEpoch { score, epoch, weights });
        }
    }
    bar.finish_and_clear();
    let Some(BestEpoch { score, epoch, weights }) = best else { bail!("no epoch was trained") };
    restore(&mut loaded.vs, weights);
    eprintln!("epoch {} of {} is best on validation ({measure} {score:.4})", epoch + 1, config.epochs);
    let report = judge(goal, &loaded, &head, &scored)?;
    if let Some(out) = out {
        let exported = config.head == Head::Linear && G::LABEL == Label::Expression;
        let labels = if exported { goal.rows() } else { Vec::new() };
        save(config, &loaded, labels, (measure, score), step, out)?;
    }
    Ok(report)
}

/// The weights of the epoch that is best on validation so far.
struct BestEpoch {
    score: f64,
    epoch: i64,
    weights: Vec<(String, Tensor)>,
}

fn restore(vs: &mut nn::VarStore, weights: Vec<(String, Tensor)>) {
    let mut variables = vs.variables();
    for (name, saved) in weights {
        if let Some(variable) = variables.get_mut(&name) {
            no_grad(|| variable.copy_(&saved));
        }
    }
}

/// Pictures are loaded so large that the largest crop has the resolution of the encoder's input.
pub(crate) fn load_side_px(side_px: u32, augment: &AugmentConfig) -> u32 {
    (f64::from(side_px) / augment.crop_scale[1].max(0.875)).ceil() as u32
}

fn judge<G: Goal>(
    goal: &G,
    loaded: &Loaded,
    head: &nn::Sequential,
    side: &Side<'_>,
) -> anyhow::Result<G::Report> {
    let embeddings = loaded.embed(side.store, &side.frames)?.into_tensor();
    let outputs = no_grad(|| head.forward(&embeddings.to_device(loaded.vs.device())));
    goal.report(Protocol::Finetune, side, &finite(outputs)?)
}

/// Writes the run; `labels` are those of the head where a bundle takes it.
fn save(
    config: &FinetuneConfig,
    loaded: &Loaded,
    labels: Vec<String>,
    (measure, score): (&str, f64),
    step: i64,
    out: &Path,
) -> anyhow::Result<()> {
    let meta = Meta {
        format: checkpoint::FORMAT,
        backbone: loaded.encoder.architecture().backbone,
        side_px: loaded.side_px,
        mean: loaded.mean,
        std: loaded.std,
        method: "finetune".to_owned(),
        labels,
        heads: Default::default(),
        step,
        config: config::table_of(config)?,
        scores: toml::Table::from_iter([(format!("val_{measure}"), score.into())]),
        data: Vec::new(),
        origins: None,
    };
    std::fs::create_dir_all(out)?;
    command::note(out, false)?;
    Ok(checkpoint::save(&out.join(FILE_NAME), &meta, model_tensors(&loaded.vs))?)
}
