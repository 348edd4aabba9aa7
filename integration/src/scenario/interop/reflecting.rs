//! Act 2: internal sessions with passwords; margay dials and reflects, both families on one session.

use std::sync::Barrier;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::foreign::Kind;
use super::matrix::Case;
use super::plan::Plan;
use super::{
    KEPT, KEPT6, MALLORY, MARGAY, MARGAY_ASN, MARGAY6, SEEN, SEEN6, Stage, TWICE, WITNESS,
    WITNESS_ASN, WITNESS6, Wanted, announcements, await_held, await_hops, await_path, await_up,
    both_on_one, done, identity, internal, internal_waiting_plan, ip, margay_plan, number_name,
    own, password, routes_of, session, shared, told, v4, v6, waits_with_password, withdrawal,
};
use crate::eventually::{eventually, throughout};
use crate::pace;
use crate::report::Report;
use crate::witness::{Identity, Witness};

impl Stage {
    pub(super) fn reflecting(&mut self, report: &mut Report) -> Result<()> {
        let mut sessions = Vec::new();
        let mut witness_session = session("witness", WITNESS, MARGAY_ASN, &[4, 6])?;
        witness_session.passive = true;
        sessions.push(witness_session);
        let mut second_session = session("second", WITNESS6, MARGAY_ASN, &[4])?;
        second_session.passive = true;
        sessions.push(second_session);
        let mut mallory_session = session("mallory", MALLORY, MARGAY_ASN, &[4])?;
        mallory_session.passive = true;
        mallory_session.password = Some("unknown".to_owned());
        sessions.push(mallory_session);
        for kind in self.kinds() {
            for (suffix, remote, families) in both_on_one(kind) {
                let name = format!("{}{suffix}", number_name(kind));
                let mut session = session(&name, &remote, MARGAY_ASN, &families)?;
                session.password = waits_with_password(kind).then(|| password(kind));
                session.add_path = true;
                sessions.push(session);
            }
        }
        for session in &mut sessions {
            session.client = true;
        }
        let margay = margay_plan(sessions, &[KEPT, KEPT6]);
        // Peers first: what waits must be there before it is dialled.
        self.start_peers(internal_waiting_plan, false)?;
        self.start_margay(&margay, false)?;
        let witness = Witness::dial(
            &self.witness,
            ip(MARGAY)?,
            identity(MARGAY_ASN, MARGAY_ASN, 9),
            &announcements(&[SEEN, SEEN6], &[65010, 4_200_000_001], true)?,
        )?;
        let second = Witness::dial(
            &self.witness,
            ip(MARGAY6)?,
            Identity {
                families: &[4],
                ..identity(MARGAY_ASN, MARGAY_ASN, 19)
            },
            &[shared(TWICE, MALLORY)?],
        )?;
        witness.say(&shared(TWICE, WITNESS)?)?;

        self.case(report, Case::PeerPassive, |_, peer| await_up(peer, MARGAY));
        let stranger = Witness::attempt(
            &self.mallory,
            ip(MARGAY)?,
            identity(MARGAY_ASN, MARGAY_ASN, 10),
        );
        self.case(report, Case::Password, |_, peer| {
            if !waits_with_password(peer.kind) {
                return Ok(None);
            }
            ensure!(peer.established(ip(MARGAY)?)?, "down with the password");
            ensure!(stranger.is_err(), "a session without the password");
            done("up with it, no connection of a stranger without")
        });
        self.case(report, Case::BothFamilies, |stage, peer| {
            if peer.kind == Kind::Bird1 {
                return Ok(None);
            }
            let [kept, kept6, ..] = routes_of(peer.kind);
            for prefix in [KEPT, KEPT6] {
                await_held(peer, prefix)?;
            }
            for prefix in [kept, kept6] {
                eventually(&prefix, pace::seconds(10), || {
                    ensure!(
                        !stage.margay_details(&prefix)?.is_empty(),
                        "margay has none"
                    );
                    anyhow::Ok(())
                })?;
            }
            done("both ways")
        });
        self.case(report, Case::InternalTo, |_, peer| {
            for (prefix, hop) in [(KEPT, MARGAY), (KEPT6, MARGAY6)] {
                let mut wanted = own(hop, 50, Some(150));
                wanted.as_path = Vec::new();
                await_path(peer, prefix, &wanted)?;
            }
            done("LOCAL_PREF 150, MED 50, empty AS_PATH")
        });
        self.case(report, Case::InternalFrom, |stage, peer| {
            let [kept, kept6, ..] = routes_of(peer.kind);
            for (prefix, hop) in [(kept, v4(peer.kind)), (kept6, v6(peer.kind))] {
                let wanted = internal(peer.kind, &hop);
                eventually(&prefix, pace::seconds(10), || {
                    wanted.check_one(&stage.margay_details(&prefix)?)
                })?;
            }
            done("LOCAL_PREF 140, MED 30, empty AS_PATH")
        });
        self.case(report, Case::MargayReflectsTo, |_, peer| {
            for (prefix, hop) in [(SEEN, WITNESS), (SEEN6, WITNESS6)] {
                let wanted = Wanted {
                    as_path: vec![65010, 4_200_000_001],
                    next_hop: hop.to_owned(),
                    med: Some(77),
                    local_pref: Some(170),
                    tag: WITNESS_ASN,
                    originator: Some(WITNESS.to_owned()),
                    cluster_list: vec![MARGAY.to_owned()],
                    atomic_aggregate: false,
                    aggregator: None,
                };
                await_path(peer, prefix, &wanted)?;
            }
            done("unchanged, with originator and cluster")
        });
        self.case(report, Case::MargayReflectsFrom, |_, peer| {
            let [kept, kept6, ..] = routes_of(peer.kind);
            for (prefix, hop) in [(kept, v4(peer.kind)), (kept6, v6(peer.kind))] {
                let mut wanted = internal(peer.kind, &hop);
                wanted.originator = Some(v4(peer.kind));
                wanted.cluster_list = vec![MARGAY.to_owned()];
                witness.await_route(&prefix, |route| wanted.check(&told(route)))?;
            }
            done("unchanged, with originator and cluster")
        });
        let everyone = Barrier::new(self.peers.len());
        self.case(report, Case::AddPathTo, |_, peer| {
            let both = await_hops(TWICE, &[WITNESS, MALLORY], |prefix| peer.details(prefix));
            if everyone.wait().is_leader() {
                second.say(&withdrawal(TWICE)?)?;
            }
            both?;
            await_hops(TWICE, &[WITNESS], |prefix| peer.details(prefix))?;
            done("two paths, then the one that is left")
        });
        self.wrong_password(report, &margay)
    }

