//! What a power cut may leave of a directory.
//!
//! A library that is loaded before a program (`tests/power-cut/record.c`) records every write,
//! change of length, sync and change of names below a directory. From that record any state is
//! built again that a cut at any point could have left: what was synced is there, of the rest any
//! part, down to single sectors of one write.
//!
//! The rules, stricter than what common file systems do:
//! - A write is safe once an `fsync` or `fdatasync` of its file that began after it has ended.
//!   `sync_file_range` makes nothing safe.
//! - A name is safe once its directory was synced so. Names of one directory are kept in the order
//!   of their changes, up to some point; of different directories independently.
//! - Of what is not safe any subset is kept, and of a write any of its sectors of 512 bytes.
//!
//! Not covered: sectors that hold neither old nor new, and disks that lie about a sync.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use crate::numbers::Numbers;

const SECTOR: usize = 512;

/// The kind of event that tests add themselves; the others are in `record.c`.
const MARK: u8 = 10;

/// The kinds of sync.
const FDATASYNC: u8 = 2;

/// Records what programs do below a directory.
#[derive(Debug)]
pub struct Recorder {
    library: PathBuf,
    root: PathBuf,
    log: PathBuf,
}

impl Recorder {
    /// Records what happens below `root`, an existing directory, in the file `log`.
    ///
    /// # Errors
    ///
    /// The library cannot be built: there is no C compiler, or it does not know this system.
    pub fn new(root: &Path, log: &Path) -> Result<Self, String> {
        let root = root.canonicalize().map_err(|error| error.to_string())?;
        let log = std::path::absolute(log).map_err(|error| error.to_string())?;
        let library = log.with_extension("so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("power-cut/record.c");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut build = Command::new(compiler);
        build.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
        let built = build.output().map_err(|error| format!("cc: {error}"))?;
        if !built.status.success() {
            return Err(String::from_utf8_lossy(&built.stderr).into_owned());
        }
        Ok(Self { library, root, log })
    }

    /// What a program needs in its environment to be recorded.
    pub fn environment(&self) -> [(&'static str, OsString); 3] {
        [
            ("LD_PRELOAD", self.library.clone().into()),
            ("LIANXI_RECORD_ROOT", self.root.clone().into()),
            ("LIANXI_RECORD_LOG", self.log.clone().into()),
        ]
    }

    /// Notes that `text` was acknowledged by now.
    ///
    /// # Panics
    ///
    /// The log cannot be written.
    pub fn mark(&self, text: &str) {
        let length = u32::try_from(text.len() + 1).unwrap();
        let event = [&length.to_ne_bytes()[..], &[MARK], text.as_bytes()].concat();
        let mut log = OpenOptions::new().append(true).create(true).open(&self.log).unwrap();
        log.write_all(&event).unwrap();
    }

    /// What was recorded so far.
    ///
    /// # Panics
    ///
    /// The record is not whole, or something happened that it cannot tell.
    pub fn events(&self) -> Vec<Event> {
        let mut bytes = Vec::new();
        File::open(&self.log).unwrap().read_to_end(&mut bytes).unwrap();
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<4>().unwrap();
            let (event, after) = after.split_at(u32::from_ne_bytes(*length) as usize);
            events.push(Event::read(event, &self.root));
            rest = after;
        }
        events
    }
}

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    /// A file came to be, at a path below the root.
    Create(u64, PathBuf),
    /// A directory came to be.
    MakeDir(u64, PathBuf),
    /// Bytes were written at a place of a file.
    Write(u64, usize, Vec<u8>),
    /// A file was cut or lengthened.
    SetLength(u64, usize),
    /// A name was moved.
    Rename(PathBuf, PathBuf),
    /// A file got a second name.
    Link(PathBuf, PathBuf),
    /// A name was removed.
    Remove(PathBuf),
    /// A sync began: its number, file, kind.
    SyncBegun(u64, u64, u8),
    /// A sync ended well.
    SyncEnded(u64),
    /// Something was acknowledged.
    Mark(String),
}

