//! SimCLR (Chen et al. 2020).

use serde::{Deserialize, Serialize};
use tch::{Tensor, nn};

use crate::nets::{Backbone, Encoder, Precision, ProjectionHead};
use crate::ntxent::{Contrast, Denominator, nt_xent};

/// Sizes and temperature of the contrast.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Projection {
    /// Values of the projection head's hidden layer; 0 for as many as the embedding has, as in the paper.
    pub hidden: i64,
    /// Values of the projection.
    pub out: i64,
    /// NT-Xent's temperature.
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
    head: ProjectionHead,
    settings: Projection,
    precision: Precision,
}

impl SimClr {
    /// Builds `encoder.*` and `projection.*` with fresh weights.
    pub fn new(root: &nn::Path<'_>, backbone: Backbone, settings: Projection, precision: Precision) -> Self {
        let encoder = backbone.build(&(root / "encoder"));
        let embedding = backbone.embedding_size();
        let hidden = if settings.hidden > 0 { settings.hidden } else { embedding };
        let head = ProjectionHead::new(&(root / "projection"), embedding, hidden, settings.out);
        Self { encoder, head, settings, precision }
    }

    /// The contrast between two views of the same pictures, each normalised `[N,3,S,S]`. Both go through the encoder
    /// as one batch, and share its batch statistics.
    pub fn contrast(&self, first: &Tensor, second: &Tensor) -> Contrast {
        let pairs = first.size()[0];
        let embeddings = self.encoder.forward(&Tensor::cat(&[first, second], 0), true, self.precision);
        let projections = self.head.forward(&embeddings);
        let half = |start| projections.narrow(0, start, pairs);
        nt_xent(&half(0), &half(pairs), self.settings.temperature, self.settings.denominator)
    }
}
