//! A run for one user: the heads of a profile are the ones that predict, restarts included, and a rollback brings the ones
//! before back bit by bit.

#![allow(clippy::unwrap_used)]

mod serving;

use std::fs;
use std::path::Path;

use semblance_calib::profile::{Profiles, State};
use semblance_calib::{HeadKind, Heads, LinearHead};
use semblance_face::Bundle;
use serde_json::{Value, json};
use serving::{Serving, SseClient, edge, send};

fn run(profiles: &Path, user: &str) -> (Vec<Value>, String) {
    let run =
        ["run", "--source", "demo", "--max-frames", "12", "--http", "off", "--user", user, "--profiles"];
    let output = edge(&run).arg(profiles).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{message}");
    let lines = String::from_utf8(output.stdout).unwrap();
    (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), message)
}

/// What is said of every face, without what differs from run to run.
fn said(objects: &[Value]) -> Vec<Value> {
    objects.iter().map(|object| object["expression"].clone()).collect()
}

fn bundle() -> Bundle {
    Bundle::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default")).unwrap()
}

/// Heads that see one expression in every face.
fn always(expression: &str, shipped: &Heads) -> Heads {
    let head = shipped.expression().unwrap();
    let bias = head.labels().iter().map(|label| if label == expression { 50.0 } else { 0.0 }).collect();
    let biased =
        LinearHead::new("expression", head.labels().to_vec(), head.dim(), head.weight().to_vec(), bias);
    Heads::new(head.dim(), [(HeadKind::Expression, biased.unwrap())]).unwrap()
}

fn state(heads: &Heads, bundle: &str) -> State {
    State {
        bundle: bundle.to_owned(),
        heads: heads.clone(),
        correction: None,
        labelled: None,
        saved_unix_secs: 1,
        reason: "test".to_owned(),
        report: String::new(),
    }
}

#[test]
fn a_profile_is_in_force_until_it_is_rolled_back_and_a_stranger_is_read_by_the_shipped_heads() {
    let dir = tempfile::tempdir().unwrap();
    let (stranger, message) = run(dir.path(), "ada");
    assert!(message.contains("'ada' has no profile yet"), "{message}");
    assert!(stranger.len() >= 8 && stranger.iter().all(|o| o["user"] == "ada" && o["adapted"] == false));

    let bundle = bundle();
    let shipped = Heads::from_safetensors(bundle.heads_safetensors()).unwrap();
    let biased = always("surprise", &shipped);
    let profiles = Profiles::new(dir.path());
    let ada = "ada".parse().unwrap();
    let encoder = &bundle.manifest().encoder.file.sha256;
    profiles.save(&ada, &state(&shipped, encoder), None).unwrap();
    let (own, _) = run(dir.path(), "ada");
    assert!(own.iter().all(|o| o["adapted"] == true));
    assert_eq!(said(&own), said(&stranger), "these are the shipped heads");
    profiles.save(&ada, &state(&biased, encoder), None).unwrap();
    for _ in 0..2 {
        let (surprised, _) = run(dir.path(), "ada");
        assert!(surprised.iter().all(|o| o["expression"]["label"] == "surprise"));
    }
    profiles.rollback(&ada, None, 2).unwrap();
    assert_eq!(said(&run(dir.path(), "ada").0), said(&stranger), "bit by bit");

    // A profile of another encoder is kept, and not used.
    profiles.save(&ada, &state(&biased, "another"), None).unwrap();
    let (other, message) = run(dir.path(), "ada");
    assert!(message.contains("another") && message.contains("shipped heads"), "{message}");
    assert_eq!(said(&other), said(&stranger));
    // The newest state damaged: the one before is used, and that is told.
    profiles.save(&ada, &state(&biased, encoder), None).unwrap();
    profiles.save(&ada, &state(&shipped, encoder), None).unwrap();
    let mut states: Vec<_> =
        fs::read_dir(dir.path().join("ada")).unwrap().map(|e| e.unwrap().path()).collect();
    states.sort();
    let newest = states.last().unwrap();
    let mut bytes = fs::read(newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(newest, bytes).unwrap();
    let (before, message) = run(dir.path(), "ada");
    assert!(
        message.contains("damaged") && before.iter().all(|o| o["expression"]["label"] == "surprise"),
        "{message}"
    );
}

#[test]
fn another_user_is_chosen_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = bundle();
    let shipped = Heads::from_safetensors(bundle.heads_safetensors()).unwrap();
    let encoder = &bundle.manifest().encoder.file.sha256;
    let profiles = Profiles::new(dir.path());
    for (name, expression) in [("ada", "surprise"), ("bob", "fear")] {
        profiles.save(&name.parse().unwrap(), &state(&always(expression, &shipped), encoder), None).unwrap();
    }
    let serving = Serving::start(
        "127.0.0.1",
        &["--max-fps", "25", "--user", "ada", "--profiles", dir.path().to_str().unwrap()],
    );
    let choose = |user: Value| {
        let answer = send("put", serving.addr, "/v1/user", &[], &json!({ "user": user }).to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let next = || -> Value {
        let mut events = SseClient::open(serving.addr, "/v1/stream?events=prediction");
        // The first ones may have been made before.
        events.by_ref().take(3).for_each(drop);
        serde_json::from_str(&events.next().unwrap().1).unwrap()
    };
    let seen = next();
    assert_eq!((&seen["user"], &seen["expression"]["label"]), (&json!("ada"), &json!("surprise")));
    let answer = choose(json!("bob"));
    assert_eq!(answer, json!({ "user": "bob", "adapted": true, "known": ["ada", "bob"], "notes": [] }));
    let seen = next();
    assert_eq!((&seen["user"], &seen["expression"]["label"]), (&json!("bob"), &json!("fear")));
    assert_eq!((&serving.state()["user"], &serving.state()["adapted"]), (&json!("bob"), &json!(true)));
    let answer = choose(json!("carol"));
    assert!(answer["notes"][0].as_str().unwrap().contains("'carol' has no profile yet"), "{answer}");
    assert_eq!((&next()["user"], &next()["adapted"]), (&json!("carol"), &json!(false)));
    choose(Value::Null);
    let seen = next();
    assert_eq!((seen.get("user"), &seen["adapted"]), (None, &json!(false)));
    // No frame was read with one user's name and another's heads.
    let lines = fs::read_to_string(serving.jsonl()).unwrap();
    let whole = lines.rsplit_once('\n').unwrap().0;
    for line in whole.lines() {
        let seen: Value = serde_json::from_str(line).unwrap();
        match seen["user"].as_str() {
            Some("ada") => assert_eq!(seen["expression"]["label"], "surprise"),
            Some("bob") => assert_eq!(seen["expression"]["label"], "fear"),
            _ => assert_eq!(seen["adapted"], false),
        }
    }
}
