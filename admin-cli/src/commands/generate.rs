//! `lianxi completions` and `lianxi man`: made from the command line itself.

use std::{fs, io, path::PathBuf};

use anyhow::Context as _;
use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use super::Context;
use crate::arguments::Arguments;

/// Arguments of `lianxi completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// Shell that the script is for
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `lianxi man`.
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Directory for the pages; made if it is not there
    directory: PathBuf,
}

impl Completions {
    /// Runs the command.
    pub(crate) fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let script = script(self.shell);
        if context.output().is_json() {
            let text = String::from_utf8(script)?;
            let document = json!({ "shell": self.shell.to_string(), "script": text });
            return Ok(context.output().document(&document)?);
        }
        Ok(context.output().data(&script)?)
    }
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "lianxi", &mut script);
    script
}

impl Man {
    /// Runs the command.
    pub(crate) fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let directory = &self.directory;
        let cannot = || format!("cannot write man pages into {}", directory.display());
        fs::create_dir_all(directory).with_context(cannot)?;
        let mut pages = Vec::new();
        for (name, page) in pages_of(Arguments::command())? {
            let path = directory.join(name);
            fs::write(&path, page).with_context(cannot)?;
            pages.push(path.display().to_string());
        }
        if context.output().is_json() {
            return Ok(context.output().document(&json!({ "pages": pages }))?);
        }
        for page in pages {
            context.output().line(page)?;
        }
        Ok(())
    }
}

/// File name and text of every page: the program, its nouns, their verbs.
fn pages_of(command: clap::Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut pages = Vec::new();
    let mut waiting = vec![named_by_path(command, "lianxi")];
    while let Some(command) = waiting.pop() {
        let name = command.get_display_name().unwrap_or("lianxi").to_owned();
        for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
            let child_name = format!("{name}-{}", child.get_name());
            waiting.push(named_by_path(child.clone(), &child_name));
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        pages.push((format!("{name}.1"), page));
    }
    pages.sort();
    Ok(pages)
}

fn named_by_path(mut command: clap::Command, name: &str) -> clap::Command {
    command.build();
    command.display_name(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_its_page() {
        let pages = pages_of(Arguments::command()).unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in [
            "lianxi.1",
            "lianxi-node.1",
            "lianxi-node-join.1",
            "lianxi-summary-pull.1",
            "lianxi-demo.1",
        ] {
            assert!(names.contains(&name), "{name} is not among {names:?}");
        }
        for (name, page) in &pages {
            assert!(page.starts_with(b".ie") || page.starts_with(b".TH"), "{name}");
        }
        let join = &pages.iter().find(|(name, _)| name == "lianxi-node-join.1").unwrap().1;
        assert!(String::from_utf8_lossy(join).contains("LIANXI_DIR"));
    }

    #[test]
    fn every_shell_has_its_completions() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let script = String::from_utf8(script(shell)).unwrap();
            assert!(script.contains("escalation"), "{shell}");
        }
    }
}
