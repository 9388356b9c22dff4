//! Keys are changed while the host runs: each step as soon as what it waits for is there, and
//! again after a stop.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{Host, setup};
use crate::{
    domain::{
        journal::{Act, Actor},
        rotation::{Facts, Replaced, Step},
        unit::UnitCode,
    },
    grpc::{enrolment::GrpcDoor, status::chain},
    identity::{
        issue,
        keys::{self, NextKeys, RootKey},
        tls::UnitTls,
    },
    services::{
        enrolments::{Door, DoorError, Identity, JoinError, replacing},
        error::{ErrorKind, ServiceError as _},
        host::OperationError,
        hosted::Hosted,
        rotations::{self, Progress, Rotation},
    },
    statement::{Envelope, rotation::KeyRequest},
    store,
};

/// Time between two looks at a change that is under way: a step costs no more than some reads.
const LOOK: Duration = Duration::from_secs(1);

/// Time to the next try where a step failed, e.g. because the parent is away.
const AGAIN: Duration = Duration::from_secs(15);

/// Looks after the changes of all units, for ever.
pub(super) async fn run(host: Arc<Host>) {
    loop {
        let (mut under_way, mut has_failed) = (false, false);
        for hosted in host.units().all() {
            let unit = &hosted.unit.code;
            let advanced = host.advance(&hosted).await;
            under_way |= *advanced.as_ref().unwrap_or(&true);
            has_failed |= advanced.is_err();
            host.note_failure(unit, advanced.err());
        }
        let pause = match (under_way, has_failed) {
            (_, true) => AGAIN,
            (true, false) => LOOK,
            (false, false) => Duration::MAX,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = host.rotating.notified() => {}
        }
    }
}

impl Host {
    /// Begins to change keys of a hosted unit, or says what would be changed.
    pub(super) async fn rotate(
        &self,
        unit: &UnitCode,
        replaced: &[Replaced],
        by: Actor,
        dry_run: bool,
    ) -> Result<Progress, OperationError> {
        let hosted = self.units().find(unit);
        let hosted = hosted.map_err(|error| setup::failed(error.kind(), &error))?;
        let begun = if replaced.contains(&Replaced::Root) {
            self.begin_root(&hosted, replaced, by.clone(), dry_run).await
        } else {
            self.begin(&hosted, replaced, by.clone(), dry_run).await
        };
        if let Err((reason, error)) = begun {
            let act = Act::refused(by, rotations::ACT, unit.as_str(), reason);
            hosted.unit.record(act).await.map_err(|error| failed(&error))?;
            return Err(error);
        }
        self.rotating.notify_one();
        let progress = self.rotation(&hosted).await?;
        progress.map_or_else(|| Ok(Progress::planned(replaced)), Ok)
    }

    async fn begin(
        &self,
        hosted: &Hosted,
        replaced: &[Replaced],
        by: Actor,
        dry_run: bool,
    ) -> Result<(), (&'static str, OperationError)> {
        let _turn = self.renewing.lock().await;
        let unit = &hosted.unit;
        let stored = |error: store::Error| ("store", failed(&error));
        let broken = |error: keys::Error| ("keys", failed(&error));
        let of_root = rotations::of_root(unit).await.map_err(stored)?;
        let rotation = Rotation::load(self.store.as_ref(), &unit.code).await.map_err(stored)?;
        if rotation.is_some() || of_root.is_some() {
            let text = "keys of this unit are being changed; see `lianxi node status`, and wait until that is done";
            return Err(("under-way", precondition(text)));
        }
        if let Some(known) = unit.trust().revoked(&unit.code, None) {
            return Err(("revoked", precondition(&crate::services::revocations::remedy(known))));
        }
        if dry_run {
            return Ok(());
        }
        let place = setup::keys_place(&self.config, &self.lock, &unit.code);
        // What a change left behind that was cut off before it was kept was shown to nobody.
        NextKeys::remove(&place).map_err(broken)?;
        let (keys, now) = (unit.keys(), self.clock.now_unix_ms());
        let names = (&unit.code, unit.trust_domain.as_str());
        let next = NextKeys::generate(replaced, keys.suite(), names, now).map_err(broken)?;
        next.save(&place, &keys).map_err(broken)?;
        let rotation = Rotation::new(replaced, &keys, &next, now);
        rotation.begin(unit, by).await.map_err(stored)?;
        unit.expect_keys(rotation.next_keys());
        Ok(())
    }

