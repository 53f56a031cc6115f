//! SimSiam (Chen & He 2021).

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Build, Contrast, Loss, Objective, Views, retrieval_top1};
use crate::distributed::{DistributedError, Group};
use crate::nets::{After, Encoder, Mlp, Phase, Precision};
use crate::ntxent::unit_rows;

/// Heads; the defaults are the paper's (section 3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimSiamConfig {
    /// Values of the projector's layers, hidden and last.
    pub out: i64,
    /// Values of the predictor's hidden layer.
    pub bottleneck: i64,
    /// Whether the predictor's learning rate stays what it was while the others fall along the cosine. The paper's
    /// baseline has it fall; its table 1 finds a constant one a little better, and the authors then keep to that.
    pub constant_predictor_lr: bool,
}

impl Default for SimSiamConfig {
    fn default() -> Self {
        Self { out: 2048, bottleneck: 512, constant_predictor_lr: false }
    }
}

/// Encoder, projector and predictor.
#[derive(Debug)]
pub struct SimSiam {
    encoder: Encoder,
    projector: Mlp,
    predictor: Mlp,
    precision: Precision,
}

impl SimSiam {
    /// Builds `encoder.*`, `projection.*` and `predictor.*`.
    pub fn new(Build { vs, architecture, precision, .. }: Build<'_>, config: SimSiamConfig) -> Self {
        let root = &vs.root();
        let SimSiamConfig { out, bottleneck, .. } = config;
        let encoder = architecture.build(&(root / "encoder"));
        let layers = [(out, After::NormRelu), (out, After::NormRelu), (out, After::PlainNorm)];
        let projector = Mlp::new(&(root / "projection"), architecture.embedding_size(), &layers);
        let predictor =
            Mlp::new(&(root / "predictor"), out, &[(bottleneck, After::NormRelu), (out, After::Nothing)]);
        Self { encoder, projector, predictor, precision }
    }

    /// Projections of first and second views.
    pub(super) fn project(&self, views: &Views, group: &Group) -> [Tensor; 2] {
        let phase = Phase::Train(group);
        [views.first(), views.second()]
            .map(|view| self.projector.forward(&self.encoder.forward(view, phase, self.precision), phase))
    }

    /// Negative cosine between each view's prediction and the other's target, averaged (algorithm 1 of the paper).
    pub(super) fn contrast_with(
        &self,
        projections: &[Tensor; 2],
        targets: &[Tensor; 2],
        group: &Group,
    ) -> Result<Contrast, DistributedError> {
        let phase = Phase::Train(group);
        let predict = |projection: &Tensor| unit_rows(&self.predictor.forward(projection, phase));
        let (first, second) = (predict(&projections[0]), predict(&projections[1]));
        let targets = targets.each_ref().map(unit_rows);
        let cosine = |a: &Tensor, b: &Tensor| (a * b).sum_dim_intlist([1].as_slice(), false, None).mean(None);
        let loss = (cosine(&first, &targets[1]) + cosine(&second, &targets[0])) * -0.5;
        Ok(Contrast { loss, top1: retrieval_top1(&first, &targets[1], group)? })
    }
}

impl Objective for SimSiam {
    fn loss(&mut self, _pass: usize, views: &Views, group: &Group) -> Result<Loss, DistributedError> {
        let projections = self.project(views, group);
        let targets = projections.each_ref().map(Tensor::detach);
        Ok(self.contrast_with(&projections, &targets, group)?.into())
    }

    fn joins_batches(&self, _pass: usize) -> bool {
        false
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}
