//! Act 4: external sessions over IPv6 alone, which carry IPv4 as well (RFC 8950): between global addresses, and over a link of
//! their own where margay knows the interface and no address. And one over IPv4 that margay dials under GTSM.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::foreign::Kind;
use super::matrix::Case;
use super::plan::{Plan, family_of};
use super::{
    KEPT, KEPT6, LINK, LINK_LOCAL, MARGAY, MARGAY_ASN, MARGAY6, SESSION_LIMIT, Stage, done,
    external_asn, link_of, margay_plan, number_name, peer_plan, routes_of, session, v4, v6,
};
use crate::eventually::eventually;
use crate::pace;
use crate::report::Report;

/// Whether it takes IPv4 routes with next hops of IPv6 between global addresses.
fn extends_next_hops(kind: Kind) -> bool {
    matches!(kind, Kind::Bird2 | Kind::Bird3 | Kind::Frr | Kind::GoBgp)
}

/// What it carries between link-local addresses.
const fn unnumbered_families(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Bird2 | Kind::Bird3 | Kind::Frr | Kind::GoBgp => &[4, 6],
        Kind::Bird1 | Kind::OpenBgpd => &[6],
    }
}

fn link_local(kind: Kind) -> String {
    format!("fe80::{}", kind.number())
}

fn plan(kind: Kind) -> Result<Plan> {
    let mut near = session("m4", MARGAY, MARGAY_ASN, &[4])?;
    near.gtsm = true;
    near.passive = true;
    let mut sessions = vec![near];
    if extends_next_hops(kind) {
        sessions.push(session("m6", MARGAY6, MARGAY_ASN, &[4, 6])?);
    }
    let mut unnumbered = session("u6", LINK_LOCAL, MARGAY_ASN, unnumbered_families(kind))?;
    unnumbered.interface = Some(LINK.to_owned());
    sessions.push(unnumbered);
    Ok(peer_plan(kind, external_asn(kind), sessions, 2))
}

impl Stage {
    pub(super) fn unnumbered(&mut self, report: &mut Report) -> Result<()> {
        let mut sessions = Vec::new();
        for kind in self.kinds() {
            let (name, asn) = (number_name(kind), external_asn(kind));
            let mut near = session(&format!("{name}v4"), &v4(kind), asn, &[4])?;
            near.gtsm = true;
            sessions.push(near);
            if extends_next_hops(kind) {
                sessions.push(session(&format!("{name}g"), &v6(kind), asn, &[4, 6])?);
            }
            let mut unnumbered = session(
                &format!("{name}u"),
                &link_local(kind),
                asn,
                unnumbered_families(kind),
            )?;
            unnumbered.interface = Some(link_of(kind.number()));
            sessions.push(unnumbered);
        }
        // Nobody of the act before may be left when the first of this one starts: of a connection between one under GTSM and one
        // that is not, neither end would hear the other's OPEN, nor that it is gone.
        for peer in &mut self.peers {
            peer.kill()?;
        }
        self.start_margay(&margay_plan(sessions, &[KEPT, KEPT6]), true)?;
        self.start_peers(plan, false)?;

        self.case(report, Case::GtsmDials, |stage, peer| {
            let name = format!("{}v4", number_name(peer.kind));
            eventually(&name, pace::seconds(SESSION_LIMIT), || {
                let seen = stage.peer_of_margay(&name)?;
                let state = seen.get("state").and_then(Value::as_str);
                ensure!(state == Some("Established"), "{seen}");
                anyhow::Ok(())
            })?;
            done("up, 255 asked of either end")
        });
        self.case(report, Case::ExtendedNextHop, |stage, peer| {
            if !extends_next_hops(peer.kind) {
                return Ok(None);
            }
            let [kept, ..] = routes_of(peer.kind);
            stage.exchanged(peer, KEPT, MARGAY6, &kept, &v6(peer.kind))?;
            done("IPv4 via IPv6 both ways")
        });
        self.case(report, Case::Unnumbered6, |stage, peer| {
            let [_, kept6, ..] = routes_of(peer.kind);
            let hop = link_local(peer.kind);
            stage.exchanged(peer, KEPT6, LINK_LOCAL, &kept6, &hop)?;
            stage.in_kernel_via(&kept6, &hop)?;
            done("both ways, and in margay's kernel")
        });
        self.case(report, Case::Unnumbered4, |stage, peer| {
            if !unnumbered_families(peer.kind).contains(&4) {
                return Ok(None);
            }
            let [kept, ..] = routes_of(peer.kind);
            let hop = link_local(peer.kind);
            stage.exchanged(peer, KEPT, LINK_LOCAL, &kept, &hop)?;
            stage.in_kernel_via(&kept, &hop)?;
            done("both ways, and in margay's kernel")
        });
        Ok(())
    }

    /// The peer holds margay's prefix and margay the peer's, with these next hops.
    fn exchanged(
        &self,
        peer: &super::foreign::Foreign,
        ours: &str,
        our_hop: &str,
        theirs: &str,
        their_hop: &str,
    ) -> Result<()> {
        eventually(ours, pace::seconds(SESSION_LIMIT), || {
            let paths = peer.details(ours)?;
            ensure!(
                paths.iter().any(|path| path.next_hop == our_hop),
                "the peer has {paths:?}"
            );
            anyhow::Ok(())
        })?;
        eventually(theirs, pace::seconds(10), || {
            let paths = self.margay_details(theirs)?;
            ensure!(
                paths.iter().any(|path| path.next_hop == their_hop),
                "margay has {paths:?}"
            );
            Ok(())
        })
    }

    fn in_kernel_via(&self, prefix: &str, hop: &str) -> Result<()> {
        let what = format!("{prefix} in the kernel, family {}", family_of(prefix));
        eventually(what, pace::seconds(10), || self.in_kernel(prefix, hop))
    }
}
