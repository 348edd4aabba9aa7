//! A netlink socket that asks and listens to the whole answer.
//!
//! rtnetlink's own streams hide the flag that marks a dump as interrupted and cannot put several requests in one
//! `sendmsg`, so this goes one layer below. Requests are blocking: the kernel handles a request inside `sendmsg`, the
//! answer is in the receive buffer when it returns. All of it runs on a thread of its own (`worker`).

use std::io;
use std::iter::Peekable;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::KernelError;
use super::errno::refused;

/// Messages in one `sendmsg`. More does not make it faster (512 is slower than 128, measured), since the kernel
/// handles them one by one anyway and the buffer leaves the cache.
pub(super) const BATCH: usize = 128;

/// How often an interrupted dump is begun again before giving up; Felix does five.
const DUMP_ATTEMPTS: u32 = 8;

/// Dumps come in pieces of up to 32 KiB, however large the buffer; errors of a batch are small.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// Enough for the errors of a whole batch, each with its extended message.
const SOCKET_BUFFER: usize = 1024 * 1024;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER_LEN: usize = 16;
/// `NLMSGERR_ATTR_MSG`: the kernel's reason in words.
const EXTENDED_MESSAGE: u16 = 1;

/// A blocking socket for requests, of the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct RequestSocket {
    socket: Socket,
    port: u32,
    sequence: u32,
    send_buffer: Vec<u8>,
    receive_buffer: Vec<u8>,
    sends: Arc<AtomicU64>,
}

/// What the kernel answered to one request of a batch.
pub(super) type Answer = Result<(), KernelError>;

impl RequestSocket {
    pub(super) fn open() -> Result<Self, KernelError> {
        let failed = |error: io::Error| io_error("netlink socket", &error);
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        let address = socket.bind_auto().map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        // Older kernels lack these; each has a fallback: no words with an error, whole requests echoed, filtering here.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        let _ = socket.set_rx_buf_sz(SOCKET_BUFFER);
        Ok(Self {
            socket,
            port: address.port_number(),
            sequence: 0,
            send_buffer: Vec::new(),
            receive_buffer: Vec::with_capacity(RECEIVE_BUFFER),
            sends: Arc::default(),
        })
    }

    /// Counts the calls of `sendmsg`.
    pub(super) fn sends(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sends)
    }

    fn send(&self, what: &'static str) -> Result<(), KernelError> {
        self.sends.fetch_add(1, Ordering::Relaxed);
        self.socket
            .send(&self.send_buffer, 0)
            .map(drop)
            .map_err(|error| io_error(what, &error))
    }

    /// The port that the kernel names as the origin of what this socket changes.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Sends one request and waits for its acknowledgement.
    pub(super) fn request(
        &mut self,
        what: &'static str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), KernelError> {
        let mut answers = self.batch(what, std::iter::once((message, flags)))?;
        answers.pop().unwrap_or(Ok(()))
    }

    /// Sends requests, [`BATCH`] in a call, and returns an answer for each. Only the last of a call asks for an
    /// acknowledgement: the kernel reports errors of the others by their sequence number all the same.
    pub(super) fn batch(
        &mut self,
        what: &'static str,
        requests: impl Iterator<Item = (RouteNetlinkMessage, u16)>,
    ) -> Result<Vec<Answer>, KernelError> {
        let mut answers = Vec::with_capacity(requests.size_hint().0);
        let mut requests = requests.peekable();
        while requests.peek().is_some() {
            let first = self.sequence.wrapping_add(1);
            let count = pack(&mut self.send_buffer, &mut requests, &mut self.sequence);
            let start = answers.len();
            answers.resize_with(start + count, || Ok(()));
            self.send(what)?;
            let batch = answers.get_mut(start..).unwrap_or_default();
            self.collect(what, first, batch)?;
        }
        Ok(answers)
    }

    /// Reads until the answer to the last request of the batch is in.
    fn collect(
        &mut self,
        what: &'static str,
        first: u32,
        batch: &mut [Answer],
    ) -> Result<(), KernelError> {
        loop {
            self.receive(what)?;
            for (header, payload) in Messages(&self.receive_buffer) {
                if header.message_type != NLMSG_ERROR {
                    continue;
                }
                let position = usize::try_from(header.sequence_number.wrapping_sub(first))
                    .unwrap_or(usize::MAX);
                let is_last = position + 1 == batch.len();
                if let (Some(answer), Err(error)) = (
                    batch.get_mut(position),
                    parse_error(what, header.flags, payload),
                ) {
                    *answer = Err(error);
                }
                if is_last {
                    return Ok(());
                }
            }
        }
    }

    /// One whole, consistent dump: `each` is given every message. Begins again when the kernel marks the dump as
    /// interrupted by a change, telling `restart` to forget what it was given.
    pub(super) fn dump<T>(
        &mut self,
        what: &'static str,
        request: &RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage, &mut Vec<T>),
    ) -> Result<Vec<T>, KernelError> {
        let mut collected = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            collected.clear();
            if self.dump_once(what, request.clone(), |message| {
                each(message, &mut collected)
            })? {
                return Ok(collected);
            }
        }
        Err(KernelError::DumpInterrupted {
            what,
            times: DUMP_ATTEMPTS,
        })
    }

    /// Returns whether the dump was consistent.
    fn dump_once(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<bool, KernelError> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        self.send_buffer.clear();
        encode(
            &mut self.send_buffer,
            request,
            NLM_F_REQUEST | NLM_F_DUMP,
            sequence,
        );
        self.send(what)?;
        let mut consistent = true;
        loop {
            self.receive(what)?;
            let mut rest = self.receive_buffer.as_slice();
            for (header, payload) in Messages(&self.receive_buffer) {
                let length = usize::try_from(header.length).unwrap_or(usize::MAX);
                let whole = rest.get(..length.min(rest.len())).unwrap_or_default();
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if header.sequence_number != sequence {
                    continue; // the tail of an answer nobody waited for
                }
                consistent &= header.flags & NLM_F_DUMP_INTR == 0;
                match header.message_type {
                    NLMSG_NOOP => {}
                    // A dump that fails at once is answered by an error, one that fails midway by DONE with a code.
                    NLMSG_ERROR | NLMSG_DONE => {
                        return match parse_error(what, header.flags, payload) {
                            Ok(()) => Ok(consistent),
                            // A table without routes does not exist.
                            Err(KernelError::NotFound) => Ok(consistent),
                            // EINTR: the kernel's other way of saying that the dump was interrupted.
                            Err(KernelError::Refused { errno, .. })
                                if errno == nix::libc::EINTR =>
                            {
                                Ok(false)
                            }
                            Err(error) => Err(error),
                        };
                    }
                    _ => match NetlinkMessage::<RouteNetlinkMessage>::deserialize(whole) {
                        Ok(NetlinkMessage {
                            payload: NetlinkPayload::InnerMessage(message),
                            ..
                        }) => each(message),
                        Ok(_) => {}
                        // One odd entry (a newer kernel's attribute) must not hide the others.
                        Err(error) => {
                            tracing::debug!(what, %error, "skipped an entry of a dump that cannot be read")
                        }
                    },
                }
            }
        }
    }

    fn receive(&mut self, what: &'static str) -> Result<(), KernelError> {
        loop {
            self.receive_buffer.clear();
            match self.socket.recv(&mut self.receive_buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io_error(what, &error)),
            }
        }
    }
}

