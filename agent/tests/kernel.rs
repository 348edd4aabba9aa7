//! The dataplane on a real kernel, each test in a network namespace of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use margay_agent::desired::state::{DesiredState, Masquerade, Vtep, VxlanDevice};
use margay_agent::kernel::netlink::{Netlink, NetlinkOptions};
use margay_agent::kernel::{
    FilterSpec, Kernel as _, KernelError, KernelEvent, KernelNextHop, MAIN_TABLE, MARGAY_PROTOCOL,
    Route, RouteChange, RouteFilter, RouteKey,
};
use margay_agent::reconcile::{DataplaneConfig, Subject};
use margay_bgp::family::Family;
use margay_bgp::prefix::Prefix;

use support::{Running, eventually, in_namespace, ip, kernel, key, nft, run, underlay, veth, via};

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

/// What `ip` shows of our routes, in both families.
fn ours() -> Vec<String> {
    [ip("-4 route show proto 109"), ip("-6 route show proto 109")]
        .iter()
        .flat_map(|text| text.lines())
        .map(|line| line.trim().to_owned())
        .collect()
}

#[test]
fn routes_of_every_kind_are_written_and_read_back_as_desired() {
    in_namespace(|| async {
        underlay();
        veth("cali1", None);
        let ecmp = Route::via(vec![
            KernelNextHop::gateway("192.0.2.3".parse().unwrap(), Some("eth0".to_owned())),
            KernelNextHop::gateway("192.0.2.2".parse().unwrap(), Some("eth0".to_owned())),
        ]);
        let ecmp6 = Route::via(vec![
            KernelNextHop::gateway("2001:db8::3".parse().unwrap(), Some("eth0".to_owned())),
            KernelNextHop::gateway("2001:db8::2".parse().unwrap(), Some("eth0".to_owned())),
        ]);
        let onlink = Route {
            mtu: Some(1400),
            ..Route::via(vec![
                KernelNextHop::gateway("198.51.100.9".parse().unwrap(), Some("eth0".to_owned()))
                    .onlink(),
            ])
        };
        let over_v6 = via("2001:db8::9", "eth0");
        let sourced = Route {
            source: Some("192.0.2.1".parse().unwrap()),
            ..via("192.0.2.2", "eth0")
        };
        let looked_up = Route::via(vec![KernelNextHop::gateway(
            "192.0.2.4".parse().unwrap(),
            None,
        )]);
        let wanted = state(&[
            ("10.65.0.1/32", Route::device("cali1")),
            ("fd00::1/128", Route::device("cali1")),
            ("10.65.0.0/26", Route::blackhole()),
            ("fd00::/122", Route::blackhole()),
            ("10.66.0.0/26", ecmp),
            ("fd00:1::/122", ecmp6),
            ("10.67.0.0/26", onlink),
            ("10.68.0.0/26", over_v6),
            ("10.69.0.0/26", sourced),
            ("10.70.0.0/26", looked_up),
            ("fd00:2::/122", via("2001:db8::2", "eth0")),
        ]);
        let running = Running::start(kernel(), DataplaneConfig::default());
        running.want(&wanted);
        running.settled(&wanted).await;
        let written = running.dataplane.counters().routes_written.get();
        assert_eq!(usize::try_from(written).unwrap(), wanted.routes.len());

        let report = running.dataplane.audit().await.unwrap();
        assert_eq!(
            report.findings, 0,
            "what was written must compare equal to what is read"
        );
        assert_eq!(running.dataplane.counters().routes_written.get(), written);
        running.stop().await;
    });
}

