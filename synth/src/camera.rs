//! From light to a picture file's pixels: optics, exposure, sensor and tone curve.

use crate::math::{hash2, lerp, pow, smoothstep};
use crate::picture::Picture;
use crate::random::{Draw, Stream, rng_for};
use rand::Rng;
use semblance_face::Frame;
use std::sync::OnceLock;

/// How the camera sees. All 0 is a perfect camera.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Camera {
    /// Distance from camera to face, cm: near cameras widen the nose.
    pub distance_cm: f32,
    /// Blur out of focus, in thousandths of the picture's height (standard deviation).
    pub defocus_permille: f32,
    /// Share of a frame's time that the shutter is open, 0 to 1: how much motion smears.
    pub shutter: f32,
    /// Exposure beyond the automatic one, in stops.
    pub exposure_stops: f32,
    /// White balance: gains of red and blue relative to green.
    pub white_balance: [f32; 2],
    /// Noise of the sensor at mid-grey, in 1/255 (standard deviation).
    pub noise: f32,
    /// Contrast around mid-grey, 1 as is.
    pub contrast: f32,
    /// Saturation, 1 as is, 0 grey.
    pub saturation: f32,
    /// Darkening towards the corners, 0 to 1.
    pub vignette: f32,
    /// Sharpening in the camera, 0 to 1.
    pub sharpen: f32,
}

impl Camera {
    /// No blur, no noise, neutral colours, from 80 cm.
    pub const fn ideal() -> Self {
        Self {
            distance_cm: 80.0,
            defocus_permille: 0.0,
            shutter: 0.0,
            exposure_stops: 0.0,
            white_balance: [1.0, 1.0],
            noise: 0.0,
            contrast: 1.0,
            saturation: 1.0,
            vignette: 0.0,
            sharpen: 0.0,
        }
    }

    /// A random webcam or phone.
    pub(crate) fn sample(rng: &mut impl Rng) -> Self {
        let warm = 0.09 * rng.normal();
        let bad = rng.unit() * rng.unit();
        Self {
            distance_cm: 42.0 * pow(7.0, rng.unit()),
            defocus_permille: if rng.chance(0.35) { 7.0 * bad } else { 2.0 * rng.unit() },
            shutter: rng.between(0.0, 0.9) * rng.unit(),
            exposure_stops: 0.40 * rng.normal(),
            white_balance: [1.0 + warm, 1.0 - warm + 0.04 * rng.normal()],
            noise: 0.6 + 7.0 * rng.unit() * bad + 1.5 * rng.unit(),
            contrast: 1.05 + 0.11 * rng.normal(),
            saturation: if rng.chance(0.04) { 0.0 } else { (1.03 + 0.12 * rng.normal()).clamp(0.7, 1.35) },
            vignette: 0.45 * rng.unit() * rng.unit(),
            sharpen: 0.7 * rng.unit() * rng.unit(),
        }
    }

    /// Exposes `picture` into `frame`, which has its size. `gain` is the automatic exposure, `smear` the motion in
    /// pixels during a frame and `seed` the noise's.
    pub(crate) fn expose(
        &self,
        picture: &mut Picture,
        gain: f32,
        smear: [f32; 2],
        seed: u32,
        frame: &mut Frame,
        scratch: &mut Vec<[f32; 3]>,
    ) {
        let height = picture.height as f32;
        picture.blur(self.defocus_permille * 1e-3 * height, scratch);
        picture.smear(0.5 * self.shutter * smear[0], 0.5 * self.shutter * smear[1], scratch);
        if self.sharpen > 0.01 {
            sharpen(picture, self.sharpen, scratch);
        }
        let gain = gain * pow(2.0, self.exposure_stops);
        let channel = [gain * self.white_balance[0], gain, gain * self.white_balance[1]];
        let curve = tone_curve();
        let (w, h) = (picture.width, picture.height);
        let (cx, cy) = (0.5 * w as f32, 0.5 * height);
        let far = 1.0 / (cx * cx + cy * cy);
        let out = frame.rgb_mut();
        let table = noise_table();
        for y in 0..h {
            let dy = y as f32 + 0.5 - cy;
            let row = &picture.rgb[y * w..][..w];
            let out = &mut out[3 * y * w..][..3 * w];
            // Each row reads the table from two places of its own: one for brightness, one for colour.
            let (luma_at, tint_at) = (hash2(y as i32, 1, seed) as usize, hash2(y as i32, 2, seed) as usize);
            for (x, (p, bytes)) in row.iter().zip(out.chunks_exact_mut(3)).enumerate() {
                let dx = x as f32 + 0.5 - cx;
                let edge = 1.0 - self.vignette * (dx * dx + dy * dy) * far;
                let p = [p[0] * channel[0] * edge, p[1] * channel[1] * edge, p[2] * channel[2] * edge];
                let luma = 0.2126 * p[0] + 0.7152 * p[1] + 0.0722 * p[2];
                let shared = 0.85 * table[(luma_at + x) & NOISE_MASK];
                for (c, byte) in bytes.iter_mut().enumerate() {
                    let v = curve.at(luma + (p[c] - luma) * self.saturation);
                    let v = (v - 118.0) * self.contrast + 118.0;
                    let n = shared + 0.55 * table[(tint_at + 3 * x + c) & NOISE_MASK];
                    // Shot noise: dark tones are lifted by the curve and noisier in relation.
                    let v = v + self.noise * n * lerp(1.25, 0.7, v * (1.0 / 255.0));
                    *byte = (v + 0.5).clamp(0.0, 255.0) as u8;
                }
            }
        }
    }
}

