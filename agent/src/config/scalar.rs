//! Scalars of the speaker's file and of annotations: what each of our types is called in them, and what is said where one does not fit.

use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use margay_bgp::asn::Asn;
use margay_bgp::codec::community::{Community, LargeCommunity};
use margay_bgp::codec::{NextHop, Role};
use margay_bgp::family::Family;
use margay_bgp::policy::Verdict;
use margay_bgp::prefix::Prefix;
use margay_bgp::router_id::RouterId;
use margay_bgp::speaker::config::{
    AddPathSend, AoAlgorithm, BGP_PORT, Bfd, GracefulRestart, HoldTime, LocalAsMode, NextHopMode,
    PeerAs, PeerConfig, RemovePrivateAs, Secret,
};
use serde::Deserialize;

use super::{DatastoreKind, RouteProtocol};
use crate::cli::args::Listen;

/// A scalar of the file that a type of ours is read from. YAML's own idea of its type (`1.10` a float, `no` a truth value) is not asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<T>(pub(super) T);

/// What can be read from a scalar, and how to say what was expected.
pub(super) trait FromText: Sized {
    /// Completes "expected …".
    const WANTED: &'static str;
    fn from_text(text: &str) -> Option<Self>;
}

impl<'de, T: FromText> Deserialize<'de> for Text<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor(PhantomData))
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: FromText> serde::de::Visitor<'_> for TextVisitor<T> {
    type Value = Text<T>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(T::WANTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text<T>, E> {
        T::from_text(text.trim())
            .map(Text)
            .ok_or_else(|| E::custom(format!("expected {}, found `{text}`", T::WANTED)))
    }
}

/// A password, to the last blank as it is written. It does not show in what is said of it.
pub(super) struct Hidden(pub(super) Secret);

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(HiddenVisitor)
    }
}

struct HiddenVisitor;

impl serde::de::Visitor<'_> for HiddenVisitor {
    type Value = Hidden;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a password of 1 to 80 octets")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Hidden, E> {
        Secret::new(text).map(Hidden).map_err(E::custom)
    }
}

/// A scalar, or a mapping with the details. An untagged enum could say only that neither fits.
pub(super) enum ScalarOr<T, M> {
    Scalar(T),
    Section(M),
}

impl<'de, T: FromText, M: Deserialize<'de>> Deserialize<'de> for ScalarOr<T, M> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarOrVisitor(PhantomData))
    }
}

struct ScalarOrVisitor<T, M>(PhantomData<(T, M)>);

impl<T: FromText, M> ScalarOrVisitor<T, M> {
    fn scalar<E: serde::de::Error>(text: &str) -> Result<ScalarOr<T, M>, E> {
        T::from_text(text.trim())
            .map(ScalarOr::Scalar)
            .ok_or_else(|| {
                E::custom(format!(
                    "expected {} or a mapping, found `{text}`",
                    T::WANTED
                ))
            })
    }
}

impl<'de, T: FromText, M: Deserialize<'de>> serde::de::Visitor<'de> for ScalarOrVisitor<T, M> {
    type Value = ScalarOr<T, M>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} or a mapping", T::WANTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Self::scalar(text)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
        Self::scalar(&value.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Self::scalar(&value.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Self::scalar(&value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        Self::scalar(&value.to_string())
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        M::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(ScalarOr::Section)
    }
}

macro_rules! from_text {
    ($($type:ty: $wanted:literal),+ $(,)?) => {$(
        impl FromText for $type {
            const WANTED: &'static str = $wanted;
            fn from_text(text: &str) -> Option<Self> {
                Self::from_str(text).ok()
            }
        }
    )+};
}

from_text! {
    Asn: "an AS number (64512 or 1.10)",
    Family: "ipv4-unicast or ipv6-unicast",
    Prefix: "a prefix (10.0.0.0/8 or fd00::/48)",
    IpAddr: "an IP address",
    Community: "a community (64512:1)",
    LargeCommunity: "a large community (64512:1:2)",
    u8: "a number from 0 to 255",
    u16: "a number from 0 to 65535",
    u32: "a number from 0 to 4294967295",
    Listen: "ADDRESS:PORT or off",
    DatastoreKind: "directory:PATH or kubernetes",
    bool: "true or false",
    RouterId: "four octets that are not all zero (10.100.0.1)",
}

/// A number of one octet that is not zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct OneTo255(pub(super) u8);

impl FromText for OneTo255 {
    const WANTED: &'static str = "a number from 1 to 255";
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok().filter(|number| *number > 0).map(Self)
    }
}

/// How many of something there may be. None at all has words of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count(pub(super) usize);

impl FromText for Count {
    const WANTED: &'static str = "a number from 1";
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok().filter(|number| *number > 0).map(Self)
    }
}

/// Where somebody is dialled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port(pub(super) u16);

impl FromText for Port {
    const WANTED: &'static str = "a port from 1 to 65535";
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok().filter(|port| *port > 0).map(Self)
    }
}

