//! `edge run`: predictions on every face of a source, until it ends or somebody says so.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use semblance_calib::adapt::Share;
use semblance_edge::http::{About, Server};
use semblance_edge::hub::{Overflow, Subscription};
use semblance_edge::learn::Learner;
use semblance_edge::logging::{LogFormat, tell};
use semblance_edge::pipeline::Pipeline;
use semblance_edge::run::{self, RunOptions, Shared};
use semblance_edge::service::{self, Reporter, Signals};
use semblance_edge::sink::{self, RecordSink, Sink, SinkSpec};
use semblance_edge::smooth::OneEuro;
use semblance_edge::source::pixels::PixelFormat;
use semblance_edge::source::{self, Pace, Source, SourceOptions};
use semblance_face::Frame;

use super::user::UserArgs;
use super::{HttpArgs, OutParser, PipelineArgs};

pub(crate) const EXAMPLES: &str = "\
Examples:
  edge run                                        the first camera
  edge run --source /dev/video2 --size 1280x720 --format mjpg --control auto_exposure=1
  edge run --source rtsp://user:password@10.0.0.7/stream
  rpicam-vid -t 0 --codec mjpeg -o - | edge run --source -
  edge run --source demo --max-frames 250         a drawn face: needs no camera and no file
  edge run --source clip.mp4                      predictions on standard output, a summary on standard error
  edge run --source photo.jpg                     one picture
  edge run --source frames/ --out jsonl:out.jsonl a folder of pictures, in the order of their names
  edge run --source clip.mp4 --out csv:clip.csv   a row a face a frame, with OpenFace's columns
  edge run --source clip.mp4 --record clip.record every prediction with its embedding, to fit heads from
  edge run --source demo --out mqtt://broker/desk for Home Assistant and others
  edge run --source demo --http 0.0.0.0:8017      the dashboard for the whole house, with a token
  edge run --source clip.mp4 --max-frames 100 | jq .expression.label";

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// camera (the first that can be used), /dev/videoN, - (standard input: JPEGs, or raw pixels with --format and
    /// --size), a stream's URL or a video file (read through ffmpeg), a picture, a folder of pictures, or demo (a drawn
    /// face, no hardware)
    #[arg(long, default_value = source::CAMERA, env = "SEMBLANCE_SOURCE", hide_env_values = true)]
    source: String,

    #[command(flatten)]
    camera: CameraArgs,

    /// Where predictions go, may be given several times: jsonl or csv (standard output), jsonl:FILE, csv:FILE (OpenFace's
    /// columns), mqtt://USER:PASSWORD@HOST:PORT/PREFIX (without user and port where not needed; the password also from
    /// SEMBLANCE_MQTT_PASSWORD; options:
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

    /// Write every prediction with the embedding that it was made of, one JSON object a face a frame: what heads can be
    /// fitted to a person from. It holds no picture, but tells people apart
    #[arg(long, value_name = "FILE", env = "SEMBLANCE_RECORD")]
    record: Option<PathBuf>,

    #[command(flatten)]
    user: UserArgs,

    /// How much of one core may go into learning without labels where the face rests, as 5%, or off [default: 5% for live
    /// sources, off for recordings, which are then read the same each time]
    #[arg(long, value_name = "SHARE", env = "SEMBLANCE_ADAPT_BUDGET")]
    adapt_budget: Option<AdaptBudget>,

    #[command(flatten)]
    http: HttpArgs,

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

impl RunArgs {
    /// What cannot go together, in words.
    pub(crate) fn conflict(&self) -> Option<&'static str> {
        let is_stdout = |spec: &&SinkSpec| matches!(spec, SinkSpec::Jsonl(None) | SinkSpec::Csv(None));
        if self.out.iter().filter(is_stdout).count() > 1 {
            return Some("only one output can be standard output: give the others a file, as csv:FILE");
        }
        let twice = self.out.iter().enumerate().any(|(i, spec)| self.out[..i].contains(spec));
        twice.then_some("the same output is given twice")
    }
}

