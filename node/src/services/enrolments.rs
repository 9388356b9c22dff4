//! How units join: tokens, the two steps by which a child takes one, and the making of a root.
//!
//! Promises that a token brings in one child with one set of keys: it goes open → reserved for the
//! first key, 10 minutes → spent when the child confirms over its new certificate. Every step is
//! durable before it is answered, and repeatable by the same key; another key is refused and
//! reported. Secrets are kept as hashes, and whoever guesses them waits: by address and by token. Must not judge delegations: `identity::trust` does.

mod adopting;
mod child;
mod error;
mod identity;
mod recovery;
mod rotating;
mod rows;

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError, RwLockReadGuard},
};

use rustls::pki_types::CertificateDer;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use self::{
    adopting::{Adopting, FormerRow},
    rows::{Coming, Reservation, State, TokenRow},
};
pub use self::{
    child::{
        Door, DoorError, JoinError, Joined, Joining, NewRoot, Reached, Refused, Renewed, Renewing,
        reach,
    },
    error::Error,
    identity::{
        Identity, IdentityError, Membership, Parent, delegation_key, put_delegation, put_revocation,
    },
    recovery::{ChildRecovery, RecoveryBudget},
    rotating::{is_granted, replacing},
    rows::{Child, KeyRow, TokenState, TokenStatus},
};
use crate::{
    clock::{Clock, UnixMillis},
    domain::{
        delegation::{Delegation, KeyChange, PublicKey},
        guessing::{Guessing, Sources},
        journal::{Act, Actor, Leaf},
        reform::Order,
        refusals::{LeftOut, Window},
        unit::{Level, UnitCode},
    },
    identity::{
        certificates::{self, sha256},
        issue,
        keys::UnitKeys,
        tls::{Peer, ServerTls},
        token::Token,
        trust::{self, Checked, KnownRevocation, Trust},
    },
    services::revocations::remedy,
    statement::{
        Envelope, delegation::text, enrolment::Application, header::Malformed, reform::keys_sha256,
    },
    store::{self, Batch, Store, Table},
};

/// How long a token waits for the confirmation of the key that reserved it.
pub const RESERVATION_MS: i64 = 10 * 60 * 1000;

/// How long a token is good for if nothing else is asked.
pub const TOKEN_LIFETIME_MS: i64 = 72 * 60 * 60 * 1000;

/// How long a delegation is good for, unless its issuer's ends earlier.
pub const DELEGATION_LIFETIME_MS: i64 = 365 * 24 * 60 * 60 * 1000;

/// Wrong secrets of one token after which it waits, and whoever has it.
const TOKEN_FAILURES: u32 = 5;

/// Wrong tokens from one address after which it waits: many units may share one.
const ADDRESS_FAILURES: u32 = 20;

/// Whom to invite.
#[derive(Clone, Debug)]
pub struct Invite {
    /// Unit that is to join.
    pub child: UnitCode,
    /// Its level.
    pub level: Level,
    /// Its title.
    pub title: String,
    /// How long the token is good for; `None`: [`TOKEN_LIFETIME_MS`].
    pub valid_for_ms: Option<i64>,
    /// Addresses of this host, `host:port`, that the child is to dial.
    pub addresses: Vec<String>,
    /// Who invites.
    pub by: Actor,
    /// For a unit that comes from another parent: the order for that.
    pub order: Option<(Order, Envelope)>,
    /// For a unit that is a root and comes with its tree: the key id of its root key.
    pub adopts: Option<String>,
}

/// A token that was made.
#[derive(Debug)]
pub struct Invitation {
    /// The token; its text is to be shown once.
    pub token: Token,
    /// When it ends.
    pub expires_unix_ms: UnixMillis,
}

/// Answer to a reservation.
#[derive(Clone, Debug)]
pub struct Reserved {
    /// The child's client certificate, DER.
    pub certificate: CertificateDer<'static>,
    /// This unit's CA, DER.
    pub ca_certificate: CertificateDer<'static>,
    /// This host's clock.
    pub clock_unix_ms: UnixMillis,
    /// When the reservation ends.
    pub reserved_until_unix_ms: UnixMillis,
    /// For a child that has joined: the newest delegations from the root's own down to its own.
    pub chain: Vec<Envelope>,
}

