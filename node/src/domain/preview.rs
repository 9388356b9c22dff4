//! What a peer's program says that it speaks, and what a change here would do to it.
//!
//! Promises to call nothing fine that nobody said: a program that does not say what it is, or was
//! never heard, stays unknown. Must not guess from a name what a program speaks.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::catalogue::{self, Catalogue};

/// The only version of the link's protocol so far.
pub const PROTOCOL: u32 = 1;

/// Longest name of a program in a hello, in bytes.
pub const MAX_SOFTWARE_BYTES: usize = 64;

/// Versions of the link's protocol, both included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Protocols {
    /// Lowest.
    pub lowest: u32,
    /// Highest.
    pub highest: u32,
}

impl Protocols {
    /// What this program speaks.
    pub const OWN: Self = Self { lowest: PROTOCOL, highest: PROTOCOL };

    /// True if both have a version in common.
    pub fn meet(self, other: Self) -> bool {
        self.lowest.max(other.lowest) <= self.highest.min(other.highest)
    }
}

/// What one side of a link says of its program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Program {
    /// Name and version; empty: it does not say.
    pub software: String,
    /// What it speaks on a link.
    pub protocols: Protocols,
    /// Highest format of a catalogue's document that it reads; 0: it does not say.
    pub catalogue_format: u32,
}

impl Program {
    /// This program.
    pub fn own() -> Self {
        Self {
            software: format!("lianxi-node/{}", env!("CARGO_PKG_VERSION")),
            protocols: Protocols::OWN,
            catalogue_format: catalogue::FORMAT,
        }
    }
}

/// What a change would do to a child.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outlook {
    /// It goes on.
    Fine,
    /// Nobody knows: its program does not say, or was never heard.
    Unknown,
    /// It breaks.
    Breaks,
}

impl Outlook {
    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Unknown => "unknown",
            Self::Breaks => "breaks",
        }
    }

    /// Of the link, once this unit speaks `planned` only.
    pub fn of_protocols(program: Option<&Program>, planned: Protocols) -> Self {
        match program {
            Some(program) if !program.protocols.meet(planned) => Self::Breaks,
            Some(program) if !program.software.is_empty() => Self::Fine,
            Some(_) | None => Self::Unknown,
        }
    }

    /// Of a catalogue of this format, once it is sent.
    pub fn of_format(program: Option<&Program>, format: u32) -> Self {
        match program.map_or(0, |program| program.catalogue_format) {
            0 => Self::Unknown,
            reads if reads < format => Self::Breaks,
            _ => Self::Fine,
        }
    }
}

/// Indicators by id, in the version that was reported.
pub type Reported = BTreeMap<String, u32>;

/// Series that end or begin anew with a catalogue.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BrokenSeries {
    /// Indicators that it does not have.
    pub removed: BTreeSet<String>,
    /// Indicators that it has in another version: figures of unlike versions never add up.
    pub changed: BTreeSet<String>,
}

impl BrokenSeries {
    /// What `catalogue` breaks of the series that were reported.
    pub fn of(reported: &Reported, catalogue: &Catalogue) -> Self {
        let mut broken = Self::default();
        for (id, version) in reported {
            match catalogue.indicator(id) {
                None => broken.removed.insert(id.clone()),
                Some(declared) if declared.version != *version => broken.changed.insert(id.clone()),
                Some(_) => continue,
            };
        }
        broken
    }

    /// True if every series goes on.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.changed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(software: &str, lowest: u32, highest: u32, catalogue_format: u32) -> Program {
        let protocols = Protocols { lowest, highest };
        Program { software: software.to_owned(), protocols, catalogue_format }
    }

    #[test]
    fn a_link_breaks_without_a_common_version_at_either_end() {
        let planned = Protocols { lowest: 3, highest: 4 };
        let of = |lowest, highest| {
            Outlook::of_protocols(Some(&program("p/1", lowest, highest, 1)), planned)
        };
        assert_eq!(of(1, 2), Outlook::Breaks);
        assert_eq!(of(1, 3), Outlook::Fine);
        assert_eq!(of(4, 9), Outlook::Fine);
        assert_eq!(of(5, 9), Outlook::Breaks);
    }

    #[test]
    fn who_says_nothing_is_unknown_and_never_fine() {
        let own = Protocols::OWN;
        assert_eq!(Outlook::of_protocols(None, own), Outlook::Unknown);
        assert_eq!(Outlook::of_protocols(Some(&program("", 1, 1, 0)), own), Outlook::Unknown);
        assert_eq!(Outlook::of_format(None, 1), Outlook::Unknown);
        assert_eq!(Outlook::of_format(Some(&program("p/1", 1, 1, 0)), 1), Outlook::Unknown);
        // What it does say holds against it.
        let later = Protocols { lowest: 2, highest: 2 };
        assert_eq!(Outlook::of_protocols(Some(&program("", 1, 1, 0)), later), Outlook::Breaks);
    }

    #[test]
    fn a_catalogue_of_a_later_format_breaks_who_reads_earlier_ones() {
        let of = |reads, format| Outlook::of_format(Some(&program("p/1", 1, 1, reads)), format);
        assert_eq!(of(1, 1), Outlook::Fine);
        assert_eq!(of(1, 2), Outlook::Breaks);
        assert_eq!(of(3, 2), Outlook::Fine);
    }
}
