//! The command line: `lianxi <noun> <verb>`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{
    commands::{
        Context, account, approval, catalogue, courier, desk, escalation, generate, journal, node,
        notice, pack, quarantine, record, root, store, summary, unit, verify,
    },
    demo,
    output::Output,
    texts::Lang,
};

/// Runs and asks the Lianxi node of this machine.
#[derive(Debug, Parser)]
#[command(name = "lianxi", version, propagate_version = true)]
pub(crate) struct Arguments {
    /// What every command takes.
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    noun: Noun,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// Directory of the host: its `node.toml`, keys, store and socket
    #[arg(
        long,
        global = true,
        env = "LIANXI_DIR",
        default_value = "lianxi-data",
        value_name = "DIR"
    )]
    pub(crate) dir: PathBuf,
    /// Socket of the node [default: as the directory's node.toml says]
    #[arg(long, global = true, env = "LIANXI_SOCKET", value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// File with the token of a system, instead of a login; mode 0600
    #[arg(long, global = true, env = "LIANXI_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Print one JSON document instead of tables
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Language of tables and messages [default: zh if the locale begins with zh, else en]
    #[arg(long, global = true, value_enum)]
    pub(crate) lang: Option<Lang>,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Set up, join, run and watch the node
    #[command(subcommand)]
    Node(node::Verb),
    /// Custody of the root key
    #[command(subcommand)]
    Root(root::Verb),
    /// Encrypt the store of a stopped host at rest
    #[command(subcommand)]
    Store(store::Verb),
    /// Where units stand in the tree: reforms (机构改革)
    #[command(subcommand)]
    Unit(unit::Verb),
    /// Departments inside a unit that a whistle can call
    #[command(subcommand)]
    Desk(desk::Verb),
    /// Record types, indicators and duty list
    #[command(subcommand)]
    Catalogue(catalogue::Verb),
    /// Records, which never leave this node
    #[command(subcommand)]
    Record(record::Verb),
    /// Signed figures: publish, show, pull
    #[command(subcommand)]
    Summary(summary::Verb),
    /// Signed figures or statements as files that stand alone
    #[command(subcommand)]
    Pack(pack::Verb),
    /// Check such a file with the root key alone; needs no node
    Verify(verify::Verify),
    /// Tasks downward and their receipts
    #[command(subcommand)]
    Notice(notice::Verb),
    /// Whistles upward and the desks' steps
    #[command(subcommand)]
    Escalation(escalation::Verb),
    /// Files that carry statements across an air gap (摆渡包)
    #[command(subcommand)]
    Courier(courier::Verb),
    /// Statements that were refused
    #[command(subcommand)]
    Quarantine(quarantine::Verb),
    /// The audit log: who did what, witnessed by the neighbours
    #[command(subcommand)]
    Journal(journal::Verb),
    /// People of the host: accounts, roles, tokens of systems
    #[command(subcommand)]
    Account(account::Verb),
    /// Acts that wait for a second person
    #[command(subcommand)]
    Approval(approval::Verb),
    /// Log in to the host; the session is kept for this user
    Login(account::Login),
    /// End the session
    Logout(account::Logout),
    /// Show who one is on the host, and with which roles
    Whoami(account::Whoami),
    /// Print a completion script for a shell
    Completions(generate::Completions),
    /// Write the man pages into a directory
    Man(generate::Man),
    /// Run a whole federation of 312 units on this machine
    Demo(demo::Demo),
}

impl Arguments {
    /// Runs the command.
    pub(crate) fn run(self, output: &Output) -> anyhow::Result<()> {
        let Global { dir, socket, token_file, .. } = self.global;
        let context = Context::new(dir, output).through(socket, token_file);
        match self.noun {
            Noun::Node(verb) => verb.run(&context),
            Noun::Root(verb) => verb.run(&context),
            Noun::Store(verb) => verb.run(&context),
            Noun::Unit(verb) => block_on(verb.run(&context)),
            Noun::Desk(verb) => block_on(verb.run(&context)),
            Noun::Catalogue(verb) => block_on(verb.run(&context)),
            Noun::Record(verb) => block_on(verb.run(&context)),
            Noun::Summary(verb) => block_on(verb.run(&context)),
            Noun::Pack(verb) => block_on(verb.run(&context)),
            Noun::Verify(verify) => verify.run(&context),
            Noun::Notice(verb) => block_on(verb.run(&context)),
            Noun::Escalation(verb) => block_on(verb.run(&context)),
            Noun::Courier(verb) => block_on(verb.run(&context)),
            Noun::Quarantine(verb) => block_on(verb.run(&context)),
            Noun::Journal(verb) => block_on(verb.run(&context)),
            Noun::Account(verb) => block_on(verb.run(&context)),
            Noun::Approval(verb) => block_on(verb.run(&context)),
            Noun::Login(login) => block_on(login.run(&context)),
            Noun::Logout(logout) => block_on(logout.run(&context)),
            Noun::Whoami(whoami) => block_on(whoami.run(&context)),
            Noun::Completions(completions) => completions.run(&context),
            Noun::Man(man) => man.run(&context),
            Noun::Demo(demo) => block_on(demo.run(&context)),
        }
    }
}

/// Runs a client's command: one thread is enough for it.
pub(crate) fn block_on<F>(command: F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(command);
    // Does not wait for a thread that still reads standard input.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn global_arguments_stand_after_the_verb_too() {
        let arguments =
            Arguments::try_parse_from(["lianxi", "node", "status", "--dir", "/srv/x", "--json"]);
        let arguments = arguments.unwrap();
        assert_eq!(arguments.global.dir, PathBuf::from("/srv/x"));
        assert!(arguments.global.json);
    }

    #[test]
    fn wrong_codes_and_levels_are_told_at_once() {
        let invite = |level, code| {
            Arguments::try_parse_from([
                "lianxi", "node", "invite", code, "--level", level, "--title", "T",
            ])
        };
        assert!(invite("district", "BOS-01").is_ok());
        assert!(invite("county", "BOS-01").unwrap_err().to_string().contains("use city, district"));
        assert!(invite("district", "bos 01").is_err());
    }
}
