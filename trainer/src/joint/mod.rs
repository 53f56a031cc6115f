//! `trainer joint`: an encoder and several linear heads on its one embedding, trained together on stores with different
//! labels.

mod config;
mod model;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::Args;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution};
use semblance_face::labels::Expression;
use tch::{Kind, Reduction, Tensor};

use crate::augment::{AugmentConfig, augment};
use crate::checkpoint::{self, Checkpoint, FILE_NAME, Meta, StoreMark, average_tensors, model_tensors};
use crate::data::{Batch, epoch_order, mix, normalise, prefetch_each};
use crate::eval::{Judged, Lesson, Loaded, Taught, TaughtHead, checkpoint_head, load_side_px};
use crate::export::{BUNDLE, checkpoint_or_bundle};
use crate::files::name_of;
use crate::nets::Phase;
use crate::optim::{Optimizer, Schedule, named_parameters};
use crate::store::{Split, Store};
use crate::{command, config as settings, interrupt, progress};

pub use config::{JointConfig, Source, Weights};
use model::{Model, Teacher};
pub use model::{calibration_error, temperature};

/// Options of `trainer joint`.
#[derive(Clone, Debug, Args)]
pub struct JointArgs {
    /// A TOML file with settings
    #[arg(long)]
    pub config: Option<PathBuf>,

    /// A store by the name that the settings have for it; the first one decides what an epoch is
    #[arg(long, required = true, value_name = "NAME=FOLDER", value_parser = named)]
    pub data: Vec<(String, PathBuf)>,

    /// A run, or a bundle with a dense encoder, whose encoder is begun with
    #[arg(long)]
    pub init: Option<PathBuf>,

    /// A run or such a bundle with a head of expressions, which the new one learns beside the labels; of several, the mean of their
    /// logits
    #[arg(long = "teacher", value_name = "TEACHER")]
    pub teachers: Vec<PathBuf>,

    /// Folder of the run
    #[arg(long)]
    pub out: PathBuf,

    /// Go on with the run that is there
    #[arg(long)]
    pub resume: bool,

    /// Encoder, as of `trainer pretrain` [default: edge, or the encoder of --init]
    #[arg(long)]
    pub backbone: Option<crate::nets::Backbone>,

    /// Side of the encoder's input in pixels [default: 64, or that of --init]
    #[arg(long)]
    pub side_px: Option<u32>,

    /// Passes over the training pictures of the first store [default: 60]
    #[arg(long)]
    pub epochs: Option<i64>,

    /// Learning rate after the warm-up [default: 0.002]
    #[arg(long)]
    pub lr: Option<f64>,

    /// Decides the first weights, the order of the data and every augmentation [default: 0]
    #[arg(long)]
    pub seed: Option<u64>,
}

/// Reads `NAME=FOLDER`.
pub(crate) fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => {
            Ok((name.to_owned(), folder.into()))
        }
        _ => Err("a name, = and a store's folder, as in faces=stores/fer2013".to_owned()),
    }
}

/// Runs `trainer joint`.
///
/// # Errors
/// Names the setting, file or picture that stands in the way.
pub fn run(args: &JointArgs) -> anyhow::Result<()> {
    let init = args.init.as_deref().map(checkpoint_or_bundle).transpose()?;
    let mut flags = toml::Table::new();
    if let Some(backbone) = args.backbone.or(init.as_ref().map(|init| init.meta.backbone)) {
        flags.insert("backbone".to_owned(), backbone.to_string().into());
    }
    if let Some(side_px) = args.side_px.or(init.as_ref().map(|init| init.meta.side_px)) {
        flags.insert("side_px".to_owned(), i64::from(side_px).into());
    }
    if let Some(init) = &init {
        flags.insert("mean".to_owned(), toml::Value::try_from(init.meta.mean)?);
        flags.insert("std".to_owned(), toml::Value::try_from(init.meta.std)?);
    }
    if let Some(epochs) = args.epochs {
        flags.insert("epochs".to_owned(), epochs.into());
    }
    if let Some(lr) = args.lr {
        flags.insert("lr".to_owned(), lr.into());
    }
    if let Some(seed) = args.seed {
        flags.insert("seed".to_owned(), i64::try_from(seed).context("--seed is too large")?.into());
    }
    let config: JointConfig = settings::layered(args.config.as_deref(), flags)?;
    let teachers = checkpoints(&args.teachers)?;
    let place = Place { out: &args.out, resume: args.resume };
    joint(
        &config,
        &args.data,
        Origins { init: init.as_ref(), teachers: &teachers },
        place,
        interrupt::flag()?,
    )
}