#[test]
fn x14_a_process_started_after_one_was_killed_adopts_its_routes_and_removes_only_what_is_unlisted()
{
    in_namespace(|| async {
        underlay();
        let foreign = [
            "10.99.0.0/16 via 192.0.2.9 dev eth0 proto static",
            "10.98.0.0/16 via 192.0.2.9 dev eth0 proto bird",
        ];
        for route in foreign {
            ip(&format!("route add {route}"));
        }
        let before = state(&[
            ("10.65.1.0/26", via("192.0.2.2", "eth0")),
            ("10.65.2.0/26", via("192.0.2.3", "eth0")),
        ]);
        let first = Running::start(kernel(), DataplaneConfig::default());
        first.want(&before);
        first.settled(&before).await;
        first.kill().await;
        assert_eq!(ours().len(), 2, "routes outlive the process");

        let second = Running::start(kernel(), DataplaneConfig::default());
        let after = state(&[("10.65.1.0/26", via("192.0.2.2", "eth0"))]);
        let incomplete = DesiredState {
            keep_unlisted: BTreeSet::from([Family::IPV4_UNICAST]),
            ..after.clone()
        };
        second.want(&incomplete);
        second
            .status(|status| status.started && status.routes_unlisted == 1)
            .await;
        assert_eq!(ours().len(), 2, "kept until BGP has told everything");

        second.want(&after);
        second.settled(&after).await;
        assert_eq!(ours(), ["10.65.1.0/26 via 192.0.2.2 dev eth0"]);
        assert_eq!(
            second.dataplane.counters().routes_written.get(),
            0,
            "adopted, not rebuilt"
        );
        second.stop().await;
        for route in foreign {
            let (prefix, _) = route.split_once(' ').unwrap();
            assert_eq!(ip(&format!("route show {prefix}")).trim(), route);
        }
    });
}

#[test]
fn a_route_deleted_by_hand_is_back_within_milliseconds() {
    in_namespace(|| async {
        underlay();
        let wanted = state(&[("10.65.1.0/26", via("192.0.2.2", "eth0"))]);
        let running = Running::start(kernel(), DataplaneConfig::default());
        running.want(&wanted);
        running.settled(&wanted).await;
        ip("route del 10.65.1.0/26");
        eventually("the repair", ours, |routes| routes.len() == 1).await;
        let counters = running.dataplane.counters();
        eventually(
            "the count",
            || counters.repairs.get(),
            |repairs| *repairs == 1,
        )
        .await;
        let latency = Duration::from_nanos(counters.repair_nanoseconds.get());
        assert!(
            latency < Duration::from_millis(100),
            "repaired after {latency:?}"
        );
        running.stop().await;
    });
}

#[test]
fn our_own_changes_are_no_events() {
    in_namespace(|| async {
        underlay();
        let kernel = kernel();
        let mut events = kernel.events().unwrap();
        let route = via("192.0.2.2", "eth0");
        let ours = RouteChange::Add(key("10.65.1.0/26"), Arc::new(route.clone()));
        kernel.change_routes([ours].into()).await.unwrap()[0]
            .clone()
            .unwrap();
        ip("route add 10.65.2.0/26 via 192.0.2.2");
        let first = loop {
            if let KernelEvent::RouteSet(key, _) = events.recv().await.unwrap() {
                break key;
            }
        };
        assert_eq!(first, key("10.65.2.0/26"));
    });
}

#[test]
fn foreign_routes_are_never_touched() {
    in_namespace(|| async {
        underlay();
        ip("route add 10.65.1.0/26 via 192.0.2.9 proto static");
        ip("route add 10.99.0.0/16 via 192.0.2.9 proto bird");
        let wanted = state(&[
            ("10.65.1.0/26", via("192.0.2.2", "eth0")),
            ("10.65.2.0/26", via("192.0.2.2", "eth0")),
        ]);
        let running = Running::start(kernel(), DataplaneConfig::default());
        running.want(&wanted);
        running
            .dataplane
            .wait_route(key("10.65.2.0/26"))
            .await
            .unwrap();
        let status = running.status(|status| status.pending_total == 1).await;
        let pending = &status.pending[&Subject::Route(key("10.65.1.0/26"))];
        assert!(pending.conflict, "{pending:?}");
        assert!(ip("route show 10.65.1.0/26").contains("via 192.0.2.9"));
        assert!(ip("route show 10.99.0.0/16").contains("via 192.0.2.9"));

        ip("route del 10.65.1.0/26 proto static");
        running.settled(&wanted).await;
        assert!(ip("route show 10.65.1.0/26").contains("via 192.0.2.2"));
        running.stop().await;
    });
}

#[test]
fn x9_a_foreign_route_nobody_heard_of_is_not_overwritten() {
    in_namespace(|| async {
        underlay();
        ip("route add 10.65.1.0/26 via 192.0.2.9 proto static");
        let add = RouteChange::Add(key("10.65.1.0/26"), Arc::new(via("192.0.2.2", "eth0")));
        let results = kernel().change_routes([add].into()).await.unwrap();
        assert_eq!(results, [Err(KernelError::Exists)]);
    });
}

