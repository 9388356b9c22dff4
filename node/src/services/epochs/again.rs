//! Own statements that were withdrawn when an epoch was opened, and are made again in it.
//!
//! Promises that receipts, steps, keys and refusals reach whom they were for although their first
//! numbers may stand for others. Notices and whistles are not among them, because others name them by
//! their ids: they go on once a peer has returned them, which shows that their numbers are their own;
//! else people decide.

use std::{collections::BTreeSet, sync::Arc};

use super::Epochs;
use crate::{
    services::unit::{Draft, Withdrawn},
    statement::header::{self, Statement, StatementId, kinds},
    store,
};

/// Those that are made again by themselves; reports are published anew.
pub(super) fn made_again(withdrawn: &[Withdrawn]) -> BTreeSet<StatementId> {
    let made = [kinds::RECEIPT, kinds::ESCALATION_EVENT, kinds::KEY_GRANT, kinds::REJECTION];
    withdrawn.iter().filter(|one| made.contains(&&*one.kind)).map(|one| one.id).collect()
}

impl Epochs {
    /// Goes on with what is to be made again; at each start too.
    pub(in crate::services) fn go_on(self: &Arc<Self>) {
        let epochs = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = epochs.make_again().await {
                tracing::error!(
                    unit = %epochs.unit.code, %error,
                    "withdrawn statements are made again at the next start"
                );
            }
        });
    }

    /// Makes withdrawn statements again, unless the unit stands still.
    pub(super) async fn make_again(&self) -> Result<(), store::Error> {
        while !self.is_stopped() {
            let mut work = self.unit.begin().await;
            let Some(again) = self.unit.next_again().await? else { return Ok(()) };
            let envelope = self.unit.statement(again.id).await?;
            let statement = envelope.and_then(|it| header::decode(&it.payload).ok());
            let draft = match &statement {
                Some(statement) => self.draft_again(statement).await?,
                None => None,
            };
            let signed = draft.map(|draft| work.sign(&draft)).transpose();
            let successor = match signed {
                Ok(signed) => signed.map(|signed| signed.id),
                Err(error) => {
                    tracing::error!(unit = %self.unit.code, id = %again.id, %error, "cannot sign again");
                    None
                }
            };
            if successor.is_none() {
                tracing::warn!(
                    unit = %self.unit.code, id = %again.id,
                    "a withdrawn statement cannot be made again by itself"
                );
            }
            work.put_back(again, successor);
            work.submit(|| ()).await?;
        }
        Ok(())
    }

    async fn draft_again(&self, statement: &Statement) -> Result<Option<Draft>, store::Error> {
        let header = &statement.header;
        let kind = match header.kind.as_str() {
            kinds::RECEIPT => return Ok(self.notices.again(statement)),
            kinds::ESCALATION_EVENT => return self.escalations.again(statement).await,
            kinds::KEY_GRANT => kinds::KEY_GRANT,
            kinds::REJECTION => kinds::REJECTION,
            _ => return Ok(None),
        };
        let mut draft = Draft::new(kind, header.subject.clone(), statement.body.to_vec());
        draft.destination.clone_from(&header.destination);
        draft.exercise = header.exercise;
        Ok(Some(draft))
    }
}
