//! `trainer saliency`: pictures of what encoders and methods do: where they look, what they make, whom they take for alike.

mod cam;
mod copied;
mod neighbours;
mod scatter;
mod turned;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use image::imageops;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semblance_face::labels::Expression;
use serde::{Deserialize, Serialize};
use tch::{Tensor, nn, no_grad};

use crate::checkpoint::{Checkpoint, StoreMark};
use crate::data::{Batch, normalise, training_device};
use crate::eval::{InputSpec, Loaded};
use crate::method::{self, Method};
use crate::pretrain::PretrainConfig;
use crate::store::{Record, Split, Store};
use crate::tiles::{self, Tile};
use crate::{command, config, files};

use self::cam::Target;
use self::copied::Copied;
use self::turned::Turned;

/// A kind of picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Grad-CAM and attention of every run, over people and over a video's time (SSLFER, figure 6)
    Cam,
    /// What methods that make pictures make: PCL's reconstructions (figure 4), FAb-Net's frames put together and its confidences
    Method,
    /// Other people's pictures that lie nearest (FAb-Net, supplement)
    Neighbours,
    /// t-SNE of the embeddings, by expression and by person
    Map,
}

/// Options of `trainer saliency`.
#[derive(Clone, Debug, Args)]
pub struct SaliencyArgs {
    /// A run (or its checkpoint file); may be given several times, to be set side by side
    #[arg(long, required = true)]
    pub checkpoint: Vec<PathBuf>,

    /// Store with pictures
    #[arg(long)]
    pub data: PathBuf,

    /// Folder for the pictures
    #[arg(long)]
    pub out: PathBuf,

    /// Split that pictures are chosen from
    #[arg(long, value_enum, default_value_t = Split::Test)]
    pub split: Split,

    /// Kinds of pictures, by commas [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Kind>,

    /// People that are shown
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=40))]
    pub people: u32,

    /// Frames of one video that are shown
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=40))]
    pub frames: u32,

    /// Bundle whose landmarks tell how heads are turned in what PCL makes; where there is none, that is not measured
    #[arg(long, default_value = "models/default")]
    pub bundle: PathBuf,

    /// Seed of the choice of people and frames
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// The file that describes a folder of pictures.
pub const FILE_NAME: &str = "saliency.json";

/// What a folder of pictures holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Album {
    /// The store that the pictures are of.
    pub data: Option<StoreMark>,
    /// SHA-256 of the runs' checkpoints, by the runs' names.
    #[serde(default)]
    pub runs: BTreeMap<String, String>,
    /// The command lines that drew it.
    #[serde(default)]
    pub commands: Vec<String>,
    /// The pictures.
    pub pages: Vec<Page>,
    /// Of PCL's runs: how heads are turned where the pose is flipped.
    pub turned: BTreeMap<String, Turned>,
    /// Of FAb-Net's runs: how well frames are put together.
    #[serde(default)]
    pub copied: BTreeMap<String, Copied>,
}

/// A picture file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// Its name in the folder.
    pub file: String,
    /// What is to be seen, in a sentence.
    pub about: String,
}

/// A run that is looked into.
struct Run {
    name: String,
    checkpoint: Checkpoint,
    loaded: Loaded,
}

impl Run {
    /// Pictures `[N,3,S,S]` in `[0,1]`, and as the encoder takes them.
    fn crops(&self, store: &Store, frames: &[usize]) -> anyhow::Result<(Tensor, Tensor)> {
        let InputSpec { side_px, mean, std } = self.loaded.input();
        let unit = Batch::load(store, frames.to_vec(), side_px)?.to_unit(self.loaded.vs.device());
        let normalised = normalise(&unit, mean, std);
        Ok((unit, normalised))
    }
}

