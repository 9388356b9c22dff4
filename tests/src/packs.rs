//! Packs made by hand, with keys that a test holds: valid ones of any size, and ones that somebody
//! tampered with at any depth, signed again as deep as the test likes.

use std::collections::BTreeMap;

use lianxi_node::{
    domain::{
        component::Component,
        delegation::{Delegation, KeyChange, KeyUse, PublicKey, Suite},
        distinct::{self, Distinct},
        histogram::Histogram,
        journal::{self, Leaf},
        period::Period,
        revocation::{Reason, Revocation},
        summary::{Child, Coverage, FigureKey, FigureSet, Figures, Summary, SummaryKind, roll_up},
        unit::{Level, UnitCode},
    },
    identity::issue,
    statement::{
        Envelope, SaltedCell,
        catalogue::{CatalogueBody, encode_body as encode_catalogue},
        header::{self, Classification, Header, StatementId, kinds},
        journal::{Evidence, encode as journal_bytes},
        pack::{Head, HeldRevocations, MAGIC, Packed, Part, SealBody, Sealed, Writer, encode_seal},
        revocation::Proven,
        summary::{encode_body, seal},
    },
    verify::RootKey,
};
use lianxi_proto::{
    envelope::{self, STATEMENT_TYPE, Signer, payload_sha256},
    merkle,
    note::{self, Checkpoint},
    types::v1::{PackPart, pack_part},
};
use prost::Message as _;
use sha2::{Digest, Sha256};

/// Statements that stand in a file alone, beside summaries; the last one is of a kind that this program
/// does not know.
pub const SINGLE: [&str; 12] = [
    kinds::NOTICE,
    kinds::RECEIPT,
    kinds::ESCALATION,
    kinds::ESCALATION_EVENT,
    kinds::REJECTION,
    kinds::LEAVE,
    kinds::REFORM,
    kinds::ALARM,
    kinds::EPOCH,
    kinds::KEY_GRANT,
    kinds::REVOCATION,
    "lianxi.minutes.v1",
];

/// Trust domain of the packs.
pub const DOMAIN: &str = "packs.example";

/// Period of the packs.
pub const PERIOD: &str = "2026-07";

/// When everything is signed.
pub const NOW: i64 = 1_785_600_000_000;

const DAY: i64 = 24 * 60 * 60 * 1000;

/// Label of the catalogue.
const CATALOGUE: &str = "packs@1";

/// A unit of the tree.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its code.
    pub code: UnitCode,
    /// Its level.
    pub level: Level,
    /// Its parent.
    pub parent: Option<UnitCode>,
}

/// A tree of units whose every key is known.
#[derive(Clone, Debug)]
pub struct City {
    /// A parent before its children.
    pub members: Vec<Member>,
    /// True if some distinct counts are too large for an exact set.
    pub sketches: bool,
}

/// A summary that was made, still open to change.
#[derive(Clone, Debug)]
pub struct Made {
    /// What it will sign; root and count of cells are set when it is signed.
    pub summary: Summary,
    /// Its figures.
    pub figures: FigureSet,
}

/// A signed summary.
#[derive(Clone, Debug)]
pub struct Signed {
    /// What it signs.
    pub made: Made,
    /// As it travels.
    pub packed: Packed,
}

/// A pack in parts, to be changed and sealed.
#[derive(Clone, Debug)]
pub struct Parts {
    /// What the file is.
    pub head: Head,
    /// Delegations.
    pub delegations: Vec<Envelope>,
    /// Revocations.
    pub revocations: Vec<Proven>,
    /// The catalogue.
    pub catalogue: Option<Envelope>,
    /// Statements.
    pub statements: Vec<Packed>,
}

impl City {
    /// City `C` with districts `C-1`, …, each with as many streets, each with as many communities.
    pub fn new(districts: usize, streets: usize, communities: usize) -> Self {
        let mut city = Self { members: Vec::new(), sketches: false };
        city.add("C", Level::City, None);
        for district in 1..=districts {
            let district = city.add(&format!("C-{district}"), Level::District, Some("C"));
            for street in 1..=streets {
                let street = format!("{district}-{street}");
                let street = city.add(&street, Level::Street, Some(district.as_str()));
                for community in 1..=communities {
                    let community = format!("{street}-{community}");
                    city.add(&community, Level::Community, Some(street.as_str()));
                }
            }
        }
        city
    }

