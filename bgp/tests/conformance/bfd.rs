//! What the end of a path, as BFD sees it, does to the session over it (RFC 5882, RFC 9384).

use std::net::SocketAddr;

use margay_bgp::bfd::{Diagnostic, Loss, Report, State as Path, Status};
use margay_bgp::fsm::State;
use margay_bgp::speaker::config::{Bfd, LimitAction, MaximumPrefixes, PeerConfig, Remote};
use margay_bgp::speaker::events::PeerEventKind;
use margay_bgp::speaker::{Accepted, PeerId};

use super::{KEEPALIVE, Lab, SECOND, USUAL, address_of, announce, open, own_address};

/// Graceful restart of IPv4, forwarding kept, 120 s, without the N bit and with it.
const GRACEFUL: [&[u8]; 2] = [
    &[1, 4, 0, 1, 0, 1, 2, 0, 64, 6, 0, 120, 0, 1, 1, 0x80],
    &[1, 4, 0, 1, 0, 1, 2, 0, 64, 6, 0x40, 120, 0, 1, 1, 0x80],
];

const ON: Bfd = Bfd {
    min_tx: SECOND,
    min_rx: SECOND,
    multiplier: 3,
    multihop: None,
    strict: false,
};

fn status(state: Path, remote_state: Path) -> Status {
    Status {
        state,
        diagnostic: Diagnostic::NONE,
        remote_state,
        remote_diagnostic: Diagnostic::NONE,
        local_discriminator: 1,
        remote_discriminator: 2,
        remote_control_plane_independent: false,
        transmit_interval: SECOND,
        detection_time: 3 * SECOND,
        transitions: 1,
    }
}

fn with_bfd(bfd: Bfd) -> Lab {
    let mut lab = Lab::with(|config| {
        for peer in &mut config.peers {
            if peer.name == "a" {
                peer.bfd = Some(bfd);
            }
        }
    });
    lab.settle();
    lab
}

/// Neighbour `a` with graceful restart and a route that `b` was told, its path up.
fn watched(capabilities: &[u8]) -> Lab {
    let mut lab = with_bfd(ON);
    lab.establish(&["b"]);
    lab.establish_with("a", capabilities);
    lab.say("a", &announce("a", &["10.1.0.0/16"]));
    lab.holds("b", "10.1.0.0/16");
    tell(&mut lab, Path::Up, Path::Up, None);
    lab
}

fn peer_of(lab: &Lab) -> PeerId {
    *lab.paths.keys().next().expect("a's path is watched")
}

fn tell(lab: &mut Lab, state: Path, remote_state: Path, loss: Option<Loss>) {
    let report = Report {
        status: status(state, remote_state),
        loss,
    };
    let peer = peer_of(lab);
    lab.speaker.handle_bfd(peer, &report, lab.now);
    lab.settle();
}

fn lose(lab: &mut Lab, remote_control_plane_independent: bool) {
    let loss = Loss {
        diagnostic: Diagnostic::DETECTION_TIME_EXPIRED,
        remote_control_plane_independent,
    };
    tell(lab, Path::Down, Path::Down, Some(loss));
}

fn configure(lab: &mut Lab, change: impl FnOnce(&mut PeerConfig)) {
    let mut config = lab.speaker.config().clone();
    let peer = config.peers.iter_mut().find(|peer| peer.name == "a");
    change(peer.expect("a"));
    lab.speaker.configure(config, lab.now);
    lab.settle();
}

#[test]
fn g20_a_path_whose_end_is_sure_takes_the_routes_and_one_that_shares_the_fate_of_a_restart_keeps_them()
 {
    for capabilities in GRACEFUL {
        let mut lab = watched(capabilities);
        lose(&mut lab, true);
        lab.assert_ended("a", 6, 10, &[]);
        lab.lacks("b", "10.1.0.0/16");

        let mut lab = watched(capabilities);
        lose(&mut lab, false);
        lab.assert_ended("a", 6, 10, &[]);
        lab.holds("b", "10.1.0.0/16");
        lab.advance(121 * SECOND, &["a"]);
        lab.lacks("b", "10.1.0.0/16");
    }
}

