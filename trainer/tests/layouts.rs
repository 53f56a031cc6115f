//! `trainer prepare` on labelled data sets: trees in their publishers' layouts, written here in small, become the stores
//! that they should, and what is wrong in them is counted and named.

#![allow(clippy::unwrap_used)]

use std::f64::consts::FRAC_PI_2;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use clap::Parser;
use image::{Rgb, RgbImage};
use npyz::WriterBuilder;
use semblance_face::labels::{ACTION_UNITS, Expression};
use semblance_face::{Point, head_pose};
use semblance_synth::{ClipSource, RenderOptions};
use semblance_trainer::inspect::{PairCounts, Summary};
use semblance_trainer::prepare::{PrepareArgs, Reason, Report, Reports};
use semblance_trainer::store::{PAIRS, Record, Split, Store};
use tempfile::TempDir;

/// A tree to be written and read.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(TempDir::new().unwrap());
        fs::create_dir(tree.src()).unwrap();
        tree
    }

    fn src(&self) -> PathBuf {
        self.0.path().join("src")
    }

    /// A path in it, whose folder is made.
    fn path(&self, file: &str) -> PathBuf {
        let path = self.src().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(file), content).unwrap();
    }

    /// A picture with a colour ramp.
    fn picture(&self, file: &str, width: u32, height: u32) {
        ramp(width, height).save(self.path(file)).unwrap();
    }

    /// An array as numpy writes it.
    fn npy<T: npyz::Serialize + npyz::AutoSerialize + Copy>(&self, file: &str, shape: &[u64], values: &[T]) {
        let file = fs::File::create(self.path(file)).unwrap();
        let mut npy = npyz::WriteOptions::new().default_dtype().shape(shape).writer(file).begin_nd().unwrap();
        npy.extend(values.iter().copied()).unwrap();
        npy.finish().unwrap();
    }

    /// A number as numpy writes a text that is no array.
    fn npy_text(&self, file: &str, text: &str) {
        let file = fs::File::create(self.path(file)).unwrap();
        let dtype = npyz::DType::new_scalar(format!("<U{}", text.len()).parse().unwrap());
        let mut npy = npyz::WriteOptions::new().dtype(dtype).shape(&[]).writer(file).begin_nd().unwrap();
        npy.push(text).unwrap();
        npy.finish().unwrap();
    }

    fn try_prepare(&self, layout: &str, more: &[&str]) -> anyhow::Result<(Store, Report)> {
        #[derive(Parser)]
        struct Cli {
            #[command(flatten)]
            args: PrepareArgs,
        }
        let (src, out) = (self.src(), self.0.path().join("store"));
        let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default");
        let words = ["prepare", "--layout", layout, "--src", src.to_str().unwrap()];
        let words = [words.as_slice(), &["--out", out.to_str().unwrap()], more].concat();
        let words = [words.as_slice(), &["--bundle", bundle.to_str().unwrap()]].concat();
        let args = Cli::try_parse_from(words)?.args;
        semblance_trainer::prepare::prepare(&args, &AtomicBool::new(false))?;
        let report = Reports::load(&out)?.runs.pop().unwrap();
        let store = Store::open(&out)?;
        assert_eq!(report.layout, layout);
        assert!(Summary::of(&store)?.to_string().contains(layout));
        Ok((store, report))
    }

    fn prepare(&self, layout: &str, more: &[&str]) -> (Store, Report) {
        self.try_prepare(layout, more).unwrap()
    }

    /// The error's one line.
    fn refused(&self, layout: &str, more: &[&str]) -> String {
        let text = format!("{:#}", self.try_prepare(layout, more).err().unwrap());
        assert!(!text.contains('\n'), "{text}");
        text
    }
}

/// Red rises with x and green with y.
fn ramp(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, 90]))
}

/// The only frame of a video; `None` where the store has no such video.
fn still<'a>(store: &'a Store, identity: &str, video: &str) -> Option<Record<'a>> {
    let header = store.header();
    let is_it = |v: &&semblance_trainer::store::Video| {
        v.name == video && header.identities[v.identity as usize] == identity
    };
    let found = header.videos.iter().find(is_it)?;
    assert_eq!(found.frames, 1);
    Some(store.record(found.first as usize))
}

/// How often something was passed over, and one line with all its examples.
fn passed(report: &Report, reason: Reason) -> (u64, String) {
    report.passed_over.get(&reason).map(|p| (p.count, p.examples.join("; "))).unwrap_or_default()
}

/// That a reason was given so often, for these things.
fn check_passed(report: &Report, reason: Reason, count: u64, parts: &[&str]) {
    let (found, examples) = passed(report, reason);
    assert_eq!(found, count, "{reason:?}: {examples}");
    for part in parts {
        assert!(examples.contains(part), "{reason:?}: '{part}' is not in '{examples}'");
    }
}

fn unit(record: &Record<'_>, number: u8) -> f32 {
    record.action_units().unwrap()[ACTION_UNITS.iter().position(|&unit| unit == number).unwrap()]
}

fn close(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= tolerance, "{a} is not {b}");
    }
}

// RAF-DB

fn rafdb(folder: &str, ending: &str) -> Tree {
    let tree = Tree::new();
    let mut list = String::new();
    for (i, label) in (1..=7).enumerate() {
        let part = if i < 4 { "train" } else { "test" };
        list += &format!("{part}_{i:05}.jpg {label}\n");
        tree.picture(&format!("Image/{folder}/{part}_{i:05}{ending}.jpg"), 20, 20);
    }
    list += "train_00070.jpg 8\ntrain_00071.jpg 1\ntest_00072.jpg 2\n";
    tree.write(&format!("Image/{folder}/train_00071{ending}.jpg"), b"\xFF\xD8 torn");
    tree.picture(&format!("Image/{folder}/train_00070{ending}.jpg"), 20, 20);
    tree.write("EmoLabel/list_patition_label.txt", list);
    tree
}

#[test]
fn rafdb_has_its_labels_and_parts() {
    for (folder, ending) in [("aligned", "_aligned"), ("original", "")] {
        let tree = rafdb(folder, ending);
        let (store, report) = tree.prepare("rafdb", &["--val-share", "0"]);
        use Expression::{Angry, Disgust, Fear, Happy, Neutral, Sad, Surprise};
        let expected = [Surprise, Fear, Disgust, Happy, Sad, Angry, Neutral];
        assert_eq!(store.len(), 7);
        for (i, expression) in expected.into_iter().enumerate() {
            let (record, part) = (store.record(i), if i < 4 { Split::Train } else { Split::Test });
            assert_eq!((record.expression(), record.split()), (Some(expression), part));
            let name = record.identity();
            let file = tree.src().join(format!("Image/{folder}/{name}{ending}.jpg"));
            assert_eq!(record.jpeg(), fs::read(file).unwrap(), "kept as it is");
        }
        check_passed(&report, Reason::BadLabel, 1, &["train_00070", "label 8"]);
        check_passed(&report, Reason::Unreadable, 1, &["train_00071"]);
        check_passed(&report, Reason::Missing, 1, &["test_00072"]);
        // A share of the training part, and nothing of the test, goes to validation.
        let tree = rafdb(folder, ending);
        let (store, _) = tree.prepare("rafdb", &["--val-share", "1"]);
        assert_eq!((store.split(Split::Val).len(), store.split(Split::Test).len()), (4, 3));
    }
    let tree = rafdb("aligned", "_aligned");
    tree.write("EmoLabel/list_patition_label.txt", "train_00001.jpg 5\nvalid_00002.jpg 5\n");
    let error = tree.refused("rafdb", &[]);
    assert!(error.contains("list_patition_label.txt: line 2") && error.contains("valid_00002"), "{error}");
}

