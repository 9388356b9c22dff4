//! What a federation does between two joint meetings: catalogue, rows, reports, a notice, a
//! whistle, and the pull for the meeting. All of it through the nodes' own interfaces.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, bail};
use lianxi_node::{
    clock::{Clock, SystemClock},
    domain::{mapping::Mapping, unit::Level},
};
use lianxi_proto::{
    admin::v1::{AddDeskRequest, LinkState},
    local::v1::{
        ImportOptions, ImportReport, IssueNoticeRequest, NoticeState, PublishSummaryRequest,
        PullSummaryRequest, ShowCatalogueRequest, ShowSummaryRequest, UnitFigures,
    },
    types::v1::{Notice, ReceiptStage},
};
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::{example, federation::Federation, plan::Unit};
use crate::{
    client::Client,
    commands::{
        catalogue,
        import::{self, Event, Rows},
        notice, status, summary,
    },
    figures,
    texts::Text,
    words,
};

/// Desk that every district has, and its title and line.
pub(super) const DESK: &str = "INSPECTION";
const DESK_TITLE: &str = "Inspectional services";
const DESK_LINE: &str = "inspection";

/// Number of the notice; with it a resumed demo finds it again.
const NOTICE_NUMBER: &str = "N-2011-1";

const NOTICE_TITLE: &str = "Walk the precinct and report street lights that are out";
const NOTICE_TEXT: &str = "Walk every street of the precinct after dark once before the due date.";

/// Time that the communities get.
const NOTICE_WITHIN_MS: i64 = 7 * 86_400_000;

/// How long the federation may take for one step without getting further.
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// Pause between two looks.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(150);

/// Deadline of the pull for the meeting.
const PULL_DEADLINE_MS: u32 = 60_000;

/// How often the city pulls until every branch answers, and the pause between.
const PULLS: u32 = 3;
const PULL_AGAIN: Duration = Duration::from_secs(1);

/// Levels below the city.
const PULL_DEPTH: u32 = 3;

/// Bad rows that are told.
const TOLD_ROW_ERRORS: usize = 5;

/// What one host said of one file.
#[derive(Debug)]
pub(crate) struct Imported {
    /// Name of the file.
    pub(crate) file: String,
    /// Unit that heads the host.
    pub(crate) host: String,
    /// The node's report.
    pub(crate) report: ImportReport,
    /// Lines of bad rows with their reasons.
    bad: BTreeSet<(u64, String)>,
}

/// Waits for a step of the federation; gives up if nothing changes for too long.
#[derive(Debug)]
pub(super) struct Patience<T> {
    last: Option<T>,
    until: Instant,
}

impl<T: PartialEq> Patience<T> {
    /// Starts to wait.
    pub(super) fn new() -> Self {
        Self { last: None, until: Instant::now() + STEP_LIMIT }
    }

    /// Waits a moment after a look that found `state`.
    ///
    /// # Errors
    ///
    /// Nothing has changed for too long; `waited_for` says what was waited for.
    pub(super) async fn wait(
        &mut self,
        state: T,
        waited_for: impl Fn() -> String,
    ) -> anyhow::Result<()> {
        if self.ends_with(state, Instant::now()) {
            bail!("waited {} s without a change for {}", STEP_LIMIT.as_secs(), waited_for());
        }
        sleep(LOOK_AGAIN).await;
        Ok(())
    }

    /// True if `state` is still what it was when time began to run, and time is up.
    fn ends_with(&mut self, state: T, now: Instant) -> bool {
        if self.last.as_ref() != Some(&state) {
            self.last = Some(state);
            self.until = now + STEP_LIMIT;
        }
        now >= self.until
    }
}

