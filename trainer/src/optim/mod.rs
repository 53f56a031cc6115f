//! Optimisers over named tensors whose whole state can be saved, and the learning-rate schedule.

mod schedule;

use serde::{Deserialize, Serialize};
use tch::{Tensor, nn, no_grad};

pub use schedule::Schedule;

/// The rule by which gradients move weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Adam (Kingma & Ba 2015, algorithm 1); weight decay is L2 regularisation, as in PyTorch's `Adam`.
    #[default]
    Adam,
    /// Adam with weight decay decoupled from the gradient (Loshchilov & Hutter 2019, algorithm 2).
    #[value(name = "adamw")]
    AdamW,
    /// Gradient descent with momentum 0.9, as PyTorch's `SGD` has it.
    Sgd,
    /// Layer-wise adaptive rates (You et al. 2017) over momentum 0.9. Biases and batch normalisation, tensors of at
    /// most one dimension, are neither adapted nor decayed, as BYOL (Grill et al. 2020, appendix F.3) has it.
    Lars,
    /// Muon (Jordan et al. 2024) for kernels of convolutions: Nesterov momentum 0.95, made orthogonal by five Newton-Schulz
    /// iterations, so that a step goes equally far in every direction, and scaled to AdamW's usual step (Liu et al. 2025,
    /// equation 4). All else is moved as by [`Rule::AdamW`], at the same rate and decay.
    Muon,
}

impl Rule {
    /// For settings that leave out what they always were.
    pub(crate) fn is_adam(&self) -> bool {
        *self == Self::Adam
    }

    /// The names that the tensors of its state carry before the parameter's.
    const fn slots(self) -> &'static [&'static str] {
        match self {
            Self::Adam | Self::AdamW => &["adam.first", "adam.second"],
            Self::Sgd | Self::Lars => &["sgd.momentum"],
            // A kernel's momentum is its first; it has no second, which stays zero.
            Self::Muon => &["muon.first", "muon.second"],
        }
    }
}

/// Adam's first beta, where nothing else is said.
pub const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const ADAM_EPS: f64 = 1e-8;
const MOMENTUM: f64 = 0.9;
const MUON_MOMENTUM: f64 = 0.95;
/// Coefficients of `x`, `x^3` and `x^5` in Muon's iteration, which takes singular values of 0.01 to 1 to about 0.7 to 1.2 in five.
const NEWTON_SCHULZ: [f64; 3] = [3.4445, -4.7750, 2.0315];
const NEWTON_SCHULZ_STEPS: usize = 5;
/// Root mean square of AdamW's usual step at a rate of 1.
const ADAM_RMS: f64 = 0.2;
/// LARS's trust coefficient, as SimCLR and BYOL have it.
const TRUST: f64 = 1e-3;

/// A trainable tensor and its name, in the order of names: the order of every saved state.
pub fn named_parameters(vs: &nn::VarStore) -> Vec<(String, Tensor)> {
    let mut parameters: Vec<_> =
        vs.variables().into_iter().filter(|(_, tensor)| tensor.requires_grad()).collect();
    parameters.sort_by(|a, b| a.0.cmp(&b.0));
    parameters
}

/// A rule, the parameters that it moves, and all that it remembers of them.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    parameters: Vec<(String, Tensor)>,
    /// A tensor a parameter for each of [`Rule::slots`].
    slots: Vec<Vec<Tensor>>,
    /// Steps that have moved each parameter.
    steps: Vec<i64>,
    weight_decay: f64,
    beta1: f64,
}

impl Optimizer {
    /// Over these parameters, at rest.
    pub fn new(rule: Rule, parameters: Vec<(String, Tensor)>, weight_decay: f64) -> Self {
        let zeros = || parameters.iter().map(|(_, p)| p.detach().zeros_like()).collect();
        let slots = rule.slots().iter().map(|_| zeros()).collect();
        let steps = vec![0; parameters.len()];
        Self { rule, parameters, slots, steps, weight_decay, beta1: BETA1 }
    }

    /// With another decay of Adam's mean gradient.
    pub fn with_beta1(self, beta1: f64) -> Self {
        Self { beta1, ..self }
    }

    /// Forgets the gradients.
    pub fn zero_grad(&mut self) {
        for (_, p) in &mut self.parameters {
            p.zero_grad();
        }
    }

    /// The gradients that there are, in the order of names.
    pub fn gradients(&self) -> Vec<Tensor> {
        self.parameters.iter().map(|(_, p)| p.grad()).filter(Tensor::defined).collect()
    }

