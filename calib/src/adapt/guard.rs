//! What keeps adaptation from making things worse: a look at what corrected heads say of frames that were held out.

use std::fmt;

use crate::dataset::Dataset;
use crate::heads::{LinearHead, MAX_LABELS, softmax_in_place};

/// Bounds that a correction is held to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// The entropy of the mean prediction is at least this share of the one that the shipped heads give.
    pub entropy_share: f32,
    /// Predictions differ from those of the shipped heads by at most this much: the mean total variation distance, in
    /// `[0, 1]`.
    pub max_drift: f32,
    /// Most that `||P - I||` may be, in Frobenius' norm.
    pub max_norm: f32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { entropy_share: 0.7, max_drift: 0.4, max_norm: 1.0 }
    }
}

/// Why a correction was not accepted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Alarm {
    /// Predictions collapse.
    Entropy {
        /// Entropy of the mean prediction in nats.
        entropy: f32,
        /// The least that is accepted.
        floor: f32,
    },
    /// Predictions have gone far from those of the shipped heads.
    Drift {
        /// Mean total variation distance.
        drift: f32,
        /// The most that is accepted.
        most: f32,
    },
    /// The projection has gone far from the identity.
    Norm {
        /// `||P - I||`.
        norm: f32,
        /// The most that is accepted.
        most: f32,
    },
    /// A value has left the range of numbers.
    NotFinite,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entropy { entropy, floor } => {
                write!(
                    f,
                    "predictions collapse: their mean has an entropy of {entropy:.2} nats, below {floor:.2}"
                )
            }
            Self::Drift { drift, most } => {
                write!(f, "predictions differ from the shipped heads' by {drift:.2}, above {most:.2}")
            }
            Self::Norm { norm, most } => {
                write!(f, "the projection is {norm:.2} away from the identity, above {most:.2}")
            }
            Self::NotFinite => f.write_str("a value is no longer finite"),
        }
    }
}

/// What a look at held-out frames found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Check {
    /// Frames looked at.
    pub frames: usize,
    /// Entropy in nats of the mean prediction of the corrected heads, every predicted expression weighing the same.
    pub entropy: f32,
    /// The same of the shipped heads.
    pub shipped_entropy: f32,
    /// Mean total variation distance of the two heads' predictions, in `[0, 1]`.
    pub drift: f32,
    /// `||P - I||`, in Frobenius' norm.
    pub norm: f32,
}

impl Check {
    /// Compares two heads on frames whose expression label is what the shipped head reads them as.
    pub(super) fn of(shipped: &LinearHead, corrected: &LinearHead, frames: &Dataset, norm: f32) -> Self {
        let labels = shipped.bias().len();
        let mut counts = [0.0; MAX_LABELS];
        let class = |i: usize| usize::from(frames.moments()[i].label.expression.unwrap_or(0));
        (0..frames.len()).for_each(|i| counts[class(i)] += 1.0);
        let groups = counts.iter().filter(|&&count| count > 0.0).count() as f32;
        let (mut ours, mut theirs) = ([0.0; MAX_LABELS], [0.0; MAX_LABELS]);
        let (mut p, mut q) = ([0.0; MAX_LABELS], [0.0; MAX_LABELS]);
        let mut drift = 0.0;
        for i in 0..frames.len() {
            let weight = 1.0 / (counts[class(i)] * groups);
            for (head, p, mean) in [(corrected, &mut p, &mut ours), (shipped, &mut q, &mut theirs)] {
                head.logits_into(frames.embedding(i), &mut p[..labels]);
                softmax_in_place(&mut p[..labels]);
                mean.iter_mut().zip(&p[..labels]).for_each(|(mean, p)| *mean += weight * p);
            }
            drift += weight * p[..labels].iter().zip(&q).map(|(p, q)| (p - q).abs()).sum::<f32>() / 2.0;
        }
        let (entropy, shipped_entropy) = (entropy(&ours), entropy(&theirs));
        Self { frames: frames.len(), entropy, shipped_entropy, drift, norm }
    }

    /// The first bound that is not kept.
    pub fn alarm(&self, bounds: &Bounds) -> Option<Alarm> {
        let Self { entropy, drift, norm, .. } = *self;
        let floor = bounds.entropy_share * self.shipped_entropy;
        if !(entropy.is_finite() && drift.is_finite() && norm.is_finite()) {
            Some(Alarm::NotFinite)
        } else if norm > bounds.max_norm {
            Some(Alarm::Norm { norm, most: bounds.max_norm })
        } else if drift > bounds.max_drift {
            Some(Alarm::Drift { drift, most: bounds.max_drift })
        } else if entropy < floor {
            Some(Alarm::Entropy { entropy, floor })
        } else {
            None
        }
    }
}

/// In nats; NaN where a probability is.
fn entropy(p: &[f32]) -> f32 {
    p.iter().filter(|p| **p != 0.0).map(|p| -p * p.ln()).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::dataset::{Label, Moment};

    fn head(weight: [f32; 2], bias: [f32; 2]) -> LinearHead {
        LinearHead::new("h", vec!["a".into(), "b".into()], 1, weight.into(), bias.into()).unwrap()
    }

    /// Nine frames at -1 and one at 1, which read as the first and the second expression.
    fn frames() -> Dataset {
        let mut frames = Dataset::new(1);
        for i in 0..10 {
            let (expression, x) = if i < 9 { (0, -1.0) } else { (1, 1.0) };
            let label = Label { expression: Some(expression), ..Label::default() };
            frames.push(Moment { t_secs: 0.0, block: 0, label }, &[x]).unwrap();
        }
        frames
    }

    #[test]
    fn a_look_matches_the_worked_example() {
        // Logits of +-ln 3 apart: probabilities 3/4 and 1/4, mirrored, so the balanced mean is 1/2 and 1/2.
        let half = 3f32.ln() / 2.0;
        let shipped = head([-half, half], [0.0; 2]);
        // One that says "a" with 3/4 whatever it sees.
        let collapsed = head([0.0; 2], [half, -half]);
        let check = Check::of(&shipped, &collapsed, &frames(), 0.25);
        assert!((check.shipped_entropy - 2f32.ln()).abs() < 1e-6);
        let expected = -(0.75 * 0.75f32.ln() + 0.25 * 0.25f32.ln());
        assert!((check.entropy - expected).abs() < 1e-6);
        // The first expression's frames do not differ, the second's differ by 1/2; both weigh the same.
        assert!((check.drift - 0.25).abs() < 1e-6);
        assert_eq!((check.frames, check.norm), (10, 0.25));
    }

    #[test]
    fn each_bound_raises_its_alarm() {
        let fine = Check { frames: 1, entropy: 0.8, shipped_entropy: 1.0, drift: 0.3, norm: 0.9 };
        let bounds = Bounds::default();
        assert_eq!(fine.alarm(&bounds), None);
        let alarm = |check: Check| check.alarm(&bounds).unwrap();
        assert!(matches!(alarm(Check { entropy: 0.69, ..fine }), Alarm::Entropy { .. }));
        assert!(matches!(alarm(Check { drift: 0.41, ..fine }), Alarm::Drift { .. }));
        assert!(matches!(alarm(Check { norm: 1.01, ..fine }), Alarm::Norm { .. }));
        assert_eq!(alarm(Check { drift: f32::NAN, ..fine }), Alarm::NotFinite);
    }
}
