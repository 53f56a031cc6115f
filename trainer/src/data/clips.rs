//! The training frames of one or several stores, and SSLFER's ways of drawing frames that belong together.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;

use anyhow::ensure;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::store::{Record, Split, Store};

/// How the probability of a temporal positive depends on its distance in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Law {
    /// Falls linearly to 0 at T1 (SSLFER 3.2.1, after Qian et al. 2021).
    #[default]
    Falling,
    /// The same up to T1.
    Uniform,
    /// Rises linearly up to T1.
    Rising,
    /// As SSLFER's own code has it: nothing nearer than a third of T1, there 1, falling linearly to 1/5 at T1. With
    /// `t1_secs = 1.5` these are its offsets of 2 to 6 frames at 4 frames a second, with weights of 5, 4, 3, 2 and 1.
    Apart,
}

impl Law {
    /// The probability of a frame at this distance, relative to the likeliest; `share` is the distance over T1.
    fn weight(self, share: f64) -> f64 {
        match self {
            Self::Falling => 1.0 - share,
            Self::Uniform => 1.0,
            Self::Rising => share,
            Self::Apart if share < 1.0 / 3.0 => 0.0,
            Self::Apart => 1.4 - 1.2 * share,
        }
    }
}

/// Distances in time, in seconds. The defaults are SSLFER's (sections 3.2.1 and 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timing {
    /// Frames no further apart than this show the same expression.
    pub t1_secs: f64,
    /// Frames at least this far apart may show another.
    pub t2_secs: f64,
    /// How positives within T1 are weighed.
    pub law: Law,
}

impl Default for Timing {
    fn default() -> Self {
        Self { t1_secs: 1.0, t2_secs: 3.0, law: Law::Falling }
    }
}

/// What is known of a training frame. Ranges count training frames.
#[derive(Clone, Copy, Debug)]
struct Place {
    store: u32,
    /// Its number in the store.
    index: u32,
    identity: u32,
    /// Frames of its video.
    video: (u32, u32),
    /// Frames within T1, itself among them.
    near: (u32, u32),
    /// Frames of its video that are not at least T2 away.
    middle: (u32, u32),
}

/// The training frames of all stores as one row, in the order of stores, videos and time. Every draw is O(1): what it
/// needs is worked out once, when the stores are opened.
#[derive(Debug)]
pub struct Clips {
    stores: Vec<Store>,
    frames: Vec<Place>,
    identities: usize,
    timing: Timing,
}

/// What training frames have to offer to the ways of drawing from them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reach {
    /// Share with another frame of their video within T1, a temporal positive.
    pub near: f64,
    /// Share with a frame of their video at least T2 away, a hard negative.
    pub far: f64,
    /// Share with landmarks.
    pub landmarks: f64,
    /// People.
    pub identities: usize,
}

/// Draws that are refused before the last one is taken as it is.
const MAX_DRAWS: usize = 64;

impl Clips {
    /// Opens the stores in these folders.
    ///
    /// # Errors
    /// Names the store that cannot be read, or the distance in time that makes no sense.
    pub fn open(dirs: &[PathBuf], timing: Timing) -> anyhow::Result<Self> {
        let stores: Result<Vec<_>, _> = dirs.iter().map(|dir| Store::open(dir)).collect();
        Self::new(stores?, timing)
    }

    /// Over stores that are open.
    ///
    /// # Errors
    /// Names the distance in time that makes no sense.
    pub fn new(stores: Vec<Store>, timing: Timing) -> anyhow::Result<Self> {
        let Timing { t1_secs, t2_secs, .. } = timing;
        ensure!(t1_secs.is_finite() && t1_secs > 0.0, "t1_secs = {t1_secs} is not above 0");
        ensure!(
            t2_secs.is_finite() && t2_secs > t1_secs,
            "t2_secs = {t2_secs} is not above t1_secs = {t1_secs}"
        );
        let mut clips = Self { stores: Vec::new(), frames: Vec::new(), identities: 0, timing };
        let mut names: HashMap<String, u32> = HashMap::new();
        for (number, store) in stores.iter().enumerate() {
            for video in &store.header().videos {
                let name = &store.header().identities[video.identity as usize];
                let fresh = names.len() as u32;
                let identity = *names.entry(name.clone()).or_insert(fresh);
                clips.push_video(store, number as u32, identity, video.range());
            }
        }
        ensure!(
            u32::try_from(clips.frames.len()).is_ok(),
            "{} frames are more than can be counted",
            clips.frames.len()
        );
        clips.identities = names.len();
        clips.stores = stores;
        Ok(clips)
    }

