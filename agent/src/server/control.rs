//! `<run-dir>/control.sock`: questions and commands of the command line, one JSON object a line, root only.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use margay_bgp::prefix::Prefix;
use margay_bgp::speaker::Clear;
use margay_bgp::speaker::snapshot::{Matching, RouteQuery};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::Failures;
use super::answer::{self, Done, Finding, Reply, Request};
use super::{events, explain, shown};
use crate::datastore::Store;
use crate::desired::peers::Session;
use crate::health::Health;
use crate::ipam::check::{Uses, check};
use crate::kernel::netlink::Netlink;
use crate::model::{ClusterState, Encapsulation, EncapsulationMode};
use crate::reconcile::Dataplane;
use crate::routing::{NotRunning, Routing};
use crate::wiring::addresses_in_use;

/// Longest request: an address, a prefix or a message for a peer.
const MAX_REQUEST: u64 = 16 * 1024;
/// Connections at once; more wait. Those that follow events have places of their own: they stay.
const CONNECTIONS: usize = 16;
/// Connections at once that follow events; more are told so.
const FOLLOWERS: usize = 16;
/// How long an idle connection may stay.
const IDLE: Duration = Duration::from_secs(60);
/// How long an answer may wait to be read, such as by a pager that was stopped.
const UNREAD: Duration = Duration::from_secs(60);

/// What answers are made of. `margay speaker` has the speaker only.
#[derive(Debug)]
pub struct Control {
    /// The node, or the router ID of a lone speaker.
    pub name: String,
    /// When the daemon started.
    pub started: Instant,
    /// Loops and latches.
    pub health: Health,
    /// Sessions and routes.
    pub routing: Routing,
    /// Everything an agent has beyond a speaker.
    pub agent: Option<AgentParts>,
}

/// What an agent has beyond a speaker.
#[derive(Debug)]
pub struct AgentParts {
    /// The cluster.
    pub cluster: watch::Receiver<Arc<ClusterState>>,
    /// What was written to the kernel.
    pub dataplane: Dataplane,
    /// The kernel itself, to look.
    pub kernel: Arc<Netlink>,
    /// The records themselves.
    pub store: Store,
}

impl AgentParts {
    /// Compares every IPAM record with the others and with who uses what: pods of this node and tunnels of all.
    async fn ipam_check(&self) -> Reply {
        let cluster = self.cluster.borrow().clone();
        let mut uses = Uses::of(&cluster);
        // Pods that another plugin added, and that run on.
        match addresses_in_use(&self.kernel).await {
            Ok(addresses) => {
                for address in addresses {
                    if !uses.addresses.contains_key(&address) {
                        uses.add(address, "a pod's route on this node".to_owned());
                    }
                }
            }
            Err(error) => return Reply::Error(format!("cannot read the kernel's routes: {error}")),
        }
        match check(&self.store, &cluster, &uses, SystemTime::now()).await {
            Ok(report) => ok(&report),
            Err(error) => Reply::Error(error.to_string()),
        }
    }
}

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve {path}")]
pub struct BindError {
    path: std::path::PathBuf,
    #[source]
    source: io::Error,
}

/// Binds a socket that only root may use. One left behind by an earlier life is replaced.
///
/// # Errors
/// The directory or the socket cannot be made.
pub fn bind(path: &Path) -> Result<UnixListener, BindError> {
    let wrong = |source| BindError {
        path: path.into(),
        source,
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(wrong)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrong(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(wrong)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(wrong)?;
    Ok(listener)
}

/// Serves until `stop` is cancelled.
pub async fn serve(control: Arc<Control>, listener: UnixListener, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let followers = Arc::new(Semaphore::new(FOLLOWERS));
    let mut failures = Failures::default();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            break;
        };
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (control, stop) = (Arc::clone(&control), stop.clone());
                    let followers = Arc::clone(&followers);
                    tasks.spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            result = connection(&control, stream, place, followers) => if let Err(error) = result {
                                tracing::debug!(%error, "control connection");
                            },
                        }
                    });
                }
                Err(error) => failures.pause("commands", &error).await,
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

async fn connection(
    control: &Control,
    stream: UnixStream,
    place: OwnedSemaphorePermit,
    followers: Arc<Semaphore>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let asked = tokio::time::timeout(
            IDLE,
            (&mut read).take(MAX_REQUEST).read_until(b'\n', &mut line),
        )
        .await;
        match asked {
            Err(_) | Ok(Ok(0)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Ok(Ok(_)) => {}
        }
        let reply = match serde_json::from_slice(&line) {
            Ok(Request::Events {
                after,
                peer,
                follow: true,
            }) => match followers.try_acquire_owned() {
                Ok(_following) => {
                    drop(place);
                    return events::follow(control, after, peer, &mut read, &mut write).await;
                }
                Err(_) => {
                    let reason = format!("{FOLLOWERS} commands follow events already");
                    return say(&mut write, &Reply::Error(reason)).await;
                }
            },
            Ok(request) => control.answer(request).await,
            Err(error) => Reply::Error(format!("not a request: {error}")),
        };
        say(&mut write, &reply).await?;
    }
}

