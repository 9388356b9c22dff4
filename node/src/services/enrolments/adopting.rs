//! Roots that come under this unit with all that is below them.
//!
//! Promises that nobody is taken in whose root key has not signed that it goes under this very root,
//! that the root key is the one that a person named when the offer was made, and that no unit comes
//! in twice, from another tree, or above itself.

use lianxi_proto::envelope::{self, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::{
    Enrolments, Error,
    rows::{TokenRow, hex_array},
};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{FormerRoot, RootName},
        unit::UnitCode,
    },
    identity::trust::{Trust, root_key_id},
    statement::{
        delegation::{suite_from_proto, suite_to_proto},
        enrolment::Application,
        header::Malformed,
    },
};

/// Whom an offer is for, as its token's row holds it: the key id of the root key.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Adopting(pub(super) String);

/// The root key that a reserved place is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FormerRow {
    suite: i32,
    public_key: String,
    #[serde(with = "hex_array")]
    last_sha256: [u8; 32],
    serial: u64,
}

impl FormerRow {
    /// The name of the root key, for the grant.
    pub(super) fn former(&self) -> Option<FormerRoot> {
        let suite = suite_from_proto(self.suite)?;
        let bytes = hex::decode(&self.public_key).ok()?;
        Some(FormerRoot { key: RootName { suite, bytes }, last_sha256: self.last_sha256 })
    }

    /// Serial of the last grant of the former root key.
    pub(super) fn serial(&self) -> u64 {
        self.serial
    }
}

impl Enrolments {
    /// Judges what a root shows that wants to come under this unit. `None`: the token is an
    /// invitation of a unit that is none, and the application is that too.
    pub(super) fn check_adoption(
        &self,
        row: &TokenRow,
        application: &Application,
        now: UnixMillis,
    ) -> Result<Option<FormerRow>, Error> {
        let refuse = |reason, text: &str| Err(Error::Adoption { reason, text: text.to_owned() });
        let (Adopting(expected), adopted) = match (&row.adopting, &application.adopted) {
            (None, None) => return Ok(None),
            (None, Some(_)) => {
                let text = "the token invites a new unit, not a root; ask for an offer of adoption";
                return refuse("no-offer", text);
            }
            (Some(_), None) => {
                let text = "the token is for a root that comes with its tree; use `lianxi node adopt --token`";
                return refuse("no-root", text);
            }
            (Some(expected), Some(adopted)) => (expected, adopted),
        };
        let key = &adopted.root_key;
        if root_key_id(key) != *expected {
            let text =
                "the unit's root key is not the one that the offer names; compare the fingerprints";
            return refuse("other-root", text);
        }
        let trust = self.unit.trust();
        let suite = suite_to_proto(key.suite);
        let verifying = VerifyingKey::new(suite, &key.bytes);
        let verifying = verifying.map_err(|error| Malformed::new("adopted.public_key", error))?;
        // Its own trust domain has to be this one: the root key believes in no other.
        let mut alone = Trust::new(trust.trust_domain().to_owned(), verifying);
        let last = alone.add(&adopted.last, now)?.delegation;
        let next = last.change.next_root.as_ref().map(|next| root_key_id(&next.key));
        if next.as_deref() != Some(trust.root_key().key_id()) {
            return refuse(
                "false-adopter",
                "the unit's root key names another root than this one's",
            );
        }
        if (&last.unit, last.level) != (&application.unit, application.level)
            || !application.keys.iter().all(|key| last.keys.contains(key))
            || last.ca_sha256 != Some(application.ca_sha256)
        {
            return refuse(
                "other-keys",
                "the unit comes with other keys than its root key granted",
            );
        }
        self.check_tree(&trust, &application.unit, &adopted.units)?;
        Ok(Some(FormerRow {
            suite: suite.into(),
            public_key: hex::encode(&key.bytes),
            last_sha256: envelope::payload_sha256(&adopted.last),
            serial: last.serial,
        }))
    }

    /// Nothing of the tree is above this unit, or is known here as somebody else's.
    fn check_tree(&self, trust: &Trust, head: &UnitCode, units: &[UnitCode]) -> Result<(), Error> {
        for unit in units {
            if trust.is_in_subtree(self.unit.code(), unit) {
                let text = format!(
                    "{unit} is in the tree that comes, and above this unit: that would be a loop"
                );
                return Err(Error::Adoption { reason: "loop", text });
            }
            if trust.delegation(unit, None).is_some() && !trust.is_in_subtree(unit, head) {
                let text = format!("{unit} of the tree that comes is a unit of this tree already");
                return Err(Error::Adoption { reason: "code-taken", text });
            }
        }
        Ok(())
    }

