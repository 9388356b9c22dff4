//! How units come to a host: a root is made, a child joins, before the host runs or while it does.

use std::{
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use super::{Error, Host, host};
use crate::{
    clock::{Clock, SystemClock, UnixMillis},
    config::HostConfig,
    domain::{
        delegation::Suite,
        journal::{Act, Actor},
        protection::Cipher,
        unit::{DeskId, Level, UnitCode},
    },
    grpc::{enrolment::GrpcDoor, status::chain},
    identity::{
        certificates,
        keys::{
            self, Cost, DeskKeys, Lock, PeopleKey, Place, Secret, UnitKeys, former_agreement_keys,
            transfer::TransferKey,
        },
        tls::{ParentPin, UnitTls},
        token::Token,
    },
    services::{
        accounts::{self, Accounts},
        enrolments::{
            self, Enrolling, Enrolments, Identity, Invite, JoinError, Joined, Joining, NewRoot,
        },
        error::{ErrorKind, ServiceError},
        exchange::Lane,
        host::{Invitation, InviteOrder, JoinedUnit, NotHosted, OperationError, Units},
        imports::{Imports, Targets},
        rotations::Rotation,
        transfer::Departed,
        unit::{Budgets, Parts},
    },
    statement::transfer::Request,
    store::Store,
};

/// Name of the configuration in a host's directory.
const CONFIG: &str = "node.toml";

/// Code under which the host keeps what belongs to none of its units. A unit's code never begins
/// with this, because it would have to begin with a character of its alphabet at its level.
const HOST_SPACE: &str = "HOST0";

/// What `init` makes.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Directory of the new host.
    pub dir: PathBuf,
    /// Code of the unit at the top.
    pub code: UnitCode,
    /// Its level: a tree may start anywhere.
    pub level: Level,
    /// Its title.
    pub title: String,
    /// Trust domain, e.g. `boston.example`.
    pub trust_domain: String,
    /// Suite of all signatures in the trust domain.
    pub suite: Suite,
    /// Address for children.
    pub listen: Option<SocketAddr>,
    /// Addresses that tokens carry; empty: `listen`.
    pub advertise: Vec<String>,
    /// Sealed from the first byte on; `None`: keys and store in clear.
    pub sealed: Option<Sealing>,
}

/// How a new host is sealed.
#[derive(Clone, Debug)]
pub struct Sealing {
    /// What opens its keys.
    pub secret: Arc<Secret>,
    /// With what its store is encrypted.
    pub cipher: Cipher,
}

/// What a host's first join writes into its configuration.
#[derive(Clone, Debug, Default)]
pub struct JoinOptions {
    /// Address for children.
    pub listen: Option<SocketAddr>,
    /// Addresses that tokens carry; empty: `listen`.
    pub advertise: Vec<String>,
    /// Sealed from the first byte on; `None`: keys and store in clear.
    pub sealed: Option<Sealing>,
}

/// Where a unit's parent is.
#[derive(Clone, Debug)]
pub(super) struct ParentAddress {
    pub(super) pin: ParentPin,
    pub(super) addresses: Vec<String>,
}

/// A unit that can be opened.
pub(super) struct OpenIdentity {
    pub(super) parts: Parts,
    pub(super) tls: UnitTls,
    pub(super) parent: Option<ParentAddress>,
    pub(super) certificate_ends_unix_ms: UnixMillis,
}

/// Makes a host whose first unit is the root of a tree.
///
/// # Errors
///
/// The directory holds a host, or keys, certificates or store could not be made.
pub async fn init(options: InitOptions) -> Result<(), Error> {
    let mut config = new_config(&options.dir, options.listen, options.advertise)?;
    let lock = seal(&mut config, options.sealed.as_ref())?;
    let store = host::open_store(&config, &lock)?;
    let root = NewRoot {
        keys_directory: keys_place(&config, &lock, &options.code),
        unit: options.code,
        level: options.level,
        title: options.title,
        trust_domain: options.trust_domain,
        suite: options.suite,
        host: config.host.name.clone(),
        clock: Arc::new(SystemClock),
    };
    let joined = root.create().await.map_err(|error| failed(error.kind(), &error))?;
    keep(&joined, store.as_ref(), &SystemClock, (whoever_runs_this(), "node.init")).await?;
    store.close().await?;
    write_config(&config)
}

