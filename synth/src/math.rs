//! Vectors, elementary functions and noise, all built from `+ - * /` and `sqrt`.
//!
//! IEEE 754 fixes those five operations to the last bit, and Rust neither contracts nor reorders them. The standard
//! library's `sin`, `exp` or `powf` come from the platform and may differ in the last bit; a renderer that used them
//! would draw slightly different pictures on different machines. This module's replacements do not.

use std::f32::consts::{LN_2, LOG2_E, PI};
use std::ops::{Add, AddAssign, Mul, Neg, Sub};

/// A vector in 3-D: x to the picture's right, y up, z towards the camera, in centimetres unless stated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Vec3 {
    pub(crate) x: f32,
    pub(crate) y: f32,
    pub(crate) z: f32,
}

/// Short for [`Vec3`]'s literal.
pub(crate) const fn v3(x: f32, y: f32, z: f32) -> Vec3 {
    Vec3 { x, y, z }
}

impl Vec3 {
    pub(crate) const ZERO: Self = v3(0.0, 0.0, 0.0);

    pub(crate) fn dot(self, o: Self) -> f32 {
        self.x * o.x + self.y * o.y + self.z * o.z
    }

    pub(crate) fn cross(self, o: Self) -> Self {
        v3(self.y * o.z - self.z * o.y, self.z * o.x - self.x * o.z, self.x * o.y - self.y * o.x)
    }

    pub(crate) fn length(self) -> f32 {
        self.dot(self).sqrt()
    }

    /// The unit vector in this direction; the zero vector stays zero.
    pub(crate) fn normalized(self) -> Self {
        let n = self.dot(self);
        if n > 1e-20 { self * (1.0 / n.sqrt()) } else { self }
    }

    /// Component-wise product.
    pub(crate) fn times(self, o: Self) -> Self {
        v3(self.x * o.x, self.y * o.y, self.z * o.z)
    }

    pub(crate) fn lerp(self, o: Self, t: f32) -> Self {
        self + (o - self) * t
    }

    /// The mirror image in the head's median plane.
    pub(crate) fn mirrored(self) -> Self {
        v3(-self.x, self.y, self.z)
    }
}

impl Add for Vec3 {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        v3(self.x + o.x, self.y + o.y, self.z + o.z)
    }
}

impl AddAssign for Vec3 {
    fn add_assign(&mut self, o: Self) {
        *self = *self + o;
    }
}

impl Sub for Vec3 {
    type Output = Self;
    fn sub(self, o: Self) -> Self {
        v3(self.x - o.x, self.y - o.y, self.z - o.z)
    }
}

impl Mul<f32> for Vec3 {
    type Output = Self;
    fn mul(self, k: f32) -> Self {
        v3(self.x * k, self.y * k, self.z * k)
    }
}

impl Neg for Vec3 {
    type Output = Self;
    fn neg(self) -> Self {
        v3(-self.x, -self.y, -self.z)
    }
}

/// A 3x3 matrix by rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Mat3(pub(crate) [Vec3; 3]);

impl Mat3 {
    pub(crate) const IDENTITY: Self = Self([v3(1.0, 0.0, 0.0), v3(0.0, 1.0, 0.0), v3(0.0, 0.0, 1.0)]);

    pub(crate) fn apply(&self, p: Vec3) -> Vec3 {
        v3(self.0[0].dot(p), self.0[1].dot(p), self.0[2].dot(p))
    }

    /// `self * o`.
    pub(crate) fn after(&self, o: &Self) -> Self {
        let t = o.transposed();
        Self(self.0.map(|r| v3(r.dot(t.0[0]), r.dot(t.0[1]), r.dot(t.0[2]))))
    }

    pub(crate) fn transposed(&self) -> Self {
        let [a, b, c] = self.0;
        Self([v3(a.x, b.x, c.x), v3(a.y, b.y, c.y), v3(a.z, b.z, c.z)])
    }

    pub(crate) fn about_x(rad: f32) -> Self {
        let (s, c) = sin_cos(rad);
        Self([v3(1.0, 0.0, 0.0), v3(0.0, c, -s), v3(0.0, s, c)])
    }

    pub(crate) fn about_y(rad: f32) -> Self {
        let (s, c) = sin_cos(rad);
        Self([v3(c, 0.0, s), v3(0.0, 1.0, 0.0), v3(-s, 0.0, c)])
    }

    pub(crate) fn about_z(rad: f32) -> Self {
        let (s, c) = sin_cos(rad);
        Self([v3(c, -s, 0.0), v3(s, c, 0.0), v3(0.0, 0.0, 1.0)])
    }
}

/// The largest integer not above `x`, for `|x| < 2^31`; the processor's own instruction is not in every baseline.
pub(crate) fn floor(x: f32) -> i32 {
    let i = x as i32;
    i - i32::from(x < i as f32)
}

