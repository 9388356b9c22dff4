//! The running host: opens its units, serves its addresses, joins new units while it runs.

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tonic::service::Routes;

use super::{
    Error, admin,
    admission::{Admission, MAX_TURN},
    at_rest, journals, kept, setup,
    webhook::Webhook,
};
use crate::{
    clock::{Clock, UnixMillis},
    config::HostConfig,
    domain::{
        journal::{Act, Actor},
        rotation::Replaced,
        unit::UnitCode,
    },
    identity::{
        keys::{Lock, Place},
        tls::{AcceptError, Accepted, ParentPin, Purpose, ServerTls, UnitTls},
    },
    link::{
        Tap,
        dial::{Dial, Io},
        host::{LinkHost, Options as LinkOptions, Uplink},
        session::Heartbeat,
    },
    services::{
        accounts::Accounts,
        connection::{Connection, Turn},
        enrolments::{ChildRecovery, Enrolments, RecoveryBudget},
        error::{ErrorKind, ServiceError as _},
        host::{
            AdoptionOrder, HostFacts, Invitation, InviteOrder, JoinedUnit, OperationError,
            Operations, RenewedUnit, Units,
        },
        hosted::Hosted,
        imports::Imports,
        records::Records,
        rotations::Progress,
        transfer::Announced,
        unit::Unit,
    },
    store::{Store, gate::Gate, sled::SledStore},
    telemetry::Metrics,
};

/// Certificates that a unit shows; changed when they are renewed.
type Shown = Arc<RwLock<UnitTls>>;

/// Most addresses that children are told.
const MAX_ADDRESSES: usize = 8;

/// What a host is given from outside.
#[derive(Clone)]
pub struct Options {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Metrics.
    pub metrics: Metrics,
    /// Sees every frame; tests only.
    pub tap: Option<Arc<dyn Tap>>,
    /// Opens the keys of the host.
    pub lock: Lock,
}

/// What ends the work on one unit.
struct Served {
    gate: Arc<Gate>,
    stop: watch::Sender<bool>,
}

/// One running host.
pub struct Host {
    pub(super) config: HostConfig,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) lock: Lock,
    pub(super) store: Arc<dyn Store>,
    metrics: Metrics,
    units: Arc<Units>,
    imports: Arc<Imports>,
    pub(super) links: LinkHost,
    tls: Arc<ServerTls>,
    enrolments: RwLock<HashMap<UnitCode, Arc<Enrolments>>>,
    certificates: Mutex<HashMap<UnitCode, UnixMillis>>,
    /// Who is told of alarms.
    webhook: Option<Webhook>,
    shown: Mutex<HashMap<UnitCode, Shown>>,
    link_address: Option<SocketAddr>,
    started_unix_ms: UnixMillis,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// What ends the work on each unit, should it go to another host.
    served: Mutex<HashMap<UnitCode, Served>>,
    /// One renewal at a time: each reads an identity and writes it back.
    pub(super) renewing: tokio::sync::Mutex<()>,
    /// A change of keys began.
    pub(super) rotating: tokio::sync::Notify,
    /// Why the last step of a unit's change of keys was not done.
    pub(super) rotation_failures: Mutex<HashMap<UnitCode, String>>,
    /// One look at the reforms at a time: each act reads what is due and does it.
    pub(super) reforming: tokio::sync::Mutex<()>,
    /// People of the host.
    pub(super) accounts: OnceLock<Arc<Accounts>>,
    me: Weak<Self>,
    stop: watch::Sender<bool>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Host").field("units", &self.units).finish_non_exhaustive()
    }
}

