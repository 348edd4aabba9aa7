//! Two speakers of ours.

use margay_bgp::speaker::config::{Originate, Secret};
use margay_bgp::speaker::snapshot::RouteQuery;
use margay_bgp::speaker::{Clear, SpeakerShutdown};

use super::*;

const ASN: u32 = 64512;

/// One that waits at `own` for the other at `other`, both in one AS.
fn waiting(own: &str, other: &str) -> SpeakerConfig {
    let mut config = SpeakerConfig::new(Asn(ASN), router_id(1));
    config.listen.push(SocketAddr::new(address(own), 0).into());
    let remote = Remote::Address(SocketAddr::new(address(other), 179));
    config.peers.push(PeerConfig {
        passive: true,
        ..peer("caller", remote, ASN)
    });
    config
}

/// One that dials from `own`.
fn dialling(own: &str, remote: SocketAddr) -> SpeakerConfig {
    let mut config = SpeakerConfig::new(Asn(ASN), router_id(2));
    config.peers.push(PeerConfig {
        local_address: Some(address(own)),
        connect_retry: Duration::from_millis(200),
        ..peer("waiter", Remote::Address(remote), ASN)
    });
    config
}

fn originate(text: &str, next_hop: &str) -> Originate {
    Originate {
        next_hop: Some(address(next_hop)),
        ..Originate::new(prefix(text))
    }
}

#[tokio::test]
async fn two_speakers_establish_and_exchange_routes_both_ways() {
    let mut config = waiting("127.0.10.1", "127.0.10.2");
    config.originate.push(originate("10.1.0.0/24", "192.0.2.1"));
    let mut waiter = Running::start(config).await;
    let mut config = dialling("127.0.10.2", waiter.address().await);
    config.originate.push(originate("10.2.0.0/24", "192.0.2.2"));
    let mut dialler = Running::start(config).await;

    let hops = waiter.wait_for_route(prefix("10.2.0.0/24"), true).await;
    assert_eq!(hops, [address("192.0.2.2")]);
    let hops = dialler.wait_for_route(prefix("10.1.0.0/24"), true).await;
    assert_eq!(hops, [address("192.0.2.1")]);

    let snapshot = dialler.handle.snapshot().await.expect("it runs");
    let seen = snapshot.peers.first().expect("its peer");
    assert_eq!(seen.state, State::Established);
    let routes = dialler
        .handle
        .routes(RouteQuery::default())
        .await
        .expect("it runs");
    assert_eq!(routes.len(), 2, "{routes:?}");
}

#[tokio::test]
async fn a_changed_configuration_announces_and_withdraws_without_touching_the_session() {
    let config = waiting("127.0.11.1", "127.0.11.2");
    let mut waiter = Running::start(config.clone()).await;
    let dialler = Running::start(dialling("127.0.11.2", waiter.address().await)).await;
    waiter.wait_for_state(State::Established).await;

    let mut changed = dialling("127.0.11.2", waiter.address().await);
    changed
        .originate
        .push(originate("10.2.0.0/24", "192.0.2.2"));
    dialler
        .handle
        .configure(changed)
        .await
        .expect("a good configuration");
    waiter.wait_for_route(prefix("10.2.0.0/24"), true).await;
    dialler
        .handle
        .configure(dialling("127.0.11.2", waiter.address().await))
        .await
        .expect("a good configuration");
    waiter.wait_for_route(prefix("10.2.0.0/24"), false).await;

    let snapshot = waiter.handle.snapshot().await.expect("it runs");
    assert_eq!(
        snapshot.peers.first().expect("its peer").established_count,
        1
    );
}

#[tokio::test]
async fn two_speakers_with_one_password_establish() {
    let secret = Secret::new("tiger").expect("a usable key");
    let mut config = waiting("127.0.12.1", "127.0.12.2");
    config.peers[0].password = Some(secret.clone());
    let mut waiter = Running::start(config).await;
    let mut config = dialling("127.0.12.2", waiter.address().await);
    config.originate.push(originate("10.2.0.0/24", "192.0.2.2"));
    config.peers[0].password = Some(secret);
    let _dialler = Running::start(config).await;
    waiter.wait_for_route(prefix("10.2.0.0/24"), true).await;
}

#[tokio::test]
async fn a_password_changed_on_both_sides_does_not_end_the_session() {
    let with = |mut config: SpeakerConfig, key: &str| {
        config.peers[0].password = Some(Secret::new(key).expect("a usable key"));
        config
    };
    let waiter_config = waiting("127.0.13.1", "127.0.13.2");
    let mut waiter = Running::start(with(waiter_config.clone(), "old")).await;
    let remote = waiter.address().await;
    let dialler_config = dialling("127.0.13.2", remote);
    let dialler = Running::start(with(dialler_config.clone(), "old")).await;
    waiter.wait_for_state(State::Established).await;

    waiter
        .handle
        .configure(with(waiter_config, "new"))
        .await
        .expect("taken");
    let mut changed = with(dialler_config, "new");
    changed
        .originate
        .push(originate("10.2.0.0/24", "192.0.2.2"));
    dialler.handle.configure(changed).await.expect("taken");
    waiter.wait_for_route(prefix("10.2.0.0/24"), true).await;
    let snapshot = waiter.handle.snapshot().await.expect("it runs");
    assert_eq!(
        snapshot.peers.first().expect("its peer").established_count,
        1
    );
}

