//! How a host, its units and the units that it knows are shown.

use lianxi_proto::admin::v1::{KnownUnit, LaneStatus, LinkState, StatusResponse, UnitStatus};
use serde_json::{Value, json};

use super::{renewal, rotate};
use crate::{output::Output, table::Table, texts::Text, values, words};

/// The state of a host in JSON.
pub(crate) fn status_json(status: &StatusResponse) -> Value {
    let units: Vec<Value> = status.units.iter().map(unit_json).collect();
    json!({
        "version": status.version,
        "host": status.host,
        "started_unix_ms": status.started_unix_ms,
        "store_bytes": status.store_bytes,
        "free_disk_bytes": status.free_disk_bytes,
        "store_cipher": status.store_cipher,
        "link_address": status.link_address,
        "units": units,
    })
}

fn unit_json(unit: &UnitStatus) -> Value {
    json!({
        "unit": unit.unit,
        "title": unit.title,
        "level": words::level(unit.level).json,
        "parent": unit.parent,
        "parent_link": words::link(unit.parent_link).json,
        "parent_link_reason": unit.parent_link_reason,
        "clock_skew_ms": unit.clock_skew_ms,
        "children": unit.children,
        "children_linked": unit.children_linked,
        "outbox": unit.outbox,
        "oldest_unsent_ms": unit.oldest_unsent_ms,
        "lanes": unit.lanes.iter().map(lane_json).collect::<Vec<_>>(),
        "resting": unit.resting,
        "quarantined": unit.quarantined,
        "quarantine_percent": unit.quarantine_percent,
        "quarantine_left_out": unit.quarantine_left_out,
        "catalogue": unit.catalogue,
        "records": unit.records,
        "certificate_ends_unix_ms": unit.certificate_ends_unix_ms,
        "delegation_ends_unix_ms": unit.delegation_ends_unix_ms,
        "recoveries": unit.recoveries.iter().map(renewal::recovery_json).collect::<Vec<_>>(),
        "revoked": unit.revoked,
        "revoked_children": unit.revoked_children,
        "epoch": unit.epoch,
        "rolled_back": unit.rolled_back,
        "rolled_back_peers": unit.rolled_back_peers,
        "key_rotation": unit.key_rotation.as_ref().map(rotate::rotation_json),
        "witness_gap": unit.witness_gap,
        "open_alarms": unit.open_alarms,
    })
}

fn lane_json(lane: &LaneStatus) -> Value {
    json!({
        "lane": lane.lane,
        "waiting": lane.waiting,
        "bytes": lane.bytes,
        "budget_bytes": lane.budget_bytes,
        "oldest_ms": lane.oldest_ms,
    })
}

