//! Nearest neighbours among embeddings, by cosine similarity.

use std::fmt;

use anyhow::ensure;
use serde::Serialize;
use tch::{Kind, Tensor};

use super::Features;
use super::goal::{class_tensor, classes_of, one_hot};
use crate::data::training_device;
use crate::ntxent::unit_rows;
use crate::store::{Split, Store};

/// Rows whose similarities to all others are held at a time.
const ROWS: i64 = 1024;

/// Neighbours that vote, and the temperature of their weights (Wu et al. 2018, section 3.4).
pub(super) const NEIGHBOURS: usize = 20;
pub(super) const TEMPERATURE: f64 = 0.07;

/// For each query, the mean of the ballots of the `neighbours` nearest embeddings of `gallery`, each weighted by
/// `exp(cosine / temperature)` (Wu et al. 2018, section 3.4). Embeddings are `[N, dim]` and `[M, dim]`, ballots
/// `[N, values]`; the outcome is `[M, values]`, on the device of the queries.
pub(super) fn vote(
    gallery: &Tensor,
    ballots: &Tensor,
    queries: &Tensor,
    neighbours: usize,
    temperature: f64,
) -> Tensor {
    let (gallery, queries) = (unit_rows(gallery), unit_rows(queries));
    let ballots = ballots.to_device(queries.device());
    let (n, k) = (queries.size()[0], (neighbours as i64).min(gallery.size()[0]));
    let block = |start: i64| {
        let count = ROWS.min(n - start);
        let (similarity, rows) =
            queries.narrow(0, start, count).matmul(&gallery.tr()).topk(k, 1, true, false);
        let weights = (similarity / temperature).softmax(1, Kind::Float).unsqueeze(-1);
        let voted = ballots.index_select(0, &rows.flatten(0, -1)).view([count, k, -1]);
        (weights * voted).sum_dim_intlist([1].as_slice(), false, None)
    };
    Tensor::cat(&(0..n).step_by(ROWS as usize).map(block).collect::<Vec<_>>(), 0)
}

/// The share of `queries` whose class gets the most of the vote of their neighbours.
///
/// # Errors
/// Where either has no picture.
pub fn knn_accuracy(
    gallery: &Features,
    queries: &Features,
    neighbours: usize,
    temperature: f64,
) -> anyhow::Result<f64> {
    ensure!(
        !gallery.labels.is_empty() && !queries.labels.is_empty(),
        "there is no labelled picture to vote or to judge"
    );
    let ballots = one_hot(&class_tensor(gallery.labels.iter().copied()), gallery.classes.len() as i64);
    let votes = vote(&gallery.tensor(), &ballots, &queries.tensor(), neighbours, temperature);
    let right = classes_of(&votes)?.zip(&queries.labels).filter(|(a, b)| a == *b).count();
    Ok(right as f64 / queries.labels.len() as f64)
}

/// How well people are told apart: what an encoder of expressions should forget (SSLFER, table 2).
#[derive(Clone, Debug, Serialize)]
pub struct IdentityReport {
    /// `identity`.
    pub task: &'static str,
    /// `knn`.
    pub protocol: &'static str,
    /// The split that was searched.
    pub split: Split,
    /// Pictures that were looked up: those whose person has another one that may be found.
    pub n: u64,
    /// People in the split.
    pub identities: usize,
    /// Frames of the same video nearer than this do not count as found.
    pub apart_secs: f64,
    /// Share of pictures whose nearest neighbour is of the same person.
    pub accuracy: f64,
}

/// 1-nearest-neighbour identification, leaving out the picture itself and frames of its video nearer than
/// `apart_secs`, which tell nothing. `embeddings` is row-major `[frames, dim]`, of these frames of the store.
///
/// # Errors
/// Where nobody has two pictures that are far enough apart.
pub fn identity_knn(
    store: &Store,
    split: Split,
    indices: &[usize],
    embeddings: &[f32],
    dim: usize,
    apart_secs: f64,
) -> anyhow::Result<IdentityReport> {
    let unit = unit_rows(&Tensor::from_slice(embeddings).view([-1, dim as i64]).to_device(training_device()));
    let mut people = std::collections::HashMap::new();
    let places: Vec<(usize, usize, f64)> = indices
        .iter()
        .map(|&i| {
            let record = store.record(i);
            let fresh = people.len();
            (*people.entry(record.identity()).or_insert(fresh), record.video_index(), record.t_secs())
        })
        .collect();
    let excluded = |a: usize, b: usize| {
        places[a].1 == places[b].1 && (places[a].2 - places[b].2).abs() < apart_secs || a == b
    };
    let (mut looked_up, mut found) = (0u64, 0u64);
    for start in (0..indices.len()).step_by(ROWS as usize) {
        let count = (ROWS as usize).min(indices.len() - start);
        let similarity = unit.narrow(0, start as i64, count as i64).matmul(&unit.tr());
        let similarity = Vec::<f32>::try_from(similarity.to_kind(Kind::Float).flatten(0, -1))?;
        for (row, query) in similarity.chunks_exact(indices.len()).zip(start..) {
            let others = (0..indices.len()).filter(|&other| !excluded(query, other));
            if !others.clone().any(|other| places[other].0 == places[query].0) {
                continue;
            }
            let nearest = others.max_by(|&a, &b| row[a].total_cmp(&row[b]));
            looked_up += 1;
            found += u64::from(nearest.is_some_and(|other| places[other].0 == places[query].0));
        }
    }
    ensure!(
        looked_up > 0,
        "{}: nobody has two pictures that are far enough apart to be looked up",
        split.name()
    );
    Ok(IdentityReport {
        task: "identity",
        protocol: "knn",
        split,
        n: looked_up,
        identities: people.len(),
        apart_secs,
        accuracy: found as f64 / looked_up as f64,
    })
}

