//! The uploaded file on its way to the disk: unpacked if it is gzip, bounded, synced at the end.
//!
//! Spooled files hold records. They are readable by the node's user alone, encrypted if the store
//! is, and removed as soon as the import is done, refused, or not finished by its sender.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use flate2::write::MultiGzDecoder;

use super::Error;
use crate::store::vault::{SpoolReader, SpoolWriter, Vault};

/// Largest file, unpacked.
pub(super) const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024 * 1024;

const GZIP: [u8; 2] = [0x1F, 0x8B];

/// A file that is being written.
pub(super) struct Spool {
    path: PathBuf,
    sink: Option<Sink>,
}

enum Sink {
    /// The first bytes decide how the file is packed.
    Unknown(Counted, Vec<u8>),
    Plain(Counted),
    Gzip(Box<MultiGzDecoder<Counted>>),
}

struct Counted {
    out: Out,
    bytes: u64,
}

enum Out {
    Clear(File),
    Sealed(Box<SpoolWriter<File>>),
}

impl Out {
    fn new(file: File, vault: Option<&Vault>) -> io::Result<Self> {
        match vault {
            None => Ok(Self::Clear(file)),
            Some(vault) => Ok(Self::Sealed(Box::new(vault.spool(file)?))),
        }
    }

    fn finish(self) -> io::Result<()> {
        let file = match self {
            Self::Clear(file) => file,
            Self::Sealed(writer) => writer.finish()?,
        };
        file.sync_all()
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.out {
            Out::Clear(file) => file.write(bytes)?,
            Out::Sealed(writer) => writer.write(bytes)?,
        };
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.out {
            Out::Clear(file) => file.flush(),
            Out::Sealed(writer) => writer.flush(),
        }
    }
}

/// A spooled file that is read.
pub(super) enum Spooled {
    Clear(File),
    Sealed(Box<SpoolReader<File>>),
}

impl Spooled {
    /// Opens what [`Spool`] or [`write_file`] wrote with the same `vault`.
    pub(super) fn open(path: &Path, vault: Option<&Vault>) -> Result<Self, Error> {
        let opened = File::open(path).and_then(|file| match vault {
            None => Ok(Self::Clear(file)),
            Some(vault) => Ok(Self::Sealed(Box::new(vault.read_spool(file)?))),
        });
        opened.map_err(|error| Error::spool(path, error))
    }
}

impl Read for Spooled {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Clear(file) => file.read(buffer),
            Self::Sealed(reader) => reader.read(buffer),
        }
    }
}

impl Seek for Spooled {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Clear(file) => file.seek(to),
            Self::Sealed(reader) => reader.seek(to),
        }
    }
}

impl Spool {
    /// Makes an empty file, which only this user can read.
    pub(super) fn create(
        directory: &Path,
        name: &str,
        vault: Option<&Vault>,
    ) -> Result<Self, Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| Error::spool(directory, error))?;
        let path = directory.join(name);
        let out = Out::new(create(&path)?, vault).map_err(|error| Error::spool(&path, error))?;
        let sink = Some(Sink::Unknown(Counted { out, bytes: 0 }, Vec::new()));
        Ok(Self { path, sink })
    }

    /// Takes bytes in; returns how many the unpacked file has.
    pub(super) fn write(&mut self, chunk: &[u8]) -> Result<u64, Error> {
        let sink = self.sink.take().ok_or_else(|| self.failed(io::ErrorKind::BrokenPipe.into()))?;
        let sink = match sink {
            Sink::Unknown(file, mut begin) => {
                begin.extend_from_slice(chunk);
                if begin.len() < GZIP.len() {
                    self.sink = Some(Sink::Unknown(file, begin));
                    return Ok(0);
                }
                let mut sink = if begin.starts_with(&GZIP) {
                    Sink::Gzip(Box::new(MultiGzDecoder::new(file)))
                } else {
                    Sink::Plain(file)
                };
                self.put(&mut sink, &begin)?;
                sink
            }
            mut sink @ (Sink::Plain(_) | Sink::Gzip(_)) => {
                self.put(&mut sink, chunk)?;
                sink
            }
        };
        let bytes = sink.bytes();
        if bytes > MAX_FILE_BYTES {
            return Err(Error::TooLarge(MAX_FILE_BYTES));
        }
        self.sink = Some(sink);
        Ok(bytes)
    }

    /// Ends and syncs the file; returns its size.
    pub(super) fn finish(&mut self) -> Result<u64, Error> {
        let sink = self.sink.take().ok_or_else(|| self.failed(io::ErrorKind::BrokenPipe.into()))?;
        let counted = match sink {
            Sink::Unknown(mut file, begin) => {
                file.write_all(&begin).map_err(|error| self.failed(error))?;
                file
            }
            Sink::Plain(file) => file,
            Sink::Gzip(gzip) => gzip.finish().map_err(|error| self.failed_gzip(error))?,
        };
        counted.out.finish().map_err(|error| self.failed(error))?;
        Ok(counted.bytes)
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the finished file its name for good, durably.
    pub(super) fn rename(&mut self, path: PathBuf) -> Result<(), Error> {
        fs::rename(&self.path, &path).map_err(|error| self.failed(error))?;
        let directory = path.parent().unwrap_or_else(|| Path::new("."));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| Error::spool(directory, error))?;
        // From here on it stays until the import is done.
        self.path = PathBuf::new();
        Ok(())
    }

    fn put(&self, sink: &mut Sink, bytes: &[u8]) -> Result<(), Error> {
        match sink {
            Sink::Unknown(file, _) | Sink::Plain(file) => {
                file.write_all(bytes).map_err(|error| self.failed(error))
            }
            Sink::Gzip(gzip) => gzip.write_all(bytes).map_err(|error| self.failed_gzip(error)),
        }
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::spool(&self.path, error)
    }

    fn failed_gzip(&self, error: io::Error) -> Error {
        // What the decoder says of bad bytes; all else comes from the file underneath.
        let is_damaged = matches!(
            error.kind(),
            io::ErrorKind::InvalidInput
                | io::ErrorKind::InvalidData
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::WriteZero
        );
        if is_damaged { Error::Gzip } else { self.failed(error) }
    }
}

