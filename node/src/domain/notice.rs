//! Notices: what a valid one holds, who has to act, and how its receipts advance.

use crate::{
    clock::UnixMillis,
    domain::{
        personal,
        unit::{Level, UnitCode},
    },
};

/// Why a notice or receipt was not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// A text is empty or too long.
    #[error("{field} has {length} bytes, 1 to {limit} are allowed")]
    Length {
        /// The field.
        field: &'static str,
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// Looks like personal data.
    #[error(
        "{field} seems to hold {what}: a notice carries no personal data, refer to a case number"
    )]
    PersonalData {
        /// The field.
        field: &'static str,
        /// What it looks like.
        what: &'static str,
    },
    /// Cites nothing that lets a unit take it on.
    #[error("name an item of the duty list (duty_item) or a live approval (approval)")]
    NoAuthority,
    /// The unit has to act after the time has come.
    #[error("the due time has passed")]
    Due,
    /// A stage that does not follow the one before.
    #[error("stage {to} does not follow {from}")]
    Stage {
        /// Stage reached.
        from: &'static str,
        /// Stage asked for.
        to: &'static str,
    },
}

/// A task sent downward.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notice {
    /// Number that people say.
    pub number: String,
    /// Title.
    pub title: String,
    /// Text.
    pub text: String,
    /// Level of the units that have to act.
    pub level: Level,
    /// Item of the duty list, or empty.
    pub duty_item: String,
    /// Number of an approval, or empty.
    pub approval: String,
    /// When it has to be done.
    pub due_unix_ms: UnixMillis,
    /// Authority that comes with it.
    pub authority: String,
    /// People that come with it.
    pub people: String,
    /// Money that comes with it.
    pub funds: String,
}

impl Notice {
    /// Checks what the contract asks of every notice, wherever it is.
    ///
    /// # Errors
    ///
    /// The first field that does not hold.
    pub fn check(&self) -> Result<(), Error> {
        for (field, text, least, limit) in [
            ("number", &self.number, 1, 64),
            ("title", &self.title, 1, 200),
            ("text", &self.text, 0, 4_096),
            ("duty_item", &self.duty_item, 0, 64),
            ("approval", &self.approval, 0, 64),
            ("authority", &self.authority, 0, 1_024),
            ("people", &self.people, 0, 1_024),
            ("funds", &self.funds, 0, 1_024),
        ] {
            if text.len() < least || text.len() > limit {
                return Err(Error::Length { field, length: text.len(), limit });
            }
        }
        if self.duty_item.is_empty() && self.approval.is_empty() {
            return Err(Error::NoAuthority);
        }
        Ok(())
    }

    /// Checks what is asked of a new one beside [`Self::check`]: nothing personal, not yet due.
    ///
    /// # Errors
    ///
    /// The first field that does not hold.
    pub fn check_new(&self, now: UnixMillis) -> Result<(), Error> {
        self.check()?;
        for (field, text) in [
            ("title", &self.title),
            ("text", &self.text),
            ("authority", &self.authority),
            ("people", &self.people),
            ("funds", &self.funds),
        ] {
            if let Some(what) = personal::find(text) {
                return Err(Error::PersonalData { field, what });
            }
        }
        if self.due_unix_ms <= now { Err(Error::Due) } else { Ok(()) }
    }
}

/// Stage of a notice at one unit that has to act.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Stage {
    /// 已送达
    Durable = 1,
    /// 已校验
    Validated = 2,
    /// 已签收
    Seen = 3,
    /// 已办结
    Done = 4,
    /// 不予准入
    Refused = 5,
}

impl Stage {
    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Validated => "validated",
            Self::Seen => "seen",
            Self::Done => "done",
            Self::Refused => "refused",
        }
    }

    /// True if a receipt of `self` says more than one of `before`.
    pub fn supersedes(self, before: Option<Self>) -> bool {
        match before {
            None => true,
            Some(Self::Refused | Self::Done) => false,
            Some(before) => self > before,
        }
    }

    /// Checks that a person may mark `self` after `before`.
    ///
    /// # Errors
    ///
    /// [`Error::Stage`] if the stage does not follow.
    pub fn check_follows(self, before: Option<Self>) -> Result<(), Error> {
        let allowed = match self {
            Self::Seen => before == Some(Self::Validated),
            Self::Done => matches!(before, Some(Self::Validated | Self::Seen)),
            Self::Durable | Self::Validated | Self::Refused => false,
        };
        if allowed {
            return Ok(());
        }
        let from = before.map_or("nothing", Self::as_str);
        Err(Error::Stage { from, to: self.as_str() })
    }
}

/// A signed stage.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Receipt {
    /// Header id of the notice.
    pub notice_id: [u8; 16],
    /// Stage.
    pub stage: Stage,
    /// Rule that refused it.
    pub reason: String,
    /// What was done.
    pub note: String,
}

