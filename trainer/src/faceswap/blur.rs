//! A separable Gaussian over a padded picture.

/// Weights of a Gaussian of an odd number of taps, summing to 1.
#[derive(Clone, Debug)]
pub(super) struct Gaussian {
    /// From the middle tap outwards.
    half: Vec<f32>,
}

impl Gaussian {
    /// The Gaussian of `2 reach + 1` taps, its deviation by the rule that OpenCV goes by where it is given the taps alone:
    /// `0.3 (reach - 1) + 0.8` pixels.
    pub(super) fn of_reach(reach_px: usize) -> Self {
        let sigma_px = 0.3 * (reach_px as f64 - 1.0) + 0.8;
        let weights: Vec<f64> =
            (0..=reach_px).map(|i| (-0.5 * (i as f64 / sigma_px).powi(2)).exp()).collect();
        let sum = weights[0] + 2.0 * weights[1..].iter().sum::<f64>();
        Self { half: weights.iter().map(|w| (w / sum) as f32).collect() }
    }

    /// Taps on either side of the middle.
    pub(super) fn reach_px(&self) -> usize {
        self.half.len() - 1
    }

    /// Blurs a picture of `width_px` pixels a row with `CHANNELS` values a pixel. `padded` holds it with
    /// [`Gaussian::reach_px`] pixels more on each of the four sides; `across` is working space.
    ///
    /// # Panics
    /// Where `out` is not whole rows, or `padded` does not fit it.
    pub(super) fn blur<const CHANNELS: usize>(
        &self,
        padded: &[f32],
        width_px: usize,
        across: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let row = width_px * CHANNELS;
        let padded_row = row + 2 * self.reach_px() * CHANNELS;
        let padded_rows = out.len() / row + 2 * self.reach_px();
        assert_eq!(out.len() % row, 0, "whole rows");
        assert_eq!(padded.len(), padded_rows * padded_row, "length of the padded picture");
        across.resize(padded_rows * row, 0.0);
        for (line, blurred) in padded.chunks_exact(padded_row).zip(across.chunks_exact_mut(row)) {
            self.correlate(line, CHANNELS, blurred);
        }
        self.correlate(across, row, out);
    }

    /// `out[i]` is the weighted sum over `values[i], values[i + stride], ..`.
    fn correlate(&self, values: &[f32], stride: usize, out: &mut [f32]) {
        /// Sums that stay in registers while the taps go by.
        const BLOCK: usize = 32;
        let length = out.len();
        if length < BLOCK {
            for (at, sum) in out.iter_mut().enumerate() {
                [*sum] = self.sums(values, stride, at);
            }
            return;
        }
        // The last block overlaps the one before it.
        for at in (0..length - BLOCK).step_by(BLOCK).chain([length - BLOCK]) {
            out[at..at + BLOCK].copy_from_slice(&self.sums::<BLOCK>(values, stride, at));
        }
    }

    #[inline(always)]
    fn sums<const N: usize>(&self, values: &[f32], stride: usize, at: usize) -> [f32; N] {
        let tap = |i: usize| -> &[f32; N] {
            values[at + i * stride..][..N].try_into().expect("a slice of N values")
        };
        let middle = self.reach_px();
        let mut sums = tap(middle).map(|v| v * self.half[0]);
        for (distance, &weight) in self.half.iter().enumerate().skip(1) {
            let (before, after) = (tap(middle - distance), tap(middle + distance));
            for ((sum, b), a) in sums.iter_mut().zip(before).zip(after) {
                *sum += weight * (b + a);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// The sum over all taps of both axes, as a Gaussian is defined.
    fn direct<const CHANNELS: usize>(padded: &[f32], width: usize, height: usize, reach: usize) -> Vec<f64> {
        let sigma = 0.3 * (reach as f64 - 1.0) + 0.8;
        let padded_width = width + 2 * reach;
        let mut out = Vec::new();
        for y in 0..height {
            for x in 0..width {
                for c in 0..CHANNELS {
                    let (mut sum, mut norm) = (0.0, 0.0);
                    for dy in 0..=2 * reach {
                        for dx in 0..=2 * reach {
                            let squared =
                                (dx as f64 - reach as f64).powi(2) + (dy as f64 - reach as f64).powi(2);
                            let weight = (-squared / (2.0 * sigma * sigma)).exp();
                            let value = padded[((y + dy) * padded_width + x + dx) * CHANNELS + c];
                            sum += weight * f64::from(value);
                            norm += weight;
                        }
                    }
                    out.push(sum / norm);
                }
            }
        }
        out
    }

    fn check<const CHANNELS: usize>(width: usize, height: usize, reach: usize) {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let count = (width + 2 * reach) * (height + 2 * reach) * CHANNELS;
        let padded: Vec<f32> = (0..count).map(|_| rng.random_range(0.0..255.0)).collect();
        let mut out = vec![f32::NAN; width * height * CHANNELS];
        Gaussian::of_reach(reach).blur::<CHANNELS>(&padded, width, &mut Vec::new(), &mut out);
        for (got, want) in out.iter().zip(direct::<CHANNELS>(&padded, width, height, reach)) {
            assert!((f64::from(*got) - want).abs() < 1e-3, "{got} {want} at reach {reach}");
        }
    }

    #[test]
    fn a_blur_is_the_direct_sum_over_both_axes() {
        for reach in [1, 2, 8, 14] {
            check::<1>(17, 5, reach);
            check::<3>(13, 11, reach);
        }
        check::<3>(1, 1, 3);
        check::<1>(9, 4, 0);
    }

    #[test]
    fn weights_are_opencvs() {
        // cv2.getGaussianKernel(17, 0) of OpenCV 5.0.
        let opencv: [f64; 9] = [
            0.138011181,
            0.130045146,
            0.108801223,
            0.080822663,
            0.053307988,
            0.031218438,
            0.016232665,
            0.007494251,
            0.003072036,
        ];
        let weights = Gaussian::of_reach(8).half;
        assert_eq!(weights.len(), opencv.len());
        for (w, o) in weights.iter().zip(opencv) {
            assert!((f64::from(*w) - o).abs() < 1e-7, "{w} {o}");
        }
    }
}
