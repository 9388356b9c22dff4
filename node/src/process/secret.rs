//! Where a passphrase or credential comes from: a file descriptor, the credentials of a systemd
//! service, or a person at the terminal.
//!
//! Never from an argument or an environment variable: both are shown to others and stay. The one
//! variable that is read names the directory of the service's credentials.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::identity::keys::{self, Method, Secret};

/// Name of the service's credential, in `$CREDENTIALS_DIRECTORY`.
pub const CREDENTIAL: &str = "lianxi-key";

/// Longest passphrase or credential.
const MAX_BYTES: u64 = 4096;

/// Why there is no passphrase or credential.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody is there to ask.
    #[error(
        "the keys are sealed with a passphrase and there is no terminal; give it by --passphrase-fd, or as the credential `lianxi-key` of the service"
    )]
    NoTerminal(#[source] io::Error),
    /// The service has no credential.
    #[error(
        "the keys are sealed with a credential and the service has none named `lianxi-key`; add LoadCredentialEncrypted=lianxi-key to its unit"
    )]
    NoCredential,
    /// A descriptor or file could not be read.
    #[error("cannot read the secret from {}", .path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A passphrase is text.
    #[error("the passphrase is no UTF-8 text; type it again")]
    NotText,
    /// The same was not typed twice.
    #[error("the two passphrases differ; nothing was changed, try again")]
    Differ,
    /// It is too weak.
    #[error(transparent)]
    Weak(#[from] keys::Error),
}

/// What opens keys of `method` for a node that starts.
///
/// # Errors
///
/// [`Error`].
pub fn for_start(method: Method, passphrase_fd: Option<u32>) -> Result<Secret, Error> {
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY");
    let credential = credential.map(|directory| Path::new(&directory).join(CREDENTIAL));
    let credential = credential.filter(|path| path.exists());
    match (method, passphrase_fd, credential) {
        (Method::Credential, _, Some(path)) => from_file(&path),
        (Method::Credential, _, None) => Err(Error::NoCredential),
        (Method::None | Method::Passphrase, None, Some(path)) => {
            Ok(Secret::passphrase(line(read(&path)?)?)?)
        }
        (Method::None | Method::Passphrase, fd, _) => passphrase(fd, "Passphrase 口令: "),
    }
}

/// A credential from a file.
///
/// # Errors
///
/// [`Error::Read`], [`Error::Weak`].
pub fn from_file(path: &Path) -> Result<Secret, Error> {
    Ok(Secret::credential(read(path)?)?)
}

/// A passphrase from a descriptor, else from the terminal with this prompt.
///
/// # Errors
///
/// [`Error`].
pub fn passphrase(fd: Option<u32>, prompt: &str) -> Result<Secret, Error> {
    let text = match fd {
        Some(fd) => line(read(&PathBuf::from(format!("/dev/fd/{fd}")))?)?,
        None => typed(prompt)?,
    };
    Ok(Secret::passphrase(text)?)
}

/// A new passphrase: from a descriptor, else typed twice.
///
/// # Errors
///
/// [`Error`].
pub fn new_passphrase(fd: Option<u32>, prompts: [&str; 2]) -> Result<Secret, Error> {
    if fd.is_some() {
        return passphrase(fd, "");
    }
    let [first, second] = [typed(prompts[0])?, typed(prompts[1])?];
    if *first != *second {
        return Err(Error::Differ);
    }
    Ok(Secret::passphrase(first)?)
}

/// What a person types at the terminal after `prompt`, without echo: the one way to ask for a secret.
///
/// # Errors
///
/// There is no terminal.
pub fn hidden(prompt: &str) -> io::Result<Zeroizing<String>> {
    rpassword::prompt_password(prompt).map(Zeroizing::new)
}

fn typed(prompt: &str) -> Result<Zeroizing<String>, Error> {
    hidden(prompt).map_err(Error::NoTerminal)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    // Of the full size at once: a vector that grows would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_BYTES).unwrap_or(4096)));
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// The first line, without its end.
fn line(bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<String>, Error> {
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::NotText)?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::fd::AsRawFd as _};

    use super::*;

    #[test]
    fn a_passphrase_is_the_first_line_of_a_descriptor() {
        let (receiver, mut sender) = io::pipe().unwrap();
        sender.write_all("正确的 horse battery\nmore\n".as_bytes()).unwrap();
        drop(sender);
        let fd = u32::try_from(receiver.as_raw_fd()).unwrap();
        let text = line(read(&PathBuf::from(format!("/dev/fd/{fd}"))).unwrap()).unwrap();
        assert_eq!(*text, "正确的 horse battery");
    }

    #[test]
    fn what_is_no_text_or_too_short_is_refused() {
        assert!(matches!(line(Zeroizing::new(vec![0xff, 0xfe])), Err(Error::NotText)));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("short");
        std::fs::write(&path, [7; 31]).unwrap();
        assert!(matches!(from_file(&path), Err(Error::Weak(_))));
        std::fs::write(&path, [7; 32]).unwrap();
        assert!(from_file(&path).is_ok());
        assert!(matches!(from_file(&directory.path().join("none")), Err(Error::Read { .. })));
    }
}