    /// One step at this learning rate. A parameter without a gradient stays as it is.
    pub fn step(&mut self, lr: f64) {
        self.step_each(|_| Some(lr));
    }

    /// As [`Optimizer::step`], at the learning rate that `lr` gives for a parameter's name; one that it gives none for stays as
    /// it is.
    pub fn step_each(&mut self, lr: impl Fn(&str) -> Option<f64>) {
        no_grad(|| {
            for i in 0..self.parameters.len() {
                let gradient = self.parameters[i].1.grad();
                if let Some(lr) = lr(&self.parameters[i].0).filter(|_| gradient.defined()) {
                    self.steps[i] += 1;
                    match self.rule {
                        Rule::Adam => self.adam(i, gradient, lr, self.weight_decay),
                        Rule::AdamW | Rule::Muon => {
                            self.parameters[i].1 *= 1.0 - lr * self.weight_decay;
                            if self.rule == Rule::Muon && gradient.dim() == 4 {
                                self.muon(i, &gradient, lr);
                            } else {
                                self.adam(i, gradient, lr, 0.0);
                            }
                        }
                        Rule::Sgd => {
                            let gradient = self.decayed(i, gradient, self.weight_decay);
                            self.momentum(i, &gradient, lr);
                        }
                        Rule::Lars => {
                            let gradient = self.lars(i, gradient);
                            self.momentum(i, &gradient, lr);
                        }
                    }
                }
            }
        });
    }

    /// The gradient with that of `weight_decay / 2 |p|^2` added: a new tensor, for the gradient belongs to the parameter.
    fn decayed(&self, i: usize, gradient: Tensor, weight_decay: f64) -> Tensor {
        if weight_decay == 0.0 {
            return gradient;
        }
        gradient + &self.parameters[i].1 * weight_decay
    }

    fn adam(&mut self, i: usize, gradient: Tensor, lr: f64, weight_decay: f64) {
        let gradient = self.decayed(i, gradient, weight_decay);
        let correct1 = 1.0 - self.beta1.powi(self.steps[i] as i32);
        let correct2 = 1.0 - BETA2.powi(self.steps[i] as i32);
        let [first, second] = self.slots.as_mut_slice() else { return };
        let _ = first[i].lerp_(&gradient, 1.0 - self.beta1);
        second[i] *= BETA2;
        let _ = second[i].addcmul_(&(&gradient * (1.0 - BETA2)), &gradient);
        let denominator = second[i].sqrt() / correct2.sqrt() + ADAM_EPS;
        let _ = self.parameters[i].1.addcdiv_(&(&first[i] * (-lr / correct1)), &denominator);
    }

    fn muon(&mut self, i: usize, gradient: &Tensor, lr: f64) {
        let momentum = &mut self.slots[0][i];
        let _ = momentum.lerp_(gradient, 1.0 - MUON_MOMENTUM);
        let ahead = gradient.lerp(momentum, MUON_MOMENTUM);
        let matrix = ahead.flatten(1, -1);
        let longest = matrix.size().into_iter().max().unwrap_or(1) as f64;
        let step = orthogonal(&matrix).view_as(gradient) * (lr * ADAM_RMS * longest.sqrt());
        self.parameters[i].1 -= step;
    }

    /// The decayed gradient, scaled to a share of the weights' own norm.
    fn lars(&self, i: usize, gradient: Tensor) -> Tensor {
        let p = &self.parameters[i].1;
        if p.dim() <= 1 {
            return gradient;
        }
        let (weights, slope) = (p.norm(), gradient.norm());
        let ratio = &weights * TRUST / (&slope + &weights * self.weight_decay);
        // Weights or gradients of norm 0 have no direction to be scaled along.
        let usable = weights.gt(0.0).logical_and(&slope.gt(0.0));
        self.decayed(i, gradient, self.weight_decay) * ratio.where_self(&usable, &ratio.ones_like())
    }

    fn momentum(&mut self, i: usize, gradient: &Tensor, lr: f64) {
        let momentum = &mut self.slots[0][i];
        *momentum *= MOMENTUM;
        *momentum += gradient;
        self.parameters[i].1 -= &*momentum * lr;
    }

