//! Every attribute type in every form and place, and every shape of the multiprotocol ones, from one neighbour to the others:
//! its session stays wherever RFC 7606 says so, and the others hold exactly what the reference makes of what it said: a good
//! route does not outlive the malformed one that replaces it, and nothing malformed is passed on.
//!
//! That the codec agrees with the reference is the codec's sweep (`tests/codec/sweep.rs`, `shapes.rs`); this one watches the
//! speaker. That the others read what they are told without a fault is asserted by the harness, for every message.

use super::reference::{Attributes, Hop, Path, Reading, Session, Verdict, read};
use super::*;

const LENGTHS: [usize; 8] = [0, 1, 3, 4, 8, 12, 20, 255];

/// A neighbour, all it said, and what is left of it by the reference.
struct Watch {
    lab: Lab,
    name: &'static str,
    /// AS numbers of two octets, and paths with identifiers.
    narrow: bool,
    session: Session,
    /// By prefix; nobody says two paths of one here.
    expected: BTreeMap<Prefix, Attributes>,
    /// Tells one announcement from the one before.
    serial: u32,
    resets: usize,
    withdrawals: usize,
    uses: usize,
}

fn prefix_of(path: &Path) -> Prefix {
    let address = if path.family == 0 {
        IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(path.bits >> 96).unwrap()))
    } else {
        IpAddr::V6(path.bits.into())
    };
    format!("{address}/{}", path.length).parse().unwrap()
}

/// Whether a next hop can be anybody's; what cannot makes the route unusable, not malformed.
fn is_usable(hop: Hop) -> bool {
    match hop {
        Hop::Four(address) => !matches!(address >> 24, 0 | 127 | 224..),
        Hop::Six(global, _) => global.is_some(),
    }
}

fn long(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let mut octets = attribute(flags, code, value);
    if flags & 0x10 != 0 {
        octets.insert(2, 0);
    }
    octets
}

impl Watch {
    fn new(name: &'static str, narrow: bool) -> Self {
        let mut lab = Lab::with(|config| {
            for peer in &mut config.peers {
                // A session that ended comes back at once.
                peer.idle_hold = Duration::from_millis(1);
                peer.idle_hold_max = Duration::from_millis(1);
                peer.add_path_receive = narrow;
            }
        });
        let others: Vec<_> = ["a", "b", "c", "d"]
            .into_iter()
            .filter(|other| *other != name)
            .collect();
        lab.establish(&others);
        let mut watch = Self {
            session: Session::from(&CodecContext::before_open()),
            lab,
            name,
            narrow,
            expected: BTreeMap::new(),
            serial: 0,
            resets: 0,
            withdrawals: 0,
            uses: 0,
        };
        watch.establish();
        watch
    }

    fn establish(&mut self) {
        let name = self.name;
        if self.narrow {
            let mut capabilities = USUAL.to_vec();
            capabilities.extend([69, 8, 0, 1, 1, 2, 0, 2, 1, 2]);
            let mut parameters = vec![2, u8::try_from(capabilities.len()).unwrap()];
            parameters.extend(capabilities);
            let open = plain_open(4, asn_of(name), address_of(name), 0, &parameters);
            self.lab.connect(name);
            self.lab.say(name, &open);
            self.lab.say(name, &KEEPALIVE);
            self.lab.assert_established(name);
        } else {
            self.lab.establish(&[name]);
        }
        self.session = Session::from(&self.lab.ends[name].context);
        self.expected.clear();
        // A route that has nothing to do with any fault.
        let good = self.list(None);
        let nlri = self.nlri("10.1.0.0/16");
        self.say(&update(&[], &good.concat(), &nlri), &|| "a good one".into());
    }