/// What a receiving unit decides about a notice: the receiver decides admission.
///
/// `duty_items` and `approvals` are those of the catalogue in force at the receiver.
///
/// # Errors
///
/// The fixed word of the refusal.
pub fn admit(
    notice: &Notice,
    has_duty_item: impl Fn(&str) -> bool,
    has_approval: impl Fn(&str) -> bool,
) -> Result<(), &'static str> {
    if !notice.duty_item.is_empty() && has_duty_item(&notice.duty_item) {
        return Ok(());
    }
    if !notice.approval.is_empty() {
        return if has_approval(&notice.approval) { Ok(()) } else { Err("approval-unknown") };
    }
    Err("outside-duty-list")
}

/// Where a unit stands towards a notice for the units of `level` under `destination`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Route {
    /// The unit itself has to act.
    pub addressed: bool,
    /// Direct children that get it.
    pub children: Vec<UnitCode>,
}

/// A direct child as routing sees it.
#[derive(Clone, Debug)]
pub struct RouteChild {
    /// The child.
    pub unit: UnitCode,
    /// Its level.
    pub level: Level,
    /// True if the destination is the child or below it.
    pub holds_destination: bool,
}

/// Routes a notice at one unit. `in_destination`: the unit is the destination or below it.
pub fn route(
    own_level: Level,
    in_destination: bool,
    level: Level,
    children: impl IntoIterator<Item = RouteChild>,
) -> Route {
    let addressed = in_destination && own_level == level;
    let reaches = |child: &RouteChild| {
        if in_destination { !level.is_above(child.level) } else { child.holds_destination }
    };
    let children = children.into_iter().filter(reaches).map(|child| child.unit).collect();
    Route { addressed, children }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice() -> Notice {
        Notice {
            number: "〔2026〕17号".into(),
            title: "clear fire exits".into(),
            text: String::new(),
            level: Level::Community,
            duty_item: "fire-exits".into(),
            approval: String::new(),
            due_unix_ms: 1_000,
            authority: String::new(),
            people: String::new(),
            funds: String::new(),
        }
    }

    #[test]
    fn a_notice_without_duty_item_or_approval_is_refused() {
        let bare = Notice { duty_item: String::new(), ..notice() };
        assert_eq!(bare.check(), Err(Error::NoAuthority));
    }

    #[test]
    fn a_new_notice_holds_no_personal_data_and_is_not_due_yet() {
        notice().check_new(999).unwrap();
        assert_eq!(notice().check_new(1_000), Err(Error::Due));
        let text = "call 13812345678".to_owned();
        let personal = Notice { text, ..notice() };
        assert!(matches!(personal.check_new(0), Err(Error::PersonalData { field: "text", .. })));
    }

    #[test]
    fn the_receiver_admits_listed_items_and_live_approvals_only() {
        assert_eq!(admit(&notice(), |item| item == "fire-exits", |_| false), Ok(()));
        assert_eq!(admit(&notice(), |_| false, |_| true), Err("outside-duty-list"));
        let approved = Notice { approval: "A-7".into(), ..notice() };
        assert_eq!(admit(&approved, |_| false, |number| number == "A-7"), Ok(()));
        assert_eq!(admit(&approved, |_| false, |_| false), Err("approval-unknown"));
    }

    #[test]
    fn stages_only_advance() {
        assert!(Stage::Validated.supersedes(None));
        assert!(Stage::Seen.supersedes(Some(Stage::Validated)));
        assert!(!Stage::Validated.supersedes(Some(Stage::Seen)));
        assert!(!Stage::Refused.supersedes(Some(Stage::Done)));
        assert!(!Stage::Done.supersedes(Some(Stage::Refused)));
        Stage::Done.check_follows(Some(Stage::Validated)).unwrap();
        Stage::Seen.check_follows(Some(Stage::Done)).unwrap_err();
        Stage::Done.check_follows(Some(Stage::Refused)).unwrap_err();
        Stage::Validated.check_follows(None).unwrap_err();
    }

    fn child(unit: &str, level: Level, holds_destination: bool) -> RouteChild {
        RouteChild { unit: unit.parse().unwrap(), level, holds_destination }
    }

    #[test]
    fn above_the_destination_only_its_branch_gets_the_notice() {
        let children = [child("D-1", Level::District, false), child("D-2", Level::District, true)];
        let route = route(Level::City, false, Level::Community, children);
        assert_eq!(route, Route { addressed: false, children: vec!["D-2".parse().unwrap()] });
    }

    #[test]
    fn inside_the_destination_it_stops_at_its_level() {
        let children = [child("S-1", Level::Street, false)];
        let at_district = route(Level::District, true, Level::Street, children);
        assert_eq!(at_district.children.len(), 1);
        let children = [child("C-1", Level::Community, false)];
        let at_street = route(Level::Street, true, Level::Street, children);
        assert_eq!(at_street, Route { addressed: true, children: Vec::new() });
    }
}
