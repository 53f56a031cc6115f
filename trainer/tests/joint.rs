//! `trainer joint` on synthetic people, who have every label.

#![allow(clippy::unwrap_used)]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{LazyLock, Mutex};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;
use semblance_calib::{HeadKind, Heads};
use semblance_face::Bundle;
use semblance_face::labels::{ACTION_UNITS, Expression, action_unit_name};
use semblance_trainer::augment::AugmentConfig;
use semblance_trainer::checkpoint::{Checkpoint, FILE_NAME, save};
use semblance_trainer::eval::{CIRCUMPLEX, Lesson, Loaded};
use semblance_trainer::export::{TOLERANCE, checkpoint_or_bundle, export};
use semblance_trainer::joint::{JointConfig, Origins, Place, Source, joint};
use semblance_trainer::optim::Rule;
use semblance_trainer::prepare::encode_jpeg;
use semblance_trainer::store::{Provenance, Sample, Split, Store, StoreWriter};
use tch::Tensor;
use tempfile::TempDir;

/// 640 drawn pictures that have every label, of which 512 are for training: what a few convolutions learn in seconds. Bars tell the
/// expression, grey levels valence and arousal, another bar whether action units are there, and the sides the yaw.
static PEOPLE: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    tch::set_num_threads(1);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("people");
    let mut writer = StoreWriter::create(&out).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for i in 0..640 {
        let (class, shown) = (rng.random_range(0..8usize), rng.random_bool(0.5));
        let [valence, arousal, turn]: [f32; 3] = std::array::from_fn(|_| rng.random_range(-1.0..1.0));
        let mut pixels = vec![96u8; SIDE * SIDE];
        let mut fill = |rows: Range<usize>, columns: Range<usize>, grey: f32| {
            rows.for_each(|y| pixels[y * SIDE..][columns.clone()].fill(grey as u8));
        };
        (0..3).filter(|bit| class >> bit & 1 == 1).for_each(|bit| fill(4 * bit..4 * bit + 3, 6..26, 255.0));
        fill(18..24, 6..26, 128.0 + 100.0 * valence);
        fill(25..31, 6..26, 128.0 + 100.0 * arousal);
        fill(13..17, 6..26, if shown { 255.0 } else { 0.0 });
        fill(0..SIDE, 0..5, 128.0 + 100.0 * turn);
        fill(0..SIDE, SIDE - 5..SIDE, 128.0 - 100.0 * turn);
        // Of one unit nobody knows anything.
        let mut units = [f32::from(u8::from(shown)); 18];
        units[UNKNOWN] = f32::NAN;
        let split = if i % 5 == 0 { Split::Val } else { Split::Train };
        let sample = Sample {
            expression: Some(Expression::ALL[class]),
            valence_arousal: Some([valence, arousal]),
            action_units: Some(units),
            pose: Some([30.0 * turn, 0.0, 0.0]),
            ..Sample::unlabelled(0.0, split)
        };
        writer.begin_video(&format!("p{i}"), "still");
        writer.push(&encode_jpeg(&pixels, SIDE as u32, SIDE as u32, 1, 95).unwrap(), &sample).unwrap();
    }
    writer.commit(Provenance::default()).unwrap();
    (dir, out)
});

const SIDE: usize = 32;

const UNKNOWN: usize = 4;

fn people() -> Vec<(String, PathBuf)> {
    vec![("people".to_owned(), PEOPLE.1.clone())]
}

fn config() -> JointConfig {
    let source = Source { name: "people".to_owned(), batch: 32, lessons: Lesson::ALL.to_vec() };
    JointConfig {
        backbone: "8/16x2/32/64".parse().unwrap(),
        side_px: SIDE as u32,
        epochs: 4,
        warmup_epochs: 1,
        optimizer: Rule::Sgd,
        lr: 0.05,
        weight_decay: 5e-4,
        mixup: 0.0,
        // Turned or cut, a bar is another one.
        augment: AugmentConfig {
            crop_scale: [1.0; 2],
            jitter_p: 0.0,
            blur_p: 0.0,
            rotate_deg: 0.0,
            erase_p: 0.0,
            ..JointConfig::default().augment
        },
        sources: vec![source],
        ..JointConfig::default()
    }
}

