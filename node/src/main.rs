//! The binary `lianxi-node`: serves the units of one host until it is told to stop.

use std::path::PathBuf;

use clap::Parser;

/// Serves the units of one Lianxi host.
#[derive(Parser)]
#[command(name = "lianxi-node", version)]
struct Arguments {
    /// The host's configuration.
    #[arg(long, value_name = "FILE", default_value = "node.toml")]
    config: PathBuf,
    /// File descriptor from which the passphrase of the keys is read.
    #[arg(long, value_name = "N")]
    passphrase_fd: Option<u32>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    Ok(lianxi_node::process::run(&arguments.config, arguments.passphrase_fd)?)
}
