//! FaceCycle (Chang, Chen & Chiu 2021): an expression is a flow that leads to the neutral face, and back. Two pictures of a
//! person have the same neutral face, so that each is reconstructed from the other's.
//!
//! Its generator and one of its losses look through VGG-19 with ImageNet's weights. Without a file of these, the generator's
//! first layers are trained with the rest, and the perceptual loss is left out.

use std::path::PathBuf;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn, nn::Module};

use super::decoder::{l1_each, warp};
use super::vgg::{Until, Vgg};
use super::views::noise;
use super::{Build, Loss, Objective, Shown, Unit, View, Views};
use crate::descriptor::{IMAGENET_MEAN, IMAGENET_STD};
use crate::distributed::{DistributedError, Group};
use crate::nets::{
    ChannelAttention, Conv, Encoder, Layer, LeakyResidual, Phase, Precision, SLOPE, leaky_relu,
};

/// Settings of FaceCycle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaceCycleConfig {
    /// Channels of the generator; a power of two from 16 on.
    pub width: i64,
    /// Residual blocks of the generator.
    pub blocks: usize,
    /// Weight of the perceptual loss.
    pub perceptual: f64,
    /// Weight of the loss on faces that are not symmetric.
    pub symmetry: f64,
    /// Weight of structural similarity.
    pub ssim: f64,
    /// VGG-19's ImageNet weights, a safetensors file with torchvision's names; empty for none.
    pub vgg19: PathBuf,
}

impl Default for FaceCycleConfig {
    fn default() -> Self {
        Self { width: 256, blocks: 8, perceptual: 0.01, symmetry: 1.5, ssim: 5.0, vgg19: PathBuf::new() }
    }
}

const CODE: i64 = 256;

/// From the embedding to the expression's code, and from that to a flow.
#[derive(Debug)]
struct ToFlow {
    hidden: nn::Linear,
    code: nn::Linear,
    start: Conv,
    attention4: ChannelAttention,
    conv4: Conv,
    down8: Conv,
    attention8: ChannelAttention,
    conv8: Conv,
    blocks: [LeakyResidual; 2],
    down16: Conv,
    flow: Conv,
}

impl ToFlow {
    fn new(path: &nn::Path<'_>, embedding: i64) -> Self {
        let conv = |name: &str, c_in, c_out, kernel| Conv::new(&(path / name), c_in, c_out, kernel, 1);
        let flow = nn::ConvConfig {
            bias: false,
            ws_init: nn::Init::Randn { mean: 0.0, stdev: 0.05 },
            ..Default::default()
        };
        Self {
            hidden: nn::linear(path / "hidden", embedding, 512, Default::default()),
            code: nn::linear(path / "code", 512, CODE, Default::default()),
            start: conv("start", CODE, 16 * CODE, 1),
            attention4: ChannelAttention::new(&(path / "attention4"), CODE, 4),
            conv4: conv("conv4", CODE, CODE, 3),
            down8: conv("down8", CODE, 128, 3),
            attention8: ChannelAttention::new(&(path / "attention8"), 128, 8),
            conv8: conv("conv8", 128, 128, 3),
            blocks: ["block1", "block2"].map(|name| LeakyResidual::new(&(path / name), 128)),
            down16: conv("down16", 128, 64, 3),
            flow: Conv::with(&(path / "flow"), 64, 2, 1, flow),
        }
    }

    /// Flows `[N,2,16,16]` in `[-1,1]` to the neutral face, and those back.
    fn forward(&self, embedding: &Tensor, phase: Phase<'_>) -> (Tensor, Tensor) {
        let leaky = |x: Tensor| leaky_relu(&x, SLOPE);
        let code = self.code.forward(&leaky(self.hidden.forward(embedding))).tanh();
        let x = self.start.forward(&code.unsqueeze(-1).unsqueeze(-1));
        let x = self.attention4.forward(&leaky(x.pixel_shuffle(4)), phase);
        let x = leaky(self.conv4.forward(&x));
        let x = leaky(self.down8.forward(&enlarged(&x, 8)));
        let x = leaky(self.conv8.forward(&self.attention8.forward(&x, phase)));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(&x, phase));
        let flow = self.flow.forward(&leaky(self.down16.forward(&enlarged(&x, 16)))).tanh();
        let back = -warp(&flow, &flow, false).clamp(-1.0, 1.0);
        (flow, back)
    }
}

