//! Recordings: a picture, a folder of pictures, a video file.

use std::path::{Path, PathBuf};
use std::time::Instant;

use semblance_face::Frame;
use semblance_face::frame::is_picture;
use semblance_face::video::{VideoNext, VideoReader};

use super::{Capture, Encoding, Next, Pace, Source, SourceError};

/// Pictures of a folder are this far apart in time.
const FOLDER_FPS: f64 = 25.0;

/// Runs `read` on the capture's frame and notes how long it took.
fn timed(
    capture: &mut Capture,
    read: impl FnOnce(&mut Frame) -> Result<Next, SourceError>,
) -> Result<Next, SourceError> {
    let start = Instant::now();
    let next = read(&mut capture.frame)?;
    capture.encoding = Encoding::Decoded;
    capture.taken = Instant::now();
    capture.read = capture.taken.duration_since(start);
    Ok(next)
}

/// Decodes a file, keeping errors of the disk and of the picture apart.
fn read_picture(path: &Path) -> Result<Frame, SourceError> {
    let bytes = std::fs::read(path).map_err(|source| SourceError::Io { path: path.to_owned(), source })?;
    Frame::decode(&bytes).map_err(|source| SourceError::Picture { path: path.to_owned(), source })
}

/// One picture.
#[derive(Debug)]
pub(super) struct Picture {
    path: PathBuf,
    done: bool,
}

impl Picture {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), done: false }
    }
}

impl Source for Picture {
    fn next(&mut self, capture: &mut Capture) -> Result<Next, SourceError> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(Next::End);
        }
        timed(capture, |frame| {
            *frame = read_picture(&self.path)?;
            Ok(Next::Frame)
        })
    }

    fn pace(&self) -> Pace {
        Pace::Recorded
    }
}

/// The pictures of a folder in the order of their names, as frames 1/25 s apart.
#[derive(Debug)]
pub(super) struct Folder {
    files: std::vec::IntoIter<PathBuf>,
    index: u64,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, SourceError> {
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
    fn next(&mut self, capture: &mut Capture) -> Result<Next, SourceError> {
        let Some(path) = self.files.next() else {
            return Ok(Next::End);
        };
        let index = self.index;
        self.index += 1;
        timed(capture, |frame| match read_picture(&path) {
            Ok(picture) => {
                *frame = picture;
                frame.index = index;
                frame.t_secs = index as f64 / FOLDER_FPS;
                Ok(Next::Frame)
            }
            Err(error) => Ok(Next::Skipped(error.to_string())),
        })
    }

    fn pace(&self) -> Pace {
        Pace::Recorded
    }
}

/// A video file.
#[derive(Debug)]
pub(super) struct Video(pub(super) VideoReader);

impl Source for Video {
    fn next(&mut self, capture: &mut Capture) -> Result<Next, SourceError> {
        timed(capture, |frame| {
            Ok(match self.0.next(frame)? {
                VideoNext::Frame => Next::Frame,
                VideoNext::Damaged(reason) => Next::Skipped(format!("{}: {reason}", self.0.path().display())),
                VideoNext::End => Next::End,
            })
        })
    }

    fn pace(&self) -> Pace {
        Pace::Recorded
    }
}
