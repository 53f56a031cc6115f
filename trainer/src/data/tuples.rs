//! What a step of training sees: frames that are learnt from together. Pairs that show the same expression, drawn as SSLFER
//! does; single frames; frames of one video; sequences.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use crossbeam::channel::Receiver;
use indicatif::HumanBytes;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use semblance_face::align::resize_crop;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::{AHEAD, BufferPool, Clips, HostBuffer, Timing, ahead, crop_landmarks, epoch_order, mix, to_unit};
use crate::augment::Landmarks;
use crate::faceswap::{FacePicture, SwapScratch, face_swap};
use crate::progress;
use crate::store::StoreError;

/// How pairs are drawn. Everything is off by default: two views of the same picture, as SimCLR has it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairConfig {
    /// TimeAug (SSLFER 3.2.1): the second picture is a neighbour in time.
    pub time_aug: bool,
    /// HardNeg (SSLFER 3.3): half of a batch are frames of the other half's videos, far away in time.
    pub hard_neg: bool,
    /// FaceSwap (SSLFER 3.2.2): the second picture's features on somebody else's face.
    pub face_swap: bool,
    /// CutMix as SSLFER's table 1, row c, has it: the second picture's middle on somebody else's picture.
    pub cutmix: bool,
    /// Probability that a second picture is swapped or mixed (SSLFER 3.2.2; its authors' code has 0.8). With both
    /// switched on, either is as probable.
    pub paste_p: f64,
    /// Side of CutMix's middle as a share of the picture's. The paper does not say; this one covers brows to chin.
    pub cutmix_share: f64,
    /// Distances in time.
    pub timing: Timing,
}

impl Default for PairConfig {
    fn default() -> Self {
        Self {
            time_aug: false,
            hard_neg: false,
            face_swap: false,
            cutmix: false,
            paste_p: 0.5,
            cutmix_share: 0.5,
            timing: Timing::default(),
        }
    }
}

impl PairConfig {
    /// The first setting that makes no sense, in words.
    pub fn problem(&self) -> Option<String> {
        if !(0.0..=1.0).contains(&self.paste_p) {
            return Some(format!("paste_p = {} is outside [0, 1]", self.paste_p));
        }
        let share = self.cutmix_share;
        (!(share > 0.0 && share <= 1.0)).then(|| format!("cutmix_share = {share} is outside (0, 1]"))
    }
}

/// How somebody else's picture takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paste {
    /// It gets the features.
    FaceSwap,
    /// It gets the middle.
    CutMix,
}

/// Frames that are learnt from together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Its place in the batch of all processes, which its views' draws follow from.
    pub number: usize,
    /// The frames, the anchor first; as many in every tuple of a batch.
    pub frames: Vec<usize>,
    /// What is done to the second frame, and whose frame is used for it.
    pub paste: Option<(Paste, usize)>,
    /// Tuples of the same number are hard negatives of each other.
    pub quadruple: i64,
}

/// Sequences as CLP has them (sections III.A and IV.A).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SequenceConfig {
    /// Frames of a sequence.
    pub length: usize,
    /// Each so-many-th frame of the video is one of the sequence's.
    pub stride: usize,
    /// Frames from anywhere in the sequence's video, for contrast between videos.
    pub scattered: usize,
}

impl Default for SequenceConfig {
    fn default() -> Self {
        Self { length: 9, stride: 2, scattered: 2 }
    }
}

/// Which frames are learnt from together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    /// Pairs.
    Pairs(PairConfig),
    /// Each frame by itself.
    Stills,
    /// A frame and others of its video, all alike probable, this many in all.
    SameVideo(usize),
    /// A sequence, then scattered frames of its video.
    Sequences(SequenceConfig),
}

impl Sampling {
    /// Frames of a tuple.
    pub fn frames(&self) -> usize {
        match self {
            Self::Pairs(_) => 2,
            Self::Stills => 1,
            Self::SameVideo(frames) => *frames,
            Self::Sequences(config) => config.length + config.scattered,
        }
    }

    /// Whether a frame can be a tuple's first one. A frame alone in its video has nothing to be compared with, and a
    /// sequence needs room.
    pub fn admits(&self, clips: &Clips, frame: usize) -> bool {
        match self {
            Self::Pairs(_) | Self::Stills => true,
            Self::SameVideo(_) => clips.video(frame).len() > 1,
            Self::Sequences(config) => clips.sequence(frame, config.length, config.stride).is_some(),
        }
    }

