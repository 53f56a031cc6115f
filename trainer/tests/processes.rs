//! `trainer pretrain` as several processes: two have the losses of one with their batches joined.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use semblance_trainer::pretrain::StepMetrics;

/// Methods, a learning rate that keeps rounding from growing within the run, and its double.
const METHODS: [(&str, [&str; 2]); 6] = [
    ("simclr", ["0.0001", "0.0002"]),
    ("sslfer", ["0.00005", "0.0001"]),
    ("moco", ["0.0001", "0.0002"]),
    ("byol", ["0.0001", "0.0002"]),
    ("simsiam", ["0.03", "0.06"]),
    ("rotnet", ["0.0001", "0.0002"]),
];

fn trainer() -> Command {
    Command::new(env!("CARGO_BIN_EXE_trainer"))
}

fn pretrain(data: &Path, out: &Path, method: &str, lr: &str) -> Command {
    let mut command = trainer();
    command.args(["pretrain", "--method", method, "--precision", "f32", "--side-px", "32"]);
    // Rounding grows from step to step: the faster, the larger the steps, and with Adam, which turns gradients near 0 into
    // whole steps of either sign, at once.
    command.args(["--batch", "16", "--epochs", "1", "--optimizer", "sgd", "--lr", lr]);
    let own = match method {
        "moco" => "[moco]\nqueue = 64\n",
        "rotnet" => "pass_over = 'frames'\n",
        _ => "",
    };
    let config = data.join(format!("{method}.toml"));
    fs::write(&config, own).unwrap();
    command.arg("--config").arg(config);
    command.arg("--data").arg(data).arg("--out").arg(out).env("OMP_NUM_THREADS", "1");
    command
}

fn metrics(out: &Path) -> Vec<StepMetrics> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Starts a process of two, as torchrun would.
fn start(mut command: Command, rank: usize, port: u16) -> Child {
    let rank = rank.to_string();
    command.env("RANK", &rank).env("LOCAL_RANK", &rank).env("WORLD_SIZE", "2");
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    command.env("SEMBLANCE_PEER_TIMEOUT_SECS", "120").stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn two_processes_have_the_losses_of_one_with_both_batches() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("store");
    let synth = trainer()
        .args(["synth", "--identities", "5", "--seconds", "8", "--fps", "2", "--side-px", "40", "--out"])
        .arg(&data)
        .stderr(Stdio::null())
        .status();
    assert!(synth.unwrap().success());
    for (method, [lr, twice_lr]) in METHODS {
        let out = |name: &str| dir.path().join(format!("{method}-{name}"));
        let (one, two, faster) = (out("1"), out("2"), out("faster"));
        for (out, lr) in [(&one, lr), (&faster, twice_lr)] {
            let alone = pretrain(&data, out, method, lr).stderr(Stdio::null()).status();
            assert!(alone.unwrap().success(), "{method}");
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let processes = [0, 1].map(|rank| start(pretrain(&data, &two, method, lr), rank, port));
        for process in processes {
            let output = process.wait_with_output().unwrap();
            assert!(output.status.success(), "{method}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let (one, two, faster) = (metrics(&one), metrics(&two), metrics(&faster));
        assert_eq!((one.len(), two.len()), (5, 5), "{method}: 80 pictures, 16 a step");
        for (a, b) in one.iter().zip(&two) {
            assert!((a.loss - b.loss).abs() < 1e-4, "{method}: {a:?} {b:?}");
            // One picture of 16 may be as near to another as to its own, to within rounding.
            let (ours, theirs) = (a.top1.unwrap(), b.top1.unwrap());
            assert!((ours - theirs).abs() < 1.5 / 16.0, "{method}: {a:?} {b:?}");
        }
        // A gradient that was wrong by a factor of two would be seen.
        let difference = (one[4].loss - faster[4].loss).abs();
        assert!(difference > 2e-4, "{method}: {difference}");
    }
}
