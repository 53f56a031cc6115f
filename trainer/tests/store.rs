//! The clip store: what goes in comes out, and what is damaged is said to be.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semblance_face::labels::Expression;
use semblance_trainer::store::{FORMAT, Provenance, Sample, Split, Store, StoreError, StoreWriter};
use tempfile::TempDir;

/// A JPEG of noise; each seed's differs in its bytes, and mostly in its length.
fn jpeg(seed: u64, width: u32, height: u32) -> Vec<u8> {
    let mut pixels = vec![0; (width * height * 3) as usize];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut pixels);
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 90)
        .encode(&pixels, width, height, ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}

fn array<const N: usize>(seed: u64, range: std::ops::Range<f32>) -> [f32; N] {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    std::array::from_fn(|_| rng.random_range(range.clone()))
}

/// A frame with every label; they differ from frame to frame.
fn labelled(i: u64) -> Sample {
    let mut votes = array::<8>(i, 0.0..1.0);
    let sum: f32 = votes.iter().sum();
    votes.iter_mut().for_each(|v| *v /= sum);
    let mut action_units = array::<18>(i + 1000, 0.0..1.0);
    action_units[0] = 0.5;
    Sample {
        expression: Some(Expression::ALL[i as usize % 8]),
        votes: Some(votes),
        valence_arousal: Some(array(i + 2000, -1.0..1.0)),
        action_units: Some(action_units),
        pose: Some(array(i + 3000, -90.0..90.0)),
        landmarks: Some(array(i + 4000, -0.2..1.2)),
        five_points: Some(array(i + 5000, -0.2..1.2)),
        ..Sample::unlabelled(0.04 * i as f64, Split::ALL[i as usize % 3])
    }
}

/// Writes `frames` labelled frames, numbered from `first`, in videos of four.
fn write(writer: &mut StoreWriter, first: u64, frames: u64) {
    for i in first..first + frames {
        if i == first || i % 4 == 0 {
            writer.begin_video(&format!("person {}", i / 8), &format!("video {i}"));
        }
        writer.push(&jpeg(i, 8, 8), &labelled(i)).unwrap();
    }
}

/// A store of `frames` labelled frames, in shards of about `shard_bytes`.
fn make(dir: &Path, frames: u64, shard_bytes: u64) {
    let mut writer = StoreWriter::create(dir).unwrap().with_shard_bytes(shard_bytes);
    write(&mut writer, 0, frames);
    writer.commit(Provenance::default()).unwrap();
}

/// Checks that `store` holds frames 0 to `frames` of [`write`].
fn check(store: &Store, frames: u64) {
    assert_eq!(store.len() as u64, frames);
    for i in 0..frames {
        let record = store.record(i as usize);
        assert_eq!(record.jpeg(), jpeg(i, 8, 8), "frame {i}");
        assert_eq!(record.sample(), labelled(i), "frame {i}");
        assert_eq!(record.identity(), format!("person {}", i / 8));
        assert!(record.video().range().contains(&(i as usize)));
    }
}

fn index(dir: &Path) -> PathBuf {
    dir.join("index.bin")
}

/// Gives a file this content, in place: emptying it first would have the file system flush it, each time.
fn overwrite(path: &Path, bytes: &[u8]) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
}

fn shard(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("shard-{number:05}.jpegs"))
}

#[test]
fn what_goes_in_comes_out() {
    let dir = TempDir::new().unwrap();
    let provenance = Provenance { layout: "frames".to_owned(), source: "somewhere".to_owned(), skipped: 3 };
    let mut writer = StoreWriter::create(dir.path()).unwrap().with_shard_bytes(2000);
    write(&mut writer, 0, 40);
    writer.commit(provenance.clone()).unwrap();

    let store = Store::open(dir.path()).unwrap();
    check(&store, 40);
    assert!(store.header().shard_bytes.len() > 3, "{:?}", store.header().shard_bytes);
    assert_eq!(store.header().identities, ["person 0", "person 1", "person 2", "person 3", "person 4"]);
    assert_eq!(store.header().videos.len(), 10);
    assert_eq!(store.header().provenance, [provenance]);
    assert_eq!(store.split(Split::Test), (0..40).filter(|i| i % 3 == 2).collect::<Vec<_>>());
    let labels = [
        store.has_expression(),
        store.has_votes(),
        store.has_valence_arousal(),
        store.has_action_units(),
        store.has_pose(),
        store.has_landmarks(),
    ];
    assert_eq!(labels, [true; 6]);
}

