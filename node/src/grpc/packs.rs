//! `PackService`.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, stream};
use lianxi_proto::local::v1 as pb;
use tonic::{Code, Request, Response, Status};

use super::{
    access::caller,
    status::{statement_id, to_status, unit},
};
use crate::{
    domain::{journal::Act, period::Period},
    services::{
        exchange::{Question, Wanted},
        host::Units,
        hosted::Hosted,
        packs::{self, Exported},
    },
    statement::revocation::Proven,
    verify::RootKey,
};

const DEFAULT_DEADLINE_MS: u32 = 30_000;
const MAX_DEADLINE_MS: u32 = 600_000;

/// Levels below the unit: more than there are.
const DEPTH: u32 = 8;

/// Bytes of a chunk from which the next one is begun.
const CHUNK_BYTES: usize = 512 * 1024;

/// Serves packs of the hosted units.
#[derive(Clone, Debug)]
pub struct PackHandler {
    units: Arc<Units>,
}

impl PackHandler {
    /// A handler over the hosted units.
    pub fn new(units: Arc<Units>) -> Self {
        Self { units }
    }
}

async fn export(hosted: &Hosted, request: pb::ExportPackRequest) -> Result<Exported, Status> {
    match (request.period.as_str(), request.statement_id.as_slice()) {
        ("", []) => Err(Status::invalid_argument("name a period or a statement")),
        ("", id) => packs::statement(hosted, statement_id(id)?).await.map_err(to_status),
        (text, []) => {
            let period: Period = text.parse().map_err(|error| {
                Status::invalid_argument(format!("{text:?} is no period: {error}"))
            })?;
            let deadline_ms = match request.deadline_ms {
                0 => DEFAULT_DEADLINE_MS,
                over if over > MAX_DEADLINE_MS => {
                    return Err(Status::invalid_argument("a deadline is at most 600,000 ms"));
                }
                deadline_ms => deadline_ms,
            };
            let question = Question {
                wanted: Wanted::Reported { payload_sha256: None },
                period: period.to_string(),
                deadline: Duration::from_millis(deadline_ms.into()),
                max_age: Duration::ZERO,
                depth: DEPTH,
                traceparent: crate::telemetry::current_traceparent(),
            };
            let exported = packs::period(hosted, &period, &question, &request.withhold);
            exported.await.map_err(to_status)
        }
        (_, _) => Err(Status::invalid_argument("name a period or a statement, not both")),
    }
}

/// What is exported, as the journal names it: a period or the id of a statement.
fn subject(request: &pb::ExportPackRequest) -> String {
    if request.period.is_empty() {
        hex::encode(&request.statement_id)
    } else {
        request.period.clone()
    }
}

fn root_key(hosted: &Hosted) -> Result<RootKey, Status> {
    RootKey::of(&hosted.unit.trust()).map_err(|error| Status::internal(error.to_string()))
}

fn facts(exported: &Exported, root_key: &RootKey) -> pb::PackFacts {
    let missing = exported.missing.iter().map(|(unit, reason)| format!("{unit} {reason}"));
    let size_bytes: usize = exported.pieces.iter().map(Vec::len).sum();
    pb::PackFacts {
        statements: u32::try_from(exported.statements).unwrap_or(u32::MAX),
        missing: missing.collect(),
        root_key: root_key.to_string(),
        size_bytes: size_bytes as u64,
    }
}

/// Reason of a refused export, for the journal.
fn word(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument | Code::OutOfRange => "invalid-argument",
        Code::NotFound => "not-found",
        Code::FailedPrecondition | Code::AlreadyExists => "precondition",
        Code::PermissionDenied | Code::Unauthenticated => "denied",
        Code::ResourceExhausted => "exhausted",
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => "cut-off",
        Code::Ok | Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => {
            "failed"
        }
    }
}

/// Joins small pieces, so that a city is not sent in ten thousand messages.
fn chunks(pieces: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut chunks: Vec<Vec<u8>> = Vec::new();
    for piece in pieces {
        match chunks.last_mut() {
            Some(last) if last.len() < CHUNK_BYTES => last.extend_from_slice(&piece),
            Some(_) | None => chunks.push(piece),
        }
    }
    chunks
}

#[tonic::async_trait]
impl pb::pack_service_server::PackService for PackHandler {
    type ExportStream = Pin<Box<dyn Stream<Item = Result<pb::ExportPackResponse, Status>> + Send>>;

    async fn export(
        &self,
        request: Request<pb::ExportPackRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        use pb::export_pack_response::Kind;
        let actor = caller(&request)?.actor;
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let subject = subject(&request);
        let exported = match export(&hosted, request).await {
            Ok(exported) => exported,
            Err(status) => {
                let act = Act::refused(actor, "pack.export", subject, word(status.code()));
                hosted.unit.record(act).await.map_err(to_status)?;
                return Err(status);
            }
        };
        // What left the house is on the record before it leaves.
        let act = Act::done(actor, "pack.export", subject).about(exported.sha256);
        hosted.unit.record(act).await.map_err(to_status)?;
        let facts = Kind::Facts(facts(&exported, &root_key(&hosted)?));
        let chunks = chunks(exported.pieces).into_iter().map(Kind::Chunk);
        let answers = std::iter::once(facts).chain(chunks);
        let answers = answers.map(|kind| Ok(pb::ExportPackResponse { kind: Some(kind) }));
        Ok(Response::new(Box::pin(stream::iter(answers.collect::<Vec<_>>()))))
    }

    async fn root_key(
        &self,
        request: Request<pb::RootKeyRequest>,
    ) -> Result<Response<pb::RootKeyResponse>, Status> {
        let hosted = self.units.find(&unit(&request.into_inner().unit)?).map_err(to_status)?;
        let root_key = root_key(&hosted)?.to_string();
        let trust = hosted.unit.trust();
        let granted = trust.root_grants().into_iter().map(|known| known.envelope.clone());
        let root_grants = granted.collect();
        Ok(Response::new(pb::RootKeyResponse { root_key, root_grants }))
    }

    type RevocationsStream =
        Pin<Box<dyn Stream<Item = Result<pb::RevocationsResponse, Status>> + Send>>;

    async fn revocations(
        &self,
        request: Request<pb::RevocationsRequest>,
    ) -> Result<Response<Self::RevocationsStream>, Status> {
        let hosted = self.units.find(&unit(&request.into_inner().unit)?).map_err(to_status)?;
        let answer = |(proven, counts): (Proven, bool)| {
            Ok(pb::RevocationsResponse { item: Some(proven.to_proto()), counts })
        };
        let answers: Vec<_> =
            packs::held_revocations(&hosted.unit).into_iter().map(answer).collect();
        Ok(Response::new(Box::pin(stream::iter(answers))))
    }
}
