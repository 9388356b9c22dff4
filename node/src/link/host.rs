//! Everything about links that one process holds: the units, their uplinks, their open sessions.
//!
//! Every task that is started here ends with [`LinkHost::shutdown`].

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use futures::Stream;
use lianxi_proto::link::v1::Frame;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::service::Routes;
use tracing::{error, warn};

use super::{
    Tap, accept,
    backoff::{Backoff, random},
    dial::{self, Dial, Io},
    driver::{Broken, Driver, Ending, Surroundings, Wire},
    hub::Hub,
    pipe::{End, pipe},
    session::{Closed, Heartbeat, Role},
};
use crate::{
    clock::Clock,
    domain::unit::UnitCode,
    services::{
        connection::{Connection, Turn},
        exchange::{Downlinks, Exchange, LinkEvent},
    },
    watch,
};

/// A link that lasted this long did its work, whatever went over it.
const STEADY: Duration = Duration::from_secs(10);

/// Longest time for everything to end.
const SHUTDOWN: Duration = Duration::from_secs(15);

/// Choices of a host.
#[derive(Clone, Default)]
pub struct Options {
    /// How long a link may be quiet.
    pub heartbeat: Heartbeat,
    /// Sees every frame; tests only.
    pub tap: Option<Arc<dyn Tap>>,
    /// Other services on the same connections: enrolment.
    pub services: Routes,
}

/// The links of one process.
#[derive(Clone)]
pub struct LinkHost(Arc<Inner>);

pub(super) struct Inner {
    options: Options,
    clock: Arc<dyn Clock>,
    router: axum::Router,
    units: Mutex<BTreeMap<UnitCode, Hosted>>,
    attached: watch::Sender<u64>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Option<JoinSet<()>>>,
}

#[derive(Default)]
struct Hosted {
    hub: Arc<Hub>,
    exchange: Option<Arc<dyn Exchange>>,
    uplink: Option<watch::Sender<bool>>,
}

/// How a unit reaches its parent.
#[derive(Clone)]
pub enum Uplink {
    /// Over a connection that `dial` makes.
    Through {
        /// The parent.
        parent: UnitCode,
        /// Connects to it.
        dial: Arc<dyn Dial>,
    },
    /// Over a pipe, to a unit of this host.
    Local {
        /// The parent.
        parent: UnitCode,
    },
    /// Over a pipe, to wherever it leads: a simulation's wire.
    Wired {
        /// The parent.
        parent: UnitCode,
        /// Lays the pipe.
        wires: Arc<dyn Wires>,
    },
}

/// Lays pipes to a parent.
#[async_trait]
pub trait Wires: Send + Sync + 'static {
    /// The near end of a new pipe; else one sentence for the operator.
    async fn lay(&self) -> Result<End, String>;
}

