//! Both sides of joining over a store in memory, without a network; `grpc::enrolment` has the tests
//! over TLS.

use std::{
    collections::BTreeMap,
    sync::{
        RwLock,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lianxi_proto::envelope::Signer;
use tempfile::TempDir;

use super::*;
use crate::{
    domain::{
        delegation::{KeyUse, Suite},
        journal::{Act, Actor},
    },
    identity::tls::{ParentPin, UnitTls},
    services::error::{ErrorKind, ServiceError as _},
    statement::rotation::ProvenRequest,
    store::{Commit, Entry, Usage},
};

/// 2025-10-09.
pub(crate) const NOW: UnixMillis = 1_760_000_000_000;

/// Where children join from.
pub(super) const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

const MINUTE: i64 = 60 * 1000;
pub(super) const DAY: i64 = 24 * 60 * MINUTE;

/// A clock that a test sets.
#[derive(Clone, Default)]
pub(crate) struct SetClock(Arc<AtomicI64>);

impl SetClock {
    pub(crate) fn at(now: UnixMillis) -> Self {
        Self(Arc::new(AtomicI64::new(now)))
    }

    pub(crate) fn set(&self, now: UnixMillis) {
        self.0.store(now, Ordering::Relaxed);
    }
}

impl Clock for SetClock {
    fn now_unix_ms(&self) -> UnixMillis {
        self.0.load(Ordering::Relaxed)
    }
}

type Rows = BTreeMap<(String, Table, Vec<u8>), Vec<u8>>;

/// A store whose commits are there at once; it can be told to fail.
#[derive(Default)]
pub(crate) struct MemoryStore {
    rows: StdMutex<Rows>,
    pub(crate) full: AtomicBool,
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, batch: Batch) -> Result<(), store::Error> {
        if self.full.load(Ordering::Relaxed) {
            return Err(store::Error::DiskFull { free_bytes: 0, reserve_bytes: 1 });
        }
        let mut rows = self.lock();
        let unit = batch.unit.to_string();
        for one in &batch.preconditions {
            let found = rows.get(&(unit.clone(), one.table, one.key.clone()));
            if found != one.expected.as_ref() {
                return Err(store::Error::Conflict);
            }
        }
        for (table, key, value) in batch.writes {
            let key = (unit.clone(), table, key);
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        Ok(())
    }
}

pub(crate) fn act() -> Act {
    Act::done(Actor::node(), "test.act", "")
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(
        &self,
        unit: &UnitCode,
        table: Table,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, store::Error> {
        Ok(self.lock().get(&(unit.to_string(), table, key.to_vec())).cloned())
    }

    async fn scan(
        &self,
        unit: &UnitCode,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, store::Error> {
        let rows = self.lock();
        let wanted = |(code, one, key): &&(String, Table, Vec<u8>)| {
            *code == unit.to_string()
                && *one == table
                && key.starts_with(prefix)
                && after.is_none_or(|after| key.as_slice() > after)
        };
        let found = rows.iter().filter(|(key, _)| wanted(key));
        Ok(found.take(limit).map(|((_, _, key), value)| (key.clone(), value.clone())).collect())
    }

    async fn last(
        &self,
        unit: &UnitCode,
        table: Table,
        prefix: &[u8],
    ) -> Result<Option<Entry>, store::Error> {
        Ok(self.scan(unit, table, prefix, None, usize::MAX).await?.pop())
    }

    fn submit(&self, batch: Batch) -> Commit {
        let (sender, commit) = Commit::pending();
        let _ = sender.send(self.apply(batch));
        commit
    }

    async fn units(&self) -> Result<Vec<UnitCode>, store::Error> {
        Ok(Vec::new())
    }

    fn usage(&self) -> Result<Usage, store::Error> {
        Ok(Usage::default())
    }

    async fn close(&self) -> Result<(), store::Error> {
        Ok(())
    }
}

/// A unit as far as enrolments need one.
pub(crate) struct TestUnit {
    pub(crate) identity: Identity,
    pub(crate) keys: Arc<UnitKeys>,
    pub(crate) store: Arc<MemoryStore>,
    trust: RwLock<Trust>,
    clock: SetClock,
    refusals: StdMutex<Window>,
}

impl Grantor for TestUnit {
    fn code(&self) -> &UnitCode {
        &self.identity.unit
    }

    fn keys(&self) -> Arc<UnitKeys> {
        Arc::clone(&self.keys)
    }

    fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    fn trust(&self) -> RwLockReadGuard<'_, Trust> {
        self.trust.read().unwrap()
    }

    fn believe(&self, checked: Checked) {
        self.trust.write().unwrap().take(checked);
    }

    fn refusals(&self) -> &StdMutex<Window> {
        &self.refusals
    }
}

/// One host with a city on it.
pub(crate) struct City {
    pub(crate) directory: TempDir,
    pub(crate) clock: SetClock,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) tls: Arc<ServerTls>,
    pub(crate) unit: Arc<TestUnit>,
    pub(crate) enrolments: Arc<Enrolments>,
}

pub(crate) fn code(text: &str) -> UnitCode {
    text.parse().unwrap()
}

impl City {
    pub(crate) async fn new(domain: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = SetClock::at(NOW);
        let store = Arc::new(MemoryStore::default());
        let joined = Self::root(&directory, domain, &clock).create().await.unwrap();
        joined.identity.persist(store.as_ref(), 1, act()).await.unwrap();
        Self::open(directory, clock, store, joined.keys).await
    }

    fn root(directory: &TempDir, domain: &str, clock: &SetClock) -> NewRoot {
        NewRoot {
            unit: code("BOS"),
            level: Level::City,
            title: "Boston".to_owned(),
            trust_domain: domain.to_owned(),
            suite: Suite::Ed25519,
            host: "city-host".to_owned(),
            keys_directory: (&directory.path().join("keys/BOS")).into(),
            clock: Arc::new(clock.clone()),
        }
    }

    async fn open(
        directory: TempDir,
        clock: SetClock,
        store: Arc<MemoryStore>,
        keys: UnitKeys,
    ) -> Self {
        let identity = Identity::load(store.as_ref(), &code("BOS")).await.unwrap().unwrap();
        let trust = RwLock::new(identity.load_trust(store.as_ref()).await.unwrap());
        let tls = Arc::new(ServerTls::new(Arc::new(clock.clone())));
        tls.set(&identity.tls(&keys)).unwrap();
        let keys = Arc::new(keys);
        let unit = TestUnit {
            identity,
            keys,
            store: Arc::clone(&store),
            trust,
            clock: clock.clone(),
            refusals: StdMutex::default(),
        };
        let unit = Arc::new(unit);
        let granting: Arc<dyn Grantor> = Arc::<TestUnit>::clone(&unit);
        let budget = RecoveryBudget { within: Duration::from_secs(90 * 24 * 60 * 60), times: 3 };
        let enrolments = Enrolments::open(granting, Arc::clone(&tls), budget).await.unwrap();
        Self { directory, clock, store, tls, unit, enrolments: Arc::new(enrolments) }
    }

    /// The process ends and starts again: what was durable is there, nothing else.
    pub(crate) async fn restart(self) -> Self {
        let Self { directory, clock, store, .. } = self;
        let keys = UnitKeys::load(&directory.path().join("keys/BOS")).unwrap();
        Self::open(directory, clock, store, keys).await
    }

    pub(crate) async fn invite(&self, child: &str, level: Level, addresses: &[&str]) -> Token {
        self.offer((child, level), addresses, None).await
    }

    /// An invitation, or an offer for the root with that key id.
    pub(crate) async fn offer(
        &self,
        (child, level): (&str, Level),
        addresses: &[&str],
        adopts: Option<String>,
    ) -> Token {
        let invite = Invite {
            child: code(child),
            level,
            title: format!("title of {child}"),
            valid_for_ms: None,
            addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
            by: Actor::node(),
            order: None,
            adopts,
        };
        let token = self.enrolments.invite(invite).await.unwrap().token;
        token.to_text().parse().unwrap()
    }

    pub(super) async fn token(&self) -> Token {
        self.invite("BOS-01", Level::District, &["nowhere:1"]).await
    }

    pub(super) fn keys(&self, name: &str) -> UnitKeys {
        let path = self.directory.path().join(name);
        UnitKeys::load_or_generate(&path, Suite::Ed25519, &code("BOS-01"), "boston.example", NOW)
            .unwrap()
    }

    async fn status(&self) -> TokenStatus {
        self.enrolments.tokens().await.unwrap().remove(0)
    }
}

pub(super) fn application(token: &Token, keys: &UnitKeys) -> Application {
    let application = Application {
        token_id: token.id,
        secret: token.secret.clone(),
        unit: token.unit.clone(),
        level: token.level,
        keys: keys.public_keys(),
        ca_sha256: keys.ca_sha256(),
        certificate_request: certificates::request(&keys.tls).unwrap(),
        host: "district-host".to_owned(),
        clock_unix_ms: NOW,
        adopted: None,
    };
    Application::read(application.prove(&keys.statement)).unwrap()
}

pub(super) fn peer_of(certificate: &[u8]) -> Peer {
    let certified = certificates::read(certificate).unwrap();
    Peer { unit: certified.unit, key_sha256: certified.key_sha256 }
}

#[tokio::test]
async fn a_child_reserves_and_confirms_and_its_delegation_starts_then() {
    let city = City::new("boston.example").await;
    let token = city.token().await;
    let keys = city.keys("child");
    let reserved = city.enrolments.reserve(FROM, &application(&token, &keys)).await.unwrap();
    assert_eq!(reserved.reserved_until_unix_ms, NOW + 10 * MINUTE);
    assert!(city.enrolments.children().await.unwrap().is_empty(), "reserved is not joined");
    city.clock.set(NOW + 5 * MINUTE);
    let peer = peer_of(&reserved.certificate);
    let chain = city.enrolments.confirm(&peer, &token.id).await.unwrap();
    assert_eq!(chain.len(), 2);
    let trust = city.unit.trust();
    let own = &trust.delegation(&code("BOS-01"), None).unwrap().delegation;
    assert_eq!(own.not_before_unix_ms, NOW + 5 * MINUTE);
    assert_eq!(own.not_after_unix_ms, NOW + 5 * MINUTE + 365 * DAY);
    assert_eq!(own.keys, keys.public_keys());
    assert_eq!(own.ca_sha256, Some(keys.ca_sha256()));
    assert_eq!(own.host, "district-host");
    assert_eq!(own.title, "title of BOS-01");
}

#[tokio::test]
async fn every_step_can_be_repeated_by_the_same_keys_and_survives_restarts() {
    let city = City::new("boston.example").await;
    let token = city.token().await;
    let keys = city.keys("child");
    city.enrolments.reserve(FROM, &application(&token, &keys)).await.unwrap();
    let city = city.restart().await;
    let reserved = city.enrolments.reserve(FROM, &application(&token, &keys)).await.unwrap();
    let peer = peer_of(&reserved.certificate);
    let city = city.restart().await;
    let chain = city.enrolments.confirm(&peer, &token.id).await.unwrap();
    let city = city.restart().await;
    assert_eq!(city.enrolments.confirm(&peer, &token.id).await.unwrap(), chain);
    // The child lost the answer and its certificate, and begins anew: long after the token's end.
    city.clock.set(NOW + 20 * DAY);
    let again = city.enrolments.reserve(FROM, &application(&token, &keys)).await.unwrap();
    assert_eq!(peer_of(&again.certificate), peer);
    assert_eq!(city.enrolments.confirm(&peer, &token.id).await.unwrap(), chain);
    assert_eq!(city.enrolments.children().await.unwrap().len(), 1);
    assert_eq!(city.status().await.refused, 0);
}

#[tokio::test]
async fn a_second_key_is_refused_and_reported_until_the_reservation_ends() {
    let city = City::new("boston.example").await;
    let token = city.token().await;
    let (first, second) = (city.keys("first"), city.keys("second"));
    let reserved = city.enrolments.reserve(FROM, &application(&token, &first)).await.unwrap();
    let error = city.enrolments.reserve(FROM, &application(&token, &second)).await.unwrap_err();
    assert!(matches!(error, Error::Reserved { .. }), "{error}");
    assert!(error.to_string().contains("tell its parent"), "{error}");
    assert_eq!(city.status().await.refused, 1);
    assert_eq!(city.status().await.refused_unix_ms, NOW);
    // The first never came back: after ten minutes the token is for whoever comes next.
    city.clock.set(NOW + 10 * MINUTE);
    let late = city.enrolments.confirm(&peer_of(&reserved.certificate), &token.id).await;
    assert!(matches!(late, Err(Error::NotReserved)));
    let taken = city.enrolments.reserve(FROM, &application(&token, &second)).await.unwrap();
    // The certificate of the first is still valid, and must not spend the second's token.
    let stale = city.enrolments.confirm(&peer_of(&reserved.certificate), &token.id).await;
    assert!(matches!(stale, Err(Error::Reserved { .. })));
    city.enrolments.confirm(&peer_of(&taken.certificate), &token.id).await.unwrap();
    let error = city.enrolments.reserve(FROM, &application(&token, &first)).await.unwrap_err();
    assert!(matches!(error, Error::Spent(_)), "{error}");
    let stale = city.enrolments.confirm(&peer_of(&reserved.certificate), &token.id).await;
    assert!(matches!(stale, Err(Error::Spent(_))));
    assert_eq!(city.status().await.refused, 4);
}

#[tokio::test]
async fn one_changed_key_is_another_child() {
    let city = City::new("boston.example").await;
    let token = city.token().await;
    let (first, second) = (city.keys("first"), city.keys("second"));
    city.enrolments.reserve(FROM, &application(&token, &first)).await.unwrap();
    let mut mixed = application(&token, &first);
    mixed.keys = application(&token, &second).keys;
    mixed.keys.retain(|key| key.key_use != KeyUse::Statement);
    mixed.keys.extend(first.public_keys().into_iter().take(1));
    let error = city.enrolments.reserve(FROM, &mixed).await.unwrap_err();
    assert!(matches!(error, Error::Reserved { .. }), "{error}");
    let mut mixed = application(&token, &first);
    mixed.certificate_request = certificates::request(&second.tls).unwrap();
    assert!(matches!(city.enrolments.reserve(FROM, &mixed).await, Err(Error::Reserved { .. })));
    let mut mixed = application(&token, &first);
    mixed.ca_sha256 = second.ca_sha256();
    assert!(matches!(city.enrolments.reserve(FROM, &mixed).await, Err(Error::Reserved { .. })));
}

#[tokio::test]
async fn an_expired_token_is_refused_with_the_remedy() {
    let city = City::new("boston.example").await;
    let token = city.token().await;
    city.clock.set(token.expires_unix_ms);
    let error =
        city.enrolments.reserve(FROM, &application(&token, &city.keys("a"))).await.unwrap_err();
    assert_eq!(error.to_string(), "the token has expired; ask BOS for a new one");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
}

#[tokio::test]
async fn a_foreign_token_and_a_wrong_secret_look_the_same() {
    let city = City::new("boston.example").await;
    let other = City::new("cambridge.example").await;
    let foreign = other.token().await;
    let keys = city.keys("a");
    let unknown = city.enrolments.reserve(FROM, &application(&foreign, &keys)).await.unwrap_err();
    let mut guessed = city.token().await;
    guessed.secret[31] ^= 1;
    let wrong = city.enrolments.reserve(FROM, &application(&guessed, &keys)).await.unwrap_err();
    assert_eq!(unknown.to_string(), wrong.to_string());
    assert_eq!(wrong.kind(), ErrorKind::Unauthenticated);
    assert_eq!(city.status().await.state, TokenState::Open);
}

#[tokio::test]
async fn the_secret_is_not_in_the_store() {
    let city = City::new("boston.example").await;
    let token = city.token().await;
    city.enrolments.reserve(FROM, &application(&token, &city.keys("a"))).await.unwrap();
    let secret = hex::encode(token.secret.as_slice());
    for value in city.store.lock().values() {
        assert!(!value.windows(32).any(|window| window == token.secret.as_slice()));
        assert!(!String::from_utf8_lossy(value).contains(&secret));
    }
}

#[tokio::test]
async fn a_child_with_keys_of_a_suite_that_the_root_does_not_accept_is_refused() {
    let city = City::new("boston.example").await;
    let token = city.token().await;
    let unit = code("BOS-01");
    let keys = UnitKeys::generate_in(Suite::Sm2Sm3, &unit, "boston.example", NOW).unwrap();
    let error = city.enrolments.reserve(FROM, &application(&token, &keys)).await.unwrap_err();
    let Error::Trust(refused) = &error else { panic!("{error:?}") };
    assert_eq!(refused.reason(), "suite-not-accepted");
    assert!(error.to_string().contains("sm2-sm3"), "{error}");
    // The token is as it was: the same unit can join with keys that are accepted.
    let keys = city.keys("again");
    assert!(city.enrolments.reserve(FROM, &application(&token, &keys)).await.is_ok());
}

#[tokio::test]
async fn a_child_that_claims_another_unit_or_level_is_refused() {
    let city = City::new("boston.example").await;
    let token = city.token().await;
    let keys = city.keys("a");
    let mut other = application(&token, &keys);
    other.unit = code("BOS-02");
    let error = city.enrolments.reserve(FROM, &other).await.unwrap_err();
    assert!(error.to_string().contains("for BOS-01, a district, not for BOS-02"), "{error}");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let mut other = application(&token, &keys);
    other.level = Level::Street;
    assert!(matches!(city.enrolments.reserve(FROM, &other).await, Err(Error::OtherUnit { .. })));
    let reserved = city.enrolments.reserve(FROM, &application(&token, &keys)).await.unwrap();
    let peer = Peer { unit: code("BOS-02"), ..peer_of(&reserved.certificate) };
    let error = city.enrolments.confirm(&peer, &token.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn confirming_without_a_reservation_is_refused() {
    let city = City::new("boston.example").await;
    let token = city.token().await;
    let peer = Peer { unit: code("BOS-01"), key_sha256: [7; 32] };
    let confirmed = city.enrolments.confirm(&peer, &token.id).await;
    assert!(matches!(confirmed, Err(Error::NotReserved)));
    assert!(matches!(city.enrolments.confirm(&peer, &[0; 16]).await, Err(Error::UnknownToken(_))));
}

#[tokio::test]
async fn nothing_is_told_before_it_is_durable() {
    let city = City::new("boston.example").await;
    let token = city.token().await;
    let application = application(&token, &city.keys("a"));
    city.store.full.store(true, Ordering::Relaxed);
    let error = city.enrolments.reserve(FROM, &application).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    city.store.full.store(false, Ordering::Relaxed);
    let reserved = city.enrolments.reserve(FROM, &application).await.unwrap();
    city.store.full.store(true, Ordering::Relaxed);
    let peer = peer_of(&reserved.certificate);
    assert!(matches!(city.enrolments.confirm(&peer, &token.id).await, Err(Error::Store(_))));
    assert!(city.unit.trust().delegation(&code("BOS-01"), None).is_none());
    city.store.full.store(false, Ordering::Relaxed);
    city.enrolments.confirm(&peer, &token.id).await.unwrap();
}

#[tokio::test]
async fn only_lower_units_that_are_new_are_invited() {
    let city = City::new("boston.example").await;
    let token = city.token().await;
    let second = city.token().await;
    let keys = city.keys("a");
    let reserved = city.enrolments.reserve(FROM, &application(&token, &keys)).await.unwrap();
    city.enrolments.confirm(&peer_of(&reserved.certificate), &token.id).await.unwrap();
    let invite = |child: &str, level| Invite {
        child: code(child),
        level,
        title: String::new(),
        valid_for_ms: None,
        addresses: vec!["a:1".to_owned()],
        by: Actor::node(),
        order: None,
        adopts: None,
    };
    let refused = async |invite| city.enrolments.invite(invite).await.unwrap_err();
    let again = refused(invite("BOS-01", Level::District)).await;
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert!(matches!(refused(invite("BOS", Level::District)).await, Error::Elsewhere { .. }));
    assert!(matches!(refused(invite("BOS-9", Level::City)).await, Error::Level { .. }));
    let silent = Invite { addresses: Vec::new(), ..invite("BOS-9", Level::Street) };
    assert!(matches!(refused(silent).await, Error::NoAddress));
    let past = Invite { valid_for_ms: Some(0), ..invite("BOS-9", Level::Street) };
    assert!(matches!(refused(past).await, Error::Malformed(_)));
    // A token that was made before the child joined does not let in a second one.
    let other = city.enrolments.reserve(FROM, &application(&second, &city.keys("b"))).await;
    assert!(matches!(other, Err(Error::AlreadyJoined(_))));
}

#[tokio::test]
async fn a_delegation_ends_with_its_issuers() {
    let city = City::new("boston.example").await;
    city.clock.set(NOW + (3650 - 100) * DAY);
    let token = city.token().await;
    let reserved =
        city.enrolments.reserve(FROM, &application(&token, &city.keys("a"))).await.unwrap();
    city.enrolments.confirm(&peer_of(&reserved.certificate), &token.id).await.unwrap();
    let known = city.unit.trust().delegation(&code("BOS-01"), None).unwrap().clone();
    assert_eq!(known.delegation.not_after_unix_ms, NOW + 3650 * DAY);
    let keys = UnitKeys::generate(&code("BOS-03"), "boston.example", NOW).unwrap();
    city.clock.set(NOW + 3650 * DAY - MINUTE);
    let token = city.invite("BOS-03", Level::District, &["a:1"]).await;
    let reserved = city.enrolments.reserve(FROM, &application(&token, &keys)).await.unwrap();
    city.clock.set(NOW + 3650 * DAY);
    let confirmed = city.enrolments.confirm(&peer_of(&reserved.certificate), &token.id).await;
    assert!(matches!(confirmed, Err(Error::IssuerExpired(_))));
}

#[tokio::test]
async fn a_root_that_was_cut_off_keeps_its_keys() {
    let directory = tempfile::tempdir().unwrap();
    let root = City::root(&directory, "boston.example", &SetClock::at(NOW));
    let first = root.clone().create().await.unwrap();
    let second = root.clone().create().await.unwrap();
    assert_eq!(first.keys.public_keys(), second.keys.public_keys());
    assert_eq!(first.identity.root_key, second.identity.root_key);
    assert_eq!(first.identity.ca_certificate, second.identity.ca_certificate);
    let bad = NewRoot { trust_domain: "Boston Example".to_owned(), ..root };
    assert!(matches!(bad.create().await, Err(JoinError::Malformed(_))));
}

#[tokio::test]
async fn an_identity_under_another_root_is_never_replaced() {
    let city = City::new("boston.example").await;
    let directory = tempfile::tempdir().unwrap();
    let other = City::root(&directory, "boston.example", &city.clock).create().await.unwrap();
    let error = other.identity.persist(city.store.as_ref(), 1, act()).await.unwrap_err();
    assert!(matches!(error, IdentityError::Other { .. }), "{error}");
    city.unit.identity.persist(city.store.as_ref(), 1, act()).await.unwrap();
    let known = Identity::load(city.store.as_ref(), &code("BOS")).await.unwrap().unwrap();
    assert_eq!(known, city.unit.identity);
}

/// A parent at hand, that a test can make lie.
struct LyingDoor<'a> {
    city: &'a City,
    lie: fn(&mut Reserved, &mut Vec<Envelope>),
}

#[async_trait]
impl Door for LyingDoor<'_> {
    async fn reserve(
        &self,
        _: &str,
        _: &ParentPin,
        application: &Application,
        signer: &Signer,
    ) -> Result<Reserved, DoorError> {
        let application = Application::read(application.prove(signer))?;
        let mut reserved = self.city.enrolments.reserve(FROM, &application).await.unwrap();
        (self.lie)(&mut reserved, &mut Vec::new());
        Ok(reserved)
    }

    async fn confirm(
        &self,
        _: &str,
        _: &ParentPin,
        client: &UnitTls,
        token_id: [u8; 16],
    ) -> Result<Vec<Envelope>, DoorError> {
        let certificate = client.client_certificate.clone().unwrap();
        let chain = self.city.enrolments.confirm(&peer_of(&certificate), &token_id).await;
        let mut chain = chain.unwrap();
        let ca_certificate = self.city.unit.keys.ca_certificate.clone();
        let mut reserved = Reserved {
            certificate,
            ca_certificate,
            clock_unix_ms: NOW,
            reserved_until_unix_ms: NOW,
            chain: Vec::new(),
        };
        (self.lie)(&mut reserved, &mut chain);
        Ok(chain)
    }

    async fn rotate(
        &self,
        _: &str,
        _: &ParentPin,
        _: &UnitTls,
        _: ProvenRequest,
    ) -> Result<Vec<Envelope>, DoorError> {
        Err(DoorError::Broken("nobody asks this parent for other keys".to_owned()))
    }
}

async fn joined_with(lie: fn(&mut Reserved, &mut Vec<Envelope>)) -> Result<Joined, JoinError> {
    let city = City::new("boston.example").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let token = city.invite("BOS-01", Level::District, &[&address]).await;
    let tls = Arc::clone(&city.tls);
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            drop(tls.accept(stream).await);
        }
    });
    let directory = city.directory.path().join("child");
    let joining = Joining {
        token: &token,
        keys_directory: (&directory).into(),
        host: "",
        door: &LyingDoor { city: &city, lie },
        clock: Arc::new(city.clock.clone()),
        adopted: None,
    };
    let joined = joining.run().await;
    serving.abort();
    joined
}

