//! What must hold at every moment: figures are the sum of what they say they hold, and links that
//! nothing is wrong with carry on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lianxi_node::{
    domain::{
        component::Component,
        summary::{Coverage, CoverageState, FigureKey, Figures},
        unit::UnitCode,
    },
    statement::{
        Envelope, SaltedCell,
        header::{self, kinds},
        summary::{decode_body, unseal},
    },
    store::Table,
};
use lianxi_proto::envelope;

use super::{network, world::World};

/// Simulated time within which a sound link carries something of what waits.
const PATIENCE: Duration = Duration::from_secs(8 * 60);

struct Known {
    unit: UnitCode,
    subtree: Figures,
    included: u32,
}

/// Every summary that was signed, by the digest of its payload.
#[derive(Default)]
pub(super) struct Truth {
    summaries: BTreeMap<[u8; 32], Known>,
}

impl Truth {
    /// A statement leaves a unit; a summary is looked at when it is seen for the first time.
    pub(super) fn signed(&mut self, world: &World, envelope: &Envelope, cells: &[SaltedCell]) {
        let digest = envelope::payload_sha256(envelope);
        if self.summaries.contains_key(&digest) {
            return;
        }
        let Ok(statement) = header::decode(&envelope.payload) else { return };
        if statement.header.kind != kinds::SUMMARY {
            return;
        }
        let read = decode_body(&statement.body).and_then(|summary| {
            let figures = unseal(&summary, cells)?;
            Ok((summary, figures))
        });
        let (summary, figures) = match read {
            Ok(read) => read,
            Err(error) => return world.fail(format!("a summary cannot be read: {error}")),
        };
        let children = self.children(world, &summary.unit, &summary.coverage);
        let held = children.and_then(|children| {
            holds(&figures.own, &figures.subtree, &summary.coverage, &children)
        });
        if let Err(found) = held {
            let (unit, version) = (&summary.unit, summary.version);
            world.fail(format!("P4, P6: {unit} reports version {version}: {found}"));
        }
        let included = summary.coverage.included;
        let known = Known { unit: summary.unit, subtree: figures.subtree, included };
        self.summaries.insert(digest, known);
    }

    /// Figures of the children that a report says it holds.
    pub(super) fn children<'a>(
        &'a self,
        world: &World,
        unit: &UnitCode,
        coverage: &Coverage,
    ) -> Result<Vec<(&'a Figures, u32)>, String> {
        let named: BTreeSet<_> = coverage.inputs.iter().map(|input| input.unit.clone()).collect();
        let missing: BTreeSet<_> = coverage.gaps.iter().map(|gap| gap.unit.clone()).collect();
        for child in world.city.children(unit) {
            if !named.contains(&child.code) && !missing.contains(&child.code) {
                return Err(format!("nothing is said of {}", child.code));
            }
        }
        let mut children = Vec::new();
        for input in coverage.inputs.iter().filter(|input| is_in(input.state)) {
            let digest = input.payload_sha256.ok_or("a figure without a digest")?;
            let known = self.summaries.get(&digest);
            let known = known.filter(|known| known.unit == input.unit);
            let known = known.ok_or_else(|| format!("{} never reported that", input.unit))?;
            children.push((&known.subtree, known.included));
        }
        Ok(children)
    }
}

/// True if a unit's figures are in a total.
pub(super) fn is_in(state: CoverageState) -> bool {
    matches!(state, CoverageState::Included | CoverageState::Zero | CoverageState::ByParent)
}

/// True coverage, and figures that are the sum of what it names.
pub(super) fn holds(
    own: &Figures,
    subtree: &Figures,
    coverage: &Coverage,
    children: &[(&Figures, u32)],
) -> Result<(), String> {
    coverage.check().map_err(|error| error.to_string())?;
    let included = children.iter().map(|(_, included)| included).sum::<u32>() + 1;
    if included != coverage.included {
        return Err(format!("{} units are said to be in, {included} are", coverage.included));
    }
    let mut sum = own.clone();
    for (figures, _) in children {
        for (key, component) in *figures {
            let total = match sum.get(key) {
                Some(so_far) => so_far.add(component).map_err(|error| error.to_string())?,
                None => component.clone(),
            };
            sum.insert(key.clone(), total);
        }
    }
    if sum != *subtree {
        return Err(format!("the total is {}, its parts are {}", short(subtree), short(&sum)));
    }
    Ok(())
}

/// Figures in a line.
pub(super) fn short(figures: &Figures) -> String {
    let show = |(key, component): (&FigureKey, &Component)| match component {
        Component::Count(count) => format!("{}={count}", key.indicator),
        Component::Sum { sum_milli, terms } => format!("{}={sum_milli}/{terms}", key.indicator),
        Component::Distinct(distinct) => format!("{}~{}", key.indicator, distinct.estimate()),
        other => format!("{}={other:?}", key.indicator),
    };
    figures.iter().map(show).collect::<Vec<_>>().join(" ")
}

/// What waits first in each outbox, and since when it is the first on a sound link.
#[derive(Default)]
pub(super) struct Progress {
    first: BTreeMap<(UnitCode, Vec<u8>), (Vec<u8>, Duration)>,
}

impl Progress {
    /// Looks at all outboxes.
    pub(super) fn look(&mut self, world: &World) -> Result<(), String> {
        let now = world.elapsed();
        let mut seen = BTreeMap::new();
        for member in &world.city.members {
            for (key, _) in world.disk_of(&member.code).scan(&member.code, Table::Outbox, b"") {
                let lane = key[..key.len() - 8].to_vec();
                seen.entry((member.code.clone(), lane)).or_insert(key);
            }
        }
        self.first.retain(|of, (first, _)| seen.get(of) == Some(first));
        for (of, key) in seen {
            let peer = String::from_utf8_lossy(of.1.split(|byte| *byte == 0).next().unwrap_or(b""));
            let peer: UnitCode = peer.parse().map_err(|_| "an outbox to nobody".to_owned())?;
            let Some(sound) = sound_since(world, &of.0, &peer) else {
                self.first.remove(&of);
                continue;
            };
            let (_, since) = self.first.entry(of.clone()).or_insert((key, now));
            if now.saturating_sub(sound.max(*since)) > PATIENCE {
                let waits = (now - *since).as_secs();
                return Err(format!(
                    "P9: nothing is wrong between {} and {peer}, and what waits first in a lane \
                     has waited {waits} s",
                    of.0
                ));
            }
        }
        Ok(())
    }
}

/// Since when nothing is wrong with two units and the way between them.
fn sound_since(world: &World, unit: &UnitCode, peer: &UnitCode) -> Option<Duration> {
    let is_stopped = |code: &UnitCode| {
        let unit = world.host_of(code).unit(code);
        unit.is_none_or(|unit| unit.epochs.is_stopped() || !unit.epochs.behind().is_empty())
    };
    if is_stopped(unit) || is_stopped(peer) {
        return None;
    }
    let child = if world.city.member(unit).parent.as_ref() == Some(peer) { unit } else { peer };
    let hosts = [world.host_of(unit).well_since()?, world.host_of(peer).well_since()?];
    Some(network::whole_since(world, child)?.max(hosts[0]).max(hosts[1]))
}
