//! Mappings: how the rows of another system's export become records of units.
//!
//! A mapping is declared, never guessed: what it does not say does not happen. Its reasons never
//! repeat a value of a row, because rows hold what must not leave the node.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use csv::ByteRecord;
use jiff::{
    Timestamp,
    civil::DateTime,
    fmt::strtime::BrokenDownTime,
    tz::{AmbiguousOffset, TimeZone},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Number, Value};

use super::unit::UnitCode;

/// Most entries of a look-up table.
pub const MAX_LOOKUP_ENTRIES: usize = 100_000;

/// Most target fields.
pub const MAX_FIELDS: usize = 256;

/// Significant digits that a JSON number keeps exactly.
const MAX_DIGITS: usize = 15;

/// Why a mapping, or a mapping with a file's heading, was not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The text is no TOML or JSON of the right shape.
    #[error("the mapping cannot be read at {place}: {reason}")]
    Syntax {
        /// Line and column.
        place: String,
        /// What is wrong there.
        reason: String,
    },
    /// A key has a value that cannot be.
    #[error("the mapping is wrong at {place}: {reason}")]
    Invalid {
        /// Dotted path of the key.
        place: String,
        /// What is wrong there, with the remedy.
        reason: String,
    },
    /// A look-up table cannot be used.
    #[error("the look-up table {file} cannot be used: {reason}")]
    Lookup {
        /// Its name in the mapping.
        file: String,
        /// What is wrong, with the line.
        reason: String,
    },
    /// The file lacks a column that the mapping names.
    #[error(
        "the file has no column {column:?}, which {place} of the mapping names; its columns are {}",
        .columns.join(", ")
    )]
    NoColumn {
        /// The column that is missing.
        column: String,
        /// Dotted path of the key that names it.
        place: String,
        /// Columns of the file's heading.
        columns: Vec<String>,
    },
    /// The heading has a used column twice.
    #[error(
        "the file has the column {column:?} twice, so that {place} of the mapping is not clear; \
         rename one of them in the heading"
    )]
    TwoColumns {
        /// The column.
        column: String,
        /// Dotted path of the key that names it.
        place: String,
    },
}

/// Why a row did not become a record. Never holds a value of the row.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("column {column:?}: {reason}")]
pub struct RowError {
    /// Column of the file.
    pub column: String,
    /// What is wrong, with the remedy.
    pub reason: String,
}

/// What the cells of a column hold.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Text as it stands.
    #[default]
    Text,
    /// Whole number.
    Integer,
    /// Number with a decimal point.
    Decimal,
    /// Date with or without a time of day.
    DateTime,
}

/// The shape of the file, in TOML and in JSON. `docs/mapping.md` describes it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Document {
    record_type: String,
    #[serde(default = "comma")]
    delimiter: char,
    #[serde(default)]
    trim: bool,
    #[serde(default)]
    empty_as_null: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time_zone: Option<String>,
    unit: UnitDocument,
    fields: BTreeMap<String, FieldDocument>,
}

fn comma() -> char {
    ','
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct UnitDocument {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    column: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trim: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lookup: Option<LookupDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    otherwise: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    constant: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FieldDocument {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    column: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trim: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    empty_as_null: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    format: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time_zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    values: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    constant: Option<Value>,
}

/// A look-up table: the name of its file, or its entries.
#[derive(Clone, Debug)]
enum LookupDocument {
    File(String),
    Entries(BTreeMap<String, String>),
}

impl Serialize for LookupDocument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(name) => serializer.serialize_str(name),
            Self::Entries(entries) => entries.serialize(serializer),
        }
    }
}

/// Written out because `#[serde(untagged)]` would lose the place of an error.
impl<'de> Deserialize<'de> for LookupDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = LookupDocument;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("the name of a look-up file, or a table of value = unit")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<LookupDocument, E> {
                Ok(LookupDocument::File(name.to_owned()))
            }

            fn visit_map<A: de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<LookupDocument, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((value, unit)) = map.next_entry::<String, String>()? {
                    if entries.insert(value.clone(), unit).is_some() {
                        return Err(de::Error::custom(format!("the value {value:?} is twice")));
                    }
                }
                Ok(LookupDocument::Entries(entries))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// How rows of one kind of file become records.
