//! `ReformService`.

use std::sync::Arc;

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use lianxi_proto::admin::v1 as pb;
use tonic::{Request, Response, Status};

use super::{
    access::caller,
    status::{to_status, unit},
};
use crate::{
    services::{
        host::Units,
        hosted::Hosted,
        reforms::{Answer, Reform, Wanted, WantedParts},
    },
    statement::header::StatementId,
};

/// Serves reforms of the hosted units.
#[derive(Clone, Debug)]
pub struct ReformHandler {
    units: Arc<Units>,
}

impl ReformHandler {
    /// A handler over the hosted units.
    pub fn new(units: Arc<Units>) -> Self {
        Self { units }
    }
}

/// The day, when it begins, and today, where the catalogue of the unit says that days begin.
pub(super) fn day(hosted: &Hosted, text: &str) -> Result<(Date, i64, Date), Status> {
    let on: Date = text.parse().map_err(|_| {
        Status::invalid_argument(format!("{text:?} is no day; write it as 2026-12-01"))
    })?;
    let in_force = hosted.catalogues.in_force();
    let zone = in_force.map_or(TimeZone::UTC, |one| one.catalogue.time_zone.clone());
    let now = Timestamp::from_millisecond(hosted.unit.clock.now_unix_ms())
        .map_err(|_| Status::failed_precondition("the clock of this host is not set"))?;
    let begins = on
        .to_zoned(zone.clone())
        .map_err(|error| Status::invalid_argument(format!("{text:?} is no day: {error}")))?;
    Ok((on, begins.timestamp().as_millisecond(), zone.to_datetime(now).date()))
}

fn answer(of: &Reform, unit: &crate::domain::unit::UnitCode, answer: &Answer) -> pb::ReformAnswer {
    // A unit takes everything of its own along, or leaves it to the one that it merges into; what the
    // old parent has stays the old parent's.
    let successor = match () {
        () if *unit == of.to => String::new(),
        () if of.merge && *unit == of.unit => of.to.to_string(),
        () => unit.to_string(),
    };
    let goes = |id: &[u8]| {
        *unit == of.unit && of.items.iter().flatten().any(|item| item.as_bytes()[..] == *id)
    };
    let ids = answer.ids.iter().chain(std::iter::repeat(&None));
    let open = answer.open.iter().zip(ids).map(|((kind, number, party), id)| {
        let id = id.map(|id| id.to_vec()).unwrap_or_default();
        pb::OpenCase {
            kind: kind.clone(),
            number: number.clone(),
            party: party.to_string(),
            successor: if goes(&id) { of.to.to_string() } else { successor.clone() },
            id,
        }
    });
    let open = open.collect();
    pb::ReformAnswer {
        unit: unit.to_string(),
        records: answer.records,
        accounts: answer.accounts,
        notices: answer.notices,
        escalations: answer.escalations,
        clocks: answer.clocks,
        open,
        refused: answer.refused.clone(),
        successor,
    }
}

fn shown(reform: &Reform) -> pb::Reform {
    let answers = reform.answers.iter().map(|(unit, one)| answer(reform, unit, one));
    pb::Reform {
        id: reform.id.as_bytes().to_vec(),
        by: reform.by.to_string(),
        moving: reform.unit.to_string(),
        from: reform.from.to_string(),
        to: reform.to.to_string(),
        on: reform.on.clone(),
        text: reform.text.clone(),
        time_unix_ms: reform.time_unix_ms,
        answers: answers.collect(),
        silent: reform.silent.iter().map(ToString::to_string).collect(),
        moved_unix_ms: reform.moved_unix_ms.unwrap_or_default(),
        released_unix_ms: reform.released_unix_ms.unwrap_or_default(),
        merge: reform.merge,
        ended: reform.ended,
        children: reform.children.iter().map(ToString::to_string).collect(),
        divides: reform.items.is_some(),
        items: reform.items.iter().flatten().map(|id| id.as_bytes().to_vec()).collect(),
        part_of: reform.part_of.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
        settled: reform.settled,
    }
}

#[tonic::async_trait]
impl pb::reform_service_server::ReformService for ReformHandler {
    async fn reparent(
        &self,
        request: Request<pb::ReparentRequest>,
    ) -> Result<Response<pb::ReparentResponse>, Status> {
        let by = caller(&request)?.actor;
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let (on, begins_unix_ms, today) = day(&hosted, &request.on)?;
        let wanted = Wanted {
            unit: unit(&request.moving)?,
            to: unit(&request.to)?,
            on,
            begins_unix_ms,
            today,
            text: request.text,
            dry_run: request.dry_run,
            merge: false,
            parts: None,
        };
        let reform = hosted.reforms.order(&by, wanted).await.map_err(to_status)?;
        Ok(Response::new(pb::ReparentResponse { reform: Some(shown(&reform)) }))
    }

    async fn merge(
        &self,
        request: Request<pb::MergeRequest>,
    ) -> Result<Response<pb::MergeResponse>, Status> {
        let by = caller(&request)?.actor;
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let (on, begins_unix_ms, today) = day(&hosted, &request.on)?;
        let wanted = Wanted {
            unit: unit(&request.merging)?,
            to: unit(&request.into)?,
            on,
            begins_unix_ms,
            today,
            text: request.text,
            dry_run: request.dry_run,
            merge: true,
            parts: None,
        };
        let reform = hosted.reforms.order(&by, wanted).await.map_err(to_status)?;
        Ok(Response::new(pb::MergeResponse { reform: Some(shown(&reform)) }))
    }

    async fn split(
        &self,
        request: Request<pb::SplitRequest>,
    ) -> Result<Response<pb::SplitResponse>, Status> {
        let by = caller(&request)?.actor;
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let (on, begins_unix_ms, today) = day(&hosted, &request.on)?;
        let item = |id: &Vec<u8>| {
            let id = StatementId::try_from(id.as_slice());
            id.map_err(|error| Status::invalid_argument(error.to_string()))
        };
        let parts = WantedParts {
            children: request.children.iter().map(|child| unit(child)).collect::<Result<_, _>>()?,
            items: request.items.iter().map(item).collect::<Result<_, _>>()?,
        };
        let wanted = Wanted {
            unit: unit(&request.dividing)?,
            to: unit(&request.into)?,
            on,
            begins_unix_ms,
            today,
            text: request.text,
            dry_run: request.dry_run,
            merge: false,
            parts: Some(parts),
        };
        let reform = hosted.reforms.order(&by, wanted).await.map_err(to_status)?;
        Ok(Response::new(pb::SplitResponse { reform: Some(shown(&reform)) }))
    }

    async fn list(
        &self,
        request: Request<pb::ListReformsRequest>,
    ) -> Result<Response<pb::ListReformsResponse>, Status> {
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let reforms = if request.id.is_empty() {
            hosted.reforms.list().await.map_err(to_status)?
        } else {
            let id = StatementId::try_from(request.id.as_slice())
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            vec![hosted.reforms.show(id).await.map_err(to_status)?]
        };
        let reforms = reforms.iter().map(shown).collect();
        Ok(Response::new(pb::ListReformsResponse { reforms }))
    }
}
