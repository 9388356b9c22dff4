//! The child's side of joining and of renewing, and the making of a root.

mod renewing;
mod root;

use std::{fmt, sync::Arc};

pub use self::{
    renewing::{Renewed, Renewing},
    root::NewRoot,
};

use async_trait::async_trait;
use lianxi_proto::envelope::Signer;
use tokio::task::spawn_blocking;

use crate::{
    clock::{Clock, UnixMillis},
    domain::{
        delegation::{Delegation, PublicKey, Suite},
        unit::UnitCode,
    },
    identity::{
        certificates::{self, sha256},
        keys::{self, Place, UnitKeys},
        tls::{self, ConnectError, ParentPin, Purpose, UnitTls},
        token::Token,
        trust::{self, Trust},
    },
    services::{
        enrolments::{
            Reserved,
            identity::{Identity, Membership, Parent},
        },
        error::{ErrorKind, ServiceError},
    },
    statement::{
        Envelope, delegation,
        enrolment::{Adopted, Application},
        header::Malformed,
        rotation::ProvenRequest,
    },
};

/// The calls to a parent that a child makes to join and to change its keys. Implemented by `grpc`.
#[async_trait]
pub trait Door: Send + Sync {
    /// Calls `Reserve` without a client certificate.
    async fn reserve(
        &self,
        address: &str,
        pin: &ParentPin,
        application: &Application,
        signer: &Signer,
    ) -> Result<Reserved, DoorError>;

    /// Calls `Confirm` with the certificate that `Reserve` brought.
    async fn confirm(
        &self,
        address: &str,
        pin: &ParentPin,
        client: &UnitTls,
        token_id: [u8; 16],
    ) -> Result<Vec<Envelope>, DoorError>;

    /// Calls `Rotate` with the unit's certificate.
    async fn rotate(
        &self,
        address: &str,
        pin: &ParentPin,
        client: &UnitTls,
        request: ProvenRequest,
    ) -> Result<Vec<Envelope>, DoorError>;
}

/// In which way the parent said no.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// No such token.
    UnknownToken,
    /// Expired, spent or reserved.
    Precondition,
    /// Malformed, or another unit's.
    Invalid,
    /// The certificate is another unit's.
    Denied,
    /// The parent failed.
    Failed,
}

/// Why a call to the parent brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The parent was not reached, or is not the parent.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The parent said no; its words hold the remedy.
    #[error("{message}")]
    Refused {
        /// In which way.
        refused: Refused,
        /// The parent's words.
        message: String,
    },
    /// The connection broke; the step may have been done, and can be repeated.
    #[error("the connection to the parent broke: {0}; run the join again")]
    Broken(String),
    /// The answer lacks something.
    #[error("the parent's answer is malformed at {0}")]
    Answer(#[from] Malformed),
}

/// Why a unit did not join or was not made. Whatever was kept serves the next try.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// None of the token's addresses led to the parent; the last reason.
    #[error("{parent} was not reached: {source}")]
    NotReached {
        /// The parent.
        parent: UnitCode,
        /// Reason at the last address.
        #[source]
        source: ConnectError,
    },
    /// The token names no address.
    #[error("the token names no address; ask the parent for a new one")]
    NoAddress,
    /// The token is over by this host's clock.
    #[error(
        "the token expired {} s ago by this host's clock; set the clock if it is wrong, else ask the parent for a new token",
        ago_ms / 1_000
    )]
    Expired {
        /// How long ago.
        ago_ms: i64,
    },
    /// A call to the parent brought nothing.
    #[error("{step}: {source}")]
    Door {
        /// `reserve` or `confirm`.
        step: &'static str,
        /// Why.
        #[source]
        source: DoorError,
    },
    /// The keys were not made, kept or read.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// The parent's answer is not what the token promised.
    #[error("the parent's answer does not fit the token: {0}; ask for a new token")]
    Mismatch(&'static str),
    /// The parent's delegations do not hold.
    #[error("the delegations from the parent do not hold: {0}")]
    Trust(#[from] trust::Error),
    /// A certificate was not made or read.
    #[error("no certificate: {0}")]
    Certificate(#[from] certificates::Error),
    /// A field of the new root is not what it should be.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The process is ending.
    #[error("the work on the key files was cut off; run the command again")]
    CutOff,
}

impl JoinError {
    /// Fixed word for the journal.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotReached { source, .. } => connect_reason(source),
            Self::Door { source, .. } => match source {
                DoorError::Connect(error) => connect_reason(error),
                DoorError::Refused { .. } => "refused-by-parent",
                DoorError::Broken(_) => "broken",
                DoorError::Answer(_) => "malformed",
            },
            Self::NoAddress => "no-address",
            Self::Expired { .. } => "token-expired",
            Self::Keys(_) => "keys",
            Self::Mismatch(_) => "mismatch",
            Self::Trust(error) => error.reason(),
            Self::Certificate(_) => "certificate",
            Self::Malformed(_) => "malformed",
            Self::CutOff => "cut-off",
        }
    }
}