/// What is asked of a camera, or told of raw pixels on standard input.
#[derive(Debug, Args)]
struct CameraArgs {
    /// Size to ask the camera for, in pixels [default: 640x480]
    #[arg(long, value_name = "WxH", value_parser = size, env = "SEMBLANCE_SIZE")]
    size: Option<(u32, u32)>,

    /// Rate to ask the camera for, in frames a second [default: 30]
    #[arg(long, value_parser = rate, env = "SEMBLANCE_FPS")]
    fps: Option<f64>,

    /// Format to ask the camera for: mjpg, yuyv, nv12 or grey [default: what gives the rate at the least cost]
    #[arg(long, env = "SEMBLANCE_FORMAT")]
    format: Option<PixelFormat>,

    /// Set a control of the camera, by the name that `edge cameras` lists or by number; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = control, env = "SEMBLANCE_CONTROL", value_delimiter = ',')]
    control: Vec<(String, i64)>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Smooth {
    /// The One-Euro filter: little lag in motion, little jitter at rest
    OneEuro,
}

/// What learning without labels may take.
#[derive(Clone, Copy, Debug)]
struct AdaptBudget(Option<Share>);

impl FromStr for AdaptBudget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<Share>() {
            _ if text == "off" => Ok(Self(None)),
            Ok(share) => Ok(Self(Some(share))),
            Err(_) => Err("give a percentage of one core above 0 and up to 100, as 5%, or off".to_owned()),
        }
    }
}

/// A number of frames a second.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(fps) if (0.1..=1000.0).contains(&fps) => Ok(fps),
        _ => Err("give a rate from 0.1 to 1000 frames a second".to_owned()),
    }
}

/// A size in pixels.
fn size(text: &str) -> Result<(u32, u32), String> {
    let sides = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides
        .filter(|&(width, height)| Frame::byte_len(width, height).is_ok())
        .ok_or_else(|| format!("give a size as 640x480, 1 to {} a side", Frame::MAX_SIDE))
}

/// A control and its value.
fn control(text: &str) -> Result<(String, i64), String> {
    let parts = text.rsplit_once('=').and_then(|(name, value)| Some((name, value.parse().ok()?)));
    match parts {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value)),
        _ => Err("give a control as name=number".to_owned()),
    }
}

/// Reports that a sink may be behind by.
const QUEUE: usize = 256;
/// Sinks have this long to write what is queued when a run ends.
const DRAIN: Duration = Duration::from_millis(1500);
/// Before a reload a source has this long to give its device back.
const ANSWER: Duration = Duration::from_secs(5);

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is over.
    Done,
    /// It is to start again with settings read anew.
    Reload,
}

/// A run that is ready to start.
pub(crate) struct Opened<'a> {
    args: &'a RunArgs,
    pipeline: Pipeline,
    shared: Arc<Shared>,
    source: Box<dyn Source>,
    server: Option<Server>,
    /// What learns the user, with or without a server.
    learner: Option<Arc<Learner>>,
    sinks: Vec<sink::Running>,
}

