//! Address families.
