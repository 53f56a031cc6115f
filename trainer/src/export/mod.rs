//! `trainer export`: an encoder and its head as a bundle, checked against the trainer's own numbers.

mod graph;
mod neutral;
mod unfold;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semblance_calib::{HeadKind, Heads};
use semblance_face::bundle::{self, EncoderEntry, FaceNetEntry, FileEntry, LabelSets};
use semblance_face::encoder::EncoderSpec;
use semblance_face::finder::ConvFinder;
use semblance_face::{Bundle, CropTemplate, Encoder, Landmarker, Manifest};
use tch::{Tensor, no_grad};

pub use graph::{Dim, GraphWriter, Value};
pub use neutral::put_neutral;
pub use unfold::{BUNDLE, checkpoint_or_bundle};

use crate::checkpoint::{Checkpoint, floats};
use crate::data::normalise;
use crate::eval::{Loaded, checkpoint_heads};
use crate::nets::{Phase, Precision};
use crate::store::Store;

/// The encoder's file within a bundle.
const ENCODER: &str = "encoder.onnx";
/// The heads' file within a bundle.
const HEADS: &str = "heads.safetensors";
/// The finder's file within a bundle.
const FINDER: &str = "finder.onnx";
/// The landmark network's file within a bundle.
const LANDMARKS: &str = "landmarks.onnx";
/// What people read about a bundle; it is theirs, and stays when a bundle is exported anew.
pub const MODEL_CARD: &str = "MODEL_CARD.md";
/// The same of the networks that find faces.
pub const FACES_CARD: &str = "FACES_CARD.md";
const CARDS: [&str; 2] = [MODEL_CARD, FACES_CARD];

/// The largest difference between tract's and the trainer's embeddings that an export may have.
pub const TOLERANCE: f32 = 1e-4;
/// Random pictures that are compared.
const CHECKED_PICTURES: usize = 16;

/// Options of `trainer export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// The run (or its checkpoint file) whose encoder is exported; with a head if it was fine-tuned
    #[arg(long, required_unless_present_any = ["finder", "landmarks", "neutral"])]
    pub checkpoint: Option<PathBuf>,

    /// The run of `trainer finder` whose network becomes the bundle's finder
    #[arg(long)]
    pub finder: Option<PathBuf>,

    /// The run of `trainer landmarks` whose network becomes the bundle's landmark network
    #[arg(long)]
    pub landmarks: Option<PathBuf>,

    /// A store whose neutral training pictures tell where the bundle's encoder has faces at rest
    #[arg(long)]
    pub neutral: Option<PathBuf>,

    /// Folder of the bundle; of one that is there, what is not exported anew stays
    #[arg(long)]
    pub out: PathBuf,

    /// The bundle's name [default: that of its folder]
    #[arg(long)]
    pub name: Option<String>,
}

/// Runs `trainer export`.
///
/// # Errors
/// Names the file; or tells how far tract's embeddings are from the trainer's where that is over [`TOLERANCE`].
pub fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let name = args.name.clone().or_else(|| Some(args.out.file_name()?.to_string_lossy().into_owned()));
    let name = name.with_context(|| format!("{}: not a folder's name", args.out.display()))?;
    if let Some(checkpoint) = &args.checkpoint {
        let difference = export(checkpoint, &args.out, &name, toml::Table::new(), None)?;
        eprintln!(
            "{}: max abs difference between tract and the trainer {difference:.1e}",
            args.out.display()
        );
    }
    if args.finder.is_some() || args.landmarks.is_some() {
        export_face_nets(args.finder.as_deref(), args.landmarks.as_deref(), &args.out)?;
        eprintln!("{}: the networks that find faces are in place", args.out.display());
    }
    if let Some(store) = &args.neutral {
        let pictures = put_neutral(&Store::open(store)?, &args.out)?;
        eprintln!("{}: faces at rest are where {pictures} neutral pictures are", args.out.display());
    }
    Ok(())
}

/// Puts the networks of these runs into the bundle at `out`, whose other parts stay.
///
/// # Errors
/// Names the checkpoint or the bundle; the bundle is as it was then.
fn export_face_nets(finder: Option<&Path>, landmarks: Option<&Path>, out: &Path) -> anyhow::Result<()> {
    let (mut manifest, mut files) = Bundle::open(out)
        .context("a finder needs a bundle to go into: export an encoder first")?
        .into_parts();
    let mut put = |file: &str, input_side_px: u32, (onnx, training): (Vec<u8>, toml::Table)| {
        files.insert(file.to_owned(), onnx);
        let file = FileEntry { file: file.to_owned(), sha256: String::new() };
        Some(FaceNetEntry { file, input_side_px, training })
    };
    if let Some(run) = finder {
        let (onnx, training) = crate::finder::onnx(run)?;
        ConvFinder::new(onnx.clone(), ConvFinder::DEFAULT_SIDE_PX)?;
        manifest.finder = put(FINDER, ConvFinder::DEFAULT_SIDE_PX, (onnx, training));
    }
    if let Some(run) = landmarks {
        let (onnx, training) = crate::landmarks::onnx(run)?;
        Landmarker::new(&onnx, crate::landmarks::SIDE_PX)?;
        manifest.landmarks = put(LANDMARKS, crate::landmarks::SIDE_PX, (onnx, training));
    }
    Ok(Bundle::write(out, manifest, &files, &CARDS)?)
}

