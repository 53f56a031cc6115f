//! The functions of `shim.cpp`.

use std::ffi::{CStr, c_char, c_int, c_void};

/// A `c10d::ProcessGroupGloo`.
#[repr(C)]
pub(super) struct ProcessGroupGloo {
    _opaque: [u8; 0],
}

/// Takes the gradient of the output (its tensor is the callee's), fills in one for each input (null for none), and uses
/// `state` up. Returns a message from `strdup` where it fails, else null.
pub(super) type Backward = unsafe extern "C" fn(
    state: *mut c_void,
    gradient: *mut c_void,
    inputs: *mut *mut c_void,
    count: usize,
) -> *mut c_char;

// Every function that can fail says so by its value, and leaves a message in `error` that the caller frees. Tensors are
// passed as tch holds them, as `at::Tensor *`.
unsafe extern "C" {
    pub(super) fn semblance_gloo_new(
        master: *const c_char,
        port: u16,
        hosted: bool,
        prefix: *const c_char,
        interface: *const c_char,
        own_address: *const c_char,
        rank: c_int,
        world: c_int,
        timeout_ms: i64,
        error: *mut *mut c_char,
    ) -> *mut ProcessGroupGloo;
    pub(super) fn semblance_gloo_free(group: *mut ProcessGroupGloo);
    pub(super) fn semblance_gloo_all_reduce(
        group: *mut ProcessGroupGloo,
        tensor: *const c_void,
        error: *mut *mut c_char,
    ) -> bool;
    pub(super) fn semblance_gloo_all_gather(
        group: *mut ProcessGroupGloo,
        input: *const c_void,
        output: *const c_void,
        error: *mut *mut c_char,
    ) -> bool;
    pub(super) fn semblance_gloo_broadcast(
        group: *mut ProcessGroupGloo,
        tensor: *const c_void,
        root: c_int,
        error: *mut *mut c_char,
    ) -> bool;
    pub(super) fn semblance_with_gradient(
        output: *const c_void,
        inputs: *const *const c_void,
        count: usize,
        state: *mut c_void,
        backward: Backward,
        drop: unsafe extern "C" fn(*mut c_void),
        error: *mut *mut c_char,
    ) -> *mut c_void;
    pub(super) fn semblance_batch_norm_sums(
        gradient: *const c_void,
        input: *const c_void,
        weight: *const c_void,
        mean: *const c_void,
        var: *const c_void,
        eps: f64,
        sum: *mut *mut c_void,
        product: *mut *mut c_void,
        error: *mut *mut c_char,
    ) -> bool;
}

/// Calls a function that says whether it succeeded; its message otherwise.
pub(super) fn outcome(call: impl FnOnce(*mut *mut c_char) -> bool) -> Result<(), String> {
    let mut error = std::ptr::null_mut();
    if call(&mut error) {
        return Ok(());
    }
    // SAFETY: the shim left a message of its own.
    Err(unsafe { take_message(error) })
}

/// The message in `error`, which it frees.
///
/// # Safety
/// `error` is null or a string from the C library's `strdup` that nothing else refers to.
pub(super) unsafe fn take_message(error: *mut c_char) -> String {
    if error.is_null() {
        return "no reason given".to_owned();
    }
    // SAFETY: as required of the caller.
    unsafe {
        let message = CStr::from_ptr(error).to_string_lossy().into_owned();
        libc::free(error.cast());
        super::error::first_line(&message)
    }
}