/// The runs, or bundles, in these folders.
///
/// # Errors
/// Names the one that cannot be read.
pub(crate) fn checkpoints(runs: &[PathBuf]) -> anyhow::Result<Vec<Checkpoint>> {
    runs.iter().map(|run| checkpoint_or_bundle(run)).collect()
}

/// What a run begins with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origins<'a> {
    /// A run whose encoder is begun with; fresh weights where there is none.
    pub init: Option<&'a Checkpoint>,
    /// Runs with a head of expressions; the mean of their logits is learnt beside the labels.
    pub teachers: &'a [Checkpoint],
}

impl Origins<'_> {
    /// What they are known again by.
    fn marks(&self) -> BTreeMap<String, String> {
        let init = self.init.map(|init| ("init".to_owned(), init.sha256.clone()));
        let teachers =
            (1..).zip(self.teachers).map(|(i, run): (u32, _)| (format!("teacher {i}"), run.sha256.clone()));
        init.into_iter().chain(teachers).collect()
    }
}

/// Where a run is written.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its folder.
    pub out: &'a Path,
    /// Whether it goes on from the checkpoint there.
    pub resume: bool,
}

/// Trains until the last epoch, or until `stop` is set; there is a checkpoint after every epoch, and after a stop.
///
/// # Errors
/// As [`run`].
pub fn joint(
    config: &JointConfig,
    data: &[(String, PathBuf)],
    origins: Origins<'_>,
    place: Place<'_>,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    config.check()?;
    let sources = sources(config, data)?;
    let mut run = Run::new(config, sources, origins, place)?;
    if run.step == run.schedule.total_steps {
        eprintln!("{}: the run is done", place.out.display());
        return Ok(());
    }
    let heads: Vec<_> =
        run.rows.iter().map(|(head, rows)| format!("{} ({})", head.path(), rows.len())).collect();
    for source in &run.sources {
        let lessons: Vec<_> = source.lessons.iter().map(|(lesson, _)| format!("{lesson:?}")).collect();
        eprintln!(
            "{}: {} training pictures, {} a batch: {}",
            source.store.dir().display(),
            source.frames.len(),
            source.batch,
            if lessons.is_empty() { "the teacher alone".to_owned() } else { lessons.join(", ") }
        );
    }
    eprintln!("{}: heads {}", config.backbone, heads.join(", "));
    run.train(stop)
}

/// A store that is learnt from.
#[derive(Debug)]
struct Learnt {
    store: Store,
    /// Training frames with something to learn.
    frames: Vec<usize>,
    batch: usize,
    lessons: Vec<(Lesson, Box<dyn Taught>)>,
    augment: AugmentConfig,
}

impl Learnt {
    fn open(config: &JointConfig, source: &Source, folder: &Path) -> anyhow::Result<Self> {
        let store = Store::open(folder)?;
        let mut lessons = Vec::new();
        let mut frames = Vec::new();
        let mut augment = config.augment;
        for &lesson in &source.lessons {
            let mut taught = lesson.teacher(&store, config.votes, config.label_smoothing)?;
            let of_lesson = taught.begin(&store);
            ensure!(
                !of_lesson.is_empty(),
                "{}: {}: nothing to learn of {lesson:?}",
                source.name,
                folder.display()
            );
            frames.extend(of_lesson);
            augment = taught.views(&augment)?;
            lessons.push((lesson, taught));
        }
        if lessons.is_empty() {
            frames = store.split(Split::Train);
        }
        frames.sort_unstable();
        frames.dedup();
        ensure!(
            frames.len() >= source.batch,
            "{}: {}: {} training pictures do not fill a batch of {}",
            source.name,
            folder.display(),
            frames.len(),
            source.batch
        );
        Ok(Self { store, frames, batch: source.batch, lessons, augment })
    }

    /// Whether pictures can be mixed: what they teach is a mean of what each of them does.
    fn mixes(&self) -> bool {
        self.lessons.iter().all(|(lesson, _)| *lesson != Lesson::Pose)
    }
}

