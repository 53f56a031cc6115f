//! Every method's gradient against finite differences in f64, and what must not have a gradient.

#![allow(clippy::unwrap_used)]

mod clp;
mod pcl;
mod reconstruction;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor, nn, no_grad};

use super::sslfer::false_negatives;
use super::*;
use crate::nets::{After, Backbone, Mlp, PclFeatures, Phase, Precision};
use crate::optim::named_parameters;

const PAIRS: i64 = 6;
static ALONE: Group = Group::single();
const PROJECTION: Projection =
    Projection { hidden: 24, out: 8, temperature: 0.2, denominator: Denominator::WithPositive };

/// Values about 0, deviation 1. libtorch's own generator is shared by all tests, which run side by side.
fn random(shape: &[i64], seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| rng.random_range(-1.7..1.7)).collect();
    Tensor::from_slice(&values).view(shape)
}

fn views(seed: u64) -> Views {
    Views {
        views: (0..2).map(|i| random(&[PAIRS, 3, 16, 16], seed + 100 * i)).collect(),
        quadruples: Tensor::from_slice(&[0i64, 1, 2, 0, 1, 2]),
        pictures: random(&[2 * PAIRS, 3, 74, 74], seed + 200).to_kind(Kind::Float).sigmoid(),
        landmarks: (0..2 * PAIRS).map(|i| (i != 4).then(|| face(i))).collect(),
        seed,
        seeds: (0..PAIRS as u64).map(|i| seed + i).collect(),
    }
}

/// Landmarks at the corners of eyes and mouth, the rest between them; each picture's a little different.
fn face(i: i64) -> [f32; 136] {
    let mut points = [0.5; 136];
    let shift = i as f32 * 0.01;
    for (point, at) in [(36, [0.3, 0.35]), (45, [0.7, 0.4]), (48, [0.35, 0.7]), (54, [0.65, 0.8])] {
        points[2 * point] = at[0] + shift;
        points[2 * point + 1] = at[1] - shift;
    }
    for point in (37..45).chain(46..48).chain(49..54).chain(55..68) {
        points[2 * point + 1] = if point < 48 { 0.38 } else { 0.75 };
    }
    points
}

/// The slope of `loss` along a random direction of the trainable variables, by autograd and by finite differences.
fn compare_slopes(vs: &nn::VarStore, loss: impl Fn() -> Tensor) {
    let parameters = named_parameters(vs);
    parameters.iter().for_each(|(_, p)| {
        let mut p = p.shallow_clone();
        p.zero_grad();
    });
    loss().backward();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for _ in 0..3 {
        let directions: Vec<Tensor> = parameters
            .iter()
            .map(|(_, p)| {
                let values: Vec<f64> = (0..p.numel()).map(|_| rng.random_range(-1.0..1.0)).collect();
                Tensor::from_slice(&values).view(p.size().as_slice())
            })
            .collect();
        let moved = |by: f64| {
            let shift = |by: f64| {
                no_grad(|| {
                    for ((_, p), direction) in parameters.iter().zip(&directions) {
                        let mut p = p.shallow_clone();
                        p += direction * by;
                    }
                });
            };
            shift(by);
            let value = no_grad(&loss).double_value(&[]);
            shift(-by);
            value
        };
        let ours: f64 = parameters
            .iter()
            .zip(&directions)
            .filter(|((_, p), _)| p.grad().defined())
            .map(|((_, p), direction)| (p.grad() * direction).sum(None).double_value(&[]))
            .sum();
        // The steeper, the nearer: kinks are to stay where they are.
        let step = 1e-9 / (1.0 + ours.abs() / 10.0);
        let slope = (moved(step) - moved(-step)) / (2.0 * step);
        assert!((ours - slope).abs() < 1e-4 * (1.0 + slope.abs()), "{ours} {slope}");
        assert!(slope.abs() > 1e-3, "the direction means something: {slope}");
    }
}

/// The device's encoder for views of 16 px.
fn edge(vs: &nn::VarStore) -> Build<'_> {
    of(vs, Backbone::Edge, 16)
}

