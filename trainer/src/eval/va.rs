//! Valence and arousal, judged by concordance (SSLFER, section 4.3).

use std::fmt;

use semblance_calib::heads::VALENCE_AROUSAL;
use semblance_calib::metrics::Agreement;
use semblance_face::labels::Expression;
use serde::Serialize;
use tch::{Kind, Tensor};

use super::Protocol;
use super::goal::{Fit, Goal, Side, row_tensor};
use super::labels::Label;
use crate::checkpoint::floats;
use crate::store::{Record, Store};

/// A regression of valence and arousal. The linear probe is ridge regression; all weights are trained with
/// `1 - (ccc_v + ccc_a) / 2` over each batch (SSLFER, section 4.3).
#[derive(Clone, Copy, Debug)]
pub(super) enum Va {
    /// As frames are labelled.
    Labels,
    /// Of frames with votes for expressions: the mean of their places in [`CIRCUMPLEX`].
    Votes,
}

/// Where people have placed words for the expressions in a plane of pleasure and arousal, in `[-1, 1]`: mean ratings of
/// "happy", "sad", "surprised", "fearful", "disgusted" and "angry" (Russell & Mehrabian 1977, table 1), and none of either
/// for a neutral face. Contempt is not among them.
pub const CIRCUMPLEX: [(Expression, [f32; 2]); 7] = [
    (Expression::Neutral, [0.0, 0.0]),
    (Expression::Happy, [0.81, 0.51]),
    (Expression::Sad, [-0.63, -0.27]),
    (Expression::Surprise, [0.40, 0.67]),
    (Expression::Fear, [-0.64, 0.60]),
    (Expression::Disgust, [-0.60, 0.35]),
    (Expression::Angry, [-0.51, 0.59]),
];

/// Where the word for an expression is, by [`CIRCUMPLEX`].
pub(super) fn circumplex(expression: Expression) -> Option<[f32; 2]> {
    CIRCUMPLEX.iter().find(|(known, _)| *known == expression).map(|(_, place)| *place)
}

impl Va {
    fn truth(self, record: &Record<'_>) -> Option<[f32; 2]> {
        match self {
            Self::Labels => record.valence_arousal(),
            Self::Votes => {
                let votes = record.votes()?;
                let (mut sum, mut place) = (0.0, [0.0; 2]);
                for (expression, coordinates) in CIRCUMPLEX {
                    let share = votes[expression.index()];
                    sum += share;
                    for (axis, coordinate) in place.iter_mut().zip(coordinates) {
                        *axis += share * coordinate;
                    }
                }
                (sum.is_finite() && sum > 0.0).then(|| place.map(|axis| axis / sum))
            }
        }
    }
}

/// How well valence and arousal agree with their labels.
#[derive(Clone, Debug, Serialize)]
pub struct VaReport {
    /// `va`.
    pub task: &'static str,
    /// The protocol.
    pub protocol: &'static str,
    /// The split that was scored.
    pub split: &'static str,
    /// Pictures scored.
    pub n: u64,
    /// Concordance correlation coefficient of valence, in `[-1, 1]`.
    pub ccc_valence: f64,
    /// The same of arousal.
    pub ccc_arousal: f64,
    /// The mean of both.
    pub ccc_mean: f64,
    /// Root mean square error of valence, whose range is `[-1, 1]`.
    pub rmse_valence: f64,
    /// The same of arousal.
    pub rmse_arousal: f64,
}

impl Goal for Va {
    type Report = VaReport;
    const LABEL: Label = Label::ValenceArousal;

