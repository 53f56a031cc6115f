//! BYOL (Grill et al. 2020).

use serde::{Deserialize, Serialize};
use tch::{Tensor, nn, no_grad};

use super::momentum::Follower;
use super::{Build, Contrast, Done, Loss, Objective, Views, retrieval_top1};
use crate::distributed::{DistributedError, Group};
use crate::nets::{After, Encoder, Mlp, Phase, Precision};
use crate::ntxent::unit_rows;

/// Heads and target; the defaults are the paper's (section 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ByolConfig {
    /// Values of the hidden layers of projector and predictor.
    pub hidden: i64,
    /// Values of the projection.
    pub out: i64,
    /// Momentum of the target at the start; it rises to 1 along a cosine.
    pub momentum: f64,
}

impl Default for ByolConfig {
    fn default() -> Self {
        Self { hidden: 4096, out: 256, momentum: 0.996 }
    }
}

impl ByolConfig {
    /// The target's momentum when `progress` of the run is done: `1 - (1 - base) (cos(pi progress) + 1) / 2`.
    pub fn momentum_at(&self, progress: f64) -> f64 {
        1.0 - (1.0 - self.momentum) * ((std::f64::consts::PI * progress).cos() + 1.0) / 2.0
    }
}

/// Online encoder, projector and predictor, and the target that the first two are followed by.
#[derive(Debug)]
pub struct Byol {
    encoder: Encoder,
    projector: Mlp,
    predictor: Mlp,
    target_encoder: Encoder,
    target_projector: Mlp,
    target: Follower,
    config: ByolConfig,
    precision: Precision,
}

impl Byol {
    /// Builds `encoder.*`, `projection.*`, `predictor.*`, `target.encoder.*` and `target.projection.*`.
    pub fn new(Build { vs, architecture, precision, .. }: Build<'_>, config: ByolConfig) -> Self {
        let root = vs.root();
        let layers = [(config.hidden, After::NormRelu), (config.out, After::Nothing)];
        let projector = |path: nn::Path<'_>| Mlp::new(&path, architecture.embedding_size(), &layers);
        let encoder = architecture.build(&(&root / "encoder"));
        let online = projector(&root / "projection");
        let predictor = Mlp::new(&(&root / "predictor"), config.out, &layers);
        let target_encoder = architecture.build(&(&root / "target" / "encoder"));
        let target_projector = projector(&root / "target" / "projection");
        let mut target = Follower::new(vs, "encoder.", "target.encoder.");
        target.join(Follower::new(vs, "projection.", "target.projection."));
        Self {
            encoder,
            projector: online,
            predictor,
            target_encoder,
            target_projector,
            target,
            config,
            precision,
        }
    }

    /// What the target says of second and first views, `[2N,out]`, rows of length 1, without gradient: what the
    /// predictions of first and second views are held against.
    pub(super) fn targets(&self, views: &Views, group: &Group) -> Tensor {
        no_grad(|| {
            let project = |view: &Tensor| {
                let embeddings = self.target_encoder.forward(view, Phase::Train(group), self.precision);
                unit_rows(&self.target_projector.forward(&embeddings, Phase::Train(group)))
            };
            Tensor::cat(&[project(views.second()), project(views.first())], 0)
        })
    }

    /// The loss given the targets (the paper's equation 2, for both views): `2 - 2 cos` summed over the two directions.
    pub(super) fn contrast_with(
        &self,
        views: &Views,
        targets: &Tensor,
        group: &Group,
    ) -> Result<Contrast, DistributedError> {
        let predict = |view: &Tensor| {
            let embeddings = self.encoder.forward(view, Phase::Train(group), self.precision);
            let projections = self.projector.forward(&embeddings, Phase::Train(group));
            unit_rows(&self.predictor.forward(&projections, Phase::Train(group)))
        };
        let predictions = Tensor::cat(&[predict(views.first()), predict(views.second())], 0);
        let cosine = (&predictions * targets).sum_dim_intlist([1].as_slice(), false, None);
        let pairs = views.first().size()[0];
        let top1 = retrieval_top1(&predictions.narrow(0, 0, pairs), &targets.narrow(0, 0, pairs), group)?;
        Ok(Contrast { loss: (cosine * -2.0 + 2.0).mean(None) * 2.0, top1 })
    }
}

impl Objective for Byol {
    fn loss(&mut self, _pass: usize, views: &Views, group: &Group) -> Result<Loss, DistributedError> {
        Ok(self.contrast_with(views, &self.targets(views, group), group)?.into())
    }

    fn joins_batches(&self, _pass: usize) -> bool {
        false
    }

    fn after_step(&mut self, done: &Done<'_>) {
        self.target.follow(self.config.momentum_at(done.progress));
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}
