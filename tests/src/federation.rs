//! A federation of real hosts in one process: each with its own directory, store and listener.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use lianxi_node::{
    clock::ShiftedClock,
    config::HostConfig,
    domain::{self, delegation::Suite},
    identity::keys::Lock,
    link::Tap,
    node::{self, Host, InitOptions, JoinOptions, Options},
    services::transfer::request_text,
    telemetry::Metrics,
};
use lianxi_proto::{
    admin::v1::{InviteRequest, JoinRequest, StatusRequest},
    local::v1::{
        ImportOptions, PublishCatalogueRequest, PublishSummaryRequest, PullSummaryRequest,
        ShowCatalogueRequest, UnitFigures,
    },
    types::v1::{Cell, Level, Scope, component::Value},
};
use tempfile::TempDir;
use tonic::Status;

use crate::{client::Client, ports::free_address, wait::until};

/// The catalogue of the kit: requests with a deadline, as few fields as the tests need.
pub const CATALOGUE: &str = include_str!("../fixtures/catalogue.json");

/// The mapping of the kit, its units assigned by the column `unit`.
pub const MAPPING: &str = include_str!("../fixtures/mapping.toml");

/// A federation.
pub struct Federation {
    directory: TempDir,
    /// Time of every host that has none of its own.
    pub clock: ShiftedClock,
    tap: Option<Arc<dyn Tap>>,
    hosts: BTreeMap<String, TestHost>,
    /// Unit → its host.
    places: BTreeMap<String, String>,
}

struct TestHost {
    directory: PathBuf,
    /// Its own time; else the federation's.
    clock: Option<ShiftedClock>,
    running: Option<Arc<Host>>,
}

impl TestHost {
    fn new(directory: PathBuf) -> Self {
        Self { directory, clock: None, running: None }
    }
}

impl Federation {
    /// A city alone, with the kit's catalogue.
    pub async fn city(code: &str) -> Self {
        Self::city_with(code, None).await
    }

    /// A city alone, whose hosts show their frames to `tap`.
    pub async fn city_with(code: &str, tap: Option<Arc<dyn Tap>>) -> Self {
        Self::city_of(code, CATALOGUE, tap).await
    }

    /// A city alone with a catalogue, whose hosts show their frames to `tap`.
    pub async fn city_of(code: &str, catalogue: &str, tap: Option<Arc<dyn Tap>>) -> Self {
        Self::city_in(Suite::Ed25519, code, catalogue, tap).await
    }

    /// As [`Self::city_of`], in a trust domain that signs in `suite`.
    pub async fn city_in(
        suite: Suite,
        code: &str,
        catalogue: &str,
        tap: Option<Arc<dyn Tap>>,
    ) -> Self {
        let mut federation = Self {
            directory: tempfile::tempdir().unwrap(),
            clock: ShiftedClock::default(),
            tap,
            hosts: BTreeMap::new(),
            places: BTreeMap::new(),
        };
        federation.add_root(code, domain::unit::Level::City, "test.example", suite).await;
        let request = PublishCatalogueRequest {
            unit: code.to_owned(),
            document: catalogue.into(),
            dry_run: false,
        };
        federation.client(code).catalogues().publish(request).await.unwrap();
        federation
    }

    /// Adds a host with the root of a tree of its own, started.
    pub async fn add_root(
        &mut self,
        code: &str,
        level: domain::unit::Level,
        trust_domain: &str,
        suite: Suite,
    ) {
        let host = self.directory.path().join(code);
        let options = InitOptions {
            sealed: None,
            dir: host.clone(),
            code: code.parse().unwrap(),
            level,
            title: format!("Root {code}"),
            trust_domain: trust_domain.to_owned(),
            suite,
            listen: Some(free_address()),
            advertise: Vec::new(),
        };
        node::init(options).await.unwrap();
        self.hosts.insert(code.to_owned(), TestHost::new(host));
        self.places.insert(code.to_owned(), code.to_owned());
        self.start(code).await;
    }

    /// City `C`; districts `C-1` and `C-2`; streets `C-1-1`, `C-1-2`, `C-2-1`, whose hosts serve
    /// two communities each, `C-1-1-1` and so on. All linked, all with the catalogue.
    pub async fn four_levels() -> Self {
        Self::four_levels_with(None).await
    }

