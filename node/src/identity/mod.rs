//! Who is who: keys, delegations, certificates, tokens, TLS; people's passwords and codes.

pub mod certificates;
pub mod custody;
pub mod factor;
pub mod issue;
pub mod keys;
pub mod password;
pub mod sealed;
pub mod sealed_file;
pub mod shares;
pub mod tls;
pub mod token;
pub mod trust;
