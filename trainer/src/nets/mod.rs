//! Networks that turn face crops into embeddings, written so that each can also write itself as ONNX.

mod colour;
mod dense;
mod edge;
mod fabnet;
mod heads;
mod layers;
mod pcl;
mod plain;
mod resnet;

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn, nn::ModuleT, no_grad};

pub use dense::Shape;
pub use heads::{After, Mlp};
pub use layers::{Layer, RepVgg, Stem};
pub use pcl::PclFeatures;

pub(crate) use colour::scaled_lab;
pub(crate) use layers::{Conv, batch_norm};
pub(crate) use pcl::{CODE_CHANNELS, branch, code_side};
pub(crate) use plain::{ChannelAttention, LeakyResidual, SLOPE, leaky_relu};

use crate::distributed::{Group, sync_batch_norm};
use crate::export::{GraphWriter, Value};

/// The architecture of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Backbone {
    /// The device's encoder: re-parameterised dense convolutions, 256 values, 1.6 M folded weights.
    Edge,
    /// ResNet-18 (He et al. 2016), 512 values.
    Resnet18,
    /// ResNet-34 (He et al. 2016), 512 values.
    Resnet34,
    /// ResNet-50 (He et al. 2016), 2048 values.
    Resnet50,
    /// PCL's 16-layer network up to its two branches (Liu et al. 2023), a map of 128 channels: 2048 values at 64 px.
    Pcl,
    /// FaceCycle's 16-layer network (Chang, Chen & Chiu 2021), a map of 128 channels: 2048 values at 64 px.
    FaceCycle,
    /// FAb-Net's encoder (Wiles et al. 2018), 256 values; eight layers at 256 px, one fewer for each halving.
    FabNet,
    /// Two of FAb-Net's encoders of half the width, of lightness and of colour (Zhang et al. 2017), 256 values.
    SplitBrain,
    /// A device's encoder of this shape; it sees lightness alone.
    Dense(Shape),
}

impl Backbone {
    /// Those that are known by a name.
    const NAMED: [(&'static str, Self); 8] = [
        ("edge", Self::Edge),
        ("resnet18", Self::Resnet18),
        ("resnet34", Self::Resnet34),
        ("resnet50", Self::Resnet50),
        ("pcl", Self::Pcl),
        ("facecycle", Self::FaceCycle),
        ("fabnet", Self::FabNet),
        ("splitbrain", Self::SplitBrain),
    ];

    /// With an input of so many pixels a side.
    pub const fn at(self, side_px: u32) -> Architecture {
        Architecture { backbone: self, side_px }
    }

    /// The normalisation that it needs, as mean and deviation a channel, where it needs a particular one.
    pub const fn own_normalisation(self) -> Option<([f32; 3], [f32; 3])> {
        match self {
            // Lab is computed of colours as they are.
            Self::SplitBrain => Some(([0.0; 3], [1.0; 3])),
            _ => None,
        }
    }
}

impl fmt::Display for Backbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense(shape) => shape.fmt(f),
            named => {
                let name = Self::NAMED.iter().find(|(_, backbone)| backbone == named);
                f.write_str(name.map_or("", |(name, _)| name))
            }
        }
    }
}

impl FromStr for Backbone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, backbone)) = Self::NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(*backbone);
        }
        if text.contains(['/', '+']) {
            return Ok(Self::Dense(text.parse()?));
        }
        let names: Vec<_> = Self::NAMED.iter().map(|(name, _)| *name).collect();
        Err(format!(
            "'{text}' is no backbone: there are {}, and shapes of dense encoders such as 32/64x3/128x2+256x2",
            names.join(", ")
        ))
    }
}

impl TryFrom<String> for Backbone {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Backbone> for String {
    fn from(backbone: Backbone) -> Self {
        backbone.to_string()
    }
}

/// A backbone and the side of its input in pixels: what decides every weight's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// The backbone.
    pub backbone: Backbone,
    /// Side of the input in pixels.
    pub side_px: u32,
}

