//! What a host does with its units' journals by itself: checkpoints after changes, pruning, and
//! telling a webhook of alarms.

use std::{sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{Request, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpStream, sync::broadcast::error::RecvError, time::sleep};

use crate::{
    clock::Clock,
    config::HostConfig,
    domain::journal::{Act, Actor, Leaf},
    services::{hosted::Hosted, witness::AlarmRow},
    store::{self, Batch},
};

/// Time between two prunings, in checkpoint intervals or this long, whichever is longer.
const PRUNE_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Tries to tell the webhook, and the time after the first; it doubles.
const TRIES: u32 = 6;
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Longest time that one try may take.
const TRY_TIMEOUT: Duration = Duration::from_secs(10);

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

/// Tells the webhook of every alarm that the unit raises or takes in. Never returns.
pub(super) async fn tell(hosted: Arc<Hosted>, webhook: Uri) {
    let mut alarms = hosted.witness.alarms();
    loop {
        match alarms.recv().await {
            Ok(alarm) => tell_one(&webhook, &alarm).await,
            Err(RecvError::Lagged(missed)) => {
                tracing::error!(missed, "alarms not told; see `lianxi journal alarms`");
            }
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

async fn tell_one(webhook: &Uri, alarm: &AlarmRow) {
    let body = json!({
        "type": "lianxi.alarm.v1",
        "id": alarm.id,
        "unit": alarm.unit,
        "reason": alarm.breach,
        "witness": alarm.witness,
        "time_unix_ms": alarm.time_unix_ms,
        "held": alarm.held,
        "offered": alarm.offered,
    });
    let body = Bytes::from(body.to_string());
    let mut again = TRY_AGAIN;
    for _ in 0..TRIES {
        let posted = tokio::time::timeout(TRY_TIMEOUT, post(webhook, body.clone())).await;
        match posted.unwrap_or_else(|_| Err("it does not answer".to_owned())) {
            Ok(()) => return,
            Err(error) => tracing::warn!(%webhook, error, "webhook not told of an alarm"),
        }
        sleep(again).await;
        again *= 2;
    }
    tracing::error!(%webhook, id = alarm.id, "webhook not told; see `lianxi journal alarms`");
}

/// One POST, on a connection of its own.
async fn post(webhook: &Uri, body: Bytes) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let host = webhook.host().unwrap_or_default();
    let port = webhook.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host, port)).await.map_err(|error| text(&error))?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| text(&error))?;
    let connection = tokio::spawn(connection);
    let path = webhook.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path)
        .header(header::HOST, webhook.authority().map_or(host, |host| host.as_str()))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| text(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| text(&error));
    connection.abort();
    match answer?.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("it answers {status}")),
    }
}
