//! Renderings of BU-3DFE (Yin et al. 2006), for head pose by classes.
//!
//! The publishers distribute 3D faces (`F0001/F0001_AN01WH_F3D.wrl`) and their texture, no renderings; each group that
//! judges poses on them renders its own and names them as it likes. So the pose is read from `poses.csv` beside the
//! pictures, with columns `file`, `yaw` and `pitch` in degrees: yaw positive where the face looks to the picture's right,
//! pitch where it looks up. What the names begin with is the publishers': the subject (`F0001`), then two letters for the
//! expression and its level (`AN01`).

use std::path::Path;

use anyhow::Context;
use semblance_face::labels::Expression;
use serde::Deserialize;

use super::super::pictures::{Marks, Notes, Refusal};
use super::super::{PrepareArgs, Session};
use super::{Entry, at, needed, stem, store, train_split};
use crate::store::Split;

const LABELS: [(&str, Expression); 7] = [
    ("AN", Expression::Angry),
    ("DI", Expression::Disgust),
    ("FE", Expression::Fear),
    ("HA", Expression::Happy),
    ("NE", Expression::Neutral),
    ("SA", Expression::Sad),
    ("SU", Expression::Surprise),
];

#[derive(Deserialize)]
struct Row {
    file: String,
    yaw: f32,
    pitch: f32,
}

impl Notes for Row {
    fn marks(&self) -> Result<Marks, Refusal> {
        let name = stem(Path::new(&self.file));
        let letters = name.split('_').nth(1).and_then(|part| part.get(..2)).unwrap_or_default();
        let label = LABELS.iter().find(|(label, _)| *label == letters);
        let refused = || Refusal::bad_label(format!("'{letters}' is no expression"));
        let (_, expression) = label.ok_or_else(refused)?;
        if [self.yaw, self.pitch].iter().any(|angle| !(-180.0..=180.0).contains(angle)) {
            return Err(Refusal::bad_label(format!(
                "yaw {} and pitch {} are no angles",
                self.yaw, self.pitch
            )));
        }
        let pose = Some([self.yaw, self.pitch, 0.0]);
        Ok(Marks { expression: Some(*expression), pose, ..Marks::default() })
    }
}

/// The set is published undivided. A third of its people are for the test, as PCL keeps 6,264 of 20,376 pictures: those whose
/// number is a multiple of 3; the rest are training and validation by their names.
fn split(identity: &str, args: &PrepareArgs) -> Split {
    let digits: String = identity.chars().filter(char::is_ascii_digit).collect();
    match digits.parse::<u32>() {
        Ok(number) if number.is_multiple_of(3) => Split::Test,
        _ => train_split(identity, args),
    }
}

pub(super) fn read(session: &mut Session<'_>) -> anyhow::Result<()> {
    let args = session.args;
    let list = needed(&args.src, &["poses.csv"])?;
    let mut reader = csv::Reader::from_path(&list).with_context(|| list.display().to_string())?;
    let mut entries = Vec::new();
    for (row, line) in reader.deserialize().zip(2..) {
        let row: Row = row.with_context(|| at(&list, line))?;
        let path = args.src.join(&row.file);
        let name = stem(&path);
        let identity = name.split('_').next().unwrap_or(&name);
        entries.push(Entry::still(identity, &name, split(identity, args), path, row));
    }
    store(session, entries, "poses.csv with a row a picture")
}
