//! What was reported, verbatim: a unit's own summary of a period and those that went into it,
//! version by version, so that every figure can be explained down to the leaves.

use std::collections::{BTreeMap, VecDeque};

use futures::future::join_all;

use super::{Error, Summaries, hop_margin};
use crate::{
    domain::{
        period::Period,
        summary::{Summary, SummaryKind},
        unit::UnitCode,
    },
    services::exchange::{NoAnswer, Parcel, Question, Wanted},
    statement::{
        Envelope,
        header::{self, StatementId},
        summary::decode_body,
    },
    store,
};
use lianxi_proto::envelope::payload_sha256;

/// Most versions of one summary that are searched for a digest.
const MAX_VERSIONS: usize = 1_000;

/// A digest of a payload, as a coverage names what was added.
type Digest = [u8; 32];

/// The reported summaries of a subtree.
#[derive(Clone, Debug)]
pub struct Collected {
    /// Verified, the unit's own first, a unit before those below it.
    pub parcels: Vec<Parcel>,
    /// Statements of [`Self::parcels`], with the units that they are of.
    pub statements: Vec<(UnitCode, StatementId)>,
    /// Catalogue that the unit's own was made under, `name@version`.
    pub dataschema: String,
    /// Units that were added, but whose summary did not come; with the reason in a fixed word.
    pub missing: BTreeMap<UnitCode, &'static str>,
}

/// A summary that is stored here.
struct Kept {
    summary: Summary,
    parcel: Parcel,
}

impl Summaries {
    /// Answers a pull for what was reported: what went into the summary, as deep as asked, the
    /// summary itself last. Nothing if the unit has none with that digest.
    ///
    /// # Errors
    ///
    /// The store's.
    #[tracing::instrument(name = "summary.reported", skip_all, fields(unit = %self.unit.code, period = %question.period))]
    pub async fn reported(
        &self,
        question: &Question,
        period: &Period,
        payload_sha256: Option<Digest>,
    ) -> Result<Vec<Parcel>, Error> {
        crate::telemetry::set_parent_from(&question.traceparent, &tracing::Span::current());
        let Some(own) = self.kept(&self.unit.code, period, payload_sha256).await? else {
            return Ok(Vec::new());
        };
        let mut parcels = Vec::new();
        if question.depth > 0 {
            for (child, digest, answer) in self.ask_for_added(question, &own.summary).await {
                match answer {
                    Ok(answer) => parcels.extend(answer),
                    // What the child sent then is here, whether or not it can be reached.
                    Err(_) => {
                        let held = self.kept(&child, period, Some(digest)).await?;
                        parcels.extend(held.map(|held| held.parcel));
                    }
                }
            }
        }
        parcels.push(own.parcel);
        Ok(parcels)
    }

    /// Collects the unit's newest reported summary and everything that went into it. Every parcel is
    /// verified here, whoever relayed it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the unit has reported nothing for the period.
    pub async fn collect(&self, question: &Question, period: &Period) -> Result<Collected, Error> {
        let own = self.kept(&self.unit.code, period, None).await?;
        let own = own.ok_or_else(|| Error::NotFound {
            unit: self.unit.code.clone(),
            period: period.to_string(),
        })?;
        let mut came: BTreeMap<Digest, Parcel> = BTreeMap::new();
        let mut reasons: BTreeMap<UnitCode, &'static str> = BTreeMap::new();
        for (child, _, answer) in self.ask_for_added(question, &own.summary).await {
            match answer {
                Ok(answer) => {
                    let named = answer.into_iter().map(|one| (payload_sha256(&one.envelope), one));
                    came.extend(named);
                }
                Err(reason) => drop(reasons.insert(child, reason)),
            }
        }
        self.arrange(own, period, came, &reasons).await
    }

