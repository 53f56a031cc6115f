//! A bundle as what a run begins with or learns from: the inverse of `trainer export`.

use std::path::Path;

use anyhow::{Context, bail};
use prost::Message;
use semblance_calib::{HeadKind, Heads};
use semblance_face::Bundle;
use semblance_face::bundle::{MANIFEST, sha256_hex};
use tch::Tensor;
use tract_onnx::pb;

use crate::checkpoint::{self, Checkpoint, Meta, floats_of};
use crate::eval::TaughtHead;
use crate::nets::Backbone;

/// What a checkpoint that was made of a bundle has as its method.
pub const BUNDLE: &str = "bundle";

/// The checkpoint of a run (its folder or file), or what a bundle's encoder and heads are as one.
///
/// # Errors
/// Names the file; or tells that the bundle's encoder is not of a shape, but of a network whose branches cannot be told from what
/// they were folded to.
pub fn checkpoint_or_bundle(path: &Path) -> anyhow::Result<Checkpoint> {
    match path.join(MANIFEST).is_file() {
        true => unfold(&Bundle::open(path)?).with_context(|| path.display().to_string()),
        false => Ok(Checkpoint::load(path)?),
    }
}

fn unfold(bundle: &Bundle) -> anyhow::Result<Checkpoint> {
    let entry = &bundle.manifest().encoder;
    let backbone: Backbone = entry.backbone.parse().map_err(anyhow::Error::msg)?;
    let Backbone::Dense(shape) = backbone else {
        bail!(
            "a bundle with a dense encoder can be gone on from, not one with {backbone}: name the run it was exported from"
        );
    };
    let variables = shape.unfold(&convolutions(bundle.encoder_onnx())?).map_err(anyhow::Error::msg)?;
    let mut variables: Vec<_> =
        variables.into_iter().map(|(name, tensor)| (format!("encoder.{name}"), tensor)).collect();
    let heads = Heads::from_safetensors(bundle.heads_safetensors())?;
    let mut meta = Meta {
        format: checkpoint::FORMAT,
        backbone,
        side_px: entry.input_side_px,
        mean: entry.mean,
        std: entry.std,
        method: BUNDLE.to_owned(),
        labels: Vec::new(),
        heads: Default::default(),
        step: 0,
        config: toml::Table::new(),
        scores: bundle.manifest().scores.clone(),
        data: Vec::new(),
        origins: None,
    };
    for kind in HeadKind::ALL {
        let Some(head) = heads.get(kind) else { continue };
        let path = TaughtHead::of(kind).path();
        let weight = Tensor::from_slice(head.weight()).view([-1, head.dim() as i64]);
        variables.push((format!("{path}.weight"), weight));
        variables.push((format!("{path}.bias"), Tensor::from_slice(head.bias())));
        meta.heads.insert(path.to_owned(), head.labels().to_vec());
        if kind == HeadKind::Expression {
            meta.labels = head.labels().to_vec();
        }
    }
    let both = [bundle.encoder_onnx(), bundle.heads_safetensors()].concat();
    Ok(Checkpoint::of(bundle.dir().to_owned(), sha256_hex(&both), meta, variables))
}

/// Kernel and bias of every convolution, in the order in which they are computed.
fn convolutions(onnx: &[u8]) -> anyhow::Result<Vec<(Tensor, Tensor)>> {
    let graph = pb::ModelProto::decode(onnx)?.graph.context("the encoder's file has no graph")?;
    let weight = |name: Option<&String>| -> anyhow::Result<Tensor> {
        let weight = graph.initializer.iter().find(|weight| Some(&weight.name) == name);
        let weight = weight.context("a convolution of the encoder lacks a weight")?;
        Ok(Tensor::from_slice(&floats_of(&weight.raw_data)).f_reshape(weight.dims.as_slice())?)
    };
    let convolutions = graph.node.iter().filter(|node| node.op_type == "Conv");
    convolutions.map(|node| Ok((weight(node.input.get(1))?, weight(node.input.get(2))?))).collect()
}
