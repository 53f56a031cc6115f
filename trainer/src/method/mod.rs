//! Pretraining methods, one file each.

mod autoencoder;
mod byol;
mod clp;
mod decoder;
mod fabnet;
mod facecycle;
mod moco;
mod momentum;
mod pcl;
mod plateau;
mod rotnet;
mod simclr;
mod simsiam;
mod splitbrain;
mod sslfer;
#[cfg(test)]
mod tests;
mod vgg;
mod views;

use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn};

use crate::data::Sampling;
use crate::distributed::{DistributedError, Group};
use crate::nets::{Architecture, Encoder, Precision};
use crate::ntxent::{Contrast, Denominator};
use crate::pretrain::PretrainConfig;

pub use autoencoder::Autoencoder;
pub use byol::{Byol, ByolConfig};
pub use clp::{Clp, ClpConfig, TripletWeight};
pub use fabnet::{Assembled, Curriculum, FabNet, FabNetConfig};
pub use facecycle::{FaceCycle, FaceCycleConfig};
pub use moco::{Moco, MocoConfig};
pub use pcl::{Crops, FaceAndPose, Orthogonality, Pcl, PclConfig};
pub use plateau::PlateauConfig;
pub use rotnet::RotNet;
pub use simclr::{Projection, SimClr};
pub use simsiam::{SimSiam, SimSiamConfig};
pub use splitbrain::SplitBrain;
pub use sslfer::{MaskFn, Sslfer};
pub use views::{PAIR, Treatment, View, ViewSettings, Views};

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
    /// PCL (Liu et al. 2023): face and pose are taken apart by reconstructing mirrored pictures, and contrasted each by
    /// itself.
    Pcl,
    /// CLP (Li & Shan): frames of a sequence are told apart by their order, and reconstructed from other people's.
    Clp,
    /// FAb-Net (Wiles et al. 2018): a frame is sampled from others of its video.
    #[value(name = "fabnet")]
    FabNet,
    /// A picture is reconstructed from its embedding.
    Autoencoder,
    /// RotNet (Gidaris et al. 2018): by how many quarter turns a picture was turned.
    #[value(name = "rotnet")]
    RotNet,
    /// Split-brain autoencoder (Zhang et al. 2017): colour from lightness and lightness from colour.
    #[value(name = "splitbrain")]
    SplitBrain,
    /// FaceCycle (Chang et al. 2021): expressions as flows to the neutral face and back.
    #[value(name = "facecycle")]
    FaceCycle,
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
            Self::Pcl => "pcl",
            Self::Clp => "clp",
            Self::FabNet => "fabnet",
            Self::Autoencoder => "autoencoder",
            Self::RotNet => "rotnet",
            Self::SplitBrain => "splitbrain",
            Self::FaceCycle => "facecycle",
        }
    }

    /// Whether frames are learnt from in pairs that the switches of `pairs` draw.
    pub const fn draws_pairs(self) -> bool {
        matches!(self, Self::SimClr | Self::Moco | Self::Byol | Self::SimSiam | Self::Sslfer)
    }

    /// Whether [`Objective::show`] has something to show.
    pub const fn makes_pictures(self) -> bool {
        matches!(self, Self::Pcl | Self::FabNet | Self::Autoencoder | Self::FaceCycle)
    }

    /// Whether other pictures of the same batch repel, which hard negatives and false negatives are about.
    pub const fn has_negatives_in_batch(self) -> bool {
        matches!(self, Self::SimClr | Self::Sslfer)
    }
}

/// A loss and what is told of it. All are scalars.
#[derive(Debug)]
pub struct Loss {
    /// What the gradient is of.
    pub total: Tensor,
    /// Share of anchors whose positive is nearer than every negative, or of guesses that are right, without gradient; `None`
    /// for methods that reconstruct.
    pub top1: Option<Tensor>,
    /// Terms and other figures without gradient, as [`Objective::parts`] names them.
    pub parts: Vec<Tensor>,
}

impl From<Contrast> for Loss {
    fn from(Contrast { loss, top1 }: Contrast) -> Self {
        Self { total: loss, top1: Some(top1), parts: Vec::new() }
    }
}

/// Pictures that a method makes, for people to look at.
#[derive(Debug)]
pub struct Shown {
    /// What they are.
    pub name: String,
    /// `[N,3,S,S]`, or `[N,1,S,S]` for shares, in `[0,1]`.
    pub pictures: Tensor,
}

impl Shown {
    fn new(name: impl Into<String>, pictures: &Tensor) -> Self {
        Self { name: name.into(), pictures: pictures.shallow_clone() }
    }
}

/// What is known once a step is done.
#[derive(Clone, Copy, Debug)]
pub struct Done<'a> {
    /// Share of the run that is done, in `[0,1]`.
    pub progress: f64,
    /// Whether an epoch ended.
    pub epoch_done: bool,
    /// What [`Objective::parts`] of all passes names, the mean over all processes.
    pub parts: &'a Tensor,
}

/// A method at work: networks, and the loss that trains them.
///
/// A step has one or several passes, each with a loss and a move of the optimiser of its own.
pub trait Objective: Debug {
    /// The views that it wants of every tuple.
    fn plan(&self) -> Vec<View> {
        PAIR.to_vec()
    }

    /// Passes of a step.
    fn passes(&self) -> usize {
        1
    }

    /// The loss of a pass on this process's views; see [`Objective::joins_batches`].
    ///
    /// # Errors
    /// Another process that died.
    fn loss(&mut self, pass: usize, views: &Views, group: &Group) -> Result<Loss, DistributedError>;

