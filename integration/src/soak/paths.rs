//! One margay speaker and neighbours behind a switch whose ports go silent without either side seeing its link go down.
//!
//! ```text
//!   m ── m-bird ═ br-bird ═ p-bird ── bird      each neighbour on a bridge of its own in the namespace sw;
//!   │── m-frr  ═ br-frr  ═ p-frr  ── frr        a cut takes the neighbour's port out of the bridge
//!   └── m-twin ═ br-twin ═ p-twin ── twin (another margay)
//! ```
//!
//! With [`Plan::routed`] a router stands between, so that both ends are two hops apart (RFC 5883); [`Plan::routed_over_ipv6`] is the
//! same in the other family:
//!
//! ```text
//!   m ── r ── m-bird ═ br-bird ═ p-bird ── bird
//!        │── m-frr  ═ br-frr  ═ p-frr  ── frr
//!        └── m-twin ═ br-twin ═ p-twin ── twin
//! ```
//!
//! Times are of one clock: when the switch was told, when margay logged that the path is down, when the kernel told
//! `ip monitor` that the route is gone.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::eventually::{eventually, idle};
use crate::link::{self, End};
use crate::netns::Netns;
use crate::process::Daemon;
use crate::router::bird::{Bird, Version};
use crate::router::frr::Frr;
use crate::speaker::Speaker;
use crate::{pace, view};

/// Who is at the other end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// BIRD 2.
    Bird,
    /// FRR: bgpd and bfdd.
    Frr,
    /// margay itself.
    Twin,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bird, Self::Frr, Self::Twin];

    /// Its name, and its namespace's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bird => "bird",
            Self::Frr => "frr",
            Self::Twin => "twin",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Bird => 1,
            Self::Frr => 2,
            Self::Twin => 3,
        }
    }
}

/// How margay is to watch and to forward.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who is there.
    pub kinds: Vec<Kind>,
    /// margay's BFD, as YAML; none where empty.
    pub bfd: String,
    /// Graceful restart on both ends.
    pub graceful: bool,
    /// More lines of margay's file.
    pub more: String,
    /// Its best routes go to the kernel.
    pub install: bool,
    /// A second session with the twin, over link-local addresses and without routes.
    pub link: bool,
    /// A router between margay and all of them; BIRD and the twin are in margay's AS then.
    pub routed: bool,
    /// Everything over IPv6: sessions, BFD, routes.
    pub six: bool,
}

/// margay's AS.
const OWN_ASN: u32 = 64_512;

/// margay's address where a router stands between, and the router's towards it.
const BEHIND: [&str; 2] = ["10.0.0.1", "10.0.0.254"];
const BEHIND6: [&str; 2] = ["fd00::1", "fd00::fe"];

impl Default for Plan {
    fn default() -> Self {
        Self {
            kinds: Kind::ALL.to_vec(),
            bfd: "{ minTx: 100, minRx: 100, multiplier: 3 }".to_owned(),
            graceful: false,
            more: String::new(),
            install: true,
            link: false,
            routed: false,
            six: false,
        }
    }
}

impl Plan {
    /// With a router between.
    #[must_use]
    pub fn routed() -> Self {
        Self {
            bfd: "{ minTx: 100, minRx: 100, multiplier: 3, multihop: 2 }".to_owned(),
            routed: true,
            ..Self::default()
        }
    }

    /// The same over IPv6.
    #[must_use]
    pub fn routed_over_ipv6() -> Self {
        Self {
            six: true,
            ..Self::routed()
        }
    }

    /// The family of everything.
    fn family(&self) -> u8 {
        if self.six { 6 } else { 4 }
    }

    /// A neighbour's address.
    #[must_use]
    pub fn address(&self, kind: Kind) -> String {
        match self.six {
            true => format!("fd00:{}::2", kind.number()),
            false => format!("10.0.{}.2", kind.number()),
        }
    }

    /// The other address of its subnet: margay's, or the router's.
    fn gateway(&self, kind: Kind) -> String {
        match self.six {
            true => format!("fd00:{}::1", kind.number()),
            false => format!("10.0.{}.1", kind.number()),
        }
    }

