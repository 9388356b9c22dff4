//! What is due of a merge: the successor takes over the children, the unit hands over and ends.

use super::{Due, Error, Reforms, Wanted, row::Row};
use crate::{
    clock::UnixMillis,
    domain::{journal::Actor, unit::UnitCode},
    services::{exchange::Lane, hosted::Hosted, leaving},
    statement::header::StatementId,
    store,
};

impl Reforms {
    /// What is due of a merge here.
    pub(super) async fn due_of_merge(
        &self,
        due: &mut Vec<Due>,
        (id, row): (StatementId, &Row),
        rows: &[(StatementId, Row)],
        now: UnixMillis,
    ) -> Result<(), store::Error> {
        let own = &self.unit.code;
        let (merged, has_left, children) = {
            let trust = self.unit.trust();
            let children = trust.children(&row.unit).into_iter();
            let children = children.filter(|child| trust.revoked(child, None).is_none());
            let children: Vec<UnitCode> = children.cloned().collect();
            let merged = trust.merged_into(&row.unit) == Some(&row.to);
            (merged, trust.has_left(&row.unit), children)
        };
        if !merged || row.moved_unix_ms.is_none() {
            return Ok(());
        }
        if row.to == *own && !has_left {
            let is_ordered = |child: &UnitCode| {
                let of_child = |row: &Row| row.by == *own && row.unit == *child;
                rows.iter().any(|(_, row)| of_child(row) && row.is_pending(now))
            };
            let waiting = children.iter().filter(|child| !is_ordered(child));
            due.extend(waiting.map(|child| Due::TakeOver { child: child.clone() }));
        }
        if row.to == *own && has_left {
            let unit = &row.unit;
            for lane in [Lane::Escalation, Lane::Notice] {
                if self.unit.is_waiting(unit, lane).await? {
                    due.push(Due::Inherit(unit.clone()));
                    break;
                }
            }
        }
        if row.unit == *own && !has_left && row.resubmitted && row.released_unix_ms.is_some() {
            let holds = |row: &Row| {
                row.from == *own && row.moved_unix_ms.is_some() && row.let_go_unix_ms.is_none()
            };
            let alone = children.is_empty() && !rows.iter().any(|(_, row)| holds(row));
            match &row.handed {
                None if alone => due.push(Due::HandOver(id)),
                Some(_) => due.push(Due::End(id)),
                None => {}
            }
        }
        Ok(())
    }

    /// Puts a child of the unit that merges into this one under this one, from today on.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn take_over(&self, child: UnitCode, today: jiff::civil::Date) -> Result<(), Error> {
        let wanted = Wanted {
            unit: child,
            to: self.unit.code.clone(),
            on: today,
            begins_unix_ms: self.unit.clock.now_unix_ms(),
            today,
            text: String::new(),
            dry_run: false,
            merge: false,
            parts: None,
        };
        self.order(&Actor::node(), wanted).await.map(drop)
    }

    /// The unit that handed everything over says its last word, once all of it has arrived and its
    /// successor has cosigned the journal up to there. False: that is still to come.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn end(&self, hosted: &Hosted, id: StatementId) -> Result<bool, Error> {
        let (row, _) = self.stored(id).await?.ok_or(Error::NotFound(id))?;
        if leaving::is_announced(&self.unit).await? {
            return Ok(true);
        }
        let last: Option<StatementId> = row.handed.as_ref().and_then(|id| id.parse().ok());
        let leaf = match last {
            Some(last) => self.unit.leaf_of(last).await?.unwrap_or(u64::MAX),
            None => 0,
        };
        hosted.journal.checkpoint().await?;
        let name = lianxi_proto::note::origin(&self.unit.trust_domain, row.to.as_str());
        let cosigned = hosted.journal.cosigned_up_to(u64::MAX, Some(&name)).await?;
        // Cosignatures have whole seconds: the end has to come after the one that shows what was
        // before it, by the clock of the successor.
        let now = self.unit.clock.now_unix_ms() - hosted.link(&row.to).clock_skew_ms;
        let is_witnessed = cosigned.is_some_and(|signed| {
            let at = hosted.witness.cosigned_at(&row.to, &signed.note.to_string());
            signed.checkpoint.size > leaf && at.is_some_and(|at| at < now)
        });
        if is_witnessed && !row.shown {
            self.show_reports(hosted, (id, &row)).await?;
            return Ok(false);
        }
        if !is_witnessed || self.unit.outbox_state().await?.waiting() > 0 {
            return Ok(false);
        }
        let text = format!("merged into {} on {}", row.to, row.on);
        leaving::announce(&self.unit, &Actor::node(), &row.to, text).await?;
        Ok(true)
    }
}