    /// Margay's end of every key changes while no session is up, and changes back.
    fn wrong_password(&mut self, report: &mut Report, right: &Plan) -> Result<()> {
        let mut wrong = right.clone();
        let mut keyed = Vec::new();
        for session in &mut wrong.sessions {
            if let Some(password) = &mut session.password {
                password.push_str("-or-not");
                keyed.push(session.name.clone());
            }
        }
        keyed.retain(|name| name != "mallory");
        let margay = self.margay()?;
        for name in &keyed {
            margay.tell(&["peers", "disable", name])?;
        }
        margay.reload(&wrong.margay(false))?;
        for name in &keyed {
            margay.tell(&["peers", "enable", name])?;
        }
        self.case(report, Case::WrongPassword, |stage, peer| {
            if !waits_with_password(peer.kind) {
                return Ok(None);
            }
            let name = format!("{}v4", number_name(peer.kind));
            let reason = eventually("a reason that names keys", pace::seconds(20), || {
                let seen = stage.peer_of_margay(&name)?;
                let error = seen.get("lastError").and_then(Value::as_str);
                let error = error.unwrap_or_default().to_owned();
                ensure!(
                    error.contains("another key") || error.contains("TCPMD5"),
                    "{error}"
                );
                anyhow::Ok(error)
            })?;
            throughout(Duration::from_secs(2), || {
                ensure!(!peer.established(ip(MARGAY)?)?, "up with another key");
                Ok(())
            })?;
            done(&reason)
        });
        self.margay()?.reload(&right.margay(false))?;
        report.check("up again once the keys are the same", || {
            for peer in &self.peers {
                await_up(peer, MARGAY).with_context(|| peer.kind.name())?;
            }
            Ok("every peer".to_owned())
        });
        Ok(())
    }
}
