//! Signatures and hop counts.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{address, await_reason, await_up, config, pair, peer, wire};
use crate::netns::Netns;
use crate::speaker::Speaker;

pub(super) fn x1_md5_right_wrong_and_missing(folder: &Path) -> Result<String> {
    let (a, b) = pair("x1a", "x1b")?;
    address(&a, "eth0", &["10.1.0.1/24"])?;
    address(&b, "eth0", &["10.1.0.2/24", "10.1.0.3/24", "10.1.0.4/24"])?;
    let here = Speaker::start(
        &a,
        &config(
            64601,
            "10.1.0.1",
            "10.1.0.1",
            "",
            &[
                "name: right, address: 10.1.0.2, asn: 64602, password: sesame",
                "name: wrong, address: 10.1.0.3, asn: 64602, password: sesame",
                "name: missing, address: 10.1.0.4, asn: 64602, password: sesame",
            ],
        ),
        folder,
    )?;
    let there = Speaker::start(
        &b,
        &config(
            64602,
            "10.1.0.2",
            "10.1.0.2, 10.1.0.3, 10.1.0.4",
            "",
            &[
                "name: right, address: 10.1.0.1, localAddress: 10.1.0.2, asn: 64601, password: sesame",
                "name: wrong, address: 10.1.0.1, localAddress: 10.1.0.3, asn: 64601, password: simsim",
                "name: missing, address: 10.1.0.1, localAddress: 10.1.0.4, asn: 64601",
            ],
        ),
        folder,
    )?;
    await_up(&here, "right")?;
    let wrong = await_reason(&here, "wrong", "TCPMD5Failure")?;
    await_reason(&here, "missing", "TCPMD5NotFound")?;
    for name in ["wrong", "missing"] {
        let (state, _) = peer(&there, name)?;
        ensure!(
            state != "Established" && state != "OpenSent",
            "{name}: {state}"
        );
    }
    Ok(format!("up; no TCP, and the counters named: {wrong}"))
}

pub(super) fn x2_a_key_for_a_range_yields_to_one_of_an_address(folder: &Path) -> Result<String> {
    let (a, b) = pair("x2a", "x2b")?;
    address(&a, "eth0", &["10.1.0.1/24"])?;
    address(&b, "eth0", &["10.1.0.2/24", "10.1.0.3/24", "10.1.0.4/24"])?;
    let here = Speaker::start(
        &a,
        &config(
            64601,
            "10.1.0.1",
            "10.1.0.1",
            "",
            &[
                "name: range, range: 10.1.0.0/24, asn: external, password: everybody",
                "name: own, address: 10.1.0.3, passive: true, asn: 64602, password: own",
                "name: strict, address: 10.1.0.4, passive: true, asn: 64602, password: own",
            ],
        ),
        folder,
    )?;
    let there = Speaker::start(
        &b,
        &config(
            64602,
            "10.1.0.2",
            "",
            "",
            &[
                "name: range, address: 10.1.0.1, localAddress: 10.1.0.2, asn: 64601, password: everybody",
                "name: own, address: 10.1.0.1, localAddress: 10.1.0.3, asn: 64601, password: own",
                "name: strict, address: 10.1.0.1, localAddress: 10.1.0.4, asn: 64601, password: everybody",
            ],
        ),
        folder,
    )?;
    await_up(&here, "own")?;
    await_up(&here, "range-10.1.0.2")?;
    await_reason(&there, "strict", "timed out")?;
    Ok("the range's key for all of it but the address that has its own".to_owned())
}

pub(super) fn x3_gtsm_counts_hops(folder: &Path) -> Result<String> {
    let (a, r) = pair("x3a", "x3r")?;
    let b = Netns::create_settled("x3b")?;
    wire(&r, "eth1", &b, "eth0")?;
    address(&a, "eth0", &["10.1.0.1/24"])?;
    address(&r, "eth0", &["10.1.0.9/24"])?;
    address(&r, "eth1", &["10.2.0.9/24"])?;
    address(&b, "eth0", &["10.2.0.1/24"])?;
    r.sysctl("net.ipv4.ip_forward", "1")?;
    a.ip("route add 10.2.0.0/24 via 10.1.0.9")?;
    b.ip("route add 10.1.0.0/24 via 10.2.0.9")?;
    let hops = |hops: u8| {
        let peer =
            format!("name: b, address: 10.2.0.1, asn: 64602, holdTime: 3, ttlSecurity: {hops}");
        config(64601, "10.1.0.1", "10.1.0.1", "", &[&peer])
    };
    let here = Speaker::start(&a, &hops(1), folder)?;
    let there = Speaker::start(
        &b,
        &config(
            64602,
            "10.2.0.1",
            "10.2.0.1",
            "",
            &["name: a, address: 10.1.0.1, asn: 64601, holdTime: 3, ttlSecurity: 2"],
        ),
        folder,
    )?;
    await_reason(&here, "b", "TCPMinTTLDrop")?;
    let (state, _) = peer(&there, "a")?;
    ensure!(state != "Established", "{state}");
    here.reload(&hops(2))?;
    await_up(&here, "b")?;
    Ok("a TTL of 254 is dropped at 1 hop, taken at 2".to_owned())
}

pub(super) fn tcp_ao_is_had_or_refused_by_name(folder: &Path) -> Result<String> {
    let (a, b) = pair("aoa", "aob")?;
    address(&a, "eth0", &["10.1.0.1/24"])?;
    address(&b, "eth0", &["10.1.0.2/24"])?;
    let ao = "tcpAo: { keys: [{ sendId: 1, receiveId: 1, secret: sesame }] }";
    let here = format!("name: b, address: 10.1.0.2, asn: 64602, {ao}");
    let here = config(64601, "10.1.0.1", "10.1.0.1", "", &[&here]);
    let here = match Speaker::start(&a, &here, folder) {
        Ok(speaker) => speaker,
        Err(refused) => {
            let text = format!("{refused:#}");
            let at = "speaker-aoa.yaml:5:54: field `peers[0].tcpAo`: this kernel has no TCP-AO";
            let instead = "or `password` (TCP-MD5) at both ends";
            ensure!(text.contains(at) && text.contains(instead), "{text}");
            let line = text.lines().find(|line| line.contains(at));
            return Ok(format!("refused: {}", line.unwrap_or_default().trim()));
        }
    };
    // The kernel has it. The other side does not sign yet: there must be no session.
    let plain = "name: a, address: 10.1.0.1, asn: 64601";
    let there = Speaker::start(
        &b,
        &config(64602, "10.1.0.2", "10.1.0.2", "", &[plain]),
        folder,
    )?;
    await_reason(&here, "b", "TCPAO")?;
    let (state, _) = peer(&there, "a")?;
    ensure!(state != "Established", "an unprotected session: {state}");
    let signed = format!("name: a, address: 10.1.0.1, asn: 64601, {ao}");
    there.reload(&config(64602, "10.1.0.2", "10.1.0.2", "", &[&signed]))?;
    await_up(&here, "b")?;
    Ok("had: up with equal keys, down without".to_owned())
}
