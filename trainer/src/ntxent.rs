//! The contrastive loss over a batch of view pairs.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// Which terms the denominator of the contrastive loss sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Denominator {
    /// The positive and the negatives: NT-Xent of SimCLR (Chen et al. 2020, equation 1).
    #[default]
    WithPositive,
    /// The negatives alone: SSLFER's equation 1 as printed.
    NegativesOnly,
}

/// A loss and how well instances are told apart.
#[derive(Debug)]
pub struct Contrast {
    /// Mean loss over the `2N` anchors, a scalar that can be differentiated.
    pub loss: Tensor,
    /// Share of anchors whose positive is more similar than every negative, a scalar without gradient.
    pub top1: Tensor,
}

/// NT-Xent: `first[i]` and `second[i]`, both `[N,d]`, are projections of two views of one picture; every view is an
/// anchor, its partner the positive, the other `2N - 2` views the negatives. Similarity is the cosine over
/// `temperature`.
pub fn nt_xent(first: &Tensor, second: &Tensor, temperature: f64, denominator: Denominator) -> Contrast {
    let pairs = first.size()[0];
    let views = Tensor::cat(&[first, second], 0);
    let norm = views.square().sum_dim_intlist([1].as_slice(), true, None).sqrt().clamp_min(1e-12);
    let unit = views / norm;
    let device = unit.device();
    let anchors = 2 * pairs;
    let itself = Tensor::eye(anchors, (Kind::Bool, device));
    let similarity = (unit.matmul(&unit.tr()) / temperature).masked_fill(&itself, f64::NEG_INFINITY);
    let partner = partner_of(pairs, device);
    let positive = similarity.gather(1, &partner, false);
    let negatives = similarity.scatter_value(1, &partner, f64::NEG_INFINITY);
    let log_sum = match denominator {
        Denominator::WithPositive => similarity.logsumexp([1].as_slice(), false),
        Denominator::NegativesOnly => negatives.logsumexp([1].as_slice(), false),
    };
    let loss = (log_sum - positive.squeeze_dim(1)).mean(None);
    let hardest = negatives.detach().amax([1].as_slice(), true);
    let top1 = positive.detach().gt_tensor(&hardest).to_kind(Kind::Float).mean(None);
    Contrast { loss, top1 }
}

/// `[2N,1]`: the row of each anchor's positive.
fn partner_of(pairs: i64, device: Device) -> Tensor {
    let rows = Tensor::arange(2 * pairs, (Kind::Int64, device));
    ((rows + pairs).remainder(2 * pairs)).unsqueeze(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const TEMPERATURE: f64 = 0.07;

    /// The loss by its definition: two loops over views, in f64.
    fn naive(views: &[Vec<f64>], denominator: Denominator) -> f64 {
        let count = views.len();
        let cosine = |a: &[f64], b: &[f64]| {
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
            dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())
        };
        let mut total = 0.0;
        for i in 0..count {
            let j = (i + count / 2) % count;
            let mut sum = 0.0;
            for k in 0..count {
                if k == i || (k == j && denominator == Denominator::NegativesOnly) {
                    continue;
                }
                sum += (cosine(&views[i], &views[k]) / TEMPERATURE).exp();
            }
            total -= (cosine(&views[i], &views[j]) / TEMPERATURE) - sum.ln();
        }
        total / count as f64
    }

    fn random_views(pairs: usize, dim: usize) -> Vec<Vec<f64>> {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        (0..2 * pairs).map(|_| (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
    }

    fn tensors(views: &[Vec<f64>]) -> (Tensor, Tensor) {
        let all = Tensor::from_slice2(views).set_requires_grad(true);
        (all.narrow(0, 0, views.len() as i64 / 2), all)
    }

    #[test]
    fn value_and_gradient_match_a_double_loop() {
        for denominator in [Denominator::WithPositive, Denominator::NegativesOnly] {
            let views = random_views(5, 7);
            let (_, all) = tensors(&views);
            let contrast = nt_xent(&all.narrow(0, 0, 5), &all.narrow(0, 5, 5), TEMPERATURE, denominator);
            let value = contrast.loss.double_value(&[]);
            assert!((value - naive(&views, denominator)).abs() < 1e-9, "{denominator:?}: {value}");
            contrast.loss.backward();
            let gradient = all.grad();
            let step = 1e-5;
            for row in 0..views.len() {
                for column in 0..views[0].len() {
                    let mut moved = views.clone();
                    moved[row][column] += step;
                    let above = naive(&moved, denominator);
                    moved[row][column] -= 2.0 * step;
                    let slope = (above - naive(&moved, denominator)) / (2.0 * step);
                    let ours = gradient.double_value(&[row as i64, column as i64]);
                    assert!((ours - slope).abs() < 1e-6, "{denominator:?} {row},{column}: {ours} {slope}");
                }
            }
        }
    }

    #[test]
    fn top1_counts_anchors_whose_partner_is_nearest() {
        // Pairs 0 and 1 match exactly; pair 2's views lie on pair 0's and pair 1's.
        let first = Tensor::from_slice2(&[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.1, 0.0]]);
        let second = Tensor::from_slice2(&[[1.0, 0.0, 0.1], [0.0, 1.0, 0.1], [0.0, 1.0, 0.2]]);
        let contrast = nt_xent(&first, &second, TEMPERATURE, Denominator::WithPositive);
        let expected = naive_top1(&first, &second);
        assert!(expected > 0.0 && expected < 1.0, "the example tells hits from misses: {expected}");
        assert!((contrast.top1.double_value(&[]) - expected).abs() < 1e-6);
    }

    fn naive_top1(first: &Tensor, second: &Tensor) -> f64 {
        let rows: Vec<Vec<f64>> = Vec::try_from(Tensor::cat(&[first, second], 0)).unwrap();
        let cosine = |a: &[f64], b: &[f64]| {
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
            dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        };
        let hits = (0..rows.len()).filter(|&i| {
            let j = (i + rows.len() / 2) % rows.len();
            (0..rows.len())
                .all(|k| k == i || k == j || cosine(&rows[i], &rows[k]) < cosine(&rows[i], &rows[j]))
        });
        hits.count() as f64 / rows.len() as f64
    }
}
