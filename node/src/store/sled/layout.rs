//! Where a store's files are within its directory: the marker `format`, which names them, and what
//! is left of a rewriting that was cut off.
//!
//! Format 1 is `sled/` and nothing else; format 2 has two more lines in the marker, the name of the
//! directory with everything and the cipher. Replacing the marker is the one step in which a
//! rewritten store takes the place of the one before it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use super::{Options, failed};
use crate::{
    domain::protection::Cipher,
    store::{
        Error,
        vault::{HostSecret, Vault},
    },
};

/// Format of the directory and of keys; the owner of a table versions its values.
const PLAIN_FORMAT: u32 = 1;

/// Format with a directory that the marker names.
const FORMAT: u32 = 2;

const FORMAT_FILE: &str = "format";
const FORMAT_WORDS: &str = "lianxi store, format ";

/// sled's directory, in that of the store or of a generation.
const ENGINE: &str = "sled";

/// Beginning of the names of directories that hold one generation of the store.
const GENERATION: &str = "g-";

const ERASED_CHUNK: usize = 1 << 20;

/// Which files are the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Layout {
    /// `sled/`, in clear.
    Plain,
    /// A directory with a name, and what encrypts it.
    Generation { name: String, cipher: Cipher },
}

impl Layout {
    /// A new generation, whose files are not there yet.
    pub(super) fn new(cipher: Cipher) -> Self {
        let mut name = [0; 8];
        getrandom::fill(&mut name).expect("invariant: the operating system gives random bytes");
        Self::Generation { name: format!("{GENERATION}{}", hex::encode(name)), cipher }
    }

    pub(super) fn cipher(&self) -> Cipher {
        match self {
            Self::Plain => Cipher::None,
            Self::Generation { cipher, .. } => *cipher,
        }
    }

    fn directory(&self, directory: &Path) -> PathBuf {
        match self {
            Self::Plain => directory.to_owned(),
            Self::Generation { name, .. } => directory.join(name),
        }
    }

    /// sled's directory.
    pub(super) fn engine(&self, directory: &Path) -> PathBuf {
        self.directory(directory).join(ENGINE)
    }

    /// Opens the keys that the layout needs.
    pub(super) fn vault(
        &self,
        directory: &Path,
        secret: Option<&HostSecret>,
    ) -> Result<Option<Vault>, Error> {
        if self.cipher() == Cipher::None {
            return Ok(None);
        }
        let vault = Vault::open(&self.directory(directory), secret.ok_or(Error::Sealed)?)?;
        if vault.cipher() != self.cipher() {
            return Err(unreadable(&directory.join(FORMAT_FILE)));
        }
        Ok(Some(vault))
    }

    /// Makes the directory of a generation, and its keys.
    pub(super) fn make(&self, directory: &Path, secret: Option<&HostSecret>) -> Result<(), Error> {
        let own = self.directory(directory);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&own);
        made.map_err(|error| failed(&own, &error))?;
        if self.cipher() == Cipher::None {
            return Ok(());
        }
        Vault::create(&own, self.cipher(), secret.ok_or(Error::Sealed)?)
    }

    /// Makes this the store, in one step.
    pub(super) fn activate(&self, directory: &Path) -> Result<(), Error> {
        let text = match self {
            Self::Plain => format!("{FORMAT_WORDS}{PLAIN_FORMAT}\n"),
            Self::Generation { name, cipher } => {
                format!("{FORMAT_WORDS}{FORMAT}\ndirectory {name}\ncipher {cipher}\n")
            }
        };
        let path = directory.join(FORMAT_FILE);
        write_marker(directory, &path, &text).map_err(|error| failed(&path, &error))
    }

    /// Removes what rewritings left behind: copies that were not finished, and the store that a
    /// finished one has replaced. Files in clear are overwritten first.
    pub(super) fn remove_others(&self, directory: &Path) -> Result<(), Error> {
        let removed = || {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                let name = entry.file_name();
                let name = name.to_string_lossy();
                let is_store = name == ENGINE || name.starts_with(GENERATION);
                let is_own = match self {
                    Self::Plain => name == ENGINE,
                    Self::Generation { name: own, .. } => name == own.as_str(),
                };
                if is_store && !is_own && entry.file_type()?.is_dir() {
                    erase(&entry.path())?;
                }
            }
            File::open(directory)?.sync_all()
        };
        removed().map_err(|error: io::Error| failed(directory, &error))
    }
}

/// The layout of the store in `directory`; one is made if nothing is there.
pub(super) fn open(directory: &Path, options: &Options) -> Result<Layout, Error> {
    if let Some(layout) = read(directory)? {
        return Ok(layout);
    }
    let layout = match options.cipher {
        Cipher::None => Layout::Plain,
        cipher @ (Cipher::Aes256Gcm | Cipher::Sm4Gcm) => Layout::new(cipher),
    };
    layout.make(directory, options.secret.as_ref())?;
    layout.activate(directory)?;
    Ok(layout)
}

