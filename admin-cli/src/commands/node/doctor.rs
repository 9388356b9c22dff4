//! `lianxi node doctor`: what will bite, long before it does.
//!
//! Promises that each finding names its place and a remedy, that the exit code says how bad the
//! worst is, and that a node that does not run is a finding and no failure. Changes nothing.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use lianxi_node::{
    clock::{Clock, SystemClock, UnixMillis},
    config::HostConfig,
    domain::quarantine::WARNING_PERCENT,
};
use lianxi_proto::admin::v1::{LinkState, StatusResponse, UnitStatus};
use serde_json::{Value, json};

use super::{
    super::{Context, status},
    offline::CONFIG,
};
use crate::{failure::Failure, output::Output, table::Table, texts::Text, values};

/// Share of a lane's budget, in percent, from which on it is told.
const EARLY_PERCENT: u128 = 80;

const MINUTE_MS: i64 = 60 * 1_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Certificates live 30 days and are renewed by the 17th: with 10 left, that does not work.
const CERTIFICATE_WARNING_MS: i64 = 10 * DAY_MS;
const CERTIFICATE_ALARM_MS: i64 = 3 * DAY_MS;

/// Delegations live a year and are renewed after half of it.
const DELEGATION_WARNING_MS: i64 = 90 * DAY_MS;
const DELEGATION_ALARM_MS: i64 = 14 * DAY_MS;

/// Three days of skew are tolerated, not more.
const SKEW_WARNING_MS: i64 = 5 * MINUTE_MS;
const SKEW_ALARM_MS: i64 = DAY_MS;

/// What waits longer than this will miss its time limits.
const UNSENT_WARNING_MS: i64 = HOUR_MS;
const UNSENT_ALARM_MS: i64 = DAY_MS;

/// New keys that wait for children for so long wait for hosts that nobody brings back.
const ROTATION_ALARM_MS: i64 = 30 * DAY_MS;

/// Imports leave 256 MiB free, and nothing at all is taken below 64.
const DISK_WARNING_BYTES: u64 = 2 * 1024 * 1024 * 1024;
const DISK_ALARM_BYTES: u64 = 256 * 1024 * 1024;

/// Arguments of `lianxi node doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Severity {
    Good,
    Warning,
    Alarm,
}

/// What was looked at, and how it is.
#[derive(Clone, Debug)]
struct Finding {
    check: &'static str,
    text: Text,
    /// A unit, a file, or the host.
    place: String,
    severity: Severity,
    found: String,
    remedy: Option<Text>,
}

impl Doctor {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let mut findings = files(context.dir())?;
        match context.client().await {
            Ok(client) => {
                let status = status(&client).await?;
                findings.extend(of_host(&status));
                let now = SystemClock.now_unix_ms();
                let output = context.output();
                findings.extend(status.units.iter().flat_map(|unit| of_unit(output, unit, now)));
            }
            Err(failure) => findings.push(Finding {
                check: "node",
                text: Text::CheckNode,
                place: context.dir().display().to_string(),
                severity: Severity::Alarm,
                found: failure.to_string(),
                remedy: Some(Text::DoctorStart),
            }),
        }
        // The worst first; stable, so that a unit's findings stay together.
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        show(context.output(), &findings)?;
        let count = |severity| findings.iter().filter(|one| one.severity == severity).count();
        match (count(Severity::Warning), count(Severity::Alarm)) {
            (0, 0) => Ok(()),
            (warnings, 0) => Err(Failure::Warnings(warnings).into()),
            (_, alarms) => Err(Failure::Alarms(alarms).into()),
        }
    }
}

/// The severity of a value that should be large.
fn at_least<T: PartialOrd>(value: T, warning: T, alarm: T) -> Severity {
    if value < alarm {
        Severity::Alarm
    } else if value < warning {
        Severity::Warning
    } else {
        Severity::Good
    }
}

/// The severity of a value that should be small.
fn at_most(value: i64, warning: i64, alarm: i64) -> Severity {
    at_least(-value, -warning, -alarm)
}

fn of_host(status: &StatusResponse) -> Vec<Finding> {
    let free = status.free_disk_bytes;
    let disk = finding(
        "disk",
        Text::FreeDisk,
        &status.host,
        at_least(free, DISK_WARNING_BYTES, DISK_ALARM_BYTES),
        values::size(free),
        Text::DoctorDisk,
    );
    let cipher = status.store_cipher.clone();
    let store =
        finding("store", Text::StoreAfter, &status.host, Severity::Good, cipher, Text::DoctorDisk);
    vec![disk, store]
}

