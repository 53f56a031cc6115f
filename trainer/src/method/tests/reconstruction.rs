//! Methods that reconstruct, and RotNet, against loops in f64 and finite differences.

use super::super::decoder::warp;
use super::super::fabnet::band;
use super::super::facecycle::{asymmetry, ssim};
use super::super::rotnet::turned;
use super::super::vgg::{Until, Vgg};
use super::*;

const PLATEAU: PlateauConfig = PlateauConfig { patience_epochs: 1, factor: 0.1 };

fn at(t: &Tensor, c: i64, y: i64, x: i64) -> f64 {
    let size = t.size();
    let inside = (0..size[2]).contains(&y) && (0..size[3]).contains(&x);
    if inside { t.double_value(&[0, c, y, x]) } else { 0.0 }
}

#[test]
fn warping_samples_bilinearly_where_offsets_lead() {
    let picture = random(&[1, 2, 5, 7], 1);
    let offsets = random(&[1, 2, 5, 7], 2) * 0.3;
    for bounded in [false, true] {
        let ours = warp(&picture, &offsets, bounded);
        for y in 0..5 {
            for x in 0..7 {
                let place = |own: i64, sides: i64, c: i64| {
                    let own = -1.0 + 2.0 * own as f64 / (sides - 1) as f64;
                    let moved = own + at(&offsets, c, y, x);
                    let moved = if bounded { moved.clamp(-1.0, 1.0) } else { moved };
                    (moved + 1.0) / 2.0 * (sides - 1) as f64
                };
                let (px, py) = (place(x, 7, 0), place(y, 5, 1));
                let (left, top) = (px.floor(), py.floor());
                let (right, down) = (px - left, py - top);
                for c in 0..2 {
                    let value = |dy: i64, dx: i64| at(&picture, c, top as i64 + dy, left as i64 + dx);
                    let expected = (1.0 - down) * ((1.0 - right) * value(0, 0) + right * value(0, 1))
                        + down * ((1.0 - right) * value(1, 0) + right * value(1, 1));
                    assert!((at(&ours, c, y, x) - expected).abs() < 1e-9, "{bounded} {y} {x}");
                }
            }
        }
    }
    assert!((warp(&picture, &offsets.zeros_like(), true) - &picture).abs().max().double_value(&[]) < 1e-12);
}

#[test]
fn a_curriculums_band_is_of_the_sorted_batch() {
    assert_eq!(band(32, 0.0, 0.5), (0, 16));
    assert_eq!(band(32, f64::from(0.1f32), 0.5), (3, 16));
    assert_eq!(band(10, f64::from(0.4f32), 0.5), (4, 5));
    assert_eq!(band(1, 0.4, 0.5), (0, 1), "never none");
}

fn fabnet(sources: usize, curriculum: Curriculum) -> (nn::VarStore, FabNet, Views) {
    let mut vs = store();
    let config = FabNetConfig { sources, curriculum };
    let method = FabNet::new(of(&vs, Backbone::FabNet, 16), config, PLATEAU);
    vs.double();
    let views = (0..=sources as u64).map(|i| random(&[PAIRS, 3, 16, 16], i).sigmoid()).collect();
    let views = Views { views, ..super::views(1) };
    (vs, method, views)
}

#[test]
fn fabnet_puts_the_target_together_from_shares_of_its_sources() {
    for sources in [1, 3] {
        let (vs, mut method, views) = fabnet(sources, Curriculum { on: false, ..Curriculum::default() });
        assert_eq!(method.plan().len(), 1 + sources);
        let made = method.assemble(&views.views, Phase::ALONE);
        assert_eq!((made.sources.len(), made.shares.len()), (sources, sources));
        let sum = made.shares.iter().fold(made.shares[0].zeros_like(), |sum, share| sum + share);
        assert!((sum - 1.0).abs().max().double_value(&[]) < 1e-9);
        let error = |a: &Tensor| (a - &views.views[0]).abs().mean(None::<Kind>).double_value(&[]);
        let loss = method.loss(0, &views, &ALONE).unwrap();
        assert!((loss.total.double_value(&[]) - error(&made.reconstruction)).abs() < 1e-9);
        let copies = views.views[1..].iter().map(error).sum::<f64>() / sources as f64;
        assert!((loss.parts[1].double_value(&[]) - copies).abs() < 1e-9);
        let cell = std::cell::RefCell::new(&mut method);
        compare_slopes(&vs, || cell.borrow_mut().loss(0, &views, &ALONE).unwrap().total);
    }
}

