//! Journals, witnesses and packs: what can be proven to somebody who trusts nobody here.

mod attacks_journal;
mod attacks_witness;
mod packs;
mod packs_evidence;
mod verify;
mod verify_python;
