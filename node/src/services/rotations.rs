//! The change of a unit's keys: what is kept of it, how far it is, and what each step writes.
//!
//! Promises that how far a change is follows from what is stored and granted, so that any step that
//! was cut off is done again or found done. Files and the parent are reached by `node`; rules are
//! in `domain::rotation`.

use lianxi_proto::envelope;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::{
    enrolments::{KeyRow, put_delegation},
    hosted::Hosted,
    unit::{LearnError, Unit},
};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{Delegation, KeyChange, KeyUse, PublicKey},
        journal::{Act, Actor, Leaf},
        rotation::{Facts, Replaced, Stage},
        unit::{DeskId, UnitCode},
    },
    identity::{
        issue,
        keys::{NextKeys, UnitKeys},
        trust::{Known, Trust},
    },
    statement::{
        delegation::{MAX_SEEN, suite_to_proto},
        rotation::KeyRequest,
    },
    store::{self, Batch, Table, format},
};

/// Name of the acts of a change.
pub const ACT: &str = "node.rotate-key";

const FORMAT: u8 = 1;

/// Key of the row in [`Table::Rotations`]: a unit changes its keys once at a time.
const KEY: &[u8] = b"current";

/// Grants of one batch.
const PER_BATCH: usize = 100;

/// A change that is under way, as its row holds it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Rotation {
    replaced: Vec<String>,
    next: Vec<KeyRow>,
    former: Vec<KeyRow>,
    next_ca: Option<String>,
    former_ca: Option<String>,
    /// Certificates that it issued are taken until they are renewed.
    former_ca_certificate: Option<String>,
    started_unix_ms: UnixMillis,
    /// When the new keys came into use; 0: not yet.
    used_unix_ms: UnixMillis,
    /// Leaves of the journal by then.
    used_size: u64,
    /// Payloads by former keys that are shown again later; hex.
    seen: Vec<String>,
}

/// How far a change is, for people.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What is replaced.
    pub replaced: Vec<Replaced>,
    /// How far it is.
    pub stage: Stage,
    /// When it began.
    pub started_unix_ms: UnixMillis,
    /// Children that are to hold the grant.
    pub peers: usize,
    /// What is the case.
    pub facts: Facts,
    /// Why the last step was not done, or empty.
    pub failure: String,
}

impl Progress {
    /// What a change would begin with.
    pub fn planned(replaced: &[Replaced]) -> Self {
        Self {
            replaced: replaced.to_vec(),
            stage: Stage::Prepared,
            started_unix_ms: 0,
            peers: 0,
            facts: Facts::default(),
            failure: String::new(),
        }
    }
}

fn id_of(key: &PublicKey) -> String {
    envelope::key_id(suite_to_proto(key.suite), &key.bytes)
}

impl Rotation {
    /// A change from `keys` to `next`.
    pub fn new(replaced: &[Replaced], keys: &UnitKeys, next: &NextKeys, now: UnixMillis) -> Self {
        let next_keys = next.public_keys();
        let is_replaced = |key: &&PublicKey| next_keys.iter().any(|it| it.key_use == key.key_use);
        let former = keys.public_keys();
        let former_ca = next.ca.as_ref().map(|_| hex::encode(keys.ca_sha256()));
        Self {
            replaced: replaced.iter().map(ToString::to_string).collect(),
            former: former.iter().filter(is_replaced).map(KeyRow::new).collect(),
            next: next_keys.iter().map(KeyRow::new).collect(),
            next_ca: next.ca_sha256().map(hex::encode),
            former_ca,
            former_ca_certificate: next.ca.as_ref().map(|_| hex::encode(&keys.ca_certificate)),
            started_unix_ms: now,
            used_unix_ms: 0,
            used_size: 0,
            seen: Vec::new(),
        }
    }

