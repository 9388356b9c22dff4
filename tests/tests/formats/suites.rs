//! Suites: SM2 with SM3 beside Ed25519, against the standard, OpenSSL and a check in plain Python,
//! and through a whole federation.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its input has to fail")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use lianxi_node::{domain::delegation::Suite as DomainSuite, identity::keys::UnitKeys};
use lianxi_proto::{
    envelope::{self, STATEMENT_TYPE, Signer, Suite, VerifyingKey},
    local::v1::{IssueNoticeRequest, ShowNoticeRequest},
    types::v1::{Envelope, Level, Notice, ReceiptStage, Scope},
};
use lianxi_tests::{
    federation::{CATALOGUE, Federation, count},
    skip::skip,
    wait::until,
};
use prost::Message as _;
use serde_json::{Value, json};

/// The example of GB/T 32918.5 (GM/T 0003.5): private key, message, signature.
const PRIVATE: &str = "3945208f7b2144b13f36e38ac6d39f95889393692860b51a42fb81ef4df7c5b8";
const MESSAGE: &str = "message digest";
const SIGNATURE: &str = "f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3\
    b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa";

/// Order of the group (GB/T 32918.5).
const ORDER: &str = "fffffffeffffffffffffffffffffffff7203df6b21c6052b53bbf40939d54123";

const USER_ID: &str = "1234567812345678";

/// A public key of SM2 as SubjectPublicKeyInfo, before its 65 bytes.
const SPKI_HEAD: &str = "3059301306072a8648ce3d020106082a811ccf5501822d034200";

fn signer(number: u8) -> Signer {
    let mut private = hex::decode(PRIVATE).unwrap();
    private[31] ^= number;
    Signer::from_private_bytes(Suite::Sm2Sm3, &private.try_into().unwrap()).unwrap()
}

// ---- vectors ----

fn vectors_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/suites.json")
}

fn vectors() -> Value {
    serde_json::from_slice(&fs::read(vectors_path()).unwrap()).unwrap()
}

fn made() -> Value {
    let (one, two) = (signer(0), signer(1));
    let key = |signer: &Signer| {
        json!({
            "warning": "TEST KEY near that of GB/T 32918.5, known to everybody: never use it",
            "suite": signer.suite() as i32,
            "private": hex::encode(signer.private_bytes().as_slice()),
            "public_key": hex::encode(signer.public_key()),
            "key_id": signer.key_id(),
        })
    };
    json!({
        "about": "SM2 with SM3: bytes in lower-case hex; see docs/protocol.md",
        "user_id": USER_ID,
        "keys": [key(&one), key(&two)],
        "standard": {
            "key_id": one.key_id(),
            "message": MESSAGE,
            "signature": SIGNATURE,
        },
        "cases": [
            case("empty payload", b"", &[&one]),
            case("plain text", b"received=5", &[&one]),
            case("unicode", "市、区、街道、社区".as_bytes(), &[&two]),
            case("two signatures", b"minutes", &[&two, &one]),
        ],
        "refused": refused(&one),
    })
}

fn case(name: &str, payload: &[u8], signers: &[&Signer]) -> Value {
    let envelope = envelope::sign(STATEMENT_TYPE, payload.to_vec(), signers);
    let signatures = envelope
        .signatures
        .iter()
        .map(|one| json!({ "key_id": one.key_id, "signature": hex::encode(&one.signature) }));
    json!({
        "name": name,
        "payload_type": STATEMENT_TYPE,
        "payload": hex::encode(payload),
        "signatures": signatures.collect::<Vec<_>>(),
        "envelope": hex::encode(envelope.encode_to_vec()),
    })
}

