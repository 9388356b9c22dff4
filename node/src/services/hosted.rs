//! One hosted unit with all its services, as its links see it.
//!
//! What a link brings is verified here once: signature, source, direction. Then the service of its
//! type plans, and the plan, the cursor and the statement are one commit.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::Mutex as AsyncMutex;
use tracing::{Span, field::Empty};

use super::{
    catalogues::Catalogues,
    enrolments::Identity,
    epochs::{self, Epochs, Had},
    escalations::Escalations,
    exchange::{
        Arrival, Cursor, Departure, Downlinks, Error, Exchange, Lane, LinkEvent, Meeting, Newest,
        Occasion, Page, Parcel, Question, Refusal, Returned, Standing, Wanted, Witnessing,
    },
    grants::Grants,
    intake::{Arrived, Plan, Refused, Undecided},
    journal::Journal,
    leaving,
    notices::Notices,
    previews::Previews,
    quarantine,
    receipts::Receipts,
    records::Records,
    reforms::Reforms,
    revocations, rotations,
    summaries::Summaries,
    unit::{LearnError, Unit, Work},
    witness::Witness,
};
use crate::{
    clock::UnixMillis,
    domain::{
        epoch::Number,
        journal::{Act, Actor, Leaf, Statement as Named},
        period::Period,
        preview::Program,
        unit::UnitCode,
    },
    identity::trust::{Opened, Trust},
    statement::{
        Envelope,
        header::{self, Header, Statement, StatementId, kinds},
        rejection,
        revocation::Proven,
    },
    store::{self, Batch, Commit, Table},
    telemetry::{metrics::Side, set_parent_from},
    watch,
};

/// Format of cursors alone.
const FORMAT: u8 = 1;

/// Format of cursors with the number of the peer's newest statement.
const NUMBERED_FORMAT: u8 = 2;

/// Format of cursors with that number and the statement's id.
const NAMED_FORMAT: u8 = 3;

/// State of the link to one peer.
#[derive(Clone, Debug, Default)]
pub struct LinkStatus {
    /// Open now.
    pub up: bool,
    /// Why it is not.
    pub reason: String,
    /// This unit's clock minus the peer's at the last hello.
    pub clock_skew_ms: i64,
}

/// One hosted unit.
pub struct Hosted {
    /// Keys, trust, counters.
    pub unit: Arc<Unit>,
    /// Records and components.
    pub records: Arc<Records>,
    /// Catalogue in force.
    pub catalogues: Arc<Catalogues>,
    /// Summaries.
    pub summaries: Arc<Summaries>,
    /// Notices.
    pub notices: Arc<Notices>,
    /// Escalations.
    pub escalations: Arc<Escalations>,
    /// Keys for readers that come later.
    pub grants: Grants,
    /// Units that come under another parent.
    pub reforms: Arc<Reforms>,
    /// The unit's own journal.
    pub journal: Arc<Journal>,
    /// What the unit sees of its neighbours' journals, and they of its own.
    pub witness: Arc<Witness>,
    /// Epochs of the unit and its neighbours.
    pub epochs: Arc<Epochs>,
    /// What changes here would do to the children.
    pub previews: Previews,
    pub(super) downlinks: Arc<dyn Downlinks>,
    links: Mutex<HashMap<UnitCode, LinkStatus>>,
    cursors: Mutex<HashMap<(UnitCode, Lane), Taken>>,
    gates: Mutex<HashMap<UnitCode, Arc<Gates>>>,
    /// Addresses of this unit that its children dial.
    dialled: Mutex<HashMap<UnitCode, Vec<String>>>,
}

/// One at a time per lane of a peer: a link and a courier file may bring the same at once.
type Gates = [AsyncMutex<()>; Lane::ALL.len()];

impl std::fmt::Debug for Hosted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Hosted").field("unit", &self.unit.code).finish_non_exhaustive()
    }
}

impl Hosted {
    /// Puts a unit's services together.
    ///
    /// # Errors
    ///
    /// The catalogue in force cannot be loaded.
    pub async fn open(
        unit: Arc<Unit>,
        records: Arc<Records>,
        downlinks: Arc<dyn Downlinks>,
    ) -> Result<Arc<Self>, super::catalogues::Error> {
        let catalogues = Catalogues::open(Arc::clone(&unit), Arc::clone(&records)).await?;
        let catalogues = Arc::new(catalogues);
        let journal = Arc::new(Journal::new(Arc::clone(&unit)));
        let reforms = Arc::new(Reforms::new(Arc::clone(&unit)));
        let summaries = Summaries::new(
            Arc::clone(&unit),
            Arc::clone(&reforms),
            Arc::clone(&records),
            Arc::clone(&catalogues),
            Arc::clone(&downlinks),
            Arc::clone(&journal),
        );
        unit.go_on_fanning_out();
        let notices = Arc::new(Notices::new(Arc::clone(&unit), Arc::clone(&catalogues)));
        let escalations = Arc::new(Escalations::new(Arc::clone(&unit), Arc::clone(&catalogues)));
        let witness = Arc::new(Witness::new(Arc::clone(&unit), Arc::clone(&journal)));
        let (of, seen) = (Arc::clone(&journal), Arc::clone(&witness));
        let summaries = Arc::new(summaries);
        let reports = Arc::clone(&summaries);
        let receipts =
            Receipts::new(Arc::clone(&unit), Arc::clone(&notices), Arc::clone(&escalations));
        let cases = (Arc::clone(&notices), Arc::clone(&escalations));
        let epochs = Epochs::open(Arc::clone(&unit), of, seen, reports, receipts, cases).await?;
        let previews =
            Previews::new(Arc::clone(&unit), Arc::clone(&catalogues), Arc::clone(&summaries));
        Ok(Arc::new(Self {
            previews,
            witness,
            epochs,
            journal,
            grants: Grants::new(Arc::clone(&unit), Arc::clone(&notices), Arc::clone(&escalations)),
            notices,
            escalations,
            reforms,
            summaries,
            unit,
            records,
            catalogues,
            downlinks,
            links: Mutex::default(),
            cursors: Mutex::default(),
            gates: Mutex::default(),
            dialled: Mutex::default(),
        }))
    }

