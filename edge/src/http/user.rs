//! `/v1/user`: whose face is read, and the users that are known.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use semblance_calib::profile::UserName;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Context;
use super::api::Body;
use super::calibration::{learning, unusable};
use crate::learn::{LearnError, Learner, Order};

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Choice {
    /// A name, or null for nobody in particular. It has to be there: an empty object is no choice.
    #[serde(deserialize_with = "Option::deserialize")]
    user: Option<String>,
}

pub(super) async fn read(State(context): State<Arc<Context>>) -> Response {
    learning(context, |learner| tell(learner, json!([]))).await
}

pub(super) async fn choose(State(context): State<Arc<Context>>, Body(choice): Body<Choice>) -> Response {
    learning(context, move |learner| {
        let user = choice.user.map(|name| name.parse::<UserName>()).transpose().map_err(unusable)?;
        match &user {
            Some(user) => log::info!("from now on every face is taken for {user}'s"),
            None => log::info!("from now on faces are nobody's in particular"),
        }
        let notes = learner.ask(Order::Choose(user))?;
        notes.as_array().into_iter().flatten().for_each(|note| log::warn!("{note}"));
        tell(learner, notes)
    })
    .await
}

fn tell(learner: &Learner, notes: Value) -> Result<Value, LearnError> {
    let users = learner.users();
    let now = users.in_force().now();
    let known = users.known()?;
    let known: Vec<&str> = known.iter().map(UserName::as_str).collect();
    Ok(json!({ "user": now.user.as_deref(), "adapted": now.adapted, "known": known, "notes": notes }))
}
