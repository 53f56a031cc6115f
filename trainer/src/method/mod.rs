//! Pretraining methods, one file each.

mod byol;
mod moco;
mod momentum;
mod simclr;
mod simsiam;
mod sslfer;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn};

use crate::augment::Landmarks;
use crate::distributed::{DistributedError, Group};
use crate::nets::Encoder;
use crate::ntxent::{Contrast, Denominator};
use crate::pretrain::PretrainConfig;

pub use byol::{Byol, ByolConfig};
pub use moco::{Moco, MocoConfig};
pub use simclr::{Projection, SimClr};
pub use simsiam::{SimSiam, SimSiamConfig};
pub use sslfer::{MaskFn, Sslfer};

/// A pretraining method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// SimCLR (Chen et al. 2020): two views of a picture attract, views of other pictures repel.
    #[value(name = "simclr")]
    SimClr,
    /// MoCo v2 (Chen, Fan, Girshick & He 2020): as SimCLR, but what repels is a queue of earlier views, embedded by a
    /// slowly moving copy of the encoder.
    Moco,
    /// BYOL (Grill et al. 2020): predicts what a slowly moving copy says of the other view; nothing repels.
    Byol,
    /// SimSiam (Chen & He 2021): predicts what the same encoder says of the other view, without gradient there.
    #[value(name = "simsiam")]
    SimSiam,
    /// SSLFER (Shu et al. 2022): SimCLR with TimeAug, HardNeg, FaceSwap and MaskFN, each of which can be switched.
    Sslfer,
}

impl Method {
    /// Its name, as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SimClr => "simclr",
            Self::Moco => "moco",
            Self::Byol => "byol",
            Self::SimSiam => "simsiam",
            Self::Sslfer => "sslfer",
        }
    }

    /// Whether other pictures of the same batch repel, which hard negatives and false negatives are about.
    pub const fn has_negatives_in_batch(self) -> bool {
        matches!(self, Self::SimClr | Self::Sslfer)
    }
}

/// What a step learns from.
#[derive(Debug)]
pub struct Views {
    /// Augmented and normalised first views, `[N,3,S,S]`.
    pub first: Tensor,
    /// Their positives.
    pub second: Tensor,
    /// `[N]`: pairs of the same number are hard negatives of each other.
    pub quadruples: Tensor,
    /// `[2N,3,L,L]` in `[0,1]`: the pictures before augmentation, first ones and then second ones.
    pub pictures: Tensor,
    /// Landmarks of the pictures.
    pub landmarks: Vec<Landmarks>,
}

impl Views {
    /// The same views, sharing their memory.
    pub fn shallow_clone(&self) -> Self {
        Self {
            first: self.first.shallow_clone(),
            second: self.second.shallow_clone(),
            quadruples: self.quadruples.shallow_clone(),
            pictures: self.pictures.shallow_clone(),
            landmarks: self.landmarks.clone(),
        }
    }
}

/// A method at work: networks, and the loss that trains them.
pub trait Objective: Debug {
    /// The loss of this process's views and how well instances are told apart; see [`Objective::joins_batches`].
    ///
    /// # Errors
    /// Another process that died.
    fn contrast(&mut self, views: &Views, group: &Group) -> Result<Contrast, DistributedError>;

    /// Whether the loss is that of the views of all processes, so that their gradients are to be summed; if not, it is
    /// the mean over this process's own, and gradients are to be averaged.
    fn joins_batches(&self) -> bool;

    /// What moves after the optimiser did: momentum encoders and queues. `progress` in `[0,1]` is the share of the run
    /// that is done.
    fn after_step(&mut self, progress: f64);

    /// The encoder that is trained.
    fn encoder(&self) -> &Encoder;
}

/// Builds a method's networks under `vs` with fresh weights: the encoder is `encoder.*`.
///
/// # Errors
/// Names the file of descriptor weights that cannot be read.
pub fn build(config: &PretrainConfig, vs: &nn::VarStore) -> anyhow::Result<Box<dyn Objective>> {
    let PretrainConfig { backbone, projection, precision, .. } = *config;
    let root = vs.root();
    Ok(match config.method {
        Method::SimClr => Box::new(SimClr::new(&root, backbone, projection, precision)),
        Method::Moco => Box::new(Moco::new(vs, backbone, projection, config.moco, precision)),
        Method::Byol => Box::new(Byol::new(vs, backbone, config.byol, precision)),
        Method::SimSiam => Box::new(SimSiam::new(&root, backbone, config.simsiam, precision)),
        Method::Sslfer => {
            Box::new(Sslfer::new(&root, backbone, projection, config.mask_fn.clone(), precision)?)
        }
    })
}

/// Share of rows of `ours` `[N,d]` whose own row of `theirs` is the most similar one among those of all processes: how
/// well methods without negatives tell instances apart.
fn retrieval_top1(ours: &Tensor, theirs: &Tensor, group: &Group) -> Result<Tensor, DistributedError> {
    let (ours, theirs) = (group.all_gather(ours)?, group.all_gather(theirs)?);
    let nearest = ours.matmul(&theirs.tr()).argmax(1, false);
    let own = Tensor::arange(nearest.size()[0], (Kind::Int64, nearest.device()));
    Ok(nearest.eq_tensor(&own).to_kind(Kind::Float).mean(None))
}