    /// The tuples of a step, as many as `frames`, which are the anchors in turn; they must be admitted.
    pub fn draw(&self, clips: &Clips, frames: &[usize], seed: u64) -> Vec<Tuple> {
        if let Self::Pairs(config) = self {
            return config.draw(clips, frames, seed);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let tuple = |(number, &frame): (usize, &usize)| Tuple {
            number,
            frames: self.with(clips, frame, &mut rng),
            paste: None,
            quadruple: number as i64,
        };
        frames.iter().enumerate().map(tuple).collect()
    }

    fn with(&self, clips: &Clips, frame: usize, rng: &mut impl Rng) -> Vec<usize> {
        let mut frames = vec![frame];
        match self {
            Self::Stills | Self::Pairs(_) => {}
            Self::SameVideo(count) => frames.extend(clips.others_of_video(frame, count - 1, rng)),
            Self::Sequences(config) => {
                frames = clips.sequence(frame, config.length, config.stride).unwrap_or(frames);
                frames.extend(clips.others_of_video(frame, config.scattered, rng));
            }
        }
        frames
    }
}

impl PairConfig {
    /// The pairs of a step, as many as `frames`, which are taken in turn from a shuffled epoch. With `hard_neg` the
    /// first half are anchors and the second half their hard negatives; where a video is too short for one, the frame
    /// that stands at its place is taken, an ordinary negative.
    pub fn draw(&self, clips: &Clips, frames: &[usize], seed: u64) -> Vec<Tuple> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let anchors = if self.hard_neg { frames.len() / 2 } else { frames.len() };
        let mut firsts: Vec<_> = frames.iter().copied().zip(0..).collect();
        for i in 0..frames.len() - anchors {
            if let Some(hard) = clips.hard_negative(frames[i], &mut rng) {
                firsts[anchors + i] = (hard, i as i64);
            }
        }
        let firsts = firsts.into_iter().enumerate();
        firsts
            .map(|(number, (first, quadruple))| self.pair(clips, number, first, quadruple, &mut rng))
            .collect()
    }

    fn pair(&self, clips: &Clips, number: usize, first: usize, quadruple: i64, rng: &mut impl Rng) -> Tuple {
        let second = if self.time_aug { clips.positive(first, rng) } else { first };
        let paste = match (self.face_swap, self.cutmix) {
            (false, false) => None,
            (true, false) => Some(Paste::FaceSwap),
            (false, true) => Some(Paste::CutMix),
            (true, true) if rng.random_bool(0.5) => Some(Paste::FaceSwap),
            (true, true) => Some(Paste::CutMix),
        };
        let paste = paste.filter(|_| rng.random_bool(self.paste_p));
        let paste = paste.and_then(|paste| Some((paste, clips.other_identity(first, rng)?)));
        Tuple { number, frames: vec![first, second], paste, quadruple }
    }
}

/// Pictures of clips at one size, decoded when they are asked for, or once and for all.
#[derive(Debug)]
pub struct Pictures {
    /// The frames.
    pub clips: Clips,
    side_px: u32,
    cache: Option<Vec<u8>>,
}

/// When pictures are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// Once, where all fit in half of the memory that is free; else each time.
    #[default]
    Auto,
    /// Once, into memory.
    On,
    /// Each time.
    Off,
}

/// When pictures are decoded, and what that depends on.
#[derive(Clone, Copy, Debug)]
pub struct CachePlan<'a> {
    /// When.
    pub cache: Cache,
    /// Processes on this machine that do the same, and share its memory.
    pub sharers: usize,
    /// Ends the decoding of all pictures once it is set; they are then decoded when they are asked for.
    pub stop: &'a AtomicBool,
}

impl CachePlan<'static> {
    /// For pictures that are decoded each time.
    pub const OFF: Self = Self { cache: Cache::Off, sharers: 1, stop: &NEVER };
}

static NEVER: AtomicBool = AtomicBool::new(false);

/// The share of the free memory that `Cache::Auto` fills at most, over all processes.
const CACHE_SHARE: f64 = 0.5;

