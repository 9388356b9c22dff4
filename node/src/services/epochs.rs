//! Epochs: a unit whose store was brought back stands still until two people open a new one.
//!
//! Promises that a unit that is not as far as a peer has seen it sends no statement, says so, and
//! goes on only in a new epoch; that peers take an announced epoch in with the range that is lost,
//! and no other; and that what they keep of each other finds its way back once. Must not decide
//! which history is the true one: a breach that nobody announced stays an alarm.

mod again;
mod returns;
mod rows;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use lianxi_proto::{envelope, note};

pub(super) use self::returns::keep_received;
pub use self::rows::EpochRow;
use self::rows::StopRow;
use super::{
    error::{ErrorKind, ServiceError},
    escalations::Escalations,
    exchange::{Cursor, Meeting, Newest, Refusal, Seen, ShownOpening, Standing},
    journal::{Journal, Signed},
    notices::Notices,
    receipts::Receipts,
    summaries::Summaries,
    unit::{self, Draft, Redelivered, Removed, Unit, Withdrawn},
    witness::Witness,
};
use crate::{
    clock::UnixMillis,
    domain::{
        epoch::{Head, Lost, Number, Opened, Opening, Reach, Reason, Unapproved, check_approvers},
        journal::{Act, Actor, Leaf, Statement as Named},
        unit::UnitCode,
    },
    statement::{
        Envelope,
        delegation::text,
        epoch::{decode_body, encode_body},
        header::{self, Malformed, StatementId, kinds},
        journal as leaves,
    },
    store::{self, Batch},
};

/// Name of the act in the journal.
const ACT: &str = "epoch.open";

/// A unit's first epoch; also that of a unit from which nothing came yet.
const FIRST: u64 = 1;

/// Leaves that are looked through for the newest statement.
const LOOKED_AT: u64 = 5_000;

/// Statements that are withdrawn in the commit that opens the epoch; those above go before it.
const WITHDRAWN: usize = 30;

/// How long deliveries are kept after a peer held them, and statements that a peer sent.
pub const KEPT_MS: i64 = 35 * 24 * 3_600_000;

/// What a unit has of a peer.
#[derive(Clone, Debug)]
pub(super) struct Had {
    /// The peer's newest statement.
    pub(super) newest: Newest,
    /// How far each lane was taken in.
    pub(super) received: Vec<Cursor>,
}

/// Why an epoch is not opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not two people.
    #[error(transparent)]
    Unapproved(#[from] Unapproved),
    /// A text is out of bounds.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The statement could not be made.
    #[error("cannot announce the epoch")]
    Unit(#[from] unit::Error),
    /// The store failed.
    #[error("cannot open the epoch")]
    Store(#[from] store::Error),
}

impl Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Unapproved(_) => "not-approved",
            Self::Malformed(_) => "malformed",
            Self::Unit(_) | Self::Store(_) => "failed",
        }
    }
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unapproved(_) | Self::Malformed(_) => ErrorKind::InvalidArgument,
            Self::Unit(_) => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
        }
    }
}

/// Why a unit stands still.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stopped {
    /// When it was found.
    pub found_unix_ms: UnixMillis,
    /// Peer that had seen more.
    pub peer: UnitCode,
    /// What is missing here.
    pub lost: Lost,
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { peer, lost, .. } = self;
        write!(
            formatter,
            "rolled back: {} statements and up to {} entries of the journal that {peer} saw are \
             missing here; nothing is sent until two people open a new epoch with `lianxi node restore`",
            lost.statements(),
            lost.leaves()
        )
    }
}

/// Whom and why an epoch is opened for.
#[derive(Clone, Debug)]
pub struct Order {
    /// Why.
    pub reason: Reason,
    /// Two people.
    pub approvers: Vec<String>,
    /// For people.
    pub text: String,
    /// Who asks.
    pub by: Actor,
    /// Say what would be done, do nothing.
    pub dry_run: bool,
}