impl Federation<'_> {
    /// Adds the desk at every district.
    ///
    /// # Errors
    ///
    /// What a node says.
    pub(crate) async fn add_desks(&self) -> anyhow::Result<()> {
        let districts = self.plan.hosts_at(Level::District);
        let desks = self.each_host(districts, async |district| {
            let request = AddDeskRequest {
                unit: district.code.clone(),
                desk: DESK.to_owned(),
                title: DESK_TITLE.to_owned(),
                line: DESK_LINE.to_owned(),
            };
            match self.client(&district.code)?.node().add_desk(request).await {
                Err(status) if status.code() == Code::AlreadyExists => Ok(()),
                answer => answer.map(drop).context("cannot add the desk"),
            }
        });
        let count = desks.await?.len();
        self.tell(Text::DemoDesks, &[&count]);
        Ok(())
    }

    /// Publishes the catalogue at the city and waits until it is in force at every unit.
    ///
    /// # Errors
    ///
    /// What a node says, or the units that it does not reach.
    pub(crate) async fn spread_catalogue(&self) -> anyhow::Result<()> {
        let root = &self.plan.root().code;
        let client = self.client(root)?;
        let request = ShowCatalogueRequest { unit: root.clone() };
        if client.catalogues().show(request).await.is_err() {
            let document = example::CATALOGUE.to_vec();
            let published = catalogue::publish(&client, root, document, false).await;
            published.context("cannot publish the catalogue")?;
        }
        let shown = client.catalogues().show(ShowCatalogueRequest { unit: root.clone() }).await;
        let shown = shown.context("cannot show the catalogue")?.into_inner();
        let label = format!("{}@{}", shown.name, shown.version);
        let mut patience = Patience::new();
        loop {
            let without = self.units_without(&label).await?;
            if without.is_empty() {
                break;
            }
            let waited_for = || format!("catalogue {label} and a link at {}", without.join(", "));
            patience.wait(without.len(), waited_for).await?;
        }
        self.tell(Text::DemoCatalogue, &[&label, &self.plan.units().len()]);
        Ok(())
    }

    /// Units that do not have the catalogue `label` in force, or no link to their parent.
    async fn units_without(&self, label: &str) -> anyhow::Result<Vec<String>> {
        let hosts = self.plan.hosts();
        let without = self.each_host(hosts, async |head| {
            let units = status(&self.client(&head.code)?).await?.units;
            let lacks = units
                .into_iter()
                .filter(|unit| unit.catalogue != label || unit.parent_link() == LinkState::Down);
            Ok(lacks.map(|unit| unit.unit).collect::<Vec<_>>())
        });
        Ok(without.await?.into_iter().flatten().collect())
    }

    /// Has every host that serves units of the mapping import every file.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or what a node says.
    pub(crate) async fn import(
        &self,
        mapping: &Mapping,
        files: &[(String, Rows)],
    ) -> anyhow::Result<Vec<Imported>> {
        let json = mapping.to_json();
        let heads = self.heads_in(mapping);
        let mut all = Vec::new();
        for (file, rows) in files {
            let options = ImportOptions {
                mapping: json.clone(),
                all_or_nothing: false,
                dry_run: false,
                file_name: file.clone(),
            };
            let imports = self.each_host(heads.clone(), async |head| {
                let client = self.client(&head.code)?;
                import_at(&client, &head.code, options.clone(), rows).await
            });
            let imports = imports.await.with_context(|| file.clone())?;
            self.tell_import(file, &imports);
            all.extend(imports);
        }
        all.sort_by(|one, other| (&one.file, &one.host).cmp(&(&other.file, &other.host)));
        Ok(all)
    }

    /// Heads of the hosts that serve a unit of the mapping.
    fn heads_in(&self, mapping: &Mapping) -> Vec<&Unit> {
        let wanted: Option<BTreeSet<String>> =
            mapping.units().map(|units| units.iter().map(ToString::to_string).collect());
        let mut heads = self.plan.hosts();
        if let Some(wanted) = wanted {
            heads.retain(|head| {
                self.plan.served_by(head).iter().any(|unit| wanted.contains(&unit.code))
            });
        }
        heads
    }

    fn tell_import(&self, file: &str, imports: &[Imported]) {
        let kept = |report: &ImportReport| report.imported + report.updated + report.unchanged;
        let rows: u64 = imports.iter().map(|import| kept(&import.report)).sum();
        let hosts = imports.iter().filter(|import| kept(&import.report) > 0).count();
        // A row that no unit can be told of is bad at every host: it is one bad row.
        let bad: BTreeSet<&(u64, String)> = imports.iter().flat_map(|import| &import.bad).collect();
        self.tell(Text::DemoImported, &[&file, &rows, &hosts, &bad.len()]);
        for (line, reason) in bad.iter().take(TOLD_ROW_ERRORS) {
            self.output.note(format!("           {file}:{line}: {reason}"));
        }
    }

    /// Publishes the summaries of each month, and waits until the city's report holds every unit.
    ///
    /// # Errors
    ///
    /// What a node says, or the branches that do not report.
    pub(crate) async fn report_months(&self, months: &[String]) -> anyhow::Result<()> {
        for month in months {
            // From below: each report then finds most of its parts there.
            for level in [Level::Street, Level::District, Level::City] {
                let heads = self.plan.hosts_at(level);
                let published = self.each_host(heads, async |head| {
                    let request = PublishSummaryRequest { units: vec![], period: month.clone() };
                    let answer = self.client(&head.code)?.summaries().publish(request).await;
                    answer.map(drop).with_context(|| format!("cannot publish {month}"))
                });
                published.await?;
            }
        }
        for month in months {
            self.await_report(month).await?;
        }
        Ok(())
    }

    async fn await_report(&self, month: &str) -> anyhow::Result<()> {
        let root = &self.plan.root().code;
        let client = self.client(root)?;
        let mut patience = Patience::new();
        loop {
            let request = ShowSummaryRequest {
                unit: root.clone(),
                of: String::new(),
                period: month.to_owned(),
            };
            let answer =
                client.summaries().show(request).await.context("cannot show the report")?;
            let answer = answer.into_inner();
            let coverage = figures::coverage(&answer)?;
            let is_whole = usize::try_from(coverage.expected) == Ok(self.plan.units().len());
            if is_whole && figures::is_complete(coverage) {
                let (included, expected) = (&coverage.included, &coverage.expected);
                self.tell(Text::DemoPublished, &[&month, included, expected]);
                return Ok(());
            }
            let gaps: Vec<&str> = coverage.gaps.iter().map(|gap| gap.unit.as_str()).collect();
            let waited_for = || format!("the report of {month} from {}", gaps.join(", "));
            patience.wait((coverage.expected, coverage.included), waited_for).await?;
        }
    }

    /// Issues the notice to every community of the scene's district, and waits until each has
    /// checked it.
    ///
    /// # Errors
    ///
    /// What a node says, or the communities without a receipt.
    pub(crate) async fn issue_notice(&self, district: &Unit) -> anyhow::Result<NoticeState> {
        let root = &self.plan.root().code;
        let client = self.client(root)?;
        let known = notice::list(&client, root).await?;
        let known = known.into_iter().find(|state| {
            state.issuer == *root
                && state.notice.as_ref().is_some_and(|notice| notice.number == NOTICE_NUMBER)
        });
        let notice_id = match known {
            Some(state) => state.notice_id,
            None => issue(&client, root, &district.code).await?,
        };
        let mut patience = Patience::new();
        loop {
            let state = notice::show(&client, root, notice_id.clone()).await?;
            let waiting: Vec<&str> = state
                .recipients
                .iter()
                .filter(|recipient| !is_checked(recipient.stage()))
                .map(|recipient| recipient.unit.as_str())
                .collect();
            let (checked, all) = (state.recipients.len() - waiting.len(), state.recipients.len());
            if waiting.is_empty() && all > 0 {
                self.tell(Text::DemoNotice, &[&NOTICE_NUMBER, &checked, &all]);
                return Ok(state);
            }
            let waited_for = || format!("receipts of {}", waiting.join(", "));
            patience.wait(checked, waited_for).await?;
        }
    }

    /// Pulls live figures of all units through the city; again, if a branch did not answer in time.
    ///
    /// # Errors
    ///
    /// What the node says.
    pub(crate) async fn pull(&self, period: &str) -> anyhow::Result<Vec<UnitFigures>> {
        let root = &self.plan.root().code;
        let client = self.client(root)?;
        let mut attempt = 1;
        loop {
            let request = PullSummaryRequest {
                unit: root.clone(),
                period: period.to_owned(),
                deadline_ms: PULL_DEADLINE_MS,
                max_age_ms: 0,
                depth: PULL_DEPTH,
            };
            let answers = summary::pull(&client, request).await?;
            let head = answers.iter().find(|answer| answer.unit == *root);
            let coverage =
                figures::coverage(head.context("the city did not answer its own pull")?)?;
            let (included, expected) = (&coverage.included, &coverage.expected);
            self.tell(Text::DemoPulled, &[&answers.len(), included, expected]);
            if figures::is_complete(coverage) || attempt == PULLS {
                return Ok(answers);
            }
            attempt += 1;
            sleep(PULL_AGAIN).await;
        }
    }
}

