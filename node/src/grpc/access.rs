//! Who calls on the local socket, and whether they may: judged before a handler sees the request.
//!
//! Promises that no request reaches a handler without a line in the table of [`rules`] and a
//! [`Caller`] in its extensions, that every refusal is in the journal with its reason, and that
//! what needs a second person waits for one. The caller is told by the system's word for the other
//! end of the socket, and by a session or token. Nothing here acts: what a call does is its
//! handler's.

mod layer;
mod message;
mod replay;
pub mod rules;

use std::sync::Arc;

use tonic::{Request, Status, codegen::http::HeaderMap};

use self::rules::{Audience, Confirmation, Rule, Target};
pub use self::{layer::AccessLayer, message::details, replay::Replay};
use crate::{
    domain::{
        account::AccountName,
        journal::{Act, Actor},
        role::Role,
        unit::UnitCode,
    },
    services::accounts::{Accounts, Held, Identity, Second},
    store,
};

/// What the paths of local work begin with: all that a token of a system reaches.
const LOCAL_WORK: &str = "/lianxi.local.v1.";

/// How far a caller is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// The user that runs the node, or root, on a host without accounts: may do everything.
    Owner,
    /// The same, on a host with accounts, without a session.
    Local,
    /// Another user without a session, on a socket that is open to others.
    Stranger,
    /// An account, with a session or a token.
    Account,
}

/// Who makes a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// As the journal names it; as a deputy with the head whose role permits the call.
    pub actor: Actor,
    /// The user of the operating system.
    pub uid: u32,
    /// How far the caller is known.
    pub standing: Standing,
    /// Account and roles in force, if there is a session or token.
    pub identity: Option<Identity>,
    /// The second person, if the act needed one.
    pub confirmed_by: Option<AccountName>,
}

impl Caller {
    /// Roles in force.
    pub fn roles(&self) -> &[Held] {
        self.identity.as_ref().map(|identity| identity.held.as_slice()).unwrap_or_default()
    }
}

/// Who makes this request.
///
/// # Errors
///
/// Internal: the request did not come through [`AccessLayer`].
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::internal("a request came without its caller"))
}

/// The account that makes this request.
///
/// # Errors
///
/// Failed precondition, where the host has no accounts.
pub fn person<T>(request: &Request<T>) -> Result<Identity, Status> {
    let none = "this host has no accounts yet: make the first ones with `lianxi account setup`";
    caller(request)?.identity.ok_or_else(|| Status::failed_precondition(none))
}

/// The token that a call carries.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")
}

/// A refusal: the word for the journal and the answer for the caller.
#[derive(Debug)]
pub struct Refusal {
    reason: &'static str,
    status: Status,
}

impl Refusal {
    fn new(reason: &'static str, status: Status) -> Self {
        Self { reason, status }
    }

    fn denied(reason: &'static str, text: impl Into<String>) -> Self {
        Self::new(reason, Status::permission_denied(text))
    }

    fn unknown(reason: &'static str) -> Self {
        let text = "log in first: `lianxi login`; or name a token with --token-file";
        Self::new(reason, Status::unauthenticated(text))
    }
}

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Self {
        Self::new("store", super::status::to_status(error))
    }
}

/// What a permitted call waits for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Permit {
    /// Nothing; as a deputy, for this head.
    Go(Option<AccountName>),
    /// A second person.
    Ask(Second),
}

/// Who may call the local socket.
#[derive(Clone, Debug)]
pub struct Access {
    /// The user that runs the node.
    pub own_uid: u32,
    /// True if other users of the system may connect, and log in.
    pub open: bool,
    /// The people of the host.
    pub accounts: Arc<Accounts>,
}

impl Access {
    /// Tells the caller.
    ///
    /// # Errors
    ///
    /// A user that may not connect, a token that does not hold.
    pub async fn identify(&self, uid: Option<u32>, token: Option<&str>) -> Result<Caller, Refusal> {
        let no_uid = || Refusal::denied("no-uid", "the system does not tell who is calling");
        let uid = uid.ok_or_else(no_uid)?;
        let local = uid == self.own_uid || uid == 0;
        let exist = self.accounts.exist().await;
        let let_in = local || (self.open && exist);
        if !let_in {
            let text = format!(
                "user {uid} may not give commands to this node: give them as the user that runs \
                 it, or set `open_to` in the table [admin] of its node.toml and make accounts"
            );
            return Err(Refusal::denied("uid", text));
        }
        let standing = match (local, exist) {
            (true, false) => Standing::Owner,
            (true, true) => Standing::Local,
            (false, _) => Standing::Stranger,
        };
        let Some(token) = token else {
            let actor = Actor::uid(uid);
            return Ok(Caller { actor, uid, standing, identity: None, confirmed_by: None });
        };
        let identity = self.accounts.identify(token, uid).await?;
        let identity = identity.map_err(|denied| Refusal::unknown(denied.0))?;
        Ok(Self::caller_of(identity, uid))
    }

