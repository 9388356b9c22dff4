//! Children that come back all at once are served without a collapse: a host with all of them whose
//! power is back, and a parent that comes back to all of them.
//!
//! Real hosts over real handshakes; 1,000 children, or as many as `LIANXI_STORM` says. Prints what each
//! storm took (`-- --nocapture`).

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use lianxi_node::identity::tls::Purpose;
use lianxi_tests::{
    binary::run,
    federation::{CATALOGUE, MAPPING},
    hostile::Hostile,
    ports::free_address,
    processes::{Node, ask, configure, metrics_page, processor_time, program, tell},
    wait::while_it_advances,
};
use tempfile::TempDir;
use tokio::time::Instant;

/// Children of the storm by default.
const CHILDREN: usize = 1_000;

/// Children of one host. Several hosts, as several streets are.
const OF_A_HOST: usize = 2_500;

/// Children that join by one command.
const OF_A_COMMAND: usize = 250;

/// Handshakes of which the mean is taken.
const MEASURED: u32 = 100;

/// Memory of the parent that a link may take while all come at once, for both HTTP/2 and TLS.
const KIB_OF_A_LINK: u64 = 512;

/// The child that has nothing to do with it.
const STEADY: &str = "W";

struct City {
    place: TempDir,
    children: usize,
    metrics: SocketAddr,
    parent: Option<Node>,
    /// Directories of the hosts of the storm.
    hosts: Vec<PathBuf>,
    running: Vec<Node>,
    steady: Node,
}

/// What the parent has counted since it was started.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    done: u64,
    failed: u64,
    turned_away: u64,
}

