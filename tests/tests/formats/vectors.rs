//! Test vectors of the contract, `tests/vectors`: what the code makes, what it accepts, what it
//! refuses, and the same judged by another implementation in Python.
//!
//! After a deliberate change of the format, write them anew and read the difference:
//! `cargo test -p lianxi-tests --test formats -- --ignored write_vectors`.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its input has to fail")]

mod made;

use std::{fs, path::Path, process::Output};

use lianxi_proto::{
    cells,
    envelope::{self, Signer, VerifyingKey},
    types::v1::{Envelope, SaltedCell, Suite},
};
use lianxi_tests::python::Python;
use made::{hex, unhex};
use prost::Message as _;
use serde_json::Value;

const FILES: [&str; 2] = ["envelopes.json", "cells.json"];

fn tests_directory() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> Value {
    let path = tests_directory().join("vectors").join(file);
    serde_json::from_slice(&fs::read(&path).unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().unwrap_or_else(|| panic!("{field} is no list in {value}"))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is no text in {value}"))
}

fn bytes(value: &Value, field: &str) -> Vec<u8> {
    unhex(text(value, field))
}

fn number(value: &Value, field: &str) -> u32 {
    value[field].as_u64().and_then(|number| number.try_into().ok()).unwrap()
}

/// The fixed words of `refused` in `envelopes.json`.
fn envelope_word(error: &envelope::Error) -> &'static str {
    match error {
        envelope::Error::PayloadType { .. } => "payload-type",
        envelope::Error::TooLarge(_) => "too-large",
        envelope::Error::NoSignature => "no-signature",
        envelope::Error::TooManySignatures(_) => "too-many-signatures",
        envelope::Error::DuplicateKey(_) => "duplicate-key",
        envelope::Error::UnknownKey(_) => "unknown-key",
        envelope::Error::BadSignature(_) => "bad-signature",
        envelope::Error::Suite(_)
        | envelope::Error::PublicKey(..)
        | envelope::Error::PrivateKey(_) => "key",
    }
}

/// The fixed words of `refused` in `cells.json`.
fn cells_word(error: &cells::Error) -> &'static str {
    match error {
        cells::Error::Count { .. } => "count",
        cells::Error::IndexOutOfRange { .. } => "index-out-of-range",
        cells::Error::IndexTwice(_) => "index-twice",
        cells::Error::Malformed(_) => "malformed",
        cells::Error::Root => "root",
    }
}

fn verifying_keys(document: &Value) -> Vec<VerifyingKey> {
    let keys = list(document, "keys").iter();
    keys.map(|key| VerifyingKey::new(Suite::Ed25519, &bytes(key, "public_key")).unwrap()).collect()
}

#[test]
fn vectors_are_those_that_the_code_makes() {
    for (file, made) in FILES.iter().zip(made::documents()) {
        assert_eq!(read(file), made, "{file} differs: the signed format changed");
    }
}

#[test]
#[ignore = "writes the vectors anew, after a deliberate change of the format: cargo test -p lianxi-tests --test formats -- vectors:: --ignored"]
fn write_vectors() {
    for (file, made) in FILES.iter().zip(made::documents()) {
        let text = serde_json::to_string_pretty(&made).unwrap() + "\n";
        fs::write(tests_directory().join("vectors").join(file), text).unwrap();
    }
}

#[test]
fn keys_follow_from_their_seeds() {
    for key in list(&read("envelopes.json"), "keys") {
        let signer = Signer::from_seed(&bytes(key, "seed").try_into().unwrap());
        assert_eq!(hex(signer.public_key()), text(key, "public_key"));
        assert_eq!(signer.key_id(), text(key, "key_id"));
    }
}

#[test]
fn envelopes_encode_sign_and_verify_as_written() {
    let document = read("envelopes.json");
    let keys = verifying_keys(&document);
    assert!(list(&document, "cases").len() >= 6);
    for case in list(&document, "cases") {
        let name = text(case, "name");
        let payload_type = text(case, "payload_type");
        let payload = bytes(case, "payload");
        let encoding = envelope::pre_authentication_encoding(payload_type, &payload);
        assert_eq!(hex(&encoding), text(case, "pae"), "{name}");

        let envelope = Envelope::decode(&bytes(case, "envelope")[..]).unwrap();
        assert_eq!(envelope.payload, payload, "{name}");
        assert_eq!(hex(&envelope::payload_sha256(&envelope)), text(case, "payload_sha256"));
        let signed = envelope::verify(&envelope, payload_type, &keys).unwrap();
        let signers: Vec<_> = signed.iter().map(|index| keys[*index].key_id()).collect();
        let expected: Vec<_> =
            list(case, "signatures").iter().map(|one| text(one, "key_id")).collect();
        assert_eq!(signers, expected, "{name}");
        for (signature, expected) in envelope.signatures.iter().zip(list(case, "signatures")) {
            assert_eq!(hex(&signature.signature), text(expected, "signature"), "{name}");
        }
    }
}

