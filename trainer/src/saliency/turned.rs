//! Whether PCL's pose code is the pose: what it reconstructs of a face with the mirrored picture's pose is to be turned to the
//! other side, as the landmark network sees it.

use std::fmt;

use semblance_face::{Bundle, Frame, Landmarker, head_pose};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use super::{MEASURED, Run, SaliencyArgs, named, some_of};
use crate::eval::spearman;
use crate::method::{Objective, Pcl};
use crate::store::Store;
use crate::tiles;

/// Side that pictures are brought to before landmarks are looked for.
const LOOKED_AT_PX: i64 = 192;
/// From this yaw on a head is turned.
const TURNED_DEG: f32 = 10.0;
/// From this certainty on there is a face.
const PRESENT: f32 = 0.5;

/// Yaw of pictures and of what is made of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turned {
    /// Pictures in which a face was found, and in both that were made of each.
    pub n: usize,
    /// Pictures of which one was not found.
    pub without_face: usize,
    /// Rank correlation of the yaw of pictures and that of their reconstructions.
    pub reconstructed: f64,
    /// Rank correlation of the yaw of pictures and that of their faces with the pose flipped.
    pub flipped: f64,
    /// Pictures whose head is turned by 10 degrees and more.
    pub turned: usize,
    /// Of those that are.
    pub of_turned: Option<OfTurned>,
}

/// What becomes of heads that are turned.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfTurned {
    /// Share that face the other way with the pose flipped.
    pub face_the_other_way: f64,
    /// Mean change of yaw, flipped less reconstructed, away from the side that the head faces, in degrees.
    pub mean_turn_deg: f64,
}

impl Turned {
    /// Of yaws in degrees: of the picture, of its reconstruction, and of that with the pose flipped.
    fn of(yaws: &[[f32; 3]], without_face: usize) -> Self {
        let column = |which: usize| yaws.iter().map(|yaw| f64::from(yaw[which])).collect::<Vec<_>>();
        let turned: Vec<_> = yaws.iter().filter(|yaw| yaw[0].abs() >= TURNED_DEG).collect();
        let other_way = turned.iter().filter(|yaw| yaw[2] * yaw[0] < 0.0).count();
        let turns = turned.iter().map(|[own, made, flipped]| f64::from((made - flipped) * own.signum()));
        let count = turned.len() as f64;
        let of_turned = OfTurned {
            face_the_other_way: other_way as f64 / count,
            mean_turn_deg: turns.sum::<f64>() / count,
        };
        Self {
            n: yaws.len(),
            without_face,
            reconstructed: spearman(&column(0), &column(1)),
            flipped: spearman(&column(0), &column(2)),
            turned: turned.len(),
            of_turned: (!turned.is_empty()).then_some(of_turned),
        }
    }
}

impl fmt::Display for Turned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "yaw of {} pictures ({} without a face that was found) goes with that of their reconstructions by a rank correlation \
             of {:+.2}, and with the pose flipped of {:+.2}; {} heads are turned by {TURNED_DEG} degrees and more",
            self.n, self.without_face, self.reconstructed, self.flipped, self.turned
        )?;
        let Some(OfTurned { face_the_other_way, mean_turn_deg }) = self.of_turned else { return Ok(()) };
        write!(
            f,
            ", of which {:.0} % face the other way with the pose flipped, turned by {mean_turn_deg:.1} degrees in the mean",
            100.0 * face_the_other_way
        )
    }
}

/// Measures what a run of PCL makes; `None` where it has no decoder, and where there is no network for landmarks, which is told.
///
/// # Errors
/// Names what cannot be read.
pub(super) fn measure(
    args: &SaliencyArgs,
    store: &Store,
    run: &Run,
    objective: &dyn Objective,
) -> anyhow::Result<Option<Turned>> {
    if !args.bundle.exists() {
        eprintln!("{}: no bundle: how heads are turned is not measured", args.bundle.display());
        return Ok(None);
    }
    let bundle = Bundle::open(&args.bundle)?;
    let Some((onnx, entry)) = bundle.landmarks_onnx().zip(bundle.manifest().landmarks.as_ref()) else {
        eprintln!("{}: it finds no landmarks: how heads are turned is not measured", args.bundle.display());
        return Ok(None);
    };
    let mut landmarker = Landmarker::new(onnx, entry.input_side_px)?;
    let (mut yaws, mut without_face) = (Vec::new(), 0);
    for frames in some_of(store, args.split, MEASURED).chunks(64) {
        let (unit, crops) = run.crops(store, frames)?;
        let shown = no_grad(|| objective.show(&[crops]));
        let Some((made, flipped)) = named(&shown, Pcl::RECONSTRUCTION).zip(named(&shown, Pcl::POSE_FLIPPED))
        else {
            return Ok(None);
        };
        for i in 0..frames.len() as i64 {
            let mut yaw = |pictures: &Tensor| yaw(&mut landmarker, &pictures.get(i));
            match (yaw(&unit)?, yaw(made)?, yaw(flipped)?) {
                (Some(own), Some(made), Some(flipped)) => yaws.push([own, made, flipped]),
                _ => without_face += 1,
            }
        }
    }
    Ok(Some(Turned::of(&yaws, without_face)))
}

/// Yaw in degrees of the face in a picture `[3,S,S]`; `None` where none is found.
fn yaw(landmarker: &mut Landmarker, picture: &Tensor) -> anyhow::Result<Option<f32>> {
    let size = [LOOKED_AT_PX, LOOKED_AT_PX];
    let large = picture.to_kind(Kind::Float).unsqueeze(0).upsample_bicubic2d(size, false, None, None).get(0);
    let image = tiles::image_of(&large)?;
    let frame = Frame::new(image.width(), image.height(), image.into_raw())?;
    let found = landmarker.locate_in_crop(&frame)?.filter(|found| found.presence >= PRESENT);
    Ok(found
        .and_then(|found| head_pose(&found.points, frame.width(), frame.height()))
        .map(|pose| pose.yaw_deg))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn heads_that_are_turned_are_counted_by_side() {
        let yaws = [[-30.0, -20.0, 18.0], [20.0, 15.0, -5.0], [12.0, 9.0, 3.0], [2.0, 1.0, -1.0]];
        let turned = Turned::of(&yaws, 1);
        assert_eq!((turned.n, turned.turned, turned.without_face), (4, 3, 1));
        let of_turned = turned.of_turned.unwrap();
        assert!((of_turned.face_the_other_way - 2.0 / 3.0).abs() < 1e-12);
        assert!((of_turned.mean_turn_deg - (38.0 + 20.0 + 6.0) / 3.0).abs() < 1e-5);
        assert!(turned.to_string().contains("3 heads") && turned.to_string().contains("67 %"));
        let straight = Turned::of(&yaws[3..], 0);
        assert!(straight.of_turned.is_none() && straight.to_string().ends_with("10 degrees and more"));
        assert!(turned.reconstructed > 0.99 && turned.flipped < -0.1);
    }
}
