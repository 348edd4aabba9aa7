//! What of the file is neither a peer nor a policy: where we listen, what we originate and aggregate, who is told by BMP.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use margay_bgp::bmp::{BMP_PORT, Collector};
use margay_bgp::codec::attribute::{LocalPref, Med};
use margay_bgp::codec::community::{Community, LargeCommunity};
use margay_bgp::prefix::Prefix;
use margay_bgp::speaker::config::{Aggregate, Binding, Listen, Originate};
use serde::Deserialize;

use super::{plain, set};
use crate::config::scalar::{FromText, ListenAddress, OfASecond, Port, ScalarOr, Text};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CollectorSection {
    address: Text<IpAddr>,
    #[serde(default)]
    port: Option<Text<Port>>,
    #[serde(default)]
    pre_policy: Option<bool>,
    #[serde(default)]
    post_policy: Option<bool>,
    #[serde(default)]
    loc_rib: Option<bool>,
    #[serde(default)]
    adj_rib_out: Option<bool>,
    #[serde(default)]
    statistics: Option<Text<MaybeSeconds>>,
}

impl CollectorSection {
    pub(super) fn into_collector(self) -> Collector {
        let port = self.port.map_or(BMP_PORT, |port| port.0.0);
        let mut collector = Collector::new(SocketAddr::new(self.address.0, port));
        set(&mut collector.pre_policy, self.pre_policy);
        set(&mut collector.post_policy, self.post_policy);
        set(&mut collector.loc_rib, self.loc_rib);
        set(&mut collector.adj_rib_out, self.adj_rib_out);
        set(
            &mut collector.statistics,
            self.statistics.map(|every| every.0.0),
        );
        collector
    }
}

/// How often, or `false` for never.
#[derive(Clone, Copy, Debug)]
struct MaybeSeconds(Option<Duration>);

impl FromText for MaybeSeconds {
    const WANTED: &'static str = "a duration from 1 s to a year (60, 5m), or false";
    fn from_text(text: &str) -> Option<Self> {
        if text == "false" {
            return Some(Self(None));
        }
        OfASecond::from_text(text).map(|every| Self(Some(every.0)))
    }
}

pub(super) type AggregateItem = ScalarOr<Prefix, AggregateSection>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct AggregateSection {
    prefix: Text<Prefix>,
    #[serde(default)]
    summary_only: bool,
    #[serde(default)]
    communities: Vec<Text<Community>>,
    #[serde(default)]
    large_communities: Vec<Text<LargeCommunity>>,
    #[serde(default)]
    local_pref: Option<Text<u32>>,
    #[serde(default)]
    med: Option<Text<u32>>,
}

impl AggregateItem {
    pub(super) fn into_aggregate(self) -> Aggregate {
        match self {
            Self::Scalar(prefix) => Aggregate::new(prefix),
            Self::Section(section) => Aggregate {
                prefix: section.prefix.0,
                summary_only: section.summary_only,
                communities: plain(section.communities),
                large_communities: plain(section.large_communities),
                local_pref: section.local_pref.map(|value| LocalPref(value.0)),
                med: section.med.map(|value| Med(value.0)),
            },
        }
    }
}

pub(super) type ListenItem = ScalarOr<ListenAddress, ListenSection>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ListenSection {
    address: Text<ListenAddress>,
    #[serde(default)]
    device: Option<String>,
    #[serde(default)]
    netns: Option<PathBuf>,
}

impl ListenItem {
    pub(super) fn into_listen(self) -> Listen {
        match self {
            Self::Scalar(address) => address.0.into(),
            Self::Section(section) => Listen {
                address: section.address.0.0,
                binding: binding(section.device, section.netns),
            },
        }
    }
}

pub(super) fn binding(device: Option<String>, netns: Option<PathBuf>) -> Binding {
    Binding {
        netns: netns.map(Arc::from),
        device: device.map(Arc::from),
    }
}

pub(super) type OriginateItem = ScalarOr<Prefix, OriginateSection>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OriginateSection {
    prefix: Text<Prefix>,
    #[serde(default)]
    next_hop: Option<Text<IpAddr>>,
    #[serde(default)]
    communities: Vec<Text<Community>>,
    #[serde(default)]
    large_communities: Vec<Text<LargeCommunity>>,
    #[serde(default)]
    local_pref: Option<Text<u32>>,
    #[serde(default)]
    med: Option<Text<u32>>,
}

impl OriginateItem {
    pub(super) fn into_originate(self) -> Originate {
        match self {
            Self::Scalar(prefix) => Originate::new(prefix),
            Self::Section(section) => Originate {
                prefix: section.prefix.0,
                next_hop: section.next_hop.map(|hop| hop.0),
                communities: plain(section.communities),
                large_communities: plain(section.large_communities),
                local_pref: section.local_pref.map(|value| LocalPref(value.0)),
                med: section.med.map(|value| Med(value.0)),
            },
        }
    }
}
