//! The dependency rule of `docs/ARCHITECTURE.md`, checked in the source text:
//! `domain ← statement ← {store, identity} ← verify ← services ← {link, grpc, console} ← node ← main`.
//!
//! Code under `#[cfg(test)]` is exempt: a test may borrow from above to set its scene.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its input has to fail")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The areas of `node/src` from the bottom up: each may use those on lower rungs, not its neighbours.
///
/// `clock`, `config` and `telemetry` stand low so that all but `domain` may use them.
const LADDER: [&[&str]; 11] = [
    &["clock"],
    &["domain"],
    &["config", "random", "watch"],
    &["telemetry"],
    &["statement"],
    &["store", "identity"],
    &["verify"],
    &["services"],
    &["link", "grpc", "console"],
    &["node"],
    TOP,
];

/// What puts the process together; it may use everything.
const TOP: &[&str] = &["main", "process", "lib"];

/// Crates that `domain` must not see: it is pure rules over plain values.
const NOT_IN_DOMAIN: [&str; 17] = [
    "async_trait",
    "axum",
    "futures",
    "getrandom",
    "hyper",
    "hyper_util",
    "lianxi_proto",
    "prost",
    "rcgen",
    "rustix",
    "rustls",
    "sled",
    "tokio",
    "tokio_rustls",
    "tokio_stream",
    "tonic",
    "tower",
];

/// Areas that may hold generated types. Others get `statement::{Envelope, SaltedCell}` at most.
const SEES_GENERATED: [&str; 3] = ["statement", "link", "grpc"];

/// Modules of `lianxi_proto` that are written by hand, for every area but `domain`.
const NOT_GENERATED: [&str; 4] = ["envelope", "cells", "merkle", "note"];

#[test]
fn node_keeps_the_dependency_rule() {
    let root = repository().join("node/src");
    let mut files = Vec::new();
    files_below(&root, "rs", &mut files);
    assert!(files.len() > 20, "only {} files were found", files.len());
    let mut violations = Vec::new();
    for file in &files {
        let relative = file.strip_prefix(&root).unwrap();
        violations.extend(violations_of(relative, &fs::read_to_string(file).unwrap()));
    }
    assert!(violations.is_empty(), "forbidden imports:\n{}", violations.join("\n"));
}

#[test]
fn contract_keeps_records_local() {
    let root = repository().join("proto/lianxi");
    let mut files = Vec::new();
    files_below(&root, "proto", &mut files);
    assert!(files.len() > 10, "only {} files were found", files.len());
    for file in &files {
        let package = file.strip_prefix(&root).unwrap().iter().next().unwrap().to_str().unwrap();
        let wrong = wrong_packages(package, &fs::read_to_string(file).unwrap());
        assert!(wrong.is_empty(), "{} uses {wrong:?}", file.display());
    }
}

/// Nothing that is shipped draws keys or salts that somebody can tell.
#[test]
fn the_product_never_simulates_randomness() {
    let mut files = Vec::new();
    for shipped in ["node/src", "admin-cli/src", "proto/src"] {
        files_below(&repository().join(shipped), "rs", &mut files);
    }
    let own = repository().join("node/src/random.rs");
    assert!(files.contains(&own));
    let calls = |file: &&PathBuf| {
        let source = fs::read_to_string(file).unwrap();
        let tokens = without_tests(&tokens(&source));
        tokens.iter().any(|token| token == "simulate")
    };
    let found: Vec<_> = files.iter().filter(|file| **file != own).filter(calls).collect();
    assert!(found.is_empty(), "{found:?}");
}

