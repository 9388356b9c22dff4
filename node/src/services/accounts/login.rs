//! Logging in, and who a request is from.
//!
//! Everything that is wrong with a login has one answer and costs the same work: what was wrong is
//! in the journal alone.

use zeroize::Zeroizing;

use super::{
    Accounts, Error, by, new_secret,
    rows::{Account, Digest, Edit, People, Session},
    sha256,
};
use crate::{
    clock::UnixMillis,
    domain::{
        account::AccountName,
        guessing::Guessing,
        journal::{Act, Actor},
        role::{Grant, Role},
    },
    identity::{factor::Secret, password},
    store,
};

/// Sessions of one account; one more ends the oldest.
const MAX_SESSIONS: usize = 16;

/// A session's last use is written when it is older than this: a restart forgets no more.
const TOUCH_MS: i64 = 60_000;

/// What tokens of sessions begin with.
pub(super) const SESSION_PREFIX: &str = "lxs_";

/// A login that succeeded.
#[derive(Debug)]
pub struct LoggedIn {
    /// Proof of the session; shown once.
    pub token: Zeroizing<String>,
    /// When the session ends at the latest.
    pub ends_unix_ms: UnixMillis,
}

/// A role in force.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Held {
    /// The role.
    pub grant: Grant,
    /// The head whose deputy the person is; `None`: the person's own role.
    pub on_behalf_of: Option<AccountName>,
}

/// Who a request is from.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The account.
    pub name: AccountName,
    /// Its roles in force, its own first.
    pub held: Vec<Held>,
    /// Methods that the token of a system is limited to; `None`: a person, with a session.
    pub token_methods: Option<Vec<String>>,
}

impl Identity {
    /// True for a person with a session, false for a system with a token.
    pub fn is_person(&self) -> bool {
        self.token_methods.is_none()
    }

    /// True if one of the person's own roles is `role`.
    pub fn holds(&self, role: Role) -> bool {
        self.held.iter().any(|held| held.on_behalf_of.is_none() && held.grant.role == role)
    }
}

/// Why credentials were not accepted: the word for the journal; the caller is told one text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Denied(pub &'static str);

impl Accounts {
    /// Logs a person in.
    ///
    /// # Errors
    ///
    /// [`Error::Login`] whatever was wrong; [`Error::PasswordOld`].
    pub async fn login(
        &self,
        name: &str,
        password: Zeroizing<String>,
        code: &str,
        uid: u32,
    ) -> Result<LoggedIn, Error> {
        let account = self.verify("account.login", name, password, code, uid).await?;
        let now = self.now();
        if self.parts.rules.is_password_old(account.password_changed_unix_ms, now) {
            let reason = "password-old";
            self.record(Act::refused(by(&account.name), "account.login", name, reason)).await?;
            return Err(Error::PasswordOld);
        }
        let token = Zeroizing::new(new_secret(SESSION_PREFIX)?);
        let session = Session {
            account: account.name.clone(),
            uid,
            began_unix_ms: now,
            last_used_unix_ms: now,
        };
        let act = Act::done(by(&account.name), "account.login", account.name.as_str());
        self.change(act, |edit| {
            self.tidy_sessions(edit, &account.name, now);
            let mut account = account;
            account.last_login_unix_ms = now;
            edit.put_account(account);
            edit.put_session(sha256(&token), session);
            Ok(())
        })
        .await?;
        Ok(LoggedIn { token, ends_unix_ms: now.saturating_add(self.parts.rules.session_max_ms) })
    }

    fn tidy_sessions(&self, edit: &mut Edit, name: &AccountName, now: UnixMillis) {
        let over = |session: &Session| {
            self.parts.rules.is_session_over(session.began_unix_ms, session.last_used_unix_ms, now)
        };
        let mut own: Vec<(UnixMillis, Digest)> = Vec::new();
        let mut ended: Vec<Digest> = Vec::new();
        for (digest, session) in &edit.people.sessions {
            if over(session) && ended.len() < 100 {
                ended.push(*digest);
            } else if session.account == *name {
                own.push((session.last_used_unix_ms, *digest));
            }
        }
        own.sort_unstable();
        let surplus = (own.len() + 1).saturating_sub(MAX_SESSIONS);
        ended.extend(own.into_iter().take(surplus).map(|(_, digest)| digest));
        for digest in ended {
            edit.end_session(&digest);
        }
    }