fn of(vs: &nn::VarStore, backbone: Backbone, side_px: u32) -> Build<'_> {
    Build {
        vs,
        architecture: backbone.at(side_px),
        precision: Precision::F32,
        normalisation: ([0.0; 3], [1.0; 3]),
    }
}

/// The end of a step of which nothing is known but how far the run is.
fn after(method: &mut impl Objective, progress: f64) {
    let parts = Tensor::zeros([0], (Kind::Float, Device::Cpu));
    method.after_step(&Done { progress, epoch_done: false, parts: &parts });
}

fn store() -> nn::VarStore {
    nn::VarStore::new(Device::Cpu)
}

#[test]
fn simclr_and_sslfer_have_the_gradient_of_their_loss() {
    for count in [0, 2] {
        let mut vs = store();
        let mask_fn = MaskFn { count, ..MaskFn::default() };
        let mut method = Sslfer::new(edge(&vs), PROJECTION, mask_fn).unwrap();
        vs.double();
        let views = views(1);
        let cell = std::cell::RefCell::new(&mut method);
        compare_slopes(&vs, || cell.borrow_mut().loss(0, &views, &ALONE).unwrap().total);
    }
    let mut vs = store();
    let method = SimClr::new(edge(&vs), PROJECTION);
    vs.double();
    let views = views(1);
    let cell = std::cell::RefCell::new(method);
    compare_slopes(&vs, || cell.borrow_mut().loss(0, &views, &ALONE).unwrap().total);
}

#[test]
fn sslfer_without_cancellation_is_simclr() {
    let mut plain = store();
    let mut simclr = SimClr::new(edge(&plain), PROJECTION);
    plain.double();
    let expected = simclr.loss(0, &views(1), &ALONE).unwrap().total.double_value(&[]);
    let sslfer = |count| {
        let mut vs = store();
        let mask_fn = MaskFn { count, ..MaskFn::default() };
        let mut method = Sslfer::new(edge(&vs), PROJECTION, mask_fn).unwrap();
        vs.double();
        vs.copy(&plain).unwrap();
        method.loss(0, &views(1), &ALONE).unwrap().total.double_value(&[])
    };
    assert!((expected - sslfer(0)).abs() < 1e-9);
    assert!((expected - sslfer(1)).abs() > 1e-3, "a false negative changes the loss");
}

#[test]
fn false_negatives_are_the_most_similar_views_that_may_be_chosen() {
    let descriptors = crate::ntxent::unit_rows(&random(&[12, 6], 5));
    let _ = descriptors.get(4).fill_(0.0);
    let quadruples = [0i64, 1, 2, 0, 1, 2];
    let chosen = false_negatives(&descriptors, &Tensor::from_slice(&quadruples), 2, 0.5).unwrap();
    let rows: Vec<Vec<f64>> = Vec::try_from(&descriptors).unwrap();
    for i in 0..12 {
        assert_eq!(chosen.known.int64_value(&[i]) == 1, i != 4, "{i}: what is unknown is not cancelled");
        if i == 4 {
            continue;
        }
        let i = i as usize;
        let cosine = |k: usize| rows[i].iter().zip(&rows[k]).map(|(a, b)| a * b).sum::<f64>();
        let mut eligible: Vec<usize> =
            (0..12).filter(|&k| k != 4 && quadruples[k % 6] != quadruples[i % 6]).collect();
        eligible.sort_by(|&a, &b| cosine(b).total_cmp(&cosine(a)));
        let ours: Vec<i64> = Vec::try_from(chosen.rows.get(i as i64)).unwrap();
        assert_eq!(ours, eligible[..2].iter().map(|&k| k as i64).collect::<Vec<_>>(), "{i}");
    }
    // Everybody belongs to everybody: there is nobody to choose.
    let related =
        false_negatives(&descriptors, &Tensor::zeros([6], (Kind::Int64, Device::Cpu)), 1, 0.5).unwrap();
    assert_eq!(related.known.sum(None).int64_value(&[]), 0);
    assert!(false_negatives(&descriptors, &Tensor::from_slice(&quadruples), 12, 0.5).is_none());
}

const MOCO: MocoConfig = MocoConfig { queue: 10, momentum: 0.9 };

