//! Every command in the documents is one that `lianxi` takes, and the README's first steps work.

use std::{
    fs,
    path::{Path, PathBuf},
};

use lianxi_tests::{
    binary::{Running, run},
    wait::until,
};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every document for readers, with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![repository().join("docs"), repository().join("deploy")];
    let at_the_top = |name: &str| repository().join(name);
    found
        .extend(["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "SECURITY.md"].map(at_the_top));
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    let with_text = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path, text)
    };
    found.into_iter().map(with_text).collect()
}

/// Lines of the fenced blocks that a person would type: those of a shell, or of no language.
fn typed_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut language: Option<&str> = None;
    for line in text.lines() {
        match (line.trim().strip_prefix("```"), language) {
            (Some(_), Some(_)) => language = None,
            (Some(info), None) => language = Some(info),
            (None, Some("" | "sh" | "bash" | "console")) => {
                let line = line.trim();
                lines.push(line.strip_prefix("$ ").unwrap_or(line).to_owned());
            }
            (None, _) => {}
        }
    }
    lines
}

/// Code in running text.
fn spans(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut spans = Vec::new();
    for line in text.lines() {
        fenced ^= line.trim().starts_with("```");
        if !fenced {
            spans.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    spans
}

/// Words as a shell reads them, up to whatever ends the command.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        if matches!(first, '#' | '|' | '&' | '>' | ';') {
            break;
        }
        let (word, after) = if matches!(first, '"' | '\'') {
            rest[1..].split_once(first).expect("an open quotation mark")
        } else {
            rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()))
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

/// Arguments that the line gives to `lianxi`, if it calls it.
fn arguments(line: &str) -> Option<Vec<String>> {
    let mut words = words(line);
    if words.first().is_some_and(|word| word == "sudo") {
        words.remove(0);
    }
    let program = words.first()?.clone();
    if program == "lianxi" || (program.starts_with("target/") && program.ends_with("/lianxi")) {
        return Some(words.split_off(1));
    }
    let runs_it = words.windows(2).any(|pair| pair == ["--bin", "lianxi"]);
    if program == "cargo" && runs_it {
        let dashes = words.iter().position(|word| word == "--").expect("arguments after --");
        return Some(words.split_off(dashes + 1));
    }
    None
}

/// Why `lianxi` does not take the arguments; `None` if it does. A `whole` command is really given,
/// in an empty directory where no node runs, because help would not miss an argument that is
/// required. What would write elsewhere or run for minutes is only asked for its help.
async fn refusal(given: &[String], whole: bool) -> Option<String> {
    let place = tempfile::tempdir().unwrap();
    let shell = |word: &String| if word == "SHELL" { "bash".to_owned() } else { word.clone() };
    let mut given: Vec<String> = given.iter().map(shell).collect();
    let is_a_fragment = !whole || given.iter().any(|word| word.contains('…'));
    given.retain(|word| !word.contains('…'));
    let is_far_reaching = matches!(given.first().map(String::as_str), Some("demo" | "man"));
    if is_a_fragment || is_far_reaching {
        given.push("--help".to_owned());
    }
    let answer = run(place.path(), &given).await;
    // The last words of the parser; a command that was understood fails for want of a node.
    let is_refused = answer.stderr.contains("try '--help'") || answer.stderr.contains("Usage:");
    is_refused.then(|| format!("{}\n{}", answer.shown, answer.stderr))
}