impl Host {
    /// Opens the host's units and serves them.
    ///
    /// # Errors
    ///
    /// See [`Error`]; nothing is served then.
    pub async fn bind(config: HostConfig, options: Options) -> Result<Arc<Self>, Error> {
        at_rest::check(&config)?;
        let store = open_store(&config, &options.lock)?;
        let listener = match config.link.listen {
            None => None,
            Some(address) => {
                let failed = |source| Error::Listen { address: address.to_string(), source };
                Some(TcpListener::bind(address).await.map_err(failed)?)
            }
        };
        let link_address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let socket = admin::listen(&config.admin_socket(), config.admin.open_to)?;
        let host = Self::assemble(config, options, store, link_address)?;
        let tidied = host.tidy_transfers().await;
        tidied.map_err(|error| setup::failed(error.kind(), &error))?;
        for identity in
            setup::load_identities(&host.config, &host.lock, host.store.as_ref()).await?
        {
            host.open_unit(identity).await?;
        }
        if let Some(head) = host.units.head() {
            journals::record_start(&head, &host.config, host.clock.as_ref()).await?;
        }
        // Before the socket is served: an upload must not be taken for one that was left behind.
        host.imports.tidy().await;
        let stop = host.stop.subscribe();
        let accounts = setup::accounts(&host).await?;
        // Nobody else sets it.
        host.accounts.set(Arc::clone(&accounts)).ok();
        let mut tasks = vec![admin::serve(&host, accounts, socket, stop)];
        if let Some(listener) = listener {
            tasks.push(tokio::spawn(Arc::clone(&host).accept(listener)));
        }
        let resuming = Arc::clone(&host);
        tasks.push(tokio::spawn(async move {
            resuming.imports.resume().await;
        }));
        tasks.push(host.until_stopped(super::renewal::run(Arc::clone(&host))));
        tasks.push(host.until_stopped(super::rotation::run(Arc::clone(&host))));
        host.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend(tasks);
        tracing::info!(units = host.units.all().len(), address = ?link_address, "host is up");
        Ok(host)
    }

    fn assemble(
        config: HostConfig,
        options: Options,
        store: Arc<dyn Store>,
        link_address: Option<SocketAddr>,
    ) -> Result<Arc<Self>, Error> {
        let clock = options.clock;
        let units = Arc::new(Units::default());
        let imports = setup::imports(&config, &store, &units, &clock)?;
        let webhook = Webhook::of(&config)?;
        Ok(Arc::new_cyclic(|me: &Weak<Self>| {
            let enrolment =
                crate::grpc::enrolment::service(Arc::new(setup::HostEnrolments(me.clone())));
            let link_options = LinkOptions {
                heartbeat: Heartbeat {
                    idle: config.link.heartbeat,
                    dead: config.link.idle_timeout,
                },
                tap: options.tap,
                services: Routes::new(enrolment),
            };
            Self {
                tls: Arc::new(ServerTls::new(Arc::clone(&clock))),
                links: LinkHost::new(link_options, Arc::clone(&clock)),
                started_unix_ms: clock.now_unix_ms(),
                config,
                clock,
                lock: options.lock,
                store,
                metrics: options.metrics,
                units,
                imports,
                enrolments: RwLock::default(),
                certificates: Mutex::default(),
                webhook,
                shown: Mutex::default(),
                link_address,
                tasks: Mutex::default(),
                served: Mutex::default(),
                renewing: tokio::sync::Mutex::default(),
                rotating: tokio::sync::Notify::new(),
                rotation_failures: Mutex::default(),
                reforming: tokio::sync::Mutex::default(),
                accounts: OnceLock::new(),
                me: me.clone(),
                stop: watch::Sender::new(false),
            }
        }))
    }

    /// The hosted units.
    pub fn units(&self) -> &Arc<Units> {
        &self.units
    }

    /// The host's store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Imports of the host.
    pub fn imports(&self) -> &Arc<Imports> {
        &self.imports
    }

    /// Address that children dial.
    pub fn link_address(&self) -> Option<SocketAddr> {
        self.link_address
    }

