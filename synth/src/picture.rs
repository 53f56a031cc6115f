//! A picture in linear light, and blurs over it.

use crate::math::{Vec3, exp, floor};

/// Linear RGB by rows from the top.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picture {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) rgb: Vec<[f32; 3]>,
}

impl Picture {
    pub(crate) fn new(width: usize, height: usize) -> Self {
        Self { width, height, rgb: vec![[0.0; 3]; width * height] }
    }

    pub(crate) fn from_fn(width: usize, height: usize, mut f: impl FnMut(f32, f32) -> Vec3) -> Self {
        let mut p = Self::new(width, height);
        for y in 0..height {
            for x in 0..width {
                let c = f(x as f32 + 0.5, y as f32 + 0.5);
                p.rgb[y * width + x] = [c.x, c.y, c.z];
            }
        }
        p
    }

    /// Copies `from` times `gain`, shifted so that its pixel `(dx, dy)` (bilinear) becomes the top left one; edges
    /// repeat.
    pub(crate) fn copy_window(&mut self, from: &Picture, dx: f32, dy: f32, gain: f32) {
        let (xi, yi) = (floor(dx), floor(dy));
        let (fx, fy) = (dx - xi as f32, dy - yi as f32);
        let w = [(1.0 - fx) * (1.0 - fy), fx * (1.0 - fy), (1.0 - fx) * fy, fx * fy].map(|k| k * gain);
        let clamp = |v: i64, n: usize| v.clamp(0, n as i64 - 1) as usize;
        // Columns whose two sources both exist.
        let inner = clamp(-i64::from(xi), self.width + 1)
            ..clamp(from.width as i64 - 1 - i64::from(xi), self.width + 1);
        for y in 0..self.height {
            let source = |k: i64| {
                let row = clamp(y as i64 + i64::from(yi) + k, from.height);
                &from.rgb[row * from.width..][..from.width]
            };
            let (top, bottom) = (source(0), source(1));
            let row = &mut self.rgb[y * self.width..][..self.width];
            for x in (0..self.width).filter(|x| !inner.contains(x)) {
                let x0 = clamp(x as i64 + i64::from(xi), from.width);
                let x1 = clamp(x as i64 + i64::from(xi) + 1, from.width);
                for i in 0..3 {
                    row[x][i] =
                        w[0] * top[x0][i] + w[1] * top[x1][i] + w[2] * bottom[x0][i] + w[3] * bottom[x1][i];
                }
            }
            if inner.is_empty() {
                continue;
            }
            let first = (inner.start as i64 + i64::from(xi)) as usize;
            let n = 3 * inner.len();
            let (top, bottom) = (&top.as_flattened()[3 * first..], &bottom.as_flattened()[3 * first..]);
            let (a, b, c, d) = (&top[..n], &top[3..n + 3], &bottom[..n], &bottom[3..n + 3]);
            for (i, out) in row[inner.clone()].as_flattened_mut().iter_mut().enumerate() {
                *out = w[0] * a[i] + w[1] * b[i] + w[2] * c[i] + w[3] * d[i];
            }
        }
    }

    /// A Gaussian blur of this many pixels (standard deviation), in two passes; `scratch` keeps its allocation.
    pub(crate) fn blur(&mut self, sigma: f32, scratch: &mut Vec<[f32; 3]>) {
        if sigma < 0.2 {
            return;
        }
        let radius = (sigma * 2.5).ceil() as usize;
        let mut kernel: Vec<f32> =
            (0..=radius).map(|i| exp(-(i as f32 * i as f32) / (2.0 * sigma * sigma))).collect();
        let total = kernel[0] + 2.0 * kernel[1..].iter().sum::<f32>();
        kernel.iter_mut().for_each(|k| *k /= total);
        scratch.resize(self.rgb.len(), [0.0; 3]);
        let (w, h) = (self.width, self.height);
        for y in 0..h {
            blur_line(&self.rgb[y * w..][..w], &kernel, &mut scratch[y * w..][..w]);
        }
        // Columns, a row at a time.
        for y in 0..h {
            let out = self.rgb[y * w..][..w].as_flattened_mut();
            let row = |y: usize| scratch[y * w..][..w].as_flattened();
            for (o, s) in out.iter_mut().zip(row(y)) {
                *o = s * kernel[0];
            }
            for (d, &k) in kernel.iter().enumerate().skip(1) {
                let (a, b) = (row(y.saturating_sub(d)), row((y + d).min(h - 1)));
                for ((o, p), q) in out.iter_mut().zip(a).zip(b) {
                    *o += k * (p + q);
                }
            }
        }
    }

    /// Three box blurs, which come near a Gaussian and cost the same for any radius.
    pub(crate) fn soften(&mut self, radius: usize, scratch: &mut Vec<[f32; 3]>) {
        if radius == 0 {
            return;
        }
        scratch.resize(self.rgb.len(), [0.0; 3]);
        let (w, h) = (self.width, self.height);
        for _ in 0..3 {
            for y in 0..h {
                box_line(&self.rgb[y * w..], scratch, y * w, 1, w, radius);
            }
            let from = std::mem::take(scratch);
            for x in 0..w {
                box_line(&from[x..], &mut self.rgb, x, w, h, radius);
            }
            *scratch = from;
        }
    }

