//! Test vectors of sealed bodies and files, `tests/vectors/sealed.json`: what opens, what is
//! refused and why, and the same judged by another implementation in Python.
//!
//! Sealing draws at random, so the vectors are made once and opened for ever. After a deliberate
//! change of the format: `cargo test -p lianxi-tests --test formats -- --ignored vectors_sealed`.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its input has to fail")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use lianxi_node::{
    identity::{
        keys::AgreementKey,
        sealed::{ContentKey, Error, KeyRing, Reader},
        sealed_file::{self, CHUNK_BYTES, open_file, seal_file},
    },
    statement::{
        header::{self, Classification, Header, Sealing, StatementId, kinds},
        sealed::{Outline, SealedBody, decode_body, encode_body},
    },
};
use lianxi_tests::skip::skip;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const BODY: &[u8] = "〔2026〕17号: clear the fire exits".as_bytes();

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn path() -> PathBuf {
    directory().join("vectors/sealed.json")
}

fn read() -> Value {
    serde_json::from_slice(&fs::read(path()).unwrap()).unwrap()
}

fn bytes(value: &Value, field: &str) -> Vec<u8> {
    hex::decode(value[field].as_str().unwrap()).unwrap()
}

/// Private keys of the readers: public, never to be used.
fn private(reader: u8) -> [u8; 32] {
    [reader; 32]
}

fn reader(number: u8) -> Reader {
    Reader::new(AgreementKey::from_bytes(&private(number)).public_key())
}

fn ring(private: &[u8]) -> KeyRing {
    let mut ring = KeyRing::default();
    ring.add(AgreementKey::from_bytes(&private.try_into().unwrap()));
    ring
}

fn key() -> ContentKey {
    ContentKey::from_bytes([0x2a; 32])
}

fn header(key: &ContentKey) -> Header {
    Header {
        id: "01982c61-5bf4-7000-8000-0123456789ab".parse::<StatementId>().unwrap(),
        source: "BOS".parse().unwrap(),
        kind: kinds::NOTICE.to_owned(),
        subject: "〔2026〕17号".to_owned(),
        time_unix_ms: 1_312_171_200_000,
        dataschema: "boston-311@1".to_owned(),
        epoch: 1,
        seq: 7,
        purpose: "joint-meeting".to_owned(),
        classification: Classification::Internal,
        exercise: false,
        destination: Some("BOS-01".parse().unwrap()),
        traceparent: String::new(),
        on_behalf_of: None,
        handed_by: Default::default(),
        sealing: Some(Sealing {
            key_commitment: key.commitment(),
            outline: Some(Outline::Notice {
                level: lianxi_node::domain::unit::Level::Community,
                due_unix_ms: 1_314_849_600_000,
            }),
        }),
    }
}

/// A payload whose sealed body is changed.
fn payload(change: impl FnOnce(&mut Header, &mut SealedBody)) -> String {
    let (key, readers) = (key(), [reader(1), reader(2)]);
    let mut header = header(&key);
    let mut body = key.seal(&header::header_sha256(&header), &readers, BODY).unwrap();
    change(&mut header, &mut body);
    hex::encode(header::encode(&header, &encode_body(&body)))
}

fn file(plain: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::new();
    seal_file(&[reader(1), reader(2)], plain, &mut sealed).unwrap();
    sealed
}

fn digest(plain: &[u8]) -> String {
    hex::encode(Sha256::digest(plain))
}

fn made() -> Value {
    let refused = |name: &str, reason: &str, payload: String| {
        json!({ "name": name, "reason": reason, "private_key": hex::encode(private(1)),
                "payload": payload })
    };
    let other = ContentKey::from_bytes([0x2b; 32]);
    let commitment = |header: &mut Header, body: &mut SealedBody| {
        *body = other.seal(&header::header_sha256(header), &[reader(1)], BODY).unwrap();
    };
    let case = |number: u8| {
        json!({ "name": format!("reader {number}"), "private_key": hex::encode(private(number)),
                "payload": payload(|_, _| {}), "body": hex::encode(BODY) })
    };
    let long: Vec<u8> = (0..=CHUNK_BYTES).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let whole = file(b"statements of one day");
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    json!({
        "cases": [case(1), case(2)],
        "refused": [
            refused("for others", "not-a-reader", payload(|_, body| {
                body.recipients.remove(0);
            })),
            refused("another header", "sealed-key", payload(|header, _| header.seq = 8)),
            refused("another reader's key", "sealed-key", payload(|_, body| {
                body.recipients[1].key_id = body.recipients[0].key_id.clone();
                body.recipients.remove(0);
            })),
            refused("another content key", "commitment", payload(commitment)),
            refused("a changed body", "body", payload(|_, body| body.ciphertext[3] ^= 1)),
            refused("a changed nonce", "body", payload(|_, body| body.nonce[0] ^= 1)),
        ],
        "files": [
            { "name": "short", "private_key": hex::encode(private(1)),
              "sealed": hex::encode(&whole), "plain_sha256": digest(b"statements of one day") },
            { "name": "empty", "private_key": hex::encode(private(2)),
              "sealed": hex::encode(file(b"")), "plain_sha256": digest(b"") },
            { "name": "two chunks", "private_key": hex::encode(private(2)),
              "sealed": hex::encode(file(&long)), "plain_sha256": digest(&long) },
        ],
        "refused_files": [
            { "name": "changed", "private_key": hex::encode(private(1)), "reason": "body",
              "sealed": hex::encode(changed) },
            { "name": "cut", "private_key": hex::encode(private(1)), "reason": "body",
              "sealed": hex::encode(&whole[..whole.len() - 1]) },
            { "name": "for others", "private_key": hex::encode(private(3)),
              "reason": "not-a-reader", "sealed": hex::encode(whole) },
        ],
    })
}

