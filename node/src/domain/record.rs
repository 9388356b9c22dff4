//! Record types: the shape of the JSON documents that a unit keeps.
//!
//! What is said of an invalid record names the place and the rule, never the value: it goes to logs,
//! reports and operators.

use std::collections::BTreeMap;

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use jsonschema::{PatternOptions, ValidationError, Validator, error::ValidationErrorKind};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::domain::period::{self, Month};

/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 128;

/// Longest value of a field that figures are grouped by, in characters.
pub const MAX_GROUP_LENGTH: u64 = 128;

/// Most violations that are told of one record.
pub const MAX_VIOLATIONS: usize = 16;

/// What a field's values may tell about people.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Nothing: figures may be grouped by it.
    None,
    /// Names and other personal facts.
    Personal,
    /// Addresses and coordinates.
    Address,
    /// Telephone numbers, mail addresses, accounts.
    Contact,
    /// Text that anybody wrote; it can hold anything.
    FreeText,
    /// Numbers of cases, cards, people.
    Identifier,
}

/// How expressions see a field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `format: date-time`: a point in time.
    Instant,
    /// `type: integer`.
    Integer,
    /// `type: number`.
    Number,
    /// `type: boolean`.
    Boolean,
    /// `type: string`.
    Text,
    /// A list, an object, or one of several types.
    Other,
}

impl Kind {
    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Instant => "instant",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Text => "text",
            Self::Other => "other",
        }
    }
}

/// A top-level field as its schema describes it.
#[derive(Clone, Debug)]
pub struct Field {
    /// How expressions see it.
    pub kind: Kind,
    /// `x-class`; `None` is treated as the most sensitive.
    pub class: Option<Class>,
    /// True if a record may leave it out or set it to null.
    pub optional: bool,
    /// A valid value, if the schema's words give one.
    pub(crate) sample: Value,
    short: bool,
}

impl Field {
    #[cfg(test)]
    pub(crate) fn for_tests(kind: Kind, class: Option<Class>) -> Self {
        Self { kind, class, optional: true, sample: Value::Null, short: false }
    }

    /// True if the catalogue says that values tell nothing about people.
    pub fn is_open(&self) -> bool {
        self.class == Some(Class::None)
    }

    /// True if figures can be grouped by the field: few short values.
    pub fn is_groupable(&self) -> bool {
        match self.kind {
            Kind::Integer | Kind::Boolean => true,
            Kind::Text => self.short,
            Kind::Instant | Kind::Number | Kind::Other => false,
        }
    }
}

/// Why a record type is not accepted: where in the schema and what to do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct SchemaError {
    /// JSON pointer within the record type.
    pub pointer: String,
    /// What is wrong and the remedy.
    pub reason: String,
}

/// Why a record has no month.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The time field has no time.
    #[error("field {0:?} holds no time: give it as 2011-07-01T05:32:33Z")]
    Time(String),
    /// The time is not in the calendar.
    #[error("field {0:?} lies outside the calendar")]
    Calendar(String, #[source] period::Error),
}

/// One rule that a record breaks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// JSON pointer into the record. Names of fields that are no plain words are `*`.
    pub record_path: String,
    /// JSON pointer into the schema.
    pub schema_path: String,
    /// What the rule demands, without the value.
    pub reason: String,
}

