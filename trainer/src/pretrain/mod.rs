//! `trainer pretrain`: self-supervised training of an encoder on the pictures of stores.

mod config;
mod engine;
mod log;
mod online;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tch::Device;

pub use config::{PretrainArgs, PretrainConfig, Recipe, SettingArgs, Switches};
pub use engine::{Engine, Measured, Outcome};
pub use log::StepMetrics;
pub use online::{OnlineProbe, Scores};

use crate::checkpoint::FILE_NAME;
use crate::data::{Clips, PairBatch, Pictures, Steps, prefetch_pairs, training_device};
use crate::distributed::Group;
use crate::store::{Store, StoreError};
use crate::{memory, progress};
use log::RunLog;

const CONFIG: &str = "config.toml";
/// Checkpoints that are kept for evaluation, by the epochs that were done.
const KEPT_PREFIX: &str = "epoch-";

/// Runs `trainer pretrain`.
///
/// # Errors
/// Names the file, folder or setting that stands in the way; what was saved stays.
pub fn run(args: &PretrainArgs) -> anyhow::Result<()> {
    let config = PretrainConfig::from_args(&args.settings)?;
    let probe = match &args.probe_data {
        Some(dir) => Some((OnlineProbe::new(Store::open(dir)?, config.seed)?, args.probe_epochs)),
        None => None,
    };
    let clips = Clips::open(&args.data, config.pairs.timing)?;
    let stop = stop_flag()?;
    let group = Group::from_env()?;
    pretrain(&config, clips, Place { out: &args.out, resume: args.resume, group }, probe, stop)
}

/// Where a run lies, and who takes part.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// Its folder; with several processes, one that all of them see.
    pub out: &'a Path,
    /// Whether it goes on from the checkpoint there.
    pub resume: bool,
    /// The processes that train together.
    pub group: Group,
}

impl<'a> Place<'a> {
    /// A run of this process alone.
    pub const fn alone(out: &'a Path, resume: bool) -> Self {
        Self { out, resume, group: Group::single() }
    }
}

static STOP: AtomicBool = AtomicBool::new(false);

/// A flag that Ctrl-C sets.
fn stop_flag() -> anyhow::Result<&'static AtomicBool> {
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed)).context("cannot handle Ctrl-C")?;
    Ok(&STOP)
}

/// Trains until the last epoch, or until `stop` is set (with a checkpoint either way). `probe` judges the encoder after
/// every so many epochs.
///
/// # Errors
/// As [`run`].
pub fn pretrain(
    config: &PretrainConfig,
    clips: Clips,
    place: Place<'_>,
    probe: Option<(OnlineProbe, i64)>,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    config.check()?;
    check_data(config, &clips)?;
    let Place { out, resume, group } = place;
    let world = group.world();
    ensure!(
        config.batch.is_multiple_of(world * config.accumulate),
        "batch = {} does not fall into equal parts for {world} processes and accumulate = {}",
        config.batch,
        config.accumulate
    );
    let steps = Steps { batch: config.batch, seed: config.seed, part: (group.rank(), world) };
    let device = match training_device() {
        Device::Cuda(_) => Device::Cuda(group.local_rank()),
        device => device,
    };
    let mut engine = Engine::new(config, device, steps.an_epoch(clips.len()), group.clone())?;
    let first = match (resume, group.rank()) {
        (true, _) => engine.restore(out)?,
        (false, 0) => start_run(config, out)?,
        (false, _) => 0,
    };
    group.barrier()?;
    engine.share()?;
    let mut run = Run {
        log: if group.rank() == 0 { Some(RunLog::open(out, first)?) } else { None },
        out,
        steps_an_epoch: steps.an_epoch(clips.len()),
        first,
        started: Instant::now(),
        waited: Duration::ZERO,
        early_memory_mb: None,
        probe: probe.filter(|_| group.rank() == 0),
        bar: if group.rank() == 0 {
            progress::bar(engine.total_steps() as u64, config.method.name())
        } else {
            indicatif::ProgressBar::hidden()
        },
    };
    let pictures = Pictures::new(clips, config.load_side_px(), config.cache)?;
    std::thread::scope(|scope| {
        let range = first..engine.total_steps();
        let batches = prefetch_pairs(scope, &pictures, config.pairs, steps, range, device)?;
        run.train(&mut engine, batches, stop)
    })?;
    // Nobody ends before the first process has written everything.
    Ok(group.barrier()?)
}