fn moco() -> (nn::VarStore, Moco) {
    let mut vs = store();
    let method = Moco::new(edge(&vs), PROJECTION, MOCO);
    vs.double();
    (vs, method)
}

fn variable(vs: &nn::VarStore, name: &str) -> Tensor {
    vs.variables()[name].shallow_clone()
}

#[test]
fn moco_has_the_gradient_of_its_loss_and_none_through_the_keys() {
    let (vs, method) = moco();
    let views = views(2);
    // The keys are the momentum encoder's alone: it is another one, and then has what the queries' encoder had.
    let same = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]) < 1e-12;
    let as_queries = |views: &Views| {
        let swapped = Views { views: vec![views.second().shallow_clone()], ..views.shallow_clone() };
        no_grad(|| method.queries(&swapped, &ALONE))
    };
    assert!(same(&method.keys(&views, &ALONE), &as_queries(&views)), "both begin alike");
    no_grad(|| {
        for (_, mut weight) in vs.variables().into_iter().filter(|(name, _)| name.starts_with("key.")) {
            let noise = weight.rand_like() * 0.1;
            weight += noise;
        }
    });
    let keys = method.keys(&views, &ALONE);
    assert!(!same(&keys, &as_queries(&views)));
    assert!(same(&keys, &method.keys(&views, &ALONE)));
    compare_slopes(&vs, || method.contrast_with(&views, &keys, &ALONE).loss);
    for (name, variable) in vs.variables() {
        if name.starts_with("key.") || name == "queue" {
            assert!(!variable.requires_grad(), "{name}");
        }
    }
    let naive = {
        let rows = |t: &Tensor| -> Vec<Vec<f64>> { Vec::try_from(t).unwrap() };
        let queries = rows(&no_grad(|| method.queries(&views, &ALONE)));
        let (keys, queue) = (rows(&keys), rows(&variable(&vs, "queue")));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>() / 0.2;
        let losses = queries.iter().zip(&keys).map(|(q, k)| {
            let sum: f64 = queue.iter().map(|n| dot(q, n).exp()).sum();
            -(dot(q, k).exp() / (dot(q, k).exp() + sum)).ln()
        });
        losses.sum::<f64>() / PAIRS as f64
    };
    let loss = no_grad(|| method.contrast_with(&views, &keys, &ALONE).loss).double_value(&[]);
    assert!((loss - naive).abs() < 1e-9, "{loss} {naive}");
}

#[test]
fn mocos_queue_replaces_the_oldest_and_its_keys_follow_slowly() {
    let (vs, mut method) = moco();
    let row = |i: i64| variable(&vs, "queue").get(i);
    let same = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]) == 0.0;
    let start = variable(&vs, "queue").copy();
    let views = [views(1), views(2)];
    let mut keys = Vec::new();
    for (turn, views) in views.iter().enumerate() {
        let before = variable(&vs, "queue").copy();
        let _ = method.loss(0, views, &ALONE).unwrap();
        keys.push(method.keys(views, &ALONE));
        assert!(same(&variable(&vs, "queue"), &before), "keys join after the step");
        let weight = variable(&vs, "encoder.stem.conv.weight");
        let key = variable(&vs, "key.encoder.stem.conv.weight");
        no_grad(|| {
            let mut weight = weight.shallow_clone();
            weight += 1.0;
        });
        let expected = &key * 0.9 + &weight * 0.1;
        after(&mut method, 0.0);
        let now = variable(&vs, "key.encoder.stem.conv.weight");
        assert!((now - expected).abs().max().double_value(&[]) < 1e-12, "turn {turn}");
    }
    // Six keys, then six more in a queue of ten: the second turn goes on at 6 and comes round to 0.
    for i in 0..6 {
        let place = (6 + i) % 10;
        assert!(same(&row(place), &keys[1].get(i)), "{i}");
    }
    for i in 2..6 {
        assert!(same(&row(i), &keys[0].get(i)), "{i}");
    }
    assert!(!same(&row(6), &start.get(6)));
    assert_eq!(variable(&vs, "place").double_value(&[0]), 2.0);
}

