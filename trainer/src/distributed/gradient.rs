//! Functions with a gradient of their own, which tch cannot express.

use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use tch::Tensor;

use super::error::{DistributedError, first_line};
use super::ffi;

/// From the gradient of the output to those of the inputs, in their order.
type Rule = Box<dyn FnOnce(&Tensor) -> Result<Vec<Tensor>, DistributedError> + Send>;

/// `output` as a function of `inputs` with the gradient that `rule` computes.
///
/// `rule` is called at most once, without recording, on whichever thread libtorch runs the backward pass, and is dropped
/// with what it holds as soon as it has run. It must not hold `output`. Where no input requires a gradient, or
/// recording is off, the result is `output` alone.
///
/// # Errors
/// Those of libtorch.
pub(super) fn with_gradient(
    operation: &'static str,
    output: &Tensor,
    inputs: &[&Tensor],
    rule: impl FnOnce(&Tensor) -> Result<Vec<Tensor>, DistributedError> + Send + 'static,
) -> Result<Tensor, DistributedError> {
    let rule: Rule = Box::new(rule);
    let state = Box::into_raw(Box::new(rule)).cast();
    let inputs: Vec<*const c_void> = inputs.iter().map(|input| input.as_ptr().cast()).collect();
    let mut error = ptr::null_mut();
    // SAFETY: the tensors live until the call returns; `state` is what `backward` and `release` expect, and the shim
    // passes it to one of them once.
    let result = unsafe {
        ffi::semblance_with_gradient(
            output.as_ptr().cast(),
            inputs.as_ptr(),
            inputs.len(),
            state,
            backward,
            release,
            &mut error,
        )
    };
    if result.is_null() {
        // SAFETY: the shim left a message of its own.
        return Err(DistributedError::Torch { operation, reason: unsafe { ffi::take_message(error) } });
    }
    // SAFETY: the shim gives a new tensor away.
    Ok(unsafe { Tensor::from_ptr(result.cast()) })
}

unsafe extern "C" fn backward(
    state: *mut c_void,
    gradient: *mut c_void,
    inputs: *mut *mut c_void,
    count: usize,
) -> *mut c_char {
    // SAFETY: `state` comes from `with_gradient`, and the shim gives it and the tensor `gradient` away.
    let (rule, gradient) =
        unsafe { (Box::from_raw(state.cast::<Rule>()), Tensor::from_ptr(gradient.cast())) };
    let problem = match catch_unwind(AssertUnwindSafe(|| rule(&gradient))) {
        Ok(Ok(gradients)) if gradients.len() == count => {
            for (i, gradient) in gradients.into_iter().enumerate() {
                // SAFETY: there are `count` places, and the shim takes over what they hold. tch offers no way to give a
                // tensor away but a copy of its handle.
                unsafe { *inputs.add(i) = std::mem::ManuallyDrop::new(gradient).as_mut_ptr().cast() };
            }
            return ptr::null_mut();
        }
        Ok(Ok(gradients)) => format!("{} gradients for {count} inputs", gradients.len()),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => match panic.downcast_ref::<String>() {
            Some(message) => first_line(message),
            None => "a gradient could not be computed".to_owned(),
        },
    };
    let message = CString::new(problem.replace('\0', " ")).unwrap_or_default();
    // SAFETY: `message` is a C string; the shim frees the copy.
    unsafe { libc::strdup(message.as_ptr()) }
}

unsafe extern "C" fn release(state: *mut c_void) {
    // SAFETY: `state` comes from `with_gradient`, and the shim gives it away.
    drop(unsafe { Box::from_raw(state.cast::<Rule>()) });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;
    use tch::{Kind, no_grad};

    fn leaf(values: &[f64]) -> Tensor {
        Tensor::from_slice(values).set_requires_grad(true)
    }

    fn error() -> DistributedError {
        DistributedError::Torch { operation: "test", reason: "refused".to_owned() }
    }

    #[test]
    fn the_rule_is_the_gradient() {
        let (x, y) = (leaf(&[1.0, 2.0]), leaf(&[3.0, 4.0]));
        let product = no_grad(|| &x * &y);
        let (kept_x, kept_y) = (x.detach(), y.detach());
        // Not the product's true gradient, so that it cannot come from elsewhere.
        let result = with_gradient("test", &product, &[&x, &y], move |grad| {
            Ok(vec![grad * kept_y * 10.0, grad * kept_x * 100.0])
        });
        let result = result.unwrap();
        assert_eq!(Vec::<f64>::try_from(&result).unwrap(), [3.0, 8.0]);
        (result * Tensor::from_slice(&[1.0, 0.5])).sum(Kind::Double).backward();
        assert_eq!(Vec::<f64>::try_from(x.grad()).unwrap(), [30.0, 20.0]);
        assert_eq!(Vec::<f64>::try_from(y.grad()).unwrap(), [100.0, 100.0]);
    }

    #[test]
    fn what_the_rule_holds_is_freed_with_the_graph_and_after_use() {
        let held = Arc::new(());
        let make = |x: &Tensor| {
            let held = Arc::clone(&held);
            with_gradient("test", &x.detach(), &[x], move |grad| {
                let _held = held;
                Ok(vec![grad.shallow_clone()])
            })
            .unwrap()
        };
        let x = leaf(&[1.0]);
        let unused = make(&x);
        assert_eq!(Arc::strong_count(&held), 2);
        drop(unused);
        assert_eq!(Arc::strong_count(&held), 1);
        let used = make(&x);
        used.sum(Kind::Double).backward();
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(!no_grad(|| make(&x)).requires_grad());
        assert!(!make(&x.detach()).requires_grad());
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn failures_come_out_of_the_backward_pass() {
        let x = leaf(&[1.0]);
        let backward = |rule: Rule| {
            let y = with_gradient("test", &x.detach(), &[&x], rule).unwrap();
            y.sum(Kind::Double).f_backward().unwrap_err().to_string()
        };
        assert!(backward(Box::new(|_| Err(error()))).contains("test: refused"));
        assert!(backward(Box::new(|_| Ok(vec![]))).contains("0 gradients for 1 inputs"));
        assert!(backward(Box::new(|_| panic!("{}", "panicked"))).contains("panicked"));
        let y = with_gradient("test", &x.detach(), &[&x], |grad| Ok(vec![grad.shallow_clone()])).unwrap();
        let sum = y.sum(Kind::Double);
        sum.f_backward().unwrap();
        assert!(sum.f_backward().unwrap_err().to_string().contains("taken before"));
    }
}
