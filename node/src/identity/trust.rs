//! What one unit believes about who may speak: delegations that hold, from the root key down.
//!
//! Promises that nothing is believed without a chain of signatures to the root key, that no grant
//! reaches beyond its issuer's subtree, level or expiry, that a unit never changes its parent
//! silently, and that a statement is judged by the key that was valid when it was made. Payloads are
//! parsed only after their signature was verified. Stores nothing, asks nobody.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
};

use lianxi_proto::envelope::{self, STATEMENT_TYPE, Suite as ProtoSuite, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{Delegation, KeyUse, PublicKey},
        unit::{DeskId, Level, UnitCode},
    },
    statement::{
        Envelope,
        delegation::{decode_body, suite_to_proto},
        header::{self, Malformed, Statement, kinds},
    },
};

/// How far outside a validity something is accepted: a clock that is a day off loses nothing.
pub const SKEW_TOLERANCE_MS: i64 = 3 * 24 * 60 * 60 * 1000;

/// A unit, or a desk of it.
pub type Subject = (UnitCode, Option<DeskId>);

/// Why a delegation or statement is not believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// No signature by a known key, or one that does not hold.
    #[error("the signature does not hold: {0}")]
    Envelope(#[from] envelope::Error),
    /// The signed bytes are not what they should be.
    #[error("the statement is malformed at {0}")]
    Malformed(#[from] Malformed),
    /// A statement of another type stands where a delegation should.
    #[error("{0:?} is no delegation")]
    NotADelegation(String),
    /// Of another city.
    #[error("trust domain {found} is not {expected}; the unit belongs to another city")]
    Domain {
        /// Trust domain of the delegation.
        found: String,
        /// Trust domain here.
        expected: String,
    },
    /// The unit that speaks or grants is not known.
    #[error("{0} is not known here; its delegation must come first")]
    UnknownUnit(UnitCode),
    /// Signed by a key of somebody else.
    #[error("{claimed} is named as the source, but the key belongs to {holder}")]
    WrongSource {
        /// Who the statement says it is from.
        claimed: UnitCode,
        /// Whose key signed it.
        holder: String,
    },
    /// The key is the right unit's, but not for this.
    #[error("the key of {holder} is for {key_use:?}, not for this")]
    WrongUse {
        /// Whose key signed.
        holder: String,
        /// What the key may be used for.
        key_use: KeyUse,
    },
    /// A grant at or above the issuer's own level.
    #[error("{issuer} is a {issuer_level} and cannot delegate to {unit} as a {level}")]
    Level {
        /// Unit that would get the grant.
        unit: UnitCode,
        /// Its level.
        level: Level,
        /// Issuing unit.
        issuer: UnitCode,
        /// Level of the issuer.
        issuer_level: Level,
    },
    /// The unit has another parent already, or is the root, or would change its level.
    #[error(
        "{unit} is known as a {level} under {parent}; a move must be announced, not only signed"
    )]
    Moved {
        /// The unit.
        unit: UnitCode,
        /// Its level so far.
        level: Level,
        /// Its parent so far, `no parent` for the root.
        parent: String,
    },
    /// The grant would make a unit its own ancestor.
    #[error("{unit} cannot be under {issuer}, which is below it")]
    Loop {
        /// The unit.
        unit: UnitCode,
        /// The issuer.
        issuer: UnitCode,
    },
    /// A desk that is not granted by its own unit, or with rights that a desk does not have.
    #[error("desk {desk} of {unit}: {reason}")]
    Desk {
        /// Its unit.
        unit: UnitCode,
        /// The desk.
        desk: DeskId,
        /// What is wrong.
        reason: &'static str,
    },
    /// The grant reaches beyond the issuer's own validity.
    #[error("the grant to {unit} reaches beyond that of its issuer, {issuer}")]
    OutlivesIssuer {
        /// The unit.
        unit: UnitCode,
        /// The issuer.
        issuer: UnitCode,
    },
    /// The signing key was not valid when it signed.
    #[error(
        "the key of {holder} was not valid at {time_unix_ms} ms; renew its delegation, or compare the clocks"
    )]
    Expired {
        /// Whose key.
        holder: String,
        /// When it signed, as it says.
        time_unix_ms: UnixMillis,
    },
    /// Made in the future.
    #[error("dated {ahead_ms} ms ahead of this host's clock; compare the clocks of both hosts")]
    Future {
        /// How far.
        ahead_ms: i64,
    },
    /// The same key for two units, desks or uses: signatures would have two meanings.
    #[error("a key of {unit} is already a key of {holder}; make new keys")]
    KeyTaken {
        /// Who claims it.
        unit: UnitCode,
        /// Who has it, and for what.
        holder: String,
    },
    /// Two different grants with one serial.
    #[error("serial {serial} of {holder} was used for another grant")]
    SerialReused {
        /// The subject.
        holder: String,
        /// The serial.
        serial: u64,
    },
}

