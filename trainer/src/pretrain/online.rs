//! How the frozen encoder does on labelled pictures while it is trained. Nothing is learnt from the labels: embeddings
//! are computed without gradient, with the running statistics of batch normalisation.

use anyhow::ensure;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::engine::Engine;
use crate::eval::{ClassWeights, Features, classes, embed, fit_probe, hits, knn_accuracy, labelled};
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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

    /// Judges the encoder as it is; where the run keeps an average of its weights, that, for it is what is exported.
    ///
    /// # Errors
    /// Names the picture that cannot be decoded.
    pub fn judge(&self, engine: &Engine) -> anyhow::Result<Scores> {
        let averaged = engine.averaged();
        let encoder = averaged.as_ref().map_or_else(|| engine.encoder(), |(_, encoder)| encoder);
        let dim = encoder.embedding_size() as usize;
        let features = |(indices, labels): &(Vec<usize>, Vec<usize>)| {
            let values = embed(encoder, engine.device(), engine.input(), &self.store, indices)?;
            anyhow::Ok(Features { classes: self.classes.clone(), labels: labels.clone(), dim, values })
        };
        let (train, val) = (features(&self.train)?, features(&self.val)?);
        let right = hits(&fit_probe(&train, L2, ClassWeights::None)?, &val);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::distributed::Group;
    use crate::eval::{Loaded, encoder_features};
    use crate::nets::Precision;
    use crate::prepare::encode_jpeg;
    use crate::pretrain::PretrainConfig;
    use crate::store::{Provenance, Sample, StoreWriter};
    use rand::RngExt;
    use semblance_face::labels::Expression;
    use tch::{Device, no_grad};

    const SIDE_PX: u32 = 32;

    /// Noise about two grey levels, an expression each: 40 pictures to train on, 40 for validation.
    fn store(dir: &std::path::Path) -> Store {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut writer = StoreWriter::create(dir).unwrap();
        for i in 0..80u8 {
            let level = 90.0 + 60.0 * f32::from(i % 2);
            let grey: Vec<u8> = (0..SIDE_PX * SIDE_PX)
                .map(|_| (level + rng.random_range(-60.0..60.0f32)).clamp(0.0, 255.0) as u8)
                .collect();
            writer.begin_video(&format!("p{i}"), "v");
            let split = if i < 40 { Split::Train } else { Split::Val };
            let expression = Some([Expression::Happy, Expression::Sad][usize::from(i % 2)]);
            let jpeg = encode_jpeg(&grey, SIDE_PX, SIDE_PX, 1, 95).unwrap();
            writer.push(&jpeg, &Sample { expression, ..Sample::unlabelled(0.0, split) }).unwrap();
        }
        writer.commit(Provenance::default()).unwrap();
        Store::open(dir).unwrap()
    }

    #[test]
    fn what_is_judged_is_what_a_checkpoint_is_evaluated_as() {
        let dir = tempfile::tempdir().unwrap();
        let probe = OnlineProbe::new(store(&dir.path().join("store")), 0).unwrap();
        let config = PretrainConfig {
            side_px: SIDE_PX,
            ema: 0.9,
            precision: Precision::F32,
            ..PretrainConfig::default()
        };
        let engine = Engine::new(&config, Device::Cpu, 10, Group::single()).unwrap();
        // Training leaves the average behind: here by far, and where it says nothing at all.
        no_grad(|| {
            for (name, mut variable) in engine.variables() {
                if name.starts_with("encoder.") && name.ends_with("conv.weight") {
                    let _ = variable.zero_();
                }
            }
        });
        let path = dir.path().join("checkpoint.safetensors");
        engine.save(&path, 1, &[]).unwrap();
        let loaded = Loaded::from_checkpoint(&Checkpoint::load(&path).unwrap()).unwrap();
        let features = |split| encoder_features(&loaded, &probe.store, split, &probe.classes).unwrap();
        let (train, val) = (features(Split::Train), features(Split::Val));
        let scores = probe.judge(&engine).unwrap();
        assert_eq!(scores.knn, knn_accuracy(&train, &val, NEIGHBOURS, TEMPERATURE).unwrap());
        assert_eq!(
            scores.linear,
            hits(&fit_probe(&train, L2, ClassWeights::None).unwrap(), &val) as f64 / 40.0
        );
        assert!(scores.linear > 0.6, "the average tells the levels apart, zeros would not: {scores:?}");
    }
}
