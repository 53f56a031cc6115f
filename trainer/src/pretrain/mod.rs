//! `trainer pretrain`: self-supervised training of an encoder on the pictures of stores.

mod config;
mod engine;
mod log;
mod online;
mod recipe;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tch::{Cuda, Device};

pub use config::{PretrainArgs, PretrainConfig, SettingArgs, Switches};
pub use engine::{Engine, Measured, Outcome};
pub use log::{OnlineScores, StepMetrics};
pub use online::{OnlineProbe, Scores};
pub use recipe::{Recipe, list as list_recipes};

use crate::checkpoint::{FILE_NAME, StoreMark};
use crate::data::{
    Anchors, CachePlan, Clips, PairConfig, PassOver, Pictures, Reach, Sampling, SequenceConfig, Steps,
    Timing, TupleBatch, prefetch_tuples, training_device,
};
use crate::distributed::Group;
use crate::store::{Store, StoreError};
use crate::{command, interrupt, memory, progress};
use config::FILE_NAME as CONFIG;
use log::RunLog;

/// Checkpoints that are kept for evaluation, by the epochs that were done.
const KEPT_PREFIX: &str = "epoch-";

/// Runs `trainer pretrain`.
///
/// # Errors
/// Names the file, folder or setting that stands in the way; what was saved stays.
pub fn run(args: &PretrainArgs) -> anyhow::Result<()> {
    let config = if args.resume {
        PretrainConfig::resumed(&args.out, &args.settings)?
    } else {
        PretrainConfig::from_args(&args.settings)?
    };
    let probe = match &args.probe_data {
        Some(dir) => Some((OnlineProbe::new(Store::open(dir)?, config.seed)?, args.probe_epochs)),
        None => None,
    };
    let clips = Clips::open(&args.data, config.pairs.timing)?;
    let stop = interrupt::flag()?;
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
    let reach = clips.reach();
    let sampling = config.sampling();
    let anchors = Anchors::new(&clips, &sampling, config.pass_over, config.seed);
    check_data(config, &clips, reach, &anchors)?;
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
        Device::Cuda(_) => Device::Cuda(own_gpu(group.local_rank(), Cuda::device_count())?),
        device => device,
    };
    let data: Vec<_> = clips.stores().iter().map(StoreMark::of).collect();
    let steps_an_epoch = steps.an_epoch(anchors.len());
    let mut engine = Engine::new(config, device, steps_an_epoch, group.clone())?;
    let first = match (resume, group.rank()) {
        (true, _) => engine.restore(out, &data)?,
        (false, 0) => start_run(config, out)?,
        (false, _) => 0,
    };
    group.barrier()?;
    engine.share()?;
    if group.rank() == 0 {
        eprintln!("{}", told(&clips, reach));
        if let Some(secs) = span(config, &clips) {
            eprintln!("sequences of {} frames are {secs:.2} s long (CLP's: 0.64 s)", config.sequence.length);
        }
    }
    let mut run = Run {
        log: if group.rank() == 0 {
            command::note(out, resume).with_context(|| out.display().to_string())?;
            Some(RunLog::open(out, first, steps_an_epoch, config.method, probe.is_some())?)
        } else {
            None
        },
        out,
        data,
        steps_an_epoch,
        part_names: engine.part_names(),
        frames: sampling.frames(),
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
    let cache = CachePlan { cache: config.cache, sharers: group.local_world(), stop };
    let pictures = Pictures::new(clips, config.load_side_px(), cache)?;
    std::thread::scope(|scope| {
        let range = first..engine.total_steps();
        let batches = prefetch_tuples(scope, &pictures, &anchors, sampling, steps, range, device)?;
        run.train(&mut engine, batches, stop)
    })?;
    // Nobody ends before the first process has written everything.
    Ok(group.barrier()?)
}

fn dirs(clips: &Clips) -> String {
    let dirs: Vec<_> = clips.stores().iter().map(|store| store.dir().display().to_string()).collect();
    dirs.join(", ")
}

