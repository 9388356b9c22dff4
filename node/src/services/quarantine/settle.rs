//! What becomes of refused statements: judged again, mended, or thrown away.
//!
//! A signed statement cannot be changed. What can be mended is what it needed and was not there, such as a
//! catalogue or a grant: then it holds when it is judged again. Else its sender makes another one.
//! Each settlement is one commit with its leaf, and its sender is told, signed.

use super::{Entry, find, kept, of_digest, reply};
use crate::{
    domain::journal::{Act, Actor, Leaf},
    services::{
        error::{ErrorKind, ServiceError},
        exchange::{Arrival, Cursor, Lane},
        hosted::{Hosted, Known, lanes_of},
        intake::{Plan, Refused, Undecided},
        unit,
    },
    statement::{
        header::{self, StatementId},
        rejection::{self, later},
    },
    store::{self, Batch, Table},
};

/// Most ids of one order.
const MAX_IDS: usize = 100;

/// Longest text to a sender, in bytes.
const MAX_TEXT_BYTES: usize = 200;

/// How often one statement is sent again: past it another one has to be made.
const MAX_TRIES: u32 = 3;

/// What is to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verb {
    /// Judge again.
    Replay,
    /// Take in what holds by now, ask the sender for another of the rest, send again what a neighbour
    /// refused.
    Fix,
    /// Throw away.
    Discard,
}

impl Verb {
    fn act(self) -> &'static str {
        match self {
            Self::Replay => "quarantine.replay",
            Self::Fix => "quarantine.fix",
            Self::Discard => "quarantine.discard",
        }
    }
}

/// An order of a person.
#[derive(Clone, Debug)]
pub struct Order {
    /// What is to be done.
    pub verb: Verb,
    /// With which.
    pub ids: Vec<String>,
    /// For the sender.
    pub text: String,
    /// Say what would be done, change nothing.
    pub dry_run: bool,
    /// Who asks.
    pub by: Actor,
}

/// What became of one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It holds, and was taken in.
    TakenIn,
    /// It does not hold.
    StillRefused(Refused),
    /// Its sender was asked for another.
    Asked,
    /// It was sent once more.
    SentAgain,
    /// It was thrown away.
    Discarded,
    /// Nothing was done.
    Cannot(&'static str),
}

/// One settled statement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settled {
    /// Its id.
    pub id: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No ids, or too many.
    #[error("name between 1 and 100 refused statements, see `lianxi quarantine list`")]
    Ids,
    /// The text is too long, or missing.
    #[error("say in 1 to 200 bytes why; the sender reads it")]
    Text,
    /// Nothing waits under the id.
    #[error("no refused statement waits under {0}; see `lianxi quarantine list`")]
    NotFound(String),
    /// The word to the sender could not be made.
    #[error("cannot tell the sender")]
    Unit(#[from] unit::Error),
    /// The store failed; those settled before stay settled.
    #[error("cannot settle a refused statement")]
    Store(#[from] store::Error),
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Ids | Self::Text => ErrorKind::InvalidArgument,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Unit(_) => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
        }
    }
}

/// Carries an order out, one statement after the other.
///
/// # Errors
///
/// [`Error`]; those settled before it stay settled.
pub async fn settle(hosted: &Hosted, order: &Order) -> Result<Vec<Settled>, Error> {
    if order.ids.is_empty() || order.ids.len() > MAX_IDS {
        return Err(Error::Ids);
    }
    let lacks_text = order.verb == Verb::Discard && order.text.trim().is_empty();
    if lacks_text || order.text.len() > MAX_TEXT_BYTES {
        return Err(Error::Text);
    }
    let mut settled = Vec::new();
    for id in &order.ids {
        let entry = find(hosted.unit.store.as_ref(), &hosted.unit.code, id).await?;
        let Some(entry) = entry else {
            // One of the same payload may have taken it along.
            if settled.is_empty() {
                return Err(Error::NotFound(id.clone()));
            }
            continue;
        };
        let outcome = match (order.verb, entry.refused_here) {
            (Verb::Discard, _) => discard(hosted, order, &entry).await?,
            (Verb::Replay | Verb::Fix, true) => judge_again(hosted, order, entry).await?,
            (Verb::Replay, false) => Outcome::Cannot(
                "the neighbour judges it; send it again with `lianxi quarantine fix`",
            ),
            (Verb::Fix, false) => send_again(hosted, order, entry).await?,
        };
        settled.push(Settled { id: id.clone(), outcome });
    }
    Ok(settled)
}

