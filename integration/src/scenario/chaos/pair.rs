//! Two reflectors for the same clients, as one runs them where neither may be missed: restarted in turn, then together.
//!
//! ```text
//!   left ───── right            reflectors, margay both, and not each other's clients
//!    │ ╲       ╱ │
//!    │  source   │              margay: 10.1.0.0/16, and one prefix after the other
//!    │  reader   │              margay: 10.2.0.0/16
//!    └── bird ───┘              BIRD 2: 10.3.0.0/16, and one prefix after the other
//! ```
//! Clients install what they learn, and ping each other all along.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Scale;
use super::hub::{Hub, Machine, Table, await_table, established_count, rows};
use crate::eventually::{eventually, idle};
use crate::ping::Stream;
use crate::process::Daemon;
use crate::router::Router as _;
use crate::router::bird::{Bird, Version};
use crate::speaker::Speaker;
use crate::{link, pace, view};

/// Time between two changes of what the clients announce.
const STEP: Duration = Duration::from_millis(200);

/// What each client announces all along, and where it answers.
const STEADY: [(&str, &str); 3] = [
    ("10.1.0.0/16", "10.1.0.1"),
    ("10.2.0.0/16", "10.2.0.1"),
    ("10.3.0.0/16", "10.3.0.1"),
];

/// The reflectors, as clients call them.
const NAMES: [&str; 2] = ["left", "right"];

/// What the source and BIRD announce at a turn beside that.
fn changing(turn: usize) -> [String; 2] {
    [
        format!("10.9.{}.0/24", turn % 5),
        format!("10.8.{}.0/24", turn % 3),
    ]
}

fn peer(name: &str, other: &Machine, client: bool) -> String {
    format!(
        "  - {{ name: {name}, address: {}, asn: 64512, routeReflectorClient: {client}, holdTime: 9, connectRetry: 500ms, \
         idleHold: 200ms, idleHoldMax: 1s }}\n",
        other.address
    )
}

struct Pair {
    reflectors: [Machine; 2],
    clients: [Machine; 3],
    /// The reflectors'.
    speakers: [Speaker; 2],
    source: Speaker,
    reader: Speaker,
    bird: Bird,
    turn: usize,
}

impl Pair {
    fn start(hub: &Hub, folder: &Path) -> Result<Self> {
        let reflectors = [hub.machine(NAMES[0], 41)?, hub.machine(NAMES[1], 42)?];
        let clients = [
            hub.machine("source", 43)?,
            hub.machine("reader", 44)?,
            hub.machine("tern", 45)?,
        ];
        for (client, (_, address)) in clients.iter().zip(STEADY) {
            link::addresses(&client.netns, "lo", &[format!("{address}/32")])?;
        }
        let [left, right] = &reflectors;
        let [source, reader, bird] = &clients;
        Ok(Self {
            speakers: [
                Speaker::start(&left.netns, &reflector(left, right, &clients), folder)?,
                Speaker::start(&right.netns, &reflector(right, left, &clients), folder)?,
            ],
            source: Speaker::start(&source.netns, &announces(source, &reflectors, 0), folder)?,
            reader: Speaker::start(&reader.netns, &reads(reader, &reflectors), folder)?,
            bird: Bird::start(
                Version::Two,
                &bird.netns,
                &flies(bird, &reflectors, 0),
                folder,
            )?,
            reflectors,
            clients,
            turn: 0,
        })
    }

    /// What changes does so for a while.
    fn churn(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        let [source, _, bird] = &self.clients;
        while Instant::now() < end {
            self.turn += 1;
            self.source
                .reload(&announces(source, &self.reflectors, self.turn))?;
            self.bird
                .reconfigure(&flies(bird, &self.reflectors, self.turn))?;
            idle(STEP);
        }
        Ok(())
    }

