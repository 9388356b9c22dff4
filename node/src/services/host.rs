//! The units of one host, by code, and what concerns all of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;

use super::{
    enrolments::ChildRecovery,
    error::{ErrorKind, ServiceError},
    hosted::Hosted,
    imports::Targets,
    records::Records,
    rotations::Progress,
};
use crate::{
    clock::UnixMillis,
    domain::{
        catalogue::Catalogue,
        journal::Actor,
        role::Grant,
        rotation::Replaced,
        unit::{Level, UnitCode},
    },
    identity::{custody::Signed, keys::Place},
};

/// The unit is not served by this host.
#[derive(Debug, thiserror::Error)]
#[error("unit {0} is not hosted here; list those that are with `lianxi node status`")]
pub struct NotHosted(pub UnitCode);

impl ServiceError for NotHosted {
    fn kind(&self) -> ErrorKind {
        ErrorKind::NotFound
    }
}

/// Hosted units by code.
#[derive(Debug, Default)]
pub struct Units(RwLock<BTreeMap<UnitCode, Arc<Hosted>>>);

impl Units {
    /// Finds a unit.
    ///
    /// # Errors
    ///
    /// [`NotHosted`].
    pub fn find(&self, unit: &UnitCode) -> Result<Arc<Hosted>, NotHosted> {
        self.get(unit).ok_or_else(|| NotHosted(unit.clone()))
    }

    /// Finds a unit.
    pub fn get(&self, unit: &UnitCode) -> Option<Arc<Hosted>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(unit).cloned()
    }

    /// All units in the order of codes.
    pub fn all(&self) -> Vec<Arc<Hosted>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// True if a role reaches all of `units`: an administrator's does, a unit's reaches the unit and
    /// those below it on this host. No units: every hosted one. A unit of another host counts as
    /// every hosted one too, so that nobody learns by it what a narrow role must not ask.
    pub fn covers(&self, grant: &Grant, units: &[UnitCode]) -> bool {
        let Some(own) = &grant.unit else { return true };
        let hosted = self.all();
        let reaches = |unit: &Hosted| {
            unit.unit.code == *own || unit.unit.trust().is_in_subtree(&unit.unit.code, own)
        };
        let here = |code: &UnitCode| hosted.iter().find(|hosted| hosted.unit.code == *code);
        let named: Option<Vec<_>> = units.iter().map(here).collect();
        match named {
            Some(named) if !named.is_empty() => named.into_iter().all(|unit| reaches(unit)),
            Some(_) | None => hosted.iter().all(|unit| reaches(unit)),
        }
    }

    /// The unit whose journal takes what concerns the whole host: of the highest level, and of
    /// those the one with the first code.
    pub fn head(&self) -> Option<Arc<Hosted>> {
        self.all().into_iter().min_by_key(|hosted| (hosted.unit.level, hosted.unit.code.clone()))
    }

    /// Adds a unit.
    pub fn add(&self, hosted: Arc<Hosted>) {
        let code = hosted.unit.code.clone();
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(code, hosted);
    }
}

impl Units {
    /// Serves a unit no more.
    pub fn remove(&self, unit: &UnitCode) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(unit);
    }
}

impl Targets for Units {
    fn records(&self, unit: &UnitCode) -> Option<Arc<Records>> {
        // A unit that merges into another takes nothing in any more.
        let hosted = self.get(unit).filter(|hosted| hosted.unit.merges_into().is_none());
        hosted.map(|hosted| Arc::clone(&hosted.records))
    }

    fn catalogue(&self, unit: &UnitCode) -> Option<Arc<Catalogue>> {
        self.get(unit)?.catalogues.in_force().map(|in_force| in_force.catalogue)
    }
}

/// An error of a host operation with its kind.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct OperationError {
    /// How a caller has to react.
    pub kind: ErrorKind,
    /// What went wrong, with causes.
    pub text: String,
}

impl ServiceError for OperationError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// A unit that has joined.
#[derive(Clone, Debug)]
pub struct JoinedUnit {
    /// Code.
    pub unit: UnitCode,
    /// Title.
    pub title: String,
    /// Parent.
    pub parent: UnitCode,
    /// Level.
    pub level: Level,
    /// This host's clock minus the parent's.
    pub clock_skew_ms: i64,
    /// End of its delegation.
    pub delegation_ends_unix_ms: UnixMillis,
}

