//! `edge bench`: what each stage of a frame costs on this machine.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::{Args, ValueEnum};
use semblance_calib::adapt::Share;
use semblance_calib::profile::Profiles;
use semblance_edge::bench::BenchReport;
use semblance_edge::learn::{Learner, Order};
use semblance_edge::pipeline::Pipeline;
use semblance_edge::run::{self, RunOptions, Shared};
use semblance_edge::source::{self, Capture, Next, Source, SourceOptions};
use semblance_edge::stats::{Stage, Stats};
use semblance_edge::telemetry::Telemetry;
use semblance_edge::users::Users;
use semblance_face::align::resize_crop;
use semblance_face::encoder::EncoderSpec;
use semblance_face::frame::Leniency;
use semblance_face::{Encoder, Frame};

use super::PipelineArgs;

pub(crate) const EXAMPLES: &str = "\
Examples:
  edge bench --source clip.mp4 --frames 300        percentiles of every stage
  taskset -c 0 edge bench --source demo --json     on one core, as JSON
  edge bench --source clip.mp4 --finder seeta      with SeetaFace instead of the bundle's own finder
  edge bench --source clip.mp4 --adapt-budget 5%   rounds with and without adaptation in turn, and their ratio";

/// A network that can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Network {
    /// The finder, with what prepares a frame for it and what reads its answer.
    Finder,
    /// The encoder, from a crop's bytes to its embedding.
    Encoder,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What is measured on: demo, a video file, a picture, or a folder of pictures
    #[arg(long, default_value = "demo", env = "SEMBLANCE_SOURCE", hide_env_values = true)]
    source: String,

    /// Frames to measure, after 10 that warm up
    #[arg(long, default_value_t = 300)]
    frames: u64,

    /// Measure one network alone, on every frame: what it costs where nothing else is in the caches
    #[arg(long, value_name = "NETWORK")]
    only: Option<Network>,

    /// Measure what learning without labels costs the frames: ten rounds of --frames, every other one with this share of
    /// one core for it. It begins after 24 seconds of a source: 300 frames are too few
    #[arg(long, value_name = "SHARE", conflicts_with_all = ["only", "json"])]
    adapt_budget: Option<Share>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pipeline: PipelineArgs,
}

pub(crate) fn command(args: &BenchArgs) -> anyhow::Result<()> {
    if let Some(share) = args.adapt_budget {
        return bench_adaptation(args, share);
    }
    let mut stats = Stats::default();
    let wall = match args.only {
        Some(network) => bench_network(args, network, &mut stats)?,
        None => bench_pipeline(args, &mut stats)?,
    };
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
    let mut pipeline = args.pipeline.open(&args.pipeline.bundle()?)?;
    measure(args, &mut pipeline, &Shared::default(), WARM_UP_FRAMES)?;
    let start = Instant::now();
    *stats = measure(args, &mut pipeline, &Shared::default(), args.frames)?;
    Ok(start.elapsed())
}

fn measure(args: &BenchArgs, pipeline: &mut Pipeline, shared: &Shared, frames: u64) -> anyhow::Result<Stats> {
    let source = open_recorded(&args.source, &shared.telemetry)?;
    let options =
        RunOptions { max_frames: Some(frames), find_every: args.pipeline.find_every, max_fps: None };
    run::run(source, pipeline, shared, &options, &AtomicBool::new(false))?;
    let stats = shared.telemetry.stats().clone();
    Ok(stats)
}

