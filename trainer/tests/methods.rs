//! Every pretraining method, run for a few steps: what is interrupted at every step ends as what was not.
//!
//! One test, because weights are drawn from libtorch's only generator.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use semblance_synth::{ClipSource, RenderOptions};
use semblance_trainer::augment::AugmentConfig;
use semblance_trainer::checkpoint::Checkpoint;
use semblance_trainer::data::{Clips, PairConfig, SequenceConfig};
use semblance_trainer::eval::Loaded;
use semblance_trainer::method::{
    ByolConfig, FabNetConfig, FaceCycleConfig, MaskFn, Method, MocoConfig, PclConfig, PlateauConfig,
    Projection, SimSiamConfig,
};
use semblance_trainer::nets::Backbone;
use semblance_trainer::optim::Rule;
use semblance_trainer::prepare::encode_jpeg;
use semblance_trainer::pretrain::{OnlineProbe, Place, PretrainConfig, StepMetrics, pretrain};
use semblance_trainer::store::{Provenance, Sample, Split, Store, StoreWriter};
use tch::{Kind, Tensor};

const SIDE_PX: u32 = 48;

/// Four people, 12 frames each at 2 frames a second; the last one is for validation.
fn write_store(dir: &Path) {
    let mut writer = StoreWriter::create(dir).unwrap();
    for person in 0..4 {
        let options = RenderOptions { fps: 2.0, ..RenderOptions::crop(SIDE_PX) };
        let mut source = ClipSource::new(1, person, options).unwrap();
        writer.begin_video(&format!("p{person}"), "clip");
        for _ in 0..12 {
            let (frame, labels) = source.next_frame().unwrap();
            let jpeg = encode_jpeg(frame.rgb(), SIDE_PX, SIDE_PX, 3, 90).unwrap();
            let mut landmarks = [0.0; 136];
            for (shares, point) in landmarks.chunks_exact_mut(2).zip(&labels.landmarks) {
                shares.copy_from_slice(&[point.x / SIDE_PX as f32, point.y / SIDE_PX as f32]);
            }
            let split = if person == 3 { Split::Val } else { Split::Train };
            let sample = Sample {
                expression: Some(labels.expression),
                landmarks: Some(landmarks),
                ..Sample::unlabelled(labels.t_secs, split)
            };
            writer.push(&jpeg, &sample).unwrap();
        }
    }
    writer.commit(Provenance::default()).unwrap();
}

fn configs() -> Vec<PretrainConfig> {
    let base = PretrainConfig {
        side_px: 32,
        batch: 16,
        epochs: 2,
        cosine_from_epoch: 1,
        lr: 1e-3,
        ema: 0.5,
        moco: MocoConfig { queue: 20, ..MocoConfig::default() },
        byol: ByolConfig { hidden: 32, out: 16, ..ByolConfig::default() },
        simsiam: SimSiamConfig { out: 32, bottleneck: 16, constant_predictor_lr: true },
        ..PretrainConfig::default()
    };
    let pairs = PairConfig { time_aug: true, hard_neg: true, face_swap: true, ..PairConfig::default() };
    let mask_fn = MaskFn { count: 1, ..MaskFn::default() };
    let with = |method, optimizer| PretrainConfig { method, optimizer, ..base.clone() };
    // Their decoders and attention cost much more than the device's encoder.
    let on = |method, backbone| PretrainConfig { side_px: 16, backbone, ..with(method, Rule::Adam) };
    let plain = PretrainConfig { side_px: 16, mean: [0.0; 3], std: [1.0; 3], ..base.clone() };
    let pcl = PclConfig { pose_batch: 2, pose_negatives: 3, input_noise: 0.4, ..PclConfig::default() };
    let sequence = SequenceConfig { length: 3, stride: 2, scattered: 2 };
    // A rate that falls and a band that moves after every epoch whose loss is not the least, of which four have some.
    let plateau = PlateauConfig { patience_epochs: 1, factor: 0.1 };
    let four = |config| PretrainConfig { epochs: 4, lr: 1e-2, cosine_from_epoch: 4, ..config };
    let facecycle = FaceCycleConfig { width: 16, blocks: 1, ..FaceCycleConfig::default() };
    vec![
        PretrainConfig {
            pcl,
            method: Method::Pcl,
            backbone: Backbone::Pcl,
            accumulate: 2,
            projection: Projection { out: 16, ..Projection::default() },
            // Weights are dynamic from the third epoch on.
            epochs: 4,
            augment: AugmentConfig { flip_p: 0.0, ..AugmentConfig::default() },
            ..plain.clone()
        },
        // 24 frames have room for a sequence after them.
        PretrainConfig { side_px: 16, batch: 8, sequence, ..with(Method::Clp, Rule::Sgd) },
        PretrainConfig {
            fabnet: FabNetConfig { sources: 2, ..FabNetConfig::default() },
            plateau,
            // Too small to learn by, so that its loss does not fall in every epoch.
            lr: 1e-6,
            ..four(on(Method::FabNet, Backbone::FabNet))
        },
        PretrainConfig { plateau, ..on(Method::Autoencoder, Backbone::FabNet) },
        four(PretrainConfig { plateau, ..on(Method::RotNet, Backbone::FabNet) }),
        PretrainConfig { method: Method::SplitBrain, backbone: Backbone::SplitBrain, plateau, ..plain },
        PretrainConfig { facecycle, ..on(Method::FaceCycle, Backbone::FaceCycle) },
        with(Method::SimClr, Rule::AdamW),
        with(Method::Moco, Rule::Sgd),
        with(Method::Byol, Rule::Lars),
        with(Method::SimSiam, Rule::Sgd),
        PretrainConfig { pairs, mask_fn, accumulate: 2, ..with(Method::Sslfer, Rule::Adam) },
    ]
}