#[test]
fn pictures_decode_to_what_was_encoded() {
    let dir = TempDir::new().unwrap();
    let grey = {
        let mut bytes = Vec::new();
        let pixels: Vec<u8> = (0..48 * 32).map(|i| (i % 48 * 5) as u8).collect();
        JpegEncoder::new_with_quality(&mut bytes, 100)
            .encode(&pixels, 48, 32, ExtendedColorType::L8)
            .unwrap();
        bytes
    };
    let mut writer = StoreWriter::create(dir.path()).unwrap();
    writer.begin_video("a", "v");
    writer.push(&grey, &Sample::unlabelled(1.5, Split::Train)).unwrap();
    writer.commit(Provenance::default()).unwrap();

    let frame = Store::open(dir.path()).unwrap().record(0).decode().unwrap();
    assert_eq!((frame.width(), frame.height(), frame.t_secs), (48, 32, 1.5));
    for (i, pixel) in frame.rgb().chunks_exact(3).enumerate() {
        assert!(pixel[0] == pixel[1] && pixel[1] == pixel[2]);
        assert!(pixel[0].abs_diff((i % 48 * 5) as u8) <= 2, "pixel {i}: {}", pixel[0]);
    }
}

#[test]
fn labels_that_no_frame_has_take_no_room_and_single_ones_stay_single() {
    let dir = TempDir::new().unwrap();
    let mut writer = StoreWriter::create(dir.path()).unwrap();
    writer.begin_video("a", "v");
    let plain = Sample::unlabelled(0.0, Split::Val);
    let mut some_units = [f32::NAN; 18];
    some_units[7] = 0.25;
    let samples = [
        plain,
        Sample { action_units: Some(some_units), ..plain },
        plain,
        Sample { expression: Some(Expression::Neutral), ..plain },
        plain,
    ];
    for (i, sample) in samples.iter().enumerate() {
        writer.push(&jpeg(i as u64, 8, 8), sample).unwrap();
    }
    writer.commit(Provenance::default()).unwrap();

    let store = Store::open(dir.path()).unwrap();
    assert!(store.has_expression() && store.has_action_units());
    assert!(
        !store.has_votes() && !store.has_landmarks() && !store.has_pose() && !store.has_valence_arousal()
    );
    for (i, sample) in samples.iter().enumerate() {
        let record = store.record(i);
        assert_eq!(record.expression(), sample.expression, "frame {i}");
        // Compared as bits: units that nobody judged are NaN.
        let bits = |units: Option<[f32; 18]>| {
            units.map(|u| u.map(|v| (v.is_nan(), v.to_bits() * u32::from(!v.is_nan()))))
        };
        assert_eq!(bits(record.action_units()), bits(sample.action_units), "frame {i}");
        assert_eq!(record.landmarks(), None);
    }
}

#[test]
fn a_store_without_labels_is_small() {
    let dir = TempDir::new().unwrap();
    let mut writer = StoreWriter::create(dir.path()).unwrap();
    writer.begin_video("a", "v");
    let picture = jpeg(0, 8, 8);
    for i in 0..1000 {
        writer.push(&picture, &Sample::unlabelled(f64::from(i), Split::Train)).unwrap();
    }
    writer.commit(Provenance::default()).unwrap();
    let bytes = fs::metadata(index(dir.path())).unwrap().len();
    assert!(bytes < 1000 * 32, "{bytes} bytes for 1000 frames");
}

