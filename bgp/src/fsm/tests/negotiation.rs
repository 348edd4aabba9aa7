//! What two OPENs settle.

use std::collections::BTreeSet;

use super::*;
use crate::codec::{
    AddPath, AddPathMode, ExtendedNextHop, LongLivedFamily, RefreshKind, Role, RouteRefresh,
};
use crate::family::{Afi, FamilySet};
use crate::fsm::negotiation::Offer;
use crate::speaker::config::{AddPathSend, GracefulRestart, LongLived};

#[track_caller]
fn assert_refused(config: PeerConfig, open: Open, code: ErrorCode) {
    let mut lab = Lab::new(config);
    lab.event(Event::Start);
    lab.up(Outgoing);
    lab.message(Outgoing, Message::Open(open));
    lab.assert_notified(Outgoing, code);
    lab.assert_state(State::Idle);
}

fn with(capability: Capability) -> Open {
    let mut open = their_open();
    open.capabilities.push(capability);
    open
}

/// Everything a configuration can make us offer, at once. The extended framing of RFC 9072, which starts at 256 octets of
/// parameters, is for what we may offer one day: that it would be used stands in the codec's tests (O24).
#[test]
fn our_largest_open_is_far_from_the_extended_framing() {
    let remote = "[fe80::2%1]:179".parse().expect("an address");
    let everything = PeerConfig {
        remote: Remote::Address(remote),
        families: vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST],
        local_asn: Some(Asn(4_200_000_000)),
        extended_next_hop: true,
        role: Some(Role::Peer),
        strict_role: true,
        graceful_restart: Some(GracefulRestart::default()),
        long_lived: Some(LongLived {
            stale_time: 3_600 * SECOND,
            partial_deployment: false,
        }),
        add_path_receive: true,
        add_path_send: Some(AddPathSend::All),
        ..config()
    };
    let identity = LocalIdentity {
        restarting: true,
        forwarding_preserved: true,
        ..identity()
    };
    let offer = Offer::new(&everything, &identity, true, false, false);
    let kinds: BTreeSet<u8> = offer
        .open()
        .capabilities
        .iter()
        .map(Capability::code)
        .collect();
    // All that this crate ever offers; a new one has to be thought of here.
    assert_eq!(
        kinds,
        BTreeSet::from([1, 2, 5, 6, 9, 64, 65, 69, 70, 71, 77])
    );
    let octets = offer.encode();
    assert_eq!(octets.len(), 106, "header 19, fixed part 10, parameters 77");
    assert_eq!(octets[28], 77);
    assert_eq!(octets[29], 2, "no parameter of type 255");
}

#[test]
fn another_as_than_configured_is_refused_with_2_2() {
    let open = Open {
        asn: Asn(64601),
        ..their_open()
    };
    assert_refused(config(), open, ErrorCode::BAD_PEER_AS);
}

#[test]
fn our_identifier_from_an_internal_peer_is_refused_with_2_3() {
    let open = Open {
        asn: US,
        router_id: id(100),
        ..their_open()
    };
    let internal = PeerConfig {
        asn: US.into(),
        ..config()
    };
    assert_refused(internal, open, ErrorCode::BAD_BGP_IDENTIFIER);
}

#[test]
fn our_identifier_from_an_external_peer_is_fine() {
    let open = Open {
        router_id: id(100),
        ..their_open()
    };
    let lab = Lab::established_with(config(), open);
    assert!(lab.negotiated().external);
}

#[test]
fn a_hold_time_below_the_configured_minimum_is_refused_with_2_6() {
    let strict = PeerConfig {
        minimum_hold_time: HoldTime::from_secs(30).expect("valid"),
        ..config()
    };
    let open = Open {
        hold_time: HoldTime::from_secs(29).expect("valid"),
        ..their_open()
    };
    assert_refused(strict, open, ErrorCode::UNACCEPTABLE_HOLD_TIME);
}

#[test]
fn no_common_family_is_refused_with_2_7_and_the_families_we_need() {
    let only_v6 = PeerConfig {
        families: vec![Family::IPV6_UNICAST],
        ..config()
    };
    let open = Open {
        capabilities: vec![Capability::Multiprotocol(Family::IPV4_UNICAST)],
        ..their_open()
    };
    let mut lab = Lab::new(only_v6);
    lab.event(Event::Start);
    lab.up(Outgoing);
    lab.message(Outgoing, Message::Open(open));
    assert_eq!(lab.notified(Outgoing), Some((2, 7, vec![1, 4, 0, 2, 0, 1])));
}

