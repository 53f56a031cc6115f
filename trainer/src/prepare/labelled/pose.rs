//! 300W-LP and AFLW2000-3D (Zhu et al. 2016): head poses from fitted 3D faces, the usual pair to train and to judge on.
//!
//! Each picture has a MAT-file of its name. `Pose_Para` begins with pitch, yaw and roll in radians. With x to the right, y
//! up and z towards the camera, the publishers' rotation is `Rx(-pitch) Ry(-yaw) Rz(-roll)`: the head is rolled first, then
//! turned, then pitched. A positive yaw therefore looks to the picture's left, the opposite of ours; a positive pitch looks
//! up and a positive roll is clockwise, as with us. The yaw's sign is turned, and nothing else: the angles stay those of
//! the publishers' order, so that mean errors compare with the papers'. Where two of the three are small, both orders agree.
//!
//! Landmarks are `pt2d` (300W-LP) and the first two rows of `pt3d_68` (AFLW2000), 68 columns in iBUG's order, in pixels
//! that count from 1. Both sets are cut the same way: the square about the usual loose crop. Pictures with an angle beyond
//! 99 degrees are left out, as every paper does.

use std::path::{Path, PathBuf};

use anyhow::Context;
use semblance_face::Point;
use semblance_face::frame::is_picture;
use semblance_face::landmarks::LANDMARKS;

use super::super::Session;
use super::super::pictures::{Marks, Notes, Refusal};
use super::super::report::Reason;
use super::super::tree::children;
use super::mat::{Array, arrays};
use super::{Entry, MIDDLE, loose_square, stem, store, train_split};
use crate::store::Split;

/// In degrees.
const MOST_ANGLE: f64 = 99.0;

const SUBSETS: [&str; 8] =
    ["AFW", "AFW_Flip", "HELEN", "HELEN_Flip", "IBUG", "IBUG_Flip", "LFPW", "LFPW_Flip"];

/// A MAT-file, and the array of its landmarks.
struct MatFile {
    path: PathBuf,
    landmarks: &'static str,
}

impl Notes for MatFile {
    fn marks(&self) -> Result<Marks, Refusal> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let read = || arrays(&std::fs::read(&self.path)?);
        let found = read().with_context(|| name.into_owned()).map_err(|error| Refusal::file(&error))?;
        let pose = pose(array(&found, "Pose_Para")?)?;
        let points = points(array(&found, self.landmarks)?)?;
        Ok(Marks {
            pose: Some(pose),
            landmarks: Some(points),
            crop: Some(loose_square(&points)),
            ..Marks::default()
        })
    }
}

fn array<'a>(found: &'a [Array], name: &str) -> Result<&'a Array, Refusal> {
    let missing = || Refusal::bad_label(format!("its MAT-file has no array '{name}'"));
    found.iter().find(|array| array.name == name).ok_or_else(missing)
}

/// Yaw, pitch and roll in degrees, of our signs.
fn pose(parameters: &Array) -> Result<[f32; 3], Refusal> {
    let refused = || Refusal::bad_label(format!("Pose_Para has {} values, not 7", parameters.values.len()));
    let angles = parameters.values.get(..3).ok_or_else(refused)?;
    let [pitch, yaw, roll] = [0, 1, 2].map(|i| angles[i].to_degrees());
    match [pitch, yaw, roll].iter().find(|angle| angle.abs() > MOST_ANGLE) {
        Some(angle) => Err(Refusal::new(Reason::LeftOut, format!("an angle of {angle:.0} degrees"))),
        None => Ok([-yaw, pitch, roll].map(|angle| angle as f32)),
    }
}

fn points(array: &Array) -> Result<[Point; LANDMARKS], Refusal> {
    let Array { name, sizes, values } = array;
    let &[rows @ (2 | 3), LANDMARKS] = sizes.as_slice() else {
        return Err(Refusal::bad_label(format!("{name} has sizes {sizes:?}, not 2 or 3 x {LANDMARKS}")));
    };
    Ok(std::array::from_fn(|i| {
        Point::new(values[rows * i] as f32 + MIDDLE, values[rows * i + 1] as f32 + MIDDLE)
    }))
}

/// 300W-LP as it is published: folders `AFW`, `HELEN`, `IBUG`, `LFPW` and theirs of mirrored pictures, `AFW_Flip` and so
/// on. The pictures that were made of one photograph, `AFW_134212_1_0` to `_17` and their mirror images, are of one
/// identity, so that none of them is in both training and validation.
pub(super) fn read_w300lp(session: &mut Session<'_>) -> anyhow::Result<()> {
    let args = session.args;
    let mut entries = Vec::new();
    for subset in SUBSETS {
        let folder = args.src.join(subset);
        if !folder.exists() {
            continue;
        }
        for (name, path, notes) in pictures(&folder, "pt2d")? {
            let photograph = name.rsplit_once('_').map_or(name.as_str(), |(photograph, _)| photograph);
            let split = train_split(photograph, args);
            entries.push(Entry::still(photograph, &format!("{subset}/{name}"), split, path, notes));
        }
    }
    store(session, entries, "AFW/AFW_134212_1_0.jpg with its .mat")
}

/// AFLW2000-3D as it is published: a flat folder.
pub(super) fn read_aflw2000(session: &mut Session<'_>) -> anyhow::Result<()> {
    let pictures = pictures(&session.args.src, "pt3d_68")?.into_iter();
    let entries =
        pictures.map(|(name, path, notes)| Entry::nobody(&name, Split::Test, path, notes)).collect();
    store(session, entries, "image00002.jpg with its .mat")
}

/// The pictures of a folder: names, paths, MAT-files.
fn pictures(folder: &Path, landmarks: &'static str) -> anyhow::Result<Vec<(String, PathBuf, MatFile)>> {
    let (_, files) = children(folder).with_context(|| folder.display().to_string())?;
    let picture = |path: PathBuf| {
        let notes = MatFile { path: path.with_extension("mat"), landmarks };
        (stem(&path), path, notes)
    };
    Ok(files.into_iter().map(|(_, path)| path).filter(|path| is_picture(path)).map(picture).collect())
}
