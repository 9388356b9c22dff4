//! `CatalogueService`.

use std::sync::Arc;

use lianxi_proto::local::v1 as pb;
use tonic::{Request, Response, Status};

use super::status::{to_status, unit};
use crate::services::{host::Units, previews::UnderCatalogue};

/// Serves catalogues of the hosted units.
#[derive(Clone, Debug)]
pub struct CatalogueHandler {
    units: Arc<Units>,
}

impl CatalogueHandler {
    /// A handler over the hosted units.
    pub fn new(units: Arc<Units>) -> Self {
        Self { units }
    }
}

#[tonic::async_trait]
impl pb::catalogue_service_server::CatalogueService for CatalogueHandler {
    async fn publish(
        &self,
        request: Request<pb::PublishCatalogueRequest>,
    ) -> Result<Response<pb::PublishCatalogueResponse>, Status> {
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let published = hosted
            .catalogues
            .publish(&request.document, request.dry_run)
            .await
            .map_err(to_status)?;
        Ok(Response::new(pb::PublishCatalogueResponse {
            name: published.name,
            version: published.version,
            children: u32::try_from(published.children).unwrap_or(u32::MAX),
            statement_id: published
                .statement_id
                .map(|id| id.as_bytes().to_vec())
                .unwrap_or_default(),
        }))
    }

    async fn preview(
        &self,
        request: Request<pb::PreviewCatalogueRequest>,
    ) -> Result<Response<pb::PreviewCatalogueResponse>, Status> {
        let request = request.into_inner();
        let hosted = self.units.find(&unit(&request.unit)?).map_err(to_status)?;
        let preview = hosted.previews.of_catalogue(&request.document).await.map_err(to_status)?;
        Ok(Response::new(pb::PreviewCatalogueResponse {
            name: preview.name,
            version: preview.version,
            format: preview.format,
            children: preview.children.into_iter().map(under_catalogue).collect(),
        }))
    }

    async fn show(
        &self,
        request: Request<pb::ShowCatalogueRequest>,
    ) -> Result<Response<pb::ShowCatalogueResponse>, Status> {
        let code = unit(&request.into_inner().unit)?;
        let hosted = self.units.find(&code).map_err(to_status)?;
        let in_force = hosted.catalogues.in_force().ok_or_else(|| {
            Status::not_found(format!(
                "unit {code} has no catalogue yet; publish one at the city with `lianxi catalogue publish`"
            ))
        })?;
        Ok(Response::new(pb::ShowCatalogueResponse {
            name: in_force.catalogue.name.clone(),
            version: in_force.catalogue.version,
            document: in_force.document.to_vec(),
            source: in_force.source.to_string(),
        }))
    }
}

fn under_catalogue(under: UnderCatalogue) -> pb::ChildUnderCatalogue {
    let UnderCatalogue { child, period, broken, behind } = under;
    let program = child.heard.map(|heard| heard.program);
    pb::ChildUnderCatalogue {
        unit: child.unit.to_string(),
        title: child.title,
        catalogue_format: program.as_ref().map_or(0, |program| program.catalogue_format),
        software: program.map(|program| program.software).unwrap_or_default(),
        outlook: child.outlook.as_str().to_owned(),
        period: period.unwrap_or_default(),
        removed: broken.removed.into_iter().collect(),
        changed: broken.changed.into_iter().collect(),
        behind,
    }
}
