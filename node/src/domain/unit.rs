//! Units and desks: their codes and levels.
//!
//! Hierarchy is never read from the characters of a code: it comes from delegations alone.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Why a code or level was not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Empty or too long.
    #[error("a code has 1 to 40 characters, not {0}")]
    Length(usize),
    /// A character outside the alphabet.
    #[error("a code holds A-Z, 0-9 and single inner '-', not {0:?}")]
    Character(char),
    /// Not one of the four levels.
    #[error("{0:?} is no level: use city, district, street or community")]
    Level(String),
}

/// Code of a unit: 1 to 40 of `A-Z`, `0-9`, with single `-` inside.
///
/// GB/T 2260 codes with their extensions fit (`310101002003`), and so do other cities' (`BOS-01`).
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitCode(Arc<str>);

impl UnitCode {
    /// The code as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// False if both codes are those of administrative divisions (GB/T 2260: six digits, zeros at the
    /// end for what is not divided further, then three and three) and this one lies elsewhere than
    /// below `above`. Of other codes nothing can be said.
    pub fn may_be_below(&self, above: &Self) -> bool {
        let is_division = |code: &Self| {
            code.0.len() >= 6 && code.0.bytes().all(|character| character.is_ascii_digit())
        };
        if !is_division(self) || !is_division(above) {
            return true;
        }
        let mut stem = above.as_str();
        if stem.len() == 6 {
            stem = stem.strip_suffix("0000").or_else(|| stem.strip_suffix("00")).unwrap_or(stem);
        }
        self.0.starts_with(stem)
    }
}

fn check(text: &str) -> Result<(), Error> {
    if text.is_empty() || text.len() > 40 {
        return Err(Error::Length(text.len()));
    }
    let mut previous = '-';
    for character in text.chars() {
        let inner_dash = character == '-' && previous != '-';
        if !(character.is_ascii_uppercase() || character.is_ascii_digit() || inner_dash) {
            return Err(Error::Character(character));
        }
        previous = character;
    }
    if previous == '-' { Err(Error::Character('-')) } else { Ok(()) }
}

impl FromStr for UnitCode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        check(text)?;
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for UnitCode {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<UnitCode> for String {
    fn from(code: UnitCode) -> Self {
        code.0.as_ref().to_owned()
    }
}

impl fmt::Display for UnitCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for UnitCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Id of a desk, unique within its unit; the same alphabet as [`UnitCode`].
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeskId(String);

impl DeskId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeskId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        check(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for DeskId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<DeskId> for String {
    fn from(desk: DeskId) -> Self {
        desk.0
    }
}

impl fmt::Display for DeskId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// One of the four levels, the highest first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// 市
    City = 1,
    /// 区
    District = 2,
    /// 街道 (乡镇)
    Street = 3,
    /// 社区 (村)
    Community = 4,
}

impl Level {
    /// True if `self` stands above `other`.
    pub fn is_above(self, other: Self) -> bool {
        (self as u8) < (other as u8)
    }

    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::City => "city",
            Self::District => "district",
            Self::Street => "street",
            Self::Community => "community",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Level {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "city" => Ok(Self::City),
            "district" => Ok(Self::District),
            "street" => Ok(Self::Street),
            "community" => Ok(Self::Community),
            other => Err(Error::Level(other.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_china_and_boston_are_accepted() {
        for code in ["310101002003", "BOS", "BOS-15-W22-2213"] {
            assert_eq!(code.parse::<UnitCode>().unwrap().as_str(), code);
        }
    }

    #[test]
    fn codes_that_could_be_read_as_something_else_are_refused() {
        for code in ["", "-A", "A-", "A--B", "a", "A/B", "A B", "A.B", "市", &"A".repeat(41)] {
            assert!(code.parse::<UnitCode>().is_err(), "{code:?} was accepted");
        }
    }

    #[test]
    fn a_code_of_a_division_says_what_it_can_be_below() {
        let may = |code: &str, above: &str| {
            let above: UnitCode = above.parse().unwrap();
            code.parse::<UnitCode>().unwrap().may_be_below(&above)
        };
        assert!(may("310101", "310000") && may("310101002", "310101"));
        assert!(may("440305", "440300") && may("310101002003", "310101002"));
        assert!(!may("320101", "310000") && !may("440105", "440300"));
        assert!(!may("310104002", "310101"));
        assert!(may("BOS-15", "310000") && may("310101", "BOS"), "nothing can be said");
    }

    #[test]
    fn levels_are_ordered_from_the_city_down() {
        assert!(Level::City.is_above(Level::District));
        assert!(Level::Street.is_above(Level::Community));
        assert!(!Level::Street.is_above(Level::Street));
    }
}
