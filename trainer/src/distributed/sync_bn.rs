//! Batch normalisation with the statistics of every process's batch.

use std::ptr;

use tch::{Kind, TchError, Tensor, nn, no_grad};

use super::ffi::{outcome, semblance_batch_norm_sums};
use super::gradient::with_gradient;
use super::{DistributedError, Group};

const OPERATION: &str = "sync_batch_norm";

/// Batch normalisation in training with mean and variance over the batches of all processes, as if they were one.
///
/// `x` is `[N,C]` or `[N,C,..]` in f32, f64 or bf16; `N` may differ between processes. The result is that of
/// `bn.forward_t(x, true)` on the concatenated batch, and so are the gradients, given that those of parameters are summed
/// over processes afterwards ([`Group::all_reduce_sum`]). `bn`'s running statistics move by `momentum` as they do there.
/// `x` must not be changed in place before the backward pass.
///
/// Forward, each process sends its mean and variance (`2 C + 1` values), which are pooled (Chan et al. 1979); backward,
/// the sums of the output's gradient and of its product with the normalised input (`2 C` values; Ioffe and Szegedy 2015,
/// section 3).
///
/// A failure has no place in a layer's result: the group keeps it, and [`Group::backward`] or the next other
/// operation returns it. `x` is then normalised with its own statistics.
pub fn sync_batch_norm(x: &Tensor, bn: &nn::BatchNorm, momentum: f64, eps: f64, group: &Group) -> Tensor {
    if group.world() > 1
        && let Ok(y) = synchronised(x, bn, momentum, eps, group).inspect_err(|e| group.fail(e))
    {
        return y;
    }
    let (mean, var) = (Some(&bn.running_mean), Some(&bn.running_var));
    x.batch_norm(bn.ws.as_ref(), bn.bs.as_ref(), mean, var, true, momentum, eps, true)
}

/// What normalises each channel: `[C]` each, and the number of values a channel over all processes, a scalar.
struct Pooled {
    mean: Tensor,
    var: Tensor,
    count: Tensor,
}

fn synchronised(
    x: &Tensor,
    bn: &nn::BatchNorm,
    momentum: f64,
    eps: f64,
    group: &Group,
) -> Result<Tensor, DistributedError> {
    let failed = |e: TchError| DistributedError::torch(OPERATION, &e);
    let (ws, bs) = (bn.ws.as_ref(), bn.bs.as_ref());
    let (pooled, y, weight) = no_grad(|| {
        let pooled = pool(x, group)?;
        update_running(bn, &pooled, momentum).map_err(failed)?;
        let weight = match ws {
            Some(ws) => ws.detach(),
            None => pooled.mean.f_ones_like().map_err(failed)?,
        };
        let (mean, var) = (Some(&pooled.mean), Some(&pooled.var));
        let (y, _, _) = x.f_native_batch_norm(ws, bs, mean, var, false, momentum, eps).map_err(failed)?;
        Ok((pooled, y, weight))
    })?;
    let inputs: Vec<&Tensor> = [Some(x), ws, bs].into_iter().flatten().collect();
    let (scaled, shifted) = (ws.is_some(), bs.is_some());
    let (input, group) = (x.detach(), group.clone());
    with_gradient(OPERATION, &y, &inputs, move |grad| {
        let [dx, dw, db] = gradients(grad, &input, &weight, &pooled, eps, &group)?;
        Ok([Some(dx), scaled.then_some(dw), shifted.then_some(db)].into_iter().flatten().collect())
    })
}

