//! Keys of a unit that change: which ones a grant may name, and what former ones have still to bring.

use std::sync::{Arc, PoisonError};

use super::{Unit, outbox::OutboxRow};
use crate::{
    domain::delegation::PublicKey,
    identity::{
        keys::{AgreementKey, UnitKeys},
        trust::{Checked, Known, Trust},
    },
    services::enrolments::Grantor as _,
    statement::header::StatementId,
    store::{self, Table},
};

impl Unit {
    /// Says which keys are to replace the unit's: a grant that names them is for this unit.
    pub fn expect_keys(&self, next: Vec<PublicKey>) {
        *self.next_keys.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// Believes a delegation that is stored by now, and lets the neighbours know of it.
    pub fn take_in(&self, checked: Checked) {
        self.believe(checked);
    }

    /// Uses other keys from now on. What was sealed to the former ones is still read.
    pub fn use_keys(&self, keys: UnitKeys) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        ring.add(AgreementKey::from_bytes(keys.agreement.private_bytes()));
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// True if the grant is for this unit and names a key that it neither has, nor had, nor made.
    pub(super) fn names_foreign_keys(&self, trust: &Trust, known: &Known) -> bool {
        let delegation = &known.delegation;
        if delegation.unit != self.code || delegation.desk.is_some() {
            return false;
        }
        let own = self.keys().public_keys();
        let next = self.next_keys.read().unwrap_or_else(PoisonError::into_inner);
        let is_own = |key: &PublicKey| {
            own.contains(key) || next.contains(key) || trust.had_key(&self.code, key)
        };
        !delegation.keys.iter().all(is_own)
    }

    /// Number of waiting deliveries that one of the keys signed.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn unsent_by(&self, key_ids: &[String]) -> Result<u64, store::Error> {
        const PAGE: usize = 256;
        let (mut count, mut after) = (0, None::<Vec<u8>>);
        loop {
            let rows =
                self.store.scan(&self.code, Table::Outbox, b"", after.as_deref(), PAGE).await?;
            for (_, value) in &rows {
                let id = StatementId::try_from(&OutboxRow::decode(value)?.id[..])
                    .map_err(|error| store::Error::Engine(format!("an id is damaged: {error}")))?;
                let envelope = self.statement(id).await?;
                let mut signatures =
                    envelope.iter().flat_map(|envelope| envelope.signatures.iter());
                count += u64::from(signatures.any(|one| key_ids.contains(&one.key_id)));
            }
            match rows.last() {
                Some((key, _)) if rows.len() == PAGE => after = Some(key.clone()),
                _ => return Ok(count),
            }
        }
    }
}
