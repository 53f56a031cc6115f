//! Encoders for devices: a few dense 3x3 convolutions, one after another, which tract computes at its best rate and which
//! train at that of the processor. They see lightness alone: the expressions that are learnt from have no colour, and
//! colour tells more of the lamp and the camera than of a face.

use std::fmt;
use std::str::FromStr;

use tch::{Device, Kind, TchError, Tensor, nn};

use super::layers::{GlobalAvgPool, Layer, batch_norm, channels_last, fold_batch_norm};
use super::{NORM_EPS, Phase, batch_normalised};
use crate::export::{GraphWriter, Value};

/// Most stages of a shape, the stem among them.
const MOST_STAGES: usize = 6;
/// Most channels of a stage, and so most values of an embedding.
const MOST_CHANNELS: u16 = 512;
/// Most convolutions of a stage.
const MOST_BLOCKS: u8 = 16;

/// Widths and depths of a dense encoder, written `32/64x3/128x2+256x2`: a stem of 32 channels, three convolutions of 64, two
/// of 128, two of 256, whose mean is the embedding. Every stage after a `/` halves the map, as the stem does; one after a `+`
/// keeps its side. A stem after `//` quarters the picture by a 7x7 convolution: what costs tract most of a small encoder is to lay out
/// large maps for the next convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    stages: [Stage; MOST_STAGES],
    count: usize,
    quarters: bool,
}

/// A convolution of a shape: channels that come in and go out, the kernel's side, and in which steps it goes.
#[derive(Clone, Copy, Debug)]
struct Convolution {
    c_in: i64,
    c_out: i64,
    side: i64,
    stride: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stage {
    channels: u16,
    blocks: u8,
    halves: bool,
}

impl Shape {
    fn stages(&self) -> &[Stage] {
        &self.stages[..self.count]
    }

    /// Every convolution, of lightness to begin with.
    fn convolutions(&self) -> impl Iterator<Item = Convolution> {
        let mut c_in = 1;
        let stages = self.stages().iter();
        stages.flat_map(|stage| (0..stage.blocks).map(move |i| (stage, i == 0))).enumerate().map(
            move |(i, (stage, first))| {
                let c_out = i64::from(stage.channels);
                let (side, stride) = match first && stage.halves {
                    true if i == 0 && self.quarters => (7, 4),
                    true => (3, 2),
                    false => (3, 1),
                };
                Convolution { c_in: std::mem::replace(&mut c_in, c_out), c_out, side, stride }
            },
        )
    }

    /// Every convolution as it is exported: the stem reads colours and makes lightness of them.
    fn exported(&self) -> impl Iterator<Item = Convolution> {
        self.convolutions().enumerate().map(|(i, conv)| match i {
            0 => Convolution { c_in: 3, ..conv },
            _ => conv,
        })
    }

    /// Values of its embedding.
    pub fn embedding_size(&self) -> i64 {
        self.stages().last().map_or(0, |stage| i64::from(stage.channels))
    }

    /// Multiply-adds for an input of `side_px`, exported.
    pub fn multiply_adds(&self, side_px: u32) -> u64 {
        let mut side = u64::from(side_px);
        let cost = |conv: Convolution| {
            side = side.div_ceil(conv.stride as u64);
            side * side * (conv.side * conv.side * conv.c_in * conv.c_out) as u64
        };
        self.exported().map(cost).sum()
    }

    /// Weights, exported.
    pub fn weights(&self) -> u64 {
        self.exported().map(|conv| ((conv.side * conv.side * conv.c_in + 1) * conv.c_out) as u64).sum()
    }

