//! One hosted unit: its keys, trust and counters, and the only way to sign and send.
//!
//! A statement, the state that it changes and its place in the outbox are one batch ([`Work`]):
//! either all of it is durable or nothing. Nothing here knows what a statement means.

mod addresses;
mod again;
mod changing;
mod epoch;
mod fan_out;
mod granting;
mod heirs;
mod moving;
mod outbox;
mod parts;
mod refusals;
mod roster;
mod sealing;

use self::{
    addresses::Addresses,
    outbox::{Added, LaneEnd, Queued},
    roster::Rosters,
};
pub use self::{
    epoch::{FinalReceipts, Redelivered, Removed, Withdrawn},
    outbox::{Budgets, LaneState, OutboxState},
    parts::Part,
    sealing::{Given, ReadError, Seal},
};

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use lianxi_proto::envelope::{self, STATEMENT_TYPE, Signer};
use prost::Message;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::{
    enrolments::{Grantor, put_delegation, put_revocation},
    exchange::Lane,
    quarantine,
};
use crate::{
    clock::{Clock, UnixMillis},
    domain::{
        delegation::PublicKey,
        epoch::Number,
        journal::{self, Act, Actor, Leaf},
        quarantine::Ledger,
        refusals::Window,
        unit::{DeskId, Level, UnitCode},
    },
    identity::{
        keys::{AgreementKey, DeskKeys, UnitKeys},
        sealed::{self, KeyRing},
        trust::{self, Checked, KnownRevocation, Trust},
    },
    statement::{
        Envelope, SaltedCell,
        header::{self, Classification, Header, StatementId},
        revocation::Proven,
    },
    store::{self, Batch, Commit, LeafNumber, Store, Table},
    telemetry::{Metrics, current_traceparent, set_parent_from},
    watch,
};

/// Serialised bytes of cells per stored row: below the store's limit for values.
const CELL_CHUNK_BYTES: usize = 48 * 1024;

/// Format of outbox rows, lane counters and statements.
const FORMAT: u8 = 1;

/// Format of statements with the index of their leaf in the journal.
const INDEXED_FORMAT: u8 = 2;

const INDEX_BYTES: usize = 8;

/// Why a statement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed; nothing was written.
    #[error("cannot store")]
    Store(#[from] store::Error),
    /// The body is larger than an envelope may be.
    #[error("the statement has {0} bytes, more than an envelope holds")]
    TooLarge(usize),
    /// The unit has no such desk.
    #[error("unit has no desk {0}; add it with `lianxi desk add`")]
    NoDesk(DeskId),
    /// The body could not be sealed.
    #[error("cannot seal the body")]
    Seal(#[from] sealed::Error),
}

/// A statement that is to be signed.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Type, one of [`header::kinds`].
    pub kind: &'static str,
    /// What it is about.
    pub subject: String,
    /// Catalogue that the body was made under, or empty.
    pub dataschema: String,
    /// Why it may be used.
    pub purpose: &'static str,
    /// True for an exercise.
    pub exercise: bool,
    /// Unit that it is for; `None`: the next hop.
    pub destination: Option<UnitCode>,
    /// Desk that signs instead of the unit.
    pub desk: Option<DeskId>,
    /// Unit that merged into this one, or from which this one has an item, in whose place it speaks.
    pub on_behalf_of: Option<UnitCode>,
    /// Order by which it has the item; empty: none.
    pub handed_by: Bytes,
    /// Serialised body.
    pub body: Vec<u8>,
    /// Who may read it; `None`: everybody on the way.
    pub seal: Option<Seal>,
}

impl Draft {
    /// A statement of the unit itself, no exercise, for the next hop.
    pub fn new(kind: &'static str, subject: impl Into<String>, body: Vec<u8>) -> Self {
        Self {
            kind,
            subject: subject.into(),
            dataschema: String::new(),
            purpose: "joint-meeting",
            exercise: false,
            destination: None,
            desk: None,
            on_behalf_of: None,
            handed_by: Bytes::new(),
            body,
            seal: None,
        }
    }
}

/// A signed statement.
#[derive(Clone, Debug)]
pub struct Signed {
    /// Its id.
    pub id: StatementId,
    /// Its time.
    pub time_unix_ms: UnixMillis,
    /// As it was signed.
    pub envelope: Envelope,
    /// Digest of its payload.
    pub payload_sha256: [u8; 32],
}