    fn push_video(&mut self, store: &Store, number: u32, identity: u32, range: Range<usize>) {
        let training: Vec<usize> = range.filter(|&i| store.record(i).split() == Split::Train).collect();
        let times: Vec<f64> = training.iter().map(|&i| store.record(i).t_secs()).collect();
        let first = self.frames.len();
        let counted = |range: Range<usize>| ((first + range.start) as u32, (first + range.end) as u32);
        let Timing { t1_secs, t2_secs, .. } = self.timing;
        let (mut near, mut middle) = (0..0, 0..0);
        for (&index, &t) in training.iter().zip(&times) {
            widen(&mut near, &times, |other| (other - t).abs() <= t1_secs, t);
            widen(&mut middle, &times, |other| (other - t).abs() < t2_secs, t);
            self.frames.push(Place {
                store: number,
                index: index as u32,
                identity,
                video: counted(0..times.len()),
                near: counted(near.clone()),
                middle: counted(middle.clone()),
            });
        }
    }

    /// Training frames.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The distances in time that frames are drawn by.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// What the frames have to offer to the ways of drawing from them.
    pub fn reach(&self) -> Reach {
        let share = |has: &dyn Fn(usize, &Place) -> bool| {
            let count = self.frames.iter().enumerate().filter(|(frame, place)| has(*frame, place)).count();
            count as f64 / self.frames.len().max(1) as f64
        };
        Reach {
            near: share(&|_, place| place.near.1 - place.near.0 > 1),
            far: share(&|_, place| place.middle != place.video),
            landmarks: share(&|frame, _| {
                self.record(frame).landmarks().is_some_and(|points| points.iter().all(|v| v.is_finite()))
            }),
            identities: self.frames.iter().map(|place| place.identity).collect::<HashSet<_>>().len(),
        }
    }

    /// The stores.
    pub fn stores(&self) -> &[Store] {
        &self.stores
    }

    /// The frame of this number, below [`Clips::len`].
    pub fn record(&self, frame: usize) -> Record<'_> {
        let place = self.frames[frame];
        self.stores[place.store as usize].record(place.index as usize)
    }

    /// The frame's identity, a number.
    pub fn identity(&self, frame: usize) -> usize {
        self.frames[frame].identity as usize
    }

    /// A temporal positive (TimeAug, SSLFER 3.2.1): another frame of the video within T1, weighed by the law; the frame
    /// itself where there is none.
    pub fn positive(&self, frame: usize, rng: &mut impl Rng) -> usize {
        let (low, high) = self.frames[frame].near;
        if high - low < 2 {
            return frame;
        }
        let t_secs = self.record(frame).t_secs();
        let mut drawn = frame;
        for _ in 0..MAX_DRAWS {
            // One fewer than there are: the frame itself is passed over.
            let other = rng.random_range(low..high - 1) as usize;
            drawn = if other >= frame { other + 1 } else { other };
            let share = (self.record(drawn).t_secs() - t_secs).abs() / self.timing.t1_secs;
            if rng.random_range(0.0..1.0) < self.timing.law.weight(share) {
                break;
            }
        }
        drawn
    }

    /// A hard negative (HardNeg, SSLFER 3.3): a frame of the same video at least T2 away, all alike probable; `None`
    /// where the video is too short.
    pub fn hard_negative(&self, frame: usize, rng: &mut impl Rng) -> Option<usize> {
        let Place { video, middle, .. } = self.frames[frame];
        let (before, after) = (middle.0 - video.0, video.1 - middle.1);
        if before + after == 0 {
            return None;
        }
        let drawn = rng.random_range(0..before + after);
        let frame = if drawn < before { video.0 + drawn } else { middle.1 + drawn - before };
        Some(frame as usize)
    }

    /// The frames of a frame's video.
    pub fn video(&self, frame: usize) -> Range<usize> {
        let (first, end) = self.frames[frame].video;
        first as usize..end as usize
    }

    /// So many other frames of the video, all alike probable, no two the same where there are enough; the frame itself where it
    /// is alone.
    pub fn others_of_video(&self, frame: usize, count: usize, rng: &mut impl Rng) -> Vec<usize> {
        let video = self.video(frame);
        let others = video.len() - 1;
        if others == 0 {
            return vec![frame; count];
        }
        let mut drawn = Vec::with_capacity(count);
        while drawn.len() < count {
            let round = rand::seq::index::sample(rng, others, others.min(count - drawn.len()));
            // One fewer than there are: the frame itself is passed over.
            drawn.extend(
                round.into_iter().map(|i| video.start + i).map(|f| if f >= frame { f + 1 } else { f }),
            );
        }
        drawn
    }

    /// `length` frames of the video, each so-many-th by `stride`, from `frame` on. `None` where the video ends before, or has a gap
    /// in time there: where the frames take more than half as long again as at the video's mean rate.
    pub fn sequence(&self, frame: usize, length: usize, stride: usize) -> Option<Vec<usize>> {
        let video = self.video(frame);
        let span = (length - 1) * stride;
        if frame + span >= video.end {
            return None;
        }
        let t_secs = |frame| self.record(frame).t_secs();
        let mean = (t_secs(video.end - 1) - t_secs(video.start)) / (video.len() - 1).max(1) as f64;
        let taken = t_secs(frame + span) - t_secs(frame);
        (taken <= 1.5 * mean * span as f64).then(|| (0..length).map(|i| frame + i * stride).collect())
    }

    /// A frame of somebody else; `None` where everybody is the same person, as far as is known.
    pub fn other_identity(&self, frame: usize, rng: &mut impl Rng) -> Option<usize> {
        if self.identities < 2 {
            return None;
        }
        let identity = self.frames[frame].identity;
        let draws = (0..MAX_DRAWS).map(|_| rng.random_range(0..self.frames.len()));
        draws.into_iter().find(|&other| self.frames[other].identity != identity)
    }
}

