//! What must hold once everything is whole and quiet again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lianxi_node::{
    domain::{component::Component, notice::Stage, summary::Figures, unit::UnitCode},
    services::{notices::State, quarantine, unit::decode_envelope},
    statement::{header, journal as leaves},
    store::{Store, Table, journal, memory::Ideal},
};
use serde_json::Value;
use tokio::time::sleep;

use super::{
    node::Host,
    truth,
    work::{self, PERIODS},
    world::{World, lock},
};

/// Simulated time without an event, after which all is quiet. Heartbeats are none.
const QUIET: Duration = Duration::from_secs(150);

/// Waits until every host is up, nothing waits in any outbox, and nothing happens any more.
pub(super) async fn settle(world: &World, at_most: Duration) -> Result<(), String> {
    let end = world.elapsed() + at_most;
    let (mut events, mut since) = (world.events(), world.elapsed());
    loop {
        sleep(Duration::from_secs(5)).await;
        if let Some(found) = world.failure() {
            return Err(found);
        }
        let waiting = waiting(world);
        if waiting.is_some() || events != world.events() {
            (events, since) = (world.events(), world.elapsed());
        }
        if world.elapsed() - since > QUIET {
            return Ok(());
        }
        if world.elapsed() > end {
            let what = waiting.unwrap_or_else(|| "it goes on and on".to_owned());
            return Err(format!("P3: it does not come to rest: {what}"));
        }
    }
}

/// What is not done yet.
fn waiting(world: &World) -> Option<String> {
    if let Some(host) = world.hosts.values().find(|host| !host.is_running()) {
        return Some(format!("{} is down", host.code));
    }
    for member in &world.city.members {
        let (unit, host) = (&member.code, world.host_of(&member.code));
        let hosted = host.unit(unit)?;
        if let Some(stopped) = hosted.epochs.stopped() {
            return Some(format!("{unit} stands still: {stopped}"));
        }
        if hosted.catalogues.in_force().is_none() {
            return Some(format!("{unit} has no catalogue"));
        }
        let rows = world.disk_of(unit).scan(unit, Table::Outbox, b"");
        if let Some((key, _)) = rows.first() {
            let key = String::from_utf8_lossy(&key[..key.len() - 8]).into_owned();
            let link = hosted.parent_link();
            return Some(format!("{unit} has {} rows of {key:?}; {link}", rows.len()));
        }
    }
    None
}

/// The link of a unit to its parent, for people.
trait ParentLink {
    fn parent_link(&self) -> String;
}

impl ParentLink for lianxi_node::services::hosted::Hosted {
    fn parent_link(&self) -> String {
        let parent = self.unit.parent();
        parent.map_or_else(String::new, |parent| format!("{:?}", self.link(&parent)))
    }
}

/// Checks every promise.
pub(super) async fn all(world: &Arc<World>) -> Result<(), String> {
    numbers_are_used_once(world)?;
    for host in world.hosts.values() {
        journals_name_each_statement_once(world, host).await?;
    }
    records_are_those_that_were_acknowledged(world)?;
    reports_are_those_of_the_records(world).await?;
    figures_of_the_city_are_those_of_all_records(world).await?;
    let withdrawn = withdrawn(world).await?;
    lock(&world.ledger).withdraw(&withdrawn);
    notices_arrived(world).await?;
    whistles_are_the_same_on_both_sides(world).await?;
    poison_is_quarantined(world).await
}

