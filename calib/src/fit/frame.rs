//! The coordinates in which heads are fitted.

use crate::dataset::Dataset;
use crate::heads::{HeadKind, HeadsError, LinearHead};
use crate::linalg::{axpy, dot};

/// A share of the mean variance that is added to each feature's own one, so that a feature that hardly varied in a few
/// seconds is not blown up. (Ours: batch normalisation over large sets gets by with 1e-5.)
const VARIANCE_FLOOR: f64 = 1e-2;

/// Variance below this share of the mean square is the rounding of f32 and no signal.
const ROUNDING: f64 = 1e-12;

/// A shift and a scale for each feature, taken from embeddings alone and never from labels. In its coordinates the
/// embeddings have mean zero and a mean squared length of about one, so that the strength of a prior means the same
/// whatever the encoder's scale.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    mean: Vec<f64>,
    scale: Vec<f64>,
}

/// A head in the coordinates of a frame.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    pub(crate) dim: usize,
    /// Row-major, `[outputs, dim]`.
    pub(crate) weight: Vec<f64>,
    pub(crate) bias: Vec<f64>,
}

impl Weights {
    pub(crate) fn zero(outputs: usize, dim: usize) -> Self {
        Self { dim, weight: vec![0.0; outputs * dim], bias: vec![0.0; outputs] }
    }

    /// Multiplies every score by this.
    pub(crate) fn scale(&mut self, by: f64) {
        self.weight.iter_mut().chain(&mut self.bias).for_each(|w| *w *= by);
    }

    pub(crate) fn logits_into(&self, x: &[f64], out: &mut [f64]) {
        for ((row, bias), out) in self.weight.chunks_exact(self.dim).zip(&self.bias).zip(out) {
            *out = bias + dot(row, x);
        }
    }
}

impl Frame {
    /// One scale for all features: the geometry of the embedding, in which the shipped head was trained, stays.
    pub(crate) fn isotropic(data: &Dataset) -> Self {
        let (mean, variance) = moments_of(data);
        let total: f64 = variance.iter().sum();
        let scale = if total > 0.0 { total.sqrt().recip() } else { 1.0 };
        Self { scale: vec![scale; mean.len()], mean }
    }

    /// A scale for each feature: batch normalisation, as in CLP's probe of action units.
    pub(crate) fn standardised(data: &Dataset) -> Self {
        let (mean, variance) = moments_of(data);
        let dim = mean.len() as f64;
        let floor = VARIANCE_FLOOR * variance.iter().sum::<f64>() / dim.max(1.0);
        let scale = |v: &f64| if floor > 0.0 { ((v + floor) * dim).sqrt().recip() } else { 1.0 };
        Self { scale: variance.iter().map(scale).collect(), mean }
    }

    /// An embedding in these coordinates.
    pub(crate) fn place(&self, embedding: &[f32], out: &mut [f64]) {
        for (((out, x), mean), scale) in out.iter_mut().zip(embedding).zip(&self.mean).zip(&self.scale) {
            *out = (f64::from(*x) - mean) * scale;
        }
    }

    /// The same head in these coordinates.
    pub(crate) fn enter(&self, head: &LinearHead) -> Weights {
        let dim = head.dim();
        let mut weights = Weights::zero(head.labels().len(), dim);
        weights.weight.clear();
        for (row, (raw, bias)) in head.weight().chunks_exact(dim).zip(head.bias()).enumerate() {
            let raw: Vec<f64> = raw.iter().map(|w| f64::from(*w)).collect();
            weights.bias[row] = f64::from(*bias) + dot(&raw, &self.mean);
            weights.weight.extend(raw.iter().zip(&self.scale).map(|(w, s)| w / s));
        }
        weights
    }

    /// The same head over embeddings as they come.
    ///
    /// # Errors
    /// [`HeadsError::NotFinite`] where a value is beyond f32.
    pub(crate) fn leave(
        &self,
        kind: HeadKind,
        labels: &[String],
        weights: &Weights,
    ) -> Result<LinearHead, HeadsError> {
        let dim = self.mean.len();
        let mut raw = weights.weight.clone();
        let mut bias = weights.bias.clone();
        for (row, bias) in raw.chunks_exact_mut(dim.max(1)).zip(&mut bias) {
            row.iter_mut().zip(&self.scale).for_each(|(w, s)| *w *= s);
            *bias -= dot(row, &self.mean);
        }
        let narrow = |values: Vec<f64>| values.iter().map(|v| *v as f32).collect();
        LinearHead::new(kind.name(), labels.to_vec(), dim, narrow(raw), narrow(bias))
    }
}