    /// How far the change of a hosted unit's keys is; `None`: there is none.
    pub(super) async fn rotation(
        &self,
        hosted: &Hosted,
    ) -> Result<Option<Progress>, OperationError> {
        let rotation = Rotation::load(self.store.as_ref(), &hosted.unit.code).await;
        let mut progress = match rotation.map_err(|error| failed(&error))? {
            Some(rotation) => {
                let facts = self.facts(hosted, &rotation).await?;
                rotation.progress(&hosted.unit, facts)
            }
            None => {
                let of_root = rotations::of_root(&hosted.unit).await;
                let Some(progress) = of_root.map_err(|error| failed(&error))? else {
                    return Ok(None);
                };
                progress
            }
        };
        let failures = self.rotation_failures.lock().unwrap_or_else(PoisonError::into_inner);
        progress.failure = failures.get(&hosted.unit.code).cloned().unwrap_or_default();
        Ok(Some(progress))
    }

    fn note_failure(&self, unit: &UnitCode, failure: Option<OperationError>) {
        let mut failures = self.rotation_failures.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &failure {
            Some(error) => failures.insert(unit.clone(), error.text.clone()),
            None => failures.remove(unit),
        };
        if let Some(error) = failure
            && before.as_ref() != Some(&error.text)
        {
            tracing::warn!(%unit, %error, "the change of keys waits");
        }
    }

    async fn facts(&self, hosted: &Hosted, rotation: &Rotation) -> Result<Facts, OperationError> {
        let facts = rotation.facts(hosted, self.overlap_ms()).await;
        let mut facts = facts.map_err(|error| failed(&error))?;
        let replaces_ca = rotation.replaced().contains(&Replaced::Ca);
        if let (true, Some(used)) = (replaces_ca, rotation.used_unix_ms()) {
            let enrolments = setup::enrolments_of(self, &hosted.unit.code)?;
            let before = enrolments.certified_before(used).await;
            facts.uncertified = before.map_err(|error| failed(&error))?;
        }
        Ok(facts)
    }

    fn overlap_ms(&self) -> i64 {
        i64::try_from(self.config.keys.overlap.as_millis()).unwrap_or(i64::MAX)
    }

    /// Does all steps that can be done; false if no change is under way.
    async fn advance(&self, hosted: &Hosted) -> Result<bool, OperationError> {
        loop {
            let _turn = self.renewing.lock().await;
            let rotation = Rotation::load(self.store.as_ref(), &hosted.unit.code).await;
            let Some(rotation) = rotation.map_err(|error| failed(&error))? else {
                return self.advance_root(hosted).await;
            };
            hosted.unit.expect_keys(rotation.next_keys());
            let facts = self.facts(hosted, &rotation).await?;
            if facts.in_use && rotation.used_unix_ms().is_none() {
                // Cut off between the files and the row.
                self.keep_used(hosted, rotation).await?;
                continue;
            }
            match facts.next(self.clock.now_unix_ms()) {
                Step::AwaitChildren | Step::AwaitDrain => return Ok(true),
                Step::AskForBoth => self.ask(hosted, &rotation, true).await?,
                Step::TakeIntoUse => self.take_into_use(hosted, rotation).await?,
                Step::GrantAnew => {
                    let granted = rotation.grant_anew(&hosted.unit).await;
                    granted.map_err(|error| failed(&error))?;
                }
                Step::AskForNew => self.ask(hosted, &rotation, false).await?,
                Step::Finish => {
                    self.finish(hosted, &rotation).await?;
                    return Ok(false);
                }
            }
        }
    }

    async fn keep_used(
        &self,
        hosted: &Hosted,
        mut rotation: Rotation,
    ) -> Result<(), OperationError> {
        if rotation.replaced().contains(&Replaced::Ca) {
            self.show_new_ca(hosted).await?;
        }
        rotation.keep_used(hosted).await.map_err(|error| failed(&error))?;
        // Neighbours are to have seen the journal up to here before the former keys end.
        hosted.journal.checkpoint().await.map_err(|error| failed(&error))?;
        Ok(())
    }

    /// Makes and shows a server certificate of the new CA; children's of the former one are taken.
    async fn show_new_ca(&self, hosted: &Hosted) -> Result<(), OperationError> {
        let (unit, keys) = (&hosted.unit.code, hosted.unit.keys());
        let now = self.clock.now_unix_ms();
        let before = self.identity(unit).await?;
        let client = before.client_certificate.clone();
        let tls = UnitTls::new(unit, &before.trust_domain, &keys, client, now);
        let tls = tls.map_err(|error| failed(&error))?;
        let identity = Identity {
            ca_certificate: tls.ca_certificate.clone(),
            server_certificate: tls.server_certificate.clone(),
            ..before
        };
        let act = Act::done(Actor::node(), "node.renew", unit.as_str());
        let kept = identity.persist(self.store.as_ref(), now, act).await;
        kept.map_err(|error| failed(&error))?;
        let former = Rotation::former_ca(self.store.as_ref(), unit).await;
        let tls = tls.accepting(former.map_err(|error| failed(&error))?);
        let ends = super::renewal::end_of(&identity)?;
        self.show(&tls, ends).map_err(|error| failed(&error))
    }

