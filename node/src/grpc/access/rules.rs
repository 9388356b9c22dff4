//! The table of the local socket: each method, what it is called in the journal, who may call it,
//! and whether a second person has to confirm.
//!
//! A method without a line here is refused, and a test fails for it.

use crate::domain::role::Role::{
    self, AuditAdministrator, Convenor, Head, Liaison, MeetingOffice, Observer, Operator, Reviewer,
    SecurityAdministrator, SystemAdministrator,
};

/// Who may call a method.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Audience {
    /// Whoever holds one of these roles.
    Roles(&'static [Role]),
    /// Whoever has an account, and the user that runs the node, and root.
    Host,
}

/// What of the request says for which unit a role has to be held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// The first field of the request is a unit, or a list of units; empty: every hosted unit.
    Unit,
    /// Every hosted unit.
    EveryUnit,
    /// Any of the hosted units: the host is asked as a whole.
    AnyUnit,
}

/// Whether a second person has to confirm, once there are accounts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Confirmation {
    /// Nobody.
    None,
    /// Another account that is system or security administrator.
    Administrator,
    /// The unit's head, unless the caller is it.
    Head,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Full path of the method.
    pub path: &'static str,
    /// Name of the act in the journal.
    pub act: &'static str,
    /// Who may.
    pub audience: Audience,
    /// For which unit.
    pub target: Target,
    /// Who confirms.
    pub confirmation: Confirmation,
    /// Number of the request's field that makes it a dry run, which nobody has to confirm.
    pub dry_run: Option<u32>,
}

impl Rule {
    const fn of_unit(path: &'static str, act: &'static str, may: &'static [Role]) -> Self {
        Self {
            path,
            act,
            audience: Audience::Roles(may),
            target: Target::Unit,
            confirmation: Confirmation::None,
            dry_run: None,
        }
    }

    const fn of_host(path: &'static str, act: &'static str, may: &'static [Role]) -> Self {
        Self { target: Target::EveryUnit, ..Self::of_unit(path, act, may) }
    }

    const fn of_any(path: &'static str, act: &'static str, may: &'static [Role]) -> Self {
        Self { target: Target::AnyUnit, ..Self::of_unit(path, act, may) }
    }

    const fn for_the_host_itself(self) -> Self {
        Self { audience: Audience::Host, ..self }
    }

    const fn confirmed_by(self, confirmation: Confirmation) -> Self {
        Self { confirmation, ..self }
    }

    const fn or_dry_run(self, field: u32) -> Self {
        Self { dry_run: Some(field), ..self }
    }
}

const EVERYONE: &[Role] = &Role::ALL;
const SYSTEM: &[Role] = &[SystemAdministrator];
const SECURITY: &[Role] = &[SecurityAdministrator];
const READS_FIGURES: &[Role] =
    &[Head, Reviewer, Convenor, MeetingOffice, Liaison, Operator, Observer];
const READS_CASES: &[Role] = &[Head, Reviewer, MeetingOffice, Liaison, Operator];
const TAKES_OUT: &[Role] = &[Head, Reviewer, Convenor, MeetingOffice];
const WORKS: &[Role] = &[Head, Liaison, Operator];
const ISSUES: &[Role] = &[Head, MeetingOffice];
const REPORTS: &[Role] = &[Head, Reviewer, Operator];
const AUDITS: &[Role] = &[Head, SecurityAdministrator, AuditAdministrator];
const WATCHES: &[Role] = &[
    Head,
    MeetingOffice,
    Liaison,
    Operator,
    SystemAdministrator,
    SecurityAdministrator,
    AuditAdministrator,
];

/// The line of a method.
pub fn find(path: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.path == path)
}

