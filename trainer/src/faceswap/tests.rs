//! Whole swaps: against OpenCV, against what must hold, and on input that makes no sense.
#![allow(clippy::unwrap_used)]

use std::f64::consts::PI;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const SIDE: usize = 74;

type Points = [f32; 136];

/// As `landmarks` in `deploy/bench/faceswap.py`: a face drawn by a formula.
fn landmarks(yaw: f64, smile: f64) -> Points {
    let mut points = Vec::new();
    for i in 0..17 {
        let angle = PI * (1.0 - f64::from(i) / 16.0);
        points.push([0.5 + 0.44 * angle.cos(), 0.42 + 0.52 * angle.sin()]);
    }
    for middle in [0.314, 0.686] {
        points.extend(
            (0..5)
                .map(f64::from)
                .map(|i| [middle + 0.045 * (i - 2.0) + yaw, 0.29 - 0.035 * (PI * i / 4.0).sin()]),
        );
    }
    points.extend((0..4).map(|i| [0.5 + 1.5 * yaw, 0.39 + 0.07 * f64::from(i)]));
    points.extend(
        (0..5).map(f64::from).map(|i| [0.5 + 0.035 * (i - 2.0) + yaw, 0.65 + 0.01 * (PI * i / 4.0).sin()]),
    );
    for middle in [0.314, 0.686] {
        points.extend(
            (0..6)
                .map(|i| PI * (1.0 - f64::from(i) / 3.0))
                .map(|turn| [middle + 0.07 * turn.cos() + yaw, 0.393 - 0.03 * turn.sin()]),
        );
    }
    for (count, width, height) in [(12, 0.16, 0.06), (8, 0.11, 0.02)] {
        points.extend((0..count).map(|i| PI * (1.0 - 2.0 * f64::from(i) / f64::from(count))).map(|turn| {
            let lifted = 0.78 - height * turn.sin() - smile * turn.cos().powi(2);
            [0.5 + width * turn.cos() + yaw, lifted]
        }));
    }
    let values: Vec<f32> = points.as_flattened().iter().map(|&v| v as f32).collect();
    values.try_into().unwrap()
}

/// As `picture` in `deploy/bench/faceswap.py`.
fn picture(side: usize, phase: f64) -> Vec<u8> {
    let share = |i: usize| (i as f64 + 0.5) / side as f64;
    let wave = move |x: f64, y: f64, c: f64| {
        110.0 + 20.0 * c + 30.0 * phase + 50.0 * (30.0 * x + 2.0 * c + phase).sin() * (25.0 * y - c).cos()
    };
    let pixel = move |x: f64, y: f64| [0.0, 1.0, 2.0].map(|c| (wave(x, y, c) + 0.5).clamp(0.0, 255.0) as u8);
    (0..side * side).flat_map(|i| pixel(share(i % side), share(i / side))).collect()
}

fn flat(colour: [u8; 3]) -> Vec<u8> {
    colour.repeat(SIDE * SIDE)
}

fn at(rgb: &[u8], x: usize, y: usize) -> [u8; 3] {
    rgb[3 * (y * SIDE + x)..][..3].try_into().unwrap()
}

fn swapped(identity: (&[u8], &Points), expression: (&[u8], &Points)) -> (Vec<u8>, Points) {
    let face = |(rgb, landmarks)| FacePicture { rgb, landmarks };
    let mut out = vec![0; identity.0.len()];
    let points =
        face_swap(face(identity), face(expression), SIDE as u32, &mut SwapScratch::default(), &mut out);
    (out, points.unwrap())
}

/// What the swap of two faces with these landmarks is refused for.
fn refusal(identity: &Points, expression: &Points) -> SwapError {
    let rgb = picture(SIDE, 0.0);
    let face = |landmarks| FacePicture { rgb: &rgb, landmarks };
    let mut out = vec![7; rgb.len()];
    let error =
        face_swap(face(identity), face(expression), SIDE as u32, &mut SwapScratch::default(), &mut out)
            .unwrap_err();
    assert!(out.iter().all(|&v| v == 7), "a refused swap writes nothing: {error}");
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() < 160, "{text}");
    error
}

