//! What the targets share: input octets as choices, and a judge of UPDATEs that knows nothing of the codec.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use margay_bgp::asn::Asn;
use margay_bgp::codec::{
    Aggregator, AsPath, AttributeCode, AttributeFlags, CodecContext, Community, DecodeError,
    ExtendedCommunity, FaultAction, LargeCommunity, LocalPref, Med, Message, NextHop, Nlri, Origin,
    PathAttributes, PathId, UnknownAttribute,
};
use margay_bgp::family::{Family, FamilySet};
use margay_bgp::prefix::{Ipv4Prefix, Ipv6Prefix};
use margay_bgp::router_id::RouterId;

#[path = "../../tests/reference/mod.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod reference;

/// # Panics
/// The codec reads the UPDATE otherwise than the reference.
pub fn hold_against_reference(
    octets: &[u8],
    context: &CodecContext,
    result: &Result<Message, DecodeError>,
) {
    reference::hold_against_reference(octets, context, result);
}

/// What an UPDATE cost its sender: nothing, an attribute, its routes, a family, the session.
pub fn severity(result: &Result<Message, DecodeError>) -> usize {
    match result {
        Err(_) => 4,
        Ok(Message::Update(update)) => update
            .faults
            .iter()
            .map(|fault| match fault.action {
                FaultAction::AttributeDiscard => 1,
                FaultAction::TreatAsWithdraw => 2,
                FaultAction::DisableFamily => 3,
            })
            .max()
            .unwrap_or(0),
        Ok(_) => 0,
    }
}

/// An allocator that knows how much is in use, and the most there was since asked.
#[derive(Debug)]
pub struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's doing; the counters change nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }
}

/// What `work` gives, and how much more memory was in use meanwhile than before. Only in targets that allocate by
/// [`Counting`].
pub fn memory_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = IN_USE.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let result = work();
    (result, MOST.load(Ordering::Relaxed) - before)
}

