//! What was seen of each face lately and long ago, in bounded memory, and SSLFER's ways of drawing from it.

use std::mem;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use thiserror::Error;

/// Frames no further apart than this show the same expression (SSLFER 3.2.1).
pub const T1_SECS: f64 = 1.0;
/// Frames at least this far apart may show another (SSLFER 3.3).
pub const T2_SECS: f64 = 3.0;

/// Frames that follow closer than this upon the one kept last are passed over: eight a second are enough for T1.
pub const MIN_GAP_SECS: f64 = 0.12;
/// Frames of a run. A run is what is kept or dropped as one, so that old frames keep neighbours within T1.
const RUN: usize = 8;
/// Runs that a buffer has room for.
const RUNS: usize = 12;
/// The newest runs are all kept: they span more than T2 at [`MIN_GAP_SECS`]. The others are a sample of what came
/// before.
const RECENT: u64 = 4;
/// A run that is no longer recent joins the older ones with at least this probability. Up to `OLDER / RENEWAL` runs the
/// older ones are a uniform sample (Vitter's algorithm R); from then on they are forgotten, at a run a second after some
/// ten minutes.
const RENEWAL: f64 = 1.0 / 64.0;
const OLDER: usize = RUNS - RECENT as usize;

/// Frames that a buffer has room for.
pub const FRAMES: usize = RUN * RUNS;
/// Faces that [`Buffers`] remembers at once.
pub const TRACKS: usize = 4;

/// The probability of a positive at this distance in time, relative to the likeliest: falls linearly to 0 at T1. At four
/// frames a second its authors' code gives neighbours the weights 5, 4, 3, 2, 1.
pub fn falling(gap_secs: f64) -> f64 {
    (1.0 - gap_secs / T1_SECS).max(0.0)
}

/// Why a frame was refused; nothing has changed then.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
pub enum TemporalError {
    /// The embedding has another length.
    #[error("an embedding of {found} values where {dim} are expected")]
    Dim {
        /// Values that were given.
        found: usize,
        /// Values of the others.
        dim: usize,
    },
    /// The embedding or the time holds NaN or an infinity.
    #[error("the frame at {t_secs} s holds a value that is not finite")]
    NotFinite {
        /// When it was.
        t_secs: f64,
    },
    /// The frame is older than the one before.
    #[error("the frame at {t_secs} s is older than the one before, at {last_secs} s")]
    Backwards {
        /// When it was.
        t_secs: f64,
        /// When the one before was.
        last_secs: f64,
    },
}

/// Neighbours in time that are kept together.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    /// Counts the runs of this face, from 1.
    serial: u64,
    /// Frames so far; 0 where the place is free.
    len: usize,
}

/// Embeddings of one face with their times, at most [`FRAMES`]. All memory is taken at the start, about
/// `FRAMES * (4 * dim + 8)` bytes. Frames are named by their places, which are good until the next
/// [`TemporalBuffer::push`].
#[derive(Debug)]
pub struct TemporalBuffer {
    dim: usize,
    runs: [Run; RUNS],
    /// The run that grows.
    current: usize,
    last_secs: f64,
    /// When the frame that was kept last was.
    kept_secs: f64,
    times: [f64; FRAMES],
    embeddings: Vec<f32>,
    rng: ChaCha8Rng,
}

impl TemporalBuffer {
    /// An empty one for embeddings of `dim` values.
    pub fn new(dim: usize) -> Self {
        Self {
            dim,
            runs: [Run::default(); RUNS],
            current: 0,
            last_secs: f64::NEG_INFINITY,
            kept_secs: f64::NEG_INFINITY,
            times: [0.0; FRAMES],
            embeddings: vec![0.0; FRAMES * dim],
            rng: ChaCha8Rng::seed_from_u64(0),
        }
    }

    /// Forgets every frame, for another face or another clock.
    pub fn clear(&mut self) {
        self.runs = [Run::default(); RUNS];
        (self.last_secs, self.kept_secs) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    }

