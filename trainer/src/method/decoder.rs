//! Decoders that grow a vector into a picture: ReLU, bilinear doubling and a 3x3 convolution for each halving of an encoder.

use tch::{Kind, Tensor, nn};

use crate::nets::{Conv, Phase, Precision, batch_norm, batch_normalised};

#[derive(Debug)]
struct Doubling {
    conv: Conv,
    /// After all but the last.
    norm: Option<nn::BatchNorm>,
}

/// `[N,C]` to `[N,out,S,S]` in `[-1,1]`.
#[derive(Debug)]
pub(super) struct Decoder {
    doublings: Vec<Doubling>,
    precision: Precision,
}

impl Decoder {
    /// As many doublings as `side_px` needs, a power of two. `widths` are the channels after each for the largest input; the
    /// last one is `out`, smaller inputs do without the first ones, and larger ones repeat the first.
    pub(super) fn new(
        path: &nn::Path<'_>,
        c_in: i64,
        widths: &[i64],
        side_px: u32,
        precision: Precision,
    ) -> Self {
        let depth = side_px.ilog2() as usize;
        let first = widths.first().copied().unwrap_or(c_in);
        let repeated = std::iter::repeat_n(first, depth.saturating_sub(widths.len()));
        let widths = repeated.chain(widths[widths.len().saturating_sub(depth)..].iter().copied());
        let mut c_in = c_in;
        let doublings = widths.enumerate().map(|(number, c_out)| {
            let path = path / format!("layer{number}");
            let config = nn::ConvConfig { padding: 1, ..Default::default() };
            let conv = Conv::with(&(&path / "conv"), c_in, c_out, 3, config);
            let norm = (number + 1 < depth).then(|| batch_norm(&path / "bn", c_out));
            c_in = c_out;
            Doubling { conv, norm }
        });
        Self { doublings: doublings.collect(), precision }
    }

    /// Pictures, flows or maps of vectors `[N,C]`.
    pub(super) fn forward(&self, code: &Tensor, phase: Phase<'_>) -> Tensor {
        let kind = code.kind();
        let start = self.precision.convolvable(&code.unsqueeze(-1).unsqueeze(-1));
        let grown = self.doublings.iter().fold(start, |x, Doubling { conv, norm }| {
            let size = x.size();
            let x = x.relu().upsample_bilinear2d([2 * size[2], 2 * size[3]], false, None, None);
            let y = conv.forward(&x);
            match norm {
                Some(norm) => batch_normalised(norm, &y, phase),
                None => y,
            }
        });
        // A picture's last digits are lost in bfloat16.
        let grown = if grown.kind() == Kind::BFloat16 { grown.to_kind(kind) } else { grown };
        grown.tanh()
    }
}

/// Samples `pictures` `[N,C,H,W]` where `offsets` `[N,2,H,W]` lead to: each position's own place plus its offset, in shares
/// of half a side (Wiles et al. 2018, supplement 1.1). `bounded` keeps places within the picture; beyond it is 0.
pub(super) fn warp(pictures: &Tensor, offsets: &Tensor, bounded: bool) -> Tensor {
    let size = offsets.size();
    let places = |n: i64| {
        let options = (pictures.kind(), pictures.device());
        if n > 1 { Tensor::linspace(-1.0, 1.0, n, options) } else { Tensor::zeros([1], options) }
    };
    let (height, width) = (size[2], size[3]);
    let across = places(width).view([1, 1, width]).expand([1, height, width], false);
    let down = places(height).view([1, height, 1]).expand([1, height, width], false);
    let grid = Tensor::stack(&[across, down], -1) + offsets.to_kind(pictures.kind()).permute([0, 2, 3, 1]);
    let grid = if bounded { grid.clamp(-1.0, 1.0) } else { grid };
    const BILINEAR: i64 = 0;
    const ZEROS: i64 = 0;
    pictures.grid_sampler_2d(&grid, BILINEAR, ZEROS, true)
}

/// Mean absolute difference of each picture `[N,..]` from another: `[N]`.
pub(super) fn l1_each(a: &Tensor, b: &Tensor) -> Tensor {
    (a - b).abs().flatten(1, -1).mean_dim([1].as_slice(), false, None)
}