async fn import_at(
    client: &Client,
    head: &str,
    options: ImportOptions,
    rows: &Rows,
) -> anyhow::Result<Imported> {
    let file = options.file_name.clone();
    let mut bad = BTreeSet::new();
    let report = import::import(client, options, rows, |event| {
        if let Event::RowError(error) = event {
            bad.insert((error.line, format!("{} {}", error.column, error.reason)));
        }
    });
    let report = report.await?;
    Ok(Imported { file, host: head.to_owned(), report, bad })
}

async fn issue(client: &Client, root: &str, district: &str) -> anyhow::Result<Vec<u8>> {
    let notice = Notice {
        number: NOTICE_NUMBER.to_owned(),
        title: NOTICE_TITLE.to_owned(),
        text: NOTICE_TEXT.to_owned(),
        level: words::wire_level(Level::Community),
        duty_item: example::duty_item()?,
        due_unix_ms: SystemClock.now_unix_ms().saturating_add(NOTICE_WITHIN_MS),
        ..Notice::default()
    };
    let request = IssueNoticeRequest {
        unit: root.to_owned(),
        destination: district.to_owned(),
        notice: Some(notice),
        exercise: false,
    };
    let answer = client.notices().issue(request).await.context("cannot issue the notice")?;
    Ok(answer.into_inner().notice_id)
}

