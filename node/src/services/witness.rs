//! Neighbours watch each other's journals: what a unit cosigns, keeps, and raises an alarm about.
//!
//! Promises that a checkpoint is cosigned only if it goes on from what was cosigned before, and
//! that it is kept durably before the cosignature leaves; and that one that does not go on becomes
//! a signed alarm, once per breach. Which of two histories is the true one is for people to find out.

mod alarms;
mod peers;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lianxi_proto::{
    envelope::VerifyingKey,
    merkle,
    note::{self, Checkpoint, Note},
};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

pub(super) use self::peers::PEER;
pub use self::{
    alarms::{AlarmRow, SettleError, Settled},
    peers::{CosignRequest, Cosignature, Peer, PeerError},
};
use super::{
    exchange::{Occasion, Offer, Witnessing},
    journal::{Journal, Signed},
    unit::Unit,
};
use crate::{
    clock::UnixMillis,
    domain::{
        journal::{Act, Actor, Breach},
        unit::UnitCode,
    },
    statement::Envelope,
    store::{self, Batch, Table, format},
};

const FORMAT: u8 = 1;

/// Rows of [`Table::Witnessed`]: what is held of a neighbour, by unit.
const HELD: &[u8] = b"held/";

/// Most siblings whose cosignatures are shown with one offer.
const MAX_COSIGNERS: usize = 16;

/// Alarms that wait for those who are to be told.
const ALARMS_WAITING: usize = 64;

/// What this unit holds of a neighbour's journal.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Held {
    /// Checkpoint with the neighbour's signature and this unit's cosignature.
    pub checkpoint: String,
    /// When it was cosigned.
    pub time_unix_ms: UnixMillis,
    /// Names of other witnesses of the neighbour whose cosignatures were seen and fit.
    #[serde(default)]
    pub others: Vec<String>,
    /// Breaches that an alarm was raised about since.
    #[serde(default)]
    pub breaches: Vec<String>,
}

/// What was said on the link to one neighbour.
#[derive(Clone, Copy, Debug, Default)]
struct Conversation {
    /// Size of the own checkpoint that the neighbour holds; `None`: it has not said.
    holds: Option<u64>,
    /// Size of the own checkpoint that was offered last, and whether with others' cosignatures.
    offered: (u64, bool),
}

/// What follows from comparing an offer with what is held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Comparison {
    /// The same checkpoint.
    Same,
    /// It goes on from what is held.
    Follows,
    /// It proves from another size than what is held.
    Elsewhere,
    /// It does not go on from what is held.
    Breach(Breach),
}

fn compare(held: &Checkpoint, offered: &Checkpoint, offer: &Offer) -> Comparison {
    if offered.size < held.size {
        return Comparison::Breach(Breach::Rollback);
    }
    if offered.size == held.size {
        let same = offered.root == held.root;
        return if same { Comparison::Same } else { Comparison::Breach(Breach::SplitView) };
    }
    if offer.old_size != held.size {
        return Comparison::Elsewhere;
    }
    if follows(held, offered, &offer.consistency) {
        Comparison::Follows
    } else {
        Comparison::Breach(Breach::SplitView)
    }
}

fn follows(old: &Checkpoint, new: &Checkpoint, proof: &[merkle::Hash]) -> bool {
    merkle::verify_consistency(old.size, new.size, proof, &old.root, &new.root)
}

/// Reads a checkpoint of the journal `origin` that one of `keys` signed.
fn read(text: &str, origin: &str, keys: &[VerifyingKey]) -> Option<Signed> {
    let signed = Note::parse(text).and_then(Signed::of).ok()?;
    let is_signed = keys.iter().any(|key| signed.note.verify(origin, key).is_ok());
    (signed.checkpoint.origin == origin && is_signed).then_some(signed)
}

/// A unit as witness of its neighbours, and as witnessed by them.
#[derive(Debug)]
pub struct Witness {
    unit: Arc<Unit>,
    journal: Arc<Journal>,
    conversations: Mutex<HashMap<UnitCode, Conversation>>,
    alarms: broadcast::Sender<AlarmRow>,
}

