//! `EscalationService`.

use std::sync::Arc;

use lianxi_proto::{local::v1 as pb, types::v1::Escalation};
use tonic::{Request, Response, Status};

use super::{
    notices::given,
    status::{malformed, statement_id, to_status, unit},
};
use crate::{
    domain::{escalation::Taken, unit::DeskId},
    services::{escalations::State, host::Units, hosted::Hosted},
    statement::escalation::{from_proto, step_from_proto, step_to_proto, to_proto},
};

/// Serves escalations of the hosted units.
#[derive(Clone, Debug)]
pub struct EscalationHandler {
    units: Arc<Units>,
}

impl EscalationHandler {
    /// A handler over the hosted units.
    pub fn new(units: Arc<Units>) -> Self {
        Self { units }
    }
}

fn state(state: State, hosted: &Hosted) -> pb::EscalationState {
    let mut shown = pb::EscalationState {
        escalation_id: state.id.as_bytes().to_vec(),
        source: state.source.to_string(),
        destination: state.destination.to_string(),
        escalation: Some(Escalation { number: state.number, ..Escalation::default() }),
        raised_unix_ms: state.raised_unix_ms,
        exercise: state.exercise,
        sealed_for_others: state.case.is_none(),
        given: state.given.into_iter().map(given).collect(),
        ..pb::EscalationState::default()
    };
    if let Some(case) = state.case {
        let now = hosted.unit.clock.now_unix_ms();
        shown.escalation = Some(to_proto(&case.escalation));
        shown.state = case.state().map(|step| step_to_proto(step).into()).unwrap_or_default();
        shown.lamp = case.lamp(now, hosted.escalations.warning()).to_owned();
        shown.due_unix_ms = case.due_unix_ms().unwrap_or_default();
        shown.added_desks = case.added.iter().map(ToString::to_string).collect();
        shown.history = case.history.into_iter().map(taken).collect();
    }
    shown
}

fn taken(taken: Taken) -> pb::EscalationHistory {
    pb::EscalationHistory {
        step: step_to_proto(taken.step).into(),
        unit: taken.unit.to_string(),
        desk: taken.desk.map(|desk| desk.to_string()).unwrap_or_default(),
        note: taken.note,
        time_unix_ms: taken.time_unix_ms,
    }
}

fn desk(text: &str) -> Result<DeskId, Status> {
    text.parse()
        .map_err(|error| Status::invalid_argument(format!("{text:?} is no id of a desk: {error}")))
}

#[tonic::async_trait]
impl pb::escalation_service_server::EscalationService for EscalationHandler {
    async fn raise(
        &self,
        request: Request<pb::RaiseEscalationRequest>,
    ) -> Result<Response<pb::EscalationState>, Status> {
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let destination = match request.destination.as_str() {
            "" => None,
            text => Some(unit(text)?),
        };
        let escalation =
            request.escalation.ok_or_else(|| Status::invalid_argument("escalation is missing"))?;
        let escalation = from_proto(escalation).map_err(|error| malformed(&error))?;
        let raised = hosted
            .escalations
            .raise(destination, escalation, request.exercise)
            .await
            .map_err(to_status)?;
        Ok(Response::new(state(raised, &hosted)))
    }

    async fn list(
        &self,
        request: Request<pb::ListEscalationsRequest>,
    ) -> Result<Response<pb::ListEscalationsResponse>, Status> {
        let hosted = self.units.find(&unit(&request.into_inner().unit)?).map_err(to_status)?;
        let cases = hosted.escalations.list().await.map_err(to_status)?;
        let escalations = cases.into_iter().map(|case| state(case, &hosted)).collect();
        Ok(Response::new(pb::ListEscalationsResponse { escalations }))
    }

    async fn show(
        &self,
        request: Request<pb::ShowEscalationRequest>,
    ) -> Result<Response<pb::EscalationState>, Status> {
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let id = statement_id(&request.escalation_id)?;
        let shown = hosted.escalations.show(id).await.map_err(to_status)?;
        Ok(Response::new(state(shown, &hosted)))
    }

    async fn step(
        &self,
        request: Request<pb::StepEscalationRequest>,
    ) -> Result<Response<pb::EscalationState>, Status> {
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let id = statement_id(&request.escalation_id)?;
        let step = step_from_proto(request.step())
            .ok_or_else(|| Status::invalid_argument("step is missing"))?;
        let by = match request.desk.as_str() {
            "" => None,
            text => Some(desk(text)?),
        };
        let taken =
            hosted.escalations.step(id, step, by, &request.note).await.map_err(to_status)?;
        Ok(Response::new(state(taken, &hosted)))
    }

    async fn add_desk(
        &self,
        request: Request<pb::AddEscalationDeskRequest>,
    ) -> Result<Response<pb::EscalationState>, Status> {
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let (id, desk) = (statement_id(&request.escalation_id)?, desk(&request.desk)?);
        let added = hosted.escalations.add_desk(id, &desk, None, request.dry_run).await;
        Ok(Response::new(state(added.map_err(to_status)?, &hosted)))
    }

    async fn share(
        &self,
        request: Request<pb::ShareEscalationRequest>,
    ) -> Result<Response<pb::EscalationState>, Status> {
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let id = statement_id(&request.escalation_id)?;
        let to = unit(&request.to)?;
        // Not every statement is an escalation.
        hosted.escalations.show(id).await.map_err(to_status)?;
        hosted.grants.share(id, &to, request.dry_run).await.map_err(to_status)?;
        let shown = hosted.escalations.show(id).await.map_err(to_status)?;
        Ok(Response::new(state(shown, &hosted)))
    }
}
