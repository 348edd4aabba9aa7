//! An in-memory kernel for tests, with the real one's silences and refusals, and named faults on top.
//!
//! What it takes over from the real one: `replace` ignores the protocol, `add` refuses a key that is held, routes need
//! their interface up, IPv4 routes vanish without an event when it goes down, a VXLAN device created anew
//! has lost everything, and nobody hears the echo of their own changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc;

use super::{
    EntryChanges, FdbEntry, FilterOutcome, FilterSpec, InterfaceAddress, IpVersion, Kernel,
    KernelError, KernelEvent, Link, LinkKind, MacAddress, Neighbour, Route, RouteChange,
    RouteFilter, RouteKey, VxlanSpec,
};

/// Something that goes wrong, a given number of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Any dump fails.
    Dump,
    /// A call that changes routes fails before it changed anything.
    Batch,
    /// A call that changes routes changes half of them, and says that it failed.
    HalfBatch,
    /// A single route is refused.
    Route,
    /// An event is not delivered; the reader is told that events were lost.
    Overrun,
    /// An event is not delivered, and nobody says so: only an audit can find out.
    SilentLoss,
    /// Creating or changing a link fails.
    LinkChange,
    /// Changing addresses fails.
    AddressChange,
    /// Changing neighbours fails.
    NeighbourChange,
    /// Changing forwarding entries fails.
    FdbChange,
    /// The packet filter cannot be written.
    Filter,
    /// A sysctl cannot be written.
    Sysctl,
}

impl Fault {
    /// All of them.
    pub(crate) const ALL: [Self; 12] = [
        Self::Dump,
        Self::Batch,
        Self::HalfBatch,
        Self::Route,
        Self::Overrun,
        Self::SilentLoss,
        Self::LinkChange,
        Self::AddressChange,
        Self::NeighbourChange,
        Self::FdbChange,
        Self::Filter,
        Self::Sysctl,
    ];
}

/// What the fake holds.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) links: BTreeMap<String, Link>,
    pub(crate) routes: BTreeMap<RouteKey, Route>,
    pub(crate) addresses: BTreeMap<String, BTreeSet<InterfaceAddress>>,
    pub(crate) neighbours: BTreeMap<String, BTreeSet<Neighbour>>,
    pub(crate) fdb: BTreeMap<String, BTreeSet<FdbEntry>>,
    pub(crate) sysctls: BTreeMap<String, String>,
    pub(crate) filter: FilterSpec,
    /// The kernel can do IP-in-IP.
    pub(crate) ipip: bool,
    /// Calls that changed routes, and how many routes each.
    pub(crate) route_calls: Vec<usize>,
    last_index: u32,
    faults: BTreeMap<Fault, usize>,
    events: Option<mpsc::Sender<KernelEvent>>,
}

/// A kernel that several hold: the code under test, and the test, which plays everybody else.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeKernel(Arc<Mutex<Tables>>);

impl FakeKernel {
    pub(crate) fn new() -> Self {
        let fake = Self::default();
        fake.tables().ipip = true;
        fake
    }

