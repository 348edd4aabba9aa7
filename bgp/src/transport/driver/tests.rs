//! The driver by hand, round by round, with connections that are real.

use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};

use socket2::Socket;
use tokio::net::TcpStream;

use super::*;
use crate::asn::Asn;
use crate::policy::Policy;
use crate::router_id::RouterId;
use crate::speaker::config::{PeerConfig, Remote};
use crate::transport::{SpeakerHandle, SpeakerOptions, build};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A speaker that listens on loopback and waits for a neighbour there.
fn config() -> SpeakerConfig {
    let policy = Arc::new(Policy::accept_all());
    let remote = Remote::Address((Ipv4Addr::LOCALHOST, 179).into());
    let mut peer = PeerConfig::new("peer", remote, Asn(1), Arc::clone(&policy), policy);
    peer.passive = true;
    let mut config = SpeakerConfig::new(Asn(2), RouterId::new(1).expect("not zero"));
    config.listen = vec![Listen::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))];
    config.peers = vec![peer];
    config
}

fn driver(config: SpeakerConfig) -> (Driver, Inboxes, SpeakerHandle) {
    let (driver, inboxes, handle, _events) =
        build(config, SpeakerOptions::default()).expect("it can listen");
    (driver, inboxes, handle)
}

/// Lets the tasks run until something holds.
async fn until(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.expect("it comes to hold in time");
}

#[tokio::test]
async fn the_kernel_is_told_of_another_send_hold_while_the_connection_stands() {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    let _caller = std::net::TcpStream::connect(address).expect("connects");
    let (stream, remote) = listener.accept().expect("called");
    stream.set_nonblocking(true).expect("an open socket");
    let socket = Socket::from(stream.try_clone().expect("another handle"));
    let set = || {
        let timeout = socket.tcp_user_timeout().expect("a TCP socket");
        timeout.map_or(0, |timeout| timeout.as_secs())
    };
    let (mut driver, _inboxes, _handle) = driver(config());
    driver.accept(Arrival {
        stream: TcpStream::from_std(stream).expect("registered"),
        local: address,
        remote,
        listener: driver.written.listen[0].clone(),
    });
    assert_eq!(set(), 485);
    let bear = |driver: &mut Driver, seconds| {
        driver.written.peers[0].send_hold = Some(Duration::from_secs(seconds));
        driver.configure().expect("it listens");
    };
    // Its task has not run yet.
    bear(&mut driver, 900);
    until(|| set() == 905).await;
    bear(&mut driver, 1000);
    assert_eq!(set(), 1005);
}

#[tokio::test]
async fn a_crowd_of_callers_takes_several_rounds() {
    let (mut driver, mut inboxes, _handle) = driver(config());
    let address = driver.listeners.addresses()[0];
    let crowd = 3 * ARRIVALS;
    let callers: Vec<_> = (0..crowd)
        .map(|_| std::net::TcpStream::connect(address).expect("connects"))
        .collect();
    until(|| inboxes.accepted.len() == crowd).await;
    assert!(driver.take_in(&mut inboxes, None).is_none());
    assert!(inboxes.accepted.len() >= crowd - ARRIVALS);
    while !inboxes.accepted.is_empty() {
        driver.take_in(&mut inboxes, None);
    }
    drop(callers);
}