    /// Whether the loss of a pass is that of the views of all processes, so that their gradients are to be summed; if
    /// not, it is the mean over this process's own, and gradients are to be averaged.
    fn joins_batches(&self, pass: usize) -> bool;

    /// Whether a pass moves the parameter of this name.
    fn moves(&self, _pass: usize, _parameter: &str) -> bool {
        true
    }

    /// Names of what a pass tells beside its loss.
    fn parts(&self, _pass: usize) -> &'static [&'static str] {
        &[]
    }

    /// What moves after the optimiser did: momentum encoders, queues, weights of losses.
    fn after_step(&mut self, _done: &Done<'_>) {}

    /// What the learning rate is multiplied by, for methods that lower it where the loss does not fall.
    fn lr_factor(&self) -> f64 {
        1.0
    }

    /// The variables were put back as a checkpoint has them.
    fn restored(&mut self) {}

    /// What it makes of frames, normalised `[N,3,S,S]`, as many as it learns from together, as it is: nothing is drawn, and statistics
    /// stay. Nothing for methods that make no pictures.
    fn show(&self, _frames: &[Tensor]) -> Vec<Shown> {
        Vec::new()
    }

    /// The encoder that is trained.
    fn encoder(&self) -> &Encoder;
}

/// Names of the parts of all passes of a step, in the order in which they are told.
pub fn part_names(objective: &dyn Objective) -> Vec<&'static str> {
    (0..objective.passes()).flat_map(|pass| objective.parts(pass).iter().copied()).collect()
}

/// What every method is built with.
#[derive(Clone, Copy, Debug)]
pub struct Build<'a> {
    /// Takes the variables.
    pub vs: &'a nn::VarStore,
    /// The encoder.
    pub architecture: Architecture,
    /// Number format of the convolutions.
    pub precision: Precision,
    /// Channel means and deviations that views are normalised with.
    pub normalisation: ([f32; 3], [f32; 3]),
}

impl<'a> Build<'a> {
    /// As a run's settings have it.
    pub fn of(config: &PretrainConfig, vs: &'a nn::VarStore) -> Self {
        Self {
            vs,
            architecture: config.architecture(),
            precision: config.precision,
            normalisation: (config.mean, config.std),
        }
    }

    /// Views as pictures in `[0,1]` again.
    fn unit(&self) -> Unit {
        let channels =
            |values: [f32; 3]| Tensor::from_slice(&values).view([1, 3, 1, 1]).to_device(self.vs.device());
        Unit { mean: channels(self.normalisation.0), std: channels(self.normalisation.1) }
    }
}

/// Undoes the normalisation of views.
#[derive(Debug)]
struct Unit {
    mean: Tensor,
    std: Tensor,
}

impl Unit {
    /// Normalised views as pictures in `[0,1]`.
    fn of(&self, views: &Tensor) -> Tensor {
        views * self.std.to_kind(views.kind()) + self.mean.to_kind(views.kind())
    }

    /// The other way.
    fn normalised(&self, pictures: &Tensor) -> Tensor {
        (pictures - self.mean.to_kind(pictures.kind())) / self.std.to_kind(pictures.kind())
    }
}

/// Builds a method's networks under `vs` with fresh weights: the encoder is `encoder.*`.
///
/// # Errors
/// Names the file of weights that cannot be read.
pub fn build(config: &PretrainConfig, vs: &nn::VarStore) -> anyhow::Result<Box<dyn Objective>> {
    let build = Build::of(config, vs);
    let projection = config.projection;
    Ok(match config.method {
        Method::SimClr => Box::new(SimClr::new(build, projection)),
        Method::Moco => Box::new(Moco::new(build, projection, config.moco)),
        Method::Byol => Box::new(Byol::new(build, config.byol)),
        Method::SimSiam => Box::new(SimSiam::new(build, config.simsiam)),
        Method::Sslfer => Box::new(Sslfer::new(build, projection, config.mask_fn.clone())?),
        Method::Pcl => Box::new(Pcl::new(build, projection, config.pcl)),
        Method::Clp => Box::new(Clp::new(build, config.clp, config.moco, config.sequence)),
        Method::FabNet => Box::new(FabNet::new(build, config.fabnet, config.plateau)),
        Method::Autoencoder => Box::new(Autoencoder::new(build, config.plateau)),
        Method::RotNet => Box::new(RotNet::new(build, config.plateau)),
        Method::SplitBrain => Box::new(SplitBrain::new(build, config.plateau)),
        Method::FaceCycle => Box::new(FaceCycle::new(build, &config.facecycle)?),
    })
}

/// Which frames a method learns from together.
pub fn sampling(config: &PretrainConfig) -> Sampling {
    match config.method {
        method if method.draws_pairs() => Sampling::Pairs(config.pairs),
        Method::Clp => Sampling::Sequences(config.sequence),
        Method::FabNet => Sampling::SameVideo(1 + config.fabnet.sources),
        Method::FaceCycle => Sampling::SameVideo(2),
        _ => Sampling::Stills,
    }
}

/// Share of rows of `ours` `[N,d]` whose own row of `theirs` is the most similar one among those of all processes: how
/// well methods without negatives tell instances apart.
fn retrieval_top1(ours: &Tensor, theirs: &Tensor, group: &Group) -> Result<Tensor, DistributedError> {
    let (ours, theirs) = (group.all_gather(ours)?, group.all_gather(theirs)?);
    let nearest = ours.matmul(&theirs.tr()).argmax(1, false);
    let own = Tensor::arange(nearest.size()[0], (Kind::Int64, nearest.device()));
    Ok(nearest.eq_tensor(&own).to_kind(Kind::Float).mean(None))
}