/// The check itself: each of these planted imports is found, however it is written.
#[test]
fn planted_imports_are_found() {
    let planted = [
        ("domain/unit.rs", "use tokio::sync::watch;"),
        ("domain/unit.rs", "fn f() { ::tonic::Status::ok(\"\"); }"),
        ("domain/unit.rs", "use {serde::Serialize, sled::Db};"),
        ("domain/unit.rs", "use prost as wire;"),
        ("domain/unit.rs", "extern crate tokio;"),
        ("domain/unit.rs", "use lianxi_proto::types::v1::Level;"),
        ("domain/unit.rs", "use lianxi_proto::envelope;"),
        ("domain/unit.rs", "use crate::statement::Envelope;"),
        ("domain/unit.rs", "use crate::clock::{UnixMillis, SystemClock};"),
        ("domain/unit.rs", "use crate::clock;"),
        ("domain/unit.rs", "use super::super::store;"),
        ("domain/unit.rs", "mod inner { use super::super::super::store::Batch; }"),
        ("domain/mod.rs", "use super::store::Batch;"),
        ("domain/unit.rs", "use crate::*;"),
        ("domain/unit.rs", "use crate as whole;"),
        ("domain/unit.rs", "type T = Vec<crate::link::Session>;"),
        ("domain/unit.rs", "const Q: char = '\"'; use tokio::time; const R: char = '\"';"),
        ("domain/unit.rs", "fn f<'a>(_: &'a str) { tokio::spawn(async {}); }"),
        ("domain/unit.rs", "#[cfg(test)] mod tests {} use tokio::time;"),
        ("domain/unit.rs", "#[cfg(not(test))] use tokio::time;"),
        ("statement/summary.rs", "use crate::identity::trust::Trust;"),
        ("store/mod.rs", "use crate::identity::keys;"),
        ("identity/keys.rs", "use crate::{domain::unit::UnitCode, store::Store};"),
        ("services/notices.rs", "use crate::link;"),
        ("services/notices.rs", "use crate::{store::{self, Store}, grpc::status};"),
        ("services/notices.rs", "use lianxi_proto::{cells, local::v1::NoticeState};"),
        ("services/notices.rs", "use sled::Db;"),
        ("link/child.rs", "use crate::grpc::status;"),
        ("grpc/mod.rs", "use crate::link::LinkHost;"),
        ("grpc/mod.rs", "use crate::node::Node;"),
        ("telemetry/mod.rs", "use crate::services::unit;"),
        ("config.rs", "use crate::telemetry::Metrics;"),
        ("node.rs", "use crate::process::run;"),
        ("novel/mod.rs", "use crate::domain::unit;"),
    ];
    for (file, source) in planted {
        let found = violations_of(Path::new(file), source);
        assert_eq!(found.len(), 1, "{source:?} in {file}: {found:?}");
    }
    assert_eq!(wrong_packages("link", "import \"lianxi/local/v1/record.proto\";"), ["local"]);
    assert_eq!(wrong_packages("link", "message A { lianxi.local.v1.Record a = 1; }"), ["local"]);
    assert_eq!(wrong_packages("types", "import public \"lianxi/link/v1/link.proto\";"), ["link"]);
}

/// What is allowed, or no import at all, is not found.
#[test]
fn allowed_imports_are_not_found() {
    let allowed = [
        ("domain/unit.rs", "use crate::{clock::UnixMillis, domain::unit::UnitCode};"),
        ("domain/unit.rs", "use std::sync::Arc; use serde_json::Value;"),
        ("domain/unit.rs", "use super::period::Period; use self::inner::tokio;"),
        ("domain/unit.rs", "// use tokio::time;\n/* use sled /* nested */ ::Db; */"),
        ("domain/unit.rs", "//! [`crate::store`]\nconst A: &str = \"crate::link::x \\\" sled::\";"),
        ("domain/unit.rs", "const A: &str = r#\"use tokio::\"time\"; \"#;"),
        ("domain/unit.rs", "#[cfg(test)]\nmod tests { use tokio::test; fn f() {} }"),
        ("domain/unit.rs", "#[cfg(test)] use tokio::time; const LINK: u8 = 0;"),
        ("domain/unit.rs", "fn f() { graph.link::<u8>(); Self::tokio(); }"),
        ("statement/mod.rs", "pub use lianxi_proto::types::v1::{Envelope, SaltedCell};"),
        ("store/sled.rs", "use sled::Db; use super::{Batch, Store};"),
        ("services/notices.rs", "use lianxi_proto::{cells, envelope::Signer};"),
        ("services/notices.rs", "use crate::{identity::trust::Trust, store::{self, Store}};"),
        ("link/mod.rs", "mod child { use super::super::services::exchange; }"),
        ("link/child.rs", "use super::session; use crate::link::pipe;"),
        ("node.rs", "use crate::{grpc, link::LinkHost};"),
        ("process.rs", "use crate::node::Host;"),
        ("main.rs", "use lianxi_node::{node::Host, process};"),
        ("lib.rs", "pub mod clock;"),
    ];
    for (file, source) in allowed {
        let found = violations_of(Path::new(file), source);
        assert!(found.is_empty(), "{source:?} in {file}: {found:?}");
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("")
}

fn files_below(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, extension, found);
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
}

