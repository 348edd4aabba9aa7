//! Flags, environment and FelixConfiguration.
