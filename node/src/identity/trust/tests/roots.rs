//! Root keys that follow each other, and roots that come under another one.

use super::*;
use crate::domain::delegation::{FormerRoot, NextRoot, RootName};

const LATER: UnixMillis = NOW + 100 * DAY;

fn next_root() -> Signer {
    Signer::from_seed(&[10; 32])
}

fn districts_root() -> Signer {
    Signer::from_seed(&[11; 32])
}

fn name(root: &Signer) -> RootName {
    RootName { suite: Suite::Ed25519, bytes: root.public_key().to_vec() }
}

fn next(root: &Signer, since: UnixMillis) -> Option<NextRoot> {
    Some(NextRoot { key: name(root), compromised_since_unix_ms: since })
}

fn former(root: &Signer, last: &Envelope) -> Option<FormerRoot> {
    let last_sha256 = envelope::payload_sha256(last);
    Some(FormerRoot { key: name(root), last_sha256 })
}

/// The root's own grant with another serial and change.
fn own(serial: u64, change: KeyChange) -> Delegation {
    Delegation { serial, change, ..grant("BOS", Level::City, None) }
}

/// The last grant of the former root key, which names `next`.
fn last(next_root: &Signer, since: UnixMillis, seen: &[&Envelope]) -> Envelope {
    let change = KeyChange {
        next_root: next(next_root, since),
        seen_sha256: seen.iter().map(|seen| envelope::payload_sha256(seen)).collect(),
        since_unix_ms: since,
        ..KeyChange::default()
    };
    issue::sign(&own(2, change), &root_key(), LATER)
}

/// The first grant of the next root key, which names the former one.
fn first(last: &Envelope) -> Envelope {
    let change = KeyChange { former_root: former(&root_key(), last), ..KeyChange::default() };
    issue::sign(&own(3, change), &next_root(), LATER)
}

fn with(root: &Signer) -> Trust {
    Trust::new(DOMAIN.to_owned(), root.verifying_key())
}

fn original() -> Envelope {
    issued(&grant("BOS", Level::City, None))
}

#[test]
fn a_root_key_is_believed_for_the_next_and_the_next_for_the_former() {
    let original = original();
    let last = last(&next_root(), 0, &[&original]);
    let first = first(&last);
    let child = issued(&grant("BOS-01", Level::District, Some("BOS")));
    // Downward in time: from the former key to the next.
    let mut trust = with(&root_key());
    for envelope in [&original, &child, &last] {
        trust.add(envelope, LATER).unwrap();
    }
    assert_eq!(trust.root_key(), &root_key().verifying_key(), "the next one has not signed yet");
    assert!(trust.names_successor().is_some());
    trust.add(&first, LATER).unwrap();
    assert_eq!(trust.root_key(), &next_root().verifying_key());
    assert_eq!(trust.root(), Some(&code("BOS")));
    assert!(trust.names_successor().is_none());
    // And back: whoever has the next key alone believes what was before.
    let mut back = with(&next_root());
    for envelope in [&last, &original] {
        assert!(back.check(envelope, Some(LATER)).unwrap_err().may_hold_later());
    }
    for envelope in [&first, &last, &original, &child] {
        assert!(back.add(envelope, LATER).unwrap().new);
    }
    assert_eq!(back.chain(&code("BOS-01")), trust.chain(&code("BOS-01")));
    let standings = |trust: &Trust| -> Vec<_> {
        trust.roots().iter().map(|root| (root.key_id().to_owned(), root.standing)).collect()
    };
    let id = |root: &Signer| root.verifying_key().key_id().to_owned();
    assert_eq!(
        standings(&trust),
        [(id(&root_key()), Standing::Given), (id(&next_root()), Standing::Next)]
    );
    assert_eq!(
        standings(&back),
        [(id(&next_root()), Standing::Given), (id(&root_key()), Standing::Former)]
    );
}