/// The frames of a step: batches go through a permutation of them, then through the next one.
fn draws(frames: &[usize], batch: usize, seed: u64) -> impl FnMut(i64) -> Vec<usize> + Send + use<'_> {
    let each = (frames.len() / batch) as i64;
    let mut known: Option<(i64, Vec<usize>)> = None;
    move |step| {
        let cycle = step / each;
        let order = match known.take() {
            Some((of, order)) if of == cycle => order,
            _ => epoch_order(frames, seed, cycle),
        };
        let first = (step % each) as usize * batch;
        let drawn = order[first..first + batch].to_vec();
        known = Some((cycle, order));
        drawn
    }
}

/// # Errors
/// Names the source that is not there, or has nothing to learn.
fn sources(config: &JointConfig, data: &[(String, PathBuf)]) -> anyhow::Result<Vec<Learnt>> {
    if config.sources.is_empty() {
        let mut known: Option<Vec<Expression>> = None;
        let all = data.iter().enumerate().map(|(i, (name, folder))| {
            let store = Store::open(folder)?;
            let train = store.split(Split::Train);
            let mut lessons: Vec<_> = Lesson::ALL
                .into_iter()
                .filter(|lesson| train.iter().any(|&i| lesson.is_on(&store.record(i))))
                .collect();
            if lessons.contains(&Lesson::Expression) {
                let classes = crate::eval::classes(&store)?;
                if *known.get_or_insert_with(|| classes.clone()) != classes {
                    eprintln!("{name}: it has other expressions than an earlier store; they are not learnt");
                    lessons.retain(|lesson| *lesson != Lesson::Expression);
                }
            }
            let batch = if i == 0 { 128 } else { 32 };
            Learnt::open(config, &Source { name: name.clone(), batch, lessons }, folder)
        });
        return all.collect();
    }
    let open = |source: &Source| {
        let found = data.iter().find(|(name, _)| *name == source.name);
        let (_, folder) = found
            .with_context(|| format!("the settings want a store '{0}': --data {0}=FOLDER", source.name))?;
        Learnt::open(config, source, folder)
    };
    if let Some((name, _)) =
        data.iter().find(|(name, _)| config.sources.iter().all(|source| source.name != *name))
    {
        bail!("--data {name}: the settings have no source of this name");
    }
    config.sources.iter().map(open).collect()
}

/// A run while it is under way.
#[derive(Debug)]
struct Run<'a> {
    config: &'a JointConfig,
    sources: Vec<Learnt>,
    /// Names of the rows of each head: the values that some source tells of.
    rows: BTreeMap<TaughtHead, Vec<String>>,
    model: Model,
    average: Model,
    teachers: Vec<Teacher>,
    optimizer: Optimizer,
    schedule: Schedule,
    steps_an_epoch: i64,
    data: Vec<StoreMark>,
    origins: BTreeMap<String, String>,
    /// Steps done.
    step: i64,
    out: &'a Path,
}

/// One line of `epochs.jsonl`.
#[derive(Debug, serde::Serialize)]
struct EpochLine {
    epoch: i64,
    step: i64,
    loss: f64,
    lr: f64,
    images_per_sec: f64,
    scores: BTreeMap<String, f64>,
}

const EPOCHS: &str = "epochs.jsonl";

/// Keeps the draws of a source apart from those of the others, and those of mixing from both.
const MIXING: u64 = 0x4D49_5849;

