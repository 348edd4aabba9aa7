//! Packets seen on a wire, taken apart as far as the tests ask: outer and inner addresses, protocol 4, VXLAN.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::exec;
use crate::netns::Netns;
use crate::pace;
use crate::process::Daemon;

/// IP protocol numbers.
mod protocol {
    pub(super) const ICMP: u8 = 1;
    pub(super) const IP_IN_IP: u8 = 4;
    pub(super) const UDP: u8 = 17;
    pub(super) const ICMP6: u8 = 58;
}

/// UDP port of VXLAN.
const VXLAN_PORT: u16 = 4789;

/// One IP header and what it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol number: 1 ICMP, 4 IP-in-IP, 17 UDP …
    pub protocol: u8,
    /// Type of an ICMP or `ICMPv6` message.
    pub icmp_type: Option<u8>,
    /// VXLAN network identifier where it is a VXLAN packet.
    pub vni: Option<u32>,
    /// The packet inside a tunnel.
    pub inner: Option<Box<Self>>,
}

impl Packet {
    /// The innermost packet: what the pods sent.
    #[must_use]
    pub fn innermost(&self) -> &Self {
        self.inner.as_deref().map_or(self, Self::innermost)
    }

    /// Whether it is an ICMP or `ICMPv6` message.
    #[must_use]
    pub fn is_icmp(&self) -> bool {
        matches!(self.protocol, protocol::ICMP | protocol::ICMP6)
    }

    /// Whether it is an echo request: what ping sends.
    #[must_use]
    pub fn is_echo_request(&self) -> bool {
        match self.protocol {
            protocol::ICMP => self.icmp_type == Some(8),
            protocol::ICMP6 => self.icmp_type == Some(128),
            _ => false,
        }
    }

    /// Whether it is IP-in-IP (protocol 4) with a packet inside.
    #[must_use]
    pub fn is_ipip(&self) -> bool {
        self.protocol == protocol::IP_IN_IP && self.inner.is_some()
    }
}

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    daemon: Daemon,
    file: PathBuf,
}

impl Capture {
    /// Starts to capture on an interface and returns once tcpdump is listening. `filter` is a pcap expression.
    ///
    /// # Errors
    /// When tcpdump refuses.
    pub fn start(netns: &Netns, interface: &str, filter: &str, folder: &Path) -> Result<Self> {
        let stem = format!("capture-{}-{interface}", netns.name());
        let file = folder.join(format!("{stem}.pcap"));
        let log = folder.join(format!("{stem}.log"));
        let _ = fs::remove_file(&log);
        let mut command = netns.command("tcpdump");
        command
            .args([
                "-i",
                interface,
                "-n",
                "-U",
                "--immediate-mode",
                "-Z",
                "root",
                "-w",
            ])
            .arg(&file)
            .arg(filter);
        let mut daemon = Daemon::start("tcpdump", &mut command, &log)?;
        daemon.await_log("listening on", pace::seconds(10))?;
        Ok(Self { daemon, file })
    }

    /// The ROUTE-REFRESH messages one address sent another so far, in order: 0 a request, 1 the beginning of what was asked for, 2 its
    /// end. As Wireshark reads them.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn refreshes(&self, from: IpAddr, to: IpAddr) -> Result<Vec<u8>> {
        let family = if from.is_ipv4() { "ip" } else { "ipv6" };
        let filter = format!("bgp.type == 5 && {family}.src == {from} && {family}.dst == {to}");
        // It ends with a failure where the last packet is not all written yet.
        let output = exec::output(
            Command::new("tshark")
                .arg("-r")
                .arg(&self.file)
                .args(["-Y", &filter, "-T", "fields"])
                .args(["-e", "bgp.route_refresh.subtype"]),
            &[],
        )?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.split([',', '\n'])
            .filter(|word| !word.trim().is_empty())
            .map(|word| word.trim().parse().with_context(|| text.to_string()))
            .collect()
    }

    /// Stops and returns the IP packets seen.
    ///
    /// # Errors
    /// When tcpdump does not end or its file is not readable.
    pub fn stop(self) -> Result<Vec<Packet>> {
        self.daemon.stop(Signal::SIGINT, pace::seconds(5))?;
        let bytes = fs::read(&self.file).with_context(|| self.file.display().to_string())?;
        Ok(parse_pcap(&bytes))
    }
}

