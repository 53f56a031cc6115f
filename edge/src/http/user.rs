//! `/v1/user`: whose face is read, and the users that are known.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use semblance_calib::profile::{ProfileError, UserName};
use serde::Deserialize;
use serde_json::json;

use super::{Context, api};
use crate::users::{Users, UsersError};

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Choice {
    /// A name, or null for nobody in particular. It has to be there: an empty object is no choice.
    #[serde(deserialize_with = "Option::deserialize")]
    user: Option<String>,
}

pub(super) async fn read(State(context): State<Arc<Context>>) -> Response {
    on_disk(context, |users| tell(users, &[])).await
}

pub(super) async fn choose(
    State(context): State<Arc<Context>>,
    api::Body(choice): api::Body<Choice>,
) -> Response {
    let user = match choice.user.map(|name| name.parse::<UserName>()).transpose() {
        Ok(user) => user,
        Err(error) => return api::error(StatusCode::UNPROCESSABLE_ENTITY, &api::sentence(&error)),
    };
    on_disk(context, move |users| {
        let notes = users.choose(user.as_ref())?;
        match &user {
            Some(user) => log::info!("from now on every face is taken for {user}'s"),
            None => log::info!("from now on faces are nobody's in particular"),
        }
        notes.iter().for_each(|note| log::warn!("{note}"));
        tell(users, &notes)
    })
    .await
}

fn tell(users: &Users, notes: &[String]) -> Result<Response, UsersError> {
    let now = users.in_force().now();
    let known = users.known()?;
    let known: Vec<&str> = known.iter().map(UserName::as_str).collect();
    let body = json!({ "user": now.user.as_deref(), "adapted": now.adapted, "known": known, "notes": notes });
    Ok(Json(body).into_response())
}

/// Profiles are files: they are read where nobody waits.
async fn on_disk(
    context: Arc<Context>,
    work: impl FnOnce(&Users) -> Result<Response, UsersError> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(move || work(&context.users)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            let status = match &error {
                UsersError::Profile(ProfileError::Locked { .. }) => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            log::error!("{error}");
            api::error(status, &api::sentence(&error))
        }
        Err(_) => api::error(StatusCode::INTERNAL_SERVER_ERROR, "The server failed to answer."),
    }
}
