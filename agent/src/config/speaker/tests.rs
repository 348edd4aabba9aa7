mod bfd;
mod clashes;
mod protection;

use std::time::Duration;

use margay_bgp::asn::Asn;
use margay_bgp::policy::Verdict;
use margay_bgp::speaker::config::{
    AddPathSend, Bfd, Binding, LimitAction, MaximumPrefixes, NextHopMode, PeerAs, Remote,
};

use super::*;

const HEAD: &str = "asn: 64512\nrouterId: 10.100.0.1\n";

fn ok(text: &str) -> SpeakerFile {
    parse(Path::new("speaker.yaml"), text).expect("a good file")
}

fn mistake(text: &str) -> String {
    parse(Path::new("speaker.yaml"), text)
        .expect_err("a bad file")
        .to_string()
}

#[test]
fn the_documented_example_is_read() {
    let file = ok(
        "asn: 64512\nrouterId: 10.100.0.1\nlisten: [\"10.100.0.1:179\"]\nclusterId: 10.100.0.1\n\
        kernel: { install: false }\nfamilies: [ipv4-unicast, ipv6-unicast]\noriginate: []\npeers:\n  - name: clients\n    \
        range: 10.100.128.0/17\n    asn: 64512\n    routeReflectorClient: true\n    passive: true\n",
    );
    assert_eq!(
        file.speaker.listen,
        ["10.100.0.1:179"
            .parse::<SocketAddr>()
            .expect("address")
            .into()]
    );
    let [peer] = file.speaker.peers.as_slice() else {
        panic!("one peer")
    };
    assert_eq!(
        peer.remote,
        Remote::Range("10.100.128.0/17".parse().expect("prefix"))
    );
    assert!(peer.route_reflector_client && peer.passive);
    assert!(!file.kernel.install);
}

#[test]
fn a_wrong_value_names_line_field_and_what_would_be_right() {
    assert_eq!(
        mistake("asn: many\nrouterId: 10.0.0.1\n"),
        "speaker.yaml:1:6: field `asn`: expected an AS number (64512 or 1.10) other than 0 and 23456, found `many`"
    );
    assert_eq!(
        mistake("asn: 1\nrouterId: 0.0.0.0\n"),
        "speaker.yaml:2:11: field `routerId`: expected four octets that are not all zero (10.100.0.1), found `0.0.0.0`"
    );
}

#[test]
fn an_unknown_field_is_a_mistake() {
    let text = mistake(&format!(
        "{HEAD}peers:\n  - address: 10.0.0.1\n    asn: 1\n    holdtime: 3\n"
    ));
    assert!(
        text == "speaker.yaml:6:5: field `peers[0].holdtime`: unknown field `holdtime`, expected `holdTime`",
        "{text}"
    );
}

#[test]
fn a_peer_needs_an_address_or_a_range() {
    let text = mistake(&format!("{HEAD}peers:\n  - name: x\n    asn: 1\n"));
    assert_eq!(
        text,
        "speaker.yaml:4:5: field `peers[0]`: expected `address`, `range` or `interface`, found none of them"
    );
}

fn peers(text: &str) -> Vec<PeerConfig> {
    ok(&format!("{HEAD}listen: [0.0.0.0]\npeers:\n{text}"))
        .speaker
        .peers
}

#[test]
fn a_neighbour_may_be_whoever_is_on_a_link() {
    let found = peers(
        "  - { interface: eth0, asn: external }\n  - { interface: eth1, asn: internal, port: 1790 }\n",
    );
    assert_eq!(found[0].name, "eth0");
    assert_eq!(found[0].remote, Remote::Unnumbered(179));
    assert_eq!(found[0].interface.as_deref(), Some("eth0"));
    assert_eq!(found[0].asn, PeerAs::External);
    assert!(found[0].extended_next_hop);
    assert_eq!(
        (&found[1].asn, found[1].remote),
        (&PeerAs::Internal, Remote::Unnumbered(1790))
    );
}

