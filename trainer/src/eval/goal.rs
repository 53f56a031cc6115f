//! What the tasks with a head have in common: frozen embeddings and a linear map, neighbours, or all weights.

use std::fmt;

use anyhow::{Context, ensure};
use serde::Serialize;
use tch::{Kind, Tensor};

use super::Protocol;
use super::features::Embeddings;
use super::knn::{NEIGHBOURS, TEMPERATURE, vote};
use super::labels::Label;
use super::linear::{Descent, L2, LR, Layer, Linear, RIDGE, Ridge, Standardised};
use crate::augment::AugmentConfig;
use crate::store::{Record, Split, Store};

/// Where heads are fitted, and where they are scored.
#[derive(Clone, Copy, Debug)]
pub struct Stores<'a> {
    /// Training and validation split are this one's.
    pub fitted: &'a Store,
    /// The split that is scored is this one's.
    pub scored: &'a Store,
}

impl<'a> Stores<'a> {
    /// One store for everything.
    pub fn one(store: &'a Store) -> Self {
        Self { fitted: store, scored: store }
    }

    /// Whether the split that is scored is the one that is trained on.
    pub fn scores_training(&self, split: Split) -> bool {
        split == Split::Train && std::ptr::eq(self.fitted, self.scored)
    }
}

/// Frames that have a label, and the labels.
#[derive(Debug)]
pub(super) struct Side<'a> {
    /// Whose frames.
    pub store: &'a Store,
    /// What they are of: a split's name, or `all`.
    pub split: &'static str,
    /// Their numbers, rising.
    pub frames: Vec<usize>,
    /// A row a frame, as [`Goal::targets`] has it, on the CPU.
    pub targets: Tensor,
}

/// How a linear map is fitted to embeddings.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fit {
    /// By gradient, for the goal's own loss, at this rate.
    Descent(Layer, f64),
    /// Ridge regression of the targets.
    Ridge,
}

impl Fit {
    /// The strengths of regularisation that are tried.
    fn strengths(self) -> &'static [f64] {
        match self {
            Self::Descent(..) => &L2,
            Self::Ridge => &RIDGE,
        }
    }
}

/// What a head is trained for, and how it is judged.
pub(super) trait Goal {
    /// What comes of judging.
    type Report: Serialize + fmt::Display;

    /// The label that it reads.
    const LABEL: Label;

    /// What [`Goal::score`] is, for messages and a checkpoint's scores: `accuracy`.
    fn measure(&self) -> &'static str;

    /// Values that a head gives.
    fn outputs(&self) -> i64;

    /// Whether a frame has what is to be learnt.
    fn has(&self, record: &Record<'_>) -> bool;

    /// What is to be learnt of frames that have it, a row a frame, on the CPU.
    fn targets(&self, store: &Store, frames: &[usize]) -> Tensor;

    /// What training learns instead where it knows more than what is judged: soft labels.
    fn learnt(&self, store: &Store, frames: &[usize]) -> Tensor {
        self.targets(store, frames)
    }

    /// Takes in how the targets of training are spread, before any loss is asked for.
    fn weigh(&mut self, _train: &Tensor) {}

    /// Which of the values training has told something of.
    fn known(&self) -> Vec<bool> {
        vec![true; self.outputs() as usize]
    }

    /// The loss of outputs `[N, outputs]`; the targets, or what is [learnt](Goal::learnt), are on the same device.
    fn loss(&self, outputs: &Tensor, targets: &Tensor) -> Tensor;

    /// Judges outputs `[N, outputs]`.
    ///
    /// # Errors
    /// Where there is nothing to judge.
    fn report(&self, protocol: Protocol, side: &Side<'_>, outputs: &Tensor) -> anyhow::Result<Self::Report>;

    /// What regularisation and epoch are chosen by; more is better.
    fn score(&self, report: &Self::Report) -> f64;

    /// Names of the rows of a linear head that a bundle takes; none for one that it does not.
    fn rows(&self) -> Vec<String> {
        Vec::new()
    }

    /// How a linear map is fitted.
    fn fit(&self) -> Fit {
        Fit::Descent(Layer::Biased, LR)
    }

    /// What neighbours vote with: a row a frame, `[N, outputs]` f32.
    ///
    /// # Errors
    /// Where there is no vote on this.
    fn ballots(&self, targets: &Tensor) -> anyhow::Result<Tensor> {
        Ok(targets.to_kind(Kind::Float))
    }

    /// The views that fine-tuning may train on: without those that would change the label.
    ///
    /// # Errors
    /// Where this is not fine-tuned.
    fn views(&self, augment: &AugmentConfig) -> anyhow::Result<AugmentConfig> {
        Ok(*augment)
    }
}

/// The frames of a split that `goal` can learn from.
pub(super) fn frames_of<G: Goal>(goal: &G, store: &Store, split: Split) -> Vec<usize> {
    store.split(split).into_iter().filter(|&i| goal.has(&store.record(i))).collect()
}

impl<'a> Side<'a> {
    /// The frames of a split with what `goal` learns.
    ///
    /// # Errors
    /// Where there is none; `why` says what they are needed for.
    pub(super) fn of<G: Goal>(goal: &G, store: &'a Store, split: Split, why: &str) -> anyhow::Result<Self> {
        let frames = frames_of(goal, store, split);
        ensure!(
            !frames.is_empty(),
            "{}: the {} split has no {} {why}",
            store.dir().display(),
            split.name(),
            G::LABEL.picture()
        );
        Ok(Self { store, split: split.name(), targets: goal.targets(store, &frames), frames })
    }
}

/// Embeddings of frames of a store.
pub(super) type Embed<'a> = dyn Fn(&Store, &[usize]) -> anyhow::Result<Embeddings> + 'a;

/// Why training and validation pictures are needed, for messages.
pub(super) const TO_FIT: &str = "to fit a head to";
pub(super) const TO_CHOOSE: &str = "to choose settings on";
pub(super) const TO_SCORE: &str = "to score";

/// A linear map on frozen embeddings, fitted on training with the regularisation that is best on validation, and judged
/// on `split`.
///
/// # Errors
/// Where a split has no picture with the label.
pub(super) fn linear<G: Goal>(
    goal: &mut G,
    stores: Stores<'_>,
    split: Split,
    embed: &Embed<'_>,
) -> anyhow::Result<G::Report> {
    let train = Side::of(goal, stores.fitted, Split::Train, TO_FIT)?;
    let val = Side::of(goal, stores.fitted, Split::Val, TO_CHOOSE)?;
    let scored = Side::of(goal, stores.scored, split, TO_SCORE)?;
    goal.weigh(&train.targets);
    let embeddings = |side: &Side<'_>| Ok::<_, anyhow::Error>(embed(side.store, &side.frames)?.into_tensor());
    let x = Standardised::new(embeddings(&train)?);
    let (head, _) = choose(goal, &x, &train.targets, &val, &embeddings(&val)?)?;
    drop(x);
    goal.report(Protocol::Linear, &scored, &finite(head.apply(&embeddings(&scored)?))?)
}

/// What fits a linear map to embeddings for a strength of regularisation.
pub(super) fn solver<'a, G: Goal>(
    goal: &'a G,
    x: &'a Standardised,
    targets: &'a Tensor,
) -> Box<dyn Fn(f64) -> anyhow::Result<Linear> + 'a> {
    match goal.fit() {
        Fit::Descent(layer, lr) => Box::new(move |l2| {
            let descent = Descent { outputs: goal.outputs(), layer, lr, l2 };
            Ok(descent.fit(x, |outputs| goal.loss(outputs, targets)))
        }),
        Fit::Ridge => {
            let ridge = Ridge::new(x, targets);
            Box::new(move |l2| ridge.solve(l2))
        }
    }
}

