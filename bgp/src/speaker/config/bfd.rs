//! How the path to a peer is watched, and what of that cannot be run.

use std::time::Duration;

use thiserror::Error;

use super::Remote;

/// How the path to a peer is watched (RFC 5880, RFC 5882).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bfd {
    /// How often we would send (`bfd.DesiredMinTxInterval`); the peer may ask for less.
    pub min_tx: Duration,
    /// How often we can receive (`bfd.RequiredMinRxInterval`).
    pub min_rx: Duration,
    /// After how many packets of ours that did not come the peer takes us for gone (`bfd.DetectMult`).
    pub multiplier: u8,
    /// The peer is at most so many hops away (RFC 5883); directly connected where absent (RFC 5881). Its packets are held to that
    /// by the TTL they come with, as if sent with 255. RFC 5883 asks nobody for that, and BIRD sends with 64: such a peer is
    /// [`Self::ANY_HOPS`] away.
    pub multihop: Option<u8>,
    /// No BGP session is begun before the path is known to be up. The peer's BFD must then run before BGP does.
    pub strict: bool,
}

impl Bfd {
    /// As many hops as any TTL allows.
    pub const ANY_HOPS: u8 = u8::MAX;

    /// The shortest and the longest interval that is taken: below, no kernel keeps time; above, BGP's own timers are as good.
    pub const INTERVALS: std::ops::RangeInclusive<Duration> =
        Duration::from_millis(10)..=Duration::from_secs(60);

    /// Checks the fields, also against whom they are for.
    ///
    /// # Errors
    /// The first one that is wrong.
    pub fn validate(&self, remote: &Remote) -> Result<(), BfdError> {
        if !Self::INTERVALS.contains(&self.min_tx) {
            Err(BfdError::Interval("minTx", self.min_tx))
        } else if !Self::INTERVALS.contains(&self.min_rx) {
            Err(BfdError::Interval("minRx", self.min_rx))
        } else if self.multiplier == 0 {
            Err(BfdError::Multiplier)
        } else if self.multihop == Some(0) {
            Err(BfdError::Multihop)
        } else if self.strict && remote.is_range() {
            Err(BfdError::StrictRange)
        } else {
            Ok(())
        }
    }
}

impl Default for Bfd {
    /// What FRR does by default, and most who copied it: three packets at 300 ms.
    fn default() -> Self {
        Self {
            min_tx: Duration::from_millis(300),
            min_rx: Duration::from_millis(300),
            multiplier: 3,
            multihop: None,
            strict: false,
        }
    }
}

/// Why BFD cannot be run as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BfdError {
    /// An interval is out of bounds.
    #[error("expected {0} from 10 ms to 60 s, found {1:?}")]
    Interval(&'static str, Duration),
    /// Zero packets are always missing.
    #[error("expected multiplier from 1 to 255, found 0")]
    Multiplier,
    /// Nobody is no hops away.
    #[error(
        "expected multihop to be the number of hops to the peer, from 1, or true for any number, found 0"
    )]
    Multihop,
    /// The neighbours of a range are known by their calls only.
    #[error(
        "expected strict only beside an address: who may call from a range is not known before"
    )]
    StrictRange,
    /// Packets would leave by another path than the session's: the sockets of BFD are in the process's own namespace and
    /// bound to no device.
    #[error(
        "expected no bfd beside netns or device: it watches only paths of the agent's own namespace without a device"
    )]
    Binding,
}

impl BfdError {
    /// The field it is in, as the YAML file names it.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Interval("minTx", _) => "bfd.minTx",
            Self::Interval(..) => "bfd.minRx",
            Self::Multiplier => "bfd.multiplier",
            Self::Multihop => "bfd.multihop",
            Self::StrictRange => "bfd.strict",
            Self::Binding => "bfd",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Binding;
    use super::super::tests::validated;
    use super::*;

    #[test]
    fn bfd_is_refused_where_it_would_watch_another_path_than_the_sessions() {
        let with = |binding: Binding| {
            validated(|peer| {
                peer.bfd = Some(Bfd::default());
                peer.binding = binding;
            })
        };
        assert_eq!(with(Binding::default()), Ok(()));
        for binding in [
            Binding {
                netns: Some(Arc::from(std::path::Path::new("/run/netns/x"))),
                ..Binding::default()
            },
            Binding {
                device: Some("vrf-red".into()),
                ..Binding::default()
            },
        ] {
            let error = with(binding).expect_err("refused");
            assert_eq!(error.place(), (Some("tor"), "bfd"));
        }
    }
}
