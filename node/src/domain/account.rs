//! Rules of accounts: names, passwords, sessions, deputies. Knows no secrets' storage and
//! no clock: moments are given.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::role::{self, Role};
use crate::clock::UnixMillis;

/// Longest password: hashing one costs the same at any length, reading it does not.
const MAX_PASSWORD_BYTES: usize = 256;

/// Characters that a password has to keep once everything that is common is taken out.
const MIN_UNCOMMON_CHARACTERS: usize = 6;

/// Longest time for which a head can be away.
const MAX_DEPUTY_MS: i64 = 366 * 24 * 3_600_000;

/// What is in so many passwords that it adds nothing to one. Lower case, without digits.
const COMMON: [&str; 40] = [
    "password",
    "passwort",
    "passwd",
    "qwertyuiop",
    "qwerty",
    "asdfghjkl",
    "asdfgh",
    "zxcvbnm",
    "zxcvbn",
    "qazwsx",
    "letmein",
    "welcome",
    "iloveyou",
    "woaini",
    "admin",
    "administrator",
    "root",
    "user",
    "login",
    "secret",
    "changeme",
    "default",
    "master",
    "monkey",
    "dragon",
    "football",
    "baseball",
    "sunshine",
    "princess",
    "superman",
    "shadow",
    "summer",
    "winter",
    "spring",
    "autumn",
    "lianxi",
    "mima",
    "zhongguo",
    "beijing",
    "shanghai",
];

/// Why something about an account was not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// A name outside the alphabet.
    #[error(
        "{0:?} is no name of an account: 2 to 32 of a-z, 0-9, '.', '_' and '-', a letter first"
    )]
    Name(String),
    /// Too short.
    #[error("the password has {length} characters: take at least {least}")]
    Short {
        /// Its characters.
        length: usize,
        /// What the rules ask for.
        least: usize,
    },
    /// Too long.
    #[error("the password has {0} bytes: take at most 256")]
    Long(usize),
    /// The name is in it.
    #[error("the password holds the name: take one that does not")]
    HoldsName,
    /// Little is left without common words, runs and repetitions.
    #[error(
        "the password is made of common words, runs or repetitions: take one that nobody guesses, \
         such as four words that do not belong together"
    )]
    Common,
    /// The moments of a deputy.
    #[error("a head is away from one moment to a later one, at most a year: correct the dates")]
    Away,
    /// A role that cannot be passed on.
    #[error("{0} delegates nothing: only a head has a deputy")]
    NotHead(Role),
    /// Roles that do not go together.
    #[error(transparent)]
    Role(#[from] role::Error),
}

/// Name of an account, unique on its host.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccountName(String);