/// Epochs of one unit, and what it holds of its peers'.
#[derive(Debug)]
pub struct Epochs {
    unit: Arc<Unit>,
    journal: Arc<Journal>,
    witness: Arc<Witness>,
    summaries: Arc<Summaries>,
    receipts: Receipts,
    notices: Arc<Notices>,
    escalations: Arc<Escalations>,
    stopped: RwLock<Option<StopRow>>,
    /// Peers that were rolled back, by their newest hello.
    behind: Mutex<BTreeSet<UnitCode>>,
    /// How far the unit was when it greeted its parent last.
    greeted: Mutex<Option<(UnitCode, Reach)>>,
    /// One finding or opening at a time.
    changing: tokio::sync::Mutex<()>,
}

impl Epochs {
    /// Epochs of `unit`, as its store has them.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn open(
        unit: Arc<Unit>,
        journal: Arc<Journal>,
        witness: Arc<Witness>,
        summaries: Arc<Summaries>,
        receipts: Receipts,
        (notices, escalations): (Arc<Notices>, Arc<Escalations>),
    ) -> Result<Arc<Self>, store::Error> {
        let stopped = RwLock::new(StopRow::load(unit.store.as_ref(), &unit.code).await?);
        let changing = tokio::sync::Mutex::default();
        let behind = Mutex::default();
        let epochs = Arc::new(Self {
            unit,
            journal,
            witness,
            summaries,
            receipts,
            notices,
            escalations,
            stopped,
            behind,
            greeted: Mutex::default(),
            changing,
        });
        if let Some(stopped) = epochs.stopped() {
            tracing::error!(unit = %epochs.unit.code, reason = %stopped, "the unit stands still");
            epochs.unit.metrics.rolled_back(1);
        }
        epochs.go_on();
        Ok(epochs)
    }

    fn row(&self) -> Option<StopRow> {
        self.stopped.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, row: Option<StopRow>) {
        let is_stopped = row.is_some();
        let before = {
            let mut stopped = self.stopped.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *stopped, row)
        };
        self.unit.metrics.rolled_back(i64::from(is_stopped) - i64::from(before.is_some()));
    }

    /// Why the unit stands still; `None`: it does not.
    pub fn stopped(&self) -> Option<Stopped> {
        let row = self.row()?;
        let lost = Lost::of(row.left.into(), row.proved, &row.seen());
        Some(Stopped { found_unix_ms: row.found_unix_ms, peer: row.peer, lost })
    }

    /// True while the unit sends nothing.
    pub fn is_stopped(&self) -> bool {
        self.stopped.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Peers that were rolled back and stand still, by their newest hello.
    pub fn behind(&self) -> Vec<UnitCode> {
        let behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        behind.iter().cloned().collect()
    }

    fn note(&self, peer: &UnitCode, is_behind: bool) {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        if is_behind {
            behind.insert(peer.clone());
        } else {
            behind.remove(peer);
        }
    }

    /// Epochs that were opened, by this unit and by peers.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn list(&self) -> Result<Vec<EpochRow>, store::Error> {
        EpochRow::list(self.unit.store.as_ref(), &self.unit.code, None).await
    }

    /// What was seen of `peer`; `taken`: its newest statement that was taken in.
    pub(super) async fn seen(&self, peer: &UnitCode, taken: Newest) -> Result<Seen, store::Error> {
        let newest = EpochRow::newest(self.unit.store.as_ref(), &self.unit.code, peer).await?;
        let opened = newest.as_ref().map(|row| Newest {
            number: Number { epoch: row.epoch, seq: 1 },
            id: row.statement.parse().ok(),
        });
        let held = self.witness.held(peer).await?;
        let acknowledged = self.unit.acknowledged_by(peer).await?;
        Ok(Seen {
            newest: taken.max(opened.unwrap_or_default()),
            opening_sha256: newest.and_then(|row| row.sha256()),
            checkpoint: held.map(|held| held.checkpoint).unwrap_or_default(),
            acknowledged,
        })
    }

    /// How this unit's epoch was opened, for `peer`.
    pub(super) async fn shown(
        &self,
        peer: &UnitCode,
    ) -> Result<Option<ShownOpening>, store::Error> {
        let (store, own) = (self.unit.store.as_ref(), &self.unit.code);
        let Some(row) = EpochRow::newest(store, own, own).await? else { return Ok(None) };
        let damaged = || store::Error::Engine("the opening of an epoch is missing".to_owned());
        let id = row.statement.parse::<StatementId>().map_err(|_| damaged())?;
        let envelope = self.unit.statement(id).await?.ok_or_else(damaged)?;
        let opening = header::decode(&envelope.payload).map_err(|_| damaged())?;
        let size = decode_body(&opening.body).map_err(|_| damaged())?.journal_size;
        let name = note::origin(&self.unit.trust_domain, peer.as_str());
        let cosigned = self.journal.cosigned_up_to(size, Some(&name)).await?;
        let shown = |signed: &Signed| {
            let mut note = signed.note.only(self.journal.origin());
            note.merge(&signed.note.only(&name));
            note.to_string()
        };
        let checkpoint = cosigned.as_ref().map(shown).unwrap_or_default();
        Ok(Some(ShownOpening { envelope, checkpoint }))
    }

    /// Compares what both sides know of each other, takes the peer's epoch in, and says whether
    /// statements may pass. `taken`: the peer's newest statement here. `is_now`: the hello says how the
    /// peer is, not how it was; an old one shows nothing of a rollback.
    ///
    /// # Errors
    ///
    /// `bad-epoch`: the peer's epoch was not opened as it has to be.
    pub(super) async fn meet(
        &self,
        peer: &UnitCode,
        hello: &Standing,
        taken: &Had,
        is_now: bool,
    ) -> Result<Meeting, Refusal> {
        let busy = |error: store::Error| Refusal { reason: "busy", detail: error.to_string() };
        self.take(peer, hello, taken.newest).await?;
        let seen = self.seen(peer, taken.newest).await.map_err(busy)?;
        let mut reach = self.unit.reach().await.map_err(busy)?;
        if is_now {
            reach = self.greeted_with(peer, reach);
        }
        let theirs = hello.seen.reach(self.witness.cosigned_by(peer, &hello.seen.checkpoint));
        let is_behind = reach.is_behind(&theirs)
            || self.is_other_opening(&hello.seen, reach).await.map_err(busy)?
            || self.is_other_statement(&hello.seen, reach).await.map_err(busy)?
            || has_less(&hello.seen, &taken.received, reach, is_now)
            || self.unit.is_outrun(peer, &hello.received).await;
        if is_behind {
            self.stop(peer, reach, theirs, &hello.seen).await.map_err(busy)?;
        }
        if !is_now {
            let is_quiet = is_behind || self.is_stopped() || hello.stopped;
            return Ok(if is_quiet { Meeting::Quiet } else { Meeting::Open });
        }
        let held = self.witness.own_cosigned(peer, &seen.checkpoint);
        let is_peer_behind =
            hello.reach.is_behind(&seen.reach(held)) || is_second_opening(&seen, hello);
        if is_peer_behind {
            tracing::error!(
                unit = %self.unit.code, %peer,
                "the peer is not as far as it was: nothing is taken from it until it opens an epoch"
            );
        }
        self.note(peer, is_peer_behind || hello.stopped);
        let is_quiet = is_behind || self.is_stopped() || is_peer_behind || hello.stopped;
        Ok(if is_quiet { Meeting::Quiet } else { Meeting::Open })
    }

    /// Notes how far the unit was when it greeted its parent.
    pub(super) fn greets(&self, parent: &UnitCode, reach: Reach) {
        let mut greeted = self.greeted.lock().unwrap_or_else(PoisonError::into_inner);
        *greeted = Some((parent.clone(), reach));
    }

    /// What the parent's hello is compared with: how far the unit was when it greeted it. What was done
    /// since, the parent cannot have seen, but it would cover that the unit was rolled back.
    fn greeted_with(&self, peer: &UnitCode, reach: Reach) -> Reach {
        let greeted = self.greeted.lock().unwrap_or_else(PoisonError::into_inner);
        match &*greeted {
            Some((parent, then)) if parent == peer && then.number.epoch == reach.number.epoch => {
                *then
            }
            Some(_) | None => reach,
        }
    }

    /// True if the peer saw this epoch opened by another statement: an opening was rolled back too.
    async fn is_other_opening(&self, seen: &Seen, reach: Reach) -> Result<bool, store::Error> {
        if seen.newest.number.epoch != reach.number.epoch || seen.opening_sha256.is_none() {
            return Ok(false);
        }
        let (store, own) = (self.unit.store.as_ref(), &self.unit.code);
        let newest = EpochRow::newest(store, own, own).await?;
        Ok(newest.and_then(|row| row.sha256()) != seen.opening_sha256)
    }

    /// True if what the peer took as the newest statement of this epoch is not here under that number:
    /// the unit was rolled back and has used the number again since. Statements are never removed.
    async fn is_other_statement(&self, seen: &Seen, reach: Reach) -> Result<bool, store::Error> {
        let Newest { number, id: Some(id) } = seen.newest else { return Ok(false) };
        if number.epoch != reach.number.epoch {
            return Ok(false);
        }
        let Some(envelope) = self.unit.statement(id).await? else { return Ok(true) };
        let header = header::decode(&envelope.payload).map(|statement| statement.header);
        let is_it = header.is_ok_and(|header| {
            header.source == self.unit.code
                && Number { epoch: header.epoch, seq: header.seq } == number
        });
        Ok(!is_it)
    }

    /// Notes that a peer has seen more than there is, or something else.
    async fn stop(
        &self,
        peer: &UnitCode,
        reach: Reach,
        theirs: Reach,
        seen: &Seen,
    ) -> Result<(), store::Error> {
        let _changing = self.changing.lock().await;
        // An epoch was opened while this was found: what was missing then is accounted for.
        if self.unit.reach().await?.number.epoch != reach.number.epoch {
            return Ok(());
        }
        let before = self.row();
        let proved = self.proved(reach.journal_size, Some(peer)).await?.0;
        let row = match &before {
            None => StopRow {
                found_unix_ms: self.unit.clock.now_unix_ms(),
                peer: peer.clone(),
                left: self.number_before(proved).await?.into(),
                proved,
                seen: theirs.number.into(),
                seen_journal_size: theirs.journal_size,
                checkpoint: seen.checkpoint.clone(),
            },
            Some(row) => {
                let most = row.seen().max(theirs);
                let is_more = most.journal_size > row.seen_journal_size;
                StopRow {
                    seen: most.number.into(),
                    seen_journal_size: most.journal_size,
                    checkpoint: if is_more { &seen.checkpoint } else { &row.checkpoint }.clone(),
                    ..row.clone()
                }
            }
        };
        if before.as_ref().is_some_and(|before| before.seen() == row.seen()) {
            return Ok(());
        }
        let mut batch = Batch::new(&self.unit.code);
        batch.urgent();
        row.put(&mut batch);
        let act = Act::done(Actor::unit(peer), "epoch.stop", self.unit.code.as_str());
        batch.journal(self.unit.clock.now_unix_ms(), &Leaf::Act(act));
        self.unit.store.submit(batch).await?;
        self.unit.skip_to(theirs.number).await?;
        self.set(Some(row));
        if let Some(stopped) = self.stopped() {
            tracing::error!(unit = %self.unit.code, reason = %stopped, "the unit stands still");
        }
        if before.is_none() {
            // The other links of the unit end too.
            self.unit.greet_anew();
        }
        Ok(())
    }

    /// Takes in an epoch that the peer opened since it was last seen.
    async fn take(&self, peer: &UnitCode, hello: &Standing, taken: Newest) -> Result<(), Refusal> {
        let busy = |error: store::Error| Refusal { reason: "busy", detail: error.to_string() };
        let (store, own) = (self.unit.store.as_ref(), &self.unit.code);
        let newest = EpochRow::newest(store, own, peer).await.map_err(busy)?;
        let opened = newest.as_ref().map_or(1, |row| row.epoch);
        let known = opened.max(taken.number.epoch);
        if hello.epoch <= known {
            return Ok(());
        }
        let bad = |detail: String| Refusal { reason: "bad-epoch", detail };
        let Some(shown) = &hello.opening else {
            return Err(bad(format!(
                "{peer} is in epoch {} and does not show how it was opened; open one with \
                 `lianxi node restore`",
                hello.epoch
            )));
        };
        let (id, opening) = self.judge(peer, hello, &shown.envelope).map_err(bad)?;
        let base = self.witness.own_cosigned(peer, &shown.checkpoint);
        let base = base.filter(|base| base.checkpoint.size <= opening.journal_size);
        self.believe(peer, hello, taken, (id, opening, &shown.envelope), base).await.map_err(busy)
    }

    fn judge(
        &self,
        peer: &UnitCode,
        hello: &Standing,
        envelope: &Envelope,
    ) -> Result<(StatementId, Opening), String> {
        let now = self.unit.clock.now_unix_ms();
        let trust = self.unit.trust();
        // The key may have ended since, and the peer proved in the handshake who it is now.
        let opened = trust.open_witnessed(envelope, now, Some(UnixMillis::MIN));
        let opened = opened.map_err(|error| error.to_string())?;
        let header = &opened.statement.header;
        let opening = decode_body(&opened.statement.body).map_err(|error| error.to_string())?;
        let is_its_own = header.source == *peer && opening.unit == *peer;
        let is_this = header.kind == kinds::EPOCH
            && header.epoch == opening.epoch
            && opening.epoch == hello.epoch
            && opening.trust_domain == self.unit.trust_domain;
        if !is_its_own || !is_this || opened.signer.1.is_some() {
            return Err(format!("what {peer} shows does not open its epoch {}", hello.epoch));
        }
        Ok((header.id, opening))
    }

    /// One batch: the statement, the range that is lost, where its journal goes on, the leaves.
    async fn believe(
        &self,
        peer: &UnitCode,
        hello: &Standing,
        taken: Newest,
        (id, opening, envelope): (StatementId, Opening, &Envelope),
        base: Option<Signed>,
    ) -> Result<(), store::Error> {
        let seen = self.seen(peer, taken).await?;
        let held = self.witness.own_cosigned(peer, &seen.checkpoint);
        let proved = base.as_ref().map_or(0, |base| base.checkpoint.size);
        let lost = Lost::of(opening.left, proved, &seen.reach(held));
        // Before it is on the record: what is cut off in between is done again.
        let again = self.unit.redeliver(peer, &hello.received).await?;
        let digest = envelope::payload_sha256(envelope);
        let row = EpochRow::of(&opening, (id, digest), lost, again, {
            let time = header::decode(&envelope.payload).map(|it| it.header.time_unix_ms);
            time.unwrap_or_default()
        });
        let now = self.unit.clock.now_unix_ms();
        let mut batch = Batch::new(&self.unit.code);
        self.witness.go_back(&mut batch, peer, base.as_ref().map(|base| &base.note)).await?;
        row.put(&mut batch);
        let leaf = batch.journal(
            now,
            &Leaf::StatementIn(Named {
                id: *id.as_bytes(),
                kind: kinds::EPOCH.to_owned(),
                source: peer.clone(),
                payload_sha256: digest,
            }),
        );
        unit::put_statement(&mut batch, id, envelope, leaf);
        let subject = format!(
            "{peer} {}: lost {}/{} to {}/{}, leaves {} to {}",
            row.epoch,
            lost.after.epoch,
            lost.after.seq,
            lost.to.epoch,
            lost.to.seq,
            lost.journal_from,
            lost.journal_to
        );
        let act = Act::done(Actor::unit(peer), "epoch.take", subject).about(digest);
        batch.journal(now, &Leaf::Act(act));
        self.unit.store.submit(batch).await?;
        tracing::warn!(
            unit = %self.unit.code, %peer, epoch = row.epoch, statements = lost.statements(),
            leaves = lost.leaves(), again = again.again, gone = again.gone,
            "the peer opened an epoch: the range that it lost is on the record"
        );
        Ok(())
    }

    /// Opens an epoch, or says what would be done.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing was opened.
    pub async fn begin(self: &Arc<Self>, order: Order) -> Result<EpochRow, Error> {
        let by = order.by.clone();
        match self.try_begin(order).await {
            Ok(row) => Ok(row),
            Err(error) => {
                let act = Act::refused(by, ACT, self.unit.code.as_str(), error.reason());
                self.unit.record(act).await?;
                Err(error)
            }
        }
    }

    async fn try_begin(self: &Arc<Self>, order: Order) -> Result<EpochRow, Error> {
        if !order.dry_run {
            check_approvers(&order.approvers)?;
        }
        let words = text("text", order.text.clone())?;
        let _changing = self.changing.lock().await;
        let _reports = self.summaries.hold().await;
        let reach = self.unit.reach().await?;
        let row = self.row();
        let left = row.as_ref().map_or(reach.number, |row| row.left.into());
        let seen = row.as_ref().map_or(reach, StopRow::seen);
        let epoch = reach.number.epoch.max(seen.number.epoch) + 1;
        let peer = row.as_ref().map(|row| &row.peer);
        let (proved, base) = self.proved(reach.journal_size, peer).await?;
        let return_after = match &row {
            // Others may have been met before the one that found it, and numbers used twice with them.
            Some(row) => self.number_before(row.proved.min(proved)).await?,
            // Nobody has said what is missing: what a peer cosigned may have been made after the restore.
            None => Number { epoch: left.epoch, seq: 0 },
        };
        // A peer that had seen little may have cosigned since what was written after the restore.
        let before = row.as_ref().map_or(proved, |row| row.proved.min(proved));
        let withdrawn = match order.reason {
            Reason::Restore => self.unit.doubtful(seen.number, before).await?,
            Reason::Move => Vec::new(),
        };
        let lost = match &row {
            Some(row) => Lost::of(left, row.proved, &seen),
            None => Lost::of(left, reach.journal_size, &seen),
        };
        let checkpoint = row.as_ref().map(|row| row.checkpoint.clone()).unwrap_or_default();
        let opening = Opening {
            trust_domain: self.unit.trust_domain.clone(),
            unit: self.unit.code.clone(),
            epoch,
            reason: order.reason,
            left,
            journal_size: reach.journal_size,
            checkpoint: base.as_ref().map(first_witness).unwrap_or_default(),
            seen_checkpoint: if lost.leaves() > 0 { checkpoint } else { String::new() },
            approvers: order.approvers.clone(),
            text: words,
        };
        let times = self.times(row.as_ref()).await?;
        if order.dry_run {
            let none = Redelivered::default();
            let would = EpochRow::of(&opening, (StatementId::generate(0), [0; 32]), lost, none, 0);
            return Ok(would.with(times, &withdrawn));
        }
        let last = self.withdraw_first(&withdrawn, &order.by).await?;
        let told = (lost, times, return_after, &withdrawn[..]);
        let opened = self.announce(&order.by, opening, base, told, last).await?;
        for one in withdrawn.iter().filter(|one| one.kind == kinds::SUMMARY) {
            self.summaries.wait_for(&one.subject);
        }
        self.go_on();
        tracing::warn!(unit = %self.unit.code, epoch, "an epoch was opened");
        Ok(opened)
    }

    /// Withdraws what one commit does not hold; the rest goes into the one that opens the epoch.
    async fn withdraw_first<'a>(
        &self,
        withdrawn: &'a [Withdrawn],
        by: &Actor,
    ) -> Result<&'a [Withdrawn], store::Error> {
        let (first, last) = withdrawn.split_at(withdrawn.len().saturating_sub(WITHDRAWN));
        for some in first.chunks(WITHDRAWN).chain([last]) {
            loop {
                let mut work = self.unit.begin().await;
                let removed = self.withdraw(&mut work.batch, some, by).await?;
                if !removed.more && some == last {
                    break;
                }
                work.close_ranks(&removed)?;
                work.submit(|| ()).await?;
                self.unit.metrics.outbox_changed(-removed.deliveries);
                if !removed.more {
                    break;
                }
            }
        }
        self.unit.recount_outbox().await?;
        Ok(last)
    }

    /// One batch: the first leaf, the statement, the new numbers, and no more reason to stand still.
    async fn announce(
        &self,
        by: &Actor,
        opening: Opening,
        base: Option<Signed>,
        (lost, times, return_after, told): (Lost, (UnixMillis, UnixMillis), Number, &[Withdrawn]),
        withdrawn: &[Withdrawn],
    ) -> Result<EpochRow, Error> {
        let head = |signed: Option<&Signed>| {
            let of = |signed: &Signed| Head {
                size: signed.checkpoint.size,
                root: signed.checkpoint.root,
            };
            signed.map(of).unwrap_or_default()
        };
        let seen = leaves::checkpoint(&opening.seen_checkpoint);
        let first = Leaf::Epoch(Opened {
            epoch: opening.epoch,
            reason: opening.reason,
            checkpoint: head(base.as_ref()),
            seen: seen.map_or_else(Head::default, |(size, root)| Head { size, root }),
            approvers: opening.approvers.clone(),
        });
        let mut work = self.unit.begin_epoch(opening.epoch).await?;
        let size = store::journal::size(self.unit.store.as_ref(), &self.unit.code).await?;
        let opening = Opening { journal_size: size.max(opening.journal_size), ..opening };
        work.journal(&first);
        let draft = Draft::new(kinds::EPOCH, self.unit.code.as_str(), encode_body(&opening));
        let signed = work.sign(&draft)?;
        let subject = format!("{} {}", self.unit.code, opening.epoch);
        let act = Act::done(by.clone(), ACT, subject).about(signed.payload_sha256);
        work.journal(&Leaf::Act(act));
        StopRow::delete(&mut work.batch);
        let none = Redelivered::default();
        let named = (signed.id, signed.payload_sha256);
        let row = EpochRow::of(&opening, named, lost, none, signed.time_unix_ms);
        let return_after = Some(return_after.into());
        let row = EpochRow { return_after, ..row.with(times, told) };
        row.put(&mut work.batch);
        let removed = self.withdraw(&mut work.batch, withdrawn, by).await?;
        work.close_ranks(&removed)?;
        work.commit().await?;
        self.unit.metrics.outbox_changed(-removed.deliveries);
        self.unit.recount_outbox().await?;
        self.set(None);
        self.unit.greet_anew();
        Ok(row)
    }

    /// Takes statements out of the outboxes, and back what they said of this unit's reports.
    async fn withdraw(
        &self,
        batch: &mut Batch,
        withdrawn: &[Withdrawn],
        by: &Actor,
    ) -> Result<Removed, store::Error> {
        let ids = withdrawn.iter().map(|one| one.id).collect();
        let reports = withdrawn.iter().filter(|one| one.kind == kinds::SUMMARY);
        let periods: BTreeSet<&str> = reports.map(|one| one.subject.as_str()).collect();
        for period in periods {
            self.summaries.take_back(batch, period, &ids).await?;
        }
        self.unit.withdraw(batch, &ids, &again::made_again(withdrawn), by).await
    }

    /// The newest checkpoint of at most `size` leaves that `peer` cosigned, or anybody: what it covers
    /// was there before the store was brought back.
    async fn proved(
        &self,
        size: u64,
        peer: Option<&UnitCode>,
    ) -> Result<(u64, Option<Signed>), store::Error> {
        let name = peer.map(|peer| note::origin(&self.unit.trust_domain, peer.as_str()));
        let base = self.journal.cosigned_up_to(size, name.as_deref()).await?;
        Ok((base.as_ref().map_or(0, |base| base.checkpoint.size), base))
    }

    /// The newest statement of this unit below the leaf `size`.
    async fn number_before(&self, size: u64) -> Result<Number, store::Error> {
        let (store, unit) = (self.unit.store.as_ref(), &self.unit.code);
        for index in (size.saturating_sub(LOOKED_AT)..size).rev() {
            let found = store::journal::leaves(store, unit, index).await?;
            let line = found.first().and_then(|(_, leaf)| leaves::read(leaf).ok());
            let Some(line) = line.filter(|line| line.event == "statement-out") else { continue };
            let Ok(id) = line.subject.parse::<StatementId>() else { continue };
            let Some(envelope) = self.unit.statement(id).await? else { continue };
            if let Ok(statement) = header::decode(&envelope.payload) {
                let header = statement.header;
                return Ok(Number { epoch: header.epoch, seq: header.seq });
            }
        }
        // More is asked back than was lost; what is here already is passed over.
        Ok(Number::default())
    }

    /// When the last leaf was made that is proved, and when a peer saw the last one that is lost.
    async fn times(&self, row: Option<&StopRow>) -> Result<(UnixMillis, UnixMillis), store::Error> {
        let Some(row) = row.filter(|row| row.seen_journal_size > row.proved) else {
            return Ok((0, 0));
        };
        let (store, unit) = (self.unit.store.as_ref(), &self.unit.code);
        let last = store::journal::leaves(store, unit, row.proved.saturating_sub(1)).await?;
        let after = last.first().and_then(|(_, leaf)| leaves::read(leaf).ok());
        let until = self.witness.cosigned_at(&row.peer, &row.checkpoint);
        Ok((after.map_or(0, |line| line.time_unix_ms), until.unwrap_or(row.found_unix_ms)))
    }
}

