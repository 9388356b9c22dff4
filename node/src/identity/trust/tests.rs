//! Each rule, and what breaks it.

use lianxi_proto::envelope::Signer;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::{
    domain::{
        delegation::{Delegation, KeyChange, Suite},
        unit::Level,
    },
    identity::issue,
    statement::header::{Classification, Header, StatementId},
};

mod divided;
mod moved;
mod reformed;
mod replaced;
mod revoked;
mod roots;

const NOW: UnixMillis = 1_760_000_000_000;
const DAY: i64 = 24 * 60 * 60 * 1000;
const DOMAIN: &str = "boston.example";

fn code(text: &str) -> UnitCode {
    text.parse().unwrap()
}

fn desk(text: &str) -> DeskId {
    text.parse().unwrap()
}

/// One key per holder and use, the same on every call.
fn signer(holder: &str, key_use: KeyUse) -> Signer {
    let seed = Sha256::digest(format!("{holder} {key_use:?}"));
    Signer::from_seed(&seed.into())
}

fn key(holder: &str, key_use: KeyUse) -> PublicKey {
    let bytes = signer(holder, key_use).public_key().to_vec();
    PublicKey { suite: Suite::Ed25519, bytes, key_use }
}

fn root_key() -> Signer {
    Signer::from_seed(&[9; 32])
}

fn grant(unit: &str, level: Level, issuer: Option<&str>) -> Delegation {
    Delegation {
        trust_domain: DOMAIN.to_owned(),
        unit: code(unit),
        level,
        issuer: issuer.map(code),
        not_before_unix_ms: NOW,
        not_after_unix_ms: NOW + 300 * DAY,
        keys: vec![key(unit, KeyUse::Statement), key(unit, KeyUse::Delegation)],
        ca_sha256: Some([1; 32]),
        host: String::new(),
        desk: None,
        line: String::new(),
        title: String::new(),
        serial: 1,
        accepted_suites: Vec::new(),
        change: KeyChange::default(),
        reform: None,
    }
}

fn desk_grant(unit: &str, level: Level, id: &str) -> Delegation {
    Delegation {
        keys: vec![key(&format!("{unit}/{id}"), KeyUse::Statement)],
        ca_sha256: None,
        desk: Some(desk(id)),
        ..grant(unit, level, Some(unit))
    }
}

/// Signed as its issuer would.
fn issued(delegation: &Delegation) -> Envelope {
    match &delegation.issuer {
        None => issue::sign(delegation, &root_key(), NOW),
        Some(issuer) => issue::sign(delegation, &signer(issuer.as_str(), KeyUse::Delegation), NOW),
    }
}

/// BOS over BOS-01 (with a desk) over BOS-01-W03, and BOS-02.
fn city() -> Trust {
    let mut trust = Trust::new(DOMAIN.to_owned(), root_key().verifying_key());
    for delegation in [
        grant("BOS", Level::City, None),
        grant("BOS-01", Level::District, Some("BOS")),
        grant("BOS-02", Level::District, Some("BOS")),
        desk_grant("BOS-01", Level::District, "FIRE"),
        grant("BOS-01-W03", Level::Street, Some("BOS-01")),
    ] {
        assert!(trust.add(&issued(&delegation), NOW).unwrap().new);
    }
    trust
}

fn refused(delegation: &Delegation) -> Error {
    city().add(&issued(delegation), NOW).unwrap_err()
}

fn refused_by(delegation: &Delegation, by: &Signer) -> Error {
    city().add(&issue::sign(delegation, by, NOW), NOW).unwrap_err()
}

