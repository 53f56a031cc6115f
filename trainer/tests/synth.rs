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