#[derive(Clone, Debug)]
pub struct Mapping {
    document: Document,
    delimiter: u8,
    unit: UnitRule,
    fields: Vec<FieldRule>,
}

#[derive(Clone, Debug)]
enum UnitRule {
    Constant(UnitCode),
    /// The column holds the code itself.
    Column {
        column: String,
        trim: bool,
        otherwise: Option<UnitCode>,
    },
    Lookup {
        column: String,
        trim: bool,
        table: HashMap<String, UnitCode>,
        otherwise: Option<UnitCode>,
    },
}

#[derive(Clone, Debug)]
struct FieldRule {
    name: String,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Constant(Value),
    Column(ColumnRule),
}

#[derive(Clone, Debug)]
struct ColumnRule {
    column: String,
    trim: bool,
    empty_as_null: bool,
    values: Option<BTreeMap<String, String>>,
    conversion: Conversion,
}

#[derive(Clone, Debug)]
enum Conversion {
    Text,
    Integer,
    Decimal,
    /// Without a zone the format itself holds an offset.
    DateTime {
        format: String,
        zone: Option<TimeZone>,
    },
}

impl Mapping {
    /// Reads a mapping that a person wrote. Look-up tables that are named as files come from
    /// `read`, which is given the name as it stands.
    ///
    /// # Errors
    ///
    /// [`Error::Syntax`], [`Error::Invalid`] and [`Error::Lookup`].
    pub fn from_toml<E: fmt::Display>(
        text: &str,
        mut read: impl FnMut(&str) -> Result<String, E>,
    ) -> Result<Self, Error> {
        let mut document: Document = toml::from_str(text).map_err(|error| Error::Syntax {
            place: place_in(text, error.span().map_or(0, |span| span.start)),
            reason: error.message().to_owned(),
        })?;
        if let Some(LookupDocument::File(file)) = &document.unit.lookup {
            let failed = |reason| Error::Lookup { file: file.clone(), reason };
            let contents = read(file).map_err(|error| failed(error.to_string()))?;
            let entries = read_lookup(&contents).map_err(failed)?;
            document.unit.lookup = Some(LookupDocument::Entries(entries));
        }
        Self::build(document)
    }

