//! What systemd is told, and what becomes of clients and readers when settings are read anew or a reader goes.

#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod serving;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use serde_json::Value;
use serving::{Serving, SseClient, edge, get};

/// Killed when dropped.
struct Running(Child);

impl Running {
    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn within<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn systemd_is_told_that_it_is_ready_alive_reloading_and_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut run = Running(
        edge(&["run", "--source", "demo", "--max-fps", "10", "--http", "off", "--out", "jsonl:/dev/null"])
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "400000")
            .env_remove("WATCHDOG_PID")
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut buffer = [0; 4096];
    // The next message with this line in it.
    let mut until = |wanted: &str| loop {
        let length = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{wanted}: {e}"));
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if message.lines().any(|line| line.starts_with(wanted)) {
            break message;
        }
    };
    until("READY=1");
    until("STATUS=demo: ");
    for _ in 0..4 {
        until("WATCHDOG=1");
    }
    run.signal("-HUP");
    let told = until("RELOADING=1");
    assert!(told.contains("\nMONOTONIC_USEC="), "{told}");
    until("READY=1");
    run.signal("-TERM");
    until("STOPPING=1");
    assert!(run.0.wait().unwrap().success());
}

#[test]
fn a_reload_binds_the_same_address_again_or_another() {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (first, second) = (free(), free());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("edge.toml");
    let settings = |addr: SocketAddr| {
        let text = format!("source = \"demo\"\nmax_fps = 10\nout = \"jsonl:/dev/null\"\nhttp = \"{addr}\"\n");
        fs::write(&file, text).unwrap();
    };
    settings(first);
    let config = file.to_str().unwrap();
    let run = Running(edge(&["run", "--config", config]).stderr(Stdio::null()).spawn().unwrap());
    let state = |addr: SocketAddr| {
        let mut body = ureq::get(format!("http://{addr}/v1/state")).call().ok()?.into_body();
        serde_json::from_str::<Value>(&body.read_to_string().ok()?).ok()
    };
    let uptime = |addr| within("the server answers", || state(addr)?["uptime_s"].as_f64());
    uptime(first);
    // A client that is connected does not keep the address from being bound again; it is let go.
    let mut client = SseClient::open(first, "/v1/stream");
    client.next().unwrap();
    let before = uptime(first);
    run.signal("-HUP");
    while client.next().is_some() {}
    assert!(uptime(first) > before, "the program goes on");
    settings(second);
    run.signal("-HUP");
    assert!(uptime(second) > before && TcpStream::connect(first).is_err());
}

#[test]
fn a_pipe_whose_reader_goes_is_named_and_leaves_the_other_outputs_alone() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || BufReader::new(File::open(fifo).unwrap()).lines().take(3).map(Result::unwrap).count()
    });
    let serving = Serving::start("127.0.0.1", &["--out", &format!("jsonl:{}", fifo.display())]);
    assert_eq!(reader.join().unwrap(), 3);
    let name = fifo.display().to_string();
    let failed = within("the output is given up", || {
        let state = serving.state();
        let failed = state["failed_outputs"].as_array().unwrap();
        failed.iter().any(|output| output["name"].as_str().unwrap().contains(&name)).then(|| state.clone())
    });
    let health = get(serving.addr, "/healthz", &[]);
    assert!(health.status == 503 && health.text().contains("fifo"), "{}", health.text());
    let lines = || fs::read_to_string(serving.jsonl()).unwrap().lines().count();
    let before = lines();
    within("the other output goes on", || (lines() > before + 5).then_some(()));
    assert!(serving.state()["frames"].as_u64() > failed["frames"].as_u64());
}

#[test]
fn a_terminal_that_is_closed_ends_a_run_in_good_order() {
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: both numbers are written to, and the other arguments may be null.
    let opened = unsafe { libc::openpty(&mut ours, &mut theirs, null_mut(), null(), null()) };
    assert_eq!(opened, 0);
    // SAFETY: both were just opened and belong to nobody else.
    let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.jsonl");
    let mut run = Running(
        edge(&["run", "--source", "demo", "--http", "off", "--out", &format!("jsonl:{}", out.display())])
            .stdin(theirs.try_clone().unwrap())
            .stderr(theirs)
            .spawn()
            .unwrap(),
    );
    let lines = || fs::read_to_string(&out).unwrap_or_default().lines().count();
    within("predictions", || (lines() > 2).then_some(()));
    drop(ours);
    // As the shell and the kernel do, one after the other.
    run.signal("-HUP");
    run.signal("-HUP");
    let status = within("its end", || run.0.try_wait().unwrap());
    assert!(status.success(), "{status}");
    assert!(fs::read_to_string(&out).unwrap().ends_with("}\n"), "what was queued is written as a whole");
}