    /// Every prefix with its next hop; `None` is what one announces itself.
    fn wanted(&self, own: Option<usize>) -> Table {
        let [source, bird] = changing(self.turn);
        let mut prefixes: Vec<_> = STEADY
            .iter()
            .enumerate()
            .map(|(client, (prefix, _))| (client, (*prefix).to_owned()))
            .collect();
        prefixes.extend([(0, source), (2, bird)]);
        let mut table = Table::new();
        for (client, prefix) in prefixes {
            let hop = self.clients.get(client).filter(|_| own != Some(client));
            table.extend(rows([prefix], hop.map(|machine| machine.address.as_str())));
        }
        table
    }

    /// Every table is what it has to be by what is announced now, and nothing in it is stale.
    fn await_tables(&self) -> Result<()> {
        let [left, right] = &self.speakers;
        for (speaker, own) in [
            (left, None),
            (right, None),
            (&self.source, Some(0)),
            (&self.reader, Some(1)),
        ] {
            await_table(speaker, &self.wanted(own), 30)?;
        }
        let wanted = self.wanted(Some(2));
        let learned = wanted
            .into_iter()
            .filter_map(|(prefix, hop)| Some((prefix, hop?)));
        let wanted: BTreeSet<_> = learned.collect();
        eventually("BIRD's table", pace::seconds(30), || {
            let routes = self.bird.routes(4)?;
            let held: BTreeSet<_> = routes
                .into_iter()
                .filter(|route| route.best)
                .map(|route| (route.prefix, route.next_hop))
                .collect();
            ensure!(held == wanted, "{held:?}, not {wanted:?}");
            Ok(())
        })
    }

    fn run(&mut self, which: usize) -> Result<()> {
        let (own, other) = match &self.reflectors {
            [left, right] if which == 0 => (left, right),
            [left, right] => (right, left),
        };
        // Nothing in its kernel tells it that it was there before.
        let text = reflector(own, other, &self.clients);
        let speaker = self.speakers.get_mut(which).context("no such reflector")?;
        speaker.run(&format!("restarting: true\n{text}"))
    }

    fn kill(&mut self, which: usize) -> Result<()> {
        let speaker = self.speakers.get_mut(which).context("no such reflector")?;
        speaker.kill()
    }

    /// One is away for a second of changes: the other one tells of them.
    fn restart_one(&mut self, which: usize) -> Result<()> {
        let [name, other] = match which {
            0 => NAMES,
            _ => [NAMES[1], NAMES[0]],
        };
        let others = established_count(&self.reader, other)?;
        let before = established_count(&self.reader, name)?;
        self.kill(which)?;
        self.churn(Duration::from_secs(1))?;
        let prefixes = changing(self.turn);
        eventually(
            "what changed is told by the other",
            pace::seconds(5),
            || {
                let routes = link::routes(&self.clients[1].netns, 4)?;
                for prefix in &prefixes {
                    ensure!(
                        routes.iter().any(|route| route.prefix == *prefix),
                        "no {prefix} in the reader's kernel"
                    );
                }
                anyhow::Ok(())
            },
        )?;
        self.run(which)?;
        self.churn(Duration::from_secs(1))?;
        self.await_tables()?;
        let after = established_count(&self.reader, name)?;
        ensure!(
            before + 1 == after,
            "{name}: {before} sessions, then {after}"
        );
        let now = established_count(&self.reader, other)?;
        ensure!(others == now, "{other}: {others} sessions, then {now}");
        Ok(())
    }

    /// Both are away for a second of changes, of which nobody hears until they are back.
    fn restart_both(&mut self) -> Result<()> {
        let counts = |pair: &Self| -> Result<Vec<u64>> {
            NAMES
                .iter()
                .map(|name| established_count(&pair.reader, name))
                .collect()
        };
        let before = counts(self)?;
        for which in [0, 1] {
            self.kill(which)?;
        }
        self.churn(Duration::from_secs(1))?;
        for which in [0, 1] {
            self.run(which)?;
        }
        self.churn(Duration::from_secs(1))?;
        self.await_tables()?;
        let wanted: Vec<_> = before.iter().map(|count| count + 1).collect();
        let after = counts(self)?;
        ensure!(after == wanted, "sessions: {before:?}, then {after:?}");
        Ok(())
    }

