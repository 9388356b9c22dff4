//! What people do: they import records, publish, issue and mark notices, blow whistles, ask, and open
//! epochs after a restore. What was acknowledged to them goes into the ledger.

use std::{sync::Arc, time::Duration};

use lianxi_node::{
    domain::{
        catalogue::EscalationKind,
        epoch::Reason,
        escalation::{Escalation, Step},
        journal::Actor,
        notice::{Notice, Stage},
        unit::{Level, UnitCode},
    },
    services::{
        epochs::Order,
        exchange::{Lane, Question, Wanted},
        hosted::Hosted,
        unit::Draft,
    },
    statement::header::kinds,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    city::{BEGINNING, DESK},
    ledger::{Issued, Marked, Poison, Raised},
    truth,
    world::{Break, World, lock},
};
use crate::federation::CATALOGUE;

/// Periods of all figures.
pub(super) const PERIODS: [&str; 3] = ["2026-01", "2026-02", "2026-03"];

/// Keeps working until all is calm.
pub(super) async fn keep_working(world: Arc<World>) {
    let units: Vec<_> = world.city.members.iter().map(|member| member.code.clone()).collect();
    loop {
        let pause = world.draw(|numbers| numbers.millis(50, 900));
        sleep(pause).await;
        if world.is_calm() {
            return;
        }
        let (kind, unit) = world.draw(|numbers| (numbers.below(20), numbers.pick(&units).clone()));
        let Some(hosted) = world.host_of(&unit).unit(&unit) else { continue };
        let (host, work) = (world.host_of(&unit), Arc::clone(&world));
        match kind {
            0..8 => host.spawn(async move { import(&work, &hosted).await }),
            8..12 => host.spawn(async move { publish(&work, &hosted).await }),
            12..14 => host.spawn(async move { issue(&work, &hosted).await }),
            14..16 => mark(&world),
            16 => host.spawn(async move { raise(&work, &hosted).await }),
            17 => take_step(&world),
            18 => host.spawn(async move { send_poison(&work, &hosted).await }),
            _ => host.spawn(async move { pull(&work, &hosted).await }),
        }
    }
}

/// Publishes the catalogue at the city.
pub(super) async fn publish_catalogue(world: &World) -> Result<(), String> {
    let city = &world.city.members[0].code;
    let hosted = world.host_of(city).unit(city).ok_or("the city is not up")?;
    let published = hosted.catalogues.publish(CATALOGUE.as_bytes(), false).await;
    published.map(|_| ()).map_err(|error| error.to_string())
}

fn document(world: &World, key: &str) -> Value {
    world.draw(|numbers| {
        let month = 1 + numbers.below(3);
        let day = 3 + numbers.below(20);
        let opened = format!("2026-{month:02}-{day:02}T15:00:00Z");
        let closed = format!("2026-{month:02}-{:02}T{:02}:30:00Z", day + 2, numbers.below(24));
        let closed = numbers.coin().then_some(closed);
        let kind = format!("Type {}", numbers.below(30));
        json!({ "case": key, "opened": opened, "closed": closed, "type": kind, "address": null })
    })
}

/// Imports new records and changes old ones.
async fn import(world: &World, hosted: &Hosted) {
    let unit = &hosted.unit.code;
    let Some(in_force) = hosted.catalogues.in_force() else { return };
    let documents = {
        let mut ledger = lock(&world.ledger);
        if !ledger.busy.insert(unit.clone()) {
            return;
        }
        let old = ledger.keys(unit);
        let count = world.draw(|numbers| 1 + numbers.below(6));
        let mut documents = std::collections::BTreeMap::new();
        for _ in 0..count {
            let changes = !old.is_empty() && world.draw(|numbers| numbers.coin());
            let key = match changes {
                true => world.draw(|numbers| numbers.pick(&old).clone()),
                false => ledger.new_key(),
            };
            documents.insert(key.clone(), document(world, &key));
        }
        let documents: Vec<_> = documents.into_iter().collect();
        ledger.begin(unit, &documents);
        documents
    };
    let _busy = Busy { world, unit };
    let values = documents.iter().map(|(_, document)| document.clone()).collect();
    match hosted.records.apply(&in_force.catalogue, "request", values).await {
        Ok(applied) => {
            lock(&world.ledger).acknowledged(unit, &documents);
            let (new, changed) = (applied.imported, applied.updated);
            world.count("import", format_args!("{unit} {new} new, {changed} changed"));
        }
        Err(error) => world.count("import refused", format_args!("{unit} {error}")),
    }
}

