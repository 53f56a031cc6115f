//! Where landmarks are: a linear map from an embedding to points (FAb-Net, on 300-W and MAFL).

use std::fmt;

use anyhow::bail;
use serde::Serialize;
use tch::Tensor;

use super::Protocol;
use super::goal::{Fit, Goal, Side};
use super::labels::Label;
use crate::augment::AugmentConfig;
use crate::checkpoint::floats;
use crate::store::{Record, Store};

/// Outer corners of the eyes among the 68 points, whose distance 300-W divides errors by.
const OUTER_CORNERS: [usize; 2] = [36, 45];
/// Centres of the eyes among the five points, whose distance MAFL's protocol divides errors by.
const EYE_CENTRES: [usize; 2] = [0, 1];

/// 300-W's challenging pictures are those of iBUG; the common ones are those of LFPW and HELEN.
const CHALLENGING: &str = "ibug/";

/// A regression of points in shares of the shorter side of the picture, from its middle: what an encoder sees is the middle
/// square. The linear probe is ridge regression.
#[derive(Clone, Copy, Debug)]
pub(super) enum Points {
    /// iBUG's 68.
    All,
    /// Eyes, nose and corners of the mouth.
    Five,
}

/// How far landmarks are off.
#[derive(Clone, Debug, Serialize)]
pub struct LandmarkReport {
    /// `landmarks`.
    pub task: &'static str,
    /// The protocol.
    pub protocol: &'static str,
    /// The split that was scored.
    pub split: &'static str,
    /// Pictures scored.
    pub n: u64,
    /// Points a picture: 68, or 5.
    pub points: usize,
    /// Mean over pictures and points of the distance to the true point, in per cent of the distance between the outer
    /// corners of the eyes (68 points) or the centres of the eyes (5).
    pub nme: f64,
    /// The same over pictures whose video's name does not begin with `ibug/`, where others' does: 300-W's common ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nme_common: Option<f64>,
    /// The same over those whose does: 300-W's challenging ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nme_challenging: Option<f64>,
    /// How many the challenging ones are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_challenging: Option<u64>,
}

impl Points {
    /// Those that the store has; the 68 where it has both.
    pub(super) fn new(store: &Store) -> Self {
        if store.has_landmarks() { Self::All } else { Self::Five }
    }

    const fn count(self) -> usize {
        match self {
            Self::All => 68,
            Self::Five => 5,
        }
    }

    /// The points of a frame as `[x0, y0, ..]` in shares of its shorter side, from its middle; `None` where they are not
    /// known, or the eyes are in one place.
    fn of(self, record: &Record<'_>) -> Option<Vec<f32>> {
        let mut points: Vec<f32> = match self {
            Self::All => record.landmarks()?.to_vec(),
            Self::Five => record.five_points()?.to_vec(),
        };
        let (width, height) = record.size().map(|(width, height)| (width as f32, height as f32))?;
        for point in points.chunks_exact_mut(2) {
            for (share, side) in point.iter_mut().zip([width, height]) {
                *share = (*share - 0.5) * side / width.min(height);
            }
        }
        (self.between_eyes(&points) > 0.0).then_some(points)
    }

    /// What errors are divided by.
    fn between_eyes(self, points: &[f32]) -> f32 {
        let [a, b] = match self {
            Self::All => OUTER_CORNERS,
            Self::Five => EYE_CENTRES,
        };
        distance(&points[2 * a..2 * a + 2], &points[2 * b..2 * b + 2])
    }

    /// The mean distance of points over that of the eyes, in per cent.
    fn error(self, said: &[f32], truth: &[f32]) -> f64 {
        let distances =
            said.chunks_exact(2).zip(truth.chunks_exact(2)).map(|(a, b)| f64::from(distance(a, b)));
        100.0 * distances.sum::<f64>() / (self.count() as f64 * f64::from(self.between_eyes(truth)))
    }
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

impl Goal for Points {
    type Report = LandmarkReport;
    const LABEL: Label = Label::Points;

    fn measure(&self) -> &'static str {
        "negative_nme"
    }

    fn outputs(&self) -> i64 {
        2 * self.count() as i64
    }

    fn has(&self, record: &Record<'_>) -> bool {
        self.of(record).is_some()
    }

    fn targets(&self, store: &Store, frames: &[usize]) -> Tensor {
        let points: Vec<f32> = frames.iter().filter_map(|&i| self.of(&store.record(i))).flatten().collect();
        Tensor::from_slice(&points).view([-1, self.outputs()])
    }

    fn loss(&self, outputs: &Tensor, targets: &Tensor) -> Tensor {
        outputs.mse_loss(targets, tch::Reduction::Mean)
    }

