//! Doing what a second person confirmed: the request that was kept goes to the handler that would
//! have had it at once, as the person who asked, if that person still may.

use http_body_util::{BodyExt as _, Full};
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{HeaderMap, Request},
    service::Routes,
};
use tower::Service as _;

use super::{
    Access, message,
    rules::{self, Target},
};
use crate::{domain::account::AccountName, services::accounts::Approval};

/// The way to the handlers, for a confirmation alone.
#[derive(Clone, Debug)]
pub struct Replay {
    access: Access,
    routes: Routes,
    uid: u32,
}

impl Replay {
    pub(super) fn new(access: Access, routes: Routes, uid: u32) -> Self {
        Self { access, routes, uid }
    }

    /// Does the act and returns the handler's serialised response.
    ///
    /// # Errors
    ///
    /// The person who asked may not any more; those of the handler.
    pub async fn run(
        mut self,
        approval: &Approval,
        request: Vec<u8>,
        confirmed_by: &AccountName,
    ) -> Result<Vec<u8>, Status> {
        let unknown = || Status::unimplemented("this node serves no such method");
        let rule = rules::find(&approval.path).ok_or_else(unknown)?;
        let identity = self.access.accounts.identity_of(&approval.asked_by).await;
        let gone = || Status::failed_precondition("the account that asked is closed or locked");
        let mut caller = Access::caller_of(identity.ok_or_else(gone)?, self.uid);
        let units = match rule.target {
            Target::Unit => message::units(&request)?,
            Target::EveryUnit | Target::AnyUnit => Vec::new(),
        };
        let permit = self.access.permit(rule, &caller, &units, false);
        permit.map_err(|refusal| refusal.status)?;
        caller.confirmed_by = Some(confirmed_by.clone());
        let mut call = Request::post(&approval.path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(Full::from(message::framed(&request))))
            .map_err(|error| Status::internal(error.to_string()))?;
        call.extensions_mut().insert(caller);
        let Ok(answer) = self.routes.call(call).await;
        let (head, body) = answer.into_parts();
        succeeded(&head.headers)?;
        let body = body.collect().await?;
        if let Some(trailers) = body.trailers() {
            succeeded(trailers)?;
        }
        Ok(message::unframed(&body.to_bytes())?.to_vec())
    }
}

fn succeeded(headers: &HeaderMap) -> Result<(), Status> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() != Code::Ok => Err(status),
        Some(_) | None => Ok(()),
    }
}