    /// State of the link to `peer`.
    pub fn link(&self, peer: &UnitCode) -> LinkStatus {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.get(peer).cloned().unwrap_or_default()
    }

    /// Lanes that rest on open links, with the peer and the reason.
    pub fn resting(&self) -> Vec<String> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let resting = links.iter().filter(|(_, link)| link.up && !link.reason.is_empty());
        let mut told: Vec<_> =
            resting.map(|(peer, link)| format!("{peer}: {}", link.reason)).collect();
        told.sort();
        told
    }

    /// Children with an open link.
    pub fn linked_children(&self) -> Vec<UnitCode> {
        self.downlinks.linked()
    }

    fn gates(&self, peer: &UnitCode) -> Arc<Gates> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(gates.entry(peer.clone()).or_default())
    }

    /// How far a lane of `peer` was taken in, as far as this process knows.
    pub(super) fn cursor(&self, peer: &UnitCode, lane: Lane) -> Option<Cursor> {
        let cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        cursors.get(&(peer.clone(), lane)).map(|taken| taken.cursor)
    }

    /// Cursors as they are stored, once everything submitted before is settled.
    async fn stored_cursors(&self, peer: &UnitCode) -> Result<Vec<Taken>, store::Error> {
        self.unit.store.submit(Batch::new(&self.unit.code)).await?;
        let mut cursors = Vec::new();
        for lane in Lane::ALL {
            let key = inbox_key(peer, lane);
            if let Some(row) = self.unit.store.get(&self.unit.code, Table::Inbox, &key).await? {
                cursors.push(Taken::decode(lane, row)?);
            }
        }
        Ok(cursors)
    }

    /// What was durably taken in from `peer`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(super) async fn received(&self, peer: &UnitCode) -> Result<Vec<Cursor>, store::Error> {
        let taken = self.stored_cursors(peer).await?;
        Ok(taken.into_iter().map(|taken| taken.cursor).collect())
    }

    /// The newest epoch that is known of `peer`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(super) async fn epoch_of(&self, peer: &UnitCode) -> Result<u64, store::Error> {
        let newest = newest(&self.stored_cursors(peer).await?);
        Ok(self.epochs.seen(peer, newest).await?.newest.number.epoch)
    }

    /// As [`Exchange::meet`], by a hello that says how the peer was and not how it is.
    ///
    /// # Errors
    ///
    /// As [`Exchange::meet`].
    pub(super) async fn meet_by_courier(
        &self,
        peer: &UnitCode,
        hello: &Standing,
    ) -> Result<Meeting, Refusal> {
        self.judge_hello(peer, hello, false).await
    }

    /// Whoever sends it, a statement must hold, and its source must be where it comes from.
    async fn believe(
        &self,
        peer: &UnitCode,
        from_child: bool,
        arrival: &Arrival,
    ) -> Result<Opened, Undecided> {
        let now = self.unit.clock.now_unix_ms();
        let opened = self.unit.trust().open(&arrival.envelope, now);
        let opened = match opened {
            Err(error) if error.is_ended() => match self.witnessed(arrival, now).await? {
                Some(at) => self.unit.trust().open_witnessed(&arrival.envelope, now, Some(at)),
                None => Err(error),
            },
            decided => decided,
        };
        let opened = opened
            .map_err(|error| Refused::new(error.reason(), error.field(), error.to_string()))?;
        let header = &opened.statement.header;
        check_direction(&self.unit.trust(), &self.unit.code, peer, from_child, header)?;
        Ok(opened)
    }

    /// When the statement is known to have been there, at the latest: it was taken in here before,
    /// or a witness cosigned a checkpoint that holds it.
    async fn witnessed(
        &self,
        arrival: &Arrival,
        now: UnixMillis,
    ) -> Result<Option<UnixMillis>, store::Error> {
        if let Ok(statement) = header::decode(&arrival.envelope.payload)
            && self.unit.statement(statement.header.id).await?.as_ref() == Some(&arrival.envelope)
        {
            return Ok(Some(UnixMillis::MIN));
        }
        let Some(evidence) = &arrival.evidence else { return Ok(None) };
        Ok(self.unit.trust().witnessed_at(&arrival.envelope, evidence, now))
    }

    /// Verifies an arrival and lets its service plan.
    pub(super) async fn judge(
        &self,
        peer: &UnitCode,
        arrival: &Arrival,
    ) -> Result<(Plan, Known), Undecided> {
        let from_child = self.unit.parent().as_ref() != Some(peer);
        let opened = self.believe(peer, from_child, arrival).await?;
        let header = &opened.statement.header;
        set_parent_from(&header.traceparent, &Span::current());
        Span::current().record("kind", &header.kind);
        let arrived = Arrived {
            peer: peer.clone(),
            from_child,
            envelope: arrival.envelope.clone(),
            desk: opened.signer.1,
            payload_sha256: opened.payload_sha256,
            statement: opened.statement,
            cells: arrival.cells.clone(),
        };
        let id = arrived.id();
        let kind = arrived.statement.header.kind.clone();
        if !lanes_of(&kind).contains(&arrival.cursor.lane) {
            let detail = format!("type {kind} is not known, or not of this lane");
            return Err(Refused::new("unknown-type", "header.type", detail).into());
        }
        let held = self.unit.store.get(&self.unit.code, Table::Statements, id.as_bytes()).await?;
        if held.is_some() {
            return Ok((Plan::default(), Known::Held));
        }
        let plan = self.plan(&arrived).await?;
        self.unit.metrics.statement_received(&kind);
        let named = Named {
            id: *id.as_bytes(),
            kind,
            source: arrived.source().clone(),
            payload_sha256: arrived.payload_sha256,
        };
        Ok((plan, Known::New(id, named)))
    }

    /// Lets the service of its type plan what a statement does.
    async fn plan(&self, arrived: &Arrived) -> Result<Plan, Undecided> {
        Ok(match arrived.statement.header.kind.as_str() {
            kinds::SUMMARY => self.summaries.take(arrived).await?,
            kinds::REJECTION => quarantine::take_rejection(&self.unit, arrived).await?,
            kinds::NOTICE => self.notices.take(arrived, &[]).await?,
            kinds::RECEIPT => self.notices.take_receipt(arrived).await?,
            kinds::ESCALATION => self.escalations.take(arrived).await?,
            kinds::ESCALATION_EVENT => {
                let mut plan = self.escalations.take_event(arrived).await?;
                self.reforms.follow_item(arrived, &mut plan).await?;
                plan
            }
            kinds::LEAVE => leaving::take(self, arrived).await?,
            kinds::CATALOGUE => self.catalogues.take(arrived)?,
            kinds::KEY_GRANT => self.grants.take(arrived).await?,
            kinds::ALARM => self.witness.take_alarm(arrived)?,
            kinds::REFORM => self.reforms.take(arrived)?,
            kinds::REFORM_STEP => self.reforms.take_step(arrived).await?,
            _ => {
                let detail = "this type does not travel as a delivery";
                return Err(Refused::new("unknown-type", "header.type", detail).into());
            }
        })
    }

    /// Makes one commit of the plan, the statement and the cursor.
    async fn settle(
        &self,
        peer: &UnitCode,
        arrival: &Arrival,
        plan: Plan,
        known: Known,
    ) -> Result<Commit, store::Error> {
        let mut batch = Batch::new(&self.unit.code);
        if arrival.cursor.lane == Lane::Escalation {
            batch.urgent();
        }
        self.advance(&mut batch, peer, arrival, &known);
        self.keep_for(&mut batch, peer, arrival, &known);
        self.submit(batch, arrival, plan, known).await
    }

    /// Keeps a new statement for its source, if that brought it itself.
    pub(super) fn keep_for(
        &self,
        batch: &mut Batch,
        peer: &UnitCode,
        arrival: &Arrival,
        known: &Known,
    ) {
        if let Known::New(_, statement) = known
            && statement.source == *peer
            && let Ok(statement) = header::decode(&arrival.envelope.payload)
        {
            epochs::keep_received(batch, &statement.header, self.unit.clock.now_unix_ms());
        }
    }

    /// Takes in what this unit's old parent returned, once, and forgets the row of it.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(super) async fn take_returned(
        &self,
        row: Vec<u8>,
        envelope: Envelope,
    ) -> Result<(), store::Error> {
        let kind = header::decode(&envelope.payload).map(|statement| statement.header.kind);
        let lane = kind.ok().and_then(|kind| lanes_of(&kind).first().copied());
        let cursor = Cursor { lane: lane.unwrap_or(Lane::Bulk), link_epoch: 0, lane_seq: 0 };
        let arrival = Arrival { cursor, after: 0, envelope, cells: Vec::new(), evidence: None };
        let Some(parent) = self.unit.parent() else { return Ok(()) };
        let (plan, known) = match self.judge(&parent, &arrival).await {
            Ok(judged) => judged,
            Err(Undecided::Refused(refused)) => {
                let plan = quarantine::refuse(&self.unit, &parent, &parked(&arrival), &refused)?;
                (plan, Known::Held)
            }
            Err(Undecided::Store(error)) => return Err(error),
        };
        let mut batch = Batch::new(&self.unit.code);
        batch.delete(Table::Returned, row);
        self.submit(batch, &arrival, plan, known).await?.await
    }

    /// Takes in what still waited for a unit that merged into this one: what it does there it does
    /// here, once, and what was on its way further down goes on.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(super) async fn inherit(
        &self,
        from: &UnitCode,
        departure: Departure,
    ) -> Result<(), store::Error> {
        let Departure { cursor, envelope, .. } = departure;
        let now = self.unit.clock.now_unix_ms();
        let arrival = Arrival { cursor, after: 0, envelope, cells: Vec::new(), evidence: None };
        let opened = self.unit.trust().open_witnessed(&arrival.envelope, now, Some(i64::MIN));
        let (mut plan, id) = match opened {
            Ok(opened) => {
                let id = opened.statement.header.id;
                let source = &opened.statement.header.source;
                let from_child = self.unit.trust().is_in_subtree(source, &self.unit.code);
                let arrived = Arrived {
                    peer: self.unit.child_above(source).unwrap_or_else(|| source.clone()),
                    from_child,
                    envelope: arrival.envelope.clone(),
                    desk: opened.signer.1,
                    payload_sha256: opened.payload_sha256,
                    statement: opened.statement,
                    cells: Vec::new(),
                };
                match self.plan(&arrived).await {
                    Ok(plan) => (plan, Some(id)),
                    Err(Undecided::Refused(refused)) => {
                        (self.park(from, &arrival, &refused)?, None)
                    }
                    Err(Undecided::Store(error)) => return Err(error),
                }
            }
            Err(error) => {
                let refused = Refused::new(error.reason(), error.field(), error.to_string());
                (self.park(from, &arrival, &refused)?, None)
            }
        };
        let mut relay = std::mem::take(&mut plan.relay);
        relay.retain(|hop| hop != from);
        self.submit(Batch::new(&self.unit.code), &arrival, plan, Known::Held).await?.await?;
        let mut work = self.unit.begin().await;
        if let Some(id) = id {
            work.enqueue_all(&relay, cursor.lane, id);
        }
        self.unit.drop_outbox(&mut work, from, cursor.lane, cursor.lane_seq).await?;
        work.commit().await
    }

    fn park(
        &self,
        peer: &UnitCode,
        arrival: &Arrival,
        refused: &Refused,
    ) -> Result<Plan, store::Error> {
        let mut plan = quarantine::refuse(&self.unit, peer, &parked(arrival), refused)?;
        // Nobody is there any more to be told.
        plan.replies.clear();
        Ok(plan)
    }

    /// Makes one commit of the plan and the statement, on top of `batch`.
    pub(super) async fn submit(
        &self,
        mut batch: Batch,
        arrival: &Arrival,
        plan: Plan,
        known: Known,
    ) -> Result<Commit, store::Error> {
        let lane = arrival.cursor.lane;
        for (table, key, value) in plan.requires {
            batch.require(table, key, value);
        }
        for (table, key, value) in plan.writes {
            batch.put(table, key, value);
        }
        for (table, key) in plan.deletes {
            batch.delete(table, key);
        }
        let now = self.unit.clock.now_unix_ms();
        for leaf in &plan.leaves {
            batch.journal(now, leaf);
        }
        if let Some((envelope, statement)) = &plan.inside {
            let leaf = batch.journal(now, &Leaf::StatementIn(statement.clone()));
            let id = StatementId::try_from(&statement.id[..])
                .map_err(|error| store::Error::Engine(format!("an id is damaged: {error}")))?;
            super::unit::put_statement(&mut batch, id, envelope, leaf);
        }
        if let Known::New(id, statement) = &known {
            let leaf = batch.journal(now, &Leaf::StatementIn(statement.clone()));
            batch.require_absent(Table::Statements, *id.as_bytes());
            super::unit::put_statement(&mut batch, *id, &arrival.envelope, leaf);
            if plan.keep_cells {
                super::unit::put_cells(&mut batch, *id, &arrival.cells);
            }
        }
        if plan.relay.is_empty() && plan.replies.is_empty() {
            let commit = self.unit.store.submit(batch);
            return Ok(match plan.settled {
                None => commit,
                Some(settled) => then(commit, settled),
            });
        }
        let mut work = self.unit.begin().await;
        work.batch = batch;
        if let Known::New(id, _) = known {
            work.enqueue_all(&plan.relay, lane, id);
        }
        for reply in &plan.replies {
            let signed = work
                .sign(&reply.draft)
                .map_err(|error| store::Error::Engine(format!("cannot sign a reply: {error}")))?;
            work.enqueue(&reply.to, reply.lane, signed.id);
        }
        Ok(work.submit(plan.settled.unwrap_or_else(|| Box::new(|| ()))))
    }

    /// Moves the cursor, on condition that it is where this process last put it: if an earlier
    /// commit of the lane fails, the later ones fail too.
    fn advance(&self, batch: &mut Batch, peer: &UnitCode, arrival: &Arrival, known: &Known) {
        let cursor = arrival.cursor;
        let newest = match known {
            Known::New(_, statement) if statement.source == *peer => {
                let header = header::decode(&arrival.envelope.payload).map(|it| it.header);
                let newest = header.map(|it| Newest {
                    number: Number { epoch: it.epoch, seq: it.seq },
                    id: Some(it.id),
                });
                newest.unwrap_or_default()
            }
            Known::New(..) | Known::Held => Newest::default(),
        };
        let key = inbox_key(peer, cursor.lane);
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (peer.clone(), cursor.lane);
        let before = cursors.get(&place);
        let newest = before.map_or(newest, |before| before.newest.max(newest));
        match before {
            Some(before) => batch.require(Table::Inbox, key.clone(), before.row.clone()),
            None => batch.require_absent(Table::Inbox, key.clone()),
        }
        let taken = Taken::new(cursor, newest);
        batch.put(Table::Inbox, key, taken.row.clone());
        cursors.insert(place, taken);
    }

    async fn judge_hello(
        &self,
        certified: &UnitCode,
        hello: &Standing,
        is_now: bool,
    ) -> Result<Meeting, Refusal> {
        match self.unit.learn(&hello.chain).await {
            Ok(_) => {}
            Err(LearnError::Refused(detail)) => {
                return Err(Refusal { reason: "bad-chain", detail });
            }
            Err(LearnError::Store(error)) => {
                return Err(Refusal { reason: "busy", detail: error.to_string() });
            }
        }
        self.check_peer(certified, hello)?;
        self.note_addresses(certified, hello).await?;
        let busy = |error: store::Error| Refusal { reason: "busy", detail: error.to_string() };
        if self.unit.parent().as_ref() != Some(certified) {
            self.previews.greeted(certified, hello, is_now).await.map_err(busy)?;
        }
        let taken = self.stored_cursors(certified).await.map_err(busy)?;
        let taken = Had {
            newest: newest(&taken),
            received: taken.into_iter().map(|taken| taken.cursor).collect(),
        };
        let meeting = self.epochs.meet(certified, hello, &taken, is_now).await?;
        if meeting == Meeting::Quiet {
            return Ok(meeting);
        }
        for cursor in &hello.received {
            self.unit.acknowledged(certified, *cursor).await.map_err(busy)?;
        }
        if self.unit.parent().as_ref() != Some(certified) {
            self.catalogues.offer(certified, &hello.catalogue).await.map_err(busy)?;
        }
        Ok(meeting)
    }

    /// Keeps where the parent is dialled, and what a child knows of that; a child that learned something
    /// greets again, so that the parent knows.
    async fn note_addresses(&self, peer: &UnitCode, hello: &Standing) -> Result<(), Refusal> {
        let unit = &self.unit;
        if unit.parent().as_ref() != Some(peer) {
            let mut dialled = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
            dialled.insert(peer.clone(), hello.addresses.clone());
            return Ok(());
        }
        if hello.addresses.iter().all(|one| unit.parent_addresses().contains(one)) {
            return Ok(());
        }
        let busy = |detail: String| Refusal { reason: "busy", detail };
        let store = unit.store.as_ref();
        let given = &hello.addresses;
        let added = Identity::add_parent_addresses(store, &unit.code, peer, given).await;
        if added.map_err(|error| busy(error.to_string()))? {
            let identity = Identity::load(store, &unit.code).await;
            let identity = identity.map_err(|error| busy(error.to_string()))?;
            let parent = identity.and_then(|identity| identity.parent);
            unit.dials(parent.map(|parent| parent.addresses).unwrap_or_default());
            unit.greet_anew();
        }
        Ok(())
    }

    /// Addresses of this unit that a child dials, by its newest hello.
    pub fn dialled_by(&self, child: &UnitCode) -> Vec<String> {
        let dialled = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        dialled.get(child).cloned().unwrap_or_default()
    }

    /// Takes own statements back that a peer returned, each once.
    async fn replay(&self, peer: &UnitCode, page: Page) -> Result<Option<Number>, store::Error> {
        let mut reached = None;
        for one in &page.statements {
            let Some(statement) = self.epochs.own(peer, one).await? else { continue };
            let header = &statement.header;
            reached = reached.max(Some(Number { epoch: header.epoch, seq: header.seq }));
            let _reports = self.summaries.hold().await;
            let mut work = self.unit.begin().await;
            let is_known = self.unit.statement(header.id).await?.is_some();
            let settled = if is_known {
                self.confirm(&mut work, one, &statement).await?;
                None
            } else {
                self.epochs.keep_own(&mut work.batch, header, one);
                self.epochs.count_returned(peer, &mut work.batch).await?;
                self.apply_own(&mut work, (peer, one), &statement).await?
            };
            if work.batch.is_empty() {
                continue;
            }
            work.submit(settled.unwrap_or_else(|| Box::new(|| ()))).await?;
            if header.kind == kinds::SUMMARY {
                self.summaries.wait_for(&header.subject);
            }
        }
        self.epochs.returned_to(peer, reached, page.last).await?;
        self.epochs.wanted(peer).await
    }

    /// A peer has an own statement that is here too: if it was withdrawn, its number is its own after
    /// all, and it goes on to those who may not have it.
    async fn confirm(
        &self,
        work: &mut Work,
        one: &Returned,
        statement: &Statement,
    ) -> Result<(), store::Error> {
        let id = statement.header.id;
        if let Some(held_back) = self.unit.held_back(id).await? {
            work.put_back(held_back, Some(id));
        }
        if statement.header.kind == kinds::SUMMARY {
            let digest = lianxi_proto::envelope::payload_sha256(&one.envelope);
            self.summaries.replay(&mut work.batch, statement, digest).await?;
        }
        Ok(())
    }

    /// Does again what an own statement did that came back; returns what is to be done once that is
    /// durable. What is not named here left nothing behind but itself. All of it is sent once more to
    /// the peer that returned it, which passes it over, so that it can be sent again should that peer
    /// lose it.
    async fn apply_own(
        &self,
        work: &mut Work,
        (peer, one): (&UnitCode, &Returned),
        statement: &Statement,
    ) -> Result<Option<Box<dyn FnOnce() + Send>>, store::Error> {
        let kind = statement.header.kind.as_str();
        if let Some(lane) = lanes_of(kind).first().filter(|_| kind != kinds::NOTICE) {
            work.enqueue(peer, *lane, statement.header.id);
        }
        match statement.header.kind.as_str() {
            kinds::SUMMARY => {
                let digest = lianxi_proto::envelope::payload_sha256(&one.envelope);
                self.summaries.replay(&mut work.batch, statement, digest).await?;
            }
            kinds::NOTICE => self.notices.replay(work, statement),
            kinds::RECEIPT => self.notices.replay_receipt(work, statement).await?,
            kinds::ESCALATION => self.escalations.replay(&mut work.batch, statement),
            kinds::ESCALATION_EVENT => self.escalations.replay_act(work, statement).await?,
            kinds::KEY_GRANT => self.grants.replay(work, statement).await?,
            kinds::CATALOGUE => return Ok(self.catalogues.replay(work, statement)),
            _ => {}
        }
        Ok(None)
    }

    /// True for the parent and for children: a unit that moves has a link to its old parent for a
    /// moment more.
    pub(super) fn is_peer(&self, peer: &UnitCode) -> bool {
        self.unit.parent().as_ref() == Some(peer)
            || self.unit.trust().parent(peer) == Some(&self.unit.code)
    }

    fn side(&self, peer: &UnitCode) -> Side {
        if self.unit.parent().as_ref() == Some(peer) { Side::Child } else { Side::Parent }
    }

    /// Refuses whoever is neither parent nor child, or was revoked, or is of another city.
    ///
    /// # Errors
    ///
    /// [`Refusal`] says why.
    pub(super) fn check_peer(&self, certified: &UnitCode, hello: &Standing) -> Result<(), Refusal> {
        let refusal = |reason, detail: String| Err(Refusal { reason, detail });
        if hello.trust_domain != self.unit.trust_domain {
            return refusal(
                "wrong-domain",
                format!(
                    "this unit belongs to {}, the peer to {}",
                    self.unit.trust_domain, hello.trust_domain
                ),
            );
        }
        if hello.unit != *certified {
            return refusal(
                "certificate-mismatch",
                format!("the certificate names {certified}, the hello {}", hello.unit),
            );
        }
        let is_parent = self.unit.parent().as_ref() == Some(certified);
        let trust = self.unit.trust();
        let is_child = trust.parent(certified) == Some(&self.unit.code);
        if !is_parent
            && !is_child
            && let Some(parent) = trust.parent(certified)
            && trust.was_below(certified, &self.unit.code)
        {
            let detail = format!("{certified} is under {parent}; its node dials there by itself");
            return refusal("moved", detail);
        }
        if !is_parent && !is_child {
            return refusal(
                "unknown-child",
                format!("{certified} is no child of {}; invite it first", self.unit.code),
            );
        }
        match trust.revoked(certified, None) {
            Some(known) => Err(revocations::refusal(known)),
            None => Ok(()),
        }
    }
}

