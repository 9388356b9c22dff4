//! New certificates for children that have joined, and how often and how late a child may let its
//! old one lapse.
//!
//! Promises that a child which was away comes back with the keys that it joined with, without a
//! visit, within a budget that the parent sees; and that past the budget a person decides. Must not
//! change keys: whoever brings others is refused before this is asked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Enrolments, Error, longest_grant, next_serial, put_delegation, rows::TokenRow};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::Delegation,
        journal::{Act, Actor, Leaf},
        unit::UnitCode,
    },
    identity::{certificates, issue, trust::Checked},
    store::{Batch, Table},
};

/// Version of the rows of [`Table::Recoveries`].
const VERSION: u8 = 1;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Time in which recoveries are counted.
const WINDOW_MS: i64 = 30 * DAY_MS;

/// How long an approval waits for the child.
const APPROVAL_MS: i64 = 7 * DAY_MS;

/// A renewed delegation must reach this much further than the old one, or it is not worth its bytes.
const WORTHWHILE_MS: i64 = 7 * DAY_MS;

/// How late and how often a child may renew a certificate that has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RecoveryBudget {
    /// Longest time since the end of the child's last certificate.
    pub within: Duration,
    /// Recoveries of one child within 30 days.
    pub times: u32,
}

impl RecoveryBudget {
    fn within_ms(self) -> i64 {
        i64::try_from(self.within.as_millis()).unwrap_or(i64::MAX)
    }
}

/// A child that recovered, tried to, or may.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChildRecovery {
    /// The child.
    pub child: UnitCode,
    /// End of the last certificate that it was given.
    pub certificate_ends_unix_ms: UnixMillis,
    /// Recoveries within the last 30 days.
    pub recent: u32,
    /// How many are allowed.
    pub allowed: u32,
    /// When it last recovered; 0: never.
    pub recovered_unix_ms: UnixMillis,
    /// How often it was refused since then.
    pub refused: u32,
    /// When that was last; 0: never.
    pub refused_unix_ms: UnixMillis,
    /// Until when a person lets it in; 0: nobody does.
    pub approved_until_unix_ms: UnixMillis,
}

/// What is kept of a child's certificates. Key: code of the child.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    certificate_ends_unix_ms: UnixMillis,
    recovered_unix_ms: Vec<UnixMillis>,
    refused: u32,
    refused_unix_ms: UnixMillis,
    approved_until_unix_ms: UnixMillis,
}

impl Row {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        serde_json::to_writer(&mut bytes, self).expect("invariant: rows are plain data");
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        match bytes {
            [VERSION, json @ ..] => {
                serde_json::from_slice(json).map_err(|_| Error::Row("recovery"))
            }
            _ => Err(Error::Row("recovery")),
        }
    }

    fn recent(&self, now: UnixMillis) -> u32 {
        let since = now.saturating_sub(WINDOW_MS);
        let recent = self.recovered_unix_ms.iter().filter(|time| **time > since).count();
        u32::try_from(recent).unwrap_or(u32::MAX)
    }
}

impl Enrolments {
    /// Lets a child that has joined have a new certificate, and renews its delegation if that is
    /// past half of its life; what became of it is durable when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::NoChild`], [`Error::RecoveryLate`], [`Error::RecoveryBudget`], [`Error::Trust`],
    /// [`Error::Store`].
    pub(super) async fn admit_renewal(
        &self,
        token: &TokenRow,
        now: UnixMillis,
    ) -> Result<(), Error> {
        let child = &token.child;
        let (mut row, stored) = self.recovery_row(child).await?;
        if let Err(error) = self.judge(child, &row, now) {
            row.refused = row.refused.saturating_add(1);
            row.refused_unix_ms = now;
            self.unit.store().submit(self.batch_of(child, &row, stored)).await?;
            tracing::warn!(unit = %self.unit(), %child, %error, "recovery refused");
            return Err(error);
        }
        let late = now > row.certificate_ends_unix_ms;
        if late {
            let since = now.saturating_sub(WINDOW_MS);
            row.recovered_unix_ms.retain(|time| *time > since);
            row.recovered_unix_ms.push(now);
            (row.refused, row.refused_unix_ms, row.approved_until_unix_ms) = (0, 0, 0);
            tracing::info!(unit = %self.unit(), %child, "child recovered");
        }
        row.certificate_ends_unix_ms = now.saturating_add(certificates::LIFETIME_MS);
        let mut batch = self.batch_of(child, &row, stored);
        let name = if late { "node.recover" } else { "node.renew" };
        let act = Act::done(Actor::unit(child), name, child.as_str());
        batch.journal(now, &Leaf::Act(act));
        let renewed = self.renewed_delegation(child, now)?;
        if let Some(checked) = &renewed {
            put_delegation(&mut batch, checked.known(), now);
        }
        self.unit.store().submit(batch).await?;
        if let Some(checked) = renewed {
            self.unit.believe(checked);
        }
        Ok(())
    }

