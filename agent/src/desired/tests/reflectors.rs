//! Route reflectors and their clients.

use margay_bgp::speaker::config::AddPathSend;

use super::sessions::session_text;
use super::*;

pub(super) fn reflected() -> Vec<Piece> {
    vec![
        Piece::Node(reflector("n1", "10.0.0.2/24", "10.9.9.9")),
        Piece::Node(reflector("n2", "10.0.0.9/24", "10.9.9.9")),
        Piece::Node(node("n3", "10.0.0.10/24")),
        Piece::Node(node("n4", "10.0.0.11/24")),
        Piece::Peer(peer(
            "rr",
            LocalSide::Nodes(selector("all()")),
            RemoteSide::Nodes(selector("rr == 'true'")),
        )),
    ]
}

#[test]
fn a_reflector_leaves_the_mesh_and_has_clients_by_the_mirror_image() {
    insta::assert_snapshot!(in_any_order("n1", &reflected(), session_text), @r"
    node rr 10.0.0.9 as 64512
    reverse rr 10.0.0.10 as 64512 client
    reverse rr 10.0.0.11 as 64512 client
    ");
    insta::assert_snapshot!(in_any_order("n3", &reflected(), session_text), @r"
    node rr 10.0.0.2 as 64512
    node rr 10.0.0.9 as 64512
    mesh n4 10.0.0.11 as 64512 passive
    ");
}

#[test]
fn reflectors_of_different_clusters_are_clients_of_each_other() {
    let mut pieces = reflected();
    pieces.push(Piece::Node(reflector("n2", "10.0.0.9/24", "10.8.8.8")));
    let text = session_text(&build("n1", &pieces));
    assert!(text.contains("node rr 10.0.0.9 as 64512 client"), "{text}");
}

/// How many paths of a prefix each peer of a node is told.
fn paths_told(me: &str, pieces: &[Piece]) -> Vec<(String, Option<AddPathSend>)> {
    let plan = speaker_plan(&build(me, pieces), &underlay()).expect("a plan");
    let peers = plan.config.peers.into_iter();
    peers.map(|peer| (peer.name, peer.add_path_send)).collect()
}

#[test]
fn a_reflector_tells_its_clients_every_path_and_nobody_else_more_than_one() {
    let one = Some(AddPathSend::Best(std::num::NonZeroU8::MIN));
    let all = Some(AddPathSend::All);
    let mut pieces = reflected();
    pieces.push(Piece::Peer(peer(
        "tor",
        LocalSide::AllNodes,
        at("10.0.0.254", 64601),
    )));
    let told = |name: &str, which| (name.to_owned(), which);
    assert_eq!(
        paths_told("n1", &pieces),
        [
            told("10.0.0.9", one),
            told("10.0.0.10", all),
            told("10.0.0.11", all),
            told("10.0.0.254", None),
        ]
    );
    // As each other's clients, reflectors would tell of every way around.
    pieces.push(Piece::Node(reflector("n2", "10.0.0.9/24", "10.8.8.8")));
    assert_eq!(paths_told("n1", &pieces)[0], told("10.0.0.9", one));
    assert!(
        paths_told("n3", &pieces)
            .iter()
            .all(|(name, which)| *which == if name == "10.0.0.254" { None } else { one })
    );
}

#[test]
fn a_peer_of_the_mesh_becomes_a_client_without_a_new_session() {
    let meshed = |pieces: &[Piece]| {
        let plan = speaker_plan(&build("n1", pieces), &underlay()).expect("a plan");
        let peers = plan.config.peers.into_iter();
        peers
            .map(|peer| (peer.name.clone(), peer))
            .collect::<BTreeMap<_, _>>()
    };
    let mut before = reflected();
    before.retain(|piece| !matches!(piece, Piece::Peer(_)));
    before.push(Piece::Node(node("n1", "10.0.0.2/24")));
    before.push(Piece::Node(node("n2", "10.0.0.9/24")));
    let (before, after) = (meshed(&before), meshed(&reflected()));
    assert_eq!(before.len(), 3);
    for (name, peer) in before {
        let now = &after[&name];
        assert_ne!(peer.name == "10.0.0.9", now.route_reflector_client);
        assert!(!peer.needs_new_session(now), "{name}");
    }
}
