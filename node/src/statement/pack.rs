//! The file of a pack: its bytes, part by part, and the body of its seal.
//!
//! Promises that what was read is the only way to write it: no byte is skipped, no field unknown,
//! nothing follows the end. Believes nothing: signatures are judged by `verify`.

use lianxi_proto::types::v1 as pb;
use prost::Message as _;
use sha2::{Digest, Sha256};

use super::{
    Envelope, SaltedCell,
    header::{Malformed, unit_at},
    journal::Evidence,
    revocation::Proven,
};
use crate::{clock::UnixMillis, domain::unit::UnitCode};

/// First bytes of every pack: a name and a version.
pub const MAGIC: [u8; 8] = *b"lianxi\x00\x01";

/// Largest part.
pub const MAX_PART_BYTES: usize = 1024 * 1024;

/// Largest file.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024 * 1024;

/// Bytes of a part's length.
const LENGTH_BYTES: usize = 4;

/// Why bytes are no pack.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Other first bytes.
    #[error("this is no pack of Lianxi")]
    NotAPack,
    /// Other first bytes than those of a file of revocations.
    #[error("this is no file of revocations; `lianxi node revocations --out FILE` writes one")]
    NoRevocations,
    /// A version that this program does not read.
    #[error("the pack has version {0}, this program reads 1; use a newer program")]
    Version(u8),
    /// Over [`MAX_FILE_BYTES`].
    #[error("a pack has at most 1 GiB")]
    TooLarge,
    /// The file ends too early.
    #[error("part {0} is cut off; copy the file again")]
    Truncated(usize),
    /// Bytes after the seal.
    #[error("bytes follow the seal")]
    TrailingBytes,
    /// A part that is not what its fields would be written as.
    #[error("part {0} is not in canonical form")]
    NotCanonical(usize),
    /// A part at a place where it does not belong, or one that is missing.
    #[error("part {0} is out of order")]
    PartOrder(usize),
    /// A field of a part.
    #[error("part {0}: {1}")]
    Malformed(usize, Malformed),
}

impl Fault {
    /// Fixed word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotAPack | Self::NoRevocations => "not-a-pack",
            Self::Version(_) => "version",
            Self::TooLarge => "too-large",
            Self::Truncated(_) => "truncated",
            Self::TrailingBytes => "trailing-bytes",
            Self::NotCanonical(_) => "not-canonical",
            Self::PartOrder(_) => "part-order",
            Self::Malformed(..) => "malformed",
        }
    }

    /// Number of the part, from 0; `None`: the file as a whole.
    pub fn part(&self) -> Option<usize> {
        match self {
            Self::NotAPack
            | Self::NoRevocations
            | Self::Version(_)
            | Self::TooLarge
            | Self::TrailingBytes => None,
            Self::Truncated(part)
            | Self::NotCanonical(part)
            | Self::PartOrder(part)
            | Self::Malformed(part, _) => Some(*part),
        }
    }
}

/// What the file is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Head {
    /// Trust domain.
    pub trust_domain: String,
    /// Unit that exported.
    pub exporter: UnitCode,
    /// When.
    pub exported_unix_ms: UnixMillis,
    /// Unit at the top of the figures, or source of the single statement.
    pub unit: UnitCode,
    /// Period; empty: a single statement.
    pub period: String,
    /// Units in the figures whose statements are not in the file, with the reason.
    pub missing: Vec<(UnitCode, String)>,
}

/// A statement with what belongs to it.
#[derive(Clone, Debug)]
pub struct Packed {
    /// As it was signed.
    pub envelope: Envelope,
    /// Cells of a summary.
    pub cells: Vec<SaltedCell>,
    /// That it stands in a journal.
    pub evidence: Option<Evidence>,
}

/// A part but the seal.
#[derive(Clone, Debug)]
pub enum Part {
    /// What the file is.
    Head(Head),
    /// A delegation.
    Delegation(Envelope),
    /// A revocation.
    Revocation(Proven),
    /// The catalogue.
    Catalogue(Envelope),
    /// A statement.
    Statement(Packed),
}