#[test]
fn roles_that_do_not_fit_are_refused_with_2_11() {
    let provider = PeerConfig {
        role: Some(Role::Provider),
        ..config()
    };
    assert_refused(
        provider.clone(),
        with(Capability::Role(Role::Provider)),
        ErrorCode::ROLE_MISMATCH,
    );
    let lab = Lab::established_with(provider, with(Capability::Role(Role::Customer)));
    assert_eq!(lab.negotiated().role, Some(Role::Provider));
}

#[test]
fn a_role_means_nothing_to_a_neighbour_that_turns_out_internal() {
    let provider = PeerConfig {
        role: Some(Role::Provider),
        asn: crate::speaker::config::PeerAs::Any,
        ..config()
    };
    let theirs = Open {
        asn: identity().asn,
        ..with(Capability::Role(Role::Provider))
    };
    let lab = Lab::established_with(provider, theirs);
    assert_eq!(lab.negotiated().role, None);
}

#[test]
fn no_capabilities_mean_ipv4_and_two_octet_ases() {
    let open = Open {
        capabilities: Vec::new(),
        ..their_open()
    };
    let lab = Lab::established_with(config(), open);
    assert_eq!(lab.negotiated().families, [Family::IPV4_UNICAST]);
    assert!(!lab.negotiated().context.four_octet_as);
    assert!(!lab.negotiated().route_refresh);
}

#[test]
fn only_common_families_are_settled_in_our_order() {
    let open = Open {
        capabilities: vec![Capability::Multiprotocol(Family::IPV6_UNICAST)],
        ..their_open()
    };
    let lab = Lab::established_with(config(), open);
    assert_eq!(lab.negotiated().families, [Family::IPV6_UNICAST]);
    assert_eq!(
        lab.negotiated().context.families,
        FamilySet::of(Family::IPV6_UNICAST)
    );
}

#[test]
fn the_smaller_hold_time_counts_and_keepalives_come_at_a_third_of_it() {
    let open = Open {
        hold_time: HoldTime::from_secs(3).expect("valid"),
        ..their_open()
    };
    let lab = Lab::established_with(config(), open);
    assert_eq!(lab.negotiated().hold_time.as_secs(), 3);
    assert_eq!(lab.negotiated().keepalive_interval, Some(SECOND));
}

#[test]
fn an_explicit_keepalive_interval_shrinks_with_the_hold_time() {
    let explicit = PeerConfig {
        keepalive: Some(SECOND * 20),
        ..config()
    };
    let open = Open {
        hold_time: HoldTime::from_secs(45).expect("valid"),
        ..their_open()
    };
    let lab = Lab::established_with(explicit, open);
    assert_eq!(lab.negotiated().keepalive_interval, Some(SECOND * 10));
}

#[test]
fn hold_time_zero_means_no_keepalives() {
    let open = Open {
        hold_time: HoldTime::NONE,
        ..their_open()
    };
    let lab = Lab::established_with(config(), open);
    assert_eq!(lab.negotiated().keepalive_interval, None);
}

#[test]
fn add_path_needs_a_sender_and_a_receiver_per_family() {
    let receiver = PeerConfig {
        add_path_receive: true,
        add_path_send: Some(AddPathSend::All),
        ..config()
    };
    let open = with(Capability::AddPath(vec![
        AddPath {
            family: Family::IPV4_UNICAST,
            mode: AddPathMode::Send,
        },
        AddPath {
            family: Family::IPV6_UNICAST,
            mode: AddPathMode::Receive,
        },
    ]));
    let lab = Lab::established_with(receiver, open);
    let context = lab.negotiated().context;
    assert_eq!(
        context.add_path_receive,
        FamilySet::of(Family::IPV4_UNICAST)
    );
    assert_eq!(context.add_path_send, FamilySet::of(Family::IPV6_UNICAST));
}

