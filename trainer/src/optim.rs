//! Optimisers over named tensors whose whole state can be saved, and the learning-rate schedule.

use tch::{Tensor, nn, no_grad};

/// A trainable tensor and its name, in the order of names: the order of every saved state.
pub fn named_parameters(vs: &nn::VarStore) -> Vec<(String, Tensor)> {
    let mut parameters: Vec<_> =
        vs.variables().into_iter().filter(|(_, tensor)| tensor.requires_grad()).collect();
    parameters.sort_by(|a, b| a.0.cmp(&b.0));
    parameters
}

/// Adam (Kingma & Ba 2015, algorithm 1) with L2 regularisation added to the gradient, as PyTorch's `Adam` has it.
#[derive(Debug)]
pub struct Adam {
    parameters: Vec<(String, Tensor)>,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    steps: i64,
    /// Factor on the squared norm's gradient; 0 for none.
    pub weight_decay: f64,
}

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPS: f64 = 1e-8;

impl Adam {
    /// Over these parameters, at rest.
    pub fn new(parameters: Vec<(String, Tensor)>, weight_decay: f64) -> Self {
        let zeros = || parameters.iter().map(|(_, p)| p.detach().zeros_like()).collect::<Vec<_>>();
        let (first, second) = (zeros(), zeros());
        Self { parameters, first, second, steps: 0, weight_decay }
    }

    /// Forgets the gradients.
    pub fn zero_grad(&mut self) {
        for (_, p) in &mut self.parameters {
            p.zero_grad();
        }
    }

    /// One step at this learning rate. A parameter without a gradient stays as it is.
    pub fn step(&mut self, lr: f64) {
        self.steps += 1;
        let correct1 = 1.0 - BETA1.powi(self.steps as i32);
        let correct2 = 1.0 - BETA2.powi(self.steps as i32);
        no_grad(|| {
            for ((_, p), (m, v)) in
                self.parameters.iter_mut().zip(self.first.iter_mut().zip(&mut self.second))
            {
                let mut g = p.grad();
                if !g.defined() {
                    continue;
                }
                if self.weight_decay != 0.0 {
                    // A new tensor, not an addition in place: the gradient belongs to the parameter.
                    g = &g + &*p * self.weight_decay;
                }
                let _ = m.lerp_(&g, 1.0 - BETA1);
                *v *= BETA2;
                let _ = v.addcmul_(&(&g * (1.0 - BETA2)), &g);
                let denominator = v.sqrt() / correct2.sqrt() + EPS;
                let _ = p.addcdiv_(&(&*m * (-lr / correct1)), &denominator);
            }
        });
    }

    /// Steps taken.
    pub fn steps(&self) -> i64 {
        self.steps
    }

    /// Every tensor of the state under `adam.first.<name>` and `adam.second.<name>`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = Vec::with_capacity(2 * self.parameters.len());
        for (kind, moments) in [("first", &self.first), ("second", &self.second)] {
            for ((name, _), moment) in self.parameters.iter().zip(moments) {
                state.push((format!("adam.{kind}.{name}"), moment.shallow_clone()));
            }
        }
        state
    }

    /// Puts a state back that [`Adam::state`] gave; `find` looks a tensor up by name.
    ///
    /// # Errors
    /// Those of `find`.
    pub fn restore<E>(&mut self, steps: i64, find: impl Fn(&str) -> Result<Tensor, E>) -> Result<(), E> {
        for (kind, tensors) in [("first", &mut self.first), ("second", &mut self.second)] {
            for ((name, _), tensor) in self.parameters.iter().zip(tensors) {
                let saved = find(&format!("adam.{kind}.{name}"))?;
                no_grad(|| tensor.copy_(&saved));
            }
        }
        self.steps = steps;
        Ok(())
    }
}

/// A constant rate, then half a cosine down to 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CosineSchedule {
    /// The rate at the start.
    pub lr: f64,
    /// Steps before the cosine begins (SSLFER 4.1: it begins with epoch 10).
    pub constant_steps: i64,
    /// Steps in all.
    pub total_steps: i64,
}

impl CosineSchedule {
    /// The rate of `step`, counted from 0.
    pub fn lr_at(&self, step: i64) -> f64 {
        if step < self.constant_steps {
            return self.lr;
        }
        let span = (self.total_steps - self.constant_steps).max(1);
        let progress = (step - self.constant_steps) as f64 / span as f64;
        self.lr * 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::Kind;

    /// Adam by its paper, on scalars in f64, minimising `sum (p - target)^2`.
    fn reference(start: &[f64], target: &[f64], weight_decay: f64, lr: f64, steps: i32) -> Vec<f64> {
        let mut p = start.to_vec();
        let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
        for t in 1..=steps {
            for i in 0..p.len() {
                let g = 2.0 * (p[i] - target[i]) + weight_decay * p[i];
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let (mh, vh) = (m[i] / (1.0 - 0.9f64.powi(t)), v[i] / (1.0 - 0.999f64.powi(t)));
                p[i] -= lr * mh / (vh.sqrt() + 1e-8);
            }
        }
        p
    }

    fn run(adam: &mut Adam, p: &Tensor, target: &Tensor, steps: usize) {
        for _ in 0..steps {
            adam.zero_grad();
            (p - target).square().sum(None).backward();
            adam.step(0.05);
        }
    }

    #[test]
    fn adam_follows_its_paper_and_continues_from_a_saved_state() {
        let start = [1.0, -2.0, 0.5];
        let target_values = [0.0, 1.0, 0.4];
        let target = Tensor::from_slice(&target_values);
        let fresh = || Tensor::from_slice(&start).set_requires_grad(true);
        let p = fresh();
        let mut adam = Adam::new(vec![("p".to_owned(), p.shallow_clone())], 0.01);
        run(&mut adam, &p, &target, 10);
        let saved: std::collections::HashMap<_, _> =
            adam.state().into_iter().map(|(n, t)| (n, t.copy())).collect();
        let middle = p.detach().copy();
        run(&mut adam, &p, &target, 10);
        let expected = reference(&start, &target_values, 0.01, 0.05, 20);
        let got: Vec<f64> = Vec::try_from(p.detach()).unwrap();
        for (a, b) in got.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-12, "{got:?} {expected:?}");
        }

        let q = middle.set_requires_grad(true);
        let mut resumed = Adam::new(vec![("p".to_owned(), q.shallow_clone())], 0.01);
        resumed.restore(10, |name| saved.get(name).map(Tensor::shallow_clone).ok_or(())).unwrap();
        run(&mut resumed, &q, &target, 10);
        assert!((q - p).abs().max().to_kind(Kind::Double).double_value(&[]) == 0.0);
    }

    #[test]
    fn the_schedule_is_flat_and_then_half_a_cosine() {
        let schedule = CosineSchedule { lr: 2.0, constant_steps: 10, total_steps: 30 };
        assert_eq!(schedule.lr_at(0), 2.0);
        assert_eq!(schedule.lr_at(10), 2.0);
        assert!((schedule.lr_at(20) - 1.0).abs() < 1e-12);
        assert!(schedule.lr_at(30).abs() < 1e-12 && schedule.lr_at(99).abs() < 1e-12);
    }
}
