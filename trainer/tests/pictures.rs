//! `trainer saliency` and `trainer report` on runs of a few steps.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn trainer(dir: &Path, args: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    command.env("OMP_NUM_THREADS", "1").current_dir(dir).args(args.split_whitespace()).output().unwrap()
}

fn done(dir: &Path, args: &str) -> String {
    let output = trainer(dir, args);
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(dir: &Path, args: &str) -> String {
    let output = trainer(dir, args);
    assert_eq!(output.status.code(), Some(1), "{args}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

fn size(path: PathBuf) -> (u32, u32) {
    image::image_dimensions(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Runs of one epoch on a few drawn people.
fn runs(dir: &Path) {
    done(dir, "synth --align --identities 20 --seconds 4 --fps 4 --side-px 48 --out people");
    fs::write(
        dir.join("tiny.toml"),
        "epochs = 1\nbatch = 16\nside_px = 32\ncosine_from_epoch = 0\n[projection]\nhidden = 16\nout = 8\n\
         [pcl]\npose_batch = 2\npose_negatives = 2\n[fabnet]\nsources = 2\n[facecycle]\nwidth = 16\nblocks = 1\n",
    )
    .unwrap();
    for (method, backbone) in [
        ("pcl", "pcl"),
        ("fabnet", "fabnet"),
        ("autoencoder", "fabnet"),
        ("simclr", "edge"),
        ("splitbrain", "splitbrain"),
        ("facecycle", "facecycle"),
    ] {
        let args = format!(
            "--method {method} --backbone {backbone} --config tiny.toml --data people --out runs/{method}-0"
        );
        done(dir, &format!("pretrain {args}"));
    }
}

#[test]
fn pictures_are_drawn_of_every_method_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    runs(dir);
    let all: String = ["pcl", "fabnet", "autoencoder", "simclr", "splitbrain", "facecycle"]
        .iter()
        .map(|m| format!(" --checkpoint runs/{m}-0"))
        .collect();
    let nothing = refused(dir, "report runs/none");
    assert!(nothing.contains("runs/none: no such folder"), "{nothing}");
    let bundle = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/default");
    let text = done(
        dir,
        &format!("saliency{all} --data people --out album --people 2 --frames 5 --bundle {bundle} --json"),
    );
    let album: Value = serde_json::from_str(&text).unwrap();
    let files: Vec<&str> =
        album["pages"].as_array().unwrap().iter().map(|p| p["file"].as_str().unwrap()).collect();
    // Both kinds of grids; neighbours and a map of each; what four methods make.
    assert_eq!(files.len(), 2 + 2 * 6 + 4, "{files:?}");
    let tile = |cols: u32, rows: u32| (cols * 96, rows * 118);
    // A split-brain encoder has no map: pictures, and two rows for each of the other five.
    assert_eq!(size(dir.join("album/people.png")), tile(2, 11));
    assert_eq!(size(dir.join("album/time.png")), tile(5, 11));
    // Target, put together, and of two sources each the picture and its share.
    assert_eq!(size(dir.join("album/fabnet-0-method.png")), tile(6, 2));
    assert_eq!(size(dir.join("album/pcl-0-method.png")), tile(6, 2));
    assert_eq!(size(dir.join("album/autoencoder-0-method.png")), tile(2, 2));
    // Picture, neutral, neutral and warped, and from the other.
    assert_eq!(size(dir.join("album/facecycle-0-method.png")), tile(4, 2));
    assert_eq!(size(dir.join("album/simclr-0-neighbours.png")).1, tile(1, 2).1);
    let map = fs::read_to_string(dir.join("album/simclr-0-map.svg")).unwrap();
    assert!(map.contains("by person") && map.contains("neutral"));
    let turned = &album["turned"]["pcl-0"];
    let counted = turned["n"].as_u64().unwrap() + turned["without_face"].as_u64().unwrap();
    assert_eq!(counted, 32, "every test picture: {turned}");
    let copied = &album["copied"]["fabnet-0"];
    assert_eq!(copied["n"], 32, "{copied}");
    assert!(
        copied["reconstruction"].as_f64().unwrap() > 0.0
            && copied["copying_the_source"].as_f64().unwrap() > 0.0
    );
    // One kind alone, and the same people again.
    done(dir, "saliency --checkpoint runs/pcl-0 --data people --out again --people 2 --frames 5 --only cam");
    assert_eq!(fs::read_dir(dir.join("again")).unwrap().count(), 3);
    let first_row =
        |path: &str| image::open(dir.join(path)).unwrap().to_rgb8().into_raw()[..192 * 96 * 3].to_vec();
    assert!(first_row("album/people.png") == first_row("again/people.png"));
    // A run that was fine-tuned is asked by its own head.
    fs::write(dir.join("tune.toml"), "epochs = 1\nbatch = 32\nhead = \"linear\"\n").unwrap();
    done(
        dir,
        "eval --task expression --protocol finetune --checkpoint runs/simclr-0 --data people --config tune.toml --out runs/tuned",
    );
    let text =
        done(dir, "saliency --checkpoint runs/tuned --data people --out again --people 1 --only cam --json");
    let again: Value = serde_json::from_str(&text).unwrap();
    assert!(again["pages"][0]["about"].as_str().unwrap().contains("own head"), "{again}");
    assert_eq!(
        (again["commands"].as_array().unwrap().len(), again["runs"].as_object().unwrap().len()),
        (2, 2)
    );
    // One who is alone and shows nothing that is known, by how far the picture is from the others.
    fs::create_dir_all(dir.join("faces/ada/talk")).unwrap();
    for (i, name) in ["people", "time", "pcl-0-method"].into_iter().enumerate() {
        fs::copy(dir.join(format!("album/{name}.png")), dir.join(format!("faces/ada/talk/{i}.png"))).unwrap();
    }
    done(dir, "prepare --layout frames --src faces --val-share 0 --out alone");
    let one = "--checkpoint runs/simclr-0 --data alone --split train --out alone-seen --only cam --people 1";
    assert!(done(dir, &format!("saliency {one}")).contains("the split's mean"));
    let seen = image::open(dir.join("alone-seen/people.png")).unwrap().to_rgb8();
    // A map of nothing would leave half of each colour and add blue.
    assert!(seen.enumerate_pixels().any(|(_, y, p)| (118..118 + 96).contains(&y) && p.0[0] > 128));
    let error = refused(dir, "saliency --checkpoint runs/none --data people --out x");
    assert!(error.contains("runs/none"), "{error}");

    fs::write(
        dir.join("runs/eval.json"),
        done(dir, "eval --task order --protocol knn --checkpoint runs/simclr-0 --data people --json"),
    )
    .unwrap();
    // What is cut off, damaged or something else stands in nobody's way.
    fs::create_dir(dir.join("runs/broken")).unwrap();
    fs::write(dir.join("runs/broken/checkpoint.safetensors"), b"cut off").unwrap();
    fs::write(dir.join("runs/other.json"), b"{ not json").unwrap();
    let out = done(dir, "report runs album --title Ours --out told");
    assert_eq!(out.trim(), "told/report.html");
    let html = fs::read_to_string(dir.join("told/report.html")).unwrap();
    let markdown = fs::read_to_string(dir.join("told/report.md")).unwrap();
    assert!(html.contains("<title>Ours</title>") && !html.contains("src=\"pictures/"));
    assert_eq!(html.matches("src=\"data:image/").count(), markdown.matches("](pictures/").count());
    for told in ["trainer pretrain --method pcl", "spearman", "runs/broken/checkpoint.safetensors", "yaw of"]
    {
        assert!(markdown.contains(told), "{told}: {markdown}");
    }
    let checkpoint = fs::read(dir.join("runs/simclr-0/checkpoint.safetensors")).unwrap();
    let hash: String =
        <sha2::Sha256 as sha2::Digest>::digest(checkpoint).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(markdown.contains(&hash));
    for (_, path) in markdown.match_indices("](pictures/").map(|(at, _)| (at, &markdown[at + 2..])) {
        let path = path.split(')').next().unwrap();
        assert!(dir.join("told").join(path).is_file(), "{path}");
    }
    fs::create_dir(dir.join("empty")).unwrap();
    assert!(refused(dir, "report empty").contains("no run, table, picture or evaluation"));
}