impl AccountName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccountName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let begins = text.bytes().next().is_some_and(|first| first.is_ascii_lowercase());
        if begins && (2..=32).contains(&text.len()) && text.bytes().all(known) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::Name(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for AccountName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<AccountName> for String {
    fn from(name: AccountName) -> Self {
        name.0
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a host asks of people. Lengths of time in milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rules {
    /// Least characters of a password.
    pub password_characters: usize,
    /// Age at which a password has to be changed; `None`: never by age alone.
    pub password_max_age_ms: Option<i64>,
    /// Failures in a row after which an account is locked for a while.
    pub failures: u32,
    /// Silence that ends a session.
    pub session_idle_ms: i64,
    /// Age that ends a session.
    pub session_max_ms: i64,
    /// How long an act waits for its second person.
    pub approval_ms: i64,
}

impl Rules {
    /// Checks a new password of `name`.
    ///
    /// # Errors
    ///
    /// [`Error::Short`], [`Error::Long`], [`Error::HoldsName`], [`Error::Common`].
    pub fn check_password(&self, name: &AccountName, password: &str) -> Result<(), Error> {
        let (length, least) = (password.chars().count(), self.password_characters);
        if length < least {
            return Err(Error::Short { length, least });
        }
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(Error::Long(password.len()));
        }
        let (lower, plain) = (password.to_lowercase(), plain(password));
        let holds_name =
            lower.contains(name.as_str()) || plain.contains(&self::plain(name.as_str()));
        // Two letters are in any password.
        if name.as_str().len() >= 4 && holds_name {
            return Err(Error::HoldsName);
        }
        if uncommon(&lower).min(uncommon(&plain)) < MIN_UNCOMMON_CHARACTERS {
            return Err(Error::Common);
        }
        Ok(())
    }

    /// True once a session is over.
    pub fn is_session_over(
        &self,
        began: UnixMillis,
        last_used: UnixMillis,
        now: UnixMillis,
    ) -> bool {
        now.saturating_sub(last_used) >= self.session_idle_ms
            || now.saturating_sub(began) >= self.session_max_ms
    }

    /// True once a password has to be changed for its age.
    pub fn is_password_old(&self, changed: UnixMillis, now: UnixMillis) -> bool {
        self.password_max_age_ms.is_some_and(|limit| now.saturating_sub(changed) >= limit)
    }
}

/// Lower case, with the usual replacements of letters undone.
fn plain(text: &str) -> String {
    let letter = |character: char| match character {
        '0' => 'o',
        '3' => 'e',
        '@' | '4' => 'a',
        '$' | '5' => 's',
        '!' | '1' => 'i',
        '7' => 't',
        other => other,
    };
    text.to_lowercase().chars().map(letter).collect()
}

/// Characters that are left without common words, runs (`abcd`, `4321`) and repetitions.
fn uncommon(plain: &str) -> usize {
    let mut text = plain.to_owned();
    for word in COMMON {
        text = text.replace(word, "\0");
    }
    let characters: Vec<char> =
        text.chars().filter(|one| one.is_alphanumeric() || *one == '\0').collect();
    let follows = |at: usize| {
        let (before, this) = (u32::from(characters[at - 1]), u32::from(characters[at]));
        before.abs_diff(this) <= 1
    };
    let repeats = |at: usize| {
        // The same two characters as some places before: `abcabcabc` counts once.
        at >= 3 && characters[..at - 1].windows(2).any(|pair| pair == &characters[at - 1..=at])
    };
    (0..characters.len())
        .filter(|at| characters[*at] != '\0' && (*at == 0 || !(follows(*at) || repeats(*at))))
        .count()
}

/// Who stands in for a head, and when.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Deputy {
    /// Whoever stands in.
    pub to: AccountName,
    /// First moment.
    pub from_unix_ms: UnixMillis,
    /// First moment after.
    pub until_unix_ms: UnixMillis,
}

impl Deputy {
    /// A deputy between two moments.
    ///
    /// # Errors
    ///
    /// [`Error::Away`].
    pub fn new(to: AccountName, from: UnixMillis, until: UnixMillis) -> Result<Self, Error> {
        let length = until.saturating_sub(from);
        if length <= 0 || length > MAX_DEPUTY_MS {
            return Err(Error::Away);
        }
        Ok(Self { to, from_unix_ms: from, until_unix_ms: until })
    }

    /// True while the deputy stands in.
    pub fn is_active(&self, now: UnixMillis) -> bool {
        (self.from_unix_ms..self.until_unix_ms).contains(&now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        password_characters: 12,
        password_max_age_ms: None,
        failures: 5,
        session_idle_ms: 1_800_000,
        session_max_ms: 43_200_000,
        approval_ms: 86_400_000,
    };

    fn name(text: &str) -> AccountName {
        text.parse().unwrap()
    }

    #[test]
    fn names_hold_nothing_that_a_path_or_a_log_could_misread() {
        for good in ["li", "wang.wei", "op_2", "a-b"] {
            assert!(good.parse::<AccountName>().is_ok(), "{good}");
        }
        for bad in ["", "a", "Li", "li wei", "../li", "2li", "-li", "李伟", &"a".repeat(33), "a\nb"]
        {
            assert!(bad.parse::<AccountName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn short_common_and_telling_passwords_are_refused() {
        let check = |password: &str| RULES.check_password(&name("wangwei"), password);
        assert_eq!(check("lamp-otter-fern-17"), Ok(()));
        assert_eq!(check("铜锣湾旧书摊里的算盘和雨伞"), Ok(()));
        assert_eq!(check("otter-fern"), Err(Error::Short { length: 10, least: 12 }));
        assert_eq!(check(&"x1y2".repeat(80)), Err(Error::Long(320)));
        for telling in ["WangWei-otter-fern", "w4ngwei-otter-fern"] {
            assert_eq!(check(telling), Err(Error::HoldsName), "{telling}");
        }
        for common in [
            "password1234",
            "P@ssw0rd2026!",
            "aaaaaaaaaaaa",
            "123456789012",
            "abcdefghijkl",
            "qwertyuiop123",
            "Admin@123456",
            "abcabcabcabc",
            "lianxi202611",
            "987654321098",
            "Welcome12345",
            "zxcvbnm12345",
        ] {
            assert_eq!(check(common), Err(Error::Common), "{common}");
        }
    }

    #[test]
    fn a_session_ends_by_silence_and_by_age() {
        assert!(!RULES.is_session_over(0, 0, RULES.session_idle_ms - 1));
        assert!(RULES.is_session_over(0, 0, RULES.session_idle_ms));
        let age = RULES.session_max_ms;
        assert!(!RULES.is_session_over(0, age - 1, age - 1));
        assert!(RULES.is_session_over(0, age - 1, age));
    }

    #[test]
    fn a_password_ages_only_where_the_host_says_so() {
        assert!(!RULES.is_password_old(0, i64::MAX));
        let aged = Rules { password_max_age_ms: Some(10), ..RULES };
        assert!(!aged.is_password_old(0, 9) && aged.is_password_old(0, 10));
    }

    #[test]
    fn a_deputy_stands_in_for_the_time_named_and_no_longer() {
        let deputy = Deputy::new(name("li"), 100, 200).unwrap();
        assert_eq!(
            [99, 100, 199, 200].map(|now| deputy.is_active(now)),
            [false, true, true, false]
        );
        for (from, until) in [(5, 5), (6, 5), (0, MAX_DEPUTY_MS + 1)] {
            assert_eq!(Deputy::new(name("li"), from, until), Err(Error::Away));
        }
    }
}