    /// Puts a unit before those that its coverage names, and names what is missing.
    async fn arrange(
        &self,
        own: Kept,
        period: &Period,
        mut came: BTreeMap<Digest, Parcel>,
        reasons: &BTreeMap<UnitCode, &'static str>,
    ) -> Result<Collected, Error> {
        let id = |parcel: &Parcel| header::decode(&parcel.envelope.payload).map(|one| one.header);
        let header = id(&own.parcel).map_err(|error| damaged(&error))?;
        let mut collected = Collected {
            parcels: Vec::new(),
            statements: Vec::new(),
            dataschema: header.dataschema,
            missing: BTreeMap::new(),
        };
        let mut waiting = VecDeque::from([(own.summary, own.parcel, header.id)]);
        while let Some((summary, parcel, id)) = waiting.pop_front() {
            for (child, digest) in added(&summary) {
                let found = match came.remove(&digest) {
                    Some(parcel) => Some(parcel),
                    // What a direct child sent is held here.
                    None => {
                        let held = self.kept(&child, period, Some(digest)).await?;
                        held.map(|held| held.parcel)
                    }
                };
                let verified = found.map(|parcel| {
                    self.verify(&parcel, period, SummaryKind::Reported)
                        .map(|(held, _)| (held, parcel))
                });
                match verified {
                    Some(Ok((held, parcel))) => {
                        waiting.push_back((held.summary, parcel, held.statement_id));
                    }
                    Some(Err(refused)) => {
                        tracing::warn!(
                            unit = %self.unit.code, of = %child, reason = refused.reason,
                            field = %refused.field, "relayed summary refused"
                        );
                        collected.missing.insert(child, "refused");
                    }
                    None => {
                        let reason = reasons.get(&child).copied().unwrap_or("not-held");
                        collected.missing.insert(child, reason);
                    }
                }
            }
            collected.statements.push((summary.unit, id));
            collected.parcels.push(parcel);
        }
        Ok(collected)
    }

    /// Asks each child for the version that was added of it.
    async fn ask_for_added(
        &self,
        question: &Question,
        summary: &Summary,
    ) -> Vec<(UnitCode, Digest, Result<Vec<Parcel>, &'static str>)> {
        let asked = Question {
            deadline: question.deadline.saturating_sub(hop_margin(question.deadline)),
            depth: question.depth.saturating_sub(1),
            traceparent: crate::telemetry::current_traceparent(),
            ..question.clone()
        };
        let asked = &asked;
        join_all(added(summary).map(|(child, digest)| async move {
            let wanted = Wanted::Reported { payload_sha256: Some(digest) };
            let answer = self.downlinks.pull(&child, Question { wanted, ..asked.clone() }).await;
            let answer = match answer {
                Ok(parcels) => match parcels.last() {
                    Some(own) if payload_sha256(&own.envelope) == digest => Ok(parcels),
                    Some(_) => Err("refused"),
                    None => Err("not-held"),
                },
                Err(NoAnswer::NoLink) => Err("no-link"),
                Err(NoAnswer::Deadline) => Err("deadline"),
                Err(NoAnswer::Refused) => Err("refused"),
            };
            (child, digest, answer)
        }))
        .await
    }

    /// The newest version that is held of `unit`, or the one with the digest.
    async fn kept(
        &self,
        unit: &UnitCode,
        period: &Period,
        wanted: Option<Digest>,
    ) -> Result<Option<Kept>, Error> {
        let Some(pointer) = self.pointer(period, unit).await? else { return Ok(None) };
        let mut id = pointer.id()?;
        for _ in 0..MAX_VERSIONS {
            let Some(envelope) = self.unit.statement(id).await? else { return Ok(None) };
            let summary = read(&envelope)?;
            if wanted.is_none_or(|wanted| wanted == payload_sha256(&envelope)) {
                let cells = self.unit.cells(id).await?;
                let evidence = self.journal.evidence_of(id).await?;
                return Ok(Some(Kept { summary, parcel: Parcel { envelope, cells, evidence } }));
            }
            let Some(before) = summary.supersedes else { return Ok(None) };
            id = StatementId::try_from(&before[..]).map_err(|error| damaged(&error))?;
        }
        Ok(None)
    }
}

/// Children that a summary added, with the digests of what was added.
fn added(summary: &Summary) -> impl Iterator<Item = (UnitCode, Digest)> {
    let inputs = summary.coverage.inputs.iter();
    inputs.filter_map(|input| input.payload_sha256.map(|digest| (input.unit.clone(), digest)))
}

fn read(envelope: &Envelope) -> Result<Summary, store::Error> {
    let statement = header::decode(&envelope.payload).map_err(|error| damaged(&error))?;
    decode_body(&statement.body).map_err(|error| damaged(&error))
}

fn damaged(error: &header::Malformed) -> store::Error {
    store::Error::Engine(format!("a stored summary cannot be read: {error}"))
}
