//! What an evaluation found, for people and as JSON.

use std::fmt;

use semblance_calib::metrics::Confusion;
use semblance_face::labels::Expression;
use serde::Serialize;

use crate::store::Split;

/// Scores of one task by one protocol on one split.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The task.
    pub task: &'static str,
    /// The protocol.
    pub protocol: &'static str,
    /// The split that was scored.
    pub split: Split,
    /// Pictures scored.
    pub n: u64,
    /// Share of pictures classified right.
    pub accuracy: f64,
    /// Mean over classes of the F1 score.
    pub macro_f1: f64,
    /// Scores a class.
    pub per_class: Vec<ClassReport>,
    /// Rows: the truth; columns: what was predicted; both in the order of `per_class`.
    pub confusion: Vec<Vec<u64>>,
}

/// Scores of one class.
#[derive(Clone, Debug, Serialize)]
pub struct ClassReport {
    /// The class.
    pub label: &'static str,
    /// Share of its predictions that are right.
    pub precision: f64,
    /// Share of its members that were found.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
    /// Its members.
    pub support: u64,
}

impl Report {
    /// Counts predictions against labels, both places among `classes`.
    ///
    /// # Errors
    /// Where there are none, or one is out of range.
    pub fn expression(
        protocol: &'static str,
        split: Split,
        classes: &[Expression],
        labels: &[usize],
        predicted: impl Iterator<Item = usize>,
    ) -> anyhow::Result<Self> {
        let mut confusion = Confusion::new(classes.len());
        for (truth, predicted) in labels.iter().zip(predicted) {
            confusion.add(*truth, predicted)?;
        }
        anyhow::ensure!(confusion.total() > 0, "the {} split has no labelled picture to score", split.name());
        let class = |(i, e): (usize, &Expression)| {
            let s = confusion.class(i);
            ClassReport {
                label: e.name(),
                precision: s.precision,
                recall: s.recall,
                f1: s.f1,
                support: s.support,
            }
        };
        Ok(Self {
            task: "expression",
            protocol,
            split,
            n: confusion.total(),
            accuracy: confusion.accuracy(),
            macro_f1: confusion.macro_f1(),
            per_class: classes.iter().enumerate().map(class).collect(),
            confusion: confusion.rows().map(<[u64]>::to_vec).collect(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (task, protocol, split) = (self.task, self.protocol, self.split.name());
        writeln!(f, "{task}, {protocol}, {split} split, n = {}", self.n)?;
        writeln!(f, "accuracy {:.4}   macro F1 {:.4}\n", self.accuracy, self.macro_f1)?;
        write!(f, "{:>9} {:>9} {:>7} {:>7} {:>7}  |", "", "precision", "recall", "F1", "n")?;
        for class in &self.per_class {
            write!(f, "{:>9}", class.label)?;
        }
        for (class, row) in self.per_class.iter().zip(&self.confusion) {
            let (p, r, f1) = (class.precision, class.recall, class.f1);
            write!(f, "\n{:>9} {p:>9.3} {r:>7.3} {f1:>7.3} {:>7}  |", class.label, class.support)?;
            for count in row {
                write!(f, "{count:>9}")?;
            }
        }
        Ok(())
    }
}
