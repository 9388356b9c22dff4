//! The program of the release before: what the tree's own has to get along with.
//!
//! Built from the newest tag `vN…` that the checkout descends from, below `target/previous`;
//! `LIANXI_PREVIOUS_PROGRAM` names one that is there already.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{processes::program, skip::skip};

/// Where the program is, if it is not to be built.
const PROGRAM: &str = "LIANXI_PREVIOUS_PROGRAM";

/// A release.
#[derive(Clone, Debug)]
pub struct Release {
    /// Its tag, or what stands for it.
    pub name: String,
    /// Its program.
    pub program: PathBuf,
}

/// The release before. Before the first one: the tree's own program, so that the test runs all the
/// same. `None`, with words, if there is one and it cannot be built.
///
/// # Panics
///
/// It cannot be built, where nothing may be skipped.
pub fn previous() -> Option<Release> {
    if let Some(program) = std::env::var_os(PROGRAM) {
        return Some(Release { name: PROGRAM.to_owned(), program: program.into() });
    }
    let Some(name) = newest_tag() else {
        let name = "no release yet: the tree itself".to_owned();
        return Some(Release { name, program: program().to_owned() });
    };
    match build(&name) {
        Ok(program) => Some(Release { name, program }),
        Err(why) => {
            skip(&format!("compatibility with {name}"), &why, &format!("set {PROGRAM}"));
            None
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn newest_tag() -> Option<String> {
    let describe = ["describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD"];
    let said = Command::new("git").args(describe).current_dir(root()).output().ok()?;
    let tag = String::from_utf8(said.stdout).ok()?.trim().to_owned();
    (said.status.success() && !tag.is_empty()).then_some(tag)
}

fn build(tag: &str) -> Result<PathBuf, String> {
    let place = root().join("target/previous");
    let (tree, target) = (place.join(tag), place.join("build"));
    let run = |command: &mut Command| {
        let said = command.output().map_err(|error| format!("{command:?}: {error}"))?;
        let words = String::from_utf8_lossy(&said.stderr).into_owned();
        if said.status.success() { Ok(()) } else { Err(format!("{command:?}: {words}")) }
    };
    if !tree.exists() {
        let fresh = place.join("fresh");
        fs::create_dir_all(&fresh).map_err(|error| error.to_string())?;
        let archive = fresh.with_extension("tar");
        let packed = ["archive", "--format=tar", "--output"];
        run(Command::new("git").args(packed).arg(&archive).arg(tag).current_dir(root()))?;
        run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&fresh))?;
        fs::rename(&fresh, &tree).map_err(|error| error.to_string())?;
    }
    let arguments = ["build", "--locked", "--package", "lianxi-admin-cli", "--target-dir"];
    run(Command::new(env!("CARGO")).args(arguments).arg(&target).current_dir(&tree))?;
    Ok(target.join("debug/lianxi"))
}
