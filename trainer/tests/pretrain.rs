//! The `trainer` program: a run that is killed goes on as if it had not been.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semblance_trainer::pretrain::StepMetrics;
use semblance_trainer::store::{Provenance, Sample, Split, StoreWriter};

/// Pictures that can be told apart: a few random rectangles each.
fn write_store(dir: &Path, pictures: usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut writer = StoreWriter::create(dir).unwrap();
    const SIDE: usize = 40;
    for i in 0..pictures {
        let mut rgb = vec![128u8; SIDE * SIDE * 3];
        for _ in 0..4 {
            let colour: [u8; 3] = rng.random();
            let (x, y) = (rng.random_range(0..SIDE - 8), rng.random_range(0..SIDE - 8));
            for row in y..y + rng.random_range(4..8) {
                for column in x..x + rng.random_range(4..8) {
                    rgb[(row * SIDE + column) * 3..][..3].copy_from_slice(&colour);
                }
            }
        }
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, 90)
            .write_image(&rgb, SIDE as u32, SIDE as u32, ExtendedColorType::Rgb8)
            .unwrap();
        writer.begin_video(&format!("p{i}"), "v");
        writer.push(&jpeg, &Sample::unlabelled(0.0, Split::Train)).unwrap();
    }
    writer.commit(Provenance::default()).unwrap();
}

fn pretrain(data: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    command.arg("pretrain").arg("--data").arg(data).arg("--out").arg(out);
    command.args(["--epochs", "40", "--batch", "8", "--side-px", "32", "--checkpoint-steps", "4"]).args(more);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn losses(out: &Path) -> Vec<StepMetrics> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default();
    text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
}

/// Lets a run reach `steps`, then kills it without warning.
fn kill_after(mut child: Child, out: &Path, steps: usize) {
    let start = Instant::now();
    while losses(out).len() < steps {
        assert!(start.elapsed() < Duration::from_secs(300), "the run does not get on");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before step {steps}");
        std::thread::sleep(Duration::from_millis(3));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_run_resumed_has_the_loss_curve_of_an_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("store");
    write_store(&data, 96);
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    kill_after(pretrain(&data, &whole, &[]).spawn().unwrap(), &whole, 30);
    kill_after(pretrain(&data, &broken, &[]).spawn().unwrap(), &broken, 10);
    let first = losses(&broken).len();
    // The lines of the killed run's last steps are undone with them; the run goes on behind its last checkpoint.
    kill_after(pretrain(&data, &broken, &["--resume"]).spawn().unwrap(), &broken, 30);
    assert!((10..30).contains(&first));
    let (whole, broken) = (losses(&whole), losses(&broken));
    for (a, b) in whole.iter().zip(&broken).take(30) {
        assert_eq!((a.step, a.epoch, a.lr), (b.step, b.epoch, b.lr));
        assert!((a.loss - b.loss).abs() < 1e-4, "{a:?} {b:?}");
    }
    let spread = whole.iter().map(|m| m.loss).fold(f64::NEG_INFINITY, f64::max)
        - whole.iter().map(|m| m.loss).fold(f64::INFINITY, f64::min);
    assert!(spread > 0.05, "the losses move, so that their agreement means something: {spread}");
}

/// Starts a run, and sends it these signals, one after another, once it has made some steps.
fn signalled(data: &Path, out: &Path, signals: &[i32]) -> Output {
    let child = pretrain(data, out, &[]).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while losses(out).len() < 6 {
        assert!(start.elapsed() < Duration::from_secs(300), "the run does not get on");
        std::thread::sleep(Duration::from_millis(3));
    }
    for &signal in signals {
        // SAFETY: the process is a child that nobody has waited for, so its number is not another's.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
    }
    child.wait_with_output().unwrap()
}

#[test]
fn a_run_that_is_told_to_end_leaves_a_checkpoint_and_goes_on_with_its_own_settings_and_data() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("store");
    write_store(&data, 96);
    let out = dir.path().join("run");
    // What SLURM and containers send.
    let Output { status, stderr, .. } = signalled(&data, &out, &[libc::SIGTERM]);
    let message = String::from_utf8(stderr).unwrap();
    assert!(status.success() && message.contains("--resume continues"), "{message}");
    assert!(message.contains("96 training frames of 96 people"), "{message}");
    let done = losses(&out).len();
    assert!(out.join("checkpoint.safetensors").exists());

    let resume = |data: &Path, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
        command.arg("pretrain").arg("--data").arg(data).arg("--out").arg(&out).arg("--resume").args(more);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    assert!(failure(&mut resume(&data, &["--batch", "16"])).contains("batch = 8, not 16"));
    let other = dir.path().join("other");
    write_store(&other, 97);
    let message = failure(&mut resume(&other, &[]));
    assert!(message.contains("store other is not the one") && message.contains("97 frames"), "{message}");
    kill_after(resume(&data, &[]).spawn().unwrap(), &out, done + 4);
    assert!(losses(&out).iter().all(|line| line.epoch == line.step / 12), "a batch is of 8, as it was");

    let hurried = signalled(&data, &dir.path().join("hurried"), &[libc::SIGTERM, libc::SIGINT]);
    assert_eq!(hurried.status.code(), Some(130), "a second signal ends it at once");
}

fn failure(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.stderr(Stdio::piped()).output().unwrap();
    let message = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    message
}

#[test]
fn senseless_settings_and_runs_in_the_way_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("store");
    write_store(&data, 16);
    let out = dir.path().join("run");
    let config = dir.path().join("c.toml");
    let fail = |more: &[&str]| failure(&mut pretrain(&data, &out, more));
    fs::write(&config, "[augment]\nblur_kernel = 4\n").unwrap();
    let with_config = ["--config", config.to_str().unwrap()];
    assert!(fail(&with_config).contains("blur_kernel = 4"));
    fs::write(&config, "epohcs = 4\n").unwrap();
    let message = fail(&with_config);
    assert!(message.contains("c.toml") && message.contains("epohcs"), "{message}");
    assert!(fail(&["--lr=-1"]).contains("lr = -1"));
    assert!(fail(&["--resume"]).contains("checkpoint.safetensors"));
    let large = failure(
        Command::new(env!("CARGO_BIN_EXE_trainer"))
            .args(["pretrain", "--batch", "64", "--data"])
            .arg(&data)
            .arg("--out")
            .arg(&out),
    );
    assert!(large.contains("16 training pictures do not fill a batch of 64"), "{large}");
    kill_after(pretrain(&data, &out, &[]).spawn().unwrap(), &out, 6);
    let fail = |more: &[&str]| failure(&mut pretrain(&data, &out, more));
    assert!(fail(&[]).contains("--resume continues it"));
    assert!(fail(&["--resume", "--seed", "7"]).contains("seed = 0, not 7"));
    let judge = |task: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
        command.args(["eval", "--random-init", "edge", "--protocol", "knn", "--task", task, "--data"]);
        failure(command.arg(&data))
    };
    assert!(judge("identity").contains("no picture is in the test split: --split train (16)"));
    assert!(judge("expression").contains("no labelled picture is in the test split: no split has one"));
    let checkpoint = out.join("checkpoint.safetensors");
    let bytes = fs::read(&checkpoint).unwrap();
    fs::write(&checkpoint, &bytes[..bytes.len() - 9]).unwrap();
    assert!(fail(&["--resume"]).contains("not a readable checkpoint"));
}
