//! The Lianxi gateway: everything one host runs to serve its units.
//!
//! Dependencies run one way:
//! `domain ← statement ← {store, identity} ← verify ← services ← {link, grpc} ← node`.
//! `docs/ARCHITECTURE.md` has the picture and the invariants.

pub mod clock;
pub mod config;
pub mod domain;
pub mod grpc;
pub mod identity;
pub mod link;
pub mod node;
pub mod process;
pub mod random;
pub mod services;
pub mod statement;
pub mod store;
pub mod telemetry;
pub mod verify;
pub mod watch;