/// What is kept of a refused delivery.
fn parked(arrival: &Arrival) -> rejection::Refused {
    let Arrival { envelope, cells, evidence, .. } = arrival.clone();
    rejection::Refused { envelope, cells, evidence }
}

/// Whether the statement is new here.
#[derive(Clone, Debug)]
pub(super) enum Known {
    New(StatementId, Named),
    Held,
}

fn check_direction(
    trust: &Trust,
    own: &UnitCode,
    peer: &UnitCode,
    from_child: bool,
    header: &Header,
) -> Result<(), Refused> {
    let source = &header.source;
    // What was on its way when a reform parted its units goes on to arrive.
    if from_child && !trust.is_in_subtree(source, peer) && !trust.was_below(source, peer) {
        let detail = format!("{source} is not in the subtree of {peer}");
        return Err(Refused::new("outside-subtree", "header.source", detail));
    }
    let from_above = source != own && trust.is_in_subtree(own, source);
    // Siblings between whom one is divided; whether the step is its source's to take is judged there.
    let step_of_sibling =
        header.kind == kinds::REFORM_STEP && trust.parent(own) == trust.parent(source);
    if !from_child && !from_above && !step_of_sibling && !trust.parted(own, source) {
        let detail = format!("{source} is not above {own}");
        return Err(Refused::new("wrong-source", "header.source", detail));
    }
    Ok(())
}

