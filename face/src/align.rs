//! From a face in a picture to the square crop that the encoder reads: one template, one sampler.

use serde::{Deserialize, Serialize};

use crate::{Frame, Point, Rect, Similarity};

/// How a face is framed in a crop; part of a bundle, because an encoder knows only the framing it was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CropTemplate {
    /// Where the five landmarks (see [`crate::Detection::landmarks`]) come to lie, in shares of the crop's side.
    pub points: [[f32; 2]; 5],
    /// Side of the crop in multiples of the box's longer side, where there are no landmarks.
    pub box_scale: f32,
    /// Shift of the crop's middle from the box's middle, in multiples of the box's longer side.
    pub box_shift: [f32; 2],
}

impl Default for CropTemplate {
    /// FER2013's framing, measured by running [`crate::finder::SeetaFinder`] on 1,436 of its training pictures: the
    /// picture's side is 1.10 times the box's (median; 0.92 and 1.39 at the deciles) and their middles coincide (median
    /// shift below 0.003). The points are medians over 3,872 training pictures by `trainer faces --framing`, made
    /// symmetric.
    fn default() -> Self {
        Self {
            points: [[0.314, 0.393], [0.686, 0.393], [0.5, 0.607], [0.348, 0.772], [0.652, 0.772]],
            box_scale: 1.1,
            box_shift: [0.0, 0.0],
        }
    }
}

/// Cuts crops of one size by one template.
#[derive(Clone, Debug)]
pub struct Aligner {
    template: CropTemplate,
    side_px: u32,
}

impl Aligner {
    /// For crops of `side_px` x `side_px`.
    pub fn new(template: CropTemplate, side_px: u32) -> Self {
        Self { template, side_px }
    }

    /// Side of a crop in pixels.
    pub fn side_px(&self) -> u32 {
        self.side_px
    }

    /// The transform from the picture to the crop, in pixels: by the landmarks where there are some, else by the box.
    ///
    /// `None` where the box is empty or something is not finite.
    pub fn transform(&self, bbox: &Rect, landmarks: Option<&[Point; 5]>) -> Option<Similarity> {
        let side = self.side_px as f32;
        if let Some(points) = landmarks {
            let target = self.template.points.map(|[x, y]| Point::new(x * side, y * side));
            return Similarity::fit(points, &target).filter(|t| t.scale() > 0.0);
        }
        let longer = bbox.w.max(bbox.h);
        let scale = side / (longer * self.template.box_scale);
        let centre = bbox.center();
        let [dx, dy] = self.template.box_shift.map(|shift| shift * longer);
        let transform = Similarity {
            a: scale,
            b: 0.0,
            tx: side / 2.0 - (centre.x + dx) * scale,
            ty: side / 2.0 - (centre.y + dy) * scale,
        };
        let usable = scale.is_finite() && scale > 0.0 && transform.tx.is_finite() && transform.ty.is_finite();
        usable.then_some(transform)
    }

    /// Writes the crop of a face into `out`, `side * side` RGB triples. Pixels beyond the picture repeat its edge.
    ///
    /// Returns whether there is a crop: there is none for a box that is empty or not finite.
    ///
    /// # Panics
    /// Where `out` has another length.
    pub fn crop_into(
        &self,
        frame: &Frame,
        bbox: &Rect,
        landmarks: Option<&[Point; 5]>,
        out: &mut [u8],
    ) -> bool {
        match self.transform(bbox, landmarks).and_then(|t| t.invert()) {
            Some(crop_to_frame) => {
                sample(frame, &crop_to_frame, self.side_px, out);
                true
            }
            None => false,
        }
    }
}

/// Brings a picture that is a crop already to `side_px` x `side_px` RGB triples, with the aligner's own sampler. Of a
/// picture that is not square, the middle square is taken.
///
/// # Panics
/// Where `out` has another length.
pub fn resize_crop(frame: &Frame, side_px: u32, out: &mut [u8]) {
    let (width, height) = (frame.width() as f32, frame.height() as f32);
    let square = width.min(height);
    let scale = square / side_px as f32;
    let middle_square =
        Similarity { a: scale, b: 0.0, tx: (width - square) / 2.0, ty: (height - square) / 2.0 };
    sample(frame, &middle_square, side_px, out);
}

