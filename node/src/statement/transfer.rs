//! What a transfer file holds, item by item, and what a host that awaits a unit says of itself.
//!
//! Promises that each item is read whole or refused. Must not know what a row means.

use lianxi_proto::types::v1::{self as pb, transfer_item};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    clock::UnixMillis,
    domain::unit::UnitCode,
    statement::header::{Malformed, unit_at},
};

/// Longest item.
pub const MAX_ITEM_BYTES: usize = 128 * 1024;

/// Bytes of SHA-256 at the end of a request.
const CHECKSUM_BYTES: usize = 4;

/// Most addresses of a host.
const MAX_ADDRESSES: usize = 8;

/// Longest address or name, in bytes.
const MAX_TEXT_BYTES: usize = 260;

/// What the new host says of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// The unit that it awaits.
    pub unit: UnitCode,
    /// The file is sealed to this key.
    pub public_key: [u8; 32],
    /// Name of the host.
    pub host: String,
    /// Where children dial the unit there.
    pub addresses: Vec<String>,
}

/// The beginning of a transfer file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Head {
    /// Trust domain of the unit.
    pub trust_domain: String,
    /// The unit.
    pub unit: UnitCode,
    /// Host that gave it away.
    pub host: String,
    /// Time of the leaf that names the file.
    pub time_unix_ms: UnixMillis,
    /// Who did it, as the leaf says.
    pub by: String,
    /// Epoch that the unit was in.
    pub epoch: u64,
    /// Leaves before the one that names the file.
    pub journal_size: u64,
    /// Where the parent is, seen from elsewhere; empty: as the identity says.
    pub parent_addresses: Vec<String>,
}

/// One item of a transfer file.
#[derive(Clone, Debug)]
pub enum Item {
    /// The beginning.
    Head(Head),
    /// A file of private keys: its path below the unit's, and what is in it.
    Keys(String, Zeroizing<Vec<u8>>),
    /// An entry of the store: number of the table, key, value.
    Row(u32, Vec<u8>, Vec<u8>),
    /// The end, with the numbers of files of keys and of rows.
    End(u64, u64),
}

/// Serialises a request, with its checksum.
pub fn encode_request(request: &Request) -> Vec<u8> {
    let mut bytes = pb::TransferRequest {
        unit: request.unit.to_string(),
        public_key: request.public_key.to_vec(),
        host: request.host.clone(),
        addresses: request.addresses.clone(),
    }
    .encode_to_vec();
    let checksum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&checksum[..CHECKSUM_BYTES]);
    bytes
}

/// Reads a request.
///
/// # Errors
///
/// [`Malformed`] names the first field that is missing or out of bounds.
pub fn decode_request(bytes: &[u8]) -> Result<Request, Malformed> {
    let damaged = || Malformed::new("request", "was cut or changed; copy it again");
    let body = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or_else(damaged)?;
    let (body, checksum) = bytes.split_at(body);
    if Sha256::digest(body)[..CHECKSUM_BYTES] != *checksum {
        return Err(damaged());
    }
    let message = pb::TransferRequest::decode(body).map_err(|_| damaged())?;
    let public_key = message.public_key.try_into();
    Ok(Request {
        unit: unit_at("request.unit", &message.unit)?,
        public_key: public_key
            .map_err(|_| Malformed::new("request.public_key", "must have 32 bytes"))?,
        host: name("request.host", message.host)?,
        addresses: addresses("request.addresses", message.addresses)?,
    })
}

fn name(field: &'static str, text: String) -> Result<String, Malformed> {
    if text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control) {
        return Err(Malformed::new(field, "is too long or has control characters"));
    }
    Ok(text)
}

/// Addresses as people or peers give them: few, short, each with a port.
///
/// # Errors
///
/// [`Malformed`] at `field`.
pub fn addresses(field: &'static str, given: Vec<String>) -> Result<Vec<String>, Malformed> {
    let is_address = |one: &String| {
        let port = one.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let plain = one.len() <= MAX_TEXT_BYTES && one.chars().all(|each| each.is_ascii_graphic());
        plain && port.is_some_and(|port| port > 0)
    };
    if given.len() > MAX_ADDRESSES || !given.iter().all(is_address) {
        return Err(Malformed::new(field, "holds no address like 10.1.2.3:7443, or over 8"));
    }
    Ok(given)
}

