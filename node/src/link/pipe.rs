//! The transport between two units of one host: serialised frames over bounded channels, the same
//! bytes as on a socket, so that both are verified, limited and tapped alike.

use bytes::Bytes;
use futures::{Stream, stream};
use tokio::sync::mpsc;

use super::{
    driver::{Broken, Wire},
    wire,
};
use lianxi_proto::link::v1::Frame;

/// Frames that may wait in one direction.
const DEPTH: usize = 2;

impl Wire for Bytes {
    fn wrap(frame: Frame) -> Self {
        wire::encode(&frame)
    }
}

/// One end of a pipe.
pub struct End {
    /// Takes frames to the other end.
    pub outbound: mpsc::Sender<Bytes>,
    /// Gives frames from the other end.
    pub inbound: mpsc::Receiver<Bytes>,
}

impl End {
    /// Splits the end into its two directions.
    pub fn split(
        self,
    ) -> (mpsc::Sender<Bytes>, impl Stream<Item = Result<Frame, Broken>> + Send + Unpin + 'static)
    {
        let frames = stream::unfold(self.inbound, |mut inbound| async {
            let bytes = inbound.recv().await?;
            Some((wire::decode(bytes).map_err(Broken::Malformed), inbound))
        });
        (self.outbound, Box::pin(frames))
    }
}

/// Makes a pipe.
pub fn pipe() -> (End, End) {
    let (to_right, from_left) = mpsc::channel(DEPTH);
    let (to_left, from_right) = mpsc::channel(DEPTH);
    let left = End { outbound: to_right, inbound: from_right };
    let right = End { outbound: to_left, inbound: from_left };
    (left, right)
}