#[test]
fn a_tree_is_believed_from_the_root_key_down() {
    let trust = city();
    assert_eq!(trust.root(), Some(&code("BOS")));
    assert_eq!(trust.parent(&code("BOS-01-W03")), Some(&code("BOS-01")));
    assert_eq!(trust.parent(&code("BOS")), None);
    assert_eq!(trust.children(&code("BOS")), [&code("BOS-01"), &code("BOS-02")]);
    assert!(trust.is_in_subtree(&code("BOS-01-W03"), &code("BOS")));
    assert!(trust.is_in_subtree(&code("BOS-01"), &code("BOS-01")));
    assert!(!trust.is_in_subtree(&code("BOS-02"), &code("BOS-01")));
    assert!(!trust.is_in_subtree(&code("BOS"), &code("BOS-01")));
    assert!(!trust.is_in_subtree(&code("NOWHERE"), &code("NOWHERE")));
    let chain = trust.chain(&code("BOS-01-W03"));
    let mut fresh = Trust::new(DOMAIN.to_owned(), root_key().verifying_key());
    for envelope in &chain {
        fresh.add(envelope, NOW).unwrap();
    }
    assert_eq!(fresh.chain(&code("BOS-01-W03")), chain);
    assert!(trust.chain(&code("NOWHERE")).is_empty());
}

#[test]
fn the_subtree_lists_issuers_first_and_the_roster_names_it() {
    let mut trust = city();
    let subtree = trust.subtree(&code("BOS-01"));
    let names: Vec<String> = subtree.iter().map(|one| shown(&one.subject())).collect();
    assert_eq!(names, ["BOS-01", "desk FIRE of BOS-01", "BOS-01-W03"]);
    let digests =
        subtree.iter().fold(Sha256::new(), |digest, one| digest.chain_update(one.payload_sha256));
    // Here the order of (unit, desk) is that of the subtree.
    assert_eq!(trust.roster_sha256(&code("BOS-01")), <[u8; 32]>::from(digests.finalize()));
    let before = trust.roster_sha256(&code("BOS-01"));
    let other = trust.roster_sha256(&code("BOS-02"));
    let desk = desk_grant("BOS-01", Level::District, "WATER");
    trust.add(&issued(&desk), NOW).unwrap();
    assert_ne!(trust.roster_sha256(&code("BOS-01")), before);
    assert_eq!(trust.roster_sha256(&code("BOS-02")), other);
}

#[test]
fn the_same_delegation_again_changes_nothing() {
    let mut trust = city();
    let envelope = trust.chain(&code("BOS-01")).pop().unwrap();
    let before = trust.all().count();
    assert!(!trust.add(&envelope, NOW).unwrap().new);
    assert!(!trust.add(&envelope, NOW + 1000 * DAY).unwrap().new);
    assert_eq!(trust.all().count(), before);
}

#[test]
fn only_the_root_key_makes_a_root_and_only_one() {
    let second = grant("BOS-X", Level::City, None);
    assert!(matches!(refused(&second), Error::Moved { .. }));
    let by_city = signer("BOS", KeyUse::Delegation);
    let own = Delegation { serial: 2, ..grant("BOS", Level::City, None) };
    assert!(matches!(refused_by(&own, &by_city), Error::WrongSource { .. }));
    // The root key signs nothing below the root.
    let child = grant("BOS-03", Level::District, Some("BOS"));
    assert!(matches!(refused_by(&child, &root_key()), Error::WrongSource { .. }));
    let stranger = refused_by(&child, &Signer::from_seed(&[77; 32]));
    assert_eq!((stranger.reason(), stranger.field()), ("unknown-key", "signatures"));
}

#[test]
fn a_delegation_outside_the_issuers_subtree_is_refused() {
    // BOS-02 grants a street that is under BOS-01.
    let taken = grant("BOS-01-W03", Level::Street, Some("BOS-02"));
    let error = refused(&Delegation { serial: 2, ..taken });
    assert!(matches!(error, Error::Moved { .. }), "{error}");
    assert_eq!(error.reason(), "outside-subtree");
    let unknown = Delegation { serial: 2, ..grant("BOS-09-W01", Level::Street, Some("BOS-09")) };
    assert!(matches!(refused(&unknown), Error::Envelope(_)));
}

