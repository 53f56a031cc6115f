//! The `edge` program on real files, with the shipped bundle.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};
use semblance_synth::{ClipSource, RenderOptions};
use serde_json::Value;

fn shipped_bundle() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default")
}

fn edge(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge"));
    command.args(args).env("SEMBLANCE_BUNDLE", shipped_bundle()).env("SEMBLANCE_HTTP", "off");
    // SIGHUP would end it where standard input or error is a terminal.
    command.stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    edge(args).output().unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The message of a run that failed as it should: one line, exit 1.
fn failure(args: &[&str]) -> String {
    let output = run(args);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(output.stdout.is_empty());
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    message
}

/// Frames of a synthetic webcam clip of one person, as JPEGs.
fn write_clip(folder: &Path, frames: usize) {
    let mut clip = ClipSource::new(1, 1, RenderOptions::webcam()).unwrap();
    for i in 0..frames {
        let (frame, _) = clip.next_frame().unwrap();
        let file = fs::File::create(folder.join(format!("{i:04}.jpg"))).unwrap();
        JpegEncoder::new_with_quality(file, 92)
            .write_image(frame.rgb(), frame.width(), frame.height(), ExtendedColorType::Rgb8)
            .unwrap();
    }
}

fn has_ffmpeg() -> bool {
    let found = Command::new("ffmpeg").arg("-version").output().is_ok();
    if !found {
        eprintln!("skipped: the ffmpeg program is not installed");
    }
    found
}

fn assert_contract(object: &Value) {
    let p = object["expression"]["p"].as_object().unwrap();
    let sum: f64 = p.values().map(|v| v.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{object}");
    let best = p.iter().max_by(|a, b| a.1.as_f64().unwrap().total_cmp(&b.1.as_f64().unwrap())).unwrap();
    assert_eq!(object["expression"]["label"], best.0.as_str());
    assert_eq!(object["box"].as_array().unwrap().len(), 4);
    assert!((0.0..=1.0).contains(&object["score"].as_f64().unwrap()));
    for stage in ["decode", "find", "embed", "heads", "total"] {
        assert!(object["ms"][stage].as_f64().unwrap() >= 0.0, "{object}");
    }
}

#[test]
fn a_folder_gives_predictions_and_names_the_truncated_picture() {
    let dir = tempfile::tempdir().unwrap();
    write_clip(dir.path(), 12);
    let cut = dir.path().join("0007.jpg");
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let output = run(&["run", "--source", dir.path().to_str().unwrap()]);
    let messages = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{messages}");
    assert!(messages.contains("0007.jpg") && messages.contains("11 frames"), "{messages}");
    assert!(messages.contains("1 dropped"), "{messages}");
    let objects = objects(&output);
    assert!(objects.len() >= 10, "{} of 11 frames have a face", objects.len());
    for object in &objects {
        assert_contract(object);
        assert_eq!(object["track"], 1);
        assert!((object["t"].as_f64().unwrap() - object["frame"].as_f64().unwrap() / 25.0).abs() < 1e-9);
    }
}

#[test]
fn the_demo_needs_no_file_and_shows_one_person() {
    let output = run(&["run", "--source", "demo", "--max-frames", "40"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let objects = objects(&output);
    assert!(objects.len() >= 36, "{} of 40 frames have a face", objects.len());
    objects.iter().for_each(assert_contract);
    assert!(objects.iter().all(|o| o["track"] == 1));
    // What was drawn stands beside what was seen.
    for object in &objects {
        let truth = &object["truth"];
        assert!(
            truth["expression"].is_string() && truth["valence"].as_f64().unwrap().abs() <= 1.0,
            "{object}"
        );
        let error = object["pose"]["yaw"].as_f64().unwrap() - truth["pose"]["yaw"].as_f64().unwrap();
        assert!(error.abs() < 15.0, "{object}");
    }
}

#[test]
fn pose_is_given_and_landmarks_on_request() {
    let plain = run(&["run", "--source", "demo", "--max-frames", "8"]);
    let with_landmarks = run(&["run", "--source", "demo", "--max-frames", "8", "--landmarks"]);
    let (plain, with_landmarks) = (objects(&plain), objects(&with_landmarks));
    assert_eq!(plain.len(), with_landmarks.len());
    assert!(!plain.is_empty());
    for (object, full) in plain.iter().zip(&with_landmarks) {
        for angle in ["yaw", "pitch", "roll"] {
            assert!(object["pose"][angle].as_f64().unwrap().abs() < 90.0);
        }
        assert!(object.get("landmarks").is_none());
        let points = full["landmarks"].as_array().unwrap();
        assert_eq!(points.len(), 68);
        let b: Vec<f64> = full["box"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        // The nose's tip lies in the middle half of the face's box, which a head as wide as the box takes with it when it turns.
        let (x, y) = (points[30][0].as_f64().unwrap(), points[30][1].as_f64().unwrap());
        let turned = 0.5 * full["pose"]["yaw"].as_f64().unwrap().to_radians().sin();
        assert!(
            (0.25..0.75).contains(&((x - b[0]) / b[2] - turned))
                && (0.25..0.9).contains(&((y - b[1]) / b[3]))
        );
    }
}

#[test]
fn bench_prints_every_stage_as_json() {
    let output = run(&["bench", "--source", "demo", "--frames", "6", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report = objects(&output).remove(0);
    for stage in ["find", "landmarks", "align", "embed", "heads", "total"] {
        let of = |percentile: &str| report["stages"][stage][percentile].as_f64().unwrap();
        assert!(of("p50") > 0.0 && of("p50") <= of("p95") && of("p95") <= of("p99"), "{stage}: {report}");
    }
    assert!(report["fps"].as_f64().unwrap() > 0.0);
    assert_eq!(report["frames"], 6);
}

#[test]
fn pictures_without_a_face_and_of_any_size_give_no_prediction_and_too_large_ones_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (name, width, height) in [("a.png", 640, 480), ("b.png", 16, 16), ("c.png", 12_000, 40)] {
        image::RgbImage::new(width, height).save(dir.path().join(name)).unwrap();
    }
    let source = dir.path().to_string_lossy().into_owned();
    let output = run(&["run", "--source", &source]);
    assert!(output.status.success() && output.stdout.is_empty(), "{}", stderr(&output));
    let message = stderr(&output);
    assert!(message.contains("c.png") && message.contains("12000x40"), "{message}");
    let alone = dir.path().join("c.png").to_string_lossy().into_owned();
    assert!(failure(&["run", "--source", &alone]).contains("12000x40"));
}

#[test]
fn seeta_stays_as_a_choice() {
    let output = run(&["run", "--source", "demo", "--max-frames", "6", "--finder", "seeta"]);
    assert!(!objects(&output).is_empty(), "{}", stderr(&output));
    assert_eq!(run(&["run", "--source", "demo", "--finder", "other"]).status.code(), Some(2));
}

#[test]
fn max_frames_and_a_file_as_output() {
    let dir = tempfile::tempdir().unwrap();
    write_clip(dir.path(), 4);
    let out = dir.path().join("out.jsonl");
    let to = format!("jsonl:{}", out.display());
    let output = run(&["run", "--source", dir.path().to_str().unwrap(), "--max-frames", "2", "--out", &to]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_empty());
    assert!(stderr(&output).contains("2 frames"));
    let lines = fs::read_to_string(&out).unwrap();
    assert!(lines.lines().count() <= 2 && lines.lines().all(|l| serde_json::from_str::<Value>(l).is_ok()));
}

#[test]
fn a_videos_own_clock_is_kept() {
    if !has_ffmpeg() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    write_clip(dir.path(), 6);
    // Three frames a tenth of a second apart, then three half a second apart.
    let list: String = (0..6)
        .map(|i| format!("file '{:04}.jpg'\nduration {}\n", i, if i < 3 { 0.1 } else { 0.5 }))
        .collect();
    fs::write(dir.path().join("list.txt"), list).unwrap();
    let video = dir.path().join("clip.mkv");
    let made = Command::new("ffmpeg")
        .args(["-nostdin", "-loglevel", "error", "-f", "concat", "-i"])
        .arg(dir.path().join("list.txt"))
        .args(["-fps_mode", "vfr", "-c:v", "mjpeg", "-q:v", "2"])
        .arg(&video)
        .status()
        .unwrap();
    assert!(made.success());
    let output = run(&["run", "--source", video.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let objects = objects(&output);
    assert!(objects.len() >= 5);
    let expected = [0.0, 0.1, 0.2, 0.3, 0.8, 1.3];
    for object in objects {
        let (t, frame) = (object["t"].as_f64().unwrap(), object["frame"].as_u64().unwrap() as usize);
        assert!((t - expected[frame]).abs() < 0.041, "frame {frame} at {t}");
    }
}

#[test]
fn a_reader_that_leaves_ends_the_run_quietly() {
    let dir = tempfile::tempdir().unwrap();
    write_clip(dir.path(), 20);
    let mut child = edge(&["run", "--source", dir.path().to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with('{'));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn unreadable_sources_are_named_with_their_cause() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("broken.jpg"), b"\xFF\xD8 no jpeg").unwrap();
    fs::create_dir(path("empty")).unwrap();
    fs::write(path("noise.mp4"), vec![7; 5000]).unwrap();
    assert!(failure(&["run", "--source", &path("missing.mp4")]).contains("missing.mp4"));
    assert!(failure(&["run", "--source", &path("broken.jpg")]).contains("broken.jpg"));
    assert!(failure(&["run", "--source", &path("empty")]).contains("no picture"));
    if has_ffmpeg() {
        let message = failure(&["run", "--source", &path("noise.mp4")]);
        assert!(message.contains("noise.mp4") && message.contains("ffmpeg cannot read"), "{message}");
    }
    let without_ffmpeg =
        edge(&["run", "--source", &path("noise.mp4")]).env("PATH", dir.path()).output().unwrap();
    assert_eq!(without_ffmpeg.status.code(), Some(1));
    assert!(stderr(&without_ffmpeg).contains("install it"), "{}", stderr(&without_ffmpeg));
}

#[test]
fn a_bundle_with_one_flipped_bit_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("bundle");
    fs::create_dir(&bundle).unwrap();
    for entry in fs::read_dir(shipped_bundle()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, bundle.join(path.file_name().unwrap())).unwrap();
    }
    let encoder = bundle.join("encoder.onnx");
    let mut bytes = fs::read(&encoder).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&encoder, bytes).unwrap();
    let message = failure(&["run", "--source", "x.jpg", "--bundle", bundle.to_str().unwrap()]);
    assert!(message.contains("encoder.onnx") && message.contains("sha256"), "{message}");
}

#[test]
fn wrong_usage_exits_with_2_and_help_with_0() {
    for args in [
        &["run", "--size", "640"][..],
        &["run", "--source"],
        &["fly"],
        &["run", "--source", "x", "--out", "xml"],
    ] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
    let help = run(&["run", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8(help.stdout).unwrap().contains("Examples"));
}

/// Real clips of one person each: a face in at least 95 % of all frames, one id for the whole clip in at least 90 % of
/// the clips.
#[test]
fn real_clips_are_covered_and_each_person_keeps_one_id() {
    let Some(data) = std::env::var_os("SEMBLANCE_DATA") else {
        eprintln!("skipped: SEMBLANCE_DATA is not set");
        return;
    };
    if !has_ffmpeg() {
        return;
    }
    let mut clips: Vec<PathBuf> = fs::read_dir(Path::new(&data).join("video/liveportrait"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    clips.sort();
    let (mut frames, mut covered, mut steady) = (0, 0, 0);
    for clip in &clips {
        let output = run(&["run", "--source", clip.to_str().unwrap()]);
        let summary = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{summary}");
        let count: u64 = summary.split_whitespace().next().unwrap().parse().unwrap();
        let objects = objects(&output);
        objects.iter().for_each(assert_contract);
        let distinct = |key: &str| {
            let mut values: Vec<u64> = objects.iter().map(|o| o[key].as_u64().unwrap()).collect();
            values.sort_unstable();
            values.dedup();
            values
        };
        let (with_face, ids) = (distinct("frame").len() as u64, distinct("track"));
        let name = clip.file_name().unwrap().to_string_lossy();
        eprintln!("{name:>12} {with_face:>5} of {count:>5} frames with a face, ids {ids:?}");
        frames += count;
        covered += with_face;
        steady += usize::from(ids.len() == 1);
    }
    let (coverage, steadiness) = (covered as f64 / frames as f64, steady as f64 / clips.len() as f64);
    eprintln!("coverage {coverage:.4} of {frames} frames; one id in {steady} of {} clips", clips.len());
    assert!(coverage >= 0.95 && steadiness >= 0.9);
}

#[test]
fn a_slow_pipeline_computes_on_the_newest_frame() {
    let dir = tempfile::tempdir().unwrap();
    write_clip(dir.path(), 60);
    // Frames come at 30 a second and are computed at 5 a second.
    let args = ["run", "--source", dir.path().to_str().unwrap(), "--play-fps", "30", "--max-fps", "5"];
    let output = run(&args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let objects = objects(&output);
    assert!((5..=14).contains(&objects.len()), "{} of 60 frames", objects.len());
    let numbers: Vec<u64> = objects.iter().map(|o| o["frame"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] >= pair[0] + 3), "{numbers:?}");
    let mut ages: Vec<f64> = objects.iter().map(|o| o["ms"]["wait"].as_f64().unwrap()).collect();
    ages.sort_by(f64::total_cmp);
    assert!(ages[ages.len() / 2] <= 34.0, "a frame is at most one interval old: {ages:?}");
}

#[test]
fn settings_come_from_a_file_and_are_described() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("edge.toml");
    let out = dir.path().join("out.jsonl");
    let text = format!("source = \"demo\"\nmax_frames = 3\nout = [\"jsonl:{}\"]\n", out.display());
    fs::write(&file, text).unwrap();
    let output = run(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(fs::read_to_string(&out).unwrap().lines().count() <= 3);
    let described = run(&["config", "--config", file.to_str().unwrap(), "--max-frames", "9"]);
    let text = String::from_utf8(described.stdout).unwrap();
    assert!(text.contains("max_frames = 9  # flag") && text.contains("source = \"demo\"  # "), "{text}");
    assert!(text.contains("# SEMBLANCE_BUNDLE\n"), "{text}");
    fs::write(&file, "sauce = \"demo\"\n").unwrap();
    let message = failure(&["run", "--config", file.to_str().unwrap()]);
    assert!(message.contains("edge.toml") && message.contains("'sauce' is no setting"), "{message}");
}

#[test]
#[cfg(unix)]
fn sighup_reads_settings_anew_and_sigterm_ends_within_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("edge.toml"), dir.path().join("out.jsonl"));
    let settings =
        |fps: u32| format!("source = \"demo\"\nmax_fps = {fps}\nout = [\"jsonl:{}\"]\n", out.display());
    fs::write(&file, settings(20)).unwrap();
    let mut child =
        edge(&["run", "--config", file.to_str().unwrap()]).stderr(Stdio::piped()).spawn().unwrap();
    let lines = || fs::read_to_string(&out).map_or(0, |text| text.lines().count());
    let wait_until = |what: &dyn Fn() -> bool| {
        let start = std::time::Instant::now();
        while !what() {
            assert!(start.elapsed().as_secs() < 60, "it did not happen in a minute");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    };
    wait_until(&|| lines() > 2);
    // What is wrong is not used, and ends nothing.
    fs::write(&file, "max_fps = \"fast\"\n").unwrap();
    signal("-HUP");
    let before = lines();
    wait_until(&|| lines() > before + 2);
    // What cannot be opened ends nothing, either.
    fs::write(&file, "source = \"demo\"\nout = [\"jsonl:/no/such/folder/out.jsonl\"]\n").unwrap();
    signal("-HUP");
    let before = lines();
    wait_until(&|| lines() > before + 2);
    fs::write(&file, settings(10)).unwrap();
    signal("-HUP");
    let before = lines();
    wait_until(&|| lines() > before + 2);
    signal("-TERM");
    let start = std::time::Instant::now();
    let status = child.wait().unwrap();
    assert!(status.success() && start.elapsed().as_secs_f64() < 2.5, "{status}");
    let mut messages = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut messages).unwrap();
    assert!(
        messages.contains("the settings stay as they were") && messages.contains("max_fps"),
        "{messages}"
    );
    assert!(messages.contains("/no/such/folder/out.jsonl"), "{messages}");
    // Each run before a reload told its summary.
    assert_eq!(messages.matches(" fps\n").count(), 4, "{messages}");
    assert!(fs::read_to_string(&out).unwrap().lines().all(|l| serde_json::from_str::<Value>(l).is_ok()));
}

#[test]
fn the_end_of_a_recording_waits_for_a_slow_reader() {
    let dir = tempfile::tempdir().unwrap();
    write_clip(dir.path(), 60);
    // With landmarks, more than a pipe holds.
    let mut child = edge(&["run", "--source", dir.path().to_str().unwrap(), "--landmarks"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_secs(6));
    let reader = BufReader::new(child.stdout.take().unwrap());
    let frames: Vec<u64> = reader
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()["frame"].as_u64().unwrap())
        .collect();
    assert!(child.wait().unwrap().success());
    assert_eq!(frames.last(), Some(&59), "{frames:?}");
    assert!(frames.len() >= 57, "{frames:?}");
}
