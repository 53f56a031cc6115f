//! What training sees: every augmentation of some frames, side by side.

use std::path::Path;

use anyhow::{bail, ensure};
use image::RgbImage;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};

use crate::augment::{AugmentConfig, Landmarks, augment_with_landmarks};
use crate::data::{BufferPool, CachePlan, Clips, PairConfig, Paste, Pictures, Tuple, mix};
use crate::pretrain::PretrainConfig;
use crate::store::Store;
use crate::tiles::{self, TILE_PX, Tile};

const OFF: AugmentConfig = AugmentConfig::OFF;

/// A sheet with a row for each of `rows` random training frames: the frame, each augmentation alone, two views as
/// configured, its partners in time, and somebody else's picture mixed and swapped with it.
pub(super) fn sheet(store: Store, config: &PretrainConfig, rows: u32, seed: u64) -> anyhow::Result<RgbImage> {
    let dir = store.dir().display().to_string();
    if let Some(problem) = config.augment.problem(TILE_PX) {
        bail!("augment: {problem}, as the sheet has");
    }
    let clips = Clips::new(vec![store], config.pairs.timing)?;
    ensure!(!clips.is_empty(), "{dir}: no frame is for training");
    let pictures = Pictures::new(clips, TILE_PX, CachePlan::OFF)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let wanted = (rows as usize).min(pictures.clips.len());
    let frames = rand::seq::index::sample(&mut rng, pictures.clips.len(), wanted);
    let mut rows = Vec::new();
    for frame in frames {
        let mut tiles = alone(&pictures, config, frame, mix(seed, frame as u64))?;
        tiles.extend(partners(&pictures, config.pairs, frame, &mut rng)?);
        rows.push(tiles);
    }
    Ok(tiles::grid(&rows))
}

/// The frame, and what each augmentation makes of it.
fn alone(pictures: &Pictures, config: &PretrainConfig, frame: usize, seed: u64) -> anyhow::Result<Vec<Tile>> {
    let own = Tuple { number: 0, frames: vec![frame; 2], paste: None, quadruple: 0 };
    let (picture, landmarks, _) = second_of(pictures, own, 1.0)?;
    let all = config.augment;
    let single = [
        ("mask", AugmentConfig { mask_p: 1.0, ..OFF }),
        ("crop", AugmentConfig { crop_scale: all.crop_scale, ..OFF }),
        ("flip", AugmentConfig { flip_p: 1.0, ..OFF }),
        (
            "jitter",
            AugmentConfig {
                jitter_p: 1.0,
                grey_p: 0.0,
                blur_p: 0.0,
                mask_p: 0.0,
                flip_p: 0.0,
                sobel_p: 0.0,
                crop_scale: [1.0, 1.0],
                ..all
            },
        ),
        ("blur", AugmentConfig { blur_p: 1.0, blur_kernel: all.blur_kernel, ..OFF }),
        ("grey", AugmentConfig { grey_p: 1.0, ..OFF }),
        ("sobel", AugmentConfig { sobel_p: 1.0, ..OFF }),
        ("view 1", all),
        ("view 2", all),
    ];
    let record = pictures.clips.record(frame);
    let mut tiles =
        vec![Tile { landmarks, ..Tile::of(tiles::image_of(&picture)?, "frame", record.identity()) }];
    let batch = picture.unsqueeze(0);
    for (i, (title, settings)) in (0..).zip(single) {
        let (views, moved) =
            augment_with_landmarks(&batch, &[landmarks], &settings, i64::from(TILE_PX), &[mix(seed, i)]);
        let landmarks = moved.into_iter().next().flatten();
        tiles.push(Tile { landmarks, ..Tile::of(tiles::image_of(&views.get(0))?, title, "") });
    }
    Ok(tiles)
}

/// The frames and mixtures that pairs are made of.
fn partners(
    pictures: &Pictures,
    config: PairConfig,
    frame: usize,
    rng: &mut ChaCha8Rng,
) -> anyhow::Result<Vec<Tile>> {
    let clips = &pictures.clips;
    let positive = clips.positive(frame, rng);
    let other = clips.other_identity(frame, rng);
    let pair = |second, paste| Tuple { number: 0, frames: vec![frame, second], paste, quadruple: 0 };
    let candidates = [
        ("time-aug", Some(pair(positive, None))),
        ("hard-neg", clips.hard_negative(frame, rng).map(|hard| pair(hard, None))),
        ("other", other.map(|other| pair(other, None))),
        ("cutmix", other.map(|other| pair(positive, Some((Paste::CutMix, other))))),
        ("face-swap", other.map(|other| pair(positive, Some((Paste::FaceSwap, other))))),
    ];
    let tile = |(title, pair): (&'static str, Option<Tuple>)| {
        let Some(pair) = pair else {
            return Ok(Tile { lines: [title.to_owned(), "none".to_owned()], ..Tile::default() });
        };
        let (picture, landmarks, pasted) = second_of(pictures, pair.clone(), config.cutmix_share)?;
        let apart = clips.record(pair.frames[1]).t_secs() - clips.record(frame).t_secs();
        let note = match pair.paste {
            Some(_) if !pasted => "failed".to_owned(),
            None if Some(pair.frames[1]) != other => format!("{apart:+.2} s"),
            _ => String::new(),
        };
        anyhow::Ok(Tile { landmarks, ..Tile::of(tiles::image_of(&picture)?, title, note) })
    };
    candidates.into_iter().map(tile).collect()
}

/// The pair's second picture, its landmarks, and whether it was pasted.
fn second_of(
    pictures: &Pictures,
    pair: Tuple,
    cutmix_share: f64,
) -> anyhow::Result<(Tensor, Landmarks, bool)> {
    let pool = BufferPool::new(1, 2 * pictures.picture_bytes(), Device::Cpu);
    let batch = pictures.load(vec![pair], cutmix_share, pool.take())?;
    Ok((batch.to_unit(Device::Cpu).get(1), batch.landmarks[1], batch.pasted > 0))
}

/// Writes the sheet as a PNG file.
pub(super) fn write(
    store: Store,
    config: &PretrainConfig,
    rows: u32,
    seed: u64,
    path: &Path,
) -> anyhow::Result<()> {
    tiles::write_png(&sheet(store, config, rows, seed)?, path)
}
