//! The pod's half and the host's half of one veth pair.
//!
//! The steps and their order are Calico's (its CNI plugin's Linux data plane): the pair down, the sysctls that must
//! precede "up", up, the pod's routes, the pod's addresses, the host's route. What is better here: the host end's MAC
//! address is set at creation, so there is no race with udev to be won, and the IPv6 gateway is set as an address of
//! the host end rather than waited for.
//!
//! [`Place::plumb`] undoes what it did when a step fails. Deleting the host end is the whole undo: the kernel takes the other
//! end, the addresses and the routes with it.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use netlink_packet_route::route::RouteProtocol;

use crate::netlink::{
    Link, Socket, StepError, VethPair, Via, add_address, add_neighbour, add_route, add_veth,
    default_destination, delete_link, set_up,
};
use crate::netns::{Namespace, NamespaceError};
use crate::protocol::{Assigned, ROUTE_PROTOCOL};
use crate::spec::{Added, CniError, HOST_MAC, IPV4_GATEWAY, IPV6_GATEWAY, code};

/// A pod's namespace with a socket on either side.
#[derive(Debug)]
pub struct Place {
    namespace: Namespace,
    path: String,
    host: Socket,
    pod: Socket,
}

fn failed(what: &str, error: impl std::fmt::Display) -> CniError {
    CniError::new(code::PLUMBING_FAILED, what, error)
}

impl From<StepError> for CniError {
    fn from(e: StepError) -> Self {
        Self::new(code::PLUMBING_FAILED, e.what, e.error)
    }
}

impl Place {
    /// Opens the namespace at a path.
    ///
    /// # Errors
    /// See [`NamespaceError`]; a refusal to enter is its `Io`.
    pub fn open(path: &str) -> Result<Self, NamespaceError> {
        let namespace = Namespace::open(path)?;
        let io_error = |error| NamespaceError::Io {
            path: path.into(),
            error,
        };
        let host = Socket::open().map_err(io_error)?;
        let pod = namespace.enter(Socket::open).map_err(io_error)?;
        Ok(Self {
            namespace,
            path: path.into(),
            host,
            pod,
        })
    }

    /// The container's interface of a name.
    ///
    /// # Errors
    /// When the kernel refuses to say.
    pub fn container_link(&mut self, ifname: &str) -> Result<Option<Link>, CniError> {
        self.pod
            .link_by_name(ifname)
            .map_err(|e| failed(&format!("looking for {ifname} in {}", self.path), e))
    }

    /// The host's interface of a name.
    ///
    /// # Errors
    /// When the kernel refuses to say.
    pub fn host_link(&mut self, name: &str) -> Result<Option<Link>, CniError> {
        self.host
            .link_by_name(name)
            .map_err(|e| failed(&format!("looking for {name} on the host"), e))
    }

    /// Plumbs a pod: both ends, addresses, routes, sysctls. On failure nothing of it is left.
    ///
    /// # Errors
    /// The step that failed and the kernel's answer.
    pub fn plumb(
        &mut self,
        ifname: &str,
        assigned: &Assigned,
        mac: Option<[u8; 6]>,
    ) -> Result<Added, CniError> {
        self.remove_stale_host_end(&assigned.host_interface)?;
        self.host.run(vec![add_veth(&VethPair {
            host_name: &assigned.host_interface,
            host_mac: HOST_MAC,
            container_name: ifname,
            container_mac: mac,
            container_namespace: self.namespace.as_fd(),
            mtu: assigned.mtu,
        })])?;
        let result = self.plumb_pair(ifname, assigned);
        if result.is_err()
            && let Ok(Some(host)) = self.host.link_by_name(&assigned.host_interface)
        {
            // The first error is the one to tell; the daemon removes what could not be removed here.
            let _gone = self.host.run(vec![delete_link(&host)]);
        }
        result
    }

    /// A pod that is created anew under the same name has the same host interface name, and its predecessor's may
    /// still be there. Calico removes it as well: the newer sandbox is the one the kubelet wants.
    fn remove_stale_host_end(&mut self, name: &str) -> Result<(), CniError> {
        let Some(stale) = self.host_link(name)? else {
            return Ok(());
        };
        if !stale.veth {
            return Err(failed(
                &format!("interface {name} exists on the host"),
                "it is not a veth, so it is not a former pod's",
            ));
        }
        match self.host.run(vec![delete_link(&stale)]) {
            Err(e) if e.errno() != Some(nix::libc::ENODEV) => Err(e.into()),
            _ => Ok(()),
        }
    }

