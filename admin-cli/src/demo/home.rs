//! The directory of a demo: hosts, logs, addresses, tokens that are not spent.
//!
//! Promises that two demos never work in one directory, that a host keeps its address for ever
//! (its children hold it), and that what is written survives a kill at any point.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::plan::Plan;
use crate::{client, failure::Failure};

const FORMAT: u32 = 1;

/// Ports that are tried, below those that systems give to outgoing connections: one of these
/// could be taken by a passing connection just when its host starts again.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Longest path that a socket can have.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// What is kept of a demo beside its hosts.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    format: u32,
    addresses: BTreeMap<String, SocketAddr>,
}

/// The directory of a demo.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    kept: Kept,
    resumed: bool,
    /// Holds the lock while it is open.
    _lock: File,
    /// Deletes the directory in the end, if nobody asked to keep it.
    temporary: Option<TempDir>,
}

impl Home {
    /// Opens the directory to keep, or a temporary one, and gives every host an address.
    ///
    /// # Errors
    ///
    /// Another demo runs there, the path is too long, or a file cannot be read or written.
    pub(crate) fn open(keep: Option<&Path>, plan: &Plan) -> anyhow::Result<Self> {
        let temporary = match keep {
            Some(_) => None,
            None => Some(
                tempfile::Builder::new()
                    .prefix("lianxi-demo-")
                    .tempdir()
                    .context("cannot make a temporary directory")?,
            ),
        };
        let path = keep
            .or_else(|| temporary.as_ref().map(TempDir::path))
            .unwrap_or_else(|| Path::new("."));
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        let path = fs::canonicalize(path)?;
        check_length(&path, plan)?;
        let lock = lock(&path)?;
        for folder in ["hosts", "logs", "tokens"] {
            fs::create_dir_all(path.join(folder))
                .with_context(|| format!("cannot make {}", path.join(folder).display()))?;
        }
        let (kept, resumed) = match read_kept(&path)? {
            Some(kept) => (complete(kept, plan)?, true),
            None => (complete(Kept { format: FORMAT, addresses: BTreeMap::new() }, plan)?, false),
        };
        write_whole(&kept_file(&path), &serde_json::to_vec_pretty(&kept)?)?;
        Ok(Self { path, kept, resumed, _lock: lock, temporary })
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// True if an earlier demo left its state here.
    pub(crate) fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// True if the directory is deleted in the end.
    pub(crate) fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// Keeps a temporary directory, for a look at what went wrong.
    pub(crate) fn keep(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            let _ = temporary.keep();
        }
    }

    /// Directory of the host that `code` heads.
    pub(crate) fn host(&self, code: &str) -> PathBuf {
        self.path.join("hosts").join(code)
    }

    /// Log of the host that `code` heads.
    pub(crate) fn log(&self, code: &str) -> PathBuf {
        self.path.join("logs").join(format!("{code}.log"))
    }

    /// Address at which the host that `code` heads takes children in.
    ///
    /// # Errors
    ///
    /// The code heads no host of the plan.
    pub(crate) fn address(&self, code: &str) -> anyhow::Result<SocketAddr> {
        self.kept.addresses.get(code).copied().with_context(|| format!("{code} heads no host"))
    }

    /// The token of a join that was begun and not seen to end.
    pub(crate) fn token(&self, code: &str) -> Option<String> {
        fs::read_to_string(self.token_file(code)).ok()
    }

    /// Keeps the token of a join that begins.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub(crate) fn keep_token(&self, code: &str, token: &str) -> anyhow::Result<()> {
        write_whole(&self.token_file(code), token.as_bytes())
    }

    /// Forgets the token of a join that ended.
    pub(crate) fn forget_token(&self, code: &str) {
        // A token left behind is spent: the worst is one refused attempt.
        let _ = fs::remove_file(self.token_file(code));
    }

    fn token_file(&self, code: &str) -> PathBuf {
        self.path.join("tokens").join(code)
    }
}

fn kept_file(path: &Path) -> PathBuf {
    path.join("demo.json")
}

fn check_length(path: &Path, plan: &Plan) -> anyhow::Result<()> {
    let longest = plan.hosts().iter().map(|head| head.code.len()).max().unwrap_or_default();
    let socket = client::socket_path(&path.join("hosts").join("X".repeat(longest)));
    if socket.as_os_str().as_bytes().len() > MAX_SOCKET_PATH_BYTES {
        return Err(Failure::PathTooLong(socket).into());
    }
    Ok(())
}