/// # Errors
/// Where the pictures are too few, or cannot give what the switches ask for.
fn check_data(config: &PretrainConfig, clips: &Clips) -> anyhow::Result<()> {
    let dirs: Vec<_> = clips.stores().iter().map(|store| store.dir().display().to_string()).collect();
    let dirs = dirs.join(", ");
    ensure!(
        clips.len() >= config.batch,
        "{dirs}: {} training pictures do not fill a batch of {}: lower --batch",
        clips.len(),
        config.batch
    );
    let landmarks = clips.stores().iter().any(Store::has_landmarks);
    for (wanted, name) in [(config.pairs.face_swap, "--face-swap"), (config.mask_fn.count > 0, "--mask-fn")] {
        ensure!(
            !wanted || landmarks,
            "{dirs}: {name} needs landmarks, and no frame has any: prepare the store with --landmarks, or switch it off"
        );
    }
    let videos = clips.stores().iter().flat_map(|store| &store.header().videos);
    let still = videos.into_iter().all(|video| video.frames < 2);
    for (wanted, name) in [(config.pairs.time_aug, "--time-aug"), (config.pairs.hard_neg, "--hard-neg")] {
        ensure!(
            !wanted || !still,
            "{dirs}: {name} needs videos, and there are only single pictures: switch it off"
        );
    }
    Ok(())
}

/// A fresh run's folder; the first step is 0.
fn start_run(config: &PretrainConfig, out: &Path) -> anyhow::Result<i64> {
    ensure!(
        !out.join(FILE_NAME).exists(),
        "{}: there is a run here already: --resume continues it, another --out keeps it",
        out.display()
    );
    let at = || out.display().to_string();
    fs::create_dir_all(out).with_context(at)?;
    fs::write(out.join(CONFIG), toml::to_string(config).context("configuration")?).with_context(at)?;
    Ok(0)
}

/// A run while it is under way.
struct Run<'a> {
    /// The first process alone writes.
    log: Option<RunLog>,
    out: &'a Path,
    steps_an_epoch: i64,
    first: i64,
    started: Instant,
    /// Time that the device had nothing to do because the next batch was not there.
    waited: Duration,
    early_memory_mb: Option<f64>,
    probe: Option<(OnlineProbe, i64)>,
    bar: indicatif::ProgressBar,
}

/// A step whose outcome is still on the device, with the batch that it depends on.
type Pending = (i64, Outcome, PairBatch);

/// Steps after which memory is noted, to be compared with at the end.
const WARM_STEPS: i64 = 100;

