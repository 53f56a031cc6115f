//! Connections: how many there are, how long they may be silent, and how long they may leave unread what they asked for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};

use super::{Context, api};

/// Both ends of a connection, for whoever handles its requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// The client's address.
    pub(super) peer: IpAddr,
    /// The address at which the client reached us.
    pub(super) local: IpAddr,
}

/// What a client gets who is one too many; the connection is closed after it.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 64\r\n\
    Retry-After: 5\r\nConnection: close\r\n\r\n\
    {\"error\":\"There are too many connections: try again later on.\"}\n";

/// Takes connections, for ever. Each is served by a task of its own.
pub(super) async fn accept(listener: &TcpListener, context: &Arc<Context>) {
    let service = TowerToHyperService::new(api::router(context));
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => admit(stream, peer, context, &service),
            Err(error) => {
                // Out of file descriptors, as a rule: some come free.
                log::warn!("http: cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn admit(
    stream: TcpStream,
    peer: SocketAddr,
    context: &Arc<Context>,
    service: &TowerToHyperService<axum::Router>,
) {
    let Ok(local) = stream.local_addr() else { return };
    let ends = Ends { peer: peer.ip().to_canonical(), local: local.ip().to_canonical() };
    let guard = &context.guard;
    if !guard.admit(ends.peer) {
        let _ = stream.try_write(FULL);
        return;
    }
    let limits = guard.limits;
    let _ = stream.set_nodelay(true);
    let slot = Slot { context: Arc::clone(context), peer: ends.peer };
    let service = service.clone();
    tokio::spawn(async move {
        let _slot = slot;
        let with_ends = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(ends);
            service.call(request)
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(limits.header_bytes)
            .serve_connection(TokioIo::new(Patient::new(stream, limits.stall_timeout)), with_ends)
            .await;
        if let Err(error) = served {
            log::debug!("http: {}: {error}", ends.peer);
        }
    });
}

/// The place of a connection, which is free again when this is dropped, a panic of its task included.
struct Slot {
    context: Arc<Context>,
    peer: IpAddr,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.context.guard.dismiss(self.peer);
    }
}

/// A connection that fails once its client takes nothing for too long.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Set while the client takes nothing.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, patience, deadline: None }
    }

    /// Lets a write through that went on, and fails one that has not for too long.
    fn judge<T>(&mut self, written: Poll<io::Result<T>>, task: &mut TaskContext<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let patience = self.patience;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        ready!(deadline.as_mut().poll(task));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(task, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(task, bytes);
        self.judge(written, task)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(task, slices);
        self.judge(written, task)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusals_length_is_right() {
        let text = String::from_utf8_lossy(FULL);
        let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
        assert!(text.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    }
}
