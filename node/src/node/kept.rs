//! Forgets what a unit kept for its neighbours, once it was kept long enough.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::services::hosted::Hosted;

/// Time between two sweeps that find nothing.
const SELDOM: Duration = Duration::from_secs(3_600);

/// Time between two sweeps that find something: commits of others go before.
const SOON: Duration = Duration::from_secs(1);

/// Sweeps for ever.
pub(super) async fn sweep(hosted: Arc<Hosted>) {
    loop {
        let more = hosted.epochs.sweep().await.unwrap_or_else(|error| {
            tracing::error!(unit = %hosted.unit.code, %error, "cannot forget what was kept");
            false
        });
        sleep(if more { SOON } else { SELDOM }).await;
    }
}
