//! What decides a pretraining run, and the flags that set it.

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::augment::AugmentConfig;
use crate::config;
use crate::data::{Cache, Law, PairConfig, PassOver, Sampling, SequenceConfig};
use crate::method::{
    self, ByolConfig, ClpConfig, Curriculum, FabNetConfig, FaceCycleConfig, MaskFn, Method, MocoConfig,
    PclConfig, PlateauConfig, Projection, SimSiamConfig,
};
use crate::nets::{Architecture, Backbone, Precision};
use crate::optim::{self, Rule};

use super::recipe::{Recipe, base_of};

/// Everything that decides a run. The defaults are SSLFER's (section 4.1), the backbone and its input side aside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PretrainConfig {
    /// The method.
    pub method: Method,
    /// The encoder.
    pub backbone: Backbone,
    /// Side of the encoder's input in pixels.
    pub side_px: u32,
    /// What an epoch passes over once.
    pub pass_over: PassOver,
    /// Passes over the training pictures. A pass takes as many steps whichever switches are on: with `hard_neg` half of
    /// the pictures are anchors in turn.
    pub epochs: i64,
    /// Pairs of views a step, or tuples of frames, over all processes.
    pub batch: usize,
    /// Parts that a process's batch is computed in, one after another, to save memory; views contrast within a part.
    pub accumulate: usize,
    /// The optimiser.
    pub optimizer: Rule,
    /// Decay of Adam's mean gradient.
    pub beta1: f64,
    /// The learning rate.
    pub lr: f64,
    /// Decay of the weights.
    pub weight_decay: f64,
    /// Epochs over which the rate rises from 0.
    pub warmup_epochs: i64,
    /// The learning rate is constant before this epoch, then falls to 0 along a cosine.
    pub cosine_from_epoch: i64,
    /// Momentum of an average of the encoder's weights, which is then what is evaluated and exported; 0 for none.
    pub ema: f64,
    /// Decides the first weights, the order of the data and every augmentation.
    pub seed: u64,
    /// A checkpoint is written after every so many epochs, and at the end. Once top-1 has reached `keep_from_top1`, it
    /// is also kept under a name of its own.
    pub checkpoint_epochs: i64,
    /// A checkpoint is written after every so many steps, too; 0 for not.
    pub checkpoint_steps: i64,
    /// Mean top-1 accuracy of an epoch from which checkpoints are kept for evaluation (SSLFER 4.1: 60 %).
    pub keep_from_top1: f64,
    /// Number format of the convolutions.
    pub precision: Precision,
    /// Whether pictures are decoded once and for all.
    pub cache: Cache,
    /// Channel means that pictures in `[0,1]` are normalised with.
    pub mean: [f32; 3],
    /// Channel deviations that pictures in `[0,1]` are normalised with.
    pub std: [f32; 3],
    /// How pairs are drawn.
    pub pairs: PairConfig,
    /// How sequences are drawn (`clp`).
    pub sequence: SequenceConfig,
    /// Projection head and temperature of `simclr`, `sslfer`, `moco` and `pcl`.
    pub projection: Projection,
    /// SSLFER's false-negative cancellation.
    pub mask_fn: MaskFn,
    /// MoCo's queue and momentum; CLP's memory and momentum.
    pub moco: MocoConfig,
    /// BYOL's heads and target.
    pub byol: ByolConfig,
    /// SimSiam's heads.
    pub simsiam: SimSiamConfig,
    /// PCL's parts.
    pub pcl: PclConfig,
    /// CLP's parts.
    pub clp: ClpConfig,
    /// FAb-Net's sources and curriculum.
    pub fabnet: FabNetConfig,
    /// When the rate of `fabnet`, `autoencoder`, `rotnet` and `splitbrain` falls.
    pub plateau: PlateauConfig,
    /// FaceCycle's generator and losses.
    pub facecycle: FaceCycleConfig,
    /// The views.
    pub augment: AugmentConfig,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            method: Method::SimClr,
            backbone: Backbone::Edge,
            side_px: 64,
            pass_over: PassOver::Frames,
            epochs: 100,
            batch: 256,
            accumulate: 1,
            optimizer: Rule::Adam,
            beta1: optim::BETA1,
            lr: 3e-4,
            weight_decay: 1e-4,
            warmup_epochs: 0,
            cosine_from_epoch: 10,
            ema: 0.0,
            seed: 0,
            checkpoint_epochs: 5,
            checkpoint_steps: 0,
            keep_from_top1: 0.6,
            precision: Precision::Auto,
            cache: Cache::Auto,
            mean: [0.5; 3],
            std: [0.25; 3],
            pairs: PairConfig::default(),
            sequence: SequenceConfig::default(),
            projection: Projection::default(),
            mask_fn: MaskFn::default(),
            moco: MocoConfig::default(),
            byol: ByolConfig::default(),
            simsiam: SimSiamConfig::default(),
            pcl: PclConfig::default(),
            clp: ClpConfig::default(),
            fabnet: FabNetConfig::default(),
            plateau: PlateauConfig::default(),
            facecycle: FaceCycleConfig::default(),
            augment: AugmentConfig::default(),
        }
    }
}

