//! Hosts in network namespaces, with bad lines between them.
//!
//! Four namespaces in a row, one line between each and the next, as between city, district, street
//! and community. A line can lose packets, be slow, be cut, or go silent without a word; a proxy
//! before each listener adds delay, which this needs because not every kernel has `netem`.
//! Everything is taken away at the end.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// Where a host listens in its namespace.
pub const LISTEN: &str = "0.0.0.0:7400";

/// Port of the proxy before it.
pub const PROXY_PORT: u16 = 7401;

/// Variables of [`be_a_proxy`].
const TO: &str = "LIANXI_TEST_PROXY_TO";
const DELAY: &str = "LIANXI_TEST_PROXY_DELAY_MS";

/// The tools that are needed, and the Debian packages that have them.
const TOOLS: [(&str, &str); 3] = [("ip", "iproute2"), ("tc", "iproute2"), ("nft", "nftables")];

/// Namespaces in a row. Number 0 is at the top.
#[derive(Debug)]
pub struct Lines {
    name: String,
    count: usize,
}

/// Runs a program to its end; `Err` has what it said.
fn run(program: &str, words: &str) -> Result<(), String> {
    let mut command = Command::new(program);
    let output = command.args(words.split_whitespace()).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {words}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Installs what is missing, where that is possible without asking anybody.
fn install() -> Result<(), String> {
    let is_there = |tool: &str| {
        let mut asked = Command::new(tool);
        asked.arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    let missing: Vec<&str> =
        TOOLS.iter().filter(|(tool, _)| !is_there(tool)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    let install = format!("install -y --no-install-recommends {packages}");
    run("apt-get", &install).or_else(|_| {
        run("apt-get", "update")?;
        run("apt-get", &install)
    })
}

impl Lines {
    /// Makes `count` namespaces in a row.
    ///
    /// # Errors
    ///
    /// Why that is not possible here: no rights, or a tool is missing and cannot be installed.
    pub fn new(count: usize) -> Result<Self, String> {
        install()?;
        let lines = Self { name: format!("lx{}", std::process::id()), count };
        for number in 0..count {
            run("ip", &format!("netns add {}", lines.namespace(number)))?;
            lines.inside(number, "ip link set lo up")?;
        }
        for line in 1..count {
            let (upper, lower) = (lines.namespace(line - 1), lines.namespace(line));
            let (down, up) = (format!("down{line}"), format!("up{line}"));
            run(
                "ip",
                &format!("link add {down} netns {upper} type veth peer name {up} netns {lower}"),
            )?;
            lines.inside(line - 1, &format!("ip addr add {}/24 dev {down}", address(line)))?;
            lines.inside(line, &format!("ip addr add 10.77.{line}.2/24 dev {up}"))?;
            lines.inside(line - 1, &format!("ip link set {down} up"))?;
            lines.inside(line, &format!("ip link set {up} up"))?;
            lines.inside(line, "nft add table inet line")?;
            for hook in ["input", "output"] {
                let chain = format!("{{ type filter hook {hook} priority 0 ; }}");
                lines.inside(line, &format!("nft add chain inet line {hook} {chain}"))?;
            }
        }
        Ok(lines)
    }

    /// Name of a namespace.
    pub fn namespace(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    fn inside(&self, number: usize, words: &str) -> Result<(), String> {
        run("ip", &format!("netns exec {} {words}", self.namespace(number)))
    }

    /// A command that will run inside a namespace.
    pub fn command(&self, number: usize, program: &Path) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("ip");
        command.args(["netns", "exec", &self.namespace(number)]).arg(program);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Every hundredth part of the packets of a line that `percent` says is lost, each way.
    ///
    /// # Panics
    ///
    /// The rule is refused.
    pub fn lose(&self, line: usize, percent: u32) {
        for (hook, direction) in [("input", "iifname"), ("output", "oifname")] {
            let drop =
                format!("{direction} up{line} numgen random mod 100 < {percent} counter drop");
            self.inside(line, &format!("nft add rule inet line {hook} {drop}")).unwrap();
        }
    }

    /// Packets that a line has lost since [`Self::lose`].
    ///
    /// # Panics
    ///
    /// The rules cannot be read.
    pub fn lost(&self, line: usize) -> u64 {
        let namespace = self.namespace(line);
        let list = ["netns", "exec", &namespace, "nft", "list", "table", "inet", "line"];
        let listed = Command::new("ip").args(list).output().unwrap();
        let text = String::from_utf8(listed.stdout).unwrap();
        let counts = text.split("counter packets ").skip(1);
        counts.map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// The line swallows everything from now on; neither end is told.
    ///
    /// # Panics
    ///
    /// The rule is refused.
    pub fn silence(&self, line: usize) {
        for (hook, direction) in [("input", "iifname"), ("output", "oifname")] {
            let drop = format!("{direction} up{line} drop");
            self.inside(line, &format!("nft insert rule inet line {hook} {drop}")).unwrap();
        }
    }

    /// The line loses nothing any more.
    ///
    /// # Panics
    ///
    /// The rules stay.
    pub fn clear(&self, line: usize) {
        self.inside(line, "nft flush chain inet line input").unwrap();
        self.inside(line, "nft flush chain inet line output").unwrap();
    }

    /// The line carries `kbit` kilobits a second, each way.
    ///
    /// # Panics
    ///
    /// The kernel cannot do so.
    pub fn slow(&self, line: usize, kbit: u32) {
        let shape = |device: &str| {
            format!("tc qdisc replace dev {device} root tbf rate {kbit}kbit burst 3000 latency 2s")
        };
        self.inside(line - 1, &shape(&format!("down{line}"))).unwrap();
        self.inside(line, &shape(&format!("up{line}"))).unwrap();
    }

    /// The cable of a line is pulled out, or put back.
    ///
    /// # Panics
    ///
    /// The device does not obey.
    pub fn plug(&self, line: usize, is_in: bool) {
        let state = if is_in { "up" } else { "down" };
        self.inside(line - 1, &format!("ip link set down{line} {state}")).unwrap();
    }

    /// Adds `delay` each way to every connection to the host of a namespace that comes to
    /// [`PROXY_PORT`]. `test` is an ignored test that calls [`be_a_proxy`].
    ///
    /// # Panics
    ///
    /// The proxy does not start.
    pub fn delay(&self, number: usize, delay: Duration, test: &str) -> tokio::process::Child {
        let mut command = self.command(number, &std::env::current_exe().unwrap());
        command.args(["--exact", test, "--ignored"]).stdout(Stdio::null());
        command.env(TO, "127.0.0.1:7400").env(DELAY, delay.as_millis().to_string());
        command.spawn().unwrap()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // Devices go with their namespaces.
        for number in 0..self.count {
            let _ = run("ip", &format!("netns del {}", self.namespace(number)));
        }
    }
}

/// Address of the upper end of a line.
pub fn address(line: usize) -> String {
    format!("10.77.{line}.1")
}

/// Passes connections on with a delay, until killed. Returns at once if nobody asked for it.
///
/// # Panics
///
/// It cannot listen.
pub async fn be_a_proxy() {
    let Ok(to) = std::env::var(TO) else { return };
    let to: SocketAddr = to.parse().unwrap();
    let delay = Duration::from_millis(std::env::var(DELAY).unwrap().parse().unwrap());
    let listener = TcpListener::bind(("0.0.0.0", PROXY_PORT)).await.unwrap();
    loop {
        let (near, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(to).await else { return };
            let (near_in, near_out) = near.into_split();
            let (far_in, far_out) = far.into_split();
            tokio::join!(pass(near_in, far_out, delay), pass(far_in, near_out, delay));
        });
    }
}

/// Every part arrives `delay` after it left; the end does too.
async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    delay: Duration,
) {
    // What is on its way is bounded by count: a few MiB.
    let (sender, mut parts) = mpsc::channel::<(Instant, Vec<u8>)>(256);
    let reading = async move {
        let mut part = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut part).await {
            let sent = sender.send((Instant::now() + delay, part[..length].to_vec())).await;
            if sent.is_err() {
                return;
            }
        }
        // Dropped with this block: the other side sees the end after all parts.
    };
    let writing = async {
        while let Some((due, part)) = parts.recv().await {
            sleep_until(due).await;
            if to.write_all(&part).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}