/// A unit that imports; gone, however its import ends.
struct Busy<'a> {
    world: &'a World,
    unit: &'a UnitCode,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        lock(&self.world.ledger).busy.remove(self.unit);
    }
}

async fn publish(world: &World, hosted: &Hosted) {
    let period = world.draw(|numbers| *numbers.pick(&PERIODS));
    let published = hosted.summaries.publish(&period.parse().unwrap()).await;
    world.count("publish", format_args!("{} {period} {published:?}", hosted.unit.code));
}

async fn issue(world: &World, hosted: &Hosted) {
    let unit = &hosted.unit.code;
    let below = world.city.members.iter().filter(|it| is_below(world, &it.code, unit));
    let below: Vec<_> = below.collect();
    let (destination, level, number) = world.draw(|numbers| {
        let levels = [Level::City, Level::District, Level::Street, Level::Community];
        (numbers.pick(&below).code.clone(), *numbers.pick(&levels), numbers.next() % 1_000_000)
    });
    let addressed = world.city.members.iter().filter(|it| it.level == level);
    let addressed = addressed.filter(|it| is_below(world, &it.code, &destination));
    let addressed: Vec<_> = addressed.map(|it| it.code.clone()).collect();
    let notice = Notice {
        number: format!("N{number}"),
        title: "Check the street lights".to_owned(),
        text: "All lamps of the main roads.".to_owned(),
        level,
        duty_item: "street-light-inspection".to_owned(),
        approval: String::new(),
        due_unix_ms: 2 * BEGINNING,
        authority: String::new(),
        people: String::new(),
        funds: String::new(),
    };
    match hosted.notices.issue(&destination, &notice, false).await {
        Ok((id, count)) => {
            if count != addressed.len() {
                let expected = addressed.len();
                world.fail(format!("{unit} addresses {count} units of {expected} by a notice"));
            }
            let mut ledger = lock(&world.ledger);
            let issued = Issued { id, number: notice.number.clone(), addressed };
            let entry = ledger.entry(unit, world.elapsed(), issued);
            ledger.notices.push(entry);
            drop(ledger);
            world.count("notice", format_args!("{unit} {id} to {destination} {level}"));
        }
        Err(error) => world.note(format_args!("no notice {unit} {error}")),
    }
}

/// True for `head` itself too.
pub(super) fn is_below(world: &World, unit: &UnitCode, head: &UnitCode) -> bool {
    let mut above = Some(unit);
    while let Some(unit) = above {
        if unit == head {
            return true;
        }
        above = world.city.member(unit).parent.as_ref();
    }
    false
}

/// Somebody looks at a notice, or has done what it asks.
fn mark(world: &Arc<World>) {
    let ledger = lock(&world.ledger);
    if ledger.notices.is_empty() {
        return;
    }
    let (id, unit, stage) = world.draw(|numbers| {
        let issued = &numbers.pick(&ledger.notices).what;
        let unit = numbers.pick(&issued.addressed).clone();
        (issued.id, unit, *numbers.pick(&[Stage::Seen, Stage::Seen, Stage::Done]))
    });
    drop(ledger);
    let Some(hosted) = world.host_of(&unit).unit(&unit) else { return };
    let of = Arc::clone(world);
    world.host_of(&unit).spawn(async move {
        match hosted.notices.mark(id, stage, "").await {
            Ok(_) => {
                let mut ledger = lock(&of.ledger);
                let entry = ledger.entry(&unit, of.elapsed(), Marked { id, stage });
                ledger.marks.push(entry);
                drop(ledger);
                of.count("mark", format_args!("{unit} {id} {stage:?}"));
            }
            Err(error) => of.note(format_args!("no mark {unit} {id} {error}")),
        }
    });
}

