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

/// Views that count as further positives of an anchor: SSLFER's false negatives (section 3.4).
#[derive(Debug)]
pub struct FalseNegatives {
    /// `[2N,n]`: rows of the views.
    pub rows: Tensor,
    /// `[2N]`: whether an anchor has any; where not, its `rows` mean nothing.
    pub known: Tensor,
    /// Weight of their loss beside that of the positive; SSLFER has 1/2.
    pub weight: f64,
}

/// NT-Xent: `first[i]` and `second[i]`, both `[N,d]`, are projections of two views of one picture; every view is an
/// anchor, its partner the positive, the other `2N - 2` views the negatives. Similarity is the cosine over
/// `temperature`.
pub fn nt_xent(first: &Tensor, second: &Tensor, temperature: f64, denominator: Denominator) -> Contrast {
    nt_xent_cancelling(first, second, temperature, denominator, None)
}

/// NT-Xent with false-negative cancellation, `L1 + w L2` (SSLFER, equation 2): the false negatives of an anchor are
/// left out of its negatives, and `L2` is the loss with each of them as the positive, averaged over them and over the
/// anchors that have some.
pub fn nt_xent_cancelling(
    first: &Tensor,
    second: &Tensor,
    temperature: f64,
    denominator: Denominator,
    false_negatives: Option<&FalseNegatives>,
) -> Contrast {
    let pairs = first.size()[0];
    let unit = unit_rows(&Tensor::cat(&[first, second], 0));
    let device = unit.device();
    let itself = Tensor::eye(2 * pairs, (Kind::Bool, device));
    let similarity = (unit.matmul(&unit.tr()) / temperature).masked_fill(&itself, f64::NEG_INFINITY);
    let partner = partner_of(pairs, device);
    let positive = similarity.gather(1, &partner, false);
    let others = similarity.scatter_value(1, &partner, f64::NEG_INFINITY);
    let plain = contrast(&positive, &others, denominator);
    let Some(FalseNegatives { rows, known, weight }) = false_negatives else { return plain };
    let known = known.unsqueeze(1);
    let cancelled = others.scatter_value(1, rows, f64::NEG_INFINITY);
    let negatives = cancelled.where_self(&known, &others);
    let first_loss = cross_entropy(&positive, &negatives, denominator).mean(None);
    // An anchor without false negatives takes part with its positive, so that nothing infinite reaches the gradient.
    let further = similarity.gather(1, rows, false).where_self(&known, &positive);
    let losses = cross_entropy(&further, &negatives, denominator) * known.to_kind(unit.kind());
    let count = known.sum(None).clamp_min(1) * rows.size()[1];
    Contrast { loss: first_loss + losses.sum(None) / count * *weight, top1: plain.top1 }
}

/// The mean loss of anchors with the similarities `positive` `[A,1]` and `negatives` `[A,M]`, over the temperature already, and
/// how many have a positive above every negative.
pub(crate) fn contrast(positive: &Tensor, negatives: &Tensor, denominator: Denominator) -> Contrast {
    let hardest = negatives.detach().amax([1].as_slice(), true);
    let top1 = positive.detach().gt_tensor(&hardest).to_kind(Kind::Float).mean(None);
    Contrast { loss: cross_entropy(positive, negatives, denominator).mean(None), top1 }
}

/// `-log(e^p / sum)` for each positive `[A,n]`, where the sum is over `negatives` `[A,M]` and maybe the positive.
fn cross_entropy(positive: &Tensor, negatives: &Tensor, denominator: Denominator) -> Tensor {
    let negatives = negatives.logsumexp([1].as_slice(), true);
    let log_sum = match denominator {
        Denominator::WithPositive => negatives.logaddexp(positive),
        Denominator::NegativesOnly => negatives,
    };
    log_sum - positive
}

/// Rows scaled to length 1.
pub(crate) fn unit_rows(rows: &Tensor) -> Tensor {
    // The root has no slope at 0: rows of zeros, as a black picture may have, stay zeros, without a slope.
    rows / rows.square().sum_dim_intlist([-1].as_slice(), true, None).clamp_min(1e-24).sqrt()
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

    /// SSLFER's equation 2 by loops, in f64; `cancelled[i]` are the false negatives of anchor `i`.
    fn naive_cancelling(
        views: &[Vec<f64>],
        cancelled: &[Vec<usize>],
        weight: f64,
        with_positive: bool,
    ) -> f64 {
        let count = views.len();
        let similarity = |i: usize, k: usize| {
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
            let (a, b) = (&views[i], &views[k]);
            dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()) / TEMPERATURE
        };
        let (mut first, mut second, mut anchors) = (0.0, 0.0, 0.0);
        for (i, cancelled) in cancelled.iter().enumerate() {
            let j = (i + count / 2) % count;
            let negatives = (0..count).filter(|&k| k != i && k != j && !cancelled.contains(&k));
            let sum: f64 = negatives.map(|k| similarity(i, k).exp()).sum();
            let loss = |p: usize| {
                let own = if with_positive { similarity(i, p).exp() } else { 0.0 };
                -(similarity(i, p).exp() / (sum + own)).ln()
            };
            first += loss(j) / count as f64;
            if !cancelled.is_empty() {
                anchors += 1.0;
                second += cancelled.iter().map(|&l| loss(l)).sum::<f64>() / cancelled.len() as f64;
            }
        }
        first + weight * second / anchors
    }

    #[test]
    fn cancelling_matches_equation_2_and_its_gradient() {
        let cancelled: Vec<Vec<usize>> = vec![
            vec![1, 7],
            vec![],
            vec![4, 9],
            vec![0, 5],
            vec![],
            vec![6, 1],
            vec![8, 2],
            vec![],
            vec![3, 5],
            vec![0, 1],
        ];
        let rows: Vec<[i64; 2]> = cancelled
            .iter()
            .map(|c| if c.is_empty() { [0, 0] } else { [c[0] as i64, c[1] as i64] })
            .collect();
        let known: Vec<bool> = cancelled.iter().map(|c| !c.is_empty()).collect();
        let extra = FalseNegatives {
            rows: Tensor::from_slice2(&rows),
            known: Tensor::from_slice(&known),
            weight: 0.5,
        };
        for denominator in [Denominator::WithPositive, Denominator::NegativesOnly] {
            let with_positive = denominator == Denominator::WithPositive;
            let views = random_views(5, 7);
            let (_, all) = tensors(&views);
            let (first, second) = (all.narrow(0, 0, 5), all.narrow(0, 5, 5));
            let contrast = nt_xent_cancelling(&first, &second, TEMPERATURE, denominator, Some(&extra));
            let value = contrast.loss.double_value(&[]);
            let expected = naive_cancelling(&views, &cancelled, 0.5, with_positive);
            assert!((value - expected).abs() < 1e-9, "{denominator:?}: {value} {expected}");
            contrast.loss.backward();
            let gradient = all.grad();
            let step = 1e-5;
            for (row, column) in (0..10).flat_map(|r| (0..7).map(move |c| (r, c))) {
                let moved = |by: f64| {
                    let mut moved = views.clone();
                    moved[row][column] += by;
                    naive_cancelling(&moved, &cancelled, 0.5, with_positive)
                };
                let slope = (moved(step) - moved(-step)) / (2.0 * step);
                let ours = gradient.double_value(&[row as i64, column as i64]);
                assert!((ours - slope).abs() < 1e-6, "{denominator:?} {row},{column}: {ours} {slope}");
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
