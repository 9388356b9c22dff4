//! What must hold for any bytes that come from outside, one function per way in.
//!
//! Each takes bytes and panics if they break something: a reader must refuse or understand, and
//! what it understood must be written and read as the same again. `cargo fuzz` calls these from
//! `tests/fuzz`; the test `fuzz` calls them with the corpus in the tree and with changes of it.

use std::{collections::BTreeMap, convert::Infallible, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use lianxi_node::{
    config::HostConfig,
    domain::{catalogue::Catalogue, document, epoch::Number, mapping::Mapping},
    identity::{sealed::KeyRing, sealed_file, shares::Share, token::Token},
    link::{
        courier::Frames,
        session::{Effect, Heartbeat, Now, Role, Session},
        wire,
    },
    services::{
        courier::Codec as _,
        exchange::{Lane, Meeting, NoAnswer, Page},
    },
    statement::{
        self, Envelope, catalogue, delegation, epoch, escalation, journal, leave, notice, pack,
        rejection, revocation, sealed, summary,
    },
    verify,
};
use lianxi_proto::{
    link::v1::{Frame, Hello, frame::Kind},
    note::{Checkpoint, Note},
};
use prost::Message as _;
use serde_json::Value;

use crate::federation::{CATALOGUE, MAPPING};

/// One way in.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const TARGETS: [(&str, Target); 9] = [
    ("session", session),
    ("statement", statement),
    ("pack", pack),
    ("courier", courier),
    ("token", token),
    ("note", note),
    ("mapping", mapping),
    ("filter", filter),
    ("config", config),
];

/// Frames of one link: each is its length in two bytes, then its bytes. The first byte of all says
/// which end of the link takes them. The session goes on as a real one would.
///
/// # Panics
///
/// A delivery is handed over twice or out of order, something is wanted after the end, or a frame
/// does not survive writing and reading.
pub fn session(bytes: &[u8]) {
    let Some((first, mut rest)) = bytes.split_first() else { return };
    let role = if first & 1 == 0 { Role::Parent } else { Role::Child };
    let peer = "PEER".parse().unwrap();
    let mut now = Now { elapsed: Duration::ZERO, unix_ms: 0 };
    let mut session = Session::new(role, peer, Heartbeat::default(), now);
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        trust_domain: "test".to_owned(),
        unit: "PEER".to_owned(),
        epoch: 1,
        roster_sha256: vec![0; 32],
        revocations_sha256: vec![0; 32],
        ..Hello::default()
    };
    let mut played = Played::default();
    if first & 2 == 0 {
        session.received(Frame { kind: Some(Kind::Hello(hello)) });
        played.serve(&mut session, role);
    }
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (frame, after) = after.split_at(length);
        rest = after;
        let Ok(frame) = wire::decode(frame.to_vec().into()) else { continue };
        assert_eq!(wire::decode(wire::encode(&frame)).unwrap(), frame);
        if !session.wants_frames() {
            break;
        }
        now.elapsed += Duration::from_millis(u64::from(first >> 2) * 100);
        session.tick(now);
        session.received(frame);
        played.serve(&mut session, role);
    }
}

/// What the driver of a fuzzed session has seen.
#[derive(Default)]
struct Played {
    /// The last delivery of each lane that was handed over.
    taken: BTreeMap<i32, u64>,
    is_over: bool,
}