fn finding(
    check: &'static str,
    text: Text,
    place: &str,
    severity: Severity,
    found: String,
    remedy: Text,
) -> Finding {
    let remedy = Some(remedy).filter(|_| severity != Severity::Good);
    Finding { check, text, place: place.to_owned(), severity, found, remedy }
}

fn of_unit(output: &Output, unit: &UnitStatus, now: UnixMillis) -> Vec<Finding> {
    let left = |ends: UnixMillis| ends.saturating_sub(now);
    let of = |check, text, severity, found, remedy| {
        finding(check, text, &unit.unit, severity, found, remedy)
    };
    let mut findings = Vec::new();
    let certificate = left(unit.certificate_ends_unix_ms);
    findings.push(of(
        "certificate",
        Text::CertificateEnds,
        at_least(certificate, CERTIFICATE_WARNING_MS, CERTIFICATE_ALARM_MS),
        values::time(unit.certificate_ends_unix_ms),
        Text::DoctorRenew,
    ));
    let delegation = left(unit.delegation_ends_unix_ms);
    findings.push(of(
        "delegation",
        Text::DelegationEnds,
        at_least(delegation, DELEGATION_WARNING_MS, DELEGATION_ALARM_MS),
        values::time(unit.delegation_ends_unix_ms),
        Text::DoctorDelegation,
    ));
    findings.push(of(
        "unsent",
        Text::OldestWaiting,
        at_most(unit.oldest_unsent_ms, UNSENT_WARNING_MS, UNSENT_ALARM_MS),
        values::length(unit.oldest_unsent_ms),
        Text::DoctorUnsent,
    ));
    let bare = if unit.catalogue.is_empty() { Severity::Warning } else { Severity::Good };
    let catalogue = unit.catalogue.clone();
    findings.push(of("catalogue", Text::Catalogue, bare, catalogue, Text::DoctorCatalogue));
    let lapsed = unit.recoveries.iter().map(|child| match child {
        child if child.refused > 0 => Severity::Alarm,
        child if child.recent >= child.allowed => Severity::Warning,
        _ => Severity::Good,
    });
    if let Some(worst) = lapsed.max() {
        let children: Vec<&str> =
            unit.recoveries.iter().map(|recovery| recovery.child.as_str()).collect();
        let found = children.join(", ");
        findings.push(of("recovery", Text::Recovered, worst, found, Text::DoctorRecover));
    }
    let (severity, found) = match (unit.rolled_back.as_str(), unit.rolled_back_peers.as_slice()) {
        ("", []) => (Severity::Good, unit.epoch.to_string()),
        ("", peers) => (Severity::Alarm, peers.join(", ")),
        (rolled_back, _) => (Severity::Alarm, rolled_back.to_owned()),
    };
    findings.push(of("epoch", Text::Epoch, severity, found, Text::DoctorRestore));
    findings.push(of_quarantine(unit));
    findings.extend(of_rotation(unit, now));
    findings.push(of_witness(output, unit));
    findings.push(of_alarms(unit));
    findings.extend(of_lanes(unit));
    if unit.parent_link() != LinkState::Unspecified {
        findings.extend(of_link(unit));
    }
    findings
}

/// Refused statements that nobody settles, before there is no room for more.
fn of_quarantine(unit: &UnitStatus) -> Finding {
    let severity = match (unit.quarantine_left_out, unit.quarantine_percent) {
        (0, percent) if percent < WARNING_PERCENT => Severity::Good,
        (0, percent) if percent < 100 => Severity::Warning,
        _ => Severity::Alarm,
    };
    let found = format!("{} ({} %)", unit.quarantined, unit.quarantine_percent);
    let check = Text::QuarantinedCount;
    finding("quarantine", check, &unit.unit, severity, found, Text::DoctorQuarantine)
}

