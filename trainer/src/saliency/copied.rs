//! Whether FAb-Net puts frames of people that it has not seen together better than by copying another frame of theirs.

use std::fmt;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use super::{MEASURED, Run, SaliencyArgs, Videos, named, some_of};
use crate::augment::augment;
use crate::data::{Batch, normalise};
use crate::eval::InputSpec;
use crate::method::{FabNet, Objective};
use crate::pretrain::PretrainConfig;
use crate::store::Store;

/// Errors of frames that are put together from others of their video.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copied {
    /// Frames.
    pub n: usize,
    /// Mean absolute error of what is put together, of pictures in `[0,1]`.
    pub reconstruction: f64,
    /// The same of the frames that it is put together from, as they are.
    pub copying_the_source: f64,
}

impl fmt::Display for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n, reconstruction, copying_the_source } = self;
        write!(
            f,
            "{n} frames put together from others of their video err by {reconstruction:.4} in the mean, copies of those by \
             {copying_the_source:.4}"
        )
    }
}

/// Measures a run of FAb-Net on views drawn as those that it learnt from; `None` where no frame has another of its video beside it.
///
/// # Errors
/// Names the picture that cannot be read.
pub(super) fn measure(
    args: &SaliencyArgs,
    store: &Store,
    run: &Run,
    videos: &Videos,
    (config, objective): (&PretrainConfig, &dyn Objective),
) -> anyhow::Result<Option<Copied>> {
    let frames: Vec<usize> = some_of(store, args.split, MEASURED)
        .into_iter()
        .filter(|&frame| !videos.is_alone(store, frame))
        .collect();
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let (mut made, mut copied) = (0.0, 0.0);
    for chunk in frames.chunks(64) {
        let mut views = Vec::new();
        for tuple in videos.tuples(store, chunk, objective.plan().len(), &mut rng) {
            let InputSpec { side_px, mean, std } = run.loaded.input();
            let batch = Batch::load(store, tuple, side_px)?;
            let seeds: Vec<u64> = chunk.iter().map(|_| rng.random()).collect();
            let unit = batch.to_unit(run.loaded.vs.device());
            let drawn = augment(&unit, &batch.landmarks, &config.augment, i64::from(side_px), &seeds);
            views.push(normalise(&drawn, mean, std));
        }
        let shown = no_grad(|| objective.show(&views));
        let Some((target, together)) =
            named(&shown, FabNet::TARGET).zip(named(&shown, FabNet::RECONSTRUCTION))
        else {
            return Ok(None);
        };
        let error =
            |other: &Tensor| (other - target).abs().mean(Kind::Double).double_value(&[]) * chunk.len() as f64;
        let sources: Vec<f64> = shown
            .iter()
            .filter(|shown| shown.name.starts_with(FabNet::SOURCE))
            .map(|source| error(&source.pictures))
            .collect();
        copied += sources.iter().sum::<f64>() / sources.len() as f64;
        made += error(together);
    }
    let count = frames.len() as f64;
    Ok((!frames.is_empty()).then_some(Copied {
        n: frames.len(),
        reconstruction: made / count,
        copying_the_source: copied / count,
    }))
}
