//! Who is who: keys, delegations, certificates, tokens, TLS; people's passwords and codes.

pub mod certificates;
pub mod factor;
pub mod issue;
pub mod keys;
pub mod password;
pub mod sealed;
pub mod sealed_file;
pub mod tls;
pub mod token;
pub mod trust;