fn enlarged(x: &Tensor, side: i64) -> Tensor {
    x.upsample_bilinear2d([side, side], true, None, None)
}

/// Pictures, or features, sampled along a flow that is enlarged to their size.
fn along(pictures: &Tensor, flow: &Tensor) -> Tensor {
    warp(pictures, &enlarged(flow, pictures.size()[2]), false)
}

/// Doubles the side.
#[derive(Debug)]
struct Up {
    up: nn::ConvTranspose2D,
    conv: Conv,
}

impl Up {
    fn new(path: &nn::Path<'_>, c_in: i64, c_out: i64) -> Self {
        let config = nn::ConvTransposeConfig { stride: 2, padding: 1, ..Default::default() };
        Self {
            up: nn::conv_transpose2d(path / "up", c_in, c_out, 4, config),
            conv: Conv::new(&(path / "conv"), c_out, c_out, 3, 1),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let bias = self.up.bs.as_ref().map(|bias| bias.to_kind(x.kind()));
        let kernel = self.up.ws.to_kind(x.kind());
        let grown = x.conv_transpose2d(&kernel, bias, [2, 2], [1, 1], [0, 0], 1, [1, 1]).relu();
        self.conv.forward(&grown).relu()
    }
}

/// Makes faces of features that are warped, with noise where the warped ones have nothing to say.
#[derive(Debug)]
struct Generator {
    vgg: Vgg,
    /// Holds frozen weights.
    _frozen: Option<nn::VarStore>,
    noise: [[Conv; 2]; 2],
    reduce: Conv,
    blocks: Vec<LeakyResidual>,
    up: Up,
    up_again: Up,
    to_rgb: Conv,
    precision: Precision,
}

impl Generator {
    fn new(path: &nn::Path<'_>, config: &FaceCycleConfig, precision: Precision) -> anyhow::Result<Self> {
        let (width, half) = (config.width, config.width / 2);
        let frozen = (!config.vgg19.as_os_str().is_empty()).then(|| nn::VarStore::new(path.device()));
        let share = 256 / width;
        let vgg = match &frozen {
            Some(vs) => {
                let vgg = Vgg::new(&vs.root(), Until::Conv3_1, share);
                Vgg::load(vs, &config.vgg19)?;
                vgg
            }
            None => Vgg::new(path, Until::Conv3_1, share),
        };
        let conv = |name: &str, c_in, c_out| Conv::new(&(path / name), c_in, c_out, 3, 1);
        let noise = |name: &str, channels| {
            ["first", "second"].map(|layer| conv(&format!("{name}_{layer}"), channels, channels))
        };
        let block = |number| LeakyResidual::new(&(path / format!("block{number}")), width);
        Ok(Self {
            vgg,
            _frozen: frozen,
            noise: [noise("noise", width), noise("noise_fine", half)],
            reduce: conv("reduce", width, width),
            blocks: (0..config.blocks).map(block).collect(),
            up: Up::new(&(path / "up"), width, half),
            up_again: Up::new(&(path / "up_again"), width, half),
            to_rgb: conv("to_rgb", half, 3),
            precision,
        })
    }

