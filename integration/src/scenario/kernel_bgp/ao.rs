//! TCP-AO (RFC 5925) in a kernel that has it, with BIRD 3 and with margay itself at the other end.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Case, address, await_down, await_reason, await_up, config, pair, peer};
use crate::eventually::eventually;
use crate::netns::Netns;
use crate::pace;
use crate::router::Router as _;
use crate::router::bird::{Bird, Version};
use crate::speaker::Speaker;

pub(super) const CASES: [(&str, Case); 9] = [
    (
        "TCP-AO is had: up with equal keys, down without",
        super::protection::tcp_ao_is_had_or_refused_by_name,
    ),
    (
        "other octets, other ids, other options signed",
        what_does_not_fit_is_no_session_and_names_why,
    ),
    (
        "every algorithm, whoever calls, both families",
        every_algorithm_with_bird,
    ),
    (
        "keys change under a session with BIRD",
        keys_change_under_a_session_with_bird,
    ),
    (
        "keys of a range change under its callers",
        keys_of_a_range_change_under_its_callers,
    ),
    (
        "other octets under the same ids come with the next session",
        other_octets_under_the_same_ids_come_with_the_next_session,
    ),
    (
        "a speaker that was killed comes back",
        a_killed_speaker_comes_back,
    ),
    ("from TCP-MD5 to TCP-AO and back", from_md5_to_ao_and_back),
    (
        "whoever has no key is not bothered",
        others_on_the_same_listener_are_not_bothered,
    ),
];

/// Where each end is, for one family.
struct Ends {
    here: &'static str,
    there: &'static str,
    ours: &'static str,
    theirs: &'static str,
    family: u8,
}

const V4: Ends = Ends {
    here: "10.1.0.1",
    there: "10.1.0.2",
    ours: "10.10.0.0/16",
    theirs: "10.20.0.0/16",
    family: 4,
};

const V6: Ends = Ends {
    here: "2001:db8:1::1",
    there: "2001:db8:1::2",
    ours: "2001:db8:10::/48",
    theirs: "2001:db8:20::/48",
    family: 6,
};

const ALGORITHMS: [(&str, &str); 3] = [
    ("hmac-sha1", "hmac sha1"),
    ("cmac-aes128", "cmac aes128"),
    ("hmac-sha256", "hmac sha256"),
];

fn place(one: &str, other: &str) -> Result<(Netns, Netns)> {
    let (a, b) = pair(one, other)?;
    address(&a, "eth0", &["10.1.0.1/24", "2001:db8:1::1/64"])?;
    address(&b, "eth0", &["10.1.0.2/24", "2001:db8:1::2/64"])?;
    Ok((a, b))
}

/// Keys of both ids, as `margay speaker` has them.
fn keys(list: &[(u8, &str, &str)]) -> String {
    let keys: Vec<String> = list
        .iter()
        .map(|(id, secret, algorithm)| {
            format!("{{ sendId: {id}, receiveId: {id}, secret: {secret}, algorithm: {algorithm} }}")
        })
        .collect();
    format!("tcpAo: {{ keys: [{}] }}", keys.join(", "))
}

/// A margay in AS 64601 with one neighbour in AS 64602.
fn margay(ends: &Ends, remote: &str, more: &str) -> String {
    let peer = format!("name: b, {remote}, asn: 64602, {more}");
    let originate = format!("originate: [{}]\n", ends.ours);
    config(
        64601,
        "10.1.0.1",
        &format!("'{}'", ends.here),
        &originate,
        &[&peer],
    )
}

fn at(ends: &Ends) -> String {
    format!("address: '{}'", ends.there)
}

/// BIRD's side. A key is an id, a secret, an algorithm as BIRD spells it, and more of its options.
fn bird(ends: &Ends, keys: &[(u8, &str, &str, &str)], more: &str) -> String {
    let Ends {
        here,
        there,
        theirs,
        family,
        ..
    } = ends;
    let keys: String = keys
        .iter()
        .map(|(id, secret, algorithm, more)| {
            format!("key {{ id {id}; secret \"{secret}\"; algorithm {algorithm}; {more} }}; ")
        })
        .collect();
    format!(
        "router id 10.1.0.2;\nprotocol device {{ }}\nprotocol static {{ ipv{family}; route {theirs} blackhole; }}\n\
         protocol bgp a {{ local {there} as 64602; neighbor {here} as 64601; direct; {more} connect delay time 1; \
         connect retry time 1; error wait time 1, 1; authentication ao; keys {{ {keys}}}; \
         ipv{family} {{ import all; export all; }}; }}\n"
    )
}

