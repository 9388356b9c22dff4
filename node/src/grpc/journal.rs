//! `JournalService`: the audit log of a unit, and its proofs.

use std::{sync::Arc, time::Duration};

use lianxi_proto::{
    admin::v1 as pb,
    note::{self, Checkpoint, Note},
};
use tonic::{Request, Response, Status};

use super::{
    access::caller,
    epochs::approvers,
    status::{statement_id, to_status, unit},
};
use crate::{
    domain::{journal::Actor, unit::UnitCode},
    services::{
        host::Units,
        hosted::Hosted,
        journal::{Filter, Signed},
        witness::{AlarmRow, CosignRequest, Cosignature, Peer},
    },
    statement::journal::Line,
    store,
};

/// Longest wait for a cosignature.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Serves the journals.
#[derive(Clone, Debug)]
pub struct JournalHandler {
    units: Arc<Units>,
    retention_days: u32,
}

impl JournalHandler {
    /// A handler over the hosted units.
    pub fn new(units: Arc<Units>, retention_days: u32) -> Self {
        Self { units, retention_days }
    }

    fn find(&self, text: &str) -> Result<Arc<Hosted>, Status> {
        self.units.find(&unit(text)?).map_err(to_status)
    }
}

/// Units whose cosignatures of the note hold, and witnesses outside the tree.
async fn cosigners(
    units: &Units,
    hosted: &Hosted,
    note: &Note,
) -> Result<Vec<pb::Cosigner>, Status> {
    let peers = hosted.witness.peers().await.map_err(to_status)?;
    let outside = peers.into_iter().filter_map(|peer| {
        let time_unix_s = peer.cosigned(note)?;
        Some(pb::Cosigner { unit: peer.name, time_unix_s, same_host: false })
    });
    Ok(inside(units, hosted, note).into_iter().chain(outside).collect())
}

fn inside(units: &Units, hosted: &Hosted, note: &Note) -> Vec<pb::Cosigner> {
    let trust = hosted.unit.trust();
    let prefix = note::origin(&hosted.unit.trust_domain, "");
    let named = note.names().filter_map(|name| name.strip_prefix(&prefix)?.parse().ok());
    let cosigned = named.filter(|unit| *unit != hosted.unit.code).filter_map(|unit: UnitCode| {
        let name = note::origin(&hosted.unit.trust_domain, unit.as_str());
        let keys = trust.statement_keys(&unit, None);
        let time = keys.iter().find_map(|key| note.verify_cosignature(&name, key).ok())?;
        let same_host = units.get(&unit).is_some();
        Some(pb::Cosigner { unit: unit.to_string(), time_unix_s: time, same_host })
    });
    cosigned.collect()
}

fn alarm(alarm: AlarmRow) -> pb::JournalAlarm {
    let journal = Note::parse(&alarm.held).and_then(|note| Checkpoint::of(&note));
    let settled = alarm.settled;
    pb::JournalAlarm {
        id: alarm.id,
        unit: alarm.unit.to_string(),
        reason: alarm.breach,
        witness: alarm.witness.to_string(),
        time_unix_ms: alarm.time_unix_ms,
        held: alarm.held,
        offered: alarm.offered,
        journal: journal.map(|it| it.origin).unwrap_or_default(),
        settled_unix_ms: settled.as_ref().map(|it| it.at_unix_ms).unwrap_or_default(),
        approvers: settled.as_ref().map(|it| it.approvers.clone()).unwrap_or_default(),
        found: settled.map(|it| it.text).unwrap_or_default(),
    }
}

fn peer(peer: Peer) -> pb::Peer {
    let held = peer.held.as_ref().and_then(|held| Note::parse(&held.checkpoint).ok());
    let held_size = held.and_then(|note| Checkpoint::of(&note).ok()).map_or(0, |it| it.size);
    pb::Peer {
        name: peer.name,
        keys: peer.keys,
        added_unix_ms: peer.added_unix_ms,
        cosigned_size: peer.cosigned_size,
        cosigned_unix_ms: peer.cosigned_unix_ms,
        held_size,
        held_unix_ms: peer.held.map(|held| held.time_unix_ms).unwrap_or_default(),
    }
}

fn cosignature(made: Cosignature) -> pb::PeerCosignature {
    let Cosignature { name, size, time_unix_s, note } = made;
    pb::PeerCosignature { name, size, time_unix_s, checkpoint: note }
}

fn line(index: u64, line: Line) -> pb::JournalLine {
    pb::JournalLine {
        index,
        time_unix_ms: line.time_unix_ms,
        event: line.event.to_owned(),
        actor: line.actor,
        name: line.name,
        subject: line.subject,
        refused: line.refused,
        digest: line.digest,
    }
}