/// A declared shape of records.
#[derive(Debug)]
pub struct RecordType {
    name: String,
    title: String,
    title_zh: String,
    key_field: String,
    time_field: String,
    fields: BTreeMap<String, Field>,
    validator: Validator,
    schema_sha256: [u8; 32],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Declared {
    title: String,
    title_zh: String,
    key: String,
    time: String,
    schema: Value,
}

impl RecordType {
    pub(crate) fn new(name: String, declared: Declared) -> Result<Self, SchemaError> {
        let Declared { title, title_zh, key, time, schema } = declared;
        check_dialect(&schema)?;
        check_references(&schema, &mut "/schema".to_owned())?;
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .should_validate_formats(true)
            .should_ignore_unknown_formats(false)
            .with_pattern_options(PatternOptions::regex().size_limit(1 << 20))
            .offline()
            .build(&schema)
            .map_err(|error| {
                fault(
                    &format!("/schema{}", error.instance_path()),
                    format!("the schema is not valid JSON Schema 2020-12: {error}"),
                )
            })?;
        let fields = fields(&schema)?;
        check_key(&key, &fields, &schema)?;
        let timed = fields.get(&time).filter(|field| !field.optional);
        if timed.is_none_or(|field| field.kind != Kind::Instant) {
            return Err(fault(
                "/time",
                format!("{time:?} must be a required property with format date-time"),
            ));
        }
        Ok(Self {
            name,
            title,
            title_zh,
            key_field: key,
            time_field: time,
            fields,
            validator,
            schema_sha256: Sha256::digest(schema.to_string()).into(),
        })
    }

    /// Name in the catalogue.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// English title.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Chinese title.
    pub fn title_zh(&self) -> &str {
        &self.title_zh
    }

    /// Field that tells records apart.
    pub fn key_field(&self) -> &str {
        &self.key_field
    }

    /// Field that says which month a record counts in.
    pub fn time_field(&self) -> &str {
        &self.time_field
    }

    /// Digest of the schema; the order of names does not matter.
    pub fn schema_sha256(&self) -> &[u8; 32] {
        &self.schema_sha256
    }

    /// Top-level fields by name.
    pub fn fields(&self) -> &BTreeMap<String, Field> {
        &self.fields
    }

    /// Tells the rules that a record breaks, the first [`MAX_VIOLATIONS`]; none: it is valid.
    pub fn validate(&self, record: &Value) -> Vec<Violation> {
        if !self.validator.is_valid(record) {
            return self
                .validator
                .iter_errors(record)
                .take(MAX_VIOLATIONS)
                .map(|error| violation(&error))
                .collect();
        }
        let keyed = self.key(record).is_some();
        let broken = (!keyed).then(|| Violation {
            record_path: format!("/{}", escape(&self.key_field)),
            schema_path: String::new(),
            reason: format!("the key must have 1 to {MAX_KEY_BYTES} bytes"),
        });
        broken.into_iter().collect()
    }

