//! The federation test kit: whole federations of real hosts in one process or as processes.
//!
//! Everything is the product's own: stores on disk, TLS on loopback, tokens, gRPC on the local
//! socket. Only time and a tap for frames come from outside.

pub mod acts;
pub mod binary;
pub mod boston;
pub mod breach;
pub mod children;
pub mod client;
pub mod collector;
pub mod courier;
pub mod federation;
pub mod fuzz;
pub mod hostile;
pub mod lines;
pub mod log;
pub mod numbers;
pub mod packs;
pub mod people;
pub mod ports;
pub mod power_cut;
pub mod previous;
pub mod processes;
pub mod python;
pub mod search;
pub mod simulation;
pub mod skip;
pub mod small_disk;
pub mod wait;