impl FromText for RouteProtocol {
    const WANTED: &'static str = Self::WANTED;
    fn from_text(text: &str) -> Option<Self> {
        Self::new(text.parse().ok()?)
    }
}

/// Where policy may send traffic. Loopback addresses serve in labs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hop(pub(super) IpAddr);

impl FromText for Hop {
    const WANTED: &'static str =
        "an IP address of one host: no multicast, unspecified or IPv4-mapped one";
    fn from_text(text: &str) -> Option<Self> {
        let address = IpAddr::from_str(text).ok()?;
        (address.is_loopback() || !NextHop::from(address).is_martian()).then_some(Self(address))
    }
}

/// The AS of somebody who speaks: 0 is nobody (RFC 7607), and 23456 stands for another one (RFC 6793).
#[derive(Clone, Copy, Debug)]
pub(super) struct SpeakersAs(pub(super) Asn);

impl FromText for SpeakersAs {
    const WANTED: &'static str = "an AS number (64512 or 1.10) other than 0 and 23456";
    fn from_text(text: &str) -> Option<Self> {
        let asn = Asn::from_str(text).ok()?;
        (!asn.is_reserved_zero() && asn != Asn::AS_TRANS).then_some(Self(asn))
    }
}

impl FromText for HoldTime {
    const WANTED: &'static str = "a hold time in whole seconds: 0, or 3 to 65535";
    fn from_text(text: &str) -> Option<Self> {
        Self::from_secs(u16::try_from(whole_seconds(duration(text)?)?).ok()?)
    }
}

impl FromText for PeerAs {
    const WANTED: &'static str = "an AS number (64512 or 1.10) other than 0 and 23456, several with commas between, internal, external or any";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "internal" => Some(Self::Internal),
            "external" => Some(Self::External),
            "any" => Some(Self::Any),
            // Text, not a YAML list: 1.10 in one would be the number 1.1.
            _ if text.contains(',') => text
                .split(',')
                .map(|asn| Some(SpeakersAs::from_text(asn.trim())?.0))
                .collect::<Option<_>>()
                .map(Self::OneOf),
            _ => SpeakersAs::from_text(text).map(|asn| Self::Fixed(asn.0)),
        }
    }
}

impl FromText for AoAlgorithm {
    const WANTED: &'static str = "hmac-sha1, cmac-aes128 or hmac-sha256";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "hmac-sha1" => Some(Self::HmacSha1),
            "cmac-aes128" => Some(Self::CmacAes128),
            "hmac-sha256" => Some(Self::HmacSha256),
            _ => None,
        }
    }
}

/// An address, a link-local one with its interface behind a percent sign.
#[derive(Clone, Debug)]
pub(super) struct PeerAddress {
    pub(super) ip: IpAddr,
    pub(super) zone: Option<String>,
}

impl FromText for PeerAddress {
    const WANTED: &'static str = "an IP address (10.0.0.1, fd00::1 or fe80::1%eth0)";
    fn from_text(text: &str) -> Option<Self> {
        let (ip, zone) = match text.split_once('%') {
            Some((_, "")) => return None,
            Some((ip, zone)) => (ip, Some(zone.to_owned())),
            None => (text, None),
        };
        let ip = ip.parse().ok()?;
        Some(Self { ip, zone })
    }
}

impl FromText for NextHopMode {
    const WANTED: &'static str = "auto, self, forceSelf or keep";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "auto" | "Auto" => Some(Self::Auto),
            "self" | "Self" => Some(Self::SelfAddress),
            "forceSelf" | "ForceSelf" => Some(Self::ForceSelf),
            "keep" | "Keep" => Some(Self::Keep),
            _ => None,
        }
    }
}

impl FromText for Role {
    const WANTED: &'static str = "provider, customer, peer, routeServer or routeServerClient";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "provider" => Some(Self::Provider),
            "customer" => Some(Self::Customer),
            "peer" => Some(Self::Peer),
            "routeServer" => Some(Self::RouteServer),
            "routeServerClient" => Some(Self::RouteServerClient),
            _ => None,
        }
    }
}

impl FromText for LocalAsMode {
    const WANTED: &'static str = "session, prepend, noPrepend, replaceAs or dualAs";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "session" => Some(Self::Session),
            "prepend" => Some(Self::Prepend),
            "noPrepend" => Some(Self::NoPrepend),
            "replaceAs" => Some(Self::ReplaceAs),
            "dualAs" => Some(Self::DualAs),
            _ => None,
        }
    }
}

impl FromText for RemovePrivateAs {
    const WANTED: &'static str = "ifAllPrivate, all or replace";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "ifAllPrivate" => Some(Self::IfAllPrivate),
            "all" => Some(Self::All),
            "replace" => Some(Self::Replace),
            _ => None,
        }
    }
}

/// Which paths a peer is told; nothing for the best one alone.
pub(super) struct MaybeAddPathSend(pub(super) Option<AddPathSend>);

