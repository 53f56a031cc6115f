//! RAF-DB (Li, Deng & Du 2017), the single-label subset "basic": 15,339 pictures of seven expressions.
//!
//! `EmoLabel/list_patition_label.txt` (the publishers' spelling) has a line `train_00001.jpg 5` for each picture; the name
//! tells the part. The pictures are `Image/aligned/train_00001_aligned.jpg`, 100 x 100, or, where that folder is not
//! there, `Image/original/train_00001.jpg`.

use anyhow::Context;
use semblance_face::labels::Expression;

use super::super::Session;
use super::super::pictures::{Marks, Notes, Refusal};
use super::{Entry, at, first_there, lines, needed, store, train_split};
use crate::store::Split;

/// RAF-DB's own order, from 1.
const LABELS: [Expression; 7] = [
    Expression::Surprise,
    Expression::Fear,
    Expression::Disgust,
    Expression::Happy,
    Expression::Sad,
    Expression::Angry,
    Expression::Neutral,
];

const LISTS: [&str; 2] = ["EmoLabel/list_patition_label.txt", "basic/EmoLabel/list_patition_label.txt"];

/// A number of the list.
struct Label(u64);

impl Notes for Label {
    fn marks(&self) -> Result<Marks, Refusal> {
        let place = usize::try_from(self.0).ok().and_then(|label| label.checked_sub(1));
        let expression = place.and_then(|place| LABELS.get(place)).copied();
        let refused = || Refusal::bad_label(format!("label {} is not one of 1 to 7", self.0));
        Ok(Marks { expression: Some(expression.ok_or_else(refused)?), ..Marks::default() })
    }
}

pub(super) fn read(session: &mut Session<'_>) -> anyhow::Result<()> {
    let args = session.args;
    let list = needed(&args.src, &LISTS)?;
    let root = list.parent().and_then(|folder| folder.parent()).unwrap_or(&args.src);
    let aligned = first_there(root, &["Image/aligned"]);
    let original = root.join("Image/original");
    let mut entries = Vec::new();
    for (number, line) in lines(&list)? {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let entry = || {
            let [file, label] = fields[..] else { return None };
            let (name, label) = (file.strip_suffix(".jpg")?, label.parse().ok()?);
            let split = match name.split_once('_')?.0 {
                "train" => train_split(name, args),
                "test" => Split::Test,
                _ => return None,
            };
            let path = match &aligned {
                Some(folder) => folder.join(format!("{name}_aligned.jpg")),
                None => original.join(file),
            };
            Some(Entry::nobody(name, split, path, Label(label)))
        };
        let entry = entry()
            .with_context(|| format!("{}: '{line}' is not as 'train_00001.jpg 5'", at(&list, number)))?;
        entries.push(entry);
    }
    store(session, entries, "EmoLabel/list_patition_label.txt with a line a picture")
}
