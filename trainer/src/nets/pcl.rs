//! The 16-layer backbone of FaceCycle (Chang, Chen & Chiu 2021), and PCL's form of it (Liu et al. 2023): of PCL, what comes
//! before the two branches, which is the representation that it evaluates.

use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor, nn};

use super::Phase;
use super::layers::{Conv, Layer};
use super::plain::{ChannelAttention, ConvLeaky, Flatten, LeakyResidual};
use crate::export::{GraphWriter, Value};

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

/// What of PCL represents a picture (section 4.3, table 7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PclFeatures {
    /// The backbone's code, which the paper evaluates and which comes before the branches.
    #[default]
    Code,
    /// The face branch's.
    Face,
    /// The pose branch's.
    Pose,
    /// The sum of both branches'.
    Both,
}

/// PCL's backbone under `root/encoder` with branches under `root/face` and `root/pose`.
pub(super) fn with_branches(root: &nn::Path<'_>, side_px: u32, features: PclFeatures) -> Vec<Box<dyn Layer>> {
    let mut layers = pcl(&(root / "encoder"), side_px);
    let names: &[&str] = match features {
        PclFeatures::Code => return layers,
        PclFeatures::Face => &["face"],
        PclFeatures::Pose => &["pose"],
        PclFeatures::Both => &["face", "pose"],
    };
    // The branches take the map.
    layers.pop();
    layers.push(Box::new(Branches(names.iter().map(|name| branch(&(root / name))).collect())));
    layers.push(Box::new(Flatten));
    layers
}

/// The sum of what branches make of a map.
#[derive(Debug)]
struct Branches(Vec<[ConvLeaky; 2]>);

impl Layer for Branches {
    fn forward(&self, x: &Tensor, phase: Phase<'_>) -> Tensor {
        let each = |[first, second]: &[ConvLeaky; 2]| second.forward(&first.forward(x, phase), phase);
        let maps: Vec<Tensor> = self.0.iter().map(each).collect();
        Tensor::stack(&maps, 0).sum_dim_intlist([0].as_slice(), false, None)
    }

    fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        let mut sum = None;
        for [first, second] in &self.0 {
            let map = first.write(graph, x.clone())?;
            let map = second.write(graph, map)?;
            sum = Some(match sum {
                Some(sum) => graph.add(sum, map),
                None => map,
            });
        }
        Ok(sum.unwrap_or(x))
    }
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