#[test]
fn g20_a_path_lost_while_its_neighbour_restarts_takes_the_routes_that_were_kept_unless_it_is_part_of_that()
 {
    for capabilities in GRACEFUL {
        for independent in [true, false] {
            let mut lab = watched(capabilities);
            lab.cut("a");
            lab.holds("b", "10.1.0.0/16");
            lose(&mut lab, independent);
            assert_eq!(lab.held("b", "10.1.0.0/16").is_none(), independent);
        }
    }
}

#[test]
fn without_graceful_restart_the_end_of_the_path_takes_the_routes_whatever_the_c_bit_says() {
    for independent in [true, false] {
        let mut lab = watched(USUAL);
        lose(&mut lab, independent);
        lab.assert_ended("a", 6, 10, &[]);
        lab.lacks("b", "10.1.0.0/16");
        assert_eq!(lab.peer("a").state, State::Active, "and it may come back");
    }
}

#[test]
fn a_path_taken_down_by_the_other_ends_operator_leaves_the_session_alone() {
    let mut lab = watched(USUAL);
    tell(&mut lab, Path::Down, Path::AdminDown, None);
    lab.assert_established("a");
    lab.holds("b", "10.1.0.0/16");
}

#[test]
fn every_end_of_a_path_is_an_event_with_its_reason() {
    let mut lab = watched(USUAL);
    lose(&mut lab, true);
    tell(&mut lab, Path::Init, Path::Down, None);
    tell(&mut lab, Path::Up, Path::Up, None);
    // Down and up again before anyone looked.
    let loss = Loss {
        diagnostic: Diagnostic::NEIGHBOR_SIGNALED_DOWN,
        remote_control_plane_independent: true,
    };
    tell(&mut lab, Path::Up, Path::Up, Some(loss));
    let events = lab.speaker.events_after(0);
    let paths: Vec<String> = events
        .iter()
        .filter(|event| matches!(event.kind, PeerEventKind::Path { .. }))
        .map(|event| event.kind.to_string())
        .collect();
    assert_eq!(
        paths,
        [
            "path Down -> Up: no diagnostic",
            "path Up -> Down: control detection time expired",
            "path Init -> Up: no diagnostic",
            "path Up -> Down: neighbor signaled session down",
            "path Init -> Up: no diagnostic",
        ]
    );
}

fn paths(lab: &Lab) -> Vec<String> {
    lab.speaker
        .events_after(0)
        .iter()
        .filter(|event| matches!(event.kind, PeerEventKind::Path { .. }))
        .map(|event| {
            let by = event.kind.by().expect("somebody's doing");
            format!("{} by {}", event.kind, by.name())
        })
        .collect()
}

#[test]
fn a_path_that_came_up_and_was_lost_between_two_looks_is_told_as_such() {
    let mut lab = with_bfd(ON);
    lab.establish(&["a"]);
    tell(&mut lab, Path::Down, Path::Down, None);
    lose(&mut lab, false);
    lab.assert_ended("a", 6, 10, &[]);
    assert_eq!(
        paths(&lab),
        [
            "path Down -> Up: no diagnostic by network",
            "path Up -> Down: control detection time expired by network",
        ]
    );
}

#[test]
fn who_ended_a_path_is_said() {
    let mut lab = watched(USUAL);
    tell(&mut lab, Path::Down, Path::AdminDown, None);
    tell(&mut lab, Path::Up, Path::Up, None);
    configure(&mut lab, |peer| peer.bfd = None);
    let told = paths(&lab);
    assert_eq!(
        told[1..],
        [
            "path Up -> Down: no diagnostic by peer",
            "path Down -> Up: no diagnostic by network",
            "path Up -> AdminDown: administratively down by operator",
        ]
    );
}

#[test]
fn a_path_that_never_came_up_does_not_keep_the_session_from_running() {
    let mut lab = with_bfd(ON);
    tell(&mut lab, Path::Down, Path::Down, None);
    lab.establish(&["a"]);
}

#[test]
fn other_timers_are_handed_on_and_reset_nothing() {
    let mut lab = watched(USUAL);
    let peer = peer_of(&lab);
    configure(&mut lab, |peer| {
        peer.bfd = Some(Bfd {
            min_tx: 2 * SECOND,
            ..ON
        });
    });
    assert_eq!(lab.paths[&peer].min_tx, 2 * SECOND);
    lab.assert_established("a");
    configure(&mut lab, |peer| peer.bfd = None);
    assert!(lab.paths.is_empty());
    lab.assert_established("a");
    assert_eq!(lab.snapshot("a").bfd, None);
}

