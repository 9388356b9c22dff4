//! Clients of a host's local socket.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use lianxi_proto::{
    admin::v1::{
        courier_service_client::CourierServiceClient, journal_service_client::JournalServiceClient,
        node_service_client::NodeServiceClient, reform_service_client::ReformServiceClient,
    },
    local::v1::{
        ImportEvent, ImportOptions, ImportReport, ImportRequest, RowError,
        catalogue_service_client::CatalogueServiceClient,
        escalation_service_client::EscalationServiceClient, import_event, import_request,
        notice_service_client::NoticeServiceClient, pack_service_client::PackServiceClient,
        record_service_client::RecordServiceClient, summary_service_client::SummaryServiceClient,
    },
};
use tokio::net::UnixStream;
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};

/// Clients of one host.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to the socket at `path`, when first used.
    pub fn new(path: &Path) -> Self {
        let path: PathBuf = path.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Self { channel }
    }

    /// `NodeService`.
    pub fn node(&self) -> NodeServiceClient<Channel> {
        NodeServiceClient::new(self.channel.clone())
    }

    /// `JournalService`.
    pub fn journals(&self) -> JournalServiceClient<Channel> {
        JournalServiceClient::new(self.channel.clone())
    }

    /// `CourierService`.
    pub fn courier(&self) -> CourierServiceClient<Channel> {
        CourierServiceClient::new(self.channel.clone())
    }

    /// `ReformService`.
    pub fn reforms(&self) -> ReformServiceClient<Channel> {
        ReformServiceClient::new(self.channel.clone())
    }

    /// `CatalogueService`.
    pub fn catalogues(&self) -> CatalogueServiceClient<Channel> {
        CatalogueServiceClient::new(self.channel.clone())
    }

    /// `RecordService`.
    pub fn records(&self) -> RecordServiceClient<Channel> {
        RecordServiceClient::new(self.channel.clone())
    }

    /// `SummaryService`.
    pub fn summaries(&self) -> SummaryServiceClient<Channel> {
        SummaryServiceClient::new(self.channel.clone())
    }

    /// `NoticeService`.
    pub fn notices(&self) -> NoticeServiceClient<Channel> {
        NoticeServiceClient::new(self.channel.clone())
    }

    /// `PackService`.
    pub fn packs(&self) -> PackServiceClient<Channel> {
        PackServiceClient::new(self.channel.clone())
    }

    /// `EscalationService`.
    pub fn escalations(&self) -> EscalationServiceClient<Channel> {
        EscalationServiceClient::new(self.channel.clone())
    }

    /// Imports a file held in memory.
    pub async fn import(
        &self,
        options: ImportOptions,
        file: &[u8],
    ) -> Result<(ImportReport, Vec<RowError>), Status> {
        let mut parts = vec![ImportRequest { part: Some(import_request::Part::Options(options)) }];
        parts.extend(file.chunks(60_000).map(|chunk| ImportRequest {
            part: Some(import_request::Part::Chunk(chunk.to_vec())),
        }));
        let mut events = self.records().import(futures::stream::iter(parts)).await?.into_inner();
        let (mut report, mut errors) = (None, Vec::new());
        while let Some(ImportEvent { event }) = events.message().await? {
            match event {
                Some(import_event::Event::Report(last)) => report = Some(last),
                Some(import_event::Event::RowError(error)) => errors.push(error),
                Some(import_event::Event::Progress(_)) | None => {}
            }
        }
        let report = report.ok_or_else(|| Status::internal("the import ended without a report"))?;
        Ok((report, errors))
    }
}