    /// The variables of an encoder of this shape whose folded convolutions, kernel and bias, are these: batch normalisation adds
    /// the bias and does nothing else, until [`super::Encoder::settle`].
    ///
    /// # Errors
    /// Tells where the convolutions are not those of the shape.
    pub(crate) fn unfold(&self, folded: &[(Tensor, Tensor)]) -> Result<Vec<(String, Tensor)>, String> {
        let expected: Vec<_> = self.exported().collect();
        if folded.len() != expected.len() {
            return Err(format!("it has {} convolutions, and {self} {}", folded.len(), expected.len()));
        }
        let mut variables = Vec::new();
        for (i, (conv, (kernel, bias))) in expected.iter().zip(folded).enumerate() {
            let Convolution { c_in, c_out, side, .. } = *conv;
            if kernel.size() != [c_out, c_in, side, side] || bias.size() != [c_out] {
                return Err(format!("its convolution {i} is {:?}, which {self} has not", kernel.size()));
            }
            // The stem's was made of one for lightness, in shares that sum to 1.
            let kernel = match i {
                0 => kernel.sum_dim_intlist(&[1i64][..], true, None),
                _ => kernel.shallow_clone(),
            };
            variables.extend([
                (format!("block{i}.kernel"), kernel),
                (format!("block{i}.bn.weight"), bias.ones_like()),
                (format!("block{i}.bn.bias"), bias.shallow_clone()),
                (format!("block{i}.bn.running_mean"), bias.zeros_like()),
                (format!("block{i}.bn.running_var"), bias.ones_like() - NORM_EPS),
            ]);
        }
        Ok(variables)
    }

    pub(super) fn layers(&self, path: &nn::Path<'_>) -> Vec<Box<dyn Layer>> {
        let mut layers: Vec<Box<dyn Layer>> = Vec::new();
        for (i, conv) in self.convolutions().enumerate() {
            layers.push(Box::new(Block::new(&(path / format!("block{i}")), conv)));
        }
        layers.push(Box::new(GlobalAvgPool));
        layers
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!(
                "'{text}' is no shape of a dense encoder ({what}): a stem's channels (// before them: it quarters the picture), \
                 then stages, each / (halves the map) or + (keeps its side) and channels x convolutions, as in \
                 32/64x3/128x2+256x2"
            )
        };
        let stem = text.strip_prefix("//");
        let mut shape = Self { stages: [Stage::default(); MOST_STAGES], count: 0, quarters: stem.is_some() };
        for part in stem.unwrap_or(text).split_inclusive(['/', '+']) {
            let stage = part.trim_end_matches(['/', '+']);
            let (channels, blocks) = stage.split_once('x').unwrap_or((stage, "1"));
            let number = |text: &str| {
                text.parse()
                    .ok()
                    .filter(|_| !text.starts_with('+'))
                    .ok_or_else(|| wrong("a number is missing"))
            };
            let (channels, blocks): (u16, u16) = (number(channels)?, number(blocks)?);
            let slot = shape.stages.get_mut(shape.count).ok_or_else(|| wrong("more than 6 stages"))?;
            slot.channels = channels;
            slot.blocks = u8::try_from(blocks).unwrap_or(u8::MAX);
            if !(8..=MOST_CHANNELS).contains(&channels) || !(1..=MOST_BLOCKS).contains(&slot.blocks) {
                return Err(wrong("8 to 512 channels, 1 to 16 convolutions"));
            }
            shape.count += 1;
            if let Some(next) = shape.stages.get_mut(shape.count) {
                next.halves = part.ends_with('/');
            }
        }
        shape.stages[0].halves = true;
        if shape.count < 2 || shape.stages[0].blocks != 1 || text.ends_with(['/', '+']) {
            return Err(wrong("a stem of one convolution and at least one stage"));
        }
        Ok(shape)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.quarters {
            f.write_str("//")?;
        }
        for (i, stage) in self.stages().iter().enumerate() {
            if i > 0 {
                f.write_str(if stage.halves { "/" } else { "+" })?;
            }
            write!(f, "{}", stage.channels)?;
            if stage.blocks > 1 {
                write!(f, "x{}", stage.blocks)?;
            }
        }
        Ok(())
    }
}

/// Luma of RGB (ITU-R BT.601): lightness.
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// A convolution, batch normalisation, ReLU.
#[derive(Debug)]
struct Block {
    /// `[C_out,C_in,H,W]`; `C_in` is 1 where lightness alone comes in.
    kernel: Tensor,
    bn: nn::BatchNorm,
    stride: i64,
}

