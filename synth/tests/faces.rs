//! What pictures and labels of synthetic faces must hold: each action unit moves what it should, poses turn the way
//! they are documented to, hidden parts are hidden, and a seed gives the same clip again.

#![allow(clippy::unwrap_used)]

use semblance_face::finder::{Finder, SeetaFinder};
use semblance_face::geometry::{Point, Rect};
use semblance_face::labels::{ACTION_UNITS, Expression};
use semblance_synth::{
    Camera, ClipSource, FaceState, Framing, Gaze, HeadPose, Identity, PersonalStyle, RenderOptions, Rendered,
    Renderer, SynthError, prototype, valence_arousal,
};

fn renderer() -> Renderer {
    Renderer::studio(Identity { asymmetry: 0.0, moles: 0, ..Identity::average() }, 160, 160, 110.0).unwrap()
}

fn draw(r: &mut Renderer, state: &FaceState) -> Rendered {
    let placement = r.centered();
    r.render(state, placement).unwrap()
}

fn unit(number: u8) -> usize {
    ACTION_UNITS.iter().position(|&n| n == number).unwrap()
}

fn with(units: &[(u8, f32)]) -> FaceState {
    let mut state = FaceState::default();
    for &(number, strength) in units {
        state.au[unit(number)] = strength;
    }
    state
}

fn posed(yaw_deg: f32, pitch_deg: f32, roll_deg: f32) -> FaceState {
    FaceState { pose: HeadPose { yaw_deg, pitch_deg, roll_deg }, ..FaceState::default() }
}

/// Distances on the face in units of the distance between the outer corners of the eyes.
struct Measures {
    inner_brow: f32,
    outer_brow: f32,
    eye_open: f32,
    mouth_width: f32,
    corner_height: f32,
    mouth_open: f32,
    chin: f32,
    upper_lip: f32,
    lower_lip: f32,
    red: f32,
}

fn measure(points: &[Point; 68]) -> Measures {
    let d = |a: usize, b: usize| (points[a].x - points[b].x).hypot(points[a].y - points[b].y);
    let scale = d(36, 45);
    let eyes = (points[36].y + points[45].y) / 2.0;
    let up = |i: usize| (eyes - points[i].y) / scale;
    Measures {
        inner_brow: (up(21) + up(22)) / 2.0,
        outer_brow: (up(18) + up(25)) / 2.0,
        eye_open: (d(37, 41) + d(38, 40) + d(43, 47) + d(44, 46)) / (4.0 * scale),
        mouth_width: d(48, 54) / scale,
        corner_height: (up(48) + up(54)) / 2.0,
        mouth_open: d(62, 66) / scale,
        chin: up(8),
        upper_lip: up(51),
        lower_lip: up(57),
        red: (d(51, 62) + d(66, 57)) / scale,
    }
}

#[test]
fn action_units_move_the_landmarks_they_are_named_for() {
    let mut r = renderer();
    let rest = measure(&draw(&mut r, &FaceState::default()).landmarks);
    let mut at = |n: u8| measure(&draw(&mut r, &with(&[(n, 1.0)])).landmarks);
    let brow = at(1);
    assert!(brow.inner_brow > rest.inner_brow + 0.04 && brow.outer_brow < rest.outer_brow + 0.03);
    let brow = at(2);
    assert!(brow.outer_brow > rest.outer_brow + 0.04 && brow.inner_brow < rest.inner_brow + 0.03);
    assert!(at(4).inner_brow < rest.inner_brow - 0.03);
    assert!(at(5).eye_open > rest.eye_open + 0.015);
    assert!(at(6).eye_open < rest.eye_open - 0.008);
    assert!(at(7).eye_open < rest.eye_open - 0.015);
    assert!(at(43).eye_open < 0.01 && rest.eye_open > 0.05, "{} {}", at(43).eye_open, rest.eye_open);
    assert!(at(9).upper_lip > rest.upper_lip + 0.01 && at(9).inner_brow < rest.inner_brow - 0.01);
    assert!(at(10).upper_lip > rest.upper_lip + 0.03);
    let smile = at(12);
    assert!(smile.corner_height > rest.corner_height + 0.04 && smile.mouth_width > rest.mouth_width + 0.06);
    assert!(at(14).mouth_width > rest.mouth_width + 0.02);
    assert!(at(15).corner_height < rest.corner_height - 0.03);
    assert!(at(17).lower_lip > rest.lower_lip + 0.02);
    let stretch = at(20);
    assert!(
        stretch.mouth_width > rest.mouth_width + 0.06 && stretch.corner_height < rest.corner_height + 0.01
    );
    assert!(at(23).red < rest.red - 0.02);
    assert!(at(24).red < rest.red - 0.02);
    let parted = at(25);
    assert!(parted.mouth_open > rest.mouth_open + 0.03 && (parted.chin - rest.chin).abs() < 0.02);
    let dropped = at(26);
    assert!(dropped.mouth_open > rest.mouth_open + 0.12 && dropped.chin < rest.chin - 0.1);
}

