//! Files that are written whole or not at all.
//!
//! Promises that a file which is there under its name is whole and survives a power cut, and that
//! nothing is written over unless that was asked for.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rustix::fs::{CWD, RenameFlags};

use crate::failure::Failure;

/// Whether a file may be written over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Existing {
    /// It stays; the new one is refused.
    Keep,
    /// The new one takes its place.
    Replace,
}

/// Refuses a path at which no file can be written, before work is done for it.
///
/// # Errors
///
/// [`Failure::Usage`] for a directory, or anything else that is no file; [`Failure::FileExists`].
pub(crate) fn check(path: &Path, existing: Existing) -> anyhow::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("cannot look at {}", path.display()))?,
    };
    if !metadata.is_file() {
        let text = format!("{} is no file: name the file to write", path.display());
        return Err(Failure::Usage(text).into());
    }
    match existing {
        Existing::Keep => Err(Failure::FileExists(path.to_owned()).into()),
        Existing::Replace => Ok(()),
    }
}

/// Writes a file: beside its name first, synced, then under its name.
///
/// # Errors
///
/// As [`check`], or the file cannot be written; then nothing is there under the name.
pub(crate) fn write(path: &Path, bytes: &[u8], existing: Existing) -> anyhow::Result<()> {
    check(path, existing)?;
    let name = path.file_name().context("a file needs a name")?.to_string_lossy();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.map_or_else(|| PathBuf::from("."), Path::to_owned);
    let beside = parent.join(format!(".{name}.{}.new", std::process::id()));
    let cannot = || format!("cannot write {}", path.display());
    let written = write_beside(&beside, bytes).and_then(|()| publish(&beside, path, existing));
    if let Err(error) = written {
        // What was begun is of no use; that it cannot be removed is no second failure.
        let _ = fs::remove_file(&beside);
        if error.kind() == io::ErrorKind::AlreadyExists {
            return Err(Failure::FileExists(path.to_owned()).into());
        }
        return Err(error).with_context(cannot);
    }
    File::open(&parent).and_then(|parent| parent.sync_all()).with_context(cannot)
}

/// A file that comes in pieces. Dropped before its end, nothing of it is left.
pub(crate) struct Growing {
    path: PathBuf,
    beside: PathBuf,
    file: Option<File>,
    existing: Existing,
}

impl Growing {
    /// Begins a file that only its owner can read.
    ///
    /// # Errors
    ///
    /// As [`check`].
    pub(crate) fn begin(path: &Path, existing: Existing) -> anyhow::Result<Self> {
        check(path, existing)?;
        let name = path.file_name().context("a file needs a name")?.to_string_lossy();
        let beside = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
        let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&beside);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path: path.to_owned(), beside, file: Some(file), existing })
    }

    /// Adds a piece.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let cannot = || format!("cannot write {}", self.path.display());
        match &mut self.file {
            Some(file) => file.write_all(bytes).with_context(cannot),
            None => Ok(()),
        }
    }

    /// Gives the whole file its name.
    ///
    /// # Errors
    ///
    /// As [`write()`].
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        let cannot = || format!("cannot write {}", self.path.display());
        if let Some(file) = self.file.take() {
            file.sync_all().with_context(cannot)?;
            publish(&self.beside, &self.path, self.existing).with_context(cannot)?;
        }
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or_else(|| Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).with_context(cannot)
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        if self.file.is_some() {
            // What was begun is of no use; that it cannot be removed is no second failure.
            let _ = fs::remove_file(&self.beside);
        }
    }
}

fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o644).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn publish(from: &Path, to: &Path, existing: Existing) -> io::Result<()> {
    match existing {
        Existing::Replace => fs::rename(from, to),
        Existing::Keep => {
            Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_once_and_again_only_if_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path, b"one", Existing::Keep).unwrap();
        let refused = write(&path, b"two", Existing::Keep).unwrap_err();
        assert!(matches!(refused.downcast_ref(), Some(Failure::FileExists(_))), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write(&path, b"two", Existing::Replace).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        // Nothing is left beside it.
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_in_pieces_is_there_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut begun = Growing::begin(&path, Existing::Keep).unwrap();
        begun.add(b"one").unwrap();
        drop(begun);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let mut whole = Growing::begin(&path, Existing::Keep).unwrap();
        whole.add(b"one").unwrap();
        whole.add(b"two").unwrap();
        whole.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"onetwo");
        assert!(Growing::begin(&path, Existing::Keep).is_err());
    }

    #[test]
    fn directories_links_and_names_that_lead_nowhere_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let refused = |path: &Path, existing| {
            write(path, b"x", existing).unwrap_err();
        };
        refused(directory.path(), Existing::Replace);
        refused(&directory.path().join("missing/file"), Existing::Keep);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("elsewhere"), &link).unwrap();
        refused(&link, Existing::Replace);
        assert!(!directory.path().join("elsewhere").exists());
    }
}