/// Sine of `x` radians, to 4e-6 for `|x| < 1000`.
pub(crate) fn sin(x: f32) -> f32 {
    let turns = floor(x * (0.5 / PI) + 0.5) as f32;
    let mut r = x - turns * (2.0 * PI);
    if r > PI / 2.0 {
        r = PI - r;
    } else if r < -PI / 2.0 {
        r = -PI - r;
    }
    let q = r * r;
    r * (1.0 + q * (-1.0 / 6.0 + q * (1.0 / 120.0 + q * (-1.0 / 5040.0 + q * (1.0 / 362_880.0)))))
}

/// Cosine of `x` radians.
pub(crate) fn cos(x: f32) -> f32 {
    sin(x + PI / 2.0)
}

pub(crate) fn sin_cos(x: f32) -> (f32, f32) {
    (sin(x), cos(x))
}

/// `2^x`, relative error below 1e-6; saturates outside +-126.
pub(crate) fn exp2(x: f32) -> f32 {
    let x = x.clamp(-126.0, 126.0);
    let i = floor(x);
    let f = x - i as f32;
    let p = 1.0
        + f * (std::f32::consts::LN_2
            + f * (0.240_226_5
                + f * (0.055_504_11 + f * (0.009_618_13 + f * (0.001_333_36 + f * 0.000_154_7)))));
    f32::from_bits(((i + 127) as u32) << 23) * p
}

/// `e^x`.
pub(crate) fn exp(x: f32) -> f32 {
    exp2(x * LOG2_E)
}

/// Natural logarithm of a positive `x`, absolute error below 2e-6.
pub(crate) fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let mut e = ((bits >> 23) as i32 - 127) as f32;
    let mut m = f32::from_bits((bits & 0x007F_FFFF) | 0x3F80_0000);
    if m > std::f32::consts::SQRT_2 {
        m *= 0.5;
        e += 1.0;
    }
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    e * LN_2 + 2.0 * s * (1.0 + q * (1.0 / 3.0 + q * (0.2 + q * (1.0 / 7.0 + q * (1.0 / 9.0)))))
}

/// `x^y` for `x >= 0`.
pub(crate) fn pow(x: f32, y: f32) -> f32 {
    if x <= 1e-30 { 0.0 } else { exp(y * ln(x)) }
}

/// `exp(-(d/s)^2)`, the bump that shapes are made of.
pub(crate) fn bump(d: f32, s: f32) -> f32 {
    let q = d / s;
    let q = q * q;
    if q > 16.0 { 0.0 } else { exp(-q) }
}

/// A bump in two coordinates.
pub(crate) fn bump2(dx: f32, sx: f32, dy: f32, sy: f32) -> f32 {
    let (a, b) = (dx / sx, dy / sy);
    let q = a * a + b * b;
    if q > 16.0 { 0.0 } else { exp(-q) }
}

