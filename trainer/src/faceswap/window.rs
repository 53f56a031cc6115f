//! The part of a picture that a swap touches, and what two pictures show of it.

use std::ops::Range;

use semblance_face::{Point, Similarity};

/// A part of a square picture, in whole pixels; a window that has been padded may reach beyond the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Column and row of its top left pixel.
    pub(super) origin: [i32; 2],
    pub(super) width_px: usize,
    pub(super) height_px: usize,
}

impl Window {
    /// The pixels of the picture that `[left, top, right, bottom]` touches; `None` where there are none.
    pub(super) fn within([left, top, right, bottom]: [f32; 4], side_px: usize) -> Option<Self> {
        let clamp = |v: f32| v.clamp(0.0, side_px as f32) as i32;
        let (left, top) = (clamp(left.floor()), clamp(top.floor()));
        let (right, bottom) = (clamp(right.ceil()), clamp(bottom.ceil()));
        (left < right && top < bottom).then(|| Self {
            origin: [left, top],
            width_px: (right - left) as usize,
            height_px: (bottom - top) as usize,
        })
    }

    /// This window with `reach_px` pixels more on each side.
    pub(super) fn padded(&self, reach_px: usize) -> Self {
        Self {
            origin: self.origin.map(|v| v - reach_px as i32),
            width_px: self.width_px + 2 * reach_px,
            height_px: self.height_px + 2 * reach_px,
        }
    }

    /// Its pixels.
    pub(super) fn area_px(&self) -> usize {
        self.width_px * self.height_px
    }

    /// Fills `out` with RGB triples by `row`, which gives the picture's row `y` in a range of columns. Beyond the picture its
    /// edge repeats.
    fn gather(&self, side_px: usize, out: &mut Vec<f32>, row: impl Fn(usize, Range<usize>, &mut [f32])) {
        let [left, top] = self.origin;
        let clamp = |v: i32| v.clamp(0, side_px as i32) as usize;
        let columns = clamp(left)..clamp(left + self.width_px as i32);
        let before = 3 * (columns.start as i32 - left) as usize;
        let inside = before..before + 3 * columns.len();
        let length = 3 * self.width_px;
        out.resize(length * self.height_px, 0.0);
        let mut previous = None;
        for i in 0..self.height_px {
            let y = (top + i as i32).clamp(0, side_px as i32 - 1) as usize;
            if previous == Some(y) {
                out.copy_within((i - 1) * length..i * length, i * length);
                continue;
            }
            previous = Some(y);
            let line = &mut out[i * length..][..length];
            row(y, columns.clone(), &mut line[inside.clone()]);
            let (first, last): ([f32; 3], [f32; 3]) = (
                std::array::from_fn(|c| line[inside.start + c]),
                std::array::from_fn(|c| line[inside.end - 3 + c]),
            );
            line[..inside.start].as_chunks_mut().0.fill(first);
            line[inside.end..].as_chunks_mut().0.fill(last);
        }
    }

    /// What a picture shows here.
    pub(super) fn copy(&self, rgb: &[u8], side_px: usize, out: &mut Vec<f32>) {
        self.gather(side_px, out, |y, columns, line| {
            let from = &rgb[3 * (y * side_px + columns.start)..][..line.len()];
            for (v, &byte) in line.iter_mut().zip(from) {
                *v = f32::from(byte);
            }
        });
    }

    /// What a picture shows here when it is sampled at `to_picture`, bilinear, its edge repeated beyond it.
    pub(super) fn warp(&self, rgb: &[u8], side_px: usize, to_picture: &Similarity, out: &mut Vec<f32>) {
        let last = (side_px - 1) as f32;
        self.gather(side_px, out, |y, columns, line| {
            // Half a pixel in, to a pixel's middle, and half a pixel back, from a middle to its number.
            let start = to_picture.apply(Point::new(columns.start as f32 + 0.5, y as f32 + 0.5));
            for (step, pixel) in line.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                let step = step as f32;
                let x = (start.x + step * to_picture.a - 0.5).clamp(0.0, last);
                let y = (start.y + step * to_picture.b - 0.5).clamp(0.0, last);
                // Truncation rounds down; at the last column and row the weight of the further neighbour is 1.
                let (left, top) = ((x as usize).min(side_px - 2), (y as usize).min(side_px - 2));
                let (fx, fy) = (x - left as f32, y - top as f32);
                let (above, below) =
                    (two_pixels(rgb, top * side_px + left), two_pixels(rgb, (top + 1) * side_px + left));
                for c in 0..3 {
                    let mix = |row: &[u8; 6]| {
                        let (l, r) = (f32::from(row[c]), f32::from(row[c + 3]));
                        l + (r - l) * fx
                    };
                    let (upper, lower) = (mix(above), mix(below));
                    pixel[c] = upper + (lower - upper) * fy;
                }
            }
        });
    }
}

/// A pixel, by its number from the picture's start, and the next one.
#[inline(always)]
fn two_pixels(rgb: &[u8], first: usize) -> &[u8; 6] {
    rgb[3 * first..].first_chunk().expect("the first of the two is not the last of its row")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SIDE: usize = 20;

    /// Red is 5x, green 7y and blue constant, at the pixels' numbers.
    fn ramp() -> Vec<u8> {
        (0..SIDE).flat_map(|y| (0..SIDE).flat_map(move |x| [5 * x as u8, 7 * y as u8, 90])).collect()
    }

    #[test]
    fn a_window_is_the_pixels_touched_within_the_picture() {
        let window = Window::within([2.2, -3.0, 5.0, 4.1], SIDE).unwrap();
        assert_eq!(window, Window { origin: [2, 0], width_px: 3, height_px: 5 });
        assert_eq!(Window::within([21.0, 0.0, 25.0, 4.0], SIDE), None);
        assert_eq!(Window::within([3.0, 3.0, 2.0, 2.0], SIDE), None);
        assert_eq!(window.padded(2), Window { origin: [0, -2], width_px: 7, height_px: 9 });
    }

    #[test]
    fn a_copy_is_the_picture_and_repeats_its_edge() {
        let mut out = Vec::new();
        let window = Window { origin: [-3, 15], width_px: 30, height_px: 9 };
        window.copy(&ramp(), SIDE, &mut out);
        for (i, pixel) in out.as_chunks::<3>().0.iter().enumerate() {
            let x = (i % 30) as i32 - 3;
            let y = (i / 30) as i32 + 15;
            let want = [5 * x.clamp(0, 19), 7 * y.clamp(0, 19), 90].map(|v| v as f32);
            assert_eq!(*pixel, want, "{x} {y}");
        }
    }

    #[test]
    fn a_warp_reads_the_picture_where_the_similarity_says() {
        let turn = Similarity { a: 0.9, b: 0.2, tx: 1.3, ty: -2.6 };
        let window = Window { origin: [1, 2], width_px: 15, height_px: 16 };
        let mut out = Vec::new();
        window.warp(&ramp(), SIDE, &turn, &mut out);
        for (i, pixel) in out.as_chunks::<3>().0.iter().enumerate() {
            let p = turn.apply(Point::new((i % 15) as f32 + 1.5, (i / 15) as f32 + 2.5));
            // A bilinear sample of a ramp is the ramp.
            let want = [5.0 * (p.x - 0.5).clamp(0.0, 19.0), 7.0 * (p.y - 0.5).clamp(0.0, 19.0), 90.0];
            for c in 0..3 {
                assert!((pixel[c] - want[c]).abs() < 1e-3, "{pixel:?} {want:?}");
            }
        }
    }
}
