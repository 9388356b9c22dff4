//! Ending grants and keys before their time, and what follows here when one ends.
//!
//! Promises that a revocation is durable before it is told, that the link of a child that was
//! revoked is closed at once, and that every revocation goes on to every other linked unit: the
//! link sends what the other side does not have, ahead of everything else.

use super::{
    error::{ErrorKind, ServiceError},
    exchange::Refusal,
    hosted::Hosted,
    intake::Refused,
    leaving, quarantine,
    unit::RevocationError,
};
use crate::{
    clock::UnixMillis,
    domain::{
        journal::{Act, Actor},
        revocation::{Reason, Revocation},
        unit::{DeskId, UnitCode},
    },
    identity::{
        issue,
        trust::{KnownRevocation, Trust},
    },
    statement::{
        delegation::text,
        header::Malformed,
        rejection,
        revocation::{MAX_KEYS, Proven},
    },
    store,
};

/// Why nothing was revoked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody of that code is known.
    #[error("{0} is not known here; list the units with `lianxi node units`")]
    Unknown(String),
    /// It is not below the unit that would revoke.
    #[error(
        "{unit} is not below {by}; a unit revokes what is below it, and the root key what the root itself holds"
    )]
    NotBelow {
        /// Unit that was to be revoked.
        unit: UnitCode,
        /// Unit that would revoke.
        by: UnitCode,
    },
    /// It has no such key.
    #[error("{holder} has no key {key_id}; it has {known}")]
    NoSuchKey {
        /// Unit or desk.
        holder: String,
        /// Key that was asked for.
        key_id: String,
        /// Its keys.
        known: String,
    },
    /// It was revoked before.
    #[error("{holder} was revoked already, by {by}; to let it in again, invite it")]
    Already {
        /// Unit or desk.
        holder: String,
        /// Unit that revoked it.
        by: UnitCode,
    },
    /// The theft would lie ahead.
    #[error(
        "compromised-since lies in the future; give the time from when on the keys may have been in other hands"
    )]
    Future,
    /// A text is out of bounds.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// What was signed would not be believed: the unit's own keys or chain do not hold.
    #[error("the revocation would not hold: {0}")]
    Refused(String),
    /// The store failed; nothing was revoked.
    #[error("cannot store the revocation")]
    Store(#[from] store::Error),
}

impl Error {
    /// Word of the journal.
    fn reason(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown-unit",
            Self::NotBelow { .. } => "outside-subtree",
            Self::NoSuchKey { .. } => "unknown-key",
            Self::Already { .. } => "revoked",
            Self::Future | Self::Malformed(_) => "malformed",
            Self::Refused(_) => "refused",
            Self::Store(_) => "store",
        }
    }
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown(_) | Self::NoSuchKey { .. } => ErrorKind::NotFound,
            Self::NotBelow { .. } => ErrorKind::PermissionDenied,
            Self::Already { .. } => ErrorKind::AlreadyExists,
            Self::Future | Self::Malformed(_) => ErrorKind::InvalidArgument,
            Self::Refused(_) => ErrorKind::FailedPrecondition,
            Self::Store(error) => error.kind(),
        }
    }
}

impl From<RevocationError> for Error {
    fn from(error: RevocationError) -> Self {
        match error {
            RevocationError::Refused { error, .. } => Self::Refused(error.to_string()),
            RevocationError::Store(error) => Self::Store(error),
        }
    }
}

/// What is to be revoked.
#[derive(Clone, Debug)]
pub struct Order {
    /// The unit, or the unit of the desk.
    pub unit: UnitCode,
    /// The desk; `None`: the unit itself, with its desks.
    pub desk: Option<DeskId>,
    /// One key alone; `None`: the whole grant with all its keys.
    pub key_id: Option<String>,
    /// From when on the keys may have been in other hands.
    pub compromised_since_unix_ms: Option<UnixMillis>,
    /// Why.
    pub reason: Reason,
    /// For people.
    pub text: String,
}

/// What was revoked, or would be.
#[derive(Clone, Debug)]
pub struct Revoked {
    /// What ends.
    pub revocation: Revocation,
    /// Unit that revokes.
    pub by: UnitCode,
    /// True if its link to the revoking unit was open.
    pub was_linked: bool,
    /// Units below it: they cannot be reached until it joins again or they get another parent.
    pub below: Vec<UnitCode>,
}

/// Revokes in the name of `hosted`; with `dry_run` says what would end.
///
/// # Errors
///
/// [`Error`]; nothing was revoked.
pub async fn revoke(
    hosted: &Hosted,
    actor: &Actor,
    order: Order,
    dry_run: bool,
) -> Result<Revoked, Error> {
    let now = hosted.unit.clock.now_unix_ms();
    let by = hosted.unit.code.clone();
    let subject = order.unit.to_string();
    let planned = {
        let trust = hosted.unit.trust();
        plan(&trust, &by, order, now).map(|revocation| {
            let below = trust.units_below(&revocation.unit);
            let newest = trust.delegation(&revocation.unit, None);
            let place = newest.filter(|one| one.order.is_some());
            let place = place.filter(|one| one.delegation.issuer.as_ref() == Some(&by));
            (revocation, below, trust.chain(&by), place.map(|place| place.envelope.clone()))
        })
    };
    let (revocation, below, chain, place) = match planned {
        Ok(planned) => planned,
        Err(error) => {
            let act = Act::refused(actor.clone(), "node.revoke", subject, error.reason());
            hosted.unit.record(act).await?;
            return Err(error);
        }
    };
    let was_linked = hosted.linked_children().contains(&revocation.unit);
    let revoked = Revoked { revocation, by, was_linked, below };
    if dry_run {
        return Ok(revoked);
    }
    let keys = hosted.unit.keys();
    let signer = &keys.delegation;
    let envelope = issue::sign_revocation(&revoked.revocation, &revoked.by, signer, now);
    let proven = Proven { revocation: envelope, chain, place };
    let learned = hosted.unit.learn_revocations(actor, &[proven]).await?;
    apply(hosted, &learned);
    Ok(revoked)
}