    /// The usual attributes but that of type `code`, and one that tells this announcement from every other.
    fn list(&mut self, code: Option<u8>) -> Vec<Vec<u8>> {
        self.serial += 1;
        let mut list = usual(self.name);
        if self.narrow && asn_of(self.name) != OWN_ASN {
            let [.., high, low] = asn_of(self.name).to_be_bytes();
            list[1] = attribute(0x40, 2, &[2, 1, high, low]);
        }
        let serial = self.serial.to_be_bytes();
        list.push(if code == Some(8) {
            attribute(0xc0, 32, &[[0, 0, 0, 1], serial, serial].concat())
        } else {
            attribute(0xc0, 8, &serial)
        });
        list.retain(|good| Some(good[1]) != code);
        list
    }

    fn nlri(&self, text: &str) -> Vec<u8> {
        let mut octets = if self.narrow {
            vec![0, 0, 0, 7]
        } else {
            vec![]
        };
        octets.extend(nlri(&[text]));
        octets
    }

    /// MP_REACH_NLRI of 2001:db8:2::/48.
    fn reach(&self) -> Vec<u8> {
        let mut value = vec![0, 2, 1, 16];
        value.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        value.extend(self.nlri("2001:db8:2::/48"));
        attribute(0x80, 14, &value)
    }

    /// The routes that are to be replaced are there.
    fn prepare(&mut self, prefixes: &[&str]) {
        for text in prefixes {
            if self.expected.contains_key(&prefix(text)) {
                continue;
            }
            let mut list = self.list(None);
            let nlri = if text.contains(':') {
                list.insert(0, self.reach());
                vec![]
            } else {
                self.nlri(text)
            };
            self.say(&update(&[], &list.concat(), &nlri), &|| "a good one".into());
            assert!(self.expected.contains_key(&prefix(text)));
        }
    }

    /// Says a message, and sees what became of it.
    fn say(&mut self, message: &[u8], case: &dyn Fn() -> String) {
        let verdict = read(message, &self.session);
        self.lab.say(self.name, message);
        let closed = self.lab.ends[self.name].closed;
        match verdict {
            Verdict::Reset(reasons) => {
                assert!(closed, "{} did not end the session", case());
                let last = self.lab.ends[self.name].told.last();
                let Some(Message::Notification(last)) = last else {
                    panic!("{}: {last:?}", case());
                };
                assert!(
                    reasons.contains(&(last.code.code, last.code.subcode)),
                    "{}: {last:?}",
                    case()
                );
                self.resets += 1;
                self.expected.clear();
                self.look(&[], case);
                self.lab.advance(SECOND, &[]);
                self.establish();
            }
            Verdict::Read(reading) => {
                assert!(!closed, "{} ended the session", case());
                let news = self.count(*reading);
                self.look(&news, case);
            }
        }
        for end in self.lab.ends.values_mut() {
            end.told.clear();
            end.frames.clear();
        }
    }

    /// Applies what counts; tells which prefixes are new.
    fn count(&mut self, reading: Reading) -> Vec<Prefix> {
        for path in &reading.withdrawn {
            let old = self.expected.remove(&prefix_of(path));
            self.withdrawals += usize::from(old.is_some() && reading.treated_as_withdraw);
        }
        let mut news = Vec::new();
        for (path, hop) in &reading.announced {
            let to = prefix_of(path);
            if is_usable(*hop) {
                self.uses += 1;
                self.expected.insert(to, reading.attributes.clone());
                news.push(to);
            } else {
                self.expected.remove(&to);
            }
        }
        news
    }

    /// The others are up and hold what they should.
    fn look(&self, news: &[Prefix], case: &dyn Fn() -> String) {
        for (other, end) in &self.lab.ends {
            if *other == self.name {
                continue;
            }
            assert!(!end.closed, "{} ended the session of {other}", case());
            assert!(
                end.table.keys().eq(self.expected.keys()),
                "{}: {other} holds {:?}, not {:?}",
                case(),
                end.table.keys(),
                self.expected.keys()
            );
            for to in news {
                let (held, said) = (Attributes::from(&end.table[to].0), &self.expected[to]);
                let kept = |of: &Attributes| {
                    (
                        (of.origin, of.atomic_aggregate, of.aggregator),
                        (of.communities.clone(), of.large.clone()),
                        (of.only_to_customer, of.unknown.clone()),
                    )
                };
                assert_eq!(kept(&held), kept(said), "{}: {other}", case());
                for unknown in &end.table[to].0.unknown {
                    assert_eq!(unknown.flags.bits(), 0xe0, "{}: {other}", case());
                }
            }
        }
    }

