//! The linear probe: a softmax classifier on frozen embeddings.

use clap::ValueEnum;
use semblance_calib::{LinearHead, argmax};
use tch::{Kind, Reduction, Tensor};

use super::features::Features;
use super::goal::class_tensor;
use super::linear::{Descent, LR, Layer, Standardised};
use crate::checkpoint::floats;
use crate::data::training_device;

/// What a picture counts in the probe's loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ClassWeights {
    /// Each the same: the probe goes for accuracy, and for the most common class where it cannot tell
    #[default]
    None,
    /// The less, the more common its class: all classes count the same, and the probe goes for mean recall
    Balanced,
    /// Each the same, but logits are shifted by the classes' log frequencies while training (Ren et al. 2020), as SSLFER
    /// evaluates (section 4.3): the probe goes for mean recall
    BalancedSoftmax,
}

/// The cross-entropy of a softmax over classes.
#[derive(Debug)]
pub(super) struct Softmax {
    /// What a picture of each class counts, the mean over pictures being 1; `[classes]`.
    weights: Tensor,
    /// What is added to logits while training, `[classes]`.
    shift: Tensor,
    /// Share of a label that is spread over all classes.
    pub label_smoothing: f64,
}

impl Softmax {
    /// For labels `[N]` of training, on the CPU, without smoothing.
    pub(super) fn new(weights: ClassWeights, labels: &Tensor, classes: i64) -> Self {
        let counts = labels.bincount::<Tensor>(None, classes).to_kind(Kind::Float);
        let occurs = counts.gt(0.0);
        let total = counts.sum(Kind::Float);
        let shift = match weights {
            ClassWeights::None | ClassWeights::Balanced => counts.zeros_like(),
            ClassWeights::BalancedSoftmax => (&counts / &total).log(),
        };
        let weights = match weights {
            ClassWeights::None | ClassWeights::BalancedSoftmax => counts.ones_like(),
            ClassWeights::Balanced => {
                let share = total / occurs.sum(Kind::Float);
                (share / counts.clamp_min(1.0)) * occurs.to_kind(Kind::Float)
            }
        };
        let device = training_device();
        Self { weights: weights.to_device(device), shift: shift.to_device(device), label_smoothing: 0.0 }
    }

    /// The mean loss of logits `[N, classes]` for labels `[N]`, or for probabilities `[N, classes]`.
    pub(super) fn loss(&self, logits: &Tensor, labels: &Tensor) -> Tensor {
        let logits = logits + &self.shift;
        logits.cross_entropy_loss(labels, Some(&self.weights), Reduction::Mean, -100, self.label_smoothing)
    }
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
    let classes = features.classes.len() as i64;
    let labels = class_tensor(features.labels.iter().copied());
    let softmax = Softmax::new(weights, &labels, classes);
    let labels = labels.to_device(training_device());
    let descent = Descent { outputs: classes, layer: Layer::Biased, lr: LR, l2 };
    let fitted = descent.fit(&Standardised::new(features.tensor()), |logits| softmax.loss(logits, &labels));
    let names = features.classes.iter().map(|e| e.name().to_owned()).collect();
    let (weight, bias) = (floats(&fitted.weight)?, floats(&fitted.bias)?);
    Ok(LinearHead::new("expression", names, features.dim, weight, bias)?)
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
        let head = fit_probe(&separable(1, 400), 1e-4, ClassWeights::None).unwrap();
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
        // A shift by the log frequencies comes to the same.
        for (weights, factor) in [
            (ClassWeights::None, 1.0),
            (ClassWeights::Balanced, 60.0 / 40.0),
            (ClassWeights::BalancedSoftmax, 60.0 / 40.0),
        ] {
            let head = fit_probe(&features, 0.0, weights).unwrap();
            let mut logits = [0.0; 2];
            for (x, odds) in [(1.0, factor * 30.0f32 / 10.0), (0.0, factor * 10.0 / 50.0)] {
                head.logits_into(&[x], &mut logits);
                assert!((logits[1] - logits[0] - odds.ln()).abs() < 1e-2, "{logits:?} {}", odds.ln());
            }
        }
    }
}