fn run(
    config: &JointConfig,
    origins: Origins<'_>,
    out: &Path,
    resume: bool,
    stop: bool,
) -> anyhow::Result<Checkpoint> {
    // First weights are drawn from one generator that all threads share.
    static TRAINING: Mutex<()> = Mutex::new(());
    let people = people();
    let _alone = TRAINING.lock();
    joint(config, &people, origins, Place { out, resume }, &AtomicBool::new(stop))?;
    Ok(Checkpoint::load(out)?)
}

/// The run in a folder with a head whose logits have the other sign.
fn opposed(teacher: &Path, out: &Path) -> Checkpoint {
    std::fs::create_dir(out).unwrap();
    let sign = |name: &str| if name.contains(".head.") { -1.0 } else { 1.0 };
    let bytes = std::fs::read(teacher.join(FILE_NAME)).unwrap();
    let run: Checkpoint = Checkpoint::parse(teacher.to_owned(), &bytes).unwrap();
    let names = SafeTensors::deserialize(&bytes).unwrap();
    let tensors =
        names.names().into_iter().map(|name| (name.to_owned(), run.tensor(name).unwrap() * sign(name)));
    save(&out.join(FILE_NAME), &run.meta, tensors.collect()).unwrap();
    Checkpoint::load(out).unwrap()
}

fn score(checkpoint: &Checkpoint, name: &str) -> f64 {
    checkpoint.meta.scores[name].as_float().unwrap()
}

#[test]
fn heads_learn_together_a_stopped_run_goes_on_exactly_and_all_of_it_is_exported() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let long = JointConfig { epochs: 20, ..config() };
    let through = run(&long, Origins::default(), &whole, false, false).unwrap();
    // Stopped after one step, then run to the end.
    let stopped = run(&long, Origins::default(), &parts, false, true).unwrap();
    assert_eq!(stopped.meta.step, 1);
    let resumed = run(&long, Origins::default(), &parts, true, false).unwrap();
    assert_eq!(resumed.meta.step, through.meta.step);
    for name in ["head", "valence_arousal", "action_units", "pose"] {
        let weight = |of: &Checkpoint| of.weight(&format!("{name}.weight")).unwrap();
        let difference = (weight(&through) - weight(&resumed)).abs().max().double_value(&[]);
        assert!(difference < 1e-4 * weight(&through).abs().max().double_value(&[]), "{name}: {difference}");
    }
    // Guessing has an eighth of the expressions, no concordance, and 5 degrees of error a mean of three angles.
    for (name, least) in [
        ("val_head_accuracy", 0.9),
        ("val_valence_arousal_ccc_mean", 0.9),
        ("val_action_units_f1_mean", 0.95),
        ("val_pose_negative_mae_mean", -2.5),
    ] {
        assert!(score(&through, name) > least, "{name}: {:?}", through.meta.scores);
    }
    assert!(
        score(&through, "val_ece") <= score(&through, "val_ece_before") + 0.02,
        "{:?}",
        through.meta.scores
    );
    assert!((0.125..8.0).contains(&score(&through, "temperature")), "{:?}", through.meta.scores);
    // Other settings, or other data, are no going on.
    let other = JointConfig { lr: 0.04, ..long.clone() };
    let error = run(&other, Origins::default(), &parts, true, false).unwrap_err().to_string();
    assert!(error.contains("lr was 0.05, not 0.04"), "{error}");
    let error = run(&long, Origins::default(), &parts, false, false).unwrap_err().to_string();
    assert!(error.contains("--resume continues it"), "{error}");

    let bundle = dir.path().join("bundle");
    assert!(export(&whole, &bundle, "test", toml::Table::new(), None).unwrap() <= TOLERANCE);
    let bundle = Bundle::open(&bundle).unwrap();
    let heads = Heads::from_safetensors(bundle.heads_safetensors()).unwrap();
    assert_eq!(heads.get(HeadKind::ValenceArousal).unwrap().labels(), ["valence", "arousal"]);
    let known = (0..18).filter(|&unit| unit != UNKNOWN).map(|unit| action_unit_name(ACTION_UNITS[unit]));
    assert_eq!(heads.get(HeadKind::ActionUnits).unwrap().labels(), known.collect::<Vec<_>>());
    let average = Vec::<f32>::try_from(through.average("head.weight").unwrap().view(-1)).unwrap();
    assert_eq!(heads.expression().unwrap().weight(), average);
}

