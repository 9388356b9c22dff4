//! One run: everything that lives in it, and its course.

use std::{
    collections::BTreeMap,
    panic,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lianxi_node::{domain::unit::UnitCode, random, services::hosted::Hosted, store::memory::Disk};
use tokio::time::{Instant, sleep};

use super::{
    checks,
    city::City,
    faults,
    ledger::Ledger,
    network::Lines,
    node::{self, Host},
    trace::{Failure, Report},
    truth::{Progress, Truth},
    work,
};
use crate::numbers::Numbers;

/// Reads, barriers and frames after which a run that does not end is given up.
const MOST_STEPS: u64 = 40_000_000;

/// Simulated time for everything to settle once nothing goes wrong any more.
const SETTLING: Duration = Duration::from_secs(90 * 60);

/// What a run is like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Simulated time in which work is done and things go wrong.
    pub length: Duration,
    /// A promise that the simulation itself breaks, to show that it is found.
    pub broken: Option<Break>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { length: Duration::from_secs(10 * 60), broken: None }
    }
}

/// A promise that is broken on purpose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Break {
    /// Stores acknowledge before their barrier.
    EarlyAcknowledgement,
    /// What a delivery does is stored without the cursor.
    ForgottenCursor,
    /// A statement that is there is not known again.
    UnknownDuplicate,
    /// The second version of a summary changes nothing at its receiver.
    DroppedCorrection,
    /// Wires take out of each hello what shows that a store was brought back, and nobody knows of it.
    HiddenRestore,
    /// A delivery is forgotten as soon as it is put into the outbox.
    LostDelivery,
}

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) city: Arc<City>,
    pub(super) hosts: BTreeMap<UnitCode, Host>,
    pub(super) lines: Mutex<Lines>,
    pub(super) ledger: Mutex<Ledger>,
    pub(super) truth: Mutex<Truth>,
    began: Instant,
    state: Mutex<State>,
}