impl CachePlan<'_> {
    /// Whether pictures of `needed` bytes are to be decoded once, with so many bytes free (where that is known).
    ///
    /// # Errors
    /// Where they are to, but do not fit.
    fn wants(&self, needed: u64, free: Option<u64>) -> anyhow::Result<bool> {
        let all = needed.saturating_mul(self.sharers as u64);
        match self.cache {
            Cache::Off => return Ok(false),
            Cache::Auto => return Ok(free.is_some_and(|free| all as f64 <= free as f64 * CACHE_SHARE)),
            Cache::On => {}
        }
        ensure!(
            free.is_none_or(|free| all <= free),
            "all pictures need {}{}, of {} that are free: leave --cache on off",
            HumanBytes(needed),
            if self.sharers > 1 { format!(" in each of {} processes", self.sharers) } else { String::new() },
            HumanBytes(free.unwrap_or(0))
        );
        Ok(true)
    }
}

impl Pictures {
    /// The clips' pictures at `side_px` a side.
    ///
    /// # Errors
    /// Names the picture that cannot be decoded, or how much memory is missing.
    pub fn new(clips: Clips, side_px: u32, plan: CachePlan<'_>) -> anyhow::Result<Self> {
        let mut pictures = Self { clips, side_px, cache: None };
        let needed = pictures.clips.len() as u64 * pictures.picture_bytes() as u64;
        if plan.wants(needed, crate::memory::available_bytes())? {
            pictures.cache = pictures.decode_all(plan.stop)?;
        }
        Ok(pictures)
    }

    /// Every picture; `None` once `stop` is set.
    fn decode_all(&self, stop: &AtomicBool) -> anyhow::Result<Option<Vec<u8>>> {
        let bar = progress::bar(self.clips.len() as u64, "decoding");
        let mut all = vec![0; self.clips.len() * self.picture_bytes()];
        all.par_chunks_exact_mut(self.picture_bytes()).enumerate().try_for_each(|(frame, crop)| {
            if !stop.load(Ordering::Relaxed) {
                self.decode_into(frame, crop)?;
            }
            bar.inc(1);
            Ok::<_, StoreError>(())
        })?;
        bar.finish_and_clear();
        Ok((!stop.load(Ordering::Relaxed)).then_some(all))
    }

    /// Bytes of one picture.
    pub fn picture_bytes(&self) -> usize {
        (self.side_px * self.side_px * 3) as usize
    }

    /// Side of the pictures in pixels.
    pub fn side_px(&self) -> u32 {
        self.side_px
    }

    /// Whether the pictures were decoded once and for all.
    pub fn is_cached(&self) -> bool {
        self.cache.is_some()
    }

    fn decode_into(&self, frame: usize, crop: &mut [u8]) -> Result<(), StoreError> {
        resize_crop(&self.clips.record(frame).decode()?, self.side_px, crop);
        Ok(())
    }

    /// A frame's landmarks in shares of its crop's sides, where they are known and finite.
    fn landmarks(&self, frame: usize) -> Landmarks {
        crop_landmarks(&self.clips.record(frame))
    }

    /// Puts a frame's picture into `crop`, `S * S` RGB triples.
    ///
    /// # Errors
    /// [`StoreError::Picture`], which names the frame.
    pub fn crop_into(&self, frame: usize, crop: &mut [u8]) -> Result<(), StoreError> {
        match &self.cache {
            Some(all) => {
                crop.copy_from_slice(&all[frame * self.picture_bytes()..][..self.picture_bytes()]);
                Ok(())
            }
            None => self.decode_into(frame, crop),
        }
    }

    /// Fills `crops`, one picture after another, with a tuple's; gives the landmarks of each and whether the second was
    /// pasted. A face swap that fails leaves the plain picture (METHODS: as the authors do).
    fn load_tuple(
        &self,
        tuple: &Tuple,
        cutmix_share: f64,
        scratch: &mut Scratch,
        crops: &mut [&mut [u8]],
    ) -> Result<(Vec<Landmarks>, bool), StoreError> {
        let mut landmarks = Vec::with_capacity(tuple.frames.len());
        for (i, &frame) in tuple.frames.iter().enumerate() {
            landmarks.push(self.landmarks(frame));
            match crops.split_at_mut(i) {
                ([.., before], [crop, ..]) if tuple.frames[i - 1] == frame => crop.copy_from_slice(before),
                (_, [crop, ..]) => self.crop_into(frame, crop)?,
                _ => {}
            }
        }
        let Some((paste, other)) = tuple.paste else { return Ok((landmarks, false)) };
        let second: &mut [u8] = crops[1];
        scratch.other.resize(self.picture_bytes(), 0);
        self.crop_into(other, &mut scratch.other)?;
        let pasted = match paste {
            Paste::CutMix => {
                cut_mix(second, &mut scratch.other, self.side_px as usize, cutmix_share);
                second.copy_from_slice(&scratch.other);
                true
            }
            Paste::FaceSwap => {
                let other_landmarks = self.landmarks(other);
                match self.swap(scratch, &other_landmarks, &landmarks[1], second) {
                    Some(swapped) => {
                        landmarks[1] = Some(swapped);
                        true
                    }
                    None => false,
                }
            }
        };
        Ok((landmarks, pasted))
    }

