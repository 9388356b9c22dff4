//! Witnesses outside the tree: a unit of another organisation that cosigns this unit's checkpoints,
//! or whose checkpoints this unit cosigns. Nothing but two small texts goes between them, in a file or
//! over HTTP, in the form of C2SP `tlog-witness`.
//!
//! Promises that a peer's checkpoint is cosigned only under a key that was named for it before, and
//! only if it goes on from what was cosigned before; that what was cosigned is kept durably before the
//! cosignature leaves; and that what does not go on becomes a signed alarm. A first contact is
//! believed. Must not decide whose key is whose: people compare keys.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lianxi_proto::{
    envelope::VerifyingKey,
    merkle,
    note::{self, Note},
};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::{AlarmRow, Comparison, FORMAT, Held, Offer, Witness, compare, parsed, read};
use crate::{
    clock::UnixMillis,
    domain::{
        journal::{Act, Actor, Breach, Leaf},
        unit::UnitCode,
    },
    services::{
        error::{ErrorKind, ServiceError},
        journal::Signed,
    },
    store::{self, Batch, Table, format},
};

/// Rows of [`Table::Witnessed`]: peers, by name.
pub(in crate::services) const PEER: &[u8] = b"peer/";

/// Most peers of one unit.
const MAX_PEERS: usize = 16;

/// Longest name of a peer.
const MAX_NAME_BYTES: usize = 200;

/// Longest request: a checkpoint, and a proof of at most this many hashes.
const MAX_REQUEST_BYTES: usize = note::MAX_NOTE_BYTES + 64 * (MAX_PROOF + 1);

/// Checkpoints that are remembered as cosigned.
const MAX_SEEN: usize = 64;

/// Most hashes of a proof (C2SP `tlog-witness`).
const MAX_PROOF: usize = 63;

/// A unit outside the tree, as a witness and as one that is witnessed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Peer {
    /// Name of its key and its journal, e.g. `other.example/unit/X`.
    pub name: String,
    /// Its keys, as they were named, the newest last.
    pub keys: Vec<String>,
    /// When the newest was named.
    pub added_unix_ms: UnixMillis,
    /// Size of this unit's newest checkpoint that it cosigned; 0: none.
    pub cosigned_size: u64,
    /// When it cosigned that, by its clock.
    pub cosigned_unix_ms: UnixMillis,
    /// What this unit cosigned of its journal.
    pub held: Option<Held>,
    /// SHA-256 of the newest checkpoints that were cosigned: a file that comes again is no rollback.
    #[serde(default)]
    pub seen: Vec<String>,
}

impl Peer {
    fn verifying_keys(&self) -> Vec<VerifyingKey> {
        let keys = self.keys.iter().filter_map(|key| note::parse_key(key).ok());
        keys.map(|(_, key)| key).collect()
    }

    /// When it cosigned the note, in seconds since 1970-01-01T00:00:00Z; `None`: it did not.
    pub fn cosigned(&self, note: &Note) -> Option<u64> {
        let keys = self.verifying_keys();
        keys.iter().find_map(|key| note.verify_cosignature(&self.name, key).ok())
    }
}