/// Makes a host whose first unit joins the parent that the token names.
///
/// # Errors
///
/// The directory holds a host, or the join failed; it can be run again with the same token.
pub async fn join_offline(
    dir: &Path,
    token: &str,
    options: JoinOptions,
) -> Result<JoinedUnit, Error> {
    let mut config = new_config(dir, options.listen, options.advertise)?;
    let token = parse_token(token)?;
    let lock = seal(&mut config, options.sealed.as_ref())?;
    let store = host::open_store(&config, &lock)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let door = GrpcDoor::new(Arc::clone(&clock));
    let joined = joining(&config, &lock, &token, &door, clock).run().await;
    let joined = joined.map_err(|error| failed(error.kind(), &error))?;
    keep(&joined, store.as_ref(), &SystemClock, (whoever_runs_this(), "node.join")).await?;
    store.close().await?;
    write_config(&config)?;
    Ok(joined_unit(&joined, &token))
}

/// Makes a host without a unit that awaits one from another host; what that has to be told.
///
/// # Errors
///
/// The directory holds a host, or the key could not be made.
pub async fn receive_offline(
    dir: &Path,
    unit: &UnitCode,
    options: JoinOptions,
) -> Result<Request, Error> {
    let mut config = new_config(dir, options.listen, options.advertise)?;
    let lock = seal(&mut config, options.sealed.as_ref())?;
    let store = host::open_store(&config, &lock)?;
    store.close().await?;
    let place = transfer_place(&config, &lock, unit);
    let TransferKey(key) = TransferKey::load_or_generate(&place).map_err(Error::Keys)?;
    write_config(&config)?;
    let listens = config.link.listen.map(|address| config.advertised(address));
    Ok(Request {
        unit: unit.clone(),
        public_key: key.public_key(),
        host: config.host.name.clone(),
        addresses: listens.unwrap_or_default(),
    })
}

/// Place of the key that the file of an awaited unit is sealed to. No unit has this code.
pub(super) fn transfer_place(config: &HostConfig, lock: &Lock, unit: &UnitCode) -> Place {
    Place::new(config.keys_dir(), lock.clone()).below("transfer").below(unit.as_str())
}

/// Checks the token and the parent for a host that is not there yet, and keeps nothing.
///
/// # Errors
///
/// The token is none or is over, or the parent is not reached or is another one.
pub async fn check_token(dir: &Path, token: &str) -> Result<JoinedUnit, Error> {
    let config = HostConfig::default_for(dir);
    let token = parse_token(token)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let door = GrpcDoor::new(Arc::clone(&clock));
    let checked = joining(&config, &Lock::none(), &token, &door, clock).dry_run().await;
    checked.map_err(|error| failed(error.kind(), &error))?;
    Ok(would_join(&token))
}

pub(super) fn would_join(token: &Token) -> JoinedUnit {
    JoinedUnit {
        unit: token.unit.clone(),
        title: token.title.clone(),
        parent: token.parent.clone(),
        level: token.level,
        clock_skew_ms: 0,
        delegation_ends_unix_ms: 0,
    }
}

fn joining<'a>(
    config: &'a HostConfig,
    lock: &Lock,
    token: &'a Token,
    door: &'a GrpcDoor,
    clock: Arc<dyn Clock>,
) -> JoinRun<'a> {
    JoinRun { keys: keys_place(config, lock, &token.unit), config, token, door, clock }
}

/// A join with the place of its keys.
struct JoinRun<'a> {
    keys: Place,
    config: &'a HostConfig,
    token: &'a Token,
    door: &'a GrpcDoor,
    clock: Arc<dyn Clock>,
}

impl JoinRun<'_> {
    fn joining(&self) -> Joining<'_> {
        Joining {
            token: self.token,
            keys_directory: self.keys.clone(),
            host: &self.config.host.name,
            door: self.door,
            clock: Arc::clone(&self.clock),
            adopted: None,
        }
    }

    async fn run(&self) -> Result<Joined, JoinError> {
        self.joining().run().await
    }

    async fn dry_run(&self) -> Result<(), JoinError> {
        self.joining().dry_run().await.map(|_| ())
    }
}

