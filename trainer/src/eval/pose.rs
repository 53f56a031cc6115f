//! Head pose: yaw, pitch and roll (PCL, section 4.2.4), or which of a few poses.

use std::fmt;

use anyhow::ensure;
use serde::Serialize;
use tch::{Reduction, Tensor};

use super::Protocol;
use super::goal::{Fit, Goal, Side, class_tensor, classes_of, one_hot, row_tensor};
use super::labels::Label;
use super::linear::Layer;
use super::probe::{ClassWeights, Softmax};
use crate::augment::AugmentConfig;
use crate::checkpoint::floats;
use crate::data::training_device;
use crate::store::{Record, Split, Store};

/// Pictures with an angle beyond this are left out, in training and in judging, as PCL's code does: yaw, pitch and roll do
/// not tell a head's pose apart there.
pub(super) const MOST_DEG: f32 = 99.0;

/// Adam's rate for an error in degrees: the slope of an absolute error does not fall towards its end, as that of a
/// cross-entropy does.
const LR: f64 = 0.01;

/// More poses than this are no classes.
const MOST_CLASSES: usize = 200;

/// A regression of the three angles by their absolute error in degrees. Outputs are in units of how much each angle
/// varies in training, about its mean.
///
/// The linear probe is PCL's, batch normalisation and a linear layer: before a layer with a bias, the scale and shift of
/// batch normalisation add nothing, and standardised embeddings are the same.
#[derive(Debug, Default)]
pub(super) struct Pose {
    /// Mean and deviation of each angle in training, in degrees, `[1, 3]` each; none while outputs are degrees themselves,
    /// as those of neighbours are.
    spread: Option<(Tensor, Tensor)>,
}

/// How far the angles are off.
#[derive(Clone, Debug, Serialize)]
pub struct PoseReport {
    /// `pose`.
    pub task: &'static str,
    /// The protocol.
    pub protocol: &'static str,
    /// The split that was scored.
    pub split: &'static str,
    /// Pictures scored.
    pub n: u64,
    /// Pictures of the split that were left out, for an angle is beyond 99 degrees.
    pub left_out: u64,
    /// Mean absolute error of yaw in degrees.
    pub mae_yaw: f64,
    /// The same of pitch.
    pub mae_pitch: f64,
    /// The same of roll.
    pub mae_roll: f64,
    /// The mean of the three.
    pub mae_mean: f64,
}

impl Pose {
    /// Outputs as degrees.
    fn degrees(&self, outputs: &Tensor) -> Tensor {
        match &self.spread {
            Some((mean, std)) => outputs * std + mean,
            None => outputs.shallow_clone(),
        }
    }
}

/// A pose whose angles are told apart by yaw, pitch and roll.
fn usable(record: &Record<'_>) -> Option<[f32; 3]> {
    record.pose().filter(|pose| pose.iter().all(|angle| angle.abs() <= MOST_DEG))
}

impl Goal for Pose {
    type Report = PoseReport;
    const LABEL: Label = Label::Pose;

    fn measure(&self) -> &'static str {
        "negative_mae_mean"
    }

    fn outputs(&self) -> i64 {
        3
    }

    fn has(&self, record: &Record<'_>) -> bool {
        usable(record).is_some()
    }

    fn targets(&self, store: &Store, frames: &[usize]) -> Tensor {
        row_tensor(&frames.iter().filter_map(|&i| usable(&store.record(i))).collect::<Vec<_>>())
    }

    fn weigh(&mut self, train: &Tensor) {
        let mean = train.mean_dim([0].as_slice(), true, None);
        // An angle that never changes in training stays where it is.
        let std = train.std_dim([0].as_slice(), false, true);
        self.spread = Some((mean.to_device(training_device()), std.to_device(training_device())));
    }

    fn loss(&self, outputs: &Tensor, targets: &Tensor) -> Tensor {
        self.degrees(outputs).l1_loss(targets, Reduction::Mean)
    }

    fn report(&self, protocol: Protocol, side: &Side<'_>, outputs: &Tensor) -> anyhow::Result<PoseReport> {
        let (degrees, targets) = (floats(&self.degrees(outputs))?, floats(&side.targets)?);
        let n = side.frames.len();
        let mut sums = [0.0; 3];
        for (i, (said, truth)) in degrees.iter().zip(&targets).enumerate() {
            sums[i % 3] += f64::from((said - truth).abs());
        }
        let [mae_yaw, mae_pitch, mae_roll] = sums.map(|sum| sum / n.max(1) as f64);
        let labelled = |i: &usize| {
            let record = side.store.record(*i);
            record.split().name() == side.split && record.pose().is_some()
        };
        let labelled = (0..side.store.len()).filter(labelled).count();
        Ok(PoseReport {
            task: "pose",
            protocol: protocol.name(),
            split: side.split,
            n: n as u64,
            left_out: (labelled - n) as u64,
            mae_yaw,
            mae_pitch,
            mae_roll,
            mae_mean: (mae_yaw + mae_pitch + mae_roll) / 3.0,
        })
    }

    fn score(&self, report: &PoseReport) -> f64 {
        -report.mae_mean
    }

    fn fit(&self) -> Fit {
        Fit::Descent(Layer::Biased, LR)
    }

    /// No view is mirrored: that would turn yaw and roll around.
    fn views(&self, augment: &AugmentConfig) -> anyhow::Result<AugmentConfig> {
        Ok(AugmentConfig { flip_p: 0.0, ..*augment })
    }
}

