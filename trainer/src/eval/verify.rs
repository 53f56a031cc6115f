//! Whether two pictures are of one person: ten folds of pairs, as LFW has them (Huang et al. 2007).

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use anyhow::{bail, ensure};
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tch::{Kind, Reduction, Tensor};

use super::goal::finite;
use super::linear::{Descent, LR, Layer, Standardised};
use super::subject::Subject;
use super::{EvalArgs, Protocol, Spread};
use crate::checkpoint::floats;
use crate::data::{mix, training_device};
use crate::ntxent::unit_rows;
use crate::progress;
use crate::store::{Split, Store, VerificationPair};

/// Folds that are drawn where a store has no pairs.
const FOLDS: usize = 10;
/// Pairs of each kind that a fold is drawn, as LFW has them.
const PAIRS_A_FOLD: usize = 300;
/// Draws for each pair that is wanted, before a fold is taken to have no more.
const DRAWS: usize = 20;
/// The seed of pairs that are drawn: every encoder is judged on the same ones.
const SEED: u64 = 7;
/// Strengths of regularisation that are tried on one of the nine folds.
const L2: [f64; 4] = [1e-4, 1e-3, 1e-2, 1e-1];

/// How well it is told whether two pictures are of one person.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// `verify`.
    pub task: &'static str,
    /// `linear`, or `knn`: the cosine alone.
    pub protocol: &'static str,
    /// The split that pairs were drawn from; `all` where the store has pairs, which count whatever their split.
    pub split: &'static str,
    /// Pairs.
    pub n: u64,
    /// `file`: the store's own; `drawn`: by a fixed seed, people being of one fold each.
    pub pairs: &'static str,
    /// Pairs of the file that name a picture which the store lacks.
    pub missing: u64,
    /// Folds.
    pub folds: u64,
    /// The better of both means over folds.
    pub accuracy: f64,
    /// The standard deviation of the same over folds.
    pub accuracy_std: f64,
    /// The area under the curve of true over false alarms of the same, over the pairs of all folds.
    pub auc: f64,
    /// Mean accuracy by the cosine, with the threshold that is best on the other folds.
    pub accuracy_cosine: f64,
    /// Its deviation over folds.
    pub accuracy_cosine_std: f64,
    /// Mean accuracy of a linear classifier on `|a - b|` and `a b` of standardised embeddings, fitted to the other folds;
    /// none by protocol knn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_linear: Option<f64>,
    /// Its deviation over folds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_linear_std: Option<f64>,
}

/// Pairs, and where they are from.
struct Pairs {
    pairs: Vec<VerificationPair>,
    missing: usize,
    from: &'static str,
    split: &'static str,
}

/// What a measure says of each pair, more being the same person, and how that is judged.
struct Measure {
    accuracy: f64,
    std: f64,
    auc: f64,
}

impl Measure {
    /// Of scores of all pairs, and the accuracy of each fold, of which there are two at least.
    fn of(pairs: &[VerificationPair], scores: &[f64], accuracies: &[f64]) -> Self {
        let Spread { mean, deviation } =
            Spread::of(accuracies).unwrap_or(Spread { mean: 0.0, deviation: None });
        Self { accuracy: mean, std: deviation.unwrap_or(0.0), auc: auc(pairs, scores) }
    }
}

