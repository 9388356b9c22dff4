//! Tokens that `join --file` asked for itself, kept beside the file until all its units are in.
//!
//! A command that is cut off between a parent's yes and the child's first row can only go on with
//! the very token: the parent takes the unit for joined, and invites it no more.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use lianxi_node::domain::unit::UnitCode;

/// The tokens beside one file.
#[derive(Debug)]
pub(super) struct Asked {
    path: PathBuf,
}

impl Asked {
    /// Those of `file`: in `FILE.tokens`, which only its owner can read.
    pub(super) fn beside(file: &Path) -> Self {
        let mut path = file.as_os_str().to_owned();
        path.push(".tokens");
        Self { path: path.into() }
    }

    /// Keeps the token of a unit before it is used.
    pub(super) fn keep(&self, unit: &UnitCode, token: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        // One line is one write: other units' lines are written at the same time.
        file.write_all(format!("{unit},{token}\n").as_bytes())?;
        file.sync_all()?;
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
    }

    /// The last token that was asked for a unit.
    pub(super) fn token(&self, unit: &UnitCode) -> Option<String> {
        let text = fs::read_to_string(&self.path).ok()?;
        let mut lines = text.lines().rev().filter_map(|line| line.split_once(','));
        lines.find(|(of, _)| *of == unit.as_str()).map(|(_, token)| token.to_owned())
    }

    /// All units are in.
    pub(super) fn forget(&self) {
        // What is left behind is spent.
        let _ = fs::remove_file(&self.path);
    }
}