    /// Everything it holds, to look at and to prepare.
    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().expect("no test panics while it looks")
    }

    /// Makes something go wrong the next `times` times.
    pub(crate) fn fail(&self, fault: Fault, times: usize) {
        self.tables().faults.insert(fault, times);
    }

    /// Somebody adds an interface.
    pub(crate) fn add_link(&self, name: &str, up: bool) {
        let mut tables = self.tables();
        let link = tables.new_link(name, LinkKind::Veth, up);
        tables.tell(KernelEvent::LinkSet(link));
    }

    /// Somebody sets an interface up or down.
    pub(crate) fn set_link(&self, name: &str, up: bool) {
        let mut tables = self.tables();
        let Some(link) = tables.links.get_mut(name) else {
            return;
        };
        link.up = up;
        link.running = up;
        let link = link.clone();
        tables.tell(KernelEvent::LinkSet(link));
        if !up {
            tables.drop_routes(name);
        }
    }

    /// Somebody removes an interface.
    pub(crate) fn remove_link(&self, name: &str) {
        let mut tables = self.tables();
        if let Some(link) = tables.remove_link(name) {
            tables.tell(KernelEvent::LinkGone {
                name: link.name,
                index: link.index,
            });
        }
    }

    /// Somebody puts a route, in the place of whatever was there.
    pub(crate) fn put_route(&self, key: RouteKey, route: Route) {
        let mut tables = self.tables();
        let route = route.normalised(key.version());
        tables.routes.insert(key, route.clone());
        tables.tell(KernelEvent::RouteSet(key, route));
    }

    /// Somebody deletes a route.
    pub(crate) fn delete_route(&self, key: RouteKey) {
        let mut tables = self.tables();
        if let Some(route) = tables.routes.remove(&key) {
            tables.tell(KernelEvent::RouteGone(key, route));
        }
    }

    /// Somebody empties a device's neighbours and forwarding entries.
    pub(crate) fn flush_entries(&self, name: &str) {
        let mut tables = self.tables();
        tables.neighbours.remove(name);
        tables.fdb.remove(name);
        tables.tell(KernelEvent::NeighboursChanged {
            interface: name.to_owned(),
        });
    }
}

impl Tables {
    fn fails(&mut self, fault: Fault) -> bool {
        match self.faults.get_mut(&fault) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }

    fn check(&mut self, fault: Fault) -> Result<(), KernelError> {
        if self.fails(fault) {
            return Err(KernelError::Refused {
                what: "fake",
                errno: nix::libc::EBUSY,
                message: format!("{fault:?} fails"),
            });
        }
        Ok(())
    }

    fn tell(&mut self, event: KernelEvent) {
        let event = if self.fails(Fault::Overrun) {
            KernelEvent::Overrun
        } else if self.fails(Fault::SilentLoss) {
            return;
        } else {
            event
        };
        if let Some(events) = &self.events {
            // A full channel is the real kernel's full socket; no test gets near it.
            let _ = events.try_send(event);
        }
    }

    fn new_link(&mut self, name: &str, kind: LinkKind, up: bool) -> Link {
        self.last_index += 1;
        let link = Link {
            index: self.last_index,
            name: name.to_owned(),
            kind,
            up,
            running: up,
            mtu: 1500,
            mac: None,
        };
        self.links.insert(name.to_owned(), link.clone());
        link
    }

    fn remove_link(&mut self, name: &str) -> Option<Link> {
        let link = self.links.remove(name)?;
        self.addresses.remove(name);
        self.neighbours.remove(name);
        self.fdb.remove(name);
        self.drop_routes(name);
        Some(link)
    }

    /// What the kernel does to routes of an interface that goes: it tells only of IPv6.
    fn drop_routes(&mut self, name: &str) {
        let lost: Vec<RouteKey> = self
            .routes
            .iter()
            .filter(|(_, route)| route.uses(name))
            .map(|(key, _)| *key)
            .collect();
        for key in lost {
            if let Some(route) = self.routes.remove(&key)
                && key.version() == IpVersion::V6
            {
                self.tell(KernelEvent::RouteGone(key, route));
            }
        }
    }

    fn link_mut(&mut self, name: &str) -> Result<&mut Link, KernelError> {
        self.links
            .get_mut(name)
            .ok_or_else(|| KernelError::NoLink(name.to_owned()))
    }

