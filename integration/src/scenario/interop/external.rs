//! Act 1: external sessions, one for each family, while margay waits to be dialled.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use super::foreign::Kind;
use super::matrix::Case;
use super::plan::{self, Plan};
use super::{
    AGGREGATE, AGGREGATE6, DROPPED, DROPPED6, KEPT, KEPT6, MALLORY_ASN, MALLORY6, MARGAY,
    MARGAY_ASN, MARGAY6, REFUSED, SEEN, SEEN6, Stage, UNKNOWN, WITNESS, WITNESS_ASN, Wanted,
    aggregated, aggregates_of, announcements, await_held, await_not_held, await_path, await_up,
    done, expects_retention, external_asn, external_plan, identity, internal, ip, margay_plan,
    names_aggregator, number_name, originated, own, password, routes_of, session, told, v4, v6,
};
use crate::eventually::eventually;
use crate::pace;
use crate::report::Report;
use crate::router::{Details, details};
use crate::witness::{self, Event, Witness, announcement, attribute};

impl Stage {
    fn external_margay(&self, routes: &[&str]) -> Result<Plan> {
        let mut sessions = vec![
            session("witness", WITNESS, WITNESS_ASN, &[4, 6])?,
            session("mallory", "10.90.0.10", MALLORY_ASN, &[4, 6])?,
        ];
        for kind in self.kinds() {
            let (name, asn) = (number_name(kind), external_asn(kind));
            for (suffix, remote, family) in [("v4", v4(kind), 4), ("v6", v6(kind), 6)] {
                let name = format!("{name}{suffix}");
                let mut session = session(&name, &remote, asn, &[family])?;
                session.gtsm = true;
                session.password = (family == 6).then(|| password(kind));
                sessions.push(session);
            }
        }
        let mut far = session("far", MALLORY6, MALLORY_ASN, &[6])?;
        far.gtsm = true;
        sessions.push(far);
        for session in &mut sessions {
            session.passive = true;
        }
        let mut plan = margay_plan(sessions, routes);
        let own = |prefix| aggregated(originated(prefix, MARGAY_ASN, 50, 150));
        plan.routes.extend([AGGREGATE, AGGREGATE6].map(own));
        Ok(plan)
    }

