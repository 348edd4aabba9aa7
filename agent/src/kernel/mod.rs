//! The kernel's tables.
