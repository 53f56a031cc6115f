//! An encoder and its heads.

use std::collections::BTreeMap;

use anyhow::Context;
use semblance_calib::LinearHead;
use tch::{Tensor, nn, nn::Module, no_grad};

use super::JointConfig;
use crate::checkpoint::floats;
use crate::data::training_device;
use crate::eval::{Loaded, TaughtHead};
use crate::store::Store;

/// An encoder, and a linear head for each that is taught.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) loaded: Loaded,
    heads: BTreeMap<TaughtHead, Head>,
}

/// A linear head.
#[derive(Debug)]
struct Head {
    /// A row for each value that is known.
    linear: nn::Linear,
    /// The places of those among all values.
    places: Tensor,
    /// All values.
    values: i64,
}

impl Model {
    /// With fresh weights; `heads` says of each value whether anybody knows it.
    pub(super) fn new(config: &JointConfig, heads: &BTreeMap<TaughtHead, Vec<bool>>) -> Self {
        let JointConfig { backbone, side_px, mean, std, .. } = *config;
        let vs = nn::VarStore::new(training_device());
        let encoder = backbone.at(side_px).build(&(vs.root() / "encoder"));
        let dim = encoder.embedding_size();
        let heads = heads
            .iter()
            .map(|(&head, known)| {
                let places: Vec<i64> =
                    (0i64..).zip(known).filter(|(_, known)| **known).map(|(i, _)| i).collect();
                let rows = places.len() as i64;
                let linear = nn::linear(vs.root() / head.path(), dim, rows, Default::default());
                let places = Tensor::from_slice(&places).to_device(vs.device());
                (head, Head { linear, places, values: known.len() as i64 })
            })
            .collect();
        Self { loaded: Loaded { vs, encoder, side_px, mean, std }, heads }
    }

    /// What a head says of embeddings `[N,D]`; 0 of what nobody knows.
    pub(super) fn outputs(&self, head: TaughtHead, embeddings: &Tensor) -> anyhow::Result<Tensor> {
        let head = self.heads.get(&head).with_context(|| format!("no head {}", head.path()))?;
        let known = head.linear.forward(embeddings);
        Ok(known.new_zeros([known.size()[0], head.values], (known.kind(), known.device())).index_copy(
            1,
            &head.places,
            &known,
        ))
    }

    /// What a head says of frames.
    pub(super) fn read(&self, head: TaughtHead, store: &Store, frames: &[usize]) -> anyhow::Result<Tensor> {
        let embeddings = self.loaded.embed(store, frames)?.into_tensor();
        let outputs = no_grad(|| self.outputs(head, &embeddings.to_device(self.loaded.vs.device())))?;
        Ok(outputs)
    }

    /// Makes every weight that of `other`.
    pub(super) fn copy(&self, other: &Self) {
        self.each(other, |mut ours, theirs| ours.copy_(theirs));
    }

    /// Moves every weight towards `other`'s by this share of the way; statistics of batch normalisation too.
    pub(super) fn follow(&self, other: &Self, share: f64) {
        self.each(other, |mut ours, theirs| {
            let _ = ours.lerp_(theirs, share);
        });
    }

    fn each(&self, other: &Self, change: impl Fn(Tensor, &Tensor)) {
        let theirs = other.loaded.vs.variables();
        no_grad(|| {
            for (name, ours) in self.loaded.vs.variables() {
                if let Some(theirs) = theirs.get(&name) {
                    change(ours, theirs);
                }
            }
        });
    }

    /// Divides the logits of a head by a temperature.
    pub(super) fn cool(&self, head: TaughtHead, temperature: f64) {
        if let Some(head) = self.heads.get(&head) {
            no_grad(|| {
                for mut part in [head.linear.ws.shallow_clone()]
                    .into_iter()
                    .chain(head.linear.bs.as_ref().map(Tensor::shallow_clone))
                {
                    part /= temperature;
                }
            });
        }
    }
}

/// Another run's encoder and its head of expressions, from which a student learns.
#[derive(Debug)]
pub(super) struct Teacher {
    loaded: Loaded,
    weight: Tensor,
    bias: Tensor,
}

impl Teacher {
    /// Its classes must be the student's, in the same order.
    pub(super) fn new(loaded: Loaded, head: &LinearHead) -> Self {
        let device = loaded.vs.device();
        let rows = head.labels().len() as i64;
        let weight = Tensor::from_slice(head.weight()).view([rows, -1]).to_device(device);
        Self { weight, bias: Tensor::from_slice(head.bias()).to_device(device), loaded }
    }

