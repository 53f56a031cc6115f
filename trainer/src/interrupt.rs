//! Ctrl-C, and the signals by which schedulers and containers end a program.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

static STOP: AtomicBool = AtomicBool::new(false);

/// What a shell reports of a program that Ctrl-C ended.
const STATUS: i32 = 130;

/// A flag that the first of SIGINT, SIGTERM and SIGHUP sets; a second one ends the process at once. A process that was told
/// to ignore SIGHUP, as `nohup` does, goes on ignoring it. A program calls this once.
///
/// # Errors
/// Where the system does not take a handler, or it was called before.
pub(crate) fn flag() -> anyhow::Result<&'static AtomicBool> {
    let outlives_terminal = ignores_hangup();
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            // Not `exit`, which would run libtorch's destructors under its working threads.
            // SAFETY: it takes a number and does not return.
            unsafe { libc::_exit(STATUS) }
        }
    })
    .context("cannot handle Ctrl-C")?;
    if outlives_terminal {
        ignore_hangup();
    }
    Ok(&STOP)
}

#[cfg(unix)]
fn ignores_hangup() -> bool {
    // SAFETY: nothing but the present action is asked for, into a value that all zeros are valid for.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &mut now) == 0 && now.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(not(unix))]
fn ignores_hangup() -> bool {
    false
}

#[cfg(unix)]
fn ignore_hangup() {
    // SAFETY: ignoring a signal runs no code.
    unsafe {
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
    }
}

#[cfg(not(unix))]
fn ignore_hangup() {}
