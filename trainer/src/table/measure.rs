//! What every row of a table is judged by.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::eval::{ClassWeights, EvalArgs, Loaded, Protocol, Task, evaluate_all, has_label};
use crate::files;
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

/// Scores, and what they are of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The scores.
    pub scores: Scores,
    /// The store that each was scored on, by its name.
    #[serde(default)]
    pub stores: BTreeMap<Measure, String>,
}

/// What encoders are judged on: a store, or one that heads are fitted to and chosen on, and another that they are scored on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Heads are fitted to its training split and chosen on validation.
    pub fitted: PathBuf,
    /// Scored on its test split.
    pub scored: PathBuf,
}

impl FromStr for Probe {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once(':') {
            Some((fitted, scored)) if !Path::new(text).exists() => {
                Self { fitted: fitted.into(), scored: scored.into() }
            }
            _ => Self { fitted: text.into(), scored: text.into() },
        })
    }
}

impl Probe {
    /// Its stores, one or two.
    pub fn stores(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.fitted].into_iter().chain((self.scored != self.fitted).then_some(&self.scored))
    }
}

/// Folds of people that action units are scored by where no split is for the test, as the papers have it for DISFA and BP4D.
const FOLDS: u32 = 3;

/// Longer than any video: people are looked for in other videos alone.
const OTHER_VIDEOS_SECS: f64 = 1e9;

/// Judges an encoder on the people of stores: by every measure, on the first store whose test split has its label; action units also
/// by folds. What a store cannot tell, as identity where nobody has two pictures, is left to the next one, and that is told.
///
/// # Errors
/// Names the picture that cannot be read; where there is nothing to judge by at all.
pub fn measure(loaded: &Loaded, probes: &[Probe]) -> anyhow::Result<Measured> {
    let mut measured = Measured::default();
    for probe in probes {
        judge(loaded, probe, &mut measured)?;
    }
    let names: Vec<String> = probes.iter().map(|probe| probe.scored.display().to_string()).collect();
    ensure!(!measured.scores.is_empty(), "{}: the test split has nothing to judge by", names.join(", "));
    Ok(measured)
}

/// Adds what a probe can tell of the measures that are still to be known.
fn judge(loaded: &Loaded, probe: &Probe, measured: &mut Measured) -> anyhow::Result<()> {
    let scored = Store::open(&probe.scored)?;
    let (test, all) = (scored.split(Split::Test), (0..scored.len()).collect::<Vec<_>>());
    let mut asked: Vec<(Task, Protocol)> = Vec::new();
    let mut tasks: Vec<EvalArgs> = Vec::new();
    for measure in Measure::ALL.into_iter().filter(|measure| !measured.scores.contains_key(measure)) {
        let (task, protocol, _) = measure.source();
        let labelled = |frames: &[usize]| frames.iter().any(|&i| has_label(task, &scored.record(i)));
        let is_split = labelled(&test);
        let by_folds = task == Task::Au && probe.fitted == probe.scored && !is_split && labelled(&all);
        if asked.contains(&(task, protocol)) || !(is_split || by_folds) {
            continue;
        }
        asked.push((task, protocol));
        let apart = task.fits() && probe.fitted != probe.scored;
        tasks.push(EvalArgs {
            class_weights: match task {
                Task::Expression => ClassWeights::Balanced,
                _ => ClassWeights::None,
            },
            folds: by_folds.then_some(FOLDS),
            test_data: apart.then(|| probe.scored.clone()),
            apart_secs: OTHER_VIDEOS_SECS,
            ..EvalArgs::new(task, protocol, if task.fits() { &probe.fitted } else { &probe.scored }.clone())
        });
    }
    for (of, judged) in asked.into_iter().zip(evaluate_all(loaded, &tasks)?) {
        let evaluation = match judged {
            Ok(evaluation) => evaluation,
            Err(error) => {
                eprintln!("{}: left out: {error:#}", of.0.name());
                continue;
            }
        };
        for measure in Measure::ALL {
            let (task, protocol, name) = measure.source();
            if (task, protocol) == of {
                let value = evaluation.json.get(name).and_then(serde_json::Value::as_f64);
                let value = value.with_context(|| format!("{}: no {name}", probe.scored.display()))?;
                measured.scores.insert(measure, value);
                measured.stores.insert(measure, files::name_of(scored.dir()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::nets::Backbone;
    use crate::prepare::encode_jpeg;
    use crate::store::{Provenance, Sample, StoreWriter};

    /// Eight frames each of people in a store at `dir`, with what `label` gives for the number of a frame.
    fn write(
        dir: &Path,
        people: std::ops::Range<usize>,
        split: impl Fn(usize) -> Split,
        label: impl Fn(usize, Sample) -> Sample,
    ) {
        let mut writer = StoreWriter::create(dir).unwrap();
        for person in people {
            writer.begin_video(&format!("p{person:02}"), "clip");
            for frame in 0..8 {
                let number = person * 8 + frame;
                let rgb: Vec<u8> =
                    (0..32 * 32 * 3).map(|i| ((i * (number + 1) * 2_654_435) >> 7) as u8).collect();
                let sample = Sample::unlabelled(frame as f64, split(person));
                writer.push(&encode_jpeg(&rgb, 32, 32, 3, 90).unwrap(), &label(number, sample)).unwrap();
            }
        }
        writer.commit(Provenance::default()).unwrap();
    }

    #[test]
    fn sets_without_a_test_split_are_judged_by_folds_or_on_another_set() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let training = |person: usize| if person.is_multiple_of(3) { Split::Val } else { Split::Train };
        let units = |number: usize, sample: Sample| Sample {
            action_units: Some(std::array::from_fn(|unit| {
                f32::from((number >> (unit % 3)).is_multiple_of(2))
            })),
            ..sample
        };
        let pose =
            |number: usize, sample: Sample| Sample { pose: Some([number as f32, 1.0, -1.0]), ..sample };
        write(&at("disfa"), 0..9, training, units);
        write(&at("lp"), 0..6, training, pose);
        write(&at("aflw"), 6..8, |_| Split::Test, pose);
        let loaded = Loaded::random(Backbone::Edge, 32, 0);
        let probe = |text: String| text.parse::<Probe>().unwrap();
        let pair = probe(format!("{}:{}", at("lp").display(), at("aflw").display()));
        let measured = measure(&loaded, &[probe(at("disfa").display().to_string()), pair]).unwrap();
        assert!(
            measured.scores[&Measure::ActionUnits].is_finite() && measured.scores[&Measure::Pose].is_finite()
        );
        assert_eq!(measured.stores[&Measure::ActionUnits], "disfa");
        assert_eq!(measured.stores[&Measure::Pose], "aflw");
        // Pose is not scored by folds.
        let alone = measure(&loaded, &[probe(at("lp").display().to_string())]).unwrap_err().to_string();
        assert!(alone.contains("the test split has nothing to judge by"), "{alone}");
    }

    #[test]
    fn a_probe_is_one_store_or_two() {
        let one: Probe = "stores/lfw".parse().unwrap();
        assert_eq!((one.fitted, one.scored), ("stores/lfw".into(), "stores/lfw".into()));
        let two: Probe = "stores/300w-lp:stores/aflw2000".parse().unwrap();
        assert_eq!((two.fitted, two.scored), ("stores/300w-lp".into(), "stores/aflw2000".into()));
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a:b");
        std::fs::create_dir(&odd).unwrap();
        let odd_probe: Probe = odd.to_str().unwrap().parse().unwrap();
        assert_eq!(odd_probe.fitted, odd, "a folder that is there is what is meant");
    }
}
