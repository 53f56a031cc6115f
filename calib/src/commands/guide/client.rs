//! Talks to a running `edge`.

use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

/// A fit on a slow device takes no longer.
const PATIENCE: Duration = Duration::from_secs(12);
/// A look at how things stand takes no longer: keys wait for it.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);
const MOST_BYTES: u64 = 1 << 20;

/// Something that takes orders as the HTTP API of `edge` does.
pub(super) trait Edge {
    /// Asks for something; the answer's JSON.
    ///
    /// # Errors
    /// Says what is wrong in a sentence: it does not answer, or refuses.
    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Put,
    Post,
    Delete,
}

pub(super) struct Client {
    agent: ureq::Agent,
    base: String,
    token: Option<String>,
}

impl Client {
    /// `base` is a URL, such as `http://127.0.0.1:8017`.
    pub(super) fn new(base: &str, token: Option<String>) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .max_redirects(0)
            .build();
        Self { agent: config.into(), base: base.trim_end_matches('/').to_owned(), token }
    }
}

impl Edge for Client {
    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.base);
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let json = body.map(Value::to_string);
        let answer = match method {
            Method::Get | Method::Delete => {
                let request =
                    if method == Method::Get { self.agent.get(&url) } else { self.agent.delete(&url) };
                let patience = if method == Method::Get { LOOK_PATIENCE } else { PATIENCE };
                let request = request.config().timeout_global(Some(patience)).build();
                match bearer {
                    Some(bearer) => request.header("Authorization", bearer).call(),
                    None => request.call(),
                }
            }
            Method::Put | Method::Post => {
                let request =
                    if method == Method::Put { self.agent.put(&url) } else { self.agent.post(&url) };
                let request = match bearer {
                    Some(bearer) => request.header("Authorization", bearer),
                    None => request,
                };
                match json {
                    Some(json) => request.header("Content-Type", "application/json").send(json),
                    None => request.send_empty(),
                }
            }
        };
        let mut answer = answer.with_context(|| format!("edge does not answer at {}", self.base))?;
        let text = answer.body_mut().with_config().limit(MOST_BYTES).read_to_string();
        let text = text.with_context(|| format!("the answer from {url} breaks off"))?;
        let json: Option<Value> = serde_json::from_str(&text).ok();
        let status = answer.status();
        if !status.is_success() {
            let sentence = json.as_ref().and_then(|json| json["error"].as_str());
            bail!("{}", sentence.map_or_else(|| format!("{url} answers {status}"), str::to_owned));
        }
        json.with_context(|| format!("{url} answers with something else than JSON: is it edge?"))
    }
}

/// What `/v1/calibration` tells.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Told {
    pub(super) session: Option<Step>,
    pub(super) labels: Labels,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Labels {
    pub(super) total: u64,
}

/// Where a guided session is.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Step {
    pub(super) title: String,
    pub(super) phase: String,
    pub(super) say: String,
    pub(super) expression: Option<String>,
    pub(super) step: u64,
    pub(super) steps: u64,
    pub(super) left_secs: Option<f64>,
    pub(super) advice: Option<String>,
    pub(super) good_frames: u64,
    pub(super) labels: u64,
    pub(super) trouble: Option<String>,
    pub(super) skipped: u64,
}
