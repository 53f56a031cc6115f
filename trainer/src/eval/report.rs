//! What an evaluation found, for people and as JSON.

use std::collections::HashSet;
use std::fmt;

use semblance_calib::metrics::Confusion;
use semblance_face::labels::Expression;
use serde::{Deserialize, Serialize};

use super::goal::Stores;
use super::labelled;
use crate::store::Split;

/// Scores of one task by one protocol on one split.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The task.
    pub task: &'static str,
    /// The protocol.
    pub protocol: &'static str,
    /// The split that was scored.
    pub split: &'static str,
    /// Pictures scored.
    pub n: u64,
    /// Share of pictures classified right.
    pub accuracy: f64,
    /// Mean over classes of the F1 score.
    pub macro_f1: f64,
    /// Mean over classes of the recall (balanced accuracy).
    pub mean_recall: f64,
    /// Scores a class.
    pub per_class: Vec<ClassReport>,
    /// Rows: the truth; columns: what was predicted; both in the order of `per_class`.
    pub confusion: Vec<Vec<u64>>,
    /// Pictures scored that do not stand, pixel for pixel, in the training split as well; none where that was not asked,
    /// or the training split itself was scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_without_duplicates: Option<u64>,
    /// Share of those that were classified right; none where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_without_duplicates: Option<f64>,
    /// For each picture scored, in order, whether it was classified right.
    #[serde(skip)]
    right: Vec<bool>,
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
        split: &'static str,
        classes: &[Expression],
        labels: &[usize],
        predicted: impl Iterator<Item = usize>,
    ) -> anyhow::Result<Self> {
        let mut confusion = Confusion::new(classes.len());
        let mut right = Vec::with_capacity(labels.len());
        for (truth, predicted) in labels.iter().zip(predicted) {
            confusion.add(*truth, predicted)?;
            right.push(*truth == predicted);
        }
        anyhow::ensure!(confusion.total() > 0, "the {split} split has no labelled picture to score");
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
            mean_recall: confusion.mean_recall(),
            per_class: classes.iter().enumerate().map(class).collect(),
            confusion: confusion.rows().map(<[u64]>::to_vec).collect(),
            n_without_duplicates: None,
            accuracy_without_duplicates: None,
            right,
        })
    }

    /// Scores what is left without the pictures that are in the training split as well: the same JPEG, which is what
    /// `prepare` makes of the same pixels. `split` is the one that was scored.
    pub fn leave_out_known(&mut self, stores: Stores<'_>, split: Split) {
        if stores.scores_training(split) {
            return;
        }
        let classes: Vec<_> = self.per_class.iter().filter_map(|c| Expression::from_name(c.label)).collect();
        let (scored, _) = labelled(stores.scored, split, &classes);
        let train = stores.fitted.split(Split::Train);
        let known: HashSet<&[u8]> = train.into_iter().map(|i| stores.fitted.record(i).jpeg()).collect();
        let fresh = (scored.iter().zip(&self.right))
            .filter(|(i, _)| !known.contains(stores.scored.record(**i).jpeg()));
        let (n, hits) = fresh.fold((0u64, 0u64), |(n, hits), (_, right)| (n + 1, hits + u64::from(*right)));
        self.n_without_duplicates = Some(n);
        self.accuracy_without_duplicates = (n > 0).then(|| hits as f64 / n as f64);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (task, protocol, split) = (self.task, self.protocol, self.split);
        writeln!(f, "{task}, {protocol}, {split} split, n = {}", self.n)?;
        let (accuracy, f1, recall) = (self.accuracy, self.macro_f1, self.mean_recall);
        writeln!(f, "accuracy {accuracy:.4}   macro F1 {f1:.4}   mean recall {recall:.4}")?;
        if let Some(n) = self.n_without_duplicates.filter(|n| *n < self.n) {
            let accuracy =
                self.accuracy_without_duplicates.map_or_else(|| "-".to_owned(), |a| format!("{a:.4}"));
            let known = self.n - n;
            writeln!(f, "accuracy {accuracy}   without {known} pictures that training has as well, n = {n}")?;
        }
        writeln!(f)?;
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

/// Mean and sample standard deviation of a measure over folds or seeds; the deviation needs two.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The deviation.
    pub deviation: Option<f64>,
}

impl Spread {
    /// `None` where there is no value.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Some(Self { mean, deviation: (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::prepare::encode_jpeg;
    use crate::store::{Provenance, Sample, Store, StoreWriter};

    #[test]
    fn a_spread_is_mean_and_sample_deviation() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[2.0]), Some(Spread { mean: 2.0, deviation: None }));
        assert_eq!(Spread::of(&[1.0, 3.0]), Some(Spread { mean: 2.0, deviation: Some(2f64.sqrt()) }));
    }

    #[test]
    fn pictures_that_training_has_as_well_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = StoreWriter::create(dir.path()).unwrap();
        writer.begin_video("all", "v");
        let (happy, sad) = (Some(Expression::Happy), Some(Expression::Sad));
        // Level 3 stands in both, under another label; 7 only in validation as well; 5 in training without a label.
        let pictures = [
            (Split::Train, 1, happy),
            (Split::Train, 3, sad),
            (Split::Train, 5, None),
            (Split::Val, 7, sad),
            (Split::Test, 2, None),
            (Split::Test, 3, happy),
            (Split::Test, 4, sad),
            (Split::Test, 5, sad),
            (Split::Test, 7, happy),
        ];
        for (i, (split, level, expression)) in (0..).zip(pictures) {
            let jpeg = encode_jpeg(&[level * 25; 256], 16, 16, 1, 95).unwrap();
            let sample = Sample { expression, ..Sample::unlabelled(f64::from(i), split) };
            writer.push(&jpeg, &sample).unwrap();
        }
        writer.commit(Provenance::default()).unwrap();
        let store = Store::open(dir.path()).unwrap();
        let classes = [Expression::Happy, Expression::Sad];
        let scored = |split, predicted: &[usize]| {
            let (_, labels) = labelled(&store, split, &classes);
            let predicted = predicted.iter().copied();
            let mut report =
                Report::expression("linear", split.name(), &classes, &labels, predicted).unwrap();
            report.leave_out_known(Stores::one(&store), split);
            report
        };
        // Right, wrong, right, right; the first and the third stand in training.
        let report = scored(Split::Test, &[0, 0, 1, 0]);
        assert_eq!((report.n, report.accuracy), (4, 0.75));
        assert_eq!(report.n_without_duplicates, Some(2));
        assert_eq!(report.accuracy_without_duplicates, Some(0.5));
        assert!(report.to_string().contains("accuracy 0.5000   without 2 pictures"), "{report}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["n_without_duplicates"], 2);
        assert!(json.get("right").is_none());
        let report = scored(Split::Val, &[1]);
        assert_eq!(report.n_without_duplicates, Some(1));
        assert!(!report.to_string().contains("without"), "{report}");
        assert_eq!(scored(Split::Train, &[0, 1]).n_without_duplicates, None);
    }
}
