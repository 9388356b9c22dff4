//! `RecordService`.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _};
use lianxi_proto::local::v1::{self as pb, import_event, import_request};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    access::caller,
    status::{to_status, unit},
};
use crate::{
    domain::journal::{Act, Actor},
    services::{
        host::Units,
        imports::{self, Event, Imports, Options, Report, RowError, Upload},
    },
};

const DEFAULT_PAGE: u32 = 100;
const MAX_PAGE: u32 = 1_000;

/// Events that wait for a slow reader.
const EVENTS: usize = 256;

/// Serves records of the hosted units.
#[derive(Clone)]
pub struct RecordHandler {
    units: Arc<Units>,
    imports: Arc<Imports>,
}

impl std::fmt::Debug for RecordHandler {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("RecordHandler")
    }
}

impl RecordHandler {
    /// A handler over the hosted units.
    pub fn new(units: Arc<Units>, imports: Arc<Imports>) -> Self {
        Self { units, imports }
    }

    /// Begins an import; one that is refused before its first row stands in the journal.
    async fn begin(&self, actor: Actor, options: Options) -> Result<Upload, Status> {
        let error = match self.imports.begin(options).await {
            Ok(upload) => return Ok(upload),
            Err(error) => error,
        };
        if let (Some(reason), Some(head)) = (refusal(&error), self.units.head()) {
            let act = Act::refused(actor, "record.import", "mapping", reason);
            head.unit.record(act).await.map_err(to_status)?;
        }
        Err(to_status(error))
    }
}

/// The word of the journal for a mapping that is refused; `None`: the host is at fault.
fn refusal(error: &imports::Error) -> Option<&'static str> {
    match error {
        imports::Error::Mapping(_) => Some("malformed"),
        imports::Error::RecordType { .. } => Some("unknown-type"),
        imports::Error::NoCatalogue(_) => Some("unknown-catalogue"),
        imports::Error::Kind(_)
        | imports::Error::Empty
        | imports::Error::Heading(_)
        | imports::Error::Gzip
        | imports::Error::TooLarge(_)
        | imports::Error::DiskFull(_)
        | imports::Error::Spool { .. }
        | imports::Error::Records(_)
        | imports::Error::Store(_)
        | imports::Error::Unreadable(_)
        | imports::Error::CutOff => None,
    }
}

fn event(event: import_event::Event) -> pb::ImportEvent {
    pb::ImportEvent { event: Some(event) }
}

fn row_error(error: RowError) -> pb::RowError {
    pb::RowError {
        line: error.line,
        column: error.column,
        record_path: error.record_path,
        schema_path: error.schema_path,
        reason: error.reason,
    }
}

fn progress(progress: Event) -> pb::ImportEvent {
    event(match progress {
        Event::Progress { rows, bytes_received, bytes_done } => {
            import_event::Event::Progress(pb::ImportProgress { rows, bytes_received, bytes_done })
        }
        Event::RowError(error) => import_event::Event::RowError(row_error(error)),
    })
}

fn report(report: Report) -> pb::ImportEvent {
    event(import_event::Event::Report(pb::ImportReport {
        import_id: report.import_id.to_string(),
        rows: report.rows,
        imported: report.imported,
        updated: report.updated,
        unchanged: report.unchanged,
        elsewhere: report.elsewhere,
        rejected: report.rejected,
        kept_nothing: report.kept_nothing,
        periods: report.periods.into_iter().collect(),
    }))
}

/// Takes the rest of the file in, then imports it.
async fn take(
    mut upload: Upload,
    mut parts: Streaming<pb::ImportRequest>,
    events: mpsc::Sender<Result<pb::ImportEvent, Status>>,
) -> Result<Report, Status> {
    while let Some(pb::ImportRequest { part }) = parts.message().await? {
        match part {
            Some(import_request::Part::Chunk(chunk)) => {
                upload.write(&chunk).await.map_err(to_status)?;
            }
            Some(import_request::Part::Options(_)) => {
                return Err(Status::invalid_argument("options come once, in the first message"));
            }
            None => return Err(Status::invalid_argument("a message is empty")),
        }
    }
    let (sender, mut receiver) = mpsc::channel(EVENTS);
    let forward = async {
        while let Some(next) = receiver.recv().await {
            // Nobody need listen: the import goes on.
            let _ = events.send(Ok(progress(next))).await;
        }
    };
    let (finished, ()) = tokio::join!(upload.finish(sender), forward);
    finished.map_err(to_status)
}

#[tonic::async_trait]
impl pb::record_service_server::RecordService for RecordHandler {
    type ImportStream = Pin<Box<dyn Stream<Item = Result<pb::ImportEvent, Status>> + Send>>;

    async fn import(
        &self,
        request: Request<Streaming<pb::ImportRequest>>,
    ) -> Result<Response<Self::ImportStream>, Status> {
        let actor = caller(&request)?.actor;
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|first| first.part);
        let Some(import_request::Part::Options(options)) = first else {
            return Err(Status::invalid_argument("the first message holds the options"));
        };
        let options = Options {
            mapping: options.mapping,
            all_or_nothing: options.all_or_nothing,
            dry_run: options.dry_run,
            file_name: options.file_name,
        };
        let upload = self.begin(actor, options).await?;
        let (sender, receiver) = mpsc::channel(EVENTS);
        tokio::spawn(async move {
            let last = take(upload, parts, sender.clone()).await.map(report);
            // The caller may have gone: what was imported stays.
            let _ = sender.send(last).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn count(
        &self,
        _request: Request<pb::CountRequest>,
    ) -> Result<Response<pb::CountResponse>, Status> {
        let mut units = Vec::new();
        for hosted in self.units.all() {
            let (records, bytes) = hosted.records.count().await.map_err(to_status)?;
            units.push(pb::UnitCount {
                unit: hosted.unit.code.to_string(),
                records,
                bytes,
                quota_bytes: hosted.records.quota_bytes().unwrap_or_default(),
            });
        }
        Ok(Response::new(pb::CountResponse { units }))
    }

    async fn list(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<pb::ListResponse>, Status> {
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let limit = match request.limit {
            0 => DEFAULT_PAGE,
            over if over > MAX_PAGE => {
                return Err(Status::invalid_argument("a page has at most 1,000 records"));
            }
            limit => limit,
        };
        let after = Some(request.after.as_str()).filter(|after| !after.is_empty());
        let kept = hosted
            .records
            .list(&request.record_type, after, limit as usize)
            .await
            .map_err(to_status)?;
        let records = kept
            .into_iter()
            .map(|kept| pb::Record { key: kept.key, document: kept.document })
            .collect();
        Ok(Response::new(pb::ListResponse { records }))
    }
}
