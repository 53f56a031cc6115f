//! The linear probe: a softmax classifier on frozen embeddings.

use anyhow::ensure;
use clap::ValueEnum;
use semblance_calib::metrics::Confusion;
use semblance_calib::{LinearHead, argmax};
use tch::{Kind, Reduction, Tensor, no_grad};

use super::Features;
use crate::checkpoint::floats;
use crate::data::training_device;
use crate::optim::{Optimizer, Rule, Schedule};

/// Strengths of L2 regularisation that are tried; the one that is best on validation is kept.
const L2: [f64; 6] = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
/// Full-batch steps of Adam; the problem is convex, and this many bring it to rest.
const STEPS: i64 = 400;
const LR: f64 = 0.05;

/// What a picture counts in the probe's loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ClassWeights {
    /// Each the same: the probe goes for accuracy, and for the most common class where it cannot tell
    #[default]
    None,
    /// The less, the more common its class: all classes count the same, and the probe goes for mean recall
    Balanced,
}

impl ClassWeights {
    /// What a picture of each class counts, the mean over pictures being 1.
    fn of(self, labels: &[usize], classes: usize) -> Vec<f32> {
        match self {
            Self::None => vec![1.0; classes],
            Self::Balanced => {
                let mut counts = vec![0usize; classes];
                labels.iter().for_each(|&label| counts[label] += 1);
                let present = counts.iter().filter(|&&count| count > 0).count();
                let share = labels.len() as f32 / present.max(1) as f32;
                counts.iter().map(|&count| if count == 0 { 0.0 } else { share / count as f32 }).collect()
            }
        }
    }

    /// What a probe with these weights is chosen by.
    fn score(self, head: &LinearHead, features: &Features) -> anyhow::Result<f64> {
        let mut confusion = Confusion::new(head.labels().len());
        for (predicted, label) in predictions(head, features).zip(&features.labels) {
            confusion.add(*label, predicted)?;
        }
        Ok(match self {
            Self::None => confusion.accuracy(),
            Self::Balanced => confusion.mean_recall(),
        })
    }
}

/// Fits a softmax classifier on standardised embeddings of the training split, with the regularisation that classifies
/// `val` best: by accuracy, or by mean recall where classes are balanced. The standardisation is folded into the head
/// that is returned.
///
/// # Errors
/// Where a split has no labelled picture.
pub fn linear_probe(train: &Features, val: &Features, weights: ClassWeights) -> anyhow::Result<LinearHead> {
    ensure!(!train.labels.is_empty(), "the training split has no labelled picture");
    ensure!(
        !val.labels.is_empty(),
        "the validation split has no labelled picture to choose the regularisation on"
    );
    let mut best: Option<(f64, LinearHead)> = None;
    for l2 in L2 {
        let head = fit_probe(train, l2, weights)?;
        let score = weights.score(&head, val)?;
        if best.as_ref().is_none_or(|(most, _)| score > *most) {
            best = Some((score, head));
        }
    }
    best.map(|(_, head)| head).ok_or_else(|| anyhow::anyhow!("no regularisation was tried"))
}

/// Pictures that the head classifies right.
pub fn hits(head: &LinearHead, features: &Features) -> usize {
    predictions(head, features).zip(&features.labels).filter(|(predicted, label)| predicted == *label).count()
}

/// What the head says of each picture.
pub fn predictions(head: &LinearHead, features: &Features) -> impl Iterator<Item = usize> {
    let mut logits = vec![0.0; head.labels().len()];
    features.rows().map(move |embedding| {
        head.logits_into(embedding, &mut logits);
        argmax(&logits)
    })
}