fn connect_reason(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::WrongCa { .. } => "wrong-ca",
        ConnectError::WrongUnit { .. } => "wrong-unit",
        ConnectError::NotServed { .. } => "not-served",
        ConnectError::Validity { .. } | ConnectError::Own(_) => "certificate",
        ConnectError::NotReached { .. }
        | ConnectError::Timeout { .. }
        | ConnectError::Handshake { .. } => "not-reached",
    }
}

impl ServiceError for JoinError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotReached { source, .. } => connect_kind(source),
            Self::Door { source, .. } => match source {
                DoorError::Connect(error) => connect_kind(error),
                DoorError::Refused { refused, .. } => refused.kind(),
                DoorError::Broken(_) => ErrorKind::Unavailable,
                DoorError::Answer(_) => ErrorKind::FailedPrecondition,
            },
            Self::NoAddress | Self::Malformed(_) => ErrorKind::InvalidArgument,
            // Their words hold the remedy, so they are not kept back as internal.
            Self::Expired { .. }
            | Self::Keys(_)
            | Self::Mismatch(_)
            | Self::Trust(_)
            | Self::Certificate(_) => ErrorKind::FailedPrecondition,
            Self::CutOff => ErrorKind::Unavailable,
        }
    }
}

impl Refused {
    fn kind(self) -> ErrorKind {
        match self {
            Self::UnknownToken => ErrorKind::Unauthenticated,
            Self::Precondition => ErrorKind::FailedPrecondition,
            Self::Invalid => ErrorKind::InvalidArgument,
            Self::Denied => ErrorKind::PermissionDenied,
            Self::Failed => ErrorKind::Unavailable,
        }
    }
}

fn connect_kind(error: &ConnectError) -> ErrorKind {
    match error {
        ConnectError::WrongCa { .. }
        | ConnectError::WrongUnit { .. }
        | ConnectError::NotServed { .. } => ErrorKind::Unauthenticated,
        ConnectError::Validity { .. } | ConnectError::Own(_) => ErrorKind::FailedPrecondition,
        ConnectError::NotReached { .. }
        | ConnectError::Timeout { .. }
        | ConnectError::Handshake { .. } => ErrorKind::Unavailable,
    }
}

/// A unit that has joined, or a root that was made: all that is to be kept and served.
pub struct Joined {
    /// To be kept with [`Identity::persist`].
    pub identity: Identity,
    /// Its keys, already on disk.
    pub keys: UnitKeys,
    /// What it shows in TLS.
    pub tls: UnitTls,
    /// What it believes so far.
    pub trust: Trust,
    /// This host's clock minus the parent's; 0 at the root.
    pub clock_skew_ms: i64,
    /// When its delegation ends.
    pub delegation_ends_unix_ms: UnixMillis,
}

impl fmt::Debug for Joined {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Joined").field("unit", &self.identity.unit).finish_non_exhaustive()
    }
}

