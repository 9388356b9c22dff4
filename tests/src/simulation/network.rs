//! The wires between hosts: frames take time, and a wire that breaks takes some of them with it.
//!
//! As over TCP, frames of one connection come in order and at most once; an old connection may
//! still bring frames while a new one is open.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use lianxi_node::{
    domain::unit::UnitCode,
    link::{
        host::Wires,
        pipe::{End, pipe},
    },
    statement::header,
    store::Table,
    watch,
};
use lianxi_proto::link::v1::{Acknowledgement, Frame, Hello, Reached, frame::Kind};
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use super::{
    node::Host,
    world::{Break, World, lock},
};

/// Frames of one direction that are on their way at a time.
const IN_FLIGHT: usize = 16;

/// State of a wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wire {
    /// Carries frames.
    Up,
    /// Carries nothing, and nobody is told.
    Silent,
    /// The child is told that it broke; what is on its way up still arrives.
    Late,
    /// Broken; both sides are told.
    Cut,
}

struct Open {
    child: UnitCode,
    hosts: [UnitCode; 2],
    state: watch::Sender<Wire>,
}

/// All wires.
#[derive(Default)]
pub(super) struct Lines {
    open: Vec<Open>,
    /// Units that do not reach their parent.
    parted: BTreeSet<UnitCode>,
    /// Since when a way was whole, by child.
    whole_since: BTreeMap<UnitCode, Duration>,
}

/// Parts a unit from its parent, in one of the ways in which wires break.
pub(super) fn part(world: &World, child: &UnitCode) {
    lock(&world.lines).parted.insert(child.clone());
    break_wires(world, |open| open.child == *child);
    world.count("cut", child);
}

/// Lets a unit reach its parent again.
pub(super) fn join(world: &World, child: &UnitCode) {
    let mut lines = lock(&world.lines);
    if lines.parted.remove(child) {
        lines.whole_since.insert(child.clone(), world.elapsed());
        drop(lines);
        world.note(format_args!("whole {child}"));
    }
}

/// Breaks the open wires of a unit to its parent; the next one holds.
pub(super) fn disturb(world: &World, child: &UnitCode) {
    break_wires(world, |open| open.child == *child);
    lock(&world.lines).whole_since.insert(child.clone(), world.elapsed());
    world.count("broken wire", child);
}

/// Breaks every wire of a host that is gone.
pub(super) fn cut_host(world: &World, host: &UnitCode) {
    break_wires(world, |open| open.hosts.contains(host));
}

/// Units that are parted from their parents.
pub(super) fn parted(world: &World) -> Vec<UnitCode> {
    lock(&world.lines).parted.iter().cloned().collect()
}

/// Since when the way of a unit to its parent is whole; `None`: it is not.
pub(super) fn whole_since(world: &World, child: &UnitCode) -> Option<Duration> {
    let lines = lock(&world.lines);
    let is_parted = lines.parted.contains(child);
    (!is_parted).then(|| lines.whole_since.get(child).copied().unwrap_or_default())
}

fn break_wires(world: &World, which: impl Fn(&Open) -> bool) {
    let mut lines = lock(&world.lines);
    lines.open.retain(|open| *open.state.borrow() == Wire::Up);
    for open in lines.open.iter().filter(|open| which(open)) {
        let state = world.draw(|numbers| *numbers.pick(&[Wire::Cut, Wire::Silent, Wire::Late]));
        open.state.send_replace(state);
    }
}

/// A unit's way to its parent on another host.
pub(super) struct Way {
    world: Weak<World>,
    host: UnitCode,
    life: u64,
    child: UnitCode,
    parent: UnitCode,
}

impl Way {
    pub(super) fn new(
        world: Weak<World>,
        host: &Host,
        life: u64,
        child: &UnitCode,
        parent: &UnitCode,
    ) -> Self {
        let (host, child, parent) = (host.code.clone(), child.clone(), parent.clone());
        Self { world, host, life, child, parent }
    }

    /// The world, if the host still runs that dials.
    async fn world(&self) -> Arc<World> {
        match self.world.upgrade() {
            Some(world) if world.hosts[&self.host].life() == self.life => world,
            Some(_) | None => pending().await,
        }
    }
}

