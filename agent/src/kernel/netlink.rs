//! The real kernel: rtnetlink for links, addresses, neighbours and routes, `nft` for the packet filter, `/proc/sys`
//! for settings.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::link::{
    InfoIpTunnel, LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::{AddressFamily, IpProtocol, RouteNetlinkMessage};
use tokio::sync::mpsc;

use super::convert::{self, Names};
use super::monitor::Monitor;
use super::nftables::Nft;
use super::socket::RequestSocket;
use super::sysctl::Sysctls;
use super::worker::Worker;
use super::{
    EntryChanges, FdbEntry, FilterOutcome, FilterSpec, InterfaceAddress, IpVersion, Kernel,
    KernelError, KernelEvent, Link, LinkKind, Neighbour, Route, RouteChange, RouteFilter, RouteKey,
    VxlanSpec,
};

/// What to do about a kernel without IP-in-IP.
const IPIP_HINT: &str = "load the ipip module (modprobe ipip), or use VXLAN in the pool";
/// What to do about a kernel without VXLAN.
const VXLAN_HINT: &str =
    "load the vxlan module (modprobe vxlan), or use another encapsulation in the pool";

/// The kernel of one network namespace: that of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    /// Everything by rtnetlink, in the order asked.
    requests: Worker<RequestSocket>,
    /// `nft` and sysctls: slow enough not to stand in the way of routes.
    programs: Worker<Programs>,
    /// Subscribed since the start; taken by the first call of [`Kernel::events`].
    monitor: Mutex<Option<Monitor>>,
    sends: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Programs {
    nft: Nft,
    sysctls: Sysctls,
}

/// Where the outside world is.
#[derive(Clone, Debug)]
pub struct NetlinkOptions {
    /// `/proc/sys`, or where the host's is mounted.
    pub sysctl_root: PathBuf,
    /// The `nft` program.
    pub nft: PathBuf,
    /// Receive buffer of the event socket in octets: some 200 octets a route, so that tens of thousands of changes
    /// at once fit.
    pub event_buffer: usize,
    /// The table whose routes are reported in events.
    pub table: u32,
}

impl Default for NetlinkOptions {
    fn default() -> Self {
        Self {
            sysctl_root: PathBuf::from("/proc/sys"),
            nft: PathBuf::from("nft"),
            event_buffer: 16 * 1024 * 1024,
            table: super::MAIN_TABLE,
        }
    }
}

impl Netlink {
    /// Opens sockets in the calling thread's network namespace and subscribes to events.
    ///
    /// # Errors
    /// When a socket cannot be opened or a thread not started.
    pub fn open(options: NetlinkOptions) -> Result<Self, KernelError> {
        let socket = RequestSocket::open()?;
        let monitor = Monitor::subscribe(socket.port(), options.event_buffer, options.table)?;
        Ok(Self {
            sends: socket.sends(),
            requests: Worker::spawn("netlink", socket)?,
            programs: Worker::spawn(
                "nft-sysctl",
                Programs {
                    nft: Nft::new(options.nft),
                    sysctls: Sysctls::new(options.sysctl_root),
                },
            )?,
            monitor: Mutex::new(Some(monitor)),
        })
    }

    /// Counts the calls by which requests went to the kernel, however many each of them held.
    #[must_use]
    pub fn sends(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sends)
    }
}

impl Kernel for Netlink {
    fn events(&self) -> Result<mpsc::Receiver<KernelEvent>, KernelError> {
        let monitor = self
            .monitor
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take()
            .ok_or_else(|| KernelError::Io {
                what: "events",
                message: "already taken".to_owned(),
            })?;
        monitor.run(self.requests.clone())
    }