/// Gives the bundle at `out` the networks that find faces, and their card, of another bundle, where it has none of its own.
///
/// # Errors
/// Where the other has none either; the bundle is as it was then.
pub fn put_face_nets(from: &Path, out: &Path) -> anyhow::Result<()> {
    let (mut manifest, mut files) = Bundle::open(out)?.into_parts();
    if manifest.finder.is_some() && manifest.landmarks.is_some() {
        return Ok(());
    }
    let (theirs, their_files) = Bundle::open(from)?.into_parts();
    let (finder, landmarks) = (theirs.finder, theirs.landmarks);
    for entry in [&finder, &landmarks] {
        let name = entry.as_ref().map(|entry| &entry.file.file);
        let file = name.and_then(|name| Some((name.clone(), their_files.get(name)?.clone())));
        let (name, bytes) = file.with_context(|| {
            format!(
                "{}: this bundle has no finder or no landmark network: name one that has both",
                from.display()
            )
        })?;
        files.insert(name, bytes);
    }
    (manifest.finder, manifest.landmarks) = (finder, landmarks);
    if let Ok(card) = std::fs::read(from.join(FACES_CARD)) {
        files.insert(FACES_CARD.to_owned(), card);
    }
    Ok(Bundle::write(out, manifest, &files, &CARDS)?)
}

/// Replaces the bundle at `out`, if there is one, by that at `from`, cards and all.
///
/// # Errors
/// Where one cannot be read, or the other not be written; what is at `out` is as it was then.
pub fn publish(from: &Path, out: &Path) -> anyhow::Result<()> {
    let (manifest, mut files) = Bundle::open(from)?.into_parts();
    for card in CARDS {
        if let Ok(text) = std::fs::read(from.join(card)) {
            files.insert(card.to_owned(), text);
        }
    }
    Ok(Bundle::write(out, manifest, &files, &CARDS)?)
}

/// Writes the bundle and returns the largest absolute difference between tract's embeddings and the trainer's.
/// `scores` are added to those that the checkpoint has; `card` replaces the model card.
///
/// # Errors
/// As [`run`]; nothing is written then.
pub fn export(
    checkpoint: &Path,
    out: &Path,
    name: &str,
    scores: toml::Table,
    card: Option<String>,
) -> anyhow::Result<f32> {
    let checkpoint = Checkpoint::load(checkpoint)?;
    let meta = &checkpoint.meta;
    let loaded = Loaded::from_checkpoint(&checkpoint)?;
    let onnx = encoder_onnx(&loaded)?;
    let difference = max_difference(&loaded, &onnx)?;
    ensure!(
        difference <= TOLERANCE,
        "the exported encoder's embeddings differ from the trainer's by {difference:e}, over {TOLERANCE:e}: \
         nothing was written"
    );
    let embedding_size = meta.backbone.at(meta.side_px).embedding_size() as usize;
    let heads = Heads::new(embedding_size, checkpoint_heads(&checkpoint)?)?;
    let rows = |kind| heads.get(kind).map(|head| head.labels().to_vec()).unwrap_or_default();
    let labels = LabelSets { expression: rows(HeadKind::Expression), au: rows(HeadKind::ActionUnits) };
    let heads = heads.to_safetensors()?;
    let file = |file: &str| FileEntry { file: file.to_owned(), sha256: String::new() };
    let mut all_scores = meta.scores.clone();
    all_scores.extend(scores);
    let mut training = toml::Table::from_iter([
        ("method".to_owned(), meta.method.clone().into()),
        ("steps".to_owned(), meta.step.into()),
    ]);
    training.insert("config".to_owned(), toml::Value::Table(meta.config.clone()));
    // What finds faces does not depend on the encoder: a bundle that is replaced hands it on.
    let (mut finder, mut landmarks, mut files) = (None, None, BTreeMap::new());
    if out.join(bundle::MANIFEST).is_file() {
        let (old, old_files) = Bundle::open(out)?.into_parts();
        (finder, landmarks, files) = (old.finder, old.landmarks, old_files);
    }
    let manifest = Manifest {
        format: bundle::FORMAT,
        name: name.to_owned(),
        encoder: EncoderEntry {
            file: file(ENCODER),
            backbone: meta.backbone.to_string(),
            input_side_px: meta.side_px,
            mean: meta.mean,
            std: meta.std,
            embedding_size,
        },
        finder,
        landmarks,
        crop: CropTemplate::default(),
        heads: file(HEADS),
        labels,
        training,
        scores: all_scores,
    };
    files.extend([(ENCODER.to_owned(), onnx), (HEADS.to_owned(), heads)]);
    if let Some(card) = card {
        files.insert(MODEL_CARD.to_owned(), card.into_bytes());
    }
    Bundle::write(out, manifest, &files, &CARDS)?;
    Ok(difference)
}

