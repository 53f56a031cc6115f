//! `trainer eval`: how good an encoder is for a task, by a named protocol.

mod au;
mod card;
mod expression;
mod features;
mod finetune;
mod goal;
mod knn;
mod labels;
mod landmarks;
mod lesson;
mod linear;
mod order;
mod pose;
mod probe;
mod report;
mod retrieval;
mod subject;
mod va;
mod verify;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use semblance_calib::{HeadKind, LinearHead};
use semblance_face::labels::ACTION_UNITS;
use serde::{Deserialize, Serialize};
use tch::nn;

pub(crate) use self::goal::finite;
use self::goal::{Goal, Stores};
use self::subject::Subject;
use crate::checkpoint::Checkpoint;
use crate::data::training_device;
use crate::method::Method;
use crate::nets::{Backbone, Encoder as TrainedEncoder, PclFeatures};
use crate::store::{Split, Store};
use crate::{command, config};

pub use au::{AuReport, AuScore};
pub use card::{Beside, CardFigures, Place, Slice};
pub use expression::{bundle_report, classes, encoder_probe, labelled, own_head};
pub use features::{
    Embeddings, Features, InputSpec, bundle_features, describe_by_hog, embed, embed_by_bundle,
    encoder_features,
};
pub(crate) use finetune::load_side_px;
pub use finetune::{FinetuneConfig, finetune};
pub use knn::{IdentityReport, identity_knn, knn_accuracy};
pub use labels::has_label;
pub use landmarks::LandmarkReport;
use lesson::AU_THRESHOLD;
pub use lesson::{Judged, Lesson, Taught, TaughtHead};
pub use order::{OrderReport, spearman};
pub use pose::{PoseClassReport, PoseReport};
pub use probe::{ClassWeights, fit_probe, hits, predictions};
pub use report::{ClassReport, Report, Spread};
pub use retrieval::{RetrievalReport, nearest_of_others, person_numbers};
use va::circumplex;
pub use va::{CIRCUMPLEX, VaReport};
pub use verify::VerifyReport;

/// What is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// The categorical expression.
    Expression,
    /// Who it is: how well an encoder tells people apart, which one of expressions should not
    Identity,
    /// Whether two pictures are of one person: ten folds of pairs, as LFW has them (PCL, table 2)
    Verify,
    /// Valence and arousal (SSLFER, table 1)
    Va,
    /// Which action units are present (CLP, tables I to III; PCL, table 3)
    Au,
    /// Yaw, pitch and roll (PCL, table 4)
    Pose,
    /// Where the 68 landmarks are, or the five points (FAb-Net, on 300-W and MAFL)
    Landmarks,
    /// What other people's pictures that lie near have in common with a picture: expression, valence and arousal, pose
    Retrieval,
    /// Whether frames of a video are the further apart, the more time is between them (CLP's in-clip order)
    Order,
}

impl Task {
    /// Whether something is fitted to a training split, else frames are compared with each other.
    pub(crate) const fn fits(self) -> bool {
        !matches!(self, Self::Identity | Self::Verify | Self::Retrieval | Self::Order)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Expression => "expression",
            Self::Identity => "identity",
            Self::Verify => "verify",
            Self::Va => "va",
            Self::Au => "au",
            Self::Pose => "pose",
            Self::Landmarks => "landmarks",
            Self::Retrieval => "retrieval",
            Self::Order => "order",
        }
    }
}

/// How a score comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// The encoder is frozen; a linear map is fitted on its embeddings of the training split: a softmax classifier, or what
    /// the task needs.
    Linear,
    /// Encoder and head are trained together on the training split.
    Finetune,
    /// The head that the run or the bundle already has; nothing is trained.
    OwnHead,
    /// Nearest neighbours among frozen embeddings: 20 of the training split vote, or those of the same split are looked at
    /// (identity, retrieval, order); for pairs, the cosine alone (verify).
    Knn,
}

impl Protocol {
    const fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Finetune => "finetune",
            Self::OwnHead => "own-head",
            Self::Knn => "knn",
        }
    }
}

/// A descriptor that is not learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HandMade {
    /// Histograms of oriented gradients of the grey crop (Dalal & Triggs 2005)
    Hog,
}

/// Options of `trainer eval`.
#[derive(Clone, Debug, Args)]
pub struct EvalArgs {
    /// What is predicted
    #[arg(long, value_enum, default_value_t = Task::Expression)]
    pub task: Task,

    /// How the score comes about
    #[arg(long, value_enum)]
    pub protocol: Protocol,