impl Played {
    fn serve(&mut self, session: &mut Session, role: Role) {
        while let Some(effect) = session.effect() {
            assert!(!self.is_over, "wanted after the end: {effect:?}");
            match effect {
                Effect::Judge(standing) => {
                    let meeting = if standing.stopped { Meeting::Quiet } else { Meeting::Open };
                    session.accepted(meeting, (role == Role::Parent).then_some(*standing));
                }
                Effect::Fetch { lane, .. } => session.fetched(lane, Vec::new()),
                Effect::FetchRoster => session.roster(Vec::new()),
                Effect::FetchRevocations => session.revocations(Vec::new()),
                Effect::Revoke(_) => session.took_revocations(),
                Effect::Introduce(_) => session.introduced(),
                Effect::Witness(_) => session.witnessed(Vec::new()),
                Effect::Receive(arrival) => {
                    let (lane, place) = (arrival.cursor.lane, arrival.cursor.lane_seq);
                    let last = self.taken.insert(lane as i32, place);
                    assert!(
                        last.is_none_or(|last| last < place),
                        "{lane:?}: {place} after {last:?}"
                    );
                    session.handed(lane);
                    session.committed(lane, place);
                }
                Effect::WantReturns => session.returns_wanted(Some(Number::default())),
                Effect::TakeReturned(_) => session.returns_wanted(None),
                Effect::GiveBack(_) => session.returned(Page::default()),
                Effect::Acknowledged(cursor) => session.told(cursor.lane),
                Effect::Answer { pull_id, .. } => {
                    session.answered(pull_id, Err(NoAnswer::NoLink));
                }
                Effect::Close(_) => self.is_over = true,
                _ => {}
            }
            while session.frame().is_some() {}
        }
        assert!(!(self.is_over && session.wants_frames()), "frames are wanted after the end");
        for lane in Lane::ALL {
            // Work that never comes must be asked for by nobody.
            session.told(lane);
        }
    }
}

/// An envelope, or the payload of one: its header, and the body as every kind of statement.
///
/// # Panics
///
/// What was understood is not the same after writing and reading.
pub fn statement(bytes: &[u8]) {
    if let Ok(envelope) = Envelope::decode(bytes) {
        assert_eq!(Envelope::decode(envelope.encode_to_vec().as_slice()).unwrap(), envelope);
        payload(&envelope.payload);
    }
    payload(bytes);
}

/// Reads with `$read`; what was read is written and read the same again.
macro_rules! again {
    ($bytes:expr, $read:expr, $write:expr) => {
        if let Ok(found) = $read($bytes) {
            let written = $write(&found);
            let again = $read(&written).expect("what was written is read");
            assert_eq!(written, $write(&again));
        }
    };
}

fn payload(bytes: &[u8]) {
    if let Ok(found) = statement::header::decode(bytes) {
        body(&found.body);
    }
    body(bytes);
}

fn body(bytes: &[u8]) {
    again!(bytes, catalogue::decode_body, catalogue::encode_body);
    again!(bytes, statement::courier::decode_body, statement::courier::encode_body);
    again!(bytes, rejection::decode_refused, rejection::encode_refused);
    again!(bytes, delegation::decode_body, delegation::encode_body);
    again!(bytes, epoch::decode_body, epoch::encode_body);
    again!(bytes, escalation::decode_body, escalation::encode_body);
    again!(bytes, escalation::decode_event, escalation::encode_event);
    again!(bytes, journal::decode_alarm, journal::encode_alarm);
    again!(bytes, leave::decode_body, leave::encode_body);
    again!(bytes, notice::decode_body, notice::encode_body);
    again!(bytes, notice::decode_receipt, notice::encode_receipt);
    again!(bytes, pack::decode_seal, pack::encode_seal);
    again!(bytes, rejection::decode_body, rejection::encode_body);
    again!(bytes, revocation::decode_body, revocation::encode_body);
    again!(bytes, sealed::decode_body, sealed::encode_body);
    again!(bytes, sealed::decode_grant, sealed::encode_grant);
    again!(bytes, sealed::decode_file_head, sealed::encode_file_head);
    again!(bytes, summary::decode_body, summary::encode_body);
    let _ = journal::read(bytes);
}

/// A root key and a pack, with a line of four dashes between.
///
/// # Panics
///
/// The verifier does.
pub fn pack(bytes: &[u8]) {
    const BORDER: &[u8] = b"\n----\n";
    let border = bytes.windows(BORDER.len()).position(|window| window == BORDER);
    let Some(border) = border else { return drop(pack::read(bytes)) };
    let (root, file) = (&bytes[..border], &bytes[border + BORDER.len()..]);
    let root = std::str::from_utf8(root).ok().and_then(|text| text.parse().ok());
    if let Some(root) = root {
        let _ = verify::verify(file, &root);
    }
}

/// A courier file inside its seal, or one block of it.
///
/// # Panics
///
/// What was understood is not the same after writing and reading.
pub fn courier(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(file) = statement::courier::read(&bytes) {
        let written = Bytes::from(statement::courier::write(&file));
        assert_eq!(statement::courier::read(&written).unwrap(), file);
        payload(&file.manifest.payload);
        file.blocks.iter().for_each(block);
    }
    block(&bytes);
    let ring = KeyRing::default();
    let mut opened = Vec::new();
    assert!(sealed_file::open_file(&ring, &bytes[..], &mut opened).is_err() && opened.is_empty());
}