/// The file in a run's folder that has its settings.
pub(super) const FILE_NAME: &str = "config.toml";

/// Settings that change how a run goes on, not what it computes: a run may be resumed with others.
const FREE_KEYS: [&str; 4] = ["checkpoint_epochs", "checkpoint_steps", "keep_from_top1", "cache"];

impl PretrainConfig {
    /// Defaults, then a recipe, a file, and flags or environment.
    ///
    /// # Errors
    /// Names the file and the setting that cannot be read.
    pub fn from_args(args: &SettingArgs) -> anyhow::Result<Self> {
        Self::from_layers(args.recipe, args.config.as_deref(), args.overrides()?)
    }

    /// Defaults, then what a method's paper has, a recipe, a file, and `overrides`. SSLFER's own switches are on where its
    /// method is chosen and nothing else is said; other papers' methods have all of their paper's settings.
    ///
    /// # Errors
    /// Names the file and the setting that cannot be read.
    pub fn from_layers(
        recipe: Option<Recipe>,
        file: Option<&Path>,
        overrides: toml::Table,
    ) -> anyhow::Result<Self> {
        Self::layered(toml::Table::new(), recipe, file, overrides)
    }

    /// The settings that the run in `out` began with, under those that `args` give.
    ///
    /// # Errors
    /// As [`PretrainConfig::from_args`].
    pub(super) fn resumed(out: &Path, args: &SettingArgs) -> anyhow::Result<Self> {
        let path = out.join(FILE_NAME);
        let begun = if path.exists() { config::read_table(&path)? } else { toml::Table::new() };
        Self::layered(begun, args.recipe, args.config.as_deref(), args.overrides()?)
    }

    fn layered(
        mut table: toml::Table,
        recipe: Option<Recipe>,
        file: Option<&Path>,
        overrides: toml::Table,
    ) -> anyhow::Result<Self> {
        if let Some(recipe) = recipe {
            config::merge(&mut table, recipe.table()?);
        }
        if let Some(path) = file {
            config::merge(&mut table, config::read_table(path)?);
        }
        config::merge(&mut table, overrides);
        let method = table.get("method").and_then(toml::Value::as_str).unwrap_or_default();
        if let Some(mut base) = base_of(method)? {
            config::merge(&mut base, table);
            table = base;
        }
        let origin = file.map(|path| path.display().to_string());
        let config: Self = config::parse(table, origin.as_deref().unwrap_or("configuration"))?;
        config.check()?;
        Ok(config)
    }

