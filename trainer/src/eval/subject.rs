//! What is judged: a network of the trainer's, a bundle, or a descriptor.

use std::rc::Rc;

use anyhow::{Context, bail};
use semblance_face::Bundle;

use super::features::{Embeddings, describe_by_hog, embed_by_bundle};
use super::{EvalArgs, HandMade, Loaded};
use crate::checkpoint::Checkpoint;
use crate::hog::Hog;
use crate::store::Store;

/// What is judged.
pub(super) enum Subject {
    /// A network of the trainer's, with the checkpoint that it came from.
    Trained(Box<Loaded>, Option<Box<Checkpoint>>),
    /// A bundle, by the edge's own inference.
    Shipped(Box<Bundle>),
    /// Histograms of oriented gradients of crops of this side in pixels.
    Hog(Hog, u32),
    /// Embeddings of all pictures of stores, by the stores' checksums.
    Known(Rc<Vec<(u32, Embeddings)>>),
}

/// Side of the input in pixels where nothing says another.
const SIDE_PX: u32 = 64;

impl Subject {
    pub(super) fn from_args(args: &EvalArgs) -> anyhow::Result<Self> {
        if let Some(HandMade::Hog) = args.descriptor {
            let hog = Hog { cell_px: args.cell_px as usize, ..Hog::default() };
            return Ok(Self::Hog(hog, args.side_px.unwrap_or(SIDE_PX)));
        }
        Ok(match (&args.checkpoint, &args.bundle, args.random_init) {
            (Some(path), None, None) => {
                let checkpoint: Checkpoint = Checkpoint::load(path)?;
                let side_px = args.side_px.unwrap_or(checkpoint.meta.side_px);
                let loaded = Loaded::with(&checkpoint, args.pcl_features, side_px)?;
                Self::Trained(Box::new(loaded), Some(Box::new(checkpoint)))
            }
            (None, Some(dir), None) => Self::Shipped(Box::new(Bundle::open(dir)?)),
            (None, None, Some(backbone)) => {
                let side_px = args.side_px.unwrap_or(SIDE_PX);
                Self::Trained(Box::new(Loaded::random(backbone, side_px, args.seed.unwrap_or(0))), None)
            }
            _ => bail!("give one of --checkpoint, --bundle, --random-init and --descriptor"),
        })
    }

    /// SHA-256 of the checkpoint, where there is one.
    pub(super) fn sha256(&self) -> Option<&str> {
        match self {
            Self::Trained(_, Some(checkpoint)) => Some(&checkpoint.sha256),
            _ => None,
        }
    }

    /// The weights that fine-tuning starts from.
    ///
    /// # Errors
    /// Where there are none.
    pub(super) fn into_loaded(self) -> anyhow::Result<Loaded> {
        match self {
            Self::Trained(loaded, _) => Ok(*loaded),
            Self::Shipped(_) => {
                bail!("a bundle is not trained any further: --protocol own-head scores its own heads")
            }
            Self::Hog(..) | Self::Known(_) => no_weights(),
        }
    }

    /// Embeddings of these frames.
    pub(super) fn embed(&self, store: &Store, indices: &[usize]) -> anyhow::Result<Embeddings> {
        match self {
            Self::Trained(loaded, _) => loaded.embed(store, indices),
            Self::Shipped(bundle) => {
                Ok(Embeddings::new(embed_by_bundle(bundle, store, indices)?, indices.len()))
            }
            Self::Hog(hog, side_px) => {
                Ok(Embeddings::new(describe_by_hog(hog, *side_px, store, indices)?, indices.len()))
            }
            Self::Known(stores) => {
                let known = stores.iter().find(|(checksum, _)| *checksum == store.checksum());
                let (_, all) =
                    known.with_context(|| format!("{}: it is not known", store.dir().display()))?;
                let row = |&i: &usize| &all.values[i * all.dim..(i + 1) * all.dim];
                Ok(Embeddings { dim: all.dim, values: indices.iter().flat_map(row).copied().collect() })
            }
        }
    }
}

/// # Errors
/// Always: a descriptor is no network.
pub(super) fn no_weights<T>() -> anyhow::Result<T> {
    bail!("a descriptor that is not learnt has no weights to fine-tune and no head: --protocol linear or knn")
}
