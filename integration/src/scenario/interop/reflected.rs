//! Act 3: internal sessions dialled from both ends, the peers reflect, best routes go to margay's kernel, and everybody is
//! killed in turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use margay_bgp::codec::AttributeCode;
use serde_json::Value;

use super::foreign::{Foreign, Kind};
use super::matrix::Case;
use super::plan::{self, Plan};
use super::{
    DROPPED, DROPPED6, KEPT, KEPT6, MALLORY, MARGAY, MARGAY_ASN, MARGAY6, Stage, UNKNOWN, WITNESS,
    WITNESS_ASN, Wanted, announcements, await_hops, await_up, clients_prefix, done,
    expects_retention, identity, ip, margay_plan, number_name, own, reflector_plan, routes_of,
    session, shared, shared_prefix, told, v4, v6, withdrawal,
};
use crate::eventually::{eventually, idle, throughout};
use crate::exec;
use crate::link::{self, KernelRoute};
use crate::netns::Netns;
use crate::pace;
use crate::report::Report;
use crate::router::details;
use crate::witness::{Identity, Witness};

/// How often two connections are made to collide.
const COLLISIONS: usize = 2;

impl Stage {
    pub(super) fn reflected(&mut self, report: &mut Report) -> Result<()> {
        let mut sessions = Vec::new();
        let mut witness_session = session("witness", WITNESS, WITNESS_ASN, &[4, 6])?;
        witness_session.passive = true;
        sessions.push(witness_session);
        for kind in self.kinds() {
            let name = number_name(kind);
            for (suffix, remote, family) in [("v4", v4(kind), 4), ("v6", v6(kind), 6)] {
                let name = format!("{name}{suffix}");
                let mut session = session(&name, &remote, MARGAY_ASN, &[family])?;
                session.add_path = true;
                sessions.push(session);
            }
        }
        let margay = margay_plan(sessions.clone(), &[KEPT, KEPT6, DROPPED, DROPPED6]);
        let fewer = margay_plan(sessions, &[KEPT, KEPT6]);
        self.start_margay(&margay, true)?;
        self.start_peers(|kind| reflector_plan(kind, true, false), false)?;
        let outside = Witness::dial(
            &self.witness,
            ip(MARGAY)?,
            identity(WITNESS_ASN, MARGAY_ASN, 9),
            &[],
        )?;
        let mut insides = self.clients()?;

        self.case(report, Case::BothDial, |stage, peer| {
            await_up(peer, MARGAY)?;
            await_up(peer, MARGAY6)?;
            stage.collide(peer)
        });
        self.case(report, Case::PeerReflectsTo, |stage, peer| {
            let prefix = clients_prefix(peer.kind);
            let wanted = Wanted {
                as_path: vec![65010, 4_200_000_001],
                next_hop: WITNESS.to_owned(),
                med: Some(77),
                local_pref: Some(170),
                tag: WITNESS_ASN,
                originator: Some(WITNESS.to_owned()),
                cluster_list: vec![v4(peer.kind)],
                atomic_aggregate: false,
                aggregator: None,
            };
            eventually(&prefix, pace::seconds(10), || {
                wanted.check_one(&stage.margay_details(&prefix)?)
            })?;
            // Outside the AS nothing of the reflection shows.
            let route = outside.await_route(&prefix, |_| Ok(()))?;
            let seen = told(&route);
            ensure!(
                seen.originator.is_none()
                    && seen.cluster_list.is_empty()
                    && seen.local_pref.is_none()
                    && seen.med.is_none()
                    && seen.atomic_aggregate
                    && seen.aggregator.is_some()
                    && seen.as_path == [MARGAY_ASN, 65010, 4_200_000_001],
                "{seen:?}"
            );
            done("originator and cluster inside, neither outside")
        });
        self.case(report, Case::UnknownAttribute, |stage, peer| {
            // From the witness to the peer, from there to margay, from there outside.
            let paths = stage.margay_details(&clients_prefix(peer.kind))?;
            let wanted = details::unknown(u64::from(UNKNOWN.0), &UNKNOWN.1);
            ensure!(
                !paths.is_empty() && paths.iter().all(|path| path.unknown.iter().eq([&wanted])),
                "at margay: {paths:?}"
            );
            let route = outside.await_route(&clients_prefix(peer.kind), |_| Ok(()))?;
            let unknown = &route.attributes.unknown;
            ensure!(
                matches!(unknown.as_slice(), [one] if one.code == AttributeCode(UNKNOWN.0)
                    && *one.value == UNKNOWN.1
                    && one.flags.bits() & 0xe0 == 0xe0),
                "{unknown:?}"
            );
            done("passed on unchanged, and marked partial")
        });
        self.case(report, Case::PeerReflectsFrom, |_, peer| {
            let clients = insides.get(&peer.kind).context("no witness")?;
            for (witness, prefix, hop) in
                [(&clients.v4, KEPT, MARGAY), (&clients.v6, KEPT6, MARGAY6)]
            {
                let mut wanted = own(hop, 50, Some(150));
                wanted.as_path = Vec::new();
                wanted.originator = Some(MARGAY.to_owned());
                wanted.cluster_list = vec![v4(peer.kind)];
                witness.await_route(prefix, |route| wanted.check(&told(route)))?;
            }
            done("unchanged, with originator and cluster")
        });
        self.case(report, Case::AddPathFrom, |stage, peer| {
            let clients = insides.get(&peer.kind).context("no witness")?;
            let twice = shared_prefix(peer.kind);
            let paths = |prefix: &str| stage.margay_details(prefix);
            await_hops(&twice, &[WITNESS, MALLORY], paths)?;
            clients.second.say(&withdrawal(&twice)?)?;
            await_hops(&twice, &[WITNESS], paths)?;
            done("two paths, then the one that is left")
        });
        self.case(report, Case::Kernel, |stage, peer| {
            let [kept, kept6, ..] = routes_of(peer.kind);
            eventually("routes of protocol 109", pace::seconds(10), || {
                for (prefix, hop) in [
                    (kept.clone(), v4(peer.kind)),
                    (kept6.clone(), v6(peer.kind)),
                    (clients_prefix(peer.kind), WITNESS.to_owned()),
                ] {
                    stage.in_kernel(&prefix, &hop)?;
                }
                anyhow::Ok(())
            })?;
            done("both families")
        });

        self.peers_restart(report, &outside, &mut insides)?;
        self.margay_restarts(report, &fewer, outside, &insides)
    }

