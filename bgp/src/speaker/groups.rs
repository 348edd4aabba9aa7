//! Which group of peers a neighbour is told with.

use std::sync::Arc;

use super::neighbour::FamilySession;
use super::{Speaker, with_rib};
use crate::family::Family;
use crate::rib::Slot;
use crate::rib::adj_rib_out::Entrance;
use crate::rib::export::{GroupKey, LongLivedTelling, own_next_hop, sending_half};
use crate::speaker::config::{AddPathSend, NextHopMode};

impl Speaker {
    /// What decides which group a peer is in.
    pub(super) fn group_key(&self, slot: Slot, family: Family) -> Option<GroupKey> {
        let neighbour = self.neighbour(slot)?;
        let negotiated = &neighbour.session.as_ref()?.negotiated;
        let config = &neighbour.config;
        let external = negotiated.external;
        let peer = negotiated.remote.ip();
        let shared_subnets = match config.next_hop {
            NextHopMode::Auto if external => config.connected_subnets.clone(),
            NextHopMode::Auto
            | NextHopMode::Keep
            | NextHopMode::SelfAddress
            | NextHopMode::ForceSelf => Vec::new(),
        };
        let may_be_named = external && config.next_hop == NextHopMode::Keep
            || !shared_subnets.is_empty()
            || self.named_next_hops.contains(&peer)
            || config.export.names_next_hop(peer);
        let client = config.route_reflector_client && !external;
        let private_asns = config.remove_private_as.filter(|_| external);
        let as_override = config.as_override && external;
        Some(GroupKey {
            family,
            external,
            inside: (!external).then(|| config.asn_inside(negotiated.local_asn, self.config.asn)),
            local_asn: negotiated.local_asn,
            second_asn: (external
                && config.shows_both_asns()
                && negotiated.local_asn != self.config.asn)
                .then_some(self.config.asn),
            role: negotiated.role,
            private_asns,
            as_override,
            peer_asn: (private_asns.is_some() || as_override).then_some(negotiated.peer_asn),
            default_route: config.default_originate,
            drained: config.drain || self.config.drain,
            hides_clients: client && !self.config.client_to_client,
            client,
            cluster_id: (!external).then(|| {
                config
                    .cluster_id
                    .or(self.config.cluster_id)
                    .unwrap_or(self.config.router_id)
            }),
            next_hop_mode: config.next_hop,
            self_next_hop: own_next_hop(
                family,
                negotiated.local.ip(),
                config.next_hop_address,
                &negotiated.context,
            ),
            third_party: may_be_named.then_some((peer, shared_subnets)),
            add_path: negotiated
                .context
                .sends_path_ids(family)
                .then(|| config.add_path_send.unwrap_or(AddPathSend::All)),
            context: sending_half(&negotiated.context, family),
            long_lived: match config.long_lived {
                _ if negotiated.peer_long_lived.is_some() => LongLivedTelling::Marked,
                Some(long_lived) if long_lived.partial_deployment && !external => {
                    LongLivedTelling::LastResort
                }
                _ => LongLivedTelling::Nothing,
            },
            policy: Arc::clone(&config.export),
        })
    }

    pub(super) fn join(&mut self, slot: Slot, family: Family, entrance: Entrance) {
        let Some(key) = self.group_key(slot, family) else {
            return;
        };
        let router_id = self
            .tables
            .facts
            .get(usize::from(slot))
            .map_or(0, |facts| facts.router_id);
        let (group, member) = with_rib!(self.tables, family, |rib| rib
            .join(key, slot, router_id, entrance));
        let Some(session) = self
            .neighbour_mut(slot)
            .and_then(|neighbour| neighbour.session.as_mut())
        else {
            return;
        };
        let before = session.family(family).copied();
        let carried = FamilySession {
            group,
            member,
            end_of_rib_received: before.is_some_and(|before| before.end_of_rib_received),
            refresh_ends: before.and_then(|before| before.refresh_ends),
            discarded: before.is_some_and(|before| before.discarded),
            excess: before.is_some_and(|before| before.excess),
            asked: before.and_then(|before| before.asked),
            ask: before.and_then(|before| before.ask),
        };
        match family {
            Family::IPV6_UNICAST => session.ipv6 = Some(carried),
            _ => session.ipv4 = Some(carried),
        }
    }
}
