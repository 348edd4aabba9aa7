//! Connections that come and go: who is dialled, whose calls are taken, how their segments are signed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Driver, now};
use crate::fsm::Direction;
use crate::prefix::Prefix;
use crate::speaker::config::PeerConfig;
use crate::speaker::{Accepted, PeerId};
use crate::transport::connection::{self, ConnectionId, Reports, Shared};
use crate::transport::listener::Arrival;
use crate::transport::sockopt::{self, Signature};

/// Refused connections are logged at most so often.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Refused connections that may read why at once; each keeps a descriptor for a few seconds.
pub(in crate::transport) const FAREWELLS: usize = 64;

/// A connection that counts.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) shared: Arc<Shared>,
    /// The other end, once there is one.
    pub(super) remote: Option<SocketAddr>,
    /// How its segments are signed.
    pub(super) signature: Signature,
    /// For whom the keys were set on the listener that it was accepted by.
    pub(super) keyed: Option<Prefix>,
    /// While we dial a peer whose segments the kernel may drop without a word: what it had dropped before.
    pub(super) begun: Option<Drops>,
}

/// Counters of dropped segments, by name.
pub(super) type Drops = Vec<(String, u64)>;

impl Driver {
    pub(super) fn accept(&mut self, arrival: Arrival) {
        let Arrival {
            stream,
            local,
            remote,
            listener,
        } = arrival;
        let connected = |peer: &PeerConfig| {
            self.speaker.peer_named(&peer.name).is_some_and(|id| {
                Direction::ALL.into_iter().any(|direction| {
                    let live = self.connections.get(&(id, direction));
                    live.is_some_and(|live| live.remote.is_some())
                })
            })
        };
        let netns = listener.binding.netns.as_ref();
        if self.links.called(&self.written, netns, remote, connected) {
            drop(self.configure());
        }
        let accepted = self
            .speaker
            .accept_on(remote, local, &listener.binding, now());
        // An earlier connection of the same peer may have to go first.
        self.carry_out();
        let (peer, direction) = match accepted {
            Accepted::Peer(peer, direction) => (peer, direction),
            Accepted::Refused(last_words) => return self.refuse(stream, remote, last_words),
        };
        let Some(config) = self.speaker.peer_config(peer).cloned() else {
            return;
        };
        let signature = Signature::of(&config);
        let prepared = self
            .listeners
            .protects(&listener, &config, remote)
            .and_then(|keyed| {
                sockopt::adopt(&stream, Prefix::host(remote.ip()), &signature)?;
                sockopt::prepare(&stream, &config, remote.is_ipv6())?;
                Ok(keyed)
            });
        let keyed = match prepared {
            Ok(keyed) => keyed,
            Err(error) => {
                warn!(peer = %config.name, %error, "cannot take a connection");
                self.speaker.note_trouble(
                    peer,
                    &format!("cannot take a connection of {}: {error}", config.name),
                );
                self.speaker.handle_closed(peer, direction, now());
                self.carry_out();
                return;
            }
        };
        let shared = self.insert(peer, direction, Some(remote), signature);
        if let Some(live) = self.connections.get_mut(&(peer, direction)) {
            live.keyed = keyed;
        }
        self.tasks
            .spawn(connection::accepted(stream, shared, self.to_us()));
        self.speaker
            .handle_connected(peer, direction, local, remote, now());
        self.carry_out();
    }

