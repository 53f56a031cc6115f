//! The HTTP server: dashboard, live events, preview, state, metrics and health, on a thread of its own.
//!
//! A request passes `security` before anything else looks at it. `openapi.json` describes what there is.

mod api;
mod calibration;
mod connection;
mod example;
mod metrics;
mod page;
mod preview;
mod security;
mod state;
mod stream;
mod token;
mod user;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

use crate::learn::Learner;
use crate::run::Shared;

pub use security::Limits;
pub use state::About;
pub use token::TokenError;

use security::Guard;
use state::Monitor;
use stream::Events;

/// Where the server listens unless told otherwise.
pub const DEFAULT_ADDR: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8017);

/// How the server is reached, and by whom.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpOptions {
    /// The address to listen on; with port 0 the system chooses one. Anything but loopback requires a token.
    pub addr: SocketAddr,
    /// Folder in which the token is kept; created where it is missing. Needed only where a token is.
    pub state_dir: Option<PathBuf>,
    /// Names by which the server may be called, besides `localhost` and its addresses.
    pub allowed_hosts: Vec<String>,
    /// Origins, as `https://example.org`, whose pages may use this server.
    pub cors_origins: Vec<String>,
    /// Whether the server counts as an output: whether the run goes on when every other output's reader has gone.
    pub keeps_run: bool,
    /// What clients may take.
    pub limits: Limits,
}

impl HttpOptions {
    /// Options for an address: no further names or origins, the usual limits.
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            state_dir: None,
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            keeps_run: true,
            limits: Limits::default(),
        }
    }
}

/// Why there is no server.
#[derive(Debug, Error)]
pub enum HttpError {
    /// Somebody else listens there.
    #[error("http: {addr} is taken by another program: stop it, or choose another port with --http")]
    Taken {
        /// The address.
        addr: SocketAddr,
    },
    /// The system does not let us listen there.
    #[error("http: cannot listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// There is no place for the token.
    #[error(
        "http: {addr} can be reached from other machines, so a token is required: name a folder to keep it in with --state-dir"
    )]
    NoStateDir {
        /// The address.
        addr: SocketAddr,
    },
    /// The token cannot be read or made.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A name of the server is not one.
    #[error("http: '{0}' is no host name: give a name without scheme and port, as camera.local")]
    HostName(String),
    /// An origin is not one.
    #[error(
        "http: '{0}' is no origin: give scheme, host and, where it is not the usual one, port, as https://example.org"
    )]
    Origin(String),
    /// The system gives no thread.
    #[error("http: cannot start: {0}")]
    Start(io::Error),
}

/// What the handlers share.
#[derive(Debug)]
struct Context {
    monitor: Monitor,
    learner: Arc<Learner>,
    events: Events,
    preview: preview::Frames,
    guard: Guard,
}

/// A server at work. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    token_file: Option<PathBuf>,
    stopping: Arc<AtomicBool>,
    stop: Option<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

/// How long requests that are being answered are waited for.
const FAREWELL: Duration = Duration::from_millis(300);
/// Bytes that the system holds for a client who reads slowly: beyond them, it loses events.
const SEND_BUFFER: u32 = 128 * 1024;
const BACKLOG: u32 = 256;

impl Server {
    /// Listens, and answers from then on. Predictions come from `shared`'s hub, to which it subscribes as `http`; whose they
    /// are, and what is learned of that person, is up to `learner`.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn start(
        options: &HttpOptions,
        shared: Arc<Shared>,
        about: About,
        learner: Arc<Learner>,
    ) -> Result<Self, HttpError> {
        let token_file = match &options.state_dir {
            _ if options.addr.ip().is_loopback() => None,
            Some(dir) => Some(dir.join(token::FILE)),
            None => return Err(HttpError::NoStateDir { addr: options.addr }),
        };
        let token = token_file.as_deref().map(token::load_or_create).transpose()?;
        let guard = Guard::new(options, token)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(HttpError::Start)?;
        let listener = {
            let _entered = runtime.enter();
            listen(options.addr)?
        };
        let addr = listener.local_addr().map_err(HttpError::Start)?;

        let subscription = if options.keeps_run {
            shared.hub.subscribe("http", stream::QUEUE, crate::hub::Overflow::DropOldest)
        } else {
            shared.hub.watch("http", stream::QUEUE)
        };
        let context = Arc::new(Context {
            monitor: Monitor::new(Arc::clone(&shared), about, Arc::clone(learner.users().in_force())),
            learner,
            events: Events::default(),
            preview: preview::Frames::default(),
            guard,
        });
        let stopping = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = oneshot::channel();
        let mut server =
            Self { addr, token_file, stopping: Arc::clone(&stopping), stop: Some(stop), threads: Vec::new() };
        server.spawn("http events", {
            let (context, stopping) = (Arc::clone(&context), Arc::clone(&stopping));
            move || stream::relay(&subscription, &context, &stopping)
        })?;
        let encoder = server.spawn("http preview", {
            let (context, stopping) = (Arc::clone(&context), Arc::clone(&stopping));
            move || preview::encode(&shared.preview, &context.preview, &stopping)
        })?;
        context.preview.woken_by(encoder);
        server.spawn("http", move || {
            runtime.block_on(async {
                let ticking = tokio::spawn(stream::tick(Arc::clone(&context)));
                tokio::select! {
                    () = connection::accept(&listener, &context) => {}
                    _ = stopped => {}
                }
                ticking.abort();
            });
            // Open streams have no end of their own: they are cut.
            runtime.shutdown_timeout(FAREWELL);
        })?;
        Ok(server)
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The file that holds the token, where one is required.
    pub fn token_file(&self) -> Option<&std::path::Path> {
        self.token_file.as_deref()
    }

    /// Ends it within a second, whoever is connected.
    pub fn stop(self) {}

    fn spawn(
        &mut self,
        name: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<std::thread::Thread, HttpError> {
        let handle = Builder::new().name(name.to_owned()).spawn(work).map_err(HttpError::Start)?;
        let thread = handle.thread().clone();
        self.threads.push(handle);
        Ok(thread)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            if thread.join().is_err() {
                log::error!("http: a thread of the server panicked");
            }
        }
    }
}

fn listen(addr: SocketAddr) -> Result<TcpListener, HttpError> {
    let open = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        // Connections inherit it.
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => HttpError::Taken { addr },
        _ => HttpError::Listen { addr, source },
    })
}