/// The key BIRD signs with, and the one it asks us for.
fn keys_of(bird: &Bird) -> Result<(u8, u8)> {
    let text = bird.ask("show protocols all a")?;
    let id = |name: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(name))
            .with_context(|| format!("no {name:?} in {text}"))?
            .trim()
            .parse()
            .with_context(|| text.clone())
    };
    Ok((id("Current key:")?, id("RNext key:")?))
}

/// Waits until a route has come to either end.
fn await_routes(speaker: &Speaker, bird: &Bird, ends: &Ends) -> Result<()> {
    eventually("routes at both ends", pace::seconds(15), || {
        let routes = bird.routes(ends.family)?;
        let held = routes.iter().any(|route| route.prefix == ends.ours);
        ensure!(held, "BIRD has no {}: {routes:?}", ends.ours);
        let ours = speaker.ask(&["routes", ends.theirs])?.to_string();
        ensure!(ours.contains(ends.theirs), "no {}: {ours}", ends.theirs);
        Ok(())
    })
}

fn established_count(speaker: &Speaker, name: &str) -> Result<u64> {
    peer_number(speaker, name, "/establishedCount")
}

fn peer_number(speaker: &Speaker, name: &str, field: &str) -> Result<u64> {
    let peers = speaker.ask(&["peers"])?;
    let list = peers.as_array().context("a list of peers")?;
    let peer = list.iter().find(|peer| peer["name"] == name);
    let peer = peer.with_context(|| format!("no peer {name}"))?;
    peer.pointer(field)
        .and_then(serde_json::Value::as_u64)
        .with_context(|| format!("no {field} in {peer}"))
}

fn what_does_not_fit_is_no_session_and_names_why(folder: &Path) -> Result<String> {
    let (a, b) = place("aowa", "aowb")?;
    let here = Speaker::start(
        &a,
        &margay(&V4, &at(&V4), &keys(&[(1, "sesame", "hmac-sha1")])),
        folder,
    )?;
    let other = |more: &str| {
        config(
            64602,
            "10.1.0.2",
            "10.1.0.2",
            "",
            &[&format!(
                "name: a, address: 10.1.0.1, asn: 64601, tcpAo: {{ keys: [{{ {more} }}] }}"
            )],
        )
    };
    let wrong = [
        ("sendId: 1, receiveId: 1, secret: simsim", "TCPAOBad"),
        (
            "sendId: 2, receiveId: 2, secret: sesame",
            "TCPAOKeyNotFound",
        ),
        (
            "sendId: 1, receiveId: 1, secret: sesame, signOptions: false",
            "TCPAOBad",
        ),
        (
            "sendId: 1, receiveId: 1, secret: sesame, algorithm: hmac-sha256",
            "TCPAOBad",
        ),
    ];
    let mut there: Option<Speaker> = None;
    for (key, counter) in wrong {
        match &there {
            Some(there) => there.reload(&other(key))?,
            None => there = Some(Speaker::start(&b, &other(key), folder)?),
        }
        await_reason(&here, "b", counter)?;
    }
    let there = there.context("a speaker")?;
    // Both sign without TCP's options: that fits again.
    let plain = "sendId: 1, receiveId: 1, secret: sesame, signOptions: false";
    there.reload(&other(plain))?;
    here.reload(&margay(
        &V4,
        &at(&V4),
        &format!("tcpAo: {{ keys: [{{ {plain} }}] }}"),
    ))?;
    await_up(&here, "b")?;
    Ok("each named by the kernel's counter, and up once they fit".to_owned())
}

fn every_algorithm_with_bird(folder: &Path) -> Result<String> {
    let (a, b) = place("aoga", "aogb")?;
    let mut seen = Vec::new();
    for (ours, theirs) in ALGORITHMS {
        for ends in [&V4, &V6] {
            for we_call in [true, false] {
                let passive = if we_call { "" } else { ", passive: true" };
                let more = format!("{}{passive}", keys(&[(7, "sesame", ours)]));
                let mut speaker = Speaker::start(&a, &margay(ends, &at(ends), &more), folder)?;
                let passive = if we_call { "passive on;" } else { "" };
                let config = bird(ends, &[(7, "sesame", theirs, "")], passive);
                let router = Bird::start(Version::Three, &b, &config, folder)?;
                let what = format!("{ours}, IPv{}, we call: {we_call}", ends.family);
                await_up(&speaker, "b").with_context(|| format!("{what}: {}", router.log()))?;
                await_routes(&speaker, &router, ends).with_context(|| what.clone())?;
                ensure!(keys_of(&router)? == (7, 7), "{what}");
                seen.push(what);
                router.kill()?;
                speaker.kill()?;
            }
        }
    }
    Ok(format!("{} sessions with BIRD 3", seen.len()))
}