/// # Errors
/// Where the pictures are too few, or cannot give what the switches ask for.
fn check_data(config: &PretrainConfig, clips: &Clips, reach: Reach, anchors: &Anchors) -> anyhow::Result<()> {
    let dirs = dirs(clips);
    let what = match config.sampling() {
        Sampling::Pairs(_) | Sampling::Stills => "training pictures".to_owned(),
        Sampling::SameVideo(_) => "training frames with others in their video".to_owned(),
        Sampling::Sequences(c) => {
            format!("sequences of {} frames, each {} from the one before,", c.length, c.stride)
        }
    };
    let unit = if config.pass_over == PassOver::Videos { "videos with " } else { "" };
    ensure!(
        anchors.len() >= config.batch,
        "{dirs}: {} {unit}{what} do not fill a batch of {}: lower --batch",
        anchors.len(),
        config.batch
    );
    if !config.method.draws_pairs() {
        return Ok(());
    }
    let PairConfig { time_aug, hard_neg, face_swap, cutmix, timing, .. } = config.pairs;
    for (wanted, name) in [(face_swap, "--face-swap"), (config.mask_fn.count > 0, "--mask-fn")] {
        ensure!(
            !wanted || reach.landmarks > 0.0,
            "{dirs}: {name} needs landmarks, and no training frame has any: prepare the store with --landmarks, or \
             switch it off"
        );
    }
    ensure!(
        !time_aug || reach.near > 0.0,
        "{dirs}: --time-aug needs videos, and no training frame has another within {} s: switch it off, or raise \
         pairs.timing.t1_secs",
        timing.t1_secs
    );
    ensure!(
        !hard_neg || reach.far > 0.0,
        "{dirs}: --hard-neg needs videos, and no training frame has another {} s away or more: switch it off, or lower \
         pairs.timing.t2_secs",
        timing.t2_secs
    );
    for (wanted, name) in [(face_swap, "--face-swap"), (cutmix, "--cutmix")] {
        ensure!(
            !wanted || reach.identities > 1,
            "{dirs}: {name} needs two people, and all training frames are of one: switch it off"
        );
    }
    Ok(())
}

/// The GPU of the process with this number on its machine: that of the same number, or the only one that it may see.
fn own_gpu(local_rank: usize, gpus: i64) -> anyhow::Result<usize> {
    match usize::try_from(gpus) {
        Ok(1) => Ok(0),
        Ok(gpus) if local_rank < gpus => Ok(local_rank),
        _ => bail!(
            "local rank {local_rank} has no GPU of its own among {gpus}: start at most as many processes as there are GPUs"
        ),
    }
}

/// What the training frames have for the switches, in a line.
fn told(clips: &Clips, reach: Reach) -> String {
    let Timing { t1_secs, t2_secs, .. } = clips.timing();
    let Reach { near, far, landmarks, identities } = reach;
    format!(
        "{}: {} training frames of {identities} people; {:.1} % have another within {t1_secs} s, {:.1} % one {t2_secs} s away \
         or more, {:.1} % landmarks",
        dirs(clips),
        clips.len(),
        100.0 * near,
        100.0 * far,
        100.0 * landmarks
    )
}

/// Seconds from a sequence's first frame to its last, where the method learns from sequences: their stride counts frames of the
/// store, whatever its rate.
fn span(config: &PretrainConfig, clips: &Clips) -> Option<f64> {
    let Sampling::Sequences(SequenceConfig { length, stride, .. }) = config.sampling() else { return None };
    let sequence = (0..clips.len()).find_map(|frame| clips.sequence(frame, length, stride))?;
    let secs = |frame: Option<&usize>| frame.map(|&frame| clips.record(frame).t_secs());
    Some(secs(sequence.last())? - secs(sequence.first())?)
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
    data: Vec<StoreMark>,
    steps_an_epoch: i64,
    part_names: Vec<&'static str>,
    /// Pictures of a tuple.
    frames: usize,
    first: i64,
    started: Instant,
    /// Time that was waited for the next batch. A GPU may still be busy with the step before: it is the most that it had nothing
    /// to do.
    waited: Duration,
    early_memory_mb: Option<f64>,
    probe: Option<(OnlineProbe, i64)>,
    bar: indicatif::ProgressBar,
}

/// A step whose outcome is still on the device, with the batch that it depends on.
type Pending = (i64, Outcome, TupleBatch);

/// Steps after which memory is noted, to be compared with at the end.
const WARM_STEPS: i64 = 100;

