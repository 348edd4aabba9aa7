//! The CNI plugin of margay, and what it shares with the daemon.
//!
//! A call goes `main` → [`verbs`] → [`daemon`] (which address, which name?) → [`plumb`] (the veth pair, in the pod's
//! [`netns`] and the host's, over [`netlink`]) → [`daemon`] again (is the route in place?) → a result of [`spec`]'s.
//! The plugin decides nothing and keeps nothing: no credentials, no configuration but the network's, and of state only
//! the tombstone that a DEL leaves when the daemon is away. The daemon uses [`protocol`], [`spec`] and [`daemon`]'s
//! tombstones; it never plumbs.

pub mod daemon;
pub mod netlink;
pub mod netns;
pub mod plumb;
pub mod protocol;
pub mod spec;
pub mod verbs;
