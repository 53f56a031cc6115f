//! `/v1/calibration`, `/v1/label`, `/v1/fit` and `/v1/rollback`: learning the person, as [`crate::learn`] does it.

use std::error::Error;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use semblance_calib::profile::ProfileError;
use semblance_calib::session::Protocol;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Body;
use super::{Context, api};
use crate::learn::{LearnError, Learner, Order};
use crate::users::UsersError;

/// Does something where nobody waits: it may read files, and the thread that learns may be fitting.
pub(super) async fn learning(
    context: Arc<Context>,
    work: impl FnOnce(&Learner) -> Result<Value, LearnError> + Send + 'static,
) -> Response {
    let error = match tokio::task::spawn_blocking(move || work(&context.learner)).await {
        Ok(Ok(answer)) => return Json(answer).into_response(),
        Ok(Err(error)) => error,
        Err(_) => return api::error(StatusCode::INTERNAL_SERVER_ERROR, "The server failed to answer."),
    };
    let status = match &error {
        LearnError::Conflict(_) => StatusCode::CONFLICT,
        LearnError::Unusable(_) => StatusCode::UNPROCESSABLE_ENTITY,
        LearnError::Gone | LearnError::Users(UsersError::Profile(ProfileError::Locked { .. })) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    if status.is_server_error() {
        log::error!("{}", semblance_face::describe(&error));
    }
    api::error(status, &api::sentence(&error))
}

/// What was asked for has the right form, and cannot be.
pub(super) fn unusable(error: impl Error) -> LearnError {
    LearnError::Unusable(error.to_string())
}

async fn obey(context: Arc<Context>, order: Order) -> Response {
    learning(context, |learner| learner.ask(order)).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    /// Name of a protocol that is shipped.
    protocol: Option<String>,
    /// A protocol's own TOML text.
    toml: Option<String>,
}

pub(super) async fn read(State(context): State<Arc<Context>>) -> Response {
    obey(context, Order::Tell).await
}

pub(super) async fn protocols() -> Response {
    let told = |p: &Protocol| json!({ "name": p.name, "title": p.title, "about": p.about, "seconds": p.duration_secs().round() });
    Json(Protocol::shipped().iter().map(told).collect::<Vec<_>>()).into_response()
}

pub(super) async fn start(State(context): State<Arc<Context>>, Body(start): Body<Start>) -> Response {
    learning(context, move |learner| {
        let protocol = match (start.protocol, start.toml) {
            (Some(name), None) => Protocol::named(&name).ok_or_else(|| {
                let known: Vec<String> = Protocol::shipped().into_iter().map(|p| p.name).collect();
                LearnError::Unusable(format!("'{name}' is no protocol: there are {}", known.join(", ")))
            })?,
            (None, Some(text)) => Protocol::parse(&text).map_err(unusable)?,
            _ => return Err(LearnError::Unusable("name a protocol, or give one as toml".to_owned())),
        };
        learner.ask(Order::Start(Box::new(protocol)))
    })
    .await
}

pub(super) async fn stop(State(context): State<Arc<Context>>) -> Response {
    obey(context, Order::Stop).await
}

pub(super) async fn redo(State(context): State<Arc<Context>>) -> Response {
    obey(context, Order::Redo).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rating {
    valence: f32,
    arousal: f32,
}

pub(super) async fn rate(State(context): State<Arc<Context>>, Body(rating): Body<Rating>) -> Response {
    obey(context, Order::Rate([rating.valence, rating.arousal])).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Said {
    from: Option<f64>,
    to: Option<f64>,
    expression: Option<String>,
    valence: Option<f32>,
    arousal: Option<f32>,
}

pub(super) async fn label(State(context): State<Arc<Context>>, Body(said): Body<Said>) -> Response {
    learning(context, move |learner| {
        let half = |what: &str| Err(LearnError::Unusable(format!("{what} come together")));
        let span = match (said.from, said.to) {
            (Some(from), Some(to)) => Some([from, to]),
            (None, None) => None,
            _ => return half("from and to"),
        };
        let valence_arousal = match (said.valence, said.arousal) {
            (Some(valence), Some(arousal)) => Some([valence, arousal]),
            (None, None) => None,
            _ => return half("valence and arousal"),
        };
        learner.ask(Order::Label { span, expression: said.expression, valence_arousal })
    })
    .await
}

pub(super) async fn fit(State(context): State<Arc<Context>>) -> Response {
    obey(context, Order::Fit).await
}

pub(super) async fn accept(State(context): State<Arc<Context>>) -> Response {
    obey(context, Order::Accept).await
}

pub(super) async fn reject(State(context): State<Arc<Context>>) -> Response {
    obey(context, Order::Reject).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    #[serde(default)]
    to: Option<u64>,
}

pub(super) async fn rollback(State(context): State<Arc<Context>>, Body(to): Body<Rollback>) -> Response {
    learning(context, move |learner| match to.to {
        Some(0) => Err(LearnError::Unusable("states are numbered from 1".to_owned())),
        to => learner.ask(Order::Rollback(to)),
    })
    .await
}
