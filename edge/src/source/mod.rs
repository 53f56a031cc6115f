//! Where frames come from: a camera, a stream, a picture, a folder of pictures, a video, or a drawn face.

mod demo;
mod files;
mod paced;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use semblance_face::frame::{PICTURE_EXTENSIONS, is_picture};
use semblance_face::video::{VideoError, VideoReader};
use semblance_face::{Frame, FrameError};
use semblance_synth::SynthError;
use thiserror::Error;

use crate::prediction::Truth;
use crate::telemetry::Telemetry;

/// Why a source gives no frames, or no more.
#[derive(Debug, Error)]
pub enum SourceError {
    /// There is no such file or folder, or it cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A single picture cannot be decoded.
    #[error("{}: {source}", path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FrameError,
    },
    /// A folder holds no pictures.
    #[error("{}: no picture in this folder (looked for {})", path.display(), PICTURE_EXTENSIONS.join(", "))]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The demo's face cannot be drawn.
    #[error("demo: {0}")]
    Demo(#[from] SynthError),
    /// A video cannot be read.
    #[error(transparent)]
    Video(#[from] VideoError),
}

/// What a source has next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// The capture that was passed in holds the next picture.
    Frame,
    /// A part of the source cannot be used and is passed over; the text names it and tells why.
    Skipped(String),
    /// Nothing came for a while; the source's state tells whether that is as it should be. Ask again.
    Idle,
    /// Nothing more.
    End,
}

/// How the bytes of a [`Capture`] are to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// They are not: the frame holds its pixels already.
    #[default]
    Decoded,
    /// A JPEG, whole with its tables.
    Jpeg,
}

/// A picture on its way from a source, with room for the next one.
///
/// What a camera gave is decoded by whoever computes, so that frames which nobody has time for cost nothing.
#[derive(Debug)]
pub struct Capture {
    /// The picture, once it is decoded; its time and number at once.
    pub frame: Frame,
    /// The bytes that it is decoded from.
    pub raw: Vec<u8>,
    /// How they are read.
    pub encoding: Encoding,
    /// When the picture was taken; for a recording, when it was read.
    pub taken: Instant,
    /// What it took to make the picture so far.
    pub read: Duration,
    /// What the face in it shows, where the source drew it.
    pub truth: Option<Truth>,
}

impl Capture {
    /// An empty one.
    ///
    /// # Errors
    /// Never, in truth: those of [`Frame::black`].
    pub fn new() -> Result<Self, FrameError> {
        Ok(Self {
            frame: Frame::black(1, 1)?,
            raw: Vec::new(),
            encoding: Encoding::Decoded,
            taken: Instant::now(),
            read: Duration::ZERO,
            truth: None,
        })
    }

    /// Makes sure that the frame holds its pixels.
    ///
    /// # Errors
    /// [`FrameError`] where the bytes are damaged.
    pub fn decode(&mut self) -> Result<(), FrameError> {
        match self.encoding {
            Encoding::Decoded => Ok(()),
            Encoding::Jpeg => self.frame.decode_jpeg(&self.raw),
        }
    }
}

/// Whether a source waits for whoever reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It does: no frame of a recording is lost.
    Recorded,
    /// It does not: the newest frame counts.
    Live,
}

/// A sequence of frames.
pub trait Source: Send {
    /// Overwrites `capture` with the next picture, keeping its allocations where it can. Comes back within about half a
    /// second: with [`Next::Idle`] where there is nothing.
    ///
    /// # Errors
    /// [`SourceError`] where the source as a whole is at its end with an error.
    fn next(&mut self, capture: &mut Capture) -> Result<Next, SourceError>;

    /// Whether it waits for whoever reads it.
    fn pace(&self) -> Pace;
}

/// What is asked of a source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceOptions {
    /// Play a recording at this many frames a second, as a camera would: frames that nobody has time for are left out.
    pub play_fps: Option<f64>,
}

/// The name of the source that needs nothing: an endless synthetic webcam clip of one person.
pub const DEMO: &str = "demo";

/// Opens [`DEMO`], a picture, a folder of pictures, or (anything else) a video file.
///
/// # Errors
/// [`SourceError`] where there is no such thing, or no ffmpeg for a video.
pub fn open(
    spec: &str,
    options: &SourceOptions,
    telemetry: &Arc<Telemetry>,
) -> Result<Box<dyn Source>, SourceError> {
    let source = open_unpaced(spec)?;
    telemetry.source.set(crate::telemetry::SourceState::Live, spec);
    Ok(match options.play_fps {
        Some(fps) if source.pace() == Pace::Recorded => Box::new(paced::Paced::new(source, fps)),
        _ => source,
    })
}

fn open_unpaced(spec: &str) -> Result<Box<dyn Source>, SourceError> {
    if spec == DEMO {
        return Ok(Box::new(demo::Demo::new()?));
    }
    let path = Path::new(spec);
    let metadata =
        std::fs::metadata(path).map_err(|source| SourceError::Io { path: path.to_owned(), source })?;
    if metadata.is_dir() {
        Ok(Box::new(files::Folder::open(path)?))
    } else if is_picture(path) {
        Ok(Box::new(files::Picture::new(path)))
    } else {
        Ok(Box::new(files::Video(VideoReader::open(path)?)))
    }
}