    /// A neighbour's subnet.
    fn subnet(&self, kind: Kind) -> String {
        match self.six {
            true => format!("fd00:{}::/64", kind.number()),
            false => format!("10.0.{}.0/24", kind.number()),
        }
    }

    /// The length of every subnet's prefix.
    fn length(&self) -> u8 {
        if self.six { 64 } else { 24 }
    }

    /// What a neighbour announces.
    #[must_use]
    pub fn prefix(&self, kind: Kind) -> String {
        match self.six {
            true => format!("fd03:{}::/48", kind.number()),
            false => format!("203.0.{}.0/24", 110 + kind.number()),
        }
    }

    /// margay's address where a router stands between, and the router's towards it.
    fn behind(&self) -> [&'static str; 2] {
        if self.six { BEHIND6 } else { BEHIND }
    }

    /// margay's BFD as it is when nothing is tried out.
    #[must_use]
    pub fn usual_bfd(&self) -> String {
        match self.routed {
            true => Self::routed().bfd,
            false => Self::default().bfd,
        }
    }

    /// margay's BFD towards a neighbour: over several hops BIRD sends with a TTL of 64, which says nothing of how far it is.
    fn bfd_towards(&self, kind: Kind) -> String {
        match self.bfd.split_once("multihop") {
            Some((before, _)) if kind == Kind::Bird => format!("{before}multihop: true }}"),
            _ => self.bfd.clone(),
        }
    }

    /// margay's address towards a neighbour.
    #[must_use]
    pub fn our_address(&self, kind: Kind) -> String {
        match self.routed {
            true => self.behind()[0].to_owned(),
            false => self.gateway(kind),
        }
    }

    fn asn(&self, kind: Kind) -> u32 {
        match (self.routed, kind) {
            (true, Kind::Bird | Kind::Twin) => OWN_ASN,
            (true, Kind::Frr) | (false, _) => 64_600 + u32::from(kind.number()),
        }
    }

    /// margay's file.
    #[must_use]
    pub fn config(&self) -> String {
        let mut text = format!(
            "asn: {OWN_ASN}\nrouterId: 10.100.0.1\nlisten: [\"{}\"]\nfamilies: [ipv4-unicast, ipv6-unicast]\nkernel: {{ install: {} }}\npeers:\n",
            if self.six { "[::]:179" } else { "0.0.0.0:179" },
            self.install
        );
        for kind in &self.kinds {
            text.push_str(&format!(
                "  - {{ name: {}, address: \"{}\", asn: {}, localAddress: \"{}\", families: [ipv{}-unicast], connectRetry: 500ms, gracefulRestart: {}{} }}\n",
                kind.name(),
                self.address(*kind),
                self.asn(*kind),
                self.our_address(*kind),
                self.family(),
                self.graceful,
                if self.bfd.is_empty() {
                    String::new()
                } else {
                    format!(", bfd: {}", self.bfd_towards(*kind))
                }
            ));
        }
        if self.link {
            text.push_str(&self.over_the_link(2, self.asn(Kind::Twin)));
        }
        text.push_str(&self.more);
        text
    }

    fn over_the_link(&self, other: u8, asn: u32) -> String {
        let bfd = if self.bfd.is_empty() {
            "false"
        } else {
            &self.bfd
        };
        format!(
            "  - {{ name: link, address: \"fe80::{other}\", interface: to-twin, localAddress: \"fe80::{own}\", asn: {asn}, \
             families: [ipv6-unicast], connectRetry: 500ms, gracefulRestart: false, bfd: {bfd} }}\n",
            own = 3 - other
        )
    }

