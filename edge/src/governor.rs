//! Keeps a device within its means: under heat or load the rate falls before anything else does.
//!
//! Load: where the pipeline is busy nearly all the time with a live source, the finder runs less often, within a second; frames
//! beyond what the pipeline can do are left out by the mailbox in any case. Heat: from 5 degrees below the point at
//! which the system itself would slow the processor down, the rate is halved, and halved again while it goes on getting hotter.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

/// What slows a run down, and what is done about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// Share of the time that the pipeline was busy of late, in `[0, 1]`.
    pub busy: f64,
    /// Of the hottest zone, in degrees Celsius, where the system tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f64>,
    /// Frames from one run of the finder to the next.
    pub find_every: u32,
    /// Frames a second that the pipeline is held to, where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_fps: Option<f64>,
    /// Why the rate or the finder's interval is not as asked for, in words; empty where they are.
    pub reason: String,
}

/// What the pipeline is to do until the next look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// Frames from one run of the finder to the next.
    pub find_every: u32,
    /// Least time from the start of one frame to the start of the next.
    pub interval: Duration,
}

/// A device this close to its passive trip point is hot.
pub(crate) const MARGIN_C: f64 = 5.0;
/// A device this much cooler than where it was slowed is let go faster again.
const RELIEF_C: f64 = 3.0;
/// The trip point where the system names none.
const DEFAULT_TRIP_C: f64 = 80.0;
/// Share of the time above which the pipeline counts as overloaded...
const BUSY: f64 = 0.9;
/// ...and below which the finder may run more often again.
const IDLE: f64 = 0.6;
/// A new face is found within this time, whatever the load.
const MAX_FIND_SECS: f64 = 1.0;
/// From one look to the next.
const PERIOD: Duration = Duration::from_secs(1);
/// From one step for heat to the next.
const SETTLING: Duration = Duration::from_secs(10);
/// The rate is halved at most so often.
const MAX_HALVINGS: u32 = 4;

/// Where the kernel tells temperatures.
const THERMAL: &str = "/sys/class/thermal";

/// Watches load and heat, and decides once a second.
#[derive(Debug)]
pub struct Governor {
    /// Whether frames come whether there is time for them or not.
    live: bool,
    wanted_find_every: u32,
    wanted_interval: Duration,
    zones: Vec<Zone>,
    /// How often the rate was halved for heat, the temperature at which and the time when it was last.
    halvings: u32,
    slowed_at_c: f64,
    slowed_at: Option<Instant>,
    /// Frames a second before it was halved.
    full_rate: f64,
    since: Instant,
    busy: Duration,
    frames: u32,
    decision: Decision,
}

#[derive(Clone, Debug)]
struct Zone {
    file: PathBuf,
    trip_c: f64,
}

impl Governor {
    /// A governor of this machine: the finder is to run on every `find_every`-th frame, at most `max_fps` frames a second. A
    /// recording, which is not `live`, takes what time it needs: it keeps the pipeline busy, and the finder as it is.
    pub fn new(live: bool, find_every: u32, max_fps: Option<f64>) -> Self {
        Self::reading(live, find_every, max_fps, Path::new(THERMAL))
    }

    fn reading(live: bool, find_every: u32, max_fps: Option<f64>, thermal: &Path) -> Self {
        let interval = max_fps.map_or(Duration::ZERO, |fps| Duration::from_secs_f64(1.0 / fps));
        Self {
            live,
            wanted_find_every: find_every,
            wanted_interval: interval,
            zones: zones(thermal),
            halvings: 0,
            slowed_at_c: 0.0,
            slowed_at: None,
            full_rate: 0.0,
            since: Instant::now(),
            busy: Duration::ZERO,
            frames: 0,
            decision: Decision { find_every, interval },
        }
    }

    /// What is to be done now.
    pub fn decision(&self) -> Decision {
        self.decision
    }

    /// Counts a frame that kept the pipeline busy for so long, and looks around as [`Governor::look`] does.
    pub fn count(&mut self, busy: Duration, now: Instant) -> Option<Pressure> {
        self.busy += busy;
        self.frames += 1;
        self.look(now)
    }

