//! Leaves of the journal as they are hashed, and the evidence that one stands in it.
//!
//! A leaf's bytes are made once and kept verbatim. Reading one never fails for what a later version
//! adds: its bytes count, whatever they say.

use lianxi_proto::{
    envelope::VerifyingKey,
    merkle::{self, Hash},
    note::{self, Checkpoint, Note},
    types::v1::{self as pb, journal_leaf::Event},
};
use prost::Message;

use super::header::Malformed;
use crate::{
    clock::UnixMillis,
    domain::{
        epoch::{Head, Opened},
        journal::{Act, Alarm, Breach, Leaf, Outcome, Refusal, Statement},
    },
};

/// Longest type of a refused statement that is kept.
const MAX_KIND_CHARACTERS: usize = 100;

/// Serialises a leaf.
pub fn encode(time_unix_ms: UnixMillis, leaf: &Leaf) -> Vec<u8> {
    let event = match leaf {
        Leaf::StatementOut(statement) => Event::StatementOut(statement_message(statement)),
        Leaf::StatementIn(statement) => Event::StatementIn(statement_message(statement)),
        Leaf::StatementRefused(refusal) => Event::StatementRefused(refusal_message(refusal)),
        Leaf::Delegation { unit, desk, payload_sha256 } => {
            Event::Delegation(pb::JournalDelegation {
                unit: unit.as_str().to_owned(),
                desk: desk.as_ref().map(|desk| desk.as_str().to_owned()).unwrap_or_default(),
                payload_sha256: payload_sha256.to_vec(),
            })
        }
        Leaf::Record { salted_sha256, removed } => Event::Record(pb::JournalRecord {
            salted_sha256: salted_sha256.to_vec(),
            removed: *removed,
        }),
        Leaf::Act(act) => Event::Act(act_message(act)),
        Leaf::Config(sha256) => Event::ConfigSha256(sha256.to_vec()),
        Leaf::Epoch(opened) => Event::Epoch(epoch_message(opened)),
    };
    pb::JournalLeaf { time_unix_ms, event: Some(event) }.encode_to_vec()
}

fn statement_message(statement: &Statement) -> pb::JournalStatement {
    pb::JournalStatement {
        id: statement.id.to_vec(),
        kind: statement.kind.clone(),
        source: statement.source.as_str().to_owned(),
        payload_sha256: statement.payload_sha256.to_vec(),
    }
}

fn refusal_message(refusal: &Refusal) -> pb::JournalRefusal {
    let (id, kind, source) = match &refusal.header {
        Some((id, kind, source)) => (id.to_vec(), cut(kind), source.as_str().to_owned()),
        None => Default::default(),
    };
    let payload_sha256 = refusal.payload_sha256.to_vec();
    pb::JournalRefusal {
        statement: Some(pb::JournalStatement { id, kind, source, payload_sha256 }),
        peer: refusal.peer.as_str().to_owned(),
        reason: refusal.reason.clone(),
    }
}

fn act_message(act: &Act) -> pb::JournalAct {
    pb::JournalAct {
        actor: act.actor.as_str().to_owned(),
        name: act.name.to_owned(),
        subject: act.subject.clone(),
        refused: match act.outcome {
            Outcome::Done => String::new(),
            Outcome::Refused(reason) => reason.to_owned(),
        },
        digest: act.digest.map(Vec::from).unwrap_or_default(),
    }
}

fn epoch_message(opened: &Opened) -> pb::JournalEpoch {
    let root = |head: Head| if head.size == 0 { Vec::new() } else { head.root.to_vec() };
    pb::JournalEpoch {
        epoch: opened.epoch,
        reason: opened.reason.as_str().to_owned(),
        checkpoint_size: opened.checkpoint.size,
        checkpoint_root: root(opened.checkpoint),
        seen_size: opened.seen.size,
        seen_root: root(opened.seen),
        approvers: opened.approvers.clone(),
    }
}

fn cut(kind: &str) -> String {
    kind.chars().take(MAX_KIND_CHARACTERS).collect()
}

/// A leaf as a line of the audit log. What does not apply is empty.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Line {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub time_unix_ms: UnixMillis,
    /// Kind of leaf: `statement-out`, `statement-in`, `statement-refused`, `delegation`, `record`,
    /// `act`, `config`, `epoch`, or `unknown` of a later version.
    pub event: &'static str,
    /// Who: an act's actor, a statement's source, those who approved an epoch.
    pub actor: String,
    /// What: an act's name, a statement's type, `put` or `removed` for a record, an epoch's reason.
    pub name: String,
    /// To what: an act's subject, a statement's id, a delegation's unit and desk, an epoch's number
    /// with the sizes of the last cosigned checkpoint here and at the peers.
    pub subject: String,
    /// Why it was refused; empty: it was not.
    pub refused: String,
    /// Digest, in hex.
    pub digest: String,
}

