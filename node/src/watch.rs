//! A value that others wait for changes of.
//!
//! As `tokio::sync::watch`, whose names it has, but whoever waits is woken in the order in which the
//! waiting began: tokio's wakes in an order that it draws, and no simulation could be repeated.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Every sender is gone, and what they sent last was seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("nobody changes the value any more")]
pub struct Closed;

#[derive(Debug)]
struct State<T> {
    value: T,
    version: u64,
    senders: usize,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes the value.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// Sees changes of the value.
#[derive(Clone, Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// The value as it is. Nobody can change it meanwhile.
pub struct Ref<'a, T>(MutexGuard<'a, State<T>>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

/// A value with somebody who changes it and somebody who waits.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Sender<T> {
    /// A value that nobody waits for.
    pub fn new(value: T) -> Self {
        let state = Mutex::new(State { value, version: 0, senders: 1 });
        Self(Arc::new(Shared { state, changed: Notify::new() }))
    }

    /// Changes the value where it stands.
    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        {
            let mut state = self.0.state();
            modify(&mut state.value);
            state.version += 1;
        }
        self.0.changed.notify_waiters();
    }

    /// Puts another value in its place.
    pub fn send_replace(&self, value: T) -> T {
        let mut replaced = value;
        self.send_modify(|value| std::mem::swap(value, &mut replaced));
        replaced
    }

    /// The value as it is.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.0.state())
    }

    /// Sees changes from here on.
    pub fn subscribe(&self) -> Receiver<T> {
        let seen = self.0.state().version;
        Receiver { shared: Arc::clone(&self.0), seen }
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let left = {
            let mut state = self.0.state();
            state.senders -= 1;
            state.senders
        };
        if left == 0 {
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Receiver<T> {
    /// The value as it is.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.state())
    }

    /// The value as it is, which counts as seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let state = self.shared.state();
        self.seen = state.version;
        Ref(state)
    }

    /// True if there is a change that was not seen.
    ///
    /// # Errors
    ///
    /// [`Closed`].
    pub fn has_changed(&self) -> Result<bool, Closed> {
        let state = self.shared.state();
        match state.version != self.seen {
            true => Ok(true),
            false if state.senders == 0 => Err(Closed),
            false => Ok(false),
        }
    }

    /// Waits for a change that was not seen. Dropping the future forgets nothing.
    ///
    /// # Errors
    ///
    /// [`Closed`].
    pub async fn changed(&mut self) -> Result<(), Closed> {
        let shared = Arc::clone(&self.shared);
        loop {
            let changed = shared.changed.notified();
            let mut changed = std::pin::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            if self.has_changed()? {
                self.borrow_and_update();
                return Ok(());
            }
            changed.await;
        }
    }

    /// Waits until the value is as it is wanted.
    ///
    /// # Errors
    ///
    /// [`Closed`].
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Result<(), Closed> {
        loop {
            if wanted(&self.borrow_and_update()) {
                return Ok(());
            }
            self.changed().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_change_is_seen_once_by_each_that_was_there_before_it() {
        let (sender, mut one) = channel(0);
        let mut other = sender.subscribe();
        assert_eq!(one.changed().now_or_never(), None);
        sender.send_modify(|value| *value += 1);
        assert_eq!(one.changed().now_or_never(), Some(Ok(())));
        assert_eq!(one.changed().now_or_never(), None);
        assert_eq!(other.has_changed(), Ok(true));
        assert_eq!(*other.borrow_and_update(), 1);
        assert_eq!(other.has_changed(), Ok(false));
        assert_eq!(sender.subscribe().has_changed(), Ok(false));
        assert_eq!(sender.send_replace(7), 1);
        assert_eq!(one.wait_for(|value| *value == 7).now_or_never(), Some(Ok(())));
    }

    #[test]
    fn the_end_is_told_after_the_last_change() {
        let (sender, mut receiver) = channel(0);
        let second = sender.clone();
        drop(sender);
        assert_eq!(receiver.changed().now_or_never(), None);
        second.send_replace(1);
        drop(second);
        assert_eq!(receiver.changed().now_or_never(), Some(Ok(())));
        assert_eq!(receiver.changed().now_or_never(), Some(Err(Closed)));
    }

    #[tokio::test]
    async fn those_who_wait_are_woken_in_their_order() {
        let (sender, receiver) = channel(0);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let waiting: Vec<_> = (0..100)
            .map(|number| {
                let (mut receiver, woken) = (receiver.clone(), Arc::clone(&woken));
                tokio::spawn(async move {
                    receiver.changed().await.unwrap();
                    woken.lock().unwrap().push(number);
                })
            })
            .collect();
        // The runtime comes back here before it has begun all of them.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        sender.send_replace(1);
        futures::future::join_all(waiting).await;
        assert!(woken.lock().unwrap().is_sorted());
    }
}
