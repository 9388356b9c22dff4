//! Who is who: keys, delegations, certificates, tokens, TLS.

pub mod certificates;
pub mod issue;
pub mod keys;
pub mod sealed;
pub mod sealed_file;
pub mod tls;
pub mod token;
pub mod trust;
