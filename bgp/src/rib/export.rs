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
use crate::codec::{AsPath, CodecContext, Community, LocalPref, NextHop, PathAttributes, Role};
use crate::family::{Afi, Family, FamilySet};
use crate::policy::{self, Action, AppliedRules, Policy, Rewrite, RouteView, SourceKind};
use crate::prefix::Prefix;
use crate::router_id::RouterId;
use crate::speaker::config::{AddPathSend, NextHopMode, RemovePrivateAs};

/// Everything that can change the octets a peer is sent. Peers with equal keys are told the same and share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupKey {
    pub(crate) family: Family,
    pub(crate) external: bool,
    /// The AS that we and they are in. Nothing for external ones.
    pub(crate) inside: Option<Asn>,
    /// The AS we show these peers.
    pub(crate) local_asn: Asn,
    /// The speaker's AS, where paths get it as well, behind the one shown (RFC 7705).
    pub(crate) second_asn: Option<Asn>,
    /// What we are to them (RFC 9234). Nothing for internal ones.
    pub(crate) role: Option<Role>,
    /// What becomes of private AS numbers.
    pub(crate) private_asns: Option<RemovePrivateAs>,
    /// Their own AS becomes ours.
    pub(crate) as_override: bool,
    /// Their AS, where one of the two above has to know it. Others may be in one group whatever their AS.
    pub(crate) peer_asn: Option<Asn>,
    /// They are told a default route of ours.
    pub(crate) default_route: bool,
    /// What they are told shall be used last.
    pub(crate) drained: bool,
    /// They are clients and are not told of routes of other clients.
    pub(crate) hides_clients: bool,
    /// They are our clients.
    pub(crate) client: bool,
    /// Our cluster towards internal peers. Others are not told of clusters, so a change must not move them.
    pub(crate) cluster_id: Option<RouterId>,
    pub(crate) next_hop_mode: NextHopMode,
    /// How we call ourselves as next hop on these sessions; nothing where the session has no address of the family.
    pub(crate) self_next_hop: Option<NextHop>,
    /// Where next hops of third parties may be passed on, or routes of ours and policy name the peer as one: its own address,
    /// which must not be told to itself, and the subnets shared with it. Such peers are groups of one.
    pub(crate) third_party: Option<(IpAddr, Vec<Prefix>)>,
    /// They are told several paths of a prefix, each with its identifier (RFC 7911).
    pub(crate) add_path: Option<AddPathSend>,
    /// The sending half of what the OPENs settled; the rest is zero.
    pub(crate) context: CodecContext,
    /// What becomes of long-lived stale routes (RFC 9494).
    pub(crate) long_lived: LongLivedTelling,
    pub(crate) policy: Arc<Policy>,
}

/// What peers are told of long-lived stale routes (RFC 9494 §4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LongLivedTelling {
    /// They know what it means.
    Marked,
    /// They do not, but are of our AS, and take them as the last choice that goes no further.
    LastResort,
    /// They do not.
    Nothing,
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

/// Why a group is not told of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Withheld {
    /// The rules of the protocol, or policy, keep it back.
    ByRule,
    /// No next hop could be told that leads anywhere: an operator should know.
    NoNextHop,
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
) -> Result<Export, Withheld> {
    let export = permitted(key, prefix, path, store, facts).ok_or(Withheld::ByRule)?;
    // Without a next hop the peer could use, there is nothing to tell.
    let source = facts.get(usize::from(path.peer)).ok_or(Withheld::ByRule)?;
    let wanted = key.policy.next_hop(&export.rules);
    let origin = origin_of(key, path.peer, source);
    match next_hop(key, store.data(path.attributes).next_hop, wanted, origin) {
        Some(_) => Ok(export),
        None => Err(Withheld::NoNextHop),
    }
}

