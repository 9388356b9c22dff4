//! Hosts as a user runs them: processes of the command `lianxi`, that can be killed.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    net::SocketAddr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::OnceLock,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
};

use crate::wait::until;

/// How long a command may take before the test gives it up.
const LIMIT: Duration = Duration::from_secs(120);

/// Where the program is, if it is not to be built: for a test that starts itself again where nothing
/// can be built, and for measuring a build with optimisation.
pub const PROGRAM: &str = "LIANXI_TEST_PROGRAM";

/// Path of the program `lianxi`, built from what the tree holds.
///
/// # Panics
///
/// It cannot be built.
pub fn program() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os(PROGRAM) {
            return path.into();
        }
        let test = std::env::current_exe().unwrap();
        // TARGET/PROFILE/deps/TEST
        let profile = test.ancestors().nth(2).unwrap();
        let mut build = std::process::Command::new(env!("CARGO"));
        // The whole workspace: alone, the package would have dependencies with other features, and they
        // would be compiled once more.
        build.args(["build", "--quiet", "--locked", "--workspace", "--bins"]);
        if profile.file_name() == Some(OsStr::new("release")) {
            build.arg("--release");
        }
        build.arg("--target-dir").arg(profile.parent().unwrap());
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().unwrap().success(), "`cargo build --workspace --bins` failed");
        profile.join("lianxi")
    })
}

/// `lianxi` with arguments; ends with the test.
pub fn command<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    command_of(program(), arguments)
}

/// As [`command`], with another program.
pub fn command_of<A: AsRef<OsStr>>(
    program: &Path,
    arguments: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    // As the demo does: the allocator's arenas would cost more than a small host.
    command.env("MALLOC_ARENA_MAX", "2").env("LC_ALL", "C").env_remove("LIANXI_DIR");
    command
}

/// Runs `lianxi --json` for the host in `dir` to its end and reads what it printed.
///
/// # Errors
///
/// What it wrote on standard error, if it did not succeed.
///
/// # Panics
///
/// It does not end, or printed no JSON.
pub async fn ask(dir: &Path, arguments: &[&str]) -> Result<Value, String> {
    let mut command = command(arguments);
    command.arg("--json").arg("--dir").arg(dir);
    let limited = tokio::time::timeout(LIMIT, command.output());
    let Output { status, stdout, stderr } =
        limited.await.unwrap_or_else(|_| panic!("{arguments:?} did not end")).unwrap();
    if status.success() {
        let document = serde_json::from_slice(&stdout);
        return Ok(document.unwrap_or_else(|error| panic!("{arguments:?}: {error}: {stdout:?}")));
    }
    Err(String::from_utf8_lossy(&stderr).into_owned())
}

/// As [`ask`], for a command that has to succeed.
///
/// # Panics
///
/// It fails.
pub async fn tell(dir: &Path, arguments: &[&str]) -> Value {
    ask(dir, arguments).await.unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

/// A running host.
#[derive(Debug)]
pub struct Node {
    /// Its directory.
    pub dir: PathBuf,
    child: Child,
}

impl Node {
    /// Starts the host in `dir` and waits until it answers. Its log is `DIR.log`.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn start(dir: &Path) -> Self {
        Self::start_with(program(), dir).await
    }

    /// As [`Self::start`], with another program.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn start_with(program: &Path, dir: &Path) -> Self {
        let node = Self::launch(program, dir);
        until(&format!("an answer of {}", dir.display()), async || {
            ask(dir, &["node", "status"]).await.ok()
        })
        .await;
        node
    }

    /// As [`Self::start_with`], without waiting for an answer.
    ///
    /// # Panics
    ///
    /// The system does not start it.
    pub fn launch(program: &Path, dir: &Path) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.with_extension("log"));
        let log = log.unwrap();
        let mut command = command_of(program, ["node", "run", "--until-stdin-closes", "--dir"]);
        command.arg(dir).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        Self { dir: dir.to_owned(), child: command.spawn().unwrap() }
    }

    /// Its number for the system.
    ///
    /// # Panics
    ///
    /// It has ended.
    pub fn pid(&self) -> i32 {
        self.child.id().expect("the host has ended").cast_signed()
    }

    /// Kills it with SIGKILL and waits for its end.
    ///
    /// # Panics
    ///
    /// The system does not let it be killed.
    pub async fn kill(mut self) -> PathBuf {
        self.child.kill().await.unwrap();
        self.dir
    }
}