    /// Reads the change of a unit; `None`: there is none.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn load(
        store: &dyn store::Store,
        unit: &UnitCode,
    ) -> Result<Option<Self>, store::Error> {
        let row = store.get(unit, Table::Rotations, KEY).await?;
        row.map(|row| format::read(FORMAT, &row)).transpose()
    }

    /// The CA that a unit had before, while its children's certificates of that one are taken.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn former_ca(
        store: &dyn store::Store,
        unit: &UnitCode,
    ) -> Result<Option<CertificateDer<'static>>, store::Error> {
        let rotation = Self::load(store, unit).await?;
        let certificate = rotation.and_then(|rotation| rotation.former_ca_certificate);
        Ok(certificate.and_then(|text| hex::decode(text).ok()).map(CertificateDer::from))
    }

    /// When the new keys came into use; `None`: they are not yet, or it was not kept.
    pub fn used_unix_ms(&self) -> Option<UnixMillis> {
        Some(self.used_unix_ms).filter(|time| *time != 0)
    }

    /// What is replaced.
    pub fn replaced(&self) -> Vec<Replaced> {
        self.replaced.iter().filter_map(|word| word.parse().ok()).collect()
    }

    /// The public halves of the new keys.
    pub fn next_keys(&self) -> Vec<PublicKey> {
        self.next.iter().map(KeyRow::key).collect()
    }

    /// Ids of the former keys of a use.
    pub fn former_ids(&self, key_use: KeyUse) -> Vec<String> {
        let keys = self.former.iter().map(KeyRow::key);
        keys.filter(|key| key.key_use == key_use).map(|key| id_of(&key)).collect()
    }

    fn put(&self, batch: &mut Batch) {
        batch.put(Table::Rotations, KEY, format::write(FORMAT, self));
    }

    /// Keeps the change as begun, with its act.
    ///
    /// # Errors
    ///
    /// [`store::Error::Conflict`] if one is under way.
    pub async fn begin(&self, unit: &Unit, by: Actor) -> Result<(), store::Error> {
        let mut batch = Batch::new(&unit.code);
        batch.require_absent(Table::Rotations, KEY);
        self.put(&mut batch);
        let subject = format!("{} {}", unit.code, self.replaced.join("+"));
        batch.journal(unit.clock.now_unix_ms(), &Leaf::Act(Act::done(by, ACT, subject)));
        unit.store.submit(batch).await
    }

    /// Keeps that the new keys are in use, with its act.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn keep_used(&mut self, hosted: &Hosted) -> Result<(), store::Error> {
        if self.used_unix_ms != 0 {
            return Ok(());
        }
        let unit = &hosted.unit;
        self.seen = self.seen(hosted).await?.iter().map(hex::encode).collect();
        self.used_unix_ms = unit.clock.now_unix_ms();
        self.used_size = store::journal::size(unit.store.as_ref(), &unit.code).await?;
        self.put_with_act(unit, "node.rotate-key.use").await
    }

    async fn put_with_act(&self, unit: &Unit, name: &'static str) -> Result<(), store::Error> {
        let mut batch = Batch::new(&unit.code);
        self.put(&mut batch);
        let act = Act::done(Actor::node(), name, unit.code.as_str());
        batch.journal(unit.clock.now_unix_ms(), &Leaf::Act(act));
        unit.store.submit(batch).await
    }

    /// Forgets the change, which is done.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn finish(&self, unit: &Unit) -> Result<(), store::Error> {
        let mut batch = Batch::new(&unit.code);
        batch.delete(Table::Rotations, KEY);
        let act = Act::done(Actor::node(), "node.rotate-key.retire", unit.code.as_str());
        batch.journal(unit.clock.now_unix_ms(), &Leaf::Act(act));
        unit.store.submit(batch).await
    }

    /// What is the case. `overlap_ms`: how long former keys hold at least.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn facts(&self, hosted: &Hosted, overlap_ms: i64) -> Result<Facts, store::Error> {
        let unit = &hosted.unit;
        let keys = unit.keys();
        let uses_ca =
            self.next_ca.as_ref().is_none_or(|next| *next == hex::encode(keys.ca_sha256()));
        let (next, former) = (self.next_keys(), self.former.iter().map(KeyRow::key));
        let own = keys.public_keys();
        let mut facts = Facts {
            in_use: uses_ca && next.iter().all(|key| own.contains(key)),
            overlap_ends_unix_ms: self.used_unix_ms.saturating_add(overlap_ms),
            ..Facts::default()
        };
        let (serial, peers) = {
            let trust = unit.trust();
            let Some(known) = trust.delegation(&unit.code, None) else { return Ok(facts) };
            let granted = &known.delegation;
            let names_ca = |ca: &Option<String>| {
                ca.as_ref().is_some_and(|ca| granted.cas().any(|one| hex::encode(one) == *ca))
            };
            facts.names_new = next.iter().all(|key| granted.keys.contains(key))
                && (self.next_ca.is_none() || names_ca(&self.next_ca));
            facts.names_former = former.into_iter().any(|key| granted.keys.contains(&key))
                || names_ca(&self.former_ca);
            facts.ungranted = self.ungranted(&trust, &unit.code).len();
            (granted.serial, staying_children(&trust, &unit.code))
        };
        for peer in &peers {
            if acquainted_with(unit, peer).await? < serial {
                facts.missing.push(peer.clone());
            }
        }
        if facts.in_use && facts.names_former {
            facts.unsent = unit.unsent_by(&self.former_ids(KeyUse::Statement)).await?;
            let covering = hosted.journal.covering(self.used_size).await?;
            let witnessed = covering.is_some_and(|one| one.witnesses().next().is_some());
            let alone = unit.parent().is_none() && peers.is_empty();
            facts.unwitnessed = !witnessed && !alone;
        }
        Ok(facts)
    }

    /// How far the change is, by what is the case.
    pub fn progress(&self, unit: &Unit, facts: Facts) -> Progress {
        Progress {
            replaced: self.replaced(),
            // In use only once that is kept: the overlap counts from there.
            stage: if facts.in_use && self.used_unix_ms == 0 {
                Stage::Granted
            } else {
                facts.stage()
            },
            started_unix_ms: self.started_unix_ms,
            peers: staying_children(&unit.trust(), &unit.code).len(),
            facts,
            failure: String::new(),
        }
    }

    /// What the parent, or the root key, is to be asked for instead of `own`: the new keys, with
    /// the former ones or without.
    pub fn request(&self, own: &Delegation, with_former: bool) -> KeyRequest {
        let former: Vec<_> = self.former.iter().map(KeyRow::key).collect();
        let mut keys = own.keys.clone();
        keys.retain(|key| with_former || !former.contains(key));
        let new = self.next_keys().into_iter().filter(|key| !own.keys.contains(key));
        keys.extend(new);
        let ca = own.ca_sha256.unwrap_or_default();
        let next_ca = self.next_ca.as_ref().and_then(|text| digest(text));
        let (ca_sha256, further_ca_sha256) = match (next_ca, with_former) {
            (Some(next), true) => (ca, vec![next]),
            (Some(next), false) => (next, Vec::new()),
            (None, _) => (ca, own.change.further_ca_sha256.clone()),
        };
        let seen = self.seen.iter().filter_map(|text| digest(text));
        KeyRequest {
            unit: own.unit.clone(),
            serial: own.serial,
            keys,
            ca_sha256,
            further_ca_sha256,
            seen_sha256: if with_former { Vec::new() } else { seen.collect() },
            proofs: Vec::new(),
        }
    }

    /// True if the former keys are still to be named at `now`, as far as time tells.
    pub fn names_former_at(&self, now: UnixMillis, overlap_ms: i64) -> bool {
        self.used_unix_ms == 0 || now < self.used_unix_ms.saturating_add(overlap_ms)
    }

    /// What former keys signed and what is shown again later, without a witness beside it: the
    /// catalogue in force, and grants of units and desks that have left.
    async fn seen(&self, hosted: &Hosted) -> Result<Vec<[u8; 32]>, store::Error> {
        let unit = &hosted.unit;
        let mut seen = Vec::new();
        if let Some(in_force) = hosted.catalogues.in_force()
            && let Some(envelope) = unit.statement(in_force.statement_id).await?
            && is_by(&envelope, &self.former_ids(KeyUse::Statement))
        {
            seen.push(envelope::payload_sha256(&envelope));
        }
        let former = self.former_ids(KeyUse::Delegation);
        let trust = unit.trust();
        let left = trust.all().filter(|known| {
            let Delegation { unit: of, desk, issuer, .. } = &known.delegation;
            issuer.as_ref() == Some(&unit.code)
                && trust.revoked(of, desk.as_ref()).is_some()
                && is_by(&known.envelope, &former)
        });
        let mut left: Vec<_> = left.collect();
        left.sort_by_key(|known| std::cmp::Reverse(known.delegation.serial));
        seen.extend(left.into_iter().map(|known| known.payload_sha256));
        seen.truncate(MAX_SEEN);
        Ok(seen)
    }

    /// Children and desks whose newest grant rests on a former key.
    fn ungranted(&self, trust: &Trust, unit: &UnitCode) -> Vec<(UnitCode, Option<DeskId>)> {
        let former = self.former_ids(KeyUse::Delegation);
        if former.is_empty() {
            return Vec::new();
        }
        let below = trust.subtree(unit).into_iter();
        let own = below.filter(|known| {
            known.delegation.issuer.as_ref() == Some(unit) && is_by(&known.envelope, &former)
        });
        let subjects =
            own.map(|known| (known.delegation.unit.clone(), known.delegation.desk.clone()));
        subjects.filter(|(of, desk)| trust.revoked(of, desk.as_ref()).is_none()).collect()
    }

    /// Grants some children and desks anew, with the new key. What was granted to them before is
    /// named, so that it counts after the former key has ended.
    ///
    /// # Errors
    ///
    /// A grant that does not hold, the store's.
    pub async fn grant_anew(&self, unit: &Unit) -> Result<(), LearnError> {
        let former = self.former_ids(KeyUse::Delegation);
        let now = unit.clock.now_unix_ms();
        let keys = unit.keys();
        let mut batch = Batch::new(&unit.code);
        let mut granted = Vec::new();
        {
            let trust = unit.trust();
            for (of, desk) in self.ungranted(&trust, &unit.code).into_iter().take(PER_BATCH) {
                let history = trust.grants_of(&of, desk.as_ref());
                let Some(newest) = history.last() else { continue };
                let grant = anew(&newest.delegation, history, &former, now);
                let envelope = issue::sign(&grant, &keys.delegation, now);
                let checked = trust.check(&envelope, Some(now));
                let checked = checked.map_err(|error| LearnError::Refused(error.to_string()))?;
                put_delegation(&mut batch, checked.known(), now);
                granted.push(checked);
            }
        }
        unit.store.submit(batch).await?;
        granted.into_iter().for_each(|checked| unit.take_in(checked));
        Ok(())
    }
}

