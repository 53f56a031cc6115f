//! Linear maps fitted to standardised embeddings: by gradient for any loss, or in closed form for squared errors.

use anyhow::Context;
use tch::{Device, Kind, Tensor, no_grad};

use crate::optim::{Optimizer, Rule, Schedule};

/// Strengths of L2 regularisation that are tried; the one that is best on validation is kept.
pub(super) const L2: [f64; 6] = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
/// The same for ridge regression, in units of the mean variance of an embedding's values.
pub(super) const RIDGE: [f64; 7] = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0];

/// Full-batch steps of Adam; the problems are convex, and this many bring them to rest.
const STEPS: i64 = 400;
/// The rate for losses of logits.
pub(super) const LR: f64 = 0.05;
/// Rows that are held in f64 at a time.
const ROWS: i64 = 4096;

/// Embeddings brought to mean 0 and deviation 1 in every value.
#[derive(Debug)]
pub(super) struct Standardised {
    /// `[pictures, dim]`.
    rows: Tensor,
    /// `[1, dim]`.
    mean: Tensor,
    /// `[1, dim]`.
    std: Tensor,
}

impl Standardised {
    /// In the place of the embeddings, `[pictures, dim]`: there is one copy of them.
    pub(super) fn new(mut embeddings: Tensor) -> Self {
        let mean = embeddings.mean_dim([0].as_slice(), true, None);
        // A value that never changes has nothing to tell; it is not blown up.
        let std = embeddings.std_dim([0].as_slice(), false, true).clamp_min(1e-6);
        embeddings -= &mean;
        embeddings /= &std;
        Self { rows: embeddings, mean, std }
    }

    /// The embeddings, standardised; `[pictures, dim]`.
    pub(super) fn rows(&self) -> &Tensor {
        &self.rows
    }

    /// Other embeddings on the same scale.
    pub(super) fn place(&self, embeddings: &Tensor) -> Tensor {
        (embeddings - &self.mean) / &self.std
    }

    /// A map from standardised embeddings as one from embeddings as they are.
    fn unfold(&self, weight: &Tensor, bias: &Tensor) -> Linear {
        no_grad(|| {
            let weight = weight / &self.std;
            let bias = bias - weight.matmul(&self.mean.squeeze_dim(0));
            Linear { weight, bias }
        })
    }
}

/// A linear map from embeddings, as they are, to outputs.
#[derive(Debug)]
pub(super) struct Linear {
    /// `[outputs, dim]`.
    pub weight: Tensor,
    /// `[outputs]`.
    pub bias: Tensor,
}

impl Linear {
    /// The outputs of embeddings `[pictures, dim]`: `[pictures, outputs]`.
    pub(super) fn apply(&self, embeddings: &Tensor) -> Tensor {
        no_grad(|| embeddings.matmul(&self.weight.tr()) + &self.bias)
    }
}

/// What is fitted by gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Layer {
    /// Weights and a bias.
    #[default]
    Biased,
    /// Batch normalisation with its scale and shift, then weights without a bias (CLP, section IV).
    Normalised,
}

/// A fit by gradient: full-batch Adam from zero, at a constant rate, then along a cosine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descent {
    /// Values that the map gives.
    pub outputs: i64,
    /// What is fitted.
    pub layer: Layer,
    /// Adam's rate at the start.
    pub lr: f64,
    /// Strength of the penalty on the squares of all weights.
    pub l2: f64,
}