/// Waits until the checkpoint is cosigned, or the time is over; returns it as it is then.
async fn cosigned(hosted: &Hosted, made: Signed, wait: Duration) -> Result<Signed, store::Error> {
    let mut cosigned = hosted.journal.cosigned();
    let size = made.checkpoint.size;
    let is_cosigned = cosigned.wait_for(|newest| *newest >= size);
    // Without a witness in time the checkpoint stands as it is, and says so.
    let _ = tokio::time::timeout(wait, is_cosigned).await;
    Ok(hosted.journal.covering(size - 1).await?.unwrap_or(made))
}

#[tonic::async_trait]
impl pb::journal_service_server::JournalService for JournalHandler {
    async fn show(
        &self,
        request: Request<pb::ShowJournalRequest>,
    ) -> Result<Response<pb::ShowJournalResponse>, Status> {
        let request = request.into_inner();
        let hosted = self.find(&request.unit)?;
        let since_unix_ms = request.since_unix_ms;
        let filter = Filter { act: request.act, actor: request.actor, since_unix_ms };
        let page = hosted.journal.show(request.from_index, &filter).await.map_err(to_status)?;
        let lines = page.lines.into_iter().map(|(index, leaf)| line(index, leaf));
        Ok(Response::new(pb::ShowJournalResponse {
            lines: lines.collect(),
            next_index: page.next_index,
            size: page.size,
            first_index: page.first_index,
        }))
    }

    async fn checkpoint(
        &self,
        request: Request<pb::CheckpointRequest>,
    ) -> Result<Response<pb::CheckpointResponse>, Status> {
        let request = request.into_inner();
        let hosted = self.find(&request.unit)?;
        let is_root = hosted.unit.parent().is_none();
        let Some(made) = hosted.journal.checkpoint().await.map_err(to_status)? else {
            return Ok(Response::new(pb::CheckpointResponse { is_root, ..Default::default() }));
        };
        let wait = Duration::from_millis(request.wait_ms.into()).min(MAX_WAIT);
        let signed = cosigned(&hosted, made, wait).await.map_err(to_status)?;
        Ok(Response::new(pb::CheckpointResponse {
            checkpoint: signed.note.to_string(),
            size: signed.checkpoint.size,
            witnesses: cosigners(&self.units, &hosted, &signed.note).await?,
            is_root,
        }))
    }

    async fn prove(
        &self,
        request: Request<pb::ProveRequest>,
    ) -> Result<Response<pb::ProveResponse>, Status> {
        let request = request.into_inner();
        let hosted = self.find(&request.unit)?;
        let found = if request.statement_id.is_empty() {
            hosted.journal.evidence(request.leaf_index).await
        } else {
            hosted.journal.evidence_of(statement_id(&request.statement_id)?).await
        };
        let evidence = found.map_err(to_status)?.ok_or_else(|| {
            Status::not_found(
                "the journal has no such leaf, or no checkpoint covers it yet: make one with \
                 `lianxi journal checkpoint`",
            )
        })?;
        let witnesses = match Note::parse(&evidence.checkpoint) {
            Ok(note) => cosigners(&self.units, &hosted, &note).await?,
            Err(_) => Vec::new(),
        };
        let evidence = Some(evidence.to_message());
        Ok(Response::new(pb::ProveResponse { evidence, witnesses }))
    }

    async fn verify(
        &self,
        request: Request<pb::VerifyJournalRequest>,
    ) -> Result<Response<pb::VerifyJournalResponse>, Status> {
        let hosted = self.find(&request.into_inner().unit)?;
        let verified = hosted.journal.verify().await.map_err(to_status)?;
        let findings = verified.findings.iter().map(|finding| pb::JournalFinding {
            reason: finding.word().to_owned(),
            detail: finding.to_string(),
        });
        Ok(Response::new(pb::VerifyJournalResponse {
            size: verified.size,
            first_index: verified.first_index,
            root: verified.root.to_vec(),
            checkpoints: verified.checkpoints,
            witnessed: verified.witnessed,
            findings: findings.collect(),
        }))
    }

    async fn alarms(
        &self,
        request: Request<pb::AlarmsRequest>,
    ) -> Result<Response<pb::AlarmsResponse>, Status> {
        let hosted = self.find(&request.into_inner().unit)?;
        let alarms = hosted.witness.list_alarms().await.map_err(to_status)?;
        let alarms = alarms.into_iter().map(alarm);
        let held = hosted.witness.list_held().await.map_err(to_status)?;
        let held = held.into_iter().map(|(unit, held)| {
            let checkpoint = Note::parse(&held.checkpoint).and_then(|note| Checkpoint::of(&note));
            pb::HeldCheckpoint {
                unit: unit.to_string(),
                size: checkpoint.map(|it| it.size).unwrap_or_default(),
                checkpoint: held.checkpoint,
                time_unix_ms: held.time_unix_ms,
                others: held.others,
            }
        });
        let (alarms, held) = (alarms.collect(), held.collect());
        Ok(Response::new(pb::AlarmsResponse { alarms, held }))
    }

