//! CLP's losses against loops in f64, and what is held.

use super::super::clp::{cross_identity_loss, temporal_loss};
use super::*;
use crate::data::SequenceConfig;

#[test]
fn the_temporal_loss_is_equation_1_forwards_and_backwards() {
    let (length, sequences) = (5usize, 3usize);
    let embeddings = crate::ntxent::unit_rows(&random(&[15, 4], 1)).view([5, 3, 4]);
    let at =
        |j: usize, n: usize| -> Vec<f64> { Vec::try_from(embeddings.get(j as i64).get(n as i64)).unwrap() };
    let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    // The published weights of the triplets whose positives are the second, third and fourth frames.
    let weights = [
        (TripletWeight::InverseRoot, [0.5f64.sqrt(), (1.0f64 / 3.0).sqrt(), 0.5]),
        (TripletWeight::Exponential, [(-2.0f64).exp(), (-3.0f64).exp(), (-4.0f64).exp()]),
        (TripletWeight::Inverse, [0.5, 1.0 / 3.0, 0.25]),
        (TripletWeight::One, [1.0; 3]),
    ];
    for (weight, lambda) in weights {
        for reversed in [false, true] {
            let mut expected = 0.0;
            for n in 0..sequences {
                let mut orders = vec![(0..length).collect::<Vec<_>>()];
                if reversed {
                    orders.push((0..length).rev().collect());
                }
                for order in orders {
                    for j in 1..length - 1 {
                        let [anchor, positive, negative] =
                            [order[0], order[j], order[j + 1]].map(|f| at(f, n));
                        let hinge = distance(&anchor, &positive) - distance(&anchor, &negative) + 0.03;
                        expected += lambda[j - 1] * hinge.max(0.0) / sequences as f64;
                    }
                }
            }
            let config = ClpConfig { weight, reversed, ..ClpConfig::default() };
            let ours = temporal_loss(&embeddings, &config).double_value(&[]);
            assert!((ours - expected).abs() < 1e-9, "{weight:?} {reversed}: {ours} {expected}");
        }
    }
    // Frames in a row, each as far from the next: nothing is left to learn but what the margin asks.
    let line = Tensor::from_slice(&[0.0, 0.1, 0.2, 0.3]).view([4, 1, 1]);
    assert_eq!(temporal_loss(&line, &ClpConfig::default()).double_value(&[]), 0.0);
}

#[test]
fn cross_identity_reconstruction_is_equations_2_to_4() {
    let unit = |shape: [i64; 2], seed| crate::ntxent::unit_rows(&random(&shape, seed));
    let queries = random(&[3, 4], 1);
    let (keys, dictionary, negatives) = (unit([3, 4], 2), unit([5, 4], 3), unit([6, 4], 4));
    let rows = |t: &Tensor| -> Vec<Vec<f64>> { Vec::try_from(t).unwrap() };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let cosine = |a: &[f64], b: &[f64]| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let temperature = 0.3;
    let (c, n) = (rows(&dictionary), rows(&negatives));
    let expected: f64 = rows(&queries)
        .iter()
        .zip(rows(&keys))
        .map(|(q, k)| {
            let shares: Vec<f64> = c.iter().map(|c| (cosine(q, c) / temperature).exp()).collect();
            let sum: f64 = shares.iter().sum();
            let made: Vec<f64> =
                (0..4).map(|d| c.iter().zip(&shares).map(|(c, s)| s / sum * c[d]).sum()).collect();
            let e = |other: &[f64]| (cosine(&made, other) / temperature).exp();
            let repelled: f64 = n.iter().map(|n| e(n)).sum();
            -(e(&k) / (e(&k) + repelled)).ln() / 3.0
        })
        .sum();
    let ours = cross_identity_loss(&queries, &keys, &dictionary, &negatives, temperature).loss;
    assert!((ours.double_value(&[]) - expected).abs() < 1e-9, "{ours} {expected}");
}

const SEQUENCE: SequenceConfig = SequenceConfig { length: 3, stride: 1, scattered: 2 };

fn clp(config: ClpConfig) -> (nn::VarStore, Clp, Views) {
    let mut vs = store();
    let moco = MocoConfig { queue: 12, momentum: 0.9 };
    let method = Clp::new(edge(&vs), config, moco, SEQUENCE);
    vs.double();
    let plan = method.plan();
    // Three frames and two views of each of two scattered ones.
    assert_eq!(plan.len(), 3 + 2 * 2);
    assert_eq!(plan.iter().map(|view| view.frame).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 3, 4]);
    let views = (0..7).map(|i| random(&[PAIRS, 3, 16, 16], i)).collect();
    let views = Views { views, ..super::views(1) };
    (vs, method, views)
}

#[test]
fn nothing_flows_through_keys_and_memory_and_each_term_through_its_head() {
    let (vs, method, views) = clp(ClpConfig::default());
    let draws: Vec<u64> = method.plan().iter().map(|view| view.draw).collect();
    assert_eq!(
        draws,
        [0, 0, 0, 3, 5, 4, 6],
        "a sequence is augmented alike, the two views of a frame are not"
    );
    let keys = method.keys_of(&views, &ALONE);
    compare_slopes(&vs, || method.loss_with(&views, &keys, &ALONE).total);
    for (name, variable) in vs.variables() {
        if name.starts_with("key.") || name == "queue" {
            assert!(!variable.requires_grad(), "{name}");
        }
    }
    let heads = |config: ClpConfig| {
        let (vs, mut method, views) = clp(config);
        method.loss(0, &views, &ALONE).unwrap().total.backward();
        ["temporal.first.weight", "identity.first.weight"].map(|name| {
            let gradient = variable(&vs, name).grad();
            gradient.defined() && gradient.abs().sum(None::<Kind>).double_value(&[]) > 0.0
        })
    };
    assert_eq!(heads(ClpConfig { cross_identity: false, ..ClpConfig::default() }), [true, false]);
    assert_eq!(heads(ClpConfig { temporal: false, ..ClpConfig::default() }), [false, true]);
    assert_eq!(heads(ClpConfig::default()), [true, true]);
}

#[test]
fn keys_of_scattered_frames_join_the_memory_after_the_step() {
    let (vs, mut method, views) = clp(ClpConfig::default());
    let before = variable(&vs, "queue").copy();
    let loss = method.loss(0, &views, &ALONE).unwrap();
    assert_eq!(loss.parts.len(), method.parts(0).len());
    let keys = method.keys_of(&views, &ALONE);
    assert!(variable(&vs, "queue").equal(&before));
    after(&mut method, 0.0);
    let queue = variable(&vs, "queue");
    assert!((queue - keys).abs().max().double_value(&[]) < 1e-12, "two keys of each of six videos fill it");
}