    /// The witness as a client of each peer, over either protocol, and mallory as another one.
    fn clients(&self) -> Result<BTreeMap<Kind, Clients>> {
        let client = |netns, remote: &str, families, number, first: &[Vec<u8>]| {
            let who = Identity {
                families,
                ..identity(MARGAY_ASN, MARGAY_ASN, number)
            };
            Witness::dial(netns, ip(remote)?, who, first)
        };
        self.kinds()
            .into_iter()
            .map(|kind| {
                let name = || kind.name();
                let prefix = clients_prefix(kind);
                let twice = shared_prefix(kind);
                let mut first = announcements(&[&prefix], &[65010, 4_200_000_001], true)?;
                first.push(shared(&twice, WITNESS)?);
                let v4 = v4(kind);
                let clients = Clients {
                    v4: client(&self.witness, &v4, &[4], 9, &first).with_context(name)?,
                    v6: client(&self.witness, &v6(kind), &[6], 19, &[]).with_context(name)?,
                    second: client(&self.mallory, &v4, &[4], 10, &[shared(&twice, MALLORY)?])
                        .with_context(name)?,
                };
                Ok((kind, clients))
            })
            .collect()
    }

    pub(super) fn in_kernel(&self, prefix: &str, hop: &str) -> Result<()> {
        let routes = link::routes(&self.margay_netns, plan::family_of(prefix))?;
        let found = routes
            .iter()
            .find(|route| route.prefix == prefix && route.protocol == "109")
            .with_context(|| format!("no {prefix} in the kernel"))?;
        ensure!(found.goes_via(hop), "{found} is not via {hop}");
        Ok(())
    }

    /// Nothing of a peer's is kept from an ended session.
    pub(super) fn fresh(&self, name: &str) -> Result<()> {
        let seen = self.peer_of_margay(name)?;
        let retention = seen.pointer("/families/0/retention");
        ensure!(
            retention.and_then(Value::as_str) == Some("none"),
            "{name}: {retention:?}"
        );
        Ok(())
    }

    fn in_kernel_all(&self, kind: Kind) -> Result<()> {
        let [kept, kept6, dropped, _] = routes_of(kind);
        self.in_kernel(&kept, &v4(kind))?;
        self.in_kernel(&kept6, &v6(kind))?;
        self.in_kernel(&dropped, &v4(kind))
    }