/// Fills a buffer with the next [`BATCH`] requests, or what is left, and returns how many these are.
fn pack(
    buffer: &mut Vec<u8>,
    requests: &mut Peekable<impl Iterator<Item = (RouteNetlinkMessage, u16)>>,
    sequence: &mut u32,
) -> usize {
    buffer.clear();
    let mut count = 0;
    while count < BATCH {
        let Some((message, flags)) = requests.next() else {
            break;
        };
        count += 1;
        let last = count == BATCH || requests.peek().is_none();
        let ack = if last { NLM_F_ACK } else { 0 };
        *sequence = sequence.wrapping_add(1);
        encode(buffer, message, NLM_F_REQUEST | flags | ack, *sequence);
    }
    count
}

fn encode(buffer: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let start = buffer.len();
    buffer.resize((start + message.buffer_len()).next_multiple_of(4), 0);
    if let Some(space) = buffer.get_mut(start..) {
        message.serialize(space);
    }
}

/// The messages of one datagram: header and payload.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (NetlinkHeader, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let word = |at: usize| -> Option<u32> {
            let octets = self.0.get(at..at + 4)?;
            Some(u32::from_ne_bytes(octets.try_into().ok()?))
        };
        let half = |at: usize| -> Option<u16> {
            let octets = self.0.get(at..at + 2)?;
            Some(u16::from_ne_bytes(octets.try_into().ok()?))
        };
        let mut header = NetlinkHeader::default();
        header.length = word(0)?;
        header.message_type = half(4)?;
        header.flags = half(6)?;
        header.sequence_number = word(8)?;
        header.port_number = word(12)?;
        let length = usize::try_from(header.length).ok()?;
        let payload = self.0.get(HEADER_LEN..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((header, payload))
    }
}

