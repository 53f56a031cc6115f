//! The routes, and the endpoints that answer in one piece.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Context, calibration, example, metrics, page, preview, security, stream, user};

const OPENAPI: &str = include_str!("openapi.json");

/// Everything the server answers, behind the guard.
pub(super) fn router(context: &Arc<Context>) -> Router {
    Router::new()
        .route("/", get(page::dashboard))
        .route("/v1/stream", get(stream::stream))
        .route("/v1/preview.mjpg", get(preview::preview))
        .route("/v1/state", get(state))
        .route("/v1/user", get(user::read).put(user::choose))
        .route("/v1/example.jpg", get(example::example))
        .route("/v1/protocols", get(calibration::protocols))
        .route("/v1/calibration", get(calibration::read).post(calibration::start).delete(calibration::stop))
        .route("/v1/calibration/redo", post(calibration::redo))
        .route("/v1/calibration/rating", post(calibration::rate))
        .route("/v1/label", post(calibration::label))
        .route("/v1/fit", post(calibration::fit).delete(calibration::reject))
        .route("/v1/fit/accept", post(calibration::accept))
        .route("/v1/rollback", post(calibration::rollback))
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(healthz))
        .route("/openapi.json", get(openapi))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(context.guard.limits.body_bytes))
        .layer(from_fn_with_state(Arc::clone(context), security::check))
        .with_state(Arc::clone(context))
}

/// An error as clients get it: one sentence.
pub(super) fn error(status: StatusCode, sentence: &str) -> Response {
    (status, Json(json!({ "error": sentence }))).into_response()
}

/// An error of the program as a sentence.
pub(super) fn sentence(error: &(dyn std::error::Error + 'static)) -> String {
    let text = semblance_face::describe(error);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

/// A request's body: one JSON object, said to be one. A page of another site cannot send that without having asked first.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let essence = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let sentence = "Send the body as JSON, with 'Content-Type: application/json'.";
            return Err(error(StatusCode::UNSUPPORTED_MEDIA_TYPE, sentence));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            let too_long = rejection.status() == StatusCode::PAYLOAD_TOO_LARGE;
            let sentence =
                if too_long { "The request's body is too long." } else { "The request's body broke off." };
            error(rejection.status(), sentence)
        })?;
        let said =
            |e| error(StatusCode::BAD_REQUEST, &format!("The request's body is not what is asked for: {e}."));
        serde_json::from_slice(&bytes).map(Self).map_err(said)
    }
}

async fn state(State(context): State<Arc<Context>>) -> Response {
    Json(context.monitor.state()).into_response()
}

async fn healthz(State(context): State<Arc<Context>>) -> Response {
    let reasons = context.monitor.ailments();
    if reasons.is_empty() {
        Json(json!({ "status": "ok" })).into_response()
    } else {
        let body = json!({ "status": "degraded", "reasons": reasons });
        (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
    }
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn not_found(uri: Uri) -> Response {
    error(
        StatusCode::NOT_FOUND,
        &format!("There is no {} here: /openapi.json tells what there is.", uri.path()),
    )
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    error(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("{} cannot be asked to {method}: /openapi.json tells what it can.", uri.path()),
    )
}
