//! How the frozen encoder does on labelled pictures while it is trained. Nothing is learnt from the labels: embeddings
//! are computed without gradient, with the running statistics of batch normalisation.

use anyhow::ensure;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::engine::Engine;
use crate::eval::{Features, InputSpec, classes, embed, fit_probe, hits, knn_accuracy, labelled};
use crate::store::{Split, Store};

/// Labelled pictures that an encoder is judged on again and again.
#[derive(Debug)]
pub struct OnlineProbe {
    store: Store,
    classes: Vec<semblance_face::labels::Expression>,
    train: (Vec<usize>, Vec<usize>),
    val: (Vec<usize>, Vec<usize>),
}

/// Accuracies on the validation split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// Weighted vote of the nearest neighbours among the training split's embeddings.
    pub knn: f64,
    /// A softmax classifier fitted on the training split's embeddings.
    pub linear: f64,
}

/// Pictures of each split that are used at most: enough for a trend, few enough not to hold up training.
const MOST: usize = 4000;
/// Neighbours that vote, and the temperature of their weights (Wu et al. 2018, section 3.4).
const NEIGHBOURS: usize = 20;
const TEMPERATURE: f64 = 0.07;
/// The probe's L2 regularisation; the offline probe chooses it on validation.
const L2: f64 = 1e-3;

impl OnlineProbe {
    /// On the labelled pictures of `store`.
    ///
    /// # Errors
    /// Where training or validation have none.
    pub fn new(store: Store, seed: u64) -> anyhow::Result<Self> {
        let classes = classes(&store)?;
        let some = |split| some_of(labelled(&store, split, &classes), seed);
        let (train, val) = (some(Split::Train), some(Split::Val));
        ensure!(!val.0.is_empty(), "{}: no labelled picture is for validation", store.dir().display());
        Ok(Self { store, classes, train, val })
    }

    /// Judges the encoder as it is.
    ///
    /// # Errors
    /// Names the picture that cannot be decoded.
    pub fn judge(&self, engine: &Engine) -> anyhow::Result<Scores> {
        let config = engine.config();
        let input = InputSpec { side_px: config.side_px, mean: config.mean, std: config.std };
        let features = |(indices, labels): &(Vec<usize>, Vec<usize>)| {
            let values = embed(engine.encoder(), engine.device(), input, &self.store, indices)?;
            let dim = config.backbone.embedding_size() as usize;
            anyhow::Ok(Features { classes: self.classes.clone(), labels: labels.clone(), dim, values })
        };
        let (train, val) = (features(&self.train)?, features(&self.val)?);
        let right = hits(&fit_probe(&train, L2)?, &val);
        Ok(Scores {
            knn: knn_accuracy(&train, &val, NEIGHBOURS, TEMPERATURE)?,
            linear: right as f64 / val.labels.len() as f64,
        })
    }
}

/// At most [`MOST`] of these, always the same ones.
fn some_of((indices, labels): (Vec<usize>, Vec<usize>), seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut all: Vec<_> = indices.into_iter().zip(labels).collect();
    all.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    all.truncate(MOST);
    all.sort_unstable();
    all.into_iter().unzip()
}
