//! The objects of the cluster, and the state they make together.
//!
//! Each object is converted once, when it comes; [`Objects::state`] then joins what needs several of them. It is a pure function of
//! the objects there are, so the order of events, repeated ones and objects that went and came back cannot show in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_bgp::prefix::Prefix;

use super::convert::{BlockUse, Converted, Part, convert, is_needed};
use crate::api::Fault;
use crate::api::bgp_configuration::PartialBgp;
use crate::api::felix_configuration::{self, PartialFelix};
use crate::datastore::{Kind, Object, WatchEvent};
use crate::model::{
    Block, ClusterState, Invalid, IpPool, Labels, Node, Selector, Workload, WorkloadKey,
};

/// What is kept of an object.
#[derive(Debug)]
struct Entry {
    source: String,
    /// `metadata.creationTimestamp`, which settles who was first; objects without one come last.
    created: Option<String>,
    converted: Converted,
    /// The whole object as JSON, for the saved view: a tenth of the tree's size.
    raw: Box<str>,
}

/// Every object heard of, converted.
#[derive(Debug)]
pub(super) struct Objects {
    node_name: String,
    secret_namespace: String,
    entries: BTreeMap<(Kind, String), Entry>,
    /// Places the store cannot understand.
    faults: BTreeMap<String, Invalid>,
}

impl Objects {
    pub(super) fn new(node_name: &str, secret_namespace: &str) -> Self {
        Self {
            node_name: node_name.to_owned(),
            secret_namespace: secret_namespace.to_owned(),
            entries: BTreeMap::new(),
            faults: BTreeMap::new(),
        }
    }

