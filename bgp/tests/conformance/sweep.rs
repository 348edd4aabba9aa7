//! Every attribute type in every form, from one neighbour to the others: its session stays wherever RFC 7606 says so, what
//! it said before stays in force, and nothing malformed is passed on.
//!
//! What becomes of the attribute itself is the codec's sweep (`tests/codec/sweep.rs`); this one watches the speaker. That the
//! others read what they are told without a fault is asserted by the harness, for every message.

use super::*;

const LENGTHS: [u8; 8] = [0, 1, 3, 4, 8, 12, 20, 255];

fn sweep(name: &'static str) {
    let mut lab = Lab::established(&["a", "b", "c", "d"]);
    lab.say(name, &announce(name, &["10.1.0.0/16"]));
    for code in 0..=255_u8 {
        for flags in (0..=255_u8).step_by(16) {
            for (turn, length) in LENGTHS.into_iter().enumerate() {
                let fill = [0, 1, 255][(usize::from(code) + turn) % 3];
                let value = vec![fill; usize::from(length)];
                let mut one = attribute(flags, code, &value);
                if flags & 0x10 != 0 {
                    one.insert(2, 0);
                }
                let mut list = usual(name);
                list.retain(|good| good[1] != code);
                list.insert((usize::from(flags >> 4) + turn) % (list.len() + 1), one);
                lab.say(name, &announce(name, &["10.2.0.0/16"]));
                lab.say(name, &update(&[], &list.concat(), &nlri(&["10.2.0.0/16"])));

                // Only the attributes that carry prefixes may end a session, and only where they cannot be read.
                let case = || format!("type {code} flags {flags:#x} length {length} of {fill:#x}");
                if lab.peer(name).state != State::Established {
                    assert!(code == 14 || code == 15, "{} ended the session", case());
                    assert!(
                        flags & 0xc0 != 0x80 || length < 5,
                        "{} ended the session",
                        case()
                    );
                    // The pause after an error grows to a minute.
                    lab.advance(61 * SECOND, &[]);
                    lab.establish(&[name]);
                    lab.say(name, &announce(name, &["10.1.0.0/16"]));
                }
                lab.holds("b", "10.1.0.0/16");
                // The route is as good as its attributes, or gone; the good one before it does not live on.
                if let Some((attributes, _)) = lab.ends["b"].table.get(&prefix("10.2.0.0/16")) {
                    for unknown in &attributes.unknown {
                        assert_eq!(
                            (unknown.code.0, &unknown.value[..]),
                            (code, &value[..]),
                            "{}",
                            case()
                        );
                        assert_eq!(unknown.flags.bits() & 0xe0, 0xe0, "{}", case());
                    }
                    assert!(flags & 0x80 != 0 || code < 64, "{} was used", case());
                }
            }
            for other in ["b", "c", "d"] {
                lab.assert_established(other);
                lab.told(other);
            }
        }
    }
}

#[test]
fn no_attribute_of_an_external_neighbour_hurts_anyone() {
    sweep("a");
}

#[test]
fn no_attribute_of_a_client_hurts_anyone() {
    sweep("c");
}
