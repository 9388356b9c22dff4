//! What one catalogue changes of another, and what that does to figures, records and tasks.
//!
//! Promises that a figure never means two things under one version of its indicator: such a change
//! is one that may not be published. Must not judge records: whether they still hold is known only
//! where they are.

use std::collections::BTreeMap;

use super::Catalogue;
use crate::domain::{indicator::Indicator, record::RecordType};

/// What was done to a part of the catalogue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is another.
    Changed,
}

impl Kind {
    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

/// What a change does.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Effect {
    /// May not be published: an indicator counts something else under the same version.
    SameVersion,
    /// May not be published: an indicator goes back to an earlier version.
    EarlierVersion,
    /// May not be published: records are told apart by another field, so those that are there would
    /// come in twice.
    OtherKey,
    /// A series ends: the indicator is gone.
    SeriesEnds,
    /// A series begins anew: figures of unlike versions never add.
    SeriesAnew,
    /// Records are neither taken nor counted any more; those that are there stay.
    RecordsUncounted,
    /// Records count in other periods: every figure is computed again.
    OtherPeriods,
    /// Records that are there may not hold any more.
    RecordsMayFail,
    /// Tasks that cite it are refused from now on.
    TasksRefused,
    /// Whistles that are raised from now on have other times.
    OtherTimes,
    /// An indicator is about something else: small numbers are shown otherwise.
    OtherDisclosure,
    /// A series begins, filled from the records that are there.
    SeriesBegins,
    /// More is taken than before.
    Wider,
    /// Other words are shown.
    Wording,
}

impl Effect {
    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SameVersion => "same-version",
            Self::EarlierVersion => "earlier-version",
            Self::OtherKey => "other-key",
            Self::SeriesEnds => "series-ends",
            Self::SeriesAnew => "series-anew",
            Self::RecordsUncounted => "records-uncounted",
            Self::OtherPeriods => "other-periods",
            Self::RecordsMayFail => "records-may-fail",
            Self::TasksRefused => "tasks-refused",
            Self::OtherTimes => "other-times",
            Self::OtherDisclosure => "other-disclosure",
            Self::SeriesBegins => "series-begins",
            Self::Wider => "wider",
            Self::Wording => "wording",
        }
    }

    /// Why the catalogue may not follow the other, and the remedy; `None`: it may.
    pub fn refusal(self) -> Option<&'static str> {
        match self {
            Self::SameVersion => {
                Some("the indicator counts something else under the same version: raise it")
            }
            Self::EarlierVersion => {
                Some("the indicator goes back to an earlier version: raise the version")
            }
            Self::OtherKey => Some(
                "records are told apart by another field, so those that are there would come in \
                 twice: declare a record type of another name",
            ),
            Self::SeriesEnds
            | Self::SeriesAnew
            | Self::RecordsUncounted
            | Self::OtherPeriods
            | Self::RecordsMayFail
            | Self::TasksRefused
            | Self::OtherTimes
            | Self::OtherDisclosure
            | Self::SeriesBegins
            | Self::Wider
            | Self::Wording => None,
        }
    }

    /// True if the catalogue may not follow the other.
    pub fn is_refused(self) -> bool {
        self.refusal().is_some()
    }
}

/// One change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// Where: the list's name, and the id or name in it; e.g. `/indicators/received`.
    pub place: String,
    /// What was done.
    pub kind: Kind,
    /// What it does.
    pub effect: Effect,
}

impl Change {
    fn added(place: String, effect: Effect) -> Self {
        Self { place, kind: Kind::Added, effect }
    }

    fn removed(place: String, effect: Effect) -> Self {
        Self { place, kind: Kind::Removed, effect }
    }

    fn changed(place: impl Into<String>, effect: Effect) -> Self {
        Self { place: place.into(), kind: Kind::Changed, effect }
    }
}

