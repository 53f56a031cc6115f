//! What folders hold that a report can tell of.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::checkpoint::{self, Checkpoint, Meta};
use crate::command;
use crate::pretrain::{OnlineScores, StepMetrics};
use crate::saliency::{self, Album};
use crate::table::TableReport;

/// How deep folders are looked through.
const DEPTH: usize = 4;
/// JSON files that are larger are something else.
const MOST_BYTES: u64 = 16 << 20;

/// What was found, each by the path of its file or folder, in their order.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) tables: BTreeMap<PathBuf, TableReport>,
    pub(super) evaluations: BTreeMap<PathBuf, Value>,
    pub(super) runs: BTreeMap<PathBuf, RunFound>,
    pub(super) albums: BTreeMap<PathBuf, Album>,
    /// What could not be read, and why.
    pub(super) left_out: Vec<String>,
}

/// A run.
#[derive(Debug)]
pub(super) struct RunFound {
    pub(super) meta: Meta,
    /// SHA-256 of the checkpoint file.
    pub(super) hash: String,
    pub(super) metrics: Vec<StepMetrics>,
    pub(super) online: Vec<OnlineScores>,
    /// The command lines that wrote it.
    pub(super) commands: Vec<String>,
}

impl Found {
    /// Looks through folders.
    ///
    /// # Errors
    /// Where a folder is not there.
    pub(super) fn look(folders: &[PathBuf]) -> anyhow::Result<Self> {
        let mut found = Self::default();
        for folder in folders {
            if !folder.is_dir() {
                bail!("{}: no such folder", folder.display());
            }
            for entry in WalkDir::new(folder).max_depth(DEPTH).sort_by_file_name() {
                match entry {
                    Ok(entry) if entry.file_type().is_file() => found.take(entry.path()),
                    Ok(_) => {}
                    Err(error) => found.left_out.push(error.to_string()),
                }
            }
        }
        Ok(found)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
            && self.evaluations.is_empty()
            && self.runs.is_empty()
            && self.albums.is_empty()
    }

    /// Keeps what a file holds, where it is something that is told of.
    fn take(&mut self, path: &Path) {
        if let Err(error) = self.read(path) {
            self.left_out.push(format!("{}: {error:#}", path.display()));
        }
    }

    fn read(&mut self, path: &Path) -> anyhow::Result<()> {
        let folder = path.parent().unwrap_or(path).to_owned();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == checkpoint::FILE_NAME {
            let run = RunFound::read(&folder, path)?;
            self.runs.insert(folder, run);
        } else if name == saliency::FILE_NAME {
            let album = serde_json::from_slice(&fs::read(path)?)?;
            self.albums.insert(folder, album);
        } else if Path::new(name).extension().is_some_and(|e| e == "json")
            && fs::metadata(path)?.len() <= MOST_BYTES
        {
            // Of other programs' files nothing is expected.
            let Ok(value) = serde_json::from_slice::<Value>(&fs::read(path)?) else { return Ok(()) };
            if value.get("rows").is_some() && value.get("orders").is_some() {
                self.tables.insert(path.to_owned(), serde_json::from_value(value)?);
            } else if value.get("task").is_some() && value.get("protocol").is_some() {
                self.evaluations.insert(path.to_owned(), value);
            }
        }
        Ok(())
    }
}

impl RunFound {
    fn read(folder: &Path, checkpoint: &Path) -> anyhow::Result<Self> {
        let hash = Sha256::digest(fs::read(checkpoint)?);
        let meta = Checkpoint::load(checkpoint)?.meta;
        let commands = match fs::read_to_string(folder.join(command::FILE_NAME)) {
            Ok(text) => text.lines().map(str::to_owned).collect(),
            Err(_) => Vec::new(),
        };
        Ok(Self {
            meta,
            hash: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            metrics: lines(&folder.join("metrics.jsonl"))?,
            online: lines(&folder.join("online.jsonl"))?,
            commands,
        })
    }
}

/// The lines of a file of JSON lines; none where there is no file. What a run that is under way wrote of its last line is left.
fn lines<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    let Ok(file) = File::open(path) else { return Ok(Vec::new()) };
    let mut lines = BufReader::new(file).lines().peekable();
    let mut values = Vec::new();
    while let Some(line) = lines.next() {
        let at = || format!("{}, line {}", path.display(), values.len() + 1);
        match serde_json::from_str(&line.with_context(at)?) {
            Ok(value) => values.push(value),
            Err(_) if lines.peek().is_none() => break,
            Err(error) => return Err(error).with_context(at),
        }
    }
    Ok(values)
}