fn refused(signer: &Signer) -> Vec<Value> {
    let case = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut envelope = envelope::sign(STATEMENT_TYPE, b"x=5".to_vec(), &[signer]);
        change(&mut envelope.signatures[0].signature);
        json!({ "name": name, "envelope": hex::encode(envelope.encode_to_vec()) })
    };
    let set = |half: std::ops::Range<usize>, number: &str| {
        let number = hex::decode(number).unwrap();
        move |signature: &mut Vec<u8>| signature[half.clone()].copy_from_slice(&number)
    };
    vec![
        case("r is 0", &set(0..32, &"00".repeat(32))),
        case("s is 0", &set(32..64, &"00".repeat(32))),
        case("r is the order", &set(0..32, ORDER)),
        case("s is the order", &set(32..64, ORDER)),
        case("s is over the order", &set(32..64, &"ff".repeat(32))),
        case("cut signature", &|signature| signature.truncate(63)),
        case("longer signature", &|signature| signature.push(0)),
        case("DER instead of r || s", &|signature| *signature = der_signature(signature)),
        case("halves exchanged", &|signature| signature.rotate_left(32)),
        case("a flipped bit", &|signature| signature[40] ^= 1),
    ]
}

#[test]
fn vectors_are_those_that_the_code_makes() {
    assert_eq!(vectors(), made(), "suites.json differs: the signed format changed");
}

#[test]
#[ignore = "writes the vectors anew, after a deliberate change of the format: cargo test -p lianxi-tests --test formats -- suites:: --ignored"]
fn write_vectors() {
    fs::write(vectors_path(), serde_json::to_string_pretty(&made()).unwrap() + "\n").unwrap();
}

#[test]
fn vectors_are_accepted_and_refused_as_written() {
    let document = vectors();
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let keys: Vec<VerifyingKey> = document["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| VerifyingKey::new(Suite::Sm2Sm3, &bytes(&key["public_key"])).unwrap())
        .collect();
    let verify = |case: &Value| {
        let envelope = Envelope::decode(bytes(&case["envelope"]).as_slice()).unwrap();
        envelope::verify(&envelope, STATEMENT_TYPE, &keys)
    };
    assert!(keys[0].holds(MESSAGE.as_bytes(), &bytes(&document["standard"]["signature"])));
    let cases = document["cases"].as_array().unwrap();
    assert!(cases.len() >= 4 && cases.iter().all(|case| verify(case).is_ok()));
    let refused = document["refused"].as_array().unwrap();
    assert!(refused.len() >= 10);
    for case in refused {
        let verdict = verify(case);
        assert!(matches!(verdict, Err(envelope::Error::BadSignature(_))), "{}", case["name"]);
    }
}

// ---- another implementation: plain Python ----

fn python(vectors: &Path) -> Option<Output> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/check_suites.py");
    let output = Command::new("python3").arg("-B").arg(script).arg(vectors).output();
    if output.is_err() {
        let remedy = "install it, e.g. `apt-get install python3`";
        skip("another implementation of SM2", "there is no Python 3", remedy);
    }
    output.ok()
}

#[test]
fn another_implementation_agrees() {
    let Some(output) = python(&vectors_path()) else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.starts_with("ok: "), "{said}");
}

#[test]
fn another_implementation_sees_what_was_changed() {
    let directory = tempfile::tempdir().unwrap();
    for pointer in [
        "/keys/0/public_key",
        "/keys/1/key_id",
        "/standard/signature",
        "/cases/1/payload",
        "/cases/3/signatures/1/signature",
        "/cases/2/envelope",
    ] {
        let mut document = vectors();
        let field = document.pointer_mut(pointer).unwrap();
        let mut bytes = hex::decode(field.as_str().unwrap()).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        *field = Value::String(hex::encode(bytes));
        let path = directory.path().join("suites.json");
        fs::write(&path, document.to_string()).unwrap();
        let Some(output) = python(&path) else { return };
        assert_eq!(output.status.code(), Some(1), "changed {pointer} unseen");
    }
    let mut document = vectors();
    let good = document["cases"][0]["envelope"].clone();
    document["refused"][0]["envelope"] = good;
    let path = directory.path().join("suites.json");
    fs::write(&path, document.to_string()).unwrap();
    let Some(output) = python(&path) else { return };
    assert_eq!(output.status.code(), Some(1), "an envelope that holds passed for a refused one");
}

