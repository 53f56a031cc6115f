//! The whole loop over HTTP: a person is calibrated while `edge` runs, the heads fitted to them outlive a restart, and can be
//! undone bit by bit.

#![allow(clippy::unwrap_used)]

mod serving;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};
use semblance_face::labels::Expression;
use semblance_synth::{ClipSource, RenderOptions};
use serde_json::{Value, json};
use serving::{Answer, LEARNING, Serving, Spec, SseClient, edge, send};

/// A client that holds every answer against the description.
struct Client<'a> {
    serving: &'a Serving,
    spec: Spec,
    seen: BTreeSet<(String, String, u16)>,
}

impl Client<'_> {
    fn ask(&mut self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = send(method, self.serving.addr, path, &[], &body);
        self.spec.assert_describes(method, path, &answer);
        self.seen.insert((path.to_owned(), method.to_owned(), answer.status));
        answer
    }

    fn get(&mut self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.ask(method, path, body);
        assert_eq!(answer.status, 200, "{method} {path} {body}: {}", answer.text());
        answer.json()
    }

    fn refused(&mut self, method: &str, path: &str, body: &Value, status: u16, word: &str) {
        let answer = self.ask(method, path, body);
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.text());
        let sentence = answer.json()["error"].as_str().unwrap().to_owned();
        let sentence = sentence.to_lowercase();
        assert!(sentence.contains(&word.to_lowercase()), "{method} {path} {body}: {sentence}");
    }

    fn wait_for(&mut self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let state = self.get("get", "/v1/calibration", &Value::Null);
            if condition(&state) {
                return state;
            }
            assert!(Instant::now() < deadline, "{what} never came: {state}");
            std::thread::sleep(Duration::from_millis(60));
        }
    }

    /// Has every take played, and says what it shows, as somebody who watches would.
    fn watch_and_label(&mut self, actor: &Actor) {
        for (row, take) in actor.takes.iter().enumerate() {
            actor.on_stage.store(row, Ordering::Relaxed);
            // A stream of its own has nothing waiting in it; but some frames of the take before are still on their way.
            let stream = SseClient::open(self.serving.addr, "/v1/stream?events=prediction");
            let mut times =
                stream.map(|(_, data)| serde_json::from_str::<Value>(&data).unwrap()["t"].as_f64().unwrap());
            let from = times.nth(7).unwrap();
            let to = times.by_ref().skip(5).find(|t| t - from > 1.0).unwrap();
            self.get("post", "/v1/label", &json!({ "from": from, "to": to, "expression": take.expression }));
        }
    }
}

/// Some moments of one expression.
#[derive(Clone)]
struct Take {
    expression: &'static str,
    jpegs: Vec<Vec<u8>>,
}

/// The demo's person, who shows each expression twice, alike both times: whoever learnt it once knows it again.
struct Actor {
    takes: Arc<Vec<Take>>,
    on_stage: Arc<AtomicUsize>,
}

impl Actor {
    fn new() -> Self {
        let mut script =
            ClipSource::new(1, 1, RenderOptions { width: 32, height: 24, ..RenderOptions::webcam() })
                .unwrap();
        let mut camera = ClipSource::new(1, 1, RenderOptions::webcam()).unwrap();
        let mut takes: Vec<Take> = Vec::new();
        let mut moments = (0..).map(|i| 0.1 * f64::from(i)).map(|t| (t, script.frame_at(t).unwrap().1));
        let (mut shown, mut since) = (Expression::Neutral, 0.0);
        while takes.len() < 7 {
            let (t, labels) = moments.next().unwrap();
            if labels.expression != shown {
                (shown, since) = (labels.expression, t);
            }
            // The bundle knows the other seven.
            if shown == Expression::Contempt {
                continue;
            }
            if t - since > 0.75 && takes.iter().all(|take| take.expression != shown.name()) {
                let jpegs = (0..8).map(|i| jpeg(&mut camera, t + 0.02 * f64::from(i))).collect();
                takes.push(Take { expression: shown.name(), jpegs });
            }
        }
        takes.extend_from_within(..);
        Self { takes: Arc::new(takes), on_stage: Arc::default() }
    }