    fn bird(&self, kind: Kind) -> String {
        format!(
            "router id 10.100.0.{number};\nprotocol device {{ scan time 5; }}\n\
             protocol bfd {{ {which} {{ min rx interval 100 ms; min tx interval 100 ms; idle tx interval 1 s; multiplier 3; }}; }}\n\
             protocol static {{ ipv{family}; route {prefix} blackhole; }}\n\
             protocol bgp m {{\n  local {address} as {asn}; neighbor {ours} as 64512; {hops}; bfd on; graceful restart {graceful};\n  \
             hold time 90; connect delay time 1; connect retry time 1; error wait time 1, 1;\n  ipv{family} {{ import all; export all; }};\n}}\n",
            number = 100 + kind.number(),
            address = self.address(kind),
            family = self.family(),
            prefix = self.prefix(kind),
            asn = self.asn(kind),
            ours = self.our_address(kind),
            graceful = if self.graceful { "on" } else { "off" },
            which = if self.routed {
                "multihop"
            } else {
                "interface \"*\""
            },
            hops = if self.routed { "multihop 2" } else { "direct" },
        )
    }

    fn bgpd(&self, kind: Kind) -> String {
        let (ours, prefix) = (self.our_address(kind), self.prefix(kind));
        let hops = match self.routed {
            true => format!(
                " neighbor {ours} ebgp-multihop 2\n neighbor {ours} update-source {}\n",
                self.address(kind)
            ),
            false => String::new(),
        };
        format!(
            "router bgp {asn}\n bgp router-id 10.100.0.{number}\n no bgp ebgp-requires-policy\n no bgp network import-check\n no bgp default ipv4-unicast\n timers bgp 30 90\n \
             neighbor {ours} remote-as 64512\n{hops} neighbor {ours} timers connect 1\n neighbor {ours} bfd 3 100 100\n \
             address-family ipv{family} unicast\n  network {prefix}\n  neighbor {ours} activate\n exit-address-family\n",
            asn = self.asn(kind),
            number = 100 + kind.number(),
            family = self.family(),
        )
    }

    fn twin(&self, kind: Kind) -> String {
        let link = if self.link {
            Self::default().over_the_link(1, 64_512)
        } else {
            String::new()
        };
        let address = self.address(kind);
        let listen = match self.six {
            true => String::new(),
            false => format!("\"{address}:179\", "),
        };
        format!(
            "asn: {}\nrouterId: 10.100.0.{}\nlisten: [{listen}\"[::]:179\"]\nfamilies: [ipv4-unicast, ipv6-unicast]\n\
             originate: [\"{}\"]\npeers:\n  - {{ name: m, address: \"{}\", asn: 64512, localAddress: \"{address}\", families: [ipv{}-unicast], \
             connectRetry: 500ms, gracefulRestart: {}, bfd: {} }}\n{link}",
            self.asn(kind),
            100 + kind.number(),
            self.prefix(kind),
            self.our_address(kind),
            self.family(),
            self.graceful,
            self.usual_bfd(),
        )
    }
}

/// A neighbour's daemon.
#[derive(Debug)]
pub enum Neighbour {
    /// BIRD 2.
    Bird(Bird),
    /// FRR.
    Frr(Frr),
    /// margay.
    Twin(Speaker),
}

/// Keeps `ip` waiting for lines, so that a command takes effect within a fraction of a millisecond.
#[derive(Debug)]
struct Switch {
    ip: Child,
    lines: ChildStdin,
}

