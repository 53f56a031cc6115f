//! The `edge` program on standard input and on cameras that are not there.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};
use semblance_synth::{ClipSource, RenderOptions};
use serde_json::Value;

fn edge(args: &[&str], input: Vec<u8>) -> Output {
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default");
    let mut child = Command::new(env!("CARGO_BIN_EXE_edge"))
        .args(args)
        .env("SEMBLANCE_BUNDLE", bundle)
        .env("SEMBLANCE_HTTP", "off")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        // Slowly, as a camera: every frame is to be computed on.
        for part in input.chunks(input.len().div_ceil(5).max(1)) {
            if stdin.write_all(part).is_err() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(400));
        }
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn clip() -> impl Iterator<Item = semblance_face::Frame> {
    let mut clip = ClipSource::new(1, 1, RenderOptions::webcam()).unwrap();
    std::iter::from_fn(move || Some(clip.next_frame().unwrap().0))
}

fn faces(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn motion_jpeg_and_raw_pixels_from_a_pipe_give_the_same_face() {
    let (mut jpegs, mut grey) = (Vec::new(), Vec::new());
    for frame in clip().take(5) {
        JpegEncoder::new_with_quality(&mut jpegs, 92)
            .write_image(frame.rgb(), frame.width(), frame.height(), ExtendedColorType::Rgb8)
            .unwrap();
        let mut luma = Vec::new();
        frame.luma_into(&mut luma);
        grey.extend(luma);
    }
    let jpeg = faces(&edge(&["run", "--source", "-"], jpegs));
    let raw = faces(&edge(&["run", "--source", "-", "--format", "grey", "--size", "640x480"], grey));
    assert!(!jpeg.is_empty() && !raw.is_empty());
    let [a, b] = [&jpeg[0], &raw[0]].map(|face| {
        assert_eq!(face["frame"], 0);
        face["box"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<f64>>()
    });
    let overlap = |i: usize| (a[i] + a[i + 2]).min(b[i] + b[i + 2]) - a[i].max(b[i]);
    let both = overlap(0).max(0.0) * overlap(1).max(0.0);
    let share = both / (a[2] * a[3] + b[2] * b[3] - both);
    assert!(share > 0.8, "{a:?} {b:?}");
}

#[test]
fn what_cannot_be_captured_is_told_in_one_line() {
    for (args, words) in [
        (&["run", "--source", "/dev/video99"][..], &["/dev/video99", "edge cameras"][..]),
        (&["run", "--source", "-", "--format", "yuyv"], &["--size"]),
        (&["run", "--source", "-"], &["standard input", "JPEG"]),
        (&["run", "--source", "nokhwa:x"], &["nokhwa"]),
    ] {
        let output = edge(args, b"nothing".to_vec());
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        let lines: Vec<&str> = message.lines().filter(|line| line.starts_with("edge: ")).collect();
        assert!(lines.len() == 1 && words.iter().all(|word| lines[0].contains(word)), "{message}");
    }
}

#[test]
fn cameras_are_listed_as_json() {
    let output = edge(&["cameras", "--json"], Vec::new());
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success() && listed["cameras"].is_array());
}