async fn raise(world: &World, hosted: &Hosted) {
    let (unit, level) = (&hosted.unit.code, hosted.unit.level);
    let Some(destination) = hosted.unit.parent().filter(|_| level == Level::Street) else { return };
    let number = world.draw(|numbers| numbers.next() % 1_000_000);
    let escalation = Escalation {
        number: format!("W{number}"),
        kind: EscalationKind::Emergency,
        title: "Water over the road".to_owned(),
        text: "Two pumps are needed.".to_owned(),
        lead_desk: DESK.parse().unwrap(),
        co_desks: Vec::new(),
        answer_within: Duration::ZERO,
        arrive_within: Duration::ZERO,
        approved_by: "head".to_owned(),
    };
    match hosted.escalations.raise(None, escalation, false).await {
        Ok(state) => {
            let id = state.id;
            let mut ledger = lock(&world.ledger);
            let raised = Raised { id, number: state.number, destination };
            let entry = ledger.entry(unit, world.elapsed(), raised);
            ledger.whistles.push(entry);
            drop(ledger);
            world.count("whistle", format_args!("{unit} {id}"));
        }
        Err(error) => world.note(format_args!("no whistle {unit} {error}")),
    }
}

/// A desk, or the street, takes the next step of a case.
fn take_step(world: &Arc<World>) {
    let ledger = lock(&world.ledger);
    if ledger.whistles.is_empty() {
        return;
    }
    let (entry, step) = world.draw(|numbers| {
        let steps = [Step::Answered, Step::Arrived, Step::Handled, Step::Closed];
        (numbers.pick(&ledger.whistles).clone(), *numbers.pick(&steps))
    });
    drop(ledger);
    let by_street = step == Step::Closed;
    let unit = if by_street { entry.by } else { entry.what.destination };
    let Some(hosted) = world.host_of(&unit).unit(&unit) else { return };
    let (of, id) = (Arc::clone(world), entry.what.id);
    world.host_of(&unit).spawn(async move {
        let desk = (!by_street).then(|| DESK.parse().unwrap());
        match hosted.escalations.step(id, step, desk, "").await {
            Ok(_) => of.count("step", format_args!("{unit} {id} {step:?}")),
            Err(error) => of.note(format_args!("no step {unit} {id} {step:?} {error}")),
        }
    });
}

/// A unit sends its parent a notice, which only comes from above.
async fn send_poison(world: &World, hosted: &Hosted) {
    let unit = &hosted.unit.code;
    let Some(parent) = hosted.unit.parent() else { return };
    let number = format!("P{}", world.draw(|numbers| numbers.next() % 1_000_000));
    let mut work = hosted.unit.begin().await;
    let draft = Draft::new(kinds::NOTICE, number.clone(), b"no notice".to_vec());
    let Ok(signed) = work.sign(&draft) else { return };
    work.enqueue(&parent, Lane::Notice, signed.id);
    if work.commit().await.is_ok() {
        let payload_sha256 = hex::encode(signed.payload_sha256);
        let mut ledger = lock(&world.ledger);
        let poison = Poison { number, payload_sha256, parent };
        let entry = ledger.entry(unit, world.elapsed(), poison);
        ledger.poison.push(entry);
        drop(ledger);
        world.count("poison", format_args!("{unit} {}", signed.id));
    }
}

