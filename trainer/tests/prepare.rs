//! `trainer prepare`: data sets in their publishers' layouts, written here in small, become the stores they should.

#![allow(clippy::unwrap_used)]

mod npz;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::Parser;
use image::{GrayImage, Luma, Rgb, RgbImage};
use npz::{npz, write_array};
use semblance_face::labels::Expression;
use semblance_trainer::prepare::PrepareArgs;
use semblance_trainer::store::{Split, Store};
use tempfile::TempDir;

/// `trainer prepare` with these words.
fn prepare(words: &[&str]) -> anyhow::Result<()> {
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: PrepareArgs,
    }
    let args = Cli::try_parse_from([&["prepare"], words].concat())?.args;
    semblance_trainer::prepare::prepare(&args, &AtomicBool::new(false))
}

/// Reads `src` into a store below `dir`.
fn prepared(dir: &Path, layout: &str, src: &Path, more: &[&str]) -> anyhow::Result<Store> {
    let out = dir.join("store");
    let words = ["--layout", layout, "--src", src.to_str().unwrap(), "--out", out.to_str().unwrap()];
    prepare(&[&words, more].concat())?;
    Ok(Store::open(&out)?)
}

/// The error's one line.
fn message<T>(result: anyhow::Result<T>) -> String {
    let text = format!("{:#}", result.err().unwrap());
    assert!(!text.contains('\n'), "{text}");
    text
}

/// Row `i`'s picture: a ramp of its own brightness.
fn pixels(i: usize) -> Vec<u8> {
    (0..48 * 48).map(|p| (p % 48 * 3 + i * 10) as u8).collect()
}

/// FER2013's label, usage and our names for them, a row each.
const ROWS: [(u8, &str, Expression, Split); 7] = [
    (0, "Training", Expression::Angry, Split::Train),
    (1, "Training", Expression::Disgust, Split::Train),
    (2, "PublicTest", Expression::Fear, Split::Val),
    (3, "PrivateTest", Expression::Happy, Split::Test),
    (4, "Training", Expression::Sad, Split::Train),
    (5, "PrivateTest", Expression::Surprise, Split::Test),
    (6, "Training", Expression::Neutral, Split::Train),
];

/// Kaggle's file; `icml_face_data.csv` has its columns in another order and blanks in its header.
fn write_csv(path: &Path, icml: bool) {
    let mut file = fs::File::create(path).unwrap();
    let header = if icml { "emotion, Usage, pixels" } else { "emotion,pixels,Usage" };
    writeln!(file, "{header}").unwrap();
    for (i, (label, usage, ..)) in ROWS.iter().enumerate() {
        let pixels = pixels(i).iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
        match icml {
            true => writeln!(file, "{label},{usage},{pixels}").unwrap(),
            false => writeln!(file, "{label},{pixels},{usage}").unwrap(),
        }
    }
}

/// An .npz with these u8 arrays.
fn write_npz(path: &Path, arrays: &[(&str, &[u64], &[u8])]) {
    let mut npz = npz(path);
    for (name, shape, values) in arrays {
        write_array(&mut npz, name, shape, values.iter().copied());
    }
}

/// The seven rows as an .npz, without the array `but`.
fn write_rows_npz(path: &Path, but: &str) {
    let images: Vec<u8> = (0..7).flat_map(pixels).collect();
    let labels: Vec<u8> = ROWS.iter().map(|r| r.0).collect();
    let usage: Vec<u8> = ROWS.iter().map(|r| r.3 as u8).collect();
    // Row i has i votes for fear, one for contempt and two for "unknown"; row 0 none for an expression.
    let votes: Vec<u8> = (0..7).flat_map(|i| [0, 0, 0, 0, 0, 0, i, u8::from(i > 0), 2, 0]).collect();
    let arrays: [(&str, &[u64], &[u8]); 4] = [
        ("images", &[7, 48, 48], &images),
        ("labels", &[7], &labels),
        ("usage", &[7], &usage),
        ("ferplus_votes", &[7, 10], &votes),
    ];
    write_npz(path, &arrays.into_iter().filter(|a| a.0 != but).collect::<Vec<_>>());
}