    /// Returns what tells the record from others of its type; `None` if it holds no usable key.
    pub fn key(&self, record: &Value) -> Option<String> {
        let key = match record.get(&self.key_field)? {
            Value::String(text) => text.clone(),
            Value::Number(number) if !number.is_f64() => number.to_string(),
            Value::Number(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Array(_)
            | Value::Object(_) => return None,
        };
        (1..=MAX_KEY_BYTES).contains(&key.len()).then_some(key)
    }

    /// Returns the day that the record counts in.
    ///
    /// # Errors
    ///
    /// [`Error`], never for a valid record of the years 1 to 9999.
    pub fn day(&self, record: &Value, tz: &TimeZone) -> Result<Date, Error> {
        day_of(record, &self.time_field, tz)
    }
}

/// Returns the day at `tz` of the time that a field holds.
///
/// # Errors
///
/// [`Error`]: there is none, or it is outside the years 1 to 9999.
pub fn day_of(record: &Value, field: &str, tz: &TimeZone) -> Result<Date, Error> {
    let instant = record.get(field).and_then(Value::as_str);
    let instant: Timestamp =
        instant.and_then(|text| text.parse().ok()).ok_or_else(|| Error::Time(field.to_owned()))?;
    let day = tz.to_datetime(instant).date();
    let calendar = |error| Error::Calendar(field.to_owned(), error);
    Month::of_date(day).map(|_| day).map_err(calendar)
}

fn fault(pointer: &str, reason: String) -> SchemaError {
    SchemaError { pointer: pointer.to_owned(), reason }
}

fn check_dialect(schema: &Value) -> Result<(), SchemaError> {
    const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
    match schema.get("$schema").map(Value::as_str) {
        None | Some(Some(DIALECT)) => {}
        Some(_) => return Err(fault("/schema/$schema", format!("use {DIALECT}, or leave it out"))),
    }
    if schema.get("type").and_then(Value::as_str) == Some("object") {
        return Ok(());
    }
    Err(fault("/schema/type", "a record is an object: set \"type\": \"object\"".to_owned()))
}

/// References stay inside the schema: nothing is ever fetched.
fn check_references(value: &Value, pointer: &mut String) -> Result<(), SchemaError> {
    let length = pointer.len();
    let mut child = |name: &str, value: &Value| {
        pointer.push('/');
        pointer.push_str(&escape(name));
        let local = value.as_str().is_none_or(|target| target.starts_with('#'));
        if matches!(name, "$ref" | "$dynamicRef") && !local {
            let reason = "the reference leaves the schema: copy what it means to $defs and refer \
                          to #/$defs/…";
            return Err(fault(pointer, reason.to_owned()));
        }
        check_references(value, pointer)?;
        pointer.truncate(length);
        Ok(())
    };
    match value {
        Value::Object(members) => members.iter().try_for_each(|(name, value)| child(name, value)),
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(index, value)| child(&index.to_string(), value))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn check_key(
    key: &str,
    fields: &BTreeMap<String, Field>,
    schema: &Value,
) -> Result<(), SchemaError> {
    let field = fields.get(key).filter(|field| !field.optional);
    let kind = field.map(|field| field.kind);
    let bounded = match kind {
        Some(Kind::Integer) => true,
        Some(Kind::Text) => described(schema, key)
            .any(|property| property.get("maxLength").is_some_and(|length| at_most(length, 128))),
        Some(Kind::Instant | Kind::Number | Kind::Boolean | Kind::Other) | None => false,
    };
    if bounded {
        return Ok(());
    }
    let reason = format!(
        "{key:?} must be a required property of type integer, or string with maxLength ≤ {MAX_KEY_BYTES}"
    );
    Err(fault("/key", reason))
}

fn fields(schema: &Value) -> Result<BTreeMap<String, Field>, SchemaError> {
    let properties = schema.get("properties").and_then(Value::as_object).ok_or_else(|| {
        fault("/schema/properties", "declare the fields as properties of the schema".to_owned())
    })?;
    let required = schema.get("required").and_then(Value::as_array);
    let is_required = |name: &str| {
        required.is_some_and(|names| names.iter().any(|each| each.as_str() == Some(name)))
    };
    let field = |name: &String| {
        let class = described(schema, name).find_map(|property| property.get("x-class"));
        let class = class.map(Class::deserialize).transpose().map_err(|error| {
            fault(&format!("/schema/properties/{}/x-class", escape(name)), error.to_string())
        })?;
        let types = types(schema, name);
        let nullable = types.is_empty() || types.contains(&"null");
        let kind = kind(schema, name, &types);
        Ok(Field {
            kind,
            class,
            optional: nullable || !is_required(name),
            sample: sample(schema, name, kind),
            short: is_short(schema, name),
        })
    };
    properties.keys().map(|name| Ok((name.clone(), field(name)?))).collect()
}

/// The property and what it refers to within the schema, nearest first.
fn described<'s>(schema: &'s Value, name: &str) -> impl Iterator<Item = &'s Value> {
    let property = schema.get("properties").and_then(|properties| properties.get(name));
    std::iter::successors(property, move |property| {
        let target = property.get("$ref")?.as_str()?.strip_prefix('#')?;
        schema.pointer(target)
    })
    .take(8)
}

fn types<'s>(schema: &'s Value, name: &str) -> Vec<&'s str> {
    let declared = described(schema, name).find_map(|property| property.get("type"));
    match declared {
        Some(Value::String(single)) => vec![single],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => {
            Vec::new()
        }
    }
}

fn kind(schema: &Value, name: &str, types: &[&str]) -> Kind {
    let format = described(schema, name).find_map(|property| property.get("format"));
    let mut types = types.iter().filter(|&&each| each != "null");
    match (types.next(), types.next()) {
        (Some(&"string"), None) if format.and_then(Value::as_str) == Some("date-time") => {
            Kind::Instant
        }
        (Some(&"string"), None) => Kind::Text,
        (Some(&"integer"), None) => Kind::Integer,
        (Some(&"number"), None) => Kind::Number,
        (Some(&"boolean"), None) => Kind::Boolean,
        _ => Kind::Other,
    }
}

