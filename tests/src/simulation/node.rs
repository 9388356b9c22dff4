//! A host of the simulation: its disk and clock outlive what runs on it.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use async_trait::async_trait;
use lianxi_node::{
    clock::{Clock, UnixMillis},
    domain::{
        journal::{Act, Actor},
        unit::{Level, UnitCode},
    },
    link::{LinkHost, Options, Tap, Uplink},
    services::{
        enrolments::Identity,
        hosted::Hosted,
        records::Records,
        unit::{Budgets, Parts, Unit, decode_envelope},
    },
    statement::header::{self, kinds},
    store::{
        Store, Table,
        memory::{Conditions, Disk},
    },
    telemetry::Metrics,
};
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep},
};

use super::{
    city::{BEGINNING, Member},
    ledger::Ledger,
    network, work,
    world::{Break, World, lock},
};
use crate::numbers::Numbers;

/// Time between two checkpoints of a journal.
const CHECKPOINTS: Duration = Duration::from_secs(120);

/// Furthest that a clock is off, and furthest that two are apart: what the product bears.
const MOST_SKEW_MS: i64 = 2 * 24 * 3_600_000;
const MOST_APART_MS: i64 = 3 * 24 * 3_600_000;

/// Tells the simulated time, wrongly.
#[derive(Debug)]
struct SkewedClock {
    began: Instant,
    skew_ms: i64,
    drift_per_million: i64,
}

impl SkewedClock {
    /// `lowest`: how far the slowest clock of the run is behind.
    fn new(began: Instant, lowest_ms: i64, numbers: &mut Numbers) -> Self {
        let skew_ms = if numbers.one_in(3) {
            lowest_ms + numbers.below(MOST_APART_MS as usize - 60_000) as i64
        } else {
            numbers.below(240_000) as i64 - 120_000
        };
        let drift_per_million = numbers.below(2_001) as i64 - 1_000;
        Self { began, skew_ms, drift_per_million }
    }

    /// How far the slowest clock of a run is behind.
    fn lowest_ms(numbers: &mut Numbers) -> i64 {
        -MOST_SKEW_MS + numbers.below((2 * MOST_SKEW_MS - MOST_APART_MS) as usize) as i64
    }
}

impl Clock for SkewedClock {
    fn now_unix_ms(&self) -> UnixMillis {
        let elapsed = self.began.elapsed().as_millis() as i64;
        BEGINNING + self.skew_ms + elapsed + elapsed * self.drift_per_million / 1_000_000
    }
}

/// Clocks of a run's hosts.
pub(super) fn clocks(began: Instant, mut numbers: Numbers) -> impl Iterator<Item = Arc<dyn Clock>> {
    let lowest_ms = SkewedClock::lowest_ms(&mut numbers);
    std::iter::repeat_with(move || -> Arc<dyn Clock> {
        Arc::new(SkewedClock::new(began, lowest_ms, &mut numbers))
    })
}

/// A store as it was, with what was known then to be in it.
#[derive(Clone)]
pub(super) struct Backup {
    disk: Disk,
    ledger: Ledger,
    pub(super) taken: Duration,
}

/// What a host meets at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ailments {
    pub(super) slow: bool,
    pub(super) full: bool,
    /// Crashes after so many more reads and barriers.
    pub(super) crash_in: Option<u32>,
}

struct Inner {
    disk: Disk,
    clock: Arc<dyn Clock>,
    /// Which start it is; what an earlier one left does nothing.
    life: u64,
    running: Option<Running>,
    tasks: Vec<AbortHandle>,
    ailments: Ailments,
    backups: Vec<Backup>,
    /// Since when nothing was wrong with it.
    well_since: Option<Duration>,
}

#[derive(Clone)]
struct Running {
    links: LinkHost,
    units: BTreeMap<UnitCode, Arc<Hosted>>,
    store: Arc<dyn Store>,
}

pub(super) struct Host {
    pub(super) code: UnitCode,
    inner: Mutex<Inner>,
}

