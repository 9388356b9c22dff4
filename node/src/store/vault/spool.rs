//! Files beside the store, encrypted with a key of their own that the store's key gives.
//!
//! Magic, version, salt, then chunks of 64 KiB, each encrypted under its number with its tag; bound to
//! it is whether it is the last one, so that a file that was cut at a chunk's end does not read.

use std::io::{self, Read, Seek, SeekFrom, Write};

use super::{
    SALT_BYTES, Vault,
    cipher::{Key, TAG_BYTES},
    random,
};

const MAGIC: &[u8; 12] = b"lianxi-spool";
const VERSION: u8 = 1;
const HEAD_BYTES: usize = MAGIC.len() + 1 + SALT_BYTES;

/// Bytes of a chunk that is not the last one.
const CHUNK_BYTES: usize = 64 * 1024;

/// Writes an encrypted file. Nothing of the last chunk is there before [`SpoolWriter::finish`].
pub struct SpoolWriter<W> {
    out: W,
    key: Key,
    number: u64,
    chunk: Vec<u8>,
}

/// Reads an encrypted file, at any place.
pub struct SpoolReader<R> {
    input: R,
    key: Key,
    chunks: u64,
    bytes: u64,
    place: u64,
    chunk: Option<(u64, Vec<u8>)>,
}

impl Vault {
    /// Begins a file.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn spool<W: Write>(&self, mut out: W) -> io::Result<SpoolWriter<W>> {
        let salt = random();
        out.write_all(MAGIC)?;
        out.write_all(&[VERSION])?;
        out.write_all(&salt)?;
        let (key, chunk) = (self.spool_key(&salt), Vec::with_capacity(CHUNK_BYTES + TAG_BYTES));
        Ok(SpoolWriter { out, key, number: 0, chunk })
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Those of reading; [`io::ErrorKind::InvalidData`] if it is none of these files.
    pub fn read_spool<R: Read + Seek>(&self, mut input: R) -> io::Result<SpoolReader<R>> {
        let mut head = [0; HEAD_BYTES];
        input.read_exact(&mut head)?;
        let salt = head.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(&[VERSION]));
        let salt = salt.and_then(|salt| salt.try_into().ok()).ok_or_else(tampered)?;
        let sealed = input.seek(SeekFrom::End(0))?.saturating_sub(HEAD_BYTES as u64);
        let sealed_chunk = (CHUNK_BYTES + TAG_BYTES) as u64;
        let chunks = sealed.div_ceil(sealed_chunk);
        let bytes = sealed.checked_sub(chunks * TAG_BYTES as u64).ok_or_else(tampered)?;
        if chunks == 0 {
            return Err(tampered());
        }
        Ok(SpoolReader { input, key: self.spool_key(salt), chunks, bytes, place: 0, chunk: None })
    }

    fn spool_key(&self, salt: &[u8; SALT_BYTES]) -> Key {
        let key = Key::derive(self.cipher, &self.secret, "spool", salt);
        key.expect("invariant: a vault has a cipher")
    }
}

fn tampered() -> io::Error {
    let text = "the file does not open: it was cut, changed or written by another store";
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl<W: Write> SpoolWriter<W> {
    fn write_chunk(&mut self, last: bool) -> io::Result<()> {
        self.key.seal(self.number, &[last.into()], &mut self.chunk, 0);
        self.out.write_all(&self.chunk)?;
        self.chunk.clear();
        self.number += 1;
        Ok(())
    }

    /// Writes the last chunk and gives back what was written to.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn finish(mut self) -> io::Result<W> {
        self.write_chunk(true)?;
        Ok(self.out)
    }
}

impl<W: Write> Write for SpoolWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk waits for more bytes: without them it is the last one.
        if self.chunk.len() == CHUNK_BYTES && !bytes.is_empty() {
            self.write_chunk(false)?;
        }
        let taken = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<R: Read + Seek> SpoolReader<R> {
    fn load(&mut self, number: u64) -> io::Result<()> {
        let sealed_bytes = CHUNK_BYTES + TAG_BYTES;
        let at = HEAD_BYTES as u64 + number * sealed_bytes as u64;
        self.input.seek(SeekFrom::Start(at))?;
        let mut sealed = Vec::with_capacity(sealed_bytes);
        self.input.by_ref().take(sealed_bytes as u64).read_to_end(&mut sealed)?;
        let last = number + 1 == self.chunks;
        let chunk = self.key.open(number, &[last.into()], &sealed).ok_or_else(tampered)?;
        self.chunk = Some((number, chunk));
        Ok(())
    }
}

