//! Courier files that come in any order, repeatedly, with gaps, or never, end in the
//! state in which they end when each comes once and in order.
//!
//! `LIANXI_COURIER_SEEDS` sets the number of seeds, `LIANXI_COURIER_SEED` the first one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use lianxi_node::{
    domain::{
        notice::{Notice, Stage},
        summary::Figures,
        unit::Level,
    },
    services::{courier::PeerStatus, hosted::Hosted, quarantine},
    statement::header::StatementId,
};
use lianxi_tests::{
    numbers::{Numbers, setting},
    simulation::{Apart, run_apart},
};
use serde_json::json;

/// Rounds of work, with files written after each.
const ROUNDS: u64 = 6;

/// How files travel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// Each once, as soon as it is written.
    InOrder,
    /// Shuffled, repeated, late, or never.
    Wild,
}

/// Files of both sides.
#[derive(Default)]
struct Sticks {
    down: Vec<Bytes>,
    up: Vec<Bytes>,
}

/// What both sides know in the end; ids and times are of each run.
#[derive(Debug, Eq, PartialEq)]
struct State {
    /// Stage of the street for each notice, as each side has it.
    notices: [BTreeMap<String, Option<Stage>>; 2],
    /// What the street reported, as each side has it.
    reported: [Figures; 2],
}

async fn issue(apart: &Apart, number: u64) {
    let notice = Notice {
        number: format!("N{number}"),
        title: "Check the street lights".to_owned(),
        text: "All lamps of the main roads. ".repeat(130),
        level: Level::Street,
        duty_item: "street-light-inspection".to_owned(),
        approval: String::new(),
        due_unix_ms: 4_000_000_000_000,
        authority: "by the city ".repeat(80),
        people: "two of the district ".repeat(50),
        funds: "none ".repeat(200),
    };
    apart.above.notices.issue(&apart.below.unit.code, &notice, false).await.unwrap();
}

async fn report(apart: &Apart, round: u64) {
    let records = (0..=round).map(|number| {
        json!({
            "case": format!("R{number}"), "opened": "2026-01-05T10:00:00Z", "closed": null,
            "type": "lamp", "address": null
        })
    });
    let in_force = apart.below.catalogues.in_force().unwrap();
    let applied =
        apart.below.records.apply(&in_force.catalogue, "request", records.collect()).await;
    applied.unwrap();
    apart.below.summaries.publish(&"2026-01".parse().unwrap()).await.unwrap();
}

/// The street has done what every third notice asks, once it has it.
async fn mark(apart: &Apart) {
    for state in apart.below.notices.list().await.unwrap() {
        let number: u64 = state.number[1..].parse().unwrap();
        if number.is_multiple_of(3)
            && stage(apart, &apart.below, state.id).await < Some(Stage::Done)
        {
            apart.below.notices.mark(state.id, Stage::Done, "").await.unwrap();
        }
    }
}

async fn stage(apart: &Apart, at: &Hosted, id: StatementId) -> Option<Stage> {
    let state = at.notices.show(id).await.unwrap();
    let own = state.recipients.iter().find(|it| it.unit == apart.below.unit.code);
    own.and_then(|own| own.stage)
}

async fn write(apart: &Apart, sticks: &mut Sticks) {
    sticks.down.extend(apart.export(&apart.above).await);
    sticks.up.extend(apart.export(&apart.below).await);
}

/// Somebody carries some of the files, any of them, and some of them again.
async fn carry(apart: &Apart, sticks: &Sticks, numbers: &mut Numbers) {
    for _ in 0..numbers.below(sticks.down.len() + sticks.up.len() + 1) {
        let (at, files) = match numbers.coin() {
            true => (&apart.below, &sticks.down),
            false => (&apart.above, &sticks.up),
        };
        apart.import(at, numbers.pick(files)).await;
    }
}

/// Carries everything in order until nothing waits any more.
async fn settle(apart: &Apart) {
    apart.settle().await;
    mark(apart).await;
    apart.settle().await;
}

async fn state(apart: &Apart) -> State {
    let mut state = State { notices: [const { BTreeMap::new() }; 2], reported: Default::default() };
    for (place, unit) in [&apart.above, &apart.below].into_iter().enumerate() {
        for notice in unit.notices.list().await.unwrap() {
            let stage = stage(apart, unit, notice.id).await;
            state.notices[place].insert(notice.number, stage);
        }
        let period = "2026-01".parse().unwrap();
        let shown = unit.summaries.show(&apart.below.unit.code, &period).await.unwrap();
        state.reported[place] = shown.figures.own;
    }
    state
}

/// Nothing was taken in twice, nothing was refused, and no gap is left.
async fn is_sound(apart: &Apart) {
    for unit in [&apart.above, &apart.below] {
        let mut seen = BTreeSet::new();
        for line in apart.journal(unit).await {
            assert_ne!(line.event, "statement-refused", "{line:?}");
            let is_new = line.event != "statement-in" || seen.insert(line.subject.clone());
            assert!(is_new, "twice: {line:?}");
        }
        let store = unit.unit.store.as_ref();
        let refused = quarantine::page(store, &unit.unit.code, None, 10).await.unwrap();
        assert!(refused.is_empty(), "{refused:?}");
        let status: Vec<PeerStatus> = lianxi_node::services::courier::status(unit).await.unwrap();
        assert!(status.iter().all(|peer| peer.gaps.is_empty()), "{status:?}");
    }
}

fn run(seed: u64, way: Way) -> State {
    let work = async |apart: Apart| {
        let (mut numbers, mut wild) = (Numbers::new(seed), Numbers::new(seed ^ 0xFACE));
        // The receiver decides by the catalogue that it has.
        settle(&apart).await;
        let mut sticks = Sticks::default();
        let mut issued = 0;
        for round in 0..ROUNDS {
            for _ in 0..numbers.below(16) {
                issued += 1;
                issue(&apart, issued).await;
            }
            report(&apart, round).await;
            match way {
                Way::InOrder => settle(&apart).await,
                Way::Wild => {
                    write(&apart, &mut sticks).await;
                    carry(&apart, &sticks, &mut wild).await;
                    mark(&apart).await;
                }
            }
        }
        settle(&apart).await;
        // Old files say nothing new.
        let before = state(&apart).await;
        carry(&apart, &sticks, &mut wild).await;
        assert_eq!(state(&apart).await, before);
        is_sound(&apart).await;
        assert_eq!(before.notices[0].len() as u64, issued);
        before
    };
    run_apart(seed, work)
}

#[test]
fn files_in_any_order_end_in_the_state_of_files_in_order() {
    let (first, count) = (setting("LIANXI_COURIER_SEED", 1), setting("LIANXI_COURIER_SEEDS", 8));
    for seed in first..first + count {
        let (ordered, wild) = (run(seed, Way::InOrder), run(seed, Way::Wild));
        assert_eq!(ordered.notices[0], ordered.notices[1], "seed {seed}");
        assert_eq!(ordered, wild, "seed {seed}");
    }
}
