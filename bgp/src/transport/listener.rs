//! Accepting connections: one task and one set of keys per address, device and namespace.

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::sockopt::{self, Role, Signature};
use crate::prefix::Prefix;
use crate::speaker::config::{Binding, Listen, PeerConfig, Remote, SpeakerConfig};

/// Pause after accepting failed for want of descriptors or memory; at once it would fail again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// That it failed is logged at most so often.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How often an address that could not be listened on, or keys that found no room, are tried again.
pub(super) const RETRY: Duration = Duration::from_secs(5);

/// A connection somebody opened to us.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) stream: TcpStream,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// On which listener.
    pub(super) listener: Listen,
}

/// Who must sign, and with what.
type Keys = BTreeMap<Prefix, Signature>;

/// See [`Listeners::hops`].
type Hops = BTreeMap<(Binding, bool), Option<u8>>;

/// A listening socket with its task. Dropping it ends the listening at once.
#[derive(Debug)]
struct Listener {
    /// Another handle on the socket of the task, for its keys.
    socket: Socket,
    /// The address it got, which differs from the one asked for where that had port 0.
    local: SocketAddr,
    netns: Option<Arc<Path>>,
    keys: Keys,
    /// What the kernel said to the keys it did not take.
    refused: Option<Box<str>>,
    /// It had no room for them, and may have some later.
    full: bool,
    stop: CancellationToken,
}

/// Every listening socket, by the address asked for.
#[derive(Debug)]
pub(super) struct Listeners {
    open: BTreeMap<Listen, Listener>,
    /// What is configured, open or not.
    wanted: Vec<Listen>,
    /// Those that must sign.
    signing: Vec<PeerConfig>,
    /// How far callers may be, by binding and whether they come over IPv6, where every peer says so.
    hops: Hops,
    /// When the addresses that are missing are tried again.
    retry_at: Option<Instant>,
    accepted: mpsc::Sender<Arrival>,
    tasks: TaskTracker,
}

impl Listeners {
    pub(super) const fn new(accepted: mpsc::Sender<Arrival>, tasks: TaskTracker) -> Self {
        Self {
            open: BTreeMap::new(),
            wanted: Vec::new(),
            signing: Vec::new(),
            hops: Hops::new(),
            retry_at: None,
            accepted,
            tasks,
        }
    }

    /// Makes addresses and keys those of `config`; what is there already is not touched.
    ///
    /// # Errors
    /// The first address that cannot be listened on; the others are open all the same, and it is tried again ([`Self::retry`]).
    pub(super) fn configure(&mut self, config: &SpeakerConfig) -> Result<(), (Listen, io::Error)> {
        self.signing = config
            .peers
            .iter()
            .filter(|peer| Signature::of(peer) != Signature::None)
            .cloned()
            .collect();
        self.wanted.clone_from(&config.listen);
        self.open
            .retain(|address, _| config.listen.contains(address));
        for (listen, listener) in &mut self.open {
            listener.sign(&keys(listen, &self.signing));
        }
        self.hops = hops(&config.peers);
        self.open_missing()
    }

    fn open_missing(&mut self) -> Result<(), (Listen, io::Error)> {
        let mut first_error = Ok(());
        for listen in &self.wanted {
            if self.open.contains_key(listen) {
                continue;
            }
            match self.listen(listen, &keys(listen, &self.signing)) {
                Ok(listener) => {
                    self.open.insert(listen.clone(), listener);
                }
                Err(error) => first_error = first_error.and_then(|()| Err((listen.clone(), error))),
            }
        }
        for (listen, listener) in &self.open {
            listener.narrow(
                self.hops
                    .get(&(listen.binding.clone(), listen.address.is_ipv6())),
            );
        }
        let incomplete = first_error.is_err() || self.open.values().any(|listener| listener.full);
        self.retry_at = incomplete.then(|| Instant::now() + RETRY);
        first_error
    }