impl Event {
    fn read(bytes: &[u8], root: &Path) -> Self {
        use std::os::unix::ffi::OsStrExt as _;
        let (kind, fields) = bytes.split_first().unwrap();
        let number =
            |place: usize| u64::from_ne_bytes(fields[8 * place..8 * place + 8].try_into().unwrap());
        let path = |bytes: &[u8]| {
            let path = Path::new(std::ffi::OsStr::from_bytes(bytes));
            path.strip_prefix(root).unwrap().to_owned()
        };
        match kind {
            1 => Self::Create(number(0), path(&fields[8..])),
            2 => Self::MakeDir(number(0), path(&fields[8..])),
            3 => Self::Write(number(0), number(1) as usize, fields[16..].to_vec()),
            4 => Self::SetLength(number(0), number(1) as usize),
            5 | 11 => {
                let (length, paths) = fields.split_first_chunk::<4>().unwrap();
                let (from, to) = paths.split_at(u32::from_ne_bytes(*length) as usize);
                let kind = if *kind == 5 { Self::Rename } else { Self::Link };
                kind(path(from), path(to))
            }
            6 => Self::Remove(path(fields)),
            7 => Self::SyncBegun(number(0), number(1), fields[16]),
            8 => Self::SyncEnded(number(0)),
            9 => panic!("the recorded program used {}", String::from_utf8_lossy(fields)),
            &MARK => Self::Mark(String::from_utf8(fields.to_vec()).unwrap()),
            other => panic!("an event of kind {other}"),
        }
    }
}

/// What a cut keeps of what was not safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    Nothing,
    /// Everything: as after a SIGKILL.
    Everything,
    /// Any of the writes, each whole or not at all.
    Some,
    /// Any of the sectors of any of the writes.
    Sectors,
    /// Of each file the last write alone.
    Last,
    /// Of each file all but the last write, and sectors of that.
    AllButLast,
}

impl Kept {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Nothing, Self::Everything, Self::Some, Self::Sectors, Self::Last, Self::AllButLast];
}

/// A change of a file's content that is not safe yet; at an event.
#[derive(Clone, Copy, Debug)]
enum Change {
    Write,
    SetLength,
}

#[derive(Debug, Default)]
struct Content {
    safe: Vec<u8>,
    /// Numbers of events.
    pending: Vec<(usize, Change)>,
}

#[derive(Debug, Default)]
struct Names {
    /// As the running program sees them.
    now: BTreeMap<OsString, usize>,
    safe: BTreeMap<OsString, usize>,
    /// Number of an event, name, what it stands for after it.
    pending: Vec<(usize, OsString, Option<usize>)>,
}

#[derive(Debug)]
enum Node {
    File(Content),
    Directory(Names),
}

/// The directory at one moment of the record: what is safe, and what is on its way.
#[derive(Debug)]
pub struct Disk<'a> {
    events: &'a [Event],
    /// The next event.
    next: usize,
    nodes: Vec<Node>,
    /// Inode → node; an inode that is used again is another node.
    inodes: HashMap<u64, usize>,
    /// Number of a sync → the event at which it began, and what it syncs.
    syncs: HashMap<u64, (usize, usize)>,
    /// Whether `fdatasync` is taken for the sync that it is.
    believes_fdatasync: bool,
}

impl<'a> Disk<'a> {
    /// The empty directory at the beginning of a record.
    pub fn new(events: &'a [Event], believes_fdatasync: bool) -> Self {
        Self {
            events,
            next: 0,
            nodes: vec![Node::Directory(Names::default())],
            inodes: HashMap::new(),
            syncs: HashMap::new(),
            believes_fdatasync,
        }
    }

    /// Goes on to just before event `cut`.
    ///
    /// # Panics
    ///
    /// The record contradicts itself.
    pub fn advance(&mut self, cut: usize) {
        while self.next < cut {
            self.happen(self.next);
            self.next += 1;
        }
    }

