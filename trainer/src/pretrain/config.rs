//! What decides a pretraining run, and the flags that set it.

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::augment::AugmentConfig;
use crate::config;
use crate::data::{Cache, Law, PairConfig};
use crate::method::{ByolConfig, MaskFn, Method, MocoConfig, Projection, SimSiamConfig};
use crate::nets::{Backbone, Precision};
use crate::optim::Rule;

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
    /// Passes over the training pictures. A pass takes as many steps whichever switches are on: with `hard_neg` half of
    /// the pictures are anchors in turn.
    pub epochs: i64,
    /// Pairs of views a step, over all processes.
    pub batch: usize,
    /// Parts that a process's batch is computed in, one after another, to save memory; views contrast within a part.
    pub accumulate: usize,
    /// The optimiser.
    pub optimizer: Rule,
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
    /// Projection head and temperature of `simclr`, `sslfer` and `moco`.
    pub projection: Projection,
    /// SSLFER's false-negative cancellation.
    pub mask_fn: MaskFn,
    /// MoCo's queue and momentum.
    pub moco: MocoConfig,
    /// BYOL's heads and target.
    pub byol: ByolConfig,
    /// SimSiam's heads.
    pub simsiam: SimSiamConfig,
    /// The views.
    pub augment: AugmentConfig,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            method: Method::SimClr,
            backbone: Backbone::Edge,
            side_px: 64,
            epochs: 100,
            batch: 256,
            accumulate: 1,
            optimizer: Rule::Adam,
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
            projection: Projection::default(),
            mask_fn: MaskFn::default(),
            moco: MocoConfig::default(),
            byol: ByolConfig::default(),
            simsiam: SimSiamConfig::default(),
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

    /// Defaults, then a recipe, a file, and `overrides`. SSLFER's own switches are on where its method is chosen and
    /// nothing else is said.
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
        if table.get("method").and_then(toml::Value::as_str) == Some(Method::Sslfer.name()) {
            let mut whole = toml::toml! {
                pairs = { time_aug = true, hard_neg = true, face_swap = true }
                mask_fn = { count = 1 }
            };
            config::merge(&mut whole, table);
            table = whole;
        }
        let origin = file.map(|path| path.display().to_string());
        let config: Self = config::parse(table, origin.as_deref().unwrap_or("configuration"))?;
        config.check()?;
        Ok(config)
    }

    /// # Errors
    /// Names the first setting that makes no sense.
    pub fn check(&self) -> anyhow::Result<()> {
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

/// Settings that come with the program: SimCLR and rows a to f of SSLFER's table 1, and the other methods as their own
/// papers train them. SSLFER's own MoCo v2 and BYOL were trained with SGD at its common rate (section 4.1), and it has
/// no SimSiam.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Recipe {
    /// SimCLR as SSLFER compares with it
    #[value(name = "simclr")]
    SimClr,
    /// MoCo v2 with its paper's optimiser
    Moco,
    /// BYOL with its paper's optimiser
    Byol,
    /// SimSiam with its paper's optimiser and constant rate of the predictor
    #[value(name = "simsiam")]
    SimSiam,
    /// Row a of SSLFER's table 1: TimeAug
    SslferA,
    /// Row b: TimeAug and HardNeg
    SslferB,
    /// Row c: TimeAug, HardNeg and CutMix
    SslferC,
    /// Row d: TimeAug, FaceSwap and MaskFN
    SslferD,
    /// Row e: TimeAug, HardNeg and FaceSwap
    SslferE,
    /// Row f: TimeAug, HardNeg, FaceSwap and MaskFN, the whole method
    SslferF,
}

impl Recipe {
    /// Every recipe.
    pub const ALL: [Self; 10] = [
        Self::SimClr,
        Self::Moco,
        Self::Byol,
        Self::SimSiam,
        Self::SslferA,
        Self::SslferB,
        Self::SslferC,
        Self::SslferD,
        Self::SslferE,
        Self::SslferF,
    ];

    const fn text(self) -> &'static str {
        match self {
            Self::SimClr => include_str!("../../recipes/simclr.toml"),
            Self::Moco => include_str!("../../recipes/moco.toml"),
            Self::Byol => include_str!("../../recipes/byol.toml"),
            Self::SimSiam => include_str!("../../recipes/simsiam.toml"),
            Self::SslferA => include_str!("../../recipes/sslfer-a.toml"),
            Self::SslferB => include_str!("../../recipes/sslfer-b.toml"),
            Self::SslferC => include_str!("../../recipes/sslfer-c.toml"),
            Self::SslferD => include_str!("../../recipes/sslfer-d.toml"),
            Self::SslferE => include_str!("../../recipes/sslfer-e.toml"),
            Self::SslferF => include_str!("../../recipes/sslfer-f.toml"),
        }
    }

    /// Its settings.
    ///
    /// # Errors
    /// Where it is no TOML, which a test holds against.
    pub fn table(self) -> anyhow::Result<toml::Table> {
        Ok(self.text().parse()?)
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
    /// Settings that come with the program
    #[arg(long)]
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

    /// Encoder [default: edge]
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
    fn recipes_are_the_rows_of_the_table() {
        let switches = |recipe: &str| {
            let c = config(&["--recipe", recipe]).unwrap();
            assert_eq!(c.projection.temperature, 0.07, "{recipe}");
            let p = c.pairs;
            (p.time_aug, p.hard_neg, p.face_swap, p.cutmix, c.mask_fn.count)
        };
        assert_eq!(switches("simclr"), (false, false, false, false, 0));
        assert_eq!(switches("sslfer-a"), (true, false, false, false, 0));
        assert_eq!(switches("sslfer-b"), (true, true, false, false, 0));
        assert_eq!(switches("sslfer-c"), (true, true, false, true, 0));
        assert_eq!(switches("sslfer-d"), (true, false, true, false, 1));
        assert_eq!(switches("sslfer-e"), (true, true, true, false, 0));
        assert_eq!(switches("sslfer-f"), (true, true, true, false, 1));
        for recipe in Recipe::ALL {
            let table = recipe.table().unwrap();
            let parsed: PretrainConfig = config::parse(table, "recipe").unwrap();
            parsed.check().unwrap_or_else(|e| panic!("{recipe:?}: {e}"));
        }
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
        let config = config(&["--recipe", "simsiam", "--seed", "3"]).unwrap();
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
        let begun = config(&["--recipe", "sslfer-b", "--lr", "0.01", "--time-law", "uniform"]).unwrap();
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
        assert!(fail(&["--recipe", "byol", "--epochs", "10"]).contains("warmup_epochs = 10"));
    }
}
