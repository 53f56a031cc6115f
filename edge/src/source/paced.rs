//! A recording that plays like a camera.

use std::time::{Duration, Instant};

use semblance_face::FrameError;

use super::{Capture, Next, Pace, Source, SourceError};

/// Gives each frame of a recording when it is due. The next one is read beforehand, as a camera's would be there.
pub(super) struct Paced {
    source: Box<dyn Source>,
    interval: Duration,
    held: Capture,
    is_held: bool,
    due: Option<Instant>,
}

/// How long a frame that is not due is waited for at a time.
const PATIENCE: Duration = Duration::from_millis(250);

impl Paced {
    /// `source` at `fps` frames a second, above 0.
    ///
    /// # Errors
    /// Never, in truth: those of [`Capture::new`].
    pub(super) fn new(source: Box<dyn Source>, fps: f64) -> Result<Self, FrameError> {
        let interval = Duration::from_secs_f64(1.0 / fps);
        Ok(Self { source, interval, held: Capture::new()?, is_held: false, due: None })
    }
}

impl Source for Paced {
    fn next(&mut self, capture: &mut Capture) -> Result<Next, SourceError> {
        if !self.is_held {
            match self.source.next(&mut self.held)? {
                Next::Frame => self.is_held = true,
                other => return Ok(other),
            }
        }
        let now = Instant::now();
        // Where reading was late, the clock starts anew: frames do not come in a rush.
        let due = *self.due.get_or_insert(now);
        let due = if due + self.interval < now { now } else { due };
        let early = due.saturating_duration_since(now);
        std::thread::sleep(early.min(PATIENCE));
        if early > PATIENCE {
            return Ok(Next::Idle);
        }
        self.due = Some(due + self.interval);
        self.is_held = false;
        std::mem::swap(capture, &mut self.held);
        capture.taken = Instant::now();
        Ok(Next::Frame)
    }

    fn pace(&self) -> Pace {
        Pace::Live
    }
}