impl Error {
    /// Fixed word of `Rejection.reason`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Envelope(envelope::Error::UnknownKey(_)) | Self::WrongUse { .. } => "unknown-key",
            Self::Envelope(
                envelope::Error::PayloadType { .. }
                | envelope::Error::TooLarge(_)
                | envelope::Error::NoSignature
                | envelope::Error::TooManySignatures(_)
                | envelope::Error::DuplicateKey(_)
                | envelope::Error::Suite(_)
                | envelope::Error::PublicKey(..),
            )
            | Self::Malformed(_)
            | Self::Desk { .. }
            | Self::KeyTaken { .. }
            | Self::SerialReused { .. } => "malformed",
            Self::Envelope(envelope::Error::BadSignature(_)) => "bad-signature",
            Self::NotADelegation(_) => "unknown-type",
            Self::Domain { .. } => "wrong-domain",
            Self::WrongSource { .. } => "wrong-source",
            Self::UnknownUnit(_) | Self::Level { .. } | Self::Moved { .. } | Self::Loop { .. } => {
                "outside-subtree"
            }
            Self::OutlivesIssuer { .. } | Self::Expired { .. } | Self::Future { .. } => "expired",
        }
    }

    /// The field at fault as a dotted path; empty: the whole.
    pub fn field(&self) -> &str {
        match self {
            Self::Envelope(envelope::Error::PayloadType { .. }) => "payload_type",
            Self::Envelope(envelope::Error::TooLarge(_)) => "payload",
            Self::Envelope(_) | Self::WrongUse { .. } => "signatures",
            Self::Malformed(malformed) => &malformed.field,
            Self::NotADelegation(_) => "header.type",
            Self::Domain { .. } => "body.trust_domain",
            Self::UnknownUnit(_) | Self::WrongSource { .. } => "header.source",
            Self::Level { .. } => "body.level",
            Self::Moved { .. } | Self::Loop { .. } => "body.issuer",
            Self::Desk { .. } => "body.desk",
            Self::OutlivesIssuer { .. } => "body.not_after_unix_ms",
            Self::Expired { .. } | Self::Future { .. } => "header.time_unix_ms",
            Self::KeyTaken { .. } => "body.keys",
            Self::SerialReused { .. } => "body.serial",
        }
    }
}

/// A delegation that holds.
#[derive(Clone, Debug)]
pub struct Known {
    /// What it grants.
    pub delegation: Delegation,
    /// As it was signed.
    pub envelope: Envelope,
    /// SHA-256 of its payload.
    pub payload_sha256: [u8; 32],
}

impl Known {
    /// True if the grant covers `time`, give or take [`SKEW_TOLERANCE_MS`].
    pub fn is_valid_at(&self, time: UnixMillis) -> bool {
        let delegation = &self.delegation;
        time.saturating_add(SKEW_TOLERANCE_MS) >= delegation.not_before_unix_ms
            && time.saturating_sub(SKEW_TOLERANCE_MS) < delegation.not_after_unix_ms
    }

    fn subject(&self) -> Subject {
        (self.delegation.unit.clone(), self.delegation.desk.clone())
    }

    fn holds(&self, key_id: &str, key_use: KeyUse) -> bool {
        let mut keys = self.delegation.keys.iter();
        keys.any(|key| key.key_use == key_use && id_of(key) == key_id)
    }
}

/// What became of a delegation that was added.
#[derive(Clone, Debug)]
pub struct Added {
    /// What it grants.
    pub delegation: Delegation,
    /// False if it was known already.
    pub new: bool,
}

/// A statement that is believed.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What it says.
    pub statement: Statement,
    /// Whose key signed it: the source, or a desk of the source.
    pub signer: Subject,
    /// SHA-256 of its payload.
    pub payload_sha256: [u8; 32],
}

/// Who holds a key, and for what. A key never changes its holder or use.
struct Holder {
    subject: Subject,
    key_use: KeyUse,
    /// `None` for keys that do not sign.
    key: Option<VerifyingKey>,
}

/// A delegation that passed every check, not yet believed.
#[derive(Clone, Debug)]
pub struct Checked {
    known: Known,
    new: bool,
}

impl Checked {
    /// The delegation.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// False if it is believed already.
    pub fn is_new(&self) -> bool {
        self.new
    }
}

/// What one unit believes.
pub struct Trust {
    trust_domain: String,
    root_key: VerifyingKey,
    root: Option<UnitCode>,
    /// By subject, ascending by serial.
    subjects: BTreeMap<Subject, Vec<Known>>,
    children: BTreeMap<UnitCode, BTreeSet<UnitCode>>,
    keys: BTreeMap<String, Holder>,
    digests: BTreeMap<[u8; 32], (Subject, u64)>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Trust")
            .field("trust_domain", &self.trust_domain)
            .field("root", &self.root)
            .field("subjects", &self.subjects.len())
            .finish_non_exhaustive()
    }
}

impl Trust {
    /// Believes in a root key alone.
    ///
    /// # Errors
    ///
    /// [`Error::Envelope`] if the bytes are no safe Ed25519 key.
    pub fn new(trust_domain: String, root_public_key: [u8; 32]) -> Result<Self, Error> {
        Ok(Self {
            trust_domain,
            root_key: VerifyingKey::new(ProtoSuite::Ed25519, &root_public_key)?,
            root: None,
            subjects: BTreeMap::new(),
            children: BTreeMap::new(),
            keys: BTreeMap::new(),
            digests: BTreeMap::new(),
        })
    }

