//! Heartbeats and readiness.
