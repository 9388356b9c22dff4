//! Who may come in: so many at a time, so many that wait, each for so long.
//!
//! A turn lasts from the handshake until the link is up: what comes after the handshake costs more than
//! that itself, and a hello that is answered too late makes the child dial again.
//!
//! Promises that a host to which ten thousand children come back at once works only for callers that
//! still wait for it. Whoever is turned away hears so at once, by a closed connection, and comes
//! again after a pause of its own choosing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::identity::tls::HANDSHAKE_LIMIT;

/// Callers on their way to a link at a time: enough that slow lines among them hold up nobody, and few
/// enough that a busy machine answers each long before it gives up.
const AT_A_TIME: usize = 256;

/// Longest turn after the handshake.
pub(super) const MAX_TURN: Duration = Duration::from_secs(10);

/// Callers that wait: a socket and a task each.
const MAX_WAITING: usize = 4_096;

/// Longest time that a caller waits for its turn. A caller gives up [`HANDSHAKE_LIMIT`] after it
/// was connected: a handshake that begins later is work for nobody.
const MAX_WAIT: Duration = HANDSHAKE_LIMIT.saturating_sub(Duration::from_secs(5));

/// The door of one listener.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    permits: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    max_waiting: usize,
    max_wait: Duration,
}

impl Default for Admission {
    fn default() -> Self {
        Self::with(AT_A_TIME, MAX_WAITING, MAX_WAIT)
    }
}

/// Counts one caller that waits, for as long as it does.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    fn with(at_a_time: usize, max_waiting: usize, max_wait: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(at_a_time));
        Self { permits, waiting: Arc::default(), max_waiting, max_wait }
    }

    /// Waits for the caller's turn, which lasts until the permit is dropped; `None`: it is turned away.
    pub(super) async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(Arc::clone(&self.waiting));
        if before >= self.max_waiting {
            return None;
        }
        let turn = Arc::clone(&self.permits).acquire_owned();
        timeout(self.max_wait, turn).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, poll};

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn callers_wait_for_their_turn_in_order_and_those_over_the_limit_are_turned_away() {
        let door = Admission::with(1, 2, LONG);
        let first = door.enter().await.expect("nobody else is there");
        let (mut second, mut third) = (Box::pin(door.enter()), Box::pin(door.enter()));
        assert!(poll!(&mut second).is_pending());
        assert!(poll!(&mut third).is_pending());
        assert!(door.enter().now_or_never().expect("at once").is_none(), "two wait already");
        drop(first);
        let turn = second.await.expect("its turn");
        assert!(poll!(&mut third).is_pending(), "one at a time");
        let mut fourth = Box::pin(door.enter());
        assert!(poll!(&mut fourth).is_pending(), "there is room to wait again");
        drop(turn);
        assert!(third.await.is_some());
    }

    #[tokio::test]
    async fn who_has_waited_too_long_is_turned_away_and_makes_room() {
        let door = Admission::with(1, 1, Duration::ZERO);
        let _held = door.enter().await.expect("nobody else is there");
        for _ in 0..3 {
            assert!(door.enter().await.is_none());
        }
        assert_eq!(door.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_no_longer_counts() {
        let door = Admission::with(1, 1, LONG);
        let held = door.enter().await.expect("nobody else is there");
        let mut gone = Box::pin(door.enter());
        assert!(poll!(&mut gone).is_pending());
        drop(gone);
        let mut next = Box::pin(door.enter());
        assert!(poll!(&mut next).is_pending(), "it may wait");
        drop(held);
        assert!(next.await.is_some());
    }
}
