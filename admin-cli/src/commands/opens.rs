//! What opens the keys and the store of a host that does not run.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use lianxi_node::{
    config::HostConfig,
    domain::protection::Cipher,
    identity::keys::{Lock, Method, Secret},
    node::{self, Sealing},
    process,
    process::secret,
};

use super::Context;
use crate::texts::Text;

/// Name of the configuration in a host's directory.
const CONFIG: &str = "node.toml";

/// What opens the keys; without either, the passphrase is asked for at the terminal.
#[derive(Debug, clap::Args)]
pub(crate) struct Opens {
    /// File descriptor from which the passphrase is read
    #[arg(long, value_name = "N")]
    passphrase_fd: Option<u32>,
    /// File of at least 32 random bytes that is the service's credential `lianxi-key`
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_fd")]
    credential: Option<PathBuf>,
}

impl Opens {
    /// What opens them.
    pub(crate) fn secret(&self, context: &Context<'_>) -> anyhow::Result<Secret> {
        Ok(match &self.credential {
            Some(path) => secret::from_file(path)?,
            None => {
                let prompt = context.output().text(Text::Passphrase);
                secret::passphrase(self.passphrase_fd, prompt)?
            }
        })
    }

    /// What opens them; `None`: they are in clear, and nobody is asked.
    pub(crate) fn secret_if_sealed(&self, context: &Context<'_>) -> anyhow::Result<Option<Secret>> {
        let keys = HostConfig::load(&config_file(context)?)?.keys_dir();
        match (Lock::method(&keys)?, &self.credential) {
            (Method::None, _) => Ok(None),
            (Method::Credential, None) => Ok(Some(secret::for_start(Method::Credential, None)?)),
            (Method::Passphrase | Method::Credential, _) => self.secret(context).map(Some),
        }
    }

    /// What is to open them, typed twice.
    pub(crate) fn new_secret(&self, context: &Context<'_>) -> anyhow::Result<Secret> {
        Ok(match &self.credential {
            Some(path) => secret::from_file(path)?,
            None => new_passphrase(self.passphrase_fd, context)?,
        })
    }
}

/// The host's configuration: nobody is asked for a passphrase where there is no host.
pub(crate) fn config_file(context: &Context<'_>) -> anyhow::Result<PathBuf> {
    let config = context.dir().join(CONFIG);
    HostConfig::load(&config)?;
    Ok(config)
}

/// A new passphrase, typed twice.
pub(crate) fn new_passphrase(fd: Option<u32>, context: &Context<'_>) -> anyhow::Result<Secret> {
    let prompts = [Text::NewPassphrase, Text::PassphraseAgain];
    Ok(secret::new_passphrase(fd, prompts.map(|prompt| context.output().text(prompt)))?)
}

/// Whether a new host is sealed from its first byte on.
#[derive(Debug, clap::Args)]
pub(crate) struct Sealed {
    /// Encrypt the store of the new host: aes-256-gcm, or sm4-gcm (GB/T 32907); its keys are sealed with
    /// the passphrase or credential
    #[arg(long, value_name = "CIPHER", value_parser = cipher)]
    encrypt: Option<Cipher>,
    /// File descriptor from which the passphrase of a sealed host is read
    #[arg(long, value_name = "N", requires = "encrypt")]
    passphrase_fd: Option<u32>,
    /// File of at least 32 random bytes that is the service's credential `lianxi-key`
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_fd", requires = "encrypt")]
    credential: Option<PathBuf>,
}

impl Sealed {
    /// How the host is sealed; asks for a passphrase, twice, if that is what opens it.
    pub(crate) fn sealing(self, context: &Context<'_>) -> anyhow::Result<Option<Sealing>> {
        let Some(cipher) = self.encrypt else { return Ok(None) };
        let opens = Opens { passphrase_fd: self.passphrase_fd, credential: self.credential };
        let secret = Arc::new(opens.new_secret(context)?);
        Ok(Some(Sealing { secret, cipher }))
    }
}

/// The name of a cipher.
pub(crate) fn cipher(name: &str) -> Result<Cipher, &'static str> {
    let cipher = Cipher::named(name).filter(|cipher| *cipher != Cipher::None);
    cipher.ok_or("write aes-256-gcm or sm4-gcm")
}

/// What opens the store where it is encrypted; where it is not, nobody is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct OpensStore {
    /// File descriptor from which the passphrase of an encrypted store is read
    #[arg(long, value_name = "N")]
    passphrase_fd: Option<u32>,
}

impl OpensStore {
    /// Opens it.
    pub(crate) fn lock(&self, config_file: &Path) -> anyhow::Result<Lock> {
        let fd = self.passphrase_fd;
        let ask = |method| Ok::<_, process::Error>(secret::for_start(method, fd)?);
        Ok(node::lock_of_store(config_file, ask)?)
    }
}
