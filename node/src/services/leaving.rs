//! Units that leave the tree: by themselves, or because their parent says that they are gone.
//!
//! Promises that a unit leaves with nothing unsent, that the end is dated, signed and known to every
//! node, that what it said before stays verifiable, and that it is expected to report no longer.
//! Every step can be repeated. Must not decide what becomes of open items: it lists them.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    error::{ErrorKind, ServiceError},
    escalations::State,
    exchange::Lane,
    hosted::Hosted,
    intake::{Arrived, Plan, Refused, Undecided},
    notices,
    revocations::{self, Order},
    unit::{self, Draft, Part, Unit},
};
use crate::{
    domain::{
        journal::{Act, Actor, Leaf},
        notice::Stage,
        revocation::Reason,
        unit::UnitCode,
    },
    identity::trust::KnownRevocation,
    statement::{
        delegation::text,
        header::{Malformed, StatementId, kinds},
        leave::{Leave, decode_body, encode_body},
    },
    store::{self, Table},
};

/// Name of the act in the journal.
const ACT: &str = "node.leave";

/// Key of the row in [`Table::Meta`] that says that the unit announced its leaving.
const KEY: &[u8] = b"leave";

/// Why a unit does not leave.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has nobody to leave.
    #[error("{0} is the root of its tree and has nobody to leave")]
    Root(UnitCode),
    /// Units below it would hang in the air.
    #[error("{unit} still has {children} below it; let them leave first, or move them")]
    Children {
        /// The unit.
        unit: UnitCode,
        /// Those below.
        children: String,
    },
    /// The unit to be let go is no child.
    #[error("{child} is no child of {unit}; name the unit right above it with --unit")]
    NoChild {
        /// Unit that was named.
        child: UnitCode,
        /// Unit that would let it go.
        unit: UnitCode,
    },
    /// A text is out of bounds.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The statement could not be made.
    #[error("cannot announce the leaving")]
    Unit(#[from] unit::Error),
    /// The revocation was refused.
    #[error(transparent)]
    Revoke(#[from] revocations::Error),
    /// The open items could not be read.
    #[error("cannot list the open items: {0}")]
    Items(String),
    /// The store failed.
    #[error("cannot store the leaving")]
    Store(#[from] store::Error),
}

impl Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Root(_) => "root",
            Self::Children { .. } => "children",
            Self::NoChild { .. } => "no-child",
            Self::Malformed(_) => "malformed",
            Self::Revoke(_) => "refused",
            Self::Unit(_) | Self::Items(_) | Self::Store(_) => "failed",
        }
    }
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Root(_) | Self::Children { .. } => ErrorKind::FailedPrecondition,
            Self::NoChild { .. } => ErrorKind::NotFound,
            Self::Malformed(_) => ErrorKind::InvalidArgument,
            Self::Revoke(error) => error.kind(),
            Self::Unit(_) | Self::Items(_) => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
        }
    }
}

/// What is open when a unit leaves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OpenItem {
    /// `notice` or `escalation`.
    pub kind: &'static str,
    /// Its statement.
    pub id: StatementId,
    /// Number that people say.
    pub number: String,
    /// The other side: who issued it, who is called, or who raised it.
    pub party: UnitCode,
}

/// How far a unit is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// Statements wait to be sent first.
    Draining,
    /// The parent has yet to answer.
    Announced,
    /// It has left.
    Left,
}

/// How a unit stands that leaves.
#[derive(Clone, Debug)]
pub struct Leaving {
    /// The unit.
    pub unit: UnitCode,
    /// Its parent.
    pub parent: UnitCode,
    /// How far it is.
    pub progress: Progress,
    /// Statements that wait.
    pub unsent: u64,
    /// What is open.
    pub open: Vec<OpenItem>,
}

/// Lets a hosted unit leave, one step at a time: the caller asks again until it has left.
///
/// # Errors
///
/// [`Error::Root`], [`Error::Children`], [`Error::Malformed`], [`Error::Store`].
pub async fn leave(
    hosted: &Arc<Hosted>,
    by: Actor,
    words: String,
    dry_run: bool,
) -> Result<Leaving, Error> {
    match try_leave(hosted, &by, words, dry_run).await {
        Ok(leaving) => Ok(leaving),
        Err(error) => {
            let unit = &hosted.unit;
            unit.record(Act::refused(by, ACT, unit.code.as_str(), error.reason())).await?;
            Err(error)
        }
    }
}