    /// When [`Self::retry`] has something to do.
    pub(super) const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Tries the addresses again that could not be listened on, and the keys that found no room, if it is time.
    pub(super) fn retry(&mut self) {
        if self.retry_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        for (listen, listener) in self.open.iter_mut().filter(|(_, listener)| listener.full) {
            listener.sign(&keys(listen, &self.signing));
        }
        let deaf = self.open.len() < self.wanted.len();
        if self.open_missing().is_ok() && deaf {
            info!("every address is listened on now");
        }
    }

    /// Whether there is any listener, or none is wanted.
    pub(super) fn any(&self) -> bool {
        !self.open.is_empty() || self.wanted.is_empty()
    }

    fn listen(&self, listen: &Listen, keys: &Keys) -> io::Result<Listener> {
        let socket = sockopt::listener(listen)?;
        let stop = CancellationToken::new();
        let mut listener = Listener {
            local: socket
                .local_addr()?
                .as_socket()
                .ok_or_else(|| io::Error::other("a TCP socket without an address"))?,
            socket: socket.try_clone()?,
            netns: listen.binding.netns.clone(),
            keys: Keys::new(),
            refused: None,
            full: false,
            stop: stop.clone(),
        };
        // Keys come before the first SYN.
        listener.sign(keys);
        socket.listen(sockopt::BACKLOG)?;
        let accepting = accept(
            TcpListener::from_std(socket.into())?,
            listen.clone(),
            self.accepted.clone(),
        );
        self.tasks
            .spawn(async move { stop.run_until_cancelled(accepting).await });
        Ok(listener)
    }

    /// Stops listening.
    pub(super) fn close(&mut self) {
        self.open.clear();
        self.retry_at = None;
    }

    /// The addresses listened on, with the ports the kernel chose.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.open.values().map(|listener| listener.local).collect()
    }

    /// Whether a connection of `peer` that came in on `listener` is as protected as it is configured to be: where setting its key
    /// failed, there is no session rather than an open one. Says for whom the keys that it inherited were set.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) fn protects(
        &self,
        listener: &Listen,
        peer: &PeerConfig,
        remote: SocketAddr,
    ) -> io::Result<Option<Prefix>> {
        let signature = Signature::of(peer);
        if signature == Signature::None {
            return Ok(None);
        }
        let open = self.open.get(listener);
        let in_force = open.and_then(|listener| {
            listener
                .keys
                .iter()
                .filter(|(prefix, _)| prefix.contains_addr(remote.ip()))
                .max_by_key(|(prefix, _)| prefix.len())
        });
        if let Some((prefix, _)) = in_force.filter(|(_, key)| **key == signature) {
            return Ok(Some(*prefix));
        }
        let refused = open
            .and_then(|listener| listener.refused.as_deref())
            .unwrap_or("its keys are not in force on the listener");
        Err(io::Error::other(refused.to_owned()))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
        // The task closes its handle some time later. Until then the socket would keep the port from another address that
        // includes it, or is part of it, and is listened on instead.
        // One that never got to listen says that it is not connected.
        drop(self.socket.shutdown(Shutdown::Both));
    }
}

impl Listener {
    /// Brings the socket's keys to `wanted`, as far as they are of its family.
    fn sign(&mut self, wanted: &Keys) {
        let ours = |prefix: &Prefix| prefix.addr().is_ipv4() == self.local.is_ipv4();
        let wanted: Keys = wanted
            .iter()
            .filter(|(prefix, _)| ours(prefix))
            .map(|(prefix, signature)| (*prefix, signature.clone()))
            .collect();
        let gone = self
            .keys
            .keys()
            .filter(|prefix| !wanted.contains_key(prefix));
        let gone: Vec<(Prefix, Signature)> =
            gone.map(|prefix| (*prefix, Signature::None)).collect();
        let count = |keys: &Keys| keys.values().map(Signature::count).sum::<usize>();
        let all = count(&wanted);
        let mut refused = None;
        self.full = false;
        for (prefix, signature) in gone.into_iter().chain(wanted) {
            if let Err(error) = self.change(prefix, signature) {
                self.full |= error.raw_os_error() == Some(libc::ENOMEM);
                refused.get_or_insert((prefix, error));
            }
        }
        let text = refused.map(|(prefix, error)| {
            if self.full {
                let room = sockopt::option_memory(self.netns.as_deref());
                let room = room.map_or_else(|| "it".to_owned(), |room| format!("{room}"));
                format!(
                    "the kernel has room for {} of {all} keys on one socket: net.core.optmem_max, the octets of a socket's \
                     options, bounds them; {} instead of {room} are enough",
                    count(&self.keys),
                    sockopt::option_memory_of(all),
                )
            } else {
                format!("the key of {prefix} is not taken: {error}")
            }
        });
        let text = text.map(String::into_boxed_str);
        if text != self.refused {
            match &text {
                Some(reason) => warn!(
                    address = %self.local, %reason,
                    "cannot set every peer's keys: no session with the others"
                ),
                None => info!(address = %self.local, "the keys of every peer are set now"),
            }
            self.refused = text;
        }
    }

