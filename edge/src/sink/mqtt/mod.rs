//! MQTT, with the topics that Home Assistant discovers.
//!
//! | topic | what it holds |
//! |---|---|
//! | `PREFIX/available` | `online` or `offline`, retained; `offline` also as the last will |
//! | `PREFIX/state` | the largest face's prediction with `faces` and `fps`, a few times a second: [`State`] |
//! | `PREFIX/predictions` | every prediction as in JSON lines, where it was asked for |
//! | `homeassistant/…/config` | what there is to discover, retained: [`discovery`] |
//!
//! A connection is kept by a thread of its own ([`connection`]); writing leaves what is to be sent in an [`Outbox`] of
//! bounded size and never waits.

mod connection;
mod discovery;
mod spec;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use tokio::sync::Notify;

use super::{Sink, SinkError};
use crate::hub::QueueStats;
use crate::prediction::{FrameReport, Labels, Prediction};
use discovery::Announcement;

pub use spec::MqttSpec;

/// Predictions that are kept while the broker takes none: the newest.
const MOST_QUEUED: usize = 64;
/// Home Assistant takes a state that is older than this for unknown; it is not sent again either.
const EXPIRE: Duration = Duration::from_secs(60);
/// How long the last messages may take; sinks have 2 s in all.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Publishes to a broker. That the broker cannot be reached is told as the queue's problem, and ends nothing.
pub struct MqttSink {
    spec: MqttSpec,
    outbox: Arc<Outbox>,
    stats: Arc<QueueStats>,
    ended: Receiver<Infallible>,
    rate: Rate,
    due: Instant,
    /// The newest state, and whether it was handed on.
    state: Vec<u8>,
    handed_on: bool,
}

impl std::fmt::Debug for MqttSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MqttSink").field(&self.spec).finish()
    }
}

impl MqttSink {
    /// Starts connecting; predictions have these labels, and `stats` are told what is wrong with the connection.
    ///
    /// # Errors
    /// [`SinkError::Io`] where the system gives no thread.
    pub fn open(spec: &MqttSpec, labels: &Labels, stats: Arc<QueueStats>) -> Result<Self, SinkError> {
        let outbox = Arc::new(Outbox::default());
        let announcement = Announcement::new(spec, labels);
        let ended = connection::start(spec, announcement, Arc::clone(&outbox), Arc::clone(&stats))
            .map_err(|source| SinkError::Io { to: spec.to_string(), source })?;
        let now = Instant::now();
        Ok(Self {
            spec: spec.clone(),
            outbox,
            stats,
            ended,
            rate: Rate { since: now, frames: 0, fps: None },
            due: now,
            state: Vec::new(),
            handed_on: true,
        })
    }

    fn hand_on(&mut self, now: Instant) {
        self.outbox.put_state(&self.state, now);
        self.handed_on = true;
        let interval = self.spec.interval();
        // Where frames come at a rate that is no multiple, the mean is still what was asked for.
        let on_time = now.saturating_duration_since(self.due) < interval;
        self.due = if on_time { self.due + interval } else { now + interval };
    }
}

