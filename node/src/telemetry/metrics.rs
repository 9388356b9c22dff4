//! Every metric: its name, unit and labels stand here and nowhere else.
//!
//! Names are `lianxi.<area>.<thing>`, units are UCUM. Labels are fixed words: never a unit's code,
//! a record's key or anything that a peer could choose. `docs/telemetry.md` lists them for
//! operators; a test holds the two together.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Histogram, Meter, MeterProvider as _, UpDownCounter},
};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use crate::{
    clock::{Clock, SystemClock, UnixMillis},
    domain::unit::UnitCode,
};

/// Statements given to a peer, by lane.
pub const STATEMENT_SENT: &str = "lianxi.statement.sent";
/// Statements taken in from a peer, by kind.
pub const STATEMENT_RECEIVED: &str = "lianxi.statement.received";
/// Statements refused, by reason.
pub const STATEMENT_QUARANTINED: &str = "lianxi.statement.quarantined";
/// Journals that do not go on from what was seen of them, by breach.
pub const JOURNAL_ALARMS: &str = "lianxi.journal.alarms";
/// Statements that wait in the outboxes.
pub const OUTBOX_DEPTH: &str = "lianxi.outbox.depth";
/// Links that are up, by side.
pub const LINK_UP: &str = "lianxi.link.up";
/// Handshakes of callers, by how they ended.
pub const LINK_HANDSHAKES: &str = "lianxi.link.handshakes";
/// Connections that were turned away before the handshake, because too many came at once.
pub const LINK_TURNED_AWAY: &str = "lianxi.link.turned_away";
/// This host's clock minus a peer's, at the newest hello.
pub const LINK_CLOCK_SKEW: &str = "lianxi.link.clock_skew";
/// Rows of imports, by outcome.
pub const RECORD_IMPORTED: &str = "lianxi.record.imported";
/// Batches that are durable.
pub const STORE_COMMITS: &str = "lianxi.store.commits";
/// Time of one group commit with its barrier.
pub const STORE_COMMIT_DURATION: &str = "lianxi.store.commit.duration";
/// Values of an encrypted store that do not open, by table.
pub const STORE_TAMPERED: &str = "lianxi.store.tampered";
/// Live pulls, by outcome.
pub const SUMMARY_PULLS: &str = "lianxi.summary.pulls";
/// Time of a live pull.
pub const SUMMARY_PULL_DURATION: &str = "lianxi.summary.pull.duration";
/// Hosted units that were rolled back and stand still.
pub const UNIT_ROLLED_BACK: &str = "lianxi.unit.rolled_back";
/// Time left of the certificate that ends first.
pub const CERTIFICATE_REMAINING: &str = "lianxi.certificate.remaining";

/// Time left of the delegation that ends first.
pub const DELEGATION_REMAINING: &str = "lianxi.delegation.remaining";
/// Direct children that were revoked and have not come back.
pub const REVOKED_CHILDREN: &str = "lianxi.unit.revoked_children";

/// Upper bounds of the buckets of a group commit, seconds.
const COMMIT_BUCKETS: [f64; 8] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0];

/// Upper bounds of the buckets of a pull, seconds.
const PULL_BUCKETS: [f64; 8] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0];

/// Kinds of statements that are counted under their own name.
const KINDS: [&str; 9] = [
    "lianxi.catalogue.v1",
    "lianxi.delegation.v1",
    "lianxi.escalation.v1",
    "lianxi.escalation-event.v1",
    "lianxi.key-grant.v1",
    "lianxi.notice.v1",
    "lianxi.receipt.v1",
    "lianxi.rejection.v1",
    "lianxi.summary.v1",
];

/// End of a link that this host is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// This host's unit is the child.
    Child,
    /// This host's unit is the parent.
    Parent,
}

/// What became of a row of an import.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// A new record.
    Imported,
    /// A record that was there, with other contents.
    Updated,
    /// A record that was there, the same.
    Unchanged,
    /// A row that breaks the mapping or the schema.
    Rejected,
}