    /// # Errors
    /// Names the first setting that makes no sense.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!((0.0..1.0).contains(&self.beta1), "beta1 = {} is outside [0, 1)", self.beta1);
        ensure!((16..=512).contains(&self.side_px), "side_px = {} is outside 16 to 512", self.side_px);
        ensure!(self.epochs > 0, "epochs = {} is not above 0", self.epochs);
        ensure!(self.batch >= 2, "batch = {}: contrast needs at least 2 pictures", self.batch);
        ensure!(self.accumulate > 0, "accumulate = {} is not above 0", self.accumulate);
        ensure!(
            self.batch.is_multiple_of(self.accumulate) && self.batch / self.accumulate >= 2,
            "batch = {} does not fall into accumulate = {} equal parts of at least 2",
            self.batch,
            self.accumulate
        );
        ensure!(self.lr.is_finite() && self.lr > 0.0, "lr = {} is not above 0", self.lr);
        ensure!(
            self.weight_decay.is_finite() && self.weight_decay >= 0.0,
            "weight_decay = {} is below 0",
            self.weight_decay
        );
        ensure!(self.warmup_epochs >= 0, "warmup_epochs = {} is below 0", self.warmup_epochs);
        ensure!(
            self.warmup_epochs < self.epochs,
            "warmup_epochs = {} is not below epochs = {}: the run would end before its learning rate is reached",
            self.warmup_epochs,
            self.epochs
        );
        ensure!((0.0..1.0).contains(&self.ema), "ema = {} is outside [0, 1)", self.ema);
        ensure!(
            self.projection.temperature > 0.0,
            "projection.temperature = {} is not above 0",
            self.projection.temperature
        );
        for (name, width) in [
            ("projection.out", self.projection.out),
            ("moco.queue", self.moco.queue),
            ("byol.hidden", self.byol.hidden),
            ("byol.out", self.byol.out),
            ("simsiam.out", self.simsiam.out),
            ("simsiam.bottleneck", self.simsiam.bottleneck),
        ] {
            ensure!(width > 0, "{name} = {width} is not above 0");
        }
        for (name, momentum) in [("moco.momentum", self.moco.momentum), ("byol.momentum", self.byol.momentum)]
        {
            ensure!((0.0..=1.0).contains(&momentum), "{name} = {momentum} is outside [0, 1]");
        }
        ensure!(self.checkpoint_epochs > 0, "checkpoint_epochs = {} is not above 0", self.checkpoint_epochs);
        ensure!(self.std.iter().all(|s| *s > 0.0), "std = {:?} is not above 0", self.std);
        self.check_switches()?;
        self.check_method()?;
        match (self.augment.problem(self.side_px), self.pairs.problem()) {
            (Some(problem), _) => bail!("augment: {problem}"),
            (None, Some(problem)) => bail!("pairs: {problem}"),
            (None, None) => Ok(()),
        }
    }

    fn check_switches(&self) -> anyhow::Result<()> {
        let method = self.method.name();
        let MaskFn { count, weight, ref weights } = self.mask_fn;
        ensure!(count >= 0, "mask_fn.count = {count} is below 0");
        ensure!(
            count > 0 || weights.as_os_str().is_empty(),
            "--mask-fn-weights {}: nothing is compared by them without --mask-fn",
            weights.display()
        );
        ensure!(weight.is_finite() && weight >= 0.0, "mask_fn.weight = {weight} is below 0");
        ensure!(
            count == 0 || self.method == Method::Sslfer,
            "--mask-fn {count}: {method} does not cancel false negatives; --method sslfer does"
        );
        let others = 2 * (self.batch / self.accumulate) as i64 - 4;
        ensure!(
            count <= others.max(0),
            "--mask-fn {count}: of a batch of {} (in parts: {}) at most {} views are somebody else's",
            self.batch,
            self.accumulate,
            others.max(0)
        );
        ensure!(
            !self.pairs.hard_neg || self.method.has_negatives_in_batch(),
            "--hard-neg: {method} has no negatives within a batch; simclr and sslfer have"
        );
        ensure!(
            !self.pairs.hard_neg || (self.batch / self.accumulate).is_multiple_of(2),
            "--hard-neg: a batch of {} does not fall into anchors and as many hard negatives",
            self.batch / self.accumulate
        );
        Ok(())
    }

    fn check_method(&self) -> anyhow::Result<()> {
        let method = self.method.name();
        if let Some(problem) = self.architecture().problem() {
            bail!("{problem}");
        }
        let own = match self.method {
            Method::Pcl => Some(Backbone::Pcl),
            Method::SplitBrain => Some(Backbone::SplitBrain),
            _ => None,
        };
        ensure!(
            own.is_none_or(|own| own == self.backbone),
            "--backbone {}: {method} has a backbone of its own: leave it out",
            self.backbone
        );
        let decoded =
            matches!(self.method, Method::Pcl | Method::FabNet | Method::Autoencoder | Method::SplitBrain);
        ensure!(
            !decoded || self.side_px.is_power_of_two(),
            "side_px = {}: the decoder of {method} doubles its side up to a power of two",
            self.side_px
        );
        if let Some(normalisation) = self.backbone.own_normalisation() {
            ensure!(
                (self.mean, self.std) == normalisation,
                "mean = {:?}, std = {:?}: {} computes Lab of colours as they are: set mean = [0, 0, 0], std = [1, 1, 1]",
                self.mean,
                self.std,
                self.backbone
            );
        }
        let PairConfig { time_aug, hard_neg, face_swap, cutmix, .. } = self.pairs;
        ensure!(
            self.method.draws_pairs() || !(time_aug || hard_neg || face_swap || cutmix),
            "pairs: {method} draws its frames by itself: --time-aug, --hard-neg, --face-swap and --cutmix are for pairs"
        );
        ensure!(
            self.method != Method::FaceCycle || self.side_px.is_multiple_of(4),
            "side_px = {}: FaceCycle's generator works at a quarter of it: give a multiple of 4",
            self.side_px
        );
        let PclConfig { disentangle, pose_contrast, .. } = self.pcl;
        ensure!(
            self.method != Method::Pcl || !(disentangle && pose_contrast) || self.augment.flip_p == 0.0,
            "augment.flip_p = {}: PCL tells poses by what is mirrored: 0 with pcl.pose_contrast",
            self.augment.flip_p
        );
        let share = self.pcl.crop_share;
        ensure!(share > 0.0 && share <= 0.5, "pcl.crop_share = {share} is outside (0, 0.5]");
        ensure!(self.pcl.mixing >= 0.0, "pcl.mixing = {} is below 0", self.pcl.mixing);
        ensure!(
            self.pcl.pose_negatives > 1,
            "pcl.pose_negatives = {} is not above 1",
            self.pcl.pose_negatives
        );
        ensure!(
            self.pcl.weight_temperature > 0.0,
            "pcl.weight_temperature = {} is not above 0",
            self.pcl.weight_temperature
        );
        ensure!(self.pcl.input_noise >= 0.0, "pcl.input_noise = {} is below 0", self.pcl.input_noise);
        let SequenceConfig { length, stride, scattered } = self.sequence;
        ensure!(length >= 3, "sequence.length = {length}: a triplet needs 3 frames");
        ensure!(stride > 0, "sequence.stride = {stride} is not above 0");
        ensure!(scattered > 0, "sequence.scattered = {scattered} is not above 0");
        let ClpConfig { temporal, cross_identity, temperature, dictionary_share, .. } = self.clp;
        ensure!(
            temporal || cross_identity,
            "clp: with neither temporal nor cross_identity nothing is learnt"
        );
        ensure!(temperature > 0.0, "clp.temperature = {temperature} is not above 0");
        ensure!(
            dictionary_share > 0.0 && dictionary_share < 1.0,
            "clp.dictionary_share = {dictionary_share} is outside (0, 1)"
        );
        ensure!(
            self.method != Method::Clp || self.moco.queue > 1,
            "moco.queue = {}: CLP splits its memory in two",
            self.moco.queue
        );
        ensure!(self.fabnet.sources > 0, "fabnet.sources = {} is not above 0", self.fabnet.sources);
        let Curriculum { width, shift, .. } = self.fabnet.curriculum;
        ensure!(width > 0.0 && width <= 1.0, "fabnet.curriculum.width = {width} is outside (0, 1]");
        ensure!(shift > 0.0, "fabnet.curriculum.shift = {shift} is not above 0");
        let factor = self.plateau.factor;
        ensure!(factor > 0.0 && factor <= 1.0, "plateau.factor = {factor} is outside (0, 1]");
        let FaceCycleConfig { width, ref vgg19, .. } = self.facecycle;
        ensure!(
            (16..=256).contains(&width) && (width as u64).is_power_of_two(),
            "facecycle.width = {width} is not a power of two from 16 to 256"
        );
        ensure!(
            vgg19.as_os_str().is_empty() || width == 256,
            "facecycle.width = {width}: VGG-19's weights are for 256"
        );
        Ok(())
    }

    /// The encoder and its input.
    pub fn architecture(&self) -> Architecture {
        self.backbone.at(self.side_px)
    }

    /// Which frames are learnt from together.
    pub fn sampling(&self) -> Sampling {
        method::sampling(self)
    }

    /// Side that pictures are brought to before views are drawn: SSLFER's 128 for an input of 112.
    pub fn load_side_px(&self) -> u32 {
        (self.side_px * 128).div_ceil(112)
    }

    /// Parameters whose learning rate does not fall, by how their names begin.
    pub(super) fn constant_rate(&self) -> Option<&'static str> {
        (self.method == Method::SimSiam && self.simsiam.constant_predictor_lr).then_some("predictor.")
    }

    /// What stands against going on with a run that had the settings `was`, in words. Settings that an earlier build did
    /// not have are what it did: their defaults.
    pub(super) fn conflict(&self, was: toml::Table) -> anyhow::Result<Option<String>> {
        let was: Self = config::parse(was, "the settings of the run")?;
        let free = |table: toml::Table| -> toml::Table {
            table.into_iter().filter(|(key, _)| !FREE_KEYS.contains(&key.as_str())).collect()
        };
        let (ours, was) = (free(config::table_of(self)?), free(config::table_of(&was)?));
        Ok(config::difference(&was, &ours).map(|(key, was, ours)| {
            format!("the run has {key} = {was}, not {ours}: resume it with the settings it had")
        }))
    }
}