/// Takes every entry that one of this digest left here out of the batch's store.
async fn forget(hosted: &Hosted, batch: &mut Batch, entry: &Entry) -> Result<Vec<Entry>, Error> {
    let digest = entry.sha256();
    let mut gone = of_digest(&hosted.unit, &digest).await?;
    gone.retain(|one| one.refused_here == entry.refused_here && one.peer == entry.peer);
    for one in &gone {
        batch.delete(Table::Quarantine, one.key());
    }
    if entry.refused_here {
        for key in kept(&hosted.unit, &digest).await?.1 {
            batch.delete(Table::Quarantine, key);
        }
    }
    Ok(gone)
}

fn release(hosted: &Hosted, gone: &[Entry]) {
    let mut ledger = hosted.unit.quarantine();
    gone.iter().for_each(|one| ledger.release(&one.peer, one.size_bytes));
}

fn leaf(order: &Order, entry: &Entry) -> Leaf {
    let mut subject = entry.named();
    if !order.text.is_empty() {
        subject = format!("{subject}: {}", order.text);
    }
    Leaf::Act(Act::done(order.by.clone(), order.verb.act(), subject).about(entry.sha256()))
}

/// One commit: `batch`, its leaf, and the word to the sender.
async fn commit(
    hosted: &Hosted,
    mut batch: Batch,
    (order, entry): (&Order, &Entry),
    word: Option<&str>,
) -> Result<(), Error> {
    batch.journal(hosted.unit.clock.now_unix_ms(), &leaf(order, entry));
    let word = word.filter(|_| entry.refused_here && hosted.is_peer(&entry.peer));
    let reply = word.and_then(|word| reply(entry, word, &order.text));
    let Some(reply) = reply else { return Ok(hosted.unit.store.submit(batch).await?) };
    let mut work = hosted.unit.begin().await;
    work.batch = batch;
    let signed = work.sign(&reply.draft)?;
    work.enqueue(&reply.to, reply.lane, signed.id);
    Ok(work.commit().await?)
}

async fn discard(hosted: &Hosted, order: &Order, entry: &Entry) -> Result<Outcome, Error> {
    if !order.dry_run {
        let mut batch = Batch::new(&hosted.unit.code);
        let gone = forget(hosted, &mut batch, entry).await?;
        commit(hosted, batch, (order, entry), Some(later::DISCARDED)).await?;
        release(hosted, &gone);
    }
    Ok(Outcome::Discarded)
}

/// The delivery that a refused statement once was, in a lane of its type.
fn arrival(refused: rejection::Refused) -> Arrival {
    let kind = header::decode(&refused.envelope.payload).map(|statement| statement.header.kind);
    let lane = kind.ok().and_then(|kind| lanes_of(&kind).first().copied());
    let cursor = Cursor { lane: lane.unwrap_or(Lane::Bulk), link_epoch: 0, lane_seq: 0 };
    let rejection::Refused { envelope, cells, evidence } = refused;
    Arrival { cursor, after: 0, envelope, cells, evidence }
}

async fn judge_again(hosted: &Hosted, order: &Order, entry: Entry) -> Result<Outcome, Error> {
    if !hosted.is_peer(&entry.peer) {
        return Ok(Outcome::Cannot("its sender is parent or child no more; discard it"));
    }
    let Some(refused) = kept(&hosted.unit, &entry.sha256()).await?.0 else {
        if order.verb == Verb::Fix {
            return ask(hosted, order, entry).await;
        }
        return Ok(Outcome::Cannot("it was not kept; ask for it with `lianxi quarantine fix`"));
    };
    let arrival = arrival(refused);
    match hosted.judge(&entry.peer, &arrival).await {
        Ok((plan, known)) if !order.dry_run => {
            take(hosted, order, &entry, &arrival, (plan, known)).await?;
            Ok(Outcome::TakenIn)
        }
        Ok(_) => Ok(Outcome::TakenIn),
        Err(Undecided::Store(error)) => Err(error.into()),
        Err(Undecided::Refused(_)) if order.verb == Verb::Fix => ask(hosted, order, entry).await,
        Err(Undecided::Refused(refused)) => {
            if !order.dry_run {
                note(hosted, order, entry, &refused).await?;
            }
            Ok(Outcome::StillRefused(refused))
        }
    }
}