impl Counted {
    fn since(self, before: Self) -> Self {
        Self {
            done: self.done - before.done,
            failed: self.failed - before.failed,
            turned_away: self.turned_away - before.turned_away,
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Joins units under the city, and makes their host if it is not there.
async fn join(place: &Path, host: &Path, units: &[String]) {
    for (number, units) in units.chunks(OF_A_COMMAND).enumerate() {
        let name = format!("{}-{number}", host.file_name().unwrap().to_str().unwrap());
        let (list, tokens) =
            (place.join(format!("{name}.csv")), place.join(format!("{name}.join.csv")));
        let mut rows = "code,level,title,parent\n".to_owned();
        for unit in units {
            writeln!(rows, "{unit},street,{unit},C").unwrap();
        }
        fs::write(&list, rows).unwrap();
        let invite = ["node", "invite", "--file", text(&list), "--out", text(&tokens)];
        tell(&place.join("city"), &invite).await;
        let listen = free_address().to_string();
        let join = ["node", "join", "--file", text(&tokens), "--dir", text(host)];
        run(place, [&join[..], &["--listen", &listen]].concat()).await.succeeds();
    }
}

impl City {
    async fn of(children: usize) -> Self {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("city");
        let (listen, metrics) = (free_address().to_string(), free_address());
        let init = ["node", "init", "--code", "C", "--level", "city", "--title", "City"];
        let at = ["--domain", "test.example", "--listen", &listen];
        tell(&dir, &[&init[..], &at].concat()).await;
        configure(&dir, "telemetry", "metrics_listen", metrics.to_string());
        let parent = Some(Node::start(&dir).await);
        let catalogue = place.path().join("catalogue.json");
        fs::write(&catalogue, CATALOGUE).unwrap();
        fs::write(place.path().join("mapping.toml"), MAPPING).unwrap();
        tell(&dir, &["catalogue", "publish", text(&catalogue)]).await;
        let beside = place.path().join("steady");
        join(place.path(), &beside, &[STEADY.to_owned()]).await;
        let steady = Node::start(&beside).await;
        let units: Vec<String> = (0..children).map(|number| format!("S-{number:05}")).collect();
        let mut hosts = Vec::new();
        for (number, units) in units.chunks(OF_A_HOST).enumerate() {
            let host = place.path().join(format!("host-{number}"));
            join(place.path(), &host, units).await;
            configure(&host, "store", "cache_mib", 16);
            hosts.push(host);
        }
        let running = Vec::new();
        Self { place, children, metrics, parent, hosts, running, steady }
    }

    fn dir(&self) -> PathBuf {
        self.place.path().join("city")
    }

    fn pid(&self) -> i32 {
        self.parent.as_ref().unwrap().pid()
    }

    /// Links to children that the parent has. It answers whatever comes in beside.
    async fn linked(&self) -> usize {
        let status = ask(&self.dir(), &["node", "status"]).await.unwrap();
        usize::try_from(status["units"][0]["children_linked"].as_u64().unwrap()).unwrap()
    }

    /// Waits until so many children are linked, and beside the one of the steady host.
    async fn until_linked(&self, children: usize) {
        while_it_advances("the links of all children", async || {
            let linked = self.linked().await;
            if linked == children + 1 { Ok(()) } else { Err(linked) }
        })
        .await;
    }

    async fn counted(&self) -> Counted {
        let page = String::from_utf8(metrics_page(self.metrics).await).unwrap();
        let of = |name: &str| {
            let line = page.lines().find_map(|line| line.strip_prefix(name));
            line.map_or(0, |figure| figure.trim().parse().unwrap())
        };
        Counted {
            done: of("lianxi_link_handshakes_total{outcome=\"done\"}"),
            failed: of("lianxi_link_handshakes_total{outcome=\"failed\"}"),
            turned_away: of("lianxi_link_turned_away_total"),
        }
    }

    fn start_hosts(&mut self) {
        self.running = self.hosts.iter().map(|host| Node::launch(program(), host)).collect();
    }

    async fn kill_hosts(&mut self) {
        for host in self.running.drain(..) {
            host.kill().await;
        }
    }

    /// Lines with `words` in the logs of the hosts of the storm.
    fn logged(&self, words: &str) -> usize {
        self.hosts.iter().map(|host| lines(host, words)).sum()
    }

    /// A figure of the steady child goes up to the city.
    async fn steady_reports(&self, received: u64) {
        let rows = self.place.path().join("rows.csv");
        let heading = "case,unit,opened,closed,type,address\n";
        fs::write(&rows, format!("{heading}{received},W,2011-07-01 08:00:00,,light,\n")).unwrap();
        let mapping = self.place.path().join("mapping.toml");
        let import = ["record", "import", text(&rows), "--mapping", text(&mapping)];
        tell(&self.steady.dir, &import).await;
        tell(&self.steady.dir, &["summary", "publish", "--period", "2011-07"]).await;
        while_it_advances("the report of the steady child", async || {
            let show = ["summary", "show", "--of", STEADY, "--period", "2011-07"];
            let shown = ask(&self.dir(), &show).await.map_err(|_| 0_u64)?;
            let count = shown["subtree"]["received"]["count"].as_u64().unwrap_or_default();
            if count == received { Ok(()) } else { Err(count) }
        })
        .await;
    }

    /// What a handshake costs the parent that is followed by nothing, in processor time.
    async fn bare_handshake_us(&self) -> u128 {
        let child = Arc::new(Hostile::take_over(&self.hosts[0], "S-00000").await);
        let before = processor_time(self.pid());
        for _ in 0..MEASURED {
            child.dial(Purpose::Link, Some(&child.tls())).await.unwrap();
        }
        (processor_time(self.pid()) - before).as_micros() / u128::from(MEASURED)
    }
}

fn lines(dir: &Path, words: &str) -> usize {
    let log = fs::read_to_string(dir.with_extension("log")).unwrap_or_default();
    log.lines().filter(|line| line.contains(words)).count()
}

/// A figure of `/proc/PID/status`, in KiB.
fn memory_kib(pid: i32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What is measured of one storm.
struct Storm {
    what: &'static str,
    began: Instant,
    counted: Counted,
    failures: usize,
    cpu_s: f64,
}

impl Storm {
    async fn begin(what: &'static str, city: &City) -> Self {
        Self {
            what,
            began: Instant::now(),
            counted: city.counted().await,
            failures: city.logged("cannot link"),
            cpu_s: processor_time(city.pid()).as_secs_f64(),
        }
    }

    /// Every child is linked: says what it took, and that nobody worked in vain.
    async fn end(self, city: &City) {
        let took = self.began.elapsed().as_secs_f64();
        let Counted { done, failed, turned_away } = city.counted().await.since(self.counted);
        let again = city.logged("cannot link") - self.failures;
        let cpu_s = processor_time(city.pid()).as_secs_f64() - self.cpu_s;
        let (rss, peak) = (memory_kib(city.pid(), "VmRSS:"), memory_kib(city.pid(), "VmHWM:"));
        eprintln!(
            "{}: {} children in {took:.1} s; handshakes {done} done, {failed} failed; \
             {turned_away} turned away, {again} dialled again; parent {cpu_s:.1} s of processor, \
             {} MiB, {} MiB at most",
            self.what,
            city.children,
            rss / 1_024,
            peak / 1_024
        );
        let children = u64::try_from(city.children).unwrap();
        assert!(done >= children, "{done}");
        // A handshake that nobody waits for any more, or a link that ends before it works, calls for
        // another one: that is how a collapse begins.
        assert!(failed <= children / 100, "{failed} handshakes failed");
        assert!(done <= children + children / 10 + 1, "{done} handshakes for {children} links");
        assert!(peak < (children + 1) * KIB_OF_A_LINK + 256 * 1_024, "{peak} KiB");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn children_that_come_back_at_once_are_all_served() {
    let wanted = std::env::var("LIANXI_STORM").ok();
    let children = wanted.map_or(CHILDREN, |text| text.parse().expect("LIANXI_STORM: a number"));
    let began = Instant::now();
    let mut city = City::of(children).await;
    city.start_hosts();
    city.until_linked(children).await;
    eprintln!("{children} children joined and linked in {:.1} s", began.elapsed().as_secs_f64());

    // The power of all their hosts is back. Somebody else's link goes on meanwhile.
    city.kill_hosts().await;
    city.until_linked(0).await;
    let bare = city.bare_handshake_us().await;
    eprintln!("a handshake alone takes {bare} µs of the parent's processor time");
    city.until_linked(0).await;
    let downs = lines(&city.steady.dir, "link down");
    let storm = Storm::begin("power back", &city).await;
    city.start_hosts();
    city.steady_reports(1).await;
    city.until_linked(children).await;
    storm.end(&city).await;
    assert_eq!(lines(&city.steady.dir, "link down"), downs, "the link beside the storm went down");

    // The parent is back, and everybody dials.
    let dir = city.parent.take().unwrap().kill().await;
    city.parent = Some(Node::launch(program(), &dir));
    let storm = Storm {
        what: "parent back",
        began: Instant::now(),
        counted: Counted::default(),
        failures: city.logged("cannot link"),
        cpu_s: 0.0,
    };
    while_it_advances("an answer of the parent", async || {
        ask(&dir, &["node", "status"]).await.map(|_| ()).map_err(|_| 0)
    })
    .await;
    city.until_linked(children).await;
    storm.end(&city).await;
    city.kill_hosts().await;
}
