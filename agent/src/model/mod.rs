//! The cluster in plain types.