/// A meeting asks for live figures; whatever comes has to be true.
async fn pull(world: &World, hosted: &Hosted) {
    let unit = &hosted.unit.code;
    let (period, max_age) =
        world.draw(|numbers| (*numbers.pick(&PERIODS), numbers.millis(0, 60_000)));
    let question = Question {
        wanted: Wanted::Live,
        period: period.to_owned(),
        deadline: Duration::from_secs(5),
        max_age,
        depth: 9,
        traceparent: String::new(),
    };
    if hosted.catalogues.in_force().is_none() {
        return;
    }
    let held = match hosted.summaries.pull(&question, &period.parse().unwrap()).await {
        Ok(held) => held,
        Err(error) => return world.note(format_args!("no pull {unit} {error}")),
    };
    for one in &held {
        // What stands below it was heard on its way up, also if who asks cannot verify it because its
        // own clock is too far off.
        let (own, subtree) = (&one.figures.own, &one.figures.subtree);
        let of = &one.summary.unit;
        let truth = lock(&world.truth);
        let children = truth.children(world, of, &one.summary.coverage);
        let holds = children
            .and_then(|children| truth::holds(own, subtree, &one.summary.coverage, &children));
        drop(truth);
        if let Err(found) = holds {
            world.fail(format!("P4, P6: {unit} pulls of {of}: {found}"));
        }
    }
    let own = held.last().map(|own| own.summary.coverage.clone()).unwrap_or_default();
    world.count("pull", format_args!("{unit} {period} {} of {}", own.included, own.expected));
}

/// Two people open an epoch for every unit of a host that was restored, from the bottom up, once it met
/// its parent: when one of them is found standing still, or because they know that it was restored.
pub(super) async fn operate(world: Arc<World>) {
    if world.plan.broken == Some(Break::HiddenRestore) {
        return;
    }
    loop {
        sleep(Duration::from_secs(5)).await;
        for host in world.hosts.values() {
            let mut units = host.units();
            units.sort_by_key(|hosted| {
                (std::cmp::Reverse(hosted.unit.level), hosted.unit.code.clone())
            });
            let is_noticed = units.iter().any(|hosted| hosted.epochs.is_stopped());
            let is_unsettled = {
                let ledger = lock(&world.ledger);
                units.iter().any(|hosted| ledger.unsettled.contains(&hosted.unit.code))
            };
            let has_met = units.iter().any(|hosted| hosted.unit.code == host.code && is_up(hosted));
            let is_known = is_unsettled && world.draw(|numbers| numbers.one_in(3));
            if has_met && (is_noticed || is_known) {
                for hosted in &units {
                    open_epoch(&world, hosted).await;
                }
            }
        }
    }
}

fn is_up(hosted: &Hosted) -> bool {
    match hosted.unit.parent() {
        Some(parent) => hosted.link(&parent).up,
        None => !hosted.linked_children().is_empty(),
    }
}

async fn open_epoch(world: &World, hosted: &Hosted) {
    let unit = &hosted.unit.code;
    let order = Order {
        reason: Reason::Restore,
        approvers: vec!["li".to_owned(), "wang".to_owned()],
        text: "the disk failed".to_owned(),
        by: Actor::node(),
        dry_run: false,
    };
    let opening = hosted.epochs.begin(order);
    match tokio::time::timeout(Duration::from_secs(60), opening).await {
        Ok(Ok(row)) => {
            lock(&world.ledger).unsettled.remove(unit);
            world.count("epoch", format_args!("{unit} {} {:?}", row.epoch, row.withdrawn));
        }
        Ok(Err(error)) => world.note(format_args!("no epoch {unit} {error}")),
        // The host crashed meanwhile.
        Err(_) => world.note(format_args!("no epoch {unit}")),
    }
}

/// At the end everybody reports everything, from the bottom up.
pub(super) async fn report_all(world: &World) -> Result<(), String> {
    for member in world.city.members.iter().rev() {
        let hosted = world.host_of(&member.code).unit(&member.code);
        let hosted = hosted.ok_or_else(|| format!("{} is not up", member.code))?;
        for period in PERIODS {
            let published = hosted.summaries.publish(&period.parse().unwrap()).await;
            published.map_err(|error| format!("{} cannot publish: {error}", member.code))?;
        }
    }
    Ok(())
}
