//! The clip store: what `prepare` writes and training memory-maps.
//!
//! A store is a folder with shards of JPEGs laid end to end (`shard-00000.jpegs`, about 256 MB each) and one index,
//! `index.bin`:
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `SMBSTORE` |
//! | 4 | format version, little-endian |
//! | 4 | CRC-32 of everything after it |
//! | 8 | length of the header |
//! | .. | header: JSON ([`Header`]) |
//! | .. | columns, each 8-byte aligned: where each frame's JPEG lies, its video, time, split and labels |
//!
//! Columns have a fixed width, so that everything about a frame is found without reading anything else, and no
//! picture is decoded before it is asked for. Columns that no frame uses are absent.
//!
//! A commit writes the shards, syncs them, then replaces the index by renaming; bytes of a shard beyond what the index
//! names are ignored, and overwritten by the next append. So an append that is cut off at any byte leaves the store as
//! the last commit left it. A shard that is shorter than its index says is damage, and is said so.

mod columns;
mod pairs;
mod reader;
mod writer;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use semblance_face::FrameError;
use semblance_face::labels::Expression;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use pairs::{NamedPair, PAIRS, VerificationPair, read_pairs, write_pairs};
pub use reader::{Record, Store};
pub use writer::StoreWriter;

/// The version of store that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"SMBSTORE";
const INDEX: &str = "index.bin";
const PREAMBLE: usize = 24;

/// Why a store could not be read or written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A store is there already.
    #[error("{}: there is a store here already: append to it (--append) or choose another folder", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// Another process is writing to the store.
    #[error("{}: another process is writing to this store", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// A frame cannot be stored as it is.
    #[error("{}: a frame of video '{video}' cannot be stored: {reason}", path.display())]
    Frame {
        /// The store.
        path: PathBuf,
        /// The video that it was given for.
        video: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The index is not as it should be.
    #[error("{}: {reason}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer version wrote the store.
    #[error("{}: store format {found} is newer than this build reads (up to {FORMAT}): update Semblance", path.display())]
    Newer {
        /// The index.
        path: PathBuf,
        /// The version that it states.
        found: u32,
    },
    /// A shard is shorter than the index says.
    #[error("{}: {actual} bytes, but the index names {expected}: the shard was cut; copy or prepare the store again", path.display())]
    Cut {
        /// The shard.
        path: PathBuf,
        /// Bytes that the index names.
        expected: u64,
        /// Bytes that are there.
        actual: u64,
    },
    /// A frame's picture cannot be decoded.
    #[error("{}: frame {frame} ({identity}/{video}): {source}", path.display())]
    Picture {
        /// The store.
        path: PathBuf,
        /// The frame's number.
        frame: usize,
        /// Its identity.
        identity: String,
        /// Its video.
        video: String,
        /// What is wrong with it.
        source: FrameError,
    },
}

impl StoreError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// Which part of an experiment a frame belongs to.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Training.
    Train,
    /// Choosing settings.
    Val,
    /// The final figure.
    Test,
}

impl Split {
    /// Every split.
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

/// What is known of a frame besides its picture.
///
/// [`StoreWriter::push`] refuses values outside the ranges given here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Seconds on the video's own clock; not before the video's previous frame.
    pub t_secs: f64,
    /// Its part.
    pub split: Split,
    /// Categorical expression.
    pub expression: Option<Expression>,
    /// Share of annotators for each of [`Expression::ALL`]; sums to 1.
    pub votes: Option<[f32; 8]>,
    /// Valence and arousal in `[-1, 1]`.
    pub valence_arousal: Option<[f32; 2]>,
    /// Intensity in `[0, 1]` of each of [`semblance_face::labels::ACTION_UNITS`]; NaN for one that nobody judged.
    pub action_units: Option<[f32; 18]>,
    /// Yaw, pitch and roll in degrees.
    pub pose: Option<[f32; 3]>,
    /// iBUG order, `[x0, y0, x1, ..]` in shares of the stored picture's width and height.
    pub landmarks: Option<[f32; 136]>,
    /// Centres of the left and the right eye (of the picture), tip of the nose, left and right corner of the mouth, in
    /// shares of the stored picture's width and height, where a data set marks these and not the 68 points.
    pub five_points: Option<[f32; 10]>,
}

impl Sample {
    /// A frame without labels.
    pub const fn unlabelled(t_secs: f64, split: Split) -> Self {
        Self {
            t_secs,
            split,
            expression: None,
            votes: None,
            valence_arousal: None,
            action_units: None,
            pose: None,
            landmarks: None,
            five_points: None,
        }
    }
}

/// A stretch of frames of one identity, in the order of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Video {
    /// Its name, as its folder is called.
    pub name: String,
    /// Index into [`Header::identities`].
    pub identity: u32,
    /// Number of its first frame.
    pub first: u64,
    /// Its frames.
    pub frames: u64,
}

impl Video {
    /// The numbers of its frames.
    pub fn range(&self) -> Range<usize> {
        self.first as usize..(self.first + self.frames) as usize
    }
}

/// Where a store's content came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Layout that was read.
    pub layout: String,
    /// Its name without the path.
    pub source: String,
    /// Pictures passed over, by reason.
    pub skipped: u64,
}

/// The index's header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Names of the identities.
    pub identities: Vec<String>,
    /// The videos, in the order of their frames.
    pub videos: Vec<Video>,
    /// Each run of `prepare` that wrote to the store.
    pub provenance: Vec<Provenance>,
    /// Frames.
    pub frames: u64,
    /// Bytes of each shard that the index names.
    pub shard_bytes: Vec<u64>,
    /// Names of the columns, in the order of the file.
    columns: Vec<String>,
}

fn shard_name(shard: usize) -> String {
    format!("shard-{shard:05}.jpegs")
}
