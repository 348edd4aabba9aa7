//! With whom a node speaks: the mesh, peers of nodes, global peers.

use super::*;

/// Sessions as text, one a line.
pub(super) fn session_text(cluster: &ClusterState) -> String {
    let (sessions, problems) = peers::sessions(cluster);
    let lines = sessions.iter().map(|session| {
        format!(
            "{} {} {} as {}{}{}",
            session.origin.as_str(),
            session.object,
            session.name(),
            session.asn,
            if session.passive { " passive" } else { "" },
            if session.route_reflector_client {
                " client"
            } else {
                ""
            },
        )
    });
    let problems = problems
        .iter()
        .map(|problem| format!("! {}: {}", problem.subject, problem.reason));
    lines.chain(problems).collect::<Vec<_>>().join("\n")
}

fn four_nodes() -> Vec<Piece> {
    ["10.0.0.2", "10.0.0.9", "10.0.0.10", "10.0.0.11"]
        .iter()
        .enumerate()
        .map(|(index, ip)| Piece::Node(node(&format!("n{}", index + 1), &format!("{ip}/24"))))
        .collect()
}

#[test]
fn the_mesh_is_passive_by_the_text_of_addresses() {
    insta::assert_snapshot!(in_any_order("n2", &four_nodes(), session_text), @r"
    mesh n1 10.0.0.2 as 64512
    mesh n3 10.0.0.10 as 64512
    mesh n4 10.0.0.11 as 64512
    ");
    insta::assert_snapshot!(in_any_order("n3", &four_nodes(), session_text), @r"
    mesh n1 10.0.0.2 as 64512 passive
    mesh n2 10.0.0.9 as 64512 passive
    mesh n4 10.0.0.11 as 64512 passive
    ");
}

#[test]
fn of_each_pair_of_the_mesh_exactly_one_dials() {
    let pieces = four_nodes();
    let names = ["n1", "n2", "n3", "n4"];
    for one in names {
        for (session, problems) in [peers::sessions(&build(one, &pieces))] {
            assert!(problems.is_empty());
            for session in session {
                let back = peers::sessions(&build(&session.object, &pieces)).0;
                let mirror = back
                    .iter()
                    .find(|session| session.object == one)
                    .expect("a session back");
                assert_ne!(session.passive, mirror.passive);
            }
        }
    }
}

#[test]
fn manual_peers_have_no_mirror_image() {
    let mut pieces = reflectors::reflected();
    let mut manual = peer(
        "rr",
        LocalSide::Nodes(selector("all()")),
        RemoteSide::Nodes(selector("rr == 'true'")),
    );
    manual.reverse_peering = ReversePeering::Manual;
    pieces.push(Piece::Peer(manual));
    insta::assert_snapshot!(session_text(&build("n1", &pieces)), @"node rr 10.0.0.9 as 64512");
}

#[test]
fn a_global_peer_goes_before_a_peer_of_the_node_and_that_before_the_mesh() {
    let mut pieces = four_nodes();
    pieces.extend([
        Piece::Peer(peer("z-global", LocalSide::AllNodes, at("10.0.0.1", 64601))),
        Piece::Peer(peer(
            "a-node",
            LocalSide::Node("n1".into()),
            at("10.0.0.1", 64999),
        )),
        Piece::Peer(peer(
            "b-node",
            LocalSide::Node("n1".into()),
            at("10.0.0.9", 64512),
        )),
    ]);
    insta::assert_snapshot!(in_any_order("n1", &pieces, session_text), @r"
    global z-global 10.0.0.1 as 64601
    node b-node 10.0.0.9 as 64512
    mesh n3 10.0.0.10 as 64512
    mesh n4 10.0.0.11 as 64512
    ");
}

#[test]
fn a_global_peer_that_is_a_node_is_passive_like_the_mesh_and_skips_itself() {
    let mut pieces = four_nodes();
    pieces.push(Piece::Peer(peer(
        "g",
        LocalSide::AllNodes,
        at("10.0.0.9", 64512),
    )));
    assert!(session_text(&build("n1", &pieces)).contains("global g 10.0.0.9 as 64512 passive"));
    let own = session_text(&build("n2", &pieces));
    assert!(!own.contains("10.0.0.9 "), "{own}");
    assert!(own.contains("reverse g 10.0.0.2 as 64512"), "{own}");
}

#[test]
fn an_address_outside_the_cluster_needs_an_as() {
    let mut pieces = four_nodes();
    let remote = RemoteSide::Address {
        address: address("10.0.0.1"),
        port: None,
        asn: None,
    };
    pieces.push(Piece::Peer(peer("tor", LocalSide::AllNodes, remote)));
    assert!(
        session_text(&build("n1", &pieces))
            .contains("! BGPPeer tor: spec.asNumber: 10.0.0.1 is no node of the cluster")
    );
}

#[test]
fn one_session_a_family_unless_the_annotation_asks_for_one() {
    let dual = |name: &str, v4: &str, v6: &str| {
        let mut node = node(name, v4);
        node.ipv6 = Some(NodeAddress {
            address: v6.parse().expect("an address"),
            prefix_len: 64,
        });
        Piece::Node(node)
    };
    let mut pieces = vec![
        dual("n1", "10.0.1.2/24", "fd00:1::2"),
        dual("n2", "10.0.1.3/24", "fd00:1::3"),
    ];
    insta::assert_snapshot!(in_any_order("n1", &pieces, session_text), @r"
    mesh n2 10.0.1.3 as 64512 passive
    mesh n2 fd00:1::3 as 64512 passive
    ");
    let mut joined = peer(
        "joined",
        LocalSide::AllNodes,
        RemoteSide::Nodes(selector("all()")),
    );
    joined
        .margay
        .insert("families".into(), "ipv4-unicast,ipv6-unicast".into());
    pieces.push(Piece::Peer(joined));
    let mut cluster = build("n1", &pieces);
    cluster.bgp.mesh_enabled = false;
    let (sessions, _) = peers::sessions(&cluster);
    let [session] = sessions.as_slice() else {
        panic!("one session: {sessions:?}")
    };
    assert_eq!(session.families, Family::ALL);
    assert!(session.address.is_ipv4());
}

#[test]
fn a_missing_secret_keeps_the_session_down_and_a_present_one_never_shows() {
    let mut pieces = four_nodes();
    let mut tor = peer("tor", LocalSide::AllNodes, at("10.0.0.1", 64601));
    tor.password = Some(SecretKeyRef {
        name: "bgp".into(),
        key: "tor".into(),
        optional: true,
    });
    pieces.push(Piece::Peer(tor));
    let mut cluster = build("n1", &pieces);
    cluster.bgp.mesh_enabled = false;
    let plan = speaker_plan(&cluster, &underlay()).expect("a plan");
    assert!(plan.config.peers.is_empty());
    assert!(
        plan.problems[0].reason.contains("stays down"),
        "{:?}",
        plan.problems
    );
    cluster.secrets.insert(
        "bgp".into(),
        [("tor".to_owned(), SecretValue::new("hunter2"))].into(),
    );
    let plan = speaker_plan(&cluster, &underlay()).expect("a plan");
    assert!(plan.config.peers[0].password.is_some());
    assert!(!format!("{plan:?}").contains("hunter2"));
}
