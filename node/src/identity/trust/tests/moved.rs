//! A grant by another parent: only with an order from above both, for this step, once, not early.

use super::*;
use crate::{
    domain::{
        reform::Order,
        revocation::{Reason, Revocation},
    },
    statement::{
        reform::{encode_body, order_to_grant},
        revocation::Proven,
    },
};

pub(super) const STREET: &str = "BOS-01-W03";

pub(super) fn order(from: &str, to: &str, after_days: i64) -> Order {
    Order {
        trust_domain: DOMAIN.to_owned(),
        unit: code(STREET),
        from: code(from),
        to: code(to),
        on: "2025-10-19".parse().unwrap(),
        effective_unix_ms: NOW + after_days * DAY,
        keys_sha256: [3; 32],
        text: String::new(),
        merge: false,
        division: None,
    }
}

/// Signed at `time` in the name of `by` with the key of `holder`.
pub(super) fn signed(order: &Order, by: &str, holder: &Signer, time: UnixMillis) -> Vec<u8> {
    let header = Header {
        id: StatementId::generate(time),
        source: code(by),
        kind: kinds::REFORM.to_owned(),
        subject: order.unit.to_string(),
        time_unix_ms: time,
        dataschema: String::new(),
        epoch: 1,
        seq: 1,
        purpose: "joint-meeting".to_owned(),
        classification: Classification::Internal,
        exercise: false,
        destination: None,
        traceparent: String::new(),
        on_behalf_of: None,
        sealing: None,
        handed_by: Default::default(),
    };
    let payload = header::encode(&header, &encode_body(order));
    order_to_grant(&envelope::sign(STATEMENT_TYPE, payload, &[holder]))
}

pub(super) fn by_city(order: &Order) -> Vec<u8> {
    signed(order, "BOS", &signer("BOS", KeyUse::Statement), NOW)
}

/// The grant of the street by another parent, `serial - 1` days after the first.
pub(super) fn moved(to: &str, serial: u64, reform: Option<Vec<u8>>) -> Delegation {
    let days = i64::try_from(serial).unwrap() - 1;
    Delegation {
        reform,
        serial,
        not_before_unix_ms: NOW + days * DAY,
        ..grant(STREET, Level::Street, Some(to))
    }
}

pub(super) fn add(trust: &mut Trust, delegation: &Delegation) -> Result<(), Error> {
    let now = delegation.not_before_unix_ms;
    let by = delegation.issuer.as_ref().unwrap().as_str();
    let envelope = issue::sign(delegation, &signer(by, KeyUse::Delegation), now);
    trust.add(&envelope, now + 30 * DAY).map(drop)
}

fn reason(reform: Vec<u8>) -> String {
    let error = add(&mut city(), &moved("BOS-02", 9, Some(reform))).unwrap_err();
    assert_eq!(error.reason(), "outside-subtree", "{error}");
    error.to_string()
}

#[test]
fn a_unit_comes_under_another_parent_by_an_order_from_above_both() {
    let mut trust = city();
    add(&mut trust, &moved("BOS-02", 9, Some(by_city(&order("BOS-01", "BOS-02", 7))))).unwrap();
    let street = code(STREET);
    assert_eq!(trust.parent(&street), Some(&code("BOS-02")));
    assert_eq!(trust.children(&code("BOS-01")), Vec::<&UnitCode>::new());
    assert_eq!(trust.children(&code("BOS-02")), [&street]);
    // By the day of the order, whatever the clocks said when the grant was made.
    let on =
        |day: &str| trust.parent_on(&street, day.parse().unwrap()).unwrap().as_str().to_owned();
    assert_eq!((on("2025-10-18"), on("2025-10-19")), ("BOS-01".to_owned(), "BOS-02".to_owned()));
    assert!(trust.was_below(&street, &code("BOS-01")));
    assert!(trust.parted(&code("BOS-01"), &street) && trust.parted(&street, &code("BOS-01")));
    assert!(trust.parted(&code("BOS-02"), &code("BOS-01")), "on the way to the street");
    assert!(!trust.parted(&code("BOS-01"), &code("BOS-02")), "not the other way about");
    // What it said before stays its own.
    assert!(trust.open(&statement_of_street(NOW + DAY), NOW + 30 * DAY).is_ok());
}