/// Moves points about the picture's middle.
fn moved(points: &Points, scale: f32, degrees: f32, shift: [f32; 2]) -> Points {
    let (sin, cos) = degrees.to_radians().sin_cos();
    let mut points = *points;
    for p in points.as_chunks_mut::<2>().0 {
        let (x, y) = (p[0] - 0.5, p[1] - 0.5);
        *p = [0.5 + scale * (cos * x - sin * y) + shift[0], 0.5 + scale * (sin * x + cos * y) + shift[1]];
    }
    points
}

fn plan(identity: &Points, expression: &Points) -> Plan {
    Plan::new(identity, expression, SIDE as f32).unwrap()
}

/// The feathered mask over the whole picture.
fn whole_mask(plan: &Plan) -> Vec<f32> {
    let mut scratch = SwapScratch::default();
    plan.mask(Window { origin: [0, 0], width_px: SIDE, height_px: SIDE }, &mut scratch);
    scratch.mask
}

#[test]
fn a_swap_is_what_opencv_makes_of_it() {
    // deploy/bench/faceswap.py --pixels, OpenCV 5.0 and numpy 2.4: within the mask, and twice outside of it.
    let opencv = [
        (23, 28, [134, 127, 156]),
        (30, 26, [88, 129, 127]),
        (37, 40, [100, 114, 166]),
        (37, 46, [121, 139, 166]),
        (37, 57, [91, 115, 149]),
        (31, 56, [136, 129, 157]),
        (44, 58, [115, 155, 143]),
        (50, 27, [95, 142, 156]),
        (5, 5, [99, 101, 147]),
        (37, 70, [116, 164, 133]),
    ];
    let (own, other) = (picture(SIDE, 0.0), picture(SIDE, 1.0));
    let (result, _) = swapped((&own, &landmarks(0.0, 0.0)), (&other, &landmarks(0.02, 0.03)));
    for (x, y, want) in opencv {
        let got = at(&result, x, y);
        assert!(got.iter().zip(want).all(|(g, w)| g.abs_diff(w) <= 1), "({x}, {y}): {got:?} {want:?}");
    }
    let pasted = opencv[..8].iter().filter(|(x, y, _)| at(&own, *x, *y) != at(&result, *x, *y)).count();
    assert_eq!(pasted, 8, "the pixels compared tell a swap from none");
}

#[test]
fn a_known_similarity_is_recovered() {
    let identity = landmarks(0.0, 0.0);
    let (scale, degrees, shift) = (0.8, 12.0, [0.03, -0.02]);
    let plan = plan(&identity, &moved(&identity, scale, degrees, shift));
    let (sin, cos) = degrees.to_radians().sin_cos();
    let t = plan.to_expression;
    assert!((t.a - scale * cos).abs() < 1e-5 && (t.b - scale * sin).abs() < 1e-5, "{t:?}");
    // The picture's middle goes to the middle, shifted.
    let middle = SIDE as f32 / 2.0;
    let p = t.apply(Point::new(middle, middle));
    let want = shift.map(|s| middle + s * SIDE as f32);
    assert!((p.x - want[0]).abs() < 1e-3 && (p.y - want[1]).abs() < 1e-3, "{p:?} {want:?}");
}