    /// Puts the features of `expression` on the face in `scratch.other`, in place.
    fn swap(
        &self,
        scratch: &mut Scratch,
        other_landmarks: &Landmarks,
        landmarks: &Landmarks,
        expression: &mut [u8],
    ) -> Option<[f32; 136]> {
        let (other_landmarks, landmarks) = (other_landmarks.as_ref()?, landmarks.as_ref()?);
        scratch.swapped.resize(self.picture_bytes(), 0);
        let identity = FacePicture { rgb: &scratch.other, landmarks: other_landmarks };
        let source = FacePicture { rgb: expression, landmarks };
        let landmarks =
            face_swap(identity, source, self.side_px, &mut scratch.swap, &mut scratch.swapped).ok()?;
        expression.copy_from_slice(&scratch.swapped);
        Some(landmarks)
    }

    /// Loads the pictures of these tuples, on every core.
    ///
    /// # Errors
    /// [`StoreError::Picture`], which names the frame.
    pub fn load(
        &self,
        tuples: Vec<Tuple>,
        cutmix_share: f64,
        mut buffer: HostBuffer,
    ) -> Result<TupleBatch, StoreError> {
        let each = tuples.first().map_or(0, |tuple| tuple.frames.len());
        // All first pictures, then all second ones, and so on; dealt out to the tuples that they are of.
        let mut crops: Vec<Vec<&mut [u8]>> = tuples.iter().map(|_| Vec::with_capacity(each)).collect();
        for (i, crop) in buffer.bytes_mut().chunks_exact_mut(self.picture_bytes()).enumerate() {
            crops[i % tuples.len()].push(crop);
        }
        let loaded: Result<Vec<_>, StoreError> = (tuples.par_iter().zip(crops.par_iter_mut()))
            .map_init(Scratch::default, |scratch, (tuple, crops)| {
                self.load_tuple(tuple, cutmix_share, scratch, crops)
            })
            .collect();
        let loaded = loaded?;
        let landmarks =
            (0..each).flat_map(|i| loaded.iter().map(move |(landmarks, _)| landmarks[i])).collect();
        let pasted = loaded.iter().filter(|(_, pasted)| *pasted).count();
        Ok(TupleBatch { tuples, landmarks, pasted, side_px: self.side_px, buffer })
    }
}

#[derive(Debug, Default)]
struct Scratch {
    swap: SwapScratch,
    other: Vec<u8>,
    swapped: Vec<u8>,
}

/// Puts the middle of `source` into the middle of `target`.
fn cut_mix(source: &[u8], target: &mut [u8], side: usize, share: f64) {
    let cut = ((side as f64 * share).round() as usize).clamp(1, side);
    let start = (side - cut) / 2;
    for row in start..start + cut {
        let middle = (row * side + start) * 3..(row * side + start + cut) * 3;
        target[middle.clone()].copy_from_slice(&source[middle]);
    }
}

/// The pictures of a step, on the host.
#[derive(Debug)]
pub struct TupleBatch {
    /// The tuples.
    pub tuples: Vec<Tuple>,
    /// Of the first pictures, then of the second ones, and so on.
    pub landmarks: Vec<Landmarks>,
    /// Second pictures that were swapped or mixed.
    pub pasted: usize,
    side_px: u32,
    buffer: HostBuffer,
}

impl TupleBatch {
    /// First pictures, then second ones and so on, on `device`, `[kB,3,S,S]` f32 in `[0,1]`. The batch must be kept until
    /// something that depends on them was read back, see [`HostBuffer::to_device`].
    pub fn to_unit(&self, device: Device) -> Tensor {
        to_unit(&self.buffer.to_device(device), self.side_px)
    }

