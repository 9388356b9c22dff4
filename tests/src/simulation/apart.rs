//! Two neighbours that no network joins: all between them goes by files, which come in any order,
//! repeatedly, or not at all.

use std::sync::Arc;

use bytes::Bytes;
use lianxi_node::{
    clock::{Clock, UnixMillis},
    domain::{
        epoch::Reason,
        journal::{Act, Actor},
        unit::UnitCode,
    },
    link::{LinkHost, Options, courier::Frames},
    random,
    services::{
        courier::{Export, ExportOrder, ImportOrder, Imported, import},
        epochs::{EpochRow, Order},
        exchange::Exchange as _,
        host::Units,
        hosted::Hosted,
    },
    statement::journal::{self as leaves, Line},
    store::{
        Store, journal,
        memory::{Disk, Ideal},
    },
};

use super::{
    city::{BEGINNING, City},
    node,
};
use crate::{federation::CATALOGUE, numbers::Numbers};

/// Times that files go to and fro at most.
const MOST_LAPS: usize = 12;

/// Smallest files, so that an export has several.
const FILE_BYTES: u64 = 384 * 1024;

const ABOVE: &str = "C-2";
const BELOW: &str = "C-2-1";

/// Stands still.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now_unix_ms(&self) -> UnixMillis {
        BEGINNING
    }
}

/// A district and one of its streets, each on a host of its own.
pub struct Apart {
    /// The district, which has the catalogue of the city.
    pub above: Arc<Hosted>,
    /// The street.
    pub below: Arc<Hosted>,
    hosts: [Host; 2],
}

struct Host {
    disk: Disk,
    links: LinkHost,
}

/// A unit with its host, on this disk.
async fn open(code: &str, disk: Disk) -> (Arc<Hosted>, Host) {
    let clock: Arc<dyn Clock> = Arc::new(Still);
    let store: Arc<dyn Store> = disk.open(Arc::new(Ideal));
    let links = LinkHost::new(Options::default(), Arc::clone(&clock));
    let code: UnitCode = code.parse().unwrap();
    let hosted = node::serve(City::get().member(&code), &store, &clock, &links).await.unwrap();
    (hosted, Host { disk, links })
}

impl std::fmt::Debug for Apart {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Apart")
    }
}

/// Runs `work` in simulated time, with the randomness of `seed`.
///
/// # Panics
///
/// It cannot be set up.
pub fn run_apart<T>(seed: u64, work: impl AsyncFnOnce(Apart) -> T) -> T {
    City::get();
    let mut numbers = Numbers::new(seed);
    let _simulated = random::simulate(move |bytes| numbers.fill(bytes));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async { work(Apart::open().await).await })
}

impl Apart {
    async fn open() -> Self {
        let (above, first) = open(ABOVE, Disk::default()).await;
        let (below, second) = open(BELOW, Disk::default()).await;
        // Nobody is above the district here.
        above.catalogues.publish(CATALOGUE.as_bytes(), false).await.unwrap();
        Self { above, below, hosts: [first, second] }
    }

    fn place(&self, unit: &Arc<Hosted>) -> usize {
        usize::from(Arc::ptr_eq(unit, &self.below))
    }

    /// A copy of a unit's disk, as after a power cut.
    pub async fn back_up(&self, unit: &Arc<Hosted>) -> Disk {
        // What was submitted is on it.
        unit.unit.record(Act::done(Actor::node(), "test.backup", "")).await.unwrap();
        self.hosts[self.place(unit)].disk.copy()
    }

    /// Puts a copy in the place of a unit's disk, and starts the unit on it.
    pub async fn restore(&mut self, unit: &Arc<Hosted>, backup: &Disk) {
        let place = self.place(unit);
        self.hosts[place].links.shutdown().await;
        let (hosted, host) = open([ABOVE, BELOW][place], backup.copy()).await;
        self.hosts[place] = host;
        *[&mut self.above, &mut self.below][place] = hosted;
    }

    /// Two people open an epoch after a restore.
    pub async fn open_epoch(&self, unit: &Arc<Hosted>) -> EpochRow {
        let order = Order {
            reason: Reason::Restore,
            approvers: vec!["li".to_owned(), "wang".to_owned()],
            text: "the disk failed".to_owned(),
            by: Actor::node(),
            dry_run: false,
        };
        unit.epochs.begin(order).await.unwrap()
    }

    /// Everything that one unit has for the other, in files.
    pub async fn export(&self, from: &Arc<Hosted>) -> Vec<Bytes> {
        let to = if Arc::ptr_eq(from, &self.above) { &self.below } else { &self.above };
        let to = Some(to.unit.code.clone());
        let order = ExportOrder { to, max_bytes: FILE_BYTES, dry_run: false, by: Actor::node() };
        let mut export = Export::begin(Arc::clone(from), Arc::new(Frames), order).await.unwrap();
        let mut files = Vec::new();
        while let Some(part) = export.next().await.unwrap() {
            files.push(part.bytes.into());
        }
        files
    }

    /// Takes a file in.
    pub async fn import(&self, at: &Arc<Hosted>, file: &Bytes) -> Imported {
        let units = Units::default();
        units.add(Arc::clone(at));
        let order =
            ImportOrder { unit: None, bytes: file.clone(), dry_run: false, by: Actor::node() };
        import(&units, &Frames, order, &|_| ()).await.unwrap()
    }

    /// Carries all that each has for the other, in turn, until nothing waits any more; how often that was
    /// done.
    ///
    /// # Panics
    ///
    /// Something waits for ever.
    pub async fn settle(&self) -> usize {
        for lap in 0..MOST_LAPS {
            let mut is_quiet = true;
            for (from, to) in [(&self.above, &self.below), (&self.below, &self.above)] {
                for file in self.export(from).await {
                    let imported = self.import(to, &file).await;
                    assert_eq!(imported.waiting, 0, "{imported:?}");
                    is_quiet &= imported.taken == 0 && imported.withheld.is_none();
                }
                is_quiet &= from.unit.waiting_for(&to.unit.code).await.unwrap() == 0;
                is_quiet &= from.returns_wanted(&to.unit.code).await.unwrap().is_none();
            }
            if is_quiet {
                return lap;
            }
        }
        panic!("something waits for ever");
    }

    /// The journal of a unit.
    pub async fn journal(&self, of: &Hosted) -> Vec<Line> {
        let (store, unit) = (of.unit.store.as_ref(), &of.unit.code);
        let (mut lines, mut from) = (Vec::new(), 0);
        let size = journal::size(store, unit).await.unwrap();
        while from < size {
            let page = journal::leaves(store, unit, from).await.unwrap();
            lines.extend(page.iter().map(|(_, leaf)| leaves::read(leaf).unwrap()));
            from = (from / journal::TILE + 1) * journal::TILE;
        }
        lines
    }
}
