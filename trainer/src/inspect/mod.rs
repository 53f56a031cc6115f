//! `trainer inspect`: what a clip store holds, in numbers and as a contact sheet.

mod augment;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use anyhow::{bail, ensure};
use clap::Args;
use image::RgbImage;
use indicatif::{HumanBytes, HumanCount};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use semblance_face::labels::Expression;
use serde::Serialize;

use crate::pretrain::{PretrainConfig, Recipe};
use crate::store::{FORMAT, Provenance, Record, Split, Store, StoreError, VerificationPair};
use crate::tiles::{self, Tile};

/// Options of `trainer inspect`.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// Folder of the store
    #[arg(long)]
    pub data: PathBuf,

    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,

    /// Decode every picture, and fail where one is damaged
    #[arg(long)]
    pub check: bool,

    /// Write a contact sheet of random frames with their labels: a PNG file
    #[arg(long, value_name = "OUT.png")]
    pub sheet: Option<PathBuf>,

    /// Write a picture of every augmentation: a PNG file with a row for each of some random training frames
    #[arg(long, value_name = "OUT.png")]
    pub augment: Option<PathBuf>,

    /// Recipe of `trainer pretrain` whose augmentation --augment shows
    #[arg(long)]
    pub recipe: Option<Recipe>,

    /// TOML file with settings of `trainer pretrain`, for --augment
    #[arg(long)]
    pub config: Option<PathBuf>,

    /// Rows of the sheet
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rows: u32,

    /// Columns of the sheet
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub cols: u32,

    /// Seed of the sheet's choice of frames
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Only frames of this split on the sheet
    #[arg(long)]
    pub split: Option<Split>,
}

/// Prints what a store holds, and draws its sheet where one is asked for.
///
/// # Errors
/// A store that cannot be read, a sheet that cannot be drawn or written, or, with `--check`, a damaged picture.
pub fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let store = Store::open(&args.data)?;
    let summary = Summary::of(&store)?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!("{summary}");
    }
    if let Some(path) = &args.sheet {
        let frames = choose(&store, args)?;
        tiles::write_png(&sheet(&store, &frames, args.cols)?, path)?;
        eprintln!("{}: {} frames", path.display(), frames.len());
    }
    if args.check {
        check(&store)?;
    }
    if let Some(path) = &args.augment {
        let config = PretrainConfig::from_layers(args.recipe, args.config.as_deref(), toml::Table::new())?;
        augment::write(store, &config, args.rows, args.seed, path)?;
        eprintln!("{}", path.display());
    }
    Ok(())
}

/// Decodes everything, and names what is damaged.
fn check(store: &Store) -> anyhow::Result<()> {
    let errors: Vec<_> =
        (0..store.len()).into_par_iter().filter_map(|i| store.record(i).decode().err()).collect();
    for error in &errors {
        eprintln!("{error}");
    }
    ensure!(
        errors.is_empty(),
        "{}: {} of {} pictures are damaged; prepare the store again",
        store.dir().display(),
        errors.len(),
        store.len()
    );
    eprintln!("{}: all {} pictures decode", store.dir().display(), store.len());
    Ok(())
}

/// What a store holds, in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Its folder.
    pub store: String,
    /// Its format's version.
    pub format: u32,
    /// Frames.
    pub frames: usize,
    /// People.
    pub identities: usize,
    /// Videos.
    pub videos: usize,
    /// Frames of the shortest and of the longest video.
    pub video_frames: [u64; 2],
    /// Frames of each split.
    pub splits: BTreeMap<&'static str, usize>,
    /// Frames that have each kind of label; kinds that none has are left out.
    pub labels: BTreeMap<&'static str, usize>,
    /// Its verification protocol, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PairCounts>,
    /// Frames of each expression.
    pub expressions: BTreeMap<&'static str, usize>,
    /// Pictures of each size, `WIDTHxHEIGHT` in pixels.
    pub sizes: BTreeMap<String, usize>,
    /// Bytes of all pictures.
    pub picture_bytes: u64,
    /// Where the frames came from.
    pub provenance: Vec<Provenance>,
}

/// The pairs of a verification protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PairCounts {
    /// Of one person.
    pub same: usize,
    /// Of two people.
    pub different: usize,
    /// Pairs with a picture that the store does not have.
    pub missing: usize,
}

impl PairCounts {
    fn of(store: &Store) -> Result<Option<Self>, StoreError> {
        let counts = |(pairs, missing): (Vec<VerificationPair>, usize)| {
            let same = pairs.iter().filter(|pair| pair.same).count();
            Self { same, different: pairs.len() - same, missing }
        };
        Ok(store.pairs()?.map(counts))
    }
}

