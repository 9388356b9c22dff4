//! The demo's pack: what all units reported, in one file beside the root key that proves it.

use std::path::PathBuf;

use anyhow::Context as _;
use futures::future::try_join_all;
use lianxi_proto::{admin::v1::CheckpointRequest, local::v1::ExportPackRequest};

use super::federation::Federation;
use crate::{
    commands::pack,
    durable::{self, Existing},
    texts::Text,
};

/// Time for 58 hosts on one machine to bring their statements.
const DEADLINE_MS: u32 = 120_000;

/// How long a journal's neighbours may take to cosign it.
const WITNESS_MS: u32 = 60_000;

/// The two files.
#[derive(Debug)]
pub(crate) struct Files {
    /// `pack.lianxi`.
    pub(crate) pack: PathBuf,
    /// `root.pub`.
    pub(crate) root: PathBuf,
    /// Statements in the pack.
    pub(crate) statements: u32,
}

impl Federation<'_> {
    /// Has every unit's journal cosigned as it stands, so that the pack names a witness for each
    /// report. Hosts do so by themselves every minute, which a demo does not wait for.
    ///
    /// # Errors
    ///
    /// A host does not answer.
    pub(crate) async fn witness(&self) -> anyhow::Result<()> {
        let units = self.plan.units();
        let witnessed = try_join_all(units.iter().map(async |unit| {
            let request = CheckpointRequest { unit: unit.code.clone(), wait_ms: WITNESS_MS };
            let answer = self.client(&unit.code)?.journals().checkpoint(request).await?;
            anyhow::Ok(!answer.into_inner().witnesses.is_empty())
        }))
        .await?;
        let count = witnessed.iter().filter(|is_witnessed| **is_witnessed).count();
        self.tell(Text::DemoWitnessed, &[&count, &units.len()]);
        Ok(())
    }

    /// Exports the period through the city, and writes pack and root key into the demo's directory.
    ///
    /// # Errors
    ///
    /// What the node says, or the pack does not hold.
    pub(crate) async fn export_pack(&self, period: &str) -> anyhow::Result<Files> {
        let unit = self.plan.root().code.clone();
        let client = self.client(&unit)?;
        let root_key = pack::root_key(&client, unit.clone()).await?;
        let request = ExportPackRequest {
            unit,
            period: period.to_owned(),
            deadline_ms: DEADLINE_MS,
            ..ExportPackRequest::default()
        };
        let (facts, bytes) = pack::export(&client, request, self.output).await?;
        let directory = self.home.path();
        let (pack, root) = (directory.join("pack.lianxi"), directory.join("root.pub"));
        durable::write(&pack, &bytes, Existing::Replace).context("cannot keep the pack")?;
        let text = root_key.to_string();
        durable::write(&root, text.as_bytes(), Existing::Replace).context("cannot keep the key")?;
        self.tell(Text::DemoPack, &[&pack.display(), &facts.statements]);
        Ok(Files { pack, root, statements: facts.statements })
    }
}
