//! Whether PCL's pose code is the pose: what it reconstructs of a face with the mirrored picture's pose is to be turned to the
//! other side, as the landmark network sees it.

use std::fmt;

use semblance_face::{Bundle, Frame, Landmarker, head_pose};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn, no_grad};

use super::{Run, SaliencyArgs, some_of};
use crate::data::training_device;
use crate::eval::spearman;
use crate::method::{Build, Method, Pcl};
use crate::nets::Phase;
use crate::pretrain::PretrainConfig;
use crate::store::Store;
use crate::tiles;

/// Pictures that are measured, at most.
const MOST: usize = 400;
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
    /// Share of those that face the other way with the pose flipped.
    pub face_the_other_way: f64,
    /// Mean change of yaw, flipped less reconstructed, away from the side that a turned head faces, in degrees.
    pub mean_turn_deg: f64,
}

impl Turned {
    /// Of yaws in degrees: of the picture, of its reconstruction, and of that with the pose flipped.
    fn of(yaws: &[[f32; 3]], without_face: usize) -> Self {
        let column = |which: usize| yaws.iter().map(|yaw| f64::from(yaw[which])).collect::<Vec<_>>();
        let turned: Vec<_> = yaws.iter().filter(|yaw| yaw[0].abs() >= TURNED_DEG).collect();
        let other_way = turned.iter().filter(|yaw| yaw[2] * yaw[0] < 0.0).count();
        let turns = turned.iter().map(|[own, made, flipped]| f64::from((made - flipped) * own.signum()));
        let count = turned.len().max(1) as f64;
        Self {
            n: yaws.len(),
            without_face,
            reconstructed: spearman(&column(0), &column(1)),
            flipped: spearman(&column(0), &column(2)),
            turned: turned.len(),
            face_the_other_way: other_way as f64 / count,
            mean_turn_deg: turns.sum::<f64>() / count,
        }
    }
}

impl fmt::Display for Turned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "yaw of {} pictures ({} without a face that was found) goes with that of their reconstructions by a rank correlation \
             of {:+.2}, and with the pose flipped of {:+.2}; of {} heads turned by {TURNED_DEG} degrees and more, {:.0} % face the \
             other way with the pose flipped, turned by {:.1} degrees in the mean",
            self.n,
            self.without_face,
            self.reconstructed,
            self.flipped,
            self.turned,
            100.0 * self.face_the_other_way,
            self.mean_turn_deg
        )
    }
}

/// Measures a run of PCL that has a decoder; `None` for others, and where there is no network for landmarks, which is told.
///
/// # Errors
/// Names what cannot be read.
pub(super) fn measure(
    args: &SaliencyArgs,
    store: &Store,
    run: &Run,
    config: &PretrainConfig,
) -> anyhow::Result<Option<Turned>> {
    if config.method != Method::Pcl || !config.pcl.disentangle {
        return Ok(None);
    }
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
    let vs = nn::VarStore::new(training_device());
    let pcl = Pcl::new(Build::of(config, &vs), config.projection, config.pcl);
    run.checkpoint.restore_average(&vs)?;
    let (mut yaws, mut without_face) = (Vec::new(), 0);
    for frames in some_of(store, args.split, MOST).chunks(64) {
        let (unit, crops) = run.crops(store, frames)?;
        let made = no_grad(|| {
            let own = pcl.face_and_pose(&crops, Phase::Eval)?;
            let mirrored = pcl.face_and_pose(&crops.flip([3]), Phase::Eval)?;
            let made = pcl.reconstruct(&own.face, &own.pose, Phase::Eval)?;
            Some((made, pcl.reconstruct(&own.face, &mirrored.pose, Phase::Eval)?))
        });
        let Some((made, flipped)) = made else { return Ok(None) };
        for i in 0..frames.len() as i64 {
            let mut yaw = |pictures: &Tensor| yaw(&mut landmarker, &pictures.get(i));
            match (yaw(&unit)?, yaw(&made)?, yaw(&flipped)?) {
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
    use super::*;

    #[test]
    fn heads_that_are_turned_are_counted_by_side() {
        let yaws = [[-30.0, -20.0, 18.0], [20.0, 15.0, -5.0], [12.0, 9.0, 3.0], [2.0, 1.0, -1.0]];
        let turned = Turned::of(&yaws, 1);
        assert_eq!((turned.n, turned.turned, turned.without_face), (4, 3, 1));
        assert!((turned.face_the_other_way - 2.0 / 3.0).abs() < 1e-12);
        assert!((turned.mean_turn_deg - (38.0 + 20.0 + 6.0) / 3.0).abs() < 1e-5);
        assert!(turned.reconstructed > 0.99 && turned.flipped < -0.1);
    }
}
