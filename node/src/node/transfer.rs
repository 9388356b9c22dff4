//! Units that go to another host: what this host does as the old one and as the new one.
//!
//! The order of steps decides that exactly one host runs the unit: here the unit stands still before it
//! is read, is given up in one commit, and only then can its file be fetched; there it begins in one
//! commit after the whole file was checked.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use prost::Message as _;

use super::{Host, setup};
use crate::{
    clock::UnixMillis,
    domain::{
        epoch::{Reason, check_approvers},
        journal::{Act, Actor},
        unit::UnitCode,
    },
    grpc::status::chain,
    identity::keys::{
        self, Place,
        transfer::{TransferKey, erase},
    },
    services::{
        enrolments::Identity,
        epochs::{EpochRow, Order},
        error::{ErrorKind, ServiceError as _},
        host::OperationError,
        hosted::Hosted,
        leaving,
        transfer::{
            self, Announced, Arrived, Departed, Error, ExportOrder, ImportOrder, Move, Transfers,
            Written,
        },
    },
    statement::{
        Envelope, epoch,
        header::kinds,
        transfer::{Head, Request, addresses},
    },
    store::Batch,
};

fn failed(error: &Error) -> OperationError {
    OperationError { kind: error.kind(), text: chain(error) }
}

fn unapproved(error: crate::domain::epoch::Unapproved) -> OperationError {
    OperationError { kind: ErrorKind::InvalidArgument, text: error.to_string() }
}

impl Host {
    fn transfers(&self) -> PathBuf {
        self.config.data_dir().join("transfers")
    }

    fn sealed(&self, direction: &str, sha256: [u8; 32]) -> PathBuf {
        self.transfers().join(format!("{direction}-{}.sealed", hex::encode(sha256)))
    }

    fn transfer_place(&self, unit: &UnitCode) -> Place {
        setup::transfer_place(&self.config, &self.lock, unit)
    }

