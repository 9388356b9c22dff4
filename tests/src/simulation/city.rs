//! Who is in the city: units with their keys and delegations, made once and the same in every run.

use std::sync::{Arc, OnceLock};

use lianxi_node::{
    clock::UnixMillis,
    domain::{
        delegation::{Delegation, KeyChange, Suite},
        unit::{DeskId, Level, UnitCode},
    },
    identity::{
        issue,
        keys::{AgreementKey, DeskKeys, RootKey, UnitKeys},
    },
    random,
    services::enrolments::{Identity, Parent},
    statement::Envelope,
};
use lianxi_proto::{envelope::Signer, types::v1 as pb};

use crate::numbers::Numbers;

/// The true time when a run begins: 20 March 2026.
pub(super) const BEGINNING: UnixMillis = 1_774_000_000_000;

const DAY_MS: i64 = 24 * 3_600_000;
const DOMAIN: &str = "simulated.example";

const DISTRICTS: usize = 4;
const STREETS: usize = 3;
const COMMUNITIES: usize = 4;

/// The desk that every district has.
pub(super) const DESK: &str = "WORKS";

/// A unit as it was when it joined.
pub(super) struct Member {
    pub(super) code: UnitCode,
    pub(super) level: Level,
    pub(super) parent: Option<UnitCode>,
    /// The host that serves it, by its first unit.
    pub(super) host: UnitCode,
    pub(super) identity: Identity,
    /// Grants of its children and its desk.
    pub(super) granted: Vec<Envelope>,
    keys: UnitKeys,
    desk: Option<DeskKeys>,
}

impl Member {
    /// Its keys, once more: a host that starts reads them anew.
    pub(super) fn keys(&self) -> UnitKeys {
        // The keys of TLS are used by nothing here.
        let fresh = UnitKeys::generate(&self.code, DOMAIN, BEGINNING).unwrap();
        UnitKeys {
            statement: again(&self.keys.statement),
            delegation: again(&self.keys.delegation),
            agreement: AgreementKey::from_bytes(self.keys.agreement.private_bytes()),
            ca_certificate: self.keys.ca_certificate.clone(),
            ..fresh
        }
    }

    /// Keys of its desk, if it has one.
    pub(super) fn desk(&self) -> Option<(DeskId, DeskKeys)> {
        let keys = self.desk.as_ref()?;
        let agreement = keys.agreement.as_ref();
        let agreement = agreement.map(|key| AgreementKey::from_bytes(key.private_bytes()));
        let keys = DeskKeys { statement: again(&keys.statement), agreement };
        Some((DESK.parse().unwrap(), keys))
    }
}

fn again(signer: &Signer) -> Signer {
    Signer::from_private_bytes(pb::Suite::Ed25519, &signer.private_bytes()).unwrap()
}

/// All units, parents before children.
pub(super) struct City {
    pub(super) members: Vec<Member>,
}

impl City {
    /// 1 city, 4 districts, 12 streets, 48 communities, on 41 hosts: every other street serves its
    /// communities itself.
    pub(super) fn get() -> Arc<Self> {
        static CITY: OnceLock<Arc<City>> = OnceLock::new();
        Arc::clone(CITY.get_or_init(|| Arc::new(Self::make())))
    }

    fn make() -> Self {
        let mut numbers = Numbers::new(0x6C69_616E_7869);
        let _simulated = random::simulate(move |bytes| numbers.fill(bytes));
        let RootKey(root) = RootKey::generate(Suite::Ed25519);
        let mut city = Self { members: Vec::new() };
        city.add("C", None, Level::City, "C", &root);
        for district in 1..=DISTRICTS {
            let code = format!("C-{district}");
            city.add(&code, Some("C"), Level::District, &code, &root);
            for street in 1..=STREETS {
                let above = code.clone();
                let code = format!("{above}-{street}");
                city.add(&code, Some(&above), Level::Street, &code, &root);
                for community in 1..=COMMUNITIES {
                    let above = code.clone();
                    let code = format!("{above}-{community}");
                    let serves_all = (district + street) % 2 == 0;
                    let host = if serves_all { above.clone() } else { code.clone() };
                    city.add(&code, Some(&above), Level::Community, &host, &root);
                }
            }
        }
        city.members.sort_by_key(|member| (member.level, member.code.clone()));
        city
    }

