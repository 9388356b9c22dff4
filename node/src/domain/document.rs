//! JSON that means one thing: a document with a member twice is refused.
//!
//! Readers differ in which of two equal names they keep, so what one unit signed another could read
//! otherwise; and whoever wrote a name twice lost one of the two without a word.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads a document.
///
/// # Errors
///
/// No JSON, a number out of range, or a name that stands twice in one object; with line and column.
pub fn read(text: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice::<Document>(text).map(|document| document.0)
}

struct Document(Value);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Document(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Document(value))) = members.next_entry::<String, Document>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom(format!("{name:?} stands twice: remove one of them")));
            }
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_plain_reader_reads() {
        let text =
            r#" {"a": [1, -2, 18446744073709551615, 0.1, 1e300], "乙": {"a": null}, "t": true} "#;
        let plain: Value = serde_json::from_str(text).unwrap();
        assert_eq!(read(text.as_bytes()).unwrap(), plain);
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_with_its_place() {
        for text in ["{\"a\": 1,\n\"a\": 1}", "[{\"x\": {\"a\": 1,\n\"\\u0061\": 2}}]"] {
            let error = read(text.as_bytes()).unwrap_err();
            assert_eq!(error.line(), 2, "{error}");
            assert!(error.to_string().contains("\"a\" stands twice"), "{error}");
        }
        assert!(read(br#"{"a": {"a": {"a": 1}}, "b": {"a": 1}}"#).is_ok());
    }

    #[test]
    fn broken_and_deep_documents_are_refused() {
        for text in ["", "{", "[1,]", "{} {}", "nul", "\"\u{1}\"", "1e999"] {
            assert!(read(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(read(b"\"\xff\"").is_err());
        assert!(read("[".repeat(10_000).as_bytes()).is_err());
        assert!(read("{\"a\":".repeat(10_000).as_bytes()).is_err());
    }
}
