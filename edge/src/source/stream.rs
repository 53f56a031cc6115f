//! Network streams through ffmpeg, connected anew when they end or stand still.

use std::sync::Arc;
use std::time::{Duration, Instant};

use semblance_face::video::{Stopper, VideoNext, VideoReader};

use super::reader::Reader;
use super::reconnect::Backoff;
use super::{Capture, Encoding, Next, Pace, Source, SourceError};
use crate::telemetry::{SourceState, Telemetry};

/// What comes before `://` in the URLs of streams.
const SCHEMES: [&str; 9] = ["rtsp", "rtsps", "rtmp", "http", "https", "tcp", "udp", "rtp", "srt"];
/// A stream without frames for this long is frozen...
const FROZEN: Duration = Duration::from_secs(4);
/// ...and one that was just connected after this long: it may have to wait for a key frame.
const FIRST_FRAME: Duration = Duration::from_secs(10);

/// Whether this names a network stream.
pub(crate) fn is_url(spec: &str) -> bool {
    spec.split_once("://").is_some_and(|(scheme, _)| SCHEMES.iter().any(|s| s.eq_ignore_ascii_case(scheme)))
}

/// A network stream, for as long as the process runs. One that never gave a frame is an error; once it did, it is
/// connected again for ever, also after an orderly end.
#[derive(Debug)]
pub(super) struct Stream {
    url: String,
    /// Without credentials.
    name: String,
    telemetry: Arc<Telemetry>,
    connection: Option<Connection>,
    backoff: Backoff,
    /// When the first frame came.
    first: Option<Instant>,
    frames: u64,
}

/// An ffmpeg and the thread that reads from it.
#[derive(Debug)]
struct Connection {
    reader: Reader,
    stopper: Stopper,
    /// When a frame came last, or else when it was connected.
    last_frame: Instant,
    /// The stream's time at its first frame, and ours.
    start: Option<(f64, f64)>,
}

