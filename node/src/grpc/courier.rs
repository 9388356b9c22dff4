//! `CourierService`: files that carry statements across an air gap.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use lianxi_proto::admin::v1 as pb;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    access::caller,
    status::{to_status, unit},
};
use crate::{
    domain::{
        courier::{Gap, MAX_FILE_BYTES},
        unit::UnitCode,
    },
    services::{
        courier::{
            self, Codec, Error, Export, ExportOrder, Exported, ImportOrder, Imported, Part,
            PeerStatus, Progress,
        },
        exchange::Lane,
        host::Units,
    },
};

/// Bytes of a file in one message.
const CHUNK_BYTES: usize = 512 * 1024;

/// Messages that wait for a slow reader.
const WAITING: usize = 4;

type Answers<T> = mpsc::Sender<Result<T, Status>>;

/// Serves courier files of the hosted units.
#[derive(Clone)]
pub struct CourierHandler {
    units: Arc<Units>,
    codec: Arc<dyn Codec>,
    /// One file at a time: each is held in memory.
    turn: Arc<Mutex<()>>,
}

impl std::fmt::Debug for CourierHandler {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("CourierHandler")
    }
}

impl CourierHandler {
    /// A handler over the hosted units.
    pub fn new(units: Arc<Units>, codec: Arc<dyn Codec>) -> Self {
        Self { units, codec, turn: Arc::default() }
    }
}

fn named(text: &str) -> Result<Option<UnitCode>, Status> {
    if text.is_empty() { Ok(None) } else { unit(text).map(Some) }
}

fn written(kind: pb::courier_export_response::Kind) -> pb::CourierExportResponse {
    pb::CourierExportResponse { kind: Some(kind) }
}

fn exported(of: &UnitCode, exported: &Exported) -> pb::CourierExported {
    pb::CourierExported {
        unit: of.to_string(),
        to: exported.to.to_string(),
        number: exported.number,
        files: exported.files,
        deliveries: exported.deliveries,
        size_bytes: exported.size_bytes,
        withheld: exported.withheld.map(|it| it.as_str().to_owned()).unwrap_or_default(),
    }
}

fn gap((lane, gap): &(Lane, Gap)) -> pb::CourierGap {
    pb::CourierGap { lane: lane.as_str().to_owned(), have: gap.have, after: gap.after }
}

fn imported(imported: &Imported) -> pb::CourierImported {
    pb::CourierImported {
        unit: imported.unit.to_string(),
        from: imported.from.to_string(),
        number: imported.number,
        part: imported.part,
        last: imported.last,
        order: imported.order.as_str().to_owned(),
        deliveries: imported.deliveries,
        taken: imported.taken,
        known: imported.known,
        waiting: imported.waiting,
        gaps: imported.gaps.iter().map(gap).collect(),
        withheld: imported.withheld.map(|it| it.as_str().to_owned()).unwrap_or_default(),
        exported_unix_ms: imported.exported_unix_ms,
    }
}

fn peer(status: &PeerStatus) -> pb::CourierPeer {
    pb::CourierPeer {
        peer: status.peer.to_string(),
        parent: status.is_parent,
        linked: status.is_linked,
        waiting: status.waiting,
        exported_number: status.exported.0,
        exported_unix_ms: status.exported.1,
        imported_number: status.imported.0,
        imported_unix_ms: status.imported.1,
        gaps: status.gaps.iter().map(gap).collect(),
    }
}

/// Sends one file; false if nobody listens any more.
async fn send(part: Part, dry_run: bool, answers: &Answers<pb::CourierExportResponse>) -> bool {
    use pb::courier_export_response::Kind;
    let file = pb::CourierFile {
        number: part.number,
        part: part.part,
        size_bytes: part.bytes.len() as u64,
        deliveries: part.deliveries,
    };
    if answers.send(Ok(written(Kind::File(file)))).await.is_err() {
        return false;
    }
    let chunks = if dry_run { &[] } else { &part.bytes[..] }.chunks(CHUNK_BYTES);
    for chunk in chunks {
        if answers.send(Ok(written(Kind::Chunk(chunk.to_vec())))).await.is_err() {
            return false;
        }
    }
    true
}

