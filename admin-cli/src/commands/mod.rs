//! The commands, one file per noun.

pub(crate) mod account;
pub(crate) mod approval;
pub(crate) mod catalogue;
pub(crate) mod courier;
pub(crate) mod desk;
pub(crate) mod escalation;
pub(crate) mod generate;
pub(crate) mod import;
pub(crate) mod journal;
pub(crate) mod node;
pub(crate) mod notice;
mod opens;
pub(crate) mod pack;
pub(crate) mod quarantine;
pub(crate) mod record;
pub(crate) mod revocations;
pub(crate) mod root;
pub(crate) mod store;
pub(crate) mod summary;
pub(crate) mod unit;
pub(crate) mod verify;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use lianxi_node::domain::unit::UnitCode;
use lianxi_proto::admin::v1::{StatusRequest, StatusResponse, UnitStatus};

use crate::{
    client::{Bearer, Client, socket_path},
    failure::Failure,
    output::Output,
    session,
};

/// Where a command runs and how it prints.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    dir: PathBuf,
    socket: Option<PathBuf>,
    token_file: Option<PathBuf>,
    output: &'a Output,
}

impl<'a> Context<'a> {
    /// For the host in `dir`.
    pub(crate) fn new(dir: PathBuf, output: &'a Output) -> Self {
        Self { dir, socket: None, token_file: None, output }
    }

    /// At a socket that the directory's configuration need not name, with the token of a system.
    pub(crate) fn through(self, socket: Option<PathBuf>, token_file: Option<PathBuf>) -> Self {
        Self { socket, token_file, ..self }
    }

    /// Path of the node's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| socket_path(&self.dir))
    }

    /// Directory of the host.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where to print.
    pub(crate) fn output(&self) -> &'a Output {
        self.output
    }

    /// The node that runs in the directory.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        let socket = self.socket();
        let token = match &self.token_file {
            Some(file) => Some(session::read(file)?),
            None => session::current(&socket)?,
        };
        let bearer = Bearer::new(token.as_ref().map(|token| token.as_str()));
        Client::connect_to(socket, &self.dir, bearer).await
    }

    /// The node, without credentials: for logging in.
    pub(crate) async fn anonymous(&self) -> Result<Client, Failure> {
        Client::connect_to(self.socket(), &self.dir, Bearer::default()).await
    }

    /// The unit that a command is for: the one named, else the one that the host is for.
    pub(crate) async fn unit(
        &self,
        client: &Client,
        named: Option<UnitCode>,
    ) -> anyhow::Result<String> {
        match named {
            Some(unit) => Ok(unit.to_string()),
            None => main_unit(&status(client).await?),
        }
    }
}

/// Asks the host for its state.
pub(crate) async fn status(client: &Client) -> anyhow::Result<StatusResponse> {
    let answer = client.node().status(StatusRequest {}).await;
    Ok(answer.context("cannot ask for the state of the node")?.into_inner())
}

/// The unit that a host is for: the only one, or the only one at the highest level.
fn main_unit(status: &StatusResponse) -> anyhow::Result<String> {
    let highest = status.units.iter().map(|unit| unit.level).min();
    let heads: Vec<&UnitStatus> =
        status.units.iter().filter(|unit| Some(unit.level) == highest).collect();
    match heads.as_slice() {
        [] => Err(Failure::NotFound("the node serves no unit yet".to_owned()).into()),
        [head] => Ok(head.unit.clone()),
        [..] => {
            let codes: Vec<&str> = heads.iter().map(|unit| unit.unit.as_str()).collect();
            let text = format!("the node serves {}: name one with --unit", codes.join(", "));
            Err(Failure::Usage(text).into())
        }
    }
}

/// The id of the one thing that carries the number.
fn by_number<'a>(
    number: &str,
    known: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> anyhow::Result<Vec<u8>> {
    let found: Vec<&[u8]> = known.filter(|entry| entry.0 == number).map(|entry| entry.1).collect();
    match found.as_slice() {
        [] => Err(Failure::NotFound(format!("nothing has the id or number {number:?}")).into()),
        [id] => Ok(id.to_vec()),
        [..] => {
            let ids: Vec<String> = found.iter().map(|id| crate::values::id(id)).collect();
            let text = format!("{number:?} is the number of {}: name one id", ids.join(", "));
            Err(Failure::Usage(text).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(units: &[(&str, i32)]) -> StatusResponse {
        let units = units.iter().map(|(unit, level)| UnitStatus {
            unit: (*unit).to_owned(),
            level: *level,
            ..UnitStatus::default()
        });
        StatusResponse { units: units.collect(), ..StatusResponse::default() }
    }

    #[test]
    fn a_street_stands_for_the_host_of_its_communities() {
        assert_eq!(main_unit(&host(&[("C1", 4), ("S", 3), ("C2", 4)])).unwrap(), "S");
    }

    #[test]
    fn two_heads_have_to_be_told_apart() {
        let error = main_unit(&host(&[("S1", 3), ("S2", 3), ("C", 4)])).unwrap_err();
        assert_eq!(error.to_string(), "the node serves S1, S2: name one with --unit");
        assert!(main_unit(&host(&[])).is_err());
    }

    #[test]
    fn a_number_stands_for_one_thing_or_for_none() {
        let known: [(&str, &[u8]); 3] = [("17号", &[1]), ("18号", &[2]), ("18号", &[3])];
        assert_eq!(by_number("17号", known.into_iter()).unwrap(), [1]);
        assert!(by_number("19号", known.into_iter()).is_err());
        let error = by_number("18号", known.into_iter()).unwrap_err().to_string();
        assert!(error.contains("02, 03"), "{error}");
    }
}
