//! Aggregates (RFC 4271 §9.2.2.2): routes of our own that exist while something more specific does.
//!
//! A prefix contributes while it has a best path, whoever that is from. What is kept of a contributor is its ORIGIN, because
//! an aggregate's is the worst of theirs; its AS_PATH is empty, with ATOMIC_AGGREGATE to say that something was left out
//! (RFC 9774 §4 takes AS_SET away). With `summary_only` nothing inside the aggregate is told. That needs no look at whether
//! the aggregate exists: it does as soon as there is anything to suppress.

use std::collections::HashMap;
use std::sync::Arc;

use super::table::NetId;
use crate::codec::{Aggregator, Communities, LargeCommunities, Origin, PathAttributes};
use crate::prefix::Prefix;
use crate::speaker::config::Aggregate;

/// The aggregates of one family.
#[derive(Debug, Default)]
pub(crate) struct Aggregates {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    config: Aggregate,
    aggregator: Aggregator,
    contributors: HashMap<NetId, Origin>,
    /// How many of them have each ORIGIN, from IGP to INCOMPLETE.
    origins: [usize; 3],
    /// What the table has of it.
    announced: Option<Origin>,
}

/// What becomes of an aggregate's route.
#[derive(Debug)]
pub(crate) enum Step {
    Announce(Prefix, Arc<PathAttributes>),
    Withdraw(Prefix),
}

impl Aggregates {
    /// Whether there are none at all: then nothing has to be looked at.
    pub(crate) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether `prefix` is kept back because an aggregate stands for it.
    pub(crate) fn suppresses(&self, prefix: Prefix) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.config.summary_only && entry.holds(prefix))
    }

    /// Exchanges all of them, if they differ. Contributors are to be [noted](Self::note) anew.
    pub(crate) fn configure(
        &mut self,
        wanted: impl Iterator<Item = Aggregate>,
        aggregator: Aggregator,
    ) -> Option<Reconfigured> {
        let wanted: Vec<Aggregate> = wanted.collect();
        let same =
            self.entries.len() == wanted.len()
                && self.entries.iter().zip(&wanted).all(|(entry, config)| {
                    entry.config == *config && entry.aggregator == aggregator
                });
        if same {
            return None;
        }
        let suppressing = |entries: &[Entry]| -> Vec<Prefix> {
            entries
                .iter()
                .filter(|entry| entry.config.summary_only)
                .map(|entry| entry.config.prefix)
                .collect()
        };
        let before = suppressing(&self.entries);
        let old = std::mem::take(&mut self.entries);
        self.entries = wanted
            .into_iter()
            .map(|config| Entry {
                config,
                aggregator,
                contributors: HashMap::new(),
                origins: [0; 3],
                announced: None,
            })
            .collect();
        Some(Reconfigured {
            announced: old
                .into_iter()
                .filter(|entry| entry.announced.is_some())
                .map(|entry| entry.config.prefix)
                .collect(),
            suppression_changed: before != suppressing(&self.entries),
        })
    }

    /// Whether the table is to have a route of this prefix.
    pub(crate) fn wants(&self, prefix: Prefix) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.config.prefix == prefix && entry.origin().is_some())
    }

    /// Notes the best path's ORIGIN of a prefix, nothing where it has none.
    pub(crate) fn note(&mut self, net: NetId, prefix: Prefix, best: Option<Origin>) {
        for entry in &mut self.entries {
            if !entry.holds(prefix) {
                continue;
            }
            let before = match best {
                Some(origin) => entry.contributors.insert(net, origin),
                None => entry.contributors.remove(&net),
            };
            entry.count(before, |count| count.saturating_sub(1));
            entry.count(best, |count| count + 1);
        }
    }

    /// The next aggregate whose route is not what its contributors ask for.
    pub(crate) fn next_step(&mut self) -> Option<Step> {
        self.entries.iter_mut().find_map(|entry| {
            let wanted = entry.origin();
            if wanted == entry.announced {
                return None;
            }
            entry.announced = wanted;
            Some(match wanted {
                Some(origin) => {
                    Step::Announce(entry.config.prefix, Arc::new(entry.attributes(origin)))
                }
                None => Step::Withdraw(entry.config.prefix),
            })
        })
    }
}

/// What another configuration of aggregates leaves behind.
#[derive(Debug)]
pub(crate) struct Reconfigured {
    /// What the table has routes of; those nobody [wants](Aggregates::wants) any more go.
    pub(crate) announced: Vec<Prefix>,
    /// Other prefixes are kept back than before.
    pub(crate) suppression_changed: bool,
}

impl Entry {
    fn holds(&self, prefix: Prefix) -> bool {
        prefix.len() > self.config.prefix.len() && self.config.prefix.contains(prefix)
    }

    fn count(&mut self, origin: Option<Origin>, count: fn(usize) -> usize) {
        if let Some(place) = origin.and_then(|origin| self.origins.get_mut(origin as usize)) {
            *place = count(*place);
        }
    }

    fn origin(&self) -> Option<Origin> {
        [Origin::Incomplete, Origin::Egp, Origin::Igp]
            .into_iter()
            .find(|origin| {
                self.origins
                    .get(*origin as usize)
                    .is_some_and(|count| *count > 0)
            })
    }

    fn attributes(&self, origin: Origin) -> PathAttributes {
        let config = &self.config;
        PathAttributes {
            origin,
            med: config.med,
            local_pref: config.local_pref,
            atomic_aggregate: true,
            aggregator: Some(self.aggregator),
            communities: config.communities.iter().copied().collect::<Communities>(),
            large_communities: config
                .large_communities
                .iter()
                .copied()
                .collect::<LargeCommunities>(),
            ..PathAttributes::default()
        }
    }
}