#[derive(Clone, Debug)]
struct Counters {
    epoch: u64,
    seq: u64,
    link_epoch: u64,
    lanes: HashMap<(UnitCode, Lane), LaneEnd>,
}

/// What a [`Unit`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// Code.
    pub code: UnitCode,
    /// Level.
    pub level: Level,
    /// Parent; `None` at the root.
    pub parent: Option<UnitCode>,
    /// Trust domain.
    pub trust_domain: String,
    /// Private keys.
    pub keys: UnitKeys,
    /// Agreement keys that it had before: bodies that were sealed to them are still read.
    pub former: Vec<AgreementKey>,
    /// Private keys of desks.
    pub desks: BTreeMap<DeskId, DeskKeys>,
    /// What the unit believes.
    pub trust: Trust,
    /// Bytes that may wait in its lanes.
    pub budgets: Budgets,
}

/// What came of some delegations.
struct Lesson<'a> {
    batch: Batch,
    /// Units whose delegations are new.
    learned: Vec<UnitCode>,
    /// Those that may hold once others are believed.
    later: Vec<&'a Envelope>,
    failure: Option<LearnError>,
}

impl Lesson<'_> {
    fn new(unit: &UnitCode) -> Self {
        Self { batch: Batch::new(unit), learned: Vec::new(), later: Vec::new(), failure: None }
    }
}

/// One hosted unit.
pub struct Unit {
    /// Code.
    pub code: UnitCode,
    /// Level.
    pub level: Level,
    /// Trust domain.
    pub trust_domain: String,
    /// The store of its host.
    pub store: Arc<dyn Store>,
    /// The host's clock.
    pub clock: Arc<dyn Clock>,
    /// The host's metrics.
    pub metrics: Metrics,
    keys: RwLock<Arc<UnitKeys>>,
    /// Keys that are to replace the unit's: a grant may name them.
    next_keys: RwLock<Vec<PublicKey>>,
    desks: RwLock<BTreeMap<DeskId, Signer>>,
    ring: RwLock<KeyRing>,
    trust: RwLock<Trust>,
    epoch: AtomicU64,
    link_epoch: AtomicU64,
    /// Changes when peers have to be greeted anew.
    standing: watch::Sender<u64>,
    counters: Arc<AsyncMutex<Counters>>,
    outboxes: Mutex<HashMap<UnitCode, watch::Sender<u64>>>,
    budgets: Budgets,
    queued: Queued,
    rosters: Rosters,
    parent: RwLock<Option<UnitCode>>,
    /// Refusals of this minute that strangers caused.
    refusals: Mutex<Window>,
    addresses: RwLock<Addresses>,
    /// What waits in the quarantine.
    quarantine: Mutex<Ledger>,
}

impl std::fmt::Debug for Unit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Unit").field("code", &self.code).finish_non_exhaustive()
    }
}

impl Unit {
    /// Opens a unit; at the first time its epoch and its outbox begin.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn open(
        parts: Parts,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Arc<Self>, store::Error> {
        let counters = load_counters(store.as_ref(), &parts.code).await?;
        let quarantine = quarantine::ledger(store.as_ref(), &parts.code).await?;
        let mut ring = KeyRing::default();
        ring.add(AgreementKey::from_bytes(parts.keys.agreement.private_bytes()));
        parts.former.into_iter().for_each(|key| ring.add(key));
        let mut desks = BTreeMap::new();
        for (desk, keys) in parts.desks {
            keys.agreement.into_iter().for_each(|key| ring.add(key));
            desks.insert(desk, keys.statement);
        }
        let unit = Arc::new(Self {
            code: parts.code,
            level: parts.level,
            trust_domain: parts.trust_domain,
            store,
            clock,
            metrics,
            keys: RwLock::new(Arc::new(parts.keys)),
            next_keys: RwLock::default(),
            desks: RwLock::new(desks),
            ring: RwLock::new(ring),
            trust: RwLock::new(parts.trust),
            epoch: AtomicU64::new(counters.epoch),
            link_epoch: AtomicU64::new(counters.link_epoch),
            standing: watch::Sender::new(0),
            counters: Arc::new(AsyncMutex::new(counters)),
            outboxes: Mutex::default(),
            budgets: parts.budgets,
            queued: Queued::default(),
            rosters: Rosters::default(),
            parent: RwLock::new(parts.parent),
            refusals: Mutex::default(),
            addresses: RwLock::default(),
            quarantine: Mutex::new(quarantine),
        });
        unit.take_up_readers().await?;
        for lane in unit.outbox_state().await?.lanes {
            let rows = i64::try_from(lane.waiting).unwrap_or(i64::MAX);
            unit.queued_changed(lane.lane, rows, i64::try_from(lane.bytes).unwrap_or(i64::MAX));
        }
        Ok(unit)
    }

