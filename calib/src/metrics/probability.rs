//! How good predicted probabilities are: Brier score, expected calibration error, F1 of a yes-or-no label.

/// Bins of [`Calibration`], as in Guo et al.
pub const CALIBRATION_BINS: usize = 15;

/// Brier score of one prediction, `sum_k (p_k - t_k)²`, in `[0, 2]` for probabilities (Brier, "Verification of
/// forecasts expressed in terms of probability", Monthly Weather Review 1950: all classes, not the half that binary
/// scores state). Both slices have one value a class.
pub fn brier(probabilities: &[f64], truth: &[f64]) -> f64 {
    probabilities.iter().zip(truth).map(|(p, t)| (p - t) * (p - t)).sum()
}

/// Confidence beside correctness in [`CALIBRATION_BINS`] bins of equal width over `[0, 1]`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Calibration {
    bins: [Bin; CALIBRATION_BINS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bin {
    count: f64,
    confidence: f64,
    right: f64,
}

impl Calibration {
    /// Counts one prediction: its probability in `[0, 1]`, and whether it was right.
    pub fn add(&mut self, confidence: f64, right: bool) {
        let bin = (confidence * CALIBRATION_BINS as f64) as usize;
        let bin = &mut self.bins[bin.min(CALIBRATION_BINS - 1)];
        bin.count += 1.0;
        bin.confidence += confidence;
        bin.right += f64::from(right);
    }

    /// Counts the predictions of another.
    pub fn merge(&mut self, other: &Self) {
        for (bin, other) in self.bins.iter_mut().zip(&other.bins) {
            bin.count += other.count;
            bin.confidence += other.confidence;
            bin.right += other.right;
        }
    }

    /// Expected calibration error, `sum_b (n_b / n) |accuracy_b - confidence_b|`, in `[0, 1]` (Guo et al., "On
    /// Calibration of Modern Neural Networks", ICML 2017, eq. 3); 0 without predictions.
    pub fn ece(&self) -> f64 {
        let count: f64 = self.bins.iter().map(|b| b.count).sum();
        let gaps: f64 = self.bins.iter().map(|b| (b.right - b.confidence).abs()).sum();
        if count > 0.0 { gaps / count } else { 0.0 }
    }
}

/// Hits and misses of a yes-or-no prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BinaryCounts {
    /// Said yes, and it was.
    pub true_positive: u64,
    /// Said yes, and it was not.
    pub false_positive: u64,
    /// Said no, and it was.
    pub false_negative: u64,
    /// Said no, and it was not.
    pub true_negative: u64,
}

impl BinaryCounts {
    /// Counts one prediction.
    pub fn add(&mut self, truth: bool, predicted: bool) {
        *match (truth, predicted) {
            (true, true) => &mut self.true_positive,
            (false, true) => &mut self.false_positive,
            (true, false) => &mut self.false_negative,
            (false, false) => &mut self.true_negative,
        } += 1;
    }

    /// Counts the predictions of another.
    pub fn merge(&mut self, other: &Self) {
        self.true_positive += other.true_positive;
        self.false_positive += other.false_positive;
        self.false_negative += other.false_negative;
        self.true_negative += other.true_negative;
    }

    /// `2 TP / (2 TP + FP + FN)`; 0 where the label neither occurs nor was predicted.
    pub fn f1(&self) -> f64 {
        super::ratio(
            2 * self.true_positive,
            2 * self.true_positive + self.false_positive + self.false_negative,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brier_counts_every_class() {
        assert!((brier(&[0.7, 0.2, 0.1], &[1.0, 0.0, 0.0]) - 0.14).abs() < 1e-12);
        assert_eq!(brier(&[0.0, 1.0], &[1.0, 0.0]), 2.0);
    }

    /// Four predictions: 0.95 and 0.97 (last bin) of which one is right, 0.5 and 0.52 (bin 7) which are both right:
    /// (|1 - 1.92| + |2 - 1.02|) / 4 = 0.475.
    #[test]
    fn calibration_error_matches_the_worked_example() {
        let mut a = Calibration::default();
        a.add(0.95, true);
        a.add(0.97, false);
        let mut b = Calibration::default();
        b.add(0.5, true);
        b.add(0.52, true);
        a.merge(&b);
        assert!((a.ece() - 0.475).abs() < 1e-12, "{}", a.ece());
        assert_eq!(Calibration::default().ece(), 0.0);
        let mut sure = Calibration::default();
        sure.add(1.0, true);
        assert_eq!(sure.ece(), 0.0);
    }

    #[test]
    fn binary_f1_matches_the_worked_example() {
        let mut counts = BinaryCounts::default();
        for (truth, predicted) in [(true, true), (true, true), (true, false), (false, true), (false, false)] {
            counts.add(truth, predicted);
        }
        let mut twice = counts;
        twice.merge(&counts);
        assert!((counts.f1() - 4.0 / 6.0).abs() < 1e-12 && counts.f1() == twice.f1());
        assert_eq!(BinaryCounts::default().f1(), 0.0);
    }
}
