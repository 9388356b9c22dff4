//! The end of a grant or of keys before their time.
//!
//! Promises the one rule by which what an ended key signed is still believed: it must be shown to
//! have existed before the end. What the statement says of its own time counts for nothing.

use crate::{
    clock::UnixMillis,
    domain::unit::{DeskId, UnitCode},
};

/// Why something was revoked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// Somebody else may have the keys.
    KeyStolen,
    /// Nobody has the keys any more.
    KeyLost,
    /// They were used for what they are not for.
    Misuse,
    /// The unit or desk is no more.
    Closed,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::KeyStolen, Self::KeyLost, Self::Misuse, Self::Closed];

    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeyStolen => "key-stolen",
            Self::KeyLost => "key-lost",
            Self::Misuse => "misuse",
            Self::Closed => "closed",
        }
    }
}

/// What ends; see `proto/lianxi/types/v1/revocation.proto`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Revocation {
    /// Trust domain of the city.
    pub trust_domain: String,
    /// Unit whose grant or keys end.
    pub unit: UnitCode,
    /// Desk of it; `None`: the unit itself, with its desks.
    pub desk: Option<DeskId>,
    /// Ids of the keys that end.
    pub key_ids: Vec<String>,
    /// Grants up to this serial end; 0: the keys alone.
    pub serial: u64,
    /// From when on the keys may have been in other hands.
    pub compromised_since_unix_ms: Option<UnixMillis>,
    /// Why.
    pub reason: Reason,
    /// For people.
    pub text: String,
}

impl Revocation {
    /// From when on what the keys signed is not believed, if it was revoked at `revoked_unix_ms`.
    pub fn cutoff(&self, revoked_unix_ms: UnixMillis) -> UnixMillis {
        self.compromised_since_unix_ms.map_or(revoked_unix_ms, |since| since.min(revoked_unix_ms))
    }

    /// Unit or desk that it is about, for people and the journal.
    pub fn holder(&self) -> String {
        match &self.desk {
            None => self.unit.to_string(),
            Some(desk) => format!("{}/{desk}", self.unit),
        }
    }

    /// True if it concerns the desk, or the unit itself for `None`.
    pub fn concerns(&self, unit: &UnitCode, desk: Option<&DeskId>) -> bool {
        self.unit == *unit && (self.desk.is_none() || self.desk.as_ref() == desk)
    }
}

/// True if what an ended key signed is believed all the same: a witness, or this unit itself, had
/// it before the end.
pub fn predates(witnessed_unix_ms: Option<UnixMillis>, end_unix_ms: UnixMillis) -> bool {
    witnessed_unix_ms.is_some_and(|witnessed| witnessed < end_unix_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revocation(compromised_since_unix_ms: Option<UnixMillis>) -> Revocation {
        Revocation {
            trust_domain: "boston.example".to_owned(),
            unit: "BOS-01".parse().unwrap(),
            desk: None,
            key_ids: vec!["aa".to_owned()],
            serial: 1,
            compromised_since_unix_ms,
            reason: Reason::KeyStolen,
            text: String::new(),
        }
    }

    #[test]
    fn a_theft_counts_from_when_it_was_and_never_later_than_the_revocation() {
        assert_eq!(revocation(None).cutoff(100), 100);
        assert_eq!(revocation(Some(40)).cutoff(100), 40);
        assert_eq!(revocation(Some(400)).cutoff(100), 100);
    }

    #[test]
    fn only_what_is_witnessed_before_the_end_predates_it() {
        assert!(predates(Some(99), 100));
        assert!(!predates(Some(100), 100));
        assert!(!predates(None, 100));
    }

    #[test]
    fn a_units_revocation_concerns_its_desks_and_a_desks_nobody_else() {
        let (unit, desk): (UnitCode, DeskId) = ("BOS-01".parse().unwrap(), "FIRE".parse().unwrap());
        assert!(revocation(None).concerns(&unit, None));
        assert!(revocation(None).concerns(&unit, Some(&desk)));
        assert!(!revocation(None).concerns(&"BOS-02".parse().unwrap(), None));
        let of_desk = Revocation { desk: Some(desk.clone()), ..revocation(None) };
        assert!(of_desk.concerns(&unit, Some(&desk)) && !of_desk.concerns(&unit, None));
    }
}
