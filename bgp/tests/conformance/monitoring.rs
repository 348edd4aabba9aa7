//! What a BMP collector is told (RFC 7854, RFC 9069), read by a parser of our own.

#![expect(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "numbers are read with the width of their fields, and a test picks out the messages it is about"
)]

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use margay_bgp::asn::Asn;
use margay_bgp::bmp::{Collector, MonitorId, MonitorOutput};
use margay_bgp::codec::{Capability, CodecContext, HEADER_LEN, Message, decode};
use margay_bgp::family::FamilySet;
use margay_bgp::policy::{Action, Policy, Rule, Verdict};
use margay_bgp::speaker::config::{Listen, PeerConfig, SpeakerConfig};

use super::refresh::GRACEFUL;
use super::wire::sift;
use super::{
    Inside, KEEPALIVE, Lab, USUAL, address_of, announce, asn_of, attribute, end_of_rib, nlri, open,
    over_tcp, update, usual, usual_but, withdraw,
};

const FIRST: &str = "10.1.0.0/16";
const SECOND_PREFIX: &str = "10.2.0.0/16";
const NOTIFICATION_CEASE: u8 = 6;
/// When collectors are told everything, by the invented calendar.
const WALL: Duration = Duration::from_secs(1_800_000_000);

/// One message, as far as a collector reads it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    Initiation(Vec<(u16, String)>),
    /// Whose, both OPENs, and the text of the table's name.
    Up(Whose, Box<(Message, Message)>, Option<String>),
    /// Whose, the reason, what follows it.
    Down(Whose, u8, Vec<u8>),
    /// Whose, announced, withdrawn.
    Routes(Whose, Vec<String>, Vec<String>),
    EndOfRib(Whose, String),
    Numbers(Whose, Vec<(u16, u64)>),
}

/// The per-peer header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Whose {
    pub(super) kind: u8,
    pub(super) post_policy: bool,
    distinguisher: u64,
    pub(super) address: String,
    asn: u32,
    seconds: u32,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        head
    }

    fn number(&mut self, octets: usize) -> u64 {
        self.take(octets)
            .iter()
            .fold(0, |number, octet| number << 8 | u64::from(*octet))
    }

    fn bgp(&mut self) -> &'a [u8] {
        let length = usize::from(u16::from_be_bytes([self.0[16], self.0[17]]));
        self.take(length)
    }

    fn text(&mut self) -> (u16, String) {
        let (kind, length) = (self.number(2) as u16, self.number(2) as usize);
        (kind, String::from_utf8(self.take(length).to_vec()).unwrap())
    }

    fn whose(&mut self) -> Whose {
        let (kind, flags) = (self.number(1) as u8, self.number(1) as u8);
        assert_eq!(flags & 0x3f, 0, "no flag of ours");
        let distinguisher = self.number(8);
        assert_eq!(kind == 2, distinguisher != 0, "one for local instances");
        let address: [u8; 16] = self.take(16).try_into().unwrap();
        let address = if flags & 0x80 == 0 {
            assert_eq!(address[..12], [0; 12]);
            std::net::Ipv4Addr::new(address[12], address[13], address[14], address[15]).to_string()
        } else {
            std::net::Ipv6Addr::from(address).to_string()
        };
        let asn = self.number(4) as u32;
        assert_ne!(self.number(4), 0, "a BGP Identifier");
        let seconds = self.number(4) as u32;
        assert!(self.number(4) < 1_000_000);
        Whose {
            kind,
            post_policy: flags & 0x40 != 0,
            distinguisher,
            address,
            asn,
            seconds,
        }
    }
}

