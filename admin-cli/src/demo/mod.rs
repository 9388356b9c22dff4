//! `lianxi demo`: a whole federation on this machine, from the first key to the joint meeting.
//!
//! Runs each host as a process of its own and speaks to it as an operator would. Holds no figure
//! itself: what it shows is what the nodes answered.

mod example;
mod federation;
mod home;
mod pack;
mod plan;
mod processes;
mod report;
mod whistle;
mod work;

use std::{env, path::PathBuf};

use anyhow::{Context as _, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::UnboundedReceiver,
};

use self::{federation::Federation, home::Home, plan::Plan, processes::Processes, report::Report};
use crate::{
    commands::{Context, import::Rows, summary},
    failure::Failure,
    output::Output,
    texts::Text,
};

/// Arguments of `lianxi demo`.
///
/// Starts one process for the city, each district and each street (58), joins 312 units by
/// tokens, imports real rows, reports, issues a notice, blows a whistle, pulls, prints the table
/// of a joint meeting, and stays up.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// Exit when the table is printed
    #[arg(long)]
    once: bool,
    /// Rows to import instead of the shipped ones: CSV, gzip or not; can be given more than once
    #[arg(long, value_name = "FILE")]
    rows: Vec<PathBuf>,
    /// Keep the state in DIR; run again with it, the demo goes on where it was
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// What ends a demo from outside.
struct Outside {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    /// Codes of hosts whose process ended unasked.
    ends: UnboundedReceiver<String>,
}

impl Demo {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let output = context.output();
        let plan = Plan::parse(example::UNITS).context("the shipped units are wrong")?;
        let files = self.files()?;
        let mut home = Home::open(self.keep.as_deref(), &plan)?;
        let program = env::current_exe().context("cannot find this program")?;
        let (processes, ends) = Processes::new(program);
        let mut outside = Outside {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            ends,
        };
        let federation = Federation::new(output, &plan, &home, &processes);
        let result = tokio::select! {
            result = Box::pin(drive(&federation, &files)) => result,
            error = outside.early() => Err(error),
        };
        let result = match result {
            Ok(report) => self.finish(&federation, &report, &mut outside).await,
            Err(error) => Err(error),
        };
        output.note(output.fill(Text::DemoStopping, &[&processes.count()]));
        processes.stop_all().await;
        output.note(output.text(Text::DemoStopped));
        let was_interrupted = |error: &anyhow::Error| {
            matches!(error.downcast_ref::<Failure>(), Some(Failure::Interrupted))
        };
        match result {
            Err(error) if !was_interrupted(&error) => {
                home.keep();
                Err(error.context(format!("the demo in {} failed", home.path().display())))
            }
            other => other,
        }
    }

    fn files(&self) -> anyhow::Result<Vec<(String, Rows)>> {
        if self.rows.is_empty() {
            return Ok(vec![example::rows()]);
        }
        let file = |path: &PathBuf| {
            let name = path.display().to_string();
            // Told before anything is started.
            std::fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
            Ok((name, Rows::File(path.clone())))
        };
        self.rows.iter().map(file).collect()
    }

    /// Shows what happened, and stays up if wanted.
    async fn finish(
        &self,
        federation: &Federation<'_>,
        report: &Report,
        outside: &mut Outside,
    ) -> anyhow::Result<()> {
        let output = federation.output;
        if output.is_json() {
            output.document(&report.json()?)?;
        } else {
            report.print(output)?;
        }
        if !federation.home.is_temporary() {
            let (pack, root) = (report.pack.pack.display(), report.pack.root.display());
            output.note(
                output.fill(Text::DemoVerify, &[&command(&format!("verify {pack} --root {root}"))]),
            );
        }
        if !self.once {
            instructions(federation, report);
            outside.stay(federation).await;
        }
        if !report.is_complete()? {
            bail!("not every unit is in the figures; the coverage names what is missing");
        }
        Ok(())
    }
}

impl Outside {
    /// Resolves when someone asks the demo to stop.
    async fn asked(interrupt: &mut Signal, terminate: &mut Signal, hang_up: &mut Signal) {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    }