fn lock(path: &Path) -> anyhow::Result<File> {
    let file = path.join("demo.lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&file);
    let lock = lock.with_context(|| format!("cannot write {}", file.display()))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            bail!("another demo runs in {}; stop it or take another directory", path.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", file.display())),
    }
}

fn read_kept(path: &Path) -> anyhow::Result<Option<Kept>> {
    let file = kept_file(path);
    let text = match fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", file.display()));
        }
    };
    let kept: Kept = serde_json::from_slice(&text).with_context(|| {
        format!("{} is no demo's state; take another directory", file.display())
    })?;
    if kept.format != FORMAT {
        bail!("{} has format {}; this program reads {FORMAT}", file.display(), kept.format);
    }
    Ok(Some(kept))
}

/// Gives an address to every host that has none.
fn complete(mut kept: Kept, plan: &Plan) -> anyhow::Result<Kept> {
    let hosts = plan.hosts();
    let without: Vec<&str> = hosts
        .iter()
        .map(|head| head.code.as_str())
        .filter(|code| !kept.addresses.contains_key(*code))
        .collect();
    let taken: Vec<u16> = kept.addresses.values().map(SocketAddr::port).collect();
    let ports = free_ports(without.len(), &taken)?;
    for (code, port) in without.into_iter().zip(ports) {
        kept.addresses.insert(code.to_owned(), SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    Ok(kept)
}

/// Ports that nobody listens at, none of them in `taken`.
fn free_ports(count: usize, taken: &[u16]) -> anyhow::Result<Vec<u16>> {
    // Two demos that start at once begin at different places.
    let width = usize::from(PORTS.end - PORTS.start);
    let begin = usize::try_from(std::process::id()).unwrap_or_default() * 61 % width;
    let ports: Vec<u16> = PORTS
        .cycle_from(begin)
        .filter(|port| !taken.contains(port))
        .filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .take(count)
        .collect();
    if ports.len() < count {
        bail!("only {} of {count} ports are free on 127.0.0.1", ports.len());
    }
    Ok(ports)
}

trait CycleFrom {
    fn cycle_from(&self, begin: usize) -> impl Iterator<Item = u16>;
}

impl CycleFrom for std::ops::Range<u16> {
    fn cycle_from(&self, begin: usize) -> impl Iterator<Item = u16> {
        self.clone().skip(begin).chain(self.clone().take(begin))
    }
}

/// Writes a file that only this user reads, whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)
        .with_context(cannot)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(cannot)?;
    fs::rename(&new, path).with_context(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNITS: &str = "code,name,level,parent\nC,City,city,\nD,District,district,C\n";

    fn plan() -> Plan {
        Plan::parse(UNITS).unwrap()
    }

    #[test]
    fn a_host_keeps_its_address() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::open(Some(dir.path()), &plan()).unwrap();
        let (city, district) = (first.address("C").unwrap(), first.address("D").unwrap());
        assert_ne!(city.port(), district.port());
        assert!(!first.is_resumed());
        drop(first);
        let second = Home::open(Some(dir.path()), &plan()).unwrap();
        assert!(second.is_resumed());
        assert_eq!(second.address("C").unwrap(), city);
        assert_eq!(second.address("D").unwrap(), district);
    }

    #[test]
    fn two_demos_never_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Home::open(Some(dir.path()), &plan()).unwrap();
        let error = Home::open(Some(dir.path()), &plan()).unwrap_err().to_string();
        assert!(error.contains("another demo runs"), "{error}");
    }

    #[test]
    fn a_foreign_file_is_not_taken_for_state() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(kept_file(dir.path()), "{\"format\": 1, \"addresses\": {}, \"more\": 1}")
            .unwrap();
        assert!(Home::open(Some(dir.path()), &plan()).is_err());
        fs::write(kept_file(dir.path()), "{\"format\": 2, \"addresses\": {}}").unwrap();
        assert!(Home::open(Some(dir.path()), &plan()).is_err());
    }

    #[test]
    fn a_token_is_kept_until_its_join_ended() {
        let home = Home::open(None, &plan()).unwrap();
        assert_eq!(home.token("D"), None);
        home.keep_token("D", "secret").unwrap();
        assert_eq!(home.token("D").as_deref(), Some("secret"));
        home.forget_token("D");
        assert_eq!(home.token("D"), None);
    }

    #[test]
    fn a_temporary_directory_goes_away() {
        let home = Home::open(None, &plan()).unwrap();
        let path = home.path().to_owned();
        assert!(path.exists());
        drop(home);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let error = Home::open(Some(&dir.path().join("x".repeat(100))), &plan()).unwrap_err();
        assert!(error.downcast_ref::<Failure>().is_some(), "{error}");
    }
}
