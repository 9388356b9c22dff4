//! Files that only their readers can open, for a courier across an air gap.
//!
//! Promises that a file opens whole or not at all: a chunk that was changed, moved, cut off or added
//! is noticed. Chunks are opened one after the other, so that a file needs no more memory than one
//! of them; what was written before an error must be thrown away. Must not say who sent the file:
//! that is the signature's, on what is inside.

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    identity::sealed::{self, ContentKey, KeyRing, Reader},
    statement::{
        header::Malformed,
        sealed::{FileHead, NONCE_BYTES, TAG_BYTES, decode_file_head, encode_file_head},
    },
};

/// How every file begins; the last byte is the version of the format.
const MARK: &[u8; 14] = b"lianxi-sealed\x01";

/// Bytes of a chunk before it is sealed.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Longest head: 128 readers take less than half of it.
const MAX_HEAD_BYTES: u32 = 64 * 1024;

/// Why a file was not sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another kind of file, or of a later version.
    #[error("this is no sealed file of a version that this program knows")]
    Mark,
    /// The head is longer than it can be.
    #[error("the head of the file has {0} bytes, more than it can have")]
    Head(u32),
    /// The head is not what it should be.
    #[error("the file is malformed at {0}")]
    Malformed(#[from] Malformed),
    /// None of the readers is here.
    #[error("the file is sealed for others; open it at a unit that it was sealed for")]
    NotAReader,
    /// A key does not open.
    #[error("the file was changed or cut off; fetch it again")]
    Seal(#[from] sealed::Error),
    /// A chunk does not open.
    #[error("the file was changed or cut off in chunk {number}, from byte {at} on; fetch it again")]
    Chunk {
        /// Number of the chunk, from 0.
        number: u32,
        /// Where it begins.
        at: u64,
    },
    /// More chunks than can be numbered.
    #[error("the file is too large")]
    TooLarge,
    /// Reading or writing failed.
    #[error("cannot read or write the file")]
    File(#[from] io::Error),
}

/// Seals everything that `plain` gives to the readers.
///
/// # Errors
///
/// [`Error::Seal`] for an unusable key, [`Error::File`], [`Error::TooLarge`].
pub fn seal_file(readers: &[Reader], plain: impl Read, sealed: impl Write) -> Result<(), Error> {
    seal_with(ContentKey::generate(), readers, plain, sealed)
}

fn seal_with(
    key: ContentKey,
    readers: &[Reader],
    mut plain: impl Read,
    sealed: impl Write,
) -> Result<(), Error> {
    let mut sealing = Sealing::begin(key, readers, sealed)?;
    loop {
        let chunk = filled(&mut plain, CHUNK_BYTES)?;
        if chunk.is_empty() {
            return sealing.finish().map(|_| ());
        }
        sealing.write(&chunk)?;
    }
}

/// A file that is being sealed, piece by piece.
pub struct Sealing<W> {
    key: ContentKey,
    head_sha256: [u8; 32],
    number: u32,
    chunk: Zeroizing<Vec<u8>>,
    sealed: W,
}

impl<W: Write> Sealing<W> {
    /// Begins a file for `readers`.
    ///
    /// # Errors
    ///
    /// As [`seal_file`].
    pub fn new(readers: &[Reader], sealed: W) -> Result<Self, Error> {
        Self::begin(ContentKey::generate(), readers, sealed)
    }

    fn begin(key: ContentKey, readers: &[Reader], mut sealed: W) -> Result<Self, Error> {
        let key_commitment = key.commitment();
        let context = context(&key_commitment);
        let recipients = readers.iter().map(|reader| key.seal_to(&context, reader));
        let recipients = recipients.collect::<Result<_, _>>()?;
        let head = encode_file_head(&FileHead { key_commitment, recipients });
        let length = u32::try_from(head.len()).unwrap_or(u32::MAX);
        if length > MAX_HEAD_BYTES {
            return Err(Error::Head(length));
        }
        sealed.write_all(MARK)?;
        sealed.write_all(&length.to_be_bytes())?;
        sealed.write_all(&head)?;
        let head_sha256 = Sha256::digest(&head).into();
        let chunk = Zeroizing::new(Vec::with_capacity(CHUNK_BYTES));
        Ok(Self { key, head_sha256, number: 0, chunk, sealed })
    }

    /// Adds bytes.
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::TooLarge`].
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            // Only what comes after it tells that a chunk is not the last.
            if self.chunk.len() == CHUNK_BYTES {
                self.seal(false)?;
                self.number = self.number.checked_add(1).ok_or(Error::TooLarge)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn finish(mut self) -> Result<W, Error> {
        self.seal(true)?;
        self.sealed.flush()?;
        Ok(self.sealed)
    }

    fn seal(&mut self, is_last: bool) -> Result<(), Error> {
        let nonce = nonce(self.number, is_last);
        self.sealed.write_all(&self.key.encrypt(nonce, &self.head_sha256, &self.chunk))?;
        self.chunk.clear();
        Ok(())
    }
}

/// Opens a file with a key of `ring` and writes what is inside to `plain`.
///
/// # Errors
///
/// [`Error`] says what does not hold; what was written so far must be thrown away.
pub fn open_file(
    ring: &KeyRing,
    mut sealed: impl Read,
    mut plain: impl Write,
) -> Result<(), Error> {
    let mut mark = [0; MARK.len()];
    sealed.read_exact(&mut mark).map_err(cut_off)?;
    if mark != *MARK {
        return Err(Error::Mark);
    }
    let mut length = [0; 4];
    sealed.read_exact(&mut length).map_err(cut_off)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_HEAD_BYTES {
        return Err(Error::Head(length));
    }
    let mut head = vec![0; usize::try_from(length).map_err(|_| Error::Head(length))?];
    sealed.read_exact(&mut head).map_err(cut_off)?;
    let digest: [u8; 32] = Sha256::digest(&head).into();
    let FileHead { key_commitment, recipients } = decode_file_head(&head)?;
    let key = ring.content_key(&context(&key_commitment), &key_commitment, &recipients)?;
    let key = key.ok_or(Error::NotAReader)?;
    let begin = (MARK.len() + 4 + head.len()) as u64;
    let mut chunk = filled(&mut sealed, CHUNK_BYTES + TAG_BYTES)?;
    for number in 0.. {
        let next = if chunk.len() < CHUNK_BYTES + TAG_BYTES {
            Vec::new()
        } else {
            filled(&mut sealed, CHUNK_BYTES + TAG_BYTES)?
        };
        let is_last = next.is_empty();
        let opened = key.decrypt(nonce(number, is_last), &digest, &chunk);
        let at = begin + u64::from(number) * (CHUNK_BYTES + TAG_BYTES) as u64;
        let opened = opened.map_err(|_| Error::Chunk { number, at })?;
        plain.write_all(&opened)?;
        if is_last {
            return Ok(plain.flush()?);
        }
        chunk = next;
    }
    Err(Error::TooLarge)
}

/// What the keys in a head are bound to.
fn context(key_commitment: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update(MARK).chain_update(key_commitment).finalize().into()
}

/// The key is used for one file alone, so its chunks can be counted.
fn nonce(number: u32, is_last: bool) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[7..11].copy_from_slice(&number.to_be_bytes());
    nonce[11] = u8::from(is_last);
    nonce
}

/// At most `length` bytes; fewer at the end alone.
fn filled(from: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    from.take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn cut_off(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { Error::Mark } else { Error::File(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::keys::AgreementKey;

    fn agreement(byte: u8) -> AgreementKey {
        AgreementKey::from_bytes(&[byte; 32])
    }

    fn ring(byte: u8) -> KeyRing {
        let mut ring = KeyRing::default();
        ring.add(agreement(byte));
        ring
    }

    fn sealed(plain: &[u8]) -> Vec<u8> {
        let readers = [1, 2].map(|byte| Reader::new(agreement(byte).public_key()));
        let mut sealed = Vec::new();
        seal_file(&readers, plain, &mut sealed).unwrap();
        sealed
    }

    fn opened(ring: &KeyRing, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let mut plain = Vec::new();
        open_file(ring, sealed, &mut plain)?;
        Ok(plain)
    }

    fn some(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn files_of_every_length_come_back_for_each_reader_alone() {
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let sealed = sealed(&some(length));
            for reader in [1, 2] {
                assert_eq!(opened(&ring(reader), &sealed).unwrap(), some(length), "{length}");
            }
            assert!(matches!(opened(&ring(3), &sealed), Err(Error::NotAReader)));
        }
    }

    #[test]
    fn a_file_that_was_cut_lengthened_or_rearranged_does_not_open() {
        let whole = sealed(&some(3 * CHUNK_BYTES));
        let chunk = CHUNK_BYTES + TAG_BYTES;
        let start = whole.len() - 3 * chunk;
        for length in [0, 5, MARK.len(), start - 1, start, start + chunk, whole.len() - 1] {
            assert!(opened(&ring(1), &whole[..length]).is_err(), "cut after {length} bytes");
        }
        assert!(opened(&ring(1), &[&whole[..], &[0]].concat()).is_err());
        assert!(opened(&ring(1), &[&whole[..], &whole[start..]].concat()).is_err());
        let (head, chunks) = whole.split_at(start);
        let (one, rest) = chunks.split_at(chunk);
        let (two, three) = rest.split_at(chunk);
        assert!(opened(&ring(1), &[head, one, two, three].concat()).is_ok());
        assert!(opened(&ring(1), &[head, two, one, three].concat()).is_err());
        assert!(opened(&ring(1), &[head, one, three].concat()).is_err());
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let whole = sealed(b"statements of one day");
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            // The other reader's key alone may be damaged without harm: but the head is bound.
            assert!(opened(&ring(1), &changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_head_that_is_too_long_is_refused_before_it_is_read() {
        let huge = [&MARK[..], &u32::MAX.to_be_bytes()].concat();
        assert!(matches!(opened(&ring(1), &huge), Err(Error::Head(u32::MAX))));
        assert!(matches!(opened(&ring(1), b"PK\x03\x04, something else"), Err(Error::Mark)));
    }
}