/// What `after` changes of `before`: the document's parts in their order, ids in theirs.
pub fn between(before: &Catalogue, after: &Catalogue) -> Vec<Change> {
    let mut changes = Vec::new();
    if before.time_zone_name != after.time_zone_name {
        changes.push(Change::changed("/time_zone", Effect::OtherPeriods));
    }
    if before.finest != after.finest {
        changes.push(Change::changed("/finest", Effect::OtherPeriods));
    }
    if (&before.title, &before.title_zh) != (&after.title, &after.title_zh) {
        changes.push(Change::changed("/title", Effect::Wording));
    }
    changes.extend(of_record_types(before, after));
    changes.extend(of_indicators(before, after));
    for (id, pair) in paired(before.derived.iter(), after.derived.iter(), |each| &each.id) {
        let place = format!("/derived/{id}");
        // Nothing of it is signed: only what is shown is another.
        match pair {
            (Some(_), None) => changes.push(Change::removed(place, Effect::Wording)),
            (None, _) => changes.push(Change::added(place, Effect::Wording)),
            (Some(before), Some(after)) if before != after => {
                changes.push(Change::changed(place, Effect::Wording));
            }
            (Some(_), Some(_)) => {}
        }
    }
    changes.extend(of_tasks(before, after));
    for (kind, limits) in &after.limits {
        if before.limits.get(kind) != Some(limits) {
            changes.push(Change::changed(format!("/limits/{kind}"), Effect::OtherTimes));
        }
    }
    if before.warning != after.warning {
        changes.push(Change::changed("/lamp", Effect::OtherTimes));
    }
    changes
}

/// Entries of two lists by id, in the order of ids.
fn paired<'a, T>(
    before: impl Iterator<Item = &'a T>,
    after: impl Iterator<Item = &'a T>,
    id: fn(&T) -> &str,
) -> BTreeMap<&'a str, (Option<&'a T>, Option<&'a T>)> {
    let mut pairs: BTreeMap<&str, (Option<&T>, Option<&T>)> = BTreeMap::new();
    for entry in before {
        pairs.entry(id(entry)).or_default().0 = Some(entry);
    }
    for entry in after {
        pairs.entry(id(entry)).or_default().1 = Some(entry);
    }
    pairs
}

fn of_record_types(before: &Catalogue, after: &Catalogue) -> Vec<Change> {
    let mut changes = Vec::new();
    for (name, pair) in
        paired(before.record_types.values(), after.record_types.values(), RecordType::name)
    {
        let place = format!("/record_types/{name}");
        match pair {
            (Some(_), None) => changes.push(Change::removed(place, Effect::RecordsUncounted)),
            (None, _) => changes.push(Change::added(place, Effect::Wider)),
            (Some(before), Some(after)) => {
                changes.extend(of_record_type(&place, before, after));
            }
        }
    }
    changes
}

fn of_record_type(place: &str, before: &RecordType, after: &RecordType) -> Vec<Change> {
    let words = |of: &RecordType| (of.title().to_owned(), of.title_zh().to_owned());
    let effects = [
        ("key", Effect::OtherKey, before.key_field() != after.key_field()),
        ("time", Effect::OtherPeriods, before.time_field() != after.time_field()),
        ("schema", Effect::RecordsMayFail, before.schema_sha256() != after.schema_sha256()),
        ("title", Effect::Wording, words(before) != words(after)),
    ];
    let differs = effects.into_iter().filter(|(_, _, differs)| *differs);
    differs.map(|(part, effect, _)| Change::changed(format!("{place}/{part}"), effect)).collect()
}

fn of_indicators(before: &Catalogue, after: &Catalogue) -> Vec<Change> {
    let mut changes = Vec::new();
    for (id, pair) in paired(before.indicators.iter(), after.indicators.iter(), |each| &each.id) {
        let place = format!("/indicators/{id}");
        match pair {
            (Some(_), None) => changes.push(Change::removed(place, Effect::SeriesEnds)),
            (None, _) => changes.push(Change::added(place, Effect::SeriesBegins)),
            (Some(before), Some(after)) => {
                let effect = of_indicator(before, after);
                changes.extend(effect.map(|effect| Change::changed(place, effect)));
            }
        }
    }
    changes
}

