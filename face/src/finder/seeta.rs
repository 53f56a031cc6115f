//! SeetaFace's frontal detector.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::{Detection, FindError, Finder};
use crate::{Frame, Rect};

/// The SeetaFace frontal detector (Liu et al. 2017, funnel-structured cascade), by crate `rustface`.
///
/// It gives boxes alone. The picture is searched at reduced size, which bounds the time a frame takes and with it the
/// smallest face: [`SeetaFinder::MIN_FACE_SHARE`] of the longer side.
pub struct SeetaFinder {
    detector: Box<dyn rustface::Detector>,
    resizer: Resizer,
    luma: Vec<u8>,
    small: Vec<u8>,
}

impl std::fmt::Debug for SeetaFinder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SeetaFinder").finish_non_exhaustive()
    }
}

const SEETA_MODEL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/seeta_fd_frontal.bin"));
/// Longer side of the picture that is searched, in pixels.
const SEARCH_SIDE_PX: u32 = 240;
/// Smallest face in that picture; the cascade's window is 40 px, below 20 px it sees nothing.
const SEARCH_MIN_FACE_PX: u32 = 24;
/// The cascade's own threshold for a face. SeetaFace's scores have no upper bound; at the threshold ours is a half.
const SCORE_THRESHOLD: f64 = 2.0;
const PYRAMID_STEP: f32 = 0.8;
const WINDOW_STEP_PX: u32 = 4;

impl SeetaFinder {
    /// The smallest face that is found, as a share of the picture's longer side.
    pub const MIN_FACE_SHARE: f32 = SEARCH_MIN_FACE_PX as f32 / SEARCH_SIDE_PX as f32;

    /// A finder with the embedded model.
    ///
    /// # Errors
    /// [`FindError::Model`] where rustface cannot read the model.
    pub fn new() -> Result<Self, FindError> {
        let model = rustface::read_model(SEETA_MODEL).map_err(|e| FindError::Model(e.to_string()))?;
        let mut detector = rustface::create_detector_with_model(model);
        detector.set_min_face_size(SEARCH_MIN_FACE_PX);
        detector.set_score_thresh(SCORE_THRESHOLD);
        detector.set_pyramid_scale_factor(PYRAMID_STEP);
        detector.set_slide_window_step(WINDOW_STEP_PX, WINDOW_STEP_PX);
        Ok(Self { detector, resizer: Resizer::new(), luma: Vec::new(), small: Vec::new() })
    }
}

impl Finder for SeetaFinder {
    fn find(&mut self, frame: &Frame, out: &mut Vec<Detection>) -> Result<(), FindError> {
        out.clear();
        let scale = SEARCH_SIDE_PX as f32 / frame.width().max(frame.height()) as f32;
        let shrink = |side: u32| ((side as f32 * scale).round() as u32).max(1);
        let (width, height) = (shrink(frame.width()), shrink(frame.height()));
        if width.min(height) < SEARCH_MIN_FACE_PX {
            return Ok(());
        }
        frame.luma_into(&mut self.luma);
        self.small.resize(width as usize * height as usize, 0);
        let resize = |e: &dyn std::fmt::Display| FindError::Resize(e.to_string());
        let source = ImageRef::new(frame.width(), frame.height(), &self.luma, PixelType::U8)
            .map_err(|e| resize(&e))?;
        let mut target =
            Image::from_slice_u8(width, height, &mut self.small, PixelType::U8).map_err(|e| resize(&e))?;
        let options =
            ResizeOptions::new().resize_alg(ResizeAlg::Convolution(fast_image_resize::FilterType::Bilinear));
        self.resizer.resize(&source, &mut target, &options).map_err(|e| resize(&e))?;
        let faces = self.detector.detect(&rustface::ImageData::new(&self.small, width, height));
        out.extend(faces.iter().map(|face| {
            let b = face.bbox();
            Detection {
                bbox: Rect::new(
                    b.x() as f32 / scale,
                    b.y() as f32 / scale,
                    b.width() as f32 / scale,
                    b.height() as f32 / scale,
                ),
                score: 1.0 / (1.0 + (SCORE_THRESHOLD - face.score()).exp()) as f32,
                landmarks: None,
            }
        }));
        out.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(())
    }

    fn name(&self) -> &'static str {
        "seeta"
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pictures_without_a_face_give_nothing() {
        let mut finder = SeetaFinder::new().unwrap();
        let mut found = Vec::new();
        for (width, height) in [(640, 480), (16, 16), (1, 1), (4000, 20)] {
            finder.find(&Frame::black(width, height).unwrap(), &mut found).unwrap();
            assert!(found.is_empty(), "{width}x{height}: {found:?}");
        }
    }
}