/// The unit as its enrolments see it.
pub trait Grantor: Send + Sync + 'static {
    /// Its code.
    fn code(&self) -> &UnitCode;

    /// Its keys.
    fn keys(&self) -> Arc<UnitKeys>;

    /// Where its tokens and children are kept.
    fn store(&self) -> &dyn Store;

    /// Tells the time.
    fn clock(&self) -> &dyn Clock;

    /// What it believes.
    fn trust(&self) -> RwLockReadGuard<'_, Trust>;

    /// Believes a delegation that is stored by now.
    fn believe(&self, checked: Checked);

    /// Refusals of this minute.
    fn refusals(&self) -> &StdMutex<Window>;
}

/// Finds the enrolments of the units of a host.
pub trait Enrolling: Send + Sync + 'static {
    /// Enrolments of `unit`; `None`: it is not hosted here, or takes no children.
    fn enrolments(&self, unit: &UnitCode) -> Option<Arc<Enrolments>>;
}

/// The parent's side of joining, for one hosted unit.
pub struct Enrolments {
    unit: Arc<dyn Grantor>,
    tls: Arc<ServerTls>,
    budget: RecoveryBudget,
    /// Addresses that wrong tokens came from.
    guesses: StdMutex<Sources>,
    /// One step at a time: each reads a row and writes it back.
    turn: Mutex<()>,
}

impl fmt::Debug for Enrolments {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Enrolments").field("unit", self.unit.code()).finish_non_exhaustive()
    }
}

impl Enrolments {
    /// Opens the enrolments of a unit, and tells the listener which keys its children joined with.
    ///
    /// # Errors
    ///
    /// [`Error::Store`], [`Error::Row`].
    pub async fn open(
        unit: Arc<dyn Grantor>,
        tls: Arc<ServerTls>,
        budget: RecoveryBudget,
    ) -> Result<Self, Error> {
        let enrolments =
            Self { unit, tls, budget, guesses: StdMutex::default(), turn: Mutex::new(()) };
        for child in enrolments.children().await? {
            enrolments.tls.bind(enrolments.unit(), &child.unit, child.tls_key_sha256);
        }
        Ok(enrolments)
    }

    /// The unit.
    pub fn unit(&self) -> &UnitCode {
        self.unit.code()
    }

    /// Makes a token for a child. Its secret is kept as a hash.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyJoined`], [`Error::Elsewhere`], [`Error::Level`], [`Error::NoAddress`],
    /// [`Error::Malformed`], [`Error::Store`].
    pub async fn invite(&self, invite: Invite) -> Result<Invitation, Error> {
        let _turn = self.turn.lock().await;
        let now = self.unit.clock().now_unix_ms();
        let act = if invite.adopts.is_some() { "node.adopt.offer" } else { "node.invite" };
        let ends = match self.check_invite(&invite, now).await {
            Ok(ends) => ends,
            Err(error) => {
                let source = invite.by.to_string();
                return Err(self.refuse(&source, (invite.by, act), &invite.child, error).await);
            }
        };
        let Invite { child, level, title, addresses, by, order, adopts, .. } = invite;
        let token = self.token(child, level, title, addresses, ends);
        let row = TokenRow {
            child: token.unit.clone(),
            level: token.level,
            title: token.title.clone(),
            secret_sha256: sha256(token.secret.as_slice()),
            issued_unix_ms: now,
            expires_unix_ms: token.expires_unix_ms,
            state: State::Open,
            refused: 0,
            refused_unix_ms: 0,
            guessing: Guessing::default(),
            coming: order.map(Coming::from),
            adopting: adopts.map(Adopting),
        };
        let mut batch = Batch::new(self.unit.code());
        batch.require_absent(Table::Tokens, token.id);
        batch.put(Table::Tokens, token.id, row.encode());
        let act = Act::done(by, act, token.unit.as_str());
        batch.journal(now, &Leaf::Act(act));
        self.unit.store().submit(batch).await?;
        Ok(Invitation { expires_unix_ms: token.expires_unix_ms, token })
    }

