//! Bad input, given as a person gives it: the message names the place and the remedy, the exit code
//! says the kind, and nothing is lost.

use std::{
    fs::{self, File},
    path::Path,
};

use lianxi_tests::{
    binary::{Answer, Running, run},
    federation::{CATALOGUE, MAPPING},
    ports::free_address,
    processes, small_disk,
    wait::until,
};
use serde_json::Value;

const HEADING: &str = "case,unit,opened,closed,type,address\n";
const GOOD: &str = "1,C,2011-07-01 08:00:00,,light,1 Main St\n";

/// Exit codes, as `docs/cli.md` promises them.
mod exit {
    pub(crate) const USAGE: i32 = 2;
    pub(crate) const UNAVAILABLE: i32 = 3;
    pub(crate) const NOT_FOUND: i32 = 4;
    pub(crate) const PRECONDITION: i32 = 5;
    pub(crate) const DENIED: i32 = 6;
    pub(crate) const EXHAUSTED: i32 = 7;
    pub(crate) const REJECTED_ROWS: i32 = 9;
    pub(crate) const DOUBTS: i32 = 11;
}

/// Runs a command whose words hold no blanks.
async fn lianxi(place: &Path, line: &str) -> Answer {
    run(place, line.split_whitespace()).await
}

async fn make_host(place: &Path, dir: &str, port: u16) {
    let line = "node init --code C --level city --title City --domain test.example";
    let made = lianxi(place, &format!("{line} --dir {dir} --listen 127.0.0.1:{port}")).await;
    made.succeeds();
}

/// A city's host in the directory `c`, and the files that a person has beside it.
struct City {
    place: tempfile::TempDir,
    port: u16,
    node: Running,
}

impl City {
    /// Without a catalogue.
    async fn bare() -> Self {
        let place = tempfile::tempdir().unwrap();
        let port = free_address().port();
        make_host(place.path(), "c", port).await;
        fs::write(place.path().join("catalogue.json"), CATALOGUE).unwrap();
        fs::write(place.path().join("mapping.toml"), MAPPING).unwrap();
        let node = Running::start(place.path(), "c").await;
        Self { place, port, node }
    }

    async fn new() -> Self {
        let city = Self::bare().await;
        city.asks("catalogue publish catalogue.json").await.succeeds();
        city
    }

    fn place(&self) -> &Path {
        self.place.path()
    }

    fn file(&self, name: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.place().join(name), contents).unwrap();
    }

    async fn asks(&self, line: &str) -> Answer {
        lianxi(self.place(), &format!("{line} --dir c")).await
    }

    /// Imports `rows` below the usual heading.
    async fn imports(&self, rows: impl AsRef<[u8]>, options: &str) -> Answer {
        self.file("rows.csv", [HEADING.as_bytes(), rows.as_ref()].concat());
        self.asks(&format!("record import rows.csv --mapping mapping.toml {options}")).await
    }

    /// How many records the city holds.
    async fn records(&self) -> u64 {
        let status = self.asks("node status --json").await.json();
        status["units"][0]["records"].as_u64().unwrap()
    }

    async fn token(&self, child: &str, level: &str, options: &str) -> String {
        let line = format!("node invite {child} --level {level} --title T {options}");
        self.asks(&line).await.succeeds().trim().to_owned()
    }
}

/// What the report of an import says of its only bad row.
fn only_error(answer: &Answer) -> Value {
    let report: Value = serde_json::from_str(&answer.stdout).unwrap();
    let errors = report["row_errors"].as_array().unwrap();
    assert!(errors.len() == 1, "{answer:#?}");
    errors[0].clone()
}