#[test]
fn a_run_is_continued_and_shards_part_a_set() {
    let tree = rafdb("aligned", "_aligned");
    let (store, _) = tree.prepare("rafdb", &["--shard", "1/2"]);
    let first = store.len();
    assert!(first < 7);
    let (store, report) = tree.prepare("rafdb", &["--append"]);
    assert_eq!((store.len(), report.videos.stored_before), (7, first as u64));
    let folder = TempDir::new().unwrap();
    let empty = Tree(folder);
    fs::create_dir(empty.src()).unwrap();
    assert!(empty.refused("rafdb", &[]).contains("list_patition_label.txt"));
}

// AffectNet

const AFFECTNET_HEADER: &str = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,\
                                expression,valence,arousal";

/// 68 points on a square of 40 pixels with its corner at 20, 10.
fn square_points() -> Vec<[f64; 2]> {
    (0..68).map(|i| [20.0 + f64::from(i % 9) * 5.0, 10.0 + f64::from(i / 9) * 40.0 / 7.0]).collect()
}

fn affectnet() -> Tree {
    let tree = Tree::new();
    let landmarks: Vec<String> = square_points().iter().map(|[x, y]| format!("{x};{y}")).collect();
    let landmarks = landmarks.join(";");
    let row = |file: &str, box_: &str, landmarks: &str, label: &str, affect: &str| {
        format!("{file},{box_},{landmarks},{label},{affect}\n")
    };
    let bbox = "20,10,40,20";
    let mut training = format!("{AFFECTNET_HEADER}\n");
    for (file, label, affect) in [
        ("1/happy.jpg", "1", "0.5,-0.25"),
        ("1/contempt.jpg", "7", "-0.5,0.25"),
        ("1/none.jpg", "8", "0.1,0.2"),
        ("2/uncertain.jpg", "9", "-2,-2"),
        ("2/nobody.jpg", "10", "-2,-2"),
        ("2/bare.jpg", "6", "-2,-2"),
        ("2/eleven.jpg", "11", "0,0"),
        ("2/loud.jpg", "1", "0,3"),
        ("2/gone.jpg", "1", "0,0"),
    ] {
        training += &row(file, bbox, &landmarks, label, affect);
        if file != "2/gone.jpg" {
            tree.picture(&format!("Manually_Annotated_Images/{file}"), 100, 60);
        }
    }
    training += &row("2/few.jpg", bbox, "1;2;3", "0", "0,0");
    training += &row("2/flat.jpg", "5,5,0,0", &landmarks, "0", "0,0");
    tree.picture("Manually_Annotated_Images/2/few.jpg", 100, 60);
    tree.picture("Manually_Annotated_Images/2/flat.jpg", 100, 60);
    tree.write("training.csv", training);
    tree.picture("Manually_Annotated_Images/3/sad.png", 100, 60);
    let validation = row("3/sad.png", bbox, &landmarks, "2", "-0.75,-1");
    tree.write("validation.csv", format!("{AFFECTNET_HEADER}\n{validation}"));
    tree
}

#[test]
fn affectnet_of_the_first_layout_is_cut_by_its_boxes() {
    let tree = affectnet();
    let (store, report) = tree.prepare("affectnet", &["--val-share", "0", "--side-px", "80"]);
    assert_eq!(store.len(), 5);
    let happy = still(&store, "1/happy", "1/happy").unwrap();
    assert_eq!((happy.expression(), happy.split()), (Some(Expression::Happy), Split::Train));
    assert_eq!(happy.valence_arousal(), Some([0.5, -0.25]));
    let sad = still(&store, "3/sad", "3/sad").unwrap();
    assert_eq!((sad.expression(), sad.split()), (Some(Expression::Sad), Split::Test));
    let contempt = still(&store, "1/contempt", "1/contempt").unwrap();
    assert_eq!(contempt.expression(), Some(Expression::Contempt));
    let none = still(&store, "1/none", "1/none").unwrap();
    assert_eq!((none.expression(), none.valence_arousal()), (None, Some([0.1, 0.2])));
    let bare = still(&store, "2/bare", "2/bare").unwrap();
    assert_eq!((bare.expression(), bare.valence_arousal()), (Some(Expression::Angry), None));
    // The square about the box of 40 x 20 at 20, 10 begins at 20, 0 and is 40 wide; a pixel becomes two.
    let frame = happy.decode().unwrap();
    assert_eq!((frame.width(), frame.height()), (80, 80));
    let red = |x: usize, y: usize| i32::from(frame.rgb()[(y * 80 + x) * 3]);
    assert!((red(10, 40) - 25 * 255 / 100).abs() < 6 && (red(70, 40) - 55 * 255 / 100).abs() < 6);
    let expected: Vec<f32> =
        square_points().iter().flat_map(|[x, y]| [((x - 20.0) / 40.0) as f32, (y / 40.0) as f32]).collect();
    close(&happy.landmarks().unwrap(), &expected, 1e-4);
    check_passed(&report, Reason::LeftOut, 2, &["2/uncertain", "2/nobody", "no face"]);
    check_passed(
        &report,
        Reason::BadLabel,
        4,
        &["eleven", "expression 11", "loud", "few.jpg", "flat.jpg", "box"],
    );
    check_passed(&report, Reason::Missing, 1, &["2/gone.jpg"]);

    let (store, report) = affectnet().prepare("affectnet", &["--no-contempt"]);
    assert!(still(&store, "1/contempt", "1/contempt").is_none());
    check_passed(&report, Reason::LeftOut, 3, &["contempt"]);
}

