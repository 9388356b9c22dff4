//! Roles of people, and which of them one person may hold.
//!
//! A role of a unit holds for that unit and for those below it on the same host. The three
//! administrators belong to the host, and no account holds two of them. Knows no accounts.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::unit::UnitCode;

/// What a person is, for a unit or for the host.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// 负责人: approves, signs, delegates.
    Head,
    /// 审核人: reviews before the head signs.
    Reviewer,
    /// 召集人: convenes the joint meeting.
    Convenor,
    /// 联席办: runs the meeting's business, issues tasks.
    MeetingOffice,
    /// 联络员: stands for a unit towards others.
    Liaison,
    /// 经办人: enters, imports, prepares.
    Operator,
    /// 查阅人员: reads.
    Observer,
    /// 系统管理员: runs the host, makes and closes accounts.
    SystemAdministrator,
    /// 安全管理员: confirms, grants roles, locks.
    SecurityAdministrator,
    /// 审计管理员: reads the journal and changes nothing.
    AuditAdministrator,
}

/// Why roles were not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// No such role.
    #[error("{0:?} is no role: use one of {known}", known = Role::ALL.map(Role::as_str).join(", "))]
    Unknown(String),
    /// An administrator of a unit.
    #[error("{} belongs to the host: grant it without a unit", .0.as_str())]
    OfTheHost(Role),
    /// A role without its unit.
    #[error("{} is a role of a unit: name the unit", .0.as_str())]
    OfAUnit(Role),
    /// Two of the three administrators.
    #[error(
        "no account holds two of the three administrators, here {} and {}: give one of them to \
         another person",
        .0.as_str(), .1.as_str()
    )]
    TwoAdministrators(Role, Role),
    /// Whoever audits does not act.
    #[error(
        "the audit administrator changes nothing and holds no role but observer, not {}: give it \
         to another person",
        .0.as_str()
    )]
    AuditorActs(Role),
}

impl Role {
    /// Every role, those of units first.
    pub const ALL: [Self; 10] = [
        Self::Head,
        Self::Reviewer,
        Self::Convenor,
        Self::MeetingOffice,
        Self::Liaison,
        Self::Operator,
        Self::Observer,
        Self::SystemAdministrator,
        Self::SecurityAdministrator,
        Self::AuditAdministrator,
    ];

    /// Fixed word of commands and the contract.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Reviewer => "reviewer",
            Self::Convenor => "convenor",
            Self::MeetingOffice => "meeting-office",
            Self::Liaison => "liaison",
            Self::Operator => "operator",
            Self::Observer => "observer",
            Self::SystemAdministrator => "system-administrator",
            Self::SecurityAdministrator => "security-administrator",
            Self::AuditAdministrator => "audit-administrator",
        }
    }

    /// True for the three that belong to the host.
    pub const fn is_administrator(self) -> bool {
        matches!(
            self,
            Self::SystemAdministrator | Self::SecurityAdministrator | Self::AuditAdministrator
        )
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let role = Self::ALL.into_iter().find(|role| role.as_str() == text);
        role.ok_or_else(|| Error::Unknown(text.to_owned()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A role with what it is for.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// Its unit; `None`: the host.
    pub unit: Option<UnitCode>,
}

impl Grant {
    /// A role of a unit, or an administrator of the host.
    ///
    /// # Errors
    ///
    /// [`Error::OfTheHost`], [`Error::OfAUnit`].
    pub fn new(role: Role, unit: Option<UnitCode>) -> Result<Self, Error> {
        match (&unit, role.is_administrator()) {
            (Some(_), true) => Err(Error::OfTheHost(role)),
            (None, false) => Err(Error::OfAUnit(role)),
            (Some(_), false) | (None, true) => Ok(Self { role, unit }),
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.unit {
            Some(unit) => write!(formatter, "{} of {unit}", self.role),
            None => write!(formatter, "{}", self.role),
        }
    }
}

/// Checks that one account may hold all of `grants`.
///
/// # Errors
///
/// [`Error::TwoAdministrators`], [`Error::AuditorActs`].
pub fn check_together(grants: &BTreeSet<Grant>) -> Result<(), Error> {
    let administrators: BTreeSet<Role> =
        grants.iter().map(|grant| grant.role).filter(|role| role.is_administrator()).collect();
    let mut both = administrators.iter();
    if let (Some(one), Some(other)) = (both.next(), both.next()) {
        return Err(Error::TwoAdministrators(*one, *other));
    }
    let audits = administrators.contains(&Role::AuditAdministrator);
    let acts = |grant: &&Grant| !matches!(grant.role, Role::AuditAdministrator | Role::Observer);
    match grants.iter().find(acts) {
        Some(grant) if audits => Err(Error::AuditorActs(grant.role)),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(grants: &[(Role, Option<&str>)]) -> BTreeSet<Grant> {
        let grant = |(role, unit): &(Role, Option<&str>)| {
            Grant::new(*role, unit.map(|unit| unit.parse().unwrap())).unwrap()
        };
        grants.iter().map(grant).collect()
    }

    #[test]
    fn no_two_of_the_three_administrators_go_together() {
        let three =
            [Role::SystemAdministrator, Role::SecurityAdministrator, Role::AuditAdministrator];
        for one in three {
            assert_eq!(check_together(&held(&[(one, None)])), Ok(()));
            for other in three.into_iter().filter(|other| *other != one) {
                let refused = check_together(&held(&[(one, None), (other, None)]));
                assert!(matches!(refused, Err(Error::TwoAdministrators(..))), "{one} {other}");
            }
        }
    }

    #[test]
    fn whoever_audits_reads_and_does_nothing_else() {
        let audit = (Role::AuditAdministrator, None);
        assert_eq!(check_together(&held(&[audit, (Role::Observer, Some("A"))])), Ok(()));
        let refused = check_together(&held(&[audit, (Role::Operator, Some("A"))]));
        assert_eq!(refused, Err(Error::AuditorActs(Role::Operator)));
    }

    #[test]
    fn administrators_belong_to_the_host_and_the_others_to_a_unit() {
        let unit: UnitCode = "A".parse().unwrap();
        for role in Role::ALL {
            let of_host = Grant::new(role, None).is_ok();
            assert_eq!(of_host, role.is_administrator(), "{role}");
            assert_ne!(of_host, Grant::new(role, Some(unit.clone())).is_ok(), "{role}");
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().is_err());
    }
}
