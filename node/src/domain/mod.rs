//! The rules, and nothing else: no clock, no network, no store, no generated type.

pub mod account;
pub mod catalogue;
pub mod component;
pub mod delegation;
pub mod distinct;
pub mod document;
pub mod epoch;
pub mod escalation;
pub mod explanation;
pub mod expression;
pub mod indicator;
pub mod journal;
pub mod lamp;
pub mod mapping;
pub mod notice;
pub mod period;
pub mod personal;
pub mod protection;
pub mod record;
pub mod reform;
pub mod refusals;
pub mod revocation;
pub mod role;
pub mod rotation;
pub mod summary;
pub mod unit;