impl Run<'_> {
    fn train(
        &mut self,
        engine: &mut Engine,
        batches: impl IntoIterator<Item = Result<PairBatch, StoreError>>,
        stop: &AtomicBool,
    ) -> anyhow::Result<()> {
        let total = engine.total_steps();
        self.bar.set_position(self.first as u64);
        self.bar.reset_eta();
        self.started = Instant::now();
        let mut pending: Option<Pending> = None;
        let mut step = self.first;
        let mut batches = batches.into_iter();
        loop {
            let asked = Instant::now();
            let Some(batch) = batches.next() else { break };
            if step > self.first {
                self.waited += asked.elapsed();
            }
            let batch = batch?;
            let outcome = engine.step(&batch, step, stop.load(Ordering::Relaxed))?;
            // The outcome is read a step late, so that a GPU has the next step to do meanwhile.
            let mut stopped = match pending.replace((step, outcome, batch)) {
                Some(earlier) => self.note(engine, earlier)?,
                None => false,
            };
            step += 1;
            let epoch_done = step % self.steps_an_epoch == 0;
            let save_every = engine.config().checkpoint_steps;
            let save_now = save_every > 0 && step % save_every == 0;
            if epoch_done || save_now || stopped || step == total {
                if let Some(last) = pending.take() {
                    stopped |= self.note(engine, last)?;
                }
                self.milestone(engine, step, epoch_done, save_now || stopped)?;
            }
            if stopped && step < total {
                self.bar.abandon();
                eprintln!("stopped after step {step} of {total}; --resume continues");
                return Ok(());
            }
        }
        self.bar.finish();
        if self.log.is_some() {
            self.summary(engine, step);
        }
        Ok(())
    }

    /// Writes down what a step measured; tells whether the run is to stop.
    fn note(&mut self, engine: &Engine, (step, outcome, _batch): Pending) -> anyhow::Result<bool> {
        let Measured { loss, top1, stop } = outcome.read()?;
        ensure!(loss.is_finite(), "the loss is {loss} at step {step}: lower --lr");
        let memory_mb = memory::resident_bytes().map_or(0.0, |bytes| bytes as f64 / 1e6);
        if step - self.first == WARM_STEPS {
            self.early_memory_mb = Some(memory_mb);
        }
        let epoch = step / self.steps_an_epoch;
        if let Some(log) = &mut self.log {
            log.step(&StepMetrics { step, epoch, loss, top1, lr: outcome.lr, memory_mb })?;
        }
        let rate = self.images_per_sec(engine, step + 1);
        self.bar.set_message(format!("loss {loss:.3} top-1 {:.1} % {rate:.0} images/s", 100.0 * top1));
        self.bar.inc(1);
        Ok(stop)
    }

    /// Checkpoints, online scores and warnings, where it is time for them.
    fn milestone(
        &mut self,
        engine: &Engine,
        step: i64,
        epoch_done: bool,
        save_now: bool,
    ) -> anyhow::Result<()> {
        let config = engine.config();
        let epochs = step / self.steps_an_epoch;
        let due = epoch_done && epochs % config.checkpoint_epochs == 0;
        let (rate, wait_share) = (self.images_per_sec(engine, step), self.wait_share());
        let Some(log) = &mut self.log else { return Ok(()) };
        if due || save_now || step == engine.total_steps() {
            engine.save(&self.out.join(FILE_NAME), step)?;
        }
        if !epoch_done {
            return Ok(());
        }
        let top1 = log.epoch_top1();
        if due && top1 >= config.keep_from_top1 {
            engine.save(&self.out.join(format!("{KEPT_PREFIX}{epochs:04}.safetensors")), step)?;
        }
        log.speed(step, rate, wait_share)?;
        let mut warning = log.warning();
        if let Some((probe, every)) = &self.probe
            && (epochs % every == 0 || step == engine.total_steps())
        {
            let scores = probe.judge(engine)?;
            self.bar.println(format!(
                "epoch {epochs:>4}  top-1 {top1:.3}  online kNN {:.4}  online linear probe {:.4}",
                scores.knn, scores.linear
            ));
            warning = log.online(step, &scores)?.or(warning);
        }
        if let Some(warning) = warning {
            self.bar.println(format!("warning: {warning}"));
        }
        Ok(())
    }

    fn images_per_sec(&self, engine: &Engine, step: i64) -> f64 {
        let images = 2 * (step - self.first) as usize * engine.config().batch;
        images as f64 / self.started.elapsed().as_secs_f64()
    }

    fn wait_share(&self) -> f64 {
        self.waited.as_secs_f64() / self.started.elapsed().as_secs_f64()
    }

    fn summary(&self, engine: &Engine, step: i64) {
        eprintln!(
            "{}: {step} steps, {:.0} images/s, {:.1} % of the time waiting for data",
            self.out.join(FILE_NAME).display(),
            self.images_per_sec(engine, step),
            100.0 * self.wait_share()
        );
        if let (Some(early), Some(now)) = (self.early_memory_mb, memory::resident_bytes()) {
            eprintln!("memory: {early:.0} MB after step {WARM_STEPS}, {:.0} MB at the end", now as f64 / 1e6);
        }
    }
}
