//! What a step of contrastive training sees: pairs of pictures that show the same expression, drawn as SSLFER does.

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

/// Two frames that attract each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Its place in the batch of all processes, which its views' draws follow from.
    pub number: usize,
    /// The anchor.
    pub first: usize,
    /// Its positive.
    pub second: usize,
    /// What is done to the positive, and whose frame is used for it.
    pub paste: Option<(Paste, usize)>,
    /// Pairs of the same number are hard negatives of each other.
    pub quadruple: i64,
}

impl PairConfig {
    /// The pairs of a step, as many as `frames`, which are taken in turn from a shuffled epoch. With `hard_neg` the
    /// first half are anchors and the second half their hard negatives; where a video is too short for one, the frame
    /// that stands at its place is taken, an ordinary negative.
    pub fn draw(&self, clips: &Clips, frames: &[usize], seed: u64) -> Vec<Pair> {
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

    fn pair(&self, clips: &Clips, number: usize, first: usize, quadruple: i64, rng: &mut impl Rng) -> Pair {
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
        Pair { number, first, second, paste, quadruple }
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

    /// Fills `first` and `second` with a pair's pictures; gives the landmarks of both and whether the positive was
    /// pasted. A face swap that fails leaves the plain positive (METHODS: as the authors do).
    fn load_pair(
        &self,
        pair: &Pair,
        cutmix_share: f64,
        scratch: &mut Scratch,
        first: &mut [u8],
        second: &mut [u8],
    ) -> Result<([Landmarks; 2], bool), StoreError> {
        self.crop_into(pair.first, first)?;
        let first_landmarks = self.landmarks(pair.first);
        let second_landmarks = self.landmarks(pair.second);
        if pair.second == pair.first {
            second.copy_from_slice(first);
        } else {
            self.crop_into(pair.second, second)?;
        }
        let Some((paste, other)) = pair.paste else {
            return Ok(([first_landmarks, second_landmarks], false));
        };
        scratch.other.resize(self.picture_bytes(), 0);
        self.crop_into(other, &mut scratch.other)?;
        let pasted = match paste {
            Paste::CutMix => {
                cut_mix(second, &mut scratch.other, self.side_px as usize, cutmix_share);
                second.copy_from_slice(&scratch.other);
                Some(second_landmarks)
            }
            Paste::FaceSwap => {
                let other_landmarks = self.landmarks(other);
                self.swap(scratch, &other_landmarks, &second_landmarks, second).map(Some)
            }
        };
        Ok(([first_landmarks, pasted.unwrap_or(second_landmarks)], pasted.is_some()))
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

    /// Loads the pictures of these pairs, on every core.
    ///
    /// # Errors
    /// [`StoreError::Picture`], which names the frame.
    pub fn load(
        &self,
        pairs: Vec<Pair>,
        cutmix_share: f64,
        mut buffer: HostBuffer,
    ) -> Result<PairBatch, StoreError> {
        let bytes = self.picture_bytes();
        let (firsts, seconds) = buffer.bytes_mut().split_at_mut(pairs.len() * bytes);
        let pictures = firsts.par_chunks_exact_mut(bytes).zip(seconds.par_chunks_exact_mut(bytes));
        let loaded: Result<Vec<_>, StoreError> = (pairs.par_iter().zip(pictures))
            .map_init(Scratch::default, |scratch, (pair, (first, second))| {
                self.load_pair(pair, cutmix_share, scratch, first, second)
            })
            .collect();
        let loaded = loaded?;
        let side = |i: usize| loaded.iter().map(move |(landmarks, _)| landmarks[i]);
        let landmarks = side(0).chain(side(1)).collect();
        let pasted = loaded.iter().filter(|(_, pasted)| *pasted).count();
        Ok(PairBatch { pairs, landmarks, pasted, side_px: self.side_px, buffer })
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
pub struct PairBatch {
    /// The pairs.
    pub pairs: Vec<Pair>,
    /// Of the first pictures, then of the second ones.
    pub landmarks: Vec<Landmarks>,
    /// Positives that were swapped or mixed.
    pub pasted: usize,
    side_px: u32,
    buffer: HostBuffer,
}

impl PairBatch {
    /// First and second pictures on `device`, `[2B,3,S,S]` f32 in `[0,1]`. The batch must be kept until something that
    /// depends on them was read back, see [`HostBuffer::to_device`].
    pub fn to_unit(&self, device: Device) -> Tensor {
        to_unit(&self.buffer.to_device(device), self.side_px)
    }

    /// `[B]`: pairs of the same number are hard negatives of each other.
    pub fn quadruples(&self, device: Device) -> Tensor {
        let numbers: Vec<i64> = self.pairs.iter().map(|pair| pair.quadruple).collect();
        Tensor::from_slice(&numbers).to_kind(Kind::Int64).to_device(device)
    }
}

/// Which frames each step takes.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    /// Pairs a step.
    pub batch: usize,
    /// Decides the order and every draw.
    pub seed: u64,
    /// Part of each batch that this process loads, of how many: `(rank, world)`.
    pub part: (usize, usize),
}

impl Steps {
    /// Steps that pass over `frames` frames once; the rest that does not fill a batch is left to another epoch.
    pub fn an_epoch(&self, frames: usize) -> i64 {
        (frames / self.batch) as i64
    }
}

/// Draws and loads the pairs of these steps on threads of their own, a few ahead of whoever receives them. What a step
/// sees follows from the seed and its number alone, so that a run that is resumed sees the same.
///
/// # Errors
/// Where the frames do not fill a batch.
pub fn prefetch_pairs<'scope, 'env>(
    scope: &'scope std::thread::Scope<'scope, 'env>,
    pictures: &'env Pictures,
    config: PairConfig,
    steps: Steps,
    range: Range<i64>,
    device: Device,
) -> anyhow::Result<Receiver<Result<PairBatch, StoreError>>> {
    let clips = &pictures.clips;
    let an_epoch = steps.an_epoch(clips.len());
    ensure!(an_epoch > 0, "{} training pictures do not fill a batch of {}", clips.len(), steps.batch);
    let (rank, world) = steps.part;
    let share = steps.batch / world;
    // One is being filled, one is in use, and one is kept until its loss was read.
    let pool = BufferPool::new(AHEAD + 3, 2 * share * pictures.picture_bytes(), device);
    let all: Vec<usize> = (0..clips.len()).collect();
    let mut order = (-1, Vec::new());
    let draws = range.map(move |step| {
        let epoch = step / an_epoch;
        if order.0 != epoch {
            order = (epoch, epoch_order(&all, steps.seed, epoch));
        }
        let start = (step % an_epoch) as usize * steps.batch;
        let frames = &order.1[start..start + steps.batch];
        let pairs = config.draw(clips, frames, mix(steps.seed ^ PAIRS, step as u64));
        // Whole stretches, so that the processes' pairs joined are in the order that one process has them in.
        (pairs.into_iter().skip(rank * share).take(share).collect::<Vec<_>>(), pool.take())
    });
    Ok(ahead(scope, draws, move |(pairs, buffer)| pictures.load(pairs, config.cutmix_share, buffer)))
}

/// Keeps the draws of pairs apart from those of the order and of the views.
const PAIRS: u64 = 0x5041_4952;

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
        assert!(plain.iter().all(|p| p.first == p.second && p.paste.is_none()));
        assert_eq!(plain.iter().map(|p| p.first).collect::<Vec<_>>(), frames);

        let config = PairConfig { time_aug: true, hard_neg: true, cutmix: true, ..PairConfig::default() };
        let pairs = config.draw(&clips, &frames, 5);
        assert_eq!(pairs, config.draw(&clips, &frames, 5), "the seed decides");
        assert_ne!(pairs, config.draw(&clips, &frames, 6));
        let (anchors, hards) = pairs.split_at(frames.len() / 2);
        for (anchor, hard) in anchors.iter().zip(hards) {
            assert_eq!(anchor.quadruple, hard.quadruple);
            assert_eq!(clips.identity(anchor.first), clips.identity(hard.first));
            let apart = clips.record(anchor.first).t_secs() - clips.record(hard.first).t_secs();
            assert!(apart.abs() >= 3.0, "{apart}");
        }
        let pasted: Vec<_> = pairs.iter().filter_map(|p| Some((p.first, p.paste?.1))).collect();
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
                assert!((at(i, 8) - grey(pair.first)).abs() < 1.5);
                assert!((at(96 + i, 8) - grey(pair.second)).abs() < 1.5, "the middle is the positive's");
                assert!((at(96 + i, 1) - grey(whose)).abs() < 1.5, "the rim is somebody else's");
            }
        }
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
