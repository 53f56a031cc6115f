//! Decoding of what a source gives, and what to do about a source of which nothing can be decoded.

use std::time::{Duration, Instant};

use semblance_face::FrameError;
use semblance_face::frame::Leniency;

use super::{Capture, Encoding};
use crate::telemetry::SourceMonitor;

/// Frames in a row that cannot be decoded before JPEGs are read leniently: a damaged one is no reason to.
const STRICT_FRAMES: u32 = 10;
/// Frames that are read leniently before one is read strictly again.
const LENIENT_FRAMES: u32 = 30;
/// A source of which nothing could be decoded for this long, and in so many frames, is ill.
const ILL_AFTER: Duration = Duration::from_secs(2);
const ILL_FRAMES: u32 = 3;

/// Decodes frame by frame.
///
/// JPEGs are read strictly, so that a torn one is left out rather than shown. Some cameras bend the standard in every frame:
/// where none can be read strictly, they are read leniently until one can.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Frames up to the next one that is read strictly; 0 where all are.
    lenient: u32,
    /// Frames that could not be decoded since one could be, and when the first of them came.
    failing: Option<(u32, Instant)>,
}

impl Decoder {
    /// Decodes a capture, and tells `monitor` of damaged frames and of a source that gives no other.
    ///
    /// # Errors
    /// [`FrameError`] where the bytes are damaged.
    pub fn decode(&mut self, capture: &mut Capture, monitor: &SourceMonitor) -> Result<(), FrameError> {
        let result = self.read(capture);
        match &result {
            Ok(()) => {
                if self.failing.take().is_some() {
                    monitor.set_undecodable(None);
                }
            }
            Err(error) => {
                monitor.count_damaged();
                let (frames, since) = self.failing.get_or_insert((0, Instant::now()));
                *frames += 1;
                if since.elapsed() >= ILL_AFTER && *frames >= ILL_FRAMES {
                    monitor.set_undecodable(Some(error.to_string()));
                }
            }
        }
        result
    }

    fn read(&mut self, capture: &mut Capture) -> Result<(), FrameError> {
        if self.lenient > 1 {
            self.lenient -= 1;
            return capture.decode(Leniency::Lenient);
        }
        let was_lenient = std::mem::take(&mut self.lenient) > 0;
        let failed = self.failing.map_or(0, |(frames, _)| frames);
        let result = capture.decode(Leniency::Strict);
        match &result {
            Err(error)
                if capture.encoding == Encoding::Jpeg && (was_lenient || failed + 1 >= STRICT_FRAMES) =>
            {
                capture.decode(Leniency::Lenient)?;
                if !was_lenient {
                    log::warn!("no frame keeps to the standard ({error}): they are read leniently");
                }
                self.lenient = LENIENT_FRAMES;
                return Ok(());
            }
            Ok(()) if was_lenient => log::info!("frames keep to the standard again"),
            _ => {}
        }
        result
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::jpeg::tests::picture;
    use super::*;

    fn capture(raw: Vec<u8>) -> Capture {
        Capture { raw, encoding: Encoding::Jpeg, ..Capture::new().unwrap() }
    }

    /// A picture as no standard has it: bytes that mean nothing between two of its segments.
    fn bent() -> Vec<u8> {
        let mut bytes = picture(3);
        let length = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
        bytes.splice(4 + length..4 + length, [0x12, 0x34, 0x56]);
        bytes
    }

    #[test]
    fn one_torn_frame_is_left_out_and_a_camera_that_bends_the_standard_is_read() {
        let (mut decoder, monitor) = (Decoder::default(), SourceMonitor::default());
        let torn = picture(1)[..900].to_vec();
        assert!(decoder.decode(&mut capture(torn), &monitor).is_err());
        decoder.decode(&mut capture(picture(2)), &monitor).unwrap();
        assert_eq!((monitor.damaged(), monitor.undecodable()), (1, None));
        let mut bent = capture(bent());
        for _ in 1..STRICT_FRAMES {
            assert!(decoder.decode(&mut bent, &monitor).is_err());
        }
        for _ in 0..3 * LENIENT_FRAMES {
            decoder.decode(&mut bent, &monitor).unwrap();
            assert_eq!(bent.frame.rgb(), semblance_face::Frame::decode(&picture(3)).unwrap().rgb());
        }
        // Once one keeps to the standard, torn ones are left out again.
        for _ in 0..LENIENT_FRAMES {
            decoder.decode(&mut capture(picture(2)), &monitor).unwrap();
        }
        assert!(decoder.decode(&mut capture(picture(1)[..900].to_vec()), &monitor).is_err());
    }

    #[test]
    fn a_source_that_gives_nothing_that_can_be_decoded_is_ill_until_it_does() {
        let (mut decoder, monitor) = (Decoder::default(), SourceMonitor::default());
        let mut garbage = capture(b"no picture at all".to_vec());
        let start = Instant::now();
        while monitor.undecodable().is_none() {
            assert!(decoder.decode(&mut garbage, &monitor).is_err());
            assert!(start.elapsed() < 2 * ILL_AFTER);
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(start.elapsed() >= ILL_AFTER);
        decoder.decode(&mut capture(picture(1)), &monitor).unwrap();
        assert_eq!(monitor.undecodable(), None);
    }
}
