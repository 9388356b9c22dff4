//! Certificates are made anew from half of their life on and used without a restart: open links go
//! on, the next ones show the new ones.

use std::{sync::Arc, time::Duration};

use super::{Host, setup};
use crate::{
    clock::UnixMillis,
    domain::{
        journal::{Act, Actor},
        unit::UnitCode,
    },
    grpc::{enrolment::GrpcDoor, status::chain},
    identity::{certificates, keys::UnitKeys},
    services::{
        enrolments::{Identity, Renewed, Renewing},
        error::{ErrorKind, ServiceError as _},
        host::{NotHosted, OperationError, RenewedUnit},
        rotations::Rotation,
    },
};

/// Time between two looks: short against a life of 30 days, even where a parent is away for long.
const LOOK: Duration = Duration::from_secs(3_600);

/// Time to the next look while a unit has no valid certificate: its link is down for as long.
const SOON: Duration = Duration::from_secs(60);

/// Looks after the certificates of all units, for ever.
pub(super) async fn run(host: Arc<Host>) {
    loop {
        host.renew_certificates().await;
        let pause = if host.has_expired().await { SOON } else { LOOK };
        // Half of the pause is drawn, so that the hosts of a city do not look in step.
        tokio::time::sleep(pause / 2 + (pause / 2).mul_f64(drawn())).await;
    }
}

/// A number from 0 up to 1.
fn drawn() -> f64 {
    let mut random = [0; 2];
    getrandom::fill(&mut random).expect("invariant: the operating system gives random bytes");
    f64::from(u16::from_be_bytes(random)) / 65_536.0
}

impl Host {
    /// Renews the certificates that are due; returns the units whose were. What cannot be renewed
    /// is logged, and tried again at the next look.
    pub async fn renew_certificates(&self) -> Vec<UnitCode> {
        let mut renewed = Vec::new();
        for hosted in self.units().all() {
            let unit = hosted.unit.code.clone();
            let due = match self.identity(&unit).await {
                Ok(identity) => identity.is_due(self.clock.now_unix_ms()),
                Err(_) => true,
            };
            if !due {
                continue;
            }
            match self.renew_unit(&unit).await {
                Ok(_) => {
                    tracing::info!(%unit, "certificates renewed");
                    renewed.push(unit);
                }
                Err(error) => tracing::warn!(%unit, %error, "certificates not renewed"),
            }
        }
        renewed
    }

    /// True while a hosted unit has no valid certificate for its parent or its children.
    async fn has_expired(&self) -> bool {
        for hosted in self.units().all() {
            let unit = self.identity(&hosted.unit.code).await;
            if unit.is_ok_and(|unit| unit.has_expired(self.clock.now_unix_ms())) {
                return true;
            }
        }
        false
    }

    pub(super) async fn identity(&self, unit: &UnitCode) -> Result<Identity, OperationError> {
        let identity = Identity::load(self.store.as_ref(), unit).await;
        let identity = identity.map_err(|error| failed(&error))?;
        let mut identity = identity.ok_or_else(|| OperationError {
            kind: ErrorKind::NotFound,
            text: NotHosted(unit.clone()).to_string(),
        })?;
        if let Some(hosted) = self.units().get(unit) {
            identity.update_pin(&hosted.unit.trust());
        }
        Ok(identity)
    }

    /// How a hosted unit stands before it is renewed.
    pub(super) async fn renewal_of(&self, unit: &UnitCode) -> Result<RenewedUnit, OperationError> {
        let ends = end_of(&self.identity(unit).await?)?;
        Ok(self.renewed(unit, ends, ends))
    }

    fn renewed(&self, unit: &UnitCode, before: UnixMillis, ends: UnixMillis) -> RenewedUnit {
        let hosted = self.units().get(unit);
        let delegation_ends = hosted.and_then(|hosted| {
            let trust = hosted.unit.trust();
            trust.delegation(unit, None).map(|known| known.delegation.not_after_unix_ms)
        });
        RenewedUnit {
            unit: unit.clone(),
            certificate_ended_unix_ms: before,
            certificate_ends_unix_ms: ends,
            delegation_ends_unix_ms: delegation_ends.unwrap_or_default(),
        }
    }

    /// Renews the certificates of a hosted unit. The one for its children is renewed even if the
    /// parent is away.
    pub(super) async fn renew_unit(&self, unit: &UnitCode) -> Result<RenewedUnit, OperationError> {
        let _turn = self.renewing.lock().await;
        let identity = self.identity(unit).await?;
        let before = end_of(&identity)?;
        let place = setup::keys_place(&self.config, &self.lock, unit);
        let keys = UnitKeys::load(place).map_err(|error| failed(&error))?;
        let door = GrpcDoor::new(Arc::clone(&self.clock));
        let renewing = Renewing {
            identity: &identity,
            keys: &keys,
            host: &self.config.host.name,
            door: &door,
            clock: Arc::clone(&self.clock),
        };
        let Renewed { identity, chain, failed: refused } =
            renewing.run().await.map_err(|error| failed(&error))?;
        let act = Act::done(Actor::node(), "node.renew", unit.as_str());
        let kept = identity.persist(self.store.as_ref(), self.clock.now_unix_ms(), act).await;
        kept.map_err(|error| failed(&error))?;
        let ends = end_of(&identity)?;
        let former = Rotation::former_ca(self.store.as_ref(), unit).await;
        let tls = identity.tls(&keys).accepting(former.map_err(|error| failed(&error))?);
        self.show(&tls, ends).map_err(|error| failed(&error))?;
        if let Some(hosted) = self.units().get(unit) {
            hosted.unit.learn(&chain).await.map_err(|error| failed(&error))?;
        }
        match refused {
            None => Ok(self.renewed(unit, before, ends)),
            Some(error) => Err(setup::failed(error.kind(), &error)),
        }
    }
}

/// End of the certificate that a unit shows its parent, or else its children.
pub(super) fn end_of(identity: &Identity) -> Result<UnixMillis, OperationError> {
    let shown = identity.client_certificate.as_ref().unwrap_or(&identity.server_certificate);
    Ok(certificates::read(shown).map_err(|error| failed(&error))?.not_after_unix_ms)
}

fn failed(error: &dyn std::error::Error) -> OperationError {
    OperationError { kind: ErrorKind::Internal, text: chain(error) }
}