async fn try_leave(
    hosted: &Arc<Hosted>,
    by: &Actor,
    words: String,
    dry_run: bool,
) -> Result<Leaving, Error> {
    let unit = &hosted.unit;
    let parent = unit.parent().ok_or_else(|| Error::Root(unit.code.clone()))?;
    let words = text("text", words)?;
    let below: Vec<String> = {
        let trust = unit.trust();
        let children = trust.children(&unit.code).into_iter();
        children
            .filter(|child| trust.revoked(child, None).is_none())
            .map(ToString::to_string)
            .collect()
    };
    if !below.is_empty() {
        return Err(Error::Children { unit: unit.code.clone(), children: below.join(", ") });
    }
    let unsent = unit.outbox_state().await?.waiting();
    let announced = is_announced(unit).await?;
    let progress = match () {
        () if unit.trust().has_left(&unit.code) => Progress::Left,
        () if announced => Progress::Announced,
        () => Progress::Draining,
    };
    let open = open_items(hosted, None).await?;
    let leaving = Leaving { unit: unit.code.clone(), parent, progress, unsent, open };
    if dry_run || progress != Progress::Draining || unsent > 0 {
        return Ok(leaving);
    }
    announce(unit, by, &leaving.parent, words).await?;
    Ok(Leaving { progress: Progress::Announced, unsent: 1, ..leaving })
}

/// True if the unit has said its last word.
///
/// # Errors
///
/// The store's.
pub(super) async fn is_announced(unit: &Unit) -> Result<bool, store::Error> {
    Ok(unit.store.get(&unit.code, Table::Meta, KEY).await?.is_some())
}

/// One batch: the statement, its place in the outbox, the mark and the act.
///
/// # Errors
///
/// [`Error::Malformed`], [`Error::Unit`], [`Error::Store`].
pub(super) async fn announce(
    unit: &Arc<Unit>,
    by: &Actor,
    parent: &UnitCode,
    text: String,
) -> Result<(), Error> {
    let leave = Leave { trust_domain: unit.trust_domain.clone(), unit: unit.code.clone(), text };
    let draft = Draft::new(kinds::LEAVE, unit.code.as_str(), encode_body(&leave));
    let mut work = unit.begin().await;
    let signed = work.sign(&draft)?;
    work.enqueue(parent, Lane::Summary, signed.id);
    work.batch.put(Table::Meta, KEY, [&[1][..], signed.id.as_bytes()].concat());
    work.journal(&Leaf::Act(Act::done(by.clone(), ACT, unit.code.as_str())));
    Ok(work.commit().await?)
}

/// Takes the last statement of a child: it ends here and everywhere, before it is acknowledged.
///
/// # Errors
///
/// [`Undecided::Refused`] for any but the child's own, [`Undecided::Store`].
pub(super) async fn take(hosted: &Hosted, arrived: &Arrived) -> Result<Plan, Undecided> {
    let leave = decode_body(&arrived.statement.body)?;
    let unit = &hosted.unit;
    if leave.trust_domain != unit.trust_domain {
        return Err(Refused::new("wrong-domain", "body.trust_domain", "of another city").into());
    }
    let own = leave.unit == *arrived.source() && leave.unit == arrived.peer && arrived.from_child;
    if !own || arrived.desk.is_some() {
        let detail = format!("{} does not leave by a word of {}", leave.unit, arrived.source());
        return Err(Refused::new("wrong-source", "body.unit", detail).into());
    }
    match end(hosted, &Actor::unit(&leave.unit), leave.unit.clone(), leave.text).await {
        Ok(()) => Ok(Plan::default()),
        Err(Error::Store(error)) => Err(error.into()),
        Err(error) => Err(Refused::new("malformed", "body", error.to_string()).into()),
    }
}

/// Revokes a child as closed, once, and drops what waits for it.
async fn end(hosted: &Hosted, by: &Actor, child: UnitCode, text: String) -> Result<(), Error> {
    if !hosted.unit.trust().has_left(&child) {
        let order = Order {
            unit: child.clone(),
            desk: None,
            key_id: None,
            compromised_since_unix_ms: None,
            reason: Reason::Closed,
            text,
        };
        revocations::revoke(hosted, by, order, false).await?;
        tracing::info!(unit = %hosted.unit.code, %child, "child left");
    }
    if hosted.unit.trust().merged_into(&child) == Some(&hosted.unit.code) {
        // What waits for it is this unit's to take in.
        hosted.reforms.look_again();
        return Ok(());
    }
    Ok(hosted.unit.forget_outbox(&child).await?)
}

