//! BGPFilters, from what a user writes to what becomes of a route.

use margay_bgp::codec::attribute::LocalPref;
use margay_bgp::family::Family;
use serde_json::{Value, json};

use super::*;
use crate::api::bgp_filter::BgpFilterSpec;
use crate::api::read;

const BASE: u32 = 2_147_483_647;

/// A node with a pod whose address is from another node's block, and one peer, on its link or beyond, whose filter this is.
fn cluster(spec: &Value, peer_address: &str, asn: u32) -> ClusterState {
    let mut tor = peer("tor", LocalSide::AllNodes, at(peer_address, asn));
    tor.filters = vec!["f".into()];
    let families = "ipv4-unicast,ipv6-unicast";
    tor.margay.insert("families".into(), families.into());
    let mut cluster = build(
        "n1",
        &[
            Piece::Node(node("n1", "10.0.1.2/24")),
            Piece::Pod(pod("web", "10.65.9.9")),
            Piece::Peer(tor),
        ],
    );
    cluster.bgp.mesh_enabled = false;
    let filter = read::<BgpFilterSpec>(spec, "spec").expect("a BGPFilter");
    let filter = filter.check("f").expect("a filter without mistakes");
    cluster.filters.insert("f".into(), filter);
    cluster
}

/// A route as `PREFIX [from SOURCE] [on INTERFACE] [path AS,AS] [pref N] [with COMMUNITY,COMMUNITY]`.
struct Route {
    prefix: Prefix,
    source: SourceKind,
    interface: String,
    attributes: PathAttributes,
}

fn route(text: &str) -> Route {
    let mut words = text.split(' ');
    let mut route = Route {
        prefix: prefix(words.next().expect("a prefix")),
        source: SourceKind::External,
        interface: String::new(),
        attributes: PathAttributes::default(),
    };
    while let Some(word) = words.next() {
        let value = words.next().expect("a value");
        match word {
            "from" => {
                route.source = match value {
                    "local" => SourceKind::Local,
                    "internal" => SourceKind::Internal,
                    "client" => SourceKind::Client,
                    _ => SourceKind::External,
                }
            }
            "on" => route.interface = value.into(),
            "path" => {
                for asn in value.split(',').rev() {
                    let asn = Asn(asn.parse().expect("an AS"));
                    route.attributes.as_path.prepend(asn, 1);
                }
            }
            "pref" => {
                route.attributes.local_pref = Some(LocalPref(value.parse().expect("a number")))
            }
            "with" => {
                for community in value.split(',') {
                    if community.matches(':').count() == 1 {
                        let community = community.parse().expect("a community");
                        route.attributes.communities.insert(community);
                    } else {
                        let community = community.parse().expect("a large community");
                        route.attributes.large_communities.insert(community);
                    }
                }
            }
            _ => panic!("{word}"),
        }
    }
    route
}

/// What becomes of a route: `reject`, or what was done to it.
fn verdict(policy: &Policy, text: &str) -> String {
    let Route {
        prefix,
        source,
        interface,
        mut attributes,
    } = route(text);
    let view = RouteView {
        prefix,
        attributes: &attributes,
        source,
        peer: "x",
        interface: &interface,
    };
    let Some(applied) = policy.evaluate(&view) else {
        return "reject".into();
    };
    policy.rewrite(&applied, &mut attributes);
    let communities = attributes.communities.iter().map(ToString::to_string);
    let large = attributes.large_communities.iter().map(ToString::to_string);
    let communities: Vec<_> = communities.chain(large).collect();
    let pref = attributes.local_pref.map_or(0, |pref| pref.0);
    format!(
        "path [{}] pref {pref} with [{}]",
        attributes.as_path,
        communities.join(" ")
    )
}

/// The policy of one list of rules for the peer.
fn policy(cluster: &ClusterState, list: &str) -> std::sync::Arc<Policy> {
    let plan = speaker_plan(cluster, &underlay()).expect("a plan");
    let peer = &plan.config.peers[0];
    assert_eq!(peer.families, Family::ALL);
    if list.starts_with("import") {
        std::sync::Arc::clone(&peer.import)
    } else {
        std::sync::Arc::clone(&peer.export)
    }
}