fn new_config(
    dir: &Path,
    listen: Option<SocketAddr>,
    advertise: Vec<String>,
) -> Result<HostConfig, Error> {
    if dir.join(CONFIG).exists() {
        return Err(Error::HostExists(dir.to_owned()));
    }
    private_directory(dir)?;
    let mut config = HostConfig::default_for(dir);
    config.link.listen = listen;
    config.link.advertise = advertise;
    Ok(config)
}

/// Puts the lock on a host that has no keys yet, and asks in its configuration for what was chosen.
/// Once more with the same secret after a run that was cut off.
fn seal(config: &mut HostConfig, sealing: Option<&Sealing>) -> Result<Lock, Error> {
    let Some(Sealing { secret, cipher }) = sealing else { return Ok(Lock::none()) };
    let keys = config.keys_dir();
    private_directory(&keys)?;
    keys::protect(&keys, secret, Cost::default(), false).map_err(Error::Keys)?;
    config.keys.protect = Lock::method(&keys).map_err(Error::Keys)?;
    config.store.encrypt = *cipher;
    Lock::open(&keys, secret).map_err(Error::Keys)
}

/// Written last: a directory with a configuration is a host. It is there for good when this
/// returns, the directory's own name included.
fn write_config(config: &HostConfig) -> Result<(), Error> {
    let path = config.directory.join(CONFIG);
    let beside = path.with_extension("toml.new");
    let write = || {
        let mut file = fs::File::create(&beside)?;
        file.write_all(config.to_toml().as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        // Those above may have been made with it.
        let above = config.directory.ancestors().filter(|path| !path.as_os_str().is_empty());
        above.take(3).try_for_each(|directory| fs::File::open(directory)?.sync_all())
    };
    write().map_err(|source| Error::File { action: "write", path: path.clone(), source })
}

/// Makes a directory that only its owner can enter.
pub(super) fn private_directory(path: &Path) -> Result<(), Error> {
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::File { action: "make the directory", path: path.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Place of a unit's keys.
pub(super) fn keys_place(config: &HostConfig, lock: &Lock, unit: &UnitCode) -> Place {
    Place::new(config.keys_dir(), lock.clone()).below(unit.as_str())
}

pub(super) fn failed(kind: ErrorKind, error: &dyn std::error::Error) -> OperationError {
    OperationError { kind, text: chain(error) }
}

pub(super) fn parse_token(text: &str) -> Result<Token, OperationError> {
    text.trim().parse().map_err(|error| failed(ErrorKind::InvalidArgument, &error))
}

/// Keeps what was made or joined.
async fn keep(
    joined: &Joined,
    store: &dyn Store,
    clock: &dyn Clock,
    (actor, act): (Actor, &'static str),
) -> Result<(), OperationError> {
    let act = Act::done(actor, act, joined.identity.unit.as_str());
    let kept = joined.identity.persist(store, clock.now_unix_ms(), act).await;
    kept.map_err(|error| failed(ErrorKind::FailedPrecondition, &error))
}

/// Who works on a host that is not running.
pub(super) fn whoever_runs_this() -> Actor {
    Actor::uid(rustix::process::getuid().as_raw())
}

pub(super) fn joined_unit(joined: &Joined, token: &Token) -> JoinedUnit {
    JoinedUnit {
        unit: joined.identity.unit.clone(),
        title: joined.identity.title.clone(),
        parent: token.parent.clone(),
        level: joined.identity.level,
        clock_skew_ms: joined.clock_skew_ms,
        delegation_ends_unix_ms: joined.delegation_ends_unix_ms,
    }
}

fn host_space() -> UnitCode {
    HOST_SPACE.parse().expect("invariant: the host's space is a code")
}

/// People of the host.
pub(super) async fn accounts(host: &Host) -> Result<Arc<Accounts>, Error> {
    let (place, space) = (Place::new(host.config.keys_dir(), host.lock.clone()), host_space());
    let key = match Accounts::hold_factors(host.store.as_ref(), &space).await? {
        true => PeopleKey::load(&place),
        false => PeopleKey::load_or_generate(&place),
    };
    let parts = accounts::Parts {
        store: Arc::clone(&host.store),
        clock: Arc::clone(&host.clock),
        units: Arc::clone(host.units()),
        space,
        key: Arc::new(key.map_err(Error::Keys)?),
        host: host.config.host.name.clone(),
        rules: host.config.accounts.rules(),
    };
    let accounts = Accounts::open(parts).await;
    Ok(accounts.map_err(|error| failed(error.kind(), &error))?)
}

/// Imports of the host, spooled in its data directory.
pub(super) fn imports(
    config: &HostConfig,
    store: &Arc<dyn Store>,
    units: &Arc<Units>,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<Imports>, Error> {
    let directory = config.data_dir().join("imports");
    private_directory(&directory)?;
    let host = host_space();
    let targets: Arc<dyn Targets> = Arc::<Units>::clone(units);
    let imports = Imports::new(Arc::clone(store), host, directory, targets, Arc::clone(clock));
    Ok(Arc::new(imports))
}

/// Loads every unit of the store, parents before children.
pub(super) async fn load_identities(
    config: &HostConfig,
    lock: &Lock,
    store: &dyn Store,
) -> Result<Vec<OpenIdentity>, Error> {
    let mut identities = Vec::new();
    for unit in store.units().await? {
        let failed = |error: &dyn std::error::Error| Error::Unit {
            unit: unit.clone(),
            reason: chain(error),
        };
        let Some(identity) = Identity::load(store, &unit).await.map_err(|error| failed(&error))?
        else {
            continue;
        };
        if Departed::load(store, &unit).await?.is_some() {
            tracing::info!(%unit, "the unit was given to another host and is not served here");
            continue;
        }
        identities.push(open(config, lock, store, identity).await?);
    }
    identities.sort_by_key(|identity| identity.parts.level);
    Ok(identities)
}

/// Loads one unit of the store.
pub(super) async fn load_identity(
    config: &HostConfig,
    lock: &Lock,
    store: &dyn Store,
    unit: &UnitCode,
) -> Result<OpenIdentity, Error> {
    let failed = |reason: String| Error::Unit { unit: unit.clone(), reason };
    let identity = Identity::load(store, unit).await.map_err(|error| failed(chain(&error)))?;
    let identity = identity.ok_or_else(|| failed("it has not joined here".to_owned()))?;
    open(config, lock, store, identity).await
}

pub(super) async fn open(
    config: &HostConfig,
    lock: &Lock,
    store: &dyn Store,
    identity: Identity,
) -> Result<OpenIdentity, Error> {
    let unit = identity.unit.clone();
    let failed =
        |error: &dyn std::error::Error| Error::Unit { unit: unit.clone(), reason: chain(error) };
    let place = keys_place(config, lock, &unit);
    let keys = UnitKeys::load(place.clone()).map_err(|error| failed(&error))?;
    let former = former_agreement_keys(&place).map_err(|error| failed(&error))?;
    let trust = identity.load_trust(store).await.map_err(|error| failed(&error))?;
    let former_ca = Rotation::former_ca(store, &unit).await.map_err(|error| failed(&error))?;
    let tls = identity.tls(&keys).accepting(former_ca);
    let shown = identity.client_certificate.as_ref().unwrap_or(&identity.server_certificate);
    let certified = certificates::read(shown).map_err(|error| failed(&error))?;
    let desks: Vec<DeskId> = trust
        .subtree(&unit)
        .iter()
        .filter(|known| known.delegation.unit == unit)
        .filter_map(|known| known.delegation.desk.clone())
        .collect();
    let mut signers = std::collections::BTreeMap::new();
    for desk in desks {
        let keys = DeskKeys::load(place.below("desks").below(desk.as_str()));
        signers.insert(desk, keys.map_err(|error| failed(&error))?);
    }
    let parent = identity
        .parent
        .as_ref()
        .zip(identity.pin())
        .map(|(parent, pin)| ParentAddress { pin, addresses: parent.addresses.clone() });
    Ok(OpenIdentity {
        parts: Parts {
            code: unit,
            level: identity.level,
            parent: identity.parent.as_ref().map(|parent| parent.unit.clone()),
            trust_domain: identity.trust_domain.clone(),
            keys,
            former,
            desks: signers,
            trust,
            budgets: budgets(config),
        },
        tls,
        parent,
        certificate_ends_unix_ms: certified.not_after_unix_ms,
    })
}

fn budgets(config: &HostConfig) -> Budgets {
    let [notice, summary, catalogue, bulk] = config.lane_bytes();
    Budgets::of(&[
        (Lane::Notice, notice),
        (Lane::Summary, summary),
        (Lane::Catalogue, catalogue),
        (Lane::Bulk, bulk),
    ])
}

/// Joins a unit of a running host and serves it.
pub(super) async fn join(
    host: &Host,
    token: &str,
    by: Actor,
    dry_run: bool,
) -> Result<JoinedUnit, OperationError> {
    let token = parse_token(token)?;
    let door = GrpcDoor::new(Arc::clone(&host.clock));
    let run = joining(&host.config, &host.lock, &token, &door, Arc::clone(&host.clock));
    let refused = |error: JoinError| failed(error.kind(), &error);
    if dry_run {
        run.dry_run().await.map_err(refused)?;
        return Ok(would_join(&token));
    }
    if host.units().get(&token.unit).is_some() {
        let text = format!("unit {} has joined already and is served by this host", token.unit);
        return Err(OperationError { kind: ErrorKind::AlreadyExists, text });
    }
    let departed = Departed::load(host.store.as_ref(), &token.unit).await;
    let departed = departed.map_err(|error| failed(error.kind(), &error))?;
    if let Some(departed) = departed.filter(|departed| departed.confirmed_unix_ms.is_none()) {
        let text = format!("unit {} was given to the host {}", token.unit, departed.host);
        return Err(OperationError { kind: ErrorKind::FailedPrecondition, text });
    }
    let joined = match run.run().await {
        Ok(joined) => joined,
        Err(error) => {
            let act = Act::refused(by, "node.join", token.unit.as_str(), error.reason());
            if let Some(head) = host.units().head() {
                let recorded = head.unit.record(act).await;
                recorded.map_err(|error| failed(ErrorKind::Internal, &error))?;
            }
            return Err(refused(error));
        }
    };
    keep(&joined, host.store.as_ref(), host.clock.as_ref(), (by, "node.join")).await?;
    let unit = joined_unit(&joined, &token);
    let identity = open(&host.config, &host.lock, host.store.as_ref(), joined.identity).await;
    let opened = match identity {
        Ok(identity) => host.open_unit(identity).await,
        Err(error) => Err(error),
    };
    opened.map_err(|error| failed(ErrorKind::Internal, &error))?;
    Ok(unit)
}

/// Enrolments of a hosted unit.
pub(super) fn enrolments_of(
    host: &Host,
    unit: &UnitCode,
) -> Result<Arc<Enrolments>, OperationError> {
    let enrolments = host.enrolments(unit);
    enrolments.ok_or_else(|| failed(ErrorKind::NotFound, &NotHosted(unit.clone())))
}

/// Makes a token for a child of a hosted unit.
pub(super) async fn invite(host: &Host, order: InviteOrder) -> Result<Invitation, OperationError> {
    let enrolments = enrolments_of(host, &order.unit)?;
    let invite = Invite {
        child: order.child,
        level: order.level,
        title: order.title,
        valid_for_ms: order.valid_for_ms,
        addresses: host.advertised(),
        by: order.by,
        order: None,
        adopts: order.adopts,
    };
    let refused = |error: enrolments::Error| failed(error.kind(), &error);
    if order.dry_run {
        let expires_unix_ms = enrolments.try_invite(&invite).await.map_err(refused)?;
        return Ok(Invitation { token: String::new(), expires_unix_ms });
    }
    let invited = enrolments.invite(invite).await.map_err(refused)?;
    Ok(Invitation {
        token: invited.token.to_text().to_string(),
        expires_unix_ms: invited.expires_unix_ms,
    })
}

/// Finds the enrolments of a host that is put together after its links.
pub(super) struct HostEnrolments(pub(super) Weak<Host>);

impl Enrolling for HostEnrolments {
    fn enrolments(&self, unit: &UnitCode) -> Option<Arc<Enrolments>> {
        self.0.upgrade()?.enrolments(unit)
    }
}
