//! The shipped networks that find faces, on synthetic people and on what is no face.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use semblance_face::finder::{ConvFinder, Finder};
use semblance_face::landmarks::inter_ocular;
use semblance_face::{Bundle, Detection, FollowOptions, Follower, Frame, head_pose};
use semblance_synth::{ClipSource, RenderOptions, empty_scene};

fn bundle() -> Bundle {
    Bundle::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default")).unwrap()
}

fn finder(side_px: u32) -> ConvFinder {
    ConvFinder::new(bundle().finder_onnx().unwrap().to_vec(), side_px).unwrap()
}

fn follower(find_every: u32) -> Follower {
    Follower::from_bundle(&bundle(), &FollowOptions { find_every, ..FollowOptions::default() }).unwrap()
}

fn person(identity: u64) -> ClipSource {
    let options = RenderOptions { width: 320, height: 240, occluded: 0.0, ..RenderOptions::webcam() };
    ClipSource::new(77, identity, options).unwrap()
}

/// The frame shrunk to its left upper quarter; black elsewhere.
fn quartered(frame: &Frame) -> Frame {
    let (width, height) = (frame.width(), frame.height());
    let mut out = Frame::black(width, height).unwrap();
    let stride = width as usize * 3;
    for y in 0..height as usize / 2 {
        for x in 0..width as usize / 2 {
            let from = 2 * y * stride + 6 * x;
            let pixel: [u8; 3] = frame.rgb()[from..from + 3].try_into().unwrap();
            out.rgb_mut()[y * stride + 3 * x..][..3].copy_from_slice(&pixel);
        }
    }
    out
}

#[test]
fn faces_are_found_at_both_settings_and_in_every_shape_of_picture() {
    let (mut near, mut far) = (finder(ConvFinder::DEFAULT_SIDE_PX), finder(ConvFinder::FAR_SIDE_PX));
    let mut found = Vec::new();
    let (mut hits, mut small_hits) = (0, 0);
    for identity in 0..20 {
        let (frame, labels) = person(identity).frame_at(2.0).unwrap();
        near.find(&frame, &mut found).unwrap();
        hits += usize::from(found.iter().any(|f| f.bbox.iou(&labels.bbox) > 0.4));
        far.find(&quartered(&frame), &mut found).unwrap();
        small_hits += usize::from(found.iter().any(|f| {
            let b = labels.bbox;
            f.bbox.iou(&semblance_face::Rect::new(b.x / 2.0, b.y / 2.0, b.w / 2.0, b.h / 2.0)) > 0.4
        }));
    }
    assert!(hits >= 19, "{hits} of 20");
    assert!(small_hits >= 18, "{small_hits} of 20 at half the size");
}

#[test]
fn what_is_no_face_gives_no_face_and_no_error() {
    let mut follower = follower(3);
    for (width, height) in [(16, 16), (1, 1), (640, 480), (8192, 16), (16, 8192), (33, 1000)] {
        for _ in 0..4 {
            let (faces, _) = follower.update(&Frame::black(width, height).unwrap()).unwrap();
            assert!(faces.is_empty(), "{width}x{height}: {faces:?}");
        }
    }
    let mut finder = finder(ConvFinder::DEFAULT_SIDE_PX);
    let (mut found, mut alarms) = (Vec::new(), 0);
    for seed in 0..40 {
        finder.find(&empty_scene(320, 240, seed).unwrap(), &mut found).unwrap();
        alarms += usize::from(!found.is_empty());
    }
    assert!(alarms <= 1, "{alarms} of 40 empty scenes show a face");
}