    /// What the unit believes, for reading.
    pub fn trust(&self) -> RwLockReadGuard<'_, Trust> {
        self.trust.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits in the quarantine, counted.
    pub fn quarantine(&self) -> MutexGuard<'_, Ledger> {
        self.quarantine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The unit above; `None` at the root.
    pub fn parent(&self) -> Option<UnitCode> {
        self.parent.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From here on another unit is above: what is signed next is for it.
    pub fn move_under(&self, parent: UnitCode) {
        *self.parent.write().unwrap_or_else(PoisonError::into_inner) = Some(parent);
    }

    /// The keys that the unit uses; a change of keys gives others to the next who asks.
    pub fn keys(&self) -> Arc<UnitKeys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes verified delegations into trust and store, issuers before issued.
    ///
    /// # Errors
    ///
    /// The first delegation that does not hold, as text; those before it are kept.
    pub async fn learn(&self, delegations: &[Envelope]) -> Result<usize, LearnError> {
        self.learn_those(delegations, |_| false).await
    }

    /// As [`Unit::learn`], but passes over grants that fell with a revocation or the end of a key,
    /// and those that rested on them: they are logged, and the others are taken in.
    ///
    /// # Errors
    ///
    /// As [`Unit::learn`].
    pub async fn learn_what_stands(&self, delegations: &[Envelope]) -> Result<usize, LearnError> {
        let any_ended = self.trust().revocations().next().is_some();
        let fell = move |error: &trust::Error| {
            let itself =
                matches!(error, trust::Error::Revoked { .. } | trust::Error::EndedKey { .. });
            let rested_on_it = matches!(
                error,
                trust::Error::UnknownUnit(_)
                    | trust::Error::Envelope(envelope::Error::UnknownKey(_))
            );
            itself || (any_ended && rested_on_it)
        };
        self.learn_those(delegations, fell).await
    }

    async fn learn_those(
        &self,
        delegations: &[Envelope],
        passes_over: impl Fn(&trust::Error) -> bool,
    ) -> Result<usize, LearnError> {
        let mut learned = Vec::new();
        let mut waiting: Vec<&Envelope> = delegations.iter().collect();
        let mut defers = true;
        while !waiting.is_empty() {
            let (known, mut later) = (self.trust().roots_learned(), Vec::new());
            for chunk in waiting.chunks(200) {
                let lesson = self.learn_chunk(chunk, &passes_over, defers);
                learned.extend(lesson.learned);
                later.extend(lesson.later);
                if !lesson.batch.is_empty() {
                    self.store.submit(lesson.batch).await?;
                }
                if let Some(failure) = lesson.failure {
                    self.roster_learned(&learned);
                    return Err(failure);
                }
            }
            // A grant that names a root key can come after those that the key signed.
            defers = self.trust().roots_learned() > known;
            waiting = later;
        }
        if !learned.is_empty() {
            self.roster_learned(&learned);
        }
        Ok(learned.len())
    }

    /// Takes some delegations into trust; what is to be stored of them comes back. `defers`: those
    /// that may hold later wait.
    fn learn_chunk<'a>(
        &self,
        chunk: &[&'a Envelope],
        passes_over: &impl Fn(&trust::Error) -> bool,
        defers: bool,
    ) -> Lesson<'a> {
        let now = self.clock.now_unix_ms();
        let mut lesson = Lesson::new(&self.code);
        // A link needs them before anything else.
        lesson.batch.urgent();
        let mut trust = self.trust.write().unwrap_or_else(PoisonError::into_inner);
        for envelope in chunk {
            match trust.check(envelope, Some(now)) {
                Ok(checked) if self.names_foreign_keys(&trust, checked.known()) => {
                    tracing::error!(
                        unit = %self.code,
                        "a grant for this unit names keys that it does not have: whoever \
                         holds its parent's key may want to speak for it"
                    );
                    lesson.batch.journal(now, &Leaf::Act(foreign_grant(envelope)));
                }
                Ok(checked) if checked.is_new() => {
                    lesson.learned.push(checked.known().delegation.unit.clone());
                    put_delegation(&mut lesson.batch, checked.known(), now);
                    trust.take(checked);
                }
                Ok(_) => {}
                Err(error) if defers && error.may_hold_later() => lesson.later.push(envelope),
                Err(error) if passes_over(&error) => {
                    tracing::warn!(
                        unit = %self.code, reason = error.reason(), %error,
                        "delegation not believed"
                    );
                    lesson.batch.journal(now, &Leaf::Act(refused_grant(envelope, &error)));
                }
                Err(error) => {
                    lesson.batch.journal(now, &Leaf::Act(refused_grant(envelope, &error)));
                    lesson.failure = Some(LearnError::Refused(error.to_string()));
                    break;
                }
            }
        }
        lesson
    }