/// Runs the task.
///
/// # Errors
/// Where there are too few pairs, or the protocol is none of this task.
pub(super) fn judge(args: &EvalArgs, subject: &Subject, store: &Store) -> anyhow::Result<VerifyReport> {
    if !matches!(args.protocol, Protocol::Linear | Protocol::Knn) {
        bail!("--protocol {}: --task verify has linear and knn (the cosine alone)", args.protocol.name());
    }
    let Pairs { pairs, missing, from, split } = pairs(store, args.split, args.apart_secs)?;
    let mut frames: Vec<usize> = pairs.iter().flat_map(|pair| [pair.a, pair.b]).collect();
    frames.sort_unstable();
    frames.dedup();
    let embeddings = finite(subject.embed(store, &frames)?.into_tensor())?;
    let row = |frame: &usize| frames.binary_search(frame).map_or(0, |row| row as i64);
    let rows = |of: fn(&VerificationPair) -> usize| {
        let rows: Vec<i64> = pairs.iter().map(|pair| row(&of(pair))).collect();
        Tensor::from_slice(&rows).to_device(embeddings.device())
    };
    let (a, b) = (rows(|pair| pair.a), rows(|pair| pair.b));
    let cosine = by_cosine(&pairs, &embeddings, &a, &b)?;
    let linear = match args.protocol {
        Protocol::Linear => Some(by_classifier(&pairs, &embeddings, &a, &b)?),
        _ => None,
    };
    let better = linear.as_ref().filter(|linear| linear.accuracy > cosine.accuracy).unwrap_or(&cosine);
    Ok(VerifyReport {
        task: "verify",
        protocol: args.protocol.name(),
        split,
        n: pairs.len() as u64,
        pairs: from,
        missing: missing as u64,
        folds: folds_of(&pairs).len() as u64,
        accuracy: better.accuracy,
        accuracy_std: better.std,
        auc: better.auc,
        accuracy_cosine: cosine.accuracy,
        accuracy_cosine_std: cosine.std,
        accuracy_linear: linear.as_ref().map(|linear| linear.accuracy),
        accuracy_linear_std: linear.as_ref().map(|linear| linear.std),
    })
}

/// The store's own pairs, else such as are drawn from the split.
///
/// # Errors
/// Where there are fewer than two folds.
fn pairs(store: &Store, split: Split, apart_secs: f64) -> anyhow::Result<Pairs> {
    let dir = store.dir().display();
    Ok(match store.pairs()? {
        Some((pairs, missing)) => {
            let folds = folds_of(&pairs).len();
            ensure!(
                folds > 1,
                "{dir}: its pairs are of {folds} folds ({} pairs, and {missing} that name pictures which are not there); two \
                 folds are needed",
                pairs.len()
            );
            Pairs { pairs, missing, from: "file", split: "all" }
        }
        None => {
            let pairs = draw(store, split, apart_secs);
            let folds = folds_of(&pairs).len();
            ensure!(
                folds > 1,
                "{dir}: no pairs.csv, and pairs cannot be drawn from the {} split: two folds need two people each, of whom one \
                 has pictures of two videos, or {apart_secs} s apart (--apart-secs)",
                split.name()
            );
            Pairs { pairs, missing: 0, from: "drawn", split: split.name() }
        }
    })
}

/// The numbers of the folds, rising.
fn folds_of(pairs: &[VerificationPair]) -> Vec<u32> {
    let mut folds: Vec<u32> = pairs.iter().map(|pair| pair.fold).collect();
    folds.sort_unstable();
    folds.dedup();
    folds
}

/// Draws pairs of a split: people, sorted by name, are dealt in turn to ten folds, or to as many as leave each two people.
/// A fold has as many pairs of one person as of two, 300 at most, fewer where draws find no more. Those of one person
/// are of different videos where the person has two, else at least `apart_secs` apart.
fn draw(store: &Store, split: Split, apart_secs: f64) -> Vec<VerificationPair> {
    let mut people: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for frame in store.split(split) {
        people.entry(store.record(frame).identity()).or_default().push(frame);
    }
    let people: Vec<Vec<usize>> = people.into_values().collect();
    let folds = FOLDS.min(people.len() / 2).max(1);
    let mut pairs = Vec::new();
    for fold in 0..folds {
        let mut rng = ChaCha8Rng::seed_from_u64(mix(SEED, fold as u64));
        let dealt: Vec<&[usize]> = people.iter().skip(fold).step_by(folds).map(Vec::as_slice).collect();
        let mut same = distinct(|| {
            let frames = dealt.choose(&mut rng)?;
            let (a, b) = (*frames.choose(&mut rng)?, *frames.choose(&mut rng)?);
            tells(store, frames, a, b, apart_secs).then_some((a, b))
        });
        let mut different = distinct(|| {
            let (first, second) = (dealt.choose(&mut rng)?, dealt.choose(&mut rng)?);
            let (a, b) = (*first.choose(&mut rng)?, *second.choose(&mut rng)?);
            (first[0] != second[0]).then_some((a, b))
        });
        let count = same.len().min(different.len());
        same.truncate(count);
        different.truncate(count);
        let pair = |same| move |(a, b)| VerificationPair { fold: fold as u32, same, a, b };
        pairs.extend(same.into_iter().map(pair(true)));
        pairs.extend(different.into_iter().map(pair(false)));
    }
    pairs
}

