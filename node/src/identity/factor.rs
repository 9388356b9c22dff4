//! The second factor: one-time codes by time (RFC 6238), as authenticator apps make them.
//!
//! HMAC-SHA-1, six digits, 30 s: what every app speaks. A code is good for its own step and the one
//! on either side; the step that was used is told, so that the caller can refuse it a second time.

use aws_lc_rs::hmac;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use super::keys::PeopleKey;

/// Seconds of one step.
const STEP_SECONDS: i64 = 30;

/// Steps on either side of now that are accepted, for clocks that differ.
const SKEW_STEPS: i64 = 1;

const DIGITS: usize = 6;

/// Bytes of a secret: the length of the hash (RFC 4226 §4, R6).
const SECRET_BYTES: usize = 20;

/// The secret that a person's app shares with the host.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}

impl Secret {
    /// A new secret.
    ///
    /// # Errors
    ///
    /// The system gives no random numbers.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new(vec![0; SECRET_BYTES]);
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// A secret in hex, as stores of earlier versions hold it.
    pub fn from_hex(text: &str) -> Option<Self> {
        hex::decode(text).ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// As it is stored: sealed for the person whose it is, in base64.
    pub fn seal(&self, key: &PeopleKey, name: &str) -> String {
        BASE64_STANDARD.encode(key.seal(name, &self.0))
    }

    /// What [`Self::seal`] made; `None` with another key, for another person, or if it was changed.
    pub fn open(key: &PeopleKey, name: &str, sealed: &str) -> Option<Self> {
        key.open(name, &BASE64_STANDARD.decode(sealed).ok()?).map(Self)
    }

    /// As an app takes it, from a QR code or typed in.
    pub fn to_uri(&self, host: &str, account: &str) -> String {
        let issuer: String =
            host.chars().filter(|one| one.is_ascii_alphanumeric() || "-.".contains(*one)).collect();
        format!(
            "otpauth://totp/Lianxi%20{issuer}:{account}?secret={}&issuer=Lianxi%20{issuer}\
             &algorithm=SHA1&digits={DIGITS}&period={STEP_SECONDS}",
            base32(&self.0)
        )
    }

    /// The step for which `code` is good, if it is later than `last_step`: no code counts twice.
    pub fn verify(&self, code: &str, now_unix_ms: i64, last_step: i64) -> Option<i64> {
        let now = now_unix_ms.div_euclid(1_000).div_euclid(STEP_SECONDS);
        let steps = now - SKEW_STEPS..=now + SKEW_STEPS;
        let matches = |step: &i64| {
            let expected = self.code(*step, DIGITS);
            aws_lc_rs::constant_time::verify_slices_are_equal(expected.as_bytes(), code.as_bytes())
                .is_ok()
        };
        // All steps are compared, whichever fits.
        let fitting: Vec<i64> = steps.filter(matches).collect();
        fitting.into_iter().find(|step| *step > last_step)
    }

    /// The code of a moment.
    pub fn code_at(&self, now_unix_ms: i64) -> String {
        self.code(now_unix_ms.div_euclid(1_000).div_euclid(STEP_SECONDS), DIGITS)
    }

    /// RFC 4226 §5.3 over the step's number.
    fn code(&self, step: i64, digits: usize) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0);
        let tag = hmac::sign(&key, &step.to_be_bytes());
        let tag = tag.as_ref();
        let offset = usize::from(tag[tag.len() - 1] & 0x0f);
        let word = [tag[offset] & 0x7f, tag[offset + 1], tag[offset + 2], tag[offset + 3]];
        let decimal = format!("{:010}", u32::from_be_bytes(word));
        decimal[decimal.len() - digits..].to_owned()
    }
}

/// RFC 4648 §6, without padding.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bit = |at: usize| bytes.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
    let digit =
        |start: usize| (start..start + 5).fold(0, |value, at| value << 1 | usize::from(bit(at)));
    (0..bytes.len() * 8).step_by(5).map(|start| char::from(ALPHABET[digit(start)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        Secret(Zeroizing::new(b"12345678901234567890".to_vec()))
    }

    /// RFC 6238, appendix B, the rows of SHA-1.
    #[test]
    fn the_vectors_of_the_standard_hold() {
        let vectors = [
            (59, "94287082"),
            (1_111_111_109, "07081804"),
            (1_111_111_111, "14050471"),
            (1_234_567_890, "89005924"),
            (2_000_000_000, "69279037"),
            (20_000_000_000, "65353130"),
        ];
        for (seconds, expected) in vectors {
            assert_eq!(secret().code(seconds / STEP_SECONDS, 8), expected, "{seconds}");
        }
    }

    /// RFC 4648 §10.
    #[test]
    fn secrets_are_written_as_apps_read_them() {
        for (bytes, text) in
            [("f", "MY"), ("fo", "MZXQ"), ("foo", "MZXW6"), ("foobar", "MZXW6YTBOI")]
        {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
        let uri = secret().to_uri("street 1/a", "li");
        assert!(
            uri.starts_with("otpauth://totp/Lianxi%20street1a:li?secret=GEZDGNBVGY3TQOJQ"),
            "{uri}"
        );
    }

    #[test]
    fn a_code_is_good_for_one_step_on_either_side() {
        let code = secret().code_at(1_000_000_000);
        let at = |offset_ms: i64| secret().verify(&code, 1_000_000_000 + offset_ms, 0);
        assert!(at(0).is_some() && at(-30_000).is_some() && at(30_000).is_some());
        assert!(at(-60_000).is_none() && at(61_000).is_none());
        for wrong in ["", "000000x", &code[1..]] {
            assert!(secret().verify(wrong, 1_000_000_000, 0).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn a_step_that_was_used_is_over() {
        let code = secret().code_at(1_000_000_000);
        let step = secret().verify(&code, 1_000_000_000, 0).unwrap();
        assert_eq!(secret().verify(&code, 1_000_000_000, step), None);
        assert_eq!(secret().verify(&code, 1_000_000_000, step + 1), None);
    }

    #[test]
    fn a_secret_is_not_shown_by_debug() {
        assert_eq!(format!("{:?}", secret()), "Secret");
        assert_eq!(Secret::from_hex(&hex::encode(&*secret().0)), Some(secret()));
    }
}