impl Switch {
    fn start(netns: &Netns) -> Result<Self> {
        let mut ip = Command::new("ip")
            .args(["-n", netns.name(), "-force", "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()?;
        let lines = ip.stdin.take().context("no way to ip")?;
        Ok(Self { ip, lines })
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        self.lines.write_all(format!("{line}\n").as_bytes())?;
        self.lines.flush()?;
        Ok(())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.ip.kill();
        let _ = self.ip.wait();
    }
}

/// The whole lab.
#[derive(Debug)]
pub struct Paths {
    /// What it was built from.
    pub plan: Plan,
    /// The speaker in question.
    pub margay: Speaker,
    /// Where it runs.
    pub netns: Netns,
    /// Its neighbours.
    pub neighbours: Vec<(Kind, Neighbour)>,
    switch: Switch,
    monitor: Daemon,
    folder: PathBuf,
}

/// How one cut went.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// From the cut until margay's speaker knew.
    pub noticed: Duration,
    /// From then until the kernel had no route; nothing where it never holds one.
    pub gone: Duration,
    /// From the cut until margay knew of the session over the same link as well, where there is one.
    pub link: Option<Duration>,
    /// How long this machine kept a thread waiting that was due, at the worst.
    pub stalled: Duration,
}

impl Paths {
    /// Builds the lab and starts everything; [`Paths::await_up`] waits for the sessions.
    ///
    /// # Errors
    /// When something does not start.
    pub fn build(plan: Plan, folder: &Path) -> Result<Self> {
        let netns = Netns::create("m")?;
        let switch = Netns::create("sw")?;
        let near = match plan.routed {
            true => router(&netns, &plan)?,
            false => netns.clone(),
        };
        let mut neighbours = Vec::new();
        let subnet = |address: String| format!("{address}/{}", plan.length());
        for kind in &plan.kinds {
            let name = kind.name();
            let there = Netns::create(name)?;
            let (ours, theirs) = (format!("m-{name}"), format!("p-{name}"));
            for (end, port) in [(&near, &ours), (&there, &theirs)] {
                link::wire(
                    &End {
                        netns: end,
                        interface: &format!("to-{name}"),
                    },
                    &End {
                        netns: &switch,
                        interface: port,
                    },
                )?;
            }
            link::bridge(
                &switch,
                &format!("br-{name}"),
                &[ours.clone(), theirs.clone()],
            )?;
            let interface = format!("to-{name}");
            link::addresses(&near, &interface, &[subnet(plan.gateway(*kind))])?;
            link::addresses(&there, &interface, &[subnet(plan.address(*kind))])?;
            link::addresses(&near, &interface, &["fe80::1/64".to_owned()])?;
            link::addresses(&there, &interface, &["fe80::2/64".to_owned()])?;
            if plan.routed {
                let (gateway, [ours, _]) = (plan.gateway(*kind), plan.behind());
                there.ip(&format!("route add {ours} via {gateway}"))?;
            }
        }
        for kind in &plan.kinds {
            let there = Netns::named(kind.name());
            let neighbour = match kind {
                Kind::Bird => Neighbour::Bird(Bird::start(
                    Version::Two,
                    &there,
                    &plan.bird(*kind),
                    folder,
                )?),
                Kind::Frr => {
                    let mut frr = Frr::start(&there, plan.asn(*kind), &plan.bgpd(*kind), folder)?;
                    frr.start_bfdd()?;
                    Neighbour::Frr(frr)
                }
                Kind::Twin => Neighbour::Twin(Speaker::start(&there, &plan.twin(*kind), folder)?),
            };
            neighbours.push((*kind, neighbour));
        }
        let margay = Speaker::start(&netns, &plan.config(), folder)?;
        let mut command = Command::new("ip");
        command.env("TZ", "UTC").args([
            "-n",
            netns.name(),
            "-tshort",
            "-oneline",
            "monitor",
            "route",
        ]);
        let monitor = Daemon::start("ip monitor", &mut command, &folder.join("monitor.log"))?;
        Ok(Self {
            switch: Switch::start(&switch)?,
            plan,
            margay,
            netns,
            neighbours,
            monitor,
            folder: folder.to_path_buf(),
        })
    }

    /// Gives margay another configuration.
    ///
    /// # Errors
    /// When it does not run.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Plan)) -> Result<()> {
        change(&mut self.plan);
        self.margay.reload(&self.plan.config())
    }

    /// What `margay peers` says of a neighbour.
    ///
    /// # Errors
    /// When it says nothing.
    pub fn peer(&self, kind: Kind) -> Result<Value> {
        self.peer_named(kind.name())
    }

    /// The same, by name.
    ///
    /// # Errors
    /// As [`Paths::peer`].
    pub fn peer_named(&self, name: &str) -> Result<Value> {
        let peers = self.margay.ask(&["peers"])?;
        peers
            .as_array()
            .and_then(|peers| peers.iter().find(|peer| peer["name"] == name))
            .cloned()
            .with_context(|| format!("no peer {name}"))
    }