/// Sets a number in the configuration of a stopped host.
///
/// # Panics
///
/// The directory holds no configuration.
pub fn configure(dir: &Path, section: &str, key: &str, value: impl Into<toml::Value>) {
    let file = dir.join("node.toml");
    let mut config: toml::Table = fs::read_to_string(&file).unwrap().parse().unwrap();
    let table = config.entry(section).or_insert_with(|| toml::Table::new().into());
    table.as_table_mut().unwrap().insert(key.to_owned(), value.into());
    fs::write(&file, config.to_string()).unwrap();
}

/// The page of metrics at `address`.
///
/// # Panics
///
/// Nothing listens there.
pub async fn metrics_page(address: SocketAddr) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.windows(7).any(|part| part == b"lianxi_"));
    answer
}

/// Processes that have `path` in their command line: those that work in it.
pub fn working_in(path: &Path) -> Vec<i32> {
    let needle = path.as_os_str().as_bytes();
    let of_process = |entry: fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        line.windows(needle.len()).any(|window| window == needle).then_some(pid)
    };
    fs::read_dir("/proc").unwrap().filter_map(|entry| of_process(entry.ok()?)).collect()
}

/// Waits until no process works in `path`.
pub async fn none_work_in(path: &Path) {
    until(&format!("the end of all processes in {}", path.display()), async || {
        working_in(path).is_empty().then_some(())
    })
    .await;
}

/// Processor time that a process has used, with the children that it waited for.
pub fn processor_time(pid: i32) -> Duration {
    /// Linux counts in hundredths of a second, whatever the kernel's own tick is.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may hold blanks. After it, user and system time are fields 12 and 13.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    let ticks: u32 = fields.take(4).filter_map(|field| field.parse::<u32>().ok()).sum();
    TICK * ticks
}

/// Memory of processes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Sum of what each has in memory; what they share is counted for each.
    pub resident_kib: u64,
    /// What they share is counted once.
    pub proportional_kib: u64,
}

impl Memory {
    /// What `processes` have in memory; those that have ended have nothing.
    pub fn of(processes: &[i32]) -> Self {
        processes.iter().fold(Self::default(), |sum, pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let kib = |key: &str| {
                let mut words = text.lines().find(|line| line.starts_with(key))?.split_whitespace();
                words.nth(1)?.parse::<u64>().ok()
            };
            Self {
                resident_kib: sum.resident_kib + kib("Rss:").unwrap_or_default(),
                proportional_kib: sum.proportional_kib + kib("Pss:").unwrap_or_default(),
            }
        })
    }

    /// The larger of each figure.
    pub fn max(self, other: Self) -> Self {
        Self {
            resident_kib: self.resident_kib.max(other.resident_kib),
            proportional_kib: self.proportional_kib.max(other.proportional_kib),
        }
    }
}

/// Figures of the subtree of each unit of a document that `lianxi` printed, for `indicators`.
///
/// # Panics
///
/// A figure is missing or none.
pub fn subtrees<const N: usize>(
    document: &Value,
    indicators: [&str; N],
) -> BTreeMap<String, [i128; N]> {
    let units = document["units"].as_array().unwrap();
    let of_unit = |unit: &Value| {
        let code = unit["unit"].as_str().unwrap();
        let figures = indicators.map(|id| {
            let figure = unit["subtree"].get(id).unwrap_or_else(|| panic!("{code} has no {id}"));
            number(figure).unwrap_or_else(|| panic!("{id} of {code} is {figure}"))
        });
        (code.to_owned(), figures)
    };
    units.iter().map(of_unit).collect()
}

/// A figure in the flat shape of the demo or the full one of the other commands.
fn number(figure: &Value) -> Option<i128> {
    let value = match figure["kind"].as_str() {
        None => figure,
        Some("count") => &figure["count"],
        Some("sum") => &figure["sum"],
        Some("extreme") => &figure["max"],
        Some("distinct") => &figure["estimate"],
        Some(_) => return None,
    };
    // Without a record there is no extreme.
    if value.is_null() { Some(0) } else { value.as_i64().map(i128::from) }
}