/// Mean and variance of each feature, in two passes; variance that is nothing but rounding counts as 0.
fn moments_of(data: &Dataset) -> (Vec<f64>, Vec<f64>) {
    let (dim, n) = (data.dim(), data.len().max(1) as f64);
    let (mut mean, mut variance, mut x) = (vec![0.0; dim], vec![0.0; dim], vec![0.0; dim]);
    let mut each = |then: &mut dyn FnMut(&[f64])| {
        for i in 0..data.len() {
            x.iter_mut().zip(data.embedding(i)).for_each(|(x, e)| *x = f64::from(*e));
            then(&x);
        }
    };
    each(&mut |x| axpy(1.0 / n, x, &mut mean));
    each(&mut |x| {
        for ((v, x), m) in variance.iter_mut().zip(x).zip(&mean) {
            *v += (x - m) * (x - m) / n;
        }
    });
    for (v, m) in variance.iter_mut().zip(&mean) {
        if *v <= ROUNDING * m * m {
            *v = 0.0;
        }
    }
    (mean, variance)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::dataset::{Label, Moment};

    fn data(embeddings: &[[f32; 3]]) -> Dataset {
        let mut data = Dataset::new(3);
        for embedding in embeddings {
            data.push(Moment { t_secs: 0.0, block: 0, label: Label::default() }, embedding).unwrap();
        }
        data
    }

    #[test]
    fn placed_embeddings_have_mean_zero_and_unit_mean_square() {
        let data = data(&[[1.0, 5.0, 1e6], [3.0, 5.0, 1e6 + 4.0], [2.0, 5.0, 1e6 + 2.0]]);
        for (frame, tolerance) in [(Frame::isotropic(&data), 1e-9), (Frame::standardised(&data), 0.4)] {
            let (mut sum, mut square, mut x) = ([0.0; 3], 0.0, [0.0; 3]);
            for i in 0..3 {
                frame.place(data.embedding(i), &mut x);
                axpy(1.0, &x, &mut sum);
                square += dot(&x, &x) / 3.0;
            }
            assert!(sum.iter().all(|s| s.abs() < 1e-6), "{sum:?}");
            assert!((square - 1.0).abs() < tolerance, "{square}");
        }
    }

    #[test]
    fn a_head_says_the_same_inside_and_outside() {
        let data = data(&[[1.0, 5.0, -2.0], [3.0, 4.0, 2.0], [2.0, 7.0, 1.0]]);
        let labels = vec!["a".to_owned(), "b".to_owned()];
        let weight = vec![1.0, -2.0, 0.5, 3.0, 0.25, -1.0];
        let head = LinearHead::new("au", labels.clone(), 3, weight, vec![0.5, -4.0]).unwrap();
        for frame in [Frame::isotropic(&data), Frame::standardised(&data)] {
            let inside = frame.enter(&head);
            let (mut x, mut z, mut raw) = ([0.0; 3], [0.0; 2], [0.0; 2]);
            frame.place(data.embedding(1), &mut x);
            inside.logits_into(&x, &mut z);
            head.logits_into(data.embedding(1), &mut raw);
            assert!(z.iter().zip(&raw).all(|(z, r)| (z - f64::from(*r)).abs() < 1e-5), "{z:?} {raw:?}");
            let back = frame.leave(HeadKind::ActionUnits, &labels, &inside).unwrap();
            let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(near(back.weight(), head.weight()) && near(back.bias(), head.bias()));
        }
    }

    #[test]
    fn features_that_do_not_vary_are_left_alone() {
        let constant = data(&[[0.1, 1e6, 3e38]; 3]);
        for frame in [Frame::isotropic(&constant), Frame::standardised(&constant)] {
            let mut x = [1.0; 3];
            frame.place(constant.embedding(0), &mut x);
            assert!(frame.scale.iter().all(|s| *s == 1.0) && x.iter().all(|x| x.is_finite()), "{x:?}");
        }
        assert_eq!(Frame::isotropic(&data(&[])).mean, [0.0; 3]);
    }
}
