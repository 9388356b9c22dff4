//! CEL expressions over the top-level fields of a record.
//!
//! An expression is compiled once and checked before it is accepted: it names declared fields only,
//! calls known functions only, and its cost is bounded (512 bytes, no comprehension inside another,
//! no regular expressions). Evaluation sees the fields that it names and nothing else: no clock, no
//! randomness, no other record. Errors speak of types and functions, never of a record's values.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use cel::{
    Context, Env, ExecutionError, Program, Value as CelValue,
    common::{
        ast::{
            CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, LiteralValue,
        },
        types::{
            CelBool, CelDouble, CelDuration, CelInt, CelNull, CelString, CelTimestamp, CelUInt,
        },
        value::{CowVal, Val},
    },
    context::VariableResolver,
};
use jiff::Timestamp;
use serde_json::Value;

use crate::domain::{
    distinct,
    record::{Field, Kind},
};

/// Longest expression, in bytes.
pub const MAX_BYTES: usize = 512;

/// Deepest nesting. Evaluation recurses with several KiB a level, and a chain such as `1+1+…`
/// nests without brackets, unseen by the parser's own limit.
pub const MAX_DEPTH: usize = 32;

const FUNCTIONS: &[&str] = &[
    "contains",
    "double",
    "duration",
    "endsWith",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "int",
    "size",
    "startsWith",
    "string",
    "timestamp",
    "math.abs",
    "math.ceil",
    "math.floor",
    "math.greatest",
    "math.least",
    "math.round",
    "math.trunc",
];

const OPERATORS: &[&str] = &[
    "_?_:_",
    "_&&_",
    "_||_",
    "!_",
    "_-_",
    "_+_",
    "_*_",
    "_/_",
    "_%_",
    "_==_",
    "_!=_",
    "_>=_",
    "_<=_",
    "_>_",
    "_<_",
    "-_",
    "_[_]",
    "@in",
    "@not_strictly_false",
    "math.@max",
    "math.@min",
];

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut environment = Env::stdlib();
    let added = environment.add_extension(cel::extensions::math);
    debug_assert!(added.is_ok(), "invariant: nothing of the standard library is named `math`");
    Arc::new(environment)
});

/// Why an expression is not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Too long.
    #[error("the expression has {0} bytes: use at most {MAX_BYTES}")]
    TooLong(usize),
    /// No CEL.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// Line, from 1.
        line: isize,
        /// Column, from 1.
        column: isize,
        /// What the parser says.
        message: String,
    },
    /// A name that is no field.
    #[error("{0:?} is no field of the record type: declare it in the schema's properties")]
    UnknownField(String),
    /// A function that is not offered.
    #[error("function {0:?} is not offered: use {list}", list = FUNCTIONS.join(", "))]
    UnknownFunction(String),
    /// A comprehension in another.
    #[error(
        "all, exists, exists_one, map and filter cannot stand inside one another: split the \
             indicator"
    )]
    Nested,
    /// Too deep.
    #[error("the expression nests deeper than {MAX_DEPTH} levels: shorten chains of one operator")]
    TooDeep,
    /// Message literals.
    #[error("messages cannot be built here: compare fields one by one")]
    Message,
}

/// Why an evaluation gave nothing. Holds no value of the record.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Failure {
    /// Types that do not fit: the expression's fault, whatever the values.
    #[error("{0}")]
    Types(String),
    /// A value that the expression cannot deal with.
    #[error("{0}")]
    Values(String),
}

/// How an expression uses a field.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Usage {
    /// Compared with null, nothing else: it tells whether there is a value.
    Presence,
    /// In any other way: it can tell the value.
    Content,
}

/// A compiled expression.
#[derive(Debug)]
pub struct Expression {
    program: Program,
    fields: BTreeMap<String, Usage>,
}

