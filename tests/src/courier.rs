//! Files across an air gap, as a person with a stick carries them.

use lianxi_proto::admin::v1::{
    CourierExportRequest, CourierExported, CourierImportOptions, CourierImportRequest,
    CourierImported, CourierPeer, CourierStatusRequest, courier_export_response::Kind as Written,
    courier_import_request::Part, courier_import_response::Kind as Took,
};
use tonic::Status;

use crate::federation::Federation;

/// Bytes of a file in one message.
const CHUNK_BYTES: usize = 512 * 1024;

/// Files of one export.
#[derive(Clone, Debug)]
pub struct Files {
    /// The files, in their order.
    pub files: Vec<Vec<u8>>,
    /// What the node says of them.
    pub report: CourierExported,
}

impl Federation {
    /// Writes what waits at `unit` for `to`, in files of at most `max_bytes` (0: the usual limit).
    pub async fn courier_files(
        &self,
        unit: &str,
        to: &str,
        max_bytes: u64,
    ) -> Result<Files, Status> {
        let request = CourierExportRequest {
            unit: unit.to_owned(),
            to: to.to_owned(),
            max_bytes,
            dry_run: false,
        };
        let mut answers = self.client(unit).courier().export(request).await?.into_inner();
        let (mut files, mut report) = (Vec::<Vec<u8>>::new(), None);
        while let Some(answer) = answers.message().await? {
            match answer.kind.unwrap() {
                Written::File(_) => files.push(Vec::new()),
                Written::Chunk(chunk) => files.last_mut().unwrap().extend(chunk),
                Written::Report(last) => report = Some(last),
            }
        }
        Ok(Files { files, report: report.unwrap() })
    }

    /// The one file of [`Self::courier_files`] with the usual limit.
    pub async fn courier_file(&self, unit: &str, to: &str) -> Vec<u8> {
        let mut written = self.courier_files(unit, to, 0).await.unwrap();
        assert_eq!(written.files.len(), 1);
        written.files.pop().unwrap()
    }

    /// Takes a file in at the host of `at`.
    pub async fn take_file(&self, at: &str, file: &[u8]) -> Result<CourierImported, Status> {
        self.take_file_as(at, file, CourierImportOptions::default()).await
    }

    /// Takes a file in at the host of `at`.
    pub async fn take_file_as(
        &self,
        at: &str,
        file: &[u8],
        options: CourierImportOptions,
    ) -> Result<CourierImported, Status> {
        let mut parts = vec![CourierImportRequest { part: Some(Part::Options(options)) }];
        parts.extend(
            file.chunks(CHUNK_BYTES)
                .map(|chunk| CourierImportRequest { part: Some(Part::Chunk(chunk.to_vec())) }),
        );
        let answers = self.client(at).courier().import(futures::stream::iter(parts)).await?;
        let mut answers = answers.into_inner();
        let mut report = None;
        while let Some(answer) = answers.message().await? {
            if let Some(Took::Report(last)) = answer.kind {
                report = Some(last);
            }
        }
        report.ok_or_else(|| Status::internal("the import ended without a report"))
    }

    /// Carries everything from `from` to `to`, once.
    pub async fn carry(&self, from: &str, to: &str) -> CourierImported {
        let file = self.courier_file(from, to).await;
        self.take_file(to, &file).await.unwrap()
    }

    /// What `unit` says of the courier to and from `peer`.
    pub async fn courier_state(&self, unit: &str, peer: &str) -> CourierPeer {
        let request = CourierStatusRequest { unit: unit.to_owned() };
        let peers = self.client(unit).courier().status(request).await.unwrap().into_inner().peers;
        peers.into_iter().find(|state| state.peer == peer).unwrap()
    }
}
