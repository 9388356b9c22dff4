//! What a store keeps through SIGKILL, power cuts and full disks, and what a thief reads of it.

mod power_cut;
mod store_at_rest;
mod store_full_disk;
mod store_kill;