#[test]
fn appending_goes_on_where_the_last_commit_ended() {
    let dir = TempDir::new().unwrap();
    make(dir.path(), 12, 3000);
    let before = Store::open(dir.path()).unwrap();
    for (first, frames) in [(12, 8), (20, 20)] {
        let mut writer = StoreWriter::append(dir.path()).unwrap().with_shard_bytes(3000);
        assert!(writer.has_video("person 0", "video 4") && !writer.has_video("person 1", "video 4"));
        write(&mut writer, first, frames);
        writer.commit(Provenance::default()).unwrap();
    }
    let store = Store::open(dir.path()).unwrap();
    check(&store, 40);
    assert_eq!(store.header().provenance.len(), 3);
    // Identities are not listed twice.
    assert_eq!(store.header().identities.len(), 5);
    // Who had opened it still reads what it was then.
    check(&before, 12);
}

#[test]
fn appending_in_steps_gives_the_same_store_as_writing_at_once() {
    let (once, steps) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    make(once.path(), 24, 3000);
    let mut writer = StoreWriter::create(steps.path()).unwrap().with_shard_bytes(3000);
    write(&mut writer, 0, 8);
    writer.checkpoint().unwrap();
    drop(writer);
    let mut writer = StoreWriter::append(steps.path()).unwrap().with_shard_bytes(3000);
    write(&mut writer, 8, 16);
    writer.commit(Provenance::default()).unwrap();
    for file in [index(Path::new("")), shard(Path::new(""), 0), shard(Path::new(""), 1)] {
        assert_eq!(
            fs::read(once.path().join(&file)).unwrap(),
            fs::read(steps.path().join(&file)).unwrap(),
            "{}",
            file.display()
        );
    }
}

/// Copies a store's files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn an_append_that_is_cut_off_at_any_byte_leaves_the_last_commit() {
    // The files as of the first commit, and as they would be when the second is complete.
    let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    make(first.path(), 4, 1 << 20);
    copy(first.path(), second.path());
    let mut writer = StoreWriter::append(second.path()).unwrap();
    write(&mut writer, 4, 4);
    writer.commit(Provenance::default()).unwrap();
    drop(writer);
    let committed = fs::metadata(shard(first.path(), 0)).unwrap().len() as usize;
    let grown = fs::read(shard(second.path(), 0)).unwrap();
    let next_index = fs::read(index(second.path())).unwrap();

    // Cut off while the shard is written, at every byte.
    let cut = TempDir::new().unwrap();
    copy(first.path(), cut.path());
    for end in committed..=grown.len() {
        overwrite(&shard(cut.path(), 0), &grown[..end]);
        check(&Store::open(cut.path()).unwrap(), 4);
    }
    // Cut off while the next index is written: the shard is complete, the index the old one.
    fs::write(cut.path().join("index.next"), []).unwrap();
    for end in (0..=next_index.len()).step_by(7) {
        overwrite(&cut.path().join("index.next"), &next_index[..end]);
        check(&Store::open(cut.path()).unwrap(), 4);
    }
    // And the next append overwrites what is left.
    fs::write(shard(cut.path(), 0), [&grown[..committed + 100], &[0xAB; 5000]].concat()).unwrap();
    fs::write(shard(cut.path(), 1), [0xCD; 100]).unwrap();
    let mut writer = StoreWriter::append(cut.path()).unwrap();
    write(&mut writer, 4, 4);
    writer.commit(Provenance::default()).unwrap();
    check(&Store::open(cut.path()).unwrap(), 8);
    assert_eq!(fs::read(shard(cut.path(), 0)).unwrap(), grown);
}

#[test]
fn what_was_not_committed_is_not_there() {
    let dir = TempDir::new().unwrap();
    make(dir.path(), 8, 1 << 20);
    let mut writer = StoreWriter::append(dir.path()).unwrap();
    write(&mut writer, 8, 8);
    drop(writer);
    check(&Store::open(dir.path()).unwrap(), 8);
}

#[test]
fn a_cut_shard_is_named_with_its_sizes() {
    let dir = TempDir::new().unwrap();
    make(dir.path(), 20, 3000);
    let path = shard(dir.path(), 1);
    let bytes = fs::read(&path).unwrap();
    for len in [bytes.len() - 1, bytes.len() / 2, 0] {
        fs::write(&path, &bytes[..len]).unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        let StoreError::Cut { path: named, expected, actual } = &error else {
            panic!("{error}");
        };
        assert_eq!((named, *expected, *actual), (&path, bytes.len() as u64, len as u64));
        assert!(error.to_string().contains("shard-00001.jpegs"), "{error}");
    }
    fs::remove_file(&path).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("shard-00001.jpegs"), "{error}");
}

