//! `trainer make`: a bundle with its card out of a data set, and on from where it was stopped; the recipes of the shipped bundles.

#![allow(clippy::unwrap_used)]

mod npz;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use npz::{npz, write_array};
use semblance_calib::{HeadKind, Heads};
use semblance_face::Bundle;
use semblance_face::labels::ACTION_UNITS;
use semblance_trainer::config::layered;
use semblance_trainer::joint::JointConfig;
use semblance_trainer::make::{MakeArgs, Recipe, make};
use semblance_trainer::prepare::Layout;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: MakeArgs,
}

/// FER-2013 as an .npz with votes and action units: each of seven expressions is a grey level, with a grain that tells pictures
/// apart; everybody votes for it, and lips are parted (AU25) in the lighter ones. Nobody knows of other units.
fn data_set(file: &Path) {
    const COUNT: usize = 140;
    let mut npz = npz(file);
    let labels: Vec<u8> = (0..COUNT).map(|i| (i % 7) as u8).collect();
    let usage: Vec<u8> = (0..COUNT).map(|i| [0, 0, 0, 1, 2][i / 7 % 5]).collect();
    let pixel = |i: usize, p: usize| (30 * (i % 7) + 20 + (p * (i + 3)) % 8) as u8;
    let images: Vec<u8> = (0..COUNT).flat_map(|i| (0..48 * 48).map(move |p| pixel(i, p))).collect();
    // FER-2013's angry, disgust, fear, happy, sad, surprise and neutral in FER+'s order.
    let votes = labels.iter().flat_map(|&label| {
        let column = [4, 5, 6, 1, 3, 2, 0][usize::from(label)];
        (0..10).map(move |i| if i == column { 10u8 } else { 0 })
    });
    let parted = ACTION_UNITS.iter().position(|&unit| unit == 25).unwrap();
    let units = labels.iter().flat_map(|&label| {
        let light = f32::from(u8::from(label > 3));
        (0..ACTION_UNITS.len()).map(move |i| if i == parted { light } else { f32::NAN })
    });
    let count = COUNT as u64;
    write_array(&mut npz, "images", &[count, 48, 48], images.iter().copied());
    write_array(&mut npz, "labels", &[count], labels.iter().copied());
    write_array(&mut npz, "usage", &[count], usage.iter().copied());
    write_array(&mut npz, "ferplus_votes", &[count, 10], votes);
    write_array(&mut npz, "action_units", &[count, ACTION_UNITS.len() as u64], units);
}

const PRETRAIN: &str = r#"
[pretrain]
method = "simclr"
backbone = "8/16/16"
side_px = 32
epochs = 1
batch = 16
"#;

const RECIPE: &str = r#"
name = "tiny"
layout = "fer2013"
card = "A test's."
[joint]
backbone = "8/16/16"
side_px = 32
epochs = 12
warmup_epochs = 1
optimizer = "sgd"
lr = 0.05
weight_decay = 5e-4
mixup = 0.2
[joint.augment]
jitter_p = 0.0
mask_p = 0.0
[[joint.sources]]
name = "faces"
batch = 12
lessons = ["expression", "circumplex", "action-units"]
"#;

