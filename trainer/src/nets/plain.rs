//! Layers without batch normalisation, with biases and leaky ReLUs: what PCL's and FaceCycle's backbone is made of.

use tch::{Kind, TchError, Tensor, nn};

use super::Phase;
use super::layers::{Conv, Layer, channels_last};
use crate::export::{GraphWriter, Value};

/// `max(x, slope x)`.
pub(crate) fn leaky_relu(x: &Tensor, slope: f64) -> Tensor {
    x.maximum(&(x * slope))
}

/// Slope of the leaky ReLUs of PCL's and FaceCycle's backbone.
pub(crate) const SLOPE: f64 = 0.1;

/// A convolution and a leaky ReLU of slope 0.1.
#[derive(Debug)]
pub(crate) struct ConvLeaky(pub(crate) Conv);

impl Layer for ConvLeaky {
    fn forward(&self, x: &Tensor, _phase: Phase<'_>) -> Tensor {
        leaky_relu(&self.0.forward(x), SLOPE)
    }

    fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        let y = self.0.write(graph, x)?;
        Ok(graph.leaky_relu(y, SLOPE))
    }
}

/// FaceCycle's channel self-attention (Chang et al. 2021), which PCL has as well: with `theta`, `phi` and `g` 1x1 convolutions of
/// `x` as matrices `[C, HW]`, `leaky(x + phi softmax_HW(theta)^T softmax_C(g))`.
#[derive(Debug)]
pub(crate) struct ChannelAttention {
    g: Conv,
    theta: Conv,
    phi: Conv,
    channels: i64,
    side: i64,
}

impl ChannelAttention {
    /// Over maps of `channels` and `side` x `side` positions; the side is what an export writes.
    pub(crate) fn new(path: &nn::Path<'_>, channels: i64, side: i64) -> Self {
        let conv = |name: &str| Conv::new(&(path / name), channels, channels, 1, 1);
        Self { g: conv("g"), theta: conv("theta"), phi: conv("phi"), channels, side }
    }
}

impl Layer for ChannelAttention {
    fn forward(&self, x: &Tensor, _phase: Phase<'_>) -> Tensor {
        let size = x.size();
        // Sums over a thousand positions are not for bfloat16.
        let kind = if x.kind() == Kind::BFloat16 { Kind::Float } else { x.kind() };
        let rows = |conv: &Conv| conv.forward(x).to_kind(kind).reshape([size[0], self.channels, -1]);
        let positions = rows(&self.theta).softmax(-1, None::<Kind>);
        let similarity = rows(&self.phi).bmm(&positions.transpose(1, 2));
        let attention = similarity.bmm(&rows(&self.g).softmax(1, None::<Kind>));
        let attention = attention.view(size.as_slice()).to_kind(x.kind());
        leaky_relu(&channels_last(&(x + attention)), SLOPE)
    }

    fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        let mut rows = |conv: &Conv| {
            let y = conv.write(graph, x.clone())?;
            Ok::<_, TchError>(graph.reshape(y, &[0, self.channels, self.side * self.side]))
        };
        let (theta, phi, g) = (rows(&self.theta)?, rows(&self.phi)?, rows(&self.g)?);
        let positions = graph.softmax(theta, 2);
        let positions = graph.transpose(positions, &[0, 2, 1]);
        let similarity = graph.matmul(phi, positions);
        let over_channels = graph.softmax(g, 1);
        let attention = graph.matmul(similarity, over_channels);
        let attention = graph.reshape(attention, &[0, self.channels, self.side, self.side]);
        let sum = graph.add(x, attention);
        Ok(graph.leaky_relu(sum, SLOPE))
    }
}

/// Two 3x3 convolutions and the identity, leaky ReLUs in between and after.
#[derive(Debug)]
pub(crate) struct LeakyResidual {
    first: Conv,
    second: Conv,
}

impl LeakyResidual {
    pub(crate) fn new(path: &nn::Path<'_>, channels: i64) -> Self {
        let conv = |name: &str| Conv::new(&(path / name), channels, channels, 3, 1);
        Self { first: conv("first"), second: conv("second") }
    }
}

impl Layer for LeakyResidual {
    fn forward(&self, x: &Tensor, _phase: Phase<'_>) -> Tensor {
        let y = self.second.forward(&leaky_relu(&self.first.forward(x), SLOPE));
        leaky_relu(&(y + x), SLOPE)
    }

    fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        let y = self.first.write(graph, x.clone())?;
        let y = graph.leaky_relu(y, SLOPE);
        let y = self.second.write(graph, y)?;
        let sum = graph.add(y, x);
        Ok(graph.leaky_relu(sum, SLOPE))
    }
}

/// `[N,C,H,W] -> [N,C*H*W]`.
#[derive(Debug)]
pub(crate) struct Flatten;

impl Layer for Flatten {
    fn forward(&self, x: &Tensor, _phase: Phase<'_>) -> Tensor {
        x.reshape([x.size()[0], -1])
    }

    fn write(&self, graph: &mut GraphWriter, x: Value) -> Result<Value, TchError> {
        Ok(graph.flatten(x))
    }
}