#[test]
fn byol_has_the_gradient_of_its_loss_and_its_target_follows_the_schedule() {
    let config = ByolConfig { hidden: 24, out: 8, momentum: 0.9 };
    let mut vs = store();
    let mut method = Byol::new(edge(&vs), config);
    vs.double();
    let views = views(3);
    let targets = method.targets(&views, &ALONE);
    compare_slopes(&vs, || method.contrast_with(&views, &targets, &ALONE).unwrap().loss);
    let trained = named_parameters(&vs);
    assert!(trained.iter().all(|(name, _)| !name.starts_with("target.")));
    assert!(trained.iter().any(|(name, _)| name.starts_with("predictor.")));

    assert_eq!(config.momentum_at(0.0), 0.9);
    assert!((config.momentum_at(0.5) - 0.95).abs() < 1e-12);
    assert!((config.momentum_at(1.0) - 1.0).abs() < 1e-12);
    let (online, target) = ("projection.second.weight", "target.projection.second.weight");
    no_grad(|| {
        let mut weight = variable(&vs, online);
        weight += 1.0;
    });
    let expected = variable(&vs, target) * 0.95 + variable(&vs, online) * 0.05;
    after(&mut method, 0.5);
    assert!((variable(&vs, target) - expected).abs().max().double_value(&[]) < 1e-12);
}

#[test]
fn simsiam_has_the_gradient_of_its_loss_with_the_targets_held() {
    let config = SimSiamConfig { out: 12, bottleneck: 6, ..SimSiamConfig::default() };
    let mut vs = store();
    let mut method = SimSiam::new(edge(&vs), config);
    vs.double();
    let views = views(4);
    let targets = no_grad(|| method.project(&views, &ALONE));
    compare_slopes(&vs, || {
        method.contrast_with(&method.project(&views, &ALONE), &targets, &ALONE).unwrap().loss
    });
    let held: Vec<Tensor> = named_parameters(&vs).iter().map(|(_, p)| p.grad().copy()).collect();
    named_parameters(&vs).iter_mut().for_each(|(_, p)| p.zero_grad());
    method.loss(0, &views, &ALONE).unwrap().total.backward();
    for ((name, p), held) in named_parameters(&vs).iter().zip(held) {
        let difference = (p.grad() - held).abs().max().double_value(&[]);
        assert!(difference < 1e-9, "{name}: a step's own targets are held as well: {difference}");
    }
}