    /// A sweep in which something never happens is none.
    fn saw_everything(&self) {
        assert!(
            self.resets > 10 && self.withdrawals > 100 && self.uses > 100,
            "{} resets, {} withdrawals, {} uses",
            self.resets,
            self.withdrawals,
            self.uses
        );
    }
}

/// Types 0 to 255, flags, lengths and places, in the stead of a good namesake.
fn sweep(name: &'static str) {
    let mut watch = Watch::new(name, false);
    for code in 0..=255_u8 {
        for flags in (0..=255_u8).step_by(16) {
            for (turn, length) in LENGTHS.into_iter().enumerate() {
                let fill = [0, 1, 255][(usize::from(code ^ flags >> 4) + turn) % 3];
                let one = long(flags, code, &vec![fill; length]);
                let places = watch.list(Some(code)).len() + 1;
                // All places for each kind of attribute; how its length is written, and whether it is partial, changes
                // nothing for its neighbours.
                let every = flags & 0x30 == 0;
                let chosen = (usize::from(flags >> 4) + turn) % places;
                for place in (0..places).filter(|place| every || *place == chosen) {
                    watch.prepare(&["10.2.0.0/16"]);
                    let mut list = watch.list(Some(code));
                    list.insert(place, one.clone());
                    let nlri = watch.nlri("10.2.0.0/16");
                    watch.say(&update(&[], &list.concat(), &nlri), &|| {
                        format!(
                            "type {code} flags {flags:#x} length {length} of {fill:#x} at {place}"
                        )
                    });
                }
            }
        }
    }
    watch.saw_everything();
}

#[test]
fn no_attribute_of_an_external_neighbour_hurts_anyone() {
    sweep("a");
}

#[test]
fn no_attribute_of_a_client_hurts_anyone() {
    sweep("c");
}

/// Malformed and harmless ones of every type that is read, and their flags wrong.
fn pool(wide: bool) -> Vec<Vec<u8>> {
    let mut pool = vec![
        attribute(0x40, 1, &[3]),
        attribute(0x40, 2, &[2, 0]),
        attribute(0x40, 2, &[5, 1, 0, 1]),
        attribute(0x40, 2, &[1, 1, 0, 0, 0xfc, 0x58]),
        attribute(0x40, 3, &[192, 0, 2]),
        attribute(0x80, 4, &[0, 1]),
        attribute(0x40, 5, &[0; 3]),
        attribute(0x40, 6, &[1]),
        attribute(0xc0, 7, &[0; 8]),
        attribute(
            0xe0,
            7,
            if wide {
                &[0, 0, 0xfc, 0x58, 1, 2, 3, 4]
            } else {
                &[0xfc, 0x58, 1, 2, 3, 4]
            },
        ),
        attribute(0xc0, 8, &[0; 5]),
        attribute(0x80, 9, &[0; 4]),
        attribute(0x80, 10, &[1; 5]),
        attribute(0xc0, 16, &[1; 9]),
        attribute(0xc0, 17, &[2, 1, 0, 1, 0, 0]),
        attribute(0xc0, 17, &[2, 1, 0, 1, 0]),
        attribute(0xc0, 17, &[1, 1, 0, 1, 0, 0]),
        attribute(0xc0, 18, &[0; 7]),
        attribute(0xc0, 25, &[1; 21]),
        attribute(0x80, 26, &[1; 3]),
        attribute(0xc0, 32, &[1; 13]),
        attribute(0xc0, 35, &[1; 3]),
        attribute(0xc0, 40, &[1; 3]),
        attribute(0xc0, 99, &[1; 3]),
        attribute(0x80, 99, &[1; 3]),
        attribute(0x40, 99, &[1; 3]),
    ];
    for index in 0..pool.len() {
        let mut other = pool[index].clone();
        other[0] ^= 0x80;
        pool.push(other);
    }
    pool
}

