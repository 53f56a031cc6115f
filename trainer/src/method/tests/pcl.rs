//! PCL's losses against loops in f64, and where their gradients go.

use super::super::pcl::{FaceAndPose, Mixing, mixed_nt_xent, orthogonality, pose_nce};
use super::*;
use crate::ntxent::nt_xent;

const TEMPERATURE: f64 = 0.2;

fn rows(t: &Tensor) -> Vec<Vec<f64>> {
    Vec::try_from(t).unwrap()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn mixture(share: f64, a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| share * a + (1.0 - share) * b).collect()
}

/// `-log(e^p / (e^p + sum))` of cosines.
fn surprise(positive: f64, negatives: impl Iterator<Item = f64>, denominator: Denominator) -> f64 {
    let e = |s: f64| (s / TEMPERATURE).exp();
    let mut sum: f64 = negatives.map(e).sum();
    if denominator == Denominator::WithPositive {
        sum += e(positive);
    }
    -(e(positive) / sum).ln()
}

const BOTH: [Denominator; 2] = [Denominator::WithPositive, Denominator::NegativesOnly];

#[test]
fn the_contrast_of_faces_is_equation_6_with_mixed_negatives() {
    let projections = random(&[8, 5], 1);
    let views = rows(&projections);
    let mixing =
        Mixing { other: Tensor::from_slice(&[3i64, 0, 5, 1, 4, 2]), share: random(&[8, 6], 2).sigmoid() };
    let (other, share) = (Vec::<i64>::try_from(&mixing.other).unwrap(), rows(&mixing.share));
    for denominator in BOTH {
        let loss = |mixed: bool| {
            let anchor = |i: usize| {
                let partner = (i + 4) % 8;
                let negatives: Vec<usize> = (0..8).filter(|&k| k != i && k != partner).collect();
                let against = (0..6).map(|m| {
                    let own = &views[negatives[m]];
                    let with = &views[negatives[other[m] as usize]];
                    let negative = if mixed { mixture(share[i][m], own, with) } else { own.clone() };
                    cosine(&views[i], &negative)
                });
                surprise(cosine(&views[i], &views[partner]), against, denominator)
            };
            (0..8).map(anchor).sum::<f64>() / 8.0
        };
        let Contrast { loss: ours, top1 } =
            mixed_nt_xent(&projections, Some(&mixing), TEMPERATURE, denominator);
        assert!((ours.double_value(&[]) - loss(true)).abs() < 1e-9);
        assert!((0.0..=1.0).contains(&top1.double_value(&[])));
        // Without mixing it is SimCLR's.
        let plain = mixed_nt_xent(&projections, None, TEMPERATURE, denominator).loss;
        let simclr =
            nt_xent(&projections.narrow(0, 0, 4), &projections.narrow(0, 4, 4), TEMPERATURE, denominator);
        assert!((plain.double_value(&[]) - loss(false)).abs() < 1e-9);
        assert!((plain - simclr.loss).abs().double_value(&[]) < 1e-9);
    }
}

#[test]
fn the_contrast_of_poses_is_equation_5() {
    let (first, second) = (random(&[3, 5], 1), random(&[3, 5], 2));
    let negatives = random(&[3, 4, 5], 3);
    let mixing = Mixing { other: Tensor::from_slice(&[2i64, 3, 1, 0]), share: random(&[3, 4], 4).sigmoid() };
    let (other, share) = (Vec::<i64>::try_from(&mixing.other).unwrap(), rows(&mixing.share));
    let (a, b) = (rows(&first), rows(&second));
    for denominator in BOTH {
        let mut expected = 0.0;
        for i in 0..3 {
            let own = rows(&negatives.get(i as i64));
            let mixed: Vec<_> =
                (0..4).map(|m| mixture(share[i][m], &own[m], &own[other[m] as usize])).collect();
            for anchor in [&a[i], &b[i]] {
                let against = mixed.iter().map(|negative| cosine(anchor, negative));
                expected += surprise(cosine(&a[i], &b[i]), against, denominator) / 6.0;
            }
        }
        let ours = pose_nce(&first, &second, &negatives, Some(&mixing), TEMPERATURE, denominator).loss;
        assert!((ours.double_value(&[]) - expected).abs() < 1e-9, "{ours} {expected}");
    }
}

