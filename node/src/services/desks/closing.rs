//! A desk is closed, or merged into another: what it has open goes to a named successor (工作交接).
//!
//! Promises that every open case has its successor before the desk's grant ends, on the day and not
//! before, and that a stop in between loses nothing: each step can be repeated. Clocks run on.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::{
    clock::UnixMillis,
    domain::{
        journal::{Act, Actor, Leaf},
        revocation::Reason,
        unit::DeskId,
    },
    services::{escalations::State, hosted::Hosted, revocations},
    store::{self, Batch, Table},
};

/// Names of the acts in the journal.
const ACT: &str = "desk.close";
const ORDERED: &str = "desk.close-order";

const VERSION: u8 = 1;

/// Which desk is closed, when, and who takes over.
#[derive(Clone, Debug)]
pub struct Order {
    /// The desk.
    pub desk: DeskId,
    /// Who takes over.
    pub successor: DeskId,
    /// First day without it.
    pub on: Date,
    /// Today.
    pub today: Date,
    /// When that day begins.
    pub begins_unix_ms: UnixMillis,
    /// For people.
    pub text: String,
    /// Who asks.
    pub by: Actor,
    /// Say what would be handed over, change nothing.
    pub dry_run: bool,
}

/// What is handed over.
#[derive(Clone, Debug)]
pub struct Closing {
    /// Open cases that the desk is called to.
    pub open: Vec<State>,
    /// True once the desk is closed.
    pub closed: bool,
}

/// A desk that is going to be closed. One version byte, then JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Row {
    desk: DeskId,
    successor: DeskId,
    begins_unix_ms: UnixMillis,
    text: String,
    by: String,
}

impl Row {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        serde_json::to_writer(&mut bytes, self).expect("invariant: a row is plain data");
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, store::Error> {
        let row = match bytes {
            [VERSION, json @ ..] => serde_json::from_slice(json).ok(),
            _ => None,
        };
        row.ok_or_else(|| store::Error::Engine("the order to close a desk is damaged".to_owned()))
    }
}

/// Closes a desk on its day: today at once, else when the day begins.
///
/// # Errors
///
/// [`Error`]; the refused attempt is in the journal.
pub async fn close(hosted: &Hosted, order: Order) -> Result<Closing, Error> {
    let (unit, by, desk) = (&hosted.unit, order.by.clone(), order.desk.clone());
    if let Err((error, word)) = check(hosted, &order) {
        unit.record(Act::refused(by, ACT, desk.as_str(), word)).await?;
        return Err(error);
    }
    let open = open_cases(hosted, &desk).await?;
    if order.dry_run {
        return Ok(Closing { open, closed: false });
    }
    let row = Row {
        desk: desk.clone(),
        successor: order.successor,
        begins_unix_ms: order.begins_unix_ms,
        text: order.text,
        by: by.as_str().to_owned(),
    };
    let now = unit.clock.now_unix_ms();
    let mut batch = Batch::new(&unit.code);
    batch.put(Table::DeskOrders, desk.as_str(), row.encode());
    batch.journal(now, &Leaf::Act(Act::done(by, ORDERED, subject(&row))));
    unit.store.submit(batch).await?;
    let closed = row.begins_unix_ms <= now;
    if closed {
        hand_over(hosted, &row).await?;
    }
    Ok(Closing { open, closed })
}

/// Closes the desks whose day has come.
///
/// # Errors
///
/// [`Error`]; what is left is done the next time.
pub async fn carry_on(hosted: &Hosted) -> Result<(), Error> {
    let unit = &hosted.unit;
    let rows = unit.store.scan(&unit.code, Table::DeskOrders, b"", None, usize::MAX).await?;
    for (_, value) in rows {
        let row = Row::decode(&value)?;
        if row.begins_unix_ms <= unit.clock.now_unix_ms() {
            hand_over(hosted, &row).await?;
        }
    }
    Ok(())
}

fn check(hosted: &Hosted, order: &Order) -> Result<(), (Error, &'static str)> {
    let unit = &hosted.unit;
    if order.desk == order.successor {
        return Err((Error::Itself(order.desk.clone()), "itself"));
    }
    let trust = unit.trust();
    for desk in [&order.desk, &order.successor] {
        let stands = trust.delegation(&unit.code, Some(desk)).is_some()
            && trust.revoked(&unit.code, Some(desk)).is_none();
        if !stands {
            let (unit, desk) = (unit.code.clone(), desk.clone());
            return Err((Error::Unknown { unit, desk }, "unknown-desk"));
        }
    }
    if order.on < order.today {
        return Err((Error::Backdated(order.on), "backdated"));
    }
    Ok(())
}

/// Open cases in which the desk acts.
async fn open_cases(hosted: &Hosted, desk: &DeskId) -> Result<Vec<State>, Error> {
    let unit = &hosted.unit;
    let mut open = hosted.escalations.list().await?;
    open.retain(|state| {
        state.case.as_ref().is_some_and(|case| {
            unit.is_own(&case.destination)
                && case.calls(desk)
                && !case.is_succeeded(desk)
                && !case.is_final()
        })
    });
    Ok(open)
}

fn subject(row: &Row) -> String {
    format!("{} to {}", row.desk, row.successor)
}

/// Cases first, then the grant, then the order goes: so nothing is left without an owner.
async fn hand_over(hosted: &Hosted, row: &Row) -> Result<(), Error> {
    let (unit, by) = (&hosted.unit, Actor::recorded(&row.by));
    for state in open_cases(hosted, &row.desk).await? {
        let (successor, former) = (&row.successor, Some(&row.desk));
        hosted.escalations.add_desk(state.id, successor, former, false).await?;
    }
    if unit.trust().revoked(&unit.code, Some(&row.desk)).is_none() {
        let order = revocations::Order {
            unit: unit.code.clone(),
            desk: Some(row.desk.clone()),
            key_id: None,
            compromised_since_unix_ms: None,
            reason: Reason::Closed,
            text: row.text.clone(),
        };
        revocations::revoke(hosted, &by, order, false).await?;
    }
    let mut batch = Batch::new(&unit.code);
    batch.delete(Table::DeskOrders, row.desk.as_str());
    batch.journal(unit.clock.now_unix_ms(), &Leaf::Act(Act::done(by, ACT, subject(row))));
    unit.store.submit(batch).await?;
    tracing::info!(unit = %unit.code, desk = %row.desk, successor = %row.successor, "desk closed");
    Ok(())
}
