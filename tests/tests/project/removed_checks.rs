//! The table of removed checks is whole: every attack has a check and a test, and each is still there.
//!
//! Builds nothing. `tests/python/removed_checks.py` takes the checks away and sees the tests fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// The attacks that have to be refused. The table may have more.
const ATTACKS: [&str; 33] = [
    "stolen token used twice",
    "stolen token used by two children at once",
    "expired token",
    "right token at a false parent",
    "child that asks for another unit's code",
    "child that asks for a sibling's code",
    "child that asks for its parent's code",
    "child that asks for a higher level",
    "delegation outside the subtree",
    "delegation past expiry",
    "delegation with a loop",
    "statement by an old key after its end",
    "backdated statement by an ended or stolen key",
    "statement by a revoked unit",
    "statement by a valid unit for another source",
    "certificate of one unit with statements of another",
    "TLS 1.2",
    "no client certificate",
    "self-signed certificate",
    "expired certificate",
    "certificate that is not yet valid",
    "replay of a captured session",
    "tampered byte at every position of an envelope",
    "journal truncated",
    "journal rewritten",
    "journal forked",
    "journal restored from an old backup",
    "password guessing",
    "session theft across accounts",
    "TOTP reuse",
    "path traversal in imports",
    "path traversal in exports",
    "a role that tries each other role's commands",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    removal: Vec<Removal>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Removal {
    name: String,
    attacks: Vec<String>,
    reason: String,
    audit: Option<String>,
    no_audit: Option<String>,
    tests: Vec<String>,
    edits: Vec<Edit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    file: String,
    text: String,
    without: Option<String>,
    switched: Option<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn table() -> Table {
    toml::from_str(&read("tests/removed-checks.toml")).unwrap()
}

/// The file of a test that is written `file::name`, and its name.
fn place(test: &str) -> (String, &str) {
    let (file, name) = test.split_once("::").unwrap_or_else(|| panic!("{test} names no file"));
    if file.contains('/') {
        return (file.to_owned(), name);
    }
    let file = format!("{}.rs", file.trim_end_matches(".rs"));
    // A file is its own program, or a module of the one that its folder is.
    let groups =
        fs::read_dir(root().join("tests/tests")).unwrap().map(|entry| entry.unwrap().path());
    let mut places = groups.map(|group| if group.is_dir() { group.join(&file) } else { group });
    let is_it = |place: &PathBuf| place.ends_with(&file) && place.exists();
    let found = places.find(is_it).unwrap_or_else(|| panic!("{test}: there is no {file}"));
    (
        format!(
            "tests/tests/{}",
            found.strip_prefix(root().join("tests/tests")).unwrap().display()
        ),
        name,
    )
}

fn exists(test: &str) -> bool {
    let (file, name) = place(test);
    let text = fs::read_to_string(root().join(file)).unwrap_or_default();
    text.contains(&format!("fn {name}(")) || text.contains(&format!("fn {name}<"))
}

#[test]
fn every_attack_has_a_check_and_a_test() {
    let table = table();
    let named: BTreeSet<&str> = table
        .removal
        .iter()
        .flat_map(|removal| removal.attacks.iter().map(String::as_str))
        .collect();
    let left_out: Vec<_> = ATTACKS.iter().filter(|attack| !named.contains(*attack)).collect();
    assert!(left_out.is_empty(), "tests/removed-checks.toml has nothing about {left_out:?}");
    let names: BTreeSet<&str> = table.removal.iter().map(|removal| removal.name.as_str()).collect();
    assert_eq!(names.len(), table.removal.len(), "a name is there twice");
}

#[test]
fn every_check_is_where_the_table_says() {
    let mut files: BTreeMap<&str, String> = BTreeMap::new();
    let table = table();
    for Removal { name, edits, .. } in &table.removal {
        assert!(!edits.is_empty(), "{name} removes nothing");
        for Edit { file, text, without, switched } in edits {
            let content = files.entry(file).or_insert_with(|| read(file));
            let times = content.matches(text.as_str()).count();
            assert_eq!(times, 1, "{name}: times that {file} has {text:?}");
            assert!(without.is_some() != switched.is_some(), "{name}: one of without and switched");
            let question = switched.as_ref().is_none_or(|text| text.contains("REMOVED"));
            assert!(question, "{name}: what is switched does not ask");
        }
    }
}

/// A refusal without its own word, or without its line in the journal, tells nobody anything.
#[test]
fn every_refusal_has_a_word_and_a_line_in_the_journal() {
    let sources = node_sources();
    for Removal { name, reason, audit, no_audit, tests, .. } in table().removal {
        assert!(!tests.is_empty(), "{name} names no test");
        for test in &tests {
            assert!(exists(test), "{name}: there is no test {test}");
        }
        assert!(audit.is_some() != no_audit.is_some(), "{name}: one of audit and no_audit");
        let (Some(audit), false) = (audit, reason.is_empty()) else {
            assert!(no_audit.is_some(), "{name}: what is in the journal has a reason");
            continue;
        };
        let quoted = |word: &str| format!("\"{word}\"");
        let asks = |test: &String| read(&place(test).0).contains(&quoted(&reason));
        assert!(tests.iter().any(asks), "{name}: none of its tests asks for {reason:?}");
        let writes = |source: &String| source.contains(&quoted(&audit));
        assert!(sources.iter().any(writes), "{name}: no journal holds {audit:?}");
    }
}

/// The text of every source file of the node.
fn node_sources() -> Vec<String> {
    let (mut found, mut waiting) = (Vec::new(), vec![root().join("node/src")]);
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                waiting.push(entry.path());
            } else {
                found.push(fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    found
}

#[test]
fn every_test_that_the_documents_name_is_there() {
    let text = read("docs/security.md");
    let mut named = 0;
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cell = line.trim_end_matches('|').rsplit('|').next().unwrap();
        for test in cell.split('`').filter(|part| part.contains("::")) {
            assert!(exists(test), "docs/security.md: there is no test {test}");
            named += 1;
        }
    }
    assert!(named > 100, "only {named} tests are named");
}