impl Uplink {
    fn parent(&self) -> &UnitCode {
        match self {
            Self::Through { parent, .. } | Self::Local { parent } | Self::Wired { parent, .. } => {
                parent
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LinkHost {
    /// Links of a host without units.
    pub fn new(options: Options, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new_cyclic(|host: &Weak<Inner>| {
            let services = options.services.clone().add_service(accept::service(host.clone()));
            Inner {
                options,
                clock,
                router: services.prepare().into_axum_router(),
                units: Mutex::default(),
                attached: watch::Sender::new(0),
                stop: watch::Sender::new(false),
                tasks: Mutex::new(Some(JoinSet::new())),
            }
        }))
    }

    /// The open links to the children of `unit`, whether or not it is attached yet.
    pub fn downlinks(&self, unit: &UnitCode) -> Arc<dyn Downlinks> {
        self.0.hub(unit)
    }

    /// Serves one connection until it or the host ends.
    pub async fn serve_stream(&self, io: impl Io, connection: Connection) {
        let (router, stop) = (self.0.router.clone(), self.0.stop.subscribe());
        accept::serve(io, connection, router, stop).await;
    }

    /// Serves `child` at the far end of a pipe, as a child of the attached `unit`; false if there is
    /// no such unit, or the host stops.
    pub fn serve_pipe(&self, unit: &UnitCode, child: UnitCode, end: End) -> bool {
        let Some(exchange) = self.0.exchange(unit) else { return false };
        let (outbound, inbound) = end.split();
        self.0.spawn_parent(exchange, (child, Turn::default()), outbound, inbound)
    }

    /// Attaches a unit, and links it to its parent for as long as the host runs. A unit that is
    /// attached already gets this exchange and uplink instead. Call within a runtime.
    pub fn attach(&self, exchange: Arc<dyn Exchange>, uplink: Option<Uplink>) {
        let (stop, stopped) = watch::channel(*self.0.stop.borrow());
        {
            let mut units = lock(&self.0.units);
            let hosted = units.entry(exchange.unit().clone()).or_default();
            hosted.exchange = Some(Arc::clone(&exchange));
            if let Some(older) = hosted.uplink.replace(stop) {
                older.send_replace(true);
            }
        }
        self.0.attached.send_modify(|version| *version += 1);
        if let Some(uplink) = uplink {
            let link = Upward { host: Arc::clone(&self.0), exchange, uplink, stop: stopped };
            self.0.spawn(link.keep());
        }
    }

    /// Links a unit no more. Links to its children end with the next frame, or with a greeting anew.
    pub fn detach(&self, unit: &UnitCode) {
        if let Some(hosted) = lock(&self.0.units).get_mut(unit) {
            hosted.exchange = None;
            if let Some(stop) = hosted.uplink.take() {
                stop.send_replace(true);
            }
        }
    }

    /// Ends every link and waits for all tasks.
    pub async fn shutdown(&self) {
        self.0.stop.send_replace(true);
        for hosted in lock(&self.0.units).values() {
            if let Some(stop) = &hosted.uplink {
                stop.send_replace(true);
            }
        }
        let Some(mut tasks) = lock(&self.0.tasks).take() else { return };
        let all = async { while tasks.join_next().await.is_some() {} };
        if timeout(SHUTDOWN, all).await.is_err() {
            error!("links do not end in time; they are cut");
            tasks.shutdown().await;
        }
    }
}

impl Inner {
    fn hub(&self, unit: &UnitCode) -> Arc<Hub> {
        Arc::clone(&lock(&self.units).entry(unit.clone()).or_default().hub)
    }

    pub(super) fn exchange(&self, unit: &UnitCode) -> Option<Arc<dyn Exchange>> {
        lock(&self.units).get(unit)?.exchange.clone()
    }

    /// Waits until `unit` is attached.
    async fn attached(&self, unit: &UnitCode) -> Arc<dyn Exchange> {
        let mut attached = self.attached.subscribe();
        loop {
            if let Some(exchange) = self.exchange(unit) {
                return exchange;
            }
            // The sender lives in `self`.
            attached.changed().await.ok();
        }
    }

    fn surroundings(&self, stop: watch::Receiver<bool>) -> Surroundings {
        Surroundings {
            clock: Arc::clone(&self.clock),
            heartbeat: self.options.heartbeat,
            tap: self.options.tap.clone(),
            stop,
        }
    }

    /// Starts a task; false if the host stops.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut tasks = lock(&self.tasks);
        let Some(tasks) = tasks.as_mut() else { return false };
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended {
                error!(%error, "a link's task failed");
            }
        }
        tasks.spawn(task);
        true
    }

    /// Starts the parent's side of a link; false if the host stops. The child's turn ends when the link
    /// is up, or is not going to be.
    pub(super) fn spawn_parent<W: Wire>(
        &self,
        exchange: Arc<dyn Exchange>,
        (child, turn): (UnitCode, Turn),
        outbound: mpsc::Sender<W>,
        inbound: impl Stream<Item = Result<Frame, Broken>> + Send + 'static,
    ) -> bool {
        let hub = self.hub(exchange.unit());
        let around = self.surroundings(self.stop.subscribe());
        self.spawn(async move {
            let (seat, commands) = hub.take_seat(&child).await;
            let seat = Arc::new(seat);
            let (opened, up) = (Arc::clone(&seat), turn.clone());
            let driver =
                Driver::new(Role::Parent, child, exchange, around, commands).when_up(move || {
                    up.end();
                    opened.opened()
                });
            driver.run(outbound, inbound).await;
            turn.end();
            drop(seat);
        })
    }
}

/// One unit's way up.
struct Upward {
    host: Arc<Inner>,
    exchange: Arc<dyn Exchange>,
    uplink: Uplink,
    stop: watch::Receiver<bool>,
}

impl Upward {
    /// Keeps the unit linked until it is told to stop.
    async fn keep(self) {
        let mut backoff = Backoff::default();
        let mut stop = self.stop.clone();
        loop {
            let began = Instant::now();
            let progressed = match self.link().await {
                Ok(ending) => ending.progressed,
                Err(reason) => {
                    self.failed(reason);
                    false
                }
            };
            if progressed || began.elapsed() >= STEADY {
                backoff.clear();
            }
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = sleep(backoff.next(random())) => {}
            }
        }
    }

    fn failed(&self, reason: String) {
        let parent = self.uplink.parent();
        warn!(unit = %self.exchange.unit(), peer = %parent, reason, "cannot link");
        self.exchange.note(parent, LinkEvent::Down { reason });
    }

    /// Links once, until the link ends.
    async fn link(&self) -> Result<Ending, String> {
        let mut stop = self.stop.clone();
        match &self.uplink {
            Uplink::Through { dial, .. } => {
                let opened = tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => return Err(Closed::Stopped.to_string()),
                    opened = dial::open(dial.as_ref()) => opened?,
                };
                Ok(self.run(opened.outbound, opened.inbound).await)
            }
            Uplink::Local { parent } => {
                let above = tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => return Err(Closed::Stopped.to_string()),
                    above = self.host.attached(parent) => above,
                };
                let (near, far) = pipe();
                let (outbound, inbound) = far.split();
                let child = self.exchange.unit().clone();
                if !self.host.spawn_parent(above, (child, Turn::default()), outbound, inbound) {
                    return Err(Closed::Stopped.to_string());
                }
                let (outbound, inbound) = near.split();
                Ok(self.run(outbound, inbound).await)
            }
            Uplink::Wired { wires, .. } => {
                let laid = tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => return Err(Closed::Stopped.to_string()),
                    laid = wires.lay() => laid?,
                };
                let (outbound, inbound) = laid.split();
                Ok(self.run(outbound, inbound).await)
            }
        }
    }

    async fn run<W: Wire>(
        &self,
        outbound: mpsc::Sender<W>,
        inbound: impl Stream<Item = Result<Frame, Broken>> + Send,
    ) -> Ending {
        let (_no_commands, commands) = mpsc::unbounded_channel();
        let around = self.host.surroundings(self.stop.clone());
        let parent = self.uplink.parent().clone();
        let driver = Driver::new(Role::Child, parent, Arc::clone(&self.exchange), around, commands);
        driver.run(outbound, inbound).await
    }
}