/// A unit that learns that it has left waits to send nothing any more.
///
/// # Errors
///
/// The store's.
pub(super) async fn follow(
    hosted: &Hosted,
    learned: &[KnownRevocation],
) -> Result<(), store::Error> {
    let unit = &hosted.unit;
    let about_this = learned.iter().any(|known| known.revocation.unit == unit.code);
    match &unit.parent() {
        Some(parent) if about_this && unit.trust().has_left(&unit.code) => {
            unit.forget_outbox(parent).await
        }
        _ => Ok(()),
    }
}

/// Lets a child go that is no more; with `dry_run` lists what is open with its subtree.
///
/// # Errors
///
/// [`Error::NoChild`], [`Error::Revoke`], [`Error::Store`].
pub async fn let_go(
    hosted: &Arc<Hosted>,
    by: Actor,
    child: UnitCode,
    text: String,
    dry_run: bool,
) -> Result<Leaving, Error> {
    let unit = &hosted.unit;
    if unit.trust().parent(&child) != Some(&unit.code) {
        let error = Error::NoChild { child: child.clone(), unit: unit.code.clone() };
        unit.record(Act::refused(by, ACT, child.as_str(), error.reason())).await?;
        return Err(error);
    }
    let open = open_items(hosted, Some(&child)).await?;
    let unsent = unit.waiting_for(&child).await?;
    if !dry_run {
        end(hosted, &by, child.clone(), text).await?;
        unit.record(Act::done(by, ACT, child.as_str())).await?;
    }
    let progress = if unit.trust().has_left(&child) { Progress::Left } else { Progress::Draining };
    Ok(Leaving { unit: child, parent: unit.code.clone(), progress, unsent, open })
}

/// Open notices and escalations of the unit, or those with the subtree of `with`.
///
/// # Errors
///
/// [`Error::Items`].
pub async fn open_items(hosted: &Hosted, with: Option<&UnitCode>) -> Result<Vec<OpenItem>, Error> {
    let failed = |error: &dyn std::error::Error| Error::Items(error.to_string());
    let (notices, cases) = (hosted.notices.list().await, hosted.escalations.list().await);
    let notices = notices.map_err(|error| failed(&error))?;
    let cases = cases.map_err(|error| failed(&error))?;
    let parts = parts_of(hosted, &notices, &cases).await.map_err(|error| failed(&error))?;
    let trust = hosted.unit.trust();
    let within = |unit: &UnitCode, head: &UnitCode| trust.is_in_subtree(unit, head);
    let mut open = Vec::new();
    for notice in notices {
        let head = with.unwrap_or(&hosted.unit.code);
        let part = parts.get(&notice.id);
        let is_handed = |unit: &UnitCode| part.is_some_and(|part| part.of == *unit);
        let acts = |unit: &UnitCode| match with {
            None if is_handed(unit) => !is_handed(head),
            None | Some(_) => within(unit, head),
        };
        let waits = notice.recipients.iter().any(|recipient| {
            acts(&recipient.unit) && !matches!(recipient.stage, Some(Stage::Done | Stage::Refused))
        });
        if waits {
            let (id, number, party) = (notice.id, notice.number, notice.issuer);
            open.push(OpenItem { kind: "notice", id, number, party });
        }
    }
    // A case that is sealed for others is theirs to close.
    let is_open = |state: &State| state.case.as_ref().is_some_and(|case| !case.is_final());
    for case in cases.into_iter().filter(is_open) {
        let part = parts.get(&case.id);
        let party = match with {
            None if part.is_some_and(|part| part.of == hosted.unit.code) => continue,
            None if part.is_some() || case.source == hosted.unit.code => case.destination,
            None => case.source,
            Some(head) if within(&case.source, head) => case.source,
            Some(_) => continue,
        };
        open.push(OpenItem { kind: "escalation", id: case.id, number: case.number, party });
    }
    Ok(open)
}

/// Those of the items that went from here to another unit, or came from one.
async fn parts_of(
    hosted: &Hosted,
    notices: &[notices::State],
    cases: &[State],
) -> Result<BTreeMap<StatementId, Part>, store::Error> {
    let ids = notices.iter().map(|notice| notice.id).chain(cases.iter().map(|case| case.id));
    let mut parts = BTreeMap::new();
    for id in ids {
        if let Some(part) = hosted.unit.part(id).await? {
            parts.insert(id, part);
        }
    }
    Ok(parts)
}