#[async_trait]
impl Wires for Way {
    async fn lay(&self) -> Result<End, String> {
        let world = self.world().await;
        let (dialling, hangs) = world.draw(|numbers| (numbers.millis(2, 400), numbers.coin()));
        sleep(dialling).await;
        let world = self.world().await;
        if lock(&world.lines).parted.contains(&self.child) {
            if hangs {
                sleep(Duration::from_secs(20)).await;
            }
            return Err("no way to the parent".to_owned());
        }
        let above = world.host_of(&self.parent);
        let links = above.links().ok_or("the parent is down")?;
        let ((near, left), (right, far)) = (pipe(), pipe());
        if !links.serve_pipe(&self.parent, self.child.clone(), far) {
            return Err("the parent is down".to_owned());
        }
        let (state, _) = watch::channel(Wire::Up);
        let slow = world.draw(|numbers| if numbers.one_in(8) { 2_000 } else { 120 });
        let relays = [
            Relay { world: Weak::clone(&self.world), slow, up: true, state: state.subscribe() },
            Relay { world: Weak::clone(&self.world), slow, up: false, state: state.subscribe() },
        ];
        let [up, down] = relays;
        up.run(left.inbound, right.outbound);
        down.run(right.inbound, left.outbound);
        let hosts = [self.host.clone(), above.code.clone()];
        lock(&world.lines).open.push(Open { child: self.child.clone(), hosts, state });
        world.note(format_args!("wire {} {}", self.child, self.parent));
        Ok(near)
    }
}

/// One direction of a wire.
#[derive(Clone)]
struct Relay {
    world: Weak<World>,
    slow: u64,
    /// From the child to the parent.
    up: bool,
    state: watch::Receiver<Wire>,
}

impl Relay {
    fn run(self, from: mpsc::Receiver<Bytes>, to: mpsc::Sender<Bytes>) {
        let (queue, queued) = mpsc::channel(IN_FLIGHT);
        tokio::spawn(self.clone().take(from, queue));
        tokio::spawn(self.give(queued, to));
    }

    fn draw(&self, from: u64, to: u64) -> Duration {
        self.world.upgrade().map_or(Duration::ZERO, |it| it.draw(|one| one.millis(from, to)))
    }

    /// Takes frames in as they are sent.
    async fn take(
        mut self,
        mut from: mpsc::Receiver<Bytes>,
        queue: mpsc::Sender<(Instant, Bytes)>,
    ) {
        let mut last = Instant::now();
        loop {
            let frame = tokio::select! {
                biased;
                broken = broken(&mut self.state) => return self.hold(broken, from).await,
                frame = from.recv() => frame,
            };
            let Some(frame) = frame else { return };
            let hides = self
                .world
                .upgrade()
                .is_some_and(|world| world.plan.broken == Some(Break::HiddenRestore));
            let frame = if hides { hide(frame) } else { frame };
            let due = Instant::now() + self.draw(1, self.slow);
            last = last.max(due);
            tokio::select! {
                biased;
                broken = broken(&mut self.state) => return self.hold(broken, from).await,
                sent = queue.send((last, frame)) => if sent.is_err() { return },
            }
        }
    }

    /// Whoever is not told goes on sending into the void for a while.
    async fn hold(&self, broken: Wire, mut from: mpsc::Receiver<Bytes>) {
        let is_told = broken == Wire::Cut || (broken == Wire::Late && self.up);
        if !is_told {
            let end = Instant::now() + self.draw(5_000, 90_000);
            while tokio::time::timeout_at(end, from.recv()).await.is_ok_and(|it| it.is_some()) {}
        }
    }

    /// Gives frames out when they are due.
    async fn give(mut self, mut queue: mpsc::Receiver<(Instant, Bytes)>, to: mpsc::Sender<Bytes>) {
        loop {
            let next = tokio::select! {
                biased;
                broken = broken(&mut self.state) => return self.rest(broken, queue, to).await,
                next = queue.recv() => next,
            };
            let Some((due, frame)) = next else { return };
            tokio::select! {
                biased;
                broken = broken(&mut self.state) => {
                    if broken == Wire::Late && self.up {
                        // This one is on its way too.
                        to.send(frame).await.ok();
                    }
                    return self.rest(broken, queue, to).await;
                }
                () = sleep_until(due) => {}
            }
            if to.send(frame).await.is_err() {
                return;
            }
        }
    }

