//! The catalogue: what is recorded and counted, which tasks units take, how long calls may wait.
//!
//! Everything that can be wrong with a document is found when it is read, with the place and the
//! remedy, so that a catalogue in force never surprises a unit. `docs/catalogue.md` describes the
//! document.

pub mod changes;
pub mod lint;

use std::{collections::BTreeMap, time::Duration};

use jiff::tz::TimeZone;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::domain::{
    derived::{self, Derived},
    document,
    expression::Bindings,
    indicator::{self, Addition, Indicator},
    lamp::Warning,
    record::{self, Field, RecordType},
};

/// Largest document.
pub const MAX_DOCUMENT_BYTES: usize = 47 * 1024;

/// Highest format of a document that this program reads. A document says its format, so that a unit
/// whose program is older refuses it with the remedy, and its parent knows before it is published.
pub const FORMAT: u32 = 2;

/// Longest name or id, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Longest title, number of an approval, or unit of a figure, in bytes.
pub const MAX_TITLE_BYTES: usize = 200;

/// Longest time limit: a year.
pub const MAX_LIMIT: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Why a document is no catalogue.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Too large to be sent.
    #[error("the catalogue has {0} bytes: at most {MAX_DOCUMENT_BYTES} fit into a statement")]
    TooLarge(usize),
    /// No JSON.
    #[error("the catalogue is no JSON: {0}")]
    Json(String),
    /// Written for a later program.
    #[error(
        "/format: the catalogue is of format {0}, this program reads up to {FORMAT}: install a later \
         one"
    )]
    Format(u64),
    /// Something in it is wrong.
    #[error("{}: {reason}", if pointer.is_empty() { "at the top" } else { pointer.as_str() })]
    Invalid {
        /// JSON pointer to what is wrong.
        pointer: String,
        /// What is wrong and the remedy.
        reason: String,
    },
}

impl Error {
    fn at(pointer: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { pointer: pointer.into(), reason: reason.into() }
    }

    /// JSON pointer to what is wrong; empty: the document as a whole.
    pub fn pointer(&self) -> &str {
        match self {
            Self::TooLarge(_) | Self::Json(_) => "",
            Self::Format(_) => "/format",
            Self::Invalid { pointer, .. } => pointer,
        }
    }
}

/// The shortest periods that figures are of.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Finest {
    /// Months, and what is made of them.
    #[default]
    Month,
    /// Days and weeks too: each record is counted twice, for its day and for its month.
    Day,
}

/// Kind of a whistle (哨).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[serde(rename_all = "lowercase")]
pub enum EscalationKind {
    /// 日常
    Routine,
    /// 攻坚
    Hard,
    /// 应急
    Emergency,
}

impl EscalationKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Routine, Self::Hard, Self::Emergency];

    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Routine => "routine",
            Self::Hard => "hard",
            Self::Emergency => "emergency",
        }
    }
}

impl std::fmt::Display for EscalationKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Time limits of a whistle, from its raising.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// To answer (应哨).
    #[serde(with = "humantime_serde")]
    pub answer: Duration,
    /// To arrive (报到).
    #[serde(with = "humantime_serde")]
    pub arrive: Duration,
}

impl Limits {
    /// Limits of a catalogue that declares none: 30 minutes to arrive at an emergency (平谷), the
    /// same day for routine matters, three days for hard ones (广陵).
    pub fn default_for(kind: EscalationKind) -> Self {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        match kind {
            EscalationKind::Routine => Self { answer: minutes(120), arrive: minutes(24 * 60) },
            EscalationKind::Hard => Self { answer: minutes(24 * 60), arrive: minutes(72 * 60) },
            EscalationKind::Emergency => Self { answer: minutes(10), arrive: minutes(30) },
        }
    }
}

/// A kind of task that units take (职责清单).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct DutyItem {
    /// Id that notices cite.
    pub id: String,
    /// English title.
    pub title: String,
    /// Chinese title.
    pub title_zh: String,
}

