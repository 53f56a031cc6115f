//! `trainer landmarks`: trains the network that finds a face's 68 landmarks.

mod crops;
mod net;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use semblance_face::landmarks::{LANDMARKS, TEMPLATE, inter_ocular};
use semblance_face::{Frame, Point};
use semblance_synth::{RenderOptions, empty_scene};
use tch::{Device, Kind, Tensor, nn};

pub use crops::{Crop, Labelled, framing};
pub use net::{LandmarkNet, SIDE_PX};

use crate::data::{mix, training_device};
use crate::facenet::{self, Run, Schedule};
use crate::faces::{self, is_validation_identity};
use crate::nets::{Phase, Precision};
use crate::progress;

/// What a run's checkpoint is of.
pub const KIND: &str = "landmarks";

/// Options of `trainer landmarks`.
#[derive(Clone, Debug, Args)]
pub struct LandmarksArgs {
    /// CSV file with the columns `image`, `identity` and `x0,y0..x67,y67` in pixels; rows without numbers are passed over
    #[arg(long)]
    pub landmarks: PathBuf,

    /// Folder with its pictures
    #[arg(long)]
    pub pictures: PathBuf,

    /// Folder of the run
    #[arg(long)]
    pub out: PathBuf,

    /// Synthetic faces
    #[arg(long, default_value_t = 8000)]
    pub synth: usize,

    /// Continue the run in --out from its last checkpoint
    #[arg(long)]
    pub resume: bool,

    /// Do not train, but show training crops with their landmarks in this picture
    #[arg(long, value_name = "FILE")]
    pub sheet: Option<PathBuf>,

    /// How long and how fast
    #[command(flatten)]
    pub schedule: Schedule,
}

/// A face and who it is.
#[derive(Clone, Debug)]
pub struct Row {
    /// The picture.
    pub path: PathBuf,
    /// Who it shows.
    pub identity: String,
    /// In pixels.
    pub points: [Point; LANDMARKS],
}

/// Reads labelled landmarks; see [`LandmarksArgs::landmarks`].
///
/// # Errors
/// Names the file and the line.
pub fn read_rows(csv: &Path, pictures: &Path) -> anyhow::Result<Vec<Row>> {
    let at = || csv.display().to_string();
    let mut reader = csv::Reader::from_path(csv).with_context(at)?;
    let headers = reader.headers().with_context(at)?.clone();
    let column = |name: &str| {
        headers
            .iter()
            .position(|h| h == name)
            .with_context(|| format!("{}: no column '{name}'", csv.display()))
    };
    let (image, identity) = (column("image")?, column("identity")?);
    let mut numbers = Vec::with_capacity(2 * LANDMARKS);
    for i in 0..LANDMARKS {
        numbers.push((column(&format!("x{i}"))?, column(&format!("y{i}"))?));
    }
    let mut rows = Vec::new();
    for (row, record) in reader.records().enumerate() {
        let line = row + 2;
        let record = record.with_context(at)?;
        if numbers.iter().all(|&(x, y)| record[x].is_empty() && record[y].is_empty()) {
            continue;
        }
        let number = |i: usize| {
            let value: Option<f32> = record[i].trim().parse().ok().filter(|v: &f32| v.is_finite());
            value.with_context(|| {
                format!("{}, line {line}: '{}' is not a coordinate", csv.display(), &record[i])
            })
        };
        let mut points = [Point::default(); LANDMARKS];
        for (p, &(x, y)) in points.iter_mut().zip(&numbers) {
            *p = Point::new(number(x)?, number(y)?);
        }
        ensure!(inter_ocular(&points) > 1.0, "{}, line {line}: the eyes coincide", csv.display());
        rows.push(Row { path: pictures.join(&record[image]), identity: record[identity].to_owned(), points });
    }
    ensure!(!rows.is_empty(), "{}: no row has landmarks", csv.display());
    Ok(rows)
}

