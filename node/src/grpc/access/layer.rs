//! The gate in front of every handler of the local socket.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use tonic::{
    Status,
    body::Body,
    codegen::http::{Request, Response},
    metadata::MetadataValue,
    service::Routes,
    transport::server::UdsConnectInfo,
};
use tower::{Layer, Service};

use super::{
    Access, Caller, Permit, Refusal, bearer, message,
    replay::Replay,
    rules::{self, Confirmation, Rule, Target},
};
use crate::{
    domain::unit::UnitCode,
    services::accounts::{NewApproval, Second},
};

/// Largest request that is read before it is judged: what handlers take at most.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// Metadata that names the number under which an act waits for its second person.
const APPROVAL: &str = "lianxi-approval";

/// Puts the gate in front of handlers.
#[derive(Clone, Debug)]
pub struct AccessLayer {
    access: Access,
}

impl AccessLayer {
    /// A gate that `access` keeps.
    pub fn new(access: Access) -> Self {
        Self { access }
    }
}

impl Layer<Routes> for AccessLayer {
    type Service = Gate;

    fn layer(&self, routes: Routes) -> Gate {
        Gate { access: self.access.clone(), routes }
    }
}

/// Handlers behind their gate.
#[derive(Clone, Debug)]
pub struct Gate {
    access: Access,
    routes: Routes,
}

impl Service<Request<Body>> for Gate {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.routes, context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut gate = self.clone();
        Box::pin(async move {
            match gate.admit(request).await {
                Ok(request) => gate.routes.call(request).await,
                Err(refused) => Ok(refused.into_http()),
            }
        })
    }
}

impl Gate {
    /// Lets a request through with its caller, or answers it.
    async fn admit(&self, request: Request<Body>) -> Result<Request<Body>, Status> {
        let peer = request.extensions().get::<UdsConnectInfo>();
        let uid = peer.and_then(|peer| peer.peer_cred).map(|peer| peer.uid());
        let path = request.uri().path();
        let unknown = || Status::unimplemented("this node serves no such method");
        let rule = rules::find(path).ok_or_else(unknown)?;
        let caller = match self.access.identify(uid, bearer(request.headers())).await {
            Ok(caller) => caller,
            Err(refusal) => {
                let actor = uid.map_or_else(crate::domain::journal::Actor::node, |uid| {
                    crate::domain::journal::Actor::uid(uid)
                });
                return Err(self.access.refused(actor, rule.act, "", refusal).await);
            }
        };
        let (mut parts, body) = request.into_parts();
        let (message, body) = match needs_message(rule) {
            true => {
                let bytes = read(body).await?;
                (Some(bytes.clone()), Body::new(Full::new(bytes)))
            }
            false => (None, body),
        };
        let caller = self.judge(rule, caller, message.as_ref()).await?;
        if rule.path == rules::CONFIRM {
            let (access, routes) = (self.access.clone(), self.routes.clone());
            parts.extensions.insert(Replay::new(access, routes, caller.uid));
        }
        parts.extensions.insert(caller);
        Ok(Request::from_parts(parts, body))
    }

    async fn judge(
        &self,
        rule: &'static Rule,
        mut caller: Caller,
        framed: Option<&Bytes>,
    ) -> Result<Caller, Status> {
        let message = framed.map(|bytes| message::unframed(bytes)).transpose()?.unwrap_or_default();
        let units = match rule.target {
            Target::Unit => message::units(message)?,
            Target::EveryUnit | Target::AnyUnit => Vec::new(),
        };
        if let Err(refusal) = self.access.check_stands(rule, &units) {
            return Err(self.access.refused(caller.actor, rule.act, &list(&units), refusal).await);
        }
        let dry_run = rule.dry_run && message::is_dry_run(rule.path, message)?;
        match self.access.permit(rule, &caller, &units, dry_run) {
            Ok(Permit::Go(None)) => Ok(caller),
            Ok(Permit::Go(Some(head))) => {
                caller.actor = caller.actor.on_behalf_of(head.as_str());
                Ok(caller)
            }
            Ok(Permit::Ask(second)) => Err(self.ask(rule, &caller, second, message).await),
            Err(refusal) => {
                Err(self.access.refused(caller.actor, rule.act, &list(&units), refusal).await)
            }
        }
    }

    /// Keeps the act for a second person; the answer says under which number.
    async fn ask(
        &self,
        rule: &'static Rule,
        caller: &Caller,
        second: Second,
        message: &[u8],
    ) -> Status {
        let Some(identity) = &caller.identity else {
            return Refusal::unknown("no-account").status;
        };
        let subject = match message::subject(rule, message) {
            Ok(subject) => subject,
            Err(status) => return status,
        };
        let asked = self.access.accounts.ask(NewApproval {
            asked_by: identity.name.clone(),
            path: rule.path.to_owned(),
            act: rule.act,
            subject,
            second,
            message: message.to_vec(),
        });
        match asked.await {
            Ok(approval) => {
                let id = approval.id;
                let mut status = Status::failed_precondition(format!(
                    "a second person has to confirm this: it waits under the number {id}, see \
                     `lianxi approval list`"
                ));
                status.metadata_mut().insert(APPROVAL, MetadataValue::from(id));
                status
            }
            Err(error) => super::super::status::to_status(error),
        }
    }
}

fn needs_message(rule: &Rule) -> bool {
    rule.target == Target::Unit || rule.confirmation != Confirmation::None
}

async fn read(body: Body) -> Result<Bytes, Status> {
    let too_large = |_| Status::resource_exhausted("a request has at most 4 MiB");
    let read = Limited::new(body, MAX_REQUEST_BYTES + message::FRAME_BYTES).collect().await;
    Ok(read.map_err(too_large)?.to_bytes())
}

fn list(units: &[UnitCode]) -> String {
    units.iter().map(UnitCode::as_str).collect::<Vec<_>>().join(" ")
}