/// Whether a rule with these conditions is about a route: accepting it, it lets through what the next one would reject, and
/// the reverse.
fn matches(
    list: &str,
    conditions: &Value,
    asn: u32,
    text: &str,
    change: impl Fn(&mut ClusterState),
) -> bool {
    let decided = |action: &str, otherwise: &str| {
        let mut rule = conditions.clone();
        rule["action"] = action.into();
        let spec = json!({ list: [rule, { "action": otherwise }] });
        let mut cluster = cluster(&spec, "10.0.1.1", asn);
        change(&mut cluster);
        verdict(&policy(&cluster, list), text) != "reject"
    };
    let matched = decided("Accept", "Reject");
    assert_eq!(decided("Reject", "Accept"), !matched, "{conditions} {text}");
    matched
}

#[test]
fn a_rule_is_about_the_routes_that_meet_all_its_conditions() {
    // Of each, routes it is about and routes it is not about.
    let of_both_families: Vec<(Value, &[&str], &[&str])> = vec![
        (
            json!({"source": "RemotePeers"}),
            &["from external", "from internal", "from client"],
            &["from local"],
        ),
        (
            json!({"interface": "eth*"}),
            &["on eth0", "from local on eth1"],
            &["on bond0", "from local", "from internal"],
        ),
        (
            json!({"interface": "e?h0"}),
            &["on eth0"],
            &["on eth1", "on eeth0"],
        ),
        (
            json!({"communities": {"values": ["1:2"]}}),
            &["with 1:2", "with 3:4,1:2"],
            &["with 2:1", "with 1:2:3", "from external"],
        ),
        (
            json!({"communities": {"values": ["1:2:3"]}}),
            &["with 1:2:3"],
            &["with 1:2", "with 1:2:4"],
        ),
        (
            json!({"asPathPrefix": [65000, 65001]}),
            &["path 65000,65001", "path 65000,65001,65002"],
            &[
                "path 65000",
                "path 65001,65000",
                "path 1,65000,65001",
                "from local",
            ],
        ),
        (
            json!({"priority": 512}),
            &["pref 2147483135"],
            &["pref 100", "pref 2147483134", "from local"],
        ),
        (
            json!({"source": "RemotePeers", "interface": "eth0", "communities": {"values": ["1:2"]}, "asPathPrefix": [65000], "priority": 512}),
            &["from client on eth0 path 65000 pref 2147483135 with 1:2"],
            &[
                "from local on eth0 path 65000 pref 2147483135 with 1:2",
                "on eth1 path 65000 pref 2147483135 with 1:2",
                "on eth0 path 65001 pref 2147483135 with 1:2",
                "on eth0 path 65000 pref 2147483134 with 1:2",
                "on eth0 path 65000 pref 2147483135 with 1:3",
            ],
        ),
    ];
    for (conditions, about, others) in &of_both_families {
        for (list, to) in [
            ("importV4", "10.1.0.0/16"),
            ("exportV4", "10.1.0.0/16"),
            ("importV6", "fd01::/16"),
            ("exportV6", "fd01::/16"),
        ] {
            let check =
                |rest: &str| matches(list, conditions, 64601, &format!("{to} {rest}"), |_| ());
            for rest in *about {
                assert!(check(rest), "{list} {conditions} {rest}");
            }
            for rest in *others {
                assert!(!check(rest), "{list} {conditions} {rest}");
            }
        }
    }
}