    fn caller_of(identity: Identity, uid: u32) -> Caller {
        Caller {
            actor: Actor::account(identity.name.as_str()),
            uid,
            standing: Standing::Account,
            identity: Some(identity),
            confirmed_by: None,
        }
    }

    /// Nobody works as a unit that merges into another, or has.
    fn check_stands(&self, rule: &Rule, units: &[UnitCode]) -> Result<(), Refusal> {
        if rule.is_of_ended() {
            return Ok(());
        }
        let hosted = units.iter().filter_map(|unit| self.accounts.units().get(unit));
        for unit in hosted {
            if let Some(into) = unit.unit.merges_into() {
                let text = format!(
                    "{} merges into {into}: what was open with it is there; give the command for \
                     {into}",
                    unit.unit.code
                );
                return Err(Refusal::new("merged", Status::failed_precondition(text)));
            }
        }
        Ok(())
    }

    /// Judges a call that is for `units`.
    ///
    /// # Errors
    ///
    /// The caller may not, with the reason.
    pub fn permit(
        &self,
        rule: &Rule,
        caller: &Caller,
        units: &[UnitCode],
        dry_run: bool,
    ) -> Result<Permit, Refusal> {
        let may = match (rule.audience, caller.standing) {
            (_, Standing::Owner) | (Audience::Anyone, _) => return Ok(Permit::Go(None)),
            (Audience::Host, Standing::Local | Standing::Account) => return Ok(Permit::Go(None)),
            (_, Standing::Local | Standing::Stranger) => {
                return Err(Refusal::unknown("no-account"));
            }
            (Audience::Person, Standing::Account) => &Role::ALL[..],
            (Audience::Roles(may), Standing::Account) => may,
        };
        let Some(identity) = &caller.identity else {
            return Err(Refusal::unknown("no-account"));
        };
        if let Some(methods) = &identity.token_methods {
            check_token(rule, methods)?;
        }
        if rule.audience == Audience::Person {
            return Ok(Permit::Go(None));
        }
        self.permit_roles(rule, may, identity, units, dry_run)
    }

    fn permit_roles(
        &self,
        rule: &Rule,
        may: &[Role],
        identity: &Identity,
        units: &[UnitCode],
        dry_run: bool,
    ) -> Result<Permit, Refusal> {
        let fitting: Vec<&Held> =
            identity.held.iter().filter(|held| may.contains(&held.grant.role)).collect();
        if fitting.is_empty() {
            let words: Vec<&str> = may.iter().map(|role| role.as_str()).collect();
            let text = format!("this takes the role {}, which you do not hold", words.join(" or "));
            return Err(Refusal::denied("role", text));
        }
        let reaches = |held: &&&Held| match rule.target {
            Target::AnyUnit => true,
            Target::EveryUnit => self.accounts.units().covers(&held.grant, &[]),
            Target::Unit => self.accounts.units().covers(&held.grant, units),
        };
        let reaching: Vec<&Held> = fitting.iter().filter(reaches).copied().collect();
        let Some(first) = reaching.first() else {
            let text = "your role is for another unit than this call".to_owned();
            return Err(Refusal::denied("unit", text));
        };
        let head = reaching.iter().find(|held| held.grant.role == Role::Head);
        Ok(match (rule.confirmation, head) {
            (Confirmation::Administrator, _) if !dry_run => Permit::Ask(Second::Administrator),
            (Confirmation::Head, Some(head)) => Permit::Go(head.on_behalf_of.clone()),
            (Confirmation::Head, None) if !dry_run => Permit::Ask(Second::Head(units.to_vec())),
            (Confirmation::None | Confirmation::Administrator | Confirmation::Head, _) => {
                Permit::Go(first.on_behalf_of.clone())
            }
        })
    }

    /// Puts a refusal into the journal; the answer is the caller's.
    async fn refused(
        &self,
        actor: Actor,
        act: &'static str,
        subject: &str,
        refusal: Refusal,
    ) -> Status {
        // Who has logged in is no stranger: everything that an account is refused stands there.
        let is_known = actor.is_account();
        let source = actor.to_string();
        let act = Act::refused(actor, act, subject, refusal.reason);
        let recorded = if is_known {
            self.accounts.record(act).await
        } else {
            self.accounts.record_refusal(&source, act).await
        };
        match recorded {
            Ok(()) => refusal.status,
            Err(error) => super::status::to_status(error),
        }
    }
}

/// A system reaches local work alone, and of it what its token names.
fn check_token(rule: &Rule, methods: &[String]) -> Result<(), Refusal> {
    let method = rule.path.rsplit_once('.').map_or(rule.path, |(_, method)| method);
    let named = methods.is_empty() || methods.iter().any(|own| own == method);
    if rule.path.starts_with(LOCAL_WORK) && named {
        return Ok(());
    }
    Err(Refusal::denied(
        "token-scope",
        "this token is not for this command: a person has to log in",
    ))
}