#[test]
#[ignore = "writes the vectors anew, after a deliberate change of the format: cargo test -p lianxi-tests --test formats -- vectors_sealed:: --ignored"]
fn write_vectors() {
    fs::write(path(), serde_json::to_string_pretty(&made()).unwrap() + "\n").unwrap();
}

fn word(error: &Error) -> &'static str {
    match error {
        Error::PublicKey(_) => "public-key",
        Error::SealedKey(_) => "sealed-key",
        Error::Commitment(_) => "commitment",
        Error::Body => "body",
    }
}

fn open(case: &Value) -> Result<Vec<u8>, &'static str> {
    let statement = header::decode(&bytes(case, "payload")).unwrap();
    let commitment = statement.header.sealing.unwrap().key_commitment;
    let body = decode_body(&statement.body).unwrap();
    let (ring, digest) = (ring(&bytes(case, "private_key")), &statement.header_sha256);
    let key = ring.content_key(digest, &commitment, &body.recipients);
    let key = key.map_err(|error| word(&error))?.ok_or("not-a-reader")?;
    key.open(digest, &body).map_err(|error| word(&error))
}

fn open_case_file(case: &Value) -> Result<Vec<u8>, &'static str> {
    let mut plain = Vec::new();
    let sealed = bytes(case, "sealed");
    match open_file(&ring(&bytes(case, "private_key")), &sealed[..], &mut plain) {
        Ok(()) => Ok(plain),
        Err(sealed_file::Error::NotAReader) => Err("not-a-reader"),
        Err(sealed_file::Error::Seal(error)) => Err(word(&error)),
        Err(sealed_file::Error::Chunk { .. }) => Err(word(&Error::Body)),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn bodies_and_files_open_as_written_and_are_refused_for_the_reason_written() {
    let document = read();
    for case in document["cases"].as_array().unwrap() {
        assert_eq!(open(case), Ok(bytes(case, "body")), "{}", case["name"]);
    }
    for case in document["files"].as_array().unwrap() {
        let plain = open_case_file(case).map(|plain| digest(&plain));
        assert_eq!(plain.as_deref(), Ok(case["plain_sha256"].as_str().unwrap()));
    }
    for case in document["refused"].as_array().unwrap() {
        assert_eq!(open(case), Err(case["reason"].as_str().unwrap()), "{}", case["name"]);
    }
    for case in document["refused_files"].as_array().unwrap() {
        let expected = Err(case["reason"].as_str().unwrap());
        assert_eq!(open_case_file(case), expected, "{}", case["name"]);
    }
}

/// The format has not changed since the vectors were made: what is not random is the same.
#[test]
fn what_is_made_now_has_the_shape_of_the_vectors() {
    let document = read();
    let written = header::decode(&bytes(&document["cases"][0], "payload")).unwrap();
    assert_eq!(written.header, header(&key()));
    assert_eq!(written.header_sha256, header::header_sha256(&header(&key())));
    let sizes = |document: &Value| -> Vec<usize> {
        let lists = ["cases", "refused", "files", "refused_files"];
        let all = lists.iter().flat_map(|list| document[list].as_array().unwrap());
        all.map(|case| case.to_string().len()).collect()
    };
    assert_eq!(sizes(&document), sizes(&made()));
}

#[test]
fn another_implementation_agrees() {
    let script = directory().join("python/check_sealed.py");
    let ready = |python: &PathBuf| {
        let check = "from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305";
        Command::new(python).args(["-c", check]).output().is_ok_and(|done| done.status.success())
    };
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("python/bin/python");
    let Some(python) = [PathBuf::from("python3"), own].into_iter().find(ready) else {
        skip(
            "another implementation of sealed bodies",
            "there is no Python 3 with the package `cryptography`",
            "install it, e.g. `apt-get install python3-cryptography`",
        );
        return;
    };
    let check = |document: &Value| {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), document.to_string()).unwrap();
        Command::new(&python).arg("-B").arg(&script).arg(file.path()).output().unwrap()
    };
    let output = check(&read());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.starts_with(b"ok: "));
    // It reads everything: a flipped last byte of any field that has to open is seen.
    for (list, field) in
        [("cases", "payload"), ("cases", "body"), ("files", "sealed"), ("files", "plain_sha256")]
    {
        let mut document = read();
        let mut changed = bytes(&document[list][0], field);
        *changed.last_mut().unwrap() ^= 1;
        document[list][0][field] = Value::String(hex::encode(changed));
        assert_eq!(check(&document).status.code(), Some(1), "{list} {field}");
    }
}