    fn change_route(&mut self, change: &RouteChange) -> Result<(), KernelError> {
        self.check(Fault::Route)?;
        match change {
            RouteChange::Delete(key, protocol) => {
                if self
                    .routes
                    .get(key)
                    .is_some_and(|route| route.protocol == *protocol)
                {
                    self.routes.remove(key);
                }
            }
            RouteChange::Add(key, route) | RouteChange::Replace(key, route) => {
                for name in route
                    .next_hops
                    .iter()
                    .filter_map(|hop| hop.interface.as_deref())
                {
                    if !self.link_mut(name)?.up {
                        return Err(KernelError::LinkDown);
                    }
                }
                if matches!(change, RouteChange::Add(..)) && self.routes.contains_key(key) {
                    return Err(KernelError::Exists);
                }
                self.routes
                    .insert(*key, Route::clone(route).normalised(key.version()));
            }
        }
        Ok(())
    }
}

impl Kernel for FakeKernel {
    fn events(&self) -> Result<mpsc::Receiver<KernelEvent>, KernelError> {
        let (sender, receiver) = mpsc::channel(4096);
        self.tables().events = Some(sender);
        Ok(receiver)
    }

    async fn routes(&self, filter: RouteFilter) -> Result<Vec<(RouteKey, Route)>, KernelError> {
        let mut tables = self.tables();
        tables.check(Fault::Dump)?;
        Ok(tables
            .routes
            .iter()
            .filter(|(key, route)| {
                key.table == filter.table
                    && filter.family.is_none_or(|version| version == key.version())
                    && filter
                        .protocol
                        .is_none_or(|protocol| protocol == route.protocol)
            })
            .map(|(key, route)| (*key, route.clone()))
            .collect())
    }

    async fn change_routes(
        &self,
        changes: Arc<[RouteChange]>,
    ) -> Result<Vec<Result<(), KernelError>>, KernelError> {
        let mut tables = self.tables();
        tables.check(Fault::Batch)?;
        tables.route_calls.push(changes.len());
        if tables.fails(Fault::HalfBatch) {
            for change in changes.iter().take(changes.len().div_ceil(2)) {
                let _ = tables.change_route(change);
            }
            return Err(KernelError::Io {
                what: "fake",
                message: "half of it".to_owned(),
            });
        }
        Ok(changes
            .iter()
            .map(|change| tables.change_route(change))
            .collect())
    }

    async fn links(&self) -> Result<Vec<Link>, KernelError> {
        let mut tables = self.tables();
        tables.check(Fault::Dump)?;
        Ok(tables.links.values().cloned().collect())
    }

    async fn ipip_available(&self) -> bool {
        self.tables().ipip
    }

    async fn ensure_ipip(&self, name: &str) -> Result<(), KernelError> {
        let mut tables = self.tables();
        tables.check(Fault::LinkChange)?;
        if !tables.ipip {
            return Err(KernelError::Unsupported {
                feature: "IP-in-IP",
                hint: "none here",
            });
        }
        if !tables.links.contains_key(name) {
            tables.new_link(name, LinkKind::IpIp, false);
        }
        Ok(())
    }

    async fn ensure_vxlan(&self, spec: &VxlanSpec) -> Result<bool, KernelError> {
        let mut tables = self.tables();
        tables.check(Fault::LinkChange)?;
        let kind = LinkKind::Vxlan(spec.attributes());
        let fits = tables
            .links
            .get(&spec.name)
            .is_some_and(|link| link.kind == kind && link.mac == Some(spec.mac));
        if fits {
            return Ok(false);
        }
        tables.remove_link(&spec.name);
        tables.new_link(&spec.name, kind, false);
        let link = tables.link_mut(&spec.name)?;
        link.mac = Some(spec.mac);
        link.mtu = spec.mtu;
        Ok(true)
    }

    async fn delete_link(&self, name: &str) -> Result<(), KernelError> {
        let mut tables = self.tables();
        tables.check(Fault::LinkChange)?;
        if let Some(link) = tables.remove_link(name) {
            // Links are told of whoever changed them.
            tables.tell(KernelEvent::LinkGone {
                name: link.name,
                index: link.index,
            });
        }
        Ok(())
    }

