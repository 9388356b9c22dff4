//! `NodeService`: what the IT staff of a host do.

use std::{collections::BTreeSet, sync::Arc};

use lianxi_proto::admin::v1 as pb;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{
    access::caller,
    epochs, quarantine,
    reforms::day,
    status::{to_status, unit},
};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::Delegation,
        journal::Actor,
        preview::Protocols,
        protection::Cipher,
        rotation::{Replaced, Stage},
        unit::UnitCode,
    },
    identity::custody::Signed,
    services::{
        desks,
        enrolments::ChildRecovery,
        host::{AdoptionOrder, InviteOrder, Operations, Units},
        hosted::{Hosted, LinkStatus},
        leaving::{self, Progress},
        previews,
        quarantine::Verb,
        revocations::{self, Order},
        rotations,
        unit::OutboxState,
    },
    statement::{
        Envelope,
        delegation::{level_from_proto, level_to_proto},
        revocation::reason_from_proto,
    },
    store::Store,
};

/// Serves the host.
#[derive(Clone)]
pub struct NodeHandler {
    units: Arc<Units>,
    operations: Arc<dyn Operations>,
    store: Arc<dyn Store>,
}

impl std::fmt::Debug for NodeHandler {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("NodeHandler")
    }
}

/// Silence of a witness outside the tree that is told, in milliseconds.
const PEER_SILENT_MS: i64 = 30 * 24 * 60 * 60 * 1_000;

impl NodeHandler {
    /// A handler over the hosted units.
    pub fn new(units: Arc<Units>, operations: Arc<dyn Operations>, store: Arc<dyn Store>) -> Self {
        Self { units, operations, store }
    }

    async fn key_rotation(&self, unit: &UnitCode) -> Result<Option<pb::KeyRotation>, Status> {
        Ok(self.operations.rotation(unit).await.map_err(to_status)?.map(key_rotation))
    }

    /// What the unit's journal lacks of a witness. A root has one outside its tree if that cosigned
    /// within [`PEER_SILENT_MS`].
    async fn witness_gap(&self, hosted: &Hosted) -> Result<&'static str, Status> {
        let Some(parent) = hosted.unit.parent() else {
            let now = hosted.unit.clock.now_unix_ms();
            let peers = hosted.witness.peers().await.map_err(to_status)?;
            let newest = peers.iter().map(|peer| peer.cosigned_unix_ms).max().unwrap_or_default();
            return Ok(match (newest, now.saturating_sub(newest) < PEER_SILENT_MS) {
                (0, _) => "no-parent",
                (_, false) => "peer-silent",
                (_, true) => "",
            });
        };
        Ok(if self.units.get(&parent).is_some() { "same-host" } else { "" })
    }

    async fn unit_status(&self, hosted: &Hosted) -> Result<pb::UnitStatus, Status> {
        let unit = &hosted.unit;
        let parent = unit.parent();
        let (state, link) = parent_link(hosted, parent.as_ref());
        let outbox = unit.outbox_state().await.map_err(to_status)?;
        let oldest = outbox.oldest_unix_ms();
        let now = unit.clock.now_unix_ms();
        let refused = unit.quarantine().clone();
        let recoveries = self.operations.recoveries(&unit.code).await.map_err(to_status)?;
        let certificate_ends = self.operations.certificate_ends(&unit.code);
        let (records, _) = hosted.records.count().await.unwrap_or_default();
        let (title, delegation_ends_unix_ms, children, revoked, revoked_children) = {
            let trust = unit.trust();
            let own = trust.delegation(&unit.code, None).map(|known| &known.delegation);
            let all = trust.children(&unit.code);
            let children = all.iter().filter(|child| !trust.has_left(child)).count();
            let gone = all.iter().filter(|child| trust.revoked(child, None).is_some());
            let revoked = trust.revoked(&unit.code, None).map(revocations::remedy);
            (
                own.map(|own| own.title.clone()).unwrap_or_default(),
                own.map(|own| own.not_after_unix_ms).unwrap_or_default(),
                children,
                revoked.unwrap_or_default(),
                gone.map(ToString::to_string).collect(),
            )
        };
        Ok(pb::UnitStatus {
            unit: unit.code.to_string(),
            title,
            level: level_to_proto(unit.level).into(),
            parent: parent.as_ref().map(ToString::to_string).unwrap_or_default(),
            parent_link: state.into(),
            parent_link_reason: link.reason,
            clock_skew_ms: link.clock_skew_ms,
            children: count(children),
            children_linked: count(hosted.linked_children().len()),
            outbox: outbox.waiting(),
            lanes: lanes(&outbox, now),
            resting: hosted.resting(),
            oldest_unsent_ms: oldest.map(|oldest| now.saturating_sub(oldest)).unwrap_or_default(),
            quarantined: refused.statements(),
            quarantine_percent: refused.percent(),
            quarantine_left_out: refused.left_out(),
            catalogue: hosted.catalogues.label(),
            records,
            certificate_ends_unix_ms: certificate_ends.unwrap_or_default(),
            delegation_ends_unix_ms,
            recoveries: recoveries.into_iter().map(recovery).collect(),
            revoked,
            revoked_children,
            epoch: unit.epoch(),
            rolled_back: hosted.epochs.stopped().map(|it| it.to_string()).unwrap_or_default(),
            rolled_back_peers: hosted.epochs.behind().iter().map(ToString::to_string).collect(),
            key_rotation: self.key_rotation(&unit.code).await?,
            witness_gap: self.witness_gap(hosted).await?.to_owned(),
            open_alarms: hosted.witness.open_alarms().await.map_err(to_status)?,
        })
    }
}

