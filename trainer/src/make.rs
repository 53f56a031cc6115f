//! `trainer make`: a bundle from data, by a recipe: prepare, pretrain, probe, train the heads, export, check.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use clap::Args;
use semblance_face::Bundle;
use serde::Deserialize;

use crate::checkpoint::{Checkpoint, FILE_NAME};
use crate::data::Clips;
use crate::eval::{Beside, CardFigures, Loaded, Report, bundle_report, encoder_probe};
use crate::export::{checkpoint_or_bundle, export, publish, put_face_nets, put_neutral};
use crate::joint::{self, JointConfig, Origins, joint};
use crate::prepare::{self, Layout, PrepareArgs, Reports};
use crate::pretrain::{self, PretrainConfig, pretrain};
use crate::store::{Split, Store};
use crate::{config, interrupt};

/// The name by which a recipe's sources call the store that is prepared from the data set.
const FACES: &str = "faces";

/// A bundle's recipe.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The bundle's name.
    pub name: String,
    /// Layout of the data set.
    pub layout: Layout,
    /// Self-supervised training of the encoder on every store, where there is any.
    pub pretrain: Option<PretrainConfig>,
    /// Training of encoder and heads after it. Its source `faces` is the data set; others are stores that `--data` names.
    pub joint: JointConfig,
    /// Text of the model card before its figures.
    pub card: String,
}

/// Options of `trainer make`.
#[derive(Clone, Debug, Args)]
pub struct MakeArgs {
    /// The recipe, a TOML file
    #[arg(long, default_value = "trainer/recipes/default.toml")]
    pub recipe: PathBuf,

    /// The data set, in the recipe's layout
    #[arg(long)]
    pub src: PathBuf,

    /// Another store, as NAME=FOLDER: it is pretrained on, and taught from where a source of the recipe has its name
    #[arg(long = "data", value_name = "NAME=FOLDER", value_parser = joint::named)]
    pub data: Vec<(String, PathBuf)>,

    /// A store that nothing is learnt from, as NAME=FOLDER: its pictures with an expression are a row of the card
    #[arg(long = "judge", value_name = "NAME=FOLDER", value_parser = joint::named)]
    pub judged: Vec<(String, PathBuf)>,

    /// A run, or a bundle with a dense encoder, whose encoder is begun with, where the recipe does not pretrain
    #[arg(long)]
    pub init: Option<PathBuf>,

    /// A run of `trainer joint`, or such a bundle, whose head of expressions is learnt beside the labels; of several, the mean of their logits
    #[arg(long = "teacher", value_name = "TEACHER")]
    pub teachers: Vec<PathBuf>,

    /// Folder for the store and the runs; what is there already is continued or used again
    #[arg(long, default_value = "runs/default")]
    pub work: PathBuf,

    /// Bundle whose finder and landmark network the new one gets where it has none yet; its landmarks tell the card how far faces
    /// are turned
    #[arg(long, default_value = "models/default")]
    pub bundle: PathBuf,

    /// Folder of the bundle; one that is there is replaced
    #[arg(long, default_value = "models/default")]
    pub out: PathBuf,
}

/// Runs `trainer make`.
///
/// # Errors
/// Those of the steps.
pub fn run(args: &MakeArgs) -> anyhow::Result<()> {
    make(args, interrupt::flag()?)
}