/// Fills `out`, `side * side` RGB triples, with the picture under `crop_to_frame`: bilinear where the crop is finer than the picture; where it
/// is coarser, pixels are means over the squares that they cover, so that nothing aliases.
///
/// # Panics
/// Where `out` has another length.
pub fn sample(frame: &Frame, crop_to_frame: &Similarity, side_px: u32, out: &mut [u8]) {
    let side = side_px as usize;
    assert_eq!(out.len(), side * side * 3, "length of the crop's buffer");
    let picture = Pixels { width: frame.width() as usize, height: frame.height() as usize, rgb: frame.rgb() };
    // Means over more than the picture say no more.
    let square = (crop_to_frame.scale() as usize).min(picture.width.max(picture.height));
    if square < 2 {
        return interpolate(picture, crop_to_frame, side, out);
    }
    let region = picture.under(crop_to_frame, side, square);
    let mut means = Vec::new();
    let small = picture.shrink(&region, square, &mut means);
    let of_small = |v: f32, origin: usize| (v - origin as f32) / square as f32;
    let to_small = Similarity {
        a: crop_to_frame.a / square as f32,
        b: crop_to_frame.b / square as f32,
        tx: of_small(crop_to_frame.tx, region.left),
        ty: of_small(crop_to_frame.ty, region.top),
    };
    interpolate(small, &to_small, side, out);
}

/// RGB triples in rows.
#[derive(Clone, Copy)]
struct Pixels<'a> {
    width: usize,
    height: usize,
    rgb: &'a [u8],
}

/// Pixels of a picture; never empty.
struct Region {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
}

impl Pixels<'_> {
    /// What a crop covers of the picture, and `margin` pixels around it.
    fn under(&self, crop_to_frame: &Similarity, side: usize, margin: usize) -> Region {
        let corners = corners(crop_to_frame, side);
        // `as` takes what is negative for 0, and what is too large for the largest.
        let span = |values: [f32; 4], length: usize| {
            let low = values.into_iter().fold(f32::INFINITY, f32::min).floor() as usize;
            let high = values.into_iter().fold(f32::NEG_INFINITY, f32::max).ceil() as usize;
            let low = low.saturating_sub(margin).min(length - 1);
            (low, high.saturating_add(margin).clamp(low + 1, length))
        };
        let (left, right) = span(corners.map(|p| p.x), self.width);
        let (top, bottom) = span(corners.map(|p| p.y), self.height);
        Region { left, top, right, bottom }
    }

    /// The means of a region's squares of `square` pixels a side; those at its right and lower end may be cut short.
    fn shrink<'a>(&self, region: &Region, square: usize, means: &'a mut Vec<u8>) -> Pixels<'a> {
        let columns = region.right - region.left;
        let (width, height) = (columns.div_ceil(square), (region.bottom - region.top).div_ceil(square));
        means.reserve_exact(width * height * 3);
        let mut sums = vec![0u32; columns * 3];
        for top in (region.top..region.bottom).step_by(square) {
            sums.fill(0);
            let rows = top..(top + square).min(region.bottom);
            for row in rows.clone() {
                let line = &self.rgb[(row * self.width + region.left) * 3..][..columns * 3];
                sums.iter_mut().zip(line).for_each(|(sum, &value)| *sum += u32::from(value));
            }
            for cell in sums.chunks(square * 3) {
                let mut sum = [0u32; 3];
                for pixel in cell.chunks_exact(3) {
                    sum.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += value);
                }
                let share = 1.0 / (cell.len() / 3 * rows.len()) as f32;
                means.extend(sum.map(|sum| (sum as f32 * share + 0.5) as u8));
            }
        }
        Pixels { width, height, rgb: means }
    }

    /// The colour of a pixel within the picture.
    #[inline(always)]
    fn at(&self, x: usize, y: usize) -> [f32; 3] {
        let at = (y * self.width + x) * 3;
        let rgb = &self.rgb[at..at + 3];
        [f32::from(rgb[0]), f32::from(rgb[1]), f32::from(rgb[2])]
    }

    /// The colour of the pixel nearest to one that may lie beyond the picture.
    #[inline(always)]
    fn at_edge(&self, x: isize, y: isize) -> [f32; 3] {
        let clamp = |v: isize, length: usize| v.clamp(0, length as isize - 1) as usize;
        self.at(clamp(x, self.width), clamp(y, self.height))
    }
}

/// Where the corners of a crop lie in the picture.
fn corners(crop_to_picture: &Similarity, side: usize) -> [Point; 4] {
    let side = side as f32;
    [(0.0, 0.0), (side, 0.0), (0.0, side), (side, side)].map(|(x, y)| crop_to_picture.apply(Point::new(x, y)))
}

