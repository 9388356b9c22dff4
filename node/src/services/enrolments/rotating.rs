//! Other keys for children that have joined.
//!
//! Promises that a child is granted only keys that it proved to have, and only by a proof with a key
//! that it already had: neither a stranger, nor another unit, nor a request of earlier days changes
//! them. The grant that leaves a key out says when that was.

use super::{Enrolments, Error, next_serial, put_delegation, rows::Reservation};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{Delegation, KeyChange},
        journal::{Act, Actor, Leaf},
        unit::UnitCode,
    },
    identity::{issue, tls::Peer, trust},
    statement::{Envelope, rotation::KeyRequest},
    store::Batch,
};

/// Name of the act.
const ACT: &str = "node.rotate-key.grant";

/// The grant that a request asks for, instead of `old`. It begins when that did, so that what
/// rests on it stays inside; the keys that it leaves out end at `now`.
pub fn replacing(old: &Delegation, request: &KeyRequest, now: UnixMillis) -> Delegation {
    let leaves_out = !old.keys.iter().all(|key| request.keys.contains(key));
    Delegation {
        keys: request.keys.clone(),
        ca_sha256: Some(request.ca_sha256),
        change: KeyChange {
            since_unix_ms: if leaves_out { now } else { old.change.since_unix_ms },
            seen_sha256: request.seen_sha256.clone(),
            further_ca_sha256: request.further_ca_sha256.clone(),
            next_root: None,
            former_root: old.change.former_root.clone(),
        },
        serial: next_serial(old.serial, now),
        ..old.clone()
    }
}

/// True if `old` already grants what the request asks for.
pub fn is_granted(old: &Delegation, request: &KeyRequest) -> bool {
    let same_keys = old.keys.len() == request.keys.len()
        && old.keys.iter().all(|key| request.keys.contains(key));
    same_keys
        && old.ca_sha256 == Some(request.ca_sha256)
        && old.change.further_ca_sha256 == request.further_ca_sha256
}

impl Enrolments {
    /// Grants a child the keys that it asks for, over a connection with its certificate; returns the
    /// newest delegations from the root's own down to its own. The same request again changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`Error::OtherPeer`], [`Error::NoChild`], [`Error::Revoked`], [`Error::NotProven`],
    /// [`Error::StaleRotation`], [`Error::Trust`], [`Error::Store`].
    pub async fn rotate(&self, peer: &Peer, request: &KeyRequest) -> Result<Vec<Envelope>, Error> {
        let _turn = self.turn.lock().await;
        match self.try_rotate(peer, request).await {
            Ok(chain) => Ok(chain),
            Err(error) => {
                let act = (Actor::unit(&peer.unit), ACT);
                Err(self.refuse(peer.unit.as_str(), act, &request.unit, error).await)
            }
        }
    }

    async fn try_rotate(&self, peer: &Peer, request: &KeyRequest) -> Result<Vec<Envelope>, Error> {
        let (own, child) = (self.unit.code(), &request.unit);
        if peer.unit != *child {
            return Err(Error::OtherPeer(peer.unit.clone()));
        }
        if !self.has_joined(child).await? {
            return Err(Error::NoChild { child: child.clone(), parent: own.clone() });
        }
        let now = self.unit.clock().now_unix_ms();
        let checked = {
            let trust = self.unit.trust();
            for unit in [own, child] {
                if let Some(known) = trust.revoked(unit, None) {
                    return Err(Error::Revoked(super::remedy(known)));
                }
            }
            let old = trust.delegation(child, None);
            let old = &old.ok_or_else(|| trust::Error::UnknownUnit(child.clone()))?.delegation;
            request.check_proofs(old).map_err(Error::NotProven)?;
            if is_granted(old, request) {
                return Ok(trust.chain(child));
            }
            if request.serial != old.serial {
                let (child, newest) = (child.clone(), old.serial);
                return Err(Error::StaleRotation { child, rests_on: request.serial, newest });
            }
            trust.check_new_keys(child, &request.keys, now)?;
            let envelope =
                issue::sign(&replacing(old, request, now), &self.unit.keys().delegation, now);
            trust.check(&envelope, Some(now))?
        };
        let mut batch = Batch::new(own);
        put_delegation(&mut batch, checked.known(), now);
        let act = Act::done(Actor::unit(child), ACT, child.as_str());
        batch.journal(now, &Leaf::Act(act.about(checked.known().payload_sha256)));
        self.unit.store().submit(batch).await?;
        self.unit.believe(checked);
        tracing::info!(unit = %own, %child, "other keys granted");
        Ok(self.unit.trust().chain(child))
    }