impl Run<'_> {
    fn train(
        &mut self,
        engine: &mut Engine,
        batches: impl IntoIterator<Item = Result<TupleBatch, StoreError>>,
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
    fn note(&mut self, engine: &Engine, (step, outcome, batch): Pending) -> anyhow::Result<bool> {
        let Measured { loss, top1, parts, stop } = outcome.read()?;
        ensure!(loss.is_finite(), "the loss is {loss} at step {step}: lower --lr");
        let memory_mb = memory::resident_bytes().map_or(0.0, |bytes| bytes as f64 / 1e6);
        if step - self.first == WARM_STEPS {
            self.early_memory_mb = Some(memory_mb);
        }
        let epoch = step / self.steps_an_epoch;
        if let Some(log) = &mut self.log {
            let pasted_share = batch.pasted as f64 / batch.tuples.len() as f64;
            let parts = self.part_names.iter().map(|name| (*name).to_owned()).zip(parts).collect();
            let lr = outcome.lr;
            log.step(&StepMetrics { step, epoch, loss, top1, parts, lr, memory_mb, pasted_share })?;
        }
        let rate = self.images_per_sec(engine, step + 1);
        let top1 = top1.map_or_else(String::new, |top1| format!(" top-1 {:.1} %", 100.0 * top1));
        self.bar.set_message(format!("loss {loss:.3}{top1} {rate:.0} images/s"));
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
            engine.save(&self.out.join(FILE_NAME), step, &self.data)?;
        }
        if !epoch_done {
            return Ok(());
        }
        let top1 = log.epoch_top1();
        if due && top1.is_some_and(|top1| top1 >= config.keep_from_top1) {
            let kept = self.out.join(format!("{KEPT_PREFIX}{epochs:04}.safetensors"));
            engine.save(&kept, step, &self.data)?;
        }
        log.speed(step, rate, wait_share)?;
        let mut warning = log.warning();
        if let Some((probe, every)) = &self.probe
            && (epochs % every == 0 || step == engine.total_steps())
        {
            let scores = probe.judge(engine)?;
            self.bar.println(format!(
                "epoch {epochs:>4}{}  online kNN {:.4}  online linear probe {:.4}",
                top1.map_or_else(String::new, |top1| format!("  top-1 {top1:.3}")),
                scores.knn,
                scores.linear
            ));
            warning = warning.or(log.online(step, &scores)?);
        }
        if let Some(warning) = warning {
            self.bar.println(format!("warning: {warning}"));
        }
        Ok(())
    }

    fn images_per_sec(&self, engine: &Engine, step: i64) -> f64 {
        let images = self.frames * (step - self.first) as usize * engine.config().batch;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::method::MaskFn;
    use crate::prepare::encode_jpeg;
    use crate::store::{Provenance, Sample, Split, StoreWriter};

    /// Videos of these people, with frames at these times; those of Val are not for training.
    fn clips(dir: &Path, videos: &[(&str, &[f64], Split)], landmarks: bool) -> Clips {
        let mut writer = StoreWriter::create(dir).unwrap();
        let jpeg = encode_jpeg(&[9; 256], 16, 16, 1, 90).unwrap();
        for (identity, times, split) in videos {
            writer.begin_video(identity, "v");
            for &t in *times {
                let landmarks = landmarks.then_some([0.5; 136]);
                writer.push(&jpeg, &Sample { landmarks, ..Sample::unlabelled(t, *split) }).unwrap();
            }
        }
        writer.commit(Provenance::default()).unwrap();
        Clips::open(&[dir.to_owned()], Timing::default()).unwrap()
    }

    #[test]
    fn a_switch_that_would_do_nothing_is_refused_and_the_others_are_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let with = |pairs: PairConfig, count| PretrainConfig {
            batch: 2,
            pairs,
            mask_fn: MaskFn { count, ..MaskFn::default() },
            ..PretrainConfig::default()
        };
        let off = PairConfig::default();
        let switches = [
            ("--time-aug", with(PairConfig { time_aug: true, ..off }, 0)),
            ("--hard-neg", with(PairConfig { hard_neg: true, ..off }, 0)),
            ("--face-swap", with(PairConfig { face_swap: true, ..off }, 0)),
            ("--cutmix", with(PairConfig { cutmix: true, ..off }, 0)),
            ("--mask-fn", with(off, 1)),
        ];
        let refused = |clips: &Clips| -> Vec<&str> {
            let check = |config: &PretrainConfig| {
                let anchors = Anchors::new(clips, &config.sampling(), config.pass_over, 0);
                check_data(config, clips, clips.reach(), &anchors)
            };
            check(&with(off, 0)).unwrap();
            let failed = switches.iter().filter_map(|(name, config)| Some((*name, check(config).err()?)));
            failed.map(|(name, error)| error.to_string().contains(name).then_some(name).unwrap()).collect()
        };
        // Videos, but at a frame every two seconds; the second person, the landmarks and the long video are not for
        // training.
        let slow = dir.path().join("slow");
        let videos: &[(&str, &[f64], Split)] =
            &[("a", &[0.0, 2.0], Split::Train), ("b", &[0.0, 0.5, 4.0], Split::Val)];
        let slow = clips(&slow, videos, false);
        assert_eq!(refused(&slow), ["--time-aug", "--hard-neg", "--face-swap", "--cutmix", "--mask-fn"]);
        let videos: &[(&str, &[f64], Split)] =
            &[("a", &[0.0, 0.5, 3.2], Split::Train), ("b", &[0.0], Split::Train)];
        let whole = clips(&dir.path().join("whole"), videos, true);
        assert!(refused(&whole).is_empty());
        let line = told(&whole, whole.reach());
        for part in ["4 training frames of 2 people", "50.0 % have another within 1 s", "50.0 % one 3 s away"]
        {
            assert!(line.contains(part), "{line}");
        }
        assert!(line.contains("100.0 % landmarks"), "{line}");
    }
}