    /// Once a second looks around, and tells how things are.
    pub fn look(&mut self, now: Instant) -> Option<Pressure> {
        let elapsed = now.duration_since(self.since);
        if elapsed < PERIOD {
            return None;
        }
        let share = (self.busy.as_secs_f64() / elapsed.as_secs_f64()).min(1.0);
        let rate = f64::from(self.frames) / elapsed.as_secs_f64();
        (self.since, self.busy, self.frames) = (now, Duration::ZERO, 0);
        let hottest = self.hottest();
        if let Some((temperature, over)) = hottest {
            self.heed_heat(temperature, over, rate, now);
        }
        if self.live {
            self.heed_load(share, rate);
        }
        self.decision.interval = match self.halvings {
            0 => self.wanted_interval,
            n => Duration::from_secs_f64(f64::from(1u32 << n) / self.full_rate),
        };
        Some(self.pressure(share, hottest.map(|(temperature, _)| temperature)))
    }

    fn heed_heat(&mut self, temperature: f64, over: f64, rate: f64, now: Instant) {
        // What was done takes a while to show.
        let settled = self.slowed_at.is_none_or(|at| now.duration_since(at) >= SETTLING);
        if !settled {
            return;
        }
        let hotter = self.halvings == 0 || temperature > self.slowed_at_c;
        if over >= -MARGIN_C && hotter && self.halvings < MAX_HALVINGS {
            if self.halvings == 0 {
                self.full_rate = rate.max(1.0);
            }
            self.halvings += 1;
        } else if self.halvings > 0 && over < -(MARGIN_C + RELIEF_C) {
            self.halvings -= 1;
        } else {
            return;
        }
        (self.slowed_at_c, self.slowed_at) = (temperature, Some(now));
    }

    fn heed_load(&mut self, share: f64, rate: f64) {
        let longest = ((rate * MAX_FIND_SECS) as u32).max(self.wanted_find_every);
        let now = self.decision.find_every;
        self.decision.find_every = if share > BUSY {
            (now * 2).min(longest)
        } else if share < IDLE {
            (now / 2).max(self.wanted_find_every)
        } else {
            now.min(longest)
        };
    }

    fn pressure(&self, busy: f64, temperature_c: Option<f64>) -> Pressure {
        let mut reasons = Vec::new();
        if self.halvings > 0 {
            reasons.push(format!("hot: the rate is held to 1/{} of what it was", 1u32 << self.halvings));
        }
        if self.decision.find_every > self.wanted_find_every {
            reasons.push(format!(
                "busy: the finder runs on every {}th frame, not on every {}th",
                self.decision.find_every, self.wanted_find_every
            ));
        }
        let interval = self.decision.interval;
        Pressure {
            busy,
            temperature_c,
            find_every: self.decision.find_every,
            max_fps: (!interval.is_zero()).then(|| 1.0 / interval.as_secs_f64()),
            reason: reasons.join("; "),
        }
    }

