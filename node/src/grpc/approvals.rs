//! `ApprovalService`: the second person's word, and the act that follows from it.

use std::sync::Arc;

use lianxi_proto::admin::v1 as pb;
use tonic::{Request, Response, Status};

use super::{
    access::{Replay, details, person},
    status::to_status,
};
use crate::{
    clock::Clock,
    services::accounts::{Accounts, Approval, State},
};

/// Serves what waits for a second person.
#[derive(Clone)]
pub struct ApprovalHandler {
    accounts: Arc<Accounts>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for ApprovalHandler {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ApprovalHandler")
    }
}

impl ApprovalHandler {
    /// A handler over the host's people.
    pub fn new(accounts: Arc<Accounts>, clock: Arc<dyn Clock>) -> Self {
        Self { accounts, clock }
    }

    fn shown(&self, approval: &Approval) -> pb::Approval {
        let waiting = approval.is_waiting(self.clock.now_unix_ms());
        let (state, failure) = match &approval.state {
            State::Waiting if waiting => ("waiting", ""),
            State::Waiting => ("lapsed", ""),
            State::Confirmed => ("confirmed", ""),
            State::Done => ("done", ""),
            State::Failed(text) => ("failed", text.as_str()),
            State::Refused => ("refused", ""),
        };
        pb::Approval {
            id: approval.id,
            act: approval.act.clone(),
            subject: approval.subject.clone(),
            asked_by: approval.asked_by.to_string(),
            asked_unix_ms: approval.asked_unix_ms,
            ends_unix_ms: approval.ends_unix_ms,
            state: state.to_owned(),
            decided_by: approval.decided_by.as_ref().map(ToString::to_string).unwrap_or_default(),
            failure: failure.to_owned(),
            details: match waiting {
                true => details(&approval.path, approval.message()),
                false => Vec::new(),
            },
        }
    }
}

#[tonic::async_trait]
impl pb::approval_service_server::ApprovalService for ApprovalHandler {
    async fn list(
        &self,
        request: Request<pb::ListApprovalsRequest>,
    ) -> Result<Response<pb::ListApprovalsResponse>, Status> {
        let person = person(&request)?;
        let approvals = self.accounts.list_approvals(&person, request.into_inner().all).await;
        let approvals = approvals.iter().map(|approval| self.shown(approval)).collect();
        Ok(Response::new(pb::ListApprovalsResponse { approvals }))
    }

    async fn confirm(
        &self,
        request: Request<pb::ConfirmRequest>,
    ) -> Result<Response<pb::ConfirmResponse>, Status> {
        let person = person(&request)?;
        let replay = request.extensions().get::<Replay>().cloned();
        let replay = replay.ok_or_else(|| Status::internal("a request came past its gate"))?;
        let id = request.into_inner().id;
        let decision = self.accounts.decide(id, &person, true).await.map_err(to_status)?;
        let mut approval = decision.approval;
        let done = replay.run(&approval, decision.message, &person.name).await;
        let result = match &done {
            Ok(_) => Ok(()),
            Err(status) => Err(status.message().to_owned()),
        };
        self.accounts.settle(id, result).await.map_err(to_status)?;
        let response = done?;
        approval.state = State::Done;
        let path = approval.path.clone();
        let approval = Some(self.shown(&approval));
        Ok(Response::new(pb::ConfirmResponse { approval, path, response }))
    }

    async fn refuse(
        &self,
        request: Request<pb::RefuseRequest>,
    ) -> Result<Response<pb::RefuseResponse>, Status> {
        let person = person(&request)?;
        let id = request.into_inner().id;
        let decision = self.accounts.decide(id, &person, false).await.map_err(to_status)?;
        let approval = Some(self.shown(&decision.approval));
        Ok(Response::new(pb::RefuseResponse { approval }))
    }
}
