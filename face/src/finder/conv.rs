//! Semblance's own finder: one dense convolutional network over a small picture, on tract.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{PixelType, ResizeAlg, ResizeOptions, Resizer};
use tract_onnx::prelude::{TValue, TractError};

use super::{Detection, FindError, Finder};
use crate::network::{Network, one_line};
use crate::{Frame, Point, Rect};

/// Pixels between the cells of each grid that the network gives, in the order of its outputs.
pub const STRIDES: [usize; 3] = [8, 16, 32];

/// Values of a cell: logit of the score; box middle `x, y` from the cell's middle, in strides; logarithms of width and
/// height in strides; the five points `x, y` from the cell's middle, in strides.
pub const CELL_VALUES: usize = 15;

/// Sides of the network's input are multiples of this; a grid that does not divide a side has a cell that lies half beyond.
const SIDE_STEP: u32 = STRIDES[0] as u32;
/// Networks that are kept ready, each for one shape of picture.
const MOST_NETWORKS: usize = 6;
/// Of two faces of which one covers this share of the other, only the better is kept: large faces have parts that look like
/// small ones.
const MAX_COVERED: f32 = 0.6;
/// A width or height beyond this many strides is no box: it bounds what a damaged model can give.
const MAX_LOG_SIZE: f32 = 8.0;

/// A single-shot finder whose network gives score, box and five points for every cell of three grids.
///
/// The picture is searched at reduced size, its longer side [`ConvFinder::side_px`] pixels: that bounds the time a frame
/// takes and, with it, how small a face may be.
pub struct ConvFinder {
    onnx: Vec<u8>,
    side_px: u32,
    threshold: f32,
    /// A network for each of the last few shapes of picture.
    networks: Vec<((u32, u32), Network)>,
    resizer: Resizer,
    small: Vec<u8>,
}

impl std::fmt::Debug for ConvFinder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConvFinder").field("side_px", &self.side_px).finish_non_exhaustive()
    }
}

impl ConvFinder {
    /// Longer side of the searched picture that finds the faces of people before a webcam.
    pub const DEFAULT_SIDE_PX: u32 = 160;
    /// Longer side for faces that are small in the picture.
    pub const FAR_SIDE_PX: u32 = 320;
    /// Score from which a face is given: where recall and precision against the teacher are equal on people and sources that
    /// training never saw.
    pub const DEFAULT_THRESHOLD: f32 = 0.68;
    /// Longest side that a picture is searched at.
    pub const MAX_SIDE_PX: u32 = 1280;

    /// A finder over a network that `trainer finder` made: `[1,3,H,W]` f32 in `[-1,1]` to three grids of
    /// [`CELL_VALUES`], for sides that are multiples of 8.
    ///
    /// # Errors
    /// [`FindError::Model`] where tract cannot read or run it, or it gives something else, or where `side_px` is 0 or
    /// above [`ConvFinder::MAX_SIDE_PX`].
    pub fn new(onnx: Vec<u8>, side_px: u32) -> Result<Self, FindError> {
        if !(1..=Self::MAX_SIDE_PX).contains(&side_px) {
            let reason = format!("it cannot search at {side_px} px, give 1 to {}", Self::MAX_SIDE_PX);
            return Err(FindError::Model(reason));
        }
        let mut finder = Self {
            onnx,
            side_px,
            threshold: Self::DEFAULT_THRESHOLD,
            networks: Vec::new(),
            resizer: Resizer::new(),
            small: Vec::new(),
        };
        // A webcam's shape: shows whether the model works, and leaves it warm.
        let landscape = Frame::black(4, 3).map_err(|e| FindError::Model(e.to_string()))?;
        finder.find(&landscape, &mut Vec::new())?;
        Ok(finder)
    }

    /// Gives faces from this score on, in `[0, 1]`.
    #[must_use]
    pub fn with_threshold(mut self, threshold: f32) -> Self {
        self.threshold = threshold;
        self
    }

    /// Longer side of the searched picture.
    pub fn side_px(&self) -> u32 {
        self.side_px
    }

    /// The place among `networks` of the one for inputs of this size.
    fn network(&mut self, size: (u32, u32)) -> Result<usize, FindError> {
        if let Some(i) = self.networks.iter().position(|(s, _)| *s == size) {
            return Ok(i);
        }
        if self.networks.len() == MOST_NETWORKS {
            self.networks.remove(0);
        }
        let shape = [1, 3, size.1 as usize, size.0 as usize];
        let network = Network::load(&self.onnx, shape).map_err(|e| model_error(&e))?;
        self.networks.push((size, network));
        Ok(self.networks.len() - 1)
    }
}