#[test]
fn we_take_extended_messages_because_we_offered_them_and_send_them_only_where_the_peer_did() {
    let lab = Lab::established();
    assert!(lab.negotiated().context.extended_message_receive);
    assert!(!lab.negotiated().context.extended_message_send);
    let lab = Lab::established_with(config(), with(Capability::ExtendedMessage));
    assert!(lab.negotiated().context.extended_message_send);
}

#[test]
fn extended_next_hops_are_settled_where_both_offer_them_for_ipv4_over_ipv6() {
    let offering = PeerConfig {
        extended_next_hop: true,
        ..config()
    };
    let tuple = |next_hop_afi| {
        with(Capability::ExtendedNextHop(vec![ExtendedNextHop {
            family: Family::IPV4_UNICAST,
            next_hop_afi,
        }]))
    };
    let lab = Lab::established_with(offering.clone(), tuple(Afi::IPV6));
    assert!(lab.negotiated().context.extended_next_hop);
    let lab = Lab::established_with(offering, tuple(Afi::IPV4));
    assert!(!lab.negotiated().context.extended_next_hop);
    let lab = Lab::established_with(config(), tuple(Afi::IPV6));
    assert!(!lab.negotiated().context.extended_next_hop);
}

#[test]
fn refresh_and_enhanced_refresh_follow_the_peer() {
    let lab = Lab::established_with(config(), with(Capability::EnhancedRouteRefresh));
    assert!(lab.negotiated().route_refresh);
    assert!(lab.negotiated().enhanced_refresh);
    assert!(!Lab::established().negotiated().enhanced_refresh);
}

#[test]
fn an_external_peers_paths_must_start_with_its_as() {
    assert_eq!(
        Lab::established().negotiated().context.enforce_first_as,
        Some(THEM)
    );
    let relaxed = PeerConfig {
        enforce_first_as: false,
        ..config()
    };
    let lab = Lab::established_with(relaxed, their_open());
    assert_eq!(lab.negotiated().context.enforce_first_as, None);
}

#[test]
fn a_local_as_decides_whether_the_peer_is_external() {
    let same = PeerConfig {
        local_asn: Some(THEM),
        ..config()
    };
    let lab = Lab::established_with(same, their_open());
    assert!(!lab.negotiated().external);
    assert_eq!(lab.negotiated().local_asn, THEM);
}

#[test]
fn of_two_graceful_restart_capabilities_the_last_counts() {
    let mut open = graceful_open(true);
    open.capabilities
        .push(Capability::GracefulRestart(GracefulRestartCapability {
            restart_time: 7,
            ..GracefulRestartCapability::default()
        }));
    let lab = Lab::established_with(config(), open);
    let capability = lab
        .negotiated()
        .peer_graceful_restart
        .as_ref()
        .expect("settled");
    assert_eq!(capability.restart_time, 7);
    assert!(!lab.negotiated().notification_graceful);
}

#[test]
fn long_lived_restart_means_nothing_without_graceful_restart() {
    let long_lived = Capability::LongLivedGracefulRestart(vec![LongLivedFamily {
        family: Family::IPV4_UNICAST,
        forwarding: true,
        stale_time: 60,
    }]);
    let lab = Lab::established_with(config(), with(long_lived.clone()));
    assert_eq!(lab.negotiated().peer_long_lived, None);
    let mut open = graceful_open(true);
    open.capabilities.push(long_lived);
    let lab = Lab::established_with(config(), open);
    assert_eq!(
        lab.negotiated().peer_long_lived.as_ref().map(Vec::len),
        Some(1)
    );
}

// Falling back to an OPEN without capabilities.

fn refused_with(code: ErrorCode) -> Lab {
    let mut lab = Lab::open_sent();
    lab.notification(Outgoing, code);
    pause_before_connect(&mut lab);
    lab.outputs.clear();
    lab.up(Outgoing);
    lab
}

/// Length of the OPEN sent last.
fn open_len(lab: &Lab) -> usize {
    lab.octets(Outgoing)
        .find(|octets| octets[18] == 1)
        .expect("an OPEN")
        .len()
}