    /// Holds every OPEN back until each end has a connection of its own to the other, then lets them through: of two connections one
    /// must stay, whichever end judges first. GoBGP and OpenBGPD drop their own when they are called, so that nothing collides.
    fn collide(&self, peer: &Foreign) -> Result<Option<String>> {
        let (name, address) = (format!("{}v4", number_name(peer.kind)), v4(peer.kind));
        let two = matches!(
            peer.kind,
            Kind::Bird2 | Kind::Bird3 | Kind::Bird1 | Kind::Frr
        );
        let table = format!("hold{}", peer.kind.number());
        let nft = |words: &str| exec::check(self.margay_netns.command("nft").arg(words)).map(drop);
        let connections = || -> Result<usize> {
            let mut ss = self.margay_netns.command("ss");
            let list = exec::check(ss.args(["-Htn", "state", "established", "dst", &address]))?;
            Ok(list.lines().filter(|line| line.contains(":179")).count())
        };
        let rounds = if two { COLLISIONS } else { 1 };
        for round in 0..rounds {
            self.margay()?.tell(&["peers", "clear", &name])?;
            // Payload is pushed; handshakes are not.
            let drops = |hook: &str, end: &str| {
                format!(
                    "add chain ip {table} {hook} {{ type filter hook {hook} priority 0; }}; \
                     add rule ip {table} {hook} ip {end} {address} tcp flags & psh == psh drop; "
                )
            };
            nft(&format!(
                "add table ip {table}; {}{}",
                drops("input", "saddr"),
                drops("output", "daddr")
            ))?;
            let collided = eventually("two connections", pace::seconds(8), || {
                let count = connections()?;
                ensure!(count > usize::from(two), "{count}");
                anyhow::Ok(())
            });
            nft(&format!("delete table ip {table}"))?;
            collided.with_context(|| format!("round {round}"))?;
            await_up(peer, MARGAY)?;
            let stands = || -> Result<u64> {
                let count = connections()?;
                ensure!(count == 1, "{count} connections");
                ensure!(peer.established(ip(MARGAY)?)?, "no session");
                self.established_count(&name)
            };
            let count = eventually("one connection is left", pace::seconds(15), stands)?;
            throughout(Duration::from_secs(1), || {
                ensure!(stands()? == count, "it is not the same session any more");
                Ok(())
            })?;
        }
        done(&match two {
            true => format!("{rounds} times two connections, one left"),
            false => "one connection from the start".to_owned(),
        })
    }

    fn peers_restart(
        &mut self,
        report: &mut Report,
        outside: &Witness,
        insides: &mut BTreeMap<Kind, Clients>,
    ) -> Result<()> {
        let killed = Instant::now();
        for peer in &mut self.peers {
            peer.kill()?;
        }
        insides.clear();
        // The absence is long enough for every session's end to be noticed.
        let mut lost: BTreeMap<Kind, String> = BTreeMap::new();
        throughout(Duration::from_secs(2), || {
            for kind in self
                .kinds()
                .into_iter()
                .filter(|kind| expects_retention(*kind))
            {
                if let Err(error) = self.in_kernel_all(kind) {
                    lost.entry(kind).or_insert_with(|| format!("{error:#}"));
                }
            }
            Ok(())
        })?;
        // From here on margay alone dials. Where two connections collide and one side is Established before the other
        // has judged, both may be closed; then nobody's restart is graceful, whoever restarts.
        self.start_peers(|kind| reflector_plan(kind, false, true), true)?;
        *insides = self.clients()?;
        self.case(report, Case::PeerRestarts, |stage, peer| {
            let [kept, kept6, dropped, dropped6] = routes_of(peer.kind);
            await_up(peer, MARGAY)?;
            await_up(peer, MARGAY6)?;
            if !expects_retention(peer.kind) {
                for prefix in [&kept, &kept6] {
                    outside.await_renewed(prefix, killed)?;
                }
                for prefix in [&dropped, &dropped6] {
                    outside.await_gone(prefix, pace::seconds(25))?;
                }
                return done("left; what it announced again came back");
            }
            if let Some(error) = lost.get(&peer.kind) {
                bail!("while it was away: {error}");
            }
            for prefix in [&dropped, &dropped6] {
                outside.await_gone(prefix, pace::seconds(25))?;
            }
            for prefix in [&kept, &kept6] {
                outside.route(prefix)?;
                ensure!(
                    !outside.withdrawn_since(prefix, killed)?,
                    "{prefix} was withdrawn in between"
                );
            }
            stage.in_kernel(&kept, &v4(peer.kind))?;
            stage.in_kernel(&kept6, &v6(peer.kind))?;
            for suffix in ["v4", "v6"] {
                let name = format!("{}{suffix}", number_name(peer.kind));
                stage.fresh(&name)?;
            }
            done("kept, refreshed, the rest removed after End-of-RIB")
        });
        Ok(())
    }