/// What [`export`] says, next hops aside.
fn permitted(
    key: &GroupKey,
    prefix: Prefix,
    path: &PathView,
    store: &AttributeStore,
    facts: &[PeerFacts],
) -> Option<Export> {
    let source = facts.get(usize::from(path.peer))?;
    let keys = store.keys(path.attributes);
    let leaves_as = key.external || crosses(key, path.peer, source);
    // RFC 1997: nobody, or nobody outside the AS; there are no confederations here.
    if keys.marks.contains(Marks::NO_ADVERTISE)
        || leaves_as
            && keys
                .marks
                .intersects(Marks::NO_EXPORT | Marks::NO_EXPORT_SUBCONFED)
    {
        return None;
    }
    // RFC 9494 §4.3, §4.6: never to those who would take it for a fresh one, whoever it was that found it stale.
    let stale = path.long_lived || keys.marks.contains(Marks::LLGR_STALE);
    if stale && key.long_lived == LongLivedTelling::Nothing {
        return None;
    }
    // RFC 4271 §9.2, RFC 4456 §6: between internal peers of one AS only if one of them is a client.
    let stays_inside = path.peer != LOCAL && !source.external && !leaves_as;
    let kept_inside = !source.client && !key.client || source.client && key.hides_clients;
    if stays_inside && kept_inside {
        return None;
    }
    let data = store.data(path.attributes);
    // RFC 4456 §8: it has been in the cluster it would enter. Import looks for our clusters too, but not for one that came
    // with a configuration it has yet to be run with.
    if stays_inside
        && key
            .cluster_id
            .is_some_and(|cluster_id| data.attributes.cluster_list.contains(&cluster_id))
    {
        return None;
    }
    // RFC 9234 §5: what came from above or the side goes down only.
    if data.attributes.only_to_customer.is_some()
        && matches!(
            key.role,
            Some(Role::Customer | Role::Peer | Role::RouteServerClient)
        )
    {
        return None;
    }
    let rules = key.policy.evaluate(&RouteView {
        prefix,
        attributes: &data.attributes,
        source: source.kind(),
        peer: &source.name,
        interface: source.interface.as_deref().unwrap_or_default(),
    })?;
    Some(Export {
        attributes: path.attributes,
        source: path.peer,
        // Externals are told nothing that depends on it.
        revision: if key.external { 0 } else { source.revision },
        long_lived: path.long_lived,
        rules,
    })
}

/// The default route of ours that `key` is told without asking policy: whoever configures it for a peer means it.
pub(crate) fn export_default(key: &GroupKey, attributes: AttrId) -> Result<Export, Withheld> {
    next_hop(key, None, None, SourceKind::Local).ok_or(Withheld::NoNextHop)?;
    Ok(Export {
        attributes,
        source: LOCAL,
        revision: 0,
        long_lived: false,
        rules: AppliedRules::new(),
    })
}

/// Whether what is learned inside one AS is told inside another: we are in both, and the border between them is in here.
fn crosses(key: &GroupKey, slot: Slot, source: &PeerFacts) -> bool {
    slot != LOCAL && !source.external && key.inside.is_some_and(|asn| asn != source.asn)
}

