//! Where the cluster's objects live.