    /// Takes an event of the store; `InitDone` is not its business.
    pub(super) fn take(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Applied(object) => self.apply(&object),
            WatchEvent::Deleted(kind, name) => {
                self.entries.remove(&(kind, name));
            }
            WatchEvent::Invalid {
                source,
                field,
                reason,
            } => {
                let invalid = Invalid {
                    object: String::new(),
                    source: source.clone(),
                    field,
                    reason,
                };
                self.faults.insert(source, invalid);
            }
            WatchEvent::ValidAgain { source } => {
                self.faults.remove(&source);
            }
            WatchEvent::InitDone => {}
        }
    }

    pub(super) fn apply(&mut self, object: &Object) {
        if !is_needed(object.kind) {
            return;
        }
        let created = object
            .value
            .pointer("/metadata/creationTimestamp")
            .and_then(serde_json::Value::as_str)
            .map(str::to_owned);
        self.entries.insert(
            (object.kind, object.name.clone()),
            Entry {
                source: object.source.clone(),
                created,
                converted: convert(object),
                raw: object.value.to_string().into_boxed_str(),
            },
        );
    }

    /// Whether the node's own object is among them.
    pub(super) fn has_own_node(&self) -> bool {
        self.entries
            .contains_key(&(Kind::Node, self.node_name.clone()))
    }

    /// The objects as JSON texts, in order.
    pub(super) fn raw(&self) -> impl Iterator<Item = &str> {
        self.entries.values().map(|entry| &*entry.raw)
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries
            .range((kind, String::new())..)
            .take_while(move |((of, _), _)| *of == kind)
            .map(|((_, name), entry)| (name.as_str(), entry))
    }

    /// The state these objects make.
    pub(super) fn state(&self, workloads: &BTreeMap<WorkloadKey, Workload>) -> ClusterState {
        let mut state = ClusterState {
            node_name: self.node_name.clone(),
            datastore_ready: true,
            workloads: workloads.clone(),
            ..ClusterState::default()
        };
        for fault in self.faults.values() {
            put_invalid(&mut state, fault.clone());
        }
        for ((kind, name), entry) in &self.entries {
            for fault in &entry.converted.faults {
                put_invalid(&mut state, invalid(*kind, name, entry, fault));
            }
            for (field, reason) in &entry.converted.idle {
                let subject = match field.as_str() {
                    "" => format!("{kind} {name}"),
                    field => format!("{kind} {name} {field}"),
                };
                state.unsupported.insert(subject, reason.clone());
            }
            match &entry.converted.part {
                Part::Node(node) => {
                    state.nodes.insert(name.clone(), (**node).clone());
                }
                Part::Peer(peer) => {
                    state.peers.insert(name.clone(), (**peer).clone());
                }
                Part::Filter(filter) => {
                    state.filters.insert(name.clone(), (**filter).clone());
                }
                Part::Cluster { ready } => state.datastore_ready &= *ready,
                Part::Namespace(labels) => {
                    state.namespaces.insert(name.clone(), labels.clone());
                }
                Part::Reservation(prefixes) => {
                    state.reservations.insert(name.clone(), prefixes.clone());
                }
                Part::Ipam(settings) => state.ipam = *settings,
                // Joined below.
                Part::Pool(_)
                | Part::Block(_)
                | Part::Affinity { .. }
                | Part::Bgp(_)
                | Part::Felix(_)
                | Part::Secret(_)
                | Part::Nothing => {}
            }
        }
        self.join_pools(&mut state);
        self.join_blocks(&mut state);
        self.join_bgp(&mut state);
        self.join_felix(&mut state);
        self.join_secrets(&mut state);
        state
    }

    /// Of pools that overlap the older one serves; a later one gives out nothing, but what it gave out before is still routed.
    fn join_pools(&self, state: &mut ClusterState) {
        let mut pools: Vec<(&str, &Entry, &IpPool)> = self
            .of(Kind::IpPool)
            .filter_map(|(name, entry)| {
                let Part::Pool(pool) = &entry.converted.part else {
                    return None;
                };
                Some((name, entry, &**pool))
            })
            .collect();
        pools.sort_by_key(|(name, entry, _)| (entry.created.is_none(), &entry.created, *name));
        let mut seen: Vec<&IpPool> = Vec::with_capacity(pools.len());
        for (name, entry, pool) in pools {
            let mut own = pool.clone();
            if let Some(first) = seen
                .iter()
                .find(|first| first.cidr.contains(pool.cidr) || pool.cidr.contains(first.cidr))
            {
                let reason = format!(
                    "{} overlaps {} of IPPool {}, which was there first: no address is taken from this pool",
                    pool.cidr, first.cidr, first.name
                );
                let fault = Fault::new("spec.cidr", reason);
                put_invalid(state, invalid(Kind::IpPool, name, entry, &fault));
                own.disabled = true;
            }
            seen.push(pool);
            state.pools.insert(name.to_owned(), own);
        }
    }

    /// Blocks belong to the node whose affinity is confirmed and whom the block itself names.
    fn join_blocks(&self, state: &mut ClusterState) {
        let mut claims: BTreeMap<Prefix, Vec<&str>> = BTreeMap::new();
        for (_, entry) in self.of(Kind::BlockAffinity) {
            if let Part::Affinity { cidr, node } = &entry.converted.part {
                claims.entry(*cidr).or_default().push(node);
            }
        }
        for (_, entry) in self.of(Kind::IpamBlock) {
            let Part::Block(BlockUse {
                cidr,
                host,
                own,
                elsewhere,
                allocated,
            }) = &entry.converted.part
            else {
                continue;
            };
            let confirmed = host
                .as_deref()
                .is_some_and(|host| claims.get(cidr).is_some_and(|nodes| nodes.contains(&host)));
            let mut borrowed = elsewhere.clone();
            if let Some(host) = host.as_ref().filter(|_| !confirmed) {
                borrowed.extend(own.iter().map(|address| (*address, host.clone())));
            }
            state.blocks.insert(
                *cidr,
                Block {
                    cidr: *cidr,
                    host: host.clone(),
                    confirmed,
                    borrowed,
                    allocated: *allocated,
                },
            );
        }
        for (cidr, nodes) in claims {
            // The block has the last word; without one the first name does, so that all nodes agree.
            let of_block = state.blocks.get(&cidr).and_then(Block::owner);
            if let Some(owner) = of_block.or_else(|| nodes.iter().min().copied()) {
                let owner = owner.to_owned();
                state.affinities.insert(cidr, owner);
            }
        }
    }

    fn bgp(&self, name: &str) -> Option<(&Entry, &PartialBgp)> {
        let entry = self
            .entries
            .get(&(Kind::BgpConfiguration, name.to_owned()))?;
        let Part::Bgp(partial) = &entry.converted.part else {
            return None;
        };
        Some((entry, partial))
    }

    fn join_bgp(&self, state: &mut ClusterState) {
        let own = format!("node.{}", self.node_name);
        let default = self.bgp("default");
        let node = self.bgp(&own);
        let (joined, faults) =
            PartialBgp::join(default.map(|found| found.1), node.map(|found| found.1));
        state.bgp = joined;
        for (of_node, fault) in faults {
            let (name, found) = if of_node {
                (own.as_str(), node)
            } else {
                ("default", default)
            };
            if let Some((entry, _)) = found {
                put_invalid(state, invalid(Kind::BgpConfiguration, name, entry, &fault));
            }
        }
        for (name, entry) in self.of(Kind::BgpConfiguration) {
            if let (Some(node), Part::Bgp(partial)) =
                (name.strip_prefix("node."), &entry.converted.part)
                && let Some(node) = state.nodes.get_mut(node)
            {
                node.listen_port = partial.listen_port();
            }
        }
    }

    fn join_felix(&self, state: &mut ClusterState) {
        let own = format!("node.{}", self.node_name);
        let no_labels = Labels::new();
        let own_labels = state
            .own_node()
            .map_or(&no_labels, |node: &Node| &node.labels);
        let mut chosen: Vec<&PartialFelix> = Vec::new();
        let mut selected: Vec<(&str, &Entry, &PartialFelix)> = Vec::new();
        let mut of_node = None;
        for (name, entry) in self.of(Kind::FelixConfiguration) {
            let Part::Felix(partial) = &entry.converted.part else {
                continue;
            };
            if name == "default" {
                chosen.push(partial);
            } else if name == own {
                of_node = Some(partial);
            } else if !name.starts_with("node.") {
                let matches = |selector: &Selector| selector.matches(own_labels);
                if partial.selector.as_ref().is_some_and(matches) {
                    selected.push((name, entry, partial));
                }
            }
        }
        // Of several that select the node the oldest counts.
        selected.sort_by_key(|(name, entry, _)| (entry.created.is_none(), &entry.created, *name));
        chosen.extend(selected.into_iter().map(|(_, _, partial)| partial).take(1));
        chosen.extend(of_node);
        state.felix = felix_configuration::join(chosen.into_iter());
    }

    /// Secrets of the namespace margay may read, over those without a namespace, as a directory without Kubernetes has them.
    fn join_secrets(&self, state: &mut ClusterState) {
        for (name, entry) in self.of(Kind::Secret) {
            let Part::Secret(values) = &entry.converted.part else {
                continue;
            };
            if !name.contains('/') {
                state.secrets.insert(name.to_owned(), values.clone());
            }
        }
        for (name, entry) in self.of(Kind::Secret) {
            if let (Some((namespace, name)), Part::Secret(values)) =
                (name.split_once('/'), &entry.converted.part)
                && namespace == self.secret_namespace
            {
                state.secrets.insert(name.to_owned(), values.clone());
            }
        }
    }
}

fn invalid(kind: Kind, name: &str, entry: &Entry, fault: &Fault) -> Invalid {
    Invalid {
        object: format!("{kind} {name}"),
        source: entry.source.clone(),
        field: fault.field.clone(),
        reason: fault.reason.clone(),
    }
}

fn put_invalid(state: &mut ClusterState, invalid: Invalid) {
    let field = invalid.field.as_deref().unwrap_or("");
    let mut key = format!("{} {} {field}", invalid.source, invalid.object);
    // A field may have several faults.
    while state
        .invalid
        .get(&key)
        .is_some_and(|known| *known != invalid)
    {
        key.push('+');
    }
    state.invalid.insert(key, invalid);
}

/// The pods of this node, shared with whoever keeps them.
pub type Workloads = Arc<BTreeMap<WorkloadKey, Workload>>;
