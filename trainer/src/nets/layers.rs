//! The parts that encoders are made of.

use std::fmt::Debug;

use tch::{Kind, TchError, Tensor, nn, no_grad};

use super::{NORM_EPS, Phase, batch_normalised};
use crate::export::{GraphWriter, Value};

/// A part of an encoder that computes and that can write itself, folded, into an ONNX graph.
pub trait Layer: Debug {
    /// Computes; `phase` tells batch normalisation which statistics to use.
    fn forward(&self, x: &Tensor, phase: Phase<'_>) -> Tensor;

    /// Writes the nodes that compute the same as `forward(x, Phase::Eval)`.
    ///
    /// # Errors
    /// Those of reading the weights.
    fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError>;

    /// Batch normalisation's statistics become those of `x`, its weights such that `forward(x, Phase::Eval)` stays what it was:
    /// what was folded once can be trained again.
    fn settle(&self, _x: &Tensor) {}
}

/// The same `[N,C,H,W]` tensor with its channels innermost in memory, the order that convolutions are fastest in.
pub(crate) fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// A convolution, its kernel channels innermost, computed in the number format of its input.
#[derive(Debug)]
pub(crate) struct Conv {
    conv: nn::Conv2D,
    stride: i64,
    padding: i64,
}

impl Conv {
    /// `c_in` to `c_out` channels, padded by half the kernel, with a bias; weights of deviation `sqrt(2 / (k^2 c_out))` (He et
    /// al. 2015, backward), no bias at first.
    pub(crate) fn new(path: &nn::Path<'_>, c_in: i64, c_out: i64, kernel: i64, stride: i64) -> Self {
        Self::padded(path, c_in, c_out, kernel, stride, kernel / 2)
    }

    /// The same with this padding.
    pub(crate) fn padded(
        path: &nn::Path<'_>,
        c_in: i64,
        c_out: i64,
        kernel: i64,
        stride: i64,
        padding: i64,
    ) -> Self {
        let stdev = (2.0 / (kernel * kernel * c_out) as f64).sqrt();
        let config = nn::ConvConfig {
            stride,
            padding,
            ws_init: nn::Init::Randn { mean: 0.0, stdev },
            bs_init: nn::Init::Const(0.0),
            ..Default::default()
        };
        Self::with(path, c_in, c_out, kernel, config)
    }

    /// With stride, padding, bias and first weights as `config` has them.
    pub(crate) fn with(
        path: &nn::Path<'_>,
        c_in: i64,
        c_out: i64,
        kernel: i64,
        config: nn::ConvConfig,
    ) -> Self {
        let mut conv = nn::conv2d(path, c_in, c_out, kernel, config);
        let strided = channels_last(&conv.ws.detach());
        no_grad(|| conv.ws.set_data(&strided));
        Self { conv, stride: config.stride, padding: config.padding }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        let kernel = self.conv.ws.to_kind(x.kind());
        let bias = self.conv.bs.as_ref().map(|bias| bias.to_kind(x.kind()));
        x.conv2d(&kernel, bias, stride, padding, [1, 1], 1)
    }

    pub(super) fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        let kernel = &self.conv.ws;
        let none = || Tensor::zeros([kernel.size()[0]], (Kind::Float, kernel.device()));
        let bias = self.conv.bs.as_ref().map_or_else(none, Tensor::shallow_clone);
        graph.conv(x, kernel, &bias, self.stride, self.padding)
    }
}

/// A convolution without bias and the batch normalisation after it.
#[derive(Debug)]
pub(super) struct ConvBn {
    conv: Conv,
    bn: nn::BatchNorm,
}

/// tch's default would draw the scale from uniform(0,1).
pub(crate) fn batch_norm(path: nn::Path<'_>, channels: i64) -> nn::BatchNorm {
    nn::batch_norm2d(
        path,
        channels,
        nn::BatchNormConfig { ws_init: nn::Init::Const(1.0), ..Default::default() },
    )
}

impl ConvBn {
    pub(super) fn new(path: &nn::Path<'_>, c_in: i64, c_out: i64, kernel: i64, stride: i64) -> Self {
        Self::padded(path, c_in, c_out, kernel, stride, kernel / 2)
    }

