//! A test that cannot run here says so, with the remedy; in continuous integration it fails.

/// Says that a test was skipped.
///
/// # Panics
///
/// If `LIANXI_NO_SKIP` is `1`.
#[allow(clippy::print_stderr, reason = "the reader of a test run has to see it")]
pub fn skip(test: &str, why: &str, remedy: &str) {
    assert!(
        std::env::var("LIANXI_NO_SKIP").as_deref() != Ok("1"),
        "{test} cannot run: {why}; remedy: {remedy}"
    );
    eprintln!("SKIPPED: {test}: {why}; remedy: {remedy}");
}
