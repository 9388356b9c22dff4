//! Units that came under another parent, by an order that their new grant holds.
//!
//! Promises that a grant by another parent than before holds only with an order of a unit that was
//! above both then, for exactly this step, once, and not before its day. What a unit said before
//! stays its own, and its old parents stay known.

use std::collections::BTreeSet;

use jiff::civil::Date;

use super::{
    Error, Known, SKEW_TOLERANCE_MS, Signed, Trust, judge::check_not_ahead, revoked::End, shown,
};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{Delegation, KeyUse},
        reform::{self, Order},
        unit::{Level, UnitCode},
    },
    statement::{
        Envelope,
        header::{self, kinds},
        reform::{decode_body, order_of_grant},
    },
};

impl Trust {
    /// A unit keeps its level, and its parent too unless an order stands beside the change. Asked of
    /// both neighbours in the order of serials, so that grants can come in any order.
    pub(super) fn check_place(
        &self,
        delegation: &Delegation,
        now: Option<UnixMillis>,
    ) -> Result<Option<Order>, Error> {
        let history = self.history(&(delegation.unit.clone(), None));
        let at = history.partition_point(|one| one.delegation.serial < delegation.serial);
        let (earlier, later) = history.split_at(at);
        if history.iter().any(|known| known.delegation.level != delegation.level) {
            return Err(self.moved(&delegation.unit, delegation.level));
        }
        if let Some(after) = later.first()
            && after.delegation.issuer != delegation.issuer
        {
            self.check_moved(earlier, delegation, &after.delegation, None)?;
        }
        match earlier.last() {
            // A root that comes under a unit: not by an order, but by its own root key.
            Some(before @ Known { delegation: Delegation { issuer: None, .. }, .. }) => {
                let issuer = delegation.issuer.as_ref();
                issuer.map_or(Ok(()), |issuer| self.check_adopted(before, delegation, issuer))?;
                Ok(None)
            }
            Some(before) if before.delegation.issuer != delegation.issuer => {
                self.check_moved(earlier, &before.delegation, delegation, now).map(Some)
            }
            // A renewed grant holds the order too, for those who never saw the first. Nobody needs it
            // to believe the grant: then one that cannot be opened here tells nothing.
            Some(_) | None => match &delegation.reform {
                Some(order) => {
                    let opened = self.open_order(order, now).ok();
                    let step = opened.and_then(|(order, ..)| order.step_of(&delegation.unit));
                    Ok(step.filter(|step| Some(&step.to) == delegation.issuer.as_ref()))
                }
                None => Ok(None),
            },
        }
    }

    fn check_moved(
        &self,
        earlier: &[Known],
        before: &Delegation,
        delegation: &Delegation,
        now: Option<UnixMillis>,
    ) -> Result<Order, Error> {
        let unit = &delegation.unit;
        let moved = || self.moved(unit, delegation.level);
        let bytes = delegation.reform.as_ref().ok_or_else(moved)?;
        let (whole, by, time) = self.open_order(bytes, now)?;
        let refuse = |reason| Err(Error::Reform { unit: unit.clone(), reason });
        let Some(order) = whole.step_of(unit) else {
            return refuse("the order is about another step");
        };
        if Some(&order.from) != before.issuer.as_ref()
            || Some(&order.to) != delegation.issuer.as_ref()
        {
            return refuse("the order is about another step");
        }
        let above = |one: &UnitCode| *unit != by && self.line_at(one, time).any(|up| *up == by);
        if !above(&order.from) || !above(&order.to) {
            return refuse("the order is by a unit that is not above both parents");
        }
        let earliest = order.effective_unix_ms.saturating_sub(SKEW_TOLERANCE_MS);
        if delegation.not_before_unix_ms < earliest {
            return refuse("the grant begins before the day of the order");
        }
        if order.merge && !self.is_between_siblings(&order, &by, time) {
            return refuse(
                "a unit merges into a sibling of its level, by an order from above both",
            );
        }
        if whole.division.is_some() && !self.is_between_siblings(&whole, &by, time) {
            return refuse("a unit is divided with a sibling, by an order from above both");
        }
        let used = |known: &Known| {
            known.order.as_ref().is_some_and(|one| one.effective_unix_ms >= order.effective_unix_ms)
        };
        if earlier.iter().any(used) {
            return refuse("the order was used before, or is older than one that was");
        }
        Ok(order)
    }