    fn margay_restarts(
        &mut self,
        report: &mut Report,
        fewer: &Plan,
        outside: Witness,
        insides: &BTreeMap<Kind, Clients>,
    ) -> Result<()> {
        for kind in self.kinds() {
            let clients = insides.get(&kind).context("no witness")?;
            for (witness, prefix) in clients.told([KEPT, DROPPED], [KEPT6, DROPPED6]) {
                witness
                    .await_route(prefix, |_| Ok(()))
                    .with_context(|| kind.name())?;
            }
        }
        let before = eventually(
            "nothing in the kernel on its way out",
            pace::seconds(10),
            || {
                let routes = self.own_kernel_routes()?;
                let leaving = self.kinds().into_iter().flat_map(|kind| {
                    let [_, _, dropped, dropped6] = routes_of(kind);
                    [dropped, dropped6]
                });
                for prefix in leaving {
                    ensure!(
                        routes.iter().all(|route| route.prefix != prefix),
                        "{prefix} is there"
                    );
                }
                Ok(routes)
            },
        )?;
        let watch = KernelWatch::start(&self.margay_netns, before.clone());
        let killed = Instant::now();
        self.margay.as_mut().context("no speaker")?.kill()?;
        drop(outside);
        idle(Duration::from_secs(1));
        self.margay
            .as_mut()
            .context("no speaker")?
            .run(&fewer.margay(true))?;
        let _outside = Witness::dial(
            &self.witness,
            ip(MARGAY)?,
            identity(WITNESS_ASN, MARGAY_ASN, 9),
            &[],
        )?;
        self.case(report, Case::MargayRestarts, |_, peer| {
            await_up(peer, MARGAY)?;
            await_up(peer, MARGAY6)?;
            let clients = insides.get(&peer.kind).context("no witness")?;
            for (witness, prefix) in clients.told([DROPPED], [DROPPED6]) {
                witness.await_gone(prefix, pace::seconds(25))?;
            }
            for (witness, prefix) in clients.told([KEPT], [KEPT6]) {
                witness.route(prefix)?;
                ensure!(
                    !witness.withdrawn_since(prefix, killed)?,
                    "{prefix} was withdrawn in between"
                );
                let end = witness.end();
                ensure!(end.is_none(), "the witness's session ended: {end:?}");
            }
            done("kept, refreshed, the rest removed after End-of-RIB")
        });
        report.check("no kernel route of margay's was away meanwhile", || {
            let looks = watch.stop()?;
            let after = eventually("the same routes as before", pace::seconds(20), || {
                let after = self.own_kernel_routes()?;
                ensure!(before == after, "{before:?}, then {after:?}");
                Ok::<_, anyhow::Error>(after)
            })?;
            Ok(format!("{} routes, looked at {looks} times", after.len()))
        });
        Ok(())
    }

    fn own_kernel_routes(&self) -> Result<Vec<KernelRoute>> {
        own_kernel_routes(&self.margay_netns)
    }
}

/// Clients of one peer.
struct Clients {
    v4: Witness,
    v6: Witness,
    second: Witness,
}

impl Clients {
    /// Who is told which prefix.
    fn told<'a, const N: usize>(
        &self,
        v4: [&'a str; N],
        v6: [&'a str; N],
    ) -> impl Iterator<Item = (&Witness, &'a str)> {
        let over_v4 = v4.into_iter().map(|prefix| (&self.v4, prefix));
        over_v4.chain(v6.into_iter().map(|prefix| (&self.v6, prefix)))
    }
}

fn own_kernel_routes(netns: &Netns) -> Result<Vec<KernelRoute>> {
    let mut all = link::routes(netns, 4)?;
    all.extend(link::routes(netns, 6)?);
    all.retain(|route| route.protocol == "109");
    Ok(all)
}

/// Looks at the kernel again and again while something else happens.
struct KernelWatch {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<u32>>,
}

impl KernelWatch {
    fn start(netns: &Netns, wanted: Vec<KernelRoute>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (stop, netns) = (Arc::clone(&stop), netns.clone());
            move || {
                let mut looks = 0;
                while !stop.load(Ordering::Relaxed) {
                    let routes = own_kernel_routes(&netns)?;
                    for route in &wanted {
                        ensure!(routes.contains(route), "{route} was away");
                    }
                    looks += 1;
                    idle(Duration::from_millis(25));
                }
                Ok(looks)
            }
        });
        Self { stop, thread }
    }

    /// How often it looked.
    fn stop(self) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the watching thread died"))?
    }
}
