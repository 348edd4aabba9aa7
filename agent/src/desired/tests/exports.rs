//! What a node tells its peers.

use super::*;

#[test]
fn between_ass_nothing_passes_without_a_filter_where_that_is_asked_for() {
    let mut cluster = build("n1", &two_racks(Encapsulation::None));
    // Without the mesh, the one session is with another AS.
    cluster.bgp.mesh_enabled = false;
    let tor = peer("tor", LocalSide::AllNodes, at("10.0.0.254", 64601));
    cluster.peers.insert("tor".into(), tor);
    assert!(exported(&cluster, "10.65.0.0/26", SourceKind::Local).is_some());
    cluster
        .bgp
        .margay
        .insert("ebgpRequiresPolicy".into(), "true".into());
    let plan = speaker_plan(&cluster, &underlay()).expect("a plan");
    assert_eq!(*plan.config.peers[0].import, Policy::reject_all());
    assert_eq!(*plan.config.peers[0].export, Policy::reject_all());
}

/// Whether the export policy towards the node's only peer lets a prefix pass, and the communities it adds.
fn exported(cluster: &ClusterState, to: &str, source: SourceKind) -> Option<Vec<String>> {
    let plan = speaker_plan(cluster, &underlay()).expect("a plan");
    let policy: &Policy = &plan.config.peers[0].export;
    let mut attributes = PathAttributes::default();
    let applied = policy.evaluate(&RouteView {
        prefix: prefix(to),
        attributes: &attributes,
        source,
        peer: "x",
        interface: "eth0",
    })?;
    policy.rewrite(&applied, &mut attributes);
    Some(
        attributes
            .communities
            .iter()
            .map(ToString::to_string)
            .collect(),
    )
}

#[test]
fn exported_are_own_blocks_and_what_lies_in_pools_and_nothing_else() {
    let mut pieces = two_racks(Encapsulation::None);
    let mut hidden = pool("10.70.0.0/16", Encapsulation::None);
    hidden.disable_bgp_export = true;
    pieces.extend([
        Piece::Pool(hidden),
        Piece::Block(block("10.70.0.0/26", "n1")),
        Piece::Block(block("172.16.0.0/26", "n1")),
    ]);
    let mut cluster = build("n1", &pieces);
    cluster.bgp.prefix_advertisements = vec![PrefixAdvertisement {
        cidr: prefix("10.65.0.0/16"),
        communities: vec![CommunityValue::Standard(64512, 7)],
    }];
    let cases = [
        (
            "10.65.0.0/26",
            SourceKind::Local,
            Some(vec!["64512:7".to_owned()]),
        ),
        (
            "10.65.0.9/32",
            SourceKind::Client,
            Some(vec!["64512:7".to_owned()]),
        ),
        (
            "10.65.2.9/32",
            SourceKind::Local,
            Some(vec!["64512:7".to_owned()]),
        ),
        (
            "10.65.2.0/26",
            SourceKind::Internal,
            Some(vec!["64512:7".to_owned()]),
        ),
        ("10.70.0.0/26", SourceKind::Local, None),
        ("172.16.0.0/26", SourceKind::Local, Some(vec![])),
        ("0.0.0.0/0", SourceKind::External, None),
        ("198.51.100.0/24", SourceKind::External, None),
    ];
    for (to, source, expected) in cases {
        assert_eq!(exported(&cluster, to, source), expected, "{to} {source:?}");
    }
}

#[test]
fn a_filter_that_accepts_goes_before_the_built_in_rules() {
    use crate::model::{
        BgpFilter, FilterAction, FilterOperation, FilterPrefix, FilterRule, MatchOperator, PeerType,
    };
    let mut pieces = two_racks(Encapsulation::None);
    let mut tor = peer("tor", LocalSide::AllNodes, at("10.0.1.1", 64601));
    tor.filters = vec!["f".into(), "missing".into()];
    pieces.push(Piece::Peer(tor));
    let rule = |action, cidr: &str, operator| FilterRule {
        action,
        prefix: Some(FilterPrefix {
            cidr: prefix(cidr),
            operator,
            lengths: None,
        }),
        from_remote_peers: false,
        interface: None,
        peer_type: None,
        community: None,
        as_path_prefix: Vec::new(),
        priority: None,
        operations: Vec::new(),
    };
    let mut accept = rule(
        FilterAction::Accept,
        "198.51.100.0/24",
        MatchOperator::Equal,
    );
    accept.operations = vec![FilterOperation::AddCommunity(CommunityValue::Standard(
        1, 2,
    ))];
    let mut other_kind = rule(FilterAction::Accept, "203.0.113.0/24", MatchOperator::In);
    other_kind.peer_type = Some(PeerType::Ibgp);
    let mut cluster = build("n1", &pieces);
    cluster.bgp.mesh_enabled = false;
    cluster.filters.insert(
        "f".into(),
        BgpFilter {
            name: "f".into(),
            export_v4: vec![
                accept,
                other_kind,
                rule(FilterAction::Reject, "10.65.0.0/16", MatchOperator::In),
            ],
            ..BgpFilter::default()
        },
    );
    assert_eq!(
        exported(&cluster, "198.51.100.0/24", SourceKind::External),
        Some(vec!["1:2".to_owned()])
    );
    assert_eq!(
        exported(&cluster, "203.0.113.0/24", SourceKind::External),
        None
    );
    assert_eq!(exported(&cluster, "10.65.0.0/26", SourceKind::Local), None);
    let plan = speaker_plan(&cluster, &underlay()).expect("a plan");
    assert!(
        plan.problems
            .iter()
            .any(|problem| problem.reason.contains("there is no BGPFilter missing"))
    );
}
