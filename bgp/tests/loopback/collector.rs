//! A BMP collector on loopback: connected, told, lost and found again.

use margay_bgp::bmp::Collector;
use margay_bgp::speaker::SpeakerShutdown;
use margay_bgp::speaker::config::Originate;
use tokio::io::{AsyncReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const INITIATION: u8 = 4;
const TERMINATION: u8 = 5;
const PEER_UP: u8 = 3;
const ROUTE_MONITORING: u8 = 0;

async fn accept(listener: &TcpListener) -> BufReader<TcpStream> {
    let accepted = tokio::time::timeout(PATIENCE, listener.accept()).await;
    let (stream, _) = accepted.expect("it dials in time").expect("accepted");
    BufReader::new(stream)
}

/// The type and the rest of the next message.
async fn next(stream: &mut BufReader<TcpStream>) -> Option<(u8, Vec<u8>)> {
    let reading = async {
        let mut header = [0; 6];
        stream.read_exact(&mut header).await.ok()?;
        let [version, a, b, c, d, kind] = header;
        assert_eq!(version, 3);
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let mut body = vec![0; length - header.len()];
        stream.read_exact(&mut body).await.ok()?;
        Some((kind, body))
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .expect("a message, or the end, in time")
}

async fn kinds_until_route(stream: &mut BufReader<TcpStream>) -> Vec<u8> {
    let mut kinds = Vec::new();
    loop {
        let (kind, _) = next(stream).await.expect("the connection stands");
        kinds.push(kind);
        if kind == ROUTE_MONITORING {
            return kinds;
        }
    }
}

fn config(collector: SocketAddr) -> SpeakerConfig {
    let mut config = SpeakerConfig::new(Asn(64512), router_id(1));
    config.originate.push(Originate::new(prefix("10.1.0.0/24")));
    config.monitoring.push(Collector::new(collector));
    config
}

#[tokio::test]
async fn a_collector_that_was_lost_is_told_everything_anew_and_hears_the_end() {
    let listener = TcpListener::bind("127.0.30.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    let speaker = Running::start(config(at)).await;

    for _ in 0..2 {
        let mut stream = accept(&listener).await;
        assert_eq!(
            kinds_until_route(&mut stream).await,
            [INITIATION, PEER_UP, ROUTE_MONITORING]
        );
        // It goes away, and the speaker comes again.
    }
    let mut stream = accept(&listener).await;
    kinds_until_route(&mut stream).await;
    let shutdown = SpeakerShutdown::Cease { text: None };
    speaker.handle.shutdown(shutdown).await.expect("it ran");
    let mut last = None;
    while let Some((kind, _)) = next(&mut stream).await {
        last = Some(kind);
    }
    assert_eq!(last, Some(TERMINATION));
    speaker.task.await.expect("it ends");
}

#[tokio::test]
async fn a_collector_that_does_not_read_and_one_that_is_not_there_hold_nothing_up() {
    let listener = TcpListener::bind("127.0.30.2:0").await.expect("a port");
    let deaf = listener.local_addr().expect("an address");
    let mut config = config(deaf);
    // Nobody listens there.
    let nobody = TcpListener::bind("127.0.30.3:0").await.expect("a port");
    let absent = nobody.local_addr().expect("an address");
    drop(nobody);
    config.monitoring.push(Collector::new(absent));
    let mut speaker = Running::start(config.clone()).await;
    // What nobody fetches keeps its prefixes.
    speaker.events.close();
    let _stream = accept(&listener).await;
    for round in 0..40_u8 {
        config.originate = (0..=255)
            .flat_map(|third| {
                (0..4_u8).map(move |fourth| {
                    let text = format!("10.{round}.{third}.{}/26", fourth * 64);
                    Originate::new(prefix(&text))
                })
            })
            .collect();
        let taken = speaker.handle.configure(config.clone());
        tokio::time::timeout(PATIENCE, taken)
            .await
            .expect("in time")
            .expect("taken");
    }
    let settled = async {
        loop {
            let snapshot = speaker.handle.snapshot().await.expect("it runs");
            if snapshot.tables[0].prefixes == 1024 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, settled)
        .await
        .expect("what was withdrawn is gone in time");
    // Taken out of the configuration, it is let go.
    config.monitoring.clear();
    speaker.handle.configure(config).await.expect("taken");
    let shutdown = SpeakerShutdown::KeepForwarding;
    speaker.handle.shutdown(shutdown).await.expect("it ran");
}