impl<'a> Run<'a> {
    fn new(
        config: &'a JointConfig,
        sources: Vec<Learnt>,
        origins: Origins<'_>,
        place: Place<'a>,
    ) -> anyhow::Result<Self> {
        let (mut heads, mut rows) = (BTreeMap::<_, Vec<bool>>::new(), BTreeMap::<_, Vec<String>>::new());
        for (lesson, taught) in sources.iter().flat_map(|source| &source.lessons) {
            let before = rows.insert(lesson.head(), taught.rows());
            ensure!(
                before.is_none_or(|before| before == taught.rows()),
                "{lesson:?}: two stores have it with other classes"
            );
            let known = taught.known();
            let all = heads.entry(lesson.head()).or_insert_with(|| vec![false; known.len()]);
            all.iter_mut().zip(known).for_each(|(all, known)| *all |= known);
        }
        ensure!(!heads.is_empty(), "no source has anything to learn");
        for (head, rows) in &mut rows {
            let mut known = heads[head].iter();
            rows.retain(|_| known.next().is_some_and(|known| *known));
        }
        let taught_by = |checkpoint: &Checkpoint| {
            let head = checkpoint_head(checkpoint)?;
            let ours = rows.get(&TaughtHead::Expression).map(Vec::as_slice).unwrap_or_default();
            ensure!(
                head.labels() == ours,
                "the teacher has the expressions {}, not {}",
                head.labels().join(", "),
                ours.join(", ")
            );
            Ok(Teacher::new(Loaded::from_checkpoint(checkpoint)?, &head))
        };
        let teachers = origins.teachers.iter().map(taught_by).collect::<anyhow::Result<Vec<_>>>()?;
        let silent = sources
            .iter()
            .find(|source| source.lessons.is_empty() && (teachers.is_empty() || config.distil == 0.0));
        if let Some(source) = silent {
            bail!(
                "{}: it has no lessons, and there is no teacher (--teacher, distil)",
                source.store.dir().display()
            );
        }
        tch::manual_seed(config.seed as i64);
        let (model, average) = (Model::new(config, &heads), Model::new(config, &heads));
        if let Some(init) = origins.init {
            let theirs = (init.meta.backbone, init.meta.side_px, init.meta.mean, init.meta.std);
            ensure!(
                theirs == (config.backbone, config.side_px, config.mean, config.std),
                "--init: a run of {} with {} px, not {} with {} px and the same normalisation",
                init.meta.backbone,
                init.meta.side_px,
                config.backbone,
                config.side_px
            );
            let begun = Loaded::from_checkpoint(init)?.vs.variables();
            tch::no_grad(|| {
                for (name, mut variable) in model.loaded.vs.variables() {
                    if let Some(begun) = begun.get(&name) {
                        variable.copy_(begun);
                    }
                }
            });
            if init.meta.method == BUNDLE {
                settle(&model.loaded, &sources[0], config.seed)?;
            }
        }
        average.copy(&model);
        let steps_an_epoch = (sources[0].frames.len() / sources[0].batch) as i64;
        let schedule = Schedule {
            lr: config.lr,
            warmup_steps: config.warmup_epochs * steps_an_epoch,
            constant_steps: 0,
            total_steps: config.epochs * steps_an_epoch,
        };
        let optimizer =
            Optimizer::new(config.optimizer, named_parameters(&model.loaded.vs), config.weight_decay);
        let data = sources.iter().map(|source| StoreMark::of(&source.store)).collect();
        let mut run = Self {
            config,
            sources,
            rows,
            model,
            average,
            teachers,
            optimizer,
            schedule,
            steps_an_epoch,
            data,
            origins: origins.marks(),
            step: 0,
            out: place.out,
        };
        if place.resume {
            run.restore()?;
        } else {
            ensure!(
                !place.out.join(FILE_NAME).exists(),
                "{}: there is a run here already: --resume continues it, another --out keeps it",
                place.out.display()
            );
            std::fs::create_dir_all(place.out).with_context(|| place.out.display().to_string())?;
        }
        command::note(place.out, place.resume).with_context(|| place.out.display().to_string())?;
        Ok(run)
    }

