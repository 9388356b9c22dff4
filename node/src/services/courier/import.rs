//! Taking a file in.
//!
//! First the whole file is judged: seal, signature, receiver, number, blocks, frames. Then its frames
//! are taken in one by one as those of a link are; whatever cuts that off, the same file goes on.

use std::sync::Arc;

use bytes::Bytes;
use lianxi_proto::envelope;
use sha2::{Digest as _, Sha256};

use super::{
    Codec, Error, IMPORT, Message, index,
    rows::{GapRow, InRow, load_in, load_seen, put_in, put_seen},
    status,
};
use crate::{
    clock::UnixMillis,
    domain::{
        courier::{self, Came, FileNumber, Gap, MAX_FILE_BYTES, Withheld},
        journal::{Act, Actor, Leaf},
        unit::UnitCode,
    },
    identity::sealed_file,
    services::{
        exchange::{self, Arrival, Exchange, Lane, Meeting, Occasion, Standing, Witnessing},
        host::Units,
        hosted::Hosted,
        unit::LearnError,
    },
    statement::{
        courier::{self as file, Manifest},
        header::kinds,
    },
    store::{self, Batch, Commit},
};

/// Commits that are under way at once.
const UNDER_WAY: usize = 64;

/// What is to be taken in.
#[derive(Clone, Debug)]
pub struct Order {
    /// Unit that the file is for; `None`: whichever opens it.
    pub unit: Option<UnitCode>,
    /// The file.
    pub bytes: Bytes,
    /// Verify, take nothing in.
    pub dry_run: bool,
    /// Who asks.
    pub by: Actor,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// Statements that were taken in or passed over.
    pub deliveries: u64,
    /// Statements in the file.
    pub of: u64,
}

/// What became of a file.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Unit that took it in.
    pub unit: UnitCode,
    /// Neighbour that sent it.
    pub from: UnitCode,
    /// Number of its export.
    pub number: u64,
    /// Place among the files of it.
    pub part: u32,
    /// No further one comes.
    pub last: bool,
    /// Where it stands among the sender's files.
    pub order: courier::Order,
    /// Statements in it.
    pub deliveries: u64,
    /// Of them taken in.
    pub taken: u64,
    /// Of them there before.
    pub known: u64,
    /// Of them behind a gap.
    pub waiting: u64,
    /// What is missing.
    pub gaps: Vec<(Lane, Gap)>,
    /// Why its statements were not taken in.
    pub withheld: Option<Withheld>,
    /// When it was made, by the sender's clock.
    pub exported_unix_ms: UnixMillis,
}

/// A file whose seal, signature and blocks hold.
struct Opened {
    from: UnitCode,
    manifest: Manifest,
    sha256: [u8; 32],
    epoch: u64,
    time_unix_ms: UnixMillis,
    hello: Standing,
    blocks: Vec<Bytes>,
    deliveries: u64,
}

impl Opened {
    fn number(&self) -> FileNumber {
        FileNumber { epoch: self.epoch, number: self.manifest.number }
    }

    fn subject(&self) -> String {
        let Manifest { number, part, .. } = self.manifest;
        format!("{} {}/{number}/{part}", self.from, self.epoch)
    }
}