    /// Takes a frame in O(dim) without allocating; whether it was kept, and not passed over for being too close to the
    /// one before.
    ///
    /// # Errors
    /// [`TemporalError`].
    pub fn push(&mut self, t_secs: f64, embedding: &[f32]) -> Result<bool, TemporalError> {
        check(self.dim, t_secs, embedding)?;
        if t_secs < self.last_secs {
            return Err(TemporalError::Backwards { t_secs, last_secs: self.last_secs });
        }
        self.last_secs = t_secs;
        let gap_secs = t_secs - self.kept_secs;
        if gap_secs < MIN_GAP_SECS {
            return Ok(false);
        }
        if gap_secs > T1_SECS || self.runs[self.current].len == RUN {
            self.begin_run();
        }
        let run = &mut self.runs[self.current];
        let place = self.current * RUN + run.len;
        run.len += 1;
        self.kept_secs = t_secs;
        self.times[place] = t_secs;
        self.embeddings[place * self.dim..][..self.dim].copy_from_slice(embedding);
        Ok(true)
    }

    /// Makes room for a run. One of a single frame gives way at once: it has no positive.
    fn begin_run(&mut self) {
        let Run { serial, len } = self.runs[self.current];
        if len == 1 {
            self.runs[self.current].len = 0;
            return;
        }
        let free = self.runs.iter().position(|run| run.len == 0);
        self.current = free.unwrap_or_else(|| self.leaving(serial + 1 - RECENT));
        self.runs[self.current] = Run { serial: serial + 1, len: 0 };
    }

    /// The place of the run that is dropped so that another can begin: `last` or one older than it.
    fn leaving(&mut self, last: u64) -> usize {
        let joins = self.rng.random_bool((OLDER as f64 / last as f64).clamp(RENEWAL, 1.0));
        let drawn = if joins { self.rng.random_range(0..OLDER) } else { 0 };
        let mut candidates = (0..RUNS).filter(|&i| {
            let serial = self.runs[i].serial;
            if joins { serial < last } else { serial == last }
        });
        candidates.nth(drawn).unwrap_or(self.current)
    }

    /// Values of an embedding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.runs.iter().map(|run| run.len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The places of all frames, below [`FRAMES`]; not in the order of time.
    pub fn frames(&self) -> impl Iterator<Item = usize> + Clone {
        let runs = self.runs.iter().enumerate();
        runs.flat_map(|(place, run)| place * RUN..place * RUN + run.len)
    }

    /// When the last frame came, kept or not.
    pub fn last_secs(&self) -> Option<f64> {
        self.last_secs.is_finite().then_some(self.last_secs)
    }

    /// When a frame was.
    pub fn t_secs(&self, frame: usize) -> f64 {
        self.times[frame]
    }

    /// The embedding of a frame.
    pub fn embedding(&self, frame: usize) -> &[f32] {
        &self.embeddings[frame * self.dim..][..self.dim]
    }

    /// A positive (TimeAug, SSLFER 3.2.1): another frame within T1, drawn with the [`falling`] law; `None` where there is
    /// none.
    pub fn positive(&self, frame: usize, rng: &mut impl Rng) -> Option<usize> {
        let weight = |&other: &usize| {
            if other == frame { 0.0 } else { falling((self.times[other] - self.times[frame]).abs()) }
        };
        draw(self.frames(), weight, rng)
    }

    /// Whether two frames are at least T2 apart.
    pub fn far(&self, a: usize, b: usize) -> bool {
        (self.times[a] - self.times[b]).abs() >= T2_SECS
    }

    /// A hard negative (HardNeg, SSLFER 3.3): a frame at least T2 away, all alike probable; `None` where there is none.
    pub fn hard_negative(&self, frame: usize, rng: &mut impl Rng) -> Option<usize> {
        draw(self.frames(), |&other| f64::from(u8::from(self.far(frame, other))), rng)
    }
}

fn check(dim: usize, t_secs: f64, embedding: &[f32]) -> Result<(), TemporalError> {
    if embedding.len() != dim {
        return Err(TemporalError::Dim { found: embedding.len(), dim });
    }
    if !t_secs.is_finite() || !embedding.iter().all(|v| v.is_finite()) {
        return Err(TemporalError::NotFinite { t_secs });
    }
    Ok(())
}

/// One of `items`, each as probable as its weight (0 or more) says; `None` where all weigh nothing.
pub(crate) fn draw<T>(
    items: impl Iterator<Item = T> + Clone,
    weight: impl Fn(&T) -> f64,
    rng: &mut impl Rng,
) -> Option<T> {
    let sum: f64 = items.clone().map(|item| weight(&item)).sum();
    if sum <= 0.0 {
        return None;
    }
    let mut left = rng.random_range(0.0..sum);
    let mut last = None;
    for item in items {
        let weight = weight(&item);
        if weight > 0.0 {
            last = Some(item);
            if left < weight {
                break;
            }
        }
        left -= weight;
    }
    last
}