#[test]
fn a_face_is_followed_by_its_landmarks_between_the_finders_runs() {
    let (mut follower, mut clip) = (follower(5), person(3));
    let (mut finds, mut error, mut seen, mut yaw_error) = (0, 0.0, 0, 0.0);
    const FRAMES: usize = 60;
    for _ in 0..FRAMES {
        let (frame, labels) = clip.next_frame().unwrap();
        let (faces, spent) = follower.update(&frame).unwrap();
        finds += usize::from(spent.find.is_some());
        let Some((face, found)) = faces.first().and_then(|face| Some((face, face.landmarks?))) else {
            continue;
        };
        assert_eq!((faces.len(), face.id), (1, 1));
        let sum: f32 =
            found.points.iter().zip(&labels.landmarks).map(|(p, q)| (p.x - q.x).hypot(p.y - q.y)).sum();
        error += sum / 68.0 / inter_ocular(&labels.landmarks);
        let pose = head_pose(&found.points, frame.width(), frame.height()).unwrap();
        yaw_error += (pose.yaw_deg - labels.pose.yaw_deg).abs();
        seen += 1;
    }
    assert!(seen >= FRAMES - 4, "seen in {seen} of {FRAMES} frames");
    assert!((FRAMES / 5..FRAMES / 2).contains(&finds), "the finder ran {finds} times");
    let (error, yaw_error) = (error / seen as f32, yaw_error / seen as f32);
    assert!(error < 0.06, "landmarks are off by {error:.3} of the eyes' distance");
    assert!(yaw_error < 6.0, "yaw is off by {yaw_error:.1} degrees");
}

#[test]
fn a_cut_to_another_place_is_noticed_in_the_same_frame() {
    // The finder would not be due for a thousand frames.
    let (mut follower, mut clip) = (follower(1000), person(5));
    for _ in 0..5 {
        let (frame, _) = clip.next_frame().unwrap();
        follower.update(&frame).unwrap();
    }
    let (frame, labels) = clip.next_frame().unwrap();
    let mut moved = quartered(&frame);
    moved.t_secs = frame.t_secs;
    let (faces, spent) = follower.update(&moved).unwrap();
    assert!(spent.find.is_some(), "the finder did not run");
    let b = labels.bbox;
    let truth = semblance_face::Rect::new(b.x / 2.0, b.y / 2.0, b.w / 2.0, b.h / 2.0);
    let seen: Vec<Detection> = faces.iter().filter_map(|face| face.seen).collect();
    assert!(seen.iter().any(|s| s.bbox.iou(&truth) > 0.4), "{seen:?} is not at {truth:?}");
    let mut empty = empty_scene(320, 240, 3).unwrap();
    empty.t_secs = frame.t_secs + 1.0;
    assert!(follower.update(&empty).unwrap().0.is_empty());
}

#[test]
fn an_id_is_kept_through_a_short_occlusion() {
    let (mut follower, mut clip) = (follower(5), person(8));
    for i in 0..45 {
        let (mut frame, _) = clip.next_frame().unwrap();
        // A third of a second behind something.
        if (20..30).contains(&i) {
            let t_secs = frame.t_secs;
            frame = empty_scene(320, 240, 9).unwrap();
            frame.t_secs = t_secs;
        }
        let (faces, _) = follower.update(&frame).unwrap();
        assert!(faces.iter().all(|face| face.id == 1), "frame {i}: {faces:?}");
        if i >= 32 {
            assert_eq!(faces.len(), 1, "frame {i}");
        }
    }
}

#[test]
fn two_people_are_followed_apart() {
    let (mut follower, mut left, mut right) = (follower(5), person(3), person(8));
    let mut both = 0;
    for i in 0..30 {
        let (a, _) = left.next_frame().unwrap();
        let (b, _) = right.next_frame().unwrap();
        let mut frame = Frame::black(640, 240).unwrap();
        frame.t_secs = a.t_secs;
        for (row, (l, r)) in
            frame.rgb_mut().chunks_exact_mut(1920).zip(a.rgb().chunks(960).zip(b.rgb().chunks(960)))
        {
            row[..960].copy_from_slice(l);
            row[960..].copy_from_slice(r);
        }
        let (faces, _) = follower.update(&frame).unwrap();
        for face in faces {
            let on_the_left = face.bbox.center().x < 320.0;
            let id_of_the_left = faces.iter().find(|f| f.bbox.center().x < 320.0).map(|f| f.id);
            assert_eq!(on_the_left, id_of_the_left == Some(face.id), "frame {i}: {faces:?}");
        }
        assert!(faces.iter().all(|face| face.id <= 2), "frame {i}: {faces:?}");
        both += usize::from(faces.len() == 2);
    }
    assert!(both >= 27, "both are seen in {both} of 30 frames");
}
