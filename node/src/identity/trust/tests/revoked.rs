//! What a revocation ends, who may revoke, and that the order of arrival does not matter.

use super::*;
use crate::{
    domain::revocation::{Reason, Revocation},
    statement::revocation::Proven,
};

/// The whole grant of `unit`, with the keys that it has in [`city`].
fn of(unit: &str) -> Revocation {
    Revocation {
        trust_domain: DOMAIN.to_owned(),
        unit: code(unit),
        desk: None,
        key_ids: city().key_ids(&code(unit), None),
        serial: 1,
        compromised_since_unix_ms: None,
        reason: Reason::KeyStolen,
        text: String::new(),
    }
}

fn by_at(by: &str, revocation: &Revocation, signer: &Signer, time: UnixMillis) -> Proven {
    Proven {
        revocation: issue::sign_revocation(revocation, &code(by), signer, time),
        chain: city().chain(&code(by)),
        place: None,
    }
}

fn by(by: &str, revocation: &Revocation) -> Proven {
    by_at(by, revocation, &signer(by, KeyUse::Delegation), NOW + DAY)
}

fn take(trust: &mut Trust, proven: &Proven) -> Result<bool, Error> {
    let known = trust.check_revocation(proven, Some(NOW + 2 * DAY))?;
    Ok(trust.take_revocation(known))
}

fn after(items: &[Proven]) -> Trust {
    let mut trust = city();
    for item in items {
        assert!(take(&mut trust, item).unwrap());
    }
    trust
}

fn refused_revocation(proven: &Proven) -> Error {
    take(&mut city(), proven).unwrap_err()
}

fn said(trust: &Trust, unit: &str, holder: &str) -> Result<(), Error> {
    let envelope = stated(unit, NOW, &signer(holder, KeyUse::Statement));
    trust.open(&envelope, NOW + 2 * DAY).map(drop)
}

#[test]
fn a_revoked_unit_and_its_desks_are_believed_no_more() {
    let trust = after(&[by("BOS", &of("BOS-01"))]);
    let error = said(&trust, "BOS-01", "BOS-01").unwrap_err();
    assert_eq!((error.reason(), error.field()), ("revoked", "signatures"));
    assert_eq!(said(&trust, "BOS-01", "BOS-01/FIRE").unwrap_err().reason(), "revoked");
    let known = trust.revoked(&code("BOS-01"), None).unwrap();
    assert_eq!((known.by.as_str(), known.cutoff()), ("BOS", NOW + DAY));
    assert!(trust.revoked(&code("BOS-01"), Some(&desk("FIRE"))).is_some());
    assert!(trust.revoked(&code("BOS-02"), None).is_none());
    assert_eq!(said(&trust, "BOS-02", "BOS-02"), Ok(()));
    // What was granted before it was known stays known; nothing new comes.
    assert_eq!(said(&trust, "BOS-01-W03", "BOS-01-W03"), Ok(()));
    let later = grant("BOS-01-W05", Level::Street, Some("BOS-01"));
    let mut trust = trust;
    assert_eq!(trust.add(&issued(&later), NOW + 2 * DAY).unwrap_err().reason(), "revoked");
}

#[test]
fn what_was_witnessed_before_the_theft_is_still_believed() {
    let mut theft = of("BOS-01");
    theft.compromised_since_unix_ms = Some(NOW + DAY / 2);
    let trust = after(&[by("BOS", &theft)]);
    let envelope = stated("BOS-01", NOW, &signer("BOS-01", KeyUse::Statement));
    let open = |at| trust.open_witnessed(&envelope, NOW + 2 * DAY, at).map(drop);
    assert_eq!(open(Some(NOW + DAY / 2 - 1)), Ok(()));
    // After the theft but before the revocation: the thief had the key by then.
    assert_eq!(open(Some(NOW + DAY / 2)).unwrap_err().reason(), "revoked");
    assert_eq!(open(None).unwrap_err().reason(), "revoked");
}

#[test]
fn one_key_can_be_revoked_alone() {
    let mut one = of("BOS-01");
    one.serial = 0;
    one.key_ids = vec![id_of(&key("BOS-01", KeyUse::Statement))];
    let mut trust = after(&[by("BOS", &one)]);
    assert_eq!(said(&trust, "BOS-01", "BOS-01").unwrap_err().reason(), "ended-key");
    assert_eq!(said(&trust, "BOS-01", "BOS-01/FIRE"), Ok(()));
    assert!(trust.revoked(&code("BOS-01"), None).is_none());
    let child = grant("BOS-01-W05", Level::Street, Some("BOS-01"));
    assert!(trust.add(&issued(&child), NOW + 2 * DAY).unwrap().new);
    // A revoked DELEGATION key grants nothing.
    one.key_ids = vec![id_of(&key("BOS-01", KeyUse::Delegation))];
    assert!(take(&mut trust, &by("BOS", &one)).unwrap());
    let child = grant("BOS-01-W07", Level::Street, Some("BOS-01"));
    assert_eq!(trust.add(&issued(&child), NOW + 2 * DAY).unwrap_err().reason(), "ended-key");
}