    /// Turns a connection away: with a NOTIFICATION where the speaker knows who it is and not too many are read that already,
    /// else with a reset, which costs the other side less than a timeout.
    fn refuse(&mut self, stream: TcpStream, remote: SocketAddr, last_words: Option<Bytes>) {
        self.refused += 1;
        let at = Instant::now();
        if self
            .refusals_logged
            .is_none_or(|last| at - last >= REFUSAL_LOG_INTERVAL)
        {
            info!(%remote, refused = self.refused, "refused a connection");
            self.refusals_logged = Some(at);
        }
        // Whoever calls in a loop must not have our descriptors.
        let room = Arc::clone(&self.farewells).try_acquire_owned().ok();
        match last_words.zip(room) {
            Some((last_words, room)) => {
                self.tasks.spawn(async move {
                    connection::refused(stream, last_words).await;
                    drop(room);
                });
            }
            None => drop(socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))),
        }
    }

    pub(super) fn dial(&mut self, peer: PeerId, remote: SocketAddr, config: Arc<PeerConfig>) {
        let shared = self.insert(peer, Direction::Outgoing, None, Signature::of(&config));
        if (config.password.is_some() || config.ttl_security.is_some() || !config.tcp_ao.is_empty())
            && let Some(live) = self.connections.get_mut(&(peer, Direction::Outgoing))
        {
            live.begun = Some(sockopt::drop_counters(config.binding.netns.as_deref()));
        }
        let dial = async move {
            let socket = sockopt::dialler(&config, remote)?;
            TcpSocket::from_std_stream(socket.into())
                .connect(remote)
                .await
        };
        self.tasks
            .spawn(connection::dialled(dial, shared, self.to_us()));
    }

    /// Notes why dialling failed; nothing as error means that nobody answered in time. A wrong key or TTL looks like silence, and
    /// only the kernel's counters tell it from a peer that is not there.
    pub(super) fn note_failure(
        &mut self,
        peer: PeerId,
        begun: Option<Drops>,
        error: Option<&io::Error>,
    ) {
        let Some(config) = self.speaker.peer_config(peer) else {
            return;
        };
        let said = error.map_or_else(|| "timed out".to_owned(), ToString::to_string);
        let silent = error.is_none_or(|error| error.kind() == io::ErrorKind::TimedOut);
        let mut text = format!("connecting to {} failed: {said}", config.name);
        if let Some(begun) = begun.filter(|_| silent) {
            let grown: Vec<String> = sockopt::drop_counters(config.binding.netns.as_deref())
                .into_iter()
                .filter_map(|(name, now)| {
                    let before = begun.iter().find(|(known, _)| *known == name)?.1;
                    (now > before).then(|| format!("{name} +{}", now - before))
                })
                .collect();
            text += &if grown.is_empty() {
                "; segments with another key or TTL are dropped without a word, here or there: compare both ends".to_owned()
            } else {
                format!(
                    "; the kernel dropped segments meanwhile: {}",
                    grown.join(", ")
                )
            };
        }
        self.speaker.note_trouble(peer, &text);
    }

    /// Makes room for a connection; an earlier one of the same peer and direction ends.
    fn insert(
        &mut self,
        peer: PeerId,
        direction: Direction,
        remote: Option<SocketAddr>,
        signature: Signature,
    ) -> Arc<Shared> {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let shared = Shared::new(peer, direction, id, Arc::clone(&self.attention));
        let live = Live {
            shared: Arc::clone(&shared),
            remote,
            signature,
            keyed: None,
            begun: None,
        };
        if let Some(earlier) = self.connections.insert((peer, direction), live) {
            earlier.shared.close(false);
        }
        shared
    }

    /// Gives the sockets of a neighbour the keys that hold now.
    pub(super) fn sign(&mut self, peer: PeerId, config: &PeerConfig) {
        let to = Signature::of(config);
        for direction in Direction::ALL {
            if let Some(live) = self.connections.get_mut(&(peer, direction))
                && let Some(remote) = live.remote
                && live.signature != to
            {
                let from = std::mem::replace(&mut live.signature, to.clone());
                let peers = to.set_for(remote.ip(), live.keyed);
                live.shared.sign(peers, from, to.clone());
            }
        }
    }

    /// Has the kernel wait for a neighbour as long as it is to be waited for now.
    pub(super) fn set_user_timeout(&self, peer: PeerId, config: &PeerConfig) {
        let timeout = sockopt::user_timeout(config);
        for direction in Direction::ALL {
            if let Some(live) = self.connections.get(&(peer, direction)) {
                live.shared.set_user_timeout(timeout);
            }
        }
    }

    fn to_us(&self) -> Reports {
        Reports {
            queue: self.reports.clone(),
            desk: Arc::clone(&self.desk),
        }
    }
}