#[test]
fn x9_a_foreign_route_keeps_its_key_until_its_owner_withdraws_it() {
    in_namespace(|| async {
        underlay();
        ip("route add 10.65.1.0/26 via 192.0.2.9 proto static");
        let wanted = state(&[("10.65.1.0/26", via("192.0.2.2", "eth0"))]);
        let running = Running::start(kernel(), DataplaneConfig::default());
        running.want(&wanted);
        running.status(|status| !status.pending.is_empty()).await;
        assert!(ours().is_empty());
        assert!(ip("route show proto static").contains("via 192.0.2.9"));
        ip("route del 10.65.1.0/26 proto static");
        running.settled(&wanted).await;
        assert_eq!(ours(), ["10.65.1.0/26 via 192.0.2.2 dev eth0"]);
        running.stop().await;
    });
}

#[test]
fn x15_a_gateway_off_every_subnet_needs_onlink() {
    in_namespace(|| async {
        underlay();
        let kernel = kernel();
        let gateway =
            KernelNextHop::gateway("198.51.100.9".parse().unwrap(), Some("eth0".to_owned()));
        let route = |hop| Arc::new(Route::via(vec![hop]));
        let key = key("10.65.1.0/26");
        let plain = RouteChange::Add(key, route(gateway.clone()));
        let results = kernel.change_routes([plain].into()).await.unwrap();
        assert!(results[0].is_err(), "the kernel sees no way to the gateway");
        let onlink = RouteChange::Add(key, route(gateway.onlink()));
        assert_eq!(
            kernel.change_routes([onlink].into()).await.unwrap(),
            [Ok(())]
        );
        let shown = ip("route show 10.65.1.0/26");
        assert!(
            shown.contains("via 198.51.100.9 dev eth0") && shown.contains("onlink"),
            "{shown}"
        );
    });
}

#[test]
fn calicos_routes_are_taken_over_when_asked_for() {
    in_namespace(|| async {
        underlay();
        veth("cali1", None);
        ip("route add 10.65.1.0/26 via 192.0.2.9 proto bird");
        ip("route add blackhole 10.65.0.0/26 proto 80");
        ip("route add 10.65.0.1/32 dev cali1 metric 1024 scope link proto boot");
        let wanted = state(&[
            ("10.65.1.0/26", via("192.0.2.2", "eth0")),
            ("10.65.0.0/26", Route::blackhole()),
            ("10.65.0.1/32", Route::device("cali1")),
        ]);
        let config = DataplaneConfig {
            adopt_calico: true,
            grace: Duration::ZERO,
            ..DataplaneConfig::default()
        };
        let running = Running::start(kernel(), config);
        running.want(&wanted);
        running.settled(&wanted).await;
        assert_eq!(ours().len(), 3);
        assert_eq!(ip("route show proto bird"), "");
        assert_eq!(ip("route show proto boot"), "");
        running.stop().await;
    });
}

#[test]
fn x10_an_interface_that_flaps_gets_its_routes_back() {
    in_namespace(|| async {
        underlay();
        veth("cali1", None);
        let wanted = state(&[
            ("10.65.0.1/32", Route::device("cali1")),
            ("fd00::1/128", Route::device("cali1")),
            ("10.65.1.0/26", via("192.0.2.2", "eth0")),
        ]);
        let running = Running::start(kernel(), DataplaneConfig::default());
        running.want(&wanted);
        running.settled(&wanted).await;
        ip("link set cali1 down");
        running.status(|status| status.routes_installed == 1).await;
        assert_eq!(ours().len(), 1, "the kernel drops them without a word");
        ip("link set cali1 up");
        running.settled(&wanted).await;
        assert_eq!(ours().len(), 3);
        running.stop().await;
    });
}

#[test]
fn an_interface_created_anew_gets_its_routes_again() {
    in_namespace(|| async {
        veth("cali1", None);
        let wanted = state(&[("10.65.0.1/32", Route::device("cali1"))]);
        let running = Running::start(kernel(), DataplaneConfig::default());
        running.want(&wanted);
        running.settled(&wanted).await;
        ip("link del cali1");
        running.status(|status| status.pending_total == 1).await;
        veth("cali1", None);
        running.settled(&wanted).await;
        assert_eq!(ours(), ["10.65.0.1 dev cali1 scope link"]);
        running.stop().await;
    });
}

