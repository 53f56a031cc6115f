//! MAFL (Zhang et al. 2014): 20,000 of CelebA's aligned pictures (Liu et al. 2015), for five landmarks.
//!
//! `training.txt` (19,000) and `testing.txt` (1,000) have a picture's name a line; `list_landmarks_align_celeba.txt` has the
//! number of pictures, the names of the columns, then a name and ten numbers a line: both eyes, the nose and both corners
//! of the mouth, left and right as seen. The pictures are in `Img/img_align_celeba` or `img_align_celeba`, 178 x 218, and
//! are kept as they are. Whether those whole numbers count pixels from 0 or from 1 is not published; they are stored as
//! they stand, which is half a pixel from either.

use std::collections::HashMap;

use anyhow::Context;
use semblance_face::Point;

use super::super::Session;
use super::super::pictures::{Marks, Notes, Refusal};
use super::super::report::Reason;
use super::{Entry, lines, needed, stem, store, train_split};
use crate::store::Split;

const LANDMARKS: [&str; 2] = ["list_landmarks_align_celeba.txt", "Anno/list_landmarks_align_celeba.txt"];
const PICTURES: [&str; 2] = ["Img/img_align_celeba", "img_align_celeba"];

/// Lines before the first picture's.
const HEAD: usize = 2;

/// What a list says of one picture, or nothing.
struct Row(Option<String>);

impl Notes for Row {
    fn marks(&self) -> Result<Marks, Refusal> {
        let missing = || Refusal::new(Reason::NoLabel, "not in the list of landmarks");
        let text = self.0.as_ref().ok_or_else(missing)?;
        let values: Vec<f32> = text.split_whitespace().map_while(|value| value.parse().ok()).collect();
        let refused = |_| Refusal::bad_label(format!("'{text}' is not ten numbers"));
        let values: [f32; 10] = values.try_into().map_err(refused)?;
        let points = std::array::from_fn(|i| Point::new(values[2 * i], values[2 * i + 1]));
        Ok(Marks { five_points: Some(points), ..Marks::default() })
    }
}

pub(super) fn read(session: &mut Session<'_>) -> anyhow::Result<()> {
    let args = session.args;
    let pictures = needed(&args.src, &PICTURES)?;
    let mut rows = HashMap::new();
    for (_, line) in lines(&needed(&args.src, &LANDMARKS)?)?.into_iter().skip(HEAD) {
        if let Some((name, rest)) = line.split_once(char::is_whitespace) {
            rows.insert(name.to_owned(), rest.trim().to_owned());
        }
    }
    let mut entries = Vec::new();
    for (list, tested) in [("training.txt", false), ("testing.txt", true)] {
        let path = needed(&args.src, &[list, &format!("MAFL/{list}")])?;
        for (_, file) in lines(&path).context("a list of MAFL's pictures")? {
            let path = pictures.join(&file);
            let name = stem(&path);
            let split = if tested { Split::Test } else { train_split(&name, args) };
            entries.push(Entry::nobody(&name, split, path, Row(rows.remove(&file))));
        }
    }
    store(session, entries, "training.txt with a picture's name a line")
}
