//! What a task reads of a frame, and what is said where a store lacks it.

use anyhow::bail;

use super::{EvalArgs, Task};
use crate::store::{Record, Split, Store};

/// A label that a task needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// None: the picture is enough.
    Picture,
    /// The expression.
    Expression,
    /// Valence and arousal.
    ValenceArousal,
    /// Action units, at least one.
    ActionUnits,
    /// Yaw, pitch and roll.
    Pose,
    /// The 68 points or the five.
    Points,
    /// An expression, valence and arousal, or a pose.
    Any,
}

impl Label {
    const fn of(task: Task) -> Self {
        match task {
            Task::Expression => Self::Expression,
            Task::Identity | Task::Verify | Task::Order => Self::Picture,
            Task::Va => Self::ValenceArousal,
            Task::Au => Self::ActionUnits,
            Task::Pose => Self::Pose,
            Task::Landmarks => Self::Points,
            Task::Retrieval => Self::Any,
        }
    }

    /// Whether a frame has it.
    pub(super) fn is_on(self, record: &Record<'_>) -> bool {
        match self {
            Self::Picture => true,
            Self::Expression => record.expression().is_some(),
            Self::ValenceArousal => record.valence_arousal().is_some(),
            Self::ActionUnits => record.action_units().is_some(),
            Self::Pose => record.pose().is_some(),
            Self::Points => record.landmarks().is_some() || record.five_points().is_some(),
            Self::Any => [Self::Expression, Self::ValenceArousal, Self::Pose].iter().any(|l| l.is_on(record)),
        }
    }

    /// A picture that has it, in words.
    pub(super) const fn picture(self) -> &'static str {
        match self {
            Self::Picture => "picture",
            Self::Expression => "labelled picture",
            Self::ValenceArousal => "picture with valence and arousal",
            Self::ActionUnits => "picture with action units",
            Self::Pose => "picture with head pose",
            Self::Points => "picture with landmarks",
            Self::Any => "picture with expression, valence and arousal, or head pose",
        }
    }

    /// What of `trainer prepare` gives it, and `trainer synth`.
    const fn carriers(self) -> &'static str {
        match self {
            Self::Picture => "every store",
            Self::Expression => "layouts fer2013, rafdb, affectnet and bu3dfe, and `synth`",
            Self::ValenceArousal => "layout affectnet and `synth`",
            Self::ActionUnits => "layouts disfa, bp4d, gft and emotionet, and `synth`",
            Self::Pose => "layouts 300w-lp, aflw2000, bu3dfe and videos, --align, and `synth`",
            Self::Points => {
                "layouts 300-w, mafl, 300w-lp, aflw2000 and videos, --align, --landmarks, and `synth`"
            }
            Self::Any => "the layouts of labelled expressions or head poses, --align, and `synth`",
        }
    }
}

/// Whether a frame has the label that a task needs.
pub fn has_label(task: Task, record: &Record<'_>) -> bool {
    Label::of(task).is_on(record)
}

/// # Errors
/// Where the split has nothing to judge; names those that have.
pub(super) fn check_split(args: &EvalArgs, store: &Store) -> anyhow::Result<()> {
    let label = Label::of(args.task);
    let usable = |split| store.split(split).into_iter().filter(|&i| label.is_on(&store.record(i))).count();
    let counts = Split::ALL.map(|split| (split, usable(split)));
    if counts.iter().any(|&(split, count)| split == args.split && count > 0) {
        return Ok(());
    }
    let there: Vec<_> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(split, count)| format!("--split {} ({count})", split.name()))
        .collect();
    let there = if there.is_empty() {
        format!("no split has one (this label is of {})", label.carriers())
    } else {
        there.join(" or ")
    };
    let (dir, split) = (store.dir().display(), args.split.name());
    bail!("{dir}: no {} is in the {split} split: {there}", label.picture())
}