#[test]
fn a_root_key_that_named_its_successor_signs_nothing_more_however_it_is_dated() {
    let last = last(&next_root(), 0, &[]);
    let thief = |serial, change| issue::sign(&own(serial, change), &root_key(), NOW);
    let late = thief(9, KeyChange::default());
    let mut trust = city();
    trust.add(&last, LATER).unwrap();
    assert_eq!(trust.check(&late, Some(LATER)).unwrap_err().reason(), "ended-key");
    let mut back = with(&next_root());
    for envelope in [&first(&last), &last] {
        back.add(envelope, LATER).unwrap();
    }
    for refused in [&late, &original()] {
        assert_eq!(back.check(refused, Some(LATER)).unwrap_err().reason(), "ended-key");
        assert_eq!(back.add_recorded(refused, LATER).unwrap_err().reason(), "ended-key");
    }
    // Another successor is a split root.
    let change = KeyChange { next_root: next(&districts_root(), 0), ..KeyChange::default() };
    let split = trust.check(&thief(4, change), Some(LATER)).unwrap_err();
    assert_eq!(split.reason(), "wrong-root");
    // Nor does a proof by it revoke anything.
    assert!(trust.roots()[0].last_sha256.is_some());
}

#[test]
fn a_next_root_that_does_not_name_its_former_one_rightly_is_refused() {
    let last = last(&next_root(), 0, &[]);
    let mut trust = city();
    trust.add(&last, LATER).unwrap();
    let naming = |former_root| {
        let change = KeyChange { former_root, ..KeyChange::default() };
        issue::sign(&own(3, change), &next_root(), LATER)
    };
    let reason = |envelope: &Envelope| trust.check(envelope, Some(LATER)).unwrap_err().reason();
    assert_eq!(reason(&naming(former(&root_key(), &original()))), "wrong-root", "another last");
    assert_eq!(reason(&naming(former(&next_root(), &last))), "wrong-root", "itself");
    let foreign = signer("BOS-01", KeyUse::Delegation);
    assert_eq!(reason(&naming(former(&foreign, &last))), "wrong-root", "a key of a unit");
    // A root key that nobody named signs nothing.
    let stranger = issue::sign(&own(3, KeyChange::default()), &districts_root(), LATER);
    assert_eq!(reason(&stranger), "unknown-key");
}

#[test]
fn a_theft_of_the_root_key_ends_what_it_signed_since() {
    let since = NOW + 50 * DAY;
    let stolen = Delegation {
        keys: vec![key("BOS", KeyUse::Delegation), key("thief", KeyUse::Statement)],
        ..own(2, KeyChange::default())
    };
    let stolen = issue::sign(&stolen, &root_key(), since + DAY);
    let original = original();
    let mut trust = with(&root_key());
    for envelope in [&original, &stolen] {
        trust.add(envelope, LATER).unwrap();
    }
    let change = KeyChange {
        next_root: next(&next_root(), since),
        seen_sha256: vec![envelope::payload_sha256(&original)],
        since_unix_ms: since,
        ..KeyChange::default()
    };
    let last = issue::sign(&own(3, change), &root_key(), LATER);
    trust.add(&last, LATER).unwrap();
    let by_thief = stated("BOS", since + 2 * DAY, &signer("thief", KeyUse::Statement));
    assert_eq!(trust.open(&by_thief, LATER + DAY).unwrap_err().reason(), "ended-key");
    // Who learns of it later never believes the thief's grant.
    let mut back = with(&next_root());
    back.add(&first_after(&last), LATER).unwrap();
    back.add(&last, LATER).unwrap();
    assert_eq!(back.check(&stolen, Some(LATER)).unwrap_err().reason(), "ended-key");
    assert!(back.add(&original, LATER).unwrap().new);
}

fn first_after(last: &Envelope) -> Envelope {
    let change = KeyChange { former_root: former(&root_key(), last), ..KeyChange::default() };
    issue::sign(&own(4, change), &next_root(), LATER)
}