    /// Plays before a program at 30 frames a second until the program ends.
    fn play(&self, serving: &mut Serving) {
        let mut stdin = serving.child.stdin.take().unwrap();
        let (takes, on_stage) = (self.takes.clone(), self.on_stage.clone());
        std::thread::spawn(move || {
            for i in 0.. {
                let jpegs = &takes[on_stage.load(Ordering::Relaxed)].jpegs;
                if stdin.write_all(&jpegs[i % jpegs.len()]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(33));
            }
        });
    }
}

fn jpeg(camera: &mut ClipSource, t_secs: f64) -> Vec<u8> {
    let (frame, _) = camera.frame_at(t_secs).unwrap();
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 90)
        .write_image(frame.rgb(), frame.width(), frame.height(), ExtendedColorType::Rgb8)
        .unwrap();
    jpeg
}

/// What an own run says of the first frames of the demo.
fn predictions(profiles: &Path, user: &str) -> Vec<Value> {
    let run =
        ["run", "--source", "demo", "--max-frames", "25", "--http", "off", "--user", user, "--profiles"];
    let output = edge(&run).arg(profiles).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let objects = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    // Of a live source frames may be passed over; those that are here are named.
    objects
        .map(|o| json!({ "frame": o["frame"], "expression": o["expression"], "adapted": o["adapted"] }))
        .collect()
}

/// The same frames of two runs.
fn common<'a>(a: &'a [Value], b: &'a [Value]) -> Vec<(&'a Value, &'a Value)> {
    let pairs: Vec<_> =
        a.iter().filter_map(|x| Some((x, b.iter().find(|y| y["frame"] == x["frame"])?))).collect();
    assert!(pairs.len() >= 5, "the runs have frames in common");
    pairs
}

/// Mean probability of an expression over the next predictions.
fn probability(serving: &Serving, expression: &str) -> f64 {
    const COUNT: usize = 8;
    let stream = SseClient::open(serving.addr, "/v1/stream?events=prediction").take(COUNT);
    let told = stream.map(|(_, data)| serde_json::from_str::<Value>(&data).unwrap());
    told.map(|seen| seen["expression"]["p"][expression].as_f64().unwrap()).sum::<f64>() / COUNT as f64
}

#[test]
fn what_is_said_is_seen_at_once_and_can_be_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let profiles = dir.path().join("profiles");
    let args = ["--source", "-", "--adapt-budget", "20%", "--profiles", profiles.to_str().unwrap()];
    let actor = Actor::new();
    let mut serving = Serving::start("127.0.0.1", &args);
    actor.play(&mut serving);
    let mut client = Client { serving: &serving, spec: Spec::read(), seen: BTreeSet::new() };
    client.get("put", "/v1/user", &json!({ "user": "bob" }));
    client.wait_for("an adaptation", |s| s["adaptation"]["budget"] == 0.2);
    // The face shows one thing all along, which is not disgust; whoever says that it is is believed until the next fit.
    assert_ne!(actor.takes[0].expression, "disgust");
    let before = probability(&serving, "disgust");
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(600));
        client.get("post", "/v1/label", &json!({ "expression": "disgust" }));
    }
    let state = client.get("get", "/v1/calibration", &Value::Null);
    assert!(state["trying"].as_u64() >= Some(8) && state["adapted"] == true, "{state}");
    let told = probability(&serving, "disgust");
    assert!(told > before + 0.1, "{told} after, {before} before");
    client.get("post", "/v1/fit", &Value::Null);
    let state = client.get("delete", "/v1/fit", &Value::Null);
    assert_eq!(state["trying"], 0, "{state}");
    let taken_back = probability(&serving, "disgust");
    assert!(taken_back < told - 0.05, "{taken_back} after {told}");
    assert!(!profiles.exists(), "nothing was kept");
}

