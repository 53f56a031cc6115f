//! Pictures whose faces are labelled: folders with a `faces.csv`, and rendered scenes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rayon::prelude::*;
use semblance_face::{Detection, Frame, Point, Rect};
use semblance_synth::{ClipSource, Framing, Labels, RenderOptions};

use crate::data::mix;
use crate::progress;

/// The list's name in its folder.
pub const LIST: &str = "faces.csv";

/// One identity in this many is for validation.
const VALIDATION_SHARE: u64 = 6;

/// A picture on disk and its faces.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The file.
    pub path: PathBuf,
    /// Where it comes from: a data set, or a folder of videos.
    pub source: String,
    /// Who it shows.
    pub identity: String,
    /// Its faces, pixels of the picture; a teacher's score is below 1.
    pub faces: Vec<Detection>,
}

impl Entry {
    /// Whether it is kept from training: its source is one of `sources`, or its identity is among the sixth of all that
    /// a hash picks, whatever pictures of that person come from.
    pub fn is_validation(&self, sources: &[String]) -> bool {
        sources.contains(&self.source) || is_validation_identity(&self.identity)
    }

    /// Reads the picture.
    ///
    /// # Errors
    /// Names the file.
    pub fn decode(&self) -> anyhow::Result<Frame> {
        let at = || self.path.display().to_string();
        Frame::decode(&std::fs::read(&self.path).with_context(at)?).with_context(at)
    }
}

/// Whether a person is kept for validation.
pub fn is_validation_identity(identity: &str) -> bool {
    // FNV-1a, then a finaliser: the same everywhere, and for good.
    let hash = identity
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    mix(hash, 0).is_multiple_of(VALIDATION_SHARE)
}

/// Reads the list in `dir`: a CSV file with the columns `picture` (a path within the folder), `source`, `identity`,
/// `score`, the box `x,y,w,h` and five points `x0,y0..x4,y4` in pixels; one row a face, several rows of one picture one
/// after another, and a row with empty columns for a picture without faces.
///
/// # Errors
/// Names the file and the line.
pub fn read_list(dir: &Path) -> anyhow::Result<Vec<Entry>> {
    let path = dir.join(LIST);
    let at = || path.display().to_string();
    let mut reader = csv::Reader::from_path(&path).with_context(at)?;
    let headers = reader.headers().with_context(at)?.clone();
    let column = |name: &str| {
        headers
            .iter()
            .position(|h| h == name)
            .with_context(|| format!("{}: no column '{name}'", path.display()))
    };
    let [picture, source, identity, score] =
        [column("picture")?, column("source")?, column("identity")?, column("score")?];
    let mut numbers = Vec::with_capacity(14);
    for name in ["x", "y", "w", "h"] {
        numbers.push(column(name)?);
    }
    for i in 0..5 {
        numbers.push(column(&format!("x{i}"))?);
        numbers.push(column(&format!("y{i}"))?);
    }
    let mut entries: Vec<Entry> = Vec::new();
    for (row, record) in reader.records().enumerate() {
        let line = row + 2;
        let record = record.with_context(at)?;
        let file = dir.join(&record[picture]);
        if entries.last().is_none_or(|last| last.path != file) {
            entries.push(Entry {
                path: file,
                source: record[source].to_owned(),
                identity: record[identity].to_owned(),
                faces: Vec::new(),
            });
        }
        if record[score].is_empty() {
            continue;
        }
        let number = |i: usize| -> anyhow::Result<f32> {
            let value: f32 = record[i].trim().parse().with_context(|| {
                format!("{}, line {line}: '{}' is not a number", path.display(), &record[i])
            })?;
            ensure!(value.is_finite(), "{}, line {line}: {value} is not finite", path.display());
            Ok(value)
        };
        let v = numbers.iter().map(|&i| number(i)).collect::<anyhow::Result<Vec<f32>>>()?;
        let bbox = Rect::new(v[0], v[1], v[2], v[3]);
        if bbox.w <= 0.0 || bbox.h <= 0.0 {
            bail!("{}, line {line}: a box of {} x {} pixels", path.display(), bbox.w, bbox.h);
        }
        let landmarks = std::array::from_fn(|i| Point::new(v[4 + 2 * i], v[5 + 2 * i]));
        let face = Detection { bbox, score: number(score)?, landmarks: Some(landmarks) };
        entries.last_mut().into_iter().for_each(|e| e.faces.push(face));
    }
    ensure!(!entries.is_empty(), "{}: it lists no picture", path.display());
    Ok(entries)
}

