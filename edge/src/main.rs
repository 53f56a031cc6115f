//! The `edge` program.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use semblance_edge::bench::BenchReport;
use semblance_edge::http::{self, About, HttpError, HttpOptions, Labels, Server};
use semblance_edge::hub::Overflow;
use semblance_edge::pipeline::Pipeline;
use semblance_edge::run::{RunOptions, Shared};
use semblance_edge::sink::SinkSpec;
use semblance_edge::smooth::OneEuro;
use semblance_edge::source::{Capture, Next, Pace, Source, SourceOptions};
use semblance_edge::stats::{Stage, Stats};
use semblance_edge::telemetry::Telemetry;
use semblance_edge::{run, sink, source};
use semblance_face::follow::FinderKind;
use semblance_face::{Bundle, FollowOptions, Follower};

/// Reads facial expression from pictures and video, on the device.
#[derive(Debug, Parser)]
#[command(name = "edge", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Predict on every face of a source: one JSON object a face a frame
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Measure what each stage of a frame costs on this machine
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(BenchArgs),
}

const RUN_EXAMPLES: &str = "\
Examples:
  edge run --source demo --max-frames 250         a drawn face: needs no camera and no file
  edge run --source clip.mp4                      predictions on standard output, a summary on standard error
  edge run --source photo.jpg                     one picture
  edge run --source frames/ --out jsonl:out.jsonl a folder of pictures, in the order of their names
  edge run --source demo --http 0.0.0.0:8017      the dashboard for the whole house, with a token
  edge run --source clip.mp4 --max-frames 100 | jq .expression.label";

const BENCH_EXAMPLES: &str = "\
Examples:
  edge bench --source clip.mp4 --frames 300        percentiles of every stage
  taskset -c 0 edge bench --source demo --json     on one core, as JSON
  edge bench --source clip.mp4 --finder seeta      with SeetaFace instead of the bundle's own finder";

/// What run and bench share: the models and how faces are found.
#[derive(Debug, Args)]
struct PipelineArgs {
    /// Folder with the models [default: models/default in the working folder, beside the program, or installed]
    #[arg(long, env = "SEMBLANCE_BUNDLE")]
    bundle: Option<PathBuf>,

    /// Which finder: the bundle's own, or SeetaFace's frontal detector
    #[arg(long, value_enum, default_value = "bundle", env = "SEMBLANCE_FINDER")]
    finder: FinderArg,

    /// Longer side, in pixels, of the reduced picture that the bundle's finder searches: 160 finds the faces of people
    /// before a webcam, 320 faces that are small in the picture [default: the bundle's]
    #[arg(long, env = "SEMBLANCE_SEARCH_SIDE", value_parser = clap::value_parser!(u32).range(32..=1280))]
    search_side: Option<u32>,

    /// Run the finder on every N-th frame; in between, and while nothing is lost, faces are followed by their landmarks
    #[arg(long, value_name = "N", default_value_t = Follower::DEFAULT_FIND_EVERY, env = "SEMBLANCE_FIND_EVERY",
          value_parser = clap::value_parser!(u32).range(1..))]
    find_every: u32,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FinderArg {
    Bundle,
    Seeta,
}

impl PipelineArgs {
    fn open(&self) -> anyhow::Result<Pipeline> {
        self.open_on(&self.bundle()?)
    }

    fn open_on(&self, bundle: &Bundle) -> anyhow::Result<Pipeline> {
        let at = || bundle.dir().display().to_string();
        let follower = Follower::from_bundle(bundle, &self.follow_options()).with_context(at)?;
        Ok(Pipeline::new(bundle, follower)?)
    }

    fn bundle(&self) -> anyhow::Result<Bundle> {
        Ok(Bundle::open(&bundle_dir(self.bundle.as_deref())?)?)
    }

