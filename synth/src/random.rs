//! Random numbers by seed: the same on every machine and with every version of the crates underneath.

use crate::math::{cos, ln, mix64};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A generator for one purpose: `stream` and `index` set it apart from every other one with the same seed.
pub(crate) fn rng_for(seed: u64, stream: Stream, index: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(mix64(mix64(seed ^ mix64(stream as u64)).wrapping_add(mix64(index))))
}

/// What random numbers are drawn for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    Identity = 1,
    Style = 2,
    Scene = 3,
    Expression = 4,
    Blink = 5,
    Motion = 6,
    Occlusion = 7,
    Background = 8,
    Shape = 9,
    Noise = 10,
}

/// Draws that depend on `next_u32` alone. (`rand`'s own distributions may change between its versions.)
pub(crate) trait Draw: Rng {
    /// Uniform in `[0, 1)`, a multiple of 2^-24.
    fn unit(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in `[a, b)`.
    fn between(&mut self, a: f32, b: f32) -> f32 {
        a + (b - a) * self.unit()
    }

    /// True with probability `p`.
    fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }

    /// Standard normal (Box-Muller), clamped to +-2.5.
    fn normal(&mut self) -> f32 {
        let radius = (-2.0 * ln(1.0 - self.unit())).max(0.0).sqrt();
        (radius * cos(std::f32::consts::TAU * self.unit())).clamp(-2.5, 2.5)
    }

    /// An index below `weights.len()`, with probabilities proportional to the weights.
    fn weighted(&mut self, weights: &[f32]) -> usize {
        let mut left = self.unit() * weights.iter().sum::<f32>();
        for (i, w) in weights.iter().enumerate() {
            left -= w;
            if left < 0.0 {
                return i;
            }
        }
        weights.len().saturating_sub(1)
    }
}

impl<R: Rng> Draw for R {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_draws_have_mean_zero_and_deviation_near_one() {
        let mut rng = rng_for(1, Stream::Identity, 0);
        let draws: Vec<f32> = (0..20_000).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f32>() / draws.len() as f32;
        let var = draws.iter().map(|d| (d - mean) * (d - mean)).sum::<f32>() / draws.len() as f32;
        assert!(mean.abs() < 0.03, "{mean}");
        // Clamping a normal at 2.5 deviations leaves a variance of 0.972.
        assert!((var - 0.97).abs() < 0.03, "{var}");
    }

    #[test]
    fn streams_are_independent() {
        let a = rng_for(1, Stream::Identity, 0).next_u64();
        assert_ne!(a, rng_for(1, Stream::Style, 0).next_u64());
        assert_ne!(a, rng_for(1, Stream::Identity, 1).next_u64());
        assert_ne!(a, rng_for(2, Stream::Identity, 0).next_u64());
        assert_eq!(a, rng_for(1, Stream::Identity, 0).next_u64());
    }
}