impl Expression {
    /// Compiles `source` over `fields`.
    ///
    /// # Errors
    ///
    /// Whatever this module's rules forbid.
    pub fn compile(source: &str, fields: &BTreeMap<String, Field>) -> Result<Self, Error> {
        if source.len() > MAX_BYTES {
            return Err(Error::TooLong(source.len()));
        }
        let program = ENVIRONMENT.compile(source).map_err(|errors| {
            let first = errors.errors.into_iter().next();
            let (line, column, message) = first.map_or_else(
                || (1, 1, "the expression is not valid CEL".to_owned()),
                |error| (error.pos.0, error.pos.1, error.msg),
            );
            Error::Syntax { line, column, message }
        })?;
        let mut check = Check { fields, used: BTreeMap::new(), scope: Vec::new(), depth: 0 };
        check.expression(program.expression())?;
        let fields = check.used;
        Ok(Self { program, fields })
    }

    /// Fields that the expression names, with the most that it does with each.
    pub fn fields(&self) -> &BTreeMap<String, Usage> {
        &self.fields
    }

    /// Evaluates as a condition; null counts as false.
    pub(crate) fn condition(&self, context: &Context<'_, '_>) -> Result<bool, Failure> {
        let value = self.evaluate(context)?;
        if value.downcast_ref::<CelNull>().is_some() {
            return Ok(false);
        }
        let condition = value.downcast_ref::<CelBool>().map(|value| *value.inner());
        condition.ok_or_else(|| wrong_result(value.as_ref(), "a condition, true or false"))
    }

    /// Evaluates as a number in thousandths; a duration counts its seconds.
    pub(crate) fn milli(&self, context: &Context<'_, '_>) -> Result<Option<i128>, Failure> {
        let value = self.evaluate(context)?;
        let value = value.as_ref();
        if value.downcast_ref::<CelNull>().is_some() {
            return Ok(None);
        }
        if let Some(integer) = value.downcast_ref::<CelInt>() {
            return Ok(Some(i128::from(*integer.inner()) * 1000));
        }
        if let Some(integer) = value.downcast_ref::<CelUInt>() {
            return Ok(Some(i128::from(*integer.inner()) * 1000));
        }
        if let Some(duration) = value.downcast_ref::<CelDuration>() {
            return duration_milli(duration).map(Some);
        }
        if let Some(number) = value.downcast_ref::<CelDouble>() {
            return decimal_milli(*number.inner()).map(Some);
        }
        Err(wrong_result(value, "a number or a duration"))
    }

    /// Evaluates as a point in time.
    pub(crate) fn instant(&self, context: &Context<'_, '_>) -> Result<Option<Timestamp>, Failure> {
        let value = self.evaluate(context)?;
        let value = value.as_ref();
        if value.downcast_ref::<CelNull>().is_some() {
            return Ok(None);
        }
        let Some(instant) = value.downcast_ref::<CelTimestamp>() else {
            return Err(wrong_result(value, "a point in time"));
        };
        let instant = instant.inner();
        let nanoseconds = i32::try_from(instant.timestamp_subsec_nanos()).unwrap_or(0);
        let out_of_range = |_| Failure::Values("the time lies outside the calendar".into());
        Timestamp::new(instant.timestamp(), nanoseconds).map(Some).map_err(out_of_range)
    }

    /// Evaluates as a value to tell from others: text, integer or truth value.
    pub(crate) fn hash(&self, context: &Context<'_, '_>) -> Result<Option<u64>, Failure> {
        let value = self.evaluate(context)?;
        let value = value.as_ref();
        if value.downcast_ref::<CelNull>().is_some() {
            return Ok(None);
        }
        if let Some(text) = value.downcast_ref::<CelString<'_>>() {
            return Ok(Some(distinct::hash(text.inner().as_bytes())));
        }
        if let Some(integer) = value.downcast_ref::<CelInt>() {
            return Ok(Some(distinct::hash(integer.inner().to_string().as_bytes())));
        }
        if let Some(integer) = value.downcast_ref::<CelUInt>() {
            return Ok(Some(distinct::hash(integer.inner().to_string().as_bytes())));
        }
        if let Some(truth) = value.downcast_ref::<CelBool>() {
            return Ok(Some(distinct::hash(truth.inner().to_string().as_bytes())));
        }
        Err(wrong_result(value, "text, an integer or a truth value"))
    }

    fn evaluate<'e, 'v>(&'e self, context: &'e Context<'_, 'v>) -> Result<CowVal<'e, 'v>, Failure> {
        CelValue::resolve_val(self.program.expression(), context).map_err(|error| failure(&error))
    }
}

