//! A root of this host comes with its tree under a unit of another tree.
//!
//! Promises that the root's last grant is durable before anybody is shown it, so that a command that
//! was cut off anywhere goes on with the same one, and that every refusal is in the root's journal.

use std::sync::Arc;

use super::{Host, setup};
use crate::{
    domain::journal::Act,
    grpc::{enrolment::GrpcDoor, status::chain},
    identity::{
        issue,
        keys::{self, RootKey},
        token::Token,
        trust::{root_key_id, root_name},
    },
    services::{
        enrolments::{Identity, JoinError, Joining},
        error::{ErrorKind, ServiceError as _},
        host::{AdoptionOrder, JoinedUnit, OperationError},
        hosted::Hosted,
        roots,
        rotations::Rotation,
    },
    statement::{Envelope, delegation::decode_body, enrolment::Adopted, header},
};

/// Name of the act.
const ACT: &str = "node.adopt";

type Refused = (&'static str, OperationError);

impl Host {
    /// Brings a hosted root under the unit that the offer names. Cut off, it can be run again.
    pub(super) async fn adopt(&self, order: AdoptionOrder) -> Result<JoinedUnit, OperationError> {
        let hosted = self.units().find(&order.unit);
        let hosted = hosted.map_err(|error| setup::failed(error.kind(), &error))?;
        let _turn = self.renewing.lock().await;
        match self.try_adopt(&hosted, &order).await {
            Ok(joined) => Ok(joined),
            Err((reason, error)) => {
                let act = Act::refused(order.by, ACT, order.unit.as_str(), reason);
                hosted.unit.record(act).await.map_err(|error| failed(&error))?;
                Err(error)
            }
        }
    }

    async fn try_adopt(
        &self,
        hosted: &Arc<Hosted>,
        order: &AdoptionOrder,
    ) -> Result<JoinedUnit, Refused> {
        let token = setup::parse_token(&order.token).map_err(|error| ("no-token", error))?;
        let before = self.identity(&order.unit).await.map_err(|error| ("store", error))?;
        let spent = before.membership.as_ref().is_some_and(|spent| spent.token_id == token.id);
        if spent && before.parent.is_some() {
            return Ok(setup::would_join(&token));
        }
        self.check_offer(hosted, &before, &token).await?;
        let adopted = self.adopted(hosted, &token, order).await?;
        let door = GrpcDoor::new(Arc::clone(&self.clock));
        let joining = Joining {
            token: &token,
            keys_directory: setup::keys_place(&self.config, &self.lock, &order.unit),
            host: &self.config.host.name,
            door: &door,
            clock: Arc::clone(&self.clock),
            adopted: Some(&adopted),
        };
        let refused = |error: JoinError| (error.reason(), setup::failed(error.kind(), &error));
        joining.dry_run().await.map_err(refused)?;
        if order.dry_run {
            return Ok(setup::would_join(&token));
        }
        let kept = roots::keep_shown(self.store.as_ref(), &order.unit, &adopted.last).await;
        kept.map_err(|error| ("store", failed(&error)))?;
        let joined = joining.run().await.map_err(refused)?;
        let mut learned = vec![adopted.last.clone()];
        learned.extend(joined.identity.chain.iter().cloned());
        // Believed before it is kept: an identity that its own trust refuses would never open.
        let believed = hosted.unit.learn(&learned).await;
        believed.map_err(|error| ("wrong-root", failed(&error)))?;
        // Before it is kept that there is a parent: what was cut off is done again.
        let handed = hosted.summaries.report_all_to(&token.parent).await;
        handed.map_err(|error| ("store", failed(&error)))?;
        let unit = setup::joined_unit(&joined, &token);
        let Identity { root_key, chain, title, .. } = before;
        let identity = Identity { root_key, chain, title, ..joined.identity };
        let act = Act::done(order.by.clone(), ACT, order.unit.as_str());
        let now = self.clock.now_unix_ms();
        let kept = identity.persist_adopted(self.store.as_ref(), now, act).await;
        kept.map_err(|error| ("store", failed(&error)))?;
        self.serve_below(hosted).await.map_err(|error| ("store", error))?;
        Ok(unit)
    }

    /// What can be said here against an offer, before anybody is asked.
    async fn check_offer(
        &self,
        hosted: &Hosted,
        before: &Identity,
        token: &Token,
    ) -> Result<(), Refused> {
        let unit = &hosted.unit;
        let refuse = |reason, text: &str| Err((reason, precondition(text)));
        if (&token.unit, token.level) != (&unit.code, unit.level) {
            return refuse(
                "other-unit",
                "the offer is for another unit or level; ask for one for this unit",
            );
        }
        if before.parent.is_some() {
            let text = "the unit has a parent; only a root comes under another unit by adoption, others are moved with `lianxi unit reparent`";
            return refuse("has-parent", text);
        }
        if token.trust_domain != unit.trust_domain {
            let text = format!(
                "the offer is of {}, this tree belongs to {}; both need one trust domain, which `lianxi node init --domain` sets",
                token.trust_domain, unit.trust_domain
            );
            return refuse("wrong-domain", &text);
        }
        let rotation = Rotation::load(self.store.as_ref(), &unit.code).await;
        if rotation.map_err(|error| ("store", failed(&error)))?.is_some() {
            let text = "keys of this unit are being changed; see `lianxi node status`, and wait until that is done";
            return refuse("under-way", text);
        }
        // That the unit's trust knows the parent is no sign of a loop: a command that was cut off after
        // it had learned the parent's grants is run again.
        if unit.trust().is_in_subtree(&token.parent, &unit.code)
            || token.root_key.key_id() == before.root_key.key_id()
        {
            let text = "the offer is by a unit of this very tree: that would be a loop";
            return refuse("loop", text);
        }
        Ok(())
    }

    /// What the root shows: the last grant of its root key, which names the other root.
    async fn adopted(
        &self,
        hosted: &Hosted,
        token: &Token,
        order: &AdoptionOrder,
    ) -> Result<Adopted, Refused> {
        let unit = &hosted.unit;
        let shown = roots::shown(self.store.as_ref(), &unit.code).await;
        let shown = shown.map_err(|error| ("store", failed(&error)))?;
        let shown = shown.filter(|last| names(last, token));
        let last = match (shown, &order.signed) {
            (Some(last), _) => last,
            (None, Some(signed)) if names(&signed.0, token) => signed.0.clone(),
            (None, Some(_)) => {
                let text = "what was signed names another root than the offer does; sign a request with the root of the offer";
                return Err(("other-root", precondition(text)));
            }
            (None, None) => self.sign_last(hosted, token)?,
        };
        let trust = unit.trust();
        let now = self.clock.now_unix_ms();
        trust.check(&last, Some(now)).map_err(|error| (error.reason(), failed(&error)))?;
        let own = last
            .signatures
            .first()
            .and_then(|one| trust.roots().iter().find(|root| root.key_id() == one.key_id));
        let root_key = own.and_then(|root| root_name(&root.key));
        let unknown = || ("keys", precondition("the root key is not known here"));
        let root_key = root_key.ok_or_else(unknown)?;
        Ok(Adopted { root_key, last, units: trust.units_below(&unit.code) })
    }

    fn sign_last(&self, hosted: &Hosted, token: &Token) -> Result<Envelope, Refused> {
        let unit = &hosted.unit;
        let place = setup::keys_place(&self.config, &self.lock, &unit.code);
        let RootKey(root) = match RootKey::load(place) {
            Err(keys::Error::Missing(_)) => {
                let text = "the root key is not on this host: stop it, write a request with `lianxi root request --next FILE`, where FILE is the root key of the other tree, have it signed with `lianxi root sign`, and give that with --signed";
                return Err(("no-root-key", precondition(text)));
            }
            loaded => loaded.map_err(|error| ("keys", failed(&error)))?,
        };
        let now = self.clock.now_unix_ms();
        let granted = roots::last_grant(&unit.trust(), &token.root_key, 0, now);
        let granted = granted.map_err(|error| ("under-way", failed(&error)))?;
        Ok(issue::sign(&granted, &root, now))
    }

    /// From here on the unit has a parent: its certificate, and a link.
    async fn serve_below(&self, hosted: &Arc<Hosted>) -> Result<(), OperationError> {
        let unit = &hosted.unit;
        let opened =
            setup::load_identity(&self.config, &self.lock, self.store.as_ref(), &unit.code).await;
        let opened = opened.map_err(|error| failed(&error))?;
        let Some(parent) = opened.parent else {
            return Err(precondition("the unit has no parent; run the command again"));
        };
        unit.move_under(parent.pin.unit.clone());
        let shown = self.show(&opened.tls, opened.certificate_ends_unix_ms);
        shown.map_err(|error| failed(&error))?;
        let uplink = self.uplink(Arc::clone(unit), parent, opened.tls);
        self.links.attach(Arc::<Hosted>::clone(hosted), Some(uplink));
        tracing::info!(unit = %unit.code, "the unit came under another root");
        Ok(())
    }
}

/// True if the grant names the root of the offer as the next.
fn names(last: &Envelope, token: &Token) -> bool {
    let body = header::decode(&last.payload).ok().map(|statement| statement.body);
    let granted = body.and_then(|body| decode_body(&body).ok());
    let next = granted.and_then(|granted| granted.change.next_root);
    next.is_some_and(|next| root_key_id(&next.key) == token.root_key.key_id())
}

fn failed(error: &dyn std::error::Error) -> OperationError {
    OperationError { kind: ErrorKind::FailedPrecondition, text: chain(error) }
}

fn precondition(text: &str) -> OperationError {
    OperationError { kind: ErrorKind::FailedPrecondition, text: text.to_owned() }
}
