//! SimCLR (Chen et al. 2020).

use serde::{Deserialize, Serialize};
use tch::{Tensor, nn};

use super::{Build, Denominator, Loss, Objective, Views};
use crate::distributed::{DistributedError, Group};
use crate::nets::{Encoder, Mlp, Phase, Precision};
use crate::ntxent::nt_xent;

/// Sizes and temperature of the contrast.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Projection {
    /// Values of the projection head's hidden layer; 0 for as many as the embedding has, as in the paper.
    pub hidden: i64,
    /// Values of the projection.
    pub out: i64,
    /// The temperature (SSLFER 4.1: 0.07 for every method).
    pub temperature: f64,
    /// What NT-Xent's denominator sums.
    pub denominator: Denominator,
}

impl Default for Projection {
    fn default() -> Self {
        Self { hidden: 0, out: 128, temperature: 0.07, denominator: Denominator::WithPositive }
    }
}

/// An encoder and its projection head, trained with NT-Xent.
#[derive(Debug)]
pub struct SimClr {
    encoder: Encoder,
    head: Mlp,
    settings: Projection,
    precision: Precision,
}

impl SimClr {
    /// Builds `encoder.*` and `projection.*` with fresh weights.
    pub fn new(Build { vs, architecture, precision, .. }: Build<'_>, settings: Projection) -> Self {
        let root = vs.root();
        let encoder = architecture.build(&(&root / "encoder"));
        let head = projection_head(&(&root / "projection"), encoder.embedding_size(), settings);
        Self { encoder, head, settings, precision }
    }

    /// Projections of the first and of the second views of all processes, `[N,out]` each. Both go through the encoder
    /// as one batch, and share its statistics.
    pub(super) fn project(&self, views: &Views, group: &Group) -> Result<(Tensor, Tensor), DistributedError> {
        let phase = Phase::Train(group);
        let both = Tensor::cat(&[views.first(), views.second()], 0);
        let projections = self.head.forward(&self.encoder.forward(&both, phase, self.precision), phase);
        let all = group.gather_with_local(&side_by_side(&projections))?;
        Ok((all.select(1, 0), all.select(1, 1)))
    }

    pub(super) fn settings(&self) -> Projection {
        self.settings
    }
}

/// The projection head that SimCLR, SSLFER and MoCo v2 share.
pub(super) fn projection_head(path: &nn::Path<'_>, embedding: i64, settings: Projection) -> Mlp {
    let hidden = if settings.hidden > 0 { settings.hidden } else { embedding };
    Mlp::projection(path, embedding, hidden, settings.out)
}

/// Rows of first and then second views, `[2N,d]`, as `[N,2,d]`: what processes join along their first dimension.
pub(super) fn side_by_side(rows: &Tensor) -> Tensor {
    let size = rows.size();
    rows.view([2, size[0] / 2, size[1]]).transpose(0, 1)
}

impl Objective for SimClr {
    fn loss(&mut self, _pass: usize, views: &Views, group: &Group) -> Result<Loss, DistributedError> {
        let (first, second) = self.project(views, group)?;
        Ok(nt_xent(&first, &second, self.settings.temperature, self.settings.denominator).into())
    }

    fn joins_batches(&self, _pass: usize) -> bool {
        true
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}