    fn measure(&self) -> &'static str {
        "ccc_mean"
    }

    fn outputs(&self) -> i64 {
        2
    }

    fn has(&self, record: &Record<'_>) -> bool {
        self.truth(record).is_some()
    }

    fn targets(&self, store: &Store, frames: &[usize]) -> Tensor {
        row_tensor(&frames.iter().filter_map(|&i| self.truth(&store.record(i))).collect::<Vec<_>>())
    }

    fn loss(&self, outputs: &Tensor, targets: &Tensor) -> Tensor {
        1.0 - ccc(outputs, targets).mean(Kind::Float)
    }

    /// Outputs are held to `[-1, 1]`, as the edge does.
    fn report(&self, protocol: Protocol, side: &Side<'_>, outputs: &Tensor) -> anyhow::Result<VaReport> {
        let (outputs, targets) = (floats(&outputs.clamp(-1.0, 1.0))?, floats(&side.targets)?);
        let mut both = [Agreement::default(); 2];
        for (output, target) in outputs.chunks_exact(2).zip(targets.chunks_exact(2)) {
            for axis in 0..2 {
                both[axis].add(f64::from(target[axis]), f64::from(output[axis]));
            }
        }
        let [valence, arousal] = both;
        Ok(VaReport {
            task: "va",
            protocol: protocol.name(),
            split: side.split,
            n: side.frames.len() as u64,
            ccc_valence: valence.ccc(),
            ccc_arousal: arousal.ccc(),
            ccc_mean: (valence.ccc() + arousal.ccc()) / 2.0,
            rmse_valence: valence.rmse(),
            rmse_arousal: arousal.rmse(),
        })
    }

    fn score(&self, report: &VaReport) -> f64 {
        report.ccc_mean
    }

    fn rows(&self) -> Vec<String> {
        VALENCE_AROUSAL.map(str::to_owned).into()
    }

    fn fit(&self) -> Fit {
        Fit::Ridge
    }
}

/// The concordance correlation coefficient of each column (Lin 1989), with moments over `n`; `[N, K]` both, `[K]`.
fn ccc(outputs: &Tensor, targets: &Tensor) -> Tensor {
    let mean = |of: &Tensor| of.mean_dim([0].as_slice(), true, Kind::Float);
    let (x, y) = (mean(outputs), mean(targets));
    let (dx, dy) = (outputs - &x, targets - &y);
    let spread = mean(&dx.square()) + mean(&dy.square()) + (x - y).square();
    // Where nothing varies there is no slope either.
    (mean(&(dx * dy)) * 2.0 / spread.clamp_min(1e-8)).squeeze_dim(0)
}

impl fmt::Display for VaReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "va, {}, {} split, n = {}", self.protocol, self.split, self.n)?;
        writeln!(f, "{:>8} {:>8} {:>8}", "", "CCC", "RMSE")?;
        writeln!(f, "{:>8} {:>8.4} {:>8.4}", "valence", self.ccc_valence, self.rmse_valence)?;
        writeln!(f, "{:>8} {:>8.4} {:>8.4}", "arousal", self.ccc_arousal, self.rmse_arousal)?;
        write!(f, "{:>8} {:>8.4}", "mean", self.ccc_mean)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_loss_is_one_minus_the_mean_concordance_of_the_metric() {
        let (mut valence, mut arousal) = (Agreement::default(), Agreement::default());
        let (mut outputs, mut targets) = (Vec::new(), Vec::new());
        for i in 0..40 {
            let t = f64::from(i);
            let (truth, said) =
                ([(0.3 * t).sin(), (0.1 * t).cos()], [0.5 * (0.3 * t + 0.2).sin(), 0.1 * t - 2.0]);
            valence.add(truth[0], said[0]);
            arousal.add(truth[1], said[1]);
            outputs.push(said.map(|v| v as f32));
            targets.push(truth.map(|v| v as f32));
        }
        let loss = Va::Labels.loss(&row_tensor(&outputs), &row_tensor(&targets)).double_value(&[]);
        assert!((loss - (1.0 - (valence.ccc() + arousal.ccc()) / 2.0)).abs() < 1e-5, "{loss}");
        let same = row_tensor(&targets);
        assert!(Va::Labels.loss(&same, &same).double_value(&[]).abs() < 1e-6);
    }

    #[test]
    fn outputs_that_never_vary_have_a_slope() {
        let outputs = Tensor::zeros([8, 2], tch::kind::FLOAT_CPU).set_requires_grad(true);
        Va::Labels.loss(&outputs, &Tensor::zeros([8, 2], tch::kind::FLOAT_CPU)).backward();
        assert_eq!(outputs.grad().isfinite().all().int64_value(&[]), 1);
    }
}