    /// Checks name, password and code, and counts what is wrong.
    pub(super) async fn verify(
        &self,
        act: &'static str,
        name: &str,
        password: Zeroizing<String>,
        code: &str,
        uid: u32,
    ) -> Result<Account, Error> {
        let _turn = self.turn.lock().await;
        let account = {
            let people = self.people.read().await;
            let name = name.parse::<AccountName>().ok();
            name.and_then(|name| open_for_login(&people, &name))
        };
        let hash = account.as_ref().and_then(|account| account.password.clone());
        let right = verify_password(password, hash).await;
        let now = self.now();
        let judged = match account {
            Some(account) => judge(&account, self.factor(&account), (right, code), now)
                .map(|step| (account, step)),
            None => Err("unknown-account"),
        };
        match judged {
            Ok((account, step)) => {
                let mut people = self.people.write().await;
                let mut edit = Edit::new(&people, &self.parts.space);
                let mut account = super::open_account(&people, &account.name)?;
                account.last_step = step;
                account.guessing = Guessing::default();
                edit.put_account(account.clone());
                self.commit(&mut people, edit, None).await?;
                Ok(account)
            }
            Err(reason) => {
                self.refuse_guess(act, name, reason, uid).await?;
                Err(Error::Login)
            }
        }
    }

    /// Journals a refused attempt at an account; a wrong secret counts towards its lock-out.
    pub(super) async fn refuse_guess(
        &self,
        act: &'static str,
        name: &str,
        reason: &'static str,
        uid: u32,
    ) -> Result<(), Error> {
        let act = Act::refused(Actor::uid(uid), act, name, reason);
        match reason {
            "wrong-password" | "wrong-code" | "code-used" | "wrong-activation" => {
                self.count_failure(name, self.now(), act).await
            }
            _ => Ok(self.record_refusal(&format!("uid:{uid}"), act).await?),
        }
    }

    async fn count_failure(&self, name: &str, now: UnixMillis, act: Act) -> Result<(), Error> {
        let mut people = self.people.write().await;
        let mut edit = Edit::new(&people, &self.parts.space);
        let mut account = super::open_account(&people, &name.parse()?)?;
        account.guessing = account.guessing.failed(self.parts.rules.failures, now);
        edit.put_account(account);
        Ok(self.commit(&mut people, edit, Some(act)).await?)
    }

