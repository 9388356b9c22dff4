//! Words for the enumerations of the contract: fixed English ones in JSON, translated in tables.

use lianxi_node::domain::{
    catalogue::{
        changes::{Effect, Kind},
        lint::Doubt,
    },
    unit::Level,
};
use lianxi_proto::{
    admin::v1::LinkState,
    types::v1::{CoverageState, EscalationKind, EscalationStep, Level as WireLevel, ReceiptStage},
};

use crate::texts::{Lang, Text};

/// Word of an enumeration: the one of JSON, and the text of tables.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Word {
    /// Fixed, lower case.
    pub(crate) json: &'static str,
    /// Translated.
    pub(crate) text: Text,
}

impl Word {
    const fn new(json: &'static str, text: Text) -> Self {
        Self { json, text }
    }

    /// The translated word.
    pub(crate) fn shown(self, lang: Lang) -> &'static str {
        self.text.get(lang)
    }
}

/// A value of the contract that this program does not know: a node newer than itself.
const UNKNOWN: Word = Word::new("unknown", Text::Unknown);

/// What was done to a part of a catalogue.
pub(crate) fn change(kind: Kind) -> Text {
    match kind {
        Kind::Added => Text::ChangeAdded,
        Kind::Removed => Text::ChangeRemoved,
        Kind::Changed => Text::ChangeChanged,
    }
}

/// What a change of a catalogue does.
pub(crate) fn effect(effect: Effect) -> Text {
    match effect {
        Effect::SameVersion => Text::EffectSameVersion,
        Effect::EarlierVersion => Text::EffectEarlierVersion,
        Effect::OtherKey => Text::EffectOtherKey,
        Effect::SeriesEnds => Text::EffectSeriesEnds,
        Effect::SeriesAnew => Text::EffectSeriesAnew,
        Effect::RecordsUncounted => Text::EffectRecordsUncounted,
        Effect::OtherPeriods => Text::EffectOtherPeriods,
        Effect::RecordsMayFail => Text::EffectRecordsMayFail,
        Effect::TasksRefused => Text::EffectTasksRefused,
        Effect::OtherTimes => Text::EffectOtherTimes,
        Effect::OtherDisclosure => Text::EffectOtherDisclosure,
        Effect::SeriesBegins => Text::EffectSeriesBegins,
        Effect::Wider => Text::EffectWider,
        Effect::Wording => Text::EffectWording,
    }
}

/// What may be wrong with a catalogue.
pub(crate) fn doubt(doubt: Doubt) -> Text {
    match doubt {
        Doubt::Unclassified => Text::DoubtUnclassified,
        Doubt::Uncounted => Text::DoubtUncounted,
        Doubt::GroupedPeople => Text::DoubtGroupedPeople,
        Doubt::SameTitle => Text::DoubtSameTitle,
        Doubt::NearlyFull => Text::DoubtNearlyFull,
    }
}

/// Word of a level.
pub(crate) fn level(level: i32) -> Word {
    match WireLevel::try_from(level) {
        Ok(WireLevel::City) => Word::new("city", Text::City),
        Ok(WireLevel::District) => Word::new("district", Text::District),
        Ok(WireLevel::Street) => Word::new("street", Text::Street),
        Ok(WireLevel::Community) => Word::new("community", Text::Community),
        Ok(WireLevel::Unspecified) | Err(_) => UNKNOWN,
    }
}

/// The number of a level in the contract.
pub(crate) fn wire_level(level: Level) -> i32 {
    let level = match level {
        Level::City => WireLevel::City,
        Level::District => WireLevel::District,
        Level::Street => WireLevel::Street,
        Level::Community => WireLevel::Community,
    };
    level.into()
}

/// Word of the state of a link; the root has none.
pub(crate) fn link(state: i32) -> Word {
    match LinkState::try_from(state) {
        Ok(LinkState::Unspecified) => Word::new("none", Text::LinkNone),
        Ok(LinkState::Up) => Word::new("up", Text::LinkUp),
        Ok(LinkState::Down) => Word::new("down", Text::LinkDown),
        Err(_) => UNKNOWN,
    }
}

/// Word of what a change would do to a child.
pub(crate) fn outlook(outlook: &str) -> Word {
    match outlook {
        "fine" => Word::new("fine", Text::OutlookFine),
        "breaks" => Word::new("breaks", Text::OutlookBreaks),
        _ => UNKNOWN,
    }
}

