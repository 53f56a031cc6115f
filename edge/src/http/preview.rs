//! `/v1/preview.mjpg`: the latest picture as a JPEG, over and over. One encoder serves all viewers, at their service only.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use image::codecs::jpeg::JpegEncoder;
use image::{ImageBuffer, ImageError, Rgb};
use semblance_face::Frame;
use tokio::sync::watch;

use super::Context;
use crate::preview::{Picture, Preview};

/// Wider pictures are reduced to this many pixels.
const MAX_WIDTH: u32 = 960;
const QUALITY: u8 = 75;
/// Least time from one picture to the next.
const PERIOD: Duration = Duration::from_micros(1_000_000 / 15);
/// How long the encoder waits before it looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(200);
/// A viewer who gets no picture for so long is let go, and may come again.
const DROUGHT: Duration = Duration::from_secs(30);
const BOUNDARY: &str = "semblance-frame";

/// The latest picture for all viewers, as a part of their stream.
#[derive(Debug)]
pub(super) struct Frames {
    latest: watch::Sender<Bytes>,
    encoder: OnceLock<Thread>,
}

impl Default for Frames {
    fn default() -> Self {
        Self { latest: watch::channel(Bytes::new()).0, encoder: OnceLock::new() }
    }
}

impl Frames {
    /// The encoder's thread, which sleeps while nobody looks.
    pub(super) fn woken_by(&self, encoder: Thread) {
        let _ = self.encoder.set(encoder);
    }

    fn look(&self) -> watch::Receiver<Bytes> {
        let receiver = self.latest.subscribe();
        if let Some(encoder) = self.encoder.get() {
            encoder.unpark();
        }
        receiver
    }

    /// Clients that look.
    pub(super) fn viewers(&self) -> usize {
        self.latest.receiver_count()
    }

    fn is_wanted(&self) -> bool {
        self.viewers() > 0
    }
}

/// Encodes pictures while somebody looks, until the server stops.
pub(super) fn encode(preview: &Preview, frames: &Frames, stopping: &AtomicBool) {
    let stopping = || stopping.load(Ordering::Relaxed);
    while !stopping() {
        if !frames.is_wanted() {
            std::thread::park_timeout(PATIENCE);
            continue;
        }
        let viewer = preview.look();
        let (mut picture, mut due) = (Picture::default(), Instant::now());
        while frames.is_wanted() && !stopping() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if !viewer.wait(&mut picture, PATIENCE) {
                continue;
            }
            due = Instant::now() + PERIOD;
            match to_jpeg(&picture) {
                Ok(jpeg) => drop(frames.latest.send_replace(part(picture.frame, &jpeg))),
                Err(error) => log::debug!("preview of frame {}: {error}", picture.frame),
            }
        }
        // Nobody looks any more: nothing is kept.
        frames.latest.send_replace(Bytes::new());
    }
}

/// A picture as JPEG, at most [`MAX_WIDTH`] wide. What a camera made is handed on as it is.
fn to_jpeg(picture: &Picture) -> Result<Vec<u8>, ImageError> {
    let [width, height] = picture.size;
    if picture.jpeg && width <= MAX_WIDTH {
        return Ok(picture.bytes.clone());
    }
    let invalid = |what: String| ImageError::IoError(io::Error::new(io::ErrorKind::InvalidData, what));
    let frame;
    let rgb = if picture.jpeg {
        frame = Frame::decode(&picture.bytes).map_err(|e| invalid(e.to_string()))?;
        frame.rgb()
    } else {
        &picture.bytes
    };
    let view = ImageBuffer::<Rgb<u8>, &[u8]>::from_raw(width, height, rgb)
        .ok_or_else(|| invalid(format!("{} bytes are no {width}x{height}", rgb.len())))?;
    let mut jpeg = Vec::with_capacity(64 * 1024);
    let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, QUALITY);
    if width > MAX_WIDTH {
        let reduced = (u64::from(height) * u64::from(MAX_WIDTH) / u64::from(width)).max(1) as u32;
        encoder.encode_image(&image::imageops::thumbnail(&view, MAX_WIDTH, reduced))?;
    } else {
        encoder.encode(rgb, width, height, image::ExtendedColorType::Rgb8)?;
    }
    Ok(jpeg)
}

/// A picture with its header and the boundary behind it: browsers show a part once its end has come.
fn part(frame: u64, jpeg: &[u8]) -> Bytes {
    let mut part =
        format!("Content-Type: image/jpeg\r\nContent-Length: {}\r\nX-Frame: {frame}\r\n\r\n", jpeg.len())
            .into_bytes();
    part.extend_from_slice(jpeg);
    part.extend_from_slice(format!("\r\n--{BOUNDARY}\r\n").as_bytes());
    part.into()
}

/// The stream of pictures.
pub(super) async fn preview(State(context): State<Arc<Context>>) -> Response {
    let mut receiver = context.preview.look();
    // A picture that somebody else was shown just now is worth showing, too.
    receiver.mark_changed();
    let first = Bytes::from(format!("--{BOUNDARY}\r\n"));
    let parts = futures_util::stream::unfold((receiver, Some(first)), |(mut receiver, first)| async move {
        let part = match first {
            Some(first) => first,
            None => tokio::time::timeout(DROUGHT, next(&mut receiver)).await.ok()??,
        };
        Some((Ok::<_, Infallible>(part), (receiver, None)))
    });
    let kind = format!("multipart/x-mixed-replace; boundary={BOUNDARY}");
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(parts)).into_response()
}

/// The next picture, or the one after where that came meanwhile.
async fn next(receiver: &mut watch::Receiver<Bytes>) -> Option<Bytes> {
    loop {
        receiver.changed().await.ok()?;
        let part = receiver.borrow_and_update().clone();
        if !part.is_empty() {
            return Some(part);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn picture(width: u32, height: u32) -> Picture {
        let bytes = (0..height).flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, 99])).collect();
        Picture { size: [width, height], bytes, ..Picture::default() }
    }

    #[test]
    fn wide_pictures_are_reduced_and_a_cameras_own_are_handed_on() {
        for (size, expected) in [((640, 480), (640, 480)), ((1920, 1080), (960, 540)), ((8000, 1), (960, 1))]
        {
            let jpeg = to_jpeg(&picture(size.0, size.1)).unwrap();
            let decoded = Frame::decode(&jpeg).unwrap();
            assert_eq!((decoded.width(), decoded.height()), expected);
            let of_camera =
                Picture { size: size.into(), jpeg: true, bytes: jpeg.clone(), ..Picture::default() };
            if size.0 <= MAX_WIDTH {
                assert_eq!(to_jpeg(&of_camera).unwrap(), jpeg);
            }
        }
        let short = Picture { bytes: vec![0; 10], ..picture(8, 8) };
        assert!(to_jpeg(&short).is_err());
        let broken = Picture { size: [1000, 8], jpeg: true, bytes: vec![1; 99], ..Picture::default() };
        assert!(to_jpeg(&broken).is_err());
    }
}
