//! The one connection between a child and its parent.
//!
//! [`session`] is the protocol as a pure state machine; [`driver`] runs one over a transport and
//! the unit's [`Exchange`](crate::services::exchange::Exchange); [`pipe`] is the transport between
//! units of one host, [`dial`] and [`accept`] that between hosts; [`hub`] reaches a unit's linked
//! children; [`host`] holds everything of one process together. Nothing here looks into a
//! statement: envelopes pass through as they came.

pub mod accept;
pub mod backoff;
pub mod courier;
pub mod dial;
pub mod driver;
pub mod host;
pub mod hub;
pub mod pipe;
pub mod session;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod wire;

pub use self::host::{LinkHost, Options, Uplink};
use crate::domain::unit::UnitCode;

/// Sees every frame that leaves a unit of this host, serialised and before encryption. Tests look
/// through it for what must not leave; nothing else gives one.
pub trait Tap: Send + Sync + 'static {
    /// A frame on its way from `from` to `to`.
    fn frame(&self, from: &UnitCode, to: &UnitCode, bytes: &[u8]);
}