impl<R: Read + Seek> Read for SpoolReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The only chunk of an empty file is looked at too: it says that nothing was cut off.
        let number = (self.place / CHUNK_BYTES as u64).min(self.chunks - 1);
        if self.chunk.as_ref().is_none_or(|(held, _)| *held != number) {
            self.load(number)?;
        }
        let Some((_, chunk)) = &self.chunk else { return Ok(0) };
        let within = usize::try_from(self.place - number * CHUNK_BYTES as u64);
        let rest = within.ok().and_then(|within| chunk.get(within..)).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        self.place += read as u64;
        Ok(read)
    }
}

impl<R: Read + Seek> Seek for SpoolReader<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::Current(by) => self.place.checked_add_signed(by),
            SeekFrom::End(by) => self.bytes.checked_add_signed(by),
        };
        self.place = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.place)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::{
        domain::protection::Cipher,
        store::vault::{HostSecret, SECRET_BYTES},
    };

    fn vault(cipher: Cipher) -> (tempfile::TempDir, Vault) {
        let directory = tempfile::tempdir().unwrap();
        let host = HostSecret::new([7; SECRET_BYTES].into());
        Vault::create(directory.path(), cipher, &host).unwrap();
        let vault = Vault::open(directory.path(), &host).unwrap();
        (directory, vault)
    }

    fn text(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|place| b'a' + u8::try_from(place % 23).unwrap()).collect()
    }

    fn written(vault: &Vault, text: &[u8]) -> Vec<u8> {
        let mut writer = vault.spool(Vec::new()).unwrap();
        writer.write_all(text).unwrap();
        writer.finish().unwrap()
    }

    fn read(vault: &Vault, file: &[u8], from: u64) -> io::Result<Vec<u8>> {
        let mut reader = vault.read_spool(Cursor::new(file))?;
        reader.seek(SeekFrom::Start(from))?;
        let mut text = Vec::new();
        reader.read_to_end(&mut text)?;
        Ok(text)
    }

    #[test]
    fn a_file_reads_back_from_any_place_and_shows_nothing() {
        for cipher in [Cipher::Aes256Gcm, Cipher::Sm4Gcm] {
            let (_directory, vault) = vault(cipher);
            for bytes in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES] {
                let text = text(bytes);
                let file = written(&vault, &text);
                assert!(!file.windows(8).any(|window| window == b"abcdefgh"));
                for from in [0, bytes / 2, bytes.saturating_sub(1), bytes, bytes + 5] {
                    let rest = text.get(from..).unwrap_or_default();
                    assert!(read(&vault, &file, from as u64).unwrap() == rest, "{bytes}, {from}");
                }
            }
        }
    }

    #[test]
    fn a_file_that_was_cut_changed_or_rearranged_does_not_read() {
        let (_directory, vault) = vault(Cipher::Aes256Gcm);
        let file = written(&vault, &text(3 * CHUNK_BYTES));
        let sealed = CHUNK_BYTES + TAG_BYTES;
        for cut in [1, TAG_BYTES, sealed - 1, sealed, 2 * sealed, 3 * sealed] {
            assert!(read(&vault, &file[..file.len() - cut], 0).is_err(), "{cut} bytes less");
        }
        for position in (0..file.len()).step_by(997).chain(0..HEAD_BYTES) {
            let mut changed = file.clone();
            changed[position] ^= 1;
            assert!(read(&vault, &changed, 0).is_err(), "byte {position}");
        }
        let mut swapped = file.clone();
        let (first, second) = swapped[HEAD_BYTES..].split_at_mut(sealed);
        first.swap_with_slice(&mut second[..sealed]);
        assert!(read(&vault, &swapped, 0).is_err());
        let (_other_directory, other) = self::vault(Cipher::Aes256Gcm);
        assert!(read(&other, &file, 0).is_err());
    }
}
