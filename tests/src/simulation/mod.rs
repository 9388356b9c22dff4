//! Four levels of units in one thread and in simulated time, with everything going wrong that a seed
//! says.
//!
//! The product's own code runs: services, verification, sessions with their driver, the host's
//! links with their back-off. Simulated are the disk (what is not synced is lost in a crash), the wires
//! (they break, wait, and bring late what was sent before), the clocks, the randomness, and the people
//! who do the work. TLS and HTTP/2 are not in it: frames go over the pipes that units of one host
//! use. The same seed does the same, event by event.
//!
//! [`Apart`] is another world: two units that nothing joins but files.

mod apart;
mod checks;
mod city;
mod faults;
mod ledger;
mod network;
mod node;
mod trace;
mod truth;
mod work;
mod world;

pub use self::{
    apart::{Apart, run_apart},
    trace::{Failure, Report},
    world::{Break, Plan, run},
};