#[test]
fn a_siblings_key_is_refused() {
    let by_sibling = signer("BOS-02", KeyUse::Delegation);
    let error = refused_by(&grant("BOS-01-W05", Level::Street, Some("BOS-01")), &by_sibling);
    let expected = Error::WrongSource { claimed: code("BOS-01"), holder: "BOS-02".to_owned() };
    assert_eq!(error, expected);
    // A child cannot grant in its parent's name either.
    let by_child = signer("BOS-01", KeyUse::Delegation);
    let error = refused_by(&grant("BOS-03", Level::District, Some("BOS")), &by_child);
    assert!(matches!(error, Error::WrongSource { .. }));
}

#[test]
fn a_level_at_or_above_the_issuers_is_refused() {
    for level in [Level::City, Level::District] {
        let error = refused(&grant("BOS-01-X", level, Some("BOS-01")));
        assert!(matches!(error, Error::Level { .. }), "{error}");
        assert_eq!(error.field(), "body.level");
    }
    // Levels can be left out, downward.
    assert!(city().add(&issued(&grant("C", Level::Community, Some("BOS"))), NOW).is_ok());
}

#[test]
fn a_unit_never_changes_parent_or_level_silently() {
    let moved = Delegation { serial: 2, ..grant("BOS-01-W03", Level::Street, Some("BOS")) };
    assert!(matches!(refused(&moved), Error::Moved { .. }));
    let sunk = Delegation { serial: 2, ..grant("BOS-01-W03", Level::Community, Some("BOS-01")) };
    assert!(matches!(refused(&sunk), Error::Moved { .. }));
}

#[test]
fn a_loop_is_refused() {
    for level in [Level::City, Level::Community] {
        let up = Delegation { serial: 2, ..grant("BOS", level, Some("BOS-01-W03")) };
        assert!(matches!(refused(&up), Error::Loop { .. }));
    }
    let own = Delegation { serial: 2, ..grant("BOS-01", Level::District, Some("BOS-01")) };
    assert!(matches!(refused(&own), Error::Loop { .. }));
}

#[test]
fn a_grant_ends_with_its_issuers_and_begins_no_earlier() {
    let mut long = grant("BOS-03", Level::District, Some("BOS"));
    long.not_after_unix_ms += 1;
    let error = refused(&long);
    assert!(matches!(error, Error::OutlivesIssuer { .. }));
    assert_eq!((error.reason(), error.field()), ("expired", "body.not_after_unix_ms"));
    let mut early = grant("BOS-03", Level::District, Some("BOS"));
    early.not_before_unix_ms = NOW - 4 * DAY;
    assert!(matches!(refused(&early), Error::OutlivesIssuer { .. }));
    // A parent whose clock is a day behind its own parent's still takes children in.
    early.not_before_unix_ms = NOW - DAY;
    let by = signer("BOS", KeyUse::Delegation);
    assert!(city().add(&issue::sign(&early, &by, NOW - DAY), NOW).is_ok());
}

#[test]
fn keys_serve_the_one_use_they_are_for() {
    let by_statement_key = signer("BOS-01", KeyUse::Statement);
    let error = refused_by(&grant("BOS-01-W05", Level::Street, Some("BOS-01")), &by_statement_key);
    assert!(matches!(error, Error::WrongUse { key_use: KeyUse::Statement, .. }));
    let statement = stated("BOS-01", NOW, &signer("BOS-01", KeyUse::Delegation));
    let error = city().open(&statement, NOW).unwrap_err();
    assert!(matches!(error, Error::WrongUse { key_use: KeyUse::Delegation, .. }));
    assert_eq!(error.reason(), "unknown-key");
}

