//! Why something about people was not done, and the word for it in the journal.

use crate::{
    domain::{
        account::{self, AccountName},
        role::{self, Role},
    },
    identity::password,
    services::error::{ErrorKind, ServiceError},
    store,
};

/// Why something about people was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A rule of accounts.
    #[error(transparent)]
    Rule(#[from] account::Error),
    /// A rule of roles.
    #[error(transparent)]
    Role(#[from] role::Error),
    /// One text for everything, so that it tells nothing.
    #[error(
        "the name, the password or the code is wrong, or the account is locked for a while; a code \
         works once, wait for the next one"
    )]
    Login,
    /// The password is right, but too old.
    #[error("the password is too old: change it with `lianxi account password`")]
    PasswordOld,
    /// The code of a set-up or an activation.
    #[error("the code of {0} is wrong or was used: give the one that the app shows at this moment")]
    Code(String),
    /// No such activation.
    #[error(
        "the activation code does not belong to this name, was used, has expired, or wrong codes \
         were tried too often: wait a while, or ask an administrator for \
         `lianxi account reset-factor`"
    )]
    Activation,
    /// No such account, or a closed one.
    #[error("there is no open account {0}; see `lianxi account list`")]
    NotFound(AccountName),
    /// The name is taken, for ever.
    #[error("the name {0} is taken: acts in the journal stay with one person, so take another")]
    Exists(AccountName),
    /// The first administrators are there.
    #[error("the first administrators exist: they make further accounts with `lianxi account add`")]
    SetUp,
    /// No set-up was begun, or it took too long.
    #[error("no set-up is under way: begin again with `lianxi account setup`")]
    NoSetup,
    /// Two of the first three are one.
    #[error("the three administrators are three people: give three different names")]
    ThreePeople,
    /// The last administrator of a kind.
    #[error("nobody else is {0}: make another one first")]
    Last(Role),
    /// Something that one does not do to oneself.
    #[error("another person has to do this: it is about your own account")]
    Oneself,
    /// A successor that cannot be one.
    #[error("{0} cannot take over: name another open account")]
    Successor(AccountName),
    /// A role that the account does not hold.
    #[error("{name} does not hold {grant}; see `lianxi account list`")]
    NotHeld {
        /// The account.
        name: AccountName,
        /// The role.
        grant: String,
    },
    /// A token beyond its account.
    #[error("a token holds roles of a unit that its account holds too, not {0}")]
    TokenScope(String),
    /// The end of a token.
    #[error("a token ends within a year: name a shorter time")]
    TokenEnd,
    /// Too many of something.
    #[error("there are {0} {1} already: end some first")]
    TooMany(usize, &'static str),
    /// No such token.
    #[error("there is no token {0} of yours; see `lianxi account token list`")]
    NoToken(u64),
    /// No such approval.
    #[error("nothing waits under the number {0}; see `lianxi approval list`")]
    NoApproval(u64),
    /// The person who asked.
    #[error("you asked for this yourself: a second person has to decide")]
    SamePerson,
    /// Somebody who may not decide.
    #[error("this waits for {0}, which you are not")]
    NotSecond(String),
    /// A request that cannot be kept.
    #[error("the request has {0} bytes, more than can wait for a second person")]
    TooLarge(usize),
    /// The host's key opens no second factor.
    #[error(
        "the second factor of {0} does not open with keys/people.keys: restore that file from the \
         backup that the store is from"
    )]
    Factor(AccountName),
    /// The system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(String),
    /// A password could not be hashed.
    #[error(transparent)]
    Hash(#[from] password::Error),
    /// The store.
    #[error("cannot store")]
    Store(#[from] store::Error),
}

impl Error {
    /// The word under which the journal names the refusal; `None`: nobody was refused, something
    /// failed.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Rule(_) | Self::PasswordOld => Some("rule"),
            Self::Role(role::Error::TwoAdministrators(..)) => Some("two-administrators"),
            Self::Role(role::Error::AuditorActs(_)) => Some("auditor-acts"),
            Self::Role(_) => Some("role-scope"),
            Self::Login => Some("login"),
            Self::Code(_) => Some("wrong-code"),
            Self::Activation => Some("activation"),
            Self::NotFound(_) | Self::NoToken(_) | Self::NoApproval(_) | Self::NotHeld { .. } => {
                Some("not-found")
            }
            Self::Exists(_) => Some("exists"),
            Self::SetUp | Self::NoSetup => Some("set-up"),
            Self::ThreePeople | Self::SamePerson => Some("same-person"),
            Self::Last(_) => Some("last-administrator"),
            Self::Oneself => Some("oneself"),
            Self::Successor(_) => Some("successor"),
            Self::TokenScope(_) | Self::TokenEnd => Some("token-scope"),
            Self::NotSecond(_) => Some("not-second"),
            Self::TooMany(..) | Self::TooLarge(_) => Some("limit"),
            Self::Factor(_) | Self::Random(_) | Self::Hash(_) | Self::Store(_) => None,
        }
    }
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Rule(_)
            | Self::Role(_)
            | Self::ThreePeople
            | Self::Successor(_)
            | Self::TokenScope(_)
            | Self::TokenEnd => ErrorKind::InvalidArgument,
            Self::Login | Self::Code(_) | Self::Activation => ErrorKind::Unauthenticated,
            Self::NotFound(_) | Self::NoToken(_) | Self::NoApproval(_) => ErrorKind::NotFound,
            Self::Exists(_) => ErrorKind::AlreadyExists,
            Self::SetUp
            | Self::NoSetup
            | Self::Last(_)
            | Self::NotHeld { .. }
            | Self::PasswordOld => ErrorKind::FailedPrecondition,
            Self::Oneself | Self::SamePerson | Self::NotSecond(_) => ErrorKind::PermissionDenied,
            Self::TooMany(..) | Self::TooLarge(_) => ErrorKind::ResourceExhausted,
            Self::Factor(_) | Self::Random(_) | Self::Hash(_) => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
        }
    }
}
