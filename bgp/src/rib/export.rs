//! What a group of peers is told of a best path: the rules of iBGP, reflection (RFC 4456), eBGP and export policy.
//!
//! Two steps, at two times. [`export`] decides *whether* the group is told and which policy rules apply; it runs once per
//! change and group. [`rewrite`] makes the attributes that go on the wire; it runs when they are encoded, and its result
//! is not kept: a table of a million paths would double with it.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::attribute_store::{AttrId, AttributeStore, Marks};
use super::table::PathView;
use super::{LOCAL, PeerFacts, Slot};
use crate::asn::Asn;
use crate::codec::{CodecContext, Community, NextHop, PathAttributes};
use crate::family::{Afi, Family, FamilySet};
use crate::policy::{self, Action, AppliedRules, Policy, Rewrite, RouteView};
use crate::prefix::Prefix;
use crate::router_id::RouterId;
use crate::speaker::config::{AddPathSend, NextHopMode};

/// Everything that can change the octets a peer is sent. Peers with equal keys are told the same and share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupKey {
    pub(crate) family: Family,
    pub(crate) external: bool,
    /// The AS we show these peers.
    pub(crate) local_asn: Asn,
    /// They are our clients.
    pub(crate) client: bool,
    /// Our cluster towards internal peers. Others are not told of clusters, so a change must not move them.
    pub(crate) cluster_id: Option<RouterId>,
    pub(crate) next_hop_mode: NextHopMode,
    /// How we call ourselves as next hop on these sessions; nothing where the session has no address of the family.
    pub(crate) self_next_hop: Option<NextHop>,
    /// Where next hops of third parties may be passed on: the peer's own address, which must not be told to itself, and
    /// the subnets shared with it. Peers on such subnets are groups of one.
    pub(crate) third_party: Option<(IpAddr, Vec<Prefix>)>,
    /// They are told several paths of a prefix, each with its identifier (RFC 7911).
    pub(crate) add_path: Option<AddPathSend>,
    /// The sending half of what the OPENs settled; the rest is zero.
    pub(crate) context: CodecContext,
    /// They understand long-lived stale routes (RFC 9494).
    pub(crate) long_lived_aware: bool,
    pub(crate) policy: Arc<Policy>,
}

/// The part of a context that changes how octets are written.
pub(crate) fn sending_half(context: &CodecContext, family: Family) -> CodecContext {
    CodecContext {
        families: FamilySet::empty(),
        add_path_receive: FamilySet::empty(),
        add_path_send: context.add_path_send & FamilySet::of(family),
        extended_message_receive: false,
        enforce_first_as: None,
        allow_as_set: false,
        enhanced_route_refresh: false,
        ..*context
    }
}

/// That a group is told of a path, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Export {
    pub(crate) attributes: AttrId,
    pub(crate) source: Slot,
    /// Which state of what is known of the source it depends on.
    pub(crate) revision: u8,
    pub(crate) long_lived: bool,
    pub(crate) rules: AppliedRules,
}

/// What is encoded: an [`Export`] with the actions its rules amount to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told<'a> {
    pub(crate) attributes: AttrId,
    pub(crate) source: Slot,
    pub(crate) long_lived: bool,
    pub(crate) actions: &'a [Action],
}

/// Whether, and by which policy rules, the peers of `key` are told of `path`. The source itself is left out later.
pub(crate) fn export(
    key: &GroupKey,
    prefix: Prefix,
    path: &PathView,
    store: &AttributeStore,
    facts: &[PeerFacts],
) -> Option<Export> {
    let source = facts.get(usize::from(path.peer))?;
    let keys = store.keys(path.attributes);
    // RFC 1997: nobody, or nobody outside the AS; there are no confederations here.
    if keys.marks.contains(Marks::NO_ADVERTISE)
        || key.external
            && keys
                .marks
                .intersects(Marks::NO_EXPORT | Marks::NO_EXPORT_SUBCONFED)
    {
        return None;
    }
    // RFC 9494 §4.6: never to those who would take it for a fresh one.
    if path.long_lived && !key.long_lived_aware {
        return None;
    }
    // RFC 4271 §9.2, RFC 4456 §6: between internal peers only if one of them is a client.
    let learned_inside = path.peer != LOCAL && !source.external;
    if learned_inside && !key.external && !source.client && !key.client {
        return None;
    }
    let data = store.data(path.attributes);
    let rules = key.policy.evaluate(&RouteView {
        prefix,
        attributes: &data.attributes,
        source: source.kind(),
        peer: &source.name,
    })?;
    let export = Export {
        attributes: path.attributes,
        source: path.peer,
        // Externals are told nothing that depends on it.
        revision: if key.external { 0 } else { source.revision },
        long_lived: path.long_lived,
        rules,
    };
    // Without a next hop the peer could use, there is nothing to tell.
    let wanted = key.policy.next_hop(&export.rules);
    next_hop(key, data.next_hop, wanted, path.peer == LOCAL)?;
    Some(export)
}

