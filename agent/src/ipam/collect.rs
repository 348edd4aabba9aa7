//! The node's audit: what was left behind here, given back.
//!
//! It frees what this node took for pods that are gone. Pods that are known by their handles are alive; so is an address a pod's
//! interface answers for, whoever recorded it: a node that takes over from Calico has pods whose handles it was never told. What looks
//! dead is freed only after it has looked so for a while, all addresses of a handle or none, and only if handle and sequence number
//! are still those that were judged.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use margay_bgp::prefix::Prefix;
use tracing::{info, warn};

use super::engine::{Engine, Release};
use super::store::{Records, is_race};
use super::{CollectRequest, Collected, IpamError, ReleaseAddress};

/// Handle of addresses Calico keeps for Windows.
const WINDOWS: &str = "windows-reserved-ipam-handle";

/// What earlier audits saw.
#[derive(Debug, Default)]
pub(super) struct Audit {
    /// Since when a handle has looked dead.
    dead_since: BTreeMap<String, SystemTime>,
    /// Since when a block has been empty.
    empty_since: BTreeMap<Prefix, SystemTime>,
}

impl<R: Records> Engine<R> {
    pub(super) async fn collect(
        &mut self,
        request: CollectRequest,
    ) -> Result<Collected, IpamError> {
        let cluster = self.state()?;
        self.sync().await?;
        let mut collected = Collected::default();
        let (released, candidates) = self.collect_leaks(&request).await?;
        collected.released = released;
        collected.candidates = candidates;
        if !cluster.ipam.cooldown.is_zero() {
            self.thaw().await?;
        }
        collected.blocks_released = self.shed().await;
        collected
            .blocks_released
            .extend(self.give_back_unused().await);
        Ok(collected)
    }

    async fn collect_leaks(
        &mut self,
        request: &CollectRequest,
    ) -> Result<(Vec<IpAddr>, usize), IpamError> {
        let now = self.store.now();
        let mut dead: BTreeMap<String, Vec<ReleaseAddress>> = BTreeMap::new();
        let mut alive = request.live.clone();
        let of_network = |handle_id: &str| {
            request.network.as_ref().is_none_or(|network| {
                handle_id
                    .strip_prefix(network.as_str())
                    .is_some_and(|rest| rest.starts_with('.'))
            })
        };
        // Borrowed addresses lie in other nodes' blocks.
        for stored in self.store.blocks().await?.values() {
            for allocation in stored.spec.allocations() {
                let attribute = allocation.attribute;
                let Some(handle_id) = attribute.handle() else {
                    continue;
                };
                // Addresses of tunnels and services say what they are by a type; pods have none.
                if attribute.node() != Some(&self.node)
                    || !of_network(handle_id)
                    || attribute.secondary.contains_key("type")
                    || handle_id == WINDOWS
                {
                    continue;
                }
                if request.in_use.contains(&allocation.address) {
                    alive.insert(handle_id.to_owned());
                }
                dead.entry(handle_id.to_owned())
                    .or_default()
                    .push(ReleaseAddress {
                        address: allocation.address,
                        handle_id: Some(handle_id.to_owned()),
                        sequence_number: allocation.sequence_number,
                    });
            }
        }
        dead.retain(|handle_id, _| !alive.contains(handle_id));
        self.audit
            .dead_since
            .retain(|handle_id, _| dead.contains_key(handle_id) || !of_network(handle_id));
        for handle_id in dead.keys() {
            self.audit
                .dead_since
                .entry(handle_id.clone())
                .or_insert(now);
        }
        let (confirmed, waiting): (Vec<_>, Vec<_>) =
            dead.into_iter().partition(|(handle_id, _)| {
                self.audit.dead_since.get(handle_id).is_some_and(|since| {
                    since
                        .checked_add(request.grace)
                        .is_some_and(|until| until <= now)
                })
            });
        let candidates = waiting.iter().map(|(_, addresses)| addresses.len()).sum();
        if confirmed.is_empty() {
            return Ok((Vec::new(), candidates));
        }
        let (handles, releases): (Vec<_>, Vec<_>) = confirmed
            .into_iter()
            .map(|(handle_id, addresses)| (handle_id, Release::Addresses(addresses)))
            .unzip();
        let mut released = Vec::new();
        let mut failed = None;
        for (handle_id, result) in handles.into_iter().zip(self.release(releases).await) {
            match result {
                Ok(done) => {
                    info!(handle_id, addresses = ?done.addresses, "leaked addresses released");
                    self.audit.dead_since.remove(&handle_id);
                    released.extend(done.addresses);
                }
                Err(error @ IpamError::NotAsExpected { .. }) => {
                    info!(handle_id, %error, "not a leak after all");
                    self.audit.dead_since.remove(&handle_id);
                }
                Err(error) => {
                    warn!(handle_id, %error, "leaked addresses cannot be released now");
                    failed = Some(error);
                }
            }
        }
        released.sort_unstable();
        match failed {
            Some(error) if released.is_empty() => Err(error),
            Some(_) | None => Ok((released, candidates)),
        }
    }

    /// Writes down that cooldowns are over, in blocks nobody assigns from.
    async fn thaw(&mut self) -> Result<(), IpamError> {
        let cooldown = self.cluster.borrow().ipam.cooldown;
        let now = self.store.now();
        let warm: Vec<_> = self
            .own
            .iter()
            .filter_map(|(cidr, own)| {
                let mut block = own.stored.spec.clone();
                (block.thaw(now, cooldown) > 0).then(|| (*cidr, own.stored.clone(), block))
            })
            .collect();
        for (cidr, stored, block) in warm {
            match self.store.update_block(&stored, block).await {
                Ok(stored) => self.remember(cidr, Some(stored)),
                // Whoever changed it may have done the same; else the next audit does.
                Err(error) if is_race(&error) => {
                    let stored = self.store.block(cidr).await?;
                    self.remember(cidr, stored);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Gives back blocks that have been empty for long, but for the last of each family.
    async fn give_back_unused(&mut self) -> Vec<Prefix> {
        let now = self.store.now();
        let grace = self.options.unused_block_grace;
        let empty: Vec<Prefix> = self
            .own
            .iter()
            .filter(|(_, own)| own.stored.spec.is_empty())
            .map(|(cidr, _)| *cidr)
            .collect();
        self.audit
            .empty_since
            .retain(|cidr, _| empty.contains(cidr));
        let mut released = Vec::new();
        for cidr in empty {
            let Some(since) = self.audit.empty_since.get(&cidr) else {
                self.audit.empty_since.insert(cidr, now);
                continue;
            };
            let long = since.checked_add(grace).is_some_and(|until| until <= now);
            let of_family = self
                .own
                .keys()
                .filter(|other| other.family() == cidr.family())
                .count();
            if long && of_family > 1 && self.give_back(cidr).await {
                self.audit.empty_since.remove(&cidr);
                released.push(cidr);
            }
        }
        released
    }
}
