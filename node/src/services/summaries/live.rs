//! Live pulls: the figures as they are, asked for down the open links within a deadline, signed and
//! added up on the way. The reported ones stay.

use std::{collections::BTreeMap, sync::Arc};

use futures::{FutureExt, future::join_all};
use tokio::time::Instant;

use super::{
    Error, Held, Summaries,
    answers::{Answer, Joined, age_below},
    hop_margin,
};
use crate::{
    domain::{
        period::Period,
        summary::{Child, CoverageState, FigureSet, Summary, SummaryKind, roll_up},
        unit::UnitCode,
    },
    services::{
        exchange::{NoAnswer, Parcel, Question},
        unit::Draft,
    },
    statement::{
        header::kinds,
        summary::{encode_body, seal},
    },
    telemetry::metrics::PullEnd,
};

impl Summaries {
    /// Answers a live pull: descendants' parcels as deep as asked, the own last. Shares the work of a
    /// pull under way that asks for the same. Dropping it cancels the questions below, once nobody
    /// else waits for them.
    ///
    /// # Errors
    ///
    /// What kept the own figures from being computed.
    pub async fn live(
        self: &Arc<Self>,
        question: &Question,
        period: &Period,
    ) -> Result<Vec<Parcel>, Error> {
        let now = self.unit.clock.now_unix_ms();
        if let Some(answer) = self.answers.kept(question, now) {
            return Ok(answer.parcels.clone());
        }
        let began = Instant::now();
        let answer = match self.join(question, period, began) {
            Joined::Begun(own) => own.await,
            Joined::Shared(shared) => {
                let answer = shared.await.map_err(Error::Shared)?;
                // What others gave up on may come in the time that is left.
                if !answer.cut_short || began.elapsed() >= question.deadline / 2 {
                    return Ok(answer.parcels.clone());
                }
                let left = question.deadline.saturating_sub(began.elapsed());
                let again = Question { deadline: left, ..question.clone() };
                match self.join(&again, period, Instant::now()) {
                    Joined::Begun(collection) | Joined::Shared(collection) => collection.await,
                }
            }
        };
        Ok(answer.map_err(Error::Shared)?.parcels.clone())
    }

    fn join(self: &Arc<Self>, question: &Question, period: &Period, begins: Instant) -> Joined {
        let (summaries, asked, period) = (Arc::clone(self), question.clone(), *period);
        let work = async move {
            let answer = Arc::new(summaries.ask_all(&asked, &period).await.map_err(Arc::new)?);
            summaries.answers.keep(&asked, &answer);
            Ok(answer)
        };
        self.answers.join(question, self.unit.clock.now_unix_ms(), begins, work.boxed())
    }

    #[tracing::instrument(name = "summary.pull", skip_all, fields(unit = %self.unit.code, period = %question.period))]
    async fn ask_all(&self, question: &Question, period: &Period) -> Result<Answer, Error> {
        crate::telemetry::set_parent_from(&question.traceparent, &tracing::Span::current());
        let at_unix_ms = self.unit.clock.now_unix_ms();
        let own = self.own_figures(period).await?;
        let (children, mut parcels) = self.ask_children(question, period).await?;
        let (subtree, coverage) = roll_up(&own, &children);
        let cut_short = coverage.gaps.iter().any(|gap| gap.reason == NoAnswer::Deadline.as_str());
        let figures = FigureSet { own, subtree };
        let sealed = seal(&figures).map_err(Error::Random)?;
        let summary = Summary {
            unit: self.unit.code.clone(),
            period: *period,
            kind: SummaryKind::Live,
            version: 0,
            supersedes: None,
            cells_root: sealed.root,
            cells_count: u32::try_from(sealed.cells.len()).unwrap_or(u32::MAX),
            coverage,
            as_of_unix_ms: at_unix_ms,
        };
        let mut draft = Draft::new(kinds::SUMMARY, period.to_string(), encode_body(&summary));
        draft.dataschema = self.catalogues.label();
        let signed = self.unit.sign_live(&draft)?;
        parcels.push(Parcel { envelope: signed.envelope, cells: sealed.cells, evidence: None });
        let (below, deadline) = (age_below(question.max_age), question.deadline);
        Ok(Answer { at_unix_ms, below, deadline, cut_short, parcels })
    }