    /// A root is offered a place below this unit by its code, and is not above it.
    pub(super) fn check_offer(&self, child: &UnitCode) -> Result<(), Error> {
        let own = self.unit.code();
        if !child.may_be_below(own) {
            let text = format!(
                "by its code {child} lies elsewhere than below {own}; let the unit take it in that it is below"
            );
            return Err(Error::Adoption { reason: "outside-subtree", text });
        }
        let trust = self.unit.trust();
        if trust.is_in_subtree(own, child) {
            let text = format!("{child} is this unit or above it; nothing comes under itself");
            return Err(Error::Adoption { reason: "loop", text });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lianxi_proto::envelope::Signer;

    use super::*;
    use crate::{
        domain::{
            delegation::{Delegation, KeyChange, NextRoot, Suite},
            unit::Level,
        },
        identity::{issue, keys::UnitKeys, token::Token, trust::root_name},
        services::enrolments::tests::{City, FROM, NOW, application, code, peer_of},
        statement::{Envelope, enrolment::Adopted},
    };

    fn root() -> Signer {
        Signer::from_seed(&[77; 32])
    }

    /// What a root BOS-07 shows: its last grant, which names `next`.
    fn last(keys: &UnitKeys, next: &VerifyingKey, domain: &str) -> Envelope {
        let next_root =
            Some(NextRoot { key: root_name(next).unwrap(), compromised_since_unix_ms: 0 });
        let own = Delegation {
            trust_domain: domain.to_owned(),
            unit: code("BOS-07"),
            level: Level::District,
            issuer: None,
            not_before_unix_ms: NOW,
            not_after_unix_ms: NOW + 1_000_000,
            keys: keys.public_keys(),
            ca_sha256: Some(keys.ca_sha256()),
            host: String::new(),
            desk: None,
            line: String::new(),
            title: String::new(),
            serial: 1,
            accepted_suites: vec![Suite::Ed25519],
            change: KeyChange { next_root, ..KeyChange::default() },
            reform: None,
        };
        issue::sign(&own, &root(), NOW)
    }

    struct Scene {
        city: City,
        keys: UnitKeys,
        token: Token,
    }

    impl Scene {
        async fn new() -> Self {
            let city = City::new("boston.example").await;
            let keys = city.keys("district");
            let key_id = root().verifying_key().key_id().to_owned();
            let token = city.offer(("BOS-07", Level::District), &["nowhere:1"], Some(key_id)).await;
            Self { city, keys, token }
        }

        fn application(&self, next: &VerifyingKey, units: &[&str]) -> Application {
            let adopted = Some(Adopted {
                root_key: root_name(&root().verifying_key()).unwrap(),
                last: last(&self.keys, next, "boston.example"),
                units: units.iter().map(|unit| code(unit)).collect(),
            });
            Application { adopted, ..application(&self.token, &self.keys) }
        }

        fn own_root(&self) -> VerifyingKey {
            self.city.enrolments.unit.trust().root_key().clone()
        }

        async fn refused(&self, application: &Application) -> &'static str {
            self.city.enrolments.reserve(FROM, application).await.unwrap_err().reason()
        }
    }

    #[tokio::test]
    async fn a_root_that_shows_what_the_offer_asks_for_gets_its_place() {
        let scene = Scene::new().await;
        let application = scene.application(&scene.own_root(), &["BOS-07-W01"]);
        scene.city.enrolments.reserve(FROM, &application).await.unwrap();
        // Again, with the same.
        scene.city.enrolments.reserve(FROM, &application).await.unwrap();
    }

    #[tokio::test]
    async fn a_root_that_does_not_is_refused_with_its_reason() {
        let scene = Scene::new().await;
        let own = scene.own_root();
        let other = Signer::from_seed(&[78; 32]).verifying_key();
        assert_eq!(scene.refused(&scene.application(&other, &[])).await, "false-adopter");
        assert_eq!(scene.refused(&scene.application(&own, &["BOS"])).await, "loop");
        let (token, keys) = (scene.city.token().await, scene.city.keys("child"));
        let joining = application(&token, &keys);
        let reserved = scene.city.enrolments.reserve(FROM, &joining).await.unwrap();
        let peer = peer_of(&reserved.certificate);
        scene.city.enrolments.confirm(&peer, &token.id).await.unwrap();
        let with = scene.application(&own, &["BOS-07-W01", "BOS-01"]);
        assert_eq!(scene.refused(&with).await, "code-taken");
        let bare = Application { adopted: None, ..scene.application(&own, &[]) };
        assert_eq!(scene.refused(&bare).await, "no-root");
        let mut another = scene.application(&own, &[]);
        let key = root_name(&other).unwrap();
        another.adopted = another.adopted.map(|adopted| Adopted { root_key: key, ..adopted });
        assert_eq!(scene.refused(&another).await, "other-root");
        let mut swapped = scene.application(&own, &[]);
        let foreign = last(&scene.city.keys("stranger"), &own, "boston.example");
        swapped.adopted = swapped.adopted.map(|adopted| Adopted { last: foreign, ..adopted });
        assert_eq!(scene.refused(&swapped).await, "other-keys");
        let mut elsewhere = scene.application(&own, &[]);
        let domain = last(&scene.keys, &own, "other.example");
        elsewhere.adopted = elsewhere.adopted.map(|adopted| Adopted { last: domain, ..adopted });
        assert_eq!(scene.refused(&elsewhere).await, "wrong-domain");
    }
}