    /// Every tensor of the state under `<slot>.<name>`, a slot being `adam.first`, `adam.second`, `sgd.momentum`, `muon.first` or
    /// `muon.second`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let slots = self.rule.slots().iter().zip(&self.slots);
        slots
            .flat_map(|(slot, tensors)| {
                let named = self.parameters.iter().zip(tensors);
                named.map(move |((name, _), tensor)| (format!("{slot}.{name}"), tensor.shallow_clone()))
            })
            .collect()
    }

    /// Puts a state back that [`Optimizer::state`] gave after `steps` that moved the parameter of a name; `find` looks a
    /// tensor up by name.
    ///
    /// # Errors
    /// Those of `find`.
    pub fn restore<E>(
        &mut self,
        steps: impl Fn(&str) -> i64,
        find: impl Fn(&str) -> Result<Tensor, E>,
    ) -> Result<(), E> {
        for (slot, tensors) in self.rule.slots().iter().zip(&mut self.slots) {
            for ((name, _), tensor) in self.parameters.iter().zip(tensors) {
                let saved = find(&format!("{slot}.{name}"))?;
                no_grad(|| tensor.copy_(&saved));
            }
        }
        self.steps = self.parameters.iter().map(|(name, _)| steps(name)).collect();
        Ok(())
    }
}

