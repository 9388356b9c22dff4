//! What one unit believes about who may speak: delegations that hold, from the root key down.
//!
//! Promises that nothing is believed without a chain of signatures to the root key, that no grant
//! reaches beyond its issuer's subtree, level or expiry, that a unit never changes its parent
//! silently, that a statement is judged by the key that was valid when it was made, and that nothing
//! is signed in a suite that the root does not accept. Payloads are parsed only after their
//! signature was verified. Stores nothing, asks nobody.

mod divided;
mod error;
mod judge;
mod known;
mod left;
mod moved;
mod readers;
mod revoked;
mod roots;
mod suites;
mod tree;
mod witnessed;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
};

use lianxi_proto::envelope::{self, STATEMENT_TYPE, VerifyingKey};

use self::judge::check_not_ahead;
pub use self::{
    error::Error,
    known::{Added, Checked, Known, Opened},
    revoked::KnownRevocation,
    roots::{Root, Standing, root_key_id, root_name},
};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{KeyUse, PublicKey},
        unit::{DeskId, UnitCode},
    },
    statement::{
        Envelope,
        delegation::{decode_body, suite_to_proto},
        header::{self, kinds},
    },
};

/// How far outside a validity something is accepted: a clock that is a day off loses nothing.
pub const SKEW_TOLERANCE_MS: i64 = 3 * 24 * 60 * 60 * 1000;

/// A unit, or a desk of it.
pub type Subject = (UnitCode, Option<DeskId>);

/// Who holds a key, and for what. A key never changes its holder or use.
struct Holder {
    subject: Subject,
    key_use: KeyUse,
    /// `None` for keys that do not sign.
    key: Option<VerifyingKey>,
}

/// What one unit believes.
pub struct Trust {
    trust_domain: String,
    /// The given one first; never empty.
    roots: Vec<Root>,
    /// By subject, ascending by serial.
    subjects: BTreeMap<Subject, Vec<Known>>,
    /// All that were ever issued to, by issuer.
    children: BTreeMap<UnitCode, BTreeSet<UnitCode>>,
    /// Units with grants of more than one issuer.
    moved: BTreeSet<UnitCode>,
    keys: BTreeMap<String, Holder>,
    digests: BTreeMap<[u8; 32], (Subject, u64)>,
    /// Payloads that an issuer saw before their keys ended, by whom they are about.
    seen: BTreeMap<[u8; 32], UnitCode>,
    /// By id.
    revocations: BTreeMap<[u8; 32], KnownRevocation>,
    /// Ids of revocations by the key that they name.
    revoked_keys: BTreeMap<String, BTreeSet<[u8; 32]>>,
    /// Ids of revocations of whole grants by the unit that they name.
    revoked_units: BTreeMap<UnitCode, BTreeSet<[u8; 32]>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Trust")
            .field("trust_domain", &self.trust_domain)
            .field("root", &self.root())
            .field("subjects", &self.subjects.len())
            .finish_non_exhaustive()
    }
}

impl Trust {
    /// Believes in a root key alone.
    pub fn new(trust_domain: String, root_key: VerifyingKey) -> Self {
        Self {
            trust_domain,
            roots: vec![Root::given(root_key)],
            subjects: BTreeMap::new(),
            children: BTreeMap::new(),
            moved: BTreeSet::new(),
            keys: BTreeMap::new(),
            digests: BTreeMap::new(),
            seen: BTreeMap::new(),
            revocations: BTreeMap::new(),
            revoked_keys: BTreeMap::new(),
            revoked_units: BTreeMap::new(),
        }
    }

    /// Trust domain of the city.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Public root key: the one that signed last, from the given one onward.
    pub fn root_key(&self) -> &VerifyingKey {
        &self.current().key
    }

    /// Takes in a delegation. The same one again changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error`] says what does not hold; nothing was taken in.
    pub fn add(&mut self, envelope: &Envelope, now: UnixMillis) -> Result<Added, Error> {
        let checked = self.check(envelope, Some(now))?;
        Ok(self.take(checked))
    }

    /// Takes in delegations of which one may name the root key of another.
    ///
    /// # Errors
    ///
    /// As [`Trust::add`], for the first one that does not hold; others were taken in.
    pub fn add_all(&mut self, envelopes: &[Envelope], now: UnixMillis) -> Result<(), Error> {
        roots::take_in_turn(envelopes, |envelope| self.add(envelope, now).map(drop))
    }

    /// Takes in a delegation that this unit stored once it had believed it: all is checked again but
    /// the present time, because a clock that was set back must not lose the unit its chain.
    ///
    /// # Errors
    ///
    /// As [`Trust::add`].
    pub fn restore(&mut self, envelope: &Envelope) -> Result<Added, Error> {
        let checked = self.check(envelope, None)?;
        Ok(self.take(checked))
    }

