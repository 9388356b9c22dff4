//! Use cases, one file per area, over domain and store. Services write the outbox; the link drains it.

pub mod accounts;
pub mod catalogues;
pub mod connection;
pub mod desks;
pub mod enrolments;
pub mod epochs;
pub mod error;
pub mod escalations;
pub mod exchange;
pub mod grants;
pub mod host;
pub mod hosted;
pub mod imports;
pub mod intake;
pub mod journal;
pub mod leaving;
pub mod notices;
pub mod packs;
pub mod quarantine;
pub mod records;
pub mod reforms;
pub mod revocations;
pub mod rotations;
pub mod summaries;
pub mod unit;
pub mod witness;
