//! `trainer prepare`: data sets as their publishers lay them out, into a clip store.

mod fer2013;
mod frames;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use crate::inspect::Summary;
use crate::progress;
use crate::store::{Provenance, Store, StoreWriter};

/// How a data set is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// FER-2013: Kaggle's CSV (emotion,pixels,Usage), or an .npz with images, labels, usage and maybe ferplus_votes.
    Fer2013,
    /// Folders identity/video/frame.jpg, frames in the order of the numbers in their names.
    Frames,
}

impl Layout {
    const fn name(self) -> &'static str {
        match self {
            Self::Fer2013 => "fer2013",
            Self::Frames => "frames",
        }
    }
}

/// Options of `trainer prepare`.
#[derive(Clone, Debug, Args)]
pub struct PrepareArgs {
    /// How the data set is laid out
    #[arg(long)]
    pub layout: Layout,

    /// The data set: a file or a folder, as the layout has it
    #[arg(long)]
    pub src: PathBuf,

    /// Folder of the store to write
    #[arg(long)]
    pub out: PathBuf,

    /// Add to a store that is there already, and pass over the videos that it has: so an interrupted run goes on
    #[arg(long)]
    pub append: bool,

    /// Frames per second of the source (layout frames)
    #[arg(long, default_value_t = 25.0)]
    pub fps: f64,

    /// Quality of JPEGs that have to be encoded, 1 to 100; pictures that are JPEG already are kept as they are
    #[arg(long, default_value_t = 95, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub quality: u8,

    /// Share of the identities that go to validation (layout frames); the choice follows from their names alone
    #[arg(long, default_value_t = 0.1)]
    pub val_share: f64,
}

impl PrepareArgs {
    /// The defaults of the flags.
    pub fn new(layout: Layout, src: PathBuf, out: PathBuf) -> Self {
        Self { layout, src, out, append: false, fps: 25.0, quality: 95, val_share: 0.1 }
    }
}

/// Frames after which a long run commits, at the next video's beginning: what an interruption can cost.
const CHECKPOINT_FRAMES: usize = 20_000;

/// What a layout's reader did.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    /// Pictures that could not be read.
    skipped: u64,
    /// Pictures of videos that the store had.
    stored_before: u64,
}

/// Reads a data set into a store.
///
/// # Errors
/// Names the file that cannot be read or written. What was in the store before stays.
pub fn run(args: &PrepareArgs) -> anyhow::Result<()> {
    if !(args.fps.is_finite() && args.fps > 0.0) {
        bail!("--fps {} is not a rate above 0", args.fps);
    }
    if !(0.0..=1.0).contains(&args.val_share) {
        bail!("--val-share {} is outside [0, 1]", args.val_share);
    }
    if !args.src.exists() {
        bail!("{}: no such file or folder", args.src.display());
    }
    let start = Instant::now();
    let mut writer =
        if args.append { StoreWriter::append(&args.out)? } else { StoreWriter::create(&args.out)? };
    let before = writer.len();
    let outcome = match args.layout {
        Layout::Fer2013 => fer2013::read(args, &mut writer)?,
        Layout::Frames => frames::read(args, &mut writer)?,
    };
    let added = writer.len() - before;
    if added == 0 && outcome.stored_before == 0 {
        bail!("{}: no picture could be read", args.src.display());
    }
    let source = args.src.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if added > 0 {
        writer.commit(Provenance {
            layout: args.layout.name().to_owned(),
            source,
            skipped: outcome.skipped,
        })?;
    }
    eprintln!(
        "{added} frames added, {} skipped, {} there before, in {:.1} s",
        outcome.skipped,
        outcome.stored_before,
        start.elapsed().as_secs_f64()
    );
    eprintln!("{}", Summary::of(&Store::open(&args.out)?));
    Ok(())
}

/// Drops the items of videos that the store has, and counts them.
fn drop_stored<T>(items: &mut Vec<T>, writer: &StoreWriter, video: impl Fn(&T) -> (&str, &str)) -> Outcome {
    let before = items.len();
    items.retain(|item| {
        let (identity, video) = video(item);
        !writer.has_video(identity, video)
    });
    Outcome { stored_before: (before - items.len()) as u64, ..Outcome::default() }
}

/// A JPEG of grey (`channels` 1) or RGB (3) pixels.
/// # Errors
/// Where the sizes do not fit the pixels.
pub fn encode_jpeg(
    pixels: &[u8],
    width: u32,
    height: u32,
    channels: u8,
    quality: u8,
) -> anyhow::Result<Vec<u8>> {
    let colour = if channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, quality)
        .encode(pixels, width, height, colour)
        .with_context(|| format!("cannot encode a picture of {width}x{height}"))?;
    Ok(jpeg)
}

/// Encodes in parallel and hands over in order, with progress.
fn par_encode<'a, T: Sync>(
    items: &'a [T],
    what: &str,
    encode: impl Fn(&T) -> anyhow::Result<Vec<u8>> + Sync,
    mut take: impl FnMut(&'a T, anyhow::Result<Vec<u8>>, &ProgressBar) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    use rayon::prelude::*;
    const CHUNK: usize = 1024;
    let bar = progress::bar(items.len() as u64, what);
    for chunk in items.chunks(CHUNK) {
        let encoded: Vec<_> = chunk.par_iter().map(&encode).collect();
        for (item, jpeg) in chunk.iter().zip(encoded) {
            take(item, jpeg, &bar)?;
        }
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

/// The file's name for a message that is about one picture among many.
fn relative(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}
