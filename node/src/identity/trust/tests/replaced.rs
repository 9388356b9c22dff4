//! Keys that are replaced step by step: when the former ones end, and what of theirs counts after.

use super::*;

const CHANGED: UnixMillis = NOW + 100 * DAY;

fn keys(names: &[&str]) -> Vec<PublicKey> {
    let mut keys: Vec<_> = names.iter().map(|name| key(name, KeyUse::Statement)).collect();
    keys.push(key("BOS-01", KeyUse::Delegation));
    keys
}

/// BOS-01 with both keys, then with the new one alone; each begins when the first grant did.
fn replacing(seen: &[[u8; 32]]) -> [Delegation; 2] {
    let first = grant("BOS-01", Level::District, Some("BOS"));
    let both = Delegation { serial: 2, keys: keys(&["BOS-01", "new"]), ..first };
    let change =
        KeyChange { since_unix_ms: CHANGED, seen_sha256: seen.to_vec(), ..KeyChange::default() };
    [both.clone(), Delegation { serial: 3, keys: keys(&["new"]), change, ..both }]
}

fn changed(seen: &[[u8; 32]]) -> Trust {
    let mut trust = city();
    for grant in replacing(seen) {
        trust
            .add(&issue::sign(&grant, &signer("BOS", KeyUse::Delegation), CHANGED), CHANGED)
            .unwrap();
    }
    trust
}

#[test]
fn a_former_key_ends_when_the_grant_says_and_not_before() {
    let (old, new) = (signer("BOS-01", KeyUse::Statement), signer("new", KeyUse::Statement));
    let trust = changed(&[]);
    let now = CHANGED + DAY;
    let at = |time, by: &Signer, witness| {
        trust.open_witnessed(&stated("BOS-01", time, by), now, witness).map(drop)
    };
    assert_eq!(at(CHANGED, &new, None), Ok(()));
    for time in [NOW + DAY, CHANGED - DAY, now] {
        assert_eq!(at(time, &old, None).unwrap_err().reason(), "ended-key", "backdated or late");
    }
    // A witness from before the change counts, though the grant itself began long before that.
    assert_eq!(at(NOW + DAY, &old, Some(CHANGED - 1)), Ok(()));
    assert_eq!(at(NOW + DAY, &old, Some(CHANGED)).unwrap_err().reason(), "ended-key");
    assert_eq!(trust.open(&stated("BOS-01", NOW, &old), CHANGED - 1).map(drop), Ok(()));
}

#[test]
fn what_the_issuer_saw_in_time_counts_without_a_witness() {
    let old = signer("BOS-01", KeyUse::Statement);
    let (seen, other) = (stated("BOS-01", NOW + DAY, &old), stated("BOS-01", NOW + 2 * DAY, &old));
    let trust = changed(&[envelope::payload_sha256(&seen)]);
    assert_eq!(trust.open(&seen, CHANGED + DAY).map(drop), Ok(()));
    assert_eq!(trust.open(&other, CHANGED + DAY).unwrap_err().reason(), "ended-key");
    // It is said of the unit itself, not of another one.
    let foreign = stated("BOS-02", NOW + DAY, &signer("BOS-02", KeyUse::Statement));
    let mut trust = changed(&[envelope::payload_sha256(&foreign)]);
    let next = Delegation {
        serial: 2,
        keys: vec![key("next", KeyUse::Statement)],
        change: KeyChange { since_unix_ms: CHANGED, ..KeyChange::default() },
        ..grant("BOS-02", Level::District, Some("BOS"))
    };
    trust.add(&issued(&next), CHANGED).unwrap();
    assert_eq!(trust.open(&foreign, CHANGED + DAY).unwrap_err().reason(), "ended-key");
}

#[test]
fn grants_by_a_former_key_count_once_the_new_key_names_them() {
    let street = grant("BOS-01-W04", Level::Street, Some("BOS-01"));
    let by_old = issue::sign(&street, &signer("BOS-01", KeyUse::Delegation), NOW + DAY);
    let replaced = |since, serial, names: &[&str]| Delegation {
        serial,
        keys: [vec![key("BOS-01", KeyUse::Statement)]]
            .concat()
            .into_iter()
            .chain(names.iter().map(|name| key(name, KeyUse::Delegation)))
            .collect(),
        change: KeyChange { since_unix_ms: since, ..KeyChange::default() },
        ..grant("BOS-01", Level::District, Some("BOS"))
    };
    let mut trust = city();
    let now = CHANGED + DAY;
    for grant in [replaced(0, 2, &["BOS-01", "new"]), replaced(CHANGED, 3, &["new"])] {
        trust.add(&issued(&grant), now).unwrap();
    }
    assert_eq!(trust.check(&by_old, Some(now)).unwrap_err().reason(), "ended-key");
    let change =
        KeyChange { seen_sha256: vec![envelope::payload_sha256(&by_old)], ..KeyChange::default() };
    let anew = Delegation { serial: 2, change, ..street };
    let anew = issue::sign(&anew, &signer("new", KeyUse::Delegation), now);
    assert!(trust.add(&anew, now).unwrap().new);
    assert!(trust.add(&by_old, now).unwrap().new);
    assert_eq!(trust.chain(&code("BOS-01-W04")).last(), Some(&anew), "the newest leads");
}
