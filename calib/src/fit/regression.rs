//! Ridge regression of valence and arousal: squared error, prior at the shipped head.

/// Half the squared error of one output.
pub(crate) fn loss(target: f64, u: f64) -> f64 {
    0.5 * (u - target) * (u - target)
}

/// `t - u` at the `u` that minimises `loss(u) + (u - u0)² / 2c`, in closed form.
pub(crate) fn dual(target: f64, c: f64, u0: f64) -> f64 {
    (target - u0) / (1.0 + c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dual_variable_is_the_slope_where_it_leads() {
        for (target, c, u0) in [(1.0, 3.0, -2.0), (-0.5, 1e-6, 4.0), (0.2, 1e6, 0.0)] {
            let alpha = dual(target, c, u0);
            assert!((alpha - (target - (u0 + c * alpha))).abs() < 1e-9);
        }
        assert_eq!(loss(1.0, -1.0), 2.0);
    }
}