/// A matrix with the singular vectors of this one, `[M,N]`, and singular values near 1; zero where it is zero.
fn orthogonal(matrix: &Tensor) -> Tensor {
    let [a, b, c] = NEWTON_SCHULZ;
    let tall = matrix.size()[0] > matrix.size()[1];
    let wide = if tall { matrix.tr() } else { matrix.shallow_clone() };
    let mut x = &wide / (wide.norm() + 1e-7);
    for _ in 0..NEWTON_SCHULZ_STEPS {
        let square = x.matmul(&x.tr());
        let polynomial = &square * b + square.matmul(&square) * c;
        x = &x * a + polynomial.matmul(&x);
    }
    if tall { x.tr() } else { x }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::HashMap;

    const START: [[f64; 3]; 2] = [[1.0, -2.0, 0.5], [0.3, 0.7, -1.1]];
    const TARGET: [[f64; 3]; 2] = [[0.0, 1.0, 0.4], [-0.2, 0.6, 2.0]];
    const DECAY: f64 = 0.01;
    const LR: f64 = 0.05;

    /// Each rule by its paper, on scalars in f64, minimising `sum (p - target)^2` over a matrix.
    fn reference(rule: Rule, steps: i32) -> Vec<f64> {
        let mut p: Vec<f64> = START.as_flattened().to_vec();
        let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
        for t in 1..=steps {
            let g: Vec<f64> =
                p.iter().zip(TARGET.as_flattened()).map(|(p, target)| 2.0 * (p - target)).collect();
            let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
            let rate = 1e-3 * norm(&p) / (norm(&g) + DECAY * norm(&p));
            for i in 0..p.len() {
                match rule {
                    Rule::Adam | Rule::AdamW => {
                        let g = if rule == Rule::Adam { g[i] + DECAY * p[i] } else { g[i] };
                        if rule == Rule::AdamW {
                            p[i] -= LR * DECAY * p[i];
                        }
                        m[i] = 0.9 * m[i] + 0.1 * g;
                        v[i] = 0.999 * v[i] + 0.001 * g * g;
                        let (mh, vh) = (m[i] / (1.0 - 0.9f64.powi(t)), v[i] / (1.0 - 0.999f64.powi(t)));
                        p[i] -= LR * mh / (vh.sqrt() + 1e-8);
                    }
                    Rule::Muon => unreachable!("has a test of its own"),
                    Rule::Sgd | Rule::Lars => {
                        let rate = if rule == Rule::Lars { rate } else { 1.0 };
                        m[i] = 0.9 * m[i] + rate * (g[i] + DECAY * p[i]);
                        p[i] -= LR * m[i];
                    }
                }
            }
        }
        p
    }

    fn run(optimizer: &mut Optimizer, p: &Tensor, steps: usize) {
        for _ in 0..steps {
            optimizer.zero_grad();
            (p - Tensor::from_slice2(&TARGET)).square().sum(None).backward();
            optimizer.step(LR);
        }
    }

    fn over(rule: Rule, p: &Tensor) -> Optimizer {
        Optimizer::new(rule, vec![("p".to_owned(), p.shallow_clone())], DECAY)
    }

    #[test]
    fn every_rule_follows_its_paper_and_continues_from_a_saved_state() {
        for rule in [Rule::Adam, Rule::AdamW, Rule::Sgd, Rule::Lars] {
            let p = Tensor::from_slice2(&START).set_requires_grad(true);
            let mut optimizer = over(rule, &p);
            run(&mut optimizer, &p, 10);
            let saved: HashMap<_, _> = optimizer.state().into_iter().map(|(n, t)| (n, t.copy())).collect();
            let middle = p.detach().copy();
            run(&mut optimizer, &p, 10);
            let got: Vec<f64> = Vec::try_from(p.detach().view(-1)).unwrap();
            for (a, b) in got.iter().zip(reference(rule, 20)) {
                assert!((a - b).abs() < 1e-12, "{rule:?}: {got:?}");
            }

            let q = middle.set_requires_grad(true);
            let mut resumed = over(rule, &q);
            resumed.restore(|_| 10, |name| saved.get(name).map(Tensor::shallow_clone).ok_or(())).unwrap();
            run(&mut resumed, &q, 10);
            assert!((q - p).abs().max().double_value(&[]) == 0.0, "{rule:?}");
        }
    }

    #[test]
    fn lars_leaves_biases_to_plain_momentum_and_survives_zeros() {
        let bias = Tensor::from_slice(&[1.0, 2.0]).set_requires_grad(true);
        let zeros = Tensor::zeros([2, 2], tch::kind::DOUBLE_CPU).set_requires_grad(true);
        let named = [("a", &bias), ("b", &zeros)].map(|(n, t)| (n.to_owned(), t.shallow_clone()));
        let mut lars = Optimizer::new(Rule::Lars, named.into(), DECAY);
        (bias.sum(None) * 3.0 + zeros.sum(None)).backward();
        lars.step(0.1);
        assert_eq!(Vec::<f64>::try_from(bias.detach()).unwrap(), [0.7, 1.7]);
        assert!(zeros.isfinite().all().int64_value(&[]) == 1);
    }

    /// Muon's step of a kernel has the momentum's singular vectors, and as singular values what the scalar iteration makes of the
    /// momentum's, from a saved state, too; tensors that are no kernels move as by AdamW.
    #[test]
    fn muon_moves_kernels_equally_far_in_every_direction_and_all_else_as_adamw() {
        tch::manual_seed(3);
        let random = |size: &[i64]| Tensor::randn(size, tch::kind::DOUBLE_CPU);
        for size in [[6, 4, 3, 3], [8, 1, 2, 2]] {
            let (start, slopes) = (random(&size), [random(&size), random(&size)]);
            let kernel = start.copy().set_requires_grad(true);
            let mut muon = over(Rule::Muon, &kernel);
            let mut expected = start.flatten(1, -1);
            let mut momentum = expected.zeros_like();
            for slope in &slopes {
                muon.zero_grad();
                (&kernel * slope).sum(None).backward();
                muon.step(LR);
                let saved: HashMap<_, _> = muon.state().into_iter().collect();
                let mut resumed = over(Rule::Muon, &kernel);
                resumed.restore(|_| 1, |name| saved.get(name).map(Tensor::copy).ok_or(())).unwrap();
                muon = resumed;
                let slope = slope.flatten(1, -1);
                momentum = &momentum * 0.95 + &slope * 0.05;
                let (u, s, v) = (&slope * 0.05 + &momentum * 0.95).svd(true, true);
                let mut s = &s / s.square().sum(None).sqrt();
                for _ in 0..5 {
                    s = &s * 3.4445 - s.pow_tensor_scalar(3) * 4.7750 + s.pow_tensor_scalar(5) * 2.0315;
                }
                assert!(s.min().double_value(&[]) > 0.6 && s.max().double_value(&[]) < 1.3, "{s}");
                let rms = 0.2 * f64::from(size[0].max(size[1] * size[2] * size[3]) as i32).sqrt();
                expected = expected * (1.0 - LR * DECAY) - (u * s).matmul(&v.tr()) * (LR * rms);
            }
            let error = (kernel.flatten(1, -1) - expected).abs().max().double_value(&[]);
            assert!(error < 1e-6, "{size:?}: {error}");
        }
        let [p, q] = [Rule::Muon, Rule::AdamW].map(|rule| {
            let p = Tensor::from_slice2(&START).set_requires_grad(true);
            run(&mut over(rule, &p), &p, 3);
            p
        });
        assert!(p.equal(&q));
    }

    #[test]
    fn muon_stays_where_a_kernel_never_had_a_slope() {
        let kernel = Tensor::zeros([2, 2, 3, 3], tch::kind::DOUBLE_CPU).set_requires_grad(true);
        (&kernel * 0.0).sum(None).backward();
        over(Rule::Muon, &kernel).step(LR);
        assert_eq!(kernel.abs().max().double_value(&[]), 0.0);
    }
}
