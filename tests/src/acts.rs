//! The administrative acts and refused attempts that a unit has in its journal.

use lianxi_node::{
    statement::journal::{self, Line},
    store::journal::leaves,
};

use crate::federation::Federation;

/// All acts in the journal of `unit`, whose host runs, in their order.
///
/// # Panics
///
/// The journal cannot be read.
pub async fn acts(federation: &Federation, unit: &str) -> Vec<Line> {
    let store = federation.host(unit).store();
    let unit = unit.parse().unwrap();
    let (mut acts, mut from) = (Vec::new(), 0);
    loop {
        let page = leaves(store.as_ref(), &unit, from).await.unwrap();
        let Some((last, _)) = page.last() else { return acts };
        from = last + 1;
        let lines = page.iter().map(|(_, leaf)| journal::read(leaf).unwrap());
        acts.extend(lines.filter(|line| line.event == "act"));
    }
}

/// Reasons for which `unit` refused the act `name` on `subject`, in their order.
pub async fn refusals(
    federation: &Federation,
    unit: &str,
    name: &str,
    subject: &str,
) -> Vec<String> {
    let acts = acts(federation, unit).await.into_iter();
    let refused = acts.filter(|act| act.name == name && act.subject == subject);
    refused.filter(|act| !act.refused.is_empty()).map(|act| act.refused).collect()
}