/// P3: nobody above a unit holds two of its statements with one number. An epoch is opened once the
/// parent was met, so that it knows what was used; of a unit whose parent was restored with it nobody
/// could.
fn numbers_are_used_once(world: &World) -> Result<(), String> {
    let blind = lock(&world.ledger).blind.clone();
    let mut numbers = BTreeMap::new();
    for member in &world.city.members {
        let disk = world.disk_of(&member.code);
        for (key, value) in disk.scan(&member.code, Table::Statements, b"") {
            let envelope = decode_envelope(&value).map_err(|error| error.to_string())?;
            let statement = header::decode(&envelope.payload).map_err(|error| error.to_string())?;
            let header = statement.header;
            let is_above =
                header.source != member.code && work::is_below(world, &header.source, &member.code);
            if !is_above || blind.contains(&header.source) {
                continue;
            }
            let number = (member.code.clone(), header.source.clone(), header.epoch, header.seq);
            let first = *numbers.entry(number).or_insert(header.id);
            if first != header.id {
                let (at, source, epoch, seq) =
                    (&member.code, &header.source, header.epoch, header.seq);
                let id = header.id;
                return Err(format!("P3: {at} holds {first} and {id} as {source} {epoch}/{seq}"));
            }
            if key != header.id.as_bytes() {
                return Err(format!("{}: a statement stands in another's place", member.code));
            }
        }
    }
    Ok(())
}

/// P3: what was taken in was taken in once, and what was refused was refused once.
async fn journals_name_each_statement_once(world: &World, host: &Host) -> Result<(), String> {
    let store: Arc<dyn Store> = host.disk().copy().open(Arc::new(Ideal));
    for member in world.city.hosted(&host.code) {
        let (unit, mut from, mut seen) = (&member.code, 0, BTreeSet::new());
        let size = journal::size(store.as_ref(), unit).await.map_err(|error| error.to_string())?;
        while from < size {
            let page = journal::leaves(store.as_ref(), unit, from).await;
            for (_, leaf) in page.map_err(|error| error.to_string())? {
                let line = leaves::read(&leaf).map_err(|error| error.to_string())?;
                // What was refused, too, unless it is for another reason.
                let counts = ["statement-in", "statement-refused"].contains(&line.event);
                let this = (line.event, line.subject.clone(), line.refused);
                if counts && !seen.insert(this) {
                    return Err(format!(
                        "P3: {unit} has two leaves {} {}",
                        line.event, line.subject
                    ));
                }
            }
            from = (from / journal::TILE + 1) * journal::TILE;
        }
    }
    Ok(())
}

/// P2: what was acknowledged is there, and nothing that nobody gave.
fn records_are_those_that_were_acknowledged(world: &World) -> Result<(), String> {
    let found = records(world)?;
    let ledger = lock(&world.ledger);
    for ((unit, key), possible) in &ledger.records {
        let document = found.get(&(unit.clone(), key.clone())).cloned();
        if !possible.contains(&document) {
            return Err(format!("P2: {unit} has {document:?} as {key}, of {possible:?}"));
        }
    }
    let unknown = found.keys().find(|key| !ledger.records.contains_key(*key));
    unknown.map_or(Ok(()), |(unit, key)| Err(format!("P2: {unit} has {key}, which nobody gave it")))
}

/// All records on all disks.
fn records(world: &World) -> Result<BTreeMap<(UnitCode, String), Value>, String> {
    let mut records = BTreeMap::new();
    for member in &world.city.members {
        let disk = world.disk_of(&member.code);
        for (_, value) in disk.scan(&member.code, Table::Records, b"") {
            let begins = value.iter().position(|byte| *byte == b'{').ok_or("no document")?;
            // A salt may hold the sign that a document begins with.
            let parsed = (begins..value.len())
                .find_map(|at| serde_json::from_slice::<Value>(&value[at..]).ok());
            let document = parsed.ok_or("no document")?;
            let key = document["case"].as_str().unwrap_or_default().to_owned();
            records.insert((member.code.clone(), key), document);
        }
    }
    Ok(records)
}