/// How a live pull ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PullEnd {
    /// Every unit of the subtree is in.
    Complete,
    /// The coverage names gaps.
    Partial,
    /// There was no answer.
    Failed,
}

/// Handles of all metrics of a host. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    instruments: Arc<Instruments>,
}

struct Instruments {
    sent: Counter<u64>,
    received: Counter<u64>,
    quarantined: Counter<u64>,
    alarms: Counter<u64>,
    outbox: UpDownCounter<i64>,
    links: UpDownCounter<i64>,
    handshakes: Counter<u64>,
    turned_away: Counter<u64>,
    clock_skew: Gauge<i64>,
    records: Counter<u64>,
    commits: Counter<u64>,
    commit_duration: Histogram<f64>,
    tampered: Counter<u64>,
    pulls: Counter<u64>,
    pull_duration: Histogram<f64>,
    rolled_back: UpDownCounter<i64>,
    certificate_ends: OfUnits,
    delegation_ends: OfUnits,
    revoked_children: OfUnits,
}

/// A number of each hosted unit.
type OfUnits = Arc<Mutex<BTreeMap<UnitCode, i64>>>;

static INSTALLED: OnceLock<Metrics> = OnceLock::new();

impl Metrics {
    /// Metrics that `meter` collects; `clock` tells how long certificates have left.
    pub fn new(meter: &Meter, clock: Arc<dyn Clock>) -> Self {
        let counter = |name, unit, about| counter(meter, name, unit, about);
        let [certificate_ends, delegation_ends, revoked_children] =
            [(); 3].map(|()| OfUnits::default());
        let about = "Time left of the certificate that ends first; negative: it has ended";
        observe_ends(meter, (CERTIFICATE_REMAINING, about), Arc::clone(&clock), &certificate_ends);
        let about = "Time left of the delegation that ends first; negative: it has ended";
        observe_ends(meter, (DELEGATION_REMAINING, about), clock, &delegation_ends);
        observe_sum(meter, &revoked_children);
        Self {
            instruments: Arc::new(Instruments {
                sent: counter(STATEMENT_SENT, "{statement}", "Statements given to a peer"),
                received: counter(STATEMENT_RECEIVED, "{statement}", "Statements taken in"),
                quarantined: counter(STATEMENT_QUARANTINED, "{statement}", "Statements refused"),
                alarms: counter(JOURNAL_ALARMS, "{alarm}", "Journals that do not go on"),
                outbox: meter
                    .i64_up_down_counter(OUTBOX_DEPTH)
                    .with_unit("{statement}")
                    .with_description("Statements that wait in the outboxes")
                    .build(),
                links: meter
                    .i64_up_down_counter(LINK_UP)
                    .with_unit("{link}")
                    .with_description("Links that are up")
                    .build(),
                clock_skew: meter
                    .i64_gauge(LINK_CLOCK_SKEW)
                    .with_unit("ms")
                    .with_description("This host's clock minus a peer's at the newest hello")
                    .build(),
                handshakes: counter(LINK_HANDSHAKES, "{handshake}", "Handshakes of callers"),
                turned_away: counter(LINK_TURNED_AWAY, "{connection}", "Callers too many"),
                records: counter(RECORD_IMPORTED, "{row}", "Rows of imports"),
                commits: counter(STORE_COMMITS, "{batch}", "Batches that are durable"),
                commit_duration: meter
                    .f64_histogram(STORE_COMMIT_DURATION)
                    .with_unit("s")
                    .with_description("Time of one group commit with its barrier")
                    .with_boundaries(COMMIT_BUCKETS.to_vec())
                    .build(),
                tampered: counter(STORE_TAMPERED, "{value}", "Stored values that do not open"),
                pulls: counter(SUMMARY_PULLS, "{pull}", "Live pulls"),
                pull_duration: meter
                    .f64_histogram(SUMMARY_PULL_DURATION)
                    .with_unit("s")
                    .with_description("Time of a live pull")
                    .with_boundaries(PULL_BUCKETS.to_vec())
                    .build(),
                rolled_back: meter
                    .i64_up_down_counter(UNIT_ROLLED_BACK)
                    .with_unit("{unit}")
                    .with_description("Hosted units that were rolled back and stand still")
                    .build(),
                certificate_ends,
                delegation_ends,
                revoked_children,
            }),
        }
    }