/// Faults beside prefixes in the NLRI field, in MP_REACH_NLRI and in both; faulty attributes beside a good namesake, before
/// and behind it; lengths that overrun.
fn shapes(name: &'static str, narrow: bool) {
    const BOTH: [&str; 2] = ["10.2.0.0/16", "2001:db8:2::/48"];
    let mut watch = Watch::new(name, narrow);
    for one in pool(!narrow) {
        for carriers in 1..4_u8 {
            for place in 0..5 {
                for overrun in [0, 1, 200] {
                    watch.prepare(&BOTH);
                    // In turn instead of its namesake and beside it.
                    let instead = (place < 3).then_some(one[1]);
                    let mut list = watch.list(instead);
                    if carriers & 2 != 0 {
                        list.insert(place % list.len(), watch.reach());
                    }
                    let mut bad = one.clone();
                    bad[2] = bad[2].saturating_add(overrun);
                    list.insert(place.min(list.len()), bad);
                    let nlri = if carriers & 1 != 0 {
                        watch.nlri(BOTH[0])
                    } else {
                        vec![]
                    };
                    watch.say(&update(&[], &list.concat(), &nlri), &|| {
                        format!(
                            "{one:02x?} at {place}, length {overrun} too high, carriers {carriers}"
                        )
                    });
                }
            }
        }
    }
    watch.saw_everything();
}

#[test]
fn no_fault_beside_prefixes_of_an_external_neighbour_hurts_anyone() {
    shapes("a", false);
}

#[test]
fn no_fault_beside_prefixes_of_a_client_hurts_anyone() {
    shapes("c", false);
}

#[test]
fn no_fault_beside_paths_of_an_old_neighbour_hurts_anyone() {
    shapes("a", true);
}

/// Multiprotocol attributes of both families: every length of next hop, what follows it, and every end of the prefixes.
fn multiprotocol(narrow: bool) {
    let mut watch = Watch::new("a", narrow);
    for (family, text) in [(1, "10.2.0.0/16"), (2, "2001:db8:2::/48")] {
        for length in [0_u8, 3, 4, 5, 15, 16, 17, 31, 32, 33] {
            let mut whole = watch.nlri(text);
            whole.extend(watch.nlri(["10.3.0.0/16", "2001:db8:3::/48"][family - 1]));
            for end in 0..=whole.len() {
                for reserved in [0, 255] {
                    watch.prepare(&["10.2.0.0/16", "2001:db8:2::/48"]);
                    let mut value = vec![0, u8::try_from(family).unwrap(), 1, length];
                    let address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
                    value.extend(address.into_iter().cycle().take(usize::from(length)));
                    value.push(reserved);
                    value.extend(&whole[..end]);
                    let mut list = watch.list(None);
                    list.insert(end % 3, attribute(0x80, 14, &value));
                    watch.say(&update(&[], &list.concat(), &[]), &|| {
                        format!("MP_REACH {value:02x?}")
                    });
                }
            }
        }
        let mut whole = vec![0, u8::try_from(family).unwrap(), 1];
        whole.extend(watch.nlri(text));
        for end in 0..=whole.len() {
            for flags in [0x80, 0xc0] {
                for alone in [true, false] {
                    watch.prepare(&["10.2.0.0/16", "2001:db8:2::/48"]);
                    let mut list = if alone { vec![] } else { watch.list(None) };
                    list.insert(0, attribute(flags, 15, &whole[..end]));
                    watch.say(&update(&[], &list.concat(), &[]), &|| {
                        format!("MP_UNREACH {flags:x} {:02x?}", &whole[..end])
                    });
                }
            }
        }
    }
    assert!(
        watch.resets > 100 && watch.uses > 50,
        "{} {}",
        watch.resets,
        watch.uses
    );
}

#[test]
fn no_multiprotocol_attribute_hurts_anyone() {
    multiprotocol(false);
}

#[test]
fn no_multiprotocol_attribute_with_identifiers_hurts_anyone() {
    multiprotocol(true);
}