/// True once the receiving node has checked the notice, and taken or refused it.
fn is_checked(stage: ReceiptStage) -> bool {
    match stage {
        ReceiptStage::Unspecified | ReceiptStage::Durable => false,
        ReceiptStage::Validated
        | ReceiptStage::Seen
        | ReceiptStage::Done
        | ReceiptStage::Refused => true,
    }
}

/// Months of the rows, ascending.
pub(crate) fn months(imports: &[Imported]) -> Vec<String> {
    let months: BTreeSet<&String> =
        imports.iter().flat_map(|import| &import.report.periods).collect();
    months.into_iter().cloned().collect()
}

/// The period from the first to the last month; `None` without months.
pub(crate) fn period(months: &[String]) -> Option<String> {
    match months {
        [] => None,
        [month] => Some(month.clone()),
        [first, .., last] => Some(format!("{first}/{last}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imported(host: &str, periods: &[&str]) -> Imported {
        let periods = periods.iter().map(ToString::to_string).collect();
        let report = ImportReport { periods, ..ImportReport::default() };
        Imported { file: "f".to_owned(), host: host.to_owned(), report, bad: BTreeSet::new() }
    }

    #[test]
    fn the_period_runs_from_the_first_month_to_the_last() {
        let imports = [imported("A", &["2011-09", "2011-07"]), imported("B", &["2010-12"])];
        let months = months(&imports);
        assert_eq!(months, ["2010-12", "2011-07", "2011-09"]);
        assert_eq!(period(&months).as_deref(), Some("2010-12/2011-09"));
        assert_eq!(period(&months[..1]).as_deref(), Some("2010-12"));
        assert_eq!(period(&[]), None);
    }

    #[test]
    fn a_stored_notice_is_not_yet_a_checked_one() {
        assert!(!is_checked(ReceiptStage::Durable));
        assert!(is_checked(ReceiptStage::Validated));
        assert!(is_checked(ReceiptStage::Refused));
    }

    #[test]
    fn patience_ends_only_without_a_change() {
        let (mut patience, begin) = (Patience::new(), Instant::now());
        for state in 0..1_000 {
            assert!(!patience.ends_with(state, begin + STEP_LIMIT * state));
        }
        let last = begin + STEP_LIMIT * 999;
        assert!(!patience.ends_with(999, last + STEP_LIMIT / 2));
        assert!(patience.ends_with(999, last + STEP_LIMIT));
    }
}