#[test]
fn an_ecmp_route_heals_after_one_of_its_links_flapped() {
    in_namespace(|| async {
        underlay();
        veth("eth1", Some("198.51.100.1/24"));
        ip("-6 addr add 2001:db8:1::1/64 dev eth1 nodad");
        let hops = |first: &str, second: &str| {
            Route::via(vec![
                KernelNextHop::gateway(first.parse().unwrap(), Some("eth0".to_owned())),
                KernelNextHop::gateway(second.parse().unwrap(), Some("eth1".to_owned())),
            ])
        };
        let wanted = state(&[
            ("10.65.1.0/26", hops("192.0.2.2", "198.51.100.2")),
            ("fd00:1::/122", hops("2001:db8::2", "2001:db8:1::2")),
        ]);
        let running = Running::start(kernel(), DataplaneConfig::default());
        running.want(&wanted);
        running.settled(&wanted).await;
        let dumps = running.dataplane.counters().dumps.get();
        ip("link set eth1 down");
        // Only a dump can tell what is left of them.
        eventually(
            "a dump",
            || running.dataplane.counters().dumps.get(),
            |count| *count > dumps,
        )
        .await;
        ip("link set eth1 up");
        // Going down took the IPv6 address along.
        ip("-6 addr add 2001:db8:1::1/64 dev eth1 nodad");
        let whole = |text: &String| text.matches("nexthop").count() == 2 && !text.contains("dead");
        eventually("both hops of IPv4", || ip("-4 route show proto 109"), whole).await;
        eventually("both hops of IPv6", || ip("-6 route show proto 109"), whole).await;
        running.settled(&wanted).await;
        running.stop().await;
    });
}

#[test]
fn a_route_of_a_pod_nobody_told_us_of_has_its_grace() {
    in_namespace(|| async {
        veth("cali1", None);
        let config = DataplaneConfig {
            grace: Duration::from_millis(300),
            ..DataplaneConfig::default()
        };
        let running = Running::start(kernel(), config);
        running.want(&state(&[]));
        running.status(|status| status.started).await;
        let begun = Instant::now();
        ip("route add 10.65.0.1/32 dev cali1 scope link proto 109");
        ip("route add 10.65.0.2/32 dev cali1 scope link proto 109");
        // The agent hears of one of them in time.
        let wanted = state(&[("10.65.0.1/32", Route::device("cali1"))]);
        running.want(&wanted);
        running.settled(&wanted).await;
        assert!(begun.elapsed() >= Duration::from_millis(290));
        assert_eq!(ours(), ["10.65.0.1 dev cali1 scope link"]);
        assert_eq!(
            running.dataplane.counters().routes_written.get(),
            0,
            "the plugin's route is the route"
        );
        running.stop().await;
    });
}

#[test]
fn one_failing_route_does_not_hold_up_ten_thousand() {
    in_namespace(|| async {
        underlay();
        let mut wanted = state(&[("10.64.0.0/26", via("203.0.113.9", "eth0"))]);
        for number in 0..10_000_u32 {
            let prefix = Prefix::new(
                IpAddr::from((0x0b00_0000 + (number << 6)).to_be_bytes()),
                26,
            )
            .unwrap();
            wanted
                .routes
                .insert(RouteKey::main(prefix, 0), via("192.0.2.2", "eth0"));
        }
        let running = Running::start(kernel(), DataplaneConfig::default());
        let begun = Instant::now();
        running.want(&wanted);
        let status = running
            .status(|status| status.routes_installed == 10_000)
            .await;
        eprintln!("10,000 routes after {:?}", begun.elapsed());
        let reason = &status.pending[&Subject::Route(key("10.64.0.0/26"))].reason;
        assert_eq!(reason, "next hop is unreachable");

        // What it waited for arrives.
        ip("addr add 203.0.113.1/24 dev eth0");
        running.settled(&wanted).await;
        running.want(&state(&[]));
        running.settled(&state(&[])).await;
        assert!(ours().is_empty());
        running.stop().await;
    });
}

fn vxlan(vteps: &[(&str, &str, &str)]) -> VxlanDevice {
    VxlanDevice {
        name: "vxlan.calico".to_owned(),
        vni: 4096,
        port: 4789,
        local: "192.0.2.1".parse().unwrap(),
        parent: Some("eth0".to_owned()),
        mac: "66:11:22:33:44:55".parse().unwrap(),
        address: Some("10.65.0.1".parse().unwrap()),
        mtu: 1450,
        vteps: vteps
            .iter()
            .map(|(tunnel, mac, node)| Vtep {
                node: (*node).to_owned(),
                tunnel_ip: tunnel.parse().unwrap(),
                mac: mac.parse().unwrap(),
                node_ip: node.parse().unwrap(),
            })
            .collect(),
    }
}