    /// A run (or its checkpoint file) to judge
    #[arg(long, conflicts_with_all = ["bundle", "random_init", "descriptor"])]
    pub checkpoint: Option<PathBuf>,

    /// What of a run of PCL is judged: its code, or what its branches make of it (PCL, table 7)
    #[arg(long, value_enum, default_value_t = PclFeatures::Code, requires = "checkpoint")]
    pub pcl_features: PclFeatures,

    /// A bundle to judge, with the inference that the edge uses
    #[arg(long, conflicts_with_all = ["random_init", "descriptor"])]
    pub bundle: Option<PathBuf>,

    /// Judge an encoder with random weights: what a pretrained one has to beat
    #[arg(long, value_name = "BACKBONE", conflicts_with = "descriptor")]
    pub random_init: Option<Backbone>,

    /// Judge a descriptor that nobody trained: the other thing that a pretrained encoder has to beat
    #[arg(long)]
    pub descriptor: Option<HandMade>,

    /// Side of a cell in pixels, with --descriptor hog
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=64))]
    pub cell_px: u32,

    /// Side of the input in pixels: PCL probes expressions at 100 px and action units and pose at 256 px with an encoder that was
    /// pretrained at 64 px [default: a checkpoint's own; 64 with --random-init and --descriptor]
    #[arg(long, conflicts_with = "bundle", value_parser = clap::value_parser!(u32).range(16..=512))]
    pub side_px: Option<u32>,

    /// Store with labelled pictures
    #[arg(long)]
    pub data: PathBuf,

    /// Store whose split is scored, where it is not the one that is trained on: --data 300W-LP --test-data AFLW2000
    #[arg(long)]
    pub test_data: Option<PathBuf>,

    /// What a picture counts in the loss of --protocol linear, where classes are not equally common
    #[arg(long, value_enum, default_value_t = ClassWeights::None)]
    pub class_weights: ClassWeights,

    /// Split that is scored; `train` is what is trained on, `val` what settings are chosen on
    #[arg(long, value_enum, default_value_t = Split::Test)]
    pub split: Split,

    /// TOML file with settings of fine-tuning
    #[arg(long)]
    pub config: Option<PathBuf>,

    /// Folder that a fine-tuned encoder and its head are written to, as a run
    #[arg(long)]
    pub out: Option<PathBuf>,

    /// An action unit is present from this intensity on, in [0, 1]: 0.4 is level 2 of DISFA's 5, which its protocol takes;
    /// codes of occurrence are 0 and 1 (task au)
    #[arg(long, default_value_t = 0.4, value_parser = share)]
    pub au_threshold: f32,

    /// Action units that the mean is over, of those that are present: 1,2,4,6,9,12,25,26 as the papers have it for DISFA,
    /// 1,2,4,6,7,10,12,14,15,17,23,24 for BP4D, 1,2,4,6,10,12,14,15,23,24 for GFT [default: all] (task au)
    #[arg(long, value_delimiter = ',')]
    pub aus: Vec<u8>,

    /// People with fewer pictures are left out, as FR-kNN does on LFW (task identity)
    #[arg(long, default_value_t = 1)]
    pub min_pictures: usize,

    /// Cross-validation over all frames, whatever their split: people, sorted by name, are dealt in turn to this many folds
    /// (task au, --protocol linear; the papers have 3)
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=100))]
    pub folds: Option<u32>,

    /// Tell apart the (yaw, pitch) pairs that occur, in whole degrees, where they are few as in BU-3DFE (task pose)
    #[arg(long)]
    pub pose_classes: bool,

    /// Frames of one video closer than this in seconds are not looked up in each other; longer than a video is, other
    /// videos alone count (tasks identity, and verify where the store has no pairs)
    #[arg(long, default_value_t = 3.0)]
    pub apart_secs: f64,

    /// Frames of one video further apart than this in seconds are not compared (task order)
    #[arg(long, default_value_t = 3.0)]
    pub within_secs: f64,

    /// Seed of random weights, of the head and of the order of the data [default: 0, or what --config says]
    #[arg(long)]
    pub seed: Option<u64>,

    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

fn share(text: &str) -> Result<f32, String> {
    text.parse()
        .ok()
        .filter(|v: &f32| *v > 0.0 && *v <= 1.0)
        .ok_or("give an intensity above 0, 1 at most".to_owned())
}

