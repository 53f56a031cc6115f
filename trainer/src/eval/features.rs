//! Embeddings of a store's pictures.

use rayon::prelude::*;
use semblance_face::labels::Expression;
use semblance_face::{Bundle, Encoder};
use tch::{Device, Tensor, no_grad};

use super::{Loaded, labelled};
use crate::checkpoint::floats;
use crate::data::{Batch, normalise, prefetch, training_device};
use crate::hog::Hog;
use crate::nets::{Encoder as TrainedEncoder, Phase, Precision};
use crate::progress;
use crate::store::{Split, Store};

/// Embeddings of some pictures, in their order.
#[derive(Clone, Debug)]
pub struct Embeddings {
    /// Values of an embedding; 0 where there is no picture.
    pub dim: usize,
    /// Row-major `[pictures, dim]`.
    pub values: Vec<f32>,
}

impl Embeddings {
    /// Of this many pictures.
    pub fn new(values: Vec<f32>, pictures: usize) -> Self {
        Self { dim: values.len() / pictures.max(1), values }
    }

    /// `[pictures, dim]` on the device that training uses.
    pub fn into_tensor(self) -> Tensor {
        Tensor::from_slice(&self.values).view([-1, self.dim.max(1) as i64]).to_device(training_device())
    }
}

/// Embeddings and expressions of the same pictures: what heads are scored on, and what is judged while training.
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
        self.values.chunks_exact(self.dim.max(1))
    }

    /// The embeddings, `[pictures, dim]`, on the device that training uses.
    pub fn tensor(&self) -> Tensor {
        Tensor::from_slice(&self.values).view([-1, self.dim as i64]).to_device(training_device())
    }
}

/// How an encoder wants its input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputSpec {
    /// Side in pixels.
    pub side_px: u32,
    /// Channel means that crops in `[0,1]` are normalised with.
    pub mean: [f32; 3],
    /// Channel deviations that crops in `[0,1]` are normalised with.
    pub std: [f32; 3],
}

const BATCH: usize = 256;

/// Embeddings of whole crops of these frames, without augmentation, by the trainer's own network in f32; row-major
/// `[frames, dim]`.
///
/// # Errors
/// Names the picture that cannot be decoded.
pub fn embed(
    encoder: &TrainedEncoder,
    device: Device,
    input: InputSpec,
    store: &Store,
    indices: &[usize],
) -> anyhow::Result<Vec<f32>> {
    embed_seen(encoder, device, input, store, indices, &Tensor::shallow_clone)
}

/// The same of what `seen` makes of crops `[N,3,S,S]` in `[0,1]`.
///
/// # Errors
/// As [`embed`].
pub(super) fn embed_seen(
    encoder: &TrainedEncoder,
    device: Device,
    input: InputSpec,
    store: &Store,
    indices: &[usize],
    seen: &dyn Fn(&Tensor) -> Tensor,
) -> anyhow::Result<Vec<f32>> {
    collect(store, indices, input.side_px, |batch, values| {
        let crops = normalise(&seen(&batch.to_unit(device)), input.mean, input.std);
        let embeddings = no_grad(|| encoder.forward(&crops, Phase::Eval, Precision::F32));
        values.extend(floats(&embeddings)?);
        Ok(())
    })
}

/// The same with a bundle's encoder, as the edge embeds.
///
/// # Errors
/// Names the picture that cannot be decoded, or tells what the encoder lacks.
pub fn embed_by_bundle(bundle: &Bundle, store: &Store, indices: &[usize]) -> anyhow::Result<Vec<f32>> {
    let mut encoder = Encoder::from_bundle(bundle)?;
    let spec = *encoder.spec();
    let mut embedding = vec![0.0; spec.embedding_size];
    collect(store, indices, spec.side_px, |batch, values| {
        for crop in batch.crops() {
            encoder.embed(crop, &mut embedding)?;
            values.extend_from_slice(&embedding);
        }
        Ok(())
    })
}

/// Histograms of oriented gradients of whole grey crops of `side_px`, `[frames, dim]`.
///
/// # Errors
/// Names the picture that cannot be decoded, or tells that the crops are too small.
pub fn describe_by_hog(
    hog: &Hog,
    side_px: u32,
    store: &Store,
    indices: &[usize],
) -> anyhow::Result<Vec<f32>> {
    let side = side_px as usize;
    let dim = hog.descriptor_len(side, side)?;
    collect(store, indices, side_px, |batch, values| {
        let start = values.len();
        values.resize(start + batch.indices.len() * dim, 0.0);
        let crops: Vec<&[u8]> = batch.crops().collect();
        crops.par_iter().zip(values[start..].par_chunks_exact_mut(dim)).try_for_each(|(crop, out)| {
            let grey = |p: &[u8]| p.iter().map(|&v| f32::from(v)).sum::<f32>() / (3.0 * 255.0);
            let grey: Vec<f32> = crop.chunks_exact(3).map(grey).collect();
            hog.describe(&grey, side, side, out)
        })?;
        Ok(())
    })
}

/// The mean level of each picture, 0 to 255.
///
/// # Errors
/// Names the picture that cannot be decoded.
pub(super) fn brightness(store: &Store, indices: &[usize]) -> anyhow::Result<Vec<f32>> {
    const SIDE_PX: u32 = 32;
    collect(store, indices, SIDE_PX, |batch, values| {
        let mean = |crop: &[u8]| crop.iter().map(|&v| f32::from(v)).sum::<f32>() / crop.len() as f32;
        values.extend(batch.crops().map(mean));
        Ok(())
    })
}

/// Embeddings and labels of a split's labelled pictures.
///
/// # Errors
/// As [`embed`].
pub fn encoder_features(
    loaded: &Loaded,
    store: &Store,
    split: Split,
    classes: &[Expression],
) -> anyhow::Result<Features> {
    features(store, split, classes, |store, indices| loaded.embed(store, indices))
}

/// The same with a bundle's encoder.
///
/// # Errors
/// As [`embed_by_bundle`].
pub fn bundle_features(
    bundle: &Bundle,
    store: &Store,
    split: Split,
    classes: &[Expression],
) -> anyhow::Result<Features> {
    features(store, split, classes, |store, indices| {
        Ok(Embeddings::new(embed_by_bundle(bundle, store, indices)?, indices.len()))
    })
}

fn features(
    store: &Store,
    split: Split,
    classes: &[Expression],
    embed: impl FnOnce(&Store, &[usize]) -> anyhow::Result<Embeddings>,
) -> anyhow::Result<Features> {
    let (indices, labels) = labelled(store, split, classes);
    let Embeddings { dim, values } = embed(store, &indices)?;
    Ok(Features { classes: classes.to_vec(), labels, dim, values })
}

fn collect(
    store: &Store,
    indices: &[usize],
    side_px: u32,
    mut embed: impl FnMut(&Batch, &mut Vec<f32>) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<f32>> {
    let mut values = Vec::new();
    let bar = progress::bar(indices.len() as u64, "embedding");
    let batches: Vec<Vec<usize>> = indices.chunks(BATCH).map(<[usize]>::to_vec).collect();
    std::thread::scope(|scope| {
        for batch in prefetch(scope, store, batches.into_iter(), side_px) {
            let batch = batch?;
            let before = values.len();
            embed(&batch, &mut values)?;
            // What all will take, at once: a vector that grows by doubling would hold twice as much.
            let dim = (values.len() - before) / batch.indices.len();
            values.reserve_exact(dim * indices.len() - values.len());
            bar.inc(batch.indices.len() as u64);
        }
        anyhow::Ok(())
    })?;
    bar.finish_and_clear();
    Ok(values)
}