    /// Opens one unit and links it.
    pub(super) async fn open_unit(&self, identity: setup::OpenIdentity) -> Result<(), Error> {
        let code = identity.parts.code.clone();
        let failed = |reason: String| Error::Unit { unit: code.clone(), reason };
        let gate = Gate::new(Arc::clone(&self.store));
        let store: Arc<dyn Store> = Arc::<Gate>::clone(&gate);
        let unit = Unit::open(
            identity.parts,
            Arc::clone(&store),
            Arc::clone(&self.clock),
            self.metrics.clone(),
        )
        .await?;
        self.say_addresses(&unit).await?;
        self.open_door(&unit).await.map_err(failed)?;
        let quota = self.config.quota_bytes(&code);
        let records = Arc::new(Records::new(code.clone(), store, Arc::clone(&self.clock), quota));
        let downlinks = self.links.downlinks(&code);
        let hosted = Hosted::open(unit, records, downlinks)
            .await
            .map_err(|error| failed(crate::grpc::status::chain(&error)))?;
        self.begin_arrived(&hosted).await.map_err(failed)?;
        self.show(&identity.tls, identity.certificate_ends_unix_ms)
            .map_err(|error| failed(error.to_string()))?;
        self.units.add(Arc::clone(&hosted));
        let served = Served { gate, stop: watch::Sender::new(false) };
        self.served.lock().unwrap_or_else(PoisonError::into_inner).insert(code.clone(), served);
        self.work_for(&hosted);
        let known = Arc::clone(&hosted.unit);
        let uplink = identity.parent.map(|parent| self.uplink(known, parent, identity.tls));
        self.links.attach(hosted, uplink);
        Ok(())
    }

    /// Lets children of a unit enrol.
    async fn open_door(&self, unit: &Arc<Unit>) -> Result<(), String> {
        let judge = Arc::clone(unit);
        self.tls.refuse_revoked(
            &unit.code,
            Arc::new(move |child| judge.trust().revoked(child, None).is_some()),
        );
        let budget = RecoveryBudget {
            within: self.config.recovery.within,
            times: self.config.recovery.times,
        };
        let granting = Arc::<Unit>::clone(unit);
        let enrolments = Enrolments::open(granting, Arc::clone(&self.tls), budget).await;
        let enrolments = enrolments.map_err(|error| crate::grpc::status::chain(&error))?;
        let mut doors = self.enrolments.write().unwrap_or_else(PoisonError::into_inner);
        doors.insert(unit.code.clone(), Arc::new(enrolments));
        Ok(())
    }

    /// Starts what a unit does by itself.
    fn work_for(&self, hosted: &Arc<Hosted>) {
        let code = &hosted.unit.code;
        let summaries = Arc::clone(&hosted.summaries);
        let rolling = self.until_gone(code, async move { summaries.run().await });
        let mut tasks = vec![rolling];
        tasks.push(self.until_gone(code, journals::keep(Arc::clone(hosted), self.config.clone())));
        tasks.push(self.until_gone(code, kept::sweep(Arc::clone(hosted))));
        if let Some(host) = self.me.upgrade() {
            let carrying = super::reforms::run(host, Arc::clone(hosted));
            tasks.push(self.until_gone(code, carrying));
        }
        if let Some(webhook) = self.webhook.clone() {
            tasks.push(self.until_gone(code, webhook.tell(Arc::clone(hosted))));
        }
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend(tasks);
    }

    /// Says where children dial a unit: here, and where it is going to be.
    pub(super) async fn say_addresses(&self, unit: &Unit) -> Result<(), crate::store::Error> {
        let announced = Announced::load(self.store.as_ref(), &unit.code).await?.addresses;
        let mut addresses = self.advertised();
        addresses.extend(announced);
        addresses.dedup();
        // The newest are those that matter.
        addresses.drain(..addresses.len().saturating_sub(MAX_ADDRESSES));
        unit.dialled_at(addresses);
        Ok(())
    }

    /// The gate of a hosted unit.
    pub(super) fn gate(&self, unit: &UnitCode) -> Option<Arc<Gate>> {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.get(unit).map(|served| Arc::clone(&served.gate))
    }