    fn follow_options(&self) -> FollowOptions {
        let finder = match self.finder {
            FinderArg::Bundle => FinderKind::Bundle,
            FinderArg::Seeta => FinderKind::Seeta,
        };
        FollowOptions { finder, search_side_px: self.search_side, find_every: self.find_every }
    }
}

#[derive(Debug, Args)]
struct BenchArgs {
    /// What is measured on: demo, a video file, a picture, or a folder of pictures
    #[arg(long, default_value = "demo", env = "SEMBLANCE_SOURCE")]
    source: String,

    /// Frames to measure, after 10 that warm up
    #[arg(long, default_value_t = 300)]
    frames: u64,

    /// Run the finder alone, on every frame: what it costs where nothing else is in the caches
    #[arg(long)]
    find_only: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pipeline: PipelineArgs,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// demo (a drawn face, no hardware), a video file (read through ffmpeg), a picture, or a folder of pictures
    #[arg(long, env = "SEMBLANCE_SOURCE")]
    source: String,

    /// Where predictions go: jsonl (standard output) or jsonl:FILE; may be given several times
    #[arg(long, default_value = "jsonl", env = "SEMBLANCE_OUT")]
    out: Vec<SinkSpec>,

    /// Stop after this many frames
    #[arg(long, env = "SEMBLANCE_MAX_FRAMES")]
    max_frames: Option<u64>,

    /// Play a recording at this many frames a second, as a camera would: frames that there is no time for are left out
    #[arg(long, value_name = "FPS", value_parser = rate, env = "SEMBLANCE_PLAY_FPS")]
    play_fps: Option<f64>,

    /// Compute at most this many frames a second, always on the newest
    #[arg(long, value_name = "FPS", value_parser = rate, env = "SEMBLANCE_MAX_FPS")]
    max_fps: Option<f64>,

    /// Smooth expressions, valence, arousal, action units and pose over time
    #[arg(long, value_enum, env = "SEMBLANCE_SMOOTH")]
    smooth: Option<Smooth>,

    /// Write the 68 landmarks of every face, too
    #[arg(long, env = "SEMBLANCE_LANDMARKS")]
    landmarks: bool,

    #[command(flatten)]
    http: HttpArgs,

    #[command(flatten)]
    pipeline: PipelineArgs,
}

/// The HTTP server.
#[derive(Debug, Args)]
struct HttpArgs {
    /// Address of the dashboard and the HTTP API, or off; beyond this machine a token is asked for [default: 127.0.0.1:8017
    /// for live sources, off for recordings]
    #[arg(long, value_name = "ADDR", env = "SEMBLANCE_HTTP")]
    http: Option<HttpChoice>,

    /// A further name that the server may be called by, as camera.local; may be given several times
    #[arg(long, value_name = "NAME", env = "SEMBLANCE_HTTP_HOST", value_delimiter = ',')]
    http_host: Vec<String>,

    /// An origin, as https://example.org, whose pages may read from the server; may be given several times
    #[arg(long, value_name = "ORIGIN", env = "SEMBLANCE_CORS", value_delimiter = ',')]
    cors: Vec<String>,

    /// Folder for what is kept, the token [default: systemd's state folder, or ~/.local/state/semblance]
    #[arg(long, value_name = "DIR", env = "SEMBLANCE_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HttpChoice {
    Off,
    At(SocketAddr),
}

impl FromStr for HttpChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "off" => Ok(Self::Off),
            Ok(addr) => Ok(Self::At(addr)),
            Err(_) => {
                Err("give an address with a port, as 127.0.0.1:8017 or 0.0.0.0:8017, or off".to_owned())
            }
        }
    }
}

