//! EmotioNet (Benitez-Quiroz, Srinivasan & Martinez 2016): addresses of pictures from the web with their action units.
//!
//! The challenge's lists (`dataFile_0001.txt` and so on) have a line a picture, its fields apart by tabs: the picture's
//! address, the address that it came from, then AU1, AU2, and so on up to AU60, each 1, 0, or 999 where it was not judged;
//! -1 is taken for the same. A list whose first line names its columns (`URL`, `AU1`, ..) is read by those names, apart by
//! tabs or commas. Pictures are looked for by the file name of their address, anywhere up to three folders below the
//! source. Nothing is published of a split that everybody can use: validation by a hash of the picture's name.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use semblance_face::frame::is_picture;

use super::super::Session;
use super::super::pictures::{Marks, Notes, Refusal};
use super::super::report::Reason;
use super::super::tree::children;
use super::{Entry, UNKNOWN_UNITS, at, lines, stem, store, train_split, unit_number, unit_place};

/// Folders below the source in which pictures are looked for.
const MAX_FOLDERS: usize = 3;
/// The last of the action units that the lists have.
const LAST_UNIT: u64 = 60;
/// What the lists have for what nobody judged.
const UNJUDGED: [&str; 3] = ["999", "-1", ""];

/// Of each column, the place of its action unit among ours, and its number.
type Columns = Vec<Option<(usize, u64)>>;

/// The action units of a picture, or why they are of no use.
struct Row(Result<[f32; 18], String>);

impl Notes for Row {
    fn marks(&self) -> Result<Marks, Refusal> {
        match &self.0 {
            Ok(units) if units.iter().all(|unit| unit.is_nan()) => {
                Err(Refusal::new(Reason::NoLabel, "no action unit was judged"))
            }
            Ok(units) => Ok(Marks { action_units: Some(*units), ..Marks::default() }),
            Err(why) => Err(Refusal::bad_label(why.clone())),
        }
    }
}

pub(super) fn read(session: &mut Session<'_>) -> anyhow::Result<()> {
    let args = session.args;
    let (_, files) = children(&args.src).with_context(|| args.src.display().to_string())?;
    let mut pictures = HashMap::new();
    let mut twice = HashSet::new();
    find_pictures(&args.src, MAX_FOLDERS, &mut pictures, &mut twice);
    let mut entries = Vec::new();
    for (_, list) in files {
        if !list.extension().is_some_and(|e| e == "txt" || e == "csv") {
            continue;
        }
        let lines = lines(&list)?;
        let columns = lines.first().and_then(|(_, line)| named_columns(line));
        for (number, line) in &lines[usize::from(columns.is_some())..] {
            let (file, row) = match parse(line, columns.as_ref()) {
                Ok(parsed) => parsed,
                Err(error) => {
                    session.report.add(Reason::BadLabel, 1, format!("{}: {error}", at(&list, *number)));
                    continue;
                }
            };
            if twice.contains(&file) {
                session.report.add(Reason::NameTaken, 1, format!("{file}: several pictures have this name"));
                continue;
            }
            let name = stem(Path::new(&file));
            let path = pictures.get(&file).cloned().unwrap_or_else(|| args.src.join(&file));
            entries.push(Entry::nobody(&name, train_split(&name, args), path, row));
        }
    }
    store(session, entries, "a list of addresses and action units (.txt)")
}

/// Pictures by their file names, and the names that several have. A folder that cannot be read has none; those that are
/// missed are told of one by one.
fn find_pictures(
    folder: &Path,
    deeper: usize,
    found: &mut HashMap<String, PathBuf>,
    twice: &mut HashSet<String>,
) {
    let Ok((folders, files)) = children(folder) else { return };
    for (name, path) in files.into_iter().filter(|(_, path)| is_picture(path)) {
        if found.insert(name.clone(), path).is_some() {
            twice.insert(name);
        }
    }
    if deeper > 0 {
        folders.iter().for_each(|(_, folder)| find_pictures(folder, deeper - 1, found, twice));
    }
}

fn fields(line: &str) -> impl Iterator<Item = &str> {
    let separator = if line.contains('\t') { '\t' } else { ',' };
    line.split(separator).map(str::trim)
}

fn column(unit: u64) -> Option<(usize, u64)> {
    Some((unit_place(unit)?, unit))
}

/// The columns after the first, where a line names them.
fn named_columns(line: &str) -> Option<Columns> {
    let is_named = |cell: &str| cell.to_ascii_uppercase().starts_with("AU");
    let is_head = fields(line).skip(1).any(is_named);
    let columns = || fields(line).skip(1).map(|cell| unit_number(cell).and_then(column)).collect();
    is_head.then(columns)
}

/// The file's name and the action units of a line.
fn parse(line: &str, named: Option<&Columns>) -> anyhow::Result<(String, Row)> {
    let mut cells = fields(line).peekable();
    let address = cells.next().unwrap_or_default();
    let file = address.rsplit(['/', '\\']).next().unwrap_or_default();
    ensure!(is_picture(Path::new(file)), "'{address}' is no address of a picture");
    let positional: Columns;
    let columns = match named {
        Some(columns) => columns,
        None => {
            cells.next_if(|cell| cell.parse::<f64>().is_err());
            positional = (1..=LAST_UNIT).map(column).collect();
            &positional
        }
    };
    Ok((file.to_owned(), Row(units(cells, columns))))
}

fn units<'a>(cells: impl Iterator<Item = &'a str>, columns: &Columns) -> Result<[f32; 18], String> {
    let mut units = UNKNOWN_UNITS;
    for (cell, column) in cells.zip(columns) {
        let Some((place, unit)) = *column else { continue };
        match cell {
            "0" => units[place] = 0.0,
            "1" => units[place] = 1.0,
            unjudged if UNJUDGED.contains(&unjudged) => {}
            other => return Err(format!("'{other}' for AU{unit} is none of 0, 1 and 999")),
        }
    }
    Ok(units)
}
