//! Units and desks that move, merge, end or come back from a backup.

mod attacks_merge;
mod attacks_reform;
mod attacks_split;
mod desks;
mod division_kill;
mod merge;
mod move_host;
mod reform;
mod reform_kill;
mod restore;
mod returning;
mod split;
