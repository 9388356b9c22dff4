//! Waiting for a state that comes by itself.

use std::{future::Future, time::Duration};

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