/// A picture in memory and its faces.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The picture.
    pub frame: Frame,
    /// Its faces, in its pixels.
    pub faces: Vec<Detection>,
}

/// Decodes pictures on every core, each shrunk to at most `max_side_px`. Pictures that cannot be read are counted.
///
/// # Errors
/// Where none can be read.
pub fn load(entries: &[Entry], max_side_px: u32) -> anyhow::Result<(Vec<Picture>, usize)> {
    let bar = progress::bar(entries.len() as u64, "pictures");
    let loaded: Vec<anyhow::Result<Picture>> = entries
        .par_iter()
        .map(|entry| {
            bar.inc(1);
            let frame = entry.decode()?;
            let scale = max_side_px as f32 / frame.width().max(frame.height()) as f32;
            if scale >= 1.0 {
                return Ok(Picture { frame, faces: entry.faces.clone() });
            }
            let frame = shrink(&frame, scale)?;
            Ok(Picture { frame, faces: entry.faces.iter().map(|f| scaled(f, scale)).collect() })
        })
        .collect();
    bar.finish_and_clear();
    let mut pictures = Vec::with_capacity(loaded.len());
    let mut first_error = None;
    for picture in loaded {
        match picture {
            Ok(picture) => pictures.push(picture),
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    let skipped = entries.len() - pictures.len();
    match first_error {
        Some(error) if pictures.is_empty() => Err(error),
        Some(error) => {
            log::warn!("{skipped} pictures skipped, the first because: {error:#}");
            Ok((pictures, skipped))
        }
        None => Ok((pictures, 0)),
    }
}

fn shrink(frame: &Frame, scale: f32) -> anyhow::Result<Frame> {
    let side = |px: u32| ((px as f32 * scale).round() as u32).max(1);
    let picture = image::RgbImage::from_raw(frame.width(), frame.height(), frame.rgb().to_vec())
        .context("a frame holds width x height pixels")?;
    let (width, height) = (side(frame.width()), side(frame.height()));
    let small = image::imageops::resize(&picture, width, height, image::imageops::FilterType::Triangle);
    Ok(Frame::new(width, height, small.into_raw())?)
}

fn scaled(face: &Detection, scale: f32) -> Detection {
    let b = face.bbox;
    Detection {
        bbox: Rect::new(b.x * scale, b.y * scale, b.w * scale, b.h * scale),
        score: face.score,
        landmarks: face.landmarks.map(|points| points.map(|p| Point::new(p.x * scale, p.y * scale))),
    }
}

/// Frames drawn of one person before the next.
const FRAMES_PER_PERSON: usize = 8;

/// Draws `count` pictures of synthetic people on every core, and hands each with its labels to `keep`. People differ
/// between seeds.
///
/// # Errors
/// Where the options make no sense.
pub fn render<T: Send>(
    count: usize,
    seed: u64,
    options: &RenderOptions,
    keep: impl Fn(Frame, &Labels) -> T + Sync,
) -> anyhow::Result<Vec<T>> {
    let people = count.div_ceil(FRAMES_PER_PERSON);
    let bar = progress::bar(people as u64, "synthetic people");
    let drawn = (0..people)
        .into_par_iter()
        .map(|person| {
            let person = mix(seed, person as u64);
            let mut clip = ClipSource::new(seed, person, options.clone())?;
            let frames = (0..FRAMES_PER_PERSON)
                .map(|i| {
                    // Seconds apart, so that expression and pose differ.
                    let (frame, labels) = clip.frame_at(1.0 + 3.7 * i as f64)?;
                    Ok(keep(frame, &labels))
                })
                .collect::<anyhow::Result<Vec<T>>>();
            bar.inc(1);
            frames
        })
        .collect::<anyhow::Result<Vec<Vec<T>>>>()?;
    bar.finish_and_clear();
    Ok(drawn.into_iter().flatten().take(count).collect())
}

/// Scenes as a webcam would see them, with faces of `face_share` of the height.
pub fn scene_options(width: u32, height: u32, face_share: (f32, f32)) -> RenderOptions {
    RenderOptions {
        width,
        height,
        framing: Framing::Webcam,
        face_share,
        pose_spread: 1.0,
        ..RenderOptions::webcam()
    }
}

/// Counts pictures by source, for people.
pub fn counts<'a>(sources: impl Iterator<Item = &'a str>) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    for source in sources {
        *counts.entry(source).or_default() += 1;
    }
    counts.iter().map(|(source, n)| format!("{source} {n}")).collect::<Vec<_>>().join(", ")
}