fn then(commit: Commit, settled: Box<dyn FnOnce() + Send>) -> Commit {
    let (sender, chained) = Commit::pending();
    tokio::spawn(async move {
        let result = commit.await;
        if result.is_ok() {
            settled();
        }
        // The link may have gone meanwhile: the commit stands all the same.
        let _ = sender.send(result);
    });
    chained
}

/// Lanes in which statements of a type travel. A key follows the statement that it is for.
pub(super) fn lanes_of(kind: &str) -> &'static [Lane] {
    match kind {
        kinds::ESCALATION | kinds::ESCALATION_EVENT | kinds::ALARM => &[Lane::Escalation],
        kinds::NOTICE | kinds::RECEIPT => &[Lane::Notice],
        kinds::KEY_GRANT => &[Lane::Escalation, Lane::Notice],
        kinds::SUMMARY | kinds::REJECTION | kinds::LEAVE | kinds::REFORM | kinds::REFORM_STEP => {
            &[Lane::Summary]
        }
        kinds::CATALOGUE => &[Lane::Catalogue],
        _ => &[],
    }
}

fn inbox_key(peer: &UnitCode, lane: Lane) -> Vec<u8> {
    let mut key = peer.as_str().as_bytes().to_vec();
    key.extend_from_slice(&[0, lane as u8]);
    key
}

