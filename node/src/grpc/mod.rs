//! What the host serves over gRPC: enrolment on the link address, everything else on the local
//! socket. Handlers parse, call, convert; errors are mapped once, in [`status`].

pub mod access;
pub mod accounts;
pub mod approvals;
pub mod catalogues;
pub mod courier;
pub mod enrolment;
mod epochs;
pub mod escalations;
pub mod journal;
pub mod nodes;
pub mod notices;
pub mod packs;
mod quarantine;
pub mod records;
pub mod reforms;
pub mod status;
pub mod summaries;
pub mod transfers;

use std::sync::Arc;

use lianxi_proto::{
    admin::v1::{
        account_service_server::AccountServiceServer,
        approval_service_server::ApprovalServiceServer,
        courier_service_server::CourierServiceServer, journal_service_server::JournalServiceServer,
        node_service_server::NodeServiceServer, reform_service_server::ReformServiceServer,
        transfer_service_server::TransferServiceServer,
    },
    local::v1::{
        catalogue_service_server::CatalogueServiceServer,
        escalation_service_server::EscalationServiceServer,
        notice_service_server::NoticeServiceServer, pack_service_server::PackServiceServer,
        record_service_server::RecordServiceServer, summary_service_server::SummaryServiceServer,
    },
};
use tonic::service::Routes;

use crate::{
    clock::Clock,
    services::{
        accounts::Accounts,
        courier::Codec,
        host::{Operations, Units},
        imports::Imports,
        transfer::Transfers,
    },
    store::Store,
};

/// Everything that the local socket serves.
pub fn local_services(
    units: &Arc<Units>,
    imports: &Arc<Imports>,
    store: &Arc<dyn Store>,
    (operations, transfers): (Arc<dyn Operations>, Arc<dyn Transfers>),
    retention_days: u32,
) -> Routes {
    let units = || Arc::clone(units);
    let nodes = nodes::NodeHandler::new(units(), operations, Arc::clone(store));
    let records = records::RecordHandler::new(units(), Arc::clone(imports));
    let journal = journal::JournalHandler::new(units(), retention_days);
    Routes::new(NodeServiceServer::new(nodes))
        .add_service(JournalServiceServer::new(journal))
        .add_service(ReformServiceServer::new(reforms::ReformHandler::new(units())))
        .add_service(TransferServiceServer::new(transfers::TransferHandler::new(transfers)))
        .add_service(RecordServiceServer::new(records))
        .add_service(CatalogueServiceServer::new(catalogues::CatalogueHandler::new(units())))
        .add_service(SummaryServiceServer::new(summaries::SummaryHandler::new(units())))
        .add_service(PackServiceServer::new(packs::PackHandler::new(units())))
        .add_service(NoticeServiceServer::new(notices::NoticeHandler::new(units())))
        .add_service(EscalationServiceServer::new(escalations::EscalationHandler::new(units())))
}

/// The services of people beside the others.
pub fn with_people(routes: Routes, accounts: &Arc<Accounts>, clock: &Arc<dyn Clock>) -> Routes {
    let approvals = approvals::ApprovalHandler::new(Arc::clone(accounts), Arc::clone(clock));
    let accounts = accounts::AccountHandler::new(Arc::clone(accounts));
    routes
        .add_service(AccountServiceServer::new(accounts))
        .add_service(ApprovalServiceServer::new(approvals))
}

/// The service of courier files beside the others, in the frames of `codec`.
pub fn with_courier(routes: Routes, units: &Arc<Units>, codec: Arc<dyn Codec>) -> Routes {
    let courier = courier::CourierHandler::new(Arc::clone(units), codec);
    routes.add_service(CourierServiceServer::new(courier))
}