/// Whole messages.
pub(super) fn read(octets: &[u8]) -> Vec<Told> {
    let mut all = Reader(octets);
    let mut told = Vec::new();
    while !all.0.is_empty() {
        assert_eq!(all.number(1), 3, "the version");
        let length = all.number(4) as usize;
        let mut one = Reader(all.take(length - 5));
        told.push(match one.number(1) {
            0 => routes(&mut one),
            1 => {
                let whose = one.whose();
                let count = one.number(4);
                let numbers = (0..count)
                    .map(|_| {
                        let (kind, length) = (one.number(2) as u16, one.number(2) as usize);
                        if length == 11 {
                            one.take(3);
                        }
                        (kind, one.number(length.min(8)))
                    })
                    .collect();
                Told::Numbers(whose, numbers)
            }
            2 => {
                let whose = one.whose();
                let reason = one.number(1) as u8;
                Told::Down(whose, reason, one.take(one.0.len()).to_vec())
            }
            3 => {
                let whose = one.whose();
                one.take(16 + 4);
                let context = CodecContext::before_open();
                let sent = decode(one.bgp(), &context).unwrap();
                let received = decode(one.bgp(), &context).unwrap();
                let name = (!one.0.is_empty()).then(|| one.text().1);
                Told::Up(whose, Box::new((sent, received)), name)
            }
            4 => {
                let mut texts = Vec::new();
                while !one.0.is_empty() {
                    texts.push(one.text());
                }
                Told::Initiation(texts)
            }
            other => panic!("type {other}"),
        });
        assert!(one.0.is_empty(), "{} octets left", one.0.len());
    }
    told
}

fn routes(one: &mut Reader<'_>) -> Told {
    let whose = one.whose();
    let context = CodecContext {
        four_octet_as: true,
        families: FamilySet::all(),
        extended_message_receive: true,
        ..CodecContext::before_open()
    };
    let octets = one.bgp();
    assert!(octets.len() >= HEADER_LEN);
    let Ok(Message::Update(update)) = decode(octets, &context) else {
        panic!("no UPDATE");
    };
    assert!(update.faults.is_empty(), "{:?}", update.faults);
    if let Some(family) = update.end_of_rib {
        return Told::EndOfRib(whose, family.to_string());
    }
    let announced = update.announced.iter().flat_map(|part| &part.nlri);
    let mut announced: Vec<String> = announced.map(ToString::to_string).collect();
    announced.sort();
    let withdrawn = update.withdrawn.iter().map(ToString::to_string).collect();
    Told::Routes(whose, announced, withdrawn)
}

/// A collector that began to be told; over TCP it has no number.
type Monitored = Inside<MonitorId>;

/// Everything there is to tell.
fn pull(lab: &mut Lab, id: Monitored) -> Vec<Told> {
    read(&octets(lab, id))
        .into_iter()
        .filter_map(sift)
        .collect()
}

fn octets(lab: &mut Lab, id: Monitored) -> Vec<u8> {
    if lab.wire.is_some() {
        return lab.wire_monitor_octets();
    }
    while lab.speaker.work(1000, lab.now) {}
    let mut octets = Vec::new();
    for _ in 0..1000 {
        match lab.speaker.poll_monitor(*id, lab.now) {
            MonitorOutput::Octets(chunk) => octets.extend_from_slice(&chunk),
            MonitorOutput::Idle => return octets,
            MonitorOutput::Overflow => panic!("too far behind"),
        }
    }
    panic!("never idle");
}

fn start(lab: &mut Lab, change: impl FnOnce(&mut Collector)) -> Monitored {
    let mut collector = Collector::new("127.0.0.1:11019".parse().unwrap());
    change(&mut collector);
    if lab.wire.is_some() {
        lab.wire_monitored(&collector);
        return Inside::nowhere();
    }
    let id = lab.speaker.start_monitoring(&collector, WALL, lab.now);
    Inside(Some(id))
}

/// Whether it is that time by the calendar.
#[expect(
    clippy::disallowed_methods,
    reason = "a process tells collectors the time by the calendar, and by nothing else"
)]
fn is_now(seconds: u32) -> bool {
    if !over_tcp() {
        return u64::from(seconds) == WALL.as_secs();
    }
    let since = Duration::from_secs(seconds.into());
    let ago = SystemTime::now().duration_since(UNIX_EPOCH + since);
    ago.unwrap() < Duration::from_secs(60)
}

