//! `edge check`: whether this machine can do what is asked of it, one line a matter, with a remedy where it cannot.

mod source;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use semblance_calib::Heads;
use semblance_face::frame::Leniency;
use semblance_face::{Bundle, FollowOptions, Follower, describe};
use serde::Serialize;

use crate::cameras::Cameras;
use crate::governor::Governor;
use crate::hub::ReportPool;
use crate::pipeline::Pipeline;
use crate::sink::SinkSpec;
use crate::source::{Capture, DEMO, Source, SourceOptions, open};
use crate::stats::FrameTimes;

/// How a matter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Something that is asked for now and then will not work, or may fail later.
    Warn,
    /// A run will not work.
    Fail,
}

/// One matter that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word.
    pub name: &'static str,
    /// How it stands.
    pub level: Level,
    /// What was seen.
    pub found: String,
    /// What to do about it; present where it is not ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, level: Level::Ok, found: found.into(), remedy: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: &str) -> Self {
        Self { name, level: Level::Warn, found: found.into(), remedy: Some(remedy.to_owned()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: &str) -> Self {
        Self { level: Level::Fail, ..Self::warn(name, found, remedy) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        write!(f, "{level:<4}  {:<8}  {}", self.name, self.found)?;
        self.remedy.as_ref().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

/// All that was looked at. Written as JSON it is the contract of `edge check --json`.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// Whether nothing failed.
    pub ok: bool,
    /// In the order in which it was looked at.
    pub checks: Vec<Finding>,
}

/// What is to be looked at.
#[derive(Clone, Copy, Debug)]
pub struct CheckOptions<'a> {
    /// The bundle's folder, or why none was found.
    pub bundle: Result<&'a Path, &'a str>,
    /// What is to be read; where none is named, a camera is looked for and need not be there.
    pub source: Option<&'a str>,
    /// How faces are to be found.
    pub follow: FollowOptions,
    /// Where predictions are to go.
    pub outputs: &'a [SinkSpec],
    /// Where the program keeps what outlives it.
    pub state_dir: &'a Path,
    /// Whether the server is for other machines, too: the token is then kept in the state's folder.
    pub needs_token: bool,
}

/// Looks at everything. It takes a second or two, opens no network connection but to the source and to the brokers among
/// the outputs, and leaves nothing behind.
pub fn check(options: &CheckOptions<'_>) -> CheckReport {
    let mut checks = models(options);
    checks.push(ffmpeg(options.source.is_some_and(source::needs_ffmpeg)));
    checks.push(source::source(options.source, &Cameras::list()));
    // The program makes its state's folder itself, an output's it does not; without a token it needs none.
    let state = options.state_dir;
    let there = state.ancestors().find(|part| part.is_dir()).unwrap_or(Path::new("/"));
    let unwritable = if options.needs_token { Level::Fail } else { Level::Warn };
    checks.push(disk("state", state, there, unwritable));
    for file in options.outputs.iter().filter_map(SinkSpec::file) {
        checks.push(disk("output", folder_of(file), folder_of(file), Level::Fail));
    }
    for spec in options.outputs {
        if let SinkSpec::Mqtt(spec) = spec {
            checks.push(broker(spec.host(), spec.port()));
        }
    }
    checks.extend([clock(SystemTime::now(), synchronised()), memory(), heat()]);
    CheckReport { ok: checks.iter().all(|finding| finding.level < Level::Fail), checks }
}

const FETCH: &str = "fetch or export the bundle again, or name another with --bundle DIR";

/// The bundle's files, its heads, and a frame through all of it; the first failure is the last line.
fn models(options: &CheckOptions<'_>) -> Vec<Finding> {
    let bundle = match options.bundle {
        Ok(dir) => Bundle::open(dir).map_err(|e| describe(&e)),
        Err(reason) => Err(reason.to_owned()),
    };
    let bundle = match bundle {
        Ok(bundle) => bundle,
        Err(reason) => return vec![Finding::fail("bundle", reason, FETCH)],
    };
    let manifest = bundle.manifest();
    let mut findings = vec![Finding::ok(
        "bundle",
        format!("{}: '{}', every file as its hash says", bundle.dir().display(), manifest.name),
    )];
    findings.push(heads(&bundle));
    if findings.iter().all(|finding| finding.level == Level::Ok) {
        findings.push(warm_up(&bundle, &options.follow));
    }
    findings
}

fn heads(bundle: &Bundle) -> Finding {
    let manifest = bundle.manifest();
    let file = &manifest.heads.file;
    match Heads::from_safetensors(bundle.heads_safetensors()) {
        Err(error) => Finding::fail("heads", format!("{file}: {}", describe(&error)), FETCH),
        Ok(heads) if heads.dim() != manifest.encoder.embedding_size => {
            let (reads, gives) = (heads.dim(), manifest.encoder.embedding_size);
            Finding::fail(
                "heads",
                format!("{file} reads embeddings of {reads} values, the encoder gives {gives}"),
                FETCH,
            )
        }
        Ok(heads) => {
            let kinds = semblance_calib::HeadKind::ALL;
            let names: Vec<&str> =
                kinds.into_iter().filter(|&kind| heads.get(kind).is_some()).map(|kind| kind.name()).collect();
            Finding::ok("heads", format!("{} on {} values", names.join(", "), heads.dim()))
        }
    }
}

/// Loads the models and puts drawn faces through them.
fn warm_up(bundle: &Bundle, follow: &FollowOptions) -> Finding {
    const FRAMES: u32 = 10;
    let run = || -> Result<(Duration, Duration, usize), String> {
        let start = Instant::now();
        let follower = Follower::from_bundle(bundle, follow).map_err(|e| describe(&e))?;
        let mut pipeline = Pipeline::new(bundle, follower).map_err(|e| describe(&e))?;
        let loaded = start.elapsed();
        let mut demo =
            open(DEMO, &SourceOptions::default(), &Default::default()).map_err(|e| describe(&e))?;
        let mut capture = Capture::new().map_err(|e| describe(&e))?;
        let (mut pool, mut times) = (ReportPool::default(), FrameTimes::default());
        let (mut faces, mut spent) = (0, Duration::ZERO);
        for _ in 0..FRAMES {
            next_frame(demo.as_mut(), &mut capture)?;
            let begun = Instant::now();
            let report = pool
                .fill(|report| pipeline.process(&capture, [Duration::ZERO; 2], &mut times, report))
                .map_err(|e| describe(&e))?;
            spent += begun.elapsed();
            faces += report.faces.len();
        }
        Ok((loaded, spent / FRAMES, faces))
    };
    match run() {
        Err(reason) => Finding::fail("models", reason, FETCH),
        Ok((loaded, frame, faces)) => {
            let took = format!(
                "loaded in {:.2} s, then {:.1} ms a frame",
                loaded.as_secs_f64(),
                frame.as_secs_f64() * 1000.0
            );
            match faces {
                0 => Finding::warn(
                    "models",
                    format!("{took}; a drawn face was not found"),
                    "look whether real faces are: edge run --source PICTURE",
                ),
                _ => Finding::ok("models", format!("{took}; a drawn face was found")),
            }
        }
    }
}

fn next_frame(source: &mut dyn Source, capture: &mut Capture) -> Result<(), String> {
    source.next(capture).map_err(|e| describe(&e))?;
    capture.decode(Leniency::Strict).map_err(|e| describe(&e))
}

/// The program that reads videos and streams; without it a run fails where it `is_needed`.
fn ffmpeg(is_needed: bool) -> Finding {
    const INSTALL: &str =
        "without it there are no videos and no streams: install it (apt-get install ffmpeg)";
    let output = Command::new("ffmpeg").arg("-version").stdin(Stdio::null()).output();
    let problem = match output {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            let version = text.split_whitespace().nth(2).unwrap_or("of unknown version");
            return Finding::ok("ffmpeg", version);
        }
        Ok(output) => format!("it ends with {}", output.status),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "not installed".to_owned(),
        Err(error) => format!("it cannot be started: {error}"),
    };
    let level = if is_needed { Level::Fail } else { Level::Warn };
    Finding { level, ..Finding::warn("ffmpeg", problem, INSTALL) }
}

