//! Waiting for a state that comes by itself.

use std::{fmt::Debug, future::Future, time::Duration};

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
    match tokio::time::timeout(Duration::from_secs(60), asking).await {
        Ok(value) => value,
        Err(_) => panic!("waited 60 s for {what}"),
    }
}

/// Asks again until `ask` gives a value, however long that takes, as long as it advances: `Err` says
/// how far it is.
///
/// # Panics
///
/// After 60 s in which it was as far as before.
pub async fn while_it_advances<T, S: PartialEq + Debug, F: Future<Output = Result<T, S>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let mut last = None;
    loop {
        let looked = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                match ask().await {
                    Ok(value) => return Ok(value),
                    Err(state) if last.as_ref() != Some(&state) => return Err(state),
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        match looked.await {
            Ok(Ok(value)) => return value,
            Ok(Err(state)) => last = Some(state),
            Err(_) => panic!("60 s without a change, waiting for {what}: {last:?}"),
        }
    }
}