/// New keys that are not in use long after they were made.
fn of_rotation(unit: &UnitStatus, now: UnixMillis) -> Option<Finding> {
    let rotation = unit.key_rotation.as_ref()?;
    let age = now.saturating_sub(rotation.started_unix_ms);
    let waits = rotation.stage == "prepared" || rotation.stage == "granted";
    let worst = if waits { at_most(age, DAY_MS, ROTATION_ALARM_MS) } else { Severity::Good };
    let mut found = vec![rotation.stage.clone()];
    found.extend(rotation.missing.iter().cloned());
    found.extend(Some(rotation.failure.clone()).filter(|failure| !failure.is_empty()));
    let (text, remedy) = (Text::CheckRotation, Text::DoctorRotation);
    Some(finding("rotation", text, &unit.unit, worst, found.join(", "), remedy))
}

/// Said, not warned of, where no command of this host alone gives the unit another witness.
fn of_witness(output: &Output, unit: &UnitStatus) -> Finding {
    let (witness, severity) = match unit.witness_gap.as_str() {
        "no-parent" => (Text::WitnessBelow, Severity::Good),
        "same-host" => (Text::WitnessHere, Severity::Good),
        "peer-silent" => (Text::WitnessSilent, Severity::Warning),
        _ if unit.parent.is_empty() => (Text::WitnessPeer, Severity::Good),
        _ => (Text::WitnessParent, Severity::Good),
    };
    let found = output.text(witness).to_owned();
    finding("witness", Text::CheckWitness, &unit.unit, severity, found, Text::DoctorWitness)
}

/// Alarms that nobody has settled.
fn of_alarms(unit: &UnitStatus) -> Finding {
    let severity = if unit.open_alarms > 0 { Severity::Alarm } else { Severity::Good };
    let (check, found) = (Text::CheckAlarms, unit.open_alarms.to_string());
    finding("alarms", check, &unit.unit, severity, found, Text::DoctorAlarms)
}

/// Lanes that come near their budget, and those that rest for want of room here.
fn of_lanes(unit: &UnitStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    for lane in unit.lanes.iter().filter(|lane| lane.budget_bytes > 0) {
        let percent = u128::from(lane.bytes) * 100 / u128::from(lane.budget_bytes);
        let severity = match percent {
            0..EARLY_PERCENT => continue,
            EARLY_PERCENT..100 => Severity::Warning,
            _ => Severity::Alarm,
        };
        let (bytes, budget) = (values::size(lane.bytes), values::size(lane.budget_bytes));
        let found = format!("{} {bytes} / {budget}", lane.lane);
        findings.push(finding(
            "lane",
            Text::CheckLane,
            &unit.unit,
            severity,
            found,
            Text::DoctorLane,
        ));
    }
    let rests = unit.resting.iter().map(|resting| {
        let (text, remedy) = (Text::CheckLane, Text::DoctorRoom);
        finding("lane", text, &unit.unit, Severity::Alarm, resting.clone(), remedy)
    });
    findings.extend(rests);
    findings
}

fn of_link(unit: &UnitStatus) -> [Finding; 2] {
    let (severity, found) = match unit.parent_link() {
        LinkState::Down => (Severity::Alarm, unit.parent_link_reason.clone()),
        LinkState::Up | LinkState::Unspecified => (Severity::Good, unit.parent.clone()),
    };
    let skew = unit.clock_skew_ms;
    [
        finding("link", Text::Link, &unit.unit, severity, found, Text::DoctorLink),
        finding(
            "clock",
            Text::Skew,
            &unit.unit,
            at_most(skew.abs(), SKEW_WARNING_MS, SKEW_ALARM_MS),
            values::length(skew),
            Text::DoctorClock,
        ),
    ]
}

/// Files that only the node's user may read.
fn files(dir: &Path) -> anyhow::Result<Vec<Finding>> {
    let config = dir.join(CONFIG);
    if !config.exists() {
        return Err(Failure::NotFound(format!("{} is no host", dir.display())).into());
    }
    let keys = HostConfig::load(&config)?.data_dir().join("keys");
    let owner = fs::metadata(&config)?.uid();
    let mut open = Vec::new();
    let mut count = 0;
    private(&keys, owner, &mut open, &mut count)?;
    if open.is_empty() {
        let found = count.to_string();
        let place = keys.display().to_string();
        return Ok(vec![finding(
            "keys",
            Text::CheckKeys,
            &place,
            Severity::Good,
            found,
            Text::DoctorKeys,
        )]);
    }
    let found = |(path, mode): (PathBuf, u32)| {
        let place = path.display().to_string();
        let found = format!("{mode:04o}");
        finding("keys", Text::CheckKeys, &place, Severity::Alarm, found, Text::DoctorKeys)
    };
    Ok(open.into_iter().map(found).collect())
}

