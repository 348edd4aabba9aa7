//! A collector that is told what peers are told (RFC 8671), and holds it against what they hold.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::{Buf, BytesMut};

use super::net::{Held, Net, address};
use crate::bmp::{Collector, MonitorId, MonitorOutput};
use crate::codec::{self, AddPathMode, Capability, CodecContext, Message, Nlri, Open};
use crate::family::FamilySet;
use crate::fsm::{State, add_paths};

const ADJ_RIB_OUT: u8 = 0x10;
const POST_POLICY: u8 = 0x40;
const TWO_OCTET_AS: u8 = 0x20;

/// What it knows of one session.
struct Watched {
    context: CodecContext,
    held: Held,
    ends: usize,
}

/// A collector of node 0.
pub(super) struct Watcher {
    id: MonitorId,
    sessions: BTreeMap<IpAddr, Watched>,
}

impl Watcher {
    pub(super) fn start(net: &mut Net) -> Self {
        let mut collector = Collector::new("127.0.0.1:11019".parse().expect("an address"));
        collector.pre_policy = false;
        collector.loc_rib = false;
        collector.adj_rib_out = true;
        collector.statistics = None;
        let now = net.now;
        let id = net
            .speaker(0)
            .start_monitoring(&collector, Duration::ZERO, now);
        Self {
            id,
            sessions: BTreeMap::new(),
        }
    }

    /// Reads one chunk. False where there is none.
    pub(super) fn read_some(&mut self, net: &mut Net) -> bool {
        let now = net.now;
        match net.speaker(0).poll_monitor(self.id, now) {
            MonitorOutput::Octets(octets) => {
                let mut octets = BytesMut::from(&octets[..]);
                while !octets.is_empty() {
                    let length = u32::from_be_bytes([octets[1], octets[2], octets[3], octets[4]]);
                    self.take(octets.split_to(length as usize));
                }
                true
            }
            MonitorOutput::Idle => false,
            MonitorOutput::Overflow => panic!("it is behind"),
        }
    }

    pub(super) fn read(&mut self, net: &mut Net) {
        while self.read_some(net) {}
    }

    fn take(&mut self, mut message: BytesMut) {
        assert_eq!(message[0], 3, "the version");
        let kind = message[5];
        message.advance(6);
        if kind > 3 {
            return;
        }
        let mut header = message.split_to(42);
        let flags = header[1];
        header.advance(10 + 12);
        let address = IpAddr::V4(Ipv4Addr::new(header[0], header[1], header[2], header[3]));
        match kind {
            0 => {
                assert_eq!(flags & !TWO_OCTET_AS, ADJ_RIB_OUT | POST_POLICY);
                let watched = self.sessions.get_mut(&address).expect("Peer Up before it");
                assert_eq!(flags & TWO_OCTET_AS == 0, watched.context.four_octet_as);
                let message = codec::decode(&message, &watched.context).expect("well-formed");
                let Message::Update(update) = &message else {
                    panic!("no UPDATE: {message:?}");
                };
                if update.end_of_rib.is_some() {
                    watched.ends += 1;
                } else {
                    watched.held.take(&message);
                }
            }
            2 => drop(self.sessions.remove(&address)),
            3 => {
                message.advance(20);
                let [sent, received] = [(), ()].map(|()| {
                    let length = u16::from_be_bytes([message[16], message[17]]);
                    let octets = message.split_to(usize::from(length));
                    match codec::decode(&octets, &CodecContext::before_open()) {
                        Ok(Message::Open(open)) => open,
                        other => panic!("no OPEN: {other:?}"),
                    }
                });
                let watched = Watched {
                    context: context(&sent, &received),
                    held: Held::default(),
                    ends: 0,
                };
                self.sessions.insert(address, watched);
            }
            other => panic!("type {other}"),
        }
    }

    /// How many tables of a client were told to their end.
    pub(super) fn ends(&self, client: usize) -> usize {
        self.session(client).map_or(0, |watched| watched.ends)
    }

    pub(super) fn paths(&self, client: usize) -> Option<Vec<Nlri>> {
        let watched = self.session(client)?;
        Some(watched.held.paths.keys().copied().collect())
    }

    fn session(&self, client: usize) -> Option<&Watched> {
        let number = u8::try_from(client + 1).expect("few clients");
        self.sessions.get(&address(number))
    }

    /// Whether it knows of every client that reads what that client holds.
    pub(super) fn check(&self, net: &Net, clients: usize) -> Result<(), String> {
        for client in 1..=clients {
            let up = net.peer(0, &format!("n{}", client + 1)).state == State::Established
                && net.peer(client, "n1").state == State::Established;
            if !up || net.nodes[client].slow {
                continue;
            }
            let held = net.held(client, 0).expect("a connection");
            let Some(watched) = self.session(client) else {
                return Err(format!("it knows nothing of client {client}"));
            };
            if held.paths != watched.held.paths {
                return Err(format!(
                    "client {client} holds {:#?}\nand is watched as {:#?}",
                    held.paths, watched.held.paths
                ));
            }
        }
        Ok(())
    }
}

/// How to read what is told in a session, by its OPENs.
fn context(sent: &Open, received: &Open) -> CodecContext {
    let both = |which: fn(&Capability) -> bool| {
        sent.capabilities.iter().any(which) && received.capabilities.iter().any(which)
    };
    CodecContext {
        four_octet_as: both(|one| matches!(one, Capability::FourOctetAs(_))),
        families: FamilySet::all(),
        peer_is_external: sent.asn != received.asn,
        extended_message_receive: true,
        extended_next_hop: true,
        add_path_receive: add_paths(sent, AddPathMode::sends)
            & add_paths(received, AddPathMode::receives),
        ..CodecContext::before_open()
    }
}
