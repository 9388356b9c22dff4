//! The whistle of the demo: a street blows, the desk of its district answers, arrives, handles,
//! the street closes.

use anyhow::{Context as _, bail};
use lianxi_proto::{
    local::v1::{EscalationState, RaiseEscalationRequest, StepEscalationRequest},
    types::v1::{Escalation, EscalationKind, EscalationStep},
};

use super::{
    federation::Federation,
    plan::Unit,
    work::{DESK, Patience},
};
use crate::{client::Client, commands::escalation, texts::Text, words};

/// Number of the case; with it a resumed demo finds it again.
const NUMBER: &str = "W-2011-1";

const TITLE: &str = "Carriageway undermined by a leaking main";
const APPROVED_BY: &str = "head of the street office";

/// Steps of the desk, in order.
const DESK_STEPS: [(EscalationStep, &str); 3] = [
    (EscalationStep::Answered, "crew assigned"),
    (EscalationStep::Arrived, "crew on site"),
    (EscalationStep::Handled, "carriageway shored and fenced"),
];

impl Federation<'_> {
    /// Takes the case from the whistle to its closing, from wherever it stands.
    ///
    /// # Errors
    ///
    /// What a node says, or the step that does not arrive.
    pub(crate) async fn blow_whistle(
        &self,
        district: &Unit,
        street: &Unit,
    ) -> anyhow::Result<EscalationState> {
        let (above, below) = (self.client(&district.code)?, self.client(&street.code)?);
        let id = match known(&below, &street.code).await? {
            Some(id) => id,
            None => raise(&below, &street.code).await?,
        };
        let mut before = EscalationStep::Routed;
        for (step, note) in DESK_STEPS {
            let state = reached(&above, &district.code, &id, before).await?;
            if !has_reached(&state, step)? {
                take(&above, &district.code, &id, step, DESK, note).await?;
            }
            before = step;
        }
        let state = reached(&below, &street.code, &id, EscalationStep::Handled).await?;
        if !has_reached(&state, EscalationStep::Closed)? {
            take(&below, &street.code, &id, EscalationStep::Closed, "", "seen on site").await?;
        }
        let state = reached(&above, &district.code, &id, EscalationStep::Closed).await?;
        let word = words::step(state.state).shown(self.output.lang());
        self.tell(Text::DemoWhistle, &[&NUMBER, &word]);
        Ok(state)
    }
}

async fn known(client: &Client, street: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let cases = escalation::list(client, street).await?;
    let case = cases
        .into_iter()
        .find(|state| state.source == street && escalation::number(state) == NUMBER);
    Ok(case.map(|state| state.escalation_id))
}

async fn raise(client: &Client, street: &str) -> anyhow::Result<Vec<u8>> {
    let whistle = Escalation {
        number: NUMBER.to_owned(),
        kind: EscalationKind::Emergency.into(),
        title: TITLE.to_owned(),
        lead_desk: DESK.to_owned(),
        approved_by: APPROVED_BY.to_owned(),
        ..Escalation::default()
    };
    let request = RaiseEscalationRequest {
        unit: street.to_owned(),
        destination: String::new(),
        escalation: Some(whistle),
        exercise: false,
    };
    let answer = client.escalations().raise(request).await.context("cannot raise the whistle")?;
    Ok(answer.into_inner().escalation_id)
}

async fn take(
    client: &Client,
    unit: &str,
    id: &[u8],
    step: EscalationStep,
    desk: &str,
    note: &str,
) -> anyhow::Result<()> {
    let request = StepEscalationRequest {
        unit: unit.to_owned(),
        escalation_id: id.to_vec(),
        step: step.into(),
        desk: desk.to_owned(),
        note: note.to_owned(),
    };
    let taken = client.escalations().step(request).await.map(drop);
    taken.with_context(|| format!("cannot take the step {}", words::step(step.into()).json))
}

/// The case at `unit` once it has reached `step`.
async fn reached(
    client: &Client,
    unit: &str,
    id: &[u8],
    step: EscalationStep,
) -> anyhow::Result<EscalationState> {
    let mut patience = Patience::new();
    loop {
        let cases = escalation::list(client, unit).await?;
        let case = cases.into_iter().find(|state| state.escalation_id == id);
        let at = match case {
            Some(state) if has_reached(&state, step)? => {
                return escalation::show(client, unit, state.escalation_id).await;
            }
            Some(state) => Some(state.state),
            None => None,
        };
        let waited_for =
            || format!("the step {} of {NUMBER} at {unit}", words::step(step.into()).json);
        patience.wait(at, waited_for).await?;
    }
}

/// True if the case stands at `step` or beyond it.
///
/// # Errors
///
/// The case took another way: it was withdrawn or sent back.
fn has_reached(state: &EscalationState, step: EscalationStep) -> anyhow::Result<bool> {
    match state.state() {
        EscalationStep::Withdrawn | EscalationStep::Returned => {
            let note = state.history.last().map_or("", |entry| entry.note.as_str());
            bail!("{NUMBER} was {}: {note}", words::step(state.state).json)
        }
        EscalationStep::Unspecified
        | EscalationStep::Routed
        | EscalationStep::Answered
        | EscalationStep::Arrived
        | EscalationStep::Handled
        | EscalationStep::Closed => Ok(state.state >= i32::from(step)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: EscalationStep) -> EscalationState {
        EscalationState { state: step.into(), ..EscalationState::default() }
    }

    #[test]
    fn a_case_goes_on_from_where_it_stands() {
        let arrived = at(EscalationStep::Arrived);
        assert!(has_reached(&arrived, EscalationStep::Answered).unwrap());
        assert!(has_reached(&arrived, EscalationStep::Arrived).unwrap());
        assert!(!has_reached(&arrived, EscalationStep::Handled).unwrap());
        assert!(!has_reached(&at(EscalationStep::Unspecified), EscalationStep::Routed).unwrap());
    }

    #[test]
    fn a_case_that_was_sent_back_is_no_step_forward() {
        assert!(has_reached(&at(EscalationStep::Returned), EscalationStep::Routed).is_err());
        assert!(has_reached(&at(EscalationStep::Withdrawn), EscalationStep::Closed).is_err());
    }
}