#[test]
fn a_recipe_becomes_a_bundle_whose_card_and_manifest_have_its_scores() {
    tch::set_num_threads(1);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    data_set(Path::new(&at("fer.npz")));
    fs::write(at("recipe.toml"), format!("{RECIPE}{PRETRAIN}")).unwrap();
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/default");
    let args = |more: &[&str]| {
        let own = ["make", "--recipe", &at("recipe.toml"), "--src", &at("fer.npz"), "--work", &at("work")];
        let own = own.into_iter().chain(["--bundle", shipped, "--out"]).map(str::to_owned);
        let out = [at("bundle")].into_iter().chain(more.iter().map(|&arg| arg.to_owned()));
        Cli::try_parse_from(own.chain(out)).unwrap().args
    };
    // What is wrong is told before anything is done.
    for wrong in [
        MakeArgs { teachers: vec!["nowhere".into()], ..args(&[]) },
        MakeArgs { judged: vec![("x".to_owned(), "nowhere".into())], ..args(&[]) },
        MakeArgs { bundle: "nowhere".into(), ..args(&[]) },
    ] {
        let error = format!("{:#}", make(&wrong, &AtomicBool::new(false)).unwrap_err());
        assert!(error.contains("nowhere") && !Path::new(&at("work")).exists(), "{error}");
    }

    // Stopped while it pretrains; called again, it goes on.
    make(&args(&[]), &AtomicBool::new(true)).unwrap();
    assert!(Path::new(&at("work/pretrain")).exists() && !Path::new(&at("work/joint")).exists());
    let judged = format!("again={}", at("work/store"));
    let args = args(&["--judge", &judged]);
    make(&args, &AtomicBool::new(false)).unwrap();

    let bundle = Bundle::open(Path::new(&at("bundle"))).unwrap();
    let heads = Heads::from_safetensors(bundle.heads_safetensors()).unwrap();
    assert_eq!(heads.expression().unwrap().labels().len(), 7);
    assert_eq!(heads.get(HeadKind::ValenceArousal).unwrap().labels(), ["valence", "arousal"]);
    assert_eq!(heads.get(HeadKind::ActionUnits).unwrap().labels(), ["AU25"]);
    assert!(heads.neutral().is_some());
    // The networks that find faces are the other bundle's.
    let theirs = Bundle::open(Path::new(shipped)).unwrap();
    assert!(bundle.finder_onnx().is_some() && bundle.finder_onnx() == theirs.finder_onnx());
    assert!(bundle.landmarks_onnx().is_some() && bundle.landmarks_onnx() == theirs.landmarks_onnx());
    assert!(Path::new(&at("bundle/FACES_CARD.md")).exists());

    let manifest: toml::Table = fs::read_to_string(at("bundle/bundle.toml")).unwrap().parse().unwrap();
    let score = |name: &str| manifest["scores"][name].as_float().unwrap();
    // Seven grey levels are told apart; a guess is right one time in seven.
    assert!(score("accuracy") > 0.5, "{manifest:?}");
    assert!((0.0..=1.0).contains(&score("ece")) && (0.0..=1.0).contains(&score("linear_probe_pretrained")));
    let card = fs::read_to_string(at("bundle/MODEL_CARD.md")).unwrap();
    for told in [
        "# Model card: tiny\n\nA test's.",
        &format!("Accuracy {:.4}", score("accuracy")),
        "linear probe, random weights",
        "faces shrunk to 24 px",
        "mean grey level",
        // A grey square is nobody's face.
        "| landmarks do not tell how far it is turned | 28 |",
        "| again | 140 |",
        "AU25",
        "word's valence",
    ] {
        assert!(card.contains(told), "{told}: {card}");
    }

    // What is done is not done again, and gives the same; but not with another teacher.
    let before = fs::read(at("bundle/encoder.onnx")).unwrap();
    fs::remove_file(at("fer.npz")).unwrap();
    make(&args, &AtomicBool::new(false)).unwrap();
    assert_eq!(fs::read(at("bundle/encoder.onnx")).unwrap(), before);
    let taught = MakeArgs { teachers: vec![at("work/joint").into()], ..args.clone() };
    let error = format!("{:#}", make(&taught, &AtomicBool::new(false)).unwrap_err());
    assert!(error.contains("none as its teacher 1") && error.contains("another --work"), "{error}");
    // Nor from a part of the data.
    let report = at("work/store/prepare-report.json");
    let told = fs::read_to_string(&report).unwrap();
    fs::write(&report, told.replace("\"finished\": true", "\"finished\": false")).unwrap();
    let error = format!("{:#}", make(&args, &AtomicBool::new(false)).unwrap_err());
    assert!(error.contains("work/store: this store was not finished"), "{error}");
    assert_eq!(fs::read(at("bundle/encoder.onnx")).unwrap(), before);
}

#[test]
fn the_recipes_of_the_shipped_bundles_are_valid() {
    let file = |name| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("recipes/{name}.toml"));
    for name in ["default", "small"] {
        let recipe: Recipe = layered(Some(&file(name)), toml::Table::new()).unwrap();
        assert_eq!((recipe.name.as_str(), recipe.layout), (name, Layout::Fer2013));
        recipe.joint.check().unwrap();
        assert!(recipe.joint.sources.iter().any(|source| source.name == "faces"), "{name}");
        // The card is about what is trained.
        assert!(recipe.card.contains(&format!("`{}`", recipe.joint.backbone)), "{name}");
    }
    // What comes before the first of them is `trainer joint` by hand.
    layered::<JointConfig>(Some(&file("default-first")), toml::Table::new()).unwrap().check().unwrap();
}
