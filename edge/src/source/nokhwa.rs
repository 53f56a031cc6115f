//! Cameras through nokhwa: for systems without Video4Linux, and for odd ones.
//!
//! Some of its backends block for ever where a camera stalls, so that a thread of its own reads. Such a camera is told to be
//! frozen, but cannot be opened again: its thread hangs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nokhwa::pixel_format::RgbFormat;
use nokhwa::utils::{
    CameraFormat, CameraIndex, FrameFormat, RequestedFormat, RequestedFormatType, Resolution,
};
use nokhwa::{Buffer, Camera, NokhwaError};

use super::pixels::{PixelFormat, RawFormat, RawLayout};
use super::reader::{Reader, Watched};
use super::reconnect::Backoff;
use super::{Capture, Encoding, Next, Pace, Source, SourceError, SourceOptions, jpeg};
use crate::telemetry::{SourceState, Telemetry};

/// What comes before the camera's number.
pub(super) const PREFIX: &str = "nokhwa:";
const DEFAULT_SIZE: (u32, u32) = (640, 480);
const DEFAULT_FPS: f64 = 30.0;

/// A camera of nokhwa's.
#[derive(Debug)]
pub(super) struct NokhwaCamera(Watched);

impl NokhwaCamera {
    /// Opens `nokhwa:N`. That there is no such camera shows at the first frame.
    pub(super) fn open(
        spec: &str,
        options: &SourceOptions,
        telemetry: &Arc<Telemetry>,
    ) -> Result<Self, SourceError> {
        let number = spec.strip_prefix(PREFIX).and_then(|number| number.parse().ok());
        let Some(number) = number else {
            let reason = "give a camera's number, as in nokhwa:0";
            return Err(SourceError::Unsupported { spec: spec.to_owned(), reason });
        };
        let (wanted, state) = (Wanted::of(number, options), Arc::clone(telemetry));
        let name = spec.to_owned();
        let make = move || {
            let mut state = Reading { name, wanted, telemetry: state, ..Reading::default() };
            move |capture: &mut Capture| state.next(capture)
        };
        Ok(Self(Watched::new(Reader::start("nokhwa", make)?, spec.to_owned(), telemetry)))
    }
}

impl Source for NokhwaCamera {
    fn next(&mut self, capture: &mut Capture) -> Result<Next, SourceError> {
        self.0.next(capture)
    }

    fn pace(&self) -> Pace {
        Pace::Live
    }
}

/// What is asked of the camera.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    number: u32,
    size: (u32, u32),
    fps: u32,
    format: Option<FrameFormat>,
}

impl Wanted {
    fn of(number: u32, options: &SourceOptions) -> Self {
        let format = options.format.map(|format| match format {
            PixelFormat::Mjpg => FrameFormat::MJPEG,
            PixelFormat::Raw(RawFormat::Yuyv) => FrameFormat::YUYV,
            PixelFormat::Raw(RawFormat::Nv12) => FrameFormat::NV12,
            PixelFormat::Raw(RawFormat::Grey) => FrameFormat::GRAY,
        });
        let fps = options.fps.unwrap_or(DEFAULT_FPS).round().max(1.0) as u32;
        Self { number, size: options.size.unwrap_or(DEFAULT_SIZE), fps, format }
    }

    fn open(&self) -> Result<Camera, NokhwaError> {
        let format = self.format.unwrap_or(FrameFormat::MJPEG);
        let size = Resolution::new(self.size.0, self.size.1);
        let closest = RequestedFormatType::Closest(CameraFormat::new(size, format, self.fps));
        let only = [format];
        let request = match self.format {
            Some(_) => RequestedFormat::with_formats(closest, &only),
            None => RequestedFormat::new::<RgbFormat>(closest),
        };
        let mut camera = Camera::new(CameraIndex::Index(self.number), request)?;
        camera.open_stream()?;
        Ok(camera)
    }
}

/// The reading thread's own.
#[derive(Default)]
struct Reading {
    name: String,
    wanted: Wanted,
    telemetry: Arc<Telemetry>,
    camera: Option<Camera>,
    backoff: Option<Backoff>,
    first: Option<Instant>,
    frames: u64,
}

