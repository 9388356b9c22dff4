//! Writing files for a neighbour.
//!
//! Every export holds all that the neighbour has not acknowledged: a file that was lost costs
//! nothing but the way. Each of its files stands alone, with who the sender is and the keys that its
//! statements need.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{
    Codec, EXPORT, Error, Message,
    rows::{InRow, OutRow, load_in, load_out, put_out},
};
use crate::{
    domain::{
        courier::{MAX_FILE_BYTES, MIN_FILE_BYTES, USUAL_FILE_BYTES, Withheld},
        epoch::Number,
        journal::{Act, Actor, Leaf},
        unit::UnitCode,
    },
    identity::{sealed::Reader, sealed_file},
    services::{
        exchange::{Arrival, Departure, Exchange as _, Lane, Standing, Witnessing},
        hosted::Hosted,
        unit::Draft,
    },
    statement::{
        Envelope,
        courier::{self as file, BLOCK_BYTES, MAX_BLOCKS, Manifest},
        header::{self, kinds},
    },
    store::Batch,
};

/// Deliveries that are read at once.
const PAGE: usize = 64;

/// Delegations and revocations that share one frame, as on a link.
const INTRODUCTION_BYTES: usize = 64 * 1024;
const REVOCATIONS: usize = 16;

/// Bytes of a file around its blocks and its chain: mark, signature, seal. Rounded up.
const AROUND_BYTES: u64 = 4 * 1024;

/// Bytes that a block adds to a file besides itself: its length and its digest in the manifest.
const PER_BLOCK_BYTES: u64 = 4 + 34;

/// What is to be written.
#[derive(Clone, Debug)]
pub struct Order {
    /// For whom; `None`: the parent.
    pub to: Option<UnitCode>,
    /// Largest file; 0: the usual limit.
    pub max_bytes: u64,
    /// Say what would be written, write nothing.
    pub dry_run: bool,
    /// Who asks.
    pub by: Actor,
}

/// One file.
#[derive(Clone, Debug)]
pub struct Part {
    /// Number of the export.
    pub number: u64,
    /// Place among its files.
    pub part: u32,
    /// Statements in it.
    pub deliveries: u32,
    /// The file.
    pub bytes: Vec<u8>,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Exported {
    /// For whom.
    pub to: UnitCode,
    /// Number; 0 after a dry run.
    pub number: u64,
    /// Files.
    pub files: u32,
    /// Statements.
    pub deliveries: u64,
    /// Bytes of all files.
    pub size_bytes: u64,
    /// Why no statements were written.
    pub withheld: Option<Withheld>,
}

/// A packed block with the number of statements in it.
struct Block {
    bytes: Bytes,
    deliveries: u32,
}

/// An export under way: its files are made one after the other.
pub struct Export {
    hosted: Arc<Hosted>,
    codec: Arc<dyn Codec>,
    by: Actor,
    dry_run: bool,
    reader: Reader,
    chain: Vec<Envelope>,
    /// What every file begins with.
    first: Vec<Bytes>,
    /// The neighbour's own statements on their way back, in the first file.
    returned: Vec<Bytes>,
    max_bytes: u64,
    out: OutRow,
    kept: Option<Vec<u8>>,
    source: Source,
    /// Made already, for the next file.
    carried: Option<Block>,
    is_over: bool,
    exported: Exported,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Export").field("exported", &self.exported).finish_non_exhaustive()
    }
}

/// Statements that wait, lane by lane.
struct Source {
    lanes: VecDeque<Lane>,
    after: u64,
    /// The first row of the lane has yet to be read.
    is_first: bool,
    page: VecDeque<Departure>,
    is_last_page: bool,
}

impl Source {
    fn new(withheld: bool) -> Self {
        let lanes = if withheld { VecDeque::new() } else { Lane::ALL.into_iter().collect() };
        Self { lanes, after: 0, is_first: true, page: VecDeque::new(), is_last_page: false }
    }