fn tunnel_state(device: VxlanDevice) -> DesiredState {
    let mut wanted = state(&[]);
    for vtep in &device.vteps {
        let hop = KernelNextHop::gateway(vtep.tunnel_ip, Some(device.name.clone())).onlink();
        let prefix = Prefix::new(vtep.tunnel_ip, 26).unwrap();
        wanted
            .routes
            .insert(RouteKey::main(prefix, 0), Route::via(vec![hop]));
    }
    wanted.vxlan.insert(Family::IPV4_UNICAST, device);
    wanted
}

#[test]
fn a_vxlan_device_is_made_kept_and_removed_with_its_entries() {
    in_namespace(|| async {
        underlay();
        let two = tunnel_state(vxlan(&[
            ("10.65.1.0", "66:00:00:00:00:01", "192.0.2.2"),
            ("10.65.2.0", "66:00:00:00:00:02", "192.0.2.3"),
        ]));
        let first = Running::start(kernel(), DataplaneConfig::default());
        first.want(&two);
        first.settled(&two).await;
        let link = ip("-d link show vxlan.calico");
        for part in [
            "id 4096",
            "local 192.0.2.1",
            "dev eth0",
            "dstport 4789",
            "nolearning",
            "mtu 1450",
        ] {
            assert!(link.contains(part), "{part} missing: {link}");
        }
        assert!(ip("addr show vxlan.calico").contains("inet 10.65.0.1/32"));
        assert!(
            ip("neigh show dev vxlan.calico")
                .contains("10.65.2.0 lladdr 66:00:00:00:00:02 PERMANENT")
        );
        let fdb = run("bridge", &["fdb", "show", "dev", "vxlan.calico"]);
        assert!(
            fdb.contains("66:00:00:00:00:01 dst 192.0.2.2 self permanent"),
            "{fdb}"
        );
        first.stop().await;

        // A new process finds everything as it should be, and one node gone and one moved.
        let index = std::fs::read_to_string("/sys/class/net/vxlan.calico/ifindex");
        let moved = tunnel_state(vxlan(&[("10.65.1.0", "66:00:00:00:00:01", "192.0.2.8")]));
        let second = Running::start(kernel(), DataplaneConfig::default());
        second.want(&moved);
        second.settled(&moved).await;
        eventually(
            "forwarding entries",
            || run("bridge", &["fdb", "show", "dev", "vxlan.calico"]),
            |fdb| {
                fdb.contains("dst 192.0.2.8")
                    && !fdb.contains("192.0.2.2")
                    && !fdb.contains("192.0.2.3")
            },
        )
        .await;
        assert!(!ip("neigh show dev vxlan.calico").contains("10.65.2.0"));
        assert_eq!(
            std::fs::read_to_string("/sys/class/net/vxlan.calico/ifindex").ok(),
            index.ok()
        );

        // Drift of every kind is repaired.
        ip("neigh del 10.65.1.0 dev vxlan.calico");
        ip("addr add 10.99.0.1/32 dev vxlan.calico");
        ip("link set vxlan.calico mtu 1300");
        eventually(
            "the repair",
            || {
                (
                    ip("neigh show dev vxlan.calico"),
                    ip("addr show vxlan.calico"),
                )
            },
            |(neighbours, device)| {
                neighbours.contains("10.65.1.0")
                    && !device.contains("10.99.0.1")
                    && device.contains("mtu 1450")
            },
        )
        .await;
        ip("link del vxlan.calico");
        eventually(
            "the device",
            || ip("route show proto 109"),
            |routes| routes.contains("vxlan.calico"),
        )
        .await;
        second.settled(&moved).await;

        second.want(&state(&[]));
        eventually(
            "its removal",
            || ip("link show"),
            |links| !links.contains("vxlan.calico"),
        )
        .await;
        second.stop().await;
    });
}

