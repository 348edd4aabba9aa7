//! A session played by hand: octets out, octets in, no state machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// The first caller's prefix.
pub(super) const PREFIXES: u32 = 0x1400_0000;

pub(super) fn address(caller: usize) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::from(0x0a63_8001 + u32::try_from(caller)?))
}

pub(super) fn framed(kind: u8, body: &[u8]) -> Result<Vec<u8>> {
    let mut octets = vec![0xff; 16];
    octets.extend(u16::try_from(19 + body.len())?.to_be_bytes());
    octets.push(kind);
    octets.extend(body);
    Ok(octets)
}

pub(super) async fn any_message(stream: &mut (impl AsyncReadExt + Unpin)) -> Result<(u8, Vec<u8>)> {
    let mut header = [0; 19];
    stream.read_exact(&mut header).await?;
    let [.., high, low, kind] = header;
    let mut body = vec![0; usize::from(u16::from_be_bytes([high, low])).saturating_sub(19)];
    stream.read_exact(&mut body).await?;
    Ok((kind, body))
}

async fn message(stream: &mut TcpStream) -> Result<u8> {
    let (kind, body) = any_message(stream).await?;
    if kind == 3 {
        bail!("NOTIFICATION {body:?}");
    }
    Ok(kind)
}

/// The body of an UPDATE that announces one address.
pub(super) fn announcement(next_hop: Ipv4Addr, prefix: u32) -> Vec<u8> {
    let mut update = vec![0, 0, 0, 21, 0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4];
    update.extend(next_hop.octets());
    update.extend([0x40, 5, 4, 0, 0, 0, 100, 32]);
    update.extend(prefix.to_be_bytes());
    update
}

/// A socket of a caller, not connected yet.
pub(super) fn socket(caller: usize) -> Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((address(caller)?, 0)))?;
    Ok(socket)
}

/// Where the speaker listens.
pub(super) fn server() -> SocketAddr {
    SocketAddr::from(([10, 99, 0, 1], 179))
}

/// An OPEN of AS 64512 with a hold time of four minutes, so that nobody has to send KEEPALIVEs.
pub(super) fn open(identifier: Ipv4Addr) -> Result<Vec<u8>> {
    let mut open = vec![4, 0xfc, 0, 0, 240];
    open.extend(identifier.octets());
    open.extend([14, 2, 12, 1, 4, 0, 1, 0, 1, 65, 4, 0, 0, 0xfc, 0]);
    framed(1, &open)
}

/// A session, with one prefix of its own announced.
async fn call(caller: usize, identifier: Ipv4Addr) -> Result<TcpStream> {
    call_by(socket(caller)?, caller, identifier).await
}

/// The same by a socket that is there already.
pub(super) async fn call_by(
    socket: TcpSocket,
    caller: usize,
    identifier: Ipv4Addr,
) -> Result<TcpStream> {
    let mut stream = socket.connect(server()).await.context("connect")?;
    stream.write_all(&open(identifier)?).await?;
    ensure!(
        message(&mut stream).await.context("their OPEN")? == 1,
        "no OPEN"
    );
    stream.write_all(&framed(4, &[])?).await?;
    ensure!(
        message(&mut stream).await.context("their KEEPALIVE")? == 4,
        "no KEEPALIVE"
    );
    // Some prefix that is the caller's alone.
    let update = announcement(address(caller)?, PREFIXES + u32::try_from(caller)?);
    stream.write_all(&framed(2, &update)?).await?;
    Ok(stream)
}

/// A connection that was refused or cut is tried again, as any neighbour would.
pub(super) async fn call_until(
    caller: usize,
    identifier: Ipv4Addr,
    deadline: Instant,
) -> Result<TcpStream> {
    loop {
        match call(caller, identifier).await {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("caller {caller}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// A part with its length before it, and what comes behind.
pub(super) fn counted(octets: &[u8]) -> Result<(&[u8], &[u8])> {
    let (length, rest) = octets.split_first_chunk().context("no length")?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
        .context("a part that is cut short")
}

/// Prefixes of 32 bits; there are no others here.
pub(super) fn prefixes(octets: &[u8]) -> Result<Vec<u32>> {
    octets
        .chunks(5)
        .map(|chunk| match *chunk {
            [32, a, b, c, d] => Ok(u32::from_be_bytes([a, b, c, d])),
            _ => bail!("{chunk:?} is no /32"),
        })
        .collect()
}

pub(super) fn next_hop(attributes: &[u8]) -> Option<Ipv4Addr> {
    let value = <[u8; 4]>::try_from(attribute(attributes, 3)?).ok()?;
    Some(Ipv4Addr::from(value))
}

/// The value of an attribute, where there is one.
pub(super) fn attribute(mut attributes: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [flags, code, rest @ ..] = attributes {
        let (length, rest) = match flags & 0x10 {
            0 => (usize::from(*rest.first()?), rest.get(1..)?),
            _ => {
                let (length, rest) = rest.split_first_chunk()?;
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
        };
        let (value, rest) = rest.split_at_checked(length)?;
        if *code == wanted {
            return Some(value);
        }
        attributes = rest;
    }
    None
}