    /// A face of pictures `[N,3,S,S]` with ImageNet's normalisation, along a flow; without one, the pictures again.
    fn forward(&self, pictures: &Tensor, flow: Option<Flow<'_>>, phase: Phase<'_>) -> Tensor {
        let features = self.vgg.features(&self.precision.convolvable(pictures));
        let [fine, coarse] = [&features.0[0], &features.0[1]];
        let (fine, coarse) = match flow {
            None => (fine.shallow_clone(), coarse.shallow_clone()),
            Some(Flow { flow, seeds, turn }) => {
                let deform = |x: &Tensor, convs: &[Conv; 2], part: u64| {
                    let whole = x.mean_dim([2, 3].as_slice(), true, None);
                    let noise = noise(&x.size(), seeds, part, x.device()).to_kind(x.kind());
                    let rest = convs.iter().fold(noise + whole, |x, conv| conv.forward(&x).relu());
                    // Positions have more digits than bfloat16.
                    let kind = if x.kind() == Kind::BFloat16 { Kind::Float } else { x.kind() };
                    along(&x.to_kind(kind), &flow.to_kind(kind)).to_kind(x.kind()) + rest
                };
                let coarse = deform(coarse, &self.noise[0], 2 * turn);
                (deform(fine, &self.noise[1], 2 * turn + 1), coarse)
            }
        };
        let x = self.reduce.forward(&coarse).relu();
        let x = self.blocks.iter().fold(x, |x, block| block.forward(&x, phase));
        let x = Tensor::cat(&[&fine, &self.up.forward(&x)], 1);
        self.to_rgb.forward(&self.up_again.forward(&x)).to_kind(pictures.kind())
    }
}

/// A flow to go along, and what noise follows from: the seeds of the tuples, and which turn of the cycle it is.
#[derive(Clone, Copy)]
struct Flow<'a> {
    flow: &'a Tensor,
    seeds: &'a [u64],
    turn: u64,
}

/// The whole of it.
#[derive(Debug)]
pub struct FaceCycle {
    encoder: Encoder,
    to_flow: ToFlow,
    generator: Generator,
    /// With the variables that it holds.
    perceptual: Option<(nn::VarStore, Vgg)>,
    unit: Unit,
    imagenet: Unit,
    config: FaceCycleConfig,
    precision: Precision,
}

/// What becomes of two frames of each person, first ones and then second ones, with ImageNet's normalisation.
struct Cycle {
    pictures: Tensor,
    /// Neutral faces by the generator, and by warping alone.
    neutral: Tensor,
    neutral_warped: Tensor,
    /// Reconstructed from the other frame's neutral face: by the generator; by warping what the generator made, and what
    /// warping made.
    generated: Tensor,
    warped: Tensor,
    warped_twice: Tensor,
    /// By the generator without any flow.
    plain: Tensor,
}

impl FaceCycle {
    /// Builds `encoder.*`, `to_flow.*` and `generator.*`.
    ///
    /// # Errors
    /// Names the file of weights that cannot be read.
    pub fn new(build: Build<'_>, config: &FaceCycleConfig) -> anyhow::Result<Self> {
        let root = build.vs.root();
        let encoder = build.architecture.build(&(&root / "encoder"));
        let to_flow = ToFlow::new(&(&root / "to_flow"), encoder.embedding_size());
        let generator = Generator::new(&(&root / "generator"), config, build.precision)?;
        let perceptual = if config.vgg19.as_os_str().is_empty() {
            None
        } else {
            let vs = nn::VarStore::new(build.vs.device());
            let vgg = Vgg::new(&vs.root(), Until::Conv4_1, 1);
            Vgg::load(&vs, &config.vgg19)?;
            Some((vs, vgg))
        };
        let imagenet = Build { normalisation: (IMAGENET_MEAN, IMAGENET_STD), ..build }.unit();
        Ok(Self {
            encoder,
            to_flow,
            generator,
            perceptual,
            unit: build.unit(),
            imagenet,
            config: config.clone(),
            precision: build.precision,
        })
    }

