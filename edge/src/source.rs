//! Where frames come from: a picture, a folder of pictures, a video through the ffmpeg program, or a drawn face.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, unbounded};
use semblance_face::frame::{PICTURE_EXTENSIONS, is_picture};
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
    /// ffmpeg is not installed.
    #[error("videos need the ffmpeg program, which was not found: install it (apt-get install ffmpeg)")]
    NoFfmpeg,
    /// The demo's face cannot be drawn.
    #[error("demo: {0}")]
    Demo(#[from] SynthError),
    /// ffmpeg cannot read the video.
    #[error("{}: ffmpeg cannot read this video: {reason}", path.display())]
    Video {
        /// The file.
        path: PathBuf,
        /// ffmpeg's own words.
        reason: String,
    },
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
        Ok(Box::new(Video::open(path)?))
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

/// A video file read through the ffmpeg program.
///
/// ffmpeg writes raw RGB to a pipe; its `showinfo` filter tells each frame's size and true presentation time, so that
/// videos with a varying rate keep their clock.
#[derive(Debug)]
struct Video {
    path: PathBuf,
    child: Child,
    pixels: ChildStdout,
    infos: Receiver<FrameInfo>,
    log: Option<JoinHandle<Vec<String>>>,
    index: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct FrameInfo {
    t_secs: f64,
    width: u32,
    height: u32,
}

impl Video {
    fn open(path: &Path) -> Result<Self, SourceError> {
        let mut child = Command::new("ffmpeg")
            .args(["-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info", "-i"])
            .arg(protocol_path(path))
            .args(["-map", "0:v:0", "-vf", "showinfo=checksum=0", "-fps_mode", "passthrough"])
            .args(["-pix_fmt", "rgb24", "-f", "rawvideo", "pipe:1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => SourceError::NoFfmpeg,
                _ => SourceError::Io { path: "ffmpeg".into(), source },
            })?;
        let (Some(pixels), Some(messages)) = (child.stdout.take(), child.stderr.take()) else {
            let reason = "its pipes could not be opened".to_owned();
            return Err(SourceError::Video { path: path.to_owned(), reason });
        };
        let (sender, infos) = unbounded();
        // Reading every message keeps ffmpeg from blocking on a full pipe; how far it runs ahead is bounded by the
        // pipe of pixels.
        let log = std::thread::spawn(move || {
            let mut errors = Vec::new();
            for line in BufReader::new(messages).lines().map_while(Result::ok) {
                if let Some(info) = parse_showinfo(&line) {
                    let _ = sender.send(info);
                } else if line.contains("[error]") || line.contains("[fatal]") {
                    errors.truncate(MAX_ERRORS - 1);
                    errors.push(strip_tags(&line));
                }
            }
            errors
        });
        Ok(Self { path: path.to_owned(), child, pixels, infos, log: Some(log), index: 0 })
    }

    /// After the last frame: an error where there was none at all, a note where the file ended badly.
    fn finish(&mut self) -> Result<Next, SourceError> {
        let Some(log) = self.log.take() else {
            return Ok(Next::End);
        };
        let failed = self.child.wait().map(|status| !status.success()).unwrap_or(true);
        let errors = log.join().unwrap_or_default();
        let reason = errors.first().cloned();
        if self.index == 0 {
            let reason = reason.unwrap_or_else(|| "it holds no frame".to_owned());
            return Err(SourceError::Video { path: self.path.clone(), reason });
        }
        match reason {
            Some(reason) => Ok(Next::Skipped(format!("{}: {reason}", self.path.display()))),
            None if failed => {
                Ok(Next::Skipped(format!("{}: ffmpeg ended with an error", self.path.display())))
            }
            None => Ok(Next::End),
        }
    }
}

/// Messages of ffmpeg that are kept.
const MAX_ERRORS: usize = 8;

/// The path as ffmpeg takes it for a file, whatever it looks like: `a:b.mp4` is no protocol, `-x.mp4` no option.
fn protocol_path(path: &Path) -> std::ffi::OsString {
    let mut url = std::ffi::OsString::from("file:");
    url.push(path);
    url
}

/// `[Parsed_showinfo_0 @ ..] [info] n:   0 pts: 512 pts_time:0.04 .. s:640x480 ..`
fn parse_showinfo(line: &str) -> Option<FrameInfo> {
    if !line.contains("Parsed_showinfo") {
        return None;
    }
    let field = |key: &str| line.split(key).nth(1).and_then(|rest| rest.split_whitespace().next());
    let (width, height) = field(" s:")?.split_once('x')?;
    Some(FrameInfo {
        t_secs: field(" pts_time:")?.parse().ok()?,
        width: width.parse().ok()?,
        height: height.parse().ok()?,
    })
}

/// `[mov @ 0x5..] [error] moov atom not found` without what stands in brackets.
fn strip_tags(line: &str) -> String {
    let mut rest = line.trim();
    while let Some(end) = rest.strip_prefix('[').and_then(|r| r.find(']')) {
        rest = rest[end + 2..].trim_start();
    }
    rest.to_owned()
}

impl Source for Video {
    fn next(&mut self, frame: &mut Frame) -> Result<Next, SourceError> {
        if self.log.is_none() {
            return Ok(Next::End);
        }
        let Ok(info) = self.infos.recv() else {
            return self.finish();
        };
        if (frame.width(), frame.height()) != (info.width, info.height) {
            *frame = Frame::black(info.width, info.height)
                .map_err(|source| SourceError::Picture { path: self.path.clone(), source })?;
        }
        match self.pixels.read_exact(frame.rgb_mut()) {
            Ok(()) => {
                frame.t_secs = info.t_secs;
                frame.index = self.index;
                self.index += 1;
                Ok(Next::Frame)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.finish(),
            Err(source) => Err(SourceError::Io { path: self.path.clone(), source }),
        }
    }
}

impl Drop for Video {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn showinfo_lines_give_time_and_size() {
        let line = "[Parsed_showinfo_0 @ 0x55] [info] n:   1 pts:  1001 pts_time:0.0417083 duration: 1001 \
                    duration_time:0.04 fmt:yuv420p cl:left sar:1/1 s:512x384 i:P iskey:0 type:P";
        assert_eq!(parse_showinfo(line), Some(FrameInfo { t_secs: 0.0417083, width: 512, height: 384 }));
        assert_eq!(parse_showinfo("[Parsed_showinfo_0 @ 0x55] [info] config in time_base: 1/24000"), None);
        assert_eq!(parse_showinfo("Stream #0:0: Video: h264, s:1x1 pts_time:3"), None);
    }

    #[test]
    fn ffmpegs_tags_are_stripped() {
        assert_eq!(strip_tags("[mov @ 0x1] [error] moov atom not found"), "moov atom not found");
        assert_eq!(strip_tags("[error] x: Invalid data"), "x: Invalid data");
        assert_eq!(strip_tags("plain"), "plain");
    }
}