    fn train(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        let total = self.schedule.total_steps;
        let bar = progress::bar(total as u64, "joint");
        bar.set_position(self.step as u64);
        bar.reset_eta();
        let views: Vec<u32> =
            self.sources.iter().map(|source| load_side_px(self.config.side_px, &source.augment)).collect();
        // Loading borrows the stores while a step changes the rest.
        let sources = std::mem::take(&mut self.sources);
        let images: usize = sources.iter().map(|source| source.batch).sum();
        let trained = std::thread::scope(|scope| {
            let mut draws: Vec<_> = (0u64..)
                .zip(&sources)
                .map(|(k, source)| draws(&source.frames, source.batch, mix(self.config.seed, k)))
                .collect();
            let stores: Vec<_> = sources.iter().map(|source| &source.store).zip(views).collect();
            let steps = (self.step..total).map(move |step| draws.iter_mut().map(|draw| draw(step)).collect());
            let batches = prefetch_each(scope, stores, steps);
            let (mut losses, mut started, mut since) = (0.0, Instant::now(), 0);
            for batches in batches {
                let lr = self.schedule.lr_at(self.step);
                let loss = self.loss(&sources, &batches?)?;
                self.optimizer.zero_grad();
                loss.backward();
                self.optimizer.step(lr);
                self.average.follow(
                    &self.model,
                    1.0 - self.config.ema.min(self.step as f64 / (self.step + 10) as f64),
                );
                let loss = loss.double_value(&[]);
                ensure!(loss.is_finite(), "the loss is {loss} at step {}: lower lr", self.step);
                self.step += 1;
                (losses, since) = (losses + loss, since + 1);
                let rate = (since * images) as f64 / started.elapsed().as_secs_f64();
                bar.set_message(format!("loss {loss:.3} {rate:.0} images/s"));
                bar.inc(1);
                if self.step % self.steps_an_epoch == 0 {
                    let scores = self.judge(&sources)?;
                    let epoch = self.step / self.steps_an_epoch;
                    let loss = losses / f64::from(since as u32);
                    let told: Vec<_> =
                        scores.iter().map(|(name, score)| format!("{name} {score:.4}")).collect();
                    bar.println(format!("epoch {epoch:>3}  loss {loss:.3}  validation: {}", told.join(", ")));
                    log::info!("epoch {epoch}: loss {loss:.3}, validation {}", told.join(", "));
                    self.note(&EpochLine {
                        epoch,
                        step: self.step,
                        loss,
                        lr,
                        images_per_sec: rate,
                        scores: scores.clone(),
                    })?;
                    if self.step == total {
                        let scores = self.finish(&sources, scores)?;
                        self.save(&scores)?;
                    } else {
                        self.save(&scores)?;
                    }
                    (losses, started, since) = (0.0, Instant::now(), 0);
                } else if stop.load(Ordering::Relaxed) {
                    self.save(&BTreeMap::new())?;
                }
                if stop.load(Ordering::Relaxed) && self.step < total {
                    bar.abandon();
                    eprintln!("stopped after step {} of {total}; --resume continues", self.step);
                    return Ok(());
                }
            }
            bar.finish_and_clear();
            Ok(())
        });
        self.sources = sources;
        trained
    }

    /// The loss of a step's batches, one a source.
    fn loss(&self, sources: &[Learnt], batches: &[Batch]) -> anyhow::Result<Tensor> {
        let config = self.config;
        let device = self.model.loaded.vs.device();
        let seed = mix(config.seed, self.step as u64);
        let mut rng = ChaCha8Rng::seed_from_u64(mix(seed, MIXING));
        let side = i64::from(config.side_px);
        let (mut views, mut kept) = (Vec::new(), Vec::new());
        for ((k, source), batch) in (0u64..).zip(sources).zip(batches) {
            let seeds: Vec<u64> = (0..source.batch as u64).map(|i| mix(mix(seed, k), i)).collect();
            let view = augment(&batch.to_unit(device), &batch.landmarks, &source.augment, side, &seeds);
            // A batch is in random order: the next one is as good a partner as any.
            let share = if config.mixup > 0.0 && source.mixes() {
                Beta::new(config.mixup, config.mixup).map_or(1.0, |beta| beta.sample(&mut rng))
            } else {
                1.0
            };
            views.push(if share < 1.0 { &view * share + view.roll([-1], [0]) * (1.0 - share) } else { view });
            kept.push(share);
        }
        let views = Tensor::cat(&views, 0);
        let crops = normalise(&views, config.mean, config.std);
        let embeddings = self.model.loaded.encoder.forward(&crops, Phase::ALONE, config.precision);
        let embeddings = left_out(&embeddings, config.dropout, &mut rng);
        let taught = self
            .teachers
            .iter()
            .filter(|_| config.distil > 0.0)
            .map(|teacher| teacher.logits(&views, config))
            .reduce(|sum, logits| sum + logits)
            .map(|sum| sum / self.teachers.len() as f64);
        let mut total = Tensor::zeros([], (Kind::Float, device));
        let mut first = 0;
        for ((source, batch), share) in sources.iter().zip(batches).zip(kept) {
            let n = source.batch as i64;
            let ours = embeddings.narrow(0, first, n);
            let of_batch = n as f64 / sources[0].batch as f64;
            let distilled =
                source.lessons.is_empty() || source.lessons.iter().any(|(l, _)| *l == Lesson::Expression);
            let teacher = taught.as_ref().filter(|_| distilled);
            if let Some(taught) = teacher {
                let logits = self.model.outputs(TaughtHead::Expression, &ours)?;
                let loss = divergence(&taught.narrow(0, first, n), &logits, config.temperature);
                total += loss * config.distil * of_batch * config.weights.expression;
            }
            for (lesson, goal) in &source.lessons {
                let weight = match lesson {
                    Lesson::Expression if teacher.is_some() => {
                        config.weights.expression * (1.0 - config.distil)
                    }
                    Lesson::Expression => config.weights.expression,
                    Lesson::ValenceArousal | Lesson::Circumplex => config.weights.valence_arousal,
                    Lesson::ActionUnits => config.weights.action_units,
                    Lesson::Pose => config.weights.pose,
                };
                let partners: Vec<usize> =
                    batch.indices.iter().cycle().skip(1).take(source.batch).copied().collect();
                for (frames, share) in [(&batch.indices, share), (&partners, 1.0 - share)] {
                    let (rows, frames): (Vec<i64>, Vec<usize>) =
                        (0i64..).zip(frames).filter(|(_, frame)| goal.has(&source.store, **frame)).unzip();
                    if share > 0.0 && rows.len() > 1 {
                        let outputs = self.model.outputs(
                            lesson.head(),
                            &ours.index_select(0, &Tensor::from_slice(&rows).to_device(device)),
                        )?;
                        let learnt = goal.learnt(&source.store, &frames).to_device(device);
                        total += goal.loss(&outputs, &learnt) * (share * weight * of_batch);
                    }
                }
            }
            first += n;
        }
        Ok(total)
    }

