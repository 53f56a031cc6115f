//! Embeddings of a split's labelled pictures.

use semblance_face::labels::Expression;
use semblance_face::{Bundle, Encoder};
use tch::no_grad;

use super::{Loaded, labelled};
use crate::checkpoint::floats;
use crate::data::{Batch, normalise, prefetch};
use crate::nets::Precision;
use crate::progress;
use crate::store::{Split, Store};

/// Embeddings and labels of the same pictures.
#[derive(Clone, Debug)]
pub struct Features {
    /// The classes that the labels count.
    pub classes: Vec<Expression>,
    /// A place among `classes` for each picture.
    pub labels: Vec<usize>,
    /// Values of an embedding.
    pub dim: usize,
    /// Row-major `[pictures, dim]`.
    pub values: Vec<f32>,
}

impl Features {
    /// The embeddings.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.dim)
    }
}

const BATCH: usize = 256;

/// Embeds whole crops, without augmentation, by the trainer's own network in f32.
///
/// # Errors
/// Names the picture that cannot be decoded.
pub fn encoder_features(
    loaded: &Loaded,
    store: &Store,
    split: Split,
    classes: &[Expression],
) -> anyhow::Result<Features> {
    let dim = loaded.encoder.backbone().embedding_size() as usize;
    collect(store, split, classes, dim, loaded.side_px, |batch, values| {
        let crops = normalise(&batch.to_unit(loaded.vs.device()), loaded.mean, loaded.std);
        let embeddings = no_grad(|| loaded.encoder.forward(&crops, false, Precision::F32));
        values.extend(floats(&embeddings)?);
        Ok(())
    })
}

/// Embeds whole crops with a bundle's encoder, as the edge does.
///
/// # Errors
/// Names the picture that cannot be decoded, or tells what the encoder lacks.
pub fn bundle_features(
    bundle: &Bundle,
    store: &Store,
    split: Split,
    classes: &[Expression],
) -> anyhow::Result<Features> {
    let mut encoder = Encoder::from_bundle(bundle)?;
    let spec = *encoder.spec();
    let mut embedding = vec![0.0; spec.embedding_size];
    collect(store, split, classes, spec.embedding_size, spec.side_px, |batch, values| {
        for crop in batch.crops() {
            encoder.embed(crop, &mut embedding)?;
            values.extend_from_slice(&embedding);
        }
        Ok(())
    })
}

fn collect(
    store: &Store,
    split: Split,
    classes: &[Expression],
    dim: usize,
    side_px: u32,
    mut embed: impl FnMut(&Batch, &mut Vec<f32>) -> anyhow::Result<()>,
) -> anyhow::Result<Features> {
    let (indices, labels) = labelled(store, split, classes);
    let mut values = Vec::with_capacity(indices.len() * dim);
    let bar = progress::bar(indices.len() as u64, "embedding");
    let batches: Vec<Vec<usize>> = indices.chunks(BATCH).map(<[usize]>::to_vec).collect();
    std::thread::scope(|scope| {
        for batch in prefetch(scope, store, batches.into_iter(), side_px) {
            let batch = batch?;
            embed(&batch, &mut values)?;
            bar.inc(batch.indices.len() as u64);
        }
        anyhow::Ok(())
    })?;
    bar.finish_and_clear();
    Ok(Features { classes: classes.to_vec(), labels, dim, values })
}