impl Architecture {
    /// Values of its embedding.
    pub fn embedding_size(self) -> i64 {
        match self.backbone {
            Backbone::Edge => edge::EMBEDDING_SIZE,
            Backbone::Resnet18 | Backbone::Resnet34 => resnet::BASIC_EMBEDDING,
            Backbone::Resnet50 => resnet::BOTTLENECK_EMBEDDING,
            Backbone::Pcl | Backbone::FaceCycle => CODE_CHANNELS * code_side(self.side_px).pow(2),
            Backbone::FabNet | Backbone::SplitBrain => fabnet::EMBEDDING_SIZE,
            Backbone::Dense(shape) => shape.embedding_size(),
        }
    }

    /// Why the backbone cannot have this input, in words.
    pub fn problem(self) -> Option<String> {
        match self.backbone {
            Backbone::FabNet | Backbone::SplitBrain => fabnet::problem(self.side_px),
            _ => None,
        }
    }

    /// Builds the encoder with fresh weights under `path`.
    pub fn build(self, path: &nn::Path<'_>) -> Encoder {
        let layers = match self.backbone {
            Backbone::Edge => edge::layers(path),
            Backbone::Resnet18 => resnet::basic(path, resnet::RESNET18),
            Backbone::Resnet34 => resnet::basic(path, resnet::RESNET34),
            Backbone::Resnet50 => resnet::bottleneck(path, resnet::RESNET50),
            Backbone::Pcl => pcl::pcl(path, self.side_px),
            Backbone::FaceCycle => pcl::facecycle(path, self.side_px),
            Backbone::FabNet => fabnet::layers(path, self.side_px),
            Backbone::SplitBrain => fabnet::split_brain(path, self.side_px),
            Backbone::Dense(shape) => shape.layers(path),
        };
        Encoder { architecture: self, layers }
    }
}

/// The number format that convolutions are computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 on GPUs and on CPUs that are faster in it, else f32.
    /// A run that goes on elsewhere has to name what it began with, to be the run that it was.
    #[default]
    Auto,
    /// 32-bit floats: the format of the weights.
    F32,
    /// bfloat16, with f32 master weights.
    Bf16,
}

impl Precision {
    /// `[N,C,H,W]` pictures as convolutions take them: in this format, channels innermost in memory.
    pub(crate) fn convolvable(self, pictures: &Tensor) -> Tensor {
        let bf16 = match self {
            Self::Auto => pictures.device().is_cuda() || cpu_has_fast_bf16(),
            Self::F32 => false,
            Self::Bf16 => true,
        };
        let kind = if bf16 { Kind::BFloat16 } else { pictures.kind() };
        layers::channels_last(&pictures.to_kind(kind))
    }
}

/// Whether this processor, by what Linux says of it, multiplies in bf16 faster than in f32: by tiles (AMX), or by AVX-512 in AMD's
/// hands, which by AMD's tables does twice as much at a time (not measured here). Intel's AVX-512 does no more at a time in bf16
/// than in f32, and converting costs: of ResNet-18 at 112 px it trained 51 images/s against 62, of `edge` at 64 px 327 against
/// 371 (`trainer bench`).
fn cpu_has_fast_bf16() -> bool {
    static FAST: LazyLock<bool> = LazyLock::new(|| {
        let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        fast_in_bf16(&told)
    });
    *FAST
}

fn fast_in_bf16(cpuinfo: &str) -> bool {
    let has = |word: &str| cpuinfo.split_ascii_whitespace().any(|told| told == word);
    has("amx_bf16") || has("avx512_bf16") && has("AuthenticAMD")
}

/// Which statistics batch normalisation uses.
#[derive(Clone, Copy, Debug)]
pub enum Phase<'a> {
    /// The running ones, which stay as they are.
    Eval,
    /// Those of the batches of all processes of a group; the running ones follow them.
    Train(&'a Group),
}

static ALONE: Group = Group::single();