#[test]
fn affectnet_is_aligned_by_its_own_landmarks() {
    let tree = Tree::new();
    // A face that leans by 90 degrees: its eyes are above each other.
    let mut points = vec![[50.0, 30.0]; 68];
    points[36..42].fill([60.0, 20.0]);
    points[42..48].fill([60.0, 40.0]);
    points[48] = [30.0, 22.0];
    points[54] = [30.0, 38.0];
    points[30] = [45.0, 30.0];
    let landmarks: Vec<String> = points.iter().map(|[x, y]| format!("{x};{y}")).collect();
    tree.picture("a.jpg", 100, 60);
    tree.write("training.csv", format!("{AFFECTNET_HEADER}\na.jpg,0,0,9,9,{},0,0,0\n", landmarks.join(";")));
    let (store, _) = tree.prepare("affectnet", &["--align"]);
    let upright = store.record(0).landmarks().unwrap();
    let y = |i: usize| upright[2 * i + 1];
    assert!((y(36) - y(42)).abs() < 0.01 && y(36) < y(48), "eyes level and above the mouth");
    assert!(upright[2 * 36] < upright[2 * 42]);
    assert_eq!(store.record(0).size(), Some((128, 128)));
}

#[test]
fn affectnet_of_the_second_layout_has_an_array_for_each_label() {
    let tree = Tree::new();
    let text = |set: &str, number: u32, labels: [&str; 3]| {
        tree.picture(&format!("{set}/images/{number}.jpg"), 32, 32);
        for (ending, label) in ["exp", "val", "aro"].iter().zip(labels) {
            tree.npy_text(&format!("{set}/annotations/{number}_{ending}.npy"), label);
        }
    };
    text("train_set", 0, ["3", "0.25", "0.5"]);
    text("train_set", 1, ["7", "-0.5", "-2"]);
    text("train_set", 2, ["9", "-2", "-2"]);
    text("train_set", 3, ["x", "0", "0"]);
    text("train_set", 4, ["2", "0", "1.5"]);
    text("val_set", 0, ["4", "-1", "1"]);
    let landmarks: Vec<f64> = square_points().concat();
    tree.npy("train_set/annotations/0_lnd.npy", &[136], &landmarks);
    tree.npy("val_set/annotations/0_lnd.npy", &[5], &landmarks[..5]);
    // Numbers instead of text are read as well.
    tree.picture("val_set/images/10.jpg", 32, 32);
    tree.npy("val_set/annotations/10_exp.npy", &[], &[5_i64]);
    tree.npy("val_set/annotations/10_val.npy", &[], &[0.5_f32]);
    tree.npy("val_set/annotations/10_aro.npy", &[], &[-0.5_f64]);
    tree.picture("val_set/images/11.jpg", 32, 32);
    tree.picture("val_set/images/12.jpg", 32, 32);
    tree.write("val_set/annotations/12_exp.npy", b"\x93NUMPY nothing");

    let (store, report) = tree.prepare("affectnet", &["--val-share", "0"]);
    assert_eq!(store.len(), 3);
    let first = still(&store, "train_set/0", "train_set/0").unwrap();
    assert_eq!((first.expression(), first.split()), (Some(Expression::Surprise), Split::Train));
    assert_eq!(first.valence_arousal(), Some([0.25, 0.5]));
    assert_eq!(first.jpeg(), fs::read(tree.src().join("train_set/images/0.jpg")).unwrap());
    close(
        &first.landmarks().unwrap(),
        &landmarks.iter().map(|v| (v / 32.0) as f32).collect::<Vec<_>>(),
        1e-5,
    );
    let contempt = still(&store, "train_set/1", "train_set/1").unwrap();
    assert_eq!((contempt.expression(), contempt.valence_arousal()), (Some(Expression::Contempt), None));
    let tenth = still(&store, "val_set/10", "val_set/10").unwrap();
    assert_eq!((tenth.expression(), tenth.split()), (Some(Expression::Disgust), Split::Test));
    assert_eq!(tenth.valence_arousal(), Some([0.5, -0.5]));
    check_passed(&report, Reason::LeftOut, 1, &["2.jpg", "uncertain"]);
    check_passed(&report, Reason::BadLabel, 2, &["4.jpg", "1.5", "0_lnd.npy has 5 values"]);
    check_passed(&report, Reason::Missing, 1, &["11_exp.npy"]);
    check_passed(&report, Reason::Unreadable, 2, &["12_exp.npy", "3_exp.npy"]);
}

// LFW and CPLFW

fn lfw(flat: bool) -> Tree {
    let tree = Tree::new();
    for (name, numbers) in [("Ann_Lee", 1..=3), ("Bo_Ray", 1..=2), ("Cy", 1..=1)] {
        for number in numbers {
            let folder = if flat { String::new() } else { format!("lfw/{name}/") };
            tree.picture(&format!("{folder}{name}_{number:04}.jpg"), 25, 25);
        }
    }
    let torn = if flat { "Di_0001.jpg" } else { "lfw/Di/Di_0001.jpg" };
    tree.write(torn, b"\xFF\xD8 torn");
    tree
}

#[test]
fn lfw_has_its_people_and_pairs() {
    let tree = lfw(false);
    let pairs = "2\t1\nAnn_Lee\t1\t3\nAnn_Lee\t2\tCy\t1\nBo_Ray\t1\t2\nDi\t1\tCy\t1\n";
    tree.write("pairs.txt", pairs);
    let (store, report) = tree.prepare("lfw", &[]);
    assert_eq!((store.len(), store.split(Split::Test).len()), (6, 6));
    assert_eq!(store.header().identities, ["Ann_Lee", "Bo_Ray", "Cy"]);
    let frame = |identity, video| still(&store, identity, video).unwrap().video().first as usize;
    let (found, missing) = store.pairs().unwrap().unwrap();
    let found: Vec<_> = found.iter().map(|p| (p.fold, p.same, p.a, p.b)).collect();
    let expected = [
        (0, true, frame("Ann_Lee", "0001"), frame("Ann_Lee", "0003")),
        (0, false, frame("Ann_Lee", "0002"), frame("Cy", "0001")),
        (1, true, frame("Bo_Ray", "0001"), frame("Bo_Ray", "0002")),
    ];
    assert_eq!((found.as_slice(), missing), (expected.as_slice(), 1));
    check_passed(&report, Reason::Unreadable, 1, &["Di_0001"]);
    let summary = Summary::of(&store).unwrap();
    assert_eq!(summary.pairs, Some(PairCounts { same: 2, different: 1, missing: 1 }));
    assert!(summary.to_string().contains("same 2, different 1"), "{summary}");
}

#[test]
fn lfw_as_a_flat_folder_with_pairs_elsewhere() {
    let tree = lfw(true);
    let list = tree.0.path().join("list.csv");
    let csv = "fold,same,a,b\n0,1,Ann_Lee_0001.jpg,Ann_Lee_0002.jpg\n9,0,Cy_0001.jpg,Bo_Ray_0002.jpg\n";
    fs::write(&list, csv).unwrap();
    let (store, _) = tree.prepare("lfw", &["--pairs", list.to_str().unwrap()]);
    let (pairs, missing) = store.pairs().unwrap().unwrap();
    let found: Vec<_> = pairs.iter().map(|p| (p.fold, p.same)).collect();
    assert_eq!((found.as_slice(), missing), ([(0, true), (9, false)].as_slice(), 0));
    assert_eq!(store.record(pairs[1].b).identity(), "Bo_Ray");
    assert!(store.dir().join(PAIRS).exists());
}

