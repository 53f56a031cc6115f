//! `/`: the dashboard, one page with all that it needs.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::api;

const PAGE: &str = include_str!("dashboard.html");
/// Stands in the page where the nonce goes.
const NONCE: &str = "{{nonce}}";

/// The page. Its script and style carry a nonce of this response, so that nothing else can run in it.
pub(super) async fn dashboard() -> Response {
    let mut random = [0; 16];
    if let Err(error) = getrandom::fill(&mut random) {
        return api::error(StatusCode::INTERNAL_SERVER_ERROR, &format!("No random numbers: {error}."));
    }
    let nonce: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let html = PAGE.replace(NONCE, &nonce);
    let mut response = ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response();
    if let Ok(policy) = HeaderValue::try_from(policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}
