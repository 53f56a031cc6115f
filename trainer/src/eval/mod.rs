//! `trainer eval`: how good an encoder is for a task, by a named protocol.

mod features;
mod finetune;
mod knn;
mod probe;
mod report;

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use semblance_calib::{Heads, LinearHead};
use semblance_face::labels::Expression;
use semblance_face::{Bundle, Encoder};
use serde::{Deserialize, Serialize};
use tch::nn;

use crate::checkpoint::Checkpoint;
use crate::config;
use crate::data::training_device;
use crate::hog::Hog;
use crate::nets::{Backbone, Encoder as TrainedEncoder};
use crate::store::{Split, Store};

pub use features::{
    Features, InputSpec, bundle_features, describe_by_hog, embed, embed_by_bundle, encoder_features,
};
pub use finetune::{FinetuneConfig, finetune};
pub use knn::{IdentityReport, identity_knn, knn_accuracy, knn_predictions};
pub use probe::{ClassWeights, fit_probe, hits, linear_probe, predictions};
pub use report::{ClassReport, Report};

/// What is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// The categorical expression.
    Expression,
    /// Who it is: how well an encoder tells people apart, which one of expressions should not
    Identity,
}

/// How a score comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// The encoder is frozen; a linear softmax classifier is fitted on its embeddings of the training split.
    Linear,
    /// Encoder and classifier are trained together on the training split.
    Finetune,
    /// The head that the run or the bundle already has; nothing is trained.
    OwnHead,
    /// Nearest neighbours among frozen embeddings: 20 of the training split vote (expression), or the nearest one of
    /// the same split decides (identity).
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

    /// Side of the input in pixels, with --random-init and --descriptor
    #[arg(long, default_value_t = 64)]
    pub side_px: u32,

    /// Store with labelled pictures
    #[arg(long)]
    pub data: PathBuf,

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

    /// Frames of one video closer than this in seconds are not looked up in each other; longer than a video is, other
    /// videos alone count (task identity)
    #[arg(long, default_value_t = 3.0)]
    pub apart_secs: f64,

    /// Seed of random weights, of the head and of the order of the data [default: 0, or what --config says]
    #[arg(long)]
    pub seed: Option<u64>,

    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,
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
        let meta = &checkpoint.meta;
        let vs = nn::VarStore::new(training_device());
        let encoder = meta.backbone.at(meta.side_px).build(&(vs.root() / "encoder"));
        checkpoint.restore_average(&vs)?;
        Ok(Self { vs, encoder, side_px: meta.side_px, mean: meta.mean, std: meta.std })
    }

    /// How it wants its input.
    pub fn input(&self) -> InputSpec {
        InputSpec { side_px: self.side_px, mean: self.mean, std: self.std }
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

/// The expressions that occur in the training split, in the project's order: the classes of every classifier.
///
/// # Errors
/// Where fewer than two occur.
pub fn classes(store: &Store) -> anyhow::Result<Vec<Expression>> {
    let mut seen = [false; Expression::ALL.len()];
    for index in store.split(Split::Train) {
        if let Some(expression) = store.record(index).expression() {
            seen[expression.index()] = true;
        }
    }
    let classes: Vec<_> = Expression::ALL.into_iter().filter(|e| seen[e.index()]).collect();
    let dir = store.dir().display();
    ensure!(classes.len() > 1, "{dir}: the training split has fewer than two expressions to learn");
    Ok(classes)
}

/// The frames of a split whose expression is one of `classes`, and its place among them.
pub fn labelled(store: &Store, split: Split, classes: &[Expression]) -> (Vec<usize>, Vec<usize>) {
    store.split(split).into_iter().filter_map(|i| Some((i, label_of(store, i, classes)?))).unzip()
}

/// The place of a frame's expression among `classes`; `None` where it has none of them.
fn label_of(store: &Store, index: usize, classes: &[Expression]) -> Option<usize> {
    let expression = store.record(index).expression()?;
    classes.iter().position(|class| *class == expression)
}

/// Runs `trainer eval`.
///
/// # Errors
/// Names what stands in the way.
pub fn run(args: &EvalArgs) -> anyhow::Result<()> {
    let store = Store::open(&args.data)?;
    check_split(args, &store)?;
    let subject = Subject::from_args(args)?;
    match args.task {
        Task::Expression => {
            let mut report = judge_expression(args, subject, &store)?;
            report.leave_out_known(&store);
            print(args, &report)
        }
        Task::Identity => print(args, &judge_identity(args, &subject, &store)?),
    }
}

/// # Errors
/// Where the split has nothing to judge; names those that have.
fn check_split(args: &EvalArgs, store: &Store) -> anyhow::Result<()> {
    let usable = |split| {
        let mut frames = store.split(split);
        if args.task == Task::Expression {
            frames.retain(|&i| store.record(i).expression().is_some());
        }
        frames.len()
    };
    let counts = Split::ALL.map(|split| (split, usable(split)));
    if counts.iter().any(|&(split, count)| split == args.split && count > 0) {
        return Ok(());
    }
    let what = if args.task == Task::Expression { "labelled picture" } else { "picture" };
    let there: Vec<_> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(split, count)| format!("--split {} ({count})", split.name()))
        .collect();
    let there = if there.is_empty() { "no split has one".to_owned() } else { there.join(" or ") };
    bail!("{}: no {what} is in the {} split: {there}", store.dir().display(), args.split.name())
}

