//! `NoticeService`.

use std::sync::Arc;

use lianxi_proto::{local::v1 as pb, types::v1::Notice};
use tonic::{Request, Response, Status};

use super::status::{malformed, statement_id, to_status, unit};
use crate::{
    services::{
        host::Units,
        notices::{Recipient, State},
        unit::Given,
    },
    statement::{
        delegation::level_to_proto,
        notice::{from_proto, stage_from_proto, stage_to_proto, to_proto},
    },
};

/// Serves notices of the hosted units.
#[derive(Clone, Debug)]
pub struct NoticeHandler {
    units: Arc<Units>,
}

impl NoticeHandler {
    /// A handler over the hosted units.
    pub fn new(units: Arc<Units>) -> Self {
        Self { units }
    }
}

fn recipient(recipient: Recipient) -> pb::Recipient {
    pb::Recipient {
        unit: recipient.unit.to_string(),
        title: recipient.title,
        stage: recipient.stage.map(|stage| stage_to_proto(stage).into()).unwrap_or_default(),
        reason: recipient.reason,
        note: recipient.note,
        stage_unix_ms: recipient.stage_unix_ms.unwrap_or_default(),
    }
}

/// A key that was given, for operators.
pub(super) fn given(given: Given) -> pb::KeyGiven {
    pb::KeyGiven {
        by: given.by.to_string(),
        unit: given.to.0.to_string(),
        desk: given.to.1.map(|desk| desk.to_string()).unwrap_or_default(),
        time_unix_ms: given.time_unix_ms,
    }
}

fn state(state: State) -> pb::NoticeState {
    let outline = || Notice {
        number: state.number.clone(),
        level: level_to_proto(state.level).into(),
        due_unix_ms: state.due_unix_ms,
        ..Notice::default()
    };
    pb::NoticeState {
        notice_id: state.id.as_bytes().to_vec(),
        issuer: state.issuer.to_string(),
        destination: state.destination.to_string(),
        notice: Some(state.notice.as_ref().map_or_else(outline, to_proto)),
        sealed_for_others: state.notice.is_none(),
        given: state.given.into_iter().map(given).collect(),
        issued_unix_ms: state.issued_unix_ms,
        recipients: state.recipients.into_iter().map(recipient).collect(),
        exercise: state.exercise,
    }
}

#[tonic::async_trait]
impl pb::notice_service_server::NoticeService for NoticeHandler {
    async fn issue(
        &self,
        request: Request<pb::IssueNoticeRequest>,
    ) -> Result<Response<pb::IssueNoticeResponse>, Status> {
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let destination = unit(&request.destination)?;
        let notice = request.notice.ok_or_else(|| Status::invalid_argument("notice is missing"))?;
        let notice = from_proto(notice).map_err(|error| malformed(&error))?;
        let (id, issued_to) = hosted
            .notices
            .issue(&destination, &notice, request.exercise)
            .await
            .map_err(to_status)?;
        Ok(Response::new(pb::IssueNoticeResponse {
            notice_id: id.as_bytes().to_vec(),
            issued_to: u32::try_from(issued_to).unwrap_or(u32::MAX),
        }))
    }

    async fn list(
        &self,
        request: Request<pb::ListNoticesRequest>,
    ) -> Result<Response<pb::ListNoticesResponse>, Status> {
        let hosted = self.units.find(&unit(&request.into_inner().unit)?).map_err(to_status)?;
        let notices = hosted.notices.list().await.map_err(to_status)?;
        let notices = notices.into_iter().map(state).collect();
        Ok(Response::new(pb::ListNoticesResponse { notices }))
    }

    async fn show(
        &self,
        request: Request<pb::ShowNoticeRequest>,
    ) -> Result<Response<pb::NoticeState>, Status> {
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let id = statement_id(&request.notice_id)?;
        Ok(Response::new(state(hosted.notices.show(id).await.map_err(to_status)?)))
    }

    async fn mark(
        &self,
        request: Request<pb::MarkNoticeRequest>,
    ) -> Result<Response<pb::NoticeState>, Status> {
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let id = statement_id(&request.notice_id)?;
        let stage = stage_from_proto(request.stage())
            .ok_or_else(|| Status::invalid_argument("stage is SEEN or DONE"))?;
        let marked = hosted.notices.mark(id, stage, &request.note).await.map_err(to_status)?;
        Ok(Response::new(state(marked)))
    }

    async fn share(
        &self,
        request: Request<pb::ShareNoticeRequest>,
    ) -> Result<Response<pb::NoticeState>, Status> {
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let id = statement_id(&request.notice_id)?;
        let to = unit(&request.to)?;
        // Not every statement is a notice.
        hosted.notices.show(id).await.map_err(to_status)?;
        hosted.grants.share(id, &to, request.dry_run).await.map_err(to_status)?;
        Ok(Response::new(state(hosted.notices.show(id).await.map_err(to_status)?)))
    }
}
