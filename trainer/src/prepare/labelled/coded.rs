//! DISFA (Mavadati et al. 2013), BP4D (Zhang et al. 2014) and GFT (Girard et al. 2017): videos of which experts coded
//! every frame's action units.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use semblance_face::frame::is_picture;

use super::super::pictures::{Marks, Notes, Picture, Refusal};
use super::super::report::{Reason, Report};
use super::super::tree::{children, frame_number, relative};
use super::super::{PrepareArgs, Session};
use super::{
    Entry, Frames, UNKNOWN_UNITS, first_there, lines, needed, stem, store, train_split, unit_number,
    unit_place,
};
use crate::store::Split;

/// The codes of a frame.
enum Codes {
    /// In the order of [`semblance_face::labels::ACTION_UNITS`], NaN for those that nobody judged.
    Units([f32; 18]),
    /// What is wrong with them.
    Bad(String),
}

impl Notes for Codes {
    fn marks(&self) -> Result<Marks, Refusal> {
        match self {
            Self::Units(units) => Ok(Marks { action_units: Some(*units), ..Marks::default() }),
            Self::Bad(why) => Err(Refusal::bad_label(why.clone())),
        }
    }
}

/// Codes by the number of their frame.
type Table = HashMap<u64, Codes>;

/// Sets an action unit of a frame, whose codes stay bad once one of them is.
fn set(table: &mut Table, frame: u64, place: usize, value: Result<f32, String>) {
    let codes = table.entry(frame).or_insert(Codes::Units(UNKNOWN_UNITS));
    match (codes, value) {
        (Codes::Units(units), Ok(value)) => units[place] = value,
        (Codes::Bad(_), _) => {}
        (codes, Err(why)) => *codes = Codes::Bad(why),
    }
}

/// A video of one subject.
struct Recording {
    identity: String,
    video: String,
    split: Split,
    fps: f64,
    /// The folder of its frames, whose names hold their numbers.
    folder: PathBuf,
}

impl Recording {
    /// The recording with the codes of its frames. Frames without codes, and codes without a frame, are noted.
    fn entry(self, mut table: Table, root: &Path, report: &mut Report) -> Entry<Codes> {
        let name = relative(&self.folder, root);
        let files = match children(&self.folder) {
            Ok((_, files)) => files,
            Err(error) => {
                report.add(Reason::Unreadable, 1, format!("{name} ({error})"));
                Vec::new()
            }
        };
        let mut numbered: Vec<(Option<u64>, PathBuf)> = files
            .into_iter()
            .filter(|(_, path)| is_picture(path))
            .map(|(file, path)| (frame_number(&file), path))
            .collect();
        numbered.sort();
        let mut pictures = Vec::with_capacity(numbered.len());
        let mut uncoded = 0;
        for (number, path) in numbered {
            match number.and_then(|number| Some((number, table.remove(&number)?))) {
                Some((number, notes)) => {
                    pictures.push(Picture { path, t_secs: number as f64 / self.fps, notes });
                }
                None => uncoded += 1,
            }
        }
        note(report, Reason::NoLabel, uncoded, &name);
        note(report, Reason::Missing, table.len() as u64, &name);
        let Self { identity, video, split, .. } = self;
        Entry { identity, video, split, frames: Frames::Files(pictures) }
    }
}

/// Notes so many frames of one folder, unless there are none.
fn note(report: &mut Report, reason: Reason, count: u64, folder: &str) {
    if count > 0 {
        report.add(reason, count, format!("{folder} ({count} frames)"));
    }
}

/// DISFA's twelve action units.
const DISFA_UNITS: [u64; 12] = [1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26];
const DISFA_FPS: f64 = 20.0;
/// The highest of the levels that DISFA's coders gave, from 0.
const DISFA_LEVELS: f32 = 5.0;