/// Word of the state of a branch in a coverage.
pub(crate) fn coverage(state: i32) -> Word {
    match CoverageState::try_from(state) {
        Ok(CoverageState::Included) => Word::new("included", Text::Included),
        Ok(CoverageState::Stale) => Word::new("stale", Text::Stale),
        Ok(CoverageState::Absent) => Word::new("absent", Text::Absent),
        Ok(CoverageState::Quarantined) => Word::new("quarantined", Text::Quarantined),
        Ok(CoverageState::Zero) => Word::new("zero", Text::Zero),
        Ok(CoverageState::ByParent) => Word::new("by_parent", Text::ByParent),
        Ok(CoverageState::Unspecified) | Err(_) => UNKNOWN,
    }
}

/// Word of the furthest stage of a recipient; none is an answer too.
pub(crate) fn stage(stage: i32) -> Word {
    match ReceiptStage::try_from(stage) {
        Ok(ReceiptStage::Unspecified) => Word::new("none", Text::StageNone),
        Ok(ReceiptStage::Durable) => Word::new("durable", Text::StageDurable),
        Ok(ReceiptStage::Validated) => Word::new("validated", Text::StageValidated),
        Ok(ReceiptStage::Seen) => Word::new("seen", Text::StageSeen),
        Ok(ReceiptStage::Done) => Word::new("done", Text::StageDone),
        Ok(ReceiptStage::Refused) => Word::new("refused", Text::StageRefused),
        Err(_) => UNKNOWN,
    }
}

/// Every stage that a recipient can be at, in their order.
pub(crate) const STAGES: [ReceiptStage; 6] = [
    ReceiptStage::Unspecified,
    ReceiptStage::Durable,
    ReceiptStage::Validated,
    ReceiptStage::Seen,
    ReceiptStage::Done,
    ReceiptStage::Refused,
];

/// Word of the state of a whistle: its last step.
pub(crate) fn step(step: i32) -> Word {
    match EscalationStep::try_from(step) {
        Ok(EscalationStep::Unspecified) => Word::new("raised", Text::StepRaised),
        Ok(EscalationStep::Routed) => Word::new("routed", Text::StepRouted),
        Ok(EscalationStep::Answered) => Word::new("answered", Text::StepAnswered),
        Ok(EscalationStep::Arrived) => Word::new("arrived", Text::StepArrived),
        Ok(EscalationStep::Handled) => Word::new("handled", Text::StepHandled),
        Ok(EscalationStep::Closed) => Word::new("closed", Text::StepClosed),
        Ok(EscalationStep::Withdrawn) => Word::new("withdrawn", Text::StepWithdrawn),
        Ok(EscalationStep::Returned) => Word::new("returned", Text::StepReturned),
        Err(_) => UNKNOWN,
    }
}

/// Word of the kind of a whistle.
pub(crate) fn kind(kind: i32) -> Word {
    match EscalationKind::try_from(kind) {
        Ok(EscalationKind::Routine) => Word::new("routine", Text::KindRoutine),
        Ok(EscalationKind::Hard) => Word::new("hard", Text::KindHard),
        Ok(EscalationKind::Emergency) => Word::new("emergency", Text::KindEmergency),
        Ok(EscalationKind::Unspecified) | Err(_) => UNKNOWN,
    }
}

/// The translated word of a lamp; a word that is not known is shown as it came.
pub(crate) fn lamp(word: &str, lang: Lang) -> &str {
    match word {
        "green" => Text::LampGreen.get(lang),
        "yellow" => Text::LampYellow.get(lang),
        "red" => Text::LampRed.get(lang),
        "grey" => Text::LampGrey.get(lang),
        "done" => Text::LampDone.get(lang),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_go_there_and_back() {
        for given in [Level::City, Level::District, Level::Street, Level::Community] {
            assert_eq!(level(wire_level(given)).json, given.as_str());
        }
    }

    #[test]
    fn a_newer_nodes_value_is_unknown_and_not_a_guess() {
        assert_eq!(level(99), UNKNOWN);
        assert_eq!(stage(99), UNKNOWN);
        assert_eq!(step(99), UNKNOWN);
        assert_eq!(coverage(0), UNKNOWN);
    }

    #[test]
    fn every_stage_has_its_own_word() {
        let words: std::collections::BTreeSet<_> =
            STAGES.iter().map(|given| stage(i32::from(*given)).json).collect();
        assert_eq!(words.len(), STAGES.len());
    }
}
