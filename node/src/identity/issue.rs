//! Signs delegations and revocations.
//!
//! Promises nothing about whether a grant holds: `trust` judges what was signed here like what came
//! from elsewhere.

use lianxi_proto::envelope::{self, STATEMENT_TYPE, Signer};

use crate::{
    clock::UnixMillis,
    domain::{delegation::Delegation, revocation::Revocation, unit::UnitCode},
    statement::{
        Envelope,
        delegation::encode_body,
        header::{self, Classification, Header, StatementId, kinds},
        revocation,
    },
};

/// Signs `delegation` at `now`: with the root key if it is the root's own, else with a DELEGATION
/// key of its issuer.
///
/// Delegations stand outside the issuer's count of statements: their order is their serial, and
/// `epoch` and `seq` stay 0.
pub fn sign(delegation: &Delegation, signer: &Signer, now: UnixMillis) -> Envelope {
    let header = Header {
        id: StatementId::generate(now),
        source: delegation.issuer.clone().unwrap_or_else(|| delegation.unit.clone()),
        kind: kinds::DELEGATION.to_owned(),
        subject: delegation.unit.to_string(),
        time_unix_ms: now,
        dataschema: String::new(),
        epoch: 0,
        seq: 0,
        purpose: String::new(),
        classification: Classification::Internal,
        exercise: false,
        destination: Some(delegation.unit.clone()),
        traceparent: String::new(),
        on_behalf_of: None,
        sealing: None,
        handed_by: Default::default(),
    };
    let payload = header::encode(&header, &encode_body(delegation));
    envelope::sign(STATEMENT_TYPE, payload, &[signer])
}

/// Signs `revocation` in the name of `by` at `now`: with a DELEGATION key of `by`, or with the root
/// key for the root's own. It stands outside the count of statements, as a delegation does.
pub fn sign_revocation(
    revocation: &Revocation,
    by: &UnitCode,
    signer: &Signer,
    now: UnixMillis,
) -> Envelope {
    let header = Header {
        id: StatementId::generate(now),
        source: by.clone(),
        kind: kinds::REVOCATION.to_owned(),
        subject: revocation.unit.to_string(),
        time_unix_ms: now,
        dataschema: String::new(),
        epoch: 0,
        seq: 0,
        purpose: String::new(),
        classification: Classification::Internal,
        exercise: false,
        destination: None,
        traceparent: String::new(),
        on_behalf_of: None,
        sealing: None,
        handed_by: Default::default(),
    };
    let payload = header::encode(&header, &revocation::encode_body(revocation));
    envelope::sign(STATEMENT_TYPE, payload, &[signer])
}