#[test]
fn orthogonality_is_equation_3_or_that_of_values() {
    let (face, pose) = (random(&[4, 3], 5), random(&[4, 3], 6));
    let scaled = |t: &Tensor| {
        let x = rows(t);
        let mean: Vec<f64> = (0..3).map(|d| x.iter().map(|row| row[d]).sum::<f64>() / 4.0).collect();
        let centred = x.iter().map(|row| row.iter().zip(&mean).map(|(v, m)| v - m).collect::<Vec<f64>>());
        centred
            .map(|row| row.iter().map(|v| v / (dot(&row, &row).sqrt() + 1e-6)).collect::<Vec<f64>>())
            .collect::<Vec<_>>()
    };
    let (f, p) = (scaled(&face), scaled(&pose));
    let pictures = (0..4).map(|i| dot(&f[i], &p[i]).powi(2)).sum::<f64>() / 4.0;
    let column = |x: &[Vec<f64>], d: usize| x.iter().map(|row| row[d]).collect::<Vec<f64>>();
    let values = (0..9).map(|k| dot(&column(&f, k / 3), &column(&p, k % 3)).powi(2)).sum::<f64>() / 9.0;
    for (what, expected) in [(Orthogonality::Pictures, pictures), (Orthogonality::Values, values)] {
        assert!((orthogonality(&face, &pose, what).double_value(&[]) - expected).abs() < 1e-9, "{what:?}");
    }
}

const SIDE_PX: u32 = 16;

fn pcl(config: PclConfig) -> (nn::VarStore, Pcl) {
    let mut vs = store();
    let method = Pcl::new(of(&vs, Backbone::Pcl, SIDE_PX), PROJECTION, config);
    vs.double();
    // The same weights in every run: by chance, slopes may be too steep to be measured.
    for (name, mut variable) in vs.variables().into_iter().filter(|(_, v)| v.requires_grad()) {
        if variable.dim() > 1 {
            let seed = name.bytes().map(u64::from).sum();
            let fan_in = variable.size()[1..].iter().product::<i64>() as f64;
            no_grad(|| variable.copy_(&(random(&variable.size(), seed) * fan_in.recip().sqrt())));
        } else if name.ends_with("bias") {
            let _ = no_grad(|| variable.zero_());
        }
    }
    (vs, method)
}

const SMALL: PclConfig = PclConfig {
    disentangle: true,
    orthogonal: true,
    pose_contrast: true,
    dynamic_weights: true,
    orthogonality: Orthogonality::Pictures,
    crops: Crops::Apart,
    crop_share: 0.4,
    mixing: 1.6,
    pose_batch: 3,
    pose_negatives: 4,
    weight_temperature: 2.0,
    input_noise: 0.0,
};

/// Views for its plan.
fn views_of(method: &Pcl) -> Views {
    let plan = method.plan();
    let size = |view: &View| [view.tuples.map_or(PAIRS, |n| n as i64), 3, 16, 16];
    let views = plan.iter().zip(0..).map(|(view, i)| random(&size(view), i).sigmoid()).collect();
    Views { views, ..super::views(1) }
}

/// Names of the parameters that a loss has a slope for, by the part that they are of.
fn reached(vs: &nn::VarStore, loss: &Tensor) -> std::collections::BTreeSet<String> {
    let mut parameters = named_parameters(vs);
    parameters.iter_mut().for_each(|(_, p)| p.zero_grad());
    loss.backward();
    let sloped = parameters
        .iter()
        .filter(|(_, p)| p.grad().defined() && p.grad().abs().sum(None::<Kind>).double_value(&[]) > 0.0);
    sloped.map(|(name, _)| name.split('.').next().unwrap().to_owned()).collect()
}