#[test]
fn every_action_unit_changes_the_picture_and_more_of_it_changes_it_more() {
    let mut r = renderer();
    let rest = draw(&mut r, &FaceState::default()).frame;
    for number in ACTION_UNITS {
        let mut change = |k: f32| {
            let frame = draw(&mut r, &with(&[(number, k)])).frame;
            let sum: u64 = frame.rgb().iter().zip(rest.rgb()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            sum as f64 / rest.rgb().len() as f64
        };
        let (half, full) = (change(0.5), change(1.0));
        assert!(half > 0.02 && full > 1.1 * half, "AU{number:02}: {half:.3} {full:.3}");
    }
}

#[test]
fn asymmetry_weakens_one_side() {
    let mut r = renderer();
    let rest = draw(&mut r, &FaceState::default()).landmarks;
    let mut state = with(&[(12, 1.0)]);
    state.au_asymmetry[unit(12)] = 1.0;
    let lopsided = draw(&mut r, &state).landmarks;
    let moved = |i: usize| (lopsided[i].x - rest[i].x).hypot(lopsided[i].y - rest[i].y);
    assert!(moved(54) > 4.0 * moved(48), "{} {}", moved(48), moved(54));
}

#[test]
fn yaw_pitch_and_roll_turn_the_way_they_are_documented() {
    let mut r = renderer();
    let center = |p: &[Point; 68]| {
        let x = p.iter().map(|q| q.x).sum::<f32>() / 68.0;
        Point::new(x, p.iter().map(|q| q.y).sum::<f32>() / 68.0)
    };
    let nose_from_center = |p: &[Point; 68]| (p[30].x - center(p).x, p[30].y - center(p).y);
    let rest = nose_from_center(&draw(&mut r, &FaceState::default()).landmarks);
    let right = nose_from_center(&draw(&mut r, &posed(30.0, 0.0, 0.0)).landmarks);
    assert!(right.0 > rest.0 + 8.0, "{rest:?} {right:?}");
    let up = nose_from_center(&draw(&mut r, &posed(0.0, 20.0, 0.0)).landmarks);
    assert!(up.1 < rest.1 - 4.0, "{rest:?} {up:?}");
    let rolled = draw(&mut r, &posed(0.0, 0.0, 25.0)).landmarks;
    let eyes = (rolled[45].y - rolled[36].y).atan2(rolled[45].x - rolled[36].x).to_degrees();
    assert!((eyes - 25.0).abs() < 2.0, "clockwise with y down is positive: {eyes}");
}

#[test]
fn mirrored_poses_of_a_symmetric_face_give_mirrored_landmarks() {
    let mut r = renderer();
    let left = draw(&mut r, &posed(-40.0, 5.0, 0.0)).landmarks;
    let right = draw(&mut r, &posed(40.0, 5.0, 0.0)).landmarks;
    // The offsets that no face lacks stay below a few millimetres.
    for (a, b) in
        [(0, 16), (3, 13), (17, 26), (21, 22), (36, 45), (39, 42), (31, 35), (48, 54), (8, 8), (30, 30)]
    {
        assert!((160.0 - left[a].x - right[b].x).abs() < 3.5, "{a}: {} {}", left[a].x, right[b].x);
        assert!((left[a].y - right[b].y).abs() < 3.0, "{a}");
    }
}

#[test]
fn at_sixty_degrees_the_far_eye_is_hidden_and_the_near_one_is_not() {
    let mut r = renderer();
    // The iris of each eye is looked for by swinging the gaze: what changes is visible.
    let mut changed = |eye: std::ops::RangeInclusive<usize>| {
        let mut frames = [0.0, -25.0].map(|yaw_deg| {
            let gaze = Gaze { yaw_deg, pitch_deg: 0.0 };
            draw(&mut r, &FaceState { gaze, ..posed(60.0, 0.0, 0.0) })
        });
        let points: Vec<Point> = eye.map(|i| frames[0].landmarks[i]).collect();
        let (cx, cy) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.x / 6.0, y + p.y / 6.0));
        let width = frames[0].frame.width() as i64;
        let mut sum = 0u64;
        for y in cy as i64 - 4..=cy as i64 + 4 {
            for x in cx as i64 - 4..=cx as i64 + 4 {
                let i = ((y * width + x) * 3) as usize;
                sum += u64::from(frames[0].frame.rgb_mut()[i].abs_diff(frames[1].frame.rgb()[i]));
            }
        }
        sum
    };
    let (far, near) = (changed(42..=47), changed(36..=41));
    assert!(near > 6 * far.max(20), "near {near}, far {far}");
}