    fn add(&mut self, code: &str, level: Level, parent: Option<&str>) -> UnitCode {
        let code: UnitCode = code.parse().unwrap();
        let parent = parent.map(|parent| parent.parse().unwrap());
        self.members.push(Member { code: code.clone(), level, parent });
        code
    }

    /// The public root key.
    pub fn root_key(&self) -> RootKey {
        RootKey::new(DOMAIN.to_owned(), key("root").verifying_key()).unwrap()
    }

    /// Everybody's delegation, issuers before issued.
    pub fn delegations(&self) -> Vec<Envelope> {
        self.members.iter().map(|member| self.delegation(member, |_| {})).collect()
    }

    /// A delegation that was changed before it was signed by its issuer.
    pub fn delegation(&self, member: &Member, change: impl FnOnce(&mut Delegation)) -> Envelope {
        let mut delegation = grant(member);
        change(&mut delegation);
        let signer = match &member.parent {
            None => key("root"),
            Some(parent) => delegation_key(parent),
        };
        issue::sign(&delegation, &signer, NOW - 10 * DAY)
    }

    /// A revocation by `by` of `unit` with the keys of its grant, changed before it was signed an hour
    /// before the export.
    pub fn revocation(
        &self,
        by: &str,
        unit: &str,
        change: impl FnOnce(&mut Revocation, &mut i64),
    ) -> Proven {
        let [by, unit]: [UnitCode; 2] = [by.parse().unwrap(), unit.parse().unwrap()];
        let keys = [statement_key(&unit), delegation_key(&unit)];
        let mut revocation = Revocation {
            trust_domain: DOMAIN.to_owned(),
            unit,
            desk: None,
            key_ids: keys.iter().map(|key| key.key_id().to_owned()).collect(),
            serial: 1,
            compromised_since_unix_ms: None,
            reason: Reason::KeyStolen,
            text: String::new(),
        };
        let mut time_unix_ms = NOW - 60 * 60 * 1000;
        change(&mut revocation, &mut time_unix_ms);
        let signer = if revocation.unit == by { key("root") } else { delegation_key(&by) };
        let is_above = |member: &&Member| {
            by == member.code || by.as_str().starts_with(&format!("{}-", member.code))
        };
        let chain = self.members.iter().filter(is_above);
        Proven {
            revocation: issue::sign_revocation(&revocation, &by, &signer, time_unix_ms),
            chain: chain.map(|member| self.delegation(member, |_| {})).collect(),
            place: None,
        }
    }

    /// The catalogue, as the city publishes it.
    pub fn catalogue(&self) -> Envelope {
        let body = CatalogueBody {
            name: "packs".to_owned(),
            version: 1,
            document: br#"{"indicators":[{"id":"received","title":"Received"}]}"#.to_vec(),
            active_from_unix_ms: 0,
        };
        let source = &self.members[0].code;
        let header = header(source, kinds::CATALOGUE, NOW - DAY);
        sign(&header, &encode_catalogue(&body), &statement_key(source))
    }

    /// Everybody's summary, from below, each with the figures that `change` leaves it.
    pub fn summaries(
        &self,
        mut change: impl FnMut(&UnitCode, &mut Made),
    ) -> BTreeMap<UnitCode, Signed> {
        let mut signed: BTreeMap<UnitCode, Signed> = BTreeMap::new();
        let mut below: BTreeMap<&UnitCode, Vec<&UnitCode>> = BTreeMap::new();
        for (number, member) in self.members.iter().enumerate().rev() {
            let children = below.remove(&member.code).unwrap_or_default();
            let children = children.into_iter().map(|child| (child.clone(), known(&signed[child])));
            let own = own_figures(number as u64, self.sketches);
            let (subtree, coverage) = roll_up(&own, &children.collect());
            let figures = FigureSet { own, subtree };
            let mut made = Made { summary: summary(&member.code, coverage), figures };
            change(&member.code, &mut made);
            let mut one = made.sign(&statement_key(&member.code));
            // Everybody is witnessed by the unit above; the root by its first child.
            let witness = member.parent.as_ref().or(self.members.get(1).map(|it| &it.code));
            let witnesses: Vec<&UnitCode> = witness.into_iter().collect();
            one.packed.evidence = Some(evidence(&member.code, &one.packed.envelope, &witnesses));
            signed.insert(member.code.clone(), one);
            if let Some(parent) = &member.parent {
                below.entry(parent).or_default().push(&member.code);
            }
        }
        signed
    }

