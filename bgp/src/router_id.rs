//! BGP Identifiers.