#[test]
fn a_key_has_one_holder_and_one_use() {
    for taken in [
        key("BOS-01", KeyUse::Statement),
        key("BOS-01/FIRE", KeyUse::Statement),
        PublicKey { key_use: KeyUse::Statement, ..key("BOS-01", KeyUse::Delegation) },
        PublicKey { bytes: root_key().public_key().to_vec(), ..key("X", KeyUse::Statement) },
    ] {
        let thief = Delegation {
            keys: vec![taken, key("BOS-03", KeyUse::Delegation)],
            ..grant("BOS-03", Level::District, Some("BOS"))
        };
        let error = refused(&thief);
        assert!(matches!(error, Error::KeyTaken { .. }), "{error}");
    }
    let swapped = Delegation {
        serial: 2,
        keys: vec![
            PublicKey { key_use: KeyUse::Statement, ..key("BOS-02", KeyUse::Delegation) },
            PublicKey { key_use: KeyUse::Delegation, ..key("BOS-02", KeyUse::Statement) },
        ],
        ..grant("BOS-02", Level::District, Some("BOS"))
    };
    assert!(matches!(refused(&swapped), Error::KeyTaken { .. }));
}

#[test]
fn a_desk_is_its_own_units_and_delegates_nothing() {
    let foreign = Delegation {
        issuer: Some(code("BOS-02")),
        ..desk_grant("BOS-01", Level::District, "WATER")
    };
    assert!(matches!(refused(&foreign), Error::Desk { .. }));
    let from_above =
        Delegation { issuer: Some(code("BOS")), ..desk_grant("BOS-01", Level::District, "WATER") };
    assert!(matches!(refused(&from_above), Error::Desk { .. }));
    let mut greedy = desk_grant("BOS-01", Level::District, "WATER");
    greedy.keys.push(key("BOS-01/WATER", KeyUse::Delegation));
    assert!(matches!(refused(&greedy), Error::Desk { .. }));
    assert!(matches!(refused(&desk_grant("BOS-01", Level::Street, "X")), Error::Desk { .. }));
    let of_root = Delegation { issuer: None, ..desk_grant("BOS", Level::City, "X") };
    assert!(matches!(refused(&of_root), Error::Desk { .. }));
    let by_desk = signer("BOS-01/FIRE", KeyUse::Statement);
    let error = refused_by(&desk_grant("BOS-01", Level::District, "WATER"), &by_desk);
    assert!(matches!(error, Error::WrongSource { .. }));
}

#[test]
fn other_domains_types_and_serials_are_refused() {
    let foreign = Delegation {
        trust_domain: "cambridge.example".to_owned(),
        ..grant("BOS-03", Level::District, Some("BOS"))
    };
    assert_eq!(refused(&foreign).reason(), "wrong-domain");
    let again =
        Delegation { title: "other".to_owned(), ..grant("BOS-01", Level::District, Some("BOS")) };
    assert!(matches!(refused(&again), Error::SerialReused { .. }));
    let statement = stated("BOS", NOW, &signer("BOS", KeyUse::Delegation));
    assert_eq!(city().add(&statement, NOW).unwrap_err().reason(), "unknown-type");
}

#[test]
fn a_changed_byte_is_a_bad_signature() {
    let mut envelope = issued(&grant("BOS-03", Level::District, Some("BOS")));
    let mut payload = envelope.payload.to_vec();
    payload[30] ^= 1;
    envelope.payload = payload.into();
    assert_eq!(city().add(&envelope, NOW).unwrap_err().reason(), "bad-signature");
    envelope.signatures.clear();
    assert_eq!(city().add(&envelope, NOW).unwrap_err().reason(), "malformed");
}

#[test]
fn the_future_is_refused_but_not_on_a_restart() {
    let envelope = issued(&grant("BOS-03", Level::District, Some("BOS")));
    let mut trust = city();
    assert!(trust.check(&envelope, Some(NOW - 3 * DAY)).is_ok());
    let error = trust.add(&envelope, NOW - 3 * DAY - 1).unwrap_err();
    assert_eq!(error, Error::Future { ahead_ms: 3 * DAY + 1 });
    assert!(trust.restore(&envelope).unwrap().new);
}

