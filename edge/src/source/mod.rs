//! Where frames come from: a camera, a stream, a picture, a folder of pictures, a video, or a drawn face.

mod decoder;
mod demo;
mod files;
mod jpeg;
#[cfg(feature = "nokhwa")]
mod nokhwa;
mod paced;
pub mod pixels;
mod reader;
mod reconnect;
mod stdin;
mod stream;
#[cfg(target_os = "linux")]
pub(crate) mod v4l2;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use semblance_face::frame::{Leniency, PICTURE_EXTENSIONS, is_picture};
use semblance_face::video::{VideoError, VideoReader};
use semblance_face::{Frame, FrameError};
use semblance_synth::SynthError;
use thiserror::Error;

pub use self::decoder::Decoder;
use self::pixels::{PixelFormat, RawLayout};
pub(crate) use self::stream::is_url;
#[cfg(target_os = "linux")]
pub use self::v4l2::CameraError;
use crate::prediction::Truth;
use crate::telemetry::{SourceState, Telemetry};

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
    /// A camera cannot be used.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Camera(#[from] CameraError),
    /// Cameras of this kind cannot be used by this program.
    #[error("{spec}: {reason}")]
    Unsupported {
        /// What was asked for.
        spec: String,
        /// Why, and what can be done.
        reason: &'static str,
    },
    /// A network stream gives no frames.
    #[error("{url}: {reason}")]
    Stream {
        /// Where it is, without credentials.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// Standard input cannot be used.
    #[error("standard input: {0}")]
    Stdin(String),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
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
    /// Pixels that are not RGB.
    Raw(RawLayout),
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
    pub fn decode(&mut self, leniency: Leniency) -> Result<(), FrameError> {
        match self.encoding {
            Encoding::Decoded => Ok(()),
            Encoding::Jpeg => self.frame.decode_jpeg(&self.raw, leniency),
            Encoding::Raw(layout) => pixels::to_rgb(&layout, &self.raw, &mut self.frame),
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
    /// Width and height, in pixels, that a camera is asked for; of raw pixels on standard input, those that come.
    pub size: Option<(u32, u32)>,
    /// Frames a second that a camera is asked for.
    pub fps: Option<f64>,
    /// The format that a camera is asked for, or that comes on standard input.
    pub format: Option<PixelFormat>,
    /// A camera's controls and the values to set them to, in this order.
    pub controls: Vec<(String, i64)>,
}

/// The name of the source that needs nothing: an endless synthetic webcam clip of one person.
pub const DEMO: &str = "demo";

/// The name of the first camera that can be used.
pub const CAMERA: &str = "camera";

/// The name of standard input: JPEGs one after the other, or raw pixels where a format and a size are given.
pub const STDIN: &str = "-";

/// Opens [`DEMO`], [`CAMERA`], a camera by its node (`/dev/video0`), [`STDIN`], a network stream (`rtsp://..`, `http://..`),
/// a picture, a folder of pictures, or (anything else) a video file.
///
/// # Errors
/// [`SourceError`] where there is no such thing, it cannot be used, or ffmpeg is missing for a video or a stream. A camera
/// that is not there is an error now; once it was there, it is waited for.
pub fn open(
    spec: &str,
    options: &SourceOptions,
    telemetry: &Arc<Telemetry>,
) -> Result<Box<dyn Source>, SourceError> {
    if spec == STDIN {
        return Ok(Box::new(stdin::Stdin::open(options, telemetry)?));
    }
    if is_url(spec) {
        return Ok(Box::new(stream::Stream::open(spec, telemetry)?));
    }
    if spec.contains("://") {
        let reason = "streams of this kind are not known (rtsp, rtmp, http, tcp, udp, rtp, srt are)";
        return Err(SourceError::Unsupported { spec: semblance_face::url::public(spec), reason });
    }
    if spec.starts_with("nokhwa:") {
        #[cfg(feature = "nokhwa")]
        return Ok(Box::new(nokhwa::NokhwaCamera::open(spec, options, telemetry)?));
        #[cfg(not(feature = "nokhwa"))]
        return Err(SourceError::Unsupported {
            spec: spec.to_owned(),
            reason: "this program was built without nokhwa (cargo build --features nokhwa)",
        });
    }
    if spec == CAMERA || is_device(Path::new(spec)) {
        return open_camera(spec, options, telemetry);
    }
    let source = open_endless_or_recorded(spec)?;
    telemetry.source.set(SourceState::Live, spec);
    Ok(match options.play_fps {
        Some(fps) if source.pace() == Pace::Recorded => Box::new(
            paced::Paced::new(source, fps)
                .map_err(|e| SourceError::Picture { path: spec.into(), source: e })?,
        ),
        _ => source,
    })
}

/// Whether a path names a device, or would if it were there.
pub(crate) fn is_device(path: &Path) -> bool {
    #[cfg(unix)]
    if let Ok(metadata) = std::fs::metadata(path) {
        return std::os::unix::fs::FileTypeExt::is_char_device(&metadata.file_type());
    }
    path.to_str().is_some_and(|path| path.starts_with("/dev/video") || path.starts_with("/dev/v4l/"))
}

#[cfg(target_os = "linux")]
fn open_camera(
    spec: &str,
    options: &SourceOptions,
    telemetry: &Arc<Telemetry>,
) -> Result<Box<dyn Source>, SourceError> {
    Ok(Box::new(v4l2::Camera::open(spec, options, telemetry)?))
}

#[cfg(not(target_os = "linux"))]
fn open_camera(
    spec: &str,
    _options: &SourceOptions,
    _telemetry: &Arc<Telemetry>,
) -> Result<Box<dyn Source>, SourceError> {
    let reason = "cameras are read through Video4Linux, which this system lacks; try --source demo";
    Err(SourceError::Unsupported { spec: spec.to_owned(), reason })
}

/// What is always there once it is opened.
fn open_endless_or_recorded(spec: &str) -> Result<Box<dyn Source>, SourceError> {
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