    /// Goes on to the next lane.
    fn skip(&mut self) {
        self.lanes.pop_front();
        (self.after, self.is_first, self.is_last_page) = (0, true, false);
        self.page.clear();
    }

    async fn next(&mut self, hosted: &Hosted, to: &UnitCode) -> Result<Option<Departure>, Error> {
        while let Some(&lane) = self.lanes.front() {
            if let Some(departure) = self.page.pop_front() {
                self.after = departure.cursor.lane_seq;
                return Ok(Some(departure));
            }
            if self.is_last_page {
                self.skip();
                continue;
            }
            let mut page = hosted.outgoing(to, lane, self.after, PAGE).await?;
            self.is_last_page = page.len() < PAGE;
            if let Some(first) = page.first_mut().filter(|_| std::mem::take(&mut self.is_first))
                && !hosted.unit.has_delivered(to, lane).await?
            {
                // To a peer that has nothing of this outbox, its first row follows nothing.
                first.after = 0;
            }
            self.page = page.into();
        }
        Ok(None)
    }
}

impl Export {
    /// Begins an export.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing was written.
    pub async fn begin(
        hosted: Arc<Hosted>,
        codec: Arc<dyn Codec>,
        order: Order,
    ) -> Result<Self, Error> {
        let unit = &hosted.unit;
        let max_bytes = if order.max_bytes == 0 { USUAL_FILE_BYTES } else { order.max_bytes };
        if !(MIN_FILE_BYTES..=MAX_FILE_BYTES).contains(&max_bytes) {
            return Err(Error::Limit);
        }
        let to = order.to.or_else(|| unit.parent());
        let to = to.ok_or_else(|| Error::NoParent(unit.code.clone()))?;
        if !hosted.is_peer(&to) {
            return Err(Error::NoNeighbour { unit: unit.code.clone(), peer: to });
        }
        let reader = unit.trust().reader(&to, None);
        let reader = reader.ok_or_else(|| Error::NoReader(to.clone()))?;
        let (came, _) = load_in(unit.store.as_ref(), &unit.code, &to).await?;
        let came = came.unwrap_or_default();
        let standing = hosted.standing(&to).await?;
        let wanted = hosted.returns_wanted(&to).await?;
        let withheld = if standing.stopped || hosted.epochs.behind().contains(&to) {
            Some(Withheld::Stopped)
        } else {
            wanted.map(|_| Withheld::Returns)
        };
        let (out, kept) = load_out(unit.store.as_ref(), &unit.code, &to).await?;
        let before = out.filter(|out| out.epoch == standing.epoch).unwrap_or_default();
        let out = OutRow {
            epoch: standing.epoch,
            number: before.number + 1,
            exported_unix_ms: unit.clock.now_unix_ms(),
        };
        let chain = standing.chain.clone();
        let mut messages = introduction(&hosted, &to, standing, &came).await?;
        messages.extend(wanted.map(Message::ReturnRequest));
        let first = messages.into_iter().filter_map(|message| codec.encode(message)).collect();
        let number = if order.dry_run { 0 } else { out.number };
        let exported = Exported { to, number, files: 0, deliveries: 0, size_bytes: 0, withheld };
        let mut export = Self {
            by: order.by,
            dry_run: order.dry_run,
            reader,
            chain,
            first,
            returned: Vec::new(),
            max_bytes,
            out,
            kept,
            source: Source::new(withheld.is_some()),
            carried: None,
            is_over: false,
            exported,
            hosted,
            codec,
        };
        if withheld != Some(Withheld::Stopped) {
            export.give_back(&came).await?;
        }
        Ok(export)
    }

    /// What was written so far.
    pub fn exported(&self) -> &Exported {
        &self.exported
    }

