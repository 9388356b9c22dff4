//! Alarms: signed, sent up, listed, handed to whoever tells people, and settled by two of them.

use std::collections::BTreeSet;

use lianxi_proto::note::{self, Note};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::{FORMAT, HELD, Held, Signed, Witness, held_key, read};
use crate::{
    clock::UnixMillis,
    domain::{
        journal::{Act, Actor, Alarm, Breach, Leaf},
        unit::UnitCode,
    },
    services::{
        error::{ErrorKind, ServiceError},
        exchange::{Lane, Witnessing},
        intake::{Arrived, Plan, Refused},
        unit::{Draft, Error},
    },
    statement::{
        header::{StatementId, kinds},
        journal,
    },
    store::{self, Batch, Table, format},
};

/// Rows of [`Table::Witnessed`]: alarms by time and statement.
const ALARM: &[u8] = b"alarm/";

/// Rows of [`Table::Witnessed`]: alarms that somebody outside was told of, by id.
const TOLD: &[u8] = b"told/";

/// Alarms read at once.
const PAGE: usize = 200;

/// An alarm that this unit raised or took in.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct AlarmRow {
    /// Id of the statement.
    pub id: String,
    /// Unit whose journal does not go on.
    pub unit: UnitCode,
    /// `rollback` or `split-view`.
    pub breach: String,
    /// Unit that raised it.
    pub witness: UnitCode,
    /// When it was raised, by the witness's clock.
    pub time_unix_ms: UnixMillis,
    /// Checkpoint that was held: a signed note.
    pub held: String,
    /// Checkpoint that was offered: a signed note.
    pub offered: String,
    /// What people found. Absent in rows from before alarms were settled.
    #[serde(default)]
    pub settled: Option<Settled>,
}

/// What two people found out about an alarm.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Settled {
    /// When.
    pub at_unix_ms: UnixMillis,
    /// Who stands for it.
    pub approvers: Vec<String>,
    /// What they found.
    pub text: String,
}

/// Why an alarm was not settled.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// No such alarm.
    #[error("there is no alarm {0} here; see `lianxi journal alarms`")]
    Unknown(String),
    /// It is settled.
    #[error("the alarm was settled by {0} already")]
    Again(String),
    /// Fewer than two people, or one twice.
    #[error("two people have to stand for it: name both with --approved-by")]
    Approvers,
    /// Nothing was said of what was found.
    #[error("say what was found, in 1 to 500 characters")]
    Text,
    /// The store failed.
    #[error("cannot store it")]
    Store(#[from] store::Error),
}

impl SettleError {
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Unknown(_) => Some("not-found"),
            Self::Again(_) => Some("settled"),
            Self::Approvers => Some("approvers"),
            Self::Text => Some("text"),
            Self::Store(_) => None,
        }
    }
}

impl ServiceError for SettleError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown(_) => ErrorKind::NotFound,
            Self::Again(_) => ErrorKind::AlreadyExists,
            Self::Approvers | Self::Text => ErrorKind::InvalidArgument,
            Self::Store(error) => error.kind(),
        }
    }
}

/// Longest text of what was found, in characters.
const MAX_FOUND: usize = 500;

impl AlarmRow {
    fn key(&self, id: StatementId) -> Vec<u8> {
        [ALARM, &self.time_unix_ms.to_be_bytes(), id.as_bytes()].concat()
    }
}

fn told_key(id: &str) -> Vec<u8> {
    [TOLD, id.as_bytes()].concat()
}

impl Witness {
    /// Alarms from now on, raised here or taken in.
    pub fn alarms(&self) -> broadcast::Receiver<AlarmRow> {
        self.alarms.subscribe()
    }

