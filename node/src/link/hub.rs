//! The open links to one unit's children: who is linked, and how a live pull reaches them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use tokio::{
    sync::{OwnedMutexGuard, mpsc, oneshot},
    time::timeout,
};

use super::{driver::Command, session::Closed};
use crate::{
    domain::unit::UnitCode,
    services::exchange::{Downlinks, NoAnswer, Parcel, Question, Refusal},
    statement::revocation::Proven,
};

/// One child's place.
struct Place {
    /// The newest session, whether it runs or waits for the older one to end.
    session: u64,
    commands: mpsc::UnboundedSender<Command>,
    is_open: bool,
    seat: Arc<tokio::sync::Mutex<()>>,
}

/// The links of one unit to its children.
#[derive(Default)]
pub struct Hub {
    places: Mutex<BTreeMap<UnitCode, Place>>,
    next_session: AtomicU64,
    next_pull: AtomicU64,
}

/// The right to be the session of a child. At most one is held at a time.
pub struct Seat {
    hub: Arc<Hub>,
    child: UnitCode,
    session: u64,
    _held: OwnedMutexGuard<()>,
}

/// Keeps a child listed as linked; dropping it takes the child off the list.
pub struct Opened {
    hub: Arc<Hub>,
    child: UnitCode,
    session: u64,
}

impl Hub {
    fn places(&self) -> MutexGuard<'_, BTreeMap<UnitCode, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the child's seat: an older session of it is closed, and has ended when this returns,
    /// so that two never deliver at the same time.
    pub async fn take_seat(
        self: &Arc<Self>,
        child: &UnitCode,
    ) -> (Seat, mpsc::UnboundedReceiver<Command>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let session = self.next_session.fetch_add(1, Ordering::Relaxed);
        let seat = {
            let mut places = self.places();
            let older = places.remove(child);
            let seat = older.as_ref().map(|older| Arc::clone(&older.seat)).unwrap_or_default();
            if let Some(older) = older {
                // One that has ended reads no commands.
                older.commands.send(Command::Close(Closed::Replaced)).ok();
            }
            let place = Place { session, commands, is_open: false, seat: Arc::clone(&seat) };
            places.insert(child.clone(), place);
            seat
        };
        let held = seat.lock_owned().await;
        (Seat { hub: Arc::clone(self), child: child.clone(), session, _held: held }, receiver)
    }

    fn commands(&self, child: &UnitCode) -> Option<mpsc::UnboundedSender<Command>> {
        let places = self.places();
        places.get(child).filter(|place| place.is_open).map(|place| place.commands.clone())
    }
}

impl Seat {
    /// Lists the child as linked.
    pub fn opened(&self) -> Opened {
        self.mark(true);
        Opened { hub: Arc::clone(&self.hub), child: self.child.clone(), session: self.session }
    }

    fn mark(&self, is_open: bool) {
        mark(&self.hub, &self.child, self.session, is_open);
    }
}

fn mark(hub: &Hub, child: &UnitCode, session: u64, is_open: bool) {
    if let Some(place) = hub.places().get_mut(child)
        && place.session == session
    {
        place.is_open = is_open;
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        mark(&self.hub, &self.child, self.session, false);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut places = self.hub.places();
        if places.get(&self.child).is_some_and(|place| place.session == self.session) {
            places.remove(&self.child);
        }
    }
}

/// Tells the child that nobody waits, unless the answer came.
struct Waiting {
    pull_id: u64,
    commands: mpsc::UnboundedSender<Command>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.commands.send(Command::Cancel { pull_id: self.pull_id }).ok();
    }
}

#[async_trait]
impl Downlinks for Hub {
    async fn pull(&self, child: &UnitCode, question: Question) -> Result<Vec<Parcel>, NoAnswer> {
        let commands = self.commands(child).ok_or(NoAnswer::NoLink)?;
        let pull_id = self.next_pull.fetch_add(1, Ordering::Relaxed);
        let deadline = question.deadline;
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { pull_id, commands };
        waiting
            .commands
            .send(Command::Ask { pull_id, question, reply })
            .map_err(|_| NoAnswer::NoLink)?;
        match timeout(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(NoAnswer::NoLink),
            Err(_) => Err(NoAnswer::Deadline),
        }
    }

    fn close(&self, child: &UnitCode, refusal: Refusal, proof: Vec<Proven>) {
        if let Some(commands) = self.commands(child) {
            // One that has ended reads no commands.
            commands.send(Command::Banish { refusal, proof }).ok();
        }
    }

    fn linked(&self) -> Vec<UnitCode> {
        let places = self.places();
        places.iter().filter(|(_, place)| place.is_open).map(|(child, _)| child.clone()).collect()
    }
}
