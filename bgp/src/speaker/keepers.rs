//! Who was here and left, for as long as it may keep routes of ours.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::config::{Binding, PeerConfig};
use super::configure::scope_of;

/// Neighbours that are remembered once they left.
const KEEPERS_MAX: usize = 4096;

/// The longest time a long-lived capability can ask for: 24 bits of seconds.
const LONGEST_KEPT: Duration = Duration::from_secs(0x00ff_ffff);

/// Neighbours that had a session and are gone, for as long as they may keep routes of ours: to one that comes back, under whatever
/// name, the F bits are due as to any neighbour after its first session (RFC 4724 §3).
#[derive(Debug, Default)]
pub(super) struct Keepers(BTreeMap<Keeper, Instant>);

/// Who it was, and the address of ours it knows: what is kept is kept by session.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Keeper {
    address: IpAddr,
    scope: u32,
    binding: Binding,
    own: IpAddr,
}

impl Keepers {
    /// One whose session was between these is gone.
    pub(super) fn note(
        &mut self,
        remote: SocketAddr,
        own: IpAddr,
        config: &PeerConfig,
        now: Instant,
    ) {
        let Some(restart) = config.graceful_restart else {
            // It was not asked to keep anything.
            return;
        };
        let long_lived = config
            .long_lived
            .map_or(Duration::ZERO, |kept| kept.stale_time);
        let time = Duration::from_secs(restart.offered_time().into()).max(long_lived);
        let keeper = Keeper {
            address: remote.ip(),
            scope: scope_of(&remote),
            binding: config.binding.clone(),
            own,
        };
        // It was here before, and takes nobody's place.
        self.0.remove(&keeper);
        if self.0.len() >= KEEPERS_MAX {
            self.0.retain(|_, until| *until > now);
        }
        if self.0.len() >= KEEPERS_MAX
            && let Some((first, _)) = self.0.iter().min_by_key(|(_, until)| **until)
        {
            let first = Keeper {
                binding: first.binding.clone(),
                ..*first
            };
            self.0.remove(&first);
        }
        let until = now + time.min(LONGEST_KEPT);
        self.0.insert(keeper, until);
    }

    /// Whether the one at this address was here; at whichever address of ours where none is given. It may come and go without
    /// a session until the time is over.
    pub(super) fn was_here(
        &self,
        remote: SocketAddr,
        own: Option<IpAddr>,
        binding: &Binding,
        now: Instant,
    ) -> bool {
        let first = Keeper {
            address: remote.ip(),
            scope: scope_of(&remote),
            binding: binding.clone(),
            own: own.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        };
        let is_it = |keeper: &Keeper| {
            (keeper.address, keeper.scope) == (first.address, first.scope)
                && keeper.binding == first.binding
                && own.is_none_or(|own| own == keeper.own)
        };
        self.0
            .range(&first..)
            .take_while(|(keeper, _)| is_it(keeper))
            .any(|(_, until)| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::asn::Asn;
    use crate::policy::Policy;
    use crate::speaker::config::Remote;

    fn range() -> PeerConfig {
        let remote = Remote::Range("10.0.0.0/8".parse().expect("a prefix"));
        let accept = Arc::new(Policy::accept_all());
        PeerConfig::new("range", remote, Asn(64513), accept.clone(), accept)
    }

    fn numbered(number: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        SocketAddr::from(([10, 0, high, low], 40_000))
    }

    const OWN: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    ];

    #[test]
    fn neighbours_that_left_are_remembered_up_to_a_number_and_the_longest_ago_goes_first() {
        let (config, now) = (range(), Instant::now());
        let mut keepers = Keepers::default();
        let second = Duration::from_secs(1);
        let most = u16::try_from(KEEPERS_MAX).unwrap();
        for number in 0..=most {
            let at = if number == 7 { now } else { now + second };
            keepers.note(numbered(number), OWN[0], &config, at);
        }
        assert_eq!(keepers.0.len(), KEEPERS_MAX);
        let was_here = |keepers: &Keepers, number, at| {
            keepers.was_here(numbered(number), Some(OWN[0]), &config.binding, at)
        };
        assert!(!was_here(&keepers, 7, now + second));
        assert!(was_here(&keepers, 8, now + second));
        assert!(
            was_here(&keepers, 8, now + second),
            "it had no session since"
        );
        assert!(!was_here(&keepers, 8, now + 400 * second));
        keepers.note(numbered(8), OWN[0], &config, now + second);
        assert_eq!(keepers.0.len(), KEEPERS_MAX);
        // Those whose time is over make room for all at once.
        keepers.note(numbered(most + 1), OWN[0], &config, now + 500 * second);
        assert_eq!(keepers.0.len(), 1);
    }

    #[test]
    fn who_was_here_is_known_by_its_address_and_by_ours_where_that_is_given() {
        let (config, now) = (range(), Instant::now());
        let mut keepers = Keepers::default();
        keepers.note(numbered(1), OWN[1], &config, now);
        let was_here = |number, own, binding| keepers.was_here(numbered(number), own, binding, now);
        let binding = &config.binding;
        assert!(was_here(1, Some(OWN[1]), binding));
        assert!(was_here(1, None, binding));
        assert!(!was_here(1, Some(OWN[0]), binding));
        assert!(!was_here(0, None, binding));
        assert!(!was_here(2, None, binding));
        let elsewhere = Binding {
            device: Some(Arc::from("red")),
            netns: None,
        };
        assert!(!was_here(1, None, &elsewhere));
    }

    #[test]
    fn who_was_not_asked_to_keep_anything_is_not_remembered() {
        let mut config = range();
        config.graceful_restart = None;
        let mut keepers = Keepers::default();
        keepers.note(numbered(1), OWN[0], &config, Instant::now());
        assert!(keepers.0.is_empty());
    }
}
