//! Tunnel devices: the links, their exact addresses, their permanent neighbours and forwarding entries.
//!
//! Every pass reads what is there and changes only what differs, so it can run at any event. What routes refer to is set
//! before routes ([`prepare`]); what they no longer refer to is removed after them ([`clean_up`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::routes::Links;
use super::{Counters, Subject};
use crate::desired::state::{
    DesiredState, IPIP_DEVICE, IpipDevice, VXLAN_DEVICE_V4, VXLAN_DEVICE_V6, VxlanDevice,
};
use crate::kernel::{
    EntryChanges, FdbEntry, InterfaceAddress, Kernel, KernelError, LinkKind, Neighbour,
};

/// What a pass did and could not do.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// Changes to links and addresses; more than none in an audit is a finding.
    pub(super) link_changes: usize,
    /// Changes to neighbours and forwarding entries.
    pub(super) entry_changes: usize,
    /// Devices created anew: their routes are gone with the old ones.
    pub(super) recreated: Vec<String>,
    /// What failed, and why.
    pub(super) failures: BTreeMap<Subject, KernelError>,
    /// The links as they are after the pass, if any of them changed.
    pub(super) links: Option<Links>,
}

/// Addresses by interface.
pub(super) type Addresses = BTreeMap<String, Vec<InterfaceAddress>>;

/// Links by name.
pub(super) async fn read_links<K: Kernel>(kernel: &K) -> Result<Links, KernelError> {
    Ok(kernel
        .links()
        .await?
        .into_iter()
        .map(|link| (link.name.clone(), link))
        .collect())
}

/// Makes devices, addresses, neighbours and forwarding entries exist. Each device on its own: one that fails leaves
/// the others be.
pub(super) async fn prepare<K: Kernel>(
    kernel: &K,
    desired: &DesiredState,
    links: &Links,
    counters: &Counters,
) -> Pass {
    let mut pass = Pass::default();
    if desired.ipip.is_none() && desired.vxlan.is_empty() {
        return pass;
    }
    let addresses = match kernel.addresses().await {
        Ok(addresses) => addresses,
        Err(error) => {
            let devices = desired.vxlan.values().map(|device| device.name.as_str());
            for name in devices.chain(desired.ipip.map(|_| IPIP_DEVICE)) {
                pass.failures
                    .insert(Subject::Link(name.to_owned()), error.clone());
            }
            return pass;
        }
    };
    if let Some(device) = &desired.ipip {
        let result = prepare_ipip(kernel, device, links, &addresses, &mut pass).await;
        finish(
            &mut pass,
            Subject::Link(IPIP_DEVICE.to_owned()),
            result,
            &counters.link_errors,
        );
    }
    for device in desired.vxlan.values() {
        let made = prepare_vxlan(kernel, device, links, &addresses, &mut pass).await;
        let usable = made.is_ok();
        finish(
            &mut pass,
            Subject::Link(device.name.clone()),
            made,
            &counters.link_errors,
        );
        if usable {
            let result = set_entries(kernel, device, &mut pass).await;
            finish(
                &mut pass,
                Subject::Entries(device.name.clone()),
                result,
                &counters.entry_errors,
            );
        }
    }
    if pass.link_changes > 0 {
        pass.links = read_links(kernel).await.ok();
    }
    pass
}

fn finish(
    pass: &mut Pass,
    subject: Subject,
    result: Result<(), KernelError>,
    errors: &super::Counter,
) {
    if let Err(error) = result {
        errors.inc();
        pass.failures.insert(subject, error);
    }
}

async fn prepare_ipip<K: Kernel>(
    kernel: &K,
    device: &IpipDevice,
    links: &Links,
    addresses: &Addresses,
    pass: &mut Pass,
) -> Result<(), KernelError> {
    let there = links.get(IPIP_DEVICE);
    if there.is_none_or(|link| link.kind != LinkKind::IpIp) {
        kernel.ensure_ipip(IPIP_DEVICE).await?;
        pass.link_changes += 1;
    }
    if there.is_none_or(|link| !link.up || link.mtu != device.mtu) {
        kernel.set_link_up(IPIP_DEVICE, device.mtu).await?;
        pass.link_changes += 1;
    }
    set_addresses(
        kernel,
        IPIP_DEVICE,
        device.address.map(IpAddr::V4),
        addresses,
        pass,
    )
    .await
}