/// Of the maps for each strength of regularisation, the one that is best on `val`, with the strength.
///
/// # Errors
/// Where a map cannot be fitted or judged.
pub(super) fn choose<G: Goal>(
    goal: &G,
    x: &Standardised,
    targets: &Tensor,
    val: &Side<'_>,
    val_embeddings: &Tensor,
) -> anyhow::Result<(Linear, f64)> {
    let targets = targets.to_device(x.rows().device());
    let solve = solver(goal, x, &targets);
    let mut best: Option<(f64, Linear, f64)> = None;
    for &l2 in goal.fit().strengths() {
        let head = solve(l2)?;
        let score = goal.score(&goal.report(Protocol::Linear, val, &finite(head.apply(val_embeddings))?)?);
        log::info!("l2 {l2:e}: validation {} {score:.4}", goal.measure());
        if best.as_ref().is_none_or(|(most, ..)| score > *most) {
            best = Some((score, head, l2));
        }
    }
    best.map(|(_, head, l2)| (head, l2)).context("no regularisation was tried")
}

/// The mean of what the nearest training pictures vote, each weighted by `exp(cosine / temperature)` (Wu et al. 2018,
/// section 3.4), judged on `split`.
///
/// # Errors
/// Where a split has no picture with the label.
pub(super) fn knn<G: Goal>(
    goal: &mut G,
    stores: Stores<'_>,
    split: Split,
    embed: &Embed<'_>,
) -> anyhow::Result<G::Report> {
    let train = Side::of(goal, stores.fitted, Split::Train, "to vote")?;
    let scored = Side::of(goal, stores.scored, split, TO_SCORE)?;
    goal.weigh(&train.targets);
    let ballots = goal.ballots(&train.targets)?;
    let gallery = embed(train.store, &train.frames)?.into_tensor();
    let queries = embed(scored.store, &scored.frames)?.into_tensor();
    let outputs = vote(&gallery, &ballots, &queries, NEIGHBOURS, TEMPERATURE);
    goal.report(Protocol::Knn, &scored, &finite(outputs)?)
}

/// Outputs that can be judged.
///
/// # Errors
/// Where one is not finite: counted, it would pass for an answer.
pub(crate) fn finite(outputs: Tensor) -> anyhow::Result<Tensor> {
    ensure!(
        outputs.isfinite().all().int64_value(&[]) == 1,
        "some outputs are not finite: the encoder's weights or the training diverged (lower its learning rate)"
    );
    Ok(outputs)
}

/// One-hot rows of classes `[N]`: what neighbours vote with on a class.
pub(super) fn one_hot(labels: &Tensor, classes: i64) -> Tensor {
    labels.one_hot(classes).to_kind(Kind::Float)
}

/// Labels as an `[N]` tensor of classes.
pub(super) fn class_tensor(labels: impl Iterator<Item = usize>) -> Tensor {
    Tensor::from_slice(&labels.map(|label| label as i64).collect::<Vec<_>>())
}

/// Rows of `K` values as an `[N, K]` tensor.
pub(super) fn row_tensor<const K: usize>(rows: &[[f32; K]]) -> Tensor {
    Tensor::from_slice(rows.as_flattened()).view([-1, K as i64])
}

/// The output that is largest, for each row of `[N, classes]`.
///
/// # Errors
/// Those of libtorch where the values cannot be copied to the host.
pub(super) fn classes_of(outputs: &Tensor) -> anyhow::Result<impl Iterator<Item = usize> + use<>> {
    let classes: Vec<i64> = Vec::try_from(outputs.argmax(1, false))?;
    Ok(classes.into_iter().map(|class| class as usize))
}