impl HttpArgs {
    /// Starts the server, where one is asked for or usual. Where nobody asked, that there is none is no failure.
    fn start(&self, live: bool, shared: &Arc<Shared>, about: About) -> anyhow::Result<Option<Server>> {
        let (addr, asked) = match self.http {
            Some(HttpChoice::At(addr)) => (addr, true),
            None if live => (http::DEFAULT_ADDR, false),
            None | Some(HttpChoice::Off) => return Ok(None),
        };
        let options = HttpOptions {
            state_dir: self.state_dir.clone().or_else(default_state_dir),
            allowed_hosts: self.http_host.clone(),
            cors_origins: self.cors.clone(),
            keeps_run: asked,
            ..HttpOptions::new(addr)
        };
        let server = match Server::start(&options, Arc::clone(shared), about) {
            Err(error @ (HttpError::Taken { .. } | HttpError::Listen { .. })) if !asked => {
                eprintln!("edge: no dashboard: {error}");
                return Ok(None);
            }
            server => server?,
        };
        match server.token_file() {
            None => eprintln!("edge: dashboard at http://{}/", server.local_addr()),
            Some(file) => {
                let file = file.display();
                eprintln!(
                    "edge: dashboard at http://{}/?token=TOKEN, TOKEN is in {file}",
                    server.local_addr()
                );
            }
        }
        Ok(Some(server))
    }
}

