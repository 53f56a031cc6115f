//! `trainer inspect`: the numbers are the store's, and the sheet shows its pictures.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use clap::Parser;
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, Rgb};
use semblance_face::labels::Expression;
use semblance_trainer::inspect::{InspectArgs, Summary, run};
use semblance_trainer::store::{Provenance, Sample, Split, Store, StoreWriter};
use tempfile::TempDir;

/// A picture of one grey level.
fn grey(level: u8, width: u32, height: u32) -> Vec<u8> {
    let mut jpeg = Vec::new();
    let pixels = vec![level; (width * height) as usize];
    JpegEncoder::new_with_quality(&mut jpeg, 100)
        .encode(&pixels, width, height, ExtendedColorType::L8)
        .unwrap();
    jpeg
}

/// Two people; Ann's video has three frames of rising brightness, Bob's one frame with landmarks.
fn make(dir: &Path) {
    let mut writer = StoreWriter::create(dir).unwrap();
    writer.begin_video("ann", "talk");
    for i in 0..3_u8 {
        let sample = Sample {
            expression: (i < 2).then_some(Expression::Happy),
            valence_arousal: (i == 1).then_some([0.5, -0.25]),
            ..Sample::unlabelled(f64::from(i), Split::Train)
        };
        writer.push(&grey(60 * i + 40, 96, 96), &sample).unwrap();
    }
    writer.begin_video("bob", "walk");
    let sample = Sample { landmarks: Some([0.5; 136]), ..Sample::unlabelled(0.0, Split::Test) };
    writer.push(&grey(220, 48, 24), &sample).unwrap();
    writer.commit(Provenance { layout: "frames".to_owned(), source: "made".to_owned(), skipped: 2 }).unwrap();
}

fn inspect(words: &[&str]) -> anyhow::Result<()> {
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: InspectArgs,
    }
    run(&Cli::try_parse_from([&["inspect"], words].concat())?.args)
}

#[test]
fn the_numbers_are_the_stores() {
    let dir = TempDir::new().unwrap();
    make(dir.path());
    let store = Store::open(dir.path()).unwrap();
    let summary = Summary::of(&store).unwrap();
    let json = serde_json::to_value(&summary).unwrap();
    let expected = serde_json::json!({
        "store": dir.path(),
        "format": 1,
        "frames": 4,
        "identities": 2,
        "videos": 2,
        "video_frames": [1, 3],
        "splits": {"train": 3, "test": 1},
        "labels": {"expression": 2, "valence_arousal": 1, "landmarks": 1},
        "expressions": {"happy": 2},
        "sizes": {"96x96": 3, "48x24": 1},
        "picture_bytes": (0..4).map(|i| store.record(i).jpeg().len()).sum::<usize>(),
        "provenance": [{"layout": "frames", "source": "made", "skipped": 2}],
    });
    assert_eq!(json, expected);
    let text = summary.to_string();
    for part in ["4 (train 3, test 1)", "happy 2", "made (frames), 2 skipped", "1 to 3 frames"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn the_sheet_shows_the_pictures() {
    let dir = TempDir::new().unwrap();
    let store = dir.path().join("store");
    make(&store);
    let out = dir.path().join("sheet.png");
    let data = store.to_str().unwrap();
    inspect(&["--data", data, "--sheet", out.to_str().unwrap(), "--rows", "2", "--cols", "2"]).unwrap();
    let sheet = image::open(&out).unwrap().into_rgb8();
    let tile_height = sheet.height() / 2;
    assert_eq!(sheet.width(), 2 * 96);
    // All four frames, in order; away from the middle, where Bob's landmarks are.
    for (tile, level) in [(0, 40), (1, 100), (2, 160), (3, 220)] {
        let pixel = sheet.get_pixel(tile % 2 * 96 + 20, tile / 2 * tile_height + 40);
        assert!(pixel.0.iter().all(|v| v.abs_diff(level) <= 3), "tile {tile}: {pixel:?}");
    }
    let landmark = sheet.get_pixel(96 + 48, tile_height + 48);
    assert_ne!(landmark[0], landmark[1], "a landmark in colour at the middle");
    // Bob's picture is twice as wide as high: the sheet's ground shows above it.
    assert_eq!(sheet.get_pixel(96 + 20, tile_height + 2), sheet.get_pixel(96 + 90, tile_height + 2));
    assert!(sheet.get_pixel(96 + 20, tile_height + 2)[0] < 60);
    // Captions are written below each picture.
    let caption = (96..tile_height).flat_map(|y| (0..96).map(move |x| (x, y)));
    let colours: std::collections::HashSet<Rgb<u8>> = caption.map(|(x, y)| *sheet.get_pixel(x, y)).collect();
    assert_eq!(colours.len(), 3, "ground, label and name");

    inspect(&["--data", data, "--sheet", out.to_str().unwrap(), "--split", "test"]).unwrap();
    assert_eq!(image::open(&out).unwrap().width(), 96);
    let error = inspect(&["--data", data, "--sheet", out.to_str().unwrap(), "--split", "val"]).unwrap_err();
    assert!(error.to_string().contains("no frame"), "{error}");
}

#[test]
fn check_finds_damaged_pictures() {
    let dir = TempDir::new().unwrap();
    make(dir.path());
    let data = dir.path().to_str().unwrap();
    inspect(&["--data", data, "--check"]).unwrap();
    let shard = dir.path().join("shard-00000.jpegs");
    let mut bytes = std::fs::read(&shard).unwrap();
    let at = bytes.len() - 40;
    bytes.truncate(at);
    bytes.resize(at + 40, 0xFF);
    std::fs::write(&shard, &bytes).unwrap();
    let error = inspect(&["--data", data, "--check"]).unwrap_err().to_string();
    assert!(error.contains(data) && error.contains("1 of 4"), "{error}");
    assert!(
        inspect(&["--data", "/nonexistent/store"]).unwrap_err().to_string().contains("/nonexistent/store")
    );
}