/// The fields of one record, converted once for all expressions over it.
#[derive(Debug)]
pub(crate) struct Bindings<'r> {
    values: Vec<(&'r str, Box<dyn Val + 'r>)>,
}

impl<'r> Bindings<'r> {
    /// Converts the fields named; a missing one is null.
    pub(crate) fn new(
        fields: impl Iterator<Item = (&'r str, &'r Field)>,
        record: &'r Value,
    ) -> Self {
        let value_of = |name: &str| record.as_object().and_then(|fields| fields.get(name));
        Self { values: fields.map(|(name, field)| (name, bind(field, value_of(name)))).collect() }
    }

    /// The context that evaluates over these bindings.
    pub(crate) fn context(&self) -> Context<'_, '_> {
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.set_variable_resolver(self);
        context
    }
}

impl VariableResolver for Bindings<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let (_, value) = self.values.iter().find(|(name, _)| *name == variable)?;
        Some(CowVal::Borrowed(value.as_ref()))
    }
}

fn bind<'r>(field: &Field, value: Option<&'r Value>) -> Box<dyn Val + 'r> {
    match (field.kind, value) {
        (_, None | Some(Value::Null)) => Box::new(CelNull),
        (_, Some(Value::Bool(truth))) => Box::new(CelBool::from(*truth)),
        (Kind::Instant, Some(Value::String(text))) => match instant(text) {
            Some(instant) => Box::new(CelTimestamp::from(instant)),
            None => Box::new(CelString::from(text.as_str())),
        },
        (_, Some(Value::String(text))) => Box::new(CelString::from(text.as_str())),
        (Kind::Number, Some(Value::Number(number))) => {
            Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN)))
        }
        (_, Some(Value::Number(number))) => bind_number(number, field.kind == Kind::Integer),
        (_, Some(value @ (Value::Array(_) | Value::Object(_)))) => bind_nested(value),
    }
}

/// JSON Schema calls 3.0 an integer.
#[allow(clippy::cast_possible_truncation, reason = "the value is whole and inside the range")]
fn bind_number<'r>(number: &serde_json::Number, integer: bool) -> Box<dyn Val + 'r> {
    if let Some(value) = number.as_i64() {
        return Box::new(CelInt::from(value));
    }
    if let Some(value) = number.as_u64() {
        return Box::new(CelUInt::from(value));
    }
    let value = number.as_f64().unwrap_or(f64::NAN);
    if integer && value.fract() == 0.0 && value.abs() < 9.0e15 {
        return Box::new(CelInt::from(value as i64));
    }
    Box::new(CelDouble::from(value))
}

fn bind_nested<'r>(value: &Value) -> Box<dyn Val + 'r> {
    match cel::to_value(value).ok().and_then(|value| Box::<dyn Val>::try_from(value).ok()) {
        Some(value) => value,
        None => Box::new(CelNull),
    }
}

fn instant(text: &str) -> Option<chrono::DateTime<chrono::FixedOffset>> {
    let instant: Timestamp = text.parse().ok()?;
    let nanoseconds = u32::try_from(instant.as_nanosecond().rem_euclid(1_000_000_000)).ok()?;
    let seconds = instant.as_nanosecond().div_euclid(1_000_000_000);
    let instant = chrono::DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanoseconds)?;
    Some(instant.fixed_offset())
}

fn duration_milli(duration: &CelDuration) -> Result<i128, Failure> {
    let duration = duration.inner();
    let nanoseconds =
        i128::from(duration.num_seconds()) * 1_000_000_000 + i128::from(duration.subsec_nanos());
    if nanoseconds % 1_000_000 == 0 {
        return Ok(nanoseconds / 1_000_000);
    }
    Err(Failure::Values("the duration has parts of a millisecond: drop them in the mapping".into()))
}