#[test]
fn a_rule_is_about_prefixes_as_its_operator_and_lengths_say() {
    let ipv4 = |operator: &str, lengths: Value| json!({"cidr": "10.1.0.0/16", "matchOperator": operator, "prefixLength": lengths});
    let plain = |cidr: &str, operator: &str| json!({"cidr": cidr, "matchOperator": operator});
    let rules: Vec<(Value, &[&str], &[&str])> = vec![
        (
            plain("10.1.0.0/16", "Equal"),
            &["10.1.0.0/16"],
            &["10.1.0.0/17", "10.0.0.0/8", "10.2.0.0/16"],
        ),
        (
            plain("10.1.0.0/16", "NotEqual"),
            &["10.1.0.0/17", "10.0.0.0/8", "10.2.0.0/16"],
            &["10.1.0.0/16"],
        ),
        (
            plain("10.1.0.0/16", "In"),
            &["10.1.0.0/16", "10.1.128.0/17", "10.1.2.3/32"],
            &["10.0.0.0/8", "10.2.0.0/16"],
        ),
        (
            plain("10.1.0.0/16", "NotIn"),
            &["10.0.0.0/8", "10.2.0.0/16"],
            &["10.1.0.0/16", "10.1.2.3/32"],
        ),
        (
            ipv4("In", json!({"min": 24, "max": 28})),
            &["10.1.2.0/24", "10.1.2.0/28"],
            &["10.1.0.0/16", "10.1.2.0/29", "10.2.0.0/24"],
        ),
        (
            ipv4("In", json!({"max": 20})),
            &["10.1.0.0/16", "10.1.0.0/20"],
            &["10.1.0.0/21"],
        ),
        (
            ipv4("In", json!({"min": 20})),
            &["10.1.0.0/20", "10.1.0.1/32"],
            &["10.1.0.0/19"],
        ),
        (
            ipv4("NotIn", json!({"min": 24, "max": 28})),
            &["10.1.0.0/16", "10.2.0.0/24"],
            &["10.1.2.0/24"],
        ),
        (
            plain("fd01::/16", "Equal"),
            &["fd01::/16"],
            &["fd01::/17", "fd00::/8"],
        ),
        (
            plain("fd01::/16", "NotEqual"),
            &["fd01::/17"],
            &["fd01::/16"],
        ),
        (
            plain("fd01::/16", "In"),
            &["fd01::/16", "fd01:2::1/128"],
            &["fd00::/8", "fd02::/16"],
        ),
        (
            plain("fd01::/16", "NotIn"),
            &["fd02::/16"],
            &["fd01:2::/32"],
        ),
        (
            json!({"cidr": "fd01::/16", "matchOperator": "In", "prefixLength": {"min": 64, "max": 64}}),
            &["fd01:0:0:1::/64"],
            &["fd01::/63", "fd01::/65"],
        ),
    ];
    for (conditions, about, others) in &rules {
        let is_ipv6 = conditions["cidr"] == "fd01::/16";
        for direction in ["import", "export"] {
            let list = format!("{direction}{}", if is_ipv6 { "V6" } else { "V4" });
            for to in *about {
                assert!(
                    matches(&list, conditions, 64601, to, |_| ()),
                    "{list} {conditions} {to}"
                );
            }
            for to in *others {
                assert!(
                    !matches(&list, conditions, 64601, to, |_| ()),
                    "{list} {conditions} {to}"
                );
            }
        }
    }
}

#[test]
fn rules_of_one_family_say_nothing_of_the_other() {
    for (list, other) in [("importV4", "fd01::/16"), ("importV6", "10.1.0.0/16")] {
        let cluster = cluster(&json!({ list: [{"action": "Reject"}] }), "10.0.1.1", 64601);
        assert_ne!(verdict(&policy(&cluster, list), other), "reject");
    }
    // What no rule is about goes on to the rules that are built in, which pass nothing out of all pools.
    for (list, other) in [("exportV4", "fd01::/16"), ("exportV6", "10.1.0.0/16")] {
        let cluster = cluster(&json!({ list: [{"action": "Accept"}] }), "10.0.1.1", 64601);
        assert_eq!(verdict(&policy(&cluster, list), other), "reject");
    }
}

#[test]
fn a_rule_may_be_for_peers_of_one_kind() {
    for (kind, asn, is_for_it) in [
        ("eBGP", 64601, true),
        ("eBGP", 64512, false),
        ("iBGP", 64601, false),
        ("iBGP", 64512, true),
    ] {
        for list in ["importV4", "exportV4"] {
            let conditions = json!({"peerType": kind});
            let matched = matches(list, &conditions, asn, "10.1.0.0/16", |_| ());
            assert_eq!(matched, is_for_it, "{list} {kind} {asn}");
        }
    }
}

