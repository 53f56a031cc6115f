//! Standard input: JPEGs one after the other, or raw pixels. What `rpicam-vid --codec mjpeg -o -` and the like write.

use std::io::{self, ErrorKind, IsTerminal, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::jpeg::{self, Piece, Splitter};
use super::pixels::{PixelFormat, RawLayout};
use super::reader::{Reader, Watched};
use super::{Capture, Encoding, Next, Pace, Source, SourceError, SourceOptions};
use crate::telemetry::Telemetry;

/// Bytes read at once.
const CHUNK: usize = 1 << 16;

/// Pictures that come on standard input.
#[derive(Debug)]
pub(super) struct Stdin(Watched);

impl Stdin {
    /// Reads the process's standard input.
    pub(super) fn open(options: &SourceOptions, telemetry: &Arc<Telemetry>) -> Result<Self, SourceError> {
        if io::stdin().is_terminal() {
            let hint =
                "it is a terminal; pipe pictures into it (rpicam-vid -t 0 --codec mjpeg -o - | edge run ..)";
            return Err(SourceError::Stdin(hint.to_owned()));
        }
        Self::new(io::stdin(), options, telemetry)
    }

    fn new(
        input: impl Read + Send + 'static,
        options: &SourceOptions,
        telemetry: &Arc<Telemetry>,
    ) -> Result<Self, SourceError> {
        let clock = Clock::default();
        let (reader, what) = match (options.format, options.size) {
            (None | Some(PixelFormat::Mjpg), _) => {
                let mut pictures = Mjpeg {
                    input,
                    splitter: Splitter::default(),
                    chunk: vec![0; CHUNK],
                    clock,
                    telemetry: Arc::clone(telemetry),
                };
                let make = move || move |capture: &mut Capture| pictures.next(capture);
                (Reader::start("stdin", make)?, "standard input, mjpg".to_owned())
            }
            (Some(PixelFormat::Raw(format)), Some((width, height))) => {
                semblance_face::Frame::byte_len(width, height)
                    .map_err(|error| SourceError::Stdin(error.to_string()))?;
                let mut pictures = Raw { input, layout: RawLayout::packed(format, width, height), clock };
                let what = format!("standard input, {} {width}x{height}", PixelFormat::Raw(format));
                let make = move || move |capture: &mut Capture| pictures.next(capture);
                (Reader::start("stdin", make)?, what)
            }
            (Some(format), None) => {
                return Err(SourceError::Stdin(format!("{format} frames need their size: --size 640x480")));
            }
        };
        Ok(Self(Watched::new(reader, what, telemetry)))
    }
}

impl Source for Stdin {
    fn next(&mut self, capture: &mut Capture) -> Result<Next, SourceError> {
        self.0.next(capture)
    }

    fn pace(&self) -> Pace {
        Pace::Live
    }
}

/// Numbers frames and tells when they came.
#[derive(Debug, Default)]
struct Clock {
    frames: u64,
    first: Option<Instant>,
}

impl Clock {
    fn stamp(&mut self, capture: &mut Capture) {
        capture.taken = Instant::now();
        let first = *self.first.get_or_insert(capture.taken);
        capture.frame.t_secs = capture.taken.duration_since(first).as_secs_f64();
        capture.frame.index = self.frames;
        capture.truth = None;
        capture.read = Duration::ZERO;
        self.frames += 1;
    }
}

fn io_error(error: io::Error) -> SourceError {
    SourceError::Stdin(error.to_string())
}

/// JPEGs one after the other.
#[derive(Debug)]
struct Mjpeg<R> {
    input: R,
    splitter: Splitter,
    chunk: Vec<u8>,
    clock: Clock,
    telemetry: Arc<Telemetry>,
}

impl<R: Read> Mjpeg<R> {
    fn next(&mut self, capture: &mut Capture) -> Result<Next, SourceError> {
        loop {
            match self.splitter.next() {
                Some(Piece::Picture(picture)) => {
                    jpeg::complete(picture, &mut capture.raw);
                    capture.encoding = Encoding::Jpeg;
                    self.clock.stamp(capture);
                    return Ok(Next::Frame);
                }
                Some(Piece::Broken) => {
                    self.telemetry.source.count_damaged();
                    self.clock.frames += 1;
                    continue;
                }
                None => {}
            }
            match self.input.read(&mut self.chunk) {
                Ok(0) if self.clock.frames == 0 => {
                    let hint = "no JPEG came (raw pixels need --format and --size)";
                    return Err(SourceError::Stdin(hint.to_owned()));
                }
                Ok(0) => {
                    if self.splitter.is_within_picture() {
                        self.telemetry.source.count_damaged();
                    }
                    return Ok(Next::End);
                }
                Ok(read) => self.splitter.push(&self.chunk[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(io_error(error)),
            }
        }
    }
}

/// Raw pixels, picture after picture.
#[derive(Debug)]
struct Raw<R> {
    input: R,
    layout: RawLayout,
    clock: Clock,
}

impl<R: Read> Raw<R> {
    fn next(&mut self, capture: &mut Capture) -> Result<Next, SourceError> {
        capture.raw.resize(self.layout.byte_len(), 0);
        match self.input.read_exact(&mut capture.raw) {
            Ok(()) => {
                capture.encoding = Encoding::Raw(self.layout);
                self.clock.stamp(capture);
                Ok(Next::Frame)
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                if self.clock.frames == 0 {
                    return Err(SourceError::Stdin(format!(
                        "it ended before the first picture of {} bytes",
                        self.layout.byte_len()
                    )));
                }
                Ok(Next::End)
            }
            Err(error) => Err(io_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Cursor;

    use semblance_face::frame::Leniency;

    use super::super::jpeg::tests::picture;
    use super::super::pixels::RawFormat;
    use super::*;
    use crate::telemetry::SourceState;

    /// Gives what it holds, then nothing for ever; as a pipe whose writer hangs.
    struct Hanging(Cursor<Vec<u8>>);

    impl Read for Hanging {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => loop {
                    std::thread::park();
                },
                // In small pieces, as pipes give them.
                read => Ok(read),
            }
        }
    }

    /// The frames of an input, decoded, until its end.
    fn frames(source: &mut Stdin) -> Result<Vec<(u64, Vec<u8>)>, SourceError> {
        let (mut capture, mut frames) = (Capture::new().unwrap(), Vec::new());
        loop {
            match source.next(&mut capture)? {
                Next::Frame => {
                    capture.decode(Leniency::Strict).unwrap();
                    frames.push((capture.frame.index, capture.frame.rgb().to_vec()));
                }
                Next::End => return Ok(frames),
                Next::Idle | Next::Skipped(_) => {}
            }
        }
    }

    #[test]
    fn a_stream_of_jpegs_with_garbage_and_a_cut_end() {
        let pictures = [picture(1), picture(2), picture(3)];
        let stream = [&pictures[0][..], b"garbage", &pictures[1], &pictures[2], &picture(4)[..900]].concat();
        let telemetry = Arc::default();
        let mut source = Stdin::new(Cursor::new(stream), &SourceOptions::default(), &telemetry).unwrap();
        let found = frames(&mut source).unwrap();
        assert_eq!(found.len(), 3);
        for (i, (index, rgb)) in found.iter().enumerate() {
            assert_eq!(*index, i as u64);
            assert_eq!(rgb, semblance_face::Frame::decode(&pictures[i]).unwrap().rgb());
        }
        assert_eq!(telemetry.source.damaged(), 1);
        assert_eq!(telemetry.source.state(), (SourceState::Live, "standard input, mjpg".to_owned()));
    }

    #[test]
    fn an_input_that_hangs_blocks_nobody_and_is_told() {
        let telemetry = Arc::default();
        let input = Hanging(Cursor::new(picture(1)));
        let mut source = Stdin::new(input, &SourceOptions::default(), &telemetry).unwrap();
        let mut capture = Capture::new().unwrap();
        while source.next(&mut capture).unwrap() != Next::Frame {}
        let start = Instant::now();
        while telemetry.source.state().0 != SourceState::Frozen {
            let asked = Instant::now();
            assert_eq!(source.next(&mut capture).unwrap(), Next::Idle);
            assert!(asked.elapsed() < Duration::from_millis(600), "{:?}", asked.elapsed());
            assert!(start.elapsed() < Duration::from_secs(5));
        }
        assert!(start.elapsed() >= Duration::from_millis(1500));
    }

    #[test]
    fn raw_pixels_need_a_size_and_come_whole() {
        let telemetry = Arc::default();
        let raw = |size| SourceOptions {
            format: Some(PixelFormat::Raw(RawFormat::Grey)),
            size,
            ..SourceOptions::default()
        };
        let open = |bytes: &[u8], size| Stdin::new(Cursor::new(bytes.to_vec()), &raw(size), &telemetry);
        let found = frames(&mut open(&[1, 2, 3, 4, 5, 6, 7], Some((3, 1))).unwrap()).unwrap();
        assert_eq!(found, [(0, vec![1, 1, 1, 2, 2, 2, 3, 3, 3]), (1, vec![4, 4, 4, 5, 5, 5, 6, 6, 6])]);
        let message = |result: Result<Stdin, SourceError>| result.unwrap_err().to_string();
        assert!(message(open(&[], None)).contains("--size"));
        assert!(message(open(&[], Some((0, 5)))).contains("0x5"));
        let error = frames(&mut open(&[1, 2], Some((3, 1))).unwrap()).unwrap_err().to_string();
        assert!(error.contains("3 bytes"), "{error}");
    }

    #[test]
    fn an_input_without_pictures_is_an_error() {
        for bytes in [&b""[..], b"this is no video", &picture(1)[..500]] {
            let options = SourceOptions::default();
            let mut source = Stdin::new(Cursor::new(bytes.to_vec()), &options, &Arc::default()).unwrap();
            let error = frames(&mut source).unwrap_err().to_string();
            assert!(error.starts_with("standard input: ") && error.contains("--format"), "{error}");
        }
    }
}
