//! Many children of one parent that do nothing but link: real keys, grants, handshakes, sessions and
//! pauses between two tries, without a store and without records.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use lianxi_node::{
    clock::{Clock as _, SystemClock, UnixMillis},
    domain::{
        delegation::Delegation,
        epoch::{Number, Reach},
        preview::Program,
        unit::UnitCode,
    },
    identity::{
        certificates, issue,
        keys::UnitKeys,
        tls::{ParentPin, Purpose, UnitTls, connect},
        trust::Trust,
    },
    link::{
        LinkHost, Options, Uplink,
        dial::{Dial, Io},
    },
    services::{
        enrolments::{Identity, put_delegation},
        exchange::{
            Arrival, Cursor, Departure, Error, Exchange, Lane, LinkEvent, Meeting, Occasion, Page,
            Parcel, Question, Refusal, Seen, Standing, Witnessing,
        },
    },
    statement::{Envelope, revocation::Proven},
    store::{
        Batch, Commit, Store as _, Table,
        sled::{self, SledStore},
    },
    watch,
};
use serde_json::{Value, json};

/// Children that are written down with one commit.
const OF_A_COMMIT: usize = 50;

/// What happened to the links of all children.
#[derive(Debug, Default)]
pub struct Happened {
    /// Links that came up.
    pub up: AtomicUsize,
    /// Tries and links that ended, by what they said.
    pub down: Mutex<BTreeMap<String, usize>>,
}

/// Children of one parent.
pub struct Children {
    parent: UnitCode,
    ways: Vec<(Arc<Child>, Arc<Way>)>,
    happened: Arc<Happened>,
}

/// The stopped host of a parent, opened to write its children down.
struct Parent {
    code: UnitCode,
    keys: UnitKeys,
    trust: Trust,
    domain: String,
    store: SledStore,
    row: Value,
    grant: Delegation,
    now: UnixMillis,
}

impl Parent {
    /// `like`: a child that has joined, whose row and grant those of others are made after.
    async fn open(directory: &Path, code: &str, like: &str) -> Self {
        let (code, like): (UnitCode, UnitCode) = (code.parse().unwrap(), like.parse().unwrap());
        let store = SledStore::open(&directory.join("store"), sled::Options::default()).unwrap();
        let identity = Identity::load(&store, &code).await.unwrap().unwrap();
        let trust = identity.load_trust(&store).await.unwrap();
        let keys = UnitKeys::load(&directory.join("keys").join(code.as_str())).unwrap();
        let row = store.get(&code, Table::Children, like.as_str().as_bytes()).await.unwrap();
        let row = serde_json::from_slice(&row.unwrap()[1..]).unwrap();
        let grant = trust.delegation(&like, None).unwrap().delegation.clone();
        let (domain, now) = (identity.trust_domain, SystemClock.now_unix_ms());
        Self { code, keys, trust, domain, store, row, grant, now }
    }