/// P4, P6: the roll-up equals the count over all records at once, with every unit in it.
async fn figures_of_the_city_are_those_of_all_records(world: &World) -> Result<(), String> {
    let found = records(world)?;
    let city = &world.city.members[0].code;
    let hosted = world.host_of(city).unit(city).ok_or("the city is down")?;
    for period in PERIODS {
        let shown = hosted.summaries.show(city, &period.parse().unwrap()).await;
        let shown = shown.map_err(|error| error.to_string())?;
        let coverage = &shown.summary.coverage;
        let units = world.city.members.len();
        if (coverage.included as usize, coverage.expected as usize) != (units, units) {
            let gaps: Vec<_> = coverage.gaps.iter().map(|gap| (&gap.unit, &gap.reason)).collect();
            return Err(format!("P4: {period} has {} units, not {gaps:?}", coverage.included));
        }
        let of_period =
            found.values().filter(|it| it["opened"].as_str().unwrap().starts_with(period));
        let flat = flat(of_period);
        let rolled = rolled(&shown.figures.subtree);
        if flat != rolled {
            let shown = truth::short(&shown.figures.subtree);
            return Err(format!("P6: {period} is {shown}, but all records are {flat:?}"));
        }
    }
    Ok(())
}

/// P6: what each unit reported of itself is what its records are.
async fn reports_are_those_of_the_records(world: &World) -> Result<(), String> {
    let found = records(world)?;
    for member in &world.city.members {
        let unit = &member.code;
        for period in PERIODS {
            let own = found.iter().filter(|((of, _), _)| of == unit).map(|(_, record)| record);
            let own = own.filter(|it| it["opened"].as_str().unwrap().starts_with(period));
            let flat = flat(own);
            for at in [Some(unit), member.parent.as_ref()].into_iter().flatten() {
                let shown = world.unit(at)?.summaries.show(unit, &period.parse().unwrap()).await;
                let shown = shown.map_err(|error| format!("{unit} at {at}: {error}"))?;
                let rolled = rolled(&shown.figures.own);
                if flat != rolled {
                    return Err(format!(
                        "P6: {at} holds {rolled:?} of {unit} for {period}, version {}, but its records \
                         are {flat:?}",
                        shown.summary.version
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Received, closed, and milliseconds from one to the other.
fn flat<'a>(records: impl Iterator<Item = &'a Value>) -> [i128; 3] {
    let mut totals = [0; 3];
    for record in records {
        totals[0] += 1;
        let time = |name: &str| record[name].as_str()?.parse::<jiff::Timestamp>().ok();
        if let Some((opened, closed)) = time("opened").zip(time("closed")) {
            totals[1] += 1;
            totals[2] += i128::from(closed.as_millisecond() - opened.as_millisecond());
        }
    }
    totals
}

fn rolled(figures: &Figures) -> [i128; 3] {
    ["received", "closed", "close_seconds"].map(|indicator| {
        let component = figures.iter().find(|(key, _)| key.indicator == indicator);
        match component.map(|(_, component)| component) {
            Some(Component::Count(count)) => i128::from(*count),
            Some(Component::Sum { sum_milli, .. }) => *sum_milli,
            Some(_) | None => -1,
        }
    })
}

/// P2, P3: every notice is with everybody whom it is for, and the issuer knows how far each of them is.
async fn notices_arrived(world: &World) -> Result<(), String> {
    let (notices, marks, blind) = {
        let ledger = lock(&world.ledger);
        (ledger.notices.clone(), ledger.marks.clone(), ledger.blind.clone())
    };
    for issued in &notices {
        let (id, issuer) = (issued.what.id, &issued.by);
        let holds = |unit: &UnitCode| {
            world.disk_of(unit).get(unit, Table::Notices, id.as_bytes()).is_some()
        };
        let has_left = world.city.children(issuer).any(|child| holds(&child.code));
        if issued.doubtful && !has_left {
            continue;
        }
        let state = world.unit(issuer)?.notices.show(id).await;
        let state = state.map_err(|error| format!("P2: {issuer} lost {id}: {error}"))?;
        for unit in &issued.what.addressed {
            if !holds(unit) {
                return Err(format!("P2: notice {id} of {issuer} is not at {unit}"));
            }
            let known = stage(&state, unit);
            let own =
                world.unit(unit)?.notices.show(id).await.map_err(|error| error.to_string())?;
            let own = stage(&own, unit);
            let of_unit = marks.iter().filter(|it| it.by == *unit && it.what.id == id);
            let marked = of_unit.filter(|it| !it.doubtful).map(|it| it.what.stage).max();
            // What its only neighbour lost with it, nobody returns to it.
            let is_same = known == own || (blind.contains(unit) && known > own);
            if !is_same || known < Some(marked.unwrap_or(Stage::Validated)) {
                return Err(format!(
                    "P2: {issuer} has {known:?} of {unit} for {id}, which has {own:?} and was marked \
                     {marked:?}"
                ));
            }
        }
    }
    Ok(())
}

/// How far a unit is with a notice.
fn stage(state: &State, unit: &UnitCode) -> Option<Stage> {
    state.recipients.iter().find(|recipient| recipient.unit == *unit)?.stage
}

/// P2, P3: both sides of a whistle have the same steps.
async fn whistles_are_the_same_on_both_sides(world: &World) -> Result<(), String> {
    let whistles = lock(&world.ledger).whistles.clone();
    for raised in &whistles {
        let (id, destination) = (raised.what.id, &raised.what.destination);
        let there = world.disk_of(destination).get(destination, Table::Escalations, id.as_bytes());
        if raised.doubtful && there.is_none() {
            continue;
        }
        let mut sides = Vec::new();
        for unit in [&raised.by, destination] {
            let state = world.unit(unit)?.escalations.show(id).await;
            let state =
                state.map_err(|error| format!("P2: {unit} has no whistle {id}: {error}"))?;
            let case = state.case.ok_or_else(|| format!("P2: {unit} has no case of {id}"))?;
            let mut steps: Vec<_> = case.history.into_iter().map(|it| (it.step, it.unit)).collect();
            steps.sort();
            sides.push(steps);
        }
        if sides[0] != sides[1] {
            let by = &raised.by;
            return Err(format!(
                "P3: whistle {id}: {:?} at {by} and {:?} at {destination}",
                sides[0], sides[1]
            ));
        }
    }
    Ok(())
}

/// What had to be refused is in quarantine on both sides, once, and stopped nothing.
async fn poison_is_quarantined(world: &World) -> Result<(), String> {
    let poison = lock(&world.ledger).poison.clone();
    for sent in &poison {
        let mut found = Vec::new();
        for (unit, refused_here) in [(&sent.what.parent, true), (&sent.by, false)] {
            let hosted = world.unit(unit)?;
            let listed = quarantine::page(hosted.unit.store.as_ref(), unit, None, usize::MAX).await;
            let listed = listed.map_err(|error| error.to_string())?;
            let count = listed
                .iter()
                .filter(|it| it.payload_sha256 == sent.what.payload_sha256)
                .filter(|it| it.refused_here == refused_here)
                .count();
            found.push(count);
        }
        // If both were brought back, one after the other, the word about it may be all that is left.
        let is_lost = sent.doubtful && (found == [0, 0] || found == [0, 1]);
        if found != [1, 1] && !is_lost {
            let (unit, digest) = (&sent.by, &sent.what.payload_sha256);
            return Err(format!(
                "P3: {digest} of {unit} is {} times in quarantine at its parent, and {} times told",
                found[0], found[1]
            ));
        }
    }
    Ok(())
}

/// What units said, when they opened an epoch, that they withdrew.
async fn withdrawn(world: &World) -> Result<BTreeSet<(UnitCode, String)>, String> {
    let mut withdrawn = BTreeSet::new();
    for member in &world.city.members {
        let epochs = world.unit(&member.code)?.epochs.list().await;
        for epoch in epochs.map_err(|error| error.to_string())? {
            let told = epoch.withdrawn.into_iter().filter(|_| epoch.unit == member.code);
            withdrawn.extend(told.map(|what| (member.code.clone(), what)));
        }
    }
    Ok(withdrawn)
}
