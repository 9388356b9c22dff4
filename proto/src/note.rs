//! Signed notes and checkpoints of journals: C2SP `signed-note`, `tlog-checkpoint` and
//! `tlog-cosignature` (v1, with the time), with Ed25519; for keys of SM2 the same texts under
//! signature types of our own, which `signed-note` leaves to everybody (0xff and a name).
//!
//! Promises that a checkpoint is believed only under a signature of the key that the caller names,
//! and a cosignature only together with its time. Must not decide whose key is whose, nor whether
//! one checkpoint follows from another: that is `merkle`'s. Lines by keys that nobody asks about
//! are kept and ignored, as the formats demand.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use crate::{
    envelope::{Signer, Suite, VerifyingKey},
    merkle::Hash,
};

/// Longest note that is read.
pub const MAX_NOTE_BYTES: usize = 32 * 1024;

/// Most signature lines of a note that is read.
pub const MAX_SIGNATURES: usize = 64;

/// What a signature line begins with.
const LINE: &str = "\u{2014} ";

/// What a signature line signs: the text, or the text with a witness's time.
#[derive(Clone, Copy)]
enum LineKind {
    Plain,
    Cosignature,
}

/// Signature type of a line, which enters the hash of its key (`signed-note`).
fn signature_type(suite: Suite, kind: LineKind) -> &'static [u8] {
    match (suite, kind) {
        (Suite::Sm2Sm3, LineKind::Plain) => b"\xfflianxi/sm2-sm3/v1",
        (Suite::Sm2Sm3, LineKind::Cosignature) => b"\xfflianxi/sm2-sm3/cosignature/v1",
        // No other suite signs: a key of one cannot be made.
        (Suite::Ed25519 | Suite::X25519 | Suite::Unspecified, LineKind::Plain) => b"\x01",
        (Suite::Ed25519 | Suite::X25519 | Suite::Unspecified, LineKind::Cosignature) => b"\x04",
    }
}

/// Bytes of a key's hash in a signature line.
const KEY_HASH_BYTES: usize = 4;

/// Bytes of a cosignature's time.
const TIME_BYTES: usize = 8;

/// Why a note was not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Over [`MAX_NOTE_BYTES`] or [`MAX_SIGNATURES`].
    #[error("note is over the limit of 32 KiB or 64 signatures")]
    TooLarge,
    /// Not the form of a signed note.
    #[error("line {0} of the note is not as a signed note has it")]
    Malformed(usize),
    /// Not the form of a checkpoint.
    #[error("note is no checkpoint: {0}")]
    NoCheckpoint(&'static str),
    /// No line claims to be signed by the key.
    #[error("note is not signed by {0}")]
    NotSigned(String),
    /// A line claims so, and its signature does not hold.
    #[error("signature by {0} does not hold")]
    BadSignature(String),
}

/// A text with signature lines.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    text: String,
    lines: Vec<Line>,
}

/// One signature line.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Line {
    name: String,
    key_hash: [u8; KEY_HASH_BYTES],
    signature: Vec<u8>,
}

/// The head of a journal at one size.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// Whose journal it is.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed: origin, size and root, a line each.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// Signs the checkpoint as the journal's owner; the key's name is the origin.
    pub fn sign(&self, signer: &Signer) -> Note {
        let text = self.text();
        let line = Line {
            name: self.origin.clone(),
            key_hash: key_hash(&self.origin, LineKind::Plain, &signer.verifying_key()),
            signature: signer.sign_bytes(text.as_bytes()),
        };
        Note { text, lines: vec![line] }
    }

    /// Reads the text of a note. Lines after the third are extensions, and are signed with it.
    ///
    /// # Errors
    ///
    /// [`Error::NoCheckpoint`].
    pub fn of(note: &Note) -> Result<Self, Error> {
        let mut lines = note.text.split_terminator('\n');
        let mut line = |what| lines.next().filter(|line| !line.is_empty()).ok_or(what);
        let origin = line(Error::NoCheckpoint("it has no origin"))?.to_owned();
        let size = line(Error::NoCheckpoint("it has no size"))?;
        let root = line(Error::NoCheckpoint("it has no root"))?;
        let no_size = Error::NoCheckpoint("its size is no decimal number");
        let size_is_canonical = size.bytes().all(|byte| byte.is_ascii_digit())
            && (size.len() == 1 || !size.starts_with('0'));
        let size = size.parse().ok().filter(|_| size_is_canonical).ok_or(no_size)?;
        let no_root = Error::NoCheckpoint("its root is not the Base64 of 32 bytes");
        let root = STANDARD.decode(root).ok().and_then(|root| root.try_into().ok());
        Ok(Self { origin, size, root: root.ok_or(no_root)? })
    }
}