fn block(bytes: &Bytes) {
    let Ok(frames) = statement::courier::unpack(bytes) else { return };
    let again = statement::courier::unpack(&statement::courier::pack(&frames));
    assert_eq!(again.unwrap(), frames);
    for frame in frames {
        let Ok(message) = Frames.decode(frame) else { continue };
        if let Some(written) = Frames.encode(message) {
            let again = Frames.decode(written.clone()).expect("what was written is read");
            assert_eq!(Frames.encode(again), Some(written));
        }
    }
}

/// A token, or a share of a root key: what a person pastes.
///
/// # Panics
///
/// What was understood is not the same after writing and reading.
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = text.parse::<Token>() {
        let written = token.to_text();
        assert_eq!(written.parse::<Token>().unwrap().to_text(), written);
    }
    if let Ok(share) = text.parse::<Share>() {
        let written = share.to_text();
        assert_eq!(written.parse::<Share>().unwrap().to_text(), written);
    }
}

/// A checkpoint with its signatures.
///
/// # Panics
///
/// What was understood is not the same after writing and reading.
pub fn note(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(note) = Note::parse(text) {
        let again = Note::parse(&note.to_string()).unwrap();
        assert_eq!(again.to_string(), note.to_string());
        if let Ok(checkpoint) = Checkpoint::of(&note) {
            assert!(note.text().starts_with(&checkpoint.text()));
        }
        let mut merged = again;
        merged.merge(&note);
        let once = merged.to_string();
        merged.merge(&note);
        assert_eq!(merged.to_string(), once);
    }
}

/// A mapping and a CSV file, with a line of four dashes between; without one the file alone, under
/// the kit's mapping.
///
/// # Panics
///
/// The mapping is another after writing and reading, or a row breaks it.
pub fn mapping(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (mapping, file) = text.split_once("\n----\n").unwrap_or((MAPPING, &text));
    let Ok(mapping) = Mapping::from_toml(mapping, |_| Ok::<_, Infallible>("a,C\n".to_owned()))
    else {
        return;
    };
    let written = mapping.to_json();
    let again = Mapping::from_json(&written).expect("what was written is read");
    assert_eq!(again.to_json(), written);
    let mut reader = csv::ReaderBuilder::new();
    let reader = reader.delimiter(mapping.delimiter()).flexible(true).has_headers(false);
    let mut reader = reader.from_reader(file.as_bytes());
    let mut rows = reader.byte_records().flatten();
    let Some(Ok(bound)) = rows.next().map(|heading| Arc::new(mapping).bind(&heading)) else {
        return;
    };
    for row in rows.take(50) {
        let _ = bound.unit(&row);
        let _ = bound.record(&row);
    }
}

/// A filter of an indicator in the kit's catalogue, judged over a few records.
///
/// # Panics
///
/// The filter breaks the catalogue or the judgement.
pub fn filter(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut document: Value = serde_json::from_str(CATALOGUE).unwrap();
    document["indicators"][1]["filter"] = text.into();
    let Ok(catalogue) = Catalogue::parse(document.to_string().as_bytes()) else { return };
    let record = |closed: Value, kind: Value| {
        serde_json::json!({
            "case": "1", "opened": "2011-07-01T08:00:00-04:00", "closed": closed, "type": kind,
        })
    };
    for record in [
        record(Value::Null, Value::Null),
        record("2011-07-02T08:00:00-04:00".into(), "街道 light".into()),
    ] {
        let _ = catalogue.contributions("request", &record);
    }
}

/// A host's configuration, or a catalogue, or any JSON document.
///
/// # Panics
///
/// What was understood is not the same after writing and reading.
pub fn config(bytes: &[u8]) {
    let directory = Path::new("/srv/lianxi");
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(config) = HostConfig::parse(text, Path::new("node.toml"), directory) {
        let written = config.to_toml();
        let again = HostConfig::parse(&written, Path::new("node.toml"), directory).unwrap();
        assert_eq!(again.to_toml(), written);
    }
    let _ = Catalogue::parse(bytes);
    let _ = document::read(bytes);
}
