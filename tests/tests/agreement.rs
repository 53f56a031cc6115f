//! What the trainer computes and what the edge computes is the same.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use semblance_calib::{Heads, softmax_in_place};
use semblance_edge::pipeline::Pipeline;
use semblance_edge::prediction::FrameReport;
use semblance_edge::source::Capture;
use semblance_edge::stats::FrameTimes;
use semblance_face::finder::SeetaFinder;
use semblance_face::{Aligner, Bundle, Detection, Encoder, FindError, Finder, Follower, Frame, Rect};
use semblance_synth::{ClipSource, RenderOptions};
use semblance_trainer::checkpoint::{self, Checkpoint, Meta, floats, model_tensors};
use semblance_trainer::data::normalise;
use semblance_trainer::eval::Loaded;
use semblance_trainer::export::export;
use semblance_trainer::nets::{Backbone, Phase, Precision};
use tch::{Device, Kind, Tensor, nn, no_grad};

const LABELS: [&str; 3] = ["neutral", "happy", "sad"];

/// A run with random weights (and statistics that matter) and a head, as fine-tuning leaves one.
fn write_run(dir: &Path) -> Checkpoint {
    let mut loaded = Loaded::random(Backbone::Edge, 64, 9);
    let classes = LABELS.len() as i64;
    let head = nn::linear(loaded.vs.root() / "head", 256, classes, Default::default());
    let _ = no_grad(|| head.bs.unwrap().uniform_(-1.0, 1.0));
    for _ in 0..5 {
        let crops = Tensor::randn([8, 3, 64, 64], (Kind::Float, Device::Cpu));
        let _ = no_grad(|| loaded.encoder.forward(&crops, Phase::ALONE, Precision::F32));
    }
    let meta = Meta {
        format: checkpoint::FORMAT,
        backbone: Backbone::Edge,
        side_px: 64,
        mean: [0.45, 0.5, 0.55],
        std: [0.2, 0.25, 0.3],
        method: "finetune".to_owned(),
        labels: LABELS.map(str::to_owned).to_vec(),
        heads: Default::default(),
        step: 1,
        config: toml::Table::new(),
        scores: toml::Table::new(),
        data: Vec::new(),
        origins: None,
    };
    (loaded.mean, loaded.std) = (meta.mean, meta.std);
    let path = dir.join(checkpoint::FILE_NAME);
    checkpoint::save(&path, &meta, model_tensors(&loaded.vs)).unwrap();
    Checkpoint::load(&path).unwrap()
}

/// A run, its encoder, and the bundle exported from it.
fn exported(dir: &Path) -> (Checkpoint, Loaded, Bundle) {
    let checkpoint = write_run(dir);
    let loaded = Loaded::from_checkpoint(&checkpoint).unwrap();
    let out = dir.join("bundle");
    export(&dir.join(checkpoint::FILE_NAME), &out, "test", toml::Table::new(), None).unwrap();
    let bundle = Bundle::open(&out).unwrap();
    (checkpoint, loaded, bundle)
}

fn frames(count: usize) -> Vec<Frame> {
    let mut clip = ClipSource::new(11, 2, RenderOptions::webcam()).unwrap();
    (0..count).map(|_| clip.next_frame().unwrap().0).collect()
}

/// The trainer's embedding and class probabilities of one crop.
fn trainers_view(checkpoint: &Checkpoint, loaded: &Loaded, crop: &[u8]) -> (Vec<f32>, Vec<f32>) {
    let picture =
        Tensor::from_slice(crop).view([1, 64, 64, 3]).permute([0, 3, 1, 2]).to_kind(Kind::Float) / 255.0;
    let embedding = no_grad(|| {
        loaded.encoder.forward(&normalise(&picture, loaded.mean, loaded.std), Phase::Eval, Precision::F32)
    });
    let (weight, bias) = ("model.head.weight", "model.head.bias");
    let logits =
        embedding.matmul(&checkpoint.tensor(weight).unwrap().tr()) + checkpoint.tensor(bias).unwrap();
    (floats(&embedding).unwrap(), floats(&logits.softmax(1, Kind::Float)).unwrap())
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

#[test]
fn an_exported_bundle_gives_the_trainers_embeddings_of_the_same_aligned_crops() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, loaded, bundle) = exported(dir.path());
    let mut encoder = Encoder::from_bundle(&bundle).unwrap();
    let heads = Heads::from_safetensors(bundle.heads_safetensors()).unwrap();
    let aligner = Aligner::new(bundle.manifest().crop, 64);
    let mut finder = SeetaFinder::new().unwrap();
    let (mut detections, mut crop) = (Vec::new(), vec![0; 64 * 64 * 3]);
    let (mut embedding, mut p) = (vec![0.0; 256], vec![0.0; LABELS.len()]);
    let mut compared = 0;
    for frame in frames(8) {
        finder.find(&frame, &mut detections).unwrap();
        for detection in &detections {
            assert!(aligner.crop_into(&frame, &detection.bbox, detection.landmarks.as_ref(), &mut crop));
            encoder.embed(&crop, &mut embedding).unwrap();
            heads.expression().unwrap().logits_into(&embedding, &mut p);
            softmax_in_place(&mut p);
            let (theirs, their_p) = trainers_view(&checkpoint, &loaded, &crop);
            assert!(largest_difference(&embedding, &theirs) < 1e-4);
            assert!(largest_difference(&p, &their_p) < 1e-4);
            compared += 1;
        }
    }
    assert!(compared >= 6, "{compared} faces were compared");
}

/// Sees one face where it is told to.
struct FixedFinder(Rect);

impl Finder for FixedFinder {
    fn find(&mut self, _: &Frame, out: &mut Vec<Detection>) -> Result<(), FindError> {
        out.clear();
        out.push(Detection { bbox: self.0, score: 1.0, landmarks: None });
        Ok(())
    }

    fn name(&self) -> &'static str {
        "fixed"
    }
}

#[test]
fn the_edges_whole_pipeline_gives_the_trainers_probabilities() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, loaded, bundle) = exported(dir.path());
    let bbox = Rect::new(200.0, 120.0, 180.0, 200.0);
    let follower = Follower::new(Box::new(FixedFinder(bbox)), None, 1);
    let mut pipeline = Pipeline::new(&bundle, follower).unwrap();
    let aligner = Aligner::new(bundle.manifest().crop, 64);
    let mut crop = vec![0; 64 * 64 * 3];
    let (mut times, mut report) = (FrameTimes::default(), FrameReport::default());
    for frame in frames(5) {
        assert!(aligner.crop_into(&frame, &bbox, None, &mut crop));
        let (_, theirs) = trainers_view(&checkpoint, &loaded, &crop);
        let capture = Capture { frame, ..Capture::new().unwrap() };
        pipeline.process(&capture, Default::default(), &mut times, &mut report).unwrap();
        let [face] = report.faces.as_slice() else { panic!("{} faces", report.faces.len()) };
        let ours = face.expression.as_ref().unwrap().p.values();
        assert!(largest_difference(ours, &theirs) < 1e-4, "{ours:?} {theirs:?}");
    }
}
