//! A projection of low rank that learns from time: frames close in time are to look alike, frames far apart are not.

use rand::{Rng, RngExt};

use super::correction::{MAX_RANK, norm};
use super::vector::{add_scaled, dot};

/// Negatives of an anchor at most.
pub(super) const NEGATIVES: usize = 12;
/// Rows of a set: the anchor, its positive, its negatives.
const ROWS: usize = 2 + NEGATIVES;
/// Lengths below this count as this one.
const MIN_LENGTH: f32 = 1e-12;

/// Rows of `dim` values that a [`Projection`] and a [`Set`] take.
pub(super) const fn rows(rank: usize) -> usize {
    6 * rank + 2 * ROWS + 1
}

/// How the projection is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProjectionConfig {
    /// Rank of `P - I`, at most [`MAX_RANK`].
    pub rank: usize,
    /// `tau` of the contrastive loss (SSLFER section 4.1 has 0.07).
    pub temperature: f32,
    /// `mu` of the anchor term `(mu / 2) ||P - I||^2`, in Frobenius' norm. On simulated people the default costs the worst
    /// of them a point of accuracy; a tenth of it costs five and gains no more on average.
    pub anchor: f32,
    /// Learning rate.
    pub rate: f32,
    /// Momentum.
    pub momentum: f32,
    /// The gradient of a step is scaled down to this length.
    pub max_gradient: f32,
}

