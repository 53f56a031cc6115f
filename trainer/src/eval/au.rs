//! Which action units are present, judged by F1 (CLP, section IV).

use std::collections::BTreeMap;
use std::fmt;

use anyhow::ensure;
use semblance_calib::metrics::BinaryCounts;
use semblance_face::labels::{ACTION_UNITS, action_unit_name};
use serde::Serialize;
use tch::{Kind, Reduction, Tensor};

use super::Protocol;
use super::goal::{Fit, Goal, Side, choose, finite, row_tensor, solver};
use super::labels::Label;
use super::linear::{LR, Layer, Standardised};
use super::subject::Subject;
use crate::checkpoint::floats;
use crate::data::training_device;
use crate::progress;
use crate::store::{Record, Store};

const UNITS: usize = ACTION_UNITS.len();

/// Of the people that a fold is fitted to, every one of this many chooses the regularisation.
const CHOOSERS: usize = 4;

/// A detector of action units: an output each of [`ACTION_UNITS`], above 0 where it is present.
///
/// The linear probe is CLP's: batch normalisation with scale and shift, then weights without a bias, the cross-entropy of
/// each action unit with rare answers weighted up. CLP trains the batch normalisation within its encoder along; here
/// the encoder stays as it is.
#[derive(Debug)]
pub(super) struct ActionUnits {
    /// The intensity in `(0, 1]` from which one is present.
    threshold: f32,
    /// What a picture with and without each counts, `[2, 18]`: in training both sum to the same.
    weights: Tensor,
    /// Those that the mean is over; empty for all.
    wanted: Vec<u8>,
    /// Those of them that training tells something of.
    known: [bool; UNITS],
}

/// How well action units are found.
#[derive(Clone, Debug, Serialize)]
pub struct AuReport {
    /// `au`.
    pub task: &'static str,
    /// The protocol.
    pub protocol: &'static str,
    /// The split that was scored; `all` by cross-validation.
    pub split: &'static str,
    /// The folds of cross-validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folds: Option<u32>,
    /// The intensity from which an action unit is present.
    pub threshold: f32,
    /// Pictures scored.
    pub n: u64,
    /// Mean F1 over the action units that occur and that training has.
    pub f1_mean: f64,
    /// Mean share of right answers over the same.
    pub accuracy: f64,
    /// Each of them.
    pub per_au: Vec<AuScore>,
}

/// How well one action unit is found: means over the folds in which it occurs.
#[derive(Clone, Debug, Serialize)]
pub struct AuScore {
    /// Its name: `AU01`.
    pub au: String,
    /// F1 of its presence.
    pub f1: f64,
    /// Share of right answers.
    pub accuracy: f64,
    /// Pictures that show it.
    pub support: u64,
    /// Pictures of which it is known.
    pub n: u64,
}

type Counts = [BinaryCounts; UNITS];

impl ActionUnits {
    /// Present from this intensity; the mean is over the units of these numbers, all where there is none.
    pub(super) fn new(threshold: f32, wanted: &[u8]) -> Self {
        let weights = Tensor::ones([2, UNITS as i64], (Kind::Float, training_device()));
        Self { threshold, weights, wanted: wanted.to_owned(), known: [false; UNITS] }
    }

    /// Answers beside the truth, for each action unit that training has.
    fn count(&self, outputs: &Tensor, targets: &Tensor) -> anyhow::Result<Counts> {
        let (outputs, targets) = (floats(outputs)?, floats(targets)?);
        let mut counts = Counts::default();
        for (said, truth) in outputs.chunks_exact(UNITS).zip(targets.chunks_exact(UNITS)) {
            for unit in (0..UNITS).filter(|&unit| self.known[unit] && !truth[unit].is_nan()) {
                counts[unit].add(truth[unit] > 0.5, said[unit] > 0.0);
            }
        }
        Ok(counts)
    }