    /// Takes revocations in that prove themselves; what comes back was new. They hold from here on,
    /// and are durable when this returns.
    ///
    /// # Errors
    ///
    /// The first one that does not hold, or the store's; those before it are kept.
    pub async fn learn_revocations(
        &self,
        actor: &Actor,
        items: &[Proven],
    ) -> Result<Vec<KnownRevocation>, RevocationError> {
        let now = self.clock.now_unix_ms();
        let mut batch = Batch::new(&self.code);
        batch.urgent();
        let (mut learned, mut refused, mut placed) = (Vec::new(), None, Vec::new());
        {
            let mut trust = self.trust.write().unwrap_or_else(PoisonError::into_inner);
            for item in items {
                placed.extend(self.learn_place(&mut trust, &mut batch, item, now));
                match trust.check_revocation(item, Some(now)) {
                    Ok(known) => {
                        if trust.take_revocation(known.clone()) {
                            put_revocation(&mut batch, &known, now);
                            let subject = known.revocation.holder();
                            let act = Act::done(actor.clone(), "node.revoke", subject);
                            let act = act.about(known.payload_sha256);
                            batch.journal(now, &Leaf::Act(act));
                            learned.push(known);
                        }
                    }
                    Err(error) => {
                        refused = Some((item.revocation.clone(), error));
                        break;
                    }
                }
            }
        }
        if !batch.is_empty() {
            self.store.submit(batch).await?;
            self.rosters.wake_all();
        }
        self.roster_learned(&placed);
        match refused {
            None => Ok(learned),
            Some((envelope, error)) => Err(RevocationError::Refused { learned, envelope, error }),
        }
    }

    /// Takes in where a unit that ends stands by now. Without it its end is not believed by those who
    /// know it elsewhere; the revocation says why, if the grant does not hold.
    fn learn_place(
        &self,
        trust: &mut Trust,
        batch: &mut Batch,
        item: &Proven,
        now: UnixMillis,
    ) -> Option<UnitCode> {
        let checked = trust.check(item.place.as_ref()?, Some(now)).ok()?;
        let unit = checked.known().delegation.unit.clone();
        if !checked.is_new() || unit == self.code {
            return None;
        }
        put_delegation(batch, checked.known(), now);
        trust.take(checked);
        Some(unit)
    }

