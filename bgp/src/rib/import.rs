//! What becomes of a received path before the decision sees it: loops, impossible next hops, import policy.
//!
//! A path that fails any of these is kept and flagged. It still replaces what the peer said before: a route that now
//! loops is no reason to go on using the one it replaced.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::attribute_store::{AttrId, AttributeStore, Marks, PathData};
use crate::asn::Asn;
use crate::codec::{Community, LocalPref, NextHop, PathAttributes, Role};
use crate::policy::{Policy, RouteView, SourceKind};
use crate::prefix::Prefix;
use crate::router_id::RouterId;
use crate::speaker::snapshot::Unusable;

/// An address of ours and the link it is on: zero where it means the same on every link, or the link is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OwnAddress {
    address: IpAddr,
    link: u32,
}

impl OwnAddress {
    /// One that is good everywhere, or link-local and of no known link.
    pub(crate) const fn anywhere(address: IpAddr) -> Self {
        Self { address, link: 0 }
    }

    pub(crate) const fn is_link_local(self) -> bool {
        matches!(self.address, IpAddr::V6(address) if address.is_unicast_link_local())
    }

    pub(crate) const fn address(self) -> IpAddr {
        self.address
    }
}

impl From<SocketAddr> for OwnAddress {
    fn from(socket: SocketAddr) -> Self {
        let link = match socket {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => v6.scope_id(),
            SocketAddr::V4(_) | SocketAddr::V6(_) => 0,
        };
        Self {
            address: socket.ip(),
            link,
        }
    }
}

/// What import needs to know of the speaker and the session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImportContext<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) source: SourceKind,
    pub(crate) peer: &'a str,
    /// The interface it is on; empty where that is not known.
    pub(crate) interface: &'a str,
    pub(crate) peer_asn: Asn,
    /// Our own ASs, possibly equal: the one we show this peer, and the speaker's where that makes a loop too.
    pub(crate) own_asns: [Asn; 2],
    /// What paths get in front (RFC 7705 §3.3).
    pub(crate) prepend: Option<Asn>,
    /// What we are to the peer (RFC 9234).
    pub(crate) role: Option<Role>,
    pub(crate) allowed_local_as: u8,
    pub(crate) router_id: RouterId,
    pub(crate) cluster_ids: &'a BTreeSet<RouterId>,
    /// Our addresses, as far as the speaker knows them from its sessions and listeners.
    pub(crate) own_addresses: &'a BTreeSet<OwnAddress>,
    /// Where the peer is on the session.
    pub(crate) remote: SocketAddr,
    /// The subnets shared with a peer that is one hop away; none where that, or they, are not known.
    pub(crate) shared_subnets: &'a [Prefix],
    /// GRACEFUL_SHUTDOWN is heeded.
    pub(crate) graceful_shutdown: bool,
    /// The session is being drained.
    pub(crate) drained: bool,
}

/// What makes paths with these attributes and this next hop unusable, whatever their prefix.
pub(crate) fn check(
    context: &ImportContext<'_>,
    attributes: &PathAttributes,
    next_hop: Option<NextHop>,
) -> Option<Unusable> {
    // Each by itself: a route of ours comes back with both where paths are told with both.
    let allowed = usize::from(context.allowed_local_as);
    let [shown, own] = context.own_asns;
    if attributes.as_path.count(shown) > allowed
        || own != shown && attributes.as_path.count(own) > allowed
    {
        return Some(Unusable::AsLoop);
    }
    if attributes.originator_id == Some(context.router_id) {
        return Some(Unusable::OwnOriginator);
    }
    if attributes
        .cluster_list
        .iter()
        .any(|cluster| context.cluster_ids.contains(cluster))
    {
        return Some(Unusable::ClusterLoop);
    }
    if is_leak(context, attributes) {
        return Some(Unusable::RouteLeak);
    }
    let next_hop = next_hop?;
    let unusable = leads_nowhere(context, next_hop) || is_beyond_the_link(context, next_hop.addr());
    unusable.then_some(Unusable::NextHop)
}