impl Connection {
    fn open(url: &str) -> Result<Self, SourceError> {
        let mut video = VideoReader::open_url(url)?;
        let stopper = video.stopper();
        let read = move |capture: &mut Capture| {
            let next = video.next(&mut capture.frame)?;
            capture.taken = Instant::now();
            Ok(match next {
                VideoNext::Frame => Next::Frame,
                VideoNext::Damaged(reason) => Next::Skipped(reason),
                VideoNext::End => Next::End,
            })
        };
        Ok(Self {
            reader: Reader::start("stream", move || read)?,
            stopper,
            last_frame: Instant::now(),
            start: None,
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.stopper.stop();
    }
}

impl Stream {
    /// Connects to a URL.
    pub(super) fn open(url: &str, telemetry: &Arc<Telemetry>) -> Result<Self, SourceError> {
        Ok(Self {
            url: url.to_owned(),
            name: semblance_face::url::public(url),
            telemetry: Arc::clone(telemetry),
            connection: Some(Connection::open(url)?),
            backoff: Backoff::new(Instant::now()),
            first: None,
            frames: 0,
        })
    }

    /// Closes the connection, to connect again; an error where it never worked.
    fn lose(&mut self, state: SourceState, reason: &str) -> Result<Next, SourceError> {
        if self.first.is_none() {
            return Err(SourceError::Stream { url: self.name.clone(), reason: reason.to_owned() });
        }
        self.connection = None;
        self.backoff.failed(Instant::now());
        self.telemetry.source.set(state, &format!("{}: {reason}", self.name));
        Ok(Next::Idle)
    }
}

impl Source for Stream {
    fn next(&mut self, capture: &mut Capture) -> Result<Next, SourceError> {
        let Some(connection) = &mut self.connection else {
            if self.backoff.wait() {
                match Connection::open(&self.url) {
                    Ok(connection) => self.connection = Some(connection),
                    Err(error) => return self.lose(SourceState::Gone, &error.to_string()),
                }
            }
            return Ok(Next::Idle);
        };
        let now = Instant::now();
        match connection.reader.next(capture) {
            Ok(Next::Frame) => {
                let first = *self.first.get_or_insert(capture.taken);
                let since_first = capture.taken.saturating_duration_since(first).as_secs_f64();
                if connection.start.is_none() {
                    self.telemetry.source.set(SourceState::Live, &self.name);
                    if self.frames > 0 {
                        self.telemetry.source.count_reopened();
                    }
                    self.backoff.reset();
                }
                // The stream's own clock, which is steadier than ours, set anew with every connection.
                let (theirs, ours) = *connection.start.get_or_insert((capture.frame.t_secs, since_first));
                connection.last_frame = now;
                capture.frame.t_secs = ours + (capture.frame.t_secs - theirs).max(0.0);
                capture.frame.index = self.frames;
                self.frames += 1;
                (capture.encoding, capture.truth, capture.read) = (Encoding::Decoded, None, Duration::ZERO);
                Ok(Next::Frame)
            }
            Ok(Next::Idle) => {
                let patience = if connection.start.is_some() { FROZEN } else { FIRST_FRAME };
                if now.duration_since(connection.last_frame) < patience {
                    return Ok(Next::Idle);
                }
                self.lose(SourceState::Frozen, &format!("no frame for {} s", patience.as_secs()))
            }
            Ok(Next::Skipped(reason)) => self.lose(SourceState::Gone, &reason),
            Ok(Next::End) => self.lose(SourceState::Gone, "the stream ended"),
            Err(error) if self.first.is_none() => Err(error),
            Err(error) => self.lose(SourceState::Gone, &error.to_string()),
        }
    }

    fn pace(&self) -> Pace {
        Pace::Live
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;

    use super::super::jpeg::tests::picture;
    use super::*;

    fn has_ffmpeg() -> bool {
        let there = Command::new("ffmpeg").arg("-version").output().is_ok();
        if !there {
            eprintln!("skipped: there is no ffmpeg program");
        }
        there
    }

    /// Sends `frames` pictures as cameras do over HTTP, 20 a second.
    fn send_pictures(client: &mut TcpStream, frames: u32) -> std::io::Result<()> {
        let mut request = [0; 4096];
        let _ = client.read(&mut request)?;
        write!(client, "HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n")?;
        for i in 0..frames {
            let jpeg = picture(i);
            write!(client, "--b\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", jpeg.len())?;
            client.write_all(&jpeg)?;
            client.write_all(b"\r\n")?;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    #[test]
    fn streams_are_known_by_their_scheme() {
        for url in ["rtsp://host/x", "RTSP://host/x", "http://h", "https://h", "tcp://h:1", "udp://@:5"] {
            assert!(is_url(url), "{url}");
        }
        for other in ["clip.mp4", "a://b", "/tmp/http://x", "demo"] {
            assert!(!is_url(other), "{other}");
        }
    }

    #[test]
    fn a_stream_that_ends_or_freezes_is_connected_again() {
        if !has_ffmpeg() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://user:secret@{}/video", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut held = Vec::new();
            // The first connection ends, the second freezes, the third goes on.
            for frames in [40, 40, 1000] {
                let (mut client, _) = listener.accept().unwrap();
                let _ = send_pictures(&mut client, frames);
                if held.is_empty() {
                    client.shutdown(std::net::Shutdown::Both).unwrap();
                }
                held.push(client);
            }
        });
        let telemetry = Arc::<Telemetry>::default();
        let mut source = Stream::open(&url, &telemetry).unwrap();
        let mut capture = Capture::new().unwrap();
        let (start, mut states, mut last) = (Instant::now(), Vec::new(), None);
        while telemetry.source.reopened() < 2 {
            assert!(start.elapsed() < Duration::from_secs(60), "{states:?}");
            let asked = Instant::now();
            if source.next(&mut capture).unwrap() == Next::Frame {
                assert_eq!((capture.frame.width(), capture.frame.height()), (96, 64));
                if let Some((index, t)) = last {
                    assert!(capture.frame.index == index + 1 && capture.frame.t_secs >= t);
                }
                last = Some((capture.frame.index, capture.frame.t_secs));
            }
            assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
            let (state, detail) = telemetry.source.state();
            assert!(!detail.contains("secret"), "{detail}");
            if states.last() != Some(&state) {
                states.push(state);
            }
        }
        use SourceState::{Frozen, Gone, Live};
        states.retain(|state| *state != SourceState::Starting);
        assert_eq!(states, [Live, Gone, Live, Frozen, Live]);
    }

    #[test]
    fn a_stream_that_never_was_is_an_error_without_its_password() {
        if !has_ffmpeg() {
            return;
        }
        // A port that was free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut source =
            Stream::open(&format!("http://user:secret@{address}/x?key=k"), &Arc::default()).unwrap();
        let mut capture = Capture::new().unwrap();
        let error = loop {
            match source.next(&mut capture) {
                Ok(next) => assert_eq!(next, Next::Idle),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains(&format!("http://{address}/x")) && !error.contains("secret"), "{error}");
    }
}