fn stated(source: &str, time: UnixMillis, by: &Signer) -> Envelope {
    let header = Header {
        id: StatementId::generate(time),
        source: code(source),
        kind: kinds::SUMMARY.to_owned(),
        subject: String::new(),
        time_unix_ms: time,
        dataschema: String::new(),
        epoch: 1,
        seq: 1,
        purpose: String::new(),
        classification: Classification::Internal,
        exercise: false,
        destination: None,
        traceparent: String::new(),
        on_behalf_of: None,
        sealing: None,
        handed_by: Default::default(),
    };
    envelope::sign(STATEMENT_TYPE, header::encode(&header, b"body"), &[by])
}

#[test]
fn a_statement_is_opened_for_its_source_and_its_desks() {
    let trust = city();
    let opened = trust.open(&stated("BOS-01", NOW, &signer("BOS-01", KeyUse::Statement)), NOW);
    let opened = opened.unwrap();
    assert_eq!(opened.signer, (code("BOS-01"), None));
    assert_eq!(opened.statement.body.as_ref(), b"body");
    let by_desk = signer("BOS-01/FIRE", KeyUse::Statement);
    let opened = trust.open(&stated("BOS-01", NOW, &by_desk), NOW).unwrap();
    assert_eq!(opened.signer, (code("BOS-01"), Some(desk("FIRE"))));
}

#[test]
fn nobody_speaks_for_another_unit() {
    let trust = city();
    let refused =
        |source: &str, by: &Signer| trust.open(&stated(source, NOW, by), NOW).unwrap_err();
    let sibling = refused("BOS-01", &signer("BOS-02", KeyUse::Statement));
    assert_eq!((sibling.reason(), sibling.field()), ("wrong-source", "header.source"));
    let desk = refused("BOS-02", &signer("BOS-01/FIRE", KeyUse::Statement));
    assert_eq!(desk.reason(), "wrong-source");
    let parent = refused("BOS-01-W03", &signer("BOS-01", KeyUse::Statement));
    assert_eq!(parent.reason(), "wrong-source");
    let root = refused("BOS", &root_key());
    assert_eq!(root.reason(), "wrong-source");
    let unknown = refused("NOWHERE", &signer("BOS-01", KeyUse::Statement));
    assert_eq!(unknown.reason(), "outside-subtree");
    let stranger = refused("BOS-01", &Signer::from_seed(&[77; 32]));
    assert_eq!(stranger.reason(), "unknown-key");
}

#[test]
fn a_statement_is_judged_by_the_time_it_was_made() {
    let trust = city();
    let by = signer("BOS-01", KeyUse::Statement);
    let open = |time, now| trust.open(&stated("BOS-01", time, &by), now).map(drop);
    let end = NOW + 300 * DAY;
    // A clock that is a day off loses nothing, at either end.
    assert_eq!(open(NOW - DAY, NOW), Ok(()));
    assert_eq!(open(NOW + DAY, NOW), Ok(()));
    assert_eq!(open(end + DAY, end), Ok(()));
    assert_eq!(open(end + 3 * DAY, end + 3 * DAY).unwrap_err().reason(), "expired");
    assert_eq!(open(NOW - 3 * DAY - 1, NOW).unwrap_err().reason(), "expired");
    assert!(matches!(open(NOW + 4 * DAY, NOW), Err(Error::Future { .. })));
    // What was signed in time holds for ever.
    assert_eq!(open(NOW + DAY, NOW + 5000 * DAY), Ok(()));
}