fn options<'s>(schema: &'s Value, name: &str) -> Option<&'s Vec<Value>> {
    described(schema, name).find_map(|property| property.get("enum"))?.as_array()
}

fn sample(schema: &Value, name: &str, kind: Kind) -> Value {
    let first =
        options(schema, name).and_then(|options| options.iter().find(|each| !each.is_null()));
    if let Some(first) = first {
        return first.clone();
    }
    match kind {
        Kind::Instant => Value::from("2011-07-01T00:00:00Z"),
        Kind::Integer => Value::from(1),
        Kind::Number => Value::from(1.0),
        Kind::Boolean => Value::from(true),
        Kind::Text => Value::from("1"),
        Kind::Other => Value::Null,
    }
}

fn is_short(schema: &Value, name: &str) -> bool {
    let short = |option: &Value| {
        option.as_str().is_none_or(|text| text.chars().count() as u64 <= MAX_GROUP_LENGTH)
    };
    options(schema, name).is_some_and(|options| options.iter().all(short))
        || described(schema, name).any(|property| {
            property.get("maxLength").is_some_and(|length| at_most(length, MAX_GROUP_LENGTH))
        })
}

fn at_most(value: &Value, limit: u64) -> bool {
    value.as_u64().is_some_and(|value| value <= limit)
}

fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn is_plain(name: &str) -> bool {
    let mut characters = name.chars();
    name.len() <= 64
        && characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|each| each.is_ascii_alphanumeric() || matches!(each, '_' | '-'))
}

/// Names of fields are content too where a schema lets records choose them.
fn place(pointer: &str) -> String {
    let shown = |segment: &str| {
        let index = !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
        let shown = (index && segment.len() <= 6) || is_plain(segment);
        if shown { segment.to_owned() } else { "*".to_owned() }
    };
    pointer.split('/').skip(1).fold(String::new(), |place, segment| place + "/" + &shown(segment))
}

fn names(fields: &[String]) -> String {
    let plain: Vec<&str> =
        fields.iter().map(String::as_str).filter(|name| is_plain(name)).take(8).collect();
    if plain.is_empty() { fields.len().to_string() } else { plain.join(", ") }
}

fn violation(error: &ValidationError<'_>) -> Violation {
    Violation {
        record_path: place(error.instance_path().as_str()),
        schema_path: error.schema_path().as_str().to_owned(),
        reason: reason(error.kind()),
    }
}

/// Own words for each rule: the library's messages quote the value.
#[allow(clippy::wildcard_enum_match_arm, reason = "rules without a limit to tell share one text")]
fn reason(kind: &ValidationErrorKind) -> String {
    use ValidationErrorKind as Rule;
    match kind {
        Rule::AdditionalProperties { unexpected } | Rule::UnevaluatedProperties { unexpected } => {
            format!("fields that the record type does not have: {}", names(unexpected))
        }
        Rule::Required { property } => {
            format!("required field {} is missing", property.as_str().unwrap_or_default())
        }
        Rule::Type { kind } => format!("must be of type {}", type_words(kind)),
        Rule::Format { format } => format!("must have the format {format}"),
        Rule::Pattern { pattern } => format!("must match the pattern {pattern}"),
        Rule::Enum { options } => format!("must be one of {options}"),
        Rule::Constant { expected_value } => format!("must be {expected_value}"),
        Rule::Minimum { limit } => format!("must be at least {limit}"),
        Rule::Maximum { limit } => format!("must be at most {limit}"),
        Rule::ExclusiveMinimum { limit } => format!("must be above {limit}"),
        Rule::ExclusiveMaximum { limit } => format!("must be below {limit}"),
        Rule::MinLength { limit } => format!("must have at least {limit} characters"),
        Rule::MaxLength { limit } => format!("must have at most {limit} characters"),
        Rule::MinItems { limit } => format!("must have at least {limit} items"),
        Rule::MaxItems { limit } => format!("must have at most {limit} items"),
        Rule::MinProperties { limit } => format!("must have at least {limit} fields"),
        Rule::MaxProperties { limit } => format!("must have at most {limit} fields"),
        Rule::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        Rule::UniqueItems => "must not hold an item twice".to_owned(),
        other => format!("breaks the rule {}", other.keyword()),
    }
}

