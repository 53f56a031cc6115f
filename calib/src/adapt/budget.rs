//! How much of a core adaptation may take.

use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// Why a share was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("'{0}' is no share of a core: write a percentage above 0 and up to 100, such as 5%")]
pub struct ShareError(String);

/// A share of one core, above 0 and up to 1. Written as a percentage, such as `5%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(f64);

impl Share {
    /// What adaptation takes unless told otherwise.
    pub const DEFAULT: Self = Self(0.05);

    /// The share as a fraction of 1.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        match percent {
            Some(percent) if percent > 0.0 && percent <= 100.0 => Ok(Self(percent / 100.0)),
            _ => Err(ShareError(text.to_owned())),
        }
    }
}

/// Keeps work to a share of one core: after work that took `b`, there is none for `b (1 / share - 1)`. Over any time
/// that begins with a slice, work takes at most its share, but for the slice that runs. Idle time is not saved up, so a
/// long silence is not followed by a long burst.
///
/// It reads no clock; whoever uses it does, a monotonic one with any origin.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    share: Share,
    free_from: Duration,
}

impl Budget {
    /// A budget of which nothing has been spent.
    pub const fn new(share: Share) -> Self {
        Self { share, free_from: Duration::ZERO }
    }

    /// How long to wait before work may begin; zero where it may begin now.
    pub fn wait(&self, now: Duration) -> Duration {
        self.free_from.saturating_sub(now)
    }

    /// Counts work that ran from `begin` to `end`.
    pub fn spend(&mut self, begin: Duration, end: Duration) {
        let busy_secs = end.saturating_sub(begin).as_secs_f64();
        let rest_secs = busy_secs * (1.0 / self.share.0 - 1.0);
        // An end too far away to be counted means that there is no more work.
        let rest = Duration::try_from_secs_f64(rest_secs).unwrap_or(Duration::MAX);
        self.free_from = self.free_from.max(end.saturating_add(rest));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn work_takes_its_share_of_any_time() {
        for percent in [1, 5, 50, 100] {
            let share: Share = format!("{percent}%").parse().unwrap();
            let mut budget = Budget::new(share);
            let (mut now, mut busy) = (Duration::from_secs(7), Duration::ZERO);
            for slice in 0..1000_u64 {
                now += budget.wait(now);
                assert_eq!(budget.wait(now), Duration::ZERO);
                let work = Duration::from_millis(1 + slice * 7919 % 23);
                budget.spend(now, now + work);
                (now, busy) = (now + work, busy + work);
            }
            now += budget.wait(now);
            let taken = busy.as_secs_f64() / (now - Duration::from_secs(7)).as_secs_f64();
            assert!((taken - share.get()).abs() < 1e-6, "{percent} %: {taken}");
        }
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let mut budget = Budget::new(Share::DEFAULT);
        let late = Duration::from_secs(3600);
        budget.spend(late, late + Duration::from_millis(10));
        assert_eq!(budget.wait(late + Duration::from_millis(10)), Duration::from_millis(190));
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!("5%".parse::<Share>().unwrap(), Share::DEFAULT);
        assert_eq!("100 %".parse::<Share>().unwrap().get(), 1.0);
        for wrong in ["", "5", "0%", "-1%", "101%", "nan%", "inf%", "x%"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }
}
