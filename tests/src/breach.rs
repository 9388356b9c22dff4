//! A unit in hostile hands inside a real federation, and all that must come of what it sends.

use lianxi_node::{
    clock::{Clock as _, SystemClock},
    domain::{
        component::{Component, MeasureKind},
        period::Period,
        summary::{Coverage, FigureKey, FigureSet, Figures, Summary, SummaryKind},
    },
    statement::{
        Envelope, SaltedCell,
        header::{Header, kinds},
        rejection,
        summary::{encode_body, seal},
    },
};
use lianxi_proto::{
    admin::v1::{QuarantineRequest, QuarantinedStatement, StatusRequest, UnitStatus},
    envelope,
    link::v1::Lane,
    local::v1::{ShowSummaryRequest, UnitFigures},
    types::v1::Scope,
};
use tonic::Status;

use crate::{
    federation::{Federation, count},
    hostile::{Hostile, HostileLink},
    log,
};

/// Period of all figures here.
pub const PERIOD: &str = "2011-07";

/// One day.
pub const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// A federation in which one unit is in hostile hands and linked to its parent.
pub struct Breach {
    /// The federation.
    pub federation: Federation,
    /// Parent of the hostile unit.
    pub parent: String,
    /// The hostile unit.
    pub culprit: Hostile,
    /// Its link to the parent.
    pub link: HostileLink,
    /// Version of its last good summary.
    pub version: u64,
}

impl Breach {
    /// Takes over `unit`, whose host stops.
    pub async fn of(unit: &str) -> Self {
        log::capture();
        let mut federation = Federation::four_levels().await;
        federation.stop(unit).await;
        let culprit = Hostile::take_over(&federation.directory(unit), unit).await;
        let parent = culprit.identity.parent.as_ref().unwrap().unit.to_string();
        let link = culprit.link().await;
        Self { federation, parent, culprit, link, version: 0 }
    }

    /// Takes over another unit, whose host stops.
    pub async fn accomplice(&mut self, unit: &str) -> Hostile {
        self.federation.stop(unit).await;
        Hostile::take_over(&self.federation.directory(unit), unit).await
    }

    /// Keys of another unit on the culprit's own host.
    pub async fn hosted(&self, unit: &str) -> Hostile {
        Hostile::take_over(&self.federation.directory(unit), unit).await
    }

    /// Sends what is to be refused, and looks at all that must come of it.
    pub async fn is_refused(
        &mut self,
        attack: &str,
        lane: Lane,
        (envelope, cells): (Envelope, Vec<SaltedCell>),
        (reason, field): (&str, &str),
    ) {
        let digest = envelope::payload_sha256(&envelope);
        let lane_seq = self.link.deliver(lane, envelope, cells).await;
        self.link.acknowledged(lane, lane_seq).await;

        let trust = &self.culprit.trust;
        let (source, rejection) = self
            .link
            .statement(|envelope| {
                let opened = trust.open(envelope, SystemClock.now_unix_ms()).ok()?;
                let header = opened.statement.header;
                let rejection = rejection::decode_body(&opened.statement.body).ok();
                let rejection = rejection.filter(|_| header.kind == kinds::REJECTION)?;
                (rejection.payload_sha256 == digest).then_some((header.source, rejection))
            })
            .await;
        assert_eq!(source.as_str(), self.parent, "{attack}");
        let told = (rejection.reason.as_str(), rejection.field.as_str());
        assert_eq!(told, (reason, field), "{attack}: {}", rejection.detail);

        let shown = self.quarantined(&digest).await;
        let shown = shown.unwrap_or_else(|| panic!("{attack}: the operator sees nothing"));
        assert!(shown.refused_here, "{attack}");
        assert_eq!((shown.reason.as_str(), shown.field.as_str()), (reason, field), "{attack}");
        assert_eq!(shown.peer, self.culprit.unit().as_str(), "{attack}");
        assert!(!shown.detail.is_empty(), "{attack}");

        let parts = ["statement refused", &hex::encode(digest), &format!("reason={reason:?}")];
        assert!(log::find(&parts).is_some(), "{attack}: no line in the log");
    }