    async fn set_link_up(&self, name: &str, mtu: u32) -> Result<(), KernelError> {
        let mut tables = self.tables();
        tables.check(Fault::LinkChange)?;
        let link = tables.link_mut(name)?;
        link.up = true;
        link.running = true;
        link.mtu = mtu;
        let link = link.clone();
        tables.tell(KernelEvent::LinkSet(link));
        Ok(())
    }

    async fn addresses(&self) -> Result<BTreeMap<String, Vec<InterfaceAddress>>, KernelError> {
        let mut tables = self.tables();
        tables.check(Fault::Dump)?;
        Ok(tables
            .addresses
            .iter()
            .map(|(name, addresses)| (name.clone(), addresses.iter().copied().collect()))
            .collect())
    }

    async fn change_addresses(
        &self,
        interface: &str,
        changes: EntryChanges<InterfaceAddress>,
    ) -> Result<(), KernelError> {
        let mut tables = self.tables();
        tables.check(Fault::AddressChange)?;
        tables.link_mut(interface)?;
        change_set(
            tables.addresses.entry(interface.to_owned()).or_default(),
            &changes,
        );
        Ok(())
    }

    async fn neighbours(&self, interface: &str) -> Result<Vec<Neighbour>, KernelError> {
        let mut tables = self.tables();
        tables.check(Fault::Dump)?;
        Ok(tables
            .neighbours
            .get(interface)
            .into_iter()
            .flatten()
            .copied()
            .collect())
    }

    async fn change_neighbours(
        &self,
        interface: &str,
        changes: EntryChanges<Neighbour>,
    ) -> Result<(), KernelError> {
        let mut tables = self.tables();
        tables.check(Fault::NeighbourChange)?;
        tables.link_mut(interface)?;
        let table = tables.neighbours.entry(interface.to_owned()).or_default();
        table.retain(|entry| !changes.set.iter().any(|new| new.address == entry.address));
        change_set(table, &changes);
        Ok(())
    }

    async fn fdb(&self, interface: &str) -> Result<Vec<FdbEntry>, KernelError> {
        let mut tables = self.tables();
        tables.check(Fault::Dump)?;
        Ok(tables
            .fdb
            .get(interface)
            .into_iter()
            .flatten()
            .copied()
            .collect())
    }

    async fn change_fdb(
        &self,
        interface: &str,
        changes: EntryChanges<FdbEntry>,
    ) -> Result<(), KernelError> {
        let mut tables = self.tables();
        tables.check(Fault::FdbChange)?;
        tables.link_mut(interface)?;
        change_set(
            tables.fdb.entry(interface.to_owned()).or_default(),
            &changes,
        );
        Ok(())
    }

    async fn apply_filter(&self, spec: &FilterSpec) -> Result<FilterOutcome, KernelError> {
        let mut tables = self.tables();
        tables.check(Fault::Filter)?;
        let outcome = FilterOutcome {
            table_changed: tables.filter.masquerade != spec.masquerade,
            accept_changed: tables.filter.forward_accept != spec.forward_accept,
        };
        tables.filter = spec.clone();
        Ok(outcome)
    }

    async fn sysctl(&self, name: &str) -> Result<Option<String>, KernelError> {
        Ok(self.tables().sysctls.get(name).cloned())
    }

    async fn set_sysctl(&self, name: &str, value: &str) -> Result<(), KernelError> {
        let mut tables = self.tables();
        tables.check(Fault::Sysctl)?;
        let setting = tables.sysctls.get_mut(name).ok_or(KernelError::NotFound)?;
        value.clone_into(setting);
        Ok(())
    }
}

fn change_set<T: Ord + Copy>(set: &mut BTreeSet<T>, changes: &EntryChanges<T>) {
    for entry in &changes.remove {
        set.remove(entry);
    }
    set.extend(&changes.set);
}

/// A MAC address of a test.
pub(crate) fn mac(last: u8) -> MacAddress {
    MacAddress([0x66, 0, 0, 0, 0, last])
}