/// Reads a leaf as a line of the audit log.
///
/// # Errors
///
/// [`Malformed`]: the bytes are no leaf.
pub fn read(bytes: &[u8]) -> Result<Line, Malformed> {
    let leaf = pb::JournalLeaf::decode(bytes).map_err(|error| Malformed::new("leaf", error))?;
    let line = Line { time_unix_ms: leaf.time_unix_ms, ..Line::default() };
    let statement = |line: Line, event, statement: pb::JournalStatement| Line {
        event,
        actor: if statement.source.is_empty() {
            String::new()
        } else {
            format!("unit:{}", statement.source)
        },
        name: statement.kind,
        subject: id_text(&statement.id),
        digest: hex::encode(statement.payload_sha256),
        ..line
    };
    Ok(match leaf.event {
        None => Line { event: "unknown", ..line },
        Some(Event::StatementOut(out)) => statement(line, "statement-out", out),
        Some(Event::StatementIn(taken)) => statement(line, "statement-in", taken),
        Some(Event::StatementRefused(refusal)) => {
            let refused = refusal.reason;
            let named = refusal.statement.unwrap_or_default();
            let line = statement(line, "statement-refused", named);
            Line { actor: format!("unit:{}", refusal.peer), refused, ..line }
        }
        Some(Event::Delegation(delegation)) => Line {
            event: "delegation",
            subject: match delegation.desk.as_str() {
                "" => delegation.unit,
                desk => format!("{}/{desk}", delegation.unit),
            },
            digest: hex::encode(delegation.payload_sha256),
            ..line
        },
        Some(Event::Record(record)) => Line {
            event: "record",
            name: if record.removed { "removed" } else { "put" }.to_owned(),
            digest: hex::encode(record.salted_sha256),
            ..line
        },
        Some(Event::Act(act)) => Line {
            event: "act",
            actor: act.actor,
            name: act.name,
            subject: act.subject,
            refused: act.refused,
            digest: hex::encode(act.digest),
            ..line
        },
        Some(Event::ConfigSha256(digest)) => {
            Line { event: "config", digest: hex::encode(digest), ..line }
        }
        Some(Event::Epoch(epoch)) => epoch_line(line, epoch),
    })
}

fn epoch_line(line: Line, epoch: pb::JournalEpoch) -> Line {
    let seen = epoch.seen_size.max(epoch.checkpoint_size);
    Line {
        event: "epoch",
        actor: epoch.approvers.join(", "),
        name: epoch.reason,
        subject: format!("{}: {} of {seen}", epoch.epoch, epoch.checkpoint_size),
        digest: hex::encode(epoch.checkpoint_root),
        ..line
    }
}

fn id_text(id: &[u8]) -> String {
    uuid::Uuid::from_slice(id).map(|id| id.to_string()).unwrap_or_default()
}

/// Size and root of a checkpoint; `None`: the text is none. Nothing is verified.
pub fn checkpoint(text: &str) -> Option<(u64, Hash)> {
    let note = Note::parse(text).ok()?;
    let checkpoint = Checkpoint::of(&note).ok()?;
    Some((checkpoint.size, checkpoint.root))
}

/// Serialises the body of `lianxi.alarm.v1`.
pub fn encode_alarm(alarm: &Alarm) -> Vec<u8> {
    pb::Alarm {
        unit: alarm.unit.as_str().to_owned(),
        reason: alarm.breach.as_str().to_owned(),
        held: alarm.held.clone(),
        offered: alarm.offered.clone(),
        consistency: alarm.consistency.iter().map(|hash| hash.to_vec()).collect(),
    }
    .encode_to_vec()
}

