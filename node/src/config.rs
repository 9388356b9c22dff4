//! The configuration of a host: one struct per table of its TOML file.
//!
//! Promises that every mistake in the file is told with file, line, key and remedy, and that no
//! key is ignored. `deploy/node.full.toml` shows every key with its meaning and default; a test
//! holds the two together. Reads nothing but that one file: no environment, no network.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32},
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, de};
use tonic::codegen::http::Uri;
use tracing_subscriber::EnvFilter;

use crate::domain::{
    account::Rules,
    journal::MIN_RETENTION_DAYS,
    protection::{Cipher, Method},
    unit::UnitCode,
};

/// Longest path of a Unix socket that Linux takes, the closing zero not counted.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Most worker threads when none are configured: many hosts of one demo share a machine.
const MAX_DEFAULT_WORKERS: usize = 4;

/// Why a configuration was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}; make a host with `lianxi node init` or `lianxi node join`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A key or its value is wrong.
    #[error("{}:{line}: {key}: {reason}; {remedy}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line in the file, from 1.
        line: usize,
        /// Table and key, e.g. `link.listen`.
        key: String,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: String,
    },
}

/// Configuration of one host.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostConfig {
    /// Directory of the file; relative paths start here.
    #[serde(skip)]
    pub directory: PathBuf,
    /// `[host]`
    pub host: HostTable,
    /// `[link]`
    pub link: LinkTable,
    /// `[recovery]`
    pub recovery: RecoveryTable,
    /// `[admin]`
    pub admin: AdminTable,
    /// `[accounts]`
    pub accounts: AccountsTable,
    /// `[store]`
    pub store: StoreTable,
    /// `[lanes]`
    pub lanes: LanesTable,
    /// `[keys]`
    pub keys: KeysTable,
    /// `[units]`
    pub units: UnitsTable,
    /// `[[unit]]`, one per unit that differs from `[units]`.
    pub unit: Vec<UnitTable>,
    /// `[journal]`
    pub journal: JournalTable,
    /// `[alarms]`
    pub alarms: AlarmsTable,
    /// `[telemetry]`
    pub telemetry: TelemetryConfig,
}

/// `[host]`: the process.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostTable {
    /// Name of the machine for operators. Empty: not stated.
    pub name: String,
    /// Directory of the host's state. Absent: the directory of the file.
    pub data_dir: Option<PathBuf>,
    /// Threads of the runtime. Absent: one for each processor, at most 4.
    pub worker_threads: Option<NonZeroU16>,
}

/// `[link]`: links with the hosts of children.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkTable {
    /// Address at which children are accepted. Absent: no children over the network.
    pub listen: Option<SocketAddr>,
    /// Addresses that tokens carry. Empty: the address of `listen`.
    #[serde(deserialize_with = "addresses")]
    pub advertise: Vec<String>,
    /// Silence after which a side sends a heartbeat. Default: 10 s.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Silence after which a link counts as dead. Default: 30 s.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
}

impl Default for LinkTable {
    fn default() -> Self {
        Self {
            listen: None,
            advertise: Vec::new(),
            heartbeat: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// `[recovery]`: children whose certificates have ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecoveryTable {
    /// Longest time after the end of its certificate that a child comes back by itself. Default:
    /// 90 days.
    #[serde(with = "humantime_serde")]
    pub within: Duration,
    /// How often it does within 30 days. Default: 3.
    pub times: u32,
}

impl Default for RecoveryTable {
    fn default() -> Self {
        Self { within: Duration::from_secs(90 * 24 * 60 * 60), times: 3 }
    }
}

/// `[admin]`: the local socket.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminTable {
    /// Path of the socket. Absent: `admin.sock` in the data directory.
    pub socket: Option<PathBuf>,
    /// Who may connect to it. Default: its owner alone.
    pub open_to: OpenTo,
}

/// Who may connect to the local socket. Any but the owner and root has to log in.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OpenTo {
    /// The user that runs the host, and root.
    #[default]
    Owner,
    /// The members of that user's group too.
    Group,
    /// Every user of the system.
    Everyone,
}

/// `[accounts]`: what the host asks of people.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccountsTable {
    /// Least characters of a password. Default: 12.
    pub password_characters: NonZeroU16,
    /// Age at which a password has to be changed. Absent: never by age alone.
    #[serde(with = "humantime_serde")]
    pub password_max_age: Option<Duration>,
    /// Wrong logins in a row after which an account is locked for a while. Default: 5.
    pub lock_after: NonZeroU16,
    /// Silence that ends a session. Default: 30 min.
    #[serde(with = "humantime_serde")]
    pub session_idle: Duration,
    /// Age that ends a session. Default: 12 h.
    #[serde(with = "humantime_serde")]
    pub session_max: Duration,
    /// How long an act waits for its second person. Default: 24 h.
    #[serde(with = "humantime_serde")]
    pub approval_valid: Duration,
}

