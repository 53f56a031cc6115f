//! A learning rate that falls where the loss does not.

use serde::{Deserialize, Serialize};
use tch::{Tensor, nn, no_grad};

use super::Done;

/// When the learning rate falls. The defaults are FAb-Net's (supplement 1.2, and its authors' patience).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlateauConfig {
    /// Epochs without a new least mean loss that are waited for; 0 for a rate that does not fall.
    pub patience_epochs: i64,
    /// What the rate is multiplied by then.
    pub factor: f64,
}

impl Default for PlateauConfig {
    fn default() -> Self {
        Self { patience_epochs: 15, factor: 0.1 }
    }
}

/// Watches the mean loss of epochs.
#[derive(Debug)]
pub(super) struct Plateau {
    config: PlateauConfig,
    /// Sum and count of the present epoch's losses, the least mean, epochs since, and the rate's factor: a tensor, so that
    /// checkpoints hold it.
    state: Tensor,
    /// What the state has, read once: asking a GPU every step would hold it up.
    rate: f64,
}

const SUM: i64 = 0;
const COUNT: i64 = 1;
const LEAST: i64 = 2;
const WAITED: i64 = 3;
const RATE: i64 = 4;

impl Plateau {
    /// Nothing seen yet; under `plateau`.
    pub(super) fn new(path: &nn::Path<'_>, config: PlateauConfig) -> Self {
        let mut state = path.zeros_no_train("plateau", &[5]);
        no_grad(|| state.copy_(&Tensor::from_slice(&[0f32, 0.0, f32::INFINITY, 0.0, 1.0])));
        Self { config, state, rate: 1.0 }
    }

    fn set(&mut self, at: i64, value: f64) {
        no_grad(|| {
            let _ = self.state.get(at).fill_(value);
        });
    }

    /// Takes in a step's loss, a scalar; after an epoch the rate falls where it is time.
    pub(super) fn follow(&mut self, loss: &Tensor, done: &Done<'_>) {
        self.add(loss);
        if done.epoch_done && self.end_of_epoch() {
            self.lower();
        }
    }

    /// A step's loss, a scalar.
    pub(super) fn add(&mut self, loss: &Tensor) {
        no_grad(|| {
            let mut sum = self.state.get(SUM);
            sum += loss.to_kind(sum.kind());
            let mut count = self.state.get(COUNT);
            count += 1.0;
        });
    }

    /// Ends an epoch; tells whether the loss has not fallen for as long as is waited.
    pub(super) fn end_of_epoch(&mut self) -> bool {
        let at = |i| self.state.double_value(&[i]);
        let (mean, least, waited) = (at(SUM) / at(COUNT).max(1.0), at(LEAST), at(WAITED));
        self.set(SUM, 0.0);
        self.set(COUNT, 0.0);
        if mean < least {
            self.set(LEAST, mean);
            self.set(WAITED, 0.0);
            return false;
        }
        let reached = self.config.patience_epochs > 0 && waited + 1.0 >= self.config.patience_epochs as f64;
        self.set(WAITED, if reached { 0.0 } else { waited + 1.0 });
        reached
    }

    /// The least mean is looked for anew.
    pub(super) fn forget(&mut self) {
        self.set(LEAST, f64::INFINITY);
    }

    /// The rate falls.
    pub(super) fn lower(&mut self) {
        // As a checkpoint holds it.
        self.rate = f64::from((self.rate * self.config.factor) as f32);
        self.set(RATE, self.rate);
    }

    /// What the learning rate is multiplied by.
    pub(super) const fn rate(&self) -> f64 {
        self.rate
    }

    /// The state was put back as a checkpoint has it.
    pub(super) fn restored(&mut self) {
        self.rate = self.state.double_value(&[RATE]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn the_rate_falls_after_so_many_epochs_without_a_new_least() {
        let vs = nn::VarStore::new(Device::Cpu);
        let mut plateau = Plateau::new(&vs.root(), PlateauConfig { patience_epochs: 2, factor: 0.1 });
        let mut epoch = |losses: [f64; 2]| {
            losses.into_iter().for_each(|loss| plateau.add(&Tensor::from(loss)));
            let reached = plateau.end_of_epoch();
            if reached {
                plateau.lower();
            }
            (reached, plateau.rate())
        };
        assert_eq!(epoch([2.0, 4.0]), (false, 1.0));
        assert_eq!(epoch([1.0, 3.0]), (false, 1.0));
        assert_eq!(epoch([0.5, 4.5]), (false, 1.0), "2.5 is not below 2: one");
        assert_eq!(epoch([1.0, 2.9]), (false, 1.0), "1.95 is below 2");
        assert_eq!(epoch([2.0, 2.0]), (false, 1.0));
        let (reached, rate) = epoch([2.0, 2.0]);
        assert!(reached && (rate - 0.1).abs() < 1e-7, "{rate}");
        assert!(!epoch([2.0, 2.0]).0);
    }
}