/// Whose it is.
pub(super) fn of(told: &Told) -> Option<&Whose> {
    match told {
        Told::Initiation(_) => None,
        Told::Up(whose, ..)
        | Told::Down(whose, ..)
        | Told::Routes(whose, ..)
        | Told::EndOfRib(whose, _)
        | Told::Numbers(whose, _) => Some(whose),
    }
}

#[test]
fn a_collector_that_connects_is_told_the_state_of_the_world() {
    let mut lab = Lab::established(&["a", "b"]);
    lab.say("a", &announce("a", &[FIRST, SECOND_PREFIX]));
    let id = start(&mut lab, |collector| collector.post_policy = true);
    let told = pull(&mut lab, id);
    let [
        Told::Initiation(texts),
        Told::Up(loc_rib, _, name),
        rest @ ..,
    ] = told.as_slice()
    else {
        panic!("{told:#?}");
    };
    assert_eq!(texts[1], (2, "192.0.2.1".to_owned()));
    assert_eq!((loc_rib.kind, name.as_deref()), (3, Some("global")));
    let ups: Vec<_> = rest
        .iter()
        .filter_map(|told| match told {
            Told::Up(whose, opens, None) => Some((whose, opens)),
            _ => None,
        })
        .collect();
    assert_eq!(ups.len(), 2);
    for (whose, opens) in &ups {
        assert!(whose.kind == 0 && is_now(whose.seconds), "{whose:?}");
        let (Message::Open(sent), Message::Open(received)) = &***opens else {
            panic!("two OPENs");
        };
        assert_eq!(sent.router_id.to_string(), "192.0.2.1");
        assert_eq!(received.router_id.to_string(), whose.address);
        assert!(!sent.capabilities.is_empty());
    }
    // Before policy, after it, and in the Loc-RIB: once each, as few messages as can be.
    let routes: Vec<_> = rest
        .iter()
        .filter_map(|told| match told {
            Told::Routes(whose, announced, withdrawn) => Some((
                whose.kind,
                whose.post_policy,
                announced.len(),
                withdrawn.len(),
            )),
            _ => None,
        })
        .collect();
    assert_eq!(routes.len(), 3, "{told:#?}");
    // `b` announced nothing: nothing but ends of it.
    let both = [FIRST.to_owned(), SECOND_PREFIX.to_owned()];
    for (kind, post_policy) in [(0, false), (0, true), (3, false)] {
        assert!(
            rest.iter()
                .any(|told| matches!(told, Told::Routes(whose, announced, _)
                if (whose.kind, whose.post_policy) == (kind, post_policy) && *announced == both)),
            "{kind} {post_policy}: {told:#?}"
        );
    }
    // That a table is complete comes after its routes.
    for (at, message) in rest.iter().enumerate() {
        if let Told::EndOfRib(whose, _) = message {
            assert!(
                !rest[at..].iter().any(|later| matches!(later, Told::Routes(of, ..)
                    if (of.kind, &of.address, of.post_policy) == (whose.kind, &whose.address, whose.post_policy))),
                "{told:#?}"
            );
        }
    }
    assert_eq!(pull(&mut lab, id), []);
}

#[test]
fn changes_are_told_as_they_come() {
    let mut lab = Lab::established(&["a"]);
    let id = start(&mut lab, |collector| collector.post_policy = true);
    pull(&mut lab, id);
    lab.say("a", &announce("a", &[FIRST]));
    let told = pull(&mut lab, id);
    let kinds: Vec<_> = told
        .iter()
        .map(|told| of(told).map(|whose| (whose.kind, whose.post_policy)))
        .collect();
    assert_eq!(kinds.len(), 3, "{told:#?}");
    // Our AS in the path: the peer announced it, and no policy or table of ours has it.
    lab.say(
        "a",
        &update(
            &[],
            &usual_but("a", &super::as_path(&[asn_of("a"), super::OWN_ASN])),
            &nlri(&[FIRST]),
        ),
    );
    for message in pull(&mut lab, id) {
        let Told::Routes(whose, announced, withdrawn) = message else {
            panic!("{message:?}");
        };
        let before_policy = whose.kind == 0 && !whose.post_policy;
        assert_eq!(
            (announced.len(), withdrawn.len()),
            if before_policy { (1, 0) } else { (0, 1) },
            "{whose:?}"
        );
    }
    lab.say("a", &withdraw(&[FIRST]));
    assert!(pull(&mut lab, id).iter().any(
        |told| matches!(told, Told::Routes(whose, _, withdrawn) if whose.kind == 0 && withdrawn == &[FIRST])
    ));
}