    /// Reads a mapping as programs send it: look-up tables are part of it.
    ///
    /// # Errors
    ///
    /// [`Error::Syntax`] and [`Error::Invalid`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, Error> {
        let document: Document = serde_json::from_slice(bytes).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            let text = error.to_string();
            let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
            Error::Syntax { place, reason: reason.to_owned() }
        })?;
        Self::build(document)
    }

    /// The mapping as programs send it.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.document).expect("invariant: the keys of a mapping are strings")
    }

    /// Type of the records that come out.
    pub fn record_type(&self) -> &str {
        &self.document.record_type
    }

    /// What separates the cells of a row.
    pub fn delimiter(&self) -> u8 {
        self.delimiter
    }

    /// Units that rows can be given to, or `None` if a column holds the codes themselves.
    pub fn units(&self) -> Option<Vec<UnitCode>> {
        let mut units: Vec<UnitCode> = match &self.unit {
            UnitRule::Constant(unit) => vec![unit.clone()],
            UnitRule::Column { .. } => return None,
            UnitRule::Lookup { table, otherwise, .. } => {
                table.values().chain(otherwise).cloned().collect()
            }
        };
        units.sort_unstable();
        units.dedup();
        Some(units)
    }

    /// Column that a record's top-level field comes from.
    pub fn column_of(&self, field: &str) -> Option<&str> {
        let rule = self.fields.iter().find(|rule| rule.name == field)?;
        match &rule.source {
            Source::Constant(_) => None,
            Source::Column(rule) => Some(&rule.column),
        }
    }

    /// Finds the mapping's columns in a file's heading.
    ///
    /// # Errors
    ///
    /// [`Error::NoColumn`] and [`Error::TwoColumns`].
    pub fn bind(self: &Arc<Self>, heading: &ByteRecord) -> Result<Bound, Error> {
        let columns: Vec<String> = heading
            .iter()
            .map(|column| String::from_utf8_lossy(column).trim().to_owned())
            .collect();
        let unit = match &self.unit {
            UnitRule::Constant(_) => None,
            UnitRule::Column { column, .. } | UnitRule::Lookup { column, .. } => {
                Some(find(column, "unit.column", &columns)?)
            }
        };
        let fields = self
            .fields
            .iter()
            .map(|rule| match &rule.source {
                Source::Constant(_) => Ok(None),
                Source::Column(source) => {
                    let place = format!("fields.{}.column", rule.name);
                    find(&source.column, &place, &columns).map(Some)
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(Bound { mapping: Arc::clone(self), unit, fields })
    }

    fn build(document: Document) -> Result<Self, Error> {
        if document.record_type.is_empty() {
            return Err(invalid("record_type", "is empty; name a record type of the catalogue"));
        }
        let delimiter = u8::try_from(document.delimiter)
            .ok()
            .filter(|byte| byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n' | 0))
            .ok_or_else(|| invalid("delimiter", "is not one of , ; | or a tab"))?;
        if document.fields.is_empty() || document.fields.len() > MAX_FIELDS {
            let reason = format!("has {} entries; 1 to {MAX_FIELDS} fit", document.fields.len());
            return Err(invalid("fields", &reason));
        }
        let unit = unit_rule(&document)?;
        let fields = document
            .fields
            .iter()
            .map(|(name, field)| field_rule(name, field, &document))
            .collect::<Result<_, _>>()?;
        Ok(Self { document, delimiter, unit, fields })
    }
}

/// A mapping whose columns were found in a file.
#[derive(Clone, Debug)]
pub struct Bound {
    mapping: Arc<Mapping>,
    unit: Option<usize>,
    fields: Vec<Option<usize>>,
}

impl Bound {
    /// The mapping.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Tells whose record the row is, without making the record.
    ///
    /// # Errors
    ///
    /// The value names no unit, or is no text.
    pub fn unit(&self, row: &ByteRecord) -> Result<UnitCode, RowError> {
        let cell = |column: &str, trim: bool| {
            let index = self.unit.expect("invariant: a unit that is no constant has a column");
            let text = text(row, index, column)?;
            Ok(if trim { text.trim() } else { text })
        };
        match &self.mapping.unit {
            UnitRule::Constant(unit) => Ok(unit.clone()),
            UnitRule::Column { column, trim, otherwise } => cell(column, *trim)?
                .parse()
                .ok()
                .or_else(|| otherwise.clone())
                .ok_or_else(|| no_unit(column, "is no code of a unit")),
            UnitRule::Lookup { column, trim, table, otherwise } => table
                .get(cell(column, *trim)?)
                .or(otherwise.as_ref())
                .cloned()
                .ok_or_else(|| no_unit(column, "is not in the look-up table")),
        }
    }

    /// Makes the record of the row.
    ///
    /// # Errors
    ///
    /// A cell does not hold what the mapping declares.
    pub fn record(&self, row: &ByteRecord) -> Result<Value, RowError> {
        let mut record = Map::new();
        for (rule, index) in self.mapping.fields.iter().zip(&self.fields) {
            let value = match (&rule.source, index) {
                (Source::Constant(value), _) => value.clone(),
                (Source::Column(source), Some(index)) => source.convert(row, *index)?,
                (Source::Column(_), None) => {
                    unreachable!("invariant: bind found an index for every column")
                }
            };
            record.insert(rule.name.clone(), value);
        }
        Ok(Value::Object(record))
    }
}

impl ColumnRule {
    fn convert(&self, row: &ByteRecord, index: usize) -> Result<Value, RowError> {
        let mut cell = text(row, index, &self.column)?;
        if self.trim {
            cell = cell.trim();
        }
        if let Some(values) = &self.values {
            cell = values.get(cell).map_or(cell, String::as_str);
        }
        if self.empty_as_null && cell.trim().is_empty() {
            return Ok(Value::Null);
        }
        self.conversion.apply(cell).map_err(|reason| RowError {
            column: self.column.clone(),
            reason: if cell.trim().is_empty() {
                "is empty; set empty_as_null in the mapping if that is allowed".to_owned()
            } else {
                reason
            },
        })
    }
}

impl Conversion {
    fn apply(&self, cell: &str) -> Result<Value, String> {
        match self {
            Self::Text => Ok(Value::String(cell.to_owned())),
            Self::Integer => integer(cell),
            Self::Decimal => decimal(cell),
            Self::DateTime { format, zone } => {
                instant(cell, format, zone.as_ref()).map(|at| Value::String(at.to_string()))
            }
        }
    }
}

fn integer(cell: &str) -> Result<Value, String> {
    let digits = cell.strip_prefix('-').unwrap_or(cell);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("is no whole number; write digits only".to_owned());
    }
    cell.parse::<i64>()
        .map(Value::from)
        .map_err(|_| "is beyond 64 bits; declare it as text if it is a number by name".to_owned())
}

fn decimal(cell: &str) -> Result<Value, String> {
    let digits = cell.strip_prefix('-').unwrap_or(cell);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || !plain(fraction) {
        return Err("is no decimal number; write digits with one decimal point".to_owned());
    }
    let significant = whole.trim_start_matches('0').len() + fraction.trim_end_matches('0').len();
    if significant > MAX_DIGITS {
        return Err(format!("has more than {MAX_DIGITS} digits, which cannot be kept exactly"));
    }
    cell.parse::<f64>()
        .ok()
        .and_then(Number::from_f64)
        .map(Value::Number)
        .ok_or_else(|| "is no decimal number; write digits with one decimal point".to_owned())
}

fn instant(cell: &str, format: &str, zone: Option<&TimeZone>) -> Result<Timestamp, String> {
    let other = || format!("does not have the form {format:?}; correct the row or the mapping");
    let parsed = BrokenDownTime::parse(format, cell).map_err(|_| other())?;
    let Some(zone) = zone else {
        return parsed.to_timestamp().map_err(|_| other());
    };
    let local: DateTime = parsed.to_datetime().map_err(|_| other())?;
    let local = zone.to_ambiguous_timestamp(local);
    if let AmbiguousOffset::Gap { .. } = local.offset() {
        return Err("is a local time that the clocks skipped when summer time began; \
                    correct it at its source, or give the column an offset"
            .to_owned());
    }
    local.earlier().map_err(|_| other())
}

fn text<'row>(row: &'row ByteRecord, index: usize, column: &str) -> Result<&'row str, RowError> {
    let failed = |reason: &str| RowError { column: column.to_owned(), reason: reason.to_owned() };
    let cell = row.get(index).ok_or_else(|| failed("is missing in this row"))?;
    str::from_utf8(cell).map_err(|_| failed("is not UTF-8; save the file as UTF-8"))
}