#[test]
fn a_desk_can_be_revoked_by_its_own_unit() {
    let of_desk = Revocation {
        desk: Some(desk("FIRE")),
        key_ids: city().key_ids(&code("BOS-01"), Some(&desk("FIRE"))),
        ..of("BOS-01")
    };
    let trust = after(&[by("BOS-01", &of_desk)]);
    assert_eq!(said(&trust, "BOS-01", "BOS-01/FIRE").unwrap_err().reason(), "revoked");
    assert_eq!(said(&trust, "BOS-01", "BOS-01"), Ok(()));
}

#[test]
fn a_unit_comes_back_with_a_new_grant_and_new_keys_only() {
    let mut trust = after(&[by("BOS", &of("BOS-01"))]);
    let again = Delegation { serial: 2, ..grant("BOS-01", Level::District, Some("BOS")) };
    let error = trust.add(&issued(&again), NOW + 2 * DAY).unwrap_err();
    assert_eq!(error.reason(), "ended-key", "the old keys");
    let keys = vec![key("back", KeyUse::Statement), key("back", KeyUse::Delegation)];
    let not_before_unix_ms = NOW + 2 * DAY;
    let back = Delegation { keys, not_before_unix_ms, ..again };
    trust.add(&issued(&back), NOW + 2 * DAY).unwrap();
    assert!(trust.revoked(&code("BOS-01"), None).is_none());
    assert_eq!(said(&trust, "BOS-01", "back"), Ok(()));
    assert_eq!(said(&trust, "BOS-01", "BOS-01").unwrap_err().reason(), "revoked");
    assert_eq!(said(&trust, "BOS-01", "BOS-01/FIRE").unwrap_err().reason(), "revoked");
}

#[test]
fn only_who_is_above_revokes_and_with_the_right_key() {
    let mut sibling = city();
    let error = take(&mut sibling, &by("BOS-02", &of("BOS-01"))).unwrap_err();
    assert_eq!((error.reason(), error.field()), ("outside-subtree", "body.unit"));
    assert_eq!(said(&sibling, "BOS-01", "BOS-01"), Ok(()));
    let child = refused_revocation(&by("BOS-01-W03", &of("BOS-01")));
    assert!(matches!(child, Error::BeyondSubtree { .. }));
    let itself = refused_revocation(&by("BOS-01", &of("BOS-01")));
    assert!(matches!(itself, Error::BeyondSubtree { .. }));
    let wrong = by_at("BOS", &of("BOS-01"), &signer("BOS", KeyUse::Statement), NOW);
    assert!(matches!(refused_revocation(&wrong), Error::WrongUse { .. }));
    let in_its_name = by_at("BOS", &of("BOS-01"), &signer("BOS-02", KeyUse::Delegation), NOW);
    assert!(matches!(refused_revocation(&in_its_name), Error::Envelope(_)));
    let stranger = by_at("BOS", &of("BOS-01"), &Signer::from_seed(&[77; 32]), NOW);
    assert_eq!(refused_revocation(&stranger).reason(), "unknown-key");
    // A grandparent may.
    assert!(take(&mut city(), &by("BOS", &of("BOS-01-W03"))).unwrap());
}

#[test]
fn the_root_key_revokes_the_root_and_nothing_else() {
    let mut trust = city();
    assert!(take(&mut trust, &by_at("BOS", &of("BOS"), &root_key(), NOW)).unwrap());
    assert_eq!(said(&trust, "BOS", "BOS").unwrap_err().reason(), "revoked");
    let below = by_at("BOS", &of("BOS-01"), &root_key(), NOW);
    assert!(matches!(refused_revocation(&below), Error::WrongSource { .. }));
    let itself = by("BOS", &of("BOS"));
    assert!(matches!(refused_revocation(&itself), Error::BeyondSubtree { .. }));
}