impl Host {
    pub(super) fn new(code: UnitCode, clock: Arc<dyn Clock>) -> Self {
        let inner = Inner {
            disk: Disk::default(),
            clock,
            life: 0,
            running: None,
            tasks: Vec::new(),
            ailments: Ailments::default(),
            backups: Vec::new(),
            well_since: None,
        };
        Self { code, inner: Mutex::new(inner) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    pub(super) fn disk(&self) -> Disk {
        self.inner().disk.clone()
    }

    pub(super) fn life(&self) -> u64 {
        self.inner().life
    }

    pub(super) fn is_running(&self) -> bool {
        self.inner().running.is_some()
    }

    pub(super) fn links(&self) -> Option<LinkHost> {
        self.inner().running.as_ref().map(|running| running.links.clone())
    }

    /// A unit that runs.
    pub(super) fn unit(&self, unit: &UnitCode) -> Option<Arc<Hosted>> {
        self.inner().running.as_ref()?.units.get(unit).cloned()
    }

    /// All units that run.
    pub(super) fn units(&self) -> Vec<Arc<Hosted>> {
        let inner = self.inner();
        inner.running.iter().flat_map(|running| running.units.values().cloned()).collect()
    }

    /// Changes what it meets.
    pub(super) fn ail(&self, world: &World, change: impl FnOnce(&mut Ailments)) {
        let mut inner = self.inner();
        change(&mut inner.ailments);
        let Ailments { slow, full, crash_in } = inner.ailments;
        let is_well = inner.running.is_some() && !slow && !full && crash_in.is_none();
        inner.well_since = is_well.then(|| inner.well_since.unwrap_or_else(|| world.elapsed()));
    }

    /// Since when nothing was wrong with it.
    pub(super) fn well_since(&self) -> Option<Duration> {
        self.inner().well_since
    }

    /// Runs `work` until it is done or the host crashes.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut inner = self.inner();
        inner.tasks.retain(|task| !task.is_finished());
        let task = tokio::spawn(work).abort_handle();
        inner.tasks.push(task);
    }

    /// Copies the disk as it is.
    pub(super) fn back_up(&self, world: &World) {
        let ledger = lock(&world.ledger).of_host(&world.city, &self.code);
        let mut inner = self.inner();
        let backup = Backup { disk: inner.disk.copy(), ledger, taken: world.elapsed() };
        inner.backups.push(backup);
    }

    pub(super) fn backups(&self) -> usize {
        self.inner().backups.len()
    }

    /// Cuts the power.
    pub(super) fn crash(&self, world: &World, why: &str) {
        let kept = {
            let disk = self.inner().disk.clone();
            world.draw(|numbers| numbers.below(disk.waiting() + 1))
        };
        let (running, tasks) = {
            let mut inner = self.inner();
            inner.life += 1;
            inner.ailments.crash_in = None;
            inner.well_since = None;
            inner.disk.crash(kept);
            (inner.running.take(), std::mem::take(&mut inner.tasks))
        };
        world.count("crash", format_args!("{} {why}, {kept} commits kept", self.code));
        tasks.iter().for_each(AbortHandle::abort);
        network::cut_host(world, &self.code);
        if let Some(running) = running {
            // What is left of it waits for a disk that never answers.
            tokio::spawn(async move { running.links.shutdown().await });
        }
    }

    /// Ends in order.
    pub(super) async fn stop(&self, world: &World) {
        let Some(running) = self.inner().running.clone() else { return };
        let life = self.life();
        running.links.shutdown().await;
        let closed = running.store.close().await;
        let mut inner = self.inner();
        if inner.life != life {
            return;
        }
        inner.life += 1;
        inner.well_since = None;
        inner.running = None;
        let tasks = std::mem::take(&mut inner.tasks);
        drop(inner);
        tasks.iter().for_each(AbortHandle::abort);
        world.count("stop", format_args!("{} {closed:?}", self.code));
    }

    /// Brings a backup back in the place of the disk; the host is down.
    pub(super) fn restore(&self, world: &World) -> bool {
        let mut inner = self.inner();
        if inner.running.is_some() || inner.backups.is_empty() {
            return false;
        }
        let place = world.draw(|numbers| numbers.below(inner.backups.len()));
        let backup = inner.backups[place].clone();
        inner.backups.truncate(place + 1);
        inner.disk.crash(0);
        inner.disk = backup.disk.copy();
        drop(inner);
        lock(&world.ledger).go_back(&world.city, &self.code, &backup.ledger, backup.taken);
        let age = (world.elapsed() - backup.taken).as_secs();
        world.count("restore", format_args!("{} to {age} s ago", self.code));
        true
    }

    /// Starts it; it is up a little later, unless it crashes on the way.
    pub(super) fn start(&self, world: &Arc<World>) {
        let life = {
            let mut inner = self.inner();
            if inner.running.is_some() || !inner.tasks.is_empty() {
                return;
            }
            inner.life += 1;
            inner.life
        };
        let (world, code) = (Arc::clone(world), self.code.clone());
        self.spawn(async move {
            let host = &world.hosts[&code];
            match open(&world, host, life).await {
                Ok(running) => {
                    world.note(format_args!("up {code}"));
                    host.inner().running = Some(running);
                    host.ail(&world, |_| {});
                }
                Err(error) => world.fail(format!("{code} does not open: {error}")),
            }
        });
    }
}

/// Opens a host as the product does: its identities, its units with their services, its links.
async fn open(world: &Arc<World>, host: &Host, life: u64) -> Result<Running, String> {
    let (disk, clock) = {
        let inner = host.inner();
        (inner.disk.clone(), Arc::clone(&inner.clock))
    };
    let world_of = Arc::downgrade(world);
    let ground = Ground { world: world_of.clone(), host: host.code.clone(), life };
    let store: Arc<dyn Store> = disk.open(Arc::new(ground));
    let tap: Arc<dyn Tap> =
        Arc::new(Ear { world: world_of.clone(), host: host.code.clone(), life });
    let options = Options { tap: Some(tap), ..Options::default() };
    let links = LinkHost::new(options, Arc::clone(&clock));
    let mut units = BTreeMap::new();
    for member in world.city.hosted(&host.code) {
        let code = &member.code;
        let hosted = serve(member, &store, &clock, &links).await?;
        units.insert(code.clone(), Arc::clone(&hosted));
        let uplink = member.parent.clone().map(|parent| {
            if units.contains_key(&parent) {
                return Uplink::Local { parent };
            }
            let wires = network::Way::new(world_of.clone(), host, life, code, &parent);
            Uplink::Wired { parent, wires: Arc::new(wires) }
        });
        keep(host, &hosted);
        links.attach(hosted, uplink);
    }
    Ok(Running { links, units, store })
}

/// Opens a unit with its services.
pub(super) async fn serve(
    member: &Member,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    links: &LinkHost,
) -> Result<Arc<Hosted>, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let code = &member.code;
    let is_new = Identity::load(store.as_ref(), code).await.map_err(|error| text(&error))?;
    if is_new.is_none() {
        let act = Act::done(Actor::node(), "node.join", code.as_str());
        let kept = member.identity.persist(store.as_ref(), clock.now_unix_ms(), act).await;
        kept.map_err(|error| text(&error))?;
    }
    let trust = member.identity.load_trust(store.as_ref()).await.map_err(|error| text(&error))?;
    let parts = Parts {
        code: code.clone(),
        level: member.level,
        parent: member.parent.clone(),
        trust_domain: member.identity.trust_domain.clone(),
        keys: member.keys(),
        former: Vec::new(),
        desks: member.desk().into_iter().collect(),
        trust,
        budgets: Budgets::default(),
    };
    let unit = Unit::open(parts, Arc::clone(store), Arc::clone(clock), Metrics::installed());
    let unit = unit.await.map_err(|error| text(&error))?;
    unit.learn(&member.granted).await.map_err(|error| text(&error))?;
    let (of, at) = (Arc::clone(store), Arc::clone(clock));
    let records = Arc::new(Records::new(code.clone(), of, at, None));
    let hosted = Hosted::open(unit, records, links.downlinks(code)).await;
    hosted.map_err(|error| text(&error))
}