/// Options of `trainer pretrain`.
#[derive(Clone, Debug, Args)]
pub struct PretrainArgs {
    /// Folder of a store with training pictures; may be given several times
    #[arg(long, required = true)]
    pub data: Vec<PathBuf>,

    /// Folder of the run: checkpoint.safetensors, metrics.jsonl, online.jsonl, config.toml, TensorBoard events
    #[arg(long)]
    pub out: PathBuf,

    /// Continue the run in --out from its last checkpoint, with the settings that it had
    #[arg(long)]
    pub resume: bool,

    /// Labelled store that the encoder is judged on as training goes on (by kNN and a linear probe; nothing is learnt
    /// from its labels)
    #[arg(long, value_name = "STORE")]
    pub probe_data: Option<PathBuf>,

    /// Epochs between two such judgements
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(i64).range(1..))]
    pub probe_epochs: i64,

    /// What is trained, and how.
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// What is trained, and how. A flag wins over the environment, that over the configuration file, and that over the
/// recipe.
#[derive(Clone, Debug, Args, Serialize)]
pub struct SettingArgs {
    /// Settings that come with the program: a row of a paper's table, or its small twin for two cores, as in
    /// sslfer/table1-f and sslfer/small/table1-f; `trainer recipes` lists them
    #[arg(long, value_name = "NAME")]
    #[serde(skip)]
    pub recipe: Option<Recipe>,

