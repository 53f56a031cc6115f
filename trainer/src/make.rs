//! `trainer make`: a bundle from data, by a recipe: prepare, pretrain, probe, fine-tune, export.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, ensure};
use clap::Args;
use semblance_face::Bundle;
use serde::Deserialize;

use crate::checkpoint::{Checkpoint, FILE_NAME};
use crate::config;
use crate::data::Clips;
use crate::eval::{FinetuneConfig, Loaded, Report, bundle_report, encoder_probe, finetune};
use crate::export::{export, put_neutral};
use crate::prepare::{self, Layout, PrepareArgs};
use crate::pretrain::{Place, PretrainConfig, pretrain};
use crate::store::{Split, Store};

/// A bundle's recipe.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The bundle's name.
    pub name: String,
    /// Layout of the data set.
    pub layout: Layout,
    /// Self-supervised training.
    pub pretrain: PretrainConfig,
    /// Supervised training after it.
    pub finetune: FinetuneConfig,
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

    /// Folder for the store and the runs; what is there already is continued or used again
    #[arg(long, default_value = "runs/default")]
    pub work: PathBuf,

    /// Folder of the bundle; one that is there is replaced
    #[arg(long, default_value = "models/default")]
    pub out: PathBuf,
}

/// Runs `trainer make`.
///
/// # Errors
/// Those of the steps.
pub fn run(args: &MakeArgs) -> anyhow::Result<()> {
    let recipe: Recipe = config::layered(Some(&args.recipe), toml::Table::new())?;
    let store = prepared(args, recipe.layout)?;
    let run = args.work.join("pretrain");
    let resume = run.join(FILE_NAME).exists();
    eprintln!("pretraining in {}", run.display());
    let clips = Clips::open(&[args.work.join("store")], recipe.pretrain.pairs.timing)?;
    pretrain(&recipe.pretrain, clips, Place::alone(&run, resume), None, &AtomicBool::new(false))?;
    let scores = Scores::measure(&recipe, &store, &run)?;
    let tuned = args.work.join("finetune");
    eprintln!("fine-tuning in {}", tuned.display());
    let pretrained = Loaded::from_checkpoint(&Checkpoint::load(&run)?)?;
    let report = finetune(&recipe.finetune, pretrained, &store, Split::Test, Some(&tuned))?;
    let card = model_card(&recipe, &scores, &report)?;
    let difference = export(&tuned, &args.out, &recipe.name, scores.table(&report), Some(card))?;
    eprintln!("exported; max abs difference between tract and the trainer {difference:.1e}");
    put_neutral(&store, &args.out)?;
    let shipped = bundle_report(&Bundle::open(&args.out)?, &store, Split::Test)?;
    ensure!(
        (shipped.accuracy - report.accuracy).abs() < 1e-3,
        "the bundle scores {:.4}, but the trainer {:.4}",
        shipped.accuracy,
        report.accuracy
    );
    println!("{shipped}");
    Ok(())
}

fn prepared(args: &MakeArgs, layout: Layout) -> anyhow::Result<Store> {
    let out = args.work.join("store");
    if !out.exists() {
        std::fs::create_dir_all(&args.work).with_context(|| args.work.display().to_string())?;
        let args = PrepareArgs::new(layout, args.src.clone(), out.clone());
        prepare::prepare(&args, &AtomicBool::new(false))?;
    }
    Ok(Store::open(&out)?)
}

/// Linear probes on the test split: what pretraining is worth before any label reaches the encoder.
struct Scores {
    random: Report,
    pretrained: Report,
}

impl Scores {
    fn measure(recipe: &Recipe, store: &Store, run: &Path) -> anyhow::Result<Self> {
        let config = &recipe.pretrain;
        let mut random = Loaded::random(config.backbone, config.side_px, config.seed);
        (random.mean, random.std) = (config.mean, config.std);
        let pretrained = Loaded::from_checkpoint(&Checkpoint::load(run)?)?;
        let scores = Self {
            random: encoder_probe(&random, store, Split::Test)?,
            pretrained: encoder_probe(&pretrained, store, Split::Test)?,
        };
        let (random, pretrained) = (scores.random.accuracy, scores.pretrained.accuracy);
        eprintln!("linear probe: random weights {random:.4}, pretrained {pretrained:.4}");
        Ok(scores)
    }

    fn table(&self, tuned: &Report) -> toml::Table {
        toml::Table::from_iter([
            ("linear_probe_random_init".to_owned(), self.random.accuracy.into()),
            ("linear_probe_pretrained".to_owned(), self.pretrained.accuracy.into()),
            ("accuracy".to_owned(), tuned.accuracy.into()),
            ("macro_f1".to_owned(), tuned.macro_f1.into()),
        ])
    }
}

fn model_card(recipe: &Recipe, scores: &Scores, tuned: &Report) -> anyhow::Result<String> {
    let mut card = format!("# Model card: {}\n\n{}\n\n## Scores\n\n", recipe.name, recipe.card.trim());
    writeln!(card, "Test split, n = {}, single crop, by the commands above.\n", tuned.n)?;
    writeln!(card, "| | accuracy | macro F1 |\n|---|---|---|")?;
    let rows = [
        ("linear probe, random weights", &scores.random),
        ("linear probe, self-supervised encoder (no label has reached it)", &scores.pretrained),
        ("fine-tuned, as shipped", tuned),
    ];
    for (what, report) in rows {
        writeln!(card, "| {what} | {:.4} | {:.4} |", report.accuracy, report.macro_f1)?;
    }
    writeln!(card, "\nAs shipped, by class:\n\n```text\n{tuned}\n```")?;
    Ok(card)
}
