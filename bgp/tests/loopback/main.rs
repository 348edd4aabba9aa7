//! The whole speaker over TCP on loopback addresses and ports of the kernel's choice: with another speaker of ours, and with a
//! peer that follows a script.
#![cfg(feature = "transport")]
#![expect(
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    reason = "a test picks out the events it is about, and fails where it looks past an end"
)]

mod bfd;
mod collector;
mod scripted;
mod slow_reader;
mod two_speakers;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use margay_bgp::asn::Asn;
use margay_bgp::fsm::State;
use margay_bgp::policy::Policy;
use margay_bgp::prefix::Prefix;
use margay_bgp::router_id::RouterId;
use margay_bgp::speaker::config::{PeerConfig, Remote, SpeakerConfig};
use margay_bgp::transport::{self, SpeakerEvent, SpeakerHandle, SpeakerOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn router_id(number: u32) -> RouterId {
    RouterId::new(number).expect("not zero")
}

/// A peer that may say and hear everything.
fn peer(name: &str, remote: Remote, asn: u32) -> PeerConfig {
    let policy = Arc::new(Policy::accept_all());
    PeerConfig::new(name, remote, Asn(asn), Arc::clone(&policy), policy)
}

/// A running speaker and what it tells.
struct Running {
    handle: SpeakerHandle,
    events: mpsc::Receiver<SpeakerEvent>,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(config: SpeakerConfig) -> Self {
        let (handle, events, task) = transport::spawn(config, SpeakerOptions::default())
            .await
            .expect("the speaker starts");
        Self {
            handle,
            events,
            task,
        }
    }

    /// Where it listens.
    async fn address(&self) -> SocketAddr {
        let addresses = self.handle.addresses().await.expect("it runs");
        *addresses.first().expect("it listens")
    }

    /// Waits for the first event that answers a question.
    async fn wait_for<T>(&mut self, mut wanted: impl FnMut(&SpeakerEvent) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let event = self.events.recv().await.expect("it runs");
                if let Some(found) = wanted(&event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .expect("the event comes in time")
    }

    async fn wait_for_state(&mut self, state: State) {
        self.wait_for(|event| match event {
            SpeakerEvent::PeerStateChanged { to, .. } if *to == state => Some(()),
            _ => None,
        })
        .await;
    }

    /// Waits until a prefix has, or has no longer, a best route; says where it leads.
    async fn wait_for_route(&mut self, prefix: Prefix, there: bool) -> Vec<IpAddr> {
        self.wait_for(|event| {
            let SpeakerEvent::Routes(changes) = event else {
                return None;
            };
            let change = changes
                .iter()
                .rev()
                .find(|change| change.prefix == prefix)?;
            let hops = change.best.as_ref().map(|best| {
                best.next_hops
                    .iter()
                    .map(|hop| hop.address)
                    .collect::<Vec<_>>()
            });
            (hops.is_some() == there).then(|| hops.unwrap_or_default())
        })
        .await
    }
}
