//! The landmark network: dense convolutions on a crop and one linear layer.

use semblance_face::landmarks::NETWORK_VALUES;
use tch::{Kind, TchError, Tensor, nn};

use crate::export::{Dim, GraphWriter};
use crate::nets::{Layer, Phase, Precision, RepVgg, Stem};

/// Side of the crop in pixels.
pub const SIDE_PX: u32 = 96;

const STEM: i64 = 32;
/// Channels and stride of each block.
const BLOCKS: [(i64, i64); 5] = [(64, 2), (64, 1), (64, 1), (96, 2), (96, 1)];
/// Positions on a side after the blocks.
const LAST_SIDE: i64 = SIDE_PX as i64 / 16;

/// Crops `[N,3,S,S]` in `[-1,1]` to `[N,137]`: see [`NETWORK_VALUES`].
#[derive(Debug)]
pub struct LandmarkNet {
    stem: Stem,
    blocks: Vec<RepVgg>,
    last: nn::Linear,
}

impl LandmarkNet {
    /// A network with fresh weights under `path`, which gives `mean` (136 values) and an even chance of a face.
    pub fn new(path: &nn::Path<'_>, mean: &[f32]) -> Self {
        let mut channels = STEM;
        let mut blocks = Vec::new();
        for (i, (out, stride)) in BLOCKS.into_iter().enumerate() {
            blocks.push(RepVgg::new(&(path / format!("block{i}")), channels, out, stride));
            channels = out;
        }
        let mut last = nn::linear(
            path / "last",
            channels * LAST_SIDE * LAST_SIDE,
            NETWORK_VALUES as i64,
            Default::default(),
        );
        tch::no_grad(|| {
            last.ws *= 0.1;
            if let Some(bias) = &mut last.bs {
                let _ = bias.zero_();
                bias.narrow(0, 0, mean.len() as i64).copy_(&Tensor::from_slice(mean));
            }
        });
        Self { stem: Stem::new(&(path / "stem"), STEM), blocks, last }
    }

    /// The network's values, `[N,137]` in f32.
    pub fn forward(&self, crops: &Tensor, phase: Phase<'_>, precision: Precision) -> Tensor {
        let mut x = precision.convolvable(crops);
        x = self.stem.forward(&x, phase);
        x = self.blocks.iter().fold(x, |x, block| block.forward(&x, phase));
        x.to_kind(Kind::Float).contiguous().flatten(1, -1).apply(&self.last)
    }

    /// Writes the network as ONNX: input `crops` `[N,3,S,S]`, output `landmarks` `[N,137]`.
    ///
    /// # Errors
    /// Those of reading the weights.
    pub fn write(&self) -> Result<Vec<u8>, TchError> {
        let (batch, side) = (Dim::Symbol("N"), Dim::Fixed(i64::from(SIDE_PX)));
        let (mut graph, mut x) = GraphWriter::new("landmarks", "crops", &[batch, Dim::Fixed(3), side, side]);
        x = self.stem.write(&mut graph, x)?;
        x = self.blocks.iter().try_fold(x, |x, block| block.write(&mut graph, x))?;
        x = graph.flatten(x);
        let zeros = || Tensor::zeros([NETWORK_VALUES as i64], (Kind::Float, self.last.ws.device()));
        let bias = self.last.bs.as_ref().map_or_else(zeros, Tensor::shallow_clone);
        let y = graph.linear(x, &self.last.ws, &bias)?;
        Ok(graph.finish(&[("landmarks", y, &[batch, Dim::Fixed(NETWORK_VALUES as i64)])]))
    }
}