    /// Its logits of views `[N,3,S,S]` in `[0,1]`.
    pub(super) fn logits(&self, views: &Tensor, config: &JointConfig) -> Tensor {
        let input = self.loaded.input();
        let views = crate::augment::resized(views, i64::from(input.side_px));
        let crops = crate::data::normalise(&views, input.mean, input.std);
        no_grad(|| {
            let embeddings = self.loaded.encoder.forward(&crops, crate::nets::Phase::Eval, config.precision);
            embeddings.matmul(&self.weight.transpose(0, 1)) + &self.bias
        })
    }
}

/// The temperature that logits `[N,C]` are to be divided by for the least cross-entropy with labels `[N]` (Guo et al. 2017),
/// within 1/8 to 8, by golden sections of its logarithm: the cross-entropy is unimodal in it.
///
/// # Errors
/// Those of reading the values.
pub fn temperature(logits: &Tensor, labels: &[usize]) -> anyhow::Result<f64> {
    let classes = logits.size().last().copied().unwrap_or_default() as usize;
    let logits = floats(logits)?;
    let loss = |log_temperature: f64| -> f64 {
        let scale = (-log_temperature).exp();
        let rows = logits.chunks_exact(classes).zip(labels);
        rows.map(|(row, &label)| {
            let most = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|&v| (f64::from(v - most) * scale).exp()).sum();
            sum.ln() - f64::from(row[label] - most) * scale
        })
        .sum()
    };
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (-(8f64.ln()), 8f64.ln());
    for _ in 0..40 {
        let span = high - low;
        if loss(high - golden * span) < loss(low + golden * span) {
            high = low + golden * span;
        } else {
            low = high - golden * span;
        }
    }
    Ok(((low + high) / 2.0).exp())
}

/// The expected calibration error of logits `[N,C]` with labels `[N]`: over 15 equal bins of the likeliest class's
/// probability, the mean distance of that probability from the share of right answers (Guo et al. 2017, equation 3).
///
/// # Errors
/// Those of reading the values.
pub fn calibration_error(logits: &Tensor, labels: &[usize]) -> anyhow::Result<f64> {
    const BINS: usize = 15;
    let classes = logits.size().last().copied().unwrap_or_default() as usize;
    let probabilities = floats(&logits.softmax(-1, tch::Kind::Float))?;
    let (mut sure, mut right, mut n) = ([0.0; BINS], [0.0; BINS], 0.0);
    for (row, &label) in probabilities.chunks_exact(classes).zip(labels) {
        let said = semblance_calib::argmax(row);
        let bin = ((f64::from(row[said]) * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
        sure[bin] += f64::from(row[said]);
        right[bin] += f64::from(u8::from(said == label));
        n += 1.0;
    }
    Ok(sure.iter().zip(right).map(|(s, r)| (s - r).abs()).sum::<f64>() / f64::max(n, 1.0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Of two classes, the first with odds of `e^logit`, as often as those odds say.
    fn honest(logits: &[f32]) -> (Tensor, Vec<usize>) {
        let (mut rows, mut labels) = (Vec::new(), Vec::new());
        for &logit in logits {
            let first = (1000.0 / (1.0 + (-logit).exp())).round() as usize;
            for i in 0..1000 {
                rows.extend([logit, 0.0]);
                labels.push(usize::from(i >= first));
            }
        }
        (Tensor::from_slice(&rows).view([-1, 2]), labels)
    }

    #[test]
    fn the_temperature_undoes_what_logits_were_multiplied_by_and_the_error_with_it() {
        let (logits, labels) = honest(&[0.4, 1.1, -0.7, 2.0]);
        for factor in [0.5, 1.0, 3.0] {
            let scaled = &logits * factor;
            let temperature = temperature(&scaled, &labels).unwrap();
            assert!((temperature - factor).abs() < 0.01 * factor, "{temperature}");
            let cooled = calibration_error(&(&scaled / temperature), &labels).unwrap();
            assert!(cooled < 0.005, "{cooled}");
        }
        // A coin that is always called with 88 % is 38 % off.
        let coin = Tensor::from_slice(&[2f32, 0.0, 2.0, 0.0]).view([2, 2]);
        let error = calibration_error(&coin, &[0, 1]).unwrap();
        assert!((error - (1.0 / (1.0 + (-2f64).exp()) - 0.5)).abs() < 1e-6, "{error}");
    }
}
