//! A source that hangs, as drivers do.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use semblance_edge::hub::Overflow;
use semblance_edge::pipeline::Pipeline;
use semblance_edge::run::{RunOptions, Shared, run};
use semblance_edge::source::{Capture, Next, Pace, Source, SourceError};
use semblance_edge::telemetry::{Beat, SourceState};
use semblance_face::{Bundle, FollowOptions, Follower};

/// Gives a few black frames, then does not come back until it is let go.
struct Hanging {
    frames: u32,
    let_go: Arc<AtomicBool>,
}

impl Source for Hanging {
    fn next(&mut self, capture: &mut Capture) -> Result<Next, SourceError> {
        if self.frames == 0 {
            while !self.let_go.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            return Ok(Next::End);
        }
        self.frames -= 1;
        capture.frame.resize(64, 48).unwrap();
        capture.taken = Instant::now();
        Ok(Next::Frame)
    }

    fn pace(&self) -> Pace {
        Pace::Live
    }
}

#[test]
fn a_source_that_hangs_is_named_and_does_not_keep_the_run_from_ending() {
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default");
    let bundle = Bundle::open(&bundle).unwrap();
    let (shared, stop, let_go) = (Shared::default(), AtomicBool::new(false), Arc::<AtomicBool>::default());
    let telemetry = &shared.telemetry;
    telemetry.source.set(SourceState::Live, "a camera");
    let subscription = shared.hub.subscribe("test", 16, Overflow::DropOldest);
    let source = Box::new(Hanging { frames: 3, let_go: Arc::clone(&let_go) });
    let options = RunOptions { max_frames: None, find_every: 1, max_fps: None };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let follower = Follower::from_bundle(&bundle, &FollowOptions::default()).unwrap();
            let mut pipeline = Pipeline::new(&bundle, follower).unwrap();
            let ended = run(source, &mut pipeline, &shared, &options, &stop).unwrap();
            (ended, Instant::now())
        });
        let start = Instant::now();
        let (who, silent) = loop {
            if let Some(hanging) = telemetry.hanging() {
                break hanging;
            }
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(who, Beat::Capture);
        assert!(silent >= Duration::from_secs(10));
        // What came before it hung was predicted on.
        assert!(subscription.try_recv().is_some() && telemetry.stats().frames > 0);
        let stopped = Instant::now();
        stop.store(true, Ordering::Relaxed);
        let (straggler, ended) = running.join().unwrap();
        assert!(ended - stopped < Duration::from_secs(2), "{:?}", ended - stopped);
        assert!(telemetry.hanging().is_none(), "nobody is waited for any more");
        let straggler = straggler.unwrap().wait(Duration::from_millis(10)).unwrap_err();
        let_go.store(true, Ordering::Relaxed);
        straggler.wait(Duration::from_secs(30)).unwrap().unwrap();
    });
}
