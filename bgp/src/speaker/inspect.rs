//! What can be asked of a speaker.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::neighbour::Neighbour;
use super::snapshot::{
    BfdSnapshot, GracefulRestartSnapshot, Matching, MemorySnapshot, PathInfo, PeerFamilySnapshot,
    PeerSnapshot, Retention, RouteInfo, RouteQuery, SpeakerSnapshot, TableSnapshot, Totals,
    Unusable,
};
use super::{Speaker, with_rib_ref};
use crate::codec::{Capability, HEADER_LEN, Open};
use crate::decision::{self, Step};
use crate::family::{AddressFamily, Family};
use crate::prefix::Prefix;
use crate::rib::table::{Key, NetId, PathView, Table};
use crate::rib::{FamilyRib, LOCAL, Slot, View, source_of};

/// A query that is answered in slices, so that a dump of a whole table does not keep peers waiting.
#[derive(Debug)]
pub struct RouteDump {
    query: RouteQuery,
    /// Families still to do, the next one last.
    families: Vec<Family>,
    /// Where the search for prefixes is.
    next: u32,
    matching: Vec<(Prefix, u32)>,
    /// What was found, in order, once the search is over.
    found: Option<std::vec::IntoIter<(Prefix, u32)>>,
    routes: Vec<RouteInfo>,
}

impl RouteDump {
    /// Begins with nothing.
    #[must_use]
    pub fn new(query: RouteQuery) -> Self {
        let asked = query.prefix.map(Prefix::family).or(query.family);
        Self {
            families: Family::ALL
                .into_iter()
                .rev()
                .filter(|family| asked.is_none_or(|asked| asked == *family))
                .collect(),
            query,
            next: 0,
            matching: Vec::new(),
            found: None,
            routes: Vec::new(),
        }
    }