    /// Alarms that were raised here or taken in, the oldest first.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn list_alarms(&self) -> Result<Vec<AlarmRow>, store::Error> {
        Ok(self.alarm_rows().await?.into_iter().map(|(_, _, row)| row).collect())
    }

    /// Keys, stored rows and alarms.
    async fn alarm_rows(&self) -> Result<Vec<(Vec<u8>, Vec<u8>, AlarmRow)>, store::Error> {
        let (mut found, mut after) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let (store, unit) = (&self.unit.store, &self.unit.code);
            let rows = store.scan(unit, Table::Witnessed, ALARM, after.as_deref(), PAGE).await?;
            let full = rows.len() == PAGE;
            after = rows.last().map(|(key, _)| key.clone());
            for (key, row) in rows {
                let alarm = format::read(FORMAT, &row)?;
                found.push((key, row, alarm));
            }
            if !full {
                return Ok(found);
            }
        }
    }

    /// What is held of neighbours' journals, by unit.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn list_held(&self) -> Result<Vec<(UnitCode, Held)>, store::Error> {
        let store = &self.unit.store;
        let rows = store.scan(&self.unit.code, Table::Witnessed, HELD, None, usize::MAX).await?;
        let held = rows.into_iter().filter_map(|(key, row)| {
            let unit = str::from_utf8(&key[HELD.len()..]).ok()?.parse().ok()?;
            Some(format::read(FORMAT, &row).map(|held| (unit, held)))
        });
        held.collect()
    }

    /// Refuses what does not go on from what was seen, and raises an alarm, unless one was raised
    /// about this breach of what is held.
    pub(super) async fn breach(
        &self,
        peer: &UnitCode,
        breach: Breach,
        (seen, held): (&Signed, &Held),
        offered: &Signed,
        consistency: &[[u8; 32]],
    ) -> Result<Witnessing, store::Error> {
        let refused = Witnessing::Refused { reason: breach.as_str().to_owned() };
        if held.breaches.iter().any(|known| known == breach.as_str()) {
            return Ok(refused);
        }
        let alarm = self.evidence_of_breach(peer.clone(), breach, seen, offered, consistency);
        let mut breaches = held.breaches.clone();
        breaches.push(breach.as_str().to_owned());
        let held = Held { breaches, ..held.clone() };
        let written = (held_key(peer), None, format::write(FORMAT, &held));
        self.raise(alarm, written, self.unit.parent()).await?;
        Ok(refused)
    }

    /// An alarm about `unit`: what was seen of its journal, and what was offered.
    pub(super) fn evidence_of_breach(
        &self,
        unit: UnitCode,
        breach: Breach,
        seen: &Signed,
        offered: &Signed,
        consistency: &[[u8; 32]],
    ) -> Alarm {
        let origin = &seen.checkpoint.origin;
        let mut evidence = seen.note.only(origin);
        evidence.merge(&seen.note.only(self.journal.origin()));
        Alarm {
            unit,
            breach,
            held: evidence.to_string(),
            offered: offered.note.only(origin).to_string(),
            consistency: consistency.to_vec(),
        }
    }

    /// Signs and keeps an alarm in one commit with what is held (key, its former row, its next one),
    /// sends it to `parent`, and tells of it. Gives its id.
    pub(super) async fn raise(
        &self,
        alarm: Alarm,
        (key, before, after): (Vec<u8>, Option<Vec<u8>>, Vec<u8>),
        parent: Option<UnitCode>,
    ) -> Result<String, store::Error> {
        let mut work = self.unit.begin().await;
        work.batch.urgent();
        let draft = Draft::new(kinds::ALARM, alarm.unit.as_str(), journal::encode_alarm(&alarm));
        let signed = work.sign(&draft).map_err(|error| match error {
            Error::Store(error) => error,
            Error::TooLarge(_) | Error::NoDesk(_) | Error::Seal(_) => {
                store::Error::Engine(format!("cannot sign an alarm: {error}"))
            }
        })?;
        let row = AlarmRow {
            id: signed.id.to_string(),
            unit: alarm.unit,
            breach: alarm.breach.as_str().to_owned(),
            witness: self.unit.code.clone(),
            time_unix_ms: signed.time_unix_ms,
            held: alarm.held,
            offered: alarm.offered,
            settled: None,
        };
        if let Some(before) = before {
            work.batch.require(Table::Witnessed, key.clone(), before);
        }
        work.batch.put(Table::Witnessed, key, after);
        work.batch.put(Table::Witnessed, row.key(signed.id), format::write(FORMAT, &row));
        if let Some(parent) = &parent {
            work.enqueue(parent, Lane::Escalation, signed.id);
        }
        work.commit().await?;
        let id = row.id.clone();
        self.tell(row);
        Ok(id)
    }

    /// Settles an alarm: two people say what they found. It stays listed, and evidence stays evidence.
    ///
    /// # Errors
    ///
    /// [`SettleError`].
    pub async fn settle_alarm(
        &self,
        by: Actor,
        id: &str,
        approvers: Vec<String>,
        text: &str,
        dry_run: bool,
    ) -> Result<AlarmRow, SettleError> {
        const ACT: &str = "journal.alarm.settle";
        match self.settling(id, approvers, text).await {
            Ok((_, _, row)) if dry_run => Ok(row),
            Ok((key, before, row)) => {
                let mut batch = Batch::new(&self.unit.code);
                batch.require(Table::Witnessed, key.clone(), before);
                batch.put(Table::Witnessed, key, format::write(FORMAT, &row));
                let act = Leaf::Act(Act::done(by, ACT, id));
                batch.journal(self.unit.clock.now_unix_ms(), &act);
                self.unit.store.submit(batch).await?;
                Ok(row)
            }
            Err(error) => {
                if let Some(reason) = error.reason() {
                    let source = by.to_string();
                    self.unit.record_refusal(&source, Act::refused(by, ACT, id, reason)).await?;
                }
                Err(error)
            }
        }
    }

    async fn settling(
        &self,
        id: &str,
        approvers: Vec<String>,
        text: &str,
    ) -> Result<(Vec<u8>, Vec<u8>, AlarmRow), SettleError> {
        let found = self.alarm_rows().await?.into_iter().find(|(_, _, row)| row.id == id);
        let (key, before, row) = found.ok_or_else(|| SettleError::Unknown(id.to_owned()))?;
        if let Some(settled) = &row.settled {
            return Err(SettleError::Again(settled.approvers.join(", ")));
        }
        let are_two = matches!(&approvers[..], [one, other] if one != other && !one.is_empty());
        if !are_two || approvers.iter().any(|name| name.trim().is_empty() || name.len() > 64) {
            return Err(SettleError::Approvers);
        }
        let text = text.trim().to_owned();
        if text.is_empty() || text.chars().count() > MAX_FOUND {
            return Err(SettleError::Text);
        }
        let settled = Settled { at_unix_ms: self.unit.clock.now_unix_ms(), approvers, text };
        Ok((key, before, AlarmRow { settled: Some(settled), ..row }))
    }

    /// Open alarms that nobody outside was told of, the oldest first.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn untold_alarms(&self) -> Result<Vec<AlarmRow>, store::Error> {
        let (store, unit) = (&self.unit.store, &self.unit.code);
        let told = store.scan(unit, Table::Witnessed, TOLD, None, usize::MAX).await?;
        let told: BTreeSet<Vec<u8>> = told.into_iter().map(|(key, _)| key).collect();
        let mut alarms = self.list_alarms().await?;
        alarms.retain(|alarm| alarm.settled.is_none() && !told.contains(&told_key(&alarm.id)));
        Ok(alarms)
    }

    /// Remembers that somebody outside was told of an alarm.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn alarm_is_told(&self, id: &str) -> Result<(), store::Error> {
        let mut batch = Batch::new(&self.unit.code);
        batch.urgent();
        let now = self.unit.clock.now_unix_ms();
        batch.put(Table::Witnessed, told_key(id), format::write(FORMAT, &now));
        self.unit.store.submit(batch).await
    }

    /// Alarms that nobody has settled.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn open_alarms(&self) -> Result<u64, store::Error> {
        let alarms = self.list_alarms().await?;
        Ok(alarms.iter().filter(|alarm| alarm.settled.is_none()).count() as u64)
    }

    /// Takes in an alarm that a unit below raised.
    ///
    /// # Errors
    ///
    /// [`Refused`]: no alarm, or its checkpoints are not signed by the unit that it is about.
    pub fn take_alarm(self: &std::sync::Arc<Self>, arrived: &Arrived) -> Result<Plan, Refused> {
        let alarm = journal::decode_alarm(&arrived.statement.body)?;
        let origin = note::origin(&self.unit.trust_domain, alarm.unit.as_str());
        let keys = self.unit.trust().statement_keys(&alarm.unit, None);
        for (field, text) in [("body.held", &alarm.held), ("body.offered", &alarm.offered)] {
            if read(text, &origin, &keys).is_none() {
                let detail = format!("is no checkpoint that {} signed", alarm.unit);
                return Err(Refused::new("malformed", field, detail));
            }
        }
        let row = AlarmRow {
            id: arrived.id().to_string(),
            unit: alarm.unit,
            breach: alarm.breach.as_str().to_owned(),
            witness: arrived.source().clone(),
            time_unix_ms: arrived.statement.header.time_unix_ms,
            held: alarm.held,
            offered: alarm.offered,
            settled: None,
        };
        let written = (Table::Witnessed, row.key(arrived.id()), format::write(FORMAT, &row));
        let told = std::sync::Arc::clone(self);
        Ok(Plan {
            writes: vec![written],
            relay: self.unit.parent().into_iter().collect(),
            settled: Some(Box::new(move || told.tell(row))),
            ..Plan::default()
        })
    }

    fn tell(&self, row: AlarmRow) {
        let size = |note: &str| Note::parse(note).and_then(Signed::of).map(|it| it.checkpoint.size);
        tracing::error!(
            unit = %row.unit, witness = %row.witness, reason = row.breach,
            held_size = size(&row.held).unwrap_or_default(),
            offered_size = size(&row.offered).unwrap_or_default(),
            "the journal of a unit does not go on from what was seen of it: ask who restored or \
             changed its store, see `lianxi journal alarms`"
        );
        if let Some(breach) = Breach::of(&row.breach) {
            self.unit.metrics.journal_alarm(breach.as_str());
        }
        // Nobody may be listening.
        let _ = self.alarms.send(row);
    }
}