impl Note {
    /// Reads a note.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], [`Error::Malformed`].
    pub fn parse(note: &str) -> Result<Self, Error> {
        if note.len() > MAX_NOTE_BYTES {
            return Err(Error::TooLarge);
        }
        let control = |character: char| character < ' ' && character != '\n';
        if let Some(at) = note.split('\n').position(|line| line.contains(control)) {
            return Err(Error::Malformed(at + 1));
        }
        // The last empty line parts text and signatures.
        let border = note.rfind("\n\n").ok_or(Error::Malformed(1))?;
        let (text, signatures) = (&note[..=border], &note[border + 2..]);
        let before = text.matches('\n').count() + 1;
        if text.is_empty() || signatures.is_empty() || !signatures.ends_with('\n') {
            return Err(Error::Malformed(before + 1));
        }
        if signatures.matches('\n').count() > MAX_SIGNATURES {
            return Err(Error::TooLarge);
        }
        let mut lines = Vec::new();
        for (number, line) in (before + 1..).zip(signatures.split_terminator('\n')) {
            lines.push(Line::parse(line).ok_or(Error::Malformed(number))?);
        }
        Ok(Self { text: text.to_owned(), lines })
    }

    /// Adds a witness's cosignature, made by `signer` whose key is named `name`, at a time in
    /// seconds since 1970-01-01T00:00:00Z. One that the same key made before is replaced.
    pub fn cosign(&mut self, name: &str, signer: &Signer, time_unix_s: u64) {
        let signature = signer.sign_bytes(cosigned(&self.text, time_unix_s).as_bytes());
        let line = Line {
            name: name.to_owned(),
            key_hash: key_hash(name, LineKind::Cosignature, &signer.verifying_key()),
            signature: [&time_unix_s.to_be_bytes()[..], &signature].concat(),
        };
        self.add(line);
    }

    /// Adds the signature lines of `other` that this note does not have; those of the same keys
    /// are replaced. True if the texts are equal; otherwise nothing changes.
    pub fn merge(&mut self, other: &Self) -> bool {
        if self.text != other.text {
            return false;
        }
        for line in &other.lines {
            if self.lines.len() < MAX_SIGNATURES {
                self.add(line.clone());
            }
        }
        true
    }

    /// The same note with its lines by `name` alone.
    pub fn only(&self, name: &str) -> Self {
        let lines = self.lines.iter().filter(|line| line.name == name).cloned().collect();
        Self { text: self.text.clone(), lines }
    }

