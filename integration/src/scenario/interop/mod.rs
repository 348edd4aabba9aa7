//! `margay speaker` beside the daemons it will meet, in four acts, and a matrix of what was seen.
//!
//! ```text
//!   10.90.0.0/24, fd90::/64   one switch
//!   .1 margay  .2 BIRD 2  .3 BIRD 1.6  .4 FRR  .5 GoBGP  .6 OpenBGPD  .9 witness  .10 mallory
//!
//!   act 1  eBGP, margay waits; a session for each family, one with a password; policy, refresh, texts, mallory's garbage
//!   act 2  iBGP with passwords, right and wrong, margay dials and reflects; both families on one session
//!   act 3  iBGP, both dial and the peers reflect; kernel routes; everybody is killed in turn
//!   act 4  eBGP over IPv6 alone: IPv4 with next hops of IPv6, and links of their own without addresses
//! ```
//! The witness speaks with margay and, in act 3, with each peer: what it is told, and what it is not, is how "nothing
//! was lost in between" is known.

mod external;
pub mod foreign;
pub mod matrix;
pub mod plan;
mod reflected;
mod reflecting;
mod unnumbered;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use margay_bgp::codec::PathAttributes;
use nix::sys::signal::Signal;
use serde_json::Value;

use self::foreign::{Foreign, Kind};
use self::matrix::{Case, Matrix};
use self::plan::{HOLD_TIME, Originated, Plan, Session};
use super::Outcome;
use crate::capture::Capture;
use crate::eventually::eventually;
use crate::link::{self, End};
use crate::netns::Netns;
use crate::pace;
use crate::report::{Report, say};
use crate::router::{Details, details};
use crate::speaker::Speaker;
use crate::witness::{self, Identity, Route, announcement, announcement_of, attribute};

const MARGAY_ASN: u32 = 64512;
const WITNESS_ASN: u32 = 64609;
const MALLORY_ASN: u32 = 64610;
const MARGAY: &str = "10.90.0.1";
const MARGAY6: &str = "fd90::1";
const WITNESS: &str = "10.90.0.9";
const WITNESS6: &str = "fd90::9";
const MALLORY: &str = "10.90.0.10";
const MALLORY6: &str = "fd90::a";

/// Margay's routes: one that stays, one that goes, one that peers refuse at first; IPv6 likewise.
const KEPT: &str = "10.91.0.0/24";
const KEPT6: &str = "fd91::/48";
const DROPPED: &str = "10.91.1.0/24";
const DROPPED6: &str = "fd91:1::/48";
const REFUSED: &str = "10.91.2.0/24";

/// What two clients of margay's announce, each with a next hop of its own.
const TWICE: &str = "10.92.1.0/24";

/// An attribute that no implementation knows, on the witness's routes.
const UNKNOWN: (u8, [u8; 4]) = (99, [0xde, 0xad, 0xbe, 0xef]);

/// Who made the witness's routes of more specific ones: an AS of four octets.
const MAKER: (u32, [u8; 4]) = (4_200_000_009, [10, 90, 0, 99]);

/// Margay's aggregates, of [`KEPT`] and [`KEPT6`] and what else lies in them.
const AGGREGATE: &str = "10.91.0.0/16";
const AGGREGATE6: &str = "fd91::/16";

/// The witness's routes.
const SEEN: &str = "10.92.0.0/24";
const SEEN6: &str = "fd92::/48";

/// A peer's interface to margay alone, and margay's address on each such link.
const LINK: &str = "eth1";
const LINK_LOCAL: &str = "fe80::1";

/// A session that is to come up does so within this, dialling pauses included.
const SESSION_LIMIT: u64 = 40;