#[tokio::test]
async fn an_answer_that_does_not_fit_the_token_is_refused() {
    assert!(joined_with(|_, _| {}).await.is_ok());
    let mismatch = async |lie| match joined_with(lie).await {
        Err(JoinError::Mismatch(what)) => what,
        other => panic!("{other:?}"),
    };
    let other_ca = |reserved: &mut Reserved, _: &mut Vec<Envelope>| {
        reserved.ca_certificate = reserved.certificate.clone();
    };
    assert_eq!(mismatch(other_ca).await, "the CA is another one");
    let other_unit = |reserved: &mut Reserved, _: &mut Vec<Envelope>| {
        let keys = UnitKeys::generate(&code("BOS-02"), "boston.example", NOW).unwrap();
        let tls = UnitTls::new(&code("BOS-02"), "boston.example", &keys, None, NOW).unwrap();
        reserved.certificate = tls.server_certificate;
    };
    assert_eq!(mismatch(other_unit).await, "the certificate names another unit");
    let other_key = |reserved: &mut Reserved, _: &mut Vec<Envelope>| {
        let keys = UnitKeys::generate(&code("BOS-01"), "boston.example", NOW).unwrap();
        let tls = UnitTls::new(&code("BOS-01"), "boston.example", &keys, None, NOW).unwrap();
        reserved.certificate = tls.server_certificate;
    };
    assert_eq!(mismatch(other_key).await, "the certificate is for another key");
    let cut = |_: &mut Reserved, chain: &mut Vec<Envelope>| chain.truncate(1);
    assert_eq!(mismatch(cut).await, "the chain does not reach this unit");
    let headless = joined_with(|_, chain| drop(chain.drain(..chain.len().min(1)))).await;
    assert!(matches!(headless, Err(JoinError::Trust(_))), "{headless:?}");
    let forged = |_: &mut Reserved, chain: &mut Vec<Envelope>| {
        if let Some(last) = chain.last_mut() {
            let mut payload = last.payload.to_vec();
            let end = payload.len() - 1;
            payload[end] ^= 1;
            last.payload = payload.into();
        }
    };
    assert!(matches!(joined_with(forged).await, Err(JoinError::Trust(_))));
}
