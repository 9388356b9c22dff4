//! Body bytes of `lianxi.delegation.v1`, and the mapping of levels, suites and key uses.
//!
//! Promises that what was decoded has every required field within bounds, and no key or suite of
//! unknown meaning. Whether the grant holds is decided by `identity::trust`.

use lianxi_proto::{envelope, types::v1 as pb};
use prost::Message as _;

use crate::{
    domain::{
        delegation::{
            Delegation, FormerRoot, KeyChange, KeyUse, NextRoot, PublicKey, RootName, Suite,
        },
        unit::Level,
    },
    statement::{
        Envelope,
        header::{Malformed, optional_unit_at, unit_at},
    },
};

/// Most keys of one delegation.
pub const MAX_KEYS: usize = 16;

/// Most payloads that one delegation says were seen.
pub const MAX_SEEN: usize = 64;

/// Most CAs beside the one that issues.
pub const MAX_FURTHER_CAS: usize = 4;

/// Longest serialised order of a reform in a grant.
pub const MAX_ORDER_BYTES: usize = 4_096;

/// Longest trust domain, host, line or title.
pub const MAX_TEXT_BYTES: usize = 200;

/// Serialises a delegation.
pub fn encode_body(delegation: &Delegation) -> Vec<u8> {
    let message = pb::Delegation {
        trust_domain: delegation.trust_domain.clone(),
        unit: delegation.unit.to_string(),
        level: level_to_proto(delegation.level).into(),
        issuer: delegation.issuer.as_ref().map(ToString::to_string).unwrap_or_default(),
        not_before_unix_ms: delegation.not_before_unix_ms,
        not_after_unix_ms: delegation.not_after_unix_ms,
        keys: keys_to_proto(&delegation.keys),
        ca_sha256: delegation.ca_sha256.map(|digest| digest.to_vec()).unwrap_or_default(),
        host: delegation.host.clone(),
        desk: delegation.desk.as_ref().map(ToString::to_string).unwrap_or_default(),
        line: delegation.line.clone(),
        title: delegation.title.clone(),
        serial: delegation.serial,
        accepted_suites: delegation
            .accepted_suites
            .iter()
            .map(|suite| suite_to_proto(*suite).into())
            .collect(),
        keys_since_unix_ms: delegation.change.since_unix_ms,
        seen_sha256: digests_to_proto(&delegation.change.seen_sha256),
        further_ca_sha256: digests_to_proto(&delegation.change.further_ca_sha256),
        reform: delegation.reform.clone().unwrap_or_default(),
        next_root: delegation.change.next_root.as_ref().map(|next| pb::NextRoot {
            suite: suite_to_proto(next.key.suite).into(),
            public_key: next.key.bytes.clone(),
            compromised_since_unix_ms: next.compromised_since_unix_ms,
        }),
        former_root: delegation.change.former_root.as_ref().map(|former| pb::FormerRoot {
            suite: suite_to_proto(former.key.suite).into(),
            public_key: former.key.bytes.clone(),
            last_sha256: former.last_sha256.to_vec(),
        }),
    };
    message.encode_to_vec()
}

/// Reads the body of a verified delegation.
///
/// # Errors
///
/// [`Malformed`] names the first field that is missing, out of bounds or of unknown meaning.
pub fn decode_body(body: &[u8]) -> Result<Delegation, Malformed> {
    let message = pb::Delegation::decode(body)
        .map_err(|error| Malformed::new("body", format_args!("is no delegation: {error}")))?;
    check_trust_domain("body.trust_domain", &message.trust_domain)?;
    let desk = match message.desk.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|error| Malformed::new("body.desk", error))?),
    };
    let accepted_suites = accepted_suites(&message)?;
    let change = change(&message, desk.is_some())?;
    let delegation = Delegation {
        trust_domain: message.trust_domain,
        unit: unit_at("body.unit", &message.unit)?,
        level: level_from_proto(message.level)
            .ok_or_else(|| Malformed::new("body.level", "is none of the four levels"))?,
        issuer: optional_unit_at("body.issuer", &message.issuer)?,
        not_before_unix_ms: message.not_before_unix_ms,
        not_after_unix_ms: message.not_after_unix_ms,
        keys: keys_from_proto("body.keys", &message.keys)?,
        ca_sha256: ca_sha256(&message.ca_sha256, desk.is_some())?,
        host: text("body.host", message.host)?,
        desk,
        line: text("body.line", message.line)?,
        title: text("body.title", message.title)?,
        serial: message.serial,
        accepted_suites,
        change,
        reform: reform(message.reform)?,
    };
    if delegation.not_before_unix_ms <= 0
        || delegation.not_before_unix_ms >= delegation.not_after_unix_ms
    {
        return Err(Malformed::new("body.not_after_unix_ms", "must be later than not_before"));
    }
    if !delegation.keys.iter().any(|key| key.key_use == KeyUse::Statement) {
        return Err(Malformed::new("body.keys", "hold none for STATEMENT"));
    }
    Ok(delegation)
}

