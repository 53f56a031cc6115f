//! The encoder on tract: aligned crops in, embeddings out.

use thiserror::Error;
use tract_onnx::prelude::TractError;

use crate::Bundle;
use crate::network::{Network, one_line};

/// Why an encoder could not be loaded or gave no embedding.
#[derive(Debug, Error)]
pub enum EncoderError {
    /// tract cannot read or prepare the model.
    #[error("the encoder cannot be loaded: {0}")]
    Load(String),
    /// tract failed while running the model.
    #[error("the encoder failed: {0}")]
    Run(String),
    /// The model gives something else than was stated of it.
    #[error("the encoder gives {found} values, not the {expected} that are stated of it")]
    Output {
        /// Stated size of the embedding.
        expected: usize,
        /// Values that it gave.
        found: usize,
    },
    /// A buffer has the wrong length.
    #[error("the encoder's {what} has {found} values, not {expected}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// The length needed.
        expected: usize,
        /// The length given.
        found: usize,
    },
    /// The embedding holds NaN or infinity.
    #[error("the encoder gave a value that is not finite")]
    NotFinite,
}

/// How an encoder wants its input, and what it gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EncoderSpec {
    /// Side of the input, in pixels.
    pub side_px: u32,
    /// What is subtracted from each channel in `[0,1]`.
    pub mean: [f32; 3],
    /// What each channel is then divided by.
    pub std: [f32; 3],
    /// Values of the embedding.
    pub embedding_size: usize,
}

/// An encoder that embeds one crop at a time on one core.
#[derive(Debug)]
pub struct Encoder {
    spec: EncoderSpec,
    network: Network,
}

impl Encoder {
    /// Loads an ONNX model `[N,3,S,S]` f32 -> `[N,D]` f32, and runs it once, which shows whether it works and leaves it
    /// warm.
    ///
    /// # Errors
    /// [`EncoderError`] where tract cannot load or run it, or it gives something else than `spec` says.
    pub fn from_onnx(onnx: &[u8], spec: EncoderSpec) -> Result<Self, EncoderError> {
        let load = |e: TractError| EncoderError::Load(one_line(&e));
        let side = spec.side_px as usize;
        let network = Network::load(onnx, [1, 3, side, side]).map_err(load)?;
        let mut encoder = Self { spec, network };
        let mut embedding = vec![0.0; spec.embedding_size];
        encoder.embed(&vec![0; side * side * 3], &mut embedding)?;
        Ok(encoder)
    }

    /// Loads a bundle's encoder.
    ///
    /// # Errors
    /// As [`Encoder::from_onnx`].
    pub fn from_bundle(bundle: &Bundle) -> Result<Self, EncoderError> {
        let entry = &bundle.manifest().encoder;
        let spec = EncoderSpec {
            side_px: entry.input_side_px,
            mean: entry.mean,
            std: entry.std,
            embedding_size: entry.embedding_size,
        };
        Self::from_onnx(bundle.encoder_onnx(), spec)
    }

    /// What it takes and gives.
    pub fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    /// Embeds one crop, `side * side` RGB triples as [`crate::Aligner::crop_into`] writes them.
    ///
    /// # Errors
    /// [`EncoderError`], for buffers of a wrong length and values that are not finite, too.
    pub fn embed(&mut self, crop: &[u8], embedding: &mut [f32]) -> Result<(), EncoderError> {
        let spec = self.spec;
        let pixels = (spec.side_px * spec.side_px) as usize;
        check_length("crop", pixels * 3, crop.len())?;
        check_length("embedding", spec.embedding_size, embedding.len())?;
        let run = |e: TractError| EncoderError::Run(one_line(&e));
        let outputs =
            self.network.run(|planes| normalise_into(crop, spec.mean, spec.std, planes)).map_err(run)?;
        let output =
            outputs.first().ok_or(EncoderError::Output { expected: spec.embedding_size, found: 0 })?;
        let found = output.try_as_plain_ram().and_then(|view| view.as_slice::<f32>()).map_err(run)?;
        if found.len() != spec.embedding_size {
            return Err(EncoderError::Output { expected: spec.embedding_size, found: found.len() });
        }
        if !found.iter().all(|v| v.is_finite()) {
            return Err(EncoderError::NotFinite);
        }
        embedding.copy_from_slice(found);
        Ok(())
    }
}

fn check_length(what: &'static str, expected: usize, found: usize) -> Result<(), EncoderError> {
    if expected == found { Ok(()) } else { Err(EncoderError::Length { what, expected, found }) }
}