    /// A valid pack in parts.
    pub fn parts(&self) -> Parts {
        self.parts_of(&self.summaries(|_, _| {}))
    }

    /// A file of one statement that is no summary, by `unit`, witnessed by its parent or the city.
    pub fn single(&self, unit: &str, kind: &str) -> Parts {
        let member = &self.members[self.parts().position(unit)];
        let header = header(&member.code, kind, NOW - DAY);
        let body = format!("what a {kind} says");
        let envelope = sign(&header, body.as_bytes(), &statement_key(&member.code));
        let parent = member.parent.as_ref().unwrap_or(&self.members[1].code);
        let evidence = Some(evidence(&member.code, &envelope, &[parent]));
        let mut parts = self.parts();
        parts.head.period = String::new();
        parts.head.unit = member.code.clone();
        parts.statements = vec![Packed { envelope, cells: Vec::new(), evidence }];
        parts
    }

    /// A pack of summaries in parts.
    pub fn parts_of(&self, signed: &BTreeMap<UnitCode, Signed>) -> Parts {
        let statements = self
            .members
            .iter()
            .filter_map(|member| signed.get(&member.code))
            .map(|one| one.packed.clone());
        let head = Head {
            trust_domain: DOMAIN.to_owned(),
            exporter: self.members[0].code.clone(),
            exported_unix_ms: NOW,
            unit: self.members[0].code.clone(),
            period: PERIOD.to_owned(),
            missing: Vec::new(),
        };
        Parts {
            head,
            delegations: self.delegations(),
            revocations: Vec::new(),
            catalogue: Some(self.catalogue()),
            statements: statements.collect(),
        }
    }
}

impl Made {
    /// Seals the cells and signs.
    pub fn sign(mut self, signer: &Signer) -> Signed {
        let sealed = seal(&self.figures).unwrap();
        self.summary.cells_root = sealed.root;
        self.summary.cells_count = sealed.cells.len().try_into().unwrap();
        self.sign_over(sealed.cells, signer)
    }

    /// Signs as it is, whatever the cells are.
    pub fn sign_over(self, cells: Vec<SaltedCell>, signer: &Signer) -> Signed {
        let header = header(&self.summary.unit, kinds::SUMMARY, NOW - DAY / 2);
        let envelope = sign(&header, &encode_body(&self.summary), signer);
        let evidence = Some(evidence(&self.summary.unit, &envelope, &[]));
        Signed { made: self, packed: Packed { envelope, cells, evidence } }
    }
}

impl Parts {
    /// The file, sealed by its exporter.
    pub fn seal(&self) -> Vec<u8> {
        let exporter = self.head.exporter.clone();
        self.seal_as(&statement_key(&exporter), |_, _| {})
    }

    /// The file, sealed by any key with any header.
    pub fn seal_as(
        &self,
        signer: &Signer,
        change: impl FnOnce(&mut Header, &mut SealBody),
    ) -> Vec<u8> {
        let (mut writer, mut file) = Writer::begin();
        file.extend(writer.part(Part::Head(self.head.clone())).unwrap());
        for envelope in &self.delegations {
            file.extend(writer.part(Part::Delegation(envelope.clone())).unwrap());
        }
        for proven in &self.revocations {
            file.extend(writer.part(Part::Revocation(proven.clone())).unwrap());
        }
        if let Some(envelope) = &self.catalogue {
            file.extend(writer.part(Part::Catalogue(envelope.clone())).unwrap());
        }
        for packed in &self.statements {
            file.extend(writer.part(Part::Statement(packed.clone())).unwrap());
        }
        let mut body = SealBody { sealed: writer.sealed(), held: Some(held(&self.revocations)) };
        let mut header = header(&self.head.exporter, kinds::PACK, self.head.exported_unix_ms);
        header.dataschema = String::new();
        change(&mut header, &mut body);
        file.extend(writer.seal(sign(&header, &encode_seal(&body), signer)).unwrap());
        file
    }

