//! FER-2013 (Goodfellow et al. 2013): 48x48 grey pictures with seven expressions and three usages.
//!
//! The set names nobody, and its pictures are stills. Each becomes an identity and a video of its own, so that no two
//! pictures are ever taken for neighbours in time.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Context, bail};
use semblance_face::labels::{ACTION_UNITS, Expression};
use semblance_face::{Frame, Landmarker};

use super::in_order::{Stop, Worker};
use super::report::Reason;
use super::{Part, Session, Stored, crop_landmarks, encode_jpeg, open_landmarker};
use crate::store::{Sample, Split};

const SIDE: usize = 48;
const PIXELS: usize = SIDE * SIDE;

/// FER-2013's own order of labels.
const LABELS: [Expression; 7] = [
    Expression::Angry,
    Expression::Disgust,
    Expression::Fear,
    Expression::Happy,
    Expression::Sad,
    Expression::Surprise,
    Expression::Neutral,
];

/// Training, PublicTest, PrivateTest.
const USAGES: [(&str, Split); 3] =
    [("Training", Split::Train), ("PublicTest", Split::Val), ("PrivateTest", Split::Test)];

/// FER+'s order of votes (Barsoum et al. 2016), before "unknown" and "not a face".
const VOTES: [Expression; 8] = [
    Expression::Neutral,
    Expression::Happy,
    Expression::Surprise,
    Expression::Sad,
    Expression::Angry,
    Expression::Disgust,
    Expression::Fear,
    Expression::Contempt,
];
const VOTE_COLUMNS: usize = 10;

const UNITS: usize = ACTION_UNITS.len();

/// The name of each identity's one video.
const VIDEO: &str = "still";

struct Row {
    identity: String,
    pixels: Vec<u8>,
    expression: Expression,
    split: Split,
    votes: Option<[f32; 8]>,
    action_units: Option<[f32; 18]>,
}

pub(super) fn read(session: &mut Session<'_>) -> anyhow::Result<()> {
    let (args, stop) = (session.args, session.stop);
    let path = &args.src;
    let rows = match path.extension().and_then(|e| e.to_str()) {
        Some("npz") => read_npz(path)?,
        Some("csv") => read_csv(path)?,
        _ => bail!("{}: layout fer2013 reads a .csv or an .npz file", path.display()),
    };
    let bundle = args.landmark_bundle()?;
    let rows = session.admit(rows, |row| (&row.identity, VIDEO));
    let rows = rows.into_iter().take_while(|_| !stop.load(Ordering::Relaxed));
    session.store_all(rows, || {
        let landmarker = bundle.as_ref().map(open_landmarker).transpose()?;
        Ok(RowWorker { quality: args.quality(), landmarker })
    })
}

struct RowWorker {
    quality: u8,
    landmarker: Option<Landmarker>,
}

impl Worker<Row> for RowWorker {
    type Output = Part;

    fn work(&mut self, row: &Row, _: &Stop<'_>) -> anyhow::Result<Option<Part>> {
        let side = SIDE as u32;
        let mut part = Part::new(&row.identity);
        part.frames_read = 1;
        let mut sample = Sample {
            expression: Some(row.expression),
            votes: row.votes,
            action_units: row.action_units,
            ..Sample::unlabelled(0.0, row.split)
        };
        if let Some(landmarker) = &mut self.landmarker {
            let frame = Frame::new(side, side, row.pixels.iter().flat_map(|&v| [v; 3]).collect())?;
            sample.landmarks = crop_landmarks(landmarker, &frame)?;
            if sample.landmarks.is_none() {
                part.pass_over(Reason::NoLandmarks, 1, row.identity.clone());
            }
        }
        let jpeg = encode_jpeg(&row.pixels, side, side, 1, self.quality)?;
        part.push(VIDEO, vec![Stored { jpeg, sample }]);
        Ok(Some(part))
    }
}

/// The identity of the picture in this row, counted from 0.
fn identity(row: usize) -> String {
    format!("fer2013-{row:05}")
}

fn expression(label: u64) -> anyhow::Result<Expression> {
    let known = usize::try_from(label).ok().and_then(|i| LABELS.get(i)).copied();
    known.with_context(|| format!("label {label} is not one of 0 to 6"))
}

fn read_csv(path: &Path) -> anyhow::Result<Vec<Row>> {
    let at = || path.display().to_string();
    let mut reader = csv::Reader::from_path(path).with_context(at)?;
    let headers = reader.headers().with_context(at)?.clone();
    let column = |name: &str| {
        headers
            .iter()
            .position(|h| h.trim().eq_ignore_ascii_case(name))
            .with_context(|| format!("{}: column '{name}' is missing", path.display()))
    };
    let columns = (column("emotion")?, column("pixels")?, column("usage")?);
    let mut rows = Vec::new();
    for (i, record) in reader.records().enumerate() {
        let at = || format!("{}: row {}", path.display(), i + 1);
        let record = record.with_context(at)?;
        rows.push(parse_csv_row(identity(i), &record, columns).with_context(at)?);
    }
    Ok(rows)
}