fn parent_link(hosted: &Hosted, parent: Option<&UnitCode>) -> (pb::LinkState, LinkStatus) {
    let Some(parent) = parent else {
        return (pb::LinkState::Unspecified, LinkStatus::default());
    };
    let link = hosted.link(parent);
    let state = if link.up { pb::LinkState::Up } else { pb::LinkState::Down };
    (state, link)
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn recovery(recovery: ChildRecovery) -> pb::ChildRecovery {
    pb::ChildRecovery {
        child: recovery.child.to_string(),
        certificate_ends_unix_ms: recovery.certificate_ends_unix_ms,
        recent: recovery.recent,
        allowed: recovery.allowed,
        recovered_unix_ms: recovery.recovered_unix_ms,
        refused: recovery.refused,
        refused_unix_ms: recovery.refused_unix_ms,
        approved_until_unix_ms: recovery.approved_until_unix_ms,
    }
}

fn key_rotation(progress: rotations::Progress) -> pb::KeyRotation {
    let rotations::Progress { replaced, stage, started_unix_ms, peers, facts, failure } = progress;
    let in_use = matches!(stage, Stage::InUse | Stage::Retired);
    pb::KeyRotation {
        replaced: replaced.iter().map(ToString::to_string).collect(),
        stage: stage.as_str().to_owned(),
        started_unix_ms,
        children: count(peers),
        missing: facts.missing.iter().map(ToString::to_string).collect(),
        unsent: facts.unsent,
        ungranted: count(facts.ungranted),
        unwitnessed: facts.unwitnessed,
        overlap_ends_unix_ms: if in_use { facts.overlap_ends_unix_ms } else { 0 },
        failure,
    }
}

/// Who asks, as the journal names them.
fn actor<T>(request: &Request<T>) -> Result<Actor, Status> {
    Ok(caller(request)?.actor)
}

fn known_unit(delegation: &Delegation) -> pb::KnownUnit {
    pb::KnownUnit {
        unit: delegation.unit.to_string(),
        title: delegation.title.clone(),
        level: level_to_proto(delegation.level).into(),
        parent: delegation.issuer.as_ref().map(ToString::to_string).unwrap_or_default(),
        desk: delegation.desk.as_ref().map(ToString::to_string).unwrap_or_default(),
        line: delegation.line.clone(),
        host: delegation.host.clone(),
    }
}

fn child_outlook(child: previews::Child) -> pb::ChildOutlook {
    let heard = child.heard.as_ref();
    let program = heard.map(|heard| heard.program.clone());
    let protocols = heard.map(|heard| heard.program.protocols);
    pb::ChildOutlook {
        unit: child.unit.to_string(),
        title: child.title,
        linked: false,
        same_host: false,
        protocol_lowest: protocols.map_or(0, |protocols| protocols.lowest),
        protocol_highest: protocols.map_or(0, |protocols| protocols.highest),
        catalogue_format: program.as_ref().map_or(0, |program| program.catalogue_format),
        software: program.map(|program| program.software).unwrap_or_default(),
        greeted_unix_ms: heard.map_or(0, |heard| heard.greeted_unix_ms),
        outlook: child.outlook.as_str().to_owned(),
    }
}

/// Key id of a root key.
fn root_key_of(text: String) -> Result<Option<String>, Status> {
    let is_key_id =
        text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match text.as_str() {
        "" => Ok(None),
        _ if is_key_id => Ok(Some(text)),
        _ => Err(Status::invalid_argument(
            "root_key is no fingerprint of a root key; it has 40 hexadecimal digits",
        )),
    }
}

#[tonic::async_trait]
impl pb::node_service_server::NodeService for NodeHandler {
    async fn invite(
        &self,
        request: Request<pb::InviteRequest>,
    ) -> Result<Response<pb::InviteResponse>, Status> {
        let by = actor(&request)?;
        let request = request.into_inner();
        let level = level_from_proto(request.child_level)
            .ok_or_else(|| Status::invalid_argument("child_level is none of the four levels"))?;
        let order = InviteOrder {
            unit: unit(&request.unit)?,
            child: unit(&request.child)?,
            level,
            title: request.child_title,
            valid_for_ms: Some(request.valid_for_ms).filter(|valid| *valid != 0),
            adopts: root_key_of(request.root_key)?,
            dry_run: request.dry_run,
            by,
        };
        let invitation = self.operations.invite(order).await.map_err(to_status)?;
        Ok(Response::new(pb::InviteResponse {
            token: invitation.token,
            expires_unix_ms: invitation.expires_unix_ms,
        }))
    }

    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        let by = actor(&request)?;
        let request = request.into_inner();
        let joined = self.operations.join(&request.token, by, request.dry_run).await;
        let joined = joined.map_err(to_status)?;
        Ok(Response::new(pb::JoinResponse {
            unit: joined.unit.to_string(),
            title: joined.title,
            parent: joined.parent.to_string(),
            level: level_to_proto(joined.level).into(),
            clock_skew_ms: joined.clock_skew_ms,
            delegation_ends_unix_ms: joined.delegation_ends_unix_ms,
        }))
    }

    async fn adopt(
        &self,
        request: Request<pb::AdoptRequest>,
    ) -> Result<Response<pb::AdoptResponse>, Status> {
        let by = actor(&request)?;
        let request = request.into_inner();
        let signed = Some(request.signed).filter(|signed| !signed.is_empty());
        let signed = signed.map(|signed| Envelope::decode(signed.as_slice())).transpose();
        let signed =
            signed.map_err(|_| Status::invalid_argument("signed is no signed delegation"))?;
        let order = AdoptionOrder {
            unit: unit(&request.unit)?,
            token: request.token,
            signed: signed.map(Signed),
            dry_run: request.dry_run,
            by,
        };
        let joined = self.operations.adopt(order).await.map_err(to_status)?;
        Ok(Response::new(pb::AdoptResponse {
            parent: joined.parent.to_string(),
            clock_skew_ms: joined.clock_skew_ms,
            delegation_ends_unix_ms: joined.delegation_ends_unix_ms,
        }))
    }

    async fn status(
        &self,
        _request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let facts = self.operations.facts();
        let usage = self.store.usage().map_err(to_status)?;
        let mut units = Vec::new();
        for hosted in self.units.all() {
            units.push(self.unit_status(&hosted).await?);
        }
        Ok(Response::new(pb::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: facts.host,
            started_unix_ms: facts.started_unix_ms,
            store_bytes: usage.store_bytes,
            free_disk_bytes: usage.free_bytes,
            store_cipher: self
                .store
                .vault()
                .map_or(Cipher::None, |vault| vault.cipher())
                .to_string(),
            units,
            link_address: facts.link_address.unwrap_or_default(),
        }))
    }

    async fn renew(
        &self,
        request: Request<pb::RenewRequest>,
    ) -> Result<Response<pb::RenewResponse>, Status> {
        let request = request.into_inner();
        let code = unit(&request.unit)?;
        let renewed = self.operations.renew(&code, request.dry_run).await.map_err(to_status)?;
        Ok(Response::new(pb::RenewResponse {
            certificate_ended_unix_ms: renewed.certificate_ended_unix_ms,
            certificate_ends_unix_ms: renewed.certificate_ends_unix_ms,
            delegation_ends_unix_ms: renewed.delegation_ends_unix_ms,
        }))
    }

    async fn rotate_key(
        &self,
        request: Request<pb::RotateKeyRequest>,
    ) -> Result<Response<pb::RotateKeyResponse>, Status> {
        let by = actor(&request)?;
        let request = request.into_inner();
        let replaced: Result<BTreeSet<Replaced>, _> =
            request.replaced.iter().map(|word| word.parse()).collect();
        let replaced = replaced.map_err(|error| Status::invalid_argument(error.to_string()))?;
        if replaced.is_empty() {
            return Err(Status::invalid_argument("replaced is empty; name a key"));
        }
        let (code, replaced) = (unit(&request.unit)?, Vec::from_iter(replaced));
        let begun = self.operations.rotate(&code, &replaced, by, request.dry_run).await;
        let rotation = Some(key_rotation(begun.map_err(to_status)?));
        Ok(Response::new(pb::RotateKeyResponse { rotation }))
    }

    async fn leave(
        &self,
        request: Request<pb::LeaveRequest>,
    ) -> Result<Response<pb::LeaveResponse>, Status> {
        let by = actor(&request)?;
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let left = if request.child.is_empty() {
            leaving::leave(&hosted, by, request.text, request.dry_run).await
        } else {
            let child = unit(&request.child)?;
            leaving::let_go(&hosted, by, child, request.text, request.dry_run).await
        };
        let left = left.map_err(to_status)?;
        let state = match left.progress {
            Progress::Draining => pb::LeaveState::Draining,
            Progress::Announced => pb::LeaveState::Announced,
            Progress::Left => pb::LeaveState::Left,
        };
        let open = left.open.into_iter().map(|item| pb::OpenItem {
            kind: item.kind.to_owned(),
            number: item.number,
            party: item.party.to_string(),
        });
        Ok(Response::new(pb::LeaveResponse {
            unit: left.unit.to_string(),
            parent: left.parent.to_string(),
            state: state.into(),
            unsent: left.unsent,
            open: open.collect(),
        }))
    }

    async fn recover(
        &self,
        request: Request<pb::RecoverRequest>,
    ) -> Result<Response<pb::RecoverResponse>, Status> {
        let by = actor(&request)?;
        let request = request.into_inner();
        let (parent, child) = (unit(&request.unit)?, unit(&request.child)?);
        let approved = self.operations.recover(&parent, &child, by, request.dry_run).await;
        let approved_until_unix_ms = approved.map_err(to_status)?;
        Ok(Response::new(pb::RecoverResponse { approved_until_unix_ms }))
    }

    async fn units(
        &self,
        request: Request<pb::UnitsRequest>,
    ) -> Result<Response<pb::UnitsResponse>, Status> {
        let hosted = self.units.find(&unit(&request.into_inner().unit)?).map_err(to_status)?;
        let trust = hosted.unit.trust();
        let known = trust.root().map(|root| trust.subtree(root)).unwrap_or_default();
        let units = known.iter().map(|known| known_unit(&known.delegation)).collect();
        Ok(Response::new(pb::UnitsResponse { units }))
    }

    async fn preview(
        &self,
        request: Request<pb::PreviewRequest>,
    ) -> Result<Response<pb::PreviewResponse>, Status> {
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let (lowest, highest) = (request.protocol_lowest, request.protocol_highest);
        if lowest == 0 || highest < lowest {
            return Err(Status::invalid_argument(
                "protocol_lowest begins at 1 and is not above protocol_highest",
            ));
        }
        let is_here = |child: &UnitCode| self.units.get(child).is_some();
        let planned = Protocols { lowest, highest };
        let children = hosted.previews.of_protocols(planned, is_here).await.map_err(to_status)?;
        let linked = hosted.linked_children();
        let told = children.into_iter().map(|child| {
            let (linked, same_host) = (linked.contains(&child.unit), is_here(&child.unit));
            pb::ChildOutlook { linked, same_host, ..child_outlook(child) }
        });
        Ok(Response::new(pb::PreviewResponse { children: told.collect() }))
    }

    async fn add_desk(
        &self,
        request: Request<pb::AddDeskRequest>,
    ) -> Result<Response<pb::AddDeskResponse>, Status> {
        let by = actor(&request)?;
        let request = request.into_inner();
        let code = unit(&request.unit)?;
        let hosted = self.units.find(&code).map_err(to_status)?;
        let desk = request.desk.parse().map_err(|error| {
            Status::invalid_argument(format!("{:?} is no id of a desk: {error}", request.desk))
        })?;
        let directory = self.operations.desk_keys_directory(&code, &request.desk);
        let (title, line) = (request.title, request.line);
        let added = desks::add(&hosted.unit, &directory, desk, title, line, by).await;
        let delegation = added.map_err(to_status)?;
        Ok(Response::new(pb::AddDeskResponse { desk: Some(known_unit(&delegation)) }))
    }

    async fn open_epoch(
        &self,
        request: Request<pb::OpenEpochRequest>,
    ) -> Result<Response<pb::OpenEpochResponse>, Status> {
        let caller = caller(&request)?;
        epochs::open(&self.units, caller, request.into_inner()).await.map(Response::new)
    }

    async fn epochs(
        &self,
        request: Request<pb::EpochsRequest>,
    ) -> Result<Response<pb::EpochsResponse>, Status> {
        epochs::list(&self.units, request.into_inner()).await.map(Response::new)
    }

    async fn close_desk(
        &self,
        request: Request<pb::CloseDeskRequest>,
    ) -> Result<Response<pb::CloseDeskResponse>, Status> {
        let by = caller(&request)?.actor;
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let desk = |text: &str| {
            text.parse().map_err(|error| {
                Status::invalid_argument(format!("{text:?} is no id of a desk: {error}"))
            })
        };
        let (on, begins_unix_ms, today) = day(&hosted, &request.on)?;
        let order = desks::Order {
            desk: desk(&request.desk)?,
            successor: desk(&request.successor)?,
            on,
            today,
            begins_unix_ms,
            text: request.text,
            by,
            dry_run: request.dry_run,
        };
        let successor = order.successor.to_string();
        let closing = desks::close(&hosted, order).await.map_err(to_status)?;
        let open = closing.open.iter().map(|state| pb::OpenCase {
            kind: "escalation".to_owned(),
            number: state.number.clone(),
            party: state.source.to_string(),
            id: state.id.as_bytes().to_vec(),
            successor: successor.clone(),
        });
        let clocks = closing.open.iter().filter_map(|state| state.case.as_ref());
        let clocks = clocks.filter(|case| case.due_unix_ms().is_some()).count();
        Ok(Response::new(pb::CloseDeskResponse {
            open: open.collect(),
            clocks: u32::try_from(clocks).unwrap_or(u32::MAX),
            closed: closing.closed,
        }))
    }

    async fn revoke(
        &self,
        request: Request<pb::RevokeRequest>,
    ) -> Result<Response<pb::RevokeResponse>, Status> {
        let actor = caller(&request)?.actor;
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let desk = Some(request.desk.as_str()).filter(|desk| !desk.is_empty());
        let desk = desk.map(|desk| {
            desk.parse().map_err(|error| {
                Status::invalid_argument(format!("{desk:?} is no id of a desk: {error}"))
            })
        });
        let reason = reason_from_proto(request.reason).ok_or_else(|| {
            Status::invalid_argument("reason is none of the reasons for a revocation")
        })?;
        let order = Order {
            unit: unit(&request.revoked)?,
            desk: desk.transpose()?,
            key_id: Some(request.key_id).filter(|key_id| !key_id.is_empty()),
            compromised_since_unix_ms: Some(request.compromised_since_unix_ms)
                .filter(|since| *since != 0),
            reason,
            text: request.text,
        };
        let revoked = revocations::revoke(&hosted, &actor, order, request.dry_run).await;
        let revoked = revoked.map_err(to_status)?;
        let revocation = revoked.revocation;
        Ok(Response::new(pb::RevokeResponse {
            unit: revocation.unit.to_string(),
            desk: revocation.desk.as_ref().map(ToString::to_string).unwrap_or_default(),
            by: revoked.by.to_string(),
            whole: revocation.serial > 0,
            key_ids: revocation.key_ids,
            was_linked: revoked.was_linked,
            below: revoked.below.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn quarantine(
        &self,
        request: Request<pb::QuarantineRequest>,
    ) -> Result<Response<pb::QuarantineResponse>, Status> {
        quarantine::list(&self.units, request.into_inner()).await.map(Response::new)
    }

    async fn replay_quarantined(
        &self,
        request: Request<pb::SettleQuarantinedRequest>,
    ) -> Result<Response<pb::SettleQuarantinedResponse>, Status> {
        let by = actor(&request)?;
        quarantine::settle(&self.units, Verb::Replay, by, request.into_inner()).await
    }

    async fn fix_quarantined(
        &self,
        request: Request<pb::SettleQuarantinedRequest>,
    ) -> Result<Response<pb::SettleQuarantinedResponse>, Status> {
        let by = actor(&request)?;
        quarantine::settle(&self.units, Verb::Fix, by, request.into_inner()).await
    }

    async fn discard_quarantined(
        &self,
        request: Request<pb::SettleQuarantinedRequest>,
    ) -> Result<Response<pb::SettleQuarantinedResponse>, Status> {
        let by = actor(&request)?;
        quarantine::settle(&self.units, Verb::Discard, by, request.into_inner()).await
    }
}

/// Lanes in which something waits.
fn lanes(outbox: &OutboxState, now: UnixMillis) -> Vec<pb::LaneStatus> {
    let waiting = outbox.lanes.iter().filter(|lane| lane.waiting > 0);
    let status = waiting.map(|lane| pb::LaneStatus {
        lane: lane.lane.as_str().to_owned(),
        waiting: lane.waiting,
        bytes: lane.bytes,
        budget_bytes: lane.budget_bytes.unwrap_or(0),
        oldest_ms: lane.oldest_unix_ms.map(|at| now.saturating_sub(at)).unwrap_or_default(),
    });
    status.collect()
}