/// Reads the shortest decimal that means `number`, so that 0.1 is a tenth.
fn decimal_milli(number: f64) -> Result<i128, Failure> {
    if !number.is_finite() {
        return Err(Failure::Values("the number is not finite: guard the division".into()));
    }
    let text = number.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    if fraction.len() > 3 {
        return Err(Failure::Values(
            "the number has more than 3 decimals: write math.round(x * 1000.0) / 1000.0".into(),
        ));
    }
    format!("{whole}{fraction:0<3}")
        .parse()
        .map_err(|_| Failure::Values("the number is too large".into()))
}

fn wrong_result(value: &dyn Val, wanted: &str) -> Failure {
    let got = value.get_type().name();
    Failure::Types(format!("the result is of type {got}, not {wanted}"))
}

/// Says what went wrong by types and functions; the library's own texts quote values.
#[allow(clippy::wildcard_enum_match_arm, reason = "the library's enum is non-exhaustive")]
fn failure(error: &ExecutionError) -> Failure {
    match error {
        ExecutionError::NoSuchOverload(overload) => Failure::Types(format!(
            "{} does not take ({}): guard against null, or convert",
            overload.function().trim_matches(['_', '@']),
            overload.argument_types().join(", ")
        )),
        ExecutionError::ValuesNotComparable(left, right) => Failure::Types(format!(
            "{} and {} cannot be compared: guard against null, or convert",
            left.type_of(),
            right.type_of()
        )),
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
            Failure::Types(format!(
                "{operator} does not take ({}, {}): guard against null, or convert",
                left.type_of(),
                right.type_of()
            ))
        }
        ExecutionError::UnexpectedType { got, want } => {
            Failure::Types(format!("a {want} is needed where a {got} is"))
        }
        ExecutionError::UndeclaredReference(name) => Failure::Types(format!("{name} is unknown")),
        ExecutionError::Overflow(operator, ..) => {
            Failure::Values(format!("{operator} leaves the range of its type"))
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            Failure::Values("division by zero: guard the divisor".into())
        }
        ExecutionError::IndexOutOfBounds(_) | ExecutionError::NoSuchKey(_) => {
            Failure::Values("an element or key is not there: test with has() or size()".into())
        }
        ExecutionError::FunctionError { function, .. } => {
            Failure::Values(format!("{function} cannot convert the value"))
        }
        _ => Failure::Values("the expression cannot be evaluated".into()),
    }
}

struct Check<'a> {
    fields: &'a BTreeMap<String, Field>,
    used: BTreeMap<String, Usage>,
    scope: Vec<String>,
    depth: usize,
}

