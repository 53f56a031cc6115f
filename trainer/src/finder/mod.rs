//! `trainer finder`: trains the single-shot face finder on labelled pictures and synthetic people.

mod net;
mod scene;
mod target;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use semblance_face::landmarks::{face_box, five_points};
use semblance_face::{Detection, Frame};
use semblance_synth::{draw, empty_scene};
use tch::{Device, Tensor, nn};

pub use net::FinderNet;
pub use scene::{Pools, SURE, Scene, add_noise, blur, recolour, size_of};
pub use target::{Loss, Targets, to_input};

use crate::data::{mix, training_device};
use crate::facenet::{self, Run, Schedule};
use crate::faces::{self, Picture};
use crate::nets::{Phase, Precision};

/// What a run's checkpoint is of.
pub const KIND: &str = "finder";

/// Options of `trainer finder`.
#[derive(Clone, Debug, Args)]
pub struct FinderArgs {
    /// Folder with pictures and their faces.csv (deploy/teacher/yunet.py writes one); may be given several times
    #[arg(long, required = true)]
    pub faces: Vec<PathBuf>,

    /// Folder of the run
    #[arg(long)]
    pub out: PathBuf,

    /// Sources that are kept for validation whole, besides a sixth of all identities
    #[arg(long, value_delimiter = ',', default_value = "asl,retalking")]
    pub validate: Vec<String>,

    /// Synthetic pictures with a face
    #[arg(long, default_value_t = 6000)]
    pub synth: usize,

    /// Synthetic pictures without one
    #[arg(long, default_value_t = 1500)]
    pub empty: usize,

    /// Continue the run in --out from its last checkpoint
    #[arg(long)]
    pub resume: bool,

    /// Do not train, but show training scenes with their labels in this picture
    #[arg(long, value_name = "FILE")]
    pub sheet: Option<PathBuf>,

    /// How long and how fast
    #[command(flatten)]
    pub schedule: Schedule,
}

/// Longest side of pictures in memory: no scene is larger.
const PICTURE_SIDE_PX: u32 = 320;
/// Sizes of scene that batches take turns with, and how many of the smaller ones one of them weighs.
const SCENES: [(usize, usize, usize); 4] = [(160, 128, 1), (160, 128, 1), (160, 128, 1), (320, 256, 4)];
/// Weight of synthetic people against real ones in a scene.
const SYNTH_SHARE: f64 = 0.25;

/// Runs `trainer finder`.
///
/// # Errors
/// Names the file or option that stands in the way.
pub fn run(args: &FinderArgs) -> anyhow::Result<()> {
    let (pools, mut config) = load_pools(args)?;
    if let Some(path) = &args.sheet {
        return write_sheet(&pools, &args.schedule, path);
    }
    tch::manual_seed(args.schedule.seed as i64);
    let vs = nn::VarStore::new(training_device());
    let net = FinderNet::new(&(vs.root() / KIND));
    config.insert("schedule".to_owned(), facenet::settings(&args.schedule)?.into());
    let schedule = &args.schedule;
    let run = Run { kind: KIND, schedule, config: &config, out: &args.out, resume: args.resume };
    let device = vs.device();
    let done = facenet::train(
        &run,
        &vs,
        |step| draw_batch(&pools, schedule, step),
        |(scenes, targets)| total_loss(&net, schedule.precision, scenes, targets, device),
    )?;
    if done {
        eprintln!("{}: done; `trainer export --finder` puts it into a bundle", args.out.display());
    }
    Ok(())
}

