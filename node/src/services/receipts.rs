//! When what was sent has arrived for good: the final receipt of its last destination, not the
//! acknowledgement of the next hop.
//!
//! Promises nothing about who has acted: a receipt is final here once it says that the statement
//! was validated, or refused, where it had to go.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    escalations::Escalations,
    notices::Notices,
    unit::{FinalReceipts, Unit},
};
use crate::{
    clock::UnixMillis,
    domain::unit::UnitCode,
    statement::header::{self, StatementId, kinds},
    store,
};

/// Final receipts of what one unit sent.
#[derive(Debug)]
pub struct Receipts {
    unit: Arc<Unit>,
    notices: Arc<Notices>,
    escalations: Arc<Escalations>,
}

impl Receipts {
    /// Final receipts of what `unit` sent.
    pub fn new(unit: Arc<Unit>, notices: Arc<Notices>, escalations: Arc<Escalations>) -> Self {
        Self { unit, notices, escalations }
    }
}

#[async_trait]
impl FinalReceipts for Receipts {
    async fn final_at(
        &self,
        peer: &UnitCode,
        id: StatementId,
    ) -> Result<Option<UnixMillis>, store::Error> {
        let kept = self.unit.statement(id).await?;
        let statement = kept.and_then(|kept| header::decode(&kept.payload).ok());
        let Some(statement) = statement else { return Ok(Some(UnixMillis::MIN)) };
        match statement.header.kind.as_str() {
            kinds::NOTICE => self.notices.final_at(peer, id).await,
            // A relay cannot read the steps: the street that raised it keeps it.
            kinds::ESCALATION if statement.header.source == self.unit.code => {
                self.escalations.final_at(id).await
            }
            _ => Ok(Some(UnixMillis::MIN)),
        }
    }
}