    /// Adds the keys of a desk whose delegation was learned.
    pub fn add_desk(&self, desk: DeskId, keys: DeskKeys) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        keys.agreement.into_iter().for_each(|key| ring.add(key));
        self.desks.write().unwrap_or_else(PoisonError::into_inner).insert(desk, keys.statement);
    }

    /// Changes whenever the outbox to `peer` has something new.
    pub fn outbox_changes(&self, peer: &UnitCode) -> watch::Receiver<u64> {
        self.outbox_sender(peer).subscribe()
    }

    fn outbox_sender(&self, peer: &UnitCode) -> watch::Sender<u64> {
        let mut outboxes = self.outboxes.lock().unwrap_or_else(PoisonError::into_inner);
        outboxes.entry(peer.clone()).or_insert_with(|| watch::Sender::new(0)).clone()
    }

    /// The unit's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    fn link_epoch(&self) -> u64 {
        self.link_epoch.load(Ordering::Acquire)
    }

    /// Begins a piece of work; one at a time per unit, so that numbers have no gaps.
    pub async fn begin(self: &Arc<Self>) -> Work {
        let guard = Arc::clone(&self.counters).lock_owned().await;
        let next = guard.clone();
        Work {
            batch: Batch::new(&self.code),
            unit: Arc::clone(self),
            next,
            guard,
            peers: Vec::new(),
            added: Default::default(),
            fans_out: false,
        }
    }

    /// Signs a statement that is not kept, e.g. the answer to a live pull.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], [`Error::NoDesk`].
    pub fn sign_live(&self, draft: &Draft) -> Result<Signed, Error> {
        self.sign_at(draft, self.clock.now_unix_ms())
    }

    /// Signs a statement that is not kept and names the time that something else names too.
    ///
    /// # Errors
    ///
    /// As [`Self::sign_live`].
    pub fn sign_at(&self, draft: &Draft, time_unix_ms: UnixMillis) -> Result<Signed, Error> {
        let id = StatementId::generate(time_unix_ms);
        self.sign_numbered(id, draft, (self.epoch(), 0), time_unix_ms)
    }

    fn sign_numbered(
        &self,
        id: StatementId,
        draft: &Draft,
        (epoch, seq): (u64, u64),
        time_unix_ms: UnixMillis,
    ) -> Result<Signed, Error> {
        let mut header = Header {
            id,
            source: self.code.clone(),
            kind: draft.kind.to_owned(),
            subject: draft.subject.clone(),
            time_unix_ms,
            dataschema: draft.dataschema.clone(),
            epoch,
            seq,
            purpose: draft.purpose.to_owned(),
            classification: Classification::Internal,
            exercise: draft.exercise,
            destination: draft.destination.clone(),
            traceparent: current_traceparent(),
            on_behalf_of: draft.on_behalf_of.clone(),
            sealing: None,
            handed_by: draft.handed_by.clone(),
        };
        let payload = match &draft.seal {
            None => header::encode(&header, &draft.body),
            Some(seal) => sealing::encode(&mut header, &draft.body, seal)?,
        };
        if payload.len() > envelope::MAX_PAYLOAD_BYTES {
            return Err(Error::TooLarge(payload.len()));
        }
        let envelope = match &draft.desk {
            None => envelope::sign(STATEMENT_TYPE, payload, &[&self.keys().statement]),
            Some(desk) => {
                let desks = self.desks.read().unwrap_or_else(PoisonError::into_inner);
                let signer = desks.get(desk).ok_or_else(|| Error::NoDesk(desk.clone()))?;
                envelope::sign(STATEMENT_TYPE, payload, &[signer])
            }
        };
        let payload_sha256 = envelope::payload_sha256(&envelope);
        Ok(Signed { id, time_unix_ms, envelope, payload_sha256 })
    }

    /// Returns a kept statement.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn statement(&self, id: StatementId) -> Result<Option<Envelope>, store::Error> {
        let stored = self.store.get(&self.code, Table::Statements, id.as_bytes()).await?;
        stored.map(|bytes| decode_envelope(&bytes)).transpose()
    }

    /// Returns the index of the leaf that a kept statement has in the journal; `None` also for one
    /// that was kept before there was a journal.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn leaf_of(&self, id: StatementId) -> Result<Option<u64>, store::Error> {
        let stored = self.store.get(&self.code, Table::Statements, id.as_bytes()).await?;
        Ok(stored.and_then(|bytes| match bytes.split_first() {
            Some((&INDEXED_FORMAT, rest)) => rest.first_chunk().map(|at| u64::from_be_bytes(*at)),
            Some(_) | None => None,
        }))
    }

    /// Journals an act that changes nothing else.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn record(&self, act: Act) -> Result<(), store::Error> {
        let mut batch = Batch::new(&self.code);
        batch.journal(self.clock.now_unix_ms(), &Leaf::Act(act));
        self.store.submit(batch).await
    }

    /// Returns the cells kept beside a summary.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn cells(&self, id: StatementId) -> Result<Vec<SaltedCell>, store::Error> {
        let mut cells = Vec::new();
        let chunks = self.store.scan(&self.code, Table::Cells, id.as_bytes(), None, 1_000).await?;
        for (_, chunk) in chunks {
            let mut rest = chunk.get(1..).unwrap_or_default();
            while !rest.is_empty() {
                let cell = SaltedCell::decode_length_delimited(&mut rest)
                    .map_err(|error| damaged("cells", &error))?;
                cells.push(cell);
            }
        }
        Ok(cells)
    }

    /// Puts the current span under the act that caused the kept statement, so that what follows
    /// from it is one trace. Without such a statement nothing changes.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn continue_trace(&self, id: StatementId) -> Result<(), store::Error> {
        let kept = self.statement(id).await?;
        if let Some(statement) = kept.and_then(|kept| header::decode(&kept.payload).ok()) {
            set_parent_from(&statement.header.traceparent, &tracing::Span::current());
        }
        Ok(())
    }
}