#[test]
fn a_link_local_address_names_its_interface_which_need_not_be_there_yet() {
    let found = peers(
        "  - { address: fe80::1%nodev0, asn: 1 }\n  - { address: fe80::1, interface: nodev1, asn: 1 }\n",
    );
    assert_eq!(found[0].name, "fe80::1%nodev0");
    assert_eq!(found[0].interface.as_deref(), Some("nodev0"));
    assert_eq!(found[1].interface.as_deref(), Some("nodev1"));
    let text = mistake(&format!(
        "{HEAD}peers:\n  - {{ address: fe80::1, asn: 1 }}\n"
    ));
    assert!(
        text.contains("expected the interface of the link-local address fe80::1"),
        "{text}"
    );
    let text = mistake(&format!(
        "{HEAD}peers:\n  - {{ address: fd00::1, interface: eth0, asn: 1 }}\n"
    ));
    assert!(
        text.contains("expected only beside a link-local address"),
        "{text}"
    );
}

#[test]
fn an_as_may_be_of_a_kind_or_one_of_several() {
    let found = peers(
        "  - { address: 10.0.0.1, asn: any }\n  - { range: 10.1.0.0/16, asn: \"64601, 1.10\" }\n  - { address: 10.0.0.2, asn: 64601 }\n",
    );
    assert_eq!(found[0].asn, PeerAs::Any);
    assert_eq!(found[1].asn, PeerAs::OneOf(vec![Asn(64601), Asn(65546)]));
    assert_eq!(found[2].asn, PeerAs::Fixed(Asn(64601)));
    let text = mistake(&format!(
        "{HEAD}peers:\n  - address: 10.0.0.1\n    asn: foreign\n"
    ));
    assert!(text.contains("`peers[0].asn`"), "{text}");
    assert!(text.contains("internal, external or any"), "{text}");
}

#[test]
fn sockets_may_be_in_a_namespace_and_on_a_device() {
    let file = ok(&format!(
        "{HEAD}listen:\n  - 10.0.0.9\n  - {{ address: \"10.0.0.9:1790\", device: vrf-red, netns: /run/netns/x }}\npeers:\n  \
         - {{ address: 10.0.0.1, asn: 1, device: vrf-red, netns: /run/netns/x }}\n"
    ));
    assert_eq!(file.speaker.listen[0].binding, Binding::default());
    assert_eq!(
        file.speaker.listen[1].binding,
        file.speaker.peers[0].binding
    );
    assert_eq!(
        file.speaker.listen[1].binding.device.as_deref(),
        Some("vrf-red")
    );
}

#[test]
fn two_peers_of_one_name_are_a_mistake() {
    let text = mistake(&format!(
        "{HEAD}peers:\n  - {{ name: x, address: 10.0.0.1, asn: 1 }}\n  - {{ name: x, address: 10.0.0.2, asn: 1 }}\n"
    ));
    assert_eq!(
        text,
        "speaker.yaml:5:13: field `peers[1].name`: expected a name of its own, found `x` again"
    );
}