impl Default for AccountsTable {
    fn default() -> Self {
        Self {
            password_characters: NonZeroU16::MIN.saturating_add(11),
            password_max_age: None,
            lock_after: NonZeroU16::MIN.saturating_add(4),
            session_idle: Duration::from_secs(30 * 60),
            session_max: Duration::from_secs(12 * 3_600),
            approval_valid: Duration::from_secs(24 * 3_600),
        }
    }
}

impl AccountsTable {
    /// The rules as accounts apply them.
    pub fn rules(&self) -> Rules {
        let ms = |length: Duration| i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
        Rules {
            password_characters: usize::from(self.password_characters.get()),
            password_max_age_ms: self.password_max_age.map(ms),
            failures: u32::from(self.lock_after.get()),
            session_idle_ms: ms(self.session_idle),
            session_max_ms: ms(self.session_max),
            approval_ms: ms(self.approval_valid),
        }
    }
}

/// `[store]`: the embedded store.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreTable {
    /// Memory for cached pages, MiB. Default: 64.
    pub cache_mib: NonZeroU32,
    /// Disk space kept free, MiB. Default: 64.
    pub reserve_mib: u32,
    /// With what the store must be encrypted, else the host does not start. Default: `none`, which
    /// takes any store.
    pub encrypt: Cipher,
}

impl Default for StoreTable {
    fn default() -> Self {
        Self {
            cache_mib: NonZeroU32::MIN.saturating_add(63),
            reserve_mib: 64,
            encrypt: Cipher::None,
        }
    }
}

/// `[lanes]`: how much may wait in the lanes of one unit, for all its peers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LanesTable {
    /// Notices and receipts, MiB. Default: 256.
    pub notice_mib: NonZeroU32,
    /// Summaries, MiB. Default: 256.
    pub summary_mib: NonZeroU32,
    /// Catalogues, MiB. Default: 64.
    pub catalogue_mib: NonZeroU32,
    /// Anything large, MiB. Default: 256.
    pub bulk_mib: NonZeroU32,
}

impl Default for LanesTable {
    fn default() -> Self {
        let mib = |mib: u32| NonZeroU32::MIN.saturating_add(mib - 1);
        Self {
            notice_mib: mib(256),
            summary_mib: mib(256),
            catalogue_mib: mib(64),
            bulk_mib: mib(256),
        }
    }
}

/// `[keys]`: private keys.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeysTable {
    /// How the key files must be protected, else the host does not start. Default: `none`, which
    /// takes any protection.
    pub protect: Method,
    /// How long a key that was replaced still holds at least: what it signed passes through hosts
    /// that may be away. Default: 7 days.
    #[serde(with = "humantime_serde")]
    pub overlap: Duration,
}

impl Default for KeysTable {
    fn default() -> Self {
        Self { protect: Method::default(), overlap: Duration::from_secs(7 * 24 * 60 * 60) }
    }
}

/// `[units]`: what every unit of the host gets.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnitsTable {
    /// Largest size of a unit's records, MiB. Absent: no limit but the disk.
    pub quota_mib: Option<NonZeroU32>,
}

/// `[[unit]]`: what one unit gets instead.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UnitTable {
    /// The unit.
    pub code: UnitCode,
    /// As in `[units]`. Absent: the value there.
    #[serde(default)]
    pub quota_mib: Option<NonZeroU32>,
}

/// `[journal]`: the history that neighbours witness.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalTable {
    /// Time between two checkpoints of a journal that grows. Default: 1 m.
    #[serde(with = "humantime_serde")]
    pub checkpoint_interval: Duration,
    /// Days that leaves are kept, at least 180. Default: 180.
    pub retention_days: u32,
}

impl Default for JournalTable {
    fn default() -> Self {
        Self { checkpoint_interval: Duration::from_secs(60), retention_days: MIN_RETENTION_DAYS }
    }
}

