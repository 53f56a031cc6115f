//! AffectNet (Mollahosseini, Hasani & Mahoor 2017) in both of its published layouts.
//!
//! The first has `training.csv` and `validation.csv` with columns `subDirectory_filePath`, `face_x`, `face_y`, `face_width`,
//! `face_height`, `facial_landmarks` (`x;y;x;y;..`), `expression`, `valence` and `arousal`; pictures are whole scenes, of
//! which the square about the face's box is stored. The second, AffectNet-8 and -7, has `train_set/images/0.jpg` with
//! `train_set/annotations/0_exp.npy`, `0_val.npy`, `0_aro.npy` and `0_lnd.npy` (`x, y, x, y, ..`), and `val_set` alike; its
//! pictures are crops, and kept. Landmarks are taken to be in pixels of the picture, and are stored as they stand.
//!
//! Expressions 0 to 7 are the eight classes, 8 is "none", 9 "uncertain" and 10 "no face"; valence or arousal of -2 means
//! that there is none. Uncertain pictures and those without a face are left out; "none" is kept for its valence and
//! arousal alone. The published validation set is the test split, for the publishers keep their own test set.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use semblance_face::frame::is_picture;
use semblance_face::labels::Expression;
use semblance_face::{Point, Rect};

use super::super::pictures::{Marks, Notes, Refusal};
use super::super::report::Reason;
use super::super::tree::children;
use super::super::{PrepareArgs, Session};
use super::{Entry, first_there, square_about, stem, store, train_split};
use crate::store::Split;

/// AffectNet's own order.
const LABELS: [Expression; 8] = [
    Expression::Neutral,
    Expression::Happy,
    Expression::Sad,
    Expression::Surprise,
    Expression::Fear,
    Expression::Disgust,
    Expression::Angry,
    Expression::Contempt,
];
const NONE: f64 = 8.0;
const UNCERTAIN: f64 = 9.0;
const NO_FACE: f64 = 10.0;
/// What stands for valence or arousal that nobody gave.
const NO_AFFECT: f64 = -2.0;

const LISTS: [&str; 3] = [".", "Manually_Annotated_file_lists", "Manually_annotated_file_lists"];
const PICTURES: [&str; 3] =
    ["Manually_Annotated/Manually_Annotated_Images", "Manually_Annotated_Images", "Manually_Annotated"];

/// The lists and folders of each layout, with whether they are the part that is published for validation.
const CSVS: [(&str, bool); 2] = [("training.csv", false), ("validation.csv", true)];
const SETS: [(&str, bool); 2] = [("train_set", false), ("val_set", true)];

pub(super) fn read(session: &mut Session<'_>) -> anyhow::Result<()> {
    let args = session.args;
    let lists = LISTS.map(|folder| args.src.join(folder));
    let is_first = |folder: &PathBuf| CSVS.iter().any(|(csv, _)| folder.join(csv).exists());
    match lists.iter().find(|folder| is_first(folder)) {
        Some(lists) => read_first(session, lists),
        None => read_second(session),
    }
}

fn split(name: &str, tested: bool, args: &PrepareArgs) -> Split {
    if tested { Split::Test } else { train_split(name, args) }
}

/// Refuses what is not for training, and gives the expression, which "none" has not.
fn expression(label: f64, no_contempt: bool) -> Result<Option<Expression>, Refusal> {
    let left_out = |why: &str| Err(Refusal::new(Reason::LeftOut, why));
    if label == NONE {
        return Ok(None);
    }
    if label == UNCERTAIN {
        return left_out("uncertain");
    }
    if label == NO_FACE {
        return left_out("no face");
    }
    let place = LABELS.iter().zip(0_u8..).find(|(_, place)| f64::from(*place) == label);
    match place {
        Some((Expression::Contempt, _)) if no_contempt => left_out("contempt"),
        Some((expression, _)) => Ok(Some(*expression)),
        None => Err(Refusal::bad_label(format!("expression {label} is not one of 0 to 10"))),
    }
}

