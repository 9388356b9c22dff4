//! P3: what a restored unit said before comes back to it, and what it did by that is done again, once.
//!
//! In one process and by files alone: `restore.rs` has the same over links.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use lianxi_node::{
    domain::{
        catalogue::EscalationKind,
        escalation::{Escalation, Step},
        notice::{Notice, Stage},
        unit::{DeskId, Level},
    },
    services::{
        exchange::{Exchange as _, Lane},
        hosted::Hosted,
    },
    statement::header::{self, StatementId, kinds},
    store::Table,
};
use lianxi_tests::simulation::{Apart, run_apart};

async fn raise(apart: &Apart, number: &str) -> StatementId {
    let escalation = Escalation {
        number: number.to_owned(),
        kind: EscalationKind::Emergency,
        title: "Water over the road".to_owned(),
        text: "Two pumps are needed.".to_owned(),
        lead_desk: desk(),
        co_desks: Vec::new(),
        answer_within: Duration::ZERO,
        arrive_within: Duration::ZERO,
        approved_by: "head".to_owned(),
    };
    apart.below.escalations.raise(None, escalation, false).await.unwrap().id
}

fn desk() -> DeskId {
    "WORKS".parse().unwrap()
}

async fn step(unit: &Hosted, id: StatementId, step: Step) {
    let desk = (step != Step::Closed).then(desk);
    unit.escalations.step(id, step, desk, "as agreed").await.unwrap();
}

async fn steps(unit: &Hosted, id: StatementId) -> Vec<(Step, String)> {
    let case = unit.escalations.show(id).await.unwrap().case.expect("the case");
    case.history.into_iter().map(|taken| (taken.step, taken.note)).collect()
}

async fn issue(apart: &Apart, number: &str) -> StatementId {
    issue_by(&apart.above, number, Level::Street).await
}

async fn issue_by(unit: &Hosted, number: &str, level: Level) -> StatementId {
    let notice = Notice {
        number: number.to_owned(),
        title: "Check the street lights".to_owned(),
        text: "All lamps of the main roads.".to_owned(),
        level,
        duty_item: "street-light-inspection".to_owned(),
        approval: String::new(),
        due_unix_ms: 4_000_000_000_000,
        authority: String::new(),
        people: String::new(),
        funds: String::new(),
    };
    unit.notices.issue(&unit.unit.code, &notice, false).await.unwrap().0
}

/// Stage and note of the street for a notice, as `at` has it.
async fn stage(apart: &Apart, at: &Hosted, id: StatementId) -> (Option<Stage>, String) {
    let state = at.notices.show(id).await.unwrap();
    let own = state.recipients.into_iter().find(|it| it.unit == apart.below.unit.code).unwrap();
    (own.stage, own.note)
}

/// Own statements of a type that a unit holds.
async fn own(unit: &Hosted, kind: &str) -> usize {
    let store = &unit.unit.store;
    let rows = store.scan(&unit.unit.code, Table::Statements, b"", None, usize::MAX).await.unwrap();
    let is_own = |row: &[u8]| {
        let envelope = lianxi_node::services::unit::decode_envelope(row).unwrap();
        let header = header::decode(&envelope.payload).unwrap().header;
        header.source == unit.unit.code && header.kind == kind
    };
    rows.iter().filter(|(_, row)| is_own(row)).count()
}

const DONE: [Step; 5] = [Step::Routed, Step::Answered, Step::Arrived, Step::Handled, Step::Closed];