/// Runs the four acts.
///
/// # Errors
/// When the lab cannot be built; cases that fail are in the report.
pub fn run(folder: &Path, report: &mut Report) -> Result<Outcome> {
    let (present, absent): (Vec<_>, Vec<_>) =
        Kind::ALL.into_iter().partition(|kind| kind.present());
    for kind in &absent {
        say(format_args!("without {}: not on this machine", kind.name()));
    }
    ensure!(
        !present.is_empty(),
        "no other BGP daemon here: integration/setup installs them"
    );
    let mut stage = Stage::build(&present, folder)?;
    let acts: [(&str, Act); 4] = [
        ("act 1", Stage::external),
        ("act 2", Stage::reflecting),
        ("act 3", Stage::reflected),
        ("act 4", Stage::unnumbered),
    ];
    let mut broken = None;
    for (name, act) in acts {
        // An act that cannot go on is no reason to leave out the others, nor the table.
        if let Err(error) = act(&mut stage, report) {
            broken = Some(format!("{name} ended early: {error:#}"));
            report.check(name, || Err(error));
        }
    }
    if let Some(why) = broken {
        stage.matrix.fail_empty(&present, &why);
    }
    say(stage.matrix.table(&present));
    report.check("every cell is filled or explained", || {
        let mut unexplained = stage.matrix.unexplained(&present);
        let missing = absent.iter().filter(|kind| !kind.dropped());
        unexplained.extend(missing.map(|kind| format!("all of {}", kind.name())));
        ensure!(unexplained.is_empty(), "{}", unexplained.join("; "));
        Ok(format!("{} peers", present.len()))
    });
    Ok(Outcome::Passed)
}

/// One act: it adds its cases to the report, and ends early where it cannot go on.
type Act = fn(&mut Stage, &mut Report) -> Result<()>;

struct Stage {
    margay: Option<Speaker>,
    margay_netns: Netns,
    witness: Netns,
    mallory: Netns,
    peers: Vec<Foreign>,
    matrix: Matrix,
    folder: std::path::PathBuf,
    /// Every octet on port 179, beside the daemons' logs, for whoever asks why a cell failed.
    capture: Capture,
}

fn v4(kind: Kind) -> String {
    format!("10.90.0.{}", kind.number())
}

fn v6(kind: Kind) -> String {
    format!("fd90::{}", kind.number())
}

fn ip(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| text.to_owned())
}

/// A peer's routes: one of each family that stays, one of each that goes.
fn routes_of(kind: Kind) -> [String; 4] {
    let number = kind.number();
    [
        format!("10.93.{number}.0/24"),
        format!("fd93:{number}::/48"),
        format!("10.93.{}.0/24", 100 + number),
        format!("fd93:10{number}::/48"),
    ]
}

fn originated(prefix: &str, asn: u32, med: u32, local_pref: u32) -> Originated {
    Originated {
        prefix: prefix.to_owned(),
        community: format!("{asn}:100"),
        large_community: format!("{asn}:1:2"),
        route_target: (asn != MARGAY_ASN).then(|| format!("{asn}:100")),
        med,
        local_pref,
        aggregated: false,
    }
}

/// A route that says it stands for more specific ones.
fn aggregated(route: Originated) -> Originated {
    Originated {
        aggregated: true,
        ..route
    }
}

/// Whether a peer can be told to say who made an aggregate; FRR can say as well that it is one.
fn names_aggregator(kind: Kind) -> bool {
    matches!(kind, Kind::Frr | Kind::GoBgp)
}

/// A peer's routes that say so, one of each family.
fn aggregates_of(kind: Kind) -> [String; 2] {
    let number = kind.number();
    [
        format!("10.93.{}.0/24", 200 + number),
        format!("fd93:20{number}::/48"),
    ]
}

/// What is expected of a path; `None` where it does not matter or the router prints a default.
#[derive(Clone, Debug)]
struct Wanted {
    as_path: Vec<u32>,
    next_hop: String,
    med: Option<u32>,
    local_pref: Option<u32>,
    tag: u32,
    originator: Option<String>,
    cluster_list: Vec<String>,
    /// ATOMIC_AGGREGATE, and who is in AGGREGATOR; the witness's routes have both.
    atomic_aggregate: bool,
    aggregator: Option<String>,
}