/// Why nothing was witnessed.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// A key that cannot be read.
    #[error(
        "this is no key of a witness ({0}): give the line that `lianxi journal witness key` prints \
         at the other side"
    )]
    Key(note::Error),
    /// The name of a unit of this tree.
    #[error("{0} is this unit itself: name a witness of another organisation")]
    Itself(String),
    /// So many there are already.
    #[error("there are {MAX_PEERS} peers already: take one away first")]
    TooMany,
    /// No such peer.
    #[error("{0} is no peer of this unit: name its key with `lianxi journal witness add`")]
    Unknown(String),
    /// A request or an answer that cannot be read.
    #[error("line {line} of the file is not as it has to be: {detail}")]
    Malformed {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        detail: String,
    },
    /// The signature is not by a key of the peer.
    #[error(
        "the checkpoint is not signed by a key that {0} is known by; if it has a new one, name it \
         with `lianxi journal witness add`"
    )]
    Signature(String),
    /// The proof begins elsewhere.
    #[error(
        "the request of {name} goes on from size {from}, and this unit cosigned it up to {held}: let \
         it be made with `--from {held}`"
    )]
    Elsewhere {
        /// The peer.
        name: String,
        /// Where the proof begins.
        from: u64,
        /// What is held.
        held: u64,
    },
    /// A checkpoint that was cosigned before a newer one.
    #[error(
        "this unit cosigned that checkpoint of {0} before, and a newer one since: let a new request be \
         made"
    )]
    Stale(String),
    /// Another history than before.
    #[error(
        "the journal of {name} does not go on from what was seen of it ({}): it is not cosigned, and \
         alarm {alarm} says so, see `lianxi journal alarms`",
        .breach.as_str()
    )]
    Breach {
        /// The peer.
        name: String,
        /// What is wrong.
        breach: Breach,
        /// Id of the alarm.
        alarm: String,
    },
    /// There is nothing to cosign.
    #[error("the journal is empty: there is nothing to cosign")]
    Empty,
    /// A size that the journal has not reached.
    #[error("the journal has {size} leaves, so that nothing goes on from {from}")]
    Beyond {
        /// Its size.
        size: u64,
        /// What was asked for.
        from: u64,
    },
    /// An answer about something else.
    #[error("the answer is about a checkpoint that this unit did not make")]
    NotOurs,
    /// The store failed.
    #[error("cannot store it")]
    Store(#[from] store::Error),
}

impl PeerError {
    /// Fixed word for the journal; `None`: nobody was refused, something failed.
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Key(_) | Self::Malformed { .. } => Some("malformed"),
            Self::Itself(_) => Some("itself"),
            Self::TooMany => Some("limit"),
            Self::Unknown(_) => Some("unknown-peer"),
            Self::Signature(_) => Some("bad-signature"),
            Self::Elsewhere { .. } | Self::Beyond { .. } => Some("elsewhere"),
            Self::Stale(_) => Some("stale"),
            Self::Breach { breach, .. } => Some(breach.as_str()),
            Self::NotOurs => Some("not-ours"),
            Self::Empty | Self::Store(_) => None,
        }
    }
}

impl ServiceError for PeerError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Key(_) | Self::Itself(_) | Self::Malformed { .. } | Self::Beyond { .. } => {
                ErrorKind::InvalidArgument
            }
            Self::Unknown(_) => ErrorKind::NotFound,
            Self::TooMany => ErrorKind::ResourceExhausted,
            Self::Signature(_) => ErrorKind::PermissionDenied,
            Self::Elsewhere { .. }
            | Self::Stale(_)
            | Self::Breach { .. }
            | Self::Empty
            | Self::NotOurs => ErrorKind::FailedPrecondition,
            Self::Store(error) => error.kind(),
        }
    }
}

/// A request to cosign, as text.
#[derive(Clone, Debug)]
pub struct CosignRequest {
    /// C2SP `tlog-witness`: the size that it goes on from, the proof, the checkpoint.
    pub text: String,
    /// Size of the checkpoint.
    pub size: u64,
    /// Size that it goes on from.
    pub from: u64,
}

/// A cosignature that was given or taken in.
#[derive(Clone, Debug)]
pub struct Cosignature {
    /// The peer.
    pub name: String,
    /// Size of the checkpoint.
    pub size: u64,
    /// When, by the witness's clock, seconds since 1970-01-01T00:00:00Z.
    pub time_unix_s: u64,
    /// The checkpoint with the cosignature.
    pub note: String,
}

impl Witness {
    /// This unit's key as a peer has to know it, one line.
    pub fn own_key(&self) -> String {
        note::key_text(self.journal.origin(), &self.unit.keys().statement.verifying_key())
    }

