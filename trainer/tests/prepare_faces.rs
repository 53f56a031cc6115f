//! `trainer prepare` with finder, tracker and landmarks: synthetic people, filmed here, become the stores they should.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Parser;
use image::{GrayImage, RgbImage};
use semblance_face::landmarks::{five_points, inter_ocular};
use semblance_face::{Aligner, Bundle, Frame, Point, Rect, align};
use semblance_synth::{ClipSource, Labels, RenderOptions, empty_scene};
use semblance_trainer::prepare::{PrepareArgs, Reason, Report, Reports};
use semblance_trainer::store::{Record, Store};
use tempfile::TempDir;

const FILMED_FPS: f64 = 10.0;
const FILMED_FRAMES: usize = 25;
const WIDTH: u32 = 320;
const HEIGHT: u32 = 240;

fn bundle_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default")
}

fn words(layout: &str, src: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    let (src, out, bundle) = (src.to_str().unwrap(), out.to_str().unwrap(), bundle_dir());
    let mut words = vec!["prepare", "--layout", layout, "--src", src, "--out", out];
    if !more.contains(&"--bundle") {
        words.extend(["--bundle", bundle.to_str().unwrap()]);
    }
    words.iter().chain(more).map(|&word| word.to_owned()).collect()
}

fn try_prepare(layout: &str, src: &Path, out: &Path, more: &[&str]) -> anyhow::Result<(Store, Report)> {
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: PrepareArgs,
    }
    let args = Cli::try_parse_from(words(layout, src, out, more))?.args;
    semblance_trainer::prepare::prepare(&args, &AtomicBool::new(false))?;
    Ok((Store::open(out)?, Reports::load(out)?.runs.pop().unwrap()))
}

fn prepare(layout: &str, src: &Path, out: &Path, more: &[&str]) -> (Store, Report) {
    try_prepare(layout, src, out, more).unwrap()
}

/// Whether videos can be made and read; says so where not.
fn has_ffmpeg() -> bool {
    let found = Command::new("ffmpeg").arg("-version").output().is_ok();
    if !found {
        eprintln!("skipped: the ffmpeg program is not installed");
    }
    found
}

/// Frames as a camera saw them.
struct Film {
    frames: Vec<Frame>,
    truth: Vec<Labels>,
}

impl Film {
    fn of(person: u64, seed: u64) -> Self {
        let options = RenderOptions {
            width: WIDTH,
            height: HEIGHT,
            face_share: (0.45, 0.55),
            fps: FILMED_FPS,
            pose_spread: 0.4,
            camera_effects: false,
            occluded: 0.0,
            ..RenderOptions::webcam()
        };
        let mut clip = ClipSource::new(seed, person, options).unwrap();
        let (frames, truth) = (0..FILMED_FRAMES).map(|_| clip.next_frame().unwrap()).unzip();
        Self { frames, truth }
    }
}

/// Writes a video in a codec that every ffmpeg has.
fn encode(frames: &[Frame], path: &Path, options: &[&str]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let size = format!("{}x{}", frames[0].width(), frames[0].height());
    let mut child = Command::new("ffmpeg")
        .args(["-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size])
        .args(["-r", &FILMED_FPS.to_string(), "-i", "pipe:0", "-c:v", "mpeg4", "-q:v", "2"])
        .args(options)
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    frames.iter().for_each(|frame| pipe.write_all(frame.rgb()).unwrap());
    drop(pipe);
    assert!(child.wait().unwrap().success());
}

/// A tree of two people's videos at every depth, and one clip beside them.
struct Tree {
    dir: TempDir,
    films: BTreeMap<(&'static str, &'static str), Film>,
}

/// Identity, video in the store, file, person, seed.
const VIDEOS: [(&str, &str, &str, u64, u64); 5] = [
    ("ann", "v1/00001", "ann/v1/00001.mp4", 1, 1),
    ("ann", "v1/00002", "ann/v1/00002.mp4", 1, 2),
    ("bob", "talk", "bob/talk.mp4", 5, 3),
    ("bob", "v2/00001", "bob/v2/00001.mp4", 5, 4),
    ("cy", "clip", "cy.mp4", 8, 5),
];

fn tree() -> &'static Tree {
    static TREE: OnceLock<Tree> = OnceLock::new();
    TREE.get_or_init(|| {
        let dir = TempDir::new().unwrap();
        let films = VIDEOS.map(|(identity, video, file, person, seed)| {
            let film = Film::of(person, seed);
            encode(&film.frames, &dir.path().join(file), &[]);
            ((identity, video), film)
        });
        Tree { dir, films: BTreeMap::from(films) }
    })
}

fn names(store: &Store) -> Vec<(String, String)> {
    let header = store.header();
    let identity = |i: u32| header.identities[i as usize].clone();
    header.videos.iter().map(|v| (identity(v.identity), v.name.clone())).collect()
}

fn expected_names() -> Vec<(String, String)> {
    VIDEOS.map(|(identity, video, ..)| (identity.to_owned(), video.to_owned())).to_vec()
}

/// Every frame by identity, video and millisecond.
fn content(store: &Store) -> BTreeMap<(String, String, i64), Vec<u8>> {
    let key = |r: &Record<'_>| {
        (r.identity().to_owned(), r.video().name.clone(), (r.t_secs() * 1000.0).round() as i64)
    };
    (0..store.len()).map(|i| store.record(i)).map(|r| (key(&r), r.jpeg().to_vec())).collect()
}

