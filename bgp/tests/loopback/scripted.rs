//! A peer that follows a script, octet by octet.

use bytes::BytesMut;
use margay_bgp::codec::{
    Capability, CodecContext, HoldTime, KEEPALIVE, Message, Notification, Open, decode, framing,
};
use margay_bgp::family::Family;
use margay_bgp::speaker::SpeakerShutdown;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::*;

const OURS: u32 = 64512;
const THEIRS: u32 = 64600;

/// A speaker waiting for a neighbour of AS 64600 at `peer_address`.
async fn speaker(own: &str, peer_address: &str) -> Running {
    let mut config = SpeakerConfig::new(Asn(OURS), router_id(1));
    config.listen.push(SocketAddr::new(address(own), 0).into());
    let remote = Remote::Address(SocketAddr::new(address(peer_address), 179));
    config.peers.push(PeerConfig {
        passive: true,
        graceful_restart: None,
        ..peer("scripted", remote, THEIRS)
    });
    Running::start(config).await
}

struct Script {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Script {
    async fn call(from: &str, to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind(SocketAddr::new(address(from), 0))
            .expect("a loopback address");
        let stream = socket.connect(to).await.expect("connected");
        Self {
            stream,
            buffer: BytesMut::new(),
        }
    }

    async fn say(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).await.expect("written");
    }

    async fn say_message(&mut self, message: &Message) {
        let octets = message
            .to_bytes(&CodecContext::before_open())
            .expect("encodes");
        self.say(&octets).await;
    }