/// What is recorded and counted, and how.
#[derive(Debug)]
pub struct Catalogue {
    /// Name, e.g. `boston-311`.
    pub name: String,
    /// Version, from 1.
    pub version: u64,
    /// Format of its document: a program that reads it has to know this one.
    pub format: u32,
    /// English title.
    pub title: String,
    /// Chinese title.
    pub title_zh: String,
    /// Where months begin.
    pub time_zone: TimeZone,
    /// Its IANA name.
    pub time_zone_name: String,
    /// The shortest periods that figures are of.
    pub finest: Finest,
    /// Record types by name.
    pub record_types: BTreeMap<String, RecordType>,
    /// Indicators in the document's order.
    pub indicators: Vec<Indicator>,
    /// Figures that are calculated from them, in the document's order.
    pub derived: Vec<Derived>,
    /// Tasks that units take.
    pub duty_list: Vec<DutyItem>,
    /// Numbers of live approvals, which admit tasks outside the duty list.
    pub approvals: Vec<String>,
    /// Time limits, one entry for every kind.
    pub limits: BTreeMap<EscalationKind, Limits>,
    /// When a lamp turns yellow.
    pub warning: Warning,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    name: String,
    version: u64,
    #[serde(default = "first_format")]
    format: u32,
    title: String,
    title_zh: String,
    time_zone: String,
    #[serde(default)]
    finest: Finest,
    record_types: BTreeMap<String, Value>,
    indicators: Vec<Value>,
    #[serde(default)]
    derived: Vec<Value>,
    #[serde(default)]
    duty_list: Vec<Value>,
    #[serde(default)]
    approvals: Vec<String>,
    #[serde(default)]
    limits: BTreeMap<String, Value>,
    #[serde(default)]
    lamp: Option<Value>,
}

fn first_format() -> u32 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclaredLamp {
    yellow_last_percent: u8,
}

impl Catalogue {
    /// Reads a document.
    ///
    /// # Errors
    ///
    /// [`Error`] with the place of the first thing that is wrong.
    pub fn parse(document: &[u8]) -> Result<Self, Error> {
        if document.len() > MAX_DOCUMENT_BYTES {
            return Err(Error::TooLarge(document.len()));
        }
        let document = document::read(document).map_err(|error| Error::Json(error.to_string()))?;
        // Before anything else: what a later format brings would look like a mistake.
        if let Some(format) = document.get("format").and_then(Value::as_u64)
            && format > u64::from(FORMAT)
        {
            return Err(Error::Format(format));
        }
        let declared: Declared = part("", document)?;
        check_name("/name", &declared.name)?;
        if declared.format == 0 {
            return Err(Error::at("/format", "formats begin at 1"));
        }
        if declared.version == 0 {
            return Err(Error::at("/version", "versions begin at 1"));
        }
        let zone = |_| {
            let reason = "unknown time zone: give an IANA name such as Asia/Shanghai, and install \
                          tzdata if the system has none";
            Error::at("/time_zone", reason)
        };
        if declared.finest == Finest::Day && declared.format < 2 {
            return Err(needs_format("/finest"));
        }
        if !declared.derived.is_empty() && declared.format < 2 {
            return Err(needs_format("/derived"));
        }
        let record_types = record_types(declared.record_types)?;
        let indicators = indicators(declared.indicators, declared.format, &record_types)?;
        Ok(Self {
            time_zone: TimeZone::get(&declared.time_zone).map_err(zone)?,
            title: title("/title", declared.title)?,
            title_zh: title("/title_zh", declared.title_zh)?,
            derived: derived(declared.derived, &indicators)?,
            indicators,
            duty_list: duty_list(declared.duty_list)?,
            approvals: approvals(declared.approvals)?,
            limits: limits(declared.limits)?,
            warning: warning(declared.lamp)?,
            name: declared.name,
            version: declared.version,
            format: declared.format,
            time_zone_name: declared.time_zone,
            finest: declared.finest,
            record_types,
        })
    }

