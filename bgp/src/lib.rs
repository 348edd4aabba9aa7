//! A BGP-4 speaker as a library: everything that is protocol as plain functions over state, and a driver with sockets.
//!
//! # Layers
//!
//! | Room | What it holds |
//! |---|---|
//! | [`prefix`], [`family`], [`asn`], [`router_id`] | types that are valid once they exist |
//! | [`codec`] | octets to messages and back; what of RFC 7606 can be said of one message alone |
//! | [`fsm`] | one neighbour: its connections, its timers, two OPENs and what they settle |
//! | [`policy`] | import and export filters |
//! | [`decision`] | the choice among the paths of a prefix, as a pure function of their set |
//! | [`rib`] | tables, interned attributes, groups of peers that are told the same |
//! | [`graceful_restart`], [`bfd`], [`bmp`] | machines of their own: routes that outlive sessions, paths that are watched, collectors |
//! | [`speaker`] | all of this behind one face, [`Speaker`](speaker::Speaker) |
//! | `transport` | the driver on tokio; the only room with a socket, a clock or a thread (feature `transport`, on by default) |
//!
//! Whoever wants a speaker that runs takes `transport::start`. Whoever has sockets and a clock of their own (a simulator, a
//! test, another runtime) drives a [`Speaker`](speaker::Speaker) as below, with `--no-default-features` without tokio.
//!
//! # The order of things
//!
//! Nothing here reads a clock or waits. A caller does the same round for ever:
//!
//! 1. Say what happened: [`handle_connected`](speaker::Speaker::handle_connected), [`handle_message`](speaker::Speaker::handle_message),
//!    [`handle_written`](speaker::Speaker::handle_written), [`handle_closed`](speaker::Speaker::handle_closed),
//!    [`handle_timeout`](speaker::Speaker::handle_timeout) … Each is short, whatever the tables hold.
//! 2. Let it [`work`](speaker::Speaker::work), a slice at a time, until it says that nothing is left. Sockets may be looked after in between.
//! 3. Do what [`poll_output`](speaker::Speaker::poll_output) asks for, in order, until it asks for nothing: dial, write, close, read on
//!    with what was settled.
//! 4. Take what changed for whoever forwards packets from [`poll_table_event`](speaker::Speaker::poll_table_event), as much as there is room
//!    for. What is not taken is joined by prefix.
//! 5. Sleep until something happens or [`poll_timeout`](speaker::Speaker::poll_timeout).
//!
//! ```
//! use std::net::SocketAddr;
//! use std::sync::Arc;
//! use std::time::Instant;
//!
//! use margay_bgp::asn::Asn;
//! use margay_bgp::codec::{CodecContext, Message, decode};
//! use margay_bgp::fsm::Direction;
//! use margay_bgp::policy::Policy;
//! use margay_bgp::speaker::config::{PeerConfig, Remote, SpeakerConfig};
//! use margay_bgp::speaker::{Output, Speaker};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let remote: SocketAddr = "192.0.2.2:179".parse()?;
//! let mut config = SpeakerConfig::new(Asn(64512), "192.0.2.1".parse()?);
//! let anything = Arc::new(Policy::accept_all());
//! config.peers.push(PeerConfig::new(
//!     "tor",
//!     Remote::Address(remote),
//!     Asn(64601),
//!     Arc::clone(&anything),
//!     anything,
//! ));
//!
//! // The clock is the caller's, and may as well be an invented one.
//! let mut now = Instant::now();
//! let mut speaker = Speaker::new(config, 7, now);
//! let open = loop {
//!     while speaker.work(1000, now) {}
//!     match speaker.poll_output() {
//!         // Here a socket would be opened; this one connects at once.
//!         Some(Output::Connect { peer, remote, .. }) => {
//!             let local = "192.0.2.1:40000".parse()?;
//!             speaker.handle_connected(peer, Direction::Outgoing, local, remote, now);
//!         }
//!         Some(Output::Send { chunks, .. }) => break chunks.concat(),
//!         Some(_) => {}
//!         None => {
//!             now = speaker.poll_timeout().expect("it means to dial");
//!             speaker.handle_timeout(now);
//!         }
//!     }
//! };
//! let Message::Open(open) = decode(&open, &CodecContext::before_open())? else {
//!     panic!("an OPEN comes first");
//! };
//! assert_eq!(open.asn, Asn(64512));
//! # Ok(())
//! # }
//! ```
//!
//! [`snapshot`](speaker::Speaker::snapshot), [`dump`](speaker::Speaker::dump) and [`events_after`](speaker::Speaker::events_after) tell what it
//! holds and what happened; [`configure`](speaker::Speaker::configure) changes what differs and resets a session only where its OPENs
//! or its connection depend on it.
//!
//! # What is spoken
//!
//! | RFC | What | Room |
//! |---|---|---|
//! | 4271 | BGP-4, with the departures `fsm/mod.rs` names | [`fsm`], [`codec`], [`decision`] |
//! | 2545, 4760 | IPv6 unicast, multiprotocol extensions | [`codec`] |
//! | 1997, 4360, 5701, 8092 | standard, extended, IPv6-specific and large communities | [`codec`], [`policy`] |
//! | 7999, 8326 | BLACKHOLE, GRACEFUL_SHUTDOWN | [`policy`], `rib::import` |
//! | 2385, 5925, 5082 | TCP-MD5, TCP-AO where the kernel has it, GTSM | `transport` |
//! | 2918, 7313 | route refresh, enhanced route refresh | [`speaker`] |
//! | 4456 | route reflection | `rib::export` |
//! | 4486, 6608, 9003, 9384 | why a session ended: Cease, FSM errors, shutdown text, BFD | [`codec`], [`fsm`] |
//! | 4724, 8538, 9494 | graceful restart in both roles, through NOTIFICATIONs, long-lived | [`graceful_restart`] |
//! | 5004 | the oldest external path stays, on request | [`decision`] |
//! | 5492, 9072 | capabilities, and more of them than 255 octets | [`codec`] |
//! | 6286, 6793, 7607 | identifiers, AS numbers of four octets, AS 0 | [`codec`], [`fsm`] |
//! | 7606 | errors the session survives | [`codec`] |
//! | 7705 | another AS towards a peer | `rib::export` |
//! | 7911 | several paths of a prefix, both ways | `rib::adj_rib_out` |
//! | 8212 | without a policy nothing passes between ASs: every peer is given one | [`policy`] |
//! | 8654 | messages of up to 65535 octets | [`codec`] |
//! | 8950 | IPv4 over IPv6 next hops; with it peers on links without addresses | [`codec`], `transport` |
//! | 9234 | roles, ONLY_TO_CUSTOMER | [`fsm`], `rib::import` |
//! | 9687 | a peer that reads nothing for the send hold time is left | [`fsm`] |
//! | 9774 | paths with AS_SET are treated as withdrawn, unless configured otherwise | [`codec`] |
//! | 5880, 5881, 5882, 5883 | BFD, over one hop and over several | [`bfd`] |
//! | 7854, 8671, 9069 | BMP: tables before and after import policy, the Loc-RIB, the Adj-RIB-Out after policy | [`bmp`] |
//!
//! # What is not
//!
//! - Families other than IPv4 and IPv6 unicast; with them route targets (4684) and FlowSpec (8955).
//! - Confederations (5065), and a route server that keeps its AS out of paths (7947).
//! - Validation of origins (6811) and of paths (8205); damping of flaps (2439); filters by request (5291).
//! - BFD's authentication, echo function and demand mode.
//!
//! `DESIGN.md` beside `Cargo.toml` says how each room works and what must stay true in it.

pub mod asn;
pub mod bfd;
pub mod bmp;
pub mod codec;
pub mod decision;
pub mod family;
pub mod fsm;
pub mod graceful_restart;
pub mod policy;
pub mod prefix;
pub mod rib;
pub mod router_id;
pub mod speaker;
#[cfg(feature = "transport")]
pub mod transport;