fn no_unit(column: &str, what: &str) -> RowError {
    RowError {
        column: column.to_owned(),
        reason: format!("{what}; add it, or set otherwise in [unit] of the mapping"),
    }
}

fn find(column: &str, place: &str, columns: &[String]) -> Result<usize, Error> {
    let mut found = columns.iter().enumerate().filter(|(_, name)| *name == column);
    let Some((index, _)) = found.next() else {
        return Err(Error::NoColumn {
            column: column.to_owned(),
            place: place.to_owned(),
            columns: columns.to_vec(),
        });
    };
    if found.next().is_some() {
        return Err(Error::TwoColumns { column: column.to_owned(), place: place.to_owned() });
    }
    Ok(index)
}

fn unit_rule(document: &Document) -> Result<UnitRule, Error> {
    let unit = &document.unit;
    let code = |place: &str, text: &str| -> Result<UnitCode, Error> {
        text.parse().map_err(|error| invalid(place, &format!("{text:?} is no unit: {error}")))
    };
    let otherwise =
        unit.otherwise.as_deref().map(|text| code("unit.otherwise", text)).transpose()?;
    let trim = unit.trim.unwrap_or(document.trim);
    match (&unit.constant, &unit.column, &unit.lookup) {
        (Some(constant), None, None) if otherwise.is_none() && unit.trim.is_none() => {
            Ok(UnitRule::Constant(code("unit.constant", constant)?))
        }
        (Some(_), ..) => Err(invalid("unit", "a constant stands alone; remove the other keys")),
        (None, None, _) => Err(invalid("unit", "needs a column or a constant")),
        (None, Some(column), None) => {
            Ok(UnitRule::Column { column: column.clone(), trim, otherwise })
        }
        (None, Some(_), Some(LookupDocument::File(_))) => {
            Err(invalid("unit.lookup", "names a file, which was not read; put its entries here"))
        }
        (None, Some(column), Some(LookupDocument::Entries(entries))) => {
            if entries.len() > MAX_LOOKUP_ENTRIES {
                let reason =
                    format!("has {} entries; at most {MAX_LOOKUP_ENTRIES} fit", entries.len());
                return Err(invalid("unit.lookup", &reason));
            }
            let table = entries
                .iter()
                .map(|(value, unit)| Ok((value.clone(), code("unit.lookup", unit)?)))
                .collect::<Result<_, Error>>()?;
            Ok(UnitRule::Lookup { column: column.clone(), trim, table, otherwise })
        }
    }
}

