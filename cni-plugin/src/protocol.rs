//! What plugin and daemon say to each other over `<run-dir>/cni.sock`.
//!
//! One JSON value a line, UTF-8, each [`Request`] answered by exactly one [`Reply`]. A connection may carry several
//! requests: ADD sends [`Request::Add`], plumbs, and sends [`Request::Confirm`] on the same connection, so that the
//! daemon can tell a plugin that died half way (the connection ends without a confirmation) from a slow one.
//!
//! The daemon decides everything (addresses, names, MTU); the plugin only does what needs the pod's namespace.
//! Both sides ignore members they do not know, so that plugin and daemon can be upgraded one after the other.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of this protocol; the daemon refuses a request with a greater one.
pub const PROTOCOL_VERSION: u32 = 1;

/// Longest accepted line in octets: GC lists every attachment of a node, some 150 octets each.
pub const MAX_LINE: u64 = 4 * 1024 * 1024;

/// The kernel's route protocol number of every route that margay writes.
pub const ROUTE_PROTOCOL: u8 = 109;

/// One attachment of a container to the network, as CNI identifies it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentId {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`, the interface's name inside the container.
    pub ifname: String,
}

/// Everything the daemon must know to add a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddRequest {
    /// Container and interface.
    pub attachment: AttachmentId,
    /// Name of the network configuration; part of the IPAM handle (`<network>.<container id>`).
    pub network: String,
    /// Path of the pod's network namespace as the runtime gave it.
    pub netns: String,
    /// `K8S_POD_NAMESPACE`, where the runtime gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME`, where the runtime gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// `K8S_POD_UID`, where the runtime gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Whether the pod gets an IPv4 address.
    pub assign_ipv4: bool,
    /// Whether the pod gets an IPv6 address.
    pub assign_ipv6: bool,
    /// Names or CIDRs of the pools to take the IPv4 address from; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ipv4_pools: Vec<String>,
    /// Names or CIDRs of the pools to take the IPv6 address from; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ipv6_pools: Vec<String>,
    /// Addresses asked for by name (`IP=` in `CNI_ARGS`, `runtimeConfig.ips`), at most one a family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requested: Vec<IpAddr>,
    /// MTU from the network configuration; absent: the daemon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// What a plugin may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
pub enum Request {
    /// Record the endpoint and give it addresses. Answered by [`Reply::Assigned`].
    Add(Box<AddRequest>),
    /// The pod is plumbed: take over its routes. Answered by [`Reply::Done`] when they are in the kernel.
    Confirm {
        /// Which attachment.
        attachment: AttachmentId,
    },
    /// The pod's interface is gone: release what it held. Answered by [`Reply::Done`], also when nothing was known.
    Del {
        /// Which attachment.
        attachment: AttachmentId,
        /// Name of the network configuration.
        network: String,
    },
    /// Does the daemon hold this attachment with these addresses? Answered by [`Reply::Done`] or [`Reply::Error`].
    Check {
        /// Which attachment.
        attachment: AttachmentId,
        /// Addresses of the previous result.
        addresses: Vec<IpAddr>,
    },
    /// Release every attachment of the network that is not listed. Answered by [`Reply::Collected`].
    Gc {
        /// Name of the network configuration.
        network: String,
        /// The attachments that live, as the runtime knows them.
        valid: Vec<AttachmentId>,
    },
    /// Would an ADD succeed now? Answered by [`Reply::Done`] or [`Reply::Error`] with code 50 or 51.
    Status {
        /// Whether IPv4 addresses would be asked for.
        assign_ipv4: bool,
        /// Whether IPv6 addresses would be asked for.
        assign_ipv6: bool,
    },
}

/// What the plugin must plumb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assigned {
    /// The pod's addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// Name of the host end of the veth pair.
    pub host_interface: String,
    /// MTU of both ends.
    pub mtu: u32,
    /// Whether the pod itself may forward packets.
    #[serde(default)]
    pub allow_ip_forwarding: bool,
}

/// How the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "lowercase")]
pub enum Reply {
    /// To [`Request::Add`].
    Assigned(Assigned),
    /// Done as asked.
    Done,
    /// To [`Request::Gc`].
    Collected {
        /// How many attachments were released.
        released: usize,
    },
    /// Refused or failed; nothing is left behind by the request.
    Error {
        /// A CNI error code, see [`crate::spec::code`].
        code: u32,
        /// What failed, in one line.
        message: String,
        /// Why, and what would help.
        #[serde(default)]
        details: String,
        /// More, by name, for the log.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        context: BTreeMap<String, String>,
    },
}

/// Writes one value and its line end, and flushes.
///
/// # Errors
/// When the peer is gone or the value cannot be written.
pub fn write_line<T: Serialize>(mut to: impl Write, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Reads one line as a value; `None` where the peer closed between lines.
///
/// # Errors
/// When the line is longer than [`MAX_LINE`], breaks off, or does not hold a `T`.
pub fn read_line<T: DeserializeOwned>(from: impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    from.take(MAX_LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the line breaks off or is too long",
        ));
    }
    serde_json::from_slice(&line)
        .map(Some)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_wire_and_unknown_members_are_ignored() {
        let request = Request::Del {
            attachment: AttachmentId {
                container_id: "c1".into(),
                ifname: "eth0".into(),
            },
            network: "k8s-pod-network".into(),
        };
        let mut wire = Vec::new();
        write_line(&mut wire, &request).unwrap();
        assert_eq!(
            read_line::<Request>(&wire[..]).unwrap(),
            Some(request.clone())
        );

        let newer = String::from_utf8(wire)
            .unwrap()
            .replace("\"verb\"", "\"since\":2,\"verb\"");
        assert_eq!(
            read_line::<Request>(newer.as_bytes()).unwrap(),
            Some(request)
        );
    }

    #[test]
    fn a_line_that_breaks_off_is_an_error_and_an_empty_stream_is_the_end() {
        assert_eq!(read_line::<Reply>(&b""[..]).unwrap(), None);
        let e = read_line::<Reply>(&b"{\"reply\":\"done\""[..]).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
    }
}