impl Finder for ConvFinder {
    fn find(&mut self, frame: &Frame, out: &mut Vec<Detection>) -> Result<(), FindError> {
        out.clear();
        let scale = self.side_px as f32 / frame.width().max(frame.height()) as f32;
        let shrunk = |side: u32| ((side as f32 * scale).round() as u32).max(1);
        let (width, height) = (shrunk(frame.width()), shrunk(frame.height()));
        let padded = (width.next_multiple_of(SIDE_STEP), height.next_multiple_of(SIDE_STEP));
        resize(&mut self.resizer, frame, width, height, &mut self.small)?;
        let i = self.network(padded)?;
        let (small, row_len) = (&self.small, padded.0 as usize);
        let outputs = self.networks[i]
            .1
            .run(|planes| fill(planes, small, width as usize, row_len, padded.1 as usize))
            .map_err(|e| model_error(&e))?;
        if outputs.len() != STRIDES.len() {
            return Err(FindError::Model(format!("it gives {} grids, not {}", outputs.len(), STRIDES.len())));
        }
        for (stride, output) in STRIDES.into_iter().zip(&outputs) {
            let (columns, rows) = (row_len.div_ceil(stride), (padded.1 as usize).div_ceil(stride));
            read_grid(output, stride, columns, rows, self.threshold, out)?;
        }
        suppress(out);
        for face in out {
            let b = face.bbox;
            face.bbox = Rect::new(b.x / scale, b.y / scale, b.w / scale, b.h / scale);
            face.landmarks =
                face.landmarks.map(|points| points.map(|p| Point::new(p.x / scale, p.y / scale)));
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        "bundle"
    }
}

fn model_error(error: &TractError) -> FindError {
    FindError::Model(one_line(error))
}

fn resize(
    resizer: &mut Resizer,
    frame: &Frame,
    width: u32,
    height: u32,
    small: &mut Vec<u8>,
) -> Result<(), FindError> {
    let failed = |e: &dyn std::fmt::Display| FindError::Resize(e.to_string());
    small.resize(width as usize * height as usize * 3, 0);
    let source =
        ImageRef::new(frame.width(), frame.height(), frame.rgb(), PixelType::U8x3).map_err(|e| failed(&e))?;
    let mut target = Image::from_slice_u8(width, height, small, PixelType::U8x3).map_err(|e| failed(&e))?;
    // Means over the pixels that fall into one: what the training scenes are shrunk by, and the cheapest that does not alias.
    let means = ResizeAlg::Convolution(fast_image_resize::FilterType::Box);
    resizer.resize(&source, &mut target, &ResizeOptions::new().resize_alg(means)).map_err(|e| failed(&e))
}

/// RGB triples, `width` a row, to three planes of `rows` of `row_len` in `[-1,1]`; what is beyond the picture is 0.
fn fill(planes: &mut [f32], small: &[u8], width: usize, row_len: usize, rows: usize) {
    for (channel, plane) in planes.chunks_exact_mut(row_len * rows).enumerate() {
        let lines = small.chunks_exact(width * 3);
        let (filled, rest) = plane.split_at_mut(lines.len() * row_len);
        for (line, row) in filled.chunks_exact_mut(row_len).zip(lines) {
            for (value, pixel) in line.iter_mut().zip(row.chunks_exact(3)) {
                *value = f32::from(pixel[channel]) / 127.5 - 1.0;
            }
            line[width..].fill(0.0);
        }
        rest.fill(0.0);
    }
}

/// Adds the faces of one grid, `[1, CELL_VALUES, rows, columns]`, in pixels of the network's input.
fn read_grid(
    output: &TValue,
    stride: usize,
    columns: usize,
    rows: usize,
    threshold: f32,
    out: &mut Vec<Detection>,
) -> Result<(), FindError> {
    let view = output.try_as_plain_ram().map_err(|e| model_error(&e))?;
    let values = view.as_slice::<f32>().map_err(|e| model_error(&e))?;
    let cells = rows * columns;
    if values.len() != cells * CELL_VALUES {
        let expected = cells * CELL_VALUES;
        return Err(FindError::Model(format!("a grid has {} values, not {expected}", values.len())));
    }
    let s = stride as f32;
    for i in 0..cells {
        let score = 1.0 / (1.0 + (-values[i]).exp());
        if score.is_nan() || score < threshold {
            continue;
        }
        let at = |k: usize| values[k * cells + i];
        let middle = Point::new(((i % columns) as f32 + 0.5) * s, ((i / columns) as f32 + 0.5) * s);
        let point = |k: usize| Point::new(middle.x + at(k) * s, middle.y + at(k + 1) * s);
        let centre = point(1);
        let (w, h) = (at(3).min(MAX_LOG_SIZE).exp() * s, at(4).min(MAX_LOG_SIZE).exp() * s);
        let landmarks: [Point; 5] = std::array::from_fn(|p| point(5 + 2 * p));
        let finite = |p: &Point| p.x.is_finite() && p.y.is_finite();
        if finite(&centre) && w.is_finite() && h.is_finite() && landmarks.iter().all(finite) {
            let bbox = Rect::new(centre.x - w / 2.0, centre.y - h / 2.0, w, h);
            out.push(Detection { bbox, score, landmarks: Some(landmarks) });
        }
    }
    Ok(())
}

/// The part that two boxes share, as a share of the smaller one.
fn covered(a: &Rect, b: &Rect) -> f32 {
    let w = (a.x + a.w).min(b.x + b.w) - a.x.max(b.x);
    let h = (a.y + a.h).min(b.y + b.h) - a.y.max(b.y);
    w.max(0.0) * h.max(0.0) / a.area().min(b.area()).max(f32::MIN_POSITIVE)
}

/// Sorts by score and keeps, of faces that overlap, the best.
fn suppress(faces: &mut Vec<Detection>) {
    faces.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept = 0;
    for i in 0..faces.len() {
        let face = faces[i];
        if faces[..kept].iter().all(|other| covered(&other.bbox, &face.bbox) <= MAX_COVERED) {
            faces[kept] = face;
            kept += 1;
        }
    }
    faces.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face(x: f32, side: f32, score: f32) -> Detection {
        Detection { bbox: Rect::new(x, 10.0, side, side), score, landmarks: None }
    }

    #[test]
    fn of_overlapping_and_nested_faces_the_best_stays() {
        // A pair that overlaps by three quarters, a small one within a large one, and a neighbour that only touches.
        let mut faces =
            vec![face(0.0, 40.0, 0.7), face(10.0, 40.0, 0.9), face(15.0, 12.0, 0.8), face(48.0, 40.0, 0.6)];
        suppress(&mut faces);
        let kept: Vec<f32> = faces.iter().map(|f| f.score).collect();
        assert_eq!(kept, [0.9, 0.6]);
    }

    #[test]
    fn the_picture_is_set_into_the_planes_and_the_rest_is_grey() {
        // Two pixels a row, two rows, into planes of 4 x 3.
        let small = [255, 0, 0, 0, 255, 0, 0, 0, 255, 51, 102, 204];
        let mut planes = vec![9.0; 3 * 12];
        fill(&mut planes, &small, 2, 4, 3);
        let near =
            |i: usize, expected: f32| assert!((planes[i] - expected).abs() < 1e-6, "{i}: {}", planes[i]);
        for (channel, expected) in
            [[1.0, -1.0, -1.0, -0.6], [-1.0, 1.0, -1.0, -0.2], [-1.0, -1.0, 1.0, 0.6]].into_iter().enumerate()
        {
            for (place, value) in [(0, expected[0]), (1, expected[1]), (4, expected[2]), (5, expected[3])] {
                near(channel * 12 + place, value);
            }
            for empty in [2, 3, 6, 7, 8, 11] {
                near(channel * 12 + empty, 0.0);
            }
        }
    }

    #[test]
    fn sides_that_cannot_be_searched_and_bytes_that_are_no_model_are_refused() {
        for side in [0, ConvFinder::MAX_SIDE_PX + 1] {
            let error = ConvFinder::new(Vec::new(), side).map(|_| ()).expect_err("no such side").to_string();
            assert!(error.contains(&side.to_string()), "{error}");
        }
        let error =
            ConvFinder::new(b"not a model".to_vec(), 160).map(|_| ()).expect_err("no model").to_string();
        assert!(!error.contains('\n') && error.contains("finder"), "{error}");
    }
}
