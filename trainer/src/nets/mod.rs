//! Networks that turn face crops into embeddings, written so that each can also write itself as ONNX.

mod edge;
mod heads;
mod layers;
mod resnet;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn, nn::ModuleT};

pub use heads::{After, Mlp};
pub use layers::{Layer, RepVgg, Stem};

use crate::distributed::{Group, sync_batch_norm};
use crate::export::{GraphWriter, Value};

/// The architecture of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Backbone {
    /// The device's encoder: re-parameterised dense convolutions, 256 values, 1.6 M folded weights.
    Edge,
    /// ResNet-18 (He et al. 2016), 512 values.
    #[value(name = "resnet18")]
    #[serde(rename = "resnet18")]
    Resnet18,
    /// ResNet-34 (He et al. 2016), 512 values.
    #[value(name = "resnet34")]
    #[serde(rename = "resnet34")]
    Resnet34,
    /// ResNet-50 (He et al. 2016), 2048 values.
    #[value(name = "resnet50")]
    #[serde(rename = "resnet50")]
    Resnet50,
}

impl Backbone {
    /// Its name, as on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Resnet18 => "resnet18",
            Self::Resnet34 => "resnet34",
            Self::Resnet50 => "resnet50",
        }
    }

    /// Values of its embedding.
    pub const fn embedding_size(self) -> i64 {
        match self {
            Self::Edge => edge::EMBEDDING_SIZE,
            Self::Resnet18 | Self::Resnet34 => resnet::BASIC_EMBEDDING,
            Self::Resnet50 => resnet::BOTTLENECK_EMBEDDING,
        }
    }

    /// Builds the encoder with fresh weights under `path`.
    pub fn build(self, path: &nn::Path<'_>) -> Encoder {
        let layers = match self {
            Self::Edge => edge::layers(path),
            Self::Resnet18 => resnet::basic(path, resnet::RESNET18),
            Self::Resnet34 => resnet::basic(path, resnet::RESNET34),
            Self::Resnet50 => resnet::bottleneck(path, resnet::RESNET50),
        };
        Encoder { backbone: self, layers }
    }
}

/// The number format that convolutions are computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 on GPUs and on CPUs that have instructions for it, else f32.
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
            Self::Auto => pictures.device().is_cuda() || cpu_has_bf16(),
            Self::F32 => false,
            Self::Bf16 => true,
        };
        let kind = if bf16 { Kind::BFloat16 } else { pictures.kind() };
        layers::channels_last(&pictures.to_kind(kind))
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_has_bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_has_bf16() -> bool {
    false
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

fn batch_normalised(bn: &nn::BatchNorm, x: &Tensor, phase: Phase<'_>) -> Tensor {
    match phase {
        Phase::Eval => bn.forward_t(x, false),
        Phase::Train(group) => sync_batch_norm(x, bn, NORM_MOMENTUM, NORM_EPS, group),
    }
}

/// An encoder: normalised crops `[N,3,S,S]` in, embeddings `[N,D]` out.
#[derive(Debug)]
pub struct Encoder {
    backbone: Backbone,
    layers: Vec<Box<dyn Layer>>,
}

impl Encoder {
    /// Its architecture.
    pub fn backbone(&self) -> Backbone {
        self.backbone
    }

    /// Embeds normalised crops. Convolutions are computed in `precision`; weights, statistics and the embedding are f32 in any case.
    pub fn forward(&self, crops: &Tensor, phase: Phase<'_>, precision: Precision) -> Tensor {
        let x = precision.convolvable(crops);
        self.layers.iter().fold(x, |x, layer| layer.forward(&x, phase)).to_kind(crops.kind())
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
    use super::*;
    use tch::Device;

    fn weights(backbone: Backbone) -> (nn::VarStore, Encoder, i64) {
        let vs = nn::VarStore::new(Device::Cpu);
        let encoder = backbone.build(&vs.root());
        let count = vs.trainable_variables().iter().map(|v| v.numel() as i64).sum();
        (vs, encoder, count)
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
            let (_vs, encoder, count) = weights(backbone);
            assert_eq!(count, total - 1000 * (embedding + 1), "{backbone:?}");
            let crops = Tensor::zeros([2, 3, 64, 64], (Kind::Float, Device::Cpu));
            assert_eq!(encoder.forward(&crops, Phase::Eval, Precision::F32).size(), [2, embedding]);
        }
    }

    #[test]
    fn bf16_stays_close_to_f32_and_its_gradients_reach_the_f32_weights() {
        tch::manual_seed(1);
        let (vs, encoder, _) = weights(Backbone::Edge);
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
        let (_vs, encoder, _) = weights(Backbone::Edge);
        let out = encoder.forward(
            &Tensor::zeros([2, 3, 64, 64], (Kind::Float, Device::Cpu)),
            Phase::Eval,
            Precision::F32,
        );
        assert_eq!(out.size(), [2, Backbone::Edge.embedding_size()]);
    }
}
