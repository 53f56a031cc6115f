//! Heads that losses look through: stacks of linear layers on an embedding. What is evaluated and exported is the
//! embedding before them.

use super::{Phase, batch_normalised};
use tch::{Tensor, nn, nn::Module};

/// What follows a linear layer of an [`Mlp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Nothing,
    /// ReLU.
    Relu,
    /// Batch normalisation, then ReLU.
    NormRelu,
    /// Batch normalisation without scale and shift, as SimSiam ends its projection.
    PlainNorm,
}

#[derive(Debug)]
struct Stage {
    linear: nn::Linear,
    norm: Option<nn::BatchNorm>,
    relu: bool,
}

/// Linear layers `first`, `second`, ... with what follows each.
#[derive(Debug)]
pub struct Mlp(Vec<Stage>);

const NAMES: [&str; 3] = ["first", "second", "third"];

impl Mlp {
    /// Fresh weights from `input` values through up to three layers of the stated widths. A layer before batch
    /// normalisation has no bias.
    pub fn new(path: &nn::Path<'_>, input: i64, layers: &[(i64, After)]) -> Self {
        let mut width = input;
        let stages = layers.iter().zip(NAMES).map(|(&(out, after), name)| {
            let normed = matches!(after, After::NormRelu | After::PlainNorm);
            let linear =
                nn::linear(path / name, width, out, nn::LinearConfig { bias: !normed, ..Default::default() });
            let norm = normed.then(|| {
                let config = nn::BatchNormConfig {
                    affine: after == After::NormRelu,
                    ws_init: nn::Init::Const(1.0),
                    ..Default::default()
                };
                nn::batch_norm1d(path / format!("{name}_norm"), out, config)
            });
            width = out;
            Stage { linear, norm, relu: matches!(after, After::Relu | After::NormRelu) }
        });
        Self(stages.collect())
    }

    /// SimCLR's projection head (Chen et al. 2020, section 4.2), MoCo v2's too: linear, ReLU, linear.
    pub fn projection(path: &nn::Path<'_>, embedding: i64, hidden: i64, out: i64) -> Self {
        Self::new(path, embedding, &[(hidden, After::Relu), (out, After::Nothing)])
    }

    /// `[N,input]` to `[N,out]`.
    pub fn forward(&self, x: &Tensor, phase: Phase<'_>) -> Tensor {
        self.0.iter().fold(x.shallow_clone(), |x, stage| {
            let y = stage.linear.forward(&x);
            let y = match &stage.norm {
                Some(norm) => batch_normalised(norm, &y, phase),
                None => y,
            };
            if stage.relu { y.relu() } else { y }
        })
    }
}