/// Where a service or a user keeps state.
fn default_state_dir() -> Option<PathBuf> {
    let dir = |name| std::env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    // systemd gives a list where a unit has several; ours has one.
    dir("STATE_DIRECTORY")
        .or_else(|| Some(dir("XDG_STATE_HOME")?.join("semblance")))
        .or_else(|| Some(dir("HOME")?.join(".local/state/semblance")))
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Smooth {
    /// The One-Euro filter: little lag in motion, little jitter at rest
    OneEuro,
}

/// A number of frames a second.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(fps) if (0.1..=1000.0).contains(&fps) => Ok(fps),
        _ => Err("give a rate from 0.1 to 1000 frames a second".to_owned()),
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let result = match Cli::parse().command {
        Command::Run(args) => run_command(&args),
        Command::Bench(args) => bench_command(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edge: {}", semblance_face::describe(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Reports that a sink may be behind by.
const QUEUE: usize = 256;
/// Sinks have this long to write what is queued when a run ends.
const DRAIN: Duration = Duration::from_secs(2);

fn run_command(args: &RunArgs) -> anyhow::Result<()> {
    let smoothing = args.smooth.map(|Smooth::OneEuro| OneEuro::default());
    let bundle = args.pipeline.bundle()?;
    let mut pipeline =
        args.pipeline.open_on(&bundle)?.with_landmarks(args.landmarks).with_smoothing(smoothing);
    let shared = Arc::new(Shared::default());
    let options = SourceOptions { play_fps: args.play_fps };
    let source = source::open(&args.source, &options, &shared.telemetry)?;
    let overflow = match source.pace() {
        Pace::Live => Overflow::DropOldest,
        Pace::Recorded => Overflow::Wait,
    };
    let mut sinks = Vec::new();
    for spec in &args.out {
        let subscription = shared.hub.subscribe(&spec.to_string(), QUEUE, overflow);
        let sink = sink::open(spec)?;
        sinks.push(
            sink::start(sink, subscription, Arc::clone(&shared.telemetry))
                .context("cannot start a thread")?,
        );
    }
    let about = About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        bundle: bundle.manifest().name.clone(),
        source: args.source.clone(),
        labels: Labels::from(pipeline.heads()),
        user: None,
    };
    drop(bundle);
    let live = source.pace() == Pace::Live && args.play_fps.is_none();
    let server = args.http.start(live, &shared, about)?;
    let stop = Arc::new(AtomicBool::new(false));
    let on_signal = Arc::clone(&stop);
    ctrlc::set_handler(move || on_signal.store(true, Ordering::Relaxed)).context("cannot handle Ctrl-C")?;

    let start = Instant::now();
    let options = RunOptions {
        max_frames: args.max_frames,
        find_every: args.pipeline.find_every,
        max_fps: args.max_fps,
    };
    let result = run::run(source, &mut pipeline, &shared, &options, &stop);
    shared.hub.close();
    let finished = sink::finish(sinks, DRAIN);
    drop(server);
    let stats = shared.telemetry.stats();
    if stats.frames > 0 || result.is_ok() {
        eprintln!("{}", stats.summary(start.elapsed()));
    }
    drop(stats);
    result?;
    Ok(finished?)
}

fn bench_command(args: &BenchArgs) -> anyhow::Result<()> {
    let mut stats = Stats::default();
    let wall =
        if args.find_only { bench_finder(args, &mut stats)? } else { bench_pipeline(args, &mut stats)? };
    if args.json {
        println!("{}", serde_json::to_string(&BenchReport::of(&stats, wall))?);
    } else {
        println!("{}", stats.summary(wall));
    }
    Ok(())
}

const WARM_UP_FRAMES: u64 = 10;

/// The whole way of a frame; returns the time that all took.
fn bench_pipeline(args: &BenchArgs, stats: &mut Stats) -> anyhow::Result<Duration> {
    let mut pipeline = args.pipeline.open()?;
    let never = AtomicBool::new(false);
    let mut measure = |frames: u64| -> anyhow::Result<Stats> {
        let shared = Shared::default();
        let source = open_recorded(&args.source, &shared.telemetry)?;
        let options =
            RunOptions { max_frames: Some(frames), find_every: args.pipeline.find_every, max_fps: None };
        run::run(source, &mut pipeline, &shared, &options, &never)?;
        let stats = shared.telemetry.stats().clone();
        Ok(stats)
    };
    measure(WARM_UP_FRAMES)?;
    let start = Instant::now();
    *stats = measure(args.frames)?;
    Ok(start.elapsed())
}

fn open_recorded(spec: &str, telemetry: &Arc<Telemetry>) -> anyhow::Result<Box<dyn Source>> {
    Ok(source::open(spec, &SourceOptions::default(), telemetry)?)
}

/// The finder alone, on frames that are decoded before; returns the time it took.
fn bench_finder(args: &BenchArgs, stats: &mut Stats) -> anyhow::Result<Duration> {
    // Few, so that they stay in the caches, as a frame does that was just decoded.
    const FRAMES_HELD: usize = 4;
    let mut finder = args.pipeline.follow_options().open_finder(&args.pipeline.bundle()?)?;
    let mut source = open_recorded(&args.source, &Arc::default())?;
    let mut frames = Vec::new();
    let mut capture = Capture::new()?;
    while frames.len() < FRAMES_HELD {
        match source.next(&mut capture)? {
            Next::Frame => {
                capture.decode()?;
                frames.push(capture.frame.clone());
            }
            Next::Skipped(_) | Next::Idle => {}
            Next::End => break,
        }
    }
    let mut found = Vec::new();
    let mut wall = Duration::ZERO;
    for (i, frame) in (0..WARM_UP_FRAMES + args.frames).zip(frames.iter().cycle()) {
        let start = Instant::now();
        finder.find(frame, &mut found)?;
        let took = start.elapsed();
        if i >= WARM_UP_FRAMES {
            stats.frames += 1;
            stats.frames_with_face += u64::from(!found.is_empty());
            stats.record(Stage::Find, took);
            wall += took;
        }
    }
    Ok(wall)
}

/// The bundle asked for, or the first of the usual places that has one.
fn bundle_dir(asked: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(dir) = asked {
        return Ok(dir.to_owned());
    }
    const DEFAULT: &str = "models/default";
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(DEFAULT)));
    let places: Vec<PathBuf> =
        [Some(DEFAULT.into()), beside, Some(Path::new("/usr/share/semblance").join(DEFAULT))]
            .into_iter()
            .flatten()
            .collect();
    match places.iter().find(|dir| dir.join("bundle.toml").is_file()) {
        Some(dir) => Ok(dir.clone()),
        None => {
            let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
            bail!("no bundle found (looked in {}): name one with --bundle DIR", places.join(", "))
        }
    }
}
