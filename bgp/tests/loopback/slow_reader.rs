//! A peer that does not read holds up nobody, and holds the same in the end.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use bytes::BytesMut;
use margay_bgp::codec::{
    Announcement, AsPath, Capability, CodecContext, HoldTime, KEEPALIVE, LocalPref, Message,
    NextHop, Nlri, Open, PathAttributes, Update, decode, framing,
};
use margay_bgp::family::Family;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::*;

const ASN: u32 = 64512;

/// Routes whose attributes are all different and long: together they fit neither the sockets' buffers nor what the speaker
/// keeps under way.
const ROUTES: u32 = 24_000;

/// ASes in each path.
const PATH_LEN: usize = 120;

/// What a peer was told: the first AS of the path by prefix.
type Held = BTreeMap<Prefix, u32>;

struct Client {
    stream: TcpStream,
    buffer: BytesMut,
    held: Held,
    context: CodecContext,
}

impl Client {
    /// An Established session of a route reflector's client.
    async fn establish(from: &str, to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // Little room, so that who does not read is soon noticed.
        socket
            .set_recv_buffer_size(16 * 1024)
            .expect("a buffer's size");
        socket
            .bind(SocketAddr::new(address(from), 0))
            .expect("a loopback address");
        let stream = socket.connect(to).await.expect("connected");
        let mut client = Self {
            stream,
            buffer: BytesMut::new(),
            held: Held::new(),
            context: CodecContext::before_open(),
        };
        let IpAddr::V4(own) = address(from) else {
            panic!("an IPv4 address");
        };
        let open = Open {
            asn: Asn(ASN),
            hold_time: HoldTime::default(),
            router_id: router_id(own.to_bits()),
            contradicting_as: None,
            capabilities: vec![
                Capability::Multiprotocol(Family::IPV4_UNICAST),
                Capability::FourOctetAs(Asn(ASN)),
            ],
        };
        client.say(&Message::Open(open)).await;
        client.stream.write_all(&KEEPALIVE).await.expect("written");
        let first = client.hear().await;
        assert!(matches!(first, Message::Open(_)), "{first:?}");
        assert_eq!(client.hear().await, Message::Keepalive);
        client.context.four_octet_as = true;
        client.context.families = std::iter::once(Family::IPV4_UNICAST).collect();
        client
    }

    async fn say(&mut self, message: &Message) {
        let octets = message.to_bytes(&self.context).expect("encodes");
        self.stream.write_all(&octets).await.expect("written");
    }

    async fn hear(&mut self) -> Message {
        let hearing = async {
            loop {
                if let Some(frame) = framing::split(&mut self.buffer, 4096).expect("framed") {
                    return decode(&frame.octets, &self.context).expect("decodes");
                }
                let read = self.stream.read_buf(&mut self.buffer).await;
                assert!(read.expect("the session stands") > 0, "the speaker hung up");
            }
        };
        tokio::time::timeout(PATIENCE, hearing)
            .await
            .expect("more in time")
    }

    /// Reads on until `done` says so.
    async fn hear_until(&mut self, done: impl Fn(&Held) -> bool) {
        while !done(&self.held) {
            let Message::Update(update) = self.hear().await else {
                continue;
            };
            for nlri in &update.withdrawn {
                self.held.remove(&nlri.prefix);
            }
            let first = update
                .attributes
                .as_ref()
                .and_then(|attributes| attributes.as_path.first())
                .map_or(0, |asn| asn.0);
            for nlri in update.announced.iter().flat_map(|part| &part.nlri) {
                self.held.insert(nlri.prefix, first);
            }
        }
    }

    async fn announce(&mut self, number: u32, first: u32) {
        let path = std::iter::once(Asn(first)).chain((1..).map(Asn).take(PATH_LEN));
        let attributes = PathAttributes {
            as_path: AsPath::from_sequence(path),
            local_pref: Some(LocalPref(100)),
            ..PathAttributes::default()
        };
        let update = Update {
            attributes: Some(Arc::new(attributes)),
            announced: vec![Announcement {
                next_hop: NextHop::V4([127, 0, 31, 1].into()),
                nlri: vec![Nlri {
                    prefix: route(number),
                    path_id: None,
                }],
            }]
            .into(),
            ..Update::default()
        };
        self.say(&Message::Update(update)).await;
    }

    async fn withdraw(&mut self, number: u32) {
        let update = Update {
            withdrawn: vec![Nlri {
                prefix: route(number),
                path_id: None,
            }],
            ..Update::default()
        };
        self.say(&Message::Update(update)).await;
    }
}

fn route(number: u32) -> Prefix {
    Prefix::host(IpAddr::V4(Ipv4Addr::from(0x1400_0000 + number)))
}

#[tokio::test]
async fn a_peer_that_does_not_read_holds_up_nobody_and_holds_the_same_in_the_end() {
    let mut config = SpeakerConfig::new(Asn(ASN), router_id(1));
    config
        .listen
        .push(SocketAddr::new(address("127.0.31.254"), 0).into());
    config.peers.push(PeerConfig {
        passive: true,
        route_reflector_client: true,
        graceful_restart: None,
        ..peer(
            "clients",
            Remote::Range("127.0.31.0/24".parse().expect("a range")),
            ASN,
        )
    });
    let mut running = Running::start(config).await;
    // Nobody takes what the speaker tells of routes.
    running.events.close();
    let to = running.address().await;
    let mut talker = Client::establish("127.0.31.1", to).await;
    let mut reader = Client::establish("127.0.31.2", to).await;
    let mut sleeper = Client::establish("127.0.31.3", to).await;

    let talking = async {
        for number in 0..ROUTES {
            talker.announce(number, 70_000 + number).await;
        }
    };
    let reading = reader.hear_until(|held| held.len() == ROUTES as usize);
    tokio::join!(talking, reading);
    let snapshot = running.handle.snapshot().await.expect("it runs");
    let behind = |address: &str| {
        let own: IpAddr = address.parse().expect("an address");
        let mut peers = snapshot.peers.iter();
        let peer = peers.find(|peer| peer.address.ip() == own);
        let families = &peer.expect("a session").families;
        families.iter().map(|family| family.lag).sum::<usize>()
    };
    assert_eq!(behind("127.0.31.2"), 0);
    assert!(
        behind("127.0.31.3") > 0,
        "the sleeper has all: nothing was tested"
    );

    // What changes meanwhile the sleeper is told once, and what went it need not hear of.
    for number in 0..ROUTES / 2 {
        talker.withdraw(number).await;
    }
    talker.announce(ROUTES - 1, 64_999).await;
    let changed = |held: &Held| held.get(&route(ROUTES - 1)) == Some(&64_999);
    reader.hear_until(changed).await;
    assert_eq!(reader.held.len(), (ROUTES - ROUTES / 2) as usize);
    sleeper.hear_until(changed).await;
    assert!(sleeper.held == reader.held);
}