/// Serialises an item, with its length before it.
pub fn encode_item(item: &Item) -> Zeroizing<Vec<u8>> {
    let item = match item {
        Item::Head(head) => transfer_item::Item::Head(pb::TransferHead {
            trust_domain: head.trust_domain.clone(),
            unit: head.unit.to_string(),
            host: head.host.clone(),
            time_unix_ms: head.time_unix_ms,
            by: head.by.clone(),
            epoch: head.epoch,
            journal_size: head.journal_size,
            parent_addresses: head.parent_addresses.clone(),
        }),
        Item::Keys(path, content) => transfer_item::Item::Keys(pb::TransferKeys {
            path: path.clone(),
            content: content.to_vec(),
        }),
        Item::Row(table, key, value) => transfer_item::Item::Row(pb::TransferRow {
            table: *table,
            key: key.clone(),
            value: value.clone(),
        }),
        Item::End(keys, rows) => {
            transfer_item::Item::End(pb::TransferEnd { keys: *keys, rows: *rows })
        }
    };
    Zeroizing::new(pb::TransferItem { item: Some(item) }.encode_length_delimited_to_vec())
}

/// Takes the first item off `bytes`, with its length; `None`: more of it has to come.
///
/// # Errors
///
/// [`Malformed`] for one that is too long, or none.
pub fn decode_item(bytes: &[u8]) -> Result<Option<(Item, usize)>, Malformed> {
    let mut rest = bytes;
    let Ok(length) = prost::encoding::decode_varint(&mut rest) else {
        // Ten bytes hold any length.
        return if bytes.len() < 10 { Ok(None) } else { Err(Malformed::new("item", "is none")) };
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_ITEM_BYTES {
        return Err(Malformed::new("item", "is too long"));
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let message = pb::TransferItem::decode(body);
    let message = message.map_err(|_| Malformed::new("item", "cannot be read"))?;
    let item = match message.item {
        None => return Err(Malformed::new("item", "is of a kind that a newer program wrote")),
        Some(transfer_item::Item::Head(head)) => Item::Head(head_of(head)?),
        Some(transfer_item::Item::Keys(keys)) => {
            Item::Keys(keys.path, Zeroizing::new(keys.content))
        }
        Some(transfer_item::Item::Row(row)) => Item::Row(row.table, row.key, row.value),
        Some(transfer_item::Item::End(end)) => Item::End(end.keys, end.rows),
    };
    Ok(Some((item, bytes.len() - rest.len() + length)))
}

fn head_of(head: pb::TransferHead) -> Result<Head, Malformed> {
    if head.epoch == 0 || head.time_unix_ms <= 0 {
        return Err(Malformed::new("head", "lacks its time or epoch"));
    }
    Ok(Head {
        trust_domain: name("head.trust_domain", head.trust_domain)?,
        unit: unit_at("head.unit", &head.unit)?,
        host: name("head.host", head.host)?,
        time_unix_ms: head.time_unix_ms,
        by: name("head.by", head.by)?,
        epoch: head.epoch,
        journal_size: head.journal_size,
        parent_addresses: addresses("head.parent_addresses", head.parent_addresses)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            unit: "BOS-01-S1".parse().unwrap(),
            public_key: [7; 32],
            host: "street-2".to_owned(),
            addresses: vec!["10.1.2.3:7443".to_owned()],
        }
    }

    #[test]
    fn a_request_comes_back_and_every_changed_byte_is_noticed() {
        let bytes = encode_request(&request());
        assert_eq!(decode_request(&bytes).unwrap(), request());
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(decode_request(&changed).is_err(), "byte {at}");
            assert!(decode_request(&bytes[..at]).is_err(), "cut after {at}");
        }
    }

    #[test]
    fn addresses_have_ports_and_are_few() {
        let of = |given: &[&str]| {
            addresses("a", given.iter().map(|&one| one.to_owned()).collect::<Vec<_>>())
        };
        assert!(of(&["a.example:7443", "[::1]:1"]).is_ok());
        for bad in ["a.example", "a.example:0", "a b:1", "a:70000"] {
            assert!(of(&[bad]).is_err(), "{bad}");
        }
        assert!(of(&["a:1"; 9]).is_err());
    }

    #[test]
    fn items_come_back_one_after_the_other_and_wait_for_their_end() {
        let row = Item::Row(2, vec![1; 30], vec![9; 65_536]);
        let bytes =
            [encode_item(&row).as_slice(), encode_item(&Item::End(1, 2)).as_slice()].concat();
        let (first, length) = decode_item(&bytes).unwrap().unwrap();
        assert!(
            matches!(first, Item::Row(2, key, value) if key.len() == 30 && value.len() == 65_536)
        );
        assert!(decode_item(&bytes[..length - 1]).unwrap().is_none());
        let (second, rest) = decode_item(&bytes[length..]).unwrap().unwrap();
        assert!(matches!(second, Item::End(1, 2)));
        assert_eq!(length + rest, bytes.len());
        assert!(decode_item(&[0xFF; 12]).is_err());
        assert!(decode_item(&[0x80, 0x80, 0x7F, 1]).is_err(), "longer than an item can be");
    }
}
