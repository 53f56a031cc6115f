//! ResNet (He et al. 2016) without its classifier.

use tch::nn;

use super::layers::{BasicBlock, ConvBn, ConvBnRelu, GlobalAvgPool, Layer, MaxPool};

pub(super) const EMBEDDING_SIZE: i64 = 512;

/// ResNet-18: a 7x7 stem, then four stages of two basic blocks with 64, 128, 256 and 512 channels.
pub(super) fn resnet18(path: &nn::Path<'_>) -> Vec<Box<dyn Layer>> {
    let mut layers: Vec<Box<dyn Layer>> =
        vec![Box::new(ConvBnRelu(ConvBn::new(&(path / "stem"), 3, 64, 7, 2))), Box::new(MaxPool)];
    let mut channels = 64;
    for (stage, out) in [64, 128, 256, 512].into_iter().enumerate() {
        for block in 0..2 {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let path = path / format!("stage{stage}") / format!("block{block}");
            layers.push(Box::new(BasicBlock::new(&path, channels, out, stride)));
            channels = out;
        }
    }
    layers.push(Box::new(GlobalAvgPool));
    layers
}
