//! The 16-layer backbone of FaceCycle (Chang, Chen & Chiu 2021), and PCL's form of it (Liu et al. 2023): of PCL, what comes
//! before the two branches, which is the representation that it evaluates.

use tch::nn;

use super::layers::{Conv, Layer};
use super::plain::{ChannelAttention, ConvLeaky, Flatten, LeakyResidual};

/// Channels of the map that is the embedding.
pub(crate) const CODE_CHANNELS: i64 = 128;

/// Side of that map: four layers take every second position.
pub(crate) fn code_side(side_px: u32) -> i64 {
    (0..4).fold(i64::from(side_px), |side, _| (side + 1) / 2)
}

/// PCL's: the last two convolutions are the branches' own ([`branch`]), so that there are 14 here.
pub(super) fn pcl(path: &nn::Path<'_>, side_px: u32) -> Vec<Box<dyn Layer>> {
    let mut layers = trunk(path, side_px);
    layers.push(conv(path, "layer3_down", 128, 256, 2));
    layers.push(conv(path, "layer3", 256, CODE_CHANNELS, 1));
    layers.push(Box::new(Flatten));
    layers
}

/// FaceCycle's: all 16.
pub(super) fn facecycle(path: &nn::Path<'_>, side_px: u32) -> Vec<Box<dyn Layer>> {
    let mut layers = trunk(path, side_px);
    layers.push(conv(path, "layer3_down", 128, 256, 2));
    layers.push(conv(path, "layer3", 256, 256, 1));
    layers.push(conv(path, "layer4", 256, 256, 1));
    layers.push(conv(path, "layer5", 256, CODE_CHANNELS, 1));
    layers.push(Box::new(Flatten));
    layers
}

/// What follows PCL's shared code in each branch: two 3x3 convolutions of 128 channels.
pub(crate) fn branch(path: &nn::Path<'_>) -> [ConvLeaky; 2] {
    ["first", "second"].map(|name| ConvLeaky(Conv::new(&(path / name), CODE_CHANNELS, CODE_CHANNELS, 3, 1)))
}

fn conv(path: &nn::Path<'_>, name: &str, c_in: i64, c_out: i64, stride: i64) -> Box<dyn Layer> {
    Box::new(ConvLeaky(Conv::new(&(path / name), c_in, c_out, 3, stride)))
}

fn trunk(path: &nn::Path<'_>, side_px: u32) -> Vec<Box<dyn Layer>> {
    let half = (i64::from(side_px) + 1) / 2;
    vec![
        Box::new(ConvLeaky(Conv::new(&(path / "stem_down"), 3, 64, 7, 2))),
        conv(path, "stem", 64, 64, 1),
        conv(path, "layer1_first", 64, 64, 1),
        Box::new(ChannelAttention::new(&(path / "layer1_attention"), 64, half)),
        conv(path, "layer1_second", 64, 64, 1),
        conv(path, "layer2_down", 64, 128, 2),
        Box::new(ChannelAttention::new(&(path / "layer2_attention"), 128, (half + 1) / 2)),
        conv(path, "layer2", 128, 128, 1),
        Box::new(LeakyResidual::new(&(path / "block1"), 128)),
        Box::new(LeakyResidual::new(&(path / "block2"), 128)),
        conv(path, "layer2_down_again", 128, 128, 2),
        conv(path, "layer2_last", 128, 128, 1),
    ]
}