impl Sink for MqttSink {
    fn write(&mut self, report: &FrameReport) -> Result<(), SinkError> {
        let now = Instant::now();
        self.rate.count(now);
        if self.spec.sends_predictions() {
            for face in &report.faces {
                let json = serde_json::to_vec(face).map_err(|e| self.failed(e))?;
                self.outbox.put_prediction(json);
            }
        }
        self.state.clear();
        let state = State { report, fps: self.rate.fps };
        if let Err(error) = serde_json::to_writer(&mut self.state, &state) {
            return Err(self.failed(error));
        }
        self.handed_on = false;
        if now >= self.due {
            self.hand_on(now);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// # Errors
    /// [`SinkError::Io`] where the broker was never reached: nothing of this run has arrived.
    fn finish(&mut self) -> Result<(), SinkError> {
        if !self.handed_on {
            self.hand_on(Instant::now());
        }
        self.outbox.close();
        let in_time = self.ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Disconnected);
        let (reached, lost) = {
            let content = self.outbox.lock();
            (content.reached, content.lost + content.predictions.len() as u64)
        };
        if !reached {
            let problem = self.stats.problem().unwrap_or_else(|| "no answer".to_owned());
            return Err(SinkError::Io { to: self.spec.to_string(), source: io::Error::other(problem) });
        }
        if !in_time {
            log::warn!("{}: the broker did not take everything in time", self.spec);
        }
        if lost > 0 {
            log::warn!(
                "{}: {lost} predictions were not sent, for want of a broker that takes them",
                self.spec
            );
        }
        Ok(())
    }
}

impl MqttSink {
    fn failed(&self, error: serde_json::Error) -> SinkError {
        SinkError::Io { to: self.spec.to_string(), source: error.into() }
    }
}

/// Frames a second, measured over a second at least.
#[derive(Debug)]
struct Rate {
    since: Instant,
    frames: u32,
    fps: Option<f64>,
}

impl Rate {
    fn count(&mut self, now: Instant) {
        self.frames += 1;
        let elapsed = now.duration_since(self.since).as_secs_f64();
        if elapsed >= 1.0 {
            self.fps = Some((f64::from(self.frames) / elapsed * 10.0).round() / 10.0);
            (self.since, self.frames) = (now, 0);
        }
    }
}

/// What `PREFIX/state` holds: `faces`, how many are in view; `fps`, frames a second, `null` in the first second; and the
/// prediction of the largest face. Where there is none, `track`, `expression`, `valence` and `arousal` are `null`.
struct State<'a> {
    report: &'a FrameReport,
    fps: Option<f64>,
}

impl Serialize for State<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct WithFace<'a> {
            faces: usize,
            fps: Option<f64>,
            #[serde(flatten)]
            face: &'a Prediction,
        }
        let (report, fps) = (self.report, self.fps);
        let area = |face: &Prediction| face.bbox[2] * face.bbox[3];
        match report.faces.iter().max_by(|a, b| area(a).total_cmp(&area(b))) {
            Some(face) => WithFace { faces: report.faces.len(), fps, face }.serialize(serializer),
            None => {
                let mut map = serializer.serialize_map(None)?;
                map.serialize_entry("faces", &0)?;
                map.serialize_entry("fps", &fps)?;
                map.serialize_entry("t", &report.t)?;
                map.serialize_entry("frame", &report.frame)?;
                for absent in ["track", "expression", "valence", "arousal"] {
                    map.serialize_entry(absent, &())?;
                }
                map.end()
            }
        }
    }
}

/// What is to be sent, between the sink that writes and the thread that sends.
#[derive(Debug, Default)]
struct Outbox {
    content: Mutex<Content>,
    /// There is something to send.
    wake: Notify,
    /// It is time to leave.
    leave: Notify,
}

#[derive(Debug, Default)]
struct Content {
    state: Vec<u8>,
    state_of: Option<Instant>,
    state_is_new: bool,
    predictions: VecDeque<Vec<u8>>,
    /// Predictions that made room for newer ones.
    lost: u64,
    announce: bool,
    /// Whether the broker ever was.
    reached: bool,
    closed: bool,
}

/// What is to be sent next, most urgent first.
#[derive(Debug, PartialEq, Eq)]
enum ToSend {
    Announcement,
    State(Vec<u8>),
    Prediction(Vec<u8>),
    Farewell,
}

impl Outbox {
    fn put_state(&self, json: &[u8], now: Instant) {
        let mut content = self.lock();
        content.state.clear();
        content.state.extend_from_slice(json);
        (content.state_of, content.state_is_new) = (Some(now), true);
        self.wake.notify_one();
    }

