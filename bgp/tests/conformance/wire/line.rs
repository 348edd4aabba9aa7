//! A neighbour's end of a TCP connection, and how it says probes.

use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use bytes::BytesMut;
use margay_bgp::codec::{
    AddPathMode, Capability, EXTENDED_MAX_LEN, Message, Open, decode, framing as frames,
};
use margay_bgp::family::{Family, FamilySet};

use super::super::{CodecContext, attribute, update};
use super::probe_prefix;

/// A neighbour's end of its TCP connection.
pub(super) struct Line {
    pub(super) number: u32,
    /// The neighbour that has it, by whatever name.
    pub(super) whose: &'static str,
    pub(super) stream: TcpStream,
    /// How many octets more it reads.
    pub(super) allowance: Arc<AtomicUsize>,
    /// What was heard and is no whole message yet.
    pub(super) incoming: BytesMut,
    /// What was said of a message that is not whole.
    pub(super) outgoing: BytesMut,
    /// What was said is no message any more, or a last one.
    pub(super) broken: bool,
    pub(super) theirs: Option<Open>,
    pub(super) ours: Option<Open>,
    pub(super) confirmed: bool,
    pub(super) ends_of_rib: usize,
    /// The last probe seen, by family.
    pub(super) seen: [u32; 2],
    /// The last probe said, by family.
    pub(super) probed: [Option<u32>; 2],
    /// UPDATEs said.
    pub(super) updates: u64,
    /// The session was confirmed by a KEEPALIVE, or tried to be.
    pub(super) kept: bool,
    /// When anything was said last.
    pub(super) said: Instant,
}

fn families_of(open: &Open) -> FamilySet {
    let listed: Vec<Family> = open
        .capabilities
        .iter()
        .filter_map(|capability| {
            if let Capability::Multiprotocol(family) = capability {
                Some(*family)
            } else {
                None
            }
        })
        .collect();
    if listed.is_empty() {
        FamilySet::IPV4_UNICAST
    } else {
        listed.into_iter().collect()
    }
}

pub(super) fn has(open: &Open, wanted: fn(&Capability) -> bool) -> bool {
    open.capabilities.iter().any(wanted)
}

pub(super) fn add_paths(open: &Open, wanted: fn(AddPathMode) -> bool) -> FamilySet {
    open.capabilities
        .iter()
        .filter_map(|capability| {
            if let Capability::AddPath(tuples) = capability {
                Some(tuples)
            } else {
                None
            }
        })
        .flatten()
        .filter(|tuple| wanted(tuple.mode))
        .map(|tuple| tuple.family)
        .collect()
}

impl Line {
    pub(super) fn families(&self) -> FamilySet {
        match (&self.ours, &self.theirs) {
            (Some(ours), Some(theirs)) => families_of(ours) & families_of(theirs),
            _ => FamilySet::empty(),
        }
    }

    pub(super) fn is_established(&self) -> bool {
        self.confirmed && self.ends_of_rib > 0
    }

    /// Follows what is said, so that a probe never lands inside a message.
    pub(super) fn follow(&mut self, octets: &[u8]) {
        self.outgoing.extend_from_slice(octets);
        loop {
            match frames::split(&mut self.outgoing, EXTENDED_MAX_LEN) {
                Ok(None) => return,
                Ok(Some(frame)) => match decode(&frame.octets, &CodecContext::before_open()) {
                    Ok(Message::Open(open)) => self.ours = Some(open),
                    Ok(Message::Notification(_)) => self.broken = true,
                    Ok(Message::Update(_)) => self.updates += 1,
                    Ok(Message::Keepalive) => self.kept = true,
                    Ok(Message::RouteRefresh(_)) | Err(_) => {}
                },
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    /// An announcement of a probe in this session's terms, in the place of the one before.
    pub(super) fn probe(
        &self,
        family: Family,
        serial: u32,
        before: Option<u32>,
        next_hop: Ipv4Addr,
    ) -> Vec<u8> {
        let (Some(ours), Some(theirs)) = (&self.ours, &self.theirs) else {
            return Vec::new();
        };
        let asn = ours.asn.0;
        let inside = asn == theirs.asn.0;
        let is_wide = |open| has(open, |c| matches!(c, Capability::FourOctetAs(_)));
        let wide = is_wide(ours) && is_wide(theirs);
        let mut path = Vec::new();
        if !inside {
            path.extend([2, 1]);
            if wide {
                path.extend(asn.to_be_bytes());
            } else {
                path.extend(u16::try_from(asn).unwrap().to_be_bytes());
            }
        }
        let ids = add_paths(ours, AddPathMode::sends) & add_paths(theirs, AddPathMode::receives);
        let prefix = probe_prefix(family, serial);
        let mut nlri = Vec::new();
        if ids.has(family) {
            nlri.extend(1_u32.to_be_bytes());
        }
        nlri.push(prefix.len());
        let mut attributes = Vec::new();
        match prefix.addr() {
            IpAddr::V4(address) => nlri.extend(address.octets()),
            IpAddr::V6(address) => {
                nlri.extend(&address.octets()[..8]);
                let mut reach = vec![0, 2, 1, 16];
                reach.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77, 0]);
                reach.append(&mut nlri);
                attributes.extend(attribute(0x80, 14, &reach));
            }
        }
        attributes.extend(attribute(0x40, 1, &[0]));
        attributes.extend(attribute(0x40, 2, &path));
        if family == Family::IPV4_UNICAST {
            attributes.extend(attribute(0x40, 3, &next_hop.octets()));
        }
        if inside {
            attributes.extend(attribute(0x40, 5, &[0, 0, 0, 100]));
        }
        // Of its own kind, so that it travels alone.
        attributes.extend(attribute(0xc0, 8, &(0xfde7_0000 | serial).to_be_bytes()));
        let announces = update(&[], &attributes, &nlri);
        let Some(before) = before else {
            return announces;
        };
        let mut gone = Vec::new();
        if ids.has(family) {
            gone.extend(1_u32.to_be_bytes());
        }
        let withdraws = match probe_prefix(family, before).addr() {
            IpAddr::V4(address) => {
                gone.push(32);
                gone.extend(address.octets());
                update(&gone, &[], &[])
            }
            IpAddr::V6(address) => {
                let mut value = vec![0, 2, 1];
                value.append(&mut gone);
                value.push(64);
                value.extend(&address.octets()[..8]);
                update(&[], &attribute(0x80, 15, &value), &[])
            }
        };
        [withdraws, announces].concat()
    }
}