fn type_words(kind: &jsonschema::error::TypeKind) -> String {
    match kind {
        jsonschema::error::TypeKind::Single(single) => single.to_string(),
        jsonschema::error::TypeKind::Multiple(several) => {
            several.iter().map(|each| each.to_string()).collect::<Vec<_>>().join(" or ")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn declared(schema: Value) -> Declared {
        Declared {
            title: "Case".into(),
            title_zh: "案件".into(),
            key: "number".into(),
            time: "at".into(),
            schema,
        }
    }

    fn schema() -> Value {
        json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["number", "at"],
            "$defs": {"note": {"type": ["string", "null"], "maxLength": 10, "x-class": "free-text"}},
            "properties": {
                "number": {"type": "string", "maxLength": 20},
                "at": {"type": "string", "format": "date-time", "x-class": "none"},
                "state": {"enum": ["open", "closed"], "type": "string", "x-class": "none"},
                "hours": {"type": "number", "minimum": 0, "multipleOf": 0.5},
                "people": {"type": "integer", "maximum": 99},
                "code": {"type": "string", "pattern": "^[0-9]{3}$"},
                "note": {"$ref": "#/$defs/note"},
                "tags": {"type": "array", "items": {"type": "string", "minLength": 2}},
                "more": {"type": "object", "additionalProperties": {"type": "integer"}}
            }
        })
    }

    fn case() -> RecordType {
        RecordType::new("case".into(), declared(schema())).unwrap()
    }

    fn record(extra: Value) -> Value {
        let mut record = json!({"number": "17", "at": "2011-07-01T05:32:33Z"});
        let fields = record.as_object_mut().unwrap();
        fields.extend(extra.as_object().unwrap().clone());
        record
    }

    #[test]
    fn a_valid_record_has_no_violations() {
        let full = record(json!({
            "state": "open", "hours": 1.5, "people": 3.0, "code": "007", "note": null,
            "tags": ["ab"], "more": {"a": 1}
        }));
        assert_eq!(case().validate(&full), []);
    }

    #[test]
    fn violations_name_place_and_rule_but_never_the_value() {
        const SECRET: &str = "张三13800138000";
        for (extra, record_path, schema_path, word) in [
            (json!({"state": SECRET}), "/state", "/properties/state/enum", "closed"),
            (json!({"hours": SECRET}), "/hours", "/properties/hours/type", "number"),
            (json!({"hours": 0.3}), "/hours", "/properties/hours/multipleOf", "0.5"),
            (json!({"people": 138_001}), "/people", "/properties/people/maximum", "99"),
            (json!({"code": SECRET}), "/code", "/properties/code/pattern", "[0-9]{3}"),
            (json!({"note": SECRET}), "/note", "/$defs/note/maxLength", "10"),
            (json!({"tags": ["ab", "x"]}), "/tags/1", "minLength", "2"),
            (json!({"more": {SECRET: SECRET}}), "/more/*", "additionalProperties/type", "integer"),
            (json!({SECRET: 1}), "", "/additionalProperties", "1"),
            (json!({"phone": SECRET}), "", "/additionalProperties", "phone"),
            (json!({"at": SECRET}), "/at", "/properties/at/format", "date-time"),
            (json!({"at": "2011-07-01 05:32"}), "/at", "/properties/at/format", "date-time"),
            (json!({"number": "9".repeat(21)}), "/number", "/properties/number/maxLength", "20"),
        ] {
            let violations = case().validate(&record(extra.clone()));
            let [violation] = violations.as_slice() else { panic!("{extra}: {violations:?}") };
            assert_eq!(violation.record_path, record_path, "{extra}");
            assert!(violation.schema_path.contains(schema_path), "{extra}: {violation:?}");
            assert!(violation.reason.contains(word), "{extra}: {violation:?}");
            let told = format!("{violation:?}");
            assert!(!told.contains("张三") && !told.contains("138001"), "{told}");
        }
        let missing = case().validate(&json!({"number": "1"}));
        assert_eq!(missing[0].reason, "required field at is missing");
        assert_eq!(case().validate(&json!("张三"))[0].reason, "must be of type object");
    }

    #[test]
    fn the_number_of_violations_is_bounded() {
        let many = record(json!({"tags": vec!["x"; 5000]}));
        assert_eq!(case().validate(&many).len(), MAX_VIOLATIONS);
    }

    #[test]
    fn the_key_tells_records_apart() {
        assert_eq!(case().key(&record(json!({}))).unwrap(), "17");
        for unusable in [json!(""), json!(null), json!(1.5), json!([1]), json!("9".repeat(129))] {
            assert_eq!(case().key(&record(json!({"number": unusable}))), None);
        }
        let empty = case().validate(&record(json!({"number": ""})));
        assert_eq!(empty[0].record_path, "/number");
        let mut by_number = schema();
        by_number["properties"]["number"] = json!({"type": "integer"});
        let case = RecordType::new("case".into(), declared(by_number)).unwrap();
        assert_eq!(case.key(&record(json!({"number": 17}))).unwrap(), "17");
    }

    #[test]
    fn the_month_is_the_one_of_the_time_zone() {
        let tz = TimeZone::fixed(jiff::tz::offset(-4));
        let day = |at: &str| case().day(&record(json!({"at": at})), &tz);
        assert_eq!(day("2011-08-01T03:59:59Z").unwrap().to_string(), "2011-07-31");
        assert_eq!(day("2011-08-01T00:00:00-04:00").unwrap().to_string(), "2011-08-01");
        assert_eq!(day("张三"), Err(Error::Time("at".into())));
        assert!(!day("张三").unwrap_err().to_string().contains("张三"));
    }

    #[test]
    fn fields_are_described_through_local_references() {
        let case = case();
        let note = &case.fields()["note"];
        assert_eq!((note.kind, note.class), (Kind::Text, Some(Class::FreeText)));
        assert!(note.optional && note.is_groupable() && !note.is_open());
        assert_eq!(case.fields()["at"].kind, Kind::Instant);
        assert!(!case.fields()["at"].optional);
        assert!(case.fields()["state"].is_groupable());
        assert!(!case.fields()["code"].is_groupable(), "a text without a length");
        assert!(!case.fields()["code"].is_open(), "a field without a class");
        assert_eq!(case.fields()["tags"].kind, Kind::Other);
    }

    #[test]
    fn a_schema_never_reaches_outside() {
        for (name, target) in [
            ("$ref", "https://example.com/schema.json"),
            ("$ref", "other.json#/a"),
            ("$dynamicRef", "file:///etc/passwd"),
        ] {
            let mut schema = schema();
            schema["properties"]["tags"]["items"] = json!({name: target});
            let error = RecordType::new("case".into(), declared(schema)).unwrap_err();
            assert_eq!(error.pointer, format!("/schema/properties/tags/items/{name}"));
            assert!(error.reason.contains("$defs"));
        }
    }

    #[test]
    fn what_the_schema_cannot_mean_is_refused() {
        for (place, value, pointer) in [
            ("/properties/code", json!({"type": 7}), "/schema/properties/code/type"),
            ("/properties/code", json!({"pattern": "("}), "/schema/properties/code/pattern"),
            ("/properties/code", json!({"format": "phone-number"}), "/schema"),
            ("/properties/code", json!({"$ref": "#/$defs/nothing"}), "/schema"),
        ] {
            let mut schema = schema();
            *schema.pointer_mut(place).unwrap() = value;
            let error = RecordType::new("case".into(), declared(schema)).unwrap_err();
            assert!(error.pointer.starts_with(pointer), "{error:?}");
        }
    }
}
