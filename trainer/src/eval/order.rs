//! Whether embeddings keep the order of a video's frames: what CLP's temporal triplets teach (Li & Shan, equation 1), and what every
//! encoder has some of, since faces move smoothly.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::ensure;
use serde::Serialize;

use super::goal::finite;
use super::subject::Subject;
use super::{EvalArgs, Protocol};
use crate::checkpoint::floats;
use crate::ntxent::unit_rows;
use crate::store::Store;

/// Rank correlation of cosine distance and time gap over the pairs of frames of each video.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OrderReport {
    /// `order`.
    pub task: &'static str,
    /// `knn`.
    pub protocol: &'static str,
    /// The split that was scored.
    pub split: &'static str,
    /// Videos with frames at two gaps at least.
    pub n: u64,
    /// Pairs of frames in all.
    pub pairs: u64,
    /// Frames further apart than this many seconds are not compared.
    pub within_secs: f64,
    /// Mean over videos of Spearman's rank correlation, in `[-1, 1]`.
    pub spearman: f64,
}

/// Runs the task.
///
/// # Errors
/// Where no video of the split has frames at two gaps within the time, or the protocol is none of this task.
pub(super) fn judge(args: &EvalArgs, subject: &Subject, store: &Store) -> anyhow::Result<OrderReport> {
    ensure!(
        args.protocol == Protocol::Knn,
        "--protocol {}: --task order compares frozen embeddings, by --protocol knn alone",
        args.protocol.name()
    );
    let frames = store.split(args.split);
    let mut videos: BTreeMap<usize, Vec<(f64, usize)>> = BTreeMap::new();
    for (row, &frame) in frames.iter().enumerate() {
        let record = store.record(frame);
        videos.entry(record.video_index()).or_default().push((record.t_secs(), row));
    }
    let embeddings = unit_rows(&finite(subject.embed(store, &frames)?.into_tensor())?);
    let dim = embeddings.size()[1] as usize;
    let values = floats(&embeddings)?;
    let rows: Vec<&[f32]> = values.chunks_exact(dim).collect();
    let (mut sum, mut n, mut pairs) = (0.0, 0, 0);
    for video in videos.values() {
        let (gaps, distances) = gaps_and_distances(video, &rows, args.within_secs);
        if gaps.iter().any(|gap| *gap != gaps[0]) {
            sum += spearman(&gaps, &distances);
            n += 1;
            pairs += gaps.len() as u64;
        }
    }
    ensure!(
        n > 0,
        "{}: no video of the {} split has frames at two different gaps within --within-secs {}: raise it",
        store.dir().display(),
        args.split.name(),
        args.within_secs
    );
    Ok(OrderReport {
        task: "order",
        protocol: "knn",
        split: args.split.name(),
        n,
        pairs,
        within_secs: args.within_secs,
        spearman: sum / n as f64,
    })
}

/// For each pair of a video's frames (time in seconds, row) that are within this many seconds: the seconds, and the cosine distance.
fn gaps_and_distances(video: &[(f64, usize)], rows: &[&[f32]], within_secs: f64) -> (Vec<f64>, Vec<f64>) {
    let mut both = (Vec::new(), Vec::new());
    for (i, &(t, row)) in video.iter().enumerate() {
        for &(other_t, other) in &video[i + 1..] {
            // To the millisecond, so that equal gaps are equal.
            let gap = ((other_t - t).abs() * 1e3).round() / 1e3;
            if gap <= within_secs {
                let cosine: f64 = rows[row].iter().zip(rows[other]).map(|(a, b)| f64::from(a * b)).sum();
                both.0.push(gap);
                both.1.push(1.0 - cosine);
            }
        }
    }
    both
}

/// Spearman's rank correlation, ties at their mean rank; 0 where one side has no order.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let (mean_a, mean_b) = (mean(&a), mean(&b));
    let product: f64 = a.iter().zip(&b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum();
    let square = |values: &[f64], mean: f64| values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    let scale = (square(&a, mean_a) * square(&b, mean_b)).sqrt();
    if scale > 0.0 { product / scale } else { 0.0 }
}

/// Each value's rank from 0, equal ones at the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for same in order.chunk_by(|&i, &j| values[i] == values[j]) {
        for &i in same {
            ranks[i] = first as f64 + (same.len() - 1) as f64 / 2.0;
        }
        first += same.len();
    }
    ranks
}

impl fmt::Display for OrderReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "order, knn, {} split, n = {} videos, {} pairs", self.split, self.n, self.pairs)?;
        write!(
            f,
            "rank correlation of cosine distance and time gap, up to {} s: {:.4}",
            self.within_secs, self.spearman
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rank_correlation_has_its_textbook_values() {
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 90.0]), 1.0);
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[5.0, 4.0, 1.0]), -1.0);
        // 1 - 6 sum d^2 / (n (n^2 - 1)) with d = 1, 1, 0, 0.
        assert!((spearman(&[1.0, 2.0, 3.0, 4.0], &[2.0, 1.0, 3.0, 4.0]) - 0.8).abs() < 1e-12);
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), 0.0);
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 0.0]), [2.5, 1.0, 2.5, 0.0]);
    }

    #[test]
    fn frames_along_an_arc_are_in_order_as_far_as_they_are_compared() {
        // Ten frames a second, each turned by a tenth; after the tenth the way goes back.
        let turned = |angle: f32| [angle.cos(), angle.sin()];
        let rows: Vec<[f32; 2]> = (0..20).map(|i| turned(0.1 * (10 - (10i32 - i).abs()) as f32)).collect();
        let rows: Vec<&[f32]> = rows.iter().map(|row| &row[..]).collect();
        let video: Vec<(f64, usize)> = (0..10).map(|i| (i as f64 / 10.0, i)).collect();
        let (gaps, distances) = gaps_and_distances(&video, &rows, 9.0);
        assert_eq!(gaps.len(), 45);
        assert!((distances[0] - (1.0 - 0.1f64.cos())).abs() < 1e-6);
        // Short of 1 by equal gaps, whose distances differ by roundings.
        assert!(spearman(&gaps, &distances) > 0.98);
        let there_and_back: Vec<(f64, usize)> = (0..20).map(|i| (i as f64 / 10.0, i)).collect();
        let all = gaps_and_distances(&there_and_back, &rows, 9.0);
        let near = gaps_and_distances(&there_and_back, &rows, 0.3);
        assert_eq!(near.0.len(), 19 + 18 + 17);
        assert!(spearman(&all.0, &all.1) < spearman(&near.0, &near.1));
    }
}
