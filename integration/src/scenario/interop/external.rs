//! Act 1: external sessions, one for each family, while margay waits to be dialled.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::foreign::Kind;
use super::matrix::Case;
use super::plan::{self, Plan};
use super::{
    DROPPED, DROPPED6, KEPT, KEPT6, MALLORY_ASN, MALLORY6, MARGAY, MARGAY_ASN, MARGAY6, REFUSED,
    SEEN, SEEN6, Stage, WITNESS, WITNESS_ASN, Wanted, announcements, await_held, await_not_held,
    await_path, await_up, done, external_asn, external_plan, identity, ip, margay_plan,
    number_name, own, routes_of, session, told, v4, v6,
};
use crate::eventually::eventually;
use crate::pace;
use crate::report::Report;
use crate::router::Details;
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
                sessions.push(session);
            }
        }
        let mut far = session("far", MALLORY6, MALLORY_ASN, &[6])?;
        far.gtsm = true;
        sessions.push(far);
        for session in &mut sessions {
            session.passive = true;
        }
        Ok(margay_plan(sessions, routes))
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
        self.case(report, Case::Gtsm, |stage, peer| {
            ensure!(peer.established(ip(MARGAY)?)?, "down over IPv4");
            ensure!(peer.established(ip(MARGAY6)?)?, "down over IPv6");
            ensure!(
                stage.established_count("far")? == 0,
                "a session with one whose TTL is 64"
            );
            done("up at 255 in both families, no session at 64")
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
                };
                wanted.check_one(&stage.margay_details(&prefix)?)?;
                let route = witness.await_route(&prefix, |_| Ok(()))?;
                wanted.as_path = vec![MARGAY_ASN, asn];
                wanted.med = None;
                wanted.next_hop = match plan::family_of(&prefix) {
                    4 => MARGAY.to_owned(),
                    _ => MARGAY6.to_owned(),
                };
                wanted.check(&told(&route))?;
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
        self.case(report, Case::Refresh, |_, peer| {
            if peer.kind == Kind::GoBgp {
                return Ok(None);
            }
            await_not_held(peer, REFUSED)?;
            peer.change(
                &external_plan(peer.kind, true, true)?,
                &external_plan(peer.kind, true, false)?,
            )?;
            await_held(peer, REFUSED)?;
            done("accepted on second thought")
        });
        self.case(report, Case::EnhancedRefresh, |_, peer| {
            if peer.kind == Kind::GoBgp {
                return Ok(None);
            }
            eventually("begin and end", pace::seconds(5), || {
                let count = peer.refreshes(ip(MARGAY)?)?;
                ensure!(count >= 2, "{count} ROUTE-REFRESH messages");
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
            margay.tell(&["peers", "clear", &name, "--soft-in"])?;
            eventually("the question", pace::seconds(5), || {
                let count = peer.refreshes(ip(MARGAY)?)?;
                ensure!(count > before, "{count} ROUTE-REFRESH messages");
                Ok(())
            })?;
            ensure!(!stage.margay_details(&kept)?.is_empty(), "{kept} went");
            ensure!(
                !witness.withdrawn_since(&kept, asked)?,
                "{kept} was withdrawn"
            );
            done("asked, and nothing lost")
        });
        self.malformed(report)?;

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
            eventually("the text", pace::seconds(5), || {
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
            eventually("the text", pace::seconds(5), || {
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
        let names: Vec<String> = self.kinds().into_iter().map(number_name).collect();
        let counts = |stage: &Self| -> Result<Vec<u64>> {
            names
                .iter()
                .flat_map(|name| [format!("{name}v4"), format!("{name}v6")])
                .map(|name| stage.established_count(&name))
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
        let end = eventually("mallory's session ends", pace::seconds(5), || {
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
            ensure!(before == after, "sessions: {before:?}, then {after:?}");
            ensure!(peer.established(ip(MARGAY)?)?, "the session is down");
            done("withdrawn, then reset with 3/10")
        });
        Ok(())
    }
}