    /// True if an application for renewal comes with keys that the child has by its newest
    /// delegation, and with the certificate key that it joined with.
    pub(super) fn is_current(
        &self,
        child: &UnitCode,
        reservation: &Reservation,
        tls_key_sha256: &[u8; 32],
    ) -> bool {
        let trust = self.unit.trust();
        let Some(known) = trust.delegation(child, None) else { return false };
        let granted = &known.delegation;
        reservation.tls_key_sha256 == *tls_key_sha256
            && granted.cas().any(|ca| ca == reservation.ca_sha256)
            && reservation.keys().iter().all(|key| granted.keys.contains(key))
    }
}

#[cfg(test)]
mod tests {
    use lianxi_proto::envelope::Signer;

    use super::*;
    use crate::{
        domain::{
            delegation::{KeyUse, PublicKey, Suite},
            rotation::Replaced,
        },
        identity::{
            keys::{NextKeys, UnitKeys},
            token::Token,
        },
        services::enrolments::tests::{City, DAY, FROM, NOW, application, code, peer_of},
    };

    /// A city with a child that has joined and made a new STATEMENT key.
    struct Changing {
        city: City,
        token: Token,
        keys: UnitKeys,
        next: NextKeys,
        peer: Peer,
    }

    impl Changing {
        async fn new() -> Self {
            let city = City::new("boston.example").await;
            let (token, keys) = (city.token().await, city.keys("child"));
            let reserved =
                city.enrolments.reserve(FROM, &application(&token, &keys)).await.unwrap();
            let peer = peer_of(&reserved.certificate);
            city.enrolments.confirm(&peer, &token.id).await.unwrap();
            city.clock.set(NOW + DAY);
            Self { city, token, keys, next: next(), peer }
        }

        fn granted(&self) -> Delegation {
            let trust = self.city.enrolments.unit.trust();
            trust.delegation(&code("BOS-01"), None).unwrap().delegation.clone()
        }

        fn request(&self, keys: Vec<PublicKey>) -> KeyRequest {
            KeyRequest {
                unit: code("BOS-01"),
                serial: self.granted().serial,
                keys,
                ca_sha256: self.keys.ca_sha256(),
                further_ca_sha256: Vec::new(),
                seen_sha256: Vec::new(),
                proofs: Vec::new(),
            }
        }

        fn both(&self) -> KeyRequest {
            self.request([self.keys.public_keys(), self.next.public_keys()].concat())
        }

        fn new_alone(&self) -> KeyRequest {
            let kept = self.keys.public_keys().into_iter();
            let mut keys: Vec<_> = kept.filter(|key| key.key_use != KeyUse::Statement).collect();
            keys.extend(self.next.public_keys());
            self.request(keys)
        }

        fn next_signer(&self) -> &Signer {
            self.next.statement.as_ref().unwrap()
        }

        async fn ask(&self, request: KeyRequest, signers: &[&Signer]) -> Result<(), Error> {
            let request = KeyRequest::read(request.prove(signers)).unwrap();
            self.city.enrolments.rotate(&self.peer, &request).await.map(drop)
        }