#[test]
fn a_vxlan_device_that_differs_is_created_anew() {
    in_namespace(|| async {
        underlay();
        ip("link add vxlan.calico type vxlan id 99 dev eth0 dstport 4789 local 192.0.2.1");
        let wanted = tunnel_state(vxlan(&[("10.65.1.0", "66:00:00:00:00:01", "192.0.2.2")]));
        let running = Running::start(kernel(), DataplaneConfig::default());
        running.want(&wanted);
        running.settled(&wanted).await;
        assert!(ip("-d link show vxlan.calico").contains("id 4096"));
        running.stop().await;
    });
}

#[test]
fn ipip_is_either_there_or_a_clear_error() {
    in_namespace(|| async {
        let kernel = kernel();
        let available = kernel.ipip_available().await;
        match kernel.ensure_ipip("tunl0").await {
            Ok(()) => {
                assert!(available);
                kernel.ensure_ipip("tunl0").await.unwrap();
                kernel.set_link_up("tunl0", 1480).await.unwrap();
                assert!(ip("-d link show tunl0").contains("ipip"));
            }
            Err(error) => {
                assert!(!available);
                assert!(error.to_string().contains("IP-in-IP"), "{error}");
            }
        }
        assert!(!ip("link show").contains("probe"));
    });
}

fn masquerade(pools: &[&str]) -> Masquerade {
    let pools: BTreeSet<Prefix> = pools.iter().map(|pool| pool.parse().unwrap()).collect();
    Masquerade {
        outgoing: pools.clone(),
        pools,
        ..Masquerade::default()
    }
}

#[test]
fn the_filter_table_is_written_once_and_leaves_others_counters_alone() {
    in_namespace(|| async {
        nft("add table ip other");
        nft("add chain ip other out { type filter hook output priority 0; }");
        nft("add rule ip other out counter packets 42 bytes 4200");
        let spec = FilterSpec {
            masquerade: masquerade(&["10.65.0.0/16", "fd00::/48"]),
            forward_accept: Vec::new(),
        };
        assert!(kernel().apply_filter(&spec).await.unwrap().table_changed);
        let listing = nft("list table inet margay");
        assert!(
            listing.contains("ip saddr @outgoing_ip ip daddr != @pools_ip masquerade fully-random"),
            "{listing}"
        );
        assert!(listing.contains("ip6 saddr @outgoing_ip6"), "{listing}");

        // Another process finds it as it should be.
        assert!(!kernel().apply_filter(&spec).await.unwrap().table_changed);
        // Somebody meddles with it, or empties everything.
        nft("flush chain inet margay postrouting");
        assert!(kernel().apply_filter(&spec).await.unwrap().table_changed);
        let other = FilterSpec {
            masquerade: masquerade(&["10.66.0.0/16"]),
            ..spec.clone()
        };
        assert!(kernel().apply_filter(&other).await.unwrap().table_changed);
        let listing = nft("list table inet margay");
        assert!(
            listing.contains("10.66.0.0/16") && !listing.contains("10.65.0.0/16"),
            "{listing}"
        );
        assert!(nft("list table ip other").contains("counter packets 42 bytes 4200"));

        assert!(
            kernel()
                .apply_filter(&FilterSpec::default())
                .await
                .unwrap()
                .table_changed
        );
        assert!(!nft("list tables").contains("margay"));
    });
}

#[test]
fn every_masquerade_option_is_accepted_by_nft() {
    in_namespace(|| async {
        let spec = FilterSpec {
            masquerade: Masquerade {
                excluded_hosts: ["192.0.2.1", "2001:db8::1"]
                    .map(|host| host.parse().unwrap())
                    .into(),
                interface_filter: Some("eth+".to_owned()),
                port_range: Some((2000, 3000)),
                address: Some("192.0.2.1".parse().unwrap()),
                tunnels: vec![margay_agent::desired::state::TunnelSource {
                    device: "vxlan-v6.calico".to_owned(),
                    address: "fd00::1".parse().unwrap(),
                    vxlan_port: Some(4789),
                }],
                ..masquerade(&["10.65.0.0/16", "fd00::/48"])
            },
            forward_accept: Vec::new(),
        };
        assert!(kernel().apply_filter(&spec).await.unwrap().table_changed);
        let listing = nft("list table inet margay");
        assert!(
            listing.contains("snat ip to 192.0.2.1:2000-3000"),
            "{listing}"
        );
        assert!(listing.contains("masquerade to :4790-65535"), "{listing}");
        assert!(
            !kernel().apply_filter(&spec).await.unwrap().table_changed,
            "{listing}"
        );
    });
}