/// An address of the token at which the very parent was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reached {
    /// The address.
    pub address: String,
    /// How the parent is recognised there.
    pub pin: ParentPin,
}

/// Finds the parent at one of the token's addresses and checks its CA by hash. Sends nothing and
/// keeps nothing: this is the dry run of a join, and its first step.
///
/// # Errors
///
/// [`JoinError::NoAddress`], [`JoinError::NotReached`].
pub async fn reach(token: &Token, clock: Arc<dyn Clock>) -> Result<Reached, JoinError> {
    let pin = ParentPin {
        unit: token.parent.clone(),
        trust_domain: Some(token.trust_domain.clone()),
        ca_sha256: token.ca_sha256,
        further: Vec::new(),
    };
    let mut last = JoinError::NoAddress;
    for address in &token.addresses {
        match tls::connect(address, &pin, Purpose::Enrol, None, Arc::clone(&clock)).await {
            Ok(_) => return Ok(Reached { address: address.clone(), pin }),
            Err(source) => last = JoinError::NotReached { parent: token.parent.clone(), source },
        }
    }
    Err(last)
}

/// A join that is to be done.
pub struct Joining<'a> {
    /// The invitation.
    pub token: &'a Token,
    /// Place of the unit's keys.
    pub keys_directory: Place,
    /// Name of this host; empty: not stated.
    pub host: &'a str,
    /// How the parent is called.
    pub door: &'a dyn Door,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// For a unit that was a root: what shows it.
    pub adopted: Option<&'a Adopted>,
}

impl Joining<'_> {
    /// Checks the token and the parent, and keeps nothing.
    ///
    /// # Errors
    ///
    /// As [`reach`], and [`JoinError::Expired`].
    pub async fn dry_run(&self) -> Result<Reached, JoinError> {
        let ago_ms = self.clock.now_unix_ms().saturating_sub(self.token.expires_unix_ms);
        if ago_ms >= 0 {
            return Err(JoinError::Expired { ago_ms });
        }
        reach(self.token, Arc::clone(&self.clock)).await
    }

    /// Joins. Cut off anywhere, it can be run again with the same token: it goes on with the keys
    /// that it made, and the parent repeats its answers to them.
    ///
    /// # Errors
    ///
    /// [`JoinError`].
    pub async fn run(self) -> Result<Joined, JoinError> {
        let token = self.token;
        let reached = reach(token, Arc::clone(&self.clock)).await?;
        let now = self.clock.now_unix_ms();
        let keys = self.keys(now).await?;
        let application = Application {
            token_id: token.id,
            secret: token.secret.clone(),
            unit: token.unit.clone(),
            level: token.level,
            keys: keys.public_keys(),
            ca_sha256: keys.ca_sha256(),
            certificate_request: certificates::request(&keys.tls)?,
            host: self.host.to_owned(),
            clock_unix_ms: now,
            adopted: self.adopted.cloned(),
        };
        let Reached { address, pin } = &reached;
        let failed = |step| move |source| JoinError::Door { step, source };
        let reserved = self.door.reserve(address, pin, &application, &keys.statement).await;
        let reserved = reserved.map_err(failed("reserve"))?;
        let clock_skew_ms = now.saturating_sub(reserved.clock_unix_ms);
        check_certificate(pin, &application, &reserved)?;
        let certificate = Some(reserved.certificate);
        let tls = UnitTls::new(&token.unit, &token.trust_domain, &keys, certificate, now)?;
        let chain = self.door.confirm(address, pin, &tls, token.id).await;
        let chain = chain.map_err(failed("confirm"))?;
        let (trust, own) = check_chain(token, &keys, &chain, self.clock.now_unix_ms())?;
        let identity = identity(token, &tls, chain, &own);
        let delegation_ends_unix_ms = own.not_after_unix_ms;
        Ok(Joined { identity, keys, tls, trust, clock_skew_ms, delegation_ends_unix_ms })
    }

    async fn keys(&self, now: UnixMillis) -> Result<UnitKeys, JoinError> {
        let place = self.keys_directory.clone();
        let (unit, domain) = (self.token.unit.clone(), self.token.trust_domain.clone());
        let suite = delegation::suite_from_proto(self.token.root_key.suite().into());
        let suite = suite.ok_or(JoinError::Mismatch("the root key is of an unknown suite"))?;
        unit_keys(place, suite, unit, domain, now).await
    }
}

