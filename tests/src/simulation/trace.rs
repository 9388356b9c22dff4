//! What happened, event by event: the last of it is shown when a run fails, all of it is compared.

use std::{collections::BTreeMap, fmt};

/// Events that a failure shows.
const SHOWN: usize = 300;

/// What a run that held was like.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// All events.
    pub trace: Vec<String>,
    /// How often each thing was done or went wrong.
    pub counts: BTreeMap<&'static str, u64>,
}

/// A promise that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Seed of the run.
    pub seed: u64,
    /// What was found.
    pub found: String,
    /// All events.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, found, trace } = self;
        for event in &trace[trace.len().saturating_sub(SHOWN)..] {
            writeln!(formatter, "{event}")?;
        }
        write!(
            formatter,
            "seed {seed}: {found}\n{} events before; all of them go to a file, and the same run is done \
             again, with\nLIANXI_SIM_SEED={seed} LIANXI_SIM_SEEDS=1 LIANXI_SIM_TRACE=trace.txt \
             cargo test -p lianxi-tests --test simulation -- no_seed",
            trace.len()
        )
    }
}
