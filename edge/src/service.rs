//! The process among others: signals, and what systemd is told.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::run::Shared;
use crate::telemetry::SourceState;

/// What signals ask for.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// Every signal sets it: the run that goes on is to end.
    stop: Arc<AtomicBool>,
    /// And none is to follow.
    terminate: Arc<AtomicBool>,
}

/// Exit status of a program that a second Ctrl-C ended.
const INTERRUPTED: i32 = 130;

impl Signals {
    /// From now on SIGTERM and SIGINT ask to stop (a second one ends the program at once), and SIGHUP asks to stop and start
    /// again with settings read anew; in a terminal, whose closing sends it, it asks to stop.
    ///
    /// # Errors
    /// Where the system does not let us.
    pub fn listen() -> io::Result<Self> {
        let signals = Self::default();
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag not yet set, and `stop` is set last.
            flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&signals.terminate))?;
            flag::register(signal, Arc::clone(&signals.terminate))?;
            flag::register(signal, Arc::clone(&signals.stop))?;
        }
        if io::stdin().is_terminal() || io::stderr().is_terminal() {
            // A terminal that is closed sends it twice, so a second one is no impatience.
            flag::register(SIGHUP, Arc::clone(&signals.terminate))?;
        }
        flag::register(SIGHUP, Arc::clone(&signals.stop))?;
        Ok(signals)
    }

    /// Set when the run that goes on is to end.
    pub fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    /// After a run: whether it was ended to start again with settings read anew. The next run is then free to go.
    pub fn take_reload(&self) -> bool {
        let asked = self.stop.swap(false, Ordering::SeqCst);
        // A signal to end that came meanwhile has set this before it set `stop`, which may be the one just cleared.
        if self.terminate.load(Ordering::SeqCst) {
            self.stop.store(true, Ordering::SeqCst);
            return false;
        }
        asked
    }
}

/// Tells systemd something, where it listens.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("systemd was not told: {error}");
    }
}

/// Tells systemd that the run is over: that settings are read anew, or that the program ends.
pub fn notify_end(reload: bool) {
    // systemd takes the two for one message, and a reload without the time for a failed one.
    match NotifyState::monotonic_usec_now() {
        Ok(now) if reload => notify(&[NotifyState::Reloading, now]),
        _ if reload => notify(&[NotifyState::Reloading]),
        _ => notify(&[NotifyState::Stopping]),
    }
}

/// Tells systemd that the program lives, and what it waits for between two runs.
pub fn notify_waiting(reason: &str) {
    notify(&[NotifyState::Watchdog, NotifyState::Status(reason)]);
}

/// Tells systemd how a run goes until this is dropped.
#[derive(Debug)]
pub struct Reporter {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    /// Starts to tell: that the program is ready, its status, and, where the unit has a watchdog, that it is alive.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(shared: Arc<Shared>) -> io::Result<Self> {
        notify(&[NotifyState::Ready]);
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        // Twice as often as asked for, as sd_watchdog_enabled(3) advises.
        let watchdog = sd_notify::watchdog_enabled().map(|period| period / 2);
        let period = watchdog.unwrap_or(STATUS_PERIOD).min(STATUS_PERIOD);
        let thread = std::thread::Builder::new().name("systemd".to_owned()).spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                if watchdog.is_some() && shared.telemetry.hanging().is_none() {
                    notify(&[NotifyState::Watchdog]);
                }
                notify(&[NotifyState::Status(&status(&shared))]);
                std::thread::park_timeout(period);
            }
        })?;
        Ok(Self { over, thread: Some(thread) })
    }
}

const STATUS_PERIOD: Duration = Duration::from_secs(5);

impl Drop for Reporter {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// One line for `systemctl status`.
fn status(shared: &Shared) -> String {
    let (state, detail) = shared.telemetry.source.state();
    let frames = shared.telemetry.stats().frames;
    let pressure = shared.telemetry.pressure().reason;
    let mut line = match state {
        SourceState::Live => format!("{detail}: {frames} frames"),
        state => format!("source {}: {detail}", state.name()),
    };
    let undecodable = shared.telemetry.source.undecodable();
    for note in undecodable.into_iter().chain((!pressure.is_empty()).then_some(pressure)) {
        line.push_str("; ");
        line.push_str(&note);
    }
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_status_names_source_and_pressure() {
        let shared = Shared::default();
        shared.telemetry.source.set(SourceState::Gone, "/dev/video0: no such device");
        assert_eq!(status(&shared), "source gone: /dev/video0: no such device");
        shared.telemetry.source.set(SourceState::Live, "demo");
        let hot = crate::governor::Pressure { reason: "hot".to_owned(), ..Default::default() };
        shared.telemetry.set_pressure(hot);
        assert_eq!(status(&shared), "demo: 0 frames; hot");
        shared.telemetry.source.set_undecodable(Some("no picture".to_owned()));
        assert_eq!(status(&shared), "demo: 0 frames; no frame can be decoded: no picture; hot");
    }
}