/// RGB triples to three planes, `(value / 255 - mean) / std`.
pub fn normalise_into(crop: &[u8], mean: [f32; 3], std: [f32; 3], planes: &mut [f32]) {
    let pixels = crop.len() / 3;
    for (channel, plane) in planes.chunks_exact_mut(pixels.max(1)).enumerate() {
        let scale = 1.0 / (255.0 * std[channel]);
        let shift = -mean[channel] / std[channel];
        for (out, pixel) in plane.iter_mut().zip(crop.chunks_exact(3)) {
            *out = f32::from(pixel[channel]) * scale + shift;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use prost::Message;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use tract_onnx::pb;

    const SIDE: usize = 5;
    const OUT: usize = 4;

    fn ints(name: &str, ints: &[i64]) -> pb::AttributeProto {
        let kind = pb::attribute_proto::AttributeType::Ints as i32;
        pb::AttributeProto { name: name.into(), r#type: kind, ints: ints.to_vec(), ..Default::default() }
    }

    fn value(name: &str, dims: &[i64]) -> pb::ValueInfoProto {
        use pb::tensor_shape_proto::{Dimension, dimension::Value};
        let dim = dims.iter().map(|d| Dimension { value: Some(Value::DimValue(*d)), ..Default::default() });
        let shape = Some(pb::TensorShapeProto { dim: dim.collect() });
        let tensor = pb::type_proto::Tensor { elem_type: 1, shape };
        let kind =
            pb::TypeProto { value: Some(pb::type_proto::Value::TensorType(tensor)), ..Default::default() };
        pb::ValueInfoProto { name: name.into(), r#type: Some(kind), ..Default::default() }
    }

    fn weight(name: &str, dims: &[i64], values: &[f32]) -> pb::TensorProto {
        pb::TensorProto {
            name: name.into(),
            dims: dims.to_vec(),
            data_type: 1,
            float_data: values.to_vec(),
            ..Default::default()
        }
    }

    /// A padded 3x3 convolution to `OUT` channels, ReLU, mean over positions.
    fn tiny_onnx(kernel: &[f32], bias: &[f32]) -> Vec<u8> {
        let node = |op: &str, input: &[&str], output: &str, attribute| pb::NodeProto {
            op_type: op.into(),
            input: input.iter().map(|&s| s.into()).collect(),
            output: vec![output.into()],
            name: output.into(),
            attribute,
            ..Default::default()
        };
        let graph = pb::GraphProto {
            node: vec![
                node(
                    "Conv",
                    &["x", "k", "b"],
                    "c",
                    vec![ints("kernel_shape", &[3, 3]), ints("pads", &[1; 4])],
                ),
                node("Relu", &["c"], "r", vec![]),
                node("GlobalAveragePool", &["r"], "p", vec![]),
                node("Flatten", &["p"], "y", vec![]),
            ],
            initializer: vec![weight("k", &[OUT as i64, 3, 3, 3], kernel), weight("b", &[OUT as i64], bias)],
            input: vec![value("x", &[1, 3, SIDE as i64, SIDE as i64])],
            output: vec![value("y", &[1, OUT as i64])],
            ..Default::default()
        };
        let opset = pb::OperatorSetIdProto { domain: String::new(), version: 13 };
        let model = pb::ModelProto {
            ir_version: 8,
            opset_import: vec![opset],
            graph: Some(graph),
            ..Default::default()
        };
        model.encode_to_vec()
    }

    fn spec() -> EncoderSpec {
        EncoderSpec {
            side_px: SIDE as u32,
            mean: [0.4, 0.5, 0.6],
            std: [0.2, 0.25, 0.3],
            embedding_size: OUT,
        }
    }

    fn random(seed: u64, count: usize) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    /// The same network by nested loops in f64.
    fn naive(crop: &[u8], kernel: &[f32], bias: &[f32]) -> Vec<f64> {
        let spec = spec();
        let at = |c: usize, y: isize, x: isize| -> f64 {
            let inside = (0..SIDE as isize).contains(&y) && (0..SIDE as isize).contains(&x);
            if !inside {
                return 0.0;
            }
            let byte = crop[(y as usize * SIDE + x as usize) * 3 + c];
            (f64::from(byte) / 255.0 - f64::from(spec.mean[c])) / f64::from(spec.std[c])
        };
        (0..OUT)
            .map(|o| {
                let mut total = 0.0;
                for y in 0..SIDE as isize {
                    for x in 0..SIDE as isize {
                        let mut sum = f64::from(bias[o]);
                        for c in 0..3 {
                            for ky in 0..3 {
                                for kx in 0..3 {
                                    let w = kernel[((o * 3 + c) * 3 + ky) * 3 + kx];
                                    sum += f64::from(w) * at(c, y + ky as isize - 1, x + kx as isize - 1);
                                }
                            }
                        }
                        total += sum.max(0.0);
                    }
                }
                total / (SIDE * SIDE) as f64
            })
            .collect()
    }

    #[test]
    fn embeddings_match_nested_loops_and_do_not_depend_on_what_came_before() {
        let (kernel, bias) = (random(1, OUT * 27), random(2, OUT));
        let mut encoder = Encoder::from_onnx(&tiny_onnx(&kernel, &bias), spec()).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for _ in 0..3 {
            let crop: Vec<u8> = (0..SIDE * SIDE * 3).map(|_| rng.random()).collect();
            let mut embedding = [0.0; OUT];
            encoder.embed(&crop, &mut embedding).unwrap();
            for (ours, reference) in embedding.iter().zip(naive(&crop, &kernel, &bias)) {
                assert!((f64::from(*ours) - reference).abs() < 1e-5, "{ours} {reference}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_in_one_line() {
        let (kernel, bias) = (random(1, OUT * 27), random(2, OUT));
        let onnx = tiny_onnx(&kernel, &bias);
        let load = |bytes: &[u8], spec| Encoder::from_onnx(bytes, spec).map(|_| ()).unwrap_err().to_string();
        let errors = [
            load(&onnx[..onnx.len() / 2], spec()),
            load(b"not a model", spec()),
            load(&onnx, EncoderSpec { embedding_size: 7, ..spec() }),
            load(&tiny_onnx(&kernel, &[f32::INFINITY; OUT]), spec()),
        ];
        assert!(errors.iter().all(|e| !e.contains('\n') && e.contains("encoder")), "{errors:?}");
        let mut encoder = Encoder::from_onnx(&onnx, spec()).unwrap();
        assert!(matches!(
            encoder.embed(&[0; 3], &mut [0.0; OUT]),
            Err(EncoderError::Length { what: "crop", .. })
        ));
        assert!(encoder.embed(&[0; SIDE * SIDE * 3], &mut [0.0; 1]).is_err());
    }
}