/// The input read as choices. Where it ends, every choice is the first one.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// The choices `data` stands for.
    pub const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether the input has ended.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One octet.
    pub fn octet(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    /// A number below `limit`, which is at most 256.
    pub fn below(&mut self, limit: u16) -> u16 {
        u16::from(self.octet()) % limit
    }

    /// Four octets, big endian.
    pub fn word(&mut self) -> u32 {
        u32::from_be_bytes([self.octet(), self.octet(), self.octet(), self.octet()])
    }

    /// Up to `most` octets as they stand.
    pub fn octets(&mut self, most: usize) -> &'a [u8] {
        let count = usize::from(self.octet()).min(most).min(self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    /// Yes or no.
    pub fn flag(&mut self) -> bool {
        self.octet() & 1 != 0
    }

    /// An AS number; 0 is none.
    pub fn asn(&mut self) -> Asn {
        match self.below(4) {
            0 => Asn(64_512 + u32::from(self.octet())),
            1 => Asn(23_456),
            2 => Asn(4_200_000_000 + u32::from(self.octet())),
            _ => Asn(self.word().max(1)),
        }
    }

    fn router_id(&mut self) -> RouterId {
        RouterId::new(self.word().max(1)).expect("not zero")
    }

    /// A context in which both sides agreed to the same.
    pub fn context(&mut self) -> CodecContext {
        context(u16::from_be_bytes([self.octet(), self.octet()]))
    }

    /// Attributes as they can be known in some context.
    pub fn attributes(&mut self) -> PathAttributes {
        let present = u16::from_be_bytes([self.octet(), self.octet()]);
        let has = |index: u16| present >> index & 1 != 0;
        let mut attributes = PathAttributes {
            origin: [Origin::Igp, Origin::Egp, Origin::Incomplete][usize::from(self.below(3))],
            local_pref: Some(LocalPref(self.word())),
            ..PathAttributes::default()
        };
        let hops: Vec<Asn> = (0..self.below(32)).map(|_| self.asn()).collect();
        attributes.as_path = AsPath::from_sequence(hops);
        if has(0) {
            attributes.med = Some(Med(self.word()));
        }
        attributes.atomic_aggregate = has(1);
        if has(2) {
            attributes.aggregator = Some(Aggregator {
                asn: self.asn(),
                addr: self.word().into(),
            });
        }
        if has(3) {
            attributes.originator_id = Some(self.router_id());
        }
        if has(4) {
            attributes.cluster_list = (0..=self.below(8)).map(|_| self.router_id()).collect();
        }
        if has(5) {
            attributes.communities = (0..=self.below(64))
                .map(|_| Community(self.word()))
                .collect();
        }
        if has(6) {
            attributes.large_communities = (0..=self.below(16))
                .map(|_| LargeCommunity::new(self.asn(), self.word(), self.word()))
                .collect();
        }
        if has(7) {
            attributes.extended_communities = (0..=self.below(8))
                .map(|_| ExtendedCommunity(u64::from(self.word()) << 32 | u64::from(self.word())))
                .collect();
        }
        if has(8) {
            attributes.only_to_customer = Some(self.asn());
        }
        if has(9) {
            let code = AttributeCode(36 + (self.octet() % 200));
            // PREFIX_SID and ATTR_SET included: both are passed on as they came.
            attributes.unknown.push(UnknownAttribute {
                code,
                flags: AttributeFlags::OPTIONAL
                    | AttributeFlags::TRANSITIVE
                    | AttributeFlags::PARTIAL,
                value: Bytes::copy_from_slice(self.octets(255)),
            });
        }
        attributes
    }

    /// Prefixes of one family, identified where `context` says so.
    pub fn nlri(&mut self, family: Family, context: &CodecContext, most: u16) -> Vec<Nlri> {
        let with_id = context.sends_path_ids(family);
        (0..=self.below(most))
            .map(|_| {
                let prefix = if family == Family::IPV4_UNICAST {
                    let len = u8::try_from(self.below(33)).expect("at most 32");
                    Ipv4Prefix::new(self.word().into(), len)
                        .expect("at most 32")
                        .into()
                } else {
                    let len = u8::try_from(self.below(129)).expect("at most 128");
                    let bits = u128::from(self.word()) << 96 | u128::from(self.word());
                    Ipv6Prefix::new(bits.into(), len)
                        .expect("at most 128")
                        .into()
                };
                Nlri {
                    prefix,
                    path_id: with_id.then(|| PathId(self.word())),
                }
            })
            .collect()
    }

    /// A next hop `context` allows for `family`.
    pub fn next_hop(&mut self, family: Family, context: &CodecContext) -> NextHop {
        let global = Some("2001:db8::1".parse().expect("an address"));
        let link_local = Some("fe80::1".parse().expect("an address"));
        let choice = self.below(4);
        if family == Family::IPV4_UNICAST && (!context.extended_next_hop || choice == 0) {
            return NextHop::V4([192, 0, 2, 1].into());
        }
        match choice {
            1 => NextHop::V6 { global, link_local },
            2 => NextHop::V6 {
                global: None,
                link_local,
            },
            _ => NextHop::V6 {
                global,
                link_local: None,
            },
        }
    }
}

/// A context by number: one bit for each thing two OPENs can settle.
pub fn context(bits: u16) -> CodecContext {
    let bit = |index: u16| bits >> index & 1 != 0;
    let path_ids = FamilySet::from_bits_truncate((bits >> 1 & 3) as u8);
    CodecContext {
        four_octet_as: bit(0),
        families: if bit(3) {
            FamilySet::IPV6_UNICAST
        } else {
            FamilySet::all()
        },
        add_path_receive: path_ids,
        add_path_send: path_ids,
        extended_message_receive: bit(4),
        extended_message_send: bit(4),
        extended_next_hop: bit(5),
        link_local_next_hop: bit(6),
        enhanced_route_refresh: bit(7),
        peer_is_external: bit(8),
        enforce_first_as: bit(9).then_some(Asn(64512)),
        allow_as_set: bit(10),
        strict_attributes: bit(11),
        afi_safi_disable: bit(12),
        ..CodecContext::default()
    }
}

/// Judges one UPDATE as speakers from before RFC 7606 do: lengths add up, the multiprotocol attribute comes first and the
/// others ascend, flags are exact, there is one kind of prefixes, no host bits are set.
pub fn judge(message: &[u8], path_ids: FamilySet) {
    let length = |at: usize| usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
    assert_eq!(length(16), message.len());
    let withdrawn = length(19);
    let attributes_at = 21 + withdrawn + 2;
    let end = attributes_at + length(21 + withdrawn);
    let mut kinds = usize::from(withdrawn > 0) + usize::from(end < message.len());
    let with_id = path_ids.has(Family::IPV4_UNICAST);
    judge_prefixes(&message[21..21 + withdrawn], 32, with_id);
    judge_prefixes(&message[end..], 32, with_id);
    let mut at = attributes_at;
    let mut last = None;
    while at < end {
        let (flags, code) = (message[at], message[at + 1]);
        let size = if flags & 0x10 == 0 {
            at += 3;
            usize::from(message[at - 1])
        } else {
            at += 4;
            length(at - 2)
        };
        assert_eq!(
            flags & 0x10 != 0,
            size > 255,
            "extended length only where needed"
        );
        assert_eq!(flags & 0x0f, 0);
        let expected: &[u8] = match code {
            1..=3 | 5 | 6 => &[0x40],
            4 | 9 | 10 | 14 | 15 => &[0x80],
            7 | 8 | 16..=18 | 25 | 32 | 35 => &[0xc0, 0xe0],
            _ => &[0xe0],
        };
        assert!(expected.contains(&(flags & 0xe0)), "flags of {code}");
        let value = &message[at..at + size];
        if code == 14 || code == 15 {
            assert_eq!(last, None, "multiprotocol attribute first");
            kinds += 1;
            let (bits, family) = match (value[1], value[2]) {
                (1, 1) => (32, Family::IPV4_UNICAST),
                (2, 1) => (128, Family::IPV6_UNICAST),
                other => panic!("family {other:?}"),
            };
            let start = if code == 14 {
                5 + usize::from(value[3])
            } else {
                3
            };
            judge_prefixes(&value[start..], bits, path_ids.has(family));
        } else {
            assert!(Some(code) > last, "{code} after {last:?}");
            last = Some(code);
        }
        at += size;
    }
    assert_eq!(at, end);
    assert!(kinds <= 1, "one kind of prefixes");
}

fn judge_prefixes(mut octets: &[u8], bits: u8, with_id: bool) {
    while !octets.is_empty() {
        octets = &octets[if with_id { 4 } else { 0 }..];
        let len = octets[0];
        assert!(len <= bits);
        let (address, rest) = octets[1..].split_at(usize::from(len.div_ceil(8)));
        if len % 8 != 0 {
            let last = address[address.len() - 1];
            assert_eq!(last & (0xff >> (len % 8)), 0, "host bits");
        }
        octets = rest;
    }
}