/// Packages of the contract that a file of `package` must not use but does.
fn wrong_packages(package: &str, source: &str) -> Vec<String> {
    let text: String = source
        .lines()
        .map(|line| line.split_once("//").map_or(line, |(code, _)| code))
        .collect::<Vec<_>>()
        .join("\n")
        .replace('/', ".");
    let used = text
        .split("lianxi.")
        .skip(1)
        .map(|rest| rest.chars().take_while(char::is_ascii_lowercase).collect::<String>());
    used.filter(|used| {
        !(used == package || used == "types" || (package == "admin" && used == "local"))
    })
    .collect()
}

/// One line for each path in `source` that the area of `file` must not use.
fn violations_of(file: &Path, source: &str) -> Vec<String> {
    let module = module_of(file);
    // `main.rs` and `lib.rs` are the root module and named after their file.
    let stem = file.file_stem().unwrap().to_str().unwrap();
    let area = module.first().map_or(stem, String::as_str);
    if rung(area).is_none() {
        return vec![format!("{}: {area} is no known area", file.display())];
    }
    let tokens = without_tests(&tokens(source));
    let paths = paths(&tokens, &module);
    let wrong = paths.iter().filter(|path| !is_allowed(area, path));
    wrong.map(|path| format!("{}: {}", file.display(), path.join("::"))).collect()
}