/// The encoder as ONNX, batch normalisation and branches folded.
///
/// # Errors
/// Those of reading the weights.
pub fn encoder_onnx(loaded: &Loaded) -> anyhow::Result<Vec<u8>> {
    let architecture = loaded.encoder.architecture();
    let side = Dim::Fixed(i64::from(loaded.side_px));
    let batch = Dim::Symbol("N");
    let (mut graph, crops) =
        GraphWriter::new(&architecture.backbone.to_string(), "crops", &[batch, Dim::Fixed(3), side, side]);
    let embedding = no_grad(|| loaded.encoder.write(&mut graph, crops))?;
    let dims = [batch, Dim::Fixed(architecture.embedding_size())];
    Ok(graph.finish(&[("embedding", embedding, &dims)]))
}

/// The largest absolute difference between the embeddings of random pictures by tract and by the trainer in f32.
///
/// # Errors
/// Where either cannot compute them.
pub fn max_difference(loaded: &Loaded, onnx: &[u8]) -> anyhow::Result<f32> {
    let embedding_size = loaded.encoder.embedding_size() as usize;
    let spec = EncoderSpec { side_px: loaded.side_px, mean: loaded.mean, std: loaded.std, embedding_size };
    let mut encoder = Encoder::from_onnx(onnx, spec)?;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let side = i64::from(loaded.side_px);
    let mut ours = vec![0.0; embedding_size];
    let mut worst = 0f32;
    for _ in 0..CHECKED_PICTURES {
        let crop: Vec<u8> = (0..side * side * 3).map(|_| rng.random()).collect();
        encoder.embed(&crop, &mut ours)?;
        let picture = Tensor::from_slice(&crop).view([1, side, side, 3]).permute([0, 3, 1, 2]);
        let unit = picture.to_device(loaded.vs.device()).to_kind(tch::Kind::Float) / 255.0;
        let crops = normalise(&unit, loaded.mean, loaded.std);
        let theirs = no_grad(|| loaded.encoder.forward(&crops, Phase::Eval, Precision::F32));
        for (a, b) in ours.iter().zip(floats(&theirs)?) {
            worst = worst.max((a - b).abs());
        }
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::nets::{Backbone, Encoder as TrainedEncoder, PclFeatures};
    use tch::Kind;

    /// Runs a few training batches so that batch normalisation has statistics and weights that matter.
    fn trained(backbone: Backbone) -> Loaded {
        let loaded = Loaded::random(backbone, 64, 3);
        for (name, mut variable) in loaded.vs.variables() {
            if name.contains("bn") && name.ends_with("weight") {
                let _ = no_grad(|| variable.uniform_(0.5, 1.5));
            } else if name.contains("bn") && name.ends_with("bias") {
                let _ = no_grad(|| variable.uniform_(-0.3, 0.3));
            }
        }
        for _ in 0..10 {
            let crops = Tensor::randn([8, 3, 64, 64], (Kind::Float, loaded.vs.device()));
            let _ = no_grad(|| loaded.encoder.forward(&crops, Phase::ALONE, Precision::F32));
        }
        loaded
    }

    #[test]
    fn every_backbone_computes_the_same_in_tract() {
        for backbone in [
            Backbone::Edge,
            Backbone::Resnet18,
            Backbone::Pcl,
            Backbone::FaceCycle,
            Backbone::FabNet,
            Backbone::SplitBrain,
            Backbone::Dense("16/32x2/64+64".parse().unwrap()),
            Backbone::Dense("//16/32x2".parse().unwrap()),
        ] {
            let loaded = trained(backbone);
            let difference = max_difference(&loaded, &encoder_onnx(&loaded).unwrap()).unwrap();
            assert!(difference <= TOLERANCE, "{}: {difference:e}", backbone);
        }
    }

    #[test]
    fn pcls_branches_compute_the_same_in_tract() {
        let base = trained(Backbone::Pcl);
        let vs = tch::nn::VarStore::new(base.vs.device());
        let encoder = TrainedEncoder::pcl(&vs.root(), base.side_px, PclFeatures::Both);
        let loaded = Loaded { vs, encoder, ..base };
        let difference = max_difference(&loaded, &encoder_onnx(&loaded).unwrap()).unwrap();
        assert!(difference <= TOLERANCE, "{difference:e}");
    }

    #[test]
    fn a_folded_weight_that_is_off_shows_in_the_difference() {
        let loaded = trained(Backbone::Edge);
        let onnx = encoder_onnx(&loaded).unwrap();
        for (name, mut variable) in loaded.vs.variables() {
            if name == "encoder.block2.dense.bn.weight" {
                no_grad(|| variable *= 1.05);
            }
        }
        assert!(max_difference(&loaded, &onnx).unwrap() > TOLERANCE);
    }
}
