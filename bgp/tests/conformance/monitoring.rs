//! What a BMP collector is told (RFC 7854, RFC 9069), read by a parser of our own.

#![expect(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "numbers are read with the width of their fields, and a test picks out the messages it is about"
)]

use std::time::Duration;

use margay_bgp::bmp::{Collector, MonitorId, MonitorOutput};
use margay_bgp::codec::{CodecContext, HEADER_LEN, Message, decode};
use margay_bgp::family::FamilySet;

use super::refresh::GRACEFUL;
use super::{Lab, announce, attribute, end_of_rib, nlri, update, usual, usual_but, withdraw};

const FIRST: &str = "10.1.0.0/16";
const SECOND_PREFIX: &str = "10.2.0.0/16";
const NOTIFICATION_CEASE: u8 = 6;

/// One message, as far as a collector reads it.
#[derive(Debug, PartialEq, Eq)]
enum Told {
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
struct Whose {
    kind: u8,
    post_policy: bool,
    address: String,
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
        assert_eq!(self.number(8), 0, "no distinguisher");
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
            address,
            asn,
            seconds,
        }
    }
}

fn read(octets: &[u8]) -> Vec<Told> {
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

/// Everything there is to tell.
fn pull(lab: &mut Lab, id: MonitorId) -> Vec<Told> {
    while lab.speaker.work(1000, lab.now) {}
    let mut octets = Vec::new();
    for _ in 0..1000 {
        match lab.speaker.poll_monitor(id, lab.now) {
            MonitorOutput::Octets(chunk) => octets.extend_from_slice(&chunk),
            MonitorOutput::Idle => return read(&octets),
            MonitorOutput::Overflow => panic!("too far behind"),
        }
    }
    panic!("never idle");
}

fn start(lab: &mut Lab, change: impl FnOnce(&mut Collector)) -> MonitorId {
    let mut collector = Collector::new("127.0.0.1:11019".parse().unwrap());
    change(&mut collector);
    let wall = Duration::from_secs(1_800_000_000);
    lab.speaker.start_monitoring(&collector, wall, lab.now)
}

fn of(told: &Told) -> Option<&Whose> {
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
        assert_eq!((whose.kind, whose.seconds), (0, 1_800_000_000));
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
            &usual_but("a", &super::as_path(&[super::asn_of("a"), super::OWN_ASN])),
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