    pub(super) fn external(&mut self, report: &mut Report) -> Result<()> {
        let all = [KEPT, KEPT6, DROPPED, DROPPED6, REFUSED];
        self.start_margay(&self.external_margay(&all)?, false)?;
        let witness = Witness::dial(
            &self.witness,
            ip(MARGAY)?,
            identity(WITNESS_ASN, MARGAY_ASN, 9),
            &announcements(&[SEEN, SEEN6], &[WITNESS_ASN, 65010, 4_200_000_001], false)?,
        )?;
        self.start_peers(|kind| external_plan(kind, true, true), false)?;
        // One that is not next to margay, as far as its TTL tells.
        let far = thread::spawn({
            let netns = self.mallory.clone();
            move || {
                let who = identity(MALLORY_ASN, MARGAY_ASN, 11);
                Witness::attempt(&netns, ip(MARGAY6)?, who).map(drop)
            }
        });

        self.case(report, Case::MargayPassive, |_, peer| {
            await_up(peer, MARGAY)
        });
        self.case(report, Case::Ipv6, |_, peer| await_up(peer, MARGAY6));
        // What it says before margay has taken its call is still read: its OPEN may be answered, its KEEPALIVE is not heard.
        let _ = far.join();
        let distant = self.established_count("far")?;
        let near = eventually("a session at 255", pace::seconds(15), || {
            let who = identity(MALLORY_ASN, MARGAY_ASN, 11);
            Witness::attempt_from(&self.mallory, ip(MARGAY6)?, who, Some(255))
        });
        self.case(report, Case::Gtsm, |stage, peer| {
            ensure!(peer.established(ip(MARGAY)?)?, "down over IPv4");
            ensure!(peer.established(ip(MARGAY6)?)?, "down over IPv6");
            ensure!(distant == 0, "a session with one whose TTL is 64");
            if let Err(error) = &near {
                bail!("the same one with a TTL of 255: {error:#}");
            }
            ensure!(stage.established_count("far")? == 1, "no session at 255");
            done("up at 255 in both families, a stranger at 255 as well and not at 64")
        });
        drop(near);
        self.case(report, Case::PasswordCalled, |_, peer| {
            ensure!(peer.established(ip(MARGAY6)?)?, "down with the password");
            done("up with it")
        });
        self.case(report, Case::AnnounceTo, |_, peer| {
            await_held(peer, KEPT)?;
            await_held(peer, KEPT6)?;
            done("both families")
        });
        self.case(report, Case::Ipv4, |stage, peer| {
            let [kept, ..] = routes_of(peer.kind);
            await_held(peer, KEPT)?;
            eventually(&kept, pace::seconds(10), || {
                ensure!(!stage.margay_details(&kept)?.is_empty(), "margay has none");
                anyhow::Ok(())
            })?;
            done("both ways")
        });
        self.case(report, Case::ExternalTo, |_, peer| {
            for (prefix, hop) in [(KEPT, MARGAY), (KEPT6, MARGAY6)] {
                await_path(peer, prefix, &own(hop, 50, None))?;
            }
            for (prefix, hop) in [(SEEN, MARGAY), (SEEN6, MARGAY6)] {
                let wanted = Wanted {
                    as_path: vec![MARGAY_ASN, WITNESS_ASN, 65010, 4_200_000_001],
                    next_hop: hop.to_owned(),
                    med: None,
                    local_pref: None,
                    tag: WITNESS_ASN,
                    originator: None,
                    cluster_list: Vec::new(),
                    atomic_aggregate: false,
                    aggregator: None,
                };
                await_path(peer, prefix, &wanted)?;
            }
            done("own and passed on")
        });
        self.case(report, Case::AnnounceFrom, |_, peer| {
            for prefix in routes_of(peer.kind) {
                witness.await_route(&prefix, |_| Ok(()))?;
            }
            done("four prefixes")
        });
        self.case(report, Case::ExternalFrom, |stage, peer| {
            let asn = external_asn(peer.kind);
            let [kept, kept6, ..] = routes_of(peer.kind);
            for (prefix, hop) in [(kept, v4(peer.kind)), (kept6, v6(peer.kind))] {
                let mut wanted = Wanted {
                    as_path: vec![asn],
                    next_hop: hop,
                    med: Some(30),
                    local_pref: None,
                    tag: asn,
                    originator: None,
                    cluster_list: Vec::new(),
                    atomic_aggregate: false,
                    aggregator: None,
                };
                wanted.check_one(&stage.margay_details(&prefix)?)?;
                let route = witness.await_route(&prefix, |_| Ok(()))?;
                wanted.as_path = vec![MARGAY_ASN, asn];
                wanted.med = None;
                wanted.next_hop = match plan::family_of(&prefix) {
                    4 => MARGAY.to_owned(),
                    _ => MARGAY6.to_owned(),
                };
                let passed_on = told(&route);
                wanted.check(&passed_on)?;
                ensure!(passed_on.local_pref.is_none(), "{passed_on:?}");
            }
            done("as sent, and passed on")
        });
        self.case(report, Case::Communities, |stage, peer| {
            // Told by a third party, as the peer prints them; told by the peer, as margay does and as a third party reads them.
            let kinds = |path: &Details| {
                [
                    path.communities.clone(),
                    path.route_targets.clone(),
                    path.large_communities.clone(),
                ]
            };
            let wanted = |tag: u32| {
                [
                    format!("{tag}:100"),
                    format!("rt:{tag}:100"),
                    format!("{tag}:1:2"),
                ]
                .map(|text| BTreeSet::from([text]))
            };
            for prefix in [SEEN, SEEN6] {
                let paths = peer.details(prefix)?;
                let seen: Vec<_> = paths.iter().map(kinds).collect();
                ensure!(seen.contains(&wanted(WITNESS_ASN)), "{prefix}: {seen:?}");
            }
            let [kept, kept6, ..] = routes_of(peer.kind);
            for prefix in [kept, kept6] {
                let wanted = wanted(external_asn(peer.kind));
                let paths = stage.margay_details(&prefix)?;
                let seen: Vec<_> = paths.iter().map(kinds).collect();
                ensure!(seen.contains(&wanted), "{prefix} at margay: {seen:?}");
                let route = told(&witness.route(&prefix)?);
                ensure!(kinds(&route) == wanted, "{prefix} passed on: {route:?}");
            }
            done("all three, both ways and passed on")
        });
        self.aggregates(report, &witness);
        self.case(report, Case::Refresh, |stage, peer| {
            if peer.kind == Kind::GoBgp {
                return Ok(None);
            }
            let name = format!("{}v4", number_name(peer.kind));
            await_not_held(peer, REFUSED)?;
            let asked = stage.messages(&name, "refreshesReceived")?;
            let said = stage.messages(&name, "octetsSent")?;
            peer.change(
                &external_plan(peer.kind, true, true)?,
                &external_plan(peer.kind, true, false)?,
            )?;
            await_held(peer, REFUSED)?;
            // Who keeps what it refused could have had it without asking.
            eventually("a request and its answer", pace::seconds(15), || {
                let now = stage.messages(&name, "refreshesReceived")?;
                ensure!(now > asked, "{now} requests, as before");
                let now = stage.messages(&name, "octetsSent")?;
                ensure!(now > said, "{now} octets of UPDATEs, as before");
                anyhow::Ok(())
            })?;
            done("asked, answered, accepted on second thought")
        });
        self.case(report, Case::EnhancedRefresh, |stage, peer| {
            if peer.kind == Kind::GoBgp {
                return Ok(None);
            }
            eventually("begin and end", pace::seconds(15), || {
                let marks = stage.capture.refreshes(ip(MARGAY)?, ip(&v4(peer.kind))?)?;
                ensure!(
                    !marks.is_empty() && marks.chunks(2).all(|pair| pair == [1, 2]),
                    "on the wire: {marks:?}"
                );
                let count = peer.refreshes(ip(MARGAY)?)?;
                ensure!(count >= 2, "it counts {count} messages");
                Ok(())
            })?;
            ensure!(!peer.details(KEPT)?.is_empty(), "{KEPT} went with it");
            done("begin and end, and nothing lost")
        });
        self.case(report, Case::RefreshFrom, |stage, peer| {
            let [kept, ..] = routes_of(peer.kind);
            let asked = Instant::now();
            let before = peer.refreshes(ip(MARGAY)?)?;
            let name = format!("{}v4", number_name(peer.kind));
            let margay = stage.margay()?;
            let told = stage.messages(&name, "announcementsReceived")?;
            let marks = || stage.capture.refreshes(ip(&v4(peer.kind))?, ip(MARGAY)?);
            let marked = marks()?.len();
            margay.tell(&["peers", "clear", &name, "--soft-in"])?;
            eventually("the question and its answer", pace::seconds(15), || {
                let count = peer.refreshes(ip(MARGAY)?)?;
                ensure!(count > before, "{count} ROUTE-REFRESH messages");
                if peer.kind == Kind::OpenBgpd {
                    let why = "route refresh: AID IPv4 unicast not negotiated";
                    ensure!(peer.logged(why), "it says nothing of the request");
                    return Ok(());
                }
                let now = stage.messages(&name, "announcementsReceived")?;
                ensure!(now >= told + 2, "{told} announcements, then {now}");
                if peer.kind != Kind::GoBgp {
                    let all = marks()?;
                    let new = all.get(marked..).unwrap_or_default();
                    ensure!(new == [1, 2], "marks on the wire: {new:?}");
                }
                anyhow::Ok(())
            })?;
            ensure!(!stage.margay_details(&kept)?.is_empty(), "{kept} went");
            ensure!(
                !witness.withdrawn_since(&kept, asked)?,
                "{kept} was withdrawn"
            );
            done("asked, all told again, and nothing lost")
        });
        self.malformed(report)?;
        self.peers_restart_dialling(report, &witness)?;

        let left = self.external_margay(&[KEPT, KEPT6, REFUSED])?;
        self.margay()?.reload(&left.margay(false))?;
        self.case(report, Case::WithdrawTo, |_, peer| {
            await_not_held(peer, DROPPED)?;
            await_not_held(peer, DROPPED6)?;
            ensure!(!peer.details(KEPT)?.is_empty(), "{KEPT} went too");
            ensure!(!peer.details(KEPT6)?.is_empty(), "{KEPT6} went too");
            done("both families")
        });
        self.case(report, Case::WithdrawFrom, |_, peer| {
            let refused = peer.kind == Kind::GoBgp;
            peer.change(
                &external_plan(peer.kind, true, refused)?,
                &external_plan(peer.kind, false, refused)?,
            )?;
            let [kept, kept6, dropped, dropped6] = routes_of(peer.kind);
            for prefix in [dropped, dropped6] {
                witness.await_gone(&prefix, pace::seconds(10))?;
            }
            for prefix in [kept, kept6] {
                witness.route(&prefix)?;
            }
            done("both families")
        });
        self.case(report, Case::TextFrom, |stage, peer| {
            let text = format!("maintenance-{}", peer.kind.number());
            peer.shut(ip(MARGAY)?, &text)?;
            eventually("the text", pace::seconds(15), || {
                let seen = stage.peer_of_margay(&format!("{}v4", number_name(peer.kind)))?;
                let error = seen
                    .get("lastError")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                ensure!(error.contains(&text), "{error}");
                Ok(())
            })?;
            done(&text)
        });
        self.case(report, Case::TextTo, |stage, peer| {
            let text = format!("farewell-{}", peer.kind.number());
            let name = format!("{}v6", number_name(peer.kind));
            stage
                .margay()?
                .tell(&["peers", "disable", &name, "--message", &text])?;
            eventually("the text", pace::seconds(15), || {
                ensure!(peer.logged(&text), "not in its log");
                Ok(())
            })?;
            done(&text)
        });
        report.check("the witness was told nothing malformed", || {
            let faults: Vec<_> = witness
                .events_since(Instant::now() - Duration::from_secs(600))
                .into_iter()
                .filter(|event| matches!(event, Event::Fault(_) | Event::Closed(..)))
                .collect();
            ensure!(faults.is_empty(), "{faults:?}");
            Ok("no fault, no end".to_owned())
        });
        Ok(())
    }

