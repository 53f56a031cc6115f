//! The `edge` program.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use semblance_edge::bench::BenchReport;
use semblance_edge::check::CheckOptions;
use semblance_edge::hub::Overflow;
use semblance_edge::pipeline::Pipeline;
use semblance_edge::run::{RunOptions, Shared};
use semblance_edge::sink::SinkSpec;
use semblance_edge::smooth::OneEuro;
use semblance_edge::source::{Capture, Next, Pace, Source, SourceOptions};
use semblance_edge::stats::{Stage, Stats};
use semblance_edge::telemetry::Telemetry;
use semblance_edge::{check, run, sink, source};
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
    /// Look whether this machine can run: models, camera, disk, clock, memory, heat; one line each
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
}

const RUN_EXAMPLES: &str = "\
Examples:
  edge run --source demo --max-frames 250         a drawn face: needs no camera and no file
  edge run --source clip.mp4                      predictions on standard output, a summary on standard error
  edge run --source photo.jpg                     one picture
  edge run --source frames/ --out jsonl:out.jsonl a folder of pictures, in the order of their names
  edge run --source clip.mp4 --out csv:clip.csv   a row a face a frame, with OpenFace's columns
  edge run --source demo --out mqtt://broker/desk for Home Assistant and others
  edge run --source clip.mp4 --max-frames 100 | jq .expression.label";

const BENCH_EXAMPLES: &str = "\
Examples:
  edge bench --source clip.mp4 --frames 300        percentiles of every stage
  taskset -c 0 edge bench --source demo --json     on one core, as JSON
  edge bench --source clip.mp4 --finder seeta      with SeetaFace instead of the bundle's own finder";

const CHECK_EXAMPLES: &str = "\
Examples:
  edge check                                       ok, warn or FAIL on every line; exit status 1 where one fails
  edge check --out csv:/data/out.csv --json        that output's disk, too; one JSON object";

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
        let bundle = self.bundle()?;
        let at = || bundle.dir().display().to_string();
        let follower = Follower::from_bundle(&bundle, &self.follow_options()).with_context(at)?;
        Ok(Pipeline::new(&bundle, follower)?)
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

    /// Where predictions go, may be given several times: jsonl or csv (standard output), jsonl:FILE, csv:FILE (OpenFace's
    /// columns), mqtt://[USER[:PASSWORD]@]HOST[:PORT]/PREFIX (the password also from SEMBLANCE_MQTT_PASSWORD; options:
    /// ?rate=5, states a second; &predictions=true, every prediction; &discovery=off, or Home Assistant's prefix)
    #[arg(long, default_value = "jsonl", env = "SEMBLANCE_OUT", hide_env_values = true, value_parser = OutParser)]
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
    pipeline: PipelineArgs,
}

impl RunArgs {
    /// Whether two outputs would write to standard output.
    fn mixes_outputs(&self) -> bool {
        let is_stdout = |spec: &&SinkSpec| matches!(spec, SinkSpec::Jsonl(None) | SinkSpec::Csv(None));
        self.out.iter().filter(is_stdout).count() > 1
    }
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Outputs to look at, as for run
    #[arg(long, env = "SEMBLANCE_OUT", hide_env_values = true, value_parser = OutParser)]
    out: Vec<SinkSpec>,

    /// Folder for what outlives the program [default: systemd's, or semblance in the user's state folder]
    #[arg(long, env = "SEMBLANCE_STATE_DIR")]
    state_dir: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pipeline: PipelineArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Smooth {
    /// The One-Euro filter: little lag in motion, little jitter at rest
    OneEuro,
}

/// Reads a [`SinkSpec`]. clap's own parser would repeat in its message what was given, and with it a password.
#[derive(Clone)]
struct OutParser;

impl TypedValueParser for OutParser {
    type Value = SinkSpec;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<SinkSpec, clap::Error> {
        let parsed = value.to_str().ok_or_else(|| "it is not UTF-8".to_owned()).and_then(str::parse);
        parsed.map_err(|reason| {
            let arg = arg.map(ToString::to_string).unwrap_or_default();
            let message = format!("invalid value for '{arg}': {reason}\n");
            clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        })
    }
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
        Command::Run(args) if args.mixes_outputs() => {
            let message = "only one output can be standard output: give the others a file, as csv:FILE";
            Cli::command().error(ErrorKind::ArgumentConflict, message).exit()
        }
        Command::Run(args) => run_command(&args),
        Command::Bench(args) => bench_command(&args),
        Command::Check(args) => return check_command(&args),
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
    let mut pipeline = args.pipeline.open()?.with_landmarks(args.landmarks).with_smoothing(smoothing);
    let shared = Shared::default();
    let options = SourceOptions { play_fps: args.play_fps };
    let source = source::open(&args.source, &options, &shared.telemetry)?;
    let overflow = match source.pace() {
        Pace::Live => Overflow::DropOldest,
        Pace::Recorded => Overflow::Wait,
    };
    let mut sinks = Vec::new();
    let labels = pipeline.labels();
    for spec in &args.out {
        let subscription = shared.hub.subscribe(&spec.to_string(), QUEUE, overflow);
        let sink = sink::open(spec, &labels, subscription.stats())?;
        sinks.push(
            sink::start(sink, subscription, Arc::clone(&shared.telemetry))
                .context("cannot start a thread")?,
        );
    }
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

/// Everything that is wrong stands in the report.
fn check_command(args: &CheckArgs) -> ExitCode {
    let bundle = bundle_dir(args.pipeline.bundle.as_deref()).map_err(|e| e.to_string());
    let state_dir = args.state_dir.clone().unwrap_or_else(state_dir);
    let report = check::check(&CheckOptions {
        bundle: bundle.as_deref().map_err(String::as_str),
        follow: args.pipeline.follow_options(),
        outputs: &args.out,
        state_dir: &state_dir,
    });
    if args.json {
        println!("{}", serde_json::json!(report));
    } else {
        report.checks.iter().for_each(|finding| println!("{finding}"));
    }
    if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where systemd or the user's session keeps what outlives the program.
fn state_dir() -> PathBuf {
    let folder = |variable: &str| {
        let paths = std::env::var_os(variable)?;
        // systemd may name several.
        std::env::split_paths(&paths).next().filter(|path| !path.as_os_str().is_empty())
    };
    folder("STATE_DIRECTORY")
        .or_else(|| Some(folder("XDG_STATE_HOME")?.join("semblance")))
        .or_else(|| Some(folder("HOME")?.join(".local/state/semblance")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/semblance"))
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