/// True if the unit has acknowledged more of a lane than it has of it. A peer that does not know the
/// unit's epoch yet does not know either what it sends again; and by an old hello, what has come since
/// may be of a later life of the lane.
fn has_less(seen: &Seen, received: &[Cursor], reach: Reach, is_now: bool) -> bool {
    let is_this_epoch = seen.newest.number.epoch.max(FIRST) == reach.number.epoch;
    let is_less = |acknowledged: &Cursor| match received
        .iter()
        .find(|cursor| cursor.lane == acknowledged.lane)
    {
        Some(have) if have.link_epoch == acknowledged.link_epoch => {
            have.lane_seq < acknowledged.lane_seq
        }
        Some(_) | None => is_now,
    };
    is_this_epoch && seen.acknowledged.iter().any(is_less)
}

/// True if a peer shows another opening of its epoch than the one that was taken in: of two copies of
/// a unit, the first one counts.
fn is_second_opening(seen: &Seen, hello: &Standing) -> bool {
    let shown = hello.opening.as_ref().map(|shown| envelope::payload_sha256(&shown.envelope));
    seen.newest.number.epoch == hello.epoch
        && seen.opening_sha256.is_some()
        && shown != seen.opening_sha256
}

/// The note with the unit's signature and one cosignature: enough to name the witness.
fn first_witness(signed: &Signed) -> String {
    let mut note = signed.note.only(&signed.checkpoint.origin);
    if let Some(witness) = signed.witnesses().next() {
        note.merge(&signed.note.only(witness));
    }
    note.to_string()
}