fn count(report: &Report, reason: Reason) -> u64 {
    report.passed_over.get(&reason).map_or(0, |passed| passed.count)
}

fn landmarks_px(record: &Record<'_>, side: f32) -> [Point; 68] {
    let shares = record.landmarks().unwrap();
    std::array::from_fn(|i| Point::new(shares[2 * i] * side, shares[2 * i + 1] * side))
}

fn nme(found: &[Point; 68], truth: &[Point; 68]) -> f32 {
    let distances = found.iter().zip(truth).map(|(a, b)| (a.x - b.x).hypot(a.y - b.y));
    distances.sum::<f32>() / 68.0 / inter_ocular(truth)
}

fn mean(values: impl IntoIterator<Item = f32>) -> f32 {
    let values: Vec<f32> = values.into_iter().collect();
    values.iter().sum::<f32>() / values.len() as f32
}

#[test]
fn videos_become_aligned_crops_with_true_landmarks_pose_and_times() {
    if !has_ffmpeg() {
        return;
    }
    let tree = tree();
    let out = TempDir::new().unwrap();
    let (store, report) = prepare("videos", tree.dir.path(), out.path(), &["--side-px", "96"]);
    assert_eq!(names(&store), expected_names());
    assert_eq!((report.videos.found, report.videos.stored), (5, 5));
    assert!(report.finished && report.passed_over.is_empty(), "{report}");
    let aligner = Aligner::new(Bundle::open(&bundle_dir()).unwrap().manifest().crop, 96);
    for video in &store.header().videos {
        let identity = store.header().identities[video.identity as usize].as_str();
        let film = &tree.films[&(identity, video.name.as_str())];
        let records: Vec<_> = video.range().map(|i| store.record(i)).collect();
        // Ten a second, the first of each quarter.
        let times: Vec<f64> = records.iter().map(|r| r.t_secs()).collect();
        let expected = [0.0, 0.3, 0.5, 0.8, 1.0, 1.3, 1.5, 1.8, 2.0, 2.3];
        assert_eq!(times.len(), expected.len());
        assert!(times.iter().zip(expected).all(|(t, e)| (t - e).abs() < 1e-3), "{times:?}");

        let mut errors = Vec::new();
        let mut turns = Vec::new();
        for record in &records {
            let at = (record.t_secs() * FILMED_FPS).round() as usize;
            let truth = &film.truth[at];
            let five = five_points(&truth.landmarks);
            let to_crop = aligner.transform(&Rect::default(), Some(&five)).unwrap();
            errors.push(nme(&landmarks_px(record, 96.0), &truth.landmarks.map(|p| to_crop.apply(p))));
            let pose = record.pose().unwrap();
            let turned = to_crop.b.atan2(to_crop.a).to_degrees();
            let true_pose = [truth.pose.yaw_deg, truth.pose.pitch_deg, truth.pose.roll_deg + turned];
            turns.extend(pose.iter().zip(true_pose).map(|(a, b)| (a - b).abs()));

            let mut crop = vec![0; 96 * 96 * 3];
            assert!(aligner.crop_into(&film.frames[at], &Rect::default(), Some(&five), &mut crop));
            let picture = record.decode().unwrap();
            assert_eq!((picture.width(), picture.height()), (96, 96));
            let pairs = picture.rgb().iter().zip(&crop);
            let difference = mean(pairs.map(|(a, b)| f32::from(a.abs_diff(*b))));
            assert!(difference < 16.0, "{identity}/{}: picture off by {difference}", video.name);
        }
        let (error, turn) = (mean(errors), mean(turns));
        eprintln!(
            "{identity}/{}: landmarks {error:.3} of the eyes' distance, pose {turn:.1} deg",
            video.name
        );
        assert!(error < 0.06, "{identity}/{}: landmarks off by {error}", video.name);
        assert!(turn < 6.0, "{identity}/{}: pose off by {turn}", video.name);
    }
}

