//! Keys, delegations, certificates and people: what stands, and every attempt to get past it.

mod adoption;
mod adoption_kill;
mod attacks;
mod attacks_files;
mod attacks_joining;
mod attacks_links;
mod attacks_people;
mod attacks_revocation;
mod attacks_sealed;
mod joining;
mod keys_at_rest;
mod leaving;
mod people_cli;
mod root_custody;
mod root_rotation;
mod rotation;