/// Runs `trainer saliency`.
///
/// # Errors
/// Names what stands in the way.
pub fn run(args: &SaliencyArgs) -> anyhow::Result<()> {
    let store = Store::open(&args.data)?;
    let chosen = Chosen::new(&store, args)?;
    let runs = open_runs(args)?;
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let path = args.out.join(FILE_NAME);
    let mut album = Album {
        data: Some(StoreMark::of(&store)),
        runs: runs.iter().map(|run| (run.name.clone(), run.checkpoint.sha256.clone())).collect(),
        commands: vec![command::line()],
        ..Album::default()
    };
    let wants = |kind| args.only.is_empty() || args.only.contains(&kind);
    if wants(Kind::Cam) {
        cams(args, &store, &chosen, &runs, &mut album)?;
    }
    for run in &runs {
        if wants(Kind::Method) {
            made(args, &store, &chosen, run, &mut album)?;
        }
        if wants(Kind::Neighbours)
            && let Some(grid) = asked(args, neighbours::grid(&store, args.split, &chosen.people, run))?
        {
            let page = Page {
                file: format!("{}-neighbours.png", run.name),
                about: format!(
                    "{}: pictures, and those of other people that lie nearest by cosine.",
                    run.name
                ),
            };
            tiles::write_png(&grid, &args.out.join(&page.file))?;
            album.pages.push(page);
        }
        if wants(Kind::Map)
            && let Some(svg) = asked(args, scatter::svg(&store, args.split, run))?
        {
            let page = Page {
                file: format!("{}-map.svg", run.name),
                about: format!("{}: t-SNE of the embeddings, by expression and by person.", run.name),
            };
            files::put(&args.out.join(&page.file), svg.as_bytes())?;
            album.pages.push(page);
        }
    }
    album.add_earlier(&path)?;
    files::put(&path, &serde_json::to_vec_pretty(&album)?)?;
    if args.json {
        println!("{}", serde_json::to_string(&album)?);
    } else {
        for Page { file, about } in &album.pages {
            println!("{}: {about}", args.out.join(file).display());
        }
        for told in album.told() {
            println!("{told}");
        }
    }
    Ok(())
}

/// What was drawn; where nobody asked for this kind by name, nothing, and why, where it cannot be.
fn asked<T>(args: &SaliencyArgs, drawn: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
    match drawn {
        Ok(drawn) => Ok(Some(drawn)),
        Err(error) if args.only.is_empty() => {
            eprintln!("left out: {error:#}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Album {
    /// What was measured, a sentence a run.
    pub fn told(&self) -> Vec<String> {
        let turned = self.turned.iter().map(|(name, turned)| format!("{name}: {turned}"));
        turned.chain(self.copied.iter().map(|(name, copied)| format!("{name}: {copied}"))).collect()
    }

    /// Keeps the pages of an earlier call into the same folder that this one did not draw again.
    ///
    /// # Errors
    /// Where the earlier one cannot be read, or is of another store.
    fn add_earlier(&mut self, path: &Path) -> anyhow::Result<()> {
        if !path.exists() {
            return Ok(());
        }
        let at = || format!("{}: remove it, or choose another --out", path.display());
        let earlier: Self = serde_json::from_slice(&fs::read(path).with_context(at)?).with_context(at)?;
        ensure!(
            earlier.data == self.data,
            "{}: it is of another store: choose another --out",
            path.display()
        );
        let kept =
            earlier.pages.into_iter().filter(|page| self.pages.iter().all(|own| own.file != page.file));
        self.pages = kept.collect::<Vec<_>>().into_iter().chain(self.pages.drain(..)).collect();
        self.commands.splice(0..0, earlier.commands);
        keep(&mut self.runs, earlier.runs);
        keep(&mut self.turned, earlier.turned);
        keep(&mut self.copied, earlier.copied);
        Ok(())
    }
}

/// Keeps what an earlier call has of runs that this one has nothing of.
fn keep<T>(own: &mut BTreeMap<String, T>, earlier: BTreeMap<String, T>) {
    for (name, value) in earlier {
        own.entry(name).or_insert(value);
    }
}

/// The runs, each by a name of its own.
fn open_runs(args: &SaliencyArgs) -> anyhow::Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for path in &args.checkpoint {
        let folder = if path.is_dir() { path.as_path() } else { path.parent().unwrap_or(path) };
        let stem = match files::name_of(folder) {
            name if name.is_empty() => "run".to_owned(),
            name => name,
        };
        let name = fresh_name(&stem, |name| runs.iter().any(|run| run.name == name));
        let checkpoint = Checkpoint::load(path)?;
        let loaded = Loaded::from_checkpoint(&checkpoint)?;
        runs.push(Run { name, checkpoint, loaded });
    }
    Ok(runs)
}

/// The first of `stem`, `stem.2`, `stem.3` and so on that is not taken.
fn fresh_name(stem: &str, taken: impl Fn(&str) -> bool) -> String {
    let mut name = stem.to_owned();
    let mut number = 1;
    while taken(&name) {
        number += 1;
        name = format!("{stem}.{number}");
    }
    name
}

/// Frames that figures are of, at most.
const MEASURED: usize = 400;

/// What a method calls so, of what it made.
fn named<'a>(shown: &'a [method::Shown], name: &str) -> Option<&'a Tensor> {
    shown.iter().find(|shown| shown.name == name).map(|shown| &shown.pictures)
}