impl EvalArgs {
    /// The defaults of the flags.
    pub fn new(task: Task, protocol: Protocol, data: PathBuf) -> Self {
        Self {
            task,
            protocol,
            checkpoint: None,
            pcl_features: PclFeatures::Code,
            bundle: None,
            random_init: None,
            descriptor: None,
            cell_px: 8,
            side_px: None,
            data,
            test_data: None,
            class_weights: ClassWeights::None,
            split: Split::Test,
            config: None,
            out: None,
            au_threshold: 0.4,
            aus: Vec::new(),
            min_pictures: 1,
            folds: None,
            pose_classes: false,
            apart_secs: 3.0,
            within_secs: 3.0,
            seed: None,
            json: false,
        }
    }

    /// The settings of fine-tuning.
    fn finetune_config(&self) -> anyhow::Result<FinetuneConfig> {
        let mut config: FinetuneConfig = config::layered(self.config.as_deref(), toml::Table::new())?;
        config.seed = self.seed.unwrap_or(config.seed);
        Ok(config)
    }

    /// # Errors
    /// Names an option that this task does not have.
    fn check(&self) -> anyhow::Result<()> {
        let (task, protocol) = (self.task.name(), self.protocol.name());
        let linear_au = self.task == Task::Au && self.protocol == Protocol::Linear;
        ensure!(self.folds.is_none() || linear_au, "--folds is for --task au --protocol linear");
        ensure!(
            self.folds.is_none() || self.test_data.is_none(),
            "--folds scores every frame of --data: leave out --test-data"
        );
        ensure!(self.aus.is_empty() || self.task == Task::Au, "--aus is for --task au");
        ensure!(
            self.min_pictures <= 1 || self.task == Task::Identity,
            "--min-pictures is for --task identity"
        );
        if let Some(unknown) = self.aus.iter().find(|unit| !ACTION_UNITS.contains(unit)) {
            bail!("--aus {unknown}: no store has this action unit: {ACTION_UNITS:?} are known");
        }
        ensure!(!self.pose_classes || self.task == Task::Pose, "--pose-classes is for --task pose");
        let tuned = self.protocol == Protocol::Finetune;
        ensure!(
            !tuned || self.pcl_features == PclFeatures::Code,
            "--pcl-features is for frozen encoders: --protocol finetune trains the backbone alone"
        );
        ensure!(
            self.out.is_none() || tuned,
            "--out is for --protocol finetune: nothing else trains an encoder"
        );
        ensure!(self.config.is_none() || tuned, "--config is for --protocol finetune");
        ensure!(
            self.test_data.is_none() || self.task.fits() && self.protocol != Protocol::OwnHead,
            "--task {task} --protocol {protocol} trains nothing: give the store that is scored as --data"
        );
        ensure!(
            self.class_weights == ClassWeights::None
                || self.task == Task::Expression && self.protocol == Protocol::Linear,
            "--class-weights is for --task expression --protocol linear (the balanced softmax of fine-tuning is a setting of \
             --config)"
        );
        Ok(())
    }
}

/// An encoder with weights, and how it wants its input.
#[derive(Debug)]
pub struct Loaded {
    /// Holds the encoder's variables under `encoder`.
    pub vs: nn::VarStore,
    /// The encoder.
    pub encoder: TrainedEncoder,
    /// Side of its input in pixels.
    pub side_px: u32,
    /// Normalisation.
    pub mean: [f32; 3],
    /// Normalisation.
    pub std: [f32; 3],
}