#[test]
fn every_flipped_byte_and_every_cut_of_the_index_is_an_error() {
    let dir = TempDir::new().unwrap();
    make(dir.path(), 4, 1 << 20);
    let path = index(dir.path());
    let sound = fs::read(&path).unwrap();
    let mut damaged = sound.clone();
    for at in 0..sound.len() {
        for bit in [0, 3, 7] {
            damaged[at] ^= 1 << bit;
            overwrite(&path, &damaged);
            assert!(Store::open(dir.path()).is_err(), "byte {at}, bit {bit}");
            damaged[at] ^= 1 << bit;
        }
    }
    for len in 0..sound.len() {
        overwrite(&path, &sound[..len]);
        assert!(Store::open(dir.path()).is_err(), "cut at {len}");
        assert!(StoreWriter::append(dir.path()).is_err(), "cut at {len}");
    }
    fs::write(&path, [&sound[..], &[0; 8]].concat()).unwrap();
    assert!(Store::open(dir.path()).is_err(), "eight bytes more");
    overwrite(&path, &sound);
    check(&Store::open(dir.path()).unwrap(), 4);
}

/// Puts the right checksum on an index that was tampered with.
fn seal(index: &mut [u8]) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&index[16..]);
    index[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
}

#[test]
fn an_index_that_lies_never_panics() {
    let dir = TempDir::new().unwrap();
    make(dir.path(), 6, 2000);
    let path = index(dir.path());
    let sound = fs::read(&path).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let (mut refused, mut read) = (0, 0);
    for at in 16..sound.len() {
        for value in [0, 0xFF, b'9', rng.random()] {
            let mut index = sound.clone();
            index[at] = value;
            seal(&mut index);
            overwrite(&path, &index);
            let Ok(store) = Store::open(dir.path()) else {
                refused += 1;
                continue;
            };
            read += 1;
            for i in 0..store.len() {
                let record = store.record(i);
                let _ = (record.sample(), record.identity(), record.video().range(), record.decode());
            }
        }
    }
    assert!(refused > 500 && read > 500, "{refused} refused, {read} read");
}

#[test]
fn impossible_headers_are_errors() {
    let dir = TempDir::new().unwrap();
    make(dir.path(), 6, 1 << 20);
    let path = index(dir.path());
    let sound = fs::read(&path).unwrap();
    let header_len = u64::from_le_bytes(sound[16..24].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&sound[24..24 + header_len]).unwrap();
    let columns = &sound[(24 + header_len).next_multiple_of(8)..];
    let open_with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut header = header.clone();
        change(&mut header);
        let json = serde_json::to_vec(&header).unwrap();
        let mut index = sound[..16].to_vec();
        index.extend((json.len() as u64).to_le_bytes());
        index.extend(&json);
        index.resize(index.len().next_multiple_of(8), 0);
        index.extend(columns);
        seal(&mut index);
        overwrite(&path, &index);
        Store::open(dir.path())
    };
    assert!(open_with(&|_| ()).is_ok());
    type Change<'a> = &'a dyn Fn(&mut serde_json::Value);
    let changes: [(&str, Change<'_>); 10] = [
        ("more frames than columns", &|h| h["frames"] = 1_000_000.into()),
        ("frames beyond any memory", &|h| h["frames"] = u64::MAX.into()),
        ("fewer frames than videos", &|h| h["frames"] = 5.into()),
        ("no identities", &|h| h["identities"] = serde_json::json!([])),
        ("no videos", &|h| h["videos"] = serde_json::json!([])),
        ("no shards", &|h| h["shard_bytes"] = serde_json::json!([])),
        ("shards that are too short", &|h| {
            h["shard_bytes"] = serde_json::json!([10]);
        }),
        ("a video beyond the end", &|h| {
            h["videos"][1]["frames"] = u64::MAX.into();
        }),
        ("an unknown column", &|h| h["columns"][0] = "colour".into()),
        ("no columns", &|h| h["columns"] = serde_json::json!([])),
    ];
    for (what, change) in changes {
        let error = open_with(change).err().unwrap_or_else(|| panic!("{what} was read"));
        assert!(error.to_string().starts_with(&path.display().to_string()), "{what}: {error}");
    }
}