    /// Trust domain of the city.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Public root key.
    pub fn root_public_key(&self) -> &[u8] {
        self.root_key.public_key()
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

    /// Judges a delegation without taking it in, so that it can be stored first.
    ///
    /// # Errors
    ///
    /// As [`Trust::add`].
    pub fn check(&self, envelope: &Envelope, now: Option<UnixMillis>) -> Result<Checked, Error> {
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
        let known = Known { delegation, envelope: envelope.clone(), payload_sha256 };
        match &known.delegation.issuer {
            None => self.check_root(&known.delegation, &signers)?,
            Some(issuer) => {
                let time = header.time_unix_ms;
                self.check_issued(&known.delegation, issuer, &signers, time)?;
            }
        }
        self.check_keys(&known.delegation)?;
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
            let verifying = VerifyingKey::new(suite_to_proto(key.suite), &key.bytes).ok();
            if let Entry::Vacant(entry) = self.keys.entry(id_of(key)) {
                let key_use = key.key_use;
                entry.insert(Holder { subject: subject.clone(), key_use, key: verifying });
            }
        }
        match (&delegation.issuer, &delegation.desk) {
            (None, _) => self.root = Some(delegation.unit.clone()),
            (Some(issuer), None) => {
                let children = self.children.entry(issuer.clone()).or_default();
                children.insert(delegation.unit.clone());
            }
            (Some(_), Some(_)) => {}
        }
        self.digests.insert(known.payload_sha256, (subject.clone(), delegation.serial));
        let history = self.subjects.entry(subject).or_default();
        let position = history.partition_point(|one| one.delegation.serial < delegation.serial);
        history.insert(position, known);
        Added { delegation, new: true }
    }

    /// The newest delegation of a unit or desk.
    pub fn delegation(&self, unit: &UnitCode, desk: Option<&DeskId>) -> Option<&Known> {
        self.history(&(unit.clone(), desk.cloned())).last()
    }

    /// The unit above; `None` at the root and for unknown units.
    pub fn parent(&self, unit: &UnitCode) -> Option<&UnitCode> {
        self.delegation(unit, None)?.delegation.issuer.as_ref()
    }

    /// The unit that the root key names.
    pub fn root(&self) -> Option<&UnitCode> {
        self.root.as_ref()
    }

    /// True if `unit` is `head` or below it.
    pub fn is_in_subtree(&self, unit: &UnitCode, head: &UnitCode) -> bool {
        self.delegation(unit, None).is_some() && self.line(unit).any(|one| one == head)
    }

    /// Units right below, by code.
    pub fn children(&self, unit: &UnitCode) -> Vec<&UnitCode> {
        self.children.get(unit).into_iter().flatten().collect()
    }

    /// Newest delegations from the root's own down to the unit's; empty if the unit is not known.
    pub fn chain(&self, unit: &UnitCode) -> Vec<Envelope> {
        let known = self.line(unit).filter_map(|one| self.delegation(one, None));
        let mut chain: Vec<Envelope> = known.map(|known| known.envelope.clone()).collect();
        chain.reverse();
        chain
    }

    /// Newest delegations of `head`, its desks and everything below: issuers before issued, then by
    /// code.
    pub fn subtree(&self, head: &UnitCode) -> Vec<&Known> {
        let mut found = Vec::new();
        let mut level = vec![head];
        while !level.is_empty() {
            for unit in &level {
                found.extend(self.own(unit));
            }
            level = level.into_iter().flat_map(|unit| self.children(unit)).collect();
            level.sort();
        }
        found
    }

    /// SHA-256 over the payload digests of [`Trust::subtree`] in the order of (unit, desk), as
    /// `Hello.roster_sha256` says.
    pub fn roster_sha256(&self, head: &UnitCode) -> [u8; 32] {
        let mut known = self.subtree(head);
        known.sort_by_cached_key(|one| one.subject());
        let digest =
            known.iter().fold(Sha256::new(), |digest, one| digest.chain_update(one.payload_sha256));
        digest.finalize().into()
    }

    /// Every delegation that is believed, history included, for storing.
    pub fn all(&self) -> impl Iterator<Item = &Known> {
        self.subjects.values().flatten()
    }

    /// Opens a statement: every signature must hold, and one must be by a STATEMENT key of the
    /// source or of one of its desks that was valid at the time of the header.
    ///
    /// # Errors
    ///
    /// [`Error`] with [`Error::reason`] and [`Error::field`] for the rejection.
    pub fn open(&self, envelope: &Envelope, now: UnixMillis) -> Result<Opened, Error> {
        let signers = self.signers(envelope)?;
        let statement = header::decode(&envelope.payload)?;
        let (source, time) = (&statement.header.source, statement.header.time_unix_ms);
        check_not_ahead(time, Some(now))?;
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
        let payload_sha256 = envelope::payload_sha256(envelope);
        Ok(Opened { statement, signer, payload_sha256 })
    }

    fn history(&self, subject: &Subject) -> &[Known] {
        self.subjects.get(subject).map(Vec::as_slice).unwrap_or_default()
    }

    fn by_digest(&self, digest: &[u8; 32]) -> Option<&Known> {
        let (subject, serial) = self.digests.get(digest)?;
        self.history(subject).iter().find(|known| known.delegation.serial == *serial)
    }

    /// The unit's own newest delegation and those of its desks.
    fn own(&self, unit: &UnitCode) -> impl Iterator<Item = &Known> {
        let from = (unit.clone(), None);
        let unit = unit.clone();
        let range = self.subjects.range(from..).take_while(move |(subject, _)| subject.0 == unit);
        range.filter_map(|(_, history)| history.last())
    }