#[tokio::test]
async fn a_malformed_row_is_told_with_its_line_and_spoils_no_other() {
    let city = City::new().await;
    let good = GOOD.as_bytes();
    let cases: [(&[u8], &str, &str); 4] = [
        (b"2,C,2011-07-01 08:00:00,,light,\"2 Main St\n", "", "a quotation mark is opened"),
        (b"2,C,2011-07-01 08:00:00,,li\xffght,2 Main St\n", "type", "save the file as UTF-8"),
        (b"2,C,2011-07-01 08:00:00,,light,2 Main St,more\n", "", "the row has 7 cells"),
        (b"2,C,yesterday,,light,2 Main St\n", "opened", "correct the row or the mapping"),
    ];
    for (bad, column, reason) in cases {
        let answer = city.imports([bad, good].concat(), "--json").await;
        answer.fails(exit::REJECTED_ROWS, &["rejected", "import the file again"]);
        let error = only_error(&answer);
        assert_eq!((&error["line"], &error["column"]), (&2.into(), &column.into()), "{error}");
        assert!(error["reason"].as_str().unwrap().contains(reason), "{error}");
        assert_eq!(city.records().await, 1);
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_rows_is_refused_with_the_reason() {
    let city = City::new().await;
    city.imports(GOOD, "").await.succeeds();
    let import = "record import file.csv --mapping mapping.toml";
    city.asks(import).await.fails(exit::NOT_FOUND, &["file.csv", "No such file"]);
    let utf16: Vec<u8> = HEADING.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases: [(&[u8], &[&str]); 4] = [
        (b"", &["the file is empty", "its first row must name the columns"]),
        (b"case,unit,opened\n1,C,x\n", &["no column", "\"address\"", "fields.address.column"]),
        (&utf16, &["UTF-8"]),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x01\x02", &["packed file is damaged"]),
    ];
    for (contents, message) in cases {
        city.file("file.csv", contents);
        city.asks(import).await.fails(exit::USAGE, message);
        assert_eq!(city.records().await, 1);
    }
}

#[tokio::test]
async fn a_mistake_in_a_mapping_is_told_with_its_place() {
    let city = City::new().await;
    city.file("rows.csv", [HEADING, GOOD].concat());
    let cases: [(&str, &str, i32, &[&str]); 5] = [
        ("trim =", "trimm =", exit::USAGE, &["wrong.toml", "line 2", "trimm", "expected"]),
        ("\"unit\"", "\"unit\"\nlookup = \"none.csv\"", exit::USAGE, &["wrong.toml", "none.csv"]),
        ("America/New_York", "Mars/Olympus", exit::USAGE, &["time_zone", "Mars/Olympus", "IANA"]),
        ("[fields]", "[fields", exit::USAGE, &["wrong.toml", "line 9"]),
        ("\"request\"", "\"visit\"", exit::PRECONDITION, &["kit@1", "\"visit\"", "record_type"]),
    ];
    for (right, wrong, code, message) in cases {
        assert!(MAPPING.contains(right));
        city.file("wrong.toml", MAPPING.replacen(right, wrong, 1));
        city.asks("record import rows.csv --mapping wrong.toml").await.fails(code, message);
    }
    assert_eq!(city.records().await, 0);
}

#[tokio::test]
async fn a_record_that_breaks_its_schema_is_told_by_paths_and_never_by_its_value() {
    let city = City::new().await;
    let value = "Planted-Secret-Value-That-Is-Longer-Than-Forty-Characters";
    let bad = format!("2,C,2011-07-01 08:00:00,,{value},2 Main St\n");
    let answer = city.imports(format!("{GOOD}{bad}"), "--json").await;
    answer.fails(exit::REJECTED_ROWS, &[]);
    let error = only_error(&answer);
    assert_eq!(error["line"], 3);
    assert_eq!(error["column"], "type");
    assert_eq!(error["record_path"], "/type");
    assert_eq!(error["schema_path"], "/properties/type/maxLength");
    assert!(error["reason"].as_str().unwrap().contains("at most 40 characters"), "{error}");
    let shown = city.imports(bad, "").await;
    for said in [&answer.stdout, &answer.stderr, &shown.stdout, &shown.stderr] {
        assert!(!said.contains(value), "{said}");
    }
    let log = fs::read_to_string(city.place().join("c.log")).unwrap();
    assert!(!log.contains(value), "{log}");
    assert_eq!(city.records().await, 1);
}

#[tokio::test]
async fn all_or_nothing_keeps_nothing_of_a_file_with_a_bad_row() {
    let city = City::new().await;
    let rows = format!("{GOOD}2,C,yesterday,,light,2 Main St\n");
    let answer = city.imports(&rows, "--all-or-nothing --json").await;
    answer.fails(exit::REJECTED_ROWS, &["1 rows were rejected"]);
    let report: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!((&report["imported"], &report["kept_nothing"]), (&0.into(), &true.into()));
    assert_eq!(city.records().await, 0);
    city.imports(&rows, "").await.fails(exit::REJECTED_ROWS, &[]);
    assert_eq!(city.records().await, 1);
}

#[tokio::test]
async fn a_node_without_a_catalogue_says_what_it_waits_for() {
    let city = City::bare().await;
    let answer = city.imports(GOOD, "").await;
    answer.fails(exit::PRECONDITION, &["unit C has no catalogue yet", "publish one"]);
    let answer = city.asks("catalogue show").await;
    answer.fails(exit::NOT_FOUND, &["lianxi catalogue publish"]);
    let answer = city.asks("summary publish --period 2011-07").await;
    assert_ne!(answer.code, 0);
    assert!(answer.stderr.contains("catalogue"), "{answer:#?}");
    city.asks("catalogue publish catalogue.json").await.succeeds();
    city.imports(GOOD, "").await.succeeds();
    assert_eq!(city.records().await, 1);
}

#[tokio::test]
async fn a_mistake_in_a_catalogue_is_told_with_its_pointer() {
    let city = City::new().await;
    let import = "catalogue publish wrong.json";
    city.asks(import).await.fails(exit::NOT_FOUND, &["wrong.json", "No such file"]);
    let remote = "\"$ref\": \"https://example.com/schema.json\"";
    let cases: [(&str, &str, &[&str]); 4] = [
        ("\"version\": 1,", "\"version\": 2, \"filtr\": 1,", &["at the top", "`filtr`", "one of"]),
        ("closed != null", "closed !! null", &["/indicators/1/filter", "column 8"]),
        ("\"maxLength\": 40", remote, &["/properties/type/$ref", "refer to #/$defs/"]),
        ("\"name\": \"kit\",", "\"name\": ", &["no JSON", "line 3"]),
    ];
    for (right, wrong, message) in cases {
        assert!(CATALOGUE.contains(right));
        city.file("wrong.json", CATALOGUE.replacen(right, wrong, 1));
        city.asks(import).await.fails(exit::USAGE, &[&["wrong.json"], message].concat());
    }
    let again = city.asks("catalogue publish catalogue.json").await;
    again.fails(exit::PRECONDITION, &["version 1 is in force", "publish a higher one"]);
    assert!(city.asks("catalogue show").await.succeeds().contains("kit"));
}

/// P6: one version of an indicator counts one thing.
#[tokio::test]
async fn an_indicator_that_counts_something_else_needs_a_higher_version() {
    let city = City::new().await;
    let second = CATALOGUE.replacen("\"version\": 1,", "\"version\": 2,", 1);
    let other = second.replacen("closed != null", "closed == null", 1);
    city.file("other.json", other.clone());
    let place = ["/indicators/closed", "under the same version: raise it"];
    for dry_run in [" --dry-run", ""] {
        let answer = city.asks(&format!("catalogue publish other.json{dry_run}")).await;
        answer.fails(exit::PRECONDITION, &place);
    }
    let shown = city.asks("catalogue show --json").await.json();
    assert_eq!(shown["version"], 1);

    // Against what is in force, and between two files without a node.
    let answer = city.asks("catalogue diff other.json").await;
    answer.fails(exit::PRECONDITION, &["1 changes are refused", "raise the version"]);
    assert!(answer.stdout.contains("REFUSED: counts something else"), "{answer:#?}");
    let files = "catalogue diff other.json --before catalogue.json --json";
    let answer = lianxi(city.place(), files).await;
    answer.fails(exit::PRECONDITION, &[]);
    let told: Value = serde_json::from_str(&answer.stdout).unwrap();
    let [change] = told["changes"].as_array().unwrap().as_slice() else { panic!("{told}") };
    assert_eq!(change["effect"], "same-version");

    // With a higher version it begins anew.
    let closed = other.find("\"id\": \"closed\"").unwrap();
    let (head, tail) = other.split_at(closed);
    let raised = tail.replacen("\"version\": 1,", "\"version\": 2,", 1);
    city.file("raised.json", [head, &raised].concat());
    let answer = city.asks("catalogue diff raised.json --json").await;
    assert_eq!(answer.json()["changes"][0]["effect"], "series-anew");
    city.asks("catalogue publish raised.json").await.succeeds();
    city.asks("catalogue diff raised.json").await.succeeds();

    city.file("broken.json", "{");
    let answer = lianxi(city.place(), "catalogue lint broken.json").await;
    answer.fails(exit::USAGE, &["broken.json", "no JSON"]);
    let unsure = CATALOGUE.replacen(", \"x-class\": \"address\"", "", 1);
    assert_ne!(unsure, CATALOGUE);
    city.file("unsure.json", unsure);
    let answer = lianxi(city.place(), "catalogue lint unsure.json").await;
    answer.fails(exit::DOUBTS, &["doubts", "look at each place"]);
    assert!(answer.stdout.contains("no x-class"), "{answer:#?}");
    lianxi(city.place(), "catalogue lint catalogue.json").await.succeeds();
}

#[tokio::test]
async fn a_token_that_brings_nobody_in_says_why_and_what_to_do() {
    let city = City::new().await;
    let join = async |dir: &str, token: &str| {
        lianxi(city.place(), &format!("node join {token} --dir {dir}")).await
    };
    let token = city.token("C-1", "district", "").await;
    let copy = "copy the whole of what `lianxi node invite` printed";
    join("x", &token[..token.len() / 2]).await.fails(exit::USAGE, &["incomplete", copy]);
    join("x", "hello").await.fails(exit::USAGE, &["no token", "lianxi1."]);
    // None of these is in the way of the right one, at the same place.
    join("x", &token).await.succeeds();
    join("y", &token).await.fails(exit::PRECONDITION, &["was used", "ask for a new one"]);
    join("x", &token)
        .await
        .fails(exit::PRECONDITION, &["x is a host already", "another directory"]);
    let expired = city.token("C-2", "district", "--valid-for 1ms").await;
    join("z", &expired).await.fails(exit::PRECONDITION, &["expired", "new"]);
    let answer = city.asks("node invite C-3 --level district --title T --valid-for soon").await;
    answer.fails(exit::USAGE, &["soon", "--valid-for", "30m"]);
}

#[tokio::test]
async fn a_token_of_another_tree_finds_the_wrong_ca() {
    let City { place, port, node } = City::new().await;
    node.kill().await;
    // The same name at the same address, and other keys.
    make_host(place.path(), "d", port).await;
    let other = Running::start(place.path(), "d").await;
    let invite = "node invite C-1 --level district --title T --dir d";
    let token = lianxi(place.path(), invite).await.succeeds();
    other.kill().await;
    let join = format!("node join {token} --dir x");
    let answer = lianxi(place.path(), &join).await;
    answer.fails(exit::UNAVAILABLE, &["C was not reached", "check that the parent's node runs"]);
    let city = Running::start(place.path(), "c").await;
    lianxi(place.path(), &join).await.fails(exit::DENIED, &["CA"]);
    // Once the right parent is back, the token that failed twice is good.
    city.kill().await;
    let _other = Running::start(place.path(), "d").await;
    lianxi(place.path(), &join).await.succeeds();
}

#[tokio::test]
async fn a_host_that_does_not_start_says_what_is_in_its_way() {
    let city = City::bare().await;
    let place = city.place();
    let holder = format!("process {}", city.node.id());
    let second = city.asks("node run").await;
    second.fails(exit::PRECONDITION, &["in use by", &holder, "stop that process first"]);

    fs::create_dir(place.join("empty")).unwrap();
    for dir in ["empty", "nowhere"] {
        let answer = lianxi(place, &format!("node run --dir {dir}")).await;
        let config = format!("{dir}/node.toml");
        answer.fails(exit::NOT_FOUND, &[&config, "lianxi node init", "lianxi node join"]);
        let answer = lianxi(place, &format!("node status --dir {dir}")).await;
        let remedy = format!("lianxi node run --dir {dir}");
        answer.fails(exit::UNAVAILABLE, &["no node runs in", &remedy, "--dir"]);
    }
    city.asks("node init --code C --level city --title T --domain d --listen 127.0.0.1:0")
        .await
        .fails(exit::PRECONDITION, &["c is a host already", "another directory"]);

    make_host(place, "d", city.port).await;
    let address = format!("127.0.0.1:{}", city.port);
    let answer = lianxi(place, "node run --dir d").await;
    answer.fails(exit::PRECONDITION, &["cannot listen on", &address, "node.toml"]);

    let config = fs::read_to_string(place.join("d/node.toml")).unwrap();
    let line = config.lines().position(|line| line.starts_with("listen")).unwrap() + 1;
    let wrong = config.replace("\nlisten", "\nlistn");
    fs::write(place.join("d/node.toml"), wrong).unwrap();
    let answer = lianxi(place, "node run --dir d").await;
    let file_and_line = format!("d/node.toml:{line}: link.listn: unknown key");
    answer.fails(exit::USAGE, &[&file_and_line, "remove the key or correct its spelling"]);
    // The first was not disturbed.
    city.asks("node status").await.succeeds();
}

#[tokio::test]
async fn a_node_whose_parent_is_not_there_says_why_and_links_when_it_comes() {
    let City { place, port, node } = City::new().await;
    let place = place.path();
    let invite = "node invite S --level street --title Street --dir c";
    let token = lianxi(place, invite).await.succeeds();
    lianxi(place, &format!("node join {token} --dir s")).await.succeeds();
    node.kill().await;

    let _street = Running::start(place, "s").await;
    let status =
        async || lianxi(place, "node status --dir s --json").await.json()["units"][0].clone();
    let address = format!("127.0.0.1:{port}");
    until("the reason of the link that is down", async || {
        let unit = status().await;
        assert_eq!(unit["parent_link"], "down");
        let reason = unit["parent_link_reason"].as_str().unwrap();
        (reason.contains(&address) && reason.contains("check that the parent's node runs"))
            .then_some(())
    })
    .await;
    let shown = lianxi(place, "node status --dir s").await.succeeds();
    assert!(shown.contains("S: link down: nobody answers"), "{shown}");

    let _city = Running::start(place, "c").await;
    until("the link, and the catalogue that was waiting", async || {
        let unit = status().await;
        (unit["parent_link"] == "up" && unit["catalogue"] == "kit@1").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_period_that_is_none_is_told_with_those_that_are() {
    let city = City::new().await;
    for (period, why) in [("lastmonth", "is no period"), ("2011-13", "not in the calendar")] {
        for verb in ["publish", "pull", "show"] {
            let answer = city.asks(&format!("summary {verb} --period {period}")).await;
            answer.fails(exit::USAGE, &["--period", period, why, "a month 2011-07"]);
        }
    }
    let answer = city.asks("summary publish --period 2011-W27").await;
    answer.fails(exit::USAGE, &["2011-W27", "not made of months", "name a month"]);
    let answer = city.asks("summary show --period 2011-07").await;
    answer.fails(exit::NOT_FOUND, &["2011-07"]);
}

#[tokio::test]
async fn a_notice_that_may_not_go_out_and_a_whistle_of_no_street_are_refused() {
    let city = City::new().await;
    let token = city.token("Q", "community", "").await;
    city.asks(&format!("node join {token}")).await.succeeds();

    let issue = "notice issue --number N1 --title Lights --to C --level community --due";
    city.asks(&format!("{issue} 7d")).await.fails(exit::USAGE, &["--duty-item"]);
    let item = "--duty-item street-light-inspection";
    let answer = city.asks(&format!("{issue} 7d {item} --text call-13812345678-first")).await;
    answer.fails(exit::USAGE, &["text", "mobile telephone number", "refer to a case number"]);
    assert!(!answer.stderr.contains("13812345678"), "{answer:#?}");
    city.asks(&format!("{issue} 2020-01-01 {item}")).await.fails(exit::USAGE, &["due time"]);
    let nobody = "notice issue --number N1 --title T --to C --level street --due 7d";
    let answer = city.asks(&format!("{nobody} {item}")).await;
    answer.fails(exit::NOT_FOUND, &["no street is under C"]);
    let elsewhere = "notice issue --number N1 --title T --to X --level street --due 7d";
    let answer = city.asks(&format!("{elsewhere} {item}")).await;
    answer.fails(exit::NOT_FOUND, &["X is not below", "lianxi node units"]);
    let listed = city.asks("notice list --json").await.json();
    assert!(!listed.to_string().contains("N1"), "{listed}");

    let raise =
        "escalation raise --number W1 --kind emergency --title Pipe --desk D --approved-by duty";
    let answer = city.asks(&format!("{raise} --unit Q")).await;
    answer.fails(exit::PRECONDITION, &["Q is no street", "only a street"]);
    let listed = city.asks("escalation list --json").await.json();
    assert!(!listed.to_string().contains("W1"), "{listed}");
}

#[test]
fn a_full_disk_refuses_an_import_and_loses_nothing() {
    small_disk::run(
        "a_full_disk_refuses_an_import_and_loses_nothing",
        "bad_input::child_on_a_small_disk",
        &[(processes::PROGRAM, processes::program())],
    );
}

#[tokio::test]
#[ignore = "a child of the test above: cargo test -p lianxi-tests --test link -- bad_input"]
async fn child_on_a_small_disk() {
    let Some(disk) = small_disk::mounted(320) else { return };
    let disk = disk.as_path();
    make_host(disk, "c", free_address().port()).await;
    fs::write(disk.join("catalogue.json"), CATALOGUE).unwrap();
    fs::write(disk.join("mapping.toml"), MAPPING).unwrap();
    fs::write(disk.join("first.csv"), [HEADING, GOOD].concat()).unwrap();
    let second = GOOD.replacen("1,C", "2,C", 1);
    fs::write(disk.join("second.csv"), [HEADING, &second].concat()).unwrap();
    let import = async |file: &str| {
        lianxi(disk, &format!("record import {file} --mapping mapping.toml --dir c")).await
    };
    let records = async || {
        let status = lianxi(disk, "node status --dir c --json").await.json();
        status["units"][0]["records"].as_u64().unwrap()
    };

    let node = Running::start(disk, "c").await;
    lianxi(disk, "catalogue publish catalogue.json --dir c").await.succeeds();
    import("first.csv").await.succeeds();

    let ballast = disk.join("ballast");
    let full = std::io::copy(&mut std::io::repeat(1), &mut File::create(&ballast).unwrap());
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let refused = import("second.csv").await;
    refused.fails(exit::EXHAUSTED, &["is full", "make room and import the file again"]);
    let refused = lianxi(disk, "summary publish --period 2011-07 --dir c").await;
    refused.fails(exit::EXHAUSTED, &["the disk is full", "free disk space"]);
    assert_eq!(records().await, 1);
    import("second.csv").await.fails(exit::EXHAUSTED, &["full"]);

    // Started without any space, it says so and leaves everything as it is.
    node.kill().await;
    lianxi(disk, "node run --dir c").await.fails(1, &["c/store", "No space left"]);
    fs::remove_file(&ballast).unwrap();
    let _node = Running::start(disk, "c").await;
    assert_eq!(records().await, 1);
    import("second.csv").await.succeeds();
    until("both records", async || (records().await == 2).then_some(())).await;
}