#[test]
fn pods_are_let_through_a_dropping_forward_chain_and_no_longer_when_not_needed() {
    in_namespace(|| async {
        run("iptables-nft", &["-P", "FORWARD", "DROP"]);
        run(
            "iptables-nft",
            &["-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT"],
        );
        let wanted = FilterSpec {
            masquerade: Masquerade::default(),
            forward_accept: vec!["cali".to_owned()],
        };
        let forward = || nft("list chain ip filter FORWARD");
        assert!(kernel().apply_filter(&wanted).await.unwrap().accept_changed);
        assert!(
            !kernel().apply_filter(&wanted).await.unwrap().accept_changed,
            "once is enough"
        );
        let chain = forward();
        assert_eq!(chain.matches("margay: pods").count(), 2, "{chain}");
        assert!(chain.contains("iifname \"cali*\""), "{chain}");
        // The administrator's own tool can still read its chain.
        assert!(run("iptables-nft", &["-S", "FORWARD"]).contains("docker0"));

        run("iptables-nft", &["-P", "FORWARD", "ACCEPT"]);
        assert!(kernel().apply_filter(&wanted).await.unwrap().accept_changed);
        assert!(!forward().contains("margay"));
        run("iptables-nft", &["-P", "FORWARD", "DROP"]);
        assert!(kernel().apply_filter(&wanted).await.unwrap().accept_changed);
        assert!(
            kernel()
                .apply_filter(&FilterSpec::default())
                .await
                .unwrap()
                .accept_changed
        );
        let chain = forward();
        assert!(
            !chain.contains("margay") && chain.contains("docker0"),
            "{chain}"
        );
    });
}

#[test]
fn a_flushed_rule_set_is_restored_by_its_event() {
    in_namespace(|| async {
        let wanted = DesiredState {
            masquerade: masquerade(&["10.65.0.0/16"]),
            ..state(&[])
        };
        let running = Running::start(kernel(), DataplaneConfig::default());
        running.want(&wanted);
        eventually(
            "the table",
            || nft("list tables"),
            |tables| tables.contains("margay"),
        )
        .await;
        nft("flush ruleset");
        eventually(
            "its return",
            || nft("list tables"),
            |tables| tables.contains("margay"),
        )
        .await;
        running.stop().await;
    });
}

#[test]
fn sysctls_are_set_and_missing_ones_reported() {
    in_namespace(|| async {
        let mut wanted = state(&[]);
        let sysctls = [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv4.no_such_thing", "1"),
        ];
        wanted.sysctls = sysctls
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let running = Running::start(kernel(), DataplaneConfig::default());
        running.want(&wanted);
        let status = running.status(|status| status.pending_total == 1).await;
        let missing = Subject::Sysctl("net.ipv4.no_such_thing".to_owned());
        assert!(status.pending.contains_key(&missing), "{status:?}");
        assert!(status.settled());
        assert_eq!(
            kernel()
                .sysctl("net.ipv4.ip_forward")
                .await
                .unwrap()
                .as_deref(),
            Some("1")
        );
        running.stop().await;
    });
}

#[test]
fn a_setting_that_has_to_be_large_enough_is_raised_and_never_lowered() {
    in_namespace(|| async {
        let name = "net.core.optmem_max";
        // What kernels before 6.8 begin with.
        kernel().set_sysctl(name, "20480").await.unwrap();
        let running = Running::start(kernel(), DataplaneConfig::default());
        for (wanted_at_least, there) in [(150_000, "150000"), (100_000, "150000")] {
            let mut wanted = state(&[]);
            // One that cannot be set tells when both were looked at.
            wanted.sysctls_at_least = [
                (name.to_owned(), wanted_at_least),
                (format!("net.core.{wanted_at_least}"), 1),
            ]
            .into();
            running.want(&wanted);
            let last = Subject::Sysctl(format!("net.core.{wanted_at_least}"));
            let status = running.status(|status| status.pending.contains_key(&last));
            assert_eq!(status.await.pending_total, 1);
            let found = kernel().sysctl(name).await.unwrap();
            assert_eq!(found.as_deref(), Some(there));
        }
        running.stop().await;
    });
}

