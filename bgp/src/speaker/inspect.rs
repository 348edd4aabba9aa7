//! What can be asked of a speaker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::neighbour::Neighbour;
use super::snapshot::{
    Matching, MemorySnapshot, PathInfo, PeerFamilySnapshot, PeerSnapshot, Retention, RouteInfo,
    RouteQuery, SpeakerSnapshot, TableSnapshot,
};
use super::{Speaker, with_rib_ref};
use crate::decision::{self, Step};
use crate::family::{AddressFamily, Family};
use crate::prefix::Prefix;
use crate::rib::table::{Key, NetId, PathView};
use crate::rib::{FamilyRib, Slot, View, source_of};

impl Speaker {
    /// The speaker at this moment.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> SpeakerSnapshot {
        let mut peers: Vec<PeerSnapshot> = self
            .slots()
            .filter_map(|slot| Some((slot, self.neighbour(slot)?)))
            .filter(|(_, neighbour)| !neighbour.leaving)
            .map(|(slot, neighbour)| self.peer_snapshot(slot, neighbour, now))
            .collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        let (ipv4, ipv6) = (&self.tables.ipv4, &self.tables.ipv6);
        let (ipv4_memory, ipv6_memory) = (ipv4.table.memory(), ipv6.table.memory());
        SpeakerSnapshot {
            router_id: self.config.router_id,
            asn: self.config.asn,
            peers,
            tables: vec![table_snapshot(ipv4), table_snapshot(ipv6)],
            attribute_sets: self.tables.store.len(),
            memory: MemorySnapshot {
                prefixes: ipv4_memory.0 + ipv6_memory.0,
                paths: ipv4_memory.1 + ipv6_memory.1,
                attributes: self.tables.store.memory(),
                groups: ipv4
                    .groups()
                    .map(|(_, group)| group.memory())
                    .sum::<usize>()
                    + ipv6
                        .groups()
                        .map(|(_, group)| group.memory())
                        .sum::<usize>(),
            },
            deferring: Family::ALL
                .into_iter()
                .filter(|family| with_rib_ref!(self.tables, *family, |rib| rib.is_deferred()))
                .collect(),
        }
    }

    fn peer_snapshot(&self, slot: Slot, neighbour: &Neighbour, now: Instant) -> PeerSnapshot {
        let session = neighbour.session.as_ref();
        let negotiated = session.map(|session| &session.negotiated);
        let config = &neighbour.config;
        let local_asn = config.local_asn.unwrap_or(self.config.asn);
        let direction = negotiated.map(|negotiated| negotiated.direction);
        PeerSnapshot {
            name: Arc::clone(&neighbour.name),
            address: neighbour.address,
            dynamic: neighbour.range.is_some(),
            local_address: neighbour.local_address().or(config.local_address),
            asn: config.asn,
            local_asn,
            external: config.asn != local_asn,
            route_reflector_client: config.route_reflector_client,
            enabled: config.enabled,
            state: neighbour.fsm.state(),
            state_for: now.saturating_duration_since(neighbour.state_since),
            established_count: neighbour.established_count,
            last_error: neighbour.fsm.last_error().map(ToString::to_string),
            router_id: negotiated.map(|negotiated| negotiated.peer_router_id),
            hold_time: negotiated
                .map(|negotiated| Duration::from_secs(u64::from(negotiated.hold_time.as_secs()))),
            capabilities: negotiated.map_or_else(Vec::new, |negotiated| capabilities(negotiated)),
            families: config
                .families
                .iter()
                .map(|family| self.peer_family(slot, neighbour, *family))
                .collect(),
            messages: neighbour.counters,
            queued_octets: direction.map_or(0, |direction| neighbour.queued(direction)),
        }
    }

    fn peer_family(&self, slot: Slot, neighbour: &Neighbour, family: Family) -> PeerFamilySnapshot {
        let carried = neighbour
            .session
            .as_ref()
            .and_then(|session| session.family(family));
        with_rib_ref!(self.tables, family, |rib| {
            let (received, accepted) = rib.table.counts(slot);
            let group = carried.and_then(|carried| rib.group(carried.group));
            let advertised = group.map_or(0, |group| {
                // All the group is told, less what came from this peer itself.
                let own = rib
                    .table
                    .paths_by(slot)
                    .filter(|path| path.best && group.advertises(path.net))
                    .count();
                group.advertised().saturating_sub(own)
            });
            PeerFamilySnapshot {
                family,
                negotiated: carried.is_some(),
                received,
                accepted,
                advertised,
                lag: group
                    .zip(carried)
                    .map_or(0, |(group, carried)| group.lag(carried.member)),
                end_of_rib_received: carried.is_some_and(|carried| carried.end_of_rib_received),
                end_of_rib_sent: group
                    .zip(carried)
                    .is_some_and(|(group, carried)| group.end_of_rib_sent(carried.member)),
                retention: neighbour.retention.state(family),
                update_group: carried.and_then(|carried| u32::try_from(carried.group).ok()),
            }
        })
    }

    /// What is known of the prefixes asked for, in order of prefix.
    #[must_use]
    pub fn routes(&self, query: &RouteQuery) -> Vec<RouteInfo> {
        let family = query.prefix.map(Prefix::family).or(query.family);
        let limit = query.limit.unwrap_or(usize::MAX);
        let mut routes = Vec::new();
        if family.is_none_or(|family| family == Family::IPV4_UNICAST) {
            self.routes_of(&self.tables.ipv4, query, limit, &mut routes);
        }
        if family.is_none_or(|family| family == Family::IPV6_UNICAST) {
            self.routes_of(&self.tables.ipv6, query, limit, &mut routes);
        }
        routes
    }

    fn routes_of<F: Key>(
        &self,
        rib: &FamilyRib<F>,
        query: &RouteQuery,
        limit: usize,
        routes: &mut Vec<RouteInfo>,
    ) {
        let table = &rib.table;
        let filter = |net: &NetId| {
            table.paths_of(*net).next().is_some() && self.matches_peers(rib, *net, query)
        };
        let mut nets: Vec<(F, NetId)> = match query.prefix.and_then(F::from_prefix) {
            Some(asked) => match query.matching {
                Matching::Exact => table
                    .find(asked)
                    .into_iter()
                    .filter(filter)
                    .map(|net| (asked, net))
                    .collect(),
                Matching::Longest | Matching::Covering => covers(asked)
                    .filter_map(|cover| Some((cover, table.find(cover)?)))
                    .filter(|(_, net)| filter(net))
                    .take(if query.matching == Matching::Longest {
                        1
                    } else {
                        usize::MAX
                    })
                    .collect(),
                Matching::Longer => all(rib)
                    .filter(|(prefix, net)| asked.into().contains((*prefix).into()) && filter(net))
                    .collect(),
            },
            None => all(rib).filter(|(_, net)| filter(net)).collect(),
        };
        nets.sort_unstable_by_key(|(prefix, _)| *prefix);
        let room = limit.saturating_sub(routes.len());
        routes.extend(
            nets.into_iter()
                .take(room)
                .map(|(_, net)| self.route_info(rib, net, query)),
        );
    }

    fn matches_peers<F: Key>(&self, rib: &FamilyRib<F>, net: NetId, query: &RouteQuery) -> bool {
        let from = query.from_peer.as_deref().is_none_or(|name| {
            rib.table.paths_of(net).any(|path| {
                self.neighbour(path.peer)
                    .is_some_and(|peer| *peer.name == *name)
            })
        });
        let to = query.to_peer.as_deref().is_none_or(|name| {
            self.names
                .get(name)
                .is_some_and(|slot| self.advertises_to(rib, net, *slot))
        });
        from && to
    }

    fn advertises_to<F: Key>(&self, rib: &FamilyRib<F>, net: NetId, slot: Slot) -> bool {
        let Some(session) = self
            .neighbour(slot)
            .and_then(|neighbour| neighbour.session.as_ref())
        else {
            return false;
        };
        let Some(group) = session
            .family(F::FAMILY)
            .and_then(|carried| rib.group(carried.group))
        else {
            return false;
        };
        let router_id = if group.key.external {
            0
        } else {
            session.negotiated.peer_router_id.get()
        };
        group.tells(net, slot, router_id, &self.tables.store)
    }

    fn route_info<F: Key>(&self, rib: &FamilyRib<F>, net: NetId, query: &RouteQuery) -> RouteInfo {
        let view = View {
            facts: &self.tables.facts,
            multipath: self.multipath(),
        };
        let input = view.decision(&self.tables.store);
        let views: Vec<PathView> = rib.table.paths_of(net).collect();
        let usable: Vec<_> = views
            .iter()
            .filter(|path| path.unusable.is_none())
            .map(|path| rib.table.candidate(path, &input))
            .collect();
        // What the decision would say now; it is what it said unless the prefix waits for it.
        let step = decision::choose(&usable, view.multipath).map(|decision| decision.step);
        let best = views
            .iter()
            .find(|path| path.best)
            .map(|path| rib.table.candidate(path, &input));
        let mut paths: Vec<(Option<Step>, &PathView)> = views
            .iter()
            .map(|path| {
                let lost = || {
                    Some(decision::lost_by(
                        best.as_ref()?,
                        &rib.table.candidate(path, &input),
                    ))
                };
                let step = match path.unusable {
                    Some(_) => None,
                    None if path.best => step,
                    None => lost(),
                };
                (step, path)
            })
            .collect();
        // The best, then the others, those that lost latest first.
        paths.sort_by_key(|(step, path)| {
            (
                !path.best,
                path.unusable.is_some(),
                std::cmp::Reverse(*step),
            )
        });
        let advertised_to = if query.with_advertised {
            self.names
                .iter()
                .filter(|(_, slot)| self.advertises_to(rib, net, **slot))
                .map(|(name, _)| Arc::clone(name))
                .collect()
        } else {
            Vec::new()
        };
        RouteInfo {
            prefix: rib.table.prefix(net).into(),
            paths: paths
                .into_iter()
                .map(|(step, path)| self.path_info(path, step, F::FAMILY))
                .collect(),
            advertised_to,
        }
    }

    fn path_info(&self, path: &PathView, step: Option<Step>, family: Family) -> PathInfo {
        let data = self.tables.store.data(path.attributes);
        let kept = self
            .neighbour(path.peer)
            .map(|neighbour| neighbour.retention.state(family));
        PathInfo {
            source: source_of(path.peer, &self.tables.facts),
            path_id: path.path_id,
            attributes: Arc::clone(&data.attributes),
            next_hop: data.next_hop,
            weight: data.weight,
            best: path.best,
            used: path.used,
            step,
            unusable: path.unusable,
            retention: match kept {
                Some(kept) if path.old => kept,
                _ => Retention::None,
            },
        }
    }
}

