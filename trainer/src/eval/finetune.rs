//! Fine-tuning: encoder and classifier trained together, the epoch chosen on validation.

use std::path::Path;

use anyhow::{bail, ensure};
use semblance_face::labels::Expression;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor, nn, nn::Module, no_grad};

use super::{Loaded, Protocol, Report, classes, label_of, labelled};
use crate::augment::{AugmentConfig, augment};
use crate::checkpoint::{self, FILE_NAME, Meta, model_tensors};
use crate::data::{epoch_order, mix, normalise, prefetch};
use crate::nets::{Phase, Precision};
use crate::optim::{Optimizer, Rule, Schedule, named_parameters};
use crate::store::{Split, Store};
use crate::{config, progress};

/// The classifier on top of the encoder.
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
    /// The classifier.
    pub head: Head,
    /// Passes over the training split (SSLFER: 20 for AffectNet, 300 for FER2013).
    pub epochs: i64,
    /// Pictures a batch.
    pub batch: usize,
    /// Adam's learning rate at the start of the cosine.
    pub lr: f64,
    /// L2 regularisation.
    pub weight_decay: f64,
    /// Balanced softmax (Ren et al. 2020): logits are shifted by the classes' log frequencies while training.
    pub balanced: bool,
    /// Share of a label that is spread over all classes.
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

    fn build_head(&self, path: nn::Path<'_>, dim: i64, classes: i64) -> nn::Sequential {
        let linear = |path: nn::Path<'_>, out| nn::linear(path, dim, out, Default::default());
        match self.head {
            Head::Linear => nn::seq().add(linear(path, classes)),
            Head::Mlp3 => nn::seq()
                .add(linear(&path / "first", dim))
                .add_fn(Tensor::relu)
                .add(linear(&path / "second", dim))
                .add_fn(Tensor::relu)
                .add(linear(&path / "third", classes)),
        }
    }
}

/// Trains on the training split and reports on `split`, with the weights of the epoch that is best on validation. Where
/// `out` is given, those weights are written there as a run.
///
/// # Errors
/// Names the setting, file or picture that stands in the way.
pub fn finetune(
    config: &FinetuneConfig,
    mut loaded: Loaded,
    store: &Store,
    split: Split,
    out: Option<&Path>,
) -> anyhow::Result<Report> {
    config.check(loaded.side_px)?;
    let classes = classes(store)?;
    let (indices, labels) = labelled(store, Split::Train, &classes);
    let steps_an_epoch = (indices.len() / config.batch) as i64;
    ensure!(
        steps_an_epoch > 0,
        "{} training pictures do not fill a batch of {}",
        indices.len(),
        config.batch
    );
    tch::manual_seed(config.seed as i64);
    let dim = loaded.encoder.embedding_size();
    let head = config.build_head(loaded.vs.root() / "head", dim, classes.len() as i64);
    let device = loaded.vs.device();
    let mut optimiser = Optimizer::new(Rule::Adam, named_parameters(&loaded.vs), config.weight_decay);
    let total_steps = steps_an_epoch * config.epochs;
    let schedule = Schedule::cosine(config.lr, total_steps);
    let prior = log_frequencies(&labels, classes.len(), device);
    let bar = progress::bar(total_steps as u64, "finetune");
    let mut step = 0;
    let mut best: Option<BestEpoch> = None;
    for epoch in 0..config.epochs {
        let order = epoch_order(&indices, config.seed, epoch);
        let batches = order.chunks_exact(config.batch).map(<[usize]>::to_vec);
        std::thread::scope(|scope| {
            for batch in prefetch(scope, store, batches, load_side_px(loaded.side_px, &config.augment)) {
                let batch = batch?;
                let seed = mix(config.seed, step as u64);
                let seeds: Vec<u64> = (0..config.batch as u64).map(|i| mix(seed, i)).collect();
                let view = augment(
                    &batch.to_unit(device),
                    &batch.landmarks,
                    &config.augment,
                    i64::from(loaded.side_px),
                    &seeds,
                );
                let crops = normalise(&view, loaded.mean, loaded.std);
                let mut logits =
                    head.forward(&loaded.encoder.forward(&crops, Phase::ALONE, config.precision));
                if config.balanced {
                    logits += &prior;
                }
                let targets = targets(store, &batch.indices, &classes, device);
                let loss = logits.cross_entropy_loss::<Tensor>(
                    &targets,
                    None,
                    tch::Reduction::Mean,
                    -100,
                    config.label_smoothing,
                );
                optimiser.zero_grad();
                loss.backward();
                optimiser.step(schedule.lr_at(step));
                step += 1;
                bar.set_message(format!("loss {:.3}", loss.double_value(&[])));
                bar.inc(1);
            }
            anyhow::Ok(())
        })?;
        let accuracy = score(&loaded, &head, store, Split::Val, &classes)?.accuracy;
        bar.println(format!("epoch {:>3}  validation accuracy {accuracy:.4}", epoch + 1));
        log::info!("epoch {}: validation accuracy {accuracy:.4}", epoch + 1);
        if best.as_ref().is_none_or(|best| accuracy > best.accuracy) {
            let weights = loaded.vs.variables().into_iter().map(|(n, v)| (n, v.detach().copy())).collect();
            best = Some(BestEpoch { accuracy, epoch, weights });
        }
    }
    bar.finish_and_clear();
    let Some(BestEpoch { accuracy: val_accuracy, epoch, weights }) = best else {
        bail!("no epoch was trained")
    };
    restore(&mut loaded.vs, weights);
    eprintln!("epoch {} of {} is best on validation ({val_accuracy:.4})", epoch + 1, config.epochs);
    let report = score(&loaded, &head, store, split, &classes)?;
    if let Some(out) = out {
        save(config, &loaded, &classes, val_accuracy, step, out)?;
    }
    Ok(report)
}

