//! The `edge` program on cameras in a virtual machine: `tests/vm/run.sh`, which says where it is skipped.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::process::Command;

#[test]
fn cameras_in_a_virtual_machine() {
    let edge = Path::new(env!("CARGO_BIN_EXE_edge"));
    let rig = edge.with_file_name("examples").join("camera_rig");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vm/run.sh");
    let target = edge.parent().and_then(Path::parent).unwrap();
    // Deadlines of seconds, on emulated processors: a busy host may keep the guest from one of them once, not twice.
    for attempt in 1..=2 {
        let output =
            Command::new(&script).args([edge, &rig]).env("CARGO_TARGET_DIR", target).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        eprintln!("{text}{}", String::from_utf8_lossy(&output.stderr));
        // Written past the test runner, which keeps what `eprintln!` says of a passed test to itself.
        text.lines()
            .filter(|line| line.starts_with("SKIPPED"))
            .for_each(|line| writeln!(std::io::stderr(), "{line}").unwrap());
        if output.status.success() {
            return;
        }
        eprintln!("attempt {attempt} failed");
    }
    panic!("a check was not kept twice");
}