    /// Metrics of the process, as its `main` set them up; without that, metrics that count
    /// nothing.
    pub fn installed() -> Self {
        INSTALLED.get().cloned().unwrap_or_default()
    }

    /// Makes these the process's. An error: others are already.
    pub(super) fn install(&self) -> Result<(), Self> {
        INSTALLED.set(self.clone())
    }

    /// `statements` of a lane went out and are acknowledged.
    pub fn statements_sent(&self, lane: &'static str, statements: u64) {
        self.instruments.sent.add(statements, &[KeyValue::new("lane", lane)]);
    }

    /// A statement of `kind`, the header's `type`, came in and holds.
    pub fn statement_received(&self, kind: &str) {
        self.instruments.received.add(1, &[kind_label(kind)]);
    }

    /// A statement was refused, for a fixed word of `Rejection.reason`.
    pub fn statement_quarantined(&self, reason: &'static str) {
        self.instruments.quarantined.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// An alarm about a journal was raised or taken in.
    pub fn journal_alarm(&self, breach: &'static str) {
        self.instruments.alarms.add(1, &[KeyValue::new("breach", breach)]);
    }

    /// A handshake with a caller ended, with a connection or without.
    pub fn handshake_ended(&self, is_done: bool) {
        let outcome = if is_done { "done" } else { "failed" };
        self.instruments.handshakes.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    /// A connection was turned away before its handshake.
    pub fn turned_away(&self) {
        self.instruments.turned_away.add(1, &[]);
    }

    /// The outboxes of the host grew or shrank. At the start: by what they hold.
    pub fn outbox_changed(&self, by: i64) {
        self.instruments.outbox.add(by, &[]);
    }

    /// A link is up; this host is its `side`, and its clock is `clock_skew_ms` ahead of the peer's.
    pub fn link_up(&self, side: Side, clock_skew_ms: i64) {
        self.instruments.links.add(1, &[side_label(side)]);
        self.instruments.clock_skew.record(clock_skew_ms, &[]);
    }

    /// A link that was up is down.
    pub fn link_down(&self, side: Side) {
        self.instruments.links.add(-1, &[side_label(side)]);
    }

    /// `rows` of an import had this outcome.
    pub fn rows_imported(&self, outcome: Outcome, rows: u64) {
        let word = match outcome {
            Outcome::Imported => "imported",
            Outcome::Updated => "updated",
            Outcome::Unchanged => "unchanged",
            Outcome::Rejected => "rejected",
        };
        self.instruments.records.add(rows, &[KeyValue::new("outcome", word)]);
    }

    /// One group commit made `batches` durable.
    pub fn committed(&self, batches: u64, duration: Duration) {
        self.instruments.commits.add(batches, &[]);
        self.instruments.commit_duration.record(duration.as_secs_f64(), &[]);
    }

    /// A value in this table of an encrypted store did not open.
    pub fn store_tampered(&self, table: &str) {
        self.instruments.tampered.add(1, &[KeyValue::new("table", table.to_owned())]);
    }

    /// A live pull ended.
    pub fn pulled(&self, end: PullEnd, duration: Duration) {
        let word = match end {
            PullEnd::Complete => "complete",
            PullEnd::Partial => "partial",
            PullEnd::Failed => "failed",
        };
        self.instruments.pulls.add(1, &[KeyValue::new("outcome", word)]);
        self.instruments.pull_duration.record(duration.as_secs_f64(), &[]);
    }

    /// `by` more units stand still because they were rolled back.
    pub fn rolled_back(&self, by: i64) {
        self.instruments.rolled_back.add(by, &[]);
    }

    /// The unit's certificate that ends first ends then.
    pub fn certificate_ends(&self, unit: &UnitCode, at: UnixMillis) {
        let ends = &self.instruments.certificate_ends;
        ends.lock().unwrap_or_else(PoisonError::into_inner).insert(unit.clone(), at);
    }
}

impl Metrics {
    /// The unit's delegation ends then, and so many of its children are revoked.
    pub fn unit_stands(&self, unit: &UnitCode, delegation_ends: UnixMillis, revoked: usize) {
        let revoked = i64::try_from(revoked).unwrap_or(i64::MAX);
        let (ends, children) =
            (&self.instruments.delegation_ends, &self.instruments.revoked_children);
        for (of_units, number) in [(ends, delegation_ends), (children, revoked)] {
            let mut of_units = of_units.lock().unwrap_or_else(PoisonError::into_inner);
            of_units.insert(unit.clone(), number);
        }
    }
}

impl Default for Metrics {
    /// Metrics that count nothing.
    fn default() -> Self {
        static NOTHING: OnceLock<Metrics> = OnceLock::new();
        let nothing = NOTHING.get_or_init(|| {
            let nobody_reads = SdkMeterProvider::builder().build();
            Self::new(&nobody_reads.meter(super::SCOPE), Arc::new(SystemClock))
        });
        nothing.clone()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Metrics")
    }
}

fn counter(
    meter: &Meter,
    name: &'static str,
    unit: &'static str,
    about: &'static str,
) -> Counter<u64> {
    meter.u64_counter(name).with_unit(unit).with_description(about).build()
}

/// Computes the time left when it is read, so that it is right however seldom an end changes.
fn observe_ends(
    meter: &Meter,
    (name, about): (&'static str, &'static str),
    clock: Arc<dyn Clock>,
    ends: &OfUnits,
) {
    let ends = Arc::clone(ends);
    let _registered = meter
        .i64_observable_gauge(name)
        .with_unit("s")
        .with_description(about)
        .with_callback(move |observer| {
            let ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(first) = ends.values().min() {
                observer.observe((first - clock.now_unix_ms()).div_euclid(1000), &[]);
            }
        })
        .build();
}

fn observe_sum(meter: &Meter, of_units: &OfUnits) {
    let of_units = Arc::clone(of_units);
    let _registered = meter
        .i64_observable_gauge(REVOKED_CHILDREN)
        .with_unit("{unit}")
        .with_description("Direct children that were revoked and have not come back")
        .with_callback(move |observer| {
            let of_units = of_units.lock().unwrap_or_else(PoisonError::into_inner);
            if !of_units.is_empty() {
                observer.observe(of_units.values().sum(), &[]);
            }
        })
        .build();
}

fn kind_label(kind: &str) -> KeyValue {
    let known = KINDS.iter().find(|known| **known == kind);
    KeyValue::new("kind", *known.unwrap_or(&"other"))
}

fn side_label(side: Side) -> KeyValue {
    let word = match side {
        Side::Child => "child",
        Side::Parent => "parent",
    };
    KeyValue::new("side", word)
}

#[cfg(test)]
mod tests {
    use prometheus::{Registry, TextEncoder};

    use super::*;
    use crate::clock::ShiftedClock;

    const DOCUMENTED: &str = include_str!("../../../docs/telemetry.md");

    const NAMES: [&str; 19] = [
        STATEMENT_SENT,
        STATEMENT_RECEIVED,
        STATEMENT_QUARANTINED,
        JOURNAL_ALARMS,
        OUTBOX_DEPTH,
        LINK_UP,
        LINK_HANDSHAKES,
        LINK_TURNED_AWAY,
        LINK_CLOCK_SKEW,
        RECORD_IMPORTED,
        STORE_COMMITS,
        STORE_COMMIT_DURATION,
        STORE_TAMPERED,
        SUMMARY_PULLS,
        SUMMARY_PULL_DURATION,
        UNIT_ROLLED_BACK,
        CERTIFICATE_REMAINING,
        DELEGATION_REMAINING,
        REVOKED_CHILDREN,
    ];

    fn exported(act: impl FnOnce(&Metrics)) -> String {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .unwrap();
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        act(&Metrics::new(&provider.meter("test"), Arc::new(ShiftedClock::default())));
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    fn use_all(metrics: &Metrics) {
        metrics.statements_sent("notice", 2);
        metrics.statement_received("lianxi.summary.v1");
        metrics.statement_quarantined("bad-signature");
        metrics.journal_alarm("rollback");
        metrics.rolled_back(1);
        metrics.outbox_changed(3);
        metrics.outbox_changed(-1);
        metrics.link_up(Side::Parent, -250);
        metrics.link_up(Side::Child, 40);
        metrics.link_down(Side::Child);
        metrics.handshake_ended(true);
        metrics.handshake_ended(false);
        metrics.turned_away();
        metrics.rows_imported(Outcome::Imported, 17);
        metrics.committed(5, Duration::from_millis(2));
        metrics.store_tampered("Records");
        metrics.pulled(PullEnd::Partial, Duration::from_millis(300));
        let in_an_hour = SystemClock.now_unix_ms() + 3_600_500;
        metrics.certificate_ends(&"BOS".parse().unwrap(), in_an_hour + 1_000_000);
        metrics.certificate_ends(&"BOS-01".parse().unwrap(), in_an_hour);
        metrics.unit_stands(&"BOS".parse().unwrap(), in_an_hour + 3_600_000, 2);
        metrics.unit_stands(&"BOS-01".parse().unwrap(), in_an_hour + 7_200_000, 1);
    }

    #[test]
    fn every_metric_counts_what_it_says() {
        let text = exported(use_all);
        for line in [
            "lianxi_statement_sent_total{lane=\"notice\"} 2",
            "lianxi_statement_received_total{kind=\"lianxi.summary.v1\"} 1",
            "lianxi_statement_quarantined_total{reason=\"bad-signature\"} 1",
            "lianxi_journal_alarms_total{breach=\"rollback\"} 1",
            "lianxi_outbox_depth 2",
            "lianxi_unit_rolled_back 1",
            "lianxi_link_up{side=\"parent\"} 1",
            "lianxi_link_up{side=\"child\"} 0",
            "lianxi_link_handshakes_total{outcome=\"done\"} 1",
            "lianxi_link_handshakes_total{outcome=\"failed\"} 1",
            "lianxi_link_turned_away_total 1",
            "lianxi_link_clock_skew_milliseconds 40",
            "lianxi_record_imported_total{outcome=\"imported\"} 17",
            "lianxi_store_commits_total 5",
            "lianxi_store_commit_duration_seconds_bucket{le=\"0.0025\"} 1",
            "lianxi_store_tampered_total{table=\"Records\"} 1",
            "lianxi_summary_pulls_total{outcome=\"partial\"} 1",
            "lianxi_summary_pull_duration_seconds_bucket{le=\"0.5\"} 1",
            "lianxi_certificate_remaining_seconds 3600",
            "lianxi_delegation_remaining_seconds 7200",
            "lianxi_unit_revoked_children 3",
        ] {
            assert!(text.lines().any(|exported| exported == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn what_a_peer_writes_never_becomes_a_label() {
        let text = exported(|metrics| {
            metrics.statement_received("lianxi.evil.v1");
            metrics.statement_received("\"} 9\nlianxi_up 1");
            use_all(metrics);
        });
        assert!(text.contains("lianxi_statement_received_total{kind=\"other\"} 2"), "{text}");
        assert!(!text.contains("evil") && !text.contains("BOS"), "{text}");
    }

    #[test]
    fn the_documentation_names_every_metric_as_it_is_exported() {
        let text = exported(use_all);
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let exported: Vec<&str> = types.filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(exported.len(), NAMES.len(), "{exported:?}");
        for name in exported.iter().chain(&NAMES) {
            assert!(DOCUMENTED.contains(&format!("`{name}`")), "docs/telemetry.md lacks {name}");
        }
    }

    #[test]
    fn without_a_main_nothing_is_counted_and_nothing_fails() {
        use_all(&Metrics::default());
        use_all(&Metrics::installed());
    }
}
