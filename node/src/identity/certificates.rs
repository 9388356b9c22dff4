//! X.509 certificates: one issuing CA per unit, its server certificate, its children's client
//! certificates.
//!
//! Promises that a certificate names exactly one unit, and that of a request nothing but the proven
//! public key gets into a certificate. Certificates say who holds a connection; what a unit may do
//! comes from delegations alone.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::{clock::UnixMillis, domain::unit::UnitCode};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// How far a certificate's validity begins before its making, for clocks that are behind.
pub const BACKDATED_MS: i64 = 3 * DAY_MS;

/// How long a server or client certificate is valid from its making.
pub const LIFETIME_MS: i64 = 30 * DAY_MS;

/// How long a CA's certificate is valid. What ends a CA is the delegation that names its hash.
const CA_LIFETIME_MS: i64 = 20 * 365 * DAY_MS;

/// Bytes of an uncompressed P-256 point.
const P256_POINT_BYTES: usize = 65;

/// Why a certificate was not made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is not PKCS#10, or its signature does not hold.
    #[error("the certificate request does not hold; it must be PKCS#10 signed by its own key")]
    Request(#[source] rcgen::Error),
    /// The request's key is not ECDSA P-256.
    #[error("the certificate request's key is not ECDSA P-256")]
    RequestKey,
    /// The bytes are no certificate.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// The certificate does not name exactly one unit.
    #[error("the certificate names no unit: it must hold one URI `spiffe://DOMAIN/unit/CODE`")]
    NoUnit,
    /// Signing failed.
    #[error("cannot make a certificate")]
    Sign(#[from] rcgen::Error),
}

/// What a certificate says of its holder. Whether it is to be believed is TLS's to check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certified {
    /// Trust domain of the SPIFFE URI.
    pub trust_domain: String,
    /// Unit of the SPIFFE URI.
    pub unit: UnitCode,
    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER).
    pub key_sha256: [u8; 32],
    /// First instant of validity.
    pub not_before_unix_ms: UnixMillis,
    /// Last instant of validity.
    pub not_after_unix_ms: UnixMillis,
    /// From the certificate's own bytes: spreads renewals.
    jitter: u16,
}

impl Certified {
    /// When to make a new one: at half of the validity, and up to a tenth of it later, so that units
    /// that joined together do not come together for ever after.
    pub fn due_unix_ms(&self) -> UnixMillis {
        let validity_ms = self.not_after_unix_ms.saturating_sub(self.not_before_unix_ms);
        let spread_ms = (validity_ms / 10 / i64::from(u16::MAX)) * i64::from(self.jitter);
        self.not_before_unix_ms.saturating_add(validity_ms / 2).saturating_add(spread_ms)
    }

    /// True once it is time to make a new one.
    pub fn is_due(&self, now: UnixMillis) -> bool {
        now >= self.due_unix_ms()
    }
}

/// SHA-256 of bytes, as CAs are pinned.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The SPIFFE URI of a unit.
pub fn spiffe_uri(trust_domain: &str, unit: &UnitCode) -> String {
    format!("spiffe://{trust_domain}/unit/{unit}")
}

/// Makes the certificate of a unit's CA: self-signed, path length 0.
///
/// # Errors
///
/// [`Error::Sign`].
pub fn issue_ca(
    unit: &UnitCode,
    trust_domain: &str,
    ca: &KeyPair,
    now: UnixMillis,
) -> Result<CertificateDer<'static>, Error> {
    let mut params = params(&format!("{unit} CA of {trust_domain}"), now, CA_LIFETIME_MS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params.self_signed(ca)?.der().clone())
}

/// Makes the certificate that a unit shows to its children, with the names that they dial.
///
/// # Errors
///
/// [`Error::Sign`].
pub fn issue_server(
    unit: &UnitCode,
    trust_domain: &str,
    names: &[String],
    (ca_certificate, ca): (&CertificateDer<'_>, &KeyPair),
    tls: &KeyPair,
    now: UnixMillis,
) -> Result<CertificateDer<'static>, Error> {
    let mut params = leaf(unit, trust_domain, ExtendedKeyUsagePurpose::ServerAuth, now)?;
    for name in names {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    let issuer = Issuer::from_ca_cert_der(ca_certificate, ca)?;
    Ok(params.signed_by(tls, &issuer)?.der().clone())
}

/// Makes the certificate that a child shows to its parent. Of the request only the public key is
/// used; the name is put there by the parent.
///
/// # Errors
///
/// [`Error::Request`], [`Error::RequestKey`], [`Error::Sign`].
pub fn issue_client(
    child: &UnitCode,
    trust_domain: &str,
    request: &[u8],
    (ca_certificate, ca): (&CertificateDer<'_>, &KeyPair),
    now: UnixMillis,
) -> Result<CertificateDer<'static>, Error> {
    let mut request = read_request(request)?;
    request.params = leaf(child, trust_domain, ExtendedKeyUsagePurpose::ClientAuth, now)?;
    let issuer = Issuer::from_ca_cert_der(ca_certificate, ca)?;
    Ok(request.signed_by(&issuer)?.der().clone())
}

/// Makes the request for a client certificate: a public key with proof of its possession.
///
/// # Errors
///
/// [`Error::Sign`].
pub fn request(tls: &KeyPair) -> Result<Vec<u8>, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(tls)?.der().to_vec())
}