    /// Serves a unit no more: its doors, links and tasks end. Its gate stays as it is.
    pub(super) fn withdraw(&self, unit: &UnitCode) {
        self.units.remove(unit);
        self.enrolments.write().unwrap_or_else(PoisonError::into_inner).remove(unit);
        self.tls.remove(unit);
        self.links.detach(unit);
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).remove(unit);
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).remove(unit);
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner).remove(unit);
        if let Some(served) = served {
            served.stop.send_replace(true);
        }
    }

    /// Runs `work` until the host stops or no longer serves the unit.
    fn until_gone(
        &self,
        unit: &UnitCode,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = served.get(unit).map(|served| served.stop.subscribe());
        self.until_stopped(async move {
            let Some(mut gone) = gone else { return };
            tokio::select! {
                () = work => {}
                _ = gone.wait_for(|gone| *gone) => {}
            }
        })
    }

    /// Runs `work` beside everything else until the host stops.
    fn until_stopped(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let mut stop = self.stop.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                () = work => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        })
    }

    pub(super) fn uplink(
        &self,
        known: Arc<Unit>,
        parent: setup::ParentAddress,
        tls: UnitTls,
    ) -> Uplink {
        let unit = parent.pin.unit.clone();
        // Units are opened parents first: one that is hosted here is open by now.
        if self.units.get(&unit).is_some() {
            return Uplink::Local { parent: unit };
        }
        let shown = self.shown_by(&tls);
        known.dials(parent.addresses);
        let (pin, clock) = (parent.pin, Arc::clone(&self.clock));
        let dial = DialParent { known, pin, shown, clock };
        Uplink::Through { parent: unit, dial: Arc::new(dial) }
    }

    /// Shows a unit's certificates from now on, to children and parent.
    pub(super) fn show(&self, tls: &UnitTls, ends: UnixMillis) -> Result<(), rustls::Error> {
        self.tls.set(tls)?;
        *self.shown_by(tls).write().unwrap_or_else(PoisonError::into_inner) = tls.clone();
        let mut certificates = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        certificates.insert(tls.unit.clone(), ends);
        self.metrics.certificate_ends(&tls.unit, ends);
        Ok(())
    }

    fn shown_by(&self, tls: &UnitTls) -> Shown {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(RwLock::new(tls.clone()));
        Arc::clone(shown.entry(tls.unit.clone()).or_insert_with(new))
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let admission = Admission::default();
        let mut connections = JoinSet::new();
        let mut stop = self.stop.subscribe();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    let host = Arc::clone(&self);
                    let admission = admission.clone();
                    connections.spawn(async move { host.serve(stream, admission).await });
                }
                Err(error) => {
                    // Out of file descriptors, for instance: the next one may succeed.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        while connections.join_next().await.is_some() {}
    }

    async fn serve(&self, stream: TcpStream, admission: Admission) {
        let from = stream.peer_addr().ok();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "connection is gone");
            return;
        }
        let Some(permit) = admission.enter().await else {
            self.metrics.turned_away();
            return;
        };
        let turn = Turn::of(permit);
        let accepted = self.tls.accept(stream).await;
        self.metrics.handshake_ended(accepted.is_ok());
        match accepted {
            Ok(accepted) => {
                let Accepted { stream, unit, peer, certified, .. } = accepted;
                let from = from.map(|from| from.ip());
                if peer.is_none() {
                    turn.end();
                }
                let connection = Connection { from, unit, peer, certified, turn: turn.clone() };
                let mut served = pin!(self.links.serve_stream(stream, connection));
                if timeout(MAX_TURN, served.as_mut()).await.is_err() {
                    // It has its stream, or keeps others waiting for nothing.
                    turn.end();
                    served.await;
                }
            }
            Err(error) => {
                turn.end();
                tracing::warn!(peer = ?from, error = %crate::grpc::status::chain(&error), "connection refused");
                self.journal_refusal(from, &error).await;
            }
        }
    }

    async fn journal_refusal(&self, peer: Option<SocketAddr>, error: &AcceptError) {
        let Some((unit, word)) = error.refusal() else { return };
        let Some(hosted) = self.units.get(unit) else { return };
        let from = peer.map(|peer| peer.ip().to_string()).unwrap_or_default();
        let act = Act::refused(Actor::node(), "link.accept", &*from, word);
        if let Err(error) = hosted.unit.record_refusal(&from, act).await {
            tracing::error!(%unit, %error, "cannot journal a refused connection");
        }
    }

    /// Stops serving, ends the links, and closes the store once everything is settled.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        self.links.shutdown().await;
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the host failed");
            }
        }
        if let Err(error) = self.store.close().await {
            tracing::error!(%error, "the store did not close");
        }
        tracing::info!("host is down");
    }

    /// Addresses that tokens carry.
    pub(super) fn advertised(&self) -> Vec<String> {
        self.link_address.map(|bound| self.config.advertised(bound)).unwrap_or_default()
    }

    /// Enrolments of a hosted unit.
    pub(super) fn enrolments(&self, unit: &UnitCode) -> Option<Arc<Enrolments>> {
        self.enrolments.read().unwrap_or_else(PoisonError::into_inner).get(unit).cloned()
    }
}