    /// True for the grant by which a unit comes under its sibling to end there.
    pub(super) fn is_merging(
        &self,
        delegation: &Delegation,
        issuer: &UnitCode,
        issuer_level: Level,
    ) -> bool {
        let Some(bytes) = &delegation.reform else { return false };
        let Ok((order, by, time)) = self.open_order(bytes, None) else { return false };
        order.merge
            && (&order.unit, &order.to) == (&delegation.unit, issuer)
            && delegation.level == issuer_level
            && self.is_between_siblings(&order, &by, time)
    }

    /// True if the unit that gives an order at `time` is above the one into which another merges, and
    /// that was under the same parent.
    pub(super) fn is_between_siblings(
        &self,
        order: &Order,
        by: &UnitCode,
        time: UnixMillis,
    ) -> bool {
        let mut above = self.line_at(&order.to, time).skip(1).peekable();
        above.peek() == Some(&&order.from) && above.any(|one| one == by)
    }

    /// The unit into which this one merges or has merged, by its newest grant.
    pub fn merged_into(&self, unit: &UnitCode) -> Option<&UnitCode> {
        let newest = self.history(&(unit.clone(), None)).last()?;
        newest.order.as_ref().filter(|order| order.merge).map(|order| &order.to)
    }

    /// How many units a unit merged into, one after the other.
    pub fn merges_of(&self, unit: &UnitCode) -> usize {
        std::iter::successors(self.merged_into(unit), |one| self.merged_into(one)).count()
    }

    /// Who has what was open with a unit: the unit, or the one into which it merged, once it has
    /// ended.
    pub fn heir<'a>(&'a self, unit: &'a UnitCode) -> &'a UnitCode {
        let mut heir = unit;
        // Ends, because nobody merges into a unit below itself.
        while let Some(next) = self.merged_into(heir).filter(|_| self.has_left(heir)) {
            heir = next;
        }
        heir
    }

    /// Units that merge or have merged into `unit`, or into one that has, by code.
    pub fn inherited(&self, unit: &UnitCode) -> Vec<&UnitCode> {
        let merged = self.moved.iter().filter(|one| {
            let mut into =
                std::iter::successors(self.merged_into(one), |one| self.merged_into(one));
            into.any(|one| one == unit)
        });
        merged.collect()
    }

    /// Opens an order: signed by a STATEMENT key of its source that was in force then, and dated no
    /// earlier than it was given.
    pub(super) fn open_order(
        &self,
        bytes: &[u8],
        now: Option<UnixMillis>,
    ) -> Result<(Order, UnitCode, UnixMillis), Error> {
        let envelope = order_of_grant(bytes)?;
        let signers = self.signers(&envelope)?;
        let statement = header::decode(&envelope.payload)?;
        let (source, time) = (statement.header.source.clone(), statement.header.time_unix_ms);
        if statement.header.kind != kinds::REFORM {
            return Err(Error::NotAReform(statement.header.kind));
        }
        check_not_ahead(time, now)?;
        let order = decode_body(&statement.body)?;
        if order.trust_domain != self.trust_domain {
            let (found, expected) = (order.trust_domain, self.trust_domain.clone());
            return Err(Error::Domain { found, expected });
        }
        for signed in &signers {
            let holder = match signed {
                Signed::Holder(key_id, holder) if holder.subject == (source.clone(), None) => {
                    (*key_id, *holder)
                }
                Signed::Holder(..) | Signed::Root(_) => {
                    let holder = signed.shown();
                    return Err(Error::WrongSource { claimed: source, holder });
                }
            };
            let (key_id, holder) = holder;
            if holder.key_use != KeyUse::Statement {
                let (holder, key_use) = (shown(&holder.subject), holder.key_use);
                return Err(Error::WrongUse { holder, key_use });
            }
            self.in_force(holder, key_id, time)?;
            self.check_signed_suite(holder, time)?;
            // The grant that holds the order shows it to be older than a replacement of the key; of
            // a key that was revoked nothing is believed by its own date.
            if let Some(now) = now
                && let Some(End::Revoked(known)) = self.end_of(holder, key_id, now)
            {
                let (holder, end_unix_ms) = (shown(&holder.subject), known.cutoff());
                return Err(Error::EndedKey { holder, end_unix_ms });
            }
        }
        if order.effective_unix_ms < time {
            let (unit, reason) = (order.unit, "the order is backdated");
            return Err(Error::Reform { unit, reason });
        }
        Ok((order, source, time))
    }

    /// Judges an order that came by itself.
    ///
    /// # Errors
    ///
    /// As for the one in a grant.
    pub fn check_order(&self, envelope: &Envelope, now: UnixMillis) -> Result<Order, Error> {
        let bytes = crate::statement::reform::order_to_grant(envelope);
        self.open_order(&bytes, Some(now)).map(|(order, ..)| order)
    }