    /// Grants a child its place, and puts what the parent keeps of it into `batch`.
    fn admit(&mut self, unit: &UnitCode, batch: &mut Batch) -> (UnitTls, Envelope) {
        let keys = UnitKeys::generate(unit, &self.domain, self.now).unwrap();
        let request = certificates::request(&keys.tls).unwrap();
        let issuer = (&self.keys.ca_certificate, &self.keys.ca);
        let client = certificates::issue_client(unit, &self.domain, &request, issuer, self.now);
        let tls = UnitTls::new(unit, &self.domain, &keys, client.ok(), self.now).unwrap();
        let certificate = certificates::read(tls.client_certificate.as_ref().unwrap()).unwrap();
        let grant = Delegation {
            unit: unit.clone(),
            title: unit.to_string(),
            keys: keys.public_keys(),
            ca_sha256: Some(keys.ca_sha256()),
            ..self.grant.clone()
        };
        let envelope = issue::sign(&grant, &self.keys.delegation, self.now);
        let checked = self.trust.check(&envelope, Some(self.now)).unwrap();
        put_delegation(batch, checked.known(), self.now);
        self.trust.add(&envelope, self.now).unwrap();
        let mut row = self.row.clone();
        row["unit"] = json!(unit.as_str());
        row["title"] = json!(unit.as_str());
        row["tls_key_sha256"] = json!(hex(&certificate.key_sha256));
        let row = [&[1], serde_json::to_vec(&row).unwrap().as_slice()].concat();
        batch.put(Table::Children, unit.as_str(), row);
        (tls, envelope)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Children {
    /// Writes `units` down as children of the stopped host in `directory`, which serves `parent` at
    /// `address`. `like` has joined there before. They hold `catalogue`.
    ///
    /// # Panics
    ///
    /// The host runs, or is another one.
    pub async fn of(
        (directory, parent, address): (&Path, &str, &str),
        like: &str,
        units: &[String],
        catalogue: &str,
    ) -> Self {
        let mut above = Parent::open(directory, parent, like).await;
        let (happened, still) = (Arc::new(Happened::default()), watch::Sender::new(0));
        let mut admitted = Vec::new();
        for units in units.chunks(OF_A_COMMIT) {
            let mut batch = Batch::new(&above.code);
            for unit in units {
                let unit: UnitCode = unit.parse().unwrap();
                let (tls, grant) = above.admit(&unit, &mut batch);
                admitted.push((unit, tls, grant));
            }
            above.store.submit(batch).await.unwrap();
        }
        let pin = ParentPin {
            unit: above.code.clone(),
            trust_domain: Some(above.domain.clone()),
            ca_sha256: above.keys.ca_sha256(),
            further: Vec::new(),
        };
        let ways = admitted.into_iter().map(|(unit, tls, grant)| {
            let child = Child {
                parent: above.code.clone(),
                domain: above.domain.clone(),
                chain: above.trust.chain(&unit),
                roster_sha256: above.trust.roster_sha256(&unit),
                revocations_sha256: above.trust.revocations_sha256(),
                unit,
                grant,
                catalogue: catalogue.to_owned(),
                happened: Arc::clone(&happened),
                still: still.clone(),
            };
            let way = Way { address: address.to_owned(), pin: pin.clone(), tls };
            (Arc::new(child), Arc::new(way))
        });
        let ways = ways.collect();
        above.store.close().await.unwrap();
        Self { parent: above.code, ways, happened }
    }

    /// Powers all of them up at once, in one host.
    pub fn power_up(&self) -> LinkHost {
        let host = LinkHost::new(Options::default(), Arc::new(SystemClock));
        for (child, way) in &self.ways {
            let dial: Arc<dyn Dial> = Arc::clone(way) as _;
            let uplink = Uplink::Through { parent: self.parent.clone(), dial };
            host.attach(Arc::clone(child) as _, Some(uplink));
        }
        host
    }

    /// What has happened to their links.
    pub fn happened(&self) -> &Happened {
        &self.happened
    }

    /// Does the handshake of the first child, and nothing after it.
    ///
    /// # Panics
    ///
    /// It is refused.
    pub async fn shake_hands(&self) {
        self.ways[0].1.dial().await.map(drop).unwrap();
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.ways.len()
    }
}

/// How a child reaches its parent.
struct Way {
    address: String,
    pin: ParentPin,
    tls: UnitTls,
}

#[async_trait]
impl Dial for Way {
    async fn dial(&self) -> Result<Box<dyn Io>, String> {
        let (tls, clock) = (Some(&self.tls), Arc::new(SystemClock));
        match connect(&self.address, &self.pin, Purpose::Link, tls, clock).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A child that has nothing to say and takes everything.
struct Child {
    unit: UnitCode,
    parent: UnitCode,
    domain: String,
    chain: Vec<Envelope>,
    grant: Envelope,
    roster_sha256: [u8; 32],
    revocations_sha256: [u8; 32],
    catalogue: String,
    happened: Arc<Happened>,
    still: watch::Sender<u64>,
}

#[async_trait]
impl Exchange for Child {
    fn unit(&self) -> &UnitCode {
        &self.unit
    }

    fn parent(&self) -> Option<UnitCode> {
        Some(self.parent.clone())
    }

    async fn standing(&self, _: &UnitCode) -> Result<Standing, Error> {
        Ok(Standing {
            trust_domain: self.domain.clone(),
            unit: self.unit.clone(),
            chain: self.chain.clone(),
            epoch: 1,
            received: Vec::new(),
            clock_unix_ms: SystemClock.now_unix_ms(),
            roster_sha256: self.roster_sha256,
            catalogue: self.catalogue.clone(),
            addresses: Vec::new(),
            revocations_sha256: self.revocations_sha256,
            seen: Seen::default(),
            opening: None,
            reach: Reach::default(),
            stopped: false,
            program: Program::own(),
        })
    }

    async fn meet(&self, _: &UnitCode, _: &Standing) -> Result<Meeting, Refusal> {
        Ok(Meeting::Open)
    }

    async fn roster(&self, _: &UnitCode) -> Result<Vec<Envelope>, Error> {
        Ok(vec![self.grant.clone()])
    }

    async fn introduce(&self, _: &UnitCode, _: Vec<Envelope>) -> Result<(), Error> {
        Ok(())
    }

    async fn held(&self, _: &UnitCode) -> Result<Option<[u8; 32]>, Error> {
        Ok(None)
    }

    async fn acquainted(&self, _: &UnitCode, _: [u8; 32]) -> Result<(), Error> {
        Ok(())
    }

    async fn revocations(&self) -> Vec<Proven> {
        Vec::new()
    }

    async fn take_revocations(&self, _: &UnitCode, _: Vec<Proven>) -> Result<(), Error> {
        Ok(())
    }

    async fn receive(&self, _: &UnitCode, _: Arrival) -> Result<Commit, Error> {
        let (resolve, commit) = Commit::pending();
        resolve.send(Ok(())).ok();
        Ok(commit)
    }

    async fn outgoing(
        &self,
        _: &UnitCode,
        _: Lane,
        _: u64,
        _: usize,
    ) -> Result<Vec<Departure>, Error> {
        Ok(Vec::new())
    }

    async fn acknowledged(&self, _: &UnitCode, _: Cursor) -> Result<(), Error> {
        Ok(())
    }

    fn outbox_changes(&self, _: &UnitCode) -> watch::Receiver<u64> {
        self.still.subscribe()
    }

    fn roster_changes(&self, _: &UnitCode) -> watch::Receiver<u64> {
        self.still.subscribe()
    }

    fn checkpoint_changes(&self) -> watch::Receiver<u64> {
        self.still.subscribe()
    }

    async fn witness(&self, _: &UnitCode, _: Occasion) -> Result<Vec<Witnessing>, Error> {
        Ok(Vec::new())
    }

    fn standing_changes(&self) -> watch::Receiver<u64> {
        self.still.subscribe()
    }

    async fn returns_wanted(&self, _: &UnitCode) -> Result<Option<Number>, Error> {
        Ok(None)
    }

    async fn take_returned(&self, _: &UnitCode, _: Page) -> Result<Option<Number>, Error> {
        Ok(None)
    }

    async fn returned(&self, _: &UnitCode, _: Number) -> Result<Page, Error> {
        Ok(Page { last: true, ..Page::default() })
    }

    async fn answer(&self, _: Question) -> Vec<Parcel> {
        Vec::new()
    }

    fn note(&self, _: &UnitCode, event: LinkEvent) {
        match event {
            LinkEvent::Up { .. } => {
                self.happened.up.fetch_add(1, Ordering::Relaxed);
            }
            LinkEvent::Resting { reason } | LinkEvent::Down { reason } => {
                *self.happened.down.lock().unwrap().entry(reason).or_default() += 1;
            }
        }
    }
}