/// A file that was read, with the number of each part.
#[derive(Debug)]
pub struct Pack {
    /// What the file is.
    pub head: Head,
    /// Delegations, issuers before issued.
    pub delegations: Vec<(usize, Envelope)>,
    /// Revocations, each with its proof.
    pub revocations: Vec<(usize, Proven)>,
    /// The catalogue.
    pub catalogue: Option<(usize, Envelope)>,
    /// Statements.
    pub statements: Vec<(usize, Packed)>,
    /// The exporter's signature over everything before it.
    pub seal: (usize, Envelope),
    /// What the seal has to name.
    pub sealed: Sealed,
}

/// The bytes before the seal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sealed {
    /// SHA-256 of them.
    pub sha256: [u8; 32],
    /// Their number.
    pub size_bytes: u64,
}

/// The revocations that an exporter held: more than the file has, if some concern nobody in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HeldRevocations {
    /// SHA-256 over their ids, ascending.
    pub sha256: [u8; 32],
    /// Their number.
    pub count: u32,
}

/// Body of the seal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SealBody {
    /// The bytes before it.
    pub sealed: Sealed,
    /// Revocations that the exporter held. `None`: it does not say.
    pub held: Option<HeldRevocations>,
}

/// Writes a pack part by part, and keeps the digest of what was written.
#[derive(Clone, Debug)]
pub struct Writer {
    digest: Sha256,
    size_bytes: u64,
}

impl Writer {
    /// Begins a pack; the bytes come first in the file.
    pub fn begin() -> (Self, Vec<u8>) {
        let mut writer = Self { digest: Sha256::new(), size_bytes: 0 };
        let bytes = writer.count(MAGIC.to_vec());
        (writer, bytes)
    }

    /// The bytes of the next part.
    ///
    /// # Errors
    ///
    /// [`Fault::TooLarge`] for a part over [`MAX_PART_BYTES`].
    pub fn part(&mut self, part: Part) -> Result<Vec<u8>, Fault> {
        Ok(self.count(frame(to_proto(part))?))
    }

    /// What the seal has to name.
    pub fn sealed(&self) -> Sealed {
        Sealed { sha256: self.digest.clone().finalize().into(), size_bytes: self.size_bytes }
    }

    /// The last bytes.
    ///
    /// # Errors
    ///
    /// As [`Writer::part`].
    pub fn seal(self, envelope: Envelope) -> Result<Vec<u8>, Fault> {
        frame(pb::pack_part::Kind::Seal(envelope))
    }

    fn count(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        self.digest.update(&bytes);
        self.size_bytes += bytes.len() as u64;
        bytes
    }
}

fn frame(kind: pb::pack_part::Kind) -> Result<Vec<u8>, Fault> {
    let part = pb::PackPart { kind: Some(kind) };
    let size = part.encoded_len();
    let length = u32::try_from(size).ok().filter(|_| size <= MAX_PART_BYTES);
    let length = length.ok_or(Fault::TooLarge)?.to_be_bytes();
    Ok([&length[..], &part.encode_to_vec()].concat())
}

fn to_proto(part: Part) -> pb::pack_part::Kind {
    use pb::pack_part::Kind;
    match part {
        Part::Head(head) => Kind::Head(pb::PackHead {
            trust_domain: head.trust_domain,
            exporter: head.exporter.to_string(),
            exported_unix_ms: head.exported_unix_ms,
            unit: head.unit.to_string(),
            period: head.period,
            missing: head
                .missing
                .into_iter()
                .map(|(unit, reason)| pb::PackMissing { unit: unit.to_string(), reason })
                .collect(),
        }),
        Part::Delegation(envelope) => Kind::Delegation(envelope),
        Part::Revocation(proven) => Kind::Revocation(proven.to_proto()),
        Part::Catalogue(envelope) => Kind::Catalogue(envelope),
        Part::Statement(packed) => Kind::Statement(pb::PackStatement {
            envelope: Some(packed.envelope),
            cells: packed.cells,
            evidence: packed.evidence.as_ref().map(Evidence::to_message),
        }),
    }
}

