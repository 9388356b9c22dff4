//! `EscalationService`.

use std::sync::Arc;

use lianxi_proto::local::v1 as pb;
use tonic::{Request, Response, Status};

use super::status::{malformed, statement_id, to_status, unit};
use crate::{
    domain::unit::DeskId,
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
    let case = state.case;
    let now = hosted.unit.clock.now_unix_ms();
    let lamp = case.lamp(now, hosted.escalations.warning());
    pb::EscalationState {
        escalation_id: state.id.as_bytes().to_vec(),
        source: case.source.to_string(),
        destination: case.destination.to_string(),
        escalation: Some(to_proto(&case.escalation)),
        raised_unix_ms: case.raised_unix_ms,
        state: case.state().map(|step| step_to_proto(step).into()).unwrap_or_default(),
        lamp: lamp.to_owned(),
        due_unix_ms: case.due_unix_ms().unwrap_or_default(),
        exercise: case.exercise,
        history: case
            .history
            .into_iter()
            .map(|taken| pb::EscalationHistory {
                step: step_to_proto(taken.step).into(),
                unit: taken.unit.to_string(),
                desk: taken.desk.map(|desk| desk.to_string()).unwrap_or_default(),
                note: taken.note,
                time_unix_ms: taken.time_unix_ms,
            })
            .collect(),
    }
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
        let desk = match request.desk.as_str() {
            "" => None,
            text => Some(text.parse::<DeskId>().map_err(|error| {
                Status::invalid_argument(format!("{text:?} is no id of a desk: {error}"))
            })?),
        };
        let taken =
            hosted.escalations.step(id, step, desk, &request.note).await.map_err(to_status)?;
        Ok(Response::new(state(taken, &hosted)))
    }
}