fn table_snapshot<F: Key>(rib: &FamilyRib<F>) -> TableSnapshot {
    TableSnapshot {
        family: F::FAMILY,
        prefixes: rib.table.net_count(),
        paths: rib.table.path_count(),
        update_groups: rib.groups().count(),
        pending_decisions: rib.table.dirty_count(),
        pending_changes: rib.pending_changes(),
    }
}

fn all<F: Key>(rib: &FamilyRib<F>) -> impl Iterator<Item = (F, NetId)> + '_ {
    (0..rib.table.net_bound())
        .map(NetId)
        .filter(|net| rib.table.is_net(*net))
        .map(|net| (rib.table.prefix(net), net))
}

/// The prefix and everything that holds it, longest first.
fn covers<F: AddressFamily>(prefix: F) -> impl Iterator<Item = F> {
    let whole: Prefix = prefix.into();
    (0..=whole.len())
        .rev()
        .filter_map(move |len| F::from_prefix(Prefix::new(whole.addr(), len).ok()?))
}

fn capabilities(negotiated: &crate::fsm::Negotiated) -> Vec<String> {
    let mut names: Vec<String> = negotiated
        .families
        .iter()
        .map(ToString::to_string)
        .collect();
    let context = &negotiated.context;
    let flags = [
        (context.four_octet_as, "four-octet-as"),
        (negotiated.route_refresh, "route-refresh"),
        (negotiated.enhanced_refresh, "enhanced-route-refresh"),
        (context.extended_message_send, "extended-message"),
        (context.extended_next_hop, "extended-next-hop"),
        (!context.add_path_receive.is_empty(), "add-path-receive"),
        (!context.add_path_send.is_empty(), "add-path-send"),
        (
            negotiated.peer_graceful_restart.is_some(),
            "graceful-restart",
        ),
        (
            negotiated.notification_graceful,
            "graceful-restart-notification",
        ),
        (
            negotiated.peer_long_lived.is_some(),
            "long-lived-graceful-restart",
        ),
    ];
    names.extend(
        flags
            .into_iter()
            .filter(|(on, _)| *on)
            .map(|(_, name)| name.to_owned()),
    );
    names
}