/// `[alarms]`: who is told that a journal does not go on from what was seen of it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlarmsTable {
    /// Address that gets each alarm as JSON by POST, `https://host/path`, or `http://` within the same
    /// machine. Absent: nobody.
    #[serde(deserialize_with = "webhook")]
    pub webhook: Option<String>,
    /// Certificate of the CA that the receiver's is from, PEM, from the host's directory. Needed for
    /// `https`: no other CA is believed.
    pub ca_file: Option<PathBuf>,
    /// File with a secret of at least 32 bytes that the receiver shares. Absent: bodies bear no HMAC.
    pub secret_file: Option<PathBuf>,
}

/// `[telemetry]`: logs, traces, metrics.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Filter of the log, e.g. `info,lianxi_node::link=debug`. Default: `info`.
    #[serde(deserialize_with = "log_filter")]
    pub log_level: String,
    /// Shape of the log. Default: text.
    pub log_format: LogFormat,
    /// OTLP collector, `http://host:port`. Absent: nothing is exported.
    #[serde(deserialize_with = "endpoint")]
    pub otlp_endpoint: Option<String>,
    /// Address of `/metrics` and `/healthz`. Absent: no endpoint.
    pub metrics_listen: Option<SocketAddr>,
    /// Name of the service in traces and metrics. Default: `lianxi-node`.
    pub service_name: String,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
            otlp_endpoint: None,
            metrics_listen: None,
            service_name: "lianxi-node".to_owned(),
        }
    }
}

/// Shape of the log.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl HostConfig {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    ///
    /// - [`Error::Read`]: there is no such file, or it cannot be read.
    /// - [`Error::Invalid`]: the first mistake in it.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let text = fs::read_to_string(path).map_err(read)?;
        let absolute = std::path::absolute(path).map_err(read)?;
        let directory = absolute.parent().unwrap_or_else(|| Path::new("/"));
        Self::parse(&text, path, directory)
    }

    /// The defaults for a host whose file is in `directory`.
    pub fn default_for(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), ..Self::default() }
    }

    /// Checks `text`, the contents of the file that messages call `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: the first mistake in it.
    pub fn parse(text: &str, path: &Path, directory: &Path) -> Result<Self, Error> {
        let document = Document { text, path };
        let parsed: Self = toml::from_str(text).map_err(|error| document.wrong(&error))?;
        let config = Self { directory: directory.to_owned(), ..parsed };
        config.check(&document)?;
        Ok(config)
    }

    /// Directory of the store, keys and spool.
    pub fn data_dir(&self) -> PathBuf {
        match &self.host.data_dir {
            Some(directory) => self.directory.join(directory),
            None => self.directory.clone(),
        }
    }

    /// Directory of the keys of all units.
    pub fn keys_dir(&self) -> PathBuf {
        self.data_dir().join("keys")
    }

    /// Path of the admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        match &self.admin.socket {
            Some(socket) => self.directory.join(socket),
            None => self.data_dir().join("admin.sock"),
        }
    }

    /// Addresses that tokens carry when the listener is bound at `bound`: the configured ones, else
    /// `bound` unless it stands for every interface. Empty: `advertise` has to be set first.
    pub fn advertised(&self, bound: SocketAddr) -> Vec<String> {
        if !self.link.advertise.is_empty() {
            return self.link.advertise.clone();
        }
        if bound.ip().is_unspecified() { Vec::new() } else { vec![bound.to_string()] }
    }

    /// Largest size of the unit's records; `None`: no limit.
    pub fn quota_bytes(&self, unit: &UnitCode) -> Option<u64> {
        let own = self.unit.iter().find(|table| table.code == *unit);
        let quota_mib = own.and_then(|table| table.quota_mib).or(self.units.quota_mib);
        quota_mib.map(|mib| mebibytes(mib.get()))
    }

    /// Memory for cached pages.
    pub fn cache_bytes(&self) -> u64 {
        mebibytes(self.store.cache_mib.get())
    }

    /// Bytes that may wait in the lanes of notices, summaries, catalogues and anything large.
    pub fn lane_bytes(&self) -> [u64; 4] {
        let LanesTable { notice_mib, summary_mib, catalogue_mib, bulk_mib } = &self.lanes;
        [notice_mib, summary_mib, catalogue_mib, bulk_mib].map(|mib| mebibytes(mib.get()))
    }

    /// Disk space kept free.
    pub fn reserve_bytes(&self) -> u64 {
        mebibytes(self.store.reserve_mib)
    }

    /// Address that is told of alarms.
    pub fn webhook(&self) -> Option<Uri> {
        self.alarms.webhook.as_ref().and_then(|webhook| webhook.parse().ok())
    }

    /// Threads of the runtime.
    pub fn worker_threads(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let configured = self.host.worker_threads.map(|threads| usize::from(threads.get()));
        configured.unwrap_or_else(|| processors().min(MAX_DEFAULT_WORKERS))
    }

    /// Writes the configuration as a file for people: what differs from the defaults, table by
    /// table, each with a line on what it is for. [`HostConfig::parse`] reads it back.
    pub fn to_toml(&self) -> String {
        let mut text = String::from(FILE_HEADING);
        let defaults = tables(&Self::default());
        for (name, value) in tables(self) {
            let purpose = PURPOSES.iter().find(|(table, _)| *table == name);
            let mut section = toml::Table::new();
            section.insert(name.clone(), changed(value, defaults.get(&name)));
            let body = section.to_string();
            // An unchanged table is left out, its heading with it.
            if body.trim() != format!("[{name}]") && body.trim() != format!("{name} = []") {
                let purpose = purpose.map_or("", |(_, purpose)| purpose);
                text.push_str(&format!("\n# {purpose}\n{body}"));
            }
        }
        text
    }

    fn check(&self, document: &Document<'_>) -> Result<(), Error> {
        if self.link.idle_timeout <= self.link.heartbeat {
            let reason = "a link would end before its first heartbeat".to_owned();
            let remedy = "make idle_timeout longer than heartbeat, best three times as long";
            return Err(document.at("link", "idle_timeout", 0, reason, remedy));
        }
        if self.link.heartbeat < Duration::from_millis(100) {
            let reason = "a heartbeat needs at least 100ms".to_owned();
            return Err(document.at("link", "heartbeat", 0, reason, "write for example \"10s\""));
        }
        if self.journal.retention_days < MIN_RETENTION_DAYS {
            let reason = "the law asks for logs of 180 days".to_owned();
            let remedy = "set retention_days to 180 or more";
            return Err(document.at("journal", "retention_days", 0, reason, remedy));
        }
        if self.journal.checkpoint_interval < Duration::from_secs(1) {
            let reason = "a checkpoint needs at least 1s".to_owned();
            let remedy = "write for example \"1m\"";
            return Err(document.at("journal", "checkpoint_interval", 0, reason, remedy));
        }
        let is_tls = self.webhook().is_some_and(|webhook| webhook.scheme_str() == Some("https"));
        if is_tls && self.alarms.ca_file.is_none() {
            let reason = "nobody says which CA the receiver's certificate is from".to_owned();
            let remedy = "set ca_file to the CA's certificate in PEM";
            return Err(document.at("alarms", "webhook", 0, reason, remedy));
        }
        let socket_bytes = self.admin_socket().as_os_str().len();
        if socket_bytes > MAX_SOCKET_PATH_BYTES {
            let reason = format!("the path of the socket has {socket_bytes} bytes, over 107");
            let remedy = "set [admin] socket to a shorter path, e.g. \"/run/lianxi/admin.sock\"";
            return Err(document.at("admin", "socket", 0, reason, remedy));
        }
        self.check_people(document)?;
        for (position, table) in self.unit.iter().enumerate() {
            if self.unit.iter().take(position).any(|before| before.code == table.code) {
                let reason = format!("{} has two [[unit]] tables", table.code);
                let remedy = "put all keys of the unit into one table";
                return Err(document.at("unit", "code", position, reason, remedy));
            }
        }
        Ok(())
    }
}

