//! The gate in front of every handler of the local socket.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tonic::{
    Status,
    body::Body,
    codegen::http::{Request, Response},
    service::Routes,
    transport::server::UdsConnectInfo,
};
use tower::{Layer, Service};

use super::{Access, rules};

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
        Gate { access: self.access, routes }
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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.judge(&mut request) {
            Ok(()) => {
                let answer = self.routes.call(request);
                Box::pin(answer)
            }
            Err(refused) => Box::pin(std::future::ready(Ok(refused.into_http()))),
        }
    }
}

impl Gate {
    fn judge(&self, request: &mut Request<Body>) -> Result<(), Status> {
        let peer = request.extensions().get::<UdsConnectInfo>();
        let uid = peer.and_then(|peer| peer.peer_cred).map(|peer| peer.uid());
        let caller = self.access.identify(uid)?;
        if rules::find(request.uri().path()).is_none() {
            return Err(Status::unimplemented("this node serves no such method"));
        }
        request.extensions_mut().insert(caller);
        Ok(())
    }
}