    fn judge(&self, child: &UnitCode, row: &Row, now: UnixMillis) -> Result<(), Error> {
        let late_ms = now.saturating_sub(row.certificate_ends_unix_ms);
        if late_ms <= 0 || now < row.approved_until_unix_ms {
            return Ok(());
        }
        let (child, parent) = (child.clone(), self.unit().clone());
        if late_ms > self.budget.within_ms() {
            let (ago_days, within_days) = (late_ms / DAY_MS, self.budget.within_ms() / DAY_MS);
            return Err(Error::RecoveryLate { child, parent, ago_days, within_days });
        }
        let times = row.recent(now);
        if times >= self.budget.times {
            let window_days = WINDOW_MS / DAY_MS;
            return Err(Error::RecoveryBudget { child, parent, times, window_days });
        }
        Ok(())
    }

    /// A new delegation for the same keys, if the child's is past half of its life and this unit's
    /// own reaches further.
    fn renewed_delegation(
        &self,
        child: &UnitCode,
        now: UnixMillis,
    ) -> Result<Option<Checked>, Error> {
        let trust = self.unit.trust();
        let known = |unit| trust.delegation(unit, None).map(|known| &known.delegation);
        let (Some(old), Some(own)) = (known(child), known(self.unit())) else { return Ok(None) };
        let half = old.not_before_unix_ms + (old.not_after_unix_ms - old.not_before_unix_ms) / 2;
        let not_after_unix_ms = longest_grant(own, now);
        if now < half || not_after_unix_ms < old.not_after_unix_ms.saturating_add(WORTHWHILE_MS) {
            return Ok(None);
        }
        let renewed = Delegation {
            not_before_unix_ms: now,
            not_after_unix_ms,
            serial: next_serial(old.serial, now),
            ..old.clone()
        };
        let envelope = issue::sign(&renewed, &self.unit.keys().delegation, now);
        Ok(Some(trust.check(&envelope, Some(now))?))
    }

    /// Lets a child in once that is past its budget, within the next seven days. Returns until when.
    ///
    /// # Errors
    ///
    /// [`Error::NoChild`], [`Error::Store`], [`Error::Row`].
    pub async fn approve_recovery(
        &self,
        child: &UnitCode,
        by: Actor,
        dry_run: bool,
    ) -> Result<UnixMillis, Error> {
        const ACT: &str = "node.recover.approve";
        let _turn = self.turn.lock().await;
        let now = self.unit.clock().now_unix_ms();
        let (mut row, stored) = match self.recovery_row(child).await {
            Ok(row) => row,
            Err(error) => {
                let source = by.to_string();
                return Err(self.refuse(&source, (by, ACT), child, error).await);
            }
        };
        row.approved_until_unix_ms = now.saturating_add(APPROVAL_MS);
        if !dry_run {
            let mut batch = self.batch_of(child, &row, stored);
            batch.journal(now, &Leaf::Act(Act::done(by, ACT, child.as_str())));
            self.unit.store().submit(batch).await?;
        }
        Ok(row.approved_until_unix_ms)
    }

