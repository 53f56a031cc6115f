//! The learning rate of each step.

/// A linear warm-up, a constant rate, then half a cosine down to 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The rate after the warm-up.
    pub lr: f64,
    /// Steps over which the rate rises from 0 (Goyal et al. 2017); 0 for none.
    pub warmup_steps: i64,
    /// Steps before the cosine begins, the warm-up's among them (SSLFER 4.1: it begins with epoch 10).
    pub constant_steps: i64,
    /// Steps in all.
    pub total_steps: i64,
}

impl Schedule {
    /// Half a cosine from the first step to the last.
    pub const fn cosine(lr: f64, total_steps: i64) -> Self {
        Self { lr, warmup_steps: 0, constant_steps: 0, total_steps }
    }

    /// The rate of `step` were there no cosine: the warm-up, then a constant.
    pub fn undecayed_lr_at(&self, step: i64) -> f64 {
        if step < self.warmup_steps { self.lr_at(step) } else { self.lr }
    }

    /// The rate of `step`, counted from 0. Within the warm-up it is `lr (step + 1) / warmup_steps`.
    pub fn lr_at(&self, step: i64) -> f64 {
        if step < self.warmup_steps {
            return self.lr * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let start = self.constant_steps.max(self.warmup_steps);
        if step < start {
            return self.lr;
        }
        let span = (self.total_steps - start).max(1);
        let progress = (step - start) as f64 / span as f64;
        self.lr * 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_stays_and_falls_along_half_a_cosine() {
        let schedule = Schedule { lr: 2.0, warmup_steps: 4, constant_steps: 10, total_steps: 30 };
        let rates = [(0, 0.5), (1, 1.0), (3, 2.0), (4, 2.0), (10, 2.0), (20, 1.0), (30, 0.0), (99, 0.0)];
        for (step, rate) in rates {
            assert!((schedule.lr_at(step) - rate).abs() < 1e-12, "step {step}: {}", schedule.lr_at(step));
        }
        assert_eq!([0, 3, 20, 30].map(|step| schedule.undecayed_lr_at(step)), [0.5, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn a_cosine_may_follow_the_warm_up_at_once() {
        let schedule = Schedule { warmup_steps: 10, ..Schedule::cosine(1.0, 20) };
        assert_eq!(schedule.lr_at(9), 1.0);
        assert_eq!(schedule.lr_at(10), 1.0);
        assert!((schedule.lr_at(15) - 0.5).abs() < 1e-12);
    }
}