#[test]
fn x11_lost_events_are_made_up_for_by_reading_everything() {
    in_namespace(|| async {
        underlay();
        let options = NetlinkOptions {
            event_buffer: 4096,
            ..NetlinkOptions::default()
        };
        let wanted = state(&[("10.65.1.0/26", via("192.0.2.2", "eth0"))]);
        let running = Running::start(Netlink::open(options).unwrap(), DataplaneConfig::default());
        running.want(&wanted);
        running.settled(&wanted).await;
        // This thread runs the dataplane too, so nobody reads while thousands of routes come and ours goes.
        let batch: String = (0..2000)
            .map(|number| {
                format!(
                    "route add 11.{}.{}.0/24 via 192.0.2.9\n",
                    number / 256,
                    number % 256
                )
            })
            .chain(["route del 10.65.1.0/26\n".to_owned()])
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), batch).unwrap();
        run("ip", &["-batch", file.path().to_str().unwrap()]);
        let counters = running.dataplane.counters();
        eventually(
            "an overrun",
            || counters.overruns.get(),
            |overruns| *overruns > 0,
        )
        .await;
        eventually("the repair", ours, |routes| routes.len() == 1).await;
        assert_eq!(
            ip("route show proto boot").lines().count(),
            2000,
            "others' routes are theirs"
        );
        running.stop().await;
    });
}

#[test]
fn the_underlay_follows_addresses_routes_and_links() {
    in_namespace(|| async {
        underlay();
        ip("route add default via 192.0.2.254");
        let running = Running::start(kernel(), DataplaneConfig::default());
        let mut underlay = running.dataplane.underlay();
        let seen = underlay
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap();
        let owner = seen.owner_of("192.0.2.1".parse().unwrap()).unwrap();
        assert_eq!(
            (owner.interface.as_str(), owner.prefix.to_string().as_str()),
            ("eth0", "192.0.2.0/24")
        );
        let remote = seen.route_to("203.0.113.7".parse().unwrap()).unwrap();
        assert_eq!(
            remote.next_hops[0].via,
            Some("192.0.2.254".parse().unwrap())
        );
        assert_eq!(seen.links["eth0"].mtu, 1500);

        ip("link set eth0 mtu 9000");
        underlay
            .wait_for(|seen| {
                seen.as_ref()
                    .is_some_and(|seen| seen.links["eth0"].mtu == 9000)
            })
            .await
            .unwrap();
        veth("eth1", Some("198.51.100.1/24"));
        let address = "198.51.100.7".parse().unwrap();
        underlay
            .wait_for(|seen| {
                seen.as_ref().is_some_and(|seen| {
                    seen.connected_to(address).is_some()
                        && seen.route_to(address).is_some_and(|route| {
                            route.next_hops[0].interface.as_deref() == Some("eth1")
                        })
                })
            })
            .await
            .unwrap();
        ip("link set eth1 down");
        underlay
            .wait_for(|seen| {
                seen.as_ref()
                    .and_then(|seen| seen.route_to(address))
                    .is_some_and(|route| route.next_hops[0].interface.as_deref() == Some("eth0"))
            })
            .await
            .unwrap();
        running.stop().await;
    });
}

#[test]
fn an_audit_finds_nothing_when_events_told_everything() {
    in_namespace(|| async {
        underlay();
        let wanted = tunnel_state(vxlan(&[("10.65.1.0", "66:00:00:00:00:01", "192.0.2.2")]));
        let running = Running::start(kernel(), DataplaneConfig::default());
        running.want(&wanted);
        running.settled(&wanted).await;
        ip("route del 10.65.1.0/26");
        eventually("the repair", ours, |routes| routes.len() == 1).await;
        assert_eq!(running.dataplane.audit().await.unwrap().findings, 0);
        running.stop().await;
    });
}

#[test]
fn deleting_names_the_protocol_and_spares_others() {
    in_namespace(|| async {
        underlay();
        ip("route add 10.65.1.0/26 via 192.0.2.9 proto static");
        let kernel = kernel();
        let delete = RouteChange::Delete(key("10.65.1.0/26"), MARGAY_PROTOCOL);
        assert_eq!(
            kernel.change_routes([delete].into()).await.unwrap(),
            [Ok(())],
            "already gone is done"
        );
        let left = kernel.routes(RouteFilter::table(MAIN_TABLE)).await.unwrap();
        assert!(left.iter().any(|(there, _)| *there == key("10.65.1.0/26")));
    });
}