fn check_fer2013(store: &Store) {
    assert_eq!(store.len(), 7);
    for (i, (.., expression, split)) in ROWS.iter().enumerate() {
        let record = store.record(i);
        assert_eq!((record.expression(), record.split()), (Some(*expression), *split));
        let frame = record.decode().unwrap();
        assert_eq!((frame.width(), frame.height()), (48, 48));
        for (stored, pixel) in frame.rgb().chunks_exact(3).zip(pixels(i)) {
            assert!(stored.iter().all(|v| v.abs_diff(pixel) <= 8), "{stored:?} for {pixel}");
        }
        // One component: a grey JPEG.
        assert_eq!(components(record.jpeg()), 1);
    }
    // No two pictures may pass for moments of one video.
    assert!(store.header().videos.iter().all(|v| v.frames == 1));
}

/// The number of a baseline JPEG's components, from its frame header (ITU-T T.81, B.2.2).
fn components(jpeg: &[u8]) -> u8 {
    let mut at = 2;
    while jpeg[at + 1] != 0xC0 {
        at += 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
    }
    jpeg[at + 9]
}

#[test]
fn fer2013_as_kaggle_has_it() {
    for icml in [false, true] {
        let dir = TempDir::new().unwrap();
        let csv = dir.path().join("fer2013.csv");
        write_csv(&csv, icml);
        let store = prepared(dir.path(), "fer2013", &csv, &[]).unwrap();
        check_fer2013(&store);
        assert!(!store.has_votes());
    }
}