    fn put_prediction(&self, json: Vec<u8>) {
        let mut content = self.lock();
        if content.predictions.len() >= MOST_QUEUED {
            content.predictions.pop_front();
            content.lost += 1;
        }
        content.predictions.push_back(json);
        self.wake.notify_one();
    }

    /// Somebody is there who knows nothing: everything that is retained or current is to be sent again.
    fn renew(&self) {
        let mut content = self.lock();
        (content.reached, content.announce) = (true, true);
        content.state_is_new = content.state_of.is_some_and(|at| at.elapsed() < EXPIRE);
        self.wake.notify_one();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
        self.leave.notify_one();
    }

    fn take(&self) -> Option<ToSend> {
        let mut content = self.lock();
        if std::mem::take(&mut content.announce) {
            Some(ToSend::Announcement)
        } else if std::mem::take(&mut content.state_is_new) {
            Some(ToSend::State(content.state.clone()))
        } else if let Some(json) = content.predictions.pop_front() {
            Some(ToSend::Prediction(json))
        } else {
            content.closed.then_some(ToSend::Farewell)
        }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn face(track: u64, side: f32) -> Prediction {
        Prediction {
            t: 1.0,
            frame: 25,
            track,
            bbox: [0.0, 0.0, side, side],
            score: 0.9,
            valence: Some(0.5),
            ..Prediction::default()
        }
    }

    #[test]
    fn the_state_is_the_largest_faces_or_tells_that_nobody_is_there() {
        let mut report = FrameReport { t: 1.0, frame: 25, ..FrameReport::default() };
        report.faces = vec![face(1, 50.0), face(2, 80.0), face(3, 60.0)];
        let of = |report: &FrameReport, fps| serde_json::to_value(State { report, fps }).unwrap();
        let state = of(&report, Some(25.0));
        assert_eq!((&state["faces"], &state["track"], &state["fps"]), (&json!(3), &json!(2), &json!(25.0)));
        let mut own = serde_json::to_value(&report.faces[1]).unwrap();
        for (key, value) in own.as_object_mut().unwrap() {
            assert_eq!(state[key.as_str()], *value, "{key} stands as in the prediction");
        }
        report.faces.clear();
        let state = of(&report, None);
        assert_eq!((&state["faces"], &state["frame"]), (&json!(0), &json!(25)));
        for key in ["track", "expression", "valence", "arousal", "fps"] {
            assert_eq!(state.get(key), Some(&Value::Null), "{key}");
        }
    }

    #[test]
    fn while_nothing_is_taken_the_newest_are_kept_and_memory_is_bounded() {
        let outbox = Outbox::default();
        for i in 0..100_000u32 {
            outbox.put_state(&i.to_le_bytes(), Instant::now());
            outbox.put_prediction(i.to_le_bytes().to_vec());
        }
        assert_eq!(outbox.lock().lost, 100_000 - MOST_QUEUED as u64);
        assert_eq!(outbox.take(), Some(ToSend::State(99_999u32.to_le_bytes().to_vec())));
        for i in 100_000 - MOST_QUEUED as u32..100_000 {
            assert_eq!(outbox.take(), Some(ToSend::Prediction(i.to_le_bytes().to_vec())));
        }
        assert_eq!(outbox.take(), None);
        outbox.renew();
        outbox.close();
        let rest: Vec<ToSend> = (0..3).map_while(|_| outbox.take()).collect();
        assert!(matches!(rest[..], [ToSend::Announcement, ToSend::State(_), ToSend::Farewell]), "{rest:?}");
    }

    #[test]
    fn a_rate_is_measured_over_a_second() {
        let start = Instant::now();
        let mut rate = Rate { since: start, frames: 0, fps: None };
        for i in 1..=20 {
            rate.count(start + Duration::from_millis(50 * i));
            assert_eq!(rate.fps.is_some(), i == 20);
        }
        assert_eq!(rate.fps, Some(20.0));
    }
}