fn keys_change_under_a_session_with_bird(folder: &Path) -> Result<String> {
    let (a, b) = place("aoka", "aokb")?;
    change_keys(&a, &b, &at(&V4), "b", folder)
}

fn keys_of_a_range_change_under_its_callers(folder: &Path) -> Result<String> {
    let (a, b) = place("aora", "aorb")?;
    change_keys(&a, &b, "range: 10.1.0.0/24", "b-10.1.0.2", folder)
}

/// From one key to another: both ends get the new one, then each asks for it, then the old one goes.
fn change_keys(a: &Netns, b: &Netns, remote: &str, name: &str, folder: &Path) -> Result<String> {
    const OLD: (u8, &str, &str) = (1, "sesame", "hmac-sha1");
    const NEW: (u8, &str, &str) = (2, "simsim", "hmac-sha256");
    const THEIR_OLD: (u8, &str, &str) = (1, "sesame", "hmac sha1");
    const THEIR_NEW: (u8, &str, &str) = (2, "simsim", "hmac sha256");
    let with = |(id, secret, algorithm): (u8, &'static str, &'static str), more: &'static str| {
        (id, secret, algorithm, more)
    };
    let here = Speaker::start(a, &margay(&V4, remote, &keys(&[OLD])), folder)?;
    let router = Bird::start(
        Version::Three,
        b,
        &bird(&V4, &[with(THEIR_OLD, "")], ""),
        folder,
    )?;
    eventually("the first session", pace::seconds(20), || {
        let (state, error) = peer(&here, name)?;
        ensure!(state == "Established", "{state}: {error}");
        Ok(())
    })?;
    await_routes(&here, &router, &V4)?;
    let await_keys = |current: u8, next: u8| {
        eventually(
            format!("BIRD signs with {current} and asks for {next}"),
            pace::seconds(20),
            || {
                let found = keys_of(&router)?;
                ensure!(found == (current, next), "{found:?}");
                Ok(())
            },
        )
    };
    await_keys(1, 1)?;
    // Keys go by what segments of the other end ask for: something has to be said.
    let talk = || {
        let before = updates(&here, name)?;
        here.tell(&["peers", "clear", "--soft-in", name])?;
        eventually("what was asked for again", pace::seconds(20), || {
            let now = updates(&here, name)?;
            ensure!(now > before, "{now} UPDATEs");
            Ok(())
        })
    };
    // The new one is there at both ends and nobody asks for it yet.
    here.reload(&margay(&V4, remote, &keys(&[OLD, NEW])))?;
    router.reconfigure(&bird(
        &V4,
        &[with(THEIR_OLD, "preferred;"), with(THEIR_NEW, "")],
        "",
    ))?;
    talk()?;
    await_keys(1, 1)?;
    // We ask for it, and BIRD signs with it; then the other way round.
    here.reload(&margay(&V4, remote, &keys(&[NEW, OLD])))?;
    talk()?;
    await_keys(2, 1)?;
    router.reconfigure(&bird(
        &V4,
        &[
            with(THEIR_OLD, "deprecated;"),
            with(THEIR_NEW, "preferred;"),
        ],
        "",
    ))?;
    await_keys(2, 2)?;
    // A key that is in use goes only when its successor is: BIRD's answer is the first that asks us for it.
    talk()?;
    here.reload(&margay(&V4, remote, &keys(&[NEW])))?;
    router.reconfigure(&bird(&V4, &[with(THEIR_NEW, "")], ""))?;
    // What is told now is signed with the new one, which is the only one.
    talk()?;
    await_routes(&here, &router, &V4)?;
    await_keys(2, 2)?;
    ensure!(
        established_count(&here, name)? == 1,
        "the session was made anew"
    );
    Ok("one session from the old key to the new one".to_owned())
}

/// UPDATEs taken from a peer.
fn updates(speaker: &Speaker, name: &str) -> Result<u64> {
    peer_number(speaker, name, "/messages/updatesReceived")
}

