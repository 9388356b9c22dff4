//! Passwords, kept as argon2id hashes alone.
//!
//! The parameters stand in each hash, so that they can grow without a password being lost. What is
//! not known as a name costs the same work as a wrong password.

use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};

/// KiB of memory that one hash needs: with two passes what OWASP's password storage guide asks of
/// argon2id at least. A host may have 512 MiB for everything.
const MEMORY_KIB: u32 = 19 * 1024;

/// Passes over that memory.
const PASSES: u32 = 2;

/// Lanes: one, because a host may have one processor.
const LANES: u32 = 1;

const SALT_BYTES: usize = 16;

/// The password could not be hashed: no memory, or no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("cannot hash a password: {0}")]
pub struct Error(String);

fn hasher() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None)
        .expect("invariant: these parameters are within argon2's limits");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// The hash of a password in the PHC format, with a new salt.
///
/// # Errors
///
/// [`Error`].
pub fn hash(password: &str) -> Result<String, Error> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|error| Error(error.to_string()))?;
    let hash = hasher().hash_password_with_salt(password.as_bytes(), &salt);
    Ok(hash.map_err(|error| Error(error.to_string()))?.to_string())
}

/// True if `password` is the one of `hash`. Without a hash the same work is done, for nothing.
pub fn verify(password: &str, hash: Option<&str>) -> bool {
    match hash {
        Some(hash) => hasher().verify_password(password.as_bytes(), hash).is_ok(),
        None => {
            let mut unused = [0; 32];
            let salt = [0; SALT_BYTES];
            let _ = hasher().hash_password_into(password.as_bytes(), &salt, &mut unused);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_verified_by_its_hash_and_no_other_is() {
        let hash = hash("lamp-otter-fern-17").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(!hash.contains("otter"));
        assert!(verify("lamp-otter-fern-17", Some(&hash)));
        assert!(!verify("lamp-otter-fern-18", Some(&hash)));
        assert!(!verify("lamp-otter-fern-17", None));
        assert!(!verify("", Some("no hash")));
    }
}