impl Sink {
    fn bytes(&self) -> u64 {
        match self {
            Self::Unknown(file, _) | Self::Plain(file) => file.bytes,
            Self::Gzip(gzip) => gzip.get_ref().bytes,
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // What cannot be removed here is removed at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes a small file beside the spool, durably but for the directory.
pub(super) fn write_file(path: &Path, bytes: &[u8], vault: Option<&Vault>) -> Result<(), Error> {
    let file = create(path)?;
    let written = Out::new(file, vault).and_then(|out| {
        let mut counted = Counted { out, bytes: 0 };
        counted.write_all(bytes)?;
        counted.out.finish()
    });
    written.map_err(|error| Error::spool(path, error))
}

/// Reads what [`write_file`] wrote.
pub(super) fn read_file(path: &Path, vault: Option<&Vault>) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = Spooled::open(path, vault)?.read_to_end(&mut bytes);
    read.map_err(|error| Error::spool(path, error)).map(|_| bytes)
}

fn create(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).map_err(|error| Error::spool(path, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn spool(bytes: &[u8], chunk: usize) -> Result<Vec<u8>, Error> {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(directory.path(), "upload", None).unwrap();
        for chunk in bytes.chunks(chunk) {
            spool.write(chunk)?;
        }
        let size = spool.finish()?;
        let contents = fs::read(spool.path()).unwrap();
        assert_eq!(size, contents.len() as u64);
        Ok(contents)
    }

    #[test]
    fn plain_and_packed_files_come_out_the_same_however_they_are_cut() {
        let text = "id,at\n1,2011\n".repeat(500).into_bytes();
        let two_members = [gzip(&text[..100]), gzip(&text[100..])].concat();
        for chunk in [1, 2, 3, 1000, 100_000] {
            assert_eq!(spool(&text, chunk).unwrap(), text);
            assert_eq!(spool(&gzip(&text), chunk).unwrap(), text);
            assert_eq!(spool(&two_members, chunk).unwrap(), text);
        }
        assert_eq!(spool(b"", 1).unwrap(), b"");
        assert_eq!(spool(b"x", 1).unwrap(), b"x");
    }

    #[test]
    fn a_packed_file_that_is_cut_off_or_damaged_is_refused() {
        let whole = gzip(&"id,at\n1,2011\n".repeat(500).into_bytes());
        for cut in [2, 5, 10, whole.len() / 2, whole.len() - 8, whole.len() - 1] {
            let error = spool(&whole[..cut], 64).unwrap_err();
            assert!(matches!(error, Error::Gzip), "{cut}: {error}");
        }
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x55;
        assert!(matches!(spool(&damaged, 64).unwrap_err(), Error::Gzip));
        let mut sum = whole;
        let last = sum.len() - 6;
        sum[last] ^= 1;
        assert!(matches!(spool(&sum, 64).unwrap_err(), Error::Gzip));
    }

    #[test]
    fn a_spool_is_private_and_goes_with_its_upload() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("imports");
        let mut spool = Spool::create(&inside, "upload", None).unwrap();
        spool.write(b"secret").unwrap();
        let path = spool.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&inside).unwrap().permissions().mode() & 0o777, 0o700);
        drop(spool);
        assert!(!path.exists());
    }
}