/// Least that a password may be asked to have: fewer characters are guessed.
const LEAST_PASSWORD_CHARACTERS: u16 = 8;

impl HostConfig {
    fn check_people(&self, document: &Document<'_>) -> Result<(), Error> {
        let in_data_dir = self.admin_socket().starts_with(self.data_dir());
        if self.admin.open_to != OpenTo::Owner && in_data_dir {
            let reason = "others cannot reach a socket in the data directory".to_owned();
            let remedy = "set [admin] socket to a path elsewhere, e.g. \"/run/lianxi/admin.sock\"";
            return Err(document.at("admin", "open_to", 0, reason, remedy));
        }
        if self.accounts.password_characters.get() < LEAST_PASSWORD_CHARACTERS {
            let reason = "shorter passwords are guessed".to_owned();
            return Err(document.at(
                "accounts",
                "password_characters",
                0,
                reason,
                "write at least 8",
            ));
        }
        if self.accounts.session_idle.is_zero() || self.accounts.approval_valid.is_zero() {
            let key = if self.accounts.session_idle.is_zero() {
                "session_idle"
            } else {
                "approval_valid"
            };
            let reason = "it would be over before it began".to_owned();
            return Err(document.at("accounts", key, 0, reason, "write for example \"30m\""));
        }
        Ok(())
    }
}

