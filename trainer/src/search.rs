//! `trainer search`: dense encoders of several shapes, how long each takes in tract, and how good each becomes in a few epochs.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::ensure;
use clap::Args;
use semblance_face::Encoder;
use semblance_face::encoder::EncoderSpec;
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::eval::Loaded;
use crate::export::encoder_onnx;
use crate::joint::{JointConfig, Origins, Place, joint};
use crate::nets::{Backbone, Shape};
use crate::{config, interrupt};

/// Options of `trainer search`.
#[derive(Clone, Debug, Args)]
pub struct SearchArgs {
    /// A shape, such as 32/64x3/128x2+256x2
    #[arg(long = "shape", required = true)]
    pub shapes: Vec<Shape>,

    /// Train each on this store of expressions, too; without it, shapes are timed alone
    #[arg(long)]
    pub data: Option<PathBuf>,

    /// A TOML file with settings of `trainer joint`
    #[arg(long, requires = "data")]
    pub config: Option<PathBuf>,

    /// Passes over the training pictures
    #[arg(long, default_value_t = 6)]
    pub epochs: i64,

    /// Side of the input in pixels
    #[arg(long, default_value_t = 64)]
    pub side_px: u32,

    /// Folder for the runs; those that are there are used again, or gone on with
    #[arg(long, default_value = "runs/search")]
    pub work: PathBuf,

    /// Print one JSON object a shape
    #[arg(long)]
    pub json: bool,
}

/// What is known of a shape.
#[derive(Clone, Debug, Serialize)]
struct Row {
    shape: String,
    /// Multiply-adds a face, in millions.
    mmacs: f64,
    /// Weights, in thousands.
    kweights: f64,
    /// A face in tract on one core, median, in ms.
    tract_ms: f64,
    /// Accuracy on the validation split.
    #[serde(skip_serializing_if = "Option::is_none")]
    val_accuracy: Option<f64>,
}

/// Runs `trainer search`.
///
/// # Errors
/// Those of training, and of tract.
pub fn run(args: &SearchArgs) -> anyhow::Result<()> {
    ensure!(args.epochs > 0, "--epochs {} is not above 0", args.epochs);
    let stop = interrupt::flag()?;
    let mut rows = Vec::new();
    for shape in &args.shapes {
        let mut row = Row {
            shape: shape.to_string(),
            mmacs: shape.multiply_adds(args.side_px) as f64 / 1e6,
            kweights: shape.weights() as f64 / 1e3,
            tract_ms: tract_ms(*shape, args.side_px)?,
            val_accuracy: None,
        };
        if let Some(data) = &args.data {
            let settings: JointConfig = config::layered(args.config.as_deref(), toml::Table::new())?;
            let settings = JointConfig {
                backbone: Backbone::Dense(*shape),
                side_px: args.side_px,
                epochs: args.epochs,
                warmup_epochs: settings.warmup_epochs.min(args.epochs - 1),
                ..settings
            };
            let out = args.work.join(row.shape.replace('/', "_"));
            let place = Place { out: &out, resume: out.join(crate::checkpoint::FILE_NAME).exists() };
            joint(&settings, &[("faces".to_owned(), data.clone())], Origins::default(), place, stop)?;
            if stop.load(std::sync::atomic::Ordering::Relaxed) {
                return Ok(());
            }
            let scores = Checkpoint::<crate::checkpoint::Meta>::load(&out)?.meta.scores;
            row.val_accuracy = scores.get("val_head_accuracy").and_then(toml::Value::as_float);
        }
        if args.json {
            println!("{}", serde_json::to_string(&row)?);
        }
        rows.push(row);
    }
    if !args.json {
        println!("{}", table(&rows)?);
    }
    Ok(())
}

/// The rows as Markdown.
fn table(rows: &[Row]) -> Result<String, std::fmt::Error> {
    let mut text = String::from(
        "| shape | M multiply-adds | k weights | tract, ms | validation accuracy |\n|---|---|---|---|---|",
    );
    for Row { shape, mmacs, kweights, tract_ms, val_accuracy } in rows {
        let accuracy = val_accuracy.map_or_else(String::new, |a| format!("{a:.4}"));
        write!(text, "\n| `{shape}` | {mmacs:.1} | {kweights:.0} | {tract_ms:.3} | {accuracy} |")?;
    }
    Ok(text)
}

/// The median time of a face in tract, from the crop's bytes to the embedding, on one core.
///
/// # Errors
/// Those of tract.
fn tract_ms(shape: Shape, side_px: u32) -> anyhow::Result<f64> {
    const WARM_UP: usize = 20;
    const RUNS: usize = 200;
    let loaded = Loaded::random(Backbone::Dense(shape), side_px, 0);
    let embedding_size = shape.embedding_size() as usize;
    let spec = EncoderSpec { side_px, mean: loaded.mean, std: loaded.std, embedding_size };
    let mut encoder = Encoder::from_onnx(&encoder_onnx(&loaded)?, spec)?;
    let crop: Vec<u8> =
        (0..side_px * side_px * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut embedding = vec![0.0; embedding_size];
    let mut times = Vec::with_capacity(RUNS);
    for i in 0..WARM_UP + RUNS {
        let start = Instant::now();
        encoder.embed(&crop, &mut embedding)?;
        if i >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}