/// What the source of a path is to the peers of `key`.
fn origin_of(key: &GroupKey, slot: Slot, source: &PeerFacts) -> SourceKind {
    if slot == LOCAL {
        SourceKind::Local
    } else if crosses(key, slot, source) {
        SourceKind::External
    } else {
        source.kind()
    }
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
    let crosses = crosses(key, told.source, source);
    let mut attributes = PathAttributes::clone(&data.attributes);
    // Before policy: what it puts into the path is meant to be there.
    hide_asns(key, &mut attributes.as_path);
    if crosses {
        // Without it nothing would tell the route from one of this AS, or keep it from coming back.
        attributes.as_path.prepend(source.asn, 1);
    }
    let mut changes = Rewrite::default();
    policy::apply(told.actions, &mut attributes, &mut changes);
    let origin = origin_of(key, told.source, source);
    let next_hop = next_hop(key, data.next_hop, changes.next_hop, origin)?;
    let marked = store
        .keys(told.attributes)
        .marks
        .contains(Marks::LLGR_STALE);
    let stale = told.long_lived || marked;
    if stale {
        // Also where policy took it away: it must not be lost on the way (RFC 9494 §4.6).
        attributes.communities.insert(Community::LLGR_STALE);
    }
    if key.external || crosses {
        leave_as(&mut attributes, local || changes.med_set);
    }
    if key.external {
        if let Some(asn) = key.second_asn {
            attributes.as_path.prepend(asn, 1);
        }
        attributes.as_path.prepend(key.local_asn, 1);
        // RFC 9234 §5.
        if matches!(
            key.role,
            Some(Role::Provider | Role::Peer | Role::RouteServer)
        ) {
            attributes.only_to_customer.get_or_insert(key.local_asn);
        }
        if key.drained {
            attributes.communities.insert(Community::GRACEFUL_SHUTDOWN);
        }
        attributes.local_pref = None;
    } else {
        attributes.local_pref.get_or_insert_default();
        if stale && key.long_lived == LongLivedTelling::LastResort {
            attributes.local_pref = Some(LocalPref(0));
            attributes.communities.insert(Community::NO_EXPORT);
        }
        if key.drained {
            attributes.local_pref = Some(LocalPref(0));
        }
        if !local && !source.external && !crosses {
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

/// Takes out what does not pass the border of an AS.
fn leave_as(attributes: &mut PathAttributes, med_is_ours: bool) {
    attributes.originator_id = None;
    attributes.cluster_list.clear();
    attributes
        .extended_communities
        .retain(|community| community.is_transitive());
    attributes
        .ipv6_extended_communities
        .retain(|community| community.is_transitive());
    if !med_is_ours {
        // RFC 4271 §5.1.4: a received MED is not passed on to further ASs.
        attributes.med = None;
    }
}

/// AS numbers that a group is not to see, or not as they are.
fn hide_asns(key: &GroupKey, path: &mut AsPath) {
    let Some(peer) = key.peer_asn else {
        return;
    };
    let hidden = |asn: Asn| asn.is_private() && asn != peer;
    match key.private_asns {
        None => {}
        Some(RemovePrivateAs::IfAllPrivate) if !path.iter().all(Asn::is_private) => {}
        Some(RemovePrivateAs::IfAllPrivate | RemovePrivateAs::All) => {
            path.retain(|asn| !hidden(asn));
        }
        Some(RemovePrivateAs::Replace) => path.replace_where(hidden, key.local_asn),
    }
    if key.as_override {
        path.replace(peer, key.local_asn);
    }
}

/// The next hop told to a group: RFC 4271 §5.1.3, RFC 4456 §10, RFC 2545 §3, RFC 8950 §4.
fn next_hop(
    key: &GroupKey,
    path: Option<NextHop>,
    policy: Option<IpAddr>,
    origin: SourceKind,
) -> Option<NextHop> {
    let local = origin == SourceKind::Local;
    let reflected = !key.external && matches!(origin, SourceKind::Internal | SourceKind::Client);
    let is_theirs = |next_hop: NextHop| {
        key.third_party
            .as_ref()
            .is_some_and(|(peer, _)| next_hop.addr() == *peer)
    };
    if let Some(address) = policy {
        let wanted = NextHop::from(address);
        if key.can_carry(wanted) && !is_theirs(wanted) {
            return Some(wanted);
        }
    }
    let Some(path) = path else {
        return key.self_next_hop;
    };
    let kept = passed_on(path).filter(|next_hop| key.can_carry(*next_hop) && !is_theirs(*next_hop));
    if reflected && key.next_hop_mode != NextHopMode::ForceSelf {
        // Who only reflects may have no way to where the route leads, and must not draw its traffic.
        return kept;
    }
    if local {
        // The peer that a route of ours names would send us what we send to it.
        let own = key.self_next_hop.filter(|_| !is_theirs(path));
        return match key.next_hop_mode {
            // Whoever originates a route with a next hop of its own means it: it is how IPv6 routes leave over an IPv4 session.
            NextHopMode::Auto | NextHopMode::Keep => kept.or(own),
            NextHopMode::SelfAddress | NextHopMode::ForceSelf => own.or(kept),
        };
    }
    match key.next_hop_mode {
        NextHopMode::Keep => kept.or(key.self_next_hop),
        NextHopMode::SelfAddress | NextHopMode::ForceSelf => key.self_next_hop,
        NextHopMode::Auto if !key.external => kept.or(key.self_next_hop),
        NextHopMode::Auto => {
            let shared = key.third_party.as_ref().is_some_and(|(peer, subnets)| {
                let address = path.addr();
                subnets
                    .iter()
                    .any(|subnet| subnet.contains_addr(address) && holds(*subnet, *peer))
            });
            kept.filter(|_| shared).or(key.self_next_hop)
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

/// How we call ourselves on a session that has `local` as our address, where `named` is the one the configuration names.
pub(crate) fn own_next_hop(
    family: Family,
    local: IpAddr,
    named: Option<IpAddr>,
    context: &CodecContext,
) -> Option<NextHop> {
    let on_session = self_next_hop(family, local, context);
    let named = named.and_then(|address| self_next_hop(family, address, context));
    match (on_session, named) {
        // RFC 2545 §3: beside the address that can be resolved everywhere, the one on the link.
        (
            Some(NextHop::V6 {
                global: None,
                link_local,
            }),
            Some(NextHop::V6 {
                global: Some(global),
                ..
            }),
        ) => Some(NextHop::V6 {
            global: Some(global),
            link_local,
        }),
        // IPv4 routes need no IPv6 next hop where an IPv4 one is named: everybody understands that.
        (Some(NextHop::V6 { global: None, .. }), Some(named @ NextHop::V4(_))) => Some(named),
        (on_session, named) => on_session.or(named),
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
