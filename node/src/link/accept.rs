//! The parent's side between hosts: HTTP/2 and the `Link` service on one accepted connection.
//!
//! Who the caller is was proved by the handshake; nothing here believes a caller's own word.

use std::{
    convert::Infallible,
    pin::pin,
    sync::Weak,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    http::{Request, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, future::BoxFuture};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use lianxi_proto::link::v1::{
    Frame,
    link_server::{Link, LinkServer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tower::Service;
use tracing::debug;

use super::{
    driver::{Broken, Wire},
    host::Inner,
    session::Closed,
    wire::{MAX_FRAME_BYTES, Malformed},
};
use crate::{services::connection::Connection, watch};

/// Flow-control window of a stream: room for one of the largest frames' quarter, so that little
/// is ever queued in front of something urgent.
pub(super) const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// Flow-control window of a connection.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 128 * 1024;

/// Time between two HTTP/2 pings, and longest time for the answer.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Calls of one connection at a time: the link, and enrolment.
const MAX_CALLS: u32 = 8;

/// Longest time that open calls get when the host stops.
const GRACE: Duration = Duration::from_secs(12);

/// Serves one connection until it or the host ends.
pub(super) async fn serve(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: Connection,
    router: axum::Router,
    mut stop: watch::Receiver<bool>,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new()).http2_only();
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(MAX_CALLS)
        .max_send_buf_size(64 * 1024)
        .max_header_list_size(16 * 1024);
    let service = TowerToHyperService::new(Calls { router, connection });
    let mut served = pin!(builder.serve_connection(TokioIo::new(io), service));
    let ended = tokio::select! {
        ended = served.as_mut() => Some(ended),
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            served.as_mut().graceful_shutdown();
            timeout(GRACE, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(error = %error, "connection ended");
    }
}

/// Puts the facts of the connection on every request.
#[derive(Clone)]
struct Calls {
    router: axum::Router,
    connection: Connection,
}

impl<B> Service<Request<B>> for Calls
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.connection.clone());
        let answer = self.router.call(request);
        Box::pin(answer)
    }
}

/// The service with its limits.
pub(super) fn service(host: Weak<Inner>) -> LinkServer<LinkService> {
    LinkServer::new(LinkService { host })
        .max_decoding_message_size(MAX_FRAME_BYTES)
        .max_encoding_message_size(MAX_FRAME_BYTES)
}

pub(super) struct LinkService {
    host: Weak<Inner>,
}

#[tonic::async_trait]
impl Link for LinkService {
    type OpenStream = ReceiverStream<Result<Frame, Status>>;

    async fn open(
        &self,
        request: tonic::Request<Streaming<Frame>>,
    ) -> Result<tonic::Response<Self::OpenStream>, Status> {
        let connection = request.extensions().get::<Connection>().cloned();
        let Some(Connection { unit, peer: Some(peer), turn, .. }) = connection else {
            return Err(Status::unauthenticated("a link needs the certificate of a unit"));
        };
        let host = self.host.upgrade().ok_or_else(stopping)?;
        let Some(exchange) = host.exchange(&unit) else {
            return Err(Status::unavailable(format!("unit {unit} is not ready; try again")));
        };
        let (outbound, frames) = mpsc::channel(1);
        let inbound = frames_of(request.into_inner());
        if !host.spawn_parent(exchange, (peer, turn), outbound, inbound) {
            return Err(stopping());
        }
        Ok(tonic::Response::new(ReceiverStream::new(frames)))
    }
}

fn stopping() -> Status {
    Status::unavailable("the parent's host stops; try again")
}

/// Frames of a gRPC stream.
pub(super) fn frames_of(
    stream: Streaming<Frame>,
) -> impl Stream<Item = Result<Frame, Broken>> + Send + 'static {
    stream.map(|frame| {
        frame.map_err(|status| {
            // The codec's word for a message over the limit.
            if status.code() == Code::OutOfRange {
                Broken::Malformed(Malformed::TooLarge)
            } else {
                Broken::Failed(words_of(&status))
            }
        })
    })
}

/// What a status says, for the operator.
pub(super) fn words_of(status: &Status) -> String {
    if status.message().is_empty() {
        status.code().description().to_owned()
    } else {
        status.message().to_owned()
    }
}

impl Wire for Result<Frame, Status> {
    fn wrap(frame: Frame) -> Self {
        Ok(frame)
    }

    fn ending(closed: &Closed) -> Option<Self> {
        let text = closed.to_string();
        let status = match closed {
            Closed::Refused { .. } | Closed::Refusing(_) | Closed::Ended(_) => return None,
            Closed::Malformed(Malformed::TooLarge) => Status::resource_exhausted(text),
            Closed::Malformed(_) | Closed::Protocol(_) => Status::invalid_argument(text),
            Closed::Gap { .. } | Closed::Replaced | Closed::Renewed | Closed::NoRoom(_) => {
                Status::aborted(text)
            }
            Closed::Silent(_) => Status::deadline_exceeded(text),
            Closed::Stopped | Closed::Outbox(_) => Status::unavailable(text),
            // What failed inside stays inside.
            Closed::Failed(_) => Status::unavailable("the parent cannot take in what comes"),
        };
        Some(Err(status))
    }
}