fn field_rule(name: &str, field: &FieldDocument, document: &Document) -> Result<FieldRule, Error> {
    let place = |key: &str| format!("fields.{name}.{key}");
    let source = match (&field.constant, &field.column) {
        (Some(constant), None) => {
            let alone = field.kind.is_none() && field.format.is_none() && field.values.is_none();
            if !alone || !(constant.is_string() || constant.is_number() || constant.is_boolean()) {
                let reason = "is text, a number, true or false, and stands alone";
                return Err(invalid(&place("constant"), reason));
            }
            Source::Constant(constant.clone())
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err(invalid(&format!("fields.{name}"), "needs either a column or a constant"));
        }
        (None, Some(column)) => Source::Column(ColumnRule {
            column: column.clone(),
            trim: field.trim.unwrap_or(document.trim),
            empty_as_null: field.empty_as_null.unwrap_or(document.empty_as_null),
            values: field.values.clone(),
            conversion: conversion(field, document, place)?,
        }),
    };
    Ok(FieldRule { name: name.to_owned(), source })
}

fn conversion(
    field: &FieldDocument,
    document: &Document,
    place: impl Fn(&str) -> String,
) -> Result<Conversion, Error> {
    let kind = field.kind.unwrap_or_default();
    if kind != Kind::DateTime && (field.format.is_some() || field.time_zone.is_some()) {
        return Err(invalid(&place("kind"), "must be date-time for a format or time_zone"));
    }
    match kind {
        Kind::Text => Ok(Conversion::Text),
        Kind::Integer => Ok(Conversion::Integer),
        Kind::Decimal => Ok(Conversion::Decimal),
        Kind::DateTime => {
            let format = field.format.clone().ok_or_else(|| {
                invalid(&place("format"), "is missing; for example \"%Y-%m-%d %H:%M:%S\"")
            })?;
            let has_offset = check_format(&format).map_err(|error| {
                invalid(&place("format"), &format!("is no format of a date-time: {error}"))
            })?;
            let named = field.time_zone.as_deref();
            if has_offset && named.is_some() {
                return Err(invalid(&place("time_zone"), "is not used: the format has an offset"));
            }
            let zone = (!has_offset)
                .then(|| zone(named.or(document.time_zone.as_deref()), &place("time_zone")))
                .transpose()?;
            Ok(Conversion::DateTime { format, zone })
        }
    }
}

/// Tells whether the format holds an offset, by writing and reading one instant with it.
fn check_format(format: &str) -> Result<bool, jiff::Error> {
    let sample = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
    let written = BrokenDownTime::from(&sample).to_string(format)?;
    let read = BrokenDownTime::parse(format, written)?;
    read.to_datetime()?;
    Ok(read.offset().is_some() || read.timestamp().is_some())
}

