//! What a fit tells of itself.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::heads::{HeadKind, LinearHead};

/// A value with its interval over resampled blocks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// On all blocks.
    pub value: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// One metric on held-out moments: the head in force, the candidate, and what is gained on the same moments.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metric {
    /// `mean_recall`, `accuracy`, `macro_f1`, `brier`, `ece`, `recall_happy`..; `ccc_mean`, `ccc_valence`,
    /// `ccc_arousal`, `rmse_valence`, `rmse_arousal`; for action units `brier` (mean squared error of the probability),
    /// `f1_mean`, `f1_AU12`..
    pub name: String,
    /// Whether a lower value is the better one.
    pub lower_is_better: bool,
    /// The head in force.
    pub before: Estimate,
    /// The candidate.
    pub after: Estimate,
    /// How much better the candidate is: positive is better, whatever the metric.
    pub gain: Estimate,
}

/// Whether a candidate replaces the head in force, and why not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It does: the lower bound of the gain is above 0.
    Accepted,
    /// It is not better by more than noise.
    NotBetter {
        /// The gain in the metric that decides.
        gain: Estimate,
    },
    /// Too few stretches of time to tell.
    TooFewBlocks {
        /// Blocks with a label for this head.
        blocks: usize,
        /// Blocks that are asked for.
        needed: usize,
    },
    /// Too few labels to tell.
    TooFewLabels {
        /// Moments with a label for this head.
        labels: usize,
        /// Moments that are asked for.
        needed: usize,
    },
    /// All labels say the same expression: a head that always says it would win.
    OneClass,
    /// The bundle has no such head, and nobody said what its rows would be called.
    Unnamed,
}

/// The outcome for one head.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeadFit {
    /// Which head.
    #[serde(rename = "head", serialize_with = "name_of")]
    pub kind: HeadKind,
    /// Whether it is taken.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Moments with a label for it.
    pub labels: usize,
    /// Stretches of time that they come from.
    pub blocks: usize,
    /// Expressions or action units without a label: their rows stay near the prior, and nothing is known of them.
    pub unlabelled: Vec<String>,
    /// Strength of the prior that was best on held-out moments, in labels that it outweighs, roughly; `None` where
    /// nothing was fitted.
    pub strength: Option<f64>,
    /// On held-out moments; the first one decides. Empty where nothing was fitted.
    pub metrics: Vec<Metric>,
    /// The candidate, fitted to all labels.
    #[serde(skip)]
    pub candidate: Option<LinearHead>,
}

impl HeadFit {
    /// The metric of this name.
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|m| m.name == name)
    }
}

fn name_of<S: Serializer>(kind: &HeadKind, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(kind.name())
}

impl Verdict {
    /// By the gain in the metric that decides: it has to be more than noise.
    pub(crate) fn by(gain: Estimate) -> Self {
        if gain.low > 0.0 { Self::Accepted } else { Self::NotBetter { gain } }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted => write!(f, "accepted: better on labels that it was not fitted on"),
            Self::NotBetter { .. } => write!(f, "kept as it was: the gain may be noise"),
            Self::TooFewBlocks { blocks, needed } => {
                write!(f, "kept as it was: labels from {blocks} stretches of time, {needed} are needed")
            }
            Self::TooFewLabels { labels, needed } => {
                write!(f, "kept as it was: {labels} labels, {needed} are needed")
            }
            Self::OneClass => write!(f, "kept as it was: all labels say the same"),
            Self::Unnamed => write!(f, "not fitted: the bundle has no such head"),
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if f.sign_plus() { "+" } else { "" };
        let value =
            if sign.is_empty() { format!("{:.3}", self.value) } else { format!("{:+.3}", self.value) };
        write!(f, "{value} [{:.3}, {:.3}]", self.low, self.high)
    }
}

impl fmt::Display for HeadFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, verdict, labels, blocks, .. } = self;
        write!(f, "{}: {verdict} ({labels} labels, {blocks} blocks", kind.name())?;
        if let Some(strength) = self.strength {
            write!(f, ", prior worth {strength}")?;
        }
        write!(f, ")")?;
        for m in &self.metrics {
            let (before, after) = (m.before.to_string(), m.after.to_string());
            write!(f, "\n  {:<16} {before:<24} -> {after:<24} gain {:+}", m.name, m.gain)?;
        }
        if !self.unlabelled.is_empty() && !self.metrics.is_empty() {
            write!(f, "\n  no labels for {}", self.unlabelled.join(", "))?;
        }
        Ok(())
    }
}