impl Grantor for Unit {
    fn code(&self) -> &UnitCode {
        &self.code
    }

    fn keys(&self) -> Arc<UnitKeys> {
        Self::keys(self)
    }

    fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    fn trust(&self) -> RwLockReadGuard<'_, Trust> {
        Self::trust(self)
    }

    fn believe(&self, checked: Checked) {
        let unit = checked.known().delegation.unit.clone();
        self.trust.write().unwrap_or_else(PoisonError::into_inner).take(checked);
        self.roster_learned(&[unit]);
    }

    fn refusals(&self) -> &Mutex<Window> {
        &self.refusals
    }
}

/// Why delegations were not taken in.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// One does not hold.
    #[error("{0}")]
    Refused(String),
    /// The store failed.
    #[error("cannot store a delegation")]
    Store(#[from] store::Error),
}

/// A delegation that was not believed: whom it names is no more than a claim.
fn refused_grant(envelope: &Envelope, error: &trust::Error) -> Act {
    let claimed = header::decode(&envelope.payload).map(|statement| statement.header.subject);
    let subject = claimed.unwrap_or_default();
    let act = Act::refused(Actor::node(), "delegation.take", subject, error.reason());
    act.about(envelope::payload_sha256(envelope))
}

/// A grant for this unit with keys of somebody else.
fn foreign_grant(envelope: &Envelope) -> Act {
    let claimed = header::decode(&envelope.payload).map(|statement| statement.header.source);
    let by = claimed.as_ref().map_or_else(|_| Actor::node(), Actor::unit);
    let act = Act::refused(by, "delegation.take", "own", "foreign-keys");
    act.about(envelope::payload_sha256(envelope))
}

/// Why revocations were not taken in.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// One does not hold.
    #[error("{error}")]
    Refused {
        /// Those before it, which are kept.
        learned: Vec<KnownRevocation>,
        /// The one.
        envelope: Envelope,
        /// Why.
        error: trust::Error,
    },
    /// The store failed.
    #[error("cannot store a revocation")]
    Store(#[from] store::Error),
}

/// Changes of one unit on their way into one batch. Dropped without commit, nothing happened.
pub struct Work {
    /// The batch: add state rows to it.
    pub batch: Batch,
    unit: Arc<Unit>,
    next: Counters,
    guard: OwnedMutexGuard<Counters>,
    peers: Vec<UnitCode>,
    added: [Added; Lane::ALL.len()],
    fans_out: bool,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Work").field("unit", &self.unit.code).finish_non_exhaustive()
    }
}

impl Work {
    /// Signs a statement with the unit's next number and keeps it.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], [`Error::NoDesk`].
    pub fn sign(&mut self, draft: &Draft) -> Result<Signed, Error> {
        self.sign_at(draft, self.unit.clock.now_unix_ms())
    }

    /// As [`Self::sign`], at a time that the body names too.
    ///
    /// # Errors
    ///
    /// As [`Self::sign`].
    pub fn sign_at(&mut self, draft: &Draft, time_unix_ms: UnixMillis) -> Result<Signed, Error> {
        let id = StatementId::generate(time_unix_ms);
        let seq = self.next.seq + 1;
        let signed = self.unit.sign_numbered(id, draft, (self.next.epoch, seq), time_unix_ms)?;
        self.next.seq = seq;
        let leaf = self.batch.journal(
            signed.time_unix_ms,
            &Leaf::StatementOut(journal::Statement {
                id: *id.as_bytes(),
                kind: draft.kind.to_owned(),
                source: self.unit.code.clone(),
                payload_sha256: signed.payload_sha256,
            }),
        );
        self.keep(id, &signed.envelope, leaf);
        Ok(signed)
    }

    /// Keeps a statement verbatim.
    pub fn keep(&mut self, id: StatementId, envelope: &Envelope, leaf: LeafNumber) {
        put_statement(&mut self.batch, id, envelope, leaf);
    }