/// What is said of keys that changed.
fn change(message: &pb::Delegation, is_desk: bool) -> Result<KeyChange, Malformed> {
    let since = message.keys_since_unix_ms;
    if !(0..message.not_after_unix_ms).contains(&since) {
        return Err(Malformed::new("body.keys_since_unix_ms", "must be before not_after"));
    }
    let field = "body.further_ca_sha256";
    let further = digests(field, &message.further_ca_sha256, MAX_FURTHER_CAS)?;
    if is_desk && !further.is_empty() {
        return Err(Malformed::new(field, "a desk has no CA"));
    }
    Ok(KeyChange {
        since_unix_ms: since,
        seen_sha256: digests("body.seen_sha256", &message.seen_sha256, MAX_SEEN)?,
        further_ca_sha256: further,
        next_root: next_root(message)?,
        former_root: former_root(message, is_desk)?,
    })
}

/// The root key that comes after: named by a root alone.
fn next_root(message: &pb::Delegation) -> Result<Option<NextRoot>, Malformed> {
    let Some(next) = &message.next_root else { return Ok(None) };
    if !message.issuer.is_empty() || !message.desk.is_empty() {
        let reason = "is named by the root's own delegation alone";
        return Err(Malformed::new("body.next_root", reason));
    }
    let since = next.compromised_since_unix_ms;
    if !(0..message.not_after_unix_ms).contains(&since) {
        let field = "body.next_root.compromised_since_unix_ms";
        return Err(Malformed::new(field, "must be before not_after"));
    }
    let key = root_name("body.next_root", next.suite, &next.public_key)?;
    Ok(Some(NextRoot { key, compromised_since_unix_ms: since }))
}

fn former_root(message: &pb::Delegation, is_desk: bool) -> Result<Option<FormerRoot>, Malformed> {
    let Some(former) = &message.former_root else { return Ok(None) };
    if is_desk {
        return Err(Malformed::new("body.former_root", "a desk has no root key"));
    }
    let digest = former.last_sha256.as_slice().try_into();
    let last_sha256 =
        digest.map_err(|_| Malformed::new("body.former_root.last_sha256", "must have 32 bytes"))?;
    let key = root_name("body.former_root", former.suite, &former.public_key)?;
    Ok(Some(FormerRoot { key, last_sha256 }))
}

/// A public root key that travelled.
///
/// # Errors
///
/// [`Malformed`] at a name below `field`.
pub fn root_name(field: &str, suite: i32, bytes: &[u8]) -> Result<RootName, Malformed> {
    let suite = suite_from_proto(suite).filter(|suite| suite.signs());
    let suite =
        suite.ok_or_else(|| Malformed::new(format!("{field}.suite"), "is none that signs here"))?;
    envelope::VerifyingKey::new(suite_to_proto(suite), bytes)
        .map_err(|error| Malformed::new(format!("{field}.public_key"), error))?;
    Ok(RootName { suite, bytes: bytes.to_vec() })
}

/// Serialises a list of root grants.
pub fn encode_roots(grants: &[Envelope]) -> Vec<u8> {
    pb::RootGrants { grants: grants.to_vec() }.encode_to_vec()
}

/// Reads a list of root grants.
///
/// # Errors
///
/// [`Malformed`]: it is none.
pub fn decode_roots(bytes: &[u8]) -> Result<Vec<Envelope>, Malformed> {
    let list = pb::RootGrants::decode(bytes);
    list.map(|list| list.grants).map_err(|error| Malformed::new("grants", error))
}

/// Digests as they travel.
pub fn digests_to_proto(digests: &[[u8; 32]]) -> Vec<Vec<u8>> {
    digests.iter().map(|digest| digest.to_vec()).collect()
}