/// What adaptation costs the frames: rounds without and with it in turn, so that whatever else goes on meets both alike.
fn bench_adaptation(args: &BenchArgs, share: Share) -> anyhow::Result<()> {
    const PAIRS: usize = 5;
    let bundle = args.pipeline.bundle()?;
    let mut pipeline = args.pipeline.open(&bundle)?;
    let shipped = pipeline.in_force().now().heads.clone();
    // Nobody is chosen, so that no profile is touched.
    let nowhere = Profiles::new(std::env::temp_dir().join("semblance-bench"));
    let users = Arc::new(Users::new(shipped, &bundle.manifest().encoder.file.sha256, nowhere));
    pipeline = pipeline.reading(Arc::clone(users.in_force())).with_embeddings(true);
    measure(args, &mut pipeline, &Shared::default(), WARM_UP_FRAMES)?;
    let mut medians = [Vec::new(), Vec::new()];
    for _ in 0..PAIRS {
        for (medians, share) in medians.iter_mut().zip([None, Some(share)]) {
            let shared = Shared::default();
            let learner = Learner::start(Arc::clone(&users), &shared.hub, share)?;
            let stats = measure(args, &mut pipeline, &shared, args.frames)?;
            medians.push(stats.quantile_ms(Stage::Total, 0.5));
            let told = learner.ask(Order::Tell)?;
            let learned = told["adaptation"]["shift"].as_f64().unwrap_or(0.0) > 0.0;
            ensure!(learned || share.is_none(), "nothing was learned in {} frames: give more", args.frames);
        }
    }
    let [off, on] = medians.map(|mut medians| {
        medians.sort_unstable_by(f64::total_cmp);
        medians[PAIRS / 2]
    });
    println!("p50 of a frame, median of {PAIRS} rounds of {} frames each, in turn", args.frames);
    println!("  without adaptation   {off:.3} ms");
    println!("  with adaptation      {on:.3} ms   {:+.2} %", 100.0 * (on / off - 1.0));
    Ok(())
}

fn open_recorded(spec: &str, telemetry: &Arc<Telemetry>) -> anyhow::Result<Box<dyn Source>> {
    Ok(source::open(spec, &SourceOptions::default(), telemetry)?)
}

/// One network alone, on frames that are decoded before; returns the time it took.
fn bench_network(args: &BenchArgs, network: Network, stats: &mut Stats) -> anyhow::Result<Duration> {
    let bundle = args.pipeline.bundle()?;
    let frames = held_frames(args)?;
    match network {
        Network::Finder => {
            let mut finder = args.pipeline.follow_options().open_finder(&bundle)?;
            let mut found = Vec::new();
            repeat(args, &frames, stats, Stage::Find, |frame| {
                finder.find(frame, &mut found)?;
                Ok(!found.is_empty())
            })
        }
        Network::Encoder => {
            let mut encoder = Encoder::from_bundle(&bundle)?;
            let EncoderSpec { side_px, embedding_size, .. } = *encoder.spec();
            let crops: Vec<Vec<u8>> = frames
                .iter()
                .map(|frame| {
                    let mut crop = vec![0; (side_px * side_px * 3) as usize];
                    resize_crop(frame, side_px, &mut crop);
                    crop
                })
                .collect();
            let mut embedding = vec![0.0; embedding_size];
            repeat(args, &crops, stats, Stage::Embed, |crop| {
                encoder.embed(crop, &mut embedding)?;
                Ok(true)
            })
        }
    }
}

/// A few frames of the source, so that they stay in the caches, as a frame does that was just decoded.
fn held_frames(args: &BenchArgs) -> anyhow::Result<Vec<Frame>> {
    const HELD: usize = 4;
    let mut source = open_recorded(&args.source, &Arc::default())?;
    let mut frames = Vec::new();
    let mut capture = Capture::new()?;
    while frames.len() < HELD {
        match source.next(&mut capture)? {
            Next::Frame => {
                capture.decode(Leniency::Strict)?;
                frames.push(capture.frame.clone());
            }
            Next::Skipped(_) | Next::Idle => {}
            Next::End => break,
        }
    }
    ensure!(!frames.is_empty(), "{}: no frame in it", args.source);
    Ok(frames)
}

/// Does something with each of `inputs` in turn and records what it took as `stage`; it tells whether there was a face.
fn repeat<I>(
    args: &BenchArgs,
    inputs: &[I],
    stats: &mut Stats,
    stage: Stage,
    mut work: impl FnMut(&I) -> anyhow::Result<bool>,
) -> anyhow::Result<Duration> {
    let mut wall = Duration::ZERO;
    for (i, input) in (0..WARM_UP_FRAMES + args.frames).zip(inputs.iter().cycle()) {
        let start = Instant::now();
        let face = work(input)?;
        let took = start.elapsed();
        if i >= WARM_UP_FRAMES {
            stats.frames += 1;
            stats.frames_with_face += u64::from(face);
            stats.record(stage, took);
            wall += took;
        }
    }
    Ok(wall)
}
