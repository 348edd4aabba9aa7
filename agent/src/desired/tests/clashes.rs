//! Sessions that cannot be had beside others.

use super::*;

fn on_port(name: &str, port: u16, annotations: &[(&str, &str)]) -> Piece {
    let remote = RemoteSide::Address {
        address: address("10.0.0.9"),
        port: Some(port),
        asn: Some(Asn(64601)),
    };
    let mut peer = peer(name, LocalSide::AllNodes, remote);
    peer.margay.extend(
        annotations
            .iter()
            .map(|(field, text)| ((*field).to_owned(), (*text).to_owned())),
    );
    Piece::Peer(peer)
}

fn planned(pieces: &[Piece]) -> (Vec<String>, Vec<String>) {
    let mut all = vec![Piece::Node(node("n1", "10.0.0.2/24"))];
    all.extend_from_slice(pieces);
    let plan = speaker_plan(&build("n1", &all), &underlay()).expect("a plan");
    assert_eq!(plan.config.validate(), Ok(()));
    let said = |problem: &Problem| format!("{}: {}", problem.subject, problem.reason);
    (
        plan.config
            .peers
            .iter()
            .map(|peer| peer.name.clone())
            .collect(),
        plan.problems.iter().map(said).collect(),
    )
}

#[test]
fn a_session_that_clashes_with_another_stays_down_alone() {
    let bfd = [("bfd", "true")];
    let (up, problems) = planned(&[on_port("a", 179, &bfd), on_port("b", 1790, &bfd)]);
    assert_eq!(up, ["10.0.0.9"]);
    assert_eq!(
        problems,
        [
            "session 10.0.0.9:1790: it stays down: bfd of peer 10.0.0.9:1790: peer 10.0.0.9 watches the same path, on which there is \
             room for one session: expected bfd at one of the two, or a localAddress of its own for each"
        ]
    );
}

#[test]
fn annotations_that_contradict_each_other_are_told_of_their_object() {
    let annotations = [("strictRole", "true"), ("holdTime", "30")];
    let (up, problems) = planned(&[on_port("a", 179, &annotations)]);
    assert_eq!(up, ["10.0.0.9"]);
    assert_eq!(
        problems,
        [
            "BGPPeer a: annotation margay.io/strictRole: expected `role` beside it: what we are to the peer"
        ]
    );
}