/// Reads the rows' pictures.
///
/// # Errors
/// Names the picture that cannot be read.
pub fn load(rows: &[Row]) -> anyhow::Result<Vec<Labelled>> {
    let bar = progress::bar(rows.len() as u64, "pictures");
    let loaded = rows
        .par_iter()
        .map(|row| {
            bar.inc(1);
            let at = || row.path.display().to_string();
            let frame = Frame::decode(&std::fs::read(&row.path).with_context(at)?).with_context(at)?;
            Ok(Labelled { frame, points: row.points })
        })
        .collect();
    bar.finish_and_clear();
    loaded
}

/// Weight of real faces against synthetic ones.
const REAL_SHARE: f64 = 0.6;
/// Crops without a face in a batch.
const EMPTY_SHARE: f64 = 0.15;
const EMPTY_SCENES: u64 = 400;

struct Pools {
    real: Vec<Labelled>,
    synth: Vec<Labelled>,
    empty: Vec<Frame>,
}

impl Pools {
    fn load(args: &LandmarksArgs) -> anyhow::Result<Self> {
        let mut rows = read_rows(&args.landmarks, &args.pictures)?;
        let all = rows.len();
        rows.retain(|row| !is_validation_identity(&row.identity));
        ensure!(!rows.is_empty(), "{}: every identity is kept for validation", args.landmarks.display());
        eprintln!(
            "training on {} real faces ({} kept for validation) and {} synthetic",
            rows.len(),
            all - rows.len(),
            args.synth
        );
        let seed = mix(args.schedule.seed, 10);
        let options = RenderOptions { face_share: (0.45, 0.7), ..RenderOptions::crop(128) };
        let synth = faces::render(args.synth, seed, &options, |frame, labels| {
            (labels.hidden < 0.6).then_some(Labelled { frame, points: labels.landmarks })
        })?;
        let empty = (0..EMPTY_SCENES)
            .into_par_iter()
            .map(|i| empty_scene(160, 120, mix(seed, i)))
            .collect::<Result<_, _>>()
            .context("synthetic backgrounds")?;
        Ok(Self { real: load(&rows)?, synth: synth.into_iter().flatten().collect(), empty })
    }

    /// A crop; the mean of nothing where a face cannot be framed, which another draw replaces.
    fn crop(&self, rng: &mut ChaCha8Rng) -> Crop {
        use rand::RngExt;
        loop {
            let pool =
                if rng.random_bool(REAL_SHARE) || self.synth.is_empty() { &self.real } else { &self.synth };
            let Some(face) = pool.choose(rng) else { continue };
            let crop = if rng.random_bool(EMPTY_SHARE) {
                Crop::of_no_face(face, &self.empty, rng)
            } else {
                Crop::of_face(face, rng)
            };
            if let Some(crop) = crop {
                return crop;
            }
        }
    }

    /// The crops of a step.
    fn batch(&self, schedule: &Schedule, step: i64) -> Vec<Crop> {
        let seed = mix(schedule.seed, step as u64);
        (0..schedule.batch as u64)
            .into_par_iter()
            .map(|i| self.crop(&mut ChaCha8Rng::seed_from_u64(mix(seed, i))))
            .collect()
    }

    /// The mean landmarks in an exact crop: where training starts from.
    fn mean(&self) -> Vec<f32> {
        let mut sum = vec![0.0; 2 * LANDMARKS];
        let mut count = 0.0;
        for face in &self.real {
            let Some(exact) = framing(&face.points) else { continue };
            for (pair, p) in sum.chunks_exact_mut(2).zip(&face.points) {
                let p = exact.apply(*p);
                pair[0] += p.x - 0.5;
                pair[1] += p.y - 0.5;
            }
            count += 1.0;
        }
        sum.iter().map(|s| s / f32::max(count, 1.0)).collect()
    }
}

