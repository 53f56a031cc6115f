//! Logistic regression of each action unit on its own, with soft targets in `[0, 1]`.

/// Binary cross-entropy of a target in `[0, 1]` at the logit `u`, without overflow.
pub(crate) fn loss(target: f64, u: f64) -> f64 {
    u.max(0.0) - target * u + (-u.abs()).exp().ln_1p()
}

/// `1 / (1 + e^-u)`.
pub(crate) fn probability(u: f64) -> f64 {
    1.0 / (1.0 + (-u).exp())
}

/// `t - p(u)` at the `u` that minimises `loss(u) + (u - u0)² / 2c`: Newton's method on the rising function
/// `u - u0 - c (t - p(u))`, within the interval that must hold its zero, to within about `precision`. `start` is a guess.
pub(crate) fn dual(target: f64, c: f64, precision: f64, u0: f64, start: f64) -> f64 {
    const STEPS: usize = 60;
    let (mut low, mut high) = (u0 + c * (target - 1.0), u0 + c * target);
    let mut u = start.clamp(low, high);
    for _ in 0..STEPS {
        let p = probability(u);
        let g = u - u0 - c * (target - p);
        if g.abs() <= precision * c.max(1.0) {
            break;
        }
        *(if g > 0.0 { &mut high } else { &mut low }) = u;
        let newton = u - g / (1.0 + c * p * (1.0 - p));
        u = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
    }
    target - probability(u)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dual_variable_is_the_slope_where_it_leads() {
        for c in [1e-6, 0.3, 20.0, 1e5] {
            for target in [0.0, 0.3, 1.0] {
                for u0 in [0.0, 40.0, -1e3] {
                    let alpha = dual(target, c, 1e-12, u0, 0.0);
                    let there = target - probability(u0 + c * alpha);
                    assert!((alpha - there).abs() < 1e-8, "c {c} t {target} u0 {u0}: {alpha} {there}");
                }
            }
        }
    }

    #[test]
    fn loss_matches_worked_examples_and_survives_huge_logits() {
        assert!((loss(0.5, 0.0) - 2.0_f64.ln()).abs() < 1e-12);
        assert!((loss(1.0, 3.0_f64.ln()) - (4.0_f64 / 3.0).ln()).abs() < 1e-12);
        assert_eq!((loss(0.0, 1e4), loss(1.0, 1e4)), (1e4, 0.0));
    }
}
