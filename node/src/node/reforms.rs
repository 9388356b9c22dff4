//! Carries reforms on: answers, invites, moves units on their day, lets them go.
//!
//! What does not succeed is logged and tried again; nothing of it holds up anything else.

use std::{sync::Arc, time::Duration};

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::{Host, setup};
use crate::{
    domain::{
        journal::{Act, Actor},
        unit::UnitCode,
    },
    grpc::{enrolment::GrpcDoor, status::chain},
    identity::token::Token,
    services::{
        desks,
        enrolments::{Identity, Invite, Joining},
        hosted::Hosted,
        reforms::{Due, Moving},
    },
    statement::header::StatementId,
};

/// Time between two looks at the clock: a unit moves within this time of the beginning of its day.
const LOOK: Duration = Duration::from_secs(60);

/// Time between two looks while a unit ends: what it waits for is on its way. Also before what did not
/// succeed is tried again for the first time.
const LOOK_SOON: Duration = Duration::from_secs(1);

/// How long after the day an invitation of a reform is good.
const OUTLIVES_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// Today, where the catalogue of the unit says that days begin.
pub(crate) fn today(hosted: &Hosted) -> Option<Date> {
    let now = Timestamp::from_millisecond(hosted.unit.clock.now_unix_ms()).ok()?;
    Some(zone(hosted).to_datetime(now).date())
}

/// Where days of the unit begin.
pub(crate) fn zone(hosted: &Hosted) -> TimeZone {
    let in_force = hosted.catalogues.in_force();
    in_force.map_or(TimeZone::UTC, |one| one.catalogue.time_zone.clone())
}

/// What is left of the reforms of a unit once it was looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Left {
    /// Nothing that comes by itself before its day.
    Nothing,
    /// What it waits for is on its way.
    OnItsWay,
    /// Something did not succeed: the other side may be away for a moment, or for weeks.
    Failed,
}

/// Carries the reforms of one unit on, for ever.
pub(super) async fn run(host: Arc<Host>, hosted: Arc<Hosted>) {
    let mut changes = hosted.reforms.changes();
    let mut pause = LOOK_SOON;
    loop {
        let look = match host.carry_on(&hosted).await {
            Left::Nothing => LOOK,
            Left::OnItsWay => LOOK_SOON,
            Left::Failed => pause,
        };
        // Soon at first, then less and less often.
        pause = if look == pause { (pause * 2).min(LOOK) } else { LOOK_SOON };
        // Whatever wakes it, it looks at everything again.
        tokio::time::timeout(look, changes.changed()).await.ok();
    }
}

impl Host {
    /// Does what is due of the reforms of all hosted units now.
    pub async fn carry_reforms_on(&self) {
        for hosted in self.units().all() {
            self.carry_on(&hosted).await;
        }
    }

    /// Does what is due.
    async fn carry_on(&self, hosted: &Arc<Hosted>) -> Left {
        let _turn = self.reforming.lock().await;
        if let Err(error) = desks::carry_on(hosted).await {
            tracing::warn!(unit = %hosted.unit.code, error = chain(&error), "a desk waits to be closed");
        }
        let now = self.clock.now_unix_ms();
        let due = match hosted.reforms.due(now).await {
            Ok(due) => due,
            Err(error) => {
                let (unit, error) = (&hosted.unit.code, chain(&error));
                tracing::error!(%unit, error, "cannot read the reforms");
                return Left::Failed;
            }
        };
        let mut left = Left::Nothing;
        for due in due {
            match self.do_due(hosted, &due).await {
                Ok(()) if matches!(due, Due::End(_) | Due::TakeOver { .. }) => {
                    left = if left == Left::Failed { left } else { Left::OnItsWay };
                }
                Ok(()) => {}
                Err(error) => {
                    left = Left::Failed;
                    tracing::warn!(unit = %hosted.unit.code, ?due, error, "reform waits");
                }
            }
        }
        left
    }

    async fn do_due(&self, hosted: &Arc<Hosted>, due: &Due) -> Result<(), String> {
        let reforms = &hosted.reforms;
        let text = |error: crate::services::reforms::Error| chain(&error);
        match due {
            Due::Answer { id, unit, invites } => {
                let (token, refused) = match invites {
                    true => self.invite_moving(hosted, *id).await?,
                    false => (String::new(), ""),
                };
                let accounts = self.accounts_of(unit).await;
                reforms.answer(hosted, *id, token, refused, accounts).await.map_err(text)
            }
            Due::Move(moving) => self.move_unit(hosted, moving).await,
            Due::Resubmit(id) => reforms.resubmit(hosted, *id).await.map_err(text),
            Due::AddUp(id) => reforms.add_up(hosted, *id).await.map_err(text),
            Due::Release(id) => reforms.release(hosted, *id).await.map_err(text),
            Due::TakeReturned => reforms.take_returned(hosted).await.map_err(text),
            Due::TakeOver { child } => {
                let today = today(hosted).ok_or("the clock of this host is not set")?;
                reforms.take_over(child.clone(), today).await.map_err(text)
            }
            Due::HandOver(id) => reforms.hand_over(hosted, *id).await.map_err(text),
            Due::End(id) => reforms.end(hosted, *id).await.map(drop).map_err(text),
            Due::Introduce(id) => reforms.introduce(*id).await.map_err(text),
            Due::Settle(id) => reforms.settle(*id).await.map_err(text),
            Due::HandParts(id) => reforms.hand_parts(hosted, *id).await.map_err(text),
            Due::HandOn(id) => reforms.hand_on(hosted, *id).await.map_err(text),
            Due::Inherit(unit) => reforms.inherit(hosted, unit).await.map_err(text),
        }
    }

