//! The categorical expression: a softmax over the classes that training has.

use anyhow::{Context, bail, ensure};
use semblance_calib::{Heads, LinearHead};
use semblance_face::Bundle;
use semblance_face::labels::Expression;
use tch::Tensor;

use super::features::{Features, bundle_features, encoder_features};
use super::goal::{self, Goal, Side, Stores, class_tensor, classes_of, one_hot};
use super::labels::Label;
use super::probe::{ClassWeights, Softmax, predictions};
use super::subject::{Subject, no_weights};
use super::{EvalArgs, Loaded, Protocol, Report, checkpoint_head, finetune};
use crate::store::{Record, Split, Store};

/// The expressions that occur in the training split, in the project's order: the classes of every classifier.
///
/// # Errors
/// Where fewer than two occur.
pub fn classes(store: &Store) -> anyhow::Result<Vec<Expression>> {
    let mut seen = [false; Expression::ALL.len()];
    for index in store.split(Split::Train) {
        if let Some(expression) = store.record(index).expression() {
            seen[expression.index()] = true;
        }
    }
    let classes: Vec<_> = Expression::ALL.into_iter().filter(|e| seen[e.index()]).collect();
    let dir = store.dir().display();
    ensure!(classes.len() > 1, "{dir}: the training split has fewer than two expressions to learn");
    Ok(classes)
}

/// The frames of a split whose expression is one of `classes`, and its place among them.
pub fn labelled(store: &Store, split: Split, classes: &[Expression]) -> (Vec<usize>, Vec<usize>) {
    let label = |i| Some((i, label_of(&store.record(i), classes)?));
    store.split(split).into_iter().filter_map(label).unzip()
}

/// The place of a frame's expression among `classes`; `None` where it has none of them.
fn label_of(record: &Record<'_>, classes: &[Expression]) -> Option<usize> {
    let expression = record.expression()?;
    classes.iter().position(|class| *class == expression)
}

/// A classifier of expressions.
#[derive(Debug)]
pub(super) struct Expressions {
    classes: Vec<Expression>,
    /// Whether settings are chosen by mean recall, else by accuracy.
    by_recall: bool,
    softmax: Softmax,
    /// What votes count beside the label.
    votes: f64,
}

impl Expressions {
    /// Over the classes of the store's training split.
    ///
    /// # Errors
    /// Where there are fewer than two.
    pub(super) fn new(store: &Store, weights: ClassWeights) -> anyhow::Result<Self> {
        let classes = classes(store)?;
        let by_recall = weights != ClassWeights::None;
        let (_, labels) = labelled(store, Split::Train, &classes);
        let softmax = Softmax::new(weights, &class_tensor(labels.into_iter()), classes.len() as i64);
        Ok(Self { classes, by_recall, softmax, votes: 0.0 })
    }

    /// As fine-tuning has it: the epoch is chosen by accuracy.
    ///
    /// # Errors
    /// As [`Expressions::new`].
    pub(super) fn fine_tuned(store: &Store, balanced: bool, label_smoothing: f64) -> anyhow::Result<Self> {
        let weights = if balanced { ClassWeights::BalancedSoftmax } else { ClassWeights::None };
        let mut tuned = Self::new(store, weights)?;
        tuned.by_recall = false;
        tuned.softmax.label_smoothing = label_smoothing;
        Ok(tuned)
    }

    /// As [`Expressions::fine_tuned`], but where a picture has votes for any of the classes, they count `votes` of what is
    /// learnt.
    ///
    /// # Errors
    /// As [`Expressions::new`].
    pub(super) fn voted(store: &Store, votes: f64, label_smoothing: f64) -> anyhow::Result<Self> {
        Ok(Self { votes, ..Self::fine_tuned(store, false, label_smoothing)? })
    }

    /// The share of each class in the votes for a frame; `None` where nobody voted for one.
    fn shares(&self, record: &Record<'_>) -> Option<Vec<f32>> {
        let votes = record.votes()?;
        let of_classes: Vec<f32> = self.classes.iter().map(|class| votes[class.index()]).collect();
        let sum: f32 = of_classes.iter().sum();
        (sum.is_finite() && sum > 0.0).then(|| of_classes.iter().map(|v| v / sum).collect())
    }
}

impl Goal for Expressions {
    type Report = Report;
    const LABEL: Label = Label::Expression;