    /// What was found, in order of prefix, IPv4 first.
    #[must_use]
    pub fn into_routes(self) -> Vec<RouteInfo> {
        self.routes
    }
}

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
            errors: self.errors,
            totals: self.totals(),
            deferring: Family::ALL
                .into_iter()
                .filter(|family| with_rib_ref!(self.tables, *family, |rib| rib.is_deferred()))
                .collect(),
            bfd: crate::bfd::Counters::default(),
        }
    }

    fn totals(&self) -> Totals {
        let mut totals = self.departed;
        for neighbour in self.neighbours.iter().flatten() {
            totals.established += neighbour.established_count;
            totals.lost += neighbour.established_count - u64::from(neighbour.session.is_some());
            totals.messages.add(&neighbour.counters);
        }
        totals
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
            asn: negotiated
                .map(|negotiated| negotiated.peer_asn)
                .or_else(|| config.asn.known(local_asn)),
            local_asn,
            external: negotiated.map_or_else(
                || config.asn.is_external(local_asn),
                |negotiated| negotiated.external,
            ),
            route_reflector_client: config.route_reflector_client,
            enabled: config.enabled,
            state: neighbour.fsm.state(),
            state_for: now.saturating_duration_since(neighbour.state_since),
            established_count: neighbour.established_count,
            last_error: neighbour.trouble.as_deref().map_or_else(
                || neighbour.fsm.last_error().map(ToString::to_string),
                |trouble| Some(trouble.to_owned()),
            ),
            warnings: neighbour.warnings.iter().copied().collect(),
            router_id: negotiated.map(|negotiated| negotiated.peer_router_id),
            hold_time: negotiated
                .map(|negotiated| Duration::from_secs(u64::from(negotiated.hold_time.as_secs()))),
            keepalive: negotiated.and_then(|negotiated| negotiated.keepalive_interval),
            next_timer: neighbour
                .next_deadline()
                .map(|deadline| deadline.saturating_duration_since(now)),
            capabilities_sent: negotiated.map_or_else(Vec::new, |negotiated| {
                listed(&sent_capabilities(neighbour.opens(negotiated.direction).0))
            }),
            capabilities_received: negotiated
                .map_or_else(Vec::new, |negotiated| listed(&negotiated.peer_capabilities)),
            graceful_restart: negotiated.and_then(|negotiated| {
                let capability = negotiated.peer_graceful_restart.as_ref()?;
                Some(GracefulRestartSnapshot {
                    restart_time: Duration::from_secs(u64::from(capability.restart_time)),
                    restarting: capability.restarting,
                    notification: negotiated.notification_graceful,
                    long_lived: negotiated.peer_long_lived.is_some(),
                })
            }),
            capabilities: negotiated.map_or_else(Vec::new, |negotiated| capabilities(negotiated)),
            families: config
                .families
                .iter()
                .map(|family| self.peer_family(slot, neighbour, *family))
                .collect(),
            messages: neighbour.counters,
            errors: neighbour.errors.counts(),
            offences: neighbour.errors.recent(now),
            queued_octets: direction.map_or(0, |direction| neighbour.queued(direction)),
            bfd: neighbour.liveness.map(|liveness| BfdSnapshot {
                status: liveness.status,
                state_for: now.saturating_duration_since(liveness.since),
                strict: config.bfd.is_some_and(|bfd| bfd.strict),
            }),
        }
    }

    fn peer_family(&self, slot: Slot, neighbour: &Neighbour, family: Family) -> PeerFamilySnapshot {
        let carried = neighbour
            .session
            .as_ref()
            .and_then(|session| session.family(family));
        let retention = neighbour.retention.state(family);
        with_rib_ref!(self.tables, family, |rib| {
            let (received, accepted) = rib.table.counts(slot);
            let group = carried.and_then(|carried| rib.group(carried.group));
            let advertised = group.map_or(0, |group| group.advertised_to(slot));
            PeerFamilySnapshot {
                family,
                negotiated: carried.is_some(),
                received,
                accepted,
                rejected: rib.table.rejected(slot).collect(),
                advertised,
                lag: group
                    .zip(carried)
                    .map_or(0, |(group, carried)| group.lag(carried.member)),
                end_of_rib_received: carried.is_some_and(|carried| carried.end_of_rib_received),
                end_of_rib_sent: group
                    .zip(carried)
                    .is_some_and(|(group, carried)| group.end_of_rib_sent(carried.member)),
                retention,
                stale: match retention {
                    Retention::None => 0,
                    Retention::Stale | Retention::LongLivedStale => {
                        received.saturating_sub(rib.table.fresh_prefixes(slot))
                    }
                },
                update_group: carried.and_then(|carried| u32::try_from(carried.group).ok()),
                unsendable: group.map_or(0, |group| group.unsendable),
                withheld: group.map_or(0, |group| group.withheld),
                next_hop_missing: group.is_some_and(|group| group.key.self_next_hop.is_none()),
            }
        })
    }

    /// What is known of the prefixes asked for, in order of prefix.
    #[must_use]
    pub fn routes(&self, query: &RouteQuery) -> Vec<RouteInfo> {
        let mut dump = RouteDump::new(query.clone());
        while self.dump(&mut dump, usize::MAX) {}
        dump.routes
    }

    /// Goes on answering a query: looks at about `budget` prefixes. True while more is left; the table may change in between,
    /// and the answer then tells each prefix as it was when its turn came.
    pub fn dump(&self, dump: &mut RouteDump, budget: usize) -> bool {
        let mut left = budget;
        while left > 0 {
            let Some(family) = dump.families.last().copied() else {
                return false;
            };
            if !with_rib_ref!(self.tables, family, |rib| self
                .dump_step(rib, dump, &mut left))
            {
                dump.families.pop();
                dump.next = 0;
                dump.found = None;
            }
        }
        !dump.families.is_empty()
    }

    /// One step of a family's part: first the prefixes are found, then sorted, then told. False when the part is done.
    fn dump_step<F: Key>(
        &self,
        rib: &FamilyRib<F>,
        dump: &mut RouteDump,
        left: &mut usize,
    ) -> bool {
        let matches =
            |net: NetId| self.is_shown(rib, net) && self.matches_peers(rib, net, &dump.query);
        if let Some(found) = &mut dump.found {
            let limit = dump.query.limit.unwrap_or(usize::MAX);
            while *left > 0 && dump.routes.len() < limit {
                let Some((prefix, net)) = found.next() else {
                    return false;
                };
                *left -= 1;
                let net = NetId(net);
                // The place may be another prefix's by now.
                if self.is_shown(rib, net) && rib.table.prefix(net).into() == prefix {
                    dump.routes.push(self.route_info(rib, net, &dump.query));
                }
            }
            return dump.routes.len() < limit;
        }
        let asked = dump.query.prefix.and_then(F::from_prefix);
        let some = match (asked, dump.query.matching) {
            (Some(asked), Matching::Exact) => Some((vec![asked], 1)),
            (Some(asked), Matching::Longest) => Some((covers(asked).collect(), 1)),
            (Some(asked), Matching::Covering) => Some((covers(asked).collect(), usize::MAX)),
            (Some(_), Matching::Longer) | (None, _) => None,
        };
        let done = if let Some((prefixes, most)) = some {
            let nets = prefixes
                .into_iter()
                .filter_map(|prefix| Some((prefix.into(), rib.table.find(prefix)?)))
                .filter(|(_, net)| matches(*net))
                .map(|(prefix, net)| (prefix, net.0))
                .take(most);
            dump.matching.extend(nets);
            *left = left.saturating_sub(1);
            true
        } else {
            let bound = rib.table.net_bound();
            let end = u32::try_from(*left)
                .unwrap_or(u32::MAX)
                .saturating_add(dump.next)
                .min(bound);
            let nets = (dump.next..end)
                .map(NetId)
                .filter(|net| self.is_shown(rib, *net))
                .map(|net| (rib.table.prefix(net), net))
                .filter(|(prefix, _)| {
                    asked.is_none_or(|asked| asked.into().contains((*prefix).into()))
                })
                .filter(|(_, net)| matches(*net))
                .map(|(prefix, net)| (prefix.into(), net.0));
            dump.matching.extend(nets);
            *left = left.saturating_sub((end - dump.next) as usize);
            dump.next = end;
            end == bound
        };
        if done {
            let mut found = std::mem::take(&mut dump.matching);
            found.sort_unstable();
            dump.found = Some(found.into_iter());
        }
        true
    }

    fn is_shown<F: Key>(&self, rib: &FamilyRib<F>, net: NetId) -> bool {
        rib.table.is_net(net) && rib.table.paths_of(net).next().is_some()
    }

    /// Which of the peers `leaving` teach something that is taught, usable and fresh, neither by a peer of `staying` nor by this
    /// speaker itself. Looks at the paths of peers that leave and at those beside them, at nothing else.
    #[must_use]
    pub fn uncovered(
        &self,
        leaving: &BTreeSet<String>,
        staying: &BTreeSet<String>,
    ) -> BTreeSet<String> {
        let stays: Vec<bool> = (0..)
            .zip(&self.neighbours)
            .map(|(slot, neighbour): (Slot, _)| {
                slot == LOCAL
                    || neighbour
                        .as_ref()
                        .is_some_and(|neighbour| staying.contains(&*neighbour.name))
            })
            .collect();
        leaving
            .iter()
            .filter(|name| {
                self.names.get(name.as_str()).is_some_and(|slot| {
                    Family::ALL.into_iter().any(|family| {
                        with_rib_ref!(self.tables, family, |rib| {
                            self.teaches_alone(rib, *slot, &stays)
                        })
                    })
                })
            })
            .cloned()
            .collect()
    }

    fn teaches_alone<F: Key>(&self, rib: &FamilyRib<F>, slot: Slot, stays: &[bool]) -> bool {
        let covers = |path: PathView| {
            path.unusable.is_none()
                && stays
                    .get(usize::from(path.peer))
                    .is_some_and(|stays| *stays)
                && self.retention_of(&path, F::FAMILY) == Retention::None
        };
        rib.table
            .paths_by(slot)
            .filter(|path| path.unusable.is_none())
            .any(|path| !rib.table.paths_of(path.net).any(covers))
    }

    fn retention_of(&self, path: &PathView, family: Family) -> Retention {
        let kept = self
            .neighbour(path.peer)
            .map(|neighbour| neighbour.retention.state(family));
        match kept {
            Some(kept) if path.old => kept,
            _ => Retention::None,
        }
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
        let Some(carried) = session.family(F::FAMILY) else {
            return false;
        };
        let router_id = if session.negotiated.external {
            0
        } else {
            session.negotiated.peer_router_id.get()
        };
        rib.tells(carried.group, net, slot, router_id, &self.tables.store)
    }

    fn route_info<F: Key>(&self, rib: &FamilyRib<F>, net: NetId, query: &RouteQuery) -> RouteInfo {
        let view = View {
            facts: &self.tables.facts,
            options: self.decision_options(),
        };
        let input = view.decision(&self.tables.store);
        let views: Vec<PathView> = rib
            .table
            .paths_of(net)
            .map(|mut path| {
                if path.unusable.is_none() && !Table::<F>::is_usable(&path, &self.tables.store) {
                    path.unusable = Some(Unusable::Unreachable);
                }
                path
            })
            .collect();
        let usable: Vec<_> = views
            .iter()
            .filter(|path| path.unusable.is_none())
            .map(|path| rib.table.candidate(path, &input))
            .collect();
        // What the decision would say now; it is what it said unless the prefix waits for it.
        let step = decision::choose(&usable, view.options).map(|decision| decision.step);
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
                        view.options,
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
            retention: self.retention_of(path, family),
        }
    }
}