    /// The unit and those above it at `time`.
    pub(super) fn line_at<'a>(
        &'a self,
        unit: &'a UnitCode,
        time: UnixMillis,
    ) -> impl Iterator<Item = &'a UnitCode> {
        std::iter::successors(Some(unit), move |unit| {
            let history = self.history(&((*unit).clone(), None));
            let begun = history.iter().rev().find(|one| one.delegation.not_before_unix_ms <= time);
            begun.or_else(|| history.first())?.delegation.issuer.as_ref()
        })
    }

    /// Orders by which a unit moved, in their order.
    pub fn moves(&self, unit: &UnitCode) -> Vec<&Order> {
        let history = self.history(&(unit.clone(), None)).iter();
        let mut moves: Vec<_> = history.filter_map(|known| known.order.as_ref()).collect();
        moves.dedup();
        moves
    }

    /// Grants by which units of the subtree of `head` moved, but the newest, issuers before issued:
    /// whoever missed one needs it to believe the next.
    pub fn moves_below<'a>(&'a self, head: &'a UnitCode) -> impl Iterator<Item = &'a Known> {
        let moved = self.moved.iter().filter(|unit| self.is_in_subtree(unit, head));
        let earlier = moved.filter_map(|unit| self.history(&(unit.clone(), None)).split_last());
        earlier.flat_map(|(_, earlier)| earlier).filter(|known| known.order.is_some())
    }

    /// Units that have moved.
    pub fn moved_units(&self) -> impl Iterator<Item = &UnitCode> {
        self.moved.iter()
    }

    /// The parent of a unit on `day`, by the dates of its orders.
    pub fn parent_on(&self, unit: &UnitCode, day: Date) -> Option<&UnitCode> {
        // What it was as a root it had no parent for: its first one then stands for that time too.
        let mut history = self.history(&(unit.clone(), None)).iter();
        let first = history.find(|known| known.delegation.issuer.is_some())?;
        let parent = match &first.order {
            Some(order) => &order.from,
            None => first.delegation.issuer.as_ref()?,
        };
        Some(reform::parent_on(parent, self.moves(unit), day))
    }

    /// Units right below on `day`, by code.
    pub fn children_on(&self, unit: &UnitCode, day: Date) -> Vec<&UnitCode> {
        let ever = self.children.get(unit).into_iter().flatten();
        ever.filter(|child| self.parent_on(child, day) == Some(unit)).collect()
    }

    /// Units that are below `head` or ever were, itself left out.
    pub fn units_ever_below(&self, head: &UnitCode) -> usize {
        let gone = self
            .moved
            .iter()
            .filter(|unit| !self.is_in_subtree(unit, head) && self.was_below(unit, head));
        let gone = gone.map(|unit| self.units_below(unit).len() + 1);
        self.units_below(head).len() + gone.sum::<usize>()
    }

    /// Number of units in the subtree of `head` on `day`, as [`Trust::staying`].
    pub fn staying_on(&self, head: &UnitCode, day: Date) -> u32 {
        if self.delegation(head, None).is_none() || self.has_left(head) {
            return 0;
        }
        let below = self.children_on(head, day).into_iter();
        below.fold(1, |sum: u32, child| sum.saturating_add(self.staying_on(child, day)))
    }

    /// All that were ever above a unit.
    pub fn ever_above(&self, unit: &UnitCode) -> BTreeSet<&UnitCode> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![unit.clone()];
        while let Some(unit) = waiting.pop() {
            for known in self.history(&(unit, None)) {
                let orders = known.order.iter().map(|order| &order.from);
                for above in known.delegation.issuer.iter().chain(orders) {
                    // Ends, because each step is to a higher level that is not there yet.
                    if found.insert(above) {
                        waiting.push(above.clone());
                    }
                }
            }
        }
        found
    }

    /// True if `unit` is or ever was below `head`.
    pub fn was_below(&self, unit: &UnitCode, head: &UnitCode) -> bool {
        self.ever_above(unit).contains(head)
    }

    /// True if a reform parted the two units: what is open between them goes by way of a unit above
    /// both, through `own`, which is one of them or on the way to one that moved.
    pub fn parted(&self, own: &UnitCode, source: &UnitCode) -> bool {
        if own != source && (self.was_below(own, source) || self.was_below(source, own)) {
            return true;
        }
        let concerns =
            |unit: &&UnitCode| self.is_in_subtree(unit, own) && self.was_below(unit, source);
        self.moved.iter().any(|unit| concerns(&unit))
    }
}