impl Block {
    fn new(path: &nn::Path<'_>, conv: Convolution) -> Self {
        let Convolution { c_in, c_out, side, stride } = conv;
        let kernel = path.var("kernel", &[c_out, c_in, side, side], nn::init::DEFAULT_KAIMING_NORMAL);
        Self { kernel, bn: batch_norm(path / "bn", c_out), stride }
    }

    /// The kernel over all channels that come in: lightness is a sum of three.
    fn kernel(&self) -> Tensor {
        if self.kernel.size()[1] > 1 {
            return self.kernel.shallow_clone();
        }
        &self.kernel * Tensor::from_slice(&LUMA).view([1, 3, 1, 1]).to_device(self.kernel.device())
    }
}

impl Layer for Block {
    fn forward(&self, x: &Tensor, phase: Phase<'_>) -> Tensor {
        batch_normalised(&self.bn, &convolve(x, &self.kernel(), self.stride), phase).relu()
    }

    fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        let (scale, bias) = fold_batch_norm(&self.bn);
        let kernel = self.kernel() * scale.view([-1, 1, 1, 1]);
        let y = graph.conv(x, &kernel, &bias, self.stride, padding(&kernel))?;
        Ok(graph.relu(y))
    }

    fn settle(&self, x: &Tensor) {
        let y = convolve(x, &self.kernel(), self.stride);
        let (variance, mean) = y.var_mean_dim(&[0i64, 2, 3][..], false, false);
        let (scale, shift) = fold_batch_norm(&self.bn);
        let shift = shift + &mean * &scale;
        let scale = scale * (&variance + NORM_EPS).sqrt();
        let parts = [
            (Some(&self.bn.running_mean), mean),
            (Some(&self.bn.running_var), variance),
            (self.bn.ws.as_ref(), scale),
            (self.bn.bs.as_ref(), shift),
        ];
        for (part, value) in parts {
            if let Some(part) = part {
                part.shallow_clone().copy_(&value);
            }
        }
    }
}

/// What keeps a map's side where a kernel goes in steps of one: half the kernel.
fn padding(kernel: &Tensor) -> i64 {
    kernel.size()[2] / 2
}

/// Width that maps are laid side by side to.
const STRIP: i64 = 80;