/// Below this much room writing will fail soon...
const LEAST_DISK_MB: u64 = 50;
/// ...and below this one had better look after it.
const LITTLE_DISK_MB: u64 = 500;

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a byte `there`, where the folder `dir` is or would be made, and takes it away.
fn disk(name: &'static str, dir: &Path, there: &Path, unwritable: Level) -> Finding {
    let shown = dir.display();
    let probe = there.join(format!(".semblance-check-{}", std::process::id()));
    let written =
        File::create_new(&probe).and_then(|mut file| file.write_all(b"\n").and_then(|()| file.sync_all()));
    let _ = fs::remove_file(&probe);
    if let Err(error) = written {
        let found = format!("{shown} cannot be written to: {error}");
        let remedy = "create it, give this user the right to write there, or make room";
        return Finding { level: unwritable, ..Finding::warn(name, found, remedy) };
    }
    let remedy = "make room, or write elsewhere";
    match fs4::available_space(there).map(|bytes| bytes / 1_000_000) {
        Ok(mb) if mb < LEAST_DISK_MB => Finding::fail(name, format!("{shown}: {mb} MB free"), remedy),
        Ok(mb) if mb < LITTLE_DISK_MB => Finding::warn(name, format!("{shown}: {mb} MB free"), remedy),
        Ok(mb) => Finding::ok(name, format!("{shown}: {:.1} GB free", mb as f64 / 1000.0)),
        Err(error) => {
            Finding::warn(name, format!("{shown}: free space is not told: {error}"), "look with df")
        }
    }
}

