//! `TransferService`.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use lianxi_proto::admin::v1 as pb;
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::{self, File, OpenOptions},
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    access::caller,
    epochs::approvers,
    status::{to_status, unit},
};
use crate::{
    services::transfer::{ExportOrder, ImportOrder, Move, Transfers, read_request, request_text},
    statement::transfer::addresses,
};

/// Bytes of one chunk.
const CHUNK_BYTES: usize = 256 * 1024;

/// Chunks that wait for a slow reader.
const AHEAD: usize = 4;

/// Largest file that is taken in.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024 * 1024;

/// Serves moves of units between hosts.
#[derive(Clone)]
pub struct TransferHandler {
    transfers: Arc<dyn Transfers>,
}

impl std::fmt::Debug for TransferHandler {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("TransferHandler")
    }
}

impl TransferHandler {
    /// A handler over what the host does.
    pub fn new(transfers: Arc<dyn Transfers>) -> Self {
        Self { transfers }
    }

    /// Takes an upload in beside its name; whoever is cut off leaves nothing.
    async fn take(&self, mut chunks: Streaming<pb::UnitFileChunk>) -> Result<Taken, Status> {
        let directory = self.transfers.uploads();
        let failed = |error: std::io::Error| Status::internal(format!("cannot keep it: {error}"));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .await
            .map_err(failed)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| Status::internal(error.to_string()))?;
        let path = directory.join(format!("upload-{}.new", hex::encode(random)));
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path).await;
        let mut file = file.map_err(failed)?;
        let (mut sha256, mut size_bytes) = (Sha256::new(), 0_u64);
        let taken = async {
            while let Some(pb::UnitFileChunk { chunk }) = chunks.message().await? {
                size_bytes += chunk.len() as u64;
                if size_bytes > MAX_FILE_BYTES {
                    return Err(Status::resource_exhausted("the file has over 64 GiB"));
                }
                sha256.update(&chunk);
                file.write_all(&chunk).await.map_err(failed)?;
            }
            file.sync_all().await.map_err(failed)
        };
        if let Err(status) = taken.await {
            fs::remove_file(&path).await.map_err(failed)?;
            return Err(status);
        }
        let sha256: [u8; 32] = sha256.finalize().into();
        let kept = directory.join(format!("in-{}.sealed", hex::encode(sha256)));
        fs::rename(&path, kept).await.map_err(failed)?;
        Ok(Taken { sha256, size_bytes })
    }
}

struct Taken {
    sha256: [u8; 32],
    size_bytes: u64,
}

fn shown(shown: Move) -> pb::UnitMove {
    let count = |kind: &str| {
        let count = shown.open.iter().filter(|item| item.kind == kind).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    };
    let (notices, escalations) = (count("notice"), count("escalation"));
    let open = shown.open.iter().map(|item| pb::MovedCase {
        kind: item.kind.to_owned(),
        number: item.number.clone(),
        party: item.party.to_string(),
    });
    let children = shown.children.iter();
    let children =
        children.map(|(unit, knows)| pb::MovedChild { unit: unit.to_string(), knows: *knows });
    pb::UnitMove {
        records: shown.records,
        notices,
        escalations,
        // Each open item has one limit that runs.
        clocks: notices.saturating_add(escalations),
        open: open.collect(),
        unsent: shown.unsent,
        children: children.collect(),
        rows: shown.facts.rows,
        keys: u32::try_from(shown.facts.keys).unwrap_or(u32::MAX),
        size_bytes: shown.facts.size_bytes,
        sha256: shown.sha256.map(Vec::from).unwrap_or_default(),
        stopped_unix_ms: shown.stopped_unix_ms,
        epoch: shown.epoch,
        unit: shown.unit,
        from_host: shown.from_host,
        to_host: shown.to_host,
        addresses: shown.addresses,
        accounts: shown.accounts,
        confirmation: shown.confirmation,
    }
}

fn requested(text: &str) -> Result<crate::statement::transfer::Request, Status> {
    read_request(text).map_err(to_status)
}

fn digest(bytes: &[u8]) -> Result<[u8; 32], Status> {
    bytes.try_into().map_err(|_| Status::invalid_argument("sha256 has 32 bytes"))
}

