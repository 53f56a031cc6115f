//! The `trainer` program: finder and landmark network from labelled pictures to a bundle, and lists that are wrong.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use semblance_face::landmarks::{face_box, five_points};
use semblance_synth::{ClipSource, RenderOptions};

fn trainer(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trainer")).args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The last line of a run that failed with exit 1.
fn failure(args: &[&str]) -> String {
    let output = trainer(args);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    stderr(&output).trim_end().lines().last().unwrap_or_default().to_owned()
}

/// Pictures of synthetic people with a list for the finder and one for the landmark network.
fn write_faces(dir: &Path, people: u64) {
    let mut finder = String::from("picture,source,identity,score,x,y,w,h");
    (0..5).for_each(|i| write!(finder, ",x{i},y{i}").unwrap());
    let mut landmarks = String::from("image,identity");
    (0..68).for_each(|i| write!(landmarks, ",x{i},y{i}").unwrap());
    for person in 0..people {
        let (frame, labels) =
            ClipSource::new(4, person, RenderOptions::crop(96)).unwrap().next_frame().unwrap();
        let name = format!("{person}.png");
        image::save_buffer(dir.join(&name), frame.rgb(), 96, 96, image::ColorType::Rgb8).unwrap();
        let b = face_box(&labels.landmarks);
        write!(finder, "\n{name},drawn,person{person},1,{},{},{},{}", b.x, b.y, b.w, b.h).unwrap();
        five_points(&labels.landmarks).iter().for_each(|p| write!(finder, ",{},{}", p.x, p.y).unwrap());
        write!(landmarks, "\n{name},person{person}").unwrap();
        labels.landmarks.iter().for_each(|p| write!(landmarks, ",{},{}", p.x, p.y).unwrap());
    }
    fs::write(dir.join("faces.csv"), finder + "\n").unwrap();
    fs::write(dir.join("landmarks.csv"), landmarks + "\n").unwrap();
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn shipped_bundle() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default")
}

#[test]
fn both_networks_go_from_pictures_into_a_bundle() {
    let dir = tempfile::tempdir().unwrap();
    write_faces(dir.path(), 14);
    let (faces, csv) = (text(dir.path()), text(&dir.path().join("landmarks.csv")));
    let (finder, landmarks) = (text(&dir.path().join("finder")), text(&dir.path().join("landmarks")));
    let short = ["--steps", "3", "--batch", "8"];
    let finder_args =
        [&["finder", "--faces", &faces, "--out", &finder, "--synth", "8", "--empty", "4"], &short[..]]
            .concat();
    let output = trainer(&finder_args);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(failure(&finder_args).contains("--resume"), "a run is not overwritten");
    let done = trainer(&[&finder_args[..], &["--resume"]].concat());
    assert!(done.status.success(), "{}", stderr(&done));
    let other = failure(&[&finder_args[..], &["--resume", "--seed", "5"]].concat());
    assert!(other.contains("other settings"), "{other}");
    let landmark_args = [
        &["landmarks", "--landmarks", &csv, "--pictures", &faces, "--out", &landmarks, "--synth", "8"],
        &short[..],
    ]
    .concat();
    let output = trainer(&landmark_args);
    assert!(output.status.success(), "{}", stderr(&output));

    let bundle = dir.path().join("bundle");
    fs::create_dir(&bundle).unwrap();
    for file in fs::read_dir(shipped_bundle()).unwrap() {
        let path = file.unwrap().path();
        fs::copy(&path, bundle.join(path.file_name().unwrap())).unwrap();
    }
    let bundle = text(&bundle);
    assert!(
        failure(&["export", "--finder", &landmarks, "--out", &bundle])
            .contains("of landmarks, not of finder")
    );
    let output = trainer(&["export", "--finder", &finder, "--landmarks", &landmarks, "--out", &bundle]);
    assert!(output.status.success(), "{}", stderr(&output));
    let output = trainer(&[
        "faces",
        "--bundle",
        &bundle,
        "--faces",
        &faces,
        "--landmarks",
        &csv,
        "--pictures",
        &faces,
        "--synth",
        "4",
        "--empty",
        "2",
        "--json",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // A network of three steps sees nothing, but every picture was searched.
    assert_eq!(report["task"], "faces");
    let pictures = report["all"]["pictures"].as_u64().unwrap();
    assert!((1..14).contains(&pictures), "{pictures} of 14 people are kept for validation");
    assert_eq!(report["sources"]["drawn"]["pictures"], pictures);
    assert!(report["false_alarms"].as_f64().is_some());
}

#[test]
fn the_shipped_networks_see_synthetic_people() {
    let output =
        trainer(&["faces", "--bundle", &text(&shipped_bundle()), "--synth", "96", "--empty", "30", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |group: &str, name: &str| report[group][name].as_f64().unwrap();
    assert!(of("landmarks_synth", "nme") < 0.05 && of("landmarks_synth", "missed") <= 5.0, "{report}");
    assert!(of("pose_synth", "mae_yaw") < 5.0 && of("pose_synth", "mae_pitch") < 5.0, "{report}");
    assert!(of("pose_synth", "mae_roll") < 4.0, "{report}");
    assert!(report["false_alarms"].as_f64().unwrap() <= 0.07, "{report}");
}

#[test]
fn lists_that_are_wrong_are_named_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    write_faces(dir.path(), 3);
    let list = dir.path().join("faces.csv");
    let good = fs::read_to_string(&list).unwrap();
    let out = text(&dir.path().join("run"));
    let run =
        || failure(&["finder", "--faces", &text(dir.path()), "--out", &out, "--synth", "0", "--empty", "0"]);
    let row = good.lines().nth(1).unwrap().to_owned();
    let cells: Vec<&str> = row.split(',').collect();
    let with = |column: usize, value: &str| {
        let mut cells = cells.clone();
        cells[column] = value;
        good.replace(&row, &cells.join(","))
    };
    for (content, expected) in [
        (with(4, "NaN"), "line 2"),
        (with(6, "-3"), "a box of -3"),
        (with(9, "left"), "'left' is not a number"),
        (good.replace("score", "sure"), "no column 'score'"),
        (good.lines().next().unwrap().to_owned() + "\n", "lists no picture"),
    ] {
        fs::write(&list, content).unwrap();
        let message = run();
        assert!(message.contains("faces.csv") && message.contains(expected), "{message}");
    }
    fs::remove_file(&list).unwrap();
    assert!(run().contains("faces.csv"));

    let csv = dir.path().join("landmarks.csv");
    let good = fs::read_to_string(&csv).unwrap();
    fs::write(&csv, good.replacen("x3", "q3", 1)).unwrap();
    let pictures = text(dir.path());
    let message = failure(&["landmarks", "--landmarks", &text(&csv), "--pictures", &pictures, "--out", &out]);
    assert!(message.contains("no column 'x3'"), "{message}");
}