    /// The text that is signed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Names of the keys of all signature lines, believed or not.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(|line| line.name.as_str())
    }

    /// Checks the plain signature by the key `key` named `name`.
    ///
    /// # Errors
    ///
    /// [`Error::NotSigned`], [`Error::BadSignature`].
    pub fn verify(&self, name: &str, key: &VerifyingKey) -> Result<(), Error> {
        let line = self.line(name, key_hash(name, LineKind::Plain, key))?;
        if key.holds(self.text.as_bytes(), &line.signature) {
            Ok(())
        } else {
            Err(Error::BadSignature(name.to_owned()))
        }
    }

    /// Checks the cosignature by the key `key` named `name`, and returns its time in seconds since
    /// 1970-01-01T00:00:00Z: the witness had seen this checkpoint, consistent with all before, then.
    ///
    /// # Errors
    ///
    /// [`Error::NotSigned`], [`Error::BadSignature`].
    pub fn verify_cosignature(&self, name: &str, key: &VerifyingKey) -> Result<u64, Error> {
        let line = self.line(name, key_hash(name, LineKind::Cosignature, key))?;
        let bad = || Error::BadSignature(name.to_owned());
        let (time, signature) = line.signature.split_first_chunk::<TIME_BYTES>().ok_or_else(bad)?;
        let time_unix_s = u64::from_be_bytes(*time);
        if key.holds(cosigned(&self.text, time_unix_s).as_bytes(), signature) {
            Ok(time_unix_s)
        } else {
            Err(bad())
        }
    }

    fn line(&self, name: &str, key_hash: [u8; KEY_HASH_BYTES]) -> Result<&Line, Error> {
        let mut lines = self.lines.iter();
        lines
            .find(|line| line.name == name && line.key_hash == key_hash)
            .ok_or_else(|| Error::NotSigned(name.to_owned()))
    }

    fn add(&mut self, line: Line) {
        let same = |known: &&mut Line| known.name == line.name && known.key_hash == line.key_hash;
        match self.lines.iter_mut().find(same) {
            Some(known) => *known = line,
            None => self.lines.push(line),
        }
    }
}

impl std::fmt::Display for Note {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(formatter, "{}", self.text)?;
        for line in &self.lines {
            let signature = STANDARD.encode([&line.key_hash[..], &line.signature].concat());
            writeln!(formatter, "{LINE}{} {signature}", line.name)?;
        }
        Ok(())
    }
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let (name, signature) = line.strip_prefix(LINE)?.split_once(' ')?;
        if name.is_empty() || name.contains(['+', ' ']) || name.contains(char::is_whitespace) {
            return None;
        }
        let bytes = STANDARD.decode(signature).ok()?;
        let (key_hash, signature) = bytes.split_first_chunk()?;
        let (key_hash, signature) = (*key_hash, signature.to_vec());
        (!signature.is_empty()).then(|| Self { name: name.to_owned(), key_hash, signature })
    }
}

/// Name of the key that signs the journal of a unit, and origin of its checkpoints.
pub fn origin(trust_domain: &str, unit: &str) -> String {
    format!("{trust_domain}/unit/{unit}")
}

/// A key with its name as C2SP `signed-note` writes it, for people to hand on: name, hash and key.
pub fn key_text(name: &str, key: &VerifyingKey) -> String {
    let kind = LineKind::Cosignature;
    let hash = hex::encode(key_hash(name, kind, key));
    let bytes = [signature_type(key.suite(), kind), key.public_key()].concat();
    format!("{name}+{hash}+{}", STANDARD.encode(bytes))
}

/// Reads what [`key_text`] writes: the key of a journal or of a witness, which are one here.
///
/// # Errors
///
/// [`Error::Malformed`] for another form, [`Error::BadSignature`] if hash and key do not belong
/// together: a character was mistyped.
pub fn parse_key(text: &str) -> Result<(String, VerifyingKey), Error> {
    let mut parts = text.splitn(3, '+');
    let mut part = || parts.next().filter(|part| !part.is_empty()).ok_or(Error::Malformed(1));
    let (name, hash, key) = (part()?, part()?, part()?);
    if name.contains(char::is_whitespace) {
        return Err(Error::Malformed(1));
    }
    let bytes = STANDARD.decode(key).map_err(|_| Error::Malformed(1))?;
    for kind in [LineKind::Cosignature, LineKind::Plain] {
        for suite in [Suite::Sm2Sm3, Suite::Ed25519] {
            let Some(public) = bytes.strip_prefix(signature_type(suite, kind)) else { continue };
            let Ok(key) = VerifyingKey::new(suite, public) else { continue };
            return match hash == hex::encode(key_hash(name, kind, &key)) {
                true => Ok((name.to_owned(), key)),
                false => Err(Error::BadSignature(name.to_owned())),
            };
        }
    }
    Err(Error::Malformed(1))
}