/// Digests of 32 bytes that travelled.
///
/// # Errors
///
/// [`Malformed`] at `field`: one of another length, or more than `limit`.
pub fn digests(field: &str, bytes: &[Vec<u8>], limit: usize) -> Result<Vec<[u8; 32]>, Malformed> {
    if bytes.len() > limit {
        let reason = format_args!("{} are over the limit of {limit}", bytes.len());
        return Err(Malformed::new(field, reason));
    }
    let digests = bytes.iter().map(|bytes| bytes.as_slice().try_into());
    let digests: Result<Vec<_>, _> = digests.collect();
    digests.map_err(|_| Malformed::new(field, "must have 32 bytes each"))
}

fn reform(bytes: Vec<u8>) -> Result<Option<Vec<u8>>, Malformed> {
    if bytes.len() > MAX_ORDER_BYTES {
        let reason = format_args!("{} bytes are over the limit of {MAX_ORDER_BYTES}", bytes.len());
        return Err(Malformed::new("body.reform", reason));
    }
    Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
}

/// Suites that sign, no two the same, in the root's own delegation alone.
fn accepted_suites(message: &pb::Delegation) -> Result<Vec<Suite>, Malformed> {
    let at = |reason: &str| Malformed::new("body.accepted_suites", reason);
    if !message.accepted_suites.is_empty() && !message.issuer.is_empty() {
        return Err(at("are stated by the root's own delegation alone"));
    }
    let mut accepted = Vec::new();
    for suite in &message.accepted_suites {
        match suite_from_proto(*suite) {
            Some(suite) if suite.signs() && !accepted.contains(&suite) => accepted.push(suite),
            Some(_) => return Err(at("hold one twice, or one that does not sign")),
            None => return Err(at("hold one that is unknown to this program")),
        }
    }
    Ok(accepted)
}

/// Checks that a trust domain is a lower-case DNS name, as SPIFFE asks.
///
/// # Errors
///
/// [`Malformed`] at `field`.
pub fn check_trust_domain(field: &str, domain: &str) -> Result<(), Malformed> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    if domain.len() > MAX_TEXT_BYTES || !domain.split('.').all(label) {
        let reason = "is no trust domain: use lower-case labels with dots, e.g. boston.example";
        return Err(Malformed::new(field, reason));
    }
    Ok(())
}

/// Level as it travels.
pub fn level_to_proto(level: Level) -> pb::Level {
    match level {
        Level::City => pb::Level::City,
        Level::District => pb::Level::District,
        Level::Street => pb::Level::Street,
        Level::Community => pb::Level::Community,
    }
}

/// Level that travelled; `None` if it is unset or unknown.
pub fn level_from_proto(level: i32) -> Option<Level> {
    match pb::Level::try_from(level).ok()? {
        pb::Level::Unspecified => None,
        pb::Level::City => Some(Level::City),
        pb::Level::District => Some(Level::District),
        pb::Level::Street => Some(Level::Street),
        pb::Level::Community => Some(Level::Community),
    }
}

/// Suite as it travels.
pub fn suite_to_proto(suite: Suite) -> pb::Suite {
    match suite {
        Suite::Ed25519 => pb::Suite::Ed25519,
        Suite::X25519 => pb::Suite::X25519,
        Suite::Sm2Sm3 => pb::Suite::Sm2Sm3,
    }
}

/// Suite that travelled; `None` if it is unset or unknown.
pub fn suite_from_proto(suite: i32) -> Option<Suite> {
    match pb::Suite::try_from(suite).ok()? {
        pb::Suite::Unspecified => None,
        pb::Suite::Ed25519 => Some(Suite::Ed25519),
        pb::Suite::X25519 => Some(Suite::X25519),
        pb::Suite::Sm2Sm3 => Some(Suite::Sm2Sm3),
    }
}

/// Key use as it travels.
pub fn key_use_to_proto(key_use: KeyUse) -> pb::KeyUse {
    match key_use {
        KeyUse::Statement => pb::KeyUse::Statement,
        KeyUse::Delegation => pb::KeyUse::Delegation,
        KeyUse::Agreement => pb::KeyUse::Agreement,
    }
}

/// Key use that travelled; `None` if it is unset or unknown.
pub fn key_use_from_proto(key_use: i32) -> Option<KeyUse> {
    match pb::KeyUse::try_from(key_use).ok()? {
        pb::KeyUse::Unspecified => None,
        pb::KeyUse::Statement => Some(KeyUse::Statement),
        pb::KeyUse::Delegation => Some(KeyUse::Delegation),
        pb::KeyUse::Agreement => Some(KeyUse::Agreement),
    }
}