/// Adds what others may read below `path`, or what belongs to others.
fn private(
    path: &Path,
    owner: u32,
    open: &mut Vec<(PathBuf, u32)>,
    count: &mut usize,
) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 || metadata.uid() != owner {
        open.push((path.to_owned(), mode));
    }
    if metadata.is_dir() {
        let mut entries = fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::path);
        for entry in entries {
            private(&entry.path(), owner, open, count)?;
        }
    } else {
        *count += 1;
    }
    Ok(())
}

fn show(output: &Output, findings: &[Finding]) -> anyhow::Result<()> {
    if output.is_json() {
        let findings: Vec<Value> = findings
            .iter()
            .map(|finding| {
                json!({
                    "check": finding.check,
                    "place": finding.place,
                    "severity": severity(finding.severity).0,
                    "found": finding.found,
                    "remedy": finding.remedy.map(|remedy| output.text(remedy)),
                })
            })
            .collect();
        return Ok(output.document(&json!({ "findings": findings }))?);
    }
    let mut table = Table::new()
        .text(output.text(Text::Severity))
        .text(output.text(Text::Check))
        .text(output.text(Text::Place))
        .text(output.text(Text::Found))
        .text(output.text(Text::Remedy));
    for finding in findings {
        let remedy = finding.remedy.map_or("", |remedy| output.text(remedy));
        let severity = output.text(severity(finding.severity).1);
        let check = output.text(finding.text);
        table.row([severity, check, &finding.place, &finding.found, remedy]);
    }
    Ok(output.table(&table, Text::NoUnits)?)
}