/// Hash of a key in a signature line: first 4 bytes of SHA-256(name || 0x0A || type || key).
fn key_hash(name: &str, kind: LineKind, key: &VerifyingKey) -> [u8; KEY_HASH_BYTES] {
    let hash = Sha256::new_with_prefix(name).chain_update(b"\n");
    let hash = hash.chain_update(signature_type(key.suite(), kind));
    let hash: Hash = hash.chain_update(key.public_key()).finalize().into();
    *hash.first_chunk().expect("invariant: a hash has 32 bytes")
}

/// What a cosignature signs.
fn cosigned(text: &str, time_unix_s: u64) -> String {
    format!("cosignature/v1\ntime {time_unix_s}\n{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of Go's checksum database (golang.org/x/mod/sumdb/note), where the format is from.
    const GO_KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const GO_NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    fn signer(number: u8) -> Signer {
        Signer::from_seed(&[number; 32])
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: origin("city.example", "BOS-01"), size: 5, root: [7; 32] }
    }

    #[test]
    fn a_note_of_another_program_is_verified() {
        let key = STANDARD.decode(GO_KEY.rsplit('+').next().unwrap()).unwrap();
        let key = VerifyingKey::new(crate::envelope::Suite::Ed25519, &key[1..]).unwrap();
        let note = Note::parse(GO_NOTE).unwrap();
        assert_eq!(note.verify("PeterNeumann", &key), Ok(()));
        assert_eq!(note.to_string(), GO_NOTE);
        assert_eq!(hex::encode(note.lines[0].key_hash), "c74f20a3");
    }

    #[test]
    fn a_key_is_one_line_and_a_mistyped_one_is_told() {
        assert_eq!(parse_key(GO_KEY).unwrap().0, "PeterNeumann");
        let key = signer(1).verifying_key();
        let text = key_text("other.example/unit/X", &key);
        assert_eq!(parse_key(&text), Ok(("other.example/unit/X".to_owned(), key)));
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'7' { b'8' } else { b'7' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(changed == text || parse_key(&changed).is_err(), "byte {at}");
        }
        for wrong in ["", "a", "a+b", "a+b+c", "a b+00000000+AQ=="] {
            assert!(parse_key(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_checkpoint_is_three_lines_and_reads_back() {
        let note = checkpoint().sign(&signer(1));
        let shown = note.to_string();
        assert!(
            shown.starts_with("city.example/unit/BOS-01\n5\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n\n\u{2014} city.example/unit/BOS-01 "),
            "{shown}"
        );
        let read = Note::parse(&shown).unwrap();
        assert_eq!(read, note);
        assert_eq!(Checkpoint::of(&read), Ok(checkpoint()));
        assert_eq!(read.verify("city.example/unit/BOS-01", &signer(1).verifying_key()), Ok(()));
    }

    #[test]
    fn signatures_of_other_keys_names_and_texts_are_refused() {
        let mut note = checkpoint().sign(&signer(1));
        let name = checkpoint().origin;
        let refused = note.verify(&name, &signer(2).verifying_key());
        assert_eq!(refused, Err(Error::NotSigned(name.clone())));
        let refused = note.verify("city.example/unit/BOS-02", &signer(1).verifying_key());
        assert!(matches!(refused, Err(Error::NotSigned(_))), "{refused:?}");
        note.text = note.text.replace("\n5\n", "\n6\n");
        let refused = note.verify(&name, &signer(1).verifying_key());
        assert_eq!(refused, Err(Error::BadSignature(name)));
    }

    #[test]
    fn a_cosignature_holds_for_its_text_its_key_and_its_time() {
        let (mut note, witness) = (checkpoint().sign(&signer(1)), signer(2));
        note.cosign("city.example/unit/BOS", &witness, 1_700_000_000);
        let key = witness.verifying_key();
        assert_eq!(note.verify_cosignature("city.example/unit/BOS", &key), Ok(1_700_000_000));
        let other = note.verify_cosignature("city.example/unit/BOS", &signer(3).verifying_key());
        assert!(matches!(other, Err(Error::NotSigned(_))), "{other:?}");
        // A plain signature is no cosignature and the other way round, by the same key too.
        let plain = note.verify("city.example/unit/BOS", &key);
        assert!(matches!(plain, Err(Error::NotSigned(_))), "{plain:?}");

        let mut later = note.clone();
        later.lines[1].signature[7] += 1;
        let forged = later.verify_cosignature("city.example/unit/BOS", &key);
        assert!(matches!(forged, Err(Error::BadSignature(_))), "{forged:?}");
        let mut longer = note.clone();
        longer.text = longer.text.replace("\n5\n", "\n6\n");
        let forged = longer.verify_cosignature("city.example/unit/BOS", &key);
        assert!(matches!(forged, Err(Error::BadSignature(_))), "{forged:?}");
    }

    #[test]
    fn keys_of_sm2_sign_and_witness_under_types_of_their_own() {
        let [owner, witness] = [[1; 32], [2; 32]]
            .map(|bytes| Signer::from_private_bytes(Suite::Sm2Sm3, &bytes).unwrap());
        let mut note = checkpoint().sign(&owner);
        note.cosign("W", &witness, 7);
        let read = Note::parse(&note.to_string()).unwrap();
        assert_eq!(read.verify(&checkpoint().origin, &owner.verifying_key()), Ok(()));
        assert_eq!(read.verify_cosignature("W", &witness.verifying_key()), Ok(7));
        let plain = read.verify("W", &witness.verifying_key());
        assert!(matches!(plain, Err(Error::NotSigned(_))), "{plain:?}");
        // The same bytes as a key of the other suite are another key.
        let other = signer(1).verifying_key();
        assert!(matches!(read.verify(&checkpoint().origin, &other), Err(Error::NotSigned(_))));
    }

    #[test]
    fn notes_of_one_text_are_joined_and_others_are_not() {
        let (mut first, mut second) =
            (checkpoint().sign(&signer(1)), checkpoint().sign(&signer(1)));
        first.cosign("A", &signer(2), 1);
        second.cosign("B", &signer(3), 2);
        assert!(first.merge(&second));
        assert_eq!(first.names().collect::<Vec<_>>(), [&checkpoint().origin[..], "A", "B"]);
        second.cosign("A", &signer(2), 9);
        assert!(first.merge(&second));
        assert_eq!(first.lines.len(), 3);
        assert_eq!(first.verify_cosignature("A", &signer(2).verifying_key()), Ok(9));
        let other = Checkpoint { size: 6, ..checkpoint() }.sign(&signer(1));
        assert!(!first.merge(&other));
        assert_eq!(first.only("A").names().collect::<Vec<_>>(), ["A"]);
    }

    #[test]
    fn what_is_no_note_is_refused_with_its_line() {
        let good = checkpoint().sign(&signer(1)).to_string();
        let cases = [
            (String::new(), 1),
            ("text without signatures\n".to_owned(), 1),
            (good.replace("\u{2014} ", "- "), 5),
            (good.trim_end().to_owned(), 5),
            (good.replacen('5', "\t", 1), 2),
            (good.replacen("\u{2014} city", "\u{2014}  city", 1), 5),
            (format!("{good}\u{2014} name AAAAAA==\n"), 6),
        ];
        for (text, line) in cases {
            assert_eq!(Note::parse(&text), Err(Error::Malformed(line)), "{text:?}");
        }
        let flood = good.clone() + &good[good.find('\u{2014}').unwrap()..].repeat(MAX_SIGNATURES);
        assert_eq!(Note::parse(&flood), Err(Error::TooLarge));
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        for text in ["", "origin\n", "o\n05\nAA==\n", "o\n+5\nAA==\n", "o\n5\nAA==\n", "o\n-1\n"] {
            let note = Note { text: text.to_owned(), lines: Vec::new() };
            assert!(matches!(Checkpoint::of(&note), Err(Error::NoCheckpoint(_))), "{text:?}");
        }
        let extended = Note { text: checkpoint().text() + "ext 1\n", lines: Vec::new() };
        assert_eq!(Checkpoint::of(&extended), Ok(checkpoint()));
    }
}