/// Writes one line. Whoever does not read it in time is let go: its place is another's.
pub(super) async fn say(write: &mut (impl AsyncWrite + Unpin), reply: &Reply) -> io::Result<()> {
    let mut text = serde_json::to_vec(reply).map_err(io::Error::other)?;
    text.push(b'\n');
    tokio::time::timeout(UNREAD, write.write_all(&text))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Control {
    /// Answers one request.
    pub async fn answer(&self, request: Request) -> Reply {
        match request {
            Request::Status => ok(&self.status().await),
            Request::Peers { name } => match self.peers().await {
                Ok(mut peers) => {
                    if let Some(name) = name {
                        peers.retain(|peer| peer.name == name);
                        if peers.is_empty() {
                            return Reply::Error(format!("there is no peer {name}"));
                        }
                    }
                    ok(&peers)
                }
                Err(NotRunning) => not_running(),
            },
            Request::Events { after, peer, .. } => match events::after(self, after, &peer).await {
                Ok((events, _)) => ok(&events),
                Err(NotRunning) => not_running(),
            },
            Request::Routes { prefix, peer } => self.routes(prefix.as_deref(), peer).await,
            Request::Ipam => match &self.agent {
                Some(agent) => ok(&ipam(&agent.cluster.borrow())),
                None => Reply::Error("a lone speaker has no pools".into()),
            },
            Request::IpamCheck => match &self.agent {
                Some(agent) => agent.ipam_check().await,
                None => Reply::Error("a lone speaker has no pools".into()),
            },
            Request::Explain { address } => match &self.agent {
                Some(agent) => ok(&explain::explain(self, agent, address).await),
                None => {
                    Reply::Error("a lone speaker knows no pods: ask `margay routes ADDRESS`".into())
                }
            },
            Request::Clear {
                name,
                soft_in,
                soft_out,
                message,
            } => {
                let kinds = match (soft_in, soft_out) {
                    (false, false) => vec![Clear::Hard],
                    (true, false) => vec![Clear::SoftIn],
                    (false, true) => vec![Clear::SoftOut],
                    (true, true) => vec![Clear::SoftIn, Clear::SoftOut],
                };
                for kind in kinds {
                    match self.routing.clear(&name, kind, message.clone()).await {
                        Ok(true) => {}
                        Ok(false) => return Reply::Error(format!("there is no peer {name}")),
                        Err(NotRunning) => return not_running(),
                    }
                }
                ok(&Done {
                    done: format!("cleared {name}"),
                })
            }
            Request::Disable { name, message } => {
                match self.routing.disable(name.clone(), message).await {
                    Ok(true) => ok(&Done {
                        done: format!(
                            "{name} is disabled until `margay peers enable {name}` or a restart"
                        ),
                    }),
                    Ok(false) => Reply::Error(format!("there is no peer {name}")),
                    Err(NotRunning) => not_running(),
                }
            }
            Request::Drain { name, on } => {
                let what = name.clone().unwrap_or_else(|| "every session".into());
                match self.routing.drain(name, on).await {
                    Ok(true) if on => ok(&Done {
                        done: format!(
                            "{what} is drained until `margay peers drain --off` or a restart"
                        ),
                    }),
                    Ok(true) => ok(&Done {
                        done: format!("{what} is as configured"),
                    }),
                    Ok(false) => Reply::Error(format!("there is no peer {what}")),
                    Err(NotRunning) => not_running(),
                }
            }
            Request::Enable { name } => match self.routing.enable(name.clone()).await {
                Ok(true) => ok(&Done {
                    done: format!("{name} is enabled"),
                }),
                Ok(false) => Reply::Error(format!("{name} was not disabled")),
                Err(NotRunning) => not_running(),
            },
        }
    }

    async fn status(&self) -> answer::Status {
        let view = self.routing.view().borrow().clone();
        let snapshot = self.routing.snapshot().await.ok();
        let ready = self.health.ready();
        let mut status = answer::Status {
            node: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: self.started.elapsed().as_secs(),
            live: self
                .health
                .live(Instant::now())
                .iter()
                .all(|check| check.ok),
            ready: ready.iter().all(|check| check.ok),
            waiting_for: ready
                .iter()
                .filter(|check| !check.ok)
                .map(|check| check.name.to_owned())
                .collect(),
            asn: snapshot.as_ref().map(|speaker| speaker.asn.0),
            router_id: snapshot
                .as_ref()
                .map(|speaker| speaker.router_id.to_string()),
            sessions_lingering: view.lingering.len(),
            restarting: view.incomplete.iter().map(ToString::to_string).collect(),
            problems: view
                .problems
                .iter()
                .map(|problem| Finding {
                    subject: problem.subject.clone(),
                    reason: problem.reason.clone(),
                })
                .collect(),
            in_sync: self.agent.is_none(),
            ..answer::Status::default()
        };
        if let Some(speaker) = &snapshot {
            status.speaker = Some(shown::speaker(speaker));
            status.sessions = speaker.peers.len();
            status.sessions_established = speaker
                .peers
                .iter()
                .filter(|peer| peer.state == margay_bgp::fsm::State::Established)
                .count();
        }
        if let Some(agent) = &self.agent {
            let cluster = agent.cluster.borrow().clone();
            status.in_sync = cluster.in_sync;
            status.from_saved_view = cluster.from_saved_view;
            status.pods = cluster.workloads.len();
            status.invalid = cluster
                .invalid
                .values()
                .map(|invalid| Finding {
                    subject: if invalid.object.is_empty() {
                        invalid.source.clone()
                    } else {
                        invalid.object.clone()
                    },
                    reason: invalid.to_string(),
                })
                .collect();
            status.unsupported = cluster
                .unsupported
                .iter()
                .map(|(subject, reason)| Finding {
                    subject: subject.clone(),
                    reason: reason.clone(),
                })
                .collect();
            let kernel = agent.dataplane.status().borrow().clone();
            status.routes_desired = kernel.routes_desired;
            status.routes_installed = kernel.routes_installed;
            status.pending = kernel
                .pending
                .iter()
                .map(|(subject, pending)| Finding {
                    subject: subject.to_string(),
                    reason: pending.reason.clone(),
                })
                .collect();
        }
        status.healthy = status.live
            && status.ready
            && status.in_sync
            && status.sessions_established == status.sessions
            && status.pending.is_empty()
            && status.problems.is_empty()
            && status.invalid.is_empty();
        status
    }

    pub(super) async fn peers(&self) -> Result<Vec<answer::Peer>, NotRunning> {
        let view = self.routing.view().borrow().clone();
        let sessions: std::collections::BTreeMap<String, &Session> = view
            .sessions
            .iter()
            .map(|session| (session.name(), session))
            .collect();
        let snapshot = self.routing.snapshot().await?;
        let mut peers: Vec<answer::Peer> = snapshot
            .peers
            .into_iter()
            .map(|peer| {
                let session = sessions.get(&*peer.name);
                let origin = match session {
                    Some(session) => session.origin.as_str(),
                    None if peer.dynamic => "dynamic",
                    None if self.agent.is_none() => "file",
                    None => "left",
                };
                let object = session
                    .map(|session| session.object.clone())
                    .unwrap_or_default();
                shown::peer(peer, origin, object)
            })
            .collect();
        peers.sort_by_cached_key(|peer| {
            (
                peer.address.parse::<IpAddr>().ok(),
                peer.port,
                peer.name.clone(),
            )
        });
        Ok(peers)
    }

    async fn routes(&self, prefix: Option<&str>, peer: Option<String>) -> Reply {
        let mut query = RouteQuery {
            from_peer: peer,
            ..RouteQuery::default()
        };
        if let Some(text) = prefix {
            match (text.parse::<IpAddr>(), text.parse::<Prefix>()) {
                (Ok(address), _) => {
                    query.prefix = Some(Prefix::host(address));
                    query.matching = Matching::Covering;
                }
                (Err(_), Ok(prefix)) => query.prefix = Some(prefix),
                (Err(_), Err(error)) => {
                    return Reply::Error(format!(
                        "expected a prefix or an address, found {text:?}: {error}"
                    ));
                }
            }
            query.with_advertised = true;
        }
        let only = query.from_peer.clone();
        match self.routing.routes(query).await {
            Ok(routes) => {
                let routes: Vec<answer::Route> = routes
                    .into_iter()
                    .map(|route| answer::Route {
                        prefix: route.prefix.to_string(),
                        paths: route
                            .paths
                            .iter()
                            .filter(|path| {
                                only.as_ref()
                                    .is_none_or(|name| path.source.to_string() == *name)
                            })
                            .map(shown::path)
                            .collect(),
                        advertised_to: route
                            .advertised_to
                            .iter()
                            .map(ToString::to_string)
                            .collect(),
                    })
                    .collect();
                ok(&routes)
            }
            Err(NotRunning) => not_running(),
        }
    }
}

fn ok<T: Serialize>(value: &T) -> Reply {
    match serde_json::to_value(value) {
        Ok(value) => Reply::Ok(value),
        Err(error) => Reply::Error(error.to_string()),
    }
}

fn not_running() -> Reply {
    Reply::Error("the BGP speaker does not run (see `margay status`)".into())
}

fn ipam(cluster: &ClusterState) -> answer::Ipam {
    let capacity = |prefix: Prefix| {
        let bits = prefix.max_len() - prefix.len();
        1_u128
            .checked_shl(u32::from(bits))
            .map_or_else(|| format!("2^{bits}"), |count| count.to_string())
    };
    let mut pools: Vec<answer::Pool> = cluster
        .pools
        .values()
        .map(|pool| answer::Pool {
            name: pool.name.clone(),
            cidr: pool.cidr.to_string(),
            encapsulation: encapsulation(pool.encapsulation),
            blocks: 0,
            allocated: 0,
            capacity: capacity(pool.cidr),
            disabled: pool.disabled,
            nat_outgoing: pool.nat_outgoing,
        })
        .collect();
    let mut blocks = Vec::new();
    for block in cluster.blocks.values() {
        let pool = cluster
            .pool_of(block.cidr.addr())
            .map(|pool| pool.name.clone())
            .unwrap_or_default();
        if let Some(entry) = pools.iter_mut().find(|entry| entry.name == pool) {
            entry.blocks += 1;
            entry.allocated += block.allocated;
        }
        if block.owner() == Some(cluster.node_name.as_str()) {
            blocks.push(answer::Block {
                cidr: block.cidr.to_string(),
                pool,
                allocated: block.allocated,
                capacity: capacity(block.cidr),
                lent: block.borrowed.len(),
            });
        }
    }
    answer::Ipam {
        node: cluster.node_name.clone(),
        pools,
        blocks,
    }
}

/// An encapsulation as people say it.
pub(super) fn encapsulation(encapsulation: Encapsulation) -> String {
    let (name, mode) = match encapsulation {
        Encapsulation::None => return "None".to_owned(),
        Encapsulation::IpIp(mode) => ("IpIp", mode),
        Encapsulation::Vxlan(mode) => ("Vxlan", mode),
    };
    match mode {
        EncapsulationMode::Always => format!("{name} Always"),
        EncapsulationMode::CrossSubnet => format!("{name} CrossSubnet"),
    }
}

#[cfg(test)]
mod tests {
    use margay_bgp::asn::Asn;
    use margay_bgp::router_id::RouterId;
    use margay_bgp::speaker::config::SpeakerConfig;
    use margay_bgp::transport::{self, SpeakerOptions};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_is_given_up() {
        let (mut ours, _theirs) = tokio::io::duplex(64);
        let reply = Reply::Error("x".repeat(1000));
        let begin = tokio::time::Instant::now();
        let said = say(&mut ours, &reply).await;
        assert_eq!(said.expect_err("no room").kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() >= UNREAD, "{:?}", begin.elapsed());
    }

    #[tokio::test]
    async fn those_who_follow_events_keep_no_command_waiting() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control.sock");
        let listener = bind(&path).expect("it is free");
        let config = SpeakerConfig::new(Asn(1), RouterId::new(1).expect("not zero"));
        let (handle, _events, _task) = transport::spawn(config, SpeakerOptions::default())
            .await
            .expect("it starts");
        let control = Arc::new(Control {
            name: "node".to_owned(),
            started: Instant::now(),
            health: Health::default(),
            routing: Routing::of_speaker(handle).0,
            agent: None,
        });
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(control, listener, stop.clone()));
        let ask = async |request: &Request| {
            let stream = UnixStream::connect(&path).await.expect("it listens");
            let mut stream = BufReader::new(stream);
            let mut line = serde_json::to_vec(request).expect("plain values");
            line.push(b'\n');
            stream.write_all(&line).await.expect("open");
            let mut answer = String::new();
            stream.read_line(&mut answer).await.expect("open");
            let reply: Reply = serde_json::from_str(&answer).expect("a reply");
            (stream, reply)
        };
        let follow = Request::Events {
            after: 0,
            peer: None,
            follow: true,
        };
        let mut following = Vec::new();
        for _ in 0..FOLLOWERS {
            let (stream, reply) = ask(&follow).await;
            assert!(matches!(reply, Reply::Ok(_)), "{reply:?}");
            following.push(stream);
        }
        let (_, reply) = ask(&follow).await;
        assert!(
            matches!(&reply, Reply::Error(reason) if reason.starts_with("16 commands")),
            "{reply:?}"
        );
        let (_, reply) = ask(&Request::Status).await;
        assert!(matches!(reply, Reply::Ok(_)), "{reply:?}");
        stop.cancel();
        serving.await.expect("it ends");
    }
}