    /// Scores of the averaged weights on the validation splits, by head and measure; of a second store with that head, by its
    /// folder's name, too.
    fn judge(&self, sources: &[Learnt]) -> anyhow::Result<BTreeMap<String, f64>> {
        let mut scores = BTreeMap::new();
        for source in sources {
            for (lesson, goal) in &source.lessons {
                let outputs = |frames: &[usize]| self.average.read(lesson.head(), &source.store, frames);
                let Judged { measure, score, .. } = goal.judge(&source.store, Split::Val, &outputs)?;
                let measure = format!("val_{}_{measure}", lesson.head().path());
                // The first source's is the one that a run is known by.
                let taken = scores.contains_key(&measure);
                let name = if taken { format!("{measure}_{}", name_of(source.store.dir())) } else { measure };
                scores.insert(name, score);
            }
        }
        Ok(scores)
    }

    /// Brings the probabilities of expressions to what they say, on the first source that has expressions; `scores` with what
    /// that did.
    fn finish(
        &self,
        sources: &[Learnt],
        mut scores: BTreeMap<String, f64>,
    ) -> anyhow::Result<BTreeMap<String, f64>> {
        let has = |source: &&Learnt| source.lessons.iter().any(|(lesson, _)| *lesson == Lesson::Expression);
        let Some(source) = sources.iter().find(has) else { return Ok(scores) };
        let classes = crate::eval::classes(&source.store)?;
        let (frames, labels) = crate::eval::labelled(&source.store, Split::Val, &classes);
        let logits = self.average.read(TaughtHead::Expression, &source.store, &frames)?;
        let temperature = temperature(&logits, &labels)?;
        scores.insert("temperature".to_owned(), temperature);
        scores.insert("val_ece_before".to_owned(), calibration_error(&logits, &labels)?);
        scores.insert("val_ece".to_owned(), calibration_error(&(logits / temperature), &labels)?);
        self.average.cool(TaughtHead::Expression, temperature);
        eprintln!(
            "temperature {temperature:.3}: expected calibration error {:.4}, before {:.4} (validation)",
            scores["val_ece"], scores["val_ece_before"]
        );
        Ok(scores)
    }

    fn note(&self, line: &EpochLine) -> anyhow::Result<()> {
        use std::io::Write;
        let path = self.out.join(EPOCHS);
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        let written =
            file.and_then(|mut file| writeln!(file, "{}", serde_json::to_string(line).unwrap_or_default()));
        written.with_context(|| path.display().to_string())
    }