// ---- another implementation: OpenSSL 3 ----

/// OpenSSL 3 on this machine, if there is one.
struct OpenSsl(tempfile::TempDir);

impl OpenSsl {
    fn find() -> Option<Self> {
        let version = Command::new("openssl").arg("version").output();
        let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        if !version.as_ref().is_ok_and(|version| version.starts_with("OpenSSL 3")) {
            let remedy = "install it, e.g. `apt-get install openssl`";
            skip("SM2 against OpenSSL", &format!("there is no OpenSSL 3 ({version:?})"), remedy);
            return None;
        }
        Some(Self(tempfile::tempdir().unwrap()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new("openssl").args(arguments).current_dir(self.0.path()).output().unwrap()
    }

    fn done(&self, arguments: &[&str]) {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments:?}: {said}");
    }

    /// What `openssl pkeyutl -verify` says of `message`, `public.der` and `signature.der`.
    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        fs::write(self.path("message"), message).unwrap();
        fs::write(self.path("signature.der"), der_signature(signature)).unwrap();
        let identity = format!("distid:{USER_ID}");
        let output = self.run(&[
            "pkeyutl",
            "-verify",
            "-pubin",
            "-inkey",
            "public.pem",
            "-rawin",
            "-digest",
            "sm3",
            "-pkeyopt",
            &identity,
            "-in",
            "message",
            "-sigfile",
            "signature.der",
        ]);
        output.status.success()
    }
}

#[test]
fn openssl_accepts_what_is_signed_here() {
    let Some(openssl) = OpenSsl::find() else { return };
    let signer = signer(0);
    let spki = [hex::decode(SPKI_HEAD).unwrap(), signer.public_key().to_vec()].concat();
    fs::write(openssl.path("public.der"), spki).unwrap();
    openssl.done(&["pkey", "-pubin", "-inform", "DER", "-in", "public.der", "-out", "public.pem"]);
    // Signatures whose halves begin with zero bits or not, so that DER is short and long.
    for number in 0..20u8 {
        let message = vec![number; usize::from(number) * 50];
        let signature = signer.sign_bytes(&message);
        assert!(openssl.verifies(&message, &signature), "message {number}");
        let mut changed = message.clone();
        changed.push(0);
        assert!(!openssl.verifies(&changed, &signature), "changed message {number}");
    }
}

#[test]
fn what_openssl_signs_is_accepted_here() {
    let Some(openssl) = OpenSsl::find() else { return };
    openssl.done(&["genpkey", "-algorithm", "SM2", "-out", "private.pem"]);
    let public = ["pkey", "-in", "private.pem", "-pubout", "-outform", "DER", "-out", "public.der"];
    openssl.done(&public);
    let spki = fs::read(openssl.path("public.der")).unwrap();
    let key = VerifyingKey::new(Suite::Sm2Sm3, &spki[spki.len() - 65..]).unwrap();
    let identity = format!("distid:{USER_ID}");
    for number in 0..20u8 {
        let message = vec![number; usize::from(number) * 50];
        fs::write(openssl.path("message"), &message).unwrap();
        openssl.done(&[
            "pkeyutl",
            "-sign",
            "-inkey",
            "private.pem",
            "-rawin",
            "-digest",
            "sm3",
            "-pkeyopt",
            &identity,
            "-in",
            "message",
            "-out",
            "signature.der",
        ]);
        let signature = raw_signature(&fs::read(openssl.path("signature.der")).unwrap());
        assert!(key.holds(&message, &signature), "message {number}");
        assert!(!key.holds(&[&message[..], b"."].concat(), &signature), "message {number}");
    }
    // Under another user id the signature is another.
    openssl.done(&[
        "pkeyutl",
        "-sign",
        "-inkey",
        "private.pem",
        "-rawin",
        "-digest",
        "sm3",
        "-pkeyopt",
        "distid:someone else",
        "-in",
        "message",
        "-out",
        "signature.der",
    ]);
    let signature = raw_signature(&fs::read(openssl.path("signature.der")).unwrap());
    assert!(!key.holds(&fs::read(openssl.path("message")).unwrap(), &signature));
}