/// What both layouts say of a picture.
fn marks(
    label: f64,
    affect: [f64; 2],
    landmarks: Option<&[f64]>,
    no_contempt: bool,
) -> Result<Marks, Refusal> {
    let expression = expression(label, no_contempt)?;
    let known = affect.iter().all(|&v| v != NO_AFFECT);
    if expression.is_none() && !known {
        return Err(Refusal::new(Reason::LeftOut, "neither an expression nor valence and arousal"));
    }
    let points = landmarks.map(|values| {
        let refused = || Refusal::bad_label(format!("{} coordinates of landmarks, not 136", values.len()));
        let values: &[f64; 136] = values.try_into().map_err(|_| refused())?;
        Ok(std::array::from_fn(|i| Point::new(values[2 * i] as f32, values[2 * i + 1] as f32)))
    });
    Ok(Marks {
        expression,
        valence_arousal: known.then(|| affect.map(|v| v as f32)),
        landmarks: points.transpose()?,
        ..Marks::default()
    })
}

fn read_first(session: &mut Session<'_>, lists: &Path) -> anyhow::Result<()> {
    let args = session.args;
    let root = first_there(&args.src, &PICTURES).unwrap_or_else(|| args.src.clone());
    let mut entries = Vec::new();
    for (list, tested) in CSVS {
        let path = lists.join(list);
        if path.exists() {
            read_csv(&path, &root, tested, args, &mut entries)?;
        }
    }
    store(session, entries, "training.csv with Manually_Annotated_Images")
}

/// A row of a list, or why it is of no use.
struct Row(Result<Marks, Refusal>);

impl Notes for Row {
    fn marks(&self) -> Result<Marks, Refusal> {
        self.0.clone()
    }
}

const COLUMNS: [&str; 9] = [
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
];

fn read_csv(
    path: &Path,
    root: &Path,
    tested: bool,
    args: &PrepareArgs,
    entries: &mut Vec<Entry<Row>>,
) -> anyhow::Result<()> {
    let at = || path.display().to_string();
    let mut reader = csv::Reader::from_path(path).with_context(at)?;
    let headers = reader.headers().with_context(at)?.clone();
    let mut columns = [0; COLUMNS.len()];
    for (place, name) in columns.iter_mut().zip(COLUMNS) {
        let found = headers.iter().position(|header| header.trim().eq_ignore_ascii_case(name));
        *place = found.with_context(|| format!("{}: column '{name}' is missing", path.display()))?;
    }
    for (record, row) in reader.records().zip(2..) {
        let record = record.with_context(|| format!("{}: row {row}", path.display()))?;
        let cell = |column: usize| record.get(columns[column]).map(str::trim).unwrap_or_default();
        let file = cell(0);
        let name = file.rsplit_once('.').map_or(file, |(name, _)| name);
        let marks = row_marks(cell, args.no_contempt);
        entries.push(Entry::nobody(name, split(name, tested, args), root.join(file), Row(marks)));
    }
    Ok(())
}

fn row_marks<'a>(cell: impl Fn(usize) -> &'a str, no_contempt: bool) -> Result<Marks, Refusal> {
    let number = |column: usize| {
        let text = cell(column);
        let refused = || Refusal::bad_label(format!("{} '{text}' is not a number", COLUMNS[column]));
        text.parse::<f64>().map_err(|_| refused())
    };
    let label = number(6)?;
    // Of a picture that is left out, the rest may be of any kind.
    expression(label, no_contempt)?;
    let affect = [number(7)?, number(8)?];
    let landmarks: Vec<f64> = cell(5).split(';').map_while(|v| v.trim().parse().ok()).collect();
    let marks = marks(label, affect, Some(&landmarks), no_contempt)?;
    let [x, y, w, h] = [number(1)?, number(2)?, number(3)?, number(4)?].map(|v| v as f32);
    Ok(Marks { crop: Some(square_about(&Rect::new(x, y, w, h))), ..marks })
}

fn read_second(session: &mut Session<'_>) -> anyhow::Result<()> {
    let args = session.args;
    let mut entries = Vec::new();
    for (set, tested) in SETS {
        let folder = args.src.join(set);
        if !folder.exists() {
            continue;
        }
        let images = folder.join("images");
        let (_, files) = children(&images).with_context(|| images.display().to_string())?;
        for (_, path) in files.into_iter().filter(|(_, path)| is_picture(path)) {
            let number = stem(&path);
            let name = format!("{set}/{number}");
            let prefix = folder.join("annotations").join(&number);
            let notes = Arrays { prefix, no_contempt: args.no_contempt };
            entries.push(Entry::nobody(&name, split(&name, tested, args), path, notes));
        }
    }
    store(session, entries, "training.csv and validation.csv, or train_set/images and val_set/images,")
}

