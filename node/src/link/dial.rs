//! The child's side between hosts: dials the parent and opens the stream.

use std::{
    future::{Ready, ready},
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures::Stream;
use hyper_util::rt::TokioIo;
use lianxi_proto::link::v1::{Frame, link_client::LinkClient};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    codegen::http::Uri,
    transport::{Channel, Endpoint},
};
use tower::Service;

use super::{
    accept::{CONNECTION_WINDOW_BYTES, KEEP_ALIVE, STREAM_WINDOW_BYTES, frames_of, words_of},
    driver::{Broken, chain},
    wire::MAX_FRAME_BYTES,
};
use crate::identity::tls::refusal;

/// Longest time from the first byte to the parent's agreement to a stream.
const OPENING: Duration = Duration::from_secs(20);

/// A byte stream to the parent, secured.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// How the parent is reached.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// Connects to the parent and checks who it is; else one sentence for the operator.
    async fn dial(&self) -> Result<Box<dyn Io>, String>;
}

/// An open stream to the parent.
pub(super) struct Opened<S> {
    /// Takes frames to the parent.
    pub(super) outbound: mpsc::Sender<Frame>,
    /// Frames of the parent.
    pub(super) inbound: S,
    /// Keeps the connection.
    pub(super) _channel: Channel,
}

/// Dials, and opens the stream.
pub(super) async fn open(
    dial: &dyn Dial,
) -> Result<Opened<impl Stream<Item = Result<Frame, Broken>> + Send + 'static>, String> {
    let refused = Refused::default();
    let io = Watched { io: dial.dial().await?, refused: Arc::clone(&refused) };
    let opening = async {
        // The stream is secured below; the name is for HTTP only.
        let endpoint = Endpoint::from_static("http://link.lianxi.internal")
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .buffer_size(2);
        let channel =
            endpoint.connect_with_connector(Once::new(io)).await.map_err(|error| chain(&error))?;
        let mut client = LinkClient::new(channel.clone())
            .max_decoding_message_size(MAX_FRAME_BYTES)
            .max_encoding_message_size(MAX_FRAME_BYTES);
        let (outbound, frames) = mpsc::channel(1);
        let answer = client.open(ReceiverStream::new(frames)).await;
        let answer = answer.map_err(|status| words_of(&status))?;
        Ok(Opened { outbound, inbound: frames_of(answer.into_inner()), _channel: channel })
    };
    let opened = match timeout(OPENING, opening).await {
        Ok(opened) => opened,
        Err(_) => Err("the parent takes the connection but does not answer".to_owned()),
    };
    opened.map_err(|text| refused.get().cloned().unwrap_or(text))
}

/// Why the parent ended the connection below HTTP, once it has.
type Refused = Arc<OnceLock<String>>;

/// A byte stream that keeps the parent's last word: in TLS 1.3 a refused certificate shows only
/// after the handshake, and HTTP/2 reports no more than a broken connection.
struct Watched {
    io: Box<dyn Io>,
    refused: Refused,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        if let Poll::Ready(Err(error)) = &read
            && let Some(words) = refusal(error)
        {
            // Only the first word counts.
            self.refused.set(words).ok();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// A connector for the one connection that exists: when it ends, the link dials anew itself.
pub(super) struct Once<T>(Option<TokioIo<T>>);

impl<T> Once<T> {
    pub(super) fn new(io: T) -> Self {
        Self(Some(TokioIo::new(io)))
    }
}

impl<T> Service<Uri> for Once<T> {
    type Response = TokioIo<T>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<T>>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _address: Uri) -> Self::Future {
        let taken = self.0.take();
        ready(taken.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    }
}
