//! The device's encoder: few, dense, well-shaped 3x3 convolutions, which tract computes at its best rate, and whose
//! training-time branches vanish at export. At 64 px it costs 62 M multiply-adds.

use tch::nn;

use super::layers::{ConvBn, ConvBnRelu, GlobalAvgPool, Layer, RepVgg};

pub(super) const EMBEDDING_SIZE: i64 = 256;

/// Channels and stride of each RepVGG block after the stem.
const BLOCKS: [(i64, i64); 8] =
    [(64, 2), (64, 1), (64, 1), (128, 2), (128, 1), (128, 1), (EMBEDDING_SIZE, 2), (EMBEDDING_SIZE, 1)];

const STEM: i64 = 32;

pub(super) fn layers(path: &nn::Path<'_>) -> Vec<Box<dyn Layer>> {
    let mut layers: Vec<Box<dyn Layer>> =
        vec![Box::new(ConvBnRelu(ConvBn::new(&(path / "stem"), 3, STEM, 3, 2)))];
    let mut channels = STEM;
    for (i, (out, stride)) in BLOCKS.into_iter().enumerate() {
        layers.push(Box::new(RepVgg::new(&(path / format!("block{i}")), channels, out, stride)));
        channels = out;
    }
    layers.push(Box::new(GlobalAvgPool));
    layers
}