#[test]
fn a_person_is_calibrated_kept_and_undone() {
    let dir = tempfile::tempdir().unwrap();
    let profiles = dir.path().join("profiles");
    let actor = Actor::new();
    let mut serving =
        Serving::start("127.0.0.1", &["--source", "-", "--profiles", profiles.to_str().unwrap()]);
    actor.play(&mut serving);
    let mut client = Client { serving: &serving, spec: Spec::read(), seen: BTreeSet::new() };
    let nothing = Value::Null;
    let before = predictions(&profiles, "ada");

    // Nothing can be learned of nobody.
    for (method, path, body) in [
        ("post", "/v1/calibration", json!({ "protocol": "quick" })),
        ("post", "/v1/label", json!({ "expression": "happy" })),
        ("post", "/v1/fit", nothing.clone()),
        ("post", "/v1/fit/accept", nothing.clone()),
        ("post", "/v1/rollback", json!({})),
    ] {
        client.refused(method, path, &body, 409, "choose a user first");
    }
    client.get("put", "/v1/user", &json!({ "user": "ada" }));
    for (method, path, body, word) in [
        ("delete", "/v1/calibration", nothing.clone(), "start one first"),
        ("post", "/v1/calibration/redo", nothing.clone(), "start one first"),
        ("post", "/v1/calibration/rating", json!({ "valence": 0.5, "arousal": 0 }), "start one first"),
        ("post", "/v1/fit", nothing.clone(), "no labels yet"),
        ("post", "/v1/fit/accept", nothing.clone(), "fit first"),
        ("delete", "/v1/fit", nothing.clone(), "fit first"),
        ("post", "/v1/rollback", json!({}), "profile 'ada'"),
        ("post", "/v1/label", json!({ "from": -9.0, "to": -8.0, "expression": "happy" }), "seen"),
    ] {
        client.refused(method, path, &body, 409, word);
    }
    for (path, body, word) in [
        ("/v1/calibration", json!({}), "name a protocol"),
        ("/v1/calibration", json!({ "protocol": "basic8" }), "basic7"),
        ("/v1/calibration", json!({ "toml": "format = 9" }), "9"),
        ("/v1/label", json!({}), "a label is"),
        ("/v1/label", json!({ "expression": "bored" }), "surprise"),
        ("/v1/label", json!({ "valence": 0.5 }), "together"),
        ("/v1/label", json!({ "valence": 1.5, "arousal": 0 }), "[-1, 1]"),
        ("/v1/label", json!({ "from": 1.0, "expression": "happy" }), "together"),
        ("/v1/calibration/rating", json!({ "valence": -2, "arousal": 0 }), "[-1, 1]"),
        ("/v1/rollback", json!({ "to": 0 }), "1"),
    ] {
        client.refused("post", path, &body, 422, word);
    }

    // A guided session of two seconds, its labels, and its end.
    let protocol = "format = 1\nname = \"short\"\ntitle = \"Short\"\nabout = \"For a test.\"\nblocks = 1\n\
         ready_secs = 0.5\nhold_secs = 2.5\nrest_secs = 0\n\
         [[prompts]]\nsay = \"Be.\"\nexpression = \"neutral\"\n[[prompts]]\nsay = \"Feel.\"\nrate = true\n";
    let state = client.get("post", "/v1/calibration", &json!({ "toml": protocol }));
    assert_eq!((&state["session"]["say"], &state["session"]["steps"]), (&json!("Be."), &json!(2)));
    client.refused("post", "/v1/calibration", &json!({ "protocol": "quick" }), 409, "stop it first");
    client.refused("post", "/v1/fit", &nothing, 409, "finish or stop");
    client.refused("post", "/v1/calibration/rating", &json!({ "valence": 0, "arousal": 0 }), 409, "rat");
    client.wait_for("the second step", |s| {
        s["session"]["step"] == 2 && s["session"]["labels"].as_u64() >= Some(5)
    });
    client.wait_for("the question", |s| s["session"]["phase"] == "rate");
    let state = client.get("post", "/v1/calibration/rating", &json!({ "valence": 0.5, "arousal": -0.5 }));
    assert_eq!(state["session"]["phase"], "done", "{state}");
    let state = client.get("post", "/v1/calibration/redo", &nothing);
    assert_eq!((&state["session"]["step"], &state["session"]["phase"]), (&json!(2), &json!("ready")));
    let state = client.get("delete", "/v1/calibration", &nothing);
    assert_eq!((&state["session"], &state["labels"]["total"]), (&nothing, &json!(0)));

    // What the face shows is said for a while; then heads are fitted.
    client.watch_and_label(&actor);
    let state = client.get("post", "/v1/label", &json!({ "valence": 0.1, "arousal": 0.1 }));
    assert!(
        state["labels"]["total"].as_u64() >= Some(30)
            && state["labels"]["valence_arousal"].as_u64() >= Some(3),
        "{state}"
    );
    let report = client.get("post", "/v1/fit", &nothing);
    assert!(!profiles.join("ada").exists(), "nothing is kept before it is accepted");
    assert_eq!(report["better"], true, "{report}");
    let state = client.get("post", "/v1/fit/accept", &nothing);
    assert_eq!(
        (&state["adapted"], &state["labels"]["total"], &state["candidate"]),
        (&json!(true), &json!(0), &nothing)
    );
    assert_eq!(state["trying"], 0, "{state}");
    let adapted = predictions(&profiles, "ada");
    assert!(adapted.iter().all(|o| o["adapted"] == true));
    assert!(common(&before, &adapted).iter().any(|(a, b)| a["expression"] != b["expression"]));

    // One label more is not enough to be better than before; it and its fit are forgotten.
    client.get("post", "/v1/label", &json!({ "expression": "happy" }));
    client.get("post", "/v1/fit", &nothing);
    let state = client.get("delete", "/v1/fit", &nothing);
    assert_eq!((&state["candidate"], &state["labels"]["total"]), (&nothing, &json!(0)));

    // The profile outlives the program.
    let mut seen = client.seen;
    serving.restart();
    actor.play(&mut serving);
    let mut client = Client { serving: &serving, spec: Spec::read(), seen: BTreeSet::new() };
    let chosen = client.get("put", "/v1/user", &json!({ "user": "ada" }));
    assert_eq!((&chosen["adapted"], &chosen["known"]), (&json!(true), &json!(["ada"])));

    // And is undone: everything is as before the first calibration, bit by bit.
    client.get("post", "/v1/rollback", &json!({}));
    for (a, b) in common(&before, &predictions(&profiles, "ada")) {
        assert_eq!(a["expression"], b["expression"]);
    }
    client.get("post", "/v1/rollback", &json!({ "to": 2 }));
    for (a, b) in common(&adapted, &predictions(&profiles, "ada")) {
        assert_eq!(a["expression"], b["expression"]);
    }

    // A disk that fails is told, and loses nothing.
    client.get("post", "/v1/label", &json!({ "expression": "happy" }));
    let aside = dir.path().join("aside");
    fs::rename(&profiles, &aside).unwrap();
    fs::write(&profiles, "").unwrap();
    for path in ["/v1/fit", "/v1/rollback"] {
        let body = if path == "/v1/fit" { nothing.clone() } else { json!({}) };
        client.refused("post", path, &body, 500, "profiles");
    }
    fs::remove_file(&profiles).unwrap();
    fs::rename(&aside, &profiles).unwrap();
    client.get("post", "/v1/fit", &nothing);
    seen.extend(client.seen);
    for (path, method, status) in Spec::read().answers() {
        if LEARNING.contains(&path.as_str()) && [200, 409, 422].contains(&status) {
            assert!(
                seen.contains(&(path.clone(), method.clone(), status)),
                "{method} {path} {status} was not seen"
            );
        }
    }
}
