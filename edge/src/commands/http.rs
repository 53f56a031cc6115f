//! The options of the HTTP server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use semblance_edge::http::{self, About, HttpError, HttpOptions, Server};
use semblance_edge::learn::Learner;
use semblance_edge::logging::tell;
use semblance_edge::run::Shared;

use super::StateArgs;

/// The HTTP server.
#[derive(Debug, Args)]
pub(crate) struct HttpArgs {
    /// Address of the dashboard and the HTTP API, or off; beyond this machine a token is asked for [default: 127.0.0.1:8017
    /// for live sources, off for recordings]
    #[arg(long, value_name = "ADDR", env = "SEMBLANCE_HTTP")]
    http: Option<HttpChoice>,

    /// A further name that the server may be called by, as camera.local; may be given several times
    #[arg(long, value_name = "NAME", env = "SEMBLANCE_HTTP_HOST", value_delimiter = ',')]
    http_host: Vec<String>,

    /// An origin (scheme, host and port as a browser has them) whose pages may use the server; may be given several times
    #[arg(long, value_name = "ORIGIN", env = "SEMBLANCE_CORS", value_delimiter = ',')]
    cors: Vec<String>,

    #[command(flatten)]
    state: StateArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpChoice {
    Off,
    At(SocketAddr),
}

impl HttpChoice {
    /// Whether other machines can reach it.
    pub(crate) fn is_for_others(self) -> bool {
        matches!(self, Self::At(addr) if !addr.ip().to_canonical().is_loopback())
    }
}

impl FromStr for HttpChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "off" => Ok(Self::Off),
            Ok(addr) => Ok(Self::At(addr)),
            Err(_) => {
                Err("give an address with a port, as 127.0.0.1:8017 or 0.0.0.0:8017, or off".to_owned())
            }
        }
    }
}

impl HttpArgs {
    /// Where the program keeps what outlives it.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.state.dir()
    }

    /// Where the server is to be, if at all, and whether somebody asked for it.
    pub(crate) fn wanted(&self, live: bool) -> Option<(SocketAddr, bool)> {
        match self.http {
            Some(HttpChoice::At(addr)) => Some((addr, true)),
            None if live => Some((http::DEFAULT_ADDR, false)),
            None | Some(HttpChoice::Off) => None,
        }
    }

    /// Starts the server where it is [`HttpArgs::wanted`]. Where nobody asked, that there is none is no failure.
    pub(crate) fn start(
        &self,
        (addr, asked): (SocketAddr, bool),
        shared: &Arc<Shared>,
        about: About,
        learner: Arc<Learner>,
    ) -> anyhow::Result<Option<Server>> {
        let options = HttpOptions {
            state_dir: Some(self.state.dir()),
            allowed_hosts: self.http_host.clone(),
            cors_origins: self.cors.clone(),
            keeps_run: asked,
            ..HttpOptions::new(addr)
        };
        let server = match Server::start(&options, Arc::clone(shared), about, learner) {
            Err(error @ (HttpError::Taken { .. } | HttpError::Listen { .. })) if !asked => {
                log::warn!("no dashboard: {error}");
                return Ok(None);
            }
            server => server?,
        };
        match server.token_file() {
            None => tell(format_args!("dashboard at http://{}/", server.local_addr())),
            Some(file) => {
                let (addr, file) = (server.local_addr(), file.display());
                tell(format_args!("dashboard at http://{addr}/?token=TOKEN, TOKEN is in {file}"));
            }
        }
        Ok(Some(server))
    }
}