    /// Removes what a move left that was cut off: rows and keys that never counted, files that nobody
    /// can ask for.
    pub(super) async fn tidy_transfers(&self) -> Result<(), Error> {
        for unit in self.store.units().await? {
            let keys = setup::keys_place(&self.config, &self.lock, &unit);
            transfer::unstage(self.store.as_ref(), &unit, &keys).await?;
        }
        let departed = transfer::departed_units(&self.store).await?;
        let kept: Vec<PathBuf> =
            departed.iter().map(|one| self.sealed("out", one.sha256)).collect();
        let Ok(files) = fs::read_dir(self.transfers()) else { return Ok(()) };
        for file in files {
            let path = file?.path();
            if !kept.contains(&path) && path.is_file() {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// A unit that came from another host begins its epoch here, before any peer hears of it.
    pub(super) async fn begin_arrived(&self, hosted: &Hosted) -> Result<(), String> {
        let unit = &hosted.unit;
        let arrived = Arrived::load(self.store.as_ref(), &unit.code).await;
        let Some(arrived) = arrived.map_err(|error| chain(&error))? else { return Ok(()) };
        let reach = unit.reach().await.map_err(|error| chain(&error))?;
        if reach.number.epoch > arrived.epoch {
            return Ok(());
        }
        let order = Order {
            reason: Reason::Move,
            approvers: arrived.approvers,
            text: String::new(),
            by: Actor::recorded(&arrived.by),
            dry_run: false,
        };
        hosted.epochs.begin(order).await.map_err(|error| chain(&error))?;
        Ok(())
    }

    /// What a unit takes along.
    async fn taken_along(&self, hosted: &Hosted, to: &Request) -> Result<Move, Error> {
        let unit = &hosted.unit;
        if to.unit != unit.code {
            return Err(Error::OtherUnit { found: unit.code.clone(), wanted: to.unit.clone() });
        }
        let below: Vec<UnitCode> = {
            let trust = unit.trust();
            let children = trust.children(&unit.code).into_iter();
            children.filter(|child| trust.revoked(child, None).is_none()).cloned().collect()
        };
        let knows = |child: &UnitCode| {
            let dialled = hosted.dialled_by(child);
            let here = self.units().get(child).is_some();
            let all = to.addresses.iter().all(|address| here || dialled.contains(address));
            !to.addresses.is_empty() && all
        };
        let open = leaving::open_items(hosted, None).await;
        let open =
            open.map_err(|error| Error::Unfit { unit: unit.code.clone(), reason: chain(&error) })?;
        Ok(Move {
            unit: unit.code.to_string(),
            from_host: self.config.host.name.clone(),
            to_host: to.host.clone(),
            addresses: to.addresses.clone(),
            records: hosted.records.count().await.map_or(0, |(records, _)| records),
            accounts: self.names_with_role(&unit.code).await,
            open,
            unsent: unit.outbox_state().await?.waiting(),
            children: below.into_iter().map(|child| (child.clone(), knows(&child))).collect(),
            ..Move::default()
        })
    }

    /// Accounts of this host with a role of a unit.
    async fn names_with_role(&self, unit: &UnitCode) -> Vec<String> {
        let Some(accounts) = self.accounts.get() else { return Vec::new() };
        let holds = |account: &crate::services::accounts::Account| {
            let of_it = account.grants.iter().any(|grant| grant.unit.as_ref() == Some(unit));
            of_it && account.closed.is_none()
        };
        let listed = accounts.list(None).await.into_iter().map(|listed| listed.account);
        listed.filter(holds).map(|account| account.name.to_string()).collect()
    }

    async fn try_export(&self, order: &ExportOrder) -> Result<Move, Error> {
        // Nobody else may read an identity and write it back, or bring the unit elsewhere.
        let (_renewing, _reforming) = (self.renewing.lock().await, self.reforming.lock().await);
        let unit = &order.unit;
        let before = Departed::load(self.store.as_ref(), unit).await?;
        let Some(hosted) = self.units().get(unit) else {
            let departed = before.ok_or_else(|| Error::NotGone(unit.clone()))?;
            return self.export_again(order, departed).await;
        };
        let shown = self.taken_along(&hosted, &order.to).await?;
        let parent_here = hosted.unit.parent().filter(|one| self.units().get(one).is_some());
        if parent_here.is_some() && self.advertised().is_empty() {
            return Err(Error::ParentHere(unit.clone()));
        }
        let lost = shown.children.iter().filter(|(_, knows)| !knows);
        let lost: Vec<String> = lost.map(|(child, _)| child.to_string()).collect();
        if !order.leave_behind && !lost.is_empty() {
            return Err(Error::Children { unit: unit.clone(), children: lost.join(", ") });
        }
        if fs::read_dir(self.config.data_dir().join("imports"))?.next().is_some() {
            return Err(Error::Importing(unit.clone()));
        }
        if order.dry_run {
            return Ok(shown);
        }
        self.gate(unit).iter().for_each(|gate| gate.close());
        let departed = self.write_out(order, parent_here.is_some()).await;
        let (departed, written) = match departed {
            Ok(written) => written,
            Err(error) => {
                // It was not given up: it goes on here.
                self.gate(unit).iter().for_each(|gate| gate.open());
                return Err(error);
            }
        };
        self.close_unit(&hosted, &departed).await;
        tracing::warn!(%unit, host = departed.host, "the unit was given to another host");
        Ok(with(shown, &departed, written))
    }

    async fn export_again(&self, order: &ExportOrder, before: Departed) -> Result<Move, Error> {
        let unit = &order.unit;
        if order.to.unit != *unit {
            return Err(Error::OtherUnit { found: unit.clone(), wanted: order.to.unit.clone() });
        }
        if before.confirmed_unix_ms.is_some() {
            return Err(Error::Confirmed { unit: unit.clone(), host: before.host });
        }
        let shown = Move {
            unit: unit.to_string(),
            from_host: self.config.host.name.clone(),
            to_host: order.to.host.clone(),
            addresses: order.to.addresses.clone(),
            stopped_unix_ms: before.stopped_unix_ms,
            ..Move::default()
        };
        if order.dry_run {
            return Ok(shown);
        }
        let (departed, written) = self.write_out(order, false).await?;
        let former = self.sealed("out", before.sha256);
        if before.sha256 != departed.sha256 && former.exists() {
            fs::remove_file(former)?;
        }
        Ok(Move { stopped_unix_ms: before.stopped_unix_ms, ..with(shown, &departed, written) })
    }

    /// Writes the file of a unit that stands still, then gives the unit up.
    async fn write_out(
        &self,
        order: &ExportOrder,
        parent_here: bool,
    ) -> Result<(Departed, Written), Error> {
        let (unit, store) = (&order.unit, self.store.as_ref());
        // Whatever was submitted before is settled.
        store.submit(Batch::new(unit)).await?;
        let identity = Identity::load(store, unit).await?;
        let identity = identity.ok_or_else(|| Error::NotGone(unit.clone()))?;
        let parent_addresses = if parent_here { self.advertised() } else { Vec::new() };
        let head = Head {
            trust_domain: identity.trust_domain,
            unit: unit.clone(),
            host: self.config.host.name.clone(),
            time_unix_ms: self.clock.now_unix_ms(),
            by: order.by.as_str().to_owned(),
            epoch: crate::services::unit::stored_number(store, unit).await?.epoch,
            journal_size: crate::store::journal::size(store, unit).await?,
            parent_addresses,
        };
        let place = setup::keys_place(&self.config, &self.lock, unit);
        make_private(&self.transfers())?;
        let new = self.transfers().join(format!("{unit}.new"));
        let written = transfer::export(store, &head, &place, order.to.public_key, &new).await?;
        fs::rename(&new, self.sealed("out", written.sha256))?;
        fs::File::open(self.transfers())?.sync_all()?;
        let departed = Departed {
            unit: unit.clone(),
            host: order.to.host.clone(),
            addresses: order.to.addresses.clone(),
            sha256: written.sha256,
            epoch: head.epoch,
            by: head.by,
            approvers: order.approvers.clone(),
            stopped_unix_ms: head.time_unix_ms,
            confirmed_unix_ms: None,
        };
        transfer::depart(store, &departed).await?;
        Ok((departed, written))
    }

    /// Serves a unit no more; its children on this host find it where it goes.
    async fn close_unit(&self, hosted: &Arc<Hosted>, departed: &Departed) {
        let unit = &hosted.unit.code;
        self.withdraw(unit);
        hosted.unit.greet_anew();
        for child in self.units().all() {
            if child.unit.parent().as_ref() == Some(unit) {
                let found = self.link_elsewhere(&child, unit, &departed.addresses).await;
                if let Err(error) = found {
                    tracing::error!(unit = %child.unit.code, error, "cannot link to the new host");
                }
            }
        }
    }

    async fn link_elsewhere(
        &self,
        child: &Arc<Hosted>,
        parent: &UnitCode,
        addresses: &[String],
    ) -> Result<(), String> {
        let (store, code) = (self.store.as_ref(), &child.unit.code);
        let added = Identity::add_parent_addresses(store, code, parent, addresses).await;
        added.map_err(|error| chain(&error))?;
        let identity = setup::load_identity(&self.config, &self.lock, store, code).await;
        let identity = identity.map_err(|error| chain(&error))?;
        let known = Arc::clone(&child.unit);
        let uplink = identity.parent.map(|parent| self.uplink(known, parent, identity.tls));
        self.links.attach(Arc::<Hosted>::clone(child), uplink);
        Ok(())
    }

    async fn try_import(&self, order: &ImportOrder) -> Result<Move, Error> {
        let (_renewing, _reforming) = (self.renewing.lock().await, self.reforming.lock().await);
        let (unit, store) = (&order.unit, self.store.as_ref());
        if self.units().get(unit).is_some() {
            let arrived = Arrived::load(store, unit).await?;
            let arrived = arrived.filter(|_| order.sha256.is_none());
            let arrived = arrived.ok_or_else(|| Error::Here(unit.clone()))?;
            let shown = Move {
                unit: unit.to_string(),
                from_host: arrived.host,
                to_host: self.config.host.name.clone(),
                sha256: Some(arrived.sha256),
                ..Move::default()
            };
            return self.with_confirmation(unit, shown).await;
        }
        let departed = Departed::load(store, unit).await?;
        if departed.is_some_and(|departed| departed.confirmed_unix_ms.is_none()) {
            let reason = "this host gave it away, and its arrival was not confirmed".to_owned();
            return Err(Error::Unfit { unit: unit.clone(), reason });
        }
        let sha256 = order.sha256.ok_or_else(|| Error::NotAwaited(unit.clone()))?;
        let path = self.sealed("in", sha256);
        let (head, written) = transfer::check(&path, self.key_for(unit)?, unit).await?;
        let shown = Move {
            unit: unit.to_string(),
            from_host: head.host.clone(),
            to_host: self.config.host.name.clone(),
            addresses: self.advertised(),
            records: written.facts.records,
            facts: written.facts,
            sha256: Some(written.sha256),
            stopped_unix_ms: head.time_unix_ms,
            ..Move::default()
        };
        if order.dry_run {
            return Ok(shown);
        }
        let place = setup::keys_place(&self.config, &self.lock, unit);
        let begun = self.begin_here(order, &path, &head, &written, &place).await;
        if let Err(error) = begun {
            transfer::unstage(store, unit, &place).await?;
            return Err(error);
        }
        erase(&self.transfer_place(unit))?;
        fs::remove_file(&path)?;
        self.serve_arrived(unit, shown).await
    }

    /// Stages the file, checks that the unit can live from what is there, and lets it begin.
    async fn begin_here(
        &self,
        order: &ImportOrder,
        path: &Path,
        head: &Head,
        written: &Written,
        place: &Place,
    ) -> Result<(), Error> {
        let (unit, store) = (&order.unit, self.store.as_ref());
        let unfit = |reason: String| Error::Unfit { unit: unit.clone(), reason };
        let identity = transfer::stage(store, path, self.key_for(unit)?, unit, place).await?;
        if let Some(other) = self.units().all().first()
            && *other.unit.trust().root_key() != identity.root_key
        {
            let domain = identity.trust_domain;
            return Err(Error::OtherCity { unit: unit.clone(), domain });
        }
        let opened = setup::open(&self.config, &self.lock, store, identity.clone()).await;
        let parts = opened.map_err(|error| unfit(chain(&error)))?.parts;
        if !parts.keys.public_keys().iter().all(|key| parts.trust.had_key(unit, key)) {
            return Err(unfit("its keys are not those of its delegation".to_owned()));
        }
        if parts.trust.revoked(unit, None).is_some() {
            return Err(unfit("it was revoked".to_owned()));
        }
        let arrived = Arrived {
            host: head.host.clone(),
            sha256: written.sha256,
            epoch: head.epoch,
            by: order.by.as_str().to_owned(),
            approvers: order.approvers.clone(),
        };
        transfer::arrive(store, head, identity, &arrived).await
    }

    async fn serve_arrived(&self, unit: &UnitCode, shown: Move) -> Result<Move, Error> {
        let unfit = |reason: String| Error::Unfit { unit: unit.clone(), reason };
        let store = self.store.as_ref();
        let identity = setup::load_identity(&self.config, &self.lock, store, unit).await;
        let identity = identity.map_err(|error| unfit(chain(&error)))?;
        self.open_unit(identity).await.map_err(|error| unfit(chain(&error)))?;
        for child in self.units().all() {
            if child.unit.parent().as_ref() == Some(unit) {
                let linked = self.link_elsewhere(&child, unit, &[]).await;
                linked.map_err(unfit)?;
            }
        }
        tracing::warn!(%unit, host = shown.from_host, "the unit came from another host");
        self.with_confirmation(unit, shown).await
    }

    /// The unit's own word that it began here.
    async fn with_confirmation(&self, unit: &UnitCode, shown: Move) -> Result<Move, Error> {
        let unfit = |reason: String| Error::Unfit { unit: unit.clone(), reason };
        let store = self.store.as_ref();
        let hosted = self.units().get(unit).ok_or_else(|| Error::NotAwaited(unit.clone()))?;
        let opened = EpochRow::newest(store, unit, unit).await?;
        let opened = opened.ok_or_else(|| unfit("it opened no epoch".to_owned()))?;
        let id = opened.statement.parse();
        let id = id.map_err(|_| unfit("its epoch cannot be read".to_owned()))?;
        let envelope = hosted.unit.statement(id).await?;
        let confirmation = envelope.map(|envelope| envelope.encode_to_vec()).unwrap_or_default();
        Ok(Move { epoch: opened.epoch, confirmation, ..shown })
    }

    fn key_for(&self, unit: &UnitCode) -> Result<TransferKey, Error> {
        match TransferKey::load(&self.transfer_place(unit)) {
            Err(keys::Error::Missing(_)) => Err(Error::NotAwaited(unit.clone())),
            loaded => Ok(loaded?),
        }
    }

    async fn try_confirm(
        &self,
        unit: &UnitCode,
        confirmation: &[u8],
        dry_run: bool,
    ) -> Result<Move, Error> {
        let store = self.store.as_ref();
        let departed = Departed::load(store, unit).await?;
        let departed = departed.ok_or_else(|| Error::NotGone(unit.clone()))?;
        let identity = Identity::load(store, unit).await?;
        let now = self.clock.now_unix_ms();
        let epoch = match identity {
            Some(identity) => {
                let trust = identity.load_trust(store).await?;
                let refused = |reason: String| Error::NoConfirmation { unit: unit.clone(), reason };
                let envelope = Envelope::decode(confirmation);
                let envelope = envelope.map_err(|_| refused("it is no statement".to_owned()))?;
                // A key that ended meanwhile signed it all the same.
                let opened = trust.open_witnessed(&envelope, now, Some(UnixMillis::MIN));
                let opened = opened.map_err(|error| refused(chain(&error)))?;
                let header = &opened.statement.header;
                let body = epoch::decode_body(&opened.statement.body);
                let body = body.map_err(|error| refused(error.to_string()))?;
                let is_its_own = header.kind == kinds::EPOCH && header.source == *unit;
                let opens = body.reason == Reason::Move && body.epoch > departed.epoch;
                if !is_its_own || !opens || body.unit != *unit || opened.signer.1.is_some() {
                    return Err(refused("it opens no epoch of the unit elsewhere".to_owned()));
                }
                body.epoch
            }
            None => return Err(Error::Confirmed { unit: unit.clone(), host: departed.host }),
        };
        let shown = Move {
            unit: unit.to_string(),
            from_host: self.config.host.name.clone(),
            to_host: departed.host.clone(),
            stopped_unix_ms: departed.stopped_unix_ms,
            sha256: Some(departed.sha256),
            epoch,
            ..Move::default()
        };
        if dry_run {
            return Ok(shown);
        }
        let path = self.sealed("out", departed.sha256);
        let departed = Departed { confirmed_unix_ms: Some(now), ..departed };
        let place = setup::keys_place(&self.config, &self.lock, unit);
        transfer::forget(store, &departed, &place).await?;
        if path.exists() {
            fs::remove_file(path)?;
        }
        Ok(shown)
    }

    /// Puts an act about a unit that is not here into the journal of the host's head unit.
    async fn record_move(&self, act: Act) -> Result<(), Error> {
        match self.units().head() {
            Some(head) => Ok(head.unit.record(act).await?),
            None => Ok(()),
        }
    }

    /// Notes a refused attempt, and says why.
    async fn refuse(
        &self,
        by: Actor,
        act: &'static str,
        unit: &UnitCode,
        error: Error,
    ) -> OperationError {
        let refused = Act::refused(by, act, unit.as_str(), error.reason());
        if let Err(error) = self.record_move(refused).await {
            tracing::error!(%unit, error = chain(&error), "cannot journal a refused move");
        }
        failed(&error)
    }
}

fn with(shown: Move, departed: &Departed, written: Written) -> Move {
    Move {
        facts: written.facts,
        sha256: Some(written.sha256),
        stopped_unix_ms: departed.stopped_unix_ms,
        records: written.facts.records,
        ..shown
    }
}

fn make_private(directory: &Path) -> io::Result<()> {
    setup::private_directory(directory).map_err(|error| io::Error::other(chain(&error)))
}

#[async_trait]
impl Transfers for Host {
    async fn receive(
        &self,
        unit: &UnitCode,
        given: Vec<String>,
        by: Actor,
    ) -> Result<Request, OperationError> {
        let act = "unit.receive";
        if self.units().get(unit).is_some() {
            return Err(self.refuse(by, act, unit, Error::Here(unit.clone())).await);
        }
        let given = if given.is_empty() { self.advertised() } else { given };
        let given = addresses("addresses", given).map_err(|error| failed(&error.into()))?;
        let key = TransferKey::load_or_generate(&self.transfer_place(unit));
        let TransferKey(key) = key.map_err(|error| failed(&error.into()))?;
        let done = Act::done(by, act, unit.as_str());
        self.record_move(done).await.map_err(|error| failed(&error))?;
        Ok(Request {
            unit: unit.clone(),
            public_key: key.public_key(),
            host: self.config.host.name.clone(),
            addresses: given,
        })
    }

    async fn announce(
        &self,
        unit: &UnitCode,
        to: &Request,
        by: Actor,
        dry_run: bool,
    ) -> Result<Move, OperationError> {
        let hosted = self.units().find(unit);
        let hosted =
            hosted.map_err(|error| OperationError { kind: error.kind(), text: chain(&error) })?;
        let shown = match self.taken_along(&hosted, to).await {
            Ok(shown) => shown,
            Err(error) => return Err(self.refuse(by, "unit.move-host", unit, error).await),
        };
        if !dry_run {
            let mut batch = Batch::new(unit);
            Announced { addresses: to.addresses.clone() }.put(&mut batch);
            let act = Act::done(by, "unit.move-host", unit.as_str());
            batch.journal(self.clock.now_unix_ms(), &crate::domain::journal::Leaf::Act(act));
            let kept = hosted.unit.store.submit(batch).await;
            kept.map_err(|error| failed(&error.into()))?;
            self.say_addresses(&hosted.unit).await.map_err(|error| failed(&error.into()))?;
            hosted.unit.greet_anew();
        }
        Ok(shown)
    }

    async fn export_unit(&self, order: ExportOrder) -> Result<Move, OperationError> {
        if !order.dry_run {
            check_approvers(&order.approvers).map_err(unapproved)?;
        }
        let exported = Box::pin(self.try_export(&order)).await;
        match exported {
            Ok(shown) => Ok(shown),
            Err(error) => Err(self.refuse(order.by, "unit.export", &order.unit, error).await),
        }
    }

    async fn exported(&self, unit: &UnitCode) -> Result<PathBuf, OperationError> {
        let departed = Departed::load(self.store.as_ref(), unit).await;
        let departed = departed.map_err(|error| failed(&error.into()))?;
        let departed = departed.ok_or_else(|| failed(&Error::NotGone(unit.clone())))?;
        if departed.confirmed_unix_ms.is_some() {
            let error = Error::Confirmed { unit: unit.clone(), host: departed.host };
            return Err(failed(&error));
        }
        Ok(self.sealed("out", departed.sha256))
    }

    fn uploads(&self) -> PathBuf {
        self.transfers()
    }

    async fn sealed_for(&self, sha256: [u8; 32]) -> Result<UnitCode, OperationError> {
        let path = self.sealed("in", sha256);
        let mut refused = Error::Sealed(crate::identity::sealed_file::Error::NotAReader);
        for unit in awaited(&self.config.keys_dir()) {
            let key = self.key_for(&unit).map_err(|error| failed(&error))?;
            match transfer::check(&path, key, &unit).await {
                Ok(_) => return Ok(unit),
                Err(Error::Sealed(crate::identity::sealed_file::Error::NotAReader)) => {}
                Err(error) => refused = error,
            }
        }
        // Of no use to anybody.
        fs::remove_file(&path).map_err(|error| failed(&error.into()))?;
        let act = Act::refused(Actor::node(), "unit.import", "file", refused.reason());
        self.record_move(act.about(sha256)).await.map_err(|error| failed(&error))?;
        Err(failed(&refused))
    }

    async fn import_unit(&self, order: ImportOrder) -> Result<Move, OperationError> {
        if !order.dry_run {
            check_approvers(&order.approvers).map_err(unapproved)?;
        }
        let imported = Box::pin(self.try_import(&order)).await;
        match imported {
            Ok(shown) => Ok(shown),
            Err(error) => Err(self.refuse(order.by, "unit.import", &order.unit, error).await),
        }
    }

    async fn confirm(
        &self,
        unit: &UnitCode,
        confirmation: &[u8],
        by: Actor,
        dry_run: bool,
    ) -> Result<Move, OperationError> {
        let act = "unit.confirm";
        match self.try_confirm(unit, confirmation, dry_run).await {
            Ok(shown) if dry_run => Ok(shown),
            Ok(shown) => {
                let done = Act::done(by, act, unit.as_str());
                self.record_move(done).await.map_err(|error| failed(&error))?;
                Ok(shown)
            }
            Err(error) => Err(self.refuse(by, act, unit, error).await),
        }
    }
}

/// Units that a host awaits: each has a directory with a key.
fn awaited(keys: &Path) -> Vec<UnitCode> {
    let Ok(entries) = fs::read_dir(keys.join("transfer")) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut units: Vec<UnitCode> = names.filter_map(|name| name.parse().ok()).collect();
    units.sort();
    units
}