const NOISE_MASK: usize = 0x1FFF;

/// Standard normal numbers.
fn noise_table() -> &'static [f32] {
    static TABLE: OnceLock<Vec<f32>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut rng = rng_for(0, Stream::Noise, 0);
        (0..=NOISE_MASK).map(|_| rng.normal()).collect()
    })
}

fn sharpen(picture: &mut Picture, amount: f32, scratch: &mut Vec<[f32; 3]>) {
    scratch.clear();
    scratch.extend_from_slice(&picture.rgb);
    let (w, h) = (picture.width, picture.height);
    for y in 1..h.saturating_sub(1) {
        for x in 1..w.saturating_sub(1) {
            let i = y * w + x;
            let (here, left, right) = (scratch[i], scratch[i - 1], scratch[i + 1]);
            let (above, below) = (scratch[i - w], scratch[i + w]);
            picture.rgb[i] = std::array::from_fn(|k| {
                let around = 0.25 * (left[k] + right[k] + above[k] + below[k]);
                (here[k] + amount * (here[k] - around)).max(0.0)
            });
        }
    }
}

/// Linear light to 0..255, tabulated.
struct ToneCurve {
    values: Vec<f32>,
}

impl ToneCurve {
    const STEPS: usize = 8192;
    /// Light that saturates.
    const WHITE: f32 = 1.6;

    fn at(&self, light: f32) -> f32 {
        let x = light * (Self::STEPS as f32 / Self::WHITE) + 0.5;
        self.values[(x.max(0.0) as usize).min(Self::STEPS)]
    }
}

/// sRGB's curve, with highlights rolled off above 0.75 so that they do not clip hard.
fn tone_curve() -> &'static ToneCurve {
    static CURVE: OnceLock<ToneCurve> = OnceLock::new();
    CURVE.get_or_init(|| ToneCurve {
        values: (0..=ToneCurve::STEPS)
            .map(|i| {
                let x = i as f32 / ToneCurve::STEPS as f32 * ToneCurve::WHITE;
                let rolled = if x < 0.6 { x } else { 0.6 + 0.4 * smooth_shoulder((x - 0.6) / 0.4) };
                let s = if rolled <= 0.003_130_8 {
                    12.92 * rolled
                } else {
                    1.055 * pow(rolled, 1.0 / 2.4) - 0.055
                };
                255.0 * s.min(1.0)
            })
            .collect(),
    })
}

/// Rises with slope 1 from 0 and reaches 1 at 2.5.
fn smooth_shoulder(x: f32) -> f32 {
    let t = (x / 2.5).clamp(0.0, 1.0);
    // The quadratic Bezier curve through (0,0), (1,1), (2.5,1), near enough as a blend.
    lerp(x / (1.0 + 0.45 * x), 1.0, smoothstep(0.6, 1.0, t))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::math::v3;

    fn exposed(camera: &Camera, light: f32) -> Vec<u8> {
        let mut p = Picture::from_fn(64, 48, |_, _| v3(light, light, light));
        let mut frame = Frame::black(64, 48).unwrap();
        camera.expose(&mut p, 1.0, [0.0; 2], 7, &mut frame, &mut Vec::new());
        frame.rgb().to_vec()
    }

    #[test]
    fn an_ideal_camera_follows_srgb_below_the_shoulder_and_never_falls() {
        for (light, srgb) in [(0.0, 0), (0.05, 63), (0.18, 118), (0.4, 170), (0.55, 195)] {
            let v = exposed(&Camera::ideal(), light)[0];
            assert!(v.abs_diff(srgb) <= 1, "{light}: {v}, not {srgb}");
        }
        let mut last = 0;
        for i in 0..200 {
            let v = exposed(&Camera::ideal(), i as f32 * 0.01)[0];
            assert!(v >= last);
            last = v;
        }
        assert!(last >= 250);
    }

    #[test]
    fn noise_has_the_stated_strength_and_no_bias() {
        let camera = Camera { noise: 6.0, ..Camera::ideal() };
        let v = exposed(&camera, 0.18);
        let mean = v.iter().map(|&b| f32::from(b)).sum::<f32>() / v.len() as f32;
        let var =
            v.iter().map(|&b| (f32::from(b) - mean) * (f32::from(b) - mean)).sum::<f32>() / v.len() as f32;
        assert!((mean - 118.0).abs() < 1.0, "{mean}");
        assert!((4.5..8.0).contains(&var.sqrt()), "{}", var.sqrt());
    }
}