    /// The children that recovered, were refused, or are let in by a person.
    ///
    /// # Errors
    ///
    /// [`Error::Store`], [`Error::Row`].
    pub async fn recoveries(&self) -> Result<Vec<ChildRecovery>, Error> {
        let now = self.unit.clock().now_unix_ms();
        let mut recoveries = Vec::new();
        for (key, value) in self.rows(Table::Recoveries).await? {
            let row = Row::decode(&value)?;
            let child = std::str::from_utf8(&key).ok().and_then(|code| code.parse().ok());
            let child = child.ok_or(Error::Row("recovery"))?;
            let approved =
                if now < row.approved_until_unix_ms { row.approved_until_unix_ms } else { 0 };
            let recovery = ChildRecovery {
                child,
                certificate_ends_unix_ms: row.certificate_ends_unix_ms,
                recent: row.recent(now),
                allowed: self.budget.times,
                recovered_unix_ms: row.recovered_unix_ms.last().copied().unwrap_or_default(),
                refused: row.refused,
                refused_unix_ms: row.refused_unix_ms,
                approved_until_unix_ms: approved,
            };
            if recovery.recent > 0 || recovery.refused > 0 || approved > 0 {
                recoveries.push(recovery);
            }
        }
        Ok(recoveries)
    }

    /// Children whose valid certificates were issued before `time`.
    ///
    /// # Errors
    ///
    /// [`Error::Store`], [`Error::Row`].
    pub async fn certified_before(&self, time: UnixMillis) -> Result<Vec<UnitCode>, Error> {
        let now = self.unit.clock().now_unix_ms();
        let mut before = Vec::new();
        for child in self.children().await? {
            let (row, _) = self.recovery_row(&child.unit).await?;
            let ends = row.certificate_ends_unix_ms;
            let issued = ends.saturating_sub(certificates::LIFETIME_MS);
            let is_gone = self.unit.trust().revoked(&child.unit, None).is_some();
            if issued < time && now < ends && !is_gone {
                before.push(child.unit);
            }
        }
        Ok(before)
    }

    /// The row of a child; before its first renewal, what its joining says.
    async fn recovery_row(&self, child: &UnitCode) -> Result<(Row, Option<Vec<u8>>), Error> {
        let (store, unit, key) = (self.unit.store(), self.unit(), child.as_str().as_bytes());
        let joined = store.get(unit, Table::Children, key).await?;
        let no_child = || Error::NoChild { child: child.clone(), parent: unit.clone() };
        let joined = super::Child::decode(&joined.ok_or_else(no_child)?)?;
        if let Some(stored) = store.get(unit, Table::Recoveries, key).await? {
            return Ok((Row::decode(&stored)?, Some(stored)));
        }
        let row = Row {
            certificate_ends_unix_ms: joined
                .joined_unix_ms
                .saturating_add(certificates::LIFETIME_MS),
            recovered_unix_ms: Vec::new(),
            refused: 0,
            refused_unix_ms: 0,
            approved_until_unix_ms: 0,
        };
        Ok((row, None))
    }

    fn batch_of(&self, child: &UnitCode, row: &Row, stored: Option<Vec<u8>>) -> Batch {
        let mut batch = Batch::new(self.unit());
        match stored {
            Some(stored) => batch.require(Table::Recoveries, child.as_str(), stored),
            None => batch.require_absent(Table::Recoveries, child.as_str()),
        }
        batch.put(Table::Recoveries, child.as_str(), row.encode());
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::{keys::UnitKeys, token::Token},
        services::enrolments::{
            Reserved,
            tests::{City, DAY, FROM, NOW, application, code, peer_of},
        },
    };

    /// A city with a child that joined at [`NOW`].
    struct Joined {
        city: City,
        token: Token,
        keys: UnitKeys,
    }

    impl Joined {
        async fn new() -> Self {
            let city = City::new("boston.example").await;
            let (token, keys) = (city.token().await, city.keys("child"));
            let reserved =
                city.enrolments.reserve(FROM, &application(&token, &keys)).await.unwrap();
            let peer = peer_of(&reserved.certificate);
            city.enrolments.confirm(&peer, &token.id).await.unwrap();
            Self { city, token, keys }
        }

        /// Renews `days` after the child joined.
        async fn renew_at(&self, days: i64) -> Result<Reserved, Error> {
            self.city.clock.set(NOW + days * DAY);
            self.city.enrolments.reserve(FROM, &application(&self.token, &self.keys)).await
        }

        async fn seen(&self) -> Vec<ChildRecovery> {
            self.city.enrolments.recoveries().await.unwrap()
        }
    }