    /// Drops what comes from farther away than any peer may be, before there is a connection. An accepted one gets the limit of
    /// its own peer, but what it was sent until then has been taken in.
    fn narrow(&self, hops: Option<&Option<u8>>) {
        let ttl = hops.copied().flatten().map_or(0, sockopt::minimum_ttl);
        if let Err(error) = sockopt::set_minimum_ttl(&self.socket, self.local.is_ipv6(), ttl) {
            warn!(address = %self.local, %error, "cannot set the least TTL of callers");
        }
    }

    fn change(&mut self, prefix: Prefix, to: Signature) -> io::Result<()> {
        let from = self.keys.remove(&prefix).unwrap_or_default();
        if from != to
            && let Err(error) = sockopt::sign(&self.socket, prefix, &from, &to, Role::Listener)
        {
            if from == Signature::None {
                // Of several keys the first ones may be set: they would be in the way of the next attempt.
                drop(sockopt::sign(
                    &self.socket,
                    prefix,
                    &to,
                    &from,
                    Role::Listener,
                ));
            }
            return Err(error);
        }
        if to != Signature::None {
            self.keys.insert(prefix, to);
        }
        Ok(())
    }
}

/// The most hops any peer may be away, nothing where one of them may be anywhere.
fn hops(peers: &[PeerConfig]) -> Hops {
    let mut hops = Hops::new();
    for peer in peers {
        let ipv6 = match peer.remote {
            Remote::Address(address) => address.is_ipv6(),
            Remote::Range(prefix) => prefix.addr().is_ipv6(),
            Remote::Unnumbered(_) => true,
        };
        hops.entry((peer.binding.clone(), ipv6))
            .and_modify(|most: &mut Option<u8>| {
                *most = most
                    .zip(peer.ttl_security)
                    .map(|(one, other)| one.max(other));
            })
            .or_insert(peer.ttl_security);
    }
    hops
}

/// The keys of the peers that a listener hears. Where two share callers the configuration says the same of both
/// ([`SpeakerConfig::validate`]); neighbours on links whose addresses turned out to be one are taken with the later one's key.
fn keys(listen: &Listen, signing: &[PeerConfig]) -> Keys {
    let mut keys = Keys::new();
    for peer in signing.iter().filter(|peer| listen.hears(peer)) {
        let prefix = match peer.remote {
            Remote::Address(address) => Prefix::host(address.ip()),
            Remote::Range(prefix) => prefix,
            Remote::Unnumbered(_) => continue,
        };
        keys.insert(prefix, Signature::of(peer));
    }
    keys
}