/// One commit: what the statement does, the statement, the leaves, and nothing waits any more.
async fn take(
    hosted: &Hosted,
    order: &Order,
    entry: &Entry,
    arrival: &Arrival,
    (mut plan, known): (Plan, Known),
) -> Result<(), Error> {
    let mut batch = Batch::new(&hosted.unit.code);
    let gone = forget(hosted, &mut batch, entry).await?;
    hosted.keep_for(&mut batch, &entry.peer, arrival, &known);
    plan.leaves.push(leaf(order, entry));
    plan.replies.extend(reply(entry, later::WITHDRAWN, ""));
    hosted.submit(batch, arrival, plan, known).await?.await?;
    release(hosted, &gone);
    Ok(())
}

/// Notes that it does not hold today either.
async fn note(
    hosted: &Hosted,
    order: &Order,
    mut entry: Entry,
    refused: &Refused,
) -> Result<(), Error> {
    let act = Act::refused(order.by.clone(), order.verb.act(), entry.named(), refused.reason);
    let act = act.about(entry.sha256());
    entry.tries += 1;
    refused.reason.clone_into(&mut entry.reason);
    entry.field.clone_from(&refused.field);
    entry.detail = refused.detail.chars().take(super::MAX_DETAIL_CHARS).collect();
    let mut batch = Batch::new(&hosted.unit.code);
    entry.put(&mut batch);
    batch.journal(hosted.unit.clock.now_unix_ms(), &Leaf::Act(act));
    Ok(hosted.unit.store.submit(batch).await?)
}

/// Asks the sender for a corrected one.
async fn ask(hosted: &Hosted, order: &Order, mut entry: Entry) -> Result<Outcome, Error> {
    if reply(&entry, later::CORRECT, "").is_none() {
        return Ok(Outcome::Cannot("a rejection is not asked for again; discard it"));
    }
    if !order.dry_run {
        entry.asked = if order.text.is_empty() { entry.detail.clone() } else { order.text.clone() };
        let mut batch = Batch::new(&hosted.unit.code);
        entry.put(&mut batch);
        let told = Order { text: entry.asked.clone(), ..order.clone() };
        commit(hosted, batch, (&told, &entry), Some(later::CORRECT)).await?;
    }
    Ok(Outcome::Asked)
}

/// Sends what a neighbour refused once more, as it was signed.
async fn send_again(hosted: &Hosted, order: &Order, mut entry: Entry) -> Result<Outcome, Error> {
    if !hosted.is_peer(&entry.peer) {
        return Ok(Outcome::Cannot("the neighbour is parent or child no more; discard it"));
    }
    if entry.tries >= MAX_TRIES {
        return Ok(Outcome::Cannot(
            "it was sent again three times; make another one and discard it",
        ));
    }
    let id = hex::decode(&entry.statement_id).unwrap_or_default();
    let id = StatementId::try_from(&id[..]).ok();
    let envelope = match id {
        Some(id) => hosted.unit.statement(id).await?,
        None => None,
    };
    let is_it = |envelope: &_| lianxi_proto::envelope::payload_sha256(envelope) == entry.sha256();
    let statement = envelope.filter(is_it).and_then(|it| header::decode(&it.payload).ok());
    let lane = statement.and_then(|it| lanes_of(&it.header.kind).first().copied());
    let Some((id, lane)) = id.zip(lane) else {
        return Ok(Outcome::Cannot(
            "it is not held here any more; make another one and discard it",
        ));
    };
    if !order.dry_run {
        entry.tries += 1;
        let mut work = hosted.unit.begin().await;
        entry.put(&mut work.batch);
        work.journal(&leaf(order, &entry));
        work.enqueue(&entry.peer, lane, id);
        work.commit().await?;
    }
    Ok(Outcome::SentAgain)
}