#[test]
fn each_source_is_warped_by_its_own_flow_and_counts_by_its_own_share() {
    let (vs, method, views) = fabnet(3, Curriculum::default());
    let made = method.assemble(&views.views, Phase::ALONE);
    // Sources in another order are the same sources.
    let order = [2, 0, 1];
    let mut turned = vec![views.views[0].shallow_clone()];
    turned.extend(order.iter().map(|&source| views.views[1 + source].shallow_clone()));
    let again = method.assemble(&turned, Phase::ALONE);
    let apart = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
    assert!(apart(&made.reconstruction, &again.reconstruction) < 1e-9);
    for (place, &source) in order.iter().enumerate() {
        assert!(apart(&again.shares[place], &made.shares[source]) < 1e-9);
    }
    assert!(apart(&made.shares[0], &made.shares[1]) > 1e-4, "they are told apart");
    // Where nothing flows, sources are mixed as they are, each by its share.
    let still = |part: &str| vs.variables()[part].shallow_clone();
    no_grad(|| {
        let _ = still("sampler.layer3.conv.weight").zero_();
        let _ = still("sampler.layer3.conv.bias").zero_();
    });
    let made = method.assemble(&views.views, Phase::ALONE);
    let sum = views.views[1..]
        .iter()
        .zip(&made.shares)
        .map(|(source, share)| source * share)
        .reduce(|sum, part| sum + part)
        .unwrap();
    assert!(apart(&made.reconstruction, &sum) < 1e-9);
}

#[test]
fn fabnets_curriculum_moves_to_harder_ones_and_then_lowers_the_rate() {
    let (_vs, mut method, views) = fabnet(1, Curriculum::default());
    let mut losses: Vec<f64> = {
        let made = method.assemble(&views.views, Phase::ALONE);
        let each = (made.reconstruction - &views.views[0]).abs().flatten(1, -1);
        Vec::try_from(each.mean_dim([1].as_slice(), false, None)).unwrap()
    };
    losses.sort_by(f64::total_cmp);
    let mean = |range: std::ops::Range<usize>| losses[range.clone()].iter().sum::<f64>() / range.len() as f64;
    let loss = |method: &mut FabNet| method.loss(0, &views, &ALONE).unwrap().total.double_value(&[]);
    assert!((loss(&mut method) - mean(0..3)).abs() < 1e-9, "the easier half of six");
    // The loss does not fall any more: the band moves four times by a tenth, then the rate falls.
    let parts = Tensor::from_slice(&[1.0f32, 1.0, 0.0]);
    let mut seen = Vec::new();
    for epoch in 0..11 {
        method.after_step(&Done { progress: 0.0, epoch_done: true, parts: &parts });
        seen.push((method.lr_factor(), epoch));
    }
    assert!((loss(&mut method) - mean(2..5)).abs() < 1e-9, "from 0.4 to 0.9 of six");
    let factors: Vec<f64> = seen.iter().map(|(factor, _)| *factor).collect();
    assert_eq!(factors[..9], [1.0; 9]);
    assert!((factors[9] - 0.1).abs() < 1e-7, "{factors:?}");
}

#[test]
fn what_a_reconstruction_is_compared_with_is_the_picture() {
    let mut vs = store();
    let mut method = Autoencoder::new(of(&vs, Backbone::FabNet, 16), PLATEAU);
    vs.double();
    let views = Views { views: vec![random(&[PAIRS, 3, 16, 16], 1).sigmoid()], ..super::views(1) };
    // A decoder that has nothing to say is grey, 0 of [-1,1].
    for (name, mut variable) in vs.variables() {
        if name.starts_with("decoder.layer3.conv") {
            let _ = no_grad(|| variable.zero_());
        }
    }
    let grey = (views.first() * 2.0 - 1.0).abs().mean(None::<Kind>).double_value(&[]);
    assert!((method.loss(0, &views, &ALONE).unwrap().total.double_value(&[]) - grey).abs() < 1e-9);
    no_grad(|| {
        vs.variables()["decoder.layer3.conv.weight"]
            .shallow_clone()
            .copy_(&(random(&[3, 32, 3, 3], 3) * 0.1));
    });
    let cell = std::cell::RefCell::new(&mut method);
    compare_slopes(&vs, || cell.borrow_mut().loss(0, &views, &ALONE).unwrap().total);
}