impl Loaded {
    /// The encoder of a checkpoint; the average of its weights where the run kept one.
    ///
    /// # Errors
    /// Where it lacks a weight.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        Self::with(checkpoint, PclFeatures::Code, checkpoint.meta.side_px)
    }

    /// The same at another side of the input, and of a run of PCL with these features.
    ///
    /// # Errors
    /// Where its weights are for another side, or lack one; features of branches where the run is not of PCL or has none.
    pub fn with(checkpoint: &Checkpoint, features: PclFeatures, side_px: u32) -> anyhow::Result<Self> {
        let meta = &checkpoint.meta;
        let vs = nn::VarStore::new(training_device());
        let encoder = match features {
            PclFeatures::Code => meta.backbone.at(side_px).build(&(vs.root() / "encoder")),
            PclFeatures::Face | PclFeatures::Pose | PclFeatures::Both => {
                ensure!(
                    meta.method == Method::Pcl.name() && checkpoint.tensor("model.pose.first.weight").is_ok(),
                    "the run ({}) has no branches of face and pose: --pcl-features is for runs of pcl with pcl.disentangle",
                    meta.method
                );
                TrainedEncoder::pcl(&vs.root(), side_px, features)
            }
        };
        checkpoint
            .restore_average(&vs)
            .with_context(|| format!("a run of {} px is read at {side_px} px", meta.side_px))?;
        Ok(Self { vs, encoder, side_px, mean: meta.mean, std: meta.std })
    }

    /// How it wants its input.
    pub fn input(&self) -> InputSpec {
        InputSpec { side_px: self.side_px, mean: self.mean, std: self.std }
    }

    /// Embeddings of whole crops of these frames, as [`embed`].
    ///
    /// # Errors
    /// Names the picture that cannot be decoded.
    pub fn embed(&self, store: &Store, indices: &[usize]) -> anyhow::Result<Embeddings> {
        let values = features::embed(&self.encoder, self.vs.device(), self.input(), store, indices)?;
        Ok(Embeddings::new(values, indices.len()))
    }

    /// An encoder with random weights.
    pub fn random(backbone: Backbone, side_px: u32, seed: u64) -> Self {
        tch::manual_seed(seed as i64);
        let vs = nn::VarStore::new(training_device());
        let encoder = backbone.at(side_px).build(&(vs.root() / "encoder"));
        let (mean, std) = backbone.own_normalisation().unwrap_or(([0.5; 3], [0.25; 3]));
        Self { vs, encoder, side_px, mean, std }
    }
}

/// Runs `trainer eval`.
///
/// # Errors
/// Names what stands in the way.
pub fn run(args: &EvalArgs) -> anyhow::Result<()> {
    args.check()?;
    let mut sha256 = None;
    let Evaluation { text, mut json } = evaluate(args, |_| {
        let subject = Subject::from_args(args)?;
        sha256 = subject.sha256().map(str::to_owned);
        Ok(subject)
    })?;
    if args.json {
        json["command"] = command::line().into();
        if let Some(sha256) = sha256 {
            json["sha256"] = sha256.into();
        }
        println!("{json}");
    } else {
        println!("{text}");
    }
    Ok(())
}

/// What came of judging.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// For people.
    pub text: String,
    /// For programs: at least `task`, `protocol`, `split`, `n` and the measures by their usual names.
    pub json: serde_json::Value,
}

impl Evaluation {
    fn of(report: &(impl Serialize + std::fmt::Display)) -> anyhow::Result<Self> {
        Ok(Self { text: report.to_string(), json: serde_json::to_value(report)? })
    }
}

/// Judges one encoder by several tasks on frozen embeddings of their stores, each picture of which is embedded once. What stands in
/// the way of one task does not in that of the others.
///
/// # Errors
/// Names the picture that cannot be embedded.
pub fn evaluate_all(loaded: &Loaded, tasks: &[EvalArgs]) -> anyhow::Result<Vec<anyhow::Result<Evaluation>>> {
    let mut known: Vec<(u32, Embeddings)> = Vec::new();
    let dirs: BTreeSet<&PathBuf> =
        tasks.iter().flat_map(|args| [&args.data].into_iter().chain(&args.test_data)).collect();
    for dir in dirs {
        let store = Store::open(dir)?;
        let all: Vec<usize> = (0..store.len()).collect();
        known.push((store.checksum(), loaded.embed(&store, &all)?));
    }
    let known = Rc::new(known);
    let judge = |args: &EvalArgs| {
        args.check()?;
        evaluate(args, |_| Ok(Subject::Known(Rc::clone(&known))))
    };
    Ok(tasks.iter().map(judge).collect())
}

fn evaluate(
    args: &EvalArgs,
    subject: impl FnOnce(&EvalArgs) -> anyhow::Result<Subject>,
) -> anyhow::Result<Evaluation> {
    let store = Store::open(&args.data)?;
    let other = args.test_data.as_deref().map(Store::open).transpose()?;
    let stores = Stores { fitted: &store, scored: other.as_ref().unwrap_or(&store) };
    let has_pairs = args.task == Task::Verify && store.pairs()?.is_some();
    if args.folds.is_none() && !has_pairs {
        labels::check_split(args, stores.scored)?;
    }
    let subject = subject(args)?;
    match args.task {
        Task::Expression => Evaluation::of(&expression::judge(args, subject, stores)?),
        Task::Identity => Evaluation::of(&judge_identity(args, &subject, &store)?),
        Task::Verify => Evaluation::of(&verify::judge(args, &subject, &store)?),
        Task::Va => Evaluation::of(&judge(args, va::Va::Labels, subject, stores)?),
        Task::Au => {
            let goal = au::ActionUnits::new(args.au_threshold, &args.aus);
            match args.folds {
                Some(folds) => Evaluation::of(&au::cross_validate(goal, &store, folds, &subject)?),
                None => Evaluation::of(&judge(args, goal, subject, stores)?),
            }
        }
        Task::Pose if args.pose_classes => {
            Evaluation::of(&judge(args, pose::PoseClasses::new(&store)?, subject, stores)?)
        }
        Task::Pose => Evaluation::of(&judge(args, pose::Pose::default(), subject, stores)?),
        Task::Landmarks => Evaluation::of(&judge(args, landmarks::Points::new(&store), subject, stores)?),
        Task::Retrieval => Evaluation::of(&retrieval::judge(args, &subject, &store)?),
        Task::Order => Evaluation::of(&order::judge(args, &subject, &store)?),
    }
}

