//! Refusals that strangers can cause, in the journal within bounds.

use std::sync::PoisonError;

use super::Unit;
use crate::{
    domain::{
        journal::{Act, Leaf},
        refusals::LeftOut,
    },
    store::{self, Batch},
};

impl Unit {
    /// Journals a refused attempt of `source`, unless enough of it stand there for this minute: then
    /// it is counted, and the count is journalled after the minute.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn record_refusal(&self, source: &str, act: Act) -> Result<(), store::Error> {
        let now = self.clock.now_unix_ms();
        let (left_out, written) = {
            let mut window = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            (window.turn(now), window.take(source))
        };
        self.journal_refusals(left_out, written.then_some(act)).await
    }

    /// Journals the counts of a minute that is over.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn settle_refusals(&self) -> Result<(), store::Error> {
        let now = self.clock.now_unix_ms();
        let left_out = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).turn(now);
        self.journal_refusals(left_out, None).await
    }

    async fn journal_refusals(
        &self,
        left_out: Vec<LeftOut>,
        act: Option<Act>,
    ) -> Result<(), store::Error> {
        let counts = left_out.iter().map(LeftOut::act);
        let mut batch = Batch::new(&self.code);
        batch.urgent();
        for act in counts.chain(act) {
            batch.journal(self.clock.now_unix_ms(), &Leaf::Act(act));
        }
        if batch.is_empty() { Ok(()) } else { self.store.submit(batch).await }
    }
}