    /// Pictures of a tuple.
    pub fn frames(&self) -> usize {
        self.landmarks.len() / self.tuples.len().max(1)
    }

    /// `[B]`: tuples of the same number are hard negatives of each other.
    pub fn quadruples(&self, device: Device) -> Tensor {
        let numbers: Vec<i64> = self.tuples.iter().map(|tuple| tuple.quadruple).collect();
        Tensor::from_slice(&numbers).to_kind(Kind::Int64).to_device(device)
    }
}

/// What an epoch passes over once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PassOver {
    /// Every training frame.
    #[default]
    Frames,
    /// Every video, one random frame of each.
    Videos,
}

/// The anchors of each epoch.
#[derive(Debug)]
pub struct Anchors {
    /// Frames that may be anchors, one stretch after another.
    frames: Vec<usize>,
    /// Stretches of `frames` of which each gives an anchor an epoch.
    units: Vec<Range<usize>>,
    seed: u64,
}

impl Anchors {
    /// Of the frames of `clips` that `sampling` admits.
    pub fn new(clips: &Clips, sampling: &Sampling, pass_over: PassOver, seed: u64) -> Self {
        let frames: Vec<usize> = (0..clips.len()).filter(|&frame| sampling.admits(clips, frame)).collect();
        let mut units: Vec<Range<usize>> = Vec::new();
        for (place, &frame) in frames.iter().enumerate() {
            match units.last_mut() {
                Some(unit)
                    if pass_over == PassOver::Videos && clips.video(frame).contains(&frames[unit.start]) =>
                {
                    unit.end = place + 1;
                }
                _ => units.push(place..place + 1),
            }
        }
        Self { frames, units, seed }
    }

    /// Anchors an epoch.
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Those of an epoch, in its order: both follow from the seed and its number alone.
    fn of(&self, epoch: i64) -> Vec<usize> {
        let all: Vec<usize> = (0..self.units.len()).collect();
        let pick = |unit: usize| {
            let range = &self.units[unit];
            let place = mix(mix(self.seed, epoch as u64), unit as u64) % range.len() as u64;
            self.frames[range.start + place as usize]
        };
        epoch_order(&all, self.seed, epoch).into_iter().map(pick).collect()
    }
}

/// Which frames each step takes.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    /// Tuples a step.
    pub batch: usize,
    /// Decides the order and every draw.
    pub seed: u64,
    /// Part of each batch that this process loads, of how many: `(rank, world)`.
    pub part: (usize, usize),
}

impl Steps {
    /// Steps that pass over so many anchors once; the rest that does not fill a batch is left to another epoch.
    pub fn an_epoch(&self, anchors: usize) -> i64 {
        (anchors / self.batch) as i64
    }
}

/// Draws and loads the tuples of these steps on threads of their own, a few ahead of whoever receives them. What a step
/// sees follows from the seed and its number alone, so that a run that is resumed sees the same.
///
/// # Errors
/// Where the anchors do not fill a batch.
pub fn prefetch_tuples<'scope, 'env>(
    scope: &'scope std::thread::Scope<'scope, 'env>,
    pictures: &'env Pictures,
    anchors: &'env Anchors,
    sampling: Sampling,
    steps: Steps,
    range: Range<i64>,
    device: Device,
) -> anyhow::Result<Receiver<Result<TupleBatch, StoreError>>> {
    let clips = &pictures.clips;
    let an_epoch = steps.an_epoch(anchors.len());
    ensure!(an_epoch > 0, "{} training pictures do not fill a batch of {}", anchors.len(), steps.batch);
    let (rank, world) = steps.part;
    let share = steps.batch / world;
    // One is being filled, one is in use, and one is kept until its loss was read.
    let pool = BufferPool::new(AHEAD + 3, sampling.frames() * share * pictures.picture_bytes(), device);
    let mut order = (-1, Vec::new());
    let draws = range.map(move |step| {
        let epoch = step / an_epoch;
        if order.0 != epoch {
            order = (epoch, anchors.of(epoch));
        }
        let start = (step % an_epoch) as usize * steps.batch;
        let frames = &order.1[start..start + steps.batch];
        let tuples = sampling.draw(clips, frames, mix(steps.seed ^ TUPLES, step as u64));
        // Whole stretches, so that the processes' tuples joined are in the order that one process has them in.
        (tuples.into_iter().skip(rank * share).take(share).collect::<Vec<_>>(), pool.take())
    });
    let cutmix_share = match sampling {
        Sampling::Pairs(config) => config.cutmix_share,
        _ => PairConfig::default().cutmix_share,
    };
    Ok(ahead(scope, draws, move |(tuples, buffer)| pictures.load(tuples, cutmix_share, buffer)))
}