/// Reads a whole file.
///
/// # Errors
///
/// [`Fault`] says what is no pack, and at which part.
pub fn read(file: &[u8]) -> Result<Pack, Fault> {
    if file.len() as u64 > MAX_FILE_BYTES {
        return Err(Fault::TooLarge);
    }
    let (name, version) = (&MAGIC[..7], MAGIC[7]);
    match file.get(..MAGIC.len()) {
        Some(first) if first[..7] != *name => return Err(Fault::NotAPack),
        Some(first) if first[7] != version => return Err(Fault::Version(first[7])),
        Some(_) => {}
        None => return Err(Fault::NotAPack),
    }
    let mut reading = Reading::default();
    let mut at = MAGIC.len();
    for number in 0.. {
        let (bytes, next) = part_at(file, at, number)?;
        let part = pb::PackPart::decode(bytes).map_err(|_| Fault::NotCanonical(number))?;
        if part.encode_to_vec() != bytes {
            return Err(Fault::NotCanonical(number));
        }
        let kind = part.kind.ok_or(Fault::NotCanonical(number))?;
        if let Some(seal) = reading.take(number, kind)? {
            if next != file.len() {
                return Err(Fault::TrailingBytes);
            }
            return reading.finish(number, seal, &file[..at]);
        }
        at = next;
    }
    Err(Fault::Truncated(0))
}

/// The bytes of the part that begins at `at`, and where the next one begins.
fn part_at(file: &[u8], at: usize, number: usize) -> Result<(&[u8], usize), Fault> {
    let begin = at + LENGTH_BYTES;
    let length = file.get(at..begin).ok_or(Fault::Truncated(number))?;
    let length = length.try_into().map(u32::from_be_bytes).map_err(|_| Fault::Truncated(number))?;
    let length = usize::try_from(length).map_err(|_| Fault::TooLarge)?;
    if length == 0 || length > MAX_PART_BYTES {
        return Err(Fault::TooLarge);
    }
    let end = begin + length;
    Ok((file.get(begin..end).ok_or(Fault::Truncated(number))?, end))
}

/// What was read so far.
#[derive(Default)]
struct Reading {
    head: Option<Head>,
    delegations: Vec<(usize, Envelope)>,
    revocations: Vec<(usize, Proven)>,
    catalogue: Option<(usize, Envelope)>,
    statements: Vec<(usize, Packed)>,
}

impl Reading {
    /// Takes a part in; the seal comes back.
    fn take(
        &mut self,
        number: usize,
        kind: pb::pack_part::Kind,
    ) -> Result<Option<Envelope>, Fault> {
        use pb::pack_part::Kind;
        let fits = match &kind {
            Kind::Head(_) => number == 0,
            Kind::Delegation(_) => {
                self.head.is_some() && self.revocations.is_empty() && self.is_before_content()
            }
            Kind::Revocation(_) | Kind::Catalogue(_) => {
                !self.delegations.is_empty() && self.is_before_content()
            }
            Kind::Statement(_) => !self.delegations.is_empty(),
            Kind::Seal(_) => !self.statements.is_empty(),
        };
        if !fits {
            return Err(Fault::PartOrder(number));
        }
        match kind {
            Kind::Head(head) => {
                let head = read_head(head).map_err(|error| Fault::Malformed(number, error))?;
                self.head = Some(head);
            }
            Kind::Delegation(envelope) => self.delegations.push((number, envelope)),
            Kind::Revocation(message) => {
                let proven = Proven::from_proto(message);
                let proven = proven.map_err(|error| Fault::Malformed(number, error))?;
                self.revocations.push((number, proven));
            }
            Kind::Catalogue(envelope) => self.catalogue = Some((number, envelope)),
            Kind::Statement(packed) => {
                let missing = || Malformed::new("envelope", "is missing");
                let envelope =
                    packed.envelope.ok_or_else(|| Fault::Malformed(number, missing()))?;
                let evidence = packed.evidence.map(Evidence::of_message).transpose();
                let evidence = evidence.map_err(|error| Fault::Malformed(number, error))?;
                let packed = Packed { envelope, cells: packed.cells, evidence };
                self.statements.push((number, packed));
            }
            Kind::Seal(envelope) => return Ok(Some(envelope)),
        }
        Ok(None)
    }

    /// True while neither the catalogue nor a statement has come.
    fn is_before_content(&self) -> bool {
        self.catalogue.is_none() && self.statements.is_empty()
    }

    fn finish(self, number: usize, seal: Envelope, sealed: &[u8]) -> Result<Pack, Fault> {
        Ok(Pack {
            head: self.head.ok_or(Fault::PartOrder(0))?,
            delegations: self.delegations,
            revocations: self.revocations,
            catalogue: self.catalogue,
            statements: self.statements,
            seal: (number, seal),
            sealed: Sealed {
                sha256: Sha256::digest(sealed).into(),
                size_bytes: sealed.len() as u64,
            },
        })
    }
}