#[test]
fn shards_part_the_videos_and_change_nothing_in_them() {
    if !has_ffmpeg() {
        return;
    }
    let tree = tree();
    let dir = TempDir::new().unwrap();
    let (whole, _) = prepare("videos", tree.dir.path(), &dir.path().join("whole"), &[]);
    let mut parts = BTreeMap::new();
    let mut videos = 0;
    for shard in ["1/3", "2/3", "3/3"] {
        let out = dir.path().join(shard.replace('/', "-"));
        let (store, report) = prepare("videos", tree.dir.path(), &out, &["--shard", shard]);
        videos += store.header().videos.len();
        assert_eq!(report.videos.other_shards + report.videos.stored, 5);
        assert_eq!(report.shard.as_deref(), Some(shard));
        parts.extend(content(&store));
    }
    assert_eq!(videos, 5);
    assert_eq!(parts, content(&whole));
}

#[test]
fn a_shard_that_no_video_falls_to_is_an_empty_store() {
    let dir = TempDir::new().unwrap();
    let src = dir.path().join("src");
    fs::create_dir_all(src.join("a/b")).unwrap();
    GrayImage::new(8, 8).save(src.join("a/b/1.png")).unwrap();
    let shards: Vec<usize> = (1..=40)
        .map(|i| {
            let shard = format!("{i}/40");
            prepare("frames", &src, &dir.path().join(i.to_string()), &["--shard", &shard]).0.len()
        })
        .collect();
    assert_eq!(shards.iter().sum::<usize>(), 1, "{shards:?}");
}

#[test]
fn a_run_that_was_killed_or_interrupted_is_continued() {
    if !has_ffmpeg() {
        return;
    }
    let tree = tree();
    let dir = TempDir::new().unwrap();
    let (whole, _) = prepare("videos", tree.dir.path(), &dir.path().join("whole"), &[]);
    let (names_whole, whole) = (names(&whole), content(&whole));
    for signal in [libc::SIGKILL, libc::SIGINT] {
        let out = dir.path().join(signal.to_string());
        // One thread, so that the first commit is long before the last.
        let mut child = Command::new(env!("CARGO_BIN_EXE_trainer"))
            .args(words("videos", tree.dir.path(), &out, &["--commit-every", "1"]))
            .env("RAYON_NUM_THREADS", "1")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while !out.join("index.bin").exists() {
            assert!(start.elapsed() < Duration::from_secs(120), "no commit in two minutes");
            std::thread::sleep(Duration::from_millis(1));
        }
        // The child is there until it is waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        let status = child.wait().unwrap();
        assert_eq!(status.code(), (signal == libc::SIGINT).then_some(0));

        let before = Store::open(&out).unwrap();
        let stored = before.header().videos.len() as u64;
        assert!((1..5).contains(&stored), "{stored} videos");
        assert!(content(&before).iter().all(|(key, jpeg)| whole.get(key) == Some(jpeg)));
        drop(before);
        assert!(!Reports::load(&out).unwrap().runs[0].finished);
        let (store, report) = prepare("videos", tree.dir.path(), &out, &["--append"]);
        assert_eq!((report.videos.stored_before, report.videos.stored), (stored, 5 - stored));
        assert_eq!((names(&store), content(&store)), (names_whole.clone(), whole.clone()));
        assert_eq!(Reports::load(&out).unwrap().runs.len(), 2);
    }
}