impl Summary {
    /// Counts everything in a store; of pictures only the headers are read.
    ///
    /// # Errors
    /// Where the store's pairs cannot be read.
    pub fn of(store: &Store) -> Result<Self, StoreError> {
        let header = store.header();
        let records = || (0..store.len()).map(|i| store.record(i));
        let having = |has: fn(&Record<'_>) -> bool| records().filter(has).count();
        let mut labels = BTreeMap::from([
            ("expression", having(|r| r.expression().is_some())),
            ("votes", having(|r| r.votes().is_some())),
            ("valence_arousal", having(|r| r.valence_arousal().is_some())),
            ("action_units", having(|r| r.action_units().is_some())),
            ("pose", having(|r| r.pose().is_some())),
            ("landmarks", having(|r| r.landmarks().is_some())),
            ("five_points", having(|r| r.five_points().is_some())),
        ]);
        labels.retain(|_, frames| *frames > 0);
        let lengths = || header.videos.iter().map(|v| v.frames);
        Ok(Self {
            store: store.dir().display().to_string(),
            format: FORMAT,
            frames: store.len(),
            identities: header.identities.len(),
            videos: header.videos.len(),
            video_frames: [lengths().min().unwrap_or(0), lengths().max().unwrap_or(0)],
            splits: count(records().map(|r| r.split().name())),
            labels,
            pairs: PairCounts::of(store)?,
            expressions: count(records().filter_map(|r| r.expression()).map(Expression::name)),
            sizes: sizes(store),
            picture_bytes: header.shard_bytes.iter().sum(),
            provenance: header.provenance.clone(),
        })
    }
}

fn count<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    keys.for_each(|key| *counts.entry(key).or_default() += 1);
    counts
}

/// How many pictures have each size, by their headers.
fn sizes(store: &Store) -> BTreeMap<String, usize> {
    let sizes: Vec<_> = (0..store.len()).into_par_iter().map(|i| store.record(i).size()).collect();
    let name = |size: Option<(u32, u32)>| match size {
        Some((width, height)) => format!("{width}x{height}"),
        None => "unreadable".to_owned(),
    };
    count(sizes.into_iter()).into_iter().map(|(size, frames)| (name(size), frames)).collect()
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: usize| HumanCount(n as u64);
        let list = |counts: Vec<(&str, usize)>| {
            let parts: Vec<_> = counts.iter().map(|(name, n)| format!("{name} {}", number(*n))).collect();
            parts.join(", ")
        };
        let in_order = |names: Vec<&'static str>, counts: &BTreeMap<&'static str, usize>| {
            list(names.into_iter().filter_map(|name| Some((name, *counts.get(name)?))).collect())
        };
        writeln!(f, "{}: clip store of format {}", self.store, self.format)?;
        let splits = in_order(Split::ALL.map(Split::name).to_vec(), &self.splits);
        writeln!(f, "  frames       {} ({splits})", number(self.frames))?;
        writeln!(f, "  identities   {}", number(self.identities))?;
        let [shortest, longest] = self.video_frames;
        writeln!(f, "  videos       {}, {shortest} to {longest} frames each", number(self.videos))?;
        let sizes = list(self.sizes.iter().map(|(size, n)| (size.as_str(), *n)).collect());
        writeln!(f, "  pictures     {} in all; {sizes}", HumanBytes(self.picture_bytes))?;
        writeln!(f, "  labels       {}", list(self.labels.iter().map(|(k, n)| (*k, *n)).collect()))?;
        if let Some(PairCounts { same, different, missing }) = self.pairs {
            let (same, different, missing) = (number(same), number(different), number(missing));
            writeln!(f, "  pairs        same {same}, different {different}, without a picture {missing}")?;
        }
        if !self.expressions.is_empty() {
            let expressions = in_order(Expression::ALL.map(Expression::name).to_vec(), &self.expressions);
            writeln!(f, "  expressions  {expressions}")?;
        }
        for (i, run) in self.provenance.iter().enumerate() {
            let title = if i == 0 { "from" } else { "" };
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}  {title:<13}{} ({}), {} skipped", run.source, run.layout, run.skipped)?;
        }
        Ok(())
    }
}

/// Random frames for a sheet, in the store's order.
fn choose(store: &Store, args: &InspectArgs) -> anyhow::Result<Vec<usize>> {
    let among = match args.split {
        Some(split) => store.split(split),
        None => (0..store.len()).collect(),
    };
    if among.is_empty() {
        bail!("{}: no frame to show", store.dir().display());
    }
    let wanted = among.len().min((args.rows * args.cols) as usize);
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let mut chosen = rand::seq::index::sample(&mut rng, among.len(), wanted).into_vec();
    chosen.sort_unstable();
    Ok(chosen.into_iter().map(|i| among[i]).collect())
}

/// Pictures in rows of `cols`, each over its label and its name.
fn sheet(store: &Store, frames: &[usize], cols: u32) -> anyhow::Result<RgbImage> {
    let tile = |&frame: &usize| {
        let record = store.record(frame);
        let name = format!("{}/{}", record.identity(), record.video().name);
        let landmarks = record.landmarks();
        Ok(Tile { landmarks, ..Tile::of(tiles::image_in(&record)?, label(record), name) })
    };
    let rows = frames.chunks(cols as usize).map(|row| row.iter().map(tile).collect());
    Ok(tiles::grid(&rows.collect::<anyhow::Result<Vec<_>>>()?))
}

/// A frame's label in one line: its expression, else valence and arousal, else its time.
fn label(record: Record<'_>) -> String {
    match (record.expression(), record.valence_arousal()) {
        (Some(expression), None) => format!("{} {}", expression.name(), record.split().name()),
        (Some(expression), Some([v, a])) => {
            format!("{:.3} {v:+.1} {a:+.1}", expression.name())
        }
        (None, Some([v, a])) => format!("v{v:+.2} a{a:+.2}"),
        (None, None) => format!("{:.2} s {}", record.t_secs(), record.split().name()),
    }
}
