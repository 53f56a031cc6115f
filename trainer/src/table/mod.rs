//! `trainer table`: a table of a paper, trained, judged, and set beside the published figures.

mod measure;
mod published;
mod sheet;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

pub use measure::{Measure, Measured, Probe, Scores, measure};
pub use published::{Column, Row, Table, TableName};
pub use sheet::{ColumnReport, RowReport, Sheet, TableReport};

use crate::checkpoint::{Checkpoint, FILE_NAME, StoreMark};
use crate::data::Clips;
use crate::eval::Loaded;
use crate::nets::{Architecture, PclFeatures};
use crate::prepare::Shard;
use crate::pretrain::{Place, PretrainConfig, Recipe, pretrain};
use crate::store::Store;
use crate::{config, files, interrupt};

/// Options of `trainer table`.
#[derive(Clone, Debug, Args)]
pub struct TableArgs {
    /// The table: sslfer-1, sslfer-2, sslfer-4, pcl-1 (PCL's tables 1 to 4), pcl-5, pcl-6, pcl-7, clp-1 (CLP's I to III), clp-4, fabnet, methods
    /// (one row for each)
    pub name: TableName,

    /// Store with training pictures; may be given several times
    #[arg(long, required = true)]
    pub data: Vec<PathBuf>,

    /// Store of other people, with labels, that every encoder is judged on: heads are fitted to its training split, chosen on
    /// validation and scored on test (of another store: 300w-lp:aflw2000); action units by three folds of people where there is no
    /// test split. May be given several times: each measure is of the first store that has its label
    #[arg(long, required = true, value_name = "STORE[:SCORED]")]
    pub probe: Vec<Probe>,

    /// Folder for the runs, their scores, and table.md and table.json; several tables share the runs that they have in common
    #[arg(long)]
    pub out: PathBuf,

    /// Train the published settings; without, their small twins for two cores
    #[arg(long)]
    pub full: bool,

    /// Seeds of each row, from 0
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub seeds: u64,

    /// TOML file with settings over those of every row
    #[arg(long)]
    pub config: Option<PathBuf>,

    /// Train and judge part i of n of the runs alone, i from 1 to n: 1/2 in one process and 2/2 in another. What is there of all parts
    /// goes into the table
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,

    /// Print the table as one JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// The file in a run's folder with its scores.
fn scores_file(features: PclFeatures) -> &'static str {
    match features {
        PclFeatures::Code => "scores.json",
        PclFeatures::Face => "scores-face.json",
        PclFeatures::Pose => "scores-pose.json",
        PclFeatures::Both => "scores-both.json",
    }
}

/// What a run's scores are of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Judged {
    /// The row's settings.
    settings: toml::Table,
    /// The stores that it was trained on; none for random weights.
    data: Vec<StoreMark>,
    /// The stores that it was judged on.
    probe: Vec<StoreMark>,
    #[serde(flatten)]
    measured: Measured,
}

/// Runs `trainer table`.
///
/// # Errors
/// Names what stands in the way; runs that are done stay, and the same command goes on with the rest.
pub fn run(args: &TableArgs) -> anyhow::Result<()> {
    let table = args.name.read()?;
    let stop = interrupt::flag()?;
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let marks = |dirs: Vec<&PathBuf>| {
        dirs.iter().map(|dir| Ok(StoreMark::of(&Store::open(dir)?))).collect::<anyhow::Result<Vec<_>>>()
    };
    let (data, probe) =
        (marks(args.data.iter().collect())?, marks(args.probe.iter().flat_map(Probe::stores).collect())?);
    if let Some(same) = data.iter().find(|mark| probe.iter().any(|probe| probe.checksum == mark.checksum)) {
        bail!("--probe: {} is what is trained on: give a store of other people", same.name);
    }
    let rows: Vec<Subject> = subjects(args, &table)?;
    let mut sheet = Sheet::new(&table, args.seeds, rows.iter().map(|row| row.name.clone()).collect());
    let total = rows.len() as u64 * args.seeds;
    let stores = Stores { data, probe };
    for seed in 0..args.seeds {
        for (place, row) in rows.iter().enumerate() {
            let number = seed * rows.len() as u64 + place as u64 + 1;
            let told = format!("{number} of {total}: {}, seed {seed}", row.name);
            if let Some(measured) = row.scores(args, &stores, seed, &told, stop)? {
                sheet.add(place, measured);
            }
        }
    }
    let write = |extension: &str, text: &str| {
        files::put(&args.out.join(format!("{}.{extension}", args.name)), text.as_bytes())
    };
    let report = sheet.report();
    let markdown = format!("# {}\n\n{report}", report.title);
    write("md", &markdown)?;
    let json = serde_json::to_string(&report)?;
    write("json", &json)?;
    println!("{}", if args.json { &json } else { &markdown });
    Ok(())
}

/// What is judged in a row.
struct Subject {
    name: String,
    /// Of its runs, but for the seed.
    folder: String,
    what: What,
    /// What of a run of PCL is judged.
    features: PclFeatures,
}

enum What {
    /// An encoder with random weights.
    Untrained(Architecture),
    Recipe(Box<PretrainConfig>),
}