fn metrics(out: &Path) -> Vec<StepMetrics> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_that_is_stopped_after_every_step_ends_as_one_that_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("store");
    write_store(&data);
    let clips =
        |config: &PretrainConfig| Clips::open(std::slice::from_ref(&data), config.pairs.timing).unwrap();
    for config in configs() {
        let name = config.method.name();
        let (whole, broken) =
            (dir.path().join(format!("{name}-whole")), dir.path().join(format!("{name}-broken")));
        let run = |out: &Path, resume, stop| {
            pretrain(&config, clips(&config), Place::alone(out, resume), None, &AtomicBool::new(stop))
                .unwrap();
        };
        run(&whole, false, false);
        run(&broken, false, true);
        let steps = metrics(&whole).len();
        assert!(steps >= 4, "{name}: {steps} steps");
        while metrics(&broken).len() < steps {
            run(&broken, true, true);
        }
        let (whole_steps, broken_steps) = (metrics(&whole), metrics(&broken));
        assert_eq!((whole_steps.len(), broken_steps.len()), (steps, steps), "{name}: 36 pictures, 16 a step");
        // What is remembered of losses has come into force, and was taken up again.
        let last = &whole_steps[steps - 1];
        match config.method {
            Method::Pcl => assert_ne!(last.parts["face_weight"], 1.0),
            Method::FabNet => assert!(last.parts["curriculum_begins"] > 0.0, "{last:?}"),
            Method::RotNet => assert!(last.lr < 0.9e-2, "{last:?}"),
            _ => {}
        }
        for (a, b) in whole_steps.iter().zip(&broken_steps) {
            assert_eq!((a.step, a.epoch, a.lr), (b.step, b.epoch, b.lr), "{name}");
            assert_eq!(a.parts.get("face_weight"), b.parts.get("face_weight"), "{name}");
            assert_eq!(a.parts.get("curriculum_begins"), b.parts.get("curriculum_begins"), "{name}");
            assert!((a.loss - b.loss).abs() < 1e-5 * a.loss.abs().max(1.0), "{name}: {a:?} {b:?}");
        }
        // Weights, their averages, queues, what is remembered of losses, and the optimiser's state.
        let (a, b) = (tensors(&whole), tensors(&broken));
        assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{name}");
        for (part, values) in &a {
            let difference = values.iter().zip(&b[part]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let most = values.iter().map(|v| v.abs()).fold(1.0, f32::max);
            assert!(difference < 1e-4 * most, "{name}: {part} differs by {difference}");
        }
    }
    the_average_is_what_is_evaluated(&dir.path().join("simclr-whole"));
    labels_judge_and_do_not_train(&data, dir.path());
}

/// Everything that a run's checkpoint holds.
fn tensors(run: &Path) -> BTreeMap<String, Vec<f32>> {
    let read = Tensor::read_safetensors(run.join("checkpoint.safetensors")).unwrap();
    let values = |tensor: Tensor| Vec::<f32>::try_from(tensor.flatten(0, -1).to_kind(Kind::Float)).unwrap();
    read.into_iter().map(|(name, tensor)| (name, values(tensor))).collect()
}

fn the_average_is_what_is_evaluated(run: &Path) {
    let checkpoint: Checkpoint = Checkpoint::load(run).unwrap();
    let loaded = Loaded::from_checkpoint(&checkpoint).unwrap();
    let name = "encoder.stem.conv.weight";
    let ours = loaded.vs.variables()[name].shallow_clone();
    let distance = |other: &Tensor| (&ours - other).abs().max().double_value(&[]);
    assert_eq!(distance(&checkpoint.average(name).unwrap()), 0.0);
    assert!(distance(&checkpoint.tensor(&format!("model.{name}")).unwrap()) > 0.0);
}

/// A run with a probe has the losses of one without.
fn labels_judge_and_do_not_train(data: &Path, dir: &Path) {
    let config = configs().into_iter().find(|config| config.method == Method::SimClr).unwrap();
    let out = dir.join("probed");
    let probe = OnlineProbe::new(Store::open(data).unwrap(), 0).unwrap();
    let clips = Clips::open(&[data.to_owned()], config.pairs.timing).unwrap();
    pretrain(&config, clips, Place::alone(&out, false), Some((probe, 1)), &AtomicBool::new(false)).unwrap();
    for (a, b) in metrics(&out).iter().zip(&metrics(&dir.join("simclr-whole"))) {
        assert!((a.loss - b.loss).abs() < 1e-5 * a.loss.abs(), "{a:?} {b:?}");
    }
    let events = fs::read_dir(&out).unwrap().filter_map(Result::ok).map(|e| e.path());
    let events: Vec<_> = events.filter(|p| p.to_string_lossy().contains("tfevents")).collect();
    assert_eq!(events.len(), 1);
    let bytes = fs::read(&events[0]).unwrap();
    let has = |tag: &str| bytes.windows(tag.len()).any(|w| w == tag.as_bytes());
    assert!(has("online/knn_accuracy") && has("online/linear_probe_accuracy") && has("train/loss"));
}
