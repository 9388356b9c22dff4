//! A Python that can check Ed25519, for programs that share no line with this project.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use crate::skip::skip;

/// The interpreter.
#[derive(Debug)]
pub struct Python(PathBuf);

impl Python {
    /// Finds one: the system's, or one with the package installed under the build's own folder,
    /// beside `temporary`, the build's `CARGO_TARGET_TMPDIR`. Says what to do, and fails where
    /// skipping is forbidden, if there is none for `what`.
    pub fn find(what: &str, temporary: &Path) -> Option<Self> {
        let own = temporary.with_file_name("python");
        let candidates = [PathBuf::from("python3"), own.join("bin/python")];
        let found = candidates.into_iter().map(Self).find(Self::has_cryptography);
        let found = found.or_else(|| Self::install(&own));
        if found.is_none() {
            skip(
                what,
                "there is no Python 3 with the package `cryptography`",
                "install it, e.g. `apt-get install python3-cryptography`",
            );
        }
        found
    }

    fn has_cryptography(&self) -> bool {
        let module = "cryptography.hazmat.primitives.asymmetric.ed25519";
        succeeds(Command::new(&self.0).args(["-c", &format!("import {module}")]))
    }

    /// Makes a virtual environment. Needs a package index within reach.
    fn install(directory: &Path) -> Option<Self> {
        // Tests run side by side, in processes of their own too.
        let lock = File::create(directory.with_extension("lock")).ok()?;
        lock.lock().ok()?;
        let python = Self(directory.join("bin/python"));
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        let installed = python.has_cryptography()
            || succeeds(Command::new("python3").args(["-m", "venv"]).arg(directory))
                && succeeds(Command::new(&python.0).args(pip).arg("cryptography"));
        installed.then_some(python)
    }

    /// A run of a script; arguments follow.
    pub fn run(&self, script: &Path) -> Command {
        let mut command = Command::new(&self.0);
        // Without -B it would leave compiled files in the source tree.
        command.arg("-B").arg(script);
        command
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