    /// `name@version`, as headers cite it.
    pub fn label(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// The record type of a name.
    pub fn record_type(&self, name: &str) -> Option<&RecordType> {
        self.record_types.get(name)
    }

    /// The indicator of an id.
    pub fn indicator(&self, id: &str) -> Option<&Indicator> {
        self.indicators.iter().find(|indicator| indicator.id == id)
    }

    /// True if the duty list has the item.
    pub fn has_duty_item(&self, id: &str) -> bool {
        self.duty_list.iter().any(|item| item.id == id)
    }

    /// True if the approval is live.
    pub fn has_approval(&self, number: &str) -> bool {
        self.approvals.iter().any(|approval| approval == number)
    }

    /// Time limits of a kind of whistle.
    pub fn limits_for(&self, kind: EscalationKind) -> Limits {
        self.limits.get(&kind).copied().unwrap_or_else(|| Limits::default_for(kind))
    }

    /// Returns what a valid record adds to each indicator of its type that counts it, converting
    /// each field once for all of them.
    ///
    /// # Errors
    ///
    /// The first indicator that cannot deal with the record.
    pub fn contributions(
        &self,
        record_type: &str,
        record: &Value,
    ) -> Result<Vec<(&Indicator, Addition)>, indicator::Error> {
        let of_type: Vec<&Indicator> =
            self.indicators.iter().filter(|each| each.record_type == record_type).collect();
        let fields: BTreeMap<&str, &Field> =
            of_type.iter().flat_map(|indicator| indicator.bound_fields()).collect();
        let bindings = Bindings::new(fields.into_iter(), record);
        let context = bindings.context();
        let mut contributions = Vec::with_capacity(of_type.len());
        for indicator in of_type {
            if let Some(contribution) = indicator.evaluate(&context, record, &self.time_zone)? {
                contributions.push((indicator, contribution));
            }
        }
        Ok(contributions)
    }
}

/// A program that reads an earlier format refuses the document with the remedy, if it says so.
fn needs_format(pointer: &str) -> Error {
    Error::at(pointer, "is not known to programs that read format 1: set \"format\": 2")
}

fn part<T: DeserializeOwned>(pointer: &str, value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|error| Error::at(pointer, error.to_string()))
}

fn is_name(name: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| inner(&byte) || matches!(byte, b'-' | b'_'))
        && name.as_bytes().first().is_some_and(inner)
        && name.as_bytes().last().is_some_and(inner)
}

fn check_name(pointer: &str, name: &str) -> Result<(), Error> {
    if is_name(name) {
        return Ok(());
    }
    let reason = format!(
        "use 1 to {MAX_NAME_BYTES} of a-z, 0-9, '-' and '_', with a letter or digit at both ends"
    );
    Err(Error::at(pointer, reason))
}

fn title(pointer: &str, title: String) -> Result<String, Error> {
    if title.trim().is_empty() || title.len() > MAX_TITLE_BYTES {
        return Err(Error::at(pointer, format!("give a text of 1 to {MAX_TITLE_BYTES} bytes")));
    }
    Ok(title)
}

fn record_types(declared: BTreeMap<String, Value>) -> Result<BTreeMap<String, RecordType>, Error> {
    if declared.is_empty() {
        return Err(Error::at("/record_types", "declare at least one record type"));
    }
    let mut record_types = BTreeMap::new();
    for (name, value) in declared {
        let pointer = format!("/record_types/{}", name.replace('~', "~0").replace('/', "~1"));
        check_name(&pointer, &name)?;
        let declared: record::Declared = part(&pointer, value)?;
        let record_type = RecordType::new(name.clone(), declared)
            .map_err(|error| Error::at(format!("{pointer}{}", error.pointer), error.reason))?;
        check_title(&format!("{pointer}/title"), record_type.title())?;
        check_title(&format!("{pointer}/title_zh"), record_type.title_zh())?;
        record_types.insert(name, record_type);
    }
    Ok(record_types)
}

fn check_title(pointer: &str, text: &str) -> Result<(), Error> {
    title(pointer, text.to_owned()).map(|_| ())
}

fn indicators(
    declared: Vec<Value>,
    format: u32,
    record_types: &BTreeMap<String, RecordType>,
) -> Result<Vec<Indicator>, Error> {
    let mut indicators: Vec<Indicator> = Vec::with_capacity(declared.len());
    for (index, value) in declared.into_iter().enumerate() {
        let pointer = format!("/indicators/{index}");
        let declared: indicator::Declared = part(&pointer, value)?;
        check_name(&format!("{pointer}/id"), &declared.id)?;
        if indicators.iter().any(|earlier| earlier.id == declared.id) {
            let reason = format!("{:?} is declared twice: ids are unique", declared.id);
            return Err(Error::at(format!("{pointer}/id"), reason));
        }
        if declared.version == 0 {
            return Err(Error::at(format!("{pointer}/version"), "versions begin at 1"));
        }
        if declared.format() > format {
            return Err(needs_format(&pointer));
        }
        check_title(&format!("{pointer}/title"), &declared.title)?;
        check_title(&format!("{pointer}/title_zh"), &declared.title_zh)?;
        let record_type = record_types.get(&declared.record_type).ok_or_else(|| {
            let names: Vec<&str> = record_types.keys().map(String::as_str).collect();
            let reason = format!("unknown record type: use {}", names.join(", "));
            Error::at(format!("{pointer}/record_type"), reason)
        })?;
        let indicator = Indicator::new(declared, record_type)
            .map_err(|(place, fault)| Error::at(format!("{pointer}{place}"), fault.to_string()))?;
        check_title(&format!("{pointer}/unit"), &indicator.unit)?;
        indicators.push(indicator);
    }
    Ok(indicators)
}

