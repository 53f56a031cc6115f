//! CIE Lab of sRGB under D65 (IEC 61966-2-1; CIE 15:2004), for split-brain autoencoders.

use tch::{Device, Kind, TchError, Tensor};

use crate::export::{GraphWriter, Value};

/// Linear sRGB to XYZ over the white of D65: rows of X, Y and Z.
const XYZ: [[f64; 3]; 3] = [
    [0.412_456_4 / 0.950_47, 0.357_576_1 / 0.950_47, 0.180_437_5 / 0.950_47],
    [0.212_672_9, 0.715_152_2, 0.072_175_0],
    [0.019_333_9 / 1.088_83, 0.119_192_0 / 1.088_83, 0.950_304_1 / 1.088_83],
];

/// L, a and b of the cube roots, each brought to about `[-1,1]`: `L / 50 - 1`, `a / 110`, `b / 110`.
const LAB: [[f64; 3]; 3] =
    [[0.0, 116.0 / 50.0, 0.0], [500.0 / 110.0, -500.0 / 110.0, 0.0], [0.0, 200.0 / 110.0, -200.0 / 110.0]];
const LAB_BIAS: [f64; 3] = [-16.0 / 50.0 - 1.0, 0.0, 0.0];

/// Where sRGB's curve and the cube root begin; both are straight below.
const SRGB_FOOT: f64 = 0.040_45;
const LAB_FOOT: f64 = 216.0 / 24_389.0;
const LAB_SLOPE: f64 = 24_389.0 / 27.0 / 116.0;
const LAB_SHIFT: f64 = 16.0 / 116.0;

fn matrix(rows: [[f64; 3]; 3], kind: Kind, device: Device) -> Tensor {
    Tensor::from_slice2(&rows).to_kind(kind).to_device(device).view([3, 3, 1, 1])
}

/// Lightness and colour of pictures `[N,3,H,W]` in `[0,1]`: `[N,3,H,W]` with `L / 50 - 1`, `a / 110` and `b / 110`.
pub(crate) fn scaled_lab(rgb: &Tensor) -> Tensor {
    let mix = |x: &Tensor, rows: [[f64; 3]; 3], bias: Option<&Tensor>| {
        x.conv2d(&matrix(rows, x.kind(), x.device()), bias, [1, 1], [0, 0], [1, 1], 1)
    };
    let rgb = rgb.clamp(0.0, 1.0);
    let curved = ((&rgb + 0.055) / 1.055).pow_tensor_scalar(2.4);
    let linear = curved.where_self(&rgb.gt(SRGB_FOOT), &(&rgb / 12.92));
    let xyz = mix(&linear, XYZ, None);
    let root = xyz.clamp_min(LAB_FOOT).pow_tensor_scalar(1.0 / 3.0);
    let f = root.where_self(&xyz.gt(LAB_FOOT), &(&xyz * LAB_SLOPE + LAB_SHIFT));
    let bias = Tensor::from_slice(&LAB_BIAS).to_kind(f.kind()).to_device(f.device());
    mix(&f, LAB, Some(&bias))
}

/// Writes [`scaled_lab`].
///
/// # Errors
/// Those of reading the constants.
pub(crate) fn write_scaled_lab(graph: &mut GraphWriter, rgb: Value) -> Result<Value, TchError> {
    let none = Tensor::zeros([3], (Kind::Float, Device::Cpu));
    // max(x, foot) has the curve where it applies; where it does not, the straight line is what counts.
    let curve = |graph: &mut GraphWriter, x: Value, foot: f64, line: (f64, f64), power: (f64, f64, f64)| {
        let (shift, scale, exponent) = power;
        let above = graph.max_with(x.clone(), foot)?;
        let above = graph.affine(above, 1.0 / scale, shift / scale)?;
        let above = graph.power(above, exponent)?;
        let below = graph.affine(x.clone(), line.0, line.1)?;
        graph.where_greater(x, foot, above, below)
    };
    let linear = curve(graph, rgb, SRGB_FOOT, (1.0 / 12.92, 0.0), (0.055, 1.055, 2.4))?;
    let xyz = graph.conv(linear, &matrix(XYZ, Kind::Float, Device::Cpu), &none, 1, 0)?;
    let f = curve(graph, xyz, LAB_FOOT, (LAB_SLOPE, LAB_SHIFT), (0.0, 1.0, 1.0 / 3.0))?;
    let bias = Tensor::from_slice(&LAB_BIAS).to_kind(Kind::Float);
    graph.conv(f, &matrix(LAB, Kind::Float, Device::Cpu), &bias, 1, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_colours_have_their_published_lab() {
        // Lindbloom's calculator, D65: red, green, blue, white, mid grey (119), near black (5 of 255).
        let known = [
            ([255.0, 0.0, 0.0], [53.24, 80.09, 67.20]),
            ([0.0, 255.0, 0.0], [87.73, -86.18, 83.18]),
            ([0.0, 0.0, 255.0], [32.30, 79.19, -107.86]),
            ([255.0, 255.0, 255.0], [100.0, 0.0, 0.0]),
            ([119.0, 119.0, 119.0], [50.03, 0.0, 0.0]),
            ([5.0, 5.0, 5.0], [1.37, 0.0, 0.0]),
        ];
        for (rgb, lab) in known {
            let pixel = Tensor::from_slice(&rgb.map(|v: f64| v / 255.0)).view([1, 3, 1, 1]);
            let ours = scaled_lab(&pixel);
            let at = |i| ours.double_value(&[0, i, 0, 0]);
            let ours = [(at(0) + 1.0) * 50.0, at(1) * 110.0, at(2) * 110.0];
            for (a, b) in ours.iter().zip(lab) {
                assert!((a - b).abs() < 0.03, "{rgb:?}: {ours:?} {lab:?}");
            }
        }
    }
}
