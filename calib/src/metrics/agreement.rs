//! Agreement of two series of numbers: CCC, Pearson's correlation, RMSE.

/// Running sums over pairs of truth and prediction. Two of them add up, so that any set of blocks can be judged.
///
/// The values should be of the order of one (valence and arousal are): sums of squares of numbers with a large common
/// offset lose their digits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Agreement {
    count: f64,
    truth: f64,
    predicted: f64,
    truth_squared: f64,
    predicted_squared: f64,
    product: f64,
}

impl Agreement {
    /// Counts one pair.
    pub fn add(&mut self, truth: f64, predicted: f64) {
        self.merge(&Self {
            count: 1.0,
            truth,
            predicted,
            truth_squared: truth * truth,
            predicted_squared: predicted * predicted,
            product: truth * predicted,
        });
    }

    /// Counts the pairs of another.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.truth += other.truth;
        self.predicted += other.predicted;
        self.truth_squared += other.truth_squared;
        self.predicted_squared += other.predicted_squared;
        self.product += other.product;
    }

    /// Concordance correlation coefficient, `2 s_xy / (s_x² + s_y² + (m_x - m_y)²)` with moments over `n` (Lin, "A
    /// concordance correlation coefficient to evaluate reproducibility", Biometrics 1989), in `[-1, 1]`. It is 1 only
    /// where the pairs are equal; where neither series varies, it is 1 if they are equal and 0 if not. 0 without pairs, NaN
    /// with a pair that is not finite.
    pub fn ccc(&self) -> f64 {
        if !self.is_finite() {
            return f64::NAN;
        }
        let (x, y, cov) = self.spread();
        let apart = (self.truth - self.predicted) / self.count.max(1.0);
        let below = x + y + apart * apart;
        if below > f64::EPSILON { (2.0 * cov / below).clamp(-1.0, 1.0) } else { f64::from(self.count > 0.0) }
    }

    /// Pearson's correlation, in `[-1, 1]`; 0 where a series does not vary.
    pub fn pearson(&self) -> f64 {
        let (x, y, cov) = self.spread();
        let below = (x * y).sqrt();
        if below > f64::EPSILON { (cov / below).clamp(-1.0, 1.0) } else { 0.0 }
    }

    /// Root of the mean squared difference; 0 without pairs, NaN with a pair that is not finite.
    pub fn rmse(&self) -> f64 {
        if !self.is_finite() {
            return f64::NAN;
        }
        let sum = self.truth_squared - 2.0 * self.product + self.predicted_squared;
        (sum / self.count.max(1.0)).max(0.0).sqrt()
    }

    fn is_finite(&self) -> bool {
        [self.truth_squared, self.predicted_squared, self.product].iter().all(|sum| sum.is_finite())
    }

    /// Variance of the truth, variance of the prediction, covariance; all over `n`.
    fn spread(&self) -> (f64, f64, f64) {
        let n = self.count.max(1.0);
        let (mx, my) = (self.truth / n, self.predicted / n);
        let variance = |squared: f64, mean: f64| (squared / n - mean * mean).max(0.0);
        (variance(self.truth_squared, mx), variance(self.predicted_squared, my), self.product / n - mx * my)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prediction_that_is_not_finite_is_not_perfect() {
        let mut agreement = Agreement::default();
        agreement.add(0.5, 0.5);
        agreement.add(0.1, f64::NAN);
        assert!(agreement.ccc().is_nan() && agreement.rmse().is_nan());
    }

    fn of(pairs: &[(f64, f64)]) -> Agreement {
        let mut all = Agreement::default();
        for &(truth, predicted) in pairs {
            all.add(truth, predicted);
        }
        all
    }

    /// Truth 0 0.5 1, predicted 0.25 0.5 0.75: variances 1/6 and 1/24, covariance 1/12, equal means, so that
    /// CCC = (1/6) / (5/24) = 0.8, Pearson = 1, RMSE = sqrt(2/16/3).
    #[test]
    fn scores_match_the_worked_example() {
        let a = of(&[(0.0, 0.25), (0.5, 0.5), (1.0, 0.75)]);
        assert!((a.ccc() - 0.8).abs() < 1e-12, "{}", a.ccc());
        assert!((a.pearson() - 1.0).abs() < 1e-12);
        assert!((a.rmse() - (1.0_f64 / 24.0).sqrt()).abs() < 1e-12);
    }

    /// The same shape moved by 0.5 keeps Pearson at 1 and pays in CCC: (2/6) / (2/6 + 1/4) = 4/7.
    #[test]
    fn an_offset_costs_concordance_but_no_correlation() {
        let a = of(&[(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)]);
        assert!((a.ccc() - 4.0 / 7.0).abs() < 1e-12 && (a.pearson() - 1.0).abs() < 1e-12);
        assert!((a.rmse() - 0.5).abs() < 1e-12);
        assert!((of(&[(0.0, 1.0), (1.0, 0.0)]).ccc() + 1.0).abs() < 1e-12);
    }

    #[test]
    fn series_that_do_not_vary_have_a_value() {
        assert_eq!((Agreement::default().ccc(), Agreement::default().rmse()), (0.0, 0.0));
        assert_eq!(of(&[(0.5, 0.5), (0.5, 0.5)]).ccc(), 1.0);
        let constant = of(&[(0.0, 0.5), (1.0, 0.5)]);
        assert_eq!((constant.ccc(), constant.pearson()), (0.0, 0.0));
    }

    #[test]
    fn parts_add_up() {
        let mut a = of(&[(0.0, 0.25)]);
        a.merge(&of(&[(0.5, 0.5), (1.0, 0.75)]));
        assert!((a.ccc() - 0.8).abs() < 1e-12);
    }
}