    pub(super) fn padded(
        path: &nn::Path<'_>,
        c_in: i64,
        c_out: i64,
        kernel: i64,
        stride: i64,
        padding: i64,
    ) -> Self {
        let config = nn::ConvConfig {
            stride,
            padding,
            bias: false,
            ws_init: nn::init::DEFAULT_KAIMING_NORMAL,
            ..Default::default()
        };
        let conv = Conv::with(&(path / "conv"), c_in, c_out, kernel, config);
        Self { conv, bn: batch_norm(path / "bn", c_out) }
    }

    pub(super) fn forward(&self, x: &Tensor, phase: Phase<'_>) -> Tensor {
        batch_normalised(&self.bn, &self.conv.forward(x), phase)
    }

    /// Kernel and bias of the one convolution that computes the same.
    fn fold(&self) -> (Tensor, Tensor) {
        let (scale, shift) = fold_batch_norm(&self.bn);
        (&self.conv.conv.ws * scale.view([-1, 1, 1, 1]), shift)
    }

    pub(super) fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        let (kernel, bias) = self.fold();
        graph.conv(x, &kernel, &bias, self.conv.stride, self.conv.padding)
    }
}

/// `bn(x) = scale x + shift` a channel, with the running statistics.
pub(super) fn fold_batch_norm(bn: &nn::BatchNorm) -> (Tensor, Tensor) {
    let inverse = (&bn.running_var + NORM_EPS).rsqrt();
    let scale = match &bn.ws {
        Some(ws) => ws * &inverse,
        None => inverse,
    };
    let shift = -&bn.running_mean * &scale;
    match &bn.bs {
        Some(bs) => (scale, shift + bs),
        None => (scale, shift),
    }
}

/// Convolution, batch normalisation, ReLU.
#[derive(Debug)]
pub(super) struct ConvBnRelu(pub(super) ConvBn);

impl Layer for ConvBnRelu {
    fn forward(&self, x: &Tensor, phase: Phase<'_>) -> Tensor {
        self.0.forward(x, phase).relu()
    }

    fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        let y = self.0.write(graph, x)?;
        Ok(graph.relu(y))
    }
}

/// The first layer of a network that must be fast: 7x7 in steps of 4, batch normalisation, ReLU. tract spends less on it
/// than on two 3x3 in steps of 2, whose inputs are large.
#[derive(Debug)]
pub struct Stem(ConvBnRelu);

impl Stem {
    /// Three to `c_out` channels.
    pub fn new(path: &nn::Path<'_>, c_out: i64) -> Self {
        Self(ConvBnRelu(ConvBn::new(path, 3, c_out, 7, 4)))
    }
}

impl Layer for Stem {
    fn forward(&self, x: &Tensor, phase: Phase<'_>) -> Tensor {
        self.0.forward(x, phase)
    }

    fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        self.0.write(graph, x)
    }
}

/// RepVGG's block (Ding et al. 2021): 3x3, 1x1 and, where shapes allow, identity branches, each with its batch
/// normalisation, summed and rectified. Written to ONNX it is a single 3x3 convolution.
#[derive(Debug)]
pub struct RepVgg {
    dense: ConvBn,
    point: ConvBn,
    identity: Option<nn::BatchNorm>,
    stride: i64,
}

impl RepVgg {
    /// `c_in` to `c_out` channels, every `stride`-th position.
    pub fn new(path: &nn::Path<'_>, c_in: i64, c_out: i64, stride: i64) -> Self {
        Self {
            dense: ConvBn::new(&(path / "dense"), c_in, c_out, 3, stride),
            point: ConvBn::new(&(path / "point"), c_in, c_out, 1, stride),
            identity: (c_in == c_out && stride == 1).then(|| batch_norm(path / "identity", c_out)),
            stride,
        }
    }
}

impl Layer for RepVgg {
    fn forward(&self, x: &Tensor, phase: Phase<'_>) -> Tensor {
        let sum = self.dense.forward(x, phase) + self.point.forward(x, phase);
        match &self.identity {
            Some(bn) => (sum + batch_normalised(bn, x, phase)).relu(),
            None => sum.relu(),
        }
    }

    fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        let (dense, dense_bias) = self.dense.fold();
        let (point, point_bias) = self.point.fold();
        let mut kernel = dense + point.constant_pad_nd([1, 1, 1, 1]);
        let mut bias = dense_bias + point_bias;
        if let Some(bn) = &self.identity {
            let (scale, shift) = fold_batch_norm(bn);
            let channels = scale.size1()?;
            let unit = Tensor::eye(channels, (Kind::Float, scale.device())).view([channels, channels, 1, 1]);
            kernel += (unit * scale.view([-1, 1, 1, 1])).constant_pad_nd([1, 1, 1, 1]);
            bias += shift;
        }
        let y = graph.conv(x, &kernel, &bias, self.stride, 1)?;
        Ok(graph.relu(y))
    }
}