/// The buffers of a fixed number of faces. A new face takes a free one, or that of the face that was silent longest.
#[derive(Debug)]
pub struct Buffers {
    tracks: [(Option<u64>, TemporalBuffer); TRACKS],
}

impl Buffers {
    /// Empty ones for embeddings of `dim` values.
    pub fn new(dim: usize) -> Self {
        Self { tracks: std::array::from_fn(|_| (None, TemporalBuffer::new(dim))) }
    }

    /// Takes a frame of the face that the tracker calls `track`; whether it was kept.
    ///
    /// # Errors
    /// [`TemporalError`].
    pub fn push(&mut self, track: u64, t_secs: f64, embedding: &[f32]) -> Result<bool, TemporalError> {
        if let Some((_, buffer)) = self.tracks.iter_mut().find(|(known, _)| *known == Some(track)) {
            return buffer.push(t_secs, embedding);
        }
        let silent_longest = self.tracks.iter_mut().min_by(|a, b| a.1.last_secs.total_cmp(&b.1.last_secs));
        let Some((known, buffer)) = silent_longest else { return Ok(false) };
        check(buffer.dim, t_secs, embedding)?;
        *known = Some(track);
        buffer.clear();
        buffer.push(t_secs, embedding)
    }

    /// The faces that are remembered.
    pub fn iter(&self) -> impl Iterator<Item = &TemporalBuffer> + Clone {
        self.tracks.iter().filter(|(known, _)| known.is_some()).map(|(_, buffer)| buffer)
    }

    /// Forgets every face.
    pub fn clear(&mut self) {
        for (known, buffer) in &mut self.tracks {
            *known = None;
            buffer.clear();
        }
    }

    /// Bytes that buffers for embeddings of `dim` values take, whatever the running time.
    pub const fn bytes(dim: usize) -> usize {
        mem::size_of::<Self>() + TRACKS * FRAMES * dim * mem::size_of::<f32>()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DRAWS: usize = 40_000;

    /// A frame every quarter of a second; the embedding is the time.
    fn quarters(count: usize) -> TemporalBuffer {
        let mut buffer = TemporalBuffer::new(1);
        for t in (0..count).map(|i| i as f64 / 4.0) {
            assert!(buffer.push(t, &[t as f32]).unwrap());
        }
        buffer
    }

    /// Pearson's statistic is below its 99.99 % quantile (Wilson and Hilferty's approximation), and what has no
    /// probability never occurs.
    fn assert_law(counts: &[usize], weights: &[f64]) {
        let (total, sum) = (counts.iter().sum::<usize>() as f64, weights.iter().sum::<f64>());
        let (mut statistic, mut freedom) = (0.0, -1.0);
        for (&count, weight) in counts.iter().zip(weights) {
            let expected = total * weight / sum;
            if expected == 0.0 {
                assert_eq!(count, 0);
                continue;
            }
            statistic += (count as f64 - expected).powi(2) / expected;
            freedom += 1.0;
        }
        let spread: f64 = 2.0 / (9.0 * freedom);
        let quantile = freedom * (1.0 - spread + 3.719 * spread.sqrt()).powi(3);
        assert!(statistic < quantile, "{statistic} is beyond {quantile}: {counts:?}");
    }

    fn counts(buffer: &TemporalBuffer, mut draw: impl FnMut() -> usize) -> Vec<usize> {
        let mut counts = vec![0; buffer.len()];
        (0..DRAWS).for_each(|_| counts[(buffer.t_secs(draw()) * 4.0) as usize] += 1);
        counts
    }

    #[test]
    fn positives_follow_the_falling_law() {
        let buffer = quarters(24);
        let anchor = buffer.frames().find(|&f| buffer.t_secs(f) == 2.5).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut weights = [0.0; 24];
        for (i, weight) in [3.0, 2.0, 1.0].into_iter().enumerate() {
            (weights[9 - i], weights[11 + i]) = (weight, weight);
        }
        let counts = counts(&buffer, || buffer.positive(anchor, &mut rng).unwrap());
        assert_law(&counts, &weights);
    }

    #[test]
    fn hard_negatives_are_uniform_from_t2_on() {
        let buffer = quarters(30);
        let anchor = buffer.frames().find(|&f| buffer.t_secs(f) == 3.5).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let weights: Vec<f64> = (0..30).map(|i: i32| f64::from(u8::from((i - 14).abs() >= 12))).collect();
        let counts = counts(&buffer, || buffer.hard_negative(anchor, &mut rng).unwrap());
        assert_law(&counts, &weights);
    }

    #[test]
    fn a_face_that_was_seen_too_briefly_offers_nothing() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let alone = quarters(1);
        assert_eq!((alone.positive(0, &mut rng), alone.hard_negative(0, &mut rng)), (None, None));
        assert_eq!(quarters(12).hard_negative(0, &mut rng), None);
        assert!(quarters(13).hard_negative(0, &mut rng).is_some());
    }

