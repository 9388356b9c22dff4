//! Makes the test vectors from fixed input. Its keys and salts are public: never use them.

use lianxi_proto::{
    cells,
    enrolment::v1::ReserveRequest,
    envelope::{self, STATEMENT_TYPE, Signer},
    types::v1::{
        Cell, Classification, Component, Coverage, Delegation, DistinctComponent, Envelope,
        ExtremeComponent, Header, HistogramComponent, Key, KeyUse, Level, RatioComponent,
        SaltedCell, Scope, Signature, Statement, Suite, SumComponent, Summary, SummaryKind,
        component::Value as Figure,
    },
};
use prost::Message as _;
use serde_json::{Value, json};

/// Seeds of RFC 8032 §7.1, tests 1 to 3: known to everybody.
const SEEDS: [&str; 3] = [
    "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
    "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
];

/// A signature by the first key over DSSE type `http://example.com/HelloWorld`, payload
/// `hello world`, with R of small order: the plain equation holds, strict verification refuses.
const LAX_SIGNATURE: &str = "0100000000000000000000000000000000000000000000000000000000000000\
                             41a25b36e324945f6ea1b0edae1e36ed8df483ae67d2136fa8f9b64b65e4b00b";

/// Payload type of a reservation's proof.
const RESERVE_TYPE: &str = "application/vnd.lianxi.reserve.v1+protobuf";

/// Order of the group (RFC 8032 §5.1), little-endian.
const ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";

/// 2011-08-01T04:00:00Z: July 2011 just ended in Boston.
const TIME_UNIX_MS: i64 = 1_312_171_200_000;

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of a text in hex.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("hex digits");
    let bytes = text.as_bytes().chunks(2);
    bytes.map(|pair| u8::try_from(digit(pair[0]) * 16 + digit(pair[1])).unwrap()).collect()
}

/// `envelopes.json` and `cells.json`.
pub(crate) fn documents() -> [Value; 2] {
    [envelopes(), cells_document()]
}

fn signers() -> Vec<Signer> {
    SEEDS.iter().map(|seed| Signer::from_seed(&unhex(seed).try_into().unwrap())).collect()
}

fn envelopes() -> Value {
    let signers = signers();
    let keys = signers.iter().zip(SEEDS).map(|(signer, seed)| {
        json!({
            "warning": "TEST KEY of RFC 8032, known to everybody: never use it",
            "suite": 1,
            "seed": seed,
            "public_key": hex(signer.public_key()),
            "key_id": signer.key_id(),
        })
    });
    json!({
        "about": "DSSE v1 envelopes of Lianxi; bytes in lower-case hex; see docs/protocol.md",
        "keys": keys.collect::<Vec<_>>(),
        "cases": envelope_cases(&signers),
        "refused": refused_envelopes(&signers),
    })
}

fn envelope_cases(signers: &[Signer]) -> Vec<Value> {
    let [one, two, three] = signers else { panic!("three signers") };
    let plain = |name, payload: &[u8]| case(name, STATEMENT_TYPE, payload.to_vec(), &[one]);
    let typed = |name, kind, payload: &[u8]| case(name, kind, payload.to_vec(), &[one]);
    vec![
        plain("empty payload", b""),
        plain("plain text", b"received=5"),
        plain("unicode", "市、区、街道、社区 🏙".as_bytes()),
        plain("all byte values", &(0..=255).collect::<Vec<u8>>()),
        plain("payload that looks like an encoding", b"DSSEv1 1 a 1 b\n\0 DSSEv1 0  0 "),
        typed("DSSE's own example", "http://example.com/HelloWorld", b"hello world"),
        typed("unicode type, its length in bytes", "application/联席", b"x"),
        case("three signatures", STATEMENT_TYPE, b"minutes".to_vec(), &[three, one, two]),
        case("root's own delegation", STATEMENT_TYPE, delegation(two, three), &[one]),
        case("reservation", RESERVE_TYPE, reservation(one, two), &[one]),
        statement_case(three),
    ]
}