    /// Accounts of this host with a role of a unit.
    async fn accounts_of(&self, unit: &UnitCode) -> u32 {
        let Some(accounts) = self.accounts.get() else { return 0 };
        let listed = accounts.list(None).await.into_iter();
        let holds = |account: &crate::services::accounts::Account| {
            account.grants.iter().any(|grant| grant.unit.as_ref() == Some(unit))
        };
        u32::try_from(listed.filter(|one| holds(&one.account)).count()).unwrap_or(u32::MAX)
    }

    /// The invitation for a unit that comes from another parent; or why there is none.
    async fn invite_moving(
        &self,
        hosted: &Hosted,
        id: StatementId,
    ) -> Result<(String, &'static str), String> {
        let (order, envelope) = hosted.reforms.order_of(id).await.map_err(|error| chain(&error))?;
        let Some(enrolments) = self.enrolments(&hosted.unit.code) else {
            return Ok((String::new(), "takes-no-children"));
        };
        let known = {
            let trust = hosted.unit.trust();
            let known = trust.delegation(&order.unit, None).map(|known| &known.delegation);
            known.map(|grant| (grant.level, grant.title.clone()))
        };
        let Some((level, title)) = known else { return Ok((String::new(), "unknown-unit")) };
        let ends = order.effective_unix_ms.saturating_add(OUTLIVES_MS);
        let invite = Invite {
            child: order.unit.clone(),
            level,
            title,
            valid_for_ms: Some(ends.saturating_sub(self.clock.now_unix_ms())),
            addresses: self.advertised(),
            by: Actor::unit(&hosted.unit.code),
            order: Some((order, envelope)),
            adopts: None,
        };
        match enrolments.invite(invite).await {
            Ok(invited) => Ok((invited.token.to_text().to_string(), "")),
            Err(error) => {
                tracing::warn!(unit = %hosted.unit.code, error = chain(&error), "not invited");
                Ok((String::new(), error.reason()))
            }
        }
    }

    /// Puts a unit under its new parent: its keys, records and journal stay, its certificate, its
    /// identity and its link are the new parent's.
    async fn move_unit(&self, hosted: &Arc<Hosted>, moving: &Moving) -> Result<(), String> {
        let unit = &hosted.unit;
        let text = |error: &dyn std::error::Error| chain(error);
        let identity = Identity::load(self.store.as_ref(), &unit.code).await;
        let identity = identity.map_err(|error| text(&error))?;
        let identity = identity.ok_or("the identity of the unit is missing")?;
        let is_there = identity.parent.as_ref().is_some_and(|parent| parent.unit == moving.to);
        if !is_there {
            self.join_new_parent(hosted, moving).await?;
        }
        let identity =
            setup::load_identity(&self.config, &self.lock, self.store.as_ref(), &unit.code);
        let identity = identity.await.map_err(|error| text(&error))?;
        // First what waits, then the link: nothing that is signed meanwhile goes by the old one.
        unit.hand_over_outbox(&moving.from, &moving.to).await.map_err(|error| text(&error))?;
        unit.move_under(moving.to.clone());
        self.show(&identity.tls, identity.certificate_ends_unix_ms)
            .map_err(|error| text(&error))?;
        hosted.reforms.moved(hosted, moving).await.map_err(|error| text(&error))?;
        let uplink =
            identity.parent.map(|parent| self.uplink(Arc::clone(unit), parent, identity.tls));
        self.links.attach(Arc::<Hosted>::clone(hosted), uplink);
        tracing::info!(unit = %unit.code, from = %moving.from, to = %moving.to, "unit moved");
        Ok(())
    }

    async fn join_new_parent(&self, hosted: &Hosted, moving: &Moving) -> Result<(), String> {
        let unit = &hosted.unit;
        let token: Token = moving.token.parse().map_err(|_| "the invitation is no token")?;
        if token.parent != moving.to || token.unit != unit.code {
            return Err("the invitation is for another step".to_owned());
        }
        let door = GrpcDoor::new(Arc::clone(&self.clock));
        let joining = Joining {
            token: &token,
            keys_directory: setup::keys_place(&self.config, &self.lock, &unit.code),
            host: &self.config.host.name,
            door: &door,
            clock: Arc::clone(&self.clock),
            adopted: None,
        };
        let joined = joining.run().await.map_err(|error| chain(&error))?;
        // Believed before it is kept: an identity that its own trust refuses would never open.
        let learned = unit.learn(&joined.identity.chain).await;
        learned.map_err(|error| chain(&error))?;
        let act = Act::done(Actor::node(), "node.join", unit.code.as_str());
        let now = self.clock.now_unix_ms();
        let kept = joined.identity.persist_under(&moving.from, self.store.as_ref(), now, act).await;
        kept.map_err(|error| chain(&error))
    }
}