    /// The unit and its ancestors, upward. Ends because each step is to a higher level.
    fn line<'a>(&'a self, unit: &'a UnitCode) -> impl Iterator<Item = &'a UnitCode> {
        std::iter::successors(Some(unit), |unit| self.parent(unit))
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
            } else if signature.key_id == self.root_key.key_id() {
                keys.push(self.root_key.clone());
                signers.push(Signed::Root);
            }
        }
        envelope::verify(envelope, STATEMENT_TYPE, &keys)?;
        Ok(signers)
    }

    /// The root's own delegation: by the root key alone, always for the same unit and level.
    fn check_root(&self, delegation: &Delegation, signers: &[Signed<'_>]) -> Result<(), Error> {
        if let Some(signed) = signers.iter().find(|signed| !matches!(signed, Signed::Root)) {
            let (claimed, holder) = (delegation.unit.clone(), signed.shown());
            return Err(Error::WrongSource { claimed, holder });
        }
        if let Some(desk) = &delegation.desk {
            let reason = "a desk is granted by its own unit, not by the root key";
            return Err(Error::Desk { unit: delegation.unit.clone(), desk: desk.clone(), reason });
        }
        match &self.root {
            Some(root) if *root != delegation.unit => Err(self.moved(root, delegation.level)),
            _ => self.check_same_place(delegation),
        }
    }

    fn check_issued(
        &self,
        delegation: &Delegation,
        issuer: &UnitCode,
        signers: &[Signed<'_>],
        time: UnixMillis,
    ) -> Result<(), Error> {
        let unit = &delegation.unit;
        let granting = self.delegation(issuer, None);
        let granting = granting.ok_or_else(|| Error::UnknownUnit(issuer.clone()))?;
        for signed in signers {
            let (key_id, holder) = match signed {
                Signed::Holder(key_id, holder) if holder.subject == (issuer.clone(), None) => {
                    (key_id, holder)
                }
                Signed::Holder(..) | Signed::Root => {
                    let (claimed, holder) = (issuer.clone(), signed.shown());
                    return Err(Error::WrongSource { claimed, holder });
                }
            };
            if holder.key_use != KeyUse::Delegation {
                let (holder, key_use) = (shown(&holder.subject), holder.key_use);
                return Err(Error::WrongUse { holder, key_use });
            }
            let by = self.in_force(holder, key_id, time)?;
            check_inside(delegation, &by.delegation)?;
        }
        match &delegation.desk {
            Some(desk) => check_desk(delegation, desk, issuer, granting.delegation.level),
            None => {
                if self.delegation(unit, None).is_some() && self.line(issuer).any(|one| one == unit)
                {
                    return Err(Error::Loop { unit: unit.clone(), issuer: issuer.clone() });
                }
                let issuer_level = granting.delegation.level;
                if !issuer_level.is_above(delegation.level) {
                    let (unit, issuer) = (unit.clone(), issuer.clone());
                    return Err(Error::Level {
                        unit,
                        level: delegation.level,
                        issuer,
                        issuer_level,
                    });
                }
                self.check_same_place(delegation)
            }
        }
    }

    /// A unit keeps its parent and level.
    fn check_same_place(&self, delegation: &Delegation) -> Result<(), Error> {
        match self.delegation(&delegation.unit, None) {
            Some(known)
                if known.delegation.issuer != delegation.issuer
                    || known.delegation.level != delegation.level =>
            {
                Err(self.moved(&delegation.unit, known.delegation.level))
            }
            _ => Ok(()),
        }
    }

    fn moved(&self, unit: &UnitCode, level: Level) -> Error {
        let parent = self.parent(unit).map_or_else(|| "no parent".to_owned(), ToString::to_string);
        let level = self.delegation(unit, None).map_or(level, |known| known.delegation.level);
        Error::Moved { unit: unit.clone(), level, parent }
    }

    /// No key has two holders or two uses, and none is the root key.
    fn check_keys(&self, delegation: &Delegation) -> Result<(), Error> {
        let subject = (delegation.unit.clone(), delegation.desk.clone());
        for key in &delegation.keys {
            let taken = |holder: String| Error::KeyTaken { unit: delegation.unit.clone(), holder };
            if key.bytes == self.root_key.public_key() {
                return Err(taken("the root".to_owned()));
            }
            match self.keys.get(&id_of(key)) {
                Some(holder) if holder.subject != subject || holder.key_use != key.key_use => {
                    return Err(taken(shown(&holder.subject)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_serial(&self, known: &Known) -> Result<(), Error> {
        let (subject, serial) = (known.subject(), known.delegation.serial);
        if self.history(&subject).iter().any(|one| one.delegation.serial == serial) {
            return Err(Error::SerialReused { holder: shown(&subject), serial });
        }
        Ok(())
    }

    /// The delegation by which a key was good at `time`: it names the key, covers the time, and no
    /// newer one that leaves the key out had begun for certain.
    fn in_force(&self, holder: &Holder, key_id: &str, time: UnixMillis) -> Result<&Known, Error> {
        for known in self.history(&holder.subject).iter().rev() {
            if known.holds(key_id, holder.key_use) && known.is_valid_at(time) {
                return Ok(known);
            }
            let begun = known.delegation.not_before_unix_ms.saturating_add(SKEW_TOLERANCE_MS);
            if !known.holds(key_id, holder.key_use) && begun <= time {
                break;
            }
        }
        Err(Error::Expired { holder: shown(&holder.subject), time_unix_ms: time })
    }
}

/// Who signed.
enum Signed<'a> {
    Root,
    Holder(&'a str, &'a Holder),
}

impl Signed<'_> {
    fn shown(&self) -> String {
        match self {
            Self::Root => "the root key".to_owned(),
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

fn id_of(key: &PublicKey) -> String {
    envelope::key_id(suite_to_proto(key.suite), &key.bytes)
}

fn check_not_ahead(time: UnixMillis, now: Option<UnixMillis>) -> Result<(), Error> {
    match now {
        Some(now) if time.saturating_sub(SKEW_TOLERANCE_MS) > now => {
            Err(Error::Future { ahead_ms: time.saturating_sub(now) })
        }
        _ => Ok(()),
    }
}

/// A grant ends no later than its issuer's, and begins no earlier, clocks apart.
fn check_inside(delegation: &Delegation, issuer: &Delegation) -> Result<(), Error> {
    let begins = delegation.not_before_unix_ms.saturating_add(SKEW_TOLERANCE_MS);
    if delegation.not_after_unix_ms > issuer.not_after_unix_ms || begins < issuer.not_before_unix_ms
    {
        let (unit, issuer) = (delegation.unit.clone(), issuer.unit.clone());
        return Err(Error::OutlivesIssuer { unit, issuer });
    }
    Ok(())
}

/// A desk is granted by its own unit, at its unit's level, and grants nothing itself.
fn check_desk(
    delegation: &Delegation,
    desk: &DeskId,
    issuer: &UnitCode,
    issuer_level: Level,
) -> Result<(), Error> {
    let refuse =
        |reason| Err(Error::Desk { unit: delegation.unit.clone(), desk: desk.clone(), reason });
    if *issuer != delegation.unit {
        return refuse("a desk is granted by its own unit alone");
    }
    if issuer_level != delegation.level {
        return refuse("a desk stands at the level of its unit");
    }
    if delegation.keys.iter().any(|key| key.key_use == KeyUse::Delegation) {
        return refuse("a desk delegates nothing");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lianxi_proto::envelope::Signer;

    use super::*;
    use crate::{
        domain::delegation::Suite,
        identity::issue,
        statement::header::{Classification, Header, StatementId},
    };

    const NOW: UnixMillis = 1_760_000_000_000;
    const DAY: i64 = 24 * 60 * 60 * 1000;
    const DOMAIN: &str = "boston.example";

    fn code(text: &str) -> UnitCode {
        text.parse().unwrap()
    }

    fn desk(text: &str) -> DeskId {
        text.parse().unwrap()
    }

    /// One key per holder and use, the same on every call.
    fn signer(holder: &str, key_use: KeyUse) -> Signer {
        let seed = Sha256::digest(format!("{holder} {key_use:?}"));
        Signer::from_seed(&seed.into())
    }

    fn key(holder: &str, key_use: KeyUse) -> PublicKey {
        let bytes = signer(holder, key_use).public_key().to_vec();
        PublicKey { suite: Suite::Ed25519, bytes, key_use }
    }

    fn root_key() -> Signer {
        Signer::from_seed(&[9; 32])
    }

    fn grant(unit: &str, level: Level, issuer: Option<&str>) -> Delegation {
        Delegation {
            trust_domain: DOMAIN.to_owned(),
            unit: code(unit),
            level,
            issuer: issuer.map(code),
            not_before_unix_ms: NOW,
            not_after_unix_ms: NOW + 300 * DAY,
            keys: vec![key(unit, KeyUse::Statement), key(unit, KeyUse::Delegation)],
            ca_sha256: Some([1; 32]),
            host: String::new(),
            desk: None,
            line: String::new(),
            title: String::new(),
            serial: 1,
        }
    }

    fn desk_grant(unit: &str, level: Level, id: &str) -> Delegation {
        Delegation {
            keys: vec![key(&format!("{unit}/{id}"), KeyUse::Statement)],
            ca_sha256: None,
            desk: Some(desk(id)),
            ..grant(unit, level, Some(unit))
        }
    }

    /// Signed as its issuer would.
    fn issued(delegation: &Delegation) -> Envelope {
        match &delegation.issuer {
            None => issue::sign(delegation, &root_key(), NOW),
            Some(issuer) => {
                issue::sign(delegation, &signer(issuer.as_str(), KeyUse::Delegation), NOW)
            }
        }
    }

    /// BOS over BOS-01 (with a desk) over BOS-01-W03, and BOS-02.
    fn city() -> Trust {
        let mut trust = Trust::new(DOMAIN.to_owned(), root_key().public_key()).unwrap();
        for delegation in [
            grant("BOS", Level::City, None),
            grant("BOS-01", Level::District, Some("BOS")),
            grant("BOS-02", Level::District, Some("BOS")),
            desk_grant("BOS-01", Level::District, "FIRE"),
            grant("BOS-01-W03", Level::Street, Some("BOS-01")),
        ] {
            assert!(trust.add(&issued(&delegation), NOW).unwrap().new);
        }
        trust
    }

    fn refused(delegation: &Delegation) -> Error {
        city().add(&issued(delegation), NOW).unwrap_err()
    }

    fn refused_by(delegation: &Delegation, by: &Signer) -> Error {
        city().add(&issue::sign(delegation, by, NOW), NOW).unwrap_err()
    }

    #[test]
    fn a_tree_is_believed_from_the_root_key_down() {
        let trust = city();
        assert_eq!(trust.root(), Some(&code("BOS")));
        assert_eq!(trust.parent(&code("BOS-01-W03")), Some(&code("BOS-01")));
        assert_eq!(trust.parent(&code("BOS")), None);
        assert_eq!(trust.children(&code("BOS")), [&code("BOS-01"), &code("BOS-02")]);
        assert!(trust.is_in_subtree(&code("BOS-01-W03"), &code("BOS")));
        assert!(trust.is_in_subtree(&code("BOS-01"), &code("BOS-01")));
        assert!(!trust.is_in_subtree(&code("BOS-02"), &code("BOS-01")));
        assert!(!trust.is_in_subtree(&code("BOS"), &code("BOS-01")));
        assert!(!trust.is_in_subtree(&code("NOWHERE"), &code("NOWHERE")));
        let chain = trust.chain(&code("BOS-01-W03"));
        let mut fresh = Trust::new(DOMAIN.to_owned(), root_key().public_key()).unwrap();
        for envelope in &chain {
            fresh.add(envelope, NOW).unwrap();
        }
        assert_eq!(fresh.chain(&code("BOS-01-W03")), chain);
        assert!(trust.chain(&code("NOWHERE")).is_empty());
    }

    #[test]
    fn the_subtree_lists_issuers_first_and_the_roster_names_it() {
        let mut trust = city();
        let subtree = trust.subtree(&code("BOS-01"));
        let names: Vec<String> = subtree.iter().map(|one| shown(&one.subject())).collect();
        assert_eq!(names, ["BOS-01", "desk FIRE of BOS-01", "BOS-01-W03"]);
        let digests = subtree
            .iter()
            .fold(Sha256::new(), |digest, one| digest.chain_update(one.payload_sha256));
        // Here the order of (unit, desk) is that of the subtree.
        assert_eq!(trust.roster_sha256(&code("BOS-01")), <[u8; 32]>::from(digests.finalize()));
        let before = trust.roster_sha256(&code("BOS-01"));
        let other = trust.roster_sha256(&code("BOS-02"));
        let desk = desk_grant("BOS-01", Level::District, "WATER");
        trust.add(&issued(&desk), NOW).unwrap();
        assert_ne!(trust.roster_sha256(&code("BOS-01")), before);
        assert_eq!(trust.roster_sha256(&code("BOS-02")), other);
    }

    #[test]
    fn the_same_delegation_again_changes_nothing() {
        let mut trust = city();
        let envelope = trust.chain(&code("BOS-01")).pop().unwrap();
        let before = trust.all().count();
        assert!(!trust.add(&envelope, NOW).unwrap().new);
        assert!(!trust.add(&envelope, NOW + 1000 * DAY).unwrap().new);
        assert_eq!(trust.all().count(), before);
    }

    #[test]
    fn only_the_root_key_makes_a_root_and_only_one() {
        let second = grant("BOS-X", Level::City, None);
        assert!(matches!(refused(&second), Error::Moved { .. }));
        let by_city = signer("BOS", KeyUse::Delegation);
        let own = Delegation { serial: 2, ..grant("BOS", Level::City, None) };
        assert!(matches!(refused_by(&own, &by_city), Error::WrongSource { .. }));
        // The root key signs nothing below the root.
        let child = grant("BOS-03", Level::District, Some("BOS"));
        assert!(matches!(refused_by(&child, &root_key()), Error::WrongSource { .. }));
        let stranger = refused_by(&child, &Signer::from_seed(&[77; 32]));
        assert_eq!((stranger.reason(), stranger.field()), ("unknown-key", "signatures"));
    }

    #[test]
    fn a_delegation_outside_the_issuers_subtree_is_refused() {
        // BOS-02 grants a street that is under BOS-01.
        let taken = grant("BOS-01-W03", Level::Street, Some("BOS-02"));
        let error = refused(&Delegation { serial: 2, ..taken });
        assert!(matches!(error, Error::Moved { .. }), "{error}");
        assert_eq!(error.reason(), "outside-subtree");
        let unknown =
            Delegation { serial: 2, ..grant("BOS-09-W01", Level::Street, Some("BOS-09")) };
        assert!(matches!(refused(&unknown), Error::Envelope(_)));
    }

    #[test]
    fn a_siblings_key_is_refused() {
        let by_sibling = signer("BOS-02", KeyUse::Delegation);
        let error = refused_by(&grant("BOS-01-W05", Level::Street, Some("BOS-01")), &by_sibling);
        let expected = Error::WrongSource { claimed: code("BOS-01"), holder: "BOS-02".to_owned() };
        assert_eq!(error, expected);
        // A child cannot grant in its parent's name either.
        let by_child = signer("BOS-01", KeyUse::Delegation);
        let error = refused_by(&grant("BOS-03", Level::District, Some("BOS")), &by_child);
        assert!(matches!(error, Error::WrongSource { .. }));
    }

    #[test]
    fn a_level_at_or_above_the_issuers_is_refused() {
        for level in [Level::City, Level::District] {
            let error = refused(&grant("BOS-01-X", level, Some("BOS-01")));
            assert!(matches!(error, Error::Level { .. }), "{error}");
            assert_eq!(error.field(), "body.level");
        }
        // Levels can be left out, downward.
        assert!(city().add(&issued(&grant("C", Level::Community, Some("BOS"))), NOW).is_ok());
    }

    #[test]
    fn a_unit_never_changes_parent_or_level_silently() {
        let moved = Delegation { serial: 2, ..grant("BOS-01-W03", Level::Street, Some("BOS")) };
        assert!(matches!(refused(&moved), Error::Moved { .. }));
        let sunk =
            Delegation { serial: 2, ..grant("BOS-01-W03", Level::Community, Some("BOS-01")) };
        assert!(matches!(refused(&sunk), Error::Moved { .. }));
    }

    #[test]
    fn a_loop_is_refused() {
        for level in [Level::City, Level::Community] {
            let up = Delegation { serial: 2, ..grant("BOS", level, Some("BOS-01-W03")) };
            assert!(matches!(refused(&up), Error::Loop { .. }));
        }
        let own = Delegation { serial: 2, ..grant("BOS-01", Level::District, Some("BOS-01")) };
        assert!(matches!(refused(&own), Error::Loop { .. }));
    }

    #[test]
    fn a_grant_ends_with_its_issuers_and_begins_no_earlier() {
        let mut long = grant("BOS-03", Level::District, Some("BOS"));
        long.not_after_unix_ms += 1;
        let error = refused(&long);
        assert!(matches!(error, Error::OutlivesIssuer { .. }));
        assert_eq!((error.reason(), error.field()), ("expired", "body.not_after_unix_ms"));
        let mut early = grant("BOS-03", Level::District, Some("BOS"));
        early.not_before_unix_ms = NOW - 4 * DAY;
        assert!(matches!(refused(&early), Error::OutlivesIssuer { .. }));
        // A parent whose clock is a day behind its own parent's still takes children in.
        early.not_before_unix_ms = NOW - DAY;
        let by = signer("BOS", KeyUse::Delegation);
        assert!(city().add(&issue::sign(&early, &by, NOW - DAY), NOW).is_ok());
    }

    #[test]
    fn keys_serve_the_one_use_they_are_for() {
        let by_statement_key = signer("BOS-01", KeyUse::Statement);
        let error =
            refused_by(&grant("BOS-01-W05", Level::Street, Some("BOS-01")), &by_statement_key);
        assert!(matches!(error, Error::WrongUse { key_use: KeyUse::Statement, .. }));
        let statement = stated("BOS-01", NOW, &signer("BOS-01", KeyUse::Delegation));
        let error = city().open(&statement, NOW).unwrap_err();
        assert!(matches!(error, Error::WrongUse { key_use: KeyUse::Delegation, .. }));
        assert_eq!(error.reason(), "unknown-key");
    }

    #[test]
    fn a_key_has_one_holder_and_one_use() {
        for taken in [
            key("BOS-01", KeyUse::Statement),
            key("BOS-01/FIRE", KeyUse::Statement),
            PublicKey { key_use: KeyUse::Statement, ..key("BOS-01", KeyUse::Delegation) },
            PublicKey { bytes: root_key().public_key().to_vec(), ..key("X", KeyUse::Statement) },
        ] {
            let thief = Delegation {
                keys: vec![taken, key("BOS-03", KeyUse::Delegation)],
                ..grant("BOS-03", Level::District, Some("BOS"))
            };
            let error = refused(&thief);
            assert!(matches!(error, Error::KeyTaken { .. }), "{error}");
        }
        let swapped = Delegation {
            serial: 2,
            keys: vec![
                PublicKey { key_use: KeyUse::Statement, ..key("BOS-02", KeyUse::Delegation) },
                PublicKey { key_use: KeyUse::Delegation, ..key("BOS-02", KeyUse::Statement) },
            ],
            ..grant("BOS-02", Level::District, Some("BOS"))
        };
        assert!(matches!(refused(&swapped), Error::KeyTaken { .. }));
    }

    #[test]
    fn a_desk_is_its_own_units_and_delegates_nothing() {
        let foreign = Delegation {
            issuer: Some(code("BOS-02")),
            ..desk_grant("BOS-01", Level::District, "WATER")
        };
        assert!(matches!(refused(&foreign), Error::Desk { .. }));
        let from_above = Delegation {
            issuer: Some(code("BOS")),
            ..desk_grant("BOS-01", Level::District, "WATER")
        };
        assert!(matches!(refused(&from_above), Error::Desk { .. }));
        let mut greedy = desk_grant("BOS-01", Level::District, "WATER");
        greedy.keys.push(key("BOS-01/WATER", KeyUse::Delegation));
        assert!(matches!(refused(&greedy), Error::Desk { .. }));
        assert!(matches!(refused(&desk_grant("BOS-01", Level::Street, "X")), Error::Desk { .. }));
        let of_root = Delegation { issuer: None, ..desk_grant("BOS", Level::City, "X") };
        assert!(matches!(refused(&of_root), Error::Desk { .. }));
        let by_desk = signer("BOS-01/FIRE", KeyUse::Statement);
        let error = refused_by(&desk_grant("BOS-01", Level::District, "WATER"), &by_desk);
        assert!(matches!(error, Error::WrongSource { .. }));
    }

    #[test]
    fn other_domains_types_and_serials_are_refused() {
        let foreign = Delegation {
            trust_domain: "cambridge.example".to_owned(),
            ..grant("BOS-03", Level::District, Some("BOS"))
        };
        assert_eq!(refused(&foreign).reason(), "wrong-domain");
        let again = Delegation {
            title: "other".to_owned(),
            ..grant("BOS-01", Level::District, Some("BOS"))
        };
        assert!(matches!(refused(&again), Error::SerialReused { .. }));
        let statement = stated("BOS", NOW, &signer("BOS", KeyUse::Delegation));
        assert_eq!(city().add(&statement, NOW).unwrap_err().reason(), "unknown-type");
    }

    #[test]
    fn a_changed_byte_is_a_bad_signature() {
        let mut envelope = issued(&grant("BOS-03", Level::District, Some("BOS")));
        let mut payload = envelope.payload.to_vec();
        payload[30] ^= 1;
        envelope.payload = payload.into();
        assert_eq!(city().add(&envelope, NOW).unwrap_err().reason(), "bad-signature");
        envelope.signatures.clear();
        assert_eq!(city().add(&envelope, NOW).unwrap_err().reason(), "malformed");
    }

    #[test]
    fn the_future_is_refused_but_not_on_a_restart() {
        let envelope = issued(&grant("BOS-03", Level::District, Some("BOS")));
        let mut trust = city();
        assert!(trust.check(&envelope, Some(NOW - 3 * DAY)).is_ok());
        let error = trust.add(&envelope, NOW - 3 * DAY - 1).unwrap_err();
        assert_eq!(error, Error::Future { ahead_ms: 3 * DAY + 1 });
        assert!(trust.restore(&envelope).unwrap().new);
    }

    fn stated(source: &str, time: UnixMillis, by: &Signer) -> Envelope {
        let header = Header {
            id: StatementId::generate(time),
            source: code(source),
            kind: kinds::SUMMARY.to_owned(),
            subject: String::new(),
            time_unix_ms: time,
            dataschema: String::new(),
            epoch: 1,
            seq: 1,
            purpose: String::new(),
            classification: Classification::Internal,
            exercise: false,
            destination: None,
            traceparent: String::new(),
            on_behalf_of: None,
        };
        envelope::sign(STATEMENT_TYPE, header::encode(&header, b"body"), &[by])
    }

    #[test]
    fn a_statement_is_opened_for_its_source_and_its_desks() {
        let trust = city();
        let opened = trust.open(&stated("BOS-01", NOW, &signer("BOS-01", KeyUse::Statement)), NOW);
        let opened = opened.unwrap();
        assert_eq!(opened.signer, (code("BOS-01"), None));
        assert_eq!(opened.statement.body.as_ref(), b"body");
        let by_desk = signer("BOS-01/FIRE", KeyUse::Statement);
        let opened = trust.open(&stated("BOS-01", NOW, &by_desk), NOW).unwrap();
        assert_eq!(opened.signer, (code("BOS-01"), Some(desk("FIRE"))));
    }

    #[test]
    fn nobody_speaks_for_another_unit() {
        let trust = city();
        let refused =
            |source: &str, by: &Signer| trust.open(&stated(source, NOW, by), NOW).unwrap_err();
        let sibling = refused("BOS-01", &signer("BOS-02", KeyUse::Statement));
        assert_eq!((sibling.reason(), sibling.field()), ("wrong-source", "header.source"));
        let desk = refused("BOS-02", &signer("BOS-01/FIRE", KeyUse::Statement));
        assert_eq!(desk.reason(), "wrong-source");
        let parent = refused("BOS-01-W03", &signer("BOS-01", KeyUse::Statement));
        assert_eq!(parent.reason(), "wrong-source");
        let root = refused("BOS", &root_key());
        assert_eq!(root.reason(), "wrong-source");
        let unknown = refused("NOWHERE", &signer("BOS-01", KeyUse::Statement));
        assert_eq!(unknown.reason(), "outside-subtree");
        let stranger = refused("BOS-01", &Signer::from_seed(&[77; 32]));
        assert_eq!(stranger.reason(), "unknown-key");
    }

    #[test]
    fn a_statement_is_judged_by_the_time_it_was_made() {
        let trust = city();
        let by = signer("BOS-01", KeyUse::Statement);
        let open = |time, now| trust.open(&stated("BOS-01", time, &by), now).map(drop);
        let end = NOW + 300 * DAY;
        // A clock that is a day off loses nothing, at either end.
        assert_eq!(open(NOW - DAY, NOW), Ok(()));
        assert_eq!(open(NOW + DAY, NOW), Ok(()));
        assert_eq!(open(end + DAY, end), Ok(()));
        assert_eq!(open(end + 3 * DAY, end + 3 * DAY).unwrap_err().reason(), "expired");
        assert_eq!(open(NOW - 3 * DAY - 1, NOW).unwrap_err().reason(), "expired");
        assert!(matches!(open(NOW + 4 * DAY, NOW), Err(Error::Future { .. })));
        // What was signed in time holds for ever.
        assert_eq!(open(NOW + DAY, NOW + 5000 * DAY), Ok(()));
    }

    #[test]
    fn a_replaced_key_speaks_for_its_own_time_only() {
        let mut trust = city();
        let renewed = Delegation {
            serial: 2,
            not_before_unix_ms: NOW + 100 * DAY,
            keys: vec![key("renewed", KeyUse::Statement), key("renewed", KeyUse::Delegation)],
            ..grant("BOS-01", Level::District, Some("BOS"))
        };
        trust.add(&issued(&renewed), NOW + 100 * DAY).unwrap();
        let now = NOW + 200 * DAY;
        let old = signer("BOS-01", KeyUse::Statement);
        let new = signer("renewed", KeyUse::Statement);
        let open = |time, by: &Signer| trust.open(&stated("BOS-01", time, by), now).map(drop);
        assert_eq!(open(NOW + 50 * DAY, &old), Ok(()));
        assert_eq!(open(NOW + 102 * DAY, &old), Ok(()));
        assert_eq!(open(NOW + 104 * DAY, &old).unwrap_err().reason(), "expired");
        assert_eq!(open(NOW + 104 * DAY, &new), Ok(()));
        assert_eq!(open(NOW + 50 * DAY, &new).unwrap_err().reason(), "expired");
        // A replaced DELEGATION key grants nothing more.
        let late = grant("BOS-01-W09", Level::Street, Some("BOS-01"));
        let late = Delegation { not_before_unix_ms: now, ..late };
        let late = issue::sign(&late, &signer("BOS-01", KeyUse::Delegation), now);
        assert!(matches!(trust.add(&late, now), Err(Error::Expired { .. })));
    }

    #[test]
    fn a_weak_root_key_is_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(Trust::new(DOMAIN.to_owned(), identity).is_err());
    }
}