/// What a host does by itself.
fn keep(host: &Host, hosted: &Arc<Hosted>) {
    let summaries = Arc::clone(&hosted.summaries);
    host.spawn(async move { summaries.run().await });
    let unit = Arc::clone(hosted);
    host.spawn(async move {
        loop {
            sleep(CHECKPOINTS).await;
            // A full disk, for instance: the next one may succeed.
            unit.journal.checkpoint().await.ok();
        }
    });
    let unit = Arc::clone(hosted);
    host.spawn(async move {
        loop {
            unit.epochs.sweep().await.ok();
            sleep(Duration::from_secs(3_600)).await;
        }
    });
}

/// Starts everything for the first time and gives it a catalogue.
pub(super) async fn set_up(world: &Arc<World>) -> Result<(), String> {
    for host in world.hosts.values() {
        host.start(world);
    }
    while !world.hosts.values().all(Host::is_running) {
        sleep(Duration::from_millis(100)).await;
        if let Some(found) = world.failure() {
            return Err(found);
        }
    }
    work::publish_catalogue(world).await
}

/// What a host's store meets.
struct Ground {
    world: Weak<World>,
    host: UnitCode,
    life: u64,
}

impl Ground {
    /// How long to wait; `None`: for ever.
    fn wait(&self, is_barrier: bool) -> Option<Duration> {
        let world = self.world.upgrade()?;
        world.step();
        if world.is_over() {
            return Some(Duration::from_secs(1));
        }
        let host = &world.hosts[&self.host];
        if host.life() != self.life {
            return None;
        }
        let (crashes, slow) = {
            let mut inner = host.inner();
            let left = inner.ailments.crash_in.as_mut();
            let crashes = left.is_some_and(|left| {
                *left = left.saturating_sub(1);
                *left == 0
            });
            (crashes, inner.ailments.slow)
        };
        if crashes {
            host.crash(&world, if is_barrier { "before a barrier" } else { "before a read" });
            return None;
        }
        Some(world.draw(|numbers| match (is_barrier, slow) {
            (true, true) => numbers.millis(200, 4_000),
            (true, false) => numbers.millis(1, 12),
            (false, true) if numbers.one_in(3) => numbers.millis(5, 100),
            (false, false) if numbers.one_in(12) => numbers.millis(1, 4),
            (false, _) => Duration::ZERO,
        }))
    }

