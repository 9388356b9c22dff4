//! Indicators: declared measures over the records of one type.
//!
//! An indicator turns a record into at most one contribution, the same everywhere and always. It
//! never tells more of a record than its catalogue allows: classified fields can be tested for
//! presence, but not compared, summed, grouped by or told apart.

use std::collections::BTreeMap;

use cel::Context;
use jiff::{civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub use crate::domain::component::MeasureKind;
use crate::domain::{
    expression::{self, Bindings, Expression, Failure, Usage},
    record::{self, Field, Kind, MAX_GROUP_LENGTH, RecordType},
    stock::{Span, Stay},
};

/// What an indicator is about; decides how its figures may be shown.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum About {
    /// Work: exact inside the tree.
    Work,
    /// People: small numbers are suppressed where shown.
    Person,
}

/// What one record adds.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Contribution {
    /// One record.
    Count,
    /// A term, in thousandths of the unit.
    Sum(i128),
    /// Which conditions the record meets; at least one.
    Ratio {
        /// The numerator's.
        numerator: bool,
        /// The denominator's.
        denominator: bool,
    },
    /// A value, in thousandths of the unit.
    Extreme(i64),
    /// Hash of a value.
    Distinct(u64),
    /// A value, in thousandths of the unit.
    Histogram(i64),
}

/// What one record adds, and when.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Addition {
    /// What it adds. To an age: when it came, in milliseconds since 1970.
    pub contribution: Contribution,
    /// When.
    pub when: When,
}

/// When a record counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum When {
    /// On the day of its type's time.
    Recorded,
    /// On another day.
    Day(Date),
    /// In a stock: at the end of each of these days.
    Stay(Stay),
}

/// Why a record cannot be counted. Holds no value of the record.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{part} of indicator {indicator:?}: {failure}")]
pub struct Error {
    /// The indicator.
    pub indicator: String,
    /// Which of its expressions.
    pub part: &'static str,
    /// What happened.
    pub failure: Failure,
}

/// Why an indicator is not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Expression that is not accepted.
    #[error("{0}")]
    Expression(#[from] expression::Error),
    /// Expression whose types do not fit.
    #[error("{case}: {failure}")]
    Types {
        /// On which record it fails.
        case: String,
        /// How.
        failure: Failure,
    },
    /// A classified field is told.
    #[error("{0}")]
    Classified(String),
    /// A field that figures cannot be grouped by.
    #[error("{0}")]
    Group(String),
    /// A stock of what has none, or an age without a stock.
    #[error("{0}")]
    Stock(&'static str),
    /// A time that is none.
    #[error("{0:?} is no field with format date-time")]
    Time(String),
    /// People told apart.
    #[error(
        "people are never told apart: an indicator with \"about\": \"person\" cannot be distinct"
    )]
    DistinctPeople,
}

/// What is computed of the records that pass the filter.
#[derive(Debug)]
pub enum Measure {
    /// Number of records.
    Count,
    /// Sum of a value.
    Sum(Expression),
    /// Counts of records that meet conditions.
    Ratio {
        /// Condition of the numerator.
        numerator: Expression,
        /// Condition of the denominator.
        denominator: Expression,
    },
    /// Extremes of a value.
    Extreme(Expression),
    /// Number of different values.
    Distinct(Expression),
    /// How values spread.
    Histogram(Expression),
    /// Ages of what is there.
    Age,
}

impl Measure {
    /// Its kind.
    pub fn kind(&self) -> MeasureKind {
        match self {
            Self::Count => MeasureKind::Count,
            Self::Sum(_) => MeasureKind::Sum,
            Self::Ratio { .. } => MeasureKind::Ratio,
            Self::Extreme(_) | Self::Age => MeasureKind::Extreme,
            Self::Distinct(_) => MeasureKind::Distinct,
            Self::Histogram(_) => MeasureKind::Histogram,
        }
    }

    /// Its expressions, with their pointers within the indicator.
    fn expressions(&self) -> Vec<(&'static str, &Expression)> {
        match self {
            Self::Count | Self::Age => vec![],
            Self::Sum(value) => vec![("/measure/sum/value", value)],
            Self::Ratio { numerator, denominator } => vec![
                ("/measure/ratio/numerator", numerator),
                ("/measure/ratio/denominator", denominator),
            ],
            Self::Extreme(value) => vec![("/measure/extreme/value", value)],
            Self::Distinct(value) => vec![("/measure/distinct/value", value)],
            Self::Histogram(value) => vec![("/measure/histogram/value", value)],
        }
    }
}

