//! Joins source, pipeline and sinks: one thread decodes, the caller's thread does the rest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;
use semblance_face::Frame;
use thiserror::Error;

use crate::pipeline::{Pipeline, PipelineError};
use crate::prediction::{Prediction, Truth};
use crate::sink::{JsonlSink, SinkError};
use crate::source::{Next, Source, SourceError};
use crate::stats::Stats;

/// Why a run ended early.
#[derive(Debug, Error)]
pub enum RunError {
    /// The source failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The pipeline failed.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// A sink failed.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// Frames in flight between the decoding thread and the pipeline.
const FRAMES_IN_FLIGHT: usize = 3;

/// What the decoding thread hands over.
enum Message {
    Frame(Frame, Option<Truth>, Duration),
    Skipped(String),
    Failed(SourceError),
}

/// Processes every frame of `source` until it ends, `max_frames` are done, `stop` is set, or a sink's reader has gone
/// (which is no error). `stats` holds the counts however the run ends; `on_skip` hears of what the source passed over.
///
/// # Errors
/// [`RunError`].
pub fn run(
    mut source: Box<dyn Source>,
    pipeline: &mut Pipeline,
    sinks: &mut [JsonlSink],
    max_frames: Option<u64>,
    stop: &AtomicBool,
    stats: &mut Stats,
    mut on_skip: impl FnMut(&str),
) -> Result<(), RunError> {
    // A file's frames are never dropped: the decoding thread waits for frames to come back.
    let (to_pipeline, from_source) = bounded::<Message>(FRAMES_IN_FLIGHT);
    let (give_back, recycled) = bounded::<Frame>(FRAMES_IN_FLIGHT);
    for _ in 0..FRAMES_IN_FLIGHT {
        if let Ok(frame) = Frame::black(1, 1) {
            let _ = give_back.send(frame);
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while let Ok(mut frame) = recycled.recv() {
                let start = Instant::now();
                let message = loop {
                    match source.next(&mut frame) {
                        Ok(Next::Frame) => break Message::Frame(frame, source.truth(), start.elapsed()),
                        Ok(Next::Skipped(what)) => {
                            if to_pipeline.send(Message::Skipped(what)).is_err() {
                                return;
                            }
                        }
                        Ok(Next::End) => return,
                        Err(error) => break Message::Failed(error),
                    }
                };
                if to_pipeline.send(message).is_err() {
                    return;
                }
            }
        });
        // Owned here, so that the decoding thread sees both channels close when this ends.
        let (from_source, give_back) = (from_source, give_back);
        let mut left = max_frames.unwrap_or(u64::MAX);
        while left > 0 && !stop.load(Ordering::Relaxed) {
            match from_source.recv() {
                Ok(Message::Frame(frame, truth, decode)) => {
                    let published = process(pipeline, sinks, &frame, truth, decode, stats);
                    match published {
                        Err(RunError::Sink(SinkError::Closed(_))) => return Ok(()),
                        other => other?,
                    }
                    let _ = give_back.send(frame);
                    left -= 1;
                }
                Ok(Message::Skipped(what)) => {
                    stats.dropped += 1;
                    on_skip(&what);
                }
                Ok(Message::Failed(error)) => return Err(error.into()),
                Err(_) => break,
            }
        }
        Ok(())
    })
}

fn process(
    pipeline: &mut Pipeline,
    sinks: &mut [JsonlSink],
    frame: &Frame,
    truth: Option<Truth>,
    decode: Duration,
    stats: &mut Stats,
) -> Result<(), RunError> {
    pipeline.process(frame, decode, stats, |prediction| -> Result<(), RunError> {
        let prediction = Prediction { truth, ..prediction };
        sinks.iter_mut().try_for_each(|sink| sink.write(&prediction)).map_err(RunError::from)
    })?;
    Ok(sinks.iter_mut().try_for_each(JsonlSink::flush)?)
}