#[test]
fn each_pass_has_the_gradient_of_its_loss_and_reaches_what_it_moves() {
    let (vs, mut method) = pcl(SMALL);
    let views = views_of(&method);
    assert_eq!((method.passes(), method.plan().len()), (3, 4 + 2 + 4));
    for (pass, parts) in [
        ["decoder", "encoder", "face", "pose"].as_slice(),
        ["encoder", "face", "face_head"].as_slice(),
        ["encoder", "pose", "pose_head"].as_slice(),
    ]
    .into_iter()
    .enumerate()
    {
        let loss = method.loss(pass, &views, &ALONE).unwrap();
        assert_eq!(loss.parts.len(), method.parts(pass).len());
        assert_eq!(reached(&vs, &loss.total).into_iter().collect::<Vec<_>>(), parts, "pass {pass}");
        for (name, _) in named_parameters(&vs) {
            let moved = method.moves(pass, &name);
            assert_eq!(moved, parts.contains(&name.split('.').next().unwrap()), "pass {pass}: {name}");
        }
    }
    // The lengths in L_orth are held, as the authors have it, so that its slope is not that of its value.
    let (vs, mut method) = pcl(PclConfig { orthogonal: false, ..SMALL });
    for pass in 0..3 {
        let cell = std::cell::RefCell::new(&mut method);
        // Its weights are many and small.
        compare_slopes(&vs, || cell.borrow_mut().loss(pass, &views, &ALONE).unwrap().total * 100.0);
    }
}

#[test]
fn slopes_of_orthogonality_are_those_of_lengths_that_are_held() {
    let (n, d) = (3, 4);
    let leaf = |seed| random(&[n as i64, d as i64], seed).set_requires_grad(true);
    let (face, pose) = (leaf(1), leaf(2));
    orthogonality(&face, &pose, Orthogonality::Pictures).backward();
    let centred = |x: &Tensor| -> Vec<Vec<f64>> {
        let x = rows(&x.detach());
        let mean: Vec<f64> = (0..d).map(|k| x.iter().map(|row| row[k]).sum::<f64>() / n as f64).collect();
        x.iter().map(|row| row.iter().zip(&mean).map(|(v, m)| v - m).collect()).collect()
    };
    let (f, p) = (centred(&face), centred(&pose));
    for (own, other, ours) in [(&f, &p, face.grad()), (&p, &f, pose.grad())] {
        // Of the mean of s^2, s = f.p / (|f| |p|) with the lengths held: 2 s p / (N |f| |p|), less its mean over the batch.
        let slope = |i: usize| -> Vec<f64> {
            let lengths = (dot(&own[i], &own[i]).sqrt() + 1e-6) * (dot(&other[i], &other[i]).sqrt() + 1e-6);
            let s = dot(&own[i], &other[i]) / lengths;
            other[i].iter().map(|v| 2.0 * s * v / (n as f64 * lengths)).collect()
        };
        let slopes: Vec<Vec<f64>> = (0..n).map(slope).collect();
        for (i, row) in rows(&ours).iter().enumerate() {
            for (k, value) in row.iter().enumerate() {
                let mean = slopes.iter().map(|s| s[k]).sum::<f64>() / n as f64;
                assert!((value - (slopes[i][k] - mean)).abs() < 1e-9, "{i} {k}");
            }
        }
    }
}