/// What `draw` gives, each pair once, whichever comes first in it.
fn distinct(mut draw: impl FnMut() -> Option<(usize, usize)>) -> Vec<(usize, usize)> {
    let mut seen = HashSet::new();
    let mut pairs = Vec::new();
    for _ in 0..DRAWS * PAIRS_A_FOLD {
        if pairs.len() == PAIRS_A_FOLD {
            break;
        }
        if let Some((a, b)) = draw()
            && seen.insert((a.min(b), a.max(b)))
        {
            pairs.push((a, b));
        }
    }
    pairs
}

/// Whether two frames of one person, who has `frames`, are far enough from each other to tell anything.
fn tells(store: &Store, frames: &[usize], a: usize, b: usize, apart_secs: f64) -> bool {
    let video = |frame: usize| store.record(frame).video_index();
    // Frames are in the order of videos.
    let several =
        frames.first().zip(frames.last()).is_some_and(|(first, last)| video(*first) != video(*last));
    if several {
        return video(a) != video(b);
    }
    a != b && (store.record(a).t_secs() - store.record(b).t_secs()).abs() >= apart_secs
}

/// By the cosine of embeddings, `[frames, dim]`, with the threshold that is best on the other folds; `a` and `b` are the
/// rows of each pair.
fn by_cosine(
    pairs: &[VerificationPair],
    embeddings: &Tensor,
    a: &Tensor,
    b: &Tensor,
) -> anyhow::Result<Measure> {
    let unit = unit_rows(embeddings);
    let product = unit.index_select(0, a) * unit.index_select(0, b);
    let cosines = floats(&product.sum_dim_intlist([1].as_slice(), false, Kind::Float))?;
    let cosines: Vec<f64> = cosines.into_iter().map(f64::from).collect();
    let accuracies: Vec<f64> = folds_of(pairs)
        .into_iter()
        .map(|fold| {
            let scored = |inside: bool| {
                let these = pairs.iter().zip(&cosines).filter(move |(pair, _)| (pair.fold == fold) == inside);
                these.map(|(pair, cosine)| (*cosine, pair.same)).collect::<Vec<_>>()
            };
            accuracy_at(&scored(true), best_threshold(scored(false)))
        })
        .collect();
    Ok(Measure::of(pairs, &cosines, &accuracies))
}

/// Share of scores that are on their side of the threshold: above it where both are of one person.
fn accuracy_at(scored: &[(f64, bool)], threshold: f64) -> f64 {
    let right = scored.iter().filter(|(score, same)| (*score > threshold) == *same).count();
    right as f64 / scored.len().max(1) as f64
}

/// The threshold that puts most scores on their side; the lowest of equals, midway between two scores.
fn best_threshold(mut scored: Vec<(f64, bool)>) -> f64 {
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Below all of them, all are taken to be of one person.
    let mut right = scored.iter().filter(|(_, same)| *same).count();
    let (mut most, mut best) = (right, f64::NEG_INFINITY);
    for (i, (score, same)) in scored.iter().enumerate() {
        right = if *same { right - 1 } else { right + 1 };
        let next = scored.get(i + 1).map_or(f64::INFINITY, |(next, _)| *next);
        if next > *score && right > most {
            (most, best) = (right, if next.is_finite() { (score + next) / 2.0 } else { *score });
        }
    }
    best
}