/// DISFA as it is published: for each subject `ActionUnit_Labels/SN001/SN001_au1.txt` and so on with lines `frame,level`,
/// frames from 1 and levels from 0 to 5, which are stored as intensities from 0 to 1. Frames are read from
/// `Images/SN001/`, numbered from 1, where somebody extracted them, else from `Videos_LeftCamera/LeftVideoSN001_comp.avi`
/// (`Video_LeftCamera` in some copies). Without a published split: validation by a hash of the subject.
pub(super) fn read_disfa(session: &mut Session<'_>) -> anyhow::Result<()> {
    let args = session.args;
    let labels = needed(&args.src, &["ActionUnit_Labels"])?;
    let (subjects, _) = children(&labels).with_context(|| labels.display().to_string())?;
    let mut entries = Vec::new();
    for (subject, folder) in subjects {
        let table = disfa_codes(&subject, &folder, &args.src, &mut session.report)?;
        let split = train_split(&subject, args);
        let frames = args.src.join("Images").join(&subject);
        let film = ["Videos_LeftCamera", "Video_LeftCamera"]
            .map(|folder| args.src.join(folder).join(format!("LeftVideo{subject}_comp.avi")));
        if frames.is_dir() {
            let video = "left".to_owned();
            let recording = Recording { identity: subject, video, split, fps: DISFA_FPS, folder: frames };
            entries.push(recording.entry(table, &args.src, &mut session.report));
        } else if let Some(film) = film.into_iter().find(|film| film.exists()) {
            let frames = Frames::Film(film, table);
            entries.push(Entry { identity: subject, video: "left".to_owned(), split, frames });
        } else {
            let what = format!("{subject} (neither Images/{subject} nor its video in Videos_LeftCamera)");
            session.report.add(Reason::Missing, 1, what);
        }
    }
    store(session, entries, "ActionUnit_Labels with Images or Videos_LeftCamera")
}

fn disfa_codes(subject: &str, folder: &Path, root: &Path, report: &mut Report) -> anyhow::Result<Table> {
    let mut table = Table::new();
    for unit in DISFA_UNITS {
        let path = folder.join(format!("{subject}_au{unit}.txt"));
        let Some(place) = unit_place(unit) else { continue };
        if !path.exists() {
            report.add(Reason::Missing, 1, relative(&path, root));
            continue;
        }
        for (number, line) in lines(&path)? {
            let fields = line
                .split_once(',')
                .and_then(|(frame, level)| Some((frame.trim().parse().ok()?, level.trim())));
            let Some((frame, level)) = fields else {
                report.add(
                    Reason::BadLabel,
                    1,
                    format!("{}: line {number} ('{line}')", relative(&path, root)),
                );
                continue;
            };
            let value = level.parse::<f32>().ok().filter(|level| (0.0..=DISFA_LEVELS).contains(level));
            let refused = || format!("level {level} of AU{unit} is not from 0 to 5");
            set(&mut table, frame, place, value.map(|level| level / DISFA_LEVELS).ok_or_else(refused));
        }
    }
    Ok(table)
}

const BP4D_FPS: f64 = 25.0;

/// BP4D and BP4D+ as they are published: `AUCoding/F001_T1.csv` (FERA's copy; BP4D+ has `AUCoding/AU_OCC/F001_T1.csv`, the
/// first release `F001_T1_AU_OCC.csv`), whose first row has the numbers of the action units and whose first column has
/// those of the frames; a code is 1, 0, or 9 where it is not known. The frames are
/// `Sequences/F001/T1/0001.jpg`, or `2D+3D/`, `BP4D/` or nothing in place of `Sequences/`. A subject's task is a video;
/// without a published split, validation by a hash of the subject.
pub(super) fn read_bp4d(session: &mut Session<'_>) -> anyhow::Result<()> {
    let args = session.args;
    let coding = needed(&args.src, &["AUCoding/AU_OCC", "AUCoding"])?;
    let (_, files) = children(&coding).with_context(|| coding.display().to_string())?;
    let mut entries = Vec::new();
    for (_, path) in files.into_iter().filter(|(_, path)| is_csv(path)) {
        let name = stem(&path);
        let mut parts = name.split('_');
        let (Some(subject), Some(task)) = (parts.next(), parts.next()) else {
            session.report.add(Reason::Outside, 1, relative(&path, &args.src));
            continue;
        };
        let folders = ["Sequences", "2D+3D", "BP4D", "."].map(|root| format!("{root}/{subject}/{task}"));
        let Some(folder) = first_there(&args.src, &folders.each_ref().map(String::as_str)) else {
            session.report.add(Reason::Missing, 1, format!("{subject}/{task} (no folder of its frames)"));
            continue;
        };
        let Some(table) = occurrences(&path, args, &mut session.report) else { continue };
        let recording = Recording {
            identity: subject.to_owned(),
            video: task.to_owned(),
            split: train_split(subject, args),
            fps: BP4D_FPS,
            folder,
        };
        entries.push(recording.entry(table, &args.src, &mut session.report));
    }
    store(session, entries, "AUCoding/F001_T1.csv with Sequences/F001/T1")
}

const GFT_FPS: f64 = 30.0;