#[test]
fn videos_that_are_cut_are_reported_and_stop_nothing() {
    if !has_ffmpeg() {
        return;
    }
    let film = Film::of(1, 1);
    let dir = TempDir::new().unwrap();
    let src = dir.path().join("src");
    // Without its index, which stands at the end, an MP4 is nothing; with the index at the front it is cut short.
    for (file, options, share) in [
        ("ann/v/1.mp4", &[][..], 1.0),
        ("ann/v/2.mp4", &[], 0.5),
        ("ann/v/3.mp4", &["-movflags", "+faststart"], 0.8),
    ] {
        let path = src.join(file);
        encode(&film.frames, &path, options);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..(bytes.len() as f64 * share) as usize]).unwrap();
    }
    fs::write(src.join("ann/v/4.mp4"), b"").unwrap();
    fs::write(src.join("ann/v/notes.txt"), b"no video").unwrap();
    let out = dir.path().join("store");
    let (store, report) = prepare("videos", &src, &out, &[]);
    assert_eq!(names(&store), [("ann".into(), "v/1".into()), ("ann".into(), "v/3".into())]);
    let (whole, cut) = (&store.header().videos[0], &store.header().videos[1]);
    assert!(cut.frames < whole.frames, "{} of {}", cut.frames, whole.frames);
    let unreadable = &report.passed_over[&Reason::Unreadable].examples;
    assert_eq!(unreadable.len(), 2);
    assert!(unreadable[0].starts_with("ann/v/2.mp4 (moov atom not found"), "{unreadable:?}");
    assert!(unreadable[1].starts_with("ann/v/4.mp4 ("), "{unreadable:?}");
    assert!(report.passed_over[&Reason::Damaged].examples[0].starts_with("ann/v/3.mp4 ("), "{report}");
    // Its index counts them, too.
    assert_eq!(store.header().provenance[0].skipped, report.total());

    // Where nothing is left, that is an error, and the report is there.
    for name in ["1", "3"] {
        fs::remove_file(src.join(format!("ann/v/{name}.mp4"))).unwrap();
    }
    let out = dir.path().join("none");
    let error = format!("{:#}", try_prepare("videos", &src, &out, &[]).err().unwrap());
    assert!(error.contains("ann/v/2.mp4") && error.contains("prepare-report.json"), "{error}");
    assert_eq!(count(&Reports::load(&out).unwrap().runs[0], Reason::Unreadable), 2);
}

#[test]
fn what_has_no_usable_face_is_told_apart() {
    if !has_ffmpeg() {
        return;
    }
    let tree = tree();
    let dir = TempDir::new().unwrap();
    let src = dir.path().join("src");
    let place = empty_scene(WIDTH, HEIGHT, 3).unwrap();
    encode(&vec![place.clone(); 20], &src.join("a/empty.mp4"), &[]);
    let film = &tree.films[&("ann", "v1/00001")];
    // The face is there for half a second.
    let mut frames = vec![place; 15];
    frames[..6].clone_from_slice(&film.frames[..6]);
    encode(&frames, &src.join("a/short.mp4"), &[]);
    encode(&film.frames, &src.join("a/whole.mp4"), &[]);
    let (store, report) = prepare("videos", &src, &dir.path().join("store"), &[]);
    assert_eq!(names(&store), [("a".into(), "whole".into())]);
    assert_eq!(report.passed_over[&Reason::NoFace].examples, ["a/empty.mp4"]);
    assert_eq!(report.passed_over[&Reason::ShortTrack].examples, ["a/short.mp4"]);
    let (store, report) = prepare("videos", &src, &dir.path().join("brief"), &["--min-seconds", "0"]);
    assert_eq!(names(&store), [("a".into(), "short".into()), ("a".into(), "whole".into())]);
    // Four of six frames: at 0, 0.3 and 0.5 s there is the face.
    assert_eq!(count(&report, Reason::Lost), 3);
    let error = try_prepare("videos", &src, &dir.path().join("large"), &["--min-face-px", "300"]).err();
    assert!(format!("{:#}", error.unwrap()).contains("could be stored"));
    let report = Reports::load(&dir.path().join("large")).unwrap().runs.pop().unwrap();
    assert_eq!(count(&report, Reason::SmallFace), 13);
    assert_eq!(count(&report, Reason::NoFace), 1);
}