    /// As [`Self::four_levels`], with a tap.
    pub async fn four_levels_with(tap: Option<Arc<dyn Tap>>) -> Self {
        let mut federation = Self::city_with("C", tap).await;
        for district in ["C-1", "C-2"] {
            federation.add_host(district, "C", Level::District).await;
        }
        for street in ["C-1-1", "C-1-2", "C-2-1"] {
            let district = &street[..3];
            federation.add_host(street, district, Level::Street).await;
            for number in [1, 2] {
                federation.add_unit(&format!("{street}-{number}"), street, Level::Community).await;
            }
        }
        let units: Vec<_> = federation.places.keys().cloned().collect();
        for unit in units {
            federation.wait_for_catalogue(&unit).await;
        }
        federation.wait_for_roster("C", 12).await;
        federation
    }

    /// Invites `code` under `parent` and returns the token.
    pub async fn invite(&self, code: &str, parent: &str, level: Level) -> Result<String, Status> {
        let request = InviteRequest {
            unit: parent.to_owned(),
            child: code.to_owned(),
            child_level: level.into(),
            child_title: format!("Unit {code}"),
            valid_for_ms: 0,
            dry_run: false,
            root_key: String::new(),
        };
        Ok(self.client(parent).node().invite(request).await?.into_inner().token)
    }

    /// Adds a host of its own for a unit, joined and started.
    pub async fn add_host(&mut self, code: &str, parent: &str, level: Level) {
        let token = self.invite(code, parent, level).await.unwrap();
        self.join(&token, code).await;
    }

    /// Adds a host of its own for the unit of a token, joined and started.
    pub async fn join(&mut self, token: &str, code: &str) {
        let directory = self.directory.path().join(code);
        let options = JoinOptions { listen: Some(free_address()), ..JoinOptions::default() };
        node::join_offline(&directory, token, options).await.unwrap();
        self.hosts.insert(code.to_owned(), TestHost::new(directory));
        self.places.insert(code.to_owned(), code.to_owned());
        self.start(code).await;
    }

    /// Adds a host without units under a name, which awaits `unit`: what that says of itself.
    pub async fn await_unit(&mut self, name: &str, unit: &str) -> String {
        let directory = self.directory.path().join(name);
        let options = JoinOptions { listen: Some(free_address()), ..JoinOptions::default() };
        let unit = unit.parse().unwrap();
        let request = node::receive_offline(&directory, &unit, options).await.unwrap();
        self.hosts.insert(name.to_owned(), TestHost::new(directory));
        self.places.insert(name.to_owned(), name.to_owned());
        self.start(name).await;
        request_text(&request)
    }

    /// From here on `unit` is asked for at the host that was added as `name`.
    pub fn find_at(&mut self, unit: &str, name: &str) {
        self.places.insert(unit.to_owned(), name.to_owned());
        self.places.remove(name);
    }

    /// Adds a unit to the host that serves its parent.
    pub async fn add_unit(&mut self, code: &str, parent: &str, level: Level) {
        let token = self.invite(code, parent, level).await.unwrap();
        let request = JoinRequest { token, dry_run: false };
        self.client(parent).node().join(request).await.unwrap();
        self.places.insert(code.to_owned(), self.places[parent].clone());
    }

    /// Starts the host of `unit`.
    pub async fn start(&mut self, unit: &str) {
        let place = self.places[unit].clone();
        let host = self.hosts.get_mut(&place).unwrap();
        let config = HostConfig::load(&host.directory.join("node.toml")).unwrap();
        let options = Options {
            clock: Arc::new(host.clock.as_ref().unwrap_or(&self.clock).clone()),
            metrics: Metrics::installed(),
            tap: self.tap.clone(),
            lock: Lock::none(),
        };
        host.running = Some(Host::bind(config, options).await.unwrap());
    }

    /// Gives the host of `unit` a clock of its own, from its next start.
    pub fn own_clock(&mut self, unit: &str) -> ShiftedClock {
        let host = self.hosts.get_mut(&self.places[unit]).unwrap();
        host.clock.get_or_insert_default().clone()
    }

    /// Stops the host of `unit`.
    pub async fn stop(&mut self, unit: &str) {
        let host = self.hosts.get_mut(&self.places[unit]).unwrap();
        host.running.take().unwrap().shutdown().await;
    }