#[test]
fn a_prefix_that_flaps_costs_one_message_when_it_is_read() {
    let mut lab = Lab::established(&["a"]);
    let id = start(&mut lab, |collector| collector.loc_rib = false);
    pull(&mut lab, id);
    for _ in 0..100 {
        lab.say("a", &announce("a", &[FIRST]));
        lab.say("a", &withdraw(&[FIRST]));
    }
    let told = pull(&mut lab, id);
    let [Told::Routes(_, announced, withdrawn)] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!((announced.len(), withdrawn.len()), (0, 1));
}

#[test]
fn a_session_that_ends_is_told_with_its_reason_and_its_octets() {
    let mut lab = Lab::established(&["a", "b", "c"]);
    let id = start(&mut lab, |_| ());
    pull(&mut lab, id);
    lab.cut("a");
    lab.say(
        "b",
        &super::message(3, &[NOTIFICATION_CEASE, 2, 3, b'b', b'y', b'e']),
    );
    lab.say("c", &[0; 19]);
    let downs: Vec<_> = pull(&mut lab, id)
        .into_iter()
        .filter_map(|told| match told {
            Told::Down(whose, reason, data) => Some((whose.address, reason, data)),
            _ => None,
        })
        .collect();
    assert_eq!(downs.len(), 3);
    assert_eq!((downs[0].1, downs[0].2.len()), (4, 0));
    assert_eq!(downs[1].1, 3);
    assert_eq!(downs[1].2[HEADER_LEN..], [6, 2, 3, b'b', b'y', b'e']);
    assert_eq!(downs[2].1, 1);
    assert_eq!(downs[2].2[HEADER_LEN..HEADER_LEN + 2], [1, 1]);
}

#[test]
fn numbers_come_when_they_are_due() {
    let mut lab = Lab::established(&["a"]);
    lab.say("a", &announce("a", &[FIRST]));
    lab.say(
        "a",
        &update(
            &[],
            &usual_but("a", &attribute(0x40, 1, &[9])),
            &nlri(&[SECOND_PREFIX]),
        ),
    );
    let id = start(&mut lab, |collector| {
        collector.statistics = Some(Duration::from_secs(10));
    });
    pull(&mut lab, id);
    lab.now += Duration::from_secs(10);
    assert!(lab.speaker.poll_timeout().is_some_and(|due| due <= lab.now));
    lab.speaker.handle_timeout(lab.now);
    let told = pull(&mut lab, id);
    let numbers = |kind: u8| {
        told.iter()
            .find_map(|told| match told {
                Told::Numbers(whose, numbers) if whose.kind == kind => Some(numbers.clone()),
                _ => None,
            })
            .unwrap_or_default()
    };
    let of_peer = numbers(0);
    for wanted in [(7, 1), (11, 1), (12, 1)] {
        assert!(of_peer.contains(&wanted), "{wanted:?}: {of_peer:?}");
    }
    assert!(numbers(3).contains(&(8, 1)));
}

