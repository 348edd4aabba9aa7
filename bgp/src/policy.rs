//! Import and export filters.