#[test]
fn a_newer_format_is_refused_by_number() {
    let dir = TempDir::new().unwrap();
    make(dir.path(), 4, 1 << 20);
    let mut bytes = fs::read(index(dir.path())).unwrap();
    bytes[8..12].copy_from_slice(&(FORMAT + 1).to_le_bytes());
    fs::write(index(dir.path()), &bytes).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found, .. } if found == FORMAT + 1), "{error}");
    let text = error.to_string();
    assert!(text.contains("index.bin") && text.contains(&format!("format {}", FORMAT + 1)), "{text}");
}

#[test]
fn a_folder_without_a_store_is_said_to_be_one() {
    let dir = TempDir::new().unwrap();
    for path in [dir.path().to_owned(), dir.path().join("nowhere")] {
        let error = Store::open(&path).unwrap_err().to_string();
        assert!(error.contains("no clip store") && !error.contains('\n'), "{error}");
        assert!(StoreWriter::append(&path).is_err());
    }
    // Asking left nothing behind.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_store_is_not_made_over_another() {
    let dir = TempDir::new().unwrap();
    make(dir.path(), 4, 1 << 20);
    let error = StoreWriter::create(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Exists { .. }), "{error}");
    check(&Store::open(dir.path()).unwrap(), 4);
}

#[test]
fn two_writers_are_kept_apart() {
    let dir = TempDir::new().unwrap();
    let first = StoreWriter::create(dir.path()).unwrap();
    assert!(matches!(StoreWriter::create(dir.path()), Err(StoreError::Locked { .. })));
    drop(first);
    make(dir.path(), 4, 1 << 20);
    let first = StoreWriter::append(dir.path()).unwrap();
    assert!(matches!(StoreWriter::append(dir.path()), Err(StoreError::Locked { .. })));
    drop(first);
    StoreWriter::append(dir.path()).unwrap();
}

#[test]
fn a_damaged_picture_is_named() {
    let dir = TempDir::new().unwrap();
    make(dir.path(), 6, 1 << 20);
    let length = |i| jpeg(i, 8, 8).len();
    // The start of frame 5's picture.
    let at: usize = (0..5).map(length).sum();
    let mut bytes = fs::read(shard(dir.path(), 0)).unwrap();
    bytes[at + 2..at + 60].fill(0x55);
    fs::write(shard(dir.path(), 0), &bytes).unwrap();
    let store = Store::open(dir.path()).unwrap();
    for i in 0..5 {
        store.record(i).decode().unwrap();
    }
    let error = store.record(5).decode().unwrap_err().to_string();
    for part in [&dir.path().display().to_string(), "frame 5", "person 0/video 4"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn frames_that_make_no_sense_are_refused_and_change_nothing() {
    let dir = TempDir::new().unwrap();
    let picture = jpeg(0, 8, 8);
    let plain = Sample::unlabelled(2.0, Split::Train);
    let mut writer = StoreWriter::create(dir.path()).unwrap();
    assert!(writer.push(&picture, &plain).is_err(), "no video");
    writer.begin_video("a", "v");
    writer.push(&picture, &plain).unwrap();
    let bad = [
        Sample { t_secs: 1.9, ..plain },
        Sample { t_secs: f64::NAN, ..plain },
        Sample { t_secs: f64::INFINITY, ..plain },
        Sample { valence_arousal: Some([0.0, 1.5]), ..plain },
        Sample { valence_arousal: Some([f32::NAN, 0.0]), ..plain },
        Sample { votes: Some([0.2; 8]), ..plain },
        Sample { action_units: Some([2.0; 18]), ..plain },
        Sample { pose: Some([0.0, f32::NAN, 0.0]), ..plain },
        Sample { landmarks: Some([f32::INFINITY; 136]), ..plain },
    ];
    for sample in &bad {
        let error = writer.push(&picture, sample).unwrap_err();
        assert!(matches!(error, StoreError::Frame { .. }), "{error}");
        assert!(error.to_string().contains("'v'"), "{error}");
    }
    assert!(writer.push(b"GIF89a", &plain).is_err());
    // A video without frames leaves no trace, and a new video starts its own clock.
    writer.begin_video("b", "empty");
    writer.begin_video("a", "w");
    writer.push(&picture, &Sample::unlabelled(0.0, Split::Train)).unwrap();
    writer.begin_video("b", "empty too");
    writer.commit(Provenance::default()).unwrap();

    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.len(), 2);
    let names: Vec<_> = store.header().videos.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["v", "w"]);
}