    /// The refused statement of that digest, as the parent's operator sees it.
    pub async fn quarantined(&self, digest: &[u8]) -> Option<QuarantinedStatement> {
        let request =
            QuarantineRequest { unit: self.parent.clone(), ..QuarantineRequest::default() };
        let mut node = self.federation.client(&self.parent).node();
        let listed = node.quarantine(request).await.unwrap().into_inner().statements;
        listed.into_iter().find(|statement| statement.payload_sha256 == digest)
    }

    /// A good summary of the culprit is still taken, on the same link.
    pub async fn goes_on(&mut self) {
        self.version += 1;
        let received = 100 + self.version;
        let (summary, cells) = summary(self.culprit.unit().as_str(), received, self.version);
        let header = self.culprit.header(kinds::SUMMARY);
        let envelope = self.culprit.sign(&header, &encode_body(&summary));
        let lane_seq = self.link.deliver(Lane::Summary, envelope, cells).await;
        self.link.acknowledged(Lane::Summary, lane_seq).await;
        let unit = self.culprit.unit().to_string();
        let held = report(&self.federation, &self.parent, &unit).await.unwrap();
        assert_eq!(count(&held, "received", Scope::Subtree), received);
    }

    /// A summary of the culprit with a header that the caller changes.
    pub fn summary(&self, change: impl FnOnce(&mut Header)) -> (Envelope, Vec<SaltedCell>) {
        let (summary, cells) = summary(self.culprit.unit().as_str(), 9_999, 9_999);
        let mut header = self.culprit.header(kinds::SUMMARY);
        change(&mut header);
        (self.culprit.sign(&header, &encode_body(&summary)), cells)
    }
}

/// Everything that the kit's catalogue declares, zero but for `component`.
pub fn figures(component: Component, group: &str) -> FigureSet {
    let key = |indicator: &str, group: &str| FigureKey {
        indicator: indicator.into(),
        version: 1,
        group: group.into(),
    };
    let mut figures = Figures::from([
        (key("closed", ""), Component::zero(MeasureKind::Count)),
        (key("close_seconds", ""), Component::zero(MeasureKind::Sum)),
        (key("types", ""), Component::zero(MeasureKind::Distinct)),
    ]);
    figures.insert(key("received", group), component);
    FigureSet { own: figures.clone(), subtree: figures }
}

/// A summary of `unit` with these figures, and its cells.
pub fn summary_of(unit: &str, figures: &FigureSet, version: u64) -> (Summary, Vec<SaltedCell>) {
    let sealed = seal(figures).unwrap();
    let summary = Summary {
        unit: unit.parse().unwrap(),
        period: PERIOD.parse::<Period>().unwrap(),
        kind: SummaryKind::Reported,
        version,
        supersedes: None,
        cells_root: sealed.root,
        cells_count: u32::try_from(sealed.cells.len()).unwrap(),
        coverage: Coverage { expected: 1, included: 1, ..Coverage::default() },
        as_of_unix_ms: SystemClock.now_unix_ms(),
    };
    (summary, sealed.cells)
}

/// A summary of `unit` that says how many were received.
pub fn summary(unit: &str, received: u64, version: u64) -> (Summary, Vec<SaltedCell>) {
    summary_of(unit, &figures(Component::Count(received), ""), version)
}

/// A summary that the unit itself makes and signs.
pub fn own_summary(unit: &Hostile, received: u64) -> (Envelope, Vec<SaltedCell>) {
    let (summary, cells) = summary(unit.unit().as_str(), received, 1);
    (unit.sign(&unit.header(kinds::SUMMARY), &encode_body(&summary)), cells)
}

/// What `unit` holds as the report of `of`.
pub async fn report(federation: &Federation, unit: &str, of: &str) -> Result<UnitFigures, Status> {
    let request = ShowSummaryRequest { unit: unit.into(), of: of.into(), period: PERIOD.into() };
    Ok(federation.client(unit).summaries().show(request).await?.into_inner())
}

/// State of `unit`, as its operator sees it.
pub async fn status(federation: &Federation, unit: &str) -> UnitStatus {
    let mut node = federation.client(unit).node();
    let units = node.status(StatusRequest {}).await.unwrap().into_inner().units;
    units.into_iter().find(|status| status.unit == unit).unwrap()
}