/// What the street granted while it was under its old parent holds on, though its grant by the new one
/// ends earlier: also what it granted on the last day before, when clocks may differ.
#[test]
fn what_a_unit_granted_before_it_moved_holds_under_a_parent_whose_grant_ends_earlier() {
    let by_street = |days: i64| {
        let time = NOW + days * DAY;
        // Granted anew: it keeps the day on which it began.
        let child = Delegation {
            not_before_unix_ms: NOW,
            ..grant("BOS-01-W03-P1", Level::Community, Some(STREET))
        };
        issue::sign(&child, &signer(STREET, KeyUse::Delegation), time)
    };
    let coming = || {
        let order = by_city(&order("BOS-01", "BOS-02", 7));
        let coming = moved("BOS-02", 9, Some(order));
        Delegation { not_after_unix_ms: coming.not_after_unix_ms - 20 * DAY, ..coming }
    };
    // In the order in which it happened, and as a store is read: the issuer's grants first.
    for days in [1, 6, 7] {
        let mut trust = city();
        trust.add(&by_street(days), NOW + 30 * DAY).unwrap();
        add(&mut trust, &coming()).unwrap();
        let mut read = city();
        add(&mut read, &coming()).unwrap();
        read.add(&by_street(days), NOW + 30 * DAY).unwrap();
    }
    // What it grants later ends with its own grant, and may have begun before it moved.
    let mut trust = city();
    add(&mut trust, &coming()).unwrap();
    let refused = |trust: &mut Trust, from: UnixMillis, until: UnixMillis| {
        let time = NOW + 12 * DAY;
        let child = Delegation {
            not_before_unix_ms: from,
            not_after_unix_ms: until,
            ..grant("BOS-01-W03-P1", Level::Community, Some(STREET))
        };
        let envelope = issue::sign(&child, &signer(STREET, KeyUse::Delegation), time);
        trust.add(&envelope, NOW + 30 * DAY).err()
    };
    let ends = coming().not_after_unix_ms;
    let early = refused(&mut trust, NOW - 4 * DAY, ends);
    assert!(matches!(early, Some(Error::OutlivesIssuer { .. })), "{early:?}");
    let late = refused(&mut trust, NOW, ends + 1);
    assert!(matches!(late, Some(Error::OutlivesIssuer { .. })), "{late:?}");
    assert_eq!(refused(&mut trust, NOW, ends).map(|error| error.to_string()), None);
}

