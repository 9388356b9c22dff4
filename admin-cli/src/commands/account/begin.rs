//! How accounts begin: the first three, activation, passwords.

use anyhow::Context as _;
use lianxi_proto::admin::v1::{
    BeginActivationRequest, BeginSetupRequest, ChangePasswordRequest, Factor,
    FinishActivationRequest, FinishSetupRequest, FirstAdministrator,
};
use serde_json::json;

use super::Context;
use crate::{output::Output, prompt, texts::Text};

/// Arguments of `lianxi account setup`.
///
/// Three people stand at one terminal: each types a password and adds the shown line to an
/// authenticator app. Nothing is kept before all three apps have shown a code.
#[derive(Debug, clap::Args)]
pub(crate) struct Setup {
    /// Name of the system administrator's account
    #[arg(long, value_name = "NAME")]
    system: String,
    /// Name of the security administrator's account
    #[arg(long, value_name = "NAME")]
    security: String,
    /// Name of the audit administrator's account
    #[arg(long, value_name = "NAME")]
    audit: String,
}

impl Setup {
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let output = context.output();
        let client = context.anonymous().await?;
        let person = |name: &String| -> anyhow::Result<Option<FirstAdministrator>> {
            let password = prompt::new_password(output, &[name])?.to_string();
            Ok(Some(FirstAdministrator { name: name.clone(), title: name.clone(), password }))
        };
        let begin = BeginSetupRequest {
            system: person(&self.system)?,
            security: person(&self.security)?,
            audit: person(&self.audit)?,
        };
        let begun = client.accounts().begin_setup(begin).await.context("cannot set up")?;
        begun.into_inner().factors.iter().try_for_each(|factor| show(output, factor))?;
        let code = |name: &String| prompt::ask(output, Text::AskCode, &[name]);
        let finish = FinishSetupRequest {
            system_code: code(&self.system)?,
            security_code: code(&self.security)?,
            audit_code: code(&self.audit)?,
        };
        client.accounts().finish_setup(finish).await.context("cannot set up")?;
        output.note(output.text(Text::SetUpDone));
        Ok(())
    }
}

/// Shows a secret once: as a line of its own, or as a document of its own.
fn show(output: &Output, factor: &Factor) -> anyhow::Result<()> {
    if output.is_json() {
        let document = json!({ "name": factor.name, "uri": factor.uri });
        return Ok(output.document(&document)?);
    }
    output.note(output.fill(Text::Scan, &[&factor.name]));
    Ok(output.line(&factor.uri)?)
}

/// Arguments of `lianxi account activate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Activate {
    /// Name of the account; its activation code is asked for
    name: String,
}

impl Activate {
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let output = context.output();
        let client = context.anonymous().await?;
        let name = self.name;
        let activation_code = prompt::secret(output, Text::AskActivation, &[])?.to_string();
        let password = prompt::new_password(output, &[&name])?.to_string();
        let begin = BeginActivationRequest {
            name: name.clone(),
            activation_code: activation_code.clone(),
            password,
        };
        let begun = client.accounts().begin_activation(begin).await.context("cannot activate")?;
        if let Some(factor) = begun.into_inner().factor {
            show(output, &factor)?;
        }
        let code = prompt::ask(output, Text::AskCode, &[&name])?;
        let finish = FinishActivationRequest { name: name.clone(), activation_code, code };
        client.accounts().finish_activation(finish).await.context("cannot activate")?;
        output.note(output.fill(Text::Activated, &[&name, &name]));
        Ok(())
    }
}

/// Arguments of `lianxi account password`.
#[derive(Debug, clap::Args)]
pub(crate) struct Password {
    /// Name of the account
    name: String,
}

impl Password {
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let output = context.output();
        let name = self.name;
        let request = ChangePasswordRequest {
            old_password: prompt::secret(output, Text::AskPassword, &[&name])?.to_string(),
            code: prompt::ask(output, Text::AskCode, &[&name])?,
            new_password: prompt::new_password(output, &[&name])?.to_string(),
            name: name.clone(),
        };
        let client = context.anonymous().await?;
        client.accounts().change_password(request).await.context("cannot change the password")?;
        if output.is_json() {
            return Ok(output.document(&json!({ "name": name, "changed": true }))?);
        }
        output.note(output.fill(Text::PasswordChanged, &[&name]));
        Ok(())
    }
}