    async fn take_into_use(
        &self,
        hosted: &Hosted,
        rotation: Rotation,
    ) -> Result<(), OperationError> {
        let place = setup::keys_place(&self.config, &self.lock, &hosted.unit.code);
        let next = NextKeys::load(&place).map_err(|error| failed(&error))?;
        let keys = next.take_into_use(&place).map_err(|error| failed(&error))?;
        hosted.unit.use_keys(keys);
        self.keep_used(hosted, rotation).await?;
        tracing::info!(unit = %hosted.unit.code, "new keys are in use");
        Ok(())
    }

    async fn finish(&self, hosted: &Hosted, rotation: &Rotation) -> Result<(), OperationError> {
        let unit = &hosted.unit;
        let place = setup::keys_place(&self.config, &self.lock, &unit.code);
        NextKeys::remove(&place).map_err(|error| failed(&error))?;
        rotation.finish(unit).await.map_err(|error| failed(&error))?;
        if rotation.replaced().contains(&Replaced::Ca) {
            // Without the former CA: its certificates are renewed, or over.
            let identity = self.identity(&unit.code).await?;
            let ends = super::renewal::end_of(&identity)?;
            let shown = self.show(&identity.tls(&unit.keys()), ends);
            shown.map_err(|error| failed(&error))?;
        }
        unit.expect_keys(Vec::new());
        tracing::info!(unit = %unit.code, "former keys have ended");
        Ok(())
    }

    /// Gets a grant for the new keys: from the parent, or by the root key of a root.
    async fn ask(
        &self,
        hosted: &Hosted,
        rotation: &Rotation,
        with_former: bool,
    ) -> Result<(), OperationError> {
        let unit = &hosted.unit;
        let place = setup::keys_place(&self.config, &self.lock, &unit.code);
        let own = unit.trust().delegation(&unit.code, None).map(|own| own.delegation.clone());
        let own = own.ok_or_else(|| precondition("the unit has no delegation of its own"))?;
        let request = rotation.request(&own, with_former);
        let chain = if unit.parent().is_none() {
            vec![self.sign_own(hosted, &request)?]
        } else {
            let keys = unit.keys();
            let next = NextKeys::load(&place).map_err(|error| failed(&error))?;
            let mut signers = vec![&keys.statement, &keys.delegation];
            if with_former {
                signers.extend(next.statement.iter().chain(&next.delegation));
            }
            self.ask_parent(&unit.code, request, &signers).await?
        };
        unit.learn(&chain).await.map_err(|error| failed(&error))?;
        Ok(())
    }

    /// The root's own grant by its root key, which may lie elsewhere.
    fn sign_own(&self, hosted: &Hosted, request: &KeyRequest) -> Result<Envelope, OperationError> {
        let unit = &hosted.unit;
        let place = setup::keys_place(&self.config, &self.lock, &unit.code);
        let RootKey(root) = match RootKey::load(place) {
            Err(keys::Error::Missing(_)) => {
                let text = "the root key is not on this host: stop it, and have the grant signed with `lianxi root request`, `sign` and `install`";
                return Err(precondition(text));
            }
            loaded => loaded.map_err(|error| failed(&error))?,
        };
        let now = self.clock.now_unix_ms();
        let trust = unit.trust();
        let own = trust.delegation(&unit.code, None);
        let own = own.ok_or_else(|| precondition("the root has no delegation of its own"))?;
        Ok(issue::sign(&replacing(&own.delegation, request, now), &root, now))
    }

    async fn ask_parent(
        &self,
        unit: &UnitCode,
        request: KeyRequest,
        signers: &[&lianxi_proto::envelope::Signer],
    ) -> Result<Vec<Envelope>, OperationError> {
        let identity = self.identity(unit).await?;
        let keys = self.units().get(unit).map(|hosted| hosted.unit.keys());
        let (Some(parent), Some(pin), Some(keys)) = (&identity.parent, identity.pin(), keys) else {
            return Err(precondition("the unit has no parent that could grant it keys"));
        };
        let (door, tls) = (GrpcDoor::new(Arc::clone(&self.clock)), identity.tls(&keys));
        let proven = request.prove(signers);
        let mut last = JoinError::NoAddress;
        for address in &parent.addresses {
            match door.rotate(address, &pin, &tls, proven.clone()).await {
                Ok(chain) => return Ok(chain),
                Err(source @ DoorError::Refused { .. }) => {
                    last = JoinError::Door { step: "rotate", source };
                    break;
                }
                Err(source) => last = JoinError::Door { step: "rotate", source },
            }
        }
        Err(setup::failed(last.kind(), &last))
    }
}

fn failed(error: &dyn std::error::Error) -> OperationError {
    OperationError { kind: ErrorKind::Internal, text: chain(error) }
}

fn precondition(text: &str) -> OperationError {
    OperationError { kind: ErrorKind::FailedPrecondition, text: text.to_owned() }
}
