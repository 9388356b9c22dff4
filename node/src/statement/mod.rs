//! The one place that maps domain types to and from signed payload bytes.

pub mod catalogue;
pub mod courier;
pub mod delegation;
pub mod enrolment;
pub mod epoch;
pub mod escalation;
pub mod handed;
pub mod header;
pub mod journal;
pub mod leave;
pub mod notice;
pub mod pack;
pub mod reform;
pub mod rejection;
pub mod revocation;
pub mod rotation;
pub mod sealed;
pub mod summary;
pub mod transfer;

/// The signed wrapping, kept verbatim: the one generated type that services may hold.
pub use lianxi_proto::types::v1::Envelope;
/// A cell as it travels, kept verbatim.
pub use lianxi_proto::types::v1::SaltedCell;
