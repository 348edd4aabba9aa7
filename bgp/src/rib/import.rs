//! What becomes of a received path before the decision sees it: loops, impossible next hops, import policy.
//!
//! A path that fails any of these is kept and flagged. It still replaces what the peer said before: a route that now
//! loops is no reason to go on using the one it replaced.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::attribute_store::{AttrId, AttributeStore, PathData};
use crate::asn::Asn;
use crate::codec::{Community, LocalPref, NextHop, PathAttributes};
use crate::policy::{Policy, RouteView, SourceKind};
use crate::prefix::Prefix;
use crate::router_id::RouterId;
use crate::speaker::snapshot::Unusable;

/// What import needs to know of the speaker and the session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImportContext<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) source: SourceKind,
    pub(crate) peer: &'a str,
    /// Our own ASs, possibly equal: the one we show this peer, and the speaker's.
    pub(crate) own_asns: [Asn; 2],
    pub(crate) allowed_local_as: u8,
    pub(crate) router_id: RouterId,
    pub(crate) cluster_ids: &'a BTreeSet<RouterId>,
    /// Our addresses, as far as the speaker knows them from its sessions.
    pub(crate) own_addresses: &'a BTreeSet<IpAddr>,
    /// The session runs over loopback addresses, as in a lab, where they are as good as any.
    pub(crate) loopback: bool,
}

/// What makes paths with these attributes and this next hop unusable, whatever their prefix.
pub(crate) fn check(
    context: &ImportContext<'_>,
    attributes: &PathAttributes,
    next_hop: Option<NextHop>,
) -> Option<Unusable> {
    let [shown, own] = context.own_asns;
    let mut occurrences = attributes.as_path.count(shown);
    if own != shown {
        occurrences += attributes.as_path.count(own);
    }
    if occurrences > usize::from(context.allowed_local_as) {
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
    let next_hop = next_hop?;
    let address = next_hop.addr();
    let martian = next_hop.is_martian() && !(context.loopback && address.is_loopback());
    (martian || context.own_addresses.contains(&address)).then_some(Unusable::NextHop)
}

/// What RFC 8326 §4.2 asks of whoever receives GRACEFUL_SHUTDOWN from another AS: the path is the last to be used.
pub(crate) fn honour_graceful_shutdown(
    context: &ImportContext<'_>,
    attributes: &mut PathAttributes,
) {
    if context.source == SourceKind::External
        && attributes
            .communities
            .contains(&Community::GRACEFUL_SHUTDOWN)
    {
        attributes.local_pref = Some(LocalPref(0));
    }
}

/// Applies import policy to one path. Returns an id with a reference of its own, or why the path is rejected.
pub(crate) fn apply_policy(
    context: &ImportContext<'_>,
    prefix: Prefix,
    received: AttrId,
    store: &mut AttributeStore,
) -> (AttrId, Option<Unusable>) {
    let data = store.data(received);
    let view = RouteView {
        prefix,
        attributes: &data.attributes,
        source: context.source,
        peer: context.peer,
    };
    let Some(rules) = context.policy.evaluate(&view) else {
        store.retain(received);
        return (received, Some(Unusable::RejectedByPolicy));
    };
    if rules.is_empty() {
        store.retain(received);
        return (received, None);
    }
    let mut attributes = PathAttributes::clone(&data.attributes);
    let changes = context.policy.rewrite(&rules, &mut attributes);
    let data = PathData {
        attributes: Arc::new(attributes),
        next_hop: changes
            .next_hop
            .map_or(data.next_hop, |address| Some(NextHop::from(address))),
        interface: data.interface,
        weight: changes.weight.unwrap_or(0),
    };
    (store.intern(data), None)
}