/// Opens everything that a run needs. `again` says that a run before has written to the same outputs: they are continued. So
/// are those of a live source, which a restart must not wipe.
pub(crate) fn open(args: &RunArgs, again: bool) -> anyhow::Result<Opened<'_>> {
    let smoothing = args.smooth.map(|Smooth::OneEuro| OneEuro::default());
    let bundle = args.pipeline.bundle()?;
    let pipeline = args.pipeline.open(&bundle)?;
    let shipped = pipeline.in_force().now().heads.clone();
    let users = Arc::new(args.user.open(&bundle, shipped, &args.http.state_dir())?);
    let mut pipeline = pipeline
        .reading(Arc::clone(users.in_force()))
        .with_landmarks(args.landmarks)
        .with_smoothing(smoothing);
    let labels = pipeline.labels();
    let shared = Arc::new(Shared::default());
    let options = SourceOptions {
        play_fps: args.play_fps,
        size: args.camera.size,
        fps: args.camera.fps,
        format: args.camera.format,
        controls: args.camera.control.clone(),
    };
    let source = source::open(&args.source, &options, &shared.telemetry)?;
    let is_live = source.pace() == Pace::Live;
    let about = About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        source: semblance_face::url::public(&args.source),
        labels: labels.clone(),
    };
    // Before any file is touched: where its address is taken, this may be a second one of the same run.
    // And not a recording that is played as one.
    let is_truly_live = is_live && args.play_fps.is_none();
    let wanted = args.http.wanted(is_truly_live);
    let share = args.adapt_budget.unwrap_or(AdaptBudget(is_truly_live.then_some(Share::DEFAULT))).0;
    let learner = (wanted.is_some() || share.is_some()).then(|| Learner::start(users, &shared.hub, share));
    let learner = learner.transpose().context("cannot start a thread")?.map(Arc::new);
    let server = match wanted.zip(learner.as_ref()) {
        Some((wanted, learner)) => args.http.start(wanted, &shared, about, Arc::clone(learner))?,
        None => None,
    };
    pipeline = pipeline.with_embeddings(args.record.is_some() || learner.is_some());
    let overflow = if is_live { Overflow::DropOldest } else { Overflow::Wait };
    let append = again || is_truly_live;
    let mut opened: Vec<(Box<dyn Sink>, Subscription)> = Vec::new();
    for spec in &args.out {
        let subscription = shared.hub.subscribe(&spec.to_string(), QUEUE, overflow);
        opened.push((sink::open(spec, &labels, subscription.stats(), append)?, subscription));
    }
    if let Some(file) = &args.record {
        let subscription = shared.hub.subscribe(&format!("record:{}", file.display()), QUEUE, overflow);
        opened.push((Box::new(RecordSink::open(file, append)?), subscription));
    }
    let start = |(sink, subscription)| sink::start(sink, subscription, Arc::clone(&shared.telemetry));
    let sinks: io::Result<_> = opened.into_iter().map(start).collect();
    let sinks = sinks.context("cannot start a thread")?;
    Ok(Opened { args, pipeline, shared, source, server, learner, sinks })
}

impl Opened<'_> {
    /// Runs once.
    pub(crate) fn run(self, signals: &Signals) -> anyhow::Result<Outcome> {
        let Self { args, mut pipeline, shared, source, server, learner, sinks } = self;
        let is_live = source.pace() == Pace::Live;
        let reporter = Reporter::start(Arc::clone(&shared)).context("cannot start a thread")?;
        let start = Instant::now();
        let options = RunOptions {
            max_frames: args.max_frames,
            find_every: args.pipeline.find_every,
            max_fps: args.max_fps,
        };
        let result = run::run(source, &mut pipeline, &shared, &options, signals.stop());
        // Of a recording nothing is lost because its reader is slow, unless somebody wants to stop.
        let finished = sink::finish(sinks, DRAIN, || !is_live && !signals.stop().load(Ordering::Relaxed));
        let reload = signals.take_reload();
        service::notify_end(reload);
        drop((reporter, server, learner));
        {
            let stats = shared.telemetry.stats();
            if stats.frames > 0 || result.is_ok() {
                tell(stats.summary(start.elapsed()));
            }
        }
        if is_live {
            tell(shared.telemetry.source.summary());
        }
        let (result, straggler) = match result {
            Ok(straggler) => (Ok(()), straggler),
            Err(error) => (Err(error), None),
        };
        if reload && let Some(Err(_)) = straggler.map(|straggler| straggler.wait(ANSWER)) {
            // It may hold its device for ever; only the program's end frees that.
            anyhow::bail!("the source does not answer: settings cannot be read anew, start again");
        }
        let result = result.map_err(anyhow::Error::from).and(finished.map_err(anyhow::Error::from));
        match result {
            // Whoever asks for a reload may have mended just that.
            Err(error) if reload => log::error!("{}", semblance_face::describe(error.as_ref())),
            result => result?,
        }
        Ok(if reload { Outcome::Reload } else { Outcome::Done })
    }
}
