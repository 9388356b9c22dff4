//! What is allowed in a catalogue and hardly meant.

use std::collections::BTreeMap;

use super::{Catalogue, MAX_DOCUMENT_BYTES};
use crate::domain::indicator::About;

/// From this part of the largest size on, a document is nearly full: in per cent.
const NEARLY_FULL_PERCENT: usize = 80;

/// What may be wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Doubt {
    /// A field does not say what it tells about people: it is treated like the most sensitive.
    Unclassified,
    /// Nothing is counted of a record type.
    Uncounted,
    /// People are counted by group: small groups will not be shown.
    GroupedPeople,
    /// Two indicators have one title: a table shows two columns of that name.
    SameTitle,
    /// Little room is left for more.
    NearlyFull,
}

impl Doubt {
    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unclassified => "unclassified",
            Self::Uncounted => "uncounted",
            Self::GroupedPeople => "grouped-people",
            Self::SameTitle => "same-title",
            Self::NearlyFull => "nearly-full",
        }
    }
}

/// The doubts about a catalogue whose document has `bytes`, each with its place: the list's name,
/// and the id or name in it.
pub fn doubts(catalogue: &Catalogue, bytes: usize) -> Vec<(String, Doubt)> {
    let mut doubts = Vec::new();
    if bytes * 100 >= MAX_DOCUMENT_BYTES * NEARLY_FULL_PERCENT {
        doubts.push((String::new(), Doubt::NearlyFull));
    }
    for (name, declared) in &catalogue.record_types {
        let place = format!("/record_types/{name}");
        if catalogue.indicators.iter().all(|indicator| indicator.record_type != *name) {
            doubts.push((place.clone(), Doubt::Uncounted));
        }
        let unclassified = declared.fields().iter().filter(|(_, field)| field.class.is_none());
        doubts.extend(
            unclassified.map(|(field, _)| {
                (format!("{place}/schema/properties/{field}"), Doubt::Unclassified)
            }),
        );
    }
    let mut titles: BTreeMap<&str, u32> = BTreeMap::new();
    let derived = catalogue.derived.iter().map(|figure| (&figure.title, &figure.title_zh));
    let counted = catalogue.indicators.iter().map(|each| (&each.title, &each.title_zh));
    for (title, title_zh) in counted.chain(derived) {
        // The same words in both languages are one title.
        let words = [title.as_str(), title_zh.as_str()];
        let own = if words[0] == words[1] { &words[..1] } else { &words[..] };
        own.iter().for_each(|title| *titles.entry(title).or_default() += 1);
    }
    for indicator in &catalogue.indicators {
        let place = format!("/indicators/{}", indicator.id);
        if indicator.about == About::Person && indicator.group.is_some() {
            doubts.push((place.clone(), Doubt::GroupedPeople));
        }
        let is_twice = |title: &str| titles.get(title).is_some_and(|times| *times > 1);
        if is_twice(&indicator.title) || is_twice(&indicator.title_zh) {
            doubts.push((place, Doubt::SameTitle));
        }
    }
    doubts
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn indicator(id: &str, title: &str, more: Value) -> Value {
        let mut indicator = json!({
            "id": id, "version": 1, "title": title, "title_zh": format!("{title}数"),
            "record_type": "case", "about": "work", "unit": "1", "measure": "count"
        });
        indicator.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        indicator
    }

    fn doubts_of(indicators: Value, field: Value) -> Vec<(String, &'static str)> {
        let of_type = |field: &Value| {
            json!({
                "title": "t", "title_zh": "t", "key": "id", "time": "at",
                "schema": {"type": "object", "required": ["id", "at"], "properties": {
                    "id": {"type": "integer", "x-class": "identifier"},
                    "at": {"type": "string", "format": "date-time", "x-class": "none"},
                    "field": field
                }}
            })
        };
        let document = json!({
            "name": "sample", "version": 1, "title": "t", "title_zh": "t", "time_zone": "UTC",
            "record_types": {"case": of_type(&field)},
            "indicators": indicators
        });
        let bytes = serde_json::to_vec(&document).unwrap();
        let catalogue = Catalogue::parse(&bytes).unwrap();
        let found = doubts(&catalogue, bytes.len());
        found.into_iter().map(|(place, doubt)| (place, doubt.as_str())).collect()
    }

    #[test]
    fn what_is_sound_raises_no_doubt() {
        let sound = json!([
            indicator("a", "A", json!({})),
            indicator("b", "B", json!({"title_zh": "B", "group": "field"})),
            indicator("c", "C", json!({"about": "person"}))
        ]);
        let field = json!({"type": "integer", "x-class": "none"});
        assert_eq!(doubts_of(sound, field), []);
    }

    #[test]
    fn each_doubt_has_its_place() {
        let open = json!({"type": "integer", "x-class": "none"});
        assert_eq!(
            doubts_of(json!([]), json!({"type": "integer"})),
            [
                ("/record_types/case".to_owned(), "uncounted"),
                ("/record_types/case/schema/properties/field".to_owned(), "unclassified"),
            ]
        );
        let people = json!([indicator("a", "A", json!({"about": "person", "group": "field"}))]);
        let expected = [("/indicators/a".to_owned(), "grouped-people")];
        assert_eq!(doubts_of(people, open.clone()), expected);
        let twice = json!([
            indicator("a", "A", json!({})),
            indicator("b", "A", json!({"title_zh": "B"})),
            indicator("c", "C", json!({}))
        ]);
        let expected = ["a", "b"].map(|id| (format!("/indicators/{id}"), "same-title"));
        assert_eq!(doubts_of(twice, open), expected);
        let words = "x".repeat(MAX_DOCUMENT_BYTES * 4 / 5);
        let long = json!({"type": "integer", "x-class": "none", "description": words});
        let full = doubts_of(json!([indicator("a", "A", json!({}))]), long);
        assert_eq!(full, [(String::new(), "nearly-full")]);
    }
}
