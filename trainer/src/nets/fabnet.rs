//! FAb-Net's encoder (Wiles, Koepke & Zisserman 2018, supplement 1.1), and the pair of half as wide ones that split-brain
//! autoencoders (Zhang, Isola & Efros 2017) have of it.

use tch::{Kind, TchError, Tensor, nn};

use super::layers::{Conv, ConvBn, Layer};
use super::plain::{Flatten, leaky_relu};
use super::{Phase, colour};
use crate::export::{GraphWriter, Value};

/// Values of the embedding.
pub(crate) const EMBEDDING_SIZE: i64 = 256;

/// Channels after each layer but the last, at 256 px; smaller inputs have fewer layers.
const WIDTHS: [i64; 7] = [32, 64, 128, 256, 256, 256, 256];

const SLOPE: f64 = 0.2;

/// Layers for this input: each halves the side, the last leaves one position. The paper has 8 for 256 px.
pub(crate) const fn depth(side_px: u32) -> usize {
    side_px.ilog2() as usize
}

/// The first side that has a last position is 16 px, the last one that the widths are known for 256 px.
pub(super) fn problem(side_px: u32) -> Option<String> {
    let fits = side_px.is_power_of_two() && (16..=256).contains(&side_px);
    (!fits).then(|| {
        format!("side_px = {side_px}: FAb-Net's encoder halves 16, 32, 64, 128 or 256 px down to one")
    })
}

/// A 4x4 convolution in steps of 2, batch normalisation where there is one, leaky ReLU of slope 0.2 but after the last. That is the
/// order of the authors' code; the supplement's figure 1 has the normalisation after the ReLU.
#[derive(Debug)]
enum Halving {
    Plain { conv: Conv, last: bool },
    Normed(ConvBn),
}

impl Layer for Halving {
    fn forward(&self, x: &Tensor, phase: Phase<'_>) -> Tensor {
        match self {
            Self::Plain { conv, last: true } => conv.forward(x),
            Self::Plain { conv, last: false } => leaky_relu(&conv.forward(x), SLOPE),
            Self::Normed(conv) => leaky_relu(&conv.forward(x, phase), SLOPE),
        }
    }

    fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        let y = match self {
            Self::Plain { conv, last: true } => return conv.write(graph, x),
            Self::Plain { conv, .. } => conv.write(graph, x)?,
            Self::Normed(conv) => conv.write(graph, x)?,
        };
        Ok(graph.leaky_relu(y, SLOPE))
    }
}

/// From `c_in` channels; `share` of the widths, as a divisor.
fn halvings(path: &nn::Path<'_>, side_px: u32, c_in: i64, share: i64) -> Vec<Box<dyn Layer>> {
    let depth = depth(side_px);
    let mut c_in = c_in;
    let mut layers: Vec<Box<dyn Layer>> = Vec::new();
    for (number, width) in WIDTHS.into_iter().chain([EMBEDDING_SIZE]).take(depth).enumerate() {
        let path = path / format!("layer{number}");
        let last = number + 1 == depth;
        let c_out = if last { EMBEDDING_SIZE } else { width } / share;
        layers.push(Box::new(if number == 0 || last {
            Halving::Plain { conv: Conv::padded(&path, c_in, c_out, 4, 2, 1), last }
        } else {
            Halving::Normed(ConvBn::padded(&path, c_in, c_out, 4, 2, 1))
        }));
        c_in = c_out;
    }
    layers
}

/// FAb-Net's encoder.
pub(super) fn layers(path: &nn::Path<'_>, side_px: u32) -> Vec<Box<dyn Layer>> {
    let mut layers = halvings(path, side_px, 3, 1);
    layers.push(Box::new(Flatten));
    layers
}

/// Two encoders of half the width, one for lightness, one for colour; their embeddings are joined. Inputs are RGB in
/// `[0,1]`.
pub(super) fn split_brain(path: &nn::Path<'_>, side_px: u32) -> Vec<Box<dyn Layer>> {
    vec![Box::new(SplitBrain {
        lightness: halvings(&(path / "lightness"), side_px, 1, 2),
        colour: halvings(&(path / "colour"), side_px, 2, 2),
    })]
}

/// See [`split_brain`].
#[derive(Debug)]
pub(crate) struct SplitBrain {
    lightness: Vec<Box<dyn Layer>>,
    colour: Vec<Box<dyn Layer>>,
}

impl Layer for SplitBrain {
    fn forward(&self, x: &Tensor, phase: Phase<'_>) -> Tensor {
        // Cube roots and their like are not for bfloat16.
        let kind = if x.kind() == Kind::BFloat16 { Kind::Float } else { x.kind() };
        let lab = colour::scaled_lab(&x.to_kind(kind)).to_kind(x.kind());
        let half = |layers: &[Box<dyn Layer>], first, channels| {
            let x = lab.narrow(1, first, channels);
            let y = layers.iter().fold(x, |x, layer| layer.forward(&x, phase));
            y.reshape([y.size()[0], -1])
        };
        Tensor::cat(&[half(&self.lightness, 0, 1), half(&self.colour, 1, 2)], 1)
    }

    fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        let lab = colour::write_scaled_lab(graph, x)?;
        let mut half = |layers: &[Box<dyn Layer>], first: i64, channels: i64| {
            let pick = Tensor::eye(3, (Kind::Float, tch::Device::Cpu)).narrow(0, first, channels);
            let none = Tensor::zeros([channels], (Kind::Float, tch::Device::Cpu));
            let x = graph.conv(lab.clone(), &pick.view([channels, 3, 1, 1]), &none, 1, 0)?;
            let y = layers.iter().try_fold(x, |x, layer| layer.write(graph, x))?;
            Ok::<_, TchError>(graph.flatten(y))
        };
        let (lightness, colour) = (half(&self.lightness, 0, 1)?, half(&self.colour, 1, 2)?);
        Ok(graph.concat(&[lightness, colour], 1))
    }
}