struct State {
    numbers: Numbers,
    trace: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
    steps: u64,
    failure: Option<String>,
    calm: bool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn new(seed: u64, plan: Plan) -> Arc<Self> {
        let city = City::get();
        let mut numbers = Numbers::new(seed);
        let began = Instant::now();
        let clocks = node::clocks(began, Numbers::new(numbers.next()));
        let hosts = city.hosts().into_iter().zip(clocks);
        let hosts = hosts.map(|(code, clock)| (code.clone(), Host::new(code, clock))).collect();
        let state = State {
            numbers: Numbers::new(numbers.next()),
            trace: Vec::new(),
            counts: BTreeMap::new(),
            steps: 0,
            failure: None,
            calm: false,
        };
        Arc::new(Self {
            plan,
            hosts,
            city,
            lines: Mutex::default(),
            ledger: Mutex::default(),
            truth: Mutex::default(),
            began,
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Draws from the run's numbers.
    pub(super) fn draw<T>(&self, draw: impl FnOnce(&mut Numbers) -> T) -> T {
        draw(&mut self.state().numbers)
    }

    /// Time since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Notes an event.
    pub(super) fn note(&self, event: impl std::fmt::Display) {
        let at = self.elapsed().as_millis();
        self.state().trace.push(format!("{at:>8} {event}"));
    }

    /// Notes an event that is counted.
    pub(super) fn count(&self, what: &'static str, event: impl std::fmt::Display) {
        *self.state().counts.entry(what).or_default() += 1;
        self.note(format_args!("{what} {event}"));
    }

    /// Counts a step; a run that takes too many is given up.
    pub(super) fn step(&self) {
        let mut state = self.state();
        state.steps += 1;
        if state.steps == MOST_STEPS {
            drop(state);
            self.fail(format!("{MOST_STEPS} steps were not enough"));
        }
    }

    /// True once too much was done: whoever works waits, so that the run can end.
    pub(super) fn is_over(&self) -> bool {
        self.state().steps >= MOST_STEPS
    }

    /// A promise does not hold; the first one counts.
    pub(super) fn fail(&self, found: impl Into<String>) {
        let found = found.into();
        self.note(format_args!("FOUND {found}"));
        self.state().failure.get_or_insert(found);
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    /// True once nothing goes wrong any more.
    pub(super) fn is_calm(&self) -> bool {
        self.state().calm
    }

    fn calm(&self) {
        self.state().calm = true;
        self.note("all is healed");
    }

    pub(super) fn events(&self) -> usize {
        self.state().trace.len()
    }

    /// The host of a unit.
    pub(super) fn host_of(&self, unit: &UnitCode) -> &Host {
        &self.hosts[&self.city.member(unit).host]
    }

    /// A unit that runs.
    pub(super) fn unit(&self, unit: &UnitCode) -> Result<Arc<Hosted>, String> {
        self.host_of(unit).unit(unit).ok_or_else(|| format!("{unit} is down"))
    }

    /// The disk of a unit's host.
    pub(super) fn disk_of(&self, unit: &UnitCode) -> Disk {
        self.host_of(unit).disk()
    }
}

/// Runs one seed.
///
/// # Errors
///
/// The first promise that did not hold.
///
/// # Panics
///
/// The run cannot be set up.
pub fn run(seed: u64, plan: Plan) -> Result<Report, Box<Failure>> {
    // It is made with numbers of its own.
    City::get();
    let mut numbers = Numbers::new(seed ^ 0x5EED);
    let _simulated = random::simulate(move |bytes| numbers.fill(bytes));
    panics::forget();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::new(seed, plan);
        let found = course(&world).await.err();
        let found =
            found.or_else(|| panics::first().map(|text| format!("a task panicked: {text}")));
        let mut state = world.state();
        let trace = std::mem::take(&mut state.trace);
        match found {
            Some(found) => Err(Box::new(Failure { seed, found, trace })),
            None => Ok(Report { trace, counts: state.counts.clone() }),
        }
    })
}

async fn course(world: &Arc<World>) -> Result<(), String> {
    node::set_up(world).await?;
    checks::settle(world, Duration::from_secs(30 * 60)).await?;
    let running = [
        tokio::spawn(faults::cause(Arc::clone(world))),
        tokio::spawn(work::keep_working(Arc::clone(world))),
        tokio::spawn(work::operate(Arc::clone(world))),
        tokio::spawn(watch_progress(Arc::clone(world))),
    ];
    let end = world.elapsed() + world.plan.length;
    while world.elapsed() < end {
        sleep(Duration::from_secs(1)).await;
        found(world)?;
    }
    world.calm();
    faults::heal(world).await;
    work::report_all(world).await?;
    checks::settle(world, SETTLING).await?;
    found(world)?;
    checks::all(world).await?;
    running.iter().for_each(tokio::task::JoinHandle::abort);
    found(world)
}

fn found(world: &World) -> Result<(), String> {
    if let Some(text) = panics::first() {
        return Err(format!("a task panicked: {text}"));
    }
    world.failure().map_or(Ok(()), Err)
}

/// Neighbours fail alone: a link that nothing is wrong with carries what waits for it.
async fn watch_progress(world: Arc<World>) {
    let mut progress = Progress::default();
    loop {
        sleep(Duration::from_secs(10)).await;
        if let Err(found) = progress.look(&world) {
            world.fail(found);
        }
    }
}

/// Panics of tasks: the runtime catches them.
mod panics {
    use std::{cell::RefCell, sync::Once};

    thread_local! {
        static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
        static LISTENS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }

    pub(super) fn forget() {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = super::panic::take_hook();
            super::panic::set_hook(Box::new(move |info| {
                if LISTENS.get() {
                    FIRST.with_borrow_mut(|first| first.get_or_insert(info.to_string()).len());
                }
                before(info);
            }));
        });
        LISTENS.set(true);
        FIRST.set(None);
    }

    pub(super) fn first() -> Option<String> {
        FIRST.with_borrow(Clone::clone)
    }
}