    #[tokio::test]
    async fn a_child_recovers_within_its_budget_and_its_parent_sees_it() {
        let joined = Joined::new().await;
        joined.renew_at(20).await.unwrap();
        assert!(joined.seen().await.is_empty(), "a certificate that holds is renewed, no more");
        // Its certificate ended on day 50; this is two months later, after a restart.
        let Joined { city, token, keys } = joined;
        let joined = Joined { city: city.restart().await, token, keys };
        joined.renew_at(110).await.unwrap();
        let seen = joined.seen().await;
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].child.as_str(), seen[0].recent, seen[0].allowed), ("BOS-01", 1, 3));
        assert_eq!(seen[0].recovered_unix_ms, NOW + 110 * DAY);
        assert_eq!(seen[0].certificate_ends_unix_ms, NOW + 140 * DAY);
    }

    #[tokio::test]
    async fn a_child_that_was_away_for_too_long_waits_for_a_person() {
        let joined = Joined::new().await;
        assert!(matches!(
            joined.renew_at(30 + 91).await,
            Err(Error::RecoveryLate { ago_days: 91, within_days: 90, .. })
        ));
        assert_eq!((joined.seen().await[0].refused, joined.seen().await[0].recent), (1, 0));
        let (unit, enrolments) = (code("BOS-01"), &joined.city.enrolments);
        enrolments.approve_recovery(&unit, Actor::uid(1), true).await.unwrap();
        assert!(joined.renew_at(122).await.is_err(), "a dry run approves nothing");
        let until = enrolments.approve_recovery(&unit, Actor::uid(1), false).await.unwrap();
        assert_eq!(until, NOW + (122 + 7) * DAY);
        assert!(joined.renew_at(129).await.is_err(), "an approval ends");
        enrolments.approve_recovery(&unit, Actor::uid(1), false).await.unwrap();
        joined.renew_at(130).await.unwrap();
        assert_eq!(joined.seen().await[0].approved_until_unix_ms, 0, "it is used up");
        let stranger = enrolments.approve_recovery(&code("BOS-02"), Actor::uid(1), false).await;
        assert!(matches!(stranger, Err(Error::NoChild { .. })));
    }

    #[tokio::test]
    async fn a_child_that_lapses_too_often_waits_for_a_person() {
        let joined = Joined::new().await;
        let unit = code("BOS-01");
        let (row, stored) = joined.city.enrolments.recovery_row(&unit).await.unwrap();
        let at = |days: i64| NOW + days * DAY;
        let row = Row { recovered_unix_ms: vec![at(5), at(20), at(21), at(22)], ..row };
        let batch = joined.city.enrolments.batch_of(&unit, &row, stored);
        joined.city.enrolments.unit.store().submit(batch).await.unwrap();
        assert!(matches!(
            joined.renew_at(40).await,
            Err(Error::RecoveryBudget { times: 3, window_days: 30, .. })
        ));
        // Two of the three have left the window.
        joined.renew_at(51).await.unwrap();
        assert_eq!(joined.seen().await[0].recent, 2);
    }

    #[tokio::test]
    async fn a_delegation_past_half_of_its_life_is_renewed_with_the_certificate() {
        let joined = Joined::new().await;
        let before = joined.renew_at(20).await.unwrap().chain;
        joined
            .city
            .enrolments
            .approve_recovery(&code("BOS-01"), Actor::uid(1), false)
            .await
            .unwrap();
        assert_eq!(joined.renew_at(21).await.unwrap().chain, before, "half is not over");
        joined.city.clock.set(NOW + 180 * DAY);
        joined
            .city
            .enrolments
            .approve_recovery(&code("BOS-01"), Actor::uid(1), false)
            .await
            .unwrap();
        let after = joined.renew_at(184).await.unwrap().chain;
        assert_eq!((after.len(), &after[0]), (2, &before[0]));
        assert_ne!(after[1], before[1]);
        let city = joined.city.restart().await;
        let enrolments = &city.enrolments;
        let trust = enrolments.unit.trust();
        let own = &trust.delegation(&code("BOS-01"), None).unwrap().delegation;
        assert_eq!(own.not_after_unix_ms, NOW + (184 + 365) * DAY);
        assert_eq!(own.keys, joined.keys.public_keys());
    }
}