    /// Adds a leaf to the journal.
    pub fn journal(&mut self, leaf: &Leaf) -> LeafNumber {
        self.batch.journal(self.unit.clock.now_unix_ms(), leaf)
    }

    /// Keeps the cells of a summary.
    pub fn keep_cells(&mut self, id: StatementId, cells: &[SaltedCell]) {
        put_cells(&mut self.batch, id, cells);
    }

    /// Commits and waits until it is durable.
    ///
    /// # Errors
    ///
    /// [`store::Error::LaneFull`], or the store's; nothing was written.
    pub async fn commit(self) -> Result<(), store::Error> {
        self.check_budgets()?;
        self.submitted().finish().await
    }

    /// Submits, and finishes in the background; calls `settled` if it succeeded. The batch is in
    /// the store's order when this returns.
    pub fn submit(self, settled: impl FnOnce() + Send + 'static) -> Commit {
        let (sender, commit) = Commit::pending();
        let submitted = self.submitted();
        tokio::spawn(async move {
            let result = submitted.finish().await;
            if result.is_ok() {
                settled();
            }
            // The link may have gone meanwhile: the commit stands all the same.
            let _ = sender.send(result);
        });
        commit
    }

    fn submitted(mut self) -> Submitted {
        if (self.next.epoch, self.next.seq) != (self.guard.epoch, self.guard.seq) {
            self.batch.put(Table::Meta, SOURCE_KEY, encode_source(&self.next));
        }
        let commit = self.unit.store.submit(self.batch);
        let (unit, next, guard, peers) = (self.unit, self.next, self.guard, self.peers);
        Submitted { commit, unit, next, guard, peers, added: self.added, fans_out: self.fans_out }
    }
}

/// Work whose batch is on its way. The unit's counters move on only if it succeeds.
struct Submitted {
    commit: Commit,
    unit: Arc<Unit>,
    next: Counters,
    guard: OwnedMutexGuard<Counters>,
    peers: Vec<UnitCode>,
    added: [Added; Lane::ALL.len()],
    fans_out: bool,
}

impl Submitted {
    async fn finish(mut self) -> Result<(), store::Error> {
        self.commit.await?;
        let opened = self.next.epoch != self.guard.epoch;
        self.unit.epoch.store(self.next.epoch, Ordering::Release);
        self.unit.link_epoch.store(self.next.link_epoch, Ordering::Release);
        *self.guard = self.next;
        drop(self.guard);
        if opened {
            self.unit.greet_anew();
        }
        for (lane, added) in Lane::ALL.into_iter().zip(self.added) {
            if added.rows != 0 {
                self.unit.queued_changed(lane, added.rows, added.bytes);
            }
        }
        for peer in &self.peers {
            self.unit.outbox_sender(peer).send_modify(|count| *count += 1);
        }
        if self.fans_out {
            self.unit.go_on_fanning_out();
        }
        Ok(())
    }
}

/// Adds the cells of a summary to a batch, in chunks that the store takes.
pub fn put_cells(batch: &mut Batch, id: StatementId, cells: &[SaltedCell]) {
    let mut chunk = vec![FORMAT];
    let mut number: u16 = 0;
    let mut put = |chunk: &mut Vec<u8>| {
        let key = [id.as_bytes().as_slice(), &number.to_be_bytes()].concat();
        batch.put(Table::Cells, key, std::mem::replace(chunk, vec![FORMAT]));
        number += 1;
    };
    for cell in cells {
        if chunk.len() + cell.encoded_len() > CELL_CHUNK_BYTES {
            put(&mut chunk);
        }
        chunk.extend_from_slice(&cell.encode_length_delimited_to_vec());
    }
    if chunk.len() > 1 {
        put(&mut chunk);
    }
}

/// Keeps a statement verbatim, with the index of its leaf.
pub fn put_statement(batch: &mut Batch, id: StatementId, envelope: &Envelope, leaf: LeafNumber) {
    let envelope = envelope.encode_to_vec();
    batch.put_indexed(Table::Statements, *id.as_bytes(), INDEXED_FORMAT, &envelope, leaf);
}

/// Stored form of an envelope without a leaf: a format byte and the serialised envelope.
pub fn encode_envelope(envelope: &Envelope) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(&envelope.encode_to_vec());
    bytes
}