/// Real and synthetic pictures, and a table of what they are.
fn load_pools(args: &FinderArgs) -> anyhow::Result<(Pools, toml::Table)> {
    let mut entries = Vec::new();
    for dir in &args.faces {
        entries.extend(faces::read_list(dir)?);
    }
    entries.retain(|entry| !entry.is_validation(&args.validate));
    ensure!(!entries.is_empty(), "--validate leaves no picture for training");
    let counts = faces::counts(entries.iter().map(|e| e.source.as_str()));
    eprintln!("training on {counts}, {} synthetic, {} without a face", args.synth, args.empty);
    let mut pools = Pools::default();
    // Every source weighs as the root of its pictures: few pictures are not repeated too often, many do not drown them.
    let mut sources: Vec<&str> = entries.iter().map(|e| e.source.as_str()).collect();
    sources.sort_unstable();
    sources.dedup();
    let mut total = 0.0;
    for source in sources {
        let of_source: Vec<_> = entries.iter().filter(|e| e.source == source).cloned().collect();
        let weight = (of_source.len() as f64).sqrt();
        total += weight;
        pools.add(weight, faces::load(&of_source, PICTURE_SIDE_PX)?.0);
    }
    let seed = args.schedule.seed;
    for (part, share) in [(0u64, (0.12, 0.35)), (1, (0.35, 0.8))] {
        let options = faces::scene_options(320, 240, share);
        let drawn = faces::render(args.synth / 2, mix(seed, part), &options, |frame, labels| {
            let landmarks = Some(five_points(&labels.landmarks));
            // A face that is mostly hidden is no example of one.
            let score = if labels.hidden < 0.5 { 1.0 } else { SURE / 2.0 };
            let face = Detection { bbox: face_box(&labels.landmarks), score, landmarks };
            Picture { frame, faces: vec![face] }
        })?;
        pools.add(total * SYNTH_SHARE / (1.0 - SYNTH_SHARE) / 2.0, drawn);
    }
    let empty = (0..args.empty as u64)
        .into_par_iter()
        .map(|i| empty_scene(320, 240, mix(mix(seed, 2), i)))
        .collect::<Result<Vec<_>, _>>()
        .context("synthetic backgrounds")?;
    pools.add_empty(empty);
    ensure!(!pools.is_empty(), "no picture shows a face with a score of at least {SURE}");
    let config = toml::Table::from_iter([
        ("pictures".to_owned(), counts.into()),
        ("validation".to_owned(), args.validate.join(", ").into()),
        ("synthetic".to_owned(), (args.synth as i64).into()),
        ("without_face".to_owned(), (args.empty as i64).into()),
    ]);
    Ok((pools, config))
}

/// The scenes of a step and what the network should say of them.
fn draw_batch(pools: &Pools, schedule: &Schedule, step: i64) -> (Vec<Scene>, Targets) {
    let (width, height, weight) = SCENES[step as usize % SCENES.len()];
    let count = (schedule.batch / weight).max(2) as u64;
    let seed = mix(schedule.seed, step as u64);
    let scenes: Vec<_> = (0..count)
        .into_par_iter()
        .map(|i| Scene::draw(pools, width, height, &mut ChaCha8Rng::seed_from_u64(mix(seed, i))))
        .collect();
    let targets = Targets::of(&scenes);
    (scenes, targets)
}

/// The first scenes of a run with their boxes and points; green where they teach, yellow where they are not sure enough.
fn write_sheet(pools: &Pools, schedule: &Schedule, path: &Path) -> anyhow::Result<()> {
    const COLUMNS: usize = 6;
    let (width, height, _) = SCENES[0];
    let (scenes, _) = draw_batch(pools, schedule, 0);
    let rows = scenes.len().div_ceil(COLUMNS);
    let mut sheet = Frame::black((COLUMNS * width) as u32, (rows * height) as u32)?;
    for (i, scene) in scenes.into_iter().enumerate() {
        let mut picture = Frame::new(width as u32, height as u32, scene.rgb)?;
        for face in &scene.faces {
            let colour = if face.score >= SURE { [0, 255, 0] } else { [255, 255, 0] };
            draw::rect(&mut picture, &face.bbox, colour);
            face.landmarks.iter().flatten().for_each(|p| draw::dot(&mut picture, *p, 0, [255, 0, 0]));
        }
        draw::paste(&mut sheet, &picture, (i % COLUMNS * width) as i64, (i / COLUMNS * height) as i64);
    }
    let save = image::save_buffer(path, sheet.rgb(), sheet.width(), sheet.height(), image::ColorType::Rgb8);
    save.with_context(|| path.display().to_string())
}