/// How far a lane of a peer was taken in.
#[derive(Clone, Debug)]
struct Taken {
    cursor: Cursor,
    /// Newest statement of the peer itself in this lane.
    newest: Newest,
    /// As it is stored.
    row: Vec<u8>,
}

impl Taken {
    fn new(cursor: Cursor, newest: Newest) -> Self {
        let mut row = vec![if newest.id.is_some() { NAMED_FORMAT } else { NUMBERED_FORMAT }];
        let number = newest.number;
        for long in [cursor.link_epoch, cursor.lane_seq, number.epoch, number.seq] {
            row.extend_from_slice(&long.to_be_bytes());
        }
        row.extend_from_slice(newest.id.as_ref().map_or(&[][..], |id| id.as_bytes()));
        Self { cursor, newest, row }
    }

    fn decode(lane: Lane, row: Vec<u8>) -> Result<Self, store::Error> {
        let damaged = || store::Error::Engine("a cursor in the store is damaged".into());
        let (format, rest) = row.split_first().ok_or_else(damaged)?;
        let (longs, odd) = rest.as_chunks::<8>();
        let longs: Vec<u64> = longs.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect();
        let (link_epoch, lane_seq, newest) = match (*format, longs.as_slice()) {
            (FORMAT, &[link_epoch, lane_seq]) => (link_epoch, lane_seq, Newest::default()),
            (NUMBERED_FORMAT, &[link_epoch, lane_seq, epoch, seq]) => {
                (link_epoch, lane_seq, Newest { number: Number { epoch, seq }, id: None })
            }
            (NAMED_FORMAT, &[link_epoch, lane_seq, epoch, seq, ..]) => {
                let id = rest.get(4 * size_of::<u64>()..).unwrap_or_default();
                let id = Some(StatementId::try_from(id).map_err(|_| damaged())?);
                (link_epoch, lane_seq, Newest { number: Number { epoch, seq }, id })
            }
            (FORMAT | NUMBERED_FORMAT | NAMED_FORMAT, _) => return Err(damaged()),
            (found, _) => {
                let known = NAMED_FORMAT.into();
                return Err(store::Error::Format { found: found.into(), known });
            }
        };
        if !odd.is_empty() {
            return Err(damaged());
        }
        Ok(Self { cursor: Cursor { lane, link_epoch, lane_seq }, newest, row })
    }
}