fn print(args: &EvalArgs, report: &(impl Serialize + std::fmt::Display)) -> anyhow::Result<()> {
    if args.json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

/// What is judged.
enum Subject {
    /// A network of the trainer's, with the checkpoint that it came from.
    Trained(Box<Loaded>, Option<Box<Checkpoint>>),
    /// A bundle, by the edge's own inference.
    Shipped(Box<Bundle>),
    /// Histograms of oriented gradients of crops of this side in pixels.
    Hog(Hog, u32),
}

impl Subject {
    fn from_args(args: &EvalArgs) -> anyhow::Result<Self> {
        if let Some(HandMade::Hog) = args.descriptor {
            let hog = Hog { cell_px: args.cell_px as usize, ..Hog::default() };
            return Ok(Self::Hog(hog, args.side_px));
        }
        Ok(match (&args.checkpoint, &args.bundle, args.random_init) {
            (Some(path), None, None) => {
                let checkpoint = Checkpoint::load(path)?;
                Self::Trained(Box::new(Loaded::from_checkpoint(&checkpoint)?), Some(Box::new(checkpoint)))
            }
            (None, Some(dir), None) => Self::Shipped(Box::new(Bundle::open(dir)?)),
            (None, None, Some(backbone)) => {
                Self::Trained(Box::new(Loaded::random(backbone, args.side_px, args.seed.unwrap_or(0))), None)
            }
            _ => bail!("give one of --checkpoint, --bundle, --random-init and --descriptor"),
        })
    }

    /// Embeddings and labels of a split's labelled pictures.
    fn features(&self, store: &Store, split: Split, classes: &[Expression]) -> anyhow::Result<Features> {
        let (indices, labels) = labelled(store, split, classes);
        let (values, dim) = self.embed(store, &indices)?;
        Ok(Features { classes: classes.to_vec(), labels, dim, values })
    }

    /// Embeddings of these frames and the number of values of each.
    fn embed(&self, store: &Store, indices: &[usize]) -> anyhow::Result<(Vec<f32>, usize)> {
        Ok(match self {
            Self::Trained(loaded, _) => (
                embed(&loaded.encoder, loaded.vs.device(), loaded.input(), store, indices)?,
                loaded.encoder.embedding_size() as usize,
            ),
            Self::Shipped(bundle) => (
                embed_by_bundle(bundle, store, indices)?,
                Encoder::from_bundle(bundle)?.spec().embedding_size,
            ),
            Self::Hog(hog, side_px) => {
                let side = *side_px as usize;
                (describe_by_hog(hog, *side_px, store, indices)?, hog.descriptor_len(side, side)?)
            }
        })
    }
}

/// Neighbours that vote on an expression, and the temperature of their weights (Wu et al. 2018, section 3.4).
const NEIGHBOURS: usize = 20;
const TEMPERATURE: f64 = 0.07;

fn judge_expression(args: &EvalArgs, subject: Subject, store: &Store) -> anyhow::Result<Report> {
    match (args.protocol, subject) {
        (Protocol::Linear, subject) => {
            probe_report(store, args.split, args.class_weights, |split, classes| {
                subject.features(store, split, classes)
            })
        }
        (Protocol::Knn, subject) => {
            let classes = classes(store)?;
            let gallery = subject.features(store, Split::Train, &classes)?;
            let queries = subject.features(store, args.split, &classes)?;
            let predicted = knn_predictions(&gallery, &queries, NEIGHBOURS, TEMPERATURE)?;
            Report::expression(
                Protocol::Knn.name(),
                args.split,
                &classes,
                &queries.labels,
                predicted.into_iter(),
            )
        }
        (Protocol::Finetune, Subject::Trained(loaded, _)) => {
            let mut config: FinetuneConfig =
                config::layered(args.config.as_deref(), toml::Table::from_iter([]))?;
            config.seed = args.seed.unwrap_or(config.seed);
            finetune(&config, *loaded, store, args.split, args.out.as_deref())
        }
        (Protocol::OwnHead, Subject::Trained(loaded, checkpoint)) => {
            let checkpoint = checkpoint.context("an encoder with random weights has no head")?;
            let head = checkpoint_head(&checkpoint)?;
            let features = encoder_features(&loaded, store, args.split, &head_classes(&head)?)?;
            own_head(&features, &head, args.split)
        }
        (Protocol::Finetune, Subject::Shipped(_)) => {
            bail!("a bundle is not trained any further: --protocol own-head scores its own heads")
        }
        (Protocol::OwnHead, Subject::Shipped(bundle)) => bundle_report(&bundle, store, args.split),
        (Protocol::Finetune | Protocol::OwnHead, Subject::Hog(..)) => {
            bail!(
                "a descriptor that is not learnt has no weights to fine-tune and no head: --protocol linear or knn"
            )
        }
    }
}

fn judge_identity(args: &EvalArgs, subject: &Subject, store: &Store) -> anyhow::Result<IdentityReport> {
    ensure!(
        args.protocol == Protocol::Knn,
        "--protocol {}: identities are told apart by --protocol knn alone",
        args.protocol.name()
    );
    let indices = store.split(args.split);
    let (embeddings, dim) = subject.embed(store, &indices)?;
    identity_knn(store, args.split, &indices, &embeddings, dim, args.apart_secs)
}

/// Scores a bundle's own head, with the edge's own inference.
///
/// # Errors
/// Where it has no expression head, or there is nothing to score.
pub fn bundle_report(bundle: &Bundle, store: &Store, split: Split) -> anyhow::Result<Report> {
    let dir = || bundle.dir().display().to_string();
    let heads = Heads::from_safetensors(bundle.heads_safetensors()).with_context(dir)?;
    let head = heads.expression().with_context(|| format!("{}: no expression head", dir()))?;
    own_head(&bundle_features(bundle, store, split, &head_classes(head)?)?, head, split)
}

/// The linear probe of an encoder, scored on `split`.
///
/// # Errors
/// Where training or validation split have no labelled picture, or there is nothing to score.
pub fn encoder_probe(loaded: &Loaded, store: &Store, split: Split) -> anyhow::Result<Report> {
    probe_report(store, split, ClassWeights::None, |split, classes| {
        encoder_features(loaded, store, split, classes)
    })
}

/// Fits the probe on what `features` gives of training and validation, and scores it on `split`.
fn probe_report(
    store: &Store,
    split: Split,
    weights: ClassWeights,
    features: impl Fn(Split, &[Expression]) -> anyhow::Result<Features>,
) -> anyhow::Result<Report> {
    let classes = classes(store)?;
    let head = linear_probe(&features(Split::Train, &classes)?, &features(Split::Val, &classes)?, weights)?;
    let mut report = own_head(&features(split, &classes)?, &head, split)?;
    report.protocol = Protocol::Linear.name();
    Ok(report)
}

/// Scores a head on embeddings.
///
/// # Errors
/// Where there is nothing to score.
pub fn own_head(features: &Features, head: &LinearHead, split: Split) -> anyhow::Result<Report> {
    let predicted = predictions(head, features);
    Report::expression(Protocol::OwnHead.name(), split, &features.classes, &features.labels, predicted)
}

/// The head that a fine-tuned run has.
///
/// # Errors
/// Where it has none.
pub fn checkpoint_head(checkpoint: &Checkpoint) -> anyhow::Result<LinearHead> {
    let meta = &checkpoint.meta;
    ensure!(
        !meta.labels.is_empty(),
        "this run ({}) has no head of its own: fine-tune it with `trainer eval --protocol finetune --out RUN`",
        meta.method
    );
    let values = |name: &str| -> anyhow::Result<Vec<f32>> {
        Ok(crate::checkpoint::floats(&checkpoint.tensor(name)?)?)
    };
    let (weight, bias) = (values("model.head.weight")?, values("model.head.bias")?);
    let dim = meta.backbone.at(meta.side_px).embedding_size() as usize;
    Ok(LinearHead::new("expression", meta.labels.clone(), dim, weight, bias)?)
}

/// The expressions behind a head's rows.
fn head_classes(head: &LinearHead) -> anyhow::Result<Vec<Expression>> {
    let parse =
        |name: &String| Expression::from_name(name).with_context(|| format!("label '{name}' is not known"));
    head.labels().iter().map(parse).collect()
}