#[test]
fn o25_a_peer_that_refuses_optional_parameters_is_spared_them_for_ten_minutes() {
    for code in [
        ErrorCode::UNSUPPORTED_OPTIONAL_PARAMETER,
        ErrorCode::UNSUPPORTED_CAPABILITY,
    ] {
        let mut lab = bare(code);
        assert_eq!(open_len(&lab), 29, "{code}");
        assert_eq!(lab.negotiated().families, [Family::IPV4_UNICAST]);
        assert_eq!(
            lab.negotiated().context,
            crate::codec::CodecContext {
                families: FamilySet::of(Family::IPV4_UNICAST),
                peer_is_external: true,
                enforce_first_as: Some(THEM),
                ..Default::default()
            }
        );
        lab.closed(Outgoing);
        lab.wait(SECOND * 600);
        lab.outputs.clear();
        lab.up(Outgoing);
        assert!(open_len(&lab) > 29);
    }
}

/// A session without capabilities, which the neighbour refused so.
fn bare(code: ErrorCode) -> Lab {
    let mut lab = refused_with(code);
    lab.message(
        Outgoing,
        Message::Open(Open {
            capabilities: Vec::new(),
            ..their_open()
        }),
    );
    lab.message(Outgoing, Message::Keepalive);
    assert!(lab.negotiated().without_capabilities);
    lab
}

#[test]
fn o25_a_session_without_capabilities_is_warned_of() {
    let warned = |lab: &Lab| {
        lab.outputs.iter().any(|output| {
            matches!(
                output,
                PeerOutput::Warning(PeerWarning::WithoutCapabilities)
            )
        })
    };
    assert!(warned(&bare(ErrorCode::UNSUPPORTED_OPTIONAL_PARAMETER)));
    let mut lab = Lab::open_confirm();
    lab.message(Outgoing, Message::Keepalive);
    assert!(!warned(&lab));
}

#[test]
fn o25_whoever_clears_or_changes_the_peer_has_it_offered_capabilities_again() {
    let clear = |lab: &mut Lab| {
        lab.event(Event::Reset(Shutdown::AdministrativeReset {
            text: None,
            hard: true,
        }));
    };
    let change = |lab: &mut Lab| {
        let config = PeerConfig {
            keepalive: Some(SECOND),
            ..config()
        };
        lab.peer.set_config(lab.now, Arc::new(config));
        lab.closed(Outgoing);
    };
    let path_lost = |lab: &mut Lab| {
        lab.event(Event::Reset(Shutdown::BfdDown { keep_routes: false }));
    };
    for (how, again) in [
        (&clear as &dyn Fn(&mut Lab), true),
        (&change, true),
        (&path_lost, false),
    ] {
        let mut lab = bare(ErrorCode::UNSUPPORTED_OPTIONAL_PARAMETER);
        how(&mut lab);
        pause_before_connect(&mut lab);
        lab.outputs.clear();
        lab.up(Outgoing);
        assert_eq!(open_len(&lab) > 29, again);
    }
}

#[test]
fn r1_a_request_we_did_not_offer_to_answer_is_passed_over() {
    let refresh = RouteRefresh {
        family: Family::IPV4_UNICAST,
        kind: RefreshKind::Request,
    };
    let passed_on = |mut lab: Lab| {
        lab.outputs.clear();
        lab.message(Outgoing, Message::RouteRefresh(refresh));
        lab.assert_state(State::Established);
        let is_refresh = |output: &PeerOutput| matches!(output, PeerOutput::RouteRefresh(_));
        lab.outputs.iter().any(is_refresh)
    };
    assert!(!passed_on(bare(ErrorCode::UNSUPPORTED_OPTIONAL_PARAMETER)));
    assert!(passed_on(Lab::established()));
}

#[test]
fn o25_a_peer_that_refuses_the_plain_open_as_well_is_an_error() {
    let mut lab = refused_with(ErrorCode::UNSUPPORTED_OPTIONAL_PARAMETER);
    lab.notification(Outgoing, ErrorCode::UNSUPPORTED_OPTIONAL_PARAMETER);
    lab.assert_state(State::Idle);
}

#[test]
fn there_is_no_plain_open_for_a_four_octet_as_or_without_ipv4() {
    for config in [
        PeerConfig {
            local_asn: Some(Asn(4_200_000_001)),
            ..config()
        },
        PeerConfig {
            families: vec![Family::IPV6_UNICAST],
            ..config()
        },
    ] {
        let offer = Offer::new(&config, &identity(), false, false, false);
        assert!(!offer.works_without_capabilities());
    }
}
