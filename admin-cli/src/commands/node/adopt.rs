//! `lianxi node adopt`: a root with its tree comes below a unit of another tree. One command on each
//! side: the offer above, its acceptance at the root.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use lianxi_node::{
    domain::unit::{Level, UnitCode},
    identity::custody::Signed,
    verify::RootKey,
};
use lianxi_proto::admin::v1::{AdoptRequest, InviteRequest, InviteResponse};
use prost::Message as _;
use serde_json::json;

use super::{super::Context, join::token_of};
use crate::{commands::root, failure::Failure, texts::Text, values, values::Span, words};

/// Arguments of `lianxi node adopt`.
///
/// Above, with the code of the root that is to come, its level, title and root key: prints a token,
/// which is the offer. At the root, with --token: accepts it; everything below comes along.
#[derive(Debug, clap::Args)]
pub(crate) struct Adopt {
    /// Code of the root that is to come below
    #[arg(required_unless_present = "token")]
    child: Option<UnitCode>,
    /// Its level: district, street or community
    #[arg(long, required_unless_present = "token")]
    level: Option<Level>,
    /// What people call it
    #[arg(long, required_unless_present = "token")]
    title: Option<String>,
    /// Its root key: the fingerprint, or the file of `lianxi pack root`
    #[arg(long, value_name = "FINGERPRINT|FILE", required_unless_present = "token")]
    root: Option<String>,
    /// How long the offer can be accepted, e.g. 72h
    #[arg(long, value_name = "TIME", default_value = "72h")]
    valid_for: Span,
    /// Accept this offer, or the one on standard input with `-`
    #[arg(long, conflicts_with_all = ["child", "level", "title", "root"])]
    token: Option<String>,
    /// What `lianxi root sign` wrote, if the root key is not on this host
    #[arg(long, value_name = "FILE", requires = "token")]
    signed: Option<PathBuf>,
    /// Unit of this host: the one above, or the root [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Check, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Adopt {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let (output, dry_run) = (context.output(), self.dry_run);
        if let Some(token) = self.token {
            let signed = self.signed.as_deref().map(signed).transpose()?.unwrap_or_default();
            let request =
                AdoptRequest { unit: unit.clone(), token: token_of(token)?, signed, dry_run };
            let answer = client.node().adopt(request).await.context("cannot accept the offer")?;
            let adopted = answer.into_inner();
            if output.is_json() {
                return Ok(output.document(&json!({
                    "unit": unit,
                    "parent": adopted.parent,
                    "clock_skew_ms": adopted.clock_skew_ms,
                    "delegation_ends_unix_ms": adopted.delegation_ends_unix_ms,
                    "dry_run": dry_run,
                }))?);
            }
            let text = if dry_run { Text::AdoptionWouldWork } else { Text::Adopted };
            output.note(output.fill(text, &[&unit, &adopted.parent]));
            return Ok(());
        }
        let (Some(child), Some(level), Some(title), Some(root)) =
            (self.child, self.level, self.title, self.root)
        else {
            let text = "name the root, its --level, --title and --root";
            return Err(Failure::Usage(text.into()).into());
        };
        let request = InviteRequest {
            unit,
            child: child.to_string(),
            child_level: words::wire_level(level),
            child_title: title,
            valid_for_ms: self.valid_for.as_ms(),
            dry_run,
            root_key: fingerprint(&root)?,
        };
        let answer = client.node().invite(request).await.context("cannot offer that")?;
        let InviteResponse { token, expires_unix_ms } = answer.into_inner();
        if output.is_json() {
            return Ok(output.document(&json!({
                "unit": child.as_str(),
                "token": if dry_run { None } else { Some(token) },
                "expires_unix_ms": expires_unix_ms,
                "dry_run": dry_run,
            }))?);
        }
        if dry_run {
            output.note(output.fill(Text::OfferWouldWork, &[&child]));
            return Ok(());
        }
        output.line(token)?;
        output.note(output.fill(Text::OfferHint, &[&child, &values::time(expires_unix_ms)]));
        Ok(())
    }
}

/// The fingerprint itself, or that of a file with the root key.
fn fingerprint(given: &str) -> anyhow::Result<String> {
    if given.len() == 40 && given.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(given.to_ascii_lowercase());
    }
    let key: RootKey = root::read(Path::new(given))?.parse().with_context(|| given.to_owned())?;
    Ok(key.fingerprint().to_owned())
}

fn signed(path: &Path) -> anyhow::Result<Vec<u8>> {
    let signed: Signed = root::read(path)?.parse()?;
    Ok(signed.0.encode_to_vec())
}