impl Descent {
    /// The map that minimises `loss` of the outputs `[pictures, outputs]`, and the penalty.
    pub(super) fn fit(&self, x: &Standardised, loss: impl Fn(&Tensor) -> Tensor) -> Linear {
        let (dim, device) = (x.rows.size()[1], x.rows.device());
        let trained = |tensor: Tensor| tensor.set_requires_grad(true);
        let zeros = |shape: &[i64]| trained(Tensor::zeros(shape, (Kind::Float, device)));
        let weight = zeros(&[self.outputs, dim]);
        let bias = zeros(&[self.outputs]);
        let scale = trained(Tensor::ones([dim], (Kind::Float, device)));
        let shift = zeros(&[dim]);
        let map = || match self.layer {
            Layer::Biased => (weight.shallow_clone(), bias.shallow_clone()),
            Layer::Normalised => (&weight * &scale, weight.matmul(&shift)),
        };
        let parameters = match self.layer {
            Layer::Biased => vec![("weight", &weight), ("bias", &bias)],
            Layer::Normalised => vec![("weight", &weight), ("scale", &scale), ("shift", &shift)],
        };
        let named = parameters.into_iter().map(|(name, p)| (name.to_owned(), p.shallow_clone())).collect();
        let mut adam = Optimizer::new(Rule::Adam, named, 0.0);
        let schedule = Schedule { constant_steps: STEPS / 4, ..Schedule::cosine(self.lr, STEPS) };
        for step in 0..STEPS {
            let (weight, bias) = map();
            let outputs = x.rows.matmul(&weight.tr()) + &bias;
            let loss = loss(&outputs) + weight.square().sum(None) * self.l2;
            adam.zero_grad();
            loss.backward();
            adam.step(schedule.lr_at(step));
        }
        let (weight, bias) = map();
        x.unfold(&weight.detach(), &bias.detach())
    }
}

/// Ridge regression: least squares with a penalty on the squares of the weights, in closed form, in f64.
#[derive(Debug)]
pub(super) struct Ridge<'a> {
    x: &'a Standardised,
    /// `X'X / n`, `[dim, dim]`.
    gram: Tensor,
    /// `X'(Y - mean) / n`, `[dim, outputs]`.
    moment: Tensor,
    /// `[outputs]`.
    mean: Tensor,
}

impl<'a> Ridge<'a> {
    /// Sums up embeddings and targets `[pictures, outputs]`, so that each strength costs one solution.
    pub(super) fn new(x: &'a Standardised, targets: &Tensor) -> Self {
        let n = x.rows.size()[0];
        let mean = targets.to_kind(Kind::Double).mean_dim([0].as_slice(), false, None);
        let (dim, outputs) = (x.rows.size()[1], targets.size()[1]);
        let zeros = |columns| Tensor::zeros([dim, columns], (Kind::Double, x.rows.device()));
        let (mut gram, mut moment) = (zeros(dim), zeros(outputs));
        for start in (0..n).step_by(ROWS as usize) {
            let part = |of: &Tensor| of.narrow(0, start, ROWS.min(n - start)).to_kind(Kind::Double);
            let rows = part(&x.rows);
            gram += rows.tr().matmul(&rows);
            moment += rows.tr().matmul(&(part(targets) - &mean));
        }
        // The system is small; libtorch's solvers on GPUs are libraries of their own.
        let settle = |sum: Tensor| (sum / n as f64).to_device(Device::Cpu);
        Self { x, gram: settle(gram), moment: settle(moment), mean }
    }