/// GFT. What is public tells of 96 subjects named as `001A`, a minute each, with occurrences as CSV a subject; how the
/// pictures lie is not described where anyone can read it. Relied on here: `images/001A/frame12.jpg` with the frame's
/// number as the last one in the name, `aucoding/001A.csv` with a row of names (frame, then action units as `1` or `AU1`),
/// codes 1, 0, or 9 where not known, and the published partition as `train.csv` and `test.csv`, any cell of which names a
/// subject. Without `test.csv` nobody is in the test split. 30 frames a second.
pub(super) fn read_gft(session: &mut Session<'_>) -> anyhow::Result<()> {
    let args = session.args;
    let coding = needed(&args.src, &["aucoding", "AUCoding"])?;
    let images = needed(&args.src, &["images", "Images"])?;
    let tested = match first_there(&args.src, &["test.csv", "aucoding/test.csv", "AUCoding/test.csv"]) {
        Some(list) => cells(&list)?,
        None => Vec::new(),
    };
    let (_, files) = children(&coding).with_context(|| coding.display().to_string())?;
    let is_coded = |subject: &String| files.iter().any(|(_, path)| stem(path) == *subject);
    ensure!(
        tested.is_empty() || tested.iter().any(is_coded),
        "{}: test.csv names nobody of {}: subjects are to be named as their files are, 001A",
        args.src.display(),
        coding.display()
    );
    // The head of the column names nobody.
    for other in tested.iter().filter(|cell| !is_coded(cell)).skip(1) {
        session.report.add(Reason::Missing, 1, format!("{other} (of test.csv, but not coded)"));
    }
    let mut entries = Vec::new();
    for (name, path) in files.into_iter().filter(|(_, path)| is_csv(path)) {
        if ["train.csv", "test.csv"].contains(&name.as_str()) {
            continue;
        }
        let subject = stem(&path);
        let folder = images.join(&subject);
        if !folder.is_dir() {
            session.report.add(Reason::Missing, 1, format!("{subject} (no folder of its frames)"));
            continue;
        }
        let Some(table) = occurrences(&path, args, &mut session.report) else { continue };
        let split = if tested.contains(&subject) { Split::Test } else { train_split(&subject, args) };
        let video = "frames".to_owned();
        let recording = Recording { identity: subject, video, split, fps: GFT_FPS, folder };
        entries.push(recording.entry(table, &args.src, &mut session.report));
    }
    store(session, entries, "aucoding/001A.csv with images/001A")
}

fn is_csv(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv"))
}

/// Every cell of a CSV file, headers too.
fn cells(path: &Path) -> anyhow::Result<Vec<String>> {
    let lines = lines(path)?;
    let cells = lines.iter().flat_map(|(_, line)| line.split(','));
    Ok(cells.map(|cell| cell.trim().trim_matches('"').to_owned()).collect())
}

/// The codes of a CSV with a row a frame; `None` where it cannot be read, which is noted.
fn occurrences(path: &Path, args: &PrepareArgs, report: &mut Report) -> Option<Table> {
    let name = relative(path, &args.src);
    match try_occurrences(path, &name, report) {
        Ok(table) => Some(table),
        Err(error) => {
            let Refusal { reason, why } = Refusal::file(&error);
            report.add(reason, 1, format!("{name} ({why})"));
            None
        }
    }
}

fn try_occurrences(path: &Path, name: &str, report: &mut Report) -> anyhow::Result<Table> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(File::open(path)?);
    // Of each column after the first, the action unit's place among ours, and its number.
    let columns: Vec<Option<(usize, u64)>> = (reader.headers()?.iter().skip(1))
        .map(|cell| unit_number(cell).and_then(|unit| Some((unit_place(unit)?, unit))))
        .collect();
    anyhow::ensure!(columns.iter().any(Option::is_some), "its first row names no action unit");
    let mut table = Table::new();
    for (record, row) in reader.records().zip(2..) {
        let record = record?;
        let Some(frame) = record.get(0).and_then(|cell| cell.trim().parse().ok()) else {
            report.add(Reason::BadLabel, 1, format!("{name}: row {row} begins with no frame's number"));
            continue;
        };
        for (cell, column) in record.iter().skip(1).zip(&columns) {
            let Some((place, unit)) = *column else { continue };
            let value = match cell.trim() {
                "0" => Ok(0.0),
                "1" => Ok(1.0),
                "9" | "" => Ok(f32::NAN),
                other => Err(format!("'{other}' for AU{unit} is none of 0, 1 and 9")),
            };
            set(&mut table, frame, place, value);
        }
    }
    Ok(table)
}