impl Witness {
    /// The witness of `unit`.
    pub fn new(unit: Arc<Unit>, journal: Arc<Journal>) -> Self {
        let alarms = broadcast::Sender::new(ALARMS_WAITING);
        Self { unit, journal, conversations: Mutex::default(), alarms }
    }

    /// What is held of the journal of `peer`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn held(&self, peer: &UnitCode) -> Result<Option<Held>, store::Error> {
        let row = self.unit.store.get(&self.unit.code, Table::Witnessed, &held_key(peer)).await?;
        row.map(|row| format::read(FORMAT, &row)).transpose()
    }

    /// Goes back to `base`, a checkpoint of `peer` that this unit cosigned before: the peer announced
    /// that what came after it is lost. Without one its journal is taken up anew. What is held as
    /// this is called has to be held still at the commit.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(super) async fn go_back(
        &self,
        batch: &mut Batch,
        peer: &UnitCode,
        base: Option<&Note>,
    ) -> Result<(), store::Error> {
        let key = held_key(peer);
        match self.unit.store.get(&self.unit.code, Table::Witnessed, &key).await? {
            Some(row) => batch.require(Table::Witnessed, key.clone(), row),
            None => batch.require_absent(Table::Witnessed, key.clone()),
        }
        match base {
            Some(base) => {
                let held = Held::of(base, self.unit.clock.now_unix_ms());
                batch.put(Table::Witnessed, key, format::write(FORMAT, &held));
            }
            None => batch.delete(Table::Witnessed, key),
        }
        Ok(())
    }

    /// Reads a checkpoint of the journal of `peer` that this unit cosigned.
    pub(super) fn own_cosigned(&self, peer: &UnitCode, text: &str) -> Option<Signed> {
        let origin = note::origin(&self.unit.trust_domain, peer.as_str());
        let trust = self.unit.trust();
        let signed = read(text, &origin, &trust.statement_keys(peer, None))?;
        let name = self.journal.origin();
        let own = trust.statement_keys(&self.unit.code, None);
        let is_own = own.iter().any(|key| signed.note.verify_cosignature(name, key).is_ok());
        is_own.then_some(signed)
    }

    /// When `peer` cosigned a checkpoint of this unit's journal, by its own word.
    pub(super) fn cosigned_at(&self, peer: &UnitCode, text: &str) -> Option<UnixMillis> {
        let signed = self.cosigned_by(peer, text)?;
        let name = note::origin(&self.unit.trust_domain, peer.as_str());
        let keys = self.unit.trust().statement_keys(peer, None);
        let seconds =
            keys.iter().find_map(|key| signed.note.verify_cosignature(&name, key).ok())?;
        // To the end of the second.
        i64::try_from(seconds).ok()?.checked_mul(1_000)?.checked_add(999)
    }

    /// Reads a checkpoint of this unit's journal that `peer` cosigned.
    pub(super) fn cosigned_by(&self, peer: &UnitCode, text: &str) -> Option<Signed> {
        let trust = self.unit.trust();
        let own = trust.statement_keys(&self.unit.code, None);
        let signed = read(text, self.journal.origin(), &own)?;
        let witness = note::origin(&self.unit.trust_domain, peer.as_str());
        let keys = trust.statement_keys(peer, None);
        let seen = keys.iter().any(|key| signed.note.verify_cosignature(&witness, key).is_ok());
        seen.then_some(signed)
    }

    /// What is to be said to `peer`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn on(
        &self,
        peer: &UnitCode,
        occasion: Occasion,
    ) -> Result<Vec<Witnessing>, store::Error> {
        let said = match occasion {
            Occasion::Opened => {
                self.conversations().insert(peer.clone(), Conversation::default());
                self.journal.checkpoint().await?;
                let held = self.held(peer).await?.and_then(|held| parsed(&held));
                let size = held.map_or(0, |held| held.checkpoint.size);
                Some(Witnessing::Held { size })
            }
            Occasion::Checkpoint => self.offer(peer).await?,
            Occasion::Said(Witnessing::Held { size }) => {
                // Whatever was offered before did not fit this.
                let conversation = Conversation { holds: Some(size), ..Conversation::default() };
                self.conversations().insert(peer.clone(), conversation);
                self.offer(peer).await?
            }
            Occasion::Said(Witnessing::Offer(offer)) => Some(self.judge(peer, &offer).await?),
            Occasion::Said(Witnessing::Cosigned { checkpoint }) => {
                self.cosigned(peer, &checkpoint).await?;
                None
            }
            Occasion::Said(Witnessing::Refused { reason }) => {
                tracing::error!(
                    unit = %self.unit.code, %peer, reason,
                    "the journal of this unit was not cosigned: its history is not the one that \
                     the peer saw, compare with `lianxi journal verify`"
                );
                let (actor, subject) = (Actor::unit(peer), self.unit.code.as_str());
                let act = Act::refused(actor, "journal.cosign", subject, refusal_word(&reason));
                self.unit.record_refusal(peer.as_str(), act).await?;
                None
            }
        };
        Ok(said.into_iter().collect())
    }

    fn conversations(&self) -> MutexGuard<'_, HashMap<UnitCode, Conversation>> {
        self.conversations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest checkpoint, if `peer` does not hold it, or others cosigned it meanwhile.
    async fn offer(&self, peer: &UnitCode) -> Result<Option<Witnessing>, store::Error> {
        let conversation = self.conversations().get(peer).copied().unwrap_or_default();
        let (Some(holds), Some(newest)) = (conversation.holds, self.journal.newest().await?) else {
            return Ok(None);
        };
        let size = newest.checkpoint.size;
        // Cosignatures of the other children are for a child; what a parent's witnesses say goes up
        // as alarms.
        let is_parent = self.unit.parent().as_ref() == Some(peer);
        let others = if is_parent { None } else { self.journal.witnessed_by_others(peer) };
        let is_shown = others.as_ref().is_some_and(|others| others.checkpoint.size == size);
        if conversation.offered == (size, true) || conversation.offered == (size, is_shown) {
            return Ok(None);
        }
        let offer = self.made(peer, (newest, others), holds).await?;
        let mut conversations = self.conversations();
        conversations.entry(peer.clone()).or_default().offered = (size, is_shown);
        Ok(Some(Witnessing::Offer(Box::new(offer))))
    }

    /// An offer of `newest`, from the size that `peer` holds, beside what others cosigned.
    async fn made(
        &self,
        peer: &UnitCode,
        (newest, others): (Signed, Option<Signed>),
        holds: u64,
    ) -> Result<Offer, store::Error> {
        let size = newest.checkpoint.size;
        let (store, unit) = (self.unit.store.as_ref(), &self.unit.code);
        let old_size = holds.min(size);
        let consistency = store::journal::consistency(store, unit, old_size, size).await?;
        let mut offer = Offer {
            checkpoint: newest.note.only(&newest.checkpoint.origin).to_string(),
            old_size,
            consistency,
            ..Offer::default()
        };
        if let Some(others) = others {
            let shown = others.checkpoint.size;
            offer.witnessed_consistency =
                store::journal::consistency(store, unit, shown, size).await?;
            offer.cosigners = self.cosigners(&others, peer);
            offer.witnessed = others.note.to_string();
        }
        Ok(offer)
    }

    /// An offer for `peer`, which holds `holds` leaves; `None`: there is nothing newer. Apart from
    /// what is said on a link.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(super) async fn offer_beyond(
        &self,
        peer: &UnitCode,
        holds: u64,
    ) -> Result<Option<Offer>, store::Error> {
        let newest = self.journal.newest().await?;
        let Some(newest) = newest.filter(|newest| newest.checkpoint.size > holds) else {
            return Ok(None);
        };
        let is_parent = self.unit.parent().as_ref() == Some(peer);
        let others = if is_parent { None } else { self.journal.witnessed_by_others(peer) };
        self.made(peer, (newest, others), holds).await.map(Some)
    }

    /// Size of the newest checkpoint of `peer` that was cosigned; 0: none.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(super) async fn held_size(&self, peer: &UnitCode) -> Result<u64, store::Error> {
        let held = self.held(peer).await?.and_then(|held| parsed(&held));
        Ok(held.map_or(0, |held| held.checkpoint.size))
    }

    /// Size that a checkpoint names, whoever signed it; 0: it is none.
    pub(super) fn size_of(&self, checkpoint: &str) -> u64 {
        let signed = Note::parse(checkpoint).and_then(Signed::of);
        signed.map_or(0, |signed| signed.checkpoint.size)
    }

    /// Delegations of the children that cosigned.
    fn cosigners(&self, cosigned: &Signed, peer: &UnitCode) -> Vec<Envelope> {
        let trust = self.unit.trust();
        let prefix = note::origin(&self.unit.trust_domain, "");
        let child = |name: &str| {
            let unit = name.strip_prefix(&prefix)?.parse().ok()?;
            let known = trust.delegation(&unit, None)?;
            let is_child = known.delegation.issuer.as_ref() == Some(&self.unit.code);
            (is_child && unit != *peer).then(|| known.envelope.clone())
        };
        cosigned.witnesses().filter_map(child).take(MAX_COSIGNERS).collect()
    }

    async fn judge(&self, peer: &UnitCode, offer: &Offer) -> Result<Witnessing, store::Error> {
        let origin = note::origin(&self.unit.trust_domain, peer.as_str());
        let now = self.unit.clock.now_unix_ms();
        let keys = self.unit.trust().statement_keys(peer, Some(now));
        let Some(offered) = read(&offer.checkpoint, &origin, &keys) else {
            return self.refuse_forged(peer).await;
        };
        let row = self.unit.store.get(&self.unit.code, Table::Witnessed, &held_key(peer)).await?;
        let held: Option<Held> = row.as_deref().map(|row| format::read(FORMAT, row)).transpose()?;
        let known = held.as_ref().and_then(parsed);
        let comparison = known.as_ref().map_or(Comparison::Follows, |known| {
            compare(&known.checkpoint, &offered.checkpoint, offer)
        });
        match (comparison, held, known) {
            (Comparison::Elsewhere, _, Some(known)) => {
                Ok(Witnessing::Held { size: known.checkpoint.size })
            }
            (Comparison::Breach(breach), Some(held), Some(known)) => {
                self.breach(peer, breach, (&known, &held), &offered, &offer.consistency).await
            }
            (_, held, known) => {
                let keys = self.unit.trust().statement_keys(peer, None);
                match self.others(peer, offer, &offered, &keys) {
                    Ok(others) => self.cosign(peer, offered, held.zip(known), others, row).await,
                    Err(shown) => {
                        let held = held.unwrap_or_else(|| Held::of(&shown.note, now));
                        let (breach, proof) = (Breach::SplitView, &offer.witnessed_consistency);
                        self.breach(peer, breach, (&shown, &held), &offered, proof).await
                    }
                }
            }
        }
    }

    async fn refuse_forged(&self, peer: &UnitCode) -> Result<Witnessing, store::Error> {
        const REASON: &str = "bad-checkpoint";
        tracing::warn!(unit = %self.unit.code, %peer, "checkpoint refused: it is not the peer's");
        let act = Act::refused(Actor::unit(peer), "journal.offer", peer.as_str(), REASON);
        self.unit.record_refusal(peer.as_str(), act).await?;
        Ok(Witnessing::Refused { reason: REASON.to_owned() })
    }

    /// Names of the other witnesses whose cosignatures came along and fit the offer; `Err`: what
    /// they were shown does not.
    fn others(
        &self,
        peer: &UnitCode,
        offer: &Offer,
        offered: &Signed,
        keys: &[VerifyingKey],
    ) -> Result<Vec<String>, Signed> {
        let origin = &offered.checkpoint.origin;
        let Some(shown) = read(&offer.witnessed, origin, keys) else { return Ok(Vec::new()) };
        let names = self.siblings(peer, &offer.cosigners).into_iter().filter_map(|(unit, keys)| {
            let name = note::origin(&self.unit.trust_domain, unit.as_str());
            let cosigned = keys.iter().any(|key| shown.note.verify_cosignature(&name, key).is_ok());
            cosigned.then_some(name)
        });
        let names: Vec<_> = names.collect();
        // Only what another unit really saw counts, against the peer as for it.
        let fits = follows(&shown.checkpoint, &offered.checkpoint, &offer.witnessed_consistency);
        if names.is_empty() || fits { Ok(names) } else { Err(shown) }
    }

    /// The peer's other children whose delegations came along, with their STATEMENT keys. They are
    /// judged and not kept: a thousand siblings would each keep a thousand.
    fn siblings(
        &self,
        peer: &UnitCode,
        delegations: &[Envelope],
    ) -> Vec<(UnitCode, Vec<VerifyingKey>)> {
        let now = self.unit.clock.now_unix_ms();
        let trust = self.unit.trust();
        let sibling = |envelope: &Envelope| {
            let checked = trust.check(envelope, Some(now)).ok()?;
            let delegation = &checked.known().delegation;
            let is_sibling = delegation.issuer.as_ref() == Some(peer)
                && delegation.desk.is_none()
                && delegation.unit != self.unit.code;
            let keys = checked.known().statement_keys();
            is_sibling.then(|| (delegation.unit.clone(), keys))
        };
        delegations.iter().take(MAX_COSIGNERS).filter_map(sibling).collect()
    }

    async fn cosign(
        &self,
        peer: &UnitCode,
        offered: Signed,
        held: Option<(Held, Signed)>,
        others: Vec<String>,
        row: Option<Vec<u8>>,
    ) -> Result<Witnessing, store::Error> {
        let now = self.unit.clock.now_unix_ms();
        let next = match held {
            Some((held, known)) if known.checkpoint == offered.checkpoint => {
                let is_known = others.iter().all(|name| held.others.contains(name));
                if is_known && held.breaches.is_empty() {
                    return Ok(Witnessing::Cosigned { checkpoint: held.checkpoint });
                }
                Held { others, breaches: Vec::new(), ..held }
            }
            Some(_) | None => {
                let mut note = offered.note;
                let seconds = u64::try_from(now / 1_000).unwrap_or_default();
                note.cosign(self.journal.origin(), &self.unit.keys().statement, seconds);
                Held { others, ..Held::of(&note, now) }
            }
        };
        let mut batch = Batch::new(&self.unit.code);
        // Without it no link stays up.
        batch.urgent();
        let key = held_key(peer);
        match row {
            Some(row) => batch.require(Table::Witnessed, key.clone(), row),
            None => batch.require_absent(Table::Witnessed, key.clone()),
        }
        batch.put(Table::Witnessed, key, format::write(FORMAT, &next));
        self.unit.store.submit(batch).await?;
        Ok(Witnessing::Cosigned { checkpoint: next.checkpoint })
    }

    /// Takes in the cosignature of a neighbour.
    async fn cosigned(&self, peer: &UnitCode, text: &str) -> Result<(), store::Error> {
        let name = note::origin(&self.unit.trust_domain, peer.as_str());
        let now = self.unit.clock.now_unix_ms();
        let keys = self.unit.trust().statement_keys(peer, Some(now));
        let cosigned = Note::parse(text).and_then(Signed::of).ok().filter(|signed| {
            keys.iter().any(|key| signed.note.verify_cosignature(&name, key).is_ok())
        });
        let cosignature = cosigned.map(|signed| Signed { note: signed.note.only(&name), ..signed });
        let is_own = match &cosignature {
            Some(cosignature) => self.journal.add_cosignatures(cosignature, false).await?,
            None => false,
        };
        let Some(cosignature) = cosignature.filter(|_| is_own) else {
            tracing::warn!(unit = %self.unit.code, %peer, "cosignature refused: it does not hold");
            let act = Act::refused(Actor::unit(peer), "journal.cosign", &*name, "bad-cosignature");
            return self.unit.record_refusal(peer.as_str(), act).await;
        };
        let size = cosignature.checkpoint.size;
        self.conversations().entry(peer.clone()).or_default().holds = Some(size);
        Ok(())
    }
}

impl Held {
    fn of(note: &Note, time_unix_ms: UnixMillis) -> Self {
        let checkpoint = note.to_string();
        Self { checkpoint, time_unix_ms, others: Vec::new(), breaches: Vec::new() }
    }
}

/// The word of a refusal as it stands in a leaf.
fn refusal_word(reason: &str) -> &'static str {
    match Breach::of(reason) {
        Some(breach) => breach.as_str(),
        None => "bad-checkpoint",
    }
}

fn parsed(held: &Held) -> Option<Signed> {
    Note::parse(&held.checkpoint).and_then(Signed::of).ok()
}

fn held_key(peer: &UnitCode) -> Vec<u8> {
    [HELD, peer.as_str().as_bytes()].concat()
}
