//! How private keys and the store are protected at rest, as configuration, files and messages name
//! it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// With what the keys of a host are opened.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Nothing: key files are protected by their mode alone.
    #[default]
    None,
    /// A passphrase that people know.
    Passphrase,
    /// A systemd credential, bound to the machine.
    Credential,
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::None => "none",
            Self::Passphrase => "passphrase",
            Self::Credential => "credential",
        })
    }
}

/// With what the values of a store are encrypted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Cipher {
    /// Not at all.
    #[default]
    #[serde(rename = "none")]
    None,
    /// AES-256 in GCM (NIST SP 800-38D).
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// SM4 (GB/T 32907) in GCM, as in RFC 8998.
    #[serde(rename = "sm4-gcm")]
    Sm4Gcm,
}

impl Cipher {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::Sm4Gcm => "sm4-gcm",
        }
    }

    /// The cipher of a word.
    pub fn named(name: &str) -> Option<Self> {
        [Self::None, Self::Aes256Gcm, Self::Sm4Gcm].into_iter().find(|cipher| cipher.name() == name)
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