    /// Ends the session of a token.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn logout(&self, name: &AccountName, token: &str) -> Result<(), Error> {
        let act = Act::done(by(name), "account.logout", name.as_str());
        self.change(act, |edit| {
            edit.end_session(&sha256(token));
            Ok(())
        })
        .await
    }

    /// Tells who a token of a session or of a system is from.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn identify(
        &self,
        token: &str,
        uid: u32,
    ) -> Result<Result<Identity, Denied>, store::Error> {
        let digest = sha256(token);
        let now = self.now();
        if !token.starts_with(SESSION_PREFIX) {
            return Ok(self.identify_system(&digest, now).await);
        }
        let (identity, stale) = {
            let people = self.people.read().await;
            let Some(session) = people.sessions.get(&digest) else {
                return Ok(Err(Denied("unknown-session")));
            };
            let rules = &self.parts.rules;
            if rules.is_session_over(session.began_unix_ms, session.last_used_unix_ms, now) {
                return Ok(Err(Denied("session-over")));
            }
            if session.uid != uid {
                return Ok(Err(Denied("session-of-another-user")));
            }
            let Some(account) = usable(&people, &session.account) else {
                return Ok(Err(Denied("account-closed-or-locked")));
            };
            let held = held(&people, account, now);
            let identity = Identity { name: account.name.clone(), held, token_methods: None };
            (identity, now.saturating_sub(session.last_used_unix_ms) >= TOUCH_MS)
        };
        if stale {
            self.touch(&digest, now).await?;
        }
        Ok(Ok(identity))
    }

    async fn touch(&self, digest: &Digest, now: UnixMillis) -> Result<(), store::Error> {
        let mut people = self.people.write().await;
        // It may have been ended meanwhile.
        let Some(mut session) = people.sessions.get(digest).cloned() else { return Ok(()) };
        let mut edit = Edit::new(&people, &self.parts.space);
        session.last_used_unix_ms = now;
        edit.put_session(*digest, session);
        self.commit(&mut people, edit, None).await
    }

    async fn identify_system(&self, digest: &Digest, now: UnixMillis) -> Result<Identity, Denied> {
        let people = self.people.read().await;
        let token = people.tokens.values().find(|token| token.sha256 == *digest);
        let token = token.ok_or(Denied("unknown-token"))?;
        if now >= token.ends_unix_ms {
            return Err(Denied("token-over"));
        }
        let account = usable(&people, &token.account).ok_or(Denied("account-closed-or-locked"))?;
        let held = token.grants.iter().filter(|grant| account.grants.contains(grant));
        Ok(Identity {
            name: account.name.clone(),
            held: held.map(|grant| Held { grant: grant.clone(), on_behalf_of: None }).collect(),
            token_methods: Some(token.methods.clone()),
        })
    }

    /// The account as it stands, for an act of its that was confirmed.
    pub async fn identity_of(&self, name: &AccountName) -> Option<Identity> {
        let people = self.people.read().await;
        let account = usable(&people, name)?;
        let held = held(&people, account, self.now());
        Some(Identity { name: name.clone(), held, token_methods: None })
    }
}

fn open_for_login(people: &People, name: &AccountName) -> Option<Account> {
    let account = people.accounts.get(name)?;
    (account.closed.is_none() && account.password.is_some()).then(|| account.clone())
}

fn usable<'a>(people: &'a People, name: &AccountName) -> Option<&'a Account> {
    people.accounts.get(name).filter(|account| account.closed.is_none() && !account.locked)
}

/// The step of the code, or the word for what is wrong.
fn judge(
    account: &Account,
    factor: Option<Secret>,
    (right, code): (bool, &str),
    now: UnixMillis,
) -> Result<i64, &'static str> {
    if account.locked {
        return Err("locked");
    }
    if account.guessing.is_locked(now) {
        return Err("locked-out");
    }
    let secret = factor.ok_or("no-factor")?;
    let step = secret.verify(code, now, account.last_step);
    match (right, step) {
        (false, _) => Err("wrong-password"),
        (true, Some(step)) => Ok(step),
        (true, None) if secret.verify(code, now, i64::MIN).is_some() => Err("code-used"),
        (true, None) => Err("wrong-code"),
    }
}

/// Roles in force: one's own, and those of heads whose deputy one is at this moment.
fn held(people: &People, account: &Account, now: UnixMillis) -> Vec<Held> {
    let own = account.grants.iter().map(|grant| Held { grant: grant.clone(), on_behalf_of: None });
    let mut held: Vec<Held> = own.collect();
    for head in people.accounts.values() {
        let stands_in =
            head.deputies.iter().any(|deputy| deputy.to == account.name && deputy.is_active(now));
        if stands_in && usable(people, &head.name).is_some() {
            let grants = head.grants.iter().filter(|grant| grant.role == Role::Head);
            held.extend(
                grants.map(|grant| Held {
                    grant: grant.clone(),
                    on_behalf_of: Some(head.name.clone()),
                }),
            );
        }
    }
    held
}

async fn verify_password(password: Zeroizing<String>, hash: Option<String>) -> bool {
    let verified =
        tokio::task::spawn_blocking(move || password::verify(&password, hash.as_deref())).await;
    verified.unwrap_or(false)
}