        async fn refused(&self, request: KeyRequest, signers: &[&Signer]) -> &'static str {
            let before = self.granted();
            let error = self.ask(request, signers).await.unwrap_err();
            assert_eq!(self.granted(), before, "nothing was granted");
            error.reason()
        }
    }

    fn next() -> NextKeys {
        let unit = code("BOS-01");
        let names = (&unit, "boston.example");
        NextKeys::generate(&[Replaced::Statement], Suite::Ed25519, names, NOW).unwrap()
    }

    #[tokio::test]
    async fn keys_are_replaced_in_two_grants_and_the_second_says_when() {
        let child = Changing::new().await;
        let first = child.granted();
        let (old, delegation) = (&child.keys.statement, &child.keys.delegation);
        let both = [old, delegation, child.next_signer()];
        child.ask(child.both(), &both).await.unwrap();
        let second = child.granted();
        assert_eq!((second.keys.len(), second.change.since_unix_ms), (4, 0));
        assert_eq!(second.not_before_unix_ms, first.not_before_unix_ms, "what rests on it stays");
        // Given again, the same is said again.
        child.ask(child.both(), &both).await.unwrap();
        assert_eq!(child.granted(), second);
        child.city.clock.set(NOW + 9 * DAY);
        child.ask(child.new_alone(), &[child.next_signer(), delegation]).await.unwrap();
        let third = child.granted();
        assert_eq!((third.keys.len(), third.change.since_unix_ms), (3, NOW + 9 * DAY));
        assert!(!third.keys.contains(&child.keys.public_keys()[0]));
    }

    #[tokio::test]
    async fn a_strangers_key_is_granted_nothing() {
        let child = Changing::new().await;
        let (old, delegation) = (&child.keys.statement, &child.keys.delegation);
        let stranger = next();
        let thief = stranger.statement.as_ref().unwrap();
        let theirs = [child.keys.public_keys(), stranger.public_keys()].concat();
        // The thief's own proof alone; the unit's proof without the thief's; neither.
        for signers in [&[thief, delegation][..], &[old, delegation], &[delegation]] {
            assert_eq!(child.refused(child.request(theirs.clone()), signers).await, "not-proven");
        }
        // A key that replaces the unit's own, proved with nothing that the unit has.
        let mut alone = child.new_alone();
        alone.keys.retain(|key| key.key_use != KeyUse::Statement);
        alone.keys.extend(stranger.public_keys());
        assert_eq!(child.refused(alone, &[thief, delegation]).await, "not-proven");
        // A proof for another request.
        let proven = child.both().prove(&[old, delegation, child.next_signer()]);
        let moved = KeyRequest { proofs: proven.proofs, ..child.new_alone() };
        let refused = child.city.enrolments.rotate(&child.peer, &moved).await.unwrap_err();
        assert_eq!(refused.reason(), "not-proven");
    }

    #[tokio::test]
    async fn another_unit_asks_for_no_keys_of_this_one() {
        let child = Changing::new().await;
        let signers = [&child.keys.statement, &child.keys.delegation, child.next_signer()];
        let request = KeyRequest::read(child.both().prove(&signers)).unwrap();
        for other in ["BOS", "BOS-02"] {
            let peer = Peer { unit: code(other), ..child.peer.clone() };
            let refused = child.city.enrolments.rotate(&peer, &request).await.unwrap_err();
            assert_eq!(refused.reason(), "other-peer");
        }
        let stranger = KeyRequest { unit: code("BOS-02"), ..request };
        let peer = Peer { unit: code("BOS-02"), ..child.peer.clone() };
        let refused = child.city.enrolments.rotate(&peer, &stranger).await.unwrap_err();
        assert_eq!(refused.reason(), "no-child");
    }

    #[tokio::test]
    async fn a_request_of_earlier_days_changes_nothing() {
        let child = Changing::new().await;
        let (old, delegation) = (&child.keys.statement, &child.keys.delegation);
        let both = child.both();
        let signers = [old, delegation, child.next_signer()];
        child.ask(both.clone(), &signers).await.unwrap();
        child.ask(child.new_alone(), &[child.next_signer(), delegation]).await.unwrap();
        // It would bring the ended key back.
        assert_eq!(child.refused(both, &signers).await, "stale-rotation");
    }

    #[tokio::test]
    async fn certificates_are_renewed_with_the_keys_that_are_granted() {
        let child = Changing::new().await;
        let (old, delegation) = (&child.keys.statement, &child.keys.delegation);
        child.ask(child.both(), &[old, delegation, child.next_signer()]).await.unwrap();
        let renewed = application(&child.token, &child.keys);
        child.city.enrolments.reserve(FROM, &renewed).await.unwrap();
        child.ask(child.new_alone(), &[child.next_signer(), delegation]).await.unwrap();
        let refused = child.city.enrolments.reserve(FROM, &renewed).await.unwrap_err();
        assert_eq!(refused.reason(), "token-spent", "the former key renews nothing");
        let place = crate::identity::keys::Place::from(&child.city.directory.path().join("child"));
        let keys = child.next.take_into_use(&place).unwrap();
        child.city.enrolments.reserve(FROM, &application(&child.token, &keys)).await.unwrap();
        let stranger = child.city.keys("stranger");
        let refused =
            child.city.enrolments.reserve(FROM, &application(&child.token, &stranger)).await;
        assert_eq!(refused.unwrap_err().reason(), "token-spent");
    }
}
