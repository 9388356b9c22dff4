//! What the gate reads of a request before its handler does: units, dry run, and for the second
//! person what is asked for. Nothing secret is shown.

use std::sync::OnceLock;

use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use tonic::Status;

use super::rules::Rule;
use crate::domain::unit::UnitCode;

/// Bytes before a message: a flag for compression, and the length.
pub(super) const FRAME_BYTES: usize = 5;

/// Parts of a field's name whose value is never shown.
const SECRET: [&str; 5] = ["password", "token", "code", "secret", "passphrase"];

/// Longest text of a field that a second person is shown.
const MAX_SHOWN: usize = 200;

/// The serialised message of a body with one message. Empty: none came.
///
/// # Errors
///
/// More or less than one message, or a compressed one.
pub(super) fn unframed(body: &[u8]) -> Result<&[u8], Status> {
    let malformed = || Status::invalid_argument("the request is not one uncompressed message");
    let Some((frame, message)) = body.split_first_chunk::<FRAME_BYTES>() else {
        return if body.is_empty() { Ok(body) } else { Err(malformed()) };
    };
    let [compressed, length @ ..] = *frame;
    let whole = usize::try_from(u32::from_be_bytes(length)) == Ok(message.len());
    if compressed == 0 && whole { Ok(message) } else { Err(malformed()) }
}

/// A message as a body.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), message].concat()
}

#[derive(Clone, PartialEq, prost::Message)]
struct Units {
    /// Every occurrence: of a field that is there twice a handler reads the last one only.
    #[prost(string, repeated, tag = "1")]
    unit: Vec<String>,
}

/// Units that a request is for, from its first field.
///
/// # Errors
///
/// Something that is no code of a unit.
pub(super) fn units(message: &[u8]) -> Result<Vec<UnitCode>, Status> {
    let units: Units = prost::Message::decode(message).map_err(|error| malformed(&error))?;
    let named = units.unit.iter().filter(|unit| !unit.is_empty());
    named.map(|unit| super::super::status::unit(unit)).collect()
}

fn malformed(error: &prost::DecodeError) -> Status {
    Status::invalid_argument(format!("the request cannot be read: {error}"))
}

fn parse(path: &str, message: &[u8]) -> Result<DynamicMessage, Status> {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        DescriptorPool::decode(lianxi_proto::DESCRIPTORS)
            .expect("invariant: the contract was compiled with this program")
    });
    let unknown = || Status::unimplemented("this node serves no such method");
    let (service, method) = path.trim_start_matches('/').split_once('/').ok_or_else(unknown)?;
    let service = pool.get_service_by_name(service).ok_or_else(unknown)?;
    let method = service.methods().find(|own| own.name() == method).ok_or_else(unknown)?;
    DynamicMessage::decode(method.input(), message).map_err(|error| malformed(&error))
}

/// True if the request only tries.
pub(super) fn is_dry_run(path: &str, message: &[u8]) -> Result<bool, Status> {
    let message = parse(path, message)?;
    let field = message.get_field_by_name("dry_run");
    Ok(field.and_then(|value| value.as_bool()).unwrap_or(false))
}

/// What an act is done to, for lists and the journal: the fields that the rule names.
pub(super) fn subject(rule: &Rule, message: &[u8]) -> Result<String, Status> {
    let message = parse(rule.path, message)?;
    let values = rule.subject.iter().filter_map(|name| message.get_field_by_name(name));
    let shown = values.map(|value| shown(&value)).filter(|text| !text.is_empty());
    Ok(shown.collect::<Vec<_>>().join(" "))
}

/// Everything that a request says, a line for each field, for the person who is to confirm it.
/// Secrets are not shown.
pub fn details(path: &str, message: &[u8]) -> Vec<String> {
    parse(path, message).map(|message| lines(&message, "")).unwrap_or_default()
}

fn lines(message: &DynamicMessage, prefix: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (field, value) in message.fields() {
        let name = format!("{prefix}{}", field.name());
        if SECRET.iter().any(|secret| field.name().contains(secret)) {
            continue;
        }
        let values = value.as_list().unwrap_or_else(|| std::slice::from_ref(value));
        for value in values {
            match (value, field.kind()) {
                (Value::Message(inner), _) => lines.extend(self::lines(inner, &format!("{name}."))),
                (Value::EnumNumber(number), prost_reflect::Kind::Enum(kind)) => {
                    let word = kind.get_value(*number).map(|word| word.name().to_owned());
                    lines.push(format!("{name}: {}", word.unwrap_or_else(|| number.to_string())));
                }
                (value, _) => lines.push(format!("{name}: {}", shown(value))),
            }
        }
    }
    lines
}

fn shown(value: &Value) -> String {
    if let Some(text) = value.as_str() {
        return text.chars().take(MAX_SHOWN).collect();
    }
    if let Some(bytes) = value.as_bytes() {
        return hex::encode(&bytes[..bytes.len().min(MAX_SHOWN / 2)]);
    }
    value.to_string().chars().take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use lianxi_proto::admin::v1 as pb;
    use prost::Message as _;

    use super::*;

    const GRANT: &str = "/lianxi.admin.v1.AccountService/Grant";

    #[test]
    fn a_second_person_sees_everything_that_is_asked_for() {
        let grant = pb::RoleGrant { role: "head".to_owned(), unit: "A".to_owned() };
        let request = pb::GrantRequest { name: "li".to_owned(), grant: Some(grant) };
        let shown = details(GRANT, &request.encode_to_vec());
        assert_eq!(shown, ["name: li", "grant.role: head", "grant.unit: A"]);
    }

    #[test]
    fn secrets_are_not_shown_to_a_second_person() {
        let request = pb::JoinRequest { token: "secret-of-a-token".to_owned(), dry_run: true };
        let path = "/lianxi.admin.v1.NodeService/Join";
        let shown = details(path, &request.encode_to_vec());
        assert_eq!(shown, ["dry_run: true"]);
        assert!(is_dry_run(path, &request.encode_to_vec()).unwrap());
    }

    #[test]
    fn a_unit_named_twice_is_judged_twice() {
        let twice = [
            pb::UnitsRequest { unit: "A".to_owned() }.encode_to_vec(),
            pb::UnitsRequest { unit: "B".to_owned() }.encode_to_vec(),
        ];
        let units = units(&twice.concat()).unwrap();
        assert_eq!(units.iter().map(UnitCode::as_str).collect::<Vec<_>>(), ["A", "B"]);
    }

    #[test]
    fn only_one_whole_message_is_read() {
        assert_eq!(unframed(&framed(b"abc")).unwrap(), b"abc");
        assert_eq!(unframed(b"").unwrap(), b"");
        let mut compressed = framed(b"abc");
        compressed[0] = 1;
        for wrong in [&compressed[..], &framed(b"abc")[..7], &[framed(b"a"), framed(b"b")].concat()]
        {
            assert!(unframed(wrong).is_err(), "{wrong:?}");
        }
    }
}