/// ResNet's basic block (He et al. 2016): two 3x3 convolutions and a shortcut.
#[derive(Debug)]
pub(super) struct BasicBlock {
    first: ConvBn,
    second: ConvBn,
    shortcut: Option<ConvBn>,
}

impl BasicBlock {
    pub(super) fn new(path: &nn::Path<'_>, c_in: i64, c_out: i64, stride: i64) -> Self {
        Self {
            first: ConvBn::new(&(path / "first"), c_in, c_out, 3, stride),
            second: ConvBn::new(&(path / "second"), c_out, c_out, 3, 1),
            shortcut: (c_in != c_out || stride != 1)
                .then(|| ConvBn::new(&(path / "shortcut"), c_in, c_out, 1, stride)),
        }
    }
}

impl Layer for BasicBlock {
    fn forward(&self, x: &Tensor, phase: Phase<'_>) -> Tensor {
        let y = self.second.forward(&self.first.forward(x, phase).relu(), phase);
        match &self.shortcut {
            Some(shortcut) => (y + shortcut.forward(x, phase)).relu(),
            None => (y + x).relu(),
        }
    }

    fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        let y = self.first.write(graph, x.clone())?;
        let y = graph.relu(y);
        let y = self.second.write(graph, y)?;
        let shortcut = match &self.shortcut {
            Some(shortcut) => shortcut.write(graph, x)?,
            None => x,
        };
        let sum = graph.add(y, shortcut);
        Ok(graph.relu(sum))
    }
}

/// ResNet's bottleneck block (He et al. 2016): 1x1, 3x3 and 1x1 convolutions and a shortcut. The 3x3 takes the steps, as
/// torchvision's does, not the first 1x1 of the paper.
#[derive(Debug)]
pub(super) struct Bottleneck {
    reduce: ConvBn,
    middle: ConvBn,
    expand: ConvBn,
    shortcut: Option<ConvBn>,
}

impl Bottleneck {
    /// Output channels for each inner channel.
    pub(super) const EXPANSION: i64 = 4;

    pub(super) fn new(path: &nn::Path<'_>, c_in: i64, channels: i64, stride: i64) -> Self {
        let c_out = channels * Self::EXPANSION;
        Self {
            reduce: ConvBn::new(&(path / "reduce"), c_in, channels, 1, 1),
            middle: ConvBn::new(&(path / "middle"), channels, channels, 3, stride),
            expand: ConvBn::new(&(path / "expand"), channels, c_out, 1, 1),
            shortcut: (c_in != c_out || stride != 1)
                .then(|| ConvBn::new(&(path / "shortcut"), c_in, c_out, 1, stride)),
        }
    }
}

impl Layer for Bottleneck {
    fn forward(&self, x: &Tensor, phase: Phase<'_>) -> Tensor {
        let y = self.reduce.forward(x, phase).relu();
        let y = self.expand.forward(&self.middle.forward(&y, phase).relu(), phase);
        match &self.shortcut {
            Some(shortcut) => (y + shortcut.forward(x, phase)).relu(),
            None => (y + x).relu(),
        }
    }

    fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        let y = self.reduce.write(graph, x.clone())?;
        let y = graph.relu(y);
        let y = self.middle.write(graph, y)?;
        let y = graph.relu(y);
        let y = self.expand.write(graph, y)?;
        let shortcut = match &self.shortcut {
            Some(shortcut) => shortcut.write(graph, x)?,
            None => x,
        };
        let sum = graph.add(y, shortcut);
        Ok(graph.relu(sum))
    }
}

/// Max pooling, 3x3 in steps of 2.
#[derive(Debug)]
pub(super) struct MaxPool;

impl Layer for MaxPool {
    fn forward(&self, x: &Tensor, _phase: Phase<'_>) -> Tensor {
        x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)
    }

    fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        Ok(graph.max_pool(x, 3, 2, 1))
    }
}

/// The mean over all positions: `[N,C,H,W] -> [N,C]`.
#[derive(Debug)]
pub(super) struct GlobalAvgPool;

impl Layer for GlobalAvgPool {
    fn forward(&self, x: &Tensor, _phase: Phase<'_>) -> Tensor {
        x.mean_dim([2, 3].as_slice(), false, None)
    }

    fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        Ok(graph.global_average_pool(x))
    }
}