/// Moves a range along rising times, so that it holds those that are `inside`; `t` is the time it lies about.
fn widen(range: &mut Range<usize>, times: &[f64], inside: impl Fn(f64) -> bool, t: f64) {
    while times[range.start] < t && !inside(times[range.start]) {
        range.start += 1;
    }
    range.end = range.end.max(range.start);
    while range.end < times.len() && (times[range.end] <= t || inside(times[range.end])) {
        range.end += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::prepare::encode_jpeg;
    use crate::store::{Provenance, Sample, StoreWriter};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// A store of videos, each of an identity and with frames at these times; the last video is not for training.
    fn clips(videos: &[(&str, &[f64])], timing: Timing) -> (tempfile::TempDir, Clips) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = StoreWriter::create(dir.path()).unwrap();
        let jpeg = encode_jpeg(&[7; 16 * 16], 16, 16, 1, 90).unwrap();
        for (number, (identity, times)) in videos.iter().enumerate() {
            writer.begin_video(identity, &format!("v{number}"));
            let split = if number + 1 == videos.len() { Split::Test } else { Split::Train };
            for &t in *times {
                writer.push(&jpeg, &Sample::unlabelled(t, split)).unwrap();
            }
        }
        writer.commit(Provenance::default()).unwrap();
        let clips = Clips::open(&[dir.path().to_owned()], timing).unwrap();
        (dir, clips)
    }

    fn quarters(count: usize) -> Vec<f64> {
        (0..count).map(|i| i as f64 * 0.25).collect()
    }

    const DRAWS: usize = 40_000;

    #[test]
    fn positives_follow_their_law() {
        let times = quarters(21);
        for law in [Law::Falling, Law::Uniform, Law::Rising, Law::Apart] {
            let (_dir, clips) =
                clips(&[("a", &times), ("b", &[0.0])], Timing { law, t1_secs: 1.25, ..Timing::default() });
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let mut counts = [0.0; 21];
            (0..DRAWS).for_each(|_| counts[clips.positive(10, &mut rng)] += 1.0 / DRAWS as f64);
            let weight = |i: usize| {
                let share = (i as f64 - 10.0).abs() / 5.0;
                match law {
                    _ if i == 10 || share > 1.0 => 0.0,
                    Law::Falling => 1.0 - share,
                    Law::Uniform => 1.0,
                    Law::Rising => share,
                    Law::Apart => [0.0, 0.92, 0.68, 0.44, 0.2][(5.0 * share).round() as usize - 1],
                }
            };
            let sum: f64 = (0..21).map(weight).sum();
            for (i, count) in counts.iter().enumerate() {
                let expected = weight(i) / sum;
                let deviation = (expected * (1.0 - expected) / DRAWS as f64).sqrt();
                assert!((count - expected).abs() <= 5.0 * deviation, "{law:?} {i}: {count} {expected}");
            }
        }
    }

    #[test]
    fn apart_has_the_weights_of_the_authors_code() {
        // Offsets of 2 to 6 frames at 4 frames a second, within 1.5 s.
        let weights =
            [1, 2, 3, 4, 5, 6].map(|frames| 5.0 * Law::Apart.weight(f64::from(frames) * 0.25 / 1.5));
        for (weight, expected) in weights.into_iter().zip([0.0, 5.0, 4.0, 3.0, 2.0, 1.0]) {
            assert!((weight - expected).abs() < 1e-9, "{weights:?}");
        }
    }

    #[test]
    fn a_sequence_does_not_reach_over_a_gap() {
        let mut times = quarters(20);
        times[10..].iter_mut().for_each(|t| *t += 30.0);
        let (_dir, clips) = clips(&[("a", &times), ("b", &[0.0])], Timing::default());
        let whole = |frame| clips.sequence(frame, 3, 2).is_some();
        assert_eq!(
            (0..20).filter(|&f| whole(f)).count(),
            20 - 4 - 4,
            "four reach over the gap, four beyond the end"
        );
        assert_eq!(clips.sequence(15, 3, 2), Some(vec![15, 17, 19]));
    }

    #[test]
    fn draws_match_a_scan_of_all_frames() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut irregular: Vec<f64> = (0..60).map(|_| rng.random_range(0.0..20.0)).collect();
        irregular.extend([3.0, 3.0]);
        irregular.sort_by(f64::total_cmp);
        let short = quarters(6);
        let videos: &[(&str, &[f64])] =
            &[("a", &short), ("b", &irregular), ("a", &quarters(40)), ("c", &[5.0]), ("d", &short)];
        let (_dir, clips) = clips(videos, Timing::default());
        assert_eq!(clips.len(), 6 + 62 + 40 + 1, "test frames stay out");
        for frame in 0..clips.len() {
            let apart = |other: usize| (clips.record(other).t_secs() - clips.record(frame).t_secs()).abs();
            let same = |other: usize| clips.record(other).video() == clips.record(frame).video();
            let scan = |is: &dyn Fn(usize) -> bool| (0..clips.len()).filter(|&o| same(o) && is(o)).count();
            let near = scan(&|o| o != frame && apart(o) <= 1.0);
            let far = scan(&|o| apart(o) >= 3.0);
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..300 {
                let positive = clips.positive(frame, &mut rng);
                assert!(same(positive) && apart(positive) <= 1.0, "{frame} {positive}");
                assert_eq!(positive == frame, near == 0, "{frame}");
                let hard = clips.hard_negative(frame, &mut rng);
                assert_eq!(hard.is_some(), far > 0, "{frame}");
                if let Some(hard) = hard {
                    assert!(same(hard) && apart(hard) >= 3.0, "{frame} {hard}");
                    seen.insert(hard);
                }
                let other = clips.other_identity(frame, &mut rng).unwrap();
                assert_ne!(clips.record(other).identity(), clips.record(frame).identity());
            }
            assert!(seen.len() * 10 >= far * 9, "hard negatives reach everywhere: {} of {far}", seen.len());
        }
    }

    #[test]
    fn what_frames_have_to_offer_is_counted_over_training_frames() {
        let videos: &[(&str, &[f64])] =
            &[("a", &[0.0, 0.5, 3.2]), ("b", &[0.0, 2.0]), ("b", &[7.0]), ("c", &quarters(40))];
        let (_dir, of) = clips(videos, Timing::default());
        // Of six: the first two are near each other; the first and the third are far apart. `c` is not for training.
        let reach = of.reach();
        assert_eq!((reach.near, reach.far, reach.identities), (2.0 / 6.0, 2.0 / 6.0, 2));
        assert_eq!(reach.landmarks, 0.0);
    }

    #[test]
    fn senseless_distances_are_named() {
        let dir = tempfile::tempdir().unwrap();
        StoreWriter::create(dir.path()).unwrap().commit(Provenance::default()).unwrap();
        let fail = |t1_secs, t2_secs| {
            let timing = Timing { t1_secs, t2_secs, law: Law::Uniform };
            Clips::open(&[dir.path().to_owned()], timing).unwrap_err().to_string()
        };
        assert!(fail(0.0, 3.0).contains("t1_secs = 0"));
        assert!(fail(2.0, 1.0).contains("t2_secs = 1"));
        assert!(fail(1.0, f64::NAN).contains("t2_secs = NaN"));
    }
}