#[test]
fn a_replaced_key_speaks_for_its_own_time_only() {
    let mut trust = city();
    let renewed = Delegation {
        serial: 2,
        not_before_unix_ms: NOW + 100 * DAY,
        keys: vec![key("renewed", KeyUse::Statement), key("renewed", KeyUse::Delegation)],
        ..grant("BOS-01", Level::District, Some("BOS"))
    };
    trust.add(&issued(&renewed), NOW + 100 * DAY).unwrap();
    let now = NOW + 200 * DAY;
    let old = signer("BOS-01", KeyUse::Statement);
    let new = signer("renewed", KeyUse::Statement);
    let witnessed = |time, by: &Signer, at: Option<UnixMillis>| {
        trust.open_witnessed(&stated("BOS-01", time, by), now, at).map(drop)
    };
    let open = |time, by: &Signer| witnessed(time, by, None);
    // Whoever has the old key can write any date on a statement: only a witness counts.
    for time in [NOW + 50 * DAY, NOW + 102 * DAY] {
        assert_eq!(open(time, &old).unwrap_err().reason(), "ended-key");
        assert_eq!(witnessed(time, &old, Some(NOW + 100 * DAY - 1)), Ok(()));
        let late = witnessed(time, &old, Some(NOW + 100 * DAY)).unwrap_err();
        assert_eq!((late.reason(), late.field()), ("ended-key", "signatures"));
    }
    assert_eq!(open(NOW + 104 * DAY, &old).unwrap_err().reason(), "expired");
    assert_eq!(open(NOW + 104 * DAY, &new), Ok(()));
    assert_eq!(open(NOW + 50 * DAY, &new).unwrap_err().reason(), "expired");
    // A replaced DELEGATION key grants nothing more.
    let late = grant("BOS-01-W09", Level::Street, Some("BOS-01"));
    let late = Delegation { not_before_unix_ms: now, ..late };
    let late = issue::sign(&late, &signer("BOS-01", KeyUse::Delegation), now);
    assert!(matches!(trust.add(&late, now), Err(Error::Expired { .. })));
    let backdated = grant("BOS-01-W09", Level::Street, Some("BOS-01"));
    assert_eq!(trust.add(&issued(&backdated), now).unwrap_err().reason(), "ended-key");
    // What was believed before stays, also over a restart.
    assert!(!trust.add(&issued_street(&trust), now).unwrap().new);
    assert!(trust.restore(&issued(&backdated)).unwrap().new);
}

fn issued_street(trust: &Trust) -> Envelope {
    trust.chain(&code("BOS-01-W03")).pop().unwrap()
}

fn sm2(holder: &str, key_use: KeyUse) -> Signer {
    let seed = Sha256::digest(format!("{holder} {key_use:?}"));
    Signer::from_private_bytes(suite_to_proto(Suite::Sm2Sm3), &seed.into()).unwrap()
}

/// The grant with keys of SM2 in place of its own.
fn in_sm2(delegation: Delegation) -> Delegation {
    let holder = delegation.unit.to_string();
    let keys = [KeyUse::Statement, KeyUse::Delegation].map(|key_use| PublicKey {
        suite: Suite::Sm2Sm3,
        bytes: sm2(&holder, key_use).public_key().to_vec(),
        key_use,
    });
    Delegation { keys: keys.to_vec(), ..delegation }
}

fn sm2_root() -> Delegation {
    Delegation { accepted_suites: vec![Suite::Sm2Sm3], ..in_sm2(grant("BOS", Level::City, None)) }
}

/// A city whose root accepts SM2 alone.
fn sm2_city() -> Trust {
    let root = sm2("root", KeyUse::Delegation);
    let mut trust = Trust::new(DOMAIN.to_owned(), root.verifying_key());
    trust.add(&issue::sign(&sm2_root(), &root, NOW), NOW).unwrap();
    trust
}

fn by_city(delegation: &Delegation) -> Envelope {
    issue::sign(delegation, &sm2("BOS", KeyUse::Delegation), NOW)
}

fn suite_refused(result: Result<Added, Error>) -> Suite {
    let error = result.unwrap_err();
    assert_eq!((error.reason(), error.field()), ("suite-not-accepted", "body.keys"));
    let Error::SuiteNotAccepted { suite, .. } = error else { panic!("{error:?}") };
    suite
}