#[test]
fn the_loc_rib_counts_what_it_holds_and_not_what_waits_or_is_rejected() {
    let mut lab = Lab::established(&["a", "b"]);
    let looped = super::as_path(&[asn_of("a"), super::OWN_ASN]);
    lab.say("a", &announce("a", &[FIRST]));
    lab.say(
        "a",
        &update(&[], &usual_but("a", &looped), &nlri(&[SECOND_PREFIX])),
    );
    let id = start(&mut lab, |collector| {
        collector.statistics = Some(Duration::from_secs(10));
    });
    let best = |lab: &mut Lab| {
        lab.now += Duration::from_secs(10);
        lab.speaker.handle_timeout(lab.now);
        let told = pull(lab, id);
        let tables = &lab.speaker.snapshot(lab.now).tables;
        let counted: Vec<u64> = told
            .iter()
            .filter_map(|told| match told {
                Told::Numbers(whose, numbers) if whose.kind == 3 => Some(numbers),
                _ => None,
            })
            .flatten()
            .filter(|(kind, _)| [8, 10].contains(kind))
            .map(|(_, count)| *count)
            .collect();
        (counted, tables[0].best, tables[0].prefixes)
    };
    assert_eq!(best(&mut lab), (vec![1, 1, 0], 1, 2));
    lab.say("a", &update(&[], &usual_but("a", &looped), &nlri(&[FIRST])));
    assert_eq!(best(&mut lab), (vec![0, 0, 0], 0, 2));
    lab.say("b", &announce("b", &[FIRST]));
    assert_eq!(best(&mut lab), (vec![1, 1, 0], 1, 2));
    lab.cut("b");
    assert_eq!(best(&mut lab), (vec![0, 0, 0], 0, 2));
}

/// What a collector holds of one table, by its own words.
fn held(told: &[Told], kind: u8, post_policy: bool) -> Vec<String> {
    let mut held = std::collections::BTreeSet::new();
    for message in told {
        if let Told::Routes(whose, announced, withdrawn) = message
            && (whose.kind, whose.post_policy) == (kind, post_policy)
        {
            for prefix in withdrawn {
                held.remove(prefix);
            }
            held.extend(announced.iter().cloned());
        }
    }
    held.into_iter().collect()
}

/// So many octets of an attribute nobody knows.
fn unknown(octets: u16) -> Vec<u8> {
    let mut attribute = vec![0xd0, 200];
    attribute.extend(octets.to_be_bytes());
    attribute.resize(attribute.len() + usize::from(octets), 7);
    attribute
}

#[test]
fn a_route_that_fits_only_an_extended_message_is_told_of_every_table() {
    let mut lab = Lab::established(&["a"]);
    let id = start(&mut lab, |collector| collector.post_policy = true);
    let mut told = pull(&mut lab, id);
    let Told::Up(_, opens, _) = &told[1] else {
        panic!("{told:#?}");
    };
    let Message::Open(loc_rib) = &opens.0 else {
        panic!("an OPEN");
    };
    assert!(loc_rib.capabilities.contains(&Capability::ExtendedMessage));
    assert!(
        loc_rib
            .capabilities
            .iter()
            .any(|capability| matches!(capability, Capability::ExtendedNextHop(_)))
    );
    let long = usual_but("a", &unknown(5000));
    lab.say("a", &update(&[], &long, &nlri(&[FIRST])));
    told.extend(pull(&mut lab, id));
    for (kind, post_policy) in [(0, false), (0, true), (3, false)] {
        assert_eq!(held(&told, kind, post_policy), [FIRST], "{kind}");
    }
}

#[test]
fn a_route_that_no_longer_fits_any_message_does_not_stay_as_it_was() {
    let mut lab = Lab::established(&["a"]);
    let id = start(&mut lab, |collector| collector.post_policy = true);
    lab.say("a", &announce("a", &[FIRST]));
    let mut told = pull(&mut lab, id);
    assert_eq!(held(&told, 3, false), [FIRST]);
    lab.configure(|config| {
        let prepend = Rule {
            conditions: Vec::new(),
            actions: vec![Action::PrependAs(vec![Asn(64999); 17_000])],
            verdict: Some(Verdict::Accept),
        };
        let policy = Policy {
            rules: vec![prepend],
            default: Verdict::Reject,
        };
        of_a(config).import = policy.into();
    });
    told.extend(pull(&mut lab, id));
    assert_eq!(held(&told, 0, false), [FIRST], "as it came");
    for kind in [0, 3] {
        assert_eq!(held(&told, kind, kind == 0), [] as [&str; 0], "{kind}");
    }
}

