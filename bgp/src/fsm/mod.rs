//! The session of one neighbour (RFC 4271 §8).