#[test]
fn a_run_begins_with_another_and_learns_from_a_teacher_without_labels() {
    let dir = tempfile::tempdir().unwrap();
    let longer = JointConfig { epochs: 12, ..config() };
    let teacher = run(&longer, Origins::default(), &dir.path().join("teacher"), false, false).unwrap();
    // With a rate of nearly nothing the weights stay those that were begun with.
    let still = JointConfig { lr: 1e-12, weight_decay: 0.0, epochs: 1, warmup_epochs: 0, ..config() };
    let begun =
        run(&still, Origins { init: Some(&teacher), teachers: &[] }, &dir.path().join("begun"), false, false)
            .unwrap();
    let kernel = |of: &Checkpoint, place: &str| of.tensor(&format!("{place}.encoder.block1.kernel")).unwrap();
    let apart = |a: Tensor, b: Tensor| (a - b).abs().max().double_value(&[]);
    assert!(apart(kernel(&begun, "model"), kernel(&teacher, "average")) < 1e-6);
    let error = run(
        &JointConfig { backbone: "8/16/32".parse().unwrap(), ..still },
        Origins { init: Some(&teacher), teachers: &[] },
        &dir.path().join("other"),
        false,
        false,
    );
    assert!(error.unwrap_err().to_string().contains("a run of 8/16x2/32/64 with 32 px"));

    // Without its labels, a store's expressions can be learnt from a teacher alone; of two, from the mean of what they say.
    let mut taught = JointConfig { distil: 1.0, epochs: 12, ..config() };
    taught.sources[0].lessons = vec![Lesson::Expression];
    let by = |teachers: &[Checkpoint], out: &str, resume: bool| {
        run(&taught, Origins { init: None, teachers }, &dir.path().join(out), resume, false)
    };
    let sure = score(&teacher, "val_head_accuracy");
    let student = score(&by(std::slice::from_ref(&teacher), "taught", false).unwrap(), "val_head_accuracy");
    assert!(sure > 0.5 && student > 0.8 * sure, "a student of {student}, its teacher of {sure}");
    let error = by(&[], "taught", true).unwrap_err().to_string();
    assert!(error.contains("another checkpoint as its teacher 1"), "{error}");
    // A teacher who says the opposite of the first leaves nothing to learn.
    let opposite = opposed(&dir.path().join("teacher"), &dir.path().join("opposite"));
    let confused = score(&by(&[teacher, opposite], "confused", false).unwrap(), "val_head_accuracy");
    assert!(confused < 0.3, "{confused}");

    // A source without lessons needs a teacher.
    let mut silent = config();
    silent.sources.push(Source { name: "people".to_owned(), batch: 16, lessons: Vec::new() });
    let alone =
        run(&silent, Origins::default(), &dir.path().join("alone"), false, false).unwrap_err().to_string();
    assert!(alone.contains("no teacher"), "{alone}");
}