fn of_a(config: &mut SpeakerConfig) -> &mut PeerConfig {
    &mut config.peers[0]
}

#[test]
fn another_as_of_ours_ends_the_loc_rib_and_begins_it_anew() {
    let mut lab = Lab::with(|config| {
        // Their sessions do not show the speaker's AS.
        for peer in &mut config.peers {
            peer.local_asn = Some(Asn(super::OWN_ASN));
        }
    });
    lab.establish(&["a", "b"]);
    lab.say("a", &announce("a", &[FIRST]));
    let id = start(&mut lab, |_| ());
    pull(&mut lab, id);
    lab.configure(|config| config.asn = Asn(65_000));
    let told = pull(&mut lab, id);
    let of_loc_rib: Vec<&Told> = told
        .iter()
        .filter(|told| of(told).is_some_and(|whose| whose.kind == 3))
        .collect();
    let [
        Told::Down(ended, 6, name),
        Told::Up(begun, opens, _),
        rest @ ..,
    ] = &of_loc_rib[..]
    else {
        panic!("{of_loc_rib:#?}");
    };
    assert_eq!((ended.asn, begun.asn), (super::OWN_ASN, 65_000));
    assert_eq!(name[..4], [0, 3, 0, 6]);
    assert!(matches!(&opens.0, Message::Open(open) if open.asn == Asn(65_000)));
    assert!(
        matches!(rest, [Told::Routes(whose, announced, _), Told::EndOfRib(..), Told::EndOfRib(..)]
            if whose.asn == 65_000 && announced == &[FIRST]),
        "{rest:#?}"
    );
    let of_peers = told.iter().filter_map(of).filter(|whose| whose.kind == 0);
    assert_eq!(of_peers.count(), 0, "their tables are as they were");
}

#[test]
fn another_identifier_of_ours_is_told_before_the_loc_rib_begins_anew() {
    let mut lab = Lab::established(&["a"]);
    let id = start(&mut lab, |_| ());
    pull(&mut lab, id);
    lab.configure(|config| config.router_id = "192.0.2.77".parse().unwrap());
    let told = pull(&mut lab, id);
    assert!(
        matches!(&told[..], [Told::Initiation(texts), Told::Down(..), Told::Up(..), ..]
            if texts[1].1 == "192.0.2.77"),
        "{told:#?}"
    );
}

#[test]
fn sessions_from_one_address_are_told_apart() {
    let mut lab = Lab::with(|config| {
        let shared = config.peers[0].remote;
        config.peers[1].remote = shared;
        config.peers[0].local_address = Some("192.0.2.1".parse().unwrap());
        config.peers[1].local_address = Some("192.0.2.9".parse().unwrap());
        let all = SocketAddr::from(([0; 4], 179));
        config.listen = vec![Listen::from(all)];
    });
    for (name, port, own) in [("a", 40_000, "192.0.2.1"), ("b", 40_001, "192.0.2.9")] {
        let remote = (address_of("a"), port).into();
        lab.connect_from(name, remote, format!("{own}:179").parse().unwrap());
        let id = address_of("a");
        lab.say(name, &open(asn_of(name), id, 90, USUAL));
        lab.say(name, &KEEPALIVE);
    }
    lab.establish(&["c"]);
    let id = start(&mut lab, |_| ());
    let up: Vec<(u8, u64)> = pull(&mut lab, id)
        .iter()
        .filter_map(|told| match told {
            Told::Up(whose, ..) => Some((whose.kind, whose.distinguisher)),
            _ => None,
        })
        .collect();
    let [(3, 0), (2, first), (2, second), (0, 0)] = up[..] else {
        panic!("{up:?}");
    };
    assert_ne!(first, second);
    lab.cut("a");
    let told = pull(&mut lab, id);
    assert!(matches!(&told[..], [Told::Down(whose, ..), ..] if whose.distinguisher == first));
}

