//! Over whose connection a call came: what the listener knows about it before anyone reads a byte.

use crate::domain::unit::UnitCode;

/// Facts of one accepted connection, proved by its handshake. Every request that came over it
/// carries them as an extension.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Connection {
    /// The hosted unit that the caller asked for.
    pub unit: UnitCode,
    /// The unit that the caller's certificate names; `None` on the enrolment listener, which takes
    /// callers without one.
    pub peer: Option<UnitCode>,
}
