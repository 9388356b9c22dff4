//! Certificates are made anew at half of their life and used without a restart: open links go on,
//! the next ones show the new ones.

use std::{sync::Arc, time::Duration};

use super::{Host, setup};
use crate::{
    domain::{
        journal::{Act, Actor},
        unit::UnitCode,
    },
    grpc::{enrolment::GrpcDoor, status::chain},
    identity::{certificates, keys::UnitKeys},
    services::{
        enrolments::{Identity, Renewing},
        error::ErrorKind,
        host::OperationError,
    },
};

/// Time between two looks: short against a life of 30 days, even where a parent is away for long.
const LOOK: Duration = Duration::from_secs(3_600);

/// Looks after the certificates of all units, for ever.
pub(super) async fn run(host: Arc<Host>) {
    loop {
        host.renew_certificates().await;
        tokio::time::sleep(LOOK).await;
    }
}

impl Host {
    /// Renews the certificates that are past half of their life; returns the units whose were.
    /// What cannot be renewed is logged, and tried again at the next look.
    pub async fn renew_certificates(&self) -> Vec<UnitCode> {
        let mut renewed = Vec::new();
        for hosted in self.units().all() {
            let unit = hosted.unit.code.clone();
            match self.renew(&unit).await {
                Ok(true) => {
                    tracing::info!(%unit, "certificates renewed");
                    renewed.push(unit);
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%unit, %error, "certificates not renewed"),
            }
        }
        renewed
    }

    async fn renew(&self, unit: &UnitCode) -> Result<bool, OperationError> {
        let store = self.store.as_ref();
        let identity = Identity::load(store, unit).await.map_err(|error| failed(&error))?;
        let Some(identity) = identity.filter(|one| one.is_due(self.clock.now_unix_ms())) else {
            return Ok(false);
        };
        let directory = setup::keys_directory(&self.config, unit);
        let keys = UnitKeys::load(&directory).map_err(|error| failed(&error))?;
        let door = GrpcDoor::new(Arc::clone(&self.clock));
        let renewing = Renewing {
            identity: &identity,
            keys: &keys,
            host: &self.config.host.name,
            door: &door,
            clock: Arc::clone(&self.clock),
        };
        let renewed = renewing.run().await.map_err(|error| failed(&error))?;
        let act = Act::done(Actor::node(), "node.renew", unit.as_str());
        let now = self.clock.now_unix_ms();
        renewed.persist(store, now, act).await.map_err(|error| failed(&error))?;
        let shown = renewed.client_certificate.as_ref().unwrap_or(&renewed.server_certificate);
        let certified = certificates::read(shown).map_err(|error| failed(&error))?;
        self.show(&renewed.tls(&keys), certified.not_after_unix_ms)
            .map_err(|error| failed(&error))?;
        Ok(true)
    }
}

fn failed(error: &dyn std::error::Error) -> OperationError {
    OperationError { kind: ErrorKind::Internal, text: chain(error) }
}
