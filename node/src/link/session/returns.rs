//! A restored unit's own statements on their way back: one side asks page by page, the other gives
//! what it holds. Nothing of the restored unit's outbox leaves before the last page is kept, so that
//! it never speaks over what it said before.

use std::collections::VecDeque;

use lianxi_proto::link::v1::Frame;

use super::Closed;
use crate::{
    domain::epoch::Number,
    link::wire,
    services::exchange::{Page, Returned},
};

/// Both sides of a return.
#[derive(Default)]
pub(super) struct Returns {
    /// It has to be seen whether anything is wanted.
    due: bool,
    looking: bool,
    /// A page was asked for.
    waiting: bool,
    taking: bool,
    came: Option<Page>,
    /// The peer asked for a page.
    asked: Option<Number>,
    giving: bool,
    frames: VecDeque<Frame>,
}

/// What is to be done next.
pub(super) enum Next {
    /// See whether anything is wanted.
    Look,
    /// Keep a page.
    Take(Page),
    /// Make a page.
    Give(Number),
}

impl Returns {
    pub(super) fn opened(&mut self) {
        self.due = true;
    }

    /// While true, no delivery may leave.
    pub(super) fn is_behind(&self) -> bool {
        self.due || self.looking || self.waiting || self.taking
    }

    pub(super) fn next(&mut self) -> Option<Next> {
        if std::mem::take(&mut self.due) {
            self.looking = true;
            return Some(Next::Look);
        }
        if !self.taking
            && let Some(page) = self.came.take()
        {
            self.taking = true;
            return Some(Next::Take(page));
        }
        if !self.giving
            && let Some(after) = self.asked.take()
        {
            self.giving = true;
            return Some(Next::Give(after));
        }
        None
    }

    /// Above which number something is wanted; `None`: nothing is, or nothing any more.
    pub(super) fn wanted(&mut self, after: Option<Number>) {
        (self.looking, self.taking, self.waiting) = (false, false, after.is_some());
        self.frames.extend(after.map(wire::return_request));
    }

    /// A page that was asked for came.
    pub(super) fn came(&mut self, statements: Vec<Returned>, last: bool) -> Result<(), Closed> {
        if !std::mem::take(&mut self.waiting) {
            return Err(Closed::Protocol("it returns what was not asked for".to_owned()));
        }
        // Counts as under way until it is kept.
        self.looking = true;
        self.came = Some(Page { statements, last });
        Ok(())
    }

    /// The peer asks for a page.
    pub(super) fn asked(&mut self, after: Number) -> Result<(), Closed> {
        if self.giving || self.asked.is_some() {
            return Err(Closed::Protocol("it asks again before it was answered".to_owned()));
        }
        self.asked = Some(after);
        Ok(())
    }

    pub(super) fn made(&mut self, page: Page) {
        self.giving = false;
        self.frames.push_back(wire::returned(page));
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.frames.is_empty()
    }

    pub(super) fn frame(&mut self) -> Option<Frame> {
        self.frames.pop_front()
    }
}
