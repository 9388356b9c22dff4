//! One process per directory: a lock that names its holder.
//!
//! The kernel drops the lock with its process, however that ends, so a file that was left behind
//! blocks nobody. The text in it is for people and decides nothing.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::Path,
    process,
};

use super::Error;
use crate::clock::Clock;

const FILE_NAME: &str = "lock";

/// A held lock. Dropping it releases the directory.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of `directory`, which must exist, and writes this process's name into it.
    ///
    /// # Errors
    ///
    /// - [`Error::Locked`]: another process, or this one, holds it.
    /// - [`Error::Engine`]: the file cannot be opened or written.
    pub fn acquire(directory: &Path, clock: &dyn Clock) -> Result<Self, Error> {
        let path = directory.join(FILE_NAME);
        let failed = |error: io::Error| Error::Engine(format!("{}: {error}", path.display()));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Locked { holder: holder(&mut file) });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Written over and then cut, so that a reader never finds it empty the second time.
        let text = describe(clock);
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.set_len(text.len() as u64).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn describe(clock: &dyn Clock) -> String {
    let program = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "an unnamed program".to_owned());
    let since = jiff::Timestamp::from_millisecond(clock.now_unix_ms())
        .map_or_else(|_| "an unknown time".to_owned(), |time| time.to_string());
    format!("process {} ({program}), since {since}\n", process::id())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(1024).read_to_string(&mut text));
    match read {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        Ok(_) | Err(_) => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn a_held_lock_names_its_holder() {
        let directory = tempfile::tempdir().unwrap();
        let _held = Lock::acquire(directory.path(), &SystemClock).unwrap();
        let Err(Error::Locked { holder }) = Lock::acquire(directory.path(), &SystemClock) else {
            panic!("locked twice");
        };
        assert!(holder.contains(&format!("process {} (", process::id())), "{holder}");
        assert!(holder.contains("since 20"), "{holder}");
    }

    #[test]
    fn a_released_lock_can_be_taken_and_its_old_text_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        std::fs::write(&path, "~".repeat(500)).unwrap();
        drop(Lock::acquire(directory.path(), &SystemClock).unwrap());
        let _again = Lock::acquire(directory.path(), &SystemClock).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("process ") && !text.contains('~'), "{text}");
    }

    #[test]
    fn a_lock_file_that_is_no_text_is_no_obstacle() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE_NAME), [0xff; 64]).unwrap();
        Lock::acquire(directory.path(), &SystemClock).unwrap();
    }
}