/// Bilinear; means of two by two samples a pixel where a crop's pixel is up to twice the picture's.
fn interpolate(picture: Pixels<'_>, crop_to_picture: &Similarity, side: usize, out: &mut [u8]) {
    let taps = (crop_to_picture.scale().ceil() as usize).clamp(1, 2);
    let (width, height) = (picture.width as f32, picture.height as f32);
    // Bilinear sampling reads a pixel further than the point it is at.
    let inside = corners(crop_to_picture, side)
        .iter()
        .all(|p| p.x >= 1.0 && p.y >= 1.0 && p.x <= width - 2.0 && p.y <= height - 2.0);
    if inside {
        return fill(crop_to_picture, side, taps, out, |x, y| bilinear(x, y, |x, y| picture.at(x, y)));
    }
    // Two pixels up and left, so that truncation rounds down; the pixels are taken back to where they are.
    fill(crop_to_picture, side, taps, out, |x, y| {
        // Far beyond the picture there is only its edge.
        let (x, y) = (x.clamp(-1.0, width + 1.0), y.clamp(-1.0, height + 1.0));
        bilinear(x + 2.0, y + 2.0, |x, y| picture.at_edge(x as isize - 2, y as isize - 2))
    });
}

/// Means of `taps` x `taps` samples a pixel.
#[inline(always)]
fn fill(
    crop_to_frame: &Similarity,
    side: usize,
    taps: usize,
    out: &mut [u8],
    colour: impl Fn(f32, f32) -> [f32; 3],
) {
    let step = 1.0 / taps as f32;
    let share = step * step;
    for (row, line) in out.chunks_exact_mut(side * 3).enumerate() {
        for (column, pixel) in line.chunks_exact_mut(3).enumerate() {
            let mut sum = [0.0f32; 3];
            for ty in 0..taps {
                let y = row as f32 + (ty as f32 + 0.5) * step;
                for tx in 0..taps {
                    let p = crop_to_frame.apply(Point::new(column as f32 + (tx as f32 + 0.5) * step, y));
                    let rgb = colour(p.x, p.y);
                    for (s, c) in sum.iter_mut().zip(rgb) {
                        *s += c;
                    }
                }
            }
            for (out, s) in pixel.iter_mut().zip(sum) {
                *out = (s * share + 0.5) as u8;
            }
        }
    }
}

