//! The metrics by which heads are judged.

mod agreement;
mod bootstrap;
mod probability;

use thiserror::Error;

pub use agreement::Agreement;
pub use bootstrap::{Bootstrap, Interval};
pub use probability::{BinaryCounts, CALIBRATION_BINS, Calibration, brier};

/// Why a metric has no value.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MetricError {
    /// A class index is beyond the number of classes.
    #[error("class {class} is beyond the {classes} classes")]
    Class {
        /// The index.
        class: usize,
        /// The number of classes.
        classes: usize,
    },
}

/// Counts of every true class (row) taken for every predicted class (column).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

/// Precision, recall and F1 of one class, each in `[0, 1]` and 0 where its denominator is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassScore {
    /// Share of the predictions of this class that are right.
    pub precision: f64,
    /// Share of the members of this class that are found.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
    /// Members of this class.
    pub support: u64,
}

impl Confusion {
    /// No counts yet, over `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Counts one sample.
    ///
    /// # Errors
    /// [`MetricError::Class`] where an index is out of range.
    pub fn add(&mut self, truth: usize, predicted: usize) -> Result<(), MetricError> {
        let class = truth.max(predicted);
        if class >= self.classes {
            return Err(MetricError::Class { class, classes: self.classes });
        }
        self.counts[truth * self.classes + predicted] += 1;
        Ok(())
    }

    /// Counts the samples of another.
    ///
    /// # Panics
    /// Where it has another number of classes: that is the caller's error, not the data's.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.classes, other.classes, "number of classes");
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count += other;
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Row-major counts: the rows are the truth.
    pub fn rows(&self) -> impl Iterator<Item = &[u64]> {
        self.counts.chunks_exact(self.classes.max(1))
    }

    /// Samples counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Share of samples on the diagonal; 0 without samples.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = (0..self.classes).map(|c| self.counts[c * self.classes + c]).sum();
        ratio(right, self.total())
    }

    /// Scores of one class. `class` is below [`Confusion::classes`].
    pub fn class(&self, class: usize) -> ClassScore {
        let hit = self.counts[class * self.classes + class];
        let support: u64 = self.counts[class * self.classes..(class + 1) * self.classes].iter().sum();
        let predicted: u64 = (0..self.classes).map(|truth| self.counts[truth * self.classes + class]).sum();
        ClassScore {
            precision: ratio(hit, predicted),
            recall: ratio(hit, support),
            f1: ratio(2 * hit, support + predicted),
            support,
        }
    }

    /// Mean F1 over the classes that occur in the truth or in the predictions; 0 without samples.
    pub fn macro_f1(&self) -> f64 {
        let occurring: Vec<f64> = (0..self.classes)
            .filter(|&c| {
                (0..self.classes)
                    .any(|o| self.counts[c * self.classes + o] + self.counts[o * self.classes + c] > 0)
            })
            .map(|c| self.class(c).f1)
            .collect();
        mean(&occurring)
    }

    /// Mean recall over the classes that occur in the truth, also called balanced accuracy or UAR; 0 without samples.
    /// Who always says the same class gets one over the number of classes, however common that class is.
    pub fn mean_recall(&self) -> f64 {
        let scores = (0..self.classes).map(|c| self.class(c)).filter(|s| s.support > 0);
        mean(&scores.map(|s| s.recall).collect::<Vec<_>>())
    }
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Truth a a a b b c, predicted a a b b c c: worked by hand.
    fn worked() -> Confusion {
        let mut confusion = Confusion::new(3);
        for (truth, predicted) in [(0, 0), (0, 0), (0, 1), (1, 1), (1, 2), (2, 2)] {
            confusion.add(truth, predicted).unwrap();
        }
        confusion
    }

    #[test]
    fn scores_match_the_worked_example() {
        let confusion = worked();
        assert_eq!(confusion.accuracy(), 4.0 / 6.0);
        let a = confusion.class(0);
        assert_eq!((a.precision, a.recall, a.support), (1.0, 2.0 / 3.0, 3));
        assert!((a.f1 - 0.8).abs() < 1e-12);
        assert!((confusion.class(1).f1 - 0.5).abs() < 1e-12);
        assert!((confusion.class(2).f1 - 2.0 / 3.0).abs() < 1e-12);
        assert!((confusion.macro_f1() - (0.8 + 0.5 + 2.0 / 3.0) / 3.0).abs() < 1e-12);
        assert!((confusion.mean_recall() - (2.0 / 3.0 + 0.5 + 1.0) / 3.0).abs() < 1e-12);
    }

    #[test]
    fn classes_that_never_occur_do_not_lower_the_means() {
        let mut confusion = Confusion::new(8);
        confusion.add(0, 0).unwrap();
        assert_eq!(confusion.macro_f1(), 1.0);
        assert_eq!(confusion.mean_recall(), 1.0);
        assert_eq!((Confusion::new(8).macro_f1(), Confusion::new(8).mean_recall()), (0.0, 0.0));
        assert_eq!(confusion.add(8, 0), Err(MetricError::Class { class: 8, classes: 8 }));
    }
}