#[test]
fn rotnet_tells_quarter_turns() {
    let picture = random(&[2, 3, 4, 4], 1);
    let (all, turns) = turned(&picture);
    assert_eq!(Vec::<i64>::try_from(turns).unwrap(), [0, 0, 1, 1, 2, 2, 3, 3]);
    for (turn, (y, x)) in [(1, 2), (2, 2), (2, 1), (1, 1)].into_iter().enumerate() {
        // Where the pixel of row 1, column 2 comes to lie, turned counter-clockwise.
        let expected = picture.double_value(&[0, 0, 1, 2]);
        let rotated = [(1, 2), (4 - 1 - 2, 1), (4 - 1 - 1, 4 - 1 - 2), (2, 4 - 1 - 1)][turn];
        assert_eq!(all.double_value(&[2 * turn as i64, 0, rotated.0, rotated.1]), expected, "{turn} {y} {x}");
    }
    let mut vs = store();
    let mut method = RotNet::new(of(&vs, Backbone::FabNet, 16), PLATEAU);
    vs.double();
    let views = Views { views: vec![random(&[PAIRS, 3, 16, 16], 2)], ..super::views(1) };
    assert!(method.loss(0, &views, &ALONE).unwrap().top1.is_some());
    let cell = std::cell::RefCell::new(&mut method);
    compare_slopes(&vs, || cell.borrow_mut().loss(0, &views, &ALONE).unwrap().total);
}

#[test]
fn split_brains_halves_see_one_part_and_give_the_other() {
    let mut vs = store();
    let mut method = SplitBrain::new(of(&vs, Backbone::SplitBrain, 16), PLATEAU);
    vs.double();
    let views = Views { views: vec![random(&[PAIRS, 3, 16, 16], 1).sigmoid()], ..super::views(1) };
    {
        let cell = std::cell::RefCell::new(&mut method);
        compare_slopes(&vs, || cell.borrow_mut().loss(0, &views, &ALONE).unwrap().total);
    }
    // Another lightness alone changes nothing of what colour says.
    let codes = |picture: &Tensor| {
        no_grad(|| method.encoder().forward(picture, Phase::Eval, Precision::F32)).chunk(2, 1)
    };
    let grey = random(&[1, 1, 16, 16], 2).sigmoid().expand([1, 3, 16, 16], false);
    let (a, b) = (codes(&grey), codes(&(&grey * 0.5)));
    let same = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]) < 1e-3;
    assert!(!same(&a[0], &b[0]) && same(&a[1], &b[1]), "greys have one colour");
}

#[test]
fn structural_similarity_is_its_formula() {
    let (a, b) = (random(&[1, 2, 12, 13], 1).sigmoid(), random(&[1, 2, 12, 13], 2).sigmoid());
    let weight = |d: i64| (-(d * d) as f64 / 4.5).exp();
    let total: f64 = (-5..=5).map(weight).sum();
    let blurred = |value: &dyn Fn(i64, i64, i64) -> f64, c: i64, y: i64, x: i64| {
        let mut sum = 0.0;
        for dy in -5..=5 {
            for dx in -5..=5 {
                let inside = (0..12).contains(&(y + dy)) && (0..13).contains(&(x + dx));
                if inside {
                    sum += weight(dy) * weight(dx) / total.powi(2) * value(c, y + dy, x + dx);
                }
            }
        }
        sum
    };
    let (of_a, of_b) = (|c, y, x| at(&a, c, y, x), |c, y, x| at(&b, c, y, x));
    let mut expected = 0.0;
    for c in 0..2 {
        for y in 0..12 {
            for x in 0..13 {
                let (ma, mb) = (blurred(&of_a, c, y, x), blurred(&of_b, c, y, x));
                let aa = blurred(&|c, y, x| of_a(c, y, x).powi(2), c, y, x) - ma * ma;
                let bb = blurred(&|c, y, x| of_b(c, y, x).powi(2), c, y, x) - mb * mb;
                let ab = blurred(&|c, y, x| of_a(c, y, x) * of_b(c, y, x), c, y, x) - ma * mb;
                expected += (2.0 * ma * mb + 1e-4) * (2.0 * ab + 9e-4)
                    / ((ma * ma + mb * mb + 1e-4) * (aa + bb + 9e-4))
                    / (2.0 * 12.0 * 13.0);
            }
        }
    }
    let ours = ssim(&a, &b).double_value(&[]);
    assert!((ours - expected).abs() < 1e-9, "{ours} {expected}");
    assert!((ssim(&a, &a).double_value(&[]) - 1.0).abs() < 1e-9);
    let mirrored = (&a + a.flip([3])) / 2.0;
    assert!(asymmetry(&mirrored).double_value(&[]) < 1e-12);
    let lopsided = Tensor::from_slice(&[1.0, 5.0, 7.0, 3.0]).view([1, 1, 1, 4]);
    assert_eq!(asymmetry(&lopsided).double_value(&[]), (2.0 + 2.0) / 2.0);
}