fn case(name: &str, payload_type: &str, payload: Vec<u8>, signers: &[&Signer]) -> Value {
    let encoding = envelope::pre_authentication_encoding(payload_type, &payload);
    let envelope = envelope::sign(payload_type, payload, signers);
    let signatures = envelope.signatures.iter().map(
        |signature| json!({ "key_id": signature.key_id, "signature": hex(&signature.signature) }),
    );
    json!({
        "name": name,
        "payload_type": payload_type,
        "payload": hex(&envelope.payload),
        "payload_sha256": hex(&envelope::payload_sha256(&envelope)),
        "pae": hex(&encoding),
        "signatures": signatures.collect::<Vec<_>>(),
        "envelope": hex(&envelope.encode_to_vec()),
    })
}

fn header(kind: &str, source: &str, number: u8) -> Header {
    // UUIDv7 of that time.
    let mut id = unhex("0131837f8e0070008000000000000000");
    id[15] = number;
    Header {
        id,
        source: source.to_owned(),
        r#type: kind.to_owned(),
        time_unix_ms: TIME_UNIX_MS,
        epoch: 1,
        seq: number.into(),
        classification: Classification::Internal.into(),
        ..Header::default()
    }
}

fn statement(header: Header, body: Vec<u8>) -> Vec<u8> {
    Statement { header: Some(header), body }.encode_to_vec()
}

/// A statement with every attribute set, over the cells of the case `figures`.
fn statement_case(signer: &Signer) -> Value {
    let (figures, root) = cells::seal(figures());
    let summary = Summary {
        unit: "BOS-01-W03".to_owned(),
        period: "2011-07".to_owned(),
        kind: SummaryKind::Reported.into(),
        version: 1,
        supersedes: Vec::new(),
        cells_root: root.to_vec(),
        cells_count: figures.len().try_into().unwrap(),
        coverage: Some(Coverage { expected: 1, included: 1, ..Coverage::default() }),
        as_of_unix_ms: TIME_UNIX_MS,
    };
    let header = Header {
        subject: "2011-07".to_owned(),
        dataschema: "boston-311@1".to_owned(),
        purpose: "joint-meeting".to_owned(),
        exercise: true,
        destination: "BOS-01".to_owned(),
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
        ..header("lianxi.summary.v1", "BOS-01-W03", 2)
    };
    let reads_as = json!({
        "id": hex(&header.id),
        "source": header.source,
        "type": header.r#type,
        "time_unix_ms": header.time_unix_ms,
        "cells_root": hex(&root),
        "cells_count": summary.cells_count,
    });
    let payload = statement(header, summary.encode_to_vec());
    let mut case = case("summary", STATEMENT_TYPE, payload, &[signer]);
    case["reads_as"] = reads_as;
    case
}

fn key(signer: &Signer, key_use: KeyUse) -> Key {
    Key {
        suite: Suite::Ed25519.into(),
        public_key: signer.public_key().to_vec(),
        r#use: key_use.into(),
    }
}

/// The root key signs it and is none of the keys in it.
fn delegation(statements: &Signer, delegations: &Signer) -> Vec<u8> {
    let delegation = Delegation {
        trust_domain: "boston.example".to_owned(),
        unit: "BOS".to_owned(),
        level: Level::City.into(),
        issuer: String::new(),
        not_before_unix_ms: TIME_UNIX_MS,
        not_after_unix_ms: TIME_UNIX_MS + 86_400_000,
        keys: vec![key(statements, KeyUse::Statement), key(delegations, KeyUse::Delegation)],
        ca_sha256: vec![0xca; 32],
        host: "city-hall".to_owned(),
        title: "波士顿市 Boston".to_owned(),
        serial: 1,
        ..Delegation::default()
    };
    statement(header("lianxi.delegation.v1", "BOS", 1), delegation.encode_to_vec())
}

/// What a child signs to reserve a token: the request without its proof.
fn reservation(statements: &Signer, delegations: &Signer) -> Vec<u8> {
    let agreement = Key {
        suite: Suite::X25519.into(),
        public_key: vec![9; 32],
        r#use: KeyUse::Agreement.into(),
    };
    let request = ReserveRequest {
        token_id: vec![1; 16],
        secret: vec![2; 32],
        unit: "BOS-01".to_owned(),
        level: Level::District.into(),
        keys: vec![
            key(statements, KeyUse::Statement),
            key(delegations, KeyUse::Delegation),
            agreement,
        ],
        ca_sha256: vec![0xca; 32],
        certificate_request: vec![0x30, 0],
        host: "north-end".to_owned(),
        proof: Vec::new(),
        clock_unix_ms: TIME_UNIX_MS,
        adopted: None,
    };
    request.encode_to_vec()
}