#[test]
fn a_bundle_is_gone_on_from_and_teaches_as_the_run_it_was_exported_from() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name);
    let exported =
        run(&JointConfig { epochs: 12, ..config() }, Origins::default(), &out("run"), false, false).unwrap();
    export(&out("run"), &out("bundle"), "test", toml::Table::new(), None).unwrap();
    let bundle = checkpoint_or_bundle(&out("bundle")).unwrap();
    assert_eq!(bundle.meta.labels, exported.meta.labels);
    let embed = |checkpoint: &Checkpoint| {
        let store = Store::open(&PEOPLE.1).unwrap();
        Tensor::from_slice(
            &Loaded::from_checkpoint(checkpoint).unwrap().embed(&store, &[0, 1, 2, 3]).unwrap().values,
        )
    };
    let apart = |a: &Tensor, b: &Tensor| ((a - b).abs().max() / b.abs().max()).double_value(&[]);
    let theirs = embed(&exported);
    assert!(apart(&embed(&bundle), &theirs) < 1e-5);
    // With a rate of nearly nothing, what was begun with stays: so do the statistics of batch normalisation, which are moved by
    // every batch towards its own, as they were taken from views of the same pictures.
    let still =
        JointConfig { lr: 1e-12, weight_decay: 0.0, warmup_epochs: 0, epochs: 2, ema: 0.0, ..config() };
    let bundle = [bundle];
    let begun = run(&still, Origins { init: bundle.first(), teachers: &bundle }, &out("begun"), false, false)
        .unwrap();
    let moved = apart(&embed(&begun), &theirs);
    assert!(moved < 0.1, "{moved}");
    // Whoever names a bundle whose branches were merged is told what to name.
    let merged = JointConfig { backbone: "edge".parse().unwrap(), epochs: 1, warmup_epochs: 0, ..config() };
    run(&merged, Origins::default(), &out("merged"), false, false).unwrap();
    export(&out("merged"), &out("merged-bundle"), "test", toml::Table::new(), None).unwrap();
    let error = format!("{:#}", checkpoint_or_bundle(&out("merged-bundle")).unwrap_err());
    assert!(error.contains("merged-bundle") && error.contains("name the run"), "{error}");
}

#[test]
fn votes_are_soft_labels_and_places_in_the_circumplex() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = StoreWriter::create(dir.path()).unwrap();
    let jpeg = encode_jpeg(&[9; 256], 16, 16, 1, 90).unwrap();
    let votes = |pairs: &[(Expression, f32)]| {
        let mut all = [0.0; 8];
        pairs.iter().for_each(|(expression, share)| all[expression.index()] = *share);
        Some(all)
    };
    let happy_and_sad =
        votes(&[(Expression::Happy, 0.375), (Expression::Sad, 0.125), (Expression::Contempt, 0.5)]);
    let samples = [
        (Expression::Happy, happy_and_sad),
        // Only for what is no class here: the label alone counts.
        (Expression::Sad, votes(&[(Expression::Contempt, 1.0)])),
        (Expression::Sad, None),
    ];
    for (i, (expression, votes)) in samples.into_iter().enumerate() {
        writer.begin_video(&format!("p{i}"), "still");
        let sample = Sample { expression: Some(expression), votes, ..Sample::unlabelled(0.0, Split::Train) };
        writer.push(&jpeg, &sample).unwrap();
    }
    writer.commit(Provenance::default()).unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut expressions = Lesson::Expression.teacher(&store, 0.5, 0.0).unwrap();
    assert_eq!(expressions.begin(&store), [0, 1, 2]);
    assert_eq!(expressions.rows(), ["happy", "sad"]);
    let learnt = Vec::<f32>::try_from(expressions.learnt(&store, &[0, 1, 2]).view(-1)).unwrap();
    assert_eq!(learnt, [0.875, 0.125, 0.0, 1.0, 0.0, 1.0]);
    // The cross-entropy with [0.875, 0.125] of equal odds.
    let loss =
        expressions.loss(&Tensor::zeros([1, 2], tch::kind::FLOAT_CPU), &expressions.learnt(&store, &[0]));
    assert!((loss.double_value(&[]) - 2f64.ln()).abs() < 1e-6);

    let mut circumplex = Lesson::Circumplex.teacher(&store, 0.0, 0.0).unwrap();
    assert_eq!(circumplex.begin(&store), [0]);
    let place = Vec::<f32>::try_from(circumplex.learnt(&store, &[0]).view(-1)).unwrap();
    let of = |expression| CIRCUMPLEX.iter().find(|(e, _)| *e == expression).unwrap().1;
    for (axis, value) in place.into_iter().enumerate() {
        let expected = 0.75 * of(Expression::Happy)[axis] + 0.25 * of(Expression::Sad)[axis];
        assert!((value - expected).abs() < 1e-6);
    }
}
