//! The person's session, kept for the next commands: a file of mode 0600 in the user's own runtime
//! or configuration directory, one for each node's socket.
//!
//! Promises never to read a token that others could have read or written.

use std::{
    env, fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::failure::Failure;

/// Longest token file that is read.
const MAX_TOKEN_BYTES: u64 = 4 * 1024;

/// Where the session at `socket` is kept; `None`: the user has no directory of its own.
fn file_of(socket: &Path) -> Option<PathBuf> {
    let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let directory = named("XDG_RUNTIME_DIR")
        .or_else(|| named("XDG_CONFIG_HOME"))
        .or_else(|| named("HOME").map(|home| home.join(".config")))?;
    let absolute = std::path::absolute(socket).ok()?;
    let name = absolute.to_string_lossy().replace('/', "%");
    Some(directory.join("lianxi").join(format!("session{name}")))
}

/// The session's token, if there is one.
///
/// # Errors
///
/// [`Failure::TokenFile`]: others can read or write the file.
pub(crate) fn current(socket: &Path) -> Result<Option<Zeroizing<String>>, Failure> {
    match file_of(socket) {
        Some(file) if file.exists() => read(&file).map(Some),
        Some(_) | None => Ok(None),
    }
}

/// Reads a token from a file that is the user's alone.
///
/// # Errors
///
/// [`Failure::TokenFile`].
pub(crate) fn read(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let wrong = |reason: String| Failure::TokenFile { path: file.to_owned(), reason };
    let cannot = |error: io::Error| wrong(format!("cannot be read: {error}"));
    let opened = fs::File::open(file).map_err(cannot)?;
    let facts = opened.metadata().map_err(cannot)?;
    let own = rustix::process::geteuid().as_raw();
    if facts.uid() != own && facts.uid() != 0 {
        return Err(wrong("belongs to another user".to_owned()));
    }
    if facts.mode() & 0o077 != 0 {
        return Err(wrong("can be read or written by others".to_owned()));
    }
    let mut token = Zeroizing::new(String::new());
    io::Read::read_to_string(&mut io::Read::take(opened, MAX_TOKEN_BYTES), &mut token)
        .map_err(cannot)?;
    Ok(Zeroizing::new(token.trim().to_owned()))
}

/// Keeps a session's token.
///
/// # Errors
///
/// [`Failure::TokenFile`]: it cannot be written.
pub(crate) fn keep(socket: &Path, token: &str) -> Result<(), Failure> {
    let none = || Failure::TokenFile {
        path: socket.to_owned(),
        reason: "has no session: set XDG_RUNTIME_DIR or HOME".to_owned(),
    };
    let file = file_of(socket).ok_or_else(none)?;
    let cannot = |error: io::Error| Failure::TokenFile {
        path: file.clone(),
        reason: format!("cannot be written: {error}"),
    };
    let directory = file.parent().unwrap_or_else(|| Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(cannot)?;
    // Written beside and renamed: a file that is there keeps no wider mode than its new one.
    let beside = file.with_extension(format!("{}", std::process::id()));
    let mut options = fs::OpenOptions::new();
    let mut opened =
        options.write(true).create_new(true).mode(0o600).open(&beside).map_err(cannot)?;
    opened.write_all(token.as_bytes()).map_err(cannot)?;
    fs::rename(&beside, &file).map_err(cannot)
}

/// Forgets the session.
///
/// # Errors
///
/// [`Failure::TokenFile`]: it cannot be removed.
pub(crate) fn forget(socket: &Path) -> Result<(), Failure> {
    let Some(file) = file_of(socket) else { return Ok(()) };
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::TokenFile { path: file, reason: format!("cannot be removed: {error}") })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_that_others_could_read_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        fs::write(&file, "lxt_abc\n").unwrap();
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&file).is_ok(), good, "{mode:o}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read(&file).unwrap().as_str(), "lxt_abc");
        assert!(read(&directory.path().join("none")).is_err());
    }
}