/// Whether anybody listens at `host:port`, at any of the addresses that the host has.
fn answers(address: &str) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for one in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&one, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Whether anybody listens where a broker should.
fn broker(host: &str, port: u16) -> Finding {
    let address = format!("{host}:{port}");
    match answers(&address) {
        Ok(()) => Finding::ok("mqtt", format!("{address} answers")),
        Err(error) => Finding::warn(
            "mqtt",
            format!("{address}: {error}"),
            "start the broker or correct the address; edge run goes on trying",
        ),
    }
}

/// 2025-01-01, before which this program did not exist.
const EARLIEST: Duration = Duration::from_secs(1_735_689_600);
const SET_CLOCK: &str = "set the time: sudo timedatectl set-ntp true";

fn clock(now: SystemTime, synchronised: Option<bool>) -> Finding {
    match now.duration_since(UNIX_EPOCH) {
        Ok(since) if since >= EARLIEST => match synchronised {
            Some(false) => Finding::warn("clock", "not synchronised with a time server", SET_CLOCK),
            Some(true) => Finding::ok("clock", "synchronised"),
            None => Finding::ok("clock", "plausible"),
        },
        _ => Finding::warn("clock", "it is years behind", SET_CLOCK),
    }
}

/// Whether the kernel holds the clock for synchronised, where it tells.
#[cfg(target_os = "linux")]
fn synchronised() -> Option<bool> {
    // SAFETY: `timex` is plain numbers, for which zeroes are valid; with `modes` at 0 the call only fills it in.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&mut timex)
    };
    (state >= 0).then_some(state != libc::TIME_ERROR)
}

#[cfg(not(target_os = "linux"))]
fn synchronised() -> Option<bool> {
    None
}

/// What a run holds at most, about, and what is comfortable, in MiB.
const LEAST_MEMORY_MB: u64 = 128;
const LITTLE_MEMORY_MB: u64 = 256;

fn memory() -> Finding {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let remedy = "end other programs, or use a device with more";
    match kib.map(|kib| kib / 1024) {
        Some(mb) if mb < LEAST_MEMORY_MB => Finding::fail("memory", format!("{mb} MiB available"), remedy),
        Some(mb) if mb < LITTLE_MEMORY_MB => Finding::warn("memory", format!("{mb} MiB available"), remedy),
        Some(mb) => Finding::ok("memory", format!("{mb} MiB available")),
        None => {
            Finding::warn("memory", "the system does not tell how much is available", "look for yourself")
        }
    }
}

fn heat() -> Finding {
    match Governor::new(false, 1, None).hottest() {
        Some((celsius, over)) if over >= -crate::governor::MARGIN_C => Finding::warn(
            "heat",
            format!("{celsius:.0} °C, where it slows down at {:.0} °C", celsius - over),
            "cool the device: the rate will be lowered",
        ),
        Some((celsius, over)) => {
            Finding::ok("heat", format!("{celsius:.0} °C, slows down at {:.0} °C", celsius - over))
        }
        None => Finding::warn(
            "heat",
            "no thermal zone can be read",
            "on a board look at /sys/class/thermal; a virtual machine or container has none",
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn clocks_that_are_behind_or_alone_are_told() {
        let level = |secs, synchronised| clock(UNIX_EPOCH + Duration::from_secs(secs), synchronised).level;
        assert_eq!(level(3600, Some(true)), Level::Warn);
        assert_eq!(level(1_800_000_000, Some(false)), Level::Warn);
        assert_eq!(level(1_800_000_000, None), Level::Ok);
    }

    #[test]
    fn folders_are_tried_and_left_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let disk = |dir: &Path, there: &Path| disk("output", dir, there, Level::Fail);
        assert_ne!(disk(dir.path(), dir.path()).level, Level::Fail);
        assert_ne!(disk(&dir.path().join("to/be/made"), dir.path()).level, Level::Fail);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let gone = dir.path().join("missing");
        let missing = disk(&gone, &gone);
        assert!(missing.level == Level::Fail && missing.to_string().contains("missing"), "{missing}");
        assert!(missing.remedy.is_some());
        assert_eq!(super::disk("state", &gone, &gone, Level::Warn).level, Level::Warn);
    }

    #[test]
    fn lines_are_read_at_a_glance() {
        assert_eq!(Finding::ok("clock", "fine").to_string(), "ok    clock     fine");
        assert_eq!(Finding::fail("disk", "full", "make room").to_string(), "FAIL  disk      full; make room");
    }

    #[test]
    fn a_broker_that_is_not_there_is_a_warning() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert_eq!(broker("127.0.0.1", port).level, Level::Warn);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(broker("127.0.0.1", listener.local_addr().unwrap().port()).level, Level::Ok);
    }
}