fn refused_envelopes(signers: &[Signer]) -> Vec<Value> {
    let mut cases = wrong_signers(signers);
    cases.extend(changed_envelopes(signers));
    cases
}

fn wrong_signers(signers: &[Signer]) -> Vec<Value> {
    let [one, two, _] = signers else { panic!("three signers") };
    let stranger = Signer::from_seed(&[0xee; 32]);
    let case = |name, reason, signers: &[&Signer]| {
        let envelope = envelope::sign(STATEMENT_TYPE, b"x=5".to_vec(), signers);
        refused(name, STATEMENT_TYPE, reason, &envelope)
    };
    vec![
        case("no signature", "no-signature", &[]),
        case("seventeen signatures", "too-many-signatures", &[one; 17]),
        case("one key twice", "duplicate-key", &[one, one]),
        case("unknown key beside a known one", "unknown-key", &[two, &stranger]),
        refused("another key's id", STATEMENT_TYPE, "bad-signature", &claimed(two, one)),
        refused("R of small order", "http://example.com/HelloWorld", "bad-signature", &lax(one)),
    ]
}

fn changed_envelopes(signers: &[Signer]) -> Vec<Value> {
    let case = |name, expected, reason, change: fn(&mut Envelope)| {
        let mut envelope = envelope::sign(STATEMENT_TYPE, b"x=5".to_vec(), &[&signers[0]]);
        change(&mut envelope);
        refused(name, expected, reason, &envelope)
    };
    let json: fn(&mut Envelope) = |envelope| envelope.payload_type = "application/json".to_owned();
    vec![
        case("another type", STATEMENT_TYPE, "payload-type", json),
        case("relabelled type", "application/json", "bad-signature", json),
        case("key id in capitals", STATEMENT_TYPE, "unknown-key", |envelope| {
            envelope.signatures[0].key_id.make_ascii_uppercase();
        }),
        case("changed payload", STATEMENT_TYPE, "bad-signature", |envelope| {
            envelope.payload = b"x=6".to_vec().into();
        }),
        case("cut signature", STATEMENT_TYPE, "bad-signature", |envelope| {
            envelope.signatures[0].signature.pop();
        }),
        case("second form of S", STATEMENT_TYPE, "bad-signature", |envelope| {
            add_order(&mut envelope.signatures[0].signature[32..]);
        }),
    ]
}

fn refused(name: &str, payload_type: &str, reason: &str, envelope: &Envelope) -> Value {
    json!({
        "name": name,
        "payload_type": payload_type,
        "envelope": hex(&envelope.encode_to_vec()),
        "reason": reason,
    })
}

fn claimed(signer: &Signer, claims: &Signer) -> Envelope {
    let mut envelope = envelope::sign(STATEMENT_TYPE, b"x=5".to_vec(), &[signer]);
    envelope.signatures[0].key_id = claims.key_id().to_owned();
    envelope
}

fn lax(signer: &Signer) -> Envelope {
    Envelope {
        payload_type: "http://example.com/HelloWorld".to_owned(),
        payload: b"hello world".to_vec().into(),
        signatures: vec![Signature {
            key_id: signer.key_id().to_owned(),
            signature: unhex(LAX_SIGNATURE),
        }],
    }
}

fn add_order(scalar: &mut [u8]) {
    let mut carry = 0;
    for (byte, order) in scalar.iter_mut().zip(unhex(ORDER)) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        [*byte, _] = sum.to_le_bytes();
        carry = sum >> 8;
    }
}

/// One cell of each component, and a group in Chinese; salts are public.
fn figures() -> Vec<(Vec<u8>, [u8; 16])> {
    let sum = SumComponent { sum_milli: (-1_500_i128).to_be_bytes().to_vec(), terms: 2 };
    let extreme = ExtremeComponent { min_milli: Some(-1_000), max_milli: Some(86_400_000) };
    let distinct = DistinctComponent { hashes: vec![1, u64::MAX], registers: Vec::new() };
    let histogram = HistogramComponent { buckets: vec![-64, 0, 512], counts: vec![1, 2, 300] };
    let figures = [
        ("received", "", Figure::Count(7)),
        ("received", "垃圾清运", Figure::Count(3)),
        ("close_seconds", "", Figure::Sum(sum)),
        ("closed_rate", "", Figure::Ratio(RatioComponent { numerator: 4, denominator: 7 })),
        ("longest_close_seconds", "", Figure::Extreme(extreme)),
        ("distinct_types", "", Figure::Distinct(distinct)),
        ("close_spread", "", Figure::Histogram(histogram)),
    ];
    let cells = (0u8..).zip(figures).map(|(number, (indicator, group, figure))| {
        let cell = Cell {
            indicator: indicator.to_owned(),
            indicator_version: 1,
            group: group.to_owned(),
            scope: Scope::Subtree.into(),
            component: Some(Component { value: Some(figure) }),
        };
        (cell.encode_to_vec(), [number; 16])
    });
    cells.collect()
}