    fn measure(&self) -> &'static str {
        if self.by_recall { "mean_recall" } else { "accuracy" }
    }

    fn outputs(&self) -> i64 {
        self.classes.len() as i64
    }

    fn has(&self, record: &Record<'_>) -> bool {
        label_of(record, &self.classes).is_some()
    }

    fn targets(&self, store: &Store, frames: &[usize]) -> Tensor {
        class_tensor(frames.iter().filter_map(|&i| label_of(&store.record(i), &self.classes)))
    }

    /// The probability of each class, `[N, classes]`.
    fn learnt(&self, store: &Store, frames: &[usize]) -> Tensor {
        let labels = one_hot(&self.targets(store, frames), Goal::outputs(self));
        if self.votes == 0.0 {
            return labels;
        }
        let shares: Vec<f32> = frames
            .iter()
            .flat_map(|&i| {
                self.shares(&store.record(i)).unwrap_or_else(|| vec![f32::NAN; self.classes.len()])
            })
            .collect();
        let shares = Tensor::from_slice(&shares).view(labels.size().as_slice());
        let mixed = &labels * (1.0 - self.votes) + &shares * self.votes;
        labels.where_self(&shares.isnan(), &mixed)
    }

    fn loss(&self, outputs: &Tensor, targets: &Tensor) -> Tensor {
        self.softmax.loss(outputs, targets)
    }

    fn report(&self, protocol: Protocol, side: &Side<'_>, outputs: &Tensor) -> anyhow::Result<Report> {
        let labels: Vec<i64> = Vec::try_from(&side.targets)?;
        let labels: Vec<usize> = labels.into_iter().map(|label| label as usize).collect();
        Report::expression(protocol.name(), side.split, &self.classes, &labels, classes_of(outputs)?)
    }

    fn score(&self, report: &Report) -> f64 {
        if self.by_recall { report.mean_recall } else { report.accuracy }
    }

    fn rows(&self) -> Vec<String> {
        self.classes.iter().map(|e| e.name().to_owned()).collect()
    }

    fn ballots(&self, targets: &Tensor) -> anyhow::Result<Tensor> {
        Ok(one_hot(targets, self.outputs()))
    }
}

/// Runs the task.
///
/// # Errors
/// Names what stands in the way.
pub(super) fn judge(args: &EvalArgs, subject: Subject, stores: Stores<'_>) -> anyhow::Result<Report> {
    let mut report = match (args.protocol, subject) {
        (Protocol::Finetune, subject) => {
            let config = args.finetune_config()?;
            let mut expressions =
                Expressions::fine_tuned(stores.fitted, config.balanced, config.label_smoothing)?;
            let loaded = subject.into_loaded()?;
            finetune::tune(&config, &mut expressions, loaded, stores, args.split, args.out.as_deref())?
        }
        (Protocol::OwnHead, Subject::Trained(loaded, checkpoint)) => {
            let checkpoint = checkpoint.context("an encoder with random weights has no head")?;
            let head = checkpoint_head(&checkpoint)?;
            let features = encoder_features(&loaded, stores.scored, args.split, &head_classes(&head)?)?;
            own_head(&features, &head, args.split)?
        }
        (Protocol::OwnHead, Subject::Shipped(bundle)) => bundle_report(&bundle, stores.scored, args.split)?,
        (Protocol::OwnHead, Subject::Hog(..) | Subject::Known(_)) => no_weights()?,
        (Protocol::Linear | Protocol::Knn, subject) => {
            super::judge(args, Expressions::new(stores.fitted, args.class_weights)?, subject, stores)?
        }
    };
    report.leave_out_known(stores, args.split);
    Ok(report)
}

/// Scores a bundle's own head, with the edge's own inference.
///
/// # Errors
/// Where it has no expression head, or there is nothing to score.
pub fn bundle_report(bundle: &Bundle, store: &Store, split: Split) -> anyhow::Result<Report> {
    let dir = || bundle.dir().display().to_string();
    let heads = Heads::from_safetensors(bundle.heads_safetensors()).with_context(dir)?;
    let head = heads.expression().with_context(|| format!("{}: no expression head", dir()))?;
    own_head(&bundle_features(bundle, store, split, &head_classes(head)?)?, head, split)
}

/// The linear probe of an encoder, scored on `split`.
///
/// # Errors
/// Where training or validation split have no labelled picture, or there is nothing to score.
pub fn encoder_probe(loaded: &Loaded, store: &Store, split: Split) -> anyhow::Result<Report> {
    let mut expressions = Expressions::new(store, ClassWeights::None)?;
    goal::linear(&mut expressions, Stores::one(store), split, &|store: &Store, frames: &[usize]| {
        loaded.embed(store, frames)
    })
}

/// Scores a head on embeddings.
///
/// # Errors
/// Where there is nothing to score.
pub fn own_head(features: &Features, head: &LinearHead, split: Split) -> anyhow::Result<Report> {
    let predicted = predictions(head, features);
    let protocol = Protocol::OwnHead.name();
    Report::expression(protocol, split.name(), &features.classes, &features.labels, predicted)
}

/// The expressions behind a head's rows.
pub(super) fn head_classes(head: &LinearHead) -> anyhow::Result<Vec<Expression>> {
    let parse = |name: &String| match Expression::from_name(name) {
        Some(expression) => Ok(expression),
        None => bail!("label '{name}' is not known"),
    };
    head.labels().iter().map(parse).collect()
}