#[test]
fn fer2013_as_npz_with_votes() {
    let dir = TempDir::new().unwrap();
    let npz = dir.path().join("fer2013.npz");
    write_rows_npz(&npz, "");
    let store = prepared(dir.path(), "fer2013", &npz, &[]).unwrap();
    check_fer2013(&store);
    assert_eq!(store.record(0).votes(), None);
    for i in 1..7 {
        let votes = store.record(i).votes().unwrap();
        let fear = i as f32 / (i + 1) as f32;
        assert!((votes[Expression::Fear.index()] - fear).abs() < 1e-6);
        assert!((votes[Expression::Contempt.index()] - (1.0 - fear)).abs() < 1e-6);
        assert!((votes.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }

    let plain = TempDir::new().unwrap();
    write_rows_npz(&npz, "ferplus_votes");
    assert!(!prepared(plain.path(), "fer2013", &npz, &[]).unwrap().has_votes());
}

#[test]
fn fer2013_with_action_units_of_a_teacher() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("fer2013.npz");
    let write = |columns: u64, units: &[f32]| {
        let mut npz = npz(&path);
        write_array(&mut npz, "images", &[2, 48, 48], [pixels(0), pixels(1)].concat());
        write_array(&mut npz, "labels", &[2], [3u8, 4]);
        write_array(&mut npz, "usage", &[2], [0u8, 1]);
        write_array(&mut npz, "action_units", &[2, columns], units.iter().copied());
    };
    // Of the first picture AU6 is not known; of the second nothing is.
    let mut units = [f32::NAN; 36];
    (0..18u8).filter(|&i| i != 4).for_each(|i| units[usize::from(i)] = f32::from(i) / 18.0);
    write(18, &units);
    let store = prepared(dir.path(), "fer2013", &path, &[]).unwrap();
    let read = store.record(0).action_units().unwrap();
    assert!(read.iter().zip(&units).all(|(a, b)| a == b || a.is_nan() && b.is_nan()), "{read:?}");
    assert_eq!(store.record(1).action_units(), None);

    write(17, &[0.0; 34]);
    let other = TempDir::new().unwrap();
    let error = message(prepared(other.path(), "fer2013", &path, &[]));
    assert!(error.contains("action_units is [2, 17], not [2, 18]"), "{error}");
    // What is no intensity is refused, and nothing is kept.
    units[0] = 1.5;
    write(18, &units);
    let error = message(prepared(other.path(), "fer2013", &path, &[]));
    assert!(error.contains("1.5"), "{error}");
}

#[test]
fn an_npz_that_lacks_something_is_named_with_it() {
    let dir = TempDir::new().unwrap();
    let npz = dir.path().join("some.npz");
    for array in ["images", "labels", "usage"] {
        write_rows_npz(&npz, array);
        let error = message(prepared(dir.path(), "fer2013", &npz, &[]));
        assert!(error.contains("some.npz") && error.contains(&format!("'{array}'")), "{error}");
    }
    let error = |arrays: &[(&str, &[u64], &[u8])]| {
        write_npz(&npz, arrays);
        let error = message(prepared(dir.path(), "fer2013", &npz, &[]));
        assert!(error.contains("some.npz"), "{error}");
        error
    };
    let image = pixels(0);
    let short = error(&[("images", &[1, 48, 48], &image), ("labels", &[2], &[0, 1]), ("usage", &[1], &[0])]);
    assert!(short.contains("[1, 48, 48]"), "{short}");
    let label = error(&[("images", &[1, 48, 48], &image), ("labels", &[1], &[7]), ("usage", &[1], &[0])]);
    assert!(label.contains('7'), "{label}");
    let usage = error(&[("images", &[1, 48, 48], &image), ("labels", &[1], &[0]), ("usage", &[1], &[3])]);
    assert!(usage.contains('3'), "{usage}");

    // Cut at many places: an error each time, and never a store.
    write_rows_npz(&npz, "");
    let bytes = fs::read(&npz).unwrap();
    for len in (0..bytes.len()).step_by(997) {
        fs::write(&npz, &bytes[..len]).unwrap();
        let error = message(prepared(dir.path(), "fer2013", &npz, &[]));
        assert!(error.contains("some.npz"), "{error}");
    }
    // After all those failures the folder is still free for a store.
    fs::write(&npz, &bytes).unwrap();
    check_fer2013(&prepared(dir.path(), "fer2013", &npz, &[]).unwrap());
}

#[test]
fn a_csv_that_lacks_something_is_named_with_it() {
    let dir = TempDir::new().unwrap();
    let csv = dir.path().join("some.csv");
    let ramp = pixels(0).iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
    let cases = [
        ("emotion,Usage\n0,Training\n".to_owned(), "pixels"),
        (format!("emotion,pixels,Usage\n0,{ramp} 1,Training\n"), "2305"),
        (format!("emotion,pixels,Usage\n0,{ramp},Training\n9,{ramp},Training\n"), "row 2"),
        (format!("emotion,pixels,Usage\n0,{ramp},Sunday\n"), "Sunday"),
        ("emotion,pixels,Usage\n0,1 2 300,Training\n".to_owned(), "300"),
    ];
    for (text, part) in cases {
        fs::write(&csv, text).unwrap();
        let error = message(prepared(dir.path(), "fer2013", &csv, &[]));
        assert!(error.contains("some.csv") && error.contains(part), "{error}");
    }
    let error = message(prepared(dir.path(), "fer2013", &dir.path().join("none.csv"), &[]));
    assert!(error.contains("none.csv"), "{error}");
}

/// A folder `ann/talk/` with frames 9, 10 and 12 (JPEG, JPEG, grey PNG), `ann/walk/` and `bob/talk/` with one each.
fn write_frames(dir: &Path) -> PathBuf {
    let src = dir.join("src");
    let colour = |i: u8| RgbImage::from_fn(20, 16, |x, y| Rgb([i * 10 + x as u8, 200 - y as u8, 40]));
    for (folder, file, i) in [
        ("ann/talk", "frame_10.jpg", 2),
        ("ann/talk", "frame_9.jpg", 1),
        ("ann/walk", "x.png", 3),
        ("bob/talk", "1.JPG", 4),
    ] {
        let folder = src.join(folder);
        fs::create_dir_all(&folder).unwrap();
        colour(i).save(folder.join(file)).unwrap();
    }
    let grey = GrayImage::from_fn(20, 16, |x, _| Luma([x as u8 * 12]));
    grey.save(src.join("ann/talk/frame_12.png")).unwrap();
    fs::write(src.join("ann/talk/notes.txt"), "not a picture").unwrap();
    src
}

#[test]
fn folders_of_frames() {
    let dir = TempDir::new().unwrap();
    let src = write_frames(dir.path());
    let store = prepared(dir.path(), "frames", &src, &["--fps", "10"]).unwrap();
    let found: Vec<_> = (0..store.len())
        .map(|i| store.record(i))
        .map(|r| (r.identity(), r.video().name.as_str(), r.t_secs()))
        .collect();
    let expected = [
        ("ann", "talk", 0.0),
        ("ann", "talk", 0.1),
        ("ann", "talk", 0.3),
        ("ann", "walk", 0.0),
        ("bob", "talk", 0.0),
    ];
    assert_eq!(found, expected);
    // JPEG files are stored as they are; grey pictures as grey JPEGs, others in colour.
    assert_eq!(store.record(0).jpeg(), fs::read(src.join("ann/talk/frame_9.jpg")).unwrap());
    assert_eq!(store.record(1).jpeg(), fs::read(src.join("ann/talk/frame_10.jpg")).unwrap());
    assert_eq!(components(store.record(2).jpeg()), 1);
    assert_eq!(components(store.record(3).jpeg()), 3);
    let frame = store.record(2).decode().unwrap();
    for (i, pixel) in frame.rgb().chunks_exact(3).enumerate() {
        assert!(pixel[0].abs_diff((i % 20) as u8 * 12) <= 8, "pixel {i}");
    }
    assert!(!store.has_expression());
}

#[test]
fn a_picture_that_is_cut_anywhere_is_passed_over_and_counted() {
    let dir = TempDir::new().unwrap();
    let src = write_frames(dir.path());
    // Large enough that most of its bytes are pixels.
    let large = RgbImage::from_fn(160, 120, |x, y| Rgb([(x * y) as u8, (x * 7) as u8, (y * 5) as u8]));
    large.save(src.join("ann/talk/frame_10.jpg")).unwrap();
    let whole = fs::read(src.join("ann/talk/frame_10.jpg")).unwrap();
    let cuts = [0, 1, 10].into_iter().chain((1..20).map(|i| whole.len() * i / 20));
    for (n, len) in cuts.enumerate() {
        fs::write(src.join("ann/talk/frame_10.jpg"), &whole[..len]).unwrap();
        let out = dir.path().join(n.to_string());
        let store = prepared(&out, "frames", &src, &[]).unwrap();
        assert_eq!(store.len(), 4, "cut at {len} of {}", whole.len());
        assert_eq!(store.header().provenance[0].skipped, 1);
        assert!((0..4).all(|i| store.record(i).decode().is_ok()));
        // The others keep their times.
        assert_eq!(store.record(1).t_secs(), 3.0 / 25.0);
    }
}

#[test]
fn a_source_without_one_readable_picture_is_an_error() {
    let dir = TempDir::new().unwrap();
    let src = dir.path().join("src");
    fs::create_dir_all(src.join("ann/talk")).unwrap();
    assert!(message(prepared(dir.path(), "frames", &src, &[])).contains("identity/video/frame"));
    fs::write(src.join("ann/talk/1.jpg"), b"nothing").unwrap();
    assert!(message(prepared(dir.path(), "frames", &src, &[])).contains("src"));
    let nowhere = dir.path().join("nowhere");
    assert!(message(prepared(dir.path(), "frames", &nowhere, &[])).contains("nowhere"));
}

#[test]
fn the_same_source_gives_the_same_bytes() {
    let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let src = write_frames(a.path());
    for dir in [&a, &b] {
        prepared(dir.path(), "frames", &src, &[]).unwrap();
    }
    for file in ["index.bin", "shard-00000.jpegs"] {
        let read = |dir: &TempDir| fs::read(dir.path().join("store").join(file)).unwrap();
        assert_eq!(read(&a), read(&b), "{file}");
    }
}

#[test]
fn a_store_that_exists_is_added_to_only_when_told_and_never_twice() {
    let dir = TempDir::new().unwrap();
    let src = write_frames(dir.path());
    prepared(dir.path(), "frames", &src, &[]).unwrap();
    let error = message(prepared(dir.path(), "frames", &src, &[]));
    assert!(error.contains("store") && error.contains("--append"), "{error}");
    // Nothing new: the same store. Then one more video.
    assert_eq!(prepared(dir.path(), "frames", &src, &["--append"]).unwrap().len(), 5);
    fs::create_dir_all(src.join("bob/walk")).unwrap();
    fs::copy(src.join("bob/talk/1.JPG"), src.join("bob/walk/1.jpg")).unwrap();
    let store = prepared(dir.path(), "frames", &src, &["--append"]).unwrap();
    assert_eq!(store.len(), 6);
    assert_eq!(store.record(5).identity(), "bob");
    assert_eq!(store.header().identities, ["ann", "bob"]);
    assert_eq!(store.header().provenance.len(), 2);
}

#[test]
fn nobody_is_in_two_splits() {
    let dir = TempDir::new().unwrap();
    let src = dir.path().join("src");
    for person in 0..40 {
        for video in ["a", "b"] {
            let folder = src.join(format!("person {person}/{video}"));
            fs::create_dir_all(&folder).unwrap();
            GrayImage::new(8, 8).save(folder.join("1.png")).unwrap();
        }
    }
    let store = prepared(dir.path(), "frames", &src, &["--val-share", "0.5"]).unwrap();
    let people = |split| -> std::collections::BTreeSet<&str> {
        store.split(split).into_iter().map(|i| store.record(i).identity()).collect()
    };
    let (train, val) = (people(Split::Train), people(Split::Val));
    assert!(train.is_disjoint(&val));
    assert_eq!(train.len() + val.len(), 40);
    // Binomial(40, 1/2) is outside 8..=32 with probability below 1e-4, and the choice is fixed.
    assert!((8..=32).contains(&val.len()), "{}", val.len());
}