impl FromText for MaybeAddPathSend {
    const WANTED: &'static str = "all, best N (best 4; 1 to 255), or false";
    fn from_text(text: &str) -> Option<Self> {
        Some(Self(match text {
            "all" | "true" => Some(AddPathSend::All),
            "false" => None,
            _ => Some(AddPathSend::Best(
                text.strip_prefix("best ")?.trim().parse().ok()?,
            )),
        }))
    }
}

impl FromText for Verdict {
    const WANTED: &'static str = "accept or reject";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "accept" => Some(Self::Accept),
            "reject" => Some(Self::Reject),
            _ => None,
        }
    }
}

/// `ADDRESS:PORT`, or an address for the port of BGP.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListenAddress(pub(super) SocketAddr);

impl FromText for ListenAddress {
    const WANTED: &'static str = "ADDRESS:PORT ([::]:179) or an address";
    fn from_text(text: &str) -> Option<Self> {
        text.parse::<SocketAddr>()
            .ok()
            .or_else(|| {
                text.parse::<IpAddr>()
                    .ok()
                    .map(|address| SocketAddr::new(address, BGP_PORT))
            })
            .map(Self)
    }
}

/// The longest time that is taken: there is no use for a longer one, and no clock that it could run past.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A number of seconds, or of what stands behind it.
fn duration(text: &str) -> Option<Duration> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    let duration = match unit {
        "" | "s" => Duration::from_secs(number),
        "ms" => Duration::from_millis(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        _ => return None,
    };
    (duration <= LONGEST).then_some(duration)
}

/// What the wire can carry; nothing where a part of a second would be lost.
fn whole_seconds(duration: Duration) -> Option<u64> {
    (duration.subsec_nanos() == 0).then_some(duration.as_secs())
}

macro_rules! durations {
    ($($(#[$doc:meta])* $name:ident: $wanted:literal, $fits:expr;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name(pub(super) Duration);

        impl FromText for $name {
            const WANTED: &'static str = $wanted;
            fn from_text(text: &str) -> Option<Self> {
                let fits: fn(Duration) -> bool = $fits;
                duration(text).filter(|time| fits(*time)).map(Self)
            }
        }

        impl From<$name> for Duration {
            fn from(time: $name) -> Self {
                time.0
            }
        }
    )+};
}

durations! {
    /// Any time.
    Seconds: "a duration up to a year (120, 120s, 2m, 500ms)", |_| true;
    /// A pause between attempts: with less, whoever cannot be had would cost as much as whoever can.
    Pause: "a duration from 100 ms to a day (5, 500ms, 1m)", |time| PeerConfig::PAUSES.contains(&time);
    /// What is not done more often than once a second.
    OfASecond: "a duration from 1 s to a year (60, 5m)", |time| time >= Duration::from_secs(1);
    /// What the 12 bits of RFC 4724 §3 carry.
    RestartTime: "whole seconds up to 4095 (120, 2m)",
        |time| whole_seconds(time).is_some() && time <= GracefulRestart::MAX_RESTART_TIME;
    /// What the 24 bits of RFC 9494 §3 carry.
    LongLivedTime: "whole seconds up to 16777215 (86400, 24h)",
        |time| whole_seconds(time).is_some_and(|seconds| seconds < 1 << 24);
}

/// A duration of BFD, whose unit is the millisecond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Milliseconds(pub(super) Duration);

impl FromText for Milliseconds {
    const WANTED: &'static str = "milliseconds (100, 100ms, 1s)";
    fn from_text(text: &str) -> Option<Self> {
        match text.parse() {
            Ok(number) => Some(Self(Duration::from_millis(number))),
            Err(_) => duration(text).map(Self),
        }
    }
}

/// Over how many hops BFD goes; nothing for the same link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Multihop(pub(super) Option<u8>);

impl FromText for Multihop {
    const WANTED: &'static str =
        "the number of hops to the peer from 1 to 255, true for any number, or false";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "true" => Some(Self(Some(Bfd::ANY_HOPS))),
            "false" => Some(Self(None)),
            number => number.parse().ok().map(|hops| Self(Some(hops))),
        }
    }
}

/// BFD in one line; nothing where it is turned off.
#[derive(Clone, Copy, Debug)]
pub(super) struct BfdText(pub(super) Option<Bfd>);

impl FromText for BfdText {
    const WANTED: &'static str =
        "true, false, or settings such as minTx=100,minRx=100,multiplier=3,multihop=2,strict=true";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "true" => return Some(Self(Some(Bfd::default()))),
            "false" => return Some(Self(None)),
            _ => {}
        }
        let mut bfd = Bfd::default();
        for setting in text.split(',') {
            let (field, value) = setting.split_once('=')?;
            let value = value.trim();
            match field.trim() {
                "minTx" => bfd.min_tx = Milliseconds::from_text(value)?.0,
                "minRx" => bfd.min_rx = Milliseconds::from_text(value)?.0,
                "multiplier" => bfd.multiplier = value.parse().ok()?,
                "multihop" => bfd.multihop = Multihop::from_text(value)?.0,
                "strict" => bfd.strict = value.parse().ok()?,
                _ => return None,
            }
        }
        Some(Self(Some(bfd)))
    }
}