/// The newest statement of the peer, over its lanes.
fn newest(taken: &[Taken]) -> Newest {
    taken.iter().map(|taken| taken.newest).max().unwrap_or_default()
}

#[async_trait]
impl Exchange for Hosted {
    fn unit(&self) -> &UnitCode {
        &self.unit.code
    }

    fn parent(&self) -> Option<UnitCode> {
        self.unit.parent()
    }

    async fn standing(&self, peer: &UnitCode) -> Result<Standing, Error> {
        let gates = self.gates(peer);
        let mut held = Vec::with_capacity(gates.len());
        for gate in gates.iter() {
            held.push(gate.lock().await);
        }
        let received = self.stored_cursors(peer).await?;
        {
            let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
            cursors.retain(|(known, _), _| known != peer);
            for taken in &received {
                cursors.insert((peer.clone(), taken.cursor.lane), taken.clone());
            }
        }
        drop(held);
        let seen = self.epochs.seen(peer, newest(&received)).await?;
        let opening = self.epochs.shown(peer).await?;
        let reach = self.unit.reach().await?;
        let stopped = self.epochs.is_stopped();
        let trust = self.unit.trust();
        let to_parent = self.unit.parent().as_ref() == Some(peer);
        let head = if to_parent { &self.unit.code } else { peer };
        if to_parent {
            self.epochs.greets(peer, reach);
        }
        Ok(Standing {
            trust_domain: self.unit.trust_domain.clone(),
            unit: self.unit.code.clone(),
            chain: trust.chain(&self.unit.code),
            epoch: reach.number.epoch,
            received: received.iter().map(|taken| taken.cursor).collect(),
            clock_unix_ms: self.unit.clock.now_unix_ms(),
            roster_sha256: trust.roster_sha256(head),
            revocations_sha256: trust.revocations_sha256(),
            catalogue: self.catalogues.label(),
            addresses: if to_parent { self.unit.parent_addresses() } else { self.unit.addresses() },
            seen,
            opening,
            reach,
            stopped,
            program: Program::own(),
        })
    }