/// BOS-07 as a root of its own, with a street below.
fn district() -> (Vec<Envelope>, Trust) {
    let root =
        Delegation { not_after_unix_ms: NOW + 900 * DAY, ..grant("BOS-07", Level::District, None) };
    let street = Delegation {
        not_after_unix_ms: NOW + 400 * DAY,
        ..grant("BOS-07-W01", Level::Street, Some("BOS-07"))
    };
    let history = vec![issue::sign(&root, &districts_root(), NOW), issued(&street)];
    let mut trust = with(&districts_root());
    for envelope in &history {
        trust.add(envelope, NOW).unwrap();
    }
    (history, trust)
}

/// The last grant of the district's root key, which names `city`.
fn leaves(city: &Signer, seen: &[Envelope]) -> Envelope {
    let change = KeyChange {
        next_root: next(city, 0),
        seen_sha256: seen.iter().map(envelope::payload_sha256).collect(),
        ..KeyChange::default()
    };
    let ends = NOW + 900 * DAY;
    let own = Delegation {
        serial: 2,
        change,
        not_after_unix_ms: ends,
        ..grant("BOS-07", Level::District, None)
    };
    issue::sign(&own, &districts_root(), LATER)
}

/// The grant by which the city takes it in.
fn taken(last: &Envelope) -> Delegation {
    let change = KeyChange { former_root: former(&districts_root(), last), ..KeyChange::default() };
    Delegation {
        not_before_unix_ms: LATER,
        serial: 3,
        change,
        ..grant("BOS-07", Level::District, Some("BOS"))
    }
}

fn by_city(delegation: &Delegation) -> Envelope {
    issue::sign(delegation, &signer("BOS", KeyUse::Delegation), LATER)
}

#[test]
fn a_district_that_was_a_root_is_believed_from_both_roots_with_its_history() {
    let (history, mut below) = district();
    let last = leaves(&root_key(), &history[..1]);
    let grant = by_city(&taken(&last));
    let mut above = city();
    let citys = above.delegation(&code("BOS"), None).unwrap().envelope.clone();
    for envelope in [&last, &citys, &grant] {
        assert!(below.add(envelope, LATER).unwrap().new);
    }
    let street = code("BOS-07-W01");
    assert_eq!(below.root(), Some(&code("BOS")));
    assert_eq!(below.root_key(), &root_key().verifying_key());
    assert!(below.is_in_subtree(&street, &code("BOS")));
    for envelope in [&grant, &last, &history[0], &history[1]] {
        assert!(above.add(envelope, LATER).unwrap().new);
    }
    assert_eq!(above.chain(&street), below.chain(&street));
    // What the street said under the former root counts on both sides.
    let said = stated("BOS-07-W01", NOW + DAY, &signer("BOS-07-W01", KeyUse::Statement));
    for trust in [&above, &below] {
        assert_eq!(trust.open(&said, LATER).map(drop), Ok(()));
        assert_eq!(trust.parent(&code("BOS-07")), Some(&code("BOS")));
        assert_eq!(
            trust.children_on(&code("BOS"), "2026-01-01".parse().unwrap()).len(),
            trust.children(&code("BOS")).len()
        );
    }
    // What the district granted as a root is renewed with its beginning.
    let anew = Delegation {
        serial: 2,
        ..decode_body(&header::decode(&history[1].payload).unwrap().body).unwrap()
    };
    let anew = Delegation { not_after_unix_ms: NOW + 200 * DAY, ..anew };
    let anew = issue::sign(&anew, &signer("BOS-07", KeyUse::Delegation), LATER + 10 * DAY);
    assert!(above.add(&anew, LATER + 10 * DAY).unwrap().new);
    assert!(below.add(&anew, LATER + 10 * DAY).unwrap().new);
}

