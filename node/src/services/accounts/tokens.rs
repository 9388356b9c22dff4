//! Tokens of systems: a limited, dated part of an account, for programs that cannot log in.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use super::{Accounts, Error, by, new_secret, open_account, rows::ApiToken, sha256};
use crate::{
    clock::UnixMillis,
    domain::{account::AccountName, journal::Act, role::Grant},
};

/// Tokens of one account.
const MAX_TOKENS: usize = 32;

/// Longest life of a token.
const MAX_TOKEN_MS: i64 = 366 * 24 * 3_600_000;

/// What tokens of systems begin with.
const TOKEN_PREFIX: &str = "lxt_";

/// What a new token may do.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// What it is for.
    pub title: String,
    /// Roles, of those that the account holds; no administrator's.
    pub grants: BTreeSet<Grant>,
    /// Methods, `Service/Method`; empty: all that the roles allow.
    pub methods: Vec<String>,
    /// How long it works.
    pub valid_for_ms: i64,
}

impl Accounts {
    /// Makes a token; it is returned once and kept as a hash.
    ///
    /// # Errors
    ///
    /// [`Error::TokenScope`], [`Error::TokenEnd`].
    pub async fn add_token(
        &self,
        name: &AccountName,
        new: NewToken,
    ) -> Result<(Zeroizing<String>, u64, UnixMillis), Error> {
        let token = Zeroizing::new(new_secret(TOKEN_PREFIX)?);
        let digest = sha256(&token);
        let now = self.now();
        self.change(Act::done(by(name), "account.token-add", new.title.as_str()), |edit| {
            let account = open_account(&edit.people, name)?;
            let beyond =
                |grant: &&Grant| grant.role.is_administrator() || !account.grants.contains(*grant);
            if let Some(grant) = new.grants.iter().find(beyond) {
                return Err(Error::TokenScope(grant.to_string()));
            }
            if new.grants.is_empty() {
                return Err(Error::TokenScope("no role at all".to_owned()));
            }
            if new.valid_for_ms <= 0 || new.valid_for_ms > MAX_TOKEN_MS {
                return Err(Error::TokenEnd);
            }
            let own = edit.people.tokens.values().filter(|token| token.account == *name);
            if own.count() >= MAX_TOKENS {
                return Err(Error::TooMany(MAX_TOKENS, "tokens"));
            }
            let id = edit.people.tokens.last_key_value().map_or(0, |(id, _)| *id) + 1;
            let ends_unix_ms = now.saturating_add(new.valid_for_ms);
            edit.put_token(ApiToken {
                id,
                account: name.clone(),
                title: new.title,
                grants: new.grants,
                methods: new.methods,
                created_unix_ms: now,
                ends_unix_ms,
                sha256: digest,
            });
            Ok((id, ends_unix_ms))
        })
        .await
        .map(|(id, ends_unix_ms)| (token, id, ends_unix_ms))
    }

    /// Ends a token: one's own, or any for a security administrator.
    ///
    /// # Errors
    ///
    /// [`Error::NoToken`].
    pub async fn end_token(&self, name: &AccountName, any: bool, id: u64) -> Result<(), Error> {
        self.change(Act::done(by(name), "account.token-end", id.to_string()), |edit| {
            let token = edit.people.tokens.get(&id);
            let token = token.filter(|token| any || token.account == *name);
            token.ok_or(Error::NoToken(id))?;
            edit.end_token(id);
            Ok(())
        })
        .await
    }

    /// Lists tokens: one's own, or all of them.
    pub async fn list_tokens(&self, name: &AccountName, all: bool) -> Vec<ApiToken> {
        let people = self.people.read().await;
        let tokens = people.tokens.values().filter(|token| all || token.account == *name);
        tokens.cloned().collect()
    }
}
