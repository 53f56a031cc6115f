//! `trainer bench`: how fast data, model and both together go.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;

use crate::data::{Anchors, CachePlan, Clips, Pictures, Steps, TupleBatch, prefetch_tuples, training_device};
use crate::distributed::Group;
use crate::pretrain::{Engine, PretrainConfig, SettingArgs};
use crate::{memory, progress};

/// Options of `trainer bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// Folder of a store with training pictures; may be given several times
    #[arg(long, required = true)]
    pub data: Vec<PathBuf>,

    /// Steps of each measurement, after two that are not measured
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..))]
    pub steps: i64,

    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,

    /// What is trained, and how.
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// Rates in images a second; an image is a view, of which a pair has two.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BenchReport {
    /// Loading pairs on the host: decoding, face swaps.
    pub load: f64,
    /// Loading and augmenting, nothing learnt.
    pub data: f64,
    /// Learning from views that are there already.
    pub model: f64,
    /// All of it, as `pretrain` does it.
    pub whole: f64,
    /// Share of the whole's time in which the device waited for pictures.
    pub wait_share: f64,
    /// Whether the pictures were decoded beforehand.
    pub cached: bool,
    /// Whether it ran on a GPU.
    pub gpu: bool,
    /// Pairs a step.
    pub batch: usize,
    /// Memory that the process occupied after the first measured step of the whole, in MB.
    pub memory_mb_early: f64,
    /// The same after the last step.
    pub memory_mb: f64,
}

/// Steps that fill caches and make libraries choose their kernels.
const WARM_UP: i64 = 2;

/// Runs `trainer bench`.
///
/// # Errors
/// As `trainer pretrain`.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let config = PretrainConfig::from_args(&args.settings)?;
    let clips = Clips::open(&args.data, config.pairs.timing)?;
    let report = measure(&config, clips, args.steps)?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    let BenchReport { load, data, model, whole, .. } = report;
    println!("{} {} px, {} pairs a step, images/s:", config.backbone, config.side_px, config.batch);
    println!(
        "  loading                {load:>9.0}{}",
        if report.cached { "  (decoded beforehand)" } else { "" }
    );
    println!("  loading + augmentation {data:>9.0}  {:.1} x the model", data / model);
    println!("  model                  {model:>9.0}");
    println!(
        "  whole                  {whole:>9.0}  {:.1} % of the time waiting for data",
        100.0 * report.wait_share
    );
    println!(
        "  memory                 {:>9.0} MB, {:.0} MB after the first step",
        report.memory_mb, report.memory_mb_early
    );
    Ok(())
}

fn measure(config: &PretrainConfig, clips: Clips, count: i64) -> anyhow::Result<BenchReport> {
    let device = training_device();
    let steps = Steps { batch: config.batch, seed: config.seed, part: (0, 1) };
    let sampling = config.sampling();
    let anchors = Anchors::new(&clips, &sampling, config.pass_over, config.seed);
    let an_epoch = steps.an_epoch(anchors.len());
    ensure!(
        an_epoch > 0,
        "{} training pictures do not fill a batch of {}: lower --batch",
        anchors.len(),
        config.batch
    );
    let mut engine = Engine::new(config, device, an_epoch, Group::single())?;
    let plan = CachePlan { cache: config.cache, ..CachePlan::OFF };
    let pictures = Pictures::new(clips, config.load_side_px(), plan)?;
    let total = WARM_UP + count;
    let bar = progress::bar(4 * total as u64, "bench");
    let images = (sampling.frames() * config.batch) as f64 * count as f64;
    // What `work` does with each batch of an epoch that starts anew, in images a second, and the share spent waiting.
    let rate = |work: &mut dyn FnMut(&TupleBatch, i64) -> anyhow::Result<()>| -> anyhow::Result<(f64, f64)> {
        std::thread::scope(|scope| {
            let batches = prefetch_tuples(scope, &pictures, &anchors, sampling, steps, 0..total, device)?;
            let (mut started, mut waited) = (Instant::now(), 0.0);
            for step in 0..total {
                if step == WARM_UP {
                    (started, waited) = (Instant::now(), 0.0);
                }
                let asked = Instant::now();
                let batch = batches.recv().context("the thread that loads pictures is gone")??;
                waited += asked.elapsed().as_secs_f64();
                work(&batch, step)?;
                bar.inc(1);
            }
            let seconds = started.elapsed().as_secs_f64();
            Ok((images / seconds, waited / seconds))
        })
    };
    let mut kept = None;
    let load = rate(&mut |_, _| Ok(()))?.0;
    let data = rate(&mut |batch, step| {
        let pictures = batch.to_unit(device);
        for part in 0..config.accumulate {
            let views = engine.views(batch, &pictures, step, part);
            // Reading one value waits for the device.
            let _ = views.first().double_value(&[0, 0, 0, 0]);
            kept = Some(views);
        }
        Ok(())
    })?
    .0;
    let views = kept.context("no step was measured")?;
    let mut started = Instant::now();
    for step in 0..total {
        if step == WARM_UP {
            started = Instant::now();
        }
        let _ = engine.learn(step, false, |_, _| views.shallow_clone())?.read()?;
        bar.inc(1);
    }
    let model = images / started.elapsed().as_secs_f64();
    let mut memory_mb_early = 0.0;
    let memory_mb = || memory::resident_bytes().map_or(0.0, |bytes| bytes as f64 / 1e6);
    let (whole, wait_share) = rate(&mut |batch, step| {
        let _ = engine.step(batch, step, false)?.read()?;
        if step == WARM_UP {
            memory_mb_early = memory_mb();
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(BenchReport {
        load,
        data,
        model,
        whole,
        wait_share,
        cached: pictures.is_cached(),
        gpu: device.is_cuda(),
        batch: config.batch,
        memory_mb_early,
        memory_mb: memory_mb(),
    })
}
