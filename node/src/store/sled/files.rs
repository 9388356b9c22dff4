//! What lies around sled: the barrier that sled lacks, space.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use ::sled::Db;

use crate::store::Usage;

/// Makes everything that was applied survive a power cut.
pub(super) trait Barrier: Send + 'static {
    /// Returns once it would.
    fn wait(&mut self, db: &Db) -> io::Result<()>;
}

/// Writes sled's buffers out, then syncs its file.
///
/// `Db::flush` alone calls `sync_file_range`, which leaves the disk's own cache and the file's
/// metadata behind. sled's other files are synced when it is opened: `conf` never changes
/// afterwards, `snap.*` is only written then, and `blobs/` stays empty (see `SEGMENT_BYTES`).
pub(super) struct FileBarrier {
    file: File,
}

impl FileBarrier {
    /// Opens sled's file in `directory` for syncing, and makes the files themselves durable.
    pub(super) fn open(directory: &Path, db: &Db) -> io::Result<Self> {
        db.flush().map_err(engine_io)?;
        let file = File::open(database_file(directory))?;
        file.sync_all()?;
        for entry in fs::read_dir(directory)? {
            File::open(entry?.path())?.sync_all()?;
        }
        sync_with_ancestors(directory)?;
        Ok(Self { file })
    }
}

impl Barrier for FileBarrier {
    fn wait(&mut self, db: &Db) -> io::Result<()> {
        db.flush().map_err(engine_io)?;
        self.file.sync_data()
    }
}

pub(super) fn engine_io(error: ::sled::Error) -> io::Error {
    io::Error::other(error)
}

/// sled's one file.
pub(super) fn database_file(directory: &Path) -> PathBuf {
    directory.join("db")
}

/// Waits until the last of sled's own threads has let go of its file.
pub(super) fn wait_until_released(directory: &Path) -> io::Result<()> {
    File::open(database_file(directory))?.lock()
}

/// Syncs `directory` and the two above it: a store that is new may have made all three.
fn sync_with_ancestors(directory: &Path) -> io::Result<()> {
    for ancestor in directory.ancestors().take(3).filter(|path| !path.as_os_str().is_empty()) {
        File::open(ancestor)?.sync_all()?;
    }
    Ok(())
}

/// Removes snapshots in `engine` that sled began and did not finish: the disk was full, or the
/// process was killed. sled 0.34.7 takes such a file for its newest snapshot, finds it damaged and
/// opens no more. The one before it is there until the new one is whole, so nothing is lost.
pub(super) fn remove_unfinished_snapshots(engine: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(engine) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Bytes free for this process on the file system of `directory`.
pub(super) fn free_bytes(directory: &Path) -> io::Result<u64> {
    let statistics = rustix::fs::statvfs(directory)?;
    Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
}

/// Space of the store in `directory`.
pub(super) fn usage(directory: &Path) -> io::Result<Usage> {
    let mut store_bytes = 0;
    for entry in fs::read_dir(directory)? {
        store_bytes += entry?.metadata()?.blocks() * 512;
    }
    Ok(Usage { store_bytes, free_bytes: free_bytes(directory)? })
}
