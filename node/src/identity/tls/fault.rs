//! What went wrong in a handshake, as one sentence for the operator of this side.

use std::{error::Error as StdError, io, sync::Arc};

use rustls::{AlertDescription, CertificateError, OtherError};

use crate::domain::unit::UnitCode;

/// What is wrong with a certificate that chains correctly.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Fault {
    #[error("the certificate names no unit")]
    NoUnit,
    #[error("the certificate is of trust domain {found}, not {expected}")]
    Domain { found: String, expected: String },
    #[error("the certificate is of unit {found}, not {expected}")]
    Unit { found: UnitCode, expected: UnitCode },
    #[error("the certificate of {0} is for another key than the one that {0} joined with")]
    Key(UnitCode),
    #[error("{0} was revoked; invite it again if it is to come back")]
    Revoked(UnitCode),
    #[error("the pinned CA is not in the chain that was shown")]
    Pin,
}

pub(super) fn fault(fault: Fault) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(fault))).into()
}

pub(super) fn find_fault(error: &rustls::Error) -> Option<&Fault> {
    if let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error {
        other.0.downcast_ref::<Fault>()
    } else {
        None
    }
}

pub(super) fn validity(error: &rustls::Error) -> Option<&'static str> {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let rustls::Error::InvalidCertificate(error) = error else { return None };
    if matches!(error, Expired | ExpiredContext { .. }) {
        Some("expired")
    } else if matches!(error, NotValidYet | NotValidYetContext { .. }) {
        Some("not valid yet")
    } else {
        None
    }
}

/// Finds why the other side ended the handshake in an error of whatever was spoken over it, as one
/// sentence for the operator. `None`: it did not.
pub fn refusal(error: &(dyn StdError + 'static)) -> Option<String> {
    let rustls::Error::AlertReceived(alert) = find_tls(error)? else { return None };
    Some(alert_text(*alert))
}

pub(super) fn find_tls<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>() {
            // An io::Error hides what it wraps from its own `source`.
            Some(wrapper) => wrapper.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

pub(super) fn reason_of(error: &(dyn StdError + 'static)) -> String {
    let Some(tls) = find_tls(error) else { return "the connection broke".to_owned() };
    if let Some(fault) = find_fault(tls) {
        return fault.to_string();
    }
    match (validity(tls), tls) {
        (Some(state), _) => {
            format!("the peer's certificate is {state}; compare the clocks of both hosts")
        }
        (None, rustls::Error::AlertReceived(alert)) => alert_text(*alert),
        (
            None,
            rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ),
        ) => "the peer's certificate is not from this unit's CA; it has to join again".to_owned(),
        (None, rustls::Error::InvalidCertificate(CertificateError::Revoked)) => {
            "the peer was revoked; invite it again if it is to come back".to_owned()
        }
        (None, rustls::Error::NoCertificatesPresented) => {
            "the peer shows no certificate; it has to join first".to_owned()
        }
        (None, other) => other.to_string(),
    }
}

/// The fixed word of the journal for why a handshake was refused here. `None`: the connection broke,
/// or the other side refused.
pub(super) fn word_of(error: &io::Error) -> Option<&'static str> {
    let tls = find_tls(error)?;
    if let Some(fault) = find_fault(tls) {
        return Some(match fault {
            Fault::NoUnit => "no-unit",
            Fault::Domain { .. } => "wrong-domain",
            Fault::Unit { .. } => "wrong-unit",
            Fault::Key(_) => "wrong-key",
            Fault::Revoked(_) => "revoked",
            Fault::Pin => "wrong-ca",
        });
    }
    match (validity(tls), tls) {
        (Some("expired"), _) => Some("expired"),
        (Some(_), _) => Some("not-valid-yet"),
        (None, rustls::Error::InvalidCertificate(CertificateError::Revoked)) => Some("revoked"),
        (None, rustls::Error::InvalidCertificate(_)) => Some("wrong-ca"),
        (None, rustls::Error::NoCertificatesPresented) => Some("no-certificate"),
        (None, rustls::Error::PeerIncompatible(_)) => Some("tls-version"),
        (None, rustls::Error::AlertReceived(_)) => None,
        (None, _) => Some("handshake"),
    }
}

fn alert_text(alert: AlertDescription) -> String {
    const KNOWN: [(AlertDescription, &str); 9] = [
        (
            AlertDescription::CertificateRevoked,
            "the parent has revoked this unit; ask it for an invitation, and join again with new \
             keys",
        ),
        (
            AlertDescription::CertificateExpired,
            "the other side finds the certificate expired or not valid yet; compare the clocks of \
             both hosts",
        ),
        (
            AlertDescription::UnknownCA,
            "the other side does not know the CA of the certificate: the unit joined under another \
             parent, or the parent's keys were made anew; join again",
        ),
        (
            // A CA of the same name with another key: what an unknown CA looks like once a parent's
            // keys were made anew.
            AlertDescription::DecryptError,
            "the other side cannot verify the certificate: the parent's keys were made anew; join \
             again",
        ),
        (
            AlertDescription::CertificateRequired,
            "the other side asks for a certificate; join first",
        ),
        (
            AlertDescription::CertificateUnknown,
            "the other side refuses the certificate; its log has the reason",
        ),
        (
            AlertDescription::BadCertificate,
            "the other side refuses the certificate; its log has the reason",
        ),
        (AlertDescription::UnrecognisedName, "the host does not serve the unit that was asked for"),
        (AlertDescription::ProtocolVersion, "the other side does not speak TLS 1.3"),
    ];
    match KNOWN.iter().find(|(known, _)| *known == alert) {
        Some((_, text)) => (*text).to_owned(),
        None => format!("the other side ended the handshake with {alert:?}"),
    }
}