    async fn routes(&self, filter: RouteFilter) -> Result<Vec<(RouteKey, Route)>, KernelError> {
        self.requests
            .run(move |socket| {
                let names = names(socket)?;
                let versions = match filter.family {
                    Some(version) => vec![version],
                    None => vec![IpVersion::V4, IpVersion::V6],
                };
                let mut all = Vec::new();
                for version in versions {
                    let request = RouteNetlinkMessage::GetRoute(convert::dump_routes_message(
                        filter, version,
                    ));
                    let routes = match socket.dump("routes", &request, |message, routes| {
                        if let RouteNetlinkMessage::NewRoute(message) = message {
                            routes.extend(convert::route(&message, &names).filter(
                                |(key, route)| {
                                    key.table == filter.table
                                        && filter
                                            .protocol
                                            .is_none_or(|protocol| protocol == route.protocol)
                                },
                            ));
                        }
                    }) {
                        // A kernel booted without IPv6 has no routes of it.
                        Err(KernelError::Refused { errno, .. })
                            if version == IpVersion::V6 && errno == nix::libc::EOPNOTSUPP =>
                        {
                            Vec::new()
                        }
                        other => other?,
                    };
                    all.extend(routes);
                }
                Ok(all)
            })
            .await
    }

    async fn change_routes(
        &self,
        changes: Arc<[RouteChange]>,
    ) -> Result<Vec<Result<(), KernelError>>, KernelError> {
        self.requests
            .run(move |socket| change_routes(socket, &changes))
            .await
    }

    async fn links(&self) -> Result<Vec<Link>, KernelError> {
        self.requests.run(links).await
    }

    async fn ipip_available(&self) -> bool {
        self.requests
            .run(|socket| Ok(ipip_available(socket)))
            .await
            .unwrap_or(false)
    }

    async fn ensure_ipip(&self, name: &str) -> Result<(), KernelError> {
        let name = name.to_owned();
        self.requests
            .run(move |socket| {
                match links(socket)?.into_iter().find(|link| link.name == name) {
                    Some(link) if link.kind == LinkKind::IpIp => return Ok(()),
                    Some(_) => return Err(KernelError::Exists),
                    None => {}
                }
                let message =
                    RouteNetlinkMessage::NewLink(convert::ipip_message(&name, Vec::new()));
                match socket.request("create ipip device", message, NLM_F_CREATE | NLM_F_EXCL) {
                    // Asking for the kind loads the module, and the module creates tunl0 before us.
                    Ok(()) | Err(KernelError::Exists) => Ok(()),
                    Err(error) => Err(unsupported(error, "IP-in-IP", IPIP_HINT)),
                }
            })
            .await
    }

    async fn ensure_vxlan(&self, spec: &VxlanSpec) -> Result<bool, KernelError> {
        let spec = spec.clone();
        self.requests
            .run(move |socket| ensure_vxlan(socket, &spec))
            .await
    }

    async fn delete_link(&self, name: &str) -> Result<(), KernelError> {
        let name = name.to_owned();
        self.requests
            .run(move |socket| delete_link(socket, &name))
            .await
    }

    async fn set_link_up(&self, name: &str, mtu: u32) -> Result<(), KernelError> {
        let name = name.to_owned();
        self.requests
            .run(move |socket| {
                let mut message = LinkMessage::default();
                message.header.index = index_of(&name)?;
                message.header.flags = LinkFlags::Up;
                message.header.change_mask = LinkFlags::Up;
                message.attributes = vec![LinkAttribute::Mtu(mtu)];
                socket.request("set link up", RouteNetlinkMessage::SetLink(message), 0)
            })
            .await
    }

    async fn addresses(&self) -> Result<BTreeMap<String, Vec<InterfaceAddress>>, KernelError> {
        self.requests
            .run(|socket| {
                let names = names(socket)?;
                let request = RouteNetlinkMessage::GetAddress(Default::default());
                let addresses = socket.dump("addresses", &request, |message, addresses| {
                    if let RouteNetlinkMessage::NewAddress(message) = message {
                        addresses.extend(convert::address(&message));
                    }
                })?;
                let mut by_interface = BTreeMap::<String, Vec<InterfaceAddress>>::new();
                for (index, address) in addresses {
                    if let Some(name) = names.get(&index) {
                        by_interface.entry(name.clone()).or_default().push(address);
                    }
                }
                Ok(by_interface)
            })
            .await
    }