impl Default for ProjectionConfig {
    fn default() -> Self {
        Self { rank: 8, temperature: 0.07, anchor: 10.0, rate: 0.01, momentum: 0.9, max_gradient: 1.0 }
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Anchors that took part; without any, nothing has changed.
    pub anchors: usize,
    /// Mean contrastive loss before the step.
    pub loss: f32,
    /// Share of anchors whose positive is more similar than every negative.
    pub top1: f32,
    /// Length of the gradient, before it is scaled down.
    pub gradient: f32,
}

/// The embeddings `[ROWS, dim]` of an anchor, its positive and its negatives, in this order.
#[derive(Debug)]
pub(super) struct Set {
    dim: usize,
    rows: Vec<f32>,
    len: usize,
}

impl Set {
    pub(super) fn new(dim: usize) -> Self {
        Self { dim, rows: vec![0.0; ROWS * dim], len: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds an embedding less `shift`; one that finds no more room is left out.
    pub(super) fn push(&mut self, embedding: &[f32], shift: &[f32]) {
        if self.len < ROWS {
            let row = &mut self.rows[self.len * self.dim..][..self.dim];
            row.iter_mut().zip(embedding).zip(shift).for_each(|((row, x), shift)| *row = x - shift);
            self.len += 1;
        }
    }

    fn row(&self, index: usize) -> &[f32] {
        &self.rows[index * self.dim..][..self.dim]
    }
}

/// `P = I + sum_r up_r down_r^T` and what its training needs, all of it in memory of fixed size. `P` starts at `I`:
/// `up` at 0 and `down` at random directions.
#[derive(Debug)]
pub struct Projection {
    config: ProjectionConfig,
    dim: usize,
    /// `up` and `down`, each row-major `[rank, dim]`.
    factors: [Vec<f32>; 2],
    velocities: [Vec<f32>; 2],
    gradients: [Vec<f32>; 2],
    /// Projected rows at length 1, and their gradients: `[ROWS, dim]`.
    unit: Vec<f32>,
    row_gradient: Vec<f32>,
    anchors: usize,
    loss: f32,
    hits: usize,
}

impl Projection {
    /// The identity, for embeddings of `dim` values. The rank is cut to [`MAX_RANK`].
    pub fn new(dim: usize, config: ProjectionConfig, rng: &mut impl Rng) -> Self {
        let config = ProjectionConfig { rank: config.rank.min(MAX_RANK), ..config };
        let zeros = || [vec![0.0; config.rank * dim], vec![0.0; config.rank * dim]];
        let mut projection = Self {
            config,
            dim,
            factors: zeros(),
            velocities: zeros(),
            gradients: zeros(),
            unit: vec![0.0; ROWS * dim],
            row_gradient: vec![0.0; dim],
            anchors: 0,
            loss: 0.0,
            hits: 0,
        };
        projection.reset(rng);
        projection
    }

    /// Goes back to the identity.
    pub fn reset(&mut self, rng: &mut impl Rng) {
        self.factors[0].fill(0.0);
        self.velocities.iter_mut().for_each(|v| v.fill(0.0));
        // Random signs: rows of length 1 that are nearly orthogonal.
        let value = 1.0 / (self.dim.max(1) as f32).sqrt();
        self.factors[1].fill_with(|| if rng.random_bool(0.5) { value } else { -value });
        self.begin();
    }

    /// Goes on from factors that were learned before; whether they fit, else nothing has changed.
    pub fn resume(&mut self, up: &[f32], down: &[f32]) -> bool {
        let fits = up.len() == self.factors[0].len() && down.len() == up.len();
        if fits {
            self.factors[0].copy_from_slice(up);
            self.factors[1].copy_from_slice(down);
        }
        fits
    }

    /// Moves towards the identity: `P - I` is multiplied by `share`, and what moved it is stopped.
    pub fn decay(&mut self, share: f32) {
        self.factors[0].iter_mut().for_each(|v| *v *= share);
        self.velocities.iter_mut().for_each(|v| v.fill(0.0));
    }

    /// `up`, row-major `[rank, dim]`.
    pub fn up(&self) -> &[f32] {
        &self.factors[0]
    }

    /// `down`, row-major `[rank, dim]`.
    pub fn down(&self) -> &[f32] {
        &self.factors[1]
    }

    /// The rank of `P - I` at most.
    pub fn rank(&self) -> usize {
        self.config.rank
    }

    /// `||P - I||` in Frobenius' norm.
    pub fn norm(&self) -> f32 {
        norm(self.dim, self.up(), self.down())
    }

    /// Begins a step.
    pub(super) fn begin(&mut self) {
        self.gradients.iter_mut().for_each(|g| g.fill(0.0));
        (self.anchors, self.loss, self.hits) = (0, 0.0, 0);
    }

    /// Adds the gradient of the contrastive loss of one anchor `a` with its positive `p` (SSLFER, equation 1, with the
    /// positive in the denominator as SimCLR has it): `-log(e^(s_p) / sum_k e^(s_k))` over the positive and the
    /// negatives, `s_k` the cosine of the projected rows `a` and `k` over the temperature. A set without a negative is
    /// passed over.
    pub(super) fn add(&mut self, set: &Set) {
        if set.len < 3 || self.dim == 0 {
            return;
        }
        let mut along = [[0.0; MAX_RANK]; ROWS];
        let mut lengths = [0.0; ROWS];
        for row in 0..set.len {
            lengths[row] = self.project(set.row(row), row, &mut along[row]);
        }
        let mut cosines = [0.0; ROWS];
        let mut scores = [f32::NEG_INFINITY; ROWS];
        for row in 1..set.len {
            cosines[row] = dot(self.unit(0), self.unit(row));
            scores[row] = cosines[row] / self.config.temperature;
        }
        let hardest = scores[2..].iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let highest = hardest.max(scores[1]);
        let sum: f32 = scores[1..].iter().map(|s| (s - highest).exp()).sum();
        self.loss += highest + sum.ln() - scores[1];
        self.hits += usize::from(scores[1] > hardest);
        self.anchors += 1;

        // dL/ds_k is softmax_k, less 1 for the positive; ds_k / dz_a = (u_k - c_k u_a) / (|z_a| tau), and the same
        // with a and k exchanged.
        let mut slopes = [0.0; ROWS];
        for row in 1..set.len {
            let positive = f32::from(u8::from(row == 1));
            slopes[row] = ((scores[row] - highest).exp() / sum - positive) / self.config.temperature;
        }
        for row in 0..set.len {
            self.row_gradient.fill(0.0);
            let others = if row == 0 { 1..set.len } else { 0..1 };
            for other in others {
                let k = row.max(other);
                let scale = slopes[k] / lengths[row];
                add_scaled(&mut self.row_gradient, scale, &self.unit[other * self.dim..][..self.dim]);
                add_scaled(
                    &mut self.row_gradient,
                    -scale * cosines[k],
                    &self.unit[row * self.dim..][..self.dim],
                );
            }
            self.add_row(set.row(row), &along[row]);
        }
    }

    /// Projects a row and scales it to length 1, into `unit`; gives the length, and what of the row each `down` follows.
    fn project(&mut self, x: &[f32], row: usize, along: &mut [f32; MAX_RANK]) -> f32 {
        let unit = &mut self.unit[row * self.dim..][..self.dim];
        unit.copy_from_slice(x);
        let [up, down] = &self.factors;
        for ((along, up), down) in
            along.iter_mut().zip(up.chunks_exact(self.dim)).zip(down.chunks_exact(self.dim))
        {
            *along = dot(down, x);
            add_scaled(unit, *along, up);
        }
        let length = dot(unit, unit).sqrt().max(MIN_LENGTH);
        unit.iter_mut().for_each(|v| *v /= length);
        length
    }

    fn unit(&self, row: usize) -> &[f32] {
        &self.unit[row * self.dim..][..self.dim]
    }

    /// Adds what a row's gradient `g` means for the factors: `z = x + sum_r up_r (down_r x)`, so that
    /// `dL/dup_r = (down_r x) g` and `dL/ddown_r = (up_r g) x`.
    fn add_row(&mut self, x: &[f32], along: &[f32; MAX_RANK]) {
        let [up_gradient, down_gradient] = &mut self.gradients;
        let rows = up_gradient.chunks_exact_mut(self.dim).zip(down_gradient.chunks_exact_mut(self.dim));
        for (((up_gradient, down_gradient), up), along) in
            rows.zip(self.factors[0].chunks_exact(self.dim)).zip(along)
        {
            add_scaled(up_gradient, *along, &self.row_gradient);
            add_scaled(down_gradient, dot(up, &self.row_gradient), x);
        }
    }

    /// Turns the sums into the gradient of the mean loss plus the anchor term: `(mu / 2) ||sum_r up_r down_r^T||^2` has
    /// the gradient `mu sum_s (down_r down_s) up_s` in `up_r`, and the same with both exchanged in `down_r`.
    fn finish_gradient(&mut self) {
        let (rank, dim) = (self.config.rank, self.dim);
        let share = 1.0 / self.anchors.max(1) as f32;
        for side in 0..2 {
            let (own, other) = (&self.factors[side], &self.factors[1 - side]);
            self.gradients[side].iter_mut().for_each(|g| *g *= share);
            for (r, s) in (0..rank).flat_map(|r| (0..rank).map(move |s| (r, s))) {
                let product = dot(&other[r * dim..][..dim], &other[s * dim..][..dim]);
                let gradient = &mut self.gradients[side][r * dim..][..dim];
                add_scaled(gradient, self.config.anchor * product, &own[s * dim..][..dim]);
            }
        }
    }

    /// Ends a step: stochastic gradient descent with momentum. A gradient that is not finite is left out.
    pub(super) fn end(&mut self) -> StepReport {
        if self.anchors == 0 {
            return StepReport::default();
        }
        self.finish_gradient();
        let gradient = self.gradients.iter().map(|g| dot(g, g)).sum::<f32>().sqrt();
        if gradient.is_finite() {
            let scale = (self.config.max_gradient / gradient).min(1.0);
            for side in 0..2 {
                let moving = self.factors[side].iter_mut().zip(&mut self.velocities[side]);
                for ((factor, velocity), g) in moving.zip(&self.gradients[side]) {
                    *velocity = self.config.momentum * *velocity - self.config.rate * scale * g;
                    *factor += *velocity;
                }
            }
        }
        let count = self.anchors as f32;
        let (loss, top1) = (self.loss / count, self.hits as f32 / count);
        StepReport { anchors: self.anchors, loss, top1, gradient }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    const DIM: usize = 9;
    const RANK: usize = 3;

    fn config() -> ProjectionConfig {
        ProjectionConfig { rank: RANK, anchor: 0.7, temperature: 0.2, ..ProjectionConfig::default() }
    }

    /// The loss and the anchor term by their definitions, in f64, with `P` written out.
    fn naive(sets: &[Vec<Vec<f64>>], up: &[f64], down: &[f64]) -> f64 {
        let delta = |i: usize, j: usize| (0..RANK).map(|r| up[r * DIM + i] * down[r * DIM + j]).sum::<f64>();
        let mut total = 0.0;
        for set in sets {
            let z: Vec<Vec<f64>> = set
                .iter()
                .map(|x| (0..DIM).map(|i| x[i] + (0..DIM).map(|j| delta(i, j) * x[j]).sum::<f64>()).collect())
                .collect();
            let inner = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let e = |k: usize| {
                (inner(&z[0], &z[k]) / (inner(&z[0], &z[0]) * inner(&z[k], &z[k])).sqrt() / 0.2).exp()
            };
            total -= (e(1) / (1..set.len()).map(e).sum::<f64>()).ln() / sets.len() as f64;
        }
        let squared: f64 = (0..DIM).flat_map(|i| (0..DIM).map(move |j| delta(i, j).powi(2))).sum();
        total + 0.7 / 2.0 * squared
    }

    fn random(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    fn wide(values: &[f32]) -> Vec<f64> {
        values.iter().map(|v| f64::from(*v)).collect()
    }

    #[test]
    fn loss_and_gradient_match_finite_differences() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut projection = Projection::new(DIM, config(), &mut rng);
        let (up, down) = (random(&mut rng, RANK * DIM), random(&mut rng, RANK * DIM));
        assert!(projection.resume(&up, &down));
        let (mut set, mut sets) = (Set::new(DIM), Vec::new());
        let shift = random(&mut rng, DIM);
        projection.begin();
        for rows in [3, 5, ROWS] {
            set.clear();
            for _ in 0..rows {
                set.push(&random(&mut rng, DIM), &shift);
            }
            projection.add(&set);
            sets.push((0..rows).map(|row| wide(set.row(row))).collect::<Vec<_>>());
        }
        projection.finish_gradient();
        let (up, down) = (wide(&up), wide(&down));
        let squared = projection.norm().powi(2);
        let loss = f64::from(projection.loss / 3.0 + 0.35 * squared);
        let expected = naive(&sets, &up, &down);
        assert!((loss - expected).abs() < 1e-4 * expected, "{loss} {expected}");
        let step = 1e-5;
        for side in 0..2 {
            for i in 0..RANK * DIM {
                let moved = |by: f64| {
                    let mut factors = [up.clone(), down.clone()];
                    factors[side][i] += by;
                    naive(&sets, &factors[0], &factors[1])
                };
                let slope = (moved(step) - moved(-step)) / (2.0 * step);
                let ours = f64::from(projection.gradients[side][i]);
                assert!((ours - slope).abs() < 1e-4 * slope.abs().max(1.0), "{side} {i}: {ours} {slope}");
            }
        }
    }

    #[test]
    fn steps_lower_the_loss_and_a_strong_anchor_holds() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let shift = vec![0.0; DIM];
        let mut sets = Vec::new();
        for _ in 0..6 {
            let mut set = Set::new(DIM);
            (0..6).for_each(|_| set.push(&random(&mut rng, DIM), &shift));
            sets.push(set);
        }
        let mut run = |anchor: f32| {
            let config = ProjectionConfig { anchor, ..config() };
            let mut projection = Projection::new(DIM, config, &mut rng);
            let mut step = || {
                projection.begin();
                sets.iter().for_each(|set| projection.add(set));
                projection.end().loss
            };
            let first = step();
            let last = (0..300).map(|_| step()).last().unwrap();
            (first, last, projection.norm())
        };
        let (weak, strong) = (run(0.0), run(100.0));
        assert!(weak.1 < 0.7 * weak.0, "{weak:?}");
        assert!(strong.2 < 0.1 * weak.2, "{strong:?} {weak:?}");
    }

    #[test]
    fn nothing_moves_without_negatives_or_at_embeddings_of_nothing() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut projection = Projection::new(DIM, config(), &mut rng);
        let (mut set, zeros) = (Set::new(DIM), vec![0.0; DIM]);
        (0..2).for_each(|_| set.push(&zeros, &zeros));
        projection.begin();
        projection.add(&set);
        assert_eq!(projection.end(), StepReport::default());
        set.push(&zeros, &zeros);
        projection.begin();
        projection.add(&set);
        assert_eq!(projection.end().anchors, 1);
        assert_eq!(projection.norm(), 0.0);
        assert!(projection.down().iter().all(|v| v.is_finite()));
    }

    #[test]
    fn decay_and_reset_lead_back_to_the_identity() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut projection = Projection::new(DIM, config(), &mut rng);
        assert_eq!(projection.norm(), 0.0);
        assert!(projection.resume(&random(&mut rng, RANK * DIM), &random(&mut rng, RANK * DIM)));
        let before = projection.norm();
        projection.decay(0.5);
        assert!((projection.norm() - before / 2.0).abs() < 1e-5);
        projection.reset(&mut rng);
        assert_eq!(projection.norm(), 0.0);
        assert!(!projection.resume(&[0.0], &[0.0]));
    }
}