/// Random weights of every architecture in the table, then its rows.
fn subjects(args: &TableArgs, table: &Table) -> anyhow::Result<Vec<Subject>> {
    let mut architectures: Vec<Architecture> = Vec::new();
    let mut rows = Vec::new();
    for row in &table.row {
        let recipe: Recipe = match args.full {
            true => row.recipe,
            false => row.recipe.twin().with_context(|| format!("{}: no small twin", row.recipe))?,
        };
        let config = PretrainConfig::from_layers(Some(recipe), args.config.as_deref(), toml::Table::new())
            .with_context(|| recipe.to_string())?;
        if !architectures.contains(&config.architecture()) {
            architectures.push(config.architecture());
        }
        let folder = recipe.to_string().replace('/', "-");
        let what = What::Recipe(Box::new(config));
        rows.push(Subject { name: row.name.clone(), folder, what, features: row.features });
    }
    let untrained = |architecture: Architecture| {
        let (backbone, side_px) = (architecture.backbone, architecture.side_px);
        Subject {
            name: format!("random weights, {backbone}"),
            folder: format!("random-{backbone}-{side_px}"),
            what: What::Untrained(architecture),
            features: PclFeatures::Code,
        }
    };
    Ok(architectures.into_iter().map(untrained).chain(rows).collect())
}

/// What encoders are trained and judged on.
struct Stores {
    data: Vec<StoreMark>,
    probe: Vec<StoreMark>,
}

impl Subject {
    /// The scores of a seed: those that are there, or, where this process is to, of a run that is trained now, which `told`
    /// announces.
    fn scores(
        &self,
        args: &TableArgs,
        stores: &Stores,
        seed: u64,
        told: &str,
        stop: &AtomicBool,
    ) -> anyhow::Result<Option<Measured>> {
        let dir = args.out.join(format!("{}-{seed}", self.folder));
        let settings = self.settings(seed)?;
        let data = match self.what {
            What::Untrained(_) => &[][..],
            What::Recipe(_) => &stores.data,
        };
        let file = dir.join(scores_file(self.features));
        if let Some(measured) = known(&file, &settings, data, &stores.probe)? {
            return Ok(Some(measured));
        }
        if !args.shard.is_none_or(|shard| shard.has(&self.folder, &seed.to_string())) {
            return Ok(None);
        }
        eprintln!("{told}");
        let loaded = self.train(args, seed, &dir, stop)?;
        ensure!(!stop.load(Ordering::Relaxed), "stopped: the same command goes on");
        let measured = measure(&loaded, &args.probe)?;
        let (data, probe) = (data.to_vec(), stores.probe.clone());
        let judged = Judged { settings, data, probe, measured };
        files::put(&file, &serde_json::to_vec(&judged)?)?;
        Ok(Some(judged.measured))
    }

    /// What decides its scores, beside data.
    fn settings(&self, seed: u64) -> anyhow::Result<toml::Table> {
        match &self.what {
            What::Untrained(_) => Ok(toml::toml! { untrained = true }),
            What::Recipe(config) => config::table_of(&PretrainConfig { seed, ..(**config).clone() }),
        }
    }

    /// The encoder, trained in `dir` as far as that is not done.
    fn train(&self, args: &TableArgs, seed: u64, dir: &Path, stop: &AtomicBool) -> anyhow::Result<Loaded> {
        let config = match &self.what {
            What::Untrained(architecture) => {
                fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
                return Ok(Loaded::random(architecture.backbone, architecture.side_px, seed));
            }
            What::Recipe(config) => PretrainConfig { seed, ..(**config).clone() },
        };
        let resume = dir.join(FILE_NAME).exists();
        let clips = Clips::open(&args.data, config.pairs.timing)?;
        pretrain(&config, clips, Place::alone(dir, resume), None, stop).with_context(|| self.name.clone())?;
        let checkpoint = Checkpoint::load(dir)?;
        Loaded::with(&checkpoint, self.features, checkpoint.meta.side_px)
    }
}

/// The scores of a run that is done; an error where they are of something else.
fn known(
    path: &Path,
    settings: &toml::Table,
    data: &[StoreMark],
    probe: &[StoreMark],
) -> anyhow::Result<Option<Measured>> {
    if !path.exists() {
        return Ok(None);
    }
    let at = || path.display().to_string();
    let judged: Judged = serde_json::from_slice(&fs::read(path).with_context(at)?).with_context(at)?;
    if let Some((key, was, now)) = config::difference(&judged.settings, settings) {
        bail!("{}: it has {key} = {was}, not {now}: choose another --out, or remove it", path.display());
    }
    let sums = |marks: &[StoreMark]| marks.iter().map(|mark| mark.checksum).collect::<Vec<_>>();
    ensure!(
        sums(&judged.data) == sums(data),
        "{}: it was trained on other stores than these: choose another --out, or remove it",
        path.display()
    );
    ensure!(
        sums(&judged.probe) == sums(probe),
        "{}: it was judged on other stores ({}): choose another --out, or remove it",
        path.display(),
        judged.probe.iter().map(|mark| mark.name.as_str()).collect::<Vec<_>>().join(", ")
    );
    Ok(Some(judged.measured))
}