/// Runs a task by the protocol that is asked for.
fn judge<G: Goal>(
    args: &EvalArgs,
    mut goal: G,
    subject: Subject,
    stores: Stores<'_>,
) -> anyhow::Result<G::Report> {
    let embed = |store: &Store, frames: &[usize]| subject.embed(store, frames);
    match args.protocol {
        Protocol::Linear => goal::linear(&mut goal, stores, args.split, &embed),
        Protocol::Knn => goal::knn(&mut goal, stores, args.split, &embed),
        Protocol::Finetune => {
            let (config, loaded) = (args.finetune_config()?, subject.into_loaded()?);
            finetune::tune(&config, &mut goal, loaded, stores, args.split, args.out.as_deref())
        }
        Protocol::OwnHead => bail!("--protocol own-head is for --task expression"),
    }
}

fn judge_identity(args: &EvalArgs, subject: &Subject, store: &Store) -> anyhow::Result<IdentityReport> {
    ensure!(
        args.protocol == Protocol::Knn,
        "--protocol {}: identities are told apart by --protocol knn alone",
        args.protocol.name()
    );
    let indices = with_pictures(store, store.split(args.split), args.min_pictures);
    ensure!(
        !indices.is_empty(),
        "{}: nobody in the {} split has --min-pictures {}",
        store.dir().display(),
        args.split.name(),
        args.min_pictures
    );
    let embeddings = subject.embed(store, &indices)?;
    identity_knn(store, args.split, &indices, &embeddings.values, embeddings.dim, args.apart_secs)
}

/// Those of these frames whose people have so many of them.
fn with_pictures(store: &Store, indices: Vec<usize>, least: usize) -> Vec<usize> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for &i in &indices {
        *counts.entry(store.record(i).identity()).or_default() += 1;
    }
    indices.into_iter().filter(|&i| counts[store.record(i).identity()] >= least).collect()
}

/// The head that a fine-tuned run has.
///
/// # Errors
/// Where it has none.
pub fn checkpoint_head(checkpoint: &Checkpoint) -> anyhow::Result<LinearHead> {
    linear_head(checkpoint, HeadKind::Expression)?.with_context(|| {
        let method = &checkpoint.meta.method;
        format!(
            "this run ({method}) has no head of its own: fine-tune it with `trainer eval --protocol finetune --out RUN`"
        )
    })
}

/// Every head that a run has and a bundle takes.
///
/// # Errors
/// Where one lacks weights.
pub fn checkpoint_heads(checkpoint: &Checkpoint) -> anyhow::Result<Vec<(HeadKind, LinearHead)>> {
    let mut heads = Vec::new();
    for kind in HeadKind::ALL {
        if let Some(head) = linear_head(checkpoint, kind)? {
            heads.push((kind, head));
        }
    }
    Ok(heads)
}

/// The head that becomes this one of a bundle; `None` where the run has none.
fn linear_head(checkpoint: &Checkpoint, kind: HeadKind) -> anyhow::Result<Option<LinearHead>> {
    let (meta, path) = (&checkpoint.meta, TaughtHead::of(kind).path());
    let rows = match kind {
        HeadKind::Expression => Some(&meta.labels).filter(|labels| !labels.is_empty()),
        _ => meta.heads.get(path),
    };
    let Some(rows) = rows else { return Ok(None) };
    let part = |part: &str| checkpoint.weight(&format!("{path}.{part}"));
    let (weight, bias) = (part("weight")?, part("bias")?);
    let dim = weight.size().last().copied().unwrap_or_default() as usize;
    let (weight, bias) = (crate::checkpoint::floats(&weight)?, crate::checkpoint::floats(&bias)?);
    Ok(Some(LinearHead::new(path, rows.clone(), dim, weight, bias)?))
}