/// SHA-256 of the public key (SubjectPublicKeyInfo, DER) of a request whose signature holds.
///
/// # Errors
///
/// [`Error::Request`], [`Error::RequestKey`].
pub fn request_key_sha256(request: &[u8]) -> Result<[u8; 32], Error> {
    Ok(sha256(&read_request(request)?.public_key.subject_public_key_info()))
}

/// Reads what a certificate says of its holder.
///
/// # Errors
///
/// [`Error::Unreadable`], [`Error::NoUnit`].
pub fn read(certificate: &[u8]) -> Result<Certified, Error> {
    let [first, second, ..] = sha256(certificate);
    let (rest, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| Error::Unreadable)?;
    if !rest.is_empty() {
        return Err(Error::Unreadable);
    }
    let names = certificate.subject_alternative_name().map_err(|_| Error::Unreadable)?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let mut uris = names
        .iter()
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
    let (Some(uri), None) = (uris.next(), uris.next()) else { return Err(Error::NoUnit) };
    let (trust_domain, unit) = read_spiffe_uri(uri).ok_or(Error::NoUnit)?;
    let validity = certificate.validity();
    Ok(Certified {
        trust_domain,
        unit,
        key_sha256: sha256(certificate.public_key().raw),
        not_before_unix_ms: validity.not_before.timestamp().saturating_mul(1000),
        not_after_unix_ms: validity.not_after.timestamp().saturating_mul(1000),
        jitter: u16::from_be_bytes([first, second]),
    })
}

fn read_spiffe_uri(uri: &str) -> Option<(String, UnitCode)> {
    let (trust_domain, unit) = uri.strip_prefix("spiffe://")?.split_once("/unit/")?;
    if trust_domain.is_empty() || trust_domain.contains('/') {
        return None;
    }
    Some((trust_domain.to_owned(), unit.parse().ok()?))
}

fn read_request(der: &[u8]) -> Result<CertificateSigningRequestParams, Error> {
    let der = CertificateSigningRequestDer::from(der);
    let request = CertificateSigningRequestParams::from_der(&der).map_err(Error::Request)?;
    let key = &request.public_key;
    if key.algorithm() != &PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != P256_POINT_BYTES {
        return Err(Error::RequestKey);
    }
    Ok(request)
}