pub(super) fn statement_of_street(time: UnixMillis) -> Envelope {
    let header = Header {
        id: StatementId::generate(time),
        source: code(STREET),
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
    let payload = header::encode(&header, b"");
    envelope::sign(STATEMENT_TYPE, payload, &[&signer(STREET, KeyUse::Statement)])
}

#[test]
fn the_grants_of_a_unit_that_moved_are_believed_in_any_order() {
    let order = by_city(&order("BOS-01", "BOS-02", 7));
    let second = moved("BOS-02", 9, Some(order));
    let mut trust = Trust::new(DOMAIN.to_owned(), root_key().verifying_key());
    for delegation in [
        grant("BOS", Level::City, None),
        grant("BOS-01", Level::District, Some("BOS")),
        grant("BOS-02", Level::District, Some("BOS")),
    ] {
        trust.add(&issued(&delegation), NOW).unwrap();
    }
    add(&mut trust, &second).unwrap();
    // Who never saw the first grant knows by the order when the unit came.
    let before = trust.parent_on(&code(STREET), "2025-10-18".parse().unwrap());
    assert_eq!(before, Some(&code("BOS-01")));
    trust.restore(&issued(&grant(STREET, Level::Street, Some("BOS-01")))).unwrap();
    assert_eq!(trust.parent(&code(STREET)), Some(&code("BOS-02")));
    // But not if that order is by nobody above both.
    let own = signed(
        &self::order("BOS-01", "BOS-02", 7),
        "BOS-02",
        &signer("BOS-02", KeyUse::Statement),
        NOW,
    );
    let mut trust = Trust::new(DOMAIN.to_owned(), root_key().verifying_key());
    for delegation in [
        grant("BOS", Level::City, None),
        grant("BOS-01", Level::District, Some("BOS")),
        grant("BOS-02", Level::District, Some("BOS")),
    ] {
        trust.add(&issued(&delegation), NOW).unwrap();
    }
    add(&mut trust, &moved("BOS-02", 9, Some(own))).unwrap();
    let first = trust.restore(&issued(&grant(STREET, Level::Street, Some("BOS-01"))));
    assert!(first.unwrap_err().to_string().contains("not above both"));
}

#[test]
fn nobody_takes_a_unit_from_its_parent_without_an_order() {
    let error = add(&mut city(), &moved("BOS-02", 9, None)).unwrap_err();
    assert!(matches!(error, Error::Moved { .. }), "{error}");
}

#[test]
fn an_order_by_a_unit_that_is_not_above_both_parents_is_refused() {
    let order = order("BOS-01", "BOS-02", 7);
    for by in ["BOS-01", "BOS-02", STREET] {
        let reform = signed(&order, by, &signer(by, KeyUse::Statement), NOW);
        assert!(reason(reform).contains("not above both"), "{by}");
    }
    // In the name of the city, with a key of another unit, or of the city for another use.
    let forged = signed(&order, "BOS", &signer("BOS-02", KeyUse::Statement), NOW);
    let error = add(&mut city(), &moved("BOS-02", 9, Some(forged))).unwrap_err();
    assert_eq!(error.reason(), "wrong-source");
    let other_use = signed(&order, "BOS", &signer("BOS", KeyUse::Delegation), NOW);
    let error = add(&mut city(), &moved("BOS-02", 9, Some(other_use))).unwrap_err();
    assert!(matches!(error, Error::WrongUse { .. }), "{error}");
}

#[test]
fn an_order_is_good_for_its_own_step_alone() {
    let other_unit = Order { unit: code("BOS-01-W04"), ..order("BOS-01", "BOS-02", 7) };
    assert!(reason(by_city(&other_unit)).contains("another step"));
    assert!(reason(by_city(&order("BOS", "BOS-02", 7))).contains("another step"));
    assert!(reason(by_city(&order("BOS-01", "BOS", 7))).contains("another step"));
    let other_city =
        Order { trust_domain: "other.example".to_owned(), ..order("BOS-01", "BOS-02", 7) };
    let error = add(&mut city(), &moved("BOS-02", 9, Some(by_city(&other_city)))).unwrap_err();
    assert_eq!(error.reason(), "wrong-domain");
}

#[test]
fn an_order_is_used_once() {
    let mut trust = city();
    let first = by_city(&order("BOS-01", "BOS-02", 7));
    add(&mut trust, &moved("BOS-02", 9, Some(first.clone()))).unwrap();
    let back = by_city(&order("BOS-02", "BOS-01", 12));
    add(&mut trust, &moved("BOS-01", 14, Some(back))).unwrap();
    let error = add(&mut trust, &moved("BOS-02", 16, Some(first))).unwrap_err();
    assert!(error.to_string().contains("used before"), "{error}");
    assert_eq!(trust.parent(&code(STREET)), Some(&code("BOS-01")));
}

#[test]
fn a_backdated_order_and_a_grant_before_its_day_are_refused() {
    let backdated = Order { effective_unix_ms: NOW - 1, ..order("BOS-01", "BOS-02", 0) };
    assert!(reason(by_city(&backdated)).contains("backdated"));
    let error = add(&mut city(), &moved("BOS-02", 2, Some(by_city(&order("BOS-01", "BOS-02", 7)))));
    assert!(error.unwrap_err().to_string().contains("before the day"));
}

#[test]
fn a_unit_keeps_its_level_whatever_an_order_says() {
    let order = by_city(&order("BOS-01", "BOS-02", 7));
    let higher = Delegation { level: Level::Community, ..moved("BOS-02", 9, Some(order)) };
    assert!(matches!(add(&mut city(), &higher).unwrap_err(), Error::Moved { .. }));
}

#[test]
fn what_the_old_parent_revoked_stays_revoked() {
    let mut trust = city();
    let revocation = Revocation {
        trust_domain: DOMAIN.to_owned(),
        unit: code(STREET),
        desk: None,
        key_ids: trust.key_ids(&code(STREET), None),
        serial: 0,
        compromised_since_unix_ms: None,
        reason: Reason::KeyStolen,
        text: String::new(),
    };
    let revoke = |time| Proven {
        revocation: issue::sign_revocation(
            &revocation,
            &code("BOS-01"),
            &signer("BOS-01", KeyUse::Delegation),
            time,
        ),
        chain: city().chain(&code("BOS-01")),
        place: None,
    };
    let known = trust.check_revocation(&revoke(NOW + DAY), Some(NOW + 2 * DAY)).unwrap();
    assert!(trust.take_revocation(known));
    // It is back with new keys, and moves.
    let keys = vec![key("again", KeyUse::Statement), key("again", KeyUse::Delegation)];
    let back = Delegation {
        keys: keys.clone(),
        serial: 3,
        not_before_unix_ms: NOW + 2 * DAY,
        ..grant(STREET, Level::Street, Some("BOS-01"))
    };
    add(&mut trust, &back).unwrap();
    let reform = by_city(&order("BOS-01", "BOS-02", 7));
    add(&mut trust, &Delegation { keys, ..moved("BOS-02", 9, Some(reform)) }).unwrap();
    let said = |trust: &Trust| trust.open(&statement_of_street(NOW + DAY), NOW + 30 * DAY);
    assert_eq!(said(&trust).unwrap_err().reason(), "ended-key");
    // What it revokes from then on reaches the unit no more.
    let error = trust.check_revocation(&revoke(NOW + 20 * DAY), Some(NOW + 30 * DAY)).unwrap_err();
    assert_eq!(error.reason(), "outside-subtree");
}

#[test]
fn a_unit_merges_into_a_sibling_of_its_level_by_an_order_from_above_both() {
    let merging = |reform| Delegation {
        reform: Some(reform),
        serial: 9,
        not_before_unix_ms: NOW + 8 * DAY,
        ..grant("BOS-01", Level::District, Some("BOS-02"))
    };
    let street = Order { merge: true, ..order("BOS-01", "BOS-02", 7) };
    let order = Order { unit: code("BOS-01"), merge: true, ..order("BOS", "BOS-02", 7) };
    let mut trust = city();
    add(&mut trust, &merging(by_city(&order))).unwrap();
    let (merged, into) = (code("BOS-01"), code("BOS-02"));
    assert_eq!(trust.merged_into(&merged), Some(&into));
    assert_eq!(trust.inherited(&into), [&merged]);
    assert_eq!(trust.heir(&merged), &merged, "until it has ended");
    assert!(trust.is_in_subtree(&code(STREET), &into), "what is below it comes along");
    // The same grant again, with the same order: it was used.
    let again = Delegation { serial: 10, ..merging(by_city(&order)) };
    add(&mut trust, &again).unwrap();
    let back = Delegation {
        serial: 11,
        not_before_unix_ms: NOW + 9 * DAY,
        ..grant("BOS-01", Level::District, Some("BOS"))
    };
    assert!(add(&mut trust, &back).is_err());

    let no_merge = Order { merge: false, ..order.clone() };
    let by_sibling = signed(&order, "BOS-02", &signer("BOS-02", KeyUse::Statement), NOW);
    let itself = signed(&order, "BOS-01", &signer("BOS-01", KeyUse::Statement), NOW);
    for reform in [by_city(&no_merge), by_sibling, itself] {
        let error = add(&mut city(), &merging(reform)).unwrap_err();
        assert_eq!(error.reason(), "outside-subtree", "{error}");
    }
    // Of another level, and under another parent.
    assert!(reason(by_city(&street)).contains("sibling"));
    // A first grant that names one of its level is judged in the same way.
    let unknown = Delegation {
        unit: code("BOS-09"),
        ..merging(by_city(&Order { unit: code("BOS-09"), merge: false, ..order }))
    };
    assert!(add(&mut city(), &unknown).is_err());
}
