//! `trainer synth` writes what it drew.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use semblance_trainer::store::{Split, Store};

fn synth(out: &Path, more: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    command.args(["synth", "--identities", "10", "--seconds", "2", "--side-px", "64", "--out"]).arg(out);
    command.args(more).output().unwrap()
}

#[test]
fn a_store_has_every_label_disjoint_people_and_follows_from_its_seed() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for (name, seed) in [("a", "3"), ("b", "3"), ("c", "4")] {
        let output = synth(&path(name), &["--seed", seed]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let [a, b, c] = ["a", "b", "c"].map(|name| Store::open(&path(name)).unwrap());
    assert_eq!(a.len(), 10 * 8);
    let people = |store: &Store, split| {
        let mut names: Vec<String> =
            store.split(split).iter().map(|&i| store.record(i).identity().to_owned()).collect();
        names.dedup();
        names
    };
    assert_eq!(Split::ALL.map(|split| people(&a, split).len()), [8, 1, 1]);
    let mut differs = false;
    for i in 0..a.len() {
        let (ours, again, other) = (a.record(i), b.record(i), c.record(i));
        assert_eq!(ours.jpeg(), again.jpeg());
        assert_eq!(ours.sample(), again.sample());
        differs |= ours.jpeg() != other.jpeg();
        let sample = ours.sample();
        assert!(sample.expression.is_some() && sample.valence_arousal.is_some());
        assert!(sample.action_units.is_some() && sample.pose.is_some());
        // The nose (iBUG 31) of a face crop lies in the picture.
        let landmarks = sample.landmarks.unwrap();
        assert!(landmarks[60..62].iter().all(|v| (0.0..1.0).contains(v)), "{:?}", &landmarks[60..62]);
        assert_eq!(ours.decode().unwrap().width(), 64);
    }
    assert!(differs, "another seed draws other pictures");
    let taken = synth(&path("a"), &[]);
    assert_eq!(taken.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&taken.stderr).contains("there is a store here already"));
}

#[test]
fn further_clips_of_a_person_add_to_the_first_and_differ_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let [one, three] = ["one", "three"].map(|name| dir.path().join(name));
    assert!(synth(&one, &["--seed", "3"]).status.success());
    assert!(synth(&three, &["--seed", "3", "--clips", "3"]).status.success());
    let [one, three] = [one, three].map(|path| Store::open(&path).unwrap());
    assert_eq!(three.len(), 3 * one.len());
    for i in 0..one.len() {
        // Eight frames a clip, a person's three clips one after the other.
        let (person, frame) = (i / 8, i % 8);
        let [first, second, third] = [0, 1, 2].map(|clip| three.record((person * 3 + clip) * 8 + frame));
        assert_eq!(first.jpeg(), one.record(i).jpeg());
        assert!([&second, &third].iter().all(|other| other.identity() == one.record(i).identity()));
        assert!(first.jpeg() != second.jpeg() && second.jpeg() != third.jpeg());
        assert!(first.video_index() != second.video_index() && second.video_index() != third.video_index());
    }
}

#[test]
fn aligned_faces_are_upright_and_where_the_edge_cuts_them() {
    let dir = tempfile::tempdir().unwrap();
    let [plain, aligned] = ["plain", "aligned"].map(|name| dir.path().join(name));
    assert!(synth(&plain, &["--seed", "3"]).status.success());
    assert!(synth(&aligned, &["--seed", "3", "--align"]).status.success());
    let [plain, aligned] = [plain, aligned].map(|path| Store::open(&path).unwrap());
    let template = semblance_face::CropTemplate::default().points;
    // Far from the template in the sense of least squares: mean over the eyes' middles and the corners of the mouth.
    let off = |store: &Store| {
        let of = |i: usize| {
            let l = store.record(i).sample().landmarks.unwrap();
            let mean = |points: std::ops::Range<usize>, axis: usize| {
                points.clone().map(|p| l[2 * p + axis]).sum::<f32>() / points.len() as f32
            };
            let eyes = [(36..42, 0), (42..48, 1)].map(|(points, t)| {
                (mean(points.clone(), 0) - template[t][0]).hypot(mean(points, 1) - template[t][1])
            });
            let mouth = [(48, 3), (54, 4)].map(|(p, t): (usize, usize)| {
                (l[2 * p] - template[t][0]).hypot(l[2 * p + 1] - template[t][1])
            });
            (eyes.iter().sum::<f32>() + mouth.iter().sum::<f32>()) / 4.0
        };
        (0..store.len()).map(of).sum::<f32>() / store.len() as f32
    };
    let (before, after) = (off(&plain), off(&aligned));
    eprintln!("mean distance from the template: {before:.3} of the side as drawn, {after:.3} aligned");
    assert!(after < 0.06 && after < 0.6 * before, "{before} {after}");
    let roll = |store: &Store| {
        (0..store.len()).map(|i| store.record(i).sample().pose.unwrap()[2].abs()).sum::<f32>()
            / store.len() as f32
    };
    assert!(roll(&aligned) < 0.7 * roll(&plain), "{} {}", roll(&plain), roll(&aligned));
    assert_eq!(aligned.record(0).decode().unwrap().width(), 64);
}
