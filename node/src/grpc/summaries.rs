//! `SummaryService`.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, stream};
use lianxi_proto::local::v1 as pb;
use tonic::{Request, Response, Status};

use super::status::{to_status, unit};
use crate::{
    domain::{
        period::Period,
        summary::{FigureSet, Figures},
    },
    services::{
        exchange::{Question, Wanted},
        host::Units,
        summaries::{Held, Outcome},
    },
    statement::{
        delegation::level_to_proto,
        summary::{figures_to_proto, to_proto},
    },
};

const DEFAULT_DEADLINE_MS: u32 = 10_000;
const MAX_DEADLINE_MS: u32 = 600_000;

/// Serves summaries of the hosted units.
#[derive(Clone, Debug)]
pub struct SummaryHandler {
    units: Arc<Units>,
}

impl SummaryHandler {
    /// A handler over the hosted units.
    pub fn new(units: Arc<Units>) -> Self {
        Self { units }
    }
}

fn period(text: &str) -> Result<Period, Status> {
    text.parse()
        .map_err(|error| Status::invalid_argument(format!("{text:?} is no period: {error}")))
}

fn figures(held: Held) -> pb::UnitFigures {
    let scope_changes = held.scope_changes.iter().map(|change| pb::ScopeChange {
        moving: change.order.unit.to_string(),
        from: change.order.from.to_string(),
        to: change.order.to.to_string(),
        from_day: change.order.on.to_string(),
        came: change.came,
        units: change.units,
    });
    let comparable = held.comparable.map(|subtree| {
        let figures = FigureSet { own: Figures::new(), subtree };
        figures_to_proto(&figures)
    });
    pb::UnitFigures {
        scope_changes: scope_changes.collect(),
        comparable_cells: comparable.unwrap_or_default(),
        unit: held.summary.unit.to_string(),
        title: held.title,
        level: level_to_proto(held.level).into(),
        parent: held.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        cells: figures_to_proto(&held.figures),
        summary: Some(to_proto(&held.summary)),
        envelope: Some(held.envelope),
        statement_id: held.statement_id.as_bytes().to_vec(),
    }
}

#[tonic::async_trait]
impl pb::summary_service_server::SummaryService for SummaryHandler {
    async fn publish(
        &self,
        request: Request<pb::PublishSummaryRequest>,
    ) -> Result<Response<pb::PublishSummaryResponse>, Status> {
        let request = request.into_inner();
        let period = period(&request.period)?;
        let units = if request.units.is_empty() {
            self.units.all()
        } else {
            let find = |text: &String| self.units.find(&unit(text)?).map_err(to_status);
            request.units.iter().map(find).collect::<Result<Vec<_>, _>>()?
        };
        let outcomes = futures::future::join_all(units.iter().map(|hosted| {
            let period = &period;
            async move { (hosted, hosted.summaries.publish(period).await) }
        }))
        .await;
        let mut response = pb::PublishSummaryResponse::default();
        for (hosted, outcome) in outcomes {
            let code = hosted.unit.code.to_string();
            match outcome.map_err(to_status)? {
                Outcome::Unchanged => response.unchanged.push(code),
                Outcome::Published { version, statement_id } => {
                    let statement_id = statement_id.as_bytes().to_vec();
                    let published = pb::PublishedSummary { unit: code, version, statement_id };
                    response.published.push(published);
                }
            }
        }
        Ok(Response::new(response))
    }

    async fn show(
        &self,
        request: Request<pb::ShowSummaryRequest>,
    ) -> Result<Response<pb::UnitFigures>, Status> {
        let request = request.into_inner();
        let code = unit(&request.unit)?;
        let hosted = self.units.find(&code).map_err(to_status)?;
        let of = if request.of.is_empty() { code } else { unit(&request.of)? };
        let period = period(&request.period)?;
        let held = hosted.summaries.show(&of, &period).await.map_err(to_status)?;
        Ok(Response::new(figures(held)))
    }

    type PullStream = Pin<Box<dyn Stream<Item = Result<pb::UnitFigures, Status>> + Send>>;

    async fn pull(
        &self,
        request: Request<pb::PullSummaryRequest>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let parsed = period(&request.period)?;
        let deadline_ms = match request.deadline_ms {
            0 => DEFAULT_DEADLINE_MS,
            over if over > MAX_DEADLINE_MS => {
                return Err(Status::invalid_argument("a deadline is at most 600,000 ms"));
            }
            deadline_ms => deadline_ms,
        };
        let question = Question {
            wanted: Wanted::Live,
            period: parsed.to_string(),
            deadline: Duration::from_millis(deadline_ms.into()),
            max_age: Duration::from_millis(request.max_age_ms.into()),
            depth: request.depth,
            traceparent: crate::telemetry::current_traceparent(),
        };
        let held = hosted.summaries.pull(&question, &parsed).await.map_err(to_status)?;
        let items = held.into_iter().map(|held| Ok(figures(held)));
        Ok(Response::new(Box::pin(stream::iter(items))))
    }
}