fn leaf(
    unit: &UnitCode,
    trust_domain: &str,
    purpose: ExtendedKeyUsagePurpose,
    now: UnixMillis,
) -> Result<CertificateParams, Error> {
    let mut params = params(unit.as_str(), now, LIFETIME_MS);
    params.subject_alt_names =
        vec![SanType::URI(spiffe_uri(trust_domain, unit).as_str().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn params(common_name: &str, now: UnixMillis, lifetime_ms: i64) -> CertificateParams {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).expect("invariant: the operating system gives random bytes");
    serial[0] &= 0x7f;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let at = |unix_ms: i64| {
        let since = Duration::from_millis(u64::try_from(unix_ms).unwrap_or_default());
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs())
    };
    params.not_before = at(now.saturating_sub(BACKDATED_MS));
    params.not_after = at(now.saturating_add(lifetime_ms));
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = 1_760_000_000_000;

    fn unit(code: &str) -> UnitCode {
        code.parse().unwrap()
    }

    fn pair() -> KeyPair {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
    }

    fn ca() -> (CertificateDer<'static>, KeyPair) {
        let key = pair();
        (issue_ca(&unit("BOS"), "boston.example", &key, NOW).unwrap(), key)
    }

    #[test]
    fn the_ca_may_issue_leaves_and_nothing_below_them() {
        let (certificate, _) = ca();
        let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
        let constraints = parsed.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(0));
    }

    #[test]
    fn a_client_certificate_takes_nothing_but_the_key_from_the_request() {
        let (ca_certificate, ca_key) = ca();
        let key = pair();
        let mut asked = CertificateParams::default();
        asked.distinguished_name.push(DnType::CommonName, "BOS");
        asked.subject_alt_names = vec![
            SanType::URI("spiffe://boston.example/unit/BOS".try_into().unwrap()),
            SanType::DnsName("bos.link.lianxi.internal".try_into().unwrap()),
        ];
        asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        asked.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let asked = asked.serialize_request(&key).unwrap();
        let issued = issue_client(
            &unit("BOS-01"),
            "boston.example",
            asked.der(),
            (&ca_certificate, &ca_key),
            NOW,
        )
        .unwrap();
        let certified = read(&issued).unwrap();
        assert_eq!(certified.unit, unit("BOS-01"));
        assert_eq!(certified.key_sha256, request_key_sha256(asked.der()).unwrap());
        let (_, parsed) = X509Certificate::from_der(&issued).unwrap();
        assert!(!parsed.is_ca());
        let names = parsed.subject_alternative_name().unwrap().unwrap().value;
        assert_eq!(names.general_names.len(), 1);
        let purposes = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(purposes.client_auth && !purposes.server_auth && !purposes.any);
    }

    #[test]
    fn validity_comes_from_the_clock_that_is_given() {
        let (ca_certificate, ca_key) = ca();
        let issued = issue_client(
            &unit("BOS-01"),
            "boston.example",
            &request(&pair()).unwrap(),
            (&ca_certificate, &ca_key),
            NOW,
        )
        .unwrap();
        let certified = read(&issued).unwrap();
        assert_eq!(certified.not_before_unix_ms, NOW - 3 * DAY_MS);
        assert_eq!(certified.not_after_unix_ms, NOW + 30 * DAY_MS);
        assert!(!certified.is_due(NOW + 13 * DAY_MS));
        assert!(certified.is_due(NOW + 17 * DAY_MS));
    }

    #[test]
    fn renewals_are_spread_over_a_tenth_of_the_validity() {
        let (ca_certificate, ca_key) = ca();
        let request = request(&pair()).unwrap();
        let issuer = (&ca_certificate, &ca_key);
        let due = |_| {
            let der = issue_client(&unit("B"), "boston.example", &request, issuer, NOW).unwrap();
            read(&der).unwrap().due_unix_ms() - (NOW - 3 * DAY_MS)
        };
        let due: Vec<i64> = (0..20).map(due).collect();
        let (first, last) = (due.iter().min().unwrap(), due.iter().max().unwrap());
        assert!(*first >= 33 * DAY_MS / 2 && *last <= 33 * DAY_MS * 6 / 10, "{due:?}");
        assert!(last - first > DAY_MS / 2, "all at once: {due:?}");
    }

    #[test]
    fn a_request_that_was_changed_or_has_another_key_is_refused() {
        let (ca_certificate, ca_key) = ca();
        let issue = |request: &[u8]| {
            issue_client(&unit("B"), "boston.example", request, (&ca_certificate, &ca_key), NOW)
        };
        let mut changed = request(&pair()).unwrap();
        let last = changed.len() - 1;
        changed[last] ^= 1;
        assert!(matches!(issue(&changed), Err(Error::Request(_))));
        assert!(matches!(issue(b"no request"), Err(Error::Request(_))));
        let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert!(matches!(issue(&request(&other).unwrap()), Err(Error::RequestKey)));
        let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        assert!(matches!(issue(&request(&other).unwrap()), Err(Error::RequestKey)));
    }

    #[test]
    fn a_certificate_that_names_no_unit_or_two_is_refused() {
        let issue = |uris: &[&str]| {
            let mut params = params("x", NOW, LIFETIME_MS);
            params.subject_alt_names =
                uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
            read(params.self_signed(&pair()).unwrap().der())
        };
        assert!(issue(&["spiffe://boston.example/unit/BOS"]).is_ok());
        for uris in [
            &[][..],
            &["spiffe://boston.example/unit/BOS", "spiffe://boston.example/unit/BOS-01"],
            &["https://boston.example/unit/BOS"],
            &["spiffe://boston.example/unit/bos"],
            &["spiffe://boston.example/unit/BOS/unit/BOS-01"],
            &["spiffe:///unit/BOS"],
            &["spiffe://boston.example/x/unit/BOS"],
        ] {
            assert!(matches!(issue(uris), Err(Error::NoUnit)), "{uris:?} was accepted");
        }
        assert!(matches!(read(b"x"), Err(Error::Unreadable)));
    }
}
