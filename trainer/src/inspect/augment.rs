//! What training sees: every augmentation of some frames, side by side.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use image::RgbImage;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::{CAPTION_PX, TILE_PX, blank_sheet, draw_picture, tail};
use crate::augment::{AugmentConfig, Landmarks, augment_with_landmarks};
use crate::data::{BufferPool, CachePlan, Clips, PairConfig, Paste, Pictures, Tuple, mix};
use crate::pretrain::PretrainConfig;
use crate::store::Store;

/// One picture of a row.
struct Tile {
    title: &'static str,
    note: String,
    /// `[3,S,S]` in `[0,1]`; `None` where the frame has no such partner.
    picture: Option<Tensor>,
    landmarks: Landmarks,
}

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
    let mut sheet = None;
    for (row, frame) in (0..).zip(frames) {
        let mut tiles = alone(&pictures, config, frame, mix(seed, frame as u64))?;
        tiles.extend(partners(&pictures, config.pairs, frame, &mut rng)?);
        let sheet = sheet.get_or_insert_with(|| blank_sheet(tiles.len() as u32, wanted as u32));
        for (column, tile) in (0..).zip(&tiles) {
            let (left, top) = (column * TILE_PX, row * (TILE_PX + CAPTION_PX));
            let picture = tile.picture.as_ref().map(to_image).transpose()?;
            draw_picture(sheet, left, top, picture.as_ref(), &tile.landmarks, [tile.title, &tile.note]);
        }
    }
    sheet.context("no frame was chosen")
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
    let mut tiles = vec![Tile {
        title: "frame",
        note: tail(record.identity(), 12),
        picture: Some(picture.shallow_clone()),
        landmarks,
    }];
    let batch = picture.unsqueeze(0);
    for (i, (title, settings)) in (0..).zip(single) {
        let (views, moved) =
            augment_with_landmarks(&batch, &[landmarks], &settings, i64::from(TILE_PX), &[mix(seed, i)]);
        let landmarks = moved.into_iter().next().flatten();
        tiles.push(Tile { title, note: String::new(), picture: Some(views.get(0)), landmarks });
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
            return Ok(Tile { title, note: "none".to_owned(), picture: None, landmarks: None });
        };
        let (picture, landmarks, pasted) = second_of(pictures, pair.clone(), config.cutmix_share)?;
        let apart = clips.record(pair.frames[1]).t_secs() - clips.record(frame).t_secs();
        let note = match pair.paste {
            Some(_) if !pasted => "failed".to_owned(),
            None if Some(pair.frames[1]) != other => format!("{apart:+.2} s"),
            _ => String::new(),
        };
        anyhow::Ok(Tile { title, note, picture: Some(picture), landmarks })
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

fn to_image(picture: &Tensor) -> anyhow::Result<RgbImage> {
    let bytes =
        (picture * 255.0).round().clamp(0.0, 255.0).to_kind(Kind::Uint8).permute([1, 2, 0]).contiguous();
    let size = picture.size();
    RgbImage::from_raw(size[2] as u32, size[1] as u32, Vec::try_from(bytes.flatten(0, -1))?)
        .context("a picture has three bytes a pixel")
}

/// Writes the sheet as a PNG file.
pub(super) fn write(
    store: Store,
    config: &PretrainConfig,
    rows: u32,
    seed: u64,
    path: &Path,
) -> anyhow::Result<()> {
    super::write_png(&sheet(store, config, rows, seed)?, path)
}
