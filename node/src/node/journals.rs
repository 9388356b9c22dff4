//! What a host does with its units' journals by itself: checkpoints after changes, and pruning.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    clock::Clock,
    config::HostConfig,
    domain::journal::{Act, Actor, Leaf},
    services::hosted::Hosted,
    store::{self, Batch},
};

/// Time between two prunings, in checkpoint intervals or this long, whichever is longer.
const PRUNE_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Journals that the host began, with the configuration that it uses, by hash.
pub(super) async fn record_start(
    hosted: &Hosted,
    config: &HostConfig,
    clock: &dyn Clock,
) -> Result<(), store::Error> {
    let sha256 = crate::identity::certificates::sha256(config.to_toml().as_bytes());
    let now = clock.now_unix_ms();
    let mut batch = Batch::new(&hosted.unit.code);
    // A host that cannot start cannot make room.
    batch.urgent();
    batch.journal(now, &Leaf::Config(sha256));
    let act = Act::done(Actor::node(), "node.start", env!("CARGO_PKG_VERSION"));
    batch.journal(now, &Leaf::Act(act));
    hosted.unit.store.submit(batch).await
}

/// Makes checkpoints of a unit's journal whenever it grew, and drops what is older than the
/// retention. Never returns.
pub(super) async fn keep(hosted: Arc<Hosted>, config: HostConfig) {
    let interval = config.journal.checkpoint_interval;
    let mut unpruned = PRUNE_EVERY;
    tell_standing(&hosted);
    loop {
        if unpruned >= PRUNE_EVERY {
            unpruned = Duration::ZERO;
            let days = config.journal.retention_days;
            if let Err(error) = hosted.journal.prune(Actor::node(), days, false).await {
                tracing::warn!(unit = %hosted.unit.code, %error, "journal not pruned");
            }
        }
        sleep(interval).await;
        unpruned += interval;
        tell_standing(&hosted);
        if let Err(error) = hosted.unit.settle_refusals().await {
            tracing::warn!(unit = %hosted.unit.code, %error, "refusals not counted in the journal");
        }
        if let Err(error) = hosted.journal.checkpoint().await {
            tracing::warn!(unit = %hosted.unit.code, %error, "no checkpoint made");
        }
    }
}

/// Tells the metrics how long the unit's delegation is good for, and how many children are revoked.
fn tell_standing(hosted: &Hosted) {
    let unit = &hosted.unit;
    let trust = unit.trust();
    let Some(own) = trust.delegation(&unit.code, None) else { return };
    let children = trust.children(&unit.code).into_iter();
    let revoked = children.filter(|child| trust.revoked(child, None).is_some()).count();
    unit.metrics.unit_stands(&unit.code, own.delegation.not_after_unix_ms, revoked);
}