    /// Aggregates of margay's as peers print them, those of peers as margay does and as a third party is told, and what nobody knows.
    fn aggregates(&mut self, report: &mut Report, witness: &Witness) {
        self.case(report, Case::AggregateTo, |_, peer| {
            for (prefix, hop) in [(AGGREGATE, MARGAY), (AGGREGATE6, MARGAY6)] {
                let wanted = Wanted {
                    atomic_aggregate: true,
                    aggregator: Some(format!("{MARGAY_ASN} {MARGAY}")),
                    ..own(hop, 50, None)
                };
                await_path(peer, prefix, &wanted)?;
            }
            done("both, and as well on what is passed on")
        });
        self.case(report, Case::AggregateFrom, |stage, peer| {
            if !names_aggregator(peer.kind) {
                return Ok(None);
            }
            let asn = external_asn(peer.kind);
            let hops = [v4(peer.kind), v6(peer.kind)];
            for (prefix, hop) in aggregates_of(peer.kind).into_iter().zip(hops) {
                let mut wanted = Wanted {
                    as_path: vec![asn],
                    atomic_aggregate: peer.kind == Kind::Frr,
                    aggregator: Some(format!("{asn} {}", v4(peer.kind))),
                    ..internal(peer.kind, &hop)
                };
                wanted.local_pref = None;
                eventually(&prefix, pace::seconds(10), || {
                    wanted.check_one(&stage.margay_details(&prefix)?)
                })?;
                wanted.as_path = vec![MARGAY_ASN, asn];
                wanted.med = None;
                wanted.next_hop = match plan::family_of(&prefix) {
                    4 => MARGAY.to_owned(),
                    _ => MARGAY6.to_owned(),
                };
                witness.await_route(&prefix, |route| wanted.check(&told(route)))?;
            }
            done("as set, and passed on")
        });
        self.case(report, Case::UnknownTo, |_, peer| {
            if matches!(peer.kind, Kind::Frr | Kind::Bird3) {
                return Ok(None);
            }
            let wanted = details::unknown(u64::from(UNKNOWN.0), &UNKNOWN.1);
            for prefix in [SEEN, SEEN6] {
                let paths = peer.details(prefix)?;
                ensure!(
                    matches!(paths.as_slice(), [path] if path.unknown.iter().eq([&wanted])),
                    "{prefix}: {paths:?}"
                );
            }
            done("as the witness sent it to margay")
        });
    }

