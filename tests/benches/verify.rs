//! What it costs to verify the pack of a whole city: 6,760 units by default, every summary with a
//! witness, on one thread. Beside it, in the same run, as many bare signature checks as the pack
//! has signatures: the limit that the rest is compared with. Prints one JSON document.
//!
//! `LIANXI_BENCH_COMMUNITIES` sets the communities of each of the 135 streets,
//! `LIANXI_BENCH_ROUNDS` the number of rounds.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot set its scene has to fail")]

use std::io::Write as _;

use lianxi_node::verify::verify;
use lianxi_proto::envelope::{self, STATEMENT_TYPE};
use lianxi_tests::packs::{City, delegation_key, evidence, source};
use tokio::time::Instant;

const DISTRICTS: usize = 9;
const STREETS: usize = 15;

fn main() -> std::io::Result<()> {
    let communities = setting("LIANXI_BENCH_COMMUNITIES", 49);
    let city = City::new(DISTRICTS, STREETS, communities);
    let mut parts = city.parts();
    for packed in &mut parts.statements {
        let unit = source(&packed.envelope);
        let member = city.members.iter().find(|member| member.code == unit).unwrap();
        let witness = member.parent.clone().unwrap_or_else(|| "C-1".parse().unwrap());
        packed.evidence = Some(evidence(&unit, &packed.envelope, &[&witness]));
    }
    let file = parts.seal();
    let root = city.root_key();
    // The envelope, the checkpoint and its cosignature; each grant; the seal and the catalogue.
    let signatures = 3 * parts.statements.len() + parts.delegations.len() + 2;
    let one = &parts.delegations[1];
    let signer = delegation_key(&"C".parse().unwrap()).verifying_key();

    let (mut whole, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..setting("LIANXI_BENCH_ROUNDS", 5) {
        let begun = Instant::now();
        let verified = verify(&file, &root).unwrap_or_else(|broken| panic!("{broken}"));
        whole.push(begun.elapsed().as_secs_f64());
        assert_eq!(verified.statements.len(), city.members.len());
        assert!(verified.statements.iter().all(|statement| statement.witnessed.is_some()));

        let begun = Instant::now();
        for _ in 0..signatures {
            envelope::verify(one, STATEMENT_TYPE, std::slice::from_ref(&signer)).unwrap();
        }
        bare.push(begun.elapsed().as_secs_f64());
    }
    let (whole, bare) = (median(whole), median(bare));
    let report = serde_json::json!({
        "units": city.members.len(),
        "pack_bytes": file.len(),
        "signatures": signatures,
        "verify_s": whole,
        "signatures_alone_s": bare,
        "ratio": whole / bare,
    });
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&report)?)
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