    fn report(
        &self,
        protocol: Protocol,
        side: &Side<'_>,
        outputs: &Tensor,
    ) -> anyhow::Result<LandmarkReport> {
        let (outputs, targets) = (floats(outputs)?, floats(&side.targets)?);
        let values = self.outputs() as usize;
        let errors = outputs.chunks_exact(values).zip(targets.chunks_exact(values));
        let errors: Vec<f64> = errors.map(|(said, truth)| self.error(said, truth)).collect();
        let challenging = |i: &usize| side.store.record(*i).video().name.starts_with(CHALLENGING);
        let (hard, easy): (Vec<_>, Vec<_>) =
            side.frames.iter().zip(&errors).partition(|(frame, _)| challenging(frame));
        let mean = |errors: &[f64]| errors.iter().sum::<f64>() / errors.len().max(1) as f64;
        let part = |part: Vec<(&usize, &f64)>| {
            (!part.is_empty()).then(|| mean(&part.into_iter().map(|(_, error)| *error).collect::<Vec<_>>()))
        };
        let n_challenging = (!hard.is_empty()).then_some(hard.len() as u64);
        Ok(LandmarkReport {
            task: "landmarks",
            protocol: protocol.name(),
            split: side.split,
            n: errors.len() as u64,
            points: self.count(),
            nme: mean(&errors),
            nme_common: n_challenging.and_then(|_| part(easy)),
            nme_challenging: part(hard),
            n_challenging,
        })
    }

    fn score(&self, report: &LandmarkReport) -> f64 {
        -report.nme
    }

    fn fit(&self) -> Fit {
        Fit::Ridge
    }

    fn views(&self, _: &AugmentConfig) -> anyhow::Result<AugmentConfig> {
        bail!("--task landmarks has --protocol linear and knn: fine-tuning's views would move the points")
    }
}

impl fmt::Display for LandmarkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (protocol, split, n, points) = (self.protocol, self.split, self.n, self.points);
        writeln!(f, "landmarks, {protocol}, {split} split, n = {n}, {points} points")?;
        let of = if points == 5 { "centres" } else { "outer corners" };
        write!(f, "mean error {:.3} % of the distance of the eyes' {of}", self.nme)?;
        if let (Some(challenging), Some(n)) = (self.nme_challenging, self.n_challenging) {
            write!(f, "\nchallenging (ibug) {challenging:.3} %, n = {n}")?;
        }
        if let Some(common) = self.nme_common {
            write!(f, "   common {common:.3} %")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::prepare::encode_jpeg;
    use crate::store::{Provenance, Sample, Split, StoreWriter};

    #[test]
    fn the_error_is_in_shares_of_the_distance_of_the_eyes_whatever_the_pictures_shape() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = StoreWriter::create(dir.path()).unwrap();
        // 40 px wide, 20 px high; the eyes are 16 px apart.
        let jpeg = encode_jpeg(&[7; 800], 40, 20, 1, 90).unwrap();
        let points = [0.3, 0.4, 0.7, 0.4, 0.5, 0.5, 0.4, 0.8, 0.6, 0.8f32];
        for name in ["lfpw/1", "ibug/1", "helen/1"] {
            writer.begin_video("a", name);
            let sample = Sample { five_points: Some(points), ..Sample::unlabelled(0.0, Split::Test) };
            writer.push(&jpeg, &sample).unwrap();
        }
        writer.commit(Provenance::default()).unwrap();
        let store = Store::open(dir.path()).unwrap();
        let goal = Points::new(&store);
        let side = Side::of(&goal, &store, Split::Test, "").unwrap();
        let truth = floats(&side.targets.get(0)).unwrap();
        assert!((truth[0] + 8.0 / 20.0).abs() < 1e-6 && (truth[1] + 2.0 / 20.0).abs() < 1e-6, "{truth:?}");
        // Every point of the second is off by 3 px across and 4 px down: 5/16; one of the third by 8 px: 8/16/5.
        let mut outputs = floats(&side.targets).unwrap();
        for point in outputs[10..20].chunks_exact_mut(2) {
            (point[0], point[1]) = (point[0] + 3.0 / 20.0, point[1] - 4.0 / 20.0);
        }
        outputs[24] += 8.0 / 20.0;
        let report =
            goal.report(Protocol::Linear, &side, &Tensor::from_slice(&outputs).view([3, 10])).unwrap();
        assert_eq!((report.points, report.n, report.n_challenging), (5, 3, Some(1)));
        let close = |got: Option<f64>, expected: f64| (got.unwrap() - expected).abs() < 1e-3;
        assert!(close(report.nme_challenging, 31.25) && close(report.nme_common, 5.0), "{report}");
        assert!(close(Some(report.nme), (31.25 + 10.0) / 3.0), "{report}");
    }

    #[test]
    fn sixty_eight_points_are_measured_by_the_outer_corners() {
        let mut truth = vec![0.0f32; 136];
        truth[2 * 45] = 0.5;
        let said: Vec<f32> =
            truth.iter().enumerate().map(|(i, v)| v + if i % 2 == 0 { 0.05 } else { 0.0 }).collect();
        assert!((Points::All.error(&said, &truth) - 10.0).abs() < 1e-4);
    }
}