/// Parses the body of `lianxi.alarm.v1`. The checkpoints are not verified.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn decode_alarm(bytes: &[u8]) -> Result<Alarm, Malformed> {
    let body = pb::Alarm::decode(bytes).map_err(|error| Malformed::new("body", error))?;
    let unit = body.unit.parse().map_err(|error| Malformed::new("body.unit", error))?;
    let breach = Breach::of(&body.reason);
    let breach =
        breach.ok_or_else(|| Malformed::new("body.reason", "is rollback or split-view"))?;
    for (name, note) in [("body.held", &body.held), ("body.offered", &body.offered)] {
        let note = Note::parse(note).map_err(|error| Malformed::new(name, error))?;
        Checkpoint::of(&note).map_err(|error| Malformed::new(name, error))?;
    }
    let hashes = body.consistency.into_iter().map(Hash::try_from).collect::<Result<_, _>>();
    let consistency =
        hashes.map_err(|_| Malformed::new("body.consistency", "holds hashes of 32 bytes"))?;
    Ok(Alarm { unit, breach, held: body.held, offered: body.offered, consistency })
}

/// Proof that a leaf stands in a unit's journal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Evidence {
    /// The leaf's bytes.
    pub leaf: Vec<u8>,
    /// Its index.
    pub leaf_index: u64,
    /// From the leaf up.
    pub inclusion: Vec<Hash>,
    /// The checkpoint with its signature and cosignatures.
    pub checkpoint: String,
}

/// Why evidence proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The checkpoint cannot be read, or is not signed by the unit.
    #[error("the checkpoint does not hold")]
    Checkpoint(#[source] note::Error),
    /// The checkpoint is of another journal.
    #[error("the checkpoint is of the journal {found}, not {expected}")]
    Origin {
        /// Origin of the checkpoint.
        found: String,
        /// Journal that was asked for.
        expected: String,
    },
    /// The leaf is not in the journal of the checkpoint.
    #[error("the proof does not lead from leaf {0} to the checkpoint's root")]
    Inclusion(u64),
}

impl Evidence {
    /// The message that travels.
    pub fn to_message(&self) -> pb::Evidence {
        pb::Evidence {
            leaf: self.leaf.clone(),
            leaf_index: self.leaf_index,
            inclusion: self.inclusion.iter().map(|hash| hash.to_vec()).collect(),
            checkpoint: self.checkpoint.clone(),
        }
    }

    /// As stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_message().encode_to_vec()
    }

    /// From what was stored.
    ///
    /// # Errors
    ///
    /// [`Malformed`] with the field.
    pub fn of_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let message =
            pb::Evidence::decode(bytes).map_err(|error| Malformed::new("evidence", error))?;
        Self::of_message(message)
    }

    /// Reads what travelled. Nothing is verified yet.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: a hash of another length.
    pub fn of_message(message: pb::Evidence) -> Result<Self, Malformed> {
        let hash = |bytes: Vec<u8>| {
            Hash::try_from(bytes).map_err(|_| Malformed::new("evidence.inclusion", "has 32 bytes"))
        };
        Ok(Self {
            leaf: message.leaf,
            leaf_index: message.leaf_index,
            inclusion: message.inclusion.into_iter().map(hash).collect::<Result<_, _>>()?,
            checkpoint: message.checkpoint,
        })
    }

    /// Checks that the leaf stands in the journal `origin`, whose owner signs with one of `keys`.
    /// Returns the checkpoint's note; whose cosignatures it bears is the caller's to verify.
    ///
    /// # Errors
    ///
    /// [`EvidenceError`].
    pub fn verify(&self, origin: &str, keys: &[VerifyingKey]) -> Result<Note, EvidenceError> {
        let note = Note::parse(&self.checkpoint).map_err(EvidenceError::Checkpoint)?;
        let checkpoint = Checkpoint::of(&note).map_err(EvidenceError::Checkpoint)?;
        if checkpoint.origin != origin {
            let expected = origin.to_owned();
            return Err(EvidenceError::Origin { found: checkpoint.origin, expected });
        }
        let mut verdict = Err(note::Error::NotSigned(origin.to_owned()));
        for key in keys {
            match note.verify(origin, key) {
                Err(note::Error::NotSigned(_)) => {}
                other => verdict = other,
            }
        }
        verdict.map_err(EvidenceError::Checkpoint)?;
        let leaf = merkle::leaf_hash(&self.leaf);
        let (index, size) = (self.leaf_index, checkpoint.size);
        if merkle::verify_inclusion(&leaf, index, size, &self.inclusion, &checkpoint.root) {
            Ok(note)
        } else {
            Err(EvidenceError::Inclusion(index))
        }
    }
}

#[cfg(test)]
mod tests {
    use lianxi_proto::envelope::Signer;

    use super::*;
    use crate::domain::{epoch::Reason, journal::Actor, unit::UnitCode};

