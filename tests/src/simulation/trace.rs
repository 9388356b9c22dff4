//! What happened, event by event: the last of it is shown when a run fails, all of it is compared.

use std::{collections::VecDeque, fmt};

use sha2::{Digest, Sha256};

/// Events that a failure shows.
const SHOWN: usize = 300;

/// Events of one run.
pub(super) struct Trace {
    last: VecDeque<String>,
    digest: Sha256,
    count: u64,
    /// All events, if somebody wants them.
    all: Option<Vec<String>>,
}

impl Trace {
    pub(super) fn new(keeps_all: bool) -> Self {
        let all = keeps_all.then(Vec::new);
        Self { last: VecDeque::new(), digest: Sha256::new(), count: 0, all }
    }

    pub(super) fn add(&mut self, event: String) {
        self.digest.update(event.as_bytes());
        self.digest.update([b'\n']);
        self.count += 1;
        if let Some(all) = &mut self.all {
            all.push(event.clone());
        }
        if self.last.len() == SHOWN {
            self.last.pop_front();
        }
        self.last.push_back(event);
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn last(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }

    pub(super) fn end(&self) -> (u64, [u8; 32], Option<Vec<String>>) {
        (self.count, self.digest.clone().finalize().into(), self.all.clone())
    }
}

/// What a run that held was like.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Events.
    pub events: u64,
    /// SHA-256 over all of them.
    pub digest: [u8; 32],
    /// All events, if the plan keeps them.
    pub trace: Option<Vec<String>>,
    /// How often each thing was done or went wrong.
    pub counts: std::collections::BTreeMap<&'static str, u64>,
}

/// A promise that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Seed of the run.
    pub seed: u64,
    /// What was found.
    pub found: String,
    /// The last events before.
    pub last: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.last {
            writeln!(formatter, "{event}")?;
        }
        write!(
            formatter,
            "seed {seed}: {found}\nrun it again: LIANXI_SIM_SEED={seed} LIANXI_SIM_SEEDS=1 \
             cargo test -p lianxi-tests --test simulation -- no_seed --nocapture",
            seed = self.seed,
            found = self.found
        )
    }
}