    /// Two frames of each person, and a seed for each one's noise.
    fn cycle(&self, first: &Tensor, second: &Tensor, seeds: &[u64], phase: Phase<'_>) -> Cycle {
        let both = Tensor::cat(&[first, second], 0);
        let (flow, back) = self.to_flow.forward(&self.encoder.forward(&both, phase, self.precision), phase);
        let pictures = self.imagenet.normalised(&self.unit.of(&both));
        let swapped = |x: &Tensor| {
            let halves = x.chunk(2, 0);
            Tensor::cat(&[&halves[1], &halves[0]], 0)
        };
        let along_flow = |flow, turn| Some(Flow { flow, seeds, turn });
        let neutral = self.generator.forward(&pictures, along_flow(&flow, 0), phase);
        let neutral_warped = along(&pictures, &flow);
        let other = swapped(&neutral);
        Cycle {
            generated: self.generator.forward(&other, along_flow(&back, 1), phase),
            warped: along(&other, &back),
            warped_twice: along(&swapped(&neutral_warped), &back),
            plain: self.generator.forward(&pictures, None, phase),
            pictures,
            neutral,
            neutral_warped,
        }
    }

    /// Of views; half of the second frames are the first ones mirrored, as the authors have it.
    fn cycle_of(&self, views: &Views, phase: Phase<'_>) -> Cycle {
        let mirrored: Vec<bool> =
            views.seeds.iter().map(|&seed| ChaCha8Rng::seed_from_u64(seed).random_bool(0.5)).collect();
        let mirrored = Tensor::from_slice(&mirrored).to_device(views.first().device()).view([-1, 1, 1, 1]);
        let second = views.first().flip([3]).where_self(&mirrored, views.second());
        self.cycle(views.first(), &second, &views.seeds, phase)
    }

    /// The pictures, and what is compared with them by what VGG-19 sees.
    #[cfg(test)]
    pub(super) fn made(&self, views: &Views) -> Vec<Tensor> {
        let cycle = self.cycle_of(views, Phase::ALONE);
        vec![cycle.pictures, cycle.neutral, cycle.warped, cycle.warped_twice, cycle.generated]
    }

    /// Differences of the features' Gram matrices (Gatys et al. 2016) over three layers.
    fn perceptual_loss(&self, cycle: &Cycle) -> Tensor {
        let Some((_, vgg)) = &self.perceptual else {
            return Tensor::zeros([], (cycle.pictures.kind(), cycle.pictures.device()));
        };
        let gram = |x: &Tensor| {
            let size = x.size();
            let rows = x.to_kind(Kind::Float).reshape([size[0], size[1], -1]);
            rows.bmm(&rows.transpose(1, 2)) / (size[2] * size[3]) as f64
        };
        let made = [&cycle.neutral, &cycle.warped, &cycle.warped_twice, &cycle.generated];
        let features = |pictures: &Tensor| vgg.features(&self.precision.convolvable(pictures)).0;
        let target = features(&cycle.pictures);
        let losses = made.into_iter().flat_map(|made| {
            let layers = features(made);
            let pairs = layers.iter().zip(&target);
            pairs
                .map(|(a, b)| (gram(a) - gram(b).detach()).square().mean(None::<Kind>) / 4.0)
                .collect::<Vec<_>>()
        });
        let losses: Vec<Tensor> = losses.collect();
        Tensor::stack(&losses, 0).sum(None::<Kind>)
    }
}

/// How far the left halves of pictures are from their right ones mirrored.
pub(super) fn asymmetry(pictures: &Tensor) -> Tensor {
    let half = pictures.size()[3] / 2;
    let right = pictures.narrow(3, pictures.size()[3] - half, half).flip([3]);
    (pictures.narrow(3, 0, half) - right).abs().mean(None::<Kind>)
}

