//! The `edge` program.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use semblance_edge::pipeline::Pipeline;
use semblance_edge::sink::{JsonlSink, SinkSpec};
use semblance_edge::stats::Stats;
use semblance_edge::{run, source};
use semblance_face::Bundle;
use semblance_face::finder::SeetaFinder;

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
}

const RUN_EXAMPLES: &str = "\
Examples:
  edge run --source demo --max-frames 250         a drawn face: needs no camera and no file
  edge run --source clip.mp4                      predictions on standard output, a summary on standard error
  edge run --source photo.jpg                     one picture
  edge run --source frames/ --out jsonl:out.jsonl a folder of pictures, in the order of their names
  edge run --source clip.mp4 --max-frames 100 | jq .expression.label";

#[derive(Debug, Args)]
struct RunArgs {
    /// demo (a drawn face, no hardware), a video file (read through ffmpeg), a picture, or a folder of pictures
    #[arg(long, env = "SEMBLANCE_SOURCE")]
    source: String,

    /// Folder with the models [default: models/default in the working folder, beside the program, or installed]
    #[arg(long, env = "SEMBLANCE_BUNDLE")]
    bundle: Option<PathBuf>,

    /// Where predictions go: jsonl (standard output) or jsonl:FILE; may be given several times
    #[arg(long, default_value = "jsonl", env = "SEMBLANCE_OUT")]
    out: Vec<SinkSpec>,

    /// Stop after this many frames
    #[arg(long, env = "SEMBLANCE_MAX_FRAMES")]
    max_frames: Option<u64>,
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let Cli { command: Command::Run(args) } = Cli::parse();
    match run_command(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_command(args: &RunArgs) -> anyhow::Result<()> {
    let bundle = Bundle::open(&bundle_dir(args.bundle.as_deref())?)?;
    let mut pipeline = Pipeline::new(&bundle, Box::new(SeetaFinder::new()?))?;
    let source = source::open(&args.source)?;
    let mut sinks = args.out.iter().map(JsonlSink::open).collect::<Result<Vec<_>, _>>()?;
    let stop = Arc::new(AtomicBool::new(false));
    let on_signal = Arc::clone(&stop);
    ctrlc::set_handler(move || on_signal.store(true, Ordering::Relaxed)).context("cannot handle Ctrl-C")?;

    let mut stats = Stats::default();
    let start = Instant::now();
    let skipped = |what: &str| eprintln!("edge: skipped {what}");
    let result = run::run(source, &mut pipeline, &mut sinks, args.max_frames, &stop, &mut stats, skipped);
    if stats.frames > 0 || result.is_ok() {
        eprintln!("{}", stats.summary(start.elapsed()));
    }
    Ok(result?)
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