    fn happen(&mut self, at: usize) {
        match &self.events[at] {
            Event::Create(inode, path) => {
                self.add(at, *inode, path, Node::File(Content::default()))
            }
            Event::MakeDir(inode, path) => {
                self.add(at, *inode, path, Node::Directory(Names::default()));
            }
            Event::Write(inode, ..) => self.content(*inode).pending.push((at, Change::Write)),
            Event::SetLength(inode, _) => {
                self.content(*inode).pending.push((at, Change::SetLength));
            }
            Event::Rename(from, to) => {
                let node = self.node_at(from).unwrap_or_else(|| panic!("no {}", from.display()));
                self.set_name(at, from, None);
                self.set_name(at, to, Some(node));
            }
            Event::Link(from, to) => {
                let node = self.node_at(from).unwrap_or_else(|| panic!("no {}", from.display()));
                self.set_name(at, to, Some(node));
            }
            Event::Remove(path) => self.set_name(at, path, None),
            Event::SyncBegun(number, inode, how) => {
                // The directory that is watched was there before the record.
                let node = self.inodes.get(inode).copied().unwrap_or(0);
                if *how != FDATASYNC || self.believes_fdatasync {
                    self.syncs.insert(*number, (at, node));
                }
            }
            Event::SyncEnded(number) => {
                if let Some((begun, node)) = self.syncs.remove(number) {
                    self.sync(node, begun);
                }
            }
            Event::Mark(_) => {}
        }
    }

    fn add(&mut self, at: usize, inode: u64, path: &Path, node: Node) {
        let number = self.nodes.len();
        self.nodes.push(node);
        self.inodes.insert(inode, number);
        self.set_name(at, path, Some(number));
    }

    fn content(&mut self, inode: u64) -> &mut Content {
        match &mut self.nodes[self.inodes[&inode]] {
            Node::File(content) => content,
            Node::Directory(_) => panic!("bytes of a directory"),
        }
    }

    fn names(&self, node: usize) -> &Names {
        match &self.nodes[node] {
            Node::Directory(names) => names,
            Node::File(_) => panic!("names in a file"),
        }
    }

    fn node_at(&self, path: &Path) -> Option<usize> {
        path.iter().try_fold(0, |node, name| self.names(node).now.get(name).copied())
    }

    fn set_name(&mut self, at: usize, path: &Path, target: Option<usize>) {
        let parent = self.node_at(path.parent().unwrap());
        let parent = parent.unwrap_or_else(|| panic!("no directory for {}", path.display()));
        let Node::Directory(names) = &mut self.nodes[parent] else { panic!("names in a file") };
        let name = path.file_name().unwrap().to_owned();
        match target {
            Some(node) => names.now.insert(name.clone(), node),
            None => names.now.remove(&name),
        };
        names.pending.push((at, name, target));
    }

    /// Makes safe what was done to a node before the event `begun`.
    fn sync(&mut self, node: usize, begun: usize) {
        let events = self.events;
        match &mut self.nodes[node] {
            Node::File(content) => {
                let kept = content.pending.partition_point(|(at, _)| *at < begun);
                for (at, change) in content.pending.drain(..kept) {
                    apply(&mut content.safe, &events[at], change, |_| true);
                }
            }
            Node::Directory(names) => {
                let kept = names.pending.partition_point(|(at, ..)| *at < begun);
                for (_, name, target) in names.pending.drain(..kept) {
                    rename(&mut names.safe, name, target);
                }
            }
        }
    }

    /// Writes into `target`, which must not exist, what a cut here leaves, `kept` of what is not
    /// safe.
    ///
    /// # Errors
    ///
    /// `target` cannot be written.
    pub fn write_to(&self, target: &Path, kept: Kept, numbers: &mut Numbers) -> io::Result<()> {
        self.write_node(0, target, kept, numbers)
    }