/// Which of the distinct poses of training: (yaw, pitch) in whole degrees (PCL, on BU-3DFE).
#[derive(Debug)]
pub(super) struct PoseClasses {
    /// Rising.
    classes: Vec<[i32; 2]>,
    softmax: Softmax,
}

/// How often the pose is told right.
#[derive(Clone, Debug, Serialize)]
pub struct PoseClassReport {
    /// `pose`.
    pub task: &'static str,
    /// The protocol.
    pub protocol: &'static str,
    /// The split that was scored.
    pub split: &'static str,
    /// Pictures scored: those whose pose training has.
    pub n: u64,
    /// The poses: yaw and pitch in whole degrees.
    pub classes: Vec<[i32; 2]>,
    /// Share of pictures whose pose is told right.
    pub accuracy: f64,
}

fn rounded(record: &Record<'_>) -> Option<[i32; 2]> {
    record.pose().map(|[yaw, pitch, _]| [yaw.round() as i32, pitch.round() as i32])
}

impl PoseClasses {
    /// Over the poses of the store's training split.
    ///
    /// # Errors
    /// Where they are one, or too many to be classes.
    pub(super) fn new(store: &Store) -> anyhow::Result<Self> {
        let poses: Vec<_> =
            store.split(Split::Train).into_iter().filter_map(|i| rounded(&store.record(i))).collect();
        let mut classes = poses.clone();
        classes.sort_unstable();
        classes.dedup();
        let (dir, count) = (store.dir().display(), classes.len());
        ensure!(
            (2..=MOST_CLASSES).contains(&count),
            "{dir}: the training split has {count} distinct (yaw, pitch) pairs in whole degrees; --pose-classes is for 2 to \
             {MOST_CLASSES}, as in BU-3DFE: leave it out to measure errors in degrees"
        );
        let labels = class_tensor(poses.iter().filter_map(|pose| classes.binary_search(pose).ok()));
        let softmax = Softmax::new(ClassWeights::None, &labels, count as i64);
        Ok(Self { classes, softmax })
    }

    fn class(&self, record: &Record<'_>) -> Option<usize> {
        self.classes.binary_search(&rounded(record)?).ok()
    }
}

impl Goal for PoseClasses {
    type Report = PoseClassReport;
    const LABEL: Label = Label::Pose;

    fn measure(&self) -> &'static str {
        "accuracy"
    }

    fn outputs(&self) -> i64 {
        self.classes.len() as i64
    }

    fn has(&self, record: &Record<'_>) -> bool {
        self.class(record).is_some()
    }

    fn targets(&self, store: &Store, frames: &[usize]) -> Tensor {
        class_tensor(frames.iter().filter_map(|&i| self.class(&store.record(i))))
    }

    fn loss(&self, outputs: &Tensor, targets: &Tensor) -> Tensor {
        self.softmax.loss(outputs, targets)
    }

    fn report(
        &self,
        protocol: Protocol,
        side: &Side<'_>,
        outputs: &Tensor,
    ) -> anyhow::Result<PoseClassReport> {
        let labels: Vec<i64> = Vec::try_from(&side.targets)?;
        let right = classes_of(outputs)?.zip(&labels).filter(|(said, truth)| *said as i64 == **truth).count();
        Ok(PoseClassReport {
            task: "pose",
            protocol: protocol.name(),
            split: side.split,
            n: labels.len() as u64,
            classes: self.classes.clone(),
            accuracy: right as f64 / labels.len().max(1) as f64,
        })
    }

    fn score(&self, report: &PoseClassReport) -> f64 {
        report.accuracy
    }

    fn ballots(&self, targets: &Tensor) -> anyhow::Result<Tensor> {
        Ok(one_hot(targets, self.outputs()))
    }

    fn views(&self, augment: &AugmentConfig) -> anyhow::Result<AugmentConfig> {
        Pose::default().views(augment)
    }
}

impl fmt::Display for PoseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pose, {}, {} split, n = {}", self.protocol, self.split, self.n)?;
        if self.left_out > 0 {
            write!(f, " ({} left out: an angle is beyond {MOST_DEG} degrees)", self.left_out)?;
        }
        let (yaw, pitch, roll, mean) = (self.mae_yaw, self.mae_pitch, self.mae_roll, self.mae_mean);
        write!(
            f,
            "\nmean absolute error in degrees: yaw {yaw:.2}   pitch {pitch:.2}   roll {roll:.2}   mean {mean:.2}"
        )
    }
}