/// The weighted loss, and its parts for people.
fn total_loss(
    net: &FinderNet,
    precision: Precision,
    scenes: &[Scene],
    targets: &Targets,
    device: Device,
) -> (Tensor, String) {
    let cells = net.forward(&to_input(scenes, device), Phase::ALONE, precision);
    let loss = Loss::of(&cells, targets);
    let value = |t: &Tensor| t.double_value(&[]);
    let (score, bbox, points) = (value(&loss.score), value(&loss.bbox), value(&loss.points));
    let parts = format!("score {score:.3} box {bbox:.3} points {points:.4}");
    (loss.score + loss.bbox * 2.0 + loss.points * 4.0, parts)
}

/// The network of a run, as ONNX, and how it was trained.
///
/// # Errors
/// Names the checkpoint.
pub fn onnx(run: &std::path::Path) -> anyhow::Result<(Vec<u8>, toml::Table)> {
    let saved = facenet::load(KIND, run)?;
    let vs = nn::VarStore::new(tch::Device::Cpu);
    let net = FinderNet::new(&(vs.root() / KIND));
    saved.restore(&vs)?;
    Ok((tch::no_grad(|| net.write())?, saved.meta.config))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use semblance_face::Frame;
    use semblance_face::finder::{CELL_VALUES, ConvFinder, Finder, STRIDES};

    /// The exported network in tract, decoded by the finder, gives what the trainer's own network says.
    #[test]
    fn the_finder_decodes_what_the_network_gives() {
        tch::manual_seed(4);
        let vs = nn::VarStore::new(tch::Device::Cpu);
        let net = FinderNet::new(&vs.root());
        for (name, mut variable) in vs.variables() {
            if name.ends_with("head.weight") {
                // Small, so that no two scores round to 1.
                let _ = tch::no_grad(|| variable.normal_(0.0, 0.02));
            } else if name.ends_with("head.bias") {
                let _ = tch::no_grad(|| variable.zero_());
            }
        }
        let (width, height) = (160usize, 96usize);
        let rgb: Vec<u8> = (0..width * height * 3).map(|i| ((i * 7919) % 251) as u8).collect();
        let scene = Scene { width, height, rgb: rgb.clone(), faces: Vec::new() };
        let cells =
            tch::no_grad(|| net.forward(&to_input(&[scene], vs.device()), Phase::Eval, Precision::F32));
        let values = crate::checkpoint::floats(&cells).unwrap();
        let mut finder = ConvFinder::new(net.write().unwrap(), 160).unwrap().with_threshold(0.0);
        let mut found = Vec::new();
        finder.find(&Frame::new(160, 96, rgb).unwrap(), &mut found).unwrap();
        // The best cell of all is never suppressed.
        let best = (0..values.len() / CELL_VALUES)
            .max_by(|a, b| values[a * CELL_VALUES].total_cmp(&values[b * CELL_VALUES]))
            .unwrap();
        let v = &values[best * CELL_VALUES..][..CELL_VALUES];
        let mut at = best;
        let stride = STRIDES
            .into_iter()
            .find(|s| {
                let cells = (width / s) * (height / s);
                let here = at < cells;
                at -= if here { 0 } else { cells };
                here
            })
            .unwrap();
        let s = stride as f32;
        let (x, y) = ((at % (width / stride)) as f32 + 0.5, (at / (width / stride)) as f32 + 0.5);
        let face = found[0];
        assert!((face.score - 1.0 / (1.0 + (-v[0]).exp())).abs() < 1e-4);
        let centre = face.bbox.center();
        assert!((centre.x - (x + v[1]) * s).abs() < 1e-2 && (centre.y - (y + v[2]) * s).abs() < 1e-2);
        for (side, log) in [(face.bbox.w, v[3]), (face.bbox.h, v[4])] {
            let expected = log.exp() * s;
            assert!((side - expected).abs() < 1e-3 * (1.0 + expected), "{side} {expected}");
        }
        let mouth = face.landmarks.unwrap()[4];
        assert!((mouth.x - (x + v[13]) * s).abs() < 1e-2 && (mouth.y - (y + v[14]) * s).abs() < 1e-2);
    }
}
