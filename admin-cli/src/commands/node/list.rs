//! The file by which the units of a host join at once: a CSV table that people make, and the same
//! table with a token per unit that the parent makes of it.
//!
//! Promises that a mistake is told with its line, that parents come before children, and that a
//! file with tokens is never readable by others and never overwritten. Talks to no node.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::Context as _;
use lianxi_node::domain::unit::{Level, UnitCode};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// One line as it stands in the file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Row {
    code: String,
    level: String,
    title: String,
    #[serde(default)]
    parent: String,
    #[serde(default)]
    token: String,
}

/// A unit that is to join.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Line in the file, from 1.
    pub(crate) line: u64,
    /// Its code.
    pub(crate) unit: UnitCode,
    /// Its level.
    pub(crate) level: Level,
    /// Its title.
    pub(crate) title: String,
    /// Its parent; `None`: not stated.
    pub(crate) parent: Option<UnitCode>,
    /// Its token; `None`: its parent is another unit of the file, whose host invites it itself.
    pub(crate) token: Option<String>,
}

/// Units that are to join, parents before children.
#[derive(Clone, Debug)]
pub(crate) struct List(Vec<Entry>);

impl List {
    /// Reads a table.
    ///
    /// # Errors
    ///
    /// The file cannot be read; a line is wrong; a unit stands in it twice, or below a unit of the
    /// file that is not of a higher level.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let parsed = Self::parse(&bytes);
        parsed.map_err(|reason| Failure::Usage(format!("{}: {reason}", path.display())).into())
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        // A spreadsheet program puts a mark before UTF-8.
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
        let headers = reader.headers().map_err(|error| error.to_string())?.clone();
        for column in ["code", "level", "title"] {
            if !headers.iter().any(|header| header == column) {
                return Err(format!("line 1: no column {column:?}; it needs code, level, title"));
            }
        }
        let mut entries = Vec::new();
        let mut record = csv::StringRecord::new();
        while reader.read_record(&mut record).map_err(|error| error.to_string())? {
            let line = record.position().map_or(0, csv::Position::line);
            let row: Row = record
                .deserialize(Some(&headers))
                .map_err(|error| format!("line {line}: {error}"))?;
            entries.push(entry(line, row).map_err(|reason| format!("line {line}: {reason}"))?);
        }
        if entries.is_empty() {
            return Err("no unit stands in it".to_owned());
        }
        check_places(&entries)?;
        // Stable: beside that, units keep the order of the file.
        entries.sort_by_key(|entry| entry.level);
        Ok(Self(entries))
    }

    /// The units, parents before children.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// The units for changing.
    pub(crate) fn entries_mut(&mut self) -> &mut [Entry] {
        &mut self.0
    }

    /// Codes of the units.
    pub(crate) fn units(&self) -> BTreeSet<UnitCode> {
        self.0.iter().map(|entry| entry.unit.clone()).collect()
    }

    /// The units in groups: every parent that stands in the file is in an earlier group than its
    /// children.
    pub(crate) fn generations(&self) -> Vec<Vec<&Entry>> {
        let mut levels: BTreeMap<Level, Vec<&Entry>> = BTreeMap::new();
        for entry in &self.0 {
            levels.entry(entry.level).or_default().push(entry);
        }
        levels.into_values().collect()
    }

    /// Writes the table with its tokens to a new file that its owner alone can read.
    ///
    /// # Errors
    ///
    /// The file is there already, or cannot be written.
    pub(crate) fn write_new(&self, path: &Path) -> anyhow::Result<()> {
        let file = create(path)?;
        let mut writer = csv::Writer::from_writer(file);
        for entry in &self.0 {
            writer.serialize(Row {
                code: entry.unit.to_string(),
                level: entry.level.to_string(),
                title: entry.title.clone(),
                parent: entry.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
                token: entry.token.clone().unwrap_or_default(),
            })?;
        }
        let mut file = writer.into_inner().map_err(|error| error.into_error())?;
        let written = file.flush().and_then(|()| file.sync_all());
        written.with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Makes the file of the tokens, before any of them is made.
fn create(path: &Path) -> anyhow::Result<fs::File> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match file {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(exists(path).into()),
        file => file.with_context(|| format!("cannot write {}", path.display())),
    }
}