    async fn change_addresses(
        &self,
        interface: &str,
        changes: EntryChanges<InterfaceAddress>,
    ) -> Result<(), KernelError> {
        let interface = interface.to_owned();
        self.requests
            .run(move |socket| {
                change_entries(
                    socket,
                    "address",
                    &interface,
                    &changes,
                    |index, address, set| {
                        let message = convert::address_message(index, *address);
                        if set {
                            RouteNetlinkMessage::NewAddress(message)
                        } else {
                            RouteNetlinkMessage::DelAddress(message)
                        }
                    },
                )
            })
            .await
    }

    async fn neighbours(&self, interface: &str) -> Result<Vec<Neighbour>, KernelError> {
        let interface = interface.to_owned();
        self.requests
            .run(move |socket| {
                let index = index_of(&interface)?;
                let mut request = NeighbourMessage::default();
                request.attributes = vec![NeighbourAttribute::IfIndex(index)];
                let request = RouteNetlinkMessage::GetNeighbour(request);
                socket.dump("neighbours", &request, |message, found| {
                    if let RouteNetlinkMessage::NewNeighbour(message) = message {
                        found.extend(convert::neighbour(&message, index));
                    }
                })
            })
            .await
    }

    async fn change_neighbours(
        &self,
        interface: &str,
        changes: EntryChanges<Neighbour>,
    ) -> Result<(), KernelError> {
        let interface = interface.to_owned();
        self.requests
            .run(move |socket| {
                change_entries(
                    socket,
                    "neighbour",
                    &interface,
                    &changes,
                    |index, entry, set| {
                        entry_message(convert::neighbour_message(index, *entry), set)
                    },
                )
            })
            .await
    }

    async fn fdb(&self, interface: &str) -> Result<Vec<FdbEntry>, KernelError> {
        let interface = interface.to_owned();
        self.requests
            .run(move |socket| {
                let index = index_of(&interface)?;
                let mut request = NeighbourMessage::default();
                request.header.family = AddressFamily::Bridge;
                request.attributes = vec![NeighbourAttribute::IfIndex(index)];
                let request = RouteNetlinkMessage::GetNeighbour(request);
                socket.dump("forwarding entries", &request, |message, found| {
                    if let RouteNetlinkMessage::NewNeighbour(message) = message {
                        found.extend(convert::fdb_entry(&message, index));
                    }
                })
            })
            .await
    }

    async fn change_fdb(
        &self,
        interface: &str,
        changes: EntryChanges<FdbEntry>,
    ) -> Result<(), KernelError> {
        let interface = interface.to_owned();
        self.requests
            .run(move |socket| {
                change_entries(
                    socket,
                    "forwarding entry",
                    &interface,
                    &changes,
                    |index, entry, set| entry_message(convert::fdb_message(index, *entry), set),
                )
            })
            .await
    }

    async fn apply_filter(&self, spec: &FilterSpec) -> Result<FilterOutcome, KernelError> {
        let spec = spec.clone();
        self.programs
            .run(move |programs| programs.nft.apply(&spec))
            .await
    }

    async fn sysctl(&self, name: &str) -> Result<Option<String>, KernelError> {
        let name = name.to_owned();
        self.programs
            .run(move |programs| programs.sysctls.read(&name))
            .await
    }

    async fn set_sysctl(&self, name: &str, value: &str) -> Result<(), KernelError> {
        let (name, value) = (name.to_owned(), value.to_owned());
        self.programs
            .run(move |programs| programs.sysctls.write(&name, &value))
            .await
    }
}