/// A network with the weights that `vs` has under `from`.
fn rebuilt<T>(vs: &nn::VarStore, from: &str, build: impl FnOnce(&nn::Path<'_>) -> T) -> (nn::VarStore, T) {
    let mut copy = store();
    let network = build(&copy.root());
    copy.double();
    let all = vs.variables();
    no_grad(|| {
        for (name, mut variable) in copy.variables() {
            variable.copy_(&all[&format!("{from}{name}")]);
        }
    });
    (copy, network)
}

/// A head's name, the values it takes and its layers.
type Head<'a> = (&'a str, i64, &'a [(i64, After)]);

/// Rows of length 1 that networks under these names give of a view: the encoder, then heads of these layers.
fn rows_through(vs: &nn::VarStore, view: &Tensor, encoder: &str, heads: &[Head<'_>]) -> Vec<Vec<f64>> {
    no_grad(|| {
        let (_held, network) = rebuilt(vs, encoder, |path| Backbone::Edge.at(16).build(path));
        let mut x = network.forward(view, Phase::ALONE, Precision::F32);
        for (name, input, layers) in heads {
            let (_held, head) = rebuilt(vs, name, |path| Mlp::new(path, *input, layers));
            x = head.forward(&x, Phase::ALONE);
        }
        let rows: Vec<Vec<f64>> = Vec::try_from(x).unwrap();
        let length = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>().sqrt();
        rows.into_iter().map(|row| row.iter().map(|v| v / length(&row)).collect()).collect()
    })
}

#[test]
fn byols_loss_is_the_squared_distance_to_what_the_target_says_of_the_other_view() {
    let config = ByolConfig { hidden: 24, out: 8, momentum: 0.9 };
    let mut vs = store();
    let mut method = Byol::new(edge(&vs), config);
    vs.double();
    // A target that is not the online network, as after some steps.
    for (i, (name, mut variable)) in (0..).zip(vs.variables()) {
        if name.starts_with("target.") && name.ends_with("weight") {
            no_grad(|| variable += random(&variable.size(), i) * 0.05);
        }
    }
    let views = views(5);
    let layers = [(24, After::NormRelu), (8, After::Nothing)];
    let embedding = Backbone::Edge.at(16).embedding_size();
    let predict = |view| {
        let heads = [("projection.", embedding, &layers[..]), ("predictor.", 8, &layers[..])];
        rows_through(&vs, view, "encoder.", &heads)
    };
    let target =
        |view| rows_through(&vs, view, "target.encoder.", &[("target.projection.", embedding, &layers[..])]);
    let predicted = [predict(views.first()), predict(views.second())];
    let said = [target(views.first()), target(views.second())];
    let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    let loss_with = |of_first: &[Vec<f64>], of_second: &[Vec<f64>]| {
        (0..PAIRS as usize)
            .map(|i| distance(&predicted[0][i], &of_first[i]) + distance(&predicted[1][i], &of_second[i]))
            .sum::<f64>()
            / PAIRS as f64
    };
    let expected = loss_with(&said[1], &said[0]);
    let loss = method.loss(0, &views, &ALONE).unwrap().total;
    assert!((loss.double_value(&[]) - expected).abs() < 1e-9, "{loss} {expected}");
    let swapped = loss_with(&said[0], &said[1]);
    // A thousand times what the comparison above lets pass; how much more depends on the weights that were drawn.
    assert!((swapped - expected).abs() > 1e-6, "which view is predicted shows: {swapped} {expected}");
    // Nothing flows through the target: the slope is that of the predictions alone.
    let cell = std::cell::RefCell::new(&mut method);
    compare_slopes(&vs, || cell.borrow_mut().loss(0, &views, &ALONE).unwrap().total);
    assert!(vs.variables().iter().all(|(n, v)| !n.starts_with("target.") || !v.requires_grad()));
}

#[test]
fn simsiams_loss_is_the_cosine_to_the_other_views_projection_averaged() {
    let config = SimSiamConfig { out: 12, bottleneck: 6, ..SimSiamConfig::default() };
    let mut vs = store();
    let mut method = SimSiam::new(edge(&vs), config);
    vs.double();
    let views = views(6);
    let projection = [(12, After::NormRelu), (12, After::NormRelu), (12, After::PlainNorm)];
    let predictor = [(6, After::NormRelu), (12, After::Nothing)];
    let embedding = Backbone::Edge.at(16).embedding_size();
    let heads = [("projection.", embedding, &projection[..]), ("predictor.", 12, &predictor[..])];
    let each = |heads| [views.first(), views.second()].map(|view| rows_through(&vs, view, "encoder.", heads));
    let (projected, predicted) = (each(&heads[..1]), each(&heads[..]));
    let cosine = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let loss_with = |of_first: &[Vec<f64>], of_second: &[Vec<f64>]| {
        (0..PAIRS as usize)
            .map(|i| cosine(&predicted[0][i], &of_first[i]) + cosine(&predicted[1][i], &of_second[i]))
            .sum::<f64>()
            / (-2.0 * PAIRS as f64)
    };
    let expected = loss_with(&projected[1], &projected[0]);
    let loss = method.loss(0, &views, &ALONE).unwrap().total.double_value(&[]);
    assert!((loss - expected).abs() < 1e-9, "{loss} {expected}");
    let swapped = loss_with(&projected[0], &projected[1]);
    // A thousand times what the comparison above lets pass; how much more depends on the weights that were drawn.
    assert!((swapped - expected).abs() > 1e-6, "which view is predicted shows: {swapped} {expected}");
}

#[test]
fn retrieval_counts_rows_that_find_their_own() {
    let embeddings = crate::ntxent::unit_rows(&random(&[5, 4], 9));
    assert_eq!(retrieval_top1(&embeddings, &embeddings, &ALONE).unwrap().double_value(&[]), 1.0);
    let swapped = embeddings.index_select(0, &Tensor::from_slice(&[1i64, 0, 2, 3, 4]));
    assert!((retrieval_top1(&embeddings, &swapped, &ALONE).unwrap().double_value(&[]) - 0.6).abs() < 1e-6);
}
