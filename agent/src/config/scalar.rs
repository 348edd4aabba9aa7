//! Scalars of the speaker's file and of annotations: what each of our types is called in them, and what is said where one does not fit.

use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use margay_bgp::asn::Asn;
use margay_bgp::codec::Role;
use margay_bgp::codec::community::{Community, LargeCommunity};
use margay_bgp::family::Family;
use margay_bgp::policy::Verdict;
use margay_bgp::prefix::Prefix;
use margay_bgp::router_id::RouterId;
use margay_bgp::speaker::config::{
    AddPathSend, AoAlgorithm, BGP_PORT, Bfd, HoldTime, LocalAsMode, NextHopMode, PeerAs,
    RemovePrivateAs,
};
use serde::Deserialize;
use serde::de::Error as _;

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
        let text = String::deserialize(deserializer)?;
        T::from_text(text.trim())
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("expected {}, found `{text}`", T::WANTED)))
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
    usize: "a number",
    bool: "true or false",
    RouterId: "four octets that are not all zero (10.100.0.1)",
}

impl FromText for HoldTime {
    const WANTED: &'static str = "a hold time in seconds: 0, or 3 to 65535";
    fn from_text(text: &str) -> Option<Self> {
        Self::from_secs(u16::try_from(Seconds::from_text(text)?.0.as_secs()).ok()?)
    }
}

impl FromText for PeerAs {
    const WANTED: &'static str =
        "an AS number (64512 or 1.10), several with commas between, internal, external or any";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "internal" => Some(Self::Internal),
            "external" => Some(Self::External),
            "any" => Some(Self::Any),
            // Text, not a YAML list: 1.10 in one would be the number 1.1.
            _ if text.contains(',') => text
                .split(',')
                .map(|asn| Asn::from_str(asn.trim()).ok())
                .collect::<Option<_>>()
                .map(Self::OneOf),
            _ => Asn::from_str(text).ok().map(Self::Fixed),
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

/// A duration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seconds(pub(super) Duration);

impl FromText for Seconds {
    const WANTED: &'static str = "a duration (120, 120s, 2m, 500ms)";
    fn from_text(text: &str) -> Option<Self> {
        let split = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().ok()?;
        Some(Self(match unit {
            "" | "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        }))
    }
}

/// A duration of BFD, whose unit is the millisecond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Milliseconds(pub(super) Duration);

impl FromText for Milliseconds {
    const WANTED: &'static str = "milliseconds (100, 100ms, 1s)";
    fn from_text(text: &str) -> Option<Self> {
        match text.parse() {
            Ok(number) => Some(Self(Duration::from_millis(number))),
            Err(_) => Some(Self(Seconds::from_text(text)?.0)),
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
                "multihop" => bfd.multihop = Some(value.parse().ok()?),
                "strict" => bfd.strict = value.parse().ok()?,
                _ => return None,
            }
        }
        Some(Self(Some(bfd)))
    }
}