/// The statistics of all processes' batches from those of each.
fn pool(x: &Tensor, group: &Group) -> Result<Pooled, DistributedError> {
    let failed = |e: TchError| DistributedError::torch(OPERATION, &e);
    let channels = x.size().get(1).copied().unwrap_or(0);
    let ours = || -> Result<Tensor, TchError> {
        // What it moves is of no interest but for its kind, that of the result.
        let kind = if x.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let moved = Tensor::f_zeros(channels, (kind, x.device()))?;
        let (mean, var) = x.f_batch_norm_update_stats(Some(&moved), Some(&moved), 0.0)?;
        let count = Tensor::f_full(1, x.numel() as f64 / channels as f64, (kind, x.device()))?;
        Tensor::f_cat(&[mean, var, count], 0)
    };
    let ours = ours().map_err(failed)?;
    let all = group.gather_like(OPERATION, &ours)?;
    let combine = || -> Result<Pooled, TchError> {
        let all = all.f_view([-1, 2 * channels + 1])?;
        let (means, vars) = (all.f_narrow(1, 0, channels)?, all.f_narrow(1, channels, channels)?);
        let counts = all.f_narrow(1, 2 * channels, 1)?;
        let count = counts.f_sum(None)?;
        let share = counts.f_div(&count)?;
        let over_processes =
            |values: Tensor| values.f_mul(&share)?.f_sum_dim_intlist([0].as_slice(), false, None);
        let mean = over_processes(means.shallow_clone())?;
        let var = over_processes(means.f_sub(&mean)?.f_square()?.f_add(&vars)?)?;
        Ok(Pooled { mean, var, count })
    };
    combine().map_err(failed)
}

/// As torch does: the running variance is of the unbiased kind.
fn update_running(bn: &nn::BatchNorm, pooled: &Pooled, momentum: f64) -> Result<(), TchError> {
    let less_one = pooled.count.f_sub_scalar(1)?.f_clamp_min(1)?;
    let unbiased = pooled.var.f_mul(&pooled.count)?.f_div(&less_one)?;
    for (running, now) in [(&bn.running_mean, &pooled.mean), (&bn.running_var, &unbiased)] {
        let _ = running.shallow_clone().f_lerp_(&now.f_to_kind(running.kind())?, momentum)?;
    }
    Ok(())
}

/// Gradients of the input, the scale and the shift; of the latter two, this process's share.
fn gradients(
    grad: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    pooled: &Pooled,
    eps: f64,
    group: &Group,
) -> Result<[Tensor; 3], DistributedError> {
    let Pooled { mean, var, count } = pooled;
    let [db, dw] = channel_sums(grad, x, weight, pooled, eps)?;
    let failed = |e: TchError| DistributedError::torch(OPERATION, &e);
    let sums = Tensor::f_cat(&[&db, &dw], 0).map_err(failed)?;
    group.sum_like(OPERATION, &sums)?;
    let whole = || -> Result<Tensor, TchError> {
        let channels = db.size1()?;
        let mean_grad = sums.f_narrow(0, 0, channels)?.f_div(count)?;
        let mean_product = sums.f_narrow(0, channels, channels)?.f_div(count)?;
        // dx = scale (grad - mean_grad - normalised x mean_product)
        let inverse = var.f_add_scalar(eps)?.f_rsqrt()?;
        let scale = weight.f_mul(&inverse)?;
        let slope = scale.f_mul(&inverse)?.f_mul(&mean_product)?.f_neg()?;
        let offset = slope.f_mul(mean)?.f_add(&scale.f_mul(&mean_grad)?)?.f_neg()?;
        let mut shape = vec![1; x.dim()];
        shape[1] = channels;
        let each = |values: &Tensor| values.f_view(shape.as_slice());
        let mut dx = each(&offset)?.f_addcmul(grad, &each(&scale)?)?;
        dx.f_addcmul_(x, &each(&slope)?)?.f_to_kind(x.kind())
    };
    Ok([whole().map_err(failed)?, dw, db])
}

/// The sum over each channel of the output's gradient, and of its product with the normalised input: `[C]` each.
fn channel_sums(
    grad: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    pooled: &Pooled,
    eps: f64,
) -> Result<[Tensor; 2], DistributedError> {
    let (mut sum, mut product) = (ptr::null_mut(), ptr::null_mut());
    outcome(|error| {
        // SAFETY: the tensors live until the call returns, and what is passed to be written to can be.
        unsafe {
            semblance_batch_norm_sums(
                grad.as_ptr().cast(),
                x.as_ptr().cast(),
                weight.as_ptr().cast(),
                pooled.mean.as_ptr().cast(),
                pooled.var.as_ptr().cast(),
                eps,
                &mut sum,
                &mut product,
                error,
            )
        }
    })
    .map_err(|reason| DistributedError::Torch { operation: OPERATION, reason })?;
    // SAFETY: the shim gives both away.
    Ok(unsafe { [Tensor::from_ptr(sum.cast()), Tensor::from_ptr(product.cast())] })
}