#[test]
fn lists_of_pairs_that_are_wrong_are_named() {
    let tree = lfw(false);
    let error = tree.refused("lfw", &[]);
    assert!(error.contains("pairs.txt") && error.contains("--pairs"), "{error}");
    for (list, part) in [
        ("10 300\nAnn_Lee 1 2\n", "10 x 2 x 300"),
        ("nothing\n", "header"),
        ("", "empty"),
        ("1 1\nAnn_Lee 1 2\nAnn_Lee 1 Cy x\n", "line 3"),
        ("1 1\nAnn_Lee 1 2\nAnn_Lee\n", "line 3"),
    ] {
        tree.write("pairs.txt", list);
        let error = tree.refused("lfw", &[]);
        assert!(error.contains("pairs.txt") && error.contains(part), "{error}");
    }
    for csv in ["fold,same,a,b\n0,2,Cy_0001.jpg,Cy_0001.jpg\n", "fold,same,a,b\n0,1,Cy,Cy_0001.jpg\n"] {
        let list = tree.0.path().join("list.csv");
        fs::write(&list, csv).unwrap();
        let error = tree.refused("lfw", &["--pairs", list.to_str().unwrap()]);
        assert!(error.contains("list.csv: line 2"), "{error}");
    }
}

#[test]
fn cplfw_has_two_lines_a_pair() {
    for folder in ["aligned images", "images"] {
        let tree = Tree::new();
        let mut list = String::new();
        for i in 1..=20 {
            tree.picture(&format!("{folder}/Ann_Lee_{i}.jpg"), 16, 16);
            let other = if i % 2 == 0 { format!("Ann_Lee_{}.jpg", i - 1) } else { "Bo_1.jpg".to_owned() };
            list += &format!("Ann_Lee_{i}.jpg {0}\n{other} {0}\n", u8::from(i % 2 == 0));
        }
        tree.picture(&format!("{folder}/Bo_1.jpg"), 16, 16);
        tree.write("pairs_CPLFW.txt", &list);
        let (store, _) = tree.prepare("cplfw", &[]);
        assert_eq!((store.len(), store.header().identities.len()), (21, 2));
        let (pairs, missing) = store.pairs().unwrap().unwrap();
        assert_eq!((pairs.len(), missing), (20, 0));
        for (i, pair) in pairs.iter().enumerate() {
            assert_eq!((pair.fold as usize, pair.same), (i / 2, i % 2 == 1));
            let people = [pair.a, pair.b].map(|frame| store.record(frame).identity());
            assert_eq!(people[0] == people[1], pair.same);
        }
        for (list, part) in [("Ann_Lee_1.jpg 1\nBo_1.jpg 0\n", "1 and 0"), ("Ann_Lee_1.jpg 1\n", "two lines")]
        {
            tree.write("pairs_CPLFW.txt", list);
            let error = tree.refused("cplfw", &["--append"]);
            assert!(error.contains("pairs_CPLFW.txt: line 1") && error.contains(part), "{error}");
        }
    }
}

// DISFA, BP4D and GFT

const DISFA_UNITS: [u8; 12] = [1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26];

/// `frames` frames of each unit; frame f has level f % 6 of AU12 and 0 of the others.
fn disfa_labels(tree: &Tree, subject: &str, frames: u32) {
    for unit in DISFA_UNITS {
        let level = |frame: u32| if unit == 12 { frame % 6 } else { 0 };
        let lines: String = (1..=frames).map(|f| format!("{f},{}\n", level(f))).collect();
        tree.write(&format!("ActionUnit_Labels/{subject}/{subject}_au{unit}.txt"), lines);
    }
}

#[test]
fn disfa_has_intensities_by_frame() {
    let tree = Tree::new();
    disfa_labels(&tree, "SN001", 7);
    disfa_labels(&tree, "SN002", 2);
    disfa_labels(&tree, "SN003", 2);
    for frame in [1, 2, 3, 5, 6, 9] {
        tree.picture(&format!("Images/SN001/{frame}.jpg"), 24, 18);
    }
    tree.picture("Images/SN002/1.png", 24, 18);
    tree.picture("Images/SN002/2.png", 24, 18);
    tree.write("Images/SN001/3.jpg", b"torn");
    let path = tree.path("ActionUnit_Labels/SN002/SN002_au4.txt");
    fs::write(path, "1,5\n2,6\nwhat\n").unwrap();
    fs::remove_file(tree.path("ActionUnit_Labels/SN002/SN002_au26.txt")).unwrap();

    let (store, report) = tree.prepare("disfa", &["--val-share", "0"]);
    assert_eq!(store.header().identities, ["SN001", "SN002"]);
    let times: Vec<f64> = (0..4).map(|i| store.record(i).t_secs()).collect();
    assert_eq!(times, [0.05, 0.1, 0.25, 0.3]);
    let smiles: Vec<f32> = (0..4).map(|i| unit(&store.record(i), 12)).collect();
    close(&smiles, &[0.2, 0.4, 1.0, 0.0], 1e-6);
    assert_eq!((unit(&store.record(0), 1), unit(&store.record(0), 7).is_nan()), (0.0, true));
    // Of the second subject, frame 2 has a level that there is none of, and nobody coded AU26.
    assert_eq!(store.len(), 5);
    assert_eq!((unit(&store.record(4), 4), unit(&store.record(4), 26).is_nan()), (1.0, true));
    check_passed(&report, Reason::NoLabel, 1, &["Images/SN001 (1 frames)"]);
    check_passed(&report, Reason::BadLabel, 2, &["2.png", "level 6 of AU4", "SN002_au4.txt: line 3"]);
    check_passed(&report, Reason::Unreadable, 1, &["SN001/3.jpg"]);
    check_passed(&report, Reason::Missing, 4, &["Images/SN001 (2 frames)", "SN002_au26.txt", "SN003"]);
}