    async fn settle_alarm(
        &self,
        request: Request<pb::SettleAlarmRequest>,
    ) -> Result<Response<pb::SettleAlarmResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let hosted = self.find(&request.unit)?;
        let two = approvers(&caller, request.approved_by);
        let (id, found, dry_run) = (request.id, request.found, request.dry_run);
        let settled = hosted.witness.settle_alarm(caller.actor, &id, two, &found, dry_run).await;
        let alarm = Some(alarm(settled.map_err(to_status)?));
        Ok(Response::new(pb::SettleAlarmResponse { alarm }))
    }

    async fn peers(
        &self,
        request: Request<pb::PeersRequest>,
    ) -> Result<Response<pb::PeersResponse>, Status> {
        let hosted = self.find(&request.into_inner().unit)?;
        let peers = hosted.witness.peers().await.map_err(to_status)?;
        let peers = peers.into_iter().map(peer).collect();
        Ok(Response::new(pb::PeersResponse { own_key: hosted.witness.own_key(), peers }))
    }

    async fn add_peer(
        &self,
        request: Request<pb::AddPeerRequest>,
    ) -> Result<Response<pb::AddPeerResponse>, Status> {
        let by = caller(&request)?.actor;
        let request = request.into_inner();
        let hosted = self.find(&request.unit)?;
        let added = hosted.witness.add_peer(by, &request.key, request.dry_run).await;
        let peer = Some(peer(added.map_err(to_status)?));
        Ok(Response::new(pb::AddPeerResponse { peer }))
    }

    async fn remove_peer(
        &self,
        request: Request<pb::RemovePeerRequest>,
    ) -> Result<Response<pb::RemovePeerResponse>, Status> {
        let by = caller(&request)?.actor;
        let request = request.into_inner();
        let hosted = self.find(&request.unit)?;
        let removed = hosted.witness.remove_peer(by, &request.name, request.dry_run).await;
        removed.map_err(to_status)?;
        Ok(Response::new(pb::RemovePeerResponse {}))
    }

    async fn request_cosignature(
        &self,
        request: Request<pb::RequestCosignatureRequest>,
    ) -> Result<Response<pb::RequestCosignatureResponse>, Status> {
        let request = request.into_inner();
        let hosted = self.find(&request.unit)?;
        let made = hosted.witness.request_of_peer(&request.name, request.from_size).await;
        let CosignRequest { text, size, from } = made.map_err(to_status)?;
        Ok(Response::new(pb::RequestCosignatureResponse { request: text, size, from_size: from }))
    }

    async fn cosign_peer(
        &self,
        request: Request<pb::CosignPeerRequest>,
    ) -> Result<Response<pb::CosignPeerResponse>, Status> {
        let by = caller(&request)?.actor;
        let request = request.into_inner();
        let hosted = self.find(&request.unit)?;
        let given = hosted.witness.cosign_for_peer(by, &request.request, request.dry_run).await;
        let cosignature = Some(cosignature(given.map_err(to_status)?));
        Ok(Response::new(pb::CosignPeerResponse { cosignature }))
    }

    async fn take_cosignature(
        &self,
        request: Request<pb::TakeCosignatureRequest>,
    ) -> Result<Response<pb::TakeCosignatureResponse>, Status> {
        let by = caller(&request)?.actor;
        let request = request.into_inner();
        let hosted = self.find(&request.unit)?;
        let taken = hosted.witness.take_from_peer(by, &request.checkpoint, request.dry_run).await;
        let cosignature = Some(cosignature(taken.map_err(to_status)?));
        Ok(Response::new(pb::TakeCosignatureResponse { cosignature }))
    }

    async fn prune(
        &self,
        request: Request<pb::PruneJournalRequest>,
    ) -> Result<Response<pb::PruneJournalResponse>, Status> {
        let actor = Actor::uid(caller(&request)?.uid);
        let request = request.into_inner();
        let hosted = self.find(&request.unit)?;
        let (days, dry_run) = (self.retention_days, request.dry_run);
        let pruned = hosted.journal.prune(actor, days, dry_run).await.map_err(to_status)?;
        Ok(Response::new(pb::PruneJournalResponse {
            leaves: pruned.leaves,
            first_index: pruned.first_index,
            retention_days: days,
        }))
    }
}
