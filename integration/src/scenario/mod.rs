//! Scenarios: each builds a lab, does something to it and states what must be seen.

#![expect(
    clippy::indexing_slicing,
    reason = "a lab has four nodes and two racks; what is missing fails the scenario"
)]

pub mod bfd;
pub mod bfd_routed;
pub mod bmp;
pub mod calico_bird;
pub mod chaos;
pub mod cni;
pub mod dual_stack;
pub mod fabric;
pub mod interop;
pub mod kernel_bgp;
pub mod prometheus;
pub mod random;
pub mod reflectors;
pub mod routed;
pub mod vxlan;

use std::path::Path;

use anyhow::Result;

use crate::report::Report;
use crate::vm::Feature;

/// What running a scenario came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that was expected was seen.
    Passed,
    /// It could not be run here, for this reason.
    Skipped(String),
}

/// A scenario's body: builds its lab in the folder and adds checks to the report.
pub type Run = fn(&Path, &mut Report) -> Result<Outcome>;

/// A scenario by name.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// As given to `lab scenario NAME`.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// What it needs that a kernel may lack; it then runs in the emulated machine.
    pub needs: Option<Feature>,
    /// Whether nothing may run beside it: it measures times, or leaves others none.
    pub alone: bool,
    /// Its body.
    pub run: Run,
}

/// Every scenario, in the order the tests run them.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "demo",
        about: "pods on two racks reach each other: four nodes, IP-in-IP between the racks, restarts, closed sessions, frozen views",
        needs: Some(Feature::Ipip),
        alone: false,
        run: crate::demo::run,
    },
    Scenario {
        name: "fabric",
        about: "the lab itself: two racks with BIRD and FRR as routers and BIRD on every node, no margay",
        needs: None,
        alone: false,
        run: fabric::run,
    },
    Scenario {
        name: "interop",
        about: "margay speaker beside BIRD 2, BIRD 3, BIRD 1.6, FRR, GoBGP and OpenBGPD: a matrix of peers and cases",
        needs: None,
        alone: false,
        run: interop::run,
    },
    Scenario {
        name: "bfd",
        about: "BFD with BIRD 2, FRR and margay: other timers, taken down on purpose, cut off without a word",
        needs: None,
        alone: true,
        run: bfd::run,
    },
    Scenario {
        name: "bfd-multihop",
        about: "the same over two hops (RFC 5883): cut behind a router, and no farther away than configured",
        needs: None,
        alone: true,
        run: bfd_routed::run,
    },
    Scenario {
        name: "bfd-multihop6",
        about: "that over IPv6: sessions, BFD and routes",
        needs: None,
        alone: true,
        run: bfd_routed::run_over_ipv6,
    },
    Scenario {
        name: "bfd-load",
        about: "BFD beside two hundred busy sessions and busy processors: no false alarm, and a cut is noticed",
        needs: None,
        alone: true,
        run: bfd::load,
    },
    Scenario {
        name: "bfd-storm",
        about: "a link that flaps at random under BFD and graceful restart: forwarding stays, all is well afterwards",
        needs: None,
        alone: true,
        run: bfd::storm,
    },
    Scenario {
        name: "kernel-bgp",
        about: "sockets and the kernel: TCP-MD5, TCP-AO, GTSM, link-local peers, devices, namespaces, full ranges, replaced routes",
        needs: None,
        alone: false,
        run: kernel_bgp::run,
    },
    Scenario {
        name: "vrf",
        about: "a listener in a VRF, which ignores callers in the default one",
        needs: Some(Feature::Vrf),
        alone: false,
        run: kernel_bgp::run_vrf,
    },
    Scenario {
        name: "tcp-ao",
        about: "TCP-AO with BIRD 3 and margay, in a kernel that has it: algorithms, ranges, keys that change under sessions",
        needs: Some(Feature::TcpAo),
        alone: false,
        run: kernel_bgp::run_tcp_ao,
    },
    Scenario {
        name: "bmp",
        about: "a BMP collector is told of a session with BIRD; Wireshark reads what it is told",
        needs: None,
        alone: false,
        run: bmp::run,
    },
    Scenario {
        name: "vxlan",
        about: "vxlanMode CrossSubnet: plain in a rack, VXLAN across, restart without loss",
        needs: None,
        alone: false,
        run: vxlan::run,
    },
    Scenario {
        name: "routed",
        about: "no encapsulation: every node an AS, the ToRs carry pod routes, third-party next hops",
        needs: None,
        alone: false,
        run: routed::run,
    },
    Scenario {
        name: "reflectors",
        about: "a mesh becomes route reflectors and a mesh again under ping",
        needs: None,
        alone: false,
        run: reflectors::run,
    },
    Scenario {
        name: "dual-stack",
        about: "IPv4 and IPv6 in VXLAN, a session for each",
        needs: None,
        alone: false,
        run: dual_stack::run,
    },
    Scenario {
        name: "dual-routed",
        about: "IPv4 and IPv6 un-encapsulated through the ToRs, a session for each",
        needs: None,
        alone: false,
        run: routed::dual,
    },
    Scenario {
        name: "dual-joined",
        about: "the same with both families on one session",
        needs: None,
        alone: false,
        run: routed::joined,
    },
    Scenario {
        name: "calico-bird",
        about: "three margay nodes in a mesh with one that runs BIRD 1.6 as Calico configures it",
        needs: None,
        alone: false,
        run: calico_bird::run,
    },
    Scenario {
        name: "prometheus",
        about: "Debian's Prometheus scrapes four agents; promtool; the number of series",
        needs: None,
        alone: false,
        run: prometheus::run,
    },
    Scenario {
        name: "random",
        about: "2,000 seeded changes; kernels equal what fresh agents compute",
        needs: None,
        alone: false,
        run: random::run,
    },
    Scenario {
        name: "chaos",
        about: "crowds, no descriptors or memory, slow readers, frozen processes, reflectors restarted, flapping links, damaged octets, BIRDs replaced one by one",
        needs: None,
        alone: false,
        run: chaos::run,
    },
    Scenario {
        name: "chaos-vm",
        about: "a wall clock that jumps by hours, and more callers than a control group has memory for",
        needs: Some(Feature::Clock),
        alone: false,
        run: chaos::run_emulated,
    },
    Scenario {
        name: "chaos-standstill",
        about: "an emulated machine with a reflector stands still, between neighbours for whom time goes on",
        needs: None,
        alone: false,
        run: chaos::run_standstill,
    },
    Scenario {
        name: "cni",
        about: "the plugin: 100 pods at once, killed at every system call, without the agent, misconfigured",
        needs: None,
        alone: false,
        run: cni::run,
    },
];

/// Finds a scenario.
#[must_use]
pub fn find(name: &str) -> Option<Scenario> {
    ALL.iter().copied().find(|scenario| scenario.name == name)
}