/// Prints the state of a host: its facts, its units, why links are down.
pub(super) fn print_status(output: &Output, status: &StatusResponse) -> anyhow::Result<()> {
    let facts = [
        (Text::Host, status.host.clone()),
        (Text::Version, status.version.clone()),
        (Text::Started, values::time(status.started_unix_ms)),
        (Text::LinkAddress, status.link_address.clone()),
        (Text::StoreSize, values::size(status.store_bytes)),
        (Text::StoreAfter, status.store_cipher.clone()),
        (Text::FreeDisk, values::size(status.free_disk_bytes)),
    ];
    output.facts(facts)?;
    output.table(&status_table(output, &status.units), Text::NoUnits)?;
    let lapsed: Vec<_> = status.units.iter().flat_map(|unit| unit.recoveries.clone()).collect();
    if !lapsed.is_empty() {
        output.table(&renewal::recoveries_table(output, &lapsed), Text::NoRecoveries)?;
    }
    for unit in status.units.iter().filter(|unit| unit.parent_link() == LinkState::Down) {
        let reason: &dyn std::fmt::Display = &unit.parent_link_reason;
        output.line(output.fill(Text::LinkDownBecause, &[&unit.unit, reason]))?;
    }
    for unit in &status.units {
        for resting in &unit.resting {
            output.line(output.fill(Text::LaneRests, &[&unit.unit, resting]))?;
        }
        if !unit.rolled_back.is_empty() {
            output.line(output.fill(Text::RolledBackHere, &[&unit.unit, &unit.rolled_back]))?;
        }
        if !unit.rolled_back_peers.is_empty() {
            let peers = unit.rolled_back_peers.join(", ");
            output.line(output.fill(Text::RolledBackPeers, &[&unit.unit, &peers]))?;
        }
        if let Some(rotation) = &unit.key_rotation {
            output.line(rotate::rotation_line(output, &unit.unit, rotation))?;
        }
        if unit.open_alarms > 0 {
            output.line(output.fill(Text::OpenAlarms, &[&unit.unit, &unit.open_alarms]))?;
        }
        if unit.witness_gap == "no-parent" {
            output.line(output.fill(Text::RootWithoutWitness, &[&unit.unit]))?;
        }
        if !unit.revoked.is_empty() {
            output.line(output.fill(Text::RevokedHere, &[&unit.unit, &unit.revoked]))?;
        }
        if !unit.revoked_children.is_empty() {
            let children = unit.revoked_children.join(", ");
            output.line(output.fill(Text::RevokedChildren, &[&unit.unit, &children]))?;
        }
    }
    Ok(())
}

fn status_table(output: &Output, units: &[UnitStatus]) -> Table {
    let mut table = Table::new()
        .text(output.text(Text::Unit))
        .text(output.text(Text::Title))
        .text(output.text(Text::Level))
        .text(output.text(Text::Parent))
        .text(output.text(Text::Link))
        .number(output.text(Text::Children))
        .number(output.text(Text::Waiting))
        .number(output.text(Text::OldestWaiting))
        .number(output.text(Text::QuarantinedCount))
        .text(output.text(Text::Catalogue))
        .number(output.text(Text::Records))
        .number(output.text(Text::Skew))
        .text(output.text(Text::CertificateEnds))
        .text(output.text(Text::DelegationEnds));
    for unit in units {
        let age = if unit.oldest_unsent_ms == 0 {
            String::new()
        } else {
            values::length(unit.oldest_unsent_ms)
        };
        table.row([
            &unit.unit,
            &unit.title,
            words::level(unit.level).shown(output.lang()),
            &unit.parent,
            words::link(unit.parent_link).shown(output.lang()),
            &format!("{}/{}", unit.children_linked, unit.children),
            &unit.outbox.to_string(),
            &age,
            &unit.quarantined.to_string(),
            &unit.catalogue,
            &unit.records.to_string(),
            &values::length(unit.clock_skew_ms),
            &values::time(unit.certificate_ends_unix_ms),
            &values::time(unit.delegation_ends_unix_ms),
        ]);
    }
    table
}

/// A known unit or desk in JSON.
pub(super) fn known_json(unit: &KnownUnit) -> Value {
    json!({
        "unit": unit.unit,
        "title": unit.title,
        "level": words::level(unit.level).json,
        "parent": unit.parent,
        "desk": unit.desk,
        "line": unit.line,
        "host": unit.host,
    })
}

/// Known units and desks as a table.
pub(super) fn known_table(output: &Output, units: &[KnownUnit]) -> Table {
    let mut table = Table::new()
        .text(output.text(Text::Unit))
        .text(output.text(Text::Desk))
        .text(output.text(Text::Title))
        .text(output.text(Text::Level))
        .text(output.text(Text::Parent))
        .text(output.text(Text::Line))
        .text(output.text(Text::Host));
    for unit in units {
        table.row([
            &unit.unit,
            &unit.desk,
            &unit.title,
            words::level(unit.level).shown(output.lang()),
            &unit.parent,
            &unit.line,
            &unit.host,
        ]);
    }
    table
}
