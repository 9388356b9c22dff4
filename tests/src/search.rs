//! Looks for values of records in whatever left a node.
//!
//! Each value is looked for as text in any case, in percent and hex encoding, in base64 at each of
//! its three alignments, and as a list of its bytes as debug output and JSON write it; a number
//! also in the binary forms of protobuf.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use aho_corasick::AhoCorasick;
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

/// The shortest text that is looked for: shorter ones turn up by chance.
pub const SHORTEST: usize = 7;

#[derive(Clone, Copy, Debug)]
enum Form {
    /// Found wherever it stands.
    Anywhere,
    /// A number in text: found where it is not a part of a longer one, nor a duration.
    Number,
}

/// The values that are looked for.
#[derive(Debug, Default)]
pub struct Values {
    patterns: BTreeMap<Vec<u8>, (String, Form)>,
    texts: BTreeSet<String>,
}

impl Values {
    /// Adds a text such as an address or a case number; false if it is too short.
    pub fn text(&mut self, text: &str) -> bool {
        let text = text.trim();
        if text.len() < SHORTEST {
            return false;
        }
        if self.texts.insert(text.to_owned()) {
            self.add(text, text.as_bytes(), Form::Anywhere);
            let words: Vec<_> = text.split_whitespace().collect();
            for joint in [" ", "%20", "+", "  "] {
                self.add(text, words.join(joint).as_bytes(), Form::Anywhere);
            }
            self.encoded(text);
        }
        true
    }

    /// Adds a whole number: as text, and as protobuf writes it.
    pub fn integer(&mut self, number: u64) -> bool {
        let text = number.to_string();
        self.add(&text, &number.to_le_bytes(), Form::Anywhere);
        self.add(&text, &number.to_be_bytes(), Form::Anywhere);
        self.add(&text, &varint(number), Form::Anywhere);
        self.text(&text)
    }

    /// Adds a decimal number such as a latitude; false if it is too short.
    pub fn decimal(&mut self, text: &str) -> bool {
        let text = text.trim();
        let Ok(number) = text.parse::<f64>() else { return false };
        if text.len() < SHORTEST {
            return false;
        }
        if self.texts.insert(text.to_owned()) {
            self.add(text, text.as_bytes(), Form::Number);
            self.add(text, &number.to_le_bytes(), Form::Anywhere);
            self.add(text, &number.to_be_bytes(), Form::Anywhere);
            self.encoded(text);
        }
        true
    }

    fn encoded(&mut self, text: &str) {
        let hex = text.bytes().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        self.add(text, hex.as_bytes(), Form::Anywhere);
        for joint in [", ", ","] {
            let bytes: Vec<_> = text.bytes().map(|byte| byte.to_string()).collect();
            self.add(text, bytes.join(joint).as_bytes(), Form::Anywhere);
        }
        for before in 0..3 {
            let shifted = [&vec![0; before], text.as_bytes()].concat();
            let encoded = STANDARD_NO_PAD.encode(&shifted);
            // Characters at the ends depend on what stands beside the text.
            let first = [0, 2, 3][before];
            let last = shifted.len() * 4 / 3;
            self.add(text, &encoded.as_bytes()[first..last], Form::Anywhere);
        }
    }

    fn add(&mut self, text: &str, pattern: &[u8], form: Form) {
        self.patterns.insert(pattern.to_ascii_lowercase(), (text.to_owned(), form));
    }

    /// Prepares the search.
    pub fn search(self) -> Search {
        let (patterns, meanings): (Vec<_>, Vec<_>) = self.patterns.into_iter().unzip();
        Search { automaton: AhoCorasick::new(&patterns).unwrap(), meanings }
    }
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// A search for many values at once.
#[derive(Debug)]
pub struct Search {
    automaton: AhoCorasick,
    meanings: Vec<(String, Form)>,
}

impl Search {
    /// The values that occur in `bytes`, each with the text around its first occurrence.
    pub fn find(&self, bytes: &[u8]) -> BTreeMap<String, String> {
        // Binary patterns were folded in the same way.
        let folded = bytes.to_ascii_lowercase();
        let mut found = BTreeMap::new();
        for hit in self.automaton.find_overlapping_iter(&folded) {
            let (text, form) = &self.meanings[hit.pattern().as_usize()];
            let holds = match form {
                Form::Anywhere => true,
                Form::Number => stands_alone(&folded[..hit.start()], &folded[hit.end()..]),
            };
            if holds && !found.contains_key(text) {
                let around = hit.start().saturating_sub(80)..(hit.end() + 40).min(bytes.len());
                let around = String::from_utf8_lossy(&bytes[around]).into_owned();
                found.insert(text.clone(), around);
            }
        }
        found
    }
}

fn stands_alone(before: &[u8], after: &[u8]) -> bool {
    let part_of_number = before.last().is_some_and(u8::is_ascii_digit)
        || after.first().is_some_and(u8::is_ascii_digit);
    let duration = ["s", "ms", "ns", "µs"].iter().any(|unit| after.starts_with(unit.as_bytes()));
    !part_of_number && !duration
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_value_is_found() {
        let address = "39 Lorraine St  Roslindale";
        let mut values = Values::default();
        assert!(values.text(address) && values.integer(101_000_295_613));
        assert!(values.decimal("-71.0772") && values.decimal("42.2715"));
        assert!(!values.text(" Boston ") && !values.decimal("42.3"));
        let search = values.search();
        let list = format!("{:?}", address.as_bytes());
        let hex = address.bytes().map(|byte| format!("{byte:02X}")).collect::<String>();
        for text in
            ["at 39 LORRAINE St Roslindale!", "39%20Lorraine%20St%20Roslindale", &list, &hex]
        {
            assert_eq!(search.find(text.as_bytes()).len(), 1, "{text}");
        }
        for before in ["", "a", "ab", "abc"] {
            let encoded = STANDARD_NO_PAD.encode(format!("{before}{address} and more"));
            assert!(search.find(encoded.as_bytes()).contains_key(address), "{before}");
        }
        for bytes in [&101_000_295_613_u64.to_be_bytes()[..], &varint(101_000_295_613)] {
            assert_eq!(search.find(bytes).len(), 1);
        }
        assert_eq!(search.find(&42.2715_f64.to_le_bytes()).len(), 1);
        assert_eq!(search.find(b"{\"at\":[42.2715,-71.0772]}").len(), 2);
        assert!(search.find(b"in 42.2715ms, 142.2715 and 42.27151").is_empty());
    }
}