/// The file is not to be overwritten: the tokens in it may be on their way.
pub(crate) fn exists(path: &Path) -> Failure {
    let path = path.display();
    Failure::Usage(format!("{path} is there already; name another file with --out"))
}

fn entry(line: u64, row: Row) -> Result<Entry, String> {
    let unit = |text: &str| {
        text.parse::<UnitCode>().map_err(|error| format!("{text:?} is no code: {error}"))
    };
    if row.title.is_empty() {
        return Err("the title is empty".to_owned());
    }
    Ok(Entry {
        line,
        unit: unit(&row.code)?,
        level: row.level.parse().map_err(|error| format!("{:?}: {error}", row.level))?,
        title: row.title,
        parent: Some(row.parent)
            .filter(|code| !code.is_empty())
            .map(|code| unit(&code))
            .transpose()?,
        token: Some(row.token).filter(|token| !token.is_empty()),
    })
}

/// No unit twice, and parents of the file above their children.
fn check_places(entries: &[Entry]) -> Result<(), String> {
    let mut levels = BTreeMap::new();
    for entry in entries {
        if let Some((_, line)) = levels.insert(&entry.unit, (entry.level, entry.line)) {
            return Err(format!("line {}: {} stands in line {line} too", entry.line, entry.unit));
        }
    }
    for entry in entries {
        let above = entry.parent.as_ref().and_then(|parent| Some((parent, levels.get(parent)?)));
        if let Some((parent, (level, line))) = above
            && !level.is_above(entry.level)
        {
            let Entry { line: at, unit, level: own, .. } = entry;
            return Err(format!(
                "line {at}: {unit}, a {own}, cannot be below {parent}, a {level} by line {line}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn fault(text: &str) -> String {
        List::parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn parents_come_first_wherever_they_stand() {
        let text = "\u{FEFF}code,level,title,parent\nA-1-1,community, One ,A-1\nA-1,street,S,\n";
        let list = List::parse(text.as_bytes()).unwrap();
        let codes: Vec<&str> = list.entries().iter().map(|entry| entry.unit.as_str()).collect();
        assert_eq!(codes, ["A-1", "A-1-1"]);
        assert_eq!(list.entries()[1].title, "One");
        assert_eq!(list.generations().len(), 2);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        assert!(fault("code,title\nA,B\n").contains("no column \"level\""));
        assert!(fault("code,level,title\nA-1,county,S\n").starts_with("line 2"));
        assert!(fault("code,level,title\nA-1,street,\n").contains("line 2: the title is empty"));
        assert!(fault("code,level,title\na b,street,S\n").contains("is no code"));
        assert!(fault("code,level,title,colour\nA-1,street,S,red\n").contains("colour"));
        let twice = "code,level,title\nA-1,street,S\nA-2,street,S\nA-1,street,S\n";
        assert!(fault(twice).contains("line 4: A-1 stands in line 2 too"));
        let upside_down = "code,level,title,parent\nA-1,street,S,A-1-1\nA-1-1,community,C,\n";
        assert!(fault(upside_down).contains("line 2: A-1, a street, cannot be below A-1-1"));
        assert!(fault("code,level,title\n").contains("no unit"));
    }

    #[test]
    fn tokens_are_for_their_owner_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("join.csv");
        let mut list = List::parse(b"code,level,title\nA-1,street,S\n").unwrap();
        list.entries_mut()[0].token = Some("lianxi1.secret".to_owned());
        list.write_new(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = List::read(&path).unwrap();
        assert_eq!(again.entries()[0].token.as_deref(), Some("lianxi1.secret"));
        assert!(list.write_new(&path).unwrap_err().to_string().contains("there already"));
    }
}
