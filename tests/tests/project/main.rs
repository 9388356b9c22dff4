//! The tree itself: its layers, its documents, its table of attacks.

mod architecture;
mod docs_commands;
mod removed_checks;