impl fmt::Display for IdentityReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "identity, knn, {} split, n = {} of {} people\naccuracy {:.4}",
            self.split.name(),
            self.n,
            self.identities,
            self.accuracy
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::prepare::encode_jpeg;
    use crate::store::{Provenance, Sample, StoreWriter};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use semblance_face::labels::Expression;

    fn random(count: usize, dim: usize, seed: u64) -> Features {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Features {
            classes: vec![Expression::Neutral, Expression::Happy, Expression::Sad],
            labels: (0..count).map(|_| rng.random_range(0..3)).collect(),
            dim,
            values: (0..count * dim).map(|_| rng.random_range(-1.0..1.0)).collect(),
        }
    }

    fn cosine(a: &[f32], b: &[f32]) -> f64 {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    #[test]
    fn the_vote_matches_loops() {
        let (train, val) = (random(60, 5, 1), random(40, 5, 2));
        let right = val.rows().zip(&val.labels).filter(|(query, label)| {
            let mut all: Vec<_> =
                train.rows().zip(&train.labels).map(|(r, l)| (cosine(query, r), *l)).collect();
            all.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut votes = [0.0; 3];
            all.iter().take(7).for_each(|(c, l)| votes[*l] += (c / 0.1).exp());
            (0..3).all(|class| votes[class] <= votes[**label])
        });
        let expected = right.count() as f64 / 40.0;
        assert!((knn_accuracy(&train, &val, 7, 0.1).unwrap() - expected).abs() < 1e-9);
    }

    #[test]
    fn a_mean_of_neighbours_matches_loops() {
        let (train, val) = (random(30, 4, 3), random(10, 4, 4));
        let values: Vec<f32> = (0..60).map(|i| (i % 7) as f32 - 3.0).collect();
        let ballots = Tensor::from_slice(&values).view([30, 2]);
        let means = vote(&train.tensor(), &ballots, &val.tensor(), 5, 0.2);
        for (q, query) in val.rows().enumerate() {
            let mut all: Vec<_> = train.rows().map(|r| cosine(query, r)).zip(values.chunks(2)).collect();
            all.sort_by(|a, b| b.0.total_cmp(&a.0));
            let total: f64 = all.iter().take(5).map(|(c, _)| (c / 0.2).exp()).sum();
            for axis in 0..2 {
                let weighted = all.iter().take(5).map(|(c, v)| (c / 0.2).exp() * f64::from(v[axis]));
                let expected = weighted.sum::<f64>() / total;
                let got = means.double_value(&[q as i64, axis as i64]);
                assert!((got - expected).abs() < 1e-4, "{q}: {got} {expected}");
            }
        }
    }

    #[test]
    fn neighbours_in_time_do_not_count() {
        // Each person's first two frames look alike and are near in time; the third looks like the other person's.
        let dir = tempfile::tempdir().unwrap();
        let mut writer = StoreWriter::create(dir.path()).unwrap();
        let jpeg = encode_jpeg(&[7; 256], 16, 16, 1, 90).unwrap();
        for person in ["a", "b", "alone"] {
            writer.begin_video(person, "v");
            for t in if person == "alone" { vec![0.0] } else { vec![0.0, 0.5, 9.0] } {
                writer.push(&jpeg, &Sample::unlabelled(t, Split::Test)).unwrap();
            }
        }
        writer.commit(Provenance::default()).unwrap();
        let store = Store::open(dir.path()).unwrap();
        let embeddings = [
            [1.0, 0.0, 0.0],
            [1.0, 0.1, 0.0],
            [0.0, 1.0, 0.2],
            [0.0, 1.0, 0.0],
            [0.1, 1.0, 0.0],
            [1.0, 0.0, 0.2],
            [0.0, 0.0, 1.0f32],
        ];
        let indices: Vec<usize> = (0..7).collect();
        let accuracy =
            |apart| identity_knn(&store, Split::Test, &indices, embeddings.as_flattened(), 3, apart).unwrap();
        let (near, far) = (accuracy(0.0), accuracy(3.0));
        assert_eq!((near.n, near.identities), (6, 3));
        assert!((near.accuracy - 4.0 / 6.0).abs() < 1e-9, "{near}");
        assert!(far.accuracy == 0.0, "{far}");
    }
}