/// Opens the store of a host, whose keys `lock` opens.
pub(super) fn open_store(config: &HostConfig, lock: &Lock) -> Result<Arc<dyn Store>, Error> {
    setup::private_directory(&config.data_dir())?;
    let store = SledStore::open(&at_rest::directory(config), at_rest::options(config, lock))?;
    Ok(Arc::new(store))
}

/// Dials a parent on another host, at each of its addresses in turn.
struct DialParent {
    /// The child: its trust says which CAs the parent has, and it knows where the parent is.
    known: Arc<Unit>,
    pin: ParentPin,
    shown: Shown,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Dial for DialParent {
    async fn dial(&self) -> Result<Box<dyn Io>, String> {
        let tls = self.shown.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut pin = self.pin.clone();
        if let Some(known) = self.known.trust().delegation(&pin.unit, None)
            && let Some(ca_sha256) = known.delegation.ca_sha256
        {
            pin.ca_sha256 = ca_sha256;
            pin.further.clone_from(&known.delegation.change.further_ca_sha256);
        }
        let mut failures = Vec::new();
        for address in &self.known.parent_addresses() {
            let connected = crate::identity::tls::connect(
                address,
                &pin,
                Purpose::Link,
                Some(&tls),
                Arc::clone(&self.clock),
            );
            match connected.await {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => failures.push(crate::grpc::status::chain(&error)),
            }
        }
        Err(failures.join("; "))
    }
}

#[async_trait]
impl Operations for Host {
    async fn join(
        &self,
        token: &str,
        by: Actor,
        dry_run: bool,
    ) -> Result<JoinedUnit, OperationError> {
        Box::pin(setup::join(self, token, by, dry_run)).await
    }

    async fn invite(&self, order: InviteOrder) -> Result<Invitation, OperationError> {
        if self.link_address.is_none() {
            return Err(OperationError {
                kind: ErrorKind::FailedPrecondition,
                text: "this host takes no children: set `listen` in the table [link] of its node.toml and start it again".into(),
            });
        }
        setup::invite(self, order).await
    }

    async fn adopt(&self, order: AdoptionOrder) -> Result<JoinedUnit, OperationError> {
        Box::pin(Self::adopt(self, order)).await
    }

    async fn renew(&self, unit: &UnitCode, dry_run: bool) -> Result<RenewedUnit, OperationError> {
        if dry_run { self.renewal_of(unit).await } else { self.renew_unit(unit).await }
    }

    async fn rotate(
        &self,
        unit: &UnitCode,
        replaced: &[Replaced],
        by: Actor,
        dry_run: bool,
    ) -> Result<Progress, OperationError> {
        Self::rotate(self, unit, replaced, by, dry_run).await
    }

    async fn rotation(&self, unit: &UnitCode) -> Result<Option<Progress>, OperationError> {
        let Some(hosted) = self.units.get(unit) else { return Ok(None) };
        Self::rotation(self, &hosted).await
    }

    async fn recover(
        &self,
        unit: &UnitCode,
        child: &UnitCode,
        by: Actor,
        dry_run: bool,
    ) -> Result<UnixMillis, OperationError> {
        let enrolments = setup::enrolments_of(self, unit)?;
        let approved = enrolments.approve_recovery(child, by, dry_run).await;
        approved.map_err(|error| setup::failed(error.kind(), &error))
    }

    async fn recoveries(&self, unit: &UnitCode) -> Result<Vec<ChildRecovery>, OperationError> {
        let recoveries = setup::enrolments_of(self, unit)?.recoveries().await;
        recoveries.map_err(|error| setup::failed(error.kind(), &error))
    }

    fn desk_keys_directory(&self, unit: &UnitCode, desk: &str) -> Place {
        setup::keys_place(&self.config, &self.lock, unit).below("desks").below(desk)
    }

    fn certificate_ends(&self, unit: &UnitCode) -> Option<UnixMillis> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).get(unit).copied()
    }

    fn facts(&self) -> HostFacts {
        HostFacts {
            host: self.config.host.name.clone(),
            started_unix_ms: self.started_unix_ms,
            link_address: self.link_address.map(|address| address.to_string()),
        }
    }
}
