//! A slowly moving copy of a network: MoCo's key encoder, BYOL's target, and the average that is evaluated.

use tch::{Tensor, nn, no_grad};

/// Variables under one path that follow those of the same names under another.
#[derive(Debug)]
pub(super) struct Follower {
    /// Leader and copy of each trainable variable.
    pairs: Vec<(Tensor, Tensor)>,
}

impl Follower {
    /// Makes every variable under `copy` equal to its namesake under `leader`, and takes the copies out of training.
    /// A variable of `copy` without a namesake stays as it is.
    pub(super) fn new(vs: &nn::VarStore, leader: &str, copy: &str) -> Self {
        let variables = vs.variables();
        let mut pairs = Vec::new();
        for (name, of) in &variables {
            let Some(rest) = name.strip_prefix(leader) else { continue };
            let Some(copied) = variables.get(&format!("{copy}{rest}")) else { continue };
            let mut copied = copied.shallow_clone();
            no_grad(|| copied.copy_(of));
            // Statistics of batch normalisation are not averaged: each network keeps its own, as MoCo and BYOL have it.
            if of.requires_grad() {
                let _ = copied.set_requires_grad(false);
                pairs.push((of.shallow_clone(), copied));
            }
        }
        Self { pairs }
    }

    /// Follows another's variables, too.
    pub(super) fn join(&mut self, other: Self) {
        self.pairs.extend(other.pairs);
    }

    /// `copy = momentum copy + (1 - momentum) leader`.
    pub(super) fn follow(&mut self, momentum: f64) {
        no_grad(|| {
            for (leader, copy) in &mut self.pairs {
                let _ = copy.lerp_(leader, 1.0 - momentum);
            }
        });
    }
}