async fn unit_keys(
    place: Place,
    suite: Suite,
    unit: UnitCode,
    trust_domain: String,
    now: UnixMillis,
) -> Result<UnitKeys, JoinError> {
    let work = move || UnitKeys::load_or_generate(place, suite, &unit, &trust_domain, now);
    Ok(spawn_blocking(work).await.map_err(|_| JoinError::CutOff)??)
}

fn identity(token: &Token, tls: &UnitTls, chain: Vec<Envelope>, own: &Delegation) -> Identity {
    Identity {
        unit: token.unit.clone(),
        level: token.level,
        title: own.title.clone(),
        trust_domain: token.trust_domain.clone(),
        root_key: token.root_key.clone(),
        parent: Some(Parent {
            unit: token.parent.clone(),
            addresses: token.addresses.clone(),
            ca_sha256: token.ca_sha256,
            further: Vec::new(),
        }),
        membership: Some(Membership { token_id: token.id, secret: *token.secret }),
        chain,
        ca_certificate: tls.ca_certificate.clone(),
        server_certificate: tls.server_certificate.clone(),
        client_certificate: tls.client_certificate.clone(),
    }
}

/// The certificate names this unit and its key, and the CA is the one that was pinned.
fn check_certificate(
    pin: &ParentPin,
    application: &Application,
    reserved: &Reserved,
) -> Result<(), JoinError> {
    let certified = certificates::read(&reserved.certificate)?;
    let domain = pin.trust_domain.as_ref();
    if certified.unit != application.unit || Some(&certified.trust_domain) != domain {
        return Err(JoinError::Mismatch("the certificate names another unit"));
    }
    let key = certificates::request_key_sha256(&application.certificate_request)?;
    if certified.key_sha256 != key {
        return Err(JoinError::Mismatch("the certificate is for another key"));
    }
    if !pin.knows(&sha256(&reserved.ca_certificate)) {
        return Err(JoinError::Mismatch("the CA is another one"));
    }
    Ok(())
}

/// The chain leads from the token's root key over the token's parent to exactly this unit.
fn check_chain(
    token: &Token,
    keys: &UnitKeys,
    chain: &[Envelope],
    now: UnixMillis,
) -> Result<(Trust, Delegation), JoinError> {
    let mut trust = Trust::new(token.trust_domain.clone(), token.root_key.clone());
    trust.add_all(chain, now)?;
    let mismatch = |what| move || JoinError::Mismatch(what);
    let own = trust.delegation(&token.unit, None);
    let own = own.ok_or_else(mismatch("the chain does not reach this unit"))?.delegation.clone();
    let parent = trust.delegation(&token.parent, None);
    let parent = parent.ok_or_else(mismatch("the chain does not hold the parent"))?;
    let checks = [
        (own.issuer.as_ref() == Some(&token.parent), "another unit granted the delegation"),
        (own.level == token.level, "the delegation is for another level"),
        (same_keys(&own.keys, &keys.public_keys()), "the delegation names other keys"),
        (own.ca_sha256 == Some(keys.ca_sha256()), "the delegation names another CA of this unit"),
        (parent.delegation.cas().any(|ca| ca == token.ca_sha256), "the parent's CA is another one"),
        (trust.all().count() == trust.chain(&token.unit).len(), "the chain holds strangers"),
    ];
    if let Some((_, what)) = checks.into_iter().find(|(holds, _)| !holds) {
        return Err(JoinError::Mismatch(what));
    }
    Ok((trust, own))
}

fn same_keys(one: &[PublicKey], other: &[PublicKey]) -> bool {
    one.len() == other.len() && one.iter().all(|key| other.contains(key))
}