    fn write_node(
        &self,
        node: usize,
        target: &Path,
        kept: Kept,
        numbers: &mut Numbers,
    ) -> io::Result<()> {
        match &self.nodes[node] {
            Node::File(content) => {
                let mut file = File::create(target)?;
                // Keys are read by their owner alone.
                file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
                file.write_all(&content.after(self.events, kept, numbers))
            }
            Node::Directory(names) => {
                fs::create_dir(target)?;
                fs::set_permissions(target, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
                let count = match kept {
                    Kept::Nothing => 0,
                    Kept::Everything | Kept::Last => names.pending.len(),
                    Kept::Some | Kept::Sectors => numbers.below(names.pending.len() + 1),
                    Kept::AllButLast => names.pending.len().saturating_sub(1),
                };
                let mut left = names.safe.clone();
                for (_, name, node) in &names.pending[..count] {
                    rename(&mut left, name.clone(), *node);
                }
                for (name, node) in left {
                    self.write_node(node, &target.join(name), kept, numbers)?;
                }
                Ok(())
            }
        }
    }

    /// Number of changes that are not safe.
    pub fn unsafe_changes(&self) -> usize {
        let of_node = |node: &Node| match node {
            Node::File(content) => content.pending.len(),
            Node::Directory(names) => names.pending.len(),
        };
        self.nodes.iter().map(of_node).sum()
    }
}

impl Content {
    fn after(&self, events: &[Event], kept: Kept, numbers: &mut Numbers) -> Vec<u8> {
        let mut bytes = self.safe.clone();
        let last = self.pending.len().saturating_sub(1);
        for (place, (at, change)) in self.pending.iter().enumerate() {
            let (is_kept, is_torn) = match kept {
                Kept::Nothing => (false, false),
                Kept::Everything => (true, false),
                Kept::Some => (numbers.coin(), false),
                Kept::Sectors => (numbers.coin(), true),
                Kept::Last => (place == last, false),
                Kept::AllButLast => (true, place == last),
            };
            if is_kept {
                apply(&mut bytes, &events[*at], *change, |_| !is_torn || numbers.coin());
            }
        }
        bytes
    }
}

/// Does to `bytes` what an event did, in those sectors that `keeps` names.
fn apply(bytes: &mut Vec<u8>, event: &Event, change: Change, mut keeps: impl FnMut(usize) -> bool) {
    match (change, event) {
        (Change::SetLength, Event::SetLength(_, length)) => bytes.resize(*length, 0),
        (Change::Write, Event::Write(_, offset, written)) => {
            let mut from = 0;
            while from < written.len() {
                // Up to the next border of a sector of the file.
                let place = offset + from;
                let to = (from + SECTOR - place % SECTOR).min(written.len());
                if keeps(place / SECTOR) {
                    let end = offset + to;
                    if bytes.len() < end {
                        bytes.resize(end, 0);
                    }
                    bytes[place..end].copy_from_slice(&written[from..to]);
                }
                from = to;
            }
        }
        (change, event) => panic!("{change:?} of {event:?}"),
    }
}

fn rename(names: &mut BTreeMap<OsString, usize>, name: OsString, target: Option<usize>) {
    match target {
        Some(node) => names.insert(name, node),
        None => names.remove(&name),
    };
}

/// Paths below `directory` with the content of files; sockets are left out.
///
/// # Errors
///
/// Something cannot be read.
pub fn listing(directory: &Path) -> io::Result<BTreeMap<PathBuf, Option<Vec<u8>>>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        for entry in fs::read_dir(directory.join(&path))? {
            let entry = entry?;
            let path = path.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                found.insert(path.clone(), None);
                waiting.push(path);
            } else if kind.is_file() {
                found.insert(path, Some(fs::read(entry.path())?));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: u64 = 7;

    fn left(events: &[Event], believes: bool, kept: Kept) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut disk = Disk::new(events, believes);
        disk.advance(events.len());
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("left");
        disk.write_to(&target, kept, &mut Numbers::new(1)).unwrap();
        listing(&target).unwrap()
    }

