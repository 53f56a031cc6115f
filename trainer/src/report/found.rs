//! What folders hold that a report can tell of.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::bail;
use serde::de::DeserializeOwned;
use serde_json::Value;
use walkdir::WalkDir;

use crate::checkpoint::{self, Checkpoint, Meta};
use crate::command;
use crate::pretrain::{OnlineScores, StepMetrics};
use crate::saliency::{self, Album};
use crate::table::TableReport;

/// How deep folders are looked through; links to folders are not followed.
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
    /// Of the checkpoint file.
    pub(super) sha256: String,
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
            let run = RunFound::read(&folder, path, &mut self.left_out)?;
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
    /// What is damaged beside the checkpoint goes to `left_out`.
    fn read(folder: &Path, checkpoint: &Path, left_out: &mut Vec<String>) -> anyhow::Result<Self> {
        let bytes = fs::read(checkpoint)?;
        let Checkpoint { meta, sha256, .. } = Checkpoint::parse(checkpoint.to_owned(), &bytes)?;
        let commands = match fs::read_to_string(folder.join(command::FILE_NAME)) {
            Ok(text) => text.lines().map(str::to_owned).collect(),
            Err(_) => Vec::new(),
        };
        Ok(Self {
            meta,
            sha256,
            metrics: lines(&folder.join("metrics.jsonl"), left_out),
            online: lines(&folder.join("online.jsonl"), left_out),
            commands,
        })
    }
}

/// The lines of a file of JSON lines; none where there is no file. What a run that is under way wrote of its last line is left; what is
/// damaged otherwise, too, and that is told.
fn lines<T: DeserializeOwned>(path: &Path, left_out: &mut Vec<String>) -> Vec<T> {
    let Ok(text) = fs::read(path) else { return Vec::new() };
    let mut values = Vec::new();
    let mut damaged = 0;
    let mut lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).peekable();
    while let Some(line) = lines.next() {
        match serde_json::from_slice(line) {
            Ok(value) => values.push(value),
            Err(_) if lines.peek().is_none() => {}
            Err(_) => damaged += 1,
        }
    }
    if damaged > 0 {
        left_out.push(format!("{}: {damaged} damaged lines", path.display()));
    }
    values
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn damaged_lines_are_told_and_the_rest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        // A loss that is not a number, and a line that is still being written.
        fs::write(&path, "{\"a\":1}\n{\"a\":null}\n{\"a\":3}\n{\"a").unwrap();
        #[derive(serde::Deserialize)]
        struct A {
            a: f64,
        }
        let mut left_out = Vec::new();
        let values: Vec<f64> = lines::<A>(&path, &mut left_out).into_iter().map(|line| line.a).collect();
        assert_eq!(values, [1.0, 3.0]);
        assert!(left_out.len() == 1 && left_out[0].contains("1 damaged"), "{left_out:?}");
        assert!(lines::<A>(&dir.path().join("none"), &mut left_out).is_empty() && left_out.len() == 1);
    }
}