/// When records are there: figures are of those that are at the end of a period.
#[derive(Debug)]
pub struct Stock {
    /// When a record comes; null: never.
    pub from: Expression,
    /// When it goes; null: not yet.
    pub until: Expression,
}

/// A declared measure.
#[derive(Debug)]
pub struct Indicator {
    /// Id, e.g. `received`.
    pub id: String,
    /// Version; unlike versions are never added.
    pub version: u32,
    /// English title.
    pub title: String,
    /// Chinese title.
    pub title_zh: String,
    /// Record type that it is computed of.
    pub record_type: String,
    /// Unit of the figure, e.g. `s` or `1`.
    pub unit: String,
    /// What it is about.
    pub about: About,
    /// Field that figures are also grouped by.
    pub group: Option<String>,
    /// Which records count; `None`: all.
    pub filter: Option<Expression>,
    /// What is computed of them.
    pub measure: Measure,
    /// When records are there; `None`: they count once, at their time.
    pub stock: Option<Stock>,
    /// Field that says when records count; `None`: that of their type.
    pub time: Option<String>,
    fields: Vec<(String, Field)>,
    definition_sha256: [u8; 32],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Declared {
    pub(crate) id: String,
    pub(crate) version: u32,
    pub(crate) title: String,
    pub(crate) title_zh: String,
    pub(crate) record_type: String,
    unit: String,
    about: About,
    #[serde(default)]
    filter: Option<String>,
    measure: DeclaredMeasure,
    #[serde(default)]
    stock: Option<DeclaredStock>,
    #[serde(default)]
    time: Option<String>,
    #[serde(default)]
    group: Option<String>,
}

impl Declared {
    /// Format of a catalogue that this needs.
    pub(crate) fn format(&self) -> u32 {
        let is_age = matches!(self.measure, DeclaredMeasure::Age);
        if self.stock.is_some() || self.time.is_some() || is_age { 2 } else { 1 }
    }
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum DeclaredMeasure {
    Count,
    Sum(DeclaredValue),
    Ratio(DeclaredRatio),
    Extreme(DeclaredValue),
    Distinct(DeclaredValue),
    Histogram(DeclaredValue),
    Age,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct DeclaredStock {
    from: String,
    until: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct DeclaredValue {
    value: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct DeclaredRatio {
    numerator: String,
    denominator: String,
}

impl Indicator {
    /// Compiles and checks; a fault comes with its pointer within the indicator.
    pub(crate) fn new(
        declared: Declared,
        record_type: &RecordType,
    ) -> Result<Self, (&'static str, Fault)> {
        let known = record_type.fields();
        let compile = |source: &str, pointer: &'static str| {
            Expression::compile(source, known).map_err(|error| (pointer, Fault::from(error)))
        };
        let filter =
            declared.filter.as_deref().map(|source| compile(source, "/filter")).transpose()?;
        let measure = match &declared.measure {
            DeclaredMeasure::Count => Measure::Count,
            DeclaredMeasure::Sum(sum) => Measure::Sum(compile(&sum.value, "/measure/sum/value")?),
            DeclaredMeasure::Ratio(ratio) => Measure::Ratio {
                numerator: compile(&ratio.numerator, "/measure/ratio/numerator")?,
                denominator: compile(&ratio.denominator, "/measure/ratio/denominator")?,
            },
            DeclaredMeasure::Extreme(extreme) => {
                Measure::Extreme(compile(&extreme.value, "/measure/extreme/value")?)
            }
            DeclaredMeasure::Distinct(distinct) => {
                Measure::Distinct(compile(&distinct.value, "/measure/distinct/value")?)
            }
            DeclaredMeasure::Histogram(histogram) => {
                Measure::Histogram(compile(&histogram.value, "/measure/histogram/value")?)
            }
            DeclaredMeasure::Age => Measure::Age,
        };
        let stock = match &declared.stock {
            Some(stock) => Some(Stock {
                from: compile(&stock.from, "/stock/from")?,
                until: compile(&stock.until, "/stock/until")?,
            }),
            None => None,
        };
        check_stock(&measure, stock.as_ref(), &declared.unit)?;
        let mut fields = used(filter.as_ref(), &measure, stock.as_ref(), known);
        if let Some((name, field)) =
            declared.time.as_ref().and_then(|time| known.get_key_value(time))
        {
            fields.retain(|(other, _)| other != name);
            fields.push((name.clone(), field.clone()));
        }
        let indicator = Self {
            definition_sha256: definition_sha256(&declared, &fields),
            fields,
            id: declared.id,
            version: declared.version,
            title: declared.title,
            title_zh: declared.title_zh,
            record_type: declared.record_type,
            unit: declared.unit,
            about: declared.about,
            group: declared.group,
            filter,
            measure,
            stock,
            time: declared.time,
        };
        indicator.check_time(known)?;
        indicator.check_disclosure(known)?;
        indicator.check_group(known)?;
        indicator.check_types()?;
        Ok(indicator)
    }

    /// Kind of the measure.
    pub fn kind(&self) -> MeasureKind {
        self.measure.kind()
    }

    /// Digest of everything that decides what a record adds: two indicators of one id and version
    /// whose digests differ do not add up.
    pub fn definition_sha256(&self) -> &[u8; 32] {
        &self.definition_sha256
    }

    /// Returns what a valid record of the indicator's type adds, with days as they are at `tz`;
    /// `None` if it does not count: the filter is false or null, the value is null, no condition of a
    /// ratio is met, or it was never there at the end of a day.
    ///
    /// # Errors
    ///
    /// [`Error`]: an expression cannot deal with the record, which then cannot be counted.
    pub fn contributions(&self, record: &Value, tz: &TimeZone) -> Result<Option<Addition>, Error> {
        let bindings = Bindings::new(self.bound_fields(), record);
        self.evaluate(&bindings.context(), record, tz)
    }

    /// Returns the group that the record counts in besides the total; `None`: the total alone.
    pub fn group_value(&self, record: &Value) -> Option<String> {
        match record.get(self.group.as_ref()?)? {
            Value::String(text) => (!text.is_empty()).then(|| text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    pub(crate) fn bound_fields(&self) -> impl Iterator<Item = (&str, &Field)> {
        self.fields.iter().map(|(name, field)| (name.as_str(), field))
    }

    pub(crate) fn evaluate(
        &self,
        context: &Context<'_, '_>,
        record: &Value,
        tz: &TimeZone,
    ) -> Result<Option<Addition>, Error> {
        // First: expressions need no guard against a time that is not there.
        let when = match &self.time {
            Some(field) => match record::day_of(record, field, tz) {
                Ok(day) => When::Day(day),
                Err(_) => return Ok(None),
            },
            None => When::Recorded,
        };
        let of = |part| move |failure| Error { indicator: self.id.clone(), part, failure };
        if let Some(filter) = &self.filter {
            let counts = filter.condition(context).map_err(of("filter"))?;
            if !counts {
                return Ok(None);
            }
        }
        let contribution = self.contribution(context)?;
        let Some(stock) = &self.stock else {
            return Ok(contribution.map(|contribution| Addition { contribution, when }));
        };
        let until = stock.until.instant(context).map_err(of("until"))?;
        let Some(from) = stock.from.instant(context).map_err(of("from"))? else { return Ok(None) };
        let span = Span { from, until };
        let Some(stay) = span.stay(tz) else { return Ok(None) };
        let contribution = match self.measure {
            Measure::Age => Some(Contribution::Extreme(span.began_milli(&stay, tz))),
            Measure::Count
            | Measure::Sum(_)
            | Measure::Ratio { .. }
            | Measure::Extreme(_)
            | Measure::Distinct(_)
            | Measure::Histogram(_) => contribution,
        };
        let when = When::Stay(stay);
        Ok(contribution.map(|contribution| Addition { contribution, when }))
    }

    fn contribution(&self, context: &Context<'_, '_>) -> Result<Option<Contribution>, Error> {
        let of = |part| move |failure| Error { indicator: self.id.clone(), part, failure };
        match &self.measure {
            // When it came stands in for it.
            Measure::Age => Ok(None),
            Measure::Count => Ok(Some(Contribution::Count)),
            Measure::Sum(value) => {
                Ok(value.milli(context).map_err(of("value"))?.map(Contribution::Sum))
            }
            Measure::Ratio { numerator, denominator } => {
                let numerator = numerator.condition(context).map_err(of("numerator"))?;
                let denominator = denominator.condition(context).map_err(of("denominator"))?;
                let counts = numerator || denominator;
                Ok(counts.then_some(Contribution::Ratio { numerator, denominator }))
            }
            Measure::Extreme(value) => {
                Ok(short_milli(value, context).map_err(of("value"))?.map(Contribution::Extreme))
            }
            Measure::Distinct(value) => {
                Ok(value.hash(context).map_err(of("value"))?.map(Contribution::Distinct))
            }
            Measure::Histogram(value) => {
                Ok(short_milli(value, context).map_err(of("value"))?.map(Contribution::Histogram))
            }
        }
    }

    fn check_disclosure(
        &self,
        known: &BTreeMap<String, Field>,
    ) -> Result<(), (&'static str, Fault)> {
        if self.about == About::Person && self.kind() == MeasureKind::Distinct {
            return Err(("/measure/distinct", Fault::DistinctPeople));
        }
        let filter = self.filter.iter().map(|filter| ("/filter", filter));
        for (pointer, expression) in filter.chain(self.expressions()) {
            for (name, usage) in expression.fields() {
                let open = known.get(name).is_some_and(Field::is_open);
                if *usage == Usage::Content && !open {
                    let reason = format!(
                        "field {name:?} is classified, so its content cannot enter a figure: \
                         compare it with null at most, or set \"x-class\": \"none\" if it tells \
                         nothing about people"
                    );
                    return Err((pointer, Fault::Classified(reason)));
                }
            }
        }
        Ok(())
    }

    fn check_time(&self, known: &BTreeMap<String, Field>) -> Result<(), (&'static str, Fault)> {
        let Some(time) = &self.time else { return Ok(()) };
        if self.stock.is_some() {
            let reason =
                "a stock counts at the end of a period: say when records come in \"stock\"";
            return Err(("/time", Fault::Stock(reason)));
        }
        let field = known.get(time).filter(|field| field.kind == Kind::Instant);
        field.map(|_| ()).ok_or_else(|| ("/time", Fault::Time(time.clone())))
    }

    fn check_group(&self, known: &BTreeMap<String, Field>) -> Result<(), (&'static str, Fault)> {
        let Some(group) = &self.group else { return Ok(()) };
        let group_fault = |reason: String| Err(("/group", Fault::Group(reason)));
        match known.get(group) {
            None => group_fault(format!("{group:?} is no field of {:?}", self.record_type)),
            Some(field) if !field.is_open() => Err((
                "/group",
                Fault::Classified(format!(
                    "field {group:?} is classified, so figures cannot be grouped by it: use a \
                     field with \"x-class\": \"none\""
                )),
            )),
            Some(field) if !field.is_groupable() => group_fault(format!(
                "field {group:?} has values of any length: group by an integer, a boolean, or a \
                 string with enum or maxLength ≤ {MAX_GROUP_LENGTH}"
            )),
            Some(_) => Ok(()),
        }
    }

    /// Tries the indicator on records with sample values, with each optional field missing in turn
    /// and all at once, so that a forgotten guard shows when the catalogue is published, not when
    /// the first such record comes.
    fn check_types(&self) -> Result<(), (&'static str, Fault)> {
        let optional = || self.fields.iter().filter(|(_, field)| field.optional);
        let mut cases = vec![("on a record with every field".to_owned(), self.sample(|_, _| true))];
        cases.extend(optional().map(|(missing, _)| {
            (format!("on a record without {missing:?}"), self.sample(|name, _| name != missing))
        }));
        cases.push((
            "on a record without optional fields".to_owned(),
            self.sample(|_, field| !field.optional),
        ));
        for (case, record) in cases {
            let Err(error) = self.contributions(&record, &TimeZone::UTC) else { continue };
            if let failure @ Failure::Types(_) = error.failure {
                return Err((self.pointer(error.part), Fault::Types { case, failure }));
            }
        }
        Ok(())
    }

    fn sample(&self, with: impl Fn(&str, &Field) -> bool) -> Value {
        let present = self.fields.iter().filter(|(name, field)| with(name, field));
        present.map(|(name, field)| (name.clone(), field.sample.clone())).collect()
    }

    fn pointer(&self, part: &str) -> &'static str {
        let expressions = self.expressions();
        let pointer = expressions.iter().find(|(pointer, _)| pointer.ends_with(part));
        pointer.map_or("/filter", |(pointer, _)| pointer)
    }

    /// All expressions but the filter, with their pointers within the indicator.
    fn expressions(&self) -> Vec<(&'static str, &Expression)> {
        let mut expressions = self.measure.expressions();
        expressions.extend(self.stock.iter().flat_map(Stock::expressions));
        expressions
    }
}

impl Stock {
    fn expressions(&self) -> [(&'static str, &Expression); 2] {
        [("/stock/from", &self.from), ("/stock/until", &self.until)]
    }
}

/// A stock is told by what came and what went, so both have to add up.
fn check_stock(
    measure: &Measure,
    stock: Option<&Stock>,
    unit: &str,
) -> Result<(), (&'static str, Fault)> {
    let fault = |pointer, reason| Err((pointer, Fault::Stock(reason)));
    match (measure, stock) {
        (Measure::Age, None) => fault(
            "/measure",
            "an age is of what is there: say since when and until when in \"stock\"",
        ),
        (Measure::Age, Some(_)) if unit != "s" => {
            fault("/unit", "an age is in seconds: set \"unit\": \"s\"")
        }
        (Measure::Extreme(_) | Measure::Distinct(_), Some(_)) => fault(
            "/measure",
            "a stock is a count, a sum, a ratio, a histogram or an age: extremes and different \
             values of a stock are not kept",
        ),
        (
            Measure::Age
            | Measure::Count
            | Measure::Sum(_)
            | Measure::Ratio { .. }
            | Measure::Histogram(_),
            Some(_),
        )
        | (
            Measure::Count
            | Measure::Sum(_)
            | Measure::Ratio { .. }
            | Measure::Extreme(_)
            | Measure::Distinct(_)
            | Measure::Histogram(_),
            None,
        ) => Ok(()),
    }
}

/// A value in thousandths that fits into 64 bits.
fn short_milli(value: &Expression, context: &Context<'_, '_>) -> Result<Option<i64>, Failure> {
    let milli = value.milli(context)?.map(i64::try_from).transpose();
    milli.map_err(|_| Failure::Values("the value is too large".into()))
}

fn definition_sha256(declared: &Declared, fields: &[(String, Field)]) -> [u8; 32] {
    // How expressions see the fields is part of what they mean.
    let kinds: BTreeMap<&str, &str> =
        fields.iter().map(|(name, field)| (name.as_str(), field.kind.as_str())).collect();
    let mut definition = json!({
        "record_type": declared.record_type,
        "unit": declared.unit,
        "filter": declared.filter,
        "measure": declared.measure,
        "group": declared.group,
        "fields": kinds,
    });
    // What has none has the digest that it had before there were stocks.
    if let Some(stock) = &declared.stock {
        definition["stock"] = json!(stock);
    }
    if let Some(time) = &declared.time {
        definition["time"] = json!(time);
    }
    Sha256::digest(definition.to_string()).into()
}

fn used(
    filter: Option<&Expression>,
    measure: &Measure,
    stock: Option<&Stock>,
    known: &BTreeMap<String, Field>,
) -> Vec<(String, Field)> {
    let stock = stock.into_iter().flat_map(Stock::expressions);
    let of_measure = measure.expressions().into_iter().chain(stock).map(|each| each.1);
    let expressions = filter.into_iter().chain(of_measure);
    let names: std::collections::BTreeSet<&String> =
        expressions.flat_map(|expression| expression.fields().keys()).collect();
    names.into_iter().filter_map(|name| Some((name.clone(), known.get(name)?.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::{catalogue::Catalogue, component::Component};

    fn catalogue(changes: Value) -> Result<Catalogue, crate::domain::catalogue::Error> {
        let mut indicator = json!({
            "id": "measured", "version": 1, "title": "Measured", "title_zh": "指标",
            "record_type": "case", "about": "work", "unit": "1", "measure": "count"
        });
        let fields = indicator.as_object_mut().unwrap();
        fields.extend(changes.as_object().unwrap().clone());
        let none = |schema: Value| {
            let mut schema = schema;
            schema["x-class"] = json!("none");
            schema
        };
        let document = json!({
            "name": "sample", "version": 1, "title": "Sample", "title_zh": "样例",
            "format": 2, "time_zone": "UTC",
            "record_types": {"case": {
                "title": "Case", "title_zh": "案件", "key": "number", "time": "opened_at",
                "schema": {
                    "type": "object",
                    "required": ["number", "opened_at", "state"],
                    "properties": {
                        "number": {"type": "string", "maxLength": 20, "x-class": "identifier"},
                        "opened_at": none(json!({"type": "string", "format": "date-time"})),
                        "closed_at": none(json!({"type": ["string", "null"], "format": "date-time"})),
                        "state": none(json!({"type": "string", "enum": ["open", "closed"]})),
                        "line": none(json!({"type": "string", "maxLength": 40})),
                        "remark": none(json!({"type": "string"})),
                        "people": none(json!({"type": "integer"})),
                        "cost": none(json!({"type": "number"})),
                        "phone": {"type": "string", "maxLength": 20, "x-class": "contact"},
                        "unclassed": {"type": "string", "maxLength": 20}
                    }
                }
            }},
            "indicators": [indicator]
        });
        Catalogue::parse(&serde_json::to_vec(&document).unwrap())
    }

    fn of(changes: Value, record: &Value) -> Result<Option<Contribution>, Error> {
        let added = catalogue(changes).unwrap().indicators[0].contributions(record, &TimeZone::UTC);
        Ok(added?.map(|added| added.contribution))
    }

    fn case() -> Value {
        json!({
            "number": "17", "opened_at": "2026-01-01T00:00:00Z", "state": "closed",
            "closed_at": "2026-01-01T01:00:00Z", "line": "城管", "people": 4, "cost": 12.34,
            "phone": "13800138000"
        })
    }

    #[test]
    fn each_measure_contributes_its_kind() {
        for (measure, contribution) in [
            (json!("count"), Contribution::Count),
            (json!({"sum": {"value": "cost"}}), Contribution::Sum(12_340)),
            (
                json!({"ratio": {"numerator": "state == 'open'", "denominator": "true"}}),
                Contribution::Ratio { numerator: false, denominator: true },
            ),
            (
                json!({"extreme": {"value": "closed_at == null ? null : closed_at - opened_at"}}),
                Contribution::Extreme(3_600_000),
            ),
            (
                json!({"distinct": {"value": "line"}}),
                Contribution::Distinct(crate::domain::distinct::hash("城管".as_bytes())),
            ),
            (json!({"histogram": {"value": "cost"}}), Contribution::Histogram(12_340)),
        ] {
            let counted = of(json!({"measure": measure}), &case()).unwrap().unwrap();
            assert_eq!(counted, contribution, "{measure}");
            let kind = catalogue(json!({"measure": measure})).unwrap().indicators[0].kind();
            assert_eq!(Component::from(&counted).kind(), kind);
        }
    }

    #[test]
    fn what_does_not_count_contributes_nothing() {
        let open = json!({"number": "1", "opened_at": "2026-01-01T00:00:00Z", "state": "open"});
        for changes in [
            json!({"filter": "state == 'closed'"}),
            json!({"filter": "people != null && people > 3"}),
            json!({"measure": {"sum": {"value": "people"}}}),
            json!({"measure": {"distinct": {"value": "line"}}}),
            json!({"measure": {"extreme": {"value": "cost"}}}),
            json!({"measure": {"histogram": {"value": "cost"}}}),
            json!({"measure": {"ratio": {"numerator": "false", "denominator": "line == 'x'"}}}),
        ] {
            assert_eq!(of(changes.clone(), &open), Ok(None), "{changes}");
        }
    }

    #[test]
    fn a_record_that_cannot_be_counted_says_why_without_its_values() {
        let mut record = case();
        record["cost"] = json!(12.3456);
        let error = of(json!({"measure": {"sum": {"value": "cost"}}}), &record).unwrap_err();
        assert_eq!((error.indicator.as_str(), error.part), ("measured", "value"));
        assert!(error.to_string().contains("3 decimals") && !error.to_string().contains("12.3"));
        record["people"] = json!(i64::MAX);
        for measure in ["extreme", "histogram"] {
            let error = of(json!({"measure": {measure: {"value": "people"}}}), &record);
            assert!(error.unwrap_err().to_string().contains("too large"), "{measure}");
        }
    }

    #[test]
    fn groups_are_the_values_of_open_short_fields() {
        for (group, value) in [("line", "城管"), ("state", "closed"), ("people", "4")] {
            let catalogue = catalogue(json!({"group": group})).unwrap();
            assert_eq!(catalogue.indicators[0].group_value(&case()).unwrap(), value);
            assert_eq!(
                catalogue.indicators[0].group_value(&json!({"line": "", "state": null})),
                None
            );
        }
    }

    fn refused(changes: Value) -> (String, String) {
        match catalogue(changes.clone()) {
            Ok(_) => panic!("{changes} was accepted"),
            Err(error) => (error.pointer().to_owned(), error.to_string()),
        }
    }

    #[test]
    fn classified_fields_never_enter_a_figure() {
        for (changes, place) in [
            (json!({"group": "phone"}), "/group"),
            (json!({"group": "number"}), "/group"),
            (json!({"group": "unclassed"}), "/group"),
            (json!({"measure": {"distinct": {"value": "phone"}}}), "/measure/distinct/value"),
            (json!({"measure": {"distinct": {"value": "unclassed"}}}), "/measure/distinct/value"),
            (json!({"measure": {"sum": {"value": "size(phone)"}}}), "/measure/sum/value"),
            (json!({"measure": {"extreme": {"value": "int(number)"}}}), "/measure/extreme/value"),
            (
                json!({"measure": {"histogram": {"value": "size(phone)"}}}),
                "/measure/histogram/value",
            ),
            (json!({"filter": "phone == '13800138000'"}), "/filter"),
            (json!({"filter": "phone.startsWith('138')"}), "/filter"),
            (
                json!({"measure": {"ratio": {"numerator": "number > '5'", "denominator": "true"}}}),
                "/measure/ratio/numerator",
            ),
        ] {
            let (refused_at, reason) = refused(changes.clone());
            assert_eq!(refused_at, format!("/indicators/0{place}"), "{changes}: {reason}");
            assert!(reason.contains("classified"), "{reason}");
        }
        let presence = json!({"filter": "phone != null"});
        assert_eq!(of(presence, &case()), Ok(Some(Contribution::Count)));
    }

    #[test]
    fn people_are_never_told_apart() {
        let people = json!({"about": "person", "measure": {"distinct": {"value": "line"}}});
        assert_eq!(refused(people).0, "/indicators/0/measure/distinct");
        assert!(catalogue(json!({"about": "person", "measure": "count"})).is_ok());
    }

    #[test]
    fn groups_that_are_unknown_or_unbounded_are_refused() {
        for group in ["nothing", "remark", "cost", "opened_at"] {
            assert_eq!(refused(json!({"group": group})).0, "/indicators/0/group", "{group}");
        }
    }

    #[test]
    fn forgotten_guards_and_wrong_types_show_when_the_catalogue_is_read() {
        for (changes, place, case) in [
            (
                json!({"measure": {"sum": {"value": "closed_at - opened_at"}}}),
                "/measure/sum/value",
                "without \"closed_at\"",
            ),
            (json!({"filter": "people > 3"}), "/filter", "without \"people\""),
            (json!({"filter": "people"}), "/filter", "every field"),
            (json!({"filter": "people == null || cost > 1.0"}), "/filter", "without \"cost\""),
            (json!({"measure": {"sum": {"value": "line"}}}), "/measure/sum/value", "every field"),
            (
                json!({"measure": {"ratio": {"numerator": "1", "denominator": "true"}}}),
                "/measure/ratio/numerator",
                "every field",
            ),
            (json!({"filter": "opened_at < '2026-01-01'"}), "/filter", "every field"),
        ] {
            let (refused_at, reason) = refused(changes.clone());
            assert_eq!(refused_at, format!("/indicators/0{place}"), "{changes}: {reason}");
            assert!(reason.contains(case), "{reason}");
        }
        let guarded = json!({
            "filter": "closed_at != null", "measure": {"sum": {"value": "closed_at - opened_at"}}
        });
        assert_eq!(of(guarded, &case()), Ok(Some(Contribution::Sum(3_600_000))));
    }

    #[test]
    fn a_stock_is_of_what_adds_up_and_an_age_of_a_stock() {
        let open = json!({"from": "opened_at", "until": "closed_at"});
        for (changes, place, word) in [
            (json!({"measure": "age", "unit": "s"}), "/measure", "since when"),
            (json!({"measure": "age", "stock": open}), "/unit", "seconds"),
            (json!({"measure": {"extreme": {"value": "cost"}}, "stock": open}), "/measure", "kept"),
            (
                json!({"measure": {"distinct": {"value": "line"}}, "stock": open}),
                "/measure",
                "kept",
            ),
            (json!({"stock": {"from": "state", "until": "closed_at"}}), "/stock/from", "in time"),
            (json!({"stock": {"from": "opened_at", "until": "people"}}), "/stock/until", "in time"),
            (json!({"stock": {"from": "opend_at", "until": "null"}}), "/stock/from", "no field"),
            (
                json!({"stock": {"from": "opened_at", "until": "timestamp(phone)"}}),
                "/stock/until",
                "classified",
            ),
            (json!({"stock": {"from": "opened_at"}}), "", "until"),
        ] {
            let (refused_at, reason) = refused(changes.clone());
            assert_eq!(refused_at, format!("/indicators/0{place}"), "{changes}: {reason}");
            assert!(reason.contains(word), "{reason}");
        }
        let counted = catalogue(json!({"measure": "age", "unit": "s", "stock": open})).unwrap();
        assert_eq!(counted.indicators[0].kind(), MeasureKind::Extreme);
        let shanghai = TimeZone::get("Asia/Shanghai").unwrap();
        // Opened and closed within an hour, but over midnight.
        let mut record = case();
        record["opened_at"] = json!("2025-12-31T15:30:00Z");
        record["closed_at"] = json!("2025-12-31T16:30:00Z");
        let added = |tz: &TimeZone| counted.indicators[0].contributions(&record, tz).unwrap();
        assert_eq!(added(&TimeZone::UTC), None);
        let When::Stay(stay) = added(&shanghai).unwrap().when else { panic!("no stay") };
        assert_eq!(stay.from.to_string(), "2025-12-31");
        assert_eq!(stay.until.unwrap().to_string(), "2026-01-01");
    }

    #[test]
    fn an_indicator_counts_at_the_time_that_it_names() {
        for (changes, place) in [
            (json!({"time": "state"}), "/time"),
            (json!({"time": "closed"}), "/time"),
            (
                json!({"time": "closed_at", "stock": {"from": "opened_at", "until": "closed_at"}}),
                "/time",
            ),
        ] {
            assert_eq!(refused(changes.clone()).0, format!("/indicators/0{place}"), "{changes}");
        }
        let closed = catalogue(json!({"time": "closed_at"})).unwrap();
        let added =
            |record: &Value| closed.indicators[0].contributions(record, &TimeZone::UTC).unwrap();
        let mut record = case();
        record["closed_at"] = json!("2026-02-03T23:00:00-05:00");
        assert_eq!(added(&record).unwrap().when, When::Day(jiff::civil::date(2026, 2, 4)));
        record["closed_at"] = Value::Null;
        assert_eq!(added(&record), None, "it has no such time yet");
        // So its expressions need no guard for it, but for what else can be missing.
        let slow = |value: &str| json!({"time": "closed_at", "measure": {"sum": {"value": value}}});
        assert!(catalogue(slow("closed_at - opened_at")).is_ok());
        let (place, reason) = refused(slow("cost + 1.0"));
        assert_eq!(place, "/indicators/0/measure/sum/value", "{reason}");
        let one = closed.indicators[0].definition_sha256();
        assert_ne!(one, catalogue(json!({})).unwrap().indicators[0].definition_sha256());
    }

    #[test]
    fn a_stock_is_part_of_what_an_indicator_means() {
        let digest = |changes| *catalogue(changes).unwrap().indicators[0].definition_sha256();
        let open = digest(json!({"stock": {"from": "opened_at", "until": "closed_at"}}));
        assert_ne!(open, digest(json!({})));
        assert_ne!(open, digest(json!({"stock": {"from": "opened_at", "until": "null"}})));
    }

    #[test]
    fn expressions_that_do_not_compile_are_refused_at_their_place() {
        for (changes, place, word) in [
            (json!({"filter": "state =="}), "/filter", "line 1"),
            (json!({"filter": "status == 'x'"}), "/filter", "status"),
            (json!({"filter": "line.matches('a')"}), "/filter", "matches"),
            (json!({"measure": {"sum": {"value": "("}}}), "/measure/sum/value", "line 1"),
        ] {
            let (refused_at, reason) = refused(changes.clone());
            assert_eq!(refused_at, format!("/indicators/0{place}"), "{changes}");
            assert!(reason.contains(word), "{reason}");
        }
        for measure in [json!({"sum": {}}), json!({"sum": {"value": "1", "of": 2}}), json!({})] {
            assert_eq!(refused(json!({"measure": measure})).0, "/indicators/0");
        }
    }
}
