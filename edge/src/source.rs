//! Where frames come from: a picture, a folder of pictures, a video through the ffmpeg program, or a drawn face.

use std::io;
use std::path::{Path, PathBuf};

use semblance_face::frame::{PICTURE_EXTENSIONS, is_picture};
use semblance_face::video::{VideoError, VideoNext, VideoReader};
use semblance_face::{Frame, FrameError};
use semblance_synth::{ClipSource, RenderOptions, SynthError};
use thiserror::Error;

use crate::prediction::{Pose, Truth};

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
#[derive(Debug)]
pub enum Next {
    /// The frame that was passed in holds the next picture.
    Frame,
    /// A part of the source cannot be used and is passed over; the text names it and tells why.
    Skipped(String),
    /// Nothing more.
    End,
}

/// A sequence of frames.
pub trait Source: Send {
    /// Overwrites `frame` with the next picture, its time and its number. Keeps the frame's allocation where the size
    /// stays.
    ///
    /// # Errors
    /// [`SourceError`] where the source as a whole is at its end with an error.
    fn next(&mut self, frame: &mut Frame) -> Result<Next, SourceError>;

    /// What is known of the face in the last frame, where the source drew it.
    fn truth(&self) -> Option<Truth> {
        None
    }
}

/// Pictures of a folder are this far apart in time.
const FOLDER_FPS: f64 = 25.0;

/// The name of the source that needs nothing: an endless synthetic webcam clip of one person.
pub const DEMO: &str = "demo";

/// Opens [`DEMO`], a picture, a folder of pictures, or (anything else) a video file.
///
/// # Errors
/// [`SourceError`] where there is no such thing, or no ffmpeg for a video.
pub fn open(spec: &str) -> Result<Box<dyn Source>, SourceError> {
    if spec == DEMO {
        let clip = ClipSource::new(DEMO_SEED, DEMO_IDENTITY, RenderOptions::webcam())?;
        return Ok(Box::new(Demo { clip, truth: None }));
    }
    let path = Path::new(spec);
    let metadata =
        std::fs::metadata(path).map_err(|source| SourceError::Io { path: path.to_owned(), source })?;
    if metadata.is_dir() {
        Ok(Box::new(Folder::open(path)?))
    } else if is_picture(path) {
        Ok(Box::new(Picture { path: path.to_owned(), done: false }))
    } else {
        Ok(Box::new(Video(VideoReader::open(path)?)))
    }
}

/// Decodes a file, keeping errors of the disk and of the picture apart.
fn read_picture(path: &Path) -> Result<Frame, SourceError> {
    let bytes = std::fs::read(path).map_err(|source| SourceError::Io { path: path.to_owned(), source })?;
    Frame::decode(&bytes).map_err(|source| SourceError::Picture { path: path.to_owned(), source })
}

#[derive(Debug)]
struct Picture {
    path: PathBuf,
    done: bool,
}

impl Source for Picture {
    fn next(&mut self, frame: &mut Frame) -> Result<Next, SourceError> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(Next::End);
        }
        *frame = read_picture(&self.path)?;
        Ok(Next::Frame)
    }
}

/// The pictures of a folder in the order of their names, as frames 1/25 s apart.
#[derive(Debug)]
struct Folder {
    files: std::vec::IntoIter<PathBuf>,
    index: u64,
}

impl Folder {
    fn open(path: &Path) -> Result<Self, SourceError> {
        let io = |source| SourceError::Io { path: path.to_owned(), source };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(io)? {
            let file = entry.map_err(io)?.path();
            if is_picture(&file) {
                files.push(file);
            }
        }
        if files.is_empty() {
            return Err(SourceError::EmptyFolder { path: path.to_owned() });
        }
        files.sort();
        Ok(Self { files: files.into_iter(), index: 0 })
    }
}

impl Source for Folder {
    fn next(&mut self, frame: &mut Frame) -> Result<Next, SourceError> {
        let Some(path) = self.files.next() else {
            return Ok(Next::End);
        };
        let index = self.index;
        self.index += 1;
        match read_picture(&path) {
            Ok(picture) => {
                *frame = picture;
                frame.index = index;
                frame.t_secs = index as f64 / FOLDER_FPS;
                Ok(Next::Frame)
            }
            Err(error) => Ok(Next::Skipped(error.to_string())),
        }
    }
}

const DEMO_SEED: u64 = 1;
const DEMO_IDENTITY: u64 = 1;

struct Demo {
    clip: ClipSource,
    truth: Option<Truth>,
}

impl Source for Demo {
    fn next(&mut self, frame: &mut Frame) -> Result<Next, SourceError> {
        let labels;
        (*frame, labels) = self.clip.next_frame()?;
        let (b, pose) = (labels.bbox, labels.pose);
        self.truth = Some(Truth {
            expression: labels.expression.name(),
            valence: labels.valence,
            arousal: labels.arousal,
            bbox: [b.x, b.y, b.w, b.h],
            pose: Pose { yaw: pose.yaw_deg, pitch: pose.pitch_deg, roll: pose.roll_deg },
        });
        Ok(Next::Frame)
    }

    fn truth(&self) -> Option<Truth> {
        self.truth
    }
}

/// A video file.
#[derive(Debug)]
struct Video(VideoReader);

impl Source for Video {
    fn next(&mut self, frame: &mut Frame) -> Result<Next, SourceError> {
        Ok(match self.0.next(frame)? {
            VideoNext::Frame => Next::Frame,
            VideoNext::Damaged(reason) => Next::Skipped(format!("{}: {reason}", self.0.path().display())),
            VideoNext::End => Next::End,
        })
    }
}