impl Check<'_> {
    fn expression(&mut self, expression: &IdedExpr) -> Result<(), Error> {
        if self.depth == MAX_DEPTH {
            return Err(Error::TooDeep);
        }
        self.depth += 1;
        let checked = self.node(&expression.expr);
        self.depth -= 1;
        checked
    }

    fn node(&mut self, expression: &Expr) -> Result<(), Error> {
        match expression {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(name, Usage::Content),
            Expr::Select(select) => self.expression(&select.operand),
            Expr::List(list) => list.elements.iter().try_for_each(|each| self.expression(each)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| self.entry(entry)),
            Expr::Struct(_) => Err(Error::Message),
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
        }
    }

    fn name(&mut self, name: &str, usage: Usage) -> Result<(), Error> {
        if name.starts_with('@') || self.scope.iter().any(|variable| variable == name) {
            return Ok(());
        }
        if !self.fields.contains_key(name) {
            return Err(Error::UnknownField(name.to_owned()));
        }
        let used = self.used.entry(name.to_owned()).or_insert(usage);
        *used = usage.max(*used);
        Ok(())
    }

    fn entry(&mut self, entry: &IdedEntryExpr) -> Result<(), Error> {
        match &entry.expr {
            EntryExpr::StructField(_) => Err(Error::Message),
            EntryExpr::MapEntry(entry) => {
                self.expression(&entry.key)?;
                self.expression(&entry.value)
            }
        }
    }

    fn call(&mut self, call: &CallExpr) -> Result<(), Error> {
        let function = call.func_name.as_str();
        let target = call.target.as_deref();
        let is_math =
            |target: &IdedExpr| matches!(&target.expr, Expr::Ident(name) if name == "math");
        if target.is_some_and(is_math) {
            let function = format!("math.{function}");
            if !FUNCTIONS.contains(&function.as_str()) {
                return Err(Error::UnknownFunction(function));
            }
        } else {
            if !FUNCTIONS.contains(&function) && !OPERATORS.contains(&function) {
                return Err(Error::UnknownFunction(function.to_owned()));
            }
            target.map_or(Ok(()), |target| self.expression(target))?;
        }
        if let ("_==_" | "_!=_", [left, right]) = (function, call.args.as_slice()) {
            for (tested, other) in [(left, right), (right, left)] {
                if let (Expr::Ident(name), Expr::Literal(LiteralValue::Null)) =
                    (&tested.expr, &other.expr)
                {
                    return self.name(name, Usage::Presence);
                }
            }
        }
        call.args.iter().try_for_each(|argument| self.expression(argument))
    }

    fn comprehension(&mut self, comprehension: &ComprehensionExpr) -> Result<(), Error> {
        if !self.scope.is_empty() {
            return Err(Error::Nested);
        }
        self.expression(&comprehension.iter_range)?;
        self.expression(&comprehension.accu_init)?;
        self.scope.push(comprehension.iter_var.clone());
        self.scope.extend(comprehension.iter_var2.clone());
        self.scope.push(comprehension.accu_var.clone());
        self.expression(&comprehension.loop_cond)?;
        self.expression(&comprehension.loop_step)?;
        self.expression(&comprehension.result)?;
        self.scope.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::record::Class;

    fn fields() -> BTreeMap<String, Field> {
        let field = |kind| Field::for_tests(kind, Some(Class::None));
        [
            ("opened_at", Kind::Instant),
            ("closed_at", Kind::Instant),
            ("type", Kind::Text),
            ("people", Kind::Integer),
            ("amount", Kind::Number),
            ("urgent", Kind::Boolean),
            ("tags", Kind::Other),
        ]
        .into_iter()
        .map(|(name, kind)| (name.to_owned(), field(kind)))
        .collect()
    }

    fn with<T>(
        source: &str,
        record: &Value,
        evaluate: impl FnOnce(&Expression, &Context<'_, '_>) -> T,
    ) -> T {
        let fields = fields();
        let expression = Expression::compile(source, &fields).unwrap();
        let bindings =
            Bindings::new(fields.iter().map(|(name, field)| (name.as_str(), field)), record);
        evaluate(&expression, &bindings.context())
    }

    fn record() -> Value {
        serde_json::json!({
            "opened_at": "2011-07-01T00:00:00-04:00", "closed_at": "2011-07-01T05:00:00.250Z",
            "type": "路灯", "people": 3, "amount": 12.5, "urgent": true, "tags": ["a", "bc"]
        })
    }

    fn condition(source: &str) -> Result<bool, Failure> {
        with(source, &record(), Expression::condition)
    }

    fn milli(source: &str) -> Result<Option<i128>, Failure> {
        with(source, &record(), Expression::milli)
    }

    #[test]
    fn conditions_over_every_kind_of_field() {
        for source in [
            "opened_at < closed_at",
            "closed_at - opened_at > duration('59m')",
            "type == '路灯' && type.startsWith('路') && size(type) == 2",
            "people == 3 && people * 2 > 5",
            "amount >= 12.5",
            "urgent",
            "tags.exists(tag, tag == 'bc')",
            "'a' in tags && tags[1] == 'bc' && size(tags) == 2",
            "people in [1, 2, 3]",
            "opened_at.getFullYear() == 2011",
            "math.greatest(people, 7) == 7",
        ] {
            assert_eq!(condition(source), Ok(true), "{source}");
        }
        assert_eq!(condition("type == 'x' || people < 0"), Ok(false));
    }

    #[test]
    fn a_missing_field_is_null_and_null_is_not_true() {
        let empty = serde_json::json!({});
        let condition = |source| with(source, &empty, Expression::condition);
        assert_eq!(condition("closed_at == null && type == null"), Ok(true));
        assert_eq!(condition("closed_at != null && closed_at <= opened_at"), Ok(false));
        assert_eq!(condition("urgent"), Ok(false));
        assert!(matches!(condition("closed_at <= opened_at"), Err(Failure::Types(_))));
        assert_eq!(with("people", &empty, Expression::milli), Ok(None));
        assert_eq!(with("type", &empty, Expression::hash), Ok(None));
    }

    #[test]
    fn numbers_become_exact_thousandths() {
        for (source, value) in [
            ("people", 3000),
            ("-people", -3000),
            ("amount", 12_500),
            ("0.1", 100),
            ("0.001", 1),
            ("-0.001", -1),
            ("-0.25", -250),
            ("1e15", 1_000_000_000_000_000_000),
            ("9223372036854775807", 9_223_372_036_854_775_807_000),
            ("18446744073709551615u", 18_446_744_073_709_551_615_000),
            ("closed_at - opened_at", 3_600_250),
            ("duration('-90s')", -90_000),
            ("math.round((0.1 + 0.2) * 1000.0) / 1000.0", 300),
        ] {
            assert_eq!(milli(source), Ok(Some(value)), "{source}");
        }
    }

    #[test]
    fn numbers_that_are_not_exact_are_refused() {
        for source in ["0.1 + 0.2", "0.0005", "1.0 / 0.0", "0.0 / 0.0", "duration('1us')", "1e-9"] {
            assert!(matches!(milli(source), Err(Failure::Values(_))), "{source}");
        }
        for source in ["people / 0", "9223372036854775807 + people", "int(type)", "tags[7] == ''"] {
            let failed = milli(source).unwrap_err();
            assert!(matches!(failed, Failure::Values(_)), "{source}: {failed}");
        }
        for source in ["type", "urgent", "tags", "opened_at"] {
            assert!(matches!(milli(source), Err(Failure::Types(_))), "{source}");
        }
    }

    #[test]
    fn whole_numbers_count_as_declared_however_json_writes_them() {
        let record: Value =
            serde_json::from_str(r#"{"people": 3.0, "amount": 4, "tags": 5}"#).unwrap();
        assert_eq!(with("people + 1", &record, Expression::milli), Ok(Some(4000)));
        assert_eq!(with("amount * 2.0", &record, Expression::milli), Ok(Some(8000)));
        assert_eq!(with("tags + 1", &record, Expression::milli), Ok(Some(6000)));
    }

    #[test]
    fn hashes_are_of_the_text() {
        let hash = |source| with(source, &record(), Expression::hash);
        assert_eq!(hash("type"), Ok(Some(distinct::hash("路灯".as_bytes()))));
        assert_eq!(hash("people"), Ok(Some(distinct::hash(b"3"))));
        assert_eq!(hash("urgent"), Ok(Some(distinct::hash(b"true"))));
        assert!(matches!(hash("amount"), Err(Failure::Types(_))));
    }

    #[test]
    fn failures_never_tell_a_value() {
        for source in [
            "type < 7",
            "type + 1 == type",
            "type - type == 0",
            "int(type) == 1",
            "timestamp(type) < opened_at",
            "duration(type) < duration('1s')",
            "{'a': 1}[type] == 1",
            "tags[9] == type",
            "type",
            "-type == 1",
            "type && urgent",
            "people % 0 == people",
            "{type: 1, type: 2} == {}",
        ] {
            let failed = condition(source).unwrap_err().to_string();
            assert!(!failed.contains("路灯") && !failed.contains("bc"), "{source}: {failed}");
        }
    }

    fn refused(source: &str) -> Error {
        Expression::compile(source, &fields()).unwrap_err()
    }

    #[test]
    fn only_declared_fields_and_offered_functions_are_named() {
        assert_eq!(refused("phone == ''"), Error::UnknownField("phone".into()));
        assert_eq!(refused("has(phone.x)"), Error::UnknownField("phone".into()));
        assert_eq!(refused("[1].map(x, y)[0] == 1"), Error::UnknownField("y".into()));
        assert_eq!(refused(".phone == ''"), Error::UnknownField(".phone".into()));
        for source in ["type.matches('(a*)*')", "matches(type, 'a')", "now() > opened_at"] {
            assert!(matches!(refused(source), Error::UnknownFunction(_)), "{source}");
        }
        assert!(matches!(refused("math.sqrt(2) > 1.0"), Error::UnknownFunction(_)));
        assert!(matches!(refused("optional.of(type).hasValue()"), Error::UnknownFunction(_)));
        assert_eq!(refused("Case{number: 1} == null"), Error::Message);
    }

    #[test]
    fn cost_is_bounded() {
        for source in [
            "tags.exists(a, tags.exists(b, a == b))",
            "tags.map(a, tags.map(b, b)) == []",
            "tags.all(a, size(tags.filter(b, b == a)) == 1)",
        ] {
            assert_eq!(refused(source), Error::Nested, "{source}");
        }
        assert!(
            Expression::compile("tags.all(a, a != '') && tags.all(b, b != '')", &fields()).is_ok()
        );
        let long = format!("type == '{}'", "x".repeat(MAX_BYTES));
        assert!(matches!(refused(&long), Error::TooLong(_)));
    }

    #[test]
    fn broken_and_deep_texts_are_refused_with_their_place() {
        let Error::Syntax { line, column, .. } = refused("people ==\n == 3") else { panic!() };
        assert_eq!((line, column), (2, 2));
        for source in ["", "(", "'", "people =", "路灯 == 1", "type == \"\\q\"", "\0"] {
            assert!(matches!(refused(source), Error::Syntax { .. }), "{source:?}");
        }
        for deep in [
            format!("{}1{}", "(".repeat(250), ")".repeat(250)),
            format!("{}urgent{}", "!(".repeat(160), ")".repeat(160)),
            format!("{}people{}", "-(".repeat(160), ")".repeat(160)),
            format!("{}{}", "[".repeat(250), "]".repeat(250)),
            "people.".repeat(70) + "x",
            "1+".repeat(250) + "1",
            "urgent?1:".repeat(50) + "2",
            "[".repeat(33) + "1" + &"]".repeat(33),
        ] {
            assert!(Expression::compile(&deep, &fields()).is_err(), "{deep}");
        }
    }

    #[test]
    fn the_deepest_expression_evaluates_on_a_small_stack() {
        let chain = "1+".repeat(MAX_DEPTH - 2) + "people";
        let brackets = "people < 0 ? 1 : ".repeat(MAX_DEPTH - 3) + "2";
        assert_eq!(refused(&format!("1+{chain}+1")), Error::TooDeep);
        let evaluated = std::thread::Builder::new()
            .stack_size(1 << 20)
            .spawn(move || [milli(&chain), milli(&brackets)])
            .unwrap();
        assert_eq!(evaluated.join().unwrap(), [Ok(Some(33_000)), Ok(Some(2000))]);
    }

    #[test]
    fn a_test_for_null_tells_presence_alone() {
        let used = |source| {
            let expression = Expression::compile(source, &fields()).unwrap();
            expression.fields()["type"]
        };
        assert_eq!(used("type != null"), Usage::Presence);
        assert_eq!(used("null == type && urgent"), Usage::Presence);
        assert_eq!(used("type != null && type == 'x'"), Usage::Content);
        assert_eq!(used("type == 'x' || type == null"), Usage::Content);
        assert_eq!(used("[type] == null"), Usage::Content);
        assert_eq!(used("size(type) == 3"), Usage::Content);
    }
}
