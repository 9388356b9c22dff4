//! Over whose connection a call came: what the listener knows about it before anyone reads a byte.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{domain::unit::UnitCode, identity::tls::Peer};

/// Facts of one accepted connection, proved by its handshake. Every request that came over it
/// carries them as an extension.
#[derive(Clone, Debug)]
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
    /// Its turn, where callers are let in one after the other.
    pub turn: Turn,
}

/// A caller's turn among those that come at once. It lasts until somebody who has it ends it, or
/// nobody has it any more.
#[derive(Clone, Default)]
pub struct Turn(Arc<Mutex<Option<Box<dyn Send>>>>);

impl Turn {
    /// A turn for as long as `permit` is held.
    pub fn of(permit: impl Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(permit)))))
    }

    /// Lets the next one in.
    pub fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Turn")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_ends_once_whoever_else_has_it() {
        let permit = Arc::new(());
        let turn = Turn::of(Arc::clone(&permit));
        let other = turn.clone();
        drop(turn);
        assert_eq!(Arc::strong_count(&permit), 2, "somebody has it");
        other.end();
        assert_eq!(Arc::strong_count(&permit), 1);
        other.end();
    }

    #[test]
    fn a_turn_that_nobody_has_is_over() {
        let permit = Arc::new(());
        drop(Turn::of(Arc::clone(&permit)));
        assert_eq!(Arc::strong_count(&permit), 1);
    }
}
