//! Recordings of `edge run --record`: labelled moments out of JSON lines.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use serde::Deserialize;
use thiserror::Error;

use crate::dataset::{Dataset, DatasetError, Label, Moment};
use crate::heads::MAX_LABELS;

/// A pause between two labelled frames from which on they belong to different blocks.
const PAUSE_SECS: f64 = 1.0;
/// Longest block: a rating that goes on for minutes is judged in stretches.
const BLOCK_SECS: f64 = 5.0;

/// Why a recording could not be read.
#[derive(Debug, Error)]
pub enum RecordingError {
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line is no row of a recording.
    #[error("line {line}: {reason}")]
    Row {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Names of the rows that labels are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Rows of the expression head.
    pub expressions: Vec<String>,
    /// Rows of the action units' head.
    pub action_units: Vec<String>,
}

#[derive(Deserialize)]
struct Row {
    t: f64,
    track: u64,
    embedding: Vec<f32>,
    #[serde(default)]
    label: Option<Said>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    expression: Option<String>,
    valence: Option<f32>,
    arousal: Option<f32>,
    #[serde(default)]
    au: BTreeMap<String, f32>,
}

/// Where blocks begin: with another face, another expression, after a pause, or when one grows long.
#[derive(Default)]
struct Blocks {
    next: u32,
    /// Of the last moment: its face, its expression, its time and when its block began.
    last: Option<(u64, Option<u8>, f64, f64)>,
}

impl Blocks {
    fn of(&mut self, track: u64, expression: Option<u8>, t: f64) -> u32 {
        let goes_on = self.last.filter(|&(face, before, then, began)| {
            face == track
                && before == expression
                && (0.0..=PAUSE_SECS).contains(&(t - then))
                && t - began <= BLOCK_SECS
        });
        let began = goes_on.map_or(t, |(.., began)| began);
        if goes_on.is_none() {
            self.next += 1;
        }
        self.last = Some((track, expression, t, began));
        self.next - 1
    }
}

/// The labelled rows of a recording with embeddings of `dim` values; blocks are numbered from 0. The second value counts
/// all rows.
///
/// # Errors
/// [`RecordingError`], which names the line: one that is no row (the last one of a recording that was cut off is passed
/// over), an embedding of another size, a label that no head has, valence without arousal.
pub fn read(input: impl BufRead, dim: usize, names: &Names) -> Result<(Dataset, usize), RecordingError> {
    let (mut data, mut rows, mut blocks) = (Dataset::new(dim), 0, Blocks::default());
    let mut cut: Option<RecordingError> = None;
    for (number, line) in input.lines().enumerate() {
        if let Some(error) = cut.take() {
            return Err(error);
        }
        let line = line?;
        let fail = |reason: String| RecordingError::Row { line: number + 1, reason };
        let row: Row = match serde_json::from_str(&line) {
            Ok(row) => row,
            // Only the last line may have been cut off.
            Err(error) if error.is_eof() => {
                cut = Some(fail(error.to_string()));
                continue;
            }
            Err(error) => return Err(fail(error.to_string())),
        };
        rows += 1;
        let Some(said) = row.label else { continue };
        let label = said.label(names).map_err(fail)?;
        let block = blocks.of(row.track, label.expression, row.t);
        let moment = Moment { t_secs: row.t, block, label };
        data.push(moment, &row.embedding).map_err(|error: DatasetError| fail(error.to_string()))?;
    }
    Ok((data, rows))
}

impl Said {
    fn label(&self, names: &Names) -> Result<Label, String> {
        let row = |name: &str, rows: &[String]| {
            let known = || format!("'{name}' is no label of the bundle's head (it has {})", rows.join(", "));
            rows.iter().position(|known| known == name).ok_or_else(known)
        };
        let expression = match &self.expression {
            Some(name) => Some(row(name, &names.expressions)? as u8),
            None => None,
        };
        let valence_arousal = match (self.valence, self.arousal) {
            (Some(valence), Some(arousal)) => Some([valence, arousal]),
            (None, None) => None,
            _ => return Err("valence and arousal are rated together: one of them is missing".to_owned()),
        };
        let mut units = [f32::NAN; MAX_LABELS];
        for (name, value) in &self.au {
            units[row(name, &names.action_units)?] = *value;
        }
        let action_units = (!self.au.is_empty()).then_some(units);
        Ok(Label { expression, valence_arousal, action_units })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names() -> Names {
        let of = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect();
        Names { expressions: of(&["neutral", "happy"]), action_units: of(&["AU06", "AU12"]) }
    }

    fn row(t: f64, label: &str) -> String {
        format!("{{\"t\":{t},\"frame\":1,\"track\":1,\"embedding\":[1.5,-2.0]{label}}}\n")
    }

    fn happy(t: f64) -> String {
        row(t, ",\"label\":{\"expression\":\"happy\"}")
    }

    #[test]
    fn labels_are_read_and_blocks_are_stretches_of_time() {
        let rating = row(20.0, ",\"label\":{\"valence\":0.5,\"arousal\":-0.25,\"au\":{\"AU12\":1.0}}");
        let calm = row(3.4, ",\"label\":{\"expression\":\"neutral\"}");
        let long: String = (0..8).map(|i| happy(10.0 + f64::from(i))).collect();
        let text = [happy(0.0), happy(0.4), row(0.5, ""), happy(3.0), calm, long, rating].concat();
        let (data, rows) = read(text.as_bytes(), 2, &names()).unwrap();
        assert_eq!((data.len(), rows), (13, 14));
        let blocks: Vec<u32> = data.moments().iter().map(|moment| moment.block).collect();
        // A pause, another expression, a stretch of more than five seconds, a rating.
        assert_eq!(blocks, [0, 0, 1, 2, 3, 3, 3, 3, 3, 3, 4, 4, 5]);
        let last = data.moments()[12].label;
        assert_eq!((last.expression, last.valence_arousal), (None, Some([0.5, -0.25])));
        let units = last.action_units.unwrap();
        assert!(units[0].is_nan() && units[1] == 1.0);
        assert_eq!(data.embedding(0), [1.5, -2.0]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_a_cut_end_is_passed_over() {
        let fail = |text: String| read(text.as_bytes(), 2, &names()).unwrap_err().to_string();
        let message = fail(happy(0.0) + &row(1.0, ",\"label\":{\"expression\":\"glad\"}"));
        assert!(
            message.contains("line 2") && message.contains("'glad'") && message.contains("happy"),
            "{message}"
        );
        assert!(fail(row(0.0, ",\"label\":{\"valence\":0.1}")).contains("together"));
        assert!(fail(row(0.0, ",\"label\":{\"mood\":1}")).contains("mood"));
        assert!(fail(row(0.0, ",\"label\":{\"valence\":3,\"arousal\":0}")).contains("out of its range"));
        assert!(fail(happy(0.0).replace(",-2.0", "")).contains("an embedding of 1 values where 2"));
        assert!(fail("no json\n".to_owned()).contains("line 1"));
        let cut = &happy(1.0)[..30];
        assert_eq!(read((happy(0.0) + cut).as_bytes(), 2, &names()).unwrap().0.len(), 1);
        assert!(fail(happy(0.0) + cut + "\n" + &happy(2.0)).contains("line 2"));
    }
}