    fn save(&self, scores: &BTreeMap<String, f64>) -> anyhow::Result<()> {
        let config = self.config;
        let meta = Meta {
            format: checkpoint::FORMAT,
            backbone: config.backbone,
            side_px: config.side_px,
            mean: config.mean,
            std: config.std,
            method: METHOD.to_owned(),
            labels: self.rows.get(&TaughtHead::Expression).cloned().unwrap_or_default(),
            heads: self.rows.iter().map(|(head, rows)| (head.path().to_owned(), rows.clone())).collect(),
            step: self.step,
            config: settings::table_of(config)?,
            scores: scores.iter().map(|(name, score)| (name.clone(), (*score).into())).collect(),
            data: self.data.clone(),
            origins: Some(self.origins.clone()),
        };
        let average: Vec<_> = self.average.loaded.vs.variables().into_iter().collect();
        let mut tensors = model_tensors(&self.model.loaded.vs);
        tensors.extend(self.optimizer.state());
        tensors.extend(average_tensors(&average));
        Ok(checkpoint::save(&self.out.join(FILE_NAME), &meta, tensors)?)
    }

    fn restore(&mut self) -> anyhow::Result<()> {
        let saved: Checkpoint = Checkpoint::load(self.out).context("there is nothing to resume")?;
        let ours = settings::table_of(self.config)?;
        if let Some((setting, was, is)) = settings::difference(&saved.meta.config, &ours) {
            bail!(
                "{}: {setting} was {was}, not {is}: resume with the settings that it had",
                self.out.display()
            );
        }
        ensure!(
            saved.meta.data.iter().map(|mark| mark.checksum).eq(self.data.iter().map(|mark| mark.checksum)),
            "{}: the run had other stores: resume it with the data that it had",
            self.out.display()
        );
        if let Some(before) = &saved.meta.origins {
            for what in before.keys().chain(self.origins.keys()) {
                ensure!(
                    before.get(what) == self.origins.get(what),
                    "{}: the run had {} as its {what}: resume it with what it had",
                    self.out.display(),
                    if before.contains_key(what) { "another checkpoint" } else { "none" }
                );
            }
        }
        saved.restore(&self.model.loaded.vs)?;
        saved.restore_average(&self.average.loaded.vs)?;
        self.optimizer.restore(|_| saved.meta.step, |name| saved.tensor(name))?;
        self.step = saved.meta.step;
        Ok(())
    }
}

/// Pictures by which an encoder out of a bundle learns anew what its maps are like.
const SETTLED_BY: usize = 512;

/// Has batch normalisation of an encoder out of a bundle know the statistics of views of the source's pictures.
fn settle(loaded: &Loaded, source: &Learnt, seed: u64) -> anyhow::Result<()> {
    let mut frames = epoch_order(&source.frames, seed, 0);
    frames.truncate(SETTLED_BY);
    let seeds: Vec<u64> = (0u64..).zip(&frames).map(|(i, _)| mix(seed, i)).collect();
    let batch = Batch::load(&source.store, frames, load_side_px(loaded.side_px, &source.augment))?;
    let pictures = batch.to_unit(loaded.vs.device());
    let views = augment(&pictures, &batch.landmarks, &source.augment, i64::from(loaded.side_px), &seeds);
    loaded.encoder.settle(&normalise(&views, loaded.mean, loaded.std));
    Ok(())
}

/// What a checkpoint of `trainer joint` says that it is of.
pub const METHOD: &str = "joint";

/// Embeddings `[N,D]` of which each value is 0 with this probability, the others growing by as much (Srivastava et al. 2014).
/// Drawn on the host: a run that is resumed leaves out the same.
fn left_out(embeddings: &Tensor, probability: f64, rng: &mut ChaCha8Rng) -> Tensor {
    if probability == 0.0 {
        return embeddings.shallow_clone();
    }
    let kept = 1.0 / (1.0 - probability) as f32;
    let factors: Vec<f32> =
        (0..embeddings.numel()).map(|_| if rng.random_bool(probability) { 0.0 } else { kept }).collect();
    embeddings
        * Tensor::from_slice(&factors).view(embeddings.size().as_slice()).to_device(embeddings.device())
}

/// The mean divergence of the student's distribution from the teacher's at a temperature, times its square (Hinton et al.
/// 2015, section 2), so that its slopes are those of a cross-entropy.
fn divergence(teacher: &Tensor, student: &Tensor, temperature: f64) -> Tensor {
    let truth = (teacher / temperature).softmax(-1, Kind::Float);
    let said = (student / temperature).log_softmax(-1, Kind::Float);
    let per_row = said.kl_div(&truth, Reduction::Sum, false) / student.size()[0] as f64;
    per_row * temperature.powi(2)
}