impl Phase<'static> {
    /// Training in this process alone.
    pub const ALONE: Self = Self::Train(&ALONE);
}

/// What batch normalisation's running statistics move by, and what keeps it from dividing by 0: PyTorch's defaults.
const NORM_MOMENTUM: f64 = 0.1;
const NORM_EPS: f64 = 1e-5;

pub(crate) fn batch_normalised(bn: &nn::BatchNorm, x: &Tensor, phase: Phase<'_>) -> Tensor {
    match phase {
        Phase::Eval => bn.forward_t(x, false),
        Phase::Train(group) => sync_batch_norm(x, bn, NORM_MOMENTUM, NORM_EPS, group),
    }
}

/// An encoder: normalised crops `[N,3,S,S]` in, embeddings `[N,D]` out.
#[derive(Debug)]
pub struct Encoder {
    architecture: Architecture,
    layers: Vec<Box<dyn Layer>>,
}

impl Encoder {
    /// PCL's backbone under `root/encoder`, followed by those of its branches, `root/face` and `root/pose`, that the features are of.
    pub fn pcl(root: &nn::Path<'_>, side_px: u32, features: PclFeatures) -> Self {
        Self { architecture: Backbone::Pcl.at(side_px), layers: pcl::with_branches(root, side_px, features) }
    }

    /// Its architecture.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Values of its embedding.
    pub fn embedding_size(&self) -> i64 {
        self.architecture.embedding_size()
    }

    /// Embeds normalised crops. Convolutions are computed in `precision`; weights, statistics and the embedding are f32 in any case.
    pub fn forward(&self, crops: &Tensor, phase: Phase<'_>, precision: Precision) -> Tensor {
        let x = precision.convolvable(crops);
        self.layers.iter().fold(x, |x, layer| layer.forward(&x, phase)).to_kind(crops.kind())
    }

    /// Has batch normalisation know what these crops are like, every embedding staying as it is
    /// ([`Layer::settle`]).
    pub fn settle(&self, crops: &Tensor) {
        no_grad(|| {
            let mut x = Precision::F32.convolvable(crops);
            for layer in &self.layers {
                layer.settle(&x);
                x = layer.forward(&x, Phase::Eval);
            }
        });
    }

    /// The last map of at least so many positions a side that normalised crops go through, `[N,C,H,W]` f32 without gradient, and
    /// how many layers gave it. `None` where there is no such map.
    pub fn last_map(&self, crops: &Tensor, least_side: i64, precision: Precision) -> Option<(Tensor, usize)> {
        let mut x = precision.convolvable(crops);
        let mut last = None;
        for (layers, layer) in (1..).zip(&self.layers) {
            x = no_grad(|| layer.forward(&x, Phase::Eval));
            if x.dim() == 4 && x.size()[2] >= least_side {
                last = Some((x.to_kind(Kind::Float), layers));
            }
        }
        last
    }

    /// The embeddings `[N,D]` of what so many layers gave.
    pub fn after(&self, layers: usize, map: &Tensor, precision: Precision) -> Tensor {
        let rest = self.layers.iter().skip(layers);
        rest.fold(precision.convolvable(map), |x, layer| layer.forward(&x, Phase::Eval)).to_kind(map.kind())
    }