#[test]
fn a_lone_link_local_next_hop_is_written_as_the_opens_say_it_is() {
    let mut lab = Lab::established(&["a"]);
    let id = start(&mut lab, |collector| collector.loc_rib = false);
    pull(&mut lab, id);
    let link_local: std::net::Ipv6Addr = "fe80::1".parse().unwrap();
    let mut reach = vec![0, 2, 1, 32];
    reach.extend([link_local.octets(), link_local.octets()].concat());
    reach.extend([0, 32, 0x20, 0x01, 0x0d, 0xb8]);
    let mut attributes = attribute(0x80, 14, &reach);
    attributes.extend(attribute(0x40, 1, &[0]));
    attributes.extend(super::as_path(&[asn_of("a")]));
    lab.say("a", &update(&[], &attributes, &[]));
    let told = octets(&mut lab, id);
    assert!(told.windows(reach.len()).any(|window| window == reach));
}

#[test]
fn the_end_of_a_peers_own_table_is_passed_on() {
    let mut lab = Lab::new();
    let id = start(&mut lab, |_| ());
    pull(&mut lab, id);
    lab.establish(&["a"]);
    lab.say("a", &announce("a", &[FIRST]));
    lab.say("a", &end_of_rib());
    let told = pull(&mut lab, id);
    assert!(matches!(told.first(), Some(Told::Up(..))), "{told:?}");
    let last = told
        .iter()
        .rev()
        .find(|told| of(told).is_some_and(|whose| whose.kind == 0));
    assert!(
        matches!(last, Some(Told::EndOfRib(_, family)) if family == "ipv4-unicast"),
        "{told:?}"
    );
}

#[test]
fn withdrawals_are_told_also_beside_what_is_left_of_a_session_with_path_identifiers() {
    let mut lab = Lab::new();
    let add_path: &[u8] = &[69, 4, 0, 1, 1, 2];
    lab.establish_with("a", &[GRACEFUL, add_path].concat());
    let with_id = [&[0, 0, 0, 7], &nlri(&[FIRST])[..]].concat();
    lab.say("a", &update(&[], &usual("a").concat(), &with_id));
    lab.cut("a");
    lab.establish_with("a", GRACEFUL);
    lab.say("a", &announce("a", &[SECOND_PREFIX]));
    let id = start(&mut lab, |collector| collector.loc_rib = false);
    pull(&mut lab, id);
    lab.say("a", &withdraw(&[SECOND_PREFIX]));
    lab.say("a", &end_of_rib());
    assert_eq!(lab.peer("a").families[0].received, 0);
    let told = pull(&mut lab, id);
    let [Told::Routes(_, announced, withdrawn), ..] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert!(announced.is_empty());
    assert_eq!(withdrawn, &[SECOND_PREFIX.to_owned()]);
}

#[test]
fn a_route_that_fits_no_message_is_told_of_also_where_a_collector_finds_out_first() {
    let mut lab = Lab::new();
    let long = [USUAL, &[6, 0]].concat();
    lab.establish_with("a", &long);
    lab.establish_with("b", USUAL);
    let id = start(&mut lab, |collector| collector.adj_rib_out = true);
    drop(octets(&mut lab, id));
    // The neighbour reads nothing and has as much under way as it may.
    lab.stop_reading("b");
    for number in 0..40_u8 {
        let fits = usual_but("a", &unknown(3000 + u16::from(number)));
        lab.say(
            "a",
            &update(&[], &fits, &nlri(&[&format!("10.9.{number}.0/24")])),
        );
    }
    let too_long = usual_but("a", &unknown(5000));
    lab.say("a", &update(&[], &too_long, &nlri(&[FIRST])));
    assert_eq!(lab.unsendable("b"), 0);
    drop(octets(&mut lab, id));
    lab.read_on("b");
    lab.lacks("b", FIRST);
    assert_eq!(lab.unsendable("b"), 1);
}
