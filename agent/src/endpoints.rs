//! The pods of this node, on disk.