    /// A report of counts, one a fold.
    fn sum_up(
        &self,
        protocol: Protocol,
        side: &Side<'_>,
        folds: Option<u32>,
        counts: &[Counts],
    ) -> anyhow::Result<AuReport> {
        let mut per_au = Vec::new();
        for (unit, number) in ACTION_UNITS.into_iter().enumerate() {
            let support = |c: &BinaryCounts| c.true_positive + c.false_negative;
            let total = |c: &BinaryCounts| support(c) + c.false_positive + c.true_negative;
            let occurs: Vec<BinaryCounts> =
                counts.iter().map(|fold| fold[unit]).filter(|c| support(c) > 0).collect();
            let mean = |of: &dyn Fn(&BinaryCounts) -> f64| mean(occurs.iter().map(of));
            if !occurs.is_empty() {
                per_au.push(AuScore {
                    au: action_unit_name(number),
                    f1: mean(&BinaryCounts::f1),
                    accuracy: mean(&|c| (c.true_positive + c.true_negative) as f64 / total(c) as f64),
                    support: occurs.iter().map(support).sum(),
                    n: counts.iter().map(|fold| total(&fold[unit])).sum(),
                });
            }
        }
        ensure!(
            !per_au.is_empty(),
            "{}: no action unit that training has is present in what is scored (intensity {} or more); lower \
             --au-threshold",
            side.store.dir().display(),
            self.threshold
        );
        Ok(AuReport {
            task: "au",
            protocol: protocol.name(),
            split: side.split,
            folds,
            threshold: self.threshold,
            n: side.frames.len() as u64,
            f1_mean: mean(per_au.iter().map(|au| au.f1)),
            accuracy: mean(per_au.iter().map(|au| au.accuracy)),
            per_au,
        })
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

impl Goal for ActionUnits {
    type Report = AuReport;
    const LABEL: Label = Label::ActionUnits;

    fn measure(&self) -> &'static str {
        "f1_mean"
    }

    fn outputs(&self) -> i64 {
        UNITS as i64
    }

    fn has(&self, record: &Record<'_>) -> bool {
        Self::LABEL.is_on(record)
    }

    /// 1 for present, 0 for absent, NaN for not known.
    fn targets(&self, store: &Store, frames: &[usize]) -> Tensor {
        let present = |v: f32| if v.is_nan() { v } else { f32::from(v >= self.threshold) };
        let units = frames.iter().filter_map(|&i| store.record(i).action_units());
        row_tensor(&units.map(|units| units.map(present)).collect::<Vec<_>>())
    }

    fn weigh(&mut self, train: &Tensor) {
        let sum = |of: Tensor| of.to_kind(Kind::Float).sum_dim_intlist([0].as_slice(), false, None);
        let with = sum(train.gt(0.5));
        let without = sum(train.le(0.5));
        let judged = &with + &without;
        // Where one answer is all that there is, it counts 1.
        let both = with.gt(0.0).logical_and(&without.gt(0.0));
        let even =
            |count: &Tensor| (&judged / (count.clamp_min(1.0) * 2.0)).where_self(&both, &judged.ones_like());
        self.weights = Tensor::stack(&[even(&with), even(&without)], 0).to_device(training_device());
        for (unit, known) in self.known.iter_mut().enumerate() {
            let wanted = self.wanted.is_empty() || self.wanted.contains(&ACTION_UNITS[unit]);
            *known = wanted && judged.double_value(&[unit as i64]) > 0.0;
        }
    }

    fn known(&self) -> Vec<bool> {
        self.known.into()
    }

    fn loss(&self, outputs: &Tensor, targets: &Tensor) -> Tensor {
        let judged = targets.isnan().logical_not();
        let truth = targets.nan_to_num(0.0, None, None);
        let weights = truth.gt(0.5).to_kind(Kind::Int64);
        let weights = self.weights.get(0).where_self(&weights.gt(0), &self.weights.get(1));
        let weights = weights * judged.to_kind(Kind::Float);
        let sum =
            outputs.binary_cross_entropy_with_logits::<Tensor>(&truth, Some(weights), None, Reduction::Sum);
        sum / judged.sum(Kind::Float).clamp_min(1.0)
    }

    fn report(&self, protocol: Protocol, side: &Side<'_>, outputs: &Tensor) -> anyhow::Result<AuReport> {
        self.sum_up(protocol, side, None, &[self.count(outputs, &side.targets)?])
    }

    fn score(&self, report: &AuReport) -> f64 {
        report.f1_mean
    }

    fn rows(&self) -> Vec<String> {
        ACTION_UNITS.map(action_unit_name).into()
    }

    fn fit(&self) -> Fit {
        Fit::Descent(Layer::Normalised, LR)
    }

    /// For and against; who is not known to show it or not does not vote.
    fn ballots(&self, targets: &Tensor) -> anyhow::Result<Tensor> {
        Ok((targets.to_kind(Kind::Float) * 2.0 - 1.0).nan_to_num(0.0, None, None))
    }
}

/// The linear probe by cross-validation over all frames with action units: people, sorted by name, are dealt in turn to
/// `folds`; each fold is scored by a probe of the others, and F1 is the mean over folds (CLP, section IV.A; PCL, section
/// 4.1). The regularisation of a fold is the one that is best on every fourth person of the others, fitted to the rest;
/// then it is fitted to all of them.
///
/// # Errors
/// Where there are fewer people than folds, or nothing to learn.
pub(super) fn cross_validate(
    mut goal: ActionUnits,
    store: &Store,
    folds: u32,
    subject: &Subject,
) -> anyhow::Result<AuReport> {
    let frames: Vec<usize> = (0..store.len()).filter(|&i| goal.has(&store.record(i))).collect();
    let people = people_of(store, &frames);
    let (dir, count) = (store.dir().display(), people.values().max().map_or(0, |last| last + 1));
    ensure!(
        count >= folds as usize && count - count.div_ceil(folds as usize) >= 2,
        "{dir}: {count} people with action units cannot be dealt to {folds} folds: --folds needs as many people, and two outside \
         of each fold, one to fit to and one to choose on"
    );
    let ranks: Vec<usize> = frames.iter().map(|&frame| people[store.record(frame).identity()]).collect();
    let targets = goal.targets(store, &frames);
    let embeddings = subject.embed(store, &frames)?.into_tensor();
    let part = |places: &[usize]| {
        let rows = Tensor::from_slice(&places.iter().map(|&place| place as i64).collect::<Vec<_>>());
        let side = Side {
            store,
            split: "all",
            frames: places.iter().map(|&place| frames[place]).collect(),
            targets: targets.index_select(0, &rows),
        };
        (side, embeddings.index_select(0, &rows.to_device(embeddings.device())))
    };
    let bar = progress::bar(u64::from(folds), "folds");
    let mut counts = Vec::new();
    for fold in 0..folds as usize {
        let Dealt { scored, others, fitting, choosing } = Dealt::new(&ranks, folds as usize, fold);
        let (side, rows) = part(&fitting);
        let (val, val_rows) = part(&choosing);
        goal.weigh(&side.targets);
        let (_, l2) = choose(&goal, &Standardised::new(rows), &side.targets, &val, &val_rows)?;
        drop(val_rows);
        let (side, rows) = part(&others);
        goal.weigh(&side.targets);
        let (x, targets) = (Standardised::new(rows), side.targets.to_device(embeddings.device()));
        let head = solver(&goal, &x, &targets)(l2)?;
        let (side, rows) = part(&scored);
        counts.push(goal.count(&finite(head.apply(&rows))?, &side.targets)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let all = Side { store, split: "all", frames, targets };
    goal.sum_up(Protocol::Linear, &all, Some(folds), &counts)
}

/// Places of frames in a round of cross-validation.
struct Dealt {
    /// Those of the fold.
    scored: Vec<usize>,
    /// All others, which the head is fitted to at last.
    others: Vec<usize>,
    /// Of the others, what the regularisation is tried on, and what it is chosen by.
    fitting: Vec<usize>,
    choosing: Vec<usize>,
}

impl Dealt {
    /// Of frames whose people have these places in the order of names.
    fn new(ranks: &[usize], folds: usize, fold: usize) -> Self {
        let (scored, others): (Vec<_>, Vec<_>) =
            (0..ranks.len()).partition(|&place| ranks[place] % folds == fold);
        // People's places among those of the other folds.
        let mut people: Vec<usize> = others.iter().map(|&place| ranks[place]).collect();
        people.sort_unstable();
        people.dedup();
        let chooses =
            |place: &usize| people.binary_search(&ranks[*place]).is_ok_and(|place| place % CHOOSERS == 0);
        let (choosing, fitting) = others.iter().partition(|place| chooses(place));
        Self { scored, others, fitting, choosing }
    }
}

/// The place of each person of these frames in the order of names.
fn people_of<'a>(store: &'a Store, frames: &[usize]) -> BTreeMap<&'a str, usize> {
    let mut people: BTreeMap<&str, usize> = frames.iter().map(|&i| (store.record(i).identity(), 0)).collect();
    people.values_mut().enumerate().for_each(|(place, rank)| *rank = place);
    people
}

impl fmt::Display for AuReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "au, {}, ", self.protocol)?;
        match self.folds {
            Some(folds) => write!(f, "{folds} folds of people")?,
            None => write!(f, "{} split", self.split)?,
        }
        writeln!(f, ", n = {}, present from {} on", self.n, self.threshold)?;
        writeln!(f, "mean F1 {:.4}   accuracy {:.4}", self.f1_mean, self.accuracy)?;
        write!(f, "\n{:>6} {:>7} {:>9} {:>8} {:>8}", "", "F1", "accuracy", "present", "n")?;
        for AuScore { au, f1, accuracy, support, n } in &self.per_au {
            write!(f, "\n{au:>6} {f1:>7.3} {accuracy:>9.3} {support:>8} {n:>8}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use super::*;
    use crate::prepare::encode_jpeg;
    use crate::store::{Provenance, Sample, Split, StoreWriter};

    /// Frames of these people with these intensities of AU1 and AU2; nothing is known of the others.
    fn store(dir: &std::path::Path, frames: &[(&str, f32, f32)]) -> Store {
        let mut writer = StoreWriter::create(dir).unwrap();
        let jpeg = encode_jpeg(&[7; 256], 16, 16, 1, 90).unwrap();
        for (i, (person, first, second)) in (0..).zip(frames) {
            writer.begin_video(person, &format!("{i}"));
            let mut units = [f32::NAN; UNITS];
            (units[0], units[1]) = (*first, *second);
            let sample = Sample { action_units: Some(units), ..Sample::unlabelled(0.0, Split::Train) };
            writer.push(&jpeg, &sample).unwrap();
        }
        writer.commit(Provenance::default()).unwrap();
        Store::open(dir).unwrap()
    }

    fn outputs(first_two: &[[f32; 2]]) -> Tensor {
        let rows: Vec<[f32; UNITS]> =
            first_two.iter().map(|two| std::array::from_fn(|i| *two.get(i).unwrap_or(&9.0))).collect();
        row_tensor(&rows).to_device(training_device())
    }

    #[test]
    fn intensities_become_presence_and_what_is_not_known_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        // DISFA's level 2 of 5 is present, level 1 is not.
        let frames = [("a", 0.4, 0.0), ("a", 0.2, f32::NAN), ("b", 1.0, 0.0), ("b", 0.0, 0.0)];
        let store = store(dir.path(), &frames);
        let mut goal = ActionUnits::new(0.4, &[]);
        let side = Side::of(&goal, &store, Split::Train, "").unwrap();
        goal.weigh(&side.targets);
        // AU1: one hit, one miss, one false alarm, one right no: F1 = 1/2. AU2 never occurs.
        let report = goal.report(
            Protocol::Linear,
            &side,
            &outputs(&[[1.0, 1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]]),
        );
        let report = report.unwrap();
        assert_eq!((report.per_au.len(), report.per_au[0].au.as_str()), (1, "AU01"));
        assert_eq!((report.f1_mean, report.accuracy, report.n), (0.5, 0.5, 4));
        assert_eq!((report.per_au[0].support, report.per_au[0].n), (2, 4));
        let mut high = ActionUnits::new(1.0, &[]);
        let side = Side::of(&high, &store, Split::Train, "").unwrap();
        high.weigh(&side.targets);
        let report = high.report(Protocol::Linear, &side, &outputs(&[[1.0, 0.0]; 4])).unwrap();
        assert_eq!(report.per_au[0].support, 1);
    }

    #[test]
    fn the_loss_weighs_rare_answers_up_and_skips_what_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let frames = [("a", 1.0, 1.0), ("a", 0.0, f32::NAN), ("b", 0.0, 0.0), ("b", 0.0, f32::NAN)];
        let store = store(dir.path(), &frames);
        let mut goal = ActionUnits::new(0.4, &[]);
        let side = Side::of(&goal, &store, Split::Train, "").unwrap();
        goal.weigh(&side.targets);
        let said = [[0.5f32, -1.0], [2.0, 3.0], [-1.0, 0.25], [0.0, 4.0]];
        let targets = side.targets.to_device(training_device());
        let loss = goal.loss(&outputs(&said), &targets).double_value(&[]);
        let yes = |x: f32| (1.0 + (-f64::from(x)).exp()).ln();
        let no = |x: f32| (1.0 + f64::from(x).exp()).ln();
        // AU1: one of four, so that it weighs 4/2 and the others 4/6; AU2: one of two.
        let first = 2.0 * yes(0.5) + 4.0 / 6.0 * (no(2.0) + no(-1.0) + no(0.0));
        let second = yes(-1.0) + no(0.25);
        assert!((loss - (first + second) / 6.0).abs() < 1e-5, "{loss}");
    }

    #[test]
    fn nobody_is_on_two_sides_of_a_fold() {
        // Seven people of three to nine frames each, not in the order of names.
        let ranks: Vec<usize> = (0..7).rev().flat_map(|rank| std::iter::repeat_n(rank, 3 + rank)).collect();
        let mut scored = Vec::new();
        for fold in 0..3 {
            let dealt = Dealt::new(&ranks, 3, fold);
            let people = |places: &[usize]| places.iter().map(|&place| ranks[place]).collect::<HashSet<_>>();
            let [own, others, fitting, choosing] =
                [&dealt.scored, &dealt.others, &dealt.fitting, &dealt.choosing].map(|places| people(places));
            assert!(own.is_disjoint(&others) && fitting.is_disjoint(&choosing));
            assert!(!own.is_empty() && !fitting.is_empty() && !choosing.is_empty());
            assert_eq!(&fitting | &choosing, others);
            assert_eq!(dealt.fitting.len() + dealt.choosing.len(), dealt.others.len());
            scored.extend(dealt.scored);
        }
        scored.sort_unstable();
        assert_eq!(scored, (0..ranks.len()).collect::<Vec<_>>(), "every frame is scored once");
    }

    #[test]
    fn folds_average_those_in_which_an_action_unit_occurs() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), &[("b", 1.0, 0.0), ("a", 0.0, 1.0), ("c", 0.0, 0.0)]);
        let ranks = people_of(&store, &[0, 1, 2]);
        assert_eq!(ranks, BTreeMap::from([("a", 0), ("b", 1), ("c", 2)]));
        let goal = ActionUnits::new(0.4, &[]);
        let side = Side::of(&goal, &store, Split::Train, "").unwrap();
        let counts = |true_positive, false_positive, false_negative, true_negative| BinaryCounts {
            true_positive,
            false_positive,
            false_negative,
            true_negative,
        };
        let mut folds = [Counts::default(); 3];
        // F1 of 1 and 1/2, and a fold without it, whose false alarms are not counted.
        (folds[0][0], folds[1][0], folds[2][0]) =
            (counts(2, 0, 0, 2), counts(1, 1, 1, 1), counts(0, 3, 0, 1));
        folds[0][1] = counts(0, 0, 1, 3);
        let report = goal.sum_up(Protocol::Linear, &side, Some(3), &folds).unwrap();
        assert_eq!(report.per_au.iter().map(|au| au.f1).collect::<Vec<_>>(), [0.75, 0.0]);
        assert_eq!((report.f1_mean, report.per_au[0].n), (0.375, 12));
        assert!(goal.sum_up(Protocol::Linear, &side, None, &[Counts::default()]).is_err());
    }
}
