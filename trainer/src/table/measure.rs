//! What every row of a table is judged by.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::eval::{ClassWeights, EvalArgs, Loaded, Protocol, Task, evaluate_all, has_label};
use crate::store::{Split, Store};

/// A column of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Mean recall of a linear probe whose classes count the same, in `[0,1]`.
    Expression,
    /// CCC of a ridge regression of valence.
    Valence,
    /// The same of arousal.
    Arousal,
    /// Mean F1 of CLP's probe.
    #[serde(rename = "action units")]
    ActionUnits,
    /// Accuracy of the nearest neighbour among other videos.
    Identity,
    /// Accuracy of LFW's protocol.
    Verification,
    /// Mean absolute error of yaw, pitch and roll by a linear regression, in degrees.
    Pose,
    /// Error of landmarks by a linear regression, in per cent of the distance between the eyes.
    Landmarks,
    /// Rank correlation of distance and time gap within videos.
    Order,
}

impl Measure {
    /// Every measure, in the order of columns.
    pub const ALL: [Self; 9] = [
        Self::Expression,
        Self::Valence,
        Self::Arousal,
        Self::ActionUnits,
        Self::Identity,
        Self::Verification,
        Self::Pose,
        Self::Landmarks,
        Self::Order,
    ];

    /// The column's heading.
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Expression => "expression, mean recall",
            Self::Valence => "valence, CCC",
            Self::Arousal => "arousal, CCC",
            Self::ActionUnits => "action units, F1",
            Self::Identity => "identity, 1-NN",
            Self::Verification => "verification",
            Self::Pose => "pose, MAE in degrees",
            Self::Landmarks => "landmarks, NME in %",
            Self::Order => "order of frames",
        }
    }

    /// Whether less is better.
    pub const fn is_an_error(self) -> bool {
        matches!(self, Self::Pose | Self::Landmarks)
    }

    /// The evaluation that it is read from, and its name there.
    const fn source(self) -> (Task, Protocol, &'static str) {
        match self {
            Self::Expression => (Task::Expression, Protocol::Linear, "mean_recall"),
            Self::Valence => (Task::Va, Protocol::Linear, "ccc_valence"),
            Self::Arousal => (Task::Va, Protocol::Linear, "ccc_arousal"),
            Self::ActionUnits => (Task::Au, Protocol::Linear, "f1_mean"),
            Self::Identity => (Task::Identity, Protocol::Knn, "accuracy"),
            Self::Verification => (Task::Verify, Protocol::Linear, "accuracy"),
            Self::Pose => (Task::Pose, Protocol::Linear, "mae_mean"),
            Self::Landmarks => (Task::Landmarks, Protocol::Linear, "nme"),
            Self::Order => (Task::Order, Protocol::Knn, "spearman"),
        }
    }
}

/// What an encoder has of each measure.
pub type Scores = BTreeMap<Measure, f64>;

/// Longer than any video: people are looked for in other videos alone.
const OTHER_VIDEOS_SECS: f64 = 1e9;

/// Judges an encoder on the people of stores: by every measure, on the first store whose test split has its label. Identity,
/// verification and order are left out of a store, and that is told, where it has too few pictures of a person or a video.
///
/// # Errors
/// Names what stands in the way; where there is no label at all.
pub fn measure(loaded: &Loaded, probes: &[PathBuf]) -> anyhow::Result<Scores> {
    let mut scores = Scores::new();
    for probe in probes {
        judge(loaded, probe, &mut scores)?;
    }
    let names: Vec<String> = probes.iter().map(|probe| probe.display().to_string()).collect();
    ensure!(!scores.is_empty(), "{}: the test split has nothing to judge by", names.join(", "));
    Ok(scores)
}

/// Adds what a store can tell of the measures that are still to be known.
fn judge(loaded: &Loaded, probe: &Path, scores: &mut Scores) -> anyhow::Result<()> {
    let store = Store::open(probe)?;
    let test = store.split(Split::Test);
    let mut tasks: Vec<(Task, Protocol)> = Vec::new();
    for measure in Measure::ALL.into_iter().filter(|measure| !scores.contains_key(measure)) {
        let (task, protocol, _) = measure.source();
        if !tasks.contains(&(task, protocol)) && test.iter().any(|&i| has_label(task, &store.record(i))) {
            tasks.push((task, protocol));
        }
    }
    let args: Vec<EvalArgs> = tasks
        .iter()
        .map(|&(task, protocol)| EvalArgs {
            class_weights: match task {
                Task::Expression => ClassWeights::Balanced,
                _ => ClassWeights::None,
            },
            apart_secs: OTHER_VIDEOS_SECS,
            ..EvalArgs::new(task, protocol, probe.to_owned())
        })
        .collect();
    for (of, judged) in tasks.into_iter().zip(evaluate_all(loaded, &args)?) {
        let evaluation = match judged {
            Ok(evaluation) => evaluation,
            Err(error) if matches!(of.0, Task::Identity | Task::Verify | Task::Order) => {
                eprintln!("left out: {error:#}");
                continue;
            }
            Err(error) => return Err(error),
        };
        for measure in Measure::ALL {
            let (task, protocol, name) = measure.source();
            if (task, protocol) == of {
                let value = evaluation.json.get(name).and_then(serde_json::Value::as_f64);
                scores.insert(measure, value.with_context(|| format!("{}: no {name}", probe.display()))?);
            }
        }
    }
    Ok(())
}