impl Reading {
    fn next(&mut self, capture: &mut Capture) -> Result<Next, SourceError> {
        if self.camera.is_none() && self.backoff.is_some_and(|backoff| !backoff.wait()) {
            return Ok(Next::Idle);
        }
        let read = match &mut self.camera {
            Some(camera) => camera.frame(),
            None => match self.wanted.open() {
                Ok(camera) => self.camera.insert(camera).frame(),
                Err(error) => Err(error),
            },
        };
        let buffer = match read {
            Ok(buffer) => buffer,
            // One that never worked is an error; one that did is waited for.
            Err(error) if self.first.is_none() => {
                return Err(SourceError::Stream { url: self.name.clone(), reason: error.to_string() });
            }
            Err(error) => {
                self.camera = None;
                self.backoff.get_or_insert_with(|| Backoff::new(Instant::now())).failed(Instant::now());
                self.telemetry.source.set(SourceState::Gone, &format!("{}: {error}", self.name));
                return Ok(Next::Idle);
            }
        };
        if self.backoff.take().is_some() {
            self.telemetry.source.count_reopened();
            self.telemetry.source.set(SourceState::Live, &self.name);
        }
        capture.taken = Instant::now();
        let first = *self.first.get_or_insert(capture.taken);
        capture.frame.t_secs = capture.taken.duration_since(first).as_secs_f64();
        capture.frame.index = self.frames;
        (capture.truth, capture.read) = (None, Duration::ZERO);
        self.frames += 1;
        if fill(&buffer, capture) {
            Ok(Next::Frame)
        } else {
            self.telemetry.source.count_damaged();
            Ok(Next::Idle)
        }
    }
}

/// Copies a picture; false where its format cannot be read.
fn fill(buffer: &Buffer, capture: &mut Capture) -> bool {
    let (width, height) = (buffer.resolution().width(), buffer.resolution().height());
    let raw = |format| Encoding::Raw(RawLayout::packed(format, width, height));
    capture.encoding = match buffer.source_frame_format() {
        FrameFormat::MJPEG => {
            jpeg::complete(buffer.buffer(), &mut capture.raw);
            capture.encoding = Encoding::Jpeg;
            return true;
        }
        FrameFormat::RAWRGB => {
            let rgb = buffer.buffer();
            if capture.frame.resize(width, height).is_err() || rgb.len() != capture.frame.rgb().len() {
                return false;
            }
            capture.frame.rgb_mut().copy_from_slice(rgb);
            capture.encoding = Encoding::Decoded;
            return true;
        }
        FrameFormat::YUYV => raw(RawFormat::Yuyv),
        FrameFormat::NV12 => raw(RawFormat::Nv12),
        FrameFormat::GRAY => raw(RawFormat::Grey),
        FrameFormat::RAWBGR => return false,
    };
    capture.raw.clear();
    capture.raw.extend_from_slice(buffer.buffer());
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn pictures_are_taken_in_their_format() {
        let mut capture = Capture::new().unwrap();
        let buffer = |bytes: &[u8], format| Buffer::new(Resolution::new(2, 1), bytes, format);
        for (bytes, format, rgb) in [
            (&[1, 2, 3, 4, 5, 6][..], FrameFormat::RAWRGB, [1, 2, 3, 4, 5, 6]),
            (&[7, 9], FrameFormat::GRAY, [7, 7, 7, 9, 9, 9]),
            (&[16, 128, 235, 128], FrameFormat::YUYV, [0, 0, 0, 255, 255, 255]),
        ] {
            assert!(fill(&buffer(bytes, format), &mut capture));
            capture.decode(semblance_face::frame::Leniency::Strict).unwrap();
            assert_eq!(capture.frame.rgb(), rgb, "{format}");
        }
        assert!(!fill(&buffer(&[1, 2, 3], FrameFormat::RAWRGB), &mut capture));
        assert!(!fill(&buffer(&[0; 6], FrameFormat::RAWBGR), &mut capture));
    }

    #[test]
    fn a_camera_without_a_number_is_refused() {
        let error = NokhwaCamera::open("nokhwa:x", &SourceOptions::default(), &Arc::default()).unwrap_err();
        assert!(error.to_string().contains("nokhwa:0"));
    }
}