#[test]
fn facecycle_has_the_gradient_of_its_loss() {
    let mut vs = store();
    let config = FaceCycleConfig { width: 16, blocks: 1, ..FaceCycleConfig::default() };
    let mut method = FaceCycle::new(of(&vs, Backbone::FaceCycle, 16), &config).unwrap();
    vs.double();
    let views = (0..2).map(|i| random(&[2, 3, 16, 16], i).sigmoid()).collect();
    let views = Views { views, seeds: vec![1, 2], ..super::views(1) };
    let loss = method.loss(0, &views, &ALONE).unwrap();
    let parts: Vec<f64> = loss.parts.iter().map(|part| part.double_value(&[])).collect();
    let expected = parts[0] + 5.0 * parts[1] + 1.5 * parts[2] + 0.01 * parts[3];
    assert!((loss.total.double_value(&[]) - expected).abs() < 1e-9 && parts[3] == 0.0);
    let cell = std::cell::RefCell::new(&mut method);
    compare_slopes(&vs, || cell.borrow_mut().loss(0, &views, &ALONE).unwrap().total);
    // The generator has the width of these weights, then.
    let with_vgg =
        |file: &std::path::Path| FaceCycleConfig { width: 256, vgg19: file.to_owned(), ..config.clone() };
    perceptual_losses_are_of_gram_matrices(&views, with_vgg);
    let missing = FaceCycleConfig { vgg19: "no-such-file".into(), ..FaceCycleConfig::default() };
    let error = FaceCycle::new(of(&vs, Backbone::FaceCycle, 16), &missing).unwrap_err();
    assert!(format!("{error:#}").contains("no-such-file"));
}

/// With weights of VGG-19 that are drawn: four made faces beside the picture, over three layers.
fn perceptual_losses_are_of_gram_matrices(
    views: &Views,
    config: impl Fn(&std::path::Path) -> FaceCycleConfig,
) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vgg19.safetensors");
    let drawn = nn::VarStore::new(tch::Device::Cpu);
    let vgg = Vgg::new(&drawn.root(), Until::Conv4_1, 1);
    let all = drawn.variables().into_iter().map(|(name, t)| (name, t.detach().contiguous()));
    Tensor::write_safetensors(&all.collect::<Vec<_>>(), &file).unwrap();
    let vs = store();
    let mut method = FaceCycle::new(of(&vs, Backbone::FaceCycle, 16), &config(&file)).unwrap();
    let single = Views {
        views: views.views.iter().map(|view| view.to_kind(Kind::Float)).collect(),
        seeds: views.seeds.clone(),
        ..super::views(1)
    };
    let loss = method.loss(0, &single, &ALONE).unwrap();
    let pictures = method.made(&single);
    let gram = |map: &Tensor, n: i64| -> Vec<f64> {
        let size = map.size();
        let value =
            |c: i64| Vec::<f64>::try_from(map.get(n).get(c).flatten(0, -1).to_kind(Kind::Double)).unwrap();
        let rows: Vec<Vec<f64>> = (0..size[1]).map(value).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        rows.iter()
            .flat_map(|a| rows.iter().map(|b| dot(a, b) / (size[2] * size[3]) as f64).collect::<Vec<_>>())
            .collect()
    };
    let target = vgg.features(&pictures[0]).0;
    let mut expected = 0.0;
    for made in &pictures[1..] {
        for (ours, theirs) in vgg.features(made).0.iter().zip(&target) {
            let count = ours.size()[0];
            let squares: Vec<f64> = (0..count)
                .flat_map(|n| gram(ours, n).into_iter().zip(gram(theirs, n)).collect::<Vec<_>>())
                .map(|(a, b)| (a - b).powi(2))
                .collect();
            expected += squares.iter().sum::<f64>() / squares.len() as f64 / 4.0;
        }
    }
    let found = loss.parts[3].double_value(&[]);
    assert!(expected > 0.0 && (found - expected).abs() < 1e-4 * expected, "{found} {expected}");
}
