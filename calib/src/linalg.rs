//! The two inner loops of every fit, in f64. Lanes are fixed and products are rounded before they are added, so that
//! wider registers make them faster and leave every bit of the result as it is.

const LANES: usize = 16;

/// Defines a loop twice on x86-64, where the baseline has registers of two values and nearly every processor four.
macro_rules! with_wide_registers {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)? $body:block) => {
        $(#[$doc])*
        pub(crate) fn $name($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            fn plain($($arg: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn wide($($arg: $type),*) $(-> $out)? {
                    plain($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has AVX2, which is all that `wide` asks for.
                    return unsafe { wide($($arg),*) };
                }
            }
            plain($($arg),*)
        }
    };
}

/// Sum of the lanes. Out of line: seen together with the loop before it, it would keep that loop out of wide registers.
#[inline(never)]
fn sum(lanes: &[f64; LANES]) -> f64 {
    lanes.iter().sum()
}

with_wide_registers! {
    /// Sum of products. The slices have the same length.
    fn dot(a: &[f64], b: &[f64]) -> f64 {
        let (a_lanes, a_rest) = a.as_chunks::<LANES>();
        let (b_lanes, b_rest) = b.as_chunks::<LANES>();
        let mut sums = [0.0; LANES];
        for (a, b) in a_lanes.iter().zip(b_lanes) {
            for lane in 0..LANES {
                sums[lane] += a[lane] * b[lane];
            }
        }
        let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
        sum(&sums) + rest
    }
}

with_wide_registers! {
    /// `y += s x`. The slices have the same length.
    fn axpy(s: f64, x: &[f64], y: &mut [f64]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += s * x;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Solves `A x = b` for a symmetric positive definite `A`, row-major, by Cholesky: the reference for the fits.
    pub(crate) fn solve_spd(mut a: Vec<f64>, b: &[f64]) -> Vec<f64> {
        let n = b.len();
        for j in 0..n {
            for i in j..n {
                let (before_i, before_j) = (&a[i * n..i * n + j], &a[j * n..j * n + j]);
                let rest = a[i * n + j] - dot(before_i, before_j);
                a[i * n + j] = if i == j { rest.sqrt() } else { rest / a[j * n + j] };
            }
        }
        let mut x = b.to_vec();
        for i in 0..n {
            x[i] = (x[i] - dot(&a[i * n..i * n + i], &x[..i])) / a[i * n + i];
        }
        for i in (0..n).rev() {
            let above: f64 = (i + 1..n).map(|j| a[j * n + i] * x[j]).sum();
            x[i] = (x[i] - above) / a[i * n + i];
        }
        x
    }

    #[test]
    fn products_are_those_of_the_plain_loops() {
        let a: Vec<f64> = (0..19).map(f64::from).collect();
        assert_eq!(dot(&a, &a), 2109.0);
        let mut y = a.clone();
        axpy(-2.0, &a, &mut y);
        assert!(y.iter().zip(&a).all(|(y, a)| *y == -a));
    }

    #[test]
    fn a_small_system_is_solved() {
        let x = solve_spd(vec![4.0, 2.0, 2.0, 3.0], &[2.0, -1.0]);
        assert!((x[0] - 1.0).abs() < 1e-12 && (x[1] + 1.0).abs() < 1e-12, "{x:?}");
    }
}
