//! Batches of pictures from stores, decoded on every core ahead of the training device.

mod clips;
mod host;
mod tuples;

use crossbeam::channel::{Receiver, bounded};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use semblance_face::align::resize_crop;
use tch::{Device, Kind, Tensor};

use crate::augment::Landmarks;
use crate::store::{Record, Store, StoreError};

pub use clips::{Clips, Law, Reach, Timing};
pub use host::{BufferPool, HostBuffer};
pub use tuples::{
    Anchors, Cache, CachePlan, PairConfig, PassOver, Paste, Pictures, Sampling, SequenceConfig, Steps, Tuple,
    TupleBatch, prefetch_tuples,
};

/// Batches that are decoded ahead.
const AHEAD: usize = 3;

/// A batch of pictures, on the host.
///
/// It holds no tensor: a thread that touches libtorch gets a pool of OpenMP threads of its own, and two pools that
/// spin for the same cores slow training down many times over.
#[derive(Debug)]
pub struct Batch {
    /// Their numbers in the store.
    pub indices: Vec<usize>,
    /// `[N,S,S,3]`.
    crops: Vec<u8>,
    side_px: u32,
    /// Where known, else `None`; one a picture.
    pub landmarks: Vec<Landmarks>,
}

impl Batch {
    /// Decodes these frames and brings them to `side_px`.
    ///
    /// # Errors
    /// [`StoreError::Picture`], which names the frame.
    pub fn load(store: &Store, indices: Vec<usize>, side_px: u32) -> Result<Self, StoreError> {
        let bytes = (side_px * side_px * 3) as usize;
        let mut crops = vec![0; indices.len() * bytes];
        indices.par_iter().zip(crops.par_chunks_exact_mut(bytes)).try_for_each(|(&i, crop)| {
            resize_crop(&store.record(i).decode()?, side_px, crop);
            Ok(())
        })?;
        let landmarks = indices.iter().map(|&i| crop_landmarks(&store.record(i))).collect();
        Ok(Self { indices, crops, side_px, landmarks })
    }

    /// Each picture as `S * S` RGB triples, as the edge's encoder takes a crop.
    pub fn crops(&self) -> impl Iterator<Item = &[u8]> {
        self.crops.chunks_exact((self.side_px * self.side_px * 3) as usize)
    }

    /// The pictures on `device`, `[N,3,S,S]` f32 in `[0,1]`.
    pub fn to_unit(&self, device: Device) -> Tensor {
        to_unit(&Tensor::from_slice(&self.crops).to_device(device), self.side_px)
    }
}

/// A frame's landmarks in shares of the sides of its middle square, which is what `resize_crop` takes of a picture; `None`
/// where they are not known, or not finite.
fn crop_landmarks(record: &Record<'_>) -> Landmarks {
    let mut landmarks = record.landmarks().filter(|points| points.iter().all(|v| v.is_finite()))?;
    let (width, height) = record.size()?;
    if width != height {
        let square = width.min(height) as f32;
        for point in landmarks.chunks_exact_mut(2) {
            for (share, side) in point.iter_mut().zip([width as f32, height as f32]) {
                *share = (*share * side - (side - square) / 2.0) / square;
            }
        }
    }
    Some(landmarks)
}

/// Bytes of pictures, `S * S` RGB triples each, as `[N,3,S,S]` f32 in `[0,1]` on the device that they are on.
fn to_unit(bytes: &Tensor, side_px: u32) -> Tensor {
    let side = i64::from(side_px);
    let planes = bytes.view([-1, side, side, 3]).permute([0, 3, 1, 2]);
    planes.to_kind(Kind::Float).contiguous() / 255.0
}

/// Decodes batches on a thread of its own, a few ahead of whoever receives them. The thread ends when all are done, at
/// the first error, or when the receiver is dropped.
pub fn prefetch<'scope, 'env>(
    scope: &'scope std::thread::Scope<'scope, 'env>,
    store: &'env Store,
    batches: impl Iterator<Item = Vec<usize>> + Send + 'scope,
    side_px: u32,
) -> Receiver<Result<Batch, StoreError>> {
    ahead(scope, batches, move |indices| Batch::load(store, indices, side_px))
}