/// Runs `trainer landmarks`.
///
/// # Errors
/// Names the file or option that stands in the way.
pub fn run(args: &LandmarksArgs) -> anyhow::Result<()> {
    let pools = Pools::load(args)?;
    let schedule = &args.schedule;
    if let Some(path) = &args.sheet {
        return write_sheet(&pools.batch(schedule, 0), path);
    }
    tch::manual_seed(schedule.seed as i64);
    let vs = nn::VarStore::new(training_device());
    let net = LandmarkNet::new(&(vs.root() / KIND), &pools.mean());
    let config = toml::Table::from_iter([
        ("real".to_owned(), (pools.real.len() as i64).into()),
        ("synthetic".to_owned(), (pools.synth.len() as i64).into()),
        ("schedule".to_owned(), facenet::settings(schedule)?.into()),
    ]);
    let run = Run { kind: KIND, schedule, config: &config, out: &args.out, resume: args.resume };
    let device = vs.device();
    let draw = |step| pools.batch(schedule, step);
    if facenet::train(&run, &vs, draw, |crops| loss(&net, schedule.precision, crops, device))? {
        eprintln!("{}: done; `trainer export --landmarks` puts it into a bundle", args.out.display());
    }
    Ok(())
}

/// Wing loss (Feng et al. 2018, equation 5): logarithmic up to `WIDTH`, linear beyond; in shares of the crop's side.
const WIDTH: f64 = 0.10;
const CURVATURE: f64 = 0.02;
const PRESENCE_WEIGHT: f64 = 0.02;

fn wing(error: &Tensor) -> Tensor {
    let size = error.abs();
    let offset = WIDTH - WIDTH * (1.0 + WIDTH / CURVATURE).ln();
    let curved = (&size / CURVATURE + 1.0).log() * WIDTH;
    curved.where_self(&size.lt(WIDTH), &(&size - offset))
}

fn loss(net: &LandmarkNet, precision: Precision, crops: &[Crop], device: Device) -> (Tensor, String) {
    let side = i64::from(SIDE_PX);
    let bytes: Vec<u8> = crops.iter().flat_map(|c| c.rgb.iter().copied()).collect();
    let pictures = Tensor::from_slice(&bytes).view([-1, side, side, 3]).to_device(device);
    let input = pictures.permute([0, 3, 1, 2]).to_kind(Kind::Float) / 127.5 - 1.0;
    let values = net.forward(&input, Phase::ALONE, precision);
    let face: Vec<f32> = crops.iter().map(|c| f32::from(u8::from(c.target.is_some()))).collect();
    let target: Vec<f32> = crops.iter().flat_map(|c| c.target.unwrap_or([0.0; 2 * LANDMARKS])).collect();
    let face = Tensor::from_slice(&face).to_device(device);
    let target = Tensor::from_slice(&target).view([-1, 2 * LANDMARKS as i64]).to_device(device);
    let error = values.narrow(1, 0, 2 * LANDMARKS as i64) - target;
    let faces = face.sum(None).clamp_min(1.0);
    let points = (wing(&error).mean_dim([1].as_slice(), false, None) * &face).sum(None) / &faces;
    let presence = values.select(1, 2 * LANDMARKS as i64).binary_cross_entropy_with_logits::<Tensor>(
        &face,
        None,
        None,
        tch::Reduction::Mean,
    );
    // The crop's share of the inter-ocular distance is about that of the template's eyes and half an eye more.
    let eyes = f64::from(TEMPLATE.points[1][0] - TEMPLATE.points[0][0]) * 1.42;
    let distance = error
        .view([-1, LANDMARKS as i64, 2])
        .square()
        .sum_dim_intlist([2].as_slice(), false, Kind::Float)
        .sqrt();
    let nme = (distance.mean_dim([1].as_slice(), false, None) * &face).sum(None) / &faces / eyes;
    let parts = format!("about NME {:.4}, presence {:.3}", nme.double_value(&[]), presence.double_value(&[]));
    (points + presence * PRESENCE_WEIGHT, parts)
}