fn table_snapshot<F: Key>(rib: &FamilyRib<F>) -> TableSnapshot {
    TableSnapshot {
        family: F::FAMILY,
        prefixes: rib.table.net_count(),
        best: rib.table.chosen_count(),
        paths: rib.table.path_count(),
        update_groups: rib.groups().count(),
        pending_decisions: rib.table.dirty_count(),
        pending_changes: rib.pending_changes(),
    }
}

/// The prefix and everything that holds it, longest first.
fn covers<F: AddressFamily>(prefix: F) -> impl Iterator<Item = F> {
    let whole: Prefix = prefix.into();
    (0..=whole.len())
        .rev()
        .filter_map(move |len| F::from_prefix(Prefix::new(whole.addr(), len).ok()?))
}

/// What our OPEN, as it was on the wire, listed.
fn sent_capabilities(open: &[u8]) -> Vec<Capability> {
    open.get(HEADER_LEN..)
        .and_then(|body| Open::decode(body).ok())
        .map(|open| open.capabilities)
        .unwrap_or_default()
}

/// Capabilities as people read them.
fn listed(capabilities: &[Capability]) -> Vec<String> {
    capabilities
        .iter()
        .map(|capability| match capability {
            Capability::Multiprotocol(family) => format!("multiprotocol {family}"),
            Capability::RouteRefresh => "route-refresh".into(),
            Capability::ExtendedNextHop(families) => {
                let families: Vec<String> = families
                    .iter()
                    .map(|entry| format!("{} afi {}", entry.family, entry.next_hop_afi.0))
                    .collect();
                format!("extended-next-hop {}", families.join(", "))
            }
            Capability::ExtendedMessage => "extended-message".into(),
            Capability::Role(role) => format!("role {role:?}"),
            Capability::GracefulRestart(restart) => {
                let mut text = format!("graceful-restart {} s", restart.restart_time);
                if restart.restarting {
                    text.push_str(", restarting");
                }
                for family in &restart.families {
                    text.push_str(&format!(", {}", family.family));
                }
                text
            }
            Capability::FourOctetAs(asn) => format!("four-octet-as {asn}"),
            Capability::AddPath(families) => {
                let families: Vec<String> = families
                    .iter()
                    .map(|entry| format!("{} {:?}", entry.family, entry.mode))
                    .collect();
                format!("add-path {}", families.join(", "))
            }
            Capability::EnhancedRouteRefresh => "enhanced-route-refresh".into(),
            Capability::LongLivedGracefulRestart(families) => {
                let families: Vec<String> = families
                    .iter()
                    .map(|entry| entry.family.to_string())
                    .collect();
                format!("long-lived-graceful-restart {}", families.join(", "))
            }
            // The peer's words: escaped.
            Capability::Fqdn { host, domain } => format!("fqdn {host:?} {domain:?}"),
            Capability::LinkLocalNextHop => "link-local-next-hop".into(),
            Capability::Unknown { code, data } => format!("capability {code} {data:x}"),
        })
        .collect()
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