/// The same grant again, which names those before it.
fn anew(newest: &Delegation, history: &[Known], former: &[String], now: UnixMillis) -> Delegation {
    let by_former = history.iter().rev().filter(|known| is_by(&known.envelope, former));
    let mut seen: Vec<_> = by_former.map(|known| known.payload_sha256).collect();
    seen.extend(newest.change.seen_sha256.iter().copied());
    seen.truncate(MAX_SEEN);
    let serial = newest.serial.saturating_add(1).max(u64::try_from(now).unwrap_or_default());
    let change = KeyChange { seen_sha256: seen, ..newest.change.clone() };
    Delegation { serial, change, ..newest.clone() }
}

fn is_by(envelope: &crate::statement::Envelope, key_ids: &[String]) -> bool {
    envelope.signatures.iter().any(|one| key_ids.contains(&one.key_id))
}

fn digest(text: &str) -> Option<[u8; 32]> {
    hex::decode(text).ok()?.try_into().ok()
}

/// Direct children that are in the tree.
fn staying_children(trust: &Trust, unit: &UnitCode) -> Vec<UnitCode> {
    let children = trust.children(unit).into_iter();
    let here = children
        .filter(|child| trust.parent(child) == Some(unit) && trust.revoked(child, None).is_none());
    here.cloned().collect()
}