/// The network of a run, as ONNX, and how it was trained.
///
/// # Errors
/// Names the checkpoint.
pub fn onnx(run: &Path) -> anyhow::Result<(Vec<u8>, toml::Table)> {
    let saved = facenet::load(KIND, run)?;
    let vs = nn::VarStore::new(Device::Cpu);
    let net = LandmarkNet::new(&(vs.root() / KIND), &[0.0; 2 * LANDMARKS]);
    saved.restore(&vs)?;
    Ok((tch::no_grad(|| net.write())?, saved.meta.config))
}

fn write_sheet(crops: &[Crop], path: &Path) -> anyhow::Result<()> {
    const COLUMNS: usize = 10;
    let side = SIDE_PX as usize;
    let rows = crops.len().div_ceil(COLUMNS);
    let mut sheet = Frame::black((COLUMNS * side) as u32, (rows * side) as u32)?;
    for (i, crop) in crops.iter().enumerate() {
        let mut picture = Frame::new(SIDE_PX, SIDE_PX, crop.rgb.clone())?;
        for p in crop.target.iter().flat_map(|t| t.chunks_exact(2)) {
            let at = Point::new((p[0] + 0.5) * side as f32, (p[1] + 0.5) * side as f32);
            semblance_synth::draw::dot(&mut picture, at, 0, [0, 255, 0]);
        }
        semblance_synth::draw::paste(
            &mut sheet,
            &picture,
            (i % COLUMNS * side) as i64,
            (i / COLUMNS * side) as i64,
        );
    }
    let save = image::save_buffer(path, sheet.rgb(), sheet.width(), sheet.height(), image::ColorType::Rgb8);
    save.with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use semblance_face::landmarks::Landmarker;
    use semblance_face::{Detection, Rect};

    #[test]
    fn wing_is_smooth_at_its_width_and_matches_its_closed_form() {
        let at = |x: f64| wing(&Tensor::from_slice(&[x])).double_value(&[0]);
        assert!((at(0.05) - 0.1 * (1.0f64 + 0.05 / 0.02).ln()).abs() < 1e-12);
        assert!((at(WIDTH - 1e-9) - at(WIDTH + 1e-9)).abs() < 1e-8);
        assert!((at(-0.5) - at(0.3) - 0.2).abs() < 1e-12);
    }

    /// The exported network in tract, through the aligner, gives what the trainer's own network says of the same crop.
    #[test]
    fn the_landmarker_places_what_the_network_gives() {
        tch::manual_seed(2);
        let vs = nn::VarStore::new(Device::Cpu);
        let net = LandmarkNet::new(&vs.root(), &[0.1; 2 * LANDMARKS]);
        // A frame that its five points frame exactly: the crop is the frame.
        let side = SIDE_PX as f32;
        let rgb: Vec<u8> = (0..SIDE_PX * SIDE_PX * 3).map(|i| ((i * 7919) % 251) as u8).collect();
        let points = TEMPLATE.points.map(|[x, y]| Point::new(x * side, y * side));
        let face = Detection { bbox: Rect::default(), score: 1.0, landmarks: Some(points) };
        let frame = Frame::new(SIDE_PX, SIDE_PX, rgb.clone()).unwrap();
        let mut landmarker = Landmarker::new(&tch::no_grad(|| net.write()).unwrap(), SIDE_PX).unwrap();
        let seen = landmarker.locate(&frame, &face).unwrap().unwrap();
        let pictures = Tensor::from_slice(&rgb).view([1, SIDE_PX.into(), SIDE_PX.into(), 3]);
        let input = pictures.permute([0, 3, 1, 2]).to_kind(Kind::Float) / 127.5 - 1.0;
        let values =
            crate::checkpoint::floats(&tch::no_grad(|| net.forward(&input, Phase::Eval, Precision::F32)))
                .unwrap();
        for (p, v) in seen.points.iter().zip(values.chunks_exact(2)) {
            assert!((p.x - (v[0] + 0.5) * side).abs() < 0.05 && (p.y - (v[1] + 0.5) * side).abs() < 0.05);
        }
        assert!((seen.presence - 1.0 / (1.0 + (-values[2 * LANDMARKS]).exp())).abs() < 1e-3);
    }
}
