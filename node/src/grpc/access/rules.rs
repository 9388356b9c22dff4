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
    /// Whoever has an account, and logged in to it.
    Person,
    /// Whomever the socket lets in.
    Anyone,
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
    /// True if the request's field `dry_run` lets it only try, which nobody has to confirm.
    pub dry_run: bool,
    /// Fields of the request that say what the act is done to, none of them secret.
    pub subject: &'static [&'static str],
}

/// Methods with which a unit that merges into another, or has, is still looked at and looked after.
const OF_ENDED: &[&str] = &[
    "NodeService/Units",
    "NodeService/Quarantine",
    "NodeService/Epochs",
    "NodeService/Renew",
    "ReformService/List",
    "CourierService/Export",
    "CourierService/Status",
    "JournalService/Show",
    "JournalService/Checkpoint",
    "JournalService/Prove",
    "JournalService/Verify",
    "JournalService/Alarms",
    "JournalService/Prune",
    "RecordService/List",
    "CatalogueService/Show",
    "SummaryService/Show",
    "SummaryService/Pull",
    "PackService/Export",
    "PackService/RootKey",
    "PackService/Revocations",
    "NoticeService/List",
    "NoticeService/Show",
    "EscalationService/List",
    "EscalationService/Show",
];

impl Rule {
    /// True if the method may be called for a unit that has merged into another.
    pub fn is_of_ended(&self) -> bool {
        let method = self.path.rsplit_once('.').map_or(self.path, |(_, method)| method);
        OF_ENDED.contains(&method)
    }

    const fn of_unit(path: &'static str, act: &'static str, may: &'static [Role]) -> Self {
        Self {
            path,
            act,
            audience: Audience::Roles(may),
            target: Target::Unit,
            confirmation: Confirmation::None,
            dry_run: false,
            subject: &["unit"],
        }
    }

    const fn of_host(path: &'static str, act: &'static str, may: &'static [Role]) -> Self {
        Self { target: Target::EveryUnit, subject: &[], ..Self::of_unit(path, act, may) }
    }

    const fn of_any(path: &'static str, act: &'static str, may: &'static [Role]) -> Self {
        Self { target: Target::AnyUnit, subject: &[], ..Self::of_unit(path, act, may) }
    }

    const fn of_person(path: &'static str, act: &'static str) -> Self {
        Self { audience: Audience::Person, ..Self::of_any(path, act, &[]) }
    }

    const fn of_anyone(path: &'static str, act: &'static str) -> Self {
        Self { audience: Audience::Anyone, ..Self::of_any(path, act, &[]) }
    }

    const fn for_the_host_itself(self) -> Self {
        Self { audience: Audience::Host, ..self }
    }

    const fn confirmed_by(self, confirmation: Confirmation) -> Self {
        Self { confirmation, ..self }
    }

    const fn or_dry_run(self) -> Self {
        Self { dry_run: true, ..self }
    }

    const fn about(self, subject: &'static [&'static str]) -> Self {
        Self { subject, ..self }
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

const CARRIES: &[Role] = &[Operator, SystemAdministrator];
const ADMINISTRATORS: &[Role] = &[SystemAdministrator, SecurityAdministrator, AuditAdministrator];
const GRANTS: &[Role] = &[SystemAdministrator, SecurityAdministrator];

/// The method with which a second person confirms.
pub const CONFIRM: &str = "/lianxi.admin.v1.ApprovalService/Confirm";

/// The line of a method.
pub fn find(path: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.path == path)
}