#[test]
fn a_disabled_or_forgotten_neighbour_is_not_watched() {
    let mut lab = watched(USUAL);
    configure(&mut lab, |peer| peer.enabled = false);
    assert!(lab.paths.is_empty());
    configure(&mut lab, |peer| peer.enabled = true);
    assert_eq!(lab.paths.len(), 1);
    let mut config = lab.speaker.config().clone();
    config.peers.retain(|peer| peer.name != "a");
    lab.speaker.configure(config, lab.now);
    lab.settle();
    assert!(lab.paths.is_empty());
}

fn is_refused(lab: &mut Lab) -> bool {
    let remote = SocketAddr::from((address_of("a"), 40_000));
    matches!(
        lab.speaker.accept(remote, own_address(), lab.now),
        Accepted::Refused(_)
    )
}

#[test]
fn a_strict_session_waits_for_its_path_and_goes_with_it() {
    let mut lab = with_bfd(Bfd { strict: true, ..ON });
    assert!(is_refused(&mut lab));
    tell(&mut lab, Path::Init, Path::Down, None);
    assert!(is_refused(&mut lab));
    tell(&mut lab, Path::Up, Path::Up, None);
    lab.establish(&["a"]);
    lose(&mut lab, false);
    lab.assert_ended("a", 6, 10, &[]);
    lab.advance(120 * SECOND, &[]);
    assert!(is_refused(&mut lab), "the path is still down");
    assert!(
        lab.speaker
            .clear("a", margay_bgp::speaker::Clear::Hard, lab.now)
    );
    assert!(is_refused(&mut lab), "not even when an operator asks");
    tell(&mut lab, Path::Up, Path::Up, None);
    lab.establish(&["a"]);
}

#[test]
fn a_strict_session_that_ends_while_its_path_is_down_waits_for_it_however_it_ended() {
    let mut lab = with_bfd(Bfd { strict: true, ..ON });
    tell(&mut lab, Path::Up, Path::Up, None);
    lab.establish(&["a"]);
    // An operator took BFD down over there, which ends no session.
    tell(&mut lab, Path::Down, Path::AdminDown, None);
    lab.assert_established("a");
    lab.cut("a");
    assert!(is_refused(&mut lab));
    lab.advance(120 * SECOND, &[]);
    assert!(is_refused(&mut lab));
    tell(&mut lab, Path::Up, Path::Up, None);
    lab.establish(&["a"]);
}

#[test]
fn a_strict_session_is_not_dialled_while_its_path_is_down() {
    let mut lab = with_bfd(Bfd { strict: true, ..ON });
    configure(&mut lab, |peer| peer.passive = false);
    assert!(lab.dialled.is_empty());
    tell(&mut lab, Path::Up, Path::Up, None);
    lab.answer("a");
    tell(&mut lab, Path::Down, Path::AdminDown, None);
    // It was begun, but is none yet.
    assert!(lab.ends["a"].closed);
    lab.put_aside("a");
    lab.advance(120 * SECOND, &[]);
    assert!(lab.dialled.is_empty());
    tell(&mut lab, Path::Up, Path::Up, None);
    assert_eq!(lab.dialled.len(), 1);
}

#[test]
fn f18_a_path_that_comes_up_lifts_no_limit_on_prefixes() {
    for action in [LimitAction::Close, LimitAction::Restart(60 * SECOND)] {
        let mut lab = with_bfd(Bfd { strict: true, ..ON });
        configure(&mut lab, |peer| {
            peer.maximum_prefixes = Some(MaximumPrefixes { limit: 1, action });
        });
        tell(&mut lab, Path::Up, Path::Up, None);
        lab.establish(&["a"]);
        lab.say("a", &announce("a", &["10.1.0.0/16", "10.2.0.0/16"]));
        lab.assert_ended("a", 6, 1, &[0, 1, 1, 0, 0, 0, 1]);
        lab.put_aside("a");
        lose(&mut lab, true);
        tell(&mut lab, Path::Up, Path::Up, None);
        assert!(is_refused(&mut lab));
        lab.advance(61 * SECOND, &[]);
        assert_eq!(is_refused(&mut lab), action == LimitAction::Close);
    }
}

