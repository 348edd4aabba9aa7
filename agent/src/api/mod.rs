//! Calico's objects as types.
