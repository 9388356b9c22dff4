//! A small disk for one test: a tmpfs in a mount namespace of its own, so that nothing outside is
//! touched.
//!
//! A test runs an ignored test of its program again, as a child in the namespace; the child mounts.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::skip;

/// Set in the child: a directory in which it may mount its disk.
const MOUNT: &str = "LIANXI_TEST_SMALL_DISK";

fn in_namespace(program: &OsStr) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount"]).arg(program);
    command
}

/// Runs `child`, an ignored test of this program by its full name, where it may mount; `test` is who
/// is skipped where nobody may.
///
/// # Panics
///
/// If the child fails, or if there is no test of that name.
pub fn run(test: &str, child: &str, environment: &[(&str, &Path)]) {
    let directory = tempfile::tempdir().unwrap();
    let mount = in_namespace(OsStr::new("mount"))
        .args(["-t", "tmpfs", "none"])
        .arg(directory.path())
        .stderr(Stdio::null())
        .status();
    if !mount.is_ok_and(|status| status.success()) {
        skip::skip(test, "cannot mount a tmpfs", "run as root, or allow user namespaces");
        return;
    }
    let ended = in_namespace(std::env::current_exe().unwrap().as_os_str())
        .args(["--exact", child, "--ignored", "--nocapture"])
        .env(MOUNT, directory.path())
        .envs(environment.iter().copied())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{child} failed on the small disk: {said}");
    // No test of that name is a success too.
    assert!(said.contains("1 passed"), "{child} did not run: {said}");
}

/// In the child: mounts a disk of `mebibytes`. `None` when the child was started by hand.
///
/// # Panics
///
/// If the mount is refused.
pub fn mounted(mebibytes: u32) -> Option<PathBuf> {
    let mount = PathBuf::from(std::env::var_os(MOUNT)?);
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "none"])
        .arg(&mount)
        .status()
        .unwrap();
    assert!(status.success(), "cannot mount a tmpfs");
    Some(mount)
}