    /// Waits until a neighbour's path and session are up and its route is in the kernel.
    ///
    /// # Errors
    /// When that does not come.
    pub fn await_up(&self, kind: Kind) -> Result<()> {
        eventually(
            format!("the path to {} is up", kind.name()),
            pace::seconds(40),
            || {
                let peer = self.peer(kind)?;
                ensure!(
                    peer["state"] == "Established"
                        && peer["bfd"]["state"] == "Up"
                        && peer["bfd"]["remoteState"] == "Up"
                        && peer["bfd"]["detectionTime"] == 300,
                    "{} {}: {}",
                    peer["state"],
                    peer["lastError"],
                    peer["bfd"]
                );
                if self.plan.link && kind == Kind::Twin {
                    let peer = self.peer_named("link")?;
                    ensure!(
                        peer["state"] == "Established" && peer["bfd"]["state"] == "Up",
                        "over the link: {} {}: {}",
                        peer["state"],
                        peer["lastError"],
                        peer["bfd"]
                    );
                }
                if self.plan.install {
                    let routes = link::routes(&self.netns, self.plan.family())?;
                    ensure!(
                        routes
                            .iter()
                            .any(|route| route.prefix == self.plan.prefix(kind)),
                        "{} is not in the kernel",
                        self.plan.prefix(kind)
                    );
                }
                Ok::<_, anyhow::Error>(())
            },
        )
    }

    /// Cuts the path to a neighbour and does not wait. Neither end sees its link go down.
    ///
    /// # Errors
    /// When the switch is gone.
    pub fn cut(&mut self, kind: Kind) -> Result<()> {
        self.switch
            .tell(&format!("link set p-{} nomaster", kind.name()))
    }

    /// Undoes [`Paths::cut`].
    ///
    /// # Errors
    /// When the switch is gone.
    pub fn mend(&mut self, kind: Kind) -> Result<()> {
        let name = kind.name();
        self.switch
            .tell(&format!("link set p-{name} master br-{name}"))
    }

    /// Cuts the path to a neighbour, measures, and mends it.
    ///
    /// # Errors
    /// When the cut is not noticed, or not for what it is, or the route stays, or nothing comes back.
    pub fn measure(&mut self, kind: Kind) -> Result<Cut> {
        let (log, routes) = (self.margay.log().len(), self.routes_log().len());
        let stalls = Stalls::watch();
        let start = time_of_day();
        self.cut(kind)?;
        let noticed = self.await_notice(kind.name(), log, start)?;
        let over_link = self.plan.link && kind == Kind::Twin;
        let link = match over_link {
            true => Some(self.await_notice("link", log, start)?),
            false => None,
        };
        let mut gone = noticed;
        if self.plan.install {
            let deleted = format!("Deleted {} ", self.plan.prefix(kind));
            gone = eventually(
                format!("{} leaves the kernel", self.plan.prefix(kind)),
                pace::seconds(20),
                || {
                    let text = self.routes_log();
                    let new = text.get(routes..).unwrap_or_default();
                    let line = new.lines().find(|line| line.contains(&deleted));
                    line.context("nothing from ip monitor")
                        .and_then(view::stamp)
                },
            )
            .and_then(|at| since(at, start))?;
        }
        let stalled = stalls.longest();
        let names = over_link.then_some("link");
        for name in names.into_iter().chain([kind.name()]) {
            eventually(
                format!("{name} names BFD as the reason"),
                pace::seconds(10),
                || {
                    let error = self.peer_named(name)?["lastError"].clone();
                    ensure!(error.to_string().contains("BFD"), "{error}");
                    Ok::<_, anyhow::Error>(())
                },
            )?;
        }
        self.mend(kind)?;
        self.await_up(kind)?;
        Ok(Cut {
            noticed,
            // The kernel may tell the monitor before the log is written.
            gone: gone.saturating_sub(noticed),
            link,
            stalled,
        })
    }