    /// Why the demo cannot go on.
    async fn early(&mut self) -> anyhow::Error {
        let Self { interrupt, terminate, hang_up, ends } = self;
        tokio::select! {
            () = Self::asked(interrupt, terminate, hang_up) => Failure::Interrupted.into(),
            Some(code) = ends.recv() => anyhow::anyhow!("the process of {code} ended"),
        }
    }

    /// Waits until someone ends the demo; a host that ends is told and leaves the others alone.
    async fn stay(&mut self, federation: &Federation<'_>) {
        let Self { interrupt, terminate, hang_up, ends } = self;
        loop {
            tokio::select! {
                () = Self::asked(interrupt, terminate, hang_up) => return,
                Some(code) = ends.recv() => {
                    let command = command(&format!("node run --dir {}", dir(federation, &code)));
                    federation.output.note(
                        federation.output.fill(Text::DemoEnded, &[&code, &command]),
                    );
                }
            }
        }
    }
}

/// From nothing, or from what is there, to the joint meeting.
async fn drive(federation: &Federation<'_>, files: &[(String, Rows)]) -> anyhow::Result<Report> {
    let (plan, home) = (federation.plan, federation.home);
    let path = home.path().display();
    federation.tell(Text::DemoDirectory, &[&plan.hosts().len(), &plan.units().len(), &path]);
    if home.is_resumed() {
        federation.tell(Text::DemoResumed, &[]);
    }
    let (district, street) = plan.scene().context("the units have no street with a community")?;
    federation.bring_up().await?;
    federation.add_desks().await?;
    federation.spread_catalogue().await?;
    let imports = federation.import(&example::mapping()?, files).await?;
    let months = work::months(&imports);
    let Some(period) = work::period(&months) else {
        bail!("no row was kept, so that there is no month to report: see the bad rows above");
    };
    let mut reported = months.clone();
    if !reported.contains(&period) {
        reported.push(period.clone());
    }
    federation.report_months(&reported).await?;
    let notice = federation.issue_notice(district).await?;
    let escalation = federation.blow_whistle(district, street).await?;
    let units = federation.pull(&period).await?;
    federation.witness().await?;
    let pack = federation.export_pack(&period).await?;
    let root = plan.root().code.clone();
    let lang = federation.output.lang();
    let columns = summary::indicator_columns(&federation.client(&root)?, &root, &units, lang).await;
    let (processes, elapsed) = (federation.processes.count(), federation.elapsed());
    Ok(Report {
        root,
        period,
        months,
        units,
        columns,
        imports,
        notice,
        escalation,
        pack,
        processes,
        elapsed,
    })
}

/// Tells what can be tried while the federation is up.
fn instructions(federation: &Federation<'_>, report: &Report) {
    let output: &Output = federation.output;
    let root = dir(federation, &report.root);
    let (street, district) = (&report.escalation.source, &report.escalation.destination);
    output.note("");
    output.note(output.text(Text::DemoStaysUp));
    for line in [
        format!("summary pull --period {} --dir {root}", report.period),
        format!("notice list --dir {root}"),
        format!("escalation list --dir {}", dir(federation, district)),
        format!("node status --dir {}", dir(federation, street)),
    ] {
        output.note(format!("  {}", command(&line)));
    }
    if let Some(pid) = federation.processes.pid(street) {
        output.note(format!("  kill {pid}  # {street}"));
    }
    output.note(output.text(Text::DemoEnd));
    let home = federation.home;
    if home.is_temporary() {
        output.note(output.text(Text::DemoTakeAway));
    } else {
        output.note(output.fill(Text::DemoKept, &[&home.path().display()]));
    }
}

fn dir(federation: &Federation<'_>, code: &str) -> String {
    federation.home.host(code).display().to_string()
}

/// A command line that runs this very program.
fn command(arguments: &str) -> String {
    let program = env::args().next().unwrap_or_else(|| "lianxi".to_owned());
    format!("{program} {arguments}")
}