/// RFC 4271 §6.3: what makes paths to a prefix unusable, whatever they are. Of some blocks no address is ever a host somewhere
/// else, while 240/4 was only never given out and 169.254/16 is routed by some: those are for policy to refuse.
#[inline]
pub(crate) fn check_prefix(prefix: Prefix) -> Option<Unusable> {
    // The first octet lets nearly everything pass. A shorter prefix, such as half of everything, holds other addresses as well.
    let nowhere = match prefix {
        Prefix::V4(prefix) => match prefix.bits() >> 24 {
            0 | 127 => prefix.len() >= 8,
            224..=239 => prefix.len() >= 4,
            _ => false,
        },
        Prefix::V6(prefix) => match prefix.bits() >> 120 {
            0 => prefix.len() == 128 && prefix.bits() <= 1,
            0xfe => prefix.len() >= 10 && prefix.addr().is_unicast_link_local(),
            0xff => prefix.len() >= 8,
            _ => false,
        },
    };
    nowhere.then_some(Unusable::Prefix)
}

/// Whether nothing can be sent to a next hop, whoever named it.
fn leads_nowhere(context: &ImportContext<'_>, next_hop: NextHop) -> bool {
    let address = next_hop.addr();
    // Over loopback addresses, as in a lab, they are as good as any.
    let in_lab = context.remote.ip().is_loopback() && address.is_loopback();
    next_hop.is_martian() && !in_lab
        || is_ours(context, address)
        || is_of_no_link(context, next_hop)
}

/// The interface of a link-local next hop: that of the session.
pub(crate) const fn interface_of(next_hop: NextHop, remote: SocketAddr) -> u32 {
    match (next_hop, remote) {
        (
            NextHop::V6 {
                link_local: Some(_),
                ..
            },
            SocketAddr::V6(remote),
        ) => remote.scope_id(),
        _ => 0,
    }
}

/// Whether a next hop is an address of ours: a link-local one only on its own link, as on every other it is somebody else's.
fn is_ours(context: &ImportContext<'_>, address: IpAddr) -> bool {
    let own = context.own_addresses;
    let on_link = |link| own.contains(&OwnAddress { address, link });
    on_link(0) || matches!(context.remote, SocketAddr::V6(remote) if on_link(remote.scope_id()))
}

/// A link-local address alone says nothing where the session does not say which link.
const fn is_of_no_link(context: &ImportContext<'_>, next_hop: NextHop) -> bool {
    let on_link = matches!(context.remote, SocketAddr::V6(remote) if remote.scope_id() != 0);
    matches!(next_hop, NextHop::V6 { global: None, .. }) && !on_link
}

/// RFC 4271 §5.1.3, §6.3: an external peer one hop away names itself or somebody on the subnet it shares with us. What is shared
/// in the other family is not known from subnets of one.
fn is_beyond_the_link(context: &ImportContext<'_>, address: IpAddr) -> bool {
    if context.source != SourceKind::External || address == context.remote.ip() {
        return false;
    }
    let mut known = context
        .shared_subnets
        .iter()
        .filter(|subnet| subnet.addr().is_ipv4() == address.is_ipv4())
        .peekable();
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    known.peek().is_some() && !link_local && !known.any(|subnet| subnet.contains_addr(address))
}

/// RFC 9234 §5: what a customer or a client of our route server has from a provider, peer or route server of its own, it must
/// not tell us; nor a peer what is not its own or its customers'.
fn is_leak(context: &ImportContext<'_>, attributes: &PathAttributes) -> bool {
    let Some(otc) = attributes.only_to_customer else {
        return false;
    };
    match context.role {
        Some(Role::Provider | Role::RouteServer) => true,
        Some(Role::Peer) => otc != context.peer_asn,
        Some(Role::Customer | Role::RouteServerClient | Role::Other(_)) | None => false,
    }
}