impl Seen {
    /// How far that is; `checkpoint`: the one in it, once it was verified.
    fn reach(&self, checkpoint: Option<Signed>) -> Reach {
        let journal_size = checkpoint.map_or(0, |signed| signed.checkpoint.size);
        Reach { number: self.newest.number, journal_size }
    }
}

impl EpochRow {
    fn of(
        opening: &Opening,
        (id, payload_sha256): (StatementId, [u8; 32]),
        lost: Lost,
        again: Redelivered,
        opened_unix_ms: UnixMillis,
    ) -> Self {
        Self {
            unit: opening.unit.clone(),
            epoch: opening.epoch,
            reason: opening.reason.as_str().to_owned(),
            approvers: opening.approvers.clone(),
            text: opening.text.clone(),
            statement: id.to_string(),
            payload_sha256: hex::encode(payload_sha256),
            opened_unix_ms,
            after: lost.after.into(),
            to: lost.to.into(),
            return_after: None,
            journal_from: lost.journal_from,
            journal_to: lost.journal_to,
            lost_after_unix_ms: 0,
            lost_until_unix_ms: 0,
            withdrawn: Vec::new(),
            returned: 0,
            again: again.again,
            gone: again.gone,
        }
    }

    fn with(self, (after, until): (UnixMillis, UnixMillis), withdrawn: &[Withdrawn]) -> Self {
        let withdrawn = withdrawn.iter().map(|one| format!("{} {}", one.kind, one.subject));
        Self {
            lost_after_unix_ms: after,
            lost_until_unix_ms: until,
            withdrawn: withdrawn.collect(),
            ..self
        }
    }
}
