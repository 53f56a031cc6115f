//! Video files and network streams, read through the ffmpeg program.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;

use crate::{Frame, FrameError};

/// Extensions of files that are taken for videos, in lower case.
pub const VIDEO_EXTENSIONS: [&str; 15] = [
    "3gp", "avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv", "ts", "webm", "wmv",
];

/// Whether a file is a video, by its extension in any case.
pub fn is_video(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    VIDEO_EXTENSIONS.contains(&extension.as_str())
}

/// Why a video gives no frames, or no more.
#[derive(Debug, Error)]
pub enum VideoError {
    /// ffmpeg is not installed.
    #[error("videos need the ffmpeg program, which was not found: install it (apt-get install ffmpeg)")]
    NoFfmpeg,
    /// ffmpeg is there but cannot be started.
    #[error("ffmpeg cannot be started: {0}")]
    Start(io::Error),
    /// ffmpeg cannot read the video.
    #[error("{}: ffmpeg cannot read this video: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// ffmpeg's own words.
        reason: String,
    },
    /// The video's frames are larger than any that are supported.
    #[error("{}: {source}", path.display())]
    Frame {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        source: FrameError,
    },
    /// The pipe from ffmpeg broke.
    #[error("{}: {source}", path.display())]
    Pipe {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What a video has next.
#[derive(Debug)]
pub enum VideoNext {
    /// The frame that was passed in holds the next picture.
    Frame,
    /// The file ends badly, or not all of it could be decoded: ffmpeg's own words. Nothing follows.
    Damaged(String),
    /// Nothing more.
    End,
}

/// A video file, or a network stream, read through the ffmpeg program.
///
/// ffmpeg writes raw RGB to a pipe; its `showinfo` filter tells each frame's size and true presentation time, so that
/// videos with a varying rate keep their clock. Frames are decoded as they are asked for: ffmpeg waits when its pipe is
/// full.
#[derive(Debug)]
pub struct VideoReader {
    path: PathBuf,
    child: Process,
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

/// Messages of ffmpeg that are kept.
const MAX_ERRORS: usize = 8;

impl VideoReader {
    /// Every frame of the file's first video stream.
    ///
    /// # Errors
    /// [`VideoError::NoFfmpeg`] or [`VideoError::Start`]; what is wrong with the file shows at the first frame.
    pub fn open(path: &Path) -> Result<Self, VideoError> {
        Self::start_file(path, &[], SHOW_INFO)
    }

    /// Every frame of a network stream, with as little delay as ffmpeg can do. [`VideoReader::path`] and errors name the
    /// stream as [`crate::url::public`] does.
    ///
    /// # Errors
    /// As [`VideoReader::open`].
    pub fn open_url(url: &str) -> Result<Self, VideoError> {
        let mut options = vec!["-fflags", "nobuffer", "-flags", "low_delay"];
        options.extend(["-probesize", "1000000", "-analyzeduration", "1000000"]);
        if url.starts_with("rtsp") {
            // Over UDP a lost packet is a torn picture. No -timeout: before ffmpeg 5 it made a server of it.
            options.extend(["-rtsp_transport", "tcp"]);
        } else if url.starts_with("http") || url.starts_with("tcp:") {
            options.extend(["-rw_timeout", "5000000"]);
        }
        let name = crate::url::public(url);
        Self::start(
            Path::new(&name),
            OsStr::new(url),
            &options,
            SHOW_INFO,
            Some((url.to_owned(), name.clone())),
        )
    }

    /// `fps` frames a second (above 0) of the file's first video stream: the first of each stretch of `1 / fps` seconds,
    /// with its own time. Where the video has fewer, all of them; none is given twice. One thread decodes, since whoever
    /// samples many videos reads several at once.
    ///
    /// # Errors
    /// As [`VideoReader::open`].
    pub fn sample(path: &Path, fps: f64) -> Result<Self, VideoError> {
        // A frame's time may lie just below the boundary that it should be on.
        let stretch = |t: &str| format!("floor(({t}-start_t)*{fps}+0.001)");
        let (this, last) = (stretch("t"), stretch("prev_selected_t"));
        let filter = format!("select='isnan(prev_selected_t)+gt({this},{last})',{SHOW_INFO}");
        Self::start_file(path, &["-threads", "1", "-filter_threads", "1"], &filter)
    }

    fn start_file(path: &Path, options: &[&str], filter: &str) -> Result<Self, VideoError> {
        Self::start(path, &protocol_path(path), options, filter, None)
    }

    /// `path` names the input in messages; in ffmpeg's own, the first text of `hide` is replaced by the second.
    fn start(
        path: &Path,
        input: &OsStr,
        options: &[&str],
        filter: &str,
        hide: Option<(String, String)>,
    ) -> Result<Self, VideoError> {
        let mut command = Command::new("ffmpeg");
        command
            .args(["-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info"])
            .args(options)
            .arg("-i")
            .arg(input)
            .args(["-map", "0:v:0", "-vf", filter, "-fps_mode", "passthrough"])
            .args(["-pix_fmt", "rgb24", "-f", "rawvideo", "pipe:1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // A Ctrl-C is for us to act on: ffmpeg would end, and the video seem cut short.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => VideoError::NoFfmpeg,
            _ => VideoError::Start(source),
        })?;
        let (Some(pixels), Some(messages)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(VideoError::Start(io::Error::other("its pipes could not be opened")));
        };
        let (sender, infos) = channel();
        // Reading every message keeps ffmpeg from blocking on a full pipe; how far it runs ahead is bounded by the
        // pipe of pixels.
        let log = std::thread::spawn(move || {
            let mut errors = Vec::new();
            for line in BufReader::new(messages).lines().map_while(Result::ok) {
                if let Some(info) = parse_showinfo(&line) {
                    let _ = sender.send(info);
                } else if line.contains("[error]") || line.contains("[fatal]") {
                    errors.truncate(MAX_ERRORS - 1);
                    let line = strip_tags(&line);
                    errors.push(match &hide {
                        Some((secret, public)) => line.replace(secret, public),
                        None => line,
                    });
                }
            }
            errors
        });
        let child = Process(Arc::new(Mutex::new(child)));
        Ok(Self { path: path.to_owned(), child, pixels, infos, log: Some(log), index: 0 })
    }

    /// Ends the reading from another thread, where [`VideoReader::next`] waits for what does not come.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.child.clone())
    }

    /// The file, or the stream's public name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Overwrites `frame` with the next picture, its time and its number among those given, from 0. Keeps the frame's
    /// allocation where the size stays.
    ///
    /// # Errors
    /// [`VideoError`] where the file cannot be read at all, or ffmpeg's output not be used.
    pub fn next(&mut self, frame: &mut Frame) -> Result<VideoNext, VideoError> {
        if self.log.is_none() {
            return Ok(VideoNext::End);
        }
        let Ok(info) = self.infos.recv() else {
            return self.finish();
        };
        if (frame.width(), frame.height()) != (info.width, info.height) {
            *frame = Frame::black(info.width, info.height)
                .map_err(|source| VideoError::Frame { path: self.path.clone(), source })?;
        }
        match self.pixels.read_exact(frame.rgb_mut()) {
            Ok(()) => {
                frame.t_secs = info.t_secs;
                frame.index = self.index;
                self.index += 1;
                Ok(VideoNext::Frame)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.finish(),
            Err(source) => Err(VideoError::Pipe { path: self.path.clone(), source }),
        }
    }

    /// After the last frame: an error where there was none at all, a note where the file ended badly.
    fn finish(&mut self) -> Result<VideoNext, VideoError> {
        let Some(log) = self.log.take() else {
            return Ok(VideoNext::End);
        };
        let failed = !self.child.ended_well();
        let errors = log.join().unwrap_or_default();
        let reason = errors.first().cloned();
        if self.index == 0 {
            let reason = reason.unwrap_or_else(|| "it holds no frame".to_owned());
            return Err(VideoError::Unreadable { path: self.path.clone(), reason });
        }
        Ok(match reason {
            Some(reason) => VideoNext::Damaged(reason),
            None if failed => VideoNext::Damaged("ffmpeg ended with an error".to_owned()),
            None => VideoNext::End,
        })
    }
}

impl Drop for VideoReader {
    fn drop(&mut self) {
        self.child.end();
    }
}

/// Ends a [`VideoReader`]'s ffmpeg: the reader then comes to its end.
#[derive(Clone, Debug)]
pub struct Stopper(Process);

impl Stopper {
    /// Ends it at once.
    pub fn stop(&self) {
        self.0.end();
    }
}

/// From one look whether ffmpeg has ended to the next.
const LOOK: Duration = Duration::from_millis(2);

/// A running ffmpeg.
#[derive(Clone, Debug)]
struct Process(Arc<Mutex<Child>>);

impl Process {
    fn end(&self) {
        let mut child = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Waits for its end, which is near: it has closed its output. [`Process::end`] may come in between.
    fn ended_well(&self) -> bool {
        loop {
            let ended = self.0.lock().unwrap_or_else(PoisonError::into_inner).try_wait();
            match ended {
                Ok(Some(status)) => return status.success(),
                Ok(None) => std::thread::sleep(LOOK),
                Err(_) => return false,
            }
        }
    }
}

const SHOW_INFO: &str = "showinfo=checksum=0";

/// The path as ffmpeg takes it for a file, whatever it looks like: `a:b.mp4` is no protocol, `-x.mp4` no option.
fn protocol_path(path: &Path) -> OsString {
    let mut url = OsString::from("file:");
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

    #[test]
    fn videos_are_known_by_their_extension() {
        assert!(is_video(Path::new("a/00001.mp4")) && is_video(Path::new("B.MKV")));
        assert!(!is_video(Path::new("mp4")) && !is_video(Path::new("notes.txt")));
    }
}