    /// Everybody is killed, comes back and dials while margay only waits: no two connections can collide.
    fn peers_restart_dialling(&mut self, report: &mut Report, witness: &Witness) -> Result<()> {
        let killed = Instant::now();
        self.start_peers(|kind| external_plan(kind, true, kind == Kind::GoBgp), true)?;
        self.case(report, Case::PeerRestartsDialling, |stage, peer| {
            await_up(peer, MARGAY)?;
            await_up(peer, MARGAY6)?;
            let prefixes = routes_of(peer.kind);
            if !expects_retention(peer.kind) {
                for prefix in &prefixes {
                    witness.await_renewed(prefix, killed)?;
                }
                return done("left and came back");
            }
            for suffix in ["v4", "v6"] {
                let name = format!("{}{suffix}", number_name(peer.kind));
                eventually(format!("{name} is fresh"), pace::seconds(25), || {
                    stage.fresh(&name)
                })?;
            }
            for prefix in &prefixes {
                witness.route(prefix)?;
                ensure!(
                    !witness.withdrawn_since(prefix, killed)?,
                    "{prefix} was withdrawn in between"
                );
            }
            done("kept and refreshed")
        });
        Ok(())
    }

    /// A peer that says garbage loses what the garbage was about, or its session; nobody else notices.
    fn malformed(&mut self, report: &mut Report) -> Result<()> {
        let (first, second) = ("10.95.0.0/24", "10.95.1.0/24");
        let hop = ip("10.90.0.10")?;
        let good = |prefix: &str| -> Result<Vec<u8>> {
            Ok(announcement(prefix.parse()?, hop, &[MALLORY_ASN], &[]))
        };
        let mallory = Witness::dial(
            &self.mallory,
            ip(MARGAY)?,
            identity(MALLORY_ASN, MARGAY_ASN, 10),
            &[good(first)?, good(second)?],
        )?;
        let kinds = self.kinds();
        let counts = |stage: &Self| -> Result<BTreeMap<Kind, [u64; 2]>> {
            kinds
                .iter()
                .map(|&kind| {
                    let name = number_name(kind);
                    let count = |suffix| stage.established_count(&format!("{name}{suffix}"));
                    Ok((kind, [count("v4")?, count("v6")?]))
                })
                .collect()
        };
        let before = counts(self)?;
        for peer in &self.peers {
            await_held(peer, first)?;
            await_held(peer, second)?;
        }
        // ORIGIN 5: treat-as-withdraw (RFC 7606 §7.1).
        let bad_origin = [
            attribute(0x40, 1, &[5]),
            witness::as_path(&[MALLORY_ASN]),
            attribute(0x40, 3, &[10, 90, 0, 10]),
        ]
        .concat();
        mallory.say(&witness::update(
            &[],
            &bad_origin,
            &witness::nlri(first.parse()?),
        ))?;
        for peer in &self.peers {
            await_not_held(peer, first)?;
        }
        ensure!(mallory.end().is_none(), "{:?}", mallory.end());
        let still: Vec<_> = self
            .peers
            .iter()
            .map(|peer| Ok((peer.kind, !peer.details(second)?.is_empty())))
            .collect::<Result<_>>()?;
        // A prefix of 40 bits: session reset with 3/10 (RFC 7606 §5.3).
        let mut worse = good(second)?;
        let end = worse.len() - 4;
        if let Some(bits) = worse.get_mut(end) {
            *bits = 40;
        }
        mallory.say(&worse)?;
        let end = eventually("mallory's session ends", pace::seconds(15), || {
            mallory.end().ok_or("it stands")
        })?;
        let after = counts(self)?;
        self.case(report, Case::Malformed, |_, peer| {
            ensure!(
                still.contains(&(peer.kind, true)),
                "{second} went with {first}"
            );
            ensure!(end.0 == Some((3, 10)), "mallory was told {end:?}");
            await_not_held(peer, second)?;
            let (before, after) = (before.get(&peer.kind), after.get(&peer.kind));
            ensure!(before == after, "sessions: {before:?}, then {after:?}");
            ensure!(peer.established(ip(MARGAY)?)?, "the session is down");
            done("withdrawn, then reset with 3/10")
        });
        Ok(())
    }
}