    fn plumb_pair(&mut self, ifname: &str, assigned: &Assigned) -> Result<Added, CniError> {
        let gone = |name: &str| {
            failed(
                &format!("interface {name} vanished"),
                "somebody deleted it while the pod was being added",
            )
        };
        let host = self
            .host_link(&assigned.host_interface)?
            .ok_or_else(|| gone(&assigned.host_interface))?;
        let container = self.container_link(ifname)?.ok_or_else(|| gone(ifname))?;
        let has_v6 = assigned.addresses.iter().any(IpAddr::is_ipv6);

        for setting in host_sysctls(&host.name, has_v6) {
            setting
                .write()
                .map_err(|e| failed("preparing the host end", e))?;
        }
        self.namespace
            .enter(|| {
                for setting in container_sysctls(ifname, has_v6, assigned.allow_ip_forwarding) {
                    setting.write()?;
                }
                Ok::<_, io::Error>(())
            })
            .map_err(|e| failed("preparing the container's namespace", e))?;

        // Both ends up before any route: the kernel refuses routes through a link that is down.
        let mut steps = vec![set_up(&host)];
        if has_v6 {
            steps.push(add_address(&host, IPV6_GATEWAY.into(), 64));
        }
        self.host.run(steps)?;
        self.pod.run(vec![set_up(&container)])?;

        let mut steps = Vec::new();
        for &address in &assigned.addresses {
            let gateway: IpAddr = if address.is_ipv4() {
                IPV4_GATEWAY.into()
            } else {
                IPV6_GATEWAY.into()
            };
            if address.is_ipv4() {
                steps.push(add_route(
                    &container,
                    gateway,
                    32,
                    Via::Link,
                    RouteProtocol::Boot,
                ));
                // Calico leaves the gateway to proxy ARP, which answers only where the host has a route to it, in practice a
                // default route by another interface: a host that learns its default route over BGP would cut its pods off
                // from each other with the session.
                steps.push(add_neighbour(&container, IPV4_GATEWAY, HOST_MAC));
            }
            steps.push(add_route(
                &container,
                default_destination(address),
                0,
                Via::Gateway(gateway),
                RouteProtocol::Boot,
            ));
            steps.push(add_address(
                &container,
                address,
                if address.is_ipv4() { 32 } else { 128 },
            ));
        }
        self.pod.run(steps)?;

        for &address in &assigned.addresses {
            let prefix_len = if address.is_ipv4() { 32 } else { 128 };
            let step = add_route(
                &host,
                address,
                prefix_len,
                Via::Link,
                RouteProtocol::from(ROUTE_PROTOCOL),
            );
            match self.host.run(vec![step]) {
                Ok(()) => {}
                // The daemon may have been quicker: it knows of the pod already.
                Err(e) if e.errno() == Some(nix::libc::EEXIST) => {
                    self.accept_existing_route(address, &host)?
                }
                Err(e) => return Err(e.into()),
            }
        }

        Ok(Added {
            host_interface: host.name,
            host_mac: mac_text(&host.mac),
            container_interface: ifname.into(),
            container_mac: mac_text(&container.mac),
            sandbox: self.path.clone(),
            mtu: assigned.mtu,
            addresses: assigned.addresses.clone(),
        })
    }

    fn accept_existing_route(&mut self, address: IpAddr, host: &Link) -> Result<(), CniError> {
        let what = format!("the host has another route to {address}");
        let index = self
            .host
            .route_interface(address)
            .map_err(|e| failed(&what, e))?;
        if index == Some(host.index) {
            return Ok(());
        }
        let other = match index {
            Some(index) => self
                .host
                .link_by_index(index)
                .ok()
                .flatten()
                .map(|l| l.name),
            None => None,
        };
        Err(failed(
            &what,
            format!(
                "it leads to interface {}, not to {}",
                other.as_deref().unwrap_or("(none)"),
                host.name
            ),
        ))
    }