/// The arrays of a picture: files whose names begin so.
struct Arrays {
    prefix: PathBuf,
    no_contempt: bool,
}

/// Bytes that an array takes at most.
const MOST_BYTES: u64 = 65_536;
/// More values than any array of the set has.
const MOST_VALUES: usize = 1024;

impl Arrays {
    /// The array with this ending, which is one number each where `count` is 1.
    fn array(&self, ending: &str, count: usize) -> Result<Vec<f64>, Refusal> {
        let mut name = self.prefix.clone().into_os_string();
        name.push(ending);
        let path = PathBuf::from(name);
        let file = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let read = read_array(&path).with_context(file);
        let values = read.map_err(|error| Refusal::file(&error))?;
        if values.len() != count {
            return Err(Refusal::bad_label(format!("{} has {} values, not {count}", file(), values.len())));
        }
        Ok(values)
    }
}

impl Notes for Arrays {
    fn marks(&self) -> Result<Marks, Refusal> {
        let label = self.array("_exp.npy", 1)?[0];
        expression(label, self.no_contempt)?;
        let affect = [self.array("_val.npy", 1)?[0], self.array("_aro.npy", 1)?[0]];
        let landmarks = match self.array("_lnd.npy", 136) {
            Ok(landmarks) => Some(landmarks),
            Err(Refusal { reason: Reason::Missing, .. }) => None,
            Err(refusal) => return Err(refusal),
        };
        marks(label, affect, landmarks.as_deref(), self.no_contempt)
    }
}

/// Whether the sides that an array's header names have a small product.
fn shape_is_small(array: &[u8]) -> bool {
    let header = String::from_utf8_lossy(&array[..array.len().min(4096)]);
    let sides = header.split_once("'shape':").and_then(|(_, rest)| rest.split_once('(')?.1.split_once(')'));
    let sides =
        sides.map_or("", |(sides, _)| sides).split(',').map(str::trim).filter(|side| !side.is_empty());
    let product = sides
        .map(|side| side.parse::<u64>().ok())
        .try_fold(1_u64, |product, side| product.checked_mul(side?));
    product.is_some_and(|product| product <= MOST_VALUES as u64)
}

/// The numbers of an array, whose publishers wrote some as text.
fn read_array(path: &Path) -> anyhow::Result<Vec<f64>> {
    let file = File::open(path)?;
    // What a header claims is multiplied without looking by the reader; an array of this set is small.
    let bytes = file.metadata()?.len();
    ensure!(bytes <= MOST_BYTES, "{bytes} bytes, which none of the set's arrays has");
    let mut whole = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut whole)?;
    ensure!(shape_is_small(&whole), "its shape is none of the set's arrays'");
    let file = npyz::NpyFile::new(whole.as_slice())?;
    ensure!(file.len() <= MOST_VALUES as u64, "{} values, which none of the set's arrays has", file.len());
    let file = match file.try_data::<f64>() {
        Ok(values) => return Ok(values.collect::<Result<_, _>>()?),
        Err(file) => file,
    };
    let file = match file.try_data::<f32>() {
        Ok(values) => return Ok(values.map(|v| v.map(f64::from)).collect::<Result<_, _>>()?),
        Err(file) => file,
    };
    let file = match file.try_data::<i64>() {
        Ok(values) => return Ok(values.map(|v| v.map(|v| v as f64)).collect::<Result<_, _>>()?),
        Err(file) => file,
    };
    let file = match file.try_data::<i32>() {
        Ok(values) => return Ok(values.map(|v| v.map(f64::from)).collect::<Result<_, _>>()?),
        Err(file) => file,
    };
    let Ok(texts) = file.try_data::<String>() else {
        bail!("its values are neither numbers nor text");
    };
    texts.map(|text| text?.trim().parse().context("its text is no number")).collect()
}