fn of_indicator(before: &Indicator, after: &Indicator) -> Option<Effect> {
    if after.version < before.version {
        return Some(Effect::EarlierVersion);
    }
    if after.version > before.version {
        return Some(Effect::SeriesAnew);
    }
    if after.definition_sha256() != before.definition_sha256() {
        return Some(Effect::SameVersion);
    }
    if after.about != before.about {
        return Some(Effect::OtherDisclosure);
    }
    let words = |of: &Indicator| (of.title.clone(), of.title_zh.clone());
    (words(before) != words(after)).then_some(Effect::Wording)
}

fn of_tasks(before: &Catalogue, after: &Catalogue) -> Vec<Change> {
    let mut changes = Vec::new();
    for (id, pair) in paired(before.duty_list.iter(), after.duty_list.iter(), |item| &item.id) {
        let place = format!("/duty_list/{id}");
        match pair {
            (Some(_), None) => changes.push(Change::removed(place, Effect::TasksRefused)),
            (None, _) => changes.push(Change::added(place, Effect::Wider)),
            (Some(before), Some(after)) if before != after => {
                changes.push(Change::changed(place, Effect::Wording));
            }
            (Some(_), Some(_)) => {}
        }
    }
    for (number, pair) in paired(before.approvals.iter(), after.approvals.iter(), String::as_str) {
        let place = format!("/approvals/{number}");
        match pair {
            (Some(_), None) => changes.push(Change::removed(place, Effect::TasksRefused)),
            (None, _) => changes.push(Change::added(place, Effect::Wider)),
            (Some(_), Some(_)) => {}
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn document() -> Value {
        json!({
            "name": "sample", "version": 1, "title": "Sample", "title_zh": "样例",
            "time_zone": "Asia/Shanghai",
            "record_types": {"case": {
                "title": "Case", "title_zh": "案件", "key": "number", "time": "at",
                "schema": {
                    "type": "object", "required": ["number", "other", "at", "done"],
                    "properties": {
                        "number": {"type": "string", "maxLength": 20, "x-class": "identifier"},
                        "other": {"type": "string", "maxLength": 20, "x-class": "none"},
                        "at": {"type": "string", "format": "date-time", "x-class": "none"},
                        "done": {"type": "string", "format": "date-time", "x-class": "none"},
                        "cost": {"type": "integer", "x-class": "none"}
                    }
                }
            }},
            "indicators": [{
                "id": "filed", "version": 2, "title": "Filed", "title_zh": "立案数",
                "record_type": "case", "about": "work", "unit": "1",
                "filter": "cost != null", "measure": "count"
            }],
            "duty_list": [{"id": "salt", "title": "Salt", "title_zh": "撒盐"}],
            "approvals": ["〔2026〕17号"]
        })
    }

    fn parse(document: &Value) -> Catalogue {
        Catalogue::parse(&serde_json::to_vec(document).unwrap()).unwrap()
    }

    fn changes(edit: impl FnOnce(&mut Value)) -> Vec<(String, &'static str, Effect)> {
        let mut after = document();
        edit(&mut after);
        let changes = between(&parse(&document()), &parse(&after));
        changes.into_iter().map(|it| (it.place, it.kind.as_str(), it.effect)).collect()
    }

    fn one(pointer: &str, value: Value) -> (String, &'static str, Effect) {
        let mut changes = changes(|after| *after.pointer_mut(pointer).unwrap() = value);
        assert_eq!(changes.len(), 1, "{changes:?}");
        changes.remove(0)
    }

    #[test]
    fn the_same_catalogue_changes_nothing() {
        assert_eq!(changes(|after| after["version"] = json!(9)), []);
    }

    #[test]
    fn an_indicator_counts_the_same_under_one_version() {
        for (pointer, value) in [
            ("/indicators/0/filter", json!("cost == null")),
            ("/indicators/0/unit", json!("件")),
            ("/indicators/0/measure", json!({"sum": {"value": "cost"}})),
        ] {
            let place = "/indicators/filed".to_owned();
            assert_eq!(one(pointer, value), (place, "changed", Effect::SameVersion), "{pointer}");
        }
        let grouped = changes(|after| after["indicators"][0]["group"] = json!("other"));
        assert_eq!(grouped[0].2, Effect::SameVersion);
        let all = changes(|after| {
            after["indicators"][0].as_object_mut().unwrap().remove("filter");
        });
        assert_eq!(all[0].2, Effect::SameVersion);
        // The same words, but what they compare has become a point in time.
        let field = "/record_types/case/schema/properties/cost";
        let typed = changes(|after| {
            *after.pointer_mut(field).unwrap() =
                json!({"type": "string", "format": "date-time", "x-class": "none"});
        });
        let effects: Vec<Effect> = typed.iter().map(|it| it.2).collect();
        assert_eq!(effects, [Effect::RecordsMayFail, Effect::SameVersion]);
        assert!(Effect::SameVersion.is_refused());
    }

    #[test]
    fn a_series_begins_ends_and_begins_anew() {
        let (_, kind, effect) = one("/indicators/0/version", json!(3));
        assert_eq!((kind, effect, effect.is_refused()), ("changed", Effect::SeriesAnew, false));
        let (_, _, effect) = one("/indicators/0/version", json!(1));
        assert_eq!((effect, effect.is_refused()), (Effect::EarlierVersion, true));
        let renamed = changes(|after| after["indicators"][0]["id"] = json!("all"));
        assert_eq!(
            renamed,
            [
                ("/indicators/all".to_owned(), "added", Effect::SeriesBegins),
                ("/indicators/filed".to_owned(), "removed", Effect::SeriesEnds),
            ]
        );
    }

    #[test]
    fn each_part_has_its_effect() {
        let case = "/record_types/case";
        for (pointer, value, place, effect) in [
            ("/time_zone", json!("UTC"), "/time_zone".to_owned(), Effect::OtherPeriods),
            ("/title_zh", json!("例"), "/title".to_owned(), Effect::Wording),
            (&format!("{case}/key"), json!("other"), format!("{case}/key"), Effect::OtherKey),
            (&format!("{case}/time"), json!("done"), format!("{case}/time"), Effect::OtherPeriods),
            (
                &format!("{case}/schema/properties/number/maxLength"),
                json!(5),
                format!("{case}/schema"),
                Effect::RecordsMayFail,
            ),
            (&format!("{case}/title"), json!("Cases"), format!("{case}/title"), Effect::Wording),
            (
                "/indicators/0/title",
                json!("Files"),
                "/indicators/filed".to_owned(),
                Effect::Wording,
            ),
            (
                "/indicators/0/about",
                json!("person"),
                "/indicators/filed".to_owned(),
                Effect::OtherDisclosure,
            ),
            ("/duty_list/0/title", json!("S"), "/duty_list/salt".to_owned(), Effect::Wording),
        ] {
            assert_eq!(one(pointer, value), (place, "changed", effect), "{pointer}");
        }
        let lists = changes(|after| {
            after["duty_list"] = json!([{"id": "mow", "title": "Mow", "title_zh": "割草"}]);
            after["approvals"] = json!(["〔2026〕18号"]);
            after["limits"] = json!({"hard": {"answer": "1h", "arrive": "2h"}});
            after["lamp"] = json!({"yellow_last_percent": 1});
        });
        assert_eq!(
            lists,
            [
                ("/duty_list/mow".to_owned(), "added", Effect::Wider),
                ("/duty_list/salt".to_owned(), "removed", Effect::TasksRefused),
                ("/approvals/〔2026〕17号".to_owned(), "removed", Effect::TasksRefused),
                ("/approvals/〔2026〕18号".to_owned(), "added", Effect::Wider),
                ("/limits/hard".to_owned(), "changed", Effect::OtherTimes),
                ("/lamp".to_owned(), "changed", Effect::OtherTimes),
            ]
        );
    }

    #[test]
    fn record_types_come_and_go() {
        let moved = changes(|after| {
            let case = after["record_types"].as_object_mut().unwrap().remove("case").unwrap();
            after["record_types"]["visit"] = case;
            after["indicators"] = json!([]);
        });
        assert_eq!(
            moved,
            [
                ("/record_types/case".to_owned(), "removed", Effect::RecordsUncounted),
                ("/record_types/visit".to_owned(), "added", Effect::Wider),
                ("/indicators/filed".to_owned(), "removed", Effect::SeriesEnds),
            ]
        );
    }
}