    /// As [`Trust::restore`], of which one may name the root key of another.
    ///
    /// # Errors
    ///
    /// As [`Trust::add`], for the first one that does not hold; others were taken in.
    pub fn restore_all(&mut self, envelopes: &[Envelope]) -> Result<(), Error> {
        roots::take_in_turn(envelopes, |envelope| self.restore(envelope).map(drop))
    }

    /// Takes in a delegation of a proof: as [`Trust::restore`], but nothing of it was believed before.
    pub(super) fn add_proof(&mut self, envelope: &Envelope) -> Result<Added, Error> {
        let checked = self.judge(envelope, None, Judged::Proof)?;
        Ok(self.take(checked))
    }

    /// Takes in a delegation of a file that was written at `at` by somebody who believed it: keys
    /// that have ended since they signed do not take back what they granted.
    ///
    /// # Errors
    ///
    /// As [`Trust::add`].
    pub fn add_recorded(&mut self, envelope: &Envelope, at: UnixMillis) -> Result<Added, Error> {
        let checked = self.judge(envelope, Some(at), Judged::Recorded)?;
        Ok(self.take(checked))
    }

    /// Judges a delegation without taking it in, so that it can be stored first.
    ///
    /// # Errors
    ///
    /// As [`Trust::add`].
    pub fn check(&self, envelope: &Envelope, now: Option<UnixMillis>) -> Result<Checked, Error> {
        self.judge(envelope, now, if now.is_some() { Judged::New } else { Judged::Stored })
    }

    fn judge(
        &self,
        envelope: &Envelope,
        now: Option<UnixMillis>,
        judged: Judged,
    ) -> Result<Checked, Error> {
        let payload_sha256 = envelope::payload_sha256(envelope);
        if let Some(known) = self.by_digest(&payload_sha256) {
            return Ok(Checked { known: known.clone(), new: false });
        }
        let signers = self.signers(envelope)?;
        let statement = header::decode(&envelope.payload)?;
        let header = &statement.header;
        if header.kind != kinds::DELEGATION {
            return Err(Error::NotADelegation(header.kind.clone()));
        }
        let delegation = decode_body(&statement.body)?;
        if delegation.trust_domain != self.trust_domain {
            let (found, expected) = (delegation.trust_domain, self.trust_domain.clone());
            return Err(Error::Domain { found, expected });
        }
        check_not_ahead(header.time_unix_ms, now)?;
        check_not_ahead(delegation.not_before_unix_ms, now)?;
        let speaker = delegation.issuer.as_ref().unwrap_or(&delegation.unit);
        if header.source != *speaker {
            let claimed = header.source.clone();
            return Err(Error::WrongSource { claimed, holder: speaker.to_string() });
        }
        let mut known =
            Known { delegation, envelope: envelope.clone(), payload_sha256, order: None };
        match &known.delegation.issuer {
            None => self.check_root(&known, &signers, judged)?,
            Some(issuer) => {
                let time = header.time_unix_ms;
                self.check_issued(&known.delegation, issuer, &signers, time)?;
                if known.delegation.desk.is_none() {
                    known.order = self.check_place(&known.delegation, now)?;
                }
            }
        }
        self.check_succession(&known, &signers)?;
        // What was stored was believed before the end was known.
        if let Some(now) = now.filter(|_| judged == Judged::New) {
            let seen = self.seen.get(&payload_sha256).filter(|of| {
                **of == known.delegation.unit || Some(*of) == known.delegation.issuer.as_ref()
            });
            for (key_id, holder) in signers.iter().filter_map(Signed::holder) {
                self.check_ended(holder, key_id, now, None, seen.is_some())?;
            }
            self.check_no_revoked_key(&known)?;
        }
        self.check_keys(&known.delegation)?;
        self.check_suites(&known.delegation, &signers, header.time_unix_ms)?;
        self.check_serial(&known)?;
        Ok(Checked { known, new: true })
    }

    /// Takes in what [`Trust::check`] of this same trust accepted.
    pub fn take(&mut self, checked: Checked) -> Added {
        let Checked { known, new } = checked;
        let delegation = known.delegation.clone();
        // Between check and take the same grant can have come another way.
        if !new || self.digests.contains_key(&known.payload_sha256) {
            return Added { delegation, new: false };
        }
        let subject = known.subject();
        for key in &delegation.keys {
            let verifying = verifying_key(key);
            if let Entry::Vacant(entry) = self.keys.entry(id_of(key)) {
                let key_use = key.key_use;
                entry.insert(Holder { subject: subject.clone(), key_use, key: verifying });
            }
        }
        match (&delegation.issuer, &delegation.desk) {
            (None, _) => {}
            (Some(issuer), None) => {
                let children = self.children.entry(issuer.clone()).or_default();
                children.insert(delegation.unit.clone());
                if let Some(order) = &known.order {
                    self.moved.insert(delegation.unit.clone());
                    let children = self.children.entry(order.from.clone()).or_default();
                    children.insert(delegation.unit.clone());
                }
            }
            (Some(_), Some(_)) => {}
        }
        for seen in &delegation.change.seen_sha256 {
            self.seen.entry(*seen).or_insert_with(|| delegation.unit.clone());
        }
        self.digests.insert(known.payload_sha256, (subject.clone(), delegation.serial));
        self.take_roots(&known);
        let history = self.subjects.entry(subject).or_default();
        let position = history.partition_point(|one| one.delegation.serial < delegation.serial);
        history.insert(position, known);
        Added { delegation, new: true }
    }