/// By a linear classifier on `|a - b|` and `a b` of embeddings standardised by the pictures of the other folds, fitted to
/// their pairs. The regularisation is the one that is best on the first of them when fitted to the rest.
fn by_classifier(
    pairs: &[VerificationPair],
    embeddings: &Tensor,
    a: &Tensor,
    b: &Tensor,
) -> anyhow::Result<Measure> {
    let folds = folds_of(pairs);
    let device = training_device();
    let same: Vec<f32> = pairs.iter().map(|pair| f32::from(pair.same)).collect();
    let same = Tensor::from_slice(&same).view([-1, 1]).to_device(device);
    let bar = progress::bar(folds.len() as u64, "folds");
    let mut scores = vec![0.0; pairs.len()];
    let mut accuracies = Vec::new();
    for (place, &fold) in folds.iter().enumerate() {
        let inside = |is: &dyn Fn(u32) -> bool| {
            let rows: Vec<i64> =
                (0..).zip(pairs).filter(|(_, pair)| is(pair.fold)).map(|(row, _)| row).collect();
            Tensor::from_slice(&rows).to_device(device)
        };
        let others = inside(&|other| other != fold);
        let x = embeddings
            .index_select(0, &Tensor::cat(&[a.index_select(0, &others), b.index_select(0, &others)], 0));
        let frame = Standardised::new(x);
        let compared = |rows: &Tensor| {
            let place = |of: &Tensor| frame.place(&embeddings.index_select(0, &of.index_select(0, rows)));
            let (a, b) = (place(a), place(b));
            Tensor::cat(&[(&a - &b).abs(), a * b], 1)
        };
        let fit = |rows: &Tensor, l2: f64| {
            let truth = same.index_select(0, rows);
            let descent = Descent { outputs: 1, layer: Layer::Biased, lr: LR, l2 };
            descent.fit(&Standardised::new(compared(rows)), |logits| {
                logits.binary_cross_entropy_with_logits::<Tensor>(&truth, None, None, Reduction::Mean)
            })
        };
        let judged = |rows: &Tensor, said: &Tensor| {
            let right = said.gt(0.0).eq_tensor(&same.index_select(0, rows).gt(0.5));
            right.to_kind(Kind::Float).mean(Kind::Float).double_value(&[])
        };
        let chooser = folds[(place + 1) % folds.len()];
        let (fitting, choosing) =
            (inside(&|other| other != fold && other != chooser), inside(&|other| other == chooser));
        let mut best = (f64::NEG_INFINITY, 1e-2);
        // With two folds, the other one is all that there is to fit to.
        if fitting.size()[0] > 0 {
            for l2 in L2 {
                let accuracy = judged(&choosing, &fit(&fitting, l2).apply(&compared(&choosing)));
                if accuracy > best.0 {
                    best = (accuracy, l2);
                }
            }
        }
        let tenth = inside(&|other| other == fold);
        let said = fit(&others, best.1).apply(&compared(&tenth));
        accuracies.push(judged(&tenth, &said));
        for (row, score) in Vec::<i64>::try_from(&tenth)?.into_iter().zip(floats(&said)?) {
            scores[row as usize] = f64::from(score);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Measure::of(pairs, &scores, &accuracies))
}

/// The area under the curve of true over false alarms: the probability that a pair of one person scores above one of two,
/// equals counting half (Mann & Whitney 1947). A half where either kind is missing.
fn auc(pairs: &[VerificationPair], scores: &[f64]) -> f64 {
    let mut scored: Vec<(f64, bool)> =
        scores.iter().copied().zip(pairs.iter().map(|pair| pair.same)).collect();
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let same = scored.iter().filter(|(_, same)| *same).count() as f64;
    let different = scored.len() as f64 - same;
    let (mut below, mut wins) = (0.0, 0.0);
    for equals in scored.chunk_by(|a, b| a.0 == b.0) {
        let ours = equals.iter().filter(|(_, same)| *same).count() as f64;
        let theirs = equals.len() as f64 - ours;
        wins += ours * (below + theirs / 2.0);
        below += theirs;
    }
    if same * different > 0.0 { wins / (same * different) } else { 0.5 }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = match self.pairs {
            "file" => "the store's own pairs".to_owned(),
            _ => format!("pairs drawn from the {} split", self.split),
        };
        write!(f, "verify, {}, n = {} pairs in {} folds: {of}", self.protocol, self.n, self.folds)?;
        if self.missing > 0 {
            write!(f, "; {} name pictures that are not there", self.missing)?;
        }
        writeln!(f, "\naccuracy {:.4} ± {:.4}   AUC {:.4}", self.accuracy, self.accuracy_std, self.auc)?;
        write!(f, "by cosine {:.4} ± {:.4}", self.accuracy_cosine, self.accuracy_cosine_std)?;
        if let (Some(accuracy), Some(std)) = (self.accuracy_linear, self.accuracy_linear_std) {
            write!(f, "   by a linear classifier {accuracy:.4} ± {std:.4}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::prepare::encode_jpeg;
    use crate::store::{Provenance, Sample, StoreWriter};
    use rand::RngExt;

    #[test]
    fn the_threshold_is_the_one_that_an_exhaustive_search_finds() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for count in [1, 2, 7, 40] {
            let scored: Vec<(f64, bool)> =
                (0..count).map(|_| (f64::from(rng.random_range(0..15)), rng.random_bool(0.5))).collect();
            let candidates = (-1..16).map(|i| f64::from(i) + 0.5);
            let most = candidates.map(|t| accuracy_at(&scored, t)).fold(0.0, f64::max);
            assert_eq!(accuracy_at(&scored, best_threshold(scored.clone())), most, "{scored:?}");
        }
        assert_eq!(best_threshold(vec![(0.2, false), (0.6, true)]), 0.4);
    }

    #[test]
    fn a_fold_is_judged_by_the_threshold_of_the_others() {
        // Either fold can be split without a mistake, but not by the other's threshold: 0.3 does for the first, 0.5, midway
        // between 0.1 and 0.9, takes the second's pairs of one person for two.
        let cosines = [(0, true, 0.9), (0, false, 0.1), (1, true, 0.4), (1, false, 0.2f32)];
        let mut values = vec![1.0, 0.0];
        let mut pairs = Vec::new();
        for (place, (fold, same, cosine)) in (1..).zip(cosines) {
            values.extend([cosine, (1.0 - cosine * cosine).sqrt()]);
            pairs.push(VerificationPair { fold, same, a: 0, b: place });
        }
        let embeddings = Tensor::from_slice(&values).view([-1, 2]);
        let (a, b) = (Tensor::from_slice(&[0i64; 4]), Tensor::from_slice(&[1i64, 2, 3, 4]));
        let measure = by_cosine(&pairs, &embeddings, &a, &b).unwrap();
        assert_eq!(measure.accuracy, 0.75);
        assert!((measure.std - 0.125f64.sqrt()).abs() < 1e-12, "of 1 and 0.5");
    }

    #[test]
    fn the_area_is_the_share_of_pairs_in_the_right_order() {
        let pair = |same| VerificationPair { fold: 0, same, a: 0, b: 0 };
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let pairs: Vec<_> = (0..60).map(|i| pair(i % 3 == 0)).collect();
        let scores: Vec<f64> =
            pairs.iter().map(|p| f64::from(rng.random_range(0..9) + i32::from(p.same))).collect();
        let (mut wins, mut all) = (0.0, 0.0);
        for (p, x) in pairs.iter().zip(&scores).filter(|(p, _)| p.same) {
            for (q, y) in pairs.iter().zip(&scores).filter(|(q, _)| q.same != p.same) {
                wins += if x > y {
                    1.0
                } else if x == y {
                    0.5
                } else {
                    0.0
                };
                all += 1.0;
                assert!(!q.same);
            }
        }
        assert!((auc(&pairs, &scores) - wins / all).abs() < 1e-12);
        assert_eq!(auc(&pairs[..1], &scores[..1]), 0.5);
    }

    /// 8 people of one video of 4 frames a second apart, and one person of three videos of a frame each.
    fn store(dir: &std::path::Path) -> Store {
        let mut writer = StoreWriter::create(dir).unwrap();
        let jpeg = encode_jpeg(&[7; 256], 16, 16, 1, 90).unwrap();
        for person in 0..8 {
            writer.begin_video(&format!("p{person}"), "v");
            for t in 0..4 {
                writer.push(&jpeg, &Sample::unlabelled(f64::from(t), Split::Test)).unwrap();
            }
        }
        for video in ["1", "2", "3"] {
            writer.begin_video("q", video);
            writer.push(&jpeg, &Sample::unlabelled(0.0, Split::Test)).unwrap();
        }
        writer.commit(Provenance::default()).unwrap();
        Store::open(dir).unwrap()
    }

    #[test]
    fn drawn_pairs_are_balanced_and_people_are_of_one_fold() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let pairs = draw(&store, Split::Test, 2.0);
        assert_eq!(pairs, draw(&store, Split::Test, 2.0));
        assert_eq!(folds_of(&pairs), [0, 1, 2, 3]);
        let mut folds: BTreeMap<&str, u32> = BTreeMap::new();
        let mut seen = HashSet::new();
        for pair in &pairs {
            let (a, b) = (store.record(pair.a), store.record(pair.b));
            assert_eq!(a.identity() == b.identity(), pair.same);
            for record in [a, b] {
                assert_eq!(*folds.entry(record.identity()).or_insert(pair.fold), pair.fold);
            }
            if pair.same && a.identity() == "q" {
                assert!(a.video_index() != b.video_index());
            } else if pair.same {
                assert!((a.t_secs() - b.t_secs()).abs() >= 2.0);
            }
            assert!(seen.insert((pair.a.min(pair.b), pair.a.max(pair.b))));
        }
        for fold in 0..4 {
            let of = |same| pairs.iter().filter(|p| p.fold == fold && p.same == same).count();
            // Each person has the pairs 0-2, 0-3 and 1-3; the first fold has `q` with three more.
            assert_eq!((of(true), of(false)), if fold == 0 { (9, 9) } else { (6, 6) }, "fold {fold}");
        }
        assert!(draw(&store, Split::Train, 2.0).is_empty());
    }

    /// Embeddings that are `person` on one value and noise on others, large enough to hide it from the cosine.
    fn embeddings(store: &Store) -> Tensor {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let rows: Vec<f32> = (0..store.len())
            .flat_map(|i| {
                let person =
                    f32::from(store.record(i).identity().as_bytes()[1..].first().map_or(9, |b| b - b'0'));
                let noise: [f32; 3] = std::array::from_fn(|_| 10.0 * rng.random_range(-1.0..1.0f32));
                [person, noise[0], noise[1], noise[2]]
            })
            .collect();
        Tensor::from_slice(&rows).view([-1, 4]).to_device(training_device())
    }

    #[test]
    fn the_classifier_finds_the_value_that_tells_people_apart() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let pairs = draw(&store, Split::Test, 1.0);
        let rows = |of: fn(&VerificationPair) -> usize| {
            let rows: Vec<i64> = pairs.iter().map(|pair| of(pair) as i64).collect();
            Tensor::from_slice(&rows).to_device(training_device())
        };
        let (a, b) = (rows(|p| p.a), rows(|p| p.b));
        let linear = by_classifier(&pairs, &embeddings(&store), &a, &b).unwrap();
        let cosine = by_cosine(&pairs, &embeddings(&store), &a, &b).unwrap();
        assert!(linear.accuracy > 0.95 && linear.auc > 0.98, "{} {}", linear.accuracy, linear.auc);
        assert!(cosine.accuracy < 0.75, "{}", cosine.accuracy);
        // A direction a person: then the cosine is enough.
        let own: Vec<f32> = (0..store.len())
            .flat_map(|i| {
                let video = store.record(i).identity().as_bytes();
                let person = usize::from(video.get(1).map_or(8, |b| b - b'0'));
                (0..9).map(move |k| f32::from(u8::from(k == person)))
            })
            .collect();
        let own = Tensor::from_slice(&own).view([-1, 9]).to_device(training_device());
        let cosine = by_cosine(&pairs, &own, &a, &b).unwrap();
        assert_eq!((cosine.accuracy, cosine.std, cosine.auc), (1.0, 0.0, 1.0));
    }
}