    /// Cuts every host below the one of `unit` off for good: it listens nowhere from here on.
    pub async fn cut_off(&mut self, unit: &str) {
        self.stop(unit).await;
        let path = self.directory(unit).join("node.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("listen = ")).collect();
        assert!(lines.len() < text.lines().count());
        std::fs::write(&path, lines.join("\n")).unwrap();
        self.start(unit).await;
    }

    /// The running host of `unit`.
    pub fn host(&self, unit: &str) -> &Arc<Host> {
        self.hosts[&self.places[unit]].running.as_ref().unwrap()
    }

    /// Directory of the host of `unit`.
    pub fn directory(&self, unit: &str) -> PathBuf {
        self.hosts[&self.places[unit]].directory.clone()
    }

    /// Client of the host of `unit`.
    pub fn client(&self, unit: &str) -> Client {
        Client::new(&self.directory(unit).join("admin.sock"))
    }

    /// All units.
    pub fn units(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    /// Waits until `unit` has a catalogue.
    pub async fn wait_for_catalogue(&self, unit: &str) {
        until(&format!("the catalogue at {unit}"), async || {
            let request = ShowCatalogueRequest { unit: unit.to_owned() };
            self.client(unit).catalogues().show(request).await.ok()
        })
        .await;
    }

    /// Waits until `unit` knows `count` units.
    pub async fn wait_for_roster(&self, unit: &str, count: usize) {
        until(&format!("{count} units known to {unit}"), async || {
            let request = lianxi_proto::admin::v1::UnitsRequest { unit: unit.to_owned() };
            let known = self.client(unit).node().units(request).await.ok()?.into_inner().units;
            (known.iter().filter(|known| known.desk.is_empty()).count() == count).then_some(())
        })
        .await;
    }

    /// Waits until the link of `unit` to its parent is up, or down.
    pub async fn wait_for_link(&self, unit: &str, up: bool) {
        until(&format!("the link of {unit} to be up: {up}"), async || {
            let status = self.client(unit).node().status(StatusRequest {}).await.ok()?.into_inner();
            let status = status.units.into_iter().find(|status| status.unit == unit)?;
            let is_up = status.parent_link() == lianxi_proto::admin::v1::LinkState::Up;
            (is_up == up).then_some(())
        })
        .await;
    }

    /// Imports rows `case,unit,opened,closed,type,address` at the host of `unit`.
    pub async fn import(&self, unit: &str, rows: &str) -> lianxi_proto::local::v1::ImportReport {
        let options = ImportOptions {
            mapping: mapping_json(),
            all_or_nothing: true,
            dry_run: false,
            file_name: "rows.csv".into(),
        };
        let file = format!("case,unit,opened,closed,type,address\n{rows}");
        let (report, errors) = self.client(unit).import(options, file.as_bytes()).await.unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        report
    }

    /// Publishes the summaries of a period for all units of the host of `unit`.
    pub async fn publish(&self, unit: &str, period: &str) {
        let request = PublishSummaryRequest { units: Vec::new(), period: period.to_owned() };
        self.client(unit).summaries().publish(request).await.unwrap();
    }

    /// Pulls live figures of the whole tree under `unit`, computed anew.
    pub async fn pull(&self, unit: &str, period: &str) -> BTreeMap<String, UnitFigures> {
        self.pull_at_most_old(unit, period, 0).await
    }

    /// As [`Self::pull`]; answers may be `max_age_ms` old.
    pub async fn pull_at_most_old(
        &self,
        unit: &str,
        period: &str,
        max_age_ms: u32,
    ) -> BTreeMap<String, UnitFigures> {
        let request = PullSummaryRequest {
            unit: unit.to_owned(),
            period: period.to_owned(),
            deadline_ms: 5_000,
            max_age_ms,
            depth: 9,
        };
        let mut items = self.client(unit).summaries().pull(request).await.unwrap().into_inner();
        let mut figures = BTreeMap::new();
        while let Some(item) = items.message().await.unwrap() {
            figures.insert(item.unit.clone(), item);
        }
        figures
    }
}

/// The kit's mapping as the node takes it.
pub fn mapping_json() -> Vec<u8> {
    domain::mapping::Mapping::from_toml(MAPPING, |_| Err::<String, _>("no look-up files"))
        .unwrap()
        .to_json()
}

/// A count of the subtree, or of the unit's own records.
pub fn count(figures: &UnitFigures, indicator: &str, scope: Scope) -> u64 {
    let of = |cell: &&Cell| cell.indicator == indicator && cell.scope() == scope;
    let cell = figures.cells.iter().find(of).unwrap();
    match cell.component.as_ref().unwrap().value.as_ref().unwrap() {
        Value::Count(count) => *count,
        other => panic!("{indicator} is no count but {other:?}"),
    }
}