    /// The unit of a code.
    pub(super) fn member(&self, code: &UnitCode) -> &Member {
        self.members.iter().find(|member| member.code == *code).unwrap()
    }

    /// Units of one host, parents before children.
    pub(super) fn hosted<'a>(&'a self, host: &'a UnitCode) -> impl Iterator<Item = &'a Member> {
        self.members.iter().filter(move |member| member.host == *host)
    }

    /// Direct children of a unit.
    pub(super) fn children<'a>(&'a self, unit: &'a UnitCode) -> impl Iterator<Item = &'a Member> {
        self.members.iter().filter(move |member| member.parent.as_ref() == Some(unit))
    }

    /// Codes of all hosts.
    pub(super) fn hosts(&self) -> Vec<UnitCode> {
        let own = self.members.iter().filter(|member| member.host == member.code);
        own.map(|member| member.code.clone()).collect()
    }

    /// Units of a level.
    pub(super) fn of_level(&self, level: Level) -> Vec<&Member> {
        self.members.iter().filter(|member| member.level == level).collect()
    }

    fn add(&mut self, code: &str, parent: Option<&str>, level: Level, host: &str, root: &Signer) {
        let code: UnitCode = code.parse().unwrap();
        let parent: Option<UnitCode> = parent.map(|parent| parent.parse().unwrap());
        let keys = UnitKeys::generate(&code, DOMAIN, BEGINNING).unwrap();
        let own = grant(&code, parent.clone(), level, None, keys.public_keys(), self.members.len());
        let above = parent.as_ref().map(|parent| self.member(parent));
        let signer = above.map_or(root, |above| &above.keys.delegation);
        let envelope = issue::sign(&own, signer, own.not_before_unix_ms);
        let mut chain = above.map_or_else(Vec::new, |above| above.identity.chain.clone());
        chain.push(envelope.clone());
        let mut granted = Vec::new();
        let desk = (level == Level::District).then(|| DeskKeys::generate(Suite::Ed25519));
        if let Some(desk) = &desk {
            let of_desk =
                grant(&code, Some(code.clone()), level, Some(DESK), desk.public_keys(), 0);
            granted.push(issue::sign(&of_desk, &keys.delegation, of_desk.not_before_unix_ms));
        }
        let identity = Identity {
            unit: code.clone(),
            level,
            title: format!("Unit {code}"),
            trust_domain: DOMAIN.to_owned(),
            root_key: root.verifying_key(),
            parent: parent.clone().map(|unit| Parent {
                unit,
                addresses: Vec::new(),
                ca_sha256: [0; 32],
                further: Vec::new(),
            }),
            membership: None,
            chain,
            ca_certificate: Vec::new().into(),
            server_certificate: Vec::new().into(),
            client_certificate: None,
        };
        if let Some(parent) = &parent {
            let above = self.members.iter_mut().find(|member| member.code == *parent).unwrap();
            above.granted.push(envelope);
        }
        let host = host.parse().unwrap();
        self.members.push(Member { code, level, parent, host, identity, granted, keys, desk });
    }
}

fn grant(
    unit: &UnitCode,
    issuer: Option<UnitCode>,
    level: Level,
    desk: Option<&str>,
    keys: Vec<lianxi_node::domain::delegation::PublicKey>,
    serial: usize,
) -> Delegation {
    Delegation {
        trust_domain: DOMAIN.to_owned(),
        unit: unit.clone(),
        level,
        issuer,
        not_before_unix_ms: BEGINNING - 30 * DAY_MS,
        not_after_unix_ms: BEGINNING + 3_650 * DAY_MS,
        keys,
        ca_sha256: desk.is_none().then_some([1; 32]),
        host: String::new(),
        desk: desk.map(|desk| desk.parse().unwrap()),
        line: desk.map_or_else(String::new, str::to_lowercase),
        title: format!("Unit {unit}"),
        serial: 1 + serial as u64,
        accepted_suites: Vec::new(),
        reform: None,
        change: KeyChange::default(),
    }
}
