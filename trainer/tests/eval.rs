//! `trainer eval` on synthetic people: every task beats chance, and says what it cannot do.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use semblance_face::labels::Expression;
use semblance_trainer::checkpoint::Checkpoint;
use semblance_trainer::eval::Loaded;
use semblance_trainer::nets::Backbone;
use semblance_trainer::prepare::encode_jpeg;
use semblance_trainer::store::{NamedPair, Provenance, Sample, Split, Store, StoreWriter, write_pairs};
use serde_json::Value;
use tch::Device;
use tempfile::TempDir;

/// Stores of synthetic people, drawn once: faces as they are aligned, heads turned as before a webcam.
struct People {
    dir: TempDir,
    /// 30 people, of whom 24 are for training and 3 each for validation and test; 40 frames each.
    many: PathBuf,
    /// 20 people, of whom 16 are for training and 2 each for validation and test; 8 frames each.
    few: PathBuf,
}

static PEOPLE: LazyLock<People> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let (many, few) = (dir.path().join("many"), dir.path().join("few"));
    synth(&many, "--identities 30 --clips 2 --seconds 20");
    synth(&few, "--identities 20 --clips 2 --seconds 4");
    People { dir, many, few }
});

fn synth(out: &Path, args: &str) {
    let mut command = trainer(&["synth", "--fps", "1", "--side-px", "64", "--align", "--pose-spread", "0.4"]);
    let output = command.args(args.split_whitespace()).arg("--out").arg(out).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn trainer(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    // Tests run side by side: pools of threads that spin for the same cores would stall each other.
    command.env("OMP_NUM_THREADS", "1").args(args);
    command
}

fn eval(args: &str, data: &Path) -> Output {
    let args: Vec<&str> = args.split_whitespace().collect();
    trainer(&["eval"]).args(args).arg("--data").arg(data).output().unwrap()
}

/// What an evaluation of histograms of gradients of crops of this side prints with `--json`.
fn hog(side_px: u32, args: &str, data: &Path) -> Value {
    report(&format!("--json --descriptor hog --side-px {side_px} {args}"), data)
}

fn report(args: &str, data: &Path) -> Value {
    let output = eval(args, data);
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn failure(args: &str, data: &Path) -> String {
    let output = eval(args, data);
    assert_eq!(output.status.code(), Some(1), "{args}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn number(report: &Value, key: &str) -> f64 {
    report[key].as_f64().unwrap_or_else(|| panic!("no {key} in {report}"))
}

/// The mean absolute difference of each value of a label to its mean over training: what knowing nothing costs.
fn spread<const K: usize>(store: &Store, label: impl Fn(&Sample) -> [f32; K]) -> [f64; K] {
    let of =
        |split| store.split(split).into_iter().map(|i| label(&store.record(i).sample())).collect::<Vec<_>>();
    let (train, test) = (of(Split::Train), of(Split::Test));
    std::array::from_fn(|k| {
        let mean = train.iter().map(|v| f64::from(v[k])).sum::<f64>() / train.len() as f64;
        test.iter().map(|v| (f64::from(v[k]) - mean).abs()).sum::<f64>() / test.len() as f64
    })
}

#[test]
fn valence_and_arousal_agree_with_their_labels() {
    for (protocol, least) in [("linear", 0.15), ("knn", 0.0)] {
        let report = hog(64, &format!("--task va --protocol {protocol}"), &PEOPLE.many);
        assert_eq!((&report["task"], &report["protocol"]), (&"va".into(), &protocol.into()));
        assert_eq!((&report["split"], &report["n"]), (&"test".into(), &120.into()));
        let ccc = number(&report, "ccc_mean");
        assert!(ccc > least, "{report}");
        assert!(
            (ccc - (number(&report, "ccc_valence") + number(&report, "ccc_arousal")) / 2.0).abs() < 1e-12
        );
        assert!(number(&report, "rmse_valence") < 0.5 && number(&report, "rmse_arousal") < 0.5, "{report}");
    }
}

#[test]
fn action_units_are_found_better_than_by_saying_yes() {
    let report = hog(32, "--task au --protocol linear", &PEOPLE.many);
    let units = report["per_au"].as_array().unwrap();
    // Always yes has a recall of 1 and a precision of the share of those that are present.
    let yes = units.iter().map(|au| {
        let share = number(au, "support") / number(au, "n");
        2.0 * share / (1.0 + share)
    });
    let yes = yes.sum::<f64>() / units.len() as f64;
    assert!(number(&report, "f1_mean") > 1.2 * yes, "{yes}: {report}");
    assert_eq!((&report["split"], &report["n"], report.get("folds")), (&"test".into(), &120.into(), None));
    assert!((number(&report, "threshold") - 0.4).abs() < 1e-6);
    let report = hog(32, "--task au --protocol linear --folds 3", &PEOPLE.few);
    assert_eq!((&report["split"], &report["n"], &report["folds"]), (&"all".into(), &160.into(), &3.into()));
    assert!(report["per_au"].as_array().unwrap().iter().all(|au| number(au, "n") == 160.0), "{report}");
    assert!(number(&report, "f1_mean") > 0.0 && number(&report, "accuracy") > 0.5, "{report}");
}

#[test]
fn pose_is_nearer_than_the_mean_pose() {
    let unknown = spread(&Store::open(&PEOPLE.many).unwrap(), |sample| sample.pose.unwrap());
    let report = hog(48, "--task pose --protocol linear", &PEOPLE.many);
    // Faces that are aligned have hardly any roll.
    for (key, unknown) in ["mae_yaw", "mae_pitch"].into_iter().zip(unknown) {
        assert!(number(&report, key) < 0.9 * unknown, "{key} {unknown}: {report}");
    }
    // Trained on these people, scored on others whose pictures are all of one split.
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    synth(&other, "--identities 3 --seconds 10 --seed 9");
    let args = format!("--task pose --protocol linear --split train --test-data {}", other.display());
    let report = hog(48, &args, &PEOPLE.many);
    assert_eq!(report["n"], 30);
    assert!(number(&report, "mae_yaw") < 0.8 * unknown[0], "{report}");
    let many = failure("--descriptor hog --task pose --pose-classes --protocol linear", &PEOPLE.many);
    assert!(many.contains("distinct (yaw, pitch) pairs") && many.contains("BU-3DFE"), "{many}");
}

#[test]
fn landmarks_are_nearer_than_the_mean_face() {
    let store = Store::open(&PEOPLE.many).unwrap();
    let report = hog(64, "--task landmarks --protocol linear", &PEOPLE.many);
    let unknown = spread(&store, |sample| sample.landmarks.unwrap());
    let unknown: f64 = unknown.chunks(2).map(|axes| axes[0].hypot(axes[1])).sum::<f64>() / 68.0;
    let eyes = |i| {
        let points = store.record(i).landmarks().unwrap();
        f64::from((points[72] - points[90]).hypot(points[73] - points[91]))
    };
    let eyes = store.split(Split::Test).into_iter().map(eyes).sum::<f64>() / 120.0;
    assert_eq!((&report["points"], &report["n"]), (&68.into(), &120.into()));
    assert!(number(&report, "nme") < 0.9 * 100.0 * unknown / eyes, "{unknown} {eyes}: {report}");
    assert!(report.get("nme_challenging").is_none());
}

#[test]
fn people_are_told_apart_by_drawn_pairs_and_by_the_stores_own() {
    let report = hog(32, "--task verify --protocol linear --split train", &PEOPLE.few);
    assert_eq!((&report["pairs"], &report["split"]), (&"drawn".into(), &"train".into()));
    // 16 people in pairs; a fold has twice 16 pairs of one person, and as many of two.
    assert_eq!((&report["folds"], &report["n"]), (&8.into(), &512.into()));
    assert!(number(&report, "accuracy") > 0.6 && number(&report, "auc") > 0.6, "{report}");
    let (cosine, linear) = (number(&report, "accuracy_cosine"), number(&report, "accuracy_linear"));
    assert_eq!(number(&report, "accuracy"), cosine.max(linear));
    // A store with pairs of its own, of which two name a picture that is not there.
    let data = PEOPLE.dir.path().join("pairs");
    synth(&data, "--identities 8 --clips 2 --seconds 2");
    let person = |i: usize| format!("synth-0-{:05}", i % 8);
    let pair = |i: usize, same: bool| NamedPair {
        fold: (i % 4) as u32,
        same: u8::from(same),
        a_identity: person(i),
        a_video: "clip".to_owned(),
        b_identity: person(if same { i } else { i + 3 }),
        b_video: if i == 0 { "lost" } else { "clip-1" }.to_owned(),
    };
    let pairs: Vec<NamedPair> = (0..8).flat_map(|i| [pair(i, true), pair(i, false)]).collect();
    write_pairs(&data, &pairs).unwrap();
    let report = hog(32, "--task verify --protocol knn", &data);
    assert_eq!((&report["pairs"], &report["split"]), (&"file".into(), &"all".into()));
    assert_eq!((&report["n"], &report["missing"], &report["folds"]), (&14.into(), &2.into(), &4.into()));
    assert!(report.get("accuracy_linear").is_none());
}

#[test]
fn neighbours_share_more_than_random_pictures_do() {
    let report = hog(64, "--task retrieval --protocol knn --split train", &PEOPLE.many);
    let chance = &report["chance"];
    assert_eq!((&report["n"], &report["identities"]), (&960.into(), &24.into()));
    for key in ["precision_at_1", "precision_at_5", "precision_at_10"] {
        assert!(number(&report, key) > 1.1 * number(chance, key), "{key}: {report}");
    }
    for key in ["mae_valence", "mae_arousal", "mae_yaw", "mae_pitch", "mae_roll"] {
        assert!(number(&report, key) < number(chance, key), "{key}: {report}");
    }
}

#[test]
fn expressions_by_balanced_softmax_go_for_mean_recall() {
    let balanced = hog(32, "--protocol linear --class-weights balanced-softmax", &PEOPLE.many);
    assert!(number(&balanced, "mean_recall") > 0.2, "{balanced}");
    // Half of the pictures are neutral, which balance does not go for.
    let plain = hog(32, "--protocol linear", &PEOPLE.many);
    assert!(number(&plain, "accuracy") > number(&balanced, "accuracy"), "{plain} {balanced}");
}

#[test]
fn every_kind_of_encoder_is_judged_and_fine_tuned() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("c.toml");
    fs::write(&config, "epochs = 1\nbatch = 32\nhead = \"linear\"\nprecision = \"f32\"\n").unwrap();
    let random = "--json --random-init edge --side-px 32";
    for (task, key) in [("va", "ccc_mean"), ("au", "f1_mean"), ("pose", "mae_mean")] {
        let run = dir.path().join(task);
        let (config, out) = (config.display(), run.display());
        let tune = format!("{random} --task {task} --protocol finetune --config {config} --out {out}");
        let tuned = report(&tune, &PEOPLE.few);
        assert_eq!((&tuned["protocol"], &tuned["n"]), (&"finetune".into(), &16.into()));
        assert!(number(&tuned, key).is_finite(), "{tuned}");
        // What was written is an encoder that every task takes.
        let again = format!("--json --task {task} --protocol linear --checkpoint {out}");
        assert_eq!(report(&again, &PEOPLE.few)["n"], 16);
    }
    // Neighbours vote on action units; an encoder without a fixed place for each value reads larger pictures, too.
    let neighbours = report(&format!("{random} --task au --protocol knn"), &PEOPLE.few);
    assert!((0.0..=1.0).contains(&number(&neighbours, "f1_mean")), "{neighbours}");
    let run = dir.path().join("pose");
    let larger = format!("--json --task pose --protocol linear --side-px 64 --checkpoint {}", run.display());
    assert!(number(&report(&larger, &PEOPLE.few), "mae_mean").is_finite());
    let unknown = spread(&Store::open(&PEOPLE.few).unwrap(), |sample| sample.pose.unwrap())[0];
    let pose = report(&format!("{random} --task pose --protocol linear"), &PEOPLE.few);
    assert!(number(&pose, "mae_yaw") < 0.8 * unknown, "{unknown}: {pose}");
    let settings =
        "epochs = 12\nbatch = 32\nlr = 1e-3\nprecision = \"f32\"\n[augment]\ncrop_scale = [1.0, 1.0]\n";
    fs::write(&config, settings).unwrap();
    let tuned = format!("{random} --task pose --protocol finetune --config {}", config.display());
    let tuned = report(&tuned, &PEOPLE.few);
    assert!(number(&tuned, "mae_yaw") < 0.8 * unknown, "{unknown}: {tuned}");
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default");
    let of_bundle = |args: &str| format!("--json --bundle {} {args}", bundle.display());
    let shipped = report(&of_bundle("--task retrieval --protocol knn --split train"), &PEOPLE.few);
    // It has learnt what a face expresses, and which way it is turned no more than it has to.
    assert!(number(&shipped, "mae_valence") < number(&shipped["chance"], "mae_valence"), "{shipped}");
    assert!(number(&shipped, "precision_at_1") > number(&shipped["chance"], "precision_at_1"), "{shipped}");
    assert!(number(&report(&of_bundle("--task va --protocol linear"), &PEOPLE.few), "ccc_mean").is_finite());
    let shipped = report(&of_bundle("--task verify --protocol knn --split train"), &PEOPLE.few);
    assert!(number(&shipped, "auc") > 0.5, "{shipped}");
    let refused = failure(&of_bundle("--task va --protocol finetune"), &PEOPLE.few);
    assert!(refused.contains("not trained any further"), "{refused}");
}

#[test]
fn a_frozen_encoder_stays_as_it_is_while_its_head_is_trained() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("c.toml");
    fs::write(&config, "freeze = true\nepochs = 1\nbatch = 32\nhead = \"linear\"\n").unwrap();
    let (config, out) = (config.display(), dir.path().join("run"));
    let tune =
        format!("--json --random-init edge --side-px 32 --task va --protocol finetune --config {config}");
    report(&format!("{tune} --out {}", out.display()), &PEOPLE.few);
    let checkpoint: Checkpoint = Checkpoint::load(&out).unwrap();
    let random = Loaded::random(Backbone::Edge, 32, 0);
    for (name, tensor) in random.vs.variables() {
        let kept = checkpoint.tensor(&format!("model.{name}")).unwrap();
        assert_eq!((kept - tensor.to_device(Device::Cpu)).abs().max().double_value(&[]), 0.0, "{name}");
    }
    assert!(checkpoint.tensor("model.head.weight").unwrap().size() == [2, 256]);
    // A bundle's heads of valence and arousal are not made of it yet.
    assert!(checkpoint.meta.labels.is_empty());
}

#[test]
fn a_store_without_the_label_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("unlabelled");
    let mut writer = StoreWriter::create(&data).unwrap();
    for (i, split) in (0..).zip(Split::ALL) {
        writer.begin_video("a", &format!("{i}"));
        let jpeg = encode_jpeg(&[7; 64 * 64], 64, 64, 1, 90).unwrap();
        writer.push(&jpeg, &Sample::unlabelled(0.0, split)).unwrap();
    }
    writer.commit(Provenance::default()).unwrap();
    for (task, what) in [
        ("va", "picture with valence and arousal"),
        ("au", "picture with action units"),
        ("pose", "picture with head pose"),
        ("landmarks", "picture with landmarks"),
        ("retrieval", "picture with expression, valence and arousal, or head pose"),
        ("expression", "labelled picture"),
    ] {
        let message = failure(&format!("--descriptor hog --task {task} --protocol knn"), &data);
        assert!(message.contains("unlabelled: no ") && message.contains(what), "{message}");
        assert!(message.contains("no split has one") && message.contains("`synth`"), "{message}");
    }
    let message = failure("--descriptor hog --task verify --protocol knn", &data);
    assert!(message.contains("no pairs.csv") && message.contains("--apart-secs"), "{message}");
}