/// Fits a softmax classifier on standardised embeddings with this L2 regularisation; the standardisation is folded into
/// the head that is returned.
///
/// # Errors
/// Where the result is not finite.
pub fn fit_probe(features: &Features, l2: f64, weights: ClassWeights) -> anyhow::Result<LinearHead> {
    let device = training_device();
    let (dim, classes) = (features.dim as i64, features.classes.len() as i64);
    let raw = Tensor::from_slice(&features.values).view([-1, dim]).to_device(device);
    let labels: Vec<i64> = features.labels.iter().map(|&l| l as i64).collect();
    let labels = Tensor::from_slice(&labels).to_device(device);
    let weights = Tensor::from_slice(&weights.of(&features.labels, features.classes.len())).to_device(device);
    let mean = raw.mean_dim([0].as_slice(), true, None);
    // A value that never changes has nothing to tell; it is not blown up.
    let std = raw.std_dim([0].as_slice(), false, true).clamp_min(1e-6);
    let x = (raw - &mean) / &std;
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, device)).set_requires_grad(true);
    let (weight, bias) = (zeros(&[classes, dim]), zeros(&[classes]));
    let parameters =
        vec![("weight".to_owned(), weight.shallow_clone()), ("bias".to_owned(), bias.shallow_clone())];
    let mut adam = Optimizer::new(Rule::Adam, parameters, 0.0);
    let schedule = Schedule { constant_steps: STEPS / 4, ..Schedule::cosine(LR, STEPS) };
    for step in 0..STEPS {
        let logits = x.matmul(&weight.tr()) + &bias;
        let surprise = logits.cross_entropy_loss(&labels, Some(&weights), Reduction::Mean, -100, 0.0);
        let loss = surprise + weight.square().sum(None) * l2;
        adam.zero_grad();
        loss.backward();
        adam.step(schedule.lr_at(step));
    }
    let (weight, bias) = no_grad(|| {
        let weight = &weight / &std;
        let bias = &bias - weight.matmul(&mean.squeeze_dim(0));
        (weight, bias)
    });
    let names = features.classes.iter().map(|e| e.name().to_owned()).collect();
    Ok(LinearHead::new("expression", names, features.dim, floats(&weight)?, floats(&bias)?)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use semblance_face::labels::Expression;

    /// Two classes along one direction, far from the origin and on very different scales.
    fn separable(seed: u64, count: usize) -> Features {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let labels: Vec<usize> = (0..count).map(|i| i % 2).collect();
        let values = labels
            .iter()
            .flat_map(|&l| {
                let side = if l == 1 { 1.0 } else { -1.0 };
                let noise: f32 = rng.random_range(-0.9..0.9);
                [500.0 + 100.0 * (side + noise), 0.001 * rng.random_range(-1.0..1.0), 7.0]
            })
            .collect();
        Features { classes: vec![Expression::Neutral, Expression::Happy], labels, dim: 3, values }
    }

    #[test]
    fn separable_classes_are_separated_whatever_their_scale() {
        let head = linear_probe(&separable(1, 400), &separable(2, 100), ClassWeights::None).unwrap();
        let unseen = separable(3, 200);
        assert_eq!(hits(&head, &unseen), 200);
        assert_eq!(head.labels(), ["neutral", "happy"]);
    }

    #[test]
    fn a_binary_feature_gives_the_log_odds_of_the_weighted_counts() {
        // Unregularised, the optimum is the log odds of the counts: 30 against 10 with the feature, 10 against 50 without.
        // Balanced, the 40 happy ones weigh 100 / (2 * 40) each, the 60 neutral ones 100 / (2 * 60).
        let counts = [(1.0, 1, 30), (1.0, 0, 10), (0.0, 1, 10), (0.0, 0, 50)];
        let (mut labels, mut values) = (Vec::new(), Vec::new());
        for (x, label, count) in counts {
            for _ in 0..count {
                labels.push(label);
                values.push(x);
            }
        }
        let features =
            Features { classes: vec![Expression::Neutral, Expression::Happy], labels, dim: 1, values };
        for (weights, factor) in [(ClassWeights::None, 1.0), (ClassWeights::Balanced, 60.0 / 40.0)] {
            let head = fit_probe(&features, 0.0, weights).unwrap();
            let mut logits = [0.0; 2];
            for (x, odds) in [(1.0, factor * 30.0f32 / 10.0), (0.0, factor * 10.0 / 50.0)] {
                head.logits_into(&[x], &mut logits);
                assert!((logits[1] - logits[0] - odds.ln()).abs() < 1e-2, "{logits:?} {}", odds.ln());
            }
        }
    }
}