#[test]
fn a_chain_in_sm2_is_believed_as_one_in_ed25519() {
    let mut trust = sm2_city();
    let district = in_sm2(grant("BOS-01", Level::District, Some("BOS")));
    assert!(trust.add(&by_city(&district), NOW).unwrap().new);
    let statement = stated("BOS-01", NOW, &sm2("BOS-01", KeyUse::Statement));
    assert_eq!(trust.open(&statement, NOW).unwrap().signer.0, code("BOS-01"));
}

#[test]
fn a_chain_that_changes_its_suite_on_the_way_is_refused() {
    let mut trust = sm2_city();
    let downgraded = grant("BOS-01", Level::District, Some("BOS"));
    assert_eq!(suite_refused(trust.add(&by_city(&downgraded), NOW)), Suite::Ed25519);
    // One key of two is enough.
    let mixed = in_sm2(grant("BOS-01", Level::District, Some("BOS")));
    let mut keys = mixed.keys.clone();
    keys[0] = key("BOS-01", KeyUse::Statement);
    let mixed = Delegation { keys, ..mixed };
    assert_eq!(suite_refused(trust.add(&by_city(&mixed), NOW)), Suite::Ed25519);
    // A city that says nothing accepts Ed25519 alone.
    let upgraded = in_sm2(grant("BOS-03", Level::District, Some("BOS")));
    assert_eq!(suite_refused(city().add(&issued(&upgraded), NOW)), Suite::Sm2Sm3);
    let mut desk = desk_grant("BOS-01", Level::District, "WATER");
    desk.keys[0] = in_sm2(grant("X", Level::District, None)).keys[0].clone();
    assert_eq!(suite_refused(city().add(&issued(&desk), NOW)), Suite::Sm2Sm3);
}

#[test]
fn the_root_accepts_its_own_suites_or_none() {
    let root = sm2("root", KeyUse::Delegation);
    let fresh = || Trust::new(DOMAIN.to_owned(), root.verifying_key());
    let add = |own: &Delegation| fresh().add(&issue::sign(own, &root, NOW), NOW);
    // The keys are accepted, the root key is not; then the other way round.
    let other =
        Delegation { accepted_suites: vec![Suite::Ed25519], ..grant("BOS", Level::City, None) };
    assert_eq!(suite_refused(add(&other)), Suite::Sm2Sm3);
    let keys = grant("BOS", Level::City, None).keys;
    assert_eq!(suite_refused(add(&Delegation { keys, ..sm2_root() })), Suite::Ed25519);
    let silent = Delegation { accepted_suites: Vec::new(), ..sm2_root() };
    assert_eq!(suite_refused(add(&silent)), Suite::Sm2Sm3);
}

#[test]
fn a_suite_that_the_root_gave_up_signs_nothing_more_and_history_stays() {
    let root = sm2("root", KeyUse::Delegation);
    let both = vec![Suite::Sm2Sm3, Suite::Ed25519];
    let mut trust = Trust::new(DOMAIN.to_owned(), root.verifying_key());
    let first = Delegation { accepted_suites: both, ..sm2_root() };
    trust.add(&issue::sign(&first, &root, NOW), NOW).unwrap();
    trust.add(&by_city(&grant("BOS-01", Level::District, Some("BOS"))), NOW).unwrap();
    let now = NOW + 100 * DAY;
    let narrowed = Delegation { serial: 2, not_before_unix_ms: now, ..sm2_root() };
    trust.add(&issue::sign(&narrowed, &root, now), now).unwrap();

    let statement = |time| stated("BOS-01", time, &signer("BOS-01", KeyUse::Statement));
    assert!(trust.open(&statement(NOW), now).is_ok());
    let late = trust.open(&statement(now + 10 * DAY), now + 10 * DAY).unwrap_err();
    assert_eq!(late.reason(), "suite-not-accepted");
    let grant = grant("BOS-01-W03", Level::Street, Some("BOS-01"));
    let by_old = |time| issue::sign(&grant, &signer("BOS-01", KeyUse::Delegation), time);
    let late = now + 10 * DAY;
    assert_eq!(trust.add(&by_old(late), late).unwrap_err().reason(), "suite-not-accepted");
}
