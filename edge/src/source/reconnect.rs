//! When to look again for a source that is gone.

use std::time::{Duration, Instant};

/// Nobody waits longer than this for a source to answer.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);

/// The time from one attempt to the next: it doubles with every one that fails.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pause: Duration,
    due: Instant,
}

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(2);

impl Backoff {
    /// Nothing has failed yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { pause: FIRST, due: now }
    }

    /// Something failed: the next attempt is due after a pause.
    pub(super) fn failed(&mut self, now: Instant) {
        self.due = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST);
    }

    /// It works: the next failure counts as the first.
    pub(super) fn reset(&mut self) {
        self.pause = FIRST;
    }

    /// Time until the next attempt is due.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }

    /// Waits for the next attempt, but no longer than [`PATIENCE`]; whether it is due.
    pub(super) fn wait(&self) -> bool {
        let left = self.left(Instant::now());
        std::thread::sleep(left.min(PATIENCE));
        left <= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_two_seconds_and_start_anew() {
        let now = Instant::now();
        let mut backoff = Backoff::new(now);
        assert_eq!(backoff.left(now), Duration::ZERO);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            backoff.failed(now);
            pauses.push(backoff.left(now).as_millis());
        }
        assert_eq!(pauses, [200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(backoff.left(now + Duration::from_millis(1500)), Duration::from_millis(500));
        assert_eq!(backoff.left(now + Duration::from_secs(3)), Duration::ZERO);
        backoff.reset();
        backoff.failed(now);
        assert_eq!(backoff.left(now), Duration::from_millis(200));
    }
}
