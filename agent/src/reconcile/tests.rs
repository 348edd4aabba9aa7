//! The dataplane on the fake kernel: every scenario under every fault, and the rules one by one. Time is invented.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use margay_bgp::family::Family;
use margay_bgp::prefix::Prefix;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Dataplane, DataplaneConfig, Status, Subject};
use crate::desired::state::{DesiredState, IpipDevice, Masquerade, Vtep, VxlanDevice};
use crate::kernel::fake::{FakeKernel, Fault, mac};
use crate::kernel::{InterfaceAddress, KernelNextHop, LinkKind, Route, RouteKey};

fn key(prefix: &str) -> RouteKey {
    RouteKey::main(prefix.parse::<Prefix>().expect("prefix"), 0)
}

fn via(address: &str, interface: &str) -> Route {
    Route::via(vec![KernelNextHop::gateway(
        address.parse().expect("address"),
        Some(interface.to_owned()),
    )])
}

fn foreign(address: &str) -> Route {
    Route {
        protocol: 4,
        ..via(address, "eth0")
    }
}

fn state(routes: &[(&str, Route)]) -> DesiredState {
    DesiredState {
        in_sync: true,
        routes: routes
            .iter()
            .map(|(prefix, route)| (key(prefix), route.clone()))
            .collect(),
        ..DesiredState::default()
    }
}

fn vxlan(nodes: &[u8]) -> VxlanDevice {
    VxlanDevice {
        name: "vxlan.calico".to_owned(),
        vni: 4096,
        port: 4789,
        local: "192.0.2.1".parse().expect("address"),
        parent: Some("eth0".to_owned()),
        mac: mac(0),
        address: Some("10.65.0.1".parse().expect("address")),
        mtu: 1450,
        vteps: nodes
            .iter()
            .map(|node| Vtep {
                node: format!("n{node}"),
                tunnel_ip: format!("10.65.{node}.0").parse().expect("address"),
                mac: mac(*node),
                node_ip: format!("192.0.2.{node}").parse().expect("address"),
            })
            .collect(),
    }
}

/// A node of every kind of thing: pods, blocks, remote routes, both tunnels, masquerade, sysctls.
fn whole_node() -> DesiredState {
    let mut wanted = state(&[
        ("10.65.0.2/32", Route::device("cali1")),
        ("fd00::2/128", Route::device("cali1")),
        ("10.65.0.0/26", Route::blackhole()),
        ("fd00::/122", Route::blackhole()),
        ("10.66.1.0/26", via("192.0.2.2", "eth0")),
        ("fd00:1::/122", via("2001:db8::2", "eth0")),
        ("10.67.1.0/26", via("192.0.2.3", "tunl0")),
        ("10.65.2.0/26", via("10.65.2.0", "vxlan.calico")),
    ]);
    wanted.ipip = Some(IpipDevice {
        address: Some("10.67.0.1".parse().expect("address")),
        mtu: 1480,
    });
    wanted.vxlan.insert(Family::IPV4_UNICAST, vxlan(&[2, 3]));
    wanted.masquerade = Masquerade {
        outgoing: BTreeSet::from(["10.65.0.0/16".parse().expect("prefix")]),
        pools: BTreeSet::from(["10.65.0.0/16".parse().expect("prefix")]),
        ..Masquerade::default()
    };
    wanted.forward_accept = true;
    wanted
        .sysctls
        .insert("net.ipv4.ip_forward".to_owned(), "1".to_owned());
    wanted
}

struct Node {
    kernel: FakeKernel,
    dataplane: Dataplane,
    desired: watch::Sender<Option<Arc<DesiredState>>>,
    wanted: DesiredState,
    _cancel: tokio_util::sync::DropGuard,
}

/// A kernel with an uplink, a pod's interface, others' routes, and a sysctl.
fn machine() -> FakeKernel {
    let kernel = FakeKernel::new();
    kernel.add_link("eth0", true);
    kernel.add_link("cali1", true);
    kernel.put_route(key("0.0.0.0/0"), foreign("192.0.2.254"));
    kernel.put_route(key("172.16.0.0/12"), foreign("192.0.2.253"));
    let mut tables = kernel.tables();
    tables
        .sysctls
        .insert("net.ipv4.ip_forward".to_owned(), "0".to_owned());
    tables.addresses.insert(
        "eth0".to_owned(),
        BTreeSet::from([InterfaceAddress {
            address: "192.0.2.1".parse().expect("address"),
            prefix_len: 24,
        }]),
    );
    drop(tables);
    kernel
}

