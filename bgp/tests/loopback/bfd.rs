//! Paths watched over real sockets, by the thread that does nothing else.

use margay_bgp::bfd;
use margay_bgp::speaker::SpeakerShutdown;
use margay_bgp::speaker::config::Bfd;
use margay_bgp::speaker::snapshot::BfdSnapshot;

use super::*;

const ON: Bfd = Bfd {
    min_tx: Duration::from_millis(50),
    min_rx: Duration::from_millis(50),
    // Patient: this machine does other things as well.
    multiplier: 40,
    multihop: None,
    strict: true,
};

/// One end of a session that does not begin before its path is up.
fn end(number: u32, own: &str, remote: SocketAddr, bfd: Bfd) -> SpeakerConfig {
    let mut config = SpeakerConfig::new(Asn(64512), router_id(number));
    config.peers.push(PeerConfig {
        local_address: Some(address(own)),
        connect_retry: Duration::from_millis(200),
        bfd: Some(bfd),
        ..peer("other", Remote::Address(remote), 64512)
    });
    config
}

async fn pair(network: u8, bfd: Bfd) -> [Running; 2] {
    let [one, two] = [1, 2].map(|host| format!("127.0.{network}.{host}"));
    let mut waiter = end(1, &one, SocketAddr::new(address(&two), 0), bfd);
    waiter.listen.push(SocketAddr::new(address(&one), 0).into());
    let waiter = Running::start(waiter).await;
    let dialler = Running::start(end(2, &two, waiter.address().await, bfd)).await;
    [waiter, dialler]
}

async fn path(running: &Running) -> BfdSnapshot {
    let snapshot = running.handle.snapshot().await.expect("it runs");
    let peer = snapshot.peers.first().expect("its peer");
    peer.bfd.expect("the path is watched")
}

#[tokio::test]
async fn strict_sessions_come_up_with_their_path() {
    let [mut waiter, dialler] = pair(30, ON).await;
    waiter.wait_for_state(State::Established).await;
    for running in [&waiter, &dialler] {
        let status = path(running).await.status.expect("heard of");
        assert_eq!(status.state, bfd::State::Up);
    }
    let counters = waiter.handle.snapshot().await.expect("it runs").bfd;
    assert!(counters.received > 0 && counters.sent > 0, "{counters:?}");
    assert_eq!((counters.malformed, counters.ttl), (0, 0));
}

#[tokio::test]
async fn several_hops_have_a_port_of_their_own() {
    let bfd = Bfd {
        multihop: Some(2),
        ..ON
    };
    let [mut waiter, _dialler] = pair(31, bfd).await;
    waiter.wait_for_state(State::Established).await;
}

#[tokio::test]
async fn a_speaker_that_ends_on_purpose_is_not_taken_for_a_lost_path() {
    let [mut waiter, dialler] = pair(32, ON).await;
    waiter.wait_for_state(State::Established).await;
    dialler
        .handle
        .shutdown(SpeakerShutdown::KeepForwarding)
        .await
        .expect("it runs");
    let down = async {
        loop {
            let status = path(&waiter).await.status.expect("heard of");
            if status.state == bfd::State::Down {
                return status;
            }
            tokio::task::yield_now().await;
        }
    };
    let status = tokio::time::timeout(PATIENCE, down)
        .await
        .expect("it is told");
    assert_eq!(status.remote_state, bfd::State::AdminDown);
    assert_eq!(
        status.remote_diagnostic,
        bfd::Diagnostic::ADMINISTRATIVELY_DOWN
    );
    let counters = waiter.handle.snapshot().await.expect("it runs").bfd;
    assert_eq!(counters.losses, 0);
}