#[test]
fn switches_are_the_rows_of_table_5() {
    let off = PclConfig { disentangle: false, ..SMALL };
    let (vs, mut simclr) = pcl(off);
    assert_eq!((simclr.passes(), simclr.plan().len()), (1, 4));
    let loss = simclr.loss(0, &views_of(&simclr), &ALONE).unwrap();
    assert_eq!(reached(&vs, &loss.total).into_iter().collect::<Vec<_>>(), ["encoder", "face_head"]);
    // Without L_pose both branches are contrasted alike, by views of their own heads.
    let (vs, mut alike) = pcl(PclConfig { pose_contrast: false, ..SMALL });
    assert_eq!((alike.passes(), alike.plan().len()), (3, 4));
    let views = views_of(&alike);
    let loss = alike.loss(2, &views, &ALONE).unwrap();
    assert_eq!(reached(&vs, &loss.total).into_iter().collect::<Vec<_>>(), ["encoder", "pose", "pose_head"]);
    assert!(alike.joins_batches(2) && !pcl(SMALL).1.joins_batches(2));
    // L_orth counts where it is on.
    let total = |orthogonal| {
        let (_vs, mut method) = pcl(PclConfig { orthogonal, ..SMALL });
        let loss = method.loss(0, &views, &ALONE).unwrap();
        (loss.total.double_value(&[]), loss.parts[0].double_value(&[]), loss.parts[1].double_value(&[]))
    };
    let ((with, dis, orth), (without, ..)) = (total(true), total(false));
    assert!(orth > 1e-6 && (with - dis - orth).abs() < 1e-9 && (without - dis).abs() < 1e-9);
}

#[test]
fn reconstruction_asks_for_the_picture_of_the_pose_whatever_face_it_is_given() {
    let (_vs, method) = pcl(SMALL);
    let views = views_of(&method);
    let (as_is, mirrored) = (&views.views[0], &views.views[1]);
    let pictures = Tensor::cat(&[as_is, mirrored], 0);
    let expected = no_grad(|| {
        let FaceAndPose { face, pose } = method.face_and_pose(&pictures, Phase::ALONE).unwrap();
        // Every face in every pose of the same picture, in another order than the method's: batch statistics do not mind.
        let (mut faces, mut poses, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for i in (0..PAIRS).rev() {
            for of_face in [i, i + PAIRS] {
                for of_pose in [i + PAIRS, i] {
                    faces.push(face.get(of_face));
                    poses.push(pose.get(of_pose));
                    targets.push(pictures.get(of_pose));
                }
            }
        }
        let stack = |rows: &[Tensor]| Tensor::stack(rows, 0);
        let made = method.reconstruct(&stack(&faces), &stack(&poses), Phase::ALONE).unwrap();
        let each = (made - stack(&targets)).abs().mean(None::<Kind>).double_value(&[]);
        4.0 * each
    });
    let mut method = method;
    let ours = method.loss(0, &views, &ALONE).unwrap().parts[0].double_value(&[]);
    assert!((ours - expected).abs() < 1e-9, "{ours} {expected}");
}

#[test]
fn features_of_table_7_are_those_of_the_branches() {
    let (vs, method) = pcl(SMALL);
    let views = random(&[PAIRS, 3, i64::from(SIDE_PX), i64::from(SIDE_PX)], 4);
    let of = |features| {
        let mut own = tch::nn::VarStore::new(Device::Cpu);
        let encoder = Encoder::pcl(&own.root(), SIDE_PX, features);
        own.double();
        let saved = vs.variables();
        for (name, mut variable) in own.variables() {
            no_grad(|| variable.copy_(&saved[&name]));
        }
        no_grad(|| encoder.forward(&views, Phase::Eval, Precision::F32))
    };
    let FaceAndPose { face, pose } = no_grad(|| method.face_and_pose(&views, Phase::Eval)).unwrap();
    let code = no_grad(|| method.encoder().forward(&views, Phase::Eval, Precision::F32));
    let expected = [
        (PclFeatures::Code, code),
        (PclFeatures::Face, face.shallow_clone()),
        (PclFeatures::Pose, pose.shallow_clone()),
        (PclFeatures::Both, face + pose),
    ];
    for (features, expected) in expected {
        let difference = (of(features) - expected).abs().max().double_value(&[]);
        assert!(difference < 1e-12, "{features:?}: {difference}");
    }
}
