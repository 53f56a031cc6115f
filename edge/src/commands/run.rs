//! `edge run`: predictions on every face of a source, until it ends or somebody says so.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use sd_notify::NotifyState;
use semblance_edge::hub::Overflow;
use semblance_edge::logging::LogFormat;
use semblance_edge::run::{self, RunOptions, Shared};
use semblance_edge::service::{self, Reporter, Signals};
use semblance_edge::sink::{self, SinkSpec};
use semblance_edge::smooth::OneEuro;
use semblance_edge::source::{self, Pace, SourceOptions};

use super::PipelineArgs;

pub(crate) const EXAMPLES: &str = "\
Examples:
  edge run --source demo --max-frames 250         a drawn face: needs no camera and no file
  edge run --source clip.mp4                      predictions on standard output, a summary on standard error
  edge run --source photo.jpg                     one picture
  edge run --source frames/ --out jsonl:out.jsonl a folder of pictures, in the order of their names
  edge run --source clip.mp4 --max-frames 100 | jq .expression.label";

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
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

    /// TOML file with any of these settings, by their names with _ for - [default: /etc/semblance/edge.toml, where it is
    /// there]; `edge config` prints one
    #[arg(long, env = "SEMBLANCE_CONFIG")]
    config: Option<PathBuf>,

    /// How log lines look
    #[arg(long, value_enum, default_value = "auto", env = "SEMBLANCE_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,

    #[command(flatten)]
    pipeline: PipelineArgs,
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

/// Reports that a sink may be behind by.
const QUEUE: usize = 256;
/// Sinks have this long to write what is queued when a run ends.
const DRAIN: Duration = Duration::from_secs(2);

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is over.
    Done,
    /// It is to start again with settings read anew.
    Reload,
}

/// Runs once. `again` says that a run before has written to the same outputs: they are continued.
pub(crate) fn command(args: &RunArgs, signals: &Signals, again: bool) -> anyhow::Result<Outcome> {
    let smoothing = args.smooth.map(|Smooth::OneEuro| OneEuro::default());
    let mut pipeline = args.pipeline.open()?.with_landmarks(args.landmarks).with_smoothing(smoothing);
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
        let sink = sink::open(spec, again)?;
        let telemetry = Arc::clone(&shared.telemetry);
        sinks.push(sink::start(sink, subscription, telemetry).context("cannot start a thread")?);
    }
    let reporter = Reporter::start(Arc::clone(&shared)).context("cannot start a thread")?;
    let start = Instant::now();
    let options = RunOptions {
        max_frames: args.max_frames,
        find_every: args.pipeline.find_every,
        max_fps: args.max_fps,
    };
    let result = run::run(source, &mut pipeline, &shared, &options, signals.stop());
    let reload = signals.take_reload();
    drop(reporter);
    service::notify(&[if reload { NotifyState::Reloading } else { NotifyState::Stopping }]);
    shared.hub.close();
    let finished = sink::finish(sinks, DRAIN);
    {
        let stats = shared.telemetry.stats();
        if stats.frames > 0 || result.is_ok() {
            eprintln!("{}", stats.summary(start.elapsed()));
        }
    }
    result?;
    finished?;
    Ok(if reload { Outcome::Reload } else { Outcome::Done })
}