/// Keys as they travel.
pub fn keys_to_proto(keys: &[PublicKey]) -> Vec<pb::Key> {
    keys.iter()
        .map(|key| pb::Key {
            suite: suite_to_proto(key.suite).into(),
            public_key: key.bytes.clone(),
            r#use: key_use_to_proto(key.key_use).into(),
        })
        .collect()
}

/// Keys that travelled: each of a suite that fits its use, no two the same.
///
/// # Errors
///
/// [`Malformed`] at the key below `field`.
pub fn keys_from_proto(field: &str, keys: &[pb::Key]) -> Result<Vec<PublicKey>, Malformed> {
    if keys.len() > MAX_KEYS {
        let reason = format_args!("{} keys are over the limit of {MAX_KEYS}", keys.len());
        return Err(Malformed::new(field, reason));
    }
    let mut read: Vec<PublicKey> = Vec::with_capacity(keys.len());
    for (index, key) in keys.iter().enumerate() {
        let at = |name: &str| format!("{field}.{index}.{name}");
        let key = PublicKey {
            suite: suite_from_proto(key.suite)
                .ok_or_else(|| Malformed::new(at("suite"), "is unknown to this program"))?,
            bytes: key.public_key.clone(),
            key_use: key_use_from_proto(key.r#use)
                .ok_or_else(|| Malformed::new(at("use"), "is unknown to this program"))?,
        };
        check_key(&key, at)?;
        if read.iter().any(|other| other.bytes == key.bytes) {
            return Err(Malformed::new(at("public_key"), "is given twice"));
        }
        read.push(key);
    }
    Ok(read)
}

fn check_key(key: &PublicKey, at: impl Fn(&str) -> String) -> Result<(), Malformed> {
    match (key.key_use, key.suite) {
        (KeyUse::Statement | KeyUse::Delegation, Suite::Ed25519 | Suite::Sm2Sm3) => {
            envelope::VerifyingKey::new(suite_to_proto(key.suite), &key.bytes)
                .map(drop)
                .map_err(|error| Malformed::new(at("public_key"), error))
        }
        (KeyUse::Agreement, Suite::X25519) if key.bytes.len() == 32 => Ok(()),
        (KeyUse::Agreement, Suite::X25519) => {
            Err(Malformed::new(at("public_key"), "an X25519 key has 32 bytes"))
        }
        (KeyUse::Statement | KeyUse::Delegation, Suite::X25519)
        | (KeyUse::Agreement, Suite::Ed25519 | Suite::Sm2Sm3) => {
            Err(Malformed::new(at("suite"), "does not serve this use in this program"))
        }
    }
}

fn ca_sha256(bytes: &[u8], is_desk: bool) -> Result<Option<[u8; 32]>, Malformed> {
    match (bytes.is_empty(), is_desk) {
        (true, true) => Ok(None),
        (false, true) => Err(Malformed::new("body.ca_sha256", "a desk has no CA")),
        (_, false) => {
            let digest = bytes.try_into();
            digest.map(Some).map_err(|_| Malformed::new("body.ca_sha256", "must have 32 bytes"))
        }
    }
}

/// Checks a text that people read: bounded, without control characters.
///
/// # Errors
///
/// [`Malformed`] at `field`.
pub fn text(field: &str, text: String) -> Result<String, Malformed> {
    if text.len() > MAX_TEXT_BYTES {
        let reason = format_args!("{} bytes are over the limit of {MAX_TEXT_BYTES}", text.len());
        return Err(Malformed::new(field, reason));
    }
    if text.chars().any(char::is_control) {
        return Err(Malformed::new(field, "holds a control character"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8, key_use: KeyUse) -> PublicKey {
        let bytes = envelope::Signer::from_seed(&[seed; 32]).public_key().to_vec();
        PublicKey { suite: Suite::Ed25519, bytes, key_use }
    }

    fn delegation() -> Delegation {
        Delegation {
            trust_domain: "boston.example".to_owned(),
            unit: "BOS-01".parse().unwrap(),
            level: Level::District,
            issuer: Some("BOS".parse().unwrap()),
            not_before_unix_ms: 1_000,
            not_after_unix_ms: 2_000,
            keys: vec![
                key(1, KeyUse::Statement),
                key(2, KeyUse::Delegation),
                PublicKey { suite: Suite::X25519, bytes: vec![9; 32], key_use: KeyUse::Agreement },
            ],
            ca_sha256: Some([7; 32]),
            host: "node-1".to_owned(),
            desk: None,
            line: String::new(),
            title: "第一区".to_owned(),
            serial: 3,
            accepted_suites: Vec::new(),
            change: KeyChange::default(),
            reform: Some(vec![1, 2, 3]),
        }
    }

    fn fault(change: impl FnOnce(&mut pb::Delegation)) -> String {
        let mut message = pb::Delegation::decode(encode_body(&delegation()).as_slice()).unwrap();
        change(&mut message);
        decode_body(&message.encode_to_vec()).unwrap_err().field
    }

    #[test]
    fn a_delegation_comes_back_as_it_was_made() {
        assert_eq!(decode_body(&encode_body(&delegation())).unwrap(), delegation());
        let desk = Delegation {
            desk: Some("FIRE".parse().unwrap()),
            ca_sha256: None,
            keys: vec![key(4, KeyUse::Statement)],
            ..delegation()
        };
        assert_eq!(decode_body(&encode_body(&desk)).unwrap(), desk);
        let root = Delegation {
            issuer: None,
            accepted_suites: vec![Suite::Sm2Sm3, Suite::Ed25519],
            ..delegation()
        };
        assert_eq!(decode_body(&encode_body(&root)).unwrap(), root);
    }

    #[test]
    fn accepted_suites_are_the_roots_to_state_and_each_signs() {
        let stated = |issuer: &'static str, suites: &[i32]| {
            let suites = suites.to_vec();
            fault(move |message| {
                message.issuer = issuer.to_owned();
                message.accepted_suites = suites;
            })
        };
        for suites in [&[2][..], &[1, 1], &[0], &[77]] {
            assert_eq!(stated("", suites), "body.accepted_suites", "{suites:?}");
        }
        assert_eq!(stated("BOS", &[1]), "body.accepted_suites");
    }

    #[test]
    fn an_unknown_suite_or_use_is_refused_by_name() {
        assert_eq!(fault(|message| message.keys[1].suite = 0), "body.keys.1.suite");
        assert_eq!(fault(|message| message.keys[1].suite = 77), "body.keys.1.suite");
        assert_eq!(fault(|message| message.keys[0].suite = 3), "body.keys.0.public_key");
        assert_eq!(fault(|message| message.keys[0].suite = 2), "body.keys.0.suite");
        assert_eq!(fault(|message| message.keys[2].suite = 1), "body.keys.2.suite");
        assert_eq!(fault(|message| message.keys[0].r#use = 0), "body.keys.0.use");
        assert_eq!(fault(|message| message.keys[0].r#use = 9), "body.keys.0.use");
    }

    #[test]
    fn keys_that_repeat_or_anybody_could_sign_for_are_refused() {
        let repeated = |message: &mut pb::Delegation| {
            message.keys[1].public_key = message.keys[0].public_key.clone();
        };
        assert_eq!(fault(repeated), "body.keys.1.public_key");
        let weak = |message: &mut pb::Delegation| {
            let mut identity = vec![0; 32];
            identity[0] = 1;
            message.keys[0].public_key = identity;
        };
        assert_eq!(fault(weak), "body.keys.0.public_key");
        assert_eq!(
            fault(|message| message.keys[2].public_key.truncate(31)),
            "body.keys.2.public_key"
        );
        assert_eq!(fault(|message| message.keys.retain(|key| key.r#use != 1)), "body.keys");
        let many = |message: &mut pb::Delegation| message.keys = vec![message.keys[0].clone(); 17];
        assert_eq!(fault(many), "body.keys");
    }

    #[test]
    fn each_field_is_held_to_its_bounds() {
        assert_eq!(
            fault(|message| message.trust_domain = "Boston".to_owned()),
            "body.trust_domain"
        );
        assert_eq!(fault(|message| message.trust_domain.clear()), "body.trust_domain");
        assert_eq!(fault(|message| message.unit = "bos".to_owned()), "body.unit");
        assert_eq!(fault(|message| message.level = 0), "body.level");
        assert_eq!(fault(|message| message.level = 5), "body.level");
        assert_eq!(fault(|message| message.not_after_unix_ms = 1_000), "body.not_after_unix_ms");
        assert_eq!(fault(|message| message.ca_sha256.truncate(31)), "body.ca_sha256");
        assert_eq!(fault(|message| message.desk = "FIRE".to_owned()), "body.ca_sha256");
        assert_eq!(fault(|message| message.title = "x".repeat(201)), "body.title");
        assert_eq!(fault(|message| message.host = "a\u{7}".to_owned()), "body.host");
        assert_eq!(decode_body(b"\xff").unwrap_err().field, "body");
    }
}
