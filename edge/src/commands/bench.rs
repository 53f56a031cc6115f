//! `edge bench`: what each stage of a frame costs on this machine.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Args;
use semblance_edge::bench::BenchReport;
use semblance_edge::run::{self, RunOptions, Shared};
use semblance_edge::source::{self, Capture, Next, Source, SourceOptions};
use semblance_edge::stats::{Stage, Stats};
use semblance_edge::telemetry::Telemetry;
use semblance_face::frame::Leniency;

use super::PipelineArgs;

pub(crate) const EXAMPLES: &str = "\
Examples:
  edge bench --source clip.mp4 --frames 300        percentiles of every stage
  taskset -c 0 edge bench --source demo --json     on one core, as JSON
  edge bench --source clip.mp4 --finder seeta      with SeetaFace instead of the bundle's own finder";

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What is measured on: demo, a video file, a picture, or a folder of pictures
    #[arg(long, default_value = "demo", env = "SEMBLANCE_SOURCE", hide_env_values = true)]
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

pub(crate) fn command(args: &BenchArgs) -> anyhow::Result<()> {
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
    let mut pipeline = args.pipeline.open(&args.pipeline.bundle()?)?;
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
                capture.decode(Leniency::Strict)?;
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