fn read_head(head: pb::PackHead) -> Result<Head, Malformed> {
    if head.trust_domain.is_empty() {
        return Err(Malformed::new("trust_domain", "is missing"));
    }
    if head.exported_unix_ms <= 0 {
        return Err(Malformed::new("exported_unix_ms", "is missing"));
    }
    let missing: Vec<(UnitCode, String)> = head
        .missing
        .into_iter()
        .map(|missing| {
            if !MISSING_REASONS.contains(&missing.reason.as_str()) {
                return Err(Malformed::new("missing.reason", "is none of the fixed words"));
            }
            Ok((unit_at("missing.unit", &missing.unit)?, missing.reason))
        })
        .collect::<Result<_, _>>()?;
    if !missing.is_sorted_by(|one, next| one.0 < next.0) {
        return Err(Malformed::new("missing", "is not in the order of codes"));
    }
    Ok(Head {
        trust_domain: head.trust_domain,
        exporter: unit_at("exporter", &head.exporter)?,
        exported_unix_ms: head.exported_unix_ms,
        unit: unit_at("unit", &head.unit)?,
        period: head.period,
        missing,
    })
}

/// Words of [`Head::missing`].
pub const MISSING_REASONS: [&str; 4] = ["no-link", "deadline", "refused", "not-held"];

/// Serialises the body of a seal.
pub fn encode_seal(body: &SealBody) -> Vec<u8> {
    let held = body.held.as_ref();
    let message = pb::PackSeal {
        sha256: body.sealed.sha256.to_vec(),
        size_bytes: body.sealed.size_bytes,
        revocations_sha256: held.map(|held| held.sha256.to_vec()).unwrap_or_default(),
        revocations_held: held.map(|held| held.count).unwrap_or_default(),
    };
    message.encode_to_vec()
}

/// Parses the body of a seal.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn decode_seal(bytes: &[u8]) -> Result<SealBody, Malformed> {
    let body = pb::PackSeal::decode(bytes).map_err(|error| Malformed::new("body", error))?;
    let digest = |field: &str, bytes: &[u8]| {
        <[u8; 32]>::try_from(bytes).map_err(|_| Malformed::new(field, "has 32 bytes"))
    };
    let held = match (body.revocations_sha256.as_slice(), body.revocations_held) {
        ([], 0) => None,
        (bytes, count) => {
            Some(HeldRevocations { sha256: digest("body.revocations_sha256", bytes)?, count })
        }
    };
    Ok(SealBody {
        sealed: Sealed {
            sha256: digest("body.sha256", &body.sha256)?,
            size_bytes: body.size_bytes,
        },
        held,
    })
}

/// First bytes of a file of revocations: a name and a version.
const REVOCATIONS_MAGIC: [u8; 8] = *b"lianxi\x01\x01";

/// Writes revocations into a file of their own. Each proves itself, so that nothing is sealed.
///
/// # Errors
///
/// [`Fault::TooLarge`].
pub fn write_revocations<'a>(
    items: impl IntoIterator<Item = &'a Proven>,
) -> Result<Vec<u8>, Fault> {
    let mut file = REVOCATIONS_MAGIC.to_vec();
    for item in items {
        let bytes = item.encode();
        let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= MAX_PART_BYTES);
        file.extend(length.ok_or(Fault::TooLarge)?.to_be_bytes());
        file.extend(bytes);
    }
    Ok(file)
}

/// Reads a file of revocations.
///
/// # Errors
///
/// [`Fault`] says what is no such file, and at which revocation.
pub fn read_revocations(file: &[u8]) -> Result<Vec<Proven>, Fault> {
    let (name, version) = (&REVOCATIONS_MAGIC[..7], REVOCATIONS_MAGIC[7]);
    match file.get(..REVOCATIONS_MAGIC.len()) {
        Some(first) if first[..7] != *name => return Err(Fault::NoRevocations),
        Some(first) if first[7] != version => return Err(Fault::Version(first[7])),
        Some(_) => {}
        None => return Err(Fault::NoRevocations),
    }
    let (mut items, mut at) = (Vec::new(), REVOCATIONS_MAGIC.len());
    while at < file.len() {
        let number = items.len();
        let (bytes, next) = part_at(file, at, number)?;
        let item = Proven::decode(bytes).map_err(|error| Fault::Malformed(number, error))?;
        items.push(item);
        at = next;
    }
    Ok(items)
}