/// Reads the stored form of an envelope.
///
/// # Errors
///
/// [`store::Error::Engine`] if it is damaged.
pub fn decode_envelope(bytes: &[u8]) -> Result<Envelope, store::Error> {
    match bytes.split_first() {
        Some((&INDEXED_FORMAT, rest)) if rest.len() >= INDEX_BYTES => {
            Envelope::decode(&rest[INDEX_BYTES..]).map_err(|error| damaged("an envelope", &error))
        }
        Some((&FORMAT, rest)) => {
            Envelope::decode(rest).map_err(|error| damaged("an envelope", &error))
        }
        Some((found, _)) => {
            Err(store::Error::Format { found: u32::from(*found), known: u32::from(FORMAT) })
        }
        None => Err(store::Error::Engine("a stored envelope is empty".into())),
    }
}

fn damaged(what: &str, error: &prost::DecodeError) -> store::Error {
    store::Error::Engine(format!("{what} in the store cannot be read: {error}"))
}

const SOURCE_KEY: &[u8] = b"counter/source";
const LINK_EPOCH_KEY: &[u8] = b"link-epoch";
const LANE_PREFIX: &[u8] = b"counter/lane/";

fn lane_key(peer: &UnitCode, lane: Lane) -> Vec<u8> {
    let mut key = [LANE_PREFIX, peer.as_str().as_bytes()].concat();
    key.extend_from_slice(&[0, lane as u8]);
    key
}

fn encode_source(counters: &Counters) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(&counters.epoch.to_be_bytes());
    bytes.extend_from_slice(&counters.seq.to_be_bytes());
    bytes
}

/// Number of the newest statement of a unit that is not open.
///
/// # Errors
///
/// The store's.
pub async fn stored_number(store: &dyn Store, unit: &UnitCode) -> Result<Number, store::Error> {
    let counters = load_counters(store, unit).await?;
    Ok(Number { epoch: counters.epoch, seq: counters.seq })
}

async fn load_counters(store: &dyn Store, unit: &UnitCode) -> Result<Counters, store::Error> {
    let damaged = || store::Error::Engine("a counter in the store is damaged".into());
    let long = |bytes: &[u8], at: usize| -> Result<u64, store::Error> {
        let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_be_bytes).ok_or_else(damaged)
    };
    let Some(link_epoch) = store.get(unit, Table::Meta, LINK_EPOCH_KEY).await? else {
        return begin_counters(store, unit).await;
    };
    let source = store.get(unit, Table::Meta, SOURCE_KEY).await?.ok_or_else(damaged)?;
    let mut lanes = HashMap::new();
    let rows = store.scan(unit, Table::Meta, LANE_PREFIX, None, usize::MAX).await?;
    for (key, value) in rows {
        let (peer, lane) = key[LANE_PREFIX.len()..].split_last_chunk::<2>().ok_or_else(damaged)?;
        let peer = std::str::from_utf8(peer).ok().and_then(|text| text.parse().ok());
        let lane = Lane::ALL.into_iter().find(|known| *known as u8 == lane[1]);
        let key = peer.zip(lane).ok_or_else(damaged)?;
        lanes.insert(key, LaneEnd::decode(&value)?);
    }
    Ok(Counters {
        epoch: long(&source, 1)?,
        seq: long(&source, 9)?,
        link_epoch: long(&link_epoch, 1)?,
        lanes,
    })
}

fn draw_link_epoch() -> Result<u64, store::Error> {
    let mut random = [0; 8];
    crate::random::fill(&mut random)
        .map_err(|error| store::Error::Engine(format!("no random numbers: {error}")))?;
    // 0 stands for "not set" on the wire.
    Ok(u64::from_be_bytes(random).max(1))
}

async fn begin_counters(store: &dyn Store, unit: &UnitCode) -> Result<Counters, store::Error> {
    let link_epoch = draw_link_epoch()?;
    let counters = Counters { epoch: 1, seq: 0, link_epoch, lanes: HashMap::new() };
    let mut batch = Batch::new(unit);
    batch.require_absent(Table::Meta, LINK_EPOCH_KEY);
    batch.put(Table::Meta, LINK_EPOCH_KEY, [&[FORMAT][..], &link_epoch.to_be_bytes()].concat());
    batch.put(Table::Meta, SOURCE_KEY, encode_source(&counters));
    store.submit(batch).await?;
    Ok(counters)
}