    /// TOML file with any of the settings
    #[arg(long)]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Pretraining method [default: simclr]
    #[arg(long, env = "SEMBLANCE_METHOD")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,

    /// Encoder: edge, resnet18, resnet34, resnet50, pcl, facecycle, fabnet, splitbrain, or the shape of a dense one such as
    /// 32/64x3/128x2+256x2 [default: edge]
    #[arg(long, env = "SEMBLANCE_BACKBONE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backbone: Option<Backbone>,

    /// Side of the encoder's input in pixels [default: 64]
    #[arg(long, env = "SEMBLANCE_SIDE_PX")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side_px: Option<u32>,

    /// Passes over the pictures [default: 100]
    #[arg(long, env = "SEMBLANCE_EPOCHS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<i64>,

    /// Pairs of views a step [default: 256]
    #[arg(long, env = "SEMBLANCE_BATCH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,

    /// Parts that a batch is computed in, to save memory; views contrast within a part [default: 1]
    #[arg(long, env = "SEMBLANCE_ACCUMULATE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accumulate: Option<usize>,

    /// Optimiser [default: adam]
    #[arg(long, env = "SEMBLANCE_OPTIMIZER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<Rule>,

    /// Learning rate [default: 0.0003]
    #[arg(long, env = "SEMBLANCE_LR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,