    async fn meet(&self, certified: &UnitCode, hello: &Standing) -> Result<Meeting, Refusal> {
        let met = self.judge_hello(certified, hello, true).await;
        if let Err(refusal) = &met
            && refusal.reason != "busy"
        {
            let actor = Actor::unit(certified);
            let act = Act::refused(actor, "link.open", certified.as_str(), refusal.reason);
            if let Err(error) = self.unit.record_refusal(certified.as_str(), act).await {
                tracing::error!(unit = %self.unit.code, %error, "cannot journal a refused link");
            }
        }
        met
    }

    async fn roster(&self, peer: &UnitCode) -> Result<Vec<Envelope>, Error> {
        let trust = self.unit.trust();
        if self.unit.parent().as_ref() == Some(peer) {
            let moves = trust.moves_below(&self.unit.code);
            let bridges = trust.bridges_below(&self.unit.code).into_iter();
            let known = bridges.chain(moves).chain(trust.subtree(&self.unit.code));
            return Ok(known.map(|known| known.envelope.clone()).collect());
        }
        // New keys of those above come this way, those that they had, and the child's own grant. What
        // rests on an ended key was granted anew.
        let now = self.unit.clock.now_unix_ms();
        let known = trust.above(&self.unit.code).into_iter().chain(trust.delegation(peer, None));
        let standing = known.filter(|known| !trust.is_by_ended_key(&known.envelope, now));
        Ok(standing.map(|known| known.envelope.clone()).collect())
    }

    async fn introduce(&self, peer: &UnitCode, delegations: Vec<Envelope>) -> Result<(), Error> {
        match self.unit.learn_what_stands(&delegations).await {
            Ok(learned) => {
                tracing::debug!(unit = %self.unit.code, %peer, learned, "delegations introduced");
                Ok(())
            }
            Err(LearnError::Refused(detail)) => Err(Error::Introduction(detail)),
            Err(LearnError::Store(error)) => Err(error.into()),
        }
    }

    async fn held(&self, peer: &UnitCode) -> Result<Option<[u8; 32]>, Error> {
        Ok(rotations::held(&self.unit, peer).await?)
    }