/// The table.
pub const RULES: &[Rule] = &[
    // NodeService
    Rule::of_unit("/lianxi.admin.v1.NodeService/Invite", "node.invite", SYSTEM)
        .about(&["unit", "child"])
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_host("/lianxi.admin.v1.NodeService/Join", "node.join", SYSTEM)
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.NodeService/Adopt", "node.adopt", SYSTEM)
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_any("/lianxi.admin.v1.NodeService/Status", "node.status", EVERYONE)
        .for_the_host_itself(),
    Rule::of_unit("/lianxi.admin.v1.NodeService/Renew", "node.renew", SYSTEM).or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.NodeService/RotateKey", "node.rotate-key", SECURITY)
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.NodeService/Leave", "node.leave", SYSTEM)
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.NodeService/Recover", "node.recover", SYSTEM)
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.NodeService/Units", "node.units", EVERYONE),
    Rule::of_unit("/lianxi.admin.v1.NodeService/Preview", "node.preview", WATCHES),
    Rule::of_unit("/lianxi.admin.v1.NodeService/AddDesk", "desk.add", SYSTEM)
        .about(&["unit", "desk"])
        .confirmed_by(Confirmation::Administrator),
    Rule::of_unit("/lianxi.admin.v1.NodeService/CloseDesk", "desk.close", SYSTEM)
        .about(&["unit", "desk", "successor", "on"])
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.NodeService/Quarantine", "quarantine.list", WATCHES),
    Rule::of_unit("/lianxi.admin.v1.NodeService/ReplayQuarantined", "quarantine.replay", CARRIES)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.NodeService/FixQuarantined", "quarantine.fix", CARRIES)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.NodeService/DiscardQuarantined", "quarantine.discard", CARRIES)
        .about(&["unit", "ids"])
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.NodeService/OpenEpoch", "epoch.open", SYSTEM)
        .about(&["units"])
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.NodeService/Epochs", "epoch.list", WATCHES),
    Rule::of_unit("/lianxi.admin.v1.NodeService/Revoke", "node.revoke", SECURITY)
        .about(&["revoked", "desk"])
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    // ReformService
    Rule::of_unit("/lianxi.admin.v1.ReformService/Reparent", "unit.reparent", SYSTEM)
        .about(&["moving", "to", "on"])
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.ReformService/Merge", "unit.merge", SYSTEM)
        .about(&["merging", "into", "on"])
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.ReformService/Split", "unit.split", SYSTEM)
        .about(&["dividing", "into", "on", "children", "items"])
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.ReformService/List", "unit.reforms", WATCHES),
    // CourierService
    Rule::of_unit("/lianxi.admin.v1.CourierService/Export", "courier.export", CARRIES),
    Rule::of_host("/lianxi.admin.v1.CourierService/Import", "courier.import", CARRIES),
    Rule::of_unit("/lianxi.admin.v1.CourierService/Status", "courier.status", WATCHES),
    // TransferService
    Rule::of_unit("/lianxi.admin.v1.TransferService/Receive", "unit.receive", SYSTEM),
    Rule::of_unit("/lianxi.admin.v1.TransferService/Announce", "unit.move-host", SYSTEM)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.TransferService/Export", "unit.export", SYSTEM)
        .about(&["unit", "to"])
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.TransferService/Download", "unit.download", SYSTEM),
    Rule::of_host("/lianxi.admin.v1.TransferService/Upload", "unit.upload", SYSTEM),
    Rule::of_unit("/lianxi.admin.v1.TransferService/Import", "unit.import", SYSTEM)
        .about(&["unit"])
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.TransferService/Confirm", "unit.confirm", SYSTEM)
        .about(&["unit"])
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    // JournalService
    Rule::of_unit("/lianxi.admin.v1.JournalService/Show", "journal.show", AUDITS),
    Rule::of_unit("/lianxi.admin.v1.JournalService/Checkpoint", "journal.checkpoint", AUDITS),
    Rule::of_unit("/lianxi.admin.v1.JournalService/Prove", "journal.prove", WATCHES),
    Rule::of_unit("/lianxi.admin.v1.JournalService/Verify", "journal.verify", AUDITS),
    Rule::of_unit("/lianxi.admin.v1.JournalService/Alarms", "journal.alarms", WATCHES),
    Rule::of_unit("/lianxi.admin.v1.JournalService/SettleAlarm", "journal.alarm.settle", GRANTS)
        .about(&["unit", "id"])
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.JournalService/Peers", "journal.witness.list", WATCHES),
    Rule::of_unit("/lianxi.admin.v1.JournalService/AddPeer", "journal.witness.add", GRANTS)
        .about(&["unit"])
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.JournalService/RemovePeer", "journal.witness.remove", GRANTS)
        .about(&["unit", "name"])
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_unit(
        "/lianxi.admin.v1.JournalService/RequestCosignature",
        "journal.witness.request",
        SYSTEM,
    ),
    Rule::of_unit("/lianxi.admin.v1.JournalService/CosignPeer", "journal.witness.cosign", SYSTEM)
        .or_dry_run(),
    Rule::of_unit(
        "/lianxi.admin.v1.JournalService/TakeCosignature",
        "journal.witness.take",
        SYSTEM,
    )
    .or_dry_run(),
    Rule::of_unit("/lianxi.admin.v1.JournalService/Prune", "journal.prune", SYSTEM).or_dry_run(),
    // AccountService
    Rule::of_any("/lianxi.admin.v1.AccountService/BeginSetup", "account.setup", &[])
        .for_the_host_itself(),
    Rule::of_any("/lianxi.admin.v1.AccountService/FinishSetup", "account.setup", &[])
        .for_the_host_itself(),
    Rule::of_anyone("/lianxi.admin.v1.AccountService/Login", "account.login"),
    Rule::of_person("/lianxi.admin.v1.AccountService/Logout", "account.logout"),
    Rule::of_any("/lianxi.admin.v1.AccountService/Whoami", "account.whoami", &[])
        .for_the_host_itself(),
    Rule::of_anyone("/lianxi.admin.v1.AccountService/ChangePassword", "account.password"),
    Rule::of_anyone("/lianxi.admin.v1.AccountService/BeginActivation", "account.activate"),
    Rule::of_anyone("/lianxi.admin.v1.AccountService/FinishActivation", "account.activate"),
    Rule::of_any("/lianxi.admin.v1.AccountService/List", "account.list", ADMINISTRATORS),
    Rule::of_any("/lianxi.admin.v1.AccountService/Add", "account.add", SYSTEM)
        .about(&["name"])
        .confirmed_by(Confirmation::Administrator),
    Rule::of_any("/lianxi.admin.v1.AccountService/Grant", "account.grant", GRANTS)
        .about(&["name"])
        .confirmed_by(Confirmation::Administrator),
    Rule::of_any("/lianxi.admin.v1.AccountService/Withdraw", "account.withdraw", GRANTS)
        .about(&["name"])
        .confirmed_by(Confirmation::Administrator),
    Rule::of_any("/lianxi.admin.v1.AccountService/Lock", "account.lock", GRANTS),
    Rule::of_any("/lianxi.admin.v1.AccountService/ResetFactor", "account.reset-factor", GRANTS)
        .about(&["name"])
        .confirmed_by(Confirmation::Administrator),
    Rule::of_any("/lianxi.admin.v1.AccountService/Close", "account.close", SYSTEM)
        .about(&["name", "successor"])
        .confirmed_by(Confirmation::Administrator)
        .or_dry_run(),
    Rule::of_any("/lianxi.admin.v1.AccountService/Delegate", "account.delegate", &[Head]),
    Rule::of_any("/lianxi.admin.v1.AccountService/Recall", "account.recall", &[Head]),
    Rule::of_person("/lianxi.admin.v1.AccountService/AddToken", "account.token-add"),
    Rule::of_person("/lianxi.admin.v1.AccountService/ListTokens", "account.token-list"),
    Rule::of_person("/lianxi.admin.v1.AccountService/EndToken", "account.token-end"),
    // ApprovalService
    Rule::of_person("/lianxi.admin.v1.ApprovalService/List", "approval.list"),
    Rule::of_person(CONFIRM, "approval.confirm"),
    Rule::of_person("/lianxi.admin.v1.ApprovalService/Refuse", "approval.refuse"),
    // RecordService
    Rule::of_host("/lianxi.local.v1.RecordService/Import", "record.import", &[Operator]),
    Rule::of_any("/lianxi.local.v1.RecordService/Count", "record.count", EVERYONE),
    Rule::of_unit("/lianxi.local.v1.RecordService/List", "record.list", REPORTS),
    // CatalogueService
    Rule::of_unit("/lianxi.local.v1.CatalogueService/Publish", "catalogue.publish", ISSUES),
    Rule::of_unit("/lianxi.local.v1.CatalogueService/Preview", "catalogue.preview", WATCHES),
    Rule::of_unit("/lianxi.local.v1.CatalogueService/Show", "catalogue.show", EVERYONE),
    // SummaryService
    Rule::of_unit("/lianxi.local.v1.SummaryService/Publish", "summary.publish", REPORTS),
    Rule::of_unit("/lianxi.local.v1.SummaryService/Show", "summary.show", READS_FIGURES),
    Rule::of_unit("/lianxi.local.v1.SummaryService/Pull", "summary.pull", READS_FIGURES),
    // PackService
    Rule::of_unit("/lianxi.local.v1.PackService/Export", "pack.export", TAKES_OUT),
    Rule::of_unit("/lianxi.local.v1.PackService/RootKey", "pack.root-key", EVERYONE),
    Rule::of_unit("/lianxi.local.v1.PackService/Revocations", "pack.revocations", EVERYONE),
    // NoticeService
    Rule::of_unit("/lianxi.local.v1.NoticeService/Issue", "notice.issue", ISSUES),
    Rule::of_unit("/lianxi.local.v1.NoticeService/List", "notice.list", READS_CASES),
    Rule::of_unit("/lianxi.local.v1.NoticeService/Show", "notice.show", READS_CASES),
    Rule::of_unit("/lianxi.local.v1.NoticeService/Mark", "notice.mark", WORKS),
    Rule::of_unit("/lianxi.local.v1.NoticeService/Share", "notice.share", ISSUES).or_dry_run(),
    // EscalationService
    Rule::of_unit("/lianxi.local.v1.EscalationService/Raise", "escalation.raise", WORKS)
        .confirmed_by(Confirmation::Head),
    Rule::of_unit("/lianxi.local.v1.EscalationService/List", "escalation.list", READS_CASES),
    Rule::of_unit("/lianxi.local.v1.EscalationService/Show", "escalation.show", READS_CASES),
    Rule::of_unit("/lianxi.local.v1.EscalationService/Step", "escalation.step", WORKS),
    Rule::of_unit("/lianxi.local.v1.EscalationService/AddDesk", "escalation.add-desk", WORKS)
        .or_dry_run(),
    Rule::of_unit("/lianxi.local.v1.EscalationService/Share", "escalation.share", ISSUES)
        .or_dry_run(),
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

    /// What the gate reads by name has to be there, and what it shows must not be secret.
    #[test]
    fn a_request_has_the_fields_that_its_line_names() {
        for method in methods() {
            let rule = find(&method.path).unwrap();
            let has = |name: &str| method.request.field.iter().any(|field| field.name() == name);
            assert!(!rule.dry_run || has("dry_run"), "{}", rule.path);
            if rule.confirmation != Confirmation::None {
                assert_eq!(rule.dry_run, has("dry_run"), "{}", rule.path);
                for name in rule.subject {
                    assert!(has(name), "{} has no field {name}", rule.path);
                    assert!(!["token", "password", "code"].contains(name), "{}", rule.path);
                }
            }
        }
    }

    #[test]
    fn what_is_still_done_for_an_ended_unit_are_methods() {
        for method in OF_ENDED {
            let is_it = |rule: &&Rule| rule.path.ends_with(&format!(".{method}"));
            let rule = RULES.iter().find(is_it).unwrap_or_else(|| panic!("no rule for {method}"));
            assert_eq!(rule.target, Target::Unit, "{method}");
            assert!(rule.is_of_ended());
        }
        assert!(!find("/lianxi.local.v1.NoticeService/Issue").unwrap().is_of_ended());
    }

    #[test]
    fn what_cannot_be_taken_back_needs_a_second_person() {
        for method in ["Revoke", "DiscardQuarantined", "OpenEpoch", "CloseDesk", "RotateKey"] {
            let path = format!("/lianxi.admin.v1.NodeService/{method}");
            let rule = RULES.iter().find(|rule| rule.path == path);
            let rule = rule.unwrap_or_else(|| panic!("no rule for {path}"));
            assert_ne!(rule.confirmation, Confirmation::None, "{path}");
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