/// The attributes and next hop that go on the wire; nothing where no next hop serves.
pub(crate) fn rewrite(
    key: &GroupKey,
    told: &Told<'_>,
    store: &AttributeStore,
    facts: &[PeerFacts],
) -> Option<(PathAttributes, NextHop)> {
    let data = store.data(told.attributes);
    let source = facts.get(usize::from(told.source))?;
    let local = told.source == LOCAL;
    let mut attributes = PathAttributes::clone(&data.attributes);
    let mut changes = Rewrite::default();
    policy::apply(told.actions, &mut attributes, &mut changes);
    let next_hop = next_hop(key, data.next_hop, changes.next_hop, local)?;
    if told.long_lived {
        attributes.communities.insert(Community::LLGR_STALE);
    }
    if key.external {
        attributes.as_path.prepend(key.local_asn, 1);
        attributes.local_pref = None;
        attributes.originator_id = None;
        attributes.cluster_list.clear();
        attributes
            .extended_communities
            .retain(|community| community.is_transitive());
        attributes
            .ipv6_extended_communities
            .retain(|community| community.is_transitive());
        if !local && !changes.med_set {
            // RFC 4271 §5.1.4: a received MED is not passed on to further ASs.
            attributes.med = None;
        }
    } else {
        attributes.local_pref.get_or_insert_default();
        if !local && !source.external {
            // RFC 4456 §8.
            if attributes.originator_id.is_none() {
                attributes.originator_id = RouterId::new(source.router_id);
            }
            if let Some(cluster_id) = key.cluster_id {
                if source.cluster_id != cluster_id {
                    attributes.cluster_list.insert(0, source.cluster_id);
                }
                attributes.cluster_list.insert(0, cluster_id);
            }
        }
    }
    Some((attributes, next_hop))
}

/// The next hop told to a group: RFC 4271 §5.1.3, RFC 2545 §3, RFC 8950 §4.
fn next_hop(
    key: &GroupKey,
    path: Option<NextHop>,
    policy: Option<IpAddr>,
    local: bool,
) -> Option<NextHop> {
    if let Some(address) = policy {
        let wanted = NextHop::from(address);
        if key.can_carry(wanted) {
            return Some(wanted);
        }
    }
    let Some(path) = path else {
        return key.self_next_hop;
    };
    let unchanged = || {
        passed_on(path)
            .filter(|next_hop| key.can_carry(*next_hop))
            .or(key.self_next_hop)
    };
    match key.next_hop_mode {
        NextHopMode::Keep => unchanged(),
        // Whoever originates a route with a next hop of its own means it: it is how IPv6 routes leave over an IPv4 session.
        NextHopMode::SelfAddress | NextHopMode::ForceSelf | NextHopMode::Auto if local => {
            unchanged()
        }
        NextHopMode::SelfAddress | NextHopMode::ForceSelf => key.self_next_hop,
        NextHopMode::Auto if !key.external => unchanged(),
        NextHopMode::Auto => {
            let shared = key.third_party.as_ref().is_some_and(|(peer, subnets)| {
                let address = path.addr();
                address != *peer
                    && subnets
                        .iter()
                        .any(|subnet| subnet.contains_addr(address) && holds(*subnet, *peer))
            });
            if shared {
                unchanged()
            } else if local {
                // What a route of ours names is an address of ours: it serves where the session has none of the family.
                key.self_next_hop.or_else(unchanged)
            } else {
                key.self_next_hop
            }
        }
    }
}

/// Whether the peer is in a subnet said to be shared with it. Its address in the other family is not known; that the subnet
/// is configured for it has to do.
fn holds(subnet: Prefix, peer: IpAddr) -> bool {
    subnet.addr().is_ipv4() != peer.is_ipv4() || subnet.contains_addr(peer)
}

/// A link-local address means nothing to anyone beyond the link it was learned on.
fn passed_on(next_hop: NextHop) -> Option<NextHop> {
    match next_hop {
        NextHop::V4(_) => Some(next_hop),
        NextHop::V6 { global, .. } => global.map(|global| NextHop::V6 {
            global: Some(global),
            link_local: None,
        }),
    }
}

impl GroupKey {
    fn can_carry(&self, next_hop: NextHop) -> bool {
        match next_hop {
            NextHop::V4(_) => self.family.afi == Afi::IPV4,
            NextHop::V6 { .. } => self.family.afi == Afi::IPV6 || self.context.extended_next_hop,
        }
    }
}

/// How we call ourselves by this address. Nothing for IPv6 routes by an IPv4 address: peers would be told an IPv4-mapped
/// one that no router forwards to. The configuration may name another address of ours.
pub(crate) fn self_next_hop(
    family: Family,
    local: IpAddr,
    context: &CodecContext,
) -> Option<NextHop> {
    match (family.afi, local) {
        (Afi::IPV4, IpAddr::V4(address)) => Some(NextHop::V4(address)),
        (Afi::IPV4, IpAddr::V6(address)) if context.extended_next_hop => Some(ipv6(address)),
        (Afi::IPV6, IpAddr::V6(address)) => Some(ipv6(address)),
        _ => None,
    }
}

fn ipv6(address: Ipv6Addr) -> NextHop {
    NextHop::from(IpAddr::V6(address))
}