fn other_octets_under_the_same_ids_come_with_the_next_session(folder: &Path) -> Result<String> {
    let (a, b) = place("aooa", "aoob")?;
    let ours = |secret| margay(&V4, &at(&V4), &keys(&[(1, secret, "hmac-sha1")]));
    let here = Speaker::start(&a, &ours("sesame"), folder)?;
    let theirs = |secret| bird(&V4, &[(1, secret, "hmac sha1", "")], "");
    let router = Bird::start(Version::Three, &b, &theirs("sesame"), folder)?;
    await_up(&here, "b")?;
    // The kernel exchanges no key that is in use: the session stays on the old one and says so.
    here.reload(&ours("simsim"))?;
    eventually("the log says why", pace::seconds(10), || {
        ensure!(
            here.logged("cannot be exchanged for another of its ids"),
            "it does not"
        );
        Ok(())
    })?;
    await_up(&here, "b")?;
    ensure!(established_count(&here, "b")? == 1, "made anew");
    router.kill()?;
    await_down(&here, "b")?;
    let _router = Bird::start(Version::Three, &b, &theirs("simsim"), folder)?;
    await_up(&here, "b")?;
    Ok("the session stayed on the old ones, the next one has the new ones".to_owned())
}

fn a_killed_speaker_comes_back(folder: &Path) -> Result<String> {
    let (a, b) = place("aoxa", "aoxb")?;
    let ours = margay(&V4, &at(&V4), &keys(&[(1, "sesame", "cmac-aes128")]));
    let mut here = Speaker::start(&a, &ours, folder)?;
    let config = bird(&V4, &[(1, "sesame", "cmac aes128", "")], "");
    let router = Bird::start(Version::Three, &b, &config, folder)?;
    await_up(&here, "b")?;
    here.kill()?;
    here.run(&ours)?;
    await_up(&here, "b")?;
    await_routes(&here, &router, &V4)?;
    router.kill()?;
    let router = Bird::start(Version::Three, &b, &config, folder)?;
    await_up(&here, "b")?;
    await_routes(&here, &router, &V4)?;
    Ok("either end was killed and came back".to_owned())
}

fn from_md5_to_ao_and_back(folder: &Path) -> Result<String> {
    let (a, b) = place("aoma", "aomb")?;
    let ours = |more: &str| margay(&V4, &at(&V4), more);
    let theirs = |more: &str| {
        config(
            64602,
            "10.1.0.2",
            "10.1.0.2",
            "",
            &[&format!("name: a, address: 10.1.0.1, asn: 64601, {more}")],
        )
    };
    let ao = keys(&[(1, "sesame", "hmac-sha1")]);
    let here = Speaker::start(&a, &ours("password: sesame"), folder)?;
    let there = Speaker::start(&b, &theirs("password: sesame"), folder)?;
    await_up(&here, "b")?;
    for (sessions, more) in [(2, ao.as_str()), (3, "password: sesame")] {
        here.reload(&ours(more))?;
        there.reload(&theirs(more))?;
        eventually("the next session", pace::seconds(20), || {
            let (state, error) = peer(&here, "b")?;
            let count = established_count(&here, "b")?;
            ensure!(
                state == "Established" && count >= sessions,
                "{state} the {count}th time: {error}"
            );
            Ok(())
        })?;
    }
    Ok("each change is a new session".to_owned())
}

fn others_on_the_same_listener_are_not_bothered(folder: &Path) -> Result<String> {
    let (a, b) = pair("aona", "aonb")?;
    address(&a, "eth0", &["10.1.0.1/24"])?;
    address(&b, "eth0", &["10.1.0.2/24", "10.1.0.3/24", "10.1.0.4/24"])?;
    let ao = keys(&[(1, "sesame", "hmac-sha1")]);
    let ways = [
        ("signed", "10.1.0.2", ao.as_str()),
        ("password", "10.1.0.3", "password: sesame"),
        ("plain", "10.1.0.4", ""),
    ];
    let ours = ways.map(|(name, address, more)| {
        format!("name: {name}, address: {address}, asn: 64602, passive: true, {more}")
    });
    let theirs = ways.map(|(name, address, more)| {
        format!("name: {name}, address: 10.1.0.1, localAddress: {address}, asn: 64601, {more}")
    });
    let text = |list: &[String; 3], asn, id, listen| {
        let list: Vec<&str> = list
            .iter()
            .map(|peer| peer.trim_end_matches(", "))
            .collect();
        config(asn, id, listen, "", &list)
    };
    let here = Speaker::start(&a, &text(&ours, 64601, "10.1.0.1", "10.1.0.1"), folder)?;
    let listen = "10.1.0.2, 10.1.0.3, 10.1.0.4";
    let _there = Speaker::start(&b, &text(&theirs, 64602, "10.1.0.2", listen), folder)?;
    for (name, ..) in ways {
        await_up(&here, name)?;
    }
    Ok("TCP-AO, TCP-MD5 and neither on one listener".to_owned())
}