    /// The neighbour's own statements that it needs back, as many as half a file takes; what does not
    /// fit is asked for again.
    async fn give_back(&mut self, came: &InRow) -> Result<(), Error> {
        let Some(mut after) = came.wants() else { return Ok(()) };
        let mut bytes = 0;
        loop {
            let page = self.hosted.returned(&self.exported.to, after).await?;
            let last = page.statements.last();
            let last = last.and_then(|one| header::decode(&one.envelope.payload).ok());
            let is_last = page.last || last.is_none();
            let Some(frame) = self.codec.encode(Message::Returned(page)) else { return Ok(()) };
            bytes += frame.len() as u64;
            if bytes > self.max_bytes / 2 {
                return Ok(());
            }
            self.returned.push(frame);
            match last {
                Some(last) if !is_last => {
                    after = Number { epoch: last.header.epoch, seq: last.header.seq };
                }
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Makes the next file; `None`: that was all.
    ///
    /// # Errors
    ///
    /// [`Error`]; the files made before hold.
    pub async fn next(&mut self) -> Result<Option<Part>, Error> {
        if self.is_over {
            return Ok(None);
        }
        let mut blocks: Vec<Block> = Vec::new();
        let mut bytes = AROUND_BYTES;
        bytes += self.chain.iter().map(|envelope| envelope.encoded_len() as u64).sum::<u64>();
        let returned = std::mem::take(&mut self.returned);
        for frames in full(&self.first).into_iter().chain(full(&returned)) {
            let block = Block { bytes: file::pack(frames).into(), deliveries: 0 };
            bytes += block.bytes.len() as u64 + PER_BLOCK_BYTES;
            blocks.push(block);
        }
        let fixed = blocks.len();
        loop {
            let block = match self.carried.take() {
                Some(block) => block,
                None => match self.block().await? {
                    Some(block) => block,
                    None => {
                        self.is_over = true;
                        break;
                    }
                },
            };
            let with = bytes + block.bytes.len() as u64 + PER_BLOCK_BYTES;
            if with > self.max_bytes || blocks.len() == MAX_BLOCKS {
                self.carried = Some(block);
                break;
            }
            bytes = with;
            blocks.push(block);
        }
        if bytes > self.max_bytes || (!self.is_over && blocks.len() == fixed) {
            return Err(Error::TooSmall(self.max_bytes));
        }
        self.part(blocks).await.map(Some)
    }

    /// The next block of statements.
    async fn block(&mut self) -> Result<Option<Block>, Error> {
        let (mut frames, mut bytes) = (Vec::new(), 0);
        while bytes < BLOCK_BYTES {
            let next = self.source.next(&self.hosted, &self.exported.to).await?;
            let Some(departure) = next else { break };
            let lane = departure.cursor.lane;
            let Departure { cursor, after, envelope, cells, evidence } = departure;
            let arrival = Arrival { cursor, after, envelope, cells, evidence };
            let Some(frame) = self.codec.encode(Message::Delivery(Box::new(arrival))) else {
                tracing::error!(
                    unit = %self.hosted.unit.code, peer = %self.exported.to, ?lane,
                    "a delivery fits no frame: its lane ends here"
                );
                self.source.skip();
                continue;
            };
            bytes += frame.len();
            frames.push(frame);
        }
        let deliveries = u32::try_from(frames.len()).unwrap_or(u32::MAX);
        let block = || Block { bytes: file::pack(&frames).into(), deliveries };
        Ok((!frames.is_empty()).then(block))
    }

    async fn part(&mut self, blocks: Vec<Block>) -> Result<Part, Error> {
        let unit = &self.hosted.unit;
        let part = self.exported.files + 1;
        let deliveries: u32 = blocks.iter().map(|block| block.deliveries).sum();
        let manifest = Manifest {
            number: self.out.number,
            part,
            last: self.is_over,
            blocks_sha256: blocks.iter().map(|one| Sha256::digest(&one.bytes).into()).collect(),
        };
        let mut draft = Draft::new(
            kinds::COURIER,
            format!("{}/{part}", self.out.number),
            file::encode_body(&manifest),
        );
        draft.destination = Some(self.exported.to.clone());
        let signed = unit.sign_live(&draft)?;
        let plain = file::write(&file::File {
            chain: self.chain.clone(),
            manifest: signed.envelope,
            blocks: blocks.into_iter().map(|block| block.bytes).collect(),
        });
        let mut bytes = Vec::with_capacity(plain.len() + plain.len() / 1_024 + 1_024);
        sealed_file::seal_file(std::slice::from_ref(&self.reader), &plain[..], &mut bytes)
            .map_err(Error::Seal)?;
        if !self.dry_run {
            // What leaves the house is on the record before it leaves, and its number is spent.
            let mut batch = Batch::new(&unit.code);
            put_out(&mut batch, &self.exported.to, &self.out, self.kept.take());
            let subject =
                format!("{} {}/{}/{part}", self.exported.to, self.out.epoch, self.out.number);
            let act = Act::done(self.by.clone(), EXPORT, subject).about(signed.payload_sha256);
            batch.journal(unit.clock.now_unix_ms(), &Leaf::Act(act));
            unit.store.submit(batch).await?;
            let (_, kept) = load_out(unit.store.as_ref(), &unit.code, &self.exported.to).await?;
            self.kept = kept;
        }
        self.exported.files = part;
        self.exported.deliveries += u64::from(deliveries);
        self.exported.size_bytes += bytes.len() as u64;
        Ok(Part { number: self.exported.number, part, deliveries, bytes })
    }
}

/// What goes before statements: who the sender is, what it knows of keys, what it says of journals.
async fn introduction(
    hosted: &Hosted,
    to: &UnitCode,
    standing: Standing,
    came: &InRow,
) -> Result<Vec<Message>, Error> {
    let is_to_parent = hosted.unit.parent().as_ref() == Some(to);
    let roster_due = !is_to_parent || came.roster_sha256 != hex::encode(standing.roster_sha256);
    let flood_due = came.revocations_sha256 != hex::encode(standing.revocations_sha256);
    let mut messages = vec![Message::Hello(Box::new(standing))];
    if flood_due {
        let items = hosted.revocations().await;
        let some = items.chunks(REVOCATIONS).map(|some| Message::Revocations(some.to_vec()));
        messages.extend(some);
    }
    if roster_due {
        messages.extend(introductions(hosted.roster(to).await?));
    }
    messages.extend(hosted.held(to).await?.map(Message::Acquainted));
    hosted.journal.checkpoint().await?;
    let held = hosted.witness.held(to).await?;
    if came.refused.is_empty() {
        let cosigned = held.map(|held| Witnessing::Cosigned { checkpoint: held.checkpoint });
        messages.extend(cosigned.map(Message::Witnessing));
    } else {
        let reason = came.refused.clone();
        messages.push(Message::Witnessing(Witnessing::Refused { reason }));
    }
    let size = hosted.witness.held_size(to).await?;
    messages.push(Message::Witnessing(Witnessing::Held { size }));
    let offer = hosted.witness.offer_beyond(to, came.holds).await?;
    let offer = offer.map(|offer| Witnessing::Offer(Box::new(offer)));
    messages.extend(offer.map(Message::Witnessing));
    Ok(messages)
}

fn introductions(delegations: Vec<Envelope>) -> Vec<Message> {
    let (mut messages, mut some, mut bytes) = (Vec::new(), Vec::new(), 0);
    for envelope in delegations {
        bytes += envelope.encoded_len();
        some.push(envelope);
        if bytes >= INTRODUCTION_BYTES {
            messages.push(Message::Introduction(std::mem::take(&mut some)));
            bytes = 0;
        }
    }
    if !some.is_empty() {
        messages.push(Message::Introduction(some));
    }
    messages
}

/// Frames in runs of a full block each.
fn full(frames: &[Bytes]) -> Vec<&[Bytes]> {
    let (mut runs, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (at, frame) in frames.iter().enumerate() {
        bytes += frame.len();
        if bytes >= BLOCK_BYTES {
            runs.push(&frames[from..=at]);
            (from, bytes) = (at + 1, 0);
        }
    }
    if from < frames.len() {
        runs.push(&frames[from..]);
    }
    runs
}