#[test]
fn our_end_of_a_path_is_the_address_that_the_neighbour_calls() {
    let other = |lab: &Lab| {
        lab.paths
            .values()
            .map(|path| path.local)
            .collect::<Vec<_>>()
    };
    let remote = SocketAddr::from((address_of("a"), 40_000));
    let own = SocketAddr::from(([192, 0, 2, 77], 179));
    let mut lab = with_bfd(ON);
    assert_eq!(other(&lab), [None]);
    lab.connect_from("a", remote, own);
    lab.say("a", &open(64600, address_of("a"), 90, USUAL));
    assert_eq!(other(&lab), [None], "anybody may have called");
    lab.say("a", &KEEPALIVE);
    lab.assert_established("a");
    assert_eq!(other(&lab), [Some(own.ip())]);
    // What works is not changed.
    tell(&mut lab, Path::Up, Path::Up, None);
    lab.cut("a");
    lab.connect_from("a", remote, own_address());
    lab.say("a", &open(64600, address_of("a"), 90, USUAL));
    lab.say("a", &KEEPALIVE);
    assert_eq!(other(&lab), [Some(own.ip())]);
    // A strict one is not taken before its path is up, so its call has to do.
    let mut lab = with_bfd(Bfd { strict: true, ..ON });
    assert_eq!(
        lab.speaker.accept(remote, own, lab.now),
        Accepted::Refused(None)
    );
    lab.settle();
    assert_eq!(other(&lab), [Some(own.ip())]);
    // The configured one counts.
    configure(&mut lab, |peer| {
        peer.local_address = Some(own_address().ip());
    });
    assert_eq!(other(&lab), [Some(own_address().ip())]);
}

#[test]
fn the_path_to_a_caller_from_a_range_begins_at_the_address_it_called() {
    let mut lab = Lab::with(|config| {
        config.peers[0].remote = Remote::Range("192.0.2.2/32".parse().unwrap());
        config.peers[0].bfd = Some(ON);
    });
    assert!(lab.paths.is_empty());
    let own = SocketAddr::from(([192, 0, 2, 77], 179));
    lab.connect_from("a", SocketAddr::from((address_of("a"), 40_000)), own);
    let path = lab.paths.values().next().unwrap();
    assert_eq!(
        (path.local, path.remote),
        (Some(own.ip()), address_of("a").into())
    );
}

#[test]
fn a_session_no_longer_strict_waits_no_longer() {
    let mut lab = with_bfd(Bfd { strict: true, ..ON });
    configure(&mut lab, |peer| peer.bfd = Some(ON));
    lab.establish(&["a"]);
    // And one that becomes strict while it stands stays.
    configure(&mut lab, |peer| {
        peer.bfd = Some(Bfd { strict: true, ..ON });
    });
    lab.assert_established("a");
}

#[test]
fn a_caller_that_is_given_a_name_has_one_path_which_stays_up() {
    let mut lab = Lab::with(|config| {
        config.peers[0].remote = Remote::Range("192.0.2.2/32".parse().unwrap());
        config.peers[0].bfd = Some(ON);
    });
    lab.connect("a");
    lab.say("a", &open(64600, address_of("a"), 90, USUAL));
    lab.say("a", &KEEPALIVE);
    tell(&mut lab, Path::Up, Path::Up, None);
    let before: Vec<_> = lab
        .paths
        .iter()
        .map(|(peer, path)| (*peer, *path))
        .collect();
    let mut named = lab.speaker.config().peers[0].clone();
    named.name = "named".to_owned();
    named.remote = Remote::Address(SocketAddr::from((address_of("a"), 179)));
    lab.configure(|config| config.peers.push(named));
    let after: Vec<_> = lab
        .paths
        .iter()
        .map(|(peer, path)| (*peer, *path))
        .collect();
    assert_eq!(before, after);
    assert!(lab.snapshot("named").bfd.unwrap().status.is_some());
    assert_eq!(lab.peer("named").state, State::Established);
    lose(&mut lab, true);
    lab.assert_ended("a", 6, 10, &[]);
}