#[test]
fn nobody_takes_a_root_in_that_did_not_name_his_root() {
    let (history, below) = district();
    let reason = |trust: &Trust, envelope: &Envelope| {
        trust.check(envelope, Some(LATER)).unwrap_err().reason()
    };
    // The district's own units: without a word of its root key, nobody is above it.
    assert_eq!(reason(&below, &by_city(&taken(&history[0]))), "unknown-key");
    // It named another root than the one that grants.
    let (_, mut below) = district();
    let elsewhere = leaves(&next_root(), &history[..1]);
    below.add(&elsewhere, LATER).unwrap();
    assert_eq!(reason(&below, &original()), "unknown-key");
    // It named the city, and a grant does not name its last, or another root key.
    let (_, mut below) = district();
    let last = leaves(&root_key(), &history[..1]);
    below.add(&last, LATER).unwrap();
    below.add(&original(), LATER).unwrap();
    let bare = Delegation { change: KeyChange::default(), ..taken(&last) };
    assert_eq!(reason(&below, &by_city(&bare)), "wrong-root");
    assert_eq!(reason(&below, &by_city(&taken(&history[0]))), "wrong-root");
    // A sibling's key is not the city's.
    let foreign = issue::sign(&taken(&last), &signer("BOS-02", KeyUse::Delegation), LATER);
    assert!(below.check(&foreign, Some(LATER)).is_err());
    below.add(&by_city(&taken(&last)), LATER).unwrap();
    // A root grant after that is refused: the district has a parent now.
    let back = Delegation { serial: 9, ..grant("BOS-07", Level::District, None) };
    assert!(below.check(&issue::sign(&back, &districts_root(), LATER), Some(LATER)).is_err());
}

#[test]
fn the_city_believes_of_a_former_root_what_its_last_grant_names_alone() {
    let (history, _) = district();
    let last = leaves(&root_key(), &[]);
    let mut above = city();
    above.add(&by_city(&taken(&last)), LATER).unwrap();
    above.add(&last, LATER).unwrap();
    assert_eq!(above.check(&history[0], Some(LATER)).unwrap_err().reason(), "ended-key");
    // Another unit's root is not this one's former.
    let stolen = Delegation {
        change: taken(&last).change,
        serial: 2,
        ..grant("BOS-02", Level::District, Some("BOS"))
    };
    assert_eq!(above.check(&by_city(&stolen), Some(LATER)).unwrap_err().reason(), "wrong-root");
    // Its root key makes no other root.
    let other = issue::sign(&grant("ELSE", Level::District, None), &districts_root(), LATER);
    assert!(above.check(&other, Some(LATER)).is_err());
}

#[test]
fn a_root_keeps_its_level_and_one_that_was_taken_in_is_no_root_again() {
    let sunk = Delegation { level: Level::District, ..own(2, KeyChange::default()) };
    let sunk = issue::sign(&sunk, &root_key(), LATER);
    let error = city().check(&sunk, Some(LATER)).unwrap_err();
    assert!(matches!(error, Error::Moved { .. }), "{error}");
    assert_eq!(error.reason(), "outside-subtree");
    let kept = issue::sign(&own(2, KeyChange::default()), &root_key(), LATER);
    assert_eq!(city().check(&kept, Some(LATER)).map(drop), Ok(()));

    // Its former root key grants it anew, as if it had never come under the city.
    let (history, mut below) = district();
    let last = leaves(&root_key(), &history[..1]);
    for envelope in [last.clone(), original(), by_city(&taken(&last))] {
        below.add(&envelope, LATER).unwrap();
    }
    let back = Delegation { serial: 9, ..grant("BOS-07", Level::District, None) };
    let back = issue::sign(&back, &districts_root(), LATER);
    assert!(matches!(below.check(&back, Some(LATER)), Err(Error::Moved { .. })));
}

#[test]
fn a_next_root_in_a_suite_that_is_not_accepted_is_refused() {
    let sm2 = Signer::from_private_bytes(envelope::Suite::Sm2Sm3, &[9; 32]).unwrap();
    let name = RootName { suite: Suite::Sm2Sm3, bytes: sm2.public_key().to_vec() };
    let next_root = Some(NextRoot { key: name, compromised_since_unix_ms: 0 });
    let change = KeyChange { next_root, ..KeyChange::default() };
    let last = issue::sign(&own(2, change), &root_key(), LATER);
    assert_eq!(city().check(&last, Some(LATER)).unwrap_err().reason(), "suite-not-accepted");
}