/// A convolution without bias, padded by half its kernel, in the number format of `x`.
///
/// What a CPU's bfloat16 kernels do at a time is a piece of a row, and rows of small maps are shorter than that: training two
/// to three times as slow. They are laid side by side with a column of zeros in between, which gives the same values.
fn convolve(x: &Tensor, kernel: &Tensor, stride: i64) -> Tensor {
    let kernel = channels_last(&kernel.to_kind(x.kind()));
    let padding = padding(&kernel);
    let conv = |x: &Tensor| x.conv2d(&kernel, None::<Tensor>, [stride; 2], [padding; 2], [1; 2], 1);
    let [n, c, h, w] = x.size()[..] else { return conv(x) };
    let learns = kernel.requires_grad() && x.kind() == Kind::BFloat16 && x.device() == Device::Cpu;
    let mut beside = STRIP / (w + 1);
    while beside > 1 && n % beside != 0 {
        beside -= 1;
    }
    if !learns || stride != 1 || padding != 1 || beside < 4 {
        return conv(x);
    }
    let maps = x.permute([0, 2, 3, 1]).constant_pad_nd([0, 0, 0, 1]);
    let rows = maps.view([n / beside, beside, h, w + 1, c]).permute([0, 2, 1, 3, 4]);
    let strips = rows.reshape([n / beside, h, beside * (w + 1), c]).permute([0, 3, 1, 2]);
    let y = conv(&strips).permute([0, 2, 3, 1]);
    let c = kernel.size()[0];
    let rows = y.reshape([n / beside, h, beside, w + 1, c]).narrow(3, 0, w);
    rows.permute([0, 2, 1, 3, 4]).reshape([n, h, w, c]).permute([0, 3, 1, 2])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Backbone, Encoder, Precision};
    use super::*;

    #[test]
    fn maps_side_by_side_are_convolved_as_they_are_alone() {
        tch::manual_seed(7);
        let random = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16);
        for side in [4, 8, 16] {
            let (x, kernel, g) =
                (random(&[24, 16, side, side]), random(&[16, 16, 3, 3]), random(&[24, 16, side, side]));
            let run = |f: &dyn Fn(&Tensor, &Tensor) -> Tensor| {
                let x = channels_last(&x).set_requires_grad(true);
                let kernel = kernel.copy().set_requires_grad(true);
                let y = f(&x, &kernel);
                (&y * &g).sum(Kind::Float).backward();
                [y.detach(), x.grad(), kernel.grad()].map(|t| t.to_kind(Kind::Float))
            };
            let ours = run(&|x, kernel| convolve(x, kernel, 1));
            let plain = run(&|x, kernel| x.conv2d(kernel, None::<Tensor>, [1; 2], [1; 2], [1; 2], 1));
            for (ours, plain) in ours.iter().zip(&plain) {
                let error =
                    (ours - plain).abs().max().double_value(&[]) / plain.abs().max().double_value(&[]);
                assert!(error < 1e-2, "{side}: {error}");
            }
        }
    }

    #[test]
    fn what_is_settled_says_what_it_said_and_has_the_statistics_of_what_it_sees() {
        tch::manual_seed(5);
        let shape: Shape = "//8/16x2".parse().unwrap();
        let random = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu));
        let folded: Vec<_> = [[8, 3, 7, 7], [16, 8, 3, 3], [16, 16, 3, 3]]
            .map(|size: [i64; 4]| (random(&size) * 0.2, random(&size[..1])))
            .into();
        let error = shape.unfold(&folded[..2]).unwrap_err();
        assert!(error.contains("2 convolutions, and //8/16x2 3"), "{error}");
        let built = || {
            let vs = nn::VarStore::new(Device::Cpu);
            let encoder = Backbone::Dense(shape).at(32).build(&vs.root());
            for (name, value) in shape.unfold(&folded).unwrap() {
                tch::no_grad(|| vs.variables()[&name].shallow_clone().copy_(&value));
            }
            (vs, encoder)
        };
        let crops = random(&[16, 3, 32, 32]);
        let embed = |encoder: &Encoder, phase| encoder.forward(&crops, phase, Precision::F32);
        let (_vs, settled) = built();
        let before = embed(&settled, Phase::Eval);
        let apart = |x: Tensor| ((x - &before).abs().max() / before.abs().max()).double_value(&[]);
        let (_vs, unsettled) = built();
        assert!(apart(embed(&unsettled, Phase::ALONE)) > 0.1);
        settled.settle(&crops);
        assert!(apart(embed(&settled, Phase::Eval)) < 1e-5);
        assert!(apart(embed(&settled, Phase::ALONE)) < 1e-4);
    }

    #[test]
    fn a_shape_is_read_as_it_is_written_and_costs_what_its_convolutions_cost() {
        let shape: Shape = "16/32x2+64".parse().unwrap();
        assert_eq!(shape.to_string(), "16/32x2+64");
        assert_eq!(shape.embedding_size(), 64);
        // 64 px: the stem gives 32 x 32, the others 16 x 16.
        let convolutions = 32 * 32 * 9 * 3 * 16 + 16 * 16 * 9 * (16 * 32 + 32 * 32 + 32 * 64);
        assert_eq!(shape.multiply_adds(64), convolutions);
        assert_eq!(shape.weights(), 9 * (3 * 16 + 16 * 32 + 32 * 32 + 32 * 64) + 16 + 32 + 32 + 64);
        let shape: Shape = "//16/32".parse().unwrap();
        assert_eq!(shape.to_string(), "//16/32");
        assert_eq!(shape.multiply_adds(64), 16 * 16 * 49 * 3 * 16 + 8 * 8 * 9 * 16 * 32);
        for text in [
            "//", "///16/32", "", "32", "32/", "/32", "32x2/64", "32/64x0", "32/64x17", "32/4", "32/1024",
            "32//64", "a/b", "32/+64",
        ] {
            let error = text.parse::<Shape>().unwrap_err();
            assert!(error.starts_with(&format!("'{text}' is no shape")), "{error}");
        }
        assert!("8/8/8/8/8/8/8".parse::<Shape>().is_err());
    }
}