const FILE_HEADING: &str = "\
# Configuration of a Lianxi host. What is not set here has its default; deploy/node.full.toml of
# the distribution shows every key with its meaning.
";

/// What each table is for, as written above it.
const PURPOSES: [(&str, &str); 12] = [
    ("host", "The host: one process that serves one or many units."),
    ("link", "Links with the hosts of children: where they dial, what tokens tell them."),
    ("recovery", "How late and how often children may renew certificates that have ended."),
    ("admin", "The local socket on which `lianxi` gives its commands."),
    ("accounts", "What the host asks of the people who have accounts on it."),
    ("store", "The embedded store, shared by all units of the host. Sizes in MiB."),
    ("keys", "Private keys: how they must be protected."),
    ("units", "What every unit of the host gets."),
    ("unit", "What one unit gets instead."),
    ("journal", "The history that neighbours witness: how often, and how long it is kept."),
    ("alarms", "Who is told that a journal does not go on from what was seen of it."),
    ("telemetry", "Logs, traces and metrics."),
];

fn mebibytes(mib: u32) -> u64 {
    u64::from(mib) * 1024 * 1024
}

fn tables(config: &HostConfig) -> toml::Table {
    toml::Table::try_from(config).expect("invariant: every field has a form in TOML")
}

/// `value` without the entries that equal those of `default`.
fn changed(value: toml::Value, default: Option<&toml::Value>) -> toml::Value {
    match (value, default) {
        (toml::Value::Table(mut table), Some(toml::Value::Table(defaults))) => {
            table.retain(|key, value| defaults.get(key) != Some(value));
            toml::Value::Table(table)
        }
        (value, _) => value,
    }
}

fn log_filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match EnvFilter::try_new(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(de::Error::custom(format_args!("{text:?} is no log filter: {error}"))),
    }
}

fn endpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let uri: Result<Uri, _> = text.parse();
    let plain = |uri: &Uri| uri.scheme_str() == Some("http") && uri.host().is_some();
    match uri {
        Ok(uri) if plain(&uri) => Ok(Some(text)),
        _ => Err(de::Error::custom(format_args!(
            "{text:?} is no address of the form \"http://host:port\""
        ))),
    }
}

fn webhook<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let uri: Result<Uri, _> = text.parse();
    let known =
        |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    match uri {
        Ok(uri) if known(&uri) => Ok(Some(text)),
        _ => Err(de::Error::custom(format_args!(
            "{text:?} is no address of the form \"https://host/path\""
        ))),
    }
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let addresses = Vec::<String>::deserialize(deserializer)?;
    match addresses.iter().find(|address| !is_host_and_port(address)) {
        None => Ok(addresses),
        Some(wrong) => Err(de::Error::custom(format_args!(
            "{wrong:?} is no address of the form \"host:port\""
        ))),
    }
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = !host.is_empty() && !host.contains([':', '/', '@', ' ']);
    (bracketed || plain) && port.parse().is_ok_and(|port: u16| port > 0)
}

/// The file as messages see it.
struct Document<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Document<'_> {
    /// An error that the parser found.
    fn wrong(&self, error: &toml::de::Error) -> Error {
        let Range { start, .. } = error.span().unwrap_or(0..0);
        let position = start.min(self.text.len());
        let before = self.text.get(..position).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let reason = error.message().lines().collect::<Vec<_>>().join(" ");
        let remedy = if reason.starts_with("unknown field") {
            "remove the key or correct its spelling"
        } else {
            "deploy/node.full.toml shows every key with an example"
        };
        let key = self.key_at(line);
        let reason = reason.replacen("unknown field", "unknown key", 1);
        self.invalid(line, key, reason, remedy)
    }

    /// An error in `key` of the `nth` table of this name. Without such a line: at the table.
    fn at(&self, table: &str, key: &str, nth: usize, reason: String, remedy: &str) -> Error {
        let headings = [format!("[{table}]"), format!("[[{table}]]")];
        let lines: Vec<&str> = self.text.lines().map(str::trim).collect();
        let is_heading = |line: &&&str| headings.iter().any(|heading| line.starts_with(heading));
        let table_at =
            (0..lines.len()).filter(|at| lines.get(*at).as_ref().is_some_and(is_heading));
        let table_at = table_at.clone().nth(nth).unwrap_or_default();
        let rest = lines.iter().enumerate().skip(table_at + 1);
        let found = rest
            .take_while(|(_, line)| !line.starts_with('['))
            .find(|(_, line)| key_of(line) == Some(key));
        let line = found.map_or(table_at, |(at, _)| at) + 1;
        self.invalid(line, format!("{table}.{key}"), reason, remedy)
    }

    fn invalid(&self, line: usize, key: String, reason: String, remedy: &str) -> Error {
        let remedy = remedy.to_owned();
        Error::Invalid { path: self.path.to_owned(), line, key, reason, remedy }
    }

    /// Table and key to which `line` belongs.
    fn key_at(&self, line: usize) -> String {
        let mut key = None;
        for text in self.text.lines().take(line).collect::<Vec<_>>().into_iter().rev() {
            let text = text.trim();
            if text.starts_with('[') && !text.contains(',') && text.contains(']') {
                let table = text.trim_start_matches('[').split(']').next().unwrap_or_default();
                let table = table.trim();
                return key.map_or_else(|| table.to_owned(), |key| format!("{table}.{key}"));
            }
            key = key.or_else(|| key_of(text));
        }
        key.unwrap_or("the file").to_owned()
    }
}