    async fn take(&self, is_barrier: bool) {
        match self.wait(is_barrier) {
            None => pending().await,
            Some(Duration::ZERO) => {}
            Some(time) => sleep(time).await,
        }
    }

    fn is_broken(&self, broken: Break) -> bool {
        self.world.upgrade().is_some_and(|world| world.plan.broken == Some(broken))
    }
}

#[async_trait]
impl Conditions for Ground {
    async fn read(&self) {
        self.take(false).await;
    }

    async fn barrier(&self) {
        self.take(true).await;
    }

    fn is_full(&self) -> bool {
        let world = self.world.upgrade();
        world.is_some_and(|world| world.hosts[&self.host].inner().ailments.full)
    }

    fn acknowledges_early(&self) -> bool {
        self.is_broken(Break::EarlyAcknowledgement)
    }

    fn loses(&self, table: Table, key: &[u8], value: Option<&[u8]>) -> bool {
        let is_correction = || {
            let own = key.ends_with(format!("\0{}", self.host).as_bytes());
            let text = value.map(String::from_utf8_lossy).unwrap_or_default();
            !own && text.contains("\"version\":2,")
        };
        match table {
            Table::Inbox => self.is_broken(Break::ForgottenCursor),
            Table::Summaries => self.is_broken(Break::DroppedCorrection) && is_correction(),
            Table::Outbox => {
                let is_one = value.is_some() && key.last().is_some_and(|last| last % 16 == 7);
                is_one && self.is_broken(Break::LostDelivery)
            }
            _ => false,
        }
    }

    fn hides(&self, table: Table, value: &[u8]) -> bool {
        if !self.is_broken(Break::UnknownDuplicate) {
            return false;
        }
        // A community relays no notices; it reads them to know them again, and for its people.
        let is_notice = || {
            let envelope = decode_envelope(value).ok();
            let statement = envelope.and_then(|it| header::decode(&it.payload).ok());
            statement
                .is_some_and(|it| [kinds::NOTICE, kinds::REJECTION].contains(&&*it.header.kind))
        };
        let is_community = || {
            let world = self.world.upgrade();
            world.is_some_and(|it| it.city.member(&self.host).level == Level::Community)
        };
        match table {
            Table::Inbox => is_community(),
            Table::Statements => is_community() && is_notice(),
            _ => false,
        }
    }
}

/// Hears every frame that a host sends.
struct Ear {
    world: Weak<World>,
    host: UnitCode,
    life: u64,
}

impl Tap for Ear {
    fn frame(&self, from: &UnitCode, to: &UnitCode, bytes: &[u8]) {
        if let Some(world) = self.world.upgrade()
            && world.hosts[&self.host].life() == self.life
        {
            world.step();
            network::heard(&world, from, to, bytes);
        }
    }
}
