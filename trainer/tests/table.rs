//! `trainer table` on synthetic people: every row is trained and judged once, and an interrupted table goes on.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn trainer(args: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    command.env("OMP_NUM_THREADS", "1").args(args);
    for (flag, path) in paths {
        command.arg(flag).arg(path);
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_table_has_every_row_and_is_not_trained_twice() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (people, others, out, settings) = (at("people"), at("others"), at("out"), at("tiny.toml"));
    let synth = |args: &str, out: &Path| {
        let args: Vec<&str> = "synth --side-px 48".split(' ').chain(args.split(' ')).collect();
        assert!(trainer(&args, &[("--out", out)]).status.success());
    };
    synth("--identities 4 --seconds 8 --fps 2", &people);
    synth("--identities 40 --clips 2 --seconds 2 --fps 2 --seed 1", &others);
    fs::write(&settings, "epochs = 1\nbatch = 16\ncosine_from_epoch = 0\n").unwrap();
    let table = |more: &[&str]| {
        let args: Vec<&str> = ["table", "sslfer-4"].into_iter().chain(more.iter().copied()).collect();
        let paths = [("--data", &*people), ("--probe", &*others), ("--out", &*out), ("--config", &*settings)];
        trainer(&args, &paths)
    };
    // A process that has the other part of the runs.
    let first = table(&["--seeds", "2", "--shard", "1/2", "--json"]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let half: Value = serde_json::from_slice(&first.stdout).unwrap();
    let done = |sheet: &Value| -> u64 {
        sheet["rows"].as_array().unwrap().iter().map(|row| row["seeds"].as_u64().unwrap()).sum()
    };
    assert!(done(&half) < 6, "{half}");
    let whole = table(&["--seeds", "2", "--json"]);
    assert!(whole.status.success(), "{}", text(&whole.stderr));
    let sheet: Value = serde_json::from_slice(&whole.stdout).unwrap();
    assert_eq!(done(&sheet), 6, "random weights and two rows, two seeds each");
    let names: Vec<&str> =
        sheet["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["random weights, edge", "MaskFN(1)", "MaskFN(2)"]);
    let row = &sheet["rows"][1];
    assert_eq!(row["published"][0], 59.3);
    for (measure, spread) in row["ours"].as_object().unwrap() {
        assert!(spread["mean"].as_f64().unwrap().is_finite(), "{measure}");
    }
    assert_eq!(row["ours"].as_object().unwrap().len(), 9);
    assert!(sheet["orders"][0].as_str().unwrap().contains("rank correlation"));
    let trained = fs::metadata(out.join("sslfer-small-table4-1-0/checkpoint.safetensors")).unwrap();
    let again = table(&["--seeds", "2"]);
    let markdown = text(&again.stdout);
    assert!(markdown.contains("| MaskFN(1) |") && markdown.contains("| 0.595 |"), "{markdown}");
    assert_eq!(fs::read_to_string(out.join("sslfer-4.md")).unwrap().trim(), markdown.trim());
    let same = fs::metadata(out.join("sslfer-small-table4-1-0/checkpoint.safetensors")).unwrap();
    assert_eq!(trained.modified().unwrap(), same.modified().unwrap());
    // Other settings or other people would be another table.
    fs::write(&settings, "epochs = 2\nbatch = 16\ncosine_from_epoch = 0\n").unwrap();
    let other = table(&["--seeds", "2"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stderr).contains("epochs = 1, not 2"), "{}", text(&other.stderr));
    fs::write(&settings, "epochs = 1\nbatch = 16\ncosine_from_epoch = 0\n").unwrap();
    let with = |data: &Path, probe: &Path| {
        let paths = [("--data", data), ("--probe", probe), ("--out", &*out), ("--config", &*settings)];
        let output = trainer(&["table", "sslfer-4", "--seeds", "2"], &paths);
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    };
    let elsewhere = at("elsewhere");
    synth("--identities 4 --seconds 8 --fps 2 --seed 9", &elsewhere);
    assert!(with(&elsewhere, &others).contains("trained on other stores"));
    assert!(with(&others, &others).contains("is what is trained on"));
    let wrong = trainer(&["table", "pcl-9"], &[("--data", &people), ("--probe", &others), ("--out", &out)]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("pcl-5"), "{}", text(&wrong.stderr));
}