fn change_routes(
    socket: &mut RequestSocket,
    changes: &[RouteChange],
) -> Result<Vec<Result<(), KernelError>>, KernelError> {
    // Names are looked up once a call: often enough that no index is stale, rarely enough to cost nothing.
    let mut indexes = BTreeMap::<String, Result<u32, KernelError>>::new();
    let mut index = |name: &str| {
        if let Some(known) = indexes.get(name) {
            return known.clone();
        }
        let found = index_of(name);
        indexes.insert(name.to_owned(), found.clone());
        found
    };
    let mut results = Vec::with_capacity(changes.len());
    let mut requests = Vec::with_capacity(changes.len());
    let mut positions = Vec::with_capacity(changes.len());
    for (position, change) in changes.iter().enumerate() {
        let request = match change {
            RouteChange::Add(key, route) => {
                convert::route_message(key, route, &mut index).map(|message| {
                    (
                        RouteNetlinkMessage::NewRoute(message),
                        NLM_F_CREATE | NLM_F_EXCL,
                    )
                })
            }
            RouteChange::Replace(key, route) => {
                convert::route_message(key, route, &mut index).map(|message| {
                    (
                        RouteNetlinkMessage::NewRoute(message),
                        NLM_F_CREATE | NLM_F_REPLACE,
                    )
                })
            }
            RouteChange::Delete(key, protocol) => Ok((
                RouteNetlinkMessage::DelRoute(convert::delete_route_message(key, *protocol)),
                0,
            )),
        };
        match request {
            Ok(request) => {
                requests.push(request);
                positions.push(position);
                results.push(Ok(()));
            }
            Err(error) => results.push(Err(error)),
        }
    }
    let answers = socket.batch("route", requests.into_iter())?;
    for (position, answer) in positions.into_iter().zip(answers) {
        let deleting = matches!(changes.get(position), Some(RouteChange::Delete(..)));
        let answer = match answer {
            Err(KernelError::NotFound) if deleting => Ok(()),
            other => other,
        };
        if let Some(result) = results.get_mut(position) {
            *result = answer;
        }
    }
    Ok(results)
}

/// Sets and removes entries of one interface; the first error is returned after all were tried.
fn change_entries<T>(
    socket: &mut RequestSocket,
    what: &'static str,
    interface: &str,
    changes: &EntryChanges<T>,
    message: impl Fn(u32, &T, bool) -> RouteNetlinkMessage,
) -> Result<(), KernelError> {
    let index = index_of(interface)?;
    // What is set comes first: replacing a forwarding entry or an address leaves no moment without one.
    let sets = changes
        .set
        .iter()
        .map(|entry| (message(index, entry, true), NLM_F_CREATE | NLM_F_REPLACE));
    let removals = changes
        .remove
        .iter()
        .map(|entry| (message(index, entry, false), 0));
    let mut first = Ok(());
    let set = changes.set.len();
    for (position, answer) in socket
        .batch(what, sets.chain(removals))?
        .into_iter()
        .enumerate()
    {
        match answer {
            // Already gone; addresses say EADDRNOTAVAIL.
            Err(KernelError::NotFound) if position >= set => {}
            Err(KernelError::Refused { errno, .. })
                if position >= set && errno == nix::libc::EADDRNOTAVAIL => {}
            answer => first = first.and(answer),
        }
    }
    first
}

fn entry_message(message: NeighbourMessage, set: bool) -> RouteNetlinkMessage {
    if set {
        RouteNetlinkMessage::NewNeighbour(message)
    } else {
        RouteNetlinkMessage::DelNeighbour(message)
    }
}

fn index_of(name: &str) -> Result<u32, KernelError> {
    nix::net::if_::if_nametoindex(name).map_err(|_| KernelError::NoLink(name.to_owned()))
}

/// Every link, with the names of VXLAN parents filled in.
pub(super) fn links(socket: &mut RequestSocket) -> Result<Vec<Link>, KernelError> {
    let mut request = LinkMessage::default();
    request.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    let found = socket.dump(
        "links",
        &RouteNetlinkMessage::GetLink(request),
        |message, links| {
            if let RouteNetlinkMessage::NewLink(message) = message {
                links.extend(convert::link(&message));
            }
        },
    )?;
    let names: Names = found
        .iter()
        .map(|(link, _)| (link.index, link.name.clone()))
        .collect();
    Ok(found
        .into_iter()
        .map(|(mut link, parent)| {
            if let (LinkKind::Vxlan(attributes), Some(parent)) = (&mut link.kind, parent) {
                attributes.parent = names.get(&parent).cloned();
            }
            link
        })
        .collect())
}