#[test]
fn no_similarity_near_the_fitted_one_is_better() {
    let pixels = |points: &Points| -> Vec<Point> {
        points.as_chunks::<2>().0.iter().map(|p| Point::new(p[0] * 74.0, p[1] * 74.0)).collect()
    };
    let (identity, expression) = (landmarks(0.0, 0.0), landmarks(0.03, 0.05));
    let best = plan(&identity, &expression).to_expression.invert().unwrap();
    let (to, from) = (pixels(&identity), pixels(&expression));
    let error = |t: &Similarity| {
        let carried: Vec<Point> = from[ALIGNED].iter().map(|p| t.apply(*p)).collect();
        root_mean_square_distance(&carried, &to[ALIGNED])
    };
    let least = error(&best);
    assert!(least > 0.3, "faces that differ do not coincide: {least}");
    for sign in [-1.0, 1.0] {
        let worse = [
            Similarity { a: best.a + sign * 0.01, ..best },
            Similarity { b: best.b + sign * 0.01, ..best },
            Similarity { tx: best.tx + sign * 0.2, ..best },
            Similarity { ty: best.ty + sign * 0.2, ..best },
        ];
        for t in worse {
            assert!(error(&t) > least, "{t:?} is better than {best:?}");
        }
    }
}

#[test]
fn a_face_swapped_with_itself_stays_as_it_is() {
    let (rgb, points) = (picture(SIDE, 0.4), landmarks(0.01, 0.02));
    let (result, after) = swapped((&rgb, &points), (&rgb, &points));
    let worst = rgb.iter().zip(&result).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(worst <= Some(1), "{worst:?}");
    assert!(points.iter().zip(after).all(|(a, b)| (a - b).abs() < 1e-5));
}

#[test]
fn the_pasted_features_have_the_identitys_colours() {
    let points = landmarks(0.0, 0.0);
    let (result, _) = swapped((&flat([60, 120, 200]), &points), (&flat([190, 80, 90]), &points));
    assert_eq!(result, flat([60, 120, 200]), "plain colours are taken over whole");

    let (own, other) = (picture(SIDE, 0.0), picture(SIDE, 1.6));
    let expression = landmarks(0.02, 0.03);
    let (result, _) = swapped((&own, &points), (&other, &expression));
    let mask = whole_mask(&plan(&points, &expression));
    let mean = |rgb: &[u8], c: usize| {
        let within = mask.iter().zip(rgb.as_chunks::<3>().0).filter(|(m, _)| **m >= 1.0);
        let (sum, count) = within.fold((0.0, 0.0), |(s, n), (_, p)| (s + f64::from(p[c]), n + 1.0));
        sum / count
    };
    for c in 0..3 {
        let [own, other, result] = [&own, &other, &result].map(|rgb| mean(rgb, c));
        assert!((other - own).abs() > 35.0, "channel {c}: {other} and {own} differ before");
        assert!((result - own).abs() < 3.0, "channel {c}: {result} instead of {own}");
    }
}

#[test]
fn dark_things_beside_bright_ones_do_not_glare() {
    // A single bright pixel in black surroundings would be amplified without bounds.
    let points = landmarks(0.0, 0.0);
    let mut other = flat([1, 1, 1]);
    let middle = 3 * (40 * SIDE + 37);
    other[middle..middle + 3].fill(21);
    let (result, _) = swapped((&flat([100, 100, 100]), &points), (&other, &points));
    let [r, ..] = at(&result, 37, 40);
    assert!((130..=142).contains(&r), "100 + 2 (21 - 1 - what the blur takes of it), not {r}");
}