async fn prepare_vxlan<K: Kernel>(
    kernel: &K,
    device: &VxlanDevice,
    links: &Links,
    addresses: &Addresses,
    pass: &mut Pass,
) -> Result<(), KernelError> {
    let spec = device.spec();
    let there = links.get(&device.name);
    let fits = there.is_some_and(|link| {
        link.kind == LinkKind::Vxlan(spec.attributes()) && link.mac == Some(spec.mac)
    });
    let mut created = false;
    if !fits {
        created = kernel.ensure_vxlan(&spec).await?;
        if created {
            pass.link_changes += 1;
            pass.recreated.push(device.name.clone());
        }
    }
    if created || there.is_none_or(|link| !link.up || link.mtu != device.mtu) {
        kernel.set_link_up(&device.name, device.mtu).await?;
        pass.link_changes += 1;
    }
    let none = Addresses::new();
    let addresses = if created { &none } else { addresses };
    set_addresses(kernel, &device.name, device.address, addresses, pass).await
}

/// The tunnel's address and no other: the kernel picks the source of our own packets from what is there. Link-local
/// addresses are the kernel's own business.
async fn set_addresses<K: Kernel>(
    kernel: &K,
    interface: &str,
    address: Option<IpAddr>,
    addresses: &Addresses,
    pass: &mut Pass,
) -> Result<(), KernelError> {
    // Not known for now: what is there carries on.
    let Some(address) = address else {
        return Ok(());
    };
    let wanted = InterfaceAddress {
        address,
        prefix_len: if address.is_ipv4() { 32 } else { 128 },
    };
    let there = addresses.get(interface).map_or(&[][..], Vec::as_slice);
    let changes = EntryChanges {
        set: if there.contains(&wanted) {
            Vec::new()
        } else {
            vec![wanted]
        },
        remove: there
            .iter()
            .filter(|there| **there != wanted && !is_link_local(there.address))
            .copied()
            .collect(),
    };
    if changes.is_empty() {
        return Ok(());
    }
    pass.link_changes += changes.set.len() + changes.remove.len();
    kernel.change_addresses(interface, changes).await
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Neighbours and forwarding entries that a device should have.
fn wanted_entries(device: &VxlanDevice) -> (BTreeSet<Neighbour>, BTreeSet<FdbEntry>) {
    device
        .vteps
        .iter()
        .map(|vtep| {
            (
                Neighbour {
                    address: vtep.tunnel_ip,
                    mac: vtep.mac,
                },
                FdbEntry {
                    mac: vtep.mac,
                    destination: vtep.node_ip,
                },
            )
        })
        .unzip()
}

async fn set_entries<K: Kernel>(
    kernel: &K,
    device: &VxlanDevice,
    pass: &mut Pass,
) -> Result<(), KernelError> {
    let (neighbours, fdb) = wanted_entries(device);
    let there: BTreeSet<Neighbour> = kernel.neighbours(&device.name).await?.into_iter().collect();
    let missing: Vec<Neighbour> = neighbours.difference(&there).copied().collect();
    let there = kernel.fdb(&device.name).await?;
    let entries = EntryChanges {
        set: fdb
            .iter()
            .filter(|entry| !there.contains(entry))
            .copied()
            .collect(),
        // A VXLAN device sends a copy to every destination of a MAC, so a former one must go when the new one comes.
        remove: there
            .iter()
            .filter(|entry| {
                !fdb.contains(entry) && fdb.iter().any(|wanted| wanted.mac == entry.mac)
            })
            .copied()
            .collect(),
    };
    pass.entry_changes += missing.len() + entries.set.len() + entries.remove.len();
    let mut result = Ok(());
    if !entries.is_empty() {
        result = kernel.change_fdb(&device.name, entries).await;
    }
    if !missing.is_empty() {
        let changes = EntryChanges {
            set: missing,
            remove: Vec::new(),
        };
        result = result.and(kernel.change_neighbours(&device.name, changes).await);
    }
    result
}

/// Removes what nothing refers to any more: entries of nodes that left, devices no pool needs. Called only in sync
/// and when no route is left to remove.
pub(super) async fn clean_up<K: Kernel>(
    kernel: &K,
    desired: &DesiredState,
    links: &Links,
    counters: &Counters,
) -> Pass {
    let mut pass = Pass::default();
    for device in desired
        .vxlan
        .values()
        .filter(|device| links.contains_key(&device.name))
    {
        let result = remove_entries(kernel, device, &mut pass).await;
        finish(
            &mut pass,
            Subject::Entries(device.name.clone()),
            result,
            &counters.entry_errors,
        );
    }
    for name in [VXLAN_DEVICE_V4, VXLAN_DEVICE_V6] {
        let wanted = desired.vxlan.values().any(|device| device.name == name);
        let is_vxlan = links
            .get(name)
            .is_some_and(|link| matches!(link.kind, LinkKind::Vxlan(_)));
        if !wanted && is_vxlan {
            let result = kernel.delete_link(name).await;
            pass.link_changes += usize::from(result.is_ok());
            finish(
                &mut pass,
                Subject::Link(name.to_owned()),
                result,
                &counters.link_errors,
            );
        }
    }
    if desired.ipip.is_none() && links.contains_key(IPIP_DEVICE) {
        let result = strip_ipip(kernel, &mut pass).await;
        finish(
            &mut pass,
            Subject::Link(IPIP_DEVICE.to_owned()),
            result,
            &counters.link_errors,
        );
    }
    if pass.link_changes > 0 {
        pass.links = read_links(kernel).await.ok();
    }
    pass
}

async fn remove_entries<K: Kernel>(
    kernel: &K,
    device: &VxlanDevice,
    pass: &mut Pass,
) -> Result<(), KernelError> {
    let (neighbours, fdb) = wanted_entries(device);
    let strangers = EntryChanges {
        set: Vec::new(),
        remove: kernel
            .neighbours(&device.name)
            .await?
            .into_iter()
            // Another address's entry of the right MAC was replaced, not left over; a wrong MAC was set before.
            .filter(|entry| {
                !neighbours
                    .iter()
                    .any(|wanted| wanted.address == entry.address)
            })
            .collect(),
    };
    let dead_ends = EntryChanges {
        set: Vec::new(),
        remove: kernel
            .fdb(&device.name)
            .await?
            .into_iter()
            .filter(|entry| !fdb.contains(entry))
            .collect(),
    };
    pass.entry_changes += strangers.remove.len() + dead_ends.remove.len();
    let mut result = Ok(());
    if !strangers.is_empty() {
        result = kernel.change_neighbours(&device.name, strangers).await;
    }
    if !dead_ends.is_empty() {
        result = result.and(kernel.change_fdb(&device.name, dead_ends).await);
    }
    result
}

/// The device is the kernel's and stays; the address on it would keep attracting packets. Only what a tunnel address
/// looks like is taken: `tunl0` may serve somebody else.
async fn strip_ipip<K: Kernel>(kernel: &K, pass: &mut Pass) -> Result<(), KernelError> {
    let remove: Vec<InterfaceAddress> = kernel
        .addresses()
        .await?
        .remove(IPIP_DEVICE)
        .unwrap_or_default()
        .into_iter()
        .filter(|address| address.prefix_len == 32 && address.address.is_ipv4())
        .collect();
    if remove.is_empty() {
        return Ok(());
    }
    pass.link_changes += remove.len();
    let changes = EntryChanges {
        set: Vec::new(),
        remove,
    };
    kernel.change_addresses(IPIP_DEVICE, changes).await
}