    /// The mean along a line of `taps` places that ends `(dx, dy)` pixels away on either side: motion during exposure.
    pub(crate) fn smear(&mut self, dx: f32, dy: f32, scratch: &mut Vec<[f32; 3]>) {
        let length = (dx * dx + dy * dy).sqrt();
        if length < 0.4 {
            return;
        }
        let half = (length.ceil() as i64).min(6);
        scratch.clear();
        scratch.extend_from_slice(&self.rgb);
        let (w, h) = (self.width, self.height);
        let k = 1.0 / (2 * half + 1) as f32;
        self.rgb.fill([0.0; 3]);
        for i in -half..=half {
            let f = i as f32 / half as f32;
            let (ox, oy) = (i64::from(floor(f * dx + 0.5)), i64::from(floor(f * dy + 0.5)));
            let shift = (ox.unsigned_abs() as usize).min(w);
            for y in 0..h {
                let source = &scratch[((y as i64 + oy).clamp(0, h as i64 - 1) as usize) * w..][..w];
                let out = &mut self.rgb[y * w..][..w];
                // Where the source lies beyond the edge, the edge repeats.
                let (inner, from, outer, edge) = if ox >= 0 {
                    (0..w - shift, shift, w - shift..w, source[w - 1])
                } else {
                    (shift..w, 0, 0..shift, source[0])
                };
                let n = inner.len();
                let pairs =
                    out[inner].as_flattened_mut().iter_mut().zip(source[from..from + n].as_flattened());
                pairs.for_each(|(o, s)| *o += k * s);
                for o in &mut out[outer] {
                    (0..3).for_each(|c| o[c] += k * edge[c]);
                }
            }
        }
    }
}

fn blur_line(from: &[[f32; 3]], kernel: &[f32], to: &mut [[f32; 3]]) {
    let n = from.len();
    let radius = kernel.len() - 1;
    let flat = from.as_flattened();
    let inner = radius.min(n)..n.saturating_sub(radius).max(radius.min(n));
    let (start, count) = (3 * inner.start, 3 * inner.len());
    let out = &mut to.as_flattened_mut()[start..start + count];
    for (o, s) in out.iter_mut().zip(&flat[start..]) {
        *o = s * kernel[0];
    }
    if count > 0 {
        for (d, &k) in kernel.iter().enumerate().skip(1) {
            let (a, b) = (&flat[start - 3 * d..][..count], &flat[start + 3 * d..][..count]);
            for ((o, p), q) in out.iter_mut().zip(a).zip(b) {
                *o += k * (p + q);
            }
        }
    }
    for x in (0..inner.start).chain(inner.end..n) {
        let mut sum = from[x].map(|v| v * kernel[0]);
        for (d, &k) in kernel.iter().enumerate().skip(1) {
            let (a, b) = (&from[x.saturating_sub(d)], &from[(x + d).min(n - 1)]);
            (0..3).for_each(|i| sum[i] += k * (a[i] + b[i]));
        }
        to[x] = sum;
    }
}

/// A running mean over `2 radius + 1` elements of a line of `n`, `stride` apart; edges repeat.
fn box_line(from: &[[f32; 3]], to: &mut [[f32; 3]], first: usize, stride: usize, n: usize, radius: usize) {
    let at = |i: i64| from[(i.clamp(0, n as i64 - 1) as usize) * stride];
    let r = radius as i64;
    let mut sum = [0.0f32; 3];
    for i in -r..=r {
        let p = at(i);
        (0..3).for_each(|c| sum[c] += p[c]);
    }
    let k = 1.0 / (2 * radius + 1) as f32;
    for i in 0..n {
        to[first + i * stride] = sum.map(|s| s * k);
        let (enter, leave) = (at(i as i64 + r + 1), at(i as i64 - r));
        (0..3).for_each(|c| sum[c] += enter[c] - leave[c]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::v3;

    fn dot() -> Picture {
        Picture::from_fn(21, 17, |x, y| if x == 10.5 && y == 8.5 { v3(1.0, 2.0, 3.0) } else { Vec3::ZERO })
    }

    #[test]
    fn blurs_keep_the_sum_and_have_the_stated_width() {
        let mut scratch = Vec::new();
        let mut p = dot();
        p.blur(1.4, &mut scratch);
        let sum: f32 = p.rgb.iter().map(|c| c[1]).sum();
        assert!((sum - 2.0).abs() < 1e-4);
        let var: f32 = p
            .rgb
            .iter()
            .enumerate()
            .map(|(i, c)| c[0] * ((i % 21) as f32 - 10.0) * ((i % 21) as f32 - 10.0))
            .sum();
        assert!((var.sqrt() - 1.4).abs() < 0.1, "{}", var.sqrt());
        let mut p = dot();
        p.soften(1, &mut scratch);
        assert!((p.rgb.iter().map(|c| c[2]).sum::<f32>() - 3.0).abs() < 1e-3);
        let mut p = dot();
        p.smear(3.0, 0.0, &mut scratch);
        assert!((p.rgb.iter().map(|c| c[0]).sum::<f32>() - 1.0).abs() < 1e-4);
        assert!(p.rgb[8 * 21 + 13][0] > 0.1 && p.rgb[9 * 21 + 10][0] == 0.0);
    }

    #[test]
    fn a_window_moves_the_picture() {
        let mut p = Picture::new(9, 9);
        p.copy_window(&dot(), 6.0, 4.5, 1.0);
        assert!((p.rgb[3 * 9 + 4][0] - 0.5).abs() < 1e-6 && (p.rgb[4 * 9 + 4][0] - 0.5).abs() < 1e-6);
    }
}