/// How far the change of a root key is: who has yet to hold the grant that names the next one.
/// `None`: it names none, or the next one has signed.
///
/// # Errors
///
/// The store's.
pub async fn of_root(unit: &Unit) -> Result<Option<Progress>, store::Error> {
    let (serial, peers) = {
        let trust = unit.trust();
        let last = trust.names_successor().filter(|_| trust.root() == Some(&unit.code));
        let Some(last) = last else { return Ok(None) };
        (last.delegation.serial, staying_children(&trust, &unit.code))
    };
    let mut facts = Facts { names_new: true, names_former: true, ..Facts::default() };
    for peer in &peers {
        if acquainted_with(unit, peer).await? < serial {
            facts.missing.push(peer.clone());
        }
    }
    Ok(Some(Progress {
        replaced: vec![Replaced::Root],
        stage: facts.stage(),
        started_unix_ms: i64::try_from(serial).unwrap_or(i64::MAX),
        peers: peers.len(),
        facts,
        failure: String::new(),
    }))
}

/// Children that have yet to hold the newest grant of `unit`, asked of a stopped host's store.
///
/// # Errors
///
/// The store's.
pub async fn missing_at(
    store: &dyn store::Store,
    trust: &Trust,
    unit: &UnitCode,
) -> Result<Vec<UnitCode>, store::Error> {
    let newest = trust.delegation(unit, None).map_or(0, |known| known.delegation.serial);
    let mut missing = Vec::new();
    for peer in staying_children(trust, unit) {
        let row = store.get(unit, Table::Acquaintances, peer.as_str().as_bytes()).await?;
        let held: u64 = row.map(|row| format::read(FORMAT, &row)).transpose()?.unwrap_or_default();
        if held < newest {
            missing.push(peer);
        }
    }
    Ok(missing)
}

