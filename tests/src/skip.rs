//! A test that cannot run here says so, with the remedy; in continuous integration it fails.

use std::io::Write as _;

/// Says that a test was skipped, past the capture of the test runner.
///
/// # Panics
///
/// If `LIANXI_NO_SKIP` is `1`.
pub fn skip(test: &str, why: &str, remedy: &str) {
    assert!(
        std::env::var("LIANXI_NO_SKIP").as_deref() != Ok("1"),
        "{test} cannot run: {why}; remedy: {remedy}"
    );
    let line = format!("SKIPPED: {test}: {why}; remedy: {remedy}\n");
    // Without standard error nobody reads it.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