/// Takes a pcap file of Ethernet frames apart; what is not IP is left out.
#[must_use]
pub fn parse_pcap(bytes: &[u8]) -> Vec<Packet> {
    const FILE_HEADER: usize = 24;
    const RECORD_HEADER: usize = 16;
    const LENGTH_OFFSET: usize = 8;
    let mut packets = Vec::new();
    let mut rest = bytes.get(FILE_HEADER..).unwrap_or_default();
    while let Some(length) = rest
        .get(LENGTH_OFFSET..LENGTH_OFFSET + 4)
        .and_then(|field| field.try_into().ok())
    {
        // tcpdump writes in the machine's own byte order.
        let end = RECORD_HEADER + u32::from_ne_bytes(length) as usize;
        let Some(frame) = rest.get(RECORD_HEADER..end) else {
            break;
        };
        packets.extend(ethernet(frame));
        rest = rest.get(end..).unwrap_or_default();
    }
    packets
}

fn ethernet(frame: &[u8]) -> Option<Packet> {
    match be16(frame, 12)? {
        0x0800 | 0x86dd => ip(frame.get(14..)?),
        _ => None,
    }
}

fn ip(bytes: &[u8]) -> Option<Packet> {
    let (source, destination, protocol, payload): (IpAddr, IpAddr, u8, &[u8]) =
        match bytes.first()? >> 4 {
            4 => {
                let header = usize::from(bytes.first()? & 0xf) * 4;
                let source: [u8; 4] = bytes.get(12..16)?.try_into().ok()?;
                let destination: [u8; 4] = bytes.get(16..20)?.try_into().ok()?;
                (
                    Ipv4Addr::from(source).into(),
                    Ipv4Addr::from(destination).into(),
                    *bytes.get(9)?,
                    bytes.get(header..)?,
                )
            }
            6 => {
                let source: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
                let destination: [u8; 16] = bytes.get(24..40)?.try_into().ok()?;
                (
                    Ipv6Addr::from(source).into(),
                    Ipv6Addr::from(destination).into(),
                    *bytes.get(6)?,
                    bytes.get(40..)?,
                )
            }
            _ => return None,
        };
    let mut packet = Packet {
        source,
        destination,
        protocol,
        icmp_type: None,
        vni: None,
        inner: None,
    };
    if packet.is_icmp() {
        packet.icmp_type = payload.first().copied();
    }
    if protocol == protocol::IP_IN_IP {
        packet.inner = ip(payload).map(Box::new);
    } else if protocol == protocol::UDP && be16(payload, 2) == Some(VXLAN_PORT) {
        let id = payload.get(12..15)?;
        packet.vni = Some(id.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)));
        packet.inner = payload.get(16..).and_then(ethernet).map(Box::new);
    }
    Some(packet)
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend(payload);
        bytes
    }

    fn frame(packet: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 12];
        bytes.extend([0x08, 0x00]);
        bytes.extend(packet);
        bytes
    }

    #[test]
    fn ip_in_ip_shows_both_headers() {
        let inner = ipv4([10, 65, 0, 1], [10, 65, 1, 1], 1, &[8, 0]);
        let packet = ethernet(&frame(&ipv4([10, 0, 1, 11], [10, 0, 2, 11], 4, &inner))).unwrap();
        assert!(packet.is_ipip());
        assert_eq!(packet.innermost().source, IpAddr::from([10, 65, 0, 1]));
    }

    #[test]
    fn vxlan_shows_its_network_and_the_packet_inside() {
        let inner = frame(&ipv4([10, 65, 0, 1], [10, 65, 1, 1], 1, &[8, 0]));
        let mut udp = vec![0xc0, 0, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0x10, 0, 0];
        udp.extend(inner);
        let packet = ethernet(&frame(&ipv4([10, 0, 1, 11], [10, 0, 2, 11], 17, &udp))).unwrap();
        assert_eq!(packet.vni, Some(4096));
        assert!(packet.innermost().is_icmp());
    }

    #[test]
    fn a_cut_frame_is_left_out() {
        assert_eq!(ethernet(&frame(&[0x45, 0, 0])), None);
        assert_eq!(parse_pcap(&[0; 30]), vec![]);
    }
}