    async fn ask_children(
        &self,
        question: &Question,
        period: &Period,
    ) -> Result<(BTreeMap<UnitCode, Child>, Vec<Parcel>), Error> {
        let asked = Question {
            deadline: question.deadline.saturating_sub(hop_margin(question.deadline)),
            max_age: age_below(question.max_age),
            depth: question.depth.saturating_sub(1),
            traceparent: crate::telemetry::current_traceparent(),
            ..question.clone()
        };
        let (ended, children): (Vec<_>, Vec<_>) = {
            let trust = self.unit.trust();
            self.children(period).into_iter().partition(|(unit, _)| trust.has_left(unit))
        };
        let answers = join_all(children.iter().map(|(unit, units)| {
            let asked = asked.clone();
            async move { (unit, *units, self.ask(unit, asked, period).await) }
        }))
        .await;
        let mut known = BTreeMap::new();
        if !ended.is_empty() {
            // What a unit that merged into another had reported last is all that it will say.
            known = self.reported_children(period).await?;
            known.retain(|unit, _| ended.iter().any(|(one, _)| one == unit));
        }
        let mut parcels = Vec::new();
        for (unit, units, answer) in answers {
            let child = match answer {
                Ok((child, theirs)) => {
                    if question.depth > 0 {
                        parcels.extend(theirs);
                    }
                    child
                }
                Err(no_answer) => self.missing(unit, units, period, no_answer).await?,
            };
            known.insert(unit.clone(), child);
        }
        Ok((known, parcels))
    }

    async fn ask(
        &self,
        unit: &UnitCode,
        question: Question,
        period: &Period,
    ) -> Result<(Child, Vec<Parcel>), NoAnswer> {
        let parcels = self.downlinks.pull(unit, question).await?;
        let own = parcels.last().ok_or(NoAnswer::Refused)?;
        let (held, payload_sha256) =
            self.verify(own, period, SummaryKind::Live).map_err(|refused| {
                tracing::warn!(
                    unit = %self.unit.code, child = %unit, reason = refused.reason,
                    field = %refused.field, "live answer refused"
                );
                NoAnswer::Refused
            })?;
        if held.summary.unit != *unit {
            return Err(NoAnswer::Refused);
        }
        let child = Child::Reported {
            coverage: held.summary.coverage,
            subtree: held.figures.subtree,
            payload_sha256,
            version: 0,
        };
        Ok((child, parcels))
    }

    async fn missing(
        &self,
        unit: &UnitCode,
        units: u32,
        period: &Period,
        no_answer: NoAnswer,
    ) -> Result<Child, Error> {
        let reported = self.pointer(period, unit).await?;
        let state = match no_answer {
            NoAnswer::Refused => CoverageState::Quarantined,
            NoAnswer::NoLink | NoAnswer::Deadline if reported.is_some() => CoverageState::Stale,
            NoAnswer::NoLink | NoAnswer::Deadline => CoverageState::Absent,
        };
        let reason = no_answer.as_str();
        let last_known_unix_ms = reported.map(|pointer| pointer.received_unix_ms);
        Ok(Child::Missing { state, reason, units, last_known_unix_ms })
    }

    /// Pulls live figures for the caller: every parcel is verified here, whoever relayed it.
    ///
    /// # Errors
    ///
    /// As [`Self::live`].
    pub async fn pull(
        self: &Arc<Self>,
        question: &Question,
        period: &Period,
    ) -> Result<Vec<Held>, Error> {
        let begun = Instant::now();
        let held = self.verified(question, period).await;
        let is_complete =
            |own: &Held| own.summary.coverage.included == own.summary.coverage.expected;
        let end = match &held {
            Ok(held) if held.last().is_some_and(is_complete) => PullEnd::Complete,
            Ok(_) => PullEnd::Partial,
            Err(_) => PullEnd::Failed,
        };
        self.unit.metrics.pulled(end, begun.elapsed());
        held
    }

    async fn verified(
        self: &Arc<Self>,
        question: &Question,
        period: &Period,
    ) -> Result<Vec<Held>, Error> {
        let parcels = self.live(question, period).await?;
        let mut held = Vec::with_capacity(parcels.len());
        for parcel in &parcels {
            match self.verify(parcel, period, SummaryKind::Live) {
                Ok((summary, _)) => held.push(summary),
                Err(refused) => tracing::warn!(
                    unit = %self.unit.code, reason = refused.reason, field = %refused.field,
                    "relayed live summary refused"
                ),
            }
        }
        Ok(held)
    }
}