#[tokio::test]
async fn a_speaker_that_ceases_takes_its_routes_along() {
    let mut waiter = Running::start(waiting("127.0.14.1", "127.0.14.2")).await;
    let mut config = dialling("127.0.14.2", waiter.address().await);
    config.originate.push(originate("10.2.0.0/24", "192.0.2.2"));
    let dialler = Running::start(config).await;
    waiter.wait_for_route(prefix("10.2.0.0/24"), true).await;

    let text = Some("moving out".to_owned());
    dialler
        .handle
        .shutdown(SpeakerShutdown::Cease { text })
        .await
        .expect("it ran");
    dialler.task.await.expect("it ended in peace");
    waiter.wait_for_route(prefix("10.2.0.0/24"), false).await;
    let snapshot = waiter.handle.snapshot().await.expect("it runs");
    let error = snapshot.peers.first().expect("its peer").last_error.clone();
    assert!(
        error
            .as_ref()
            .is_some_and(|error| error.contains("moving out")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_speaker_that_restarts_silently_leaves_its_routes_behind_and_finds_them_in_use() {
    let mut waiter = Running::start(waiting("127.0.15.1", "127.0.15.2")).await;
    let remote = waiter.address().await;
    let mut config = dialling("127.0.15.2", remote);
    config.originate.push(originate("10.2.0.0/24", "192.0.2.2"));
    config.originate.push(originate("10.3.0.0/24", "192.0.2.2"));
    let dialler = Running::start(config.clone()).await;
    waiter.wait_for_route(prefix("10.3.0.0/24"), true).await;
    dialler
        .handle
        .shutdown(SpeakerShutdown::KeepForwarding)
        .await
        .expect("it ran");

    // Back with one route less: only that one is ever withdrawn.
    config.originate.pop();
    config.restarting = true;
    let _again = Running::start(config).await;
    let withdrawn = waiter
        .wait_for(|event| {
            let SpeakerEvent::Routes(changes) = event else {
                return None;
            };
            let gone: Vec<Prefix> = changes
                .iter()
                .filter(|change| change.best.is_none())
                .map(|change| change.prefix)
                .collect();
            (!gone.is_empty()).then_some(gone)
        })
        .await;
    assert_eq!(withdrawn, [prefix("10.3.0.0/24")]);
}

#[tokio::test]
async fn both_sides_dialling_end_up_with_one_session() {
    // Ports must be known before either starts, so each takes one the kernel just had free.
    let free = |own: &str| {
        let socket = std::net::TcpListener::bind((address(own), 0)).expect("a free port");
        socket.local_addr().expect("bound")
    };
    let (one, two) = (free("127.0.16.1"), free("127.0.16.2"));
    let config = |own: SocketAddr, other: SocketAddr, id: u32| {
        let mut config = SpeakerConfig::new(Asn(ASN), router_id(id));
        config.listen.push(own.into());
        config.peers.push(PeerConfig {
            local_address: Some(own.ip()),
            connect_retry: Duration::from_millis(200),
            ..peer("other", Remote::Address(other), ASN)
        });
        config
            .originate
            .push(originate(&format!("10.{id}.0.0/24"), "192.0.2.1"));
        config
    };
    let mut first = Running::start(config(one, two, 1)).await;
    let mut second = Running::start(config(two, one, 2)).await;
    first.wait_for_route(prefix("10.2.0.0/24"), true).await;
    second.wait_for_route(prefix("10.1.0.0/24"), true).await;
}

#[tokio::test]
async fn a_cleared_session_comes_back() {
    let mut waiter = Running::start(waiting("127.0.17.1", "127.0.17.2")).await;
    let dialler = Running::start(dialling("127.0.17.2", waiter.address().await)).await;
    waiter.wait_for_state(State::Established).await;
    assert!(
        dialler
            .handle
            .clear("waiter", Clear::Hard)
            .await
            .expect("it runs")
    );
    assert!(
        !dialler
            .handle
            .clear("nobody", Clear::Hard)
            .await
            .expect("it runs")
    );
    waiter.wait_for_state(State::Established).await;
}

#[tokio::test]
async fn a_speaker_nobody_holds_ends() {
    let speaker = Running::start(waiting("127.0.18.1", "127.0.18.2")).await;
    drop(speaker.handle);
    tokio::time::timeout(PATIENCE, speaker.task)
        .await
        .expect("in time")
        .expect("in peace");
}

#[tokio::test]
async fn one_address_is_listened_on_at_once_instead_of_all_of_them() {
    let mut config = SpeakerConfig::new(Asn(ASN), router_id(1));
    let all = SocketAddr::new(address("0.0.0.0"), 0);
    config.listen.push(all.into());
    let running = Running::start(config.clone()).await;
    let one = SocketAddr::new(address("127.0.19.1"), running.address().await.port());
    config.listen = vec![one.into()];
    running
        .handle
        .configure(config)
        .await
        .expect("a good configuration");
    let addresses = running.handle.addresses().await.expect("it runs");
    assert_eq!(addresses, [one]);
}