    /// Position of a unit's statement.
    pub fn position(&self, unit: &str) -> usize {
        let is_of = |packed: &Packed| {
            let statement = header::decode(&packed.envelope.payload).unwrap();
            statement.header.source.as_str() == unit
        };
        self.statements.iter().position(is_of).unwrap()
    }
}

/// A key that follows from its name.
pub fn key(name: &str) -> Signer {
    let mut seed = [0; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    Signer::from_seed(&seed)
}

/// The unit that signed a statement.
pub fn source(envelope: &Envelope) -> UnitCode {
    header::decode(&envelope.payload).unwrap().header.source
}

/// A unit's journal with the statement between two other leaves, its checkpoint cosigned by
/// `witnesses` an hour after it was signed.
pub fn evidence(unit: &UnitCode, envelope: &Envelope, witnesses: &[&UnitCode]) -> Evidence {
    let statement = header::decode(&envelope.payload).unwrap().header;
    let named = journal::Statement {
        id: *statement.id.as_bytes(),
        kind: statement.kind,
        source: statement.source.clone(),
        payload_sha256: payload_sha256(envelope),
    };
    let leaf = if *unit == statement.source {
        Leaf::StatementOut(named)
    } else {
        Leaf::StatementIn(named)
    };
    let leaf = journal_bytes(NOW - DAY / 2, &leaf);
    let [before, after] =
        [[1; 32], [2; 32]].map(|it| merkle::leaf_hash(&journal_bytes(NOW, &Leaf::Config(it))));
    let own = merkle::leaf_hash(&leaf);
    let checkpoint = Checkpoint {
        origin: note::origin(DOMAIN, unit.as_str()),
        size: 3,
        root: merkle::root(&[before, own, after]),
    };
    let mut signed = checkpoint.sign(&statement_key(unit));
    for witness in witnesses {
        let time_unix_s = u64::try_from((NOW - DAY / 2) / 1_000 + 3_600).unwrap();
        let name = note::origin(DOMAIN, witness.as_str());
        signed.cosign(&name, &statement_key(witness), time_unix_s);
    }
    Evidence { leaf, leaf_index: 1, inclusion: vec![before, after], checkpoint: signed.to_string() }
}

/// The STATEMENT key of a unit.
pub fn statement_key(unit: &UnitCode) -> Signer {
    key(&format!("{unit}/s"))
}

/// The DELEGATION key of a unit.
pub fn delegation_key(unit: &UnitCode) -> Signer {
    key(&format!("{unit}/d"))
}

fn grant(member: &Member) -> Delegation {
    let public = |signer: Signer, key_use| PublicKey {
        suite: Suite::Ed25519,
        bytes: signer.public_key().to_vec(),
        key_use,
    };
    Delegation {
        trust_domain: DOMAIN.to_owned(),
        unit: member.code.clone(),
        level: member.level,
        issuer: member.parent.clone(),
        not_before_unix_ms: NOW - 10 * DAY,
        not_after_unix_ms: NOW + 300 * DAY,
        keys: vec![
            public(statement_key(&member.code), KeyUse::Statement),
            public(delegation_key(&member.code), KeyUse::Delegation),
        ],
        ca_sha256: Some([1; 32]),
        host: String::new(),
        desk: None,
        line: String::new(),
        title: format!("Unit {}", member.code),
        serial: 1,
        accepted_suites: Vec::new(),
        change: KeyChange::default(),
        reform: None,
    }
}

/// A header of `source`.
pub fn header(source: &UnitCode, kind: &str, time_unix_ms: i64) -> Header {
    Header {
        id: StatementId::generate(time_unix_ms),
        source: source.clone(),
        kind: kind.to_owned(),
        subject: String::new(),
        time_unix_ms,
        dataschema: CATALOGUE.to_owned(),
        epoch: 1,
        seq: 1,
        purpose: "joint-meeting".to_owned(),
        classification: Classification::Internal,
        exercise: false,
        destination: None,
        traceparent: String::new(),
        on_behalf_of: None,
        sealing: None,
        handed_by: Default::default(),
    }
}

/// Signs a statement.
pub fn sign(header: &Header, body: &[u8], signer: &Signer) -> Envelope {
    envelope::sign(STATEMENT_TYPE, header::encode(header, body), &[signer])
}

fn summary(unit: &UnitCode, coverage: Coverage) -> Summary {
    Summary {
        unit: unit.clone(),
        period: PERIOD.parse::<Period>().unwrap(),
        kind: SummaryKind::Reported,
        version: 1,
        supersedes: None,
        cells_root: [0; 32],
        cells_count: 0,
        coverage,
        as_of_unix_ms: NOW - DAY / 2,
    }
}

fn known(signed: &Signed) -> Child {
    Child::Reported {
        coverage: signed.made.summary.coverage.clone(),
        subtree: signed.made.figures.subtree.clone(),
        payload_sha256: payload_sha256(&signed.packed.envelope),
        version: signed.made.summary.version,
    }
}

/// The name of a figure.
pub fn figure(indicator: &str, group: &str) -> FigureKey {
    FigureKey { indicator: indicator.to_owned(), version: 1, group: group.to_owned() }
}

/// Every kind of component; groups that not every unit has.
fn own_figures(number: u64, sketches: bool) -> Figures {
    let signed = i64::try_from(number).unwrap();
    let group = ["pothole", "water", "fire"][usize::try_from(number % 3).unwrap()];
    let mut places = Distinct::default();
    for place in 0..if sketches && number % 3 == 2 { 600 } else { 2 } {
        places.insert(distinct::hash(format!("{} {place}", number % 5).as_bytes()));
    }
    let mut spread = Histogram::default();
    for value in 0..signed % 4 {
        assert!(spread.insert((signed - 3) * 7_919 * value));
    }
    Figures::from([
        (figure("received", ""), Component::Count(number + 1)),
        (figure("received", group), Component::Count(number + 1)),
        (
            figure("close_seconds", ""),
            Component::Sum { sum_milli: i128::from(signed * 1_234) - 5_000, terms: number },
        ),
        (figure("on_time", ""), Component::Ratio { numerator: number, denominator: number + 2 }),
        (
            figure("oldest", ""),
            Component::Extreme { min_milli: Some(-signed), max_milli: Some(signed * 7) },
        ),
        (figure("places", ""), Component::Distinct(places)),
        (figure("close_spread", ""), Component::Histogram(spread)),
    ])
}

/// What an exporter says that holds these revocations.
pub fn held(revocations: &[Proven]) -> HeldRevocations {
    let ids = revocations.iter().map(|proven| payload_sha256(&proven.revocation));
    let mut ids: Vec<[u8; 32]> = ids.collect();
    ids.sort_unstable();
    HeldRevocations {
        sha256: Sha256::digest(ids.concat()).into(),
        count: ids.len().try_into().unwrap(),
    }
}

/// Where each part of a file lies, its length not included.
pub fn part_ranges(file: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let mut at = MAGIC.len();
    while at < file.len() {
        let length = u32::from_be_bytes(file[at..at + 4].try_into().unwrap());
        let begin = at + 4;
        at = begin + usize::try_from(length).unwrap();
        ranges.push(begin..at);
    }
    ranges
}

/// Seals bytes that are no pack yet, or no longer, as `exporter` would.
pub fn reseal(mut file: Vec<u8>, exporter: &str) -> Vec<u8> {
    let exporter: UnitCode = exporter.parse().unwrap();
    let sealed = Sealed { sha256: Sha256::digest(&file).into(), size_bytes: file.len() as u64 };
    let body = SealBody { sealed, held: None };
    let mut header = header(&exporter, kinds::PACK, NOW);
    header.dataschema = String::new();
    let envelope = sign(&header, &encode_seal(&body), &statement_key(&exporter));
    let part = PackPart { kind: Some(pack_part::Kind::Seal(envelope)) }.encode_to_vec();
    file.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
    file.extend(part);
    file
}