impl Wanted {
    fn check(&self, path: &Details) -> Result<()> {
        let tags = |value: String| BTreeSet::from([value]);
        let wanted = Details {
            // The witness's routes are of another ORIGIN than everybody's own.
            origin: match self.tag {
                WITNESS_ASN => "egp",
                _ => "igp",
            }
            .to_owned(),
            as_path: self.as_path.clone(),
            next_hop: self.next_hop.clone(),
            // Daemons print 0 where there is none.
            med: self.med.or_else(|| path.med.filter(|med| *med == 0)),
            // … and 100, the value of what has none.
            local_pref: self
                .local_pref
                .or_else(|| path.local_pref.filter(|value| *value == 100)),
            communities: tags(format!("{}:100", self.tag)),
            large_communities: tags(format!("{}:1:2", self.tag)),
            route_targets: match self.tag {
                MARGAY_ASN => BTreeSet::new(),
                tag => tags(format!("rt:{tag}:100")),
            },
            originator: self.originator.clone(),
            cluster_list: self.cluster_list.clone(),
            atomic_aggregate: self.atomic_aggregate || self.tag == WITNESS_ASN,
            aggregator: match self.tag {
                WITNESS_ASN => Some(format!("{} {}", MAKER.0, Ipv4Addr::from(MAKER.1))),
                _ => self.aggregator.clone(),
            },
            // Not all print it: what does not stand here has rows of its own.
            unknown: path.unknown.clone(),
        };
        ensure!(*path == wanted, "{path:?} is not {wanted:?}");
        Ok(())
    }