#[test]
fn disfas_films_are_read_with_their_faces_cut_out() {
    if Command::new("ffmpeg").arg("-version").output().is_err() {
        eprintln!("skipped: the ffmpeg program is not installed");
        return;
    }
    let tree = Tree::new();
    let options = RenderOptions {
        width: 320,
        height: 240,
        face_share: (0.45, 0.55),
        fps: 20.0,
        pose_spread: 0.2,
        camera_effects: false,
        occluded: 0.0,
        ..RenderOptions::webcam()
    };
    let mut clip = ClipSource::new(3, 1, options).unwrap();
    let path = tree.path("Videos_LeftCamera/LeftVideoSN001_comp.avi");
    let mut ffmpeg = Command::new("ffmpeg")
        .args(["-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "320x240", "-r", "20"])
        .args(["-i", "pipe:0", "-c:v", "mpeg4", "-q:v", "2"])
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = ffmpeg.stdin.take().unwrap();
    for _ in 0..8 {
        std::io::Write::write_all(&mut pipe, clip.next_frame().unwrap().0.rgb()).unwrap();
    }
    drop(pipe);
    assert!(ffmpeg.wait().unwrap().success());
    disfa_labels(&tree, "SN001", 6);
    let error = tree.refused("disfa", &[]);
    assert!(error.contains("SN001_comp.avi") && error.contains("--align"), "{error}");

    let (store, report) = tree.prepare("disfa", &["--align"]);
    assert_eq!((store.len(), report.frames.read), (6, 8));
    for i in 0..6 {
        let record = store.record(i);
        close(&[unit(&record, 12)], &[((i + 1) % 6) as f32 / 5.0], 1e-6);
        assert!((record.t_secs() - i as f64 / 20.0).abs() < 1e-3);
        assert!(record.landmarks().is_some() && record.size() == Some((128, 128)));
    }
    check_passed(&report, Reason::NoLabel, 2, &["frame 7", "frame 8"]);
}

#[test]
fn bp4d_has_occurrences_by_frame() {
    for (coding, frames) in [("AUCoding", "Sequences"), ("AUCoding/AU_OCC", "2D+3D"), ("AUCoding", ".")] {
        let tree = Tree::new();
        let csv = "0,1,2,3,12,24\n20,1,0,1,1,9\n21,0,1,9,9,0\n22,0,0,0,2,0\n23,0,0,0,0,0\nx,1,1,1,1,1\n";
        tree.write(&format!("{coding}/F001_T1.csv"), csv);
        tree.write(&format!("{coding}/M002_T8.csv"), csv);
        tree.write(&format!("{coding}/F003_T1.csv"), "frame,words\n1,2\n");
        for frame in 19..=22 {
            tree.picture(&format!("{frames}/F001/T1/{frame:04}.jpg"), 20, 20);
        }
        tree.picture(&format!("{frames}/F003/T1/1.jpg"), 20, 20);
        let (store, report) = tree.prepare("bp4d", &["--val-share", "0"]);
        assert_eq!(store.len(), 2);
        let (first, second) = (store.record(0), store.record(1));
        assert_eq!((first.identity(), first.video().name.as_str()), ("F001", "T1"));
        assert_eq!([1, 2, 12].map(|n| unit(&first, n)), [1.0, 0.0, 1.0]);
        assert_eq!([1, 2, 24].map(|n| unit(&second, n)), [0.0, 1.0, 0.0]);
        assert!([24, 43].iter().all(|&n| unit(&first, n).is_nan()) && unit(&second, 12).is_nan());
        assert!((second.t_secs() - first.t_secs() - 0.04).abs() < 1e-9);
        check_passed(&report, Reason::NoLabel, 1, &["F001/T1 (1 frames)"]);
        check_passed(&report, Reason::BadLabel, 2, &["0022.jpg", "'2' for AU12", "row 6"]);
        check_passed(&report, Reason::Missing, 2, &["M002/T8", "F001/T1 (1 frames)"]);
        check_passed(&report, Reason::Unreadable, 1, &["F003_T1.csv", "no action unit"]);
    }
}

#[test]
fn gft_has_its_partition() {
    let tree = Tree::new();
    for subject in ["001A", "001B", "002A"] {
        tree.write(&format!("aucoding/{subject}.csv"), "frame,AU1,AU12\n12,1,0\n13,9,1\n14,0,-3\n");
        for frame in 12..=14 {
            tree.picture(&format!("images/{subject}/frame{frame}.jpg"), 20, 20);
        }
    }
    tree.write("train.csv", "001A\n001B\n");
    tree.write("test.csv", "subject\n002A\n");
    let (store, report) = tree.prepare("gft", &["--val-share", "0"]);
    let splits: Vec<_> =
        (0..store.len()).map(|i| (store.record(i).identity(), store.record(i).split())).collect();
    let of = |subject, split| vec![(subject, split); 2];
    let expected = [of("001A", Split::Train), of("001B", Split::Train), of("002A", Split::Test)].concat();
    assert_eq!(splits, expected);
    assert_eq!((unit(&store.record(0), 1), unit(&store.record(1), 12)), (1.0, 1.0));
    assert!(unit(&store.record(1), 1).is_nan());
    check_passed(&report, Reason::BadLabel, 3, &["001A/frame14.jpg", "'-3' for AU12"]);
}

// 300W-LP and AFLW2000

/// A MAT-file of version 5 with arrays of doubles: name, rows, columns, values by columns.
fn mat(arrays: &[(&str, [i32; 2], &[f64])]) -> Vec<u8> {
    fn element(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = [kind.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }
    let mut file = vec![b' '; 124];
    file.extend([0, 1, b'I', b'M']);
    for (name, sizes, values) in arrays {
        let sizes: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
        let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let parts = [
            element(6, &[6, 0, 0, 0, 0, 0, 0, 0]),
            element(5, &sizes),
            element(1, name.as_bytes()),
            element(9, &values),
        ];
        file.extend(element(14, &parts.concat()));
    }
    file
}

type Matrix = [[f64; 3]; 3];

fn product(a: Matrix, b: Matrix) -> Matrix {
    std::array::from_fn(|i| std::array::from_fn(|j| (0..3).map(|k| a[i][k] * b[k][j]).sum()))
}

/// The publishers' rotation of these angles in radians, as their MATLAB code builds it: the product of the three matrices
/// about x, y and z, each of which turns clockwise.
fn published_rotation(pitch: f64, yaw: f64, roll: f64) -> Matrix {
    let (sx, cx) = pitch.sin_cos();
    let (sy, cy) = yaw.sin_cos();
    let (sz, cz) = roll.sin_cos();
    let x = [[1.0, 0.0, 0.0], [0.0, cx, sx], [0.0, -sx, cx]];
    let y = [[cy, 0.0, -sy], [0.0, 1.0, 0.0], [sy, 0.0, cy]];
    let z = [[cz, sz, 0.0], [-sz, cz, 0.0], [0.0, 0.0, 1.0]];
    product(product(x, y), z)
}

/// A face's 68 points in 3D: x to the right, y up, z towards the camera, in units of half the distance of its eyes.
fn face_points() -> [[f64; 3]; 68] {
    let arc = |n: usize, i: usize| i as f64 / (n - 1) as f64 * 2.0 - 1.0;
    std::array::from_fn(|i| match i {
        0..17 => {
            let angle = arc(17, i) * FRAC_PI_2;
            [1.8 * angle.sin(), 0.2 - 2.4 * angle.cos(), -1.2 + 0.9 * angle.cos()]
        }
        17..22 => [-0.85 + 0.44 * arc(5, i - 17), 0.75, 0.05],
        22..27 => [0.85 + 0.44 * arc(5, i - 22), 0.75, 0.05],
        27..31 => [0.0, 0.3 - 0.27 * (i - 27) as f64, 0.4 + 0.15 * (i - 27) as f64],
        31..36 => [0.28 * arc(5, i - 31), -0.65, 0.5],
        36..48 => {
            let (side, k) = if i < 42 { (-1.0, i - 36) } else { (1.0, i - 42) };
            let angle = std::f64::consts::PI - k as f64 * std::f64::consts::PI / 3.0;
            [side * 0.7 + 0.3 * angle.cos(), 0.35 + 0.1 * angle.sin(), -0.1]
        }
        48..60 => {
            let angle = std::f64::consts::PI - (i - 48) as f64 * std::f64::consts::PI / 6.0;
            [0.6 * angle.cos(), -1.15 + 0.25 * angle.sin(), 0.25]
        }
        _ => {
            let angle = std::f64::consts::PI - (i - 60) as f64 * std::f64::consts::PI / 4.0;
            [0.5 * angle.cos(), -1.15 + 0.05 * angle.sin(), 0.25]
        }
    })
}

/// Where the points come to lie in a picture of `height` pixels, whose pixels count from 1: two values a point.
fn photographed(pitch: f64, yaw: f64, roll: f64, height: f64) -> Vec<f64> {
    let rotation = published_rotation(pitch, yaw, roll);
    face_points()
        .iter()
        .flat_map(|point| {
            let turned: [f64; 3] =
                std::array::from_fn(|i| (0..3).map(|k| rotation[i][k] * point[k]).sum::<f64>() * 40.0);
            [225.0 + turned[0], height + 1.0 - (225.0 + turned[1])]
        })
        .collect()
}

fn pose_mat(landmarks: &str, angles_deg: [f64; 3]) -> Vec<u8> {
    let [pitch, yaw, roll] = angles_deg.map(f64::to_radians);
    let flat = photographed(pitch, yaw, roll, 450.0);
    let (rows, values) = match landmarks {
        "pt2d" => (2, flat),
        _ => (3, flat.chunks(2).flat_map(|p| [p[0], p[1], 7.0]).collect()),
    };
    mat(&[
        ("roi", [1, 4], &[1.0, 450.0, 1.0, 450.0]),
        ("Pose_Para", [1, 7], &[pitch, yaw, roll, 60.0, 60.0, -65.0, 0.001]),
        (landmarks, [rows, 68], &values),
    ])
}

/// Pitch, yaw and roll as published, in degrees.
const ANGLES: [[f64; 3]; 7] = [
    [0.0, 0.0, 0.0],
    [0.0, 30.0, 0.0],
    [0.0, -30.0, 0.0],
    [20.0, 0.0, 0.0],
    [-20.0, 0.0, 0.0],
    [0.0, 0.0, 25.0],
    [5.0, -20.0, -10.0],
];

/// That the poses are those that the landmarks show, seen by whoever does not know how the publishers count.
fn check_poses(store: &Store, names: &[(String, String)]) {
    for ((identity, video), [pitch, yaw, roll]) in names.iter().zip(ANGLES) {
        let record = still(store, identity, video).unwrap();
        let stored = record.pose().unwrap();
        close(&stored, &[-yaw as f32, pitch as f32, roll as f32], 1e-3);
        let landmarks = record.landmarks().unwrap();
        let points: [Point; 68] =
            std::array::from_fn(|i| Point::new(landmarks[2 * i] * 128.0, landmarks[2 * i + 1] * 128.0));
        // The tip of the nose leaves the middle of the face to the side that the face looks to.
        let middle = (points[0].x + points[16].x) / 2.0;
        let offset = points[30].x - middle;
        assert!(stored[0].abs() < 1.0 || offset.signum() == stored[0].signum(), "{stored:?}: {offset}");
        // The outer corners of the eyes slope as the head is tilted; y grows downwards.
        let slope = points[45].y - points[36].y;
        assert!(stored[2].abs() < 1.0 || slope.signum() == stored[2].signum(), "{stored:?}: {slope}");
        let found = head_pose(&points, 128, 128).unwrap();
        let found = [found.yaw_deg, found.pitch_deg, found.roll_deg];
        for (angle, (stored, found)) in stored.iter().zip(found).enumerate() {
            // This face is not the mean face, and has a tilt of its own.
            let level = if angle == 1 { still_pitch(store, &names[0]) } else { 0.0 };
            assert!((stored - (found - level)).abs() < 12.0, "angle {angle}: {stored} is seen as {found}");
        }
    }
}

/// The pitch that is seen of the face that looks straight ahead.
fn still_pitch(store: &Store, (identity, video): &(String, String)) -> f32 {
    let landmarks = still(store, identity, video).unwrap().landmarks().unwrap();
    let points = std::array::from_fn(|i| Point::new(landmarks[2 * i] * 128.0, landmarks[2 * i + 1] * 128.0));
    head_pose(&points, 128, 128).unwrap().pitch_deg
}

#[test]
fn poses_of_300w_lp_are_those_that_the_landmarks_show() {
    let tree = Tree::new();
    let mut names = Vec::new();
    for (i, angles) in ANGLES.into_iter().enumerate() {
        let subset = ["AFW", "HELEN_Flip"][i % 2];
        tree.picture(&format!("{subset}/P_{i}_1_0.jpg"), 450, 450);
        tree.write(&format!("{subset}/P_{i}_1_0.mat"), pose_mat("pt2d", angles));
        names.push((format!("P_{i}_1"), format!("{subset}/P_{i}_1_0")));
    }
    for (name, content) in [
        ("far", pose_mat("pt2d", [0.0, 100.0, 0.0])),
        ("torn", pose_mat("pt2d", [0.0; 3])[..900].to_vec()),
        ("poor", mat(&[("Pose_Para", [1, 7], &[0.0; 7])])),
        ("odd", mat(&[("Pose_Para", [1, 2], &[0.0; 2]), ("pt2d", [2, 68], &[1.0; 136])])),
        ("dot", mat(&[("Pose_Para", [1, 7], &[0.0; 7]), ("pt2d", [2, 68], &[9.0; 136])])),
        ("wide", mat(&[("Pose_Para", [1, 7], &[0.0; 7]), ("pt2d", [68, 2], &[9.0; 136])])),
    ] {
        tree.picture(&format!("LFPW/{name}_0.jpg"), 50, 50);
        tree.write(&format!("LFPW/{name}_0.mat"), content);
    }
    tree.picture("IBUG/alone_0.jpg", 50, 50);
    let (store, report) = tree.prepare("300w-lp", &["--val-share", "0"]);
    assert_eq!(store.len(), ANGLES.len());
    check_poses(&store, &names);
    check_passed(&report, Reason::LeftOut, 1, &["far_0.jpg", "100 degrees"]);
    check_passed(&report, Reason::BadLabel, 4, &["'pt2d'", "odd_0", "dot_0", "wide_0", "[68, 2]"]);
    check_passed(&report, Reason::Unreadable, 1, &["torn_0"]);
    check_passed(&report, Reason::Missing, 1, &["alone_0"]);
    let error = tree.refused("300w-lp", &["--append", "--align"]);
    assert!(error.contains("--align") && error.contains("300w-lp"), "{error}");
}

#[test]
fn what_is_made_of_one_photograph_is_in_one_split() {
    let tree = Tree::new();
    for photograph in 0..12 {
        for (subset, view) in [("AFW", 0), ("AFW", 17), ("AFW_Flip", 3)] {
            let name = format!("{subset}/AFW_{photograph}_1_{view}");
            tree.picture(&format!("{name}.jpg"), 450, 450);
            tree.write(&format!("{name}.mat"), pose_mat("pt2d", [0.0; 3]));
        }
    }
    let (store, _) = tree.prepare("300w-lp", &["--val-share", "0.5", "--side-px", "32"]);
    assert_eq!(store.header().identities.len(), 12);
    let mut splits = std::collections::BTreeMap::new();
    for record in (0..store.len()).map(|i| store.record(i)) {
        assert_eq!(*splits.entry(record.identity()).or_insert(record.split()), record.split());
    }
    assert!(splits.values().any(|s| *s == Split::Val) && splits.values().any(|s| *s == Split::Train));
}

#[test]
fn aflw2000_is_a_flat_folder_for_the_test() {
    let tree = Tree::new();
    let mut names = Vec::new();
    for (i, angles) in ANGLES.into_iter().enumerate() {
        let name = format!("image{i:05}");
        tree.picture(&format!("{name}.jpg"), 450, 450);
        tree.write(&format!("{name}.mat"), pose_mat("pt3d_68", angles));
        names.push((name.clone(), name));
    }
    tree.picture("image00099.jpg", 50, 50);
    tree.write("image00099.mat", pose_mat("pt3d_68", [-120.0, 0.0, 0.0]));
    let (store, report) = tree.prepare("aflw2000", &[]);
    assert_eq!(store.split(Split::Test).len(), ANGLES.len());
    check_poses(&store, &names);
    check_passed(&report, Reason::LeftOut, 1, &["image00099"]);
}

// BU-3DFE

#[test]
fn bu3dfe_has_poses_from_its_list_and_expressions_from_its_names() {
    let tree = Tree::new();
    let mut csv = "file,yaw,pitch\n".to_owned();
    for (i, letters) in ["AN", "DI", "FE", "HA", "NE", "SA", "SU", "XX"].iter().enumerate() {
        let file = format!("F{i:04}/F{i:04}_{letters}01WH_F2D_view{i}.png");
        tree.picture(&file, 30, 30);
        csv += &format!("{file},{},-15\n", 15 * i);
    }
    csv += "F0009/F0009_AN01WH_F2D.png,400,0\nF0009/F0009_AN02WH_F2D.png,0,0\n";
    tree.picture("F0009/F0009_AN01WH_F2D.png", 30, 30);
    tree.write("poses.csv", &csv);
    let (store, report) = tree.prepare("bu3dfe", &[]);
    use Expression::{Angry, Disgust, Fear, Happy, Neutral, Sad, Surprise};
    for (i, expression) in [Angry, Disgust, Fear, Happy, Neutral, Sad, Surprise].into_iter().enumerate() {
        let record = store.record(i);
        assert_eq!((record.expression(), record.identity()), (Some(expression), format!("F{i:04}").as_str()));
        close(&record.pose().unwrap(), &[15.0 * i as f32, -15.0, 0.0], 1e-3);
    }
    assert_eq!(store.len(), 7);
    check_passed(&report, Reason::BadLabel, 2, &["'XX'", "yaw 400"]);
    check_passed(&report, Reason::Missing, 1, &["F0009_AN02WH"]);
    fs::remove_file(tree.path("poses.csv")).unwrap();
    assert!(tree.refused("bu3dfe", &["--append"]).contains("poses.csv"));
}

// MAFL

#[test]
fn mafl_has_five_points() {
    for (folder, anno) in [("Img/img_align_celeba", "Anno/"), ("img_align_celeba", "")] {
        let tree = Tree::new();
        let head = "5\nlefteye_x lefteye_y righteye_x righteye_y nose_x nose_y \
                    leftmouth_x leftmouth_y rightmouth_x rightmouth_y\n";
        let rows = "000001.jpg 69  109  106  113   77  142   73  152  108  154\n\
                    000002.jpg 10 20 30 40 50 60 70 80 90 100\n\
                    000003.jpg 1 2 3\n\
                    000005.jpg 1 2 3 4 5 6 7 8 9 10\n";
        tree.write(&format!("{anno}list_landmarks_align_celeba.txt"), format!("{head}{rows}"));
        tree.write("training.txt", "000001.jpg\n000003.jpg\n000004.jpg\n");
        tree.write("testing.txt", "000002.jpg\n000005.jpg\n");
        for number in 1..=4 {
            tree.picture(&format!("{folder}/{number:06}.jpg"), 178, 218);
        }
        let (store, report) = tree.prepare("mafl", &["--val-share", "0"]);
        assert_eq!(store.len(), 2);
        let first = still(&store, "000001", "000001").unwrap();
        let expected = [69.0, 109.0, 106.0, 113.0, 77.0, 142.0, 73.0, 152.0, 108.0, 154.0];
        let sides = [178.0, 218.0];
        let expected: Vec<f32> = expected.iter().enumerate().map(|(i, v)| v / sides[i % 2]).collect();
        close(&first.five_points().unwrap(), &expected, 1e-6);
        assert_eq!(first.split(), Split::Train);
        assert_eq!(first.jpeg(), fs::read(tree.src().join(folder).join("000001.jpg")).unwrap());
        assert_eq!(still(&store, "000002", "000002").unwrap().split(), Split::Test);
        assert_eq!(Summary::of(&store).unwrap().labels["five_points"], 2);
        check_passed(&report, Reason::BadLabel, 1, &["000003.jpg", "ten numbers"]);
        check_passed(&report, Reason::NoLabel, 1, &["000004.jpg"]);
        check_passed(&report, Reason::Missing, 1, &["000005.jpg"]);
    }
}

// 300-W

#[test]
fn w300_has_landmarks_and_keeps_its_subsets_apart() {
    let tree = Tree::new();
    let pts = |shift: f64| {
        let points: String =
            square_points().iter().map(|[x, y]| format!("{:.3} {:.3}\n", x + shift, y + shift)).collect();
        format!("version: 1\nn_points:  68\n{{\n{points}}}\n")
    };
    for (file, extension) in [
        ("afw/1051618982_1", "jpg"),
        ("helen/trainset/100032540_1", "jpg"),
        ("helen/testset/296814969_3", "jpg"),
        ("ibug/image_003_1", "jpg"),
        ("lfpw/trainset/image_0001", "png"),
        ("lfpw/testset/image_0001", "png"),
        ("lfpw/testset/image_0002", "png"),
    ] {
        tree.picture(&format!("{file}.{extension}"), 100, 80);
        tree.write(&format!("{file}.pts"), pts(0.0));
    }
    tree.write("lfpw/testset/image_0002.pts", "version: 1\nn_points: 2\n{\n1 2\n3 4\n}\n");
    tree.write("ibug/image_004.pts", pts(0.0));
    tree.write("ibug/image_005.jpg", b"torn");
    tree.write("ibug/image_005.pts", pts(0.0));
    let (store, report) = tree.prepare("300-w", &["--val-share", "0", "--side-px", "64"]);
    let of =
        |split| -> Vec<&str> { store.split(split).into_iter().map(|i| store.record(i).identity()).collect() };
    assert_eq!(
        of(Split::Train),
        ["afw/1051618982_1", "helen/trainset/100032540_1", "lfpw/trainset/image_0001"]
    );
    assert_eq!(of(Split::Test), ["helen/testset/296814969_3", "lfpw/testset/image_0001", "ibug/image_003_1"]);
    let record = still(&store, "ibug/image_003_1", "ibug/image_003_1").unwrap();
    assert_eq!(record.size(), Some((64, 64)));
    // The box is 40 x 40 at 19.5, 9.5, where the first pixel's middle is at 0.5: the square is 60.8 wide about 39.5, 23.9.
    let (left, top, side) = (39.5 - 30.4, 23.9 - 30.4, 60.8);
    let expected: Vec<f32> = square_points()
        .iter()
        .flat_map(|[x, y]| [((x - 0.5 - left) / side) as f32, ((y - 0.5 - top) / side) as f32])
        .collect();
    close(&record.landmarks().unwrap(), &expected, 1e-4);
    check_passed(&report, Reason::BadLabel, 1, &["image_0002.png", "4 coordinates"]);
    check_passed(&report, Reason::Missing, 1, &["ibug/image_004.pts"]);
    check_passed(&report, Reason::Unreadable, 1, &["image_005.jpg"]);
}

// EmotioNet

#[test]
fn emotionet_has_action_units_by_position_or_name() {
    let tree = Tree::new();
    let row = |file: &str, set: &[(usize, &str)]| {
        let mut units = vec!["999"; 60];
        set.iter().for_each(|(unit, value)| units[unit - 1] = value);
        format!("http://host/Images/N_1/{file}\thttp://elsewhere/{file}\t{}\n", units.join("\t"))
    };
    let list = [
        row("N_1_00001.jpg", &[(1, "1"), (12, "0"), (43, "1"), (60, "1")]),
        row("N_1_00002.jpg", &[(2, "-1"), (26, "1")]),
        row("N_1_00003.jpg", &[(12, "7")]),
        row("N_1_00004.jpg", &[(60, "1")]),
        row("N_1_00005.jpg", &[(1, "1")]),
        row("N_1_00006.jpg", &[(1, "1")]),
    ];
    tree.write("dataFile_0001.txt", list.concat());
    tree.write("named.csv", "URL,AU4,AU25\nhttp://host/a/other.jpg,1,0\n");
    for number in 1..=4 {
        tree.picture(&format!("images/dataFile_0001/N_1_{number:05}.jpg"), 20, 20);
    }
    tree.picture("other.jpg", 20, 20);
    tree.write("N_1_00006.jpg", b"torn");
    let (store, report) = tree.prepare("emotionet", &[]);
    assert_eq!(store.len(), 3);
    let first = still(&store, "N_1_00001", "N_1_00001").unwrap();
    assert_eq!([1, 12, 43].map(|n| unit(&first, n)), [1.0, 0.0, 1.0]);
    assert!(unit(&first, 2).is_nan());
    let second = still(&store, "N_1_00002", "N_1_00002").unwrap();
    assert_eq!((unit(&second, 26), unit(&second, 2).is_nan()), (1.0, true));
    let other = still(&store, "other", "other").unwrap();
    assert_eq!((unit(&other, 4), unit(&other, 25), unit(&other, 1).is_nan()), (1.0, 0.0, true));
    check_passed(&report, Reason::BadLabel, 1, &["N_1_00003.jpg", "'7' for AU12"]);
    check_passed(&report, Reason::NoLabel, 1, &["N_1_00004.jpg"]);
    check_passed(&report, Reason::Missing, 1, &["N_1_00005.jpg"]);
    check_passed(&report, Reason::Unreadable, 1, &["N_1_00006.jpg"]);
}

// Flags

#[test]
fn flags_that_a_layout_has_no_use_for_are_refused() {
    let tree = rafdb("aligned", "_aligned");
    for (flags, part) in [
        (["--fps", "5"].as_slice(), "--fps"),
        (&["--pairs", "x.csv"], "--pairs"),
        (&["--no-contempt"], "--no-contempt"),
        (&["--align", "--all-faces"], "one face"),
    ] {
        let error = tree.refused("rafdb", flags);
        assert!(error.contains(part) && error.contains("rafdb"), "{error}");
    }
    let error = tree.refused("fer2013", &["--align"]);
    assert!(error.contains("--align") && error.contains("fer2013"), "{error}");
}

#[test]
fn stills_are_aligned_and_keep_their_labels() {
    let tree = Tree::new();
    let options = RenderOptions { width: 160, height: 160, occluded: 0.0, ..RenderOptions::webcam() };
    let mut list = String::new();
    for (i, label) in [(1_u64, 4), (2, 6)] {
        let (frame, _) = ClipSource::new(i, i, options.clone()).unwrap().next_frame().unwrap();
        let picture = RgbImage::from_raw(160, 160, frame.rgb().to_vec()).unwrap();
        picture.save(tree.path(&format!("Image/original/train_{i:05}.png"))).unwrap();
        fs::rename(
            tree.path(&format!("Image/original/train_{i:05}.png")),
            tree.path(&format!("Image/original/train_{i:05}.jpg")),
        )
        .unwrap();
        list += &format!("train_{i:05}.jpg {label}\n");
    }
    tree.picture("Image/original/test_00003.jpg", 160, 160);
    list += "test_00003.jpg 1\ntest_00004.jpg 9\n";
    tree.picture("Image/original/test_00004.jpg", 160, 160);
    tree.write("EmoLabel/list_patition_label.txt", list);
    let (store, report) = tree.prepare("rafdb", &["--align", "--min-face-px", "20"]);
    let found: Vec<_> = (0..store.len()).map(|i| store.record(i).expression().unwrap()).collect();
    assert_eq!(found, [Expression::Happy, Expression::Angry]);
    assert!((0..2).all(|i| store.record(i).landmarks().is_some() && store.record(i).pose().is_some()));
    check_passed(&report, Reason::NoFace, 1, &["test_00003"]);
    check_passed(&report, Reason::BadLabel, 1, &["test_00004"]);
}