/// Takes a file in; a refusal stands in the journal. `progress` is told now and then.
///
/// # Errors
///
/// [`Error`]; what was taken in before it stays.
pub async fn import(
    units: &Units,
    codec: &dyn Codec,
    order: Order,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Imported, Error> {
    let (hosted, plain) = match find(units, &order) {
        Ok(found) => found,
        Err(error) => {
            let hosted = order.unit.as_ref().and_then(|unit| units.get(unit));
            if let Some(hosted) = hosted.or_else(|| units.head()) {
                record(&hosted, &order, String::new(), &error).await?;
            }
            return Err(error);
        }
    };
    let mut subject = String::new();
    let imported = match open(&hosted, codec, &plain, order.dry_run).await {
        Ok(opened) => {
            subject = opened.subject();
            take(&hosted, codec, &order, opened, progress).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = &imported {
        record(&hosted, &order, subject, error).await?;
    }
    imported
}

/// Journals a refusal.
async fn record(
    hosted: &Hosted,
    order: &Order,
    subject: String,
    error: &Error,
) -> Result<(), Error> {
    let Some(reason) = error.reason().filter(|_| !order.dry_run) else { return Ok(()) };
    tracing::warn!(unit = %hosted.unit.code, reason, %error, "courier file refused");
    let act = Act::refused(order.by.clone(), IMPORT, subject, reason);
    let act = act.about(Sha256::digest(&order.bytes).into());
    Ok(hosted.unit.record(act).await?)
}

/// The unit that can open the file, and what is inside.
fn find(units: &Units, order: &Order) -> Result<(Arc<Hosted>, Bytes), Error> {
    if order.bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::TooLarge);
    }
    let asked = match &order.unit {
        Some(unit) => vec![units.find(unit)?],
        None => units.all(),
    };
    for hosted in asked {
        match hosted.unit.open_file(&order.bytes) {
            Ok(plain) => return Ok((hosted, plain.into())),
            Err(sealed_file::Error::NotAReader) => {}
            Err(error) => {
                let reason = match error {
                    sealed_file::Error::Mark
                    | sealed_file::Error::Head(_)
                    | sealed_file::Error::Malformed(_) => "malformed",
                    sealed_file::Error::Seal(_)
                    | sealed_file::Error::Chunk { .. }
                    | sealed_file::Error::File(_)
                    | sealed_file::Error::TooLarge
                    | sealed_file::Error::NotAReader => "changed",
                };
                return Err(Error::refused(reason, error.to_string()));
            }
        }
    }
    let detail = "it is for another unit; take it there, see the label of the stick";
    Err(Error::refused("not-a-reader", detail))
}

/// Judges the file by itself: nothing of it is taken in, but for the delegations that its sender
/// shows, which are judged each for itself.
async fn open(
    hosted: &Hosted,
    codec: &dyn Codec,
    plain: &Bytes,
    dry_run: bool,
) -> Result<Opened, Error> {
    let unit = &hosted.unit;
    let read = file::read(plain)?;
    if !dry_run {
        match unit.learn(&read.chain).await {
            Ok(_) => {}
            Err(LearnError::Refused(detail)) => return Err(Error::refused("bad-chain", detail)),
            Err(LearnError::Store(error)) => return Err(error.into()),
        }
    }
    let opened = unit.trust().open(&read.manifest, unit.clock.now_unix_ms())?;
    let header = &opened.statement.header;
    if header.kind != kinds::COURIER || opened.signer.1.is_some() {
        let detail =
            format!("what it is signed with is a {}, and of a unit it must be", header.kind);
        return Err(Error::refused("malformed", detail));
    }
    if header.destination.as_ref() != Some(&unit.code) {
        let to = header.destination.as_ref().map(ToString::to_string).unwrap_or_default();
        let detail = format!("{} made it for {to}, not for {}", header.source, unit.code);
        return Err(Error::refused("wrong-recipient", detail));
    }
    let manifest = file::decode_body(&opened.statement.body)?;
    let digests = read.blocks.iter().map(|block| <[u8; 32]>::from(Sha256::digest(block)));
    if !digests.eq(manifest.blocks_sha256.iter().copied()) {
        let detail = "its blocks are not those that its sender signed; fetch it again";
        return Err(Error::refused("changed", detail));
    }
    let (hello, deliveries) = frames(codec, &read.blocks)?;
    if hello.unit != header.source || hello.epoch != header.epoch {
        let detail = "its hello is not of the unit and epoch that signed it";
        return Err(Error::refused("malformed", detail));
    }
    Ok(Opened {
        from: header.source.clone(),
        manifest,
        sha256: envelope::payload_sha256(&read.manifest),
        epoch: header.epoch,
        time_unix_ms: header.time_unix_ms,
        hello,
        blocks: read.blocks,
        deliveries,
    })
}

/// Reads every frame once: the hello, which comes first and alone, and how many statements there are.
fn frames(codec: &dyn Codec, blocks: &[Bytes]) -> Result<(Standing, u64), Error> {
    let (mut hello, mut deliveries) = (None, 0);
    for block in blocks {
        for frame in file::unpack(block)? {
            match (codec.decode(frame)?, &hello) {
                (Message::Hello(standing), None) => hello = Some(*standing),
                (Message::Hello(_), Some(_)) => {
                    return Err(Error::refused("malformed", "it greets twice"));
                }
                (_, None) => return Err(Error::refused("malformed", "it does not greet first")),
                (Message::Delivery(_), Some(_)) => deliveries += 1,
                (_, Some(_)) => {}
            }
        }
    }
    let hello = hello.ok_or_else(|| Error::refused("malformed", "it does not greet"))?;
    Ok((hello, deliveries))
}

/// Takes the frames of a file in.
async fn take(
    hosted: &Arc<Hosted>,
    codec: &dyn Codec,
    order: &Order,
    opened: Opened,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Imported, Error> {
    let (store, own, peer) = (hosted.unit.store.as_ref(), &hosted.unit.code, &opened.from);
    hosted.check_peer(peer, &opened.hello)?;
    let (row, kept) = load_in(store, own, peer).await?;
    let file = (opened.number(), opened.manifest.part);
    let same = load_seen(store, own, peer, file).await?;
    let known_epoch = hosted.epoch_of(peer).await?;
    let came = Came { number: opened.number(), reach: opened.hello.reach, sha256: opened.sha256 };
    let newest = row.as_ref().map(|row| (row.file_number(), row.reach()));
    let place = courier::judge(&came, newest, same, known_epoch)?;
    let mut taking = Taking {
        hosted,
        peer,
        is_new: place == courier::Order::New,
        row: row.unwrap_or_default(),
        lanes: Lanes::default(),
        under_way: Vec::new(),
        progress: Progress { deliveries: 0, of: opened.deliveries },
        withheld: None,
        taken: 0,
        known: 0,
        waiting: 0,
    };
    if !order.dry_run {
        let result = taking.run(codec, &opened, progress).await;
        if let Err(error) = result {
            // Cursors that were moved ahead of a commit that failed are read again.
            hosted.standing(peer).await?;
            return Err(error);
        }
        taking.note(&opened);
        taking.row.gaps = taking.gaps().await?;
        let mut batch = Batch::new(own);
        put_in(&mut batch, peer, &taking.row, kept);
        put_seen(store, &mut batch, own, peer, (file.0, file.1, opened.sha256)).await?;
        let act = Act::done(order.by.clone(), IMPORT, opened.subject()).about(opened.sha256);
        batch.journal(hosted.unit.clock.now_unix_ms(), &Leaf::Act(act));
        hosted.unit.store.submit(batch).await?;
    }
    let gaps = taking.row.gaps.iter().filter_map(|row| Some((row.lane()?, row.gap())));
    Ok(Imported {
        unit: own.clone(),
        from: peer.clone(),
        number: opened.manifest.number,
        part: opened.manifest.part,
        last: opened.manifest.last,
        order: place,
        deliveries: opened.deliveries,
        taken: taking.taken,
        known: taking.known,
        waiting: taking.waiting,
        gaps: gaps.collect(),
        withheld: taking.withheld,
        exported_unix_ms: opened.time_unix_ms,
    })
}

/// One lane of a file.
#[derive(Clone, Copy, Debug, Default)]
struct InFile {
    /// Epoch of the outbox, once a statement named it.
    link_epoch: u64,
    /// Last place that was taken in.
    have: u64,
    /// What is missing: what follows in this lane waits.
    gap: Option<Gap>,
}

type Lanes = [InFile; Lane::ALL.len()];

/// A file that is being taken in.
struct Taking<'a> {
    hosted: &'a Arc<Hosted>,
    peer: &'a UnitCode,
    /// What it says of its sender is newer than what is known from files.
    is_new: bool,
    row: InRow,
    lanes: Lanes,
    under_way: Vec<Commit>,
    progress: Progress,
    withheld: Option<Withheld>,
    taken: u64,
    known: u64,
    waiting: u64,
}

impl Taking<'_> {
    async fn run(
        &mut self,
        codec: &dyn Codec,
        opened: &Opened,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<(), Error> {
        let meeting = self.hosted.meet_by_courier(self.peer, &opened.hello).await?;
        self.withheld = (meeting == Meeting::Quiet).then_some(Withheld::Stopped);
        // Reads the cursors that deliveries are compared with.
        self.hosted.standing(self.peer).await?;
        if self.is_new {
            (self.row.refused, self.row.wants) = (String::new(), None);
        }
        for block in &opened.blocks {
            for frame in file::unpack(block)? {
                self.message(codec.decode(frame)?, &opened.hello).await?;
            }
            progress(self.progress);
        }
        self.settle().await
    }

    async fn message(&mut self, message: Message, hello: &Standing) -> Result<(), Error> {
        let (hosted, peer) = (self.hosted, self.peer);
        match message {
            Message::Hello(_) => {}
            Message::Revocations(items) => hosted.take_revocations(peer, items).await?,
            Message::Introduction(delegations) => hosted.introduce(peer, delegations).await?,
            Message::Acquainted(digest) => hosted.acquainted(peer, digest).await?,
            Message::Witnessing(said) if self.is_new => self.witness(said).await?,
            Message::ReturnRequest(after) if self.is_new && self.withheld.is_none() => {
                self.row.wants = Some((after.epoch, after.seq));
            }
            Message::Returned(page)
                if self.withheld.is_none()
                    && hello.seen.newest.number.epoch == hosted.unit.epoch() =>
            {
                Exchange::take_returned(hosted.as_ref(), peer, page).await?;
            }
            Message::Delivery(arrival) => self.deliver(*arrival).await?,
            // Of an older file: a newer one has said it better.
            Message::Witnessing(_) | Message::ReturnRequest(_) | Message::Returned(_) => {}
        }
        Ok(())
    }

    /// What the sender says of journals. A checkpoint that a link has outrun is no rollback.
    async fn witness(&mut self, said: Witnessing) -> Result<(), Error> {
        let (hosted, peer) = (self.hosted, self.peer);
        if let Witnessing::Held { size } = said {
            self.row.holds = size;
            return Ok(());
        }
        if let Witnessing::Offer(offer) = &said {
            let held = hosted.witness.held_size(peer).await?;
            let size = hosted.witness.size_of(&offer.checkpoint);
            if size < held && held > self.row.offered {
                return Ok(());
            }
            self.row.offered = self.row.offered.max(size);
        }
        for answer in hosted.witness(peer, Occasion::Said(said)).await? {
            if let Witnessing::Refused { reason } = answer {
                self.row.refused = reason;
            }
        }
        Ok(())
    }

    async fn deliver(&mut self, arrival: Arrival) -> Result<(), Error> {
        self.progress.deliveries += 1;
        if self.withheld.is_some() {
            self.waiting += 1;
            return Ok(());
        }
        let cursor = arrival.cursor;
        let lane = &mut self.lanes[index(cursor.lane)];
        if lane.link_epoch != cursor.link_epoch {
            let have = self.hosted.cursor(self.peer, cursor.lane);
            let have = have.filter(|have| have.link_epoch == cursor.link_epoch);
            let have = have.map_or(0, |have| have.lane_seq);
            *lane = InFile { link_epoch: cursor.link_epoch, have, gap: None };
        }
        if lane.gap.is_some() {
            self.waiting += 1;
            return Ok(());
        }
        match self.hosted.receive(self.peer, arrival).await {
            Ok(commit) => {
                if cursor.lane_seq > lane.have {
                    lane.have = cursor.lane_seq;
                    self.taken += 1;
                } else {
                    self.known += 1;
                }
                self.under_way.push(commit);
            }
            Err(exchange::Error::Gap { after, have, .. }) => {
                lane.gap = Some(Gap { have, after });
                self.waiting += 1;
            }
            Err(error) => return Err(error.into()),
        }
        if self.under_way.len() >= UNDER_WAY { self.settle().await } else { Ok(()) }
    }

    /// Waits until everything so far is durable.
    async fn settle(&mut self) -> Result<(), Error> {
        for commit in self.under_way.drain(..) {
            commit.await?;
        }
        Ok(())
    }

    /// Keeps what a new file says of its sender.
    fn note(&mut self, opened: &Opened) {
        if !self.is_new {
            return;
        }
        let hello = &opened.hello;
        self.row.epoch = opened.epoch;
        self.row.number = opened.manifest.number;
        self.row.imported_unix_ms = self.hosted.unit.clock.now_unix_ms();
        self.row.seq = hello.reach.number.seq;
        self.row.journal_size = hello.reach.journal_size;
        self.row.roster_sha256 = hex::encode(hello.roster_sha256);
        self.row.revocations_sha256 = hex::encode(hello.revocations_sha256);
    }

    /// Gaps that are open: of the lanes of this file its own, of others those of before.
    async fn gaps(&self) -> Result<Vec<GapRow>, store::Error> {
        let is_other =
            |row: &&GapRow| row.lane().is_some_and(|lane| self.lanes[index(lane)].link_epoch == 0);
        let mut gaps: Vec<GapRow> = self.row.gaps.iter().filter(is_other).cloned().collect();
        for lane in Lane::ALL {
            let InFile { link_epoch, gap, .. } = self.lanes[index(lane)];
            gaps.extend(gap.map(|gap| GapRow::new(lane, link_epoch, gap)));
        }
        status::open(self.hosted, self.peer, &gaps).await
    }
}
