//! The one solver behind every head: dual coordinate ascent.
//!
//! All heads minimise `sum_i loss_i(W x_i + b) + strength/2 (|W - W0|² + |b - b0|² / BIAS_VARIANCE)` around the prior
//! `W0, b0`. At the minimum `W = W0 + (1/strength) sum_i a_i x_i'` with `a_i = -loss_i'`, one value an output. The
//! solver keeps that form: it visits one moment after the other and fits the moment's own `a_i` exactly, all others
//! held (Shalev-Shwartz & Zhang, "Stochastic Dual Coordinate Ascent", JMLR 2013). What this gives:
//!
//! - Every visit raises the dual objective, whatever the data: there is no learning rate and nothing to diverge. With
//!   `|x_i|² ~ 1 + BIAS_VARIANCE` it falls short by a constant factor less with every sweep (their theorem 5, for visits
//!   in random order).
//! - A new label costs one visit. A block is left out by taking its `a_i` back, another strength is a rescaling: both
//!   start next to their solution, which makes exact leave-one-block-out affordable.
//! - The state is one number a label and output; no matrix of embedding by embedding is ever formed.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::frame::Weights;
use super::task::Task;
use crate::dataset::Dataset;
use crate::heads::MAX_LABELS;
use crate::linalg::{axpy, dot};

/// Prior variance of a bias over that of the weights: a user's baseline may move more freely than what the features
/// mean.
pub(crate) const BIAS_VARIANCE: f64 = 4.0;

/// To within this a dual variable is found where it matters.
const ROUNDING: f64 = 1e-12;

/// The objective: a task, some of its moments, and the strength of the prior.
#[derive(Debug)]
pub(crate) struct Problem<'a> {
    pub(crate) task: &'a Task,
    pub(crate) data: &'a Dataset,
    pub(crate) rows: &'a [usize],
    pub(crate) strength: f64,
    offset: Vec<f64>,
}

impl<'a> Problem<'a> {
    pub(crate) fn new(task: &'a Task, data: &'a Dataset, rows: &'a [usize], strength: f64) -> Self {
        Self { task, data, rows, strength, offset: task.offset(rows) }
    }
}

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until {
    /// Root mean square of the changes of one sweep over that of the values.
    pub(crate) tolerance: f64,
    pub(crate) sweeps: usize,
}

/// A fitted head with its dual variables.
#[derive(Clone, Debug)]
pub(crate) struct Solution {
    pub(crate) weights: Weights,
    /// `a_i`, `[moments, outputs]`; 0 for moments that are not part of it.
    alpha: Vec<f64>,
    placed: Vec<f64>,
}

impl Solution {
    /// The prior itself, which is the solution for no labels.
    pub(crate) fn start(task: &Task, data: &Dataset) -> Self {
        Self {
            weights: task.prior.clone(),
            alpha: vec![0.0; data.len() * task.outputs()],
            placed: vec![0.0; data.dim()],
        }
    }

    /// Makes room for moments that were added since.
    pub(crate) fn grow(&mut self, task: &Task, data: &Dataset) {
        self.alpha.resize(data.len() * task.outputs(), 0.0);
    }

    /// Sweeps to tolerance. Returns the number of sweeps, `None` where the limit came first; what has been reached is
    /// sound then too, only less exact.
    pub(crate) fn solve(&mut self, problem: &Problem<'_>, until: Until) -> Option<usize> {
        let n = problem.rows.len();
        let values = (n * problem.task.outputs()).max(1) as f64;
        let mut size = values;
        let mut rng = ChaCha8Rng::seed_from_u64(n as u64);
        let mut order = problem.rows.to_vec();
        for sweep in 0..until.sweeps {
            // A new order each time: a fixed one may need n² times the sweeps (Sun & Ye, "Worst-case complexity of
            // cyclic coordinate descent", Mathematical Programming 2021), and neighbours say the same.
            for last in (1..n).rev() {
                order.swap(last, ((u64::from(rng.next_u32()) * (last as u64 + 1)) >> 32) as usize);
            }
            let quiet = 0.01 * until.tolerance * (size / values).sqrt();
            let (mut moved, mut now) = (0.0, 0.0);
            for &row in &order {
                let (m, s) = self.visit(problem, row, quiet);
                moved += m;
                now += s;
            }
            size = now;
            if moved <= until.tolerance * until.tolerance * (size + 1e-12 * values) {
                return Some(sweep + 1);
            }
        }
        None
    }

    /// Fits the dual variables of one moment to all others. Returns the squared size of the change and of the outcome;
    /// they are found to within `quiet`, and a change of no more than that is not made.
    pub(crate) fn visit(&mut self, problem: &Problem<'_>, row: usize, quiet: f64) -> (f64, f64) {
        let Problem { task, data, strength, offset, .. } = problem;
        let outputs = task.outputs();
        task.frame.place(data.embedding(row), &mut self.placed);
        let c = (dot(&self.placed, &self.placed) + BIAS_VARIANCE) / strength;
        let alpha = &mut self.alpha[row * outputs..(row + 1) * outputs];
        let mut buffers = [[0.0; MAX_LABELS]; 2];
        let [u, without] = buffers.each_mut().map(|b| &mut b[..outputs]);
        self.weights.logits_into(&self.placed, u);
        for k in 0..outputs {
            without[k] = u[k] - c * alpha[k];
        }
        task.dual(row, offset, c, quiet.max(ROUNDING), without, u);
        let (mut moved, mut size) = (0.0, 0.0);
        for k in 0..outputs {
            let change = u[k] - alpha[k];
            if change.abs() > quiet {
                alpha[k] += change;
                self.weights.add(k, change / strength, &self.placed);
                moved += change * change;
            }
            size += alpha[k] * alpha[k];
        }
        (moved, size)
    }

    /// Takes back what these moments contributed.
    pub(crate) fn forget(&mut self, task: &Task, data: &Dataset, rows: &[usize], strength: f64) {
        let outputs = task.outputs();
        for &row in rows {
            task.frame.place(data.embedding(row), &mut self.placed);
            for k in 0..outputs {
                let alpha = std::mem::take(&mut self.alpha[row * outputs + k]);
                self.weights.add(k, -alpha / strength, &self.placed);
            }
        }
    }

    /// Goes over to another strength with the same dual variables.
    pub(crate) fn rescale(&mut self, task: &Task, from: f64, to: f64) {
        let towards = |all: &mut [f64], prior: &[f64]| {
            all.iter_mut().zip(prior).for_each(|(w, w0)| *w = w0 + (*w - w0) * from / to);
        };
        towards(&mut self.weights.weight, &task.prior.weight);
        towards(&mut self.weights.bias, &task.prior.bias);
    }

    /// Logits of a moment into `out`, one an output.
    pub(crate) fn predict(&mut self, task: &Task, data: &Dataset, row: usize, out: &mut [f64]) {
        task.frame.place(data.embedding(row), &mut self.placed);
        self.weights.logits_into(&self.placed, out);
    }

    /// Bytes that it holds on to.
    pub(crate) fn bytes(&self) -> usize {
        8 * (self.alpha.len() + self.placed.len() + self.weights.weight.len() + self.weights.bias.len())
    }
}

impl Weights {
    /// Adds `by` times an embedding, with its constant, to one row.
    fn add(&mut self, row: usize, by: f64, x: &[f64]) {
        axpy(by, x, &mut self.weight[row * self.dim..(row + 1) * self.dim]);
        self.bias[row] += by * BIAS_VARIANCE;
    }
}