    /// Writes the encoder's nodes, batch normalisation folded, and returns the embedding's name in the graph.
    ///
    /// # Errors
    /// Those of reading the weights.
    pub fn write(&self, graph: &mut GraphWriter, crops: Value) -> Result<Value, tch::TchError> {
        self.layers.iter().try_fold(crops, |x, layer| layer.write(graph, x))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::Device;

    fn weights(architecture: Architecture) -> (nn::VarStore, Encoder, i64) {
        let vs = nn::VarStore::new(Device::Cpu);
        let encoder = architecture.build(&vs.root());
        let count = vs.trainable_variables().iter().map(|v| v.numel() as i64).sum();
        (vs, encoder, count)
    }

    fn embed(encoder: &Encoder) -> Vec<i64> {
        let side = i64::from(encoder.architecture().side_px);
        let crops = Tensor::zeros([2, 3, side, side], (Kind::Float, Device::Cpu));
        encoder.forward(&crops, Phase::Eval, Precision::F32).size()
    }

    #[test]
    fn bfloat16_is_for_processors_that_gain_by_it() {
        let told = |vendor: &str, flags: &str| {
            format!("processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags} sse\n")
        };
        assert!(fast_in_bf16(&told("GenuineIntel", "avx512_bf16 amx_bf16 amx_tile")));
        assert!(fast_in_bf16(&told("AuthenticAMD", "avx512_bf16")));
        assert!(!fast_in_bf16(&told("GenuineIntel", "avx512_bf16")));
        assert!(!fast_in_bf16(&told("AuthenticAMD", "avx512f")));
        assert!(!fast_in_bf16(""));
    }

    #[test]
    fn resnets_have_the_published_weights_and_sizes() {
        // torchvision's figures, less the classifier's 1000 rows and biases.
        let published = [
            (Backbone::Resnet18, 11_689_512, 512),
            (Backbone::Resnet34, 21_797_672, 512),
            (Backbone::Resnet50, 25_557_032, 2048),
        ];
        for (backbone, total, embedding) in published {
            let (_vs, encoder, count) = weights(backbone.at(64));
            assert_eq!(count, total - 1000 * (embedding + 1), "{backbone:?}");
            assert_eq!(embed(&encoder), [2, embedding]);
        }
    }

    /// Weights and biases of a convolution.
    const fn conv(c_in: i64, c_out: i64, kernel: i64) -> i64 {
        c_out * (c_in * kernel * kernel + 1)
    }

    #[test]
    fn the_backbones_of_the_other_papers_have_their_layers_and_sizes() {
        // PCL: 2048 values at 64 px (section 3.1). Its backbone has FaceCycle's layers.
        let attention = |c| 3 * conv(c, c, 1);
        let trunk = conv(3, 64, 7)
            + 3 * conv(64, 64, 3)
            + attention(64)
            + conv(64, 128, 3)
            + attention(128)
            + 7 * conv(128, 128, 3);
        let (_vs, encoder, count) = weights(Backbone::Pcl.at(64));
        assert_eq!(count, trunk + conv(128, 256, 3) + conv(256, 128, 3));
        assert_eq!(embed(&encoder), [2, 2048]);
        // 100 px, as PCL probes FER: 7 x 7 x 128.
        assert_eq!(embed(&weights(Backbone::Pcl.at(100)).1), [2, 6272]);
        let (_vs, encoder, count) = weights(Backbone::FaceCycle.at(64));
        let tail = conv(128, 256, 3) + 2 * conv(256, 256, 3) + conv(256, 128, 3);
        assert_eq!(count, trunk + tail);
        assert_eq!(embed(&encoder), [2, 2048]);
        // FAb-Net: eight 4x4 convolutions, batch normalisation on the six in the middle (whose biases it replaces by two
        // values a channel).
        let widths = [3, 32, 64, 128, 256, 256, 256, 256, 256];
        let plain: i64 = widths.windows(2).map(|w| conv(w[0], w[1], 4)).sum();
        let (_vs, encoder, count) = weights(Backbone::FabNet.at(256));
        assert_eq!(count, plain + widths[2..8].iter().sum::<i64>());
        assert_eq!(embed(&encoder), [2, 256]);
        for side in [16, 32, 64, 128] {
            assert_eq!(embed(&weights(Backbone::FabNet.at(side)).1), [2, 256]);
            assert_eq!(embed(&weights(Backbone::SplitBrain.at(side)).1), [2, 256]);
        }
        assert!(Backbone::FabNet.at(96).problem().unwrap().contains("side_px = 96"));
        assert_eq!(Backbone::Pcl.at(96).problem(), None);
    }

    #[test]
    fn resnet34_costs_what_its_paper_says() {
        // He et al. 2016, table 1: 3.6 billion multiply-adds at 224 px; 3.68 with the projections of its shortcuts.
        let (vs, _, _) = weights(Backbone::Resnet34.at(224));
        let side_after = |name: &str| match name {
            "stem.conv.weight" => 112,
            _ if name.starts_with("stage0") => 56,
            _ if name.starts_with("stage1") => 28,
            _ if name.starts_with("stage2") => 14,
            _ => 7i64,
        };
        let cost: i64 = vs
            .variables()
            .iter()
            .filter(|(name, _)| name.ends_with("conv.weight"))
            .map(|(name, kernel)| kernel.numel() as i64 * side_after(name).pow(2))
            .sum();
        assert!((cost as f64 / 1e9 - 3.67).abs() < 0.02, "{cost}");
    }

    #[test]
    #[allow(clippy::needless_range_loop)]
    fn channel_attention_is_its_formula() {
        tch::manual_seed(5);
        let mut vs = nn::VarStore::new(Device::Cpu);
        let attention = ChannelAttention::new(&vs.root(), 3, 2);
        vs.double();
        let x = Tensor::randn([1, 3, 2, 2], (Kind::Double, Device::Cpu));
        let ours = attention.forward(&x, Phase::Eval);
        let at = |t: &Tensor, c: usize, p: usize| t.double_value(&[0, c as i64, p as i64 / 2, p as i64 % 2]);
        let variables = vs.variables();
        let map = |name: &str| -> Vec<Vec<f64>> {
            let (w, b) = (&variables[&format!("{name}.weight")], &variables[&format!("{name}.bias")]);
            let value = |o: usize, p: usize| {
                let sum: f64 =
                    (0..3).map(|i| w.double_value(&[o as i64, i as i64, 0, 0]) * at(&x, i, p)).sum();
                sum + b.double_value(&[o as i64])
            };
            (0..3).map(|o| (0..4).map(|p| value(o, p)).collect()).collect()
        };
        let (g, theta, phi) = (map("g"), map("theta"), map("phi"));
        for c in 0..3 {
            for p in 0..4 {
                let mut attended = 0.0;
                for k in 0..3 {
                    let over_positions: f64 = (0..4).map(|q| theta[k][q].exp()).sum();
                    let similarity: f64 =
                        (0..4).map(|q| phi[c][q] * theta[k][q].exp() / over_positions).sum();
                    let over_channels: f64 = (0..3).map(|j| g[j][p].exp()).sum();
                    attended += similarity * g[k][p].exp() / over_channels;
                }
                let sum = at(&x, c, p) + attended;
                let expected = if sum > 0.0 { sum } else { 0.1 * sum };
                assert!((at(&ours, c, p) - expected).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn bf16_stays_close_to_f32_and_its_gradients_reach_the_f32_weights() {
        tch::manual_seed(1);
        let (vs, encoder, _) = weights(Backbone::Edge.at(64));
        let crops = Tensor::randn([8, 3, 64, 64], (Kind::Float, Device::Cpu));
        let embed = |precision| encoder.forward(&crops, Phase::ALONE, precision);
        let (full, half) = (embed(Precision::F32), embed(Precision::Bf16));
        let error = (&full - &half).norm().double_value(&[]) / full.norm().double_value(&[]);
        assert!(error > 0.0 && error < 0.05, "relative difference {error}");
        half.square().mean(None).backward();
        for (name, variable) in vs.variables().iter().filter(|(_, v)| v.requires_grad()) {
            assert_eq!(variable.kind(), Kind::Float, "{name}");
            assert!(variable.grad().abs().sum(None).double_value(&[]) > 0.0, "{name} has no gradient");
        }
    }

    #[test]
    fn the_edge_encoder_gives_its_stated_size() {
        let (_vs, encoder, _) = weights(Backbone::Edge.at(64));
        assert_eq!(embed(&encoder), [2, encoder.embedding_size()]);
    }
}
