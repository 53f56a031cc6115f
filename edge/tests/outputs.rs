//! Files as outputs, what becomes of a run where one fails, and `edge check`.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn shipped_bundle() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default")
}

fn edge(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge"));
    command
        .args(args)
        .env("SEMBLANCE_BUNDLE", shipped_bundle())
        .env("SEMBLANCE_HTTP", "off")
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn csv_tells_what_json_tells() {
    let dir = tempfile::tempdir().unwrap();
    let (csv, jsonl) = (dir.path().join("out.csv"), dir.path().join("out.jsonl"));
    let output = edge(&[
        "run",
        "--source",
        "demo",
        "--max-frames",
        "40",
        "--landmarks",
        "--out",
        &format!("csv:{}", csv.display()),
        "--out",
        &format!("jsonl:{}", jsonl.display()),
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let mut faces: BTreeMap<u64, Value> = BTreeMap::new();
    for object in json_lines(&fs::read_to_string(&jsonl).unwrap()) {
        faces.insert(object["frame"].as_u64().unwrap(), object);
    }
    assert!(faces.len() >= 36);
    let mut reader = csv::Reader::from_path(&csv).unwrap();
    let header: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    // As OpenFace 2.2 has them, without what only a camera that is known gives.
    assert_eq!(
        header[..8],
        ["frame", "face_id", "timestamp", "confidence", "success", "pose_Rx", "pose_Ry", "pose_Rz"]
    );
    assert_eq!((header[8].as_str(), header[143].as_str()), ("x_0", "y_67"));
    let mut rows = 0;
    for row in reader.deserialize::<BTreeMap<String, String>>() {
        let row = row.unwrap();
        let number = |column: &str| row[column].parse::<f64>().unwrap();
        rows += 1;
        let Some(face) = faces.remove(&(number("frame") as u64 - 1)) else {
            assert_eq!((row["face_id"].as_str(), row["success"].as_str()), ("0", "0"));
            continue;
        };
        let close = |column: &str, expected: &Value, tolerance: f64| {
            let (got, expected) = (number(column), expected.as_f64().unwrap());
            assert!((got - expected).abs() <= tolerance, "{column}: {got}, in JSON {expected}");
        };
        close("face_id", &face["track"], 0.0);
        close("timestamp", &face["t"], 0.0005001);
        close("confidence", &face["score"], 0.0005001);
        for (i, column) in ["box_x", "box_y", "box_w", "box_h"].iter().enumerate() {
            close(column, &face["box"][i], 0.05001);
        }
        assert_eq!(row["expression"], face["expression"]["label"].as_str().unwrap());
        for (label, p) in face["expression"]["p"].as_object().unwrap() {
            close(&format!("p_{label}"), p, 0.000_050_01);
        }
        assert_eq!(row["success"] == "1", face.get("pose").is_some());
        if let Some(pose) = face.get("pose") {
            let degrees = |angle: &str| pose[angle].as_f64().unwrap();
            // About one axis the signs alone differ; about several the angles of another order do, by little when small.
            for (column, expected) in
                [("pose_Rx", -degrees("pitch")), ("pose_Ry", -degrees("yaw")), ("pose_Rz", degrees("roll"))]
            {
                assert!((number(column).to_degrees() - expected).abs() < 6.0, "{column}: {pose}");
            }
            for i in [0, 30, 67] {
                close(&format!("x_{i}"), &face["landmarks"][i][0], 0.05001);
                close(&format!("y_{i}"), &face["landmarks"][i][1], 0.05001);
            }
        }
    }
    assert_eq!(rows, 40, "a row a frame");
    assert!(faces.is_empty(), "{faces:?}");
}

#[test]
fn a_recording_holds_what_predictions_were_made_of() {
    let dir = tempfile::tempdir().unwrap();
    let record = dir.path().join("demo.record");
    let output =
        edge(&["run", "--source", "demo", "--max-frames", "20", "--record", record.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let told = json_lines(&String::from_utf8(output.stdout).unwrap());
    let rows = json_lines(&fs::read_to_string(&record).unwrap());
    assert!(told.len() == rows.len() && rows.len() >= 15, "{} {}", told.len(), rows.len());
    let heads = semblance_calib::Heads::from_safetensors(
        &fs::read(shipped_bundle().join("heads.safetensors")).unwrap(),
    );
    let heads = heads.unwrap();
    for (told, row) in told.iter().zip(&rows) {
        let mut rest = row.clone();
        let embedding = rest.as_object_mut().unwrap().remove("embedding").unwrap();
        assert_eq!(&rest, told, "the rest is the prediction");
        // The shipped head makes the prediction of the embedding, to the last bit.
        let embedding: Vec<f32> = serde_json::from_value(embedding).unwrap();
        let again = semblance_edge::pipeline::read_heads(&heads, &embedding);
        let p = serde_json::to_string(&again.expression.unwrap()).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&p).unwrap(), told["expression"]);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&record).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn csv_goes_to_standard_output_and_two_outputs_do_not() {
    let output = edge(&["run", "--source", "demo", "--max-frames", "3", "--out", "csv"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("frame,face_id,timestamp,confidence,success,"), "{text}");
    assert_eq!(text.lines().count(), 4);
    let both = edge(&["run", "--source", "demo", "--max-frames", "3", "--out", "csv", "--out", "jsonl"]);
    assert_eq!(both.status.code(), Some(2));
    assert!(stderr(&both).contains("standard output"), "{}", stderr(&both));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_named_and_leaves_other_outputs_alone() {
    for format in ["jsonl", "csv"] {
        let full = format!("{format}:/dev/full");
        // Alone, it ends an endless run.
        let alone = edge(&["run", "--source", "demo", "--out", &full]);
        assert_eq!(alone.status.code(), Some(1));
        let last = stderr(&alone);
        assert!(last.contains("edge: /dev/full: No space left"), "{last}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.jsonl");
    let to = format!("jsonl:{}", file.display());
    let output =
        edge(&["run", "--source", "demo", "--max-frames", "60", "--out", "jsonl:/dev/full", "--out", &to]);
    let message = stderr(&output);
    assert!(message.contains("60 frames") && message.contains("nothing more is written there"), "{message}");
    // Not everything that was asked for was done.
    assert_eq!(output.status.code(), Some(1));
    let objects = json_lines(&fs::read_to_string(&file).unwrap());
    assert!(
        objects.len() >= 54 && objects.last().unwrap()["frame"].as_u64() >= Some(55),
        "{}",
        objects.len()
    );
}

#[test]
fn check_finds_the_shipped_bundle_fit_and_gives_remedies() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().to_str().unwrap();
    let output = edge(&["check", "--state-dir", state]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for name in ["bundle", "heads", "models", "ffmpeg", "source", "state", "clock", "memory", "heat"] {
        assert!(text.lines().any(|line| line[6..].starts_with(name)), "{name}: {text}");
    }
    assert!(text.contains("a drawn face was found"), "{text}");
    for line in text.lines() {
        assert!(line.starts_with("ok ") || (line.starts_with("warn ") && line.contains("; ")), "{line}");
    }
    let out = format!("csv:{}", dir.path().join("missing/out.csv").display());
    let output = edge(&["check", "--state-dir", state, "--json", "--out", &out]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["ok"]), (Some(1), &Value::Bool(false)));
    for finding in report["checks"].as_array().unwrap() {
        assert_eq!(finding["level"] == "ok", finding.get("remedy").is_none(), "{finding}");
        assert_eq!(finding["level"] == "fail", finding["name"] == "output", "{finding}");
    }
    // What a run's file asks for is looked at.
    let config = dir.path().join("edge.toml");
    fs::write(&config, "source = \"/no/such.mp4\"\nmax_fps = 3\n").unwrap();
    let output = edge(&["check", "--state-dir", state, "--config", config.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.lines().any(|line| line.starts_with("FAIL  source") && line.contains("/no/such.mp4")),
        "{text}"
    );
}

#[test]
fn check_names_the_file_with_a_flipped_byte() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("bundle");
    for file in ["encoder.onnx", "heads.safetensors", "landmarks.onnx", "finder.onnx"] {
        let _ = fs::remove_dir_all(&bundle);
        fs::create_dir(&bundle).unwrap();
        for entry in fs::read_dir(shipped_bundle()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, bundle.join(path.file_name().unwrap())).unwrap();
        }
        let path = bundle.join(file);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        let output = edge(&[
            "check",
            "--bundle",
            bundle.to_str().unwrap(),
            "--state-dir",
            dir.path().to_str().unwrap(),
        ]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        let line = text.lines().find(|line| line.starts_with("FAIL")).unwrap();
        assert!(line.contains(file) && line.contains("sha256") && line.contains("; "), "{line}");
    }
    let output = edge(&["check", "--bundle", "nowhere", "--state-dir", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
}