fn cells_document() -> Value {
    let take = |count: usize| figures().into_iter().take(count).collect::<Vec<_>>();
    let equal =
        vec![(b"the same figure".to_vec(), [1; 16]), (b"the same figure".to_vec(), [2; 16])];
    json!({
        "about": "Salted cells under RFC 6962 roots; bytes in lower-case hex; see docs/protocol.md",
        "warning": "TEST SALTS, known to everybody: real ones are random",
        "cases": [
            cells_case("no cells", take(0), &[]),
            cells_case("one cell", take(1), &[]),
            cells_case("two cells", take(2), &[]),
            cells_case("five cells, an odd tree", take(5), &[]),
            cells_case("equal figures, unlike leaves", equal, &[]),
            cells_case("figures", take(6), &[]),
            cells_case("figures, two withheld", take(6), &[1, 5]),
            cells_case("figures, all withheld", take(6), &[0, 1, 2, 3, 4, 5]),
        ],
        "refused": refused_cells(),
    })
}

fn cells_case(name: &str, sealed: Vec<(Vec<u8>, [u8; 16])>, withheld: &[u32]) -> Value {
    let (cells, root) = cells::seal(sealed);
    let shown = cells.iter().map(|cell| {
        let hidden = cells::withhold(cell);
        let is_withheld = withheld.contains(&cell.index);
        let disclosed = |bytes: &[u8]| (!is_withheld).then(|| hex(bytes));
        json!({
            "index": cell.index,
            "salt": disclosed(&cell.salt),
            "cell": disclosed(&cell.cell),
            "leaf_sha256": hex(&hidden.leaf_sha256),
            "salted_cell": hex(&if is_withheld { hidden } else { cell.clone() }.encode_to_vec()),
        })
    });
    json!({
        "name": name,
        "count": cells.len(),
        "root": hex(&root),
        "cells": shown.collect::<Vec<_>>(),
    })
}

fn refused_cells() -> Vec<Value> {
    let case = |name: &str, reason: &str, change: fn(&mut Vec<SaltedCell>)| {
        let (mut cells, root) = cells::seal(figures());
        let count = cells.len();
        change(&mut cells);
        let sent = cells.iter().map(|cell| hex(&cell.encode_to_vec()));
        json!({
            "name": name,
            "reason": reason,
            "count": count,
            "root": hex(&root),
            "salted_cells": sent.collect::<Vec<_>>(),
        })
    };
    vec![
        case("a cell is missing", "count", |cells| drop(cells.pop())),
        case("a cell too many", "count", |cells| cells.push(cells[0].clone())),
        case("an index twice", "index-twice", |cells| cells[5].index = 0),
        case("an index out of range", "index-out-of-range", |cells| {
            cells[5].index = cells.len().try_into().unwrap();
        }),
        case("swapped places", "root", |cells| (cells[0].index, cells[1].index) = (1, 0)),
        case("a changed figure", "root", |cells| cells[0].cell[3] ^= 1),
        case("a changed salt", "root", |cells| cells[0].salt[0] ^= 1),
        case("another leaf hash", "root", |cells| {
            cells[0] = cells::withhold(&cells[0]);
            cells[0].leaf_sha256[0] ^= 1;
        }),
        case("salt of 15 bytes", "malformed", |cells| {
            let moved = cells[0].salt.pop().unwrap();
            cells[0].cell.insert(0, moved);
        }),
        case("disclosed and withheld", "malformed", |cells| {
            cells[0].leaf_sha256 = cells::withhold(&cells[0]).leaf_sha256;
        }),
        case("neither disclosed nor withheld", "malformed", |cells| {
            (cells[0].salt, cells[0].cell) = (Vec::new(), Vec::new());
        }),
    ]
}