fn names(socket: &mut RequestSocket) -> Result<Names, KernelError> {
    Ok(links(socket)?
        .into_iter()
        .map(|link| (link.index, link.name))
        .collect())
}

fn ensure_vxlan(socket: &mut RequestSocket, spec: &VxlanSpec) -> Result<bool, KernelError> {
    if let Some(link) = links(socket)?
        .into_iter()
        .find(|link| link.name == spec.name)
    {
        if link.kind == LinkKind::Vxlan(spec.attributes()) && link.mac == Some(spec.mac) {
            return Ok(false);
        }
        tracing::info!(device = spec.name, found = ?link.kind, "vxlan device differs, creating it anew");
        delete_link(socket, &spec.name)?;
    }
    let parent = spec.parent.as_deref().map(index_of).transpose()?;
    let message = RouteNetlinkMessage::NewLink(convert::vxlan_message(spec, parent));
    socket
        .request("create vxlan device", message, NLM_F_CREATE | NLM_F_EXCL)
        .map_err(|error| unsupported(error, "VXLAN", VXLAN_HINT))?;
    Ok(true)
}

fn delete_link(socket: &mut RequestSocket, name: &str) -> Result<(), KernelError> {
    let mut message = LinkMessage::default();
    message.header.index = match index_of(name) {
        Ok(index) => index,
        Err(_) => return Ok(()),
    };
    match socket.request("delete link", RouteNetlinkMessage::DelLink(message), 0) {
        Err(KernelError::NoLink(_)) => Ok(()),
        other => other,
    }
}

/// An unknown device kind is `EOPNOTSUPP`.
fn unsupported(error: KernelError, feature: &'static str, hint: &'static str) -> KernelError {
    if matches!(error, KernelError::Refused { errno, .. } if errno == nix::libc::EOPNOTSUPP) {
        return KernelError::Unsupported { feature, hint };
    }
    error
}

/// Tells whether the kernel can do IP-in-IP, without creating anything where that can be told otherwise: from
/// an existing device, then from the list of the kernel's modules. Where neither answers, the kernel is asked for a
/// device it must refuse; the way it refuses tells whether it knows the kind.
fn ipip_available(socket: &mut RequestSocket) -> bool {
    if links(socket).is_ok_and(|links| links.iter().any(|link| link.kind == LinkKind::IpIp)) {
        return true;
    }
    if std::path::Path::new("/sys/module/ipip").exists() || ipip_module_installed() {
        return true;
    }
    let impossible = vec![InfoIpTunnel::Protocol(IpProtocol::Raw)];
    let message = RouteNetlinkMessage::NewLink(convert::ipip_message("margay-probe", impossible));
    match socket.request("probe ipip", message, NLM_F_CREATE | NLM_F_EXCL) {
        Err(KernelError::Refused { errno, .. }) => errno != nix::libc::EOPNOTSUPP,
        Err(_) => false,
        Ok(()) => {
            // No kernel accepts it; one that did would have left a device behind.
            let _ = delete_link(socket, "margay-probe");
            true
        }
    }
}

/// Whether the running kernel's list of modules, where it can be seen, has ipip: it is loaded when first asked for.
fn ipip_module_installed() -> bool {
    let Ok(release) = nix::sys::utsname::uname() else {
        return false;
    };
    let folder = std::path::Path::new("/lib/modules").join(release.release());
    ["modules.dep", "modules.builtin"]
        .iter()
        .filter_map(|list| std::fs::read_to_string(folder.join(list)).ok())
        .any(|list| list.contains("/ipip.ko"))
}
