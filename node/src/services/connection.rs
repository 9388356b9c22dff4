//! Over whose connection a call came: what the listener knows about it before anyone reads a byte.

use std::net::IpAddr;

use crate::{domain::unit::UnitCode, identity::tls::Peer};

/// Facts of one accepted connection, proved by its handshake. Every request that came over it
/// carries them as an extension.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Connection {
    /// Address that it came from; `None` within one host.
    pub from: Option<IpAddr>,
    /// The hosted unit that the caller asked for.
    pub unit: UnitCode,
    /// The child that the caller's certificate names, if it has joined with that very key. `None` on
    /// the enrolment listener, which takes callers without a certificate, and while it is joining.
    pub peer: Option<UnitCode>,
    /// What the caller's certificate says, joined or not: enough to confirm a join, and no more.
    pub certified: Option<Peer>,
}
