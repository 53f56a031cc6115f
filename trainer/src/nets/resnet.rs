//! ResNets (He et al. 2016) without their classifier.

use tch::nn;

use super::layers::{BasicBlock, Bottleneck, ConvBn, ConvBnRelu, GlobalAvgPool, Layer, MaxPool};

/// Channels of the four stages; a bottleneck's output has four times as many.
const STAGES: [i64; 4] = [64, 128, 256, 512];

pub(super) const BASIC_EMBEDDING: i64 = STAGES[3];
pub(super) const BOTTLENECK_EMBEDDING: i64 = STAGES[3] * Bottleneck::EXPANSION;

/// Blocks of each stage (table 1 of the paper).
pub(super) const RESNET18: [usize; 4] = [2, 2, 2, 2];
pub(super) const RESNET34: [usize; 4] = [3, 4, 6, 3];
pub(super) const RESNET50: [usize; 4] = [3, 4, 6, 3];

/// ResNet-18 and 34: two 3x3 convolutions a block.
pub(super) fn basic(path: &nn::Path<'_>, blocks: [usize; 4]) -> Vec<Box<dyn Layer>> {
    build(path, blocks, 1, |path, c_in, channels, stride| {
        Box::new(BasicBlock::new(path, c_in, channels, stride))
    })
}

/// ResNet-50: bottleneck blocks.
pub(super) fn bottleneck(path: &nn::Path<'_>, blocks: [usize; 4]) -> Vec<Box<dyn Layer>> {
    build(path, blocks, Bottleneck::EXPANSION, |path, c_in, channels, stride| {
        Box::new(Bottleneck::new(path, c_in, channels, stride))
    })
}

fn build(
    path: &nn::Path<'_>,
    blocks: [usize; 4],
    expansion: i64,
    block: impl Fn(&nn::Path<'_>, i64, i64, i64) -> Box<dyn Layer>,
) -> Vec<Box<dyn Layer>> {
    let stem = ConvBnRelu(ConvBn::new(&(path / "stem"), 3, STAGES[0], 7, 2));
    let mut layers: Vec<Box<dyn Layer>> = vec![Box::new(stem), Box::new(MaxPool)];
    let mut c_in = STAGES[0];
    for (stage, (channels, blocks)) in STAGES.into_iter().zip(blocks).enumerate() {
        for number in 0..blocks {
            let stride = if stage > 0 && number == 0 { 2 } else { 1 };
            let path = path / format!("stage{stage}") / format!("block{number}");
            layers.push(block(&path, c_in, channels, stride));
            c_in = channels * expansion;
        }
    }
    layers.push(Box::new(GlobalAvgPool));
    layers
}
