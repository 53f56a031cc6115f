//! `/v1/stream`: what happens, as server-sent events. Each is written once for all clients, and a client that does not
//! keep up loses the oldest.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use crossbeam::channel::RecvTimeoutError;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::{Context, api};
use crate::hub::Subscription;
use crate::prediction::FrameReport;

/// Reports that the relay may be behind by.
pub(super) const QUEUE: usize = 64;
/// Events that a client may be behind by, beyond what the system holds for it.
const BEHIND: usize = 256;
/// A stream on which nothing happens says so this often.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const STATE_PERIOD: Duration = Duration::from_secs(1);
/// How long the relay waits before it looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(100);

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A face in a frame.
    Prediction,
    /// A frame without a face.
    Frame,
    /// The state of the run.
    State,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Prediction, Self::Frame, Self::State];

    const fn name(self) -> &'static str {
        match self {
            Self::Prediction => "prediction",
            Self::Frame => "frame",
            Self::State => "state",
        }
    }

    fn event(self, data: &impl Serialize) -> Event {
        let mut text = format!("event: {}\ndata: ", self.name()).into_bytes();
        match serde_json::to_writer(&mut text, data) {
            Ok(()) => text.extend_from_slice(b"\n\n"),
            Err(error) => text = format!(": {error}\n\n").into_bytes(),
        }
        Event { kind: self, text: text.into() }
    }
}

/// An event as it goes over the wire.
#[derive(Clone, Debug)]
struct Event {
    kind: Kind,
    text: Bytes,
}

/// Hands events to all clients.
#[derive(Debug)]
pub(super) struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::channel(BEHIND).0)
    }
}

impl Events {
    /// Clients that listen.
    pub(super) fn clients(&self) -> usize {
        self.0.receiver_count()
    }

    /// Sends an event to whoever listens; where nobody does, it is not even written.
    fn send(&self, event: impl FnOnce() -> Event) {
        if self.clients() > 0 {
            let _ = self.0.send(event());
        }
    }
}

/// What the stream tells of a frame without a face.
#[derive(Debug, Serialize)]
struct Faceless {
    t: f64,
    frame: u64,
    faces: u32,
}

/// Turns reports into events until there are no more or the server stops.
pub(super) fn relay(subscription: &Subscription, context: &Context, stopping: &AtomicBool) {
    while !stopping.load(Ordering::Relaxed) {
        match subscription.receiver().recv_timeout(PATIENCE) {
            Ok(report) => send(&report, context),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
}

fn send(report: &FrameReport, context: &Context) {
    context.monitor.saw(report);
    for prediction in &report.faces {
        context.events.send(|| Kind::Prediction.event(prediction));
    }
    if report.faces.is_empty() {
        let faceless = Faceless { t: report.t, frame: report.frame, faces: 0 };
        context.events.send(|| Kind::Frame.event(&faceless));
    }
}

/// Notes the counts and sends the state, once a second, for ever.
pub(super) async fn tick(context: Arc<Context>) {
    let mut interval = tokio::time::interval(STATE_PERIOD);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        context.monitor.sample();
        context.events.send(|| Kind::State.event(&context.monitor.state()));
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    events: Option<String>,
}

/// The stream; `?events=prediction,state` leaves the others out.
pub(super) async fn stream(
    State(context): State<Arc<Context>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let kinds = match wanted.map(|Query(wanted)| wanted.events) {
        Ok(None) => Kind::ALL.to_vec(),
        Ok(Some(names)) => {
            let known = |name: &str| Kind::ALL.into_iter().find(|kind| kind.name() == name);
            match names.split(',').map(known).collect::<Option<Vec<_>>>() {
                Some(kinds) => kinds,
                None => return bad_query(&format!("'{names}'")),
            }
        }
        Err(_) => return bad_query("This query"),
    };
    let receiver = context.events.0.subscribe();
    // Who reconnects after a restart finds the server again within a second or two.
    let mut first = b"retry: 1000\n\n".to_vec();
    if kinds.contains(&Kind::State) {
        first.extend_from_slice(&Kind::State.event(&context.monitor.state()).text);
    }
    let events = futures_util::stream::unfold(
        (receiver, kinds, Some(Bytes::from(first))),
        |(mut receiver, kinds, first)| async move {
            let text = match first {
                Some(first) => first,
                None => next(&mut receiver, &kinds).await?,
            };
            Some((Ok::<_, Infallible>(text), (receiver, kinds, None)))
        },
    );
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

fn bad_query(what: &str) -> Response {
    let names = Kind::ALL.map(Kind::name).join(", ");
    api::error(
        StatusCode::BAD_REQUEST,
        &format!("{what} does not name events: give any of {names}, with commas between."),
    )
}

/// The next event of a kind in `kinds`, or a comment in its stead; `None` when there will be no more.
async fn next(receiver: &mut broadcast::Receiver<Event>, kinds: &[Kind]) -> Option<Bytes> {
    let wanted = async {
        loop {
            match receiver.recv().await {
                Ok(event) if kinds.contains(&event.kind) => return Some(event.text),
                Ok(_) => {}
                Err(RecvError::Lagged(lost)) => return Some(format!(": {lost} events lost\n\n").into()),
                Err(RecvError::Closed) => return None,
            }
        }
    };
    let waited = tokio::time::timeout(KEEP_ALIVE, wanted).await;
    waited.unwrap_or_else(|_| Some(Bytes::from_static(b": nothing new\n\n")))
}
