//! P2, P3, P6, P9: whatever happens to the network, the power, the disks and the clocks, nothing that
//! was acknowledged is lost, nothing is done twice, and every figure is what it says.
//!
//! `LIANXI_SIM_SEEDS` sets the number of seeds, `LIANXI_SIM_SEED` the first one; `LIANXI_SIM_TRACE`
//! names a file that gets every event of a run that fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::Write as _,
    panic,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use lianxi_tests::{
    numbers::setting,
    simulation::{Break, Failure, Plan, Report, run},
};

/// Seeds that find each break: one is rarely lucky enough for all of them.
const TRIES: u64 = 6;

/// Runs seeds on all cores; the first failure ends it.
fn run_all(first: u64, count: u64, plan: &Plan) -> Result<Vec<Report>, Box<Failure>> {
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let work = || {
        let mut reports = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count || failed.load(Ordering::Relaxed) {
                return Ok(reports);
            }
            match run(seed, plan.clone()) {
                Ok(report) => reports.push(report),
                Err(failure) => {
                    failed.store(true, Ordering::Relaxed);
                    return Err(failure);
                }
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let ended = running.into_iter().map(|it| it.join());
        let ended: Vec<_> =
            ended.map(|it| it.unwrap_or_else(|text| panic::resume_unwind(text))).collect();
        let reports = ended.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(reports.into_iter().flatten().collect())
    })
}

#[test]
fn no_seed_loses_or_doubles_anything() {
    let (first, count) = (setting("LIANXI_SIM_SEED", 1), setting("LIANXI_SIM_SEEDS", 48));
    let reports = match run_all(first, count, &Plan::default()) {
        Ok(reports) => reports,
        Err(failure) => {
            if let Ok(path) = std::env::var("LIANXI_SIM_TRACE") {
                std::fs::write(path, failure.trace.join("\n")).unwrap();
            }
            panic!("{failure}");
        }
    };
    let mut counts = std::collections::BTreeMap::<_, u64>::new();
    for (what, count) in reports.iter().flat_map(|report| &report.counts) {
        *counts.entry(*what).or_default() += count;
    }
    writeln!(std::io::stdout(), "{count} seeds from {first}: {counts:?}").unwrap();
    if count >= 8 {
        // What never happens proves nothing.
        for what in ["crash", "cut", "full disk", "restore", "epoch", "poison", "whistle", "pull"] {
            assert!(counts.get(what).is_some_and(|count| *count > 0), "{what} never happened");
        }
    }
}

#[test]
fn the_same_seed_does_the_same_event_by_event() {
    let plan = Plan { length: Duration::from_secs(240), ..Plan::default() };
    let seed = setting("LIANXI_SIM_SEED", 7);
    let traces = [0, 1].map(|_| run(seed, plan.clone()).unwrap_or_else(|it| panic!("{it}")).trace);
    let [first, second] = traces;
    let parted = first.iter().zip(&second).position(|(one, other)| one != other);
    if let Some(at) = parted {
        let from = at.saturating_sub(20);
        panic!("{:#?}\n{}\n{}", &first[from..at], first[at], second[at]);
    }
    assert_eq!(first.len(), second.len());
    assert!(first.len() > 2_000, "{} events", first.len());
    let other = run(seed + 1, plan).unwrap_or_else(|it| panic!("{it}")).trace;
    assert_ne!(first, other);
}

/// The simulation finds a promise that is broken, within few seeds, and says which.
fn is_found(broken: Break, words: &[&str]) {
    let plan = Plan { broken: Some(broken), ..Plan::default() };
    let found = (1..=TRIES).find_map(|seed| run(seed, plan.clone()).err());
    let failure = found.unwrap_or_else(|| panic!("{TRIES} seeds do not find {broken:?}"));
    let is_told = words.iter().any(|words| failure.found.contains(words));
    assert!(is_told, "{broken:?}: {failure}");
    assert!(failure.to_string().contains(&format!("LIANXI_SIM_SEED={}", failure.seed)));
}

#[test]
fn an_acknowledgement_before_the_barrier_is_found() {
    is_found(Break::EarlyAcknowledgement, &["P2: "]);
}

#[test]
fn a_cursor_that_is_not_stored_with_its_effect_is_found() {
    is_found(Break::ForgottenCursor, &["P2: "]);
}

// The commit itself requires the statement to be absent: what is not known again stalls its lane, and
// is taken in once all the same.
#[test]
fn a_duplicate_that_is_not_known_again_stalls_its_lane_and_is_found() {
    is_found(Break::UnknownDuplicate, &["P9: "]);
}

#[test]
fn a_correction_that_is_dropped_is_found() {
    is_found(Break::DroppedCorrection, &["P4: ", "P6: "]);
}

#[test]
fn a_rollback_that_hides_is_found() {
    is_found(Break::HiddenRestore, &["P2: ", "P3: ", "P9: "]);
}

#[test]
fn a_delivery_that_is_forgotten_is_found() {
    is_found(Break::LostDelivery, &["P2: ", "P3: ", "P6: ", "P9: "]);
}