#[test]
fn options_of_other_tasks_are_refused() {
    let data = &PEOPLE.few;
    let fail = |args: &str| failure(&format!("--descriptor hog {args}"), data);
    assert!(fail("--task va --protocol linear --folds 3").contains("--folds is for --task au"));
    assert!(fail("--task va --protocol linear --pose-classes").contains("--pose-classes is for --task pose"));
    assert!(fail("--task va --protocol linear --class-weights balanced").contains("--class-weights is for"));
    assert!(
        fail("--task verify --protocol knn --test-data x")
            .contains("give the store that is scored as --data")
    );
    assert!(fail("--task va --protocol own-head").contains("own-head is for --task expression"));
    assert!(fail("--task retrieval --protocol linear").contains("by --protocol knn alone"));
    assert!(fail("--task verify --protocol finetune").contains("--task verify has linear and knn"));
    assert!(fail("--task va --protocol finetune").contains("has no weights to fine-tune"));
    assert!(fail("--task au --protocol linear --folds 21").contains("20 people with action units"));
    let landmarks = "--random-init edge --side-px 32 --task landmarks --protocol finetune";
    assert!(failure(landmarks, data).contains("would move the points"));
}

#[test]
fn few_poses_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = StoreWriter::create(dir.path()).unwrap();
    // A bright half of the picture, to one of four sides, for a pose each; the expression tells nothing.
    let poses = [[30.2, 0.0], [-30.0, 0.3], [0.0, 15.0], [0.0, -15.0f32]];
    for i in 0..48usize {
        let side = i % 4;
        let bright = |x: usize, y: usize| [x < 16, x >= 16, y < 16, y >= 16][side];
        let grey: Vec<u8> = (0..32 * 32)
            .map(|p| if bright(p % 32, p / 32) { 200 } else { 40 + (p * (i + 3) % 17) as u8 })
            .collect();
        let split = [Split::Train, Split::Train, Split::Val, Split::Test][i / 12];
        writer.begin_video(&format!("p{i}"), "v");
        let jpeg = encode_jpeg(&grey, 32, 32, 1, 90).unwrap();
        let pose = Some([poses[side][0], poses[side][1], 1.0]);
        let expression = Some(Expression::Neutral);
        writer.push(&jpeg, &Sample { pose, expression, ..Sample::unlabelled(0.0, split) }).unwrap();
    }
    writer.commit(Provenance::default()).unwrap();
    for protocol in ["linear", "knn"] {
        let report = report(
            &format!("--json --descriptor hog --side-px 32 --task pose --pose-classes --protocol {protocol}"),
            dir.path(),
        );
        assert_eq!(report["classes"].as_array().unwrap().len(), 4);
        assert!(number(&report, "accuracy") > 0.9, "{report}");
    }
}
