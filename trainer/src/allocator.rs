//! The C library's allocator, set up for training.

/// Keeps freed memory instead of returning it to the system.
///
/// Every training step allocates the same large tensors. By default glibc maps and unmaps each, and the system clears
/// every page anew: on two cores that took three quarters of the step. Elsewhere than on glibc this does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: mallopt only sets parameters of the allocator; both are valid on glibc.
        unsafe {
            libc::mallopt(libc::M_MMAP_MAX, 0);
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        }
    }
}
