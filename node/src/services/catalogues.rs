//! The catalogue in force at a unit: published by one unit, carried down to its whole subtree.

use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::{
    error::{ErrorKind, ServiceError},
    exchange::Lane,
    intake::{Arrived, Plan, Refused, Undecided},
    records::Records,
    unit::{self, Draft, Unit, Work},
};
use crate::{
    domain::{
        catalogue::{self, Catalogue, changes},
        unit::UnitCode,
    },
    statement::{
        catalogue::{CatalogueBody, decode_body, encode_body},
        header::{Statement, StatementId, kinds},
    },
    store::{self, Table, format},
};

const FORMAT: u8 = 1;
const CURRENT: &[u8] = b"current";

/// Why a catalogue was not published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The document does not hold.
    #[error("the catalogue does not hold: {0}")]
    Catalogue(#[from] catalogue::Error),
    /// A version that is not higher.
    #[error("version {published} is in force; publish a higher one than that, not {offered}")]
    Version {
        /// In force.
        published: u64,
        /// Offered.
        offered: u64,
    },
    /// Something in it may not follow what is in force.
    #[error("{place}: {reason}")]
    MayNotFollow {
        /// Where.
        place: String,
        /// Why, and the remedy.
        reason: &'static str,
    },
    /// The statement could not be made.
    #[error("cannot publish")]
    Unit(#[from] unit::Error),
    /// The store failed.
    #[error("cannot store the catalogue")]
    Store(#[from] store::Error),
    /// The figures could not be brought up to date.
    #[error("cannot bring the figures up to date: {0}")]
    Backfill(String),
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Catalogue(_) => ErrorKind::InvalidArgument,
            Self::Version { .. } | Self::MayNotFollow { .. } => ErrorKind::FailedPrecondition,
            Self::Unit(unit::Error::TooLarge(_)) => ErrorKind::InvalidArgument,
            Self::Unit(_) | Self::Backfill(_) => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Current {
    name: String,
    version: u64,
    source: UnitCode,
    statement_id: StatementIdText,
}

/// A statement id as stored text.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
struct StatementIdText(StatementId);

impl From<StatementIdText> for String {
    fn from(id: StatementIdText) -> Self {
        id.0.to_string()
    }
}

impl TryFrom<String> for StatementIdText {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        text.parse().map(Self).map_err(|_| "no statement id")
    }
}

/// What is in force.
#[derive(Clone, Debug)]
pub struct InForce {
    /// The catalogue.
    pub catalogue: Arc<Catalogue>,
    /// Unit that published it.
    pub source: UnitCode,
    /// Its statement.
    pub statement_id: StatementId,
    /// Its document as it was published.
    pub document: Arc<[u8]>,
}

/// What became of a publication.
#[derive(Clone, Debug)]
pub struct Published {
    /// Name.
    pub name: String,
    /// Version.
    pub version: u64,
    /// Direct children that it is on its way to.
    pub children: usize,
    /// Statement; `None` for a dry run.
    pub statement_id: Option<StatementId>,
}

/// Catalogues of one unit.
#[derive(Debug)]
pub struct Catalogues {
    unit: Arc<Unit>,
    records: Arc<Records>,
    in_force: Arc<RwLock<Option<InForce>>>,
}

impl Catalogues {
    /// Loads what is in force.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn open(unit: Arc<Unit>, records: Arc<Records>) -> Result<Self, Error> {
        let mut in_force = None;
        if let Some(row) = unit.store.get(&unit.code, Table::Catalogues, CURRENT).await? {
            let current: Current = format::read(FORMAT, &row)?;
            let id = current.statement_id.0;
            let envelope = unit.statement(id).await?.ok_or_else(|| {
                store::Error::Engine("the statement of the catalogue in force is missing".into())
            })?;
            let statement = crate::statement::header::decode(&envelope.payload)
                .map_err(|error| store::Error::Engine(error.to_string()))?;
            let body = decode_body(&statement.body)
                .map_err(|error| store::Error::Engine(error.to_string()))?;
            in_force = Some(InForce {
                catalogue: Arc::new(Catalogue::parse(&body.document)?),
                source: current.source,
                statement_id: id,
                document: body.document.into(),
            });
        }
        Ok(Self { unit, records, in_force: Arc::new(RwLock::new(in_force)) })
    }

    /// The catalogue in force.
    pub fn in_force(&self) -> Option<InForce> {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `name@version` of the catalogue in force, or empty.
    pub fn label(&self) -> String {
        self.in_force().map(|in_force| in_force.catalogue.label()).unwrap_or_default()
    }

    /// Reads a catalogue that is to be published here.
    ///
    /// # Errors
    ///
    /// A document that does not hold, or a version that is not higher than the one in force.
    pub(super) fn check(&self, document: &[u8]) -> Result<Catalogue, Error> {
        let catalogue = Catalogue::parse(document)?;
        if let Some(in_force) = self.in_force() {
            let published = in_force.catalogue.version;
            if in_force.catalogue.name == catalogue.name && published >= catalogue.version {
                return Err(Error::Version { published, offered: catalogue.version });
            }
            may_follow(&in_force.catalogue, &catalogue)?;
        }
        Ok(catalogue)
    }

    /// Signs a catalogue and sends it to the whole subtree.
    ///
    /// # Errors
    ///
    /// A document that does not hold, a version that is not higher, or the store's.
    pub async fn publish(&self, document: &[u8], dry_run: bool) -> Result<Published, Error> {
        let catalogue = Arc::new(self.check(document)?);
        let children = children(&self.unit);
        let mut published = Published {
            name: catalogue.name.clone(),
            version: catalogue.version,
            children: children.len(),
            statement_id: None,
        };
        if dry_run {
            return Ok(published);
        }
        let body = CatalogueBody {
            name: catalogue.name.clone(),
            version: catalogue.version,
            document: document.to_vec(),
            active_from_unix_ms: 0,
        };
        let mut draft = Draft::new(kinds::CATALOGUE, catalogue.label(), encode_body(&body));
        draft.dataschema = catalogue.label();
        let mut work = self.unit.begin().await;
        let signed = work.sign(&draft)?;
        work.enqueue_all(&children, Lane::Catalogue, signed.id);
        let (table, key, value) = current_row(&catalogue, &self.unit.code, signed.id);
        work.batch.put(table, key, value);
        work.commit().await?;
        published.statement_id = Some(signed.id);
        self.apply(catalogue, self.unit.code.clone(), signed.id, document.into()).await?;
        tell_newcomers(&self.unit, &children, signed.id).await?;
        Ok(published)
    }

    async fn apply(
        &self,
        catalogue: Arc<Catalogue>,
        source: UnitCode,
        statement_id: StatementId,
        document: Arc<[u8]>,
    ) -> Result<(), Error> {
        let backfill = self.records.backfill(&catalogue).await;
        backfill.map_err(|error| Error::Backfill(error.to_string()))?;
        set(&self.in_force, InForce { catalogue, source, statement_id, document });
        Ok(())
    }

    /// Plans what a catalogue from above does: it comes into force and goes on to all children.
    ///
    /// # Errors
    ///
    /// [`Undecided::Refused`] for one that does not hold here.
    pub fn take(&self, arrived: &Arrived) -> Result<Plan, Undecided> {
        if arrived.from_child {
            let detail = "a catalogue comes from above";
            return Err(Refused::new("wrong-source", "header.source", detail).into());
        }
        let body = decode_body(&arrived.statement.body)?;
        let catalogue = Catalogue::parse(&body.document)
            .map_err(|error| Refused::new("malformed", "body.document", error.to_string()))?;
        if catalogue.name != body.name || catalogue.version != body.version {
            let detail = "name and version differ from the document's";
            return Err(Refused::new("malformed", "body.version", detail).into());
        }
        let mut plan = Plan::default();
        if let Some(in_force) = self.in_force() {
            let same_name = in_force.catalogue.name == catalogue.name;
            if same_name && in_force.catalogue.version >= catalogue.version {
                return Ok(plan);
            }
        }
        let (source, id) = (arrived.source().clone(), arrived.id());
        plan.writes.push(current_row(&catalogue, &source, id));
        plan.relay = children(&self.unit);
        plan.settled = Some(self.enforce(catalogue, body, (source, id), plan.relay.clone()));
        Ok(plan)
    }

    /// Puts an own catalogue that came back after a restore into force again, unless a later one is,
    /// and sends it to all; returns what is to be done once that is durable.
    pub(super) fn replay(
        &self,
        work: &mut Work,
        statement: &Statement,
    ) -> Option<Box<dyn FnOnce() + Send>> {
        let body = decode_body(&statement.body).ok()?;
        let catalogue = Catalogue::parse(&body.document).ok()?;
        if self.in_force().is_some_and(|it| {
            it.catalogue.name == catalogue.name && it.catalogue.version >= catalogue.version
        }) {
            return None;
        }
        let (source, id) = (self.unit.code.clone(), statement.header.id);
        let (table, key, value) = current_row(&catalogue, &source, id);
        work.batch.put(table, key, value);
        let children = children(&self.unit);
        work.enqueue_all(&children, Lane::Catalogue, id);
        Some(self.enforce(catalogue, body, (source, id), children))
    }

    /// What is done once a catalogue is durable: it comes into force. `told`: children that get it.
    fn enforce(
        &self,
        catalogue: Catalogue,
        body: CatalogueBody,
        (source, id): (UnitCode, StatementId),
        told: Vec<UnitCode>,
    ) -> Box<dyn FnOnce() + Send> {
        let in_force = Arc::clone(&self.in_force);
        let records = Arc::clone(&self.records);
        let unit = Arc::clone(&self.unit);
        Box::new(move || {
            let catalogue = Arc::new(catalogue);
            tokio::spawn(async move {
                let code = &unit.code;
                if let Err(error) = records.backfill(&catalogue).await {
                    tracing::error!(unit = %code, %error, "figures are not up to date with the catalogue");
                }
                tracing::info!(unit = %code, catalogue = %catalogue.label(), "catalogue in force");
                let document = body.document.into();
                set(&in_force, InForce { catalogue, source, statement_id: id, document });
                if let Err(error) = tell_newcomers(&unit, &told, id).await {
                    tracing::error!(unit = %code, %error, "catalogue not sent to new children");
                }
            });
        })
    }

    /// Sends the catalogue in force to a child that does not have it, unless it is on its way.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn offer(&self, child: &UnitCode, theirs: &str) -> Result<(), store::Error> {
        let Some(in_force) = self.in_force() else { return Ok(()) };
        if in_force.catalogue.label() == theirs
            || self.unit.is_waiting(child, Lane::Catalogue).await?
        {
            return Ok(());
        }
        let mut work = self.unit.begin().await;
        work.enqueue(child, Lane::Catalogue, in_force.statement_id);
        work.commit().await
    }
}

/// A figure means one thing under one version of its indicator (P6): across names of catalogues too,
/// because cells carry the indicator alone.
fn may_follow(before: &Catalogue, after: &Catalogue) -> Result<(), Error> {
    let refused = changes::between(before, after).into_iter().find_map(|change| {
        let reason = change.effect.refusal()?;
        Some(Error::MayNotFollow { place: change.place, reason })
    });
    refused.map_or(Ok(()), Err)
}

/// Sends a catalogue that has just come into force to the children that joined since `told` were
/// listed: at their hello it was not in force yet, so nobody else sends it to them.
async fn tell_newcomers(
    unit: &Arc<Unit>,
    told: &[UnitCode],
    id: StatementId,
) -> Result<(), store::Error> {
    for child in children(unit).into_iter().filter(|child| !told.contains(child)) {
        let mut work = unit.begin().await;
        work.enqueue(&child, Lane::Catalogue, id);
        work.commit().await?;
    }
    Ok(())
}

fn set(in_force: &RwLock<Option<InForce>>, new: InForce) {
    let mut in_force = in_force.write().unwrap_or_else(PoisonError::into_inner);
    // Two versions can settle in either order.
    let older = in_force.as_ref().is_some_and(|old| {
        old.catalogue.name == new.catalogue.name && old.catalogue.version > new.catalogue.version
    });
    if !older {
        *in_force = Some(new);
    }
}

fn current_row(
    catalogue: &Catalogue,
    source: &UnitCode,
    id: StatementId,
) -> (Table, Vec<u8>, Vec<u8>) {
    let current = Current {
        name: catalogue.name.clone(),
        version: catalogue.version,
        source: source.clone(),
        statement_id: StatementIdText(id),
    };
    (Table::Catalogues, CURRENT.to_vec(), format::write(FORMAT, &current))
}

fn children(unit: &Unit) -> Vec<UnitCode> {
    unit.trust().children(&unit.code).into_iter().cloned().collect()
}
