//! A recording that plays like a camera.

use std::time::{Duration, Instant};

use super::{Capture, Next, Pace, Source, SourceError};

/// Gives each frame of a recording when it is due. The next one is read beforehand, as a camera's would be there.
pub(super) struct Paced {
    source: Box<dyn Source>,
    interval: Duration,
    due: Option<Instant>,
}

impl Paced {
    /// `source` at `fps` frames a second, above 0.
    pub(super) fn new(source: Box<dyn Source>, fps: f64) -> Self {
        Self { source, interval: Duration::from_secs_f64(1.0 / fps), due: None }
    }
}

impl Source for Paced {
    fn next(&mut self, capture: &mut Capture) -> Result<Next, SourceError> {
        let next = self.source.next(capture)?;
        if next == Next::Frame {
            let now = Instant::now();
            // Where reading was late, the clock starts anew: frames do not come in a rush.
            let due = self.due.filter(|due| *due + self.interval > now).unwrap_or(now);
            std::thread::sleep(due.saturating_duration_since(now));
            self.due = Some(due + self.interval);
            capture.taken = Instant::now();
        }
        Ok(next)
    }

    fn pace(&self) -> Pace {
        Pace::Live
    }
}