    /// Momentum of an average of the weights that is evaluated and exported [default: 0, none]
    #[arg(long, env = "SEMBLANCE_EMA")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,

    /// Seed of weights, order and augmentation [default: 0]
    #[arg(long, env = "SEMBLANCE_SEED")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,

    /// Number format of convolutions [default: auto, bf16 where the hardware has it]
    #[arg(long, env = "SEMBLANCE_PRECISION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,

    /// Decode every picture once, into memory [default: auto, where half of the free memory holds them]
    #[arg(long, env = "SEMBLANCE_CACHE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,

    /// Write a checkpoint every so many epochs [default: 5]
    #[arg(long, env = "SEMBLANCE_CHECKPOINT_EPOCHS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_epochs: Option<i64>,

    /// Write a checkpoint every so many steps, besides those after epochs [default: 0, not]
    #[arg(long, env = "SEMBLANCE_CHECKPOINT_STEPS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_steps: Option<i64>,

    /// What SSLFER adds to SimCLR.
    #[command(flatten)]
    #[serde(skip)]
    pub switches: Switches,
}

/// SSLFER's switches. On by default with `--method sslfer`, off with the others.
#[derive(Clone, Debug, Default, Args)]
#[command(
    next_help_heading = "SSLFER's switches (on with --method sslfer, CutMix aside; off with the others)"
)]
pub struct Switches {
    /// TimeAug: positives are neighbours in time
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub time_aug: Option<bool>,

    /// How the probability of a temporal positive depends on its distance [default: falling]
    #[arg(long)]
    pub time_law: Option<Law>,

    /// HardNeg: half of a batch are frames of the other half's videos, seconds away
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub hard_neg: Option<bool>,

    /// FaceSwap: half of the positives show their expression on somebody else's face
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub face_swap: Option<bool>,

    /// CutMix: half of the positives are the middle of a picture on somebody else's (in FaceSwap's place)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub cutmix: Option<bool>,

    /// MaskFN: views a batch that become further positives of each anchor; 0 for none
    #[arg(long, value_name = "N_FN")]
    pub mask_fn: Option<i64>,

    /// ResNet-18's ImageNet weights (safetensors, torchvision's names) for MaskFN's descriptor [default: none, HOG]
    #[arg(long, value_name = "FILE")]
    pub mask_fn_weights: Option<PathBuf>,
}