/// `/dev/full` takes no byte: what a full disk does, without filling one.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_last_commit() {
    use std::os::unix::fs::symlink;
    let dir = TempDir::new().unwrap();
    make(dir.path(), 4, 1);
    let shards = Store::open(dir.path()).unwrap().header().shard_bytes.len();

    let is_full = |error: &StoreError| matches!(error, StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull);

    // Full while the index is written, then with room again.
    let mut writer = StoreWriter::append(dir.path()).unwrap().with_shard_bytes(1);
    symlink("/dev/full", dir.path().join("index.next")).unwrap();
    write(&mut writer, 4, 2);
    let error = writer.commit(Provenance::default()).unwrap_err();
    assert!(is_full(&error) && error.to_string().contains("index.next"), "{error}");
    check(&Store::open(dir.path()).unwrap(), 4);
    writer.commit(Provenance::default()).unwrap();
    drop(writer);
    let store = Store::open(dir.path()).unwrap();
    check(&store, 6);
    assert_eq!(store.header().provenance.len(), 2);

    // Full while a shard is written.
    let path = shard(dir.path(), shards + 2);
    symlink("/dev/full", &path).unwrap();
    let mut writer = StoreWriter::append(dir.path()).unwrap().with_shard_bytes(1);
    writer.begin_video("person 0", "late");
    let error = writer.push(&jpeg(6, 8, 8), &labelled(6)).unwrap_err();
    assert!(is_full(&error) && error.to_string().contains(&path.display().to_string()), "{error}");
    check(&Store::open(dir.path()).unwrap(), 6);
    fs::remove_file(&path).unwrap();
    writer.push(&jpeg(6, 8, 8), &labelled(6)).unwrap();
    writer.commit(Provenance::default()).unwrap();
    let store = Store::open(dir.path()).unwrap();
    check(&store, 7);
}

#[test]
fn many_threads_read_at_once() {
    let dir = TempDir::new().unwrap();
    make(dir.path(), 16, 3000);
    let store = Store::open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| check(&store, 16));
        }
    });
}

/// Reading one frame of a large store costs what it costs in a small one: nothing is searched or parsed.
#[test]
fn access_does_not_slow_with_size() {
    let make_of = |frames: u64| {
        let dir = TempDir::new().unwrap();
        let mut writer = StoreWriter::create(dir.path()).unwrap();
        let picture = jpeg(0, 8, 8);
        for i in 0..frames {
            writer.begin_video("a", &i.to_string());
            writer.push(&picture, &Sample::unlabelled(0.0, Split::Train)).unwrap();
        }
        writer.commit(Provenance::default()).unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    };
    let secs_of = |store: &Store| {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let places: Vec<usize> = (0..20_000).map(|_| rng.random_range(0..store.len())).collect();
        let time = || {
            let start = std::time::Instant::now();
            let bytes: usize =
                places.iter().map(|&i| store.record(i).jpeg().len() + store.record(i).identity().len()).sum();
            assert_eq!(bytes % 20_000, 0);
            start.elapsed().as_secs_f64()
        };
        (0..5).map(|_| time()).fold(f64::INFINITY, f64::min)
    };
    let (_small_dir, small) = make_of(100);
    let (_large_dir, large) = make_of(40_000);
    let (small, large) = (secs_of(&small), secs_of(&large));
    // 400 times the frames; a scan would be 400 times slower. Caches and a busy machine may cost some.
    assert!(large < small * 40.0, "{small} s and {large} s for 20,000 frames");
}