    /// The temperature of the zone that is closest to its trip point, and by how much it is above it.
    pub(crate) fn hottest(&self) -> Option<(f64, f64)> {
        let temperatures = self.zones.iter().filter_map(|zone| Some((celsius(&zone.file)?, zone.trip_c)));
        temperatures.map(|(t, trip)| (t, t - trip)).max_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// Every thermal zone with the point at which the system slows down.
fn zones(thermal: &Path) -> Vec<Zone> {
    let Ok(entries) = fs::read_dir(thermal) else { return Vec::new() };
    let mut zones: Vec<Zone> = entries
        .filter_map(|entry| {
            let dir = entry.ok()?.path();
            let name = dir.file_name()?.to_str()?;
            let file = dir.join("temp");
            celsius(&file).filter(|_| name.starts_with("thermal_zone"))?;
            Some(Zone { trip_c: trip_point(&dir).unwrap_or(DEFAULT_TRIP_C), file })
        })
        .collect();
    zones.sort_by(|a, b| a.file.cmp(&b.file));
    zones
}

/// The lowest passive or hot trip point of a zone.
fn trip_point(zone: &Path) -> Option<f64> {
    let points = (0..).map_while(|i| fs::read_to_string(zone.join(format!("trip_point_{i}_type"))).ok());
    let passive = points.enumerate().filter(|(_, kind)| ["passive", "hot"].contains(&kind.trim()));
    passive.filter_map(|(i, _)| celsius(&zone.join(format!("trip_point_{i}_temp")))).min_by(f64::total_cmp)
}

fn celsius(file: &Path) -> Option<f64> {
    let millis: f64 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    Some(millis / 1000.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn second(governor: &mut Governor, now: &mut Instant, frames: u32, busy_ms: u64) -> Pressure {
        let mut last = None;
        for _ in 0..frames {
            *now += Duration::from_secs(1) / frames;
            last = governor.count(Duration::from_millis(busy_ms), *now).or(last);
        }
        *now += Duration::from_millis(1);
        last.unwrap_or_else(|| governor.count(Duration::ZERO, *now).unwrap())
    }

    #[test]
    fn a_busy_pipeline_finds_less_often_and_recovers() {
        let dir = tempfile::tempdir().unwrap();
        let mut governor = Governor::reading(true, 5, None, dir.path());
        let mut now = Instant::now();
        let calm = second(&mut governor, &mut now, 30, 8);
        assert_eq!((calm.find_every, calm.reason.as_str()), (5, ""));
        for _ in 0..6 {
            let busy = second(&mut governor, &mut now, 20, 50);
            assert!(busy.find_every > 5 && busy.find_every <= 20, "within a second: {busy:?}");
            assert!(busy.reason.contains("busy"), "{busy:?}");
        }
        for _ in 0..6 {
            second(&mut governor, &mut now, 30, 8);
        }
        assert_eq!(governor.decision(), Decision { find_every: 5, interval: Duration::ZERO });
        let mut recorded = Governor::reading(false, 5, None, dir.path());
        // Its first second began when it was made, long before.
        second(&mut recorded, &mut now, 20, 50);
        let busy = second(&mut recorded, &mut now, 20, 50);
        assert!(busy.busy > 0.9 && busy.find_every == 5, "{busy:?}");
    }

    #[test]
    fn heat_halves_the_rate_before_the_system_would_slow_down() {
        let dir = tempfile::tempdir().unwrap();
        let zone = dir.path().join("thermal_zone0");
        fs::create_dir(&zone).unwrap();
        for (file, text) in [
            ("temp", "50000\n"),
            ("trip_point_0_type", "critical\n"),
            ("trip_point_0_temp", "110000\n"),
            ("trip_point_1_type", "passive\n"),
            ("trip_point_1_temp", "85000\n"),
        ] {
            fs::write(zone.join(file), text).unwrap();
        }
        let mut governor = Governor::reading(true, 5, None, dir.path());
        let mut now = Instant::now();
        let mut at = |governor: &mut Governor, celsius: u32| {
            fs::write(zone.join("temp"), format!("{celsius}000\n")).unwrap();
            let mut last = second(governor, &mut now, 12, 8);
            (0..9).for_each(|_| last = second(governor, &mut now, 12, 8));
            last
        };
        let rate = |pressure: &Pressure| pressure.max_fps.map(f64::round);
        assert_eq!(rate(&at(&mut governor, 70)), None);
        // The pipeline reaches 12 frames a second, as a small board does: half of that is 6.
        let warm = at(&mut governor, 81);
        assert_eq!((warm.temperature_c, rate(&warm)), (Some(81.0), Some(6.0)));
        assert!(warm.reason.contains("hot"), "{warm:?}");
        assert_eq!(rate(&at(&mut governor, 81)), Some(6.0), "no hotter, no slower");
        assert_eq!(rate(&at(&mut governor, 83)), Some(3.0));
        assert_eq!(rate(&at(&mut governor, 79)), Some(3.0), "not cool enough yet");
        assert_eq!(rate(&at(&mut governor, 70)), Some(6.0));
        assert_eq!(rate(&at(&mut governor, 70)), None);
    }
}