impl Node {
    fn start(kernel: &FakeKernel) -> Self {
        Self::start_with(kernel, DataplaneConfig::default())
    }

    fn start_with(kernel: &FakeKernel, config: DataplaneConfig) -> Self {
        let (desired, receiver) = watch::channel(None);
        let cancel = CancellationToken::new();
        let (dataplane, _task) =
            Dataplane::spawn(kernel.clone(), config, receiver, cancel.clone()).expect("events");
        Self {
            kernel: kernel.clone(),
            dataplane,
            desired,
            wanted: DesiredState::default(),
            _cancel: cancel.drop_guard(),
        }
    }

    fn want(&mut self, state: DesiredState) {
        self.wanted = state.clone();
        self.desired.send_replace(Some(Arc::new(state)));
    }

    /// Lets the task run until nothing happens at this instant.
    async fn idle(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn status(&self, holds: impl FnMut(&Arc<Status>) -> bool) -> Arc<Status> {
        let mut status = self.dataplane.status();
        tokio::time::timeout(Duration::from_secs(600), status.wait_for(holds))
            .await
            .unwrap_or_else(|_| {
                panic!(
                    "never came about; last: {:?}",
                    self.dataplane.status().borrow()
                )
            })
            .expect("the task runs")
            .clone()
    }

    /// Waits until the kernel holds what is wanted, all of it and nothing else of ours.
    async fn converged(&self, context: &str) {
        let deadline = Instant::now() + Duration::from_secs(600);
        loop {
            let difference = self.difference();
            if difference.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{context}: not converged: {difference:#?}; status {:?}",
                self.dataplane.status().borrow()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn difference(&self) -> Vec<String> {
        let tables = self.kernel.tables();
        let wanted = &self.wanted;
        let mut difference = Vec::new();
        for (key, route) in &wanted.routes {
            let route = route.clone().normalised(key.version());
            if tables.routes.get(key) != Some(&route) {
                difference.push(format!(
                    "{key}: wanted {route}, found {:?}",
                    tables.routes.get(key)
                ));
            }
        }
        for (key, route) in &tables.routes {
            if route.protocol == 109 && !wanted.routes.contains_key(key) {
                difference.push(format!("{key}: left over"));
            }
        }
        let address = |name: &str| {
            tables
                .addresses
                .get(name)
                .into_iter()
                .flatten()
                .map(|address| address.address.to_string())
                .collect::<Vec<_>>()
        };
        let ipip: Vec<String> = wanted
            .ipip
            .iter()
            .filter_map(|device| device.address)
            .map(|address| address.to_string())
            .collect();
        if address("tunl0") != ipip {
            difference.push(format!("tunl0 has {:?}, wanted {ipip:?}", address("tunl0")));
        }
        let device = wanted.vxlan.get(&Family::IPV4_UNICAST);
        match (device, tables.links.get("vxlan.calico")) {
            (None, None) => {}
            (Some(device), Some(link)) => {
                let fits = link.kind == LinkKind::Vxlan(device.spec().attributes())
                    && link.mac == Some(device.mac)
                    && link.up
                    && link.mtu == device.mtu;
                if !fits
                    || address("vxlan.calico")
                        != Vec::from_iter(device.address.map(|address| address.to_string()))
                {
                    difference.push(format!("vxlan.calico differs: {link:?}"));
                }
                let nodes: Vec<_> = device
                    .vteps
                    .iter()
                    .map(|vtep| (vtep.tunnel_ip, vtep.mac))
                    .collect();
                let there: Vec<_> = tables
                    .neighbours
                    .get("vxlan.calico")
                    .into_iter()
                    .flatten()
                    .map(|entry| (entry.address, entry.mac))
                    .collect();
                if nodes != there {
                    difference.push(format!("neighbours: {there:?}"));
                }
                let nodes: Vec<_> = device
                    .vteps
                    .iter()
                    .map(|vtep| (vtep.mac, vtep.node_ip))
                    .collect();
                let there: Vec<_> = tables
                    .fdb
                    .get("vxlan.calico")
                    .into_iter()
                    .flatten()
                    .map(|entry| (entry.mac, entry.destination))
                    .collect();
                if nodes != there {
                    difference.push(format!("forwarding entries: {there:?}"));
                }
            }
            (wanted, there) => {
                difference.push(format!("vxlan.calico: wanted {wanted:?}, found {there:?}"))
            }
        }
        if tables.filter.masquerade != wanted.masquerade {
            difference.push("packet filter".to_owned());
        }
        for (name, value) in &wanted.sysctls {
            if tables.sysctls.get(name) != Some(value) {
                difference.push(format!("sysctl {name}"));
            }
        }
        for (prefix, address) in [
            ("0.0.0.0/0", "192.0.2.254"),
            ("172.16.0.0/12", "192.0.2.253"),
        ] {
            if tables.links.get("eth0").is_some_and(|link| link.up)
                && tables.routes.get(&key(prefix))
                    != Some(&foreign(address).normalised(key(prefix).version()))
            {
                difference.push(format!("the foreign route to {prefix} was touched"));
            }
        }
        difference
    }
}

/// The scenarios of the matrix: what happens to a node, before and while a fault strikes.
const SCENARIOS: [&str; 10] = [
    "start",
    "restart",
    "pod comes",
    "pod goes",
    "node moves",
    "tunnels go",
    "routes deleted by hand",
    "pod interface flaps",
    "entries flushed",
    "vxlan device deleted",
];

async fn play(scenario: &str, fault: Option<Fault>) {
    let kernel = machine();
    let strike = || {
        if let Some(fault) = fault {
            kernel.fail(fault, 2);
        }
    };
    let context = format!("{scenario} under {fault:?}");
    if scenario == "start" {
        strike();
    }
    let mut node = Node::start(&kernel);
    node.want(whole_node());
    node.converged(&context).await;
    strike();
    let mut wanted = whole_node();
    match scenario {
        "restart" => {
            drop(node);
            // Meanwhile a remote node has left.
            wanted.routes.remove(&key("10.66.1.0/26"));
            node = Node::start(&kernel);
            node.want(wanted);
        }
        "pod comes" => {
            kernel.add_link("cali2", true);
            kernel.put_route(key("10.65.0.3/32"), Route::device("cali2"));
            wanted
                .routes
                .insert(key("10.65.0.3/32"), Route::device("cali2"));
            node.want(wanted);
        }
        "pod goes" => {
            kernel.remove_link("cali1");
            wanted.routes.remove(&key("10.65.0.2/32"));
            wanted.routes.remove(&key("fd00::2/128"));
            node.want(wanted);
        }
        "node moves" => {
            let mut device = vxlan(&[2]);
            device.vteps[0].node_ip = "192.0.2.77".parse().expect("address");
            wanted.vxlan.insert(Family::IPV4_UNICAST, device);
            wanted
                .routes
                .insert(key("10.66.1.0/26"), via("192.0.2.77", "eth0"));
            node.want(wanted);
        }
        "tunnels go" => {
            wanted.vxlan.clear();
            wanted.ipip = None;
            wanted.routes.remove(&key("10.67.1.0/26"));
            wanted.routes.remove(&key("10.65.2.0/26"));
            node.want(wanted);
        }
        "routes deleted by hand" => {
            for prefix in [
                "10.65.0.2/32",
                "10.66.1.0/26",
                "fd00:1::/122",
                "10.65.0.0/26",
            ] {
                kernel.delete_route(key(prefix));
            }
        }
        "pod interface flaps" => {
            kernel.set_link("cali1", false);
            node.idle().await;
            kernel.set_link("cali1", true);
        }
        "entries flushed" => kernel.flush_entries("vxlan.calico"),
        "vxlan device deleted" => kernel.remove_link("vxlan.calico"),
        _ => {}
    }
    node.converged(&context).await;
}

#[tokio::test(start_paused = true)]
async fn every_scenario_ends_as_desired_without_faults() {
    for scenario in SCENARIOS {
        play(scenario, None).await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_scenario_ends_as_desired_under_every_fault() {
    for scenario in SCENARIOS {
        for fault in Fault::ALL {
            play(scenario, Some(fault)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_changed_before_there_is_a_desired_state() {
    let kernel = machine();
    kernel.put_route(key("10.66.9.0/26"), via("192.0.2.9", "eth0"));
    let node = Node::start(&kernel);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(kernel.tables().routes.contains_key(&key("10.66.9.0/26")));
    assert!(kernel.tables().route_calls.is_empty());
    assert!(
        node.dataplane.underlay().borrow().is_some(),
        "the underlay is known already"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_removed_before_the_state_is_in_sync() {
    let kernel = machine();
    kernel.put_route(key("10.66.9.0/26"), via("192.0.2.9", "eth0"));
    kernel.add_link("vxlan.calico", true);
    let mut node = Node::start(&kernel);
    node.want(DesiredState {
        in_sync: false,
        masquerade: whole_node().masquerade,
        ..state(&[("10.66.1.0/26", via("192.0.2.2", "eth0"))])
    });
    tokio::time::sleep(Duration::from_secs(300)).await;
    let tables = kernel.tables();
    assert!(
        tables.routes.contains_key(&key("10.66.1.0/26")),
        "adding is fine"
    );
    assert!(tables.routes.contains_key(&key("10.66.9.0/26")));
    assert!(tables.links.contains_key("vxlan.calico"));
    assert!(
        tables.filter.masquerade.is_empty(),
        "half a list of pools must not be masqueraded by"
    );
}

#[tokio::test(start_paused = true)]
async fn a_family_that_bgp_has_yet_to_complete_keeps_its_routes() {
    let kernel = machine();
    kernel.put_route(key("10.66.9.0/26"), via("192.0.2.9", "eth0"));
    kernel.put_route(key("fd00:9::/122"), via("2001:db8::9", "eth0"));
    let mut node = Node::start(&kernel);
    let mut wanted = state(&[]);
    wanted.keep_unlisted.insert(Family::IPV4_UNICAST);
    node.want(wanted);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(kernel.tables().routes.contains_key(&key("10.66.9.0/26")));
    assert!(
        !kernel.tables().routes.contains_key(&key("fd00:9::/122")),
        "the other family is complete"
    );
    node.want(state(&[]));
    node.converged("complete").await;
}

#[tokio::test(start_paused = true)]
async fn a_pods_unknown_route_is_removed_only_after_its_grace() {
    let kernel = machine();
    let mut node = Node::start(&kernel);
    node.want(state(&[]));
    node.status(|status| status.started).await;
    kernel.put_route(key("10.65.0.2/32"), Route::device("cali1"));
    kernel.put_route(key("10.66.9.0/26"), via("192.0.2.9", "eth0"));
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(kernel.tables().routes.contains_key(&key("10.65.0.2/32")));
    assert!(
        !kernel.tables().routes.contains_key(&key("10.66.9.0/26")),
        "no grace but for pods"
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!kernel.tables().routes.contains_key(&key("10.65.0.2/32")));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_deleted_has_no_grace() {
    let kernel = machine();
    let mut node = Node::start(&kernel);
    node.want(state(&[("10.65.0.2/32", Route::device("cali1"))]));
    node.converged("pod").await;
    node.want(state(&[]));
    node.idle().await;
    node.idle().await;
    assert!(!kernel.tables().routes.contains_key(&key("10.65.0.2/32")));
}

#[tokio::test(start_paused = true)]
async fn the_plugins_own_route_is_not_written_again() {
    let kernel = machine();
    let mut node = Node::start(&kernel);
    node.want(state(&[]));
    node.status(|status| status.started).await;
    kernel.put_route(key("10.65.0.2/32"), Route::device("cali1"));
    node.want(state(&[("10.65.0.2/32", Route::device("cali1"))]));
    node.dataplane
        .wait_route(key("10.65.0.2/32"))
        .await
        .expect("the task runs");
    assert!(kernel.tables().route_calls.is_empty());
}

#[tokio::test(start_paused = true)]
async fn wait_route_answers_when_a_later_state_wants_it() {
    let kernel = machine();
    let mut node = Node::start(&kernel);
    let waiting = {
        let dataplane = node.dataplane.clone();
        tokio::spawn(async move { dataplane.wait_route(key("10.65.0.2/32")).await })
    };
    node.idle().await;
    assert!(!waiting.is_finished());
    node.want(state(&[("10.65.0.2/32", Route::device("cali1"))]));
    waiting.await.expect("no panic").expect("the task runs");
    assert!(kernel.tables().routes.contains_key(&key("10.65.0.2/32")));
}

#[tokio::test(start_paused = true)]
async fn wait_route_ends_with_the_task() {
    let kernel = machine();
    let node = Node::start(&kernel);
    let dataplane = node.dataplane.clone();
    drop(node);
    assert!(dataplane.wait_route(key("10.65.0.2/32")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_foreign_route_on_our_key_is_a_conflict_until_it_goes() {
    let kernel = machine();
    kernel.put_route(key("10.66.1.0/26"), foreign("192.0.2.9"));
    let mut node = Node::start(&kernel);
    node.want(state(&[("10.66.1.0/26", via("192.0.2.2", "eth0"))]));
    let status = node.status(|status| status.pending_total == 1).await;
    assert!(status.pending[&Subject::Route(key("10.66.1.0/26"))].conflict);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(kernel.tables().routes[&key("10.66.1.0/26")].protocol, 4);
    kernel.delete_route(key("10.66.1.0/26"));
    node.converged("foreign route gone").await;
}

#[tokio::test(start_paused = true)]
async fn a_foreign_route_that_no_event_told_of_is_not_overwritten_either() {
    let kernel = machine();
    let mut node = Node::start(&kernel);
    node.want(state(&[]));
    node.status(|status| status.started).await;
    kernel.fail(Fault::SilentLoss, 1);
    kernel.put_route(key("10.66.1.0/26"), foreign("192.0.2.9"));
    node.want(state(&[("10.66.1.0/26", via("192.0.2.2", "eth0"))]));
    let status = node
        .status(|status| status.pending.values().any(|pending| pending.conflict))
        .await;
    assert_eq!(status.pending_total, 1);
    assert_eq!(kernel.tables().routes[&key("10.66.1.0/26")].protocol, 4);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_route_that_takes_our_key_stays() {
    let kernel = machine();
    let mut node = Node::start(&kernel);
    node.want(state(&[("10.66.1.0/26", via("192.0.2.2", "eth0"))]));
    node.converged("ours").await;
    kernel.put_route(key("10.66.1.0/26"), foreign("192.0.2.9"));
    let status = node.status(|status| status.pending_total == 1).await;
    assert!(status.pending.values().all(|pending| pending.conflict));
    // Nor is it removed when we no longer want the key.
    node.want(state(&[]));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(kernel.tables().routes[&key("10.66.1.0/26")].protocol, 4);
}

#[tokio::test(start_paused = true)]
async fn a_missing_interface_is_waited_for_without_trying() {
    let kernel = machine();
    let mut node = Node::start(&kernel);
    node.want(state(&[("10.65.0.3/32", Route::device("cali2"))]));
    let status = node.status(|status| status.pending_total == 1).await;
    let pending = &status.pending[&Subject::Route(key("10.65.0.3/32"))];
    assert_eq!(pending.reason, "no interface cali2");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(kernel.tables().route_calls.is_empty());
    kernel.add_link("cali2", false);
    node.status(|status| {
        status.pending.values().any(|pending| {
            pending.reason == "no interface cali2" || pending.reason == "interface cali2 is down"
        })
    })
    .await;
    kernel.set_link("cali2", true);
    node.converged("the interface is there").await;
}

#[tokio::test(start_paused = true)]
async fn retries_of_a_refused_route_are_spaced_out() {
    let kernel = machine();
    kernel.fail(Fault::Route, usize::MAX);
    let mut node = Node::start(&kernel);
    node.want(state(&[("10.66.1.0/26", via("192.0.2.2", "eth0"))]));
    tokio::time::sleep(Duration::from_secs(85)).await;
    let calls = kernel.tables().route_calls.len();
    // 0.1, 0.2, 0.4 … 25.6 s: about ten tries, not hundreds.
    assert!((7..=12).contains(&calls), "{calls} tries");
    kernel.fail(Fault::Route, 0);
    node.converged("the kernel relents").await;
}

#[tokio::test(start_paused = true)]
async fn pods_come_first_and_removals_last() {
    let kernel = machine();
    for number in 0..100_u32 {
        kernel.put_route(
            key(&format!("10.70.{number}.0/24")),
            via("192.0.2.2", "eth0"),
        );
    }
    let mut node = Node::start(&kernel);
    let mut wanted = state(&[("10.65.0.2/32", Route::device("cali1"))]);
    for number in 0..5000_u32 {
        let prefix = format!("10.{}.{}.0/24", 100 + number / 250, number % 250);
        wanted.routes.insert(key(&prefix), via("192.0.2.2", "eth0"));
    }
    node.want(wanted);
    node.dataplane
        .wait_route(key("10.65.0.2/32"))
        .await
        .expect("the task runs");
    assert_eq!(kernel.tables().route_calls.len(), 1, "in the first call");
    node.converged("all").await;
    assert_eq!(
        kernel.tables().route_calls.last(),
        Some(&100),
        "removals have a call of their own, at the end"
    );
}

#[tokio::test(start_paused = true)]
async fn an_audit_counts_what_no_event_told() {
    let kernel = machine();
    let mut node = Node::start(&kernel);
    node.want(whole_node());
    node.converged("start").await;
    assert_eq!(
        node.dataplane
            .audit()
            .await
            .expect("the task runs")
            .findings,
        0
    );
    kernel.fail(Fault::SilentLoss, 2);
    kernel.delete_route(key("10.66.1.0/26"));
    kernel.flush_entries("vxlan.calico");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(
        !kernel.tables().routes.contains_key(&key("10.66.1.0/26")),
        "nobody noticed yet"
    );
    // The periodic audit: one route, two neighbours, two forwarding entries.
    let status = node
        .status(|status| status.last_audit.is_some_and(|audit| audit.findings > 0))
        .await;
    assert_eq!(status.last_audit.map(|audit| audit.findings), Some(5));
    node.converged("audited").await;
}

#[tokio::test(start_paused = true)]
async fn an_event_is_repaired_without_waiting_for_anything() {
    let kernel = machine();
    let mut node = Node::start(&kernel);
    node.want(whole_node());
    node.converged("start").await;
    let before = Instant::now();
    let key = key("10.66.1.0/26");
    kernel.delete_route(key);
    while !kernel.tables().routes.contains_key(&key) {
        tokio::task::yield_now().await;
    }
    assert_eq!(before.elapsed(), Duration::ZERO);
    node.idle().await;
    assert_eq!(node.dataplane.counters().repairs.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_kernel_without_ipip_says_so_and_the_rest_goes_on() {
    let kernel = machine();
    kernel.tables().ipip = false;
    let mut node = Node::start(&kernel);
    node.want(whole_node());
    let status = node
        .status(|status| status.routes_installed == whole_node().routes.len() - 1)
        .await;
    let pending = &status.pending[&Subject::Link("tunl0".to_owned())];
    assert!(pending.reason.contains("IP-in-IP"), "{pending:?}");
    let underlay = node.dataplane.underlay();
    assert!(
        !underlay
            .borrow()
            .as_ref()
            .expect("published")
            .ipip_available
    );
}

#[tokio::test(start_paused = true)]
async fn a_device_recreated_by_others_gets_its_routes_again() {
    let kernel = machine();
    let mut node = Node::start(&kernel);
    node.want(state(&[("10.65.0.2/32", Route::device("cali1"))]));
    node.converged("start").await;
    // Both events are waiting by the time the first is read.
    kernel.remove_link("cali1");
    kernel.add_link("cali1", true);
    node.converged("recreated").await;
}

#[tokio::test(start_paused = true)]
async fn the_underlay_is_what_is_not_ours() {
    let kernel = machine();
    let mut node = Node::start(&kernel);
    node.want(whole_node());
    node.converged("start").await;
    let underlay = node.dataplane.underlay();
    let underlay = underlay.borrow().clone().expect("published");
    assert_eq!(underlay.links.keys().collect::<Vec<_>>(), ["eth0"]);
    assert_eq!(underlay.routes.len(), 2);
    let route = underlay
        .route_to("172.16.9.9".parse().expect("address"))
        .expect("a route");
    assert_eq!(route.prefix, "172.16.0.0/12".parse().expect("prefix"));
    assert!(underlay.ipip_available);
}
