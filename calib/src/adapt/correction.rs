//! What adaptation does to an embedding, and how heads take it in.

use thiserror::Error;

use super::vector::{add_scaled, dot};
use crate::heads::{HeadKind, Heads, HeadsError, LinearHead};

/// Largest rank of a correction's projection.
pub const MAX_RANK: usize = 32;

/// Why a correction could not be made.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum CorrectionError {
    /// The parts do not fit together, or the rank is too high.
    #[error("a correction of rank {rank} for {dim} values with factors of {up} and {down} values")]
    Shape {
        /// Values of an embedding.
        dim: usize,
        /// Rank of the projection.
        rank: usize,
        /// Values of `up`.
        up: usize,
        /// Values of `down`.
        down: usize,
    },
    /// A value is NaN or infinite.
    #[error("a correction with a value that is not finite")]
    NotFinite,
}

/// The map `x -> P (x - shift)` with `P = I + sum_r up_r down_r^T`.
#[derive(Clone, Debug, PartialEq)]
pub struct Correction {
    rank: usize,
    shift: Vec<f32>,
    up: Vec<f32>,
    down: Vec<f32>,
}

impl Correction {
    /// The correction that changes nothing, for embeddings of `dim` values.
    pub fn identity(dim: usize) -> Self {
        Self { rank: 0, shift: vec![0.0; dim], up: Vec::new(), down: Vec::new() }
    }

    /// A correction of its parts: `shift` `[dim]`, `up` and `down` row-major `[rank, dim]`.
    ///
    /// # Errors
    /// [`CorrectionError`].
    pub fn new(rank: usize, shift: Vec<f32>, up: Vec<f32>, down: Vec<f32>) -> Result<Self, CorrectionError> {
        let dim = shift.len();
        if dim == 0 || rank > MAX_RANK || up.len() != rank * dim || down.len() != rank * dim {
            return Err(CorrectionError::Shape { dim, rank, up: up.len(), down: down.len() });
        }
        if !shift.iter().chain(&up).chain(&down).all(|v| v.is_finite()) {
            return Err(CorrectionError::NotFinite);
        }
        Ok(Self { rank, shift, up, down })
    }

    /// One that takes `shift` off every embedding, and does nothing else.
    ///
    /// # Errors
    /// As [`Correction::new`].
    pub fn shift_by(shift: Vec<f32>) -> Result<Self, CorrectionError> {
        Self::new(0, shift, Vec::new(), Vec::new())
    }

    /// The same without its projection.
    #[must_use]
    pub fn shift_alone(&self) -> Self {
        Self { rank: 0, shift: self.shift.clone(), up: Vec::new(), down: Vec::new() }
    }

    /// Values of an embedding.
    pub fn dim(&self) -> usize {
        self.shift.len()
    }

    /// Rank of `P - I`.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// What is taken off an embedding first, `[dim]`.
    pub fn shift(&self) -> &[f32] {
        &self.shift
    }

    /// The directions that are added, row-major `[rank, dim]`.
    pub fn up(&self) -> &[f32] {
        &self.up
    }

    /// What of an embedding each of them follows, row-major `[rank, dim]`.
    pub fn down(&self) -> &[f32] {
        &self.down
    }

    /// `||P - I||` in Frobenius' norm.
    pub fn norm(&self) -> f32 {
        norm(self.dim(), &self.up, &self.down)
    }

    /// Writes the corrected embedding into `out`.
    ///
    /// # Panics
    /// Where a length does not fit: that is the caller's error, not the data's.
    pub fn apply_into(&self, embedding: &[f32], out: &mut [f32]) {
        assert_eq!(embedding.len(), self.dim(), "length of the embedding");
        assert_eq!(out.len(), self.dim(), "length of the output");
        let mut along = [0.0; MAX_RANK];
        for (along, down) in along.iter_mut().zip(self.down.chunks_exact(self.dim())) {
            *along = dot(down, embedding) - dot(down, &self.shift);
        }
        for ((out, x), shift) in out.iter_mut().zip(embedding).zip(&self.shift) {
            *out = x - shift;
        }
        for (along, up) in along.iter().zip(self.up.chunks_exact(self.dim())) {
            add_scaled(out, *along, up);
        }
    }

    /// Heads that read an embedding as `heads` read the corrected one: `W' = W P`, `b' = b - W' shift`. A frame then
    /// costs nothing more than before.
    ///
    /// # Errors
    /// [`HeadsError::Shape`] where they read an embedding of another size, [`HeadsError::NotFinite`] where they overflow.
    pub fn fold(&self, heads: &Heads) -> Result<Heads, HeadsError> {
        let folded = HeadKind::ALL.into_iter().filter_map(|kind| Some((kind, heads.get(kind)?)));
        let folded: Result<Vec<_>, _> =
            folded.map(|(kind, head)| Ok((kind, self.fold_head(kind.name(), head)?))).collect();
        Heads::new(heads.dim(), folded?)?.with_neutral(heads.neutral().cloned())
    }