#[test]
fn the_mask_is_whole_on_the_features_and_nothing_outside_is_touched() {
    let (identity, expression) = (landmarks(0.0, 0.0), landmarks(0.02, 0.04));
    let plan = plan(&identity, &expression);
    let mask = whole_mask(&plan);
    assert!(mask.iter().all(|m| (0.0..=1.000_001).contains(m)));
    let pixel = |p: Point| p.y as usize * SIDE + p.x as usize;
    for p in &plan.carried[ALIGNED] {
        assert!(mask[pixel(*p)] > 0.85, "the expression's features are shown: {p:?} {}", mask[pixel(*p)]);
    }
    for p in identity.as_chunks::<2>().0[ALIGNED].iter() {
        let p = Point::new(p[0] * SIDE as f32, p[1] * SIDE as f32);
        assert!(mask[pixel(p)] > 0.85, "the identity's features are covered: {p:?} {}", mask[pixel(p)]);
    }
    let (own, other) = (picture(SIDE, 0.0), picture(SIDE, 1.0));
    let (result, _) = swapped((&own, &identity), (&other, &expression));
    let features: Vec<Point> = plan.carried[ALIGNED]
        .iter()
        .copied()
        .chain(identity.as_chunks::<2>().0[ALIGNED].iter().map(|p| Point::new(p[0] * 74.0, p[1] * 74.0)))
        .collect();
    let reach = 2.0 * plan.feather_px as f32 + 1.0;
    let (mut outside, mut pasted) = (0, 0);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let same = at(&own, x, y) == at(&result, x, y);
            pasted += usize::from(!same);
            if mask[y * SIDE + x] == 0.0 {
                assert!(same, "({x}, {y}) is outside of the mask");
            }
            let (fx, fy) = (x as f32 + 0.5, y as f32 + 0.5);
            let beyond = |axis: fn(&Point) -> f32, v: f32| {
                features.iter().all(|p| axis(p) > v + reach) || features.iter().all(|p| axis(p) < v - reach)
            };
            if beyond(|p| p.x, fx) || beyond(|p| p.y, fy) {
                outside += 1;
                assert!(same, "({x}, {y}) is far from all features");
            }
        }
    }
    assert!(outside > SIDE * SIDE / 4 && pasted > SIDE * SIDE / 8, "{outside} {pasted}");
}

#[test]
fn what_lies_beside_the_expressions_face_is_not_pasted() {
    // The identity's left brow reaches further out than the whole face of the expression.
    let mut identity = landmarks(0.0, 0.0);
    for point in 17..20 {
        identity[2 * point] -= 0.08;
    }
    let mut expression = landmarks(0.0, 0.0);
    for jaw in 0..8 {
        expression[2 * jaw] = expression[2 * jaw].max(0.2);
    }
    let (own, other) = (picture(SIDE, 0.0), picture(SIDE, 1.0));
    let (result, _) = swapped((&own, &identity), (&other, &expression));
    let end = [17, 18].map(|i| (identity[2 * i] * 74.0, identity[2 * i + 1] * 74.0));
    for (x, y) in end.map(|(x, y)| (x as usize - 2, y as usize)) {
        assert_eq!(at(&result, x, y), at(&own, x, y), "({x}, {y}) is beside the expression's face");
    }
    let inside = (26, 25);
    assert_ne!(at(&result, inside.0, inside.1), at(&own, inside.0, inside.1));
}

#[test]
fn landmarks_follow_the_features_and_the_jaw_stays() {
    let identity = landmarks(0.0, 0.0);
    let smiling = landmarks(0.0, 0.04);
    // The same smile in another place: it comes back to where the identity has its features.
    let expression = moved(&smiling, 0.9, -8.0, [0.02, 0.03]);
    let rgb = picture(SIDE, 0.0);
    let (_, points) = swapped((&rgb, &identity), (&rgb, &expression));
    let (_, plain) = swapped((&rgb, &identity), (&rgb, &smiling));
    assert_eq!(points[..2 * FIRST_FEATURE], identity[..2 * FIRST_FEATURE]);
    for i in 2 * FIRST_FEATURE..136 {
        assert!((points[i] - plain[i]).abs() < 1e-4, "value {i}: {} {}", points[i], plain[i]);
    }
    // Corners of the mouth are lifted against its middle as they are in the smile.
    let lift = |p: &Points| p[2 * 51 + 1].midpoint(p[2 * 57 + 1]) - p[2 * 48 + 1].midpoint(p[2 * 54 + 1]);
    assert!((lift(&plain) - lift(&smiling)).abs() < 2e-3 && lift(&identity).abs() < 1e-6);
    assert!(lift(&plain) > 0.035, "{}", lift(&plain));
}

