//! Intervals of a metric by resampling blocks.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// How intervals are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Resamples.
    pub draws: usize,
    /// Share of the resamples that lie within the interval, in `(0, 1)`.
    pub level: f64,
    /// The same seed gives the same intervals.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { draws: 1000, level: 0.9, seed: 0 }
    }
}

/// Where a metric lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

impl Bootstrap {
    /// Percentile intervals (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13) of what
    /// `statistic` makes of a resample of `blocks` blocks, which it is given by their indices. Blocks rather than
    /// samples are drawn because samples of one block resemble each other: drawing them one by one would give intervals
    /// that are far too narrow.
    ///
    /// A statistic that compares two predictions on the same indices is a paired comparison. Values that are NaN (a
    /// class that a resample lacks) are left out; an interval of nothing is NaN.
    pub fn intervals(&self, blocks: usize, mut statistic: impl FnMut(&[usize]) -> Vec<f64>) -> Vec<Interval> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut drawn = vec![0; blocks];
        let mut values: Vec<Vec<f64>> = Vec::new();
        for _ in 0..self.draws {
            for index in &mut drawn {
                // The high half of the product: even to within 2^-32, and the same in every version of `rand`.
                *index = ((u64::from(rng.next_u32()) * blocks as u64) >> 32) as usize;
            }
            let draw = statistic(&drawn);
            values.resize(draw.len(), Vec::new());
            for (all, value) in values.iter_mut().zip(draw) {
                all.extend(Some(value).filter(|v| !v.is_nan()));
            }
        }
        let tail = (1.0 - self.level) / 2.0;
        let interval = |mut all: Vec<f64>| {
            all.sort_unstable_by(f64::total_cmp);
            Interval { low: quantile(&all, tail), high: quantile(&all, 1.0 - tail) }
        };
        values.into_iter().map(interval).collect()
    }
}

/// Quantile of sorted values with linear interpolation between neighbours (type 7 of Hyndman & Fan); NaN of none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = share.clamp(0.0, 1.0) * last as f64;
    let below = sorted[at as usize];
    let above = sorted[(at as usize + 1).min(last)];
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_match_the_worked_example() {
        let sorted = [1.0, 2.0, 4.0, 8.0, 16.0];
        assert_eq!([0.0, 0.5, 0.9, 1.0].map(|q| quantile(&sorted, q)), [1.0, 4.0, 8.0 + 0.6 * 8.0, 16.0]);
        assert!(quantile(&[], 0.5).is_nan());
    }

    /// The mean of two blocks that score 0 and 1 is 0, ½ or 1 with probabilities ¼, ½, ¼.
    #[test]
    fn resamples_of_two_blocks_follow_the_binomial() {
        let mut counts = [0_i32; 3];
        let bootstrap = Bootstrap { draws: 4000, ..Bootstrap::default() };
        let intervals = bootstrap.intervals(2, |drawn| {
            counts[drawn.iter().sum::<usize>()] += 1;
            vec![drawn.iter().sum::<usize>() as f64 / 2.0, f64::NAN]
        });
        assert_eq!((intervals[0].low, intervals[0].high), (0.0, 1.0));
        assert!(intervals[1].low.is_nan());
        for (count, expected) in counts.iter().zip([1000, 2000, 1000]) {
            assert!((count - expected).abs() < 120, "{counts:?}");
        }
    }

    /// For the mean of many values the interval is near the normal one: mean ± 1.645 s/√n.
    #[test]
    fn interval_of_a_mean_is_near_the_normal_one() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 20)).collect();
        let mean = |drawn: &[usize]| vec![drawn.iter().map(|&i| values[i]).sum::<f64>() / 400.0];
        let interval = Bootstrap::default().intervals(400, mean)[0];
        let half = 1.645 * (399.0_f64 / 12.0).sqrt() / 20.0;
        assert!((interval.low - (9.5 - half)).abs() < 0.06, "{interval:?} {half}");
        assert!((interval.high - (9.5 + half)).abs() < 0.06, "{interval:?} {half}");
        assert_eq!(interval, Bootstrap::default().intervals(400, mean)[0]);
    }
}