    /// Journals an attempt of `source` that was refused, unless enough of it stand there for this
    /// minute, and hands its error on.
    async fn refuse(
        &self,
        source: &str,
        (actor, name): (Actor, &'static str),
        subject: &UnitCode,
        error: Error,
    ) -> Error {
        let now = self.unit.clock().now_unix_ms();
        let (left_out, written) = {
            let window = self.unit.refusals().lock();
            let mut window = window.unwrap_or_else(PoisonError::into_inner);
            (window.turn(now), window.take(source))
        };
        let act = Act::refused(actor, name, subject.as_str(), error.reason());
        let mut batch = Batch::new(self.unit.code());
        for act in left_out.iter().map(LeftOut::act).chain(written.then_some(act)) {
            batch.journal(now, &Leaf::Act(act));
        }
        if !batch.is_empty()
            && let Err(failure) = self.unit.store().submit(batch).await
        {
            // The attempt is refused all the same; the log has it.
            tracing::error!(unit = %self.unit(), error = %failure, "a refusal was not journalled");
        }
        error
    }

    /// What [`Self::invite`] would say; makes no token. Returns when the token would end.
    ///
    /// # Errors
    ///
    /// As [`Self::invite`].
    pub async fn try_invite(&self, invite: &Invite) -> Result<UnixMillis, Error> {
        let _turn = self.turn.lock().await;
        self.check_invite(invite, self.unit.clock().now_unix_ms()).await
    }

    async fn check_invite(&self, invite: &Invite, now: UnixMillis) -> Result<UnixMillis, Error> {
        text("child_title", invite.title.clone())?;
        if invite.addresses.is_empty() {
            return Err(Error::NoAddress);
        }
        let lifetime = invite.valid_for_ms.unwrap_or(TOKEN_LIFETIME_MS);
        if lifetime <= 0 {
            return Err(Malformed::new("valid_for_ms", "must be positive").into());
        }
        if invite.adopts.is_some() {
            self.check_offer(&invite.child)?;
        }
        let coming = invite.order.as_ref().map(|(order, _)| (&order.from, order.merge));
        self.check_place(&invite.child, invite.level, coming).await?;
        Ok(now.saturating_add(lifetime))
    }

    fn token(
        &self,
        unit: UnitCode,
        level: Level,
        title: String,
        addresses: Vec<String>,
        expires_unix_ms: UnixMillis,
    ) -> Token {
        let (mut id, mut secret) = ([0; 16], Zeroizing::new([0; 32]));
        getrandom::fill(&mut id)
            .and_then(|()| getrandom::fill(&mut *secret))
            .expect("invariant: the operating system gives random bytes");
        let trust = self.unit.trust();
        Token {
            addresses,
            parent: self.unit.code().clone(),
            trust_domain: trust.trust_domain().to_owned(),
            root_key: trust.root_key().clone(),
            ca_sha256: self.unit.keys().ca_sha256(),
            unit,
            level,
            title,
            expires_unix_ms,
            id,
            secret,
        }
    }

    /// Reserves a token for the keys of `application`, whose proof was checked when it was read, and
    /// issues the client certificate. The same keys can repeat it, even after the confirmation.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownToken`], [`Error::Guessed`], [`Error::Expired`], [`Error::Spent`],
    /// [`Error::Reserved`], [`Error::OtherUnit`], [`Error::Trust`], [`Error::AlreadyJoined`],
    /// [`Error::Certificate`], [`Error::Store`].
    pub async fn reserve(
        &self,
        from: IpAddr,
        application: &Application,
    ) -> Result<Reserved, Error> {
        let _turn = self.turn.lock().await;
        match self.try_reserve(from, application).await {
            Ok(reserved) => Ok(reserved),
            Err(error) => {
                let name = match (error.is_of_recovery(), &application.adopted) {
                    (true, _) => "node.recover",
                    (false, Some(_)) => "node.adopt",
                    (false, None) => "node.join",
                };
                let act = (Actor::unit(&application.unit), name);
                let source = from.to_canonical().to_string();
                Err(self.refuse(&source, act, &application.unit, error).await)
            }
        }
    }

    async fn try_reserve(
        &self,
        from: IpAddr,
        application: &Application,
    ) -> Result<Reserved, Error> {
        let now = self.unit.clock().now_unix_ms();
        let (row, stored) = self.known_token(from, application, now).await?;
        if (&row.child, row.level) != (&application.unit, application.level) {
            let claim = self.claim(&row, application);
            let (invited, level) = (row.child, row.level);
            return Err(Error::OtherUnit {
                invited,
                level,
                claimed: application.unit.clone(),
                claim,
            });
        }
        // Before anything is kept: a delegation for these keys would be believed by nobody.
        self.unit.trust().check_new_keys(&application.unit, &application.keys, now)?;
        let mut reservation = Reservation::new(application, now.saturating_add(RESERVATION_MS))?;
        self.check_not_revoked(&row, &reservation.keys())?;
        let until = match &row.state {
            State::Spent { tls_key_sha256, .. }
                if self.is_current(&row.child, &reservation, tls_key_sha256) =>
            {
                self.admit_renewal(&row, now).await?;
                now
            }
            State::Spent { .. } => {
                self.report(&application.token_id, row.clone(), stored, now).await?;
                return Err(Error::Spent(row.child));
            }
            _ if now >= row.expires_unix_ms => {
                return Err(Error::Expired(self.unit.code().clone()));
            }
            State::Reserved(other)
                if other.until_unix_ms > now && other.thumbprint != reservation.thumbprint =>
            {
                let until_unix_ms = other.until_unix_ms;
                self.report(&application.token_id, row.clone(), stored, now).await?;
                return Err(Error::Reserved { unit: row.child, until_unix_ms });
            }
            State::Open | State::Reserved(_) => {
                self.check_coming(&row, &application.keys, now)?;
                reservation.former = self.check_adoption(&row, application, now)?;
                self.check_place(&row.child, row.level, row.coming()).await?;
                let until = reservation.until_unix_ms;
                let reserved = TokenRow { state: State::Reserved(reservation), ..row.clone() };
                self.replace(&application.token_id, &reserved, stored).await?;
                until
            }
        };
        let certificate = self.certify(&row.child, &application.certificate_request, now)?;
        let joined = matches!(row.state, State::Spent { .. });
        Ok(Reserved {
            certificate,
            ca_certificate: self.unit.keys().ca_certificate.clone(),
            clock_unix_ms: now,
            reserved_until_unix_ms: until,
            chain: if joined { self.unit.trust().chain(&row.child) } else { Vec::new() },
        })
    }

    /// The token of an application, unless its secret is wrong, or so many were wrong that even the
    /// right one has to wait.
    async fn known_token(
        &self,
        from: IpAddr,
        application: &Application,
        now: UnixMillis,
    ) -> Result<(TokenRow, Vec<u8>), Error> {
        let waits = |until_unix_ms| Error::Guessed { until_unix_ms };
        if let Some(until_unix_ms) = self.guesses().locked_until(from, now) {
            return Err(waits(until_unix_ms));
        }
        let found = self.row(&application.token_id).await;
        if matches!(found, Err(Error::UnknownToken(_))) {
            self.guesses().failed(from, ADDRESS_FAILURES, now);
        }
        let (row, stored) = found?;
        if row.guessing.is_locked(now) {
            return Err(waits(row.guessing.locked_until_unix_ms));
        }
        if row.has_secret(&application.secret) {
            return Ok((row, stored));
        }
        self.guesses().failed(from, ADDRESS_FAILURES, now);
        let guessing = row.guessing.failed(TOKEN_FAILURES, now);
        self.replace(&application.token_id, &TokenRow { guessing, ..row }, stored).await?;
        Err(self.unknown())
    }

    fn guesses(&self) -> MutexGuard<'_, Sources> {
        self.guesses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose place an application asks for that is not the token's.
    fn claim(&self, row: &TokenRow, application: &Application) -> &'static str {
        if application.unit == row.child {
            return if application.level.is_above(row.level) {
                "higher-level"
            } else {
                "other-level"
            };
        }
        let trust = self.unit.trust();
        if trust.is_in_subtree(self.unit.code(), &application.unit) {
            "parents-code"
        } else if trust.parent(&application.unit) == Some(self.unit.code()) {
            "siblings-code"
        } else {
            "other-unit"
        }
    }

