//! Desks of a unit: each has keys of its own, delegated by the unit itself.

mod closing;

pub use self::closing::{Closing, Order, carry_on, close};

use std::sync::Arc;

use super::{
    error::{ErrorKind, ServiceError},
    escalations, revocations,
    unit::{LearnError, Unit},
};
use crate::{
    domain::{
        delegation::{Delegation, KeyChange},
        journal::{Act, Actor},
        unit::{DeskId, UnitCode},
    },
    identity::{
        issue,
        keys::{self, DeskKeys, Place},
    },
    store,
};

/// Name of the act in the journal.
const ACT: &str = "desk.add";

/// Why a desk was not added.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The desk is there.
    #[error("unit {unit} already has a desk {desk}")]
    Exists {
        /// The unit.
        unit: UnitCode,
        /// The desk.
        desk: DeskId,
    },
    /// Its keys could not be made or kept.
    #[error("cannot keep the keys of the desk")]
    Keys(#[from] keys::Error),
    /// The delegation was not taken in.
    #[error("cannot delegate to the desk")]
    Learn(#[from] LearnError),
    /// The store failed.
    #[error("cannot journal the desk")]
    Store(#[from] store::Error),
    /// There is no such desk.
    #[error("unit {unit} has no desk {desk}; add it with `lianxi desk add`")]
    Unknown {
        /// The unit.
        unit: UnitCode,
        /// The desk.
        desk: DeskId,
    },
    /// Nobody takes over from himself.
    #[error("desk {0} cannot take over from itself; name another one")]
    Itself(DeskId),
    /// The day is over.
    #[error("{0} is over; name today or a later day")]
    Backdated(jiff::civil::Date),
    /// A case was not handed over.
    #[error("cannot hand a case over; give the command again")]
    Case(#[from] escalations::Error),
    /// The grant of the desk was not ended.
    #[error(transparent)]
    Revoke(#[from] revocations::Error),
    /// The unit's own delegation is missing.
    #[error("unit {0} has no delegation of its own")]
    NoDelegation(UnitCode),
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Exists { .. } => ErrorKind::AlreadyExists,
            Self::Unknown { .. } => ErrorKind::NotFound,
            Self::Itself(_) | Self::Backdated(_) => ErrorKind::InvalidArgument,
            Self::Case(error) => error.kind(),
            Self::Revoke(error) => error.kind(),
            Self::Learn(LearnError::Store(error)) | Self::Store(error) => error.kind(),
            Self::Keys(_) | Self::Learn(_) | Self::NoDelegation(_) => ErrorKind::Internal,
        }
    }
}

/// Adds a desk to `unit`: its keys are kept in `keys` first, then the delegation is signed.
///
/// # Errors
///
/// [`Error::Exists`], or what kept keys or delegation from being stored.
pub async fn add(
    unit: &Arc<Unit>,
    keys: &Place,
    desk: DeskId,
    title: String,
    line: String,
    by: Actor,
) -> Result<Delegation, Error> {
    let exists = unit.trust().delegation(&unit.code, Some(&desk)).is_some();
    if exists {
        unit.record(Act::refused(by, ACT, desk.as_str(), "exists")).await?;
        return Err(Error::Exists { unit: unit.code.clone(), desk });
    }
    let own = {
        let trust = unit.trust();
        let known = trust.delegation(&unit.code, None);
        known.ok_or_else(|| Error::NoDelegation(unit.code.clone()))?.delegation.clone()
    };
    // Keys that a crash left behind are used: they are nobody else's.
    let keys = match DeskKeys::load(keys.clone()) {
        Err(keys::Error::Missing(_)) => {
            let made = DeskKeys::generate(unit.keys().suite());
            made.save(keys.clone())?;
            made
        }
        loaded => loaded?,
    };
    let now = unit.clock.now_unix_ms();
    let delegation = Delegation {
        issuer: Some(unit.code.clone()),
        not_before_unix_ms: now,
        keys: keys.public_keys(),
        ca_sha256: None,
        desk: Some(desk.clone()),
        line,
        title,
        serial: 1,
        accepted_suites: Vec::new(),
        change: KeyChange::default(),
        reform: None,
        ..own
    };
    let signed = issue::sign(&delegation, &unit.keys().delegation, now);
    // First: an act that is not done may stand there, none that is done may be missing.
    unit.record(Act::done(by, ACT, desk.as_str())).await?;
    unit.learn(&[signed]).await?;
    unit.add_desk(desk, keys);
    Ok(delegation)
}