async fn send_file(mut file: File, sender: mpsc::Sender<Result<pb::UnitFileChunk, Status>>) {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let read = (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).await;
        let next = match read {
            Ok(0) => return,
            Ok(_) => Ok(pb::UnitFileChunk { chunk }),
            Err(error) => Err(Status::internal(format!("cannot read the file: {error}"))),
        };
        let failed = next.is_err();
        if sender.send(next).await.is_err() || failed {
            return;
        }
    }
}

#[tonic::async_trait]
impl pb::transfer_service_server::TransferService for TransferHandler {
    type DownloadStream = Pin<Box<dyn Stream<Item = Result<pb::UnitFileChunk, Status>> + Send>>;

    async fn receive(
        &self,
        request: Request<pb::ReceiveUnitRequest>,
    ) -> Result<Response<pb::ReceiveUnitResponse>, Status> {
        let by = caller(&request)?.actor;
        let request = request.into_inner();
        let given = addresses("addresses", request.addresses);
        let given = given.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let received = self.transfers.receive(&unit(&request.unit)?, given, by).await;
        let received = received.map_err(to_status)?;
        let request = request_text(&received);
        Ok(Response::new(pb::ReceiveUnitResponse { request, addresses: received.addresses }))
    }

    async fn announce(
        &self,
        request: Request<pb::AnnounceMoveRequest>,
    ) -> Result<Response<pb::UnitMove>, Status> {
        let by = caller(&request)?.actor;
        let request = request.into_inner();
        let (code, to) = (unit(&request.unit)?, requested(&request.to)?);
        let announced = self.transfers.announce(&code, &to, by, request.dry_run).await;
        Ok(Response::new(shown(announced.map_err(to_status)?)))
    }

    async fn export(
        &self,
        request: Request<pb::ExportUnitRequest>,
    ) -> Result<Response<pb::UnitMove>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let order = ExportOrder {
            unit: unit(&request.unit)?,
            to: requested(&request.to)?,
            approvers: approvers(&caller, request.approved_by),
            by: caller.actor,
            leave_behind: request.leave_behind,
            dry_run: request.dry_run,
        };
        let exported = self.transfers.export_unit(order).await.map_err(to_status)?;
        Ok(Response::new(shown(exported)))
    }

    async fn download(
        &self,
        request: Request<pb::DownloadUnitRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let code = unit(&request.into_inner().unit)?;
        let path = self.transfers.exported(&code).await.map_err(to_status)?;
        let file = File::open(path).await;
        let file = file.map_err(|_| {
            Status::not_found(format!("the file is gone; run `lianxi unit export {code}` again"))
        })?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::spawn(send_file(file, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn upload(
        &self,
        request: Request<Streaming<pb::UnitFileChunk>>,
    ) -> Result<Response<pb::UploadUnitResponse>, Status> {
        let Taken { sha256, size_bytes } = self.take(request.into_inner()).await?;
        let unit = self.transfers.sealed_for(sha256).await.map_err(to_status)?;
        let (sha256, unit) = (sha256.to_vec(), unit.to_string());
        Ok(Response::new(pb::UploadUnitResponse { sha256, size_bytes, unit }))
    }

    async fn import(
        &self,
        request: Request<pb::ImportUnitRequest>,
    ) -> Result<Response<pb::UnitMove>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let order = ImportOrder {
            unit: unit(&request.unit)?,
            sha256: match request.sha256.as_slice() {
                [] => None,
                sha256 => Some(digest(sha256)?),
            },
            approvers: approvers(&caller, request.approved_by),
            by: caller.actor,
            dry_run: request.dry_run,
        };
        let imported = self.transfers.import_unit(order).await.map_err(to_status)?;
        Ok(Response::new(shown(imported)))
    }

    async fn confirm(
        &self,
        request: Request<pb::ConfirmMoveRequest>,
    ) -> Result<Response<pb::UnitMove>, Status> {
        let by = caller(&request)?.actor;
        let request = request.into_inner();
        let (code, word) = (unit(&request.unit)?, request.confirmation);
        let confirmed = self.transfers.confirm(&code, &word, by, request.dry_run).await;
        Ok(Response::new(shown(confirmed.map_err(to_status)?)))
    }
}