#[test]
fn scratch_of_another_size_does_not_show() {
    let mut scratch = SwapScratch::default();
    let swap = |side: usize, scratch: &mut SwapScratch| {
        let (own, other) = (picture(side, 0.0), picture(side, 1.0));
        let (a, b) = (landmarks(0.0, 0.0), landmarks(0.02, 0.03));
        let mut out = vec![0; own.len()];
        let (identity, expression) =
            (FacePicture { rgb: &own, landmarks: &a }, FacePicture { rgb: &other, landmarks: &b });
        face_swap(identity, expression, side as u32, scratch, &mut out).unwrap();
        out
    };
    for side in [128, 48, 74, 16] {
        assert_eq!(swap(side, &mut scratch), swap(side, &mut SwapScratch::default()), "{side} px");
    }
}

#[test]
fn buffers_that_are_no_pictures_are_refused() {
    let points = landmarks(0.0, 0.0);
    let rgb = picture(SIDE, 0.0);
    let swap = |own: &[u8], other: &[u8], side: u32, length: usize| {
        let face = |rgb| FacePicture { rgb, landmarks: &points };
        let mut out = vec![0; length];
        face_swap(face(own), face(other), side, &mut SwapScratch::default(), &mut out).unwrap_err()
    };
    let full = rgb.len();
    for side_px in [0, 15, 4097, u32::MAX] {
        assert_eq!(swap(&rgb, &rgb, side_px, full), SwapError::Side { side_px });
    }
    let short = |buffer, actual| SwapError::Length { buffer, side_px: 74, expected: full, actual };
    assert_eq!(swap(&rgb[1..], &rgb, 74, full), short("identity", full - 1));
    assert_eq!(swap(&rgb, &[], 74, full), short("expression", 0));
    assert_eq!(swap(&rgb, &rgb, 74, full + 3), short("result", full + 3));
}

#[test]
fn each_refusal_of_landmarks_is_reached() {
    use SwapError as E;
    let good = landmarks(0.0, 0.0);
    let with = |point: usize, xy: [f32; 2]| {
        let mut points = good;
        points[2 * point..][..2].copy_from_slice(&xy);
        points
    };
    let nan = refusal(&good, &with(30, [f32::NAN, 0.5]));
    assert!(matches!(nan, E::Landmark { face: Face::Expression, point: 30, y: 0.5, .. }), "{nan}");
    let infinite = refusal(&with(3, [0.2, f32::INFINITY]), &good);
    assert!(matches!(infinite, E::Landmark { face: Face::Identity, point: 3, .. }), "{infinite}");
    let pixels = refusal(&good.map(|v| v * 74.0), &good);
    assert!(matches!(pixels, E::Landmark { face: Face::Identity, point: 0, .. }), "{pixels}");

    let line = std::array::from_fn(|i| if i % 2 == 0 { good[i] } else { 0.5 });
    for flat in [[0.0; 136], [0.5; 136], line] {
        assert!(matches!(refusal(&flat, &good), E::Degenerate { face: Face::Identity, .. }));
        assert!(matches!(refusal(&good, &flat), E::Degenerate { face: Face::Expression, .. }));
    }
    // An eye far away stretches the distance of the eyes beyond the picture.
    assert!(matches!(refusal(&with(36, [-3.9, 0.4]), &good), E::Degenerate { face: Face::Identity, .. }));

    let outside = refusal(&good, &moved(&good, 1.0, 0.0, [0.6, 0.0]));
    assert!(matches!(outside, E::Outside { face: Face::Expression, count: 20..=51 }), "{outside}");
    assert!(matches!(
        refusal(&moved(&good, 1.0, 0.0, [0.0, -0.6]), &good),
        E::Outside { face: Face::Identity, .. }
    ));

    let small = refusal(&good, &moved(&good, 0.4, 0.0, [0.0; 2]));
    assert!(matches!(small, E::Scale { scale } if (scale - 2.5).abs() < 1e-3), "{small}");
    let large = refusal(&moved(&good, 0.4, 0.0, [0.0; 2]), &good);
    assert!(matches!(large, E::Scale { scale } if (scale - 0.4).abs() < 1e-3), "{large}");
    let turned = refusal(&good, &moved(&good, 0.9, 35.0, [0.0; 2]));
    assert!(matches!(turned, E::Turn { degrees } if (degrees + 35.0).abs() < 1e-2), "{turned}");

    // A mouth that stands far to the side, as on a head that is turned away.
    let mut away = good;
    for point in 27..36 {
        away[2 * point] += 0.2;
    }
    for point in 48..68 {
        away[2 * point] += 0.15;
    }
    assert!(matches!(refusal(&good, &away), E::Misfit { misfit } if misfit > MAX_MISFIT));
}