#[test]
fn far_jaw_landmarks_lie_on_the_visible_outline() {
    let mut r = renderer();
    let drawn = draw(&mut r, &posed(40.0, 0.0, 0.0));
    let at = |x: f32, y: f32| {
        let i = (y as usize * drawn.frame.width() as usize + x as usize) * 3;
        &drawn.frame.rgb()[i..i + 3]
    };
    let background = at(157.0, 2.0);
    for i in 11..=14 {
        let p = drawn.landmarks[i];
        assert_eq!(at(p.x + 3.0, p.y), background, "outside of {i}");
        assert_ne!(at(p.x - 3.0, p.y), background, "inside of {i}");
    }
}

#[test]
fn hidden_landmarks_grow_with_the_turn_of_the_head() {
    let mut r = renderer();
    let front = draw(&mut r, &FaceState::default()).hidden;
    let turned = draw(&mut r, &posed(60.0, 0.0, 0.0)).hidden;
    assert!(front < 0.12 && turned > front + 0.1, "{front} {turned}");
}

#[test]
fn looking_aside_moves_the_iris_not_the_landmarks() {
    let mut r = renderer();
    let dark_x = |d: &Rendered| {
        // Centroid of darkness between the corners of the left eye.
        let p = &d.landmarks;
        let (mut sum, mut weight) = (0.0, 0.0);
        let y = ((p[37].y + p[41].y + p[38].y + p[40].y) / 4.0) as usize;
        for x in p[36].x as usize + 2..p[39].x as usize - 1 {
            let i = (y * d.frame.width() as usize + x) * 3;
            let dark = (160.0 - f32::from(d.frame.rgb()[i])).max(0.0).powi(2);
            sum += dark * x as f32;
            weight += dark;
        }
        sum / weight
    };
    let look = |yaw_deg: f32| FaceState { gaze: Gaze { yaw_deg, pitch_deg: 0.0 }, ..FaceState::default() };
    let (left, right) = (draw(&mut r, &look(-20.0)), draw(&mut r, &look(20.0)));
    assert!(dark_x(&right) > dark_x(&left) + 1.5, "{} {}", dark_x(&left), dark_x(&right));
    assert!((left.landmarks[36].x - right.landmarks[36].x).abs() < 0.01);
}

