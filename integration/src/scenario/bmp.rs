//! margay tells a collector by BMP of a session with BIRD; what it says is read by Wireshark's dissector, which shares no code
//! and no author with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::Outcome;
use crate::eventually::eventually;
use crate::link::{self, End};
use crate::netns::Netns;
use crate::process::Daemon;
use crate::report::Report;
use crate::router::bird::{Bird, Version};
use crate::speaker::Speaker;
use crate::{exec, pace};

const PORT: u16 = 11_019;
const PREFIX: &str = "203.0.113.0/24";
const REJECTED: &str = "198.51.100.0/24";
const OWN: &str = "192.0.2.0";
const TEXT: &str = "bye, bye";

const SPEAKER: &str = "asn: 64512
routerId: 10.100.0.1
listen: [\"10.0.0.1:179\"]
originate: [192.0.2.0/24]
monitoring:
  - { address: 10.0.1.2, postPolicy: true, adjRibOut: true, statistics: 1 }
peers:
  - { name: bird, address: 10.0.0.2, asn: 64601, connectRetry: 500ms, gracefulRestart: false, import: { reject: [198.51.100.0/24] } }
";

/// Builds the lab and checks it.
///
/// # Errors
/// When a step on which all others rest fails.
pub fn run(folder: &Path, report: &mut Report) -> Result<Outcome> {
    if Version::Two.programs().is_none() {
        return Ok(Outcome::Skipped("no BIRD 2 here".to_owned()));
    }
    let speaker_at = Netns::create_settled("bmp-m")?;
    let bird_at = Netns::create_settled("bmp-bird")?;
    let collector_at = Netns::create_settled("bmp-col")?;
    wire(
        &speaker_at,
        "m-bird",
        "10.0.0.1/24",
        &bird_at,
        "bird",
        "10.0.0.2/24",
    )?;
    wire(
        &speaker_at,
        "m-col",
        "10.0.1.1/24",
        &collector_at,
        "col",
        "10.0.1.2/24",
    )?;

    let collector = Collector::start(&collector_at, folder)?;
    let config = format!(
        "router id 10.0.0.2;\nprotocol device {{}}\nprotocol static {{ ipv4; route {PREFIX} blackhole; route {REJECTED} blackhole; }}\n\
         protocol bgp margay {{ local 10.0.0.2 as 64601; neighbor 10.0.0.1 as 64512; ipv4 {{ import all; export all; }}; }}\n"
    );
    let bird = Bird::start(Version::Two, &bird_at, &config, folder)?;
    let speaker = Speaker::start(&speaker_at, SPEAKER, folder)?;
    eventually(
        "the session is up and both routes are here",
        pace::seconds(20),
        || {
            let peers = speaker.ask(&["peers"])?;
            let received = &peers[0]["families"][0]["received"];
            ensure!(*received == 2, "{received} received");
            Ok::<_, anyhow::Error>(())
        },
    )?;
    collector.await_rows("statistics of the session", |rows| {
        of_type(rows, "1").any(|row| row.address == "10.0.0.2")
    })?;
    report.check(
        "a file with mistakes is not taken, all of them are told, and the session stays",
        || {
            let wrong = SPEAKER
                .replace("asn: 64512", "asn: many")
                .replace("statistics: 1", "statistics: often");
            speaker.reload(&wrong)?;
            eventually("both mistakes are in the log", pace::seconds(10), || {
                for wanted in [
                    ":1:6: field `asn`: expected an AS number",
                    ":6:73: field `monitoring[0].statistics`: expected a duration",
                ] {
                    ensure!(speaker.logged(wanted), "not in the log: {wanted}");
                }
                Ok::<_, anyhow::Error>(())
            })?;
            let peers = speaker.ask(&["peers"])?;
            ensure!(
                peers[0]["state"] == "Established" && peers[0]["establishedCount"] == 1,
                "{peers}"
            );
            Ok("what ran goes on".to_owned())
        },
    );
    bird.ask(&format!("disable margay \"{TEXT}\""))?;
    let rows = collector.await_rows("the end of the session", |rows| {
        of_type(rows, "2").next().is_some()
    })?;

    report.check("Wireshark finds nothing malformed", || {
        // Before 4.2 its dissector takes the table's name behind the OPENs (RFC 9069 §5.2.1) for a third BGP message.
        let named = |row: &&Row| row.kind == "3" && row.peer_type == "3";
        let bad: Vec<_> = rows
            .iter()
            .filter(|row| row.malformed && !named(row))
            .collect();
        ensure!(bad.is_empty(), "{bad:?}");
        Ok(format!("{} messages", rows.len()))
    });
    report.check("the first message is an initiation with our name", || {
        let first = rows.first().context("no message")?;
        ensure!(first.kind == "4", "{first:?}");
        ensure!(first.texts.contains("10.100.0.1"), "{first:?}");
        Ok(first.texts.clone())
    });
    report.check(
        "Peer Up shows both OPENs, for BIRD and for the Loc-RIB",
        || {
            let ups: Vec<_> = of_type(&rows, "3").collect();
            let bird = ups
                .iter()
                .find(|row| row.address == "10.0.0.2")
                .context("none of BIRD")?;
            ensure!(bird.asn == "64601" && bird.bgp_types == "1,1", "{bird:?}");
            let loc_rib = ups
                .iter()
                .find(|row| row.peer_type == "3")
                .context("none of the Loc-RIB")?;
            ensure!(loc_rib.asn == "64512", "{loc_rib:?}");
            Ok(format!("{} of them", ups.len()))
        },
    );
    report.check(
        "before policy both routes, after it and in the Loc-RIB one",
        || {
            let told = |peer_type: &str, post_policy: bool| {
                of_type(&rows, "0")
                    .filter(|row| row.peer_type == peer_type && row.post_policy == post_policy)
                    .filter(|row| !row.adj_rib_out)
                    .map(|row| row.prefixes.clone())
                    .collect::<Vec<_>>()
                    .join(",")
            };
            let (before, after, best) = (told("0", false), told("0", true), told("3", false));
            ensure!(
                before.contains("203.0.113.0") && before.contains("198.51.100.0"),
                "before: {before}"
            );
            for (name, list) in [("after", &after), ("best", &best)] {
                ensure!(list.contains("203.0.113.0"), "{name}: {list}");
            }
            ensure!(!best.contains("198.51.100.0"), "best: {best}");
            Ok(before)
        },
    );
    report.check(
        "what BIRD is told is told of, and nothing else of that",
        || {
            let told = || of_type(&rows, "0").filter(|row| row.adj_rib_out);
            let bad = told().find(|row| !row.post_policy || row.address != "10.0.0.2");
            ensure!(bad.is_none(), "{bad:?}");
            let told: Vec<_> = told().map(|row| row.prefixes.clone()).collect();
            let told = told.join(",");
            ensure!(
                told.contains(OWN) && !told.contains("203.0.113.0"),
                "{told}"
            );
            Ok(told)
        },
    );
    report.check("Peer Down says what BIRD said", || {
        let down = of_type(&rows, "2").next().context("none")?;
        ensure!(down.reason == "3" && down.bgp_types == "3", "{down:?}");
        Ok(down.reason.clone())
    });
    report.check("margay events tells the same with the text", || {
        let events = speaker.ask(&["events"])?;
        let last = events
            .as_array()
            .into_iter()
            .flatten()
            .find(|event| event["notification"]["text"] == TEXT)
            .cloned()
            .unwrap_or(Value::Null);
        ensure!(
            last["by"] == "peer" && last["from"] == "Established",
            "{events}"
        );
        Ok(last["reason"].to_string())
    });
    collector.stop()?;
    Ok(Outcome::Passed)
}

fn wire(
    one: &Netns,
    one_name: &str,
    one_address: &str,
    other: &Netns,
    other_name: &str,
    other_address: &str,
) -> Result<()> {
    link::wire(
        &End {
            netns: one,
            interface: one_name,
        },
        &End {
            netns: other,
            interface: other_name,
        },
    )?;
    link::addresses(one, one_name, &[one_address.to_owned()])?;
    link::addresses(other, other_name, &[other_address.to_owned()])
}

fn of_type<'a>(rows: &'a [Row], kind: &'a str) -> impl Iterator<Item = &'a Row> {
    rows.iter().filter(move |row| row.kind == kind)
}

/// One BMP message as Wireshark reads it; fields it has several of are joined by commas.
#[derive(Debug, Default)]
struct Row {
    kind: String,
    peer_type: String,
    post_policy: bool,
    adj_rib_out: bool,
    address: String,
    asn: String,
    /// Types of the BGP messages inside.
    bgp_types: String,
    reason: String,
    texts: String,
    prefixes: String,
    malformed: bool,
}

const FIELDS: [&str; 11] = [
    "bmp.type",
    "bmp.peer.type",
    "bmp.peer.flags.post_policy",
    "bmp.peer.flags.adj_rib_out",
    "bmp.peer.ip.addr",
    "bmp.peer.asn",
    "bgp.type",
    "bmp.peer.down.reason",
    "bmp.init.info",
    "bgp.nlri_prefix",
    "_ws.malformed",
];

/// A socket that keeps what it is told.
struct Collector {
    daemon: Daemon,
    octets: PathBuf,
    folder: PathBuf,
}

impl Collector {
    fn start(netns: &Netns, folder: &Path) -> Result<Self> {
        let octets = folder.join("bmp.octets");
        let mut command = netns.command("sh");
        // Its standard input stays open: nc would close its half of the connection with it.
        command
            .arg("-c")
            .arg(format!("sleep 3600 | busybox nc -l -p {PORT}"));
        let daemon = Daemon::start("nc", &mut command, &octets)?;
        Ok(Self {
            daemon,
            octets,
            folder: folder.to_path_buf(),
        })
    }

    /// Waits until what was told so far answers a question.
    fn await_rows(&self, what: &str, enough: impl Fn(&[Row]) -> bool) -> Result<Vec<Row>> {
        eventually(what, pace::seconds(20), || {
            let rows = self.rows()?;
            ensure!(enough(&rows), "{rows:?}");
            Ok::<_, anyhow::Error>(rows)
        })
    }

    /// Every whole message told so far. Each goes to Wireshark as a packet of its own.
    fn rows(&self) -> Result<Vec<Row>> {
        let octets = fs::read(&self.octets)?;
        let mut dump = String::new();
        let mut rest = octets.as_slice();
        while let Some(length) = rest
            .get(1..5)
            .and_then(|field| field.try_into().ok())
            .map(|field| u32::from_be_bytes(field) as usize)
        {
            let Some((message, behind)) = rest.split_at_checked(length).filter(|_| length > 5)
            else {
                break;
            };
            for (line, part) in message.chunks(16).enumerate() {
                dump.push_str(&format!("{:06x}", line * 16));
                for octet in part {
                    dump.push_str(&format!(" {octet:02x}"));
                }
                dump.push('\n');
            }
            dump.push('\n');
            rest = behind;
        }
        let (text, packets) = (self.folder.join("bmp.hex"), self.folder.join("bmp.pcap"));
        fs::write(&text, dump)?;
        exec::check(
            Command::new("text2pcap")
                .args(["-q", "-T", &format!("40000,{PORT}")])
                .arg(&text)
                .arg(&packets),
        )?;
        let mut command = Command::new("tshark");
        command
            .arg("-r")
            .arg(&packets)
            .args(["-d", &format!("tcp.port=={PORT},bmp")])
            .args(["-T", "fields", "-E", "separator=|", "-E", "occurrence=a"]);
        for field in FIELDS {
            command.args(["-e", field]);
        }
        Ok(exec::check(&mut command)?.lines().map(row).collect())
    }

    fn stop(self) -> Result<()> {
        self.daemon
            .stop(Signal::SIGTERM, pace::seconds(5))
            .map(drop)
    }
}

fn row(line: &str) -> Row {
    let mut fields = line.split('|').map(str::to_owned);
    let mut next = || fields.next().unwrap_or_default();
    Row {
        kind: next(),
        peer_type: next(),
        post_policy: matches!(next().as_str(), "1" | "True"),
        adj_rib_out: matches!(next().as_str(), "1" | "True"),
        address: next(),
        asn: next(),
        bgp_types: next(),
        reason: next(),
        texts: next(),
        prefixes: next(),
        malformed: !next().is_empty(),
    }
}
