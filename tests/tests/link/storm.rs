//! Children that come back all at once are served without a collapse: their power is back, or their
//! parent is.
//!
//! The parent is a real host, and so is one child that has nothing to do with it. The others do nothing
//! but link, with real handshakes, sessions and pauses: 1,000, or as many as `LIANXI_STORM` says. Prints
//! what each storm took (`-- --nocapture`).

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use lianxi_tests::{
    binary::run,
    children::Children,
    federation::{CATALOGUE, MAPPING},
    ports::free_address,
    processes::{Node, ask, configure, metrics_page, processor_time, program, tell},
    wait::while_it_advances,
};
use tempfile::TempDir;
use tokio::time::Instant;

/// Children of the storm by default.
const CHILDREN: usize = 1_000;

/// Handshakes of which the mean is taken.
const MEASURED: u32 = 100;

/// Memory of the parent that a link may take while all come at once: TLS, HTTP/2, the session.
const KIB_OF_A_LINK: u64 = 512;

/// The child that has nothing to do with it.
const STEADY: &str = "W";

struct City {
    place: TempDir,
    metrics: SocketAddr,
    parent: Option<Node>,
    steady: Node,
    children: Children,
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

impl City {
    async fn of(children: usize) -> Self {
        let place = tempfile::tempdir().unwrap();
        let (dir, beside) = (place.path().join("city"), place.path().join("steady"));
        let (listen, metrics) = (free_address().to_string(), free_address());
        let init = ["node", "init", "--code", "C", "--level", "city", "--title", "City"];
        let at = ["--domain", "test.example", "--listen", &listen];
        tell(&dir, &[&init[..], &at].concat()).await;
        configure(&dir, "telemetry", "metrics_listen", metrics.to_string());
        let parent = Node::start(&dir).await;
        let catalogue = place.path().join("catalogue.json");
        fs::write(&catalogue, CATALOGUE).unwrap();
        fs::write(place.path().join("mapping.toml"), MAPPING).unwrap();
        tell(&dir, &["catalogue", "publish", text(&catalogue)]).await;
        let invite = ["node", "invite", STEADY, "--level", "street", "--title", "Street"];
        let invited = tell(&dir, &invite).await;
        let token = invited["token"].as_str().unwrap().to_owned();
        let join = ["node", "join", &token, "--dir", text(&beside)];
        run(place.path(), join).await.succeeds();
        let steady = Node::start(&beside).await;
        parent.kill().await;
        let units: Vec<String> = (0..children).map(|number| format!("S-{number:05}")).collect();
        let children = Children::of((&dir, "C", &listen), STEADY, &units, "kit@1").await;
        let parent = Some(Node::start(&dir).await);
        Self { place, metrics, parent, steady, children }
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
        let before = processor_time(self.pid());
        for _ in 0..MEASURED {
            self.children.shake_hands().await;
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
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// What is measured of one storm.
struct Storm {
    what: &'static str,
    began: Instant,
    counted: Counted,
    up: usize,
    cpu_s: f64,
}

impl Storm {
    /// Of a parent that has run: `counted` before the storm.
    fn begin(what: &'static str, city: &City, counted: Counted) -> Self {
        city.children.happened().down.lock().unwrap().clear();
        Self {
            what,
            began: Instant::now(),
            counted,
            up: city.children.happened().up.load(Ordering::Relaxed),
            cpu_s: processor_time(city.pid()).as_secs_f64(),
        }
    }

    /// Every child is linked: says what it took, and that nobody worked in vain.
    async fn end(self, city: &City) {
        let took = self.began.elapsed().as_secs_f64();
        let Counted { done, failed, turned_away } = city.counted().await.since(self.counted);
        let cpu_s = processor_time(city.pid()).as_secs_f64() - self.cpu_s;
        let (rss, peak) = (memory_kib(city.pid(), "VmRSS:"), memory_kib(city.pid(), "VmHWM:"));
        let children = city.children.count();
        eprintln!(
            "{}: {children} children in {took:.1} s; handshakes {done} done, {failed} failed, \
             {turned_away} turned away; parent {cpu_s:.1} s of processor, {} MiB, {} MiB at most",
            self.what,
            rss / 1_024,
            peak / 1_024
        );
        for (reason, count) in &*city.children.happened().down.lock().unwrap() {
            eprintln!("  {count} times: {reason}");
        }
        let up = city.children.happened().up.load(Ordering::Relaxed) - self.up;
        let children = u64::try_from(children).unwrap();
        // Pauses double: even in a storm of minutes each child asks in vain a few times only.
        assert!(turned_away <= children * 16, "{turned_away} turned away");
        // A handshake that nobody waits for any more, or a link that ends before it works, calls for
        // another one: that is how a collapse begins.
        assert!(failed <= children / 100, "{failed} handshakes failed");
        assert!(done <= children + children / 20 + 1, "{done} handshakes for {children} links");
        assert!(
            u64::try_from(up).unwrap() <= children + children / 20,
            "{up} links came up for {children}"
        );
        assert!(peak < (children + 1) * KIB_OF_A_LINK + 256 * 1_024, "{peak} KiB");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn children_that_come_back_at_once_are_all_served() {
    let wanted = std::env::var("LIANXI_STORM").ok();
    let children = wanted.map_or(CHILDREN, |text| text.parse().expect("LIANXI_STORM: a number"));
    let mut city = City::of(children).await;
    city.until_linked(0).await;
    let bare = city.bare_handshake_us().await;
    eprintln!("a handshake alone takes {bare} µs of the parent's processor time");

    // The power of all of them is back. Somebody else's link goes on meanwhile.
    let downs = lines(&city.steady.dir, "link down");
    let storm = Storm::begin("power back", &city, city.counted().await);
    let powered = city.children.power_up();
    city.steady_reports(1).await;
    city.until_linked(children).await;
    storm.end(&city).await;
    assert_eq!(lines(&city.steady.dir, "link down"), downs, "the link beside the storm went down");

    // The parent is back, and everybody dials.
    let dir = city.parent.take().unwrap().kill().await;
    city.parent = Some(Node::launch(program(), &dir));
    let storm = Storm::begin("parent back", &city, Counted::default());
    while_it_advances("an answer of the parent", async || {
        ask(&dir, &["node", "status"]).await.map_err(|_| 0)
    })
    .await;
    city.until_linked(children).await;
    storm.end(&city).await;
    powered.shutdown().await;
}