    /// What becomes of frames that are on their way when the wire breaks.
    async fn rest(
        &self,
        broken: Wire,
        mut queue: mpsc::Receiver<(Instant, Bytes)>,
        to: mpsc::Sender<Bytes>,
    ) {
        match broken {
            Wire::Late if self.up => {
                sleep(self.draw(1, 40_000)).await;
                while let Ok((_, frame)) = queue.try_recv() {
                    if to.send(frame).await.is_err() {
                        return;
                    }
                }
            }
            Wire::Silent => {
                queue.close();
                sleep(self.draw(5_000, 90_000)).await;
            }
            Wire::Up | Wire::Late | Wire::Cut => {}
        }
    }
}

/// The same frame; a hello says nothing of how far either side is any more.
fn hide(bytes: Bytes) -> Bytes {
    let Ok(Frame { kind: Some(Kind::Hello(hello)) }) = Frame::decode(&bytes[..]) else {
        return bytes;
    };
    let reached = Reached { seq: u64::MAX, journal_size: u64::MAX, stopped: false };
    let hello = Hello { received: Vec::new(), seen: None, reached: Some(reached), ..hello };
    Frame { kind: Some(Kind::Hello(hello)) }.encode_to_vec().into()
}

/// Waits until the wire breaks.
async fn broken(state: &mut watch::Receiver<Wire>) -> Wire {
    match state.wait_for(|state| *state != Wire::Up).await {
        Ok(()) => *state.borrow(),
        Err(_) => Wire::Cut,
    }
}

/// A frame leaves `from`: it is noted, and what it promises is looked at.
pub(super) fn heard(world: &World, from: &UnitCode, to: &UnitCode, bytes: &[u8]) {
    let Ok(Frame { kind: Some(kind) }) = Frame::decode(bytes) else {
        return world.fail(format!("{from} sends {to} what is no frame"));
    };
    let what = match &kind {
        Kind::Heartbeat(_) => return,
        Kind::Delivery(delivery) => {
            let Some(envelope) = &delivery.envelope else { return };
            let Ok(statement) = header::decode(&envelope.payload) else { return };
            let header = statement.header;
            lock(&world.truth).signed(world, envelope, &delivery.cells);
            let (lane, seq, after) = (delivery.lane, delivery.lane_seq, delivery.after);
            format!(
                "delivery {lane} {:016x} {seq} after {after} {} {} {}/{} {}",
                delivery.link_epoch,
                header.id,
                header.source,
                header.epoch,
                header.seq,
                header.kind
            )
        }
        Kind::Acknowledgement(acknowledged) => {
            check_acknowledged(world, from, to, acknowledged);
            let Acknowledgement { lane, link_epoch, lane_seq, .. } = acknowledged;
            format!("acknowledged {lane} {link_epoch:016x} {lane_seq}")
        }
        Kind::Hello(hello) => {
            let cursors: Vec<_> = hello.received.iter().map(|it| (it.lane, it.lane_seq)).collect();
            format!("hello {} {cursors:?} {:?}", hello.epoch, hello.reached)
        }
        Kind::Refusal(refusal) => format!("refusal {} {}", refusal.reason, refusal.detail),
        Kind::PullItem(item) => {
            if let Some(envelope) = &item.envelope {
                lock(&world.truth).signed(world, envelope, &item.cells);
            }
            format!("PullItem {}", bytes.len())
        }
        other => {
            let name = format!("{other:?}");
            let name = name.split(['(', ' ', '{']).next().unwrap_or_default();
            format!("{name} {}", bytes.len())
        }
    };
    world.note(format_args!("{from}>{to} {what}"));
}

/// An acknowledgement is sent after the data would survive a power cut.
fn check_acknowledged(world: &World, from: &UnitCode, to: &UnitCode, sent: &Acknowledgement) {
    let mut key = to.as_str().as_bytes().to_vec();
    key.extend_from_slice(&[0, u8::try_from(sent.lane).unwrap_or_default()]);
    let row = world.disk_of(from).get(from, Table::Inbox, &key).unwrap_or_default();
    let number = |at: usize| {
        row.get(at..at + 8).and_then(|it| it.try_into().ok()).map_or(0, u64::from_be_bytes)
    };
    let (link_epoch, lane_seq) = (number(1), number(9));
    if link_epoch != sent.link_epoch || lane_seq < sent.lane_seq {
        world.fail(format!(
            "P2: {from} acknowledges {to} {} of lane {}, but after a power cut it would have {}",
            sent.lane_seq, sent.lane, lane_seq
        ));
    }
}
