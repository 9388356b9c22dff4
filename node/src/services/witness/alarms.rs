//! Alarms: signed, sent up, listed, and handed to whoever tells people.

use lianxi_proto::note::{self, Note};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::{FORMAT, HELD, Held, Signed, Witness, held_key, read};
use crate::{
    clock::UnixMillis,
    domain::{
        journal::{Alarm, Breach},
        unit::UnitCode,
    },
    services::{
        exchange::{Lane, Witnessing},
        intake::{Arrived, Plan, Refused},
        unit::{Draft, Error},
    },
    statement::{
        header::{StatementId, kinds},
        journal,
    },
    store::{self, Table, format},
};

/// Rows of [`Table::Witnessed`]: alarms by time and statement.
const ALARM: &[u8] = b"alarm/";

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
}

impl AlarmRow {
    fn key(&self, id: StatementId) -> Vec<u8> {
        [ALARM, &self.time_unix_ms.to_be_bytes(), id.as_bytes()].concat()
    }
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
        let (mut found, mut after) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let (store, unit) = (&self.unit.store, &self.unit.code);
            let rows = store.scan(unit, Table::Witnessed, ALARM, after.as_deref(), PAGE).await?;
            for (_, row) in &rows {
                found.push(format::read(FORMAT, row)?);
            }
            match rows.last() {
                Some((key, _)) if rows.len() == PAGE => after = Some(key.clone()),
                _ => return Ok(found),
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
        let origin = &seen.checkpoint.origin;
        let mut evidence = seen.note.only(origin);
        evidence.merge(&seen.note.only(self.journal.origin()));
        let alarm = Alarm {
            unit: peer.clone(),
            breach,
            held: evidence.to_string(),
            offered: offered.note.only(origin).to_string(),
            consistency: consistency.to_vec(),
        };
        let mut work = self.unit.begin().await;
        work.batch.urgent();
        let draft = Draft::new(kinds::ALARM, peer.as_str(), journal::encode_alarm(&alarm));
        let signed = work.sign(&draft).map_err(|error| match error {
            Error::Store(error) => error,
            Error::TooLarge(_) | Error::NoDesk(_) | Error::Seal(_) => {
                store::Error::Engine(format!("cannot sign an alarm: {error}"))
            }
        })?;
        let row = AlarmRow {
            id: signed.id.to_string(),
            unit: peer.clone(),
            breach: breach.as_str().to_owned(),
            witness: self.unit.code.clone(),
            time_unix_ms: signed.time_unix_ms,
            held: alarm.held,
            offered: alarm.offered,
        };
        let mut breaches = held.breaches.clone();
        breaches.push(breach.as_str().to_owned());
        let held = Held { breaches, ..held.clone() };
        work.batch.put(Table::Witnessed, held_key(peer), format::write(FORMAT, &held));
        work.batch.put(Table::Witnessed, row.key(signed.id), format::write(FORMAT, &row));
        if let Some(parent) = &self.unit.parent() {
            work.enqueue(parent, Lane::Escalation, signed.id);
        }
        work.commit().await?;
        self.tell(row);
        Ok(refused)
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