    async fn acquainted(&self, peer: &UnitCode, payload_sha256: [u8; 32]) -> Result<(), Error> {
        Ok(rotations::acquainted(&self.unit, peer, payload_sha256).await?)
    }

    async fn revocations(&self) -> Vec<Proven> {
        self.unit.trust().revocations().map(|known| known.proven.clone()).collect()
    }

    async fn take_revocations(&self, peer: &UnitCode, items: Vec<Proven>) -> Result<(), Error> {
        Ok(revocations::take(self, peer, items).await?)
    }

    #[tracing::instrument(name = "statement.receive", skip_all, fields(unit = %self.unit.code, %peer, kind = Empty))]
    async fn receive(&self, peer: &UnitCode, arrival: Arrival) -> Result<Commit, Error> {
        if !self.is_peer(peer) {
            return Err(Error::NoPeer(peer.clone()));
        }
        let Cursor { lane, link_epoch, lane_seq } = arrival.cursor;
        let gates = self.gates(peer);
        let _turn = gates[lane as usize - 1].lock().await;
        let have = self.cursor(peer, lane).filter(|have| have.link_epoch == link_epoch);
        let have = have.map_or(0, |have| have.lane_seq);
        if lane_seq <= have {
            // Settled before, perhaps not yet durable: an empty batch comes after it.
            return Ok(self.unit.store.submit(Batch::new(&self.unit.code)));
        }
        if arrival.after > have {
            return Err(Error::Gap { lane_seq, after: arrival.after, have });
        }
        let (plan, known) = match self.judge(peer, &arrival).await {
            Ok((mut plan, known)) => {
                quarantine::clear(&self.unit, peer, &arrival.envelope, &mut plan).await?;
                (plan, known)
            }
            Err(Undecided::Refused(refused)) => {
                let parked = parked(&arrival);
                let plan = quarantine::refuse_once(&self.unit, peer, &parked, &refused).await?;
                (plan, Known::Held)
            }
            Err(Undecided::Store(error)) => return Err(error.into()),
        };
        Ok(self.settle(peer, &arrival, plan, known).await?)
    }

    async fn outgoing(
        &self,
        peer: &UnitCode,
        lane: Lane,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Departure>, Error> {
        if matches!(lane, Lane::Escalation | Lane::Notice)
            && self.unit.trust().merged_into(peer) == Some(&self.unit.code)
        {
            // It waits here until the peer has ended: then it is this unit's to take in.
            return Ok(Vec::new());
        }
        let mut departures = self.unit.outgoing(peer, lane, after, limit).await?;
        let now = self.unit.clock.now_unix_ms();
        for departure in &mut departures {
            if self.unit.trust().is_by_ended_key(&departure.envelope, now)
                && let Ok(statement) = header::decode(&departure.envelope.payload)
            {
                departure.evidence = self.journal.evidence_of(statement.header.id).await?;
            }
        }
        Ok(departures)
    }

    async fn acknowledged(&self, peer: &UnitCode, cursor: Cursor) -> Result<(), Error> {
        Ok(self.unit.acknowledged(peer, cursor).await?)
    }

    fn outbox_changes(&self, peer: &UnitCode) -> watch::Receiver<u64> {
        self.unit.outbox_changes(peer)
    }

    fn roster_changes(&self, peer: &UnitCode) -> watch::Receiver<u64> {
        self.unit.roster_changes(peer)
    }

    fn checkpoint_changes(&self) -> watch::Receiver<u64> {
        self.journal.made()
    }

    async fn witness(&self, peer: &UnitCode, occasion: Occasion) -> Result<Vec<Witnessing>, Error> {
        Ok(self.witness.on(peer, occasion).await?)
    }

    fn standing_changes(&self) -> watch::Receiver<u64> {
        self.unit.standing_changes()
    }

    async fn returns_wanted(&self, peer: &UnitCode) -> Result<Option<Number>, Error> {
        Ok(self.epochs.wanted(peer).await?)
    }

    async fn take_returned(&self, peer: &UnitCode, page: Page) -> Result<Option<Number>, Error> {
        Ok(self.replay(peer, page).await?)
    }

    async fn returned(&self, peer: &UnitCode, after: Number) -> Result<Page, Error> {
        Ok(self.epochs.returned(peer, after).await?)
    }

    async fn answer(&self, question: Question) -> Vec<Parcel> {
        let Ok(period) = question.period.parse::<Period>() else { return Vec::new() };
        let answered = match question.wanted {
            Wanted::Live => self.summaries.live(&question, &period).await,
            Wanted::Reported { payload_sha256 } => {
                self.summaries.reported(&question, &period, payload_sha256).await
            }
        };
        match answered {
            Ok(parcels) => parcels,
            Err(error) => {
                tracing::error!(unit = %self.unit.code, %error, "cannot answer a pull");
                Vec::new()
            }
        }
    }

    fn note(&self, peer: &UnitCode, event: LinkEvent) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let status = links.entry(peer.clone()).or_default();
        match event {
            LinkEvent::Up { clock_skew_ms } => {
                if !status.up {
                    self.unit.metrics.link_up(self.side(peer), clock_skew_ms);
                }
                *status = LinkStatus { up: true, reason: String::new(), clock_skew_ms };
            }
            LinkEvent::Resting { reason } => status.reason = reason,
            LinkEvent::Down { reason } => {
                if status.up {
                    self.unit.metrics.link_down(self.side(peer));
                }
                status.up = false;
                status.reason = reason;
            }
        }
    }
}
