//! What an encoder is taught by labels, whichever they are.

use anyhow::Context;
use semblance_calib::HeadKind;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::expression::Expressions;
use super::goal::{Goal, Side, finite, frames_of};
use super::va::Va;
use super::{Evaluation, Protocol, au::ActionUnits, pose::Pose};
use crate::augment::AugmentConfig;
use crate::store::{Record, Split, Store};

/// A head that is trained together with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaughtHead {
    /// Logits of expressions.
    Expression,
    /// Valence and arousal.
    ValenceArousal,
    /// Logits of action units.
    ActionUnits,
    /// Yaw, pitch and roll.
    Pose,
}

impl TaughtHead {
    /// The one that a bundle's head comes of.
    pub const fn of(kind: HeadKind) -> Self {
        match kind {
            HeadKind::Expression => Self::Expression,
            HeadKind::ValenceArousal => Self::ValenceArousal,
            HeadKind::ActionUnits => Self::ActionUnits,
        }
    }

    /// The place of its weights in a checkpoint. That of expressions is where a fine-tuned run has its own.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Expression => "head",
            Self::ValenceArousal => "valence_arousal",
            Self::ActionUnits => "action_units",
            Self::Pose => "pose",
        }
    }
}

/// What is learnt of a store's pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lesson {
    /// The expression; votes, where there are any, as the share that the settings give them.
    Expression,
    /// Valence and arousal.
    ValenceArousal,
    /// Valence and arousal as the mean of where people have placed the expressions that were voted for
    /// ([`super::CIRCUMPLEX`]).
    Circumplex,
    /// Which action units are there.
    ActionUnits,
    /// Yaw, pitch and roll, of pictures that are not mirrored then.
    Pose,
}

impl Lesson {
    /// Those that every store is asked for where nothing else is said.
    pub const ALL: [Self; 4] = [Self::Expression, Self::ValenceArousal, Self::ActionUnits, Self::Pose];

    /// The head that it trains.
    pub const fn head(self) -> TaughtHead {
        match self {
            Self::Expression => TaughtHead::Expression,
            Self::ValenceArousal | Self::Circumplex => TaughtHead::ValenceArousal,
            Self::ActionUnits => TaughtHead::ActionUnits,
            Self::Pose => TaughtHead::Pose,
        }
    }

    /// Whether a frame has what it needs.
    pub fn is_on(self, record: &Record<'_>) -> bool {
        match self {
            Self::Expression => record.expression().is_some(),
            Self::ValenceArousal => record.valence_arousal().is_some(),
            Self::Circumplex => record.votes().is_some(),
            Self::ActionUnits => record.action_units().is_some(),
            Self::Pose => record.pose().is_some(),
        }
    }

    /// What teaches it from a store.
    ///
    /// # Errors
    /// Where the store has fewer than two expressions to learn.
    pub fn teacher(self, store: &Store, votes: f64, label_smoothing: f64) -> anyhow::Result<Box<dyn Taught>> {
        Ok(match self {
            Self::Expression => Box::new(Expressions::voted(store, votes, label_smoothing)?),
            Self::ValenceArousal => Box::new(Va::Labels),
            Self::Circumplex => Box::new(Va::Votes),
            Self::ActionUnits => Box::new(ActionUnits::new(AU_THRESHOLD, &[])),
            Self::Pose => Box::new(Pose::default()),
        })
    }
}

/// An action unit is present from this intensity on: 2 of 5, as DISFA is usually judged.
pub(super) const AU_THRESHOLD: f32 = 0.4;

/// A lesson while it is learnt.
pub trait Taught: std::fmt::Debug {
    /// The training frames of a store that it can be learnt from; takes in how what is learnt of them is spread.
    fn begin(&mut self, store: &Store) -> Vec<usize>;

    /// Whether it can be learnt of this frame.
    fn has(&self, store: &Store, frame: usize) -> bool;

    /// What is to be learnt of frames that it can be learnt of, a row a frame, on the CPU.
    fn learnt(&self, store: &Store, frames: &[usize]) -> Tensor;

    /// The loss of outputs `[N, values]`.
    fn loss(&self, outputs: &Tensor, learnt: &Tensor) -> Tensor;

    /// Which of the values that a head gives the store that it was begun with tells of; nobody learns the others.
    fn known(&self) -> Vec<bool>;

    /// Names of the values.
    fn rows(&self) -> Vec<String>;

    /// The views that it can be learnt from.
    ///
    /// # Errors
    /// Where there are none.
    fn views(&self, augment: &AugmentConfig) -> anyhow::Result<AugmentConfig>;

    /// Judges a head on the frames of a split: `outputs_of` gives what the head says of frames, `[N, values]`.
    ///
    /// # Errors
    /// Where no frame has the label, or an output is not finite.
    fn judge(
        &self,
        store: &Store,
        split: Split,
        outputs_of: &dyn Fn(&[usize]) -> anyhow::Result<Tensor>,
    ) -> anyhow::Result<Judged>;
}

/// How a head did.
#[derive(Debug)]
pub struct Judged {
    /// What [`Judged::score`] is: `accuracy`.
    pub measure: &'static str,
    /// The one figure; more is better.
    pub score: f64,
    /// All of it.
    pub evaluation: Evaluation,
}

impl<G: Goal + std::fmt::Debug> Taught for G {
    fn begin(&mut self, store: &Store) -> Vec<usize> {
        let frames = frames_of(self, store, Split::Train);
        self.weigh(&self.targets(store, &frames));
        frames
    }

    fn has(&self, store: &Store, frame: usize) -> bool {
        Goal::has(self, &store.record(frame))
    }

    fn learnt(&self, store: &Store, frames: &[usize]) -> Tensor {
        Goal::learnt(self, store, frames)
    }

    fn loss(&self, outputs: &Tensor, learnt: &Tensor) -> Tensor {
        Goal::loss(self, outputs, learnt)
    }

    fn known(&self) -> Vec<bool> {
        Goal::known(self)
    }

    fn rows(&self) -> Vec<String> {
        Goal::rows(self)
    }

    fn views(&self, augment: &AugmentConfig) -> anyhow::Result<AugmentConfig> {
        Goal::views(self, augment)
    }

    fn judge(
        &self,
        store: &Store,
        split: Split,
        outputs_of: &dyn Fn(&[usize]) -> anyhow::Result<Tensor>,
    ) -> anyhow::Result<Judged> {
        let side = Side::of(self, store, split, "to judge a head on")?;
        let outputs = finite(outputs_of(&side.frames)?).with_context(|| format!("{} split", split.name()))?;
        let report = self.report(Protocol::OwnHead, &side, &outputs)?;
        Ok(Judged {
            measure: self.measure(),
            score: self.score(&report),
            evaluation: Evaluation::of(&report)?,
        })
    }
}