/// The weights of the epoch that is best on validation so far.
struct BestEpoch {
    accuracy: f64,
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
fn load_side_px(side_px: u32, augment: &AugmentConfig) -> u32 {
    (f64::from(side_px) / augment.crop_scale[1].max(0.875)).ceil() as u32
}

/// Log share of each class among these labels, `[classes]`.
fn log_frequencies(labels: &[usize], classes: usize, device: Device) -> Tensor {
    let mut counts = vec![0f32; classes];
    for &label in labels {
        counts[label] += 1.0;
    }
    let logs: Vec<f32> = counts.iter().map(|c| (c / labels.len() as f32).ln()).collect();
    Tensor::from_slice(&logs).to_device(device)
}

fn targets(store: &Store, indices: &[usize], classes: &[Expression], device: Device) -> Tensor {
    let labels: Vec<i64> =
        indices.iter().filter_map(|&i| label_of(store, i, classes)).map(|label| label as i64).collect();
    Tensor::from_slice(&labels).to_device(device)
}

fn score(
    loaded: &Loaded,
    head: &nn::Sequential,
    store: &Store,
    split: Split,
    classes: &[Expression],
) -> anyhow::Result<Report> {
    let features = super::encoder_features(loaded, store, split, classes)?;
    let embeddings =
        Tensor::from_slice(&features.values).view([-1, features.dim as i64]).to_device(loaded.vs.device());
    let predicted: Vec<i64> = no_grad(|| Vec::try_from(head.forward(&embeddings).argmax(1, false)))?;
    let predicted = predicted.into_iter().map(|p| p as usize);
    Report::expression(Protocol::Finetune.name(), split, classes, &features.labels, predicted)
}

fn save(
    config: &FinetuneConfig,
    loaded: &Loaded,
    classes: &[Expression],
    val_accuracy: f64,
    step: i64,
    out: &Path,
) -> anyhow::Result<()> {
    let labels = match config.head {
        Head::Linear => classes.iter().map(|e| e.name().to_owned()).collect(),
        Head::Mlp3 => Vec::new(),
    };
    let meta = Meta {
        format: checkpoint::FORMAT,
        backbone: loaded.encoder.architecture().backbone,
        side_px: loaded.side_px,
        mean: loaded.mean,
        std: loaded.std,
        method: "finetune".to_owned(),
        labels,
        step,
        config: config::table_of(config)?,
        scores: toml::Table::from_iter([("val_accuracy".to_owned(), val_accuracy.into())]),
        data: Vec::new(),
    };
    std::fs::create_dir_all(out)?;
    Ok(checkpoint::save(&out.join(FILE_NAME), &meta, model_tensors(&loaded.vs))?)
}