    fn check_one(&self, paths: &[Details]) -> Result<()> {
        let mut last = anyhow!("no path");
        for path in paths {
            match self.check(path) {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// What the witness was told, in the form routers print.
fn told(route: &Route) -> Details {
    let attributes: &PathAttributes = &route.attributes;
    Details {
        origin: format!("{:?}", attributes.origin).to_lowercase(),
        as_path: attributes.as_path.iter().map(|asn| asn.0).collect(),
        next_hop: route.next_hop.addr().to_string(),
        med: attributes.med.map(|med| med.0),
        local_pref: attributes.local_pref.map(|value| value.0),
        communities: attributes
            .communities
            .iter()
            .map(ToString::to_string)
            .collect(),
        large_communities: attributes
            .large_communities
            .iter()
            .map(ToString::to_string)
            .collect(),
        route_targets: attributes
            .extended_communities
            .iter()
            .map(|target| target.to_string().replacen("target", "rt", 1))
            .collect(),
        originator: attributes.originator_id.map(|id| id.to_string()),
        cluster_list: attributes
            .cluster_list
            .iter()
            .map(ToString::to_string)
            .collect(),
        atomic_aggregate: attributes.atomic_aggregate,
        aggregator: attributes
            .aggregator
            .map(|made| format!("{} {}", made.asn.0, made.addr)),
        unknown: attributes
            .unknown
            .iter()
            .map(|one| details::unknown(u64::from(one.code.0), &one.value))
            .collect(),
    }
}

/// The witness's announcements of both families: ORIGIN EGP, MED 77, LOCAL_PREF 170 inside, its own tags, a long AS in the path, and
/// what an aggregate has.
fn announcements(prefixes: &[&str], path: &[u32], internal: bool) -> Result<Vec<Vec<u8>>> {
    let mut more = vec![attribute(0x80, 4, &77_u32.to_be_bytes())];
    if internal {
        more.push(attribute(0x40, 5, &170_u32.to_be_bytes()));
    }
    more.push(attribute(0x40, 6, &[]));
    more.push(attribute(
        0xc0,
        7,
        &[&MAKER.0.to_be_bytes()[..], &MAKER.1].concat(),
    ));
    let tag = u16::try_from(WITNESS_ASN)?;
    more.push(attribute(
        0xc0,
        8,
        &[tag.to_be_bytes(), 100_u16.to_be_bytes()].concat(),
    ));
    let large: Vec<u8> = [WITNESS_ASN, 1, 2]
        .iter()
        .flat_map(|part| part.to_be_bytes())
        .collect();
    more.push(attribute(
        0xc0,
        16,
        &[&[0, 2], &tag.to_be_bytes()[..], &100_u32.to_be_bytes()].concat(),
    ));
    more.push(attribute(0xc0, 32, &large));
    more.push(attribute(0xc0, UNKNOWN.0, &UNKNOWN.1));
    prefixes
        .iter()
        .map(|prefix| {
            let hop = match plan::family_of(prefix) {
                4 => ip(WITNESS)?,
                _ => ip(WITNESS6)?,
            };
            Ok(announcement_of(1, prefix.parse()?, hop, path, &more))
        })
        .collect()
}

/// A client's announcement of a prefix that another one announces too.
fn shared(prefix: &str, next_hop: &str) -> Result<Vec<u8>> {
    let local_pref = attribute(0x40, 5, &170_u32.to_be_bytes());
    Ok(announcement(
        prefix.parse()?,
        ip(next_hop)?,
        &[65010],
        &[local_pref],
    ))
}

/// The withdrawal of an IPv4 prefix.
fn withdrawal(prefix: &str) -> Result<Vec<u8>> {
    Ok(witness::update(&witness::nlri(prefix.parse()?), &[], &[]))
}

/// Waits until the paths of a prefix have these next hops and no others.
fn await_hops(
    prefix: &str,
    hops: &[&str],
    paths: impl Fn(&str) -> Result<Vec<Details>>,
) -> Result<()> {
    let wanted: BTreeSet<_> = hops.iter().map(|hop| (*hop).to_owned()).collect();
    eventually(format!("{prefix} via {hops:?}"), pace::seconds(10), || {
        let seen: Vec<_> = paths(prefix)?
            .into_iter()
            .map(|path| path.next_hop)
            .collect();
        ensure!(
            seen.len() == hops.len() && wanted == seen.iter().cloned().collect(),
            "via {seen:?}"
        );
        Ok(())
    })
}

impl Stage {
    fn build(kinds: &[Kind], folder: &Path) -> Result<Self> {
        let lan = Netns::create("lan")?;
        let mut ports = Vec::new();
        let mut place = |name: &str, number: u8| -> Result<Netns> {
            let netns = Netns::create_settled(name)?;
            let port = format!("port{number}");
            link::wire(
                &End {
                    netns: &netns,
                    interface: "eth0",
                },
                &End {
                    netns: &lan,
                    interface: &port,
                },
            )?;
            link::addresses(
                &netns,
                "eth0",
                &[
                    format!("10.90.0.{number}/24"),
                    format!("fd90::{number:x}/64"),
                ],
            )?;
            ports.push(port);
            Ok(netns)
        };
        let margay_netns = place("margay", 1)?;
        let witness = place("witness", 9)?;
        let mallory = place("mallory", 10)?;
        let peers = kinds
            .iter()
            .map(|&kind| {
                let netns = place(&number_name(kind), kind.number())?;
                own_link(&margay_netns, &netns, kind.number())?;
                Ok(Foreign::new(kind, netns, folder))
            })
            .collect::<Result<Vec<_>>>()?;
        link::bridge(&lan, "switch", &ports)?;
        let capture = Capture::start(&lan, "switch", "tcp port 179", folder)?;
        Ok(Self {
            margay: None,
            margay_netns,
            witness,
            mallory,
            peers,
            matrix: Matrix::default(),
            folder: folder.to_path_buf(),
            capture,
        })
    }

    fn kinds(&self) -> Vec<Kind> {
        self.peers.iter().map(|peer| peer.kind).collect()
    }

    fn margay(&self) -> Result<&Speaker> {
        self.margay.as_ref().context("no speaker runs")
    }

    /// (Re)starts margay with another plan.
    fn start_margay(&mut self, plan: &Plan, install: bool) -> Result<()> {
        let text = plan.margay(install);
        if let Some(margay) = &mut self.margay {
            margay.stop(Signal::SIGINT)?;
            return margay.run(&text);
        }
        self.margay = Some(Speaker::start(&self.margay_netns, &text, &self.folder)?);
        Ok(())
    }

    /// (Re)starts every peer with another plan, side by side.
    fn start_peers(
        &mut self,
        plan: impl Fn(Kind) -> Result<Plan> + Sync,
        again: bool,
    ) -> Result<()> {
        together(&mut self.peers, |peer| {
            if peer.is_running() {
                peer.kill()?;
            }
            peer.start(&plan(peer.kind)?, again)
        })
        .into_iter()
        .try_for_each(|(kind, result)| result.with_context(|| kind.name()))
    }

    /// Plays one case with every peer side by side and fills its row. A peer for which it does not apply gives `None`.
    fn case(
        &mut self,
        report: &mut Report,
        case: Case,
        play: impl Fn(&Self, &Foreign) -> Result<Option<String>> + Sync,
    ) {
        let stage = &*self;
        let results: BTreeMap<Kind, Result<Option<String>>> = thread::scope(|scope| {
            let threads: Vec<_> = stage
                .peers
                .iter()
                .map(|peer| {
                    let play = &play;
                    (peer.kind, scope.spawn(move || play(stage, peer)))
                })
                .collect();
            threads
                .into_iter()
                .map(|(kind, thread)| (kind, thread.join().unwrap_or_else(|_| bail_panicked())))
                .collect()
        });
        report.check(case.name(), || {
            let mut held = Vec::new();
            let mut failed = Vec::new();
            for (kind, result) in results {
                match result {
                    Ok(Some(seen)) => {
                        held.push(kind.name());
                        self.matrix.fill(case, kind, Ok(seen));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        let text = format!("{error:#}");
                        failed.push(format!("{}: {text}", kind.name()));
                        self.matrix.fill(case, kind, Err(text));
                    }
                }
            }
            ensure!(failed.is_empty(), "{}", failed.join("; "));
            Ok(held.join(", "))
        });
    }

    /// What margay says of a peer.
    fn peer_of_margay(&self, name: &str) -> Result<Value> {
        let answer = self.margay()?.ask(&["peers"])?;
        let list = answer.as_array().context("no list")?;
        list.iter()
            .find(|peer| peer.get("name").and_then(Value::as_str) == Some(name))
            .cloned()
            .with_context(|| format!("no peer {name} in {answer}"))
    }

    fn established_count(&self, name: &str) -> Result<u64> {
        let peer = self.peer_of_margay(name)?;
        peer.get("establishedCount")
            .and_then(Value::as_u64)
            .with_context(|| format!("no count in {peer}"))
    }

    /// One of margay's counts of a peer's messages.
    fn messages(&self, name: &str, what: &str) -> Result<u64> {
        let peer = self.peer_of_margay(name)?;
        peer.pointer(&format!("/messages/{what}"))
            .and_then(Value::as_u64)
            .with_context(|| format!("no {what} in {peer}"))
    }

    fn margay_details(&self, prefix: &str) -> Result<Vec<Details>> {
        Ok(details::of_margay(
            &self.margay()?.ask(&["routes", prefix])?,
        ))
    }
}

fn bail_panicked<T>() -> Result<T> {
    bail!("the case panicked")
}

/// A link between margay and one peer alone, with link-local addresses that are known beforehand.
fn own_link(margay: &Netns, peer: &Netns, number: u8) -> Result<()> {
    let near = link_of(number);
    link::wire(
        &End {
            netns: margay,
            interface: &near,
        },
        &End {
            netns: peer,
            interface: LINK,
        },
    )?;
    for (netns, interface, address) in [
        (margay, near.as_str(), LINK_LOCAL.to_owned()),
        (peer, LINK, format!("fe80::{number}")),
    ] {
        netns.ip(&format!("link set {interface} addrgenmode none"))?;
        netns.ip(&format!("-6 address flush dev {interface}"))?;
        link::addresses(netns, interface, &[format!("{address}/64")])?;
    }
    Ok(())
}

/// The interface to one peer alone.
fn link_of(number: u8) -> String {
    format!("to{number}")
}

/// Does something with every peer side by side.
fn together<T: Send>(
    peers: &mut [Foreign],
    play: impl Fn(&mut Foreign) -> Result<T> + Sync,
) -> Vec<(Kind, Result<T>)> {
    thread::scope(|scope| {
        let threads: Vec<_> = peers
            .iter_mut()
            .map(|peer| {
                let play = &play;
                (peer.kind, scope.spawn(move || play(peer)))
            })
            .collect();
        threads
            .into_iter()
            .map(|(kind, thread)| (kind, thread.join().unwrap_or_else(|_| bail_panicked())))
            .collect()
    })
}

fn await_up(peer: &Foreign, remote: &str) -> Result<Option<String>> {
    let remote = ip(remote)?;
    let start = Instant::now();
    eventually(
        format!("a session with {remote}"),
        pace::seconds(SESSION_LIMIT),
        || match peer.established(remote)? {
            true => Ok(()),
            false => bail!("not Established"),
        },
    )?;
    Ok(Some(format!("{:.1} s", start.elapsed().as_secs_f64())))
}

/// Waits until the peer holds a prefix with a path as wanted.
fn await_path(peer: &Foreign, prefix: &str, wanted: &Wanted) -> Result<()> {
    eventually(prefix, pace::seconds(10), || {
        wanted.check_one(&peer.details(prefix)?)
    })
}

fn await_held(peer: &Foreign, prefix: &str) -> Result<()> {
    eventually(format!("{prefix} is held"), pace::seconds(10), || {
        ensure!(!peer.details(prefix)?.is_empty(), "it is not");
        Ok(())
    })
}

fn await_not_held(peer: &Foreign, prefix: &str) -> Result<()> {
    eventually(format!("{prefix} is gone"), pace::seconds(10), || {
        let paths = peer.details(prefix)?;
        ensure!(paths.is_empty(), "{paths:?}");
        Ok(())
    })
}

fn done(text: &str) -> Result<Option<String>> {
    Ok(Some(text.to_owned()))
}

/// Whether a killed and restarted daemon says that it went on forwarding.
fn expects_retention(kind: Kind) -> bool {
    kind != Kind::OpenBgpd
}

fn number_name(kind: Kind) -> String {
    kind.name().to_lowercase().replace([' ', '.'], "")
}

fn external_asn(kind: Kind) -> u32 {
    64600 + u32::from(kind.number())
}

/// What the witness and mallory both announce to a peer as its clients.
fn shared_prefix(kind: Kind) -> String {
    format!("10.94.{}.0/24", 100 + kind.number())
}

/// What the witness announces to a peer as its client.
fn clients_prefix(kind: Kind) -> String {
    format!("10.94.{}.0/24", kind.number())
}

fn identity(asn: u32, peer_asn: u32, number: u8) -> Identity {
    Identity {
        asn,
        peer_asn,
        router_id: Ipv4Addr::new(10, 90, 0, number),
        hold_time: HOLD_TIME,
        families: &[4, 6],
    }
}

fn session(name: &str, remote: &str, asn: u32, families: &[u8]) -> Result<Session> {
    Ok(Session {
        name: name.to_owned(),
        remote: ip(remote)?,
        asn,
        families: families.to_vec(),
        passive: false,
        client: false,
        password: None,
        gtsm: false,
        add_path: false,
        interface: None,
    })
}

/// A route of margay's own as its neighbours should see it.
fn own(next_hop: &str, med: u32, local_pref: Option<u32>) -> Wanted {
    Wanted {
        as_path: vec![MARGAY_ASN],
        next_hop: next_hop.to_owned(),
        med: Some(med),
        local_pref,
        tag: MARGAY_ASN,
        originator: None,
        cluster_list: Vec::new(),
        atomic_aggregate: false,
        aggregator: None,
    }
}

/// A peer's own route over iBGP.
fn internal(kind: Kind, next_hop: &str) -> Wanted {
    Wanted {
        as_path: Vec::new(),
        next_hop: next_hop.to_owned(),
        med: Some(30),
        local_pref: Some(140),
        tag: external_asn(kind),
        originator: None,
        cluster_list: Vec::new(),
        atomic_aggregate: false,
        aggregator: None,
    }
}

fn margay_plan(sessions: Vec<Session>, routes: &[&str]) -> Plan {
    Plan {
        asn: MARGAY_ASN,
        router_id: MARGAY.to_owned(),
        ipv6: MARGAY6.to_owned(),
        sessions,
        routes: routes
            .iter()
            .map(|prefix| originated(prefix, MARGAY_ASN, 50, 150))
            .collect(),
        refused: None,
    }
}

fn peer_plan(kind: Kind, asn: u32, sessions: Vec<Session>, routes: usize) -> Plan {
    Plan {
        asn,
        router_id: v4(kind),
        ipv6: v6(kind),
        sessions,
        routes: routes_of(kind)
            .iter()
            .take(routes)
            .map(|prefix| originated(prefix, external_asn(kind), 30, 140))
            .collect(),
        refused: None,
    }
}

fn external_plan(kind: Kind, all_routes: bool, refusing: bool) -> Result<Plan> {
    let mut sessions = vec![
        session("m4", MARGAY, MARGAY_ASN, &[4])?,
        session("m6", MARGAY6, MARGAY_ASN, &[6])?,
    ];
    for session in &mut sessions {
        session.gtsm = true;
        session.password = session.remote.is_ipv6().then(|| password(kind));
    }
    let mut plan = peer_plan(
        kind,
        external_asn(kind),
        sessions,
        if all_routes { 4 } else { 2 },
    );
    if names_aggregator(kind) {
        let routes = aggregates_of(kind);
        let own = |prefix: &String| originated(prefix, external_asn(kind), 30, 140);
        plan.routes.extend(routes.iter().map(own).map(aggregated));
    }
    plan.refused = refusing.then(|| REFUSED.to_owned());
    Ok(plan)
}

/// Both families on one session, where a process can: suffix of its name, remote, families.
fn both_on_one(kind: Kind) -> Vec<(&'static str, String, Vec<u8>)> {
    if kind == Kind::Bird1 {
        vec![("v4", v4(kind), vec![4]), ("v6", v6(kind), vec![6])]
    } else {
        vec![("v4", v4(kind), vec![4, 6])]
    }
}

fn password(kind: Kind) -> String {
    format!("secret-{}", kind.number())
}

/// OpenBGPD 7.7 on Linux sets its key where it dials and on no socket that listens.
fn waits_with_password(kind: Kind) -> bool {
    kind != Kind::OpenBgpd
}

fn internal_waiting_plan(kind: Kind) -> Result<Plan> {
    let mut sessions = Vec::new();
    for (suffix, _, families) in both_on_one(kind) {
        let (name, remote) = if suffix == "v4" {
            ("m4", MARGAY)
        } else {
            ("m6", MARGAY6)
        };
        let mut session = session(name, remote, MARGAY_ASN, &families)?;
        session.passive = true;
        session.password = waits_with_password(kind).then(|| password(kind));
        session.add_path = true;
        sessions.push(session);
    }
    Ok(peer_plan(kind, MARGAY_ASN, sessions, 2))
}

fn reflector_plan(kind: Kind, all_routes: bool, passive: bool) -> Result<Plan> {
    let mut sessions = vec![
        session("m4", MARGAY, MARGAY_ASN, &[4])?,
        session("m6", MARGAY6, MARGAY_ASN, &[6])?,
        session("w4", WITNESS, MARGAY_ASN, &[4])?,
        session("w6", WITNESS6, MARGAY_ASN, &[6])?,
        session("x4", MALLORY, MARGAY_ASN, &[4])?,
    ];
    for session in &mut sessions {
        let with_margay = session.name.starts_with('m');
        session.client = true;
        session.add_path = with_margay;
        session.passive = passive || !with_margay;
    }
    Ok(peer_plan(
        kind,
        MARGAY_ASN,
        sessions,
        if all_routes { 4 } else { 2 },
    ))
}
