//! Statements over links and courier files between real hosts.

mod attacks_courier;
mod bad_input;
mod boston_flat;
mod compatibility;
mod courier;
mod courier_kill;
mod courier_orders;
mod default_catalogue;
mod federation;
mod hosting;
mod kill;
mod previews;
mod quarantine;
mod sleepers;
mod stocks;
mod storm;