#[test]
fn a_changed_or_foreign_revocation_is_refused() {
    let mut changed = by("BOS", &of("BOS-01"));
    let mut payload = changed.revocation.payload.to_vec();
    payload[40] ^= 1;
    changed.revocation.payload = payload.into();
    assert_eq!(refused_revocation(&changed).reason(), "bad-signature");
    let foreign = Revocation { trust_domain: "cambridge.example".to_owned(), ..of("BOS-01") };
    assert_eq!(refused_revocation(&by("BOS", &foreign)).reason(), "wrong-domain");
    let mut bare = by("BOS", &of("BOS-01"));
    bare.chain.clear();
    assert_eq!(refused_revocation(&bare).reason(), "unknown-key");
    let mut other = by("BOS", &of("BOS-01"));
    other.revocation = stated("BOS", NOW, &signer("BOS", KeyUse::Delegation));
    assert_eq!(refused_revocation(&other).reason(), "unknown-type");
    let ahead = by_at("BOS", &of("BOS-01"), &signer("BOS", KeyUse::Delegation), NOW + 9 * DAY);
    assert!(matches!(refused_revocation(&ahead), Error::Future { .. }));
}

#[test]
fn a_revocation_of_an_unknown_unit_waits_until_the_unit_is_known() {
    let mut unknown = of("BOS-01");
    unknown.unit = code("BOS-01-W05");
    unknown.key_ids = vec![id_of(&key("BOS-01-W05", KeyUse::Statement))];
    for (above, holds) in [("BOS-01", true), ("BOS-02", false)] {
        let mut trust = after(&[by(above, &unknown)]);
        trust.add(&issued(&grant("BOS-01-W05", Level::Street, Some("BOS-01"))), NOW).unwrap();
        assert_eq!(trust.revoked(&code("BOS-01-W05"), None).is_some(), holds, "{above}");
        assert_eq!(said(&trust, "BOS-01-W05", "BOS-01-W05").is_err(), holds, "{above}");
    }
}

#[test]
fn what_a_thief_revoked_falls_with_the_stolen_key_in_any_order() {
    let mut theft = of("BOS-01");
    theft.compromised_since_unix_ms = Some(NOW);
    let stolen = by("BOS", &theft);
    let by_thief = by("BOS-01", &of("BOS-01-W03"));
    for items in [[stolen.clone(), by_thief.clone()], [by_thief, stolen]] {
        let trust = after(&items);
        assert!(trust.revoked(&code("BOS-01"), None).is_some());
        assert!(trust.revoked(&code("BOS-01-W03"), None).is_none());
        assert_eq!(said(&trust, "BOS-01-W03", "BOS-01-W03"), Ok(()));
    }
    // Neither does a chain help that the thief made up with it.
    let thief = Delegation {
        serial: 9,
        keys: vec![key("thief", KeyUse::Statement), key("thief", KeyUse::Delegation)],
        ..grant("BOS-01-W03", Level::Street, Some("BOS-01"))
    };
    let community = grant("BOS-01-W03-1", Level::Community, Some("BOS-01-W03"));
    let mut proven = by_at(
        "BOS-01-W03",
        &Revocation {
            unit: community.unit.clone(),
            key_ids: vec![id_of(&key("BOS-01-W03-1", KeyUse::Statement))],
            ..of("BOS-01-W03")
        },
        &signer("thief", KeyUse::Delegation),
        NOW + DAY,
    );
    proven.chain = city().chain(&code("BOS-01"));
    proven.chain.push(issue::sign(&thief, &signer("BOS-01", KeyUse::Delegation), NOW + DAY));
    let mut trust = city();
    trust.add(&issued(&community), NOW).unwrap();
    assert!(take(&mut trust, &proven).unwrap());
    assert!(trust.revoked(&community.unit, None).is_some(), "as long as nobody knows of the theft");
    assert!(take(&mut trust, &by("BOS", &theft)).unwrap());
    assert!(trust.revoked(&community.unit, None).is_none());
}

#[test]
fn a_revocation_is_kept_once_and_the_digest_names_all() {
    let first = by("BOS", &of("BOS-01"));
    let second = by("BOS", &of("BOS-02"));
    let mut trust = after(std::slice::from_ref(&first));
    assert!(!take(&mut trust, &first).unwrap());
    let one = trust.revocations_sha256();
    assert_ne!(one, city().revocations_sha256());
    assert!(take(&mut trust, &second).unwrap());
    let other = after(&[second, first]);
    assert_eq!(trust.revocations_sha256(), other.revocations_sha256());
    assert_ne!(trust.revocations_sha256(), one);
    assert_eq!(trust.revocations().count(), 2);
}