/// Two people side by side, the right one away after a while.
fn two_people(dir: &Path) -> (Vec<Frame>, usize) {
    let (left, right) = (Film::of(1, 1), Film::of(5, 3));
    let leaves_at = 16;
    let frames = (0..FILMED_FRAMES).map(|i| {
        let mut both = RgbImage::new(2 * WIDTH, HEIGHT);
        let place = empty_scene(WIDTH, HEIGHT, 9).unwrap();
        let beside = if i < leaves_at { &right.frames[i] } else { &place };
        for (x0, frame) in [(0, &left.frames[i]), (WIDTH, beside)] {
            let half = RgbImage::from_raw(WIDTH, HEIGHT, frame.rgb().to_vec()).unwrap();
            image::imageops::replace(&mut both, &half, i64::from(x0), 0);
        }
        Frame::new(2 * WIDTH, HEIGHT, both.into_raw()).unwrap()
    });
    let frames: Vec<Frame> = frames.collect();
    for (i, frame) in frames.iter().enumerate() {
        let picture = RgbImage::from_raw(2 * WIDTH, HEIGHT, frame.rgb().to_vec()).unwrap();
        picture.save(dir.join(format!("{i:03}.png"))).unwrap();
    }
    (frames, leaves_at)
}

#[test]
fn the_longer_face_is_the_videos_own_and_others_are_kept_when_told() {
    let dir = TempDir::new().unwrap();
    let src = dir.path().join("src");
    // Both depths in one tree.
    fs::create_dir_all(src.join("pair/v/t")).unwrap();
    let (frames, leaves_at) = two_people(&src.join("pair/v/t"));
    fs::create_dir_all(src.join("pair/w")).unwrap();
    fs::copy(src.join("pair/v/t/003.png"), src.join("pair/w/3.png")).unwrap();
    fs::write(src.join("pair/v/t/004.png"), b"no picture").unwrap();
    let options = ["--align", "--fps", "10"];
    let (store, report) = prepare("frames", &src, &dir.path().join("one"), &options);
    assert_eq!(names(&store), [("pair".into(), "v/t".into()), ("pair".into(), "w".into())]);
    assert_eq!(store.header().videos[0].frames, FILMED_FRAMES as u64 - 1);
    assert_eq!(store.record(4).t_secs(), 0.5);
    assert_eq!(count(&report, Reason::OtherFace), 2);
    assert_eq!(report.passed_over[&Reason::Unreadable].examples.len(), 1);
    // The stored picture is the left one's.
    let left = frames[0].rgb().chunks_exact(6 * WIDTH as usize).flat_map(|row| &row[..3 * WIDTH as usize]);
    let left = Frame::new(WIDTH, HEIGHT, left.copied().collect()).unwrap();
    let five = five_points(&Film::of(1, 1).truth[0].landmarks);
    let aligner = Aligner::new(Bundle::open(&bundle_dir()).unwrap().manifest().crop, 128);
    let mut crop = vec![0; 128 * 128 * 3];
    aligner.crop_into(&left, &Rect::default(), Some(&five), &mut crop);
    let picture = store.record(0).decode().unwrap();
    let difference = mean(picture.rgb().iter().zip(&crop).map(|(a, b)| f32::from(a.abs_diff(*b))));
    assert!(difference < 16.0, "{difference}");

    let (store, report) =
        prepare("frames", &src, &dir.path().join("all"), &[&options[..], &["--all-faces"]].concat());
    let all = |second: [&str; 2]| {
        let [of_v, of_w] = second;
        let videos = [("pair", "v/t"), (of_v, "v/t//2"), ("pair", "w"), (of_w, "w//2")];
        videos.map(|(identity, video)| (identity.to_owned(), video.to_owned()))
    };
    assert_eq!(names(&store), all(["pair/v/t/face2", "pair/w/face2"]), "nobody knows who the others are");
    assert_eq!(store.header().videos[1].frames, leaves_at as u64 - 1);
    assert_eq!(count(&report, Reason::OtherFace), 0);
    let told = [&options[..], &["--all-faces", "--one-identity"]].concat();
    let (store, _) = prepare("frames", &src, &dir.path().join("told"), &told);
    assert_eq!(names(&store), all(["pair", "pair"]));
}