    fn unit() -> UnitCode {
        "BOS-01".parse().unwrap()
    }

    fn statement() -> Statement {
        Statement {
            id: [7; 16],
            kind: "lianxi.notice.v1".to_owned(),
            source: unit(),
            payload_sha256: [1; 32],
        }
    }

    #[test]
    fn every_leaf_reads_back_as_a_line() {
        let refusal = Refusal {
            header: None,
            payload_sha256: [2; 32],
            peer: unit(),
            reason: "bad-signature".to_owned(),
        };
        let act = Act::refused(Actor::uid(1000), "node.invite", "BOS-02", "not-a-child");
        let delegation = Leaf::Delegation {
            unit: unit(),
            desk: Some("ROADS".parse().unwrap()),
            payload_sha256: [3; 32],
        };
        let opened = Opened {
            epoch: 2,
            reason: Reason::Restore,
            checkpoint: Head { size: 7, root: [6; 32] },
            seen: Head { size: 9, root: [7; 32] },
            approvers: vec!["li".to_owned(), "wang".to_owned()],
        };
        let cases = [
            (Leaf::StatementOut(statement()), "statement-out", "unit:BOS-01", "lianxi.notice.v1"),
            (Leaf::StatementIn(statement()), "statement-in", "unit:BOS-01", "lianxi.notice.v1"),
            (Leaf::StatementRefused(refusal), "statement-refused", "unit:BOS-01", ""),
            (delegation, "delegation", "", ""),
            (Leaf::Record { salted_sha256: [4; 32], removed: true }, "record", "", "removed"),
            (Leaf::Act(act), "act", "uid:1000", "node.invite"),
            (Leaf::Config([5; 32]), "config", "", ""),
            (Leaf::Epoch(opened), "epoch", "li, wang", "restore"),
        ];
        for (leaf, event, actor, name) in cases {
            let line = read(&encode(42, &leaf)).unwrap();
            let shown = (line.time_unix_ms, line.event, &line.actor[..], &line.name[..]);
            assert_eq!(shown, (42, event, actor, name));
        }
        assert_eq!(read(&[8, 1]).unwrap().event, "unknown");
        assert!(read(b"\xff").is_err());
    }

    fn evidence() -> (Evidence, String, Signer) {
        let signer = Signer::from_seed(&[1; 32]);
        let origin = note::origin("city.example", "BOS-01");
        let leaf = encode(42, &Leaf::StatementOut(statement()));
        let (left, hash) = (merkle::leaf_hash(b"before"), merkle::leaf_hash(&leaf));
        let root = merkle::node_hash(&left, &hash);
        let checkpoint = Checkpoint { origin: origin.clone(), size: 2, root }.sign(&signer);
        let checkpoint = checkpoint.to_string();
        (Evidence { leaf, leaf_index: 1, inclusion: vec![left], checkpoint }, origin, signer)
    }

    #[test]
    fn evidence_holds_for_its_leaf_its_journal_and_its_key() {
        let (evidence, origin, signer) = evidence();
        let keys = [Signer::from_seed(&[9; 32]).verifying_key(), signer.verifying_key()];
        evidence.verify(&origin, &keys).unwrap();
        assert_eq!(Evidence::of_message(evidence.to_message()).unwrap(), evidence);

        let other = evidence.verify("city.example/unit/BOS-02", &keys);
        assert!(matches!(other, Err(EvidenceError::Origin { .. })), "{other:?}");
        let unsigned = evidence.verify(&origin, &keys[..1]);
        assert!(matches!(unsigned, Err(EvidenceError::Checkpoint(_))), "{unsigned:?}");
        for byte in 0..evidence.leaf.len() {
            let mut changed = evidence.clone();
            changed.leaf[byte] ^= 1;
            let refused = changed.verify(&origin, &keys);
            assert!(matches!(refused, Err(EvidenceError::Inclusion(1))), "{refused:?}");
        }
        let moved = Evidence { leaf_index: 0, ..evidence.clone() }.verify(&origin, &keys);
        assert!(matches!(moved, Err(EvidenceError::Inclusion(0))), "{moved:?}");
        let larger = evidence.checkpoint.replacen("\n2\n", "\n3\n", 1);
        let forged = Evidence { checkpoint: larger, ..evidence }.verify(&origin, &keys);
        let is_bad = matches!(forged, Err(EvidenceError::Checkpoint(note::Error::BadSignature(_))));
        assert!(is_bad, "{forged:?}");
    }
}