    fn fold_head(&self, name: &str, head: &LinearHead) -> Result<LinearHead, HeadsError> {
        let dim = self.dim();
        let mut weight = head.weight().to_vec();
        let mut bias = head.bias().to_vec();
        if head.dim() != dim {
            let (labels, weights, biases) = (bias.len(), weight.len(), bias.len());
            return Err(HeadsError::Shape { head: name.to_owned(), labels, dim, weights, biases });
        }
        for (row, bias) in weight.chunks_exact_mut(dim).zip(&mut bias) {
            let along: Vec<f32> = self.up.chunks_exact(dim).map(|up| dot(row, up)).collect();
            for (along, down) in along.iter().zip(self.down.chunks_exact(dim)) {
                add_scaled(row, *along, down);
            }
            *bias -= dot(row, &self.shift);
        }
        LinearHead::new(name, head.labels().to_vec(), dim, weight, bias)
    }
}

/// `||sum_r up_r down_r^T||` in Frobenius' norm, by `sum_rs (up_r up_s) (down_r down_s)`.
pub(super) fn norm(dim: usize, up: &[f32], down: &[f32]) -> f32 {
    let mut squared = 0.0;
    for (up_r, down_r) in up.chunks_exact(dim).zip(down.chunks_exact(dim)) {
        for (up_s, down_s) in up.chunks_exact(dim).zip(down.chunks_exact(dim)) {
            squared += dot(up_r, up_s) * dot(down_r, down_s);
        }
    }
    squared.max(0.0).sqrt()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn random(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    fn correction(rng: &mut ChaCha8Rng, dim: usize, rank: usize) -> Correction {
        let (shift, up, down) = (random(rng, dim), random(rng, rank * dim), random(rng, rank * dim));
        Correction::new(rank, shift, up.iter().map(|v| v / dim as f32).collect(), down).unwrap()
    }

    #[test]
    fn folded_heads_read_what_heads_read_of_the_corrected_embedding() {
        let (dim, mut rng) = (67, ChaCha8Rng::seed_from_u64(1));
        let correction = correction(&mut rng, dim, 5);
        let labels = |n: usize| (0..n).map(|i| format!("l{i}")).collect();
        let weight = |rng: &mut _, n: usize| random(rng, n * dim).iter().map(|v| v / 8.0).collect();
        let heads = Heads::new(
            dim,
            [(HeadKind::Expression, 8), (HeadKind::ActionUnits, 3)].map(|(kind, n)| {
                let (weight, bias) = (weight(&mut rng, n), random(&mut rng, n));
                (kind, LinearHead::new(kind.name(), labels(n), dim, weight, bias).unwrap())
            }),
        )
        .unwrap();
        let folded = correction.fold(&heads).unwrap();
        let mut corrected = vec![0.0; dim];
        for _ in 0..20 {
            let x = random(&mut rng, dim);
            correction.apply_into(&x, &mut corrected);
            for kind in [HeadKind::Expression, HeadKind::ActionUnits] {
                let (ours, theirs) = (folded.get(kind).unwrap(), heads.get(kind).unwrap());
                let (mut a, mut b) = (vec![0.0; ours.bias().len()], vec![0.0; ours.bias().len()]);
                ours.logits_into(&x, &mut a);
                theirs.logits_into(&corrected, &mut b);
                assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
            }
        }
        assert!(folded.get(HeadKind::ValenceArousal).is_none());
    }

    #[test]
    fn applying_is_the_matrix_product_and_the_norm_that_of_the_matrix() {
        let (dim, rank, mut rng) = (11, 3, ChaCha8Rng::seed_from_u64(2));
        let c = correction(&mut rng, dim, rank);
        let delta = |i: usize, j: usize| -> f64 {
            (0..rank).map(|r| f64::from(c.up()[r * dim + i]) * f64::from(c.down()[r * dim + j])).sum()
        };
        let squared: f64 = (0..dim).flat_map(|i| (0..dim).map(move |j| delta(i, j).powi(2))).sum();
        assert!((f64::from(c.norm()) - squared.sqrt()).abs() < 1e-5);
        let x = random(&mut rng, dim);
        let mut out = vec![0.0; dim];
        c.apply_into(&x, &mut out);
        for (i, ours) in out.into_iter().enumerate() {
            let at = |j: usize| f64::from(x[j]) - f64::from(c.shift()[j]);
            let expected = at(i) + (0..dim).map(|j| delta(i, j) * at(j)).sum::<f64>();
            assert!((f64::from(ours) - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn the_identity_changes_no_bit() {
        let labels = vec!["neutral".to_owned(), "happy".to_owned()];
        let head = LinearHead::new("expression", labels, 2, vec![0.1, -0.7, 1e-9, 3.0], vec![0.3, -0.2]);
        let heads = Heads::new(2, [(HeadKind::Expression, head.unwrap())]).unwrap();
        assert_eq!(Correction::identity(2).fold(&heads).unwrap(), heads);
        assert!(Correction::identity(3).fold(&heads).is_err());
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        assert!(Correction::new(1, vec![0.0; 2], vec![0.0; 2], vec![0.0; 3]).is_err());
        let nan = Correction::new(1, vec![0.0; 2], vec![0.0, f32::NAN], vec![0.0; 2]);
        assert_eq!(nan, Err(CorrectionError::NotFinite));
        let rank = MAX_RANK + 1;
        assert!(Correction::new(rank, vec![0.0], vec![0.0; rank], vec![0.0; rank]).is_err());
    }
}