pub(crate) fn lerp(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// 0 below `a`, 1 above `b` (or the reverse where `b < a`), a cubic in between.
pub(crate) fn smoothstep(a: f32, b: f32, x: f32) -> f32 {
    let t = ((x - a) / (b - a)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// The larger of two values with a rounded corner of size `k`.
pub(crate) fn smooth_max(a: f32, b: f32, k: f32) -> f32 {
    let h = (0.5 + 0.5 * (a - b) / k).clamp(0.0, 1.0);
    lerp(b, a, h) + k * h * (1.0 - h)
}

/// Piecewise-linear interpolation through `(x, y)` knots in ascending x, constant beyond the ends.
pub(crate) fn knots(points: &[(f32, f32)], x: f32) -> f32 {
    let Some(&(first, y0)) = points.first() else {
        return 0.0;
    };
    if x <= first {
        return y0;
    }
    for w in points.windows(2) {
        let ((xa, ya), (xb, yb)) = (w[0], w[1]);
        if x <= xb {
            let t = (x - xa) / (xb - xa);
            return lerp(ya, yb, t);
        }
    }
    points[points.len() - 1].1
}

/// Like [`knots`] with a C1 cubic (Catmull-Rom tangents) through the points.
pub(crate) fn spline(points: &[(f32, f32)], x: f32) -> f32 {
    let n = points.len();
    if n == 0 {
        return 0.0;
    }
    if x <= points[0].0 {
        return points[0].1;
    }
    if x >= points[n - 1].0 {
        return points[n - 1].1;
    }
    let mut i = 0;
    while points[i + 1].0 < x {
        i += 1;
    }
    let slope = |j: usize| {
        let (a, b) = (j.saturating_sub(1), (j + 1).min(n - 1));
        (points[b].1 - points[a].1) / (points[b].0 - points[a].0)
    };
    let (xa, ya) = points[i];
    let (xb, yb) = points[i + 1];
    hermite(ya, yb, slope(i) * (xb - xa), slope(i + 1) * (xb - xa), (x - xa) / (xb - xa))
}

/// The cubic with these end values and end slopes at `t` in `[0, 1]`.
pub(crate) fn hermite(a: f32, b: f32, slope_a: f32, slope_b: f32, t: f32) -> f32 {
    let (t2, t3) = (t * t, t * t * t);
    a * (2.0 * t3 - 3.0 * t2 + 1.0)
        + slope_a * (t3 - 2.0 * t2 + t)
        + b * (3.0 * t2 - 2.0 * t3)
        + slope_b * (t3 - t2)
}

/// Mixes 64 bits (the finaliser of SplitMix64, Steele et al. 2014).
pub(crate) fn mix64(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Mixes two integer coordinates and a seed into 32 bits.
pub(crate) fn hash2(x: i32, y: i32, seed: u32) -> u32 {
    let mut h = (x as u32).wrapping_mul(0x8DA6_B343)
        ^ (y as u32).wrapping_mul(0xD816_3841)
        ^ seed.wrapping_mul(0xCB1A_B31F);
    h ^= h >> 16;
    h = h.wrapping_mul(0x7FEB_352D);
    h ^= h >> 15;
    h = h.wrapping_mul(0x846C_A68B);
    h ^ (h >> 16)
}

/// A hash as a number in `[0, 1)`.
pub(crate) fn unit(h: u32) -> f32 {
    (h >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Value noise in `[-1, 1]`, smooth on the unit grid.
pub(crate) fn noise2(x: f32, y: f32, seed: u32) -> f32 {
    let (xi, yi) = (floor(x), floor(y));
    let (fx, fy) = (x - xi as f32, y - yi as f32);
    let (sx, sy) = (fx * fx * (3.0 - 2.0 * fx), fy * fy * (3.0 - 2.0 * fy));
    let at = |dx: i32, dy: i32| unit(hash2(xi.wrapping_add(dx), yi.wrapping_add(dy), seed));
    let top = lerp(at(0, 0), at(1, 0), sx);
    let bottom = lerp(at(0, 1), at(1, 1), sx);
    2.0 * lerp(top, bottom, sy) - 1.0
}

/// A sum of `octaves` of [`noise2`], each twice as fine and half as strong, in about `[-1, 1]`.
pub(crate) fn fractal2(x: f32, y: f32, octaves: u32, seed: u32) -> f32 {
    let (mut sum, mut amplitude, mut frequency, mut total) = (0.0, 1.0, 1.0, 0.0);
    for o in 0..octaves {
        sum += amplitude * noise2(x * frequency, y * frequency, seed.wrapping_add(o * 101));
        total += amplitude;
        amplitude *= 0.5;
        frequency *= 2.03;
    }
    sum / total
}

/// Smooth noise over time in `[-1, 1]`: a cubic through one random value a unit of `x`.
pub(crate) fn noise1(x: f32, seed: u32) -> f32 {
    let i = floor(x);
    let f = x - i as f32;
    let at = |k: i32| 2.0 * unit(hash2(i.wrapping_add(k), 77, seed)) - 1.0;
    let (a, b) = (at(0), at(1));
    hermite(a, b, 0.5 * (b - at(-1)), 0.5 * (at(2) - a), f).clamp(-1.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elementary_functions_agree_with_the_standard_library() {
        for i in -4000..4000 {
            let x = i as f32 * 0.01;
            assert!((sin(x) - x.sin()).abs() < 2e-5, "sin {x}: {} {}", sin(x), x.sin());
            assert!((cos(x) - x.cos()).abs() < 2e-5, "cos {x}");
            assert!((exp(x * 0.5) / (x * 0.5).exp() - 1.0).abs() < 1e-5, "exp {x}");
            if i > 0 {
                assert!((ln(x) - x.ln()).abs() < 1e-5, "ln {x}");
                assert!((pow(x, 0.4545) / x.powf(0.4545) - 1.0).abs() < 1e-5, "pow {x}");
            }
        }
    }

    #[test]
    fn rotations_are_orthonormal_and_turn_the_stated_way() {
        let r = Mat3::about_z(0.3).after(&Mat3::about_y(-0.7)).after(&Mat3::about_x(0.4));
        let unit = r.after(&r.transposed());
        for (row, want) in unit.0.iter().zip(Mat3::IDENTITY.0) {
            assert!((*row - want).length() < 1e-5);
        }
        assert!(Mat3::about_y(0.5).apply(v3(0.0, 0.0, 1.0)).x > 0.4);
        assert!(Mat3::about_x(-0.5).apply(v3(0.0, 0.0, 1.0)).y > 0.4);
    }

    #[test]
    fn splines_pass_through_their_points() {
        let points = [(0.0, 1.0), (1.0, 3.0), (4.0, -2.0)];
        for (x, y) in points {
            assert!((spline(&points, x) - y).abs() < 1e-6);
            assert!((knots(&points, x) - y).abs() < 1e-6);
        }
        assert_eq!(spline(&points, 9.0), -2.0);
    }

    #[test]
    fn noise_is_bounded_and_continuous() {
        let mut last = noise2(-3.0, 0.7, 5);
        for i in 0..6000 {
            let n = noise2(-3.0 + i as f32 * 0.001, 0.7, 5);
            assert!(n.abs() <= 1.0 && (n - last).abs() < 0.01);
            last = n;
        }
    }
}
