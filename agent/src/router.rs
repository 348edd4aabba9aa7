//! `margay speaker`: the speaker alone, from a file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use margay_bgp::family::Family;
use margay_bgp::speaker::SpeakerShutdown;
use margay_bgp::speaker::config::SpeakerConfig;
use margay_bgp::transport::{self, SpeakerEvent, SpeakerHandle, SpeakerOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cli::args::Listen;
use crate::config::ConfigError;
use crate::config::speaker::SpeakerFile;
use crate::descriptors;
use crate::desired::next_hop::Resolver;
use crate::desired::{BestRoutes, Settings, router};
use crate::health::Health;
use crate::kernel::netlink::{Netlink, NetlinkOptions};
use crate::kernel::{Kernel, KernelError, MAIN_TABLE, RouteFilter};
use crate::metrics::{Page, SpeakerMetrics};
use crate::next_hops::NextHops;
use crate::reconcile::{Dataplane, DataplaneConfig};
use crate::routing::{Command, Drained, Routing, apply, interface_name};
use crate::server::admin;
use crate::server::control::{self, Control};

/// Runs a speaker until it is told to stop: SIGHUP, which comes by `hangup`, reads the file again, SIGTERM closes the sessions without a word (peers keep
/// its routes for the restart time), SIGINT says Cease (peers drop them).
///
/// # Errors
/// A port or socket is taken, or the kernel cannot be spoken to.
pub async fn speaker(
    mut file: SpeakerFile,
    path: &Path,
    mut hangup: Signal,
    run_dir: Option<PathBuf>,
    metrics_listen: Listen,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if let Some(shortage) = descriptors::shortage(&file.speaker) {
        tracing::warn!("{shortage}");
    }
    let stop = CancellationToken::new();
    let kernel = match file.kernel.install {
        true => {
            let kernel =
                Netlink::open(NetlinkOptions::default()).context("cannot speak to the kernel")?;
            let protocol = file.kernel.protocol.number();
            file.speaker.restarting |= holds_our_routes(&kernel, protocol).await?;
            let option_memory = transport::option_memory(&file.speaker);
            Some(Installer::start(kernel, protocol, option_memory, &stop)?)
        }
        false => None,
    };
    let (restarting, started_with) = (file.speaker.restarting, file.kernel);
    let name = file.speaker.router_id.to_string();
    let options = SpeakerOptions {
        seed: rand::random(),
        // A pure reflector keeps no view of what it would forward by.
        report_routes: kernel.is_some(),
        ..SpeakerOptions::default()
    };
    let mut told = Told {
        file: file.speaker.clone(),
        disabled: BTreeMap::new(),
        drained: Drained::default(),
    };
    let (handle, mut events, join) = transport::start(file.speaker, options)
        .await
        .context("the speaker does not start")?;
    tracing::info!(router_id = name, "speaker runs");

    let (routing, mut commands) = Routing::of_speaker(handle.clone());
    let page = Page::new()?;
    let metrics = SpeakerMetrics::new(&page)?;
    let measured = tokio::spawn(admin::serve_speaker(
        metrics_listen,
        page,
        metrics,
        routing.clone(),
        stop.clone(),
    ));
    let served = match &run_dir {
        None => None,
        Some(directory) => {
            let listener = control::bind(&directory.join("control.sock"))?;
            let health = Health::default();
            let control = Control {
                name,
                started: Instant::now(),
                health,
                routing,
                agent: None,
            };
            Some(tokio::spawn(control::serve(
                Arc::new(control),
                listener,
                stop.clone(),
            )))
        }
    };

    let mut installer = kernel;
    let how = loop {
        tokio::select! {
            _ = terminate.recv() => break Some(SpeakerShutdown::KeepForwarding),
            _ = interrupt.recv() => break Some(SpeakerShutdown::Cease { text: None }),
            _ = hangup.recv() => match crate::config::speaker::read_again(path, &started_with) {
                Ok(mut file) => {
                    file.speaker.restarting = restarting;
                    told.file = file.speaker;
                    configure(&handle, &told).await;
                    if let Some(installer) = &mut installer {
                        installer.option_memory = transport::option_memory(&told.file);
                        installer.publish();
                    }
                    if let Some(shortage) = descriptors::shortage(&told.file) {
                        tracing::warn!("{shortage}");
                    }
                    tracing::info!("read the file again");
                }
                Err(ConfigError::Mistakes(mistakes)) => {
                    for mistake in &mistakes.0 {
                        tracing::error!(%mistake, "the file is not taken, and what runs goes on");
                    }
                }
                Err(error) => tracing::error!(%error, "the file is not taken, and what runs goes on"),
            },
            Some(command) = commands.recv() => {
                if told.take(command) {
                    configure(&handle, &told).await;
                }
            }
            event = events.recv() => match event {
                Some(event) => {
                    if let Some(installer) = &mut installer {
                        installer.absorb(event);
                        while let Ok(event) = events.try_recv() {
                            installer.absorb(event);
                        }
                        installer.answer(&handle).await;
                        installer.publish();
                    }
                }
                None => break None,
            },
            () = underlay_changed(&mut installer) => {
                if let Some(installer) = &mut installer {
                    installer.answer(&handle).await;
                    installer.publish();
                }
            }
        }
    };
    stop.cancel();
    if let Some(served) = served {
        served.await?;
    }
    measured.await?;
    match how {
        Some(how) => {
            handle.shutdown(how).await?;
            drop(handle);
            join.await?;
        }
        None => join.await.context("the speaker ended by itself")?,
    }
    Ok(())
}

/// The file, and the sessions an operator closed since.
struct Told {
    file: SpeakerConfig,
    disabled: BTreeMap<String, Option<String>>,
    drained: Drained,
}

impl Told {
    /// Takes an operator's command and answers it; true where the configuration changed.
    fn take(&mut self, command: Command) -> bool {
        let (done, reply) = match command {
            Command::Disable {
                name,
                message,
                reply,
            } => {
                let known = self.file.peers.iter().any(|peer| peer.name == name);
                if known {
                    tracing::info!(peer = name, "disabled by an operator");
                    self.disabled.insert(name, message);
                }
                (known, reply)
            }
            Command::Enable { name, reply } => (self.disabled.remove(&name).is_some(), reply),
            Command::Drain { name, on, reply } => (self.drained.take(name, on, &self.file), reply),
        };
        // Nobody waits for the answer any more: the operator's terminal was closed.
        let _ = reply.send(done);
        done
    }

    fn config(&self) -> SpeakerConfig {
        let mut config = self.file.clone();
        for peer in &mut config.peers {
            if let Some(message) = self.disabled.get(&peer.name) {
                peer.enabled = false;
                peer.shutdown_text.clone_from(message);
            }
        }
        self.drained.apply(&mut config);
        config
    }
}

async fn configure(handle: &SpeakerHandle, told: &Told) {
    if let Err(error) = handle.configure(told.config()).await {
        tracing::error!(%error, "the new configuration is not taken in full");
    }
}

/// Best routes on their way to the kernel.
struct Installer {
    best: BestRoutes,
    next_hops: NextHops,
    incomplete: BTreeSet<Family>,
    protocol: u8,
    option_memory: u64,
    underlay: watch::Receiver<Option<Arc<crate::desired::state::Underlay>>>,
    desired: watch::Sender<Option<Arc<crate::desired::state::DesiredState>>>,
}

impl Installer {
    fn start(
        kernel: Netlink,
        protocol: u8,
        option_memory: u64,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let (desired, wanted) = watch::channel(None);
        let config = DataplaneConfig {
            protocol,
            ..DataplaneConfig::default()
        };
        let (dataplane, _ends_with_stop) = Dataplane::spawn(kernel, config, wanted, stop.clone())
            .context("cannot follow the kernel")?;
        Ok(Self {
            best: BestRoutes::default(),
            next_hops: NextHops::default(),
            incomplete: Family::ALL.into_iter().collect(),
            protocol,
            option_memory,
            underlay: dataplane.underlay(),
            desired,
        })
    }

    fn absorb(&mut self, event: SpeakerEvent) {
        match event {
            SpeakerEvent::Routes(changes) => changes
                .into_iter()
                .for_each(|change| apply(&mut self.best, change)),
            SpeakerEvent::TableComplete(family) => {
                self.incomplete.remove(&family);
            }
            SpeakerEvent::NextHops(interests) => self.next_hops.ask(interests),
            SpeakerEvent::PeerStateChanged { .. } => {}
        }
    }

    /// Says how next hops are reached, once the kernel was dumped.
    async fn answer(&mut self, handle: &SpeakerHandle) {
        let Some(underlay) = self.underlay.borrow().clone() else {
            return;
        };
        let answers = self
            .next_hops
            .answers(&Resolver::new(&underlay, BTreeMap::new()), interface_name);
        if !answers.is_empty()
            && let Err(error) = handle.next_hops(answers).await
        {
            tracing::debug!(%error, "nobody wants to know of next hops");
        }
    }

    fn publish(&self) {
        if let Some(underlay) = self.underlay.borrow().clone() {
            let settings = Settings {
                protocol: self.protocol,
                keep_unlisted: self.incomplete.clone(),
                option_memory: self.option_memory,
            };
            self.desired
                .send_replace(Some(Arc::new(router(&self.best, &underlay, &settings))));
        }
    }
}

async fn underlay_changed(installer: &mut Option<Installer>) {
    let ended = match installer {
        Some(installer) => installer.underlay.changed().await.is_err(),
        None => true,
    };
    if ended {
        std::future::pending::<()>().await;
    }
}

/// Whether the kernel forwards by routes of an earlier life: to others, or to pods of this node. Either way peers may keep what
/// they were told, so either way the speaker must say that forwarding was preserved.
///
/// # Errors
/// The kernel cannot be read.
pub(crate) async fn holds_our_routes(kernel: &Netlink, protocol: u8) -> Result<bool, KernelError> {
    let filter = RouteFilter {
        protocol: Some(protocol),
        ..RouteFilter::table(MAIN_TABLE)
    };
    Ok(!kernel.routes(filter).await?.is_empty())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::sync::oneshot;

    use super::*;
    use crate::config::speaker;

    #[test]
    fn what_an_operator_drains_is_added_to_the_file_and_taken_back_at_once() {
        let text = "asn: 1\nrouterId: 10.0.0.1\npeers:\n- { name: a, address: 10.0.0.2, asn: 2 }\n- { name: b, address: 10.0.0.3, asn: 3, drain: true }\n";
        let file = speaker::parse(Path::new("speaker.yaml"), text).expect("a good file");
        let mut told = Told {
            file: file.speaker,
            disabled: BTreeMap::new(),
            drained: Drained::default(),
        };
        let mut drain = |name: Option<&str>, on: bool| {
            let (reply, _answer) = oneshot::channel();
            let name = name.map(str::to_owned);
            let taken = told.take(Command::Drain { name, on, reply });
            let config = told.config();
            let peers: Vec<bool> = config.peers.iter().map(|peer| peer.drain).collect();
            (taken, config.drain, peers)
        };
        assert_eq!(drain(Some("a"), true), (true, false, vec![true, true]));
        assert_eq!(drain(Some("x"), true), (false, false, vec![true, true]));
        assert_eq!(drain(None, true), (true, true, vec![true, true]));
        // What the file says stays.
        assert_eq!(drain(None, false), (true, false, vec![false, true]));
    }
}