/// The newest delegation of `peer` that is durable here.
///
/// # Errors
///
/// The store's.
pub async fn held(unit: &Unit, peer: &UnitCode) -> Result<Option<[u8; 32]>, store::Error> {
    let newest = {
        let trust = unit.trust();
        let known = trust.delegation(peer, None);
        known.map(|known| (known.payload_sha256, super::enrolments::delegation_key(known)))
    };
    let Some((payload_sha256, key)) = newest else { return Ok(None) };
    let is_kept = unit.store.get(&unit.code, Table::Delegations, &key).await?.is_some();
    Ok(is_kept.then_some(payload_sha256))
}

/// Keeps that `peer` holds the delegation of this unit with that digest.
///
/// # Errors
///
/// The store's.
pub async fn acquainted(
    unit: &Unit,
    peer: &UnitCode,
    payload_sha256: [u8; 32],
) -> Result<(), store::Error> {
    let serial = {
        let trust = unit.trust();
        let mut grants = trust.grants_of(&unit.code, None).iter();
        let known = grants.find(|known| known.payload_sha256 == payload_sha256);
        known.map(|known| known.delegation.serial)
    };
    let Some(serial) = serial else { return Ok(()) };
    if acquainted_with(unit, peer).await? >= serial {
        return Ok(());
    }
    let mut batch = Batch::new(&unit.code);
    batch.urgent();
    batch.put(Table::Acquaintances, peer.as_str(), format::write(FORMAT, &serial));
    unit.store.submit(batch).await
}

/// Serial of the newest delegation of this unit that `peer` said to hold; 0: none.
async fn acquainted_with(unit: &Unit, peer: &UnitCode) -> Result<u64, store::Error> {
    let row = unit.store.get(&unit.code, Table::Acquaintances, peer.as_str().as_bytes()).await?;
    Ok(row.map(|row| format::read(FORMAT, &row)).transpose()?.unwrap_or_default())
}
