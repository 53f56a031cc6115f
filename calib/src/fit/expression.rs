//! Multinomial logistic regression with balanced softmax.
//!
//! Training scores are `logits + ln n_c` with `n_c` the labels of class `c` (Ren et al., "Balanced Meta-Softmax for
//! Long-Tailed Visual Recognition", NeurIPS 2020), prediction uses the logits alone: who smiles for a minute and
//! frowns for a second does not teach the head that people smile.
//!
//! A class without a label counts as one (`n_c >= 1`). With `n_c = 0` it would drop out of the denominator: "that was
//! happy" could not correct a head that says "fear". With the count of the others it would be held responsible for
//! every frame and pushed out of reach by three labelled classes. As one sample among hundreds it keeps its prior row
//! to within what one sample can move, and gives way where it is plainly wrong.

/// Turns the labels of each class into `ln max(n_c, 1)`.
pub(crate) fn log_counts(counts: &mut [f64]) {
    counts.iter_mut().for_each(|c| *c = c.max(1.0).ln());
}

/// `ln sum_k exp(u_k + offset_k)`, and the softmax of the same into `p`.
fn log_sum_exp(u: &[f64], offset: &[f64], p: &mut [f64]) -> f64 {
    let max = u.iter().zip(offset).map(|(u, o)| u + o).fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for ((p, u), o) in p.iter_mut().zip(u).zip(offset) {
        *p = (u + o - max).exp();
        sum += *p;
    }
    p.iter_mut().for_each(|p| *p /= sum);
    max + sum.ln()
}

/// Turns logits into probabilities.
pub(crate) fn softmax(logits: &mut [f64]) {
    let mut buffers = [[0.0; crate::heads::MAX_LABELS]; 2];
    let [offset, p] = buffers.each_mut().map(|b| &mut b[..logits.len()]);
    log_sum_exp(logits, offset, p);
    logits.copy_from_slice(p);
}

/// Cross-entropy of a target (which sums to one) at logits `u`; leaves the probabilities in `p`.
pub(crate) fn loss(target: &[f64], u: &[f64], offset: &[f64], p: &mut [f64]) -> f64 {
    log_sum_exp(u, offset, p) - target.iter().zip(u).zip(offset).map(|((t, u), o)| t * (u + o)).sum::<f64>()
}

/// `t - p(u)` at the `u` that minimises `CE(u) + |u - u0|² / 2c`, by Newton's method with backtracking from `u`, which
/// it replaces, to within about `precision`. The Hessian is diagonal minus a rank of one, so that a step costs O(classes).
pub(crate) fn dual(target: &[f64], offset: &[f64], c: f64, precision: f64, u0: &[f64], u: &mut [f64]) {
    const STEPS: usize = 50;
    let outputs = u.len();
    let mut buffers = [[0.0; crate::heads::MAX_LABELS]; 3];
    let [p, direction, trial] = buffers.each_mut().map(|b| &mut b[..outputs]);
    let objective = |u: &[f64], p: &mut [f64]| {
        let apart: f64 = u.iter().zip(u0).map(|(u, u0)| (u - u0) * (u - u0)).sum();
        loss(target, u, offset, p) + apart / (2.0 * c)
    };
    let mut value = objective(u, p);
    'newton: for _ in 0..STEPS {
        // g = u - u0 - c (t - p) is c times the gradient; J = I + c (diag p - p p') its derivative.
        let (mut largest, mut p_ag, mut p_ap) = (0.0_f64, 0.0, 0.0);
        for k in 0..outputs {
            let g = u[k] - u0[k] - c * (target[k] - p[k]);
            let a = 1.0 / (1.0 + c * p[k]);
            largest = largest.max(g.abs());
            direction[k] = a * g;
            p_ag += p[k] * a * g;
            p_ap += p[k] * a;
        }
        if largest <= precision * c.max(1.0) {
            break;
        }
        // Sherman-Morrison; 1 - c p' A⁻¹ p = sum_k p_k / (1 + c p_k) because the p_k sum to one.
        let common = c * p_ag / p_ap;
        let mut slope = 0.0;
        for k in 0..outputs {
            let g = u[k] - u0[k] - c * (target[k] - p[k]);
            direction[k] += common * p[k] / (1.0 + c * p[k]);
            slope += g * direction[k] / c;
        }
        let mut step = 1.0;
        loop {
            for k in 0..outputs {
                trial[k] = u[k] - step * direction[k];
            }
            let next = objective(trial, p);
            if next <= value - 1e-4 * step * slope {
                value = next;
                u.copy_from_slice(trial);
                break;
            }
            step *= 0.5;
            if step < 1e-6 {
                // Rounding hides any further descent.
                break 'newton;
            }
        }
    }
    log_sum_exp(u, offset, p);
    u.iter_mut().zip(target).zip(p).for_each(|((u, t), p)| *u = t - *p);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_absent_classes_are_one() {
        let mut counts = [2.0, 0.0, 1.0];
        log_counts(&mut counts);
        assert_eq!(counts, [2.0_f64.ln(), 0.0, 0.0]);
    }

    #[test]
    fn the_dual_variable_is_the_slope_where_it_leads() {
        let (target, offset) = ([0.0, 1.0, 0.0], [3.0, 0.0, 1.0]);
        for c in [1e-6, 0.3, 20.0, 1e5] {
            for u0 in [[0.0, 0.0, 0.0], [40.0, -40.0, 3.0], [-1e3, 1e3, 0.0]] {
                let (mut alpha, mut p) = (u0, [0.0; 3]);
                dual(&target, &offset, c, 1e-12, &u0, &mut alpha);
                let u: Vec<f64> = u0.iter().zip(&alpha).map(|(u0, a)| u0 + c * a).collect();
                loss(&target, &u, &offset, &mut p);
                for k in 0..3 {
                    assert!((alpha[k] - (target[k] - p[k])).abs() < 1e-8, "c {c} u0 {u0:?}: {alpha:?} {p:?}");
                }
            }
        }
    }

    #[test]
    fn loss_matches_the_worked_example() {
        let mut p = [0.0; 2];
        let value = loss(&[1.0, 0.0], &[0.0, 0.0], &[3.0_f64.ln(), 0.0], &mut p);
        assert!((value - (4.0_f64 / 3.0).ln()).abs() < 1e-12 && (p[0] - 0.75).abs() < 1e-12);
    }
}
