//! How small states are stored: one byte of format version, then JSON.
//!
//! A reader knows every version ever written; an unknown one is a later program's.

use serde::{Serialize, de::DeserializeOwned};

use super::Error;

/// Writes `value` in format `version`.
pub fn write<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    let mut bytes = vec![version];
    serde_json::to_writer(&mut bytes, value).expect("invariant: stored types serialise to memory");
    bytes
}

/// Reads a value of format `version`.
///
/// # Errors
///
/// [`Error::Format`] for a later version, [`Error::Engine`] for bytes that are no such value.
pub fn read<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<T, Error> {
    let Some((found, rest)) = bytes.split_first() else {
        return Err(Error::Engine("a stored value is empty".into()));
    };
    if *found != version {
        return Err(Error::Format { found: u32::from(*found), known: u32::from(version) });
    }
    serde_json::from_slice(rest)
        .map_err(|error| Error::Engine(format!("a stored value cannot be read: {error}")))
}