/// A token for a new child.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// The token; shown once. Empty after a dry run.
    pub token: String,
    /// When it ends.
    pub expires_unix_ms: UnixMillis,
}

/// Whom a hosted unit is to invite.
#[derive(Clone, Debug)]
pub struct InviteOrder {
    /// The hosted unit.
    pub unit: UnitCode,
    /// Its new child.
    pub child: UnitCode,
    /// Level of the child.
    pub level: Level,
    /// Title of the child.
    pub title: String,
    /// How long the token is good for; `None`: as long as usual.
    pub valid_for_ms: Option<i64>,
    /// For a root that comes with its tree: the key id of its root key.
    pub adopts: Option<String>,
    /// Check, and make no token.
    pub dry_run: bool,
    /// Who invites.
    pub by: Actor,
}

/// A hosted root that is to come under the unit that a token names.
#[derive(Clone, Debug)]
pub struct AdoptionOrder {
    /// The hosted root.
    pub unit: UnitCode,
    /// The offer.
    pub token: String,
    /// The last grant of its root key, if that is not on this host.
    pub signed: Option<Signed>,
    /// Check, and change nothing.
    pub dry_run: bool,
    /// Who accepts.
    pub by: Actor,
}

/// What a unit has after its certificates were renewed, or would have.
#[derive(Clone, Debug)]
pub struct RenewedUnit {
    /// Code.
    pub unit: UnitCode,
    /// End of the certificate that it showed its parent so far, or else its children.
    pub certificate_ended_unix_ms: UnixMillis,
    /// End of the new one; the same if nothing was changed.
    pub certificate_ends_unix_ms: UnixMillis,
    /// End of its delegation.
    pub delegation_ends_unix_ms: UnixMillis,
}

/// What is told of the host.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Name for operators.
    pub host: String,
    /// When the process began.
    pub started_unix_ms: UnixMillis,
    /// Address that children dial.
    pub link_address: Option<String>,
}

/// What changes which units the host serves; implemented where the host is put together.
#[async_trait]
pub trait Operations: Send + Sync + 'static {
    /// Joins a unit under the parent that the token names, and serves it.
    async fn join(
        &self,
        token: &str,
        by: Actor,
        dry_run: bool,
    ) -> Result<JoinedUnit, OperationError>;

    /// Brings a hosted root with its tree under the unit that a token names.
    async fn adopt(&self, order: AdoptionOrder) -> Result<JoinedUnit, OperationError>;

    /// Makes a token for a child of a hosted unit.
    async fn invite(&self, order: InviteOrder) -> Result<Invitation, OperationError>;

    /// Renews the certificates of a hosted unit now, whether or not it is time.
    async fn renew(&self, unit: &UnitCode, dry_run: bool) -> Result<RenewedUnit, OperationError>;

    /// Begins to change keys of a hosted unit, or says what would be changed.
    async fn rotate(
        &self,
        unit: &UnitCode,
        replaced: &[Replaced],
        by: Actor,
        dry_run: bool,
    ) -> Result<Progress, OperationError>;

    /// How far the change of a hosted unit's keys is; `None`: there is none.
    async fn rotation(&self, unit: &UnitCode) -> Result<Option<Progress>, OperationError>;

    /// Lets a child of a hosted unit in once that is past its recovery budget. Returns until when.
    async fn recover(
        &self,
        unit: &UnitCode,
        child: &UnitCode,
        by: Actor,
        dry_run: bool,
    ) -> Result<UnixMillis, OperationError>;

    /// Children of a hosted unit that recovered, were refused, or are let in by a person.
    async fn recoveries(&self, unit: &UnitCode) -> Result<Vec<ChildRecovery>, OperationError>;

    /// Directory of the keys of a desk.
    fn desk_keys_directory(&self, unit: &UnitCode, desk: &str) -> Place;

    /// End of the certificate that a unit shows its parent, or else its children.
    fn certificate_ends(&self, unit: &UnitCode) -> Option<UnixMillis>;

    /// What is told of the host.
    fn facts(&self) -> HostFacts;
}