impl fmt::Display for PoseClassReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (protocol, split, n, poses) = (self.protocol, self.split, self.n, self.classes.len());
        write!(f, "pose, {protocol}, {split} split, n = {n}, {poses} poses\naccuracy {:.4}", self.accuracy)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::eval::goal::solver;
    use crate::eval::linear::Standardised;
    use crate::prepare::encode_jpeg;
    use crate::store::{Provenance, Sample, StoreWriter};

    fn store(dir: &std::path::Path, poses: &[[f32; 3]]) -> Store {
        let mut writer = StoreWriter::create(dir).unwrap();
        let jpeg = encode_jpeg(&[7; 256], 16, 16, 1, 90).unwrap();
        for (i, pose) in (0..).zip(poses) {
            writer.begin_video("a", &format!("{i}"));
            let sample = Sample { pose: Some(*pose), ..Sample::unlabelled(0.0, Split::Train) };
            writer.push(&jpeg, &sample).unwrap();
        }
        writer.commit(Provenance::default()).unwrap();
        Store::open(dir).unwrap()
    }

    #[test]
    fn the_probe_finds_the_medians_of_two_groups() {
        let dir = tempfile::tempdir().unwrap();
        // Medians of 5 and 40, -10 and 20, 1 and 1; the means are pulled away by outliers.
        let rows = [
            (0.0f32, [4.0, -10.0, 1.0]),
            (0.0, [5.0, -12.0, 1.0]),
            (0.0, [80.0, 50.0, 1.0]),
            (1.0, [40.0, 20.0, 1.0]),
            (1.0, [-60.0, 20.0, 1.0]),
            (1.0, [44.0, 22.0, 1.0]),
        ];
        let store = store(dir.path(), &rows.map(|(_, pose)| pose));
        let mut goal = Pose::default();
        let side = Side::of(&goal, &store, Split::Train, "").unwrap();
        goal.weigh(&side.targets);
        let embeddings =
            || Tensor::from_slice(&rows.map(|(x, _)| x)).view([-1, 1]).to_device(training_device());
        let (x, targets) = (Standardised::new(embeddings()), side.targets.to_device(training_device()));
        let head = solver(&goal, &x, &targets)(0.0).unwrap();
        let degrees = floats(&goal.degrees(&head.apply(&embeddings()))).unwrap();
        for (got, expected) in
            degrees[..3].iter().chain(&degrees[9..12]).zip([5.0, -10.0, 1.0, 40.0, 20.0, 1.0f32])
        {
            assert!((got - expected).abs() < 1.0, "{degrees:?}");
        }
        let report = goal.report(Protocol::Linear, &side, &head.apply(&embeddings())).unwrap();
        // 1 + 0 + 75 and 0 + 100 + 4 of yaw, 0 + 2 + 60 and 0 + 0 + 2 of pitch.
        assert!(
            (report.mae_yaw - 180.0 / 6.0).abs() < 0.5 && (report.mae_pitch - 64.0 / 6.0).abs() < 0.5,
            "{report}"
        );
        assert!(report.mae_roll < 0.1, "{report}");
    }

    #[test]
    fn angles_beyond_99_degrees_are_left_out_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let store =
            store(dir.path(), &[[10.0, 0.0, 2.0], [99.5, 0.0, 0.0], [0.0, 0.0, -120.0], [-4.0, 6.0, 0.0]]);
        let goal = Pose::default();
        let side = Side::of(&goal, &store, Split::Train, "").unwrap();
        assert_eq!(side.frames, [0, 3]);
        let outputs = row_tensor(&[[7.0, 3.0, 2.0], [-3.0, 6.0, 4.0f32]]);
        let report = goal.report(Protocol::Knn, &side, &outputs).unwrap();
        assert_eq!((report.n, report.left_out), (2, 2));
        assert_eq!(
            (report.mae_yaw, report.mae_pitch, report.mae_roll, report.mae_mean),
            (2.0, 1.5, 2.0, 5.5 / 3.0)
        );
    }

    #[test]
    fn few_poses_are_classes_and_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let poses = [[30.2, 0.1, 5.0], [29.8, -0.3, 0.0], [-30.0, 0.0, 0.0], [0.0, 15.0, 0.0]];
        let classes = PoseClasses::new(&store(&dir.path().join("few"), &poses)).unwrap();
        assert_eq!(classes.classes, [[-30, 0], [0, 15], [30, 0]]);
        let error = PoseClasses::new(&store(&dir.path().join("one"), &poses[..2])).unwrap_err().to_string();
        assert!(error.contains("1 distinct (yaw, pitch) pairs"), "{error}");
    }
}