fn zone(name: Option<&str>, place: &str) -> Result<TimeZone, Error> {
    let name =
        name.ok_or_else(|| invalid(place, "is missing; for example \"Asia/Shanghai\" (IANA)"))?;
    TimeZone::get(name).map_err(|_| {
        let reason = format!("{name:?} is no IANA time zone, for example \"Asia/Shanghai\"");
        invalid(place, &reason)
    })
}

fn read_lookup(contents: &str) -> Result<BTreeMap<String, String>, String> {
    let mut reader = csv::Reader::from_reader(contents.as_bytes());
    let heading = reader.headers().map_err(|error| error.to_string())?;
    if heading.iter().map(str::trim).ne(["value", "unit"]) {
        return Err("its first line must be value,unit".to_owned());
    }
    let mut entries = BTreeMap::new();
    for row in reader.records() {
        let row = row.map_err(|error| error.to_string())?;
        let line = row.position().map_or(0, csv::Position::line);
        let [value, unit] = [row[0].trim(), row[1].trim()];
        if entries.insert(value.to_owned(), unit.to_owned()).is_some() {
            return Err(format!("line {line} has the value {value:?} again; remove one of them"));
        }
        if let Err(error) = unit.parse::<UnitCode>() {
            return Err(format!("line {line} has {unit:?}, which is no unit: {error}"));
        }
    }
    Ok(entries)
}

fn invalid(place: &str, reason: &str) -> Error {
    Error::Invalid { place: place.to_owned(), reason: reason.to_owned() }
}