/// Between the four pixels whose middles are nearest to a point that is not left of or above the first one.
#[inline(always)]
fn bilinear(x: f32, y: f32, pixel: impl Fn(usize, usize) -> [f32; 3]) -> [f32; 3] {
    let (x, y) = (x - 0.5, y - 0.5);
    // Truncation rounds down what is not negative.
    let (left, top) = (x as usize, y as usize);
    let (fx, fy) = (x - left as f32, y - top as f32);
    let corners = [pixel(left, top), pixel(left + 1, top), pixel(left, top + 1), pixel(left + 1, top + 1)];
    std::array::from_fn(|c| {
        let upper = corners[0][c] + (corners[1][c] - corners[0][c]) * fx;
        let lower = corners[2][c] + (corners[3][c] - corners[2][c]) * fx;
        upper + (lower - upper) * fy
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A picture whose red is 2x, green 3y and blue a constant.
    fn ramp(width: u32, height: u32) -> Frame {
        let rgb =
            (0..height).flat_map(|y| (0..width).flat_map(move |x| [2 * x as u8, 3 * y as u8, 77])).collect();
        Frame::new(width, height, rgb).unwrap()
    }

    fn at(crop: &[u8], side: usize, x: usize, y: usize) -> [u8; 3] {
        crop[(y * side + x) * 3..][..3].try_into().unwrap()
    }

    #[test]
    fn a_crop_at_the_pictures_own_size_is_the_picture() {
        let frame = ramp(24, 24);
        let mut out = vec![0; 24 * 24 * 3];
        resize_crop(&frame, 24, &mut out);
        assert_eq!(out, frame.rgb());
    }

    #[test]
    fn shrinking_averages_and_enlarging_interpolates() {
        let frame = ramp(60, 60);
        let mut small = vec![0; 20 * 20 * 3];
        resize_crop(&frame, 20, &mut small);
        // Pixel (4, 7) covers columns 12..15 and rows 21..24: means of 2x and 3y.
        assert_eq!(at(&small, 20, 4, 7), [26, 66, 77]);
        let mut large = vec![0; 120 * 120 * 3];
        resize_crop(&frame, 120, &mut large);
        // Pixel (41, 61) lies at x = 20.75, y = 30.75, which is 20.25 and 30.25 in pixel indices.
        assert_eq!(at(&large, 120, 41, 61), [41, 91, 77]);
    }

    #[test]
    fn a_shrunk_crop_is_the_mean_of_what_each_pixel_covers() {
        // Waves that are longer than a crop's pixel, seen turned and shrunk, partly from beyond the picture.
        let wave = |x: f64, y: f64| 128.0 + 60.0 * (x / 19.0).sin() + 60.0 * (y / 23.0).cos();
        let rgb =
            (0..200 * 300).flat_map(|i| [wave(f64::from(i % 300) + 0.5, f64::from(i / 300) + 0.5) as u8; 3]);
        let frame = Frame::new(300, 200, rgb.collect()).unwrap();
        for (scale, tx) in [(2.0, 60.0), (2.9, 30.5), (3.5, 20.25), (5.1, -40.0), (8.0, -30.0)] {
            let (sin, cos) = 0.3f32.sin_cos();
            let to_frame = Similarity { a: scale * cos, b: scale * sin, tx, ty: 8.0 };
            let mut out = vec![0; 24 * 24 * 3];
            sample(&frame, &to_frame, 24, &mut out);
            let (mut worst, mut compared) = (0.0f64, 0);
            for (i, rgb) in out.chunks_exact(3).enumerate() {
                // A fine grid of points of the pixel, each of which has the wave's own value.
                let points: Vec<Point> = (0..400)
                    .map(|k| {
                        let within = |k: usize| (k as f32 + 0.5) / 20.0;
                        let (x, y) = ((i % 24) as f32 + within(k % 20), (i / 24) as f32 + within(k / 20));
                        to_frame.apply(Point::new(x, y))
                    })
                    .collect();
                // What lies beyond the picture is not known, nor what is mixed with it.
                let known = |v: f32, length: f32| v >= scale && v <= length - scale;
                if points.iter().all(|p| known(p.x, 300.0) && known(p.y, 200.0)) {
                    let sum: f64 = points.iter().map(|p| wave(f64::from(p.x), f64::from(p.y))).sum();
                    worst = worst.max((f64::from(rgb[0]) - sum / 400.0).abs());
                    compared += 1;
                }
            }
            assert!(worst < 4.0 && compared > 100, "scale {scale}: {worst} of {compared}");
        }
    }

    #[test]
    fn landmarks_come_to_lie_on_the_template() {
        let template = CropTemplate::default();
        let aligner = Aligner::new(template, 64);
        let pose = Similarity { a: 1.7, b: 0.9, tx: 140.0, ty: 60.0 };
        let landmarks = template.points.map(|[x, y]| pose.apply(Point::new(x * 64.0, y * 64.0)));
        let transform = aligner.transform(&Rect::default(), Some(&landmarks)).unwrap();
        for (landmark, [x, y]) in landmarks.iter().zip(template.points) {
            let p = transform.apply(*landmark);
            assert!((p.x - x * 64.0).abs() < 1e-2 && (p.y - y * 64.0).abs() < 1e-2);
        }
    }

    #[test]
    fn a_box_is_centred_scaled_and_shifted() {
        let template = CropTemplate { box_scale: 1.5, box_shift: [0.1, -0.2], ..CropTemplate::default() };
        let transform =
            Aligner::new(template, 60).transform(&Rect::new(100.0, 50.0, 40.0, 30.0), None).unwrap();
        let centre = transform.apply(Point::new(120.0 + 4.0, 65.0 - 8.0));
        assert!((centre.x - 30.0).abs() < 1e-3 && (centre.y - 30.0).abs() < 1e-3);
        assert!((transform.scale() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn boxes_that_make_no_sense_have_no_crop_and_far_ones_repeat_the_edge() {
        let frame = ramp(8, 8);
        let aligner = Aligner::new(CropTemplate::default(), 4);
        let mut out = vec![0; 48];
        for bad in
            [Rect::default(), Rect::new(f32::NAN, 0.0, 4.0, 4.0), Rect::new(0.0, 0.0, f32::INFINITY, 1.0)]
        {
            assert!(!aligner.crop_into(&frame, &bad, None, &mut out), "{bad:?}");
        }
        assert!(aligner.crop_into(&frame, &Rect::new(1e9, 1e9, 4.0, 4.0), None, &mut out));
        assert_eq!(at(&out, 4, 0, 0), [14, 21, 77]);
        assert!(aligner.crop_into(&frame, &Rect::new(-1.5e19, -1.5e19, 3e19, 3e19), None, &mut out));
        assert_eq!(at(&out, 4, 0, 0)[2], 77);
    }
}