#[test]
fn what_an_accepting_rule_does_to_a_route_is_done_in_order() {
    let rule = json!({
        "action": "Accept",
        "operations": [
            {"addCommunity": {"value": "1:2"}},
            {"addCommunity": {"value": "1:2:3"}},
            {"prependASPath": {"prefix": [1, 2]}},
            {"prependASPath": {"prefix": [3]}},
            {"setPriority": {"value": 512}},
        ],
    });
    for (list, to) in [
        ("importV4", "10.1.0.0/16"),
        ("exportV4", "10.1.0.0/16"),
        ("importV6", "fd01::/16"),
        ("exportV6", "fd01::/16"),
    ] {
        let cluster = cluster(&json!({ list: [rule.clone()] }), "10.0.1.1", 64601);
        let done = verdict(
            &policy(&cluster, list),
            &format!("{to} path 65000 with 9:9"),
        );
        let wanted = format!(
            "path [3 1 2 65000] pref {} with [1:2 9:9 1:2:3]",
            BASE - 512
        );
        assert_eq!(done, wanted, "{list}");
    }
}

#[test]
fn the_first_rule_that_is_about_a_route_decides() {
    let spec = json!({"importV4": [
        {"action": "Reject", "cidr": "10.1.0.0/16", "matchOperator": "Equal"},
        {"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In", "operations": [{"setPriority": {"value": 1}}]},
        {"action": "Reject"},
    ]});
    let policy = policy(&cluster(&spec, "10.0.1.1", 64601), "importV4");
    assert_eq!(verdict(&policy, "10.1.0.0/16"), "reject");
    assert_eq!(
        verdict(&policy, "10.1.0.0/17"),
        format!("path [] pref {} with []", BASE - 1)
    );
    assert_eq!(verdict(&policy, "192.0.2.0/24"), "reject");
}

#[test]
fn routes_of_this_node_have_calicos_usual_priority_unless_the_cluster_sets_another() {
    let about = |list: &str, priority: u32, text: &str, set: Option<u32>| {
        matches(
            list,
            &json!({"priority": priority}),
            64601,
            text,
            |cluster| {
                cluster.bgp.ipv4_normal_route_priority = set;
                cluster.bgp.ipv6_normal_route_priority = set;
            },
        )
    };
    for (list, to) in [("exportV4", "10.65.0.0/26"), ("exportV6", "fd65::/122")] {
        let own = format!("{to} from local");
        assert!(about(list, 1024, &own, None), "{list}");
        assert!(!about(list, 512, &own, None), "{list}");
        assert!(!about(list, 1024, &format!("{to} from internal"), None));
        let own = format!("{to} from local pref {}", BASE - 2000);
        assert!(about(list, 2000, &own, Some(2000)), "{list}");
        assert!(!about(list, 1024, &own, Some(2000)), "{list}");
    }
    assert!(!about("importV4", 1024, "10.65.0.0/26", None));
}

#[test]
fn an_address_of_a_pod_here_leaves_by_its_interface() {
    let about = |list: &str, glob: &str, text: &str| {
        matches(list, &json!({ "interface": glob }), 64601, text, |_| ())
    };
    assert!(about("exportV4", "cali*", "10.65.9.9/32 from local"));
    assert!(!about("exportV4", "eth*", "10.65.9.9/32 from local"));
    assert!(!about("exportV4", "cali*", "10.65.9.0/26 from local"));
    assert!(!about("exportV4", "cali*", "10.65.9.9/32 from internal"));
    assert!(!about("importV4", "cali*", "10.65.9.9/32"));
}

#[test]
fn an_interface_that_is_not_known_is_a_problem_of_the_filter_that_asks_for_it() {
    let rules = json!([{"action": "Reject", "cidr": "10.0.0.0/8", "matchOperator": "In"}, {"action": "Accept", "interface": "eth0"}]);
    let problems = |list: &str, address: &str| {
        let cluster = cluster(&json!({ list: rules.clone() }), address, 64601);
        let plan = speaker_plan(&cluster, &underlay()).expect("a plan");
        plan.problems
    };
    for list in ["importV4", "exportV4"] {
        assert!(problems(list, "10.0.1.1").is_empty());
        let problems = problems(list, "10.0.9.1");
        let [problem] = problems.as_slice() else {
            panic!("{problems:?}");
        };
        assert_eq!(problem.subject, "BGPFilter f");
        assert_eq!(
            problem.reason,
            format!(
                "spec.{list}, rule 2: 10.0.9.1 is on no link of this node, so routes from there match no interface"
            )
        );
    }
}