#[test]
fn refused_envelopes_are_refused_for_the_reason_written() {
    let document = read("envelopes.json");
    let keys = verifying_keys(&document);
    for case in list(&document, "refused") {
        let envelope = Envelope::decode(&bytes(case, "envelope")[..]).unwrap();
        let refused = envelope::verify(&envelope, text(case, "payload_type"), &keys).unwrap_err();
        assert_eq!(envelope_word(&refused), text(case, "reason"), "{}", text(case, "name"));
    }
}

#[test]
fn cells_open_under_the_root_as_written() {
    let document = read("cells.json");
    for case in list(&document, "cases") {
        let name = text(case, "name");
        let sent: Vec<_> = list(case, "cells")
            .iter()
            .map(|cell| SaltedCell::decode(&bytes(cell, "salted_cell")[..]).unwrap())
            .collect();
        let opened = cells::open(&bytes(case, "root"), number(case, "count"), &sent).unwrap();
        for (cell, opened) in list(case, "cells").iter().zip(opened) {
            let expected = cell["cell"].as_str().map(unhex);
            assert_eq!(opened, expected, "{name}");
            if let Some(figure) = expected {
                let salt = bytes(cell, "salt").try_into().unwrap();
                let leaf = cells::leaf_hash(&salt, &figure);
                assert_eq!(hex(&leaf), text(cell, "leaf_sha256"), "{name}");
            }
        }
    }
}

#[test]
fn refused_cells_are_refused_for_the_reason_written() {
    let document = read("cells.json");
    for case in list(&document, "refused") {
        let cells = list(case, "salted_cells").iter().map(|cell| unhex(cell.as_str().unwrap()));
        let sent: Vec<_> = cells.map(|cell| SaltedCell::decode(&cell[..]).unwrap()).collect();
        let refused = cells::open(&bytes(case, "root"), number(case, "count"), &sent).unwrap_err();
        assert_eq!(cells_word(&refused), text(case, "reason"), "{}", text(case, "name"));
    }
}

#[test]
fn another_implementation_agrees() {
    let Some(python) = python() else { return };
    let output = check(&python, &tests_directory().join("vectors"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with("ok: "), "{said}");
}

/// Flips one byte in each kind of field: a check that reads less than the whole would pass.
#[test]
fn another_implementation_sees_every_flipped_byte() {
    let Some(python) = python() else { return };
    for file in FILES {
        let document = read(file);
        let mut pointers = Vec::new();
        hex_fields(&document, String::new(), &mut pointers);
        // The last of each kind: a check that stops after the first would pass.
        let mut seen = Vec::new();
        for (kind, pointer) in pointers.iter().rev() {
            if seen.contains(kind) {
                continue;
            }
            seen.push(kind.clone());
            let directory = tempfile::tempdir().unwrap();
            for other in FILES {
                let path = directory.path().join(other);
                let mut written = read(other);
                if other == file {
                    flip(written.pointer_mut(pointer).unwrap());
                }
                fs::write(path, written.to_string()).unwrap();
            }
            let output = check(&python, directory.path());
            assert_eq!(output.status.code(), Some(1), "flipped {pointer} of {file} unseen");
        }
        assert!(seen.len() >= 5, "{seen:?}");
    }
}

/// Pointers to all texts of hex digits, each with its kind: its pointer without numbers.
fn hex_fields(value: &Value, pointer: String, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                hex_fields(field, format!("{pointer}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                hex_fields(item, format!("{pointer}/{index}"), found);
            }
        }
        Value::String(text) => {
            let is_hex = text.len() >= 2 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
            // Refused cases are broken already: flipping one more byte changes no verdict.
            if is_hex && text.len().is_multiple_of(2) && !pointer.starts_with("/refused") {
                let kind = pointer.split('/').filter(|part| part.parse::<usize>().is_err());
                found.push((kind.collect::<Vec<_>>().join("/"), pointer));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn flip(value: &mut Value) {
    let mut bytes = unhex(value.as_str().unwrap());
    *bytes.last_mut().unwrap() ^= 1;
    *value = Value::String(hex(&bytes));
}

fn python() -> Option<Python> {
    Python::find("another implementation of the vectors", Path::new(env!("CARGO_TARGET_TMPDIR")))
}

fn check(python: &Python, vectors: &Path) -> Output {
    let script = tests_directory().join("python/check_vectors.py");
    python.run(&script).arg(vectors).output().unwrap()
}