#[test]
fn nothing_panics_whatever_the_landmarks() {
    let odd = [
        0.0,
        -0.0,
        0.5,
        1.0,
        -3.0,
        40.0,
        1e-30,
        1e10,
        -1e30,
        f32::MAX,
        f32::MIN_POSITIVE,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
    ];
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut scratch = SwapScratch::default();
    let (mut joined, mut refused) = (0, 0);
    for round in 0..4000 {
        let side = [16, 17, 40][round % 3];
        let rgb: Vec<u8> = (0..side * side * 3).map(|_| rng.random()).collect();
        let mut face = || {
            // From faces that are nearly alike to landmarks that are no face.
            let wild = [0.05, 0.2, 1.0][rng.random_range(0..3)];
            let mut about = |most: f32| rng.random_range(-most..most) * wild;
            let mut points = landmarks(0.0, 0.0);
            points = moved(&points, 1.0 + about(0.9), about(60.0), [about(0.5), about(0.5)]);
            points.iter_mut().for_each(|v| *v += about(0.3));
            for _ in 0..rng.random_range(0..5usize).saturating_sub(2) {
                points[rng.random_range(0..136)] = odd[rng.random_range(0..odd.len())];
            }
            points
        };
        let (a, b) = (face(), face());
        let (identity, expression) =
            (FacePicture { rgb: &rgb, landmarks: &a }, FacePicture { rgb: &rgb, landmarks: &b });
        let mut out = vec![0; rgb.len()];
        match face_swap(identity, expression, side as u32, &mut scratch, &mut out) {
            Ok(points) => {
                joined += 1;
                assert!(points.iter().all(|v| v.abs() < 20.0), "{a:?} {b:?}");
            }
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty());
            }
        }
    }
    assert!(joined > 50 && refused > 500, "both are tried: {joined} joined, {refused} refused");
}

#[test]
#[ignore = "a measurement: run it with --ignored --nocapture on an idle core"]
fn swaps_a_second() {
    for side in [74, 128] {
        let (own, other) = (picture(side, 0.0), picture(side, 1.0));
        let (a, b) = (landmarks(0.0, 0.0), landmarks(0.02, 0.03));
        let (identity, expression) =
            (FacePicture { rgb: &own, landmarks: &a }, FacePicture { rgb: &other, landmarks: &b });
        let (mut scratch, mut out) = (SwapScratch::default(), vec![0; own.len()]);
        const SWAPS: u32 = 200;
        let rates = (0..20).map(|_| {
            let start = std::time::Instant::now();
            for _ in 0..SWAPS {
                face_swap(identity, expression, side as u32, &mut scratch, &mut out).unwrap();
            }
            f64::from(SWAPS) / start.elapsed().as_secs_f64()
        });
        println!("{side} px: {:.0} swaps/s", rates.fold(0.0, f64::max));
    }
}