/// The module that a file below `src` is.
fn module_of(file: &Path) -> Vec<String> {
    let parts = file.with_extension("");
    let mut module: Vec<_> = parts.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

fn rung(area: &str) -> Option<usize> {
    LADDER.iter().position(|areas| areas.contains(&area))
}

fn is_allowed(area: &str, path: &[String]) -> bool {
    let names: Vec<_> = path.iter().map(String::as_str).collect();
    match names[..] {
        ["crate", ..] if TOP.contains(&area) => true,
        ["crate", "clock", what] if area == "domain" => what == "UnixMillis",
        ["crate", "clock", ..] if area == "domain" => false,
        // A name that is no area is a macro's; an area that is not in the ladder is told by its file.
        ["crate", other, ..] => other == area || rung(other) < rung(area),
        // The whole crate under another name, or all of it: nothing could be seen through it.
        ["crate"] => false,
        [name, ..] if area == "domain" && NOT_IN_DOMAIN.contains(&name) => false,
        ["lianxi_proto", module, ..] => {
            NOT_GENERATED.contains(&module) || SEES_GENERATED.contains(&area)
        }
        ["lianxi_proto"] => SEES_GENERATED.contains(&area),
        ["sled", ..] => area == "store",
        _ => true,
    }
}

/// A piece of source: a word, `::`, or one other character.
type Token = String;

/// Words and signs of `source`, without comments, texts and lifetimes.
fn tokens(source: &str) -> Vec<Token> {
    let characters: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < characters.len() {
        let rest = &characters[at..];
        let taken = blank(rest).or_else(|| quoted(rest));
        at += taken.unwrap_or_else(|| {
            let word = rest.iter().take_while(|one| one.is_alphanumeric() || **one == '_').count();
            let length = if rest.starts_with(&[':', ':']) { 2 } else { word.max(1) };
            tokens.push(rest[..length].iter().collect());
            length
        });
    }
    tokens
}

/// Length of the space or comment that `rest` begins with.
fn blank(rest: &[char]) -> Option<usize> {
    if rest[0].is_whitespace() {
        return Some(1);
    }
    if rest.starts_with(&['/', '/']) {
        return Some(rest.iter().take_while(|one| **one != '\n').count());
    }
    if !rest.starts_with(&['/', '*']) {
        return None;
    }
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    Some(at)
}

/// Length of the text, character or lifetime that `rest` begins with.
fn quoted(rest: &[char]) -> Option<usize> {
    let prefix = rest.iter().take_while(|one| matches!(one, 'b' | 'c' | 'r')).count();
    let raw = rest[..prefix].contains(&'r');
    let marks = rest[prefix..].iter().take_while(|one| raw && **one == '#').count();
    let open = prefix + marks;
    match rest.get(open)? {
        '"' if prefix <= 2 => {
            let end: Vec<char> = std::iter::once('"').chain(vec!['#'; marks]).collect();
            let mut at = open + 1;
            while at < rest.len() && !rest[at..].starts_with(&end) {
                at += if !raw && rest[at] == '\\' { 2 } else { 1 };
            }
            Some(at + end.len())
        }
        '\'' if prefix <= 1 && marks == 0 => match &rest[open + 1..] {
            ['\\', _, tail @ ..] => {
                Some(open + 4 + tail.iter().take_while(|one| **one != '\'').count())
            }
            [_, '\'', ..] => Some(open + 3),
            tail => Some(
                open + 1
                    + tail.iter().take_while(|one| one.is_alphanumeric() || **one == '_').count(),
            ),
        },
        _ => None,
    }
}

/// The tokens without items under `#[cfg(test)]`.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at..].iter().take(MARK.len()).eq(MARK.iter()) {
            at += MARK.len() + item_length(&tokens[at + MARK.len()..]);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Tokens up to the end of an item: `;`, or the brace that closes it. Braces of a `use` do not end
/// it.
fn item_length(tokens: &[Token]) -> usize {
    let first = tokens.iter().find(|token| matches!(token.as_str(), "use" | "{" | ";"));
    let is_use = first.is_some_and(|first| first == "use");
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                if depth == 0 && !is_use {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// All paths of a file, each once, from the crate's root or an outer crate.
fn paths(tokens: &[Token], module: &[String]) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    // Braces of inline modules move what `super` means.
    let (mut module, mut braces) = (module.to_vec(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let before = at.checked_sub(1).map_or("", |before| tokens[before].as_str());
        let mut read = Vec::new();
        match tokens[at].as_str() {
            "use" => at = read_use(tokens, at + 1, &[], &mut read),
            "crate" if before == "extern" => {
                read.extend(tokens.get(at + 1).map(|name| vec![name.clone()]));
                at += 2;
            }
            "{" => {
                let name = (at > 1 && tokens[at - 2] == "mod").then(|| before.to_owned());
                module.extend(name.clone());
                braces.push(name.is_some());
                at += 1;
            }
            "}" => {
                if braces.pop() == Some(true) {
                    module.pop();
                }
                at += 1;
            }
            _ if before != "." && is_path_start(tokens, at) => {
                at = read_use(tokens, at, &[], &mut read)
            }
            _ => at += 1,
        }
        found.extend(read.iter().filter_map(|path| resolve(path, &module)));
    }
    found
}

fn is_word(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// True at `word::` and at a `::word` that no word precedes.
fn is_path_start(tokens: &[Token], at: usize) -> bool {
    let follows = |offset: usize| tokens.get(at + offset).map_or("", String::as_str);
    (is_word(&tokens[at]) && follows(1) == "::") || (tokens[at] == "::" && is_word(follows(1)))
}

/// Reads a path or a tree of them that begins at `at`, and returns where it ends.
fn read_use(
    tokens: &[Token],
    mut at: usize,
    prefix: &[String],
    found: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = read_use(tokens, at, &path, found);
                    // Past `as name` and the comma.
                    while tokens.get(at).is_some_and(|token| token != "," && token != "}") {
                        at += 1;
                    }
                    at += usize::from(tokens.get(at).is_some_and(|token| token == ","));
                }
                return at + 1;
            }
            "*" => {
                at += 1;
                break;
            }
            word if is_word(word) && (path.len() == prefix.len() || tokens[at - 1] == "::") => {
                path.push(word.to_owned());
                at += 1;
            }
            _ => break,
        }
    }
    found.push(path);
    at.max(1)
}

/// A path as `crate::…` or as that of another crate; `None` if it says nothing.
fn resolve(path: &[String], module: &[String]) -> Option<Vec<String>> {
    let mut base = module.to_vec();
    let mut rest = path;
    let inner = match rest.first()?.as_str() {
        "crate" | "lianxi_node" => {
            base.clear();
            rest = &rest[1..];
            true
        }
        "self" | "super" => {
            while let Some((first, tail)) =
                rest.split_first().filter(|(first, _)| matches!(first.as_str(), "self" | "super"))
            {
                if first == "super" {
                    base.pop();
                }
                rest = tail;
            }
            true
        }
        "Self" => return None,
        _ => false,
    };
    if !inner {
        return Some(path.to_vec());
    }
    let whole = ["crate".to_owned()].into_iter().chain(base);
    Some(whole.chain(rest.iter().filter(|part| *part != "self").cloned()).collect())
}