    /// Every delegation that is believed, history included, for storing.
    pub fn all(&self) -> impl Iterator<Item = &Known> {
        self.subjects.values().flatten()
    }

    /// Opens a statement: every signature must hold, and one must be by a STATEMENT key of the
    /// source or of one of its desks that was valid at the time of the header and has not ended
    /// since.
    ///
    /// # Errors
    ///
    /// [`Error`] with [`Error::reason`] and [`Error::field`] for the rejection.
    pub fn open(&self, envelope: &Envelope, now: UnixMillis) -> Result<Opened, Error> {
        self.open_witnessed(envelope, now, None)
    }

    /// Opens a statement of which it is known that it was there at `witnessed`: a key that ended
    /// later still holds for it.
    ///
    /// # Errors
    ///
    /// As [`Trust::open`].
    pub fn open_witnessed(
        &self,
        envelope: &Envelope,
        now: UnixMillis,
        witnessed: Option<UnixMillis>,
    ) -> Result<Opened, Error> {
        let signers = self.signers(envelope)?;
        let statement = header::decode(&envelope.payload)?;
        let (source, time) = (&statement.header.source, statement.header.time_unix_ms);
        check_not_ahead(time, Some(now))?;
        let payload_sha256 = envelope::payload_sha256(envelope);
        let seen = self.seen.get(&payload_sha256) == Some(source);
        let mut signer = None;
        for signed in &signers {
            let Signed::Holder(key_id, holder) = signed else {
                let claimed = source.clone();
                return Err(Error::WrongSource { claimed, holder: "the root key".to_owned() });
            };
            if holder.key_use != KeyUse::Statement {
                let (holder, key_use) = (shown(&holder.subject), holder.key_use);
                return Err(Error::WrongUse { holder, key_use });
            }
            self.in_force(holder, key_id, time)?;
            self.check_signed_suite(holder, time)?;
            self.check_ended(holder, key_id, now, witnessed, seen)?;
            if holder.subject.0 == *source && signer.is_none() {
                signer = Some(holder.subject.clone());
            }
        }
        let Some(signer) = signer else {
            if self.delegation(source, None).is_none() {
                return Err(Error::UnknownUnit(source.clone()));
            }
            let holder = signers.iter().map(Signed::shown).collect::<Vec<_>>().join(", ");
            return Err(Error::WrongSource { claimed: source.clone(), holder });
        };
        Ok(Opened { statement, signer, payload_sha256 })
    }

    /// Verifies every signature, by keys that are known.
    fn signers(&self, envelope: &Envelope) -> Result<Vec<Signed<'_>>, Error> {
        let mut keys = Vec::new();
        let mut signers = Vec::new();
        for signature in &envelope.signatures {
            if let Some((key_id, holder)) = self.keys.get_key_value(&signature.key_id)
                && let Some(key) = &holder.key
            {
                keys.push(key.clone());
                signers.push(Signed::Holder(key_id, holder));
            } else if let Some(root) = self.root_by_id(&signature.key_id) {
                keys.push(root.key.clone());
                signers.push(Signed::Root(root));
            }
        }
        envelope::verify(envelope, STATEMENT_TYPE, &keys)?;
        Ok(signers)
    }
}

/// Where a grant that is judged comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Judged {
    /// From elsewhere, now.
    New,
    /// From a file of somebody who believed it.
    Recorded,
    /// From a proof that somebody made.
    Proof,
    /// From this unit's own store.
    Stored,
}

/// Who signed.
enum Signed<'a> {
    Root(&'a Root),
    Holder(&'a str, &'a Holder),
}

impl<'a> Signed<'a> {
    fn holder(&self) -> Option<(&'a str, &'a Holder)> {
        match self {
            Self::Root(_) => None,
            Self::Holder(key_id, holder) => Some((key_id, holder)),
        }
    }

    fn is_root(&self, id: &str) -> bool {
        match self {
            Self::Root(root) => root.key_id() == id,
            Self::Holder(..) => false,
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Root(_) => "the root key".to_owned(),
            Self::Holder(_, holder) => shown(&holder.subject),
        }
    }
}

fn shown((unit, desk): &Subject) -> String {
    match desk {
        None => unit.to_string(),
        Some(desk) => format!("desk {desk} of {unit}"),
    }
}

/// The key, if it verifies signatures.
fn verifying_key(key: &PublicKey) -> Option<VerifyingKey> {
    VerifyingKey::new(suite_to_proto(key.suite), &key.bytes).ok()
}

fn id_of(key: &PublicKey) -> String {
    envelope::key_id(suite_to_proto(key.suite), &key.bytes)
}