/// A clip's pictures in 8x8 blocks of 16 grey levels, hashed (FNV-1a).
fn coarse_hash(seed: u64, identity: u64) -> u64 {
    let mut clip = ClipSource::new(seed, identity, RenderOptions::crop(64)).unwrap();
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for i in 0..3 {
        let (frame, _) = clip.frame_at(f64::from(i) * 2.7).unwrap();
        for by in 0..8 {
            for bx in 0..8 {
                let mut sum = 0u32;
                for y in by * 8..by * 8 + 8 {
                    for x in bx * 8..bx * 8 + 8 {
                        sum += u32::from(frame.rgb()[(y * 64 + x) * 3 + 1]);
                    }
                }
                hash = (hash ^ u64::from(sum / 1024)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    hash
}

#[test]
fn a_seed_gives_the_same_clip_again_in_any_order() {
    let frames = |order: &[u64]| {
        let mut clip = ClipSource::new(3, 17, RenderOptions::crop(96)).unwrap();
        let mut out: Vec<_> = order.iter().map(|&i| (i, clip.frame_at(i as f64 * 0.4).unwrap())).collect();
        out.sort_by_key(|(i, _)| *i);
        out
    };
    assert_eq!(frames(&[0, 1, 2, 3]), frames(&[3, 1, 0, 2]));
    let mut by_number =
        ClipSource::new(3, 17, RenderOptions { fps: 2.5, ..RenderOptions::crop(96) }).unwrap();
    let third = {
        by_number.next_frame().unwrap();
        by_number.next_frame().unwrap().0
    };
    assert_eq!(third.rgb(), frames(&[1])[0].1.0.rgb());
    assert_ne!(coarse_hash(3, 17), coarse_hash(3, 18));
    assert_ne!(coarse_hash(3, 17), coarse_hash(4, 17));
}

/// The crate promises the same bits on every machine. Whoever changes how faces look changes these numbers too: the
/// message shows the new ones.
#[test]
fn a_frame_is_the_same_to_the_last_bit_on_every_machine() {
    let mut clip = ClipSource::new(2024, 7, RenderOptions::crop(64)).unwrap();
    let (frame, labels) = clip.frame_at(4.2).unwrap();
    assert_eq!(labels.expression, Expression::Sad);
    assert_eq!((labels.valence, labels.arousal), (-0.336_424_62, 0.062_235_683));
    assert_eq!(
        labels.pose,
        HeadPose { yaw_deg: -16.641_476, pitch_deg: 1.435_949_3, roll_deg: -2.670_771_6 }
    );
    assert_eq!(labels.landmarks[30], Point::new(30.123_434, 37.570_034));
    // Where this fails, tell a new look from another machine's arithmetic by the mean colour.
    let mean = |c: usize| frame.rgb().iter().skip(c).step_by(3).map(|&b| f64::from(b)).sum::<f64>() / 4096.0;
    let hash = frame
        .rgb()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    assert_eq!(hash, 0x1ad4_d6fa_9d14_a2b7, "{hash:#x}, mean {:.2} {:.2} {:.2}", mean(0), mean(1), mean(2));
}

#[test]
fn a_person_is_the_same_in_every_clip() {
    let person = |seed| ClipSource::new(seed, 9, RenderOptions::crop(32)).unwrap().identity().clone();
    assert_eq!(person(1), person(2));
    let style = |seed| *ClipSource::new(seed, 9, RenderOptions::crop(32)).unwrap().style();
    assert_eq!(style(1), style(2));
}

#[test]
fn labels_are_in_range_and_agree_with_each_other() {
    for identity in 0..6 {
        let options = RenderOptions { personal_style: 0.0, ..RenderOptions::crop(64) };
        let mut clip = ClipSource::new(1, identity, options).unwrap();
        assert_eq!(*clip.style(), PersonalStyle::plain());
        for i in 0..10 {
            let (frame, l) = clip.frame_at(f64::from(i) * 1.3).unwrap();
            assert_eq!(frame.t_secs, l.t_secs);
            assert_eq!(l.identity, identity);
            assert!(l.valence.abs() <= 1.0 && l.arousal.abs() <= 1.0);
            assert_eq!((l.valence, l.arousal), valence_arousal(&l.meant_au));
            assert!(l.au.iter().chain(&l.meant_au).all(|a| (0.0..=1.0).contains(a)));
            let tremor = l.au.iter().zip(&l.meant_au).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(tremor < 0.03, "{tremor}");
            assert!((0.0..=1.0).contains(&l.intensity) && (0.0..=1.0).contains(&l.hidden));
            assert!((l.expression == Expression::Neutral) == (l.intensity == 0.0));
            assert!(
                l.pose.yaw_deg.abs() <= 60.0
                    && l.pose.pitch_deg.abs() <= 30.0
                    && l.pose.roll_deg.abs() <= 30.0
            );
            for p in l.landmarks {
                let Rect { x, y, w, h } = l.bbox;
                assert!(p.x >= x - 0.01 && p.x <= x + w + 0.01 && p.y >= y - 0.01 && p.y <= y + h + 0.01);
            }
            assert!(l.bbox.h > 20.0 && l.bbox.h < 80.0, "{:?}", l.bbox);
        }
    }
}

#[test]
fn the_face_box_has_the_height_that_was_asked_for() {
    let mut r = renderer();
    r.camera_mut().distance_cm = 300.0;
    let placement = r.centered();
    let height = r.render(&FaceState::default(), placement).unwrap().bbox.h;
    assert!((height / placement.face_px - 1.0).abs() < 0.08, "{height} of {}", placement.face_px);
}

#[test]
fn a_webcam_stands_still_and_the_face_moves_before_it() {
    let options = RenderOptions { occluded: 0.0, camera_effects: false, ..RenderOptions::webcam() };
    assert_eq!(options.framing, Framing::Webcam);
    let mut clip = ClipSource::new(2, 4, options).unwrap();
    let (a, la) = clip.frame_at(1.0).unwrap();
    let (b, lb) = clip.frame_at(6.0).unwrap();
    assert_eq!((a.width(), a.height()), (640, 480));
    // The top row of the picture is wall in both.
    let same = (0..640 * 3).filter(|&i| a.rgb()[i] == b.rgb()[i]).count();
    assert!(same > 640 * 3 / 2, "{same}");
    let moved = (la.bbox.center().x - lb.bbox.center().x).abs();
    assert!(moved > 1.0, "{moved}");
}

#[test]
fn seetaface_finds_at_least_nine_of_ten_frontal_faces() {
    let mut finder = SeetaFinder::new().unwrap();
    let (mut shown, mut found) = (0, 0);
    let mut faces = Vec::new();
    for identity in 0..60 {
        let options = RenderOptions { occluded: 0.0, pose_spread: 0.5, ..RenderOptions::webcam() };
        let options = RenderOptions { width: 320, height: 240, face_share: (0.45, 0.7), ..options };
        let mut clip = ClipSource::new(77, identity, options).unwrap();
        let (frame, labels) = clip.frame_at(2.0 + identity as f64 * 0.37).unwrap();
        if labels.pose.yaw_deg.abs() > 15.0
            || labels.pose.roll_deg.abs() > 15.0
            || labels.pose.pitch_deg.abs() > 15.0
        {
            continue;
        }
        shown += 1;
        finder.find(&frame, &mut faces).unwrap();
        found += usize::from(faces.iter().any(|f| f.bbox.iou(&labels.bbox) > 0.4));
    }
    assert!(shown >= 20, "{shown}");
    assert!(10 * found >= 9 * shown, "{found} of {shown}");
}

#[test]
fn prototypes_look_different_from_each_other() {
    let mut r = renderer();
    let frames: Vec<_> = Expression::ALL
        .iter()
        .map(|&e| draw(&mut r, &FaceState { au: prototype(e), ..FaceState::default() }).frame)
        .collect();
    for i in 0..frames.len() {
        for j in 0..i {
            let d: u64 =
                frames[i].rgb().iter().zip(frames[j].rgb()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            assert!(d as f64 / frames[i].rgb().len() as f64 > 0.3, "{i} {j}: {d}");
        }
    }
}

#[test]
fn what_cannot_be_drawn_is_refused_by_name() {
    let size = ClipSource::new(0, 0, RenderOptions::crop(8)).err().unwrap();
    assert!(matches!(size, SynthError::Size { width: 8, .. }) && size.to_string().contains("8x8"));
    let option =
        ClipSource::new(0, 0, RenderOptions { fps: f64::NAN, ..RenderOptions::crop(32) }).err().unwrap();
    assert!(option.to_string().contains("fps"), "{option}");
    let share = RenderOptions { face_share: (0.9, 0.2), ..RenderOptions::crop(32) };
    assert!(ClipSource::new(0, 0, share).is_err());
    let mut clip = ClipSource::new(0, 0, RenderOptions::crop(32)).unwrap();
    assert!(matches!(clip.frame_at(-1.0), Err(SynthError::Time { .. })));
    assert!(matches!(clip.frame_at(f64::NAN), Err(SynthError::Time { .. })));
    let mut r = renderer();
    let mut state = FaceState::default();
    state.au[3] = f32::NAN;
    let placement = r.centered();
    assert!(matches!(r.render(&state, placement), Err(SynthError::State { .. })));
    let mut state = FaceState::default();
    state.pose.yaw_deg = f32::INFINITY;
    assert!(r.render(&state, placement).is_err());
}

#[test]
fn extreme_but_valid_requests_are_drawn() {
    let mut r = Renderer::new(Identity::average(), 64, 48, 500.0, 5).unwrap();
    *r.camera_mut() = Camera { distance_cm: 25.0, ..Camera::ideal() };
    let mut state = posed(180.0, -90.0, 360.0);
    state.au = [1.0; ACTION_UNITS.len()];
    state.au_asymmetry = [-1.0; ACTION_UNITS.len()];
    let placement = semblance_synth::Placement { center: Point::new(-300.0, 900.0), face_px: 700.0 };
    let drawn = r.render(&state, placement).unwrap();
    assert_eq!(drawn.frame.rgb().len(), 64 * 48 * 3);
    assert!(drawn.landmarks.iter().all(|p| p.x.is_finite() && p.y.is_finite()));
}