/// The layout that the marker in `directory` names; `None`: there is no store yet.
pub(super) fn read(directory: &Path) -> Result<Option<Layout>, Error> {
    let path = directory.join(FORMAT_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let is_empty = !directory.join(ENGINE).exists();
            return if is_empty { Ok(None) } else { Err(failed(&path, &error)) };
        }
        Err(error) => return Err(failed(&path, &error)),
    };
    let mut lines = text.lines();
    let number = lines.next().and_then(|line| line.strip_prefix(FORMAT_WORDS));
    match number.and_then(|number| number.trim().parse().ok()) {
        Some(PLAIN_FORMAT) => Ok(Some(Layout::Plain)),
        Some(FORMAT) => {
            let name = lines.next().and_then(|line| line.strip_prefix("directory "));
            let name = name.filter(|name| is_generation(name));
            let cipher = lines.next().and_then(|line| line.strip_prefix("cipher "));
            let layout = name.zip(cipher.and_then(Cipher::named));
            let layout =
                layout.map(|(name, cipher)| Layout::Generation { name: name.to_owned(), cipher });
            layout.map(Some).ok_or_else(|| unreadable(&path))
        }
        Some(found) => Err(Error::Format { found, known: FORMAT }),
        None => Err(unreadable(&path)),
    }
}

fn is_generation(name: &str) -> bool {
    let rest = name.strip_prefix(GENERATION);
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn unreadable(path: &Path) -> Error {
    Error::Engine(format!(
        "{} does not say which format the store has; bring the directory back from a backup",
        path.display()
    ))
}

fn write_marker(directory: &Path, path: &Path, text: &str) -> io::Result<()> {
    let written = directory.join("format.new");
    let mut file = File::create(&written)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&written, path)?;
    File::open(directory)?.sync_all()
}

/// Overwrites the files below `path` and removes it: wrapped keys always, sled's files if they were
/// in clear. What the disk copied elsewhere is out of reach.
fn erase(path: &Path) -> io::Result<()> {
    let is_sealed = path.join("vault").exists();
    if path.file_name().is_some_and(|name| name == ENGINE) || !is_sealed {
        overwrite(path)?;
    } else {
        overwrite_file(&path.join("vault"))?;
        overwrite(&path.join("keys"))?;
    }
    fs::remove_dir_all(path)
}

fn overwrite(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            overwrite(&entry.path())?;
        } else {
            overwrite_file(&entry.path())?;
        }
    }
    Ok(())
}

fn overwrite_file(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let mut left = file.metadata()?.len();
    let zeros = vec![0; ERASED_CHUNK];
    while left > 0 {
        let now = usize::try_from(left).map_or(ERASED_CHUNK, |left| left.min(ERASED_CHUNK));
        file.write_all(&zeros[..now])?;
        left -= now as u64;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_written_once_and_then_believed() {
        let directory = tempfile::tempdir().unwrap();
        let plain = Options::default();
        assert_eq!(open(directory.path(), &plain).unwrap(), Layout::Plain);
        fs::create_dir(directory.path().join(ENGINE)).unwrap();
        let secret = Some(HostSecret::new([7; 32].into()));
        let sealed = Options { secret, cipher: Cipher::Sm4Gcm, ..Options::default() };
        assert_eq!(open(directory.path(), &sealed).unwrap(), Layout::Plain);
        let other = tempfile::tempdir().unwrap();
        let made = open(other.path(), &sealed).unwrap();
        assert_eq!(made.cipher(), Cipher::Sm4Gcm);
        assert_eq!(open(other.path(), &plain).unwrap(), made);
        assert!(matches!(made.vault(other.path(), None), Err(Error::Sealed)));
    }

    #[test]
    fn a_later_format_is_refused_by_number() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FORMAT_FILE), format!("{FORMAT_WORDS}7\n")).unwrap();
        let refused = read(directory.path());
        assert!(matches!(refused, Err(Error::Format { found: 7, known: 2 })), "{refused:?}");
    }

    #[test]
    fn a_store_without_a_readable_marker_is_not_guessed_at() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(ENGINE)).unwrap();
        assert!(matches!(read(directory.path()), Err(Error::Engine(_))));
        let wrong = ["", "lianxi store, format 2\n", "lianxi store, format 2\ndirectory ../x\n"];
        for text in wrong {
            fs::write(directory.path().join(FORMAT_FILE), text).unwrap();
            assert!(matches!(read(directory.path()), Err(Error::Engine(_))), "{text:?}");
        }
        let outside = "lianxi store, format 2\ndirectory g-/../..\ncipher none\n";
        fs::write(directory.path().join(FORMAT_FILE), outside).unwrap();
        assert!(matches!(read(directory.path()), Err(Error::Engine(_))));
    }
}
