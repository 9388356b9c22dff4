//! What people did and were told was done: the flat truth that the tree has to equal.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lianxi_node::{
    domain::{notice::Stage, unit::UnitCode},
    statement::header::{StatementId, kinds},
};
use serde_json::Value;

use super::city::City;

/// Documents that a record may be; `None`: it may not be there.
pub(super) type Possible = Vec<Option<Value>>;

/// Something that one unit did, and that was acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Entry<T> {
    pub(super) by: UnitCode,
    pub(super) at: Duration,
    /// A restore may have lost it, or withdrawn it and said so; where anybody got it, it holds as any
    /// other.
    pub(super) doubtful: bool,
    pub(super) what: T,
}

/// A notice that was issued.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) id: StatementId,
    pub(super) number: String,
    pub(super) addressed: Vec<UnitCode>,
}

/// A stage that a person marked.
#[derive(Clone, Debug)]
pub(super) struct Marked {
    pub(super) id: StatementId,
    pub(super) stage: Stage,
}

/// A whistle.
#[derive(Clone, Debug)]
pub(super) struct Raised {
    pub(super) id: StatementId,
    pub(super) number: String,
    pub(super) destination: UnitCode,
}

/// A statement that its receiver has to refuse.
#[derive(Clone, Debug)]
pub(super) struct Poison {
    pub(super) number: String,
    pub(super) payload_sha256: String,
    pub(super) parent: UnitCode,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    pub(super) records: BTreeMap<(UnitCode, String), Possible>,
    pub(super) notices: Vec<Entry<Issued>>,
    pub(super) marks: Vec<Entry<Marked>>,
    pub(super) whistles: Vec<Entry<Raised>>,
    pub(super) poison: Vec<Entry<Poison>>,
    /// Units that are importing.
    pub(super) busy: BTreeSet<UnitCode>,
    /// Units that were restored and have opened no epoch since.
    pub(super) unsettled: BTreeSet<UnitCode>,
    /// Units that were restored together with their parent, which so forgot their numbers too.
    pub(super) blind: BTreeSet<UnitCode>,
    next_record: u64,
}

impl Ledger {
    /// A key that no record has.
    pub(super) fn new_key(&mut self) -> String {
        self.next_record += 1;
        format!("R{:06}", self.next_record)
    }

    /// Keys of a unit's records.
    pub(super) fn keys(&self, unit: &UnitCode) -> Vec<String> {
        let from = (unit.clone(), String::new());
        let own = self.records.range(from..).take_while(|((of, _), _)| of == unit);
        own.map(|((_, key), _)| key.clone()).collect()
    }

    /// Documents are on their way in.
    pub(super) fn begin(&mut self, unit: &UnitCode, documents: &[(String, Value)]) {
        for (key, document) in documents {
            let possible = self.records.entry((unit.clone(), key.clone()));
            possible.or_insert_with(|| vec![None]).push(Some(document.clone()));
        }
    }

    /// They were acknowledged: nothing else may be there.
    pub(super) fn acknowledged(&mut self, unit: &UnitCode, documents: &[(String, Value)]) {
        for (key, document) in documents {
            self.records.insert((unit.clone(), key.clone()), vec![Some(document.clone())]);
        }
    }

    pub(super) fn entry<T>(&self, by: &UnitCode, at: Duration, what: T) -> Entry<T> {
        Entry { by: by.clone(), at, doubtful: false, what }
    }

    /// The units said that they withdrew statements of these types and subjects.
    pub(super) fn withdraw(&mut self, withdrawn: &BTreeSet<(UnitCode, String)>) {
        let is_withdrawn = |by: &UnitCode, kind: &str, number: &str| {
            withdrawn.contains(&(by.clone(), format!("{kind} {number}")))
        };
        for entry in &mut self.notices {
            entry.doubtful |= is_withdrawn(&entry.by, kinds::NOTICE, &entry.what.number);
        }
        for entry in &mut self.whistles {
            entry.doubtful |= is_withdrawn(&entry.by, kinds::ESCALATION, &entry.what.number);
        }
        for entry in &mut self.poison {
            entry.doubtful |= is_withdrawn(&entry.by, kinds::NOTICE, &entry.what.number);
        }
    }

    /// What is known of the records of one host.
    pub(super) fn of_host(&self, city: &City, host: &UnitCode) -> Self {
        let is_there = |unit: &UnitCode| city.member(unit).host == *host;
        let records = self.records.iter().filter(|((unit, _), _)| is_there(unit));
        Self {
            records: records.map(|(key, possible)| (key.clone(), possible.clone())).collect(),
            ..Self::default()
        }
    }

    /// The store of a host is again as it was when `before` was known.
    pub(super) fn go_back(&mut self, city: &City, host: &UnitCode, before: &Self, taken: Duration) {
        let is_there = |unit: &UnitCode| city.member(unit).host == *host;
        self.records.retain(|(unit, _), _| !is_there(unit));
        self.records.extend(before.records.clone());
        self.unsettled.extend(city.hosted(host).map(|member| member.code.clone()));
        let together = city.hosted(host).filter(|member| member.code != *host);
        self.blind.extend(together.map(|member| member.code.clone()));
        let is_lost = |by: &UnitCode, at: Duration| is_there(by) && at >= taken;
        for entry in &mut self.notices {
            entry.doubtful |= is_lost(&entry.by, entry.at);
        }
        for entry in &mut self.marks {
            entry.doubtful |= is_lost(&entry.by, entry.at);
        }
        for entry in &mut self.whistles {
            entry.doubtful |= is_lost(&entry.by, entry.at);
        }
        for entry in &mut self.poison {
            entry.doubtful |= is_lost(&entry.by, entry.at);
        }
    }
}