fn place_in(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPPING: &str = r#"
record_type = "service-request"
trim = true
empty_as_null = true
time_zone = "America/New_York"

[unit]
column = "precinct"
lookup = "precincts.csv"
otherwise = "BOS"

[fields.id]
column = "case"

[fields.opened_at]
column = "open_dt"
kind = "date-time"
format = "%Y-%m-%d %H:%M:%S"

[fields.ward]
column = "ward"
kind = "integer"
values = { "Ward 3" = "3" }

[fields.latitude]
column = "latitude"
kind = "decimal"

[fields.city]
constant = "Boston"
"#;

    const PRECINCTS: &str = "value,unit\n1714,BOS-07-W17-1714\n0301,BOS-03-W03-0301\n";

    fn mapping(text: &str) -> Result<Arc<Mapping>, Error> {
        let read = |file: &str| match file {
            "precincts.csv" => Ok(PRECINCTS.to_owned()),
            _ => Err("no such file"),
        };
        Mapping::from_toml(text, read).map(Arc::new)
    }

    fn bound() -> Bound {
        let heading = ["case", "open_dt", "ward", "latitude", "precinct"];
        mapping(MAPPING).unwrap().bind(&ByteRecord::from(heading.to_vec())).unwrap()
    }

    fn read(cells: [&str; 5]) -> Result<(String, Value), RowError> {
        let row = ByteRecord::from(cells.to_vec());
        Ok((bound().unit(&row)?.to_string(), bound().record(&row)?))
    }

    #[test]
    fn a_clean_row_becomes_a_record_of_its_unit() {
        let (unit, record) = read(["101", "2011-07-01 01:32:33", "03", "42.2715", "1714"]).unwrap();
        assert_eq!(unit, "BOS-07-W17-1714");
        let expected = serde_json::json!({
            "id": "101", "opened_at": "2011-07-01T05:32:33Z", "ward": 3,
            "latitude": 42.2715, "city": "Boston",
        });
        assert_eq!(record, expected);
    }

    #[test]
    fn a_dirty_row_is_trimmed_mapped_and_given_to_the_city() {
        let (unit, record) =
            read([" 101 ", "2011-07-01 01:32:33", "Ward 3", " ", "0502A"]).unwrap();
        assert_eq!(unit, "BOS");
        assert_eq!(record["id"], "101");
        assert_eq!(record["ward"], 3);
        assert_eq!(record["latitude"], Value::Null);
        for blank in ["", " "] {
            assert_eq!(read(["1", "2011-07-01 01:32:33", "3", "", blank]).unwrap().0, "BOS");
        }
        assert_eq!(
            read(["1", "2011-07-01 01:32:33", "3", "", "0301 "]).unwrap().0,
            "BOS-03-W03-0301"
        );
    }

    #[test]
    fn an_ambiguous_local_time_is_its_earlier_instant_and_a_skipped_one_is_refused() {
        let opened =
            |text| read(["1", text, "", "", ""]).map(|(_, record)| record["opened_at"].clone());
        assert_eq!(opened("2011-11-06 01:30:00").unwrap(), "2011-11-06T05:30:00Z");
        assert_eq!(opened("2011-11-06 02:30:00").unwrap(), "2011-11-06T07:30:00Z");
        let error = opened("2011-03-13 02:30:00").unwrap_err();
        assert_eq!(error.column, "open_dt");
        assert!(error.reason.contains("skipped") && error.reason.contains("correct"), "{error}");
    }

    #[test]
    fn a_bad_cell_names_its_column_and_keeps_its_value_to_itself() {
        for (cells, column) in [
            (["1", "1 July secret", "3", "", ""], "open_dt"),
            (["1", "2011-07-01 01:32:33 secret", "3", "", ""], "open_dt"),
            (["1", "2011-02-30 00:00:00", "3", "", ""], "open_dt"),
            (["1", "2011-07-01 01:32:33", "secret", "", ""], "ward"),
            (["1", "2011-07-01 01:32:33", "99999999999999999999", "", ""], "ward"),
            (["1", "2011-07-01 01:32:33", "3.5", "", ""], "ward"),
            (["1", "2011-07-01 01:32:33", "3", "1e5", ""], "latitude"),
            (["1", "2011-07-01 01:32:33", "3", "NaN", ""], "latitude"),
            (["1", "2011-07-01 01:32:33", "3", "1.", ""], "latitude"),
            (["1", "2011-07-01 01:32:33", "3", "0.1234567890123456", ""], "latitude"),
        ] {
            let error = read(cells).unwrap_err();
            assert_eq!(error.column, column);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let mut row = ByteRecord::from(vec!["1", "2011-07-01 01:32:33", "3", ""]);
        assert!(bound().unit(&row).unwrap_err().reason.contains("missing"));
        row.push_field(b"\xD6\xD0");
        assert!(bound().unit(&row).unwrap_err().reason.contains("UTF-8"));
    }

    #[test]
    fn without_permission_an_empty_cell_is_an_error_that_names_the_switch() {
        let text = MAPPING.replace("empty_as_null = true", "empty_as_null = false");
        let heading = ByteRecord::from(vec!["case", "open_dt", "ward", "latitude", "precinct"]);
        let bound = mapping(&text).unwrap().bind(&heading).unwrap();
        let row = ByteRecord::from(vec!["1", " ", "3", "1.0", ""]);
        assert!(bound.record(&row).unwrap_err().reason.contains("empty_as_null"));
    }

    #[test]
    fn a_missing_column_is_named_beside_the_columns_that_are_there() {
        let heading = ByteRecord::from(vec!["case", "open_dt", "ward", "latitude"]);
        let error = mapping(MAPPING).unwrap().bind(&heading).unwrap_err().to_string();
        assert!(error.contains("\"precinct\"") && error.contains("unit.column"), "{error}");
        assert!(error.contains("case, open_dt, ward, latitude"), "{error}");
        let heading =
            ByteRecord::from(vec!["case", "open_dt", "ward", "latitude", "precinct", "case"]);
        let error = mapping(MAPPING).unwrap().bind(&heading).unwrap_err();
        assert_eq!(
            error,
            Error::TwoColumns { column: "case".into(), place: "fields.id.column".into() }
        );
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_place() {
        let unknown = MAPPING.replace("trim = true\n", "trimm = true\n");
        let error = mapping(&unknown).unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("trimm"), "{error}");
        for (from, to, place) in [
            ("kind = \"integer\"", "kind = \"number\"", "line 22"),
            ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %Q9", "fields.opened_at.format"),
            ("%Y-%m-%d %H:%M:%S", "%H:%M:%S", "fields.opened_at.format"),
            ("America/New_York", "Mars/Olympus", "fields.opened_at.time_zone"),
            ("time_zone = \"America/New_York\"", "", "fields.opened_at.time_zone"),
            ("otherwise = \"BOS\"", "otherwise = \"bos\"", "unit.otherwise"),
            ("otherwise = \"BOS\"", "constant = \"BOS\"", "unit"),
            ("constant = \"Boston\"", "constant = 1\ncolumn = \"city\"", "fields.city"),
            ("constant = \"Boston\"", "constant = [1]", "fields.city.constant"),
            ("record_type = \"service-request\"", "record_type = \"\"", "record_type"),
            ("precincts.csv", "wards.csv", "wards.csv"),
        ] {
            let text = MAPPING.replace(from, to);
            assert_ne!(text, MAPPING);
            let error = mapping(&text).unwrap_err().to_string();
            assert!(error.contains(place), "{to}: {error}");
        }
    }

    #[test]
    fn a_look_up_table_is_checked_line_by_line() {
        assert!(read_lookup("1714,BOS\n").unwrap_err().contains("value,unit"));
        assert!(read_lookup("value,unit\n1,BOS\n1,BOS-01\n").unwrap_err().contains("line 3"));
        assert!(read_lookup("value,unit\n1,BOS\n2,boston\n").unwrap_err().contains("line 3"));
        assert!(read_lookup("value,unit\n1,BOS,2\n").unwrap_err().contains("line"));
    }

    #[test]
    fn json_holds_the_whole_mapping_and_reads_back_the_same() {
        let first = mapping(MAPPING).unwrap();
        let second = Mapping::from_json(&first.to_json()).unwrap();
        assert_eq!(second.to_json(), first.to_json());
        assert_eq!(second.units(), first.units());
        let units: Vec<_> = second.units().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(units, ["BOS", "BOS-03-W03-0301", "BOS-07-W17-1714"]);
        assert_eq!(second.column_of("opened_at"), Some("open_dt"));
        assert_eq!(second.column_of("city"), None);
    }

    #[test]
    fn json_that_names_a_file_or_is_cut_off_is_refused() {
        let json = r#"{"record_type":"a","unit":{"column":"u","lookup":"x.csv"},
            "fields":{"id":{"column":"id"}}}"#;
        assert!(Mapping::from_json(json.as_bytes()).unwrap_err().to_string().contains("lookup"));
        let error = Mapping::from_json(&json.as_bytes()[..30]).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
        assert!(Mapping::from_json(b"\xFF").is_err());
    }

    #[test]
    fn a_column_may_hold_the_unit_and_a_format_its_offset() {
        let text = r#"
record_type = "visit"
[unit]
column = "unit"
trim = true
[fields.at]
column = "at"
kind = "date-time"
format = "%Y-%m-%dT%H:%M:%S%z"
[fields.day]
column = "day"
kind = "date-time"
format = "%Y/%m/%d"
time_zone = "Asia/Shanghai"
"#;
        let mapping = mapping(text).unwrap();
        assert_eq!(mapping.units(), None);
        let bound = mapping.bind(&ByteRecord::from(vec!["unit", "at", "day"])).unwrap();
        let row = ByteRecord::from(vec![" 310101002003", "2024-05-01T08:00:00+0800", "2024/05/01"]);
        assert_eq!(bound.unit(&row).unwrap().as_str(), "310101002003");
        let record = bound.record(&row).unwrap();
        assert_eq!(record["at"], "2024-05-01T00:00:00Z");
        assert_eq!(record["day"], "2024-04-30T16:00:00Z");
        let row = ByteRecord::from(vec!["somewhere", "2024-05-01T08:00:00+0800", "2024/05/01"]);
        assert!(bound.unit(&row).unwrap_err().reason.contains("otherwise"));
    }
}
