//! Labs of network namespaces on one machine.