fn severity(severity: Severity) -> (&'static str, Text) {
    match severity {
        Severity::Good => ("good", Text::SeverityGood),
        Severity::Warning => ("warning", Text::SeverityWarning),
        Severity::Alarm => ("alarm", Text::SeverityAlarm),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lianxi_proto::admin::v1::{ChildRecovery, KeyRotation};

    use super::*;
    use crate::texts::Lang;

    const NOW: UnixMillis = 1_760_000_000_000;

    fn output() -> Output {
        Output::new(false, Lang::En)
    }

    fn well() -> UnitStatus {
        UnitStatus {
            unit: "A-1".to_owned(),
            parent: "A".to_owned(),
            parent_link: LinkState::Up.into(),
            catalogue: "kit@1".to_owned(),
            certificate_ends_unix_ms: NOW + 20 * DAY_MS,
            delegation_ends_unix_ms: NOW + 300 * DAY_MS,
            ..UnitStatus::default()
        }
    }

    /// What is not well, by check.
    fn ills(change: impl FnOnce(&mut UnitStatus)) -> BTreeMap<&'static str, Severity> {
        let mut unit = well();
        change(&mut unit);
        let ill =
            of_unit(&output(), &unit, NOW).into_iter().filter(|one| one.severity != Severity::Good);
        ill.map(|one| {
            assert!(one.remedy.is_some(), "{} has no remedy", one.check);
            (one.check, one.severity)
        })
        .collect()
    }

    #[test]
    fn a_unit_that_is_well_has_no_remedy_to_take() {
        assert!(ills(|_| {}).is_empty());
        assert!(of_unit(&output(), &well(), NOW).len() >= 6, "it was looked at");
    }

    #[test]
    fn each_ill_is_told_long_before_it_bites() {
        let one = |check, severity| BTreeMap::from([(check, severity)]);
        let certificate = |days| ills(|unit| unit.certificate_ends_unix_ms = NOW + days * DAY_MS);
        assert_eq!(certificate(9), one("certificate", Severity::Warning));
        assert_eq!(certificate(2), one("certificate", Severity::Alarm));
        let delegation = |days| ills(|unit| unit.delegation_ends_unix_ms = NOW + days * DAY_MS);
        assert_eq!(delegation(80), one("delegation", Severity::Warning));
        assert_eq!(delegation(10), one("delegation", Severity::Alarm));
        let skew = |ms| ills(|unit| unit.clock_skew_ms = ms);
        assert_eq!(skew(-10 * MINUTE_MS), one("clock", Severity::Warning));
        assert_eq!(skew(2 * DAY_MS), one("clock", Severity::Alarm));
        let unsent = |ms| ills(|unit| unit.oldest_unsent_ms = ms);
        assert_eq!(unsent(2 * HOUR_MS), one("unsent", Severity::Warning));
        assert_eq!(unsent(2 * DAY_MS), one("unsent", Severity::Alarm));
        assert_eq!(ills(|unit| unit.catalogue.clear()), one("catalogue", Severity::Warning));
        let down = ills(|unit| unit.parent_link = LinkState::Down.into());
        assert_eq!(down, one("link", Severity::Alarm));
        let recovered = |recent, refused| {
            let child = ChildRecovery { recent, refused, allowed: 3, ..ChildRecovery::default() };
            ills(|unit| unit.recoveries = vec![child])
        };
        assert!(recovered(1, 0).is_empty());
        assert_eq!(recovered(3, 0), one("recovery", Severity::Warning));
        assert_eq!(recovered(0, 1), one("recovery", Severity::Alarm));
        let refused = |percent, left_out| {
            ills(|unit| {
                (unit.quarantine_percent, unit.quarantine_left_out) = (percent, left_out);
            })
        };
        assert!(refused(79, 0).is_empty());
        assert_eq!(refused(80, 0), one("quarantine", Severity::Warning));
        assert_eq!(refused(100, 0), one("quarantine", Severity::Alarm));
        assert_eq!(refused(90, 1), one("quarantine", Severity::Alarm));
    }

    #[test]
    fn a_change_of_keys_that_waits_names_whom_it_waits_for() {
        let waits = |days| {
            let rotation = KeyRotation {
                stage: "granted".to_owned(),
                started_unix_ms: NOW - days * DAY_MS,
                missing: vec!["A-1-7".to_owned()],
                ..KeyRotation::default()
            };
            ills(|unit| unit.key_rotation = Some(rotation))
        };
        assert!(waits(0).is_empty());
        assert_eq!(waits(2), BTreeMap::from([("rotation", Severity::Warning)]));
        assert_eq!(waits(31), BTreeMap::from([("rotation", Severity::Alarm)]));
    }

    #[test]
    fn a_root_is_not_asked_for_its_parent() {
        let root = UnitStatus { parent_link: LinkState::Unspecified.into(), ..well() };
        assert!(
            of_unit(&output(), &root, NOW)
                .iter()
                .all(|one| one.check != "link" && one.check != "clock")
        );
    }

    #[test]
    fn a_root_is_said_to_have_no_witness_but_units_below() {
        let witness = |gap: &str| {
            let unit = UnitStatus { witness_gap: gap.to_owned(), ..well() };
            let findings = of_unit(&output(), &unit, NOW);
            let found = findings.into_iter().find(|one| one.check == "witness").unwrap();
            (found.severity, found.found)
        };
        assert_eq!(witness("no-parent"), (Severity::Good, "units below it alone".to_owned()));
        assert_eq!(witness("peer-silent").0, Severity::Warning);
        assert_eq!(witness("").1, "its parent");
        let root = UnitStatus { parent: String::new(), ..well() };
        let found = of_witness(&output(), &root);
        assert_eq!((found.severity, &*found.found), (Severity::Good, "a witness outside the tree"));
    }

    #[test]
    fn an_alarm_is_told_until_it_is_settled() {
        assert_eq!(of_alarms(&well()).severity, Severity::Good);
        assert_eq!(of_alarms(&UnitStatus { open_alarms: 1, ..well() }).severity, Severity::Alarm);
    }

    #[test]
    fn a_disk_that_fills_is_told_before_imports_stop() {
        let free = |free_disk_bytes| {
            let status = StatusResponse { free_disk_bytes, ..StatusResponse::default() };
            of_host(&status)[0].severity
        };
        assert_eq!(free(4 * 1024 * 1024 * 1024), Severity::Good);
        assert_eq!(free(1024 * 1024 * 1024), Severity::Warning);
        assert_eq!(free(1024), Severity::Alarm);
    }

    #[test]
    fn a_key_that_others_may_read_is_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG), "").unwrap();
        let keys = dir.path().join("keys");
        fs::create_dir(&keys).unwrap();
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o700)).unwrap();
        let key = keys.join("statement.key");
        fs::write(&key, "secret").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(files(dir.path()).unwrap()[0].severity, Severity::Good);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        let found = files(dir.path()).unwrap();
        assert_eq!((found.len(), found[0].severity), (1, Severity::Alarm));
        assert_eq!(found[0].found, "0640");
    }
}