    #[test]
    fn older_runs_are_a_uniform_sample() {
        let runs = 60;
        let mut counts = vec![0; runs];
        for seed in 0..4000 {
            let mut buffer =
                TemporalBuffer { rng: ChaCha8Rng::seed_from_u64(seed), ..TemporalBuffer::new(0) };
            (0..runs * RUN).for_each(|i| assert!(buffer.push(i as f64 / 8.0, &[]).unwrap()));
            for run in buffer.runs {
                counts[run.serial as usize - 1] += 1;
            }
        }
        let older = &counts[..runs - RECENT as usize];
        assert!(counts[older.len()..].iter().all(|&count| count == 4000));
        // Without replacement the counts vary less than the law assumes, so the test is on the safe side.
        assert_law(older, &vec![1.0; older.len()]);
    }

    #[test]
    fn a_million_frames_take_no_more_memory_and_leave_pairs_to_draw() {
        let mut buffer = TemporalBuffer::new(2);
        let capacity = buffer.embeddings.capacity();
        for i in 0..1_000_000 {
            buffer.push(f64::from(i) / 30.0, &[i as f32, 0.0]).unwrap();
        }
        assert_eq!((buffer.embeddings.capacity(), buffer.len()), (capacity, FRAMES));
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        for frame in buffer.frames() {
            let positive = buffer.positive(frame, &mut rng).unwrap();
            assert!((buffer.t_secs(positive) - buffer.t_secs(frame)).abs() < T1_SECS);
            assert!(buffer.hard_negative(frame, &mut rng).is_some());
            assert!((f64::from(buffer.embedding(frame)[0]) / 30.0 - buffer.t_secs(frame)).abs() < 1e-3);
        }
        let oldest = buffer.frames().map(|f| buffer.t_secs(f)).fold(f64::INFINITY, f64::min);
        assert!(oldest < 33_000.0, "something older than five minutes is known: {oldest}");
    }

    #[test]
    fn what_is_not_sound_is_refused_and_changes_nothing() {
        let mut buffer = quarters(2);
        assert_eq!(buffer.push(0.1, &[0.0]), Err(TemporalError::Backwards { t_secs: 0.1, last_secs: 0.25 }));
        assert_eq!(buffer.push(1.0, &[f32::NAN]), Err(TemporalError::NotFinite { t_secs: 1.0 }));
        assert!(matches!(buffer.push(f64::NAN, &[0.0]), Err(TemporalError::NotFinite { .. })));
        assert_eq!(buffer.push(1.0, &[0.0; 2]), Err(TemporalError::Dim { found: 2, dim: 1 }));
        assert_eq!(buffer.push(0.3, &[0.0]), Ok(false), "too close to the one before");
        assert_eq!(buffer.len(), 2);
    }

    #[test]
    fn a_new_face_takes_the_place_of_the_one_silent_longest() {
        let mut buffers = Buffers::new(1);
        for track in 0..TRACKS as u64 {
            buffers.push(track, track as f64, &[track as f32]).unwrap();
        }
        buffers.push(0, 10.0, &[0.0]).unwrap();
        assert!(buffers.push(9, 0.5, &[f32::NAN]).is_err(), "a frame that is refused drives nobody out");
        buffers.push(8, 0.5, &[8.0]).unwrap();
        let mut known: Vec<f32> = buffers.iter().map(|b| b.embedding(0)[0]).collect();
        known.sort_by(f32::total_cmp);
        assert_eq!(known, [0.0, 2.0, 3.0, 8.0]);
    }
}
