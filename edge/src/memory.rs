//! What memory this process takes, where the system tells.

/// A line of Linux's `/proc/self/status` in KiB: `VmRSS` for the resident memory, `VmHWM` for the most there has been.
pub(crate) fn status_kib(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}
