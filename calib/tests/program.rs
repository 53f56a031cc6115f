//! The `calib` program on a recording, with the shipped bundle.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semblance_calib::bundle::Shipped;
use semblance_calib::profile::Profiles;
use serde_json::{Value, json};

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default")
}

const EXPRESSIONS: [&str; 7] = ["neutral", "happy", "sad", "surprise", "fear", "disgust", "angry"];

struct Desk(tempfile::TempDir);

impl Desk {
    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn calib(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_calib"));
        command.args(args).args(["--user", "ada", "--profiles", &self.path("profiles")]);
        command.env("SEMBLANCE_BUNDLE", shipped()).stdin(Stdio::null()).output().unwrap()
    }

    fn text(&self, args: &[&str]) -> String {
        let output = self.calib(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn failure(&self, args: &[&str]) -> String {
        let output = self.calib(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

/// A recording of a person whose resting face looks happy to the shipped head: embeddings along the head's own rows,
/// shifted. Each of `expressions` comes in six blocks of ten frames.
fn record(path: &str, expressions: &[&str], noise: f32) {
    let heads = Shipped::open(&shipped()).unwrap().heads;
    let head = heads.expression().unwrap();
    let row = |name: &str| {
        let at = head.labels().iter().position(|label| label == name).unwrap();
        let row = &head.weight()[at * head.dim()..(at + 1) * head.dim()];
        let norm = row.iter().map(|w| w * w).sum::<f32>().sqrt();
        row.iter().map(|w| w / norm).collect::<Vec<_>>()
    };
    let shift = row("happy");
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut out = fs::File::create(path).unwrap();
    let mut t = 0.0;
    for block in 0..6 * expressions.len() {
        let name = expressions[block % expressions.len()];
        let towards = row(name);
        for _ in 0..10 {
            let embedding: Vec<f32> = towards
                .iter()
                .zip(&shift)
                .map(|(w, s)| 3.0 * w + 4.0 * s + noise * rng.random_range(-1.0..1.0))
                .collect();
            t += 0.25;
            let row = json!({ "t": t, "frame": 0, "track": 1, "embedding": embedding, "label": { "expression": name } });
            writeln!(out, "{row}").unwrap();
        }
    }
}

#[test]
fn a_person_is_learned_kept_shown_undone_carried_and_forgotten() {
    let desk = Desk(tempfile::tempdir().unwrap());
    let recording = desk.path("desk.record");
    record(&recording, &EXPRESSIONS, 0.05);
    let fit = ["fit", "--embeddings", &recording];
    let dry: Value =
        serde_json::from_str(&desk.text(&[&fit[..], &["--dry-run", "--json"]].concat())).unwrap();
    assert!(dry["state"].is_null() && dry["labels"] == 420);
    assert!(desk.failure(&["show"]).contains("nobody has one"));
    let text = desk.text(&fit);
    assert!(text.contains("expression: accepted") && text.contains("state 2"), "{text}");
    let expression = &dry["heads"][0];
    let accuracy =
        expression["metrics"].as_array().unwrap().iter().find(|m| m["name"] == "accuracy").unwrap();
    let value = |when: &str| accuracy[when]["value"].as_f64().unwrap();
    assert!(value("before") < 0.5 && value("after") > 0.9, "{accuracy}");

    // What is kept reads the person right, which the shipped head does not.
    let profiles = Profiles::new(desk.0.path().join("profiles"));
    let heads = |user: &str| profiles.open(&user.parse().unwrap()).unwrap().unwrap().state.heads;
    let first = heads("ada");
    // Of the first ones 256 are kept.
    assert!(desk.text(&fit).contains("676 labels, 420 of them new"));
    let history = desk.text(&["show"]);
    assert!(history.contains("state 3") && history.contains("labels kept"), "{history}");
    let picture = desk.path("ada.svg");
    desk.text(&["show", "--svg", &picture]);
    assert!(fs::read_to_string(&picture).unwrap().contains("accuracy"));
    desk.text(&["rollback"]);
    assert_eq!(heads("ada"), first, "bit by bit");
    let states: Value = serde_json::from_str(&desk.text(&["show", "--json"])).unwrap();
    assert_eq!((&states["state"], states["states"].as_array().unwrap().len()), (&json!(4), 4));
    // The very first fit can be undone, too: the shipped heads are a state of their own.
    let untouched = Shipped::open(&shipped()).unwrap().heads;
    desk.text(&["rollback", "--to", "1"]);
    assert_eq!(heads("ada"), untouched);
    desk.text(&["rollback", "--to", "4"]);
    assert_eq!(heads("ada"), first);

    let file = desk.path("ada.profile");
    desk.text(&["export", "--out", &file]);
    assert!(desk.failure(&["export", "--out", &file]).contains("there already"));
    assert!(desk.failure(&["delete"]).contains("nothing was deleted"));
    desk.text(&["delete", "--yes"]);
    assert!(!desk.0.path().join("profiles/ada").exists());
    desk.text(&["import", "--from", &file]);
    assert_eq!(heads("ada"), first);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&file, bytes).unwrap();
    assert!(desk.failure(&["import", "--from", &file]).contains("damaged"));
    assert_eq!(heads("ada"), first);
}

#[test]
fn labels_that_mean_nothing_change_nothing() {
    let desk = Desk(tempfile::tempdir().unwrap());
    let recording = desk.path("noise.record");
    record(&recording, &EXPRESSIONS, 0.05);
    // The labels of the whole recording, in an order that has nothing to do with it.
    let text = fs::read_to_string(&recording).unwrap();
    let mut rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for row in &mut rows {
        row["label"]["expression"] = json!(EXPRESSIONS[rng.random_range(0..7)]);
    }
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(&recording, text).unwrap();
    let told = desk.text(&["fit", "--embeddings", &recording]);
    assert!(told.contains("kept as it was") && told.contains("nothing was changed"), "{told}");
    assert!(!desk.0.path().join("profiles/ada").exists());
}

#[test]
fn what_is_wrong_is_named() {
    let desk = Desk(tempfile::tempdir().unwrap());
    let recording = desk.path("x.record");
    assert!(desk.failure(&["fit", "--embeddings", &recording]).contains("x.record"));
    fs::write(&recording, "{\"t\":0,\"track\":1,\"embedding\":[1.0]}\n").unwrap();
    assert!(desk.failure(&["fit", "--embeddings", &recording]).contains("none of its 1 rows has a label"));
    fs::write(&recording, "{\"t\":0,\"track\":1,\"embedding\":[1.0],\"label\":{\"expression\":\"glad\"}}\n")
        .unwrap();
    let message = desk.failure(&["fit", "--embeddings", &recording]);
    assert!(
        message.contains("line 1") && message.contains("'glad'") && message.contains("neutral"),
        "{message}"
    );
    let message = desk.failure(&["fit", "--embeddings", &recording, "--bundle", "./nowhere"]);
    assert!(message.contains("./nowhere/bundle.toml"), "{message}");
    let message = desk.failure(&["fit", "--embeddings", &recording, "--bundle", "nowhere"]);
    assert!(message.contains("no bundle 'nowhere'"), "{message}");
    let output = Command::new(env!("CARGO_BIN_EXE_calib")).args(["show", "--user", "../x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