/// As [`prefetch`], a batch of each of several stores at a time, each at a side of its own.
pub fn prefetch_each<'scope, 'env>(
    scope: &'scope std::thread::Scope<'scope, 'env>,
    stores: Vec<(&'env Store, u32)>,
    batches: impl Iterator<Item = Vec<Vec<usize>>> + Send + 'scope,
) -> Receiver<Result<Vec<Batch>, StoreError>> {
    ahead(scope, batches, move |each| {
        let load =
            |(indices, (store, side_px)): (Vec<usize>, &(&Store, u32))| Batch::load(store, indices, *side_px);
        each.into_iter().zip(&stores).map(load).collect()
    })
}

/// Loads what `draws` gives on a thread of its own, [`AHEAD`] before whoever receives it.
fn ahead<'scope, D: 'scope, B: Send + 'scope, E: Send + 'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    draws: impl Iterator<Item = D> + Send + 'scope,
    load: impl Fn(D) -> Result<B, E> + Send + 'scope,
) -> Receiver<Result<B, E>> {
    let (sender, receiver) = bounded(AHEAD);
    scope.spawn(move || {
        for draw in draws {
            let batch = load(draw);
            let failed = batch.is_err();
            if sender.send(batch).is_err() || failed {
                break;
            }
        }
    });
    receiver
}

/// The order in which an epoch visits `indices`: a permutation that follows from seed and epoch alone.
pub fn epoch_order(indices: &[usize], seed: u64, epoch: i64) -> Vec<usize> {
    let mut order = indices.to_vec();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(mix(seed, epoch as u64)));
    order
}

/// A seed of its own for a numbered part of a seeded whole (SplitMix64's finaliser, Steele et al. 2014).
pub fn mix(seed: u64, part: u64) -> u64 {
    let mut z = seed.wrapping_add(part.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// `(pictures - mean) / std` a channel, for pictures in `[0,1]`.
pub fn normalise(pictures: &Tensor, mean: [f32; 3], std: [f32; 3]) -> Tensor {
    let channel =
        |values: [f32; 3]| Tensor::from_slice(&values).view([1, 3, 1, 1]).to_device(pictures.device());
    (pictures - channel(mean)) / channel(std)
}

/// The device that training uses: the first GPU where libtorch can open one, else the CPU.
pub fn training_device() -> Device {
    Device::cuda_if_available()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::prepare::encode_jpeg;
    use crate::store::{Provenance, Sample, Split, StoreWriter};

    #[test]
    fn landmarks_of_a_wide_picture_are_those_of_its_middle_square() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = StoreWriter::create(dir.path()).unwrap();
        writer.begin_video("a", "v");
        let jpeg = encode_jpeg(&[0; 80 * 40], 80, 40, 1, 90).unwrap();
        let landmarks = Some(std::array::from_fn(|i| if i % 2 == 0 { 0.375 } else { 0.25 }));
        writer.push(&jpeg, &Sample { landmarks, ..Sample::unlabelled(0.0, Split::Train) }).unwrap();
        writer.push(&jpeg, &Sample { landmarks: None, ..Sample::unlabelled(1.0, Split::Train) }).unwrap();
        writer.commit(Provenance::default()).unwrap();
        let store = Store::open(dir.path()).unwrap();
        // 30 px of 80 are 10 px of the 40 in the middle.
        let points = crop_landmarks(&store.record(0)).unwrap();
        assert!(points.iter().all(|v| (v - 0.25).abs() < 1e-6), "{points:?}");
        assert_eq!(crop_landmarks(&store.record(1)), None);
    }

    #[test]
    fn an_epochs_order_is_a_permutation_of_its_own() {
        let indices: Vec<usize> = (100..200).collect();
        let first = epoch_order(&indices, 1, 0);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, indices);
        assert_eq!(first, epoch_order(&indices, 1, 0));
        assert_ne!(first, epoch_order(&indices, 1, 1));
        assert_ne!(first, epoch_order(&indices, 2, 0));
    }
}