/// A case from the whistle to its end; `after`: so many steps are taken before the backup is made.
async fn a_case_comes_back(mut apart: Apart, side: impl Fn(&Apart) -> Arc<Hosted>, after: usize) {
    apart.settle().await;
    let mut backup = apart.back_up(&side(&apart)).await;
    let id = raise(&apart, "W1").await;
    apart.settle().await;
    for (place, one) in DONE.into_iter().enumerate() {
        if place == after {
            backup = apart.back_up(&side(&apart)).await;
        }
        if one != Step::Routed {
            step(if one == Step::Closed { &apart.below } else { &apart.above }, id, one).await;
        }
        apart.settle().await;
    }
    let before = steps(&apart.above, id).await;
    assert_eq!(before.iter().map(|(step, _)| *step).collect::<Vec<_>>(), DONE);
    assert_eq!(steps(&apart.below, id).await, before);

    let restored = side(&apart);
    apart.restore(&restored, &backup).await;
    apart.open_epoch(&side(&apart)).await;
    apart.settle().await;
    for unit in [&apart.above, &apart.below] {
        let mut now = steps(unit, id).await;
        // Own steps come back before those of the other side do.
        now.sort_by_key(|(step, _)| DONE.iter().position(|one| one == step));
        assert_eq!(now, before, "{} after {after}", unit.unit.code);
        assert!(unit.escalations.show(id).await.unwrap().case.unwrap().is_final());
        let store = &unit.unit.store;
        let left = store.scan(&unit.unit.code, Table::OwnSteps, b"", None, 10).await.unwrap();
        assert!(left.is_empty(), "no own step waits");
    }
    assert_eq!(own(&apart.above, kinds::ESCALATION_EVENT).await, 4, "nothing is decided twice");
    assert_eq!(own(&apart.below, kinds::ESCALATION_EVENT).await, 1);
}

#[test]
fn a_case_comes_back_to_the_street_wherever_the_backup_was_made() {
    for after in [DONE.len(), 0, 2, 4] {
        run_apart(1, async |apart| {
            a_case_comes_back(apart, |it| Arc::clone(&it.below), after).await;
        });
    }
}

#[test]
fn a_case_comes_back_to_the_called_unit_wherever_the_backup_was_made() {
    for after in [DONE.len(), 0, 2, 4] {
        run_apart(2, async |apart| {
            a_case_comes_back(apart, |it| Arc::clone(&it.above), after).await;
        });
    }
}

#[test]
fn an_issuer_has_its_notice_again_and_it_goes_on_to_whoever_may_have_missed_it() {
    run_apart(3, async |mut apart| {
        apart.settle().await;
        let (above, backup) = (Arc::clone(&apart.above), apart.back_up(&apart.above).await);
        let id = issue(&apart, "N1").await;
        apart.settle().await;
        apart.below.notices.mark(id, Stage::Done, "all lamps lit").await.unwrap();
        apart.settle().await;
        apart.restore(&above, &backup).await;
        assert!(apart.above.notices.show(id).await.is_err(), "it is not in the backup");
        apart.open_epoch(&apart.above).await;
        apart.settle().await;
        let (stage, note) = stage(&apart, &apart.above, id).await;
        assert_eq!((stage, note.as_str()), (Some(Stage::Done), "all lamps lit"));
        assert_eq!(apart.above.notices.show(id).await.unwrap().number, "N1");
        // The district has three streets; the two others never had it.
        for street in ["C-2-2", "C-2-3"] {
            let waits = apart.above.outgoing(&street.parse().unwrap(), Lane::Notice, 0, 10).await;
            let waits = waits.unwrap();
            let ids =
                waits.iter().map(|it| header::decode(&it.envelope.payload).unwrap().header.id);
            assert_eq!(ids.filter(|other| *other == id).count(), 1, "{street}");
        }
    });
}

#[test]
fn a_receiver_has_its_decisions_and_marks_again_and_makes_none_twice() {
    run_apart(4, async |mut apart| {
        apart.settle().await;
        let (below, backup) = (Arc::clone(&apart.below), apart.back_up(&apart.below).await);
        let ids = [issue(&apart, "N1").await, issue(&apart, "N2").await];
        apart.settle().await;
        apart.below.notices.mark(ids[0], Stage::Done, "all lamps lit").await.unwrap();
        apart.settle().await;
        apart.restore(&below, &backup).await;
        apart.open_epoch(&apart.below).await;
        apart.settle().await;
        let done = (Some(Stage::Done), "all lamps lit".to_owned());
        for unit in [&apart.above, &apart.below] {
            assert_eq!(stage(&apart, unit, ids[0]).await, done);
            assert_eq!(stage(&apart, unit, ids[1]).await.0, Some(Stage::Validated));
        }
        assert_eq!(own(&apart.below, kinds::RECEIPT).await, 3, "nothing is decided twice");
    });
}