    fn end(self) -> Result<()> {
        let [left, right] = self.speakers;
        for mut speaker in [left, right, self.source, self.reader] {
            speaker.kill()?;
        }
        self.bird.kill()?;
        for machine in self.reflectors.into_iter().chain(self.clients) {
            machine.netns.delete()?;
        }
        Ok(())
    }
}

fn reflector(own: &Machine, other: &Machine, clients: &[Machine; 3]) -> String {
    let clients = clients.iter().zip(["source", "reader", "bird"]);
    let clients: String = clients
        .map(|(machine, name)| peer(name, machine, true))
        .collect();
    own.yaml(&format!("peers:\n{}{clients}", peer("other", other, false)))
}

fn client(own: &Machine, reflectors: &[Machine; 2], prefixes: &[&str]) -> String {
    let [left, right] = reflectors;
    own.yaml(&format!(
        "kernel: {{ install: true }}\noriginate: [{}]\npeers:\n{}{}",
        prefixes.join(", "),
        peer("left", left, false),
        peer("right", right, false)
    ))
}

fn announces(own: &Machine, reflectors: &[Machine; 2], turn: usize) -> String {
    let [changing, _] = changing(turn);
    client(own, reflectors, &[STEADY[0].0, &changing])
}

fn reads(own: &Machine, reflectors: &[Machine; 2]) -> String {
    client(own, reflectors, &[STEADY[1].0])
}

fn flies(own: &Machine, reflectors: &[Machine; 2], turn: usize) -> String {
    let [_, changing] = changing(turn);
    let mut text = format!(
        "router id {address};\nprotocol device {{ }}\nprotocol direct {{ ipv4; }}\n\
         protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n\
         protocol static {{ ipv4; route {} blackhole; route {changing} blackhole; }}\n",
        STEADY[2].0,
        address = own.address
    );
    for (reflector, name) in reflectors.iter().zip(NAMES) {
        text.push_str(&format!(
            "protocol bgp {name} {{ local {} as 64512; neighbor {} as 64512; direct; graceful restart on; hold time 9; \
             connect delay time 1; connect retry time 1; error wait time 1, 2; \
             ipv4 {{ import all; export where source = RTS_STATIC; }}; }}\n",
            own.address, reflector.address
        ));
    }
    text
}

/// No client loses a packet or a route, whichever reflector is away, and even while both are; what changed meanwhile is right afterwards.
pub(super) fn restarted(hub: &Hub, folder: &Path, scale: Scale) -> Result<String> {
    let rounds = scale.rounds.div_ceil(3).min(4);
    let mut pair = Pair::start(hub, folder)?;
    pair.await_tables()?;
    let mut command = Command::new("ip");
    let reader = pair.clients[1].netns.clone();
    command.args(["-n", reader.name(), "-oneline", "monitor", "route"]);
    let monitor = Daemon::start("ip monitor", &mut command, &folder.join("pair-routes.log"))?;
    let mut streams = Vec::new();
    for (from, to) in [(0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        let (_, address) = STEADY[to];
        let netns = &pair.clients[from].netns;
        let stream = eventually("a first answer", pace::seconds(10), || {
            Stream::start(netns, address.parse()?, folder)
        })?;
        streams.push(stream);
    }
    for _ in 0..rounds {
        for (which, name) in NAMES.into_iter().enumerate() {
            pair.restart_one(which)
                .with_context(|| format!("{name} restarted"))?;
        }
        pair.restart_both().context("both restarted")?;
    }
    let packets = view::none_lost(streams)?;
    let log = monitor.log_tail(usize::MAX);
    ensure!(
        log.contains("10.9."),
        "the kernel's monitor told of nothing"
    );
    for (prefix, _) in STEADY {
        let gone = format!("Deleted {prefix} ");
        let line = log.lines().find(|line| line.contains(&gone));
        ensure!(line.is_none(), "at the reader: {line:?}");
    }
    let changes = pair.turn;
    pair.end()?;
    Ok(format!("{rounds} rounds, {changes} changes, {packets}"))
}
