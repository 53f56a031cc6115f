//! The routes, and the endpoints that answer in one piece.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;

use super::{Context, metrics, page, preview, security, stream};

const OPENAPI: &str = include_str!("openapi.json");

/// Everything the server answers, behind the guard.
pub(super) fn router(context: &Arc<Context>) -> Router {
    Router::new()
        .route("/", get(page::dashboard))
        .route("/v1/stream", get(stream::stream))
        .route("/v1/preview.mjpg", get(preview::preview))
        .route("/v1/state", get(state))
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
        &format!("{} cannot be asked to {method}: only GET works.", uri.path()),
    )
}
