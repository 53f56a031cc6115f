//! What is counted of a head's predictions, block by block.

use super::task::Task;
use crate::heads::{HeadKind, argmax};
use crate::metrics::{Agreement, BinaryCounts, Calibration, Confusion, brier};

/// An intensity from here on counts as an action unit that is there.
const PRESENT: f64 = 0.5;

/// Counts of some moments. Tallies add up, so that any set of blocks has its metrics.
#[derive(Clone, Debug)]
pub(crate) enum Tally {
    Expression { confusion: Confusion, calibration: Box<Calibration>, brier: f64 },
    ValenceArousal([Agreement; 2]),
    ActionUnits(Vec<UnitTally>),
}

/// Counts of one action unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnitTally {
    counts: BinaryCounts,
    squared: f64,
    said: f64,
}

impl Tally {
    pub(crate) fn new(task: &Task) -> Self {
        match task.kind {
            HeadKind::Expression => Self::Expression {
                confusion: Confusion::new(task.outputs()),
                calibration: Box::default(),
                brier: 0.0,
            },
            HeadKind::ValenceArousal => Self::ValenceArousal(Default::default()),
            HeadKind::ActionUnits => Self::ActionUnits(vec![UnitTally::default(); task.outputs()]),
        }
    }

    /// Counts one moment: what was said of it, and what the head told.
    pub(crate) fn add(&mut self, target: &[f32], told: &[f64]) {
        match self {
            Self::Expression { confusion, calibration, brier: sum } => {
                let truth: Vec<f64> = target.iter().map(|t| f64::from(*t)).collect();
                let (class, predicted) = (argmax(target), argmax(told));
                // Both are below the number of outputs.
                let _ = confusion.add(class, predicted);
                calibration.add(told[predicted], class == predicted);
                *sum += brier(told, &truth);
            }
            Self::ValenceArousal(both) => {
                for ((agreement, t), told) in both.iter_mut().zip(target).zip(told) {
                    agreement.add(f64::from(*t), *told);
                }
            }
            Self::ActionUnits(units) => {
                for ((unit, t), told) in units.iter_mut().zip(target).zip(told) {
                    if !t.is_nan() {
                        let t = f64::from(*t);
                        unit.counts.add(t >= PRESENT, *told >= PRESENT);
                        unit.squared += (t - told) * (t - told);
                        unit.said += 1.0;
                    }
                }
            }
        }
    }

    /// Counts the moments of another tally of the same task.
    pub(crate) fn merge(&mut self, other: &Self) {
        match (self, other) {
            (
                Self::Expression { confusion, calibration, brier },
                Self::Expression { confusion: c, calibration: k, brier: b },
            ) => {
                confusion.merge(c);
                calibration.merge(k);
                *brier += b;
            }
            (Self::ValenceArousal(both), Self::ValenceArousal(others)) => {
                both.iter_mut().zip(others).for_each(|(a, b)| a.merge(b));
            }
            (Self::ActionUnits(units), Self::ActionUnits(others)) => {
                for (unit, other) in units.iter_mut().zip(others) {
                    unit.counts.merge(&other.counts);
                    unit.squared += other.squared;
                    unit.said += other.said;
                }
            }
            _ => debug_assert!(false, "tallies of two kinds"),
        }
    }

    /// Names of [`Tally::values`] and whether lower is better. The first one decides whether a head is taken:
    /// recall that weighs every expression the same; concordance; and for action units, which are mostly absent so
    /// that F1 rewards guessing, the mean squared error of their probability, which guessing cannot improve.
    pub(crate) fn metrics(task: &Task) -> Vec<(String, bool)> {
        let of_each = |what: &'static str| task.labels.iter().map(move |l| (format!("{what}_{l}"), false));
        let named =
            |names: &[(&str, bool)]| names.iter().map(|(n, lower)| ((*n).to_owned(), *lower)).collect();
        let mut all: Vec<(String, bool)> = match task.kind {
            HeadKind::Expression => named(&[
                ("mean_recall", false),
                ("accuracy", false),
                ("macro_f1", false),
                ("brier", true),
                ("ece", true),
            ]),
            HeadKind::ValenceArousal => named(&[
                ("ccc_mean", false),
                ("ccc_valence", false),
                ("ccc_arousal", false),
                ("rmse_valence", true),
                ("rmse_arousal", true),
            ]),
            HeadKind::ActionUnits => named(&[("brier", true), ("f1_mean", false)]),
        };
        match task.kind {
            HeadKind::Expression => all.extend(of_each("recall")),
            HeadKind::ActionUnits => all.extend(of_each("f1")),
            HeadKind::ValenceArousal => {}
        }
        all
    }

    /// In the order of [`Tally::metrics`]; NaN for a class or action unit of which nothing was said.
    pub(crate) fn values(&self) -> Vec<f64> {
        match self {
            Self::Expression { confusion, calibration, brier } => {
                let brier = brier / confusion.total() as f64;
                let (recall, ece) = (confusion.mean_recall(), calibration.ece());
                let mut all = vec![recall, confusion.accuracy(), confusion.macro_f1(), brier, ece];
                let scores = (0..confusion.classes()).map(|c| confusion.class(c));
                all.extend(scores.map(|s| if s.support > 0 { s.recall } else { f64::NAN }));
                all
            }
            Self::ValenceArousal([valence, arousal]) => {
                let (v, a) = (valence.ccc(), arousal.ccc());
                vec![0.5 * (v + a), v, a, valence.rmse(), arousal.rmse()]
            }
            Self::ActionUnits(units) => {
                let said = units.iter().filter(|u| u.said > 0.0);
                let brier: Vec<f64> = said.clone().map(|u| u.squared / u.said).collect();
                let f1: Vec<f64> = said.map(|u| u.counts.f1()).collect();
                let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
                let each = units.iter().map(|u| if u.said > 0.0 { u.counts.f1() } else { f64::NAN });
                [mean(&brier), mean(&f1)].into_iter().chain(each).collect()
            }
        }
    }
}