async fn write(
    mut export: Export,
    (of, dry_run): (UnitCode, bool),
    answers: Answers<pb::CourierExportResponse>,
) {
    loop {
        match export.next().await {
            Ok(Some(part)) => {
                if !send(part, dry_run, &answers).await {
                    return;
                }
            }
            Ok(None) => break,
            Err(error) => {
                // Nobody may listen any more.
                answers.send(Err(to_status(error))).await.ok();
                return;
            }
        }
    }
    let report = exported(&of, export.exported());
    let report = written(pb::courier_export_response::Kind::Report(report));
    answers.send(Ok(report)).await.ok();
}

/// Takes the rest of the upload in.
async fn collect(parts: &mut Streaming<pb::CourierImportRequest>) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    while let Some(pb::CourierImportRequest { part }) = parts.message().await? {
        match part {
            Some(pb::courier_import_request::Part::Chunk(chunk)) => {
                if (bytes.len() + chunk.len()) as u64 > MAX_FILE_BYTES {
                    return Err(to_status(Error::TooLarge));
                }
                bytes.extend_from_slice(&chunk);
            }
            Some(pb::courier_import_request::Part::Options(_)) => {
                return Err(Status::invalid_argument("options come once, in the first message"));
            }
            None => return Err(Status::invalid_argument("a message is empty")),
        }
    }
    Ok(bytes)
}

#[tonic::async_trait]
impl pb::courier_service_server::CourierService for CourierHandler {
    type ExportStream =
        Pin<Box<dyn Stream<Item = Result<pb::CourierExportResponse, Status>> + Send>>;

    async fn export(
        &self,
        request: Request<pb::CourierExportRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let by = caller(&request)?.actor;
        let request = request.into_inner();
        let of = unit(&request.unit)?;
        let hosted = self.units.find(&of).map_err(to_status)?;
        let order = ExportOrder {
            to: named(&request.to)?,
            max_bytes: request.max_bytes,
            dry_run: request.dry_run,
            by,
        };
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let export = Export::begin(hosted, Arc::clone(&self.codec), order).await;
        let export = export.map_err(to_status)?;
        let (answers, waiting) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            write(export, (of, request.dry_run), answers).await;
            drop(turn);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(waiting))))
    }

    type ImportStream =
        Pin<Box<dyn Stream<Item = Result<pb::CourierImportResponse, Status>> + Send>>;

    async fn import(
        &self,
        request: Request<Streaming<pb::CourierImportRequest>>,
    ) -> Result<Response<Self::ImportStream>, Status> {
        use pb::courier_import_response::Kind;
        let by = caller(&request)?.actor;
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|first| first.part);
        let Some(pb::courier_import_request::Part::Options(options)) = first else {
            return Err(Status::invalid_argument("the first message holds the options"));
        };
        let unit = named(&options.unit)?;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let bytes = collect(&mut parts).await?.into();
        let order = ImportOrder { unit, bytes, dry_run: options.dry_run, by };
        let (answers, waiting) = mpsc::channel(WAITING);
        let (units, codec) = (Arc::clone(&self.units), Arc::clone(&self.codec));
        // Goes on to its end even if the caller goes away.
        tokio::spawn(async move {
            let told = |Progress { deliveries, of }| {
                let progress = Kind::Progress(pb::CourierProgress { deliveries, of });
                // Whoever reads slowly sees less of it.
                answers.try_send(Ok(pb::CourierImportResponse { kind: Some(progress) })).ok();
            };
            let done = courier::import(&units, codec.as_ref(), order, &told).await;
            let answer = done.map_err(to_status).map(|done| pb::CourierImportResponse {
                kind: Some(Kind::Report(imported(&done))),
            });
            answers.send(answer).await.ok();
            drop(turn);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(waiting))))
    }

    async fn status(
        &self,
        request: Request<pb::CourierStatusRequest>,
    ) -> Result<Response<pb::CourierStatusResponse>, Status> {
        let hosted = self.units.find(&unit(&request.into_inner().unit)?).map_err(to_status)?;
        let peers = courier::status(&hosted).await.map_err(to_status)?;
        let peers = peers.iter().map(peer).collect();
        Ok(Response::new(pb::CourierStatusResponse { peers }))
    }
}