    /// Waits until margay logs that a path is down, and says how long after a moment it did.
    fn await_notice(&self, name: &str, log: usize, start: Duration) -> Result<Duration> {
        let peer = format!("peer={name}");
        let at = eventually(
            format!("margay notices that {name} is cut off"),
            pace::seconds(20),
            || {
                let text = self.margay.log();
                let new = text.get(log..).unwrap_or_default();
                let line = new.lines().find(|line| {
                    line.contains("the path is down")
                        && line.split_whitespace().any(|word| word == peer)
                });
                line.context("nothing in its log").and_then(log_stamp)
            },
        )?;
        since(at, start)
    }

    /// Everything `ip monitor route` said in margay's namespace.
    #[must_use]
    pub fn routes_log(&self) -> String {
        self.monitor.log_tail(usize::MAX)
    }

    /// How often a neighbour's path changed, and its session was Established.
    ///
    /// # Errors
    /// When margay does not say.
    pub fn counts(&self, kind: Kind) -> Result<(u64, u64)> {
        let peer = self.peer(kind)?;
        let count = |value: &Value| value.as_u64().context("no number");
        Ok((
            count(&peer["bfd"]["transitions"])?,
            count(&peer["establishedCount"])?,
        ))
    }

    /// Writes a file beside the logs.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.folder.join(name), text)?)
    }
}

/// A router that margay is behind, and margay's routes through it. Links to neighbours are the caller's to make.
fn router(margay: &Netns, plan: &Plan) -> Result<Netns> {
    let router = Netns::create("r")?;
    router.sysctl("net.ipv4.ip_forward", "1")?;
    router.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    let [ours, gateway] = plan.behind();
    let length = plan.length();
    link::wire(
        &End {
            netns: margay,
            interface: "to-r",
        },
        &End {
            netns: &router,
            interface: "to-m",
        },
    )?;
    link::addresses(margay, "to-r", &[format!("{ours}/{length}")])?;
    link::addresses(&router, "to-m", &[format!("{gateway}/{length}")])?;
    for kind in &plan.kinds {
        let subnet = plan.subnet(*kind);
        margay.ip(&format!("route add {subnet} via {gateway}"))?;
    }
    Ok(router)
}

const DAY: Duration = Duration::from_secs(86_400);

fn time_of_day() -> Duration {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Duration::new(now.as_secs() % DAY.as_secs(), now.subsec_nanos())
}

/// Between two times of day, also over midnight. What would be most of a day is a stamp from before the beginning.
fn since(later: Duration, earlier: Duration) -> Result<Duration> {
    let between = later
        .checked_sub(earlier)
        .unwrap_or_else(|| (later + DAY).saturating_sub(earlier));
    ensure!(
        between < DAY / 2,
        "{later:?} of the day is before {earlier:?}"
    );
    Ok(between)
}

/// A thread that wants to run every few milliseconds, and writes down how long it had to wait at the worst: on a machine that is too
/// busy for that, a measured time says nothing about who is measured.
struct Stalls {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Duration>,
}

impl Stalls {
    fn watch() -> Self {
        const STEP: Duration = Duration::from_millis(5);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut longest = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    idle(STEP);
                    longest = longest.max(start.elapsed().saturating_sub(STEP));
                }
                longest
            }
        });
        Self { stop, thread }
    }

    fn longest(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(Duration::MAX)
    }
}

/// Time of day in a line of margay's log: `2026-11-22T19:24:41.123456Z …`.
fn log_stamp(line: &str) -> Result<Duration> {
    let stamp = line.split('Z').next().unwrap_or_default();
    let from = stamp.find("20").context("no time stamp")?;
    view::stamp(&format!("[{}]", stamp.get(from..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_over_midnight_and_never_backwards() {
        let at = Duration::from_secs;
        assert_eq!(since(at(20), at(5)).unwrap(), at(15));
        assert_eq!(since(at(2), DAY - at(3)).unwrap(), at(5));
        since(at(5), at(6)).unwrap_err();
    }
}