fn parse_csv_row(
    identity: String,
    record: &csv::StringRecord,
    columns: (usize, usize, usize),
) -> anyhow::Result<Row> {
    let field = |i: usize| record.get(i).map(str::trim).unwrap_or_default();
    let label = field(columns.0);
    let label = label.parse().with_context(|| format!("emotion '{label}' is not a number"))?;
    let pixels: Vec<u8> = field(columns.1)
        .split_whitespace()
        .map(|p| p.parse().with_context(|| format!("pixel '{p}' is not a number from 0 to 255")))
        .collect::<anyhow::Result<_>>()?;
    if pixels.len() != PIXELS {
        bail!("{} pixels, not {PIXELS}", pixels.len());
    }
    let usage = field(columns.2);
    let split = USAGES.iter().find(|(name, _)| *name == usage);
    let (_, split) = split.with_context(|| format!("usage '{usage}' is not known"))?;
    Ok(Row {
        identity,
        pixels,
        expression: expression(label)?,
        split: *split,
        votes: None,
        action_units: None,
    })
}

type Npz = npyz::npz::NpzArchive<std::io::BufReader<File>>;

fn read_npz(path: &Path) -> anyhow::Result<Vec<Row>> {
    let at = || path.display().to_string();
    let mut archive = Npz::open(path).with_context(at)?;
    let mut array = |name: &str| self::array::<u8>(&mut archive, name).with_context(at);
    let (image_shape, images) = array("images")?.with_context(|| missing(path, "images"))?;
    let (_, labels) = array("labels")?.with_context(|| missing(path, "labels"))?;
    let (_, usages) = array("usage")?.with_context(|| missing(path, "usage"))?;
    let votes = array("ferplus_votes")?;
    let units = self::array::<f32>(&mut archive, "action_units").with_context(at)?;
    let count = labels.len();
    if image_shape != [count as u64, SIDE as u64, SIDE as u64] || usages.len() != count {
        bail!(
            "{}: images {image_shape:?}, labels [{count}] and usage [{}] do not fit: [n, 48, 48], [n], [n] are needed",
            path.display(),
            usages.len()
        );
    }
    if let Some((shape, _)) =
        votes.as_ref().filter(|(shape, _)| *shape != [count as u64, VOTE_COLUMNS as u64])
    {
        bail!("{}: ferplus_votes is {shape:?}, not [{count}, {VOTE_COLUMNS}]", path.display());
    }
    if let Some((shape, _)) = units.as_ref().filter(|(shape, _)| *shape != [count as u64, UNITS as u64]) {
        bail!("{}: action_units is {shape:?}, not [{count}, {UNITS}]", path.display());
    }
    (0..count)
        .map(|i| {
            let at = || format!("{}: row {}", path.display(), i + 1);
            let usage = USAGES
                .get(usize::from(usages[i]))
                .with_context(|| format!("usage {} is not known", usages[i]));
            Ok(Row {
                identity: identity(i),
                pixels: images[i * PIXELS..(i + 1) * PIXELS].to_vec(),
                expression: expression(u64::from(labels[i])).with_context(at)?,
                split: usage.with_context(at)?.1,
                votes: votes
                    .as_ref()
                    .and_then(|(_, v)| soft_label(&v[i * VOTE_COLUMNS..(i + 1) * VOTE_COLUMNS])),
                action_units: units.as_ref().and_then(|(_, v)| intensities(&v[i * UNITS..(i + 1) * UNITS])),
            })
        })
        .collect()
}

fn missing(path: &Path, name: &str) -> String {
    format!("{}: the array '{name}' is missing", path.display())
}

/// Intensities of a row, NaN for those that nobody judged; `None` where nobody judged any.
fn intensities(units: &[f32]) -> Option<[f32; UNITS]> {
    let units: [f32; UNITS] = units.try_into().ok()?;
    units.iter().any(|v| !v.is_nan()).then_some(units)
}

/// Shape and values of an array; `None` where the archive has no array of this name.
fn array<T: npyz::Deserialize>(archive: &mut Npz, name: &str) -> anyhow::Result<Option<(Vec<u64>, Vec<T>)>> {
    let Some(file) = archive.by_name(name).with_context(|| format!("array '{name}'"))? else {
        return Ok(None);
    };
    let shape = file.shape().to_vec();
    let values = file.into_vec::<T>().with_context(|| format!("array '{name}'"))?;
    Ok(Some((shape, values)))
}

/// Shares of the votes for expressions, in the project's order; `None` where nobody voted for one.
fn soft_label(votes: &[u8]) -> Option<[f32; 8]> {
    let total: u32 = votes[..VOTES.len()].iter().map(|&v| u32::from(v)).sum();
    let mut shares = [0.0; 8];
    for (expression, &count) in VOTES.iter().zip(votes) {
        shares[expression.index()] = f32::from(count) / total as f32;
    }
    (total > 0).then_some(shares)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn votes_become_shares_in_our_order() {
        let shares = soft_label(&[1, 4, 0, 0, 0, 0, 0, 3, 2, 0]).unwrap();
        assert_eq!(shares[Expression::Happy.index()], 0.5);
        assert_eq!(shares[Expression::Contempt.index()], 0.375);
        assert_eq!(shares.iter().sum::<f32>(), 1.0);
        assert_eq!(soft_label(&[0, 0, 0, 0, 0, 0, 0, 0, 9, 1]), None);
    }
}