/// Crops of 20 synthetic people with their landmarks in shares.
fn drawn_crops(side: u32) -> Vec<(Frame, [Point; 68])> {
    let options = RenderOptions {
        face_share: (0.7, 0.8),
        pose_spread: 0.4,
        camera_effects: false,
        occluded: 0.0,
        ..RenderOptions::crop(side)
    };
    let drawn = |person| {
        let (frame, truth) = ClipSource::new(3, person, options.clone()).unwrap().frame_at(2.0).unwrap();
        (frame, truth.landmarks.map(|p| Point::new(p.x / side as f32, p.y / side as f32)))
    };
    (0..20).map(drawn).collect()
}

#[test]
fn crops_that_are_kept_as_they_are_get_landmarks() {
    let dir = TempDir::new().unwrap();
    let src = dir.path().join("src");
    let crops = drawn_crops(112);
    for (i, (frame, _)) in crops.iter().enumerate() {
        let folder = src.join(format!("person{i:02}/v"));
        fs::create_dir_all(&folder).unwrap();
        RgbImage::from_raw(112, 112, frame.rgb().to_vec()).unwrap().save(folder.join("1.png")).unwrap();
    }
    fs::create_dir_all(src.join("wall/v")).unwrap();
    let wall = empty_scene(112, 112, 4).unwrap();
    RgbImage::from_raw(112, 112, wall.rgb().to_vec()).unwrap().save(src.join("wall/v/1.png")).unwrap();
    let (store, report) = prepare("frames", &src, &dir.path().join("store"), &["--landmarks"]);
    assert_eq!(store.len(), 21);
    let error = mean((0..20).map(|i| nme(&landmarks_px(&store.record(i), 1.0), &crops[i].1)));
    eprintln!("landmarks off by {error:.3} of the eyes' distance");
    assert!(error < 0.06, "{error}");
    assert_eq!(store.record(20).landmarks(), None);
    assert_eq!(report.passed_over[&Reason::NoLandmarks].examples, ["wall/v/1.png"]);
}

#[test]
fn fer2013_gets_landmarks() {
    let dir = TempDir::new().unwrap();
    let csv = dir.path().join("fer2013.csv");
    let crops = drawn_crops(96);
    let mut text = "emotion,pixels,Usage\n".to_owned();
    for (frame, _) in &crops {
        let mut small = vec![0; 48 * 48 * 3];
        align::resize_crop(frame, 48, &mut small);
        let grey: Vec<String> = small.chunks_exact(3).map(|p| p[1].to_string()).collect();
        text.push_str(&format!("3,{},Training\n", grey.join(" ")));
    }
    fs::write(&csv, text).unwrap();
    let (store, _) = prepare("fer2013", &csv, &dir.path().join("store"), &["--landmarks"]);
    let error = mean((0..20).map(|i| nme(&landmarks_px(&store.record(i), 1.0), &crops[i].1)));
    eprintln!("landmarks off by {error:.3} of the eyes' distance");
    assert!(error < 0.08, "{error}");
}

#[test]
fn options_that_make_no_sense_are_named() {
    let dir = TempDir::new().unwrap();
    let csv = dir.path().join("x.csv");
    fs::write(&csv, "emotion,pixels,Usage\n").unwrap();
    let error = |layout: &str, more: &[&str]| {
        format!("{:#}", try_prepare(layout, &csv, &dir.path().join("store"), more).err().unwrap())
    };
    assert!(error("fer2013", &["--align"]).contains("--align"));
    assert!(error("frames", &["--all-faces"]).contains("--align"));
    assert!(error("frames", &["--align", "--one-identity"]).contains("--all-faces"));
    assert!(error("videos", &["--fps", "0.1"]).contains("--fps 0.1"));
    assert!(error("frames", &["--shard", "0/3"]).contains("i from 1 to n"));
    assert!(error("frames", &["--fps", "0"]).contains("rate above 0"));
    assert!(error("videos", &["--bundle", "nowhere"]).contains("nowhere"));
}

#[test]
fn without_ffmpeg_the_remedy_is_named() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.mp4"), b"x").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(words("videos", dir.path(), &dir.path().join("store"), &[]))
        .env("PATH", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("install it") && text.trim_end().lines().count() == 1, "{text}");
}
