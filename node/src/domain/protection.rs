//! How private keys are protected at rest, as configuration, files and messages name it.

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