/// Attributes as import policy sees them, where that is not as they were received.
pub(crate) fn adjusted(
    context: &ImportContext<'_>,
    attributes: &PathAttributes,
) -> Option<PathAttributes> {
    // RFC 9234 §5: what goes down may only go further down from here.
    let downwards = matches!(
        context.role,
        Some(Role::Customer | Role::Peer | Role::RouteServerClient)
    );
    let marked = downwards && attributes.only_to_customer.is_none();
    if !marked && context.prepend.is_none() {
        return None;
    }
    let mut attributes = attributes.clone();
    if marked {
        attributes.only_to_customer = Some(context.peer_asn);
    }
    if let Some(asn) = context.prepend {
        attributes.as_path.prepend(asn, 1);
    }
    Some(attributes)
}

/// Applies import policy to one path, of which `base` is the [adjusted] form. Returns an id with a reference of its own and why the
/// path cannot be used, if so; where policy rejects it, the id is that of what was received.
pub(crate) fn apply_policy(
    context: &ImportContext<'_>,
    prefix: Prefix,
    received: AttrId,
    base: AttrId,
    store: &mut AttributeStore,
) -> (AttrId, Option<Unusable>) {
    let data = store.data(base);
    let view = RouteView {
        prefix,
        attributes: &data.attributes,
        source: context.source,
        peer: context.peer,
        interface: context.interface,
    };
    let Some(rules) = context.policy.evaluate(&view) else {
        store.retain(received);
        return (received, Some(Unusable::RejectedByPolicy));
    };
    let marked = store.keys(base).marks.contains(Marks::GRACEFUL_SHUTDOWN);
    if rules.is_empty() && !goes_last(context, marked) {
        store.retain(base);
        return (base, None);
    }
    let mut attributes = PathAttributes::clone(&data.attributes);
    let changes = context.policy.rewrite(&rules, &mut attributes);
    let mut weight = changes.weight.unwrap_or(0);
    let marked = attributes
        .communities
        .contains(&Community::GRACEFUL_SHUTDOWN);
    if goes_last(context, marked) {
        attributes.local_pref = Some(LocalPref(0));
        weight = 0;
    }
    if changes.discard {
        // RFC 7999 §3.2: it is not to spread beyond those whose policy asked for it.
        attributes.communities.insert(Community::NO_EXPORT);
    }
    let set = changes
        .next_hop
        .map(NextHop::from)
        .filter(|next_hop| can_lead_to(*next_hop, prefix));
    let data = PathData {
        attributes: Arc::new(attributes),
        next_hop: set.or(data.next_hop),
        interface: set.map_or(data.interface, |next_hop| {
            interface_of(next_hop, context.remote)
        }),
        weight,
        discard: changes.discard,
    };
    // Interned all the same: an address that is ours now may be another's later, and its users are found by it.
    // What is dropped needs no way there.
    let unusable = set.filter(|next_hop| !changes.discard && leads_nowhere(context, *next_hop));
    (store.intern(data), unusable.map(|_| Unusable::NextHop))
}

/// IPv4 goes by IPv6 next hops too (RFC 8950), but nothing goes the other way round.
const fn can_lead_to(next_hop: NextHop, prefix: Prefix) -> bool {
    matches!(
        (next_hop, prefix),
        (NextHop::V6 { .. }, _) | (_, Prefix::V4(_))
    )
}

/// Whether a path is the last to be used: what RFC 8326 §4.2 asks of whoever receives GRACEFUL_SHUTDOWN from another AS, and
/// §4.1 of whoever is to lose the session. It comes after policy, which may take the community away and with it the effect.
fn goes_last(context: &ImportContext<'_>, marked: bool) -> bool {
    context.drained || marked && context.graceful_shutdown && context.source == SourceKind::External
}