#[tokio::test]
async fn every_command_of_the_documents_is_taken_by_the_program() {
    let mut count = 0;
    let mut refused = Vec::new();
    for (path, text) in documents() {
        // Spans such as `lianxi` or `lianxi <noun> <verb>` name the program and its grammar.
        let spans = spans(&text).into_iter().filter(|span| !span.contains('<'));
        let spans = spans.map(|span| (span, false));
        for (line, whole) in typed_lines(&text).into_iter().map(|line| (line, true)).chain(spans) {
            let Some(given) = arguments(&line).filter(|given| !given.is_empty()) else { continue };
            count += 1;
            if let Some(why) = refusal(&given, whole).await {
                refused.push(format!("{}: {line}\n{why}", path.display()));
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(count >= 40, "only {count} commands were found: are the documents read?");
}

#[tokio::test]
async fn a_command_that_the_program_does_not_take_is_found() {
    for wrong in [
        "lianxi node frobnicate",
        "lianxi node status --no-such-flag",
        "lianxi summary pull --period 2011-13",
        "lianxi node invite 310101 --level district   # without a title",
        "sudo target/release/lianxi man DIR --no-such-flag",
        "cargo run --release --bin lianxi -- demo --twice",
    ] {
        let given = arguments(wrong).unwrap();
        assert!(refusal(&given, true).await.is_some(), "{wrong} is not found to be wrong");
    }
    assert_eq!(arguments("cargo test --workspace"), None);
    assert_eq!(arguments("lianxi a \"b c\" --d='e' | tee f").unwrap(), ["a", "b c", "--d='e'"]);
}

/// The block below the heading that begins with `lianxi node init`.
fn first_steps(readme: &str) -> Vec<String> {
    let text = fs::read_to_string(repository().join(readme)).unwrap();
    let lines = typed_lines(&text);
    let from = lines.iter().position(|line| line.starts_with("lianxi node init")).unwrap();
    let until = lines.iter().rposition(|line| line.starts_with("lianxi summary pull")).unwrap();
    lines[from..=until].iter().filter(|line| !line.is_empty()).cloned().collect()
}

/// A person who types what the README says, one line after the other, in one terminal.
struct Reader {
    place: tempfile::TempDir,
    port: u16,
    token: String,
    running: Vec<(String, Running)>,
}

impl Reader {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        // The terminal is in the clone, as the README says.
        std::os::unix::fs::symlink(repository().join("deploy"), place.path().join("deploy"))
            .unwrap();
        let port = lianxi_tests::ports::free_address().port();
        Self { place, port, token: String::new(), running: Vec::new() }
    }

    /// Types a line; gives what it printed.
    async fn types(&mut self, line: &str) -> String {
        let mut given = arguments(line).unwrap_or_else(|| panic!("no command of lianxi: {line}"));
        for word in &mut given {
            *word = word.replace("7400", &self.port.to_string());
            if word == "TOKEN" || word == "令牌" {
                word.clone_from(&self.token);
            }
        }
        if line.ends_with('&') {
            let dir = given.last().unwrap().clone();
            let running = Running::start(self.place.path(), &dir).await;
            self.running.push((dir, running));
            return String::new();
        }
        let printed = run(self.place.path(), &given).await.succeeds();
        if given[..2] == ["node", "invite"] {
            self.token = printed.trim().to_owned();
        }
        printed
    }

    /// Waits as long as a person takes to type on: until the north is linked and has its catalogue.
    async fn takes_a_breath(&self) {
        until("the link of the north", async || {
            let status = run(self.place.path(), ["node", "status", "--dir", "north", "--json"]);
            let status = status.await.json();
            let unit = &status["units"][0];
            (unit["parent_link"] == "up" && unit["catalogue"] != "").then_some(())
        })
        .await;
    }
}

async fn follow(readme: &str) {
    let mut reader = Reader::new();
    let mut printed = String::new();
    let steps = first_steps(readme);
    for line in &steps {
        if line.starts_with("lianxi node status") {
            reader.takes_a_breath().await;
        }
        printed = reader.types(line).await;
        if line.starts_with("lianxi node status") {
            assert!(printed.contains("C1-D1"), "{printed}");
        }
    }
    assert!(printed.contains("C1-D1"), "{printed}");
    let pull = steps.last().unwrap();
    until("2 of 2 units in the pull", async || {
        let mut given = arguments(pull).unwrap();
        given.extend(["--max-age".to_owned(), "0s".to_owned()]);
        let shown = run(reader.place.path(), &given).await.succeeds();
        shown.contains(" 2/2 ").then_some(())
    })
    .await;

    // "Stop the north's node and pull again: 1 of 2, and the gap is named."
    let north = reader.running.iter().position(|(dir, _)| dir == "north").unwrap();
    reader.running.remove(north).1.kill().await;
    let printed = reader.types(pull).await;
    assert!(printed.contains(" 1/2 "), "{printed}");
    assert!(printed.contains("missing: C1-D1"), "{printed}");
}

#[tokio::test]
async fn the_first_steps_of_the_readme_work() {
    follow("README.md").await;
}

#[tokio::test]
async fn the_first_steps_of_the_chinese_readme_work() {
    follow("README.zh-CN.md").await;
}
