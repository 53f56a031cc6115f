//! How much memory the process holds and how much is free.

#[cfg(target_os = "linux")]
fn kilobytes(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
}

/// Bytes that can still be allocated without swapping; `None` where the system does not tell.
pub fn available_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    return kilobytes("/proc/meminfo", "MemAvailable").map(|kb| kb * 1024);
    #[cfg(not(target_os = "linux"))]
    None
}

/// Bytes of memory that the process occupies; `None` where the system does not tell.
pub fn resident_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    return kilobytes("/proc/self/status", "VmRSS").map(|kb| kb * 1024);
    #[cfg(not(target_os = "linux"))]
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn allocating_is_seen() {
        let before = resident_bytes().unwrap();
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        let after = resident_bytes().unwrap();
        assert!(after >= before + (48 << 20), "{before} {after}");
        assert!(available_bytes().unwrap() > 0);
        drop(block);
    }
}