/// SEQUENCE of two INTEGER (GM/T 0009), from r || s.
fn der_signature(raw: &[u8]) -> Vec<u8> {
    let integer = |half: &[u8]| {
        let zeros = half.iter().take_while(|byte| **byte == 0).count().min(half.len() - 1);
        let mut content = half[zeros..].to_vec();
        if content[0] >= 0x80 {
            content.insert(0, 0);
        }
        [vec![2, u8::try_from(content.len()).unwrap()], content].concat()
    };
    let content = [integer(&raw[..32]), integer(&raw[32..])].concat();
    [vec![0x30, u8::try_from(content.len()).unwrap()], content].concat()
}

fn raw_signature(der: &[u8]) -> Vec<u8> {
    fn integer(rest: &mut &[u8]) -> Vec<u8> {
        assert_eq!(rest[0], 2);
        let length = usize::from(rest[1]);
        let (content, after) = rest[2..].split_at(length);
        *rest = after;
        let content = content.strip_prefix(&[0]).unwrap_or(content);
        [vec![0; 32 - content.len()], content.to_vec()].concat()
    }
    assert_eq!(der[0], 0x30);
    let mut rest = &der[2..];
    let (r, s) = (integer(&mut rest), integer(&mut rest));
    assert!(rest.is_empty());
    [r, s].concat()
}

// ---- a federation that signs in SM2 ----

const ROWS: &str = "\
1,C,2011-07-01 08:00:00,2011-07-01 09:00:00,light,1 Main St
2,C-1,2011-07-02 08:00:00,,light,2 Main St
3,C-1-1,2011-07-03 08:00:00,2011-07-03 08:30:00,hole,3 Main St
";

#[tokio::test(flavor = "multi_thread")]
async fn a_federation_in_sm2_joins_reports_and_takes_notices() {
    let mut federation = Federation::city_in(DomainSuite::Sm2Sm3, "C", CATALOGUE, None).await;
    federation.add_host("C-1", "C", Level::District).await;
    federation.add_unit("C-1-1", "C-1", Level::Street).await;
    for unit in ["C-1", "C-1-1"] {
        federation.wait_for_catalogue(unit).await;
    }
    federation.wait_for_roster("C", 3).await;
    for host in ["C", "C-1"] {
        federation.import(host, ROWS).await;
    }
    let figures = federation.pull("C", "2011-07").await;
    assert_eq!(count(&figures["C"], "received", Scope::Subtree), 3);

    let request = IssueNoticeRequest {
        unit: "C".into(),
        destination: "C-1".into(),
        notice: Some(Notice {
            number: "〔2026〕17号".into(),
            title: "inspect street lights".into(),
            text: "before the first frost".into(),
            level: Level::Street.into(),
            duty_item: "street-light-inspection".into(),
            due_unix_ms: 4_000_000_000_000,
            ..Notice::default()
        }),
        exercise: false,
    };
    let issued = federation.client("C").notices().issue(request).await.unwrap().into_inner();
    // The receipt is signed by the street, in SM2 as well.
    until("the street's receipt at the city", async || {
        let notice_id = issued.notice_id.clone();
        let request = ShowNoticeRequest { unit: "C".into(), notice_id };
        let state = federation.client("C").notices().show(request).await.ok()?.into_inner();
        let mut recipients = state.recipients.iter();
        let done = recipients.all(|unit| unit.stage() == ReceiptStage::Validated);
        (done && issued.issued_to == 1).then_some(())
    })
    .await;

    for unit in ["C", "C-1", "C-1-1"] {
        let directory = federation.directory(unit);
        let keys = UnitKeys::load(&directory.join("keys").join(unit)).unwrap();
        assert_eq!(keys.suite(), DomainSuite::Sm2Sm3, "{unit}");
    }
}