#[test]
fn what_was_withdrawn_is_made_again_under_another_number_and_arrives_once() {
    run_apart(5, async |mut apart| {
        apart.settle().await;
        let notice = issue(&apart, "N1").await;
        let whistle = raise(&apart, "W1").await;
        apart.settle().await;
        step(&apart.above, whistle, Step::Answered).await;
        apart.below.notices.mark(notice, Stage::Done, "all lamps lit").await.unwrap();
        // Both wait as the backups are made, and nobody has cosigned anything of them.
        for side in [0, 1] {
            let unit = Arc::clone([&apart.above, &apart.below][side]);
            let backup = apart.back_up(&unit).await;
            apart.restore(&unit, &backup).await;
            let unit = [&apart.above, &apart.below][side];
            let row = apart.open_epoch(unit).await;
            let kind = [kinds::ESCALATION_EVENT, kinds::RECEIPT][side];
            let is_told = row.withdrawn.iter().any(|told| told.starts_with(kind));
            assert!(is_told, "{:?}", row.withdrawn);
        }
        apart.settle().await;
        let done = (Some(Stage::Done), "all lamps lit".to_owned());
        assert_eq!(stage(&apart, &apart.above, notice).await, done);
        let both = [steps(&apart.above, whistle).await, steps(&apart.below, whistle).await];
        assert_eq!(both[0], both[1]);
        assert_eq!(both[0].len(), 2, "{both:?}");
    });
}

#[test]
fn an_epoch_is_opened_however_much_has_to_be_withdrawn() {
    const NOTICES: usize = 40;
    run_apart(6, async |apart| {
        apart.settle().await;
        for number in 0..NOTICES {
            // Each waits for four communities: together more than one batch holds.
            issue_by(&apart.below, &format!("N{number}"), Level::Community).await;
        }
        let row = apart.open_epoch(&apart.below).await;
        let told = row.withdrawn.iter().filter(|told| told.starts_with(kinds::NOTICE));
        assert_eq!(told.count(), NOTICES);
        for community in 1..=4 {
            let community = format!("C-2-1-{community}").parse().unwrap();
            let waits = apart.below.outgoing(&community, Lane::Notice, 0, 10).await.unwrap();
            assert!(waits.is_empty(), "{waits:?}");
        }
        let journal = apart.journal(&apart.below).await;
        let withdrawn = journal.iter().filter(|line| line.name == "epoch.withdraw");
        assert!(withdrawn.count() >= NOTICES);
    });
}

#[test]
fn what_was_withdrawn_and_is_returned_goes_on_to_those_who_may_not_have_it() {
    run_apart(7, async |mut apart| {
        apart.settle().await;
        let early = issue(&apart, "early").await;
        let (above, backup) = (Arc::clone(&apart.above), apart.back_up(&apart.above).await);
        apart.settle().await;
        apart.restore(&above, &backup).await;
        apart.open_epoch(&apart.above).await;
        let waits = apart.above.unit.waiting_for(&apart.below.unit.code).await.unwrap();
        assert_eq!(waits, 0, "nothing leaves under a number that may be another's");
        let late = issue(&apart, "late").await;
        apart.settle().await;
        for id in [early, late] {
            assert_eq!(stage(&apart, &apart.above, id).await.0, Some(Stage::Validated));
            for street in ["C-2-2", "C-2-3"] {
                let street = street.parse().unwrap();
                let waits = apart.above.outgoing(&street, Lane::Notice, 0, 10).await.unwrap();
                let is_it = |envelope| header::decode(envelope).unwrap().header.id == id;
                assert!(waits.iter().any(|it| is_it(&it.envelope.payload)), "{street}");
            }
        }
    });
}
