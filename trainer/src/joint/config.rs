//! The settings of `trainer joint`.

use anyhow::{bail, ensure};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::augment::AugmentConfig;
use crate::config;
use crate::eval::Lesson;
use crate::nets::{Backbone, Precision};
use crate::optim::Rule;

/// Everything that decides a run. The defaults train a classifier of expressions from FER-2013 from the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JointConfig {
    /// The encoder.
    pub backbone: Backbone,
    /// Side of the encoder's input in pixels.
    pub side_px: u32,
    /// Channel means that pictures in `[0,1]` are normalised with.
    pub mean: [f32; 3],
    /// Channel deviations that pictures in `[0,1]` are normalised with.
    pub std: [f32; 3],
    /// Passes over the training pictures of the first source.
    pub epochs: i64,
    /// The optimiser.
    pub optimizer: Rule,
    /// The learning rate after the warm-up, at the start of the cosine.
    pub lr: f64,
    /// Epochs over which the rate rises from 0.
    pub warmup_epochs: i64,
    /// Decay of the weights.
    pub weight_decay: f64,
    /// Momentum of an average of all weights, which is what is judged and exported.
    pub ema: f64,
    /// `a` of the Beta(a, a) that shares of mixed pictures are drawn from (Zhang et al. 2018, mixup), in sources
    /// without poses; 0 for none.
    pub mixup: f64,
    /// What the people's votes count in the truth of an expression beside its one label, in `[0, 1]`, where a picture has
    /// votes (Barsoum et al. 2016).
    pub votes: f64,
    /// Share of an expression that is spread over all classes.
    pub label_smoothing: f64,
    /// Probability that a value of an embedding is left out, before the heads.
    pub dropout: f64,
    /// What the teacher counts in the loss of an expression, in `[0, 1]` (Hinton et al. 2015).
    pub distil: f64,
    /// The temperature of teacher and student.
    pub temperature: f64,
    /// What the loss of each head counts.
    pub weights: Weights,
    /// Number format of the convolutions.
    pub precision: Precision,
    /// Decides the first weights, the order of the data and every augmentation.
    pub seed: u64,
    /// The views that are trained on. Settings that a file leaves out are those of here, not of [`AugmentConfig::default`].
    #[serde(deserialize_with = "augment_over_defaults")]
    pub augment: AugmentConfig,
    /// What is learnt from, the first one deciding what an epoch is. None for every store that is given, and all that it has.
    pub sources: Vec<Source>,
}

/// What the loss of each head counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// Cross-entropy of expressions.
    pub expression: f64,
    /// One minus the concordance of valence and arousal.
    pub valence_arousal: f64,
    /// Cross-entropy of action units.
    pub action_units: f64,
    /// Absolute error of yaw, pitch and roll, in degrees.
    pub pose: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { expression: 1.0, valence_arousal: 0.3, action_units: 0.3, pose: 0.01 }
    }
}

/// A store and what it teaches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The name that `--data NAME=FOLDER` gives a folder.
    pub name: String,
    /// Its pictures in each batch.
    pub batch: usize,
    /// What is learnt from it; nothing where a teacher alone tells of its pictures.
    pub lessons: Vec<Lesson>,
}

impl Default for JointConfig {
    fn default() -> Self {
        Self {
            backbone: Backbone::Edge,
            side_px: 64,
            mean: [0.5; 3],
            std: [0.25; 3],
            epochs: 60,
            optimizer: Rule::AdamW,
            lr: 2e-3,
            warmup_epochs: 1,
            weight_decay: 0.05,
            ema: 0.999,
            mixup: 0.2,
            votes: 0.1,
            label_smoothing: 0.1,
            dropout: 0.2,
            distil: 0.5,
            temperature: 2.0,
            weights: Weights::default(),
            precision: Precision::Auto,
            seed: 0,
            augment: AUGMENT,
            sources: Vec::new(),
        }
    }
}

/// Views of faces whose expression does not change by them.
const AUGMENT: AugmentConfig = AugmentConfig {
    crop_scale: [0.8, 1.0],
    flip_p: 0.5,
    jitter_p: 0.8,
    brightness: 0.4,
    contrast: 0.4,
    blur_p: 0.1,
    rotate_deg: 12.0,
    erase_p: 0.3,
    ..AugmentConfig::OFF
};

/// The settings that are given, and [`AUGMENT`]'s for those that are not.
fn augment_over_defaults<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AugmentConfig, D::Error> {
    let given = toml::Table::deserialize(deserializer)?;
    let mut table = config::table_of(&AUGMENT).map_err(D::Error::custom)?;
    config::merge(&mut table, given);
    table.try_into().map_err(D::Error::custom)
}

impl JointConfig {
    /// Whether the settings make sense.
    ///
    /// # Errors
    /// Names the one that does not.
    pub fn check(&self) -> anyhow::Result<()> {
        if let Some(problem) = self.backbone.at(self.side_px).problem() {
            bail!("{problem}");
        }
        ensure!(self.epochs > 0, "epochs = {} is not above 0", self.epochs);
        let Weights { expression, valence_arousal, action_units, pose } = self.weights;
        for (name, value, most) in [
            ("lr", self.lr, f64::MAX),
            ("weight_decay", self.weight_decay, f64::MAX),
            ("mixup", self.mixup, f64::MAX),
            ("temperature", self.temperature, f64::MAX),
            ("weights.expression", expression, f64::MAX),
            ("weights.valence_arousal", valence_arousal, f64::MAX),
            ("weights.action_units", action_units, f64::MAX),
            ("weights.pose", pose, f64::MAX),
            ("ema", self.ema, 0.999_999),
            ("votes", self.votes, 1.0),
            ("label_smoothing", self.label_smoothing, 0.999_999),
            ("dropout", self.dropout, 0.999_999),
            ("distil", self.distil, 1.0),
        ] {
            ensure!((0.0..=most).contains(&value), "{name} = {value} is outside its range, 0 to {most}");
        }
        ensure!(self.lr > 0.0 && self.temperature > 0.0, "lr and temperature are above 0");
        ensure!(
            (0..self.epochs).contains(&self.warmup_epochs),
            "warmup_epochs = {} is not below epochs = {}",
            self.warmup_epochs,
            self.epochs
        );
        for source in &self.sources {
            ensure!(source.batch > 1, "sources: {}: batch = {} is not above 1", source.name, source.batch);
        }
        match self.augment.problem(self.side_px) {
            Some(problem) => bail!("augment: {problem}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_file_does_not_say_of_views_is_as_without_it() {
        let read = |text: &str| toml::from_str::<JointConfig>(text);
        let config = read("epochs = 3\n[augment]\nerase_p = 0.1\n").unwrap();
        assert_eq!(config.augment, AugmentConfig { erase_p: 0.1, ..AUGMENT });
        assert_eq!(read("epochs = 3").unwrap().augment, AUGMENT);
        let error = read("[augment]\nerase = 0.1\n").unwrap_err().to_string();
        assert!(error.contains("erase_p"), "{error}");
    }
}
