//! Waiting for a state that comes by itself.

use std::{
    fmt::{Debug, Display},
    future::Future,
    time::Duration,
};

use tokio::time::Instant;

/// How long is waited.
const LIMIT: Duration = Duration::from_secs(60);

/// Asks again until `ask` gives a value.
///
/// # Panics
///
/// After 60 s, naming what was waited for: a hang becomes a failure that can be read.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(value) = ask().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(LIMIT, asking).await {
        Ok(value) => value,
        Err(_) => panic!("waited 60 s for {what}"),
    }
}

/// As [`until`], of what may be refused until then.
///
/// # Panics
///
/// After 60 s, naming what was waited for and why it was refused last.
pub async fn until_done<T, E: Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let since = Instant::now();
    loop {
        match ask().await {
            Ok(value) => return value,
            Err(error) => assert!(since.elapsed() < LIMIT, "waited 60 s for {what}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks again until `ask` gives a value, however long that takes, as long as it advances: `Err` says
/// how far it is. Most of the time it does not look, so that the system does not work for that alone.
///
/// # Panics
///
/// After 60 s in which it was as far as before.
pub async fn while_it_advances<T, S: PartialEq + Debug, F: Future<Output = Result<T, S>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let (mut last, mut since) = (None, Instant::now());
    loop {
        let begun = Instant::now();
        match ask().await {
            Ok(value) => return value,
            Err(state) if last.as_ref() == Some(&state) => {
                assert!(
                    since.elapsed() < LIMIT,
                    "{LIMIT:?} without a change, waiting for {what}: {last:?}"
                );
            }
            Err(state) => (last, since) = (Some(state), Instant::now()),
        }
        let pause = (begun.elapsed() * 5).clamp(Duration::from_millis(20), Duration::from_secs(1));
        tokio::time::sleep(pause).await;
    }
}