/// The table.
pub const RULES: &[Rule] = &[
    // NodeService
    Rule::of_unit("/lianxi.admin.v1.NodeService/Invite", "node.invite", SYSTEM)
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(6),
    Rule::of_host("/lianxi.admin.v1.NodeService/Join", "node.join", SYSTEM)
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(2),
    Rule::of_any("/lianxi.admin.v1.NodeService/Status", "node.status", EVERYONE)
        .for_the_host_itself(),
    Rule::of_unit("/lianxi.admin.v1.NodeService/Renew", "node.renew", SYSTEM).or_dry_run(2),
    Rule::of_unit("/lianxi.admin.v1.NodeService/Leave", "node.leave", SYSTEM)
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(4),
    Rule::of_unit("/lianxi.admin.v1.NodeService/Recover", "node.recover", SYSTEM)
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(3),
    Rule::of_unit("/lianxi.admin.v1.NodeService/Units", "node.units", EVERYONE),
    Rule::of_unit("/lianxi.admin.v1.NodeService/AddDesk", "desk.add", SYSTEM)
        .confirmed_by(Confirmation::Administrator),
    Rule::of_unit("/lianxi.admin.v1.NodeService/Quarantine", "quarantine.list", WATCHES),
    Rule::of_unit("/lianxi.admin.v1.NodeService/Revoke", "node.revoke", SECURITY)
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(8),
    // JournalService
    Rule::of_unit("/lianxi.admin.v1.JournalService/Show", "journal.show", AUDITS),
    Rule::of_unit("/lianxi.admin.v1.JournalService/Checkpoint", "journal.checkpoint", AUDITS),
    Rule::of_unit("/lianxi.admin.v1.JournalService/Prove", "journal.prove", WATCHES),
    Rule::of_unit("/lianxi.admin.v1.JournalService/Verify", "journal.verify", AUDITS),
    Rule::of_unit("/lianxi.admin.v1.JournalService/Alarms", "journal.alarms", WATCHES),
    Rule::of_unit("/lianxi.admin.v1.JournalService/Prune", "journal.prune", SYSTEM).or_dry_run(2),
    // RecordService
    Rule::of_host("/lianxi.local.v1.RecordService/Import", "record.import", &[Operator]),
    Rule::of_any("/lianxi.local.v1.RecordService/Count", "record.count", EVERYONE),
    Rule::of_unit("/lianxi.local.v1.RecordService/List", "record.list", REPORTS),
    // CatalogueService
    Rule::of_unit("/lianxi.local.v1.CatalogueService/Publish", "catalogue.publish", ISSUES),
    Rule::of_unit("/lianxi.local.v1.CatalogueService/Show", "catalogue.show", EVERYONE),
    // SummaryService
    Rule::of_unit("/lianxi.local.v1.SummaryService/Publish", "summary.publish", REPORTS),
    Rule::of_unit("/lianxi.local.v1.SummaryService/Show", "summary.show", READS_FIGURES),
    Rule::of_unit("/lianxi.local.v1.SummaryService/Pull", "summary.pull", READS_FIGURES),
    // PackService
    Rule::of_unit("/lianxi.local.v1.PackService/Export", "pack.export", TAKES_OUT),
    Rule::of_unit("/lianxi.local.v1.PackService/RootKey", "pack.root-key", EVERYONE),
    // NoticeService
    Rule::of_unit("/lianxi.local.v1.NoticeService/Issue", "notice.issue", ISSUES),
    Rule::of_unit("/lianxi.local.v1.NoticeService/List", "notice.list", READS_CASES),
    Rule::of_unit("/lianxi.local.v1.NoticeService/Show", "notice.show", READS_CASES),
    Rule::of_unit("/lianxi.local.v1.NoticeService/Mark", "notice.mark", WORKS),
    Rule::of_unit("/lianxi.local.v1.NoticeService/Share", "notice.share", ISSUES).or_dry_run(4),
    // EscalationService
    Rule::of_unit("/lianxi.local.v1.EscalationService/Raise", "escalation.raise", WORKS)
        .confirmed_by(Confirmation::Head),
    Rule::of_unit("/lianxi.local.v1.EscalationService/List", "escalation.list", READS_CASES),
    Rule::of_unit("/lianxi.local.v1.EscalationService/Show", "escalation.show", READS_CASES),
    Rule::of_unit("/lianxi.local.v1.EscalationService/Step", "escalation.step", WORKS),
    Rule::of_unit("/lianxi.local.v1.EscalationService/AddDesk", "escalation.add-desk", WORKS)
        .or_dry_run(4),
    Rule::of_unit("/lianxi.local.v1.EscalationService/Share", "escalation.share", ISSUES)
        .or_dry_run(4),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};

    use super::*;

    /// Packages that the local socket serves; the others are served to other hosts.
    const LOCAL: [&str; 2] = ["lianxi.admin.v1", "lianxi.local.v1"];

    struct Method {
        path: String,
        request: DescriptorProto,
    }

    fn methods() -> Vec<Method> {
        let set = FileDescriptorSet::decode(lianxi_proto::DESCRIPTORS).unwrap();
        let message = |name: &str| {
            let files = set.file.iter().filter(|file| LOCAL.contains(&file.package()));
            let mut messages = files.flat_map(|file| {
                let named = |message: &&DescriptorProto| {
                    name == format!(".{}.{}", file.package(), message.name())
                };
                file.message_type.iter().find(named)
            });
            messages.next().unwrap_or_else(|| panic!("no message {name}")).clone()
        };
        let mut methods = Vec::new();
        for file in set.file.iter().filter(|file| LOCAL.contains(&file.package())) {
            for service in &file.service {
                methods.extend(service.method.iter().map(|method| Method {
                    path: format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                    request: message(method.input_type()),
                }));
            }
        }
        methods
    }

    #[test]
    fn every_method_has_one_line_and_every_line_a_method() {
        let methods: BTreeSet<String> = methods().into_iter().map(|method| method.path).collect();
        let lines: BTreeSet<String> = RULES.iter().map(|rule| rule.path.to_owned()).collect();
        assert!(methods.len() > 20, "only {} methods were found", methods.len());
        assert_eq!(lines, methods, "each method needs a line in grpc/access/rules.rs");
        assert_eq!(lines.len(), RULES.len(), "a method has two lines");
    }

    /// A method that names a unit must not be judged as if it named none, nor the other way about.
    #[test]
    fn the_unit_of_a_request_is_its_first_field() {
        for method in methods() {
            let rule = find(&method.path).unwrap();
            let named = method.request.field.iter().find(|field| {
                matches!(field.name(), "unit" | "units") && field.r#type() == Type::String
            });
            match rule.target {
                Target::Unit => {
                    let field = named.unwrap_or_else(|| panic!("{} names no unit", rule.path));
                    assert_eq!(field.number(), 1, "{}", rule.path);
                }
                Target::EveryUnit | Target::AnyUnit => {
                    assert!(named.is_none(), "{} names a unit", rule.path);
                }
            }
        }
    }

    #[test]
    fn a_dry_run_is_a_field_of_that_name() {
        for method in methods() {
            let rule = find(&method.path).unwrap();
            let Some(number) = rule.dry_run else { continue };
            let mut fields = method.request.field.iter();
            let is_it = fields.any(|field| {
                field.name() == "dry_run" && u32::try_from(field.number()) == Ok(number)
            });
            assert!(is_it, "{}", rule.path);
        }
    }

    #[test]
    fn only_who_changes_something_needs_a_second_person() {
        for rule in RULES.iter().filter(|rule| rule.confirmation != Confirmation::None) {
            let Audience::Roles(may) = rule.audience else { panic!("{}", rule.path) };
            assert!(
                !may.contains(&AuditAdministrator) && !may.contains(&Observer),
                "{}",
                rule.path
            );
        }
    }
}