/// Mean structural similarity (Wang et al. 2004, equation 13) of pictures `[N,C,H,W]`: windows of 11 px, a Gaussian of
/// deviation 1.5, constants for a range of 1; beyond the edges is 0.
pub(super) fn ssim(a: &Tensor, b: &Tensor) -> Tensor {
    const WINDOW: i64 = 11;
    const SIGMA: f64 = 1.5;
    const C1: f64 = 0.01 * 0.01;
    const C2: f64 = 0.03 * 0.03;
    let channels = a.size()[1];
    let offsets = Tensor::arange(WINDOW, (a.kind(), a.device())) - (WINDOW / 2) as f64;
    let line = (offsets.square() / (-2.0 * SIGMA * SIGMA)).exp();
    let line = &line / line.sum(None::<Kind>);
    let shape = |sides: [i64; 2]| {
        line.view([1, 1, sides[0], sides[1]]).expand([channels, 1, sides[0], sides[1]], false)
    };
    let blurred = |x: &Tensor| {
        let half = WINDOW / 2;
        let rows = x.conv2d(&shape([1, WINDOW]), None::<Tensor>, [1, 1], [0, half], [1, 1], channels);
        rows.conv2d(&shape([WINDOW, 1]), None::<Tensor>, [1, 1], [half, 0], [1, 1], channels)
    };
    let (mean_a, mean_b) = (blurred(a), blurred(b));
    let variance =
        |x: &Tensor, y: &Tensor, mean_x: &Tensor, mean_y: &Tensor| blurred(&(x * y)) - mean_x * mean_y;
    let (aa, bb) = (variance(a, a, &mean_a, &mean_a), variance(b, b, &mean_b, &mean_b));
    let ab = variance(a, b, &mean_a, &mean_b);
    let above = (&mean_a * &mean_b * 2.0 + C1) * (ab * 2.0 + C2);
    let below = (mean_a.square() + mean_b.square() + C1) * (aa + bb + C2);
    (above / below).mean(None::<Kind>)
}

impl Objective for FaceCycle {
    fn plan(&self) -> Vec<View> {
        vec![View::augmented(0, 0), View::augmented(1, 1)]
    }

    fn loss(&mut self, _pass: usize, views: &Views, group: &Group) -> Result<Loss, DistributedError> {
        let cycle = self.cycle_of(views, Phase::Train(group));
        let difference = |made: &Tensor| l1_each(made, &cycle.pictures).mean(None::<Kind>);
        let pixels = difference(&cycle.generated)
            + difference(&cycle.plain)
            + difference(&cycle.warped)
            + difference(&cycle.warped_twice) * 1.5;
        let unlike = |made: &Tensor| 1.0 - ssim(&cycle.pictures, made);
        let structure = unlike(&cycle.generated) + unlike(&cycle.plain) + unlike(&cycle.warped_twice) * 1.5;
        let symmetry = asymmetry(&cycle.neutral) + asymmetry(&cycle.neutral_warped) * 0.5;
        let perceptual = self.perceptual_loss(&cycle);
        let FaceCycleConfig { perceptual: a, symmetry: b, ssim: c, .. } = self.config;
        let parts = [&pixels, &structure, &symmetry, &perceptual].into_iter().map(Tensor::detach).collect();
        let total = pixels + structure * c + symmetry * b + perceptual * a;
        Ok(Loss { total, top1: None, parts })
    }

    fn joins_batches(&self, _pass: usize) -> bool {
        false
    }

    fn parts(&self, _pass: usize) -> &'static [&'static str] {
        &["pixels", "structure", "symmetry", "perceptual"]
    }

    fn show(&self, frames: &[Tensor]) -> Vec<Shown> {
        let count = frames[0].size()[0];
        let seeds: Vec<u64> = (0..count as u64).collect();
        let cycle = self.cycle(&frames[0], &frames[1], &seeds, Phase::Eval);
        let made = [
            ("picture", &cycle.pictures),
            ("neutral", &cycle.neutral),
            ("neutral, warped", &cycle.neutral_warped),
            ("from the other", &cycle.generated),
        ];
        made.map(|(name, made)| Shown::new(name, &self.imagenet.of(&made.narrow(0, 0, count)))).into()
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}
