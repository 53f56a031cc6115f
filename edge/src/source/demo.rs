//! A drawn face, which needs no hardware and no file.

use std::time::Instant;

use semblance_synth::{ClipSource, RenderOptions};

use super::{Capture, Encoding, Next, Pace, Source, SourceError};
use crate::prediction::{Pose, Truth};

const SEED: u64 = 1;
const IDENTITY: u64 = 1;

/// An endless synthetic webcam clip of one person. It is drawn as fast as it is asked for.
pub(super) struct Demo(ClipSource);

impl Demo {
    pub(super) fn new() -> Result<Self, SourceError> {
        Ok(Self(ClipSource::new(SEED, IDENTITY, RenderOptions::webcam())?))
    }
}

impl Source for Demo {
    fn next(&mut self, capture: &mut Capture) -> Result<Next, SourceError> {
        let start = Instant::now();
        let labels;
        (capture.frame, labels) = self.0.next_frame()?;
        let (b, pose) = (labels.bbox, labels.pose);
        capture.truth = Some(Truth {
            expression: labels.expression.name(),
            valence: labels.valence,
            arousal: labels.arousal,
            bbox: [b.x, b.y, b.w, b.h],
            pose: Pose { yaw: pose.yaw_deg, pitch: pose.pitch_deg, roll: pose.roll_deg },
        });
        capture.encoding = Encoding::Decoded;
        capture.taken = Instant::now();
        capture.read = capture.taken.duration_since(start);
        Ok(Next::Frame)
    }

    fn pace(&self) -> Pace {
        Pace::Live
    }
}