/// Reads `NLMSG_ERROR` and the code in `NLMSG_DONE`: 0 is an acknowledgement.
fn parse_error(what: &'static str, flags: u16, payload: &[u8]) -> Result<(), KernelError> {
    let code = payload
        .get(..4)
        .and_then(|octets| octets.try_into().ok())
        .map_or(0, i32::from_ne_bytes);
    if code == 0 {
        return Ok(());
    }
    let inner = payload.get(4..).unwrap_or_default();
    let skipped = if flags & NLM_F_CAPPED != 0 {
        HEADER_LEN
    } else {
        inner
            .get(..4)
            .and_then(|octets| octets.try_into().ok())
            .map_or(usize::MAX, |octets| {
                usize::try_from(u32::from_ne_bytes(octets)).unwrap_or(usize::MAX)
            })
            .checked_next_multiple_of(4)
            .unwrap_or(usize::MAX)
    };
    let words = if flags & NLM_F_ACK_TLVS == 0 {
        None
    } else {
        inner.get(skipped..).and_then(|attributes| {
            NlasIterator::new(attributes)
                .filter_map(Result::ok)
                .find(|attribute| attribute.kind() == EXTENDED_MESSAGE)
                .map(|attribute| {
                    String::from_utf8_lossy(attribute.value())
                        .trim_end_matches('\0')
                        .to_owned()
                })
        })
    };
    Err(refused(what, code.saturating_neg(), words))
}

/// A failed system call on the socket.
pub(super) fn io_error(what: &'static str, error: &io::Error) -> KernelError {
    match error.raw_os_error() {
        Some(errno) if errno == nix::libc::EPERM || errno == nix::libc::EACCES => {
            KernelError::NotPermitted
        }
        _ => KernelError::Io {
            what,
            message: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkMessage;
    use netlink_packet_route::route::RouteMessage;

    use super::*;

    const NLM_F_MULTI: u16 = 2;
    const NETLINK_USERSOCK: isize = 2;
    const RTM_NEWLINK: u16 = 16;

    #[test]
    fn x12_five_thousand_routes_leave_in_calls_of_at_most_five_hundred() {
        let request = || (RouteNetlinkMessage::NewRoute(RouteMessage::default()), 0);
        let mut requests = std::iter::repeat_with(request).take(5_000).peekable();
        let (mut buffer, mut sequence, mut calls, mut total) = (Vec::new(), 0, 0, 0);
        while requests.peek().is_some() {
            let count = pack(&mut buffer, &mut requests, &mut sequence);
            let flags: Vec<u16> = Messages(&buffer).map(|(header, _)| header.flags).collect();
            assert_eq!(flags.len(), count);
            assert!(count <= 500, "{count} in one call");
            let (last, others) = flags.split_last().expect("not empty");
            assert!(last & NLM_F_ACK != 0, "the last one is acknowledged");
            assert!(
                others.iter().all(|flags| flags & NLM_F_ACK == 0),
                "and no other"
            );
            calls += 1;
            total += count;
        }
        assert_eq!((total, calls), (5_000, 5_000_usize.div_ceil(BATCH)));
    }

    /// A message as the kernel would answer with.
    fn answer(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_LEN + payload.len()).expect("short");
        let mut octets = length.to_ne_bytes().to_vec();
        octets.extend(kind.to_ne_bytes());
        octets.extend(flags.to_ne_bytes());
        octets.extend(sequence.to_ne_bytes());
        octets.extend([0; 4]);
        octets.extend(payload);
        octets
    }

    fn link(index: u32) -> Vec<u8> {
        let mut payload = vec![0; 16];
        payload[4..8].copy_from_slice(&index.to_ne_bytes());
        payload
    }

    #[test]
    fn x16_an_interrupted_dump_is_begun_again_and_its_first_part_forgotten() {
        // Another socket of this process plays the kernel.
        let mut kernel = Socket::new(NETLINK_USERSOCK).expect("a socket");
        let port = kernel.bind_auto().expect("bound").port_number();
        let mut socket = Socket::new(NETLINK_USERSOCK).expect("a socket");
        let address = socket.bind_auto().expect("bound");
        socket
            .connect(&SocketAddr::new(port, 0))
            .expect("connected");
        let mut requests = RequestSocket {
            socket,
            port: address.port_number(),
            sequence: 0,
            send_buffer: Vec::new(),
            receive_buffer: Vec::with_capacity(RECEIVE_BUFFER),
            sends: Arc::default(),
        };
        let played = std::thread::spawn(move || {
            let mut dumps = 0;
            for interrupted in [NLM_F_DUMP_INTR, 0] {
                let mut request = Vec::with_capacity(4096);
                kernel.recv(&mut request, 0).expect("a request");
                let (header, _) = Messages(&request).next().expect("a message");
                let sequence = header.sequence_number;
                let first = answer(RTM_NEWLINK, NLM_F_MULTI | interrupted, sequence, &link(7));
                kernel.send_to(&first, &address, 0).expect("sent");
                let done = answer(NLMSG_DONE, NLM_F_MULTI, sequence, &[0; 4]);
                kernel.send_to(&done, &address, 0).expect("sent");
                dumps += 1;
            }
            dumps
        });
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let found = requests.dump("links", &request, |message, found| {
            if let RouteNetlinkMessage::NewLink(link) = message {
                found.push(link.header.index);
            }
        });
        assert_eq!(found.expect("a consistent dump"), [7], "once, not twice");
        assert_eq!(played.join().expect("answered"), 2);
    }
}
