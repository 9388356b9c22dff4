//! What of people is stored: in the host's own space, one row each, a byte of format before it.
//!
//! `Accounts` by name, `Sessions` by the SHA-256 of their token, `ApiTokens` and `Approvals` by
//! number. A password is there as its hash, a token as its SHA-256, the secret of a second factor
//! sealed with a key that lies with the host's keys. In accounts of format 1 it lay in clear: they
//! are sealed as they are read, and written anew at once.

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use super::Error;
use crate::{
    clock::UnixMillis,
    domain::{
        account::{AccountName, Deputy},
        guessing::Guessing,
        role::Grant,
        unit::UnitCode,
    },
    identity::{factor::Secret, keys::PeopleKey},
    store::{self, Batch, Store, Table, format},
};

const FORMAT: u8 = 1;

/// Format of accounts.
const ACCOUNT_FORMAT: u8 = 2;

/// Rows read at a time.
const PAGE: usize = 1_000;

/// SHA-256 of a token.
pub(super) type Digest = [u8; 32];

/// One person's account.
#[derive(Clone, Serialize, Deserialize)]
pub struct Account {
    /// Unique name.
    pub name: AccountName,
    /// What people call the person.
    pub title: String,
    /// Roles.
    pub grants: std::collections::BTreeSet<Grant>,
    /// Who stands in for this head.
    pub deputies: Vec<Deputy>,
    /// When it was made.
    pub created_unix_ms: UnixMillis,
    /// Last login; 0: none.
    pub last_login_unix_ms: UnixMillis,
    /// True while an administrator keeps it locked.
    pub locked: bool,
    /// When it was closed, and who took its open items over.
    pub closed: Option<Closed>,
    pub(super) password: Option<String>,
    pub(super) password_changed_unix_ms: UnixMillis,
    /// Secret of the second factor, sealed.
    pub(super) factor: Option<String>,
    /// Last step of it that was used.
    pub(super) last_step: i64,
    pub(super) guessing: Guessing,
    pub(super) activation: Option<Activation>,
}

impl fmt::Debug for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Account").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Account {
    /// The secret of the second factor.
    pub(super) fn secret(&self, key: &PeopleKey) -> Option<Secret> {
        Secret::open(key, self.name.as_str(), self.factor.as_deref()?)
    }
}

/// The end of an account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Closed {
    /// When.
    pub at_unix_ms: UnixMillis,
    /// Who took its open items over.
    pub successor: AccountName,
}

/// The one-time code with which a person takes an account over.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Activation {
    pub(super) sha256: Digest,
    pub(super) ends_unix_ms: UnixMillis,
}

/// A login that goes on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Session {
    pub(super) account: AccountName,
    /// User of the operating system that logged in; no other can use the session.
    pub(super) uid: u32,
    pub(super) began_unix_ms: UnixMillis,
    pub(super) last_used_unix_ms: UnixMillis,
}

/// A system's standing permission.
#[derive(Clone, Serialize, Deserialize)]
pub struct ApiToken {
    /// Number on this host.
    pub id: u64,
    /// Whose.
    pub account: AccountName,
    /// What it is for.
    pub title: String,
    /// Roles, of those that the account holds.
    pub grants: std::collections::BTreeSet<Grant>,
    /// Methods, `Service/Method`; empty: all that the roles allow.
    pub methods: Vec<String>,
    /// When it was made.
    pub created_unix_ms: UnixMillis,
    /// When it ends.
    pub ends_unix_ms: UnixMillis,
    pub(super) sha256: Digest,
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ApiToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What became of an act that needs a second person.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nobody has decided.
    Waiting,
    /// Confirmed; the act may be under way.
    Confirmed,
    /// Confirmed and done.
    Done,
    /// Confirmed, and it failed, with this message.
    Failed(String),
    /// Refused by the second person.
    Refused,
}

/// Who may confirm.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Second {
    /// A system or security administrator.
    Administrator,
    /// The head of these units; empty: of every unit of the host.
    Head(Vec<UnitCode>),
}

/// An act that waits for its second person.
#[derive(Clone, Serialize, Deserialize)]
pub struct Approval {
    /// Number on this host.
    pub id: u64,
    /// Full path of the method.
    pub path: String,
    /// Name of the act.
    pub act: String,
    /// What it is done to.
    pub subject: String,
    /// Who asked, and for whom as deputy.
    pub asked_by: AccountName,
    /// When.
    pub asked_unix_ms: UnixMillis,
    /// When it lapses.
    pub ends_unix_ms: UnixMillis,
    /// Who may confirm.
    pub second: Second,
    /// Who decided.
    pub decided_by: Option<AccountName>,
    /// What became of it.
    pub state: State,
    /// The serialised request.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub(super) message: Vec<u8>,
}

impl Approval {
    /// The serialised request; empty once it is done.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// True while somebody can decide.
    pub fn is_waiting(&self, now: UnixMillis) -> bool {
        self.state == State::Waiting && now < self.ends_unix_ms
    }
}

impl fmt::Debug for Approval {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Approval").field("id", &self.id).finish_non_exhaustive()
    }
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64_STANDARD.decode(text).map_err(serde::de::Error::custom)
}

/// Everything that is stored of people, as it stands in memory too: a host has some hundred rows.
#[derive(Clone, Debug, Default)]
pub(super) struct People {
    pub(super) accounts: BTreeMap<AccountName, Account>,
    pub(super) sessions: BTreeMap<Digest, Session>,
    pub(super) tokens: BTreeMap<u64, ApiToken>,
    pub(super) approvals: BTreeMap<u64, Approval>,
}

