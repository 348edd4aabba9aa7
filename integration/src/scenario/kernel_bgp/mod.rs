//! The speaker and the kernel's TCP: who may sign, how far a peer may be, which link, device or namespace it is in.
//!
//! ```text
//!   a ── eth0 ── b      (a third namespace where a case needs one; every case has namespaces of its own)
//! ```
//! `a` runs the speaker that is looked at, the others run speakers that call it. What concerns routes in the kernel alone is
//! tested in `agent/tests/kernel.rs`, in namespaces as well.

mod ao;
mod links;
mod places;
mod protection;
mod routes;

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Outcome;
use crate::eventually::eventually;
use crate::link::{self, End};
use crate::netns::Netns;
use crate::pace;
use crate::report::Report;
use crate::speaker::Speaker;

/// A case: builds its namespaces, says what it saw.
type Case = fn(&Path) -> Result<String>;

const CASES: [(&str, Case); 11] = [
    (
        "X1 TCP-MD5 right, wrong and missing",
        protection::x1_md5_right_wrong_and_missing,
    ),
    (
        "X2 TCP-MD5 for a range, and one of it",
        protection::x2_a_key_for_a_range_yields_to_one_of_an_address,
    ),
    (
        "X3 GTSM over one hop too many",
        protection::x3_gtsm_counts_hops,
    ),
    (
        "TCP-AO is had or refused by name",
        protection::tcp_ao_is_had_or_refused_by_name,
    ),
    (
        "X4 one link-local address on two links",
        links::x4_one_link_local_address_on_two_links,
    ),
    (
        "X5 a bound listener",
        places::x5_a_bound_listener_ignores_other_devices,
    ),
    (
        "X6 a peer in another namespace",
        places::x6_a_peer_in_another_namespace,
    ),
    (
        "X7 a full range answers with a reset",
        places::x7_a_full_range_answers_with_a_reset,
    ),
    (
        "X8 a replaced route loses no packet",
        routes::x8_a_replaced_route_loses_no_packet,
    ),
    (
        "X9 a namespace deleted under a session",
        places::x9_a_namespace_deleted_under_a_session,
    ),
    (
        "X14 a killed speaker's routes",
        routes::x14_a_killed_speaker_leaves_its_routes_and_its_successor_removes_what_is_gone,
    ),
];

/// Runs every case.
///
/// # Errors
/// Never: a case that cannot be built has failed.
pub fn run(folder: &Path, report: &mut Report) -> Result<Outcome> {
    for (what, case) in CASES {
        report.check(what, || case(folder));
    }
    Ok(Outcome::Passed)
}

/// The cases of a kernel that has VRFs.
///
/// # Errors
/// Never: a case that cannot be built has failed.
pub fn run_vrf(folder: &Path, report: &mut Report) -> Result<Outcome> {
    report.check("X5 a listener in a VRF", || {
        places::x5_a_listener_in_a_vrf_ignores_the_default_one(folder)
    });
    Ok(Outcome::Passed)
}

/// The cases of a kernel that has TCP-AO.
///
/// # Errors
/// Never: a case that cannot be built has failed.
pub fn run_tcp_ao(folder: &Path, report: &mut Report) -> Result<Outcome> {
    for (what, case) in ao::CASES {
        report.check(what, || case(folder));
    }
    Ok(Outcome::Passed)
}

/// Two namespaces with a wire, `eth0` at both ends.
fn pair(one: &str, other: &str) -> Result<(Netns, Netns)> {
    let (one, other) = (Netns::create_settled(one)?, Netns::create_settled(other)?);
    wire(&one, "eth0", &other, "eth0")?;
    Ok((one, other))
}

fn wire(one: &Netns, here: &str, other: &Netns, there: &str) -> Result<()> {
    link::wire(
        &End {
            netns: one,
            interface: here,
        },
        &End {
            netns: other,
            interface: there,
        },
    )
}

fn address(netns: &Netns, interface: &str, list: &[&str]) -> Result<()> {
    let list: Vec<String> = list.iter().map(|&address| address.to_owned()).collect();
    link::addresses(netns, interface, &list)
}

/// A configuration: head, listeners, peers with timers that suit a lab.
fn config(asn: u32, id: &str, listen: &str, more: &str, peers: &[&str]) -> String {
    let mut text = format!("asn: {asn}\nrouterId: {id}\nlisten: [{listen}]\n{more}peers:\n");
    for peer in peers {
        text += &format!("  - {{ {peer}, connectRetry: 1, idleHold: 1, idleHoldMax: 2 }}\n");
    }
    text
}

/// A peer's state and last error.
fn peer(speaker: &Speaker, name: &str) -> Result<(String, String)> {
    let peers = speaker.ask(&["peers"])?;
    let text = |value: Option<&serde_json::Value>| {
        value
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let list = peers.as_array().context("a list of peers")?;
    let found = list
        .iter()
        .find(|peer| text(peer.get("name")) == name)
        .with_context(|| format!("no peer {name}"))?;
    Ok((text(found.get("state")), text(found.get("lastError"))))
}

fn await_up(speaker: &Speaker, name: &str) -> Result<()> {
    eventually(format!("{name} is up"), pace::seconds(15), || {
        let (state, error) = peer(speaker, name)?;
        ensure!(state == "Established", "{state}: {error}");
        Ok(())
    })
}

fn await_down(speaker: &Speaker, name: &str) -> Result<()> {
    eventually(format!("{name} is down"), pace::seconds(15), || {
        let (state, _) = peer(speaker, name)?;
        ensure!(state != "Established", "{state}");
        Ok(())
    })
}

/// Waits until the peer, which has no session, says why.
fn await_reason(speaker: &Speaker, name: &str, reason: &str) -> Result<String> {
    eventually(format!("{name} says {reason}"), pace::seconds(15), || {
        let (state, error) = peer(speaker, name)?;
        ensure!(
            state != "Established" && error.contains(reason),
            "{state}: {error}"
        );
        Ok(error)
    })
}