#[test]
fn every_peer_field_has_a_name_in_the_file() {
    let file = ok(&format!(
        "{HEAD}listen: [fd00::2]\npeers:\n- name: p\n  address: fd00::1\n  port: 1790\n  asn: 1.10\n  localAsn: 1.10\n  localAddress: fd00::2\n  \
         passive: true\n  routeReflectorClient: true\n  clusterId: 1.1.1.1\n  families: [ipv6-unicast]\n  holdTime: 9\n  \
         minimumHoldTime: 3\n  keepalive: 3\n  connectRetry: 500ms\n  idleHold: 1\n  idleHoldMax: 2m\n  sendHold: 480\n  \
         gracefulRestart: {{ restartTime: 60, staleTime: 90 }}\n  longLived: {{ staleTime: 1h, partialDeployment: true }}\n  password: k\n  ttlSecurity: 1\n  \
         nextHop: self\n  connectedSubnets: [fd00::/64]\n  nextHopAddress: 10.0.0.1\n  allowedLocalAs: 1\n  import: {{ reject: [10.0.0.0/8] }}\n  \
         export: reject\n  maximumPrefixes: {{ limit: 10, discard: true }}\n  connectRetryMax: 1m\n  \
         delayOpen: 2\n  strictAttributes: true\n  afiSafiDisable: true\n  addPathReceive: false\n  \
         addPathSend: {{ mode: best 2 }}\n  extendedNextHop: false\n  enabled: false\n  shutdownText: bye\n  \
         bfd: {{ minTx: 100, minRx: 50ms, multiplier: 4, multihop: 2, strict: true }}\n"
    ));
    let [peer] = file.speaker.peers.as_slice() else {
        panic!("one peer")
    };
    let range =
        &peers("  - { range: 10.1.0.0/16, asn: 1, dynamicLimit: 7, halfOpenLimit: 5 }\n")[0];
    assert_eq!((range.dynamic_limit, range.half_open_limit), (7, 5));
    assert_eq!(peer.asn, Asn::from(65546));
    assert_eq!(peer.keepalive, Some(Duration::from_secs(3)));
    assert_eq!(peer.connect_retry, Duration::from_millis(500));
    assert_eq!(peer.next_hop, NextHopMode::SelfAddress);
    assert_eq!(peer.export.default, Verdict::Reject);
    let limit = MaximumPrefixes {
        limit: 10,
        action: LimitAction::Discard,
    };
    assert_eq!(peer.maximum_prefixes, Some(limit));
    assert_eq!(peer.connect_retry_max, Duration::from_secs(60));
    assert_eq!(peer.delay_open, Some(Duration::from_secs(2)));
    assert!(peer.strict_attributes && peer.afi_safi_disable);
    let two = 2.try_into().expect("not zero");
    assert_eq!(peer.add_path_send, Some(AddPathSend::Best(two)));
    assert!(
        peer.long_lived
            .is_some_and(|long_lived| long_lived.partial_deployment)
    );
    assert!(!peer.enabled);
    let bfd = Bfd {
        min_tx: Duration::from_millis(100),
        min_rx: Duration::from_millis(50),
        multiplier: 4,
        multihop: Some(2),
        strict: true,
    };
    assert_eq!(peer.bfd, Some(bfd));
}

#[test]
fn add_path_send_is_all_best_n_or_nothing() {
    let send = |text: &str| {
        let file = ok(&format!(
            "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1, addPathSend: {text} }}\n"
        ));
        file.speaker.peers[0].add_path_send
    };
    assert_eq!(send("true"), Some(AddPathSend::All));
    assert_eq!(send("all"), Some(AddPathSend::All));
    assert_eq!(send("{ mode: all }"), Some(AddPathSend::All));
    assert_eq!(send("false"), None);
    for wrong in ["best 0", "best 256", "some", "{ mode: best }"] {
        let text = mistake(&format!(
            "{HEAD}peers:\n  - {{ address: 10.0.0.1, asn: 1, addPathSend: {wrong} }}\n"
        ));
        assert!(text.contains("expected all, best N"), "{text}");
    }
}

#[test]
fn options_of_the_decision_are_read_and_tracking_follows_the_kernel() {
    let file = ok(&format!(
        "{HEAD}alwaysCompareMed: true\nmissingMedAsWorst: true\npreferOldestExternal: true\nweightedMultipath: true\n\
         resolveViaDefault: false\nkernel: {{ install: true }}\n"
    ));
    let speaker = &file.speaker;
    assert!(speaker.always_compare_med && speaker.missing_med_as_worst);
    assert!(speaker.prefer_oldest_external && speaker.weighted_multipath);
    assert!(speaker.next_hop_tracking && !speaker.resolve_via_default);
    assert!(!ok(HEAD).speaker.next_hop_tracking);
    let text = mistake(&format!("{HEAD}nextHopTracking: true\n"));
    assert!(
        text.contains("field `nextHopTracking`: expected `false`"),
        "{text}"
    );
}