/// Frames of a split, at most so many, evenly over it.
fn some_of(store: &Store, split: Split, most: usize) -> Vec<usize> {
    let frames = store.split(split);
    let every = frames.len().div_ceil(most).max(1);
    frames.into_iter().step_by(every).collect()
}

/// Frames of a split by their video.
struct Videos(BTreeMap<usize, Vec<usize>>);

impl Videos {
    fn of(store: &Store, frames: &[usize]) -> Self {
        let mut videos: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for &frame in frames {
            videos.entry(store.record(frame).video_index()).or_default().push(frame);
        }
        Self(videos)
    }

    fn longest(&self) -> &[usize] {
        self.0.values().max_by_key(|video| video.len()).map_or(&[], Vec::as_slice)
    }

    /// Those of the frame's video.
    fn beside(&self, store: &Store, frame: usize) -> &[usize] {
        self.0.get(&store.record(frame).video_index()).map_or(&[], Vec::as_slice)
    }

    fn is_alone(&self, store: &Store, frame: usize) -> bool {
        self.beside(store, frame).len() < 2
    }

    /// These frames, and lists of as many others, each of the same video as the one in its place, as make up `count` lists; the frame
    /// itself where it is alone.
    fn tuples(&self, store: &Store, frames: &[usize], count: usize, rng: &mut impl Rng) -> Vec<Vec<usize>> {
        let mut tuples = vec![frames.to_vec()];
        while tuples.len() < count {
            let other = |&own: &usize| {
                let others: Vec<usize> =
                    self.beside(store, own).iter().copied().filter(|frame| *frame != own).collect();
                others.choose(rng).copied().unwrap_or(own)
            };
            tuples.push(frames.iter().map(other).collect());
        }
        tuples
    }
}

/// Frames that are shown.
struct Chosen {
    /// One of each of some people, of as many expressions as there are.
    people: Vec<usize>,
    /// Of one video, in order.
    time: Vec<usize>,
    /// All frames of the split.
    videos: Videos,
}