    /// The map that minimises `|Y - XW - b|² / n + l2 |W|²`, with `X` standardised.
    ///
    /// # Errors
    /// Where embeddings or targets are not finite.
    pub(super) fn solve(&self, l2: f64) -> anyhow::Result<Linear> {
        let penalty = Tensor::eye(self.gram.size()[0], (Kind::Double, Device::Cpu)) * l2;
        let factor = (&self.gram + penalty).f_linalg_cholesky(false);
        let factor = factor.context("the embeddings of the training split are not finite")?;
        let place = |tensor: &Tensor| tensor.to_kind(Kind::Float).to_device(self.x.rows.device());
        let weight = place(&self.moment.cholesky_solve(&factor, false).tr());
        Ok(self.x.unfold(&weight, &place(&self.mean)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const N: usize = 60;
    const DIM: usize = 3;

    /// Embeddings far from the origin and on different scales, a value that never changes among them, and two targets.
    fn data() -> (Vec<[f64; DIM]>, Vec<[f64; 2]>) {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let rows: Vec<[f64; DIM]> = (0..N)
            .map(|_| [500.0 + 100.0 * rng.random_range(-1.0..1.0), rng.random_range(-0.01..0.01), 7.0])
            .collect();
        let targets = rows
            .iter()
            .map(|r| [0.01 * (r[0] - 400.0) - 30.0 * r[1] + rng.random_range(-0.1..0.1), 100.0 * r[1]])
            .collect();
        (rows, targets)
    }

    fn tensor<const K: usize>(rows: &[[f64; K]]) -> Tensor {
        Tensor::from_slice(rows.as_flattened()).view([-1, K as i64]).to_kind(Kind::Float)
    }

    #[test]
    fn ridge_is_the_solution_of_the_normal_equations() {
        let (rows, targets) = data();
        let x = Standardised::new(tensor(&rows));
        let l2 = 0.3;
        let fitted = Ridge::new(&x, &tensor(&targets)).solve(l2).unwrap();
        // The same with the two values that change, standardised in f64, by Cramer's rule.
        let n = N as f64;
        let moments = |k: usize| {
            let mean = rows.iter().map(|r| r[k]).sum::<f64>() / n;
            (mean, (rows.iter().map(|r| (r[k] - mean).powi(2)).sum::<f64>() / n).sqrt())
        };
        let (a, b) = (moments(0), moments(1));
        let z: Vec<[f64; 2]> = rows.iter().map(|r| [(r[0] - a.0) / a.1, (r[1] - b.0) / b.1]).collect();
        let mean = |f: &dyn Fn(usize) -> f64| (0..N).map(f).sum::<f64>() / n;
        let (g00, g01, g11) =
            (mean(&|i| z[i][0] * z[i][0]), mean(&|i| z[i][0] * z[i][1]), mean(&|i| z[i][1] * z[i][1]));
        let outputs = fitted.apply(&tensor(&rows));
        for t in [0, 1] {
            let middle = mean(&|i| targets[i][t]);
            let moment = |k: usize| mean(&|i| z[i][k] * (targets[i][t] - middle));
            let (m0, m1) = (moment(0), moment(1));
            let (p0, p1) = (g00 + l2, g11 + l2);
            let det = p0 * p1 - g01 * g01;
            let w = [(m0 * p1 - m1 * g01) / det, (m1 * p0 - m0 * g01) / det];
            for (i, z) in (0..).zip(&z) {
                let expected = middle + w[0] * z[0] + w[1] * z[1];
                let got = outputs.double_value(&[i, t as i64]);
                assert!((got - expected).abs() < 1e-3, "{i} {t}: {got} {expected}");
            }
        }
    }

    #[test]
    fn descent_comes_to_the_same_with_a_bias_or_batch_normalisation() {
        let (rows, targets) = data();
        let targets = tensor(&targets);
        let x = Standardised::new(tensor(&rows));
        let exact = Ridge::new(&x, &targets).solve(1e-9).unwrap().apply(&tensor(&rows));
        for layer in [Layer::Biased, Layer::Normalised] {
            let descent = Descent { outputs: 2, layer, lr: LR, l2: 0.0 };
            let fitted = descent.fit(&x, |out| (out - &targets).square().mean(None));
            let off = (fitted.apply(&tensor(&rows)) - &exact).abs().max().double_value(&[]);
            assert!(off < 2e-2, "{layer:?}: {off}");
        }
    }

    #[test]
    fn embeddings_that_are_not_finite_are_said_so() {
        let x = Standardised::new(Tensor::from_slice(&[1.0f32, f32::NAN, 2.0, 3.0]).view([2, 2]));
        let targets = Tensor::from_slice(&[0.0f32, 1.0]).view([2, 1]);
        assert!(Ridge::new(&x, &targets).solve(1.0).unwrap_err().to_string().contains("not finite"));
    }
}