/// The key that a line sets.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    let plain = |character: char| character.is_ascii_alphanumeric() || "_-.".contains(character);
    (!key.is_empty() && key.chars().all(plain)).then_some(key)
}

impl fmt::Display for LogFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const FULL: &str = include_str!("../../deploy/node.full.toml");

    fn parse(text: &str) -> Result<HostConfig, Error> {
        HostConfig::parse(text, Path::new("node.toml"), Path::new("/srv/lianxi"))
    }

    fn refusal(text: &str) -> String {
        parse(text).expect_err("a wrong file was accepted").to_string()
    }

    /// A value for every key; a new key does not compile until it is here.
    fn every_key() -> HostConfig {
        let quota_mib = NonZeroU32::new(1024);
        HostConfig {
            directory: "/srv/lianxi".into(),
            host: HostTable {
                name: "street-7".to_owned(),
                data_dir: Some("/var/lib/lianxi".into()),
                worker_threads: NonZeroU16::new(3),
            },
            link: LinkTable {
                listen: "0.0.0.0:7443".parse().ok(),
                advertise: vec![
                    "street-7.example:7443".to_owned(),
                    "[2001:db8::7]:7443".to_owned(),
                ],
                heartbeat: Duration::from_secs(5),
                idle_timeout: Duration::from_secs(20),
            },
            recovery: RecoveryTable { within: Duration::from_secs(3_600), times: 1 },
            admin: AdminTable {
                socket: Some("/run/lianxi/admin.sock".into()),
                open_to: OpenTo::Group,
            },
            accounts: AccountsTable {
                password_characters: NonZeroU16::MIN.saturating_add(15),
                password_max_age: Some(Duration::from_secs(86_400)),
                lock_after: NonZeroU16::MIN,
                session_idle: Duration::from_secs(60),
                session_max: Duration::from_secs(3_600),
                approval_valid: Duration::from_secs(7_200),
            },
            store: StoreTable {
                cache_mib: NonZeroU32::MIN,
                reserve_mib: 0,
                encrypt: Cipher::Sm4Gcm,
            },
            lanes: LanesTable {
                notice_mib: NonZeroU32::MIN,
                summary_mib: NonZeroU32::MIN,
                catalogue_mib: NonZeroU32::MIN,
                bulk_mib: NonZeroU32::MIN,
            },
            keys: KeysTable { protect: Method::Credential, overlap: Duration::ZERO },
            units: UnitsTable { quota_mib },
            unit: vec![UnitTable { code: "310101002003".parse().unwrap(), quota_mib }],
            journal: JournalTable {
                checkpoint_interval: Duration::from_secs(5),
                retention_days: 365,
            },
            alarms: every_key_of_alarms(),
            telemetry: TelemetryConfig {
                log_level: "warn,lianxi_node::link=debug".to_owned(),
                log_format: LogFormat::Json,
                otlp_endpoint: Some("http://127.0.0.1:4317".to_owned()),
                metrics_listen: "127.0.0.1:9464".parse().ok(),
                service_name: "street-7".to_owned(),
            },
        }
    }

    fn every_key_of_alarms() -> AlarmsTable {
        AlarmsTable {
            webhook: Some("https://alarms.example/lianxi".to_owned()),
            ca_file: Some("alarms-ca.pem".into()),
            secret_file: Some("alarms-secret".into()),
        }
    }

    #[test]
    fn a_journal_is_kept_for_as_long_as_the_law_asks() {
        let text = refusal("[journal]\nretention_days = 179\n");
        assert!(text.contains("retention_days") && text.contains("180"), "{text}");
        assert!(parse("[journal]\nretention_days = 180\n").is_ok());
        let text = refusal("[journal]\ncheckpoint_interval = \"10ms\"\n");
        assert!(text.contains("checkpoint_interval"), "{text}");
        assert!(refusal("[alarms]\nwebhook = \"ftp://a.example/\"\n").contains("https://"));
        assert!(refusal("[alarms]\nwebhook = \"https://a.example/\"\n").contains("ca_file"));
    }

    /// `FULL` with the keys that are absent by default put in.
    fn full_uncommented() -> String {
        let mut text = String::new();
        for line in FULL.lines() {
            let example = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
            text.push_str(example.unwrap_or(line));
            text.push('\n');
        }
        text
    }

    fn keys(table: &toml::Table) -> BTreeSet<String> {
        let mut keys = BTreeSet::new();
        for (name, value) in table {
            let inner = value.as_array().and_then(|tables| tables.first()).unwrap_or(value);
            for key in inner.as_table().expect("a table").keys() {
                keys.insert(format!("{name}.{key}"));
            }
        }
        keys
    }

    #[test]
    fn the_documented_file_equals_the_defaults() {
        assert_eq!(parse(FULL).unwrap(), HostConfig::default_for(Path::new("/srv/lianxi")));
    }

    #[test]
    fn the_documented_file_names_every_key() {
        let documented: toml::Table = full_uncommented().parse().unwrap();
        assert_eq!(keys(&documented), keys(&tables(&every_key())));
        parse(&full_uncommented()).expect("an example in the documented file is wrong");
    }

    #[test]
    fn an_absent_default_is_shown_as_a_comment_and_a_present_one_is_not() {
        let shown: toml::Table = FULL.parse().unwrap();
        let mut defaults = tables(&HostConfig::default());
        defaults.remove("unit");
        assert_eq!(keys(&shown), keys(&defaults));
    }

    #[test]
    fn a_written_file_reads_back_the_same() {
        for config in [every_key(), HostConfig::default_for(Path::new("/srv/lianxi"))] {
            let text = config.to_toml();
            assert_eq!(parse(&text).unwrap(), config, "{text}");
        }
    }

    #[test]
    fn a_written_file_holds_only_what_differs() {
        let mut config = HostConfig::default();
        config.link.listen = "127.0.0.1:7443".parse().ok();
        let text = config.to_toml();
        assert!(text.contains("listen = \"127.0.0.1:7443\""), "{text}");
        assert!(!text.contains("heartbeat") && !text.contains("[store]"), "{text}");
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place_and_a_remedy() {
        let refusal =
            refusal("[host]\nname = \"a\"\n\n[link]\n# where\nlisten_on = \"0.0.0.0:1\"\n");
        assert!(refusal.starts_with("node.toml:6: link.listen_on: unknown key"), "{refusal}");
        assert!(refusal.contains("listen"), "{refusal}");
        assert!(refusal.ends_with("remove the key or correct its spelling"), "{refusal}");
    }

    #[test]
    fn unknown_tables_and_keys_outside_tables_are_refused() {
        assert!(refusal("[lnik]\nlisten = \"0.0.0.0:1\"\n").starts_with("node.toml:1: lnik: "));
        assert!(refusal("listen = \"0.0.0.0:1\"\n").starts_with("node.toml:1: listen: "));
        let unit = refusal("[[unit]]\ncode = \"A\"\n\n[[unit]]\ncode = \"B\"\nquota = 3\n");
        assert!(unit.starts_with("node.toml:6: unit.quota: unknown key"), "{unit}");
    }

    #[test]
    fn wrong_values_are_refused_at_their_line() {
        let wrong = [
            ("[link]\nlisten = \"7443\"\n", "node.toml:2: link.listen: "),
            ("[link]\nheartbeat = 10\n", "node.toml:2: link.heartbeat: "),
            ("[link]\nheartbeat = \"10 parsecs\"\n", "node.toml:2: link.heartbeat: "),
            ("[link]\nadvertise = [\n  \"a:1\",\n  \"b\",\n]\n", "node.toml:2: link.advertise: "),
            ("[link]\nadvertise = [\"http://a:1\"]\n", "node.toml:2: link.advertise: "),
            ("[store]\n\ncache_mib = 0\n", "node.toml:3: store.cache_mib: "),
            ("[store]\nreserve_mib = -1\n", "node.toml:2: store.reserve_mib: "),
            ("[units]\nquota_mib = \"1G\"\n", "node.toml:2: units.quota_mib: "),
            ("[[unit]]\ncode = \"bos\"\n", "node.toml:2: unit.code: "),
            ("[[unit]]\nquota_mib = 1\n", "node.toml:1: unit: "),
            ("[telemetry]\nlog_format = \"xml\"\n", "node.toml:2: telemetry.log_format: "),
            ("[telemetry]\nlog_level = \"lou,=d\"\n", "node.toml:2: telemetry.log_level: "),
            ("[telemetry]\notlp_endpoint = \"c:4317\"\n", "node.toml:2: telemetry.otlp_endpoint: "),
            (
                "[telemetry]\notlp_endpoint = \"https://c\"\n",
                "node.toml:2: telemetry.otlp_endpoint: ",
            ),
            ("[host]\nname = \"a\"\nname = \"b\"\n", "node.toml:3: host.name: "),
            ("[host]\nname = \n", "node.toml:2: host.name: "),
            ("[link]\nheartbeat = \"30s\"\n", "node.toml:1: link.idle_timeout: "),
            ("[link]\nidle_timeout = \"5s\"\n", "node.toml:2: link.idle_timeout: "),
            ("[link]\nheartbeat = \"0s\"\n", "node.toml:2: link.heartbeat: "),
            ("[[unit]]\ncode = \"A\"\n[[unit]]\n\ncode = \"A\"\n", "node.toml:5: unit.code: "),
        ];
        for (text, expected) in wrong {
            let refusal = refusal(text);
            assert!(refusal.starts_with(expected), "{text}gave {refusal}");
            assert!(refusal.contains("; "), "no remedy in {refusal}");
        }
    }

    #[test]
    fn a_socket_path_that_the_system_would_cut_is_refused() {
        let text = format!("[host]\ndata_dir = \"/{}\"\n", "d".repeat(100));
        let refusal = refusal(&text);
        assert!(refusal.contains("set [admin] socket to a shorter path"), "{refusal}");
        parse(&format!("{text}[admin]\nsocket = \"/run/a.sock\"\n")).unwrap();
    }

    #[test]
    fn a_socket_for_others_lies_outside_the_data_directory() {
        let inside = refusal("[admin]\nopen_to = \"group\"\n");
        assert!(inside.starts_with("node.toml:2: admin.open_to: "), "{inside}");
        parse("[admin]\nopen_to = \"everyone\"\nsocket = \"/run/a.sock\"\n").unwrap();
    }

    #[test]
    fn relative_paths_start_at_the_file() {
        let config = parse("[host]\ndata_dir = \"data\"\n").unwrap();
        assert_eq!(config.data_dir(), Path::new("/srv/lianxi/data"));
        assert_eq!(config.admin_socket(), Path::new("/srv/lianxi/data/admin.sock"));
        let config = parse("[admin]\nsocket = \"a.sock\"\n").unwrap();
        assert_eq!(config.data_dir(), Path::new("/srv/lianxi"));
        assert_eq!(config.admin_socket(), Path::new("/srv/lianxi/a.sock"));
    }

    #[test]
    fn a_missing_file_says_how_to_make_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.toml");
        let refusal = HostConfig::load(&path).expect_err("no file was read").to_string();
        assert!(refusal.contains("lianxi node init"), "{refusal}");
        fs::write(&path, "[host]\nname = \"here\"\n").unwrap();
        let config = HostConfig::load(&path).unwrap();
        assert_eq!(
            (config.host.name.as_str(), config.data_dir()),
            ("here", directory.path().into())
        );
    }

    #[test]
    fn a_unit_gets_its_own_quota_or_that_of_all() {
        let config =
            parse("[units]\nquota_mib = 2\n[[unit]]\ncode = \"A\"\nquota_mib = 1\n").unwrap();
        assert_eq!(config.quota_bytes(&"A".parse().unwrap()), Some(1024 * 1024));
        assert_eq!(config.quota_bytes(&"B".parse().unwrap()), Some(2 * 1024 * 1024));
        assert_eq!(HostConfig::default().quota_bytes(&"A".parse().unwrap()), None);
    }

    #[test]
    fn tokens_never_carry_the_address_of_every_interface() {
        let mut config = HostConfig::default();
        let all = "0.0.0.0:7443".parse().unwrap();
        assert!(config.advertised(all).is_empty());
        assert_eq!(config.advertised("10.1.2.3:7443".parse().unwrap()), ["10.1.2.3:7443"]);
        config.link.advertise = vec!["north.example:7443".to_owned()];
        assert_eq!(config.advertised(all), ["north.example:7443"]);
    }
}