    fn file(events: &[Event], kept: Kept) -> Option<Vec<u8>> {
        left(events, true, kept).remove(Path::new("a")).flatten()
    }

    /// A file whose name and first bytes are safe.
    fn begun() -> Vec<Event> {
        vec![
            Event::Create(FILE, "a".into()),
            Event::Write(FILE, 0, b"old".to_vec()),
            Event::SyncBegun(1, FILE, FDATASYNC),
            Event::SyncEnded(1),
            Event::SyncBegun(2, 1, 1),
            Event::SyncEnded(2),
        ]
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_may_go() {
        let mut events = begun();
        assert_eq!(file(&events, Kept::Nothing).unwrap(), b"old");
        events.push(Event::Write(FILE, 0, b"new".to_vec()));
        assert_eq!(file(&events, Kept::Nothing).unwrap(), b"old");
        assert_eq!(file(&events, Kept::Everything).unwrap(), b"new");
        // A sync that has not ended makes nothing safe.
        events.push(Event::SyncBegun(3, FILE, 1));
        assert_eq!(file(&events, Kept::Nothing).unwrap(), b"old");
        events.push(Event::SyncEnded(3));
        assert_eq!(file(&events, Kept::Nothing).unwrap(), b"new");
    }

    #[test]
    fn a_write_during_a_sync_is_not_part_of_it() {
        let mut events = begun();
        events.push(Event::SyncBegun(3, FILE, 1));
        events.push(Event::Write(FILE, 0, b"new".to_vec()));
        events.push(Event::SyncEnded(3));
        assert_eq!(file(&events, Kept::Nothing).unwrap(), b"old");
    }

    #[test]
    fn without_belief_in_fdatasync_nothing_of_it_is_safe() {
        let content = left(&begun(), false, Kept::Nothing).remove(Path::new("a")).flatten();
        assert_eq!(content.unwrap(), b"");
    }

    #[test]
    fn a_name_needs_the_sync_of_its_directory() {
        let events = &begun()[..4];
        assert_eq!(file(events, Kept::Nothing), None);
        assert_eq!(file(events, Kept::Everything).unwrap(), b"old");
    }

    #[test]
    fn a_rename_is_kept_whole_or_not_at_all() {
        let mut events = begun();
        events.push(Event::Create(8, "b".into()));
        events.push(Event::Write(8, 0, b"other".to_vec()));
        events.push(Event::SyncBegun(3, 8, 1));
        events.push(Event::SyncEnded(3));
        events.push(Event::Rename("b".into(), "a".into()));
        assert_eq!(file(&events, Kept::Nothing).unwrap(), b"old");
        assert_eq!(file(&events, Kept::Everything).unwrap(), b"other");
    }

    #[test]
    fn a_torn_write_keeps_whole_sectors() {
        let mut events = begun();
        events.push(Event::Write(FILE, 100, vec![1; 4 * SECTOR]));
        let mut disk = Disk::new(&events, true);
        disk.advance(events.len());
        let place = tempfile::tempdir().unwrap();
        let mut was_torn = false;
        for seed in 0..20 {
            let target = place.path().join(seed.to_string());
            disk.write_to(&target, Kept::AllButLast, &mut Numbers::new(seed)).unwrap();
            let bytes = fs::read(target.join("a")).unwrap();
            for sector in bytes.chunks(SECTOR) {
                let ones = sector.iter().filter(|byte| **byte == 1).count();
                // The first sector is written from byte 100 on, the last up to there.
                assert!([0, 100, SECTOR - 100, SECTOR].contains(&ones), "{ones}");
            }
            was_torn |= bytes.iter().filter(|byte| **byte == 1).count() % (4 * SECTOR) > 0;
        }
        assert!(was_torn);
    }
}