    /// Removes the pod's interface, and with it the host's end and route. An interface that this plugin did not make
    /// is left alone: DEL also follows an ADD that failed because the name was taken.
    ///
    /// # Errors
    /// When the kernel refuses; an interface that is gone already is success.
    pub fn unplumb(&mut self, ifname: &str) -> Result<(), CniError> {
        let Some(container) = self.container_link(ifname)? else {
            return Ok(());
        };
        let Some(peer_index) = container.peer_index.filter(|_| container.veth) else {
            return Ok(());
        };
        let peer = self
            .host
            .link_by_index(peer_index)
            .map_err(|e| failed("looking for the host end", e))?;
        let ours = peer.is_some_and(|p| p.veth && p.name.starts_with("cali"));
        if !ours {
            return Ok(());
        }
        match self.pod.run(vec![delete_link(&container)]) {
            Err(e) if e.errno() != Some(nix::libc::ENODEV) => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Whether the pod is plumbed as a result says.
    ///
    /// # Errors
    /// Code 103 with the first difference.
    pub fn check(
        &mut self,
        ifname: &str,
        host_interface: Option<&str>,
        addresses: &[IpAddr],
    ) -> Result<(), CniError> {
        let differs = |what: String| CniError::new(code::CHECK_FAILED, what, "");
        let container = self
            .container_link(ifname)?
            .ok_or_else(|| differs(format!("interface {ifname} is missing in {}", self.path)))?;
        if !container.up {
            return Err(differs(format!("interface {ifname} is down")));
        }
        let host = match host_interface {
            Some(name) => self
                .host_link(name)?
                .ok_or_else(|| differs(format!("interface {name} is missing on the host")))?,
            None => self
                .host
                .link_by_index(container.peer_index.unwrap_or(0))
                .ok()
                .flatten()
                .ok_or_else(|| differs(format!("the host end of {ifname} is missing")))?,
        };
        if !host.up {
            return Err(differs(format!("interface {} is down", host.name)));
        }
        for &address in addresses {
            let inside = self
                .pod
                .route_interface(address)
                .map_err(|e| failed("asking for the container's addresses", e))?;
            // A route to an own address leads to the loopback interface, index 1 in every namespace.
            if inside != Some(1) {
                return Err(differs(format!("address {address} is missing on {ifname}")));
            }
            if self
                .host
                .route_interface(address)
                .map_err(|e| failed("asking for the host's routes", e))?
                != Some(host.index)
            {
                return Err(differs(format!(
                    "the host's route to {address} does not lead to {}",
                    host.name
                )));
            }
        }
        Ok(())
    }
}

fn mac_text(mac: &[u8]) -> String {
    let mut text = String::with_capacity(17);
    for (i, octet) in mac.iter().enumerate() {
        let separator = if i == 0 { "" } else { ":" };
        // Writing into a String cannot fail.
        let _ok = write!(text, "{separator}{octet:02x}");
    }
    text
}

/// One value under /proc/sys/net of the thread's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sysctl {
    path: String,
    value: &'static str,
    /// Whether the pod cannot work without it.
    required: bool,
}

impl Sysctl {
    fn write(&self) -> io::Result<()> {
        let path = Path::new("/proc/sys/net").join(&self.path);
        match fs::write(&path, self.value) {
            Err(e) if self.required => Err(io::Error::new(
                e.kind(),
                format!("cannot set {} to {}: {e}", path.display(), self.value),
            )),
            _ => Ok(()),
        }
    }
}

fn host_sysctls(name: &str, has_v6: bool) -> Vec<Sysctl> {
    let v4 = |key: &str, value, required| Sysctl {
        path: format!("ipv4/conf/{name}/{key}"),
        value,
        required,
    };
    let v6 = |key: &str, value, required| Sysctl {
        path: format!("ipv6/conf/{name}/{key}"),
        value,
        required,
    };
    let mut all = vec![
        v4("route_localnet", "1", true),
        Sysctl {
            path: format!("ipv4/neigh/{name}/proxy_delay"),
            value: "0",
            required: false,
        },
        v4("proxy_arp", "1", true),
        v4("forwarding", "1", true),
        v6("accept_ra", "0", false),
    ];
    if has_v6 {
        all.extend([
            v6("accept_dad", "0", false),
            v6("disable_ipv6", "0", true),
            v6("proxy_ndp", "1", true),
            v6("forwarding", "1", true),
        ]);
    }
    all
}

fn container_sysctls(ifname: &str, has_v6: bool, forwarding: bool) -> Vec<Sysctl> {
    let value = if forwarding { "1" } else { "0" };
    let mut all = vec![Sysctl {
        path: "ipv4/ip_forward".into(),
        value,
        required: forwarding,
    }];
    if has_v6 {
        for scope in ["all", "default", "lo"] {
            all.push(Sysctl {
                path: format!("ipv6/conf/{scope}/disable_ipv6"),
                value: "0",
                required: scope == "all",
            });
        }
        all.extend([
            Sysctl {
                path: format!("ipv6/conf/{ifname}/accept_dad"),
                value: "0",
                required: false,
            },
            Sysctl {
                path: format!("ipv6/conf/{ifname}/disable_ipv6"),
                value: "0",
                required: true,
            },
            Sysctl {
                path: "ipv6/conf/all/forwarding".into(),
                value,
                required: forwarding,
            },
        ]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_is_written_as_iproute2_writes_it() {
        assert_eq!(mac_text(&HOST_MAC), "ee:ee:ee:ee:ee:ee");
        assert_eq!(mac_text(&[2, 0, 0xa, 0xbc, 1, 0xff]), "02:00:0a:bc:01:ff");
    }
}
