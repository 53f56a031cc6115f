//! 300-W (Sagonas et al. 2013): 68 landmarks in pictures of four older sets.
//!
//! `afw`, `helen/trainset`, `helen/testset`, `ibug`, `lfpw/trainset` and `lfpw/testset` have a `.pts` beside each picture:
//! `version: 1`, `n_points: 68`, then the points in braces, x and y in pixels that count from 1. The usual parts: afw and
//! both trainsets are for training (3,148), both testsets are the common (554) and ibug the challenging part (135) of the
//! test. Identity and video of a picture are named with its folder, `ibug/image_003_1`, so that a score can be told for
//! either part. The square about the usual loose crop is stored.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use semblance_face::Point;
use semblance_face::frame::is_picture;
use semblance_face::landmarks::LANDMARKS;

use super::super::Session;
use super::super::pictures::{Marks, Notes, Refusal};
use super::super::report::Reason;
use super::super::tree::{children, relative};
use super::{Entry, MIDDLE, loose_square, stem, store, train_split};
use crate::store::Split;

/// The folders, with whether they are for the test.
const SUBSETS: [(&str, bool); 6] = [
    ("afw", false),
    ("helen/trainset", false),
    ("lfpw/trainset", false),
    ("helen/testset", true),
    ("lfpw/testset", true),
    ("ibug", true),
];

/// A file of points.
struct Pts(PathBuf);

impl Notes for Pts {
    fn marks(&self) -> Result<Marks, Refusal> {
        let name = self.0.file_name().unwrap_or_default().to_string_lossy();
        let text = std::fs::read_to_string(&self.0).with_context(|| name.clone().into_owned());
        let text = text.map_err(|error| Refusal::file(&error))?;
        let points = points(&text).map_err(|error| Refusal::bad_label(format!("{name}: {error}")))?;
        Ok(Marks { landmarks: Some(points), crop: Some(loose_square(&points)), ..Marks::default() })
    }
}

fn points(text: &str) -> anyhow::Result<[Point; LANDMARKS]> {
    let inside = text.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    let Some((inside, _)) = inside else { bail!("no points in braces") };
    let values: Vec<f32> = inside
        .split_whitespace()
        .map(|value| value.parse().with_context(|| format!("'{value}' is not a number")))
        .collect::<anyhow::Result<_>>()?;
    ensure!(values.len() == 2 * LANDMARKS, "{} coordinates, not {}", values.len(), 2 * LANDMARKS);
    Ok(std::array::from_fn(|i| Point::new(values[2 * i] + MIDDLE, values[2 * i + 1] + MIDDLE)))
}

pub(super) fn read(session: &mut Session<'_>) -> anyhow::Result<()> {
    let args = session.args;
    let mut entries = Vec::new();
    for (subset, tested) in SUBSETS {
        let folder = args.src.join(subset);
        if !folder.exists() {
            continue;
        }
        let (_, files) = children(&folder).with_context(|| folder.display().to_string())?;
        let paths: Vec<PathBuf> = files.into_iter().map(|(_, path)| path).collect();
        let pictures: HashMap<String, &PathBuf> =
            paths.iter().filter(|path| is_picture(path)).map(|path| (stem(path), path)).collect();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "pts")) {
            let Some(&picture) = pictures.get(&stem(path)) else {
                session.report.add(
                    Reason::Missing,
                    1,
                    format!("{} (its picture)", relative(path, &args.src)),
                );
                continue;
            };
            let name = format!("{subset}/{}", stem(path));
            let split = if tested { Split::Test } else { train_split(&name, args) };
            entries.push(Entry::nobody(&name, split, picture.clone(), Pts(path.clone())));
        }
    }
    store(session, entries, "afw, helen, ibug or lfpw with a .pts beside each picture")
}