    /// The peers, by name.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn peers(&self) -> Result<Vec<Peer>, store::Error> {
        self.journal.peers().await
    }

    async fn peer(&self, name: &str) -> Result<(Peer, Vec<u8>), PeerError> {
        let row = self.unit.store.get(&self.unit.code, Table::Witnessed, &key_of(name)).await?;
        let row = row.ok_or_else(|| PeerError::Unknown(name.to_owned()))?;
        Ok((format::read(FORMAT, &row)?, row))
    }

    /// Names a peer, or another key of one.
    ///
    /// # Errors
    ///
    /// [`PeerError::Key`], [`PeerError::Itself`], [`PeerError::TooMany`].
    pub async fn add_peer(&self, by: Actor, key: &str, dry_run: bool) -> Result<Peer, PeerError> {
        const ACT: &str = "journal.witness.add";
        match self.named(key.trim()).await {
            Err(error) => Err(self.refused(by, ACT, "", error).await),
            Ok((peer, _)) if dry_run => Ok(peer),
            Ok((peer, row)) => {
                self.put_peer(&peer, row, Act::done(by, ACT, &*peer.name)).await?;
                Ok(peer)
            }
        }
    }

    async fn named(&self, key: &str) -> Result<(Peer, Option<Vec<u8>>), PeerError> {
        let (name, _) = note::parse_key(key).map_err(PeerError::Key)?;
        if name == self.journal.origin() {
            return Err(PeerError::Itself(name));
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(PeerError::Key(note::Error::TooLarge));
        }
        let now = self.unit.clock.now_unix_ms();
        match self.peer(&name).await {
            Ok((peer, row)) => {
                let mut keys = peer.keys.clone();
                keys.retain(|known| known != key);
                keys.push(key.to_owned());
                Ok((Peer { keys, added_unix_ms: now, ..peer }, Some(row)))
            }
            Err(PeerError::Unknown(_)) if self.peers().await?.len() >= MAX_PEERS => {
                Err(PeerError::TooMany)
            }
            Err(PeerError::Unknown(_)) => {
                let keys = vec![key.to_owned()];
                let (added_unix_ms, seen) = (now, Vec::new());
                let (cosigned_size, cosigned_unix_ms, held) = (0, 0, None);
                let peer =
                    Peer { name, keys, added_unix_ms, cosigned_size, cosigned_unix_ms, held, seen };
                Ok((peer, None))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes a peer away, with what was cosigned of its journal: named again, it is a first contact.
    ///
    /// # Errors
    ///
    /// [`PeerError::Unknown`].
    pub async fn remove_peer(&self, by: Actor, name: &str, dry_run: bool) -> Result<(), PeerError> {
        const ACT: &str = "journal.witness.remove";
        let (_, row) = match self.peer(name).await {
            Ok(found) => found,
            Err(error) => return Err(self.refused(by, ACT, name, error).await),
        };
        if dry_run {
            return Ok(());
        }
        let mut batch = Batch::new(&self.unit.code);
        batch.require(Table::Witnessed, key_of(name), row);
        batch.delete(Table::Witnessed, key_of(name));
        let now = self.unit.clock.now_unix_ms();
        batch.journal(now, &Leaf::Act(Act::done(by, ACT, name)));
        Ok(self.unit.store.submit(batch).await?)
    }

    /// Asks the peer `name` to cosign the newest checkpoint, which is made if the journal grew. The
    /// proof goes on from what the peer cosigned last, or from `from`.
    ///
    /// # Errors
    ///
    /// [`PeerError::Unknown`], [`PeerError::Empty`], [`PeerError::Beyond`].
    pub async fn request_of_peer(
        &self,
        name: &str,
        from: Option<u64>,
    ) -> Result<CosignRequest, PeerError> {
        let (peer, _) = self.peer(name).await?;
        let newest = self.journal.checkpoint().await?.ok_or(PeerError::Empty)?;
        let (size, from) = (newest.checkpoint.size, from.unwrap_or(peer.cosigned_size));
        if from > size {
            return Err(PeerError::Beyond { size, from });
        }
        let (store, unit) = (self.unit.store.as_ref(), &self.unit.code);
        let proof = store::journal::consistency(store, unit, from, size).await?;
        let proof: String = proof.iter().map(|hash| STANDARD.encode(hash) + "\n").collect();
        let note = newest.note.only(self.journal.origin());
        Ok(CosignRequest { text: format!("old {from}\n{proof}\n{note}"), size, from })
    }

    /// Cosigns what a peer asks for, if it goes on from what was cosigned before.
    ///
    /// # Errors
    ///
    /// [`PeerError`]: among them a breach, which is an alarm by then.
    pub async fn cosign_for_peer(
        &self,
        by: Actor,
        request: &str,
        dry_run: bool,
    ) -> Result<Cosignature, PeerError> {
        const ACT: &str = "journal.witness.cosign";
        let asked = match Asked::parse(request) {
            Ok(asked) => asked,
            Err(error) => return Err(self.refused(by, ACT, "", error).await),
        };
        let name = asked.offered.checkpoint.origin.clone();
        match self.judge_peer(asked, dry_run).await {
            Err(error) => Err(self.refused(by, ACT, &name, error).await),
            Ok((cosigned, None)) => Ok(cosigned),
            Ok((cosigned, Some(_))) if dry_run => Ok(cosigned),
            Ok((cosigned, Some((peer, row)))) => {
                self.put_peer(&peer, Some(row), Act::done(by, ACT, &*name)).await?;
                Ok(cosigned)
            }
        }
    }

    /// The cosignature, and the peer's row as it has to become first; `None`: it was given before.
    async fn judge_peer(
        &self,
        Asked { from, proof, offered }: Asked,
        dry_run: bool,
    ) -> Result<(Cosignature, Option<(Peer, Vec<u8>)>), PeerError> {
        let name = offered.checkpoint.origin.clone();
        let (peer, row) = self.peer(&name).await?;
        let Some(offered) = read(&offered.note.to_string(), &name, &peer.verifying_keys()) else {
            return Err(PeerError::Signature(name));
        };
        let unit = unit_of(&name).ok_or_else(|| PeerError::Signature(name.clone()))?;
        let known = peer.held.as_ref().and_then(parsed);
        let offer = Offer { old_size: from, consistency: proof, ..Offer::default() };
        let comparison = known.as_ref().map_or(Comparison::Follows, |known| {
            compare(&known.checkpoint, &offered.checkpoint, &offer)
        });
        match (comparison, known) {
            (Comparison::Same, Some(known)) => Ok((self.given(&known), None)),
            (Comparison::Elsewhere, Some(known)) => {
                Err(PeerError::Elsewhere { name, from, held: known.checkpoint.size })
            }
            (Comparison::Breach(Breach::Rollback), Some(_))
                if peer.seen.contains(&digest(&offered)) =>
            {
                Err(PeerError::Stale(name))
            }
            (Comparison::Breach(breach), Some(_)) if dry_run => {
                Err(PeerError::Breach { name, breach, alarm: String::new() })
            }
            (Comparison::Breach(breach), Some(known)) => {
                let alarm =
                    self.breach_of_peer((&peer, row, unit), breach, &known, &offered, &offer);
                let alarm = alarm.await?;
                Err(PeerError::Breach { name, breach, alarm })
            }
            (Comparison::Follows | Comparison::Same | Comparison::Elsewhere, _)
            | (Comparison::Breach(_), None) => {
                let now = self.unit.clock.now_unix_ms();
                let mut seen = peer.seen.clone();
                seen.push(digest(&offered));
                seen.drain(..seen.len().saturating_sub(MAX_SEEN));
                let mut note = offered.note;
                let seconds = u64::try_from(now / 1_000).unwrap_or_default();
                note.cosign(self.journal.origin(), &self.unit.keys().statement, seconds);
                let held = Held::of(&note, now);
                let given = self.given(&Signed { checkpoint: offered.checkpoint, note });
                Ok((given, Some((Peer { held: Some(held), seen, ..peer }, row))))
            }
        }
    }

    fn given(&self, held: &Signed) -> Cosignature {
        let own = self.unit.keys().statement.verifying_key();
        let time = held.note.verify_cosignature(self.journal.origin(), &own);
        Cosignature {
            name: held.checkpoint.origin.clone(),
            size: held.checkpoint.size,
            time_unix_s: time.unwrap_or_default(),
            note: held.note.to_string(),
        }
    }

    /// Raises an alarm, once about each breach of what is held; gives its id.
    async fn breach_of_peer(
        &self,
        (peer, row, unit): (&Peer, Vec<u8>, UnitCode),
        breach: Breach,
        seen: &Signed,
        offered: &Signed,
        offer: &Offer,
    ) -> Result<String, PeerError> {
        let held = peer.held.clone().unwrap_or_else(|| Held::of(&seen.note, 0));
        if held.breaches.iter().any(|known| known == breach.as_str()) {
            let alarms = self.list_alarms().await?;
            let of_it = |alarm: &&AlarmRow| alarm.unit == unit && alarm.breach == breach.as_str();
            let known = alarms.iter().rev().find(of_it);
            return Ok(known.map(|alarm| alarm.id.clone()).unwrap_or_default());
        }
        let alarm = self.evidence_of_breach(unit, breach, seen, offered, &offer.consistency);
        let mut breaches = held.breaches.clone();
        breaches.push(breach.as_str().to_owned());
        let peer = Peer { held: Some(Held { breaches, ..held }), ..peer.clone() };
        let written = (key_of(&peer.name), Some(row), format::write(FORMAT, &peer));
        // Nobody above can check the signatures of another tree: it stays here, and leaves by
        // console, webhook and file.
        Ok(self.raise(alarm, written, None).await?)
    }

    /// Takes in a peer's cosignature of a checkpoint that this unit made.
    ///
    /// # Errors
    ///
    /// [`PeerError`].
    pub async fn take_from_peer(
        &self,
        by: Actor,
        answer: &str,
        dry_run: bool,
    ) -> Result<Cosignature, PeerError> {
        const ACT: &str = "journal.witness.take";
        match self.cosigned_by_peer(answer).await {
            Err(error) => Err(self.refused(by, ACT, "", error).await),
            Ok((_, _, cosigned)) if dry_run => Ok(cosigned),
            Ok((peer, row, cosigned)) => {
                let note = Note::parse(&cosigned.note).and_then(Signed::of);
                let note = note.map_err(|_| PeerError::NotOurs)?;
                let only = Signed { note: note.note.only(&peer.name), ..note };
                if !self.journal.add_cosignatures(&only, true).await? {
                    return Err(self.refused(by, ACT, &peer.name, PeerError::NotOurs).await);
                }
                let seconds = i64::try_from(cosigned.time_unix_s).unwrap_or(i64::MAX);
                let newer = cosigned.size > peer.cosigned_size;
                let peer = Peer {
                    cosigned_size: peer.cosigned_size.max(cosigned.size),
                    cosigned_unix_ms: match newer {
                        true => seconds.saturating_mul(1_000),
                        false => peer.cosigned_unix_ms,
                    },
                    ..peer
                };
                self.put_peer(&peer, Some(row), Act::done(by, ACT, &*peer.name)).await?;
                Ok(cosigned)
            }
        }
    }

    async fn cosigned_by_peer(
        &self,
        answer: &str,
    ) -> Result<(Peer, Vec<u8>, Cosignature), PeerError> {
        let signed = Note::parse(answer).and_then(Signed::of);
        let signed = signed.map_err(|error| malformed(answer, &error))?;
        if !self.journal.is_own(&signed).await? {
            return Err(PeerError::NotOurs);
        }
        let mut unknown = None;
        for name in signed.witnesses().map(str::to_owned).collect::<Vec<_>>() {
            let (peer, row) = match self.peer(&name).await {
                Err(PeerError::Unknown(name)) => {
                    unknown = Some(name);
                    continue;
                }
                found => found?,
            };
            let time = peer.cosigned(&signed.note);
            let time_unix_s = time.ok_or_else(|| PeerError::Signature(name.clone()))?;
            let (size, note) = (signed.checkpoint.size, signed.note.to_string());
            return Ok((peer, row, Cosignature { name, size, time_unix_s, note }));
        }
        Err(PeerError::Unknown(unknown.unwrap_or_else(|| "nobody".to_owned())))
    }

    async fn put_peer(
        &self,
        peer: &Peer,
        row: Option<Vec<u8>>,
        act: Act,
    ) -> Result<(), store::Error> {
        let (key, mut batch) = (key_of(&peer.name), Batch::new(&self.unit.code));
        match row {
            Some(row) => batch.require(Table::Witnessed, key.clone(), row),
            None => batch.require_absent(Table::Witnessed, key.clone()),
        }
        batch.put(Table::Witnessed, key, format::write(FORMAT, peer));
        batch.journal(self.unit.clock.now_unix_ms(), &Leaf::Act(act));
        self.unit.store.submit(batch).await
    }

    async fn refused(
        &self,
        by: Actor,
        name: &'static str,
        subject: &str,
        error: PeerError,
    ) -> PeerError {
        let Some(reason) = error.reason() else { return error };
        let source = by.to_string();
        let refused = Act::refused(by, name, subject, reason);
        match self.unit.record_refusal(&source, refused).await {
            Ok(()) => error,
            Err(failed) => failed.into(),
        }
    }
}

/// A request that was read.
struct Asked {
    from: u64,
    proof: Vec<merkle::Hash>,
    offered: Signed,
}

impl Asked {
    fn parse(text: &str) -> Result<Self, PeerError> {
        let wrong = |line, detail: &str| PeerError::Malformed { line, detail: detail.to_owned() };
        if text.len() > MAX_REQUEST_BYTES {
            return Err(wrong(1, "it is longer than any request"));
        }
        let (head, note) = text.split_once("\n\n").ok_or_else(|| wrong(1, "it is no request"))?;
        let mut lines = head.split('\n');
        let from = lines.next().and_then(|line| line.strip_prefix("old "));
        let from = from.and_then(|size| size.parse().ok());
        let from = from.ok_or_else(|| wrong(1, "it is not `old` and a size"))?;
        let mut proof = Vec::new();
        for (at, line) in lines.enumerate() {
            let hash = STANDARD.decode(line).ok().and_then(|hash| hash.try_into().ok());
            let hash = hash.ok_or_else(|| wrong(at + 2, "it is no hash in Base64"))?;
            if proof.len() >= MAX_PROOF {
                return Err(wrong(at + 2, "a proof has at most 63 hashes"));
            }
            proof.push(hash);
        }
        let offered = Note::parse(note).and_then(Signed::of);
        let offered = offered.map_err(|error| wrong(proof.len() + 3, &error.to_string()))?;
        Ok(Self { from, proof, offered })
    }
}

fn malformed(text: &str, error: &note::Error) -> PeerError {
    let line = match error {
        note::Error::Malformed(line) => *line,
        note::Error::TooLarge
        | note::Error::NoCheckpoint(_)
        | note::Error::NotSigned(_)
        | note::Error::BadSignature(_) => text.lines().count().min(1),
    };
    PeerError::Malformed { line, detail: error.to_string() }
}

/// What is remembered of a checkpoint that was cosigned.
fn digest(signed: &Signed) -> String {
    hex::encode(sha2::Sha256::digest(signed.note.text().as_bytes()))
}

/// The unit that a name is of.
fn unit_of(name: &str) -> Option<UnitCode> {
    name.rsplit_once("/unit/")?.1.parse().ok()
}

fn key_of(name: &str) -> Vec<u8> {
    [PEER, name.as_bytes()].concat()
}