fn plan(trust: &Trust, by: &UnitCode, order: Order, now: UnixMillis) -> Result<Revocation, Error> {
    let (unit, desk) = (order.unit, order.desk);
    let holder = match &desk {
        None => unit.to_string(),
        Some(desk) => format!("desk {desk} of {unit}"),
    };
    let newest = trust.delegation(&unit, desk.as_ref());
    let newest = newest.ok_or_else(|| Error::Unknown(holder.clone()))?;
    if (unit == *by && desk.is_none()) || !trust.is_in_subtree(&unit, by) {
        return Err(Error::NotBelow { unit, by: by.clone() });
    }
    if order.compromised_since_unix_ms.is_some_and(|since| since > now) {
        return Err(Error::Future);
    }
    let known = trust.key_ids(&unit, desk.as_ref());
    let (key_ids, serial) = match order.key_id {
        Some(key_id) if known.contains(&key_id) => (vec![key_id], 0),
        Some(key_id) => {
            return Err(Error::NoSuchKey { holder, key_id, known: known.join(", ") });
        }
        None => {
            if let Some(earlier) = trust.revoked(&unit, desk.as_ref()) {
                return Err(Error::Already { holder, by: earlier.by.clone() });
            }
            (known.into_iter().take(MAX_KEYS).collect(), newest.delegation.serial)
        }
    };
    Ok(Revocation {
        trust_domain: trust.trust_domain().to_owned(),
        unit,
        desk,
        key_ids,
        serial,
        compromised_since_unix_ms: order.compromised_since_unix_ms,
        reason: order.reason,
        text: text("text", order.text)?,
    })
}

/// Takes in what `peer` passes on. What does not hold is quarantined, and its sender is told.
///
/// # Errors
///
/// The store's.
pub(super) async fn take(
    hosted: &Hosted,
    peer: &UnitCode,
    items: Vec<Proven>,
) -> Result<(), store::Error> {
    for item in items {
        match hosted.unit.learn_revocations(&Actor::unit(peer), &[item]).await {
            Ok(learned) => {
                apply(hosted, &learned);
                leaving::follow(hosted, &learned).await?;
            }
            Err(RevocationError::Store(error)) => return Err(error),
            Err(RevocationError::Refused { envelope, error, .. }) => {
                let refused = Refused::new(error.reason(), error.field(), error.to_string());
                let kept = rejection::Refused { envelope, cells: Vec::new(), evidence: None };
                let plan = quarantine::refuse_once(&hosted.unit, peer, &kept, &refused).await?;
                let mut work = hosted.unit.begin().await;
                for (table, key, value) in plan.writes {
                    work.batch.put(table, key, value);
                }
                for leaf in &plan.leaves {
                    work.journal(leaf);
                }
                for reply in &plan.replies {
                    let signed = work.sign(&reply.draft).map_err(|error| {
                        store::Error::Engine(format!("cannot sign a reply: {error}"))
                    })?;
                    work.enqueue(&reply.to, reply.lane, signed.id);
                }
                work.commit().await?;
            }
        }
    }
    Ok(())
}

/// What follows at once: the link of a direct child that may no longer link is closed.
fn apply(hosted: &Hosted, learned: &[KnownRevocation]) {
    let own = &hosted.unit.code;
    for known in learned {
        let Revocation { unit, reason, text, .. } = &known.revocation;
        tracing::warn!(
            unit = %own, revoked = %unit, desk = ?known.revocation.desk, by = %known.by,
            reason = reason.as_str(), text, "revocation taken in"
        );
        let refusal = {
            let trust = hosted.unit.trust();
            let is_child = trust.parent(unit) == Some(own);
            trust.revoked(unit, None).filter(|_| is_child).map(refusal)
        };
        if let Some(refusal) = refusal {
            hosted.downlinks.close(unit, refusal, vec![known.proven.clone()]);
        }
    }
}

/// What a revoked unit is told.
pub(super) fn refusal(known: &KnownRevocation) -> Refusal {
    Refusal { reason: "revoked", detail: remedy(known) }
}

/// Who revoked what and why, and the way back.
pub fn remedy(known: &KnownRevocation) -> String {
    let Revocation { unit, reason, text, .. } = &known.revocation;
    let words = if text.is_empty() { String::new() } else { format!(" ({text})") };
    format!(
        "{unit} was revoked by {}: {}{words}; ask its parent for an invitation, and join again with new keys",
        known.by,
        reason.as_str()
    )
}