/// Accepts until cancelled. Cancel-safe: a connection is either in the channel or still the kernel's or dropped with the task.
async fn accept(listener: TcpListener, listen: Listen, accepted: mpsc::Sender<Arrival>) {
    let mut logged: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let Ok(local) = stream.local_addr() else {
                    continue;
                };
                let connection = Arrival {
                    stream,
                    local,
                    remote,
                    listener: listen.clone(),
                };
                if accepted.send(connection).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // A connection that was reset before it was accepted costs nothing; want of descriptors passes.
                if logged.is_none_or(|at| at.elapsed() >= ACCEPT_LOG_INTERVAL) {
                    logged = Some(Instant::now());
                    warn!(%listen, %error, "cannot accept, and tries again and again");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asn::Asn;
    use crate::router_id::RouterId;
    use crate::speaker::config::Secret;

    #[tokio::test]
    async fn an_address_in_use_keeps_no_other_closed_and_is_opened_when_it_is_free() {
        let blocker = std::net::TcpListener::bind("127.0.23.1:0").expect("a port");
        let taken = blocker.local_addr().expect("bound");
        let free: SocketAddr = "127.0.23.2:0".parse().expect("an address");
        let (accepted, _arrivals) = mpsc::channel(1);
        let mut listeners = Listeners::new(accepted, TaskTracker::new());
        let id = RouterId::new(1).expect("not zero");
        let mut config = SpeakerConfig::new(Asn(64512), id);
        config.listen = vec![taken.into()];
        assert!(listeners.configure(&config).is_err() && !listeners.any());
        config.listen.push(free.into());
        let (refused, _) = listeners.configure(&config).expect_err("it is taken");
        assert_eq!(refused.address, taken);
        assert_eq!(listeners.addresses().len(), 1);
        assert!(listeners.any() && listeners.retry_at().is_some());
        drop(blocker);
        listeners.retry_at = Some(Instant::now());
        listeners.retry();
        assert_eq!(listeners.addresses().len(), 2);
        assert_eq!(listeners.retry_at(), None);
    }

    /// Runs a test on a thread with a network namespace of its own.
    fn in_a_namespace(test: impl Future<Output = ()> + Send + 'static) {
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("a network namespace, which takes root");
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(test);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    #[test]
    fn keys_that_find_no_room_are_told_with_the_setting_that_bounds_them_and_set_when_it_is_raised()
    {
        const OPTMEM: &str = "/proc/sys/net/core/optmem_max";
        in_a_namespace(async {
            let policy = Arc::new(crate::policy::Policy::accept_all());
            let peers = (1..=600_u32).map(|number| {
                let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
                let remote = Remote::Address((address, 179).into());
                let name = address.to_string();
                let mut peer =
                    PeerConfig::new(name, remote, Asn(1), policy.clone(), policy.clone());
                peer.password = Some(Secret::new("of the mesh").expect("a usable key"));
                peer
            });
            let mut config = SpeakerConfig::new(Asn(1), RouterId::new(1).expect("not zero"));
            let listen: SocketAddr = "0.0.0.0:0".parse().expect("an address");
            config.listen = vec![listen.into()];
            config.peers = peers.collect();
            // What kernels before 6.8 begin with.
            std::fs::write(OPTMEM, "20480").expect("a kernel that has it for each namespace");
            let (accepted, _arrivals) = mpsc::channel(1);
            let mut listeners = Listeners::new(accepted, TaskTracker::new());
            listeners.configure(&config).expect("the address is free");
            let listener = config.listen[0].clone();
            let protected = |listeners: &Listeners| {
                let peer = config.peers.iter().filter(|peer| {
                    let Remote::Address(remote) = peer.remote else {
                        return false;
                    };
                    listeners.protects(&listener, peer, remote).is_ok()
                });
                peer.count()
            };
            let fitted = protected(&listeners);
            assert!((100..600).contains(&fitted), "{fitted}");
            let last = config.peers.last().expect("many");
            let remote = "10.0.2.88:179".parse().expect("an address");
            let refused = listeners.protects(&listener, last, remote);
            let needed = sockopt::option_memory_of(600);
            assert_eq!(
                refused.expect_err("there is no room").to_string(),
                format!(
                    "the kernel has room for {fitted} of 600 keys on one socket: net.core.optmem_max, the octets of a socket's \
                     options, bounds them; {needed} instead of 20480 are enough"
                )
            );
            assert!(listeners.retry_at().is_some());
            std::fs::write(OPTMEM, needed.to_string()).expect("as above");
            listeners.retry_at = Some(Instant::now());
            listeners.retry();
            assert_eq!(protected(&listeners), 600);
            assert_eq!(listeners.retry_at(), None);
        });
    }

    #[test]
    fn a_listener_hears_no_farther_than_its_farthest_peer_and_everywhere_with_one_that_does_not_say()
     {
        let policy = Arc::new(crate::policy::Policy::accept_all());
        let peer = |address: &str, hops| {
            let remote = Remote::Address(address.parse().expect("an address"));
            let mut peer = PeerConfig::new(address, remote, Asn(1), policy.clone(), policy.clone());
            peer.ttl_security = hops;
            peer
        };
        let near = peer("10.0.0.1:179", Some(1));
        let far = peer("10.0.0.2:179", Some(3));
        let anywhere = peer("10.0.0.3:179", None);
        let over_ipv6 = peer("[fd00::1]:179", None);
        let of = |peers: &[PeerConfig]| hops(peers)[&(Binding::default(), false)];
        assert_eq!(of(&[near.clone(), over_ipv6]), Some(1));
        assert_eq!(of(&[near.clone(), far.clone()]), Some(3));
        assert_eq!(of(&[near, anywhere, far]), None);
    }

    #[test]
    fn a_listener_has_the_keys_of_those_who_may_call_its_address() {
        let policy = Arc::new(crate::policy::Policy::accept_all());
        let peer = |local: Option<&str>, password: &str| {
            let remote = Remote::Address("10.0.0.9:179".parse().expect("an address"));
            let mut peer =
                PeerConfig::new(password, remote, Asn(1), policy.clone(), policy.clone());
            peer.local_address = local.map(|text| text.parse().expect("an address"));
            peer.password = Some(Secret::new(password).expect("a usable key"));
            peer
        };
        let peers = [peer(Some("10.0.0.1"), "one"), peer(Some("10.0.0.2"), "two")];
        let of = |listen: &str, peers: &[PeerConfig]| {
            let listen: SocketAddr = listen.parse().expect("an address");
            let keys = keys(&listen.into(), peers);
            let mut keys = keys.into_values().map(|signature| match signature {
                Signature::Md5(secret) => secret.expose().to_vec(),
                Signature::None | Signature::Ao(_) => panic!("a password"),
            });
            (keys.next(), keys.next())
        };
        assert_eq!(of("10.0.0.1:179", &peers), (Some(b"one".to_vec()), None));
        assert_eq!(of("10.0.0.2:179", &peers), (Some(b"two".to_vec()), None));
        assert_eq!(of("10.0.0.3:179", &peers), (None, None));
        let anywhere = [peer(None, "any")];
        assert_eq!(of("10.0.0.3:179", &anywhere), (Some(b"any".to_vec()), None));
        assert_eq!(of("[::]:179", &anywhere), (None, None));
    }

    #[tokio::test]
    async fn a_caller_from_a_range_has_the_keys_set_for_the_range() {
        let policy = Arc::new(crate::policy::Policy::accept_all());
        let range: Prefix = "127.0.25.0/24".parse().expect("a prefix");
        let remote = Remote::Range(range);
        let mut peer = PeerConfig::new("range", remote, Asn(1), policy.clone(), policy);
        peer.password = Some(Secret::new("sesame").expect("a usable key"));
        let (accepted, _arrivals) = mpsc::channel(1);
        let mut listeners = Listeners::new(accepted, TaskTracker::new());
        let mut config = SpeakerConfig::new(Asn(64512), RouterId::new(1).expect("not zero"));
        let listen: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        config.listen = vec![listen.into()];
        config.peers = vec![peer.clone()];
        assert!(listeners.configure(&config).is_ok());
        let caller = "127.0.25.7:40000".parse().expect("an address");
        let keyed = listeners.protects(&listen.into(), &peer, caller);
        assert_eq!(keyed.expect("its key is in force"), Some(range));
        peer.password = Some(Secret::new("other").expect("a usable key"));
        assert!(listeners.protects(&listen.into(), &peer, caller).is_err());
        peer.password = None;
        let keyed = listeners.protects(&listen.into(), &peer, caller);
        assert_eq!(keyed.expect("nothing to protect"), None);
    }

    #[tokio::test]
    async fn an_address_this_host_does_not_have_yet_can_be_listened_on() {
        for address in ["192.0.2.1:0", "[2001:db8::1]:0"] {
            let address: SocketAddr = address.parse().expect("an address");
            assert!(sockopt::listener(&address.into()).is_ok(), "{address}");
        }
    }
}