/// Keeps the draws of tuples apart from those of the order and of the views.
const TUPLES: u64 = 0x5041_4952;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::prepare::encode_jpeg;
    use crate::store::{Provenance, Sample, Split, StoreWriter};

    /// Four identities, a video of 24 frames each at 4 frames a second; a picture's grey value tells its frame.
    fn clips() -> (tempfile::TempDir, Clips) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = StoreWriter::create(dir.path()).unwrap();
        for person in 0..4u8 {
            writer.begin_video(&format!("p{person}"), "v");
            for frame in 0..24u8 {
                let jpeg = encode_jpeg(&[person * 60 + 2 * frame; 256], 16, 16, 1, 100).unwrap();
                let t_secs = f64::from(frame) / 4.0;
                writer.push(&jpeg, &Sample::unlabelled(t_secs, Split::Train)).unwrap();
            }
        }
        writer.commit(Provenance::default()).unwrap();
        let clips = Clips::open(&[dir.path().to_owned()], Timing::default()).unwrap();
        (dir, clips)
    }

    #[test]
    fn switches_decide_what_a_pair_is() {
        let (_dir, clips) = clips();
        let frames = epoch_order(&(0..clips.len()).collect::<Vec<_>>(), 1, 0);
        let plain = PairConfig::default().draw(&clips, &frames, 5);
        assert!(plain.iter().all(|p| p.frames[0] == p.frames[1] && p.paste.is_none()));
        assert_eq!(plain.iter().map(|p| p.frames[0]).collect::<Vec<_>>(), frames);

        let config = PairConfig { time_aug: true, hard_neg: true, cutmix: true, ..PairConfig::default() };
        let pairs = config.draw(&clips, &frames, 5);
        assert_eq!(pairs, config.draw(&clips, &frames, 5), "the seed decides");
        assert_ne!(pairs, config.draw(&clips, &frames, 6));
        let (anchors, hards) = pairs.split_at(frames.len() / 2);
        for (anchor, hard) in anchors.iter().zip(hards) {
            assert_eq!(anchor.quadruple, hard.quadruple);
            assert_eq!(clips.identity(anchor.frames[0]), clips.identity(hard.frames[0]));
            let apart = clips.record(anchor.frames[0]).t_secs() - clips.record(hard.frames[0]).t_secs();
            assert!(apart.abs() >= 3.0, "{apart}");
        }
        let pasted: Vec<_> = pairs.iter().filter_map(|p| Some((p.frames[0], p.paste?.1))).collect();
        assert!((20..76).contains(&pasted.len()), "{} of 96 at a probability of a half", pasted.len());
        assert!(pasted.iter().all(|&(first, other)| clips.identity(first) != clips.identity(other)));
    }

    #[test]
    fn pairs_are_loaded_as_drawn_with_and_without_a_cache() {
        let (_dir, clips) = clips();
        let config = PairConfig { time_aug: true, cutmix: true, paste_p: 1.0, ..PairConfig::default() };
        let frames: Vec<usize> = (0..clips.len()).collect();
        let pairs = config.draw(&clips, &frames, 5);
        let mut pictures = Pictures::new(clips, 16, CachePlan::OFF).unwrap();
        for cached in [false, true] {
            if cached {
                pictures.cache = pictures.decode_all(&NEVER).unwrap();
                assert!(pictures.is_cached());
            }
            let bytes = 2 * pairs.len() * pictures.picture_bytes();
            let pool = BufferPool::new(1, bytes, Device::Cpu);
            let batch = pictures.load(pairs.clone(), config.cutmix_share, pool.take()).unwrap();
            assert_eq!(batch.pasted, pairs.len());
            let unit = batch.to_unit(Device::Cpu) * 255.0;
            assert_eq!(unit.size(), [192, 3, 16, 16]);
            let grey = |frame: usize| (frame / 24 * 60 + 2 * (frame % 24)) as f64;
            for (i, pair) in pairs.iter().enumerate() {
                let at = |row: usize, y: i64| unit.double_value(&[row as i64, 1, y, y]);
                let whose = pair.paste.unwrap().1;
                assert!((at(i, 8) - grey(pair.frames[0])).abs() < 1.5);
                assert!((at(96 + i, 8) - grey(pair.frames[1])).abs() < 1.5, "the middle is the positive's");
                assert!((at(96 + i, 1) - grey(whose)).abs() < 1.5, "the rim is somebody else's");
            }
        }
    }

    #[test]
    fn tuples_are_of_one_video_and_sequences_are_in_order() {
        let (_dir, clips) = clips();
        let frames: Vec<usize> = (0..clips.len()).collect();
        let same = Sampling::SameVideo(3).draw(&clips, &frames, 5);
        for tuple in &same {
            assert_eq!(tuple.frames.len(), 3);
            assert!(
                tuple.frames[1..].iter().all(|&f| f != tuple.frames[0] && f / 24 == tuple.frames[0] / 24)
            );
        }
        assert!(same.iter().all(|t| t.frames[1] != t.frames[2]), "no two the same where there are enough");
        let config = SequenceConfig { length: 5, stride: 3, scattered: 2 };
        let sequences = Sampling::Sequences(config);
        assert_eq!(sequences.frames(), 7);
        let admitted: Vec<usize> = frames.iter().copied().filter(|&f| sequences.admits(&clips, f)).collect();
        assert_eq!(admitted.len(), 4 * (24 - 12));
        for tuple in sequences.draw(&clips, &admitted, 5) {
            let anchor = admitted[tuple.number];
            assert!(tuple.frames[..5].windows(2).all(|w| w[1] == w[0] + 3), "{:?}", tuple.frames);
            assert!(tuple.frames.iter().all(|f| f / 24 == anchor / 24));
            assert_eq!(tuple.frames[0], anchor);
            assert_ne!(tuple.frames[5], tuple.frames[6]);
        }
        let too_long = Sampling::Sequences(SequenceConfig { length: 9, stride: 3, scattered: 0 });
        assert!(!frames.iter().any(|&f| too_long.admits(&clips, f)), "25 frames of 24");
        assert!(Anchors::new(&clips, &too_long, PassOver::Frames, 1).is_empty());
    }

    #[test]
    fn an_epoch_passes_over_frames_or_videos() {
        let (_dir, clips) = clips();
        let frames = Anchors::new(&clips, &Sampling::Stills, PassOver::Frames, 7);
        let mut once = frames.of(3);
        assert_ne!(once, frames.of(4));
        once.sort_unstable();
        assert_eq!(once, (0..96).collect::<Vec<_>>());
        let videos = Anchors::new(&clips, &Sampling::Stills, PassOver::Videos, 7);
        assert_eq!(videos.len(), 4);
        let mut seen = std::collections::BTreeSet::new();
        for epoch in 0..200 {
            let anchors = videos.of(epoch);
            let mut of: Vec<usize> = anchors.iter().map(|f| f / 24).collect();
            of.sort_unstable();
            assert_eq!(of, [0, 1, 2, 3]);
            seen.extend(anchors);
        }
        assert!(seen.len() > 90, "every frame of a video has its turn: {}", seen.len());
    }

    #[test]
    fn a_run_that_is_told_to_stop_does_not_decode_everything_first() {
        let (_dir, clips) = clips();
        let stop = AtomicBool::new(true);
        let plan = CachePlan { cache: Cache::On, sharers: 1, stop: &stop };
        assert!(!Pictures::new(clips, 16, plan).unwrap().is_cached());
    }

    #[test]
    fn processes_on_one_machine_share_its_memory() {
        let plan = |cache, sharers| CachePlan { cache, sharers, stop: &NEVER };
        let wants = |plan: CachePlan<'_>| plan.wants(100, Some(400)).unwrap();
        assert!(wants(plan(Cache::Auto, 2)) && !wants(plan(Cache::Auto, 3)));
        assert!(wants(plan(Cache::On, 4)));
        let error = plan(Cache::On, 5).wants(100, Some(400)).unwrap_err().to_string();
        assert!(error.contains("in each of 5 processes"), "{error}");
        assert!(!plan(Cache::Auto, 1).wants(100, None).unwrap());
    }
}