    fn certify(
        &self,
        child: &UnitCode,
        request: &[u8],
        now: UnixMillis,
    ) -> Result<CertificateDer<'static>, Error> {
        let keys = self.unit.keys();
        let domain = self.unit.trust().trust_domain().to_owned();
        let issuer = (&keys.ca_certificate, &keys.ca);
        Ok(certificates::issue_client(child, &domain, request, issuer, now)?)
    }

    /// Spends the token, takes the child in, and issues its delegation from now on. The holder of the
    /// same certificate key can repeat it.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownToken`], [`Error::OtherPeer`], [`Error::NotReserved`], [`Error::Reserved`],
    /// [`Error::Spent`], [`Error::Expired`], [`Error::AlreadyJoined`], [`Error::IssuerExpired`],
    /// [`Error::Trust`], [`Error::Store`].
    pub async fn confirm(&self, peer: &Peer, token_id: &[u8; 16]) -> Result<Vec<Envelope>, Error> {
        let _turn = self.turn.lock().await;
        match self.try_confirm(peer, token_id).await {
            Ok(chain) => Ok(chain),
            Err(error) => {
                let act = (Actor::unit(&peer.unit), "node.join");
                Err(self.refuse(peer.unit.as_str(), act, &peer.unit, error).await)
            }
        }
    }

    async fn try_confirm(&self, peer: &Peer, token_id: &[u8; 16]) -> Result<Vec<Envelope>, Error> {
        let now = self.unit.clock().now_unix_ms();
        let (row, stored) = self.row(token_id).await?;
        if row.child != peer.unit {
            return Err(Error::OtherPeer(peer.unit.clone()));
        }
        self.check_not_revoked(&row, &[])?;
        match row.state.clone() {
            State::Open => Err(Error::NotReserved),
            State::Spent { tls_key_sha256, .. } if tls_key_sha256 == peer.key_sha256 => {
                Ok(self.unit.trust().chain(&row.child))
            }
            State::Spent { .. } => {
                self.report(token_id, row.clone(), stored, now).await?;
                Err(Error::Spent(row.child))
            }
            State::Reserved(reservation) if reservation.tls_key_sha256 != peer.key_sha256 => {
                self.report(token_id, row.clone(), stored, now).await?;
                let until_unix_ms = reservation.until_unix_ms;
                Err(Error::Reserved { unit: row.child, until_unix_ms })
            }
            State::Reserved(reservation) if now >= reservation.until_unix_ms => {
                Err(Error::NotReserved)
            }
            State::Reserved(reservation) => {
                self.take_in(token_id, row, stored, reservation, now).await
            }
        }
    }

    /// One batch: the token is spent, the child is there, its delegation is kept.
    async fn take_in(
        &self,
        token_id: &[u8; 16],
        row: TokenRow,
        stored: Vec<u8>,
        reservation: Reservation,
        now: UnixMillis,
    ) -> Result<Vec<Envelope>, Error> {
        let unit = self.unit.code();
        let row_adopts = row.adopting.is_some();
        self.check_place(&row.child, row.level, row.coming()).await?;
        let delegation = self.grant(&row, &reservation, now)?;
        let envelope = issue::sign(&delegation, &self.unit.keys().delegation, now);
        let checked = self.unit.trust().check(&envelope, Some(now))?;
        let child = Child {
            unit: row.child.clone(),
            level: row.level,
            title: row.title.clone(),
            host: reservation.host.clone(),
            tls_key_sha256: reservation.tls_key_sha256,
            joined_unix_ms: now,
        };
        let state = State::Spent {
            by: reservation.thumbprint,
            tls_key_sha256: reservation.tls_key_sha256,
            spent_unix_ms: now,
        };
        let mut batch = Batch::new(unit);
        batch.require(Table::Tokens, token_id, stored);
        batch.put(Table::Tokens, token_id, TokenRow { state, ..row }.encode());
        // A child that was revoked comes back under its name, with new keys.
        let before = self.unit.store().get(unit, Table::Children, child.unit.as_str().as_bytes());
        match before.await? {
            None => batch.require_absent(Table::Children, child.unit.as_str()),
            Some(before) => batch.require(Table::Children, child.unit.as_str(), before),
        }
        batch.put(Table::Children, child.unit.as_str(), child.encode());
        put_delegation(&mut batch, checked.known(), now);
        let name = if row_adopts { "node.adopt" } else { "node.join" };
        let act = Act::done(Actor::unit(&child.unit), name, child.unit.as_str());
        batch.journal(now, &Leaf::Act(act));
        self.unit.store().submit(batch).await?;
        self.unit.believe(checked);
        self.tls.bind(unit, &child.unit, child.tls_key_sha256);
        tracing::info!(unit = %unit, child = %child.unit, host = %child.host, "child joined");
        Ok(self.unit.trust().chain(&child.unit))
    }

    /// What the child gets: from now on (backdating is the verifier's tolerance), for a year or until
    /// this unit's own delegation ends.
    fn grant(
        &self,
        row: &TokenRow,
        reservation: &Reservation,
        now: UnixMillis,
    ) -> Result<Delegation, Error> {
        let unit = self.unit.code();
        let trust = self.unit.trust();
        let own = trust.delegation(unit, None);
        let own = own.ok_or_else(|| trust::Error::UnknownUnit(unit.clone()))?;
        let not_after_unix_ms = longest_grant(&own.delegation, now);
        if not_after_unix_ms <= now {
            return Err(Error::IssuerExpired(unit.clone()));
        }
        let last = trust.delegation(&row.child, None).map_or(0, |known| known.delegation.serial);
        let former = reservation.former.as_ref();
        let last = last.max(former.map_or(0, FormerRow::serial));
        let serial = next_serial(last, now);
        Ok(Delegation {
            trust_domain: trust.trust_domain().to_owned(),
            unit: row.child.clone(),
            level: row.level,
            issuer: Some(unit.clone()),
            not_before_unix_ms: now,
            not_after_unix_ms,
            keys: reservation.keys(),
            ca_sha256: Some(reservation.ca_sha256),
            host: reservation.host.clone(),
            desk: None,
            line: String::new(),
            title: row.title.clone(),
            serial,
            accepted_suites: Vec::new(),
            change: KeyChange {
                former_root: former.and_then(FormerRow::former),
                ..KeyChange::default()
            },
            reform: row.coming.as_ref().map(|coming| coming.order.clone()),
        })
    }

    /// The children that have joined, by code.
    ///
    /// # Errors
    ///
    /// [`Error::Store`], [`Error::Row`].
    pub async fn children(&self) -> Result<Vec<Child>, Error> {
        let rows = self.rows(Table::Children).await?;
        rows.iter().map(|(_, value)| Child::decode(value)).collect()
    }

    /// True if `child` has joined here.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn has_joined(&self, child: &UnitCode) -> Result<bool, Error> {
        let store = self.unit.store();
        let row = store.get(self.unit.code(), Table::Children, child.as_str().as_bytes()).await?;
        Ok(row.is_some())
    }

    /// The tokens with what became of them, refused attempts included.
    ///
    /// # Errors
    ///
    /// [`Error::Store`], [`Error::Row`].
    pub async fn tokens(&self) -> Result<Vec<TokenStatus>, Error> {
        let rows = self.rows(Table::Tokens).await?;
        rows.iter().map(|(_, value)| Ok(TokenRow::decode(value)?.status())).collect()
    }

    async fn rows(&self, table: Table) -> Result<Vec<store::Entry>, Error> {
        const PAGE: usize = 256;
        let mut rows: Vec<store::Entry> = Vec::new();
        loop {
            let after = rows.last().map(|(key, _)| key.clone());
            let store = self.unit.store();
            let page = store.scan(self.unit.code(), table, b"", after.as_deref(), PAGE).await?;
            let last = page.len() < PAGE;
            rows.extend(page);
            if last {
                return Ok(rows);
            }
        }
    }

    /// A child is below this unit, not elsewhere, and has not joined.
    async fn check_place(
        &self,
        child: &UnitCode,
        level: Level,
        coming: Option<(&UnitCode, bool)>,
    ) -> Result<(), Error> {
        let unit = self.unit.code();
        let from = coming.map(|(from, _)| from);
        {
            let trust = self.unit.trust();
            let own = trust.delegation(unit, None);
            let own = own.ok_or_else(|| trust::Error::UnknownUnit(unit.clone()))?.delegation.level;
            let merges = coming.is_some_and(|(_, merges)| merges) && own == level;
            if !own.is_above(level) && !merges {
                return Err(Error::Level { own, level });
            }
            if let Some(known) = trust.delegation(child, None)
                && known.delegation.issuer.as_ref() != Some(unit)
                && (from.is_none() || known.delegation.issuer.as_ref() != from)
            {
                let parent = known.delegation.issuer.as_ref();
                let parent = parent.map_or_else(|| "the root key".to_owned(), ToString::to_string);
                return Err(Error::Elsewhere { child: child.clone(), parent });
            }
        }
        let was_revoked = self.unit.trust().revoked(child, None).is_some();
        if !was_revoked && self.has_joined(child).await? {
            return Err(Error::AlreadyJoined(child.clone()));
        }
        Ok(())
    }

    /// A revoked unit takes nobody in, and a token that was given out before its child was revoked,
    /// or that comes with keys that were, brings nobody in.
    fn check_not_revoked(&self, row: &TokenRow, keys: &[PublicKey]) -> Result<(), Error> {
        let trust = self.unit.trust();
        let refused = |known: &KnownRevocation| Err(Error::Revoked(remedy(known)));
        if let Some(known) = trust.revoked(self.unit.code(), None) {
            return refused(known);
        }
        if let Some(known) = trust.revoked(&row.child, None)
            && row.issued_unix_ms <= known.time_unix_ms
        {
            return refused(known);
        }
        let ended = keys.iter().find_map(|key| trust.revocation_of_key(&row.child, key));
        ended.map_or(Ok(()), refused)
    }

    async fn row(&self, token_id: &[u8; 16]) -> Result<(TokenRow, Vec<u8>), Error> {
        let stored = self.unit.store().get(self.unit.code(), Table::Tokens, token_id).await?;
        let stored = stored.ok_or_else(|| self.unknown())?;
        Ok((TokenRow::decode(&stored)?, stored))
    }

    fn unknown(&self) -> Error {
        Error::UnknownToken(self.unit.code().clone())
    }

    async fn replace(
        &self,
        token_id: &[u8; 16],
        row: &TokenRow,
        stored: Vec<u8>,
    ) -> Result<(), Error> {
        let mut batch = Batch::new(self.unit.code());
        batch.require(Table::Tokens, token_id, stored);
        batch.put(Table::Tokens, token_id, row.encode());
        Ok(self.unit.store().submit(batch).await?)
    }

    /// A unit that comes from another parent brings the keys of its order, or those that its old parent
    /// granted it since, and not before its day.
    fn check_coming(
        &self,
        row: &TokenRow,
        keys: &[PublicKey],
        now: UnixMillis,
    ) -> Result<(), Error> {
        let Some(coming) = &row.coming else { return Ok(()) };
        let child = row.child.clone();
        let named = {
            let trust = self.unit.trust();
            let newest = trust.delegation(&child, None).map(|known| &known.delegation);
            match newest.filter(|grant| grant.issuer.as_ref() == Some(&coming.from)) {
                Some(grant) => keys.iter().all(|key| grant.keys.contains(key)),
                None => keys_sha256(keys) == coming.keys_sha256,
            }
        };
        if !named {
            return Err(Error::OtherKeys(child));
        }
        let effective_unix_ms = coming.effective_unix_ms;
        if now < effective_unix_ms {
            return Err(Error::TooEarly { child, effective_unix_ms });
        }
        Ok(())
    }

    /// Somebody else has the token: the operator must learn of it.
    async fn report(
        &self,
        token_id: &[u8; 16],
        row: TokenRow,
        stored: Vec<u8>,
        now: UnixMillis,
    ) -> Result<(), Error> {
        tracing::warn!(
            unit = %self.unit.code(),
            child = %row.child,
            token = hex::encode(token_id),
            "a second key tried a token that another key has taken: the token may have leaked"
        );
        let refused = row.refused.saturating_add(1);
        self.replace(token_id, &TokenRow { refused, refused_unix_ms: now, ..row }, stored).await
    }
}

/// How far a grant of `issuer` can reach: a year, or as far as its own.
fn longest_grant(issuer: &Delegation, now: UnixMillis) -> UnixMillis {
    issuer.not_after_unix_ms.min(now.saturating_add(DELEGATION_LIFETIME_MS))
}

/// Serials rise, and follow the clock where they can.
fn next_serial(last: u64, now: UnixMillis) -> u64 {
    u64::try_from(now).unwrap_or_default().max(last.saturating_add(1))
}

#[cfg(test)]
pub(crate) mod tests;