    /// The next message; nothing at the end of the stream.
    async fn hear(&mut self) -> Option<Message> {
        let hearing = async {
            loop {
                if let Some(frame) = framing::split(&mut self.buffer, 65535).expect("framed") {
                    let context = CodecContext {
                        extended_message_receive: true,
                        ..CodecContext::before_open()
                    };
                    return Some(decode(&frame.octets, &context).expect("decodes"));
                }
                match self.stream.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, hearing)
            .await
            .expect("an answer in time")
    }

    #[track_caller]
    fn expect_open(message: Option<Message>) -> Open {
        match message {
            Some(Message::Open(open)) => open,
            other => panic!("expected an OPEN, heard {other:?}"),
        }
    }

    /// Skips to a NOTIFICATION, which must be the last thing said.
    async fn hear_notification(&mut self) -> Notification {
        loop {
            match self.hear().await.expect("a NOTIFICATION before the end") {
                Message::Notification(notification) => {
                    assert_eq!(self.hear().await, None, "nothing follows a NOTIFICATION");
                    return notification;
                }
                Message::Open(_)
                | Message::Keepalive
                | Message::Update(_)
                | Message::RouteRefresh(_) => {}
            }
        }
    }

    /// Up to Established.
    async fn establish(&mut self, open: Open) {
        self.say_message(&Message::Open(open)).await;
        self.say(&KEEPALIVE).await;
        Self::expect_open(self.hear().await);
        assert_eq!(self.hear().await, Some(Message::Keepalive));
    }
}

fn open() -> Open {
    Open {
        contradicting_as: None,
        asn: Asn(THEIRS),
        hold_time: HoldTime::default(),
        router_id: router_id(9),
        capabilities: vec![
            Capability::Multiprotocol(Family::IPV4_UNICAST),
            Capability::FourOctetAs(Asn(THEIRS)),
        ],
    }
}

/// Says `octets` after our OPEN and expects a NOTIFICATION.
async fn assert_answer(own: &str, from: &str, octets: &[u8], code: (u8, u8), data: &[u8]) {
    let speaker = speaker(own, from).await;
    let mut script = Script::call(from, speaker.address().await).await;
    Script::expect_open(script.hear().await);
    script.say(octets).await;
    let notification = script.hear_notification().await;
    assert_eq!(
        (notification.code.code, notification.code.subcode),
        code,
        "{notification}"
    );
    assert_eq!(&notification.data[..], data);
}

/// An OPEN with some octets of its body replaced.
fn open_octets(changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut octets = Message::Open(open())
        .to_bytes(&CodecContext::before_open())
        .expect("encodes")
        .to_vec();
    for (at, replacement) in changes {
        octets[19 + at..19 + at + replacement.len()].copy_from_slice(replacement);
    }
    octets
}

#[tokio::test]
async fn version_5_is_answered_2_1_with_our_version() {
    assert_answer(
        "127.0.20.1",
        "127.0.20.2",
        &open_octets(&[(0, &[5])]),
        (2, 1),
        &[0, 4],
    )
    .await;
}

#[tokio::test]
async fn another_as_is_answered_2_2() {
    let mut wrong = open();
    wrong.asn = Asn(64601);
    wrong.capabilities = vec![Capability::FourOctetAs(Asn(64601))];
    let octets = Message::Open(wrong)
        .to_bytes(&CodecContext::before_open())
        .expect("encodes");
    assert_answer("127.0.21.1", "127.0.21.2", &octets, (2, 2), &[]).await;
}

#[tokio::test]
async fn a_router_id_of_zero_is_answered_2_3() {
    assert_answer(
        "127.0.22.1",
        "127.0.22.2",
        &open_octets(&[(5, &[0; 4])]),
        (2, 3),
        &[],
    )
    .await;
}

#[tokio::test]
async fn a_hold_time_of_two_seconds_is_answered_2_6() {
    assert_answer(
        "127.0.23.1",
        "127.0.23.2",
        &open_octets(&[(3, &[0, 2])]),
        (2, 6),
        &[],
    )
    .await;
}

#[tokio::test]
async fn a_keepalive_before_the_open_is_answered_5_1() {
    assert_answer("127.0.24.1", "127.0.24.2", &KEEPALIVE, (5, 1), &[4]).await;
}

#[tokio::test]
async fn a_broken_marker_is_answered_1_1() {
    let mut octets = open_octets(&[]);
    octets[7] = 0xfe;
    assert_answer("127.0.25.1", "127.0.25.2", &octets, (1, 1), &[]).await;
}

#[tokio::test]
async fn a_bad_length_is_answered_before_the_body_comes() {
    let mut octets = KEEPALIVE.to_vec();
    octets[16..19].copy_from_slice(&[0x10, 0x01, 1]);
    assert_answer("127.0.26.1", "127.0.26.2", &octets, (1, 2), &[0x10, 0x01]).await;
}

#[tokio::test]
async fn open_and_keepalive_in_one_segment_and_split_octet_by_octet_establish_alike() {
    let mut octets = open_octets(&[]);
    octets.extend_from_slice(&KEEPALIVE);
    for pieces in [octets.len(), 1] {
        let mut speaker = speaker("127.0.27.1", "127.0.27.2").await;
        let mut script = Script::call("127.0.27.2", speaker.address().await).await;
        script.stream.set_nodelay(true).expect("set");
        for piece in octets.chunks(pieces) {
            script.say(piece).await;
        }
        speaker.wait_for_state(State::Established).await;
    }
}

#[tokio::test]
async fn keepalives_come_at_a_third_of_the_hold_time() {
    let speaker = speaker("127.0.28.1", "127.0.28.2").await;
    let mut script = Script::call("127.0.28.2", speaker.address().await).await;
    let mut brief = open();
    brief.hold_time = HoldTime::from_secs(3).expect("valid");
    script.establish(brief).await;
    let begin = std::time::Instant::now();
    let mut keepalives = 0;
    while keepalives < 2 {
        script.say(&KEEPALIVE).await;
        if script.hear().await.expect("the session lives") == Message::Keepalive {
            keepalives += 1;
        }
    }
    let passed = begin.elapsed();
    assert!(passed >= Duration::from_millis(1500), "{passed:?}");
    assert!(passed <= Duration::from_millis(2900), "{passed:?}");
}

#[tokio::test]
async fn a_silent_peer_is_told_4_0_at_the_hold_time() {
    let speaker = speaker("127.0.29.1", "127.0.29.2").await;
    let mut script = Script::call("127.0.29.2", speaker.address().await).await;
    let mut brief = open();
    brief.hold_time = HoldTime::from_secs(3).expect("valid");
    script.establish(brief).await;
    let begin = std::time::Instant::now();
    let notification = script.hear_notification().await;
    assert_eq!((notification.code.code, notification.code.subcode), (4, 0));
    assert!(
        begin.elapsed() >= Duration::from_millis(2900),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test]
async fn a_stranger_is_reset_at_once() {
    let speaker = speaker("127.0.30.1", "127.0.30.2").await;
    let mut script = Script::call("127.0.30.3", speaker.address().await).await;
    assert_eq!(script.hear().await, None);
}

#[tokio::test]
async fn a_second_connection_beside_a_session_is_answered_6_7_and_the_session_lives() {
    let mut speaker = speaker("127.0.31.1", "127.0.31.2").await;
    let mut script = Script::call("127.0.31.2", speaker.address().await).await;
    script.establish(open()).await;
    speaker.wait_for_state(State::Established).await;
    let mut second = Script::call("127.0.31.2", speaker.address().await).await;
    let notification = second.hear_notification().await;
    assert_eq!((notification.code.code, notification.code.subcode), (6, 7));
    let snapshot = speaker.handle.snapshot().await.expect("it runs");
    assert_eq!(snapshot.peers[0].state, State::Established);
}

#[tokio::test]
async fn a_ceasing_speaker_says_why_and_the_peer_reads_it() {
    let speaker = speaker("127.0.32.1", "127.0.32.2").await;
    let mut script = Script::call("127.0.32.2", speaker.address().await).await;
    script.establish(open()).await;
    // Octets nobody reads any more must not make the kernel reset the connection before the peer read ours.
    for _ in 0..100 {
        script.say(&KEEPALIVE).await;
    }
    let text = Some("good night".to_owned());
    let ceasing = speaker.handle.shutdown(SpeakerShutdown::Cease { text });
    let (notification, ended) = tokio::join!(script.hear_notification(), async {
        ceasing.await.expect("it ran");
    });
    assert_eq!((notification.code.code, notification.code.subcode), (6, 2));
    assert_eq!(notification.text().as_deref(), Some("good night"));
    let () = ended;
}

#[tokio::test]
async fn a_speaker_that_keeps_forwarding_goes_without_a_word() {
    let mut speaker = speaker("127.0.33.1", "127.0.33.2").await;
    let mut script = Script::call("127.0.33.2", speaker.address().await).await;
    script.establish(open()).await;
    speaker.wait_for_state(State::Established).await;
    speaker
        .handle
        .shutdown(SpeakerShutdown::KeepForwarding)
        .await
        .expect("it ran");
    while let Some(message) = script.hear().await {
        assert!(!matches!(message, Message::Notification(_)), "{message:?}");
    }
}

#[tokio::test]
async fn neighbours_of_a_range_come_and_go() {
    let mut config = SpeakerConfig::new(Asn(OURS), router_id(1));
    config
        .listen
        .push(SocketAddr::new(address("127.0.34.1"), 0).into());
    config.peers.push(peer(
        "clients",
        Remote::Range(prefix("127.0.34.0/25")),
        THEIRS,
    ));
    let mut speaker = Running::start(config).await;
    let to = speaker.address().await;
    let mut scripts = Vec::new();
    for number in 2..12 {
        let mut script = Script::call(&format!("127.0.34.{number}"), to).await;
        let mut theirs = open();
        theirs.router_id = router_id(number);
        script.establish(theirs).await;
        speaker.wait_for_state(State::Established).await;
        scripts.push(script);
    }
    let established = speaker.handle.snapshot().await.expect("it runs");
    assert_eq!(
        established.peers.iter().filter(|peer| peer.dynamic).count(),
        10
    );
    let mut outside = Script::call("127.0.34.200", to).await;
    assert_eq!(outside.hear().await, None);
    drop(scripts);
    for _ in 0..10 {
        speaker
            .wait_for(|event| match event {
                SpeakerEvent::PeerStateChanged { from, .. } => {
                    (*from == State::Established).then_some(())
                }
                _ => None,
            })
            .await;
    }
}

/// OpenBGPD may say its OPEN twice on one connection; what follows the second one is read like what follows the first.
#[tokio::test]
async fn an_open_said_twice_leads_to_a_session_whose_routes_are_believed() {
    let mut update = vec![0xff; 16];
    update.extend_from_slice(&[0, 48, 2, 0, 0, 0, 20]);
    // ORIGIN, an AS_PATH of four octets a number, NEXT_HOP; 10.65.0.0/26.
    update.extend_from_slice(&[0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0x58]);
    update.extend_from_slice(&[0x40, 3, 4, 192, 0, 2, 1]);
    update.extend_from_slice(&[26, 10, 65, 0, 0]);
    for together in [true, false] {
        let mut speaker = speaker("127.0.35.1", "127.0.35.2").await;
        let mut script = Script::call("127.0.35.2", speaker.address().await).await;
        let twice = open_octets(&[]).repeat(2);
        let rest = [&KEEPALIVE[..], &update].concat();
        if together {
            script.say(&[twice, rest].concat()).await;
        } else {
            script.say(&twice).await;
            Script::expect_open(script.hear().await);
            assert_eq!(script.hear().await, Some(Message::Keepalive));
            script.say(&rest).await;
        }
        speaker.wait_for_state(State::Established).await;
        let hops = speaker.wait_for_route(prefix("10.65.0.0/26"), true).await;
        assert_eq!(hops, [address("192.0.2.1")]);
    }
}

#[tokio::test]
async fn callers_that_are_refused_without_end_are_reset_once_many_of_them_read_why() {
    let mut config = SpeakerConfig::new(Asn(OURS), router_id(1));
    config
        .listen
        .push(SocketAddr::new(address("127.0.29.1"), 0).into());
    let remote = Remote::Address(SocketAddr::new(address("127.0.29.2"), 179));
    config.peers.push(PeerConfig {
        passive: true,
        enabled: false,
        ..peer("closed", remote, THEIRS)
    });
    let speaker = Running::start(config).await;
    let own = speaker.address().await;
    let mut told = Vec::new();
    let calling = async {
        loop {
            let mut caller = Script::call("127.0.29.2", own).await;
            let mut octets = [0; 64];
            match caller.stream.read(&mut octets).await {
                // Kept open: it holds its place.
                Ok(1..) => told.push(caller),
                Ok(0) | Err(_) => break,
            }
        }
    };
    tokio::time::timeout(PATIENCE, calling)
        .await
        .expect("no end of last words");
    assert!(told.len() >= 64, "{} read why", told.len());
}

#[tokio::test]
async fn what_came_in_time_counts_although_the_speaker_comes_late_to_read_it() {
    let mut speaker = speaker("127.0.35.1", "127.0.35.2").await;
    let mut script = Script::call("127.0.35.2", speaker.address().await).await;
    let mut theirs = open();
    theirs.hold_time = HoldTime::from_secs(3).expect("a hold time");
    script.establish(theirs).await;
    speaker.wait_for_state(State::Established).await;
    // The speaker stands still from here on, beyond the hold time, as a paused machine does: it has this thread. Its task is awake
    // and comes first when it goes on.
    let mut asked = std::pin::pin!(speaker.handle.snapshot());
    let asking = std::future::poll_fn(|context| {
        assert!(asked.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    });
    asking.await;
    let stream = script.stream.into_std().expect("a socket");
    let talking = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let mut stream = stream;
        stream.set_nonblocking(false).expect("blocking");
        let pace = Some(Duration::from_millis(500));
        stream.set_read_timeout(pace).expect("a timeout");
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_secs(4) {
            stream.write_all(&KEEPALIVE).expect("written");
            // Says nothing: it stands still.
            while stream.read(&mut [0; 256]).is_ok_and(|length| length > 0) {}
        }
        stream
    });
    let _stream = talking.join().expect("it talks until then");
    asked.await.expect("it runs");
    // By now it has looked at its timers.
    let snapshot = speaker.handle.snapshot().await.expect("it runs");
    let peer = snapshot.peers.first().expect("its peer");
    assert_eq!(
        (peer.state, peer.established_count),
        (State::Established, 1)
    );
}