fn derived(declared: Vec<Value>, indicators: &[Indicator]) -> Result<Vec<Derived>, Error> {
    let mut figures: Vec<Derived> = Vec::with_capacity(declared.len());
    for (index, value) in declared.into_iter().enumerate() {
        let pointer = format!("/derived/{index}");
        let declared: derived::Declared = part(&pointer, value)?;
        check_name(&format!("{pointer}/id"), &declared.id)?;
        check_title(&format!("{pointer}/title"), &declared.title)?;
        check_title(&format!("{pointer}/title_zh"), &declared.title_zh)?;
        let figure = Derived::new(declared, indicators)
            .map_err(|(place, reason)| Error::at(format!("{pointer}{place}"), reason))?;
        if indicators.iter().any(|indicator| indicator.id == figure.id)
            || figures.iter().any(|earlier| earlier.id == figure.id)
        {
            let reason = format!("{:?} is declared twice: ids are unique", figure.id);
            return Err(Error::at(format!("{pointer}/id"), reason));
        }
        figures.push(figure);
    }
    Ok(figures)
}

fn duty_list(declared: Vec<Value>) -> Result<Vec<DutyItem>, Error> {
    let mut items: Vec<DutyItem> = Vec::with_capacity(declared.len());
    for (index, value) in declared.into_iter().enumerate() {
        let pointer = format!("/duty_list/{index}");
        let item: DutyItem = part(&pointer, value)?;
        check_name(&format!("{pointer}/id"), &item.id)?;
        check_title(&format!("{pointer}/title"), &item.title)?;
        check_title(&format!("{pointer}/title_zh"), &item.title_zh)?;
        if items.iter().any(|earlier| earlier.id == item.id) {
            let reason = format!("{:?} is listed twice: ids are unique", item.id);
            return Err(Error::at(format!("{pointer}/id"), reason));
        }
        items.push(item);
    }
    Ok(items)
}

fn approvals(declared: Vec<String>) -> Result<Vec<String>, Error> {
    for (index, number) in declared.iter().enumerate() {
        check_title(&format!("/approvals/{index}"), number)?;
    }
    Ok(declared)
}

fn limits(
    mut declared: BTreeMap<String, Value>,
) -> Result<BTreeMap<EscalationKind, Limits>, Error> {
    let mut limits = BTreeMap::new();
    for kind in EscalationKind::ALL {
        let pointer = format!("/limits/{kind}");
        let of_kind = match declared.remove(kind.as_str()) {
            Some(value) => part(&pointer, value)?,
            None => Limits::default_for(kind),
        };
        if of_kind.answer.is_zero() || of_kind.answer > of_kind.arrive || of_kind.arrive > MAX_LIMIT
        {
            let reason = "answer must be above 0 and at most arrive, and arrive at most 366 days";
            return Err(Error::at(pointer, reason));
        }
        limits.insert(kind, of_kind);
    }
    match declared.keys().next() {
        Some(_) => Err(Error::at("/limits", "kinds of whistles are routine, hard and emergency")),
        None => Ok(limits),
    }
}

fn warning(declared: Option<Value>) -> Result<Warning, Error> {
    let Some(declared) = declared else { return Ok(Warning::default()) };
    let declared: DeclaredLamp = part("/lamp", declared)?;
    Warning::last_percent(declared.yellow_last_percent).ok_or_else(|| {
        Error::at("/lamp/yellow_last_percent", "give the last 0 to 100 percent of the time")
    })
}

#[cfg(test)]
mod tests;