impl Chosen {
    fn new(store: &Store, args: &SaliencyArgs) -> anyhow::Result<Self> {
        let frames = store.split(args.split);
        ensure!(
            !frames.is_empty(),
            "{}: no picture is in the {} split: choose another --split",
            store.dir().display(),
            args.split.name()
        );
        let videos = Videos::of(store, &frames);
        let mut of_people: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for &frame in &frames {
            of_people.entry(store.record(frame).identity()).or_default().push(frame);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
        let mut everybody: Vec<&Vec<usize>> = of_people.values().collect();
        everybody.shuffle(&mut rng);
        let mut shown = [0usize; Expression::ALL.len()];
        let mut people = Vec::new();
        for own in everybody.into_iter().take(args.people as usize) {
            // The expression that was shown least so far; of those frames, any.
            let times = |&frame: &usize| store.record(frame).expression().map_or(0, |e| shown[e.index()]);
            let least = own.iter().map(times).min().unwrap_or_default();
            let candidates: Vec<usize> = own.iter().copied().filter(|frame| times(frame) == least).collect();
            let Some(&frame) = candidates.choose(&mut rng) else { continue };
            if let Some(expression) = store.record(frame).expression() {
                shown[expression.index()] += 1;
            }
            people.push(frame);
        }
        let longest = videos.longest();
        let count = longest.len().min(args.frames as usize);
        let time = (0..count).map(|i| longest[i * longest.len() / count]).collect();
        Ok(Self { people, time, videos })
    }
}

/// The pages of Grad-CAM and attention.
fn cams(
    args: &SaliencyArgs,
    store: &Store,
    chosen: &Chosen,
    runs: &[Run],
    album: &mut Album,
) -> anyhow::Result<()> {
    let mut targets = Vec::new();
    for run in runs {
        targets.push(Target::of(&run.checkpoint, &run.loaded, store, args.split)?);
    }
    for (file, frames, of) in [
        ("people.png", &chosen.people, "different people"),
        ("time.png", &chosen.time, "one video over time"),
    ] {
        let truths: Vec<Option<Expression>> = frames.iter().map(|&f| store.record(f).expression()).collect();
        let mut rows = vec![pictures(store, frames)?];
        let mut about = format!("Grad-CAM and attention on {of}.");
        for (run, target) in runs.iter().zip(&targets) {
            let (unit, crops) = run.crops(store, frames)?;
            let maps = match cam::maps(&run.loaded, &crops, target, &truths) {
                Ok(maps) => maps,
                Err(error) => {
                    eprintln!("{}: left out: {error:#}", run.name);
                    continue;
                }
            };
            for (title, map) in [("Grad-CAM", &maps.cam), ("attention", &maps.attention)] {
                let tile = |i: i64| {
                    let over = cam::overlay(&unit.get(i), &map.get(i));
                    Ok(Tile::of(tiles::image_of(&over)?, title, &run.name))
                };
                rows.push((0..frames.len() as i64).map(tile).collect::<anyhow::Result<_>>()?);
            }
            about.push_str(&format!(" {}: by {}.", run.name, target.name()));
        }
        // Pictures alone say nothing of an encoder.
        if rows.len() > 1 {
            tiles::write_png(&tiles::grid(&rows), &args.out.join(file))?;
            album.pages.push(Page { file: file.to_owned(), about });
        }
    }
    Ok(())
}

/// Tiles of a store's pictures.
fn pictures(store: &Store, frames: &[usize]) -> anyhow::Result<Vec<Tile>> {
    frames.iter().map(|&frame| picture(&store.record(frame), None)).collect()
}

/// A picture over its expression, or else its time, and over `note`, or else whose it is.
fn picture(record: &Record<'_>, note: Option<String>) -> anyhow::Result<Tile> {
    let title = match record.expression() {
        Some(expression) => expression.name().to_owned(),
        None => format!("{:.1} s", record.t_secs()),
    };
    let note = note.unwrap_or_else(|| record.identity().to_owned());
    // What an encoder sees of it.
    let whole = tiles::image_in(record)?;
    let side = whole.width().min(whole.height());
    let (x, y) = ((whole.width() - side) / 2, (whole.height() - side) / 2);
    Ok(Tile::of(imageops::crop_imm(&whole, x, y, side, side).to_image(), title, note))
}

/// What a run's method makes, where it makes pictures, a row for each person.
fn made(
    args: &SaliencyArgs,
    store: &Store,
    chosen: &Chosen,
    run: &Run,
    album: &mut Album,
) -> anyhow::Result<()> {
    let Some(config) = pretraining(&run.checkpoint)?.filter(|c| c.method.makes_pictures()) else {
        return Ok(());
    };
    let vs = nn::VarStore::new(training_device());
    let mut objective = method::build(&config, &vs).with_context(|| run.name.clone())?;
    run.checkpoint.restore_average(&vs)?;
    objective.restored();
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let count = method::sampling(&config).frames();
    let tuples = chosen.videos.tuples(store, &chosen.people, count, &mut rng);
    let views =
        tuples.iter().map(|frames| Ok(run.crops(store, frames)?.1)).collect::<anyhow::Result<Vec<_>>>()?;
    let shown = no_grad(|| objective.show(&views));
    if shown.is_empty() {
        return Ok(());
    }
    let row = |i: usize| {
        let tile = |shown: &method::Shown| {
            Ok(Tile::of(tiles::image_of(&shown.pictures.get(i as i64))?, &shown.name, ""))
        };
        shown.iter().map(tile).collect::<anyhow::Result<Vec<_>>>()
    };
    let rows = (0..chosen.people.len()).map(row).collect::<anyhow::Result<Vec<_>>>()?;
    let page = Page {
        file: format!("{}-method.png", run.name),
        about: format!("{}: what the method ({}) makes of pictures.", run.name, config.method.name()),
    };
    tiles::write_png(&tiles::grid(&rows), &args.out.join(&page.file))?;
    album.pages.push(page);
    if config.method == Method::Pcl
        && let Some(turned) = turned::measure(args, store, run, objective.as_ref())?
    {
        album.turned.insert(run.name.clone(), turned);
    }
    if config.method == Method::FabNet
        && let Some(copied) =
            copied::measure(args, store, run, &chosen.videos, (&config, objective.as_ref()))?
    {
        album.copied.insert(run.name.clone(), copied);
    }
    Ok(())
}

/// The settings that a run was pretrained with; `None` for one that was fine-tuned.
fn pretraining(checkpoint: &Checkpoint) -> anyhow::Result<Option<PretrainConfig>> {
    if checkpoint.meta.method == "finetune" {
        return Ok(None);
    }
    Ok(Some(config::parse(checkpoint.meta.config.clone(), "the run's settings")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_runs_do_not_meet() {
        let mut names: Vec<String> = Vec::new();
        for stem in ["exp.2", "exp", "exp", "exp.2"] {
            let name = fresh_name(stem, |name| names.iter().any(|other| other == name));
            names.push(name);
        }
        assert_eq!(names, ["exp.2", "exp", "exp.3", "exp.2.2"]);
    }
}