impl People {
    /// Reads all rows of the host's `space`; `key` opens the second factors. Gives also the accounts
    /// that have to be written anew.
    pub(super) async fn load(
        store: &dyn Store,
        space: &UnitCode,
        key: &PeopleKey,
    ) -> Result<(Self, Vec<Account>), Error> {
        let (mut people, mut old) = (Self::default(), Vec::new());
        for (_, row) in rows(store, space, Table::Accounts).await? {
            let account = match row.first() {
                Some(&FORMAT) => {
                    let account = sealed(format::read(FORMAT, &row)?, key)?;
                    old.push(account.clone());
                    account
                }
                _ => format::read(ACCOUNT_FORMAT, &row)?,
            };
            if account.factor.is_some() && account.secret(key).is_none() {
                return Err(Error::Factor(account.name));
            }
            people.accounts.insert(account.name.clone(), account);
        }
        for (key, session) in read::<Session>(store, space, Table::Sessions).await? {
            let digest = Digest::try_from(key.as_slice())
                .map_err(|_| store::Error::Engine("the key of a session is damaged".into()))?;
            people.sessions.insert(digest, session);
        }
        for (_, token) in read::<ApiToken>(store, space, Table::ApiTokens).await? {
            people.tokens.insert(token.id, token);
        }
        for (_, approval) in read::<Approval>(store, space, Table::Approvals).await? {
            people.approvals.insert(approval.id, approval);
        }
        Ok((people, old))
    }
}

/// True if the host's `space` holds second factors that are sealed: their key has to be there.
pub(super) async fn any_sealed(store: &dyn Store, space: &UnitCode) -> Result<bool, store::Error> {
    for (_, row) in rows(store, space, Table::Accounts).await? {
        if row.first() == Some(&ACCOUNT_FORMAT)
            && format::read::<Account>(ACCOUNT_FORMAT, &row)?.factor.is_some()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An account of format 1, whose factor is in hex, as it is in the next.
fn sealed(mut account: Account, key: &PeopleKey) -> Result<Account, store::Error> {
    if let Some(hex) = account.factor.take() {
        let secret = Secret::from_hex(&hex);
        let secret = secret
            .ok_or_else(|| store::Error::Engine("a stored second factor is damaged".into()))?;
        account.factor = Some(secret.seal(key, account.name.as_str()));
    }
    Ok(account)
}

async fn rows(
    store: &dyn Store,
    space: &UnitCode,
    table: Table,
) -> Result<Vec<store::Entry>, store::Error> {
    let mut found: Vec<store::Entry> = Vec::new();
    loop {
        let after = found.last().map(|(key, _)| key.clone());
        let rows = store.scan(space, table, b"", after.as_deref(), PAGE).await?;
        let full = rows.len() == PAGE;
        found.extend(rows);
        if !full {
            return Ok(found);
        }
    }
}

async fn read<T: DeserializeOwned>(
    store: &dyn Store,
    space: &UnitCode,
    table: Table,
) -> Result<Vec<(Vec<u8>, T)>, store::Error> {
    let rows = rows(store, space, table).await?.into_iter();
    rows.map(|(key, row)| Ok((key, format::read(FORMAT, &row)?))).collect()
}

/// A change of people on its way into one batch.
pub(super) struct Edit {
    /// As it will be.
    pub(super) people: People,
    batch: Batch,
}

impl Edit {
    pub(super) fn new(people: &People, space: &UnitCode) -> Self {
        let mut batch = Batch::new(space);
        // Whoever makes room has to get in.
        batch.urgent();
        Self { people: people.clone(), batch }
    }

    pub(super) fn into_parts(self) -> (People, Batch) {
        (self.people, self.batch)
    }

    pub(super) fn put_account(&mut self, account: Account) {
        let row = format::write(ACCOUNT_FORMAT, &account);
        self.batch.put(Table::Accounts, account.name.as_str().as_bytes(), row);
        self.people.accounts.insert(account.name.clone(), account);
    }

    pub(super) fn put_session(&mut self, digest: Digest, session: Session) {
        self.batch.put(Table::Sessions, digest, format::write(FORMAT, &session));
        self.people.sessions.insert(digest, session);
    }

    pub(super) fn end_session(&mut self, digest: &Digest) {
        self.batch.delete(Table::Sessions, *digest);
        self.people.sessions.remove(digest);
    }

    /// Ends every session of an account.
    pub(super) fn end_sessions_of(&mut self, name: &AccountName) {
        let own = self.people.sessions.iter().filter(|(_, session)| session.account == *name);
        for digest in own.map(|(digest, _)| *digest).collect::<Vec<_>>() {
            self.end_session(&digest);
        }
    }

    pub(super) fn put_token(&mut self, token: ApiToken) {
        let row = format::write(FORMAT, &token);
        self.batch.put(Table::ApiTokens, token.id.to_be_bytes(), row);
        self.people.tokens.insert(token.id, token);
    }

    pub(super) fn end_token(&mut self, id: u64) {
        self.batch.delete(Table::ApiTokens, id.to_be_bytes());
        self.people.tokens.remove(&id);
    }

    pub(super) fn put_approval(&mut self, approval: Approval) {
        let row = format::write(FORMAT, &approval);
        self.batch.put(Table::Approvals, approval.id.to_be_bytes(), row);
        self.people.approvals.insert(approval.id, approval);
    }

    pub(super) fn forget_approval(&mut self, id: u64) {
        self.batch.delete(Table::Approvals, id.to_be_bytes());
        self.people.approvals.remove(&id);
    }
}
