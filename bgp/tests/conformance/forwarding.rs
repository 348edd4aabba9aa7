//! Whoever forwards: what it is told, and what it says of next hops. Over TCP that is the kernel of the lab's place, which has no
//! route to any neighbour until a case tells it one.

use std::net::IpAddr;

use margay_bgp::family::Family;
use margay_bgp::rib::{NextHopState, Reach, RouteChange, RouteNextHop};
use margay_bgp::speaker::TableEvent;

use super::{Around, Lab, Prefix, SpeakerConfig, address_of};

/// A route as it is forwarded by. Without next hops, and where its traffic is not dropped, it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Forwarded {
    pub(super) prefix: Prefix,
    /// Ascending.
    pub(super) next_hops: Vec<IpAddr>,
    /// Their shares in the same order; nothing where they are equal.
    pub(super) weights: Vec<u8>,
    pub(super) drops: bool,
}

impl From<&RouteChange> for Forwarded {
    fn from(change: &RouteChange) -> Self {
        let best = change.best.as_ref();
        let hops = best.map_or(&[][..], |best| &best.next_hops);
        Self {
            prefix: change.prefix,
            next_hops: hops.iter().map(|hop| hop.address).collect(),
            weights: best.map_or_else(Vec::new, |best| best.weights.clone()),
            drops: best.is_some_and(|best| best.discard),
        }
    }
}

/// The next hop that is the neighbour's own address.
pub(super) fn hop_of(name: &str) -> RouteNextHop {
    RouteNextHop {
        address: IpAddr::V4(address_of(name)),
        interface_index: None,
    }
}

impl Lab {
    /// A lab whose speaker has somebody who forwards by its routes.
    pub(super) fn forwarding(change: impl FnOnce(&mut SpeakerConfig)) -> Self {
        let around = Around {
            forwards: true,
            ..Around::default()
        };
        Self::start(change, around)
    }

    /// Whoever forwards says what neighbours' own addresses cost; nothing for those it does not reach.
    pub(super) fn tell(&mut self, metrics: &[(&'static str, Option<u32>)]) {
        if self.wire.is_some() {
            return self.wire_tell(metrics);
        }
        let state = |(name, metric): &(&'static str, Option<u32>)| NextHopState {
            next_hop: hop_of(name),
            reach: metric.map(|metric| Reach {
                metric,
                via_default: false,
            }),
        };
        self.hear_of(&metrics.iter().map(state).collect::<Vec<_>>());
    }

    /// It reaches the neighbour's address like everything: by a default route.
    pub(super) fn tell_default(&mut self, name: &'static str) {
        if self.wire.is_some() {
            return self.wire_tell_default();
        }
        self.hear_of(&[NextHopState {
            next_hop: hop_of(name),
            reach: Some(Reach {
                metric: 0,
                via_default: true,
            }),
        }]);
    }

    fn hear_of(&mut self, states: &[NextHopState]) {
        self.speaker.handle_next_hops(states);
        self.settle();
    }

    /// What whoever forwards was told since last asked.
    pub(super) fn forwarded(&mut self) -> Vec<Forwarded> {
        if self.wire.is_some() {
            return self.wire_forwarded();
        }
        let of = |event: &TableEvent| match event {
            TableEvent::Changes(changes) => changes.iter().map(Forwarded::from).collect(),
            TableEvent::Complete(_) => Vec::new(),
        };
        let told = self.news.iter().flat_map(of).collect();
        self.news
            .retain(|event| matches!(event, TableEvent::Complete(_)));
        told
    }

    /// Whether it was told that the tables of both families are whole. Over TCP routes of an earlier life are gone by then.
    pub(super) fn is_complete(&self) -> bool {
        if let Some(wire) = &self.wire {
            return wire.is_complete();
        }
        let whole = |family| self.news.contains(&TableEvent::Complete(family));
        Family::ALL.into_iter().all(whole)
    }
}