/// The same until `stop` is set; called again, it goes on from there.
///
/// # Errors
/// As [`run`].
pub fn make(args: &MakeArgs, stop: &AtomicBool) -> anyhow::Result<()> {
    let recipe: Recipe = config::layered(Some(&args.recipe), toml::Table::new())?;
    // What is wrong with what is named is told before hours of training.
    let landmarker = prepare::open_landmarker(&Bundle::open(&args.bundle)?)?;
    let mut init = args.init.as_deref().map(checkpoint_or_bundle).transpose()?;
    ensure!(
        init.is_none() || recipe.pretrain.is_none(),
        "--init: {} pretrains the encoder itself",
        args.recipe.display()
    );
    let teachers = joint::checkpoints(&args.teachers)?;
    let judged = args.judged.iter().map(|(name, folder)| Ok((name.clone(), Store::open(folder)?)));
    let judged = judged.collect::<anyhow::Result<Vec<_>>>()?;
    args.data.iter().try_for_each(|(_, folder)| Store::open(folder).map(drop))?;

    let store = prepared(args, recipe.layout)?;
    let stopped = || stop.load(Ordering::Relaxed);
    let faces = (FACES.to_owned(), args.work.join("store"));
    let mut data: Vec<_> = std::iter::once(faces).chain(args.data.iter().cloned()).collect();
    let mut probes = Vec::new();
    if let Some(config) = &recipe.pretrain {
        let run = args.work.join("pretrain");
        let resume = run.join(FILE_NAME).exists();
        eprintln!("pretraining in {}", run.display());
        let folders: Vec<_> = data.iter().map(|(_, folder)| folder.clone()).collect();
        let clips = Clips::open(&folders, config.pairs.timing)?;
        pretrain(config, clips, pretrain::Place::alone(&run, resume), None, stop)?;
        if stopped() {
            return Ok(());
        }
        let checkpoint = Checkpoint::load(&run)?;
        probes = probed(config, &store, &checkpoint)?;
        init = Some(checkpoint);
        // What is pretrained on is not all taught from.
        let sources = &recipe.joint.sources;
        data.retain(|(name, _)| sources.is_empty() || sources.iter().any(|source| source.name == *name));
    }
    let out = args.work.join("joint");
    eprintln!("encoder and heads in {}", out.display());
    let place = joint::Place { out: &out, resume: out.join(FILE_NAME).exists() };
    joint(&recipe.joint, &data, Origins { init: init.as_ref(), teachers: &teachers }, place, stop)
        .with_context(|| match place.resume {
            true => format!("going on in {}; to begin anew, name another --work", out.display()),
            false => out.display().to_string(),
        })?;
    if stopped() {
        return Ok(());
    }
    let beside = Beside { landmarker: Some(landmarker), stores: &judged };
    let figures = CardFigures::measure(&Checkpoint::load(&out)?, &store, Split::Test, beside)?;
    let card = model_card(&recipe, &probes, &figures)?;
    // What is there stays until the new one is whole and says what it said in training.
    let made = args.work.join("bundle");
    if made.exists() {
        std::fs::remove_dir_all(&made).with_context(|| made.display().to_string())?;
    }
    let difference = export(&out, &made, &recipe.name, scores(&probes, &figures), Some(card))?;
    eprintln!("exported; max abs difference between tract and the trainer {difference:.1e}");
    let theirs = Bundle::open(&args.out)
        .is_ok_and(|bundle| bundle.finder_onnx().is_some() && bundle.landmarks_onnx().is_some());
    put_face_nets(if theirs { &args.out } else { &args.bundle }, &made)?;
    put_neutral(&store, &made)?;
    let shipped = bundle_report(&Bundle::open(&made)?, &store, Split::Test)?;
    ensure!(
        (shipped.accuracy - figures.report.accuracy).abs() < 1e-3,
        "the bundle scores {:.4}, but the trainer {:.4}",
        shipped.accuracy,
        figures.report.accuracy
    );
    publish(&made, &args.out)?;
    println!("{shipped}");
    Ok(())
}

/// The data set's store, made where it is not there yet. A stop waits until it is whole.
///
/// # Errors
/// Names the data set or the store, as one that was cut off.
fn prepared(args: &MakeArgs, layout: Layout) -> anyhow::Result<Store> {
    let out = args.work.join("store");
    if !out.exists() {
        std::fs::create_dir_all(&args.work).with_context(|| args.work.display().to_string())?;
        let args = PrepareArgs::new(layout, args.src.clone(), out.clone());
        prepare::prepare(&args, &AtomicBool::new(false))?;
    }
    let whole = Reports::load(&out)?.runs.last().is_some_and(|run| run.finished);
    ensure!(whole, "{}: this store was not finished: remove it, and it is made again", out.display());
    Ok(Store::open(&out)?)
}

/// A linear probe on the test split: what an encoder is worth before any label reaches it.
struct Probe {
    key: &'static str,
    what: &'static str,
    report: Report,
}

/// Of random weights, and of the pretrained ones.
fn probed(config: &PretrainConfig, store: &Store, pretrained: &Checkpoint) -> anyhow::Result<Vec<Probe>> {
    let mut random = Loaded::random(config.backbone, config.side_px, config.seed);
    (random.mean, random.std) = (config.mean, config.std);
    let pretrained = Loaded::from_checkpoint(pretrained)?;
    let probe = |key, what, loaded: &Loaded| -> anyhow::Result<Probe> {
        let report = encoder_probe(loaded, store, Split::Test)?;
        eprintln!("{what}: {:.4}", report.accuracy);
        Ok(Probe { key, what, report })
    };
    Ok(vec![
        probe("linear_probe_random_init", "linear probe, random weights", &random)?,
        probe(
            "linear_probe_pretrained",
            "linear probe, self-supervised encoder (no label has reached it)",
            &pretrained,
        )?,
    ])
}

/// What the bundle's manifest tells.
fn scores(probes: &[Probe], figures: &CardFigures) -> toml::Table {
    let probes = probes.iter().map(|probe| (probe.key, probe.report.accuracy));
    let report = &figures.report;
    let own = [("accuracy", report.accuracy), ("macro_f1", report.macro_f1), ("ece", figures.ece)];
    let known = report.accuracy_without_duplicates.map(|accuracy| ("accuracy_without_duplicates", accuracy));
    probes.chain(own).chain(known).map(|(key, value)| (key.to_owned(), value.into())).collect()
}

fn model_card(recipe: &Recipe, probes: &[Probe], figures: &CardFigures) -> Result<String, std::fmt::Error> {
    let mut card = format!("# Model card: {}\n\n{}\n\n## Scores\n\n", recipe.name, recipe.card.trim());
    writeln!(card, "Test split, single crop, by the commands above.\n")?;
    for Probe { what, report, .. } in probes {
        writeln!(card, "- {what}: accuracy {:.4}, macro F1 {:.4}", report.accuracy, report.macro_f1)?;
    }
    if !probes.is_empty() {
        card.push('\n');
    }
    write!(card, "{figures}")?;
    Ok(card)
}