impl SettingArgs {
    /// What flags and environment set, as the configuration file would have it.
    fn overrides(&self) -> anyhow::Result<toml::Table> {
        let mut table = config::table_of(self)?;
        let Switches { time_aug, time_law, hard_neg, face_swap, cutmix, mask_fn, mask_fn_weights } =
            &self.switches;
        let flags =
            [("time_aug", time_aug), ("hard_neg", hard_neg), ("face_swap", face_swap), ("cutmix", cutmix)];
        let mut pairs: toml::Table =
            flags.into_iter().filter_map(|(name, flag)| Some((name.to_owned(), (*flag)?.into()))).collect();
        if let Some(law) = time_law {
            pairs.insert(
                "timing".to_owned(),
                toml::Table::from_iter([("law".to_owned(), toml::Value::try_from(law)?)]).into(),
            );
        }
        let mut cancelling = toml::Table::new();
        if let Some(count) = mask_fn {
            cancelling.insert("count".to_owned(), (*count).into());
        }
        if let Some(weights) = mask_fn_weights {
            cancelling.insert("weights".to_owned(), toml::Value::try_from(weights)?);
        }
        for (name, settings) in [("pairs", pairs), ("mask_fn", cancelling)] {
            if !settings.is_empty() {
                table.insert(name.to_owned(), settings.into());
            }
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: SettingArgs,
    }

    fn config(flags: &[&str]) -> anyhow::Result<PretrainConfig> {
        let given = ["trainer"].iter().chain(flags);
        PretrainConfig::from_args(&Cli::parse_from(given).args)
    }

    #[test]
    fn recipes_are_the_rows_of_the_tables() {
        let of = |recipe: &str| config(&["--recipe", recipe]).unwrap();
        let switches = |row: &str| {
            let c = of(&format!("sslfer/{row}"));
            assert_eq!((c.projection.temperature, c.backbone, c.side_px), (0.07, Backbone::Resnet50, 112));
            let p = c.pairs;
            (p.time_aug, p.hard_neg, p.face_swap, p.cutmix, c.mask_fn.count)
        };
        assert_eq!(switches("simclr"), (false, false, false, false, 0));
        assert_eq!(switches("table1-a"), (true, false, false, false, 0));
        assert_eq!(switches("table1-b"), (true, true, false, false, 0));
        assert_eq!(switches("table1-c"), (true, true, false, true, 0));
        assert_eq!(switches("table1-d"), (true, false, true, false, 1));
        assert_eq!(switches("table1-e"), (true, true, true, false, 0));
        assert_eq!(switches("table1-f"), (true, true, true, false, 1));
        assert_eq!(switches("table4-2"), (true, true, true, false, 2));
        let pcl = |row: &str| {
            let c = of(&format!("pcl/table5-{row}"));
            assert_eq!((c.side_px, c.batch, c.epochs, c.lr), (64, 256, 1000, 1e-4));
            let PclConfig { disentangle, orthogonal, pose_contrast, dynamic_weights, .. } = c.pcl;
            [disentangle, orthogonal, pose_contrast, dynamic_weights].iter().filter(|on| **on).count()
        };
        assert_eq!(["1", "2", "3", "4", "5"].map(pcl), [0, 1, 2, 3, 4]);
        assert_eq!(of("pcl/pcl").pcl, PclConfig::default());
        let clp = of("clp/table4-4");
        assert_eq!((clp.clp, clp.sequence, clp.batch), (ClpConfig::default(), SequenceConfig::default(), 64));
        assert_eq!((clp.backbone, clp.moco.queue), (Backbone::Resnet34, 65_536));
        assert_eq!(of("clp/table4-9").clp.dictionary_share * 65_536.0, 8_192.0);
        let fabnet = of("fabnet/fabnet");
        assert_eq!((fabnet.batch, fabnet.lr, fabnet.side_px, fabnet.optimizer), (32, 1e-3, 256, Rule::Sgd));
    }

    #[test]
    fn every_recipe_and_its_small_twin_is_sound_and_a_methods_paper_is_its_default() {
        for recipe in Recipe::all() {
            config(&["--recipe", &recipe.to_string()]).unwrap_or_else(|e| panic!("{recipe}: {e:#}"));
        }
        for (method, recipe) in [("pcl", "pcl/pcl"), ("clp", "clp/clp"), ("facecycle", "facecycle/facecycle")]
        {
            let by_name = config(&["--method", method]).unwrap();
            assert_eq!(by_name, config(&["--recipe", recipe]).unwrap());
        }
        let edge = config(&["--method", "clp", "--backbone", "edge", "--side-px", "64"]).unwrap();
        assert_eq!((edge.backbone, edge.lr), (Backbone::Edge, 1e-3));
    }

    #[test]
    fn what_a_method_cannot_be_built_of_is_named() {
        let fail = |flags: &[&str]| config(flags).unwrap_err().to_string();
        assert!(fail(&["--method", "pcl", "--backbone", "edge"]).contains("backbone of its own"));
        assert!(fail(&["--method", "pcl", "--side-px", "96"]).contains("side_px = 96"));
        assert!(fail(&["--method", "fabnet", "--side-px", "96"]).contains("side_px = 96"));
        assert!(fail(&["--method", "clp", "--time-aug"]).contains("clp draws its frames by itself"));
        assert!(fail(&["--backbone", "splitbrain"]).contains("computes Lab"));
    }

    #[test]
    fn switches_are_independent_and_sslfer_has_them_on() {
        let whole = config(&["--method", "sslfer"]).unwrap();
        assert!(whole.pairs.time_aug && whole.pairs.hard_neg && whole.pairs.face_swap && !whole.pairs.cutmix);
        assert_eq!(whole.mask_fn.count, 1);
        let part = config(&["--method", "sslfer", "--hard-neg=false", "--mask-fn", "2", "--cutmix"]).unwrap();
        assert!(part.pairs.time_aug && !part.pairs.hard_neg && part.pairs.cutmix);
        assert_eq!(part.mask_fn.count, 2);
        let plain = config(&["--time-aug", "--time-law", "rising"]).unwrap();
        assert!(plain.pairs.time_aug && !plain.pairs.face_swap && plain.pairs.timing.law == Law::Rising);
    }

    #[test]
    fn a_run_of_an_earlier_build_goes_on_and_what_contradicts_it_is_named() {
        let config = config(&["--recipe", "baseline/simsiam", "--seed", "3"]).unwrap();
        let mut was = config::table_of(&config).unwrap();
        assert_eq!(config.conflict(was.clone()).unwrap(), None);
        // An earlier build knew no constant rate and no pairs; it did what their defaults do.
        was.remove("pairs");
        assert_eq!(config.conflict(was.clone()).unwrap(), None);
        let simsiam = was["simsiam"].as_table_mut().unwrap();
        simsiam.remove("constant_predictor_lr");
        let conflict = config.conflict(was.clone()).unwrap().unwrap();
        assert!(conflict.contains("simsiam.constant_predictor_lr = false, not true"), "{conflict}");
        was.insert("unheard_of".to_owned(), 1.into());
        assert!(config.conflict(was).is_err());
    }

    #[test]
    fn a_resumed_run_has_its_own_settings_without_repeating_them() {
        let dir = tempfile::tempdir().unwrap();
        let begun =
            config(&["--recipe", "sslfer/table1-b", "--lr", "0.01", "--time-law", "uniform"]).unwrap();
        std::fs::write(dir.path().join(FILE_NAME), toml::to_string(&begun).unwrap()).unwrap();
        let resumed = |flags: &[&str]| {
            let given = ["trainer"].iter().chain(flags);
            PretrainConfig::resumed(dir.path(), &Cli::parse_from(given).args).unwrap()
        };
        assert_eq!(resumed(&[]), begun);
        assert_eq!(resumed(&["--method", "sslfer"]), begun, "no switch comes on again");
        assert_eq!(resumed(&["--lr", "0.02"]), PretrainConfig { lr: 0.02, ..begun });
    }

    #[test]
    fn switches_that_a_method_cannot_have_are_named() {
        let fail = |flags: &[&str]| config(flags).unwrap_err().to_string();
        assert!(fail(&["--method", "byol", "--hard-neg"]).contains("byol has no negatives"));
        assert!(fail(&["--mask-fn", "1"]).contains("simclr does not cancel"));
        assert!(fail(&["--method", "sslfer", "--batch", "7"]).contains("batch of 7"));
        assert!(fail(&["--accumulate", "3"]).contains("accumulate = 3"));
        assert!(fail(&["--ema", "1"]).contains("ema = 1"));
        assert!(fail(&["--mask-fn-weights", "w.safetensors"]).contains("without --mask-fn"));
        assert!(fail(&["--recipe", "baseline/byol", "--epochs", "10"]).contains("warmup_epochs = 10"));
    }
}
